//! `rankine cache`: lists and removes what is stored of data files outside of run folders.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use indicatif::{DecimalBytes, HumanDuration};
use serde_json::{Value, json};

use super::{Failure, print};
use crate::data::find_files;
use crate::fault::{Exit, Fault};
use crate::files::{
    self, CacheEntry, RowCache, cache_folder, cache_limit, entries, entry_count, hash_file,
    leftovers,
};
use crate::hub::DatasetPath;
use crate::plan::cached_files;
use crate::report::Terminal;
use crate::run::{CACHE_ENTRIES, Lock, check_is_run};
use crate::train::RunFolder;

/// Subfolders of the cache that hold nothing from the data, with their contents.
const OTHERS: [(&str, &str); 2] = [
    ("kernels", "compiled GPU kernels"),
    ("proofs", "results of GPU self-checks"),
];
/// Digits of a hash that are shown, and the fewest that are accepted.
const SHORT_HASH: usize = 16;
const LEAST_HASH: usize = 8;
const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Debug, Subcommand)]
enum CacheVerb {
    /// List the entries: kind, size, age, last use, and the hash of the data file that each was
    /// made from
    List(ListArgs),
    /// Remove entries: all of them, or those that fit every option
    ///
    /// Compiled GPU kernels and results of GPU self-checks hold nothing of the data and are never
    /// removed. An entry that a running process uses is left, and the command then ends with exit
    /// code 73.
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Name the entries made from this data file (a file, a glob or a folder): entries themselves
    /// know only its hash
    #[arg(long, value_name = "FILE")]
    data: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PurgeArgs {
    /// Only entries made from this data file, known by its content wherever it lies now. If the
    /// file is gone, give its hash, which `rankine cache list` and the run's lock have
    #[arg(long, value_name = "FILE|HASH")]
    data: Vec<String>,
    /// Only entries that this run used, in the shared cache and in the run's folder
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Only entries that nobody has used for so many days
    #[arg(long, value_name = "DAYS")]
    older: Option<u32>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn cache(args: &CacheArgs, terminal: &Terminal) -> Result<(), Failure> {
    match &args.verb {
        CacheVerb::List(args) => list(args),
        CacheVerb::Purge(args) => purge(args, terminal),
    }
}

/// A data file, by the first digits of its hash, with its current name if it is known.
struct DataFile {
    hash: String,
    name: Option<String>,
}

impl DataFile {
    fn is_source_of(&self, entry: &CacheEntry) -> bool {
        entry
            .source
            .is_some_and(|hash| hash.to_string().starts_with(&self.hash))
    }
}

fn data_files(typed: &[String]) -> Result<Vec<DataFile>, Failure> {
    let mut files = Vec::new();
    for text in typed {
        let found = match text {
            _ if Path::new(text).is_file() => vec![PathBuf::from(text)],
            _ if DatasetPath::is_one(text) => cached_files(text)?,
            _ => find_files(text).unwrap_or_default(),
        };
        let is_hash = text.len() >= LEAST_HASH
            && text.len() <= 64
            && text.chars().all(|c| c.is_ascii_hexdigit());
        if found.is_empty() && is_hash {
            files.push(DataFile {
                hash: text.to_ascii_lowercase(),
                name: None,
            });
        } else if found.is_empty() {
            let fault = Fault::new(format!(
                "--data: `{text}` is no file, so the hash of its content is not known"
            ));
            let hint = "name the file where it lies now, whatever it is called; if it is gone, \
                give its hash with `--data HASH`: `rankine cache list` and `recipe.lock.yaml` of \
                the run (under `blake3`) have it";
            return Err(Failure::new(Exit::NoInput, fault.hint(hint)));
        }
        for path in found {
            files.push(DataFile {
                hash: hash_file(&path)?.to_string(),
                name: Some(path.display().to_string()),
            });
        }
    }
    Ok(files)
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let (folder, data) = (cache_folder(), data_files(&args.data)?);
    check_readable(&RowCache::from(&folder))?;
    let all = entries(&RowCache::from(&folder));
    let name_of = |entry: &CacheEntry| {
        data.iter()
            .find(|file| file.is_source_of(entry))
            .and_then(|file| file.name.clone())
    };
    let limit = cache_limit().map_err(|found| {
        let fault = Fault::new(format!(
            "{} is `{found}`, expected a number of bytes, such as `5GB`",
            files::LIMIT
        ));
        Failure::new(Exit::Input, fault)
    })?;
    let total: u64 = all.iter().map(|entry| entry.bytes).sum();
    if args.json {
        let entries: Vec<Value> = all
            .iter()
            .map(|entry| object(entry, name_of(entry)))
            .collect();
        let others = OTHERS.map(|(room, _)| (room.to_owned(), size(&folder.join(room))));
        let others: Value = others
            .into_iter()
            .map(|(room, (files, bytes))| (room, json!({"files": files, "bytes": bytes})))
            .collect();
        let folder = folder.display().to_string();
        return print(json!({
            "cache": folder,
            "bytes": total,
            "limit_bytes": limit,
            "entries": entries,
            "without_data": others,
        }));
    }
    print(format_args!("cache    {}", folder.display()))?;
    for entry in &all {
        let hash = entry.source.map_or_else(
            || "not known".to_owned(),
            |hash| hash.to_string()[..SHORT_HASH].to_owned(),
        );
        let age = entry.made.map_or_else(
            || "unknown".to_owned(),
            |made| format!("{}", HumanDuration(since(made))),
        );
        let (kind, size) = (entry.kind.word(), DecimalBytes(entry.bytes).to_string());
        let used = HumanDuration(since(entry.used));
        let name = name_of(entry).map_or_else(String::new, |name| format!(" ({name})"));
        let state = match entry.user {
            Some(process) => format!(", in use by process {process}"),
            None if entry.is_outdated => ", of an older version".to_owned(),
            None => String::new(),
        };
        print(format_args!(
            "{kind:<9} {size:>10}  made {age} ago, used {used} ago{state}, from data {hash}{name}"
        ))?;
    }
    let (count, total) = (entry_count(all.len()), DecimalBytes(total));
    print(format_args!(
        "total    {total} in {count}, limit {} ({})",
        DecimalBytes(limit),
        files::LIMIT
    ))?;
    for (room, what) in OTHERS {
        let (count, bytes) = size(&folder.join(room));
        if count > 0 {
            print(format_args!(
                "{room:<8} {:>10}  {what}, nothing of the data",
                DecimalBytes(bytes).to_string()
            ))?;
        }
    }
    Ok(())
}

fn object(entry: &CacheEntry, file: Option<String>) -> Value {
    let time = |at: SystemTime| jiff::Timestamp::try_from(at).ok().map(|at| at.to_string());
    json!({
        "entry": entry.name,
        "kind": entry.kind.word(),
        "bytes": entry.bytes,
        "made": entry.made.and_then(time),
        "last_used": time(entry.used),
        "data_blake3": entry.source.map(|hash| hash.to_string()),
        "data_file": file,
        "in_use_by": entry.user,
        "older_version": entry.is_outdated,
    })
}

fn since(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_default()
}

/// Refuses a folder of entries that exists but cannot be read, because its entries would be missed.
fn check_readable(cache: &RowCache) -> Result<(), Failure> {
    let Some(folder) = cache.folder() else {
        return Ok(());
    };
    match std::fs::read_dir(&folder) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(files::FileError::new("read", &folder, cause).into())
        }
        _ => Ok(()),
    }
}

/// Returns the number and total size of the files below a folder.
fn size(folder: &Path) -> (u64, u64) {
    let below = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) if metadata.is_file() => (1, metadata.len()),
        _ => (0, 0),
    };
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(below);
    entries.fold((0, 0), |(files, bytes), (more, more_bytes)| {
        (files + more, bytes + more_bytes)
    })
}

/// Entries of a cache that a run has used.
enum Used {
    Names(Vec<String>),
    /// All entries of these data files, because an older version did not record names.
    Data(Vec<DataFile>),
}

impl Used {
    fn of(lock: &Lock, run: &Path) -> Self {
        let by_data = || {
            lock.data_hashes()
                .into_iter()
                .map(|hash| DataFile { hash, name: None })
                .collect()
        };
        let and_scored = |names: Vec<String>| names.into_iter().chain(scored(run)).collect();
        lock.cache_entries().map_or_else(
            || Self::Data(by_data()),
            |names| Self::Names(and_scored(names)),
        )
    }

    fn has(&self, entry: &CacheEntry) -> bool {
        match self {
            Self::Names(names) => names.contains(&entry.name),
            Self::Data(files) => files.iter().any(|file| file.is_source_of(entry)),
        }
    }
}

/// Returns the entries that were made or read when the run was scored. Incomplete lines are
/// skipped.
fn scored(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join(RunFolder::EVALUATIONS)).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let names = |line: Value| {
        serde_json::from_value::<Vec<String>>(line[CACHE_ENTRIES].clone()).unwrap_or_default()
    };
    lines.flat_map(names).collect()
}

fn purge(args: &PurgeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let shared = RowCache::from(&cache_folder());
    let (data, run) = (data_files(&args.data)?, args.run.as_deref());
    run.map_or(Ok(()), check_is_run)?;
    let lock = run
        .map(|run| Lock::read(&run.join(RunFolder::LOCK)))
        .transpose()?;
    let used = lock
        .as_ref()
        .zip(run)
        .map(|(lock, run)| Used::of(lock, run));
    check_readable(&shared)?;
    let all = entries(&shared);
    if let (Some(lock), Some(used)) = (&lock, &used) {
        tell(lock, used, &all, terminal);
    }
    let of_run = run.map(|run| RowCache::OfRun(run.join(RunFolder::CACHE)));
    // Everything in the run's folder belongs to the run.
    let own: Vec<CacheEntry> = of_run.iter().flat_map(entries).collect();
    let is_old = |entry: &CacheEntry| {
        args.older
            .is_none_or(|days| since(entry.used) >= DAY * days)
    };
    let is_named =
        |entry: &CacheEntry| data.is_empty() || data.iter().any(|file| file.is_source_of(entry));
    let fits = |entry: &&CacheEntry| {
        is_old(entry) && is_named(entry) && used.as_ref().is_none_or(|used| used.has(entry))
    };
    let own_fits = |entry: &&CacheEntry| is_old(entry) && is_named(entry);
    let chosen: Vec<&CacheEntry> = all
        .iter()
        .filter(fits)
        .chain(own.iter().filter(own_fits))
        .collect();
    let unknown = all
        .iter()
        .chain(&own)
        .filter(|entry| entry.source.is_none())
        .count();
    if unknown > 0 && !data.is_empty() {
        terminal.say(&format!(
            "note: {} of another version of Rankine, or damaged, without the hash of its data: \
            `rankine cache purge` without `--data` removes it",
            entry_count(unknown)
        ));
    }
    let (in_use, free): (Vec<&CacheEntry>, Vec<&CacheEntry>) =
        chosen.into_iter().partition(|entry| entry.user.is_some());
    let has_filter = used.is_some() || !data.is_empty() || args.older.is_some();
    let rests = if has_filter {
        Vec::new()
    } else {
        leftovers(&shared)
    };
    if !args.dry_run {
        free.iter().try_for_each(|entry| files::remove(entry))?;
        for (path, _) in &rests {
            std::fs::remove_file(path)
                .map_err(|cause| files::FileError::new("remove", path, cause))?;
        }
    }
    report(args, &free, &rests, &in_use)?;
    if in_use.is_empty() || args.dry_run {
        Ok(())
    } else {
        Err(left(&in_use))
    }
}

/// Reports entries that the run used and that are missing, and entries of its data that other runs
/// made.
fn tell(lock: &Lock, used: &Used, all: &[CacheEntry], terminal: &Terminal) {
    let folder = cache_folder();
    if let Used::Data(_) = used {
        terminal.say(
            "note: the run was made by a version that did not record its cache entries, so all \
            entries made from its data are chosen",
        );
    }
    let data: Vec<DataFile> = lock
        .data_hashes()
        .into_iter()
        .map(|hash| DataFile { hash, name: None })
        .collect();
    let others = all
        .iter()
        .filter(|entry| !used.has(entry) && data.iter().any(|file| file.is_source_of(entry)))
        .count();
    if others > 0 {
        terminal.say(&format!(
            "note: {} more in `{}`, made from the same data for another tokenizer, template or \
            format: `--data FILE` removes them too",
            entry_count(others),
            folder.display()
        ));
    }
}

fn report(
    args: &PurgeArgs,
    free: &[&CacheEntry],
    rests: &[(PathBuf, u64)],
    in_use: &[&CacheEntry],
) -> Result<(), Failure> {
    let bytes = free.iter().map(|entry| entry.bytes).sum::<u64>()
        + rests.iter().map(|(_, bytes)| bytes).sum::<u64>();
    if args.json {
        let objects = |entries: &[&CacheEntry]| {
            entries
                .iter()
                .map(|entry| object(entry, None))
                .collect::<Vec<_>>()
        };
        return print(json!({
            "removed": objects(free),
            "removed_temporary_files": rests.len(),
            "removed_bytes": bytes,
            "in_use": objects(in_use),
            "dry_run": args.dry_run,
        }));
    }
    let done = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    for entry in free {
        let hash = entry.source.map_or_else(
            || "not known".to_owned(),
            |hash| hash.to_string()[..SHORT_HASH].to_owned(),
        );
        print(format_args!(
            "{done} {} {}, {}, from data {hash}",
            entry.kind.word(),
            entry.name,
            DecimalBytes(entry.bytes)
        ))?;
    }
    for (path, bytes) in rests {
        print(format_args!(
            "{done} temporary file {}, {}",
            path.display(),
            DecimalBytes(*bytes)
        ))?;
    }
    let folder = cache_folder();
    let count = free.len() + rests.len();
    print(format_args!(
        "{done} {count} file{}, {} ({bytes} bytes)",
        if count == 1 { "" } else { "s" },
        DecimalBytes(bytes)
    ))?;
    for (room, what) in OTHERS {
        let (files, bytes) = size(&folder.join(room));
        if files > 0 {
            print(format_args!(
                "kept: {what}, {}, which hold nothing of the data",
                DecimalBytes(bytes)
            ))?;
        }
    }
    Ok(())
}

/// Makes the error of a purge that left entries in use. Whoever deletes data must know that some is
/// left.
fn left(in_use: &[&CacheEntry]) -> Failure {
    let mut processes: Vec<u32> = in_use.iter().filter_map(|entry| entry.user).collect();
    processes.sort_unstable();
    processes.dedup();
    let processes: Vec<String> = processes.iter().map(ToString::to_string).collect();
    let bytes: u64 = in_use.iter().map(|entry| entry.bytes).sum();
    let (count, processes) = (entry_count(in_use.len()), processes.join(", "));
    let fault = Fault::new(format!(
        "{count}, {}, not removed: in use by process {processes}",
        DecimalBytes(bytes)
    ));
    Failure::new(
        Exit::Exists,
        fault.hint("run the command again when it has ended"),
    )
}
