//! The safetensors container: a header parsed once, tensors read from the map when they are asked for.
//!
//! Format: <https://huggingface.co/docs/safetensors>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype, SafeTensors};

use super::{Error as FileError, map, write_atomic};
use crate::fault::{Exit, Explain};

/// A safetensors file that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The header or the data is not what the format says.
    #[error("`{path}` is not a whole safetensors file: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        reason: String,
    },
    /// The tensor's numbers are of a type that is not read.
    #[error("tensor `{name}` in `{path}` has dtype {dtype:?}, expected F32, F16 or BF16")]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Damaged { .. } | Self::Dtype { .. } => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Damaged { .. } => Some("download or copy the file again and compare its size with the original".into()),
            Self::Dtype { .. } => None,
        }
    }
}

/// An open safetensors file.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Archive {
    /// Maps the file and checks its header against its length.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or has a header that is not valid.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = map(path)?;
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        let (header_bytes, metadata) = SafeTensors::read_metadata(&map).map_err(|error| damaged(error.to_string()))?;
        let data_start = header_bytes + size_of::<u64>();
        let (expected, found) = (metadata.data_len(), map.len() - data_start);
        if expected != found {
            return Err(damaged(format!("its header describes {expected} bytes of data, the file has {found}")));
        }
        Ok(Self { path: path.to_owned(), map, metadata, data_start })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors whose numbers [`Archive::read_f32`] does not read, with their types.
    pub fn unreadable(&self) -> Vec<(String, Dtype)> {
        let tensors = self.metadata.tensors().into_iter().map(|(name, info)| (name, info.dtype));
        tensors.filter(|(_, dtype)| !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)).collect()
    }

    /// Names of all tensors with their shapes, sorted.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect()
    }

    /// A tensor as it is stored; `None` if there is no such tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (start, end) = self.metadata.info(name)?.data_offsets;
        Some(&self.map[self.data_start + start..self.data_start + end])
    }

    /// A tensor's numbers in f32, row by row; `None` if there is no such tensor.
    ///
    /// # Errors
    /// The tensor is not of f32, f16 or bf16.
    pub fn read_f32(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        let Some((info, bytes)) = self.metadata.info(name).zip(self.bytes(name)) else { return Ok(None) };
        let values = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            dtype => return Err(Error::Dtype { path: self.path.clone(), name: name.to_owned(), dtype }),
        };
        Ok(Some(values))
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.metadata.info(name).map(|info| info.shape.as_slice())
    }
}

/// A tensor to be written: name, shape, numbers row by row.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Writes f32 tensors as one safetensors file, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_f32(path: &Path, tensors: &[Named], metadata: &[(&str, String)]) -> Result<(), Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)))
        .collect();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let content =
        views.and_then(|views| safetensors::serialize(views, Some(metadata))).map_err(|error| damaged(error.to_string()))?;
    Ok(write_atomic(path, &content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let tensors =
            [("b".to_owned(), vec![2, 2], vec![1.0, -2.5, 3.0, f32::MIN_POSITIVE]), ("a".to_owned(), vec![1], vec![7.0])];
        write_f32(&path, &tensors, &[("format", "pt".into())]).expect("written");
        let archive = Archive::open(&path).expect("opened");
        for (name, shape, values) in &tensors {
            assert_eq!(archive.shape(name), Some(shape.as_slice()));
            assert_eq!(archive.read_f32(name).expect("f32").as_ref(), Some(values));
        }
        assert_eq!(archive.metadata.metadata().as_ref().map(|pairs| pairs["format"].as_str()), Some("pt"));
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        write_f32(&path, &[("a".to_owned(), vec![4], vec![1.0; 4])], &[]).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for length in 1..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            assert!(Archive::open(&path).is_err(), "{length} of {} bytes", whole.len());
        }
    }
}
