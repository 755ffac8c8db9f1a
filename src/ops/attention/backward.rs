//! Backward of attention: the weights of a tile are recomputed from its scores and the kept sums,
//! Dao 2023, arXiv:2307.08691, algorithm 2.
//!
//! A tile of queries and a tile of keys meet once, and add their parts to dQ, dK and dV. The
//! meetings are held in rounds, in none of which a tile meets two others: so each sum has one owner
//! at a time, and an order that does not depend on the schedule.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::forward::AttentionRows;
use super::key_range::{KeyRange, Sizes, Tiles};
use super::score::cap;
use crate::ops::exp::exp;
use crate::ops::product::count;
use crate::ops::simd::{Arithmetic, vectorised};
use crate::ops::tile_product::{Left, Onto, OperandLayout, product};

/// The results of forward, and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// The output, [batch, queries, heads, width].
    pub(super) output: &'a [f32],
    /// The logarithms of sums, [batch, queries, heads].
    pub(super) log_sums: &'a [f32],
    /// The gradient of the output, [batch, queries, heads, width].
    pub(super) gradient: &'a [f32],
}

/// dQ, dK and dV, each in the order of its tensor.
pub(super) type Gradients = [Vec<f32>; 3];

/// The meeting of a tile of queries with one of keys, for all heads that share a head of the keys.
struct Meeting {
    batch: usize,
    kv_head: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

/// Returns the padded length of a row in scratch: the columns of a product come in multiples of 16.
fn padded(width: usize) -> usize {
    width.next_multiple_of(16)
}

/// Returns the three gradients.
pub(super) fn backward(inputs: &AttentionRows, given: &Given, tile: usize) -> Gradients {
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        width,
    } = inputs.seen.sizes;
    let dot = |(left, right): (&[f32], &[f32])| {
        left.iter()
            .zip(right)
            .map(|(left, right)| left * right)
            .sum::<f32>()
    };
    let rows = given.gradient.par_chunks_exact(width).with_min_len(64);
    // D = rowsum(dO ∘ O)
    let along: Vec<f32> = rows
        .zip(given.output.par_chunks_exact(width))
        .map(dot)
        .collect();

    let group = heads / kv_heads;
    let tiled = |of: &dyn Fn(usize) -> Tiles| (0..batch).map(of).collect::<Vec<Tiles>>();
    let query_tiles = tiled(&|row| inputs.seen.query_tiles(row, 1, tile));
    let key_tiles = tiled(&|row| inputs.seen.key_tiles(row, tile));
    let of_queries = Sums::new(&query_tiles, inputs, group);
    let [of_keys, of_values] = [(); 2].map(|()| Sums::new(&key_tiles, inputs, 1));
    for round in rounds(&inputs.seen, &query_tiles, &key_tiles) {
        (0..round.len() * kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|index| {
                let ((batch, i, j), kv_head) = (round[index / kv_heads], index % kv_heads);
                let [queries, keys] =
                    [&query_tiles[batch].ranges[i], &key_tiles[batch].ranges[j]].map(Clone::clone);
                let meeting = Meeting {
                    batch,
                    kv_head,
                    queries,
                    keys,
                };
                count(5 * group * meeting.queries.len() * meeting.keys.len() * width);
                let own = "a round's meetings share no tile, and none panics holding one";
                let mut dq = of_queries.of(batch, i, kv_head).lock().expect(own);
                let mut dk = of_keys.of(batch, j, kv_head).lock().expect(own);
                let mut dv = of_values.of(batch, j, kv_head).lock().expect(own);
                SCRATCH.with_borrow_mut(|scratch| {
                    meet(
                        inputs,
                        given,
                        &along,
                        &meeting,
                        scratch,
                        [&mut dq, &mut dk, &mut dv],
                    );
                });
            });
    }
    [
        of_queries.gathered(queries, inputs.score.scale),
        of_keys.gathered(keys, 1.0),
        of_values.gathered(keys, 1.0),
    ]
}

/// A row of the batch with a tile of queries and one of keys that it sees.
type Pair = (usize, usize, usize);

/// Returns the meetings of all tiles that see something of one another, in rounds in which each
/// tile is at most once. Tiles i of queries and j of keys meet in round (i + j) mod m, where no
/// tile meets more than m neighboring ones: under a causal mask rounds have equal size.
fn rounds(seen: &KeyRange, query_tiles: &[Tiles], key_tiles: &[Tiles]) -> Vec<Vec<Pair>> {
    let mut pairs = Vec::new();
    let mut most = 1;
    for (row, (query_tiles, key_tiles)) in query_tiles.iter().zip(key_tiles).enumerate() {
        let mut met_by = vec![None::<(usize, usize)>; key_tiles.ranges.len()];
        for (i, queries) in query_tiles.ranges.iter().enumerate() {
            let tiles = key_tiles.over(seen.by(row, queries.clone()));
            most = most.max(tiles.len());
            for j in tiles {
                let first = met_by[j].map_or(i, |(first, _)| first);
                met_by[j] = Some((first, i));
                pairs.push((row, i, j));
            }
        }
        most = met_by
            .iter()
            .flatten()
            .map(|(first, last)| last - first + 1)
            .fold(most, usize::max);
    }
    let mut rounds = vec![Vec::new(); most];
    for pair in pairs {
        rounds[(pair.1 + pair.2) % most].push(pair);
    }
    rounds
}

/// Sums of tiles, one per tile and head of the keys: [heads, places of the tile, padded width].
struct Sums<'a> {
    tiles: &'a [Tiles],
    /// Number of tiles in the rows before.
    before: Vec<usize>,
    sizes: Sizes,
    /// Number of heads that share a head of the keys.
    heads: usize,
    sums: Vec<Mutex<Vec<f32>>>,
}

impl<'a> Sums<'a> {
    fn new(tiles: &'a [Tiles], inputs: &AttentionRows, heads: usize) -> Self {
        let sizes = inputs.seen.sizes;
        let count = |tiles: &[Tiles]| tiles.iter().map(|tiles| tiles.ranges.len()).sum::<usize>();
        let ranges = tiles.iter().flat_map(|tiles| &tiles.ranges);
        let places = ranges.flat_map(|range| std::iter::repeat_n(range.len(), sizes.kv_heads));
        let sums = places
            .map(|places| Mutex::new(vec![0.0; heads * places * padded(sizes.width)]))
            .collect();
        Self {
            before: (0..tiles.len()).map(|row| count(&tiles[..row])).collect(),
            tiles,
            sizes,
            heads,
            sums,
        }
    }

    fn of(&self, row: usize, tile: usize, kv_head: usize) -> &Mutex<Vec<f32>> {
        &self.sums[(self.before[row] + tile) * self.sizes.kv_heads + kv_head]
    }

    /// Returns the sums in the order of a tensor, [batch, length, kv heads · heads, width].
    fn gathered(self, length: usize, factor: f32) -> Vec<f32> {
        let Self {
            tiles,
            before,
            sizes:
                Sizes {
                    batch,
                    kv_heads,
                    width,
                    ..
                },
            heads,
            sums,
        } = self;
        let sums: Vec<Vec<f32>> = sums
            .into_iter()
            .map(|sums| sums.into_inner().expect("no meeting panicked"))
            .collect();
        let mut whole = vec![0.0; batch * length * kv_heads * heads * width];
        whole
            .par_chunks_exact_mut(kv_heads * heads * width)
            .with_min_len(16)
            .enumerate()
            .for_each(|(token, whole)| {
                let (row, (index, place)) =
                    (token / length, tiles[token / length].find(token % length));
                for (head, whole) in whole.chunks_exact_mut(width).enumerate() {
                    let sums = &sums[(before[row] + index) * kv_heads + head / heads];
                    let places = tiles[row].ranges[index].len();
                    let sums = &sums[(head % heads * places + place) * padded(width)..][..width];
                    whole
                        .iter_mut()
                        .zip(sums)
                        .for_each(|(whole, sum)| *whole = sum * factor);
                }
            });
        whole
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers of a meeting, as large as a thread has needed them so far; features and keys of a tile
/// are padded.
#[derive(Default)]
struct Scratch {
    /// [width, keys].
    key_turned: Vec<f32>,
    value_turned: Vec<f32>,
    /// [keys, width].
    key: Vec<f32>,
    /// [queries, width].
    query: Vec<f32>,
    gradient: Vec<f32>,
    /// P and dS, [queries, keys].
    weights: Vec<f32>,
    of_scores: Vec<f32>,
}

impl Scratch {
    /// Makes room. The padding of a row is left over from an earlier meeting, and does not enter
    /// any sum that is used.
    fn begin(&mut self, queries: usize, keys: usize, width: usize) {
        let Self {
            key_turned,
            value_turned,
            key,
            query,
            gradient,
            weights,
            of_scores,
        } = self;
        let turned = [key_turned, value_turned].map(|numbers| (numbers, width * padded(keys)));
        let of_queries = [query, gradient].map(|numbers| (numbers, queries * padded(width)));
        let of_pairs = [weights, of_scores].map(|numbers| (numbers, queries * padded(keys)));
        let all = turned
            .into_iter()
            .chain(of_queries)
            .chain(of_pairs)
            .chain([(key, keys * padded(width))]);
        all.for_each(|(numbers, count)| numbers.resize(count, 0.0));
    }
}

vectorised! {
    fn meet<'a, A>(
        inputs: &'a AttentionRows<'a>,
        given: &'a Given<'a>,
        along: &'a [f32],
        meeting: &'a Meeting,
        scratch: &'a mut Scratch,
        gradients: [&'a mut [f32]; 3],
    ) {
        let [dq, dk, dv] = gradients;
        let Sizes {
            queries,
            keys,
            heads,
            kv_heads,
            width,
            ..
        } = inputs.seen.sizes;
        let (group, stride, lanes) = (heads / kv_heads, padded(width), padded(meeting.keys.len()));
        scratch.begin(meeting.queries.len(), meeting.keys.len(), width);
        for (index, key) in meeting.keys.clone().enumerate() {
            let from = ((meeting.batch * keys + key) * kv_heads + meeting.kv_head) * width;
            scratch.key[index * stride..][..width].copy_from_slice(&inputs.key[from..from + width]);
        }
        let from = (meeting.batch * keys + meeting.keys.start) * kv_heads + meeting.kv_head;
        let count = meeting.keys.len();
        turn(
            &mut scratch.key_turned,
            &inputs.key[from * width..],
            kv_heads * width,
            count,
            width,
            lanes,
        );
        turn(
            &mut scratch.value_turned,
            &inputs.value[from * width..],
            kv_heads * width,
            count,
            width,
            lanes,
        );
        for of_group in 0..group {
            let head = meeting.kv_head * group + of_group;
            let row_of = |query: usize| (meeting.batch * queries + query) * heads + head;
            for (index, query) in meeting.queries.clone().enumerate() {
                let from = row_of(query) * width;
                let numbers = inputs.query[from..from + width]
                    .iter()
                    .zip(&mut scratch.query[index * stride..]);
                numbers.for_each(|(number, scaled)| *scaled = number * inputs.score.scale);
                scratch.gradient[index * stride..][..width]
                    .copy_from_slice(&given.gradient[from..from + width]);
            }
            let sums = |query| (given.log_sums[row_of(query)], along[row_of(query)]);
            weigh::<A>(inputs, meeting, scratch, [lanes, stride], &sums);
            let dq = &mut dq[of_group * meeting.queries.len() * stride..];
            add_gradients::<A>(meeting, scratch, dq, dk, dv, [lanes, stride]);
        }
    }
}

/// Computes P = e^(S - L) and dS = P ∘ (dP - D) for one head; `sums` gives a query's L and D.
#[inline(always)]
fn weigh<A: Arithmetic>(
    inputs: &AttentionRows,
    meeting: &Meeting,
    scratch: &mut Scratch,
    [lanes, stride]: [usize; 2],
    sums: &impl Fn(usize) -> (f32, f32),
) {
    let Scratch {
        key_turned,
        value_turned,
        query,
        gradient,
        weights,
        of_scores,
        ..
    } = scratch;
    let (rows, depth) = (meeting.queries.len(), inputs.seen.sizes.width);
    let left = |numbers| Left {
        numbers,
        stride,
        order: OperandLayout::Rows,
        rows,
        depth,
    };
    product::<A>(left(query), key_turned, weights, lanes, Onto::Overwrite); // S
    product::<A>(
        left(gradient),
        value_turned,
        of_scores,
        lanes,
        Onto::Overwrite,
    ); // dP
    let count = meeting.keys.len();
    for ((weights, of_scores), query) in weights
        .chunks_exact_mut(lanes)
        .zip(of_scores.chunks_exact_mut(lanes))
        .zip(meeting.queries.clone())
    {
        let (log_sum, along) = sums(query);
        match inputs.score.softcap {
            None => {
                for (weight, of_score) in weights.iter_mut().zip(of_scores.iter_mut()) {
                    *weight = exp::<A>(*weight - log_sum);
                    *of_score = *weight * (*of_score - along);
                }
            }
            Some(softcap) => {
                cap(weights, softcap);
                for (weight, of_score) in weights.iter_mut().zip(of_scores.iter_mut()) {
                    let share = *weight / softcap;
                    *weight = exp::<A>(*weight - log_sum);
                    *of_score = *weight * (*of_score - along) * (1.0 - share * share);
                }
            }
        }
        let seen = inputs.seen.within(meeting.batch, query, &meeting.keys);
        for row in [weights, of_scores] {
            row[..seen.start].fill(0.0);
            row[seen.end..count].fill(0.0);
        }
    }
}

/// Adds to the gradients, for one head: dQ += dS K (yet to be scaled), dK += dSᵀ (scale · Q), dV +=
/// Pᵀ dO.
#[inline(always)]
fn add_gradients<A: Arithmetic>(
    meeting: &Meeting,
    scratch: &Scratch,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    [lanes, stride]: [usize; 2],
) {
    let (queries, keys) = (meeting.queries.len(), meeting.keys.len());
    let turned = |numbers| Left {
        numbers,
        stride: lanes,
        order: OperandLayout::Columns,
        rows: keys,
        depth: queries,
    };
    let straight = Left {
        numbers: &scratch.of_scores,
        stride: lanes,
        order: OperandLayout::Rows,
        rows: queries,
        depth: keys,
    };
    product::<A>(straight, &scratch.key, dq, stride, Onto::Add);
    product::<A>(
        turned(&scratch.of_scores),
        &scratch.query,
        dk,
        stride,
        Onto::Add,
    );
    product::<A>(
        turned(&scratch.weights),
        &scratch.gradient,
        dv,
        stride,
        Onto::Add,
    );
}

/// Transposes [rows, width], with rows `stride` apart, to [width, lanes].
#[inline(always)]
fn turn(
    turned: &mut [f32],
    numbers: &[f32],
    stride: usize,
    rows: usize,
    width: usize,
    lanes: usize,
) {
    let mut row = 0;
    while row + 8 <= rows {
        let from: [&[f32]; 8] =
            std::array::from_fn(|index| &numbers[(row + index) * stride..][..width]);
        for feature in 0..width {
            *turned[feature * lanes + row..]
                .first_chunk_mut()
                .expect("the lanes are there") = from.map(|from| from[feature]);
        }
        row += 8;
    }
    for row in row..rows {
        for feature in 0..width {
            turned[feature * lanes + row] = numbers[row * stride + feature];
        }
    }
}
