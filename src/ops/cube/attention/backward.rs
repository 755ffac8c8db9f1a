//! Backward of attention: a pass over tiles of queries computes dQ, one over tiles of keys dK and
//! dV. Both recompute the weights from the kept sums.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::attention::{KeyRange, Score};
use super::super::super::product::count;
use super::super::{Extent, across, cubes, element, empty, extent, units, upload};
use super::spans::{OF_QUERY, OF_TILE, Spans};
use super::tile::{add, dot, load, scored, store, zeros};
use super::{KernelShape, LANES, Lengths, Scoring, lengths, scoring};

/// Computes, for each query and head, the logarithm of its sum and D = dO · O, side by side: that
/// saves binding a buffer.
#[cube(launch)]
fn sums_of<F: Float, N: Size>(
    output: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    log_sums: &[f32],
    sums: &mut [f32],
    extent: &Extent,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < extent.rows as usize {
        let width = extent.width as usize;
        let start = ABSOLUTE_POS * width;
        let mut products = Vector::<f32, N>::new(0.0f32);
        for at in start..start + width {
            products +=
                Vector::<f32, N>::cast_from(output[at]) * Vector::<f32, N>::cast_from(gradient[at]);
        }
        sums[2 * ABSOLUTE_POS] = log_sums[ABSOLUTE_POS];
        sums[2 * ABSOLUTE_POS + 1] = across::<N>(products);
    }
}

/// Returns P = e^(z - L) and dS = P (dP - D) dz/ds of a query and a key, given their products and
/// the query's place in `sums`.
#[cube]
fn weighed(
    product: f32,
    of_weight: f32,
    sums: &[f32],
    at: usize,
    scoring: &Scoring,
    #[comptime] form: KernelShape,
) -> (f32, f32) {
    let (score, slope) = scored(product, scoring, form);
    let weight = (score - sums[2 * at]).exp();
    (weight, weight * (of_weight - sums[2 * at + 1]) * slope)
}

#[cube(launch)]
fn queries_of<F: Float, N: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    sums: &[f32],
    spans: &[u32],
    of_queries: &mut [Vector<F, N>],
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

    let mut q = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut g = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut k = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut v = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut of_scores = Shared::<[f32]>::new_slice(comptime![form.tile * (form.tile + 1)]);
    let scores_of_own = own * comptime![form.tile + 1];

    let (query_step, key_step) = (heads * form.width, kv_heads * form.width);
    let query_start = (row * queries + start) * query_step + head * form.width;
    let key_start = row * keys * key_step + head / (heads / kv_heads) * form.width;
    load::<F, N>(
        query,
        &mut q,
        query_start,
        query_step,
        end - start,
        scoring.scale,
        form,
    );
    load::<F, N>(
        gradient,
        &mut g,
        query_start,
        query_step,
        end - start,
        1.0f32,
        form,
    );

    let mut from = last_key;
    let mut to = last_key;
    if own < end - start {
        let seen = lengths.tiles as usize * OF_TILE + OF_QUERY * (row * queries + start + own);
        from = spans[seen] as usize;
        to = spans[seen + 1] as usize;
    }
    let of_own = (row * queries + start + own) * heads + head;
    let mut dq = zeros::<N>(form);
    let mut at = first_key;
    while at < last_key {
        let rows = min(form.tile, last_key - at);
        let (begin, stop) = (min(max(from, at) - at, rows), min(max(to, at) - at, rows));
        sync_cube();
        load::<F, N>(
            key,
            &mut k,
            key_start + at * key_step,
            key_step,
            rows,
            1.0f32,
            form,
        );
        load::<F, N>(
            value,
            &mut v,
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
                let product = dot::<N>(&q, own, &k, place, form);
                let of_weight = dot::<N>(&g, own, &v, place, form);
                let (_weight, of_score) = weighed(product, of_weight, sums, of_own, scoring, form);
                of_scores[scores_of_own + place] = of_score;
            }
            place += LANES;
        }
        sync_cube();
        for place in begin..stop {
            add::<N>(
                &mut dq,
                of_scores[scores_of_own + place],
                &k,
                place,
                lane,
                form,
            );
        }
        at += form.tile;
    }
    if own < end - start {
        store::<F, N>(
            &dq,
            scoring.scale,
            of_queries,
            query_start + own * query_step,
            lane,
            form,
        );
    }
}

/// Computes dK and, after all of it, dV, in one buffer: that saves binding another.
#[cube(launch)]
fn keys_of<F: Float, N: Size>(
    query: &[Vector<F, N>],
    key: &[Vector<F, N>],
    value: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    sums: &[f32],
    spans: &[u32],
    of_keys_and_values: &mut [Vector<F, N>],
    lengths: &Lengths,
    scoring: &Scoring,
    #[comptime] form: KernelShape,
    #[define(F)] _element: ElemType,
) {
    let (heads, kv_heads) = (lengths.heads as usize, lengths.kv_heads as usize);
    let (index, kv_head) = (CUBE_POS / kv_heads, CUBE_POS % kv_heads);
    if index >= lengths.tiles as usize {
        terminate!();
    }
    let of_tile = index * OF_TILE;
    let (row, start, end) = (
        spans[of_tile] as usize,
        spans[of_tile + 1] as usize,
        spans[of_tile + 2] as usize,
    );
    let (first_query, last_query) = (spans[of_tile + 3] as usize, spans[of_tile + 4] as usize);
    let (queries, keys) = (lengths.queries as usize, lengths.keys as usize);
    let (own, lane) = (UNIT_POS as usize / LANES, UNIT_POS as usize % LANES);

    let mut q = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut g = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut k = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut v = Shared::<[Vector<f32, N>]>::new_slice(comptime![form.tile * (form.width + 1)]);
    let mut weights = Shared::<[f32]>::new_slice(comptime![form.tile * (form.tile + 1)]);
    let mut of_scores = Shared::<[f32]>::new_slice(comptime![form.tile * (form.tile + 1)]);
    let scores_of_own = own * comptime![form.tile + 1];

    let (query_step, key_step) = (heads * form.width, kv_heads * form.width);
    let key_start = (row * keys + start) * key_step + kv_head * form.width;
    load::<F, N>(key, &mut k, key_start, key_step, end - start, 1.0f32, form);
    load::<F, N>(
        value,
        &mut v,
        key_start,
        key_step,
        end - start,
        1.0f32,
        form,
    );

    let all_seen = lengths.tiles as usize * OF_TILE + OF_QUERY * row * queries;
    let own_key = start + own;
    let mut dk = zeros::<N>(form);
    let mut dv = zeros::<N>(form);
    for of_group in 0..heads / kv_heads {
        let head = kv_head * (heads / kv_heads) + of_group;
        let mut at = first_query;
        while at < last_query {
            let rows = min(form.tile, last_query - at);
            let query_start = (row * queries + at) * query_step + head * form.width;
            sync_cube();
            load::<F, N>(
                query,
                &mut q,
                query_start,
                query_step,
                rows,
                scoring.scale,
                form,
            );
            load::<F, N>(
                gradient,
                &mut g,
                query_start,
                query_step,
                rows,
                1.0f32,
                form,
            );
            sync_cube();
            let mut place = lane;
            while place < form.tile {
                let mut weight = 0.0f32;
                let mut of_score = 0.0f32;
                let seen = all_seen + OF_QUERY * min(at + place, last_query - 1);
                let is_seen = spans[seen] as usize <= own_key && own_key < spans[seen + 1] as usize;
                if place < rows && own_key < end && is_seen {
                    let product = dot::<N>(&q, place, &k, own, form);
                    let of_weight = dot::<N>(&g, place, &v, own, form);
                    let of_query = (row * queries + at + place) * heads + head;
                    let (p, ds) = weighed(product, of_weight, sums, of_query, scoring, form);
                    weight = p;
                    of_score = ds;
                }
                weights[scores_of_own + place] = weight;
                of_scores[scores_of_own + place] = of_score;
                place += LANES;
            }
            sync_cube();
            for place in 0..rows {
                let (weight, of_score) = (
                    weights[scores_of_own + place],
                    of_scores[scores_of_own + place],
                );
                // What is not seen may hold what is not a number.
                if weight != 0.0f32 {
                    add::<N>(&mut dv, weight, &g, place, lane, form);
                    add::<N>(&mut dk, of_score, &q, place, lane, form);
                }
            }
            at += form.tile;
        }
    }
    if own_key < end {
        store::<F, N>(
            &dk,
            1.0f32,
            of_keys_and_values,
            key_start + own * key_step,
            lane,
            form,
        );
        let values = lengths.all_keys as usize;
        store::<F, N>(
            &dv,
            1.0f32,
            of_keys_and_values,
            values + key_start + own * key_step,
            lane,
            form,
        );
    }
}

/// The operands and results of forward, and the gradient of its output.
pub(in crate::ops) struct Given {
    pub query: CubeTensor,
    pub key: CubeTensor,
    pub value: CubeTensor,
    pub output: CubeTensor,
    /// The logarithms of sums, f32, [batch, queries, heads].
    pub log_sums: CubeTensor,
    pub gradient: CubeTensor,
}

/// Returns dQ, dK and dV.
pub(in crate::ops) fn backward(given: Given, seen: &KeyRange, score: Score) -> [CubeTensor; 3] {
    let Given {
        query,
        key,
        value,
        output,
        log_sums,
        gradient,
    } = given;
    let [query, key, value, output, log_sums, gradient] =
        [query, key, value, output, log_sums, gradient].map(into_contiguous);
    let (sizes, element, client) = (seen.sizes, element(&query), query.client.clone());
    let (form, size) = KernelShape::new(&query, &score, 4, 2);

    let count_of_sums = log_sums.shape().num_elements();
    let sums = empty(&query, [2 * count_of_sums], DType::F32);
    let (of_units, cube) = units(&query, count_of_sums);
    let args = [output, gradient.clone(), log_sums, sums.clone()].map(CubeTensor::into_buffer_arg);
    let [output, by, log_sums, to] = args;
    sums_of::launch(
        &client,
        of_units,
        cube,
        size,
        output,
        by,
        log_sums,
        to,
        extent(count_of_sums, form.width),
        element,
    );

    let of_queries = empty(&query, query.shape(), query.dtype);
    let mut of_both = vec![2];
    of_both.extend(key.shape().iter());
    let of_both = empty(&query, Shape::from(of_both), key.dtype);
    let args = |spans: &Spans, to: &CubeTensor| {
        let spans = upload(&query, &spans.numbers);
        [&query, &key, &value, &gradient, &sums, &spans, to]
            .map(|tensor| tensor.clone().into_buffer_arg())
    };
    let spans = Spans::of_queries(seen, form.tile);
    count(3 * spans.pairs * sizes.heads * sizes.width);
    let ([q, k, v, g, s, f, to], cubes_of_queries) =
        (args(&spans, &of_queries), cubes(spans.tiles * sizes.heads));
    let (lengths_of_queries, cube) = (lengths(&spans, sizes, form), form.cube());
    queries_of::launch(
        &client,
        cubes_of_queries,
        cube,
        size,
        q,
        k,
        v,
        g,
        s,
        f,
        to,
        lengths_of_queries,
        scoring(&score),
        form,
        element,
    );

    let spans = Spans::of_keys(seen, form.tile);
    count(4 * spans.pairs * sizes.heads * sizes.width);
    let ([q, k, v, g, s, f, to], cubes_of_keys) =
        (args(&spans, &of_both), cubes(spans.tiles * sizes.kv_heads));
    let (lengths, scoring) = (lengths(&spans, sizes, form), scoring(&score));
    keys_of::launch(
        &client,
        cubes_of_keys,
        cube,
        size,
        q,
        k,
        v,
        g,
        s,
        f,
        to,
        lengths,
        scoring,
        form,
        element,
    );
    let half = |index: usize| {
        let half = Cube::float_slice(of_both.clone(), &[(index..index + 1).into()]);
        Cube::float_reshape(half, key.shape())
    };
    [of_queries, half(0), half(1)]
}
