//! Layout of a safetensors file, for rewriting it: its header as stored, and its tensors in the
//! order of their data.

use serde_json::{Map, Value, json};

use super::super::Float;
use super::{Archive, SafetensorsError};

/// The key of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Name of the tensor.
    pub name: String,
    /// Type of the numbers.
    pub float: Float,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
}

impl TensorEntry {
    /// Returns the number of elements.
    pub fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Archive {
    /// Returns the bytes of the file before the data of its first tensor.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.data_start]
    }

    /// Returns the tensors in the order of their data, which has no gaps.
    ///
    /// # Errors
    /// A tensor is not in f32, f16 or bf16.
    pub fn entries(&self) -> Result<Vec<TensorEntry>, SafetensorsError> {
        let entry = |name: String| {
            let info = self
                .metadata
                .info(&name)
                .expect("the name is one of the header's");
            let dtype = || SafetensorsError::Dtype {
                path: self.path.clone(),
                name: name.clone(),
                dtype: info.dtype,
            };
            Ok(TensorEntry {
                float: Float::of(info.dtype).ok_or_else(dtype)?,
                shape: info.shape.clone(),
                name,
            })
        };
        self.metadata.offset_keys().into_iter().map(entry).collect()
    }

    /// Returns the header for tensors in this order, all of type `float` or of their own types.
    ///
    /// They may be tensors of the file, perhaps reshaped, or new ones. If nothing differs, it is
    /// the file's own header, byte for byte.
    ///
    /// # Errors
    /// A tensor is not in f32, f16 or bf16.
    pub fn header_for(
        &self,
        entries: &[TensorEntry],
        float: Option<Float>,
    ) -> Result<Vec<u8>, SafetensorsError> {
        let is_kept = |entry: &TensorEntry| float.is_none_or(|float| entry.float == float);
        if entries == self.entries()? && entries.iter().all(is_kept) {
            return Ok(self.header().to_vec());
        }
        self.header_of(entries, float)
    }

    fn header_of(
        &self,
        entries: &[TensorEntry],
        float: Option<Float>,
    ) -> Result<Vec<u8>, SafetensorsError> {
        let parsed =
            serde_json::from_slice::<Map<String, Value>>(&self.header()[size_of::<u64>()..]);
        let mut header = parsed.map_err(|error| SafetensorsError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        // What is left out of the new file keeps no place.
        header
            .retain(|name, _| name == METADATA || entries.iter().any(|entry| entry.name == *name));
        let mut start = 0;
        for entry in entries {
            let float = float.unwrap_or(entry.float);
            let end = start + entry.numbers() * float.bytes();
            let (dtype, offsets) = (float.to_string(), [start, end]);
            header.insert(
                entry.name.clone(),
                json!({"dtype": dtype, "shape": entry.shape, "data_offsets": offsets}),
            );
            start = end;
        }
        Ok(framed(&header))
    }
}

/// Frames a header: adds its length in front, and pads it with blanks so that the data begins at a
/// multiple of eight bytes.
fn framed(header: &Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_string(header).expect("JSON values can be printed");
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::write_f32;
    use super::*;

    #[test]
    fn a_header_in_another_type_describes_the_same_tensors() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [path, other] = ["a.safetensors", "b.safetensors"].map(|name| dir.path().join(name));
        let tensors = [
            ("x".to_owned(), vec![2, 3], vec![1.0; 6]),
            ("a".to_owned(), vec![5], vec![2.0; 5]),
        ];
        write_f32(&path, &tensors, &[("format", "pt".into())]).expect("written");
        let archive = Archive::open(&path).expect("opened");
        let stored = archive.entries().expect("floats");
        assert_eq!(
            archive
                .header_for(&stored, Some(Float::F32))
                .expect("floats"),
            archive.header()
        );
        let names: Vec<String> = archive
            .entries()
            .expect("floats")
            .into_iter()
            .map(|entry| entry.name)
            .collect();

        let mut halved = archive
            .header_for(&stored, Some(Float::F16))
            .expect("floats");
        halved.resize(halved.len() + 11 * 2, 0);
        std::fs::write(&other, halved).expect("written");
        let halved = Archive::open(&other).expect("a whole file");
        assert_eq!(halved.shapes(), archive.shapes());
        let entries = halved.entries().expect("floats");
        assert!(entries.iter().all(|entry| entry.float == Float::F16));
        assert_eq!(
            entries
                .into_iter()
                .map(|entry| entry.name)
                .collect::<Vec<_>>(),
            names
        );
        assert_eq!(halved.metadata.metadata(), archive.metadata.metadata());
        assert_eq!(halved.data_start % 8, 0);
    }
}
