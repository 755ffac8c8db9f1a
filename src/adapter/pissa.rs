//! `PiSSA`, Meng et al. 2024, arXiv:2404.02948: an adapter that starts as the principal part of its
//! weight, which is subtracted from the weight.
//!
//! With the r largest singular values of W = U Σ Vᵀ, A₀ = (Σ/s)^½ Vᵀ and B₀ = U (Σ/s)^½. The frozen
//! weight, which is packed where the base is, is W - s B₀ A₀. A trained A, B is saved as PEFT
//! converts it, as a plain adapter of rank 2 r for the unchanged base: s (B A - B₀ A₀) is s [B |
//! -B₀] [A; A₀]. A resumed run finds A₀ and B₀ there.

use std::collections::BTreeMap;

use super::numbers::{INITIAL, Numbers};
use super::singular::principal;
use super::{AdapterError, LoraConfig, Target};
use crate::files::safetensors::Named;
use crate::model::{Change, Decoder, LinearSpec};

/// Subtracts principal parts from weights while they are loaded, and keeps them.
#[derive(Debug)]
pub struct Extraction {
    targets: BTreeMap<String, Target>,
    numbers: Numbers,
}

impl Extraction {
    /// Makes the extraction for the modules that the config chooses; `saved` are the numbers of a
    /// checkpoint, see [`LoraConfig::saved`].
    ///
    /// # Errors
    /// See [`LoraConfig::resolve`].
    pub fn new(
        config: &LoraConfig,
        modules: &[LinearSpec],
        saved: Option<Numbers>,
    ) -> Result<Self, AdapterError> {
        let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
        let targets: BTreeMap<_, _> = config
            .resolve(&names)?
            .into_iter()
            .map(|target| (target.module.clone(), target))
            .collect();
        let mut numbers = Numbers::new();
        for (module, [a, b]) in saved.into_iter().flatten() {
            let Some(target) = targets.get(&module) else {
                numbers.insert(module, [a, b]);
                continue;
            };
            let [now, before] = halves([a, b], target.rank);
            numbers.insert(format!("{module}.{INITIAL}"), before);
            numbers.insert(module, now);
        }
        Ok(Self { targets, numbers })
    }

    /// Returns A and B by module, and A₀ and B₀.
    pub fn into_numbers(self) -> Numbers {
        self.numbers
    }
}

impl Change for Extraction {
    fn changes(&self, linear: &LinearSpec) -> bool {
        self.targets.contains_key(&linear.name)
    }

    fn change(&mut self, linear: &LinearSpec, weight: &mut [f32]) {
        let Some(target) = self.targets.get(&linear.name) else {
            return;
        };
        let initial = self
            .numbers
            .entry(format!("{}.{INITIAL}", linear.name))
            .or_insert_with(|| parts(weight, linear, target));
        subtract(weight, initial, target);
        let initial = initial.clone();
        self.numbers.entry(linear.name.clone()).or_insert(initial);
    }
}

/// Returns A₀ [r, in] and B₀ [out, r] of a weight [out, in].
fn parts(weight: &[f32], linear: &LinearSpec, target: &Target) -> [Vec<f32>; 2] {
    let LinearSpec {
        inputs, outputs, ..
    } = linear;
    let principal = principal(weight, [*outputs, *inputs], target.rank);
    let roots: Vec<f64> = principal
        .values
        .iter()
        .map(|value| (value / target.scale).sqrt())
        .collect();
    let a = principal
        .right
        .iter()
        .zip(&roots)
        .flat_map(|(row, root)| row.iter().map(move |number| (number * root) as f32));
    let b = (0..*outputs).flat_map(|row| {
        principal
            .left
            .iter()
            .zip(&roots)
            .map(move |(left, root)| (left[row] * root) as f32)
    });
    [a.collect(), b.collect()]
}

/// Subtracts s B₀ A₀ from W, row by row and in order: a resumed run gets the same bits.
fn subtract(weight: &mut [f32], [a, b]: &[Vec<f32>; 2], target: &Target) {
    let inputs = a.len() / target.rank;
    for (row, of_b) in weight.chunks_mut(inputs).zip(b.chunks(target.rank)) {
        for (of_b, a) in of_b.iter().zip(a.chunks(inputs)) {
            let factor = (f64::from(*of_b) * target.scale) as f32;
            row.iter_mut()
                .zip(a)
                .for_each(|(number, a)| *number -= factor * a);
        }
    }
}

/// Splits [A; A₀] [2 r, in] and [B | -B₀] [out, 2 r] into A, B and A₀, B₀.
fn halves([a, b]: [Vec<f32>; 2], rank: usize) -> [[Vec<f32>; 2]; 2] {
    let (now, before) = a.split_at(a.len() / 2);
    let columns = |start: usize, sign: f32| -> Vec<f32> {
        b.chunks(2 * rank)
            .flat_map(|row| {
                row[start..start + rank]
                    .iter()
                    .map(move |number| sign * number)
            })
            .collect()
    };
    [
        [now.to_vec(), columns(0, 1.0)],
        [before.to_vec(), columns(rank, -1.0)],
    ]
}

impl LoraConfig {
    /// Returns the config of the saved adapter. An adapter that starts as a part of the base is
    /// saved as a plain one of twice the rank and the same scale.
    #[must_use]
    pub fn saved(&self) -> Self {
        if !self.is_principal {
            return self.clone();
        }
        let alpha = if self.use_rslora { 2_f64.sqrt() } else { 2.0 };
        Self {
            is_principal: false,
            rank: 2 * self.rank,
            alpha: alpha * self.alpha,
            rank_pattern: self
                .rank_pattern
                .iter()
                .map(|(pattern, rank)| (pattern.clone(), 2 * rank))
                .collect(),
            alpha_pattern: self
                .alpha_pattern
                .iter()
                .map(|(pattern, of)| (pattern.clone(), alpha * of))
                .collect(),
            ..self.clone()
        }
    }
}

/// Converts tensors to their saved form: adapters that started as a part of the base get their
/// initial numbers appended.
pub(super) fn converted(decoder: &Decoder, tensors: Vec<Named>) -> Vec<Named> {
    let initial: BTreeMap<String, [Vec<f32>; 2]> = decoder
        .adapters()
        .filter_map(|(module, lora)| {
            let of_file = |tensor: &burn::tensor::Tensor<2>| {
                tensor.clone().transpose().into_data().iter().collect()
            };
            Some((
                format!("base_model.model.{module}"),
                lora.initial.as_ref()?.each_ref().map(of_file),
            ))
        })
        .collect();
    let convert = |(name, shape, values): Named| {
        let of = |end: &str| initial.get(name.strip_suffix(end)?);
        if let Some([a, _]) = of(".lora_A.weight") {
            let shape = vec![2 * shape[0], shape[1]];
            return (name, shape, [values, a.clone()].concat());
        }
        if let Some([_, b]) = of(".lora_B.weight") {
            let rank = shape[1];
            let row = |(now, before): (&[f32], &[f32])| {
                now.iter()
                    .copied()
                    .chain(before.iter().map(|number| -number))
                    .collect()
            };
            let rows: Vec<Vec<f32>> = values.chunks(rank).zip(b.chunks(rank)).map(row).collect();
            return (name, vec![shape[0], 2 * rank], rows.concat());
        }
        (name, shape, values)
    };
    tensors.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back_as_two_adapters() {
        let (now, before) = (
            [vec![1.0, 2.0, 3.0], vec![4.0, 5.0]],
            [vec![6.0, 7.0, 8.0], vec![9.0, 10.0]],
        );
        let saved = [
            [&now[0][..], &before[0]].concat(),
            vec![4.0, -9.0, 5.0, -10.0],
        ];
        assert_eq!(halves(saved, 1), [now, before]);
    }

    #[test]
    fn the_saved_config_scales_as_the_trained_one_does() {
        let plain = LoraConfig {
            is_principal: true,
            ..LoraConfig::all_linear(4, 6.0)
        };
        let patterns = LoraConfig {
            rank_pattern: vec![("a".into(), 3)],
            alpha_pattern: vec![("b".into(), 5.0)],
            use_rslora: true,
            ..plain.clone()
        };
        let names = ["model.layers.0.a".to_owned(), "model.layers.0.b".to_owned()];
        for config in [plain, patterns] {
            let [trained, saved] =
                [&config, &config.saved()].map(|config| config.resolve(&names).expect("chosen"));
            for (trained, saved) in trained.iter().zip(saved) {
                assert_eq!(saved.rank, 2 * trained.rank);
                assert!(
                    (saved.scale / trained.scale - 1.0).abs() < 1e-12,
                    "{trained:?} {saved:?}"
                );
            }
        }
    }
}
