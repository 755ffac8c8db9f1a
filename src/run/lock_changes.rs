//! What has changed since a run started: its inputs, its recipe and its surroundings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::lock::{KINDS, Lock};
use super::places::Places;

/// What may differ when a run is resumed, although its results may then differ in their last bits.
const SURROUNDINGS: [(&str, &str); 5] = [
    ("rankine", "version of rankine"),
    ("device", "device"),
    ("gpu", "GPU or its driver"),
    ("threads", "number of threads"),
    ("cpu_features", "processor"),
];

impl Lock {
    /// Describes the inputs that have changed; `now` has them under this lock's names, `places`
    /// knows where they are.
    pub fn changed_inputs(&self, now: &Self, places: &Places) -> Vec<String> {
        // Each with its whole name in the lock, by the name that stays where a cache has moved.
        let files = |lock: &Self, kind: &str| {
            let named = lock
                .locked(kind)
                .into_iter()
                .map(|(key, hash)| (lock.name_in_cache(&key).to_owned(), (key, hash)));
            named.collect::<BTreeMap<_, _>>()
        };
        let of_kind = |(kind, words): (&str, &'static str)| {
            let (before, now) = (files(self, kind), files(now, kind));
            let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
            let gone = gone.map(|(_, (key, _))| (key.clone(), "is not read any more"));
            let hash_before = |name: &String| before.get(name).map(|(_, hash)| hash);
            let others = now
                .iter()
                .filter(|(name, (_, hash))| hash_before(name) != Some(hash));
            let how = |name: &String| {
                if before.contains_key(name) {
                    "has changed"
                } else {
                    "is new"
                }
            };
            let others = others.map(|(name, (key, _))| (key.clone(), how(name)));
            let told = |(key, how): (String, &str)| {
                format!(
                    "{words}: `{}` {how} since the run started",
                    places.shown(&key).display()
                )
            };
            gone.chain(others).map(told).collect::<Vec<_>>()
        };
        KINDS.into_iter().flat_map(of_kind).collect()
    }

    /// Describes the values of the recipe that differ from another lock of the same run.
    pub fn changed_recipe(&self, edited: &Self) -> Vec<String> {
        let (before, now) = (flat(&self.0["recipe"]), flat(&edited.0["recipe"]));
        let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let differs = keys
            .into_iter()
            .filter(|key| before.get(*key) != now.get(*key));
        let word = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), shown);
        differs
            .map(|key| {
                let (before, now) = (word(before.get(key)), word(now.get(key)));
                format!(
                    "recipe: `{key}` is {now}, the run went on with {before} up to its checkpoint"
                )
            })
            .collect()
    }

    /// Describes what else has changed.
    pub fn other_surroundings(&self, now: &Self) -> Vec<String> {
        let differs = |(key, words): (&str, &str)| {
            let [before, now] = [self, now].map(|lock| lock.0.get(key).unwrap_or(&Value::Null));
            let differs = || {
                format!(
                    "the {words} is {}, the run started with {}: its numbers may differ in their \
                    last bits",
                    shown(now),
                    shown(before)
                )
            };
            (before != now).then(differs)
        };
        SURROUNDINGS
            .into_iter()
            .filter(|(key, _)| self.0.contains_key(*key))
            .filter_map(differs)
            .collect()
    }

    /// Records that the run continued from a step, and the changes since its start.
    pub fn record(&mut self, now: &Self, step: u64, changes: &[String]) {
        let mut entry = json!({"step": step, "at": jiff::Timestamp::now().to_string()});
        for (key, _) in SURROUNDINGS
            .iter()
            .filter(|(key, _)| self.0.get(*key) != now.0.get(*key))
        {
            entry[*key] = now.0.get(*key).cloned().unwrap_or_default();
        }
        if !changes.is_empty() {
            entry["forced"] = json!(changes);
            entry["blake3"] = now.0["blake3"].clone();
        }
        let entries = self.0.entry("resumed").or_insert_with(|| json!([]));
        if let Some(entries) = entries.as_array_mut() {
            entries.push(entry);
        }
    }
}

/// Returns the values of a tree by their dotted keys.
fn flat(tree: &Value) -> BTreeMap<String, Value> {
    let below = |key: &str, value: &Value| {
        let joined = |(inner, value): (String, Value)| {
            (
                if inner.is_empty() {
                    key.to_owned()
                } else {
                    format!("{key}.{inner}")
                },
                value,
            )
        };
        flat(value).into_iter().map(joined).collect::<Vec<_>>()
    };
    match tree {
        Value::Object(entries) => entries
            .iter()
            .flat_map(|(key, value)| below(key, value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, value)| below(&index.to_string(), value))
            .collect(),
        leaf => BTreeMap::from([(String::new(), leaf.clone())]),
    }
}

fn shown(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_named() {
        let lock = |threads: usize, base: Value| {
            let lock = json!({
                "rankine": "0.1.0",
                "threads": threads,
                "device": "cpu",
                "cpu_features": [],
                "recipe": {},
                "blake3": base,
            });
            Lock(lock.as_object().cloned().expect("an object"))
        };
        let mut before = lock(
            2,
            json!({"base": {"a": "1", "b": "2"}, "datasets": {"d": "3"}}),
        );
        let now = lock(
            4,
            json!({"base": {"a": "1", "b": "x"}, "datasets": {"e": "3"}}),
        );
        let changes = before.changed_inputs(&now, &Places::default());
        let expected = [
            "base: `b` has changed since the run started",
            "data: `d` is not read any more since the run started",
            "data: `e` is new since the run started",
        ];
        assert_eq!(changes, expected);
        let others = before.other_surroundings(&now);
        assert_eq!(
            others,
            [
                "the number of threads is 4, the run started with 2: its numbers may \
                differ in their last bits"
            ]
        );
        assert!(
            before
                .changed_inputs(&before.clone(), &Places::default())
                .is_empty()
        );

        assert_eq!(
            before.base_files(),
            [("a".into(), "1".into()), ("b".into(), "2".into())]
        );
        before.record(&now, 7, &changes);
        assert_eq!(
            before.base_files(),
            [("a".into(), "1".into()), ("b".into(), "x".into())],
            "what was read last"
        );
        let entry = &before.0["resumed"][0];
        assert_eq!(
            (&entry["step"], &entry["threads"], &entry["forced"][0]),
            (&json!(7), &json!(4), &json!(expected[0]))
        );
        let text = before.text();
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("lock"), &text).expect("written");
        assert_eq!(
            Lock::read(&dir.path().join("lock")).expect("read").text(),
            text
        );
    }
}
