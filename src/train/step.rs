//! Loss and gradients of one micro-batch, block by block: the base is frozen, so a step needs the gradient of activations and
//! of the adapters only.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use crate::data::Batch;
use crate::draws::mix;
use crate::model::{Block, Decoder, Frame};
use crate::nn::head::{Labels, Scored};

/// What is held between forward and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Every block's tape.
    Keep,
    /// Every block's input; its forward is computed again in backward.
    Recompute,
}

/// How a micro-batch is computed. But for dropout it changes cost and memory, never the result beyond rounding.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    /// What is held between forward and backward.
    pub memory: Memory,
    /// Rows of logits that exist at a time.
    pub head_chunk_rows: usize,
    /// Share of an adapter's input features that is dropped.
    pub dropout: f64,
}

/// Gradients of A and B of every adapter, in the decoder's order, summed over trained tokens.
#[derive(Debug, Clone, Default)]
pub struct Gradients(Vec<[Tensor<2>; 2]>);

impl Gradients {
    /// Pairs of dA [in, r] and dB [r, out].
    pub fn into_pairs(self) -> impl Iterator<Item = [Tensor<2>; 2]> {
        self.0.into_iter()
    }

    /// The pairs, borrowed.
    pub fn pairs(&self) -> &[[Tensor<2>; 2]] {
        &self.0
    }

    fn add(&mut self, other: Vec<[Tensor<2>; 2]>) {
        if self.0.is_empty() {
            self.0 = other;
        } else {
            let sums = self.0.drain(..).zip(other).map(|([a, b], [da, db])| [a + da, b + db]);
            self.0 = sums.collect();
        }
    }

    /// Every gradient times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.into_iter().map(|pair| pair.map(|gradient| gradient.mul_scalar(factor))).collect())
    }

    /// The gradients scaled down to `max_norm` if their global L2 norm is above it, as torch's `clip_grad_norm_` does.
    #[must_use]
    pub fn clipped(self, norm: f64, max_norm: f64) -> Self {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 { self.scaled(factor) } else { self }
    }

    /// The L2 norm of all of them together, summed in a fixed order.
    pub fn norm(&self) -> f64 {
        let square = |gradient: &Tensor<2>| {
            gradient.to_data().iter::<f32>().map(|value| f64::from(value).powi(2)).fold(0.0, |sum, square| sum + square)
        };
        self.0.iter().flatten().map(square).fold(0.0, |sum, square| sum + square).sqrt()
    }
}

/// What a micro-batch cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss {
    /// Sum of -log p over trained tokens, nats.
    pub sum: f64,
    /// Trained tokens.
    pub trained_tokens: u64,
}

/// Adds a micro-batch's gradients to `gradients` and returns its loss. A loss that is not finite adds nothing.
///
/// `stream` is the seed and epoch of the dropout masks.
pub fn forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
) -> Loss {
    let dropout = (config.dropout > 0.0).then(|| (config.dropout, token_keys(batch, stream)));
    let frame = decoder.frame(batch.length, dropout);
    let lowest = decoder.blocks.iter().position(has_adapter).unwrap_or(decoder.blocks.len());

    let mut x = decoder.embed(ids(decoder, batch)); // [rows, length, width]
    let mut kept = Vec::with_capacity(decoder.blocks.len());
    for (index, block) in decoder.blocks.iter().enumerate() {
        let saved = match config.memory {
            _ if index < lowest => None,
            Memory::Recompute => Some(Saved::Input(x.clone())),
            Memory::Keep => Some(Saved::Tape(Tape::record(block, x.clone(), &frame, index > lowest))),
        };
        x = match &saved {
            Some(Saved::Tape(tape)) => tape.output.clone().inner(),
            _ => block.forward(x, &frame),
        };
        kept.extend(saved);
    }

    let (shape, width) = (x.shape(), decoder.spec.width);
    let tokens = batch.ids.len();
    let Scored { losses, gradient } = decoder.head.score(x.reshape([tokens, width]), labels(batch), config.head_chunk_rows, true);
    let loss = Loss { sum: ordered_sum(&losses), trained_tokens: batch.trained_tokens() };
    if !loss.sum.is_finite() {
        drop(kept);
        sweep(decoder);
        return loss;
    }

    let mut gradient: Tensor<3> = gradient.expect("asked for").reshape(shape);
    let mut of_batch = Vec::new();
    for (index, saved) in kept.into_iter().enumerate().rev() {
        let index = lowest + index;
        let tape = match saved {
            Saved::Tape(tape) => tape,
            Saved::Input(x) => Tape::record(&decoder.blocks[index], x, &frame, index > lowest),
        };
        let (of_block, of_input) = tape.backward(gradient.clone());
        of_batch.splice(0..0, of_block);
        if let Some(of_input) = of_input {
            gradient = of_input;
        }
    }
    gradients.add(of_batch);
    loss
}

/// Losses of a batch's trained tokens without a tape and without dropout, in the order of its targets.
pub fn score(decoder: &Decoder, batch: &Batch, head_chunk_rows: usize) -> Vec<f32> {
    let hidden = decoder.hidden(ids(decoder, batch), &decoder.frame(batch.length, None));
    let hidden = hidden.reshape([batch.ids.len(), decoder.spec.width]);
    decoder.head.score(hidden, labels(batch), head_chunk_rows, false).losses
}

/// What a block left behind for its backward.
#[allow(clippy::large_enum_variant, reason = "one a block; what they point to is a thousand times larger")]
enum Saved {
    Tape(Tape),
    Input(Tensor<3>),
}

/// A block's own tape, from a leaf copy of its input to its output.
struct Tape {
    input: Tensor<3>,
    block: Block,
    output: Tensor<3>,
}

impl Tape {
    fn record(block: &Block, x: Tensor<3>, frame: &Frame, wants_input_gradient: bool) -> Self {
        // Below the lowest adapter nothing needs a gradient, so its input stays a constant.
        let input = if wants_input_gradient { x.autodiff().require_grad() } else { x };
        let block = block.tracked();
        let output = block.forward(input.clone(), frame);
        Self { input, block, output }
    }

    /// Gradients of the block's adapters and of its input, given that of its output.
    fn backward(self, gradient: Tensor<3>) -> (Vec<[Tensor<2>; 2]>, Option<Tensor<3>>) {
        let mut gradients = (self.output * gradient).sum().backward();
        let loras = self.block.projections().filter_map(|projection| projection.lora.as_ref());
        let mut of = |matrix: &Tensor<2>| matrix.grad_remove(&mut gradients).expect("A and B are leaves of this tape");
        let adapters = loras.map(|lora| [of(&lora.a), of(&lora.b)]).collect();
        (adapters, self.input.grad_remove(&mut gradients))
    }
}

fn has_adapter(block: &Block) -> bool {
    block.projections().any(|projection| projection.lora.is_some())
}

/// Tapes that were dropped are swept by the next backward only.
fn sweep(decoder: &Decoder) {
    let leaf = Tensor::<1>::zeros([1], &decoder.device()).autodiff().require_grad();
    leaf.sum().backward();
}

fn ids(decoder: &Decoder, batch: &Batch) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(batch.ids.clone(), [batch.rows.len(), batch.length]), &decoder.device())
}

fn labels(batch: &Batch) -> Labels<'_> {
    Labels { positions: &batch.positions, targets: &batch.targets }
}

/// One key a token: a hash of seed, epoch, row and place in the row.
fn token_keys(batch: &Batch, [seed, epoch]: [u64; 2]) -> Arc<[u64]> {
    let key = |row: u64, place: usize| mix(mix(mix(mix(seed) ^ epoch) ^ row) ^ place as u64);
    batch.rows.iter().flat_map(|row| (0..batch.length).map(move |place| key(*row, place))).collect()
}

/// Sums that decide anything are added in order and in f64.
fn ordered_sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}
