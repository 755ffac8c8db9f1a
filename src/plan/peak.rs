//! The memory plan: it applies the closed form to the plan's rows, decides how many blocks are
//! recomputed, and refuses a run that does not fit.

use super::PlanError;
use super::adapter::Trains;
use super::allowed::Allowed;
use super::memory::{
    Largest, Load, MemoryParts, MemoryPlace, MicroBatchRows, Phase, Purpose, TeacherLoad, Trained,
    fewest_recomputed,
};
use super::resolve::Plan;
use super::rows::RunData;
use crate::device;
use crate::model::Storage;
use crate::report::mebibytes;
use crate::terms::{Checkpointing, Device, Offload};
use crate::train::{self, Memory, Rule};

/// Memory that a run needs, and memory that it may use.
#[derive(Debug, Clone)]
pub struct MemoryPlan {
    /// The parameters of the estimate.
    pub load: Load,
    /// How many blocks are recomputed.
    pub chosen: Memory,
    /// The parts of the memory needed.
    pub parts: MemoryParts,
    /// The rank that a change of the recipe could lower; `None` if the recipe does not set one rank
    /// for all.
    rank: Option<usize>,
    /// The memory that the run may use; `None` if neither the system nor the recipe gives a limit.
    pub allowed: Option<Allowed>,
    /// The device.
    device: Device,
    /// The largest tensor that the device accepts; `None` if memory is the only limit.
    largest_tensor_bytes: Option<u64>,
    /// The peak with the embedding on the GPU, if `auto` leaves it in CPU memory.
    without_offload_bytes: Option<u64>,
}

impl MemoryPlan {
    fn new(
        load: Load,
        checkpointing: Checkpointing,
        rank: Option<usize>,
        allowed: Option<Allowed>,
        device: Device,
    ) -> Self {
        let chosen = choose(&load, checkpointing, allowed);
        let limits = device::find(device).and_then(|found| found.limits);
        let largest_tensor_bytes = limits.map(|limits| limits.max_buffer_bytes);
        let parts = load.parts(chosen);
        Self {
            parts,
            chosen,
            rank,
            allowed,
            device,
            largest_tensor_bytes,
            without_offload_bytes: None,
            load,
        }
    }

    /// Moves the embedding to CPU memory if the run does not fit otherwise. Training gives the same
    /// bytes, a little slower.
    fn with_room(self, checkpointing: Checkpointing, offload: Offload) -> Self {
        if offload != Offload::Auto || self.fits() || !self.load.may_offload() {
            return self;
        }
        let without_offload_bytes = Some(self.parts.peak_bytes());
        let offloaded = Self::new(
            self.load.offloaded(),
            checkpointing,
            self.rank,
            self.allowed,
            self.device,
        );
        Self {
            without_offload_bytes,
            ..offloaded
        }
    }

    /// Returns how the base is stored.
    pub fn storage(&self) -> Storage {
        self.load.storage
    }

    /// Returns why `auto` leaves the embedding in CPU memory, if it does.
    pub fn offload_reason(&self) -> Option<String> {
        let (bytes, allowed) = self.without_offload_bytes.zip(self.allowed)?;
        Some(format!(
            "in the processor's memory (`adapter.offload_embedding: auto`), to the same result: \
            with it on the GPU the run needs {}, {} are allowed",
            mebibytes(bytes),
            allowed.describe()
        ))
    }

    /// Recomputes as few blocks as fit; unchanged if nothing fits, or if the current choice fits.
    /// Recomputed blocks give the same bits, so a run may continue with another number of them than
    /// it started with.
    #[must_use]
    pub fn relieved(self) -> Self {
        let fewest = || {
            self.allowed
                .and_then(|allowed| fewest_recomputed(&self.load, allowed.bytes))
        };
        match if self.fits() { None } else { fewest() } {
            Some(recomputed) => Self::new(
                self.load,
                Checkpointing::Lowest(recomputed),
                self.rank,
                self.allowed,
                self.device,
            ),
            None => self,
        }
    }

    /// Returns whether the run stays within its limit.
    pub fn fits(&self) -> bool {
        self.allowed
            .is_none_or(|allowed| self.parts.peak_bytes() <= allowed.bytes)
    }

    /// Returns the parts with their names in words: first what is held all the time, then what each
    /// phase needs on top.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (parts, blocks) = (&self.parts, self.load.spec.layers.len());
        let allowed = self
            .allowed
            .map_or_else(|| "an unknown amount".to_owned(), Allowed::describe);
        let step = parts.step;
        let working = step.recomputed_bytes + step.block_bytes + step.head_bytes;
        let held = [
            (
                if matches!(self.load.place, MemoryPlace::Gpu { .. }) {
                    "  pools"
                } else {
                    "  process"
                },
                parts.process_bytes,
            ),
            ("  frozen weights", parts.base_bytes),
            ("  trained weights", parts.trained_bytes),
        ];
        let of_step = format!(
            "{}: gradients {}, kept activations {}, work {}",
            mebibytes(step.bytes()),
            mebibytes(step.gradients_bytes),
            mebibytes(step.kept_bytes),
            mebibytes(working)
        );
        let phase = |(phase, bytes): (Phase, u64)| match phase {
            Phase::Loading => ("  + loading", mebibytes(bytes)),
            Phase::Evaluation => ("  + evaluation", mebibytes(bytes)),
            Phase::Step => ("  + step", of_step.clone()),
            Phase::Update => ("  + update", mebibytes(bytes)),
            Phase::Saving => ("  + saving", mebibytes(bytes)),
        };
        let summary = [
            (
                "peak memory",
                format!(
                    "{} of {allowed}, while {}",
                    mebibytes(parts.peak_bytes()),
                    doing(parts.highest())
                ),
            ),
            (
                "recomputed blocks",
                format!("{} of {blocks}", self.chosen.recomputed),
            ),
        ];
        let state = mebibytes(parts.moments_bytes);
        let state = match self.load.rule {
            Rule::AdamW => state,
            _ => format!(
                "{state} (`training.optimizer`; {} with `adamw`)",
                mebibytes(self.load.adamw_bytes())
            ),
        };
        let teacher = Some(parts.teacher_bytes).filter(|bytes| *bytes > 0);
        let held = held
            .into_iter()
            .chain(teacher.map(|bytes| ("  teacher", bytes)))
            .map(|(name, bytes)| (name, mebibytes(bytes)))
            .chain([("  optimizer state", state)]);
        let embedding = self.offload_reason().map(|reason| ("embedding", reason));
        summary
            .into_iter()
            .chain(embedding)
            .chain(held)
            .chain(parts.phases().map(phase))
            .collect()
    }

    /// Refuses a run that would need more memory than it may use.
    ///
    /// # Errors
    /// The run needs too much. The error has both sides and the smallest change of the recipe that
    /// fits.
    pub fn check(&self) -> Result<(), PlanError> {
        self.check_largest()?;
        let Some(allowed) = self.allowed.filter(|_| !self.fits()) else {
            return Ok(());
        };
        let parts = &self.parts;
        let message = format!(
            "the run needs {} of memory at its peak, {} are allowed: {} frozen weights, {} trained \
            weights and optimizer state, {} while {}, {} process",
            mebibytes(parts.peak_bytes()),
            allowed.describe(),
            mebibytes(parts.base_bytes),
            mebibytes(parts.trained_bytes + parts.moments_bytes),
            mebibytes(parts.peak_bytes() - parts.held_bytes()),
            doing(parts.highest()),
            mebibytes(parts.process_bytes),
        );
        let message = if self.without_offload_bytes.is_some() {
            format!(
                "{message}; the embedding is in the processor's memory already \
                (`adapter.offload_embedding: auto`)"
            )
        } else {
            message
        };
        Err(PlanError::Memory {
            message,
            hint: self.hint(allowed),
        })
    }

    /// Refuses a run with a tensor that is too large for the device.
    fn check_largest(&self) -> Result<(), PlanError> {
        let (bytes, of) = self.load.largest_tensor();
        let Some(largest) = self.largest_tensor_bytes.filter(|largest| bytes > *largest) else {
            return Ok(());
        };
        let message = format!(
            "the run has a tensor of {}, `{}` takes tensors up to {}",
            mebibytes(bytes),
            self.device,
            mebibytes(largest)
        );
        let hint = match (of, self.load.is_full()) {
            (Largest::Tokens, _) => {
                "lower `training.micro_batch_size` and raise `gradient_accumulation_steps`, or \
                lower `training.sequence_len`"
            }
            (Largest::Trained, false) => "lower `adapter.r`, or train on another device",
            (Largest::Trained, true) => {
                "train an adapter with `adapter.method: lora`, or train on another device"
            }
            (Largest::Base, _) => "train on another device",
        };
        Err(PlanError::Memory {
            message,
            hint: hint.to_owned(),
        })
    }

    /// Returns the smallest change of the recipe that needs less than what ran out: what the device
    /// held at that time, if that is known.
    pub fn smaller(&self, held_bytes: Option<u64>) -> String {
        let less = self.parts.peak_bytes() - 1;
        self.hint(Allowed {
            bytes: held_bytes.map_or(less, |held| held.min(less)),
            is_said: true,
        })
    }

    /// Returns the smallest change of the recipe, as overrides, with which the run stays within its
    /// limit; `None` if it already does, or no such change is known.
    pub fn change(&self) -> Option<Vec<String>> {
        let allowed = self.allowed.filter(|_| !self.fits())?;
        let all = "training.gradient_checkpointing=true".to_owned();
        if self.load.least_peak_bytes() <= allowed.bytes {
            return Some(vec![all]);
        }
        let recomputes = self.chosen.recomputed == self.load.spec.layers.len();
        let change = self.load.smallest_change(self.rank, allowed.bytes)?;
        Some(
            if recomputes { None } else { Some(all) }
                .into_iter()
                .chain(change.overrides)
                .collect(),
        )
    }

    fn hint(&self, allowed: Allowed) -> String {
        let fits =
            |change: &str, peak_bytes: u64| format!("`{change}` needs {}", mebibytes(peak_bytes));
        let least_bytes = self.load.least_peak_bytes();
        if least_bytes <= allowed.bytes {
            return fits("training.gradient_checkpointing=true", least_bytes);
        }
        let change = self.changed_to(allowed, fits);
        self.of_head()
            .map_or_else(|| change.clone(), |of_head| format!("{change}; {of_head}"))
    }

    /// Describes what a quantized head would save. It changes the head's weights, so it is never
    /// done without being asked for.
    fn of_head(&self) -> Option<String> {
        let quantized = self.load.with_quantized_head()?;
        let (before, after) = (self.load.least_peak_bytes(), quantized.least_peak_bytes());
        let saved = before.checked_sub(after).filter(|saved| *saved > 0)?;
        Some(format!(
            "or `adapter.quantize_head=true`, which rounds the head's numbers too: it saves {} and \
            needs {}",
            mebibytes(saved),
            mebibytes(after)
        ))
    }

    fn changed_to(&self, allowed: Allowed, fits: impl Fn(&str, u64) -> String) -> String {
        match self.load.smallest_change(self.rank, allowed.bytes) {
            Some(change) => {
                let recomputes = self.chosen.recomputed == self.load.spec.layers.len();
                let first = if recomputes {
                    None
                } else {
                    Some("training.gradient_checkpointing=true".to_owned())
                };
                fits(
                    &first
                        .into_iter()
                        .chain(change.overrides)
                        .collect::<Vec<_>>()
                        .join(" "),
                    change.peak_bytes,
                )
            }
            None => {
                "choose a smaller base, free memory, or train where there is more of it".to_owned()
            }
        }
    }
}

/// Returns how many blocks are recomputed.
fn choose(load: &Load, checkpointing: Checkpointing, allowed: Option<Allowed>) -> Memory {
    let blocks = load.spec.layers.len();
    let recomputed = match checkpointing {
        Checkpointing::All => blocks,
        Checkpointing::None => 0,
        Checkpointing::Lowest(lowest) => lowest.min(blocks),
        Checkpointing::Auto => allowed
            .and_then(|allowed| fewest_recomputed(load, allowed.bytes))
            .unwrap_or(blocks),
    };
    Memory { recomputed }
}

/// Names a phase within a sentence.
fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Loading => "the base is read",
        Phase::Evaluation => "rows are scored",
        Phase::Step => "a step is taken",
        Phase::Update => "weights are updated",
        Phase::Saving => "a checkpoint is written",
    }
}

impl Plan {
    /// Returns the memory that a run over these rows needs. All of its micro-batches are
    /// considered.
    pub(super) fn memory(&self, data: &RunData, config: &train::TrainConfig) -> MemoryPlan {
        self.memory_of(self.load(data, config))
    }

    fn memory_of(&self, load: Load) -> MemoryPlan {
        let rank = match &self.trains {
            Trains::Adapter(config)
                if self.init_from.is_none() && config.rank_pattern.is_empty() =>
            {
                Some(config.rank)
            }
            _ => None,
        };
        let checkpointing = self.training.checkpointing;
        MemoryPlan::new(load, checkpointing, rank, self.allowed, self.device)
            .with_room(checkpointing, self.offload)
    }

    /// Returns the least memory that a run needs, whatever its rows are.
    pub fn least_memory(&self) -> MemoryPlan {
        self.memory_of(self.load_of(MicroBatchRows::dense(1, 2), None))
    }

    /// Returns the memory that a run needs if each row is as long as `training.sequence_len`
    /// allows.
    pub fn memory_of_full_rows(&self) -> MemoryPlan {
        self.memory_of(self.load_of(
            MicroBatchRows::dense(self.training.micro_batch_size, self.limits.sequence_len),
            None,
        ))
    }

    fn load(&self, data: &RunData, config: &train::TrainConfig) -> Load {
        let rows = data
            .largest_trained(config)
            .unwrap_or(MicroBatchRows::dense(self.training.micro_batch_size, 2));
        self.load_of(
            rows,
            data.largest_scored(config.micro_batch_size, config.packing),
        )
    }

    fn load_of(&self, rows: MicroBatchRows, evaluation: Option<MicroBatchRows>) -> Load {
        let spec = self.model.spec.clone();
        let trained = match &self.trains {
            Trains::Adapter(config) => {
                Trained::adapter(config, &spec).expect("the plan counted its parameters")
            }
            Trains::Everything => Trained::everything(&spec),
        };
        let dropout = self.trains.dropout();
        let accumulated = self.training.gradient_accumulation_steps;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let place = MemoryPlace::of(
            self.device,
            if self.threads == 0 {
                cores()
            } else {
                self.threads
            },
        );
        let (rule, purpose) = (self.training.optimizer.rule, Purpose::Run);
        let teacher = self.teacher_model().map(|teacher| {
            let spec = teacher.model.spec.clone();
            Box::new(TeacherLoad {
                load: Load {
                    storage: teacher.storage(self.device),
                    trained: Trained::nothing(&spec),
                    spec,
                    rule,
                    dropout: 0.0,
                    noise: false,
                    rows,
                    accumulated: 1,
                    evaluation,
                    purpose,
                    place,
                    teacher: None,
                },
                is_gone: teacher.cached.is_some(),
            })
        });
        Load {
            spec,
            storage: self.storage,
            trained,
            rule,
            dropout,
            noise: self.aim.objective.noise_alpha() > 0.0,
            rows,
            accumulated,
            evaluation,
            purpose,
            place,
            teacher,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{LoraConfig, Tables};
    use crate::model::{DecoderSpec, GatedSpec, GroupedSpec, LayerSpec};
    use crate::nn::rope::{RopeScaling, RopeSpec};
    use crate::quant::QuantFormat;
    use crate::terms::ModelDtype;

    #[test]
    fn a_run_that_goes_on_with_less_memory_recomputes_more() {
        let load = super::super::memory::tests::load(4, 2, MicroBatchRows::dense(4, 64));
        let plan = |allowed| {
            let allowed = Allowed {
                bytes: allowed,
                is_said: true,
            };
            MemoryPlan::new(
                load.clone(),
                Checkpointing::None,
                None,
                Some(allowed),
                Device::Cpu,
            )
        };
        let [kept, least] =
            [Memory::KEEP, Memory::RECOMPUTE].map(|memory| load.parts(memory).peak_bytes());
        assert_eq!(plan(kept).relieved().chosen, Memory::KEEP);
        let relieved = plan(kept - 1).relieved();
        assert!(
            relieved.fits() && relieved.chosen.recomputed > 0,
            "{relieved:?}"
        );
        assert_eq!(
            plan(least - 1).relieved().chosen,
            Memory::KEEP,
            "nothing helps"
        );
    }

    #[test]
    fn a_tensor_that_the_device_does_not_take_is_refused_with_what_makes_it_smaller() {
        let load = super::super::memory::tests::load(2, 2, MicroBatchRows::dense(64, 512));
        let (bytes, of) = load.largest_tensor();
        let gate_up = 64 * 512 * 2 * 6 * 4;
        let logits = 4096 * 10 * 4;
        assert_eq!((bytes, of), (gate_up, Largest::Tokens));
        let plan = |load: &Load, largest| MemoryPlan {
            largest_tensor_bytes: Some(largest),
            ..MemoryPlan::new(load.clone(), Checkpointing::None, None, None, Device::Cpu)
        };
        assert!(plan(&load, gate_up).check().is_ok());
        let said = |load: &Load, largest| match plan(load, largest).check() {
            Err(PlanError::Memory { message, hint }) => format!("{message}; {hint}"),
            other => panic!("{other:?}"),
        };
        let refused = said(&load, gate_up - 1);
        assert!(
            refused.contains("takes tensors up to 1.5 MiB; lower `training.micro_batch_size`"),
            "{refused}"
        );
        let short = load.with_rows(MicroBatchRows::dense(1, 2));
        assert_eq!(short.largest_tensor(), (logits, Largest::Base));
        assert!(said(&short, logits - 1).ends_with("; train on another device"));
    }

    /// Llama 3 8B: 32 blocks of width 4096, 32 heads on 8, feed-forward width 14336, 128256 tokens,
    /// untied head.
    fn eight_billion(rows: MicroBatchRows) -> Load {
        let rope = RopeSpec::new(128, 5e5, RopeScaling::Default);
        let layer = LayerSpec::new(GroupedSpec::new([32, 8, 128], rope), GatedSpec::new(14_336));
        let spec = DecoderSpec {
            tied_head: false,
            context: 8192,
            ..DecoderSpec::new(128_256, 4096, vec![layer; 32])
        };
        let trained = Trained::adapter(&LoraConfig::all_linear(16, 32.0), &spec)
            .expect("all projections are chosen");
        let place = MemoryPlace::Gpu {
            half: Some(ModelDtype::Bfloat16),
            is_shared: false,
        };
        let storage = Storage {
            form: Some(QuantFormat::QLORA),
            ..ModelDtype::Bfloat16.into()
        };
        let (rule, purpose) = (Rule::AdamW, Purpose::Run);
        Load {
            spec,
            storage,
            trained,
            rule,
            dropout: 0.0,
            noise: false,
            rows,
            accumulated: 1,
            evaluation: None,
            purpose,
            place,
            teacher: None,
        }
    }

    /// Returns the plan on a GPU with a limit of so many GB.
    fn on_gpu(load: Load, gigabytes: f64, offload: Offload) -> MemoryPlan {
        let allowed = Some(Allowed {
            bytes: (gigabytes * 1e9) as u64,
            is_said: true,
        });
        MemoryPlan::new(load, Checkpointing::Auto, Some(16), allowed, Device::Cpu)
            .with_room(Checkpointing::Auto, offload)
    }

    fn gigabytes(bytes: u64) -> f64 {
        (bytes as f64 / 1e8).round() / 10.0
    }

    fn refusal(plan: &MemoryPlan) -> String {
        match plan.check() {
            Err(PlanError::Memory { message, hint }) => format!("{message}; {hint}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_embedding_for_which_a_gpu_has_no_room_stays_in_the_processors_memory() {
        let load = eight_billion(MicroBatchRows::dense(1, 2048));
        // 24 and 10 GB have room for all of it.
        for room in [24.0, 10.0] {
            let plan = on_gpu(load.clone(), room, Offload::Auto);
            assert!(
                plan.fits()
                    && !plan.storage().offloads_embedding
                    && plan.offload_reason().is_none(),
                "{room}"
            );
        }
        let all = on_gpu(load.clone(), 0.0, Offload::Never);
        assert!((gigabytes(all.parts.peak_bytes()) - 8.9).abs() < 1e-9);
        // 8 GB have not.
        let plan = on_gpu(load.clone(), 8.0, Offload::Auto);
        assert!(plan.fits() && plan.storage().offloads_embedding);
        assert!((gigabytes(plan.load.least_peak_bytes()) - 7.7).abs() < 1e-9);
        let reason = plan.offload_reason().expect("it is told");
        let needed = mebibytes(all.parts.peak_bytes());
        for said in [
            "`adapter.offload_embedding: auto`",
            needed.as_str(),
            "7629 MiB (training.max_memory)",
            "the same result",
        ] {
            assert!(reason.contains(said), "{reason}");
        }
        assert!(
            plan.lines()
                .iter()
                .any(|(what, line)| *what == "embedding" && line.contains(&reason))
        );
        let never = on_gpu(load.clone(), 8.0, Offload::Never);
        assert!(!never.fits() && !never.storage().offloads_embedding);
        assert!(
            refusal(&never).contains("`adapter.offload_embedding=true` needs 7331 MiB"),
            "{}",
            refusal(&never)
        );
    }

    #[test]
    fn a_quantized_head_is_named_with_what_it_saves_and_never_chosen() {
        let plan = on_gpu(
            eight_billion(MicroBatchRows::dense(1, 2048)),
            7.2,
            Offload::Auto,
        );
        assert!(!plan.fits() && plan.storage().offloads_embedding && !plan.storage().packs_head);
        let refused = refusal(&plan);
        for said in [
            "needs 7331 MiB",
            "6866 MiB",
            "embedding is in the processor's memory already",
            "or `adapter.quantize_head=true`",
            "it saves 810 MiB and needs 6521 MiB",
        ] {
            assert!(refused.contains(said), "{said}: {refused}");
        }
        let mut load = plan.load.clone();
        load.storage.packs_head = true;
        assert!(on_gpu(load.clone(), 7.2, Offload::Auto).fits());
        assert!(
            !refusal(&on_gpu(load.clone(), 5.0, Offload::Auto)).contains("quantize_head"),
            "it is quantized"
        );
        load.storage = Storage {
            form: None,
            packs_head: false,
            ..load.storage
        };
        assert!(
            !refusal(&on_gpu(load, 5.0, Offload::Auto)).contains("quantize_head"),
            "nothing is quantized"
        );
    }

    #[test]
    fn nothing_is_moved_where_that_frees_nothing() {
        let load = eight_billion(MicroBatchRows::dense(1, 2048));
        let mut tied = load.clone();
        tied.spec.tied_head = true;
        let mut trained = load.clone();
        let config = LoraConfig {
            tables: Tables {
                saved: vec!["embed_tokens".to_owned()],
                ..Tables::NONE
            },
            ..LoraConfig::all_linear(16, 32.0)
        };
        trained.trained = Trained::adapter(&config, &load.spec).expect("both are chosen");
        let processor = Load {
            place: MemoryPlace::Processor { threads: 2 },
            ..load.clone()
        };
        let shared = Load {
            place: MemoryPlace::Gpu {
                half: Some(ModelDtype::Bfloat16),
                is_shared: true,
            },
            ..load.clone()
        };
        let full = Load {
            trained: Trained::everything(&load.spec),
            ..load
        };
        for (what, load) in [
            ("tied", tied),
            ("trained", trained),
            ("processor", processor),
            ("shared", shared),
            ("full", full),
        ] {
            let plan = on_gpu(load, 4.0, Offload::Auto);
            assert!(!plan.fits() && !plan.storage().offloads_embedding, "{what}");
        }
    }
}
