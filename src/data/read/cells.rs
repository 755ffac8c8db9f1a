//! Cells of a Parquet column as JSON values, however nested: the formats read values and know
//! nothing of Arrow.

use std::str::Utf8Error;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use serde_json::{Map, Value};

/// Maximum bytes of text in a cell. Its tokens take forty times as much, on every thread.
pub(in crate::data) const MAX_TEXT_BYTES: usize = 4 << 20;
/// Maximum number of items in a cell's list.
const MAX_ITEMS: usize = 100_000;

/// A cell that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// A text is not UTF-8.
    #[error(transparent)]
    NotUtf8(#[from] Utf8Error),
    /// A text is too long.
    #[error("a text of {bytes} bytes, expected at most {MAX_TEXT_BYTES}")]
    LongText {
        /// Its size.
        bytes: usize,
    },
    /// A list is too long.
    #[error("a list of {items} items, expected at most {MAX_ITEMS}")]
    LongList {
        /// Its length.
        items: usize,
    },
    /// A value is neither text, number, time, list nor object.
    #[error(
        "a value that is neither text, number, time, list nor object, such as bytes of a fixed \
        length"
    )]
    NoForm,
}

/// Kind of content that a column must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// A list of objects, or JSON text of one.
    Turns,
    /// Text, or a list of objects.
    TextOrTurns,
    /// Text, or a list of texts.
    TextOrTexts,
    /// A list or an object, or JSON text of one.
    List,
    /// An object, or JSON text of one.
    Object,
    /// True or false, or 1 or 0.
    Label,
    /// A number.
    Number,
    /// A label of any kind: a number, a text, or a list of such.
    Any,
}

impl ColumnKind {
    /// Whether a column of this type can be read as this kind; a column of nulls only can.
    pub fn accepts(self, data_type: &DataType) -> bool {
        match data_type {
            DataType::Null => true,
            // A table with nulls holds whole numbers as floats.
            _ if self == Self::Label => {
                *data_type == DataType::Boolean || data_type.is_integer() || data_type.is_floating()
            }
            _ if self == Self::Number => data_type.is_integer() || data_type.is_floating(),
            _ if self == Self::Any => !matches!(data_type, DataType::Struct(_) | DataType::Map(..)),
            DataType::Binary => true,
            DataType::List(item) => match self {
                Self::Text | Self::Object | Self::Label | Self::Number | Self::Any => false,
                Self::Turns | Self::TextOrTurns => {
                    matches!(
                        item.data_type(),
                        DataType::Struct(_) | DataType::Map(..) | DataType::Binary | DataType::Null
                    )
                }
                Self::TextOrTexts => {
                    matches!(item.data_type(), DataType::Binary | DataType::Null)
                }
                Self::List => true,
            },
            // One message.
            DataType::Struct(fields)
                if self == Self::TextOrTurns
                    && is_turn(data_type)
                    && fields.iter().all(|field| !field.data_type().is_nested()) =>
            {
                true
            }
            // An object with a list for each key.
            DataType::Struct(fields) if matches!(self, Self::Turns | Self::TextOrTurns) => fields
                .iter()
                .all(|field| matches!(field.data_type(), DataType::List(_) | DataType::Null)),
            DataType::Struct(_) | DataType::Map(..) => matches!(self, Self::List | Self::Object),
            _ => false,
        }
    }

    /// Returns the kind in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Turns => "a list of objects or JSON text",
            Self::TextOrTurns => "text or a list of messages",
            Self::TextOrTexts => "text or a list of texts",
            Self::List => "a list or JSON text",
            Self::Object => "an object or JSON text",
            Self::Label => "true and false",
            Self::Number => "numbers",
            Self::Any => "a number, text, or a list",
        }
    }
}

/// Keys of a turn that name the speaker.
const WHO: [&str; 2] = ["role", "from"];
const WHAT: [&str; 3] = ["content", "value", "tool_calls"];

/// Whether objects of this type are turns of a conversation.
pub fn is_turn(data_type: &DataType) -> bool {
    let has = |keys: &[&str]| match data_type {
        DataType::Struct(fields) => fields
            .iter()
            .any(|field| keys.contains(&field.name().as_str())),
        _ => false,
    };
    has(&WHO) && has(&WHAT)
}

/// Whether a value is a list of turns.
pub fn are_turns(value: &Value) -> bool {
    let has = |turn: &Value, keys: &[&str]| keys.iter().any(|key| turn.get(key).is_some());
    let is_turn = |turn: &Value| has(turn, &WHO) && has(turn, &WHAT);
    value
        .as_array()
        .is_some_and(|turns| !turns.is_empty() && turns.iter().all(is_turn))
}

/// Returns a column's type in words.
pub fn describe(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "nothing but nulls".into(),
        DataType::Binary => "text".into(),
        DataType::Boolean => "true or false".into(),
        DataType::Struct(_) => "an object".into(),
        DataType::Map(..) => "a map".into(),
        DataType::List(item) => format!("a list of {}", describe(item.data_type())),
        number if number.is_numeric() => "numbers".into(),
        other => other.to_string().to_lowercase(),
    }
}

/// Reads the cell in a row of a column. Texts are checked to be UTF-8 here, so that an error has a
/// row. In an object, keys that are null are left out, because Parquet gives every object the keys
/// of all objects. A map has its own keys and keeps them. Dates, times and decimals, which JSON
/// lacks, become the text that Python's `str` gives.
///
/// # Errors
/// A text is not UTF-8, a text or list is longer than any row that could be trained, or a value has
/// no form as text.
pub fn cell(column: &dyn Array, row: usize) -> Result<Value, CellError> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Binary => Value::from(text(column.as_binary::<i32>().value(row))?),
        DataType::Null => Value::Null,
        DataType::Boolean => Value::from(column.as_boolean().value(row)),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            if items.len() > MAX_ITEMS {
                return Err(CellError::LongList { items: items.len() });
            }
            (0..items.len())
                .map(|item| cell(&items, item))
                .collect::<Result<_, _>>()?
        }
        DataType::Struct(fields) => {
            let values = column
                .as_struct()
                .columns()
                .iter()
                .map(|values| cell(values, row));
            let mut entries = object(fields.iter().map(|field| field.name().clone()).zip(values))?;
            entries.retain(|_, value| !value.is_null());
            entries.into()
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let names = (0..entries.len())
                .map(|entry| Ok(name(&cell(keys, entry)?)))
                .collect::<Result<Vec<_>, CellError>>()?;
            object(
                names
                    .into_iter()
                    .zip((0..entries.len()).map(|entry| cell(values, entry))),
            )?
            .into()
        }
        other if other.is_integer() || other.is_floating() => number(column, row),
        _ => Value::from(super::times::text(column, row).ok_or(CellError::NoForm)?),
    })
}

fn text(bytes: &[u8]) -> Result<&str, CellError> {
    if bytes.len() > MAX_TEXT_BYTES {
        Err(CellError::LongText { bytes: bytes.len() })
    } else {
        Ok(str::from_utf8(bytes)?)
    }
}

fn object(
    entries: impl Iterator<Item = (String, Result<Value, CellError>)>,
) -> Result<Map<String, Value>, CellError> {
    entries.map(|(name, value)| Ok((name, value?))).collect()
}

fn name(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

fn number(column: &dyn Array, row: usize) -> Value {
    macro_rules! read {
        ($($kind:ident => $arrow:ty),* $(,)?) => {
            match column.data_type() {
                $(DataType::$kind => Value::from(column.as_primitive::<$arrow>().value(row)),)*
                DataType::Float16 => {
                    Value::from(column.as_primitive::<Float16Type>().value(row).to_f32())
                }
                _ => Value::Null,
            }
        };
    }
    read!(
        Int8 => Int8Type, Int16 => Int16Type, Int32 => Int32Type, Int64 => Int64Type,
        UInt8 => UInt8Type, UInt16 => UInt16Type, UInt32 => UInt32Type, UInt64 => UInt64Type,
        Float32 => Float32Type, Float64 => Float64Type,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, LargeStringArray,
        ListArray, MapBuilder, NullArray, StringArray, StringBuilder, StringViewArray, StructArray,
        TimestampMillisecondArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::compute::cast;
    use arrow::datatypes::{Field, Int32Type};
    use serde_json::json;

    use super::super::parquet::tests::read_column;
    use super::*;

    /// Builds one list of objects per row, from columns of equal length.
    fn objects(columns: Vec<(&str, ArrayRef)>, lengths: &[usize]) -> ArrayRef {
        let items = StructArray::from(
            columns
                .into_iter()
                .map(|(name, values)| {
                    (
                        Arc::new(Field::new(name, values.data_type().clone(), true)),
                        values,
                    )
                })
                .collect::<Vec<_>>(),
        );
        let item = Arc::new(Field::new("item", items.data_type().clone(), true));
        Arc::new(ListArray::new(
            item,
            OffsetBuffer::from_lengths(lengths.iter().copied()),
            Arc::new(items),
            None,
        ))
    }

    #[test]
    fn every_way_to_hold_text_reads_the_same() {
        let words = vec![Some("law"), None, Some(""), Some("höhe 🩺"), Some("law")];
        let columns: [ArrayRef; 4] = [
            Arc::new(StringArray::from(words.clone())),
            Arc::new(LargeStringArray::from(words.clone())),
            Arc::new(StringViewArray::from(words.clone())),
            Arc::new(
                words
                    .iter()
                    .copied()
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ];
        for column in columns {
            assert_eq!(
                read_column(column, ColumnKind::Text),
                words.iter().map(|word| json!(word)).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn every_kind_of_list_of_turns_reads_the_same() {
        let roles: ArrayRef = Arc::new(StringArray::from(vec!["user", "assistant", "user"]));
        let contents: ArrayRef = Arc::new(StringArray::from(vec![Some("hi"), Some("hello"), None]));
        let list = objects(vec![("role", roles), ("content", contents)], &[2, 0, 1]);
        let item = match list.data_type() {
            DataType::List(item) => item.clone(),
            other => panic!("{other}"),
        };
        let expected = [
            json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]),
            json!([]),
            json!([{"role": "user"}]),
        ];
        for kind in [
            DataType::List(item.clone()),
            DataType::LargeList(item.clone()),
            DataType::ListView(item.clone()),
            DataType::LargeListView(item),
        ] {
            assert_eq!(
                read_column(cast(&list, &kind).expect("cast"), ColumnKind::Turns),
                expected,
                "{kind}"
            );
        }
    }

    #[test]
    fn nested_objects_keep_their_types_and_lose_null_keys() {
        let mut arguments = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for (name, value) in [("city", "Bern"), ("unit", "C")] {
            arguments.keys().append_value(name);
            arguments.values().append_value(value);
        }
        arguments.append(true).expect("an entry");
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("weight", Arc::new(Int64Array::from(vec![1]))),
            ("score", Arc::new(Float64Array::from(vec![0.5]))),
            ("train", Arc::new(BooleanArray::from(vec![true]))),
            ("name", Arc::new(StringArray::from(vec![None::<&str>]))),
            ("at", Arc::new(TimestampMillisecondArray::from(vec![0]))),
            ("arguments", Arc::new(arguments.finish())),
        ];
        let expected = json!([{"weight": 1, "score": 0.5, "train": true, "at": "1970-01-01 \
            00:00:00", "arguments": {"city": "Bern", "unit": "C"}}]);
        assert_eq!(
            read_column(objects(columns, &[1]), ColumnKind::Turns),
            [expected]
        );
    }

    #[test]
    fn a_column_of_nulls_is_any_kind() {
        for kind in [
            ColumnKind::Text,
            ColumnKind::Turns,
            ColumnKind::TextOrTurns,
            ColumnKind::List,
        ] {
            assert_eq!(
                read_column(Arc::new(NullArray::new(2)), kind),
                [Value::Null, Value::Null]
            );
        }
    }
}
