//! Writes GGUF files for llama.cpp and programs built on it: a whole model, or an adapter alone.

mod adapter;
mod container;
mod kind;
mod mix;
mod model;
mod vocabulary;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

pub(in crate::export) use crate::model::gguf::TensorType;
pub use adapter::write_gguf_adapter;
pub use kind::GgmlType;
pub use model::{architecture_name, check_model, write_gguf_model};

pub(in crate::export) use container::entry as tensor_entry;
use container::{Info, header, padding};

use crate::fault::{Exit, Explain, Fault};
use crate::files::safetensors::Archive;
use crate::files::{self, check_space, write_pieces_atomic};
use crate::model::gguf::{ArchitectureError, Change, Value};
use crate::report::{Event, Reporter};
use crate::{adapter as lora, data, model as base};

/// The numbers in memory at a time, rounded to whole rows.
const BLOCK_NUMBERS: usize = 1 << 20;

/// The size of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The number of tensors.
    pub tensors: usize,
    /// The size in bytes.
    pub bytes: u64,
}

/// A tensor to be written, and the source of its numbers.
struct TensorPart<'a> {
    info: Info,
    numbers: Numbers<'a>,
}

enum Numbers<'a> {
    /// Numbers in memory, row by row.
    Here(Vec<f32>),
    /// Tensors of files, concatenated by rows.
    Stored(Vec<StoredTensor<'a>>),
}

/// A tensor of a file, and the change to be made.
struct StoredTensor<'a> {
    archive: &'a Archive,
    name: String,
    /// The half of the rows of each matrix that is taken; `None`: all.
    half: Option<usize>,
    change: Change,
}

impl<'a> TensorPart<'a> {
    /// Appends another matrix of a stack.
    fn take(&mut self, stored: StoredTensor<'a>) {
        if let Numbers::Stored(tensors) = &mut self.numbers {
            tensors.push(stored);
            self.info.shape[0] = tensors.len();
        }
    }

    /// Calls `take` with the tensor's bytes, some rows at a time.
    fn send(&self, mut take: impl FnMut(&[u8]) -> Result<(), GgufError>) -> Result<(), GgufError> {
        match &self.numbers {
            Numbers::Here(numbers) => take(&held(self.info.kind, numbers, &self.info.name)?),
            Numbers::Stored(tensors) => tensors
                .iter()
                .try_for_each(|stored| stored.send(self.info.kind, &mut take)),
        }
    }
}

impl StoredTensor<'_> {
    fn send(
        &self,
        kind: TensorType,
        mut take: impl FnMut(&[u8]) -> Result<(), GgufError>,
    ) -> Result<(), GgufError> {
        let Self {
            archive,
            name,
            half,
            change,
        } = self;
        let shape = archive.shape(name).unwrap_or_default();
        let (count, width) = (shape[0], shape[1..].iter().product::<usize>().max(1));
        // Of a stack each matrix is divided, of a matrix its rows are.
        if let Some(half) = half.filter(|_| shape.len() > 2) {
            return (0..count).try_for_each(|matrix| {
                let numbers = self.read(matrix..matrix + 1)?;
                let part = &numbers[half * width / 2..(half + 1) * width / 2];
                take(&held(kind, part, name)?)
            });
        }
        let taken = half.map_or(0..count, |half| half * count / 2..(half + 1) * count / 2);
        let rows = taken.len();
        let head = match change.heads {
            // Heads change places, so that all are read.
            _ if change.tiled.is_some() => Some(rows),
            heads => heads.map(|heads| rows / heads),
        };
        let change = if change.heads.is_some() {
            change.of_one_head()
        } else {
            *change
        };
        let step = head.unwrap_or((BLOCK_NUMBERS / width).max(1));
        for first in taken.clone().step_by(step) {
            let numbers = self.read(first..(first + step).min(taken.end))?;
            take(&held(kind, &change.apply(numbers, width), name)?)?;
        }
        Ok(())
    }

    fn read(&self, rows: Range<usize>) -> Result<Vec<f32>, GgufError> {
        Ok(self
            .archive
            .read_rows_f32(&self.name, rows)?
            .unwrap_or_default())
    }
}

/// Encodes numbers of a tensor.
fn held(kind: TensorType, numbers: &[f32], tensor: &str) -> Result<Vec<u8>, GgufError> {
    kind.encode(numbers).ok_or_else(|| GgufError::NotHeld {
        tensor: tensor.to_owned(),
        kind: kind.name(),
    })
}

/// Writes a file, whole or not at all.
fn write(
    path: &Path,
    pairs: &[(String, Value)],
    parts: &[TensorPart],
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, GgufError> {
    if path.exists() {
        return Err(GgufError::Exists {
            path: path.to_owned(),
        });
    }
    let infos: Vec<&Info> = parts.iter().map(|part| &part.info).collect();
    let header = header(pairs, &infos);
    let padded = |info: &&Info| (info.bytes() + padding(info.bytes()).len()) as u64;
    let bytes = header.len() as u64 + infos.iter().map(padded).sum::<u64>();
    check_space(
        path.ancestors()
            .skip(1)
            .find(|folder| folder.is_dir())
            .unwrap_or(Path::new(".")),
        bytes,
    )?;
    write_pieces_atomic(path, |file| {
        file.write(&header)?;
        for (index, part) in parts.iter().enumerate() {
            part.send(|piece| {
                if interrupt.load(Relaxed) {
                    Err(GgufError::Stopped)
                } else {
                    Ok(file.write(piece)?)
                }
            })?;
            file.write(&padding(part.info.bytes()))?;
            report(Event::Progress {
                what: "writing".to_owned(),
                done: index as u64 + 1,
                total: parts.len() as u64,
            });
        }
        Ok::<_, GgufError>(())
    })?;
    Ok(Written {
        tensors: parts.len(),
        bytes,
    })
}

/// A GGUF file that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A safetensors file is damaged.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::SafetensorsError),
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] base::ModelError),
    /// The adapter cannot be used, or is not one of this base.
    #[error(transparent)]
    Adapter(#[from] lora::AdapterError),
    /// The tokenizer cannot be opened.
    #[error(transparent)]
    Open(#[from] data::tokenize::TokenizeError),
    /// The path of the file already exists.
    #[error("`{}` exists", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// llama.cpp has no known architecture that computes the same.
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
    /// A module that GGUF has no name for.
    #[error("`{module}` has no name in a GGUF file of llama.cpp's `{name}`")]
    Unnamed {
        /// Its name in the model's or adapter's files.
        module: String,
        /// The architecture.
        name: &'static str,
    },
    /// llama.cpp would tokenize a text differently.
    #[error("llama.cpp does not support this tokenizer, `{}`: {reason}", path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What was found and what llama.cpp needs.
        reason: String,
    },
    /// The weights are quantized in a format that GGUF does not have.
    #[error(
        "the weights of `{}` are packed by bitsandbytes, of which llama.cpp knows nothing",
        folder.display()
    )]
    Packed {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The model is a GGUF file already.
    #[error("`{}` is a GGUF file already", path.display())]
    IsGguf {
        /// The file.
        path: PathBuf,
    },
    /// A weight is too large for its type, or is not a number.
    #[error("tensor `{tensor}` has a number that {kind} cannot hold")]
    NotHeld {
        /// The tensor.
        tensor: String,
        /// The type in which it would be stored.
        kind: &'static str,
    },
    /// The user interrupted it.
    #[error("stopped: nothing was written")]
    Stopped,
}

impl GgufError {
    fn inner(&self) -> Option<&dyn Explain> {
        match self {
            Self::File(error) => Some(error),
            Self::Safetensors(error) => Some(error),
            Self::Model(error) => Some(error),
            Self::Adapter(error) => Some(error),
            Self::Open(error) => Some(error),
            _ => None,
        }
    }
}

impl Explain for GgufError {
    fn exit(&self) -> Exit {
        match (self, self.inner()) {
            (_, Some(inner)) => inner.exit(),
            (Self::Exists { .. }, _) => Exit::Exists,
            (Self::Stopped, _) => Exit::Signal,
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("choose another `--out`, or remove it first".into()),
            Self::Packed { .. } => Some("export the model that it was made of".into()),
            Self::IsGguf { .. } => Some(
                "llama.cpp and Ollama load the file itself; of an adapter write `--to \
                gguf-adapter`, which they load with it"
                    .into(),
            ),
            _ => self.inner()?.hint(),
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let own = || {
            vec![Fault {
                place: None,
                message: self.to_string(),
                hint: self.hint(),
            }]
        };
        self.inner().map_or_else(own, Explain::faults)
    }
}
