//! Axes: round tick values over a range, and their labels.

/// The range of values that labels show without a power of ten.
const PLAIN: std::ops::Range<f64> = 0.01..1e6;
/// A range that is narrower than this share of its values counts as a single value.
const NARROW: f64 = 1e-9;

/// A range with ticks at multiples of one, two or five times a power of ten.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    /// The tick values, ascending.
    pub ticks: Vec<f64>,
    /// The power of ten that ticks are multiples of.
    decade: i32,
    /// The power of ten that labels are divided by.
    exponent: i32,
}

impl Axis {
    /// Returns an axis from the tick at or below `low` to the one at or above `high`, with about
    /// `wanted` ticks.
    pub fn around(low: f64, high: f64, wanted: usize) -> Self {
        let (low, high) = widened(low, high);
        let (multiple, decade) = step((high - low) / wanted as f64);
        let size = multiple * power(decade);
        let (first, last) = ((low / size + NARROW).floor(), (high / size - NARROW).ceil());
        let ticks: Vec<f64> = (0..=(last - first) as usize)
            .map(|index| (first + index as f64) * size)
            .collect();
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        let largest = low.abs().max(high.abs());
        let exponent = if PLAIN.contains(&largest) {
            0
        } else {
            largest.log10().floor() as i32
        };
        Self {
            low,
            high,
            ticks,
            decade,
            exponent,
        }
    }

    /// Returns an axis from 0 to the last step, with ticks at whole steps.
    pub fn of_steps(last: f64, wanted: usize) -> Self {
        let last = last.max(1.0);
        let (multiple, decade) = step((last / wanted as f64).max(1.0));
        let size = multiple * power(decade);
        let ticks = (0..=(last / size) as usize)
            .map(|index| index as f64 * size)
            .collect();
        Self {
            low: 0.0,
            high: last,
            ticks,
            decade,
            exponent: 0,
        }
    }

    /// Returns the position of a value: 0 at the low end, 1 at the high one.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Returns the label of a tick.
    pub fn label(&self, tick: f64) -> String {
        let decimals = (self.exponent - self.decade).max(0) as usize;
        // A zero has no sign.
        let value = tick / power(self.exponent) + 0.0;
        with_groups(&format!("{value:.decimals$}"))
    }

    /// Returns the factor of the labels, unless it is 1.
    pub fn factor(&self) -> Option<String> {
        let digit = |c: char| match c {
            '-' => '⁻',
            c => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹']
                [c.to_digit(10).unwrap_or(0) as usize],
        };
        (self.exponent != 0).then(|| {
            format!(
                "×10{}",
                self.exponent
                    .to_string()
                    .chars()
                    .map(digit)
                    .collect::<String>()
            )
        })
    }
}

/// Widens a range until it has room for ticks.
fn widened(low: f64, high: f64) -> (f64, f64) {
    let largest = low.abs().max(high.abs());
    if high - low > NARROW * largest && largest > 1e-300 {
        (low, high)
    } else if largest > 1e-300 {
        (low - largest / 10.0, high + largest / 10.0)
    } else {
        (0.0, 1.0)
    }
}

/// Returns the round number at or above a size, as one, two or five times a power of ten.
fn step(size: f64) -> (f64, i32) {
    let decade = size.log10().floor() as i32;
    let round = |multiple: f64| size <= multiple * power(decade) * (1.0 + NARROW);
    [1.0, 2.0, 5.0]
        .into_iter()
        .find(|multiple| round(*multiple))
        .map_or((1.0, decade + 1), |multiple| (multiple, decade))
}

fn power(decade: i32) -> f64 {
    10_f64.powi(decade)
}

/// Groups whole digits by thousands.
pub(super) fn with_groups(number: &str) -> String {
    let (sign, number) = number
        .strip_prefix('-')
        .map_or(("", number), |rest| ("-", rest));
    let whole = number.split('.').next().unwrap_or_default().len();
    let comma = |index: usize| {
        if index > 0 && index < whole && (whole - index).is_multiple_of(3) {
            ","
        } else {
            ""
        }
    };
    let digits = number
        .char_indices()
        .map(|(index, c)| format!("{}{c}", comma(index)));
    sign.chars().map(String::from).chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> (Vec<String>, Option<String>) {
        let axis = Axis::around(low, high, 5);
        (
            axis.ticks.iter().map(|tick| axis.label(*tick)).collect(),
            axis.factor(),
        )
    }

    #[track_caller]
    fn holds(low: f64, high: f64, expected: &str, factor: &str) {
        let (found, said) = labels(low, high);
        assert_eq!(
            (
                found.join(" ").as_str(),
                said.as_deref().unwrap_or_default()
            ),
            (expected, factor)
        );
    }

    #[test]
    fn ticks_are_round_and_hold_the_range() {
        holds(0.0, 1.0, "0.0 0.2 0.4 0.6 0.8 1.0", "");
        holds(3.2, 6.17, "3 4 5 6 7", "");
        holds(-1.0, 1.0, "-1.0 -0.5 0.0 0.5 1.0", "");
        holds(0.0, 7042.0, "0 2,000 4,000 6,000 8,000", "");
        holds(0.0, 2e-3, "0.0 0.5 1.0 1.5 2.0", "×10⁻³");
        holds(0.0, 3.4e20, "0 1 2 3 4", "×10²⁰");
        holds(5.0, 5.0, "4.4 4.6 4.8 5.0 5.2 5.4 5.6", "");
        holds(0.0, 0.0, "0.0 0.2 0.4 0.6 0.8 1.0", "");
        holds(1.0, 1.0 + 1e-15, "0.90 0.95 1.00 1.05 1.10", "");
    }

    #[test]
    fn no_finite_range_asks_for_many_ticks() {
        for (low, high) in [
            (-1e300, 1e300),
            (0.0, 1e-290),
            (1e-299, 1e300),
            (1e15, 1e15 + 1e7),
            (0.0, f64::MIN_POSITIVE),
        ] {
            let axis = Axis::around(low, high, 5);
            assert!(
                (2..=12).contains(&axis.ticks.len()),
                "{low} {high}: {axis:?}"
            );
            assert!(
                axis.ticks
                    .iter()
                    .all(|tick| (0.0..=1.0).contains(&axis.share(*tick))),
                "{axis:?}"
            );
        }
    }

    #[test]
    fn steps_are_whole() {
        let of = |last| Axis::of_steps(last, 5).ticks;
        assert_eq!(of(0.0), [0.0, 1.0]);
        assert_eq!(of(3.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(of(420.0), [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert!((Axis::of_steps(420.0, 5).share(420.0) - 1.0).abs() < 1e-12);
    }
}
