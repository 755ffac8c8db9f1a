//! The rotation as transformers 5 (`rope_parameters`) and 4 (`rope_theta` and `rope_scaling`) write it.

use super::{Config, Error, list};
use crate::nn::rope::{RopeScaling, RopeSpec};

/// Every key of the section that transformers reads; others may mean another rotation.
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

/// Reads the rotation of heads of width `head_dim`; `context` stands for an absent `max_position_embeddings`.
pub(super) fn spec(config: &Config, head_dim: usize, context: usize) -> Result<RopeSpec, Error> {
    with_theta(config, head_dim, context, 10_000.0)
}

/// The same with another base where none is said.
pub(super) fn with_theta(config: &Config, head_dim: usize, context: usize, theta: f64) -> Result<RopeSpec, Error> {
    let section = match config.section("rope_parameters")? {
        Some(section) => Some(section),
        None => config.section("rope_scaling")?,
    };
    read(config, section, head_dim, context, config.number_or_none("rope_theta")?.unwrap_or(theta))
}

/// That of the layers of a kind, where each has its own: in `rope_parameters` under its name, or as transformers 4 has them, where layers with a
/// window have a base of their own and are not stretched.
pub(super) fn of_kind(config: &Config, kind: &str, head_dim: usize, context: usize, theta: f64) -> Result<RopeSpec, Error> {
    if let Some(kinds) = config.section("rope_parameters")? {
        let section = kinds.section(kind)?;
        let missing = || config.fault(format!("`rope_parameters` has no `{kind}`"));
        return read(config, Some(section.ok_or_else(missing)?), head_dim, context, theta);
    }
    if kind == "sliding_attention" {
        return read(config, None, head_dim, context, config.number_or_none("rope_local_base_freq")?.unwrap_or(theta));
    }
    with_theta(config, head_dim, context, theta)
}

/// What scores are multiplied by, twice, where the rotation says so by `mscale_all_dim` (`yarn_apply_mscale` of transformers): 1 elsewhere.
pub(super) fn magnitude(config: &Config) -> Result<f64, Error> {
    let section = match config.section("rope_parameters")? {
        Some(section) => Some(section),
        None => config.section("rope_scaling")?,
    };
    let Some(section) = section else { return Ok(1.0) };
    let kind = section.text("rope_type")?.or(section.text("type")?).unwrap_or("default");
    match (kind, section.number_or_zero("mscale_all_dim")?) {
        ("default", _) | (_, None) => Ok(1.0),
        (_, Some(m)) => Ok(yarn_term(section.number("factor")?, m)),
    }
}

fn read(config: &Config, section: Option<Config>, head_dim: usize, context: usize, theta: f64) -> Result<RopeSpec, Error> {
    let nested = section.as_ref().and_then(|section| section.number_or_none("rope_theta").transpose()).transpose()?;
    let theta = nested.unwrap_or(theta);
    let context = config.size_or_none("max_position_embeddings")?.unwrap_or(context);
    let outside = config.size_or_none("original_max_position_embeddings")?;
    let mut head_dim = head_dim;
    for holder in [section.as_ref(), Some(config)].into_iter().flatten() {
        if let Some(share) = holder.number_or_none("partial_rotary_factor")? {
            let turned = (head_dim as f64 * share) as usize;
            if share > 1.0 || turned == 0 || !turned.is_multiple_of(2) {
                let wrong = format!("`partial_rotary_factor` is {share}: {turned} of {head_dim} features would be turned");
                return Err(config.fault(format!("{wrong}, expected an even number of them")));
            }
            head_dim = turned;
            break;
        }
    }
    let scaling = section.map_or(Ok(RopeScaling::Default), |section| scaling(&section, head_dim, context, outside))?;
    Ok(RopeSpec { head_dim, theta, scaling })
}

fn scaling(section: &Config, head_dim: usize, context: usize, outside: Option<usize>) -> Result<RopeScaling, Error> {
    if let Some(key) = section.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(section.fault(format!("the rotation has the key `{key}`, known are {}", list(&KEYS))));
    }
    let kind = section.text("rope_type")?.or(section.text("type")?).unwrap_or("default");
    let factor = || section.number("factor");
    let trained_length = outside.or(section.size_or_none("original_max_position_embeddings")?).unwrap_or(context);
    let ratio = context as f64 / trained_length as f64;
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: factor()?, trained_length: context }),
        "llama3" => Ok(RopeScaling::Ramp {
            factor: factor()?,
            low_frequency_factor: section.number("low_freq_factor")?,
            high_frequency_factor: section.number("high_freq_factor")?,
            trained_length,
        }),
        "yarn" => {
            let factor = section.number_or_none("factor")?.unwrap_or(ratio);
            Ok(RopeScaling::Yarn {
                factor,
                attention_factor: yarn_attention_factor(section, factor)?,
                beta_fast: section.number_or_none("beta_fast")?.unwrap_or(32.0),
                beta_slow: section.number_or_none("beta_slow")?.unwrap_or(1.0),
                truncate: section.flag("truncate", true)?,
                trained_length,
            })
        }
        "longrope" => {
            let factor = section.number_or_none("factor")?.unwrap_or(ratio);
            let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (trained_length as f64).ln()).sqrt() };
            let attention_factor = section.number_or_none("attention_factor")?.unwrap_or(default);
            let factors = |key: &str| {
                let factors = section.numbers(key)?;
                let (found, expected) = (factors.len(), head_dim / 2);
                let wrong = || section.fault(format!("`{key}` has {found} numbers, expected {expected}: one a pair of features"));
                if found == expected { Ok(factors) } else { Err(wrong()) }
            };
            Ok(RopeScaling::LongRope {
                attention_factor,
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                trained_length,
            })
        }
        other => Err(section.fault(format!("`rope_type` is `{other}`, known are {}", list(&KNOWN)))),
    }
}

fn yarn_term(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

/// 0.1 m ln(factor) + 1, or the ratio of two such terms where the config gives both.
fn yarn_attention_factor(section: &Config, factor: f64) -> Result<f64, Error> {
    let term = |m: f64| yarn_term(factor, m);
    let (mscale, all_dim) = (section.number_or_none("mscale")?, section.number_or_none("mscale_all_dim")?);
    let default = match (mscale, all_dim) {
        (Some(mscale), Some(all_dim)) => term(mscale) / term(all_dim),
        _ => term(1.0),
    };
    Ok(section.number_or_none("attention_factor")?.unwrap_or(default))
}
