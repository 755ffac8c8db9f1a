//! Scores of a base and of what was trained on it, on rows that were not trained on.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::artifact::Artifact;
use super::base::{find_adapter, find_named, lock_above, run_folder};
use super::inputs::Inputs;
use super::lock::Lock;
use super::places::{Named, Places};
use super::redact;
use super::resume::{find, plan_of, read_lock};
use super::trained::Opened;
use crate::adapter::peft;
use crate::device;
use crate::fault::{Exit, Failure, Fault};
use crate::files::hash_file;
use crate::model::Decoder;
use crate::plan::{Examined, Plan, Reading, Sheet, Trains};
use crate::report::{Event, Reporter, peak_memory_bytes};
use crate::terms::{Device, ModelDtype};
use crate::train::{Checkpoint, RunFolder, Score};

/// General text in the repository.
pub const GENERAL: &str = "datasets/general-definitions.parquet";
/// Rows of it that are scored: enough for a mean, and fast.
const GENERAL_ROWS: usize = 2000;
/// Key of the cache entries that scoring has used, in a line of a run's scores.
pub const CACHE_ENTRIES: &str = "cache_entries";

/// Scores on one set of rows.
#[derive(Debug, Clone)]
pub struct ScoreRow {
    /// The rows.
    pub set: Examined,
    /// The score of the base.
    pub base: Score,
    /// The score of what was trained, if there is some.
    pub trained: Option<Score>,
}

impl ScoreRow {
    /// Returns the scores on all rows together; `None` if there are none.
    pub fn total(rows: &[Self]) -> Option<Self> {
        let and = |left: Self, right: Self| Self {
            set: Examined {
                rows: left.set.rows + right.set.rows,
                trained_rows: left
                    .set
                    .trained_rows
                    .zip(right.set.trained_rows)
                    .map(|(left, right)| left + right),
                ..left.set
            },
            base: left.base.and(right.base),
            trained: left
                .trained
                .zip(right.trained)
                .map(|(left, right)| left.and(right)),
        };
        let total = rows.iter().cloned().reduce(and)?;
        Some(Self {
            set: Examined {
                name: "total".to_owned(),
                path: String::new(),
                ..total.set
            },
            ..total
        })
    }
}

/// Returns the part of a set in the object for `--json`; `name` is `adapter` or `model`.
pub(super) fn object(row: &ScoreRow, name: &str) -> Value {
    let score = |score: Score| {
        let loss = score.loss();
        json!({
            "loss": loss,
            "perplexity": loss.map(f64::exp),
            "loss_content": score.content(),
            "loss_end_of_turn": score.end_of_turn(),
        })
    };
    json!({
        "name": row.set.name,
        "path": row.set.path,
        "rows": row.set.rows,
        "rows_trained_on": row.set.trained_rows,
        "trained_tokens": row.base.trained_tokens(),
        "base": score(row.base),
        name: row.trained.map(score),
    })
}

/// Model, adapter and rows that are scored. Paths are relative to the same folder as the plan's.
#[derive(Debug)]
pub struct Subject {
    /// The plan of the run, or of a recipe.
    pub plan: Plan,
    /// The adapter or the model; without it only the base is scored.
    pub trained: Option<Artifact>,
    /// Rows to score on, in place of the validation rows.
    pub data: Option<PathBuf>,
    /// General text to score on too.
    pub forgetting: Option<PathBuf>,
    /// The run that the scores belong to.
    pub run: Option<PathBuf>,
}

/// Choice of what to score of a run, and on which rows; by default its adapter or model, on its
/// validation rows.
#[derive(Debug, Default)]
pub struct ScoreOptions {
    /// Another adapter.
    pub adapter: Option<PathBuf>,
    /// The folder of the base, or a Hub id in the cache.
    pub base: Option<PathBuf>,
    /// A file to score on in place of the validation rows, or a folder that holds the run's data.
    pub data: Option<PathBuf>,
    /// General text to score on too.
    pub forgetting: Option<PathBuf>,
}

/// Scores of a base and of what was trained on it.
#[derive(Debug)]
pub struct Scores {
    /// One for each set of rows.
    pub rows: Vec<ScoreRow>,
    /// Those on general text.
    pub forgotten: Option<ScoreRow>,
    /// `adapter` or `model`.
    pub name: &'static str,
    /// All of them with the time that they took.
    pub object: Value,
}

impl Subject {
    /// Finds the subject in a run, with the plan of its lock and the files that belong to the run
    /// now.
    ///
    /// # Errors
    /// The folder is no run, or one of its files is missing.
    pub fn of_run(
        subject: &Path,
        options: &ScoreOptions,
        report: Reporter,
    ) -> Result<Self, Failure> {
        let adapter = options.adapter.as_deref().map(find_adapter).transpose()?;
        let here = std::env::current_dir().unwrap_or_default();
        let within = within(subject);
        let run = find(within.as_ref().map_or(subject, |(run, _)| run))?;
        let (path, before) = read_lock(&run, None, report)?;
        let base = options.base.as_deref().map(find_named).transpose()?;
        let (places, data) = places(&before, &run, base, options.data.as_ref())?;
        let plan = plan_of(&before, &path, &run, &places, report)?;
        let hashes = Inputs::of(&plan)?.hash().finish()?;
        let now = Lock::new(&plan, "", plan.threads, places.renamed(&before, hashes));
        for change in before.changed_inputs(&now, &places) {
            report(Event::Note(change));
        }
        // Typed paths are relative to the folder in which they were typed.
        let has_moved = std::env::current_dir().is_ok_and(|now| now != here);
        let typed = |path: &PathBuf| {
            if has_moved {
                here.join(path)
            } else {
                path.clone()
            }
        };
        let general = |path: &PathBuf| {
            if path == Path::new(GENERAL) {
                path.clone()
            } else {
                typed(path)
            }
        };
        let product = within.map(|(_, product)| product);
        let trained = match (adapter.as_ref(), &plan.trains) {
            (Some(adapter), _) => Artifact::Adapter(typed(adapter)),
            (None, Trains::Adapter(_)) if product.is_some() => {
                Artifact::Adapter(product.unwrap_or_default())
            }
            (None, Trains::Everything) if product.is_some() => {
                Artifact::Model(product.unwrap_or_default())
            }
            (None, Trains::Adapter(_)) => Artifact::Adapter(run.join(RunFolder::ADAPTER)),
            (None, Trains::Everything) => Artifact::Model(run.join(RunFolder::MODEL)),
        };
        let (data, forgetting) = (data.map(typed), options.forgetting.as_ref().map(general));
        Ok(Self {
            plan,
            trained: Some(trained),
            data,
            forgetting,
            run: Some(run),
        })
    }
}

/// Scores the base, and then what was trained on it. The scores of a run are added to its folder.
///
/// # Errors
/// The rows, the base, or what was trained cannot be read or do not fit each other.
pub fn score(subject: &Subject, report: Reporter) -> Result<Scores, Failure> {
    let started = Instant::now();
    let Subject { plan, trained, .. } = subject;
    let opened: Option<Opened> = trained
        .as_ref()
        .map(|trained| trained.open(&plan.model.spec, report))
        .transpose()?;
    device::set_threads(plan.threads);
    let has_other = subject.forgetting.is_some();
    let sheets = sheets(plan, subject.data.as_deref(), has_other, report)?;
    let general = subject.forgetting.as_ref().map(|path| {
        plan.other_sheet(
            "--forgetting",
            &path.to_string_lossy(),
            Reading::Text { rows: GENERAL_ROWS },
            report,
        )
    });
    let general = general.transpose()?;

    let base = plan.model.load(
        plan.storage_of_product(),
        &device::open(plan.device)?,
        report,
    )?;
    let all = || sheets.iter().chain(&general);
    let score = |decoder: &Decoder, what: &str| {
        all()
            .flat_map(|sheet| sheet.score(decoder, what, report))
            .collect::<Vec<_>>()
    };
    let of_base = score(&base, "the base");
    let name = trained.as_ref().map_or("adapter", Artifact::name);
    // The CPU computes in the same numbers for any storage, so a model's own type need not change.
    let dtype = if plan.device == Device::Cpu {
        ModelDtype::Auto
    } else {
        plan.storage.dtype
    };
    let of_trained = match opened
        .map(|opened| opened.on(base, dtype, report))
        .transpose()?
    {
        Some(decoder) => score(&decoder, &format!("the {name}"))
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None; of_base.len()],
    };
    report(Event::Ended);
    let sets = all().flat_map(|sheet| &sheet.sets);
    let rows = sets
        .zip(of_base)
        .zip(of_trained)
        .map(|((set, base), trained)| ScoreRow {
            set: set.clone(),
            base,
            trained,
        });
    let mut rows: Vec<ScoreRow> = rows.filter(|row| row.set.rows > 0).collect();
    let forgotten = if general.is_some() { rows.pop() } else { None };
    let trained = trained.as_ref();
    let object = whole(plan, trained, &rows, forgotten.as_ref(), started.elapsed());
    if let Some(run) = &subject.run {
        let entries: Vec<&str> = all().flat_map(Sheet::cache_entries).collect();
        keep_scores(run, &object, &entries, trained, report);
    }
    Ok(Scores {
        rows,
        forgotten,
        name,
        object,
    })
}

/// Returns the run of a named checkpoint or adapter, and the part of it to score.
fn within(subject: &Path) -> Option<(PathBuf, PathBuf)> {
    let of_checkpoint = || RunFolder::product_in(subject).filter(|_| Checkpoint::is_one(subject));
    let product = RunFolder::adapter_in(subject)
        .filter(|adapter| adapter == subject)
        .or_else(of_checkpoint)?;
    let product = product.canonicalize().ok()?;
    Some((run_folder(&lock_above(&product)?), product))
}

/// Adds the scores to those in the run's folder, without paths of this machine, and with the cache
/// entries that were used. If the folder cannot be written, only this record is lost.
pub(super) fn keep_scores(
    run: &Path,
    scores: &Value,
    entries: &[&str],
    trained: Option<&Artifact>,
    report: Reporter,
) {
    let path = run.join(RunFolder::EVALUATIONS);
    let mut kept = scores.as_object().cloned().unwrap_or_default();
    if let Some(trained) = trained {
        let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let (of_run, product) = (whole(run), whole(trained.path()));
        let shown = product
            .strip_prefix(&of_run)
            .map_or_else(|_| trained.path().to_owned(), Path::to_owned);
        kept.insert(
            trained.name().to_owned(),
            json!(shown.display().to_string()),
        );
        let hash = hash_file(&peft::files(&product)[1]).map(|hash| hash.to_string());
        kept.insert("adapter_blake3".to_owned(), json!(hash.ok()));
    }
    let mut line = Map::new();
    line.insert("at".to_owned(), json!(jiff::Timestamp::now().to_string()));
    line.append(&mut redact::map(&kept));
    line.insert(CACHE_ENTRIES.to_owned(), json!(entries));
    let line = Value::Object(line).to_string() + "\n";
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(cause) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        report(Event::Note(format!(
            "the scores are not kept: cannot write `{}`: {cause}",
            path.display()
        )));
    }
}

/// Returns where the files of a run are, and the data that replaces its own, if `data` names some.
pub fn places<'a>(
    lock: &Lock,
    run: &Path,
    base: Option<PathBuf>,
    data: Option<&'a PathBuf>,
) -> Result<(Places, Option<&'a PathBuf>), Failure> {
    let folder = data
        .filter(|path| path.is_dir())
        .and_then(|path| std::path::absolute(path).ok());
    let found = Places::find(
        lock,
        run,
        &Named {
            base: base.clone(),
            data: folder.clone(),
        },
    )?;
    Ok(match folder {
        Some(folder) if found.has_data_in(&folder) => (found, None),
        Some(_) => (Places::find(lock, run, &Named { base, data: None })?, data),
        None => (found, data),
    })
}

/// Returns the rows to score on, except general text.
pub fn sheets(
    plan: &Plan,
    data: Option<&Path>,
    has_other: bool,
    report: Reporter,
) -> Result<Vec<Sheet>, Failure> {
    if let Some(path) = data {
        plan.notes_of_base()
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        return Ok(vec![plan.other_sheet(
            "--data",
            &path.to_string_lossy(),
            Reading::FirstDataset,
            report,
        )?]);
    }
    let sheets = plan.validation_sheets(plan.read_data(report)?);
    if sheets.is_empty() && !has_other {
        let fault = Fault::new(
            "there are no validation rows: `evaluation.val_set_size` is 0 and \
            `evaluation.datasets` is empty",
        );
        return Err(Failure::new(
            Exit::Input,
            fault.hint("name rows that were not trained on with `--data FILE`"),
        ));
    }
    Ok(sheets)
}

/// Returns all scores as an object.
fn whole(
    plan: &Plan,
    trained: Option<&Artifact>,
    rows: &[ScoreRow],
    forgotten: Option<&ScoreRow>,
    elapsed: Duration,
) -> Value {
    let name = trained.map_or("adapter", Artifact::name);
    let object = |row: &ScoreRow| object(row, name);
    json!({
        "base": plan.base_name,
        name: trained.map(|trained| trained.path().display().to_string()),
        "sets": rows.iter().map(object).collect::<Vec<_>>(),
        "total": ScoreRow::total(rows).as_ref().map(object),
        "forgetting": forgotten.map(object),
        "seconds": elapsed.as_secs_f64(),
        "peak_memory_bytes": peak_memory_bytes(),
    })
}
