//! Looks through the labels of data files, before anything is tokenized: how many classes there
//! are, what they are called, and which problem the labels are of.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::classes::{ClassReading, unfolded};
use crate::data::read::columns::{column_name, wanted};
use crate::data::read::data_file::DataFile;
use crate::data::read::error::TableError;
use crate::data::read::parquet::ParquetTable;
use crate::terms::{Format, ProblemType};

/// The most names of classes; more are texts rather than labels.
const MOST_NAMES: usize = 1000;

/// What the labels of some files are.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a kind of label that was met"
)]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelScan {
    /// The column of labels or tags, by its name in the file.
    pub column: String,
    /// Whether words have tags.
    pub has_tags: bool,
    /// Whether texts have labels.
    pub has_labels: bool,
    /// Names of classes from the files' metadata.
    pub class_names: Option<Vec<String>>,
    /// Labels that are whole numbers, true or false; the highest of them.
    pub highest: Option<u64>,
    /// Whether a label is a number with a fraction, or below 0.
    pub has_fractions: bool,
    /// Whether labels are true and false.
    pub has_booleans: bool,
    /// Labels that are texts, at most so many.
    pub names: BTreeSet<String>,
    /// Lengths of labels that are lists.
    pub lengths: BTreeSet<usize>,
    /// Whether a number in a list is neither 0 nor 1.
    pub has_other_numbers: bool,
    /// Rows with a label.
    pub rows: u64,
}

/// Looks through all labels of files.
///
/// # Errors
/// A file cannot be read.
pub fn scan_labels(
    files: &[DataFile],
    columns: &BTreeMap<String, String>,
    problem: Option<ProblemType>,
) -> Result<LabelScan, TableError> {
    let mut scan = LabelScan::default();
    for file in files {
        let all = ParquetTable::open(file, &wanted(Format::Classification, columns))?;
        let (labels, tags) = (all.has_column("label"), all.has_column("tags"));
        scan.has_labels |= labels;
        scan.has_tags |= tags;
        let is_of_words = match problem {
            Some(problem) => problem == ProblemType::Token,
            None => tags && !labels,
        };
        let canonical = if is_of_words { "tags" } else { "label" };
        scan.column = column_name(canonical, columns);
        let mut own = wanted(Format::Classification, columns);
        own.retain(|column| column.canonical == canonical);
        for column in &mut own {
            column.instead = None;
            column.optional = true;
        }
        let table = ParquetTable::open(file, &own)?;
        if let Some(names) = table.class_names(canonical) {
            scan.class_names.get_or_insert(names);
        }
        if !table.has_column(canonical) {
            continue;
        }
        for group in table.row_groups() {
            for batch in table.read(&group)? {
                let batch = batch?;
                for row in 0..batch.rows() {
                    scan.add(batch.cell(canonical, row)?, is_of_words);
                }
            }
        }
    }
    Ok(scan)
}

impl LabelScan {
    /// Joins what was found in other files.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.names.extend(other.names);
        self.lengths.extend(other.lengths);
        Self {
            has_tags: self.has_tags || other.has_tags,
            has_labels: self.has_labels || other.has_labels,
            class_names: self.class_names.or(other.class_names),
            highest: self.highest.max(other.highest),
            has_fractions: self.has_fractions || other.has_fractions,
            has_booleans: self.has_booleans || other.has_booleans,
            has_other_numbers: self.has_other_numbers || other.has_other_numbers,
            rows: self.rows + other.rows,
            ..self
        }
    }

    fn add(&mut self, label: Value, is_of_words: bool) {
        self.rows += u64::from(!label.is_null());
        match unfolded(label) {
            Value::Array(items) => {
                if !is_of_words {
                    self.lengths.insert(items.len());
                }
                for item in &items {
                    let is_bit = [Some(0), Some(1)].contains(&item.as_u64())
                        || [Some(0.0), Some(1.0)].contains(&item.as_f64())
                        || item.is_boolean();
                    self.has_other_numbers |= item.is_number() && !is_bit;
                    self.add_one(item);
                }
            }
            one => self.add_one(&one),
        }
    }

    fn add_one(&mut self, label: &Value) {
        match label {
            Value::Bool(_) => {
                self.has_booleans = true;
                self.highest = self.highest.max(Some(1));
            }
            Value::Number(number) => match number.as_u64() {
                Some(id) => self.highest = self.highest.max(Some(id)),
                // What is left out or has no label is written below 0.
                None if number.as_i64().is_some_and(|id| id == -1 || id == -100) => {}
                None => self.has_fractions = true,
            },
            Value::String(name) if self.names.len() <= MOST_NAMES => {
                self.names.insert(name.clone());
            }
            _ => {}
        }
    }

    fn is_of_lists(&self) -> bool {
        !self.lengths.is_empty()
    }

    fn has_numbers(&self) -> bool {
        self.highest.is_some() || self.has_fractions
    }

    /// Returns the problem where the labels leave only one; else what they may be.
    pub fn problem(&self) -> Result<ProblemType, &'static str> {
        if self.has_tags && !self.has_labels {
            return Ok(ProblemType::Token);
        }
        if self.has_tags {
            return Err("there are texts with labels and words with tags");
        }
        match (self.is_of_lists(), self.class_names.is_some()) {
            (true, true) => Ok(ProblemType::MultiLabel),
            (true, false) if !self.has_numbers() => Ok(ProblemType::MultiLabel),
            (true, false) if self.has_other_numbers && self.has_fractions => {
                Ok(ProblemType::Regression)
            }
            (true, false) => Err("lists of numbers may be several labels, or numbers to predict"),
            (false, true) => Ok(ProblemType::SingleLabel),
            (false, false) if self.has_fractions => Ok(ProblemType::Regression),
            (false, false) if self.has_booleans || !self.has_numbers() => {
                Ok(ProblemType::SingleLabel)
            }
            (false, false) => Err("whole numbers may be classes, or numbers to predict"),
        }
    }

    /// Returns how labels are read for a problem, with the names that are given or those of the
    /// data.
    ///
    /// # Errors
    /// The labels are not of such a problem, in words.
    pub fn reading(
        &self,
        problem: ProblemType,
        given: Option<&[String]>,
    ) -> Result<ClassReading, String> {
        let column = &self.column;
        if self.rows == 0 {
            return Err(format!("no row has a label in `{column}`"));
        }
        let is_of_lists = self.is_of_lists();
        let lists_holding = problem == ProblemType::MultiLabel
            && (!self.names.is_empty()
                || self.class_names.is_some()
                || self.lengths.len() > 1
                || self.has_other_numbers && !self.has_fractions);
        let own_names = || {
            let named = given.map(<[String]>::to_vec);
            named
                .or_else(|| self.class_names.clone())
                .unwrap_or_else(|| self.names_in_order())
        };
        let classes = |names: Vec<String>| {
            let count = self.highest.map_or(0, |highest| highest as usize + 1);
            let labels = if names.is_empty() { count } else { names.len() };
            if count > labels && self.names.is_empty() {
                return Err(format!(
                    "`{column}` has class {}, and there are names of {labels} classes",
                    count - 1
                ));
            }
            if let Some(other) = self.names.iter().find(|name| !names.contains(name)) {
                return Err(format!(
                    "`{column}` has class `{other}`, which is none of {}",
                    names.join(", ")
                ));
            }
            if self.names.len() > MOST_NAMES || labels > MOST_NAMES {
                return Err(format!(
                    "`{column}` has more than {MOST_NAMES} classes, which are numbers or texts \
                    rather than labels"
                ));
            }
            if labels < 2 && problem != ProblemType::MultiLabel {
                return Err(format!(
                    "`{column}` has a single class, expected at least 2"
                ));
            }
            Ok((names, labels))
        };
        let (names, labels) = match problem {
            ProblemType::SingleLabel if is_of_lists => {
                return Err(format!("`{column}` has lists, and a text has one class"));
            }
            ProblemType::SingleLabel | ProblemType::Token if self.has_fractions => {
                return Err(format!(
                    "`{column}` has numbers with fractions or below 0, expected classes"
                ));
            }
            ProblemType::SingleLabel if self.has_booleans && given.is_none() => {
                (vec!["false".to_owned(), "true".to_owned()], 2)
            }
            ProblemType::SingleLabel | ProblemType::Token => classes(own_names())?,
            ProblemType::MultiLabel if !is_of_lists => {
                return Err(format!(
                    "`{column}` has no lists, expected a list of labels"
                ));
            }
            ProblemType::MultiLabel if lists_holding => classes(own_names())?,
            ProblemType::MultiLabel => {
                let width = self.lengths.last().copied().unwrap_or_default();
                (given.map(<[String]>::to_vec).unwrap_or_default(), width)
            }
            ProblemType::Regression => {
                let is_text = |name: &String| name.trim().parse::<f64>().is_err();
                if let Some(text) = self.names.iter().find(|name| is_text(name)) {
                    return Err(format!(
                        "`{column}` has texts such as `{text}`, expected numbers"
                    ));
                }
                let width = self.lengths.last().copied().unwrap_or(1);
                (given.map(<[String]>::to_vec).unwrap_or_default(), width)
            }
        };
        if labels == 0 {
            return Err(format!("`{column}` has empty lists only"));
        }
        if !names.is_empty() && names.len() != labels {
            return Err(format!(
                "`{column}` has {labels} numbers in a list, and there are {} names",
                names.len()
            ));
        }
        Ok(ClassReading {
            problem,
            names,
            labels,
            lists_holding,
        })
    }

    /// Returns the names in the data, by number where all are numbers.
    fn names_in_order(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.iter().cloned().collect();
        let numbers: Option<Vec<i64>> = names.iter().map(|name| name.parse().ok()).collect();
        if numbers.is_some() {
            names.sort_by_key(|name| name.parse::<i64>().unwrap_or_default());
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scan(labels: &[Value]) -> LabelScan {
        let mut scan = LabelScan {
            column: "label".to_owned(),
            has_labels: true,
            ..LabelScan::default()
        };
        for label in labels {
            scan.add(label.clone(), false);
        }
        scan
    }

    #[test]
    fn the_problem_follows_from_labels_that_leave_one() {
        for (labels, expected) in [
            (
                vec![json!("no"), json!("yes")],
                Ok(ProblemType::SingleLabel),
            ),
            (
                vec![json!(true), json!(false)],
                Ok(ProblemType::SingleLabel),
            ),
            (vec![json!(0.5), json!(2)], Ok(ProblemType::Regression)),
            (vec![json!(["a"]), json!([])], Ok(ProblemType::MultiLabel)),
            (vec![json!([0.5, -3.0])], Ok(ProblemType::Regression)),
        ] {
            assert_eq!(scan(&labels).problem(), expected, "{labels:?}");
        }
        for labels in [vec![json!(0), json!(1)], vec![json!([0, 1]), json!([1, 1])]] {
            assert!(scan(&labels).problem().is_err(), "{labels:?}");
        }
        let named = LabelScan {
            class_names: Some(vec!["a".to_owned(), "b".to_owned()]),
            ..scan(&[json!(0)])
        };
        assert_eq!(named.problem(), Ok(ProblemType::SingleLabel));
    }

    #[test]
    fn classes_are_counted_and_named_in_order() {
        let reading = |labels: &[Value], problem| scan(labels).reading(problem, None);
        let texts = [json!("10"), json!("9"), json!("10")];
        let of = reading(&texts, ProblemType::SingleLabel).expect("classes");
        assert_eq!((of.names, of.labels), (vec!["9".into(), "10".into()], 2));
        let of = reading(&[json!(0), json!(4)], ProblemType::SingleLabel).expect("classes");
        assert_eq!((of.names.len(), of.labels), (0, 5));
        let of = reading(&[json!([1, 0, 1])], ProblemType::MultiLabel).expect("labels");
        assert_eq!((of.labels, of.lists_holding), (3, false));
        let of = reading(&[json!(["b", "a"])], ProblemType::MultiLabel).expect("labels");
        assert_eq!((of.labels, of.lists_holding), (2, true));
        let of = reading(&[json!([0.5, 1.5])], ProblemType::Regression).expect("numbers");
        assert_eq!(of.labels, 2);
    }

    #[test]
    fn labels_of_another_problem_are_told() {
        for (labels, problem, said) in [
            (json!(0.5), ProblemType::SingleLabel, "fractions"),
            (json!([1]), ProblemType::SingleLabel, "lists"),
            (json!(1), ProblemType::MultiLabel, "no lists"),
            (json!("high"), ProblemType::Regression, "`high`"),
            (json!("a"), ProblemType::SingleLabel, "single class"),
            (Value::Null, ProblemType::SingleLabel, "no row"),
        ] {
            let error = scan(&[labels]).reading(problem, None).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
        let wrong = scan(&[json!([1, 0])]).reading(ProblemType::MultiLabel, Some(&["a".into()]));
        assert!(wrong.is_err_and(|error| error.contains("1 names")));
    }
}
