//! Rows of numbers in 8 bits each: codes of a dynamic map, and the absmax of every block of 256
//! numbers of a row. Dettmers et al. 2021, arXiv:2110.02861.
//!
//! Four codes share a 32-bit integer, a type that every device has.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::host::Host;
use crate::quant::{DynamicMap, STATE_BLOCK};

/// Codes per integer.
const IN_WORD: usize = 4;

/// Rows of numbers as codes.
#[derive(Debug, Clone)]
pub struct Codes {
    map: DynamicMap,
    /// Numbers per row.
    length: usize,
    /// The codes, [rows, words], the first one in the lowest bits; the last block of a row is
    /// padded.
    words: Tensor<2, Int>,
    /// The absmax, [rows, blocks].
    absmax: Tensor<2>,
}

impl Codes {
    /// Packs rows [rows, n] into the nearest codes. All numbers must be finite.
    pub fn pack(numbers: Tensor<2>, map: DynamicMap) -> Self {
        let [rows, length] = numbers.dims();
        let (words, absmax) = match Host::of(numbers.clone().reshape([-1])) {
            Some(host) => {
                let (codes, absmax) = pack_on_host(host.numbers(), [rows, length], map);
                on_device(&codes, &absmax, rows, &numbers.device())
            }
            None => pack_on_device(numbers, map),
        };
        Self {
            map,
            length,
            words,
            absmax,
        }
    }

    /// Returns the numbers, [rows, n].
    pub fn unpack(&self) -> Tensor<2> {
        if Host::of(self.absmax.clone().reshape([-1])).is_none() {
            return self.unpack_on_device();
        }
        let rows = self.absmax.dims()[0];
        let (codes, absmax) = self.read();
        let blocks = self.length.div_ceil(STATE_BLOCK);
        let mut numbers = vec![0.0; rows * self.length];
        numbers
            .par_chunks_mut(self.length.max(1))
            .enumerate()
            .for_each(|(row, numbers)| {
                for (block, numbers) in numbers.chunks_mut(STATE_BLOCK).enumerate() {
                    let index = row * blocks + block;
                    self.map.unpack(
                        &codes[index * STATE_BLOCK..][..numbers.len()],
                        absmax[index],
                        numbers,
                    );
                }
            });
        Tensor::from_data(
            TensorData::new(numbers, [rows, self.length]),
            (&self.absmax.device(), DType::F32),
        )
    }

    /// Returns the codes of a row and the absmax of its blocks, as in bitsandbytes.
    pub fn row(&self, row: usize) -> (Vec<u8>, Vec<f32>) {
        let of_row = Self {
            words: self.words.clone().narrow(0, row, 1),
            absmax: self.absmax.clone().narrow(0, row, 1),
            ..self.clone()
        };
        let (mut codes, absmax) = of_row.read();
        codes.truncate(self.length);
        (codes, absmax)
    }

    /// The inverse of [`Codes::row`] for rows of equal length.
    pub fn from_rows(rows: &[(Vec<u8>, Vec<f32>)], map: DynamicMap, device: &Device) -> Self {
        let length = rows.first().map_or(0, |(codes, _)| codes.len());
        let padded = length.next_multiple_of(STATE_BLOCK);
        let codes: Vec<u8> = rows
            .iter()
            .flat_map(|(codes, _)| {
                codes
                    .iter()
                    .copied()
                    .chain(std::iter::repeat_n(map.zero(), padded - length))
            })
            .collect();
        let absmax: Vec<f32> = rows
            .iter()
            .flat_map(|(_, absmax)| absmax.iter().copied())
            .collect();
        let (words, absmax) = on_device(&codes, &absmax, rows.len(), device);
        Self {
            map,
            length,
            words,
            absmax,
        }
    }

    /// Returns all codes, padding included, and every absmax.
    fn read(&self) -> (Vec<u8>, Vec<f32>) {
        let words: Vec<i32> = self.words.clone().into_data().iter::<i32>().collect();
        let codes = words.into_iter().flat_map(i32::to_le_bytes).collect();
        (
            codes,
            self.absmax.clone().into_data().iter::<f32>().collect(),
        )
    }

    fn unpack_on_device(&self) -> Tensor<2> {
        let [rows, words] = self.words.dims();
        let codes = (0..IN_WORD as u32).map(|place| {
            let shifted = self
                .words
                .clone()
                .bitwise_right_shift_scalar((8 * place).cast_signed());
            shifted
                .bitwise_and_scalar(0xff_i32)
                .reshape([rows, words, 1])
        });
        let codes = Tensor::cat(codes.collect(), 2).reshape([-1]);
        let blocks = words * IN_WORD / STATE_BLOCK;
        let numbers = table(self.map.numbers(), &self.absmax.device()).select(0, codes);
        let numbers = numbers.reshape([rows * blocks, STATE_BLOCK])
            * self.absmax.clone().reshape([rows * blocks, 1]);
        numbers
            .reshape([rows, blocks * STATE_BLOCK])
            .slice([0..rows, 0..self.length])
    }
}

fn table(numbers: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::from(numbers), (device, DType::F32))
}

/// Makes tensors of padded codes and absmax.
fn on_device(
    codes: &[u8],
    absmax: &[f32],
    rows: usize,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2>) {
    let words: Vec<i32> = codes
        .as_chunks::<IN_WORD>()
        .0
        .iter()
        .map(|word| i32::from_le_bytes(*word))
        .collect();
    let per_row = |count: usize| [rows, count / rows.max(1)];
    let shape = per_row(words.len());
    let words = Tensor::from_data(TensorData::new(words, shape), (device, DType::I32));
    let absmax = Tensor::from_data(
        TensorData::new(absmax.to_vec(), per_row(absmax.len())),
        (device, DType::F32),
    );
    (words, absmax)
}

fn pack_on_host(
    numbers: &[f32],
    [rows, length]: [usize; 2],
    map: DynamicMap,
) -> (Vec<u8>, Vec<f32>) {
    let blocks = length.div_ceil(STATE_BLOCK);
    let mut codes = vec![map.zero(); rows * blocks * STATE_BLOCK];
    let mut absmax = vec![0.0; rows * blocks];
    codes
        .par_chunks_mut(STATE_BLOCK)
        .zip(absmax.par_iter_mut())
        .enumerate()
        .for_each(|(index, (codes, absmax))| {
            let (row, start) = (index / blocks, index % blocks * STATE_BLOCK);
            let end = length.min(start + STATE_BLOCK);
            *absmax = map.pack(&numbers[row * length + start..row * length + end], codes);
        });
    (codes, absmax)
}

/// Packs with a device's own operations.
fn pack_on_device(numbers: Tensor<2>, map: DynamicMap) -> (Tensor<2, Int>, Tensor<2>) {
    let ([rows, length], device) = (numbers.dims(), numbers.device());
    let blocks = length.div_ceil(STATE_BLOCK);
    let padding = blocks * STATE_BLOCK - length;
    let padded = if padding > 0 {
        Tensor::cat(
            vec![
                numbers,
                Tensor::zeros([rows, padding], (&device, DType::F32)),
            ],
            1,
        )
    } else {
        numbers
    };
    let padded = padded.reshape([rows * blocks, STATE_BLOCK]);
    let absmax = padded.clone().abs().max_dim(1); // [rows * blocks, 1]
    let divisor = absmax
        .clone()
        .mask_fill(absmax.clone().equal_elem(0.0), 1.0);
    let shares = (padded / divisor).reshape([-1]);
    let midpoints = table(map.midpoints(), &device);
    // How many midpoints are below a share, one bit after the other.
    let mut codes = Tensor::<1, Int>::zeros([rows * blocks * STATE_BLOCK], (&device, DType::I32));
    for bit in (0..8).rev().map(|bit| 1_i32 << bit) {
        let is_beyond = midpoints
            .clone()
            .select(0, codes.clone().add_scalar(bit - 1))
            .lower(shares.clone());
        codes = codes + is_beyond.int().cast(DType::I32).mul_scalar(bit);
    }
    let words = blocks * STATE_BLOCK / IN_WORD;
    let codes = codes.reshape([rows, words, IN_WORD]);
    let at = |place: usize| {
        let codes = codes
            .clone()
            .slice([0..rows, 0..words, place..place + 1])
            .reshape([rows, words]);
        codes.bitwise_left_shift_scalar((8 * place as u32).cast_signed())
    };
    let words = (1..IN_WORD).fold(at(0), |word, place| word.bitwise_or(at(place)));
    (words, absmax.reshape([rows, blocks]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(rows: usize, length: usize, map: DynamicMap) -> Tensor<2> {
        let draw = |index: usize| {
            let number = (0.7 * index as f32).sin() * 10_f32.powf((index % 9) as f32 - 7.0);
            if map == DynamicMap::Unsigned {
                number.abs()
            } else {
                number
            }
        };
        let mut numbers: Vec<f32> = (0..rows * length).map(draw).collect();
        // A block of zeros, and one number alone.
        numbers[..length.min(256)].fill(0.0);
        Tensor::from_data(TensorData::new(numbers, [rows, length]), &Device::flex())
    }

    #[test]
    fn a_device_has_the_codes_of_the_cpu_and_gives_the_same_numbers_back() {
        for (rows, length) in [(1, 256), (3, 700), (2, 5), (1, 1), (4, 512)] {
            for map in [DynamicMap::Signed, DynamicMap::Unsigned] {
                let numbers = drawn(rows, length, map);
                let host = Codes::pack(numbers.clone(), map);
                let (words, absmax) = pack_on_device(numbers.clone(), map);
                let device = Codes {
                    words,
                    absmax,
                    ..host.clone()
                };
                assert_eq!(host.read(), device.read(), "{rows} x {length}, {map:?}");
                host.unpack()
                    .into_data()
                    .assert_eq(&device.unpack_on_device().into_data(), true);
                let back = Codes::from_rows(
                    &(0..rows).map(|row| host.row(row)).collect::<Vec<_>>(),
                    map,
                    &Device::flex(),
                );
                assert_eq!(back.read(), host.read());
                // No number is further off than half the widest gap, which is that of 64 codes from
                // 0.1 to 1.
                let furthest = (host.unpack() - numbers.clone())
                    .abs()
                    .into_data()
                    .iter::<f32>()
                    .fold(0.0, f32::max);
                let largest = numbers.abs().into_data().iter::<f32>().fold(0.0, f32::max);
                assert!(furthest <= 0.008 * largest, "{furthest} of {largest}");
            }
        }
    }
}
