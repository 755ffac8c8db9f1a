//! The generation loop: one token after the other.

use std::ops::ControlFlow;

use super::{InferError, Sampling};
use crate::model::{Cache, Decoder, DecoderSpec};

/// Limits of generation, and the choice of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateConfig {
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// The sampling rule.
    pub sampling: Sampling,
    /// Tokens that end the answer. They are not part of it.
    pub stops: Vec<u32>,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The model generated this stop token.
    End(u32),
    /// `max_tokens` was reached.
    MaxTokens,
    /// The text reached the base's context length.
    Context,
    /// The consumer of the tokens stopped it.
    Interrupted,
}

/// The tokens that a model generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why generation stopped.
    pub stop: Stop,
}

/// Generates tokens after a prompt. `cache` belongs to the same decoder; the beginning of the
/// prompt that it already holds is not computed again. `each` gets every token as it comes and may
/// stop the loop.
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

/// Checks that the model's context has room for an answer and that it knows the prompt's tokens.
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
