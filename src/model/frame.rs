//! What all blocks of a batch share, and where a block stands among the others.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};

use crate::nn::rope::RopeTables;
use crate::ops::Mask;

/// What depends on the batch's documents, not on the block: made once a batch, used by forward and
/// by every recomputation.
#[derive(Debug)]
pub struct Frame {
    /// One for each distinct rotation of the model.
    pub(super) ropes: Vec<RopeTables>,
    /// One for each distinct span of the model: for every query the index of the first key that it
    /// sees; it sees all keys from there to itself.
    pub(super) first: Vec<Arc<[u32]>>,
    /// The tables' row for each token of a row, [sequence].
    pub(super) positions: Arc<[u32]>,
    /// Share of features dropped and one key a token; `None` outside training.
    pub(super) dropout: Option<(f64, Arc<[u64]>)>,
    /// The tokens of which the last block gives hidden rows; `None`: every token.
    pub(super) last_rows: Option<LastRows>,
}

/// Tokens of a batch whose hidden rows go on to the readout. The last block computes keys and
/// values of every token and everything else of these, except where its experts are to tell how
/// many tokens came to each.
#[derive(Debug)]
pub(super) struct LastRows {
    /// The index of the last block.
    pub(super) block: usize,
    /// Places in the row, ascending.
    pub(super) places: Tensor<1, Int>,
    /// Their dropout keys; none outside training.
    pub(super) keys: Arc<[u64]>,
    /// Whether they are taken at the end of the block only.
    pub(super) at_end: bool,
}

/// Projections that share an input share a dropout mask.
#[derive(Clone, Copy)]
pub(super) enum Site {
    AttentionInput,
    AttentionOutput,
    MlpInput,
    MlpOutput,
    /// Narrow rows that queries, and keys and values, come from.
    QueryRow,
    KeyValueRow,
}

impl Site {
    /// A number that no other site of a model has.
    fn of(self, layer: usize) -> u64 {
        match self {
            Self::QueryRow | Self::KeyValueRow => 1 << 40 | (layer as u64 * 4 + self as u64),
            _ => layer as u64 * 4 + self as u64,
        }
    }
}

impl Frame {
    pub(super) fn mask(&self, layer: usize, site: Site) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let is_of_rows = matches!(
            site,
            Site::AttentionOutput | Site::MlpInput | Site::MlpOutput
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

    /// The mask of what an adapter of the head is given, behind so many blocks: of the rows that
    /// the last gives.
    pub fn head_mask(&self, blocks: usize) -> Option<Mask> {
        let (probability, tokens) = self.dropout.as_ref()?;
        let tokens = self.last_rows.as_ref().map_or(tokens, |rows| &rows.keys);
        Some(Mask {
            tokens: tokens.clone(),
            site: blocks as u64 * 4,
            probability: *probability,
        })
    }

    pub(super) fn last_rows_of(&self, layer: usize) -> Option<&LastRows> {
        self.last_rows.as_ref().filter(|rows| rows.block == layer)
    }
}

/// Where a block stands among the others: its index, and those of its rotation and span among the
/// model's.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockPlace {
    pub(super) layer: usize,
    pub(super) rope: Option<usize>,
    pub(super) span: usize,
}
