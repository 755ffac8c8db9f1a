//! The GGUF container, versions 2 and 3. The header is walked once and checked against the file;
//! lists of the metadata and tensors are read from the memory map on demand.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

mod header;
mod kind;
mod split;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{FileError, Map, map};
use crate::fault::{Exit, Explain};

pub use kind::TensorKind;
pub use split::{is_gguf_name, split_paths};
use value::{Item, Stored};
pub use value::{ItemKind, MetadataKind};

/// Failure to use a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufFileError {
    /// The file cannot be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The header or the data violates the format.
    #[error("`{path}` is not a whole GGUF file: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A value of the metadata is missing or of another kind.
    #[error("`{path}`: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, what was found and what was expected.
        message: String,
    },
}

impl Explain for GgufFileError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Damaged { .. } | Self::Value { .. } => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Damaged { .. } => Some(
                "download or copy the file again and compare its size with the original".into(),
            ),
            Self::Value { .. } => None,
        }
    }
}

/// A tensor of a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// The format of its numbers.
    pub kind: TensorKind,
    /// Its bytes in the file.
    bytes: Range<usize>,
}

impl GgufTensor {
    /// Returns the count of numbers of a row.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns the count of rows, over all dimensions but the last.
    pub fn rows(&self) -> usize {
        let leading = self.shape.len().saturating_sub(1);
        self.shape[..leading].iter().product()
    }

    /// Returns the size of a row in bytes.
    pub fn row_bytes(&self) -> usize {
        self.width() / self.kind.numbers() * self.kind.bytes()
    }

    /// Returns the size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the tensor has no numbers.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Map,
    metadata: BTreeMap<String, Stored>,
    tensors: BTreeMap<String, GgufTensor>,
    table_start: usize,
    data_start: usize,
}

impl Gguf {
    /// Maps the file and checks its header against its length.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, or has an invalid header.
    pub fn open(path: &Path) -> Result<Self, GgufFileError> {
        let map = map(path)?;
        let damaged = |reason: String| GgufFileError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let header = header::read(&map).map_err(damaged)?;
        // The walk touched pages that are seldom needed again.
        map.release();
        Ok(Self {
            path: path.to_owned(),
            map,
            metadata: header.metadata,
            tensors: header.tensors,
            table_start: header.table_start,
            data_start: header.data_start,
        })
    }

    /// Opens all files of a model, given any one of them; the first one has the metadata.
    ///
    /// # Errors
    /// As of [`Gguf::open`]; files of a split are missing, or do not belong together.
    pub fn open_all(path: &Path) -> Result<Vec<Self>, GgufFileError> {
        split::open_all(path)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the bytes of the file before the data of its tensors: metadata and table.
    pub fn header(&self) -> &[u8] {
        &self.map[..self.data_start]
    }

    /// Returns the size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Returns the bytes of the file before the table of tensors: counts and metadata.
    pub fn metadata(&self) -> &[u8] {
        &self.map[..self.table_start]
    }

    /// Returns the alignment of tensors in bytes.
    ///
    /// # Errors
    /// As of [`Gguf::size`].
    pub fn alignment(&self) -> Result<usize, GgufFileError> {
        Ok(self
            .size(header::ALIGNMENT_KEY)?
            .unwrap_or(header::ALIGNMENT))
    }

    /// Returns the place of a tensor of this file after the header, in bytes.
    pub fn offset(&self, tensor: &GgufTensor) -> usize {
        tensor.bytes.start - self.data_start
    }

    /// Returns the tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// Returns a tensor.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// Returns the bytes of some rows of a tensor of this file.
    ///
    /// # Panics
    /// There are no such rows.
    pub fn row_bytes(&self, tensor: &GgufTensor, rows: Range<usize>) -> &[u8] {
        assert!(
            rows.end <= tensor.rows(),
            "rows {rows:?} of {}",
            tensor.rows()
        );
        let (start, row) = (tensor.bytes.start, tensor.row_bytes());
        self.map
            .slice(start + rows.start * row..start + rows.end * row)
    }

    /// Returns the keys of the metadata, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Returns whether the metadata has a key.
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// Returns whether the metadata has a list under a key.
    pub fn has_list(&self, key: &str) -> bool {
        matches!(self.kind(key), Some(MetadataKind::List(..)))
    }

    /// Returns the kind of a value; `None` if there is no such key.
    pub fn kind(&self, key: &str) -> Option<MetadataKind> {
        self.metadata.get(key).map(|stored| stored.kind)
    }

    /// Returns text; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is not text in UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufFileError> {
        self.one(key, "text", |item| match item {
            Item::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// Returns true or false; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is neither.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufFileError> {
        self.one(key, "true or false", |item| item.flag())
    }

    /// Returns a whole number from 0 on; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is something else.
    pub fn size(&self, key: &str) -> Result<Option<usize>, GgufFileError> {
        self.one(key, "a whole number from 0", |item| item.size())
    }

    /// Returns a number; `None` if there is no such key. An f32 becomes the shortest decimal number
    /// that rounds to it, so that 1e-5 comes back as 1e-5.
    ///
    /// # Errors
    /// The value is something else, or not finite.
    pub fn number(&self, key: &str) -> Result<Option<f64>, GgufFileError> {
        self.one(key, "a finite number", |item| item.number())
    }

    /// Returns a list of texts; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, GgufFileError> {
        self.list(key, "a list of texts in UTF-8", |item| match item {
            Item::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// Returns a list of numbers; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, GgufFileError> {
        self.list(key, "a list of finite numbers", |item| item.number())
    }

    /// Returns a list of whole numbers from 0 on; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is something else.
    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, GgufFileError> {
        self.list(key, "a list of whole numbers from 0", |item| item.size())
    }

    /// Returns a list of truth values; `None` if there is no such key.
    ///
    /// # Errors
    /// The value is something else.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, GgufFileError> {
        self.list(key, "a list of true or false", |item| item.flag())
    }

    fn one<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(Item<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufFileError> {
        let Some(stored) = self.metadata.get(key) else {
            return Ok(None);
        };
        let value = match stored.kind {
            MetadataKind::One(kind) => convert(Item::at(&self.map, stored.start, kind).0),
            MetadataKind::List(..) => None,
        };
        value.map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(Item<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufFileError> {
        let Some(stored) = self.metadata.get(key) else {
            return Ok(None);
        };
        let MetadataKind::List(kind, count) = stored.kind else {
            return Err(self.wrong(key, expected));
        };
        let mut items = Vec::with_capacity(count);
        let mut place = stored.start;
        for _ in 0..count {
            let (item, next) = Item::at(&self.map, place, kind);
            items.push(convert(item).ok_or_else(|| self.wrong(key, expected))?);
            place = next;
        }
        Ok(Some(items))
    }

    fn wrong(&self, key: &str, expected: &str) -> GgufFileError {
        let found = match self.kind(key) {
            Some(MetadataKind::One(kind)) => kind.name().to_owned(),
            Some(MetadataKind::List(kind, count)) => {
                format!("a list of {count} values of type {}", kind.name())
            }
            None => "missing".to_owned(),
        };
        self.fault(format!("`{key}` is {found}, expected {expected}"))
    }

    /// Makes an error about the metadata of this file.
    pub fn fault(&self, message: impl Into<String>) -> GgufFileError {
        GgufFileError::Value {
            path: self.path.clone(),
            message: message.into(),
        }
    }
}
