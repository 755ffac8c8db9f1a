//! `rankine init`: writes a first recipe. Its values follow from the base, the columns and lengths
//! of the rows, and the free memory.

mod answers;
mod draft;
mod look;

use std::path::{Path, PathBuf};

use clap::Args;

use self::answers::{Answers, Goal};
use self::draft::Draft;
use super::{Failure, hub, print};
use crate::data::{Corpus, Limits};
use crate::fault::{Exit, Explain, Fault, shell_word};
use crate::files::{cache_folder, write_atomic};
use crate::hub::HubError;
use crate::plan::{Plan, Resolved, resolve};
use crate::recipe;
use crate::report::Terminal;
use crate::terms::Truncation;

/// Length limit that is longer than any row.
const LONGEST: usize = 1 << 30;
/// Shortest `sequence_len` that is tried, tokens. The longest is the base's context.
const SHORTEST: usize = 128;
/// Default `sequence_len` if the base is not available.
const USUAL: usize = 2048;
/// Percentage of the rows that must fit into `sequence_len`.
const FITTING_PERCENT: usize = 99;
/// Most changes of the recipe until it fits; one is usual.
const ROUNDS: usize = 4;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The base: a model's folder, or a Hub id
    #[arg(long, value_name = "MODEL")]
    base: Option<String>,
    /// A Parquet file, a glob or a folder of them to train on
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// What the model is to learn: answers (to answer as the data do), language (the language of a
    /// field) or everything (train every weight)
    #[arg(long, value_name = "GOAL", value_parser = answers::goal)]
    goal: Option<Goal>,
    /// Where to train: auto, cpu, wgpu or cuda, with an index such as cuda:0
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The recipe to write, a new file
    #[arg(long, value_name = "RECIPE", default_value = "recipe.yaml")]
    out: PathBuf,
}

pub(super) fn init(args: &InitArgs, terminal: &Terminal) -> Result<(), Failure> {
    if args.out.exists() {
        let fault = Fault::new(format!("`{}` exists", args.out.display()));
        return Err(Failure::new(
            Exit::Exists,
            fault.hint("name a new file with `--out`, or remove it"),
        ));
    }
    let answers = Answers::take(args, terminal)?;
    let sets = answers
        .data
        .iter()
        .map(|path| look::look(path, terminal))
        .collect::<Result<Vec<_>, _>>()?;
    let mut draft = Draft::new(&answers, &sets);
    let notes = fit(&mut draft, &args.out, terminal)?;
    write_atomic(&args.out, draft.text().as_bytes())?;
    for set in &sets {
        terminal.say(&format!(
            "note: `{}` has {} rows and is read as `{}`, by its columns",
            set.path,
            set.rows,
            draft.format(set)
        ));
    }
    for note in notes {
        terminal.say(&format!("note: {note}"));
    }
    terminal.say(&format!(
        "next: read it, then `rankine train {}`",
        shell_word(&args.out.display().to_string())
    ));
    print(format_args!("recipe      {}", args.out.display()))
}

/// Chooses the row length by the data and the batch by the memory, and returns what it did.
fn fit(draft: &mut Draft, out: &Path, terminal: &Terminal) -> Result<Vec<String>, Failure> {
    // Where the base has a template for chats, questions and answers are turns of one.
    draft.has_chats = draft.has_tables();
    let mut resolved = plan(draft, out, terminal);
    if draft.has_chats && !matches!(resolved, Ok(Resolved::Plan(_))) {
        draft.has_chats = false;
        resolved = plan(draft, out, terminal);
    }
    let plan = match resolved? {
        Resolved::Plan(plan) => plan,
        Resolved::Hub { base, datasets, .. } => {
            let base = base.map(|(id, missing)| hub::not_cached(&id, missing));
            let absent = base.iter().chain(&datasets);
            draft.set("training.sequence_len", USUAL.to_string());
            return Ok(absent.filter_map(|error| absence(error, out)).collect());
        }
    };
    plan.check_trains()?;
    let mut notes = vec![fit_length(draft, &plan, terminal)?];
    for round in 0..ROUNDS {
        let Resolved::Plan(plan) = self::plan(draft, out, terminal)? else {
            break;
        };
        let data = plan.read_data(&|event| terminal.take(&event))?;
        terminal.stop();
        let memory = plan.prepare(&data).1;
        if memory.fits() {
            memory.check()?;
            notes.extend(
                memory
                    .lines()
                    .into_iter()
                    .take(1)
                    .map(|(what, value)| format!("{what}: {value}")),
            );
            return Ok(notes);
        }
        let Some(change) = memory.change().filter(|_| round + 1 < ROUNDS) else {
            memory.check()?;
            break;
        };
        notes.push(format!("to fit into memory: {}", change.join(" ")));
        change
            .iter()
            .filter_map(|change| change.split_once('='))
            .for_each(|(key, value)| draft.set(key, value));
    }
    Ok(notes)
}

/// Returns a note on what cannot be known without a file of the Hub.
fn absence(error: &HubError, out: &Path) -> Option<String> {
    let HubError::NotCached { id, pull, .. } = error else {
        return None;
    };
    let plan = shell_word(&out.display().to_string());
    Some(format!(
        "`{id}` is not in the cache, so neither lengths of rows nor memory are known: `rankine \
        pull {pull}`, then `rankine plan {plan}`"
    ))
}

fn plan(draft: &Draft, out: &Path, terminal: &Terminal) -> Result<Resolved, Failure> {
    let resolved = resolve(recipe::parse(out, &draft.text()), None, &|event| {
        terminal.take(&event);
    })?;
    let device = match &resolved {
        Resolved::Plan(plan) => plan.device,
        Resolved::Hub { device, .. } => *device,
    };
    crate::device::check(device)?;
    Ok(resolved)
}

/// Chooses the shortest power of two that nearly all rows fit into.
fn fit_length(draft: &mut Draft, plan: &Plan, terminal: &Terminal) -> Result<String, Failure> {
    let limits = Limits {
        sequence_len: LONGEST,
        truncation: Truncation::Drop,
    };
    let corpus = Corpus::open(
        &plan.sources,
        &plan.encoder,
        &limits,
        &cache_folder(),
        &|event| terminal.take(&event),
    );
    terminal.stop();
    let corpus = corpus.map_err(|error| Failure {
        exit: error.exit(),
        faults: error.faults(),
    })?;
    let mut lengths: Vec<usize> = (0..corpus.len()).map(|row| corpus.row(row).len()).collect();
    lengths.sort_unstable();
    let (context, longest) = (
        plan.model.spec.context.max(2),
        lengths.last().copied().unwrap_or(0),
    );
    let wanted = lengths
        .get(
            (lengths.len() * FITTING_PERCENT)
                .div_ceil(100)
                .saturating_sub(1),
        )
        .copied()
        .unwrap_or(SHORTEST);
    let powers = std::iter::successors(Some(SHORTEST), |length| Some(length * 2));
    let chosen = powers
        .take_while(|length| *length < context)
        .find(|length| *length >= wanted)
        .unwrap_or(context)
        .min(context);
    draft.set("training.sequence_len", chosen.to_string());
    let longer = lengths.iter().filter(|length| **length > chosen).count();
    if longer * 20 > lengths.len() {
        draft.set("training.truncation", "truncate");
        return Ok(format!(
            "{longer} of {} rows are longer than the base's context of {context} tokens and are \
            cut",
            lengths.len()
        ));
    }
    Ok(format!(
        "the longest of {} rows has {longest} tokens; {longer} are longer than {chosen} and are \
        left out",
        lengths.len()
    ))
}
