//! Experts of which a router chooses a few for each token: rows are gathered by expert, and only
//! those that were chosen are computed, forward and backward.

use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::footprint::{F32, RowShape};
use super::lora::Portion;
use super::projection::{Projection, side_by_side};
use super::weight::Weight;
use crate::ops::{Activation, Group, Linear, Linears, Mask, adapted_by_group, gated, matmul};

/// How experts are chosen and weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterSpec {
    /// How many there are.
    pub experts: usize,
    /// How many a token is sent to.
    pub chosen: usize,
    /// What becomes of logits.
    pub score: RouterScore,
    /// Experts in groups of which some are looked at; `None`: all are.
    pub groups: Option<RouterGroups>,
    /// Whether the weights of the chosen experts are brought to a sum of 1.
    pub normalizes: bool,
    /// What weights are multiplied by at the end.
    pub scale: f64,
    /// Whether logits have a bias.
    pub bias: bool,
}

/// What becomes of a router's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterScore {
    /// The softmax over all experts; Jiang et al. 2024, arXiv:2401.04088, normalize it over the
    /// chosen ones.
    Softmax,
    /// The softmax over the chosen experts, arXiv:2508.10925.
    SoftmaxOfChosen,
    /// The sigmoid; what is corrected chooses, what is not weighs: arXiv:2412.19437.
    Sigmoid,
}

/// Experts in groups of equal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterGroups {
    /// How many.
    pub count: usize,
    /// How many of them may have chosen experts.
    pub chosen: usize,
}

impl RouterSpec {
    /// Whether a constant is added to the scores that choose.
    pub fn is_corrected(&self) -> bool {
        self.score == RouterScore::Sigmoid
    }

    /// The experts of one token, given what chooses, one number an expert. Among equal ones the
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
    /// Bytes that [`Experts::forward`] keeps beside the maps of experts: rows by expert, what
    /// experts give by expert and by token, and what the router computes, in f32.
    pub fn saved_bytes(&self, width: u64, rows: RowShape) -> u64 {
        rows.bytes(3 * self.chosen as u64 * width) + rows.tokens * 4 * self.experts as u64 * F32
    }
}

/// The linear map that tells which experts a token is sent to.
#[derive(Debug, Clone)]
pub struct Router {
    /// Its module's name.
    pub name: String,
    /// [experts, width], f32.
    pub weight: Tensor<2>,
    /// [experts].
    pub bias: Option<Tensor<1>>,
    /// What is added to scores when they choose; one an expert, or none.
    pub correction: Vec<f32>,
    /// How it chooses.
    pub spec: RouterSpec,
    /// Whether weight and bias train.
    pub trains: bool,
}

/// Where tokens go.
#[derive(Debug)]
struct Routed {
    /// The expert of each choice, `chosen` a token.
    experts: Vec<usize>,
    /// [tokens, chosen], f32.
    weights: Tensor<2>,
    /// The softmax over all experts, [tokens, experts], f32.
    probabilities: Tensor<2>,
}

impl Router {
    /// Computed in 32 bits whatever the stream has: which expert comes first is a matter of small
    /// differences.
    fn route(&self, x: Tensor<2>) -> Routed {
        let (spec, device, [tokens, _]) = (&self.spec, x.device(), x.dims());
        let mut logits = matmul(in_f32(x), self.weight.clone().transpose()); // [tokens, experts]
        if let Some(bias) = &self.bias {
            logits = logits + bias.clone().unsqueeze();
        }
        let scores = match spec.score {
            RouterScore::Softmax => softmax(logits.clone()),
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
        let mut weights = scores.clone().gather(1, places); // [tokens, chosen]
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
        let probabilities = if spec.score == RouterScore::Softmax {
            scores
        } else {
            softmax(logits)
        };
        Routed {
            experts,
            weights,
            probabilities,
        }
    }
}

/// Over the last dimension, by the same operations on a tape and off it: that of burn differs there
/// in its last bit, and a block that is computed again must come to the same.
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

/// One feed-forward of many.
#[derive(Debug, Clone)]
pub struct Expert {
    /// gate and up, or one map of both.
    pub gate_up: Vec<Projection>,
    /// The way back.
    pub down: Projection,
}

/// How gate and up become what is projected back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unit {
    /// Side by side, with an activation of the gate.
    SideBySide(Activation),
    /// In turns and clamped: (clamp(u) + 1) g σ(α g).
    InTurns {
        /// α.
        alpha: f64,
        /// The largest g and |u|.
        limit: f64,
    },
}

/// All experts of a layer.
#[derive(Debug, Clone)]
pub struct Experts {
    /// Who chooses.
    pub router: Router,
    /// In their order.
    pub each: Vec<Expert>,
    /// Biases of gate and up, and of down, one row an expert.
    pub biases: Option<[Tensor<2>; 2]>,
    /// What gate and up become.
    pub unit: Unit,
    /// Gate, up and down of the feed-forward that every token has beside them.
    pub shared: Option<[Projection; 3]>,
}

/// What experts give beside their result: how often each was chosen, and the sum of its
/// probabilities over tokens, [experts].
#[derive(Debug, Clone)]
pub struct Load {
    /// Choices of each expert.
    pub choices: Vec<u64>,
    /// On the tape where the input is.
    pub probabilities: Tensor<1>,
}

/// Dropout of the adapters' inputs: of gate and up, and of down.
pub type Masks<'a> = [Option<&'a Mask>; 2];

impl Experts {
    /// # Shapes
    /// `x` and the result [tokens, width]; masks have as many tokens.
    pub fn forward(&self, x: Tensor<2>, masks: Masks) -> (Tensor<2>, Load) {
        let ([tokens, width], device, chosen) = (x.dims(), x.device(), self.router.spec.chosen);
        let Routed {
            experts,
            weights,
            probabilities,
        } = self.router.route(x.clone());
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
            let ([gate_up_mask, down_mask], (gate_up, down)) = (masks, shared.split_at(2));
            let gate_up: Tensor<2> =
                side_by_side(gate_up, x.unsqueeze(), None, gate_up_mask).squeeze_dim(0);
            let inner = self.unit.of(gate_up).unsqueeze();
            y = side_by_side(down, inner, Some(y.unsqueeze()), down_mask).squeeze_dim(0);
        }
        (
            y,
            Load {
                choices: order.counts,
                probabilities: probabilities.sum_dim(0).squeeze_dim(0),
            },
        )
    }

    /// What the expert of each row makes of it.
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

    /// Its projections in checkpoint order: of one expert after the other, then the shared one's.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.each
            .iter()
            .flat_map(|expert| expert.gate_up.iter().chain([&expert.down]))
            .chain(self.shared.iter().flatten())
    }

    /// Its projections in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_experts = self
            .each
            .iter_mut()
            .flat_map(|expert| expert.gate_up.iter_mut().chain([&mut expert.down]));
        of_experts.chain(self.shared.iter_mut().flatten())
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        if self.router.trains {
            let Router {
                name, weight, bias, ..
            } = &mut self.router;
            visit(&format!("{name}.weight"), Weight::Matrix(weight));
            if let Some(bias) = bias {
                visit(&format!("{name}.bias"), Weight::Vector(bias));
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
            .flatten()
            .for_each(|projection| projection.visit(visit));
    }
}

/// Gives a map whose adapter has the A of the one before that A as it is now.
pub fn share_a(gate_up: &mut [Projection]) {
    if let [gate, up] = gate_up
        && let (Some(gate), Some(up)) = (&gate.lora, &mut up.lora)
        && up.portion == Portion::Behind
    {
        up.a = gate.a.clone();
    }
}

impl Unit {
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

/// The choices of all tokens, by expert and within one by token.
struct ExpertOrder {
    /// The choice of each row; that of token t and its j-th expert is t · chosen + j.
    choices: Vec<usize>,
    /// Rows of each expert.
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

    /// The row of each choice.
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let mut rows = vec![0; self.choices.len()];
        self.choices
            .iter()
            .enumerate()
            .for_each(|(row, choice)| rows[*choice] = row);
        rows.into_iter()
    }

    /// Rows with the bias of their expert.
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
            i32::try_from(number).expect(
                "choices of a batch, and experts, are \
        fewer than 2^31",
            )
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
            "the \
        group of the best"
        );
        assert_eq!(
            spec(6, 2, RouterScore::Sigmoid, Some([3, 1])).choose(&scores),
            [5, 4],
            "the \
        group of the best two"
        );
        assert_eq!(
            spec(6, 2, RouterScore::Softmax, None).choose(&[0.5; 6]),
            [0, 1],
            "the first of \
        equals"
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
