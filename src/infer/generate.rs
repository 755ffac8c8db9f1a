//! One token after the other.

use std::ops::ControlFlow;

use super::{InferError, Sampling};
use crate::model::{Cache, Decoder, DecoderSpec};

/// How far and by what rule a model goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    /// Tokens at most.
    pub max_tokens: usize,
    /// The rule.
    pub sampling: Sampling,
    /// Tokens that end the answer and are no part of it.
    pub stops: Vec<u32>,
}

/// Why there are no more tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model ended with this token.
    End(u32),
    /// There were as many as were asked for.
    MaxTokens,
    /// The text is as long as the base was made for.
    Context,
    /// Whoever took the tokens wanted no more.
    Interrupted,
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// Without the one that ended it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
}

/// Goes on from a prompt. `cache` is of the same decoder: what the prompt begins with and the cache
/// holds is not read again. `each` takes every token as it comes, and may break off.
///
/// # Errors
/// The prompt is empty, too long, or has tokens that the model does not know; or its logits are not
/// finite.
pub fn generate(
    decoder: &Decoder,
    cache: &mut Cache,
    prompt: &[u32],
    config: &GenerateConfig,
    each: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated, InferError> {
    check(&decoder.spec, prompt)?;
    let decoder = &decoder.settled();
    let room = decoder
        .spec
        .longest()
        .map_or(usize::MAX, |longest| longest - prompt.len());
    // The last token is read even if it was read before: its logits were not kept.
    let read = cache.rewind(&prompt[..prompt.len() - 1]);
    let (mut text, mut tokens) = (prompt.to_vec(), Vec::new());
    let mut logits = decoder.read_on(cache, &prompt[read..]);
    let stop = loop {
        let token = config.sampling.choose(finite(&logits, &text)?, &text);
        if config.stops.contains(&token) {
            break Stop::End(token);
        }
        tokens.push(token);
        text.push(token);
        if each(token).is_break() {
            break Stop::Interrupted;
        }
        if tokens.len() >= config.max_tokens {
            break Stop::MaxTokens;
        }
        if tokens.len() >= room {
            break Stop::Context;
        }
        logits = decoder.read_on(cache, &[token]);
    };
    Ok(Generated { tokens, stop })
}

/// Whether a model has room for an answer to a prompt and knows its tokens.
pub(super) fn check(spec: &DecoderSpec, prompt: &[u32]) -> Result<(), InferError> {
    let (tokens, vocabulary) = (prompt.len(), spec.vocabulary);
    if tokens == 0 {
        return Err(InferError::Empty);
    }
    if let Some(id) = prompt.iter().copied().find(|id| *id as usize >= vocabulary) {
        return Err(InferError::UnknownToken { id, vocabulary });
    }
    match spec.longest().filter(|context| tokens >= *context) {
        Some(context) => Err(InferError::TooLong { tokens, context }),
        None => Ok(()),
    }
}

fn finite<'a>(logits: &'a [f32], text: &[u32]) -> Result<&'a [f32], InferError> {
    match logits.iter().find(|logit| !logit.is_finite()) {
        Some(found) => Err(InferError::NotFinite {
            tokens: text.len(),
            found: *found,
        }),
        None => Ok(logits),
    }
}
