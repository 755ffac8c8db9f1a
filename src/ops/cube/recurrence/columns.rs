//! Walks whose units own columns of a state, the features of a value: forward, which gives outputs
//! or the errors e, and back, which gives du.
//!
//! The units of a column add up their rows in shared memory, once a token and in one of two places
//! in turn, so that one barrier a token is enough.

use cubecl::prelude::*;

use super::super::across;
use super::{KEY_FACTOR, Lengths, OF_HEAD, QUERY_FACTOR, Quad, WalkShape, place, sum_groups};

/// Numbers of a token in shared memory: the first of the table.
const NUMBERS: usize = 4;

/// The result of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Gives {
    /// o, with D v.
    Output,
    /// e.
    Errors,
}

/// Loads the queries and keys of tokens with their factors, and the numbers of these tokens.
#[cube]
fn load_keys<F: Float>(
    mixed: &[F],
    table: &[f32],
    queries: &mut Shared<[Quad]>,
    keys: &mut Shared<[Quad]>,
    numbers: &mut Shared<[f32]>,
    first: usize,
    rows: usize,
    head: usize,
    lengths: &Lengths,
    #[comptime] form: WalkShape,
) {
    let width = comptime![form.groups * form.vectors];
    let (heads, features) = (lengths.value_heads as usize, lengths.keys as usize);
    let key_head = head / (heads / lengths.key_heads as usize);
    let mut at = UNIT_POS as usize;
    while at < rows * width {
        let token = first + at / width;
        let of_head = (token * heads + head) * OF_HEAD;
        let (of_query, of_key) = (table[of_head + QUERY_FACTOR], table[of_head + KEY_FACTOR]);
        let start = token * lengths.channels as usize + key_head * features;
        let mut query = Quad::new(0.0f32);
        let mut key = Quad::new(0.0f32);
        #[unroll]
        for index in 0..4 {
            let feature = at % width * 4 + index;
            if feature < features {
                let (from, of_keys) = (
                    start + lengths.first_query as usize + feature,
                    start + lengths.first_key as usize + feature,
                );
                query.insert(index, f32::cast_from(mixed[from]) * of_query);
                key.insert(index, f32::cast_from(mixed[of_keys]) * of_key);
            }
        }
        queries[at] = query;
        keys[at] = key;
        at += CUBE_DIM as usize;
    }
    let mut at = UNIT_POS as usize;
    while at < rows * NUMBERS {
        let of_head = ((first + at / NUMBERS) * heads + head) * OF_HEAD;
        numbers[at] = table[of_head + at % NUMBERS];
        at += CUBE_DIM as usize;
    }
}

/// Loads the cube's columns of rows of heads. `start` is the place of the first row.
#[cube]
fn load_columns<F: Float>(
    from: &[F],
    to: &mut Shared<[f32]>,
    start: usize,
    step: usize,
    rows: usize,
    width: usize,
    #[comptime] form: WalkShape,
) {
    let first = UNIT_POS as usize % form.columns;
    let mut row = UNIT_POS as usize / form.columns;
    while row < rows {
        let mut number = 0.0f32;
        if first < width {
            number = f32::cast_from(from[start + row * step + first]);
        }
        to[row * form.columns + first] = number;
        row += form.groups;
    }
}

#[cube(launch)]
pub(super) fn walk_tokens<F: Float, S: Float, O: Float>(
    mixed: &[F],
    table: &[f32],
    state: &[S],
    starts: &[u32],
    output: &mut [O],
    last: &mut [S],
    lengths: &Lengths,
    #[comptime] gives: Gives,
    #[comptime] form: WalkShape,
    #[define(F, S, O)] _elements: [ElemType; 3],
) {
    let (features, width) = (lengths.keys as usize, lengths.values as usize);
    let place = place(width, lengths, form);
    if place.document >= lengths.documents as usize {
        terminate!();
    }
    let units = comptime![form.groups * form.columns];
    let of_token = comptime![form.groups * form.vectors];
    let mut queries = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut keys = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut values = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut numbers = Shared::<[f32]>::new_slice(comptime![form.tile * NUMBERS]);
    let mut partial = Shared::<[f32]>::new_slice(comptime![4 * units]);

    let heads = lengths.value_heads as usize;
    let of_state = place.head * features * width + place.feature;
    let mut own = Array::<Quad>::new(form.vectors);
    #[unroll]
    for vector in 0..form.vectors {
        let mut rows = Quad::new(0.0f32);
        #[unroll]
        for index in 0..4 {
            let row = (place.group * form.vectors + vector) * 4 + index;
            if place.document == 0 && row < features && place.feature < width {
                rows.insert(index, f32::cast_from(state[of_state + row * width]));
            }
        }
        own[vector] = rows;
    }

    let end = starts[place.document + 1] as usize;
    let mut at = starts[place.document] as usize;
    while at < end {
        let rows = min(form.tile, end - at);
        sync_cube();
        load_keys::<F>(
            mixed,
            table,
            &mut queries,
            &mut keys,
            &mut numbers,
            at,
            rows,
            place.head,
            lengths,
            form,
        );
        let channels = lengths.channels as usize;
        let of_block = place.feature - place.column;
        load_columns::<F>(
            mixed,
            &mut values,
            at * channels + lengths.first_value as usize + place.head * width + of_block,
            channels,
            rows,
            width - of_block,
            form,
        );
        sync_cube();
        for row in 0..rows {
            let first = row * of_token + place.group * form.vectors;
            let decay = numbers[row * NUMBERS];
            let mut recalled = Quad::new(0.0f32);
            let mut read = Quad::new(0.0f32);
            #[unroll]
            for vector in 0..form.vectors {
                recalled += keys[first + vector] * own[vector];
                read += queries[first + vector] * own[vector];
            }
            let sums = row % 2 * comptime![2 * units];
            partial[sums + UNIT_POS as usize] = across::<Const<4>>(recalled);
            partial[sums + units + UNIT_POS as usize] = across::<Const<4>>(read);
            sync_cube();
            let value = values[row * form.columns + place.column];
            let mut error = value;
            if comptime![form.erases] {
                error -= decay * sum_groups(&partial, sums + place.column, form);
            }
            let update = numbers[row * NUMBERS + 1] * error;
            #[unroll]
            for vector in 0..form.vectors {
                own[vector] =
                    own[vector] * Quad::new(decay) + keys[first + vector] * Quad::new(update);
            }
            if place.group == 0 && place.feature < width {
                let to = ((at + row) * heads + place.head) * width + place.feature;
                if comptime![gives == Gives::Output] {
                    let read = decay * sum_groups(&partial, sums + units + place.column, form);
                    let own = numbers[row * NUMBERS + 2] * update;
                    let skipped = numbers[row * NUMBERS + 3] * value;
                    output[to] = O::cast_from(read + own + skipped);
                } else {
                    output[to] = O::cast_from(error);
                }
            }
        }
        at += form.tile;
    }
    if place.document + 1 == lengths.documents as usize && place.feature < width {
        #[unroll]
        for vector in 0..form.vectors {
            #[unroll]
            for index in 0..4 {
                let row = (place.group * form.vectors + vector) * 4 + index;
                if row < features {
                    last[of_state + row * width] = S::cast_from(own[vector].extract(index));
                }
            }
        }
    }
}

/// Computes du, after all of e where something is erased.
#[cube(launch)]
pub(super) fn walk_back<F: Float>(
    mixed: &[F],
    table: &[f32],
    gradient: &[F],
    starts: &[u32],
    writes: &mut [f32],
    lengths: &Lengths,
    #[comptime] form: WalkShape,
    #[define(F)] _element: ElemType,
) {
    let width = lengths.values as usize;
    let place = place(width, lengths, form);
    if place.document >= lengths.documents as usize {
        terminate!();
    }
    let units = comptime![form.groups * form.columns];
    let of_token = comptime![form.groups * form.vectors];
    let mut queries = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut keys = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut outputs = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut numbers = Shared::<[f32]>::new_slice(comptime![form.tile * NUMBERS]);
    let mut partial = Shared::<[f32]>::new_slice(comptime![2 * units]);

    let heads = lengths.value_heads as usize;
    let mut of_writes = 0;
    if comptime![form.erases] {
        of_writes = lengths.tokens as usize * heads * width;
    }
    // The gradient of the state after the token at hand, by the tokens after it.
    let mut own = Array::<Quad>::new(form.vectors);
    #[unroll]
    for vector in 0..form.vectors {
        own[vector] = Quad::new(0.0f32);
    }
    let start = starts[place.document] as usize;
    let mut at = starts[place.document + 1] as usize;
    while at > start {
        let rows = min(form.tile, at - start);
        at -= rows;
        sync_cube();
        load_keys::<F>(
            mixed,
            table,
            &mut queries,
            &mut keys,
            &mut numbers,
            at,
            rows,
            place.head,
            lengths,
            form,
        );
        let of_block = place.feature - place.column;
        load_columns::<F>(
            gradient,
            &mut outputs,
            (at * heads + place.head) * width + of_block,
            heads * width,
            rows,
            width - of_block,
            form,
        );
        sync_cube();
        for behind in 0..rows {
            let row = rows - 1 - behind;
            let first = row * of_token + place.group * form.vectors;
            let mut along = Quad::new(0.0f32);
            #[unroll]
            for vector in 0..form.vectors {
                along += keys[first + vector] * own[vector];
            }
            let sums = row % 2 * units;
            partial[sums + UNIT_POS as usize] = across::<Const<4>>(along);
            sync_cube();
            let of_output = outputs[row * form.columns + place.column];
            let of_update = sum_groups(&partial, sums + place.column, form)
                + numbers[row * NUMBERS + 2] * of_output;
            let decay = Quad::new(numbers[row * NUMBERS]);
            let of_recalled = -numbers[row * NUMBERS + 1] * of_update;
            #[unroll]
            for vector in 0..form.vectors {
                let mut of_state = own[vector] + queries[first + vector] * Quad::new(of_output);
                if comptime![form.erases] {
                    of_state += keys[first + vector] * Quad::new(of_recalled);
                }
                own[vector] = of_state * decay;
            }
            if place.group == 0 && place.feature < width {
                let to = ((at + row) * heads + place.head) * width + place.feature;
                writes[of_writes + to] = of_update;
            }
        }
    }
}
