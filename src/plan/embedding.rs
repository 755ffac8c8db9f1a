//! The settings of an embedder, and what they ask of the base.

use serde_json::json;

use super::base::Base;
use super::filled::Filled;
use crate::fault::Fault;
use crate::objective::Contrastive;
use crate::recipe::{self, Recipe};
use crate::terms::{ObjectiveType, Pooling};

/// sentence-transformers' default of `scale` is its inverse, 20.
const TEMPERATURE: f64 = 0.05;

/// Fills the keys of the objective.
pub(super) fn contrastive(said: &recipe::Objective, filled: &mut Filled) -> Contrastive {
    let dims = filled.optional(
        "objective.matryoshka_dims",
        said.matryoshka_dims.as_ref(),
        |dims| json!(dims),
    );
    let weights = filled.optional(
        "objective.matryoshka_weights",
        said.matryoshka_weights.as_ref(),
        |weights| json!(weights),
    );
    let dims = dims.unwrap_or_default();
    let weights = weights.unwrap_or_else(|| vec![1.0; dims.len()]);
    Contrastive {
        pooling: filled.word("objective.pooling", said.pooling.as_ref(), Pooling::Mean),
        temperature: filled.plain(
            "objective.temperature",
            said.temperature.as_ref(),
            TEMPERATURE,
        ),
        symmetric: filled.plain("objective.symmetric", said.symmetric.as_ref(), false),
        widths: dims.into_iter().zip(weights).collect(),
    }
}

/// Refuses an encoder for objectives that predict tokens, and widths that the base's vectors do not
/// have.
pub(super) fn check_embedder(recipe: &Recipe, base: Option<&Base>, faults: &mut Vec<Fault>) {
    let Some(spec) = base.map(|base| &base.model.spec) else {
        return;
    };
    let kind = recipe.objective.type_or_default();
    let reads_whole_texts = [
        ObjectiveType::Embedding,
        ObjectiveType::Classification,
        ObjectiveType::Reward,
    ];
    let predicts = !reads_whole_texts.contains(&kind);
    if let Some(said) = recipe
        .base_model
        .as_ref()
        .filter(|_| predicts && spec.is_encoder())
    {
        let fault = Fault::new(format!(
            "base_model: it is an encoder, whose tokens see later ones, and `objective: {{type: \
            {kind}}}` predicts the next token"
        ));
        faults.push(fault.at(&said.place).hint(
            "set `objective.type` to `embedding`, `classification` or `reward`, or choose a \
                causal language model",
        ));
    }
    if let Some(said) = recipe
        .base_model
        .as_ref()
        .filter(|_| predicts && base.is_some_and(|base| base.model.only_scores))
    {
        let fault = Fault::new(format!(
            "base_model: it has a head that scores texts or words and none of a vocabulary, and \
            `objective: {{type: {kind}}}` predicts tokens"
        ));
        faults.push(fault.at(&said.place).hint(
            "set `objective.type` to `classification`, `reward` or `embedding`, or choose a causal \
            language model",
        ));
    }
    let too_wide = |said: &&recipe::Said<Vec<usize>>| {
        said.value.iter().copied().max().unwrap_or(0) > spec.width
    };
    if let Some(said) = recipe.objective.matryoshka_dims.as_ref().filter(too_wide) {
        let fault = Fault::new(format!(
            "objective.matryoshka_dims has {}, the base's vectors have {} numbers",
            said.value.iter().copied().max().unwrap_or(0),
            spec.width
        ));
        faults.push(
            fault
                .at(&said.place)
                .hint(format!("name widths up to {}", spec.width)),
        );
    }
}
