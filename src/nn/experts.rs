//! Experts of which a router chooses a few for each token. Rows are gathered by expert, and only
//! the chosen experts are computed, forward and backward.

use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::footprint::{F32, RowShape};
use super::lora::Portion;
use super::projection::{Projection, side_by_side};
use super::weight::Weight;
use crate::ops::{
    Activation, Group, Linear, Linears, Mask, adapted_by_group, gated, matmul, rms_norm,
};

/// Choice and weights of the experts.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterSpec {
    /// Number of experts.
    pub experts: usize,
    /// Number of experts for each token.
    pub chosen: usize,
    /// The function that turns logits into scores.
    pub score: RouterScore,
    /// Groups of experts, of which only some are considered; `None`: all are.
    pub groups: Option<RouterGroups>,
    /// Whether the weights of the chosen experts are normalized to a sum of 1.
    pub normalizes: bool,
    /// The final factor of the weights.
    pub scale: f64,
    /// Whether logits have a bias.
    pub bias: bool,
}

/// The function that turns a router's logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterScore {
    /// The softmax over all experts. Jiang et al. 2024, arXiv:2401.04088, normalize it over the
    /// chosen ones.
    Softmax,
    /// The softmax over the chosen experts, arXiv:2508.10925.
    SoftmaxOfChosen,
    /// The softmax over all experts, of logits of a normalized and scaled input. The weight of each
    /// expert is multiplied by a number of its own at the end, see [`RouterScales`].
    ScaledSoftmax,
    /// The sigmoid. The corrected scores choose, the uncorrected ones give the weights:
    /// arXiv:2412.19437.
    Sigmoid,
}

/// Groups of experts of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterGroups {
    /// Number of groups.
    pub count: usize,
    /// Number of groups that may have chosen experts.
    pub chosen: usize,
}

impl RouterSpec {
    /// Whether a constant is added to the scores that choose.
    pub fn is_corrected(&self) -> bool {
        self.score == RouterScore::Sigmoid
    }

    /// Whether the input and the weights of experts have learned scales.
    pub fn is_scaled(&self) -> bool {
        self.score == RouterScore::ScaledSoftmax
    }

    /// Returns the experts of one token, given one choosing score per expert. Among equal ones the
    /// first is taken.
    fn choose(&self, scores: &[f32]) -> Vec<usize> {
        let highest = |count: usize, among: &mut dyn Iterator<Item = (usize, f32)>| {
            let mut all: Vec<_> = among.collect();
            all.sort_by(|(_, left), (_, right)| right.total_cmp(left));
            all.into_iter()
                .take(count)
                .map(|(index, _)| index)
                .collect::<Vec<_>>()
        };
        let Some(RouterGroups { count, chosen }) = self.groups else {
            return highest(self.chosen, &mut scores.iter().copied().enumerate());
        };
        let size = self.experts / count;
        let of_group = |scores: &[f32]| {
            let mut sorted = scores.to_vec();
            sorted.sort_by(|left, right| right.total_cmp(left));
            // By its best expert, or its best two where scores are sigmoids.
            sorted
                .iter()
                .take(if self.score == RouterScore::Sigmoid {
                    2
                } else {
                    1
                })
                .sum::<f32>()
        };
        let groups = highest(chosen, &mut scores.chunks(size).map(of_group).enumerate());
        highest(
            self.chosen,
            &mut scores
                .iter()
                .copied()
                .enumerate()
                .filter(|(index, _)| groups.contains(&(index / size))),
        )
    }
}

impl RouterSpec {
    /// Returns the bytes that [`Experts::forward`] keeps in addition to the experts' projections:
    /// rows by expert, the outputs of experts by expert and by token, and the router's results, in
    /// f32.
    pub fn saved_bytes(&self, width: u64, rows: RowShape) -> u64 {
        let scaled_input = if self.is_scaled() { width } else { 0 };
        rows.bytes(3 * self.chosen as u64 * width)
            + rows.tokens * (4 * self.experts as u64 + scaled_input) * F32
    }
}

/// The linear map that chooses the experts of a token.
#[derive(Debug, Clone)]
pub struct Router {
    /// Name of the module.
    pub name: String,
    /// Weight, [experts, width], f32.
    pub weight: Tensor<2>,
    /// Bias, [experts].
    pub bias: Option<Tensor<1>>,
    /// Correction that is added to scores for choosing only; one per expert, or none.
    pub correction: Vec<f32>,
    /// Scales of the input and of the experts' weights.
    pub scales: Option<RouterScales>,
    /// How the router chooses.
    pub spec: RouterSpec,
    /// Whether weight, bias and scales train.
    pub trains: bool,
}

/// Learned scales of a router: it sees x / sqrt(mean(x²) + ε) · s / sqrt(width), and the weight of
/// expert e is multiplied by `t_e`.
#[derive(Debug, Clone)]
pub struct RouterScales {
    /// Name of the module that has both.
    pub name: String,
    /// s, [width].
    pub input: Tensor<1>,
    /// t, [experts].
    pub experts: Tensor<1>,
    /// ε.
    pub epsilon: f64,
}

impl RouterScales {
    /// Returns what the router sees of x, [tokens, width] in f32.
    fn of_input(&self, x: Tensor<2>) -> Tensor<2> {
        let [_, width] = x.dims();
        let scale = self.input.clone().div_scalar((width as f64).sqrt());
        rms_norm(x, scale, self.epsilon)
    }
}

/// The routing of tokens.
#[derive(Debug)]
struct Routed {
    /// The expert of each choice, `chosen` per token.
    experts: Vec<usize>,
    /// Weights of the chosen experts, [tokens, chosen], f32.
    weights: Tensor<2>,
    /// The softmax over all experts, [tokens, experts], f32.
    probabilities: Tensor<2>,
}

impl Router {
    /// Routes the tokens. It is computed in 32 bits whatever the stream's type, because small
    /// differences decide which expert comes first.
    fn route(&self, x: Tensor<2>) -> Routed {
        let (spec, device, [tokens, _]) = (&self.spec, x.device(), x.dims());
        let x = match &self.scales {
            Some(scales) => scales.of_input(in_f32(x)),
            None => in_f32(x),
        };
        let mut logits = matmul(x, self.weight.clone().transpose()); // [tokens, experts]
        if let Some(bias) = &self.bias {
            logits = logits + bias.clone().unsqueeze();
        }
        let scores = match spec.score {
            RouterScore::Softmax | RouterScore::ScaledSoftmax => softmax(logits.clone()),
            RouterScore::SoftmaxOfChosen => logits.clone(),
            RouterScore::Sigmoid => sigmoid(logits.clone()),
        };
        let numbers: Vec<f32> = scores.to_data().iter().collect();
        let choose = |scores: &[f32]| {
            let corrected: Vec<f32> = match &self.correction[..] {
                [] => scores.to_vec(),
                correction => scores
                    .iter()
                    .zip(correction)
                    .map(|(score, correction)| score + correction)
                    .collect(),
            };
            spec.choose(&corrected)
        };
        let experts: Vec<usize> = numbers.chunks(spec.experts).flat_map(choose).collect();
        let places = ints(experts.iter().copied(), &device).reshape([tokens, spec.chosen]);
        let mut weights = scores.clone().gather(1, places.clone()); // [tokens, chosen]
        if spec.score == RouterScore::SoftmaxOfChosen {
            weights = softmax(weights);
        }
        if spec.normalizes {
            let sum = weights.clone().sum_dim(1);
            weights = weights
                / if spec.score == RouterScore::Sigmoid {
                    sum.add_scalar(1e-20)
                } else {
                    sum
                };
        }
        if spec.scale.to_bits() != 1_f64.to_bits() {
            weights = weights.mul_scalar(spec.scale);
        }
        if let Some(scales) = &self.scales {
            let of_chosen = scales.experts.clone().select(0, places.reshape([-1]));
            weights = weights * of_chosen.reshape([tokens, spec.chosen]);
        }
        let probabilities = match spec.score {
            RouterScore::Softmax | RouterScore::ScaledSoftmax => scores,
            RouterScore::SoftmaxOfChosen | RouterScore::Sigmoid => softmax(logits),
        };
        Routed {
            experts,
            weights,
            probabilities,
        }
    }
}

/// Returns the softmax over the last dimension, by the same operations on a tape and off it. burn's
/// own differs there in its last bit, and a block that is recomputed must give the same result.
fn softmax(logits: Tensor<2>) -> Tensor<2> {
    let largest = logits.clone().detach().max_dim(1);
    let shares = (logits - largest).exp();
    let sum = shares.clone().sum_dim(1);
    shares / sum
}

fn in_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(DType::F32)
    }
}

/// The feed-forward of one expert.
#[derive(Debug, Clone)]
pub struct Expert {
    /// The gate and up projections, or one projection of both.
    pub gate_up: Vec<Projection>,
    /// The down projection.
    pub down: Projection,
}

/// The gated unit, which joins gate and up before the down projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// Gate and up side by side, with an activation of the gate.
    SideBySide(Activation),
    /// Gate and up interleaved and clamped: (clamp(u) + 1) g σ(α g).
    InTurns {
        /// α.
        alpha: f64,
        /// The limit of g and |u|.
        limit: f64,
    },
}

/// All experts of a layer.
#[derive(Debug, Clone)]
pub struct Experts {
    /// The router.
    pub router: Router,
    /// The experts, in their order.
    pub each: Vec<Expert>,
    /// Biases of gate and up, and of down, one row per expert.
    pub biases: Option<[Tensor<2>; 2]>,
    /// The gated unit.
    pub unit: Unit,
    /// The shared expert, which every token passes.
    pub shared: Option<SharedExpert>,
}

/// The expert of a layer that every token passes.
#[derive(Debug, Clone)]
pub struct SharedExpert {
    /// The map to one number, whose sigmoid weighs the output.
    pub gate: Option<Projection>,
    /// Gate, up and down projections.
    pub maps: [Projection; 3],
}

impl SharedExpert {
    /// Adds the output to that of the other experts.
    ///
    /// # Shapes
    /// `x`, `onto` and the result [1, tokens, width].
    fn forward_onto(
        &self,
        onto: Tensor<3>,
        x: Tensor<3>,
        unit: Unit,
        [of_input, of_output]: Masks,
    ) -> Tensor<3> {
        let (gate_up, down) = self.maps.split_at(2);
        let both = side_by_side(gate_up, x.clone(), None, of_input).squeeze_dim(0);
        let inner = unit.of(both).unsqueeze();
        match &self.gate {
            None => side_by_side(down, inner, Some(onto), of_output),
            Some(gate) => {
                let weight = sigmoid(gate.forward(x, of_input)); // [1, tokens, 1]
                onto + side_by_side(down, inner, None, of_output) * weight
            }
        }
    }

    fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.gate.iter().chain(&self.maps)
    }

    fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.gate.iter_mut().chain(&mut self.maps)
    }
}

/// The load of the experts: how often each was chosen, and the sum of its probabilities over
/// tokens, [experts].
#[derive(Debug, Clone)]
pub struct Load {
    /// Number of choices of each expert.
    pub choices: Vec<u64>,
    /// Sums of probabilities, on the tape where the input is.
    pub probabilities: Tensor<1>,
}

/// Dropout masks of the adapters' inputs: for gate and up, and for down.
pub type Masks<'a> = [Option<&'a Mask>; 2];

impl Experts {
    /// Computes the weighted sum of the chosen experts, and the load.
    ///
    /// # Shapes
    /// `x` and the result [tokens, width]; masks have as many tokens.
    pub fn forward(&self, x: Tensor<2>, masks: Masks) -> (Tensor<2>, Load) {
        let routed = self.router.route(x.clone());
        self.computed(x, routed, masks)
    }

    /// Does the same as [`Experts::forward`], but the router chooses by another input than that of
    /// the experts, [tokens, width].
    pub fn forward_chosen_by(
        &self,
        of_router: Tensor<2>,
        x: Tensor<2>,
        masks: Masks,
    ) -> (Tensor<2>, Load) {
        self.computed(x, self.router.route(of_router), masks)
    }

    fn computed(&self, x: Tensor<2>, routed: Routed, masks: Masks) -> (Tensor<2>, Load) {
        let ([tokens, width], device, chosen) = (x.dims(), x.device(), self.router.spec.chosen);
        let Routed {
            experts,
            weights,
            probabilities,
        } = routed;
        let order = ExpertOrder::new(&experts, self.each.len());
        let token_of = |choice: &usize| choice / chosen;
        let of_rows =
            masks.map(|mask| mask.map(|mask| mask.gathered(order.choices.iter().map(token_of))));
        // [choices, width]
        let rows = x
            .clone()
            .select(0, ints(order.choices.iter().map(token_of), &device));
        let of_rows = self.by_expert(rows, &order, &of_rows);
        let of_choices = of_rows
            .select(0, ints(order.rows(), &device))
            .reshape([tokens, chosen, width]);
        let weights = weights.cast(of_choices.dtype()).unsqueeze_dim::<3>(2); // [tokens, chosen, 1]
        let mut y = (of_choices * weights).sum_dim(1).reshape([tokens, width]);
        if let Some(shared) = &self.shared {
            y = shared
                .forward_onto(y.unsqueeze(), x.unsqueeze(), self.unit, masks)
                .squeeze_dim(0);
        }
        (
            y,
            Load {
                choices: order.counts,
                probabilities: probabilities.sum_dim(0).squeeze_dim(0),
            },
        )
    }

    /// Returns the output of each row's expert.
    fn by_expert(
        &self,
        rows: Tensor<2>,
        order: &ExpertOrder,
        masks: &[Option<Mask>; 2],
    ) -> Tensor<2> {
        let maps = |of: &dyn Fn(&Expert) -> Vec<Linear>| -> Vec<Group> {
            let group = |(expert, count): (&Expert, &u64)| Group {
                rows: *count as usize,
                linears: Linears {
                    maps: of(expert),
                    onto: None,
                },
            };
            self.each.iter().zip(&order.counts).map(group).collect()
        };
        let [gate_up_bias, down_bias] = self
            .biases
            .as_ref()
            .map_or([None, None], |both| both.each_ref().map(Some));
        let gate_up = maps(&|expert| expert.gate_up.iter().map(Projection::linear).collect());
        let gate_up = order.biased(
            adapted_by_group(rows, gate_up, masks[0].as_ref()),
            gate_up_bias,
        );
        let down = maps(&|expert| vec![expert.down.linear()]);
        order.biased(
            adapted_by_group(self.unit.of(gate_up), down, masks[1].as_ref()),
            down_bias,
        )
    }

    /// Returns the projections in checkpoint order: expert by expert, then the shared one's.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.each
            .iter()
            .flat_map(|expert| expert.gate_up.iter().chain([&expert.down]))
            .chain(self.shared.iter().flat_map(SharedExpert::projections))
    }

    /// Returns the projections in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_experts = self
            .each
            .iter_mut()
            .flat_map(|expert| expert.gate_up.iter_mut().chain([&mut expert.down]));
        of_experts.chain(
            self.shared
                .iter_mut()
                .flat_map(SharedExpert::projections_mut),
        )
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        if self.router.trains {
            let Router {
                name,
                weight,
                bias,
                scales,
                ..
            } = &mut self.router;
            visit(&format!("{name}.weight"), Weight::Matrix(weight));
            if let Some(bias) = bias {
                visit(&format!("{name}.bias"), Weight::Vector(bias));
            }
            if let Some(scales) = scales {
                let name = &scales.name;
                visit(&format!("{name}.scale"), Weight::Vector(&mut scales.input));
                visit(
                    &format!("{name}.per_expert_scale"),
                    Weight::Vector(&mut scales.experts),
                );
            }
        }
        for Expert { gate_up, down } in &mut self.each {
            gate_up
                .iter_mut()
                .chain([down])
                .for_each(|projection| projection.visit(visit));
            share_a(gate_up);
        }
        self.shared
            .iter_mut()
            .flat_map(SharedExpert::projections_mut)
            .for_each(|projection| projection.visit(visit));
    }
}

/// Gives the adapter of a second projection the current A of the first, where they share it.
pub fn share_a(gate_up: &mut [Projection]) {
    if let [gate, up] = gate_up
        && let (Some(gate), Some(up)) = (&gate.lora, &mut up.lora)
        && up.portion == Portion::Behind
    {
        up.a = gate.a.clone();
    }
}

impl Unit {
    /// Joins gate and up.
    ///
    /// # Shapes
    /// `gate_up` [rows, 2 · inner], result [rows, inner].
    fn of(self, gate_up: Tensor<2>) -> Tensor<2> {
        match self {
            Self::SideBySide(activation) => gated(gate_up, activation),
            Self::InTurns { alpha, limit } => {
                let [rows, width] = gate_up.dims();
                let pairs = gate_up.reshape([rows, width / 2, 2]);
                let [gate, up] = [0, 1]
                    .map(|place| pairs.clone().narrow(2, place, 1).reshape([rows, width / 2]));
                let (gate, up) = (gate.clamp_max(limit), up.clamp(-limit, limit));
                (up.add_scalar(1.0)) * gate.clone() * sigmoid(gate.mul_scalar(alpha))
            }
        }
    }
}

/// The choices of all tokens, sorted by expert and then by token.
struct ExpertOrder {
    /// The choice of each row; that of token t and its j-th expert is t · chosen + j.
    choices: Vec<usize>,
    /// Number of rows of each expert.
    counts: Vec<u64>,
}

impl ExpertOrder {
    fn new(experts: &[usize], count: usize) -> Self {
        let mut counts = vec![0; count];
        for expert in experts {
            counts[*expert] += 1;
        }
        let mut choices: Vec<usize> = (0..experts.len()).collect();
        choices.sort_by_key(|choice| experts[*choice]);
        Self { choices, counts }
    }

    /// Returns the row of each choice.
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let mut rows = vec![0; self.choices.len()];
        self.choices
            .iter()
            .enumerate()
            .for_each(|(row, choice)| rows[*choice] = row);
        rows.into_iter()
    }

    /// Adds to each row the bias of its expert.
    fn biased(&self, rows: Tensor<2>, biases: Option<&Tensor<2>>) -> Tensor<2> {
        let Some(biases) = biases else { return rows };
        let experts = self
            .counts
            .iter()
            .enumerate()
            .flat_map(|(expert, count)| std::iter::repeat_n(expert, *count as usize));
        let (given, device) = (rows.dtype(), rows.device());
        rows + biases.clone().select(0, ints(experts, &device)).cast(given)
    }
}

fn ints(numbers: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let numbers: Vec<i32> = numbers
        .map(|number| {
            i32::try_from(number).expect("choices of a batch, and experts, are fewer than 2^31")
        })
        .collect();
    Tensor::from_data(TensorData::from(&numbers[..]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(
        experts: usize,
        chosen: usize,
        score: RouterScore,
        groups: Option<[usize; 2]>,
    ) -> RouterSpec {
        let groups = groups.map(|[count, chosen]| RouterGroups { count, chosen });
        RouterSpec {
            experts,
            chosen,
            score,
            groups,
            normalizes: false,
            scale: 1.0,
            bias: false,
        }
    }

    #[test]
    fn the_highest_scores_are_chosen_and_among_groups_those_of_the_best() {
        let scores = [0.1, 0.9, 0.3, 0.2, 0.8, 0.85];
        assert_eq!(
            spec(6, 2, RouterScore::Softmax, None).choose(&scores),
            [1, 5]
        );
        assert_eq!(
            spec(6, 2, RouterScore::Softmax, Some([3, 1])).choose(&scores),
            [1, 0],
            "the group of the best"
        );
        assert_eq!(
            spec(6, 2, RouterScore::Sigmoid, Some([3, 1])).choose(&scores),
            [5, 4],
            "the group of the best two"
        );
        assert_eq!(
            spec(6, 2, RouterScore::Softmax, None).choose(&[0.5; 6]),
            [0, 1],
            "the first of equals"
        );
    }

    #[test]
    fn rows_are_ordered_by_expert_and_come_back() {
        let order = ExpertOrder::new(&[2, 0, 1, 2, 2, 0], 4);
        assert_eq!(
            (&order.choices[..], &order.counts[..]),
            (&[1, 5, 2, 0, 3, 4][..], &[2, 1, 3, 0][..])
        );
        let rows: Vec<usize> = order.rows().collect();
        assert!(
            order
                .choices
                .iter()
                .enumerate()
                .all(|(row, choice)| rows[*choice] == row),
            "{rows:?}"
        );
    }
}
