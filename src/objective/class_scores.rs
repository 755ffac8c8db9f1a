//! How well classes, labels or numbers are met over a set of rows: accuracy, macro F1, the area
//! under the ROC curve, a table of classes, and the expected calibration error.

use std::collections::BTreeMap;

use super::Objective;
use super::classify::{Classify, argmax};
use crate::terms::{ProblemType, Readings, Unit};

/// Bins of confidence for the calibration error.
const BINS: usize = 15;

/// How often each class was taken for each: rows are the true classes, columns the most likely
/// ones. Of several labels there is one table each, of no and yes.
pub type ClassTable = Vec<Vec<u64>>;

/// Scores of all targets of a set of rows, with what they are to meet.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScores {
    classify: Classify,
    /// Scores of each target, one after the other.
    scores: Vec<f32>,
    /// The class of each target, or its numbers.
    values: Vec<f32>,
}

impl ClassScores {
    /// Makes an empty set for an objective; `None` unless it classifies.
    pub fn of(objective: &Objective) -> Option<Self> {
        let Objective::Classify(classify) = objective else {
            return None;
        };
        Some(Self {
            classify: classify.clone(),
            scores: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Adds the targets of a batch.
    pub fn add(&mut self, readings: &Readings, units: &[Unit]) {
        for (_, scores, values) in self.classify.targets(readings, units) {
            self.scores.extend(scores);
            self.values.extend(values);
        }
    }

    fn classes(&self) -> usize {
        self.classify.labels
    }

    /// Returns the scores of each target.
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.scores.chunks(self.classes())
    }

    /// Returns how often each class was taken for each; `None` of numbers.
    pub fn table(&self) -> Option<ClassTable> {
        match self.classify.problem {
            ProblemType::SingleLabel | ProblemType::Token => {
                let mut table = vec![vec![0; self.classes()]; self.classes()];
                for (scores, class) in self.rows().zip(&self.values) {
                    table[*class as usize][argmax(scores)] += 1;
                }
                Some(table)
            }
            ProblemType::MultiLabel => {
                let of_label = |label: usize| {
                    let mut table = [[0_u64; 2]; 2];
                    for (score, holds) in self.label(label) {
                        table[usize::from(holds)][usize::from(score > 0.0)] += 1;
                    }
                    table.map(Vec::from)
                };
                Some((0..self.classes()).flat_map(of_label).collect())
            }
            ProblemType::Regression => None,
        }
    }

    /// Returns the scores of a label, and whether it holds, for each target.
    fn label(&self, label: usize) -> Vec<(f32, bool)> {
        let is_class = self.classify.problem.has_classes();
        let each = self.rows().enumerate();
        let of_target = |(index, scores): (usize, &[f32])| {
            let holds = if is_class {
                self.values[index] as usize == label
            } else {
                self.values[index * self.classes() + label] > 0.5
            };
            // Of classes it is the probability that orders them.
            let score = if is_class {
                self.classify.probabilities(scores)[label] as f32
            } else {
                scores[label]
            };
            (score, holds)
        };
        each.map(of_target).collect()
    }

    /// Returns the figures by name: `accuracy`, `f1`, `auroc` and `ece` of classes and labels;
    /// `mse`, `mae` and `r2` of numbers. One that is not defined is left out, such as the area
    /// under a curve of a single class.
    pub fn figures(&self) -> BTreeMap<&'static str, f64> {
        let mut figures = BTreeMap::new();
        if self.scores.is_empty() {
            return figures;
        }
        if self.classify.problem == ProblemType::Regression {
            self.add_of_numbers(&mut figures);
            return figures;
        }
        let pairs = if self.classify.problem == ProblemType::MultiLabel {
            self.add_of_labels(&mut figures)
        } else {
            self.add_of_classes(&mut figures)
        };
        figures.insert("ece", calibration_error(&pairs));
        let areas: Vec<f64> = (0..self.classes())
            .filter_map(|label| area_under_roc(self.label(label)))
            .collect();
        if !areas.is_empty() {
            figures.insert("auroc", mean(&areas));
        }
        figures
    }

    /// Adds accuracy and F1 of classes; returns the confidence of each choice and whether it was
    /// right.
    fn add_of_classes(&self, figures: &mut BTreeMap<&'static str, f64>) -> Vec<(f64, bool)> {
        let pair = |(scores, class): (&[f32], &f32)| {
            let best = argmax(scores);
            let confidence = self.classify.probabilities(scores)[best];
            (confidence, best == *class as usize)
        };
        let pairs: Vec<(f64, bool)> = self.rows().zip(&self.values).map(pair).collect();
        figures.insert("accuracy", share_right(&pairs));
        let table = self.table().unwrap_or_default();
        let of_class = |class: usize| {
            let is_right = table[class][class];
            let of_row: u64 = table[class].iter().sum();
            let of_column: u64 = table.iter().map(|row| row[class]).sum();
            (of_row + of_column > 0).then(|| f1(is_right, of_row, of_column))
        };
        let all: Vec<f64> = (0..self.classes()).filter_map(of_class).collect();
        figures.insert("f1", mean(&all));
        pairs
    }

    /// Adds the share of targets of which all labels are right, and F1 of labels; returns the
    /// confidence of each choice and whether it was right.
    fn add_of_labels(&self, figures: &mut BTreeMap<&'static str, f64>) -> Vec<(f64, bool)> {
        let (mut pairs, mut all) = (Vec::new(), Vec::new());
        let mut is_right = vec![true; self.scores.len() / self.classes()];
        for label in 0..self.classes() {
            let (mut both, mut of_truth, mut of_choice) = (0, 0, 0);
            for (target, (score, holds)) in self.label(label).into_iter().enumerate() {
                let p = 1.0 / (1.0 + (-f64::from(score)).exp());
                let chosen = score > 0.0;
                is_right[target] &= chosen == holds;
                both += u64::from(chosen && holds);
                of_truth += u64::from(holds);
                of_choice += u64::from(chosen);
                pairs.push((if chosen { p } else { 1.0 - p }, chosen == holds));
            }
            if of_truth + of_choice > 0 {
                all.push(f1(both, of_truth, of_choice));
            }
        }
        let right = is_right.iter().filter(|right| **right).count();
        figures.insert("accuracy", right as f64 / is_right.len() as f64);
        if !all.is_empty() {
            figures.insert("f1", mean(&all));
        }
        pairs
    }

    fn add_of_numbers(&self, figures: &mut BTreeMap<&'static str, f64>) {
        let count = self.values.len() as f64;
        let off: Vec<f64> = self
            .scores
            .iter()
            .zip(&self.values)
            .map(|(score, value)| f64::from(*score) - f64::from(*value))
            .collect();
        let squares: f64 = off.iter().map(|off| off * off).sum();
        figures.insert("mse", squares / count);
        figures.insert("mae", off.iter().map(|off| off.abs()).sum::<f64>() / count);
        // Around the mean of each number.
        let spread: f64 = (0..self.classes())
            .map(|label| {
                let own = || self.values.iter().skip(label).step_by(self.classes());
                let own = || own().copied().map(f64::from);
                let middle = own().sum::<f64>() / own().count() as f64;
                own().map(|value| (value - middle).powi(2)).sum::<f64>()
            })
            .sum();
        if spread > 0.0 {
            figures.insert("r2", 1.0 - squares / spread);
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn share_right(pairs: &[(f64, bool)]) -> f64 {
    let right = pairs.iter().filter(|(_, is_right)| *is_right).count();
    right as f64 / pairs.len() as f64
}

/// Returns 2 p r / (p + r) of precision p and recall r.
fn f1(both: u64, of_truth: u64, of_choice: u64) -> f64 {
    2.0 * both as f64 / (of_truth + of_choice) as f64
}

/// Returns the area under the ROC curve: the probability that a target which holds has a higher
/// score than one that does not, ties counting half; `None` where all are of one kind.
fn area_under_roc(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    scored.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let (mut rank_sum, mut before) = (0.0, 0);
    for ties in scored.chunk_by(|(one, _), (other, _)| one.total_cmp(other).is_eq()) {
        let rank = before as f64 + f64::midpoint(ties.len() as f64, 1.0);
        let holding = ties.iter().filter(|(_, holds)| *holds).count();
        rank_sum += rank * holding as f64;
        before += ties.len();
    }
    let positives = scored.iter().filter(|(_, holds)| *holds).count() as f64;
    let negatives = scored.len() as f64 - positives;
    let pairs = positives * negatives;
    (pairs > 0.0).then(|| (rank_sum - positives * (positives + 1.0) / 2.0) / pairs)
}

/// Returns the expected calibration error, Guo et al. 2017, arXiv:1706.04599: the difference of
/// confidence and share of right choices, a mean over bins of equal width weighted by their sizes.
fn calibration_error(pairs: &[(f64, bool)]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (confidence, is_right) in pairs {
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += confidence;
        bins[bin].1 += f64::from(u8::from(*is_right));
    }
    let apart: f64 = bins
        .iter()
        .map(|(confidence, right)| (confidence - right).abs())
        .sum();
    apart / pairs.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::UnitKind;

    fn scores(problem: ProblemType, labels: usize, scores: &[f32], values: &[f32]) -> ClassScores {
        let classify = Classify {
            problem,
            labels,
            class_weights: Vec::new(),
        };
        let mut all = ClassScores::of(&Objective::Classify(classify)).expect("it classifies");
        let each = if problem.has_classes() { 1 } else { labels };
        let units: Vec<Unit> = values
            .chunks(each)
            .enumerate()
            .map(|(index, values)| Unit {
                targets: index..index + 1,
                kind: UnitKind::Labeled {
                    values: values.to_vec(),
                },
            })
            .collect();
        let readings = Readings::of_values(scores.to_vec());
        all.add(&readings, &units);
        all
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    /// Numbers of scikit-learn.
    #[test]
    fn figures_of_two_classes() {
        let logit = |p: f32| (p / (1.0 - p)).ln();
        let chances = [0.1, 0.45, 0.35, 0.8];
        let given: Vec<f32> = chances.iter().flat_map(|p| [0.0, logit(*p)]).collect();
        let all = scores(ProblemType::SingleLabel, 2, &given, &[0.0, 0.0, 1.0, 1.0]);
        let figures = all.figures();
        close(figures["auroc"], 0.75);
        close(figures["accuracy"], 0.75);
        close(figures["f1"], f64::midpoint(0.8, 2.0 / 3.0));
        assert_eq!(all.table(), Some(vec![vec![2, 0], vec![1, 1]]));
        let expected = (0.1 + 0.45 + 0.65 + 0.2) / 4.0;
        assert!((figures["ece"] - expected).abs() < 1e-6, "{figures:?}");
    }

    #[test]
    fn ties_count_half_and_one_kind_has_no_curve() {
        let tied = vec![(0.5, true), (0.5, false), (0.7, true)];
        close(area_under_roc(tied).expect("both kinds"), 0.75);
        assert_eq!(area_under_roc(vec![(0.5, true), (0.1, true)]), None);
        let one = scores(ProblemType::SingleLabel, 2, &[1.0, 0.0], &[0.0]);
        assert!(!one.figures().contains_key("auroc"));
    }

    #[test]
    fn labels_are_right_together_and_numbers_have_errors() {
        let given = [2.0, -1.0, 1.0, 3.0];
        let all = scores(ProblemType::MultiLabel, 2, &given, &[1.0, 0.0, 0.0, 1.0]);
        let figures = all.figures();
        close(figures["accuracy"], 0.5);
        close(figures["f1"], f64::midpoint(2.0 / 3.0, 1.0));
        let table = vec![vec![0, 1], vec![0, 1], vec![1, 0], vec![0, 1]];
        assert_eq!(all.table(), Some(table));
        let numbers = scores(ProblemType::Regression, 1, &[1.0, 2.0], &[0.0, 4.0]);
        let figures = numbers.figures();
        close(figures["mse"], 2.5);
        close(figures["mae"], 1.5);
        close(figures["r2"], 1.0 - 5.0 / 8.0);
        assert_eq!(numbers.table(), None);
    }
}
