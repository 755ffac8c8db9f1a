//! `tokenizer.json` as the tokenizers crate reads it, without what it would do at random or on its
//! own.

use std::path::Path;

use tokenizers::models::ModelWrapper;

use super::error::TokenizeError;
use super::limits::vet;
use crate::files;

/// A parsed `tokenizer.json`.
pub(super) struct Parsed {
    pub inner: tokenizers::Tokenizer,
    /// The token that it pads batches with.
    pub padding: Option<String>,
    /// Its BPE dropout: the share of merges that it would skip at random.
    pub dropout: Option<f32>,
}

/// Parses a `tokenizer.json`; it neither cuts, pads nor drops anything from then on.
pub(super) fn parse(path: &Path, source: &str) -> Result<Parsed, TokenizeError> {
    let broken = |error: tokenizers::Error| TokenizeError::Broken {
        path: path.to_owned(),
        expected: "a tokenizer",
        cause: error.to_string(),
    };
    vet(source).map_err(|reason| broken(reason.into()))?;
    let parsed = files::guarded(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(source)?;
        let padding = inner.get_padding().map(|padding| padding.pad_token.clone());
        // Rows are cut and padded where that is counted.
        inner.with_truncation(None)?.with_padding(None);
        let dropout = take_dropout(&mut inner);
        // A post-processor that names a special token which it does not describe fails at its first
        // text only.
        inner.encode("", true)?;
        Ok(Parsed {
            inner,
            padding,
            dropout,
        })
    });
    parsed.map_err(Into::into).flatten().map_err(broken)
}

/// Switches off the dropout of a BPE model and returns it.
fn take_dropout(inner: &mut tokenizers::Tokenizer) -> Option<f32> {
    let ModelWrapper::BPE(model) = inner.get_model() else {
        return None;
    };
    let dropout = model.dropout.filter(|dropout| *dropout > 0.0)?;
    let mut model = model.clone();
    model.dropout = None;
    inner.with_model(ModelWrapper::BPE(model));
    Some(dropout)
}
