//! Sampling of the next token from logits, by the rules and in the order of transformers'
//! `generate`: repetition penalty, temperature, top k, top p.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use crate::keyed_random::{mix, unit};

/// Choice of the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// The divisor of the logits; 0 for greedy decoding, without a draw.
    pub temperature: f64,
    /// Sample only from this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Sample only from the most likely tokens whose probabilities add up to this (nucleus
    /// sampling); 1 for all. Holtzman et al. 2019, arXiv:1904.09751.
    pub top_p: f64,
    /// Logits of tokens that already occur are divided by it if positive and multiplied if
    /// negative; 1 for no penalty. Keskar et al. 2019, arXiv:1909.05858.
    pub repetition_penalty: f64,
    /// The seed of the draws.
    pub seed: u64,
}

impl Sampling {
    /// Greedy decoding: always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 0,
    };

    /// Returns the token that follows `text`, given the logits of all tokens. The draw depends only
    /// on the seed and on the length of the text. Of equally likely tokens the one with the lower
    /// id comes first.
    pub fn choose(&self, logits: &[f32], text: &[u32]) -> u32 {
        let mut candidates: Vec<(u32, f64)> = (0..)
            .zip(logits.iter().map(|logit| f64::from(*logit)))
            .collect();
        self.penalise(&mut candidates, text);
        let likelier = |left: &(u32, f64), right: &(u32, f64)| {
            right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
        };
        if self.temperature == 0.0 {
            return candidates
                .into_iter()
                .min_by(likelier)
                .map_or(0, |(id, _)| id);
        }
        let kept = if self.top_k == 0 {
            candidates.len()
        } else {
            self.top_k
        };
        keep_likeliest(&mut candidates, kept, likelier);
        let likeliest = candidates[0].1;
        let weights = candidates
            .iter()
            .map(|(id, logit)| (*id, ((logit - likeliest) / self.temperature).exp()));
        let weights: Vec<(u32, f64)> = weights.collect();
        let key = mix(mix(self.seed) ^ text.len() as u64);
        draw(&weights[..nucleus(&weights, self.top_p)], unit(key))
    }

    fn penalise(&self, candidates: &mut [(u32, f64)], text: &[u32]) {
        let seen: BTreeSet<u32> = text.iter().copied().collect();
        for (_, logit) in candidates.iter_mut().filter(|(id, _)| seen.contains(id)) {
            *logit = if *logit < 0.0 {
                *logit * self.repetition_penalty
            } else {
                *logit / self.repetition_penalty
            };
        }
    }
}

/// Sorts by probability, highest first, and keeps at most `kept`.
fn keep_likeliest(
    candidates: &mut Vec<(u32, f64)>,
    kept: usize,
    likelier: impl Fn(&(u32, f64), &(u32, f64)) -> Ordering,
) {
    if kept < candidates.len() {
        candidates.select_nth_unstable_by(kept, &likelier);
        candidates.truncate(kept);
    }
    candidates.sort_unstable_by(likelier);
}

/// Returns the number of leading weights that reach a share of the sum; at least one.
fn nucleus(weights: &[(u32, f64)], share: f64) -> usize {
    let wanted = share * sum(weights);
    let mut before = 0.0;
    let is_wanted = |(_, weight): &&(u32, f64)| {
        let wanted = before < wanted;
        before += weight;
        wanted
    };
    weights.iter().take_while(is_wanted).count().max(1)
}

/// Returns the token at a share of the weights' sum.
fn draw(weights: &[(u32, f64)], share: f64) -> u32 {
    let mut left = share * sum(weights);
    for (id, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    weights.last().map_or(0, |(id, _)| *id)
}

fn sum(weights: &[(u32, f64)]) -> f64 {
    weights.iter().map(|(_, weight)| weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, -1.0, 3.0];
    const PLAIN: Sampling = Sampling {
        temperature: 1.0,
        ..Sampling::GREEDY
    };

    /// Returns the share of draws of each token, over many seeds.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut shares = vec![0.0; logits.len()];
        for seed in 0..20_000 {
            shares[Sampling { seed, ..sampling }.choose(logits, &[]) as usize] += 1.0 / 20_000.0;
        }
        shares
    }

    fn is_near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(found, expected)| (found - expected).abs() < 0.015),
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn without_temperature_the_likeliest_token_with_the_lowest_id_is_chosen() {
        assert_eq!(Sampling::GREEDY.choose(&LOGITS, &[]), 1);
    }

    #[test]
    fn tokens_that_are_there_become_less_likely_once() {
        let sampling = Sampling {
            repetition_penalty: 2.0,
            ..Sampling::GREEDY
        };
        assert_eq!(sampling.choose(&LOGITS, &[1, 1]), 3);
        assert_eq!(sampling.choose(&[-1.0, -1.5], &[0]), 1);
        assert_eq!(
            sampling.choose(&[-1.0, -2.5], &[0, 0]),
            0,
            "twice would be -4"
        );
    }

    #[test]
    fn tokens_are_drawn_as_often_as_their_probabilities_say() {
        let logits = [0.1_f32, 0.2, 0.3, 0.4].map(f32::ln);
        is_near(&shares(PLAIN, &logits), &[0.1, 0.2, 0.3, 0.4]);
        let squares = [0.01, 0.04, 0.09, 0.16].map(|square| square / 0.3);
        is_near(
            &shares(
                Sampling {
                    temperature: 0.5,
                    ..PLAIN
                },
                &logits,
            ),
            &squares,
        );
        is_near(
            &shares(Sampling { top_k: 2, ..PLAIN }, &logits),
            &[0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0],
        );
        is_near(
            &shares(
                Sampling {
                    top_p: 0.75,
                    ..PLAIN
                },
                &logits,
            ),
            &[0.0, 2.0 / 9.0, 3.0 / 9.0, 4.0 / 9.0],
        );
        is_near(
            &shares(
                Sampling {
                    top_p: 1e-9,
                    ..PLAIN
                },
                &logits,
            ),
            &[0.0, 0.0, 0.0, 1.0],
        );
        is_near(
            &shares(
                Sampling {
                    temperature: 0.5,
                    top_p: 0.5,
                    ..PLAIN
                },
                &logits,
            ),
            &[0.0, 0.0, 0.0, 1.0],
        );
    }

    #[test]
    fn a_draw_depends_on_the_seed_and_the_length_of_the_text_alone() {
        let logits = [0.0; 1000];
        let chosen = |seed, text: &[u32]| Sampling { seed, ..PLAIN }.choose(&logits, text);
        assert_eq!(chosen(1, &[5, 6]), chosen(1, &[7, 8]));
        assert_ne!(chosen(1, &[5]), chosen(1, &[5, 5]));
        assert_ne!(chosen(1, &[5]), chosen(2, &[5]));
        // What other machines must draw too.
        assert_eq!([1, 2, 3].map(|seed| chosen(seed, &[])), [693, 98, 329]);
    }
}
