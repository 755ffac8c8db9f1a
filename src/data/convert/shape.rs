//! The shape of a column's values over all rows. A place that always has one shape gets its own
//! type; a column that would lose anything by that keeps the JSON text of its values.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField};
use serde_json::{Map, Value};

/// Maximum number of keys in an object. If there are more, they are names of things and not of
/// fields.
const MAX_KEYS: usize = 256;
/// Maximum nesting of lists and objects that get a type.
const MAX_DEPTH: usize = 12;
/// Largest whole number up to which all are exact as floats.
const EXACT: u64 = 1 << 53;

/// Shape of the values at a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Only nulls.
    #[default]
    Nothing,
    Bool,
    Number(Number),
    Text,
    List(Box<Shape>),
    Object(Fields),
    /// Values of several kinds.
    Mixed,
}

/// Kinds of numbers that were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a finding of its own"
)]
pub(super) struct Number {
    has_whole: bool,
    has_floats: bool,
    has_negative: bool,
    /// Whether there are whole numbers above 63 bits.
    has_large: bool,
    /// Whether there are whole numbers that a float would round.
    has_inexact: bool,
}

/// The keys of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub fields: Vec<Field>,
    /// Number of objects.
    pub count: u64,
    /// Whether two objects have the same keys in another order.
    is_disordered: bool,
    /// Whether keys were left out because there are too many.
    pub is_crowded: bool,
}

/// A key of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub name: String,
    pub shape: Shape,
    /// Number of objects that have it.
    pub count: u64,
    /// Number of objects in which it is null.
    pub nulls: u64,
    /// Number of objects in which it is text, and in which it is a list.
    pub texts: u64,
    pub lists: u64,
}

impl Number {
    fn of(number: &serde_json::Number) -> Self {
        let (signed, unsigned) = (number.as_i64(), number.as_u64());
        let is_whole = signed.is_some() || unsigned.is_some();
        let size = unsigned
            .or(signed.map(|number| number.unsigned_abs()))
            .unwrap_or(0);
        Self {
            has_whole: is_whole,
            has_floats: !is_whole,
            has_negative: signed.is_some_and(|number| number < 0),
            has_large: is_whole && signed.is_none(),
            has_inexact: size > EXACT,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            has_whole: self.has_whole | other.has_whole,
            has_floats: self.has_floats | other.has_floats,
            has_negative: self.has_negative | other.has_negative,
            has_large: self.has_large | other.has_large,
            has_inexact: self.has_inexact | other.has_inexact,
        }
    }

    /// Returns the type of the numbers. Within a value, `1` and `1.0` print differently, so they
    /// have no common type there.
    fn data_type(self, is_inner: bool) -> Option<DataType> {
        match (self.has_whole, self.has_floats) {
            (true, true) => (!is_inner && !self.has_inexact).then_some(DataType::Float64),
            (true, false) if self.has_large => (!self.has_negative).then_some(DataType::UInt64),
            (true, false) => Some(DataType::Int64),
            _ => Some(DataType::Float64),
        }
    }
}

impl Shape {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Nothing,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) => Self::Number(Number::of(number)),
            Value::String(_) => Self::Text,
            Value::Array(items) => Self::List(Box::new(
                items
                    .iter()
                    .fold(Self::Nothing, |shape, item| shape.merge(Self::of(item))),
            )),
            Value::Object(entries) => {
                let mut fields = Fields::default();
                fields.add(entries);
                Self::Object(fields)
            }
        }
    }

    /// Returns the shape of the values of both.
    pub fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, shape) | (shape, Self::Nothing) => shape,
            (Self::Bool, Self::Bool) => Self::Bool,
            (Self::Text, Self::Text) => Self::Text,
            (Self::Number(one), Self::Number(other)) => Self::Number(one.and(other)),
            (Self::List(one), Self::List(other)) => Self::List(Box::new(one.merge(*other))),
            (Self::Object(mut one), Self::Object(other)) => {
                one.merge(other);
                Self::Object(one)
            }
            _ => Self::Mixed,
        }
    }

    /// Returns the type of a column of this shape, from which every value can be restored exactly;
    /// `None` if there is none.
    pub fn data_type(&self) -> Option<DataType> {
        self.typed(0)
    }

    fn typed(&self, depth: usize) -> Option<DataType> {
        match self {
            Self::Nothing => Some(DataType::Null),
            Self::Bool => Some(DataType::Boolean),
            Self::Text => Some(DataType::Utf8),
            Self::Number(number) => number.data_type(depth > 0),
            Self::List(item) if depth < MAX_DEPTH => Some(list_of(item.typed(depth + 1)?)),
            Self::Object(fields) if depth < MAX_DEPTH => fields.typed(depth + 1),
            _ => None,
        }
    }

    /// Describes the shape in words.
    pub fn describe(&self) -> String {
        match self {
            Self::Nothing => "nothing but nulls".into(),
            Self::Bool => "true or false".into(),
            Self::Number(_) => "numbers".into(),
            Self::Text => "text".into(),
            Self::List(item) => match &**item {
                Self::Object(_) => "a list of objects".into(),
                item => format!("a list of {}", item.describe()),
            },
            Self::Object(_) => "an object".into(),
            Self::Mixed => "values of several kinds".into(),
        }
    }
}

/// Returns the type of a list of values that may be null.
pub(super) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(ArrowField::new("item", item, true)))
}

impl Fields {
    /// Adds the keys of an object.
    pub fn add(&mut self, object: &Map<String, Value>) {
        self.count += 1;
        let mut at = 0;
        for (name, value) in object {
            let Some(index) = self.place(name, at) else {
                continue;
            };
            let field = &mut self.fields[index];
            field.count += 1;
            field.nulls += u64::from(value.is_null());
            field.texts += u64::from(value.is_string());
            field.lists += u64::from(value.is_array());
            field.shape = std::mem::take(&mut field.shape).merge(Shape::of(value));
            at = index + 1;
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.is_disordered |= other.is_disordered;
        self.is_crowded |= other.is_crowded;
        let mut at = 0;
        for from in other.fields {
            let Some(index) = self.place(&from.name, at) else {
                continue;
            };
            let field = &mut self.fields[index];
            field.count += from.count;
            field.nulls += from.nulls;
            field.texts += from.texts;
            field.lists += from.lists;
            field.shape = std::mem::take(&mut field.shape).merge(from.shape);
            at = index + 1;
        }
    }

    /// Returns the index of a key that follows the key before `at`; a new key is inserted there.
    fn place(&mut self, name: &str, at: usize) -> Option<usize> {
        if self.fields.get(at).is_some_and(|field| field.name == name) {
            return Some(at);
        }
        if let Some(index) = self.fields.iter().position(|field| field.name == name) {
            self.is_disordered |= index < at;
            return Some(index);
        }
        if self.fields.len() == MAX_KEYS {
            self.is_crowded = true;
            return None;
        }
        self.fields.insert(
            at,
            Field {
                name: name.to_owned(),
                shape: Shape::Nothing,
                count: 0,
                nulls: 0,
                texts: 0,
                lists: 0,
            },
        );
        Some(at)
    }

    /// Whether one of the objects has this key.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// Returns the type of the objects. A Parquet object has the keys of all objects in one order,
    /// and null for those that an object lacks.
    fn typed(&self, depth: usize) -> Option<DataType> {
        let is_exact = !self.is_disordered && !self.is_crowded && !self.fields.is_empty();
        if !is_exact || self.fields.iter().any(|field| field.nulls > 0) {
            return None;
        }
        let field = |field: &Field| {
            Some(ArrowField::new(
                &field.name,
                field.shape.typed(depth)?,
                true,
            ))
        };
        Some(DataType::Struct(
            self.fields
                .iter()
                .map(field)
                .collect::<Option<Vec<_>>>()?
                .into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(values: &[Value]) -> Option<DataType> {
        values
            .iter()
            .fold(Shape::Nothing, |shape, value| shape.merge(Shape::of(value)))
            .data_type()
    }

    #[test]
    fn a_type_is_given_only_where_nothing_is_lost() {
        assert_eq!(
            of(&[json!(1), json!(null), json!(-3)]),
            Some(DataType::Int64)
        );
        assert_eq!(of(&[json!(1), json!(2.5)]), Some(DataType::Float64));
        assert_eq!(of(&[json!(u64::MAX), json!(1)]), Some(DataType::UInt64));
        assert_eq!(of(&[json!(null)]), Some(DataType::Null));
        let typed = [
            json!({"a": "x", "b": [1]}),
            json!({"b": []}),
            json!({"a": "y"}),
        ];
        assert!(matches!(of(&typed), Some(DataType::Struct(fields)) if fields.len() == 2));
        for mixed in [
            vec![json!(1), json!("1")],
            vec![json!(u64::MAX), json!(-1)],
            vec![json!((1_u64 << 53) + 1), json!(0.5)],
            vec![json!([1, 2.5])],
            vec![json!({"a": 1, "b": 2}), json!({"b": 1, "a": 2})],
            vec![json!({"a": null})],
            vec![json!({})],
            vec![json!([{"a": 1}, "x"])],
            vec![json!({"a": {"b": [true, 1]}})],
        ] {
            assert_eq!(of(&mixed), None, "{mixed:?}");
        }
        let crowd: Map<String, Value> = (0..300).map(|key| (key.to_string(), json!(1))).collect();
        assert_eq!(of(&[crowd.into()]), None);
    }

    #[test]
    fn parts_that_are_merged_are_the_whole() {
        let rows = [
            json!({"a": 1, "c": 2}),
            json!({"a": 1, "b": "x", "c": 3}),
            json!({"d": true}),
            json!({"b": "y", "e": 1}),
        ];
        let whole = rows.iter().fold(Fields::default(), |mut fields, row| {
            fields.add(row.as_object().expect("an object"));
            fields
        });
        let names: Vec<&str> = whole
            .fields
            .iter()
            .map(|field| field.name.as_str())
            .collect();
        assert_eq!(names, ["d", "a", "b", "e", "c"]);
        assert!(!whole.is_disordered);
        for cut in 0..=rows.len() {
            let [mut first, second] = [&rows[..cut], &rows[cut..]].map(|rows| {
                rows.iter().fold(Fields::default(), |mut fields, row| {
                    fields.add(row.as_object().expect("an object"));
                    fields
                })
            });
            first.merge(second);
            assert_eq!(first.count, 4);
            assert_eq!(first.fields.len(), 5);
        }
    }
}
