//! A score head in a merged model: its tensors take the place of the vocabulary's head, under the
//! names of the class of transformers that has one, and config.json names that class.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{MergeError, name_of};
use crate::adapter::{AdapterError, ScoreConfig};
use crate::files::Float;
use crate::files::safetensors::{Archive, Named, TensorEntry};
use crate::model::{Folder, Names};

/// Ends of the names of classes without a score head.
const OTHER_CLASSES: [&str; 7] = [
    "ForCausalLM",
    "ForMaskedLM",
    "ForPreTraining",
    "LMHeadModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "Model",
];

/// A score head that becomes a part of a model.
pub(super) struct NewScores {
    config: ScoreConfig,
    /// Its tensors by the model's names.
    tensors: Vec<Named>,
    /// The weight file that gets them.
    file: String,
    /// Tensors of the base, by their names in the files, that are left out.
    left_out: BTreeSet<String>,
    names: Names,
    /// The class of transformers; `None` where the base names none.
    class: Option<String>,
}

impl NewScores {
    /// Returns the head of an adapter for a base with these weight files.
    ///
    /// # Errors
    /// The base is a part of a larger model, for which transformers has no such class.
    pub fn of(
        (config, tensors): &(ScoreConfig, Vec<Named>),
        folder: &Folder,
        old: &[Archive],
    ) -> Result<Self, MergeError> {
        let names = folder.spec.names.clone();
        if names.is_wrapped {
            let message = "the base is a part of a multi-modal model, and transformers has no \
                class of it with a score head"
                .to_owned();
            return Err(AdapterError::Score {
                message,
                hint: "score texts with `rankine classify`, or load the adapter in PEFT",
            }
            .into());
        }
        let scoring = folder.spec.scoring.as_ref();
        let layer = scoring.and_then(|all| all.head(config.is_of_tokens).layer.as_ref());
        let layer = layer.map_or_else(Vec::new, |layer| layer.tensors(folder.spec.width));
        let is_new = |name: &str| tensors.iter().any(|(new, ..)| new == name);
        let is_left_out = |stored: &String| {
            let name = names.canonical(stored);
            let is_of_layer = layer.iter().any(|(of_layer, _)| *of_layer == name);
            let is_head = [names.head(), format!("{}.bias", names.head)].contains(&name);
            is_new(&name) || !is_of_layer && (is_head || folder.is_beside(&name))
        };
        let stored = old.iter().flat_map(|old| old.shapes().into_keys());
        Ok(Self {
            config: config.clone(),
            tensors: tensors.clone(),
            file: old
                .last()
                .map(|old| name_of(old.path()))
                .unwrap_or_default(),
            left_out: stored.filter(is_left_out).collect(),
            class: folder
                .class
                .as_ref()
                .map(|class| scoring_class(class, config)),
            names,
        })
    }

    /// Whether a tensor of the base is left out.
    pub fn leaves_out(&self, stored: &str) -> bool {
        self.left_out.contains(stored)
    }

    /// Returns the name of a tensor in the new files.
    pub fn name(&self, stored: &str) -> String {
        self.names.canonical(stored)
    }

    /// Returns the tensors that follow those of a weight file.
    pub fn of_file(&self, old: &Archive) -> &[Named] {
        if name_of(old.path()) == self.file {
            &self.tensors
        } else {
            &[]
        }
    }

    /// Returns the entries of these tensors, in 32 bits.
    pub fn added_to(&self, old: &Archive) -> Vec<TensorEntry> {
        let of = |(name, shape, _): &Named| TensorEntry {
            name: name.clone(),
            float: Float::F32,
            shape: shape.clone(),
        };
        self.of_file(old).iter().map(of).collect()
    }

    /// Changes config.json.
    pub fn tell(&self, config: &mut Map<String, Value>) {
        if let Some(class) = &self.class {
            config.insert("architectures".to_owned(), json!([class]));
        }
        config.extend(self.config.model_entries());
    }

    /// Changes the index of weight files with so many bytes of tensors.
    pub fn tell_index(&self, index: &mut Map<String, Value>, tensor_bytes: u64) {
        if let Some(Value::Object(metadata)) = index.get_mut("metadata") {
            metadata.shift_remove("total_parameters");
            metadata.insert("total_size".to_owned(), json!(tensor_bytes));
        }
        let Some(Value::Object(map)) = index.get_mut("weight_map") else {
            return;
        };
        let kept = std::mem::take(map).into_iter();
        let kept = kept.filter(|(name, _)| !self.leaves_out(name));
        let added = self
            .tensors
            .iter()
            .map(|(name, ..)| (name.clone(), json!(self.file)));
        *map = kept
            .map(|(name, file)| (self.name(&name), file))
            .chain(added)
            .collect();
    }
}

/// Returns the class with a score head beside another class of an architecture.
fn scoring_class(class: &str, config: &ScoreConfig) -> String {
    let stem = OTHER_CLASSES.iter().find_map(|end| class.strip_suffix(end));
    let kind = if config.is_of_tokens {
        "ForTokenClassification"
    } else {
        "ForSequenceClassification"
    };
    format!("{}{kind}", stem.unwrap_or(class))
}
