//! Passes of a micro-batch through the blocks, forward and backward. Where the base is frozen, a
//! step needs only the gradients of activations and of adapters.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use super::balance::Balance;
use super::gradients::Sum;
use super::observe::{Border, Observer};
use crate::data::Batch;
use crate::model::{Block, Decoder, Frame, Place};
use crate::nn::experts::Load;
use crate::ops::{Mask, backward_from};

/// The choice of activations to keep between forward and backward, for gradient checkpointing: of
/// the lowest blocks only the inputs, from which backward recomputes their forward, and of all
/// other blocks the tapes.
///
/// The lowest blocks are recomputed because backward reaches them last. A recomputed tape lives
/// beside the tapes below it: above kept tapes it would add to the peak, while below them it
/// replaces tapes that are gone by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Number of recomputed blocks, counted from the bottom of the model.
    pub recomputed: usize,
}

impl Memory {
    /// Keeps every block's tape.
    pub const KEEP: Self = Self { recomputed: 0 };
    /// Keeps only every block's input.
    pub const RECOMPUTE: Self = Self {
        recomputed: usize::MAX,
    };
}

/// The result of a forward that its backward needs.
pub(super) struct Walk<'a> {
    decoder: &'a Decoder,
    frame: Frame,
    /// Token ids, [1, tokens].
    ids: Tensor<2, Int>,
    /// The lowest block that backward reaches: nothing below it trains.
    lowest: usize,
    /// One entry for each block from the lowest on.
    saved: Vec<Saved>,
    balance: Option<Balance>,
}

impl<'a> Walk<'a> {
    /// Runs a batch forward; returns the hidden rows from which its trained tokens are predicted,
    /// before the final norm, [1, labeled, width].
    pub fn forward(
        decoder: &'a Decoder,
        batch: &Batch,
        dropout: Option<(f64, Arc<[u64]>)>,
        memory: Memory,
        observer: &mut impl Observer,
    ) -> (Self, Tensor<3>) {
        let balance = Balance::of(&decoder.spec);
        let frame = match balance {
            Some(_) => decoder.frame_with_load(&batch.lengths, &batch.positions, dropout),
            None => decoder.frame_for(&batch.lengths, &batch.positions, dropout),
        };
        let (ids, blocks) = (ids(decoder, batch), &decoder.blocks);
        let lowest_block = || {
            blocks
                .iter()
                .position(Block::trains)
                .unwrap_or(blocks.len())
        };
        let lowest = if decoder.trains_embedding() {
            0
        } else {
            lowest_block()
        };
        let mut walk = Self {
            decoder,
            frame,
            ids,
            lowest,
            saved: Vec::with_capacity(blocks.len()),
            balance,
        };
        let mut x = decoder.embed(walk.ids.clone(), &walk.frame); // [1, tokens, width]
        for (index, block) in blocks.iter().enumerate() {
            let (output, load) = walk.step(index, block, x, memory);
            if let (Some(balance), Some(load)) = (&mut walk.balance, &load) {
                balance.add(load);
            }
            x = observer.border(Border::Output(index), output);
        }
        (walk, x)
    }

    /// Runs one block forward and keeps what its backward needs.
    fn step(
        &mut self,
        index: usize,
        block: &Block,
        x: Tensor<3>,
        memory: Memory,
    ) -> (Tensor<3>, Option<Load>) {
        if index < self.lowest {
            return block.forward_with_load(x, &self.frame);
        }
        if index < memory.recomputed {
            self.saved.push(Saved::Input(x.clone()));
            return block.forward_with_load(x, &self.frame);
        }
        let tape = Tape::record(block, x, &self.frame, self.goes_on(index));
        let (output, load) = (tape.output.clone().inner(), tape.load.clone());
        self.saved.push(Saved::Tape(Box::new(tape)));
        (output, load)
    }

    /// Whether anything below a block needs a gradient.
    fn goes_on(&self, index: usize) -> bool {
        self.decoder.trains_embedding() || index > self.lowest
    }

    /// Returns the dropout mask of the head's adapter.
    pub fn head_mask(&self) -> Option<Mask> {
        self.frame.head_mask(self.decoder.blocks.len())
    }

    /// Returns the load of the experts of all blocks, where the balancing loss counts.
    pub fn balance(&self) -> Option<&Balance> {
        self.balance.as_ref()
    }

    /// Goes back through the blocks, given the gradients of the hidden rows and of the experts'
    /// probabilities, and adds the gradients of what trains of blocks and embedding.
    pub fn backward(
        mut self,
        gradient: Tensor<3>,
        of_load: Option<&[f32]>,
        sum: &mut Sum,
        observer: &mut impl Observer,
    ) {
        let mut gradient = Some(gradient);
        while let Some(saved) = self.saved.pop() {
            let index = self.lowest + self.saved.len();
            let tape = match saved {
                Saved::Tape(tape) => *tape,
                Saved::Input(x) => Tape::record(
                    &self.decoder.blocks[index],
                    x,
                    &self.frame,
                    self.goes_on(index),
                ),
            };
            // Handed over, so that backward may work in its place.
            let of_output = observer.border(
                Border::Gradient(index),
                gradient.take().expect("the block above goes on"),
            );
            let (of_block, of_input) = tape.backward(of_output, of_load);
            sum.add(Place::Segment(index), of_block, observer);
            gradient = of_input;
        }
        if self.decoder.trains_embedding() {
            let of_input = gradient.expect("where the embedding trains, it goes on to there");
            sum.add(
                Place::Embedding,
                self.decoder
                    .embedding_gradients(self.ids, of_input, &self.frame),
                observer,
            );
        }
    }

    /// Drops everything that was kept.
    pub fn abandon(self) {
        let decoder = self.decoder;
        drop(self);
        sweep(decoder);
    }
}

/// The part of a forward that a block keeps for its backward.
#[allow(
    clippy::large_enum_variant,
    reason = "a tensor is a handle, and there is one a block"
)]
enum Saved {
    Tape(Box<Tape>),
    Input(Tensor<3>),
}

/// A block's own tape, from a leaf copy of its input to its output.
struct Tape {
    input: Tensor<3>,
    block: Block,
    output: Tensor<3>,
    /// The load of the block's experts.
    load: Option<Load>,
}

impl Tape {
    /// Records a block's forward. The input is a constant where its gradient is not wanted.
    fn record(block: &Block, x: Tensor<3>, frame: &Frame, wants_input_gradient: bool) -> Self {
        let block = block.tracked();
        let input = if wants_input_gradient {
            x.autodiff().require_grad()
        } else {
            x
        };
        let (output, load) = block.forward_with_load(input.clone(), frame);
        Self {
            input,
            block,
            output,
            load,
        }
    }

    /// Returns the gradients of the block's trained weights and of its input, given those of its
    /// output and of its experts' probabilities.
    fn backward(
        mut self,
        gradient: Tensor<3>,
        of_load: Option<&[f32]>,
    ) -> (Vec<Tensor<1>>, Option<Tensor<3>>) {
        let (mut gradients, mut of_weights) = match (self.load, of_load) {
            (Some(load), Some(of_load)) => {
                let of_load =
                    Tensor::from_data(TensorData::from(of_load), &load.probabilities.device());
                let surrogate = (self.output * gradient.autodiff()).sum()
                    + (load.probabilities * of_load).sum();
                (surrogate.backward(), Vec::new())
            }
            _ => (backward_from(self.output, gradient), Vec::new()),
        };
        self.block.visit(&mut |_, weight| {
            of_weights.push(
                weight
                    .gradient(&mut gradients)
                    .expect("what trains is a leaf of this tape"),
            );
        });
        (of_weights, self.input.grad_remove(&mut gradients))
    }
}

/// Frees dropped tapes, which otherwise only the next backward does.
fn sweep(decoder: &Decoder) {
    let leaf = Tensor::<1>::zeros([1], &decoder.device())
        .autodiff()
        .require_grad();
    leaf.sum().backward();
}

/// Returns token ids, [1, tokens].
pub(super) fn ids(decoder: &Decoder, batch: &Batch) -> Tensor<2, Int> {
    Tensor::from_data(
        TensorData::new(batch.ids.clone(), [1, batch.ids.len()]),
        &decoder.device(),
    )
}
