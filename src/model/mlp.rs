//! Feed-forward of a block: gated, plain, or of experts.

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};

use super::spec::{ExpertsSpec, GatedSpec, MlpSpec, PlainActivation, SharedExpertSpec};
use crate::nn::experts::{Experts, Load};
use crate::nn::footprint::{ProjectionGroup, RowShape, TrainedMaps};
use crate::nn::norm::Norm;
use crate::nn::projection::{Projection, side_by_side};
use crate::nn::weight::Weight;
use crate::ops::{Activation, Mask, gated, gelu};

/// The feed-forward of a block.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a block, and the largest is what most blocks have"
)]
pub(super) enum Mlp {
    Gated {
        spec: GatedSpec,
        /// The gate and up projections, or one projection of both.
        gate_up: Vec<Projection>,
        down: Projection,
    },
    Plain {
        activation: PlainActivation,
        /// The up and down projections.
        maps: Box<[Projection; 2]>,
    },
    Experts(Box<Experts>),
    GatedAndExperts(Box<GatedAndExperts>),
}

/// A gated feed-forward and experts, see [`super::spec::GatedAndExpertsSpec`].
#[derive(Debug, Clone)]
pub(super) struct GatedAndExperts {
    /// A gated feed-forward.
    pub(super) gated: Mlp,
    pub(super) experts: Experts,
    /// The norms after the feed-forward, before the experts and after them.
    pub(super) norms: [Norm; 3],
    /// Modules of the norms.
    pub(super) norm_names: [String; 3],
}

impl GatedAndExperts {
    /// Returns the sum of both, and the load of the experts.
    ///
    /// # Shapes
    /// `x`, what the feed-forward takes, `stream` and the result [batch, tokens, width].
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        stream: Tensor<3>,
        masks: [[Option<Mask>; 2]; 2],
    ) -> (Tensor<3>, Load) {
        let [batch, length, width] = x.dims();
        let [after_gated, before_experts, after_experts] = &self.norms;
        let [of_gated, of_experts] = masks
            .each_ref()
            .map(|masks| masks.each_ref().map(Option::as_ref));
        let (gated, _) = self.gated.forward(x, None, of_gated);
        let rows = |of: Tensor<3>| of.reshape([batch * length, width]);
        let (y, load) = self.experts.forward_chosen_by(
            rows(stream.clone()),
            rows(before_experts.forward(stream)),
            of_experts,
        );
        let y = after_experts.forward(y.reshape([batch, length, width]));
        (after_gated.forward(gated) + y, load)
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = (&String, &mut Norm)> {
        self.norm_names.iter().zip(&mut self.norms)
    }
}

impl Mlp {
    /// Returns the output, added to `onto` where that is given, and the load of its experts.
    ///
    /// # Shapes
    /// `x`, `onto` and the result [batch, tokens, width].
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        onto: Option<Tensor<3>>,
        [of_input, of_output]: [Option<&Mask>; 2],
    ) -> (Tensor<3>, Option<Load>) {
        let [batch, length, width] = x.dims();
        let projected = |down: &Projection, inner: Tensor<3>, onto| {
            side_by_side(std::slice::from_ref(down), inner, onto, of_output)
        };
        match self {
            Self::Gated {
                spec,
                gate_up,
                down,
            } => {
                let gate_up = side_by_side(gate_up, x, None, of_input);
                let [.., inner] = gate_up.dims();
                let inner = gated(gate_up.reshape([batch * length, inner]), spec.activation)
                    .reshape([batch, length, inner / 2]);
                (projected(down, inner, onto), None)
            }
            Self::Plain { activation, maps } => {
                let [up, down] = &**maps;
                let inner = activation.of(up.forward(x, of_input));
                (projected(down, inner, onto), None)
            }
            Self::Experts(experts) => {
                let (y, load) =
                    experts.forward(x.reshape([batch * length, width]), [of_input, of_output]);
                let y = y.reshape([batch, length, width]);
                (
                    onto.map_or_else(|| y.clone(), |onto| onto + y.clone()),
                    Some(load),
                )
            }
            Self::GatedAndExperts(_) => unreachable!("a block gives it the stream too"),
        }
    }

    /// Returns the projections in checkpoint order.
    pub(super) fn projections(&self) -> Vec<&Projection> {
        match self {
            Self::Gated { gate_up, down, .. } => gate_up.iter().chain([down]).collect(),
            Self::Plain { maps, .. } => maps.iter().collect(),
            Self::Experts(experts) => experts.projections().collect(),
            Self::GatedAndExperts(both) => {
                let gated = both.gated.projections().into_iter();
                gated.chain(both.experts.projections()).collect()
            }
        }
    }

    /// Returns the projections in checkpoint order.
    pub(super) fn projections_mut(&mut self) -> Vec<&mut Projection> {
        match self {
            Self::Gated { gate_up, down, .. } => gate_up.iter_mut().chain([down]).collect(),
            Self::Plain { maps, .. } => maps.iter_mut().collect(),
            Self::Experts(experts) => experts.projections_mut().collect(),
            Self::GatedAndExperts(both) => {
                let gated = both.gated.projections_mut().into_iter();
                gated.chain(both.experts.projections_mut()).collect()
            }
        }
    }

    /// Marks whether its own weights train.
    pub(super) fn set_trains(&mut self, trains: bool) {
        self.projections_mut()
            .into_iter()
            .for_each(|projection| projection.trains = trains);
        match self {
            Self::Experts(experts) => experts.router.trains = trains,
            Self::GatedAndExperts(both) => {
                both.experts.router.trains = trains;
                both.norms_mut().for_each(|(_, norm)| norm.trains = trains);
            }
            Self::Gated { .. } | Self::Plain { .. } => {}
        }
    }

    /// Visits the weights that train, with their names.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        match self {
            Self::Experts(experts) => experts.visit(visit),
            Self::GatedAndExperts(both) => {
                both.gated.visit(visit);
                both.experts.visit(visit);
                both.norms_mut()
                    .for_each(|(name, norm)| norm.visit(name, visit));
            }
            other => other
                .projections_mut()
                .into_iter()
                .for_each(|projection| projection.visit(visit)),
        }
    }
}

impl MlpSpec {
    /// Returns the projections from the stream, and those back to it, counted per token. Adapters
    /// of routed experts get the rows that are sent to them, and all experts are alike; only the
    /// shared expert may have magnitudes.
    pub(super) fn groups(&self, width: u64, maps: TrainedMaps) -> [ProjectionGroup; 2] {
        match self {
            Self::Gated(_) | Self::Plain(_) => {
                let [input, output] = maps.split_last();
                [input.group(width), output.group(self.inner_numbers())]
            }
            Self::Experts(experts) => experts.groups(width, maps),
            Self::GatedAndExperts(both) => {
                let [of_gated, of_experts] = maps.split_at(both.gated.maps());
                let [input, output] = of_gated.split_last();
                let [expert_input, expert_output] = both.experts.groups(width, of_experts);
                [
                    input.group(width).and(expert_input),
                    output.group(both.gated.inner as u64).and(expert_output),
                ]
            }
        }
    }

    /// Returns the bytes that [`Mlp::forward`] keeps for its backward in addition to its input and
    /// what its projections keep: gate and up, which the gated unit keeps, and
    /// [`MlpSpec::beside_bytes`].
    pub(super) fn saved_bytes(&self, width: u64, rows: RowShape) -> u64 {
        self.gate_up_bytes(rows) + self.beside_bytes(width, rows)
    }

    /// Returns the peak bytes of intermediate results, in addition to the input: gate and up with
    /// that input, or with the result of the gated unit.
    pub(super) fn computed_bytes(&self, width: u64, rows: RowShape) -> u64 {
        let unit = rows.bytes(self.inner_numbers());
        self.gate_up_bytes(rows) + unit.max(rows.bytes(width)) + self.beside_bytes(width, rows)
    }

    /// Returns the bytes of gate and up, the widest of a block's tensors.
    pub(super) fn gate_up_bytes(&self, rows: RowShape) -> u64 {
        let maps = if let Self::Plain(_) = self { 1 } else { 2 };
        rows.bytes(maps * self.inner_numbers())
    }

    /// Returns the bytes that are kept in addition to gate and up: of a plain feed-forward what its
    /// activation keeps; or the rows of experts, and the shared expert.
    pub(super) fn beside_bytes(&self, width: u64, rows: RowShape) -> u64 {
        match self {
            // Gate and up apart, and what the error function keeps.
            Self::Gated(gated) if gated.activation == Activation::Gelu => {
                rows.bytes(4 * gated.inner as u64)
            }
            Self::Gated(_) => 0,
            Self::Plain(plain) => rows.bytes(plain.activation.saved_numbers() * plain.inner as u64),
            Self::Experts(experts) => experts.beside_bytes(width, rows),
            // What the norms of both give and take.
            Self::GatedAndExperts(both) => {
                both.experts.beside_bytes(width, rows) + rows.bytes(3 * width)
            }
        }
    }

    /// Returns the numbers of the gated unit per token, of all chosen experts together.
    fn inner_numbers(&self) -> u64 {
        match self {
            Self::Gated(_) | Self::Plain(_) => self.inner() as u64,
            Self::Experts(experts) => experts.inner_numbers(),
            Self::GatedAndExperts(both) => both.gated.inner as u64 + both.experts.inner_numbers(),
        }
    }
}

impl ExpertsSpec {
    /// Returns the projections from the stream, and those back to it, see [`MlpSpec::groups`].
    fn groups(&self, width: u64, maps: TrainedMaps) -> [ProjectionGroup; 2] {
        let (chosen, inner) = (self.router.chosen as u64, self.inner_numbers());
        let ([of_expert, _], [_, of_shared]) = (
            maps.split_at(self.maps()),
            maps.split_at(maps.ranks.len() - self.shared_maps()),
        );
        let ([input, output], [shared_input, shared_output]) =
            (of_expert.split_last(), of_shared.split_last());
        [(input, shared_input, width), (output, shared_output, inner)].map(
            |(routed, shared, inputs)| {
                let group = routed.group(inputs);
                ProjectionGroup {
                    ranks: group.ranks * chosen,
                    scaled: shared.group(0).scaled,
                    ..group
                }
            },
        )
    }

    fn inner_numbers(&self) -> u64 {
        (self.router.chosen * self.expert.inner) as u64
    }

    /// Returns the bytes of the rows of experts, and of the shared expert.
    fn beside_bytes(&self, width: u64, rows: RowShape) -> u64 {
        let of_shared = |shared: SharedExpertSpec| {
            // What is weighted is kept before it is.
            let weighted = shared.gate.map_or(0, |_| width + 2);
            3 * shared.inner as u64 + weighted
        };
        self.router.saved_bytes(width, rows) + rows.bytes(self.shared.map_or(0, of_shared))
    }
}

impl PlainActivation {
    /// Computes the activation by operations whose gradients burn has.
    fn of(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Gelu => gelu(x),
            // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
            Self::GeluTanh => {
                let squares = x.clone() * x.clone();
                let slope = squares
                    .mul_scalar(0.044_715)
                    .add_scalar(1.0)
                    .mul_scalar(SQRT_2 * FRAC_2_SQRT_PI);
                let share = sigmoid(x.clone() * slope);
                x * share
            }
            Self::SquaredRelu => {
                let positive = relu(x);
                positive.clone() * positive
            }
        }
    }

    /// Returns how many numbers each output keeps for the backward, beside the input: input and
    /// result of the error function; slope and share of the input; or nothing, because the positive
    /// part takes the place of the input.
    fn saved_numbers(self) -> u64 {
        match self {
            Self::Gelu | Self::GeluTanh => 2,
            Self::SquaredRelu => 0,
        }
    }
}
