//! What a run asks at each evaluation: the prompts of its recipe, as tokens that fit the base.

use serde_json::json;

use super::base::{Base, noted};
use super::fill::Filled;
use crate::data::template::ChatTemplate;
use crate::fault::Fault;
use crate::infer::Question;
use crate::recipe::{Recipe, Said};

/// The prompts, filled; what a base cannot be asked joins `faults`.
pub(super) fn prompts(
    recipe: &Recipe,
    base: Option<&Base>,
    template: Option<&ChatTemplate>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Vec<Question> {
    let prompts = &recipe.evaluation.prompts;
    let texts: Vec<&str> = prompts.iter().map(|said| said.value.as_str()).collect();
    let said = prompts.first().map(|first| Said { value: texts, place: first.place.clone() });
    filled.fill("evaluation.prompts", said.as_ref(), Vec::new(), |texts| json!(texts));
    let Some(base) = base else { return Vec::new() };
    let asked = |said: &Said<String>| {
        let question = Question::new(&said.value, &base.tokenizer, template, &base.model.spec);
        noted(question, &said.place, faults)
    };
    prompts.iter().filter_map(asked).collect()
}
