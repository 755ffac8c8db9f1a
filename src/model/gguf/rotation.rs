//! The rotation of a GGUF file as `rope_parameters` of config.json.

use serde_json::{Value, json};

use super::super::ModelError;
use super::config::Metadata;
use super::keys::{FREQUENCIES, LONG_FACTORS, RESTING, SHORT_FACTORS, ramp};
use crate::nn::rope::{RopeScaling, RopeSpec};

/// The base where no key names one.
const THETA: f64 = 1e4;
/// Ends of the ramp that Llama 3.1 and its successors have, and the lengths that are tried.
const RAMP_ENDS: [[f64; 2]; 3] = [[1.0, 4.0], [1.0, 2.0], [2.0, 8.0]];
const TRAINED: std::ops::RangeInclusive<u32> = 3..=20;
/// How far the divisors of a ramp may be from those in the file, relatively.
const RAMP_TOLERANCE: f32 = 2e-6;

/// Returns the rotation without scaling; `key` is that of its base.
pub(super) fn plain(metadata: &Metadata, key: &str) -> Result<Value, ModelError> {
    let theta = metadata.number(key)?.unwrap_or(THETA);
    Ok(json!({"rope_type": "default", "rope_theta": theta}))
}

/// Returns the rotation of heads of this width.
pub(super) fn section(metadata: &Metadata, head_dim: usize) -> Result<Value, ModelError> {
    let mut rope = plain(metadata, "rope.freq_base")?;
    let turned = metadata.size("rope.dimension_count")?.unwrap_or(head_dim);
    if turned != head_dim {
        rope["partial_rotary_factor"] = json!(share(turned, head_dim));
    }
    if let Some(divisors) = metadata.vector(FREQUENCIES) {
        divided(metadata, &mut rope, turned, &divisors)?;
        return Ok(rope);
    }
    let [long, short] = [LONG_FACTORS, SHORT_FACTORS].map(|name| metadata.vector(name));
    if let (Some(long), Some(short)) = (long, short) {
        rope["rope_type"] = json!("longrope");
        rope["long_factor"] = json!(shortest(&long));
        rope["short_factor"] = json!(shortest(&short));
        if let Some(factor) = metadata.number("rope.scaling.attn_factor")? {
            rope["attention_factor"] = json!(factor);
        }
        if let Some(trained) = metadata.size("rope.scaling.original_context_length")? {
            rope["original_max_position_embeddings"] = json!(trained);
        }
        return Ok(rope);
    }
    let kind = metadata.text("rope.scaling.type")?.unwrap_or("none");
    // An older key for a factor of all frequencies.
    let older = metadata.number("rope.scale_linear")?;
    let factor = metadata.number("rope.scaling.factor")?.or(older);
    match (kind, factor) {
        ("none", None) => {}
        ("none" | "linear", Some(factor)) if (factor - 1.0).abs() < f64::EPSILON => {}
        ("none" | "linear", Some(factor)) if factor > 0.0 => {
            rope["rope_type"] = json!("linear");
            rope["factor"] = json!(factor);
        }
        ("yarn", Some(factor)) if factor > 0.0 => {
            rope["rope_type"] = json!("yarn");
            rope["factor"] = json!(factor);
            for (key, of) in [
                ("beta_fast", "rope.scaling.yarn_beta_fast"),
                ("beta_slow", "rope.scaling.yarn_beta_slow"),
            ] {
                if let Some(number) = metadata.number(of)? {
                    rope[key] = json!(number);
                }
            }
            if let Some(trained) = metadata.size("rope.scaling.original_context_length")? {
                rope["original_max_position_embeddings"] = json!(trained);
            }
            // llama.cpp multiplies by 0.1 ln(factor) + 1 itself.
            let own = metadata.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            rope["attention_factor"] = json!(own * (0.1 * factor.ln() + 1.0));
        }
        _ => {
            return Err(metadata.fault(format!(
                "`rope.scaling.type` is `{kind}` with the factor {factor:?}, known are `none`, \
                `linear` and `yarn` with a factor above 0"
            )));
        }
    }
    Ok(rope)
}

/// Returns the share of a head that makes so many features, whatever division rounds to.
fn share(turned: usize, head_dim: usize) -> f64 {
    let share = turned as f64 / head_dim.max(1) as f64;
    if (head_dim as f64 * share) as usize == turned {
        share
    } else {
        share.next_up()
    }
}

/// Tells what the divisors of the frequencies are: a ramp, or any others.
fn divided(
    metadata: &Metadata,
    rope: &mut Value,
    turned: usize,
    divisors: &[f32],
) -> Result<(), ModelError> {
    if divisors.len() != turned / 2 {
        return Err(metadata.fault(format!(
            "tensor `{FREQUENCIES}` has {} numbers, expected {}: one a pair of features",
            divisors.len(),
            turned / 2
        )));
    }
    let theta = rope["rope_theta"].as_f64().unwrap_or(THETA);
    if let Some(RopeScaling::Ramp {
        factor,
        low_frequency_factor,
        high_frequency_factor,
        trained_length,
    }) = as_ramp(turned, theta, divisors)
    {
        rope["rope_type"] = json!("llama3");
        rope["factor"] = json!(factor);
        rope["low_freq_factor"] = json!(low_frequency_factor);
        rope["high_freq_factor"] = json!(high_frequency_factor);
        rope["original_max_position_embeddings"] = json!(trained_length);
        return Ok(());
    }
    // Divisors for texts of any length.
    rope["rope_type"] = json!("longrope");
    rope["long_factor"] = json!(shortest(divisors));
    rope["short_factor"] = rope["long_factor"].clone();
    rope["attention_factor"] = json!(1.0);
    rope["original_max_position_embeddings"] = json!(metadata.needed("context_length")?);
    Ok(())
}

/// Returns the ramp that has these divisors.
fn as_ramp(turned: usize, theta: f64, divisors: &[f32]) -> Option<RopeScaling> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    let is_near = |(found, expected): (&f32, &f32)| {
        (found - expected).abs() <= RAMP_TOLERANCE * expected.abs()
    };
    let all = RAMP_ENDS
        .iter()
        .flat_map(|ends| TRAINED.map(move |power| (ends, power)));
    let ramps = all.map(|([low, high], power)| RopeScaling::Ramp {
        factor: f64::from(factor),
        low_frequency_factor: *low,
        high_frequency_factor: *high,
        trained_length: 1 << power,
    });
    ramps.into_iter().find(|scaling| {
        let rope = RopeSpec::new(turned, theta, scaling.clone());
        let expected = ramp(&rope);
        expected.len() == divisors.len() && divisors.iter().zip(&expected).all(is_near)
    })
}

/// Returns the decimal numbers that were meant.
fn shortest(numbers: &[f32]) -> Vec<f64> {
    let number = |number: &f32| number.to_string().parse().unwrap_or(f64::from(*number));
    numbers.iter().map(number).collect()
}

/// Adds the growth of queries of Ministral 3.
pub(super) fn grow_queries(metadata: &Metadata, rope: &mut Value) -> Result<(), ModelError> {
    let beta = metadata.number("attention.temperature_scale")?;
    let beta = beta.ok_or_else(|| {
        metadata.fault("`attention.temperature_scale` is missing, expected a number")
    })?;
    rope["llama_4_scaling_beta"] = json!(beta);
    if rope.get("original_max_position_embeddings").is_none() {
        let trained = metadata.size("rope.scaling.original_context_length")?;
        let trained = trained.map_or_else(|| metadata.needed("context_length"), Ok)?;
        rope["original_max_position_embeddings"] = json!(trained);
    }
    Ok(())
}

/// Adds the sections of a rotation by time, height and width.
pub(super) fn sections(metadata: &Metadata, rope: &mut Value) -> Result<(), ModelError> {
    let key = format!("{}.rope.dimension_sections", metadata.architecture);
    if let Some(sections) = metadata.files[0].sizes(&key)? {
        rope["mrope_section"] = json!(&sections[..sections.len().min(3)]);
        rope["mrope_interleaved"] = json!(true);
    }
    Ok(())
}

/// Returns the rotation of the first pairs of heads of this width.
pub(super) fn proportional(metadata: &Metadata, head_dim: usize) -> Result<Value, ModelError> {
    let mut rope = plain(metadata, "rope.freq_base")?;
    let divisors = metadata.vector(FREQUENCIES).unwrap_or_default();
    let turned = divisors
        .iter()
        .filter(|divisor| **divisor < RESTING)
        .count();
    if divisors.len() != head_dim / 2 || turned == 0 {
        return Err(metadata.fault(format!(
            "tensor `{FREQUENCIES}` has {} numbers, of which {turned} let a pair rotate, expected \
            {} and some of them",
            divisors.len(),
            head_dim / 2
        )));
    }
    rope["rope_type"] = json!("proportional");
    rope["partial_rotary_factor"] = json!(share(2 * turned, head_dim));
    rope["factor"] = json!(shortest(&divisors[..1])[0]);
    Ok(rope)
}
