//! `rankine cache`: lists and removes what is stored of data files outside of run folders.

mod purge;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use indicatif::{DecimalBytes, HumanDuration};
use serde_json::{Value, json};

use self::purge::{PurgeArgs, purge};
use super::{Failure, print};
use crate::data::find_files;
use crate::fault::{Exit, Fault};
use crate::files::{
    self, CacheEntry, RowCache, cache_folder, cache_limit, entries, entry_count, hash_file,
};
use crate::hub::DatasetPath;
use crate::plan::cached_files;
use crate::report::Terminal;

/// Subfolders of the cache that hold nothing from the data, with their contents.
const OTHERS: [(&str, &str); 3] = [
    ("gguf", "descriptions of GGUF files"),
    ("kernels", "compiled GPU kernels"),
    ("proofs", "results of GPU self-checks"),
];
/// Digits of a hash that are shown, and the fewest that are accepted.
const SHORT_HASH: usize = 16;
const LEAST_HASH: usize = 8;

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
        let hash = short_hash(entry);
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

/// Returns the first digits of the hash of the data file.
fn short_hash(entry: &CacheEntry) -> String {
    entry.source.map_or_else(
        || "not known".to_owned(),
        |hash| hash.to_string()[..SHORT_HASH].to_owned(),
    )
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
