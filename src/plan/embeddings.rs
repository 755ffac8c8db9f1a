//! Tokens that rows train or that pad, and that the base itself never learned: a model that meets one has no notion of it, and an
//! adapter leaves embeddings as they are.

use std::collections::BTreeSet;

use super::Error;
use super::resolve::Plan;

impl Plan {
    /// A note for each of these ends of a turn, and for the padding token, whose embedding looks untrained.
    pub(super) fn notes_of_embeddings(&self, ends: &BTreeSet<u32>) -> Result<Vec<String>, Error> {
        let tokenizer = &self.encoder.tokenizer;
        let pad = tokenizer.special().pad.as_deref().and_then(|pad| tokenizer.token_to_id(pad));
        let ids: BTreeSet<u32> = ends.iter().copied().chain(pad).collect();
        let ids: Vec<u32> = ids.into_iter().filter(|id| (*id as usize) < self.model.spec.vocabulary).collect();
        let token = |id: u32| tokenizer.decode(&[id], false).unwrap_or_default();
        let note = |(id, why): (u32, crate::model::Untrained)| {
            let role = if ends.contains(&id) { "ends turns or documents" } else { "pads" };
            let why = why.describe(token);
            format!("token `{}`, id {id}, {role}, and its embedding looks untrained in the base: {why}", token(id))
        };
        Ok(self.model.untrained_embeddings(&ids)?.into_iter().map(note).collect())
    }
}
