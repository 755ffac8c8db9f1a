//! The recurrence of one head over a chunk of tokens, as products of matrices: Yang et al. 2024,
//! arXiv:2412.06464, section 3.3, and Dao and Gu 2024, arXiv:2405.21060, section 6.
//!
//! In a chunk with queries Q, keys K, values V, strengths β, sums γ of the logarithms of the decays
//! from its start, and the state S before it, let F = e^(γᵢ - γⱼ) for j ≤ i and U the writes of its
//! tokens. Then (1 + L) U = β ∘ (V - e^γ ∘ K S) with L = β ∘ F ∘ K Kᵀ below the diagonal, or U = β
//! ∘ V where nothing is erased; the output is e^γ ∘ Q S + (F ∘ Q Kᵀ) U, and the state after it is
//! e^γ' S + (e^(γ' - γ) ∘ K)ᵀ U with γ' the last of the sums.

use crate::ops::exp::exp;
use crate::ops::lanes::sum_of_products;
use crate::ops::simd::{Arithmetic, vectorised};
use crate::ops::tile_product::{Left, Onto, OperandLayout, product};

/// Tokens per chunk.
pub(in crate::ops) const CHUNK: usize = 64;
/// Rows that are solved one after the other; the rows before them are one product.
const BLOCK: usize = 16;

/// Returns the width of rows in memory: products work on whole registers.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(16)
}

/// One head's numbers of a chunk and intermediate results. Rows are padded with zeros.
pub(super) struct Tiles {
    /// Number of tokens.
    pub rows: usize,
    /// Features of queries and keys, and of values.
    pub widths: [usize; 2],
    /// Whether a key erases what the state has of it.
    pub erases: bool,
    /// Q, [rows, features].
    pub query: Vec<f32>,
    /// K, [rows, features].
    pub key: Vec<f32>,
    /// V, [rows, features].
    pub value: Vec<f32>,
    /// γ, in 64 bits: differences of large sums count.
    pub decay: Vec<f64>,
    /// β.
    pub write: Vec<f32>,
    /// Kᵀ.
    turned: Vec<f32>,
    /// F.
    fade: Vec<f32>,
    /// F ∘ K Kᵀ below the diagonal.
    echo: Vec<f32>,
    /// -L.
    erased: Vec<f32>,
    /// F ∘ Q Kᵀ.
    scores: Vec<f32>,
    /// K S.
    recalled: Vec<f32>,
    /// U.
    update: Vec<f32>,
    /// Queries or keys with factors.
    scaled: Vec<f32>,
}

impl Tiles {
    pub(super) fn new(widths: [usize; 2], erases: bool) -> Self {
        let [keys, values] = widths.map(padded);
        let of = |width: usize| vec![0.0; CHUNK * width];
        Self {
            rows: 0,
            widths,
            erases,
            query: of(keys),
            key: of(keys),
            value: of(values),
            decay: vec![0.0; CHUNK],
            write: of(1),
            turned: of(keys),
            fade: of(CHUNK),
            echo: of(CHUNK),
            erased: of(CHUNK),
            scores: of(CHUNK),
            recalled: of(values),
            update: of(values),
            scaled: of(keys),
        }
    }
}

/// Gradients of one head's numbers of a chunk, and intermediate results.
pub(super) struct OfTiles {
    /// That of the output, which is given.
    pub output: Vec<f32>,
    /// That of Q.
    pub query: Vec<f32>,
    /// That of K.
    pub key: Vec<f32>,
    /// That of V.
    pub value: Vec<f32>,
    /// That of the logarithms of the decays.
    pub decay: Vec<f32>,
    /// That of β.
    pub write: Vec<f32>,
    /// That of U, then of the right-hand side.
    update: Vec<f32>,
    /// That of K S.
    recalled: Vec<f32>,
    /// Those of Q Kᵀ and of K Kᵀ.
    pairs: [Vec<f32>; 2],
    /// Uᵀ.
    turned: Vec<f32>,
    /// A state, transposed.
    state: Vec<f32>,
    /// A summand of the gradients of queries and keys.
    summand: Vec<f32>,
    /// The gradient of the output with factors.
    scaled: Vec<f32>,
}

impl OfTiles {
    pub(super) fn new(widths: [usize; 2]) -> Self {
        let [keys, values] = widths.map(padded);
        let of = |width: usize| vec![0.0; CHUNK * width];
        Self {
            output: of(values),
            query: of(keys),
            key: of(keys),
            value: of(values),
            decay: of(1),
            write: of(1),
            update: of(values),
            recalled: of(values),
            pairs: [of(CHUNK), of(CHUNK)],
            turned: of(values),
            state: vec![0.0; widths[1] * keys],
            summand: of(keys),
            scaled: of(values),
        }
    }
}

vectorised! {
    /// Returns the output of a chunk, [rows, features], and moves the state on.
    pub(super) fn forward<'a, A>(
        tiles: &'a mut Tiles,
        state: &'a mut [f32],
        output: &'a mut [f32],
    ) {
        write_of::<A>(tiles, state);
        scores_of::<A>(tiles);
        let ([_, values], rows) = (tiles.widths.map(padded), tiles.rows);
        scale_queries::<A>(tiles);
        product::<A>(by_rows(&tiles.scaled, tiles.widths[0], rows), state, output, values,
            Onto::Overwrite);
        product::<A>(square(&tiles.scores, rows), &tiles.update, output, values, Onto::Add);
        advance_by::<A>(tiles, state);
    }

    /// Moves the state on.
    pub(super) fn advance<'a, A>(tiles: &'a mut Tiles, state: &'a mut [f32]) {
        write_of::<A>(tiles, state);
        advance_by::<A>(tiles, state);
    }

    /// Computes the gradients of a chunk, given that of its output, the state before it, and the
    /// gradient of the state after it, which becomes that of the state before it.
    pub(super) fn backward<'a, A>(
        tiles: &'a mut Tiles,
        of: &'a mut OfTiles,
        state: &'a [f32],
        of_state: &'a mut [f32],
    ) {
        write_of::<A>(tiles, state);
        scores_of::<A>(tiles);
        let ([keys, values], [key_dim, value_dim]) = (tiles.widths.map(padded), tiles.widths);
        let rows = tiles.rows;
        of.decay[..rows].fill(0.0);
        scale_keys::<A>(tiles);

        // Of U: from the output, and from the state after the chunk.
        product::<A>(turned_square(&tiles.scores, rows), &of.output, &mut of.update, values,
            Onto::Overwrite);
        product::<A>(by_rows(&tiles.scaled, key_dim, rows), of_state, &mut of.update, values,
            Onto::Add);
        if tiles.erases {
            solve_back::<A>(&tiles.erased, &mut of.update, rows, values);
        }
        of_values::<A>(tiles, of);

        // Of pairs of tokens.
        turn(&tiles.update, &mut of.turned, rows, value_dim);
        product::<A>(by_rows(&of.output, value_dim, rows), &of.turned, &mut of.pairs[0], CHUNK,
            Onto::Overwrite);
        if tiles.erases {
            product::<A>(by_rows(&of.update, value_dim, rows), &of.turned, &mut of.pairs[1],
                CHUNK, Onto::Overwrite);
        }
        of_pairs::<A>(tiles, of);

        // Of queries: from their scores, and from the state before the chunk.
        product::<A>(square(&of.pairs[0], rows), &tiles.key, &mut of.query, keys,
            Onto::Overwrite);
        turn_state(state, &mut of.state, tiles.widths);
        for row in 0..rows {
            let factor = exp::<A>(tiles.decay[row] as f32);
            scale(&mut of.scaled[row * values..][..values], &of.output[row * values..][..values],
                factor);
        }
        product::<A>(by_rows(&of.scaled, value_dim, rows), &of.state, &mut of.summand, keys,
            Onto::Overwrite);
        for row in 0..rows {
            let (summand, query) = (&of.summand[row * keys..][..keys],
                &tiles.query[row * keys..][..keys]);
            of.decay[row] += sum_of_products::<A>(summand, query);
            for (sum, summand) in of.query[row * keys..][..keys].iter_mut().zip(summand) {
                *sum += summand;
            }
        }

        // Of keys: from their scores, from what they recall, and from the state after the chunk.
        product::<A>(turned_square(&of.pairs[0], rows), &tiles.query, &mut of.key, keys,
            Onto::Overwrite);
        if tiles.erases {
            product::<A>(square(&of.pairs[1], rows), &tiles.key, &mut of.key, keys, Onto::Add);
            product::<A>(by_rows(&of.recalled, value_dim, rows), &of.state, &mut of.key, keys,
                Onto::Add);
        }
        turn_state(of_state, &mut of.state, tiles.widths);
        product::<A>(by_rows(&tiles.update, value_dim, rows), &of.state, &mut of.summand, keys,
            Onto::Overwrite);
        let last = tiles.decay[rows - 1];
        let mut of_last = exp::<A>(last as f32) * sum_of_products::<A>(state, of_state);
        for row in 0..rows {
            let factor = exp::<A>((last - tiles.decay[row]) as f32);
            let (summand, key) = (&of.summand[row * keys..][..keys],
                &tiles.key[row * keys..][..keys]);
            let along = factor * sum_of_products::<A>(summand, key);
            of_last += along;
            of.decay[row] -= along;
            for (sum, summand) in of.key[row * keys..][..keys].iter_mut().zip(summand) {
                *sum = A::multiply_add(factor, *summand, *sum);
            }
        }
        of.decay[rows - 1] += of_last;

        // Of the state before the chunk.
        let factor = exp::<A>(last as f32);
        for number in of_state.iter_mut() {
            *number *= factor;
        }
        scale_queries::<A>(tiles);
        product::<A>(by_columns(&tiles.scaled, keys, key_dim, rows), &of.output, of_state, values,
            Onto::Add);
        if tiles.erases {
            product::<A>(by_columns(&tiles.key, keys, key_dim, rows), &of.recalled, of_state,
                values, Onto::Add);
        }
        // γ is a sum over the tokens before.
        let mut sum = 0.0;
        for of_decay in of.decay[..rows].iter_mut().rev() {
            sum += *of_decay;
            *of_decay = sum;
        }
    }
}

/// Rows of a tile as the left operand, `depth` of whose features count.
#[inline(always)]
fn by_rows(numbers: &[f32], depth: usize, rows: usize) -> Left<'_> {
    Left {
        numbers,
        stride: padded(depth),
        order: OperandLayout::Rows,
        rows,
        depth,
    }
}

/// The transpose of a tile [depth, stride] as the left operand.
#[inline(always)]
fn by_columns(numbers: &[f32], stride: usize, rows: usize, depth: usize) -> Left<'_> {
    Left {
        numbers,
        stride,
        order: OperandLayout::Columns,
        rows,
        depth,
    }
}

/// Numbers of pairs of tokens as the left operand.
#[inline(always)]
fn square(numbers: &[f32], rows: usize) -> Left<'_> {
    Left {
        numbers,
        stride: CHUNK,
        order: OperandLayout::Rows,
        rows,
        depth: rows,
    }
}

/// The transpose of that.
#[inline(always)]
fn turned_square(numbers: &[f32], rows: usize) -> Left<'_> {
    by_columns(numbers, CHUNK, rows, rows)
}

#[inline(always)]
fn scale(to: &mut [f32], from: &[f32], factor: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = factor * from;
    }
}

/// Transposes the first `width` features of rows into rows of [`CHUNK`].
#[inline(always)]
fn turn(from: &[f32], to: &mut [f32], rows: usize, width: usize) {
    for (row, from) in from.chunks_exact(padded(width)).take(rows).enumerate() {
        for (feature, number) in from[..width].iter().enumerate() {
            to[feature * CHUNK + row] = *number;
        }
    }
}

/// Transposes a state [key features, value features].
#[inline(always)]
fn turn_state(from: &[f32], to: &mut [f32], [key_dim, value_dim]: [usize; 2]) {
    let keys = padded(key_dim);
    for (key, from) in from.chunks_exact(padded(value_dim)).enumerate() {
        for (value, number) in from[..value_dim].iter().enumerate() {
            to[value * keys + key] = *number;
        }
    }
}

/// Computes F, K Kᵀ, K S and U.
#[inline(always)]
fn write_of<A: Arithmetic>(tiles: &mut Tiles, state: &[f32]) {
    let ([_, values], [key_dim, _]) = (tiles.widths.map(padded), tiles.widths);
    let rows = tiles.rows;
    turn(&tiles.key, &mut tiles.turned, rows, key_dim);
    for row in 0..rows {
        let own = tiles.decay[row];
        let fade = &mut tiles.fade[row * CHUNK..][..CHUNK];
        for (fade, other) in fade.iter_mut().zip(&tiles.decay) {
            *fade = exp::<A>((own - other) as f32);
        }
        fade[row + 1..].fill(0.0);
    }
    if tiles.erases {
        let keys = by_rows(&tiles.key, key_dim, rows);
        product::<A>(keys, &tiles.turned, &mut tiles.echo, CHUNK, Onto::Overwrite);
        product::<A>(keys, state, &mut tiles.recalled, values, Onto::Overwrite);
        for row in 0..rows {
            let write = tiles.write[row];
            let at = row * CHUNK..(row + 1) * CHUNK;
            let (echo, erased) = (&mut tiles.echo[at.clone()], &mut tiles.erased[at.clone()]);
            for ((echo, erased), fade) in echo.iter_mut().zip(&mut *erased).zip(&tiles.fade[at]) {
                *echo *= fade;
                *erased = -write * *echo;
            }
            // Columns after the last token hold numbers of another chunk, and F none.
            echo[row..].fill(0.0);
            erased[row..].fill(0.0);
        }
    }
    for row in 0..rows {
        let at = row * values..(row + 1) * values;
        let (write, factor) = (tiles.write[row], exp::<A>(tiles.decay[row] as f32));
        let update = tiles.update[at.clone()].iter_mut();
        let value = &tiles.value[at.clone()];
        if tiles.erases {
            for ((update, value), recalled) in update.zip(value).zip(&tiles.recalled[at]) {
                *update = write * A::multiply_add(-factor, *recalled, *value);
            }
        } else {
            for (update, value) in update.zip(value) {
                *update = write * value;
            }
        }
    }
    if tiles.erases {
        solve::<A>(&tiles.erased, &mut tiles.update, rows, values);
    }
}

/// Computes F ∘ Q Kᵀ.
#[inline(always)]
fn scores_of<A: Arithmetic>(tiles: &mut Tiles) {
    let rows = tiles.rows;
    product::<A>(
        by_rows(&tiles.query, tiles.widths[0], rows),
        &tiles.turned,
        &mut tiles.scores,
        CHUNK,
        Onto::Overwrite,
    );
    for row in 0..rows {
        let at = row * CHUNK..(row + 1) * CHUNK;
        let scores = &mut tiles.scores[at.clone()];
        for (score, fade) in scores.iter_mut().zip(&tiles.fade[at]) {
            *score *= fade;
        }
        scores[row + 1..].fill(0.0);
    }
}

/// Computes e^γ ∘ Q.
#[inline(always)]
fn scale_queries<A: Arithmetic>(tiles: &mut Tiles) {
    let keys = padded(tiles.widths[0]);
    for row in 0..tiles.rows {
        let at = row * keys..(row + 1) * keys;
        let factor = exp::<A>(tiles.decay[row] as f32);
        scale(&mut tiles.scaled[at.clone()], &tiles.query[at], factor);
    }
}

/// Computes e^(γ' - γ) ∘ K.
#[inline(always)]
fn scale_keys<A: Arithmetic>(tiles: &mut Tiles) {
    let (keys, last) = (padded(tiles.widths[0]), tiles.decay[tiles.rows - 1]);
    for row in 0..tiles.rows {
        let at = row * keys..(row + 1) * keys;
        let factor = exp::<A>((last - tiles.decay[row]) as f32);
        scale(&mut tiles.scaled[at.clone()], &tiles.key[at], factor);
    }
}

/// Moves the state on by the writes.
#[inline(always)]
fn advance_by<A: Arithmetic>(tiles: &mut Tiles, state: &mut [f32]) {
    let ([keys, values], rows) = (tiles.widths.map(padded), tiles.rows);
    let factor = exp::<A>(tiles.decay[rows - 1] as f32);
    for number in state.iter_mut() {
        *number *= factor;
    }
    scale_keys::<A>(tiles);
    product::<A>(
        by_columns(&tiles.scaled, keys, tiles.widths[0], rows),
        &tiles.update,
        state,
        values,
        Onto::Add,
    );
}

/// Solves (1 + L) X = B in place, given -L.
#[inline(always)]
fn solve<A: Arithmetic>(erased: &[f32], x: &mut [f32], rows: usize, width: usize) {
    for start in (0..rows).step_by(BLOCK) {
        let end = rows.min(start + BLOCK);
        let (done, rest) = x.split_at_mut(start * width);
        let before = Left {
            numbers: &erased[start * CHUNK..],
            stride: CHUNK,
            order: OperandLayout::Rows,
            rows: end - start,
            depth: start,
        };
        product::<A>(before, done, rest, width, Onto::Add);
        for row in 1..end - start {
            let (done, own) = rest.split_at_mut(row * width);
            let factors = &erased[(start + row) * CHUNK + start..];
            for (done, factor) in done.chunks_exact(width).zip(factors) {
                add_scaled::<A>(&mut own[..width], done, *factor);
            }
        }
    }
}

/// Solves (1 + L)ᵀ X = B in place, given -L.
#[inline(always)]
fn solve_back<A: Arithmetic>(erased: &[f32], x: &mut [f32], rows: usize, width: usize) {
    for start in (0..rows).step_by(BLOCK).rev() {
        let end = rows.min(start + BLOCK);
        let (own, after) = x.split_at_mut(end * width);
        let own = &mut own[start * width..];
        if end < rows {
            let behind = by_columns(
                &erased[end * CHUNK + start..],
                CHUNK,
                end - start,
                rows - end,
            );
            product::<A>(behind, after, own, width, Onto::Add);
        }
        for row in (1..end - start).rev() {
            let (before, done) = own.split_at_mut(row * width);
            let factors = &erased[(start + row) * CHUNK + start..];
            for (before, factor) in before.chunks_exact_mut(width).zip(factors) {
                add_scaled::<A>(before, &done[..width], *factor);
            }
        }
    }
}

#[inline(always)]
fn add_scaled<A: Arithmetic>(sum: &mut [f32], row: &[f32], factor: f32) {
    for (sum, number) in sum.iter_mut().zip(row) {
        *sum = A::multiply_add(factor, *number, *sum);
    }
}

/// Computes the gradients of V, of β by its writes, and of K S, given that of the right-hand side.
#[inline(always)]
fn of_values<A: Arithmetic>(tiles: &Tiles, of: &mut OfTiles) {
    let values = padded(tiles.widths[1]);
    for row in 0..tiles.rows {
        let at = row * values..(row + 1) * values;
        let (write, factor) = (tiles.write[row], exp::<A>(tiles.decay[row] as f32));
        let update = &of.update[at.clone()];
        scale(&mut of.value[at.clone()], update, write);
        of.write[row] = sum_of_products::<A>(update, &tiles.value[at.clone()]);
        if tiles.erases {
            let recalled = &tiles.recalled[at.clone()];
            of.write[row] -= factor * sum_of_products::<A>(update, recalled);
            let of_recalled = &mut of.recalled[at];
            scale(of_recalled, update, -write * factor);
            of.decay[row] += sum_of_products::<A>(of_recalled, recalled);
        }
    }
}

/// Turns the gradients of F ∘ Q Kᵀ, and of -L, into those of Q Kᵀ, and of K Kᵀ with its transpose.
#[inline(always)]
fn of_pairs<A: Arithmetic>(tiles: &Tiles, of: &mut OfTiles) {
    let rows = tiles.rows;
    for row in 0..rows {
        let at = row * CHUNK..(row + 1) * CHUNK;
        let (fade, scores) = (&tiles.fade[at.clone()], &tiles.scores[at.clone()]);
        let of_scores = &mut of.pairs[0][at.clone()];
        for other in 0..row {
            let along = of_scores[other] * scores[other];
            of.decay[row] += along;
            of.decay[other] -= along;
        }
        for (of_score, fade) in of_scores.iter_mut().zip(fade) {
            *of_score *= fade;
        }
        of_scores[row + 1..].fill(0.0);
        if tiles.erases {
            let (write, echo) = (tiles.write[row], &tiles.echo[at.clone()]);
            let of_erased = &mut of.pairs[1][at];
            of.write[row] -= sum_of_products::<A>(&of_erased[..row], &echo[..row]);
            for other in 0..row {
                let along = write * of_erased[other] * echo[other];
                of.decay[row] -= along;
                of.decay[other] += along;
                of_erased[other] *= -write * fade[other];
            }
            of_erased[row..].fill(0.0);
        }
    }
    if tiles.erases {
        for row in 0..rows {
            for other in 0..row {
                of.pairs[1][other * CHUNK + row] = of.pairs[1][row * CHUNK + other];
            }
        }
    }
}
