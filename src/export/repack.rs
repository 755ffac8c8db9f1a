//! Rewrites a model's folder: quantized in the format of bitsandbytes, so that the next start reads
//! a quarter of the bytes, or dequantized.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use crate::fault::{Exit, Explain, Fault};
use crate::files::safetensors::{data_bytes, write_lazily};
use crate::files::{self, safetensors};
use crate::model::{self, CompanionFiles, Folder, Repacking, Target};
use crate::report::{Event, Reporter};

/// The sizes before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repacked {
    /// Bytes of the old weight files.
    pub before: u64,
    /// Bytes of the new weight files.
    pub bytes: u64,
    /// Tensors in the new files.
    pub tensors: usize,
}

/// Writes the weight files of the model `from` in another form into the folder `to`, with the files
/// that belong to them. One weight is in memory at a time.
///
/// The model is damaged or unknown, a weight cannot be quantized, a file cannot be written, or
/// `interrupt` was raised.
/// # Errors
/// The model is damaged or unknown, a weight cannot be packed, a file cannot be written, or
/// `interrupt` was raised.
pub fn repack(
    from: &Path,
    target: Target,
    to: &Path,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Repacked, RepackError> {
    let repacking = Repacking::open(&Folder::open(from)?, target)?;
    let (all, metadata) = (bytes_of(&repacking), [("format", "pt".to_owned())]);
    let mut done = Repacked {
        before: repacking.old_bytes(),
        bytes: 0,
        tensors: 0,
    };
    let (mut read, mut weight_map) = (0, Map::new());
    for (path, tensors) in repacking.files() {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        weight_map.extend(
            tensors
                .iter()
                .map(|(tensor, ..)| (tensor.clone(), json!(name))),
        );
        done.tensors += tensors.len();
        done.bytes += write_lazily(&to.join(&name), tensors.clone(), &metadata, |tensor| {
            if interrupt.load(Relaxed) {
                return Err(RepackError::Stopped);
            }
            let bytes = repacking.bytes(tensor)?;
            read += bytes.len() as u64;
            report(Event::Progress {
                what: "writing (MiB)".to_owned(),
                done: read >> 20,
                total: all >> 20,
            });
            Ok::<_, RepackError>(bytes)
        })?;
    }
    let config = |config: &mut Map<String, Value>| match repacking.config() {
        Some(stored) => drop(config.insert(QUANTIZATION.to_owned(), stored)),
        None => drop(config.shift_remove(QUANTIZATION)),
    };
    CompanionFiles::of(from)?.copy_with(to, config, |index| {
        index.insert("weight_map".to_owned(), Value::Object(weight_map.clone()));
        index.insert("metadata".to_owned(), json!({"total_size": all}));
    })?;
    Ok(done)
}

/// Returns the size that the new files will have.
///
/// # Errors
/// As for [`repack`].
pub fn repacked_bytes(from: &Path, target: Target) -> Result<u64, RepackError> {
    Ok(bytes_of(&Repacking::open(&Folder::open(from)?, target)?)
        + CompanionFiles::of(from)?.bytes())
}

fn bytes_of(repacking: &Repacking) -> u64 {
    let tensors = repacking.files().iter().flat_map(|(_, tensors)| tensors);
    tensors
        .map(|(_, dtype, shape)| data_bytes(*dtype, shape) as u64)
        .sum()
}

/// The key of the quantization in `config.json`.
const QUANTIZATION: &str = "quantization_config";

/// A model that cannot be written in another form.
#[derive(Debug, thiserror::Error)]
pub enum RepackError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A file of weights cannot be written.
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafetensorsError),
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The model is already quantized.
    #[error("the weights of `{}` are packed already", folder.display())]
    Packed {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The user interrupted it.
    #[error("stopped: nothing was written")]
    Stopped,
}

impl RepackError {
    fn inner(&self) -> Option<&dyn Explain> {
        match self {
            Self::File(error) => Some(error),
            Self::Safetensors(error) => Some(error),
            Self::Model(error) => Some(error),
            Self::Packed { .. } | Self::Stopped => None,
        }
    }
}

impl Explain for RepackError {
    fn exit(&self) -> Exit {
        match self {
            Self::Stopped => Exit::Signal,
            _ => self.inner().map_or(Exit::Input, Explain::exit),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Packed { .. } => Some("name the model that it was made of".into()),
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
