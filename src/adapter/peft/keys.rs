//! Normalizes the keys of an adapter's file to those that PEFT writes.
//!
//! A state dict that was saved without PEFT's own function has longer keys. They contain the name
//! of the adapter (`lora_A.default.weight`) and the modules in which programs wrap a model
//! (`_orig_mod` of torch.compile, `module` of DDP, `_fsdp_wrapped_module`, `base_model.model` twice
//! or not at all). These parts say nothing about the numbers, so they are removed and reported. An
//! adapter that was trained inside a larger model has that model's names before its layers; they
//! become those of the base.
//!
//! Source: `_remove_adapter_name_from_state_dict_key` and `_remap_adapter_state_dict_for_load` of
//! <https://github.com/huggingface/peft>, `tuners/tuners_utils.py`.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::LinearSpec;

/// The beginning of the note on layers that have other names.
pub const MOVED: &str = "its layers are called";

/// Prefix of every key in PEFT's files.
pub(super) const PREFIX: &str = "base_model.model.";
/// Modules that a wrapper inserts anywhere.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];
/// The module that a wrapper puts first.
const PARALLEL: &str = "module";
/// Prefixes of a language model's layers inside a larger model, by version and kind of the wrapper.
const OUTER: [&str; 9] = [
    "",
    "model.",
    "model.model.",
    "language_model.",
    "language_model.model.",
    "model.language_model.",
    "model.language_model.model.",
    "text_model.",
    "model.text_model.",
];

/// The keys of a file by PEFT's names, without [`PREFIX`].
#[derive(Debug, Default, Clone)]
pub(super) struct Keys {
    by_name: BTreeMap<String, String>,
    /// Names of adapters within keys; none where keys are as PEFT writes them.
    pub adapters: BTreeSet<String>,
    /// Removed parts of names, in words.
    pub around: BTreeSet<&'static str>,
    /// The differing prefixes of names, in the file and in the base.
    pub moved: Option<[String; 2]>,
    /// Name of the list of layers in the file.
    list: String,
    /// Two keys with one name.
    pub twice: Option<[String; 2]>,
}

/// A key taken apart.
struct Parsed<'a> {
    name: String,
    adapter: Option<&'a str>,
    around: BTreeSet<&'static str>,
}

impl Keys {
    /// Reads the keys of a file.
    pub fn read<'a>(keys: impl IntoIterator<Item = &'a String>) -> Self {
        let mut read = Self::default();
        for key in keys {
            let Parsed {
                name,
                adapter,
                around,
            } = parse(key);
            read.adapters.extend(adapter.map(str::to_owned));
            read.around.extend(around);
            if let Some(other) = read.by_name.insert(name, key.clone()) {
                read.twice.get_or_insert([other, key.clone()]);
            }
        }
        read
    }

    /// Returns the keys with the prefixes of these modules. Nothing is renamed unless all names of
    /// layers share a prefix that a language model inside a larger one may have.
    #[must_use]
    pub fn on(mut self, modules: &[LinearSpec]) -> Self {
        let Some((ours, list)) = modules
            .iter()
            .find_map(|linear| of_layers(&linear.name, None))
        else {
            return self;
        };
        let starts: BTreeSet<&str> = self
            .by_name
            .keys()
            .filter_map(|name| Some(of_layers(name, Some(list))?.0))
            .collect();
        let [theirs] = starts.into_iter().collect::<Vec<_>>()[..] else {
            return self;
        };
        // A model without a head has no name before those of its modules.
        let is_outer = OUTER.contains(&theirs) || ours.ends_with(theirs);
        if theirs == ours || !is_outer {
            return self;
        }
        let moved = [theirs.to_owned(), ours.to_owned()];
        let tables: Vec<&str> = modules
            .iter()
            .filter(|linear| linear.is_table())
            .map(|linear| linear.name.as_str())
            .collect();
        let by_name: BTreeMap<_, _> = self
            .by_name
            .iter()
            .map(|(name, key)| (renamed(name, &moved, list, &tables), key.clone()))
            .collect();
        if by_name.len() == self.by_name.len() {
            (self.by_name, self.moved, self.list) = (by_name, Some(moved), list.to_owned());
        }
        self
    }

    /// Returns the key of a name.
    pub fn key(&self, name: &str) -> Option<&String> {
        self.by_name.get(name)
    }

    /// Returns all names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// Returns the modules that have matrices.
    pub fn modules(&self) -> BTreeSet<&str> {
        let module = |name: &'_ String| -> Option<usize> {
            [
                ".lora_A.weight",
                ".lora_B.weight",
                ".lora_embedding_A",
                ".lora_embedding_B",
            ]
            .iter()
            .find_map(|end| name.strip_suffix(end).map(str::len))
        };
        self.by_name
            .keys()
            .filter_map(|name| Some(&name[..module(name)?]))
            .collect()
    }

    /// Returns notes about what was ignored.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(adapter) = self.adapters.first() {
            notes.push(format!(
                "its keys have the adapter's name `{adapter}` in them, as a state \
                dict has that PEFT did not save; it is passed over"
            ));
        }
        if !self.around.is_empty() {
            let around: Vec<&str> = self.around.iter().copied().collect();
            notes.push(format!(
                "its keys have {}; they are read as PEFT would have written them",
                around.join(", ")
            ));
        }
        if let Some([theirs, ours]) = &self.moved {
            let list = &self.list;
            notes.push(format!(
                "{MOVED} `{theirs}{list}.0` and so on, the base's `{ours}{list}.0`; they are \
                taken for the same ones"
            ));
        }
        notes
    }
}

/// Returns the prefix of a numbered list in a name, and the list's name: `model.` and `layers` of
/// `model.layers.3.x`.
fn of_layers<'a>(name: &'a str, list: Option<&str>) -> Option<(&'a str, &'a str)> {
    let mut start = 0;
    let mut before: Option<(usize, &str)> = None;
    for segment in name.split('.') {
        if let Some((at, word)) = before.filter(|(_, word)| list.is_none_or(|list| list == *word))
            && segment.parse::<usize>().is_ok()
        {
            return Some((&name[..at], word));
        }
        before = Some((start, segment));
        start += segment.len() + 1;
    }
    None
}

/// Returns a name with the base's prefix.
fn renamed(name: &str, [theirs, ours]: &[String; 2], list: &str, tables: &[&str]) -> String {
    if of_layers(name, Some(list)).is_some() {
        return format!("{ours}{}", &name[theirs.len()..]);
    }
    // Embedding and head have few names, and stand where the wrapper has them.
    for table in tables {
        let own_name = table.rsplit('.').next().unwrap_or(table);
        let found = OUTER.iter().find_map(|outer| {
            let rest = name.strip_prefix(outer)?.strip_prefix(own_name)?;
            rest.starts_with('.').then_some(rest)
        });
        if let Some(rest) = found {
            return format!("{table}{rest}");
        }
    }
    name.to_owned()
}

fn parse(key: &str) -> Parsed<'_> {
    let mut around = BTreeSet::new();
    let mut segments: Vec<&str> = Vec::new();
    for segment in key.split('.') {
        match WRAPPERS.iter().position(|wrapper| *wrapper == segment) {
            Some(0) => drop(around.insert("`_orig_mod` of torch.compile")),
            Some(1) => drop(around.insert("`_fsdp_wrapped_module` of FSDP")),
            Some(_) => drop(around.insert("`_checkpoint_wrapped_module`")),
            None => segments.push(segment),
        }
    }
    let mut start = 0;
    let mut prefixes = 0;
    loop {
        match segments[start..] {
            [PARALLEL, _, ..] => {
                around.insert("`module.` of DDP in front");
                start += 1;
            }
            ["base_model", "model", _, ..] => {
                prefixes += 1;
                start += 2;
            }
            _ => break,
        }
    }
    match prefixes {
        0 => drop(around.insert("no `base_model.model.` in front")),
        1 => {}
        _ => drop(around.insert("`base_model.model.` more than once")),
    }
    let (name, adapter) = without_adapter(&segments[start..]);
    Parsed {
        name,
        adapter,
        around,
    }
}

/// Splits the adapter's name off a key.
fn without_adapter<'a>(segments: &[&'a str]) -> (String, Option<&'a str>) {
    const OWN: [&str; 8] = [
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "modules_to_save",
        "trainable_tokens_delta",
        "trainable_tokens_original",
    ];
    let whole = || (segments.join("."), None);
    let Some(at) = segments.iter().rposition(|segment| OWN.contains(segment)) else {
        return whole();
    };
    let (head, rest) = (segments[..=at].join("."), &segments[at + 1..]);
    // A vector of magnitudes was a parameter once and is a layer's weight now.
    let is_module = matches!(segments[at], "lora_A" | "lora_B" | "modules_to_save");
    match (is_module, rest) {
        (true, [adapter, last]) => (format!("{head}.{last}"), Some(*adapter)),
        (false, ["weight"]) => (head, None),
        (false, [adapter] | [adapter, "weight"]) => (head, Some(*adapter)),
        _ => whole(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: &str) -> (String, Option<String>) {
        let parsed = parse(key);
        (parsed.name, parsed.adapter.map(str::to_owned))
    }

    #[test]
    fn names_of_adapters_are_taken_out() {
        for (key, expected, adapter) in [
            (
                "base_model.model.model.layers.0.q_proj.lora_A.weight",
                "model.layers.0.q_proj.lora_A.weight",
                None,
            ),
            (
                "base_model.model.model.layers.0.q_proj.lora_A.default.weight",
                "model.layers.0.q_proj.lora_A.weight",
                Some("default"),
            ),
            (
                "base_model.model.x.lora_B.sft.bias",
                "x.lora_B.bias",
                Some("sft"),
            ),
            (
                "base_model.model.x.lora_embedding_A",
                "x.lora_embedding_A",
                None,
            ),
            (
                "base_model.model.x.lora_embedding_B.default",
                "x.lora_embedding_B",
                Some("default"),
            ),
            (
                "base_model.model.x.lora_magnitude_vector",
                "x.lora_magnitude_vector",
                None,
            ),
            (
                "base_model.model.x.lora_magnitude_vector.weight",
                "x.lora_magnitude_vector",
                None,
            ),
            (
                "base_model.model.x.lora_magnitude_vector.default",
                "x.lora_magnitude_vector",
                Some("default"),
            ),
            (
                "base_model.model.x.lora_magnitude_vector.default.weight",
                "x.lora_magnitude_vector",
                Some("default"),
            ),
            (
                "base_model.model.lm_head.modules_to_save.default.weight",
                "lm_head.modules_to_save.weight",
                Some("default"),
            ),
            (
                "base_model.model.lm_head.modules_to_save.weight",
                "lm_head.modules_to_save.weight",
                None,
            ),
            (
                "base_model.model.lm_head.original_module.weight",
                "lm_head.original_module.weight",
                None,
            ),
            (
                "base_model.model.e.token_adapter.trainable_tokens_delta",
                "e.token_adapter.trainable_tokens_delta",
                None,
            ),
            (
                "base_model.model.e.token_adapter.trainable_tokens_delta.a",
                "e.token_adapter.trainable_tokens_delta",
                Some("a"),
            ),
            (
                "base_model.model.e.token_adapter.base_layer.weight",
                "e.token_adapter.base_layer.weight",
                None,
            ),
            // Both parameters of experts are wrapped one in the other.
            (
                "base_model.model.m.experts.base_layer.lora_A.default.weight",
                "m.experts.base_layer.lora_A.weight",
                Some("default"),
            ),
        ] {
            assert_eq!(
                name(key),
                (expected.to_owned(), adapter.map(str::to_owned)),
                "{key}"
            );
        }
    }

    #[test]
    fn what_wraps_a_model_is_taken_off() {
        let expected = "model.layers.0.q_proj.lora_A.weight";
        for key in [
            "model.layers.0.q_proj.lora_A.weight",
            "_orig_mod.base_model.model.model.layers.0.q_proj.lora_A.weight",
            "base_model.model._orig_mod.model.layers.0.q_proj.lora_A.weight",
            "base_model.model.model.layers.0._orig_mod.q_proj.lora_A.weight",
            "module.base_model.model.model.layers.0.q_proj.lora_A.weight",
            "module.module.base_model.model.model.layers.0.q_proj.lora_A.weight",
            "base_model.model.base_model.model.model.layers.0.q_proj.lora_A.weight",
            "base_model.model.model.layers.0._fsdp_wrapped_module.q_proj.lora_A.weight",
            "_fsdp_wrapped_module.base_model.model.model.layers.0._checkpoint_wrapped_module.\
            q_proj.lora_A.weight",
            "module._orig_mod.base_model.model.base_model.model.model.layers.0.q_proj.lora_A.\
            default.weight",
        ] {
            let keys = Keys::read([&key.to_owned()]);
            assert_eq!(keys.names().collect::<Vec<_>>(), [expected], "{key}");
            assert!(!keys.notes().is_empty(), "{key}");
            assert_eq!(keys.key(expected).map(String::as_str), Some(key));
        }
        let plain = Keys::read([&format!("{PREFIX}{expected}")]);
        assert!(plain.notes().is_empty());
        assert_eq!(
            plain.modules().into_iter().collect::<Vec<_>>(),
            ["model.layers.0.q_proj"]
        );
    }

    #[test]
    fn two_keys_of_one_name_are_seen() {
        let [first, second] =
            ["a", "b"].map(|adapter| format!("{PREFIX}x.lora_A.{adapter}.weight"));
        let keys = Keys::read([&first, &second]);
        assert_eq!(keys.adapters.len(), 2);
        assert_eq!(keys.twice, Some([first, second]));
    }

    #[test]
    fn layers_of_a_larger_model_are_found() {
        assert_eq!(
            of_layers("model.layers.3.mlp.experts.1.w1", None),
            Some(("model.", "layers"))
        );
        assert_eq!(
            of_layers("layers.3.x", Some("layers")),
            Some(("", "layers"))
        );
        assert_eq!(
            of_layers("transformer.h.3.x", None),
            Some(("transformer.", "h"))
        );
        assert_eq!(
            of_layers("model.experts.1.layers.2.x", Some("layers")),
            Some(("model.experts.1.", "layers"))
        );
        assert_eq!(of_layers("lm_head", None), None);
        let moved = ["language_model.model.".to_owned(), "model.".to_owned()];
        let tables = ["model.embed_tokens", "lm_head"];
        for (name, expected) in [
            (
                "language_model.model.layers.0.x.lora_A.weight",
                "model.layers.0.x.lora_A.weight",
            ),
            ("language_model.lm_head.weight", "lm_head.weight"),
            (
                "language_model.model.embed_tokens.lora_embedding_A",
                "model.embed_tokens.lora_embedding_A",
            ),
            (
                "vision_tower.lm_headless.weight",
                "vision_tower.lm_headless.weight",
            ),
        ] {
            assert_eq!(renamed(name, &moved, "layers", &tables), expected);
        }
    }
}
