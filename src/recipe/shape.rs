//! The shapes of values that the recipe's keys may hold. The reader states them as it takes each
//! key, so that `rankine schema` and `check` cannot differ.

use std::ops::{Bound, RangeBounds};

use serde_json::{Map, Number, Value, json};

use crate::terms::NOT_VARIABLES;

/// The shape of a value. Blanks are not part of it: every key that is not required may be blank.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// A text that is not empty.
    Text,
    /// A text that matches a pattern, in ECMA 262's syntax.
    Pattern(&'static str),
    /// `true` or `false`.
    Flag,
    /// A number within bounds.
    Number {
        whole: bool,
        low: Bound<f64>,
        high: Bound<f64>,
    },
    /// One of these numbers.
    Numbers(&'static [u64]),
    /// One of these words.
    Words(Vec<&'static str>),
    /// A list; if `filled`, it has at least one element.
    List { of: Box<Shape>, filled: bool },
    /// A table whose keys the user chooses.
    Table(Box<Shape>),
    /// Values of any form under the names of a chat template's variables.
    Variables,
    /// A section of the recipe.
    Section,
    /// A list of sections; a required one has at least one element.
    Sections,
    /// A list whose elements are texts or sections.
    TextsOrSections,
    /// Any of several shapes.
    OneOf(Vec<Shape>),
    /// `false` or `none`.
    Off,
}

impl Shape {
    /// A whole number within a range that also fits 64 bits.
    pub fn whole(range: &impl RangeBounds<u64>) -> Self {
        let bound = |bound: Bound<&u64>| match bound {
            Bound::Included(number) => Bound::Included(*number as f64),
            Bound::Excluded(number) => Bound::Excluded(*number as f64),
            Bound::Unbounded => Bound::Unbounded,
        };
        let high = match bound(range.end_bound()) {
            Bound::Unbounded => Bound::Included(u64::MAX as f64),
            high => high,
        };
        Self::Number {
            whole: true,
            low: bound(range.start_bound()),
            high,
        }
    }

    /// A number within a range.
    pub fn number(range: &impl RangeBounds<f64>) -> Self {
        Self::Number {
            whole: false,
            low: range.start_bound().cloned(),
            high: range.end_bound().cloned(),
        }
    }

    /// A list of any length.
    pub fn list(of: Self) -> Self {
        Self::List {
            of: Box::new(of),
            filled: false,
        }
    }

    /// A list of at least one element.
    pub fn filled_list(of: Self) -> Self {
        Self::List {
            of: Box::new(of),
            filled: true,
        }
    }

    /// Returns the shape in JSON Schema. Sections are filled in by the caller.
    pub fn schema(&self) -> Value {
        match self {
            Self::Section | Self::Sections | Self::TextsOrSections => json!({}),
            Self::Text => json!({"type": "string", "minLength": 1}),
            Self::Pattern(pattern) => json!({"type": "string", "pattern": pattern}),
            Self::Flag => json!({"type": "boolean"}),
            Self::Number { whole, low, high } => number_schema(*whole, *low, *high),
            Self::Numbers(numbers) => json!({"enum": numbers}),
            Self::Words(words) => json!({"enum": words}),
            Self::List { of, filled } => {
                json!({"type": "array", "items": of.schema(), "minItems": u8::from(*filled)})
            }
            Self::Table(of) => {
                json!({"type": "object", "additionalProperties": of.schema_or_blank()})
            }
            Self::Variables => json!({
                "type": "object",
                "propertyNames": {
                    "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
                    "not": {"enum": NOT_VARIABLES},
                },
            }),
            Self::OneOf(shapes) => {
                json!({"anyOf": shapes.iter().map(Self::schema).collect::<Vec<_>>()})
            }
            Self::Off => json!({"enum": [false, "none"]}),
        }
    }

    /// Returns the shape with blank (`key:`) allowed too.
    pub fn schema_or_blank(&self) -> Value {
        match self.schema() {
            Value::Object(mut schema) if schema.contains_key("enum") => {
                if let Some(words) = schema["enum"].as_array_mut() {
                    words.push(Value::Null);
                }
                Value::Object(schema)
            }
            Value::Object(mut schema) if schema.contains_key("anyOf") => {
                if let Some(shapes) = schema["anyOf"].as_array_mut() {
                    shapes.push(json!({"type": "null"}));
                }
                Value::Object(schema)
            }
            Value::Object(mut schema) => {
                if let Some(kind) = schema.get_mut("type") {
                    *kind = json!([kind.take(), "null"]);
                }
                Value::Object(schema)
            }
            schema => schema,
        }
    }
}

fn number_schema(whole: bool, low: Bound<f64>, high: Bound<f64>) -> Value {
    let mut schema = Map::new();
    schema.insert(
        "type".into(),
        json!(if whole { "integer" } else { "number" }),
    );
    let bounds = [
        (low, "minimum", "exclusiveMinimum"),
        (high, "maximum", "exclusiveMaximum"),
    ];
    for (bound, included, excluded) in bounds {
        match bound {
            Bound::Included(number) => schema.insert(included.into(), plain(number)),
            Bound::Excluded(number) => schema.insert(excluded.into(), plain(number)),
            Bound::Unbounded => None,
        };
    }
    Value::Object(schema)
}

/// Writes whole numbers without a decimal point.
fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return json!(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}
