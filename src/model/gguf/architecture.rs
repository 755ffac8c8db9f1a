//! Finds the llama.cpp architecture that computes the same as a decoder. The differences between
//! architectures are data, read from llama.cpp's `src/models/*.cpp`. A model that none of them
//! computes is refused, with its features and those of the nearest architecture.

use super::ArchitectureError;
use super::carried::Carried;
use super::differences::{Lack, attending};
use crate::model::{DecoderSpec, Modules, NormKind, NormPlacement, PlainActivation, QueryKeyNorm};
use crate::ops::Activation;

/// An architecture of llama.cpp, as far as models differ in it.
#[derive(Debug, PartialEq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a feature of its own"
)]
pub(crate) struct Architecture {
    /// Its name, the prefix of its keys.
    pub name: &'static str,
    pub pairs: Pairs,
    pub norm: NormKind,
    pub norms: NormPlacement,
    /// The name of the norm before the feed-forward where outputs have none.
    pub second_norm: &'static str,
    pub qk_norm: QueryKeyNorm,
    pub biases: Biases,
    /// Whether the feed-forward has biases.
    pub mlp_biases: bool,
    /// How q, k and v are divided into modules.
    pub qkv: Modules,
    /// How gate and up are divided into modules.
    pub gate_up: Modules,
    pub feed: Feed,
    pub scales: Scales,
    pub scores: Scores,
    pub caps: Caps,
    pub windows: Windows,
    /// Supported RoPE scalings beside the plain rotation.
    pub stretches: &'static [Stretch],
    pub resting: Resting,
    pub turned: Turned,
    pub heads: Heads,
    /// Whether queries grow with their position.
    pub grows_queries: bool,
    pub experts: Experts,
    pub carried: Carried,
    /// Whether heads have two widths, values are normalized, upper layers use the keys and values
    /// of lower ones, and layers may have inputs of their own.
    pub is_uneven: bool,
    pub head: Head,
    pub head_bias: bool,
}

/// Which shapes of heads fit its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    Any,
    /// All query heads together are as wide as the stream.
    AsWide,
    /// So are all key heads.
    AllAsWide,
}

/// The kind of a dense feed-forward, or of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    Gated(Activation),
    Plain(PlainActivation),
}

/// Which layers have no rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resting {
    None,
    /// Layers n, 2n, ..
    Every(usize),
    /// Those without a window, where others have one.
    Full,
    /// All or none, by a key.
    AllOrNone,
}

/// Which features of a head RoPE rotates together. Hugging Face's models pair halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// 0 and 1, 2 and 3, and so on: rows of q and k have to be reordered.
    Neighbors,
    /// The first half with the second, as in Hugging Face's models.
    Halves,
}

/// Which biases are added if the file has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    /// Biases of q, k and v.
    Inputs,
    /// Biases of q, k and v, or none.
    InputsOrNone,
    /// Biases of q, k, v and the output together, or none.
    All,
}

/// Factors of the embedding, the residual additions and the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    None,
    /// The embedding is multiplied by the root of the width.
    Root,
    /// All factors come from keys.
    Keys,
    /// The factor of logits comes from a key.
    Logits,
}

/// How attention scores are scaled beside the root of a head's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scores {
    Root,
    /// They are not scaled at all.
    One,
    /// By a key.
    Key,
    /// There is no key: the missing factor is multiplied into q's rows. At `wide` layers the root
    /// is that of width / heads.
    Queries {
        wide: usize,
    },
    /// The same, multiplied into the norm of q.
    QueryNorms {
        wide: usize,
    },
}

/// Where the soft cap c tanh(x / c) is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caps {
    None,
    /// To scores and logits, always both.
    Both,
    /// To logits, if there is a key.
    Logits,
}

/// How sliding windows are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Windows {
    /// There are none: every token sees all tokens before it.
    Ignored,
    /// All layers except `period`, 2 `period`, .. have a window, unless a key says otherwise.
    But { period: usize, rotations: Rotations },
    /// The same where there are so many layers, whatever a key says; else there are none.
    InModelsOf { layers: usize, period: usize },
}

/// Whether layers with a window rotate like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rotations {
    One,
    /// Layers with a window have their own base, and no scaling.
    Two,
    /// Layers with a window have the same base, and no scaling.
    Unstretched,
}

/// A supported RoPE scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stretch {
    Linear,
    /// A ramp over frequencies, given by the tensor `rope_freqs`.
    Ramp,
    /// Factors given by the tensors `rope_factors_long` and `rope_factors_short`.
    LongRope,
    Yarn,
    /// The first pairs of a head, given by the tensor `rope_freqs`.
    Proportional,
}

/// How many features of a head are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    All,
    /// The first ones, as many as a key says.
    Some,
}

/// The kind of feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Experts {
    /// A dense feed-forward, the same for every token.
    None,
    /// Experts in every layer. With `of_their_own` their width has its own key, with `normalizes`
    /// routing weights sum to 1, and with `shared` there is an expert that every token passes,
    /// weighted by a sigmoid.
    Every {
        of_their_own: bool,
        normalizes: bool,
        shared: bool,
    },
}

/// The source of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// The embedding, if there is no head.
    Either,
    /// The embedding, even if there is a head.
    Tied,
    /// The head, which must exist.
    Own,
}

pub(crate) const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs: Pairs::Neighbors,
    norm: NormKind::RootMeanSquare,
    norms: NormPlacement::Pre,
    second_norm: "ffn_norm",
    qk_norm: QueryKeyNorm::None,
    biases: Biases::All,
    mlp_biases: false,
    qkv: Modules::Separate,
    gate_up: Modules::Separate,
    feed: Feed::Gated(Activation::Silu),
    scales: Scales::None,
    scores: Scores::Root,
    caps: Caps::None,
    windows: Windows::Ignored,
    stretches: &[Stretch::Linear, Stretch::Ramp],
    resting: Resting::None,
    turned: Turned::All,
    heads: Heads::Any,
    grows_queries: false,
    experts: Experts::None,
    carried: Carried::None,
    is_uneven: false,
    head: Head::Either,
    head_bias: false,
};
const HALVES: Architecture = Architecture {
    pairs: Pairs::Halves,
    biases: Biases::None,
    stretches: &[Stretch::Linear],
    ..LLAMA
};
/// Layer norms and a feed-forward without a gate.
const LAYER_NORMS: Architecture = Architecture {
    norm: NormKind::Layer,
    heads: Heads::AsWide,
    ..HALVES
};
const GEMMA: Architecture = Architecture {
    name: "gemma",
    feed: Feed::Gated(Activation::GeluTanh),
    scales: Scales::Root,
    scores: Scores::Queries { wide: usize::MAX },
    head: Head::Tied,
    ..HALVES
};

const QWEN35: Architecture = Architecture {
    name: "qwen35",
    second_norm: "post_attention_norm",
    qk_norm: QueryKeyNorm::Heads,
    turned: Turned::Some,
    carried: Carried::Delta,
    ..HALVES
};

/// All known architectures; the first that fits is used.
static ALL: [Architecture; 30] = [
    LLAMA,
    Architecture {
        experts: Experts::Every {
            of_their_own: false,
            normalizes: true,
            shared: false,
        },
        ..LLAMA
    },
    Architecture {
        name: "mistral3",
        biases: Biases::None,
        stretches: &[Stretch::Yarn],
        grows_queries: true,
        ..LLAMA
    },
    Architecture {
        name: "qwen2",
        biases: Biases::Inputs,
        heads: Heads::AsWide,
        ..HALVES
    },
    Architecture {
        name: "qwen3",
        qk_norm: QueryKeyNorm::Heads,
        ..HALVES
    },
    Architecture {
        name: "qwen3moe",
        qk_norm: QueryKeyNorm::Heads,
        experts: Experts::Every {
            of_their_own: true,
            normalizes: true,
            shared: false,
        },
        ..HALVES
    },
    Architecture {
        name: "qwen2moe",
        biases: Biases::Inputs,
        heads: Heads::AsWide,
        experts: Experts::Every {
            of_their_own: true,
            normalizes: false,
            shared: true,
        },
        ..HALVES
    },
    Architecture {
        name: "olmoe",
        qk_norm: QueryKeyNorm::Whole,
        heads: Heads::AllAsWide,
        experts: Experts::Every {
            of_their_own: false,
            normalizes: false,
            shared: false,
        },
        ..HALVES
    },
    Architecture {
        name: "seed_oss",
        second_norm: "post_attention_norm",
        biases: Biases::InputsOrNone,
        ..HALVES
    },
    Architecture {
        name: "hunyuan-dense",
        qk_norm: QueryKeyNorm::HeadsAfterRotation,
        ..HALVES
    },
    Architecture {
        name: "exaone4",
        norms: NormPlacement::Post,
        qk_norm: QueryKeyNorm::Heads,
        windows: Windows::InModelsOf {
            layers: 64,
            period: 4,
        },
        resting: Resting::Full,
        ..HALVES
    },
    Architecture {
        name: "glm4",
        pairs: Pairs::Neighbors,
        norms: NormPlacement::PreAndPost,
        biases: Biases::InputsOrNone,
        gate_up: Modules::Fused,
        turned: Turned::Some,
        ..HALVES
    },
    Architecture {
        name: "cohere2",
        pairs: Pairs::Neighbors,
        norm: NormKind::LayerWithoutBias,
        norms: NormPlacement::Parallel,
        scales: Scales::Logits,
        heads: Heads::AsWide,
        windows: Windows::But {
            period: 4,
            rotations: Rotations::One,
        },
        resting: Resting::Full,
        head: Head::Tied,
        ..HALVES
    },
    Architecture {
        name: "starcoder2",
        biases: Biases::All,
        mlp_biases: true,
        feed: Feed::Plain(PlainActivation::GeluTanh),
        ..LAYER_NORMS
    },
    Architecture {
        name: "phi2",
        norms: NormPlacement::Parallel,
        biases: Biases::All,
        mlp_biases: true,
        feed: Feed::Plain(PlainActivation::GeluTanh),
        turned: Turned::Some,
        head: Head::Own,
        head_bias: true,
        ..LAYER_NORMS
    },
    Architecture {
        name: "nemotron",
        feed: Feed::Plain(PlainActivation::SquaredRelu),
        turned: Turned::Some,
        head: Head::Own,
        ..LAYER_NORMS
    },
    Architecture {
        name: "stablelm",
        biases: Biases::InputsOrNone,
        turned: Turned::Some,
        head: Head::Own,
        ..LAYER_NORMS
    },
    Architecture {
        name: "granite",
        scales: Scales::Keys,
        scores: Scores::Key,
        ..LLAMA
    },
    Architecture {
        name: "granitemoe",
        scales: Scales::Keys,
        scores: Scores::Key,
        experts: Experts::Every {
            of_their_own: false,
            normalizes: true,
            shared: false,
        },
        ..LLAMA
    },
    Architecture {
        name: "granitehybrid",
        scales: Scales::Keys,
        scores: Scores::Key,
        resting: Resting::AllOrNone,
        carried: Carried::Sum,
        ..LLAMA
    },
    Architecture {
        name: "lfm2",
        qk_norm: QueryKeyNorm::Heads,
        heads: Heads::AsWide,
        carried: Carried::Convolution,
        ..HALVES
    },
    QWEN35,
    Architecture {
        name: "qwen35moe",
        experts: Experts::Every {
            of_their_own: true,
            normalizes: true,
            shared: true,
        },
        ..QWEN35
    },
    Architecture {
        name: "smollm3",
        pairs: Pairs::Neighbors,
        resting: Resting::Every(4),
        ..HALVES
    },
    Architecture {
        name: "olmo2",
        norms: NormPlacement::Post,
        qk_norm: QueryKeyNorm::Whole,
        windows: Windows::But {
            period: 4,
            rotations: Rotations::Unstretched,
        },
        stretches: &[Stretch::Linear, Stretch::Yarn],
        head: Head::Own,
        ..HALVES
    },
    Architecture {
        name: "phi3",
        qkv: Modules::Fused,
        gate_up: Modules::Fused,
        stretches: &[Stretch::Linear, Stretch::LongRope],
        turned: Turned::Some,
        ..HALVES
    },
    GEMMA,
    Architecture {
        name: "gemma2",
        norms: NormPlacement::PreAndPost,
        scores: Scores::Queries { wide: 46 },
        caps: Caps::Both,
        windows: Windows::But {
            period: 2,
            rotations: Rotations::One,
        },
        ..GEMMA
    },
    Architecture {
        name: "gemma3",
        norms: NormPlacement::PreAndPost,
        qk_norm: QueryKeyNorm::Heads,
        scores: Scores::QueryNorms { wide: 62 },
        caps: Caps::Logits,
        windows: Windows::But {
            period: 6,
            rotations: Rotations::Two,
        },
        head: Head::Either,
        ..GEMMA
    },
    Architecture {
        name: "gemma4",
        norms: NormPlacement::PreAndPost,
        qk_norm: QueryKeyNorm::Heads,
        scores: Scores::One,
        caps: Caps::Logits,
        windows: Windows::But {
            period: usize::MAX,
            rotations: Rotations::Two,
        },
        stretches: &[Stretch::Proportional],
        is_uneven: true,
        head: Head::Either,
        ..GEMMA
    },
];

impl Architecture {
    /// Returns the architecture of this name, with or without experts.
    pub fn named(name: &str, is_routed: bool) -> Option<&'static Self> {
        let is_so =
            |known: &&Self| known.name == name && (known.experts != Experts::None) == is_routed;
        ALL.iter().find(is_so)
    }

    /// Returns the names of all of them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().map(|known| known.name)
    }

    /// Returns the architecture that computes the same as this decoder.
    pub fn of(spec: &DecoderSpec) -> Result<&'static Self, ArchitectureError> {
        if spec.layers.is_empty() {
            return Err(ArchitectureError::NoLayers);
        }
        let rests = spec
            .layers
            .iter()
            .any(|layer| layer.mixer.rope().is_none() && !layer.mixer.carries());
        let judged = ALL.iter().map(|known| (known, known.lacks(spec)));
        let nearest = judged.min_by_key(|(known, lacks)| {
            (
                known.strangeness(spec),
                lacks.len(),
                (known.resting != Resting::None) != rests,
            )
        });
        let (architecture, lacks) = nearest.expect("there are some");
        if lacks.is_empty() {
            return Ok(architecture);
        }
        let both = |side: fn(&Lack) -> &str| lacks.iter().map(side).collect::<Vec<_>>().join(", ");
        Err(ArchitectureError::NotKnown {
            has: both(|lack| &lack.has),
            name: architecture.name,
            takes: both(|lack| &lack.takes),
        })
    }

    /// Returns the factor by which llama.cpp multiplies scores if there is no key for it.
    pub fn score_scale(&self, spec: &DecoderSpec) -> f64 {
        let [heads, _, head_dim] = attending(spec).mixer.heads();
        let width = match self.scores {
            Scores::One => 1,
            Scores::Queries { wide } | Scores::QueryNorms { wide } if spec.layers.len() == wide => {
                spec.width / heads
            }
            _ => head_dim,
        };
        1.0 / (width as f64).sqrt()
    }
}
