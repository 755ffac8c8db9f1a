//! Attention in tiles of a backend's own operations: the reference for testing the CPU's.

use std::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{DType, Shape, TensorData};

use super::key_range::{KeyRange, SeenKeys, Sizes};
use super::score::Score;
use super::sizes;
use crate::ops::product::Product;

/// The score of a key that is not seen; differences and exponentials of it are finite.
const UNSEEN: f32 = -1e30;

/// The operands of attention.
pub(super) struct AttentionInputs<'a, B: Backend> {
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    seen: KeyRange<'a>,
    score: Score,
}

impl<'a, B: Backend> AttentionInputs<'a, B> {
    pub(super) fn new(
        query: FloatTensor<B>,
        key: FloatTensor<B>,
        value: FloatTensor<B>,
        seen: &'a [SeenKeys],
        score: Score,
    ) -> Self {
        let seen = KeyRange {
            sizes: sizes::<B>(&query, &key, seen),
            seen,
        };
        Self {
            query,
            key,
            value,
            seen,
            score,
        }
    }
}

fn tiles(length: usize, tile: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..length)
        .step_by(tile)
        .map(move |start| start..length.min(start + tile))
}

/// Reshapes places of a tensor [batch, length, kv heads · group, width] into rows of its kv heads,
/// [batch, kv heads, group · places, width].
fn rows<B: Backend>(
    tensor: &FloatTensor<B>,
    places: &Range<usize>,
    kv_heads: usize,
) -> FloatTensor<B> {
    let [batch, _, heads, width] = tensor.shape().dims();
    let group = heads / kv_heads;
    let part = B::float_slice(
        tensor.clone(),
        &[
            (0..batch).into(),
            places.clone().into(),
            (0..heads).into(),
            (0..width).into(),
        ],
    );
    let part = B::float_reshape(
        part,
        Shape::new([batch, places.len(), kv_heads, group, width]),
    );
    let part = B::float_permute(part, &[0, 2, 3, 1, 4]);
    B::float_reshape(
        part,
        Shape::new([batch, kv_heads, group * places.len(), width]),
    )
}

/// The inverse of [`rows`].
fn places<B: Backend>(rows: FloatTensor<B>, group: usize) -> FloatTensor<B> {
    let [batch, kv_heads, count, width] = rows.shape().dims();
    let parts = B::float_reshape(
        rows,
        Shape::new([batch, kv_heads, group, count / group, width]),
    );
    let parts = B::float_permute(parts, &[0, 3, 1, 2, 4]);
    B::float_reshape(
        parts,
        Shape::new([batch, count / group, kv_heads * group, width]),
    )
}

/// The visible part of a tile.
enum Sight<B: Backend> {
    Nothing,
    Everything,
    /// A mask, true where a query must not look, [batch, kv heads, group · queries, keys].
    But(BoolTensor<B>),
}

fn sight<B: Backend>(
    inputs: &AttentionInputs<B>,
    queries: &Range<usize>,
    keys: &Range<usize>,
) -> Sight<B> {
    let sizes = inputs.seen.sizes;
    let within = |row: usize, query: usize| inputs.seen.within(row, query, keys);
    let all = || (0..sizes.batch).flat_map(|row| queries.clone().map(move |query| (row, query)));
    if all().all(|(row, query)| within(row, query).is_empty()) {
        return Sight::Nothing;
    }
    if all().all(|(row, query)| within(row, query) == (0..keys.len())) {
        return Sight::Everything;
    }
    let mut hidden = Vec::with_capacity(sizes.batch * sizes.group() * queries.len() * keys.len());
    for row in 0..sizes.batch {
        for query in (0..sizes.group()).flat_map(|_| queries.clone()) {
            let seen = within(row, query);
            hidden.extend((0..keys.len()).map(|key| !seen.contains(&key)));
        }
    }
    let shape = [sizes.batch, 1, sizes.group() * queries.len(), keys.len()];
    let device = inputs.query.device();
    // GPUs keep bools as integers.
    let dtype = get_device_settings::<B>(&device).bool_dtype;
    let hidden = B::bool_from_data(
        TensorData::new(hidden, shape).convert_dtype(dtype.into()),
        &device,
    );
    Sight::But(B::bool_expand(
        hidden,
        Shape::new([sizes.batch, sizes.kv_heads, shape[2], shape[3]]),
    ))
}

fn hide<B: Backend>(tensor: FloatTensor<B>, sight: &Sight<B>, value: f32) -> FloatTensor<B> {
    match sight {
        Sight::But(hidden) => B::float_mask_fill(tensor, hidden.clone(), value.into()),
        Sight::Nothing | Sight::Everything => tensor,
    }
}

/// Returns z for rows of scaled queries and keys, and dz/ds where a cap makes it differ from 1.
fn scores<B: Backend + Product>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    score: Score,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    // [batch, kv heads, group · queries, keys]
    let scores = product::<B>(query, B::float_transpose(key));
    let Some(softcap) = score.softcap else {
        return (scores, None);
    };
    let share = B::float_tanh(B::float_div_scalar(scores, softcap.into()));
    let slope = B::float_add_scalar(
        B::float_neg(B::float_mul(share.clone(), share.clone())),
        1.0.into(),
    );
    (B::float_mul_scalar(share, softcap.into()), Some(slope))
}

/// Returns the output [batch, queries, heads, width] and the logarithms of the sums, [batch,
/// queries, heads].
pub(super) fn forward<B: Backend + Product>(
    inputs: &AttentionInputs<B>,
    tile: usize,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        ..
    } = inputs.seen.sizes;
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for of_queries in tiles(queries, tile) {
        let query = B::float_mul_scalar(
            rows::<B>(&inputs.query, &of_queries, kv_heads),
            inputs.score.scale.into(),
        );
        let column = Shape::new([batch, kv_heads, heads / kv_heads * of_queries.len(), 1]);
        let start = |value: f32| {
            B::float_full(
                column.clone(),
                value.into(),
                &query.device(),
                query.dtype().into(),
            )
        };
        let (mut largest, mut sum) = (start(UNSEEN), start(0.0));
        let mut mixed = B::float_zeros(query.shape(), &query.device(), query.dtype().into());
        for of_keys in tiles(keys, tile) {
            let sight = sight(inputs, &of_queries, &of_keys);
            if matches!(sight, Sight::Nothing) {
                continue;
            }
            let [key, value] =
                [&inputs.key, &inputs.value].map(|tensor| rows::<B>(tensor, &of_keys, kv_heads));
            let scores = hide(
                scores::<B>(query.clone(), key, inputs.score).0,
                &sight,
                UNSEEN,
            );
            let now = B::float_max_dim(
                B::float_cat(
                    vec![largest.clone(), B::float_max_dim(scores.clone(), 3)],
                    3,
                ),
                3,
            );
            let shrink = B::float_exp(B::float_sub(largest, now.clone()));
            let weights = hide(B::float_exp(B::float_sub(scores, now.clone())), &sight, 0.0);
            sum = B::float_add(
                B::float_mul(sum, shrink.clone()),
                B::float_sum_dim(weights.clone(), 3),
            );
            mixed = B::float_add(B::float_mul(mixed, shrink), product::<B>(weights, value));
            largest = now;
        }
        let group = heads / kv_heads;
        outputs.push(places::<B>(B::float_div(mixed, sum.clone()), group));
        log_sums.push(places::<B>(B::float_add(largest, B::float_log(sum)), group));
    }
    let log_sums = B::float_reshape(
        B::float_cat(log_sums, 1),
        Shape::new([batch, queries, heads]),
    );
    (B::float_cat(outputs, 1), log_sums)
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, part: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, part),
        None => part,
    });
}

/// Returns dQ, dK and dV.
pub(super) fn backward<B: Backend + Product>(
    inputs: &AttentionInputs<B>,
    output: FloatTensor<B>,
    log_sums: FloatTensor<B>,
    gradient: FloatTensor<B>,
    tile: usize,
) -> [FloatTensor<B>; 3] {
    let Sizes {
        batch,
        queries,
        keys,
        heads,
        kv_heads,
        ..
    } = inputs.seen.sizes;
    let along = B::float_sum_dim(B::float_mul(output, gradient.clone()), 3); // D = rowsum(dO ∘ O)
    let log_sums = B::float_reshape(log_sums, Shape::new([batch, queries, heads, 1]));
    let mut of_queries: Vec<Option<FloatTensor<B>>> = tiles(queries, tile).map(|_| None).collect();
    let (mut of_keys, mut of_values) = (Vec::new(), Vec::new());
    for key_tile in tiles(keys, tile) {
        let [key, value] =
            [&inputs.key, &inputs.value].map(|tensor| rows::<B>(tensor, &key_tile, kv_heads));
        let (mut dk, mut dv) = (None, None);
        for (query_tile, dq) in tiles(queries, tile).zip(&mut of_queries) {
            let sight = sight(inputs, &query_tile, &key_tile);
            if matches!(sight, Sight::Nothing) {
                continue;
            }
            let [query, log_sums, along, gradient] = [&inputs.query, &log_sums, &along, &gradient]
                .map(|tensor| rows::<B>(tensor, &query_tile, kv_heads));
            let query = B::float_mul_scalar(query, inputs.score.scale.into());
            let (scores, slope) = scores::<B>(query.clone(), key.clone(), inputs.score);
            let weights = hide(
                B::float_exp(B::float_sub(hide(scores, &sight, UNSEEN), log_sums)),
                &sight,
                0.0,
            ); // P
            // dP
            let of_weights = product::<B>(gradient.clone(), B::float_transpose(value.clone()));
            // P ∘ (dP - D)
            let of_scores = B::float_mul(weights.clone(), B::float_sub(of_weights, along));
            let of_scores = match slope {
                Some(slope) => B::float_mul(of_scores, slope),
                None => of_scores,
            };
            add::<B>(dq, product::<B>(of_scores.clone(), key.clone()));
            add::<B>(&mut dk, product::<B>(B::float_transpose(of_scores), query));
            add::<B>(&mut dv, product::<B>(B::float_transpose(weights), gradient));
        }
        // A key that no query sees has no gradient.
        let whole = |sum: Option<FloatTensor<B>>| {
            sum.unwrap_or_else(|| B::float_zeros(key.shape(), &key.device(), key.dtype().into()))
        };
        of_keys.push(places::<B>(whole(dk), 1));
        of_values.push(places::<B>(whole(dv), 1));
    }
    let scaled = |dq: FloatTensor<B>| {
        places::<B>(
            B::float_mul_scalar(dq, inputs.score.scale.into()),
            heads / kv_heads,
        )
    };
    let of_queries = of_queries
        .into_iter()
        .map(|dq| scaled(dq.expect("a query sees itself")))
        .collect();
    [
        B::float_cat(of_queries, 1),
        B::float_cat(of_keys, 1),
        B::float_cat(of_values, 1),
    ]
}

fn product<B: Product>(left: FloatTensor<B>, right: FloatTensor<B>) -> FloatTensor<B> {
    B::product(left, right, DType::F32)
}
