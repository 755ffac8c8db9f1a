//! The gates: decays and strengths of all tokens before the walks, and their gradients after them.

use cubecl::prelude::*;

use super::super::super::recurrence::{CHUNK, LENGTH_EPSILON};
use super::super::total;
use super::{ALONG, KEY_FACTOR, Lengths, OF_HEAD, OF_SKIP, OF_WRITE, QUERY_FACTOR};

/// The least and the greatest β; not used where a sigmoid makes it.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Bounds {
    least: f32,
    most: f32,
}

/// The gates of a token and head, and what they are made of.
#[derive(CubeType, Clone, Copy)]
struct Gate {
    /// e^A.
    rate: f32,
    /// The argument of softplus.
    argument: f32,
    /// Its result.
    step: f32,
    log_decay: f32,
    /// β.
    write: f32,
}

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (-x).exp())
}

/// Returns log(1 + e^x). A card's logarithm is not exact near 1, and not every language has log(1 +
/// y): that is 2 artanh(z) with z = y / (2 + y), at most 1/3.
#[cube]
fn softplus(x: f32) -> f32 {
    let y = (-x.abs()).exp();
    let z = y / (2.0f32 + y);
    let w = z * z;
    let mut series = f32::new(1.0f32 / 15.0f32);
    series = series * w + 1.0f32 / 13.0f32;
    series = series * w + 1.0f32 / 11.0f32;
    series = series * w + 1.0f32 / 9.0f32;
    series = series * w + 1.0f32 / 7.0f32;
    series = series * w + 1.0f32 / 5.0f32;
    series = series * w + 1.0f32 / 3.0f32;
    series = series * w + 1.0f32;
    max(x, 0.0f32) + 2.0f32 * z * series
}

#[cube]
fn gate<G: Float, W: Float>(
    gates: &[G],
    vectors: &[W],
    token: usize,
    head: usize,
    lengths: &Lengths,
    bounds: &Bounds,
    #[comptime] erases: bool,
) -> Gate {
    let heads = lengths.value_heads as usize;
    let rate = f32::cast_from(vectors[head]).exp();
    let shift = f32::cast_from(vectors[heads + head]);
    if comptime![erases] {
        let argument = f32::cast_from(gates[(2 * token + 1) * heads + head]) + shift;
        let step = softplus(argument);
        Gate {
            rate,
            argument,
            step,
            log_decay: -rate * step,
            write: sigmoid(f32::cast_from(gates[2 * token * heads + head])),
        }
    } else {
        let argument = f32::cast_from(gates[token * heads + head]) + shift;
        let step = softplus(argument);
        // What is not a number stays so.
        let mut write = step;
        if step < bounds.least {
            write = bounds.least;
        }
        if step > bounds.most {
            write = bounds.most;
        }
        Gate {
            rate,
            argument,
            step,
            log_decay: -rate * write,
            write,
        }
    }
}

/// Computes the table of [`OF_HEAD`] numbers per token and head.
#[cube(launch)]
pub(super) fn prepare_heads<F: Float, G: Float, W: Float>(
    mixed: &[F],
    gates: &[G],
    vectors: &[W],
    table: &mut [f32],
    lengths: &Lengths,
    bounds: &Bounds,
    #[comptime] erases: bool,
    #[define(F, G, W)] _elements: [ElemType; 3],
) {
    let heads = lengths.value_heads as usize;
    if ABSOLUTE_POS < lengths.tokens as usize * heads {
        let (token, head) = (ABSOLUTE_POS / heads, ABSOLUTE_POS % heads);
        let keys = lengths.keys as usize;
        let key_head = head / (heads / lengths.key_heads as usize);
        let start = token * lengths.channels as usize + key_head * keys;
        let (of_query, of_key) = (
            start + lengths.first_query as usize,
            start + lengths.first_key as usize,
        );
        let mut of_queries = 0.0f32;
        let mut of_keys = 0.0f32;
        let mut of_both = 0.0f32;
        for feature in 0..keys {
            let query = f32::cast_from(mixed[of_query + feature]);
            let key = f32::cast_from(mixed[of_key + feature]);
            of_queries += query * query;
            of_keys += key * key;
            of_both += query * key;
        }
        let mut query_factor = 1.0f32;
        let mut key_factor = 1.0f32;
        let mut skip = 0.0f32;
        if comptime![erases] {
            let scale = 1.0f32 / f32::cast_from(lengths.keys).sqrt();
            query_factor = scale / (of_queries + LENGTH_EPSILON).sqrt();
            key_factor = 1.0f32 / (of_keys + LENGTH_EPSILON).sqrt();
        } else {
            skip = f32::cast_from(vectors[2 * heads + head]);
        }
        let gate = gate::<G, W>(gates, vectors, token, head, lengths, bounds, erases);
        let at = ABSOLUTE_POS * OF_HEAD;
        table[at] = gate.log_decay.exp();
        table[at + 1] = gate.write;
        table[at + 2] = of_both * query_factor * key_factor;
        table[at + 3] = skip;
        table[at + QUERY_FACTOR] = query_factor;
        table[at + KEY_FACTOR] = key_factor;
    }
}

/// Computes the gradients of the gates, and those of the vectors by document: [documents, vectors,
/// heads]. A cube has a document and head, each of its units chunks of tokens.
#[cube(launch)]
pub(super) fn scan_gates<G: Float, W: Float>(
    gates: &[G],
    vectors: &[W],
    table: &[f32],
    starts: &[u32],
    pairs: &[f32],
    of_gates: &mut [G],
    of_documents: &mut [f32],
    lengths: &Lengths,
    bounds: &Bounds,
    #[comptime] units: usize,
    #[comptime] erases: bool,
    #[define(G, W)] _elements: [ElemType; 2],
) {
    let heads = lengths.value_heads as usize;
    let (document, head) = (CUBE_POS / heads, CUBE_POS % heads);
    if document >= lengths.documents as usize {
        terminate!();
    }
    let mut sums = Shared::<[f32]>::new_slice(units);
    let (start, end) = (starts[document] as usize, starts[document + 1] as usize);
    let unit = UNIT_POS as usize;
    let keys = lengths.keys as usize;
    let chunks = (end - start + comptime![CHUNK - 1]) / CHUNK;
    let first_border = starts[lengths.documents as usize + 1 + document] as usize;
    let of_borders = 2 * lengths.tokens as usize * heads * keys;
    let mut of_rate = 0.0f32;
    let mut of_shift = 0.0f32;
    let mut of_skip = 0.0f32;
    let mut chunk = unit;
    while chunk < chunks {
        let from = start + chunk * CHUNK;
        let mut token = min(from + CHUNK, end);
        let mut of_decay = 0.0f32;
        if chunk + 1 < chunks {
            let at = of_borders + ((first_border + chunk) * heads + head) * keys;
            for key in 0..keys {
                of_decay += pairs[at + key];
            }
        }
        while token > from {
            token -= 1;
            let at = (token * heads + head) * OF_HEAD;
            of_decay += table[at + ALONG];
            let of_write = table[at + OF_WRITE];
            let gate = gate::<G, W>(gates, vectors, token, head, lengths, bounds, erases);
            of_rate += of_decay * gate.log_decay;
            let slope = sigmoid(gate.argument);
            if comptime![erases] {
                let of_step = -of_decay * gate.rate * slope;
                of_shift += of_step;
                of_gates[2 * token * heads + head] =
                    G::cast_from(of_write * gate.write * (1.0f32 - gate.write));
                of_gates[(2 * token + 1) * heads + head] = G::cast_from(of_step);
            } else {
                let mut of_step = 0.0f32;
                if gate.step > bounds.least && gate.step < bounds.most {
                    of_step = (of_write - of_decay * gate.rate) * slope;
                }
                of_shift += of_step;
                of_skip += table[at + OF_SKIP];
                of_gates[token * heads + head] = G::cast_from(of_step);
            }
        }
        chunk += units;
    }
    let of_rate = total(of_rate, &mut sums);
    let of_shift = total(of_shift, &mut sums);
    let vectors = comptime![if erases { 2 } else { 3 }];
    let at = document * vectors * heads + head;
    if unit == 0 {
        of_documents[at] = of_rate;
        of_documents[at + heads] = of_shift;
    }
    if comptime![!erases] {
        let of_skip = total(of_skip, &mut sums);
        if unit == 0 {
            of_documents[at + 2 * heads] = of_skip;
        }
    }
}

/// Adds up the gradients of the vectors.
#[cube(launch)]
pub(super) fn sum_documents<W: Float>(
    of_documents: &[f32],
    of_vectors: &mut [W],
    documents: u32,
    numbers: u32,
    #[define(W)] _element: ElemType,
) {
    let numbers = numbers as usize;
    if ABSOLUTE_POS < numbers {
        let mut sum = 0.0f32;
        for document in 0..documents as usize {
            sum += of_documents[document * numbers + ABSOLUTE_POS];
        }
        of_vectors[ABSOLUTE_POS] = W::cast_from(sum);
    }
}
