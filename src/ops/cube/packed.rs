//! Packed weights on a GPU: the table's number times the absmax, with one unit per vector of
//! numbers.

use std::ops::Range;

use burn::backend::Cube;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{blocks, element, empty, units, vector_size};
use crate::quant::{BlockFormat, Int8, Quantized};

/// A packed weight [out, in] in a GPU's memory. Nested absmax are f32 here, so that a number is one
/// product and has the same bits as on the CPU.
#[derive(Debug)]
pub(in crate::ops) struct OnGpu {
    shape: [usize; 2],
    /// The bytes of the codes, or of whole blocks of ggml, as words of 32 bits, the first byte
    /// lowest.
    codes: CubeTensor,
    /// The numbers of codes of 4 bits; `None`: codes are numbers.
    table: Option<CubeTensor>,
    scaling: Scaling,
}

/// What makes numbers of codes, or of the table's.
#[derive(Debug)]
enum Scaling {
    /// An absmax per group; whole numbers are in units of 1/127.
    Absmax {
        absmax: Box<CubeTensor>,
        /// Numbers per group, which is a block or a row.
        group: usize,
    },
    /// The scales in the blocks.
    Blocks(BlockFormat),
}

impl OnGpu {
    pub fn new(weight: &Quantized, device: &Device) -> Self {
        let shape = weight.shape();
        let floats = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
            cube(Tensor::<1>::from_data(data, (device, DType::F32)).try_into_primitive::<Cube>())
        };
        let words = |bytes: &[u8]| {
            let word = |bytes: &[u8]| {
                u32::from_le_bytes(std::array::from_fn(|place| {
                    bytes.get(place).copied().unwrap_or(0)
                }))
            };
            let (words, count) = (
                bytes.chunks(4).map(word).collect::<Vec<_>>(),
                bytes.len().div_ceil(4),
            );
            cube(
                Tensor::<1, Int>::from_data(TensorData::new(words, [count]), (device, DType::U32))
                    .try_into_primitive::<Cube>(),
            )
        };
        match weight {
            Quantized::FourBit(packed) => Self {
                shape,
                codes: words(packed.codes()),
                table: Some(floats(packed.kind().code())),
                scaling: Scaling::Absmax {
                    absmax: Box::new(floats(&packed.absmax().values())),
                    group: packed.block_size().numbers(),
                },
            },
            Quantized::Int8(packed) => Self {
                shape,
                codes: words(
                    &packed
                        .codes()
                        .iter()
                        .map(|code| code.cast_unsigned())
                        .collect::<Vec<_>>(),
                ),
                table: None,
                scaling: Scaling::Absmax {
                    absmax: Box::new(floats(packed.absmax())),
                    group: shape[1],
                },
            },
            Quantized::Blocks(packed) => Self {
                shape,
                codes: words(packed.bytes()),
                table: None,
                scaling: Scaling::Blocks(packed.format()),
            },
        }
    }

    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }
}

fn cube<E: std::fmt::Debug>(tensor: Result<CubeTensor, E>) -> CubeTensor {
    let tensor = tensor.expect("the device is a GPU");
    #[cfg(test)]
    let tensor = super::padding::moved(tensor);
    tensor
}

/// The range of codes to unpack.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Codes {
    /// Place of the first code.
    first: u32,
    /// Number of vectors of numbers.
    count: u32,
    /// Codes that share an absmax.
    group: u32,
}

/// Returns the number of a 4-bit code: the first code of a byte is in its upper half.
#[cube]
fn four_bits(codes: &[u32], table: &[f32], place: usize) -> f32 {
    let in_word = place % 8;
    let shift = in_word / 2 * 8 + 4 - in_word % 2 * 4;
    table[((codes[place / 8] >> shift as u32) & 15u32) as usize]
}

#[cube(launch)]
fn unpack_four_bits<F: Float, N: Size>(
    codes: &[u32],
    absmax: &[f32],
    table: &[f32],
    output: &mut [Vector<F, N>],
    which: &Codes,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < which.count as usize {
        let mut numbers = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for index in 0..N::value() {
            let place = which.first as usize + ABSOLUTE_POS * N::value() + index;
            numbers.insert(
                index,
                four_bits(codes, table, place) * absmax[place / which.group as usize],
            );
        }
        output[ABSOLUTE_POS] = Vector::cast_from(numbers);
    }
}

/// Unpacks int8. `unit` is not a constant, because drivers multiply constants first, and so round
/// differently.
#[cube(launch)]
fn unpack_int8<F: Float, N: Size>(
    codes: &[u32],
    absmax: &[f32],
    output: &mut [Vector<F, N>],
    which: &Codes,
    unit: f32,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < which.count as usize {
        let mut numbers = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for index in 0..N::value() {
            let place = which.first as usize + ABSOLUTE_POS * N::value() + index;
            // The sign is in the byte's highest bit: brought to the word's, it is drawn down again.
            let code = i32::cast_from(codes[place / 4] << (24 - place % 4 * 8) as u32) >> 24i32;
            numbers.insert(
                index,
                f32::cast_from(code) * absmax[place / which.group as usize] * unit,
            );
        }
        output[ABSOLUTE_POS] = Vector::cast_from(numbers);
    }
}

/// Unpacks some rows into numbers of a type, [rows, in].
pub(in crate::ops) fn unpack(weight: &OnGpu, rows: Range<usize>, dtype: DType) -> CubeTensor {
    let shape = [rows.len(), weight.shape[1]];
    let output = empty(&weight.codes, shape, dtype);
    let (count, first) = (shape[0] * shape[1], rows.start * shape[1]);
    if count > 0 {
        let size = vector_size(&[count]);
        let (cubes, cube) = units(&output, count / size);
        let (client, element) = (output.client.clone(), element(&output));
        let [codes, to] = [&weight.codes, &output].map(|tensor| tensor.clone().into_buffer_arg());
        let (first, count) = (first as u32, (count / size) as u32);
        let table = weight.table.clone().map(CubeTensor::into_buffer_arg);
        match &weight.scaling {
            Scaling::Absmax { absmax, group } => {
                let which = CodesLaunch::new(first, count, *group as u32);
                let absmax = absmax.as_ref().clone().into_buffer_arg();
                if let Some(table) = table {
                    unpack_four_bits::launch(
                        &client, cubes, cube, size, codes, absmax, table, to, which, element,
                    );
                } else {
                    let unit = Int8::UNIT;
                    unpack_int8::launch(
                        &client, cubes, cube, size, codes, absmax, to, which, unit, element,
                    );
                }
            }
            Scaling::Blocks(format) => {
                let which = blocks::NumbersLaunch::new(first, count);
                blocks::unpack_blocks::launch(
                    &client, cubes, cube, size, codes, to, which, *format, element,
                );
            }
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use proptest::prelude::*;

    use super::super::tests::{device, drawn, tensor, worst};
    use crate::ops::{Base, Packed, times};
    use crate::quant::{BlockFormat, BlockSize, FourBitType, QuantFormat, Quantized};

    /// Every block format comes after the others.
    const FORMS: usize = 4 + BlockFormat::ALL.len();

    /// Packs a weight; of a block format, its rows are as many blocks as `shape` has tens of
    /// columns.
    fn packed(form: usize, shape: [usize; 2], seed: u64) -> Quantized {
        if let Some(format) = form.checked_sub(4).map(|place| BlockFormat::ALL[place]) {
            let shape = [shape[0], (1 + shape[1] / 10) * format.numbers()];
            return QuantFormat::Blocks(format)
                .pack(shape, &drawn(seed, shape[0] * shape[1], 0.1))
                .expect("finite");
        }
        let four_bit = |kind, size, double_quant| QuantFormat::FourBit {
            kind,
            block_size: BlockSize::new(size).expect("a size"),
            double_quant,
        };
        let form = [
            QuantFormat::QLORA,
            four_bit(FourBitType::Fp4, 32, false),
            four_bit(FourBitType::Nf4, 128, false),
            QuantFormat::Int8,
        ][form];
        form.pack(shape, &drawn(seed, shape[0] * shape[1], 0.1))
            .expect("finite")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn numbers_are_those_of_the_cpu_to_the_bit(
            shape in [1usize..70, 1usize..90],
            form in 0usize..FORMS,
            cut: bool,
            seed in 0u64..1000,
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let weight = packed(form, shape, seed);
            let shape = weight.shape();
            let first = if cut { shape[0] / 3 } else { 0 };
            let expected = weight.unpack()[first * shape[1]..].to_vec();
            let rows = shape[0] - first;
            let placed = Packed::new(weight, &device).kept().clone();
            let super::super::super::base::Placement::Gpu(kept) = placed else {
                unreachable!("a GPU")
            };
            let numbers = super::unpack(&kept, first..shape[0], DType::F32);
            let numbers = burn::tensor::Tensor::<2>::from_primitive::<burn::backend::Cube>(numbers);
            prop_assert_eq!(numbers.dims(), [rows, shape[1]]);
            let numbers = numbers.into_data().try_to_vec::<f32>().expect("f32");
            let bits = |numbers: &[f32]| {
                numbers
                    .iter()
                    .map(|number| (number + 0.0).to_bits())
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(bits(&numbers), bits(&expected));
        }

        #[test]
        fn products_are_those_of_the_cpu(
            shape in [1usize..70, 1usize..90],
            tokens in 1usize..40,
            form in 0usize..FORMS,
            turned: bool,
            seed in 0u64..1000,
        ) {
            let Some(device) = device() else {
                return Ok(());
            };
            let weight = packed(form, shape, seed);
            let shape = weight.shape();
            let inner = if turned { shape[1] } else { shape[0] };
            let left = drawn(seed + 1000, tokens * inner, 1.0);
            let of = |device: &burn::tensor::Device| {
                let base = Base::Packed(Packed::new(weight.clone(), device));
                let base = if turned { base.transposed() } else { base };
                times(tensor(&left, [tokens, inner], device), base, DType::F32)
            };
            prop_assert!(worst(of(&device), of(&burn::tensor::Device::flex())) < 2e-5);
        }
    }
}
