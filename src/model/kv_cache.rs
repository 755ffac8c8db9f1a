//! The cache of keys and values, or of states, of tokens that a model has read, so that the next
//! token costs the work of one token.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use super::decoder::Decoder;
use super::past::Past;

/// Tokens per chunk: a block's results for a long prompt never exist as a whole.
const CHUNK_TOKENS: usize = 512;

/// The keys and values of one text.
#[derive(Debug, Clone)]
pub struct Cache {
    tokens: Vec<u32>,
    /// The length for which the keys were rotated.
    rotated_for: usize,
    /// Keys and values, or states, one entry per block; `None` for blocks that use those of a lower
    /// block.
    pasts: Vec<Option<Past>>,
}

impl Cache {
    /// Makes a cache for a text of which nothing was read.
    pub fn new(decoder: &Decoder) -> Self {
        Self {
            tokens: Vec::new(),
            rotated_for: 0,
            pasts: decoder
                .blocks
                .iter()
                .map(|block| block.source().is_none().then(Past::default))
                .collect(),
        }
    }

    /// Returns the tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Goes back to the common beginning of this text and another, or to the start where a window
    /// has dropped what is needed, or a state cannot go back; returns how many tokens are left.
    pub fn rewind(&mut self, other: &[u32]) -> usize {
        let (read, alike) = (
            self.tokens.len(),
            self.tokens
                .iter()
                .zip(other)
                .take_while(|(left, right)| left == right)
                .count(),
        );
        let is_whole = self.pasts.iter().flatten().all(|past| past.goes_back(read));
        let left = if alike == read || is_whole { alike } else { 0 };
        self.tokens.truncate(left);
        if left < read {
            self.pasts
                .iter_mut()
                .flatten()
                .for_each(|past| past.keep(0..left.min(past.tokens())));
        }
        left
    }

    fn forget(&mut self) {
        self.pasts
            .iter_mut()
            .flatten()
            .for_each(|past| *past = Past::default());
    }
}

impl Decoder {
    /// Reads these tokens, at least one, and returns the logits of the token that follows. Up to
    /// rounding they are those of [`Decoder::logits`] for the whole text.
    pub fn read_on(&self, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
        let mut start = cache.tokens.len();
        cache.tokens.extend(tokens);
        let length = cache.tokens.len();
        if self
            .ropes
            .iter()
            .any(|rope| rope.differs(cache.rotated_for, length))
        {
            // A longer text turns all of its keys otherwise.
            cache.forget();
            start = 0;
        }
        cache.rotated_for = length;
        let mut last = None;
        while start < length {
            let end = length.min(start + CHUNK_TOKENS);
            last = Some(self.read_chunk(cache, start..end));
            start = end;
        }
        let last = last.expect("there is at least one token");
        self.head.logits(last).into_data().iter().collect()
    }

    /// Returns the hidden row of the last of these tokens, [1, width].
    fn read_chunk(&self, cache: &mut Cache, positions: Range<usize>) -> Tensor<2> {
        let frame = self.frame_of(positions.clone(), cache.tokens.len());
        let ids: Vec<i32> = cache.tokens[positions.clone()]
            .iter()
            .map(|id| id.cast_signed())
            .collect();
        let ids =
            Tensor::<2, Int>::from_data(TensorData::new(ids, [1, positions.len()]), &self.device());
        let (mut x, mut context) = self.enter(ids, &frame); // [1, tokens, width]
        for (block, past) in self.blocks.iter().zip(&mut cache.pasts) {
            let output = block.advance(context.input(block, x), &frame, past.as_mut());
            x = context.keep(block, output).0;
            let Some(past) = past else { continue };
            // What no later token sees goes.
            let (held, seen) = (
                past.tokens(),
                positions.end - self.spans[block.place.span].first_seen(positions.end),
            );
            past.keep(held - seen..held);
        }
        x.narrow(1, positions.len() - 1, 1)
            .reshape([1, self.spec.width])
    }
}
