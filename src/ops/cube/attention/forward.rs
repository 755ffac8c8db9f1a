//! Forward of attention: the softmax of a query is updated while its keys pass by, with the largest
//! score so far (Milakov and Gimelshein 2018, arXiv:1805.02867).

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::attention::{KeyRange, Score};
use super::super::super::product::count;
use super::super::{cubes, element, empty, upload};
use super::spans::{OF_QUERY, OF_TILE, Spans};
use super::tile::{add, dot, load, scored, store, zeros};
use super::{KernelShape, LANES, Lengths, Scoring, lengths, scoring};

#[cube(launch)]
fn mix<F: Float, N: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    spans: &[u32],
    output: &mut [Vector<F, N>],
    log_sums: &mut [f32],
    lengths: &Lengths,
    scoring: &Scoring,
    #[comptime] form: KernelShape,
    #[define(F)] _element: ElemType,
) {
    let (heads, kv_heads) = (lengths.heads as usize, lengths.kv_heads as usize);
    let (index, head) = (CUBE_POS / heads, CUBE_POS % heads);
    if index >= lengths.tiles as usize {
        terminate!();
    }
    let of_tile = index * OF_TILE;
    let (row, start, end) = (
        spans[of_tile] as usize,
        spans[of_tile + 1] as usize,
        spans[of_tile + 2] as usize,
    );
    let (first_key, last_key) = (spans[of_tile + 3] as usize, spans[of_tile + 4] as usize);
    let (queries, keys) = (lengths.queries as usize, lengths.keys as usize);
    let (own, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);

    let mut of_query =
        Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut of_keys =
        Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut weights = Shared::<[f32]>::new_slice(comptime![form.tile * (form.tile + 1)]);
    let weights_of_own = own * comptime![form.tile + 1];

    let (query_step, key_step) = (heads * form.width, kv_heads * form.width);
    let query_start = (row * queries + start) * query_step + head * form.width;
    let key_start = row * keys * key_step + head / (heads / kv_heads) * form.width;
    load::<F, N>(
        query,
        &mut of_query,
        query_start,
        query_step,
        end - start,
        scoring.scale,
        form,
    );

    // The keys that the own query sees, none where there is no own query.
    let mut from = last_key;
    let mut to = last_key;
    if own < end - start {
        let seen = lengths.tiles as usize * OF_TILE + OF_QUERY * (row * queries + start + own);
        from = spans[seen] as usize;
        to = spans[seen + 1] as usize;
    }
    let mut largest = f32::new(-1e30);
    let mut sum = 0.0f32;
    let mut mixed = zeros::<N>(form);
    let mut at = first_key;
    while at < last_key {
        let rows = min(form.tile, last_key - at);
        // What is seen of this tile, counted from its first key.
        let (begin, stop) = (min(max(from, at) - at, rows), min(max(to, at) - at, rows));
        sync_cube();
        load::<F, N>(
            key,
            &mut of_keys,
            key_start + at * key_step,
            key_step,
            rows,
            1.0f32,
            form,
        );
        sync_cube();
        let mut place = lane;
        while place < form.tile {
            if place >= begin && place < stop {
                let (score, _slope) = scored(
                    dot::<N>(&of_query, own, &of_keys, place, form),
                    scoring,
                    form,
                );
                weights[weights_of_own + place] = score;
            }
            place += LANES;
        }
        sync_cube();
        load::<F, N>(
            value,
            &mut of_keys,
            key_start + at * key_step,
            key_step,
            rows,
            1.0f32,
            form,
        );
        let before = largest;
        for place in begin..stop {
            largest = max(largest, weights[weights_of_own + place]);
        }
        sync_cube();
        let mut place = lane;
        while place < form.tile {
            if place >= begin && place < stop {
                let score = weights[weights_of_own + place];
                weights[weights_of_own + place] = (score - largest).exp();
            }
            place += LANES;
        }
        sync_cube();
        let shrink = (before - largest).exp();
        sum *= shrink;
        #[unroll]
        for index in 0..form.own {
            mixed[index] *= Vector::new(shrink);
        }
        for place in begin..stop {
            let weight = weights[weights_of_own + place];
            sum += weight;
            add::<N>(&mut mixed, weight, &of_keys, place, lane, form);
        }
        at += form.tile;
    }
    if own < end - start {
        store::<F, N>(
            &mixed,
            1.0f32 / sum,
            output,
            query_start + own * query_step,
            lane,
            form,
        );
        if lane == 0 {
            log_sums[(row * queries + start + own) * heads + head] = largest + sum.ln();
        }
    }
}

/// Returns the result of attention and the logarithm of the sum of each query's exponentials, f32,
/// [batch, queries, heads].
pub(in crate::ops) fn forward(
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    seen: &KeyRange,
    score: Score,
) -> (CubeTensor, CubeTensor) {
    let [query, key, value] = [query, key, value].map(into_contiguous);
    let sizes = seen.sizes;
    let (form, size) = KernelShape::new(&query, &score, 2, 1);
    let spans = Spans::of_queries(seen, form.tile);
    count(2 * spans.pairs * sizes.heads * sizes.width);
    let output = empty(&query, query.shape(), query.dtype);
    let log_sums = empty(
        &query,
        [sizes.batch, sizes.queries, sizes.heads],
        DType::F32,
    );
    let (client, element) = (query.client.clone(), element(&query));
    let lengths = lengths(&spans, sizes, form);
    let of_spans = upload(&query, &spans.numbers);
    let args = [
        query,
        key,
        value,
        of_spans,
        output.clone(),
        log_sums.clone(),
    ]
    .map(CubeTensor::into_buffer_arg);
    let ([query, key, value, of_spans, to, sums], cubes) = (args, cubes(spans.tiles * sizes.heads));
    let scoring = scoring(&score);
    mix::launch(
        &client,
        cubes,
        form.cube(),
        size,
        query,
        key,
        value,
        of_spans,
        to,
        sums,
        lengths,
        scoring,
        form,
        element,
    );
    (output, log_sums)
}
