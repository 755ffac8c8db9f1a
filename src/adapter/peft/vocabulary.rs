//! Adapters that were trained with more tokens than their base has. Their rows are in the adapter,
//! and the base's tables are resized for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{CONFIG, open, read_config, read_config_on};
use crate::adapter::{AdapterError, TablePart};
use crate::files::is_there;
use crate::model::{Folder, NewRows, Role};
use crate::terms::TokenIndices;

/// The file that comes with an adapter that has new tokens.
const TOKENIZER: &str = "tokenizer.json";

/// Gives the base's tables as many rows as the adapter was trained with, if it brings a tokenizer
/// of its own. The numbers of the new rows are in the adapter.
///
/// # Errors
/// The adapter cannot be read, or lacks one of the rows.
pub fn resize(folder: &mut Folder, adapter: &Path) -> Result<(), AdapterError> {
    if !has_tokenizer(adapter)? {
        return Ok(());
    }
    let (stored, rows) = (folder.spec.vocabulary, rows(adapter)?);
    if rows <= stored {
        return Ok(());
    }
    if folder.spec.per_layer_width().is_some() {
        return Err(AdapterError::Mixed {
            place: adapter.join(CONFIG).display().to_string(),
            message: format!(
                "it was trained with {rows} tokens, the base has {stored}, and the adapter has no \
                rows for the base's table of inputs per layer"
            ),
            hint: "train with tokens of the vocabulary that the base does not use".to_owned(),
        });
    }
    folder.resize(NewRows {
        vocabulary: rows,
        rows: BTreeMap::new(),
    });
    let modules = folder.spec.modules();
    let targets = read_config_on(adapter, &modules)?.table_targets(&modules)?;
    for table in modules.iter().filter(|linear| linear.is_table()) {
        let mut own = BTreeSet::new();
        for target in targets.iter().filter(|target| target.module == *table) {
            match &target.part {
                TablePart::Whole => own.extend(stored as u32..rows as u32),
                TablePart::Rows(tokens) | TablePart::Shared(tokens) => own.extend(tokens),
            }
        }
        if let Some(row) = (stored as u32..rows as u32).find(|row| !own.contains(row)) {
            let is_tied = table.role == Role::TiedHead;
            return Err(AdapterError::Mixed {
                place: adapter.join(CONFIG).display().to_string(),
                message: format!(
                    "it was trained with {rows} tokens, the base has {stored}, and `{}` has no row \
                    for token {row}",
                    table.name
                ),
                hint: if is_tied {
                    "embedding and head are one table in the base: name both in `modules_to_save`"
                        .to_owned()
                } else {
                    "it was trained on another base, or its files were mixed up".to_owned()
                },
            });
        }
    }
    Ok(())
}

/// Whether an adapter comes with a tokenizer.
pub(super) fn has_tokenizer(adapter: &Path) -> Result<bool, AdapterError> {
    Ok(is_there(&adapter.join(TOKENIZER))?)
}

/// Returns the number of rows that an adapter needs in the tables: up to its highest token, and as
/// many as in a table that it contains whole.
fn rows(adapter: &Path) -> Result<usize, AdapterError> {
    let (config, archive) = (read_config(adapter)?, open(adapter)?);
    let tokens = match config.tables.tokens {
        None => Vec::new(),
        Some(TokenIndices::Embedding(tokens)) => tokens,
        Some(TokenIndices::Modules(named)) => {
            named.into_iter().flat_map(|(_, tokens)| tokens).collect()
        }
    };
    let of_tokens = tokens
        .into_iter()
        .max()
        .map_or(0, |token| token as usize + 1);
    let is_whole = |key: &str| {
        config
            .tables
            .saved
            .iter()
            .any(|name| key.ends_with(&format!("{name}.weight")))
    };
    let whole = archive
        .shapes()
        .into_iter()
        .filter(|(key, shape)| shape.len() == 2 && is_whole(key));
    Ok(whole
        .map(|(_, shape)| shape[0])
        .chain([of_tokens])
        .max()
        .unwrap_or(0))
}
