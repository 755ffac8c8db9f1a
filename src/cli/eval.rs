//! `rankine eval`: loss and perplexity of the base and of the trained model, for each set of rows,
//! and forgetting on other text.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde_json::{Map, Value, json};

use super::base::{find_adapter, find_named, lock_above, run_folder};
use super::cache::CACHE_ENTRIES;
use super::eval_table::{ScoreRow, object, print_table};
use super::trained::{Opened, Trained};
use super::{Failure, RecipeArgs, print, resume};
use crate::adapter::peft;
use crate::device;
use crate::fault::{Exit, Fault};
use crate::files::hash_file;
use crate::model::Decoder;
use crate::plan::{
    Inputs, Lock, Named, Places, Plan, Reading, Sheet, Trains, entries_without_places,
};
use crate::report::{Event, Terminal, peak_memory_bytes};
use crate::terms::{Device, ModelDtype};
use crate::train::{Checkpoint, RunFolder};

/// General text in the repository.
const GENERAL: &str = "datasets/general-definitions.parquet";
/// Rows of it that are scored: enough for a mean, and fast.
const GENERAL_ROWS: usize = 2000;

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// The folder of a run, of a checkpoint or of a run's adapter, or a recipe
    #[arg(value_name = "RUN|RECIPE")]
    subject: PathBuf,
    /// Values to change in a recipe
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// An adapter: its folder, that of a run or a checkpoint, or a Hub id that was pulled; without
    /// it that of the run, or of the recipe's `adapter.init_from`
    #[arg(long, value_name = "DIR|ID")]
    adapter: Option<PathBuf>,
    /// Of a run: the folder of its base, or a Hub id that was pulled, where it is not beside the
    /// run
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Score on this file, in the form of the recipe's first dataset, in place of the validation
    /// rows. Of a run, a folder that holds its own data, by their hashes: they are read there
    #[arg(long, value_name = "FILE|DIR")]
    data: Option<PathBuf>,
    /// Score on general text too, rows of a column `text`
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = GENERAL
    )]
    forgetting: Option<PathBuf>,
    /// Use a device on which training is not proven
    #[arg(long)]
    force: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn eval(args: &EvalArgs, terminal: &Terminal) -> Result<(), Failure> {
    let started = Instant::now();
    let Subject {
        plan,
        trained,
        data,
        forgetting,
        run,
    } = Subject::find(args, terminal)?;
    let opened: Option<Opened> = trained
        .as_ref()
        .map(|trained| trained.open(&plan.model.spec, terminal))
        .transpose()?;
    device::set_threads(plan.threads);
    let report = |event: Event| terminal.take(&event);
    let sheets = sheets(&plan, data.as_deref(), forgetting.is_some(), terminal)?;
    let general = forgetting.map(|path| {
        plan.other_sheet(
            "--forgetting",
            &path.to_string_lossy(),
            Reading::Text { rows: GENERAL_ROWS },
            &report,
        )
    });
    let general = general.transpose()?;

    let base = plan.model.load(
        plan.storage_of_product(),
        &device::open(plan.device)?,
        &report,
    )?;
    let all = || sheets.iter().chain(&general);
    let score = |decoder: &Decoder, what: &str| {
        all()
            .flat_map(|sheet| sheet.score(decoder, what, &report))
            .collect::<Vec<_>>()
    };
    let of_base = score(&base, "the base");
    let name = trained.as_ref().map_or("adapter", Trained::name);
    // The CPU computes in the same numbers for any storage, so a model's own type need not change.
    let dtype = if plan.device == Device::Cpu {
        ModelDtype::Auto
    } else {
        plan.storage.dtype
    };
    let of_trained = match opened
        .map(|opened| opened.on(base, dtype, &report))
        .transpose()?
    {
        Some(decoder) => score(&decoder, &format!("the {name}"))
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None; of_base.len()],
    };
    terminal.stop();
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
    let whole = || {
        whole(
            &plan,
            trained.as_ref(),
            &rows,
            forgotten.as_ref(),
            started.elapsed(),
        )
    };
    if let Some(run) = &run {
        let entries: Vec<&str> = all().flat_map(Sheet::cache_entries).collect();
        keep_scores(run, &whole(), &entries, trained.as_ref(), terminal);
    }
    if args.json {
        return print(whole());
    }
    print_table(&rows, forgotten.as_ref(), name)
}

/// The plan and model to score. Paths are relative to the same folder as the plan's.
struct Subject {
    plan: Plan,
    trained: Option<Trained>,
    data: Option<PathBuf>,
    forgetting: Option<PathBuf>,
    /// Run that the scores belong to.
    run: Option<PathBuf>,
}

impl Subject {
    fn find(args: &EvalArgs, terminal: &Terminal) -> Result<Self, Failure> {
        if args.subject.is_dir() {
            Self::of_run(args, terminal)
        } else {
            Self::of_recipe(args)
        }
    }

    fn of_recipe(args: &EvalArgs) -> Result<Self, Failure> {
        if args.base.is_some() {
            let fault = Fault::new("--base: a recipe names its base itself");
            return Err(Failure::new(
                Exit::Usage,
                fault.hint("write `base_model=DIR` after the recipe"),
            ));
        }
        let (recipe, overrides) = (args.subject.clone(), args.overrides.clone());
        let plan = RecipeArgs {
            recipe,
            overrides,
            force: args.force,
        }
        .plan()?;
        let adapter = args
            .adapter
            .as_deref()
            .map(find_adapter)
            .transpose()?
            .or_else(|| plan.init_from.clone());
        let (data, forgetting) = (args.data.clone(), args.forgetting.clone());
        Ok(Self {
            plan,
            trained: adapter.map(Trained::Adapter),
            data,
            forgetting,
            run: None,
        })
    }

    /// Finds the subject in a run, with the plan of its lock and the files that belong to the run
    /// now.
    fn of_run(args: &EvalArgs, terminal: &Terminal) -> Result<Self, Failure> {
        if let Some(word) = args.overrides.first() {
            let fault = Fault::new(format!("`{word}`: values of a run cannot be changed"));
            return Err(Failure::new(
                Exit::Usage,
                fault.hint("evaluate the recipe, and name the adapter with `--adapter`"),
            ));
        }
        let adapter = args.adapter.as_deref().map(find_adapter).transpose()?;
        let here = std::env::current_dir().unwrap_or_default();
        let within = within(&args.subject);
        let run = resume::steady(resume::find(
            within.as_ref().map_or(&args.subject, |(run, _)| run),
        )?);
        let (path, before) = resume::read_lock(&run, None, terminal)?;
        let base = args.base.as_deref().map(find_named).transpose()?;
        let (places, data) = places(&before, &run, base, args.data.as_ref())?;
        let plan = resume::plan_of(&before, &path, &run, &places, terminal)?;
        let hashes = Inputs::of(&plan, SystemTime::now())?.hash().finish()?;
        let now = Lock::new(&plan, "", plan.threads, places.renamed(&before, hashes));
        for change in before.changed_inputs(&now, &places) {
            terminal.say(&format!("note: {change}"));
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
            (Some(adapter), _) => Trained::Adapter(typed(adapter)),
            (None, Trains::Adapter(_)) if product.is_some() => {
                Trained::Adapter(product.unwrap_or_default())
            }
            (None, Trains::Everything) if product.is_some() => {
                Trained::Model(product.unwrap_or_default())
            }
            (None, Trains::Adapter(_)) => Trained::Adapter(run.join(RunFolder::ADAPTER)),
            (None, Trains::Everything) => Trained::Model(run.join(RunFolder::MODEL)),
        };
        let (data, forgetting) = (data.map(typed), args.forgetting.as_ref().map(general));
        Ok(Self {
            plan,
            trained: Some(trained),
            data,
            forgetting,
            run: Some(run),
        })
    }
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
fn keep_scores(
    run: &Path,
    scores: &Value,
    entries: &[&str],
    trained: Option<&Trained>,
    terminal: &Terminal,
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
    line.append(&mut entries_without_places(&kept));
    line.insert(CACHE_ENTRIES.to_owned(), json!(entries));
    let line = Value::Object(line).to_string() + "\n";
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(cause) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        terminal.say(&format!(
            "note: the scores are not kept: cannot write `{}`: {cause}",
            path.display()
        ));
    }
}

/// Returns where the files of a run are, and the data that replaces its own, if `data` names some.
pub(super) fn places<'a>(
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
pub(super) fn sheets(
    plan: &Plan,
    data: Option<&Path>,
    has_other: bool,
    terminal: &Terminal,
) -> Result<Vec<Sheet>, Failure> {
    let report = |event: Event| terminal.take(&event);
    if let Some(path) = data {
        plan.notes_of_base()
            .into_iter()
            .for_each(|note| report(Event::Note(note)));
        return Ok(vec![plan.other_sheet(
            "--data",
            &path.to_string_lossy(),
            Reading::FirstDataset,
            &report,
        )?]);
    }
    let sheets = plan.validation_sheets(plan.read_data(&report)?);
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

/// Returns the object for `--json`.
fn whole(
    plan: &Plan,
    trained: Option<&Trained>,
    rows: &[ScoreRow],
    forgotten: Option<&ScoreRow>,
    elapsed: Duration,
) -> Value {
    let name = trained.map_or("adapter", Trained::name);
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
