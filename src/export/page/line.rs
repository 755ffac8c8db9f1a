//! A line of a plot. It has fewer points than the run has steps, keeps outliers, and is drawn as a
//! path.

use std::fmt::Write;

/// A step and its value; `None` if it was not finite or is not known.
pub(super) type Point = (f64, Option<f64>);

/// The points that a section of a line is drawn with: first, last, lowest and highest, and a gap.
const OF_PART: usize = 5;

/// Returns about `most` points of a line at most; the lowest, the highest and every run of gaps
/// stay.
pub(super) fn thinned(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most {
        return points.to_vec();
    }
    let length = points.len().div_ceil((most / OF_PART).max(1));
    points
        .chunks(length)
        .flat_map(|part| outstanding(part).into_iter().map(|index| part[index]))
        .collect()
}

/// Returns the indices of the points that a section must keep, ascending.
fn outstanding(part: &[Point]) -> Vec<usize> {
    let known = || {
        part.iter()
            .enumerate()
            .filter_map(|(index, (_, value))| Some((index, (*value)?)))
    };
    let by_value = |left: &(usize, f64), right: &(usize, f64)| left.1.total_cmp(&right.1);
    let gap = part.iter().position(|(_, value)| value.is_none());
    let extremes = [known().min_by(by_value), known().max_by(by_value)]
        .into_iter()
        .flatten()
        .map(|(index, _)| index);
    let mut kept: Vec<usize> = extremes.chain(gap).chain([0, part.len() - 1]).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// Returns the path through points, which `place` puts on the page. It breaks at gaps, and a point
/// between two gaps becomes a dot.
pub(super) fn path(points: &[Point], place: impl Fn(f64, f64) -> (f64, f64)) -> String {
    let (mut path, mut is_drawing) = (String::new(), false);
    for (index, (step, value)) in points.iter().enumerate() {
        let Some(value) = value else {
            is_drawing = false;
            continue;
        };
        let (x, y) = place(*step, *value);
        let word = if is_drawing { "L" } else { "M" };
        let is_alone = !is_drawing && points.get(index + 1).is_none_or(|(_, next)| next.is_none());
        let dot = if is_alone { "h0" } else { "" };
        write!(path, "{word}{x:.1} {y:.1}{dot}").expect("a string takes every text");
        is_drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_and_gaps_outlive_thinning() {
        let mut points: Vec<Point> = (0..100_000)
            .map(|step| (f64::from(step), Some(f64::from(step % 7))))
            .collect();
        (points[31_234].1, points[77_777].1, points[50_000].1) = (Some(1e6), Some(-1e6), None);
        let kept = thinned(&points, 1000);
        assert!(kept.len() <= 1000 && kept.len() > 300, "{}", kept.len());
        for index in [0, 31_234, 50_000, 77_777, 99_999] {
            assert!(kept.contains(&points[index]), "point {index}");
        }
        assert!(
            kept.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "each once and in order"
        );
        assert_eq!(thinned(&points[..1000], 1000), points[..1000]);
        assert!(thinned(&[], 1000).is_empty());
        assert_eq!(thinned(&vec![(0.0, None); 3000], 1000).len(), 400);
    }

    #[test]
    fn a_path_is_broken_where_values_are_missing() {
        let points = [
            (0.0, None),
            (1.0, Some(1.0)),
            (2.0, Some(2.5)),
            (3.0, None),
            (4.0, Some(3.0)),
            (5.0, None),
        ];
        assert_eq!(
            path(&points, |x, y| (x, -y)),
            "M1.0 -1.0L2.0 -2.5M4.0 -3.0h0"
        );
        assert_eq!(path(&[(0.0, None)], |x, y| (x, y)), "");
    }
}
