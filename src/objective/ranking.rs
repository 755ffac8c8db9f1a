//! How well vectors find what belongs to a text, among all positives and negatives of a set: recall
//! at k, the reciprocal rank, and nDCG at 10 with a gain of 1 for each text that belongs, Järvelin
//! and Kekäläinen 2002.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use crate::terms::{Unit, UnitKind};

/// Names of the figures, each with the number of texts that are looked at.
const RECALL: [(&str, usize); 3] = [("recall@1", 1), ("recall@5", 5), ("recall@10", 10)];
const NDCG: &str = "ndcg@10";
const RECIPROCAL_RANK: &str = "mrr@10";
/// Texts that are looked at.
const DEPTH: usize = 10;

/// Returns the mean figures over all anchors, each once, given the vectors of all texts in the
/// order of the units; none without rows.
pub fn ranking(vectors: &[f32], units: &[Unit]) -> BTreeMap<&'static str, f64> {
    let rows: Vec<Vec<u64>> = units
        .iter()
        .filter_map(|unit| match &unit.kind {
            UnitKind::Texts(texts) => Some(texts.iter().map(|(_, text)| *text).collect()),
            _ => None,
        })
        .collect();
    let count: usize = rows.iter().map(Vec::len).sum();
    let width = vectors.len().checked_div(count).unwrap_or(0);
    let (mut queries, mut texts) = (BTreeMap::new(), BTreeMap::new());
    let mut wanted: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut place = 0;
    for row in &rows {
        for (index, text) in row.iter().enumerate() {
            let side = if index == 0 { &mut queries } else { &mut texts };
            side.entry(*text)
                .or_insert_with(|| normalized(&vectors[place * width..][..width]));
            place += 1;
        }
        if let [anchor, positive, ..] = row[..] {
            wanted.entry(anchor).or_default().insert(positive);
        }
    }
    let queries: Vec<(u64, Vec<f32>)> = queries.into_iter().collect();
    let of_queries: Vec<[f64; 5]> = queries
        .par_iter()
        .filter_map(|(query, vector)| Some(figures(wanted.get(query)?, &nearest(vector, &texts))))
        .collect();
    if of_queries.is_empty() {
        return BTreeMap::new();
    }
    let mean = |index: usize| {
        let sum: f64 = of_queries.iter().map(|figures| figures[index]).sum();
        sum / of_queries.len() as f64
    };
    let names = RECALL
        .map(|(name, _)| name)
        .into_iter()
        .chain([NDCG, RECIPROCAL_RANK]);
    names
        .enumerate()
        .map(|(index, name)| (name, mean(index)))
        .collect()
}

fn normalized(vector: &[f32]) -> Vec<f32> {
    let squares: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    let length = squares.sqrt().max(1e-12);
    vector
        .iter()
        .map(|x| (f64::from(*x) / length) as f32)
        .collect()
}

/// Returns the nearest texts, the nearest first; of equally near ones in the order of their
/// numbers.
fn nearest(query: &[f32], texts: &BTreeMap<u64, Vec<f32>>) -> Vec<u64> {
    let mut scored: Vec<(f32, u64)> = texts
        .iter()
        .map(|(text, vector)| {
            let products = query.iter().zip(vector).map(|(x, y)| x * y);
            (products.sum::<f32>(), *text)
        })
        .collect();
    scored.sort_by(|(one, text), (other, another)| other.total_cmp(one).then(text.cmp(another)));
    scored
        .into_iter()
        .take(DEPTH)
        .map(|(_, text)| text)
        .collect()
}

/// Returns the recalls, nDCG and the reciprocal rank of one query.
fn figures(wanted: &BTreeSet<u64>, found: &[u64]) -> [f64; 5] {
    let is_hit = |text: &u64| wanted.contains(text);
    let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
    let recalls = RECALL.map(|(_, depth)| {
        let hits = found.iter().take(depth).filter(|text| is_hit(text)).count();
        hits as f64 / wanted.len() as f64
    });
    let gains = found.iter().enumerate().filter(|(_, text)| is_hit(text));
    let gained: f64 = gains.map(|(rank, _)| gain(rank)).sum();
    let best: f64 = (0..wanted.len().min(DEPTH)).map(gain).sum();
    let first = found.iter().position(is_hit);
    let reciprocal = first.map_or(0.0, |rank| 1.0 / (rank as f64 + 1.0));
    let [one, five, ten] = recalls;
    [one, five, ten, gained / best, reciprocal]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_their_formulas() {
        let wanted = BTreeSet::from([7, 8]);
        let found = [1, 7, 2, 3, 4, 5, 8, 9, 10, 11];
        let gain = |rank: f64| 1.0 / (rank + 1.0).log2();
        let ndcg = (gain(2.0) + gain(7.0)) / (gain(1.0) + gain(2.0));
        let expected = [0.0, 0.5, 1.0, ndcg, 0.5];
        for (found, expected) in figures(&wanted, &found).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
        }
        let none = figures(&wanted, &[1, 2]);
        assert!(none.iter().all(|figure| *figure <= 0.0), "{none:?}");
    }

    #[test]
    fn an_anchor_with_two_positives_is_one_query_and_a_text_is_looked_through_once() {
        // Anchors 1 and 1 with positives 2 and 3, and anchor 4 with positive 2 and negative 5.
        let units: Vec<Unit> = [vec![1, 2], vec![1, 3], vec![4, 2, 5]]
            .into_iter()
            .map(|texts: Vec<u64>| Unit {
                targets: 0..0,
                kind: UnitKind::Texts(texts.into_iter().map(|text| (0, text)).collect()),
            })
            .collect();
        let vectors = [
            [1.0, 0.0], // 1
            [0.9, 0.1], // 2
            [1.0, 0.0], // 1
            [0.8, 0.2], // 3
            [0.0, 1.0], // 4
            [0.9, 0.1], // 2
            [0.1, 0.9], // 5
        ];
        let found = ranking(&vectors.concat(), &units);
        // Of anchor 1 text 2 comes first, of anchor 4 text 2 comes last of three.
        assert!(
            (found["recall@1"] - f64::midpoint(0.5, 0.0)).abs() < 1e-12,
            "{found:?}"
        );
        assert!((found["recall@5"] - 1.0).abs() < 1e-12);
        assert!((found["mrr@10"] - f64::midpoint(1.0, 1.0 / 3.0)).abs() < 1e-12);
    }
}
