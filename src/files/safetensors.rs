//! The safetensors container. The header is parsed once, and tensors are read from the memory map
//! on demand.
//!
//! Format: <https://huggingface.co/docs/safetensors>

mod layout;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};

use super::{FileError, Float, Map, map};
use crate::fault::{Exit, Explain};

pub use layout::TensorEntry;
pub use write::{Described, Named, data_bytes, write_f32, write_f32_lazily, write_lazily};

/// Largest header that is parsed. A shard of the largest models has a tenth of it, and parsing
/// takes fifty times its size in memory.
const MAX_HEADER_BYTES: u64 = 8 << 20;
/// Bytes that one thread decodes at a time.
const PIECE_BYTES: usize = 1 << 20;
/// First bytes of a `torch.save` file: a zip archive, or a pickle of protocols 2 to 5.
const PICKLES: [&[u8]; 5] = [
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
];

/// Failure to use a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The header or the data violates the format.
    #[error("`{path}` is not a whole safetensors file: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is a pickle according to its first bytes, whatever its name.
    #[error("`{path}` is a pickle, not a safetensors file")]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// The tensor has an unsupported type.
    #[error("tensor `{name}` in `{path}` has dtype {dtype:?}, expected F32, F16 or BF16")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Type of the tensor.
        dtype: Dtype,
    },
}

impl Explain for SafetensorsError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Damaged { .. } | Self::Pickle { .. } | Self::Dtype { .. } => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Damaged { .. } => Some(
                "download or copy the file again and compare its size with the original"
                    .into(),
            ),
            Self::Pickle { .. } => Some(
                "convert the weights to safetensors; pickle files can run code and are never opened"
                    .into(),
            ),
            Self::Dtype { .. } => None,
        }
    }
}

/// An open safetensors file.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Map,
    metadata: Metadata,
    data_start: usize,
}

impl Archive {
    /// Maps the file and checks its header against its length.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or has an invalid header.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let map = map(path)?;
        let damaged = |reason: String| SafetensorsError::Damaged {
            path: path.to_owned(),
            reason,
        };
        check_start(&map).map_err(|start| match start {
            Start::Pickle => SafetensorsError::Pickle {
                path: path.to_owned(),
            },
            Start::Header(bytes) => damaged(format!(
                "its header claims {bytes} bytes, at most {MAX_HEADER_BYTES} are read"
            )),
        })?;
        let (header_bytes, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| damaged(error.to_string()))?;
        let data_start = header_bytes + size_of::<u64>();
        let (expected, found) = (metadata.data_len(), map.len() - data_start);
        if expected != found {
            return Err(damaged(format!(
                "its header describes {expected} bytes of data, the file has {found}"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            metadata,
            data_start,
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of tensors.
    pub fn tensors(&self) -> usize {
        self.metadata.offset_keys().len()
    }

    /// Returns the names and types of the tensors that [`Archive::read_f32`] does not read.
    pub fn unreadable(&self) -> Vec<(String, Dtype)> {
        let tensors = self
            .metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.dtype));
        tensors
            .filter(|(_, dtype)| Float::of(*dtype).is_none())
            .collect()
    }

    /// Returns names, types and shapes of all tensors, sorted.
    pub fn described(&self) -> Vec<Described> {
        let mut described: Vec<Described> = self
            .metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.dtype, info.shape.clone()))
            .collect();
        described.sort_by(|left, right| left.0.cmp(&right.0));
        described
    }

    /// Returns names and shapes of all tensors, sorted.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.shape.clone()))
            .collect()
    }

    /// Returns the stored bytes of a tensor; `None` if there is no such tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (start, end) = self.metadata.info(name)?.data_offsets;
        Some(
            self.map
                .slice(self.data_start + start..self.data_start + end),
        )
    }

    /// Returns a tensor with its type; `None` if there is no such tensor.
    ///
    /// # Errors
    /// The tensor is not in f32, f16 or bf16.
    pub fn stored(&self, name: &str) -> Result<Option<TensorBytes<'_>>, SafetensorsError> {
        let Some(info) = self.metadata.info(name) else {
            return Ok(None);
        };
        let unread = || SafetensorsError::Dtype {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype: info.dtype,
        };
        let (start, end) = info.data_offsets;
        let bytes = self.data_start + start..self.data_start + end;
        Ok(Some(TensorBytes {
            float: Float::of(info.dtype).ok_or_else(unread)?,
            map: &self.map,
            bytes,
        }))
    }

    /// Reads a tensor as f32 in row-major order; `None` if there is no such tensor.
    ///
    /// # Errors
    /// The tensor is not in f32, f16 or bf16.
    pub fn read_f32(&self, name: &str) -> Result<Option<Vec<f32>>, SafetensorsError> {
        Ok(self
            .stored(name)?
            .map(|stored| stored.to_f32(0..stored.len())))
    }

    /// Reads rows of a matrix as f32; `None` if there is no such tensor.
    ///
    /// # Errors
    /// The tensor is not in f32, f16 or bf16.
    ///
    /// # Panics
    /// There are no such rows.
    pub fn read_rows_f32(
        &self,
        name: &str,
        rows: Range<usize>,
    ) -> Result<Option<Vec<f32>>, SafetensorsError> {
        let Some((stored, [count, ..])) = self.stored(name)?.zip(self.shape(name)) else {
            return Ok(None);
        };
        let width = stored.len() / (*count).max(1);
        Ok(Some(stored.to_f32(rows.start * width..rows.end * width)))
    }

    /// Returns the shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }
}

/// A tensor as the file stores it.
#[derive(Debug, Clone)]
pub struct TensorBytes<'a> {
    /// Type of the numbers.
    pub float: Float,
    map: &'a Map,
    bytes: Range<usize>,
}

impl<'a> TensorBytes<'a> {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.float.bytes()
    }

    /// Returns whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of a range of elements. Reading a tensor piece by piece keeps little of
    /// the file in memory.
    ///
    /// # Panics
    /// The range is outside the tensor.
    pub fn bytes(&self, numbers: Range<usize>) -> &'a [u8] {
        assert!(
            numbers.end <= self.len(),
            "numbers {numbers:?} of {}",
            self.len()
        );
        let size = self.float.bytes();
        self.map
            .slice(self.bytes.start + numbers.start * size..self.bytes.start + numbers.end * size)
    }

    /// Decodes a range of elements to f32.
    fn to_f32(&self, range: Range<usize>) -> Vec<f32> {
        let piece = PIECE_BYTES / self.float.bytes();
        let mut numbers = vec![0.0; range.len()];
        if range.len() <= piece {
            // This is too little for threads, and a caller that reads so little may not have set
            // their number yet.
            self.float.decode(self.bytes(range), &mut numbers);
            return numbers;
        }
        numbers
            .par_chunks_mut(piece)
            .enumerate()
            .for_each(|(index, numbers)| {
                let start = range.start + index * piece;
                self.float
                    .decode(self.bytes(start..start + numbers.len()), numbers);
            });
        numbers
    }
}

/// A file that does not begin with a valid header.
enum Start {
    Pickle,
    Header(u64),
}

/// Checks the length of the header and the brace after it, before they are trusted.
fn check_start(file: &[u8]) -> Result<(), Start> {
    let Some((length, rest)) = file.split_first_chunk() else {
        return Ok(());
    };
    let length = u64::from_le_bytes(*length);
    match rest.first() {
        // A header of 640 bytes begins like a pickle.
        Some(b'{') if length <= MAX_HEADER_BYTES => Ok(()),
        _ if PICKLES.iter().any(|magic| file.starts_with(magic)) => Err(Start::Pickle),
        _ if length > MAX_HEADER_BYTES => Err(Start::Header(length)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let tensors = [
            (
                "b".to_owned(),
                vec![2, 2],
                vec![1.0, -2.5, 3.0, f32::MIN_POSITIVE],
            ),
            ("a".to_owned(), vec![1], vec![7.0]),
        ];
        write_f32(&path, &tensors, &[("format", "pt".into())]).expect("written");
        let archive = Archive::open(&path).expect("opened");
        for (name, shape, values) in &tensors {
            assert_eq!(archive.shape(name), Some(shape.as_slice()));
            assert_eq!(archive.read_f32(name).expect("f32").as_ref(), Some(values));
        }
        assert_eq!(
            archive.read_rows_f32("b", 1..2).expect("f32"),
            Some(vec![3.0, f32::MIN_POSITIVE])
        );
        assert_eq!(
            archive.read_rows_f32("c", 0..1).expect("nothing to read"),
            None
        );
        assert_eq!(
            archive
                .metadata
                .metadata()
                .as_ref()
                .map(|pairs| pairs["format"].as_str()),
            Some("pt")
        );
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        write_f32(&path, &[("a".to_owned(), vec![4], vec![1.0; 4])], &[]).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for length in 1..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(
                Archive::open(&path).is_err(),
                "{length} of {} bytes",
                whole.len()
            );
        }
    }
}
