//! Small files of a downloaded folder, with a size limit and a check that each is a regular file.
//!
//! Otherwise a pipe in a model's folder would block its reader for ever, and `/dev/zero` would fill
//! the memory.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::FileError;

/// Most bytes that are read of a JSON file other than the tokenizer. The largest one in use has a
/// tenth of this size.
pub const JSON_BYTES: u64 = 16 << 20;
/// Most items of a list in a message.
const LISTED: usize = 30;

/// Shortens a list of unknown length for a message: the first items, and the number of the others.
pub fn listed(items: &[String]) -> Vec<String> {
    let rest = items.len().saturating_sub(LISTED);
    let more = (rest > 0).then(|| format!("and {rest} more"));
    items.iter().take(LISTED).cloned().chain(more).collect()
}

/// Returns whether a path exists. A dangling link is an error, because its target is missing.
///
/// # Errors
/// The path cannot be looked up, or is a dangling link.
pub fn is_there(path: &Path) -> Result<bool, FileError> {
    let failed = |cause| FileError::new("read", path, told(path, cause));
    match path.symlink_metadata() {
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(cause) => Err(failed(cause)),
        Ok(_) => path.metadata().map(|_| true).map_err(failed),
    }
}

/// Adds the target of a dangling link to an error of the system.
fn told(path: &Path, cause: io::Error) -> io::Error {
    match path.read_link() {
        Ok(target) if cause.kind() == ErrorKind::NotFound => io::Error::new(
            ErrorKind::NotFound,
            format!(
                "it is a link to `{}`, which does not exist",
                target.display()
            ),
        ),
        _ => cause,
    }
}

/// Opens a regular file; links are followed.
///
/// # Errors
/// The file is missing, cannot be read, or is not a regular file.
pub fn open_file(path: &Path) -> Result<File, FileError> {
    let failed = |cause| FileError::new("open", path, told(path, cause));
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a file",
        )));
    }
    File::open(path).map_err(failed)
}

/// Reads a whole text file of at most `limit_bytes`.
///
/// # Errors
/// The file cannot be read, is not a regular file, is too large, or is not UTF-8.
pub fn read_text_up_to(path: &Path, limit_bytes: u64) -> Result<String, FileError> {
    let failed = |cause| FileError::new("read", path, cause);
    let not_text = |error| {
        failed(io::Error::new(
            ErrorKind::InvalidData,
            format!("not UTF-8: {error}"),
        ))
    };
    String::from_utf8(read_up_to(path, limit_bytes)?).map_err(not_text)
}

/// Reads a whole file of at most `limit_bytes`.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is too large.
pub fn read_up_to(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, FileError> {
    let failed = |cause| FileError::new("read", path, cause);
    let (mut bytes, mut file) = (Vec::new(), open_file(path)?.take(limit_bytes + 1));
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit_bytes {
        let said = format!(
            "it is larger than {}, the most that is read of such a file",
            size(limit_bytes)
        );
        return Err(failed(io::Error::new(ErrorKind::FileTooLarge, said)));
    }
    Ok(bytes)
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes >> 10)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_says_how_long_it_is() {
        let names: Vec<String> = (0..32).map(|name| name.to_string()).collect();
        assert_eq!(listed(&names[..30]).len(), 30);
        assert_eq!(
            listed(&names).last().map(String::as_str),
            Some("and 2 more")
        );
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a");
        std::fs::write(&path, "x".repeat(2048)).expect("written");
        assert_eq!(read_text_up_to(&path, 2048).expect("read").len(), 2048);
        let error = read_text_up_to(&path, 2047).expect_err("too large");
        assert!(
            error
                .to_string()
                .ends_with("it is larger than 1 KiB, the most that is read of such a file"),
            "{error}"
        );
        std::fs::write(&path, b"\xff").expect("written");
        assert_eq!(
            read_text_up_to(&path, 1).expect_err("no text").cause.kind(),
            ErrorKind::InvalidData
        );
        assert_eq!(
            open_file(dir.path())
                .expect_err("a folder")
                .cause
                .to_string(),
            "it is not a file"
        );
        assert_eq!(
            open_file(&dir.path().join("b"))
                .expect_err("nothing")
                .cause
                .kind(),
            ErrorKind::NotFound
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_there_and_cannot_be_read() {
        use crate::fault::Explain;

        let dir = tempfile::tempdir().expect("a temporary folder");
        let [link, ring, file] = ["link", "ring", "file"].map(|name| dir.path().join(name));
        std::os::unix::fs::symlink("gone", &link).expect("made");
        std::os::unix::fs::symlink("ring", &ring).expect("made");
        std::fs::write(&file, "x").expect("written");
        assert!(is_there(&file).expect("a file") && is_there(dir.path()).expect("a folder"));
        assert!(
            !is_there(&dir.path().join("none")).expect("nothing")
                && !is_there(&file.join("below")).expect("nothing")
        );
        for error in [
            is_there(&link).expect_err("a link"),
            open_file(&link).expect_err("a link"),
        ] {
            assert!(
                error
                    .to_string()
                    .ends_with("/link`: it is a link to `gone`, which does not exist"),
                "{error}"
            );
            assert!(error.hint().expect("a hint").contains("rankine pull"));
        }
        assert!(
            is_there(&ring)
                .expect_err("a ring of links")
                .to_string()
                .contains("/ring`: ")
        );
    }
}
