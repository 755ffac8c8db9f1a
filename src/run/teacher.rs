//! What a distillation learns from: a model beside the student, or the most likely tokens of each
//! row, which a model computes once or the rows bring. The tokens are kept in the cache of tokens,
//! one entry for each data file.
//!
//! Layout of an entry, little-endian: stamp, records of the rows (see [`TopRows`]), checksum
//! (blake3 over all before it). The key is the hash of the rows' tokens and of all that the numbers
//! depend on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::reference::{self, Part};
use crate::data::{Rows, TaughtRow, TopRows, taught_rows};
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::files::{
    self, EntryKind, FileError, Map, RowCache, STAMP_BYTES, hash_file_in_parallel, map_file,
};
use crate::model::{Decoder, shard_paths};
use crate::plan::{Plan, RunData, Teacher, TeacherModel, TeacherTokens};
use crate::report::{Event, Reporter};
use crate::terms::TopTokens;
use crate::train::{TrainConfig, top_tokens};

const HASH_BYTES: usize = 32;

/// Loads the model that runs beside the student; `None` where there is none.
///
/// # Errors
/// The model cannot be loaded.
pub fn load_teacher(plan: &Plan, report: Reporter) -> Result<Option<Decoder>, Failure> {
    let beside = plan
        .teacher_model()
        .filter(|teacher| teacher.cached.is_none());
    beside
        .map(|teacher| load(plan, teacher, report))
        .transpose()
}

fn load(plan: &Plan, teacher: &TeacherModel, report: Reporter) -> Result<Decoder, Failure> {
    let device = device::open(plan.device)?;
    Ok(teacher
        .model
        .load(teacher.storage(plan.device), &device, report)?)
}

/// Gives each row of `data` the teacher's most likely tokens, from the cache, from the rows' own
/// columns or by a model. Where a model runs beside the student there is nothing to do.
///
/// # Errors
/// The teacher cannot be loaded, the columns of a file do not fit its rows, or the cache cannot be
/// written.
pub fn read_out(
    plan: &Plan,
    data: &mut RunData,
    config: &TrainConfig,
    report: Reporter,
) -> Result<(), Failure> {
    let source = match plan.teacher() {
        Some(Teacher::Data) => Source::Data,
        Some(Teacher::Model(model)) => match model.cached {
            Some(each) => Source::Model { model, each },
            None => return Ok(()),
        },
        None => return Ok(()),
    };
    let identity = source.identity(plan, config)?;
    let sets = data.sets();
    let total: usize = sets.iter().map(Rows::len).sum();
    let mut work = Work {
        plan,
        config,
        source,
        cache: plan.row_cache(),
        report,
        decoder: None,
        done: 0,
        total,
    };
    let mut tokens = TeacherTokens::default();
    for part in reference::parts(&sets, config, &identity, EntryKind::Teacher)? {
        let rows = &sets[part.set];
        let (each, map, name) = work.entry(&part, rows)?;
        let set = &mut tokens.sets[part.set];
        if set.each() == 0 {
            *set = TopRows::new(each, rows.len());
        } else if set.each() != each {
            let fault = Fault::new(format!(
                "`{}` has {each} tokens of the teacher for each place, files before it have {}",
                rows.file(part.places[0]).display(),
                set.each()
            ));
            let hint = "write all of them with the same `rankine teach --top-k`";
            return Err(Failure::new(Exit::Input, fault.hint(hint)));
        }
        let counts = part
            .places
            .iter()
            .map(|place| (*place, rows.counts(*place).1));
        set.add(map, STAMP_BYTES, counts);
        tokens.entries.extend(name);
    }
    if work.done > 0 {
        report(Event::Ended);
    }
    drop(work);
    drop(sets);
    data.set_teacher(tokens);
    Ok(())
}

/// Where tokens come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Data,
    Model {
        model: &'a TeacherModel,
        each: usize,
    },
}

impl Source<'_> {
    /// Returns everything but the rows that the numbers depend on.
    fn identity(self, plan: &Plan, config: &TrainConfig) -> Result<String, Failure> {
        let Self::Model { model, each } = self else {
            return Ok(format!("columns at {}", temperature(config)));
        };
        let mut paths = shard_paths(&model.folder)?;
        paths.push(model.folder.join("config.json"));
        let hashes: Result<Vec<String>, FileError> = paths
            .iter()
            .filter(|path| path.is_file())
            .map(|path| Ok(hash_file_in_parallel(path)?.to_string()))
            .collect();
        let storage = model.storage(plan.device);
        let of = (each, temperature(config), plan.model.spec.vocabulary);
        Ok(format!(
            "{:?} {of:?} {}",
            hashes?,
            reference::computed(plan, config, storage)
        ))
    }
}

fn temperature(config: &TrainConfig) -> f64 {
    config
        .objective
        .distill()
        .map_or(1.0, |distill| distill.temperature)
}

/// The state of reading out.
struct Work<'a> {
    plan: &'a Plan,
    config: &'a TrainConfig,
    source: Source<'a>,
    cache: RowCache,
    report: Reporter<'a>,
    decoder: Option<Decoder>,
    done: usize,
    total: usize,
}

impl Work<'_> {
    /// Returns the entry of a part, from the cache or made now: tokens for each place, its bytes,
    /// and its name where it has one.
    fn entry(&mut self, part: &Part, rows: &Rows) -> Result<(usize, Map, Option<String>), Failure> {
        let name = part.stamp.name();
        let path = self.cache.folder().map(|folder| folder.join(&name));
        let targets: usize = part.places.iter().map(|place| rows.counts(*place).1).sum();
        if let Some(path) = path.as_deref().filter(|path| path.exists()) {
            match found(path, part, targets) {
                Ok((each, map)) => return Ok((each, map, Some(name))),
                Err(reason) => (self.report)(Event::Note(format!(
                    "the teacher's tokens `{}` are made again: {reason}",
                    path.display()
                ))),
            }
        }
        let folder = self.cache.prepare()?;
        let folder = folder.into_iter().next().unwrap_or_else(std::env::temp_dir);
        let mut entry = Entry::start(&folder, part)?;
        let each = match self.source {
            Source::Data => self.take_columns(part, rows, &mut entry)?,
            Source::Model { model, each } => {
                self.read_out(model, each, part, rows, &mut entry)?;
                each
            }
        };
        let map = entry.finish(path.as_deref())?;
        Ok((each, map, path.map(|_| name)))
    }

    fn read_out(
        &mut self,
        model: &TeacherModel,
        each: usize,
        part: &Part,
        rows: &Rows,
        entry: &mut Entry,
    ) -> Result<(), Failure> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(load(self.plan, model, self.report)?),
        };
        let vocabulary = self.plan.model.spec.vocabulary;
        let wanted = (vocabulary, each, temperature(self.config));
        let chunk = self.config.step.head_chunk_rows;
        for places in part.places.chunks(self.config.micro_batch_size) {
            entry.push(&top_tokens(decoder, &rows.batch(places), chunk, wanted))?;
            self.done += places.len();
            (self.report)(Event::Progress {
                what: "reading out the teacher".to_owned(),
                done: self.done as u64,
                total: self.total as u64,
            });
        }
        Ok(())
    }

    /// Takes the tokens from the columns of a data file, whose trained tokens must be those of the
    /// rows. Rows may be cut.
    fn take_columns(
        &mut self,
        part: &Part,
        rows: &Rows,
        entry: &mut Entry,
    ) -> Result<usize, Failure> {
        let path = rows.file(part.places[0]);
        let refused = |reason: String| {
            let fault = Fault::new(format!(
                "`{}` does not bring the tokens of a teacher: {reason}",
                path.display()
            ));
            let hint = "write such a file with `rankine teach`, with the base's chat template, or \
                name a model as `objective.teacher`";
            Failure::new(Exit::Input, fault.hint(hint))
        };
        // Rows of a part come in the order of its file.
        let mut wanted: BTreeMap<u64, u32> = BTreeMap::new();
        for place in &part.places {
            wanted.insert(rows.position(*place), *place);
        }
        let mut each = 0;
        let vocabulary = self.plan.model.spec.vocabulary;
        let read = taught_rows(path, |number, row| {
            let Some(place) = wanted.remove(&number) else {
                return Ok(());
            };
            let top = fitted(row, &rows.batch(&[place]).targets, vocabulary)?;
            if each == 0 {
                each = top.each;
            } else if each != top.each {
                return Err(format!(
                    "it has {} tokens for each place, rows before it {each}",
                    top.each
                ));
            }
            entry.push(&top).map_err(|error| error.to_string())
        });
        let found = read.map_err(refused)?;
        if let Some(missing) = wanted.keys().next() {
            return Err(refused(format!("row {missing} has none")));
        }
        if (found - temperature(self.config)).abs() > 1e-9 {
            let fault = Fault::new(format!(
                "objective.temperature is {}, the log-probabilities of `{}` are those at {found}",
                temperature(self.config),
                path.display()
            ));
            return Err(Failure::new(
                Exit::Input,
                fault.hint(format!("set `objective.temperature: {found}`")),
            ));
        }
        Ok(each)
    }
}

/// Returns a row's tokens for its targets, which are the first ones that it was taught.
fn fitted(row: TaughtRow, targets: &[i32], vocabulary: usize) -> Result<TopTokens, String> {
    let taught = row.targets.iter().copied().map(u32::cast_signed);
    let same = taught.zip(targets).take_while(|(one, other)| one == *other);
    let same = same.count();
    if same < targets.len() {
        return Err(format!(
            "its trained token {same} is {}, that of the file is {}",
            targets[same],
            row.targets
                .get(same)
                .map_or_else(|| "missing".to_owned(), ToString::to_string)
        ));
    }
    if let Some(id) = row.top.ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(format!(
            "the teacher's token {id} is beyond the base's {vocabulary} tokens"
        ));
    }
    Ok(row.top.of_targets(0..targets.len()))
}

/// Reads the entry of a part; the error says why it does not fit.
fn found(path: &Path, part: &Part, targets: usize) -> Result<(usize, Map), String> {
    let map = files::map(path).map_err(|error| error.to_string())?;
    let Some((content, checksum)) = map.split_last_chunk::<HASH_BYTES>() else {
        return Err("it is cut off".to_owned());
    };
    let records = content.len().saturating_sub(STAMP_BYTES);
    let each = records / TopRows::bytes(1, targets.max(1));
    if !content.starts_with(&part.stamp.bytes())
        || records == 0
        || records != TopRows::bytes(each, targets)
    {
        return Err(format!(
            "it has {} bytes, which do not fit {targets} places with the stamp of their rows",
            map.len()
        ));
    }
    if files::hash_bytes(content).0 != *checksum {
        return Err("its checksum does not fit its content".to_owned());
    }
    map.release();
    files::mark_used(path);
    Ok((each, map))
}

/// An entry that is being written, into a file without a name.
struct Entry {
    folder: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Entry {
    fn start(folder: &Path, part: &Part) -> Result<Self, FileError> {
        let file = tempfile::tempfile_in(folder)
            .map_err(|cause| FileError::new("write", folder, cause))?;
        let mut entry = Self {
            folder: folder.to_owned(),
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
        };
        entry.write(&part.stamp.bytes())?;
        Ok(entry)
    }

    fn push(&mut self, top: &TopTokens) -> Result<(), FileError> {
        let mut bytes = Vec::new();
        TopRows::write(top, &mut bytes);
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|cause| FileError::new("write", &self.folder, cause))
    }

    /// Ends the file, names it where it has a name, and maps it.
    fn finish(mut self, path: Option<&Path>) -> Result<Map, FileError> {
        let checksum = *self.hasher.finalize().as_bytes();
        self.write(&checksum)?;
        let at = path.unwrap_or(&self.folder).to_owned();
        let failed = |cause| FileError::new("write", &at, cause);
        let file = self.file.into_inner();
        let mut file = file.map_err(|error| failed(io::Error::from(error.error().kind())))?;
        if let Some(path) = path {
            files::give_name(&mut file, path).map_err(failed)?;
        }
        map_file(&file, &at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Hash, Stamp};

    fn row(targets: &[u32]) -> TaughtRow {
        let places = targets.len() as u32;
        TaughtRow {
            targets: targets.to_vec(),
            top: TopTokens {
                each: 2,
                ids: (0..2 * places).collect(),
                log_p: vec![-1.0; 2 * targets.len()],
            },
        }
    }

    #[test]
    fn rows_may_be_cut_and_other_tokens_are_refused() {
        let cut = fitted(row(&[5, 6, 7]), &[5, 6], 10).expect("fits");
        assert_eq!((cut.each, cut.ids.len()), (2, 4));
        let other = fitted(row(&[5, 6]), &[5, 8], 10).expect_err("refused");
        assert!(
            other.contains("token 1 is 8, that of the file is 6"),
            "{other}"
        );
        let longer = fitted(row(&[5]), &[5, 8], 10).expect_err("refused");
        assert!(longer.contains("missing"), "{longer}");
        let beyond = fitted(row(&[5, 6]), &[5, 6], 3).expect_err("refused");
        assert!(beyond.contains("token 3 is beyond"), "{beyond}");
    }

    #[test]
    fn entries_are_read_back_and_damage_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.teacher");
        let part = Part {
            set: 0,
            places: vec![0, 1],
            stamp: Stamp {
                kind: EntryKind::Teacher,
                key: Hash([1; 32]),
                source: Hash([2; 32]),
            },
        };
        let mut entry = Entry::start(folder.path(), &part).expect("started");
        entry.push(&row(&[5, 6]).top).expect("written");
        entry.push(&row(&[7]).top).expect("written");
        entry.finish(Some(&path)).expect("finished");
        assert!(matches!(found(&path, &part, 3), Ok((2, _))));
        assert!(found(&path, &part, 4).is_err());
        let whole = std::fs::read(&path).expect("read");
        for index in 0..whole.len() {
            let mut changed = whole.clone();
            changed[index] ^= 1;
            std::fs::write(&path, changed).expect("written");
            assert!(found(&path, &part, 3).is_err(), "byte {index}");
        }
    }
}
