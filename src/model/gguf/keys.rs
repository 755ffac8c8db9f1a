//! A decoder's hyperparameters under llama.cpp's keys, and the tensors that belong to them.

use super::architecture::{Architecture, Experts, Rotations, Scales, Scores, Stretch, Windows};
use super::carried::Carried;
use super::differences::{attending, window};
use super::uneven;
use super::value::Value;
use crate::model::{DecoderSpec, ExpertsSpec, LayerSpec, Modules, NormKind};
use crate::nn::rope::{RopeScaling, RopeSpec};

/// The divisor of the frequency of a pair that does not rotate, as llama.cpp's converter has it.
pub(super) const RESTING: f32 = 1e30;

/// The tensor of the divisors of frequencies, and those of long and of short texts.
pub(super) const FREQUENCIES: &str = "rope_freqs.weight";
pub(super) const LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// The base of a rotation that no layer has, as Hugging Face's configs leave it.
const UNUSED_BASE: f64 = 1e4;

/// A key, without the architecture's name, and its value.
pub(crate) type Pair = (&'static str, Value);

/// Returns the hyperparameters of a decoder of this architecture.
pub(crate) fn hyperparameters(
    architecture: &Architecture,
    spec: &DecoderSpec,
) -> Vec<(String, Value)> {
    let shown = if architecture.is_uneven {
        uneven::wide(spec)
    } else {
        attending(spec)
    };
    let (LayerSpec { mixer, mlp, .. }, rope) = (shown, rotation(spec, false));
    let [heads, kv_heads, head_dim] = mixer.heads();
    let size = |size: usize| Value::U32(size as u32);
    let (kv_heads, inner) = if architecture.is_uneven {
        (
            uneven::by_layer(spec, |layer| layer.mixer.heads()[1]),
            uneven::by_layer(spec, |layer| layer.mlp.inner()),
        )
    } else if architecture.carried.is_told_by_heads() {
        let of_layer = |layer: &LayerSpec| usize::from(!layer.mixer.carries()) * kv_heads;
        (uneven::by_layer(spec, of_layer), size(mlp.inner()))
    } else {
        (size(kv_heads), size(mlp.inner()))
    };
    let mut pairs = vec![
        ("block_count", size(spec.layers.len())),
        ("context_length", size(spec.context)),
        ("embedding_length", size(spec.width)),
        ("feed_forward_length", inner),
        ("attention.head_count", size(heads)),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", size(head_dim)),
        ("attention.value_length", size(head_dim)),
        (
            if architecture.norm == NormKind::RootMeanSquare {
                "attention.layer_norm_rms_epsilon"
            } else {
                "attention.layer_norm_epsilon"
            },
            number(spec.norm_epsilon),
        ),
        (
            "rope.dimension_count",
            size(rope.map_or(head_dim, |rope| rope.head_dim)),
        ),
        (
            "rope.freq_base",
            number(rope.map_or(UNUSED_BASE, |rope| rope.theta)),
        ),
        ("vocab_size", size(spec.vocabulary)),
    ];
    pairs.extend(
        mlp.experts()
            .into_iter()
            .flat_map(|experts| routed(architecture, experts)),
    );
    pairs.extend(
        rope.into_iter()
            .flat_map(|rope| stretched(architecture, spec, rope)),
    );
    pairs.extend(Carried::keys(spec));
    if architecture.is_uneven {
        pairs.extend(uneven::keys(spec));
    }
    pairs.extend(scaled(architecture, spec));
    pairs.extend(windows(architecture, spec));
    if architecture.name == "stablelm" {
        let is_parallel = spec.layers[0].norms.is_parallel();
        pairs.push(("use_parallel_residual", Value::Bool(is_parallel)));
    }
    pairs
        .into_iter()
        .map(|(key, value)| (format!("{}.{key}", architecture.name), value))
        .collect()
}

fn routed(architecture: &Architecture, experts: &ExpertsSpec) -> Vec<Pair> {
    let size = |size: usize| Value::U32(size as u32);
    let mut pairs = vec![
        ("expert_count", size(experts.router.experts)),
        ("expert_used_count", size(experts.router.chosen)),
    ];
    if let Experts::Every {
        of_their_own: true, ..
    } = architecture.experts
    {
        pairs.push(("expert_feed_forward_length", size(experts.expert.inner)));
    }
    if let Some(shared) = experts.shared {
        pairs.push(("expert_shared_feed_forward_length", size(shared.inner)));
    }
    pairs
}

fn number(number: f64) -> Value {
    Value::F32(number as f32)
}

/// Returns the rotation of layers with or without a window; if no such layer rotates, that of any
/// layer that does.
fn rotation(spec: &DecoderSpec, slides: bool) -> Option<&RopeSpec> {
    let of = |layer: &&LayerSpec| {
        layer.mixer.rope().is_some() && layer.mixer.span().is_window() == slides
    };
    let any = || {
        spec.layers
            .iter()
            .find(|layer| layer.mixer.rope().is_some())
    };
    let layer = spec.layers.iter().find(of).or_else(any);
    layer.and_then(|layer| layer.mixer.rope())
}

fn stretched(architecture: &Architecture, spec: &DecoderSpec, rope: &RopeSpec) -> Vec<Pair> {
    let mut pairs = Vec::new();
    if let RopeScaling::Linear { factor } = rope.scaling {
        pairs.push(("rope.scaling.type", Value::Text("linear".to_owned())));
        pairs.push(("rope.scaling.factor", number(factor)));
    }
    if let RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast,
        beta_slow,
        trained_length,
        ..
    } = rope.scaling
    {
        pairs.push(("rope.scaling.type", Value::Text("yarn".to_owned())));
        pairs.push(("rope.scaling.factor", number(factor)));
        pairs.push((
            "rope.scaling.original_context_length",
            Value::U32(trained_length as u32),
        ));
        pairs.push(("rope.scaling.yarn_beta_fast", number(beta_fast)));
        pairs.push(("rope.scaling.yarn_beta_slow", number(beta_slow)));
        // llama.cpp multiplies by 0.1 ln(factor) + 1 itself.
        let usual = 0.1 * factor.ln() + 1.0;
        pairs.push(("rope.scaling.attn_factor", number(attention_factor / usual)));
    }
    if let Some(growth) = rope.query_growth {
        pairs.push(("attention.temperature_scale", number(growth.beta)));
    }
    if architecture.stretches.contains(&Stretch::LongRope) {
        let (trained, factor) = match rope.scaling {
            RopeScaling::LongRope {
                trained_length,
                attention_factor,
                ..
            } => (trained_length, Some(attention_factor)),
            _ => (spec.context, None),
        };
        pairs.push((
            "rope.scaling.original_context_length",
            Value::U32(trained as u32),
        ));
        pairs.extend(factor.map(|factor| ("rope.scaling.attn_factor", number(factor))));
    }
    pairs
}

fn scaled(architecture: &Architecture, spec: &DecoderSpec) -> Vec<Pair> {
    let (mut pairs, mixer) = (
        Vec::new(),
        attending(spec)
            .mixer
            .grouped()
            .expect("every known architecture has such heads"),
    );
    if architecture.scores == Scores::Key {
        pairs.push(("attention.scale", number(mixer.score_scale)));
    }
    if architecture.scales == Scales::Keys {
        pairs.push(("embedding_scale", number(spec.embed_scale)));
        pairs.push(("residual_scale", number(spec.layers[0].residual_scale)));
        // llama.cpp divides by it.
        pairs.push(("logit_scale", number(1.0 / spec.logit_scale)));
    }
    if architecture.scales == Scales::Logits {
        pairs.push(("logit_scale", number(spec.logit_scale)));
    }
    pairs.extend(
        mixer
            .softcap
            .map(|cap| ("attn_logit_softcapping", number(cap))),
    );
    pairs.extend(
        spec.final_softcap
            .map(|cap| ("final_logit_softcapping", number(cap))),
    );
    pairs
}

fn windows(architecture: &Architecture, spec: &DecoderSpec) -> Vec<Pair> {
    let slides: Vec<bool> = spec
        .layers
        .iter()
        .map(|layer| window(layer).is_some())
        .collect();
    let tokens = spec.layers.iter().find_map(window);
    let size = |tokens: usize| ("attention.sliding_window", Value::U32(tokens as u32));
    if let Windows::InModelsOf { .. } = architecture.windows {
        return tokens.map(size).into_iter().collect();
    }
    let Windows::But { period, rotations } = architecture.windows else {
        // Where modules are fused llama.cpp tells by a window of 0 that there is none.
        let fused = architecture.qkv == Modules::Fused;
        return if fused {
            vec![size(tokens.unwrap_or(0))]
        } else {
            Vec::new()
        };
    };
    let mut pairs: Vec<Pair> = tokens.map(size).into_iter().collect();
    let of_windows = rotation(spec, true).filter(|_| tokens.is_some());
    if let (Some(rope), Rotations::Two) = (of_windows, rotations) {
        pairs.push(("rope.freq_base_swa", number(rope.theta)));
    }
    let usual = slides
        .iter()
        .enumerate()
        .all(|(index, slides)| *slides != (index + 1).is_multiple_of(period));
    // Without a window the one rotation's architecture would take its own.
    if !usual && (tokens.is_some() || rotations == Rotations::One) {
        pairs.push(("attention.sliding_window_pattern", Value::Bools(slides)));
    }
    pairs
}

/// Returns tensors of the frequencies' divisors, if those differ from one frequency to the next.
pub(crate) fn divisors(spec: &DecoderSpec) -> Vec<(&'static str, Vec<f32>)> {
    let Some(rope) = rotation(spec, false) else {
        return Vec::new();
    };
    let rounded = |factors: &[f64]| factors.iter().map(|factor| *factor as f32).collect();
    match &rope.scaling {
        RopeScaling::Ramp { .. } => vec![(FREQUENCIES, ramp(rope))],
        RopeScaling::Proportional { factor, pairs } => {
            let divisor = |pair: usize| {
                if pair < *pairs {
                    *factor as f32
                } else {
                    RESTING
                }
            };
            let all = (0..rope.head_dim / 2).map(divisor).collect();
            vec![(FREQUENCIES, all)]
        }
        RopeScaling::LongRope { short, long, .. } => {
            vec![
                (LONG_FACTORS, rounded(long)),
                (SHORT_FACTORS, rounded(short)),
            ]
        }
        _ => Vec::new(),
    }
}

/// Returns the divisor of each frequency for a ramp.
pub(super) fn ramp(rope: &RopeSpec) -> Vec<f32> {
    let RopeScaling::Ramp {
        factor,
        low_frequency_factor,
        high_frequency_factor,
        trained_length,
    } = &rope.scaling
    else {
        return Vec::new();
    };
    let divisor = |pair: usize| {
        let wavelength =
            std::f64::consts::TAU * rope.theta.powf((2 * pair) as f64 / rope.head_dim as f64);
        let turns = *trained_length as f64 / wavelength;
        let smooth = ((turns - low_frequency_factor)
            / (high_frequency_factor - low_frequency_factor))
            .clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    (0..rope.head_dim / 2).map(divisor).collect()
}

/// Describes what llama.cpp computes differently.
pub(crate) fn differences(architecture: &Architecture, spec: &DecoderSpec) -> Vec<String> {
    let ignored = architecture.windows == Windows::Ignored;
    let window = spec.layers.iter().find_map(window).filter(|_| ignored).map(|window| {
        format!(
            "llama.cpp has no sliding window for this model: beyond {window} tokens its answers \
            differ from those of the base"
        )
    });
    let trained = match rotation(spec, false).map(|rope| &rope.scaling) {
        Some(RopeScaling::LongRope { trained_length, .. }) => Some(*trained_length),
        _ => None,
    };
    let long = trained.map(|trained| {
        format!(
            "llama.cpp turns by this model's long factors wherever its context has more than \
            {trained} tokens, the base only where \
            the text has: serve short texts with `--ctx-size {trained}`"
        )
    });
    window.into_iter().chain(long).collect()
}
