//! A step costs 4 operations a frozen parameter and token, 6 an adapter's, and attention; no frozen
//! weight gets a gradient or a copy. The counters are of the whole process, so this file holds one
//! test.

#![allow(unsafe_code, reason = "a global allocator is unsafe by its trait")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use burn::tensor::Device;
use common::*;
use rankine::adapter::attach;
use rankine::data::TokenRow;
use rankine::model::{Decoder, Folder, Storage};
use rankine::ops::product_flops;
use rankine::quant::QuantFormat;
use rankine::terms::ModelDtype;
use rankine::train::{Gradients, Memory, StepConfig, forward_backward};

/// Counts how many allocations of at least `LARGE` bytes are alive at once.
struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(usize::MAX);
static ALIVE: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE.load(Ordering::Relaxed) {
            MOST.fetch_max(ALIVE.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() >= LARGE.load(Ordering::Relaxed) {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// So small that a row of all gradients is smaller than a frozen matrix.
const RANK: usize = 1;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_costs_4n_and_attention_and_copies_no_frozen_weight() {
    let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    let mut decoder = load(&base);
    let config = lora(RANK, 8.0);
    attach(&mut decoder, &config, 1, None).unwrap();
    let (count, length) = (2u64, 17u64);
    let row = TokenRow {
        ids: (0..length as u32).map(|id| id * 31 % 4096).collect(),
        trained: vec![true; length as usize],
    };
    let batch = batch(vec![row; count as usize]);
    let tokens = count * length;

    // All frozen matrices but k and v are at least this large, and no activation of this batch is:
    // gate and up lie side by side.
    let widest = 2 * decoder
        .projections()
        .map(|projection| projection.outputs())
        .max()
        .unwrap();
    let square = 192 * 192 * 4;
    assert!((tokens as usize) * widest * 4 < square);
    let step_of = |decoder: &Decoder, memory| {
        let (config, mut gradients) = (
            StepConfig {
                memory,
                head_chunk_rows: 8,
                dropout: 0.0,
            },
            Gradients::default(),
        );
        forward_backward(decoder, &batch, config, [0, 0], &mut gradients);
        let before = product_flops();
        ALIVE.store(0, Ordering::Relaxed);
        MOST.store(0, Ordering::Relaxed);
        LARGE.store(square, Ordering::Relaxed);
        forward_backward(decoder, &batch, config, [0, 0], &mut gradients);
        LARGE.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(
            gradients.all().len(),
            2 * decoder.adapters().count(),
            "a gradient for each A and B and for nothing else"
        );
        (
            product_flops() - before,
            (MOST.load(Ordering::Relaxed), ALIVE.load(Ordering::Relaxed)),
        )
    };

    let step = |memory| step_of(&decoder, memory);
    let frozen: u64 = decoder
        .projections()
        .map(|projection| (projection.inputs() * projection.outputs()) as u64)
        .sum();
    let adapters: u64 = decoder
        .adapters()
        .map(|(_, lora)| lora.parameters() as u64)
        .sum();
    let layer = &decoder.spec.layers[0].mixer;
    // Forward, scores and mixing: a tile is 64 rows, (place, head of the group) pairs, against the
    // keys up to the last of them. Backward, scores again and the gradients of weights, values,
    // keys and queries: a tile is 64 places, so here all pairs of places.
    let [heads, kv_heads, head_dim] = layer.heads();
    let group = heads / kv_heads;
    let rows: Vec<u64> = (0..length * group as u64)
        .map(|row| row / group as u64)
        .collect();
    let forward: u64 = rows
        .chunks(64)
        .map(|tile| tile.len() as u64 * (tile[tile.len() - 1] + 1))
        .sum();
    let backward = length * length * group as u64;
    let of_heads = (kv_heads * head_dim * decoder.spec.layers.len()) as u64;
    let attention = 2 * count * of_heads * (2 * forward + 5 * backward);
    // No row's first token is a target.
    let head = 4 * (tokens - count) * (decoder.spec.vocabulary * decoder.spec.width) as u64;
    // The input of the lowest block needs no gradient, so its q, k and v skip theirs.
    let lowest: u64 = decoder.blocks[0]
        .projections()
        .take(3)
        .map(|p| (p.inputs() * p.outputs()) as u64 + (p.inputs() * RANK) as u64)
        .sum();
    // Of the last block the rows without a target cost no o and no feed-forward.
    let last = decoder.blocks.last().unwrap().projections().skip(3);
    let unlabeled: u64 = count
        * last
            .map(|p| (4 * p.inputs() * p.outputs() + 6 * (p.inputs() + p.outputs()) * RANK) as u64)
            .sum::<u64>();
    let expected = tokens * (4 * frozen + 6 * adapters - 2 * lowest) - unlabeled + attention + head;
    step(Memory::KEEP); // The product's own scratch is allocated once a thread.
    let (flops, (most, left)) = step(Memory::KEEP);
    let ratio = flops as f64 / expected as f64;
    println!(
        "Keep: {flops} operations, expected {expected}, ratio {ratio:.4}; as large as a frozen \
        matrix: {most} at once, {left} left"
    );
    assert_eq!(flops, expected);
    // The product packs the matrix that it is working on into scratch and frees it; a copy or a
    // gradient would be a second one.
    assert!(most <= 1 && left == 0, "a frozen weight was copied");

    let (again, (most, left)) = step(Memory::RECOMPUTE);
    println!(
        "Recompute: {:.3} times the operations of Keep",
        again as f64 / flops as f64
    );
    assert!(again > flops && most <= 1 && left == 0);

    let storage = Storage {
        form: Some(QuantFormat::QLORA),
        ..ModelDtype::Auto.into()
    };
    let mut packed = Folder::open(&base)
        .unwrap()
        .load(storage, &Device::flex(), &|_| {})
        .unwrap();
    attach(&mut packed, &config, 1, None).unwrap();
    let unpacked = packed.projections().next().unwrap().weight.dense();
    assert!(unpacked.is_none(), "projections are packed");
    // One thread, whose scratch has room after the first step.
    let alone = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    alone.install(|| step_of(&packed, Memory::KEEP));
    for memory in [Memory::KEEP, Memory::RECOMPUTE] {
        let (of_packed, (most, left)) = alone.install(|| step_of(&packed, memory));
        println!(
            "packed, {memory:?}: {of_packed} operations; as large as an unpacked matrix: \
            {most} at once, {left} left"
        );
        assert_eq!(
            of_packed,
            if memory == Memory::KEEP { flops } else { again }
        );
        assert_eq!(
            (most, left),
            (0, 0),
            "a packed weight was unpacked as a whole"
        );
    }
}
