//! Tests of the kernels on allocations that continue behind a tensor's numbers, as those of CUDA
//! do, filled with NaN. The padding must not be used as a number, counted as a length or
//! overwritten, so that every result has the same bits as without it.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Device, FloatDType, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::tests::{device, drawn, tensor};
use crate::device::{self, DeviceClass, FoundDevice};
use crate::ops::{
    Activation, AdamWRule, AdamWState, Base, Mask, Packed, RecurrenceForm, Score, SeenKeys,
    Segment, Update, adamw, attention, backward_from, cross_entropy, cross_entropy_losses, dropout,
    gated, recurrence, rms_norm, rms_norm_gradients, rms_norm_input, rope, short_conv,
    sum_of_squares, times,
};
use crate::quant::{BlockFormat, BlockSize, FourBitType as Code, QuantFormat};

/// Bytes of padding: two rows of CUDA's padding, a whole number of vectors of every type.
const TAIL: usize = 1024;

thread_local! {
    /// Tensors that [`empty`] and [`upload`] gave to kernels of this thread while padding is on.
    static MADE: RefCell<Option<Vec<CubeTensor>>> = const { RefCell::new(None) };
}

/// Whether tensors of this thread get padded allocations.
pub(super) fn is_on() -> bool {
    MADE.with_borrow(Option::is_some)
}

/// Returns the result of an operation whose allocations are all padded, and checks that no padding
/// changed.
fn padded<T>(operation: impl FnOnce() -> T) -> T {
    MADE.set(Some(Vec::new()));
    let result = operation();
    for tensor in MADE.take().expect("it was on") {
        bytes(&tensor);
    }
    result
}

/// Makes an allocation of NaN in place of [`super::empty`]'s.
pub(super) fn empty(beside: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let bytes = vec![u8::MAX; shape.num_elements() * dtype.size()];
    upload(beside, shape, &bytes, dtype)
}

/// Moves numbers of the CPU to the device, with NaN behind them.
pub(super) fn upload(
    beside: &CubeTensor,
    shape: impl Into<Shape>,
    bytes: &[u8],
    dtype: DType,
) -> CubeTensor {
    let made = with_tail(beside, shape.into(), bytes, dtype);
    MADE.with_borrow_mut(|all| all.as_mut().expect("it is on").push(made.clone()));
    made
}

/// Returns a tensor with its numbers in another allocation, padded where padding is on. No other
/// handle holds it, so kernels may write in place.
pub(super) fn moved(tensor: CubeTensor) -> CubeTensor {
    if !is_on() {
        return tensor;
    }
    let tensor = into_contiguous(tensor);
    with_tail(&tensor, tensor.shape(), &bytes(&tensor), tensor.dtype)
}

fn with_tail(beside: &CubeTensor, shape: Shape, bytes: &[u8], dtype: DType) -> CubeTensor {
    let handle = beside
        .client
        .create_from_slice(&[bytes, &[u8::MAX; TAIL]].concat());
    CubeTensor::new_contiguous(
        beside.client.clone(),
        beside.device.clone(),
        shape,
        handle,
        dtype,
    )
}

/// Returns the numbers of a tensor as bytes, and checks that the padding, where it is ours, is
/// still NaN.
fn bytes(tensor: &CubeTensor) -> Vec<u8> {
    let numbers = tensor.shape().num_elements() * tensor.dtype.size();
    let read = tensor
        .client
        .read_one(tensor.handle.clone())
        .expect("an allocation is read");
    // What burn cut out of another tensor ends with the rest of that.
    if tensor.handle.size() == (numbers + TAIL) as u64 {
        let changed = read[numbers..].iter().position(|byte| *byte != u8::MAX);
        assert_eq!(
            changed, None,
            "a kernel wrote behind the {numbers} bytes of a tensor"
        );
    }
    read[..numbers].to_vec()
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u8> {
    bytes(&into_contiguous(
        tensor.try_into_primitive::<Cube>().expect("a GPU's"),
    ))
}

/// Returns the adapters and cards on which the tests run.
fn devices() -> Vec<Device> {
    let card = |found: &FoundDevice| {
        device::open(found.device)
            .map_err(|error| eprintln!("skipped: {error}"))
            .ok()
    };
    let cards = device::cuda_gpus()
        .iter()
        .filter(|found| found.kind != DeviceClass::Software)
        .filter_map(card);
    device().into_iter().chain(cards).collect()
}

/// Checks that an operation and its gradients have the same bits as without padding.
fn is_the_same_padded(name: &str, operation: impl Fn(&Device) -> Vec<Vec<u8>>) {
    for device in devices() {
        let expected = operation(&device);
        let found = padded(|| operation(&device));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                found == expected,
                "{name}, result {index} of {}: other bits on a padded allocation",
                expected.len()
            );
        }
    }
}

/// Returns numbers of a type.
fn of<const D: usize>(
    seed: u64,
    shape: [usize; D],
    dtype: FloatDType,
    device: &Device,
) -> Tensor<D> {
    let numbers = tensor(&drawn(seed, shape.iter().product(), 1.0), shape, device).cast(dtype);
    Tensor::from_primitive::<Cube>(moved(
        numbers.try_into_primitive::<Cube>().expect("a GPU's"),
    ))
}

/// Returns the types that a device has.
fn types(device: &Device) -> impl Iterator<Item = FloatDType> + use<'_> {
    [FloatDType::F32, FloatDType::F16, FloatDType::BF16]
        .into_iter()
        .filter(|dtype| device.supports_dtype(*dtype))
}

#[test]
fn norms() {
    is_the_same_padded("a norm", |device| {
        let all = types(device).flat_map(|dtype| [1, 5, 34, 136, 192].map(|width| (dtype, width)));
        let of_all = all.flat_map(|(dtype, width)| {
            let x = || of(1, [70, width], dtype, device);
            let gradient = || of(2, [70, width], dtype, device);
            let weight = of(3, [width], dtype, device);
            let (of_x, of_weight) = rms_norm_gradients(x(), weight.clone(), gradient(), 1e-5);
            let alone = rms_norm_input(x(), weight.clone(), gradient(), 1e-5);
            [
                bits(rms_norm(x(), weight, 1e-5)),
                bits(alone),
                bits(of_x),
                bits(of_weight),
            ]
        });
        of_all.collect()
    });
}

#[test]
fn rotations() {
    is_the_same_padded("a rotation", |device| {
        let all = types(device).flat_map(|dtype| [3, 8].map(|half| (dtype, half)));
        let of_all = all.flat_map(|(dtype, half)| {
            let tables = [1, 2].map(|seed| of(seed, [9, half], dtype, device));
            [7, 14].map(|tokens: u32| {
                let positions: Arc<[u32]> = (0..tokens).map(|token| token % 9).collect();
                let [cosines, sines] = tables.clone();
                bits(rope(
                    of(3, [2, 7, 3, 2 * half], dtype, device),
                    cosines,
                    sines,
                    positions,
                ))
            })
        });
        of_all.collect()
    });
}

#[test]
fn attentions() {
    is_the_same_padded("attention", |device| {
        let all = types(device)
            .flat_map(|dtype| [(5, None), (16, Some(3.0))].map(|sizes| (dtype, sizes)));
        let of_all = all.flat_map(|(dtype, (features, softcap))| {
            let leaf = |seed, heads| {
                of(seed, [2, 37, heads, features], dtype, device)
                    .autodiff()
                    .require_grad()
            };
            let [query, key, value] = [leaf(1, 4), leaf(2, 2), leaf(3, 2)];
            let seen: Arc<[SeenKeys]> = (0..74)
                .map(|query| SeenKeys {
                    first: if query % 37 < 21 { 0 } else { 21 },
                    end: query % 37 + 1,
                })
                .collect();
            let output = attention(
                query.clone(),
                key.clone(),
                value.clone(),
                &seen,
                Score {
                    scale: 0.3,
                    softcap,
                },
            );
            let gradients =
                backward_from(output.clone(), of(4, [2, 37, 4, features], dtype, device));
            let of_leaves =
                [query, key, value].map(|leaf| bits(leaf.grad(&gradients).expect("tracked")));
            [bits(output.inner())].into_iter().chain(of_leaves)
        });
        of_all.collect()
    });
}

#[test]
fn convolutions() {
    is_the_same_padded("a convolution", |device| {
        let all = types(device).flat_map(|dtype| [5, 36].map(|channels| (dtype, channels)));
        let of_all = all.flat_map(|(dtype, channels)| {
            let leaf = |seed, shape| of(seed, shape, dtype, device).autodiff().require_grad();
            let (x, kernel) = (leaf(1, [75, channels]), leaf(2, [channels, 4]));
            let bias = of(3, [channels], dtype, device).autodiff().require_grad();
            let documents = [2, 70, 3].into();
            let output = short_conv(x.clone(), kernel.clone(), bias.clone(), &documents, true);
            let gradients = backward_from(output.clone(), of(4, [75, channels], dtype, device));
            let of_leaves = [x, kernel].map(|leaf| bits(leaf.grad(&gradients).expect("tracked")));
            let of_bias = bits(bias.grad(&gradients).expect("tracked"));
            [bits(output.inner()), of_bias].into_iter().chain(of_leaves)
        });
        of_all.collect()
    });
}

#[test]
fn recurrences() {
    is_the_same_padded("a recurrence", |device| {
        let all = types(device).flat_map(|dtype| {
            let sum = Update::Sum {
                least: 0.05,
                most: 2.5,
            };
            [Update::Delta, sum].map(|update| (dtype, update))
        });
        let of_all = all.flat_map(|(dtype, update)| {
            let form = RecurrenceForm {
                update,
                key_heads: 2,
                value_heads: 4,
                key_dim: 6,
                value_dim: 5,
            };
            let leaves = [
                [92, form.channels()],
                [92, form.gates()],
                [form.vectors(), 4],
            ]
            .map(|shape| of(1, shape, dtype, device).autodiff().require_grad());
            let [mixed, gates, vectors] = leaves.clone();
            let state = of(2, [4, 6, 5], FloatDType::F32, device).autodiff();
            let documents = [70, 1, 21].into();
            let (output, last) = recurrence(mixed, gates, vectors, state, form, &documents);
            let gradient = of(3, [92, form.values()], dtype, device);
            let gradients = backward_from(output.clone(), gradient);
            let of_leaves = leaves.map(|leaf| bits(leaf.grad(&gradients).expect("tracked")));
            [bits(output.inner()), bits(last.inner())]
                .into_iter()
                .chain(of_leaves)
        });
        of_all.collect()
    });
}

#[test]
fn losses() {
    is_the_same_padded("a loss", |device| {
        let all =
            types(device).flat_map(|dtype| [7, 130, 1003].map(|vocabulary| (dtype, vocabulary)));
        let of_all = all.flat_map(|(dtype, vocabulary)| {
            let logits = || of(1, [11, vocabulary], dtype, device);
            let targets: Arc<[u32]> = (0..11).map(|row| row * 101 % vocabulary as u32).collect();
            let (losses, gradient) = cross_entropy(logits(), targets.clone());
            [
                bits(losses),
                bits(gradient),
                bits(cross_entropy_losses(logits(), targets)),
            ]
        });
        of_all.collect()
    });
}

#[test]
fn masks_and_gated_units() {
    is_the_same_padded("a mask", |device| {
        let mask = Mask {
            tokens: (0..9).map(|token| token * token).collect(),
            site: 5,
            probability: 0.3,
        };
        types(device)
            .map(|dtype| bits(dropout(of(1, [9, 37], dtype, device), &mask)))
            .collect()
    });
    is_the_same_padded("a gated unit", |device| {
        let all = types(device).flat_map(|dtype| [5, 36].map(|inner| (dtype, inner)));
        let of_all = all.flat_map(|(dtype, inner)| {
            let gate_up = of(1, [9, 2 * inner], dtype, device)
                .autodiff()
                .require_grad();
            let output = gated(gate_up.clone(), Activation::Silu);
            let gradients = backward_from(output.clone(), of(2, [9, inner], dtype, device));
            [
                bits(output.inner()),
                bits(gate_up.grad(&gradients).expect("tracked")),
            ]
        });
        of_all.collect()
    });
}

#[test]
fn packed_weights() {
    let four_bit = QuantFormat::FourBit {
        kind: Code::Fp4,
        block_size: BlockSize::new(32).expect("a size"),
        double_quant: false,
    };
    is_the_same_padded("a packed weight", |device| {
        let forms = [QuantFormat::QLORA, four_bit, QuantFormat::Int8].map(|form| (form, 70));
        let blocks = BlockFormat::ALL.map(|format| (QuantFormat::Blocks(format), format.numbers()));
        let of_all = forms.into_iter().chain(blocks).map(|(form, columns)| {
            let weight = form
                .pack([33, columns], &drawn(1, 33 * columns, 0.1))
                .expect("finite");
            let base = Base::Packed(Packed::new(weight, device));
            bits(times(
                of(2, [5, 33], FloatDType::F32, device),
                base,
                DType::F32,
            ))
        });
        of_all.collect()
    });
}

#[test]
fn sums_of_squares() {
    is_the_same_padded("a sum of squares", |device| {
        let sum = |count: usize| sum_of_squares(&tensor(&drawn(1, count, 1.0), [count], device));
        [1, 136, 4096, 10_001]
            .map(|count| sum(count).to_le_bytes().to_vec())
            .to_vec()
    });
}

#[test]
fn updates() {
    const COUNT: usize = 9000 + 5;
    is_the_same_padded("an update", |device| {
        let row = |seed, count| tensor(&drawn(seed, count, 1.0), [count], device);
        let zeros = || tensor(&vec![0.0; COUNT], [COUNT], device);
        let segment = |place| Segment {
            place,
            learning_rate: 1e-2,
            weight_decay: 0.1,
        };
        let state = AdamWState {
            weights: vec![row(1, 5), row(2, 9000)],
            first: zeros(),
            second: zeros(),
        };
        let rule = AdamWRule {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            gradient_scale: 0.25,
            update: 1,
        };
        let state = adamw(
            state,
            row(3, COUNT),
            &[segment(0..5), segment(5..COUNT)],
            rule,
        )
        .expect("finite");
        state
            .weights
            .into_iter()
            .chain([state.first, state.second])
            .map(bits)
            .collect()
    });
}
