//! The sample prompts of a recipe, as tokens that fit the base.

use serde_json::json;

use super::base::{Base, noted};
use super::filled::Filled;
use crate::data::template::ChatTemplate;
use crate::fault::Fault;
use crate::infer::{Frame, SamplePrompt};
use crate::recipe::{Recipe, Said};
use crate::terms::Format;

/// Returns the filled prompts; those that cannot be put to the base join `faults`.
pub(super) fn prompts(
    recipe: &Recipe,
    base: Option<&Base>,
    template: Option<&ChatTemplate>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Vec<SamplePrompt> {
    let prompts = &recipe.evaluation.prompts;
    let texts: Vec<&str> = prompts.iter().map(|said| said.value.as_str()).collect();
    let said = prompts.first().map(|first| Said {
        value: texts,
        place: first.place.clone(),
    });
    filled.fill("evaluation.prompts", said.as_ref(), Vec::new(), |texts| {
        json!(texts)
    });
    let Some(base) = base else { return Vec::new() };
    let frame = frame(recipe, template.is_some());
    let asked = |said: &Said<String>| {
        let question = SamplePrompt::new(
            &said.value,
            frame,
            &base.tokenizer,
            template,
            &base.model.spec,
        );
        noted(question, &said.place, faults)
    };
    prompts.iter().filter_map(asked).collect()
}

/// Returns the frame of the prompts: Alpaca's if all training rows use it, else the chat template
/// if there is one.
fn frame(recipe: &Recipe, has_template: bool) -> Frame {
    let mut formats = recipe
        .datasets
        .iter()
        .filter_map(|dataset| dataset.format.as_ref())
        .map(|said| said.value);
    let has_rows = !recipe.datasets.is_empty();
    match has_template {
        _ if has_rows && formats.all(|format| format == Format::Instruction) => Frame::Instruction,
        true => Frame::Chat,
        false => Frame::Text,
    }
}
