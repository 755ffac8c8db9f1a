//! Collects faults while a recipe is read, so that the user sees all of them at once, in the order
//! of the file.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::place::Location;
use super::schema::Key;
use super::shape::Shape;
use super::synonyms::{self, Scope};
use super::tree::{KeyValue, Node, shorten};
use crate::fault::{Fault, nearest};

/// The faults of one recipe and the names that its schema knows.
///
/// Readers of sections hold it by shared reference, hence the cells.
#[derive(Debug, Default)]
pub(super) struct Notes {
    faults: RefCell<Vec<(Location, Fault)>>,
    refused: RefCell<BTreeSet<String>>,
    known: RefCell<BTreeSet<(String, &'static str)>>,
    unknown: RefCell<Vec<Unknown>>,
    describing: Cell<bool>,
    described: RefCell<Vec<Key>>,
    needed: RefCell<BTreeSet<(String, &'static str)>>,
}

#[derive(Debug)]
struct Unknown {
    section: String,
    key: String,
    value: Node,
    place: Location,
}

impl Notes {
    /// Returns notes for a reader that only lists its keys and reads nothing.
    pub fn describing() -> Self {
        Self {
            describing: Cell::new(true),
            ..Self::default()
        }
    }

    /// Returns whether the reader only lists its keys.
    pub fn is_describing(&self) -> bool {
        self.describing.get()
    }

    /// Records what a key may hold if keys are being listed. If a key is taken twice, the first is
    /// kept.
    pub fn describe(&self, section: &str, key: &'static str, shape: Shape) {
        let mut described = self.described.borrow_mut();
        if self.is_describing()
            && !described
                .iter()
                .any(|known| known.section == section && known.name == key)
        {
            described.push(Key {
                section: section.to_owned(),
                name: key,
                shape,
                required: false,
            });
        }
    }

    /// Records that a key is required.
    pub fn need(&self, section: &str, key: &'static str) {
        if self.is_describing() {
            self.needed.borrow_mut().insert((section.to_owned(), key));
        }
    }

    /// Returns the recorded keys.
    pub fn into_keys(self) -> Vec<Key> {
        let needed = self.needed.into_inner();
        let required = |key: Key| Key {
            required: needed.contains(&(key.section.clone(), key.name)),
            ..key
        };
        self.described
            .into_inner()
            .into_iter()
            .map(required)
            .collect()
    }

    /// Adds a fault.
    pub fn say(&self, place: &Location, fault: Fault) {
        self.faults
            .borrow_mut()
            .push((place.clone(), fault.at(place)));
    }

    /// Adds a fault for a named value, such as `adapter.r`.
    pub fn refuse(&self, name: &str, place: &Location, fault: Fault) {
        self.refused.borrow_mut().insert(name.to_owned());
        self.say(place, fault);
    }

    /// Returns whether a value, or a part of it, was written and refused, so that nothing follows
    /// from its absence.
    pub fn is_refused(&self, name: &str) -> bool {
        self.refused
            .borrow()
            .iter()
            .any(|refused| refused.starts_with(name))
    }

    /// Records that the schema has a key in a section.
    pub fn know(&self, section: &str, key: &'static str) {
        self.known.borrow_mut().insert((schema_name(section), key));
    }

    /// Adds a key that the schema does not have. The nearest name is looked up at the end, when
    /// every name is known.
    pub fn unknown(&self, section: &str, key: &str, entry: &KeyValue) {
        let KeyValue { place, value } = entry.clone();
        self.unknown.borrow_mut().push(Unknown {
            section: section.into(),
            key: key.into(),
            value,
            place,
        });
    }

    /// Returns all faults in the order of the file, overrides last.
    pub fn into_faults(self) -> Vec<Fault> {
        for unknown in self.unknown.take() {
            let within = if unknown.section.is_empty() {
                String::new()
            } else {
                format!(" in `{}`", unknown.section)
            };
            let fault = Fault::new(format!("unknown key `{}`{within}", shorten(&unknown.key)));
            self.say(&unknown.place, fault.hint(self.hint_for(&unknown)));
        }
        let mut faults = self.faults.into_inner();
        faults.sort_by(|(one, _), (other, _)| one.cmp(other));
        faults.into_iter().map(|(_, fault)| fault).collect()
    }

    /// Returns the hint for an unknown key: the same name elsewhere, else the key that another
    /// trainer's word stands for, else the nearest name here, else the nearest elsewhere, else the
    /// names in the section.
    fn hint_for(&self, unknown: &Unknown) -> String {
        let known = self.known.borrow();
        let section = schema_name(&unknown.section);
        let of_others = |scope| synonyms::of_key(&section, &unknown.key, &unknown.value, scope);
        if let Some(hint) = of_others(Scope::Section) {
            return hint;
        }
        if let Some((home, key)) = known.iter().find(|(_, key)| *key == unknown.key) {
            return format!("`{key}` belongs {}", place_in_words(home));
        }
        if let Some(hint) = of_others(Scope::Anywhere) {
            return hint;
        }
        if let Some((outer, inner)) = unknown.key.split_once('.')
            && known
                .iter()
                .any(|(home, key)| *home == section && *key == outer)
        {
            return format!(
                "write `{outer}:` and in it `{}`; with a dot it is an override, after the recipe",
                shorten(inner)
            );
        }
        let here: Vec<&str> = known
            .iter()
            .filter(|(home, _)| *home == section)
            .map(|(_, key)| *key)
            .collect();
        if let Some(key) = nearest(&unknown.key, here.iter().copied()) {
            return format!("did you mean `{key}`?");
        }
        if let Some(key) = nearest(&unknown.key, known.iter().map(|(_, key)| *key))
            && let Some((home, _)) = known.iter().find(|(_, name)| *name == key)
        {
            return format!("did you mean `{key}`? It belongs {}", place_in_words(home));
        }
        format!("known keys here: {}", listed(&here, "and"))
    }
}

/// Returns the name of a section without element numbers: `datasets` for `datasets.0`.
fn schema_name(section: &str) -> String {
    section
        .split('.')
        .filter(|part| part.parse::<usize>().is_err())
        .collect::<Vec<_>>()
        .join(".")
}

fn place_in_words(section: &str) -> String {
    if section.is_empty() {
        "at the top of the recipe".into()
    } else {
        format!("in `{section}`")
    }
}

/// Lists words for the user: `` `a`, `b` or `c` ``.
pub(super) fn listed(words: &[&str], conjunction: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => {
            format!("{} {conjunction} {last}", rest.join(", "))
        }
        _ => quoted.concat(),
    }
}
