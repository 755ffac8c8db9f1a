//! Finds the llama.cpp architecture that computes the same as a decoder. The differences between
//! architectures are data, read from llama.cpp's `src/models/*.cpp`. A model that none of them
//! computes is refused, with its features and those of the nearest architecture.

use super::GgufError;
use super::differences::Lack;
use crate::model::{DecoderSpec, Modules, NormPlacement, QueryKeyNorm};
use crate::ops::Activation;

/// An architecture of llama.cpp, as far as models differ in it.
#[derive(Debug, PartialEq)]
pub(super) struct Architecture {
    /// Its name, the prefix of its keys.
    pub name: &'static str,
    pub pairs: Pairs,
    pub norms: NormPlacement,
    pub qk_norm: QueryKeyNorm,
    pub biases: Biases,
    /// How q, k and v, and gate and up, are divided into modules.
    pub modules: Modules,
    pub activation: Activation,
    pub scales: Scales,
    pub scores: Scores,
    pub caps: Caps,
    pub windows: Windows,
    /// Supported RoPE scalings beside the plain rotation.
    pub stretches: &'static [Stretch],
    /// Layers n, 2n, .. have no rotation.
    pub resting: Option<usize>,
    pub turned: Turned,
    pub experts: Experts,
    pub head: Head,
}

/// Which features of a head RoPE rotates together. Hugging Face's models pair halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// 0 and 1, 2 and 3, and so on: rows of q and k have to be reordered.
    Neighbors,
    /// The first half with the second, as in Hugging Face's models.
    Halves,
}

/// Which biases are added if the file has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    None,
    /// Biases of q, k and v.
    Inputs,
    /// Biases of q, k, v and the output together, or none.
    All,
}

/// Factors of the embedding, the residual additions and the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    None,
    /// The embedding is multiplied by the root of the width.
    Root,
    /// All factors come from keys.
    Keys,
}

/// How attention scores are scaled beside the root of a head's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scores {
    Root,
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
pub(super) enum Caps {
    None,
    /// To scores and logits, always both.
    Both,
    /// To logits, if there is a key.
    Logits,
}

/// How sliding windows are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// There are none: every token sees all tokens before it.
    Ignored,
    /// All layers except `period`, 2 `period`, .. have a window, unless a key says otherwise.
    But { period: usize, rotations: Rotations },
}

/// Whether layers with a window rotate like the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotations {
    One,
    /// Layers with a window have their own base, and no scaling.
    Two,
}

/// A supported RoPE scaling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    Linear,
    /// A ramp over frequencies, given by the tensor `rope_freqs`.
    Ramp,
    /// Factors given by the tensors `rope_factors_long` and `rope_factors_short`.
    LongRope,
}

/// How many features of a head are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    All,
    /// The first ones, as many as a key says.
    Some,
}

/// The kind of feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Experts {
    /// A dense feed-forward, the same for every token.
    None,
    /// Experts in every layer, with routing weights that sum to 1. With `of_their_own` their width
    /// has its own key.
    Every { of_their_own: bool },
}

/// The source of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// The embedding, if there is no head.
    Either,
    /// The embedding, even if there is a head.
    Tied,
    /// The head, which must exist.
    Own,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    pairs: Pairs::Neighbors,
    norms: NormPlacement::Pre,
    qk_norm: QueryKeyNorm::None,
    biases: Biases::All,
    modules: Modules::Separate,
    activation: Activation::Silu,
    scales: Scales::None,
    scores: Scores::Root,
    caps: Caps::None,
    windows: Windows::Ignored,
    stretches: &[Stretch::Linear, Stretch::Ramp],
    resting: None,
    turned: Turned::All,
    experts: Experts::None,
    head: Head::Either,
};
const HALVES: Architecture = Architecture {
    pairs: Pairs::Halves,
    biases: Biases::None,
    stretches: &[Stretch::Linear],
    ..LLAMA
};
const GEMMA: Architecture = Architecture {
    name: "gemma",
    activation: Activation::GeluTanh,
    scales: Scales::Root,
    scores: Scores::Queries { wide: usize::MAX },
    head: Head::Tied,
    ..HALVES
};

/// All known architectures; the first that fits is used.
static ALL: [Architecture; 12] = [
    LLAMA,
    Architecture {
        experts: Experts::Every {
            of_their_own: false,
        },
        ..LLAMA
    },
    Architecture {
        name: "qwen2",
        biases: Biases::Inputs,
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
        experts: Experts::Every { of_their_own: true },
        ..HALVES
    },
    Architecture {
        name: "granite",
        scales: Scales::Keys,
        scores: Scores::Key,
        ..LLAMA
    },
    Architecture {
        name: "smollm3",
        pairs: Pairs::Neighbors,
        resting: Some(4),
        ..HALVES
    },
    Architecture {
        name: "olmo2",
        norms: NormPlacement::Post,
        qk_norm: QueryKeyNorm::Whole,
        head: Head::Own,
        ..HALVES
    },
    Architecture {
        name: "phi3",
        modules: Modules::Fused,
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
];

impl Architecture {
    /// Returns the architecture that computes the same as this decoder.
    pub fn of(spec: &DecoderSpec) -> Result<&'static Self, GgufError> {
        if spec.layers.is_empty() {
            return Err(GgufError::NoLayers);
        }
        let rests = spec.layers.iter().any(|layer| layer.mixer.rope().is_none());
        let judged = ALL.iter().map(|known| (known, known.lacks(spec)));
        let nearest = judged.min_by_key(|(known, lacks)| {
            (
                known.strangeness(spec),
                lacks.len(),
                known.resting.is_some() != rests,
            )
        });
        let (architecture, lacks) = nearest.expect("there are some");
        if lacks.is_empty() {
            return Ok(architecture);
        }
        let both = |side: fn(&Lack) -> &str| lacks.iter().map(side).collect::<Vec<_>>().join(", ");
        Err(GgufError::NotKnown {
            has: both(|lack| &lack.has),
            name: architecture.name,
            takes: both(|lack| &lack.takes),
        })
    }

    /// Returns the factor by which llama.cpp multiplies scores if there is no key for it.
    pub fn score_scale(&self, spec: &DecoderSpec) -> f64 {
        let [heads, _, head_dim] = spec.layers[0].mixer.heads();
        let width = match self.scores {
            Scores::Queries { wide } | Scores::QueryNorms { wide } if spec.layers.len() == wide => {
                spec.width / heads
            }
            _ => head_dim,
        };
        1.0 / (width as f64).sqrt()
    }
}
