//! Rotary position embedding, Su et al. 2021, arXiv:2104.09864, in the half-split form of Hugging
//! Face models.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use crate::ops::{Rotation, rope};

/// The rotation of a model's queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSpec {
    /// Number of rotated features of a head: the first ones, in most families all. With an odd
    /// number the feature behind them is turned too, as in transformers.
    pub head_dim: usize,
    /// The base of the wavelengths.
    pub theta: f64,
    /// How the frequencies are stretched beyond the context that the model was first trained on.
    pub scaling: RopeScaling,
    /// The features that are rotated together.
    pub pairs: Pairs,
    /// The direction of the rotation; almost all families turn forward.
    pub direction: Rotation,
    /// How queries grow with their position; `None`: they do not.
    pub query_growth: Option<QueryGrowth>,
}

/// The rotated features of a head that make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Feature i and i + d/2.
    Halves,
    /// Features 2i and 2i + 1.
    Neighbors,
}

/// A factor of queries by their position p: 1 + β ln(1 + ⌊p / n⌋). It keeps the softmax of long
/// texts as sharp as that of n tokens, as in Nakanishi 2025, arXiv:2501.19399.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// β.
    pub beta: f64,
    /// n, tokens.
    pub trained_length: usize,
}

impl QueryGrowth {
    fn factor(self, position: usize) -> f32 {
        let lengths = (position / self.trained_length) as f32;
        1.0 + self.beta as f32 * (1.0 + lengths).ln()
    }
}

/// Ways to stretch a context, as `modeling_rope_utils.py` of transformers computes them.
/// `trained_length` is the context, in tokens, that the model was first trained on; `factor` is how
/// many times longer it becomes; `attention_factor` scales cosines and sines.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    missing_docs,
    reason = "the fields are described on the type and carry the names of config.json"
)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// All frequencies divided by `factor`.
    Linear { factor: f64 },
    /// The base grows with the batch's length once that passes `trained_length`.
    Dynamic { factor: f64, trained_length: usize },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between.
    Ramp {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        trained_length: usize,
    },
    /// YaRN, Peng et al. 2023, arXiv:2309.00071.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        trained_length: usize,
    },
    /// LongRoPE, Ding et al. 2024, arXiv:2402.13753: one divisor a frequency, another set beyond
    /// `trained_length`.
    LongRope {
        attention_factor: f64,
        short: Vec<f64>,
        long: Vec<f64>,
        trained_length: usize,
    },
    /// All frequencies divided by `factor`, and those after the first `pairs` 0: as many pairs of
    /// features rotate, at the frequencies that they have in a head that rotates as a whole.
    Proportional { factor: f64, pairs: usize },
}

impl RopeSpec {
    /// Makes a forward rotation of halves, whose queries do not grow.
    pub fn new(head_dim: usize, theta: f64, scaling: RopeScaling) -> Self {
        Self {
            head_dim,
            theta,
            scaling,
            pairs: Pairs::Halves,
            direction: Rotation::Forward,
            query_growth: None,
        }
    }

    /// Returns the length, in tokens, beyond which the longest row of a batch changes the
    /// frequencies of all its rows.
    pub fn switches_at(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { trained_length, .. }
            | RopeScaling::LongRope { trained_length, .. } => Some(trained_length),
            _ => None,
        }
    }

    /// Returns the frequencies in radians per token, one for each pair of features, for a batch of
    /// `length` tokens. They are f32, in the order of operations of transformers: at a position of
    /// 100,000 another rounding turns a query by milliradians.
    fn frequencies(&self, length: usize) -> Vec<f32> {
        let width = self.head_dim as f64;
        let powers = |theta: f64| -> Vec<f32> {
            (0..self.head_dim.div_ceil(2))
                .map(|pair| (theta as f32).powf((2 * pair) as f32 / width as f32))
                .collect()
        };
        let plain = || powers(self.theta).into_iter().map(|power| 1.0 / power);
        match &self.scaling {
            RopeScaling::Default => plain().collect(),
            RopeScaling::Linear { factor } => plain()
                .map(|frequency| frequency / *factor as f32)
                .collect(),
            RopeScaling::Proportional { factor, pairs } => plain()
                .enumerate()
                .map(|(pair, frequency)| {
                    if pair < *pairs {
                        frequency / *factor as f32
                    } else {
                        0.0
                    }
                })
                .collect(),
            RopeScaling::Dynamic {
                factor,
                trained_length,
            } => {
                let trained = *trained_length as f64;
                let growth =
                    factor * (length.max(*trained_length) as f64) / trained - (factor - 1.0);
                powers(self.theta * growth.powf(width / (width - 2.0)))
                    .into_iter()
                    .map(|power| 1.0 / power)
                    .collect()
            }
            RopeScaling::Ramp {
                factor,
                low_frequency_factor,
                high_frequency_factor,
                trained_length,
            } => {
                let (factor, low, high) = (
                    *factor as f32,
                    *low_frequency_factor as f32,
                    *high_frequency_factor as f32,
                );
                plain()
                    .map(|frequency| ramp(frequency, factor, low, high, *trained_length as f32))
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                trained_length,
                ..
            } => {
                let bound = |rotations: f64| {
                    width * (*trained_length as f64 / (rotations * std::f64::consts::TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (low, high) =
                    blended_pairs([*beta_fast, *beta_slow].map(bound), *truncate, width - 1.0);
                let blend = |(pair, power): (usize, f32)| {
                    let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    (1.0 / (*factor as f32 * power)) * ramp + (1.0 / power) * (1.0 - ramp)
                };
                powers(self.theta)
                    .into_iter()
                    .enumerate()
                    .map(blend)
                    .collect()
            }
            RopeScaling::LongRope {
                short,
                long,
                trained_length,
                ..
            } => {
                let divisors = if length > *trained_length {
                    long
                } else {
                    short
                };
                powers(self.theta)
                    .into_iter()
                    .zip(divisors)
                    .map(|(power, divisor)| 1.0 / (*divisor as f32 * power))
                    .collect()
            }
        }
    }

    fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            }
            | RopeScaling::LongRope {
                attention_factor, ..
            } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Whether batches of these two lengths are rotated differently.
    pub fn differs(&self, length: usize, other: usize) -> bool {
        match self.scaling {
            RopeScaling::Dynamic { trained_length, .. } => {
                length.max(trained_length) != other.max(trained_length)
            }
            RopeScaling::LongRope { trained_length, .. } => {
                (length > trained_length) != (other > trained_length)
            }
            _ => false,
        }
    }

    /// Returns cosines and sines of positions 0 .. length. As in transformers, `Dynamic` and
    /// `LongRope` depend on the batch's length.
    pub fn tables(&self, length: usize, device: &Device) -> RopeTables {
        self.tables_of(0..length, length, device)
    }

    /// Returns cosines and sines of these positions, where the longest document of the batch has
    /// `length` tokens.
    pub fn tables_of(&self, positions: Range<usize>, length: usize, device: &Device) -> RopeTables {
        let (frequencies, factor) = (self.frequencies(length), self.attention_factor() as f32);
        let table = |function: fn(f32) -> f32, grown: &dyn Fn(usize) -> f32| {
            let row = |position: usize| {
                let factor = factor * grown(position);
                frequencies
                    .iter()
                    .map(move |frequency| function(position as f32 * frequency) * factor)
            };
            let values: Vec<f32> = positions.clone().flat_map(row).collect();
            Tensor::<2>::from_data(
                TensorData::new(values, [positions.len(), frequencies.len()]),
                device,
            )
        };
        let sine: fn(f32) -> f32 = match self.direction {
            Rotation::Forward => f32::sin,
            Rotation::Back => |angle: f32| -angle.sin(),
        };
        let both = |grown: &dyn Fn(usize) -> f32| [table(f32::cos, grown), table(sine, grown)];
        RopeTables {
            keys: both(&|_| 1.0),
            queries: self
                .query_growth
                .map(|growth| both(&|position| growth.factor(position))),
            pairs: self.pairs,
        }
    }
}

/// Returns the first and the last pair of features between which `YaRN` blends, from the pairs that
/// rotate `beta_fast` and `beta_slow` times, as `find_correction_range` of
/// `modeling_rope_utils.py`.
fn blended_pairs([low, high]: [f64; 2], truncate: bool, last: f64) -> (f64, f64) {
    let (low, high) = if truncate {
        (low.floor(), high.ceil())
    } else {
        (low, high)
    };
    let (low, high) = (low.max(0.0), high.min(last));
    let is_one_pair = (high - low).abs() < f64::EPSILON;
    (low, if is_one_pair { high + 0.001 } else { high })
}

/// Returns a frequency stretched by the ramp, as `modeling_rope_utils.py` of
/// <https://github.com/huggingface/transformers> has it.
fn ramp(frequency: f32, factor: f32, low: f32, high: f32, trained_length: f32) -> f32 {
    let wavelength = std::f32::consts::TAU / frequency;
    if wavelength < trained_length / high {
        frequency
    } else if wavelength > trained_length / low {
        frequency / factor
    } else {
        let smooth = (trained_length / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Cosines and sines, [positions, pairs of features] each.
#[derive(Debug, Clone)]
pub struct RopeTables {
    keys: [Tensor<2>; 2],
    /// Those of queries, where they grow.
    queries: Option<[Tensor<2>; 2]>,
    pairs: Pairs,
}

impl RopeTables {
    /// Rotates queries by the angles of their positions, see [`rope`]. Neighbors come out half of
    /// the rotated features apart; so do those of keys, so that products of the two are the same.
    ///
    /// # Shapes
    /// `x` [batch, sequence, heads, width], of which the first `head_dim` features are rotated, all
    /// where queries grow; `positions`, the tables' row for each token.
    pub fn rotate_queries(&self, x: Tensor<4>, positions: Arc<[u32]>) -> Tensor<4> {
        self.rotate(x, self.queries.as_ref().unwrap_or(&self.keys), positions)
    }

    /// Rotates keys, see [`RopeTables::rotate_queries`].
    pub fn rotate_keys(&self, x: Tensor<4>, positions: Arc<[u32]>) -> Tensor<4> {
        self.rotate(x, &self.keys, positions)
    }

    fn rotate(
        &self,
        x: Tensor<4>,
        [cos, sin]: &[Tensor<2>; 2],
        positions: Arc<[u32]>,
    ) -> Tensor<4> {
        let ([.., width], rotated) = (x.dims(), 2 * cos.dims()[1]);
        let of_part = |x: Tensor<4>| rope(self.in_halves(x), cos.clone(), sin.clone(), positions);
        if rotated == width {
            return of_part(x);
        }
        let rest = x.clone().narrow(3, rotated, width - rotated);
        Tensor::cat(vec![of_part(x.narrow(3, 0, rotated)), rest], 3)
    }

    fn in_halves(&self, x: Tensor<4>) -> Tensor<4> {
        if self.pairs == Pairs::Halves {
            return x;
        }
        let [batch, length, heads, width] = x.dims();
        x.reshape([batch * length, heads, width / 2, 2])
            .swap_dims(2, 3)
            .reshape([batch, length, heads, width])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(shape: [usize; 4]) -> Tensor<4> {
        let numbers: Vec<f32> = (0..shape.iter().product())
            .map(|place: usize| (place as f32 * 0.7).sin())
            .collect();
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    fn spec(head_dim: usize) -> RopeSpec {
        RopeSpec::new(head_dim, 1e4, RopeScaling::Default)
    }

    #[test]
    fn a_part_of_the_pairs_rotates_as_in_a_head_that_rotates_as_a_whole() {
        let spec = |scaling| RopeSpec::new(8, 1e6, scaling);
        let whole = spec(RopeScaling::Default).frequencies(16);
        let part = spec(RopeScaling::Proportional {
            factor: 2.0,
            pairs: 1,
        });
        assert_eq!(part.frequencies(16), [whole[0] / 2.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn features_behind_the_turned_ones_stay() {
        let x = drawn([1, 2, 3, 6]);
        let tables = spec(4).tables(2, &Device::flex());
        let positions: Arc<[u32]> = Arc::from([0, 1]);
        let turned = tables.rotate_keys(x.clone(), positions.clone());
        let first = tables.rotate_keys(x.clone().narrow(3, 0, 4), positions);
        turned
            .clone()
            .narrow(3, 0, 4)
            .into_data()
            .assert_eq(&first.into_data(), true);
        turned
            .narrow(3, 4, 2)
            .into_data()
            .assert_eq(&x.narrow(3, 4, 2).into_data(), true);
    }

    #[test]
    fn neighbors_turn_by_their_definition_and_a_rotation_back_undoes_one_forward() {
        let (x, positions) = (drawn([1, 3, 2, 4]), Arc::<[u32]>::from([0, 1, 2]));
        let tables = |pairs, direction| {
            RopeSpec {
                pairs,
                direction,
                ..spec(4)
            }
            .tables(3, &Device::flex())
        };
        let numbers = |x: Tensor<4>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        let turned =
            tables(Pairs::Neighbors, Rotation::Forward).rotate_keys(x.clone(), positions.clone());
        let plain = numbers(x.clone());
        for (token, ours) in numbers(turned).chunks(8).enumerate() {
            for (head, ours) in ours.chunks(4).enumerate() {
                for (pair, wavelength) in [1.0, 100.0_f32].into_iter().enumerate() {
                    let (sin, cos) = (token as f32 / wavelength).sin_cos();
                    let place = token * 8 + head * 4 + 2 * pair;
                    let (left, right) = (plain[place], plain[place + 1]);
                    let expected = [left * cos - right * sin, right * cos + left * sin];
                    assert!(
                        (ours[pair] - expected[0]).abs() < 1e-6,
                        "{token} {head} {pair}"
                    );
                    assert!(
                        (ours[pair + 2] - expected[1]).abs() < 1e-6,
                        "{token} {head} {pair}"
                    );
                }
            }
        }
        let back = tables(Pairs::Halves, Rotation::Forward).rotate_keys(
            tables(Pairs::Halves, Rotation::Back).rotate_keys(x.clone(), positions.clone()),
            positions,
        );
        let worst = (back - x).abs().max().into_scalar::<f32>();
        assert!(worst < 1e-6, "{worst}");
    }

    #[test]
    fn queries_grow_with_each_stretch_of_their_trained_length_and_keys_do_not() {
        let growth = QueryGrowth {
            beta: 0.1,
            trained_length: 2,
        };
        let tables = RopeSpec {
            query_growth: Some(growth),
            ..spec(4)
        }
        .tables(5, &Device::flex());
        let positions: Arc<[u32]> = (0..5).collect();
        let x = drawn([1, 5, 1, 4]);
        let [queries, keys] = [
            tables.rotate_queries(x.clone(), positions.clone()),
            tables.rotate_keys(x, positions),
        ]
        .map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>());
        for (token, (query, key)) in queries.chunks(4).zip(keys.chunks(4)).enumerate() {
            let factor = 1.0 + 0.1 * (1.0 + (token / 2) as f32).ln();
            assert!(
                query
                    .iter()
                    .zip(key)
                    .all(|(query, key)| (query - key * factor).abs() < 1e-6),
                "{token}"
            );
        }
    }
}
