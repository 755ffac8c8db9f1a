//! The changes to a tensor's numbers that llama.cpp needs to compute the same as the model.

use super::architecture::{Architecture, Pairs, Scores};
use super::carried;
use super::differences::{are_one, attending};
use crate::model::{DecoderSpec, MixerSpec};
use crate::nn::rope::{self, RopeSpec};

/// The change of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    /// The number of heads in which rows are reordered: llama.cpp rotates neighbors, and Hugging
    /// Face rotates halves.
    pub heads: Option<usize>,
    /// Added to every number: llama.cpp's norms multiply by the weight itself.
    pub plus: f64,
    /// Multiplies every number after that: a factor of the scores that has no key.
    pub times: f64,
    /// Whether each number is the logarithm of a rate, which is stored with the sign of a decay.
    pub decays: bool,
    /// The order of heads of values.
    pub tiled: Option<Tiled>,
}

/// Heads of values, of which llama.cpp has the first one of every key head, then the second ones,
/// and so on; Hugging Face has those of a key head side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiled {
    /// The number of key heads.
    pub keys: usize,
    /// Heads of values of each.
    pub each: usize,
    /// Rows or columns of a head.
    pub size: usize,
    /// Rows before the first head.
    pub first: usize,
    /// Whether heads are columns, not rows.
    pub across: bool,
}

impl Tiled {
    /// Returns rows of `width` numbers in llama.cpp's order.
    fn apply(self, numbers: &[f32], width: usize) -> Vec<f32> {
        if self.across {
            return numbers
                .chunks_exact(width)
                .flat_map(|row| self.heads(row, self.size))
                .collect();
        }
        let (before, heads) = numbers.split_at(self.first * width);
        [before, &self.heads(heads, self.size * width)[..]].concat()
    }

    fn heads(self, numbers: &[f32], head: usize) -> Vec<f32> {
        let of = |each: usize| (0..self.keys).map(move |key| key * self.each + each);
        (0..self.each)
            .flat_map(of)
            .flat_map(|index| &numbers[index * head..][..head])
            .copied()
            .collect()
    }
}

impl Change {
    /// No change.
    pub const NONE: Self = Self {
        heads: None,
        plus: 0.0,
        times: 1.0,
        decays: false,
        tiled: None,
    };

    /// Returns the part of the change that is about rows.
    pub fn of_rows(self) -> Self {
        Self {
            tiled: self.tiled.filter(|tiled| !tiled.across),
            ..self
        }
    }

    /// Returns the part of the change that is about columns.
    pub fn of_columns(self) -> Self {
        Self {
            tiled: self.tiled.filter(|tiled| tiled.across),
            ..Self::NONE
        }
    }

    /// Returns the same change for the rows of one head alone.
    pub fn of_one_head(self) -> Self {
        Self {
            heads: Some(1),
            ..self
        }
    }

    /// Returns the changed numbers of whole heads as they are stored, `width` per row.
    pub fn apply(self, numbers: Vec<f32>, width: usize) -> Vec<f32> {
        let heads = self.heads.unwrap_or(1);
        let numbers = match self.heads {
            Some(_) => numbers
                .chunks(numbers.len() / heads)
                .flat_map(|head| neighbors(head, width))
                .collect(),
            None => numbers,
        };
        let numbers = match self.tiled {
            Some(tiled) => tiled.apply(&numbers, width),
            None => numbers,
        };
        if self.decays {
            return numbers.into_iter().map(|rate| -rate.exp()).collect();
        }
        if self.plus == 0.0 && are_one(self.times, 1.0) {
            return numbers;
        }
        numbers
            .into_iter()
            .map(|number| (f64::from(number + self.plus as f32) * self.times) as f32)
            .collect()
    }
}

impl Architecture {
    /// Returns the change for the weight or bias of a module, which `end` tells, or for B of its
    /// adapter.
    pub fn change(&self, module: &str, end: &str, spec: &DecoderSpec) -> Change {
        let (mixer, last) = (
            &attending(spec).mixer,
            module.rsplit('.').next().unwrap_or_default(),
        );
        let carrying = spec
            .layers
            .iter()
            .find(|layer| layer.mixer.carries())
            .map(|layer| &layer.mixer);
        let inside = |of: &str| module.ends_with(&format!(".{of}.{last}"));
        let carries = carrying
            .and_then(MixerSpec::carrying_module)
            .is_some_and(inside);
        if carries {
            let recurrent = carrying.and_then(MixerSpec::recurrent);
            let tiled = recurrent.and_then(|spec| carried::tiled(spec, &format!("{last}.{end}")));
            return Change {
                tiled,
                ..Change::NONE
            };
        }
        let [of_queries, of_keys, _] = mixer.heads();
        // Where the model rotates neighbors itself its rows are in order.
        let halves = mixer_rope(spec).is_none_or(|rope| rope.pairs == rope::Pairs::Halves);
        let turned = self.pairs == Pairs::Neighbors && halves;
        let heads = match last {
            "q_proj" if turned => Some(of_queries),
            "k_proj" if turned => Some(of_keys),
            _ => None,
        };
        let is_scaled = matches!(
            (self.scores, last),
            (Scores::Queries { .. }, "q_proj") | (Scores::QueryNorms { .. }, "q_norm")
        );
        let plus = if last.ends_with("norm") && end == "weight" {
            spec.norm_offset
        } else {
            0.0
        };
        let scale = mixer
            .grouped()
            .map_or(1.0, |mixer| mixer.score_scale / self.score_scale(spec));
        Change {
            heads,
            plus,
            times: if is_scaled { scale } else { 1.0 },
            ..Change::NONE
        }
    }
}

/// Returns the rotation of the first layer that has one.
fn mixer_rope(spec: &DecoderSpec) -> Option<&RopeSpec> {
    spec.layers.iter().find_map(|layer| layer.mixer.rope())
}

/// Reorders the rows of one head from Hugging Face's order (first halves of pairs, then second
/// halves) to neighbors.
fn neighbors(head: &[f32], width: usize) -> Vec<f32> {
    let (first, second) = head.split_at(head.len() / 2);
    first
        .chunks_exact(width)
        .zip(second.chunks_exact(width))
        .flat_map(|(first, second)| [first, second].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbors() {
        assert_eq!(
            neighbors(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], 2),
            [0.0, 0.5, 2.0, 2.5, 1.0, 1.5, 3.0, 3.5]
        );
        assert_eq!(
            neighbors(&[0.0, 1.0, 2.0, 3.0], 1),
            [0.0, 2.0, 1.0, 3.0],
            "a bias"
        );
    }

    #[test]
    fn heads_of_values_are_tiled() {
        let tiled = Tiled {
            keys: 2,
            each: 2,
            size: 1,
            first: 1,
            across: false,
        };
        assert_eq!(
            tiled.apply(&[9.0, 0.0, 1.0, 2.0, 3.0], 1),
            [9.0, 0.0, 2.0, 1.0, 3.0]
        );
        let across = Tiled {
            first: 0,
            across: true,
            ..tiled
        };
        assert_eq!(
            across.apply(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4),
            [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
        );
    }

    #[test]
    fn what_is_added_comes_before_what_is_multiplied() {
        let numbers = vec![0.0, -1.0, 0.5, 2.0];
        let changed = |plus, times| {
            Change {
                plus,
                times,
                ..Change::NONE
            }
            .apply(numbers.clone(), 1)
        };
        assert_eq!(changed(0.0, 1.0), numbers);
        assert_eq!(changed(1.0, 1.0), [1.0, 0.0, 1.5, 3.0]);
        assert_eq!(changed(1.0, 2.0), [2.0, 0.0, 3.0, 6.0]);
        let both = Change {
            heads: Some(2),
            times: 2.0,
            ..Change::NONE
        };
        assert_eq!(
            both.apply(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 1),
            [0.0, 4.0, 2.0, 6.0, 8.0, 12.0, 10.0, 14.0]
        );
    }
}
