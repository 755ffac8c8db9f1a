//! `split`: which rows of a data set are taken, in the syntax of Python's `datasets`: `train`,
//! `train[:20%]`, `train[100:-50]`, `train+validation`
//! (<https://huggingface.co/docs/datasets/loading#slice-splits>).

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// The pattern of a valid `split` in ECMA 262's syntax, for the schema.
pub(super) const PATTERN: &str = concat!(
    r"^ *([A-Za-z0-9_.]+(\[(-?[0-9][0-9_]*%?)?:(-?[0-9][0-9_]*%?)?\])?",
    r"|\[(-?[0-9][0-9_]*%?)?:(-?[0-9][0-9_]*%?)?\])",
    r"( *\+ *[A-Za-z0-9_.]+(\[(-?[0-9][0-9_]*%?)?:(-?[0-9][0-9_]*%?)?\])?)* *$",
);
const EXPECTED: &str = "expected a split with or without a slice, such as `train`, `train[:20%]`, \
    `train[100:]` or `train+validation`";
static PART: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(?P<name>[A-Za-z0-9_.]+)?",
        r"(\[((?P<from>-?[0-9][0-9_]*)(?P<from_percent>%)?)?",
        r":((?P<to>-?[0-9][0-9_]*)(?P<to_percent>%)?)?\])?$",
    ))
    .expect("the pattern is valid")
});

/// Splits, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The text as written.
    pub written: String,
    /// At least one part.
    pub parts: Vec<SplitPart>,
}

/// A split, or a slice of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitPart {
    /// The split's name; `None` where only a slice was written.
    pub name: Option<String>,
    written: String,
    from: Option<i64>,
    to: Option<i64>,
    is_percent: bool,
}

impl Split {
    /// The split of data that name no split.
    pub const TRAIN: &str = "train";

    /// Parses a `split` value.
    ///
    /// # Errors
    /// Returns a message if the text is not valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<SplitPart> = text
            .split('+')
            .map(|part| SplitPart::parse(part.trim()))
            .collect::<Result<_, _>>()?;
        let twice = parts.iter().enumerate().find(|(place, part)| {
            parts[..*place]
                .iter()
                .any(|other| other.name() == part.name())
        });
        if let Some((_, part)) = twice {
            return Err(format!(
                "`{text}` names the split `{}` twice, expected each once: its rows have one status \
                each",
                part.name()
            ));
        }
        Ok(Self {
            written: text.to_owned(),
            parts,
        })
    }

    /// Returns the whole split of a name.
    pub fn whole(name: &str) -> Self {
        let part = SplitPart {
            name: Some(name.to_owned()),
            written: name.to_owned(),
            from: None,
            to: None,
            is_percent: false,
        };
        Self {
            written: name.to_owned(),
            parts: vec![part],
        }
    }
}

impl SplitPart {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no split, {EXPECTED}");
        let found = PART
            .captures(text)
            .filter(|_| !text.is_empty())
            .ok_or_else(wrong)?;
        let number = |name: &str| {
            found
                .name(name)
                .map(|digits| {
                    digits
                        .as_str()
                        .replace('_', "")
                        .parse::<i64>()
                        .map_err(|_| wrong())
                })
                .transpose()
        };
        let (from, to) = (number("from")?, number("to")?);
        let percents = [
            (from, found.name("from_percent")),
            (to, found.name("to_percent")),
        ];
        let marks: Vec<bool> = percents
            .iter()
            .filter(|(bound, _)| bound.is_some())
            .map(|(_, mark)| mark.is_some())
            .collect();
        if marks.iter().any(|mark| *mark != marks[0]) {
            return Err(format!(
                "`{text}` mixes percent and rows, expected one of them on both sides of `:`"
            ));
        }
        let is_percent = marks.first().copied().unwrap_or(false);
        if let Some(bound) = [from, to]
            .into_iter()
            .flatten()
            .find(|bound| is_percent && bound.abs() > 100)
        {
            return Err(format!("`{text}` has {bound}%, expected -100% to 100%"));
        }
        let name = found.name("name").map(|name| name.as_str().to_owned());
        Ok(Self {
            name,
            written: text.to_owned(),
            from,
            to,
            is_percent,
        })
    }

    /// Returns the split's name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(Split::TRAIN)
    }

    /// Returns the rows that are taken of a split with this many rows. Percents are rounded to the
    /// nearest row, halves to the even one, as `datasets` does.
    ///
    /// A bound is beyond the rows (`datasets` silently takes those that exist), or no row is left.
    /// The message has both sides.
    /// # Errors
    /// A bound is beyond the rows (`datasets` takes what there is without a word), or none is left;
    /// both sides in words.
    pub fn rows(&self, rows: u64) -> Result<Range<u64>, String> {
        let absolute = |bound: i64| {
            let bound = if self.is_percent {
                (bound as f64 * rows as f64 / 100.0).round_ties_even() as i64
            } else {
                bound
            };
            let place = if bound < 0 {
                i128::from(bound) + i128::from(rows)
            } else {
                i128::from(bound)
            };
            let is_within = (0..=i128::from(rows)).contains(&place);
            is_within.then_some(place as u64).ok_or_else(|| {
                format!(
                    "`{}` asks for row {}, split `{}` has {rows} rows",
                    self.written,
                    bound.unsigned_abs(),
                    self.name()
                )
            })
        };
        let from = self.from.map_or(Ok(0), absolute)?;
        let to = self.to.map_or(Ok(rows), absolute)?;
        if from >= to && rows > 0 {
            return Err(format!(
                "`{}` takes no row of the {rows} rows of split `{}`",
                self.written,
                self.name()
            ));
        }
        Ok(from..to.max(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of `ReadInstruction.from_spec(..).to_absolute(..)` of `datasets` 5.2.0.
    #[test]
    fn slices_take_the_rows_that_datasets_takes() {
        for (text, rows, expected) in [
            ("train", 7, 0..7),
            ("train[:20%]", 1000, 0..200),
            ("train[10:]", 12, 10..12),
            ("train[-100:]", 250, 150..250),
            ("train[:1_000]", 1000, 0..1000),
            ("train[10%:20%]", 1000, 100..200),
            ("train[:-5%]", 100, 0..95),
            ("train[33%:66%]", 10, 3..7),
            ("train[:50%]", 5, 0..2),
            ("train[50%:]", 5, 2..5),
            ("train[:50%]", 7, 0..4),
            ("train[:]", 3, 0..3),
            ("[:2]", 3, 0..2),
        ] {
            let split = Split::parse(text).expect(text);
            assert_eq!(split.parts[0].rows(rows), Ok(expected), "{text} of {rows}");
        }
        let both = Split::parse("train[:10%]+validation").expect("two splits");
        assert_eq!(
            both.parts.iter().map(SplitPart::name).collect::<Vec<_>>(),
            ["train", "validation"]
        );
    }

    #[test]
    fn what_is_no_slice_or_takes_nothing_is_told_with_both_sides() {
        for (text, part) in [
            ("", "is no split"),
            (
                "train[",
                "`train[` is no split, expected a split with or without a slice",
            ),
            ("train[:20%](pct1_dropremainder)", "is no split"),
            ("train[1:2:3]", "is no split"),
            ("train[:1.5%]", "is no split"),
            ("train+", "is no split"),
            ("train[:99999999999999999999]", "is no split"),
            ("train[10%:20]", "mixes percent and rows"),
            ("train[:120%]", "has 120%, expected -100% to 100%"),
            ("train[:5]+train[-5:]", "names the split `train` twice"),
        ] {
            let error = Split::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, rows, expected) in [
            (
                "train[:1000]",
                500,
                "`train[:1000]` asks for row 1000, split `train` has 500 rows",
            ),
            (
                "train[-100:]",
                50,
                "`train[-100:]` asks for row 100, split `train` has 50 rows",
            ),
            (
                "train[5:5]",
                50,
                "`train[5:5]` takes no row of the 50 rows of split `train`",
            ),
            (
                "test[:1%]",
                10,
                "`test[:1%]` takes no row of the 10 rows of split `test`",
            ),
        ] {
            let split = Split::parse(text).expect(text);
            assert_eq!(
                split.parts[0].rows(rows),
                Err(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn the_pattern_of_the_schema_takes_what_is_read() {
        let pattern = Regex::new(PATTERN).expect("valid");
        for text in [
            "train",
            "train[:20%]",
            "[10:]",
            "a.b[-1:5] + test",
            "train[:1_000]",
        ] {
            assert!(
                pattern.is_match(text) && Split::parse(text).is_ok(),
                "{text}"
            );
        }
        for text in ["train[", "train[1:2:3]", "a-b", "train[:20%](x)"] {
            assert!(
                !pattern.is_match(text) && Split::parse(text).is_err(),
                "{text}"
            );
        }
    }
}
