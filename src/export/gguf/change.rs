//! The changes to a tensor's numbers that llama.cpp needs to compute the same as the model.

use super::architecture::{Architecture, Pairs, Scores};
use super::differences::are_one;
use crate::model::DecoderSpec;
use crate::nn::rope::{self, RopeSpec};

/// The change of one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// The number of heads in which rows are reordered: llama.cpp rotates neighbors, and Hugging
    /// Face rotates halves.
    pub heads: Option<usize>,
    /// Added to every number: llama.cpp's norms multiply by the weight itself.
    plus: f64,
    /// Multiplies every number after that: a factor of the scores that has no key.
    times: f64,
}

impl Change {
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
            &spec.layers[0].mixer,
            module.rsplit('.').next().unwrap_or_default(),
        );
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
    fn what_is_added_comes_before_what_is_multiplied() {
        let numbers = vec![0.0, -1.0, 0.5, 2.0];
        let changed = |plus, times| {
            Change {
                heads: None,
                plus,
                times,
            }
            .apply(numbers.clone(), 1)
        };
        assert_eq!(changed(0.0, 1.0), numbers);
        assert_eq!(changed(1.0, 1.0), [1.0, 0.0, 1.5, 3.0]);
        assert_eq!(changed(1.0, 2.0), [2.0, 0.0, 3.0, 6.0]);
        let both = Change {
            heads: Some(2),
            plus: 0.0,
            times: 2.0,
        };
        assert_eq!(
            both.apply(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 1),
            [0.0, 4.0, 2.0, 6.0, 8.0, 12.0, 10.0, 14.0]
        );
    }
}
