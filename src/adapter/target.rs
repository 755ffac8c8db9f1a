//! Which projections get an adapter, and its rank and alpha there, as PEFT resolves them (`check_target_module_exists` and
//! `get_pattern_key` of <https://github.com/huggingface/peft>).

use std::collections::BTreeSet;

use regex::Regex;

use super::{Error, LoraConfig};

/// A choice of modules.
#[derive(Debug, Clone, PartialEq)]
pub enum Modules {
    /// Every projection of the blocks.
    AllLinear,
    /// Modules with one of these names, or whose name ends in `.` and one of them.
    Names(Vec<String>),
    /// Modules whose whole name matches.
    Regex(String),
}

/// Which projections get an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// Those chosen ..
    pub modules: Modules,
    /// .. but for these ..
    pub exclude: Option<Modules>,
    /// .. and, where names choose, only in these layers.
    pub layers: Option<Vec<usize>>,
    /// Names of the list that holds the layers; empty: any.
    pub layers_pattern: Vec<String>,
}

/// One adapter to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The module's name.
    pub module: String,
    /// r.
    pub rank: usize,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f64,
}

impl LoraConfig {
    /// The adapters for a model with these projections, in their order.
    ///
    /// # Errors
    /// A pattern is not a regular expression, or a name or pattern matches no projection.
    pub fn resolve(&self, projections: &[String]) -> Result<Vec<Target>, Error> {
        let chosen = self.targets.choose(projections)?;
        let ranks = Patterns::new(&self.rank_pattern, "rank_pattern", projections)?;
        let alphas = Patterns::new(&self.alpha_pattern, "alpha_pattern", projections)?;
        let target = |module: String| {
            let rank = ranks.find(&module).unwrap_or(self.rank);
            let alpha = alphas.find(&module).unwrap_or(self.alpha);
            #[allow(clippy::cast_precision_loss, reason = "ranks are small")]
            let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            Target { module, rank, scale: alpha / divisor }
        };
        Ok(chosen.into_iter().map(target).collect())
    }
}

impl Targets {
    /// All projections but the head, as PEFT's `all-linear`.
    pub fn all_linear() -> Self {
        Self { modules: Modules::AllLinear, exclude: None, layers: None, layers_pattern: Vec::new() }
    }

    fn choose(&self, projections: &[String]) -> Result<Vec<String>, Error> {
        let included = Matcher::new(&self.modules)?;
        let excluded = self.exclude.as_ref().map(Matcher::new).transpose()?;
        let layers = self.layer_filter()?;
        if let Modules::Names(names) = &self.modules {
            let unmatched = names.iter().filter(|name| !projections.iter().any(|module| named(module, name)));
            none_unmatched("target_modules", unmatched, projections)?;
        }
        let chosen: Vec<String> = projections
            .iter()
            .filter(|module| excluded.as_ref().is_none_or(|excluded| !excluded.matches(module)))
            .filter(|module| included.matches(module) && layers.as_ref().is_none_or(|layers| layers.matches(module)))
            .cloned()
            .collect();
        if chosen.is_empty() {
            none_unmatched("target_modules", [&self.describe()].into_iter(), projections)?;
        }
        Ok(chosen)
    }

    /// PEFT looks at `layers_to_transform` only where a list of names chooses.
    fn layer_filter(&self) -> Result<Option<LayerFilter>, Error> {
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else { return Ok(None) };
        if matches!(self.modules, Modules::Regex(_)) {
            return Ok(None);
        }
        let patterns = if self.layers_pattern.is_empty() {
            vec![compiled("", r"^.*?\.[^.]*\.(\d+)\.")?]
        } else {
            let of = |pattern: &String| compiled(pattern, &format!(r"^(?:.*?\.)?(?:{pattern})\.(\d+)\."));
            self.layers_pattern.iter().map(of).collect::<Result<_, _>>()?
        };
        Ok(Some(LayerFilter { patterns, layers: layers.clone() }))
    }

    fn describe(&self) -> String {
        let what = match &self.modules {
            Modules::AllLinear => "all-linear".to_owned(),
            Modules::Names(names) => names.join(", "),
            Modules::Regex(pattern) => pattern.clone(),
        };
        match &self.layers {
            Some(layers) => format!("{what} in layers {layers:?}"),
            None => what,
        }
    }
}

enum Matcher<'a> {
    All,
    Names(&'a [String]),
    Regex(Regex),
}

impl<'a> Matcher<'a> {
    fn new(modules: &'a Modules) -> Result<Self, Error> {
        Ok(match modules {
            Modules::AllLinear => Self::All,
            Modules::Names(names) => Self::Names(names),
            Modules::Regex(pattern) => Self::Regex(compiled(pattern, &format!("^(?:{pattern})$"))?),
        })
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.iter().any(|name| named(module, name)),
            Self::Regex(regex) => regex.is_match(module),
        }
    }
}

struct LayerFilter {
    patterns: Vec<Regex>,
    layers: Vec<usize>,
}

impl LayerFilter {
    fn matches(&self, module: &str) -> bool {
        let index = self.patterns.iter().find_map(|pattern| pattern.captures(module)).and_then(|found| found[1].parse().ok());
        index.is_some_and(|index: usize| self.layers.contains(&index))
    }
}

/// Values by pattern: a key matches a module's whole name or what follows a dot in it.
struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    fn new(patterns: &[(String, T)], what: &'static str, projections: &[String]) -> Result<Self, Error> {
        let compile = |(key, value): &(String, T)| Ok((compiled(key, &format!(r"^(?:.*\.)?(?:{key})$"))?, *value));
        let compiled = patterns.iter().map(compile).collect::<Result<Vec<_>, Error>>()?;
        let idle =
            compiled.iter().zip(patterns).filter(|((regex, _), _)| !projections.iter().any(|module| regex.is_match(module)));
        none_unmatched(what, idle.map(|(_, (key, _))| key), projections)?;
        Ok(Self(compiled))
    }

    fn find(&self, module: &str) -> Option<T> {
        self.0.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
    }
}

fn named(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|head| head.ends_with('.'))
}

/// The anchored form of a pattern; an error shows it as it was written.
fn compiled(pattern: &str, anchored: &str) -> Result<Regex, Error> {
    let reason =
        |error: regex::Error| error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Regex::new(anchored).map_err(|error| Error::Pattern { pattern: pattern.to_owned(), reason: reason(error) })
}

fn none_unmatched<'a>(
    what: &'static str,
    unmatched: impl Iterator<Item = &'a String>,
    projections: &[String],
) -> Result<(), Error> {
    let unmatched: Vec<String> = unmatched.map(|name| format!("`{name}`")).collect();
    if unmatched.is_empty() {
        return Ok(());
    }
    let leaves: BTreeSet<&str> = projections.iter().filter_map(|module| module.rsplit('.').next()).collect();
    let known = leaves.into_iter().map(|leaf| format!("`{leaf}`")).collect::<Vec<_>>().join(", ");
    Err(Error::NoMatch { what, unmatched, known })
}
