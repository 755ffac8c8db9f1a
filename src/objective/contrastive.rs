//! `InfoNCE` of texts, van den Oord et al. 2018, arXiv:1807.03748. Row i of a step has an anchor
//! `a_i`, a positive `p_i` and, where the data has them, hard negatives. With `s(x, y)` the cosine
//! of two vectors over a temperature, the row loses -log softmax of `s(a_i, p_i)` among `s(a_i, d)`
//! over all positives and negatives d of the step. With `symmetric` its loss is the mean of that
//! and of the same from `p_i` to all anchors. The loss of a step is the mean over its rows.
//!
//! A positive of another row with the same anchor, and a text that is the row's own positive again,
//! are no negatives: they are left out of the softmax, and counted.
//!
//! With several widths the loss is a weighted sum of those of vectors cut to each width, Kusupati
//! et al. 2022, arXiv:2205.13147.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::Judged;
use super::figures::Figures;
use crate::terms::{Pooling, Slopes, Unit, UnitKind};

/// Share of rows whose anchor is nearest to its own positive.
const ACCURACY: &str = "accuracy";
/// Texts that are left out of a row's softmax.
const FALSE_NEGATIVES: &str = "false_negatives";

/// Settings of the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrastive {
    /// How the rows of a text's tokens become its vector.
    pub pooling: Pooling,
    /// The divisor of cosines; above 0.
    pub temperature: f64,
    /// Whether positives look for their anchors too.
    pub symmetric: bool,
    /// Widths to which vectors are cut, with the weight of each loss; none: the whole width alone.
    pub widths: Vec<(usize, f64)>,
}

/// The texts of one side: a view on vectors that lie one after the other.
struct Texts<'a> {
    vectors: &'a [f32],
    width: usize,
    /// Place and text of each.
    all: Vec<(usize, u64)>,
}

impl Texts<'_> {
    /// Returns the first numbers of each vector over their length, with the lengths.
    fn normalized(&self, width: usize) -> Vec<(Vec<f64>, f64)> {
        let of = |(place, _): &(usize, u64)| {
            let vector = &self.vectors[place * self.width..][..width];
            let vector: Vec<f64> = vector.iter().copied().map(f64::from).collect();
            let length = dot(&vector, &vector).sqrt().max(1e-12);
            (vector.into_iter().map(|x| x / length).collect(), length)
        };
        self.all.par_iter().map(of).collect()
    }
}

/// One direction: what queries look for, which texts they look through, and which of these are left
/// out.
struct Search<'a> {
    queries: &'a [(Vec<f64>, f64)],
    texts: &'a [(Vec<f64>, f64)],
    /// For each query the texts that are left out, ascending. The text it looks for has its index.
    left_out: &'a [Vec<usize>],
    temperature: f64,
}

/// The result of a search: losses, hits, and the derivatives of the sum of losses by normalized
/// queries and texts.
struct Searched {
    loss_sum: f64,
    hits: usize,
    of_queries: Vec<Vec<f64>>,
    of_texts: Vec<Vec<f64>>,
}

impl Search<'_> {
    fn run(&self) -> Searched {
        let rows: Vec<(f64, bool, Vec<f64>)> = (0..self.queries.len())
            .into_par_iter()
            .map(|index| self.row(index))
            .collect();
        let width = self.queries.first().map_or(0, |(query, _)| query.len());
        let mix = |weights: &mut dyn Iterator<Item = (f64, &Vec<f64>)>| {
            let mut sum = vec![0.0; width];
            for (weight, vector) in weights.filter(|(weight, _)| *weight != 0.0) {
                for (sum, x) in sum.iter_mut().zip(vector) {
                    *sum += weight * x;
                }
            }
            sum
        };
        let of_queries = rows.par_iter().map(|(_, _, weights)| {
            let texts = self.texts.iter().map(|(text, _)| text);
            mix(&mut weights.iter().copied().zip(texts))
        });
        let of_texts = (0..self.texts.len()).into_par_iter().map(|text| {
            let queries = self.queries.iter().map(|(query, _)| query);
            mix(&mut rows
                .iter()
                .map(|(_, _, weights)| weights[text])
                .zip(queries))
        });
        Searched {
            of_queries: of_queries.collect(),
            of_texts: of_texts.collect(),
            loss_sum: rows.iter().map(|(loss, ..)| loss).sum(),
            hits: rows.iter().filter(|(_, is_hit, _)| *is_hit).count(),
        }
    }

    /// Returns the loss of a query, whether nothing is nearer than what it looks for, and the
    /// derivative of its loss by the cosine of each text.
    fn row(&self, index: usize) -> (f64, bool, Vec<f64>) {
        let (query, _) = &self.queries[index];
        let mut scores: Vec<f64> = self
            .texts
            .iter()
            .map(|(text, _)| dot(query, text) / self.temperature)
            .collect();
        for left_out in &self.left_out[index] {
            scores[*left_out] = f64::NEG_INFINITY;
        }
        let own = scores[index];
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        let log_sum = largest + sum.ln();
        let mut slopes: Vec<f64> = scores
            .iter()
            .map(|score| (score - log_sum).exp() / self.temperature)
            .collect();
        slopes[index] -= 1.0 / self.temperature;
        (log_sum - own, own >= largest, slopes)
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(x, y)| x * y).sum()
}

/// Adds the derivative by a vector, given that by its normalized form n of length l:
/// (d - (d · n) n) / l.
fn through_norm(slopes: &mut [f64], normalized: &(Vec<f64>, f64), d: &[f64], factor: f64) {
    let (n, length) = normalized;
    let along = dot(d, n);
    for ((slope, d), n) in slopes.iter_mut().zip(d).zip(n) {
        *slope += factor * (d - along * n) / length;
    }
}

impl Contrastive {
    /// Judges the rows of a whole step, given the vectors of all their texts, one after the other
    /// in the order of the units. Rows of other kinds are passed over.
    pub fn judge(&self, vectors: &[f32], units: &[Unit]) -> Judged {
        let rows: Vec<&[(usize, u64)]> = units
            .iter()
            .filter_map(|unit| match &unit.kind {
                UnitKind::Texts(texts) => Some(&texts[..]),
                _ => None,
            })
            .filter(|texts| texts.len() >= 2)
            .collect();
        let count: usize = rows.iter().map(|texts| texts.len()).sum();
        let width = vectors.len().checked_div(count).unwrap_or(0);
        let (mut anchors, mut positives, mut negatives) = (Vec::new(), Vec::new(), Vec::new());
        let mut place = 0;
        for texts in &rows {
            for (index, (_, text)) in texts.iter().enumerate() {
                let side = match index {
                    0 => &mut anchors,
                    1 => &mut positives,
                    _ => &mut negatives,
                };
                side.push((place, *text));
                place += 1;
            }
        }
        let [by_anchor, by_positive] = left_out(&anchors, &positives, &negatives);
        let side = |all| Texts {
            vectors,
            width,
            all,
        };
        positives.extend(negatives);
        let (queries, texts) = (side(anchors), side(positives));
        let mut slopes = vec![0.0; vectors.len()];
        let (mut loss_sum, mut hits) = (0.0, 0);
        let whole = [(width, 1.0)];
        let widths = if self.widths.is_empty() {
            &whole[..]
        } else {
            &self.widths
        };
        let cuts = || {
            widths
                .iter()
                .map(|(cut, weight)| ((*cut).min(width), *weight))
        };
        let widest = cuts().map(|(cut, _)| cut).max().unwrap_or(width);
        for (cut, weight) in cuts() {
            let [a, d] = [&queries, &texts].map(|texts| texts.normalized(cut));
            let factor = weight / if self.symmetric { 2.0 } else { 1.0 };
            let mut add = |texts: &Texts, normalized: &[(Vec<f64>, f64)], of: &[Vec<f64>]| {
                for (((place, _), normalized), d) in texts.all.iter().zip(normalized).zip(of) {
                    let slopes = &mut slopes[place * width..][..cut];
                    through_norm(slopes, normalized, d, factor);
                }
            };
            let to_texts = Search {
                queries: &a,
                texts: &d,
                left_out: &by_anchor,
                temperature: self.temperature,
            }
            .run();
            loss_sum += factor * to_texts.loss_sum;
            if cut == widest {
                hits = to_texts.hits;
            }
            add(&queries, &a, &to_texts.of_queries);
            add(&texts, &d, &to_texts.of_texts);
            if self.symmetric {
                let to_anchors = Search {
                    queries: &d[..a.len()],
                    texts: &a,
                    left_out: &by_positive,
                    temperature: self.temperature,
                }
                .run();
                loss_sum += factor * to_anchors.loss_sum;
                add(&texts, &d, &to_anchors.of_queries);
                add(&queries, &a, &to_anchors.of_texts);
            }
        }
        let mut figures = Figures::default();
        if !rows.is_empty() {
            let weight = rows.len() as f64;
            let left_out: usize = by_anchor.iter().map(Vec::len).sum();
            figures.add_sum(ACCURACY, hits as f64, weight);
            figures.add_sum(FALSE_NEGATIVES, left_out as f64, weight);
        }
        Judged {
            loss_sum,
            weight: rows.len() as f64,
            slopes: Slopes::Each(slopes.into_iter().map(|slope| slope as f32).collect()),
            figures,
        }
    }
}

/// Returns for each row what its anchor must not take for a negative, among positives and then
/// negatives, and what its positive must not, among anchors.
fn left_out(
    anchors: &[(usize, u64)],
    positives: &[(usize, u64)],
    negatives: &[(usize, u64)],
) -> [Vec<Vec<usize>>; 2] {
    // The positives of each anchor, and the anchors of each positive, by text.
    let (mut wanted, mut wanting) = (BTreeMap::new(), BTreeMap::new());
    for ((_, anchor), (_, positive)) in anchors.iter().zip(positives) {
        let of_anchor: &mut BTreeSet<u64> = wanted.entry(*anchor).or_default();
        of_anchor.insert(*positive);
        let of_positive: &mut BTreeSet<u64> = wanting.entry(*positive).or_default();
        of_positive.insert(*anchor);
    }
    let others = |row: usize, known: &BTreeSet<u64>, texts: &mut dyn Iterator<Item = u64>| {
        let texts = texts.enumerate();
        let again = texts.filter(|(index, text)| *index != row && known.contains(text));
        again.map(|(index, _)| index).collect::<Vec<usize>>()
    };
    let text = |(_, text): &(usize, u64)| *text;
    let by_anchor = anchors.iter().enumerate().map(|(row, (_, anchor))| {
        let mut texts = positives.iter().chain(negatives).map(text);
        others(row, &wanted[anchor], &mut texts)
    });
    let by_positive = positives.iter().enumerate().map(|(row, (_, positive))| {
        let mut texts = anchors.iter().map(text);
        others(row, &wanting[positive], &mut texts)
    });
    [by_anchor.collect(), by_positive.collect()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 6;

    fn plain() -> Contrastive {
        Contrastive {
            pooling: Pooling::Mean,
            temperature: 0.2,
            symmetric: false,
            widths: Vec::new(),
        }
    }

    /// Rows of an anchor, a positive and `negatives` negatives; all texts differ.
    fn rows(count: usize, negatives: usize) -> Vec<Unit> {
        let each = 2 + negatives;
        (0..count)
            .map(|row| Unit {
                targets: row * each..(row + 1) * each,
                kind: UnitKind::Texts(
                    (0..each)
                        .map(|text| (row * each + text + 1, (row * each + text) as u64))
                        .collect(),
                ),
            })
            .collect()
    }

    fn drawn(texts: usize) -> Vec<f32> {
        (0..texts * WIDTH)
            .map(|place| (1.3 * place as f32 + 0.4).sin())
            .collect()
    }

    fn each(slopes: Slopes) -> Vec<f32> {
        match slopes {
            Slopes::Each(slopes) => slopes,
            Slopes::Same(slope) => panic!("{slope}"),
        }
    }

    #[test]
    fn one_row_alone_loses_nothing_and_two_lose_the_softmax_of_their_cosines() {
        let loss = |vectors: &[f32], units: &[Unit]| plain().judge(vectors, units).loss_sum;
        assert!(loss(&drawn(2), &rows(1, 0)).abs() < 1e-12);
        let unit = |place: usize| (0..WIDTH).map(move |x| if x == place { 2.0 } else { 0.0 });
        // The first anchor is its positive, and at a right angle to the other; the second is at a
        // right angle to both.
        let vectors: Vec<f32> = [0, 0, 1, 2].into_iter().flat_map(unit).collect();
        let expected = ((1.0 + (-5_f64).exp()).ln()) + 2_f64.ln();
        let judged = plain().judge(&vectors, &rows(2, 0));
        assert!(
            (judged.loss_sum - expected).abs() < 1e-9,
            "{}",
            judged.loss_sum
        );
        assert_eq!(judged.weight.to_bits(), 2_f64.to_bits());
        assert!((judged.figures.means()[ACCURACY] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn slopes_are_derivatives() {
        let variants = [
            plain(),
            Contrastive {
                symmetric: true,
                ..plain()
            },
            Contrastive {
                symmetric: true,
                widths: vec![(2, 0.5), (4, 1.0), (WIDTH, 2.0)],
                ..plain()
            },
        ];
        for loss in variants {
            for negatives in [0, 2] {
                let mut units = rows(4, negatives);
                // The third row has the anchor of the first, and one negative is its positive.
                let first = match &units[0].kind {
                    UnitKind::Texts(texts) => texts.clone(),
                    _ => Vec::new(),
                };
                if let UnitKind::Texts(texts) = &mut units[2].kind {
                    texts[0].1 = first[0].1;
                    if negatives > 0 {
                        texts[2].1 = first[1].1;
                    }
                }
                let vectors = drawn(4 * (2 + negatives));
                let slopes = each(loss.judge(&vectors, &units).slopes);
                for (place, slope) in slopes.iter().enumerate() {
                    let at = |by: f32| {
                        let mut moved = vectors.clone();
                        moved[place] += by;
                        loss.judge(&moved, &units).loss_sum
                    };
                    let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
                    assert!(
                        (f64::from(*slope) - expected).abs() < 2e-3,
                        "{place}: {slope}, not {expected}, {loss:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_texts_are_no_negatives_and_are_counted() {
        let vectors = drawn(4);
        let mut units = rows(2, 0);
        if let UnitKind::Texts(texts) = &mut units[1].kind {
            texts[0].1 = 0; // The anchor of the first row again.
        }
        let judged = plain().judge(&vectors, &units);
        assert!(judged.loss_sum.abs() < 1e-12, "{}", judged.loss_sum);
        assert!((judged.figures.means()[FALSE_NEGATIVES] - 1.0).abs() < 1e-12);
        assert!(each(judged.slopes).iter().all(|slope| *slope == 0.0));
    }
}
