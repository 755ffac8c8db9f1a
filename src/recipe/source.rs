//! From a file to a tree: limits on size and encoding, and the rule that a recipe consists of keys
//! with values.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::notes::Notes;
use super::tree::{self, Node, NodeValue};
use super::{Location, RecipeError};
use crate::fault::Fault;
use crate::files;

/// The largest recipe, in bytes.
const MAX_BYTES: usize = 256 * 1024;
const BEGINNING: &str = "begin with `base_model: checkpoints/rankine-tiny`, then `datasets:`";

/// Reads the bytes of a recipe. Of one that is too large it reads only enough to notice that.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, RecipeError> {
    let file = File::open(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => RecipeError::Missing {
            path: path.to_owned(),
        },
        _ => files::FileError::new("open", path, cause).into(),
    })?;
    let mut content = Vec::new();
    let mut limited = file.take(MAX_BYTES as u64 + 1);
    limited
        .read_to_end(&mut content)
        .map_err(|cause| files::FileError::new("read", path, cause))?;
    Ok(content)
}

/// Returns the tree of a recipe, whose root is a map; `None`, with a fault, if there is none.
pub(super) fn tree(path: &Path, content: &[u8], notes: &Notes) -> Option<Node> {
    let at = |line, column| Location::File {
        path: path.to_owned(),
        line,
        column,
    };
    let text = text(content)
        .map_err(|((line, column), fault)| notes.say(&at(line, column), fault))
        .ok()?;
    let root = tree::parse(text, &|mark| at(mark.line(), mark.col() + 1), notes)?;
    if matches!(root.kind, NodeValue::Map(_)) {
        return Some(root);
    }
    notes.say(
        &root.place,
        Fault::new(format!("expected keys with values, found {}", root.found())).hint(BEGINNING),
    );
    None
}

/// Returns the content as text, or a fault with its line and column.
fn text(content: &[u8]) -> Result<&str, ((usize, usize), Fault)> {
    if content.len() > MAX_BYTES {
        return Err((
            (1, 1),
            Fault::new(format!(
                "the recipe is larger than {} KiB",
                MAX_BYTES / 1024
            )),
        ));
    }
    std::str::from_utf8(content).map_err(|error| {
        let (valid, rest) = content.split_at(error.valid_up_to());
        let fault = Fault::new(format!(
            "not UTF-8: byte {:#04x} at offset {}",
            rest[0],
            valid.len()
        ));
        (
            position_after(&String::from_utf8_lossy(valid)),
            fault.hint("save the file as UTF-8"),
        )
    })
}

/// Returns the line and column, from 1, right after a text.
fn position_after(text: &str) -> (usize, usize) {
    let last = text.rsplit('\n').next().unwrap_or_default();
    (text.matches('\n').count() + 1, last.chars().count() + 1)
}
