//! The spec of a layer's feed-forward.

use super::Modules;
use crate::nn::experts::RouterSpec;
use crate::ops::Activation;

/// The kind of feed-forward.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// Gated.
    Gated(GatedSpec),
    /// Plain, without a gate.
    Plain(PlainSpec),
    /// Experts of which a router chooses a few.
    Experts(ExpertsSpec),
    /// A gated feed-forward and experts, side by side.
    GatedAndExperts(Box<GatedAndExpertsSpec>),
}

impl From<GatedSpec> for MlpSpec {
    fn from(spec: GatedSpec) -> Self {
        Self::Gated(spec)
    }
}

impl From<PlainSpec> for MlpSpec {
    fn from(spec: PlainSpec) -> Self {
        Self::Plain(spec)
    }
}

impl From<ExpertsSpec> for MlpSpec {
    fn from(spec: ExpertsSpec) -> Self {
        Self::Experts(spec)
    }
}

impl MlpSpec {
    /// Returns the spec of experts.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        match self {
            Self::Experts(experts) => Some(experts),
            Self::GatedAndExperts(both) => Some(&both.experts),
            Self::Gated(_) | Self::Plain(_) => None,
        }
    }

    /// Returns the spec of experts, to be changed.
    pub fn experts_mut(&mut self) -> Option<&mut ExpertsSpec> {
        match self {
            Self::Experts(experts) => Some(experts),
            Self::GatedAndExperts(both) => Some(&mut both.experts),
            Self::Gated(_) | Self::Plain(_) => None,
        }
    }

    /// Returns the spec of a gated feed-forward that every token passes and that stands alone.
    pub fn gated(&self) -> Option<&GatedSpec> {
        if let Self::Gated(gated) = self {
            Some(gated)
        } else {
            None
        }
    }

    /// Returns the inner width, of an expert where there are experts.
    pub fn inner(&self) -> usize {
        match self {
            Self::Gated(gated) => gated.inner,
            Self::Plain(plain) => plain.inner,
            Self::Experts(experts) => experts.expert.inner,
            Self::GatedAndExperts(both) => both.experts.expert.inner,
        }
    }

    /// Returns the inner width, to be changed.
    pub fn inner_mut(&mut self) -> &mut usize {
        match self {
            Self::Gated(gated) => &mut gated.inner,
            Self::Plain(plain) => &mut plain.inner,
            Self::Experts(experts) => &mut experts.expert.inner,
            Self::GatedAndExperts(both) => &mut both.experts.expert.inner,
        }
    }
}

/// A gated feed-forward: down(a(gate(x)) · up(x)), Shazeer 2020, arXiv:2002.05202.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedSpec {
    /// Inner width.
    pub inner: usize,
    /// Modules of gate and up.
    pub gate_up: Modules,
    /// Whether the three projections have a bias.
    pub bias: bool,
    /// The activation a.
    pub activation: Activation,
}

impl GatedSpec {
    /// Makes one with `SiLU` and without biases.
    pub fn new(inner: usize) -> Self {
        Self {
            inner,
            gate_up: Modules::Separate,
            bias: false,
            activation: Activation::Silu,
        }
    }

    /// Returns the number of linear maps.
    pub fn maps(&self) -> usize {
        if self.gate_up == Modules::Separate {
            3
        } else {
            2
        }
    }
}

/// A plain feed-forward: down(a(up(x))).
#[derive(Debug, Clone, PartialEq)]
pub struct PlainSpec {
    /// Inner width.
    pub inner: usize,
    /// Whether both projections have a bias.
    pub bias: bool,
    /// The activation a.
    pub activation: PlainActivation,
}

/// The activation of a feed-forward without a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainActivation {
    /// x Φ(x), with the error function, Hendrycks and Gimpel 2016, arXiv:1606.08415.
    Gelu,
    /// Its approximation by tanh, from the same paper.
    GeluTanh,
    /// max(x, 0)², So et al. 2021, arXiv:2109.08668.
    SquaredRelu,
}

/// Σ wᵢ expertᵢ(x) over the experts that the router chooses, plus the shared expert; Shazeer et al.
/// 2017, arXiv:1701.06538.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsSpec {
    /// How experts are chosen and weighted.
    pub router: RouterSpec,
    /// The spec of one expert.
    pub expert: GatedSpec,
    /// Form of the experts in the checkpoint.
    pub form: ExpertForm,
    /// The shared expert, which every token passes; `None`: there is none.
    pub shared: Option<SharedExpertSpec>,
}

/// The expert of a layer that every token passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpertSpec {
    /// Its module.
    pub module: &'static str,
    /// Inner width.
    pub inner: usize,
    /// The linear map to one number, whose sigmoid is the weight of the expert's output; `None`:
    /// the weight is 1.
    pub gate: Option<&'static str>,
}

/// norm(gated(x)) + norm(experts(norm(h))): the gated feed-forward takes x, the normalized stream,
/// and the experts take the stream h through a norm of their own. The router takes h as it is:
/// <https://huggingface.co/docs/transformers/model_doc/gemma4>.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedAndExpertsSpec {
    /// The feed-forward of every token.
    pub gated: GatedSpec,
    /// The experts.
    pub experts: ExpertsSpec,
}

/// Form of a layer's experts in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertForm {
    /// Each expert has modules of its own for gate, up and down.
    Apart {
        /// The module that contains the experts and their router.
        module: &'static str,
        /// Last names of gate, up and down.
        parts: [&'static str; 3],
    },
    /// Stacked [experts, in, out] with biases. Gate g and up u alternate, and are clamped:
    /// (clamp(u) + 1) g σ(α g) with g up to `limit` (arXiv:2508.10925).
    Stacked {
        /// α.
        alpha: f64,
        /// The limit of g and |u|.
        limit: f64,
    },
    /// Stacked [experts, out, in] without biases; the rows of gate are above those of up.
    Rows(StackNames),
}

/// Names within a layer of stacked experts without biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackNames {
    /// The module of the experts in transformers, whose parameters `gate_up_proj` and `down_proj`
    /// can have adapters.
    pub module: &'static str,
    /// The tensors of these parameters in a checkpoint.
    pub tensors: [&'static str; 2],
    /// The module of the router.
    pub router: &'static str,
}
