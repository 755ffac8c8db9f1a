//! The gradients of queries, keys and values from what the walks found, one cube per token and
//! head.

use cubecl::prelude::*;

use super::super::total;
use super::{ALONG, KEY_FACTOR, Lengths, OF_HEAD, OF_SKIP, OF_WRITE, QUERY_FACTOR};

/// Computes the gradients of values, and of each head q · dq - v · β du, dβ and the gradient of D.
#[cube(launch)]
pub(super) fn gather_values<F: Float>(
    mixed: &[F],
    table: &mut [f32],
    gradient: &[F],
    writes: &[f32],
    pairs: &[f32],
    of_mixed: &mut [F],
    lengths: &Lengths,
    #[comptime] units: usize,
    #[comptime] erases: bool,
    #[define(F)] _element: ElemType,
) {
    let heads = lengths.value_heads as usize;
    let all = lengths.tokens as usize * heads;
    if CUBE_POS >= all {
        terminate!();
    }
    let (token, head) = (CUBE_POS / heads, CUBE_POS % heads);
    let (keys, values) = (lengths.keys as usize, lengths.values as usize);
    let mut sums = Shared::<[f32]>::new_slice(units);
    let of_head = CUBE_POS * OF_HEAD;
    let (strength, skip) = (table[of_head + 1], table[of_head + 3]);
    let of_token = token * lengths.channels as usize;
    let of_values = of_token + lengths.first_value as usize + head * values;
    let mut along = 0.0f32;
    let mut of_write = 0.0f32;
    let mut of_skip = 0.0f32;
    let mut feature = UNIT_POS as usize;
    while feature < values {
        let at = CUBE_POS * values + feature;
        let value = f32::cast_from(mixed[of_values + feature]);
        if comptime![erases] {
            let of_update = writes[all * values + at];
            let of_value = strength * of_update;
            of_write += of_update * writes[at];
            along -= of_value * value;
            of_mixed[of_values + feature] = F::cast_from(of_value);
        } else {
            let of_output = f32::cast_from(gradient[at]);
            let of_update = writes[at];
            let of_value = strength * of_update;
            of_write += of_update * value;
            along -= of_value * value;
            of_skip += of_output * value;
            of_mixed[of_values + feature] = F::cast_from(of_value + skip * of_output);
        }
        feature += CUBE_DIM as usize;
    }
    let key_head = head / (heads / lengths.key_heads as usize);
    let of_query = of_token + lengths.first_query as usize + key_head * keys;
    let factor = table[of_head + QUERY_FACTOR];
    let mut feature = UNIT_POS as usize;
    while feature < keys {
        let query = f32::cast_from(mixed[of_query + feature]) * factor;
        along += query * pairs[CUBE_POS * keys + feature];
        feature += CUBE_DIM as usize;
    }
    let along = total(along, &mut sums);
    let of_write = total(of_write, &mut sums);
    let of_skip = total(of_skip, &mut sums);
    if UNIT_POS == 0 {
        table[of_head + ALONG] = along;
        table[of_head + OF_WRITE] = of_write;
        table[of_head + OF_SKIP] = of_skip;
    }
}

/// Computes the gradients of queries and keys: the sum g over the heads that share them, and s r (g
/// - x̂ (x̂ · g)) where x = s x̂ is normalized by the factor s r.
#[cube(launch)]
pub(super) fn gather_keys<F: Float>(
    mixed: &[F],
    table: &[f32],
    pairs: &[f32],
    of_mixed: &mut [F],
    lengths: &Lengths,
    #[comptime] units: usize,
    #[comptime] erases: bool,
    #[define(F)] _element: ElemType,
) {
    let key_heads = lengths.key_heads as usize;
    if CUBE_POS >= lengths.tokens as usize * key_heads {
        terminate!();
    }
    let (token, key_head) = (CUBE_POS / key_heads, CUBE_POS % key_heads);
    let (heads, keys) = (lengths.value_heads as usize, lengths.keys as usize);
    let group = heads / key_heads;
    let mut sums = Shared::<[f32]>::new_slice(units);
    let first_head = token * heads + key_head * group;
    let all = lengths.tokens as usize * heads * keys;
    let of_token = token * lengths.channels as usize + key_head * keys;
    #[unroll]
    for which in 0..2 {
        let mut start = of_token + lengths.first_query as usize;
        let mut factor = table[first_head * OF_HEAD + QUERY_FACTOR];
        // 1 / s².
        let mut width = f32::cast_from(lengths.keys);
        if comptime![which == 1] {
            start = of_token + lengths.first_key as usize;
            factor = table[first_head * OF_HEAD + KEY_FACTOR];
            width = 1.0f32;
        }
        let mut along = 0.0f32;
        if comptime![erases] {
            let mut feature = UNIT_POS as usize;
            while feature < keys {
                let from = which * all + first_head * keys + feature;
                let unit = f32::cast_from(mixed[start + feature]) * factor;
                along += unit * sum_heads(pairs, from, keys, group);
                feature += CUBE_DIM as usize;
            }
            along = total(along, &mut sums) * width;
        }
        let mut feature = UNIT_POS as usize;
        while feature < keys {
            let from = which * all + first_head * keys + feature;
            let mut of_unit = sum_heads(pairs, from, keys, group);
            if comptime![erases] {
                of_unit -= f32::cast_from(mixed[start + feature]) * factor * along;
            }
            of_mixed[start + feature] = F::cast_from(factor * of_unit);
            feature += CUBE_DIM as usize;
        }
    }
}

/// Returns the sum over heads that share a key.
#[cube]
fn sum_heads(pairs: &[f32], from: usize, step: usize, heads: usize) -> f32 {
    let mut sum = 0.0f32;
    for head in 0..heads {
        sum += pairs[from + head * step];
    }
    sum
}
