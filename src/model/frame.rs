//! What all blocks of a batch share, and the index of a block among the others.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use crate::nn::rope::RopeTables;
use crate::ops::{Mask, SeenKeys};

/// Data that depend on the batch's documents, not on the block. They are made once per batch, and
/// used by forward and by every recomputation.
#[derive(Debug)]
pub struct Frame {
    /// Tables of each distinct rotation of the model.
    pub(super) ropes: Vec<RopeTables>,
    /// For each distinct span of the model, the keys that every query sees.
    pub(super) seen: Vec<Arc<[SeenKeys]>>,
    /// Lengths of the documents.
    pub(super) documents: Arc<[u32]>,
    /// The row of the tables for each token of a row, [sequence].
    pub(super) positions: Arc<[u32]>,
    /// The position of the tables' first row.
    pub(super) first_position: usize,
    /// Dropout probability and one key per token; `None` outside training.
    pub(super) dropout: Option<(f64, Arc<[u64]>)>,
    /// Noise on the rows of the embedding, [tokens, width]; `None` where there is none.
    pub(super) noise: Option<Tensor<2>>,
    /// The type of each token, [tokens]; `None` where all are of the first.
    pub(super) types: Option<Tensor<1, Int>>,
    /// The tokens of which the last block gives hidden rows; `None`: all tokens.
    pub(super) last_rows: Option<LastRows>,
}

/// Tokens of a batch whose hidden rows go on to the readout. The last block computes keys and
/// values of every token, and everything else only of these, except where the load of its experts
/// is wanted.
#[derive(Debug)]
pub(super) struct LastRows {
    /// The index of the last block.
    pub(super) block: usize,
    /// Places in the row, ascending.
    pub(super) places: Tensor<1, Int>,
    /// The tokens' dropout keys; none outside training.
    pub(super) keys: Arc<[u64]>,
    /// Whether the tokens are selected only at the end of the block.
    pub(super) at_end: bool,
}

/// A place of dropout. Projections that share an input share a mask.
#[derive(Clone, Copy)]
pub(super) enum Site {
    AttentionInput,
    AttentionOutput,
    MlpInput,
    MlpOutput,
    /// Narrow rows from which queries, and keys and values, are projected.
    QueryRow,
    KeyValueRow,
    /// The stream and the product from which a layer's own input is added.
    PerLayerInput,
    PerLayerOutput,
    /// Experts beside a feed-forward.
    ExpertInput,
    ExpertOutput,
}

impl Site {
    /// Returns a number that is unique within a model.
    fn of(self, layer: usize) -> u64 {
        let kind = self as u64;
        (kind / 4) << 40 | (layer as u64 * 4 + kind)
    }
}

impl Frame {
    pub(super) fn mask(&self, layer: usize, site: Site) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let is_of_rows = !matches!(
            site,
            Site::AttentionInput | Site::QueryRow | Site::KeyValueRow
        );
        let tokens = match self
            .last_rows_of(layer)
            .filter(|rows| is_of_rows && !rows.at_end)
        {
            Some(rows) => &rows.keys,
            None => tokens,
        };
        Some(Mask {
            tokens: tokens.clone(),
            site: site.of(layer),
            probability: *probability,
        })
    }

    /// Adds noise to the rows of the embedding as the table has them, before scale, norm and
    /// positions, [tokens, width].
    #[must_use]
    pub fn with_noise(self, noise: Tensor<2>) -> Self {
        Self {
            noise: Some(noise),
            ..self
        }
    }

    /// Gives each token its type, [tokens], in a model that has types of tokens.
    #[must_use]
    pub fn with_types(self, types: Tensor<1, Int>) -> Self {
        Self {
            types: Some(types),
            ..self
        }
    }

    /// Returns the dropout mask of the head's adapter, after so many blocks, for the rows that the
    /// last block gives.
    pub fn head_mask(&self, blocks: usize) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let tokens = self.last_rows.as_ref().map_or(tokens, |rows| &rows.keys);
        Some(Mask {
            tokens: tokens.clone(),
            site: blocks as u64 * 4,
            probability: *probability,
        })
    }

    /// Returns the dropout mask of the adapter that gives the layers' own inputs.
    pub(super) fn per_layer_mask(&self) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        Some(Mask {
            tokens: tokens.clone(),
            site: 3 << 40,
            probability: *probability,
        })
    }

    pub(super) fn last_rows_of(&self, layer: usize) -> Option<&LastRows> {
        self.last_rows.as_ref().filter(|rows| rows.block == layer)
    }
}

/// Indices of a block: its own, and those of its rotation and span among the model's.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockPlace {
    pub(super) layer: usize,
    pub(super) rope: Option<usize>,
    pub(super) span: usize,
    /// Whether a higher block uses its keys and values.
    pub(super) is_source: bool,
}
