//! Notes for the user before a run. They do not stop it.

use super::adapter::Trains;
use super::resolve::Plan;
use super::teacher::Teacher;
use crate::adapter::peft;
use crate::data::{self, DataSource, Packing, TEACHER_COLUMNS};
use crate::export::consumers::portability;
use crate::hub::DatasetSnapshot;
use crate::report::mebibytes;
use crate::terms::{Format, ModelDtype, ObjectiveType};

/// Common names of a column with the factor of each row's loss.
const WEIGHTS: [&str; 4] = ["weight", "loss_weight", "sample_weight", "row_weight"];

impl Plan {
    /// Returns notes for the user before the run. They do not stop it.
    pub fn notes(&self) -> Vec<String> {
        let (length, context) = (self.limits.sequence_len, self.model.spec.context);
        let long =
            format!("training.sequence_len is {length}, the base was made for {context} tokens");
        let switch = self
            .model
            .spec
            .layers
            .iter()
            .filter_map(|layer| layer.mixer.rope()?.switches_at())
            .min();
        let is_packed = self.training.packing != Packing::Off;
        let is_shared = self.training.micro_batch_size > 1 || is_packed;
        let alone = if is_packed { " without packing" } else { "" };
        let switches = switch
            .filter(|switch| length > *switch && is_shared)
            .map(|switch| {
                format!(
                    "the base's RoPE changes for a micro-batch with a row of more than {switch} \
            tokens, so the loss of a row depends on the rows beside it, as in transformers; \
            `training.micro_batch_size: 1`{alone} avoids that"
                )
            });
        let left_out = self
            .model
            .in_training
            .iter()
            .filter(|_| self.untrained.is_empty());
        let left_out = left_out.map(|(key, share)| {
            format!("`{key}` {share} of the base is left out, as `training.base_dropout: 0` says")
        });
        let of_tokens = self
            .vocabulary
            .iter()
            .flat_map(|vocabulary| vocabulary.notes.clone());
        let of_store = self.stored.iter().flat_map(|stored| stored.notes.clone());
        let of_base = of_tokens
            .chain(of_store)
            .chain((length > context).then_some(long))
            .chain(switches)
            .chain(self.notes_of_base())
            .chain(left_out);
        let of_adapter = self.init_from.iter().flat_map(|folder| {
            let notes = peft::notes(folder, Some(&self.model.spec.modules())).unwrap_or_default();
            notes
                .into_iter()
                .map(move |note| format!("adapter.init_from `{}`: {note}", folder.display()))
        });
        let of_base = of_base
            .chain(of_adapter)
            .chain(self.unread_variables())
            .chain(self.notes_of_scores())
            .chain(self.notes_of_frames());
        let of_base = of_base
            .chain(self.untied())
            .chain(self.without_tf32())
            .chain(self.not_paged())
            .chain(portability(&self.facts()));
        of_base
            .chain(self.unread_columns())
            .chain(self.unread_files())
            .chain(self.notes_of_hub_data())
            .collect()
    }

    /// Returns notes on datasets, each given with its key and path in the recipe.
    fn notes_of_sources(
        &self,
        note: impl Fn((String, String), &DataSource) -> Option<String>,
    ) -> Vec<String> {
        let sources = self.sources.iter().chain(&self.validation_sources);
        sources
            .enumerate()
            .filter_map(|(index, source)| note(self.source_name(index), source))
            .collect()
    }

    /// Returns notes on columns of the data that are not read.
    fn unread_columns(&self) -> Vec<String> {
        self.notes_of_sources(|(key, path), source| {
            let columns = data::unread_columns(&source.files, source.format, &source.columns);
            let is_read = |column: &str| {
                matches!(self.aim.teacher, Some(Teacher::Data)) && TEACHER_COLUMNS.contains(&column)
            };
            let names: Vec<String> = columns
                .iter()
                .filter(|column| !is_read(column))
                .map(|column| format!("`{}`", data::visible(column)))
                .collect();
            let is_weighable = self.objective_type() == ObjectiveType::Sft
                && !source.columns.contains_key(Format::LOSS_WEIGHT);
            let weight = columns
                .iter()
                .find(|column| is_weighable && WEIGHTS.contains(&column.as_str()));
            let proposed = weight.map_or_else(String::new, |weight| {
                format!(
                    "; `columns: {{weight: {weight}}}` takes it as the factor of each row's loss"
                )
            });
            let text = || {
                format!(
                    "{key}: columns of `{path}` that format `{}` does not read: {}{proposed}",
                    source.format,
                    names.join(", ")
                )
            };
            (!names.is_empty()).then(text)
        })
    }

    /// Returns notes on files with rows in the folders of the data that are not read.
    fn unread_files(&self) -> Vec<String> {
        self.notes_of_sources(|(key, path), source| {
            let others = data::passed_over(&path, &source.files);
            let first = others.first()?.display();
            let count = others.len();
            Some(format!(
                "{key}: `{path}` has Parquet files, so its JSON, JSONL, CSV and TSV files are not \
                read ({count}, such as `{first}`); a dataset of its own reads them"
            ))
        })
    }

    /// Returns notes on where Hub data come from.
    fn notes_of_hub_data(&self) -> impl Iterator<Item = String> {
        let of = |(key, snapshot): (&String, &DatasetSnapshot)| {
            let notes = snapshot.notes().into_iter();
            notes
                .map(|note| format!("{key}: {note}"))
                .collect::<Vec<_>>()
        };
        self.hub_data.iter().flat_map(of)
    }

    /// Returns notes on variables of the recipe that no template reads.
    fn unread_variables(&self) -> impl Iterator<Item = String> {
        let sources = self.own_sources.iter();
        let unread = sources
            .flat_map(|sources| sources.variables.keys().filter(|name| !sources.reads(name)));
        unread
            .map(|name| format!("chat_template_kwargs.{name}: the chat template does not read it"))
    }

    /// Returns a note if TF32 is allowed and does not apply to the base's dtype.
    fn without_tf32(&self) -> Option<String> {
        let dtype = Some(self.storage.dtype)
            .filter(|dtype| self.training.allow_tf32 && *dtype != ModelDtype::Float32)?;
        Some(format!(
            "`training.allow_tf32` is for products of float32 operands, and this base computes in \
            `{dtype}`: next to nothing changes"
        ))
    }

    /// Returns a note if the recipe's optimizer is a paged one, which is not paged here.
    fn not_paged(&self) -> Option<String> {
        let word = self.training.optimizer_word;
        let resident = word.resident();
        (word != resident).then(|| {
            format!(
                "`training.optimizer: {word}` is `{resident}` here: the plan counts its \
                states, and none is moved to the processor's memory while a run goes on"
            )
        })
    }

    /// Returns notes on the base's files, whatever they are used for.
    pub fn notes_of_base(&self) -> Vec<String> {
        let leftover = self.model.leftover_quantization.as_deref();
        let of_tokenizer = self.encoder.tokenizer.notes(self.model.spec.vocabulary);
        leftover
            .map(leftover_note)
            .into_iter()
            .chain(of_tokenizer)
            .collect()
    }

    /// Returns a note if the base ties embedding and head, and they are trained apart, as PEFT
    /// does: the user should not first see it in a merged model.
    fn untied(&self) -> Option<String> {
        let spec = &self.model.spec;
        let Trains::Adapter(config) = &self.trains else {
            return None;
        };
        if !spec.tied_head || !config.unties(&spec.modules()) {
            return None;
        }
        let size = mebibytes(
            (spec.vocabulary * spec.width) as u64
                * if self.storage.dtype == ModelDtype::Float32 {
                    4
                } else {
                    2
                },
        );
        Some(format!(
            "the base has one table for its embedding and its head, and the adapter changes them \
            apart, as in PEFT: a merged model has both (`tie_word_embeddings: false`) and is \
            {size} larger"
        ))
    }
}

/// Returns a note on a `quantization_config` whose weights are not quantized.
pub fn leftover_note(method: &str) -> String {
    format!(
        "config.json has a `quantization_config` ({method}), and the weights are plain numbers: it \
        is a leftover, and is ignored"
    )
}
