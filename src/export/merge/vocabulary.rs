//! The tokenizer of a merged model, if an adapter brings its own.

use std::path::Path;

use super::{MergeError, MergeRequest};
use crate::data::tokenize::Tokenizer;
use crate::data::tokenizer_files::TokenizerFiles;
use crate::model::OwnVocabulary;

/// Returns the vocabulary of the merged model if it differs from the base's, for tables of this
/// many rows; `None` if no adapter brings a tokenizer.
///
/// # Errors
/// A tokenizer cannot be opened, or two adapters bring different ones.
pub(super) fn of(order: &MergeRequest, rows: usize) -> Result<Option<OwnVocabulary>, MergeError> {
    let mut found: Option<(&Path, TokenizerFiles)> = None;
    for addend in &order.adapters {
        let Some(files) = TokenizerFiles::beside(&addend.folder, &order.base)? else {
            continue;
        };
        match &found {
            Some((first, other)) if other.contents() != files.contents() => {
                return Err(MergeError::TwoTokenizers {
                    first: first.to_path_buf(),
                    second: addend.folder.clone(),
                });
            }
            _ => found = Some((&addend.folder, files)),
        }
    }
    let Some((_, files)) = found else {
        return Ok(None);
    };
    let ids = Tokenizer::of(&files)?.ids_unlike(&Tokenizer::open(&order.base)?);
    Ok(Some(OwnVocabulary {
        rows,
        ids,
        files: files.contents(),
    }))
}
