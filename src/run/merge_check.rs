//! Merges of an adapter that was trained on a quantized base, compared with the trained model.
//!
//! The adapter fits the quantized weights, so the original weights of the base may be the wrong
//! ones to add it to.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use super::base::read_adapter;
use super::scores::sheets;
use crate::adapter::attach;
use crate::device;
use crate::export::merge::{MergeError, MergeRequest, Onto, Tally, gguf_file, merge};
use crate::fault::{Exit, Failure, Fault};
use crate::files::{
    self, Float, create_folder, move_folder, remove_folder, temporary_folder_in, write_atomic,
    write_folder_atomic,
};
use crate::model::{Decoder, Folder, base_folder_in};
use crate::plan::{Comparison, Plan, Sheet};
use crate::report::{Event, Reporter, mebibytes};
use crate::terms::{Device, ModelDtype};

/// Name of the report in the folder of the merged model.
pub const REPORT: &str = "merge-report.json";

/// The trained model and the rows on which merges are compared with it.
pub struct Gate {
    plan: Plan,
    sheets: Vec<Sheet>,
    trained: Decoder,
    max_kl: f64,
}

/// A merge with its comparison.
struct Candidate {
    into: &'static str,
    folder: PathBuf,
    tally: Tally,
    comparison: Comparison,
}

/// Result of a compared merge.
pub struct Checked {
    pub tally: Tally,
    pub report: Value,
}

impl Gate {
    /// Loads the trained model and the rows.
    pub fn open(
        plan: Plan,
        adapter: &Path,
        data: Option<&Path>,
        max_kl: f64,
        report: Reporter,
    ) -> Result<Self, Failure> {
        device::set_threads(plan.threads);
        let (config, numbers) = read_adapter(adapter, &plan.model.spec.modules(), report)?;
        let sheets = sheets(&plan, data, false, report)?;
        let mut trained = plan
            .model
            .load(plan.storage, &device::open(plan.device)?, report)?;
        attach(&mut trained, &config, 0, Some(&numbers))?;
        Ok(Self {
            plan,
            sheets,
            trained,
            max_kl,
        })
    }

    /// Merges into the base's own weights and into its dequantized weights.
    ///
    /// Moves the merge that is closest to the trained model to its place, with a report. If it is
    /// not close enough, only the report is written.
    pub fn merge(
        &self,
        request: &MergeRequest,
        interrupt: &AtomicBool,
        report: Reporter,
    ) -> Result<Checked, Failure> {
        let above = request.out.parent().expect("the path is absolute");
        create_folder(above)?;
        let temporary = temporary_folder_in(above)
            .map_err(|cause| files::FileError::new("create a folder in", above, cause))?;
        let storage = self.plan.storage;
        let unpacked = storage.form.map(|form| {
            (
                UNPACKED,
                Onto::Unpacked {
                    form,
                    packs_head: storage.packs_head,
                },
            )
        });
        let folder = Folder::open(&request.base)?;
        let ways: Vec<(&str, Onto)> = match folder.stored_form()? {
            // There are no other weights.
            Some(_) => vec![(UNPACKED, Onto::Stored)],
            None => [("base", Onto::Stored)]
                .into_iter()
                .chain(unpacked)
                .collect(),
        };
        self.check_memory(&folder, request.float)?;
        let mut candidates = Vec::new();
        for (into, onto) in ways {
            let request = MergeRequest {
                out: temporary.path().join(into),
                onto,
                ..request.clone()
            };
            let tally = merge(&request, interrupt, report)?;
            let comparison = self.compare(&request.out, into, interrupt, report)?;
            candidates.push(Candidate {
                into,
                folder: request.out,
                tally,
                comparison,
            });
        }
        report(Event::Ended);
        let closest = |one: &&Candidate, other: &&Candidate| {
            one.comparison
                .divergence()
                .total_cmp(&other.comparison.divergence())
        };
        let chosen = candidates.iter().min_by(closest).expect("there is one");
        let divergence = chosen.comparison.divergence();
        let is_close = divergence <= self.max_kl;
        let compared = self.report(&candidates, chosen, is_close);
        let text =
            serde_json::to_string_pretty(&compared).expect("numbers and words are JSON") + "\n";
        if !is_close {
            write_folder_atomic(&request.out, |new| {
                write_atomic(&new.join(REPORT), text.as_bytes())
            })?;
            let message = format!(
                "the closest merge, into the {}, is {divergence:.4} nats from the trained model, \
                `--max-kl` is {}",
                chosen.into, self.max_kl
            );
            let hint = format!(
                "serve the adapter on its packed base, or take the merge with a higher `--max-kl`; \
                `{}` has the numbers",
                request.out.join(REPORT).display()
            );
            return Err(Failure::new(Exit::Diverged, Fault::new(message).hint(hint)));
        }
        write_atomic(&chosen.folder.join(REPORT), text.as_bytes())?;
        if request.out.exists() {
            // Leftovers of an earlier comparison.
            remove_folder(&request.out)?;
        }
        move_folder(&chosen.folder, &request.out)?;
        Ok(Checked {
            tally: chosen.tally.clone(),
            report: compared,
        })
    }

    /// Checks that a merged model fits into memory beside the trained one.
    fn check_memory(&self, base: &Folder, float: Option<Float>) -> Result<(), Failure> {
        let is_cpu = self.plan.device == Device::Cpu;
        let kept = base
            .kept_in(self.dtype(), device::halves(self.plan.device))?
            .dtype;
        let dtype = match float {
            Some(Float::F32) => ModelDtype::Float32,
            Some(Float::F16) => ModelDtype::Float16,
            Some(Float::Bf16) => ModelDtype::Bfloat16,
            None => kept,
        };
        let number_bytes = match dtype {
            ModelDtype::Bfloat16 => 2,
            // The CPU stores float16 as float32.
            ModelDtype::Float16 if !is_cpu => 2,
            _ => 4,
        };
        let needed = base.spec.parameters() as u64 * number_bytes;
        let Some(free) = device::free_memory_bytes(self.plan.device).filter(|free| *free < needed)
        else {
            return Ok(());
        };
        let message = format!(
            "to compare, a merged model of {} has to be in memory beside the trained one, and {} \
            are free",
            mebibytes(needed),
            mebibytes(free)
        );
        let hint = "`--uncompared` merges into the base as it is, without the comparison; `--dtype \
            bf16` takes half of `f32`";
        Err(Failure::new(Exit::Memory, Fault::new(message).hint(hint)))
    }

    /// Returns the type for loading. The CPU computes in the same numbers for any storage.
    fn dtype(&self) -> ModelDtype {
        if self.plan.device == Device::Cpu {
            ModelDtype::Auto
        } else {
            self.plan.storage.dtype
        }
    }

    fn compare(
        &self,
        folder: &Path,
        into: &str,
        interrupt: &AtomicBool,
        report: Reporter,
    ) -> Result<Comparison, Failure> {
        if interrupt.load(Relaxed) {
            return Err(MergeError::Interrupted.into());
        }
        // A GGUF file is described in the temporary folder, which goes with it.
        let described = match gguf_file(folder) {
            Some(file) => base_folder_in(&file, folder.parent().unwrap_or(folder))?,
            None => folder.to_owned(),
        };
        let merged =
            Folder::open(&described)?.load(self.dtype(), &self.trained.device(), report)?;
        let what = format!("the merge into the {into}");
        let each = self
            .sheets
            .iter()
            .map(|sheet| sheet.compare([&self.trained, &merged], &what, interrupt, report));
        let all = each
            .collect::<Option<Vec<Comparison>>>()
            .ok_or_else(|| Failure::from(MergeError::Interrupted))?;
        Ok(all.into_iter().fold(Comparison::default(), Comparison::and))
    }

    fn report(&self, candidates: &[Candidate], chosen: &Candidate, is_close: bool) -> Value {
        let candidate = |candidate: &Candidate| {
            json!({
                "into": candidate.into,
                "loss": candidate.comparison.scores[1].loss(),
                "kl": candidate.comparison.divergence(),
                "top1_agreement": candidate.comparison.agreement(),
            })
        };
        let storage = self.plan.storage;
        let sets = self.sheets.iter().flat_map(|sheet| &sheet.sets);
        let sets = sets.map(|set| {
            json!({
                "name": set.name,
                "rows": set.rows,
                "rows_trained_on": set.trained_rows,
            })
        });
        json!({
            "rankine": env!("CARGO_PKG_VERSION"),
            "base": self.plan.pinned_base_name(),
            "trained_on": storage.form.map(|form| form.to_string()),
            "sets": sets.collect::<Vec<_>>(),
            "trained_tokens": chosen.comparison.tokens(),
            "trained": {"loss": chosen.comparison.scores[0].loss()},
            "merges": candidates.iter().map(candidate).collect::<Vec<_>>(),
            "chosen": chosen.into,
            "max_kl": self.max_kl,
            "accepted": is_close,
        })
    }
}

/// Name of the only possible target if the base is stored quantized.
const UNPACKED: &str = "dequantized base";
