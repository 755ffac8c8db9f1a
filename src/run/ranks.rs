//! How well an embedder finds what belongs to a text, before and after training.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::artifact::Artifact;
use super::scores::{Subject, sheets};
use super::trained::Opened;
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::objective::Objective;
use crate::report::{Event, Reporter, peak_memory_bytes};
use crate::terms::{Device, ModelDtype};

/// Figures of a base and of what was trained on it.
#[derive(Debug)]
pub struct Ranks {
    /// Rows that were looked through.
    pub rows: usize,
    /// Name, figure of the base and, where something was trained, of it.
    pub figures: Vec<(&'static str, f64, Option<f64>)>,
    /// `adapter` or `model`.
    pub name: &'static str,
    /// All of it as one object.
    pub object: Value,
}

/// Whether a subject is an embedder.
pub fn is_embedder(subject: &Subject) -> bool {
    matches!(subject.plan.objective(), Objective::Contrastive(_))
}

/// Scores the vectors of the base, and then of what was trained on it, on the rows that were held
/// out, or on those that are named.
///
/// # Errors
/// The rows, the base, or what was trained cannot be read or do not fit each other.
pub fn rank(subject: &Subject, report: Reporter) -> Result<Ranks, Failure> {
    let started = Instant::now();
    let Subject { plan, trained, .. } = subject;
    let Objective::Contrastive(loss) = plan.objective() else {
        let fault = Fault::new("it is no embedder: its objective is not `embedding`");
        return Err(Failure::new(Exit::Usage, fault));
    };
    if subject.forgetting.is_some() {
        let fault = Fault::new("--forgetting: an embedder predicts no text");
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("leave it out, or name texts that belong together with `--data`"),
        ));
    }
    let opened: Option<Opened> = trained
        .as_ref()
        .map(|trained| trained.open(&plan.model.spec, report))
        .transpose()?;
    device::set_threads(plan.threads);
    let sheets = sheets(plan, subject.data.as_deref(), false, report)?;
    let device = device::open(plan.device)?;
    let base = plan
        .model
        .load(plan.storage_of_product(), &device, report)?;
    let ranked = |decoder: &_, what: &str| -> Vec<BTreeMap<&'static str, f64>> {
        let ranks = sheets
            .iter()
            .map(|sheet| sheet.rank(decoder, loss.pooling, what, report));
        ranks.collect()
    };
    let of_base = ranked(&base, "the base");
    let name = trained.as_ref().map_or("adapter", Artifact::name);
    let dtype = if plan.device == Device::Cpu {
        ModelDtype::Auto
    } else {
        plan.storage.dtype
    };
    let of_trained = opened
        .map(|opened| opened.on(base, dtype, report))
        .transpose()?
        .map(|decoder| ranked(&decoder, &format!("the {name}")));
    report(Event::Ended);
    let counts: Vec<usize> = sheets.iter().map(crate::plan::Sheet::rows).collect();
    let rows: usize = counts.iter().sum();
    // Of several sets the mean by their rows.
    let mean = |all: &[BTreeMap<&'static str, f64>], key: &str| {
        let weighted = all
            .iter()
            .zip(&counts)
            .filter_map(|(figures, rows)| Some(figures.get(key)? * *rows as f64));
        weighted.sum::<f64>() / rows.max(1) as f64
    };
    let names = of_base.first().into_iter().flat_map(BTreeMap::keys);
    let figures: Vec<_> = names
        .map(|key| {
            let after = of_trained.as_deref().map(|all| mean(all, key));
            (*key, mean(&of_base, key), after)
        })
        .collect();
    let object = json!({
        "base": plan.base_name,
        "rows": rows,
        "figures": figures
            .iter()
            .map(|(key, base, after)| ((*key).to_owned(), json!({"base": base, name: after})))
            .collect::<serde_json::Map<_, _>>(),
        "seconds": started.elapsed().as_secs_f64(),
        "peak_memory_bytes": peak_memory_bytes(),
    });
    Ok(Ranks {
        rows,
        figures,
        name,
        object,
    })
}
