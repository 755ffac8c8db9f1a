//! A decoder as llama.cpp knows it: which of its architectures computes the same. What tells them
//! apart is data, read in llama.cpp's `src/models/*.cpp`; a model that none of them computes is
//! refused with what it has and what the nearest one takes.

use super::GgufError;
use super::differences::Lack;
use crate::model::{DecoderSpec, Modules, NormPlacement, QueryKeyNorm};
use crate::ops::Activation;

/// An architecture of llama.cpp's, as far as models differ in it.
#[derive(Debug, PartialEq)]
pub(super) struct Architecture {
    /// Its name, in front of its keys.
    pub name: &'static str,
    pub pairs: Pairs,
    pub norms: NormPlacement,
    pub qk_norm: QueryKeyNorm,
    pub biases: Biases,
    /// Of q, k and v, and of gate and up.
    pub modules: Modules,
    pub activation: Activation,
    pub scales: Scales,
    pub scores: Scores,
    pub caps: Caps,
    pub windows: Windows,
    /// Stretched rotations beside the plain one.
    pub stretches: &'static [Stretch],
    /// n, where layers n, 2n, .. do not rotate.
    pub resting: Option<usize>,
    pub turned: Turned,
    pub experts: Experts,
    pub head: Head,
}

/// Which features of a head are turned together. Hugging Face's models turn halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// 0 and 1, 2 and 3, ..: rows of q and k have to be reordered.
    Neighbors,
    /// As there.
    Halves,
}

/// Biases that are added where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    None,
    /// Those of q, k and v.
    Inputs,
    /// Those of q, k, v and the output together, or none.
    All,
}

/// What the embedding, what is added to the stream, and the logits are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    None,
    /// The embedding by the root of the width.
    Root,
    /// All of them by keys.
    Keys,
}

/// How scores are scaled beside the root of a head's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scores {
    Root,
    /// By a key.
    Key,
    /// By no key: what is missing goes into q's rows. At `wide` layers the root is that of width /
    /// heads.
    Queries {
        wide: usize,
    },
    /// The same, into the norm of q.
    QueryNorms {
        wide: usize,
    },
}

/// What c tanh(x / c) is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caps {
    None,
    /// Scores and logits, both of them always.
    Both,
    /// Logits, where there is a key.
    Logits,
}

/// What becomes of sliding windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// Every token sees all before it.
    Ignored,
    /// All layers but `period`, 2 `period`, .. have one where no key says otherwise.
    But { period: usize, rotations: Rotations },
}

/// Whether layers with a window rotate as the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotations {
    One,
    /// Those with a window have a base of their own, and no stretch.
    Two,
}

/// A stretched rotation that is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    Linear,
    /// A ramp over frequencies, by the tensor `rope_freqs`.
    Ramp,
    /// By the tensors `rope_factors_long` and `rope_factors_short`.
    LongRope,
}

/// How many features of a head are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    All,
    /// Those that a key says, the first ones.
    Some,
}

/// What the feed-forward is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Experts {
    /// One, the same for every token.
    None,
    /// A few of some in every layer, whose weights come to 1. With `of_their_own` their width has a
    /// key of its own.
    Every { of_their_own: bool },
}

/// Where logits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// The embedding, where there is no head.
    Either,
    /// The embedding, whatever there is.
    Tied,
    /// The head, which must be there.
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

/// All that are known, the first that fits is taken.
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
    /// The architecture that computes what this decoder does.
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

    /// What llama.cpp multiplies scores by where no key says it.
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
