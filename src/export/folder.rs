//! Writes a model or adapter to a folder of its own, with a card and the licenses of its base, for
//! sharing.

use std::path::Path;

use super::card::{CARD, Card, card};
use crate::files::license::Notices;
use crate::files::{
    FileError, JSON_BYTES, files_in, hash_file, read_text_up_to, write_atomic, write_folder_atomic,
};

/// The name for the source folder's card in the new folder.
const SOURCE_CARD: &str = "MODEL_CARD.md";

/// Writes the folder `out`, whole or not at all. `fill` writes its files, and `about` gets the hash
/// of each. The license files of `from`, the folder of the base or model, are copied, and its card
/// too if the new one is not about training.
///
/// # Errors
/// `fill` fails, a license or the card of `from` cannot be read, or a file cannot be written.
pub fn write_folder<T, E: From<FileError>>(
    out: &Path,
    from: &Path,
    mut about: Card,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let notices = Notices::read(from)?;
    let source = Some(from.join(CARD)).filter(|path| about.parts.is_empty() && path.is_file());
    let source = source
        .map(|path| read_text_up_to(&path, JSON_BYTES))
        .transpose()?;
    let mut written = None;
    write_folder_atomic::<E>(out, |new| {
        written = Some(fill(new)?);
        for path in files_in(new)? {
            about.hashes.push((
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                hash_file(&path)?,
            ));
        }
        about.hashes.extend(notices.hashes());
        if let Some(source) = &source {
            about.about.push(format!(
                "The card of what it was made from lies beside this one: `{SOURCE_CARD}`."
            ));
            write_atomic(&new.join(SOURCE_CARD), source.as_bytes())?;
        }
        notices.write(new)?;
        Ok(write_atomic(&new.join(CARD), card(&about).as_bytes())?)
    })?;
    Ok(written.expect("the folder was filled"))
}
