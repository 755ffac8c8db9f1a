//! `rankine merge`: merges adapters into their base, as a model folder that stands alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::base::{base_with, find_adapter, find_base, lock_above, run_folder, say_notes};
use super::card::run_of;
use super::eval::places;
use super::merge_compared::{Gate, Outcome, REPORT, print_report};
use super::{Failure, grouped, print, resume};
use crate::export::gguf::GgmlType;
use crate::export::merge::{
    Addend, MergeError, MergeRequest, Onto, OtherBase, Tally, TrainedOn, merge as write_merged,
};
use crate::fault::{Exit, Fault};
use crate::files::{self, Float, remove_leftovers};
use crate::plan::Lock;
use crate::report::{Terminal, peak_memory_bytes};

/// Age after which a temporary folder has no writer any more.
pub(super) const LEFTOVER: Duration = Duration::from_hours(24);

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// An adapter (its folder, that of a run or a checkpoint, or a Hub id that was pulled), and how
    /// many times what it adds counts (1); may be given several times
    #[arg(long, value_name = "DIR|ID[=WEIGHT]", required = true)]
    adapter: Vec<String>,
    /// The folder of the merged model, which may not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of the merged model's numbers
    #[arg(long, value_enum, default_value_t = Dtype::Keep)]
    dtype: Dtype,
    /// The base's folder, or a Hub id that was pulled, in place of the one that the adapter names
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Merge into a base that is not the one that an adapter was trained on
    #[arg(long)]
    force: bool,
    /// Of an adapter that was trained on a packed base: how far the merged model may be from the
    /// trained one, mean KL divergence a token in nats
    #[arg(long, value_name = "NATS", default_value_t = 0.05)]
    max_kl: f64,
    /// Compare on this file, in the form of the recipe's first dataset, in place of the run's
    /// validation rows; or a folder that holds the run's data, by their hashes
    #[arg(long, value_name = "FILE|DIR")]
    data: Option<PathBuf>,
    /// Merge an adapter that was trained on a packed base without comparing
    #[arg(long, conflicts_with = "data")]
    uncompared: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dtype {
    /// As in the base, tensor by tensor
    Keep,
    F32,
    Bf16,
    F16,
}

impl Dtype {
    fn float(self) -> Option<Float> {
        match self {
            Self::Keep => None,
            Self::F32 => Some(Float::F32),
            Self::Bf16 => Some(Float::Bf16),
            Self::F16 => Some(Float::F16),
        }
    }
}

pub(super) fn merge(args: &MergeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let started = Instant::now();
    if args.max_kl.is_nan() || args.max_kl < 0.0 {
        let fault = Fault::new(format!(
            "--max-kl: {} nats, expected a number from 0",
            args.max_kl
        ));
        return Err(Failure::new(Exit::Usage, fault));
    }
    let adapters = args
        .adapter
        .iter()
        .map(|word| addend(word))
        .collect::<Result<Vec<_>, _>>()?;
    let base = common_base(args.base.as_deref(), &adapters)?;
    for addend in adapters.iter().filter(|addend| addend.trained_on.is_none()) {
        let folder = addend.folder.display();
        terminal.say(&format!(
            "note: no lock of a run lies above `{folder}`: of its base only the shapes are checked"
        ));
    }
    adapters.iter().try_for_each(|addend| {
        say_notes(
            &addend.folder,
            &base_with(&base, Some(&addend.folder))?.spec.modules(),
            terminal,
        )
    })?;
    let other_base = if args.force {
        OtherBase::Note
    } else {
        OtherBase::Refuse
    };
    let order = MergeRequest {
        base,
        adapters,
        out: args.out.clone(),
        float: args.dtype.float(),
        other_base,
        onto: Onto::Stored,
        counts_q8_0: false,
    };
    let above = args
        .out
        .parent()
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    remove_leftovers(&[above], LEFTOVER)?;
    let interrupt = interrupt(&args.out)?;
    let (tally, report) = if let Some(lock) = packed_run(args, &order, terminal)? {
        let Outcome { tally, report } = merge_compared(args, &order, &lock, &interrupt, terminal)?;
        (tally, Some(report))
    } else {
        let merged = write_merged(&order, &interrupt, &|event| terminal.take(&event));
        terminal.stop();
        (merged?, None)
    };
    match tally.stored_note() {
        _ if tally.added_nothing() => terminal.say("note: the adapters add nothing"),
        Some(note) => terminal.say(&format!("note: {note}")),
        None => {}
    }
    if args.json {
        return print(object(&order, &tally, report.as_ref(), started.elapsed()));
    }
    print_lines(&order, &tally)?;
    report.iter().try_for_each(print_report)
}

/// Returns the lock of the run, if its only adapter was trained on a quantized base and is to be
/// compared.
fn packed_run(
    args: &MergeArgs,
    order: &MergeRequest,
    terminal: &Terminal,
) -> Result<Option<PathBuf>, Failure> {
    let packed: Vec<&Path> = order.adapters.iter().filter_map(packed_lock).collect();
    let lock = match (&packed[..], &order.adapters[..]) {
        ([], _) => None,
        ([lock], [addend]) if !args.uncompared && addend.weight.to_bits() == 1_f64.to_bits() => {
            Some((*lock).to_owned())
        }
        _ => {
            let why = if args.uncompared {
                ""
            } else {
                ": that takes one adapter, of weight 1"
            };
            terminal.say(&format!(
                "note: an adapter was trained on a packed base; the merge is not compared with \
                it{why}"
            ));
            None
        }
    };
    if let (Some(data), None) = (&args.data, &lock) {
        let fault = Fault::new(format!(
            "--data: `{}` is for the comparison with a packed base, and there is none",
            data.display()
        ));
        return Err(Failure::new(Exit::Usage, fault.hint("leave it out")));
    }
    Ok(lock)
}

/// Returns the lock of an adapter whose run had a quantized base.
pub(super) fn packed_lock(addend: &Addend) -> Option<&Path> {
    let path = &addend.trained_on.as_ref()?.lock;
    Lock::read(path).ok()?.packing().map(|_| path.as_path())
}

/// Merges, and keeps the merge that is closest to the trained model. Paths are made absolute,
/// because the run's own are relative to where it was started.
fn merge_compared(
    args: &MergeArgs,
    order: &MergeRequest,
    lock: &Path,
    interrupt: &AtomicBool,
    terminal: &Terminal,
) -> Result<Outcome, Failure> {
    let steady = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let adapters = order
        .adapters
        .iter()
        .map(|addend| Addend {
            folder: steady(&addend.folder),
            ..addend.clone()
        })
        .collect();
    let order = MergeRequest {
        base: steady(&order.base),
        out: steady(&order.out),
        adapters,
        ..order.clone()
    };
    // Leftovers of an earlier comparison are not a model.
    let left = std::fs::read_dir(&order.out).map(|entries| {
        entries
            .flatten()
            .map(|entry| entry.file_name())
            .collect::<Vec<_>>()
    });
    if left.is_ok_and(|names| names != [REPORT])
        || (order.out.symlink_metadata().is_ok() && !order.out.is_dir())
    {
        return Err(MergeError::Exists {
            path: args.out.clone(),
        }
        .into());
    }
    let (lock, data) = (steady(lock), args.data.as_deref().map(steady));
    let known = Lock::read(&lock)?;
    let run = run_folder(&lock);
    // A user who only wants the merge learns how to skip the comparison.
    let with_way_out = |mut failure: Failure| {
        let way_out =
            || "`--uncompared` merges into the base as it is, without the run's rows and device";
        for fault in &mut failure.faults {
            fault.hint.get_or_insert_with(|| way_out().to_owned());
        }
        failure
    };
    // Without `--force`, a named base is the one that the run was trained on; otherwise the merge
    // has ended before.
    let base = Some(order.base.clone()).filter(|_| args.base.is_some() && !args.force);
    let (places, data) = places(&known, &run, base, data.as_ref()).map_err(with_way_out)?;
    let plan = resume::plan_of(&known, &lock, &run, &places, terminal).map_err(with_way_out)?;
    let gate = Gate::open(
        plan,
        &order.adapters[0].folder,
        data.map(PathBuf::as_path),
        args.max_kl,
        terminal,
    )
    .map_err(with_way_out)?;
    gate.merge(&order, interrupt, terminal)
}

/// Parses an adapter argument. If a folder's whole name ends like a weight, it is taken as a
/// folder.
fn addend(word: &str) -> Result<Addend, Failure> {
    let weighted = word.rsplit_once('=').filter(|_| !Path::new(word).exists());
    let (folder, weight) = match weighted.map(|(folder, weight)| (folder, weight.parse::<f64>())) {
        Some((folder, Ok(weight))) if weight.is_finite() => (folder, weight),
        Some((folder, _)) if Path::new(folder).is_dir() => {
            let fault = Fault::new(format!("--adapter `{word}`: its weight is not a number"));
            return Err(Failure::new(
                Exit::Usage,
                fault.hint(format!(
                    "write `--adapter {folder}=0.5`, or leave `=` out for 1"
                )),
            ));
        }
        _ => (word, 1.0),
    };
    addend_of(find_adapter(Path::new(folder))?, weight)
}

/// Returns an adapter with what is known of its base.
pub(super) fn addend_of(folder: PathBuf, weight: f64) -> Result<Addend, Failure> {
    Ok(Addend {
        trained_on: trained_on(&folder)?,
        folder,
        weight,
    })
}

fn trained_on(folder: &Path) -> Result<Option<TrainedOn>, Failure> {
    let Some(path) = lock_above(folder) else {
        return Ok(None);
    };
    let name = |path: PathBuf| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let lock = Lock::read(&path)?;
    let files = lock
        .base_files()
        .into_iter()
        .map(|(path, hash)| (name(path), hash));
    let (config, weights): (Vec<_>, Vec<_>) = files.partition(|(name, _)| name == "config.json");
    let config = config.into_iter().next().map(|(_, hash)| hash);
    let run = run_of(&path, &lock)?;
    Ok(Some(TrainedOn {
        lock: path,
        weights: weights.into_iter().collect(),
        config,
        run,
    }))
}

/// Returns the named base, or the one that all adapters were trained on.
fn common_base(named: Option<&Path>, adapters: &[Addend]) -> Result<PathBuf, Failure> {
    let bases = adapters
        .iter()
        .map(|addend| find_base(named, Some(&addend.folder)))
        .collect::<Result<Vec<_>, _>>()?;
    let (first, rest) = bases
        .split_first()
        .expect("there is an adapter, the option is required");
    let same = |other: &&PathBuf| other.canonicalize().ok() == first.canonicalize().ok();
    match rest.iter().find(|other| !same(other)) {
        None => Ok(first.clone()),
        Some(other) => {
            let message = format!(
                "the adapters name different bases, `{}` and `{}`",
                first.display(),
                other.display()
            );
            Err(Failure::new(
                Exit::Input,
                Fault::new(message).hint("give the folder of the base with `--base`"),
            ))
        }
    }
}

/// Returns a flag that SIGINT and SIGTERM set, so that partial output is removed before the process
/// ends.
pub(super) fn interrupt(out: &Path) -> Result<Arc<AtomicBool>, files::FileError> {
    let raised = Arc::new(AtomicBool::new(false));
    #[cfg(unix)]
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let listening = signal_hook::flag::register(signal, Arc::clone(&raised));
        listening.map_err(|cause| files::FileError::new("listen for signals of", out, cause))?;
    }
    #[cfg(not(unix))]
    let _ = out;
    Ok(raised)
}

fn object(order: &MergeRequest, tally: &Tally, report: Option<&Value>, elapsed: Duration) -> Value {
    let adapter = |addend: &Addend| {
        let lock = addend
            .trained_on
            .as_ref()
            .map(|known| known.lock.display().to_string());
        json!({
            "path": addend.folder.display().to_string(),
            "weight": addend.weight,
            "trained_on": lock,
        })
    };
    json!({
        "out": order.out.display().to_string(),
        "base": order.base.display().to_string(),
        "adapters": order.adapters.iter().map(adapter).collect::<Vec<_>>(),
        "dtype": order.float.map(|float| float.to_string()),
        "tensors": tally.tensors,
        "merged_tensors": tally.merged_tensors,
        "numbers": tally.numbers,
        "changed_numbers": tally.changed,
        "rounding": tally.rounding(),
        "rounding_by_dtype": rounding_by_dtype(
            tally,
            &[GgmlType::F32, GgmlType::F16, GgmlType::Bf16],
        ),
        "bytes": tally.bytes,
        "comparison": report,
        "seconds": elapsed.as_secs_f64(),
        "peak_memory_bytes": peak_memory_bytes(),
    })
}

/// Returns the share of the change that rounding to each type loses.
pub(super) fn rounding_by_dtype(tally: &Tally, kinds: &[GgmlType]) -> Value {
    kinds
        .iter()
        .map(|kind| (kind.option().to_owned(), json!(tally.rounding_in(*kind))))
        .collect()
}

fn print_lines(order: &MergeRequest, tally: &Tally) -> Result<(), Failure> {
    let Tally {
        tensors,
        merged_tensors,
        changed,
        numbers,
        bytes,
        ..
    } = tally;
    print(format_args!(
        "merged model  {} ({})",
        order.out.display(),
        HumanBytes(*bytes)
    ))?;
    print(format_args!("base          {}", order.base.display()))?;
    for addend in &order.adapters {
        print(format_args!(
            "adapter       {}, weight {}",
            addend.folder.display(),
            addend.weight
        ))?;
    }
    print(format_args!(
        "tensors       {merged_tensors} of {tensors} merged"
    ))?;
    let rounding = tally.rounding().map_or_else(String::new, |share| {
        format!(", rounding took {:.2} % of the change", share * 100.0)
    });
    print(format_args!(
        "numbers       {} of {} changed{rounding}",
        grouped(*changed),
        grouped(*numbers)
    ))
}
