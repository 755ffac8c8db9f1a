//! Fits an adapter's config to a base. Where the names or the regular expression of the config do
//! not fit the base's modules, the tensors of the file tell where the adapter is.

use std::collections::BTreeSet;

use super::keys::Keys;
use crate::adapter::{AdapterError, LoraConfig, Targets};
use crate::files::safetensors::Archive;
use crate::model::LinearSpec;
use crate::nn::lora::Portion;
use crate::terms::{Modules, TokenIndices};

/// A config in terms of a base's modules, with notes about the changes.
pub(super) struct Fitted {
    pub config: LoraConfig,
    pub notes: Vec<String>,
}

/// Returns the config of an open file for a model with these modules.
///
/// # Errors
/// A pattern of ranks or alphas is not a regular expression, or neither config nor tensors name a
/// module.
pub(super) fn fitted(
    config: LoraConfig,
    archive: &Archive,
    modules: &[LinearSpec],
) -> Result<Fitted, AdapterError> {
    let keys = Keys::read(archive.shapes().keys()).on(modules);
    let ours: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
    let in_file: BTreeSet<&str> = keys.modules();
    let held: Vec<usize> = (0..ours.len())
        .filter(|index| in_file.contains(ours[*index].as_str()))
        .collect();
    let theirs: Vec<String> = ours
        .iter()
        .map(|name| as_in_file(name, keys.moved.as_ref()))
        .collect();
    let (chosen, note) = match config.resolve(&theirs) {
        Ok(_) => (config.clone(), None),
        // Some writers have the names of one version in their config and those of another in the
        // file.
        Err(_) if keys.moved.is_some() && config.resolve(&ours).is_ok() => {
            return Ok(Fitted {
                config,
                notes: keys.notes(),
            });
        }
        Err(error @ (AdapterError::Pattern { .. } | AdapterError::NoMatch { .. }))
            if !held.is_empty() =>
        {
            let names = held.iter().map(|index| theirs[*index].clone()).collect();
            let by_tensors = LoraConfig {
                targets: Targets::of(Modules::Names(names)),
                ..config.clone()
            };
            by_tensors.resolve(&theirs)?;
            (by_tensors, Some(told(&config, &error)))
        }
        Err(error) => return Err(error),
    };
    let config = match &keys.moved {
        None => chosen,
        Some(moved) => renamed(&chosen, [&theirs, &ours], moved)?,
    };
    Ok(Fitted {
        config,
        notes: keys.notes().into_iter().chain(note).collect(),
    })
}

/// Returns a module's name in the file.
fn as_in_file(name: &str, moved: Option<&[String; 2]>) -> String {
    let theirs = moved
        .and_then(|[theirs, ours]| Some(format!("{theirs}{}", name.strip_prefix(ours.as_str())?)));
    theirs.unwrap_or_else(|| name.to_owned())
}

/// Returns why the config does not tell where the adapter is.
fn told(config: &LoraConfig, error: &AdapterError) -> String {
    let why = match (error, &config.targets.modules) {
        (AdapterError::Pattern { pattern, reason }, modules) => {
            let key = if *modules == Modules::Regex(pattern.clone()) {
                "target_modules"
            } else {
                "exclude_modules"
            };
            format!(
                "`{key}` is `{pattern}`, a regular expression of Python that is not read here \
                ({reason})"
            )
        }
        (_, Modules::Names(names)) if names.is_empty() => {
            "`target_modules` names no module".to_owned()
        }
        _ => "`target_modules` names no module of this base".to_owned(),
    };
    format!("{why}; the tensors of the file say where the adapter is")
}

/// Rewrites the config with the base's names. Ranks and alphas are those that its patterns give to
/// the names in the file.
fn renamed(
    config: &LoraConfig,
    [theirs, ours]: [&[String]; 2],
    moved: &[String; 2],
) -> Result<LoraConfig, AdapterError> {
    let own = |name: &String| match name
        .strip_prefix(moved[0].as_str())
        .filter(|_| !moved[0].is_empty())
    {
        Some(rest) => format!("{}{rest}", moved[1]),
        None => name.clone(),
    };
    let (mut names, mut ranks, mut alphas) = (Vec::new(), Vec::new(), Vec::new());
    for target in config.resolve(theirs)? {
        let Some(name) = theirs
            .iter()
            .position(|name| *name == target.module)
            .map(|index| ours[index].clone())
        else {
            continue;
        };
        let (rank, alpha) = config.rank_and_alpha(&target.module)?;
        ranks.extend((rank != config.rank).then(|| (name.clone(), rank)));
        alphas.extend((alpha.to_bits() != config.alpha.to_bits()).then(|| (name.clone(), alpha)));
        names.extend((target.portion == Portion::Whole).then_some(name));
    }
    let mut renamed = config.clone();
    // Parameters of experts are told by the ends of their names.
    if config.target_parameters.is_empty() {
        (renamed.rank_pattern, renamed.alpha_pattern) = (ranks, alphas);
    }
    renamed.targets = Targets::of(Modules::Names(names));
    renamed.tables.saved = config.tables.saved.iter().map(own).collect();
    if let Some(TokenIndices::Modules(trained)) = &config.tables.tokens {
        let modules = trained
            .iter()
            .map(|(name, tokens)| (own(name), tokens.clone()))
            .collect();
        renamed.tables.tokens = Some(TokenIndices::Modules(modules));
    }
    Ok(renamed)
}
