//! The draft of a recipe: lines by key, each with the config keys that it comes from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::super::place::Location;
use super::super::schema;
use super::super::tree::{Node, NodeValue, shorten};
use super::super::{from_bytes, keys};
use super::key_outcome::{ImportedKey, KeyOutcome};
use super::text::{flow, unquoted};
use super::{Given, Imported, Rule, Table, Tool, rule};

/// Sections of a recipe in order; the top of the recipe has no name.
const SECTIONS: [&str; 6] = [
    "tokens",
    "objective",
    "adapter",
    "training",
    "evaluation",
    "output",
];
/// The most rounds of reading the draft. The reader finds faults line by line, and a recipe has
/// fewer lines.
const MOST_ROUNDS: usize = 200;

/// A line of the recipe.
#[derive(Debug, Clone)]
struct Line {
    value: String,
    /// The index of the config key among `keys`.
    from: Option<usize>,
}

/// A dataset of the recipe: keys with values, under notes.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    pub lines: Vec<(&'static str, String)>,
    pub notes: Vec<String>,
}

pub(super) struct Draft<'a> {
    pub tool: Tool,
    /// Paths of the config that `${..}` refers to: keys that stand for values elsewhere.
    pub variables: Vec<String>,
    /// The folder of the config.
    pub folder: PathBuf,
    pub root: &'a Node,
    pub train: Vec<Data>,
    pub validation: Vec<Data>,
    name: String,
    lines: BTreeMap<String, Line>,
    keys: Vec<ImportedKey>,
    added: Vec<(String, String, String)>,
    current: Option<usize>,
    prefix: String,
}

impl<'a> Draft<'a> {
    pub fn new(tool: Tool, path: &Path, root: &'a Node) -> Self {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .to_owned();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            tool,
            variables: Vec::new(),
            folder,
            root,
            train: Vec::new(),
            validation: Vec::new(),
            name,
            lines: BTreeMap::new(),
            keys: Vec::new(),
            added: Vec::new(),
            current: None,
            prefix: String::new(),
        }
    }

    /// Returns a value of the config by its path; `None` if it is left out or blank.
    pub fn at(&self, path: &str) -> Option<&'a Node> {
        let mut node = self.root;
        for key in path.split('.') {
            let NodeValue::Map(entries) = &node.kind else {
                return None;
            };
            node = &entries.get(key)?.value;
        }
        Some(node).filter(|node| !node.is_blank())
    }

    /// Returns a top-level value of the config.
    pub fn root_at(&self, key: &str) -> Option<&'a Node> {
        let NodeValue::Map(entries) = &self.root.kind else {
            return None;
        };
        entries.get(key).map(|entry| &entry.value)
    }

    /// Returns a text of the config.
    pub fn text(&self, path: &str) -> Option<&'a str> {
        self.at(path)?.text()
    }

    /// Returns whether a flag of the config is on.
    pub fn is_on(&self, path: &str) -> bool {
        self.at(path)
            .is_some_and(|node| unquoted(node).flag() == Some(true))
    }

    /// Returns whether the recipe has a line for a key.
    pub fn has(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// Writes a line for the current key. A second, different value for the line is refused.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> KeyOutcome {
        let value = value.into();
        if let Some(line) = self.lines.get(key)
            && line.value != value
            && line.from.is_some()
        {
            return KeyOutcome::refused(format!("another key says `{key}: {}`", line.value));
        }
        let outcome = KeyOutcome::Mapped(format!("{key}: {value}"));
        self.lines.insert(
            key.to_owned(),
            Line {
                value,
                from: self.current,
            },
        );
        outcome
    }

    /// Writes a line that the config does not contain, with the reason.
    pub fn add(&mut self, key: &str, value: impl Into<String>, why: &str) {
        let value = value.into();
        if !self.has(key) {
            self.added
                .push((key.to_owned(), value.clone(), why.to_owned()));
            self.lines
                .insert(key.to_owned(), Line { value, from: None });
        }
    }

    /// Writes a default of the tool if the config has none of the keys in `told_by`.
    pub fn default(&mut self, told_by: &[&str], key: &str, value: &str) {
        if told_by.iter().all(|path| self.at(path).is_none()) {
            let why = format!("{}'s default", self.tool.name());
            self.add(key, value, &why);
        }
    }

    /// Assigns each key its outcome by its rule.
    pub fn walk(&mut self, tables: &[Table]) {
        self.walk_map(self.root, "", "", tables);
    }

    /// Assigns each key of a further file its outcome; `prefix` names the file.
    pub fn walk_file(&mut self, root: &'a Node, prefix: &str, tables: &[Table]) {
        let before = std::mem::replace(&mut self.root, root);
        self.prefix = format!("{prefix}: ");
        self.walk(tables);
        self.prefix.clear();
        self.root = before;
    }

    fn walk_map(&mut self, map: &'a Node, path: &str, shown: &str, tables: &[Table]) {
        let NodeValue::Map(entries) = &map.kind else {
            return;
        };
        let mut in_order: Vec<_> = entries.iter().collect();
        in_order.sort_by(|(_, one), (_, other)| one.place.cmp(&other.place));
        for (name, entry) in in_order {
            let (path, shown) = (joined(path, name), joined(shown, name));
            let given = Given {
                name,
                node: &entry.value,
                parent: map,
            };
            match rule(tables, &path) {
                Some(Rule::Within) if !entry.value.is_empty() => match &entry.value.kind {
                    NodeValue::Map(_) => self.walk_map(&entry.value, &path, &shown, tables),
                    NodeValue::List(nodes)
                        if nodes
                            .iter()
                            .all(|node| matches!(node.kind, NodeValue::Map(_))) =>
                    {
                        for (index, node) in nodes.iter().enumerate() {
                            self.walk_map(
                                node,
                                &format!("{path}[]"),
                                &format!("{shown}.{index}"),
                                tables,
                            );
                        }
                    }
                    _ => self.judge(&shown, &entry.place, &given, |_, _| {
                        KeyOutcome::refused("expected keys with values")
                    }),
                },
                None if self.is_variable(&path, &entry.value) => {
                    self.judge(&shown, &entry.place, &given, |_, _| {
                        KeyOutcome::dropped("its value stands where `${..}` names it")
                    });
                }
                found => self.judge(&shown, &entry.place, &given, |draft, given| {
                    draft.outcome(found, given)
                }),
            }
        }
    }

    /// Returns whether every value of a key is referred to elsewhere.
    fn is_variable(&self, path: &str, node: &Node) -> bool {
        match &node.kind {
            NodeValue::Map(entries) => entries
                .iter()
                .all(|(name, entry)| self.is_variable(&joined(path, name), &entry.value)),
            _ => self.variables.iter().any(|variable| variable == path),
        }
    }

    fn judge(
        &mut self,
        shown: &str,
        place: &Location,
        given: &Given,
        outcome: impl FnOnce(&mut Self, &Given) -> KeyOutcome,
    ) {
        let index = self.keys.len();
        let key = format!("{}{shown}", self.prefix);
        let value = if given.node.is_blank() {
            String::new()
        } else {
            given.node.shown()
        };
        self.keys.push(ImportedKey {
            key,
            value,
            place: place.clone(),
            outcome: KeyOutcome::dropped(""),
        });
        self.current = Some(index);
        let outcome = outcome(self, given);
        self.keys[index].outcome = outcome;
        self.current = None;
    }

    fn outcome(&mut self, rule: Option<Rule>, given: &Given) -> KeyOutcome {
        let unknown = || {
            KeyOutcome::refused(format!(
                "{} has no such key that is known here",
                self.tool.name()
            ))
        };
        let Some(rule) = rule else { return unknown() };
        if given.node.is_blank() {
            return KeyOutcome::dropped("blank: not set");
        }
        let names_nothing = self.tool == Tool::Torchtune && given.node.shown().contains("${");
        match rule {
            Rule::Dropped(reason) => KeyOutcome::dropped(reason),
            _ if names_nothing => {
                KeyOutcome::refused("`${..}` names nothing that this config says")
            }
            Rule::Refused(reason) | Rule::SameIfKnown(_, reason) if is_off(given.node) => {
                KeyOutcome::dropped(format!("turned off ({reason})"))
            }
            Rule::Refused(reason) => KeyOutcome::refused(reason),
            Rule::SameIfKnown(key, reason) => {
                if schema::has(key) {
                    self.same(key, given)
                } else {
                    KeyOutcome::refused(reason)
                }
            }
            Rule::Same(key) => self.same(key, given),
            Rule::Within => KeyOutcome::dropped("empty: not set"),
            Rule::Read(read) => read(self, given),
        }
    }

    /// Copies the value. A number in quotes becomes a number.
    pub fn same(&mut self, key: &str, given: &Given) -> KeyOutcome {
        let node = unquoted(given.node);
        let value = if node.number().is_some() || node.flag().is_some() {
            flow(&node)
        } else {
            flow(given.node)
        };
        self.set(key, value)
    }

    /// Changes the outcome of every key of a name to a refusal, once its value is seen not to go
    /// with another.
    pub fn refuse(&mut self, key: &str, reason: &str) {
        let found = self.keys.iter_mut().filter(|found| found.key == key);
        for key in found {
            key.outcome = KeyOutcome::refused(reason);
        }
    }

    /// Refuses a key that the config leaves out, if the tool's default is something that Rankine
    /// cannot do.
    pub fn refuse_whole(&mut self, key: &str, reason: &str) {
        let outcome = KeyOutcome::refused(reason);
        self.keys.push(ImportedKey {
            key: key.to_owned(),
            value: String::new(),
            place: self.root.place.clone(),
            outcome,
        });
    }

    /// Returns the recipe and the outcomes. What the recipe's reader does not accept is refused
    /// with its message.
    pub fn into_imported(mut self) -> Imported {
        for _ in 0..MOST_ROUNDS {
            let (text, owners) = self.render(false);
            let recipe = from_bytes(Path::new("recipe"), text.as_bytes(), &[]);
            // A key that is missing is nobody's line.
            let told = recipe
                .faults
                .iter()
                .filter(|fault| !fault.message.starts_with("missing key"));
            let faults: Vec<(usize, String)> = told
                .filter_map(|fault| Some((line_of(fault)?, fault.message.clone())))
                .collect();
            let first = faults.iter().find_map(|(line, message)| {
                Some((owners.get(line - 1)?.clone()?, message.clone()))
            });
            let Some((key, message)) = first else { break };
            let Some(line) = self.lines.remove(&key) else {
                break;
            };
            match line.from {
                Some(index) => {
                    self.keys[index].outcome =
                        KeyOutcome::refused(format!("the recipe does not take it: {message}"));
                }
                None => self.added.retain(|(added, ..)| *added != key),
            }
        }
        self.refuse_missing();
        let recipe = self.render(true).0;
        Imported {
            tool: self.tool,
            keys: self.keys,
            added: self.added,
            recipe,
        }
    }

    /// Refuses a recipe without a base or data.
    fn refuse_missing(&mut self) {
        let missing = [
            ("base_model", self.has("base_model")),
            ("datasets", !self.train.is_empty()),
        ];
        for (key, _) in missing.iter().filter(|(_, is_there)| !is_there) {
            if self
                .keys
                .iter()
                .any(|key| matches!(key.outcome, KeyOutcome::Refused(_)))
            {
                continue;
            }
            let outcome = KeyOutcome::refused(format!(
                "a recipe needs `{key}`, and nothing in this config says it"
            ));
            self.keys.push(ImportedKey {
                key: self.name.clone(),
                value: String::new(),
                place: self.root.place.clone(),
                outcome,
            });
        }
    }

    /// Returns the recipe's text, and the key of each of its lines.
    fn render(&self, with_notes: bool) -> (String, Vec<Option<String>>) {
        let mut page = Page::default();
        page.comment(&format!(
            "Imported from {}'s `{}` by rankine {}.",
            self.tool.name(),
            shorten(&self.name),
            env!("CARGO_PKG_VERSION")
        ));
        let tops = self.keys_of("");
        let (before, after): (Vec<_>, Vec<_>) = tops
            .into_iter()
            .partition(|key| key.as_str() == "base_model");
        for key in before {
            self.line(&mut page, &key, "", with_notes);
        }
        page.data("datasets", "", &self.train, with_notes);
        for key in after {
            self.line(&mut page, &key, "", with_notes);
        }
        for section in SECTIONS {
            let keys = self.keys_of(section);
            let has_data = section == "evaluation" && !self.validation.is_empty();
            if !keys.is_empty() || has_data {
                page.push("", None);
                page.push(&format!("{section}:"), None);
            }
            for key in keys {
                self.line(&mut page, &key, "  ", with_notes);
            }
            if has_data {
                page.data("datasets", "  ", &self.validation, with_notes);
            }
        }
        if with_notes {
            self.notes(&mut page);
        }
        (page.text, page.owners)
    }

    /// Returns the keys of a section in the order in which a recipe is written.
    fn keys_of(&self, section: &str) -> Vec<String> {
        let of = |key: &&String| key.rsplit_once('.').map_or("", |(section, _)| section) == section;
        let mut found: Vec<String> = self.lines.keys().filter(of).cloned().collect();
        found.sort_by_key(|key| {
            keys::KEYS
                .iter()
                .position(|words| words.key == key)
                .unwrap_or(usize::MAX)
        });
        found
    }

    fn line(&self, page: &mut Page, key: &str, indent: &str, with_notes: bool) {
        let line = &self.lines[key];
        let name = key.rsplit('.').next().unwrap_or(key);
        if with_notes {
            let note =
                line.from
                    .map(|index| &self.keys[index])
                    .and_then(|key| match &key.outcome {
                        KeyOutcome::Replaced(note) => Some(format!("{}: {note}", key.key)),
                        _ => None,
                    });
            let added = self
                .added
                .iter()
                .find(|(added, ..)| added == key)
                .map(|(_, _, why)| why.clone());
            for note in note.into_iter().chain(added) {
                page.indented_comment(indent, &note);
            }
        }
        page.push(&format!("{indent}{name}: {}", line.value), Some(key));
    }

    /// Writes comments for replaced values without a line of their own, and for refused keys.
    fn notes(&self, page: &mut Page) {
        let has_line = |index: usize| self.lines.values().any(|line| line.from == Some(index));
        let replaced = self.keys.iter().enumerate().filter(|(index, key)| {
            matches!(key.outcome, KeyOutcome::Replaced(_)) && !has_line(*index)
        });
        let refused = self
            .keys
            .iter()
            .filter(|key| matches!(key.outcome, KeyOutcome::Refused(_)));
        let lists: [(&str, Vec<&ImportedKey>); 2] = [
            (
                "Replaced: read these before the first run.",
                replaced.map(|(_, key)| key).collect(),
            ),
            (
                "Refused: these keys are not in this recipe.",
                refused.collect(),
            ),
        ];
        for (heading, keys) in lists.into_iter().filter(|(_, keys)| !keys.is_empty()) {
            page.push("", None);
            page.comment(heading);
            for key in keys {
                let value = if key.value.is_empty() {
                    String::new()
                } else {
                    format!(": {}", key.value)
                };
                page.comment(&format!("- {}{value}: {}", key.key, key.outcome.words()));
            }
        }
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Returns whether a value is off: blank, `false`, `none`, 0 or empty.
pub(super) fn is_off(node: &Node) -> bool {
    let node = unquoted(node);
    node.is_neutral() || node.number() == Some(0.0)
}

/// Returns the line of a fault's place.
fn line_of(fault: &crate::fault::Fault) -> Option<usize> {
    fault
        .place
        .as_deref()?
        .strip_prefix("recipe:")?
        .split(':')
        .next()?
        .parse()
        .ok()
}

/// Lines of a recipe with their keys.
#[derive(Default)]
struct Page {
    text: String,
    owners: Vec<Option<String>>,
}

impl Page {
    fn push(&mut self, line: &str, owner: Option<&str>) {
        let _ = writeln!(self.text, "{line}");
        self.owners.push(owner.map(str::to_owned));
    }

    fn comment(&mut self, text: &str) {
        self.indented_comment("", text);
    }

    /// Writes a comment on one line, so that nothing of a config becomes a line of the recipe.
    fn indented_comment(&mut self, indent: &str, text: &str) {
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        self.push(&format!("{indent}# {text}"), None);
    }

    fn data(&mut self, key: &str, indent: &str, data: &[Data], with_notes: bool) {
        if data.is_empty() {
            return;
        }
        self.push(&format!("{indent}{key}:"), None);
        for data in data {
            if with_notes {
                data.notes
                    .iter()
                    .for_each(|note| self.indented_comment(&format!("{indent}  "), note));
            }
            for (index, (key, value)) in data.lines.iter().enumerate() {
                let dash = if index == 0 { "- " } else { "  " };
                self.push(&format!("{indent}  {dash}{key}: {value}"), None);
            }
        }
    }
}
