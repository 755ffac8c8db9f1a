//! The feed-forward of a layer, as data.

use super::Modules;
use crate::nn::experts::RouterSpec;
use crate::ops::Activation;

/// What a layer makes of each token by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum MlpSpec {
    /// With a gate.
    Gated(GatedSpec),
    /// Without.
    Plain(PlainSpec),
    /// A few of many.
    Experts(ExpertsSpec),
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
    /// That of experts.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        if let Self::Experts(experts) = self {
            Some(experts)
        } else {
            None
        }
    }

    /// That with a gate.
    pub fn gated(&self) -> Option<&GatedSpec> {
        if let Self::Gated(gated) = self {
            Some(gated)
        } else {
            None
        }
    }

    /// Width between: of an expert, where there are some.
    pub fn inner(&self) -> usize {
        match self {
            Self::Gated(gated) => gated.inner,
            Self::Plain(plain) => plain.inner,
            Self::Experts(experts) => experts.expert.inner,
        }
    }

    /// The same, to be changed.
    pub fn inner_mut(&mut self) -> &mut usize {
        match self {
            Self::Gated(gated) => &mut gated.inner,
            Self::Plain(plain) => &mut plain.inner,
            Self::Experts(experts) => &mut experts.expert.inner,
        }
    }
}

/// down(a(gate(x)) · up(x)), Shazeer 2020, arXiv:2002.05202.
#[derive(Debug, Clone, PartialEq)]
pub struct GatedSpec {
    /// Width between.
    pub inner: usize,
    /// Modules of gate and up.
    pub gate_up: Modules,
    /// Whether the three projections have a bias.
    pub bias: bool,
    /// a.
    pub activation: Activation,
}

impl GatedSpec {
    /// With `SiLU` and without biases.
    pub fn new(inner: usize) -> Self {
        Self {
            inner,
            gate_up: Modules::Separate,
            bias: false,
            activation: Activation::Silu,
        }
    }
}

/// down(gelu(up(x))), with the error function.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainSpec {
    /// Width between.
    pub inner: usize,
    /// Whether both projections have a bias.
    pub bias: bool,
}

/// Σ wᵢ expertᵢ(x) over the experts that the router chooses, and those that every token has;
/// Shazeer et al. 2017, arXiv:1701.06538.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsSpec {
    /// How experts are chosen and weighed.
    pub router: RouterSpec,
    /// One of them.
    pub expert: GatedSpec,
    /// How the checkpoint has them.
    pub form: ExpertForm,
    /// Width between of the feed-forward that every token has beside them; `None`: there is none.
    pub shared: Option<usize>,
}

/// How a checkpoint has the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpertForm {
    /// Each with modules of its own, called so: gate, up and down.
    Apart {
        /// The module in which they and their router stand.
        module: &'static str,
        /// Last names of gate, up and down.
        parts: [&'static str; 3],
    },
    /// Stacked [experts, in, out] with biases. Gate g and up u alternate, and are clamped:
    /// (clamp(u) + 1) g σ(α g) with g up to `limit` (arXiv:2508.10925).
    Stacked {
        /// α.
        alpha: f64,
        /// The largest g and |u|.
        limit: f64,
    },
}
