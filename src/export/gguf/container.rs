//! The GGUF container, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use super::TensorType;
use crate::model::gguf::Value;

/// The alignment of tensors after the header, in bytes.
const ALIGNMENT: usize = 32;
const VERSION: u32 = 3;

/// A tensor's entry in the header.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Info {
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    pub kind: TensorType,
}

impl Info {
    /// Returns its size in the file in bytes, without padding.
    pub fn bytes(&self) -> usize {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// Returns the padding between the end of this many bytes and the next tensor.
pub(super) fn padding(bytes: usize) -> Vec<u8> {
    vec![0; bytes.next_multiple_of(ALIGNMENT) - bytes]
}

/// Returns the file up to the first tensor's data.
pub(super) fn header(pairs: &[(String, Value)], tensors: &[&Info]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        text(&mut bytes, key);
        put(&mut bytes, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        entry(&mut bytes, &tensor.name, &tensor.shape, tensor.kind, offset);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    bytes.extend(padding(bytes.len()));
    bytes
}

/// Appends the entry of a tensor [rows first], whose data begin at `offset`.
pub(in crate::export) fn entry(
    bytes: &mut Vec<u8>,
    name: &str,
    shape: &[usize],
    kind: TensorType,
    offset: usize,
) {
    text(bytes, name);
    bytes.extend((shape.len() as u32).to_le_bytes());
    // The dimension whose numbers lie side by side comes first.
    bytes.extend(
        shape
            .iter()
            .rev()
            .flat_map(|size| (*size as u64).to_le_bytes()),
    );
    bytes.extend(kind.id().to_le_bytes());
    bytes.extend((offset as u64).to_le_bytes());
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Appends a value, preceded by the number of its type.
fn put(bytes: &mut Vec<u8>, value: &Value) {
    let kind: u32 = match value {
        Value::U32(_) => 4,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::Texts(_) | Value::F32s(_) | Value::I32s(_) | Value::Bools(_) => 9,
    };
    bytes.extend(kind.to_le_bytes());
    match value {
        Value::U32(number) => bytes.extend(number.to_le_bytes()),
        Value::F32(number) => bytes.extend(number.to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::Text(words) => text(bytes, words),
        Value::Texts(texts) => list(bytes, 8, texts, |bytes, words| text(bytes, words)),
        Value::F32s(numbers) => list(bytes, 6, numbers, |bytes, number| {
            bytes.extend(number.to_le_bytes());
        }),
        Value::Bools(flags) => list(bytes, 7, flags, |bytes, flag| bytes.push(u8::from(*flag))),
        Value::I32s(numbers) => list(bytes, 5, numbers, |bytes, number| {
            bytes.extend(number.to_le_bytes());
        }),
    }
}

/// Appends a list: the type of the items, their number, and each item.
fn list<T>(bytes: &mut Vec<u8>, kind: u32, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend((items.len() as u64).to_le_bytes());
    for item in items {
        put(bytes, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_the_format_says() {
        let info = Info {
            name: "a".to_owned(),
            shape: vec![2, 3],
            kind: TensorType::F16,
        };
        let bytes = header(&[("k".to_owned(), Value::U32(7))], &[&info]);
        let expected: &[&[u8]] = &[
            b"GGUF\x03\0\0\0",
            &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, b'k', 4, 0, 0, 0, 7, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, b'a', 2, 0, 0, 0],
            &[
                3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ];
        let mut expected = expected.concat();
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(bytes, expected);
        assert_eq!((info.bytes(), padding(info.bytes()).len()), (12, 20));
    }
}
