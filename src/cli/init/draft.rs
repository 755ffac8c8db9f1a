//! The recipe under construction: keys with values, each under its description from the schema.

use std::fmt::Write as _;

use super::answers::{Answers, Goal};
use super::look::Set;
use crate::fault::yaml_word;
use crate::recipe::description;
use crate::terms::{Device, Format};

/// Sections of the recipe, in order.
const SECTIONS: [&str; 3] = ["adapter", "training", "evaluation"];

pub(super) struct Draft<'a> {
    base: &'a str,
    device: Device,
    sets: &'a [Set],
    /// Whether tables of prompts and completions are read as chats of two turns.
    pub has_chats: bool,
    values: Vec<(String, String)>,
}

impl<'a> Draft<'a> {
    /// Starts a recipe for a goal: adapters on every projection, and a twentieth of the rows held
    /// out.
    pub fn new(answers: &'a Answers, sets: &'a [Set]) -> Self {
        let by_data = if sets.iter().all(|set| set.format == Format::Text) {
            Goal::Language
        } else {
            Goal::Answers
        };
        let goal = answers.goal.unwrap_or(by_data);
        let of_goal: &[(&str, &str)] = match goal {
            Goal::Answers => &[
                ("adapter.method", "lora"),
                ("adapter.r", "16"),
                ("training.learning_rate", "2e-4"),
            ],
            Goal::Language => &[
                ("adapter.method", "lora"),
                ("adapter.r", "32"),
                ("training.learning_rate", "1e-4"),
            ],
            Goal::Everything => &[
                ("adapter.method", "full"),
                ("training.learning_rate", "1e-5"),
            ],
        };
        let rows: u64 = sets.iter().map(|set| set.rows).sum();
        // There must be held-out rows, and a step should not be the whole epoch.
        let micro = if rows < 64 { "1" } else { "8" };
        let usual = [
            ("training.sequence_len", "1048576"),
            ("training.micro_batch_size", micro),
            ("training.num_epochs", "1"),
            ("training.warmup_ratio", "0.03"),
        ];
        let objective: &[(&str, &str)] = match sets.first().map(|set| set.format) {
            Some(Format::Preference) => &[
                ("objective.type", "dpo"),
                ("training.learning_rate", "1e-5"),
            ],
            Some(Format::Unpaired) => &[
                ("objective.type", "kto"),
                ("training.learning_rate", "1e-5"),
                ("training.gradient_accumulation_steps", "2"),
            ],
            Some(Format::Retrieval) => &[
                ("objective.type", "embedding"),
                ("training.gradient_accumulation_steps", "32"),
            ],
            Some(Format::Classification) => &[("objective.type", "classification")],
            _ => &[],
        };
        let held_out = [("evaluation.val_set_size", "0.05")];
        let held_out = held_out.iter().filter(|_| rows >= 40);
        let values = of_goal
            .iter()
            .chain(&usual)
            .chain(held_out)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let mut draft = Self {
            base: &answers.base,
            device: answers.device,
            sets,
            has_chats: false,
            values,
        };
        for (key, value) in objective {
            draft.set(key, *value);
        }
        draft
    }

    /// Whether there are tables of prompts and completions, which can be chats too.
    pub fn has_tables(&self) -> bool {
        self.sets.iter().any(|set| set.format == Format::Completion)
    }

    /// Returns the format in which a dataset is read.
    pub fn format(&self, set: &Set) -> Format {
        match set.format {
            Format::Completion if self.has_chats => Format::Chat,
            format => format,
        }
    }

    /// Sets a key to a value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.values.iter_mut().find(|(known, _)| known == key) {
            Some(entry) => entry.1 = value,
            None => self.values.push((key.to_owned(), value)),
        }
    }

    /// Returns the recipe's text.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# Written by `rankine init`. Every key and its default: `rankine schema`.\n\n",
        );
        line(
            &mut text,
            "",
            "base_model",
            "base_model",
            &yaml_word(self.base),
        );
        if self.device != Device::Auto {
            line(&mut text, "", "device", "device", &self.device.to_string());
        }
        text.push_str("\ndatasets:\n");
        for set in self.sets {
            let _ = writeln!(text, "  - path: {}", yaml_word(&set.path));
            let _ = writeln!(
                text,
                "    # {}",
                description("datasets.format").unwrap_or_default()
            );
            let (format, mut columns) = (self.format(set), set.columns.clone());
            if format != set.format {
                // A chat of two columns is known by their names alone.
                for name in ["prompt", "completion"] {
                    columns
                        .entry(name.to_owned())
                        .or_insert_with(|| name.to_owned());
                }
            }
            let _ = writeln!(text, "    format: {format}");
            if !columns.is_empty() {
                let columns: Vec<String> = columns
                    .iter()
                    .map(|(ours, theirs)| format!("{ours}: {}", yaml_word(theirs)))
                    .collect();
                let _ = writeln!(text, "    columns: {{{}}}", columns.join(", "));
            }
        }
        for section in SECTIONS {
            let prefix = format!("{section}.");
            let keys: Vec<_> = self
                .values
                .iter()
                .filter_map(|(key, value)| Some((key, key.strip_prefix(&prefix)?, value)))
                .collect();
            if !keys.is_empty() {
                let _ = writeln!(text, "\n{section}:");
            }
            for (path, name, value) in keys {
                line(&mut text, "  ", path, name, value);
            }
        }
        text
    }
}

fn line(text: &mut String, indent: &str, path: &str, name: &str, value: &str) {
    if let Some(words) = description(path) {
        let _ = writeln!(text, "{indent}# {words}");
    }
    let _ = writeln!(text, "{indent}{name}: {value}");
}
