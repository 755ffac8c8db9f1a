//! Takes the keys of a section by name and type. Anything that does not fit becomes a fault, and so
//! does every key that is left over.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;

use super::notes::{Notes, listed};
use super::place::{Location, Said};
use super::shape::Shape;
use super::synonyms;
use super::tree::{KeyValue, Node, NodeValue, shorten};
use crate::fault::{Fault, nearest};
use crate::terms::Term;

/// The range of numbers above 0 that f32 can hold.
pub(super) const ABOVE_ZERO: (Bound<f64>, Bound<f64>) =
    (Bound::Excluded(0.0), Bound::Included(1e30));

/// The keys of a section that are not taken yet.
pub(super) struct Section<'a> {
    name: String,
    place: &'a Location,
    entries: BTreeMap<&'a str, &'a KeyValue>,
    notes: &'a Notes,
}

/// A value that was written, with the name for messages, such as `datasets.0.format`.
pub(super) struct Value<'a> {
    pub name: String,
    pub node: &'a Node,
    pub notes: &'a Notes,
}

impl<'a> Section<'a> {
    /// Returns where the section starts.
    pub fn place(&self) -> &Location {
        self.place
    }

    /// Takes a key; `None` if it is left out or blank. `shape` is what it may hold.
    pub fn shaped(&mut self, key: &'static str, shape: Shape) -> Option<Value<'a>> {
        self.notes.know(&self.name, key);
        self.notes.describe(&self.name, key, shape);
        let entry = self.entries.remove(key)?;
        if entry.value.is_blank() {
            None
        } else {
            Some(self.named(key, &entry.value))
        }
    }

    /// Adds a fault if a key is left out or holds an empty list; `example` is a line that would be
    /// valid.
    pub fn require(&self, key: &'static str, example: &str) {
        self.notes.need(&self.name, key);
        if self
            .entries
            .get(key)
            .is_none_or(|entry| entry.value.is_empty())
        {
            let within = if self.name.is_empty() {
                String::new()
            } else {
                format!(" in `{}`", self.name)
            };
            let fault = Fault::new(format!("missing key `{key}`{within}"));
            self.notes.say(
                self.place,
                fault.hint(format!("add a line such as `{example}`")),
            );
        }
    }

    /// Takes a section; a missing one is read as an empty one.
    pub fn section<T>(&mut self, key: &'static str, take: fn(&mut Section) -> T) -> T {
        let read = self
            .shaped(key, Shape::Section)
            .and_then(|value| value.section(take));
        read.unwrap_or_else(|| take(&mut self.empty(key)))
    }

    /// Returns a section of this name without a key.
    fn empty(&self, key: &str) -> Section<'a> {
        Section {
            name: self.name_of(key),
            place: self.place,
            entries: BTreeMap::new(),
            notes: self.notes,
        }
    }

    /// Takes a list of sections; an element that is not a section is left out, with a fault.
    pub fn sections<T>(&mut self, key: &'static str, take: fn(&mut Section) -> T) -> Vec<T> {
        let elements = self
            .shaped(key, Shape::Sections)
            .and_then(Value::list)
            .unwrap_or_default();
        if self.notes.is_describing() {
            take(&mut self.empty(key));
        }
        elements
            .into_iter()
            .filter_map(|element| element.section(take))
            .collect()
    }

    /// Takes a list whose elements are texts or sections; any other element is left out, with a
    /// fault.
    pub fn texts_or_sections<T>(
        &mut self,
        key: &'static str,
        of_text: fn(String) -> T,
        take: fn(&mut Section) -> T,
    ) -> Vec<Said<T>> {
        let elements = self
            .shaped(key, Shape::TextsOrSections)
            .and_then(Value::list)
            .unwrap_or_default();
        if self.notes.is_describing() {
            take(&mut self.empty(key));
        }
        let element = |element: Value<'a>| {
            let place = element.node.place.clone();
            match element.node.kind {
                NodeValue::Map(_) => Some(Said {
                    value: element.section(take)?,
                    place,
                }),
                _ => Some(element.text()?.map(of_text)),
            }
        };
        elements.into_iter().filter_map(element).collect()
    }

    /// Takes a table whose keys the user chooses; `shape` is what each of them may hold.
    pub fn table_of<T>(
        &mut self,
        key: &'static str,
        shape: Shape,
        read: impl Fn(&str, Value<'a>) -> Option<Said<T>>,
    ) -> BTreeMap<String, Said<T>> {
        let entries = self
            .shaped(key, Shape::Table(Box::new(shape)))
            .and_then(Value::table)
            .unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), read(name, value)?)))
            .collect()
    }

    /// Takes a text.
    pub fn text(&mut self, key: &'static str) -> Option<Said<String>> {
        self.shaped(key, Shape::Text)?.text()
    }

    /// Takes a path as written.
    pub fn path(&mut self, key: &'static str) -> Option<Said<PathBuf>> {
        Some(self.text(key)?.map(PathBuf::from))
    }

    /// Takes a boolean.
    pub fn flag(&mut self, key: &'static str) -> Option<Said<bool>> {
        self.shaped(key, Shape::Flag)?.flag()
    }

    /// Takes a whole number within a range.
    pub fn whole<N: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        range: impl RangeBounds<u64>,
    ) -> Option<Said<N>> {
        self.shaped(key, Shape::whole(&range))?.whole(range)
    }

    /// Takes a finite number within a range.
    pub fn number(&mut self, key: &'static str, range: impl RangeBounds<f64>) -> Option<Said<f64>> {
        self.shaped(key, Shape::number(&range))?.number(range)
    }

    /// Takes one of a fixed set of words; `later` are words that are common elsewhere and not
    /// supported yet.
    pub fn word<T: Term>(&mut self, key: &'static str, later: &[&str]) -> Option<Said<T>> {
        let words = T::WORDS.iter().map(|(word, _)| *word).collect();
        self.shaped(key, Shape::Words(words))?.word(later)
    }

    fn named(&self, key: &str, node: &'a Node) -> Value<'a> {
        Value {
            name: self.name_of(key),
            node,
            notes: self.notes,
        }
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}

impl<'a> Value<'a> {
    /// Reads the value as a section; keys that `take` leaves are unknown.
    pub fn section<T>(self, take: fn(&mut Section) -> T) -> Option<T> {
        let NodeValue::Map(entries) = &self.node.kind else {
            let mut fault = self.unexpected("keys with values");
            fault.hint = self.of_others().or_else(|| self.of_a_dataset());
            self.refuse(fault);
            return None;
        };
        let entries = entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
            .collect();
        let mut section = Section {
            name: self.name,
            place: &self.node.place,
            entries,
            notes: self.notes,
        };
        let taken = take(&mut section);
        for (key, entry) in section.entries {
            self.notes.unknown(&section.name, key, entry);
        }
        Some(taken)
    }

    /// Reads a list of values.
    pub fn list(self) -> Option<Vec<Value<'a>>> {
        let NodeValue::List(nodes) = &self.node.kind else {
            let hint = self.of_a_dataset().map_or_else(
                || "start each element with `- `".to_owned(),
                |one| format!("{one} in a list"),
            );
            self.refuse(self.unexpected("a list").hint(hint));
            return None;
        };
        let named = |(index, node)| Value {
            name: format!("{}.{index}", self.name),
            node,
            notes: self.notes,
        };
        Some(nodes.iter().enumerate().map(named).collect())
    }

    /// Reads the entries of a table whose keys the user chooses; blank ones are left out.
    pub fn table(self) -> Option<Vec<(&'a str, Value<'a>)>> {
        let NodeValue::Map(entries) = &self.node.kind else {
            self.mismatch("keys with values");
            return None;
        };
        let named = |(key, entry): (&'a String, &'a KeyValue)| {
            let value = Value {
                name: format!("{}.{key}", self.name),
                node: &entry.value,
                notes: self.notes,
            };
            (key.as_str(), value)
        };
        Some(
            entries
                .iter()
                .filter(|(_, entry)| !entry.value.is_blank())
                .map(named)
                .collect(),
        )
    }

    /// Reads a text that is not empty.
    pub fn text(self) -> Option<Said<String>> {
        self.read("a text", |node| node.text().map(str::to_owned))
    }

    /// Reads a boolean.
    pub fn flag(self) -> Option<Said<bool>> {
        self.read("`true` or `false`", Node::flag)
    }

    /// Reads a whole number within a range.
    pub fn whole<N: TryFrom<u64>>(self, range: impl RangeBounds<u64>) -> Option<Said<N>> {
        let expected = format!("a whole number {}", in_words(&range));
        self.read(&expected, |node| {
            N::try_from(node.whole().filter(|number| range.contains(number))?).ok()
        })
    }

    /// Reads a finite number within a range.
    pub fn number(self, range: impl RangeBounds<f64>) -> Option<Said<f64>> {
        let expected = format!("a number {}", in_words(&range));
        self.read(&expected, |node| {
            node.number().filter(|number| range.contains(number))
        })
    }

    /// Reads one of a fixed set of words; those in `later` are refused for now.
    pub fn word<T: Term>(self, later: &[&str]) -> Option<Said<T>> {
        let words: Vec<&str> = T::WORDS
            .iter()
            .filter(|(word, meaning)| meaning.word() == *word)
            .map(|(word, _)| *word)
            .collect();
        let written = self.node.text().unwrap_or_default();
        if let Some(value) = T::parse(written) {
            return Some(Said {
                value,
                place: self.node.place.clone(),
            });
        }
        if later.contains(&written) {
            self.refuse_for_now(&format!("valid now: {}", listed(&words, "and")));
        } else {
            let mut fault = self.unexpected(&listed(&words, "or"));
            let near = || {
                nearest(written, words.iter().copied())
                    .map(|word| format!("did you mean `{word}`?"))
            };
            fault.hint = self.of_others().or_else(near);
            self.refuse(fault);
        }
        None
    }

    /// Reads the value with `read`, or adds a fault that says what was expected.
    pub fn read<T>(self, expected: &str, read: impl FnOnce(&Node) -> Option<T>) -> Option<Said<T>> {
        if let Some(value) = read(self.node) {
            return Some(Said {
                value,
                place: self.node.place.clone(),
            });
        }
        let fault = self.unexpected(expected);
        let is_quoted =
            |text: &str, written: &str| !text.is_empty() && written.starts_with(['"', '\'']);
        let quoted = matches!(
            &self.node.kind,
            NodeValue::Scalar { text, written, .. } if is_quoted(text, written)
        );
        self.refuse(match self.of_others() {
            Some(hint) => fault.hint(hint),
            None if quoted => fault.hint("remove the quotes: a value in quotes is a text"),
            None => fault,
        });
        None
    }

    /// Returns the hint for a value that another trainer uses.
    pub fn of_others(&self) -> Option<String> {
        synonyms::of_value(&self.name, self.node.text()?)
    }

    /// Returns the hint for a plain path where a dataset is expected.
    fn of_a_dataset(&self) -> Option<String> {
        let is_dataset = self
            .name
            .split('.')
            .rfind(|part| part.parse::<usize>().is_err())
            == Some("datasets");
        let path = self.node.text().filter(|_| is_dataset)?;
        Some(format!("write `{{path: {}, format: chat}}`", shorten(path)))
    }

    /// Adds a fault for this value, unless it has one already.
    pub fn refuse(&self, fault: Fault) {
        if self.node.kind != NodeValue::Refused {
            self.notes.refuse(&self.name, &self.node.place, fault);
        }
    }

    /// Adds the fault for a value that is common elsewhere and that Rankine does not support yet.
    pub fn refuse_for_now(&self, hint: &str) {
        self.refuse(
            Fault::new(format!(
                "{}: `{}` is not supported yet",
                self.name,
                self.node.shown()
            ))
            .hint(hint),
        );
    }

    /// Adds the fault for a value of the wrong type.
    pub fn mismatch(&self, expected: &str) {
        self.refuse(self.unexpected(expected));
    }

    fn unexpected(&self, expected: &str) -> Fault {
        Fault::new(format!(
            "{}: expected {expected}, found {}",
            self.name,
            self.node.found()
        ))
    }
}

/// Describes a range: `from 1`, `from 0 to 1`, `from 0 to below 1` or `above 0`.
fn in_words<T: std::fmt::Display>(range: &impl RangeBounds<T>) -> String {
    let start = match range.start_bound() {
        Bound::Included(start) => format!("from {start}"),
        Bound::Excluded(start) => format!("above {start}"),
        Bound::Unbounded => String::new(),
    };
    match range.end_bound() {
        Bound::Included(end) => format!("{start} to {}", without_zeros(&end.to_string())),
        Bound::Excluded(end) => format!("{start} to below {end}"),
        Bound::Unbounded => start,
    }
}

/// Shortens trailing zeros: `1e30` for a one with thirty zeros.
fn without_zeros(digits: &str) -> String {
    let head = digits.trim_end_matches('0');
    let zeros = digits.len() - head.len();
    if zeros > 9 {
        format!("{head}e{zeros}")
    } else {
        digits.to_owned()
    }
}
