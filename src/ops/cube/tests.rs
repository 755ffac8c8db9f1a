//! Helpers for tests of the kernels: a device, if there is one, and numbers.

use std::sync::{Arc, OnceLock};

use burn::backend::Cube;
use burn::tensor::{Device, DeviceType, FloatDType, Tensor, TensorData};

use super::padding;
use crate::keyed_random::{mix, unit};
use crate::ops::{
    Activation, Score, SeenKeys, attention, backward_from, cross_entropy, gated, matmul, precision,
    rms_norm, rms_norm_input, rope,
};

/// Returns a wgpu device, where the machine has an adapter.
pub(crate) fn device() -> Option<Device> {
    static FOUND: OnceLock<Option<Device>> = OnceLock::new();
    let found = FOUND.get_or_init(|| Device::enumerate(DeviceType::Wgpu).into_iter().next());
    if found.is_none() {
        eprintln!("skipped: no wgpu adapter");
    }
    found.clone()
}

/// Returns numbers between -range and range.
pub(super) fn drawn(seed: u64, count: usize, range: f64) -> Vec<f32> {
    (0..count as u64)
        .map(|index| (range * (2.0 * unit(mix(seed ^ mix(index))) - 1.0)) as f32)
        .collect()
}

pub(super) fn tensor<const D: usize>(
    numbers: &[f32],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let tensor = Tensor::from_data(TensorData::new(numbers.to_vec(), shape), device);
    if !padding::is_on() {
        return tensor;
    }
    Tensor::from_primitive::<Cube>(padding::moved(
        tensor.try_into_primitive::<Cube>().expect("a GPU's"),
    ))
}

/// Returns the largest difference of two tensors, relative to the exact number or to 1, whichever
/// is larger.
pub(super) fn worst<const D: usize>(ours: Tensor<D>, exact: Tensor<D>) -> f64 {
    let [ours, exact] =
        [ours, exact].map(|tensor| tensor.into_data().try_to_vec::<f32>().expect("f32"));
    assert_eq!(ours.len(), exact.len());
    let differences = ours
        .iter()
        .zip(&exact)
        .map(|(ours, exact)| f64::from(ours - exact).abs() / f64::from(exact.abs().max(1.0)));
    differences.fold(
        0.0,
        |most, number| if number <= most { most } else { number },
    )
}

/// Returns the results of the operations that have a kernel for numbers of any width, all in f32.
fn results(numbers: &[Vec<f32>; 4], dtype: FloatDType, device: &Device) -> Vec<Tensor<1>> {
    let [a, b, c, weight] = numbers;
    let of = |numbers: &[f32]| tensor(numbers, [2, 12, 4, 16], device).cast(dtype);
    let (x, y, z, weight) = (
        of(a),
        of(b),
        of(c),
        tensor(weight, [16], device).cast(dtype),
    );
    let (logits, targets) = (
        y.clone().reshape([12, 128]),
        (0..12).collect::<Vec<u32>>().into(),
    );
    let leaves = [&x, &y, &z].map(|leaf| leaf.clone().autodiff().require_grad());
    let [query, key, value] = leaves.clone();
    let seen = (0..24).map(|query| SeenKeys {
        first: 0,
        end: query % 12 + 1,
    });
    let seen: Arc<[SeenKeys]> = seen.collect();
    let mixed = attention(
        query,
        key,
        value,
        &seen,
        Score {
            scale: 0.25,
            softcap: None,
        },
    );
    let gradients = backward_from(mixed.clone(), z.clone());
    let of_leaves = leaves.map(|leaf| leaf.grad(&gradients).expect("tracked"));
    let tables = [0.3f32, 0.7].map(|step| {
        tensor(
            &[1.0f32, 2.0, 3.0].map(|at| [at * step; 8]).concat(),
            [3, 8],
            device,
        )
    });
    let [cosines, sines] = tables;
    let turned = rope(
        x.clone(),
        cosines,
        sines,
        (0..12).map(|token| token % 3).collect(),
    );
    let of_norm = rms_norm_input(x.clone(), weight.clone(), y.clone(), 1e-5);
    let side_by_side = Tensor::cat(vec![x.clone(), y], 3).reshape([24, 128]);
    let of_unit = gated(side_by_side, Activation::Silu).reshape([2, 12, 4, 16]);
    let all = [
        of_unit,
        rms_norm(x, weight, 1e-5),
        of_norm,
        turned,
        mixed.inner(),
    ];
    let whole = all
        .into_iter()
        .chain(of_leaves)
        .map(|tensor| tensor.reshape([-1]));
    let of_logits = cross_entropy(logits, targets).1.reshape([-1]);
    whole
        .chain([of_logits])
        .map(|tensor| tensor.cast(FloatDType::F32))
        .collect()
}

/// Tests sizes that fill no tile, one that fills it, few rows, batches, and a right matrix whose
/// columns are contiguous.
#[test]
fn products_are_those_of_the_cpu_with_tensor_cores_and_without() {
    let Some(device) = device() else { return };
    for [batch, rows, depth, columns] in [
        [1, 1, 1, 1],
        [1, 3, 136, 70],
        [1, 64, 64, 64],
        [2, 33, 17, 129],
        [3, 70, 129, 5],
    ] {
        for is_transposed in [false, true] {
            let of = |device: &Device| {
                let lhs = tensor(
                    &drawn(1, batch * rows * depth, 1.0),
                    [batch, rows, depth],
                    device,
                );
                let numbers = drawn(2, batch * depth * columns, 1.0);
                let across = || tensor(&numbers, [batch, columns, depth], device).swap_dims(1, 2);
                let rhs = if is_transposed {
                    across()
                } else {
                    tensor(&numbers, [batch, depth, columns], device)
                };
                matmul(lhs, rhs)
            };
            let exact = of(&Device::flex());
            for is_exact in [false, true] {
                let distance = worst(precision::with(is_exact, || of(&device)), exact.clone());
                assert!(
                    distance < 2e-5,
                    "{batch} x {rows} x {depth} x {columns}, exact {is_exact}: {distance:e}"
                );
            }
        }
    }
}

/// Loss scaling notices an overflow by this.
#[test]
fn what_is_beyond_float16_is_infinite() {
    let Some(device) = device().filter(|device| device.supports_dtype(FloatDType::F16)) else {
        return;
    };
    let large = tensor(&[1e6, -1e6, 65504.0, 1.0], [4], &device)
        .cast(FloatDType::F16)
        .cast(FloatDType::F32)
        .into_data();
    assert_eq!(
        large.try_to_vec::<f32>().expect("f32"),
        [f32::INFINITY, f32::NEG_INFINITY, 65504.0, 1.0]
    );
}

#[test]
fn numbers_of_16_bits_are_computed_in_f32_where_the_device_has_them() {
    let Some(device) = device() else { return };
    // Results are rounded once; a weight's gradient goes through a result that was.
    for (dtype, bound) in [
        (FloatDType::F32, 1e-5),
        (FloatDType::F16, 4e-3),
        (FloatDType::BF16, 3e-2),
    ] {
        if !device.supports_dtype(dtype) {
            eprintln!("skipped: the adapter has no {dtype:?}");
            continue;
        }
        let rounded = [1, 2, 3, 4].map(|seed| {
            let count = if seed == 4 { 16 } else { 2 * 12 * 4 * 16 };
            let numbers = tensor(&drawn(seed, count, 1.0), [count], &Device::flex())
                .cast(dtype)
                .cast(FloatDType::F32);
            numbers.into_data().try_to_vec::<f32>().expect("f32")
        });
        let exact = results(&rounded, FloatDType::F32, &Device::flex());
        for (index, (ours, exact)) in results(&rounded, dtype, &device)
            .into_iter()
            .zip(exact)
            .enumerate()
        {
            let distance = worst(ours, exact);
            assert!(distance < bound, "{dtype:?}, result {index}: {distance:e}");
        }
    }
}
