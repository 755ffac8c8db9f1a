//! Classification and regression by a score head, with the losses of transformers: cross-entropy
//! of one class, binary cross-entropy of several labels, squared error of numbers, and
//! cross-entropy of the class of each token.

use super::Judged;
use super::figures::Figures;
use super::scalar::{sigmoid, softplus};
use crate::terms::{ProblemType, Readings, Slopes, Unit, UnitKind};

/// Settings of a classification.
#[derive(Debug, Clone, PartialEq)]
pub struct Classify {
    /// The problem, which decides the loss.
    pub problem: ProblemType,
    /// Scores of each target: classes, labels or numbers.
    pub labels: usize,
    /// A weight for each class: of its cross-entropy, divided by the weights of all targets as in
    /// torch; of several labels, of the term of a label that holds (torch's `pos_weight`). Empty:
    /// all are 1.
    pub class_weights: Vec<f64>,
}

/// The loss of one target, its weight in the mean, and the derivative by each score.
struct TargetLoss {
    value: f64,
    weight: f64,
    slopes: Vec<f64>,
}

/// Returns softmax of scores, and the logarithm of the sum of their exponentials.
fn softmax(scores: &[f64]) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + scores.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
    (
        scores.iter().map(|z| (z - log_sum).exp()).collect(),
        log_sum,
    )
}

/// Returns the index of the highest score, the first of several.
pub fn argmax(scores: &[f32]) -> usize {
    let best = |best: usize, index: usize| {
        if scores[index] > scores[best] {
            index
        } else {
            best
        }
    };
    (1..scores.len()).fold(0, best)
}

impl Classify {
    /// Returns what scores say: probabilities of classes, of each label, or the numbers themselves.
    pub fn probabilities(&self, scores: &[f32]) -> Vec<f64> {
        let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
        match self.problem {
            ProblemType::SingleLabel | ProblemType::Token => softmax(&scores).0,
            ProblemType::MultiLabel => scores.into_iter().map(sigmoid).collect(),
            ProblemType::Regression => scores,
        }
    }

    fn weight(&self, class: usize) -> f64 {
        self.class_weights.get(class).copied().unwrap_or(1.0)
    }

    /// Returns the loss of a target with these scores, given its class or the numbers to meet.
    fn loss(&self, scores: &[f64], values: &[f32]) -> TargetLoss {
        match self.problem {
            ProblemType::SingleLabel | ProblemType::Token => {
                let class = values[0] as usize;
                let weight = self.weight(class);
                let (mut slopes, log_sum) = softmax(scores);
                slopes[class] -= 1.0;
                TargetLoss {
                    value: weight * (log_sum - scores[class]),
                    weight,
                    slopes: slopes.into_iter().map(|slope| weight * slope).collect(),
                }
            }
            ProblemType::MultiLabel => {
                let count = scores.len() as f64;
                let each = scores.iter().zip(values).enumerate();
                let (mut value, mut slopes) = (0.0, Vec::with_capacity(scores.len()));
                for (label, (z, target)) in each {
                    let (target, weight) = (f64::from(*target), self.weight(label));
                    value += weight * target * softplus(-z) + (1.0 - target) * softplus(*z);
                    let slope = (1.0 - target) * sigmoid(*z) - weight * target * sigmoid(-z);
                    slopes.push(slope / count);
                }
                TargetLoss {
                    value: value / count,
                    weight: 1.0,
                    slopes,
                }
            }
            ProblemType::Regression => {
                let count = scores.len() as f64;
                let off = scores.iter().zip(values);
                let off: Vec<f64> = off.map(|(z, target)| z - f64::from(*target)).collect();
                TargetLoss {
                    value: off.iter().map(|off| off * off).sum::<f64>() / count,
                    weight: 1.0,
                    slopes: off.iter().map(|off| 2.0 * off / count).collect(),
                }
            }
        }
    }

    /// Returns the part of a unit's numbers that belongs to its target at a place.
    fn values_of<'a>(&self, values: &'a [f32], place: usize) -> &'a [f32] {
        if self.problem.has_classes() {
            &values[place..=place]
        } else {
            values
        }
    }

    /// Returns the scores of each target with the numbers that it is to meet.
    pub(super) fn targets<'a>(
        &'a self,
        readings: &'a Readings,
        units: &'a [Unit],
    ) -> impl Iterator<Item = (usize, &'a [f32], &'a [f32])> {
        units.iter().flat_map(move |unit| {
            let values: &[f32] = match &unit.kind {
                UnitKind::Labeled { values } => values,
                _ => &[],
            };
            let targets = unit.targets.clone().filter(|_| !values.is_empty());
            targets.map(move |target| {
                let scores = &readings.values[target * self.labels..][..self.labels];
                let values = self.values_of(values, target - unit.targets.start);
                (target, scores, values)
            })
        })
    }

    /// Judges the scores of texts or tokens.
    pub(super) fn judge(&self, readings: &Readings, units: &[Unit]) -> Judged {
        let mut slopes = vec![0_f32; readings.values.len()];
        let (mut loss_sum, mut weights, mut figures) = (0.0, 0.0, Figures::default());
        for (target, scores, values) in self.targets(readings, units) {
            let as_f64: Vec<f64> = scores.iter().copied().map(f64::from).collect();
            let TargetLoss {
                value,
                weight,
                slopes: of_target,
            } = self.loss(&as_f64, values);
            loss_sum += value;
            weights += weight;
            let place = target * self.labels..(target + 1) * self.labels;
            for (slope, of_score) in slopes[place].iter_mut().zip(of_target) {
                *slope = of_score as f32;
            }
            if self.problem.has_classes() {
                let is_right = argmax(scores) == values[0] as usize;
                figures.add("accuracy", f64::from(u8::from(is_right)));
            }
        }
        Judged {
            loss_sum,
            weight: weights,
            slopes: Slopes::Each(slopes),
            figures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(problem: ProblemType, class_weights: &[f64]) -> Classify {
        Classify {
            problem,
            labels: 3,
            class_weights: class_weights.to_vec(),
        }
    }

    #[test]
    fn slopes_are_derivatives() {
        let weights: [&[f64]; 2] = [&[], &[0.5, 2.0, 1.25]];
        for (problem, values) in [
            (ProblemType::SingleLabel, vec![1.0]),
            (ProblemType::Token, vec![2.0]),
            (ProblemType::MultiLabel, vec![1.0, 0.0, 0.25]),
            (ProblemType::Regression, vec![0.5, -2.0, 1.0]),
        ] {
            for weights in weights {
                let classify = classify(problem, weights);
                for scores in [[0.3, -1.2, 2.0], [-30.0, 4.0, 50.0], [0.0; 3]] {
                    let found = classify.loss(&scores, &values).slopes;
                    for label in 0..3 {
                        let at = |step: f64| {
                            let mut moved = scores;
                            moved[label] += step;
                            classify.loss(&moved, &values).value
                        };
                        let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                        assert!(
                            (found[label] - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                            "{problem}, {scores:?}: {}, not {expected}",
                            found[label]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn losses_are_those_of_torch() {
        // Equal scores: log 3, log 2 for each label, and the mean square.
        let of = |problem, values: &[f32]| classify(problem, &[]).loss(&[0.0; 3], values).value;
        assert!((of(ProblemType::SingleLabel, &[2.0]) - 3_f64.ln()).abs() < 1e-15);
        assert!((of(ProblemType::MultiLabel, &[1.0, 0.0, 1.0]) - 2_f64.ln()).abs() < 1e-15);
        assert!((of(ProblemType::Regression, &[1.0, 2.0, 3.0]) - 14.0 / 3.0).abs() < 1e-15);
    }

    /// As in torch, the mean with class weights is divided by the weights of the targets.
    #[test]
    fn class_weights_are_divided_out_of_the_mean() {
        let classify = classify(ProblemType::SingleLabel, &[4.0, 1.0, 1.0]);
        let unit = |place: usize, class: f32| Unit {
            targets: place..place + 1,
            kind: UnitKind::Labeled {
                values: vec![class],
            },
        };
        let readings = Readings::of_values(vec![0.0; 6]);
        let judged = classify.judge(&readings, &[unit(0, 0.0), unit(1, 1.0)]);
        assert!((judged.weight - 5.0).abs() < 1e-15);
        assert!((judged.loss_sum / judged.weight - 3_f64.ln()).abs() < 1e-15);
        let Slopes::Each(slopes) = judged.slopes else {
            panic!("a slope for each score");
        };
        assert!((slopes[0] / slopes[4] - 4.0).abs() < 1e-6, "{slopes:?}");
    }

    #[test]
    fn every_labeled_token_is_a_target_of_its_own() {
        let classify = classify(ProblemType::Token, &[]);
        let unit = Unit {
            targets: 1..3,
            kind: UnitKind::Labeled {
                values: vec![2.0, 0.0],
            },
        };
        let readings = Readings::of_values(vec![9.0, 9.0, 9.0, 0.0, 0.0, 5.0, 0.0, 0.0, 5.0]);
        let judged = classify.judge(&readings, &[unit]);
        assert!((judged.weight - 2.0).abs() < 1e-15);
        assert!((judged.figures.means()["accuracy"] - 0.5).abs() < 1e-15);
        let Slopes::Each(slopes) = judged.slopes else {
            panic!("a slope for each score");
        };
        assert_eq!(slopes[..3], [0.0; 3], "no target of the unit");
    }
}
