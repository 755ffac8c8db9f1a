//! The part of a card that comes from a run's lock and result: data with their licenses,
//! hyperparameters with their origin, and results.

use std::path::Path;

use serde_json::{Map, Value};

use super::base::{HubPlace, named};
use super::words::{cell, code, last};
use crate::data::Terms;
use crate::export::page::flatten;
use crate::report::grouped;
use crate::terms::{Format, Term as _};

/// The most files of a data set that are listed.
const MOST_FILES: usize = 30;
/// Sections of a recipe that contain hyperparameters.
const SECTIONS: [&str; 5] = [
    "tokens.",
    "objective.",
    "adapter.",
    "training.",
    "evaluation.",
];
/// Keys in these sections that are shown elsewhere: data and prompts.
const ELSEWHERE: [&str; 2] = ["evaluation.datasets", "evaluation.prompts"];
/// Keys whose values are paths.
const PATHS: [&str; 4] = [
    "adapter.init_from",
    "chat_template",
    "objective.reference",
    "objective.teacher",
];
/// Kinds of inputs other than data, by the lock's names and the names for the user.
const KINDS: [(&str, &str); 4] = [
    ("base", "base"),
    ("tokenizer_and_config", "base"),
    ("chat_template", "chat template"),
    ("init_from", "adapter to go on from"),
];

/// A run, by the files that it left.
#[derive(Debug, Clone, Default)]
pub struct Trained {
    /// Its lock.
    pub lock: Map<String, Value>,
    /// Its result, if it has finished.
    pub result: Option<Map<String, Value>>,
}

/// Returns the hashes of the inputs with which a run last continued, as its lock states them.
pub fn last_hashes(lock: &Map<String, Value>) -> Option<&Value> {
    let resumed = lock.get("resumed").and_then(Value::as_array);
    resumed
        .into_iter()
        .flatten()
        .rev()
        .find_map(|entry| entry.get("blake3"))
        .or_else(|| lock.get("blake3"))
}

/// Returns the formats of the rows that a run trains, as far as its lock states them.
pub fn formats_of(lock: &Map<String, Value>) -> Vec<Format> {
    let sets = lock
        .get("recipe")
        .and_then(|recipe| recipe.get("datasets"))
        .and_then(Value::as_array);
    sets.into_iter()
        .flatten()
        .filter_map(|set| Format::parse(text(set, "format")?))
        .collect()
}

impl Trained {
    /// Returns the sections about the run; `level` begins each heading.
    pub(super) fn text(&self, level: &str) -> String {
        let results = self
            .results()
            .unwrap_or_else(|| "The run was not over when this was taken from it.\n".to_owned());
        let (data, values) = (self.data(), self.hyperparameters());
        let store = self
            .store()
            .map_or_else(String::new, |store| format!("{level} Base\n\n{store}\n"));
        format!(
            "{store}{level} Data\n\n{data}\n{level} Hyperparameters\n\n{values}\n{level} \
            Results\n\n{results}\n"
        )
    }

    /// Returns the base's name in the store of Ollama or LM Studio, if it came from there.
    fn store(&self) -> Option<String> {
        let store = self.lock.get("store")?;
        let digest = text(store, "digest")
            .map_or_else(String::new, |digest| format!(", file {}", code(digest)));
        Some(format!("- {}{digest}\n", code(text(store, "model")?)))
    }

    /// Returns the ids of data sets that came from the Hub.
    pub(super) fn hub_datasets(&self) -> Vec<String> {
        let paths = self
            .sets()
            .flat_map(|set| files(set))
            .filter_map(|file| text(file, "path"));
        paths
            .filter_map(|path| Some(HubPlace::of(Path::new(path), "datasets--")?.id))
            .collect()
    }

    /// Returns the files that the run read of its base, with their hashes.
    pub(super) fn hashes_read(&self) -> Vec<(String, String)> {
        let of_kind = |(kind, words): &(&str, &str)| {
            let files = last_hashes(&self.lock)
                .and_then(|hashes| hashes.get(kind))
                .and_then(Value::as_object);
            let files = files
                .into_iter()
                .flatten()
                .map(|(path, hash)| (format!("{words}: {}", last(path)), said(hash)));
            files.collect::<Vec<_>>()
        };
        KINDS.iter().flat_map(of_kind).collect()
    }

    fn sets(&self) -> impl Iterator<Item = &Value> {
        self.lock
            .get("data")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    }

    fn data(&self) -> String {
        let sets: String = self.sets().map(|set| self.set(set)).collect();
        let unknown = || "Its lock does not say what the data are.\n".to_owned();
        if sets.is_empty() { unknown() } else { sets }
    }

    fn set(&self, set: &Value) -> String {
        let count = |key: &str| grouped(set.get(key).and_then(Value::as_u64).unwrap_or(0));
        let key = text(set, "dataset").unwrap_or("not recorded");
        // `datasets.0` is at /datasets/0 of the recipe.
        let of_recipe = self
            .lock
            .get("recipe")
            .and_then(|recipe| recipe.pointer(&format!("/{}", key.replace('.', "/"))));
        let word = |key: &str| {
            code(
                of_recipe
                    .and_then(|recipe| text(recipe, key))
                    .unwrap_or("not recorded"),
            )
        };
        let not_selected = set
            .get("not_selected")
            .and_then(Value::as_u64)
            .filter(|rows| *rows > 0);
        let not_selected = not_selected.map_or_else(String::new, |rows| {
            format!("{} not selected, ", grouped(rows))
        });
        let mut lines = format!(
            "- {} ({}, trains {}): {} rows read, {}{} trained on, {} held out, {} left out\n",
            code(key),
            word("format"),
            word("train_on"),
            count("rows"),
            not_selected,
            count("trained"),
            count("validation"),
            count("left_out"),
        );
        lines.extend(self.parts(key));
        if let Some(weight) = set.get("weight").and_then(Value::as_f64) {
            let (draws, repeated) = (count("draws_per_epoch"), count("repeated_per_epoch"));
            let rows = count("trained");
            let of_weight = format!(
                "  - weight {weight}, {draws} draws an epoch from {rows} rows, \
                {repeated} of them again\n"
            );
            lines.push_str(&of_weight);
        }
        let of_set = files(set);
        lines.extend(of_set.iter().take(MOST_FILES).map(|file| self.file(file)));
        let more = of_set.len().saturating_sub(MOST_FILES);
        lines.extend(
            (more > 0)
                .then(|| format!("  - and {more} more files, which the lock of the run lists\n")),
        );
        lines
    }

    /// Returns the splits of a Hub data set that are not used whole.
    fn parts(&self, key: &str) -> Vec<String> {
        let splits = self
            .lock
            .get("hub_datasets")
            .and_then(|sets| sets.get(key)?.get("splits")?.as_array());
        let partial = splits
            .into_iter()
            .flatten()
            .filter(|split| split.get("partial").and_then(Value::as_bool) == Some(true));
        let line = |split: &Value| {
            format!(
                "  - split {} is not whole: the Hub has converted its first 5 GB only\n",
                code(text(split, "name").unwrap_or_default())
            )
        };
        partial.map(line).collect()
    }

    fn file(&self, file: &Value) -> String {
        let path = text(file, "path").unwrap_or_default();
        let hash = ["datasets", "evaluation_datasets"]
            .iter()
            .find_map(|kind| text(last_hashes(&self.lock)?.get(kind)?, path));
        let hash = hash.map_or_else(String::new, |hash| format!(", blake3 {}", code(hash)));
        let hub = HubPlace::of(Path::new(path), "datasets--");
        let hub = hub.map_or_else(String::new, |hub| {
            format!(" of {}, commit {}", code(&hub.id), code(&hub.commit))
        });
        let terms = serde_json::from_value(file.clone()).unwrap_or_default();
        format!(
            "  - {}{hub}: {}{hash}\n",
            code(&last(path)),
            license(&terms)
        )
    }

    fn hyperparameters(&self) -> String {
        let origin = |key: &str| match self.lock.get("set_by") {
            // An item of a list is set where the list is.
            Some(said) => std::iter::successors(Some(key), |key| Some(key.rsplit_once('.')?.0))
                .find_map(|key| text(said, key))
                .unwrap_or("default"),
            None => "not recorded",
        };
        let rows = self.values().into_iter().map(|(key, value)| {
            format!(
                "| {} | {} | {} |\n",
                cell(&key),
                cell(&value),
                cell(origin(&key))
            )
        });
        let rows: String = rows.collect();
        let surroundings = ["rankine", "device", "threads"]
            .into_iter()
            .filter_map(|key| Some((key, self.lock.get(key)?)));
        let surroundings =
            surroundings.map(|(key, value)| format!("| {key} | {} | lock |\n", cell(&said(value))));
        format!(
            "| Key | Value | From |\n|---|---|---|\n{rows}{}",
            surroundings.collect::<String>()
        )
    }

    /// Returns the recipe's values that describe the training, without paths on this machine.
    fn values(&self) -> Vec<(String, String)> {
        let mut values = Vec::new();
        flatten(
            "",
            self.lock.get("recipe").unwrap_or(&Value::Null),
            &mut values,
        );
        let is_told = |key: &str| {
            let is_elsewhere = ELSEWHERE.iter().any(|start| key.starts_with(start));
            PATHS.contains(&key)
                || (SECTIONS.iter().any(|section| key.starts_with(section)) && !is_elsewhere)
        };
        values.retain(|(key, _)| is_told(key));
        let told = |(key, value): (String, String)| {
            if PATHS.contains(&&*key) {
                (key, last(&value))
            } else {
                (key, value)
            }
        };
        values.into_iter().map(told).collect()
    }

    /// Returns how often each class was taken for each, as a table: a row for each true class, or
    /// two for each label.
    fn confusion(&self, table: &Value) -> Option<String> {
        let rows = table.as_array()?;
        let names = self.lock.get("recipe")?.pointer("/objective/labels");
        let name = |index: usize| {
            let known = names.and_then(|names| names.get(index)?.as_str());
            cell(known.unwrap_or(&format!("LABEL_{index}")))
        };
        let columns = rows.first()?.as_array()?.len();
        let is_of_labels = columns != rows.len();
        let heads: Vec<String> = if is_of_labels {
            vec!["no".to_owned(), "yes".to_owned()]
        } else {
            (0..columns).map(name).collect()
        };
        let row = |(index, row): (usize, &Value)| {
            let counts = row.as_array().into_iter().flatten();
            let counts: Vec<String> = counts.map(Value::to_string).collect();
            let name = match (is_of_labels, index % 2) {
                (false, _) => name(index),
                (true, 0) => format!("{}: no", name(index / 2)),
                (true, _) => format!("{}: yes", name(index / 2)),
            };
            format!("| {name} | {} |\n", counts.join(" | "))
        };
        let rows: String = rows.iter().enumerate().map(row).collect();
        Some(format!(
            "\nHeld-out rows: the true class, and what it was taken for.\n\n| | {} |\n|---|{}\n\
            {rows}",
            heads.join(" | "),
            "---|".repeat(heads.len())
        ))
    }

    fn results(&self) -> Option<String> {
        let result = self.result.as_ref()?;
        let number = |key: &str| result.get(key).and_then(Value::as_f64);
        let whole = |key: &str| result.get(key).and_then(Value::as_u64);
        let steps = whole("steps").map(|steps| {
            format!(
                "- {} optimizer steps, {} tokens\n",
                grouped(steps),
                grouped(whole("tokens").unwrap_or(0))
            )
        });
        let objective = self.lock.get("recipe").and_then(|recipe| {
            recipe
                .pointer("/objective/type")
                .and_then(Value::as_str)
                .filter(|word| *word != "sft")
        });
        let unit = objective.map_or_else(
            || "nats a trained token".to_owned(),
            |word| format!("loss of `{word}`"),
        );
        let loss = number("loss")
            .map(|loss| format!("- Training loss of the last step: {loss:.4} {unit}\n"));
        let score = |what: &str, key: &str| {
            let loss = number(key)?;
            let more = if objective.is_none() {
                format!(", perplexity {:.2}", loss.exp())
            } else {
                figures(result.get(&key.replace("loss", "figures")))
            };
            Some(format!("- {what}: {loss:.4} {unit}{more}\n"))
        };
        let best = whole("best_step")
            .map_or_else(String::new, |step| format!(" (step {})", grouped(step)));
        let first = score("Held-out rows before training", "eval_loss_first");
        let kept = score(
            &format!("Held-out rows as it is here{best}"),
            "eval_loss_best",
        );
        let none = kept.is_none().then(|| {
            "- No rows were held out: how well it generalises was not measured\n".to_owned()
        });
        let confusion = result
            .get("eval_figures_best")
            .and_then(|figures| self.confusion(figures.get("eval_confusion")?));
        Some(
            [steps, loss, first, kept, none, confusion]
                .into_iter()
                .flatten()
                .collect(),
        )
    }
}

/// Returns figures of an objective as they go on in a line.
fn figures(of: Option<&Value>) -> String {
    let entries = of.and_then(Value::as_object).into_iter().flatten();
    let shown = entries.filter_map(|(key, value)| {
        let name = key.strip_prefix("eval_").unwrap_or(key);
        Some(format!(", {} {:.4}", code(name), value.as_f64()?))
    });
    shown.collect()
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str()
}

fn files(set: &Value) -> Vec<&Value> {
    set.get("files")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect()
}

fn said(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns what is known of a data file's license.
fn license(terms: &Terms) -> String {
    let stated = terms.license.as_ref().map(|license| {
        let place = terms
            .said_in
            .as_ref()
            .map_or_else(String::new, |place| format!(", as {} states", code(place)));
        format!("license {}{place}", named(license))
    });
    let notices = terms
        .notices
        .iter()
        .map(|name| code(name))
        .collect::<Vec<_>>()
        .join(", ");
    match (stated, notices.is_empty()) {
        (Some(stated), true) => stated,
        (Some(stated), false) => format!("{stated}; beside it {notices}"),
        (None, true) => "license not stated".to_owned(),
        (None, false) => format!("license as in {notices} beside it"),
    }
}
