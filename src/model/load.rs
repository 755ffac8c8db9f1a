//! Loads a Hugging Face folder into a [`Decoder`]. Names and shapes are checked strictly; memory
//! holds only a few megabytes in addition to the model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::Value;

use super::assemble::{WeightSource, assemble, score_shapes};
use super::changed::{Change, Changed};
use super::config::ConfigJson;
use super::decoder::Decoder;
use super::layout::Names;
use super::opened::Opened;
use super::resized::{NewRows, Resized};
use super::spec::DecoderSpec;
use super::weights::safetensors_paths;
use super::{ModelError, Storage, families};
use crate::device::{self, HalfPrecision};
use crate::files::safetensors::Archive;
use crate::quant::QuantFormat;
use crate::report::Reporter;

/// Key of config.json for the quantization of weights.
const QUANTIZATION: &str = "quantization_config";

/// The folder of a base model whose config.json has been read; its weights have not.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    /// The spec of the decoder.
    pub spec: DecoderSpec,
    /// Number of rows of the tables in the files. The tables may get other rows, or more.
    pub(super) stored_rows: usize,
    new_rows: Option<NewRows>,
    /// Keys that config.json does not name, with the defaults of transformers.
    pub filled: Vec<(String, Value)>,
    /// Dropout and noise above 0 that act in training only, by their keys in config.json.
    pub in_training: Vec<(String, f64)>,
    /// The method of config.json's `quantization_config` where the weights are plain numbers, as
    /// after a merge by a tool that left it there. transformers and vLLM would believe it.
    pub leftover_quantization: Option<String>,
    /// The first class of transformers that config.json names.
    pub class: Option<String>,
    /// Whether a head that scores is all that stands on the layers, so that no tokens are
    /// predicted.
    pub only_scores: bool,
}

/// Keys of config.json that determine the shapes of tensors.
const SIZES: [&str; 8] = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
];

impl Folder {
    /// Reads config.json.
    ///
    /// # Errors
    /// The folder or file is missing, or describes a model that is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let config = ConfigJson::open(path)?;
        let leftover_quantization = leftover_quantization(&config, path)?;
        // What is said of weights that are not there is no reason to refuse those that are.
        let config = if leftover_quantization.is_some() {
            config.without(QUANTIZATION)
        } else {
            config
        };
        let class = config
            .get("architectures")
            .and_then(|classes| classes.get(0));
        let class = class.and_then(Value::as_str).map(str::to_owned);
        let described = families::describe(config)?;
        let only_scores = only_scores(path, &described.spec);
        let tied_head = only_scores
            || described.spec.tied_head
                && !(described.is_tied_by_default() && has_own_head(path, &described.spec.names));
        let spec = DecoderSpec {
            tied_head,
            ..described.spec
        };
        Ok(Self {
            path: path.to_owned(),
            stored_rows: spec.vocabulary,
            new_rows: None,
            spec,
            filled: described.filled,
            in_training: described.in_training,
            leftover_quantization,
            class,
            only_scores,
        })
    }

    /// Returns the tensors of heads that score, with their shapes.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn stored_scores(&self) -> Result<BTreeMap<String, Vec<usize>>, ModelError> {
        Ok(score_shapes(self.weights()?.source(), &self.spec))
    }

    /// Whether config.json names a class with a head that scores texts or words.
    pub fn has_scoring_class(&self) -> bool {
        let ends = ["ForSequenceClassification", "ForTokenClassification"];
        let class = self.class.as_deref().unwrap_or_default();
        ends.iter().any(|end| class.ends_with(end))
    }

    /// Whether a tensor, by the model's name for it, stands beside the layers and is not read.
    pub fn is_beside(&self, name: &str) -> bool {
        self.spec.names.leaves_out(name) || self.spec.score_tensors().iter().any(|of| of == name)
    }

    /// Opens the weights. Where they do not fit, the error names the sizes that were filled in for
    /// keys that config.json does not name.
    pub(super) fn weights(&self) -> Result<Opened, ModelError> {
        Opened::open(&self.path, &self.stored_spec()).map_err(|error| match error {
            ModelError::Tensors { folder, mut faults } => {
                faults.splice(0..0, self.filled_sizes());
                ModelError::Tensors { folder, faults }
            }
            error => error,
        })
    }

    /// Returns the spec of the stored decoder.
    pub(super) fn stored_spec(&self) -> DecoderSpec {
        DecoderSpec {
            vocabulary: self.stored_rows,
            ..self.spec.clone()
        }
    }

    /// Whether embedding and head have more rows than the files.
    pub fn is_resized(&self) -> bool {
        self.spec.vocabulary > self.stored_rows
    }

    /// Replaces rows of embedding and head, and adds more.
    pub fn resize(&mut self, rows: NewRows) {
        self.spec.vocabulary = self.spec.vocabulary.max(rows.vocabulary);
        self.new_rows = Some(rows);
    }

    /// Describes the sizes that config.json does not name.
    fn filled_sizes(&self) -> Option<String> {
        let sizes = self
            .filled
            .iter()
            .filter(|(key, _)| SIZES.contains(&key.as_str()));
        let sizes: Vec<_> = sizes
            .map(|(key, value)| format!("`{key}` (default {value})"))
            .collect();
        (!sizes.is_empty()).then(|| {
            format!(
                "config.json does not set {}: the defaults of transformers are used",
                sizes.join(", ")
            )
        })
    }

    /// Checks names, shapes and sizes of the weights by the headers of their files.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), or a file is
    /// damaged.
    pub fn check_weights(&self) -> Result<(), ModelError> {
        self.weights().map(drop)
    }

    /// Loads the weights in the format that is asked for; `auto` changes no number. On a GPU `auto`
    /// is f32, and [`Folder::kept_in`] tells the format of a run there. Packed weights stay packed.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), a number does
    /// not fit into the dtype, or a file is damaged.
    pub fn load(
        &self,
        storage: impl Into<Storage>,
        device: &Device,
        report: Reporter,
    ) -> Result<Decoder, ModelError> {
        let weights = self.weights()?;
        let halves = if device::is_cpu(device) {
            HalfPrecision::Widened
        } else {
            HalfPrecision::Computed(None)
        };
        let storage = weights.kept_in(storage.into(), &self.stored_spec(), halves)?;
        self.with_rows(&weights, storage, |source| {
            assemble(source, self.spec.clone(), storage, device, report)
        })
    }

    /// Returns the weights as they are, or with new rows of the tables.
    fn with_rows(
        &self,
        weights: &Opened,
        storage: Storage,
        make: impl FnOnce(&dyn WeightSource) -> Result<Decoder, ModelError>,
    ) -> Result<Decoder, ModelError> {
        let Some(rows) = &self.new_rows else {
            return make(weights.source());
        };
        if storage.packs_head {
            let message =
                "the head is packed, and a packed table takes no rows of new tokens".to_owned();
            let hint = Some(
                "use a base whose head is not packed, and leave out `quantize_head`".to_owned(),
            );
            return Err(ModelError::Config {
                path: self.path.clone(),
                message,
                hint,
            });
        }
        let tables = [self.spec.names.embedding(), self.spec.names.head()];
        make(&Resized::new(
            weights.source(),
            rows,
            self.stored_rows,
            tables,
        ))
    }

    /// Does the same as [`Folder::load`], but changes projections before they are kept or packed.
    /// Projections that are packed in the folder are not changed.
    ///
    /// # Errors
    /// As of [`Folder::load`].
    pub fn load_changed(
        &self,
        storage: impl Into<Storage>,
        device: &Device,
        change: &mut dyn Change,
        report: Reporter,
    ) -> Result<Decoder, ModelError> {
        let weights = self.weights()?;
        let halves = if device::is_cpu(device) {
            HalfPrecision::Widened
        } else {
            HalfPrecision::Computed(None)
        };
        let storage = weights.kept_in(storage.into(), &self.stored_spec(), halves)?;
        self.with_rows(&weights, storage, |source| {
            let changed = Changed {
                source,
                linears: self.spec.projections(),
                change: RefCell::new(change),
            };
            assemble(&changed, self.spec.clone(), storage, device, report)
        })
    }

    /// Returns the format of projections that are packed in the files; `None` where they are not.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn stored_form(&self) -> Result<Option<QuantFormat>, ModelError> {
        Ok(self.weights()?.form(&self.spec))
    }

    /// Whether the files have any projections, or stacks of them, in another form than plain
    /// numbers in safetensors.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn is_packed(&self) -> Result<bool, ModelError> {
        Ok(self.weights()?.is_packed(&self.spec))
    }

    /// Returns the format in which [`Folder::load`] keeps weights on a device, given what is asked
    /// for. It never is `auto`, and it is packed where the folder has packed weights.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn kept_in(
        &self,
        storage: impl Into<Storage>,
        halves: HalfPrecision,
    ) -> Result<Storage, ModelError> {
        self.weights()?
            .kept_in(storage.into(), &self.stored_spec(), halves)
    }
}

/// Returns [`Folder::leftover_quantization`]. Without a method, bitsandbytes is recognized by its
/// keys, as in transformers.
fn leftover_quantization(config: &ConfigJson, path: &Path) -> Result<Option<String>, ModelError> {
    let of_text = || {
        Ok::<_, ModelError>(
            config
                .section("text_config")?
                .map(|text| text.section(QUANTIZATION))
                .transpose()?
                .flatten(),
        )
    };
    let Some(stored) = config
        .section(QUANTIZATION)?
        .map_or_else(of_text, |stored| Ok(Some(stored)))?
    else {
        return Ok(None);
    };
    if !holds_numbers(path) {
        return Ok(None);
    }
    let is_bitsandbytes = stored.names("load_in_4bit") || stored.names("load_in_8bit");
    let unnamed = if is_bitsandbytes {
        "bitsandbytes"
    } else {
        "without a `quant_method`"
    };
    Ok(Some(
        stored.text("quant_method")?.unwrap_or(unnamed).to_owned(),
    ))
}

/// Last names of the parts of packed tensors: GPTQ and AWQ, compressed-tensors, FP8, bitsandbytes,
/// MXFP4.
const PACKED_PARTS: [&str; 9] = [
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".absmax",
    ".SCB",
    "_blocks",
];

/// Whether the files can be read and none of their tensors is a part of a packed one.
fn holds_numbers(path: &Path) -> bool {
    let names = |path: &PathBuf| {
        Ok(Archive::open(path)?
            .shapes()
            .into_keys()
            .collect::<Vec<_>>())
    };
    let names = safetensors_paths(path).and_then(|paths| {
        paths
            .iter()
            .map(names)
            .collect::<Result<Vec<_>, ModelError>>()
    });
    let names = names.unwrap_or_default().concat();
    !names.is_empty()
        && !names
            .iter()
            .any(|name| PACKED_PARTS.iter().any(|part| name.ends_with(part)))
}

/// Whether the files of a model whose head is not the embedding have one that scores in its place.
/// Files that cannot be read give an error later, when the weights are opened.
fn only_scores(path: &Path, spec: &DecoderSpec) -> bool {
    let names = |path: &PathBuf| {
        let names = Archive::open(path)?.shapes().into_keys();
        let names = names.map(|stored| spec.names.canonical(&stored));
        Ok::<_, ModelError>(names.collect::<Vec<_>>())
    };
    let names = safetensors_paths(path).and_then(|paths| {
        paths
            .iter()
            .map(names)
            .collect::<Result<Vec<_>, ModelError>>()
    });
    let names = names.unwrap_or_default().concat();
    !spec.tied_head
        && !names.contains(&spec.names.head())
        && spec.score_tensors().iter().any(|name| names.contains(name))
}

/// Whether the files have a head that differs from the embedding. Where config.json does not say
/// that the two are tied, they then are not, as in transformers. Files that cannot be read give an
/// error later, when the weights are opened.
fn has_own_head(path: &Path, names: &Names) -> bool {
    let shards = safetensors_paths(path).and_then(|paths| {
        paths
            .iter()
            .map(|path| Ok(Archive::open(path)?))
            .collect::<Result<Vec<_>, ModelError>>()
    });
    let shards = shards.unwrap_or_default();
    let bytes = |name: &str| {
        let stored = |archive: &Archive| {
            archive
                .shapes()
                .into_keys()
                .find(|stored| names.canonical(stored) == name)
        };
        shards
            .iter()
            .find_map(|archive| archive.bytes(&stored(archive)?))
    };
    bytes(&names.head())
        .is_some_and(|head| bytes(&names.embedding()).is_some_and(|embedding| head != embedding))
}
