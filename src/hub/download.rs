//! Download of one file of a repository. Existing bytes are kept, the rest is requested, every byte
//! is hashed, and only then does the file get its name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ureq::http::Response;

use super::HubError;
use super::client::{Client, header};
use super::digest::Hasher;
use super::id::{Commit, RepoId};
use super::listing::RemoteFile;
use super::location::escaped_name;
use super::progress::Progress;
use super::retry::{Failed, Next};
use crate::files::{self, create_folder, settle};
use crate::report::{Event, Reporter};

const PIECE_BYTES: usize = 256 << 10;
/// Bytes after which an attempt counts as progress.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A file to download, and its destination.
pub(super) struct WantedFile<'a> {
    pub id: &'a RepoId,
    pub commit: &'a Commit,
    pub file: &'a RemoteFile,
    pub blob: PathBuf,
    pub lock: PathBuf,
}

/// A partly downloaded file.
struct Growing<'a> {
    wanted: &'a WantedFile<'a>,
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Hasher,
    has_restarted: bool,
}

impl WantedFile<'_> {
    /// Returns whether the file is complete. Only hashed files get the name of their hash, so a
    /// check of the size is enough.
    pub fn is_there(&self) -> bool {
        self.blob
            .metadata()
            .is_ok_and(|found| found.is_file() && found.len() == self.file.bytes)
    }

    /// Returns the bytes of the file that an earlier download left.
    pub fn begun_bytes(&self) -> u64 {
        self.begun()
            .metadata()
            .map_or(0, |found| found.len())
            .min(self.file.bytes)
    }

    fn begun(&self) -> PathBuf {
        let mut name = self.blob.clone().into_os_string();
        name.push(".incomplete");
        name.into()
    }

    /// Downloads the file, unless another process completes it meanwhile.
    pub fn download(&self, client: &Client, progress: &mut Progress) -> Result<(), HubError> {
        [&self.blob, &self.lock]
            .into_iter()
            .filter_map(|path| path.parent())
            .try_for_each(create_folder)?;
        let _locked = hold(&self.lock, &self.file.name, progress.reporter())?;
        if self.is_there() {
            return Ok(());
        }
        let mut growing = Growing::open(self)?;
        let done = client.insist(client.patience.attempts, progress.reporter(), || {
            growing.fetch(client, progress)
        });
        done.map_err(|error| growing.kept(error))?;
        growing.finish()
    }
}

impl<'a> Growing<'a> {
    fn open(wanted: &'a WantedFile<'a>) -> Result<Self, HubError> {
        let path = wanted.begun();
        let options = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let file = options.map_err(|cause| files::FileError::new("write", &path, cause))?;
        let hasher = wanted.file.digest.hasher(wanted.file.bytes);
        let mut growing = Self {
            wanted,
            path,
            file,
            bytes: 0,
            hasher,
            has_restarted: false,
        };
        growing.go_on()?;
        Ok(growing)
    }

    /// Hashes the bytes of an earlier download.
    fn go_on(&mut self) -> Result<(), HubError> {
        let failed = |cause| files::FileError::new("read", &self.path, cause);
        if self.file.metadata().map_err(failed)?.len() > self.wanted.file.bytes {
            return self.start_over();
        }
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece).map_err(failed)? {
                0 => return Ok(()),
                length => self.hasher.update(&piece[..length]),
            }
            self.bytes = self.file.stream_position().map_err(failed)?;
        }
    }

    fn start_over(&mut self) -> Result<(), HubError> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|cause| files::FileError::new("write", &self.path, cause))?;
        self.hasher = self.wanted.file.digest.hasher(self.wanted.file.bytes);
        self.bytes = 0;
        Ok(())
    }

    /// Makes one attempt: requests the missing bytes and writes them.
    fn fetch(&mut self, client: &Client, progress: &mut Progress) -> Result<(), Failed> {
        let (id, file) = (self.wanted.id, self.wanted.file);
        if self.bytes == file.bytes {
            return Ok(());
        }
        let path = format!(
            "{}/resolve/{}/{}",
            id.page(),
            self.wanted.commit,
            escaped_name(&file.name)
        );
        let range = (self.bytes > 0).then_some(self.bytes);
        let response = match client.get(id, client.address(&path)?, range) {
            Err(failed) if range.is_some() && failed.is_status(416) => {
                return self.again(client, progress);
            }
            response => response?,
        };
        match (range, response.status().as_u16()) {
            (None, 200) => {}
            (Some(start), 206) if continues(&response, start, file.bytes) => {}
            (Some(_), 200) => {
                progress.lost(self.bytes);
                self.start_over()?;
            }
            (Some(_), 206) => return self.again(client, progress),
            (_, status) => {
                return Err(HubError::Status {
                    place: path,
                    status,
                    said: String::new(),
                }
                .into());
            }
        }
        let said = header(response.headers(), "content-length")
            .and_then(|length| length.parse::<u64>().ok());
        if let Some(length) = said.filter(|length| *length != file.bytes - self.bytes) {
            return Err(self.wrong_size((self.bytes + length).to_string()).into());
        }
        self.write_all(response.into_body().into_reader(), progress)
    }

    /// Starts again from the first byte, once.
    fn again(&mut self, client: &Client, progress: &mut Progress) -> Result<(), Failed> {
        if self.has_restarted {
            let reason = format!(
                "of `{}` it sends another part than the one that is missing",
                self.wanted.file.name
            );
            return Err(HubError::Refused {
                id: self.wanted.id.to_string(),
                reason,
            }
            .into());
        }
        self.has_restarted = true;
        progress.lost(self.bytes);
        self.start_over()?;
        self.fetch(client, progress)
    }

    fn write_all(&mut self, mut body: impl Read, progress: &mut Progress) -> Result<(), Failed> {
        let (file, mut piece, before) = (self.wanted.file, vec![0; PIECE_BYTES], self.bytes);
        let broken = |bytes: u64, cause: String| {
            let place = format!("{} of `{}`", file.name, self.wanted.id);
            let cause = format!("broke off after {bytes} of {} bytes: {cause}", file.bytes);
            let next = if bytes - before >= PROGRESS_BYTES {
                Next::GoOn
            } else {
                Next::Again { wait: None }
            };
            Failed::new(HubError::Connection { place, cause }, next)
        };
        loop {
            let length = match body.read(&mut piece) {
                Ok(0) if self.bytes == file.bytes => return Ok(()),
                Ok(0) => return Err(broken(self.bytes, "the server ended it".to_owned())),
                Ok(length) => length,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => return Err(broken(self.bytes, cause.to_string())),
            };
            if self.bytes + length as u64 > file.bytes {
                return Err(self.wrong_size(format!("more than {}", file.bytes)).into());
            }
            let failed =
                |cause| files::FileError::writing(&self.path, file.bytes - self.bytes, cause);
            self.file.write_all(&piece[..length]).map_err(failed)?;
            self.hasher.update(&piece[..length]);
            self.bytes += length as u64;
            progress.moved(&file.name, length as u64);
        }
    }

    fn wrong_size(&self, found: String) -> HubError {
        HubError::Size {
            file: self.wanted.file.name.clone(),
            expected: self.wanted.file.bytes,
            found,
        }
    }

    /// Gives the file its name if its hash is that of the listing, and removes it otherwise.
    fn finish(self) -> Result<(), HubError> {
        let (file, found) = (self.wanted.file, self.hasher.finish());
        if found == file.digest.text() {
            return Ok(settle(&self.file, &self.path, &self.wanted.blob)?);
        }
        std::fs::remove_file(&self.path)
            .map_err(|cause| files::FileError::new("remove", &self.path, cause))?;
        let expected = file.digest.text().to_owned();
        Err(HubError::Hash {
            file: file.name.clone(),
            kind: file.digest.kind(),
            expected,
            found,
        })
    }

    /// Adds to an error how many bytes are kept for the next attempt.
    fn kept(&self, error: HubError) -> HubError {
        let kept = format!(
            "; {} of {} bytes of `{}` are kept",
            self.bytes, self.wanted.file.bytes, self.wanted.file.name
        );
        match error {
            HubError::GaveUp {
                error, attempts, ..
            } => HubError::GaveUp {
                error,
                attempts,
                kept,
            },
            other => other,
        }
    }
}

/// Returns whether a partial response is the requested part: `bytes START-END/TOTAL` (RFC 9110,
/// section 14.4).
fn continues(response: &Response<ureq::Body>, start: u64, total: u64) -> bool {
    let said = header(response.headers(), "content-range").unwrap_or_default();
    let Some((range, whole)) = said
        .strip_prefix("bytes ")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let first = range
        .split_once('-')
        .and_then(|(first, _)| first.trim().parse::<u64>().ok());
    first == Some(start) && (whole == "*" || whole.parse() == Ok(total))
}

/// Takes the lock that Python's client takes too. It is released when the file is closed. On file
/// systems without locks nothing is held, but everything written is still hashed.
fn hold(path: &Path, name: &str, report: Reporter) -> Result<File, HubError> {
    let failed = |cause| files::FileError::new("lock", path, cause);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            report(Event::Note(format!(
                "another process downloads `{name}`; waiting for it"
            )));
            file.lock().map_err(failed)?;
        }
        Err(TryLockError::Error(cause)) if cause.kind() != ErrorKind::Unsupported => {
            return Err(failed(cause).into());
        }
        _ => {}
    }
    Ok(file)
}
