//! Tests the kernels against the CPU's form, which is tested against the definition.

use std::sync::Arc;

use burn::backend::Cube;
use burn::tensor::{Device, FloatDType, Tensor};
use cubecl::MemoryScope;
use proptest::prelude::*;

use super::super::tests::{device, drawn, tensor, worst};
use crate::ops::{RecurrenceForm, Update, backward_from, recurrence};

const DELTA: Update = Update::Delta;
const SUM: Update = Update::Sum {
    least: 0.05,
    most: 2.5,
};

fn form(update: Update, [key_heads, group, key_dim, value_dim]: [usize; 4]) -> RecurrenceForm {
    RecurrenceForm {
        update,
        key_heads,
        value_heads: key_heads * group,
        key_dim,
        value_dim,
    }
}

/// Returns the output, the last states and the gradients of the operands, each flat and in f32, of
/// operands that are rounded to one type and given in another.
fn results(
    form: RecurrenceForm,
    documents: &Arc<[u32]>,
    [rounded, given]: [FloatDType; 2],
    device: &Device,
) -> [Tensor<1>; 5] {
    let tokens = documents.iter().sum::<u32>() as usize;
    let of = |seed, shape: [usize; 2], range| {
        tensor(&drawn(seed, shape.iter().product(), range), shape, device)
            .cast(rounded)
            .cast(given)
    };
    let [heads, keys, values] = [form.value_heads, form.key_dim, form.value_dim];
    let state = of(4, [heads * keys, values], 1.0)
        .reshape([heads, keys, values])
        .cast(FloatDType::F32);
    let leaves = [
        of(1, [tokens, form.channels()], 1.0),
        of(2, [tokens, form.gates()], 3.0),
        of(3, [form.vectors(), heads], 1.0),
    ]
    .map(|leaf| leaf.autodiff().require_grad());
    let [mixed, gates, vectors] = leaves.clone();
    let (output, last) = recurrence(mixed, gates, vectors, state.autodiff(), form, documents);
    let gradient = of(5, [tokens, form.values()], 1.0);
    let gradients = backward_from(output.clone(), gradient);
    let [of_mixed, of_gates, of_vectors] =
        leaves.map(|leaf| leaf.grad(&gradients).expect("tracked").reshape([-1]));
    [
        output.inner().reshape([-1]),
        last.inner().reshape([-1]),
        of_mixed,
        of_gates,
        of_vectors,
    ]
    .map(|tensor| tensor.cast(FloatDType::F32))
}

/// The largest differences from the CPU's output, states, and gradients of the operands. The last
/// two are sums of differences of larger numbers, by chunk as the CPU's.
const BOUNDS: [f64; 5] = [2e-5, 2e-5, 2e-5, 1e-4, 2e-4];

/// Checks that no result is further from the CPU's than its bound, relative to its largest number
/// or to 1.
fn check(form: RecurrenceForm, documents: &[u32], device: &Device) {
    let lengths = documents.into();
    let of = |device: &Device| results(form, &lengths, [FloatDType::F32; 2], device);
    let pairs = of(device).into_iter().zip(of(&Device::flex()));
    for ((index, (ours, exact)), bound) in pairs.enumerate().zip(BOUNDS) {
        let largest = exact.clone().abs().max().into_scalar::<f32>().max(1.0);
        let distance = worst(ours / largest, exact / largest);
        assert!(
            distance < bound,
            "{distance:e} in result {index}: {form:?} of {documents:?}"
        );
    }
}

/// Tests heads below and above a unit's rows and a cube's columns, heads that share a key, and
/// documents of one token, of a tile and of many.
#[test]
fn sizes_of_heads_and_lengths_around_a_tile() {
    let Some(device) = device() else { return };
    for update in [DELTA, SUM] {
        for sizes in [
            [1, 1, 1, 1],
            [2, 2, 6, 5],
            [1, 10, 20, 17],
            [2, 1, 16, 33],
            [1, 2, 68, 40],
        ] {
            for documents in [&[1][..], &[3, 1, 2], &[16, 17, 15], &[70, 1, 40]] {
                let form = form(update, sizes);
                check(form, documents, &device);
            }
        }
    }
}

#[test]
fn wide_heads() {
    let Some(device) = device() else { return };
    for update in [DELTA, SUM] {
        for sizes in [
            [1, 2, 128, 128],
            [1, 1, 256, 256],
            [1, 1, 300, 12],
            [1, 1, 9, 270],
        ] {
            let form = form(update, sizes);
            check(form, &[21, 34], &device);
        }
    }
}

/// Tests that the gradient of the decays, a sum from a chunk's end, stays exact over many chunks.
#[test]
fn a_long_document() {
    let Some(device) = device() else { return };
    for update in [DELTA, SUM] {
        let form = form(update, [1, 2, 16, 8]);
        check(form, &[64, 1500, 65], &device);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_sizes_and_documents(
        documents in prop::collection::vec(prop_oneof![1u32..6, 1u32..70], 1..6),
        (key_heads, group) in (1usize..4, 1usize..4),
        (keys, values) in (1usize..40, 1usize..40),
        erases: bool,
    ) {
        let Some(device) = device() else { return Ok(()) };
        let form = form(if erases { DELTA } else { SUM }, [key_heads, group, keys, values]);
        check(form, &documents, &device);
    }
}

#[test]
fn numbers_of_16_bits_are_computed_in_f32_where_the_device_has_them() {
    let Some(device) = device() else { return };
    for (dtype, bound) in [(FloatDType::F16, 4e-3), (FloatDType::BF16, 3e-2)] {
        if !device.supports_dtype(dtype) {
            eprintln!("skipped: the adapter has no {dtype:?}");
            continue;
        }
        for update in [DELTA, SUM] {
            let form = form(update, [2, 2, 6, 5]);
            let of =
                |given, device: &Device| results(form, &[20, 7].into(), [dtype, given], device);
            let exact = of(FloatDType::F32, &Device::flex());
            for (index, (ours, exact)) in of(dtype, &device).into_iter().zip(exact).enumerate() {
                let largest = exact.clone().abs().max().into_scalar::<f32>().max(1.0);
                let distance = worst(ours / largest, exact / largest);
                assert!(distance < bound, "{dtype:?}, result {index}: {distance:e}");
            }
        }
    }
}

#[test]
fn a_document_goes_on_from_the_state_after_its_beginning() {
    let Some(device) = device() else { return };
    for update in [DELTA, SUM] {
        let form = form(update, [2, 2, 6, 5]);
        let of = |seed, shape: [usize; 2]| {
            tensor(&drawn(seed, shape.iter().product(), 1.0), shape, &device)
        };
        let (mixed, gates) = (of(1, [90, form.channels()]), of(2, [90, form.gates()]));
        let vectors = of(3, [form.vectors(), form.value_heads]);
        let state = of(4, [form.value_heads * 6, 5]).reshape([form.value_heads, 6, 5]);
        let run = |start: usize, length: usize, state: Tensor<3>| {
            let [mixed, gates] = [&mixed, &gates].map(|of| of.clone().narrow(0, start, length));
            let documents = [length as u32].into();
            recurrence(mixed, gates, vectors.clone(), state, form, &documents)
        };
        let (expected, last) = run(0, 90, state.clone());
        let (first, state) = run(0, 23, state);
        let (second, state) = run(23, 67, state);
        assert!(worst(Tensor::cat(vec![first, second], 0), expected) == 0.0);
        assert!(worst(state, last) == 0.0);
    }
}

fn bits(tensors: [Tensor<1>; 5]) -> [Vec<u32>; 5] {
    tensors.map(|tensor| tensor.into_data().iter::<f32>().map(f32::to_bits).collect())
}

#[test]
fn a_run_repeats_bit_for_bit() {
    let Some(device) = device() else { return };
    for update in [DELTA, SUM] {
        let of = || {
            let form = form(update, [2, 3, 20, 17]);
            bits(results(
                form,
                &[90, 3, 40].into(),
                [FloatDType::F32; 2],
                &device,
            ))
        };
        assert_eq!(of(), of());
    }
}

/// Returns the largest allocation and the sum of all, while the results of forward and backward are
/// all held. A thread has a stream of its own, and a stream its own memory.
fn bytes_of(tokens: u32, device: &Device) -> [u64; 2] {
    let device = device.clone();
    let measured = std::thread::spawn(move || {
        let form = form(DELTA, [1, 2, 32, 32]);
        let held = results(form, &[tokens].into(), [FloatDType::F32; 2], &device);
        let client = held[0]
            .clone()
            .try_into_primitive::<Cube>()
            .expect("of a kernel")
            .client;
        let report = client.memory_report(MemoryScope::CurrentStream);
        let pools = report
            .streams
            .iter()
            .flat_map(|stream| &stream.pools.dynamic);
        [
            pools.map(|pool| pool.largest_alloc).max().unwrap_or(0),
            report.usage().bytes_in_use,
        ]
    });
    measured.join().expect("the recurrence is computed")
}

#[test]
fn memory_grows_with_the_tokens_and_not_with_their_states() {
    let Some(device) = device() else { return };
    let [short, long] = [768, 1536].map(|tokens| bytes_of(tokens, &device));
    for (short, long) in short.into_iter().zip(long) {
        assert!(
            short > 0 && long as f64 <= 2.05 * short as f64,
            "{short} bytes, {long} of twice the tokens"
        );
    }
}
