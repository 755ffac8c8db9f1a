//! What a score head needs of a recipe: how labels are read, how many scores there are and what they
//! are called, and the head in the adapter.

use std::path::Path;

use serde_json::json;

use super::base::{Base, noted};
use super::filled::{Filled, Origin};
use crate::adapter::{LoraConfig, SavedLayer, ScoreConfig};
use crate::data::{
    ClassReading, DataFile, DataSource, LabelReading, LabelScan, candidates, scan_labels,
};
use crate::fault::Fault;
use crate::model::{Folder, ScoreLayerSpec};
use crate::objective::Objective;
use crate::recipe::{Location, Recipe, Said};
use crate::terms::{MarginSource, ObjectiveType, ProblemType, Term};

/// Returns how labels or margins are read, where the objective scores rows; it is that of all
/// sources.
pub(super) fn label_reading(
    recipe: &Recipe,
    sources: &[DataSource],
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<LabelReading> {
    match recipe.objective.type_or_default() {
        ObjectiveType::Reward => margin(recipe, sources, filled, faults),
        ObjectiveType::Classification => {
            classes(recipe, sources, filled, faults).map(LabelReading::Classes)
        }
        _ => None,
    }
}

fn margin(
    recipe: &Recipe,
    sources: &[DataSource],
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<LabelReading> {
    let said = recipe.objective.margin.as_ref();
    let margin = filled.word("objective.margin", said, MarginSource::None);
    let columns: &[&str] = match margin {
        MarginSource::None => return None,
        MarginSource::Column => &["margin"],
        MarginSource::Scores => &["score_chosen", "score_rejected"],
    };
    let place = said.map(|said| &said.place)?;
    for source in sources {
        for file in &source.files {
            faults.extend(lacking(source, file, columns, margin).map(|fault| fault.at(place)));
        }
    }
    Some(LabelReading::Margin(margin))
}

/// Returns the fault of a file without a column of the margin.
fn lacking(
    source: &DataSource,
    file: &DataFile,
    columns: &[&str],
    margin: MarginSource,
) -> Option<Fault> {
    let there = candidates(file).ok()?;
    let name = |canonical: &&str| {
        let named = source.columns.get(*canonical).map(String::as_str);
        named.unwrap_or(canonical).to_owned()
    };
    let is_there = |name: &String| there.iter().any(|column| column.name == *name);
    let missing = columns.iter().map(name).find(|name| !is_there(name))?;
    let fault = Fault::new(format!(
        "objective.margin: `{margin}` needs a column `{missing}`, which `{}` lacks",
        file.path().display()
    ));
    let canonical = columns.join("`, `");
    Some(fault.hint(format!(
        "name its column of `{canonical}` with `columns`, or set `margin: none`"
    )))
}

fn classes(
    recipe: &Recipe,
    sources: &[DataSource],
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<ClassReading> {
    let said = &recipe.objective;
    let place = said.kind.as_ref().map(|said| &said.place)?;
    let problem = said.problem_type.as_ref();
    let mut scan: Option<LabelScan> = None;
    for source in sources {
        let found = scan_labels(
            &source.files,
            &source.columns,
            problem.map(|said| said.value),
        );
        let found = noted(found, place, faults)?;
        scan = Some(match scan {
            None => found,
            Some(scan) => scan.and(found),
        });
    }
    // Of sources that cannot be read there are faults already.
    let scan = scan?;
    let problem = problem_of(problem, &scan, place, filled, faults)?;
    let given = filled.optional("objective.labels", said.labels.as_ref(), |names| {
        json!(names)
    });
    let of_labels = said.labels.as_ref().map(|said| &said.place);
    let reading = match scan.reading(problem, given.as_deref()) {
        Ok(reading) => reading,
        Err(reason) => {
            let fault = Fault::new(format!("objective.problem_type: `{problem}`: {reason}"));
            let hint = "correct the labels, name their column with `columns`, or set another \
                `problem_type`";
            let place = said.problem_type.as_ref().map_or(place, |said| &said.place);
            faults.push(fault.at(of_labels.unwrap_or(place)).hint(hint));
            return None;
        }
    };
    if let Some(twice) = twice(&reading.names) {
        let fault = Fault::new(format!(
            "objective.labels: `{twice}` is the name of two classes"
        ));
        faults.push(
            fault
                .at(of_labels.unwrap_or(place))
                .hint("give each its own name"),
        );
    }
    if given.is_none() && !reading.names.is_empty() {
        let names = json!(reading.names);
        filled.put("objective.labels", names, Origin::Derived("from the data"));
    }
    Some(reading)
}

fn twice(names: &[String]) -> Option<&String> {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    let pair = sorted.windows(2).find(|pair| pair[0] == pair[1]);
    pair.map(|pair| pair[0])
}

/// Returns the problem: as the recipe has it, or the only one that the labels leave.
fn problem_of(
    said: Option<&Said<ProblemType>>,
    scan: &LabelScan,
    place: &Location,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Option<ProblemType> {
    let key = "objective.problem_type";
    if said.is_some() {
        return filled.optional(key, said, |problem| json!(problem.word()));
    }
    match scan.problem() {
        Ok(problem) => {
            let word = json!(problem.word());
            filled.put(key, word, Origin::Derived("from the labels"));
            Some(problem)
        }
        Err(why) => {
            let fault = Fault::new(format!(
                "objective.problem_type: the labels in `{}` leave it open: {why}",
                scan.column
            ));
            let words: Vec<String> = ProblemType::WORDS
                .iter()
                .map(|(word, _)| format!("`{word}`"))
                .collect();
            faults.push(
                fault
                    .at(place)
                    .hint(format!("set `problem_type` to one of {}", words.join(", "))),
            );
            None
        }
    }
}

/// Adds the score head of an objective to an adapter, a fresh one unless the adapter to continue
/// from has it.
pub(super) fn add_head(
    config: &mut LoraConfig,
    objective: &Objective,
    reading: Option<&LabelReading>,
    base: &Base,
    init_from: Option<(&Path, &Location)>,
    faults: &mut Vec<Fault>,
) {
    let Some(labels) = objective.labels() else {
        if let (Some(score), Some((folder, place))) = (&config.score, init_from) {
            let fault = Fault::new(format!(
                "adapter.init_from: `{}` has a score head, `{}`, which this objective does not \
                train",
                folder.display(),
                score.module
            ));
            faults.push(fault.at(place).hint(
                "continue from an adapter of a language model, or set `objective.type` to \
                `reward` or `classification`",
            ));
        }
        return;
    };
    let classes = match reading {
        Some(LabelReading::Classes(classes)) => Some(classes),
        _ => None,
    };
    let is_of_tokens = classes.is_some_and(|classes| classes.problem == ProblemType::Token);
    let spec = &base.model.spec;
    let of_encoder = spec.scoring.as_ref().map(|all| all.head(is_of_tokens));
    let module = match of_encoder {
        Some(head) => head.module,
        None if is_of_tokens => spec.names.token_scores,
        None => "score",
    };
    let layer = of_encoder.and_then(|head| head.layer.as_ref());
    let fresh = ScoreConfig {
        module: module.to_owned(),
        // What is drawn must be saved, or nobody has it again.
        layer: layer
            .filter(|layer| layer.is_of_head || !has_layer(&base.model, layer))
            .map(|layer| SavedLayer::of(layer, spec.width)),
        labels,
        has_bias: is_of_tokens || of_encoder.is_some(),
        is_of_tokens,
        names: classes.map_or_else(
            || vec!["reward".to_owned()],
            |classes| classes.names.clone(),
        ),
        problem: classes.map(|classes| classes.problem),
        // Positions of an encoder may count from its padding token, which must stay the config's.
        padding: match of_encoder {
            Some(_) => spec.padding,
            None => base.tokenizer.pad_id().or(spec.padding),
        },
    };
    if let (Some(found), Some((folder, place))) = (&config.score, init_from)
        && (found.labels, found.is_of_tokens) != (labels, is_of_tokens)
    {
        let of = |score: &ScoreConfig| {
            let what = if score.is_of_tokens { "words" } else { "texts" };
            format!("{} scores of {what}", score.labels)
        };
        let fault = Fault::new(format!(
            "adapter.init_from: the head of `{}` gives {}, the objective has {}",
            folder.display(),
            of(found),
            of(&fresh)
        ));
        faults.push(fault.at(place).hint(
            "continue from an adapter with as many classes, or set `objective.labels` to its names",
        ));
    }
    let found = config.score.take().map(|found| ScoreConfig {
        has_bias: found.has_bias,
        module: found.module,
        layer: found.layer,
        ..fresh.clone()
    });
    config.score = Some(found.unwrap_or(fresh));
}

/// Whether a checkpoint has the layer before the scores.
fn has_layer(model: &Folder, layer: &ScoreLayerSpec) -> bool {
    let stored = model.stored_scores().unwrap_or_default();
    let tensors = layer.tensors(model.spec.width);
    tensors
        .into_iter()
        .all(|(name, shape)| stored.get(&name) == Some(&shape))
}
