//! Models in several files, which `gguf-split` names `NAME-00001-of-00003.gguf`.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufFileError};
use crate::files::is_there;

/// The most files of a model.
const MAX_FILES: usize = 1000;
/// The digits of a file's number, and of the number of files.
const DIGITS: usize = 5;

/// Whether a path is named as a GGUF file is.
pub fn is_gguf_name(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// The parts of the name of a file of several: what stands before the numbers, the number and how
/// many there are.
fn numbered(path: &Path) -> Option<(&str, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (before, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        (digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit()))
            .then(|| digits.parse::<usize>().ok())
            .flatten()
    };
    let (number, count) = (parse(number)?, parse(count)?);
    (1..=count)
        .contains(&number)
        .then_some((before, number, count))
}

/// Returns the files of a model, in order, given any one of them.
///
/// # Errors
/// Files of a split are missing.
pub fn split_paths(path: &Path) -> Result<Vec<PathBuf>, GgufFileError> {
    let Some((before, _, count)) = numbered(path).filter(|(.., count)| *count > 1) else {
        return Ok(vec![path.to_owned()]);
    };
    let damaged = |reason: String| GgufFileError::Damaged {
        path: path.to_owned(),
        reason,
    };
    if count > MAX_FILES {
        return Err(damaged(format!(
            "its name says that it is one of {count} files, at most {MAX_FILES} are read"
        )));
    }
    let paths: Vec<PathBuf> = (1..=count)
        .map(|number| path.with_file_name(format!("{before}-{number:05}-of-{count:05}.gguf")))
        .collect();
    for part in &paths {
        if !is_there(part)? {
            return Err(damaged(format!(
                "it is one of {count} files, of which `{}` is missing",
                part.display()
            )));
        }
    }
    Ok(paths)
}

/// Opens the files of a model.
pub(super) fn open_all(path: &Path) -> Result<Vec<Gguf>, GgufFileError> {
    let paths = split_paths(path)?;
    let files = paths
        .iter()
        .map(|path| Gguf::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let first = &files[0];
    let said = first.size("split.count")?.unwrap_or(1);
    if said != files.len() {
        let message = format!(
            "`split.count` is {said}, expected {}: by its name it is one of so many files",
            files.len()
        );
        return Err(first.fault(message));
    }
    for (index, file) in files.iter().enumerate().filter(|_| said > 1) {
        let number = file.size("split.no")?;
        if number != Some(index) {
            let found = number.map_or_else(|| "missing".to_owned(), |number| number.to_string());
            return Err(file.fault(format!("`split.no` is {found}, expected {index}")));
        }
        if let Some(twice) = files[..index].iter().find_map(|other| {
            let twice = file
                .tensors
                .keys()
                .find(|name| other.tensor(name).is_some());
            twice.map(|name| (name, other.path()))
        }) {
            let message = format!("tensor `{}` stands in `{}` too", twice.0, twice.1.display());
            return Err(file.fault(message));
        }
    }
    let tensors: usize = files.iter().map(|file| file.tensors.len()).sum();
    if let Some(expected) = first
        .size("split.tensors.count")?
        .filter(|count| *count != tensors)
    {
        let message = format!("`split.tensors.count` is {expected}, the files have {tensors}");
        return Err(first.fault(message));
    }
    Ok(files)
}
