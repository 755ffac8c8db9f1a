//! Entries of the cache, made from the rows of a data file. The first bytes of an entry hold its
//! kind and the content hash of its data file. Names of data files are not stored.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lease;
use super::{ROWS, RowCache};
use crate::files::{FileError, Hash};

/// Length of the header of an entry: kind and version (8), key (32), hash of the data file (32).
pub const STAMP_BYTES: usize = 8 + 32 + 32;
/// Age after which a temporary file has no writer any more: a copy of an entry takes seconds.
const LEFTOVER: Duration = Duration::from_mins(10);

/// Content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// The rows of a data file as token ids with labels.
    Tokens,
    /// The rows of a data file in another format, as a Parquet file.
    Converted,
    /// Log-probabilities of the rows of a data file under a reference model.
    Reference,
    /// The most likely tokens of the rows of a data file under a teacher.
    Teacher,
}

impl EntryKind {
    const ALL: [Self; 4] = [
        Self::Tokens,
        Self::Converted,
        Self::Reference,
        Self::Teacher,
    ];

    /// Returns the kind as a word, which is also the extension of its files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Converted => "parquet",
            Self::Reference => "reference",
            Self::Teacher => "teacher",
        }
    }

    /// Returns the first bytes, with the version of the layout and content. `None` if the entry is
    /// a file of a known format, whose name is its stamp.
    fn magic(self) -> Option<(&'static [u8; 7], u8)> {
        match self {
            Self::Tokens => Some((b"RKTOKEN", 5)),
            Self::Reference => Some((b"RKREFER", 1)),
            Self::Teacher => Some((b"RKTEACH", 1)),
            Self::Converted => None,
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let ending = Path::new(name).extension()?.to_str()?;
        Self::ALL.into_iter().find(|kind| kind.word() == ending)
    }
}

/// Header of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Kind of content.
    pub kind: EntryKind,
    /// Hash of everything that determines the content.
    pub key: Hash,
    /// Hash of the data file.
    pub source: Hash,
}

impl Stamp {
    /// Returns the first bytes of the entry.
    ///
    /// # Panics
    /// The entry is of a kind without such bytes.
    pub fn bytes(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        let (magic, version) = self
            .kind
            .magic()
            .expect("a kind whose entries begin with their stamp");
        bytes[..7].copy_from_slice(magic);
        bytes[7] = version;
        bytes[8..40].copy_from_slice(&self.key.0);
        bytes[40..].copy_from_slice(&self.source.0);
        bytes
    }

    /// Returns the name of the entry's file, which holds nothing of the data file's name.
    pub fn name(&self) -> String {
        match self.kind {
            EntryKind::Tokens | EntryKind::Reference | EntryKind::Teacher => {
                format!("{}.{}", self.key, self.kind.word())
            }
            EntryKind::Converted => format!("{}-{}.{}", self.source, self.key, self.kind.word()),
        }
    }

    /// Reads the stamp from a file name; `None` if the name is not a stamp.
    fn of_name(name: &str, kind: EntryKind) -> Option<Self> {
        let (source, key) = name
            .strip_suffix(kind.word())?
            .strip_suffix('.')?
            .split_once('-')?;
        Some(Self {
            kind,
            key: Hash::parse(key)?,
            source: Hash::parse(source)?,
        })
    }
}

/// Result of reading the first bytes of a file.
enum Said {
    Stamp(Stamp),
    Older,
    /// An entry of a newer version, or a damaged one.
    Unknown,
}

fn read_stamp(path: &Path, name: &str, kind: EntryKind) -> Said {
    let Some((magic, version)) = kind.magic() else {
        return Stamp::of_name(name, kind).map_or(Said::Unknown, Said::Stamp);
    };
    let mut bytes = Vec::with_capacity(STAMP_BYTES);
    let read =
        File::open(path).and_then(|file| file.take(STAMP_BYTES as u64).read_to_end(&mut bytes));
    if read.is_err() || bytes.len() < 8 || bytes[..7] != magic[..] {
        return Said::Unknown;
    }
    match bytes.first_chunk::<STAMP_BYTES>() {
        _ if bytes[7] < version => Said::Older,
        Some(bytes) if bytes[7] == version => {
            let hash = |start: usize| {
                Hash(
                    *bytes[start..]
                        .first_chunk()
                        .expect("a stamp has two hashes"),
                )
            };
            Said::Stamp(Stamp {
                kind,
                key: hash(8),
                source: hash(40),
            })
        }
        _ => Said::Unknown,
    }
}

/// A cache file that holds rows of data.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// Path of the file.
    pub path: PathBuf,
    /// Name of the file.
    pub name: String,
    /// Kind of content.
    pub kind: EntryKind,
    /// Size of the file.
    pub bytes: u64,
    /// Creation time, if the file system has it.
    pub made: Option<SystemTime>,
    /// Time of last use.
    pub used: SystemTime,
    /// Hash of the data file; `None` for an entry of another version or a damaged one.
    pub source: Option<Hash>,
    /// Whether an older version made the entry, so that it is never read again.
    pub is_outdated: bool,
    /// Id of a process that uses the entry now.
    pub user: Option<u32>,
}

/// Returns the entries of a cache, the most recently used first. In a shared cache, entries of
/// older versions lie directly in its folder.
pub fn entries(cache: &RowCache) -> Vec<CacheEntry> {
    let folders = match cache {
        RowCache::Shared(root) => vec![root.join(ROWS), root.clone()],
        RowCache::OfRun(folder) => vec![folder.clone()],
        RowCache::Nameless(_) => Vec::new(),
    };
    let mut entries: Vec<CacheEntry> = folders
        .iter()
        .flat_map(|folder| in_folder(folder))
        .collect();
    entries.sort_by(|left, right| {
        right
            .used
            .cmp(&left.used)
            .then_with(|| left.name.cmp(&right.name))
    });
    entries
}

fn in_folder(folder: &Path) -> Vec<CacheEntry> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<CacheEntry> = files.filter_map(|file| describe(&file)).collect();
    let used = lease::used(folder);
    for entry in &mut found {
        entry.user = used.get(&entry.name).copied();
    }
    found
}

fn describe(file: &std::fs::DirEntry) -> Option<CacheEntry> {
    let (name, path) = (file.file_name().to_str()?.to_owned(), file.path());
    let kind = EntryKind::of_name(&name)?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let said = read_stamp(&path, &name, kind);
    // A cache folder that the user named may also hold the user's own Parquet files.
    if kind.magic().is_none() && matches!(said, Said::Unknown) {
        return None;
    }
    let (source, is_outdated) = match said {
        Said::Stamp(stamp) => (Some(stamp.source), false),
        Said::Older => (None, true),
        Said::Unknown => (None, false),
    };
    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Some(CacheEntry {
        path,
        name,
        kind,
        bytes: metadata.len(),
        made: metadata.created().ok(),
        used,
        source,
        is_outdated,
        user: None,
    })
}

/// Sets the time of last use of an entry to now. In a read-only folder, the time of the last write
/// counts.
pub fn mark_used(path: &Path) {
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Removes an entry that no process uses.
///
/// # Errors
/// The entry cannot be removed. A missing entry is not an error.
pub fn remove(entry: &CacheEntry) -> Result<(), FileError> {
    match std::fs::remove_file(&entry.path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::new("remove", &entry.path, cause))
        }
        _ => Ok(()),
    }
}

/// Number and size of the entries that were removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Number of entries.
    pub entries: usize,
    /// Total size in bytes.
    pub bytes: u64,
}

/// Returns a number of entries in words.
pub fn entry_count(entries: usize) -> String {
    if entries == 1 {
        "1 entry".to_owned()
    } else {
        format!("{entries} entries")
    }
}

impl Taken {
    fn of<'a>(entries: impl Iterator<Item = &'a CacheEntry>) -> Self {
        let removed = entries.filter(|entry| remove(entry).is_ok());
        removed.fold(Self::default(), |taken, entry| Self {
            entries: taken.entries + 1,
            bytes: taken.bytes + entry.bytes,
        })
    }
}

/// Removes the entries of older versions, which are never read again.
pub fn remove_outdated(cache: &RowCache) -> Taken {
    Taken::of(
        entries(cache)
            .iter()
            .filter(|entry| entry.is_outdated && entry.user.is_none()),
    )
}

/// Removes the least recently used entries until all entries together take at most `limit` bytes.
/// Entries in use stay. Returns the remaining bytes and what was removed.
pub fn trim(cache: &RowCache, limit: u64) -> (u64, Taken) {
    let all = entries(cache);
    let mut total: u64 = all.iter().map(|entry| entry.bytes).sum();
    let mut out = Vec::new();
    for entry in all.iter().rev().filter(|entry| entry.user.is_none()) {
        if total <= limit {
            break;
        }
        total -= entry.bytes;
        out.push(entry);
    }
    (total, Taken::of(out.into_iter()))
}

/// Returns the temporary files of dead processes.
pub fn leftovers(cache: &RowCache) -> Vec<(PathBuf, u64)> {
    let folder = cache.folder();
    let files = folder
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let old = files.filter_map(|file| {
        let is_temporary = file
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(".rankine-tmp-"));
        let metadata = file
            .metadata()
            .ok()
            .filter(|metadata| is_temporary && metadata.is_file())?;
        let is_old = metadata
            .modified()
            .is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed > LEFTOVER));
        is_old.then(|| (file.path(), metadata.len()))
    });
    old.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, version: u8, age_hours: u64) {
        let mut bytes = Stamp {
            kind: EntryKind::Tokens,
            key: Hash([1; 32]),
            source: Hash([2; 32]),
        }
        .bytes()
        .to_vec();
        bytes[7] = version;
        bytes.resize(1000, 0);
        std::fs::write(folder.join(name), bytes).expect("written");
        let file = File::options()
            .write(true)
            .open(folder.join(name))
            .expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_hours(age_hours))
            .expect("dated");
    }

    fn names(cache: &RowCache) -> Vec<String> {
        entries(cache).into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_parquet_file_is_an_entry_only_by_its_name() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let stamp = Stamp {
            kind: EntryKind::Converted,
            key: Hash([1; 32]),
            source: Hash([0xab; 32]),
        };
        for name in [
            stamp.name().as_str(),
            "terms.parquet",
            "a-b.parquet",
            ".parquet",
        ] {
            std::fs::write(dir.path().join(name), "PAR1").expect("written");
        }
        let cache = RowCache::OfRun(dir.path().to_owned());
        let found: Vec<_> = entries(&cache)
            .into_iter()
            .map(|entry| (entry.name, entry.source))
            .collect();
        assert_eq!(found, [(stamp.name(), Some(stamp.source))]);
        trim(&cache, 0);
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("listed").count(),
            3,
            "what a person put there stays"
        );
    }

    #[test]
    fn the_oldest_go_first_and_none_that_is_in_use() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cache = RowCache::OfRun(dir.path().to_owned());
        for (name, age) in [
            ("a.tokens", 5),
            ("b.tokens", 4),
            ("c.tokens", 3),
            ("d.tokens", 2),
        ] {
            write(dir.path(), name, 5, age);
        }
        std::fs::write(dir.path().join("notes.txt"), "not ours").expect("written");
        assert_eq!(
            names(&cache),
            ["d.tokens", "c.tokens", "b.tokens", "a.tokens"]
        );
        assert_eq!(entries(&cache)[0].source, Some(Hash([2; 32])));
        let lease = lease::hold(dir.path(), "a.tokens").expect("held");
        assert_eq!(trim(&cache, 4000), (4000, Taken::default()));
        assert_eq!(
            trim(&cache, 2500),
            (
                2000,
                Taken {
                    entries: 2,
                    bytes: 2000
                }
            )
        );
        assert_eq!(
            names(&cache),
            ["d.tokens", "a.tokens"],
            "the oldest is in use"
        );
        assert_eq!(
            trim(&cache, 0),
            (
                1000,
                Taken {
                    entries: 1,
                    bytes: 1000
                }
            )
        );
        drop(lease);
        assert_eq!(
            trim(&cache, 0),
            (
                0,
                Taken {
                    entries: 1,
                    bytes: 1000
                }
            )
        );
        assert!(dir.path().join("notes.txt").exists());
    }

    #[test]
    fn what_older_versions_left_goes_wherever_they_kept_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cache = RowCache::Shared(dir.path().to_owned());
        std::fs::create_dir(dir.path().join(ROWS)).expect("made");
        write(dir.path(), "patients-0011.tokens", 2, 1);
        write(&dir.path().join(ROWS), "x.tokens", 2, 1);
        write(&dir.path().join(ROWS), "y.tokens", 5, 1);
        write(&dir.path().join(ROWS), "z.tokens", 6, 2);
        assert_eq!(
            remove_outdated(&cache),
            Taken {
                entries: 2,
                bytes: 2000
            }
        );
        assert_eq!(
            names(&cache),
            ["y.tokens", "z.tokens"],
            "one of a newer version is read by that"
        );
        assert_eq!(entries(&cache)[1].source, None);
    }
}
