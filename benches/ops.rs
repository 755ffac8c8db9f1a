//! The loops of a training step, one by one, at the widths of a model of 135 million parameters
//! (SmolLM2: 576 wide, 9 heads of 64 on 3 key heads, 49,152 tokens) and 256 tokens: forward, and
//! forward with backward where there is one.
//!
//!     cargo bench --bench ops
//!     cargo bench --bench ops -- attention

use std::hint::black_box;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use rankine::keyed_random::{mix, unit};
use rankine::nn::attention::Span;
use rankine::nn::head::{Head, HeadPass};
use rankine::nn::lora::{Lora, Portion};
use rankine::nn::norm::Norm;
use rankine::nn::projection::Projection;
use rankine::nn::table::EmbeddingTable;
use rankine::ops::{Activation, Score, SeenKeys, attention as attend, gated, matmul};
use rankine::terms::Slopes;

const TOKENS: usize = 256;
const WIDTH: usize = 576;
const INNER: usize = 1536;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_WIDTH: usize = 64;
const VOCABULARY: usize = 49_152;
const RANK: usize = 16;

fn device() -> Device {
    Device::flex()
}

/// Numbers in ±1/16 that follow from the shape.
fn drawn<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count = shape.iter().product::<usize>();
    let numbers: Vec<f32> = (0..count as u64)
        .map(|index| (unit(mix(index)) as f32 - 0.5) / 8.0)
        .collect();
    Tensor::from_data(TensorData::new(numbers, shape), &device())
}

/// Waits for a result: a tensor may be a promise.
fn computed<const D: usize>(tensor: Tensor<D>) {
    black_box(tensor.into_data());
}

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    elements: usize,
) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .throughput(Throughput::Elements(elements as u64))
        .sample_size(20);
    group
}

/// Forward on plain tensors, and forward and backward down to the input.
fn forward_and_backward<const D: usize>(
    group: &mut BenchmarkGroup<WallTime>,
    x: Tensor<D>,
    forward: impl Fn(Tensor<D>) -> Tensor<D>,
) {
    group.bench_function("forward", |bencher| {
        bencher.iter(|| computed(forward(x.clone())));
    });
    group.bench_function("forward and backward", |bencher| {
        bencher.iter(|| {
            let leaf = x.clone().autodiff().require_grad();
            let gradients = forward(leaf.clone()).sum().backward();
            computed(leaf.grad(&gradients).expect("tracked"));
        });
    });
}

/// Floating-point operations of a product a second.
fn product(criterion: &mut Criterion) {
    for (name, [rows, inner, columns]) in [
        ("product/projection", [TOKENS, WIDTH, INNER]),
        ("product/adapter", [TOKENS, WIDTH, RANK]),
        ("product/head", [TOKENS, WIDTH, VOCABULARY]),
    ] {
        let mut group = group(criterion, name, 2 * rows * inner * columns);
        let (left, right) = (drawn([rows, inner]), drawn([inner, columns]));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| computed(matmul(left.clone(), right.clone())));
        });
        group.finish();
    }
}

/// Tokens a second.
fn attention(criterion: &mut Criterion) {
    for tokens in [TOKENS, 4 * TOKENS] {
        let mut group = group(criterion, &format!("attention/{tokens}"), tokens);
        let seen: Arc<[SeenKeys]> = Span::Full.seen_keys(0..tokens, tokens, 0).collect();
        let [key, value] = [0; 2].map(|_| drawn([1, tokens, KV_HEADS, HEAD_WIDTH]));
        let (query, score) = (
            drawn([1, tokens, HEADS, HEAD_WIDTH]),
            Score {
                scale: 0.125,
                softcap: None,
            },
        );
        forward_and_backward(&mut group, query, |query| {
            attend(query, key.clone(), value.clone(), &seen, score)
        });
        group.finish();
    }
}

/// Numbers a second.
fn pointwise(criterion: &mut Criterion) {
    let norm = Norm {
        weight: drawn([WIDTH]),
        bias: None,
        centers: false,
        is_fixed: false,
        epsilon: 1e-5,
        offset: 0.0,
        trains: false,
    };
    let mut of_norm = group(criterion, "norm", TOKENS * WIDTH);
    forward_and_backward(&mut of_norm, drawn([1, TOKENS, WIDTH]), |x| norm.forward(x));
    of_norm.finish();
    let mut of_unit = group(criterion, "swiglu", TOKENS * INNER);
    forward_and_backward(&mut of_unit, drawn([TOKENS, 2 * INNER]), |gate_up| {
        gated(gate_up, Activation::Silu)
    });
    of_unit.finish();
}

/// Tokens a second of a square projection with an adapter.
fn projection(criterion: &mut Criterion) {
    let lora = Lora {
        a: drawn([WIDTH, RANK]),
        b: drawn([RANK, WIDTH]),
        scale: 2.0,
        portion: Portion::Whole,
        vector: None,
        initial: None,
    };
    let projection = Projection {
        name: "q_proj".to_owned(),
        weight: drawn([WIDTH, WIDTH]).into(),
        is_stored_so: false,
        bias: None,
        trains: false,
        lora: Some(lora),
    };
    let mut group = group(criterion, "projection", TOKENS);
    forward_and_backward(&mut group, drawn([1, TOKENS, WIDTH]), |x| {
        projection.forward(x, None)
    });
    group.finish();
}

/// Labeled rows a second: losses alone, and with the gradient of the input.
fn head(criterion: &mut Criterion) {
    let norm = Norm {
        weight: drawn([WIDTH]),
        bias: None,
        centers: false,
        is_fixed: false,
        epsilon: 1e-5,
        offset: 0.0,
        trains: false,
    };
    let head = Head {
        norm,
        table: EmbeddingTable::from(drawn([VOCABULARY, WIDTH])),
        bias: None,
        trains_bias: false,
        scale: 1.0,
        softcap: None,
    };
    let hidden = drawn([TOKENS, WIDTH]);
    let targets: Vec<i32> = (0..TOKENS as u64)
        .map(|row| (mix(row) % VOCABULARY as u64) as i32)
        .collect();
    let mut group = group(criterion, "head", TOKENS);
    group.sample_size(10);
    let pass = HeadPass {
        chunk_rows: rankine::train::head_chunk_rows(VOCABULARY),
        scale: 1.0,
        mask: None,
        smoothed_share: 0.0,
    };
    group.bench_function("losses", |bencher| {
        bencher.iter(|| black_box(head.read(&hidden, &targets, pass)));
    });
    group.bench_function("losses and gradient", |bencher| {
        bencher.iter(|| {
            let (readings, gradients) = head.backward(&hidden, &targets, &Slopes::Same(-1.0), pass);
            computed(gradients.input);
            black_box(readings)
        });
    });
    group.finish();
}

criterion_group!(benches, product, attention, pointwise, projection, head);
criterion_main!(benches);
