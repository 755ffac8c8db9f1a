//! Builds the parts of a plan other than its rows: the model and the training config.

use std::path::PathBuf;

use burn::tensor::Device;

use super::PlanError;
use super::adapter::Trains;
use super::peak::MemoryPlan;
use super::rates::Warmup;
use super::resolve::Plan;
use super::rows::RunData;
use super::tokens::Vocabulary;
use crate::adapter::{Extraction, LoraConfig, TablePart, Tables, attach, check_bases, peft};
use crate::data::template::Sources;
use crate::fault::Fault;
use crate::files::Float;
use crate::model::{CompanionFiles, Decoder, Folder, LinearSpec, Role, Storage};
use crate::report::Reporter;
use crate::train::{self, Checkpoint, Product, RunFolder, Schedule, StepConfig, StepSampler};

impl Plan {
    /// Loads the model to train from a checkpoint, from the adapter that the recipe continues from,
    /// or fresh, on the base as [`MemoryPlan::storage`] keeps it.
    ///
    /// # Errors
    /// A weight, the checkpoint, or the adapter to continue from does not fit.
    pub fn load_model(
        &self,
        storage: Storage,
        device: &Device,
        checkpoint: Option<&Checkpoint>,
        report: Reporter,
    ) -> Result<Decoder, PlanError> {
        match &self.trains {
            Trains::Adapter(config) => {
                self.load_adapter(config, (storage, device), checkpoint, report)
            }
            Trains::Everything => {
                let folder = checkpoint.map(|from| self.folder_of(from)).transpose()?;
                let mut decoder = folder
                    .as_ref()
                    .unwrap_or(&self.model)
                    .load(storage, device, report)?;
                if !decoder.has_whole_tables() {
                    let message =
                        "the embedding is larger than a tensor of the device, and `method: full` \
                        trains it as one"
                            .to_owned();
                    return Err(PlanError::Memory {
                        message,
                        hint: "train an adapter with `adapter.method: lora`".to_owned(),
                    });
                }
                decoder.train_everything();
                Ok(decoder)
            }
        }
    }

    /// Returns a folder with the weights of a checkpoint under the base's config, which the run's
    /// model gets.
    fn folder_of(&self, checkpoint: &Checkpoint) -> Result<Folder, PlanError> {
        let mut folder = Folder::open(&checkpoint.model())?;
        let (path, base) = (checkpoint.path().display(), self.base_folder.display());
        if let Some(message) = folder.spec.mismatch(
            &format!("`{path}`"),
            &self.model.spec,
            &format!("base `{base}`"),
        ) {
            let hint = "put back the base that the run was started on, or start over with \
                `--overwrite`";
            return Err(PlanError::Faults {
                faults: vec![Fault::new(message).hint(hint)],
            });
        }
        folder.spec.clone_from(&self.model.spec);
        Ok(folder)
    }

    fn load_adapter(
        &self,
        config: &LoraConfig,
        (storage, device): (Storage, &Device),
        checkpoint: Option<&Checkpoint>,
        report: Reporter,
    ) -> Result<Decoder, PlanError> {
        let modules = self.model.spec.modules();
        let numbers = match (checkpoint, &self.init_from) {
            (Some(checkpoint), _) => Some(checkpoint.numbers(&config.saved(), &modules)?),
            (None, Some(folder)) => {
                // A head that the adapter lacks begins afresh.
                let score = peft::read_config_on(folder, &modules)?.score;
                let config = &LoraConfig {
                    score,
                    ..config.clone()
                };
                Some(peft::read_numbers(folder, config, &modules)?)
            }
            (None, None) => None,
        };
        if config.is_principal {
            let mut extraction = Extraction::new(config, &modules, numbers)?;
            let mut decoder = self
                .model
                .load_changed(storage, device, &mut extraction, report)?;
            attach(
                &mut decoder,
                config,
                self.training.seed,
                Some(&extraction.into_numbers()),
            )?;
            return Ok(decoder);
        }
        let mut decoder = self.model.load(storage, device, report)?;
        // What is saved has no table of the base.
        numbers
            .as_ref()
            .map_or(Ok(()), |numbers| check_bases(&decoder, numbers))?;
        attach(&mut decoder, config, self.training.seed, numbers.as_ref())?;
        Ok(decoder)
    }

    /// Returns whether adapters start as parts of the base's weights, which are put back when they
    /// are saved.
    pub fn takes_parts_out(&self) -> bool {
        matches!(&self.trains, Trains::Adapter(config) if config.is_principal)
    }

    /// Returns the storage of the base that fits the saved product. If parts of the base were taken
    /// out, only the rest was quantized.
    pub fn storage_of_product(&self) -> Storage {
        if self.takes_parts_out() {
            Storage {
                form: None,
                packs_head: false,
                ..self.storage
            }
        } else {
            self.storage
        }
    }

    /// Returns the product of a run of this plan.
    ///
    /// # Errors
    /// The files that accompany the base's weights cannot be read.
    pub fn product(&self) -> Result<Product, PlanError> {
        Ok(match &self.trains {
            Trains::Adapter(config) => {
                let beside = self
                    .vocabulary
                    .as_ref()
                    .map(|vocabulary| vocabulary.contents(self.own_templates()));
                Product::Adapter {
                    config: config.clone(),
                    base: self.pinned_base_name(),
                    beside: beside
                        .into_iter()
                        .flatten()
                        .chain(self.embedder_files()?)
                        .collect(),
                }
            }
            Trains::Everything => Product::Model {
                beside: [self.beside()?, self.embedder_files()?].concat(),
            },
        })
    }

    /// Returns the least disk space that a run needs, in bytes: its product and one checkpoint.
    ///
    /// # Errors
    /// The base's folder cannot be read.
    pub fn needed_bytes(&self) -> Result<u64, PlanError> {
        let beside = match &self.trains {
            Trains::Everything => CompanionFiles::of(&self.base_folder)?.bytes(),
            // What they started as is saved with them.
            Trains::Adapter(_) if self.takes_parts_out() => 4 * self.trainable_parameters as u64,
            Trains::Adapter(_) => 0,
        };
        let averaged = if self.training.optimizer.rule.averages() {
            4 * self.trainable_parameters as u64
        } else {
            0
        };
        let tokenizer = self.vocabulary.as_ref().map_or(0, Vocabulary::bytes);
        let embedder = self.embedder_files()?;
        let embedder: u64 = embedder.iter().map(|(_, file)| file.len() as u64).sum();
        Ok(RunFolder::needed_bytes(self.trainable_parameters)
            + averaged
            + 2 * (beside + tokenizer + embedder))
    }

    /// Returns the files that accompany the weights of the trained model. Its chat template is the
    /// one it is trained with.
    fn beside(&self) -> Result<Vec<(PathBuf, Vec<u8>)>, PlanError> {
        let rows = self.model.spec.vocabulary;
        let own = self
            .vocabulary
            .as_ref()
            .map(|vocabulary| vocabulary.of_model(rows, self.own_templates()));
        let mut beside = CompanionFiles::of(&self.base_folder)?.read(Float::F32, own.as_ref())?;
        if let Some(sources) = &self.own_sources {
            beside.retain(|(name, _)| !CompanionFiles::is_template(name));
            beside.extend(
                sources
                    .files()
                    .into_iter()
                    .map(|(name, source)| (name, source.into_bytes())),
            );
        }
        Ok(beside)
    }

    /// Returns the files of the chat template that the recipe names in place of the base's.
    fn own_templates(&self) -> Option<Vec<(PathBuf, String)>> {
        self.own_sources.as_ref().map(Sources::files)
    }

    /// Returns the chat template that the recipe names in place of the base's, or the base's with
    /// the variables that the recipe sets.
    pub fn own_template(&self) -> Option<String> {
        self.own_sources
            .as_ref()
            .map(Sources::default_with_variables)
    }

    /// Returns how many rows of logits exist at a time.
    pub(super) fn head_chunk_rows(&self) -> usize {
        train::head_chunk_rows(self.model.spec.vocabulary)
    }

    /// Returns the training config for these rows, and the memory that a run with it needs.
    pub fn prepare(&self, data: &RunData) -> (train::TrainConfig, MemoryPlan) {
        let mut config = self.config(data);
        let memory = self.memory(data, &config);
        config.step.memory = memory.chosen;
        (config, memory)
    }

    /// Returns the training config in which no block is recomputed.
    fn config(&self, data: &RunData) -> train::TrainConfig {
        let of = &self.training;
        let mut config = train::TrainConfig {
            micro_batch_size: of.micro_batch_size,
            packing: of.packing,
            gradient_accumulation_steps: of.gradient_accumulation_steps,
            schedule: Schedule {
                peak: of.learning_rate,
                course: of.course,
                warmup_steps: 0,
                total_steps: 0,
            },
            optimizer: of.optimizer,
            max_grad_norm: of.max_grad_norm,
            objective: self.aim.objective.clone(),
            first_loss: self.first_loss(),
            step: StepConfig {
                memory: train::Memory::KEEP,
                head_chunk_rows: self.head_chunk_rows(),
                dropout: self.trains.dropout(),
            },
            on_nonfinite: of.on_nonfinite,
            seed: of.seed,
            shuffle: of.shuffle,
            eval_steps: of.eval_steps as u64,
            early_stopping_patience: of.early_stopping_patience as u64,
            save_steps: of.save_steps as u64,
            save_total_limit: of.save_total_limit,
        };
        let epochs = || StepSampler::new(&config, &data.training()).steps(of.num_epochs as u64);
        config.schedule.total_steps = of.max_steps.map_or_else(epochs, |steps| steps as u64);
        config.schedule.warmup_steps = match of.warmup {
            Warmup::Steps(steps) => steps as u64,
            Warmup::Ratio(ratio) => (config.schedule.total_steps as f64 * ratio).ceil() as u64,
        };
        config
    }

    fn trains_whole_head(&self) -> bool {
        let is_head = |module: &LinearSpec| matches!(module.role, Role::Head | Role::TiedHead);
        match &self.trains {
            Trains::Adapter(config) => {
                let targets = config
                    .table_targets(&self.model.spec.modules())
                    .unwrap_or_default();
                targets
                    .iter()
                    .any(|target| target.part == TablePart::Whole && is_head(&target.module))
            }
            Trains::Everything => true,
        }
    }

    /// Returns the floating-point operations of the whole run: 4 per frozen parameter and token, 6
    /// per trained one, the forward again for recomputed blocks, and the products of attention.
    pub fn training_flops(&self, data: &RunData, config: &train::TrainConfig) -> f64 {
        let spec = &self.model.spec;
        let (tokens, labeled) = data.training_tokens();
        let rows = data.training().per_epoch() as f64;
        let epochs = config.schedule.total_steps as f64
            / StepSampler::new(config, &data.training()).steps_of(0) as f64;
        let mean_length = tokens as f64 / rows;
        let of_layers = spec
            .layers
            .iter()
            .map(|layer| layer.mixer.flops(mean_length));
        let [attention, attention_back] = of_layers
            .fold([0.0; 2], |[sum, back], [more, of_back]| {
                [sum + more, back + of_back]
            });
        let linear = spec.computed_parameters();
        let (beside, trained) = match &self.trains {
            Trains::Adapter(config) => {
                // Where nothing is chosen but tables, there is nothing.
                let matrices = LoraConfig {
                    tables: Tables::NONE,
                    ..config.clone()
                }
                .parameters(&spec.projections())
                .unwrap_or(0);
                (matrices, matrices)
            }
            Trains::Everything => (0, linear),
        };
        let forward = 2.0 * (linear + beside) as f64 + attention;
        let again = forward * config.step.memory.recomputed.min(spec.layers.len()) as f64
            / spec.layers.len() as f64;
        let backward = 2.0 * (linear + beside + trained) as f64 + attention_back;
        let of_head = if self.trains_whole_head() { 6.0 } else { 4.0 };
        let head = of_head * (spec.vocabulary * spec.width) as f64;
        epochs * (tokens as f64 * (forward + again + backward) + labeled as f64 * head)
    }
}
