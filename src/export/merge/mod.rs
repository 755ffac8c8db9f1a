//! Merges adapters into their base: the result is a new model folder with the files, shards and
//! names of the old one.

mod card;
mod change;
mod gguf;
mod request;
mod scores;
mod shard;
mod tally;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use gguf::{GgufNumbers, gguf_file};
pub use request::{Addend, MergeRequest, Onto, OtherBase, TrainedOn};
pub use tally::Tally;

use scores::NewScores;
use shard::{Rewriting, Untied};

use crate::adapter::merge::MergeSource;
use crate::adapter::peft;
use crate::export::card::CARD;
use crate::export::repack::{self, repack, repacked_bytes};
use crate::fault::{Exit, Explain, Fault};
use crate::files::safetensors::Archive;
use crate::files::{
    self, Float, Hash, check_space, hash_file, temporary_folder_in, write_atomic,
    write_folder_atomic,
};
use crate::model::{
    self, CompanionFiles, Folder, LinearSpec, OwnHead, Repacking, Role, Target, gguf_paths,
    shard_paths, user_path,
};
use crate::report::{Event, Reporter};
use crate::{adapter, data, files::safetensors};

/// Space for the card and the folders themselves.
const SMALL_FILES_BYTES: u64 = 64 << 10;

/// Writes the merged model to `order.out`, whole or not at all. Only some rows, and the adapters of
/// one tensor, are in memory at a time.
///
/// The base or an adapter is damaged or unknown, they do not belong together, a sum does not fit
/// its type, the disk is full, or `interrupt` was raised. Nothing is then left at `order.out`.
/// # Errors
/// The base or an adapter is damaged or unknown, they do not belong together, a sum does not fit
/// its type, the disk is full, or `interrupt` was raised; there is then nothing at `order.out`.
pub fn merge(
    order: &MergeRequest,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Tally, MergeError> {
    if order.out.exists() {
        return Err(MergeError::Exists {
            path: order.out.clone(),
        });
    }
    if let Some(paths) = gguf_paths(&order.base)?.filter(|_| order.keeps_gguf) {
        return gguf::merge(order, &paths, interrupt, report);
    }
    if order.gguf == GgufNumbers::Q8_0 {
        return Err(MergeError::NoGguf {
            reason: format!(
                "`{}` has no GGUF file, whose tensors alone can become Q8_0",
                user_path(&order.base).display()
            ),
        });
    }
    let folder = resized(&order.base, &order.adapters)?;
    if folder.is_packed()? {
        return merge_onto_unpacked(order, interrupt, report);
    }
    merge_as(order, &folder, None, interrupt, report)
}

/// Merges into a base that is quantized in its files, by way of a temporary dequantized copy.
fn merge_onto_unpacked(
    order: &MergeRequest,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Tally, MergeError> {
    if gguf_paths(&order.base)?.is_none() {
        let config = order.base.join("config.json");
        order.check(&config, hash_file(&config)?, report)?;
    }
    let shards = shard_paths(&order.base)?;
    order.check_files(&shards, report)?;
    let mut hashes = Vec::new();
    for path in &shards {
        let hash = hash_file(path)?;
        order.check(path, hash, report)?;
        hashes.push((name_of(path), hash));
    }
    let above = existing(&order.out);
    // Where the sums get a type of their own, nothing is rounded before that.
    let dense = Target::Dense(order.float.map(|_| Float::F32));
    check_space(above, 2 * repacked_bytes(&order.base, dense)?)?;
    let temporary = temporary_folder_in(above)
        .map_err(|cause| files::FileError::new("create a folder in", above, cause))?;
    repack(&order.base, dense, temporary.path(), interrupt, report)?;
    let base = temporary.path().to_owned();
    let unpacked = MergeRequest {
        base,
        other_base: OtherBase::Compared,
        onto: Onto::Stored,
        ..order.clone()
    };
    merge_as(
        &unpacked,
        &resized(&unpacked.base, &order.adapters)?,
        Some((&order.base, hashes)),
        interrupt,
        report,
    )
}

/// Returns the base with the token rows that adapters add.
fn resized(base: &Path, adapters: &[Addend]) -> Result<Folder, MergeError> {
    let mut folder = Folder::open(base)?;
    adapters
        .iter()
        .try_for_each(|addend| peft::resize(&mut folder, &addend.folder))?;
    Ok(folder)
}

/// Merges into `base`. If that is a temporary dequantized copy, `origin` is the base to name to the
/// user, with the hashes of its files.
fn merge_as(
    order: &MergeRequest,
    folder: &Folder,
    origin: Option<(&Path, Vec<(String, Hash)>)>,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Tally, MergeError> {
    folder.check_weights()?;
    let linears = folder.spec.modules();
    let mut adapters = open_adapters(order, &linears)?;
    let old = weight_files(&order.base)?;
    let scores = adapters
        .first()
        .and_then(|adapter| adapter.score.as_ref())
        .map(|score| NewScores::of(score, folder, &old))
        .transpose()?;
    let config = order.base.join("config.json");
    order.check(&config, hash_file(&config)?, report)?;
    let paths: Vec<_> = old.iter().map(|old| old.path().to_owned()).collect();
    order.check_files(&paths, report)?;
    let apart = adapters.iter().any(|adapter| adapter.unties);
    let names = tensor_names(&old);
    let stored = |name: &str| {
        folder
            .spec
            .names
            .stored(name, names.iter().map(String::as_str))
    };
    let is_alone = adapters.len() == 1;
    for adapter in &mut adapters {
        adapter
            .compare_bases(&old, is_alone, stored)?
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
    }
    let untied = if apart {
        untied(&linears, &old, stored)
    } else {
        None
    };

    let packing = match order.onto {
        Onto::Stored => None,
        Onto::Unpacked { form, packs_head } => Some(Repacking::open(
            folder,
            Target::Packed { form, packs_head },
        )?),
    };
    let linears = by_weight(linears, stored);
    let (float, counts_q8_0) = (order.float, order.counts_q8_0);
    let rewriting = Rewriting {
        adapters: &adapters,
        linears,
        untied,
        float,
        scores: scores.as_ref(),
        packing: packing.as_ref(),
        counts_q8_0,
        interrupt,
        pool: rayon::ThreadPoolBuilder::new()
            .num_threads(rayon::current_num_threads())
            .build()
            .expect("threads can be started"),
    };
    let own_head = own_head(&rewriting, &old, apart)?;
    let beside = CompanionFiles::of(&order.base)?;
    let vocabulary = vocabulary::of(order, folder.spec.vocabulary)?;
    if let Some(method) = &folder.leftover_quantization {
        report(Event::Note(format!(
            "config.json of the base has a `quantization_config` ({method}), and its weights are \
            plain numbers: the merged model gets none"
        )));
    }
    let (tensor_bytes, header_bytes) = written_bytes(&rewriting, &old)?;
    let mut tally = Tally {
        bytes: tensor_bytes + header_bytes,
        ..Tally::default()
    };
    check_space(
        existing(&order.out),
        tally.bytes + beside.bytes() + SMALL_FILES_BYTES,
    )?;
    write_folder_atomic(&order.out, |new| {
        let hashes = write_weights(order, &rewriting, &old, new, &mut tally, report)?;
        beside.copy(
            new,
            order.float,
            tensor_bytes,
            (own_head.as_ref(), vocabulary.as_ref()),
            |index| {
                if let Some(scores) = &scores {
                    scores.tell_index(index, tensor_bytes);
                }
            },
            |config| {
                if let Some(scores) = &scores {
                    scores.tell(config);
                }
            },
        )?;
        let (base, hashes) = origin.unwrap_or((&order.base, hashes));
        Ok::<_, MergeError>(write_atomic(
            &new.join(CARD),
            card::card(order, base, &tally, &hashes)?.as_bytes(),
        )?)
    })?;
    Ok(tally)
}

/// Opens the adapters of a request, which have a sum.
fn open_adapters(
    order: &MergeRequest,
    linears: &[LinearSpec],
) -> Result<Vec<MergeSource>, MergeError> {
    let open = |addend: &Addend| MergeSource::open(&addend.folder, addend.weight, linears);
    let adapters = order
        .adapters
        .iter()
        .map(open)
        .collect::<Result<Vec<_>, _>>()?;
    MergeSource::check_sum(&adapters)?;
    Ok(adapters)
}

/// Returns the bytes of all tensors that will be written, and of the files' headers.
fn written_bytes(rewriting: &Rewriting, old: &[Archive]) -> Result<(u64, u64), MergeError> {
    let mut bytes = (0, 0);
    for old in old {
        bytes.0 += rewriting.tensor_bytes(old)?;
        bytes.1 += rewriting.header(old)?.len() as u64;
    }
    Ok(bytes)
}

/// Refuses an adapter that contains a table of the base that differs from this base's, for a format
/// of matrices alone.
///
/// # Errors
/// There is such a table, or a file cannot be read.
pub fn check_tables(base: &Path, adapter: &Path) -> Result<(), MergeError> {
    let mut folder = Folder::open(base)?;
    peft::resize(&mut folder, adapter)?;
    check_no_score(adapter)?;
    let mut source = MergeSource::open(adapter, 1.0, &folder.spec.modules())?;
    if !source.has_bases() {
        return Ok(());
    }
    let old = weight_files(base)?;
    let names = tensor_names(&old);
    let stored = |name: &str| {
        folder
            .spec
            .names
            .stored(name, names.iter().map(String::as_str))
    };
    source.compare_bases(&old, false, stored)?;
    Ok(())
}

/// Refuses an adapter with a score head, for a format of language models.
///
/// # Errors
/// It has one, or cannot be read.
pub fn check_no_score(adapter: &Path) -> Result<(), MergeError> {
    let Some(score) = peft::read_config(adapter)?.score else {
        return Ok(());
    };
    let reason = format!(
        "it has a score head, `{}`, which a language model has no place for; score texts with \
        `rankine classify`, load the adapter in PEFT, or make a model with the head by \
        `rankine merge`",
        score.module
    );
    let folder = adapter.display().to_string();
    Err(adapter::AdapterError::Unmergeable { folder, reason }.into())
}

/// Opens the weight files of a base.
fn weight_files(base: &Path) -> Result<Vec<Archive>, MergeError> {
    let paths = shard_paths(base)?;
    Ok(paths
        .iter()
        .map(|path| Archive::open(path))
        .collect::<Result<_, _>>()?)
}

/// Returns the names of all tensors.
fn tensor_names(files: &[Archive]) -> Vec<String> {
    files
        .iter()
        .flat_map(|file| file.shapes().into_keys())
        .collect()
}

/// Writes every weight file; returns the hashes of the old ones.
fn write_weights(
    order: &MergeRequest,
    rewriting: &Rewriting,
    old: &[Archive],
    new: &Path,
    tally: &mut Tally,
    report: Reporter,
) -> Result<Vec<(String, Hash)>, MergeError> {
    let total_bytes = tally.bytes;
    let (mut hashes, mut done_bytes) = (Vec::new(), 0);
    for old in old {
        let name = name_of(old.path());
        let hash = rewriting.write(old, &new.join(&name), tally, |bytes| {
            done_bytes += bytes as u64;
            report(Event::Progress {
                what: "merging (MiB)".to_owned(),
                done: done_bytes >> 20,
                total: total_bytes >> 20,
            });
        })?;
        order.check(old.path(), hash, report)?;
        hashes.push((name, hash));
    }
    Ok(hashes)
}

/// Returns the tensors of embedding and head, if a base ties them and its files have only one.
fn untied(
    linears: &[LinearSpec],
    old: &[Archive],
    stored: impl Fn(&str) -> String,
) -> Option<Untied> {
    let of = |role: Role| {
        linears
            .iter()
            .find(|linear| linear.role == role)
            .map(|linear| stored(&linear.weight()))
    };
    let (embedding, head) = (of(Role::Embedding)?, of(Role::TiedHead)?);
    // It may be stored twice.
    let is_stored = old.iter().any(|old| old.shape(&head).is_some());
    (!is_stored).then_some(Untied { embedding, head })
}

/// Returns what config and index have to state of a head that is no longer tied.
fn own_head(
    rewriting: &Rewriting,
    old: &[Archive],
    apart: bool,
) -> Result<Option<OwnHead>, MergeError> {
    if !apart {
        return Ok(None);
    }
    for old in old {
        if let Some(head) = rewriting.head(old)? {
            return Ok(Some(OwnHead {
                added: Some((
                    head.name.clone(),
                    name_of(old.path()),
                    head.numbers() as u64,
                )),
            }));
        }
    }
    Ok(Some(OwnHead { added: None }))
}

/// Groups linear maps by the tensors of their weights in the files: one map, or those of a stack in
/// order.
fn by_weight(
    linears: Vec<LinearSpec>,
    stored: impl Fn(&str) -> String,
) -> BTreeMap<String, Vec<LinearSpec>> {
    let mut maps: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for linear in linears {
        maps.entry(stored(&linear.weight()))
            .or_default()
            .push(linear);
    }
    maps
}

/// Returns the last part of a path.
fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Returns the nearest parent folder that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .skip(1)
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."))
}

/// A merge that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A safetensors file is damaged.
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafetensorsError),
    /// The base cannot be used.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The quantized base cannot be dequantized.
    #[error(transparent)]
    Repack(#[from] repack::RepackError),
    /// An adapter cannot be used, or is not one of this base.
    #[error(transparent)]
    Adapter(#[from] adapter::AdapterError),
    /// The path of the merged model already exists.
    #[error("`{}` exists", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The tokenizer of the base or of an adapter cannot be opened.
    #[error(transparent)]
    Tokenizer(#[from] data::tokenize::TokenizeError),
    /// Two adapters were trained with different tokens.
    #[error(
        "`{}` and `{}` bring different tokenizers, and a model has one",
        first.display(),
        second.display()
    )]
    TwoTokenizers {
        /// An adapter.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
    /// The base is not the one that an adapter was trained on.
    #[error("{message}")]
    OtherBase {
        /// What was found and what was expected.
        message: String,
    },
    /// The base is no GGUF file, or the change has no place in one.
    #[error("no GGUF file can be written: {reason}")]
    NoGguf {
        /// Why.
        reason: String,
    },
    /// A GGUF file cannot be read.
    #[error(transparent)]
    GgufFile(#[from] files::gguf::GgufFileError),
    /// A number is too large for the blocks of its tensor, or is not a number.
    #[error("tensor `{tensor}` would hold a number that {kind} cannot hold")]
    NotHeld {
        /// The tensor.
        tensor: String,
        /// The type in which it is stored.
        kind: &'static str,
    },
    /// A number is too large for its type, or is not a number.
    #[error("tensor `{tensor}` would hold a number that is not finite in {float}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The type in which it is stored.
        float: Float,
    },
    /// The user interrupted it.
    #[error("stopped: nothing was written")]
    Interrupted,
}

impl MergeError {
    fn inner(&self) -> Option<&dyn Explain> {
        match self {
            Self::File(error) => Some(error),
            Self::Safetensors(error) => Some(error),
            Self::Model(error) => Some(error),
            Self::Repack(error) => Some(error),
            Self::Adapter(error) => Some(error),
            Self::Tokenizer(error) => Some(error),
            Self::GgufFile(error) => Some(error),
            _ => None,
        }
    }
}

impl Explain for MergeError {
    fn exit(&self) -> Exit {
        match (self, self.inner()) {
            (_, Some(inner)) => inner.exit(),
            (Self::Exists { .. }, _) => Exit::Exists,
            (Self::Interrupted, _) => Exit::Signal,
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("choose another `--out`, or remove it first".into()),
            Self::TwoTokenizers { .. } => Some("merge them one after the other".into()),
            Self::OtherBase { .. } => Some(
                "name the base that it was trained on with `--base`, or merge into this one \
                with `--force`"
                    .into(),
            ),
            Self::NotFinite {
                float: Float::F16, ..
            } => Some(
                "F16 ends at 65504: write another type with `--dtype bf16` or `--dtype f32`".into(),
            ),
            Self::NoGguf { .. } => Some(
                "merge into the model's Hugging Face folder with `--base`, and export that with \
                `rankine export --to gguf`"
                    .into(),
            ),
            Self::NotHeld { .. } => Some("write another type with `--dtype f32`".into()),
            Self::NotFinite { .. } => {
                Some("look for NaN or infinity in the base and in the adapters".into())
            }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::io::ErrorKind;
    use std::rc::Rc;

    use super::*;
    use crate::files::disk::trial;

    #[test]
    fn a_disk_that_fails_at_any_point_leaves_nothing() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/qwen2");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let adapters = vec![Addend {
            folder: golden.join("adapter"),
            weight: 1.0,
            trained_on: None,
        }];
        let out = dir.path().join("merged");
        let order = MergeRequest {
            base: golden.join("model"),
            adapters,
            out,
            float: None,
            other_base: OtherBase::Refuse,
            onto: Onto::Stored,
            counts_q8_0: false,
            keeps_gguf: true,
            gguf: GgufNumbers::Own,
        };
        let run = || merge(&order, &AtomicBool::new(false), &|_| {});
        let operations = Rc::new(Cell::new(0));
        let counting = Rc::clone(&operations);
        let count = move |_, _: &Path| {
            counting.set(counting.get() + 1);
            Ok(())
        };
        trial::with(count, run).expect("a good disk");
        fs::remove_dir_all(&order.out).expect("removed");
        assert!(operations.get() > 50, "{} operations", operations.get());
        // The last one forces the folder above to the disk: the model is then there, and whole.
        for failing in 0..operations.get() - 1 {
            let mut reached = 0;
            let full = move |_, _: &Path| {
                reached += 1;
                if reached == failing + 1 {
                    Err(ErrorKind::StorageFull.into())
                } else {
                    Ok(())
                }
            };
            let error = trial::with(full, run).expect_err("a full disk");
            assert_eq!(error.exit(), Exit::Io, "operation {failing}: {error}");
            assert_eq!(
                fs::read_dir(dir.path()).expect("listed").count(),
                0,
                "operation {failing}"
            );
        }
    }
}
