//! Walks whose units own rows of a state, the features of a key, which are the columns of their
//! shapes: forward over the states, which gives dq and what recalling adds to dk, and back over
//! their gradients, which gives what writing adds to dk.

use cubecl::prelude::*;

use super::super::super::recurrence::CHUNK;
use super::super::across;
use super::{
    KEY_FACTOR, Lengths, OF_HEAD, Place, QUERY_FACTOR, Quad, WalkShape, place, sum_groups,
};

/// Loads of tokens the gradient of the output, u, and -β du where something is erased.
#[cube]
fn load_values<F: Float>(
    mixed: &[F],
    table: &[f32],
    gradient: &[F],
    writes: &[f32],
    outputs: &mut Shared<[Quad]>,
    updates: &mut Shared<[Quad]>,
    erased: &mut Shared<[Quad]>,
    first: usize,
    rows: usize,
    head: usize,
    lengths: &Lengths,
    #[comptime] form: WalkShape,
) {
    let width = comptime![form.groups * form.vectors];
    let (heads, features) = (lengths.value_heads as usize, lengths.values as usize);
    let of_errors = lengths.tokens as usize * heads * features;
    let mut at = UNIT_POS as usize;
    while at < rows * width {
        let token = first + at / width;
        let of_head = token * heads + head;
        let strength = table[of_head * OF_HEAD + 1];
        let mut of_output = Quad::new(0.0f32);
        let mut update = Quad::new(0.0f32);
        let mut of_recalled = Quad::new(0.0f32);
        #[unroll]
        for index in 0..4 {
            let feature = at % width * 4 + index;
            if feature < features {
                let from = of_head * features + feature;
                of_output.insert(index, f32::cast_from(gradient[from]));
                if comptime![form.erases] {
                    update.insert(index, strength * writes[from]);
                    of_recalled.insert(index, -strength * writes[of_errors + from]);
                } else {
                    let value = token * lengths.channels as usize
                        + lengths.first_value as usize
                        + head * features
                        + feature;
                    update.insert(index, strength * f32::cast_from(mixed[value]));
                }
            }
        }
        outputs[at] = of_output;
        updates[at] = update;
        if comptime![form.erases] {
            erased[at] = of_recalled;
        }
        at += CUBE_DIM as usize;
    }
}

/// Loads the cube's features of queries and keys of tokens with their factors, and the decays.
#[cube]
fn load_features<F: Float>(
    mixed: &[F],
    table: &[f32],
    queries: &mut Shared<[f32]>,
    keys: &mut Shared<[f32]>,
    decays: &mut Shared<[f32]>,
    first: usize,
    rows: usize,
    place: &Place,
    lengths: &Lengths,
    #[comptime] form: WalkShape,
) {
    let (heads, features) = (lengths.value_heads as usize, lengths.keys as usize);
    let key_head = place.head / (heads / lengths.key_heads as usize);
    let mut row = place.group;
    while row < rows {
        let of_head = ((first + row) * heads + place.head) * OF_HEAD;
        let from = (first + row) * lengths.channels as usize + key_head * features + place.feature;
        let mut query = 0.0f32;
        let mut key = 0.0f32;
        if place.feature < features {
            query = f32::cast_from(mixed[from + lengths.first_query as usize])
                * table[of_head + QUERY_FACTOR];
            key = f32::cast_from(mixed[from + lengths.first_key as usize])
                * table[of_head + KEY_FACTOR];
        }
        queries[row * form.columns + place.column] = query;
        keys[row * form.columns + place.column] = key;
        if place.column == 0 {
            decays[row] = table[of_head];
        }
        row += form.groups;
    }
}

/// Returns the place of the first number that a unit stores of a state at a border, of which there
/// are so many. The next ones are as far apart as a cube has units.
#[cube]
fn stored_at(
    border: usize,
    borders: usize,
    place: &Place,
    lengths: &Lengths,
    #[comptime] form: WalkShape,
) -> usize {
    let (heads, features) = (lengths.value_heads as usize, lengths.keys as usize);
    let blocks = (features + comptime![form.columns - 1]) / form.columns;
    let block = place.feature / form.columns;
    let states = (2 * lengths.tokens as usize + borders) * heads * features;
    let of_cube = comptime![4 * form.vectors * form.groups * form.columns];
    states + ((border * heads + place.head) * blocks + block) * of_cube + UNIT_POS as usize
}

/// Computes dq and, after all of it, -S' (β du) where something is erased; stores the states
/// between chunks, see [`stored_at`].
#[cube(launch)]
pub(super) fn read_states<F: Float, S: Float>(
    mixed: &[F],
    table: &[f32],
    gradient: &[F],
    writes: &[f32],
    state: &[S],
    starts: &[u32],
    pairs: &mut [f32],
    lengths: &Lengths,
    #[comptime] form: WalkShape,
    #[define(F, S)] _elements: [ElemType; 2],
) {
    let (features, width) = (lengths.keys as usize, lengths.values as usize);
    let place = place(features, lengths, form);
    if place.document >= lengths.documents as usize {
        terminate!();
    }
    let units = comptime![form.groups * form.columns];
    let of_token = comptime![form.groups * form.vectors];
    let of_erased = comptime![if form.erases { form.tile * of_token } else { 1 }];
    let mut outputs = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut updates = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut erased = Shared::<[Quad]>::new_slice(of_erased);
    let mut queries = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut keys = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut decays = Shared::<[f32]>::new_slice(form.tile);
    let mut partial = Shared::<[f32]>::new_slice(comptime![4 * units]);

    let heads = lengths.value_heads as usize;
    let of_keys = lengths.tokens as usize * heads * features;
    let of_state = (place.head * features + place.feature) * width;
    let mut own = Array::<Quad>::new(form.vectors);
    #[unroll]
    for vector in 0..form.vectors {
        let mut rows = Quad::new(0.0f32);
        #[unroll]
        for index in 0..4 {
            let row = (place.group * form.vectors + vector) * 4 + index;
            if place.document == 0 && row < width && place.feature < features {
                rows.insert(index, f32::cast_from(state[of_state + row]));
            }
        }
        own[vector] = rows;
    }

    let (start, end) = (
        starts[place.document] as usize,
        starts[place.document + 1] as usize,
    );
    let of_borders = lengths.documents as usize + 1;
    let first_border = starts[of_borders + place.document] as usize;
    let borders = starts[of_borders + lengths.documents as usize] as usize;
    let mut at = start;
    while at < end {
        let rows = min(form.tile, end - at);
        sync_cube();
        load_values::<F>(
            mixed,
            table,
            gradient,
            writes,
            &mut outputs,
            &mut updates,
            &mut erased,
            at,
            rows,
            place.head,
            lengths,
            form,
        );
        load_features::<F>(
            mixed,
            table,
            &mut queries,
            &mut keys,
            &mut decays,
            at,
            rows,
            &place,
            lengths,
            form,
        );
        sync_cube();
        for row in 0..rows {
            let first = row * of_token + place.group * form.vectors;
            let decay = Quad::new(decays[row]);
            let key = Quad::new(keys[row * form.columns + place.column]);
            let mut of_query = Quad::new(0.0f32);
            let mut of_key = Quad::new(0.0f32);
            #[unroll]
            for vector in 0..form.vectors {
                let kept = own[vector] * decay;
                if comptime![form.erases] {
                    of_key += erased[first + vector] * kept;
                }
                own[vector] = kept + updates[first + vector] * key;
                of_query += outputs[first + vector] * own[vector];
            }
            let passed = at + row + 1 - start;
            if passed % CHUNK == 0 && at + row + 1 < end {
                let border = first_border + passed / CHUNK - 1;
                let to = stored_at(border, borders, &place, lengths, form);
                #[unroll]
                for vector in 0..form.vectors {
                    #[unroll]
                    for index in 0..4 {
                        pairs[to + (vector * 4 + index) * units] = own[vector].extract(index);
                    }
                }
            }
            let sums = row % 2 * comptime![2 * units];
            partial[sums + UNIT_POS as usize] = across::<Const<4>>(of_query);
            if comptime![form.erases] {
                partial[sums + units + UNIT_POS as usize] = across::<Const<4>>(of_key);
            }
            sync_cube();
            if place.group == 0 && place.feature < features {
                let to = ((at + row) * heads + place.head) * features + place.feature;
                pairs[to] = sum_groups(&partial, sums + place.column, form);
                if comptime![form.erases] {
                    pairs[of_keys + to] = sum_groups(&partial, sums + units + place.column, form);
                }
            }
        }
        at += form.tile;
    }
}

/// Adds D u to dk, or begins it where nothing is erased; computes the products of states between
/// chunks and their gradients, a number for each row: [borders, heads, features].
#[cube(launch)]
pub(super) fn read_gradients<F: Float>(
    mixed: &[F],
    table: &[f32],
    gradient: &[F],
    writes: &[f32],
    starts: &[u32],
    pairs: &mut [f32],
    lengths: &Lengths,
    #[comptime] form: WalkShape,
    #[define(F)] _element: ElemType,
) {
    let features = lengths.keys as usize;
    let place = place(features, lengths, form);
    if place.document >= lengths.documents as usize {
        terminate!();
    }
    let units = comptime![form.groups * form.columns];
    let of_token = comptime![form.groups * form.vectors];
    let of_erased = comptime![if form.erases { form.tile * of_token } else { 1 }];
    let mut outputs = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut updates = Shared::<[Quad]>::new_slice(comptime![form.tile * of_token]);
    let mut erased = Shared::<[Quad]>::new_slice(of_erased);
    let mut queries = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut keys = Shared::<[f32]>::new_slice(comptime![form.tile * form.columns]);
    let mut decays = Shared::<[f32]>::new_slice(form.tile);
    let mut partial = Shared::<[f32]>::new_slice(comptime![3 * units]);

    let heads = lengths.value_heads as usize;
    let of_keys = lengths.tokens as usize * heads * features;
    let of_borders = lengths.documents as usize + 1;
    let first_border = starts[of_borders + place.document] as usize;
    let borders = starts[of_borders + lengths.documents as usize] as usize;
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
        load_values::<F>(
            mixed,
            table,
            gradient,
            writes,
            &mut outputs,
            &mut updates,
            &mut erased,
            at,
            rows,
            place.head,
            lengths,
            form,
        );
        load_features::<F>(
            mixed,
            table,
            &mut queries,
            &mut keys,
            &mut decays,
            at,
            rows,
            &place,
            lengths,
            form,
        );
        sync_cube();
        for behind in 0..rows {
            let row = rows - 1 - behind;
            let first = row * of_token + place.group * form.vectors;
            let decay = Quad::new(decays[row]);
            let query = Quad::new(queries[row * form.columns + place.column]);
            let key = Quad::new(keys[row * form.columns + place.column]);
            let mut of_key = Quad::new(0.0f32);
            #[unroll]
            for vector in 0..form.vectors {
                let mut of_state = own[vector] + outputs[first + vector] * query;
                of_key += updates[first + vector] * of_state;
                if comptime![form.erases] {
                    of_state += erased[first + vector] * key;
                }
                own[vector] = of_state * decay;
            }
            let sums = row % 2 * units;
            partial[sums + UNIT_POS as usize] = across::<Const<4>>(of_key);
            sync_cube();
            if place.group == 0 && place.feature < features {
                let to = of_keys + ((at + row) * heads + place.head) * features + place.feature;
                let mut sum = sum_groups(&partial, sums + place.column, form);
                if comptime![form.erases] {
                    sum += pairs[to];
                }
                pairs[to] = sum;
            }
            let passed = at + row - start;
            if passed > 0 && passed % CHUNK == 0 {
                let border = first_border + passed / CHUNK - 1;
                let from = stored_at(border, borders, &place, lengths, form);
                let mut product = 0.0f32;
                #[unroll]
                for vector in 0..form.vectors {
                    #[unroll]
                    for index in 0..4 {
                        product +=
                            own[vector].extract(index) * pairs[from + (vector * 4 + index) * units];
                    }
                }
                partial[comptime![2 * units] + UNIT_POS as usize] = product;
                sync_cube();
                if place.group == 0 && place.feature < features {
                    let to = 2 * of_keys + (border * heads + place.head) * features;
                    pairs[to + place.feature] =
                        sum_groups(&partial, comptime![2 * units] + place.column, form);
                }
            }
        }
    }
}
