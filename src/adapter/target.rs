//! Chooses the projections that get an adapter, with rank and alpha for each, as PEFT resolves them
//! (`check_target_module_exists` and `get_pattern_key` of <https://github.com/huggingface/peft>).

use std::collections::BTreeSet;

use super::experts::Routed;
use super::module_names::{LayerFilter, Matcher, Patterns, compiled, named, no_match, none_idle};
use super::tables::TableTarget;
use super::{AdapterError, LoraConfig};
use crate::model::{LinearSpec, Role};
use crate::nn::lora::Portion;
use crate::terms::Modules;

/// The choice of projections that get an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// The modules that are chosen.
    pub modules: Modules,
    /// The modules that are excluded again.
    pub exclude: Option<Modules>,
    /// The only layers in which names choose modules; `None`: all layers.
    pub layers: Option<Vec<usize>>,
    /// Names of the list that holds the layers; empty: any name.
    pub layers_pattern: Vec<String>,
}

/// A module that gets an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The module's name.
    pub module: String,
    /// The rank r.
    pub rank: usize,
    /// The scale, alpha / r or alpha / sqrt(r).
    pub scale: f64,
    /// The part of the adapted tensor that the module is.
    pub portion: Portion,
}

impl Target {
    /// Returns the key for drawing one of its matrices: the maps of one parameter share an A.
    pub(super) fn drawn_by(&self, matrix: &str) -> String {
        match Routed::of(&self.module)
            .filter(|_| self.portion != Portion::Whole && matrix == "lora_A")
        {
            Some(routed) => format!("{}.{}", routed.parameter, routed.expert),
            None => self.module.clone(),
        }
    }
}

impl LoraConfig {
    /// Returns the adapters for a model with these projections, in their order.
    ///
    /// # Errors
    /// A pattern is not a regular expression, or nothing is chosen.
    pub fn resolve(&self, projections: &[String]) -> Result<Vec<Target>, AdapterError> {
        let of_parameters = |module: &String| {
            Routed::of(module).filter(|routed| routed.is_of(&self.target_parameters))
        };
        let has_parameters = !self.target_parameters.is_empty()
            && projections
                .iter()
                .any(|module| of_parameters(module).is_some());
        let chosen = match self.targets.choose(projections) {
            // Parameters alone are enough.
            Err(AdapterError::NoMatch { .. }) if has_parameters => BTreeSet::new(),
            chosen => chosen?.into_iter().collect(),
        };
        let (ranks, alphas) = (
            Patterns::new(&self.rank_pattern)?,
            Patterns::new(&self.alpha_pattern)?,
        );
        let target = |module: &String| {
            let parameter = of_parameters(module);
            let (named, portion) = match &parameter {
                Some(routed) => (&routed.parameter, routed.portion()),
                None if chosen.contains(module) => (module, Portion::Whole),
                None => return None,
            };
            let rank = ranks.find(named).unwrap_or(self.rank);
            let alpha = alphas.find(named).unwrap_or(self.alpha);
            let divisor = if self.use_rslora {
                (rank as f64).sqrt()
            } else {
                rank as f64
            };
            Some(Target {
                module: module.clone(),
                rank,
                scale: alpha / divisor,
                portion,
            })
        };
        Ok(projections.iter().filter_map(target).collect())
    }

    /// Returns rank and alpha of a module.
    ///
    /// # Errors
    /// A pattern is not a regular expression.
    pub(super) fn rank_and_alpha(&self, module: &str) -> Result<(usize, f64), AdapterError> {
        let (ranks, alphas) = (
            Patterns::new(&self.rank_pattern)?,
            Patterns::new(&self.alpha_pattern)?,
        );
        Ok((
            ranks.find(module).unwrap_or(self.rank),
            alphas.find(module).unwrap_or(self.alpha),
        ))
    }

    /// Returns the count of numbers that train in a model with these modules.
    ///
    /// # Errors
    /// See [`LoraConfig::resolve`] and [`LoraConfig::table_targets`].
    pub fn parameters(&self, projections: &[LinearSpec]) -> Result<usize, AdapterError> {
        let names: Vec<String> = projections
            .iter()
            .map(|linear| linear.name.clone())
            .collect();
        let targets = self.resolve(&names)?;
        let of = |target: &Target| {
            let linear = projections
                .iter()
                .find(|linear| linear.name == target.module)?;
            let of_a = if target.portion == Portion::Behind {
                0
            } else {
                linear.inputs
            };
            Some(target.rank * (of_a + linear.outputs) + self.vector.map_or(0, |_| linear.outputs))
        };
        let tables = self.table_targets(projections)?;
        let of_tables = tables
            .iter()
            .filter_map(TableTarget::shape)
            .map(|[rows, width]| rows * width);
        let width = projections
            .iter()
            .find(|linear| linear.role == Role::Embedding)
            .map_or(0, |linear| linear.weight_shape()[1]);
        let of_score = self.score.as_ref().map(|score| score.parameters(width));
        let all = targets.iter().filter_map(of).chain(of_tables);
        Ok(all.chain(of_score).sum())
    }

    /// Refuses names and patterns that match no projection: in a recipe they are faults, while PEFT
    /// ignores them in a folder.
    ///
    /// # Errors
    /// The first key with such a name or pattern is the error.
    pub fn check_names(&self, projections: &[String]) -> Result<(), AdapterError> {
        if let Modules::Names(names) = &self.targets.modules {
            let idle = |name: &&String| !projections.iter().any(|module| named(module, name));
            none_idle("target_modules", names.iter().filter(idle), projections)?;
        }
        let ranks = Patterns::new(&self.rank_pattern)?.idle(projections);
        none_idle(
            "rank_pattern",
            ranks.iter().map(|index| &self.rank_pattern[*index].0),
            projections,
        )?;
        let parameter = |name: &&String| {
            !projections.iter().any(|module| {
                Routed::of(module).is_some_and(|routed| routed.is_of(std::slice::from_ref(*name)))
            })
        };
        none_idle(
            "target_parameters",
            self.target_parameters.iter().filter(parameter),
            projections,
        )?;
        let alphas = Patterns::new(&self.alpha_pattern)?.idle(projections);
        none_idle(
            "alpha_pattern",
            alphas.iter().map(|index| &self.alpha_pattern[*index].0),
            projections,
        )
    }
}

impl Targets {
    /// Chooses all projections except the head, as PEFT's `all-linear`.
    pub fn all_linear() -> Self {
        Self::of(Modules::AllLinear)
    }

    /// Chooses modules in all layers.
    pub fn of(modules: Modules) -> Self {
        Self {
            modules,
            exclude: None,
            layers: None,
            layers_pattern: Vec::new(),
        }
    }

    /// Excludes modules that are saved whole. PEFT gives them no matrices, however modules are
    /// chosen.
    #[must_use]
    pub(super) fn without(mut self, saved: &[String]) -> Self {
        if saved.is_empty() {
            return self;
        }
        match (&mut self.modules, &mut self.exclude) {
            (Modules::Names(names), _) => {
                names.retain(|name| !saved.iter().any(|saved| named(name, saved)));
            }
            (Modules::Regex(_), None) => self.exclude = Some(Modules::Names(saved.to_vec())),
            (Modules::Regex(_), Some(Modules::Names(names))) => names.extend_from_slice(saved),
            (Modules::AllLinear | Modules::Regex(_), _) => {}
        }
        self
    }

    fn choose(&self, projections: &[String]) -> Result<Vec<String>, AdapterError> {
        let included = Matcher::new(&self.modules)?;
        let excluded = self.exclude.as_ref().map(Matcher::new).transpose()?;
        let layers = self.layer_filter()?;
        let is_named_in_full = |module: &String| match &self.modules {
            Modules::Names(names) => names.contains(module),
            Modules::AllLinear | Modules::Regex(_) => false,
        };
        let in_layers = |module: &String| {
            layers.as_ref().is_none_or(|layers| layers.matches(module)) || is_named_in_full(module)
        };
        let chosen: Vec<String> = projections
            .iter()
            .filter(|module| {
                excluded
                    .as_ref()
                    .is_none_or(|excluded| !excluded.matches(module))
            })
            .filter(|module| {
                included.matches(module) && in_layers(module) && self.reaches(module, projections)
            })
            .cloned()
            .collect();
        if chosen.is_empty() {
            Err(no_match("target_modules", &[self.describe()], projections))
        } else {
            Ok(chosen)
        }
    }

    /// Whether a choice reaches a module. Routed experts must be named. As in PEFT, a name that an
    /// expert's modules have means theirs, not those of a dense or shared feed-forward with the
    /// same name.
    fn reaches(&self, module: &str, projections: &[String]) -> bool {
        let routed = Routed::of(module);
        match &self.modules {
            Modules::AllLinear => routed.is_none(),
            Modules::Regex(_) => routed.is_none_or(|routed| routed.is_module),
            Modules::Names(names) => {
                let is_of_experts = |name: &String| {
                    let is_leaf = !name.contains('.');
                    is_leaf
                        && projections
                            .iter()
                            .any(|other| named(other, name) && Routed::of(other).is_some())
                };
                let by = names.iter().find(|name| named(module, name));
                routed.map_or_else(|| !by.is_some_and(is_of_experts), |routed| routed.is_module)
            }
        }
    }

    /// Returns the filter of layers. PEFT uses `layers_to_transform` only where the end of a name
    /// chooses, not a whole name or a regular expression.
    fn layer_filter(&self) -> Result<Option<LayerFilter>, AdapterError> {
        let Some(layers) = self.layers.as_ref().filter(|layers| !layers.is_empty()) else {
            return Ok(None);
        };
        if matches!(self.modules, Modules::Regex(_)) {
            return Ok(None);
        }
        let patterns = if self.layers_pattern.is_empty() {
            vec![compiled("", r"^.*?\.[^.]*\.(\d+)\.")?]
        } else {
            let of = |pattern: &String| {
                compiled(pattern, &format!(r"^(?:.*?\.)?(?:{pattern})\.(\d+)\."))
            };
            self.layers_pattern
                .iter()
                .map(of)
                .collect::<Result<_, _>>()?
        };
        Ok(Some(LayerFilter {
            patterns,
            layers: layers.clone(),
        }))
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
