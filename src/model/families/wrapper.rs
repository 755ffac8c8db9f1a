//! Models that have a decoder for text beside towers for pictures or sound: which `text_config`
//! they have, and what they call its modules. `wrappers.json` beside this file is written by
//! `tests/golden/make_defaults.py`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigJson, ModelError, Names};

static WRAPPERS: LazyLock<BTreeMap<String, Wrapper>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("wrappers.json")).expect(
        "the file is of this crate, and a \
    test reads it",
    )
});

/// A wrapper.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wrapper {
    /// The class of a `text_config` that does not say one.
    text: String,
    /// Whether it is of that class whatever it says.
    fixed: bool,
    /// Whether the head is the embedding where the wrapper does not say it.
    tied: bool,
    /// Whether the `text_config` may say so too.
    either: bool,
    /// What a `text_config` that is absent altogether has.
    absent: Map<String, Value>,
}

impl Wrapper {
    /// The wrapper of a `model_type`.
    pub fn of(family: &str) -> Option<&'static Self> {
        WRAPPERS.get(family)
    }

    /// Names of all of them.
    pub fn known() -> Vec<&'static str> {
        WRAPPERS.keys().map(String::as_str).collect()
    }

    /// The config of the text decoder, and its class.
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

    /// Whether the head is the embedding, by the wrapper and its `text_config`.
    pub fn is_tied(&self, config: &ConfigJson, text: &ConfigJson) -> Result<bool, ModelError> {
        config.not_null("tie_word_embeddings", "true or false")?;
        let of_text = self.either && text.flag("tie_word_embeddings", false)?;
        Ok(config.flag("tie_word_embeddings", self.tied)? || of_text)
    }

    /// What transformers 5 calls the decoder's modules, and so PEFT.
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
