//! `rankine merge`: merges adapters into their base, as a model folder that stands alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::{Failure, grouped, print};
use crate::export::gguf::GgmlType;
use crate::export::merge::{Addend, GgufNumbers, Tally};
use crate::fault::{Exit, Fault};
use crate::files::{self, Float};
use crate::model::user_path;
use crate::report::{Terminal, peak_memory_bytes};
pub(super) use crate::run::LEFTOVER;
use crate::run::{self, MergeOptions, Merged, addend_of, find_adapter};

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// An adapter (its folder, that of a run or a checkpoint, or a Hub id that was pulled), and its
    /// weight (1); may be given several times
    #[arg(long, value_name = "DIR|ID[=WEIGHT]", required = true)]
    adapter: Vec<String>,
    /// The folder of the merged model, which may not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The type of the merged model's numbers; of a GGUF base that of the tensors that change
    #[arg(long, value_enum, default_value_t = Dtype::Keep)]
    dtype: Dtype,
    /// The base's folder, or a Hub id that was pulled, in place of the one that the adapter names
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Merge into a base that is not the one that an adapter was trained on
    #[arg(long)]
    force: bool,
    /// Of an adapter of a quantized base: how far the merged model may be from the trained one,
    /// mean KL divergence per token in nats
    #[arg(long, value_name = "NATS", default_value_t = 0.05)]
    max_kl: f64,
    /// Compare on this file, in the form of the recipe's first dataset, in place of the run's
    /// validation rows; or a folder that holds the run's data, by their hashes
    #[arg(long, value_name = "FILE|DIR")]
    data: Option<PathBuf>,
    /// Merge an adapter of a quantized base without comparing
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
    /// Of a GGUF base only
    #[value(name = "q8_0")]
    Q8_0,
}

impl Dtype {
    fn float(self) -> Option<Float> {
        match self {
            Self::Keep | Self::Q8_0 => None,
            Self::F32 => Some(Float::F32),
            Self::Bf16 => Some(Float::Bf16),
            Self::F16 => Some(Float::F16),
        }
    }

    fn gguf(self) -> GgufNumbers {
        match self {
            Self::Keep => GgufNumbers::Own,
            Self::F32 => GgufNumbers::F32,
            Self::Bf16 => GgufNumbers::Bf16,
            Self::F16 => GgufNumbers::F16,
            Self::Q8_0 => GgufNumbers::Q8_0,
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
    let options = MergeOptions {
        adapters,
        out: args.out.clone(),
        float: args.dtype.float(),
        gguf: args.dtype.gguf(),
        base: args.base.clone(),
        force: args.force,
        max_kl: args.max_kl,
        data: args.data.clone(),
        uncompared: args.uncompared,
    };
    let interrupt = interrupt(&args.out)?;
    let merged = run::merge(options, &interrupt, &|event| {
        terminal.take(&event);
    })?;
    if args.json {
        return print(object(&merged, started.elapsed()));
    }
    print_lines(&merged)?;
    merged.comparison.iter().try_for_each(print_comparison)
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

fn object(merged: &Merged, elapsed: Duration) -> Value {
    let (request, tally) = (&merged.request, &merged.tally);
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
        "out": request.out.display().to_string(),
        "base": user_path(&request.base).display().to_string(),
        "adapters": request.adapters.iter().map(adapter).collect::<Vec<_>>(),
        "dtype": request.float.map(|float| float.to_string()),
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
        "comparison": merged.comparison,
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

fn print_lines(merged: &Merged) -> Result<(), Failure> {
    let Tally {
        tensors,
        merged_tensors,
        changed,
        numbers,
        bytes,
        ..
    } = &merged.tally;
    let (request, tally) = (&merged.request, &merged.tally);
    print(format_args!(
        "merged model  {} ({})",
        request.out.display(),
        HumanBytes(*bytes)
    ))?;
    print(format_args!(
        "base          {}",
        user_path(&request.base).display()
    ))?;
    for addend in &request.adapters {
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

/// Prints the comparison with the trained model as lines.
fn print_comparison(comparison: &Value) -> Result<(), Failure> {
    let loss = |value: &Value| {
        value["loss"]
            .as_f64()
            .map_or_else(|| "-".to_owned(), |loss| format!("{loss:.4}"))
    };
    print(format_args!(
        "as trained    loss {}, on the base in {}",
        loss(&comparison["trained"]),
        comparison["trained_on"].as_str().unwrap_or("-")
    ))?;
    for merge in comparison["merges"].as_array().into_iter().flatten() {
        let number = |key: &str| merge[key].as_f64().unwrap_or(f64::NAN);
        let chosen = if merge["into"] == comparison["chosen"] {
            ", chosen"
        } else {
            ""
        };
        print(format_args!(
            "merged        loss {}, KL {:.6} nats, top-1 {:.2} %, into the {}{chosen}",
            loss(merge),
            number("kl"),
            100.0 * number("top1_agreement"),
            merge["into"].as_str().unwrap_or("-"),
        ))?;
    }
    Ok(())
}
