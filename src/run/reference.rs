//! Log-probabilities of the data under the reference of an objective: scored once before training,
//! and kept in the cache of tokens, so that no second model is in memory while a run trains, and
//! every run with the same rows and reference finds them.
//!
//! There is one entry for each data file. Layout, little-endian: stamp, two numbers for each row
//! (f64 each, see [`crate::data::Rows::with_reference`]), checksum (blake3 over all before it). The
//! key is the hash of the rows' tokens and of all that the numbers depend on.

use std::path::{Path, PathBuf};

use super::artifact::Artifact;
use super::trained::Opened;
use crate::adapter::peft;
use crate::data::Rows;
use crate::device;
use crate::fault::Failure;
use crate::files::{
    self, EntryKind, FileError, Hash, STAMP_BYTES, Stamp, hash_bytes, hash_file_in_parallel,
};
use crate::model::{Decoder, Storage, shard_paths};
use crate::plan::{Plan, Reference, ReferenceScores, RunData, Trains};
use crate::report::{Event, Reporter};
use crate::train::{TrainConfig, log_p_of_units};

/// Bytes of a row's numbers.
const ROW_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// The rows of one data file among those of a set.
pub(super) struct Part {
    /// Place of the set in [`RunData::sets`].
    pub set: usize,
    /// Their places.
    pub places: Vec<u32>,
    /// The stamp of the entry that holds what is known of them.
    pub stamp: Stamp,
}

/// Gives each row of `data` the log-probabilities of its completions under the reference, from the
/// cache or by scoring them. An objective without a reference is left as it is.
///
/// # Errors
/// The reference cannot be loaded, or the cache cannot be written.
pub fn score(
    plan: &Plan,
    data: &mut RunData,
    config: &TrainConfig,
    storage: Storage,
    report: Reporter,
) -> Result<(), Failure> {
    if *plan.reference() == Reference::None {
        return Ok(());
    }
    let cache = plan.row_cache();
    let folder = cache.folder();
    let mut scores = ReferenceScores::default();
    let mut model: Option<Decoder> = None;
    let identity = identity(plan, config, storage)?;
    let sets = data.sets();
    let total: usize = sets.iter().map(Rows::len).sum();
    let mut done = 0;
    for part in parts(&sets, config, &identity, EntryKind::Reference)? {
        let name = part.stamp.name();
        let path = folder.as_ref().map(|folder| folder.join(&name));
        let found = path.as_deref().filter(|path| path.exists());
        let found = found.and_then(|path| match read(path, &part) {
            Ok(values) => Some(values),
            Err(reason) => {
                report(Event::Note(format!(
                    "the reference's scores `{}` are made again: {reason}",
                    path.display()
                )));
                None
            }
        });
        let values = if let Some(values) = found {
            values
        } else {
            let decoder = match &mut model {
                Some(decoder) => decoder,
                none => none.insert(load(plan, storage, report)?.settled()),
            };
            let mut values = Vec::with_capacity(part.places.len());
            for places in part.places.chunks(config.micro_batch_size) {
                values.extend(scored(decoder, &sets[part.set], places, config));
                done += places.len();
                report(Event::Progress {
                    what: "scoring by the reference".to_owned(),
                    done: done as u64,
                    total: total as u64,
                });
            }
            if let Some(path) = &path {
                cache.prepare()?;
                write(path, &part.stamp, &values)?;
            }
            values
        };
        if path.is_some() {
            scores.entries.push(name);
        }
        let set = &mut scores.sets[part.set];
        set.resize(sets[part.set].len(), [0.0; 2]);
        for (place, value) in part.places.iter().zip(values) {
            set[*place as usize] = value;
        }
    }
    drop(sets);
    if model.is_some() {
        report(Event::Ended);
    }
    data.set_reference(scores);
    Ok(())
}

/// Loads the model that the objective compares with.
fn load(plan: &Plan, storage: Storage, report: Reporter) -> Result<Decoder, Failure> {
    let device = device::open(plan.device)?;
    let base = || plan.model.load(storage, &device, report);
    Ok(match plan.reference() {
        Reference::Init => plan.load_model(storage, &device, None, report)?,
        Reference::Base | Reference::None => base()?,
        Reference::Folder(folder) => {
            match Artifact::find(folder)?.open(&plan.model.spec, report)? {
                Opened::Model(folder) => folder.load(storage, &device, report)?,
                adapter @ Opened::Adapter(_) => adapter.on(base()?, storage.dtype, report)?,
            }
        }
    })
}

/// Returns the log-probabilities of the completions of some rows, and of those of other rows where
/// the objective reads them.
fn scored(decoder: &Decoder, rows: &Rows, places: &[u32], config: &TrainConfig) -> Vec<[f64; 2]> {
    let chunk = config.step.head_chunk_rows;
    let mut own = log_p_of_units(decoder, &rows.batch(places), chunk);
    if config.objective.reads_mismatched() {
        let other = log_p_of_units(decoder, &rows.mismatched(places), chunk);
        for (own, [other, _]) in own.iter_mut().zip(other) {
            own[1] = other;
        }
    }
    own
}

/// Returns everything but the rows that the numbers depend on.
fn identity(plan: &Plan, config: &TrainConfig, storage: Storage) -> Result<String, Failure> {
    let hashes = |paths: Vec<PathBuf>| -> Result<Vec<String>, FileError> {
        let hashes = paths.iter().filter(|path| path.is_file());
        hashes
            .map(|path| Ok(hash_file_in_parallel(path)?.to_string()))
            .collect()
    };
    let base = || -> Result<Vec<String>, Failure> {
        let mut paths = shard_paths(&plan.base_folder)?;
        paths.push(plan.base_folder.join("config.json"));
        Ok(hashes(paths)?)
    };
    let of_adapter = |folder: &Path| hashes(peft::files(folder).into_iter().collect());
    let reference = match plan.reference() {
        Reference::None => Vec::new(),
        Reference::Base => base()?,
        Reference::Init => {
            let mut all = base()?;
            if let Some(folder) = &plan.init_from {
                all.extend(of_adapter(folder)?);
            }
            if let Trains::Adapter(adapter) = &plan.trains {
                all.push(format!("{adapter:?}, {:?}", plan.setting("training.seed")));
            }
            all
        }
        Reference::Folder(folder) => match Artifact::find(folder)? {
            Artifact::Adapter(folder) => {
                let mut all = base()?;
                all.extend(of_adapter(&folder)?);
                all
            }
            Artifact::Model(folder) => {
                let mut paths = shard_paths(&folder)?;
                paths.push(folder.join("config.json"));
                hashes(paths)?
            }
        },
    };
    let tokens: Vec<String> = plan
        .settings
        .iter()
        .filter(|setting| setting.key.starts_with("tokens."))
        .map(|setting| format!("{}: {}", setting.key, setting.value))
        .collect();
    let computed = computed(plan, config, storage);
    Ok(format!("{reference:?} {tokens:?} {computed}"))
}

/// Returns what the numbers of a model depend on beside its weights and rows.
pub(super) fn computed(plan: &Plan, config: &TrainConfig, storage: Storage) -> String {
    let gpu = device::find(plan.device).map(|found| found.identity());
    let computed = (
        env!("CARGO_PKG_VERSION"),
        plan.device.to_string(),
        gpu.map(|gpu| format!("{}, {}", gpu.name, gpu.driver)),
        device::cpu_features(),
        plan.products(),
        storage,
        config.micro_batch_size,
    );
    format!("{computed:?}")
}

/// Divides the rows by set and data file; `identity` is everything but the rows that an entry
/// depends on.
pub(super) fn parts(
    sets: &[Rows; 3],
    config: &TrainConfig,
    identity: &str,
    kind: EntryKind,
) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    for (set, rows) in sets.iter().enumerate() {
        let places: Vec<u32> = (0..).take(rows.len()).collect();
        for places in places.chunk_by(|one, other| rows.file(*one) == rows.file(*other)) {
            let mut hasher = blake3::Hasher::new();
            hasher.update(identity.as_bytes());
            for place in places {
                let mut batches = vec![rows.batch(&[*place])];
                if config.objective.reads_mismatched() {
                    batches.push(rows.mismatched(&[*place]));
                }
                for batch in batches {
                    let lengths = batch.lengths.iter().map(|length| *length as u64);
                    let lengths = lengths.flat_map(u64::to_le_bytes);
                    let numbers = batch.ids.into_iter().chain(batch.positions);
                    let bytes: Vec<u8> =
                        lengths.chain(numbers.flat_map(i32::to_le_bytes)).collect();
                    hasher.update(hash_bytes(&bytes).0.as_slice());
                }
            }
            let stamp = Stamp {
                kind,
                key: Hash(*hasher.finalize().as_bytes()),
                source: hash_file_in_parallel(rows.file(places[0]))?,
            };
            parts.push(Part {
                set,
                places: places.to_vec(),
                stamp,
            });
        }
    }
    Ok(parts)
}

fn write(path: &Path, stamp: &Stamp, values: &[[f64; 2]]) -> Result<(), FileError> {
    let mut bytes = stamp.bytes().to_vec();
    bytes.extend(
        values
            .iter()
            .flatten()
            .flat_map(|value| value.to_le_bytes()),
    );
    let checksum = hash_bytes(&bytes);
    bytes.extend(checksum.0);
    files::write_private(path, |file| file.write(&bytes))
}

/// Reads the numbers of the rows of a part; the error says why they do not fit.
fn read(path: &Path, part: &Part) -> Result<Vec<[f64; 2]>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let expected = STAMP_BYTES + part.places.len() * ROW_BYTES + HASH_BYTES;
    let Some((content, checksum)) = bytes.split_last_chunk::<HASH_BYTES>() else {
        return Err("it is cut off".to_owned());
    };
    if bytes.len() != expected || !content.starts_with(&part.stamp.bytes()) {
        return Err(format!(
            "it has {} bytes, expected {expected} with the stamp of its rows",
            bytes.len()
        ));
    }
    if hash_bytes(content).0 != *checksum {
        return Err("its checksum does not fit its content".to_owned());
    }
    files::mark_used(path);
    let (numbers, _) = content[STAMP_BYTES..].as_chunks::<8>();
    let numbers: Vec<f64> = numbers.iter().copied().map(f64::from_le_bytes).collect();
    Ok(numbers.as_chunks::<2>().0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_to_the_bit_and_damage_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.reference");
        let part = |places: usize| Part {
            set: 0,
            places: (0..).take(places).collect(),
            stamp: Stamp {
                kind: EntryKind::Reference,
                key: Hash([1; 32]),
                source: Hash([2; 32]),
            },
        };
        let values = [[-1.5, 0.1 + 0.2], [f64::MIN_POSITIVE, -1e300]];
        write(&path, &part(2).stamp, &values).expect("written");
        assert_eq!(read(&path, &part(2)), Ok(values.to_vec()));
        assert!(read(&path, &part(3)).is_err());
        let whole = std::fs::read(&path).expect("read");
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            std::fs::write(&path, changed).expect("written");
            assert!(read(&path, &part(2)).is_err(), "byte {index}");
        }
    }
}
