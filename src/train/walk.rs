//! Passes of a micro-batch through the blocks, forward and backward. Where the base is frozen, a
//! step needs only the gradients of activations and of adapters.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::balance::Balance;
use super::gradients::Sum;
use super::observe::{Border, Observer};
use crate::data::Batch;
use crate::model::{Block, BlockInput, BlockOutput, Context, Decoder, Frame, KeyValueRows, Place};
use crate::nn::experts::Load;
use crate::ops::{Mask, root_of};

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
    /// What blocks take beside the stream.
    context: Context,
    /// One entry for each block from the lowest on.
    saved: Vec<Saved>,
    balance: Option<Balance>,
}

impl<'a> Walk<'a> {
    /// Runs a batch forward, with noise on its embeddings, [tokens, width], if there is some;
    /// returns the hidden rows from which its trained tokens are predicted,
    /// before the final norm, [1, labeled, width].
    pub fn forward(
        decoder: &'a Decoder,
        batch: &Batch,
        dropout: Option<(f64, Arc<[u64]>)>,
        noise: Option<Vec<f32>>,
        memory: Memory,
        observer: &mut impl Observer,
    ) -> (Self, Tensor<3>) {
        let balance = Balance::of(&decoder.spec);
        let frame = match balance {
            Some(_) => decoder.frame_with_load(&batch.lengths, &batch.positions, dropout),
            None => frame(decoder, batch, dropout),
        };
        let frame = match noise {
            Some(noise) => frame.with_noise(Tensor::from_data(
                TensorData::new(noise, [batch.ids.len(), decoder.spec.width]),
                (&decoder.device(), DType::F32),
            )),
            None => frame,
        };
        let (ids, blocks) = (ids(decoder, batch), &decoder.blocks);
        let lowest_block = || {
            blocks
                .iter()
                .position(Block::trains)
                .unwrap_or(blocks.len())
        };
        let lowest = if decoder.trains_embedding() || decoder.trains_per_layer() {
            0
        } else {
            lowest_block()
        };
        let (mut x, context) = decoder.enter(ids.clone(), &frame); // [1, tokens, width]
        let mut walk = Self {
            decoder,
            frame,
            ids,
            lowest,
            context,
            saved: Vec::with_capacity(blocks.len()),
            balance,
        };
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
        let is_taped = index >= self.lowest && index >= memory.recomputed;
        if index >= self.lowest && !is_taped {
            self.saved.push(Saved::Input(x.clone()));
        }
        let output = if is_taped {
            let tape = self.record(block, x);
            let output = tape.plain_output();
            self.saved.push(Saved::Tape(Box::new(tape)));
            output
        } else {
            block.forward(self.context.input(block, x), &self.frame)
        };
        self.context.keep(block, output)
    }

    /// Records a block's forward. Inputs whose gradients are not wanted are constants.
    fn record(&self, block: &Block, x: Tensor<3>) -> Tape {
        let BlockInput {
            stream,
            per_layer,
            key_values,
        } = self.context.input(block, x);
        let trains_embedding = self.decoder.trains_embedding();
        let input = BlockInput {
            // Whether anything below the block needs a gradient.
            stream: leaf(stream, trains_embedding || block.index() > self.lowest),
            per_layer: per_layer.map(|input| leaf(input, self.wants_inputs())),
            key_values: key_values.map(|rows| {
                let reaches = block.source().is_some_and(|source| source >= self.lowest);
                rows.map(|rows| leaf(rows, reaches))
            }),
        };
        Tape::record(block, input, &self.frame)
    }

    /// Whether anything depends on the gradients of the blocks' own inputs.
    fn wants_inputs(&self) -> bool {
        self.decoder.trains_embedding() || self.decoder.trains_per_layer()
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
        let mut beside = Beside::default();
        while let Some(saved) = self.saved.pop() {
            let index = self.lowest + self.saved.len();
            let block = &self.decoder.blocks[index];
            let tape = match saved {
                Saved::Tape(tape) => *tape,
                Saved::Input(x) => self.record(block, x),
            };
            // Handed over, so that backward may work in its place.
            let of_output = observer.border(
                Border::Gradient(index),
                gradient.take().expect("the block above goes on"),
            );
            let of_key_values = beside.key_values.remove(&index);
            let (of_block, of_input) = tape.backward(of_output, of_key_values, of_load);
            sum.add(Place::Segment(index), of_block, observer);
            gradient = beside.take(block, of_input);
        }
        if self.wants_inputs() {
            let of_inputs = beside.of_inputs(&self.ids);
            let of_entry =
                self.decoder
                    .entry_gradients(&self.ids, gradient, of_inputs, &self.frame);
            sum.add(Place::Embedding, of_entry, observer);
        }
    }

    /// Drops everything that was kept.
    pub fn abandon(self) {
        let decoder = self.decoder;
        drop(self);
        sweep(decoder);
    }
}

/// Returns a leaf of a new tape, or a constant where its gradient is not wanted.
fn leaf<const D: usize>(plain: Tensor<D>, is_wanted: bool) -> Tensor<D> {
    if is_wanted {
        plain.autodiff().require_grad()
    } else {
        plain
    }
}

/// Gradients that go back beside the stream.
#[derive(Default)]
struct Beside {
    /// Those of the blocks' own inputs, the highest block's first.
    inputs: Vec<Tensor<3>>,
    /// Those of keys and values that higher blocks used, summed, by the index of their block.
    key_values: BTreeMap<usize, KeyValueRows>,
}

impl Beside {
    /// Takes the gradients of what a block got beside the stream; returns that of the stream.
    fn take(&mut self, block: &Block, of_input: InputGradients) -> Option<Tensor<3>> {
        self.inputs.extend(of_input.per_layer);
        if let (Some(source), Some(more)) = (block.source(), of_input.key_values) {
            let sum = match self.key_values.remove(&source) {
                None => more,
                Some([keys, values]) => {
                    let [key, value] = more;
                    [keys + key, values + value]
                }
            };
            self.key_values.insert(source, sum);
        }
        of_input.stream
    }

    /// Returns the gradients of the inputs of all blocks, [1, tokens, layers, width]; `None` where
    /// blocks have none.
    fn of_inputs(&mut self, ids: &Tensor<2, Int>) -> Option<Tensor<4>> {
        self.inputs.reverse();
        let inputs = std::mem::take(&mut self.inputs);
        let [batch, tokens] = ids.dims();
        let [_, _, width] = inputs.first()?.dims();
        let each = inputs
            .into_iter()
            .map(|of_input| of_input.reshape([batch, tokens, 1, width]));
        Some(Tensor::cat(each.collect(), 2))
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

/// A block's own tape, from leaf copies of its input to its output.
struct Tape {
    input: BlockInput,
    block: Block,
    output: BlockOutput,
}

/// Gradients of a block's input, as far as they are wanted.
struct InputGradients {
    stream: Option<Tensor<3>>,
    per_layer: Option<Tensor<3>>,
    key_values: Option<KeyValueRows>,
}

impl Tape {
    /// Records a block's forward.
    fn record(block: &Block, input: BlockInput, frame: &Frame) -> Self {
        let block = block.tracked();
        let output = block.forward(input.clone(), frame);
        Self {
            input,
            block,
            output,
        }
    }

    /// Returns the output off the tape, except that the load stays on it.
    fn plain_output(&self) -> BlockOutput {
        let BlockOutput {
            stream,
            load,
            key_values,
        } = &self.output;
        BlockOutput {
            stream: stream.clone().inner(),
            load: load.clone(),
            key_values: key_values
                .as_ref()
                .map(|rows| rows.each_ref().map(|rows| rows.clone().inner())),
        }
    }

    /// Returns the gradients of the block's trained weights and of its input, given those of its
    /// output, of the keys and values that higher blocks used, and of its experts' probabilities.
    fn backward(
        mut self,
        gradient: Tensor<3>,
        of_key_values: Option<KeyValueRows>,
        of_load: Option<&[f32]>,
    ) -> (Vec<Tensor<1>>, InputGradients) {
        let mut root = root_of(self.output.stream, gradient);
        if let (Some([keys, values]), Some([of_keys, of_values])) =
            (self.output.key_values, of_key_values)
        {
            root = root + root_of(keys, of_keys) + root_of(values, of_values);
        }
        if let (Some(load), Some(of_load)) = (self.output.load, of_load) {
            let of_load =
                Tensor::from_data(TensorData::from(of_load), &load.probabilities.device());
            root = root.cast(DType::F32) + root_of(load.probabilities, of_load);
        }
        let mut gradients = root.backward();
        let mut of_weights = Vec::new();
        self.block.visit(&mut |_, weight| {
            of_weights.push(
                weight
                    .gradient(&mut gradients)
                    .expect("what trains is a leaf of this tape"),
            );
        });
        let of_input = InputGradients {
            stream: self.input.stream.grad_remove(&mut gradients),
            per_layer: self
                .input
                .per_layer
                .and_then(|input| input.grad_remove(&mut gradients)),
            key_values: self.input.key_values.and_then(|[keys, values]| {
                Some([
                    keys.grad_remove(&mut gradients)?,
                    values.grad_remove(&mut gradients)?,
                ])
            }),
        };
        (of_weights, of_input)
    }
}

/// Frees dropped tapes, which otherwise only the next backward does.
fn sweep(decoder: &Decoder) {
    let leaf = Tensor::<1>::zeros([1], &decoder.device())
        .autodiff()
        .require_grad();
    leaf.sum().backward();
}

/// Makes the frame of a batch, whose last block gives the rows that are read.
pub(super) fn frame(decoder: &Decoder, batch: &Batch, dropout: Option<(f64, Arc<[u64]>)>) -> Frame {
    let frame = decoder.frame_for(&batch.lengths, &batch.positions, dropout);
    if batch.seconds.is_empty() || !decoder.has_second_type() {
        return frame;
    }
    let sequences = batch.lengths.iter().zip(&batch.seconds);
    let types: Vec<i32> = sequences
        .flat_map(|(length, second)| (0..*length).map(move |place| i32::from(place >= *second)))
        .collect();
    frame.with_types(Tensor::from_data(&types[..], &decoder.device()))
}

/// Returns token ids, [1, tokens].
pub(super) fn ids(decoder: &Decoder, batch: &Batch) -> Tensor<2, Int> {
    Tensor::from_data(
        TensorData::new(batch.ids.clone(), [1, batch.ids.len()]),
        &decoder.device(),
    )
}
