//! Reads the rotation as transformers 5 (`rope_parameters`) and 4 (`rope_theta` and `rope_scaling`)
//! write it. Where both are there, `rope_scaling` counts.

use serde_json::json;

use super::{ConfigJson, ModelError, list};
use crate::nn::rope::{Pairs, QueryGrowth, RopeScaling, RopeSpec};

/// The keys of the section that transformers reads; others may mean another rotation.
const KEYS: [&str; 17] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_factor",
    "long_factor",
    "partial_rotary_factor",
    "finetuned",
];
const KNOWN: [&str; 6] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];
/// The sections, in order of precedence.
const SECTIONS: [&str; 2] = ["rope_scaling", "rope_parameters"];
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
const PROPORTIONAL: &str = "proportional";

/// A family's way of reading the section.
struct Reading<'a> {
    config: &'a ConfigJson,
    head_dim: usize,
    /// The share of features that is rotated where the config does not say; `None`: all features
    /// are, because transformers ignores a share in this family, or cannot compute it.
    part: Option<f64>,
    /// Whether the section is that of one kind of layers, for which transformers looks nowhere
    /// else.
    of_kind: bool,
    /// Whether a part of the pairs may rotate at the frequencies of all, [`PROPORTIONAL`].
    takes_proportional: bool,
}

impl<'a> Reading<'a> {
    fn new(config: &'a ConfigJson, head_dim: usize) -> Self {
        Self {
            config,
            head_dim,
            part: None,
            of_kind: false,
            takes_proportional: false,
        }
    }
}

/// Reads the rotation of heads of width `head_dim`.
pub(super) fn spec(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    Reading::new(config, head_dim).read(section(config)?)
}

/// Reads the rotation of a part of heads of width `head_dim`, `share` of it where the config does
/// not say.
pub(super) fn of_part(
    config: &ConfigJson,
    head_dim: usize,
    share: f64,
) -> Result<RopeSpec, ModelError> {
    config.not_null("partial_rotary_factor", "a number above 0")?;
    Reading {
        part: Some(share),
        ..Reading::new(config, head_dim)
    }
    .read(section(config)?)
}

/// Reads the rotation of a part as [`of_part`], where transformers cannot turn an odd number of
/// features.
pub(super) fn of_even_part(
    config: &ConfigJson,
    head_dim: usize,
    share: f64,
) -> Result<RopeSpec, ModelError> {
    let rope = of_part(config, head_dim, share)?;
    if rope.head_dim.is_multiple_of(2) {
        return Ok(rope);
    }
    Err(config.fault(format!(
        "`partial_rotary_factor` leaves {} of {head_dim} features to be turned, expected an even \
        number of them in this family",
        rope.head_dim
    )))
}

/// Reads the rotation of GPT-NeoX, whose older keys for base and share are others.
pub(super) fn of_gpt_neox(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let older = |key: &str, default: f64| {
        config.not_null(key, "a number above 0")?;
        Ok::<_, ModelError>(config.number_or_none(key)?.unwrap_or(default))
    };
    let (theta, share) = (older("rotary_emb_base", 1e4)?, older("rotary_pct", 0.25)?);
    let section = section(config)?.unwrap_or_else(|| config.replaced(serde_json::Map::new()));
    let section = if section.names("rope_theta") {
        section
    } else {
        section.with("rope_theta", json!(theta))
    };
    Reading {
        part: Some(share),
        ..Reading::new(&config.clone().without("partial_rotary_factor"), head_dim)
    }
    .read(Some(section))
}

/// Returns a rotation of neighbors.
pub(super) fn of_neighbors(rope: RopeSpec) -> RopeSpec {
    RopeSpec {
        pairs: Pairs::Neighbors,
        ..rope
    }
}

/// Reads the rotation of Ministral 3, whose queries grow with their position, and which is
/// stretched where the config does not say how.
pub(super) fn of_ministral3(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let absent = json!({
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale_all_dim": 1.0,
        "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    });
    let section = match section(config)? {
        None if config.first_named(&["rope_parameters"]).is_none() => absent
            .as_object()
            .map(|values| config.replaced(values.clone())),
        section => section,
    };
    let section = section.unwrap_or_else(|| config.replaced(serde_json::Map::new()));
    let beta = section.number("llama_4_scaling_beta")?;
    let key = "original_max_position_embeddings";
    let trained_length = if ["yarn", "llama3", "longrope"].contains(&kind(&section)?) {
        let inside = section.size_or(key, config.size("max_position_embeddings")?)?;
        config.size_or(key, inside)?
    } else {
        section.size(key)?
    };
    // The length after stretching says nothing that the factor does not.
    let section = section
        .without("llama_4_scaling_beta")
        .without("max_position_embeddings");
    Ok(RopeSpec {
        query_growth: Some(QueryGrowth {
            beta,
            trained_length,
        }),
        ..Reading::new(config, head_dim).read(Some(section))?
    })
}

/// Reads the rotation of Hunyuan, where `dynamic` with an `alpha` is a base that grows once and for
/// all: θ α^(d / (d - 2)).
pub(super) fn of_hunyuan(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let section = section(config)?;
    let Some(held) = section.as_ref() else {
        return spec(config, head_dim);
    };
    let alpha = held.number_or_zero("alpha")?.filter(|alpha| *alpha > 0.0);
    let rest = held.clone().without("alpha");
    let reading = Reading::new(config, head_dim);
    let Some(alpha) = alpha.filter(|_| kind(held).is_ok_and(|kind| kind == "dynamic")) else {
        return reading.read(Some(rest));
    };
    if head_dim <= 2 {
        return Err(config.fault(format!(
            "`head_dim` is {head_dim}, expected more than 2 where the rotation has `alpha`"
        )));
    }
    let plain = reading.read(Some(
        rest.without("type").with("rope_type", json!("default")),
    ))?;
    let width = head_dim as f64;
    Ok(RopeSpec {
        theta: plain.theta * alpha.powf(width / (width - 2.0)),
        ..plain
    })
}

/// Reads the rotation of Phi-3, which may rotate a part of the features, and whose `yarn` and `su`
/// are older words for `longrope`.
pub(super) fn of_phi3(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let mut section = section(config)?;
    let kind = section
        .as_ref()
        .map(kind)
        .transpose()?
        .unwrap_or("default")
        .to_owned();
    match kind.as_str() {
        "default" | "longrope" => {}
        "su" | "yarn" => {
            section = section.map(|section| section.with("rope_type", json!("longrope")));
        }
        other => {
            let known = list(&["default", "longrope", "su", "yarn"]);
            return Err(config.fault(format!("`rope_type` is `{other}`, known are {known}")));
        }
    }
    config.not_null("partial_rotary_factor", "a number above 0")?;
    Reading {
        part: Some(1.0),
        ..Reading::new(config, head_dim)
    }
    .read(section)
}

/// Reads the rotation of gpt-oss, which is stretched where the config does not say how.
pub(super) fn of_gpt_oss(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let absent = json!({
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": false,
        "original_max_position_embeddings": 4096,
    });
    let section = match section(config)? {
        None if config.first_named(&["rope_parameters"]).is_none() => absent
            .as_object()
            .map(|values| config.replaced(values.clone())),
        section => section,
    };
    Reading::new(config, head_dim).read(section)
}

/// Reads the rotation of wrappers that rotate parts of the features by time, height and width; for
/// text these are one position.
pub(super) fn by_sections(config: &ConfigJson, head_dim: usize) -> Result<RopeSpec, ModelError> {
    let mut section = section(config)?;
    if let Some(held) = &section {
        let sections = match held.get("mrope_section") {
            Some(_) => held.numbers("mrope_section")?,
            None => vec![16.0, 24.0, 24.0],
        };
        if (sections.iter().sum::<f64>() * 2.0).to_bits() != (head_dim as f64).to_bits() {
            let message = format!(
                "`mrope_section` is {sections:?}, expected numbers whose sum is {}, half of a head",
                head_dim / 2
            );
            return Err(config.fault(message));
        }
        if kind(held)? == "mrope" {
            section = section.map(|section| section.with("rope_type", json!("default")));
        }
        section = section.map(|section| section.without("mrope_section"));
    }
    Reading::new(config, head_dim).read(section)
}

/// Reads the rotation of a part of each head where some of the features turn by height and width,
/// which for text are the position: see [`of_part`].
pub(super) fn of_sections_in_part(
    config: &ConfigJson,
    head_dim: usize,
    share: f64,
) -> Result<RopeSpec, ModelError> {
    config.not_null("partial_rotary_factor", "a number above 0")?;
    let section = section(config)?.map(|section| {
        section
            .without("mrope_section")
            .without("mrope_interleaved")
    });
    Reading {
        part: Some(share),
        ..Reading::new(config, head_dim)
    }
    .read(section)
}

/// The bases of the rotations of layers without and with a window where the config names none.
pub(super) struct Bases {
    pub full: f64,
    pub sliding: f64,
    /// The key of the base of layers with a window, where there is one.
    pub sliding_key: Option<&'static str>,
}

/// Reads the rotations of layers without and with a window, where each kind has its own.
/// transformers 5 has them in `rope_parameters` by name; in transformers 4 layers with a window
/// have a base of their own and are not stretched.
pub(super) fn of_kinds(
    config: &ConfigJson,
    head_dim: usize,
    bases: &Bases,
) -> Result<[RopeSpec; 2], ModelError> {
    let kinds = config.section("rope_parameters")?;
    if let Some(key) = kinds
        .iter()
        .flat_map(ConfigJson::keys)
        .find(|key| ![FULL, SLIDING].contains(&key.as_str()))
    {
        return Err(config.fault(format!(
            "`rope_parameters` has the key `{key}`, known are `{FULL}`, `{SLIDING}`"
        )));
    }
    let of_kind = |kind: &str| {
        let section = kinds
            .as_ref()
            .map(|kinds| kinds.section(kind))
            .transpose()?
            .flatten();
        Ok::<_, ModelError>(section.unwrap_or_else(|| config.replaced(serde_json::Map::new())))
    };
    let mut full = of_kind(FULL)?;
    if let Some(scaling) = config.section("rope_scaling")? {
        // Here transformers 5 passes over the older word.
        if scaling.names("type") && !scaling.names("rope_type") {
            return Err(config.fault("`rope_scaling` has `type`, known is `rope_type`"));
        }
        full = full.with_all(&scaling);
    }
    let read = |section: ConfigJson, key: Option<&str>, base: f64| {
        let named = match key {
            Some(key) => {
                config.not_null(key, "a number above 0")?;
                config.number_or_none(key)?
            }
            None => None,
        };
        let base = named.unwrap_or(base);
        let base = section.number_or_none("rope_theta")?.unwrap_or(base);
        if !truncates(&section)? {
            return Err(config.fault(
                "`truncate` of a kind of layers is `false`, known is `true`: \
                transformers passes over it here",
            ));
        }
        Reading {
            of_kind: true,
            ..Reading::new(config, head_dim)
        }
        .read(Some(section.with("rope_theta", json!(base))))
    };
    Ok([
        read(full, Some("rope_theta"), bases.full)?,
        read(of_kind(SLIDING)?, bases.sliding_key, bases.sliding)?,
    ])
}

/// Reads the rotations of layers without and with a window, whose heads have these widths. Where
/// the config gives none, `share` of the pairs rotates in layers without a window.
pub(super) fn of_wide_kinds(
    config: &ConfigJson,
    widths: [usize; 2],
    share: f64,
) -> Result<[RopeSpec; 2], ModelError> {
    let usual = [
        json!({"rope_type": PROPORTIONAL, "partial_rotary_factor": share, "rope_theta": 1e6}),
        json!({"rope_type": "default", "rope_theta": 1e4}),
    ];
    let kinds = config.section("rope_parameters")?;
    let read = |(kind, usual): (&str, &serde_json::Value), head_dim: usize| {
        let section = match &kinds {
            None => config.replaced(usual.as_object().cloned().unwrap_or_default()),
            Some(kinds) => kinds.section(kind)?.ok_or_else(|| {
                config.fault(format!(
                    "`rope_parameters` has no `{kind}`, expected the rotation of such layers"
                ))
            })?,
        };
        section.number("rope_theta")?;
        Reading {
            of_kind: true,
            takes_proportional: true,
            ..Reading::new(config, head_dim)
        }
        .read(Some(section))
    };
    Ok([
        read((FULL, &usual[0]), widths[0])?,
        read((SLIDING, &usual[1]), widths[1])?,
    ])
}

/// Returns the factor that is applied to scores twice, where the rotation gives `mscale_all_dim`
/// (`yarn_apply_mscale` of transformers); 1 elsewhere.
pub(super) fn magnitude(config: &ConfigJson) -> Result<f64, ModelError> {
    let Some(section) = section(config)? else {
        return Ok(1.0);
    };
    match (kind(&section)?, section.number_or_zero("mscale_all_dim")?) {
        ("default", _) | (_, None) => Ok(1.0),
        (_, Some(m)) => Ok(yarn_term(section.number("factor")?, m)),
    }
}

/// Whether the file gives the base of the rotation.
pub(super) fn names_base(config: &ConfigJson) -> bool {
    let names = |section: &ConfigJson| section.names("rope_theta");
    config.names("rope_theta")
        || section(config).is_ok_and(|section| section.as_ref().is_some_and(names))
}

/// Returns the section that counts; an empty one is ignored.
fn section(config: &ConfigJson) -> Result<Option<ConfigJson>, ModelError> {
    for key in SECTIONS {
        if let Some(section) = config
            .section(key)?
            .filter(|section| section.keys().next().is_some())
        {
            return Ok(Some(section));
        }
    }
    Ok(None)
}

fn kind(section: &ConfigJson) -> Result<&str, ModelError> {
    if section.names("rope_type") && section.get("rope_type").is_none() {
        return Err(section.fault(format!("`rope_type` is `null`, known are {}", list(&KNOWN))));
    }
    Ok(section
        .text("rope_type")?
        .or(section.text("type")?)
        .unwrap_or("default"))
}

impl Reading<'_> {
    fn read(&self, section: Option<ConfigJson>) -> Result<RopeSpec, ModelError> {
        let config = self.config;
        let nested = section
            .as_ref()
            .map(|section| section.number_or_none("rope_theta"))
            .transpose()?
            .flatten();
        let theta = match nested {
            Some(theta) => theta,
            None => config.number("rope_theta")?,
        };
        let is_proportional = self.takes_proportional
            && section
                .as_ref()
                .map(kind)
                .transpose()?
                .is_some_and(|kind| kind == PROPORTIONAL);
        let head_dim = if is_proportional {
            self.head_dim
        } else {
            self.turned(section.as_ref())?
        };
        let scaling = section.map_or(Ok(RopeScaling::Default), |section| {
            self.scaling(&section, head_dim)
        })?;
        Ok(RopeSpec::new(head_dim, theta, scaling))
    }

    /// Returns the number of rotated features of a head.
    fn turned(&self, section: Option<&ConfigJson>) -> Result<usize, ModelError> {
        let holders = [section, Some(self.config)].into_iter().flatten();
        let shares = holders
            .map(|holder| holder.number_or_none("partial_rotary_factor"))
            .collect::<Result<Vec<_>, ModelError>>()?;
        let Some(share) = shares.into_iter().flatten().next().or(self.part) else {
            return Ok(self.head_dim);
        };
        let turned = (self.head_dim as f64 * share) as usize;
        if self.part.is_none() && turned != self.head_dim {
            return Err(self.config.fault(format!(
                "`partial_rotary_factor` is {share}, known is 1 in this family"
            )));
        }
        if share > 1.0 || turned == 0 || turned.next_multiple_of(2) > self.head_dim {
            return Err(self.config.fault(format!(
                "`partial_rotary_factor` is {share}: {turned} of {} features would be turned, \
                expected pairs of them",
                self.head_dim
            )));
        }
        Ok(turned)
    }

    fn scaling(&self, section: &ConfigJson, head_dim: usize) -> Result<RopeScaling, ModelError> {
        if let Some(key) = section.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(section.fault(format!(
                "the rotation has the key `{key}`, known are {}",
                list(&KEYS)
            )));
        }
        let factor = || section.number("factor");
        let context = self.config.size("max_position_embeddings")?;
        let outside = self
            .config
            .size_or_none("original_max_position_embeddings")?
            .filter(|_| !self.of_kind);
        let trained_length = outside
            .or(section.size_or_none("original_max_position_embeddings")?)
            .unwrap_or(context);
        let ratio = context as f64 / trained_length as f64;
        match kind(section)? {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "dynamic" => Ok(RopeScaling::Dynamic {
                factor: factor()?,
                trained_length: context,
            }),
            "llama3" => Ok(RopeScaling::Ramp {
                factor: factor()?,
                low_frequency_factor: section.number("low_freq_factor")?,
                high_frequency_factor: section.number("high_freq_factor")?,
                trained_length,
            }),
            "yarn" => yarn(section, ratio, trained_length),
            "longrope" => longrope(section, head_dim.div_ceil(2), ratio, trained_length),
            PROPORTIONAL if self.takes_proportional => proportional(section, head_dim),
            other => Err(section.fault(format!(
                "`rope_type` is `{other}`, known are {}",
                list(&KNOWN)
            ))),
        }
    }
}

/// Reads `proportional` for heads of this width.
fn proportional(section: &ConfigJson, head_dim: usize) -> Result<RopeScaling, ModelError> {
    let share = section
        .number_or_none("partial_rotary_factor")?
        .unwrap_or(1.0);
    if share > 1.0 {
        return Err(section.fault(format!(
            "`partial_rotary_factor` is {share}, expected at most 1"
        )));
    }
    Ok(RopeScaling::Proportional {
        factor: section.number_or_none("factor")?.unwrap_or(1.0),
        pairs: (share * head_dim as f64 / 2.0).floor() as usize,
    })
}

/// Reads `yarn`; `ratio` stands in for a factor that is null.
fn yarn(
    section: &ConfigJson,
    ratio: f64,
    trained_length: usize,
) -> Result<RopeScaling, ModelError> {
    if !section.names("factor") {
        return Err(section.fault("`factor` is missing, expected a number above 0"));
    }
    let factor = section.number_or_none("factor")?.unwrap_or(ratio);
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: yarn_attention_factor(section, factor)?,
        beta_fast: section.number_or_none("beta_fast")?.unwrap_or(32.0),
        beta_slow: section.number_or_none("beta_slow")?.unwrap_or(1.0),
        truncate: truncates(section)?,
        trained_length,
    })
}

/// Reads `truncate`; null is false, as in Python.
fn truncates(section: &ConfigJson) -> Result<bool, ModelError> {
    section.flag("truncate", !section.names("truncate"))
}

/// Reads `longrope`, with one divisor for each of `pairs` pairs of features.
fn longrope(
    section: &ConfigJson,
    pairs: usize,
    ratio: f64,
    trained_length: usize,
) -> Result<RopeScaling, ModelError> {
    let factor = section.number_or_none("factor")?.unwrap_or(ratio);
    let default = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / (trained_length as f64).ln()).sqrt()
    };
    let attention_factor = section
        .number_or_none("attention_factor")?
        .unwrap_or(default);
    let factors = |key: &str| {
        let factors = section.numbers(key)?;
        let wrong = || {
            section.fault(format!(
                "`{key}` has {} numbers, expected {pairs}: one a pair of features",
                factors.len()
            ))
        };
        if factors.len() == pairs {
            Ok(factors)
        } else {
            Err(wrong())
        }
    };
    Ok(RopeScaling::LongRope {
        attention_factor,
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        trained_length,
    })
}

fn yarn_term(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * m * factor.ln() + 1.0
    }
}

/// Returns 0.1 m ln(factor) + 1, or the ratio of two such terms where the config gives both.
fn yarn_attention_factor(section: &ConfigJson, factor: f64) -> Result<f64, ModelError> {
    let term = |m: f64| yarn_term(factor, m);
    let (mscale, all_dim) = (
        section.number_or_none("mscale")?,
        section.number_or_none("mscale_all_dim")?,
    );
    let default = match (mscale, all_dim) {
        (Some(mscale), Some(all_dim)) => term(mscale) / term(all_dim),
        _ => term(1.0),
    };
    Ok(section
        .number_or_none("attention_factor")?
        .unwrap_or(default))
}
