//! Scores of a score head on rows that were not trained on.

use serde_json::{Value, json};

use super::scores::{Subject, keep_scores, sheets};
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::plan::{Examined, HeadScore, Trains};
use crate::report::{Event, Reporter};

/// The scores of a score head.
#[derive(Debug)]
pub struct HeadScores {
    /// One for each set of rows.
    pub sets: Vec<(Examined, HeadScore)>,
    /// The names of its classes or labels.
    pub names: Vec<String>,
    /// All of them as an object.
    pub object: Value,
}

/// Scores an adapter with a score head; a base has none. The scores of a run are added to its
/// folder.
///
/// # Errors
/// There is no adapter, or the rows, the base or the adapter cannot be read or do not fit each
/// other.
pub fn score_head(subject: &Subject, report: Reporter) -> Result<HeadScores, Failure> {
    let Subject { plan, trained, .. } = subject;
    let usage = |message: &str, hint: &str| {
        Failure::new(
            Exit::Usage,
            Fault::new(message.to_owned()).hint(hint.to_owned()),
        )
    };
    let Some(artifact) = trained else {
        return Err(usage(
            "there is no adapter to score, and a base has no score head",
            "name one with `--adapter`",
        ));
    };
    if subject.forgetting.is_some() {
        return Err(usage(
            "--forgetting: a score head gives no text a likelihood",
            "remove `--forgetting`",
        ));
    }
    let opened = artifact.open(&plan.model.spec, report)?;
    device::set_threads(plan.threads);
    let sheets = sheets(plan, subject.data.as_deref(), false, report)?;
    let device = device::open(plan.device)?;
    let base = plan
        .model
        .load(plan.storage_of_product(), &device, report)?;
    let decoder = opened.on(base, plan.storage.dtype, report)?.settled();
    let (found, expected) = (
        decoder.scores.as_ref().map(|scores| scores.labels()),
        plan.objective().labels(),
    );
    if found != expected {
        let message = format!(
            "`{}` has {} scores, the recipe has {}",
            artifact.path().display(),
            found.unwrap_or_default(),
            expected.unwrap_or_default()
        );
        return Err(Failure::new(
            Exit::Input,
            Fault::new(message).hint("score it with the recipe that it was trained by"),
        ));
    }
    let mut sets = Vec::new();
    for sheet in &sheets {
        let scores = sheet.score_head(&decoder, plan.objective(), "the adapter", report);
        sets.extend(sheet.sets.iter().cloned().zip(scores));
    }
    report(Event::Ended);
    sets.retain(|(set, _)| set.rows > 0);
    let names = match &plan.trains {
        Trains::Adapter(config) => config.score.as_ref().map(|score| score.names.clone()),
        Trains::Everything => None,
    };
    let names = names.unwrap_or_default();
    let object = json!({
        "base": plan.base_name,
        "adapter": artifact.path().display().to_string(),
        "labels": names,
        "sets": sets.iter().map(object).collect::<Vec<_>>(),
    });
    if let Some(run) = &subject.run {
        let entries: Vec<&str> = sheets
            .iter()
            .flat_map(|sheet| sheet.cache_entries())
            .collect();
        keep_scores(run, &object, &entries, Some(artifact), report);
    }
    Ok(HeadScores {
        sets,
        names,
        object,
    })
}

fn object((set, score): &(Examined, HeadScore)) -> Value {
    json!({
        "name": set.name,
        "path": set.path,
        "rows": set.rows,
        "rows_trained_on": set.trained_rows,
        "loss": score.loss,
        "figures": score.figures,
        "confusion": score.confusion,
    })
}
