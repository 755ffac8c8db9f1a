//! A GGUF file in a folder of its own, with its card and the licences of its base, to be passed on as a whole.

use std::path::Path;

use super::{Error, Written};
use crate::export::card::{CARD, Card, card};
use crate::files::licence::Notices;
use crate::files::{JSON_BYTES, hash_file, read_text_up_to, write_atomic, write_folder_atomic};

/// The name under which the card of the folder that was converted lies beside the new one.
const SOURCE_CARD: &str = "MODEL_CARD.md";

/// Writes the folder `out`, whole or not at all: the file `file` by `write`, and `card` with the file's hash. What `from`, the folder
/// of the base or model, has of licences goes along, and its own card where the new one tells of no training.
///
/// # Errors
/// There is something at `out`, a licence or the card of `from` cannot be read, or a file cannot be written.
pub fn write_gguf_folder(
    out: &Path,
    file: &str,
    from: &Path,
    mut about: Card,
    write: impl FnOnce(&Path) -> Result<Written, Error>,
) -> Result<Written, Error> {
    if out.exists() {
        return Err(Error::Exists { path: out.to_owned() });
    }
    let notices = Notices::read(from)?;
    let source = Some(from.join(CARD)).filter(|path| about.parts.is_empty() && path.is_file());
    let source = source.map(|path| read_text_up_to(&path, JSON_BYTES)).transpose()?;
    let mut written = None;
    write_folder_atomic::<Error>(out, |new| {
        written = Some(write(&new.join(file))?);
        about.hashes.push((file.to_owned(), hash_file(&new.join(file))?));
        about.hashes.extend(notices.hashes());
        if let Some(source) = &source {
            about.about.push(format!("The card of what it was made from lies beside this one: `{SOURCE_CARD}`."));
            write_atomic(&new.join(SOURCE_CARD), source.as_bytes())?;
        }
        notices.write(new)?;
        Ok(write_atomic(&new.join(CARD), card(&about).as_bytes())?)
    })?;
    Ok(written.expect("the folder was filled"))
}
