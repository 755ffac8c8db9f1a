//! Multimodal models, which have a text decoder beside encoders for images or sound: the class of
//! their `text_config`, and the names of the decoder's modules. `wrappers.json` beside this file is
//! written by `tests/golden/make_defaults.py`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigJson, ModelError, Names};

static WRAPPERS: LazyLock<BTreeMap<String, Wrapper>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("wrappers.json"))
        .expect("the file is of this crate, and a test reads it")
});

/// A kind of multimodal model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wrapper {
    /// The class of a `text_config` that does not name one.
    text: String,
    /// Whether the `text_config` always is of that class, whatever it names.
    fixed: bool,
    /// Whether head and embedding are tied where the wrapper does not say.
    tied: bool,
    /// Whether the `text_config` may say so instead.
    either: bool,
    /// Values of a `text_config` that is absent altogether.
    absent: Map<String, Value>,
}

impl Wrapper {
    /// Finds the wrapper of a `model_type`.
    pub fn of(family: &str) -> Option<&'static Self> {
        WRAPPERS.get(family)
    }

    /// Returns the names of all wrappers.
    pub fn known() -> Vec<&'static str> {
        WRAPPERS.keys().map(String::as_str).collect()
    }

    /// Returns the config of the text decoder, and its class.
    pub fn text(&self, config: &ConfigJson) -> Result<(ConfigJson, String), ModelError> {
        let text = match config.section("text_config")? {
            Some(text) => text,
            // Published before transformers 4.52: keys of the decoder stand beside those of the
            // wrapper.
            None if self.is_flat() => config.clone(),
            None => config.replaced(self.absent.clone()),
        };
        let said = text.text("model_type")?.filter(|_| !self.fixed);
        let class = said.unwrap_or(&self.text).to_owned();
        Ok((text, class))
    }

    /// Whether head and embedding are tied, by the wrapper and its `text_config`.
    pub fn is_tied(&self, config: &ConfigJson, text: &ConfigJson) -> Result<bool, ModelError> {
        config.not_null("tie_word_embeddings", "true or false")?;
        let of_text = self.either && text.flag("tie_word_embeddings", false)?;
        Ok(config.flag("tie_word_embeddings", self.tied)? || of_text)
    }

    /// Returns the names of the decoder's modules in transformers 5, and so in PEFT.
    pub fn names(family: &str) -> Names {
        match family {
            "idefics2" | "idefics3" | "smolvlm" => Names::WRAPPED_TEXT,
            "qwen2_vl" | "qwen2_5_vl" => Names::WRAPPED_BARE,
            _ => Names::WRAPPED,
        }
    }

    fn is_flat(&self) -> bool {
        self.fixed && self.either
    }
}

#[cfg(test)]
mod tests {
    use super::super::class::Class;
    use super::*;

    #[test]
    fn every_wrapper_has_a_class_of_text_that_is_known() {
        for (family, wrapper) in &*WRAPPERS {
            assert!(
                Class::of(&wrapper.text).is_some(),
                "{family}: {}",
                wrapper.text
            );
            assert_eq!(
                wrapper.is_flat(),
                family.starts_with("qwen2_") && family.ends_with("vl"),
                "{family}"
            );
        }
    }
}
