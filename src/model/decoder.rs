//! The decoder: embedding, blocks, head.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};

use super::block::{Block, Frame};
use super::spec::DecoderSpec;
use crate::nn::attention::Span;
use crate::nn::head::Head;
use crate::nn::lora::Lora;
use crate::nn::projection::Projection;
use crate::nn::rope::RopeSpec;

/// A causal language model with frozen weights and, where attached, adapters. All tensors are untracked.
#[derive(Debug)]
pub struct Decoder {
    /// What it is.
    pub spec: DecoderSpec,
    /// [vocabulary, width].
    pub(super) embedding: Tensor<2>,
    /// Bottom first.
    pub blocks: Vec<Block>,
    /// Final norm and vocabulary projection.
    pub head: Head,
    pub(super) ropes: Vec<RopeSpec>,
    pub(super) spans: Vec<Span>,
}

impl Decoder {
    /// Where its tensors are.
    pub fn device(&self) -> Device {
        self.embedding.device()
    }

    /// What all blocks share for rows of `length` tokens; `dropout` has one key a token of the batch.
    pub fn frame(&self, length: usize, dropout: Option<(f64, Arc<[u64]>)>) -> Frame {
        Frame { dropout, ..self.frame_of(0..length, length) }
    }

    /// What all blocks share for the tokens at some positions of one row of `length` tokens.
    pub(super) fn frame_of(&self, positions: Range<usize>, length: usize) -> Frame {
        let device = self.device();
        Frame {
            ropes: self.ropes.iter().map(|rope| rope.tables_of(positions.clone(), length, &device)).collect(),
            hidden: self.spans.iter().map(|span| span.hidden(positions.clone(), &device)).collect(),
            dropout: None,
        }
    }

    /// # Shapes
    /// `ids` [batch, sequence], result [batch, sequence, width].
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, sequence] = ids.dims();
        let rows = self.embedding.clone().select(0, ids.reshape([batch * sequence])); // [tokens, width]
        rows.reshape([batch, sequence, self.spec.width])
    }

    /// The hidden rows before the final norm, without a tape, [batch, sequence, width].
    pub fn hidden(&self, ids: Tensor<2, Int>, frame: &Frame) -> Tensor<3> {
        self.blocks.iter().fold(self.embed(ids), |x, block| block.forward(x, frame))
    }

    /// Logits of every position, [batch, sequence, vocabulary]. For tests and short inputs: they are large.
    pub fn logits(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, sequence] = ids.dims();
        let hidden = self.hidden(ids, &self.frame(sequence, None));
        let logits = self.head.logits(hidden.reshape([batch * sequence, self.spec.width]));
        logits.reshape([batch, sequence, self.spec.vocabulary])
    }

    /// All projections of the blocks in checkpoint order.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.blocks.iter().flat_map(Block::projections)
    }

    /// All projections of the blocks in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.blocks.iter_mut().flat_map(Block::projections_mut)
    }

    /// The attached adapters with their modules' names, in checkpoint order.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, &Lora)> {
        self.projections().filter_map(|projection| Some((projection.name.as_str(), projection.lora.as_ref()?)))
    }

    /// The attached adapters, in the order of [`Decoder::adapters`].
    pub fn adapters_mut(&mut self) -> impl Iterator<Item = &mut Lora> {
        self.projections_mut().filter_map(|projection| projection.lora.as_mut())
    }
}
