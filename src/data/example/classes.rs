//! Labels of texts and words as numbers: a class, several labels, or what is to be predicted; and
//! the margins of pairs.

use serde_json::Value;

use super::conversation_error::ConversationError;
use crate::terms::{MarginSource, ProblemType};

/// How the numbers of a row are read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelReading {
    /// The margin of a pair.
    Margin(MarginSource),
    /// The label of a text, or those of its words.
    Classes(ClassReading),
}

/// How labels are read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassReading {
    /// The problem.
    pub problem: ProblemType,
    /// The names of classes or labels, in order; empty where they have none.
    pub names: Vec<String>,
    /// The number of classes, labels or numbers.
    pub labels: usize,
    /// Whether several labels are a list of those that hold, rather than a number for each.
    pub lists_holding: bool,
}

/// A text with its label, or words with their tags.
#[derive(Debug, Clone, PartialEq)]
pub enum Labeled {
    /// A text, or a pair of texts.
    Text {
        /// The text, or the first one.
        text: String,
        /// The second text.
        pair: Option<String>,
        /// The label.
        values: Vec<f32>,
    },
    /// Words with a class each, if they have one.
    Words {
        /// The words.
        words: Vec<String>,
        /// The class of each.
        classes: Vec<Option<u32>>,
    },
}

/// Returns a number from a number, or from a text of one.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(holds) => Some(f64::from(u8::from(*holds))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number| number.is_finite())
}

/// Returns a list that is written as JSON text as the list; anything else as it is.
pub(super) fn unfolded(value: Value) -> Value {
    let is_list = |text: &str| text.trim_start().starts_with('[');
    match &value {
        Value::String(text) if is_list(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    }
}

impl ClassReading {
    fn expected(&self) -> String {
        let labels = self.labels;
        let shown = |name: &String| format!("`{name}`");
        match self.problem {
            ProblemType::SingleLabel | ProblemType::Token if self.names.is_empty() => {
                format!("a class from 0 to {}", labels - 1)
            }
            ProblemType::SingleLabel | ProblemType::Token => {
                let first: Vec<String> = self.names.iter().take(5).map(shown).collect();
                let more = if labels > 5 { ", .." } else { "" };
                format!(
                    "a class from 0 to {}, or one of {}{more}",
                    labels - 1,
                    first.join(", ")
                )
            }
            ProblemType::MultiLabel if self.lists_holding => {
                format!("a list of those of {labels} labels that hold")
            }
            ProblemType::MultiLabel => format!("a list of {labels} numbers from 0 to 1"),
            ProblemType::Regression if labels == 1 => "a number".to_owned(),
            ProblemType::Regression => format!("a list of {labels} numbers"),
        }
    }

    pub(super) fn refused(&self, found: &Value) -> ConversationError {
        ConversationError::ClassLabel {
            found: found.clone(),
            expected: self.expected(),
        }
    }

    /// Returns the class that a value names: by its id, or by its name.
    pub(super) fn class(&self, value: &Value) -> Result<u32, ConversationError> {
        let by_name = |name: &str| self.names.iter().position(|other| other == name);
        let found = match value {
            Value::String(name) => by_name(name),
            Value::Bool(holds) => by_name(&holds.to_string()).or(Some(usize::from(*holds))),
            Value::Number(id) => {
                let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
                id.filter(|id| *id < self.labels)
            }
            _ => None,
        };
        found
            .and_then(|class| u32::try_from(class).ok())
            .ok_or_else(|| self.refused(value))
    }

    /// Returns the numbers of a label.
    pub(super) fn values(&self, label: &Value) -> Result<Vec<f32>, ConversationError> {
        let refused = || self.refused(label);
        let numbers = |items: &[Value]| -> Option<Vec<f32>> {
            let numbers: Option<Vec<f32>> = items
                .iter()
                .map(|item| number(item).map(|number| number as f32))
                .collect();
            numbers.filter(|numbers| numbers.len() == self.labels)
        };
        match (self.problem, label) {
            (ProblemType::SingleLabel | ProblemType::Token, _) => {
                Ok(vec![self.class(label)? as f32])
            }
            (ProblemType::MultiLabel, Value::Array(items)) if self.lists_holding => {
                let mut values = vec![0.0; self.labels];
                for item in items {
                    values[self.class(item)? as usize] = 1.0;
                }
                Ok(values)
            }
            (ProblemType::MultiLabel, Value::Array(items)) => numbers(items)
                .filter(|values| values.iter().all(|value| (0.0..=1.0).contains(value)))
                .ok_or_else(refused),
            (ProblemType::Regression, Value::Array(items)) => numbers(items).ok_or_else(refused),
            (ProblemType::Regression, one) if self.labels == 1 => {
                let number = number(one).ok_or_else(refused)?;
                Ok(vec![number as f32])
            }
            _ => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(problem: ProblemType, names: &[&str], labels: usize) -> ClassReading {
        ClassReading {
            problem,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            labels,
            lists_holding: false,
        }
    }

    #[test]
    fn classes_have_ids_and_names() {
        let of = reading(ProblemType::SingleLabel, &["no", "yes"], 2);
        for (label, expected) in [(json!(0), 0.0), (json!("yes"), 1.0), (json!(true), 1.0)] {
            assert_eq!(of.values(&label), Ok(vec![expected]), "{label}");
        }
        for label in [json!(2), json!(-1), json!("maybe"), json!(0.5), json!([1])] {
            let error = of.values(&label).expect_err("no class").to_string();
            assert!(
                error.contains("from 0 to 1, or one of `no`, `yes`"),
                "{error}"
            );
        }
    }

    #[test]
    fn several_labels_are_numbers_or_those_that_hold() {
        let each = reading(ProblemType::MultiLabel, &[], 3);
        assert_eq!(each.values(&json!([1, 0, 0.5])), Ok(vec![1.0, 0.0, 0.5]));
        for label in [
            json!([1, 0]),
            json!([1, 0, 2]),
            json!(1),
            json!([1, 0, null]),
        ] {
            assert!(each.values(&label).is_err(), "{label}");
        }
        let holding = ClassReading {
            lists_holding: true,
            ..reading(ProblemType::MultiLabel, &["a", "b", "c"], 3)
        };
        assert_eq!(holding.values(&json!(["c", 0])), Ok(vec![1.0, 0.0, 1.0]));
        assert_eq!(holding.values(&json!([])), Ok(vec![0.0; 3]));
        assert!(holding.values(&json!(["d"])).is_err());
    }

    #[test]
    fn numbers_to_predict_may_be_texts_of_them() {
        let one = reading(ProblemType::Regression, &[], 1);
        assert_eq!(one.values(&json!("-2.5")), Ok(vec![-2.5]));
        assert_eq!(one.values(&json!([3])), Ok(vec![3.0]));
        assert!(one.values(&json!("high")).is_err());
        let two = reading(ProblemType::Regression, &[], 2);
        assert_eq!(two.values(&json!([0.5, -1])), Ok(vec![0.5, -1.0]));
        assert!(two.values(&json!(0.5)).is_err());
    }
}
