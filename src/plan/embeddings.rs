//! Checks for untrained embeddings: tokens that occur in rows or as padding, and that the base
//! itself never learned. Most adapters leave embeddings as they are, so such a token stays without
//! meaning.

use std::collections::BTreeSet;

use super::PlanError;
use super::adapter::Trains;
use super::resolve::Plan;
use crate::adapter::TablePart;
use crate::model::Role;

impl Plan {
    /// Returns a note for each of these end-of-turn tokens, and for the padding token, if its
    /// embedding looks untrained.
    pub(super) fn notes_of_embeddings(
        &self,
        ends: &BTreeSet<u32>,
    ) -> Result<Vec<String>, PlanError> {
        let tokenizer = &self.encoder.tokenizer;
        let pad = tokenizer
            .special()
            .pad
            .as_deref()
            .and_then(|pad| tokenizer.token_to_id(pad));
        let ids: BTreeSet<u32> = ends.iter().copied().chain(pad).collect();
        let is_left =
            |id: &u32| (*id as usize) < self.model.spec.vocabulary && !self.trains_row(*id);
        let ids: Vec<u32> = ids.into_iter().filter(is_left).collect();
        let token = |id: u32| tokenizer.decode(&[id], false).unwrap_or_default();
        let note = |(id, why): (u32, crate::model::Untrained)| {
            let role = if ends.contains(&id) {
                "ends turns or documents"
            } else {
                "pads"
            };
            let why = why.describe(token);
            format!(
                "token `{}`, id {id}, {role}, and its embedding looks untrained in the base: {why}",
                token(id)
            )
        };
        Ok(self
            .model
            .untrained_embeddings(&ids)?
            .into_iter()
            .map(note)
            .collect())
    }

    /// Returns whether an adapter trains the embedding row of a token.
    fn trains_row(&self, id: u32) -> bool {
        let Trains::Adapter(config) = &self.trains else {
            return false;
        };
        let targets = config
            .table_targets(&self.model.spec.modules())
            .unwrap_or_default();
        targets
            .iter()
            .filter(|target| target.module.role == Role::Embedding)
            .any(|target| match &target.part {
                TablePart::Whole => true,
                TablePart::Rows(tokens) | TablePart::Shared(tokens) => tokens.contains(&id),
            })
    }
}
