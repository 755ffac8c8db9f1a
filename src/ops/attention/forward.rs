//! Forward of attention: one pass over the keys with a running maximum, Dao 2023, arXiv:2307.08691,
//! algorithm 1.
//!
//! The rows of a tile are (query, head of the group) pairs, so a head of the keys is read once for
//! its whole group and one query still fills a register. Tiles are transposed, with one row per
//! lane: maxima and sums over the keys are then those of whole registers.
//! lane: maxima and sums over the keys are then those of whole registers.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::key_range::{KeyRange, Sizes, Tiles};
use super::score::{Score, cap};
use crate::ops::exp::exp;
use crate::ops::product::count;
use crate::ops::simd::{Arithmetic, vectorised};
use crate::ops::tile_product::{Left, Onto, OperandLayout, product};

/// The operands of attention, token by token.
#[derive(Clone, Copy)]
pub(super) struct AttentionRows<'a> {
    /// The queries, [batch, queries, heads, width].
    pub(super) query: &'a [f32],
    /// The keys, [batch, keys, kv heads, width].
    pub(super) key: &'a [f32],
    /// The values, in the shape of `key`.
    pub(super) value: &'a [f32],
    /// The keys that each query sees.
    pub(super) seen: KeyRange<'a>,
    /// The score of a product.
    pub(super) score: Score,
}

/// The results of forward.
pub(super) struct Mixed {
    /// The output, [batch, queries, heads, width].
    pub(super) output: Vec<f32>,
    /// The logarithm of the sum of a query's exponentials, [batch, queries, heads].
    pub(super) log_sums: Vec<f32>,
}

/// Rows that share a head of the keys, and the keys that any of them sees.
struct HeadRows {
    batch: usize,
    kv_head: usize,
    rows: Range<usize>,
    keys: Range<usize>,
}

/// Computes softmax(score(Q Kᵀ)) V and the logarithms of the sums.
pub(super) fn forward(inputs: &AttentionRows, tile: usize) -> Mixed {
    let sizes = inputs.seen.sizes;
    let (group, width) = (sizes.group(), sizes.width);
    let tiles: Vec<Tiles> = (0..sizes.batch)
        .map(|row| inputs.seen.query_tiles(row, group, tile))
        .collect();
    let places: Vec<HeadRows> = tiles
        .iter()
        .enumerate()
        .flat_map(|(batch, tiles)| tiles.ranges.iter().map(move |rows| (batch, rows.clone())))
        .flat_map(|(batch, rows)| {
            (0..sizes.kv_heads).map(move |kv_head| (batch, kv_head, rows.clone()))
        })
        .map(|(batch, kv_head, rows)| {
            let keys = inputs
                .seen
                .by(batch, rows.start / group..(rows.end - 1) / group + 1);
            HeadRows {
                batch,
                kv_head,
                rows,
                keys,
            }
        })
        .collect();
    let mix = |place: &HeadRows| {
        count(2 * place.rows.len() * place.keys.len() * width);
        let mut output = vec![0.0; place.rows.len() * width];
        let mut log_sums = vec![0.0; place.rows.len()];
        SCRATCH.with_borrow_mut(|scratch| {
            forward_tile(inputs, place, tile, scratch, &mut output, &mut log_sums);
        });
        Mixed { output, log_sums }
    };
    // Late rows see most, and go first.
    let parts: Vec<Mixed> = places.par_iter().rev().with_max_len(1).map(mix).collect();

    let tokens = sizes.batch * sizes.queries;
    let before: Vec<usize> = (0..sizes.batch)
        .map(|row| tiles[..row].iter().map(|tiles| tiles.ranges.len()).sum())
        .collect();
    let mut mixed = Mixed {
        output: vec![0.0; tokens * sizes.heads * width],
        log_sums: vec![0.0; tokens * sizes.heads],
    };
    let outputs = mixed
        .output
        .par_chunks_exact_mut(sizes.heads * width)
        .with_min_len(16);
    outputs
        .zip(mixed.log_sums.par_chunks_exact_mut(sizes.heads))
        .enumerate()
        .for_each(|(token, (output, log_sums))| {
            let (batch, query) = (token / sizes.queries, token % sizes.queries);
            for (head, (output, log_sum)) in
                output.chunks_exact_mut(width).zip(log_sums).enumerate()
            {
                let (tile, row) = tiles[batch].find(query * group + head % group);
                let part = &parts
                    [parts.len() - 1 - ((before[batch] + tile) * sizes.kv_heads + head / group)];
                output.copy_from_slice(&part.output[row * width..][..width]);
                *log_sum = part.log_sums[row];
            }
        });
    mixed
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a tile, as large as a thread has needed them so far.
#[derive(Default)]
struct Scratch {
    /// scale · Qᵀ, [width, lanes].
    query: Vec<f32>,
    /// Scores, then their exponentials, [tile, lanes].
    weights: Vec<f32>,
    /// Oᵀ before the division, [width, lanes].
    mixed: Vec<f32>,
    /// The rows' largest scores so far, their sums, and the factor by which a new maximum shrinks
    /// them; [lanes].
    largest: Vec<f32>,
    sum: Vec<f32>,
    shrink: Vec<f32>,
    /// The rows' first keys and ends of keys; [lanes].
    first: Vec<u32>,
    end: Vec<u32>,
}

impl Scratch {
    /// Starts a tile. Lanes without a row hold a query of zeros that sees every key.
    fn begin(&mut self, tile: usize, lanes: usize, width: usize) {
        let Self {
            query,
            weights,
            mixed,
            largest,
            sum,
            shrink,
            first,
            end,
        } = self;
        // Not minus infinity: where a row sees nothing of a tile, the difference to its maximum is
        // to be one of numbers.
        let filled = [
            (query, width * lanes, 0.0),
            (mixed, width * lanes, 0.0),
            (largest, lanes, f32::MIN),
            (sum, lanes, 0.0),
        ];
        for (numbers, count, number) in filled {
            numbers.clear();
            numbers.resize(count, number);
        }
        weights.resize(tile * lanes, 0.0);
        shrink.resize(lanes, 0.0);
        for (places, place) in [(first, 0), (end, u32::MAX)] {
            places.clear();
            places.resize(lanes, place);
        }
    }
}

vectorised! {
    fn forward_tile<'a, A>(
        inputs: &'a AttentionRows<'a>,
        place: &'a HeadRows,
        tile: usize,
        scratch: &'a mut Scratch,
        output: &'a mut [f32],
        log_sums: &'a mut [f32],
    ) {
        let Sizes {
            queries,
            keys,
            heads,
            kv_heads,
            width,
            ..
        } = inputs.seen.sizes;
        let group = heads / kv_heads;
        let lanes = place.rows.len().next_multiple_of(16);
        scratch.begin(tile, lanes, width);
        for (lane, row) in place.rows.clone().enumerate() {
            let (query, head) = (row / group, place.kv_head * group + row % group);
            let from = ((place.batch * queries + query) * heads + head) * width;
            for (feature, number) in inputs.query[from..from + width].iter().enumerate() {
                scratch.query[feature * lanes + lane] = number * inputs.score.scale;
            }
            let seen = inputs.seen.by(place.batch, query..query + 1);
            (scratch.first[lane], scratch.end[lane]) = (seen.start as u32, seen.end as u32);
        }
        for start in place.keys.clone().step_by(tile) {
            let tile_keys = start..place.keys.end.min(start + tile);
            let from = ((place.batch * keys + start) * kv_heads + place.kv_head) * width;
            let (stride, count) = (kv_heads * width, tile_keys.len());
            let key = Left {
                numbers: &inputs.key[from..],
                stride,
                order: OperandLayout::Rows,
                rows: count,
                depth: width,
            };
            let value = Left {
                numbers: &inputs.value[from..],
                stride,
                order: OperandLayout::Columns,
                rows: width,
                depth: count,
            };
            mix::<A>(scratch, key, value, tile_keys, lanes, inputs.score.softcap);
        }
        for (lane, (output, log_sum)) in output.chunks_exact_mut(width).zip(log_sums).enumerate() {
            let factor = 1.0 / scratch.sum[lane];
            for (feature, output) in output.iter_mut().enumerate() {
                *output = scratch.mixed[feature * lanes + lane] * factor;
            }
            *log_sum = scratch.largest[lane] + scratch.sum[lane].ln();
        }
    }
}

/// Adds a tile of keys; `key` is K, `value` Vᵀ.
#[inline(always)]
fn mix<A: Arithmetic>(
    scratch: &mut Scratch,
    key: Left,
    value: Left,
    keys: Range<usize>,
    lanes: usize,
    softcap: Option<f32>,
) {
    let Scratch {
        query,
        weights,
        mixed,
        largest,
        sum,
        shrink,
        first,
        end,
    } = scratch;
    let weights = &mut weights[..keys.len() * lanes];
    product::<A>(key, query, weights, lanes, Onto::Overwrite);
    if let Some(softcap) = softcap {
        cap(weights, softcap);
    }
    hide(weights, &keys, first, end);
    soften::<A>(weights, largest, sum, shrink);
    for mixed in mixed.chunks_exact_mut(lanes).take(value.rows) {
        for (mixed, shrink) in mixed.iter_mut().zip(&*shrink) {
            *mixed *= shrink;
        }
    }
    product::<A>(value, weights, mixed, lanes, Onto::Add);
}

/// Sets the scores of keys that a row does not see to minus infinity.
#[inline(always)]
fn hide(scores: &mut [f32], keys: &Range<usize>, first: &[u32], end: &[u32]) {
    if first.iter().all(|first| *first as usize <= keys.start)
        && end.iter().all(|end| keys.end <= *end as usize)
    {
        return;
    }
    for (scores, key) in scores
        .chunks_exact_mut(first.len())
        .zip(keys.start as u32..)
    {
        for ((score, first), end) in scores.iter_mut().zip(first).zip(end) {
            *score = if *first <= key && key < *end {
                *score
            } else {
                f32::NEG_INFINITY
            };
        }
    }
}

/// Turns scores into exp(z - m), and updates the rows' maxima m and sums.
#[inline(always)]
fn soften<A: Arithmetic>(
    scores: &mut [f32],
    largest: &mut [f32],
    sum: &mut [f32],
    shrink: &mut [f32],
) {
    let lanes = largest.len();
    shrink.copy_from_slice(largest);
    for scores in scores.chunks_exact(lanes) {
        for (largest, score) in largest.iter_mut().zip(scores) {
            *largest = largest.max(*score);
        }
    }
    for ((shrink, largest), sum) in shrink.iter_mut().zip(&*largest).zip(&mut *sum) {
        *shrink = exp::<A>(*shrink - largest);
        *sum *= *shrink;
    }
    for scores in scores.chunks_exact_mut(lanes) {
        for ((score, largest), sum) in scores.iter_mut().zip(&*largest).zip(&mut *sum) {
            *score = exp::<A>(*score - largest);
            *sum += *score;
        }
    }
}
