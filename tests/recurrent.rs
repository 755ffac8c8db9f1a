//! Families whose layers carry states: documents of any length in one row are as if each stood
//! alone, and time and memory are linear in the length of a document.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use common::*;
use rankine::adapter::attach;
use rankine::data::{Batch, TokenRow};
use rankine::model::Decoder;
use rankine::nn::attention::Span;
use rankine::ops::{
    RecurrenceForm, Score, SeenKeys, Update, attention, backward_from, recurrence, short_conv,
};
use rankine::train::{Gradients, Memory, StepConfig, forward_backward};

/// Counts the bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(
            HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(),
            Ordering::Relaxed,
        );
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECURRENT: [&str; 5] = ["qwen3_5", "qwen3_5_moe", "lfm2", "lfm3", "granite4_h"];
/// Shorter than a convolution, than a chunk, and longer.
const LENGTHS: [usize; 8] = [2, 70, 3, 1, 64, 130, 65, 9];
/// Of the largest gradient.
const GRADIENTS: f32 = 1e-4;

fn adapted(family: &str) -> Decoder {
    let mut decoder = load(&golden(&format!("archs/{family}/model")));
    attach(&mut decoder, &lora(4, 8.0), 7, None).unwrap();
    for lora in decoder.adapters_mut() {
        let [rank, outputs] = lora.b.dims();
        let values: Vec<f32> = (0..rank * outputs)
            .map(|index| 0.1 * ((index as f32) * 0.7).sin())
            .collect();
        lora.b = Tensor::from_data(TensorData::new(values, [rank, outputs]), &Device::flex());
    }
    decoder
}

fn rows(vocabulary: u32) -> Vec<TokenRow> {
    let row = |(index, length): (usize, &usize)| TokenRow {
        ids: (0..*length)
            .map(|place| (index * 131 + place * place * 7 + place * 37 + 11) as u32 % vocabulary)
            .collect(),
        trained: vec![true; *length],
    };
    LENGTHS.iter().enumerate().map(row).collect()
}

fn gradients(decoder: &Decoder, batches: &[Vec<usize>], config: StepConfig) -> Vec<f32> {
    let rows = rows(decoder.spec.vocabulary as u32);
    let mut gradients = Gradients::default();
    for places in batches {
        let rows = places
            .iter()
            .map(|place| (*place as u64, rows[*place].clone()));
        forward_backward(decoder, &Batch::new(rows), config, [42, 3], &mut gradients);
    }
    let all = gradients.all();
    all.iter()
        .flat_map(|gradient| gradient.to_data().iter::<f32>().collect::<Vec<_>>())
        .collect()
}

#[test]
fn documents_in_one_row_are_as_if_each_stood_alone() {
    for family in RECURRENT {
        let decoder = adapted(family);
        let alone: Vec<Vec<usize>> = (0..LENGTHS.len()).map(|place| vec![place]).collect();
        let packed = [
            vec![(0..LENGTHS.len()).collect()],
            vec![vec![3, 0, 5, 2], vec![7, 1, 6, 4]],
        ];
        let config = |memory| StepConfig {
            memory,
            head_chunk_rows: 64,
            dropout: 0.1,
        };
        let expected = gradients(&decoder, &alone, config(Memory::KEEP));
        let scale = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (memory, batches) in [Memory::KEEP, Memory::RECOMPUTE].into_iter().zip(&packed) {
            let ours = gradients(&decoder, batches, config(memory));
            let apart = difference(&ours, &expected) / scale;
            println!("{family}, {memory:?}: {apart:.1e} apart");
            assert!(apart <= GRADIENTS, "{family}, {memory:?}: {apart}");
        }
    }
}

#[test]
fn recomputation_gives_the_same_bits() {
    for family in RECURRENT {
        let decoder = adapted(family);
        let batches = [(0..LENGTHS.len()).collect::<Vec<_>>()];
        let run = |memory| {
            let config = StepConfig {
                memory,
                head_chunk_rows: 64,
                dropout: 0.1,
            };
            gradients(&decoder, &batches, config)
        };
        assert!(run(Memory::KEEP) == run(Memory::RECOMPUTE), "{family}");
    }
}

/// A layer of a model of 800 million parameters, 1,024 wide.
const FORM: RecurrenceForm = RecurrenceForm {
    update: Update::Delta,
    key_heads: 16,
    value_heads: 16,
    key_dim: 128,
    value_dim: 128,
};
const TOKENS: usize = 8192;

fn drawn<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count)
        .map(|index| ((index % 65_521) as f32 * 0.37).sin())
        .collect();
    Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
}

/// Seconds and bytes of a forward and a backward, the least of several runs.
fn measured(mut run: impl FnMut()) -> (f64, usize) {
    run();
    let mut least = (f64::INFINITY, usize::MAX);
    for _ in 0..3 {
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let start = Instant::now();
        run();
        let seconds = start.elapsed().as_secs_f64();
        let bytes = MOST.load(Ordering::Relaxed) - before;
        least = (least.0.min(seconds), least.1.min(bytes));
    }
    least
}

/// The convolution and the recurrence of [`TOKENS`] tokens in documents of so many.
fn of_states(document: usize) -> (f64, usize) {
    let documents: Arc<[u32]> = vec![document as u32; TOKENS / document].into();
    let mixed = drawn([TOKENS, FORM.channels()]);
    let gates = drawn([TOKENS, FORM.gates()]);
    let vectors = drawn([FORM.vectors(), FORM.value_heads]);
    let kernel = drawn([FORM.channels(), 4]);
    let gradient = drawn([TOKENS, FORM.values()]);
    measured(|| {
        let leaf = mixed.clone().autodiff().require_grad();
        let bias = Tensor::zeros([FORM.channels()], &Device::flex());
        let mixed = short_conv(leaf.clone(), kernel.clone(), bias, &documents, true);
        let state = Tensor::zeros([FORM.value_heads, 128, 128], &Device::flex());
        let (y, _) = recurrence(
            mixed,
            gates.clone(),
            vectors.clone(),
            state,
            FORM,
            &documents,
        );
        let gradients = backward_from(y, gradient.clone());
        assert!(leaf.grad(&gradients).is_some());
    })
}

/// Attention of as many features as the values of the states, on a quarter of the key heads.
fn of_attention(document: usize) -> (f64, usize) {
    let seen: Arc<[SeenKeys]> = (0..TOKENS / document)
        .flat_map(|place| Span::Full.seen_keys(0..document, document, place * document))
        .collect();
    let [key, value] = [0; 2].map(|_| drawn([1, TOKENS, 4, 128]));
    let query = drawn([1, TOKENS, 16, 128]);
    let gradient = drawn([1, TOKENS, 16, 128]);
    measured(|| {
        let [query, key, value] = [&query, &key, &value].map(|leaf| {
            let leaf: Tensor<4> = leaf.clone();
            leaf.autodiff().require_grad()
        });
        let score = Score {
            scale: 0.088,
            softcap: None,
        };
        let y = attention(query.clone(), key, value, &seen, score);
        let gradients = backward_from(y, gradient.clone());
        assert!(query.grad(&gradients).is_some());
    })
}

/// `cargo test --release --test recurrent -- --ignored --nocapture linear`
#[test]
#[ignore = "measures time: it wants the machine for itself"]
fn time_and_memory_are_linear_in_the_length_of_a_document() {
    let of: Vec<(f64, usize)> = [512, 1024, 2048, 4096, 8192]
        .into_iter()
        .map(|document| {
            let (seconds, bytes) = of_states(document);
            println!(
                "documents of {document}: {:.2} µs a token, {} bytes a token",
                1e6 * seconds / TOKENS as f64,
                bytes / TOKENS
            );
            (seconds, bytes)
        })
        .collect();
    let (attends, _) = of_attention(2048);
    println!(
        "attention of the same width, documents of 2048: {:.2} µs a token",
        1e6 * attends / TOKENS as f64
    );
    for (seconds, bytes) in &of[1..] {
        assert!(
            (*bytes as f64 / of[0].1 as f64 - 1.0).abs() <= 0.1,
            "{of:?}"
        );
        assert!(seconds / of[0].0 <= 1.15, "{of:?}");
    }
}
