//! Names of modules, and the patterns of names that choose among them, as PEFT matches them.

use std::collections::BTreeSet;

use regex::Regex;

use super::AdapterError;
use crate::model::PER_LAYER_PROJECTION;
use crate::terms::Modules;

/// A rule for names of modules.
pub(super) enum Matcher<'a> {
    All,
    Names(&'a [String]),
    Regex(Regex),
}

impl<'a> Matcher<'a> {
    pub fn new(modules: &'a Modules) -> Result<Self, AdapterError> {
        Ok(match modules {
            Modules::AllLinear => Self::All,
            Modules::Names(names) => Self::Names(names),
            Modules::Regex(pattern) => Self::Regex(compiled(pattern, &format!("^(?:{pattern})$"))?),
        })
    }

    pub fn matches(&self, module: &str) -> bool {
        match self {
            // Embedding and head are in no layer.
            Self::All => {
                let in_layer = module.split('.').any(|part| part.parse::<usize>().is_ok());
                in_layer || named(module, PER_LAYER_PROJECTION)
            }
            Self::Names(names) => names.iter().any(|name| named(module, name)),
            Self::Regex(regex) => regex.is_match(module),
        }
    }
}

/// A choice of layers, whose index stands where one of the patterns has it.
pub(super) struct LayerFilter {
    pub patterns: Vec<Regex>,
    pub layers: Vec<usize>,
}

impl LayerFilter {
    pub fn matches(&self, module: &str) -> bool {
        let index = self
            .patterns
            .iter()
            .find_map(|pattern| pattern.captures(module))
            .and_then(|found| found[1].parse().ok());
        index.is_some_and(|index: usize| self.layers.contains(&index))
    }
}

/// Values by pattern: a key matches a module's whole name or what follows a dot in it.
pub(super) struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    pub fn new(patterns: &[(String, T)]) -> Result<Self, AdapterError> {
        let compile = |(key, value): &(String, T)| {
            Ok((compiled(key, &format!(r"^(?:.*\.)?(?:{key})$"))?, *value))
        };
        Ok(Self(
            patterns
                .iter()
                .map(compile)
                .collect::<Result<_, AdapterError>>()?,
        ))
    }

    /// Returns the indices of patterns that match nothing.
    pub fn idle(&self, projections: &[String]) -> Vec<usize> {
        let matches = |regex: &Regex| projections.iter().any(|module| regex.is_match(module));
        self.0
            .iter()
            .enumerate()
            .filter(|(_, (regex, _))| !matches(regex))
            .map(|(index, _)| index)
            .collect()
    }

    pub fn find(&self, module: &str) -> Option<T> {
        self.0
            .iter()
            .find(|(regex, _)| regex.is_match(module))
            .map(|(_, value)| *value)
    }
}

/// Whether a name is a module's, or what follows a dot in it.
pub(super) fn named(module: &str, name: &str) -> bool {
    module == name
        || module
            .strip_suffix(name)
            .is_some_and(|head| head.ends_with('.'))
}

/// Compiles the anchored form of a pattern; an error shows it as it was written.
pub(super) fn compiled(pattern: &str, anchored: &str) -> Result<Regex, AdapterError> {
    let reason = |error: regex::Error| {
        error
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned()
    };
    Regex::new(anchored).map_err(|error| AdapterError::Pattern {
        pattern: pattern.to_owned(),
        reason: reason(error),
    })
}

/// Refuses names and patterns that match nothing.
pub(super) fn none_idle<'a>(
    what: &'static str,
    idle: impl Iterator<Item = &'a String>,
    projections: &[String],
) -> Result<(), AdapterError> {
    let idle: Vec<String> = idle.cloned().collect();
    if idle.is_empty() {
        Ok(())
    } else {
        Err(no_match(what, &idle, projections))
    }
}

pub(super) fn no_match(
    what: &'static str,
    idle: &[String],
    projections: &[String],
) -> AdapterError {
    let quoted = |names: &mut dyn Iterator<Item = &str>| {
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>()
    };
    let leaves: BTreeSet<&str> = projections
        .iter()
        .filter_map(|module| module.rsplit('.').next())
        .collect();
    let unmatched = quoted(&mut idle.iter().map(String::as_str));
    AdapterError::NoMatch {
        what,
        unmatched,
        known: quoted(&mut leaves.into_iter()).join(", "),
    }
}
