//! `rankine cache purge`: removes entries, except those that a process uses.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::DecimalBytes;
use serde_json::{Value, json};

use super::{DataFile, OTHERS, check_readable, data_files, object, short_hash, since, size};
use crate::cli::{Failure, print};
use crate::fault::{Exit, Fault};
use crate::files::{self, CacheEntry, RowCache, cache_folder, entries, entry_count, leftovers};
use crate::report::Terminal;
use crate::run::{CACHE_ENTRIES, Lock, check_is_run};
use crate::train::RunFolder;

const DAY: Duration = Duration::from_hours(24);

#[derive(Debug, Args)]
pub(super) struct PurgeArgs {
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

pub(super) fn purge(args: &PurgeArgs, terminal: &Terminal) -> Result<(), Failure> {
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
        let hash = short_hash(entry);
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
