//! Merges of adapters into their base, as a model folder that stands alone.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;

use super::base::{base_with, find_base, lock_above, report_notes, run_folder};
use super::card::run_of;
use super::lock::Lock;
use super::merge_check::{Checked, Gate, REPORT};
use super::resume::plan_of;
use super::scores::places;
use crate::export::merge::{
    Addend, GgufNumbers, MergeError, MergeRequest, Onto, OtherBase, Tally, TrainedOn,
    merge as write_merged,
};
use crate::fault::{Exit, Failure, Fault};
use crate::files::{Float, remove_leftovers};
use crate::report::{Event, Reporter};

/// Age after which a temporary folder has no writer any more.
pub const LEFTOVER: Duration = Duration::from_hours(24);

/// Adapters to merge, and the check of the merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// The adapters, see [`addend_of`].
    pub adapters: Vec<Addend>,
    /// The folder of the merged model, which may not exist yet.
    pub out: PathBuf,
    /// The type of all numbers; `None` for the base's, tensor by tensor.
    pub float: Option<Float>,
    /// Of a GGUF base the type of the tensors that adapters change.
    pub gguf: GgufNumbers,
    /// The base, a folder or a Hub id in the cache, in place of the one that the adapters name.
    pub base: Option<PathBuf>,
    /// Whether to merge into a base that is not the one that an adapter was trained on.
    pub force: bool,
    /// The largest mean KL divergence per token, in nats, of the merged model from the one that
    /// was trained on a quantized base.
    pub max_kl: f64,
    /// Rows to compare on, in place of the run's validation rows: a file in the form of the first
    /// dataset, or a folder with the run's data.
    pub data: Option<PathBuf>,
    /// Whether to merge an adapter of a quantized base without comparing.
    pub uncompared: bool,
}

impl MergeOptions {
    /// Makes options to merge adapters into the base that they were trained on, in its types.
    pub fn new(adapters: Vec<Addend>, out: PathBuf) -> Self {
        Self {
            adapters,
            out,
            float: None,
            gguf: GgufNumbers::Own,
            base: None,
            force: false,
            max_kl: 0.05,
            data: None,
            uncompared: false,
        }
    }
}

/// A merged model.
#[derive(Debug)]
pub struct Merged {
    /// What was merged.
    pub request: MergeRequest,
    /// Counts of its numbers.
    pub tally: Tally,
    /// The comparison with the trained model, if there was one.
    pub comparison: Option<Value>,
}

/// Merges adapters into their base. One that was trained on a quantized base is merged so that the
/// result is closest to the trained model. If `interrupt` becomes true, nothing of it stays.
///
/// # Errors
/// The adapters do not fit one base, the output exists, the merge is too far from the trained
/// model, or a file cannot be read or written.
pub fn merge(
    options: MergeOptions,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Merged, Failure> {
    let base = common_base(options.base.as_deref(), &options.adapters)?;
    for addend in &options.adapters {
        if addend.trained_on.is_none() {
            report(Event::Note(format!(
                "no lock of a run lies above `{}`: of its base only the shapes are checked",
                addend.folder.display()
            )));
        }
    }
    for addend in &options.adapters {
        let modules = base_with(&base, Some(&addend.folder))?.spec.modules();
        report_notes(&addend.folder, &modules, report)?;
    }
    let other_base = if options.force {
        OtherBase::Note
    } else {
        OtherBase::Refuse
    };
    let request = MergeRequest {
        base,
        adapters: options.adapters.clone(),
        out: options.out.clone(),
        float: options.float,
        other_base,
        onto: Onto::Stored,
        counts_q8_0: false,
        keeps_gguf: true,
        gguf: options.gguf,
    };
    remove_leftovers(&[folder_above(&options.out)], LEFTOVER)?;
    let (tally, comparison) = if let Some(lock) = packed_run(&options, report)? {
        let checked = merge_checked(&options, &request, &lock, interrupt, report)?;
        (checked.tally, Some(checked.report))
    } else {
        let merged = write_merged(&request, interrupt, report);
        report(Event::Ended);
        (merged?, None)
    };
    let note = if tally.added_nothing() {
        Some("the adapters add nothing".to_owned())
    } else {
        tally.stored_note()
    };
    if let Some(note) = note {
        report(Event::Note(note));
    }
    Ok(Merged {
        request,
        tally,
        comparison,
    })
}

/// Returns the folder that a path lies in.
pub fn folder_above(path: &Path) -> &Path {
    path.parent()
        .filter(|above| !above.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Returns the lock of the run, if its only adapter was trained on a quantized base and is to be
/// compared.
fn packed_run(options: &MergeOptions, report: Reporter) -> Result<Option<PathBuf>, Failure> {
    let packed: Vec<&Path> = options.adapters.iter().filter_map(packed_lock).collect();
    let lock = match (&packed[..], &options.adapters[..]) {
        ([], _) => None,
        ([lock], [addend]) if !options.uncompared && addend.weight.to_bits() == 1_f64.to_bits() => {
            Some((*lock).to_owned())
        }
        _ => {
            let why = if options.uncompared {
                ""
            } else {
                ": that takes one adapter, of weight 1"
            };
            report(Event::Note(format!(
                "an adapter was trained on a packed base; the merge is not compared with it{why}"
            )));
            None
        }
    };
    if let (Some(data), None) = (&options.data, &lock) {
        let fault = Fault::new(format!(
            "--data: `{}` is for the comparison with a packed base, and there is none",
            data.display()
        ));
        return Err(Failure::new(Exit::Usage, fault.hint("leave it out")));
    }
    Ok(lock)
}

/// Returns the lock of an adapter whose run had a quantized base.
pub fn packed_lock(addend: &Addend) -> Option<&Path> {
    let path = &addend.trained_on.as_ref()?.lock;
    let lock = Lock::read(path).ok()?;
    lock.has_packed_base().then_some(path.as_path())
}

/// Merges, and keeps the merge that is closest to the trained model. Paths are made absolute,
/// because the run's own are relative to where it was started.
fn merge_checked(
    options: &MergeOptions,
    request: &MergeRequest,
    lock: &Path,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Checked, Failure> {
    let steady = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let adapters = request
        .adapters
        .iter()
        .map(|addend| Addend {
            folder: steady(&addend.folder),
            ..addend.clone()
        })
        .collect();
    let request = MergeRequest {
        base: steady(&request.base),
        out: steady(&request.out),
        adapters,
        ..request.clone()
    };
    // Leftovers of an earlier comparison are not a model.
    let left = std::fs::read_dir(&request.out).map(|entries| {
        entries
            .flatten()
            .map(|entry| entry.file_name())
            .collect::<Vec<_>>()
    });
    if left.is_ok_and(|names| names != [REPORT])
        || (request.out.symlink_metadata().is_ok() && !request.out.is_dir())
    {
        return Err(MergeError::Exists {
            path: options.out.clone(),
        }
        .into());
    }
    let (lock, data) = (steady(lock), options.data.as_deref().map(steady));
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
    let base = Some(request.base.clone()).filter(|_| options.base.is_some() && !options.force);
    let (places, data) = places(&known, &run, base, data.as_ref()).map_err(with_way_out)?;
    let plan = plan_of(&known, &lock, &run, &places, report).map_err(with_way_out)?;
    let gate = Gate::open(
        plan,
        &request.adapters[0].folder,
        data.map(PathBuf::as_path),
        options.max_kl,
        report,
    )
    .map_err(with_way_out)?;
    gate.merge(&request, interrupt, report)
}

/// Returns an adapter with what is known of its base.
pub fn addend_of(folder: PathBuf, weight: f64) -> Result<Addend, Failure> {
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
