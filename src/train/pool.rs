//! Steps of embedders. The loss of a text depends on every other text of the optimizer step,
//! whatever the micro-batches: vectors of all of them are read without tapes first and judged once,
//! and then each micro-batch runs again with the slopes of its own vectors, Gao et al. 2021,
//! arXiv:2101.06983. Dropout masks are keyed by rows, so both passes have the same. A step of one
//! micro-batch runs once.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};

use super::gradients::Gradients;
use super::micro_batch::{Loss, StepConfig, token_keys};
use super::observe::Observer;
use super::walk::{Walk, frame, ids};
use crate::data::Batch;
use crate::model::Decoder;
use crate::nn::head::HeadGradients;
use crate::nn::pooler::{pool, pool_backward, runs};
use crate::nn::readout::ReadoutGradients;
use crate::objective::{Contrastive, Judged};
use crate::terms::{Slopes, Unit, UnitKind};

/// Adds the gradients of a step's micro-batches to `gradients` and returns its loss. A loss that is
/// not finite adds nothing.
///
/// `stream` is the seed and epoch of the dropout masks.
pub fn pooled_backward(
    decoder: &Decoder,
    batches: &[Batch],
    loss: &Contrastive,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
    observer: &mut impl Observer,
) -> Loss {
    let judged = match batches {
        [] => return Loss::default(),
        [batch] => {
            let judge = |vectors: &[f32]| loss.judge(vectors, &batch.units);
            backward(decoder, batch, config, stream, gradients, observer, judge)
        }
        batches => {
            let of = |batch: &Batch| vectors_with(decoder, batch, config.dropout, stream);
            let vectors: Vec<Vec<f32>> = batches.iter().map(of).collect();
            let units: Vec<Unit> = batches
                .iter()
                .flat_map(|batch| batch.units.clone())
                .collect();
            let judged = loss.judge(&vectors.concat(), &units);
            let mut slopes = match &judged.slopes {
                Slopes::Each(slopes) => &slopes[..],
                Slopes::Same(_) => &[],
            };
            for (batch, vectors) in batches.iter().zip(&vectors) {
                let (own, rest) = slopes.split_at(vectors.len().min(slopes.len()));
                slopes = rest;
                let judge = |_: &[f32]| Judged {
                    slopes: Slopes::Each(own.to_vec()),
                    ..judged.clone()
                };
                backward(decoder, batch, config, stream, gradients, observer, judge);
            }
            judged
        }
    };
    Loss {
        sum: judged.loss_sum,
        weight: judged.weight,
        trained_tokens: batches.iter().map(Batch::trained_tokens).sum(),
        figures: judged.figures,
    }
}

/// Runs a micro-batch forward, judges its vectors and runs it backward.
fn backward(
    decoder: &Decoder,
    batch: &Batch,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
    observer: &mut impl Observer,
    judge: impl FnOnce(&[f32]) -> Judged,
) -> Judged {
    let texts = texts_of(batch);
    if texts.is_empty() {
        gradients.push(None);
        return judge(&[]);
    }
    let dropout = (config.dropout > 0.0).then(|| (config.dropout, token_keys(batch, stream)));
    let (walk, hidden) = Walk::forward(decoder, batch, dropout, None, config.memory, observer);
    let shape = hidden.shape(); // [1, pooled, width]
    let hidden: Tensor<2> = hidden.squeeze_dim(0);
    let norm = &decoder.head.norm;
    let vectors = pool(norm, &hidden, &texts);
    let (size, device) = (vectors.dims(), vectors.device());
    let judged = judge(&vectors.into_data().iter().collect::<Vec<f32>>());
    let (true, Slopes::Each(slopes)) = (judged.loss_sum.is_finite(), &judged.slopes) else {
        walk.abandon();
        gradients.push(None);
        return judged;
    };
    let d_vectors =
        Tensor::<2>::from_data(TensorData::new(slopes.clone(), size), (&device, DType::F32))
            .mul_scalar(gradients.loss_scale());
    let (input, of_norm) = pool_backward(norm, hidden, &texts, d_vectors);
    let of_readout = ReadoutGradients::Tokens(HeadGradients {
        input,
        norm: of_norm,
        table: Vec::new(),
        bias: Vec::new(),
    });
    let mut sum = gradients.zeros(decoder);
    let of_hidden = sum.add_readout(decoder, of_readout, observer);
    let of_load = walk.balance().map(|balance| {
        let none = balance.clone().scaled(0.0);
        none.gradient(gradients.loss_scale())
    });
    walk.backward(
        of_hidden.reshape(shape),
        of_load.as_deref(),
        &mut sum,
        observer,
    );
    gradients.push(Some(sum));
    judged
}

/// Returns the vector of each text of a batch, one after the other, without a tape and without
/// dropout.
pub fn vectors_of(decoder: &Decoder, batch: &Batch) -> Vec<f32> {
    vectors_with(decoder, batch, 0.0, [0; 2])
}

fn vectors_with(decoder: &Decoder, batch: &Batch, dropout: f64, stream: [u64; 2]) -> Vec<f32> {
    let texts = texts_of(batch);
    if texts.is_empty() {
        return Vec::new();
    }
    let dropout = (dropout > 0.0).then(|| (dropout, token_keys(batch, stream)));
    let frame = frame(decoder, batch, dropout);
    let hidden = decoder.hidden(ids(decoder, batch), &frame);
    let vectors = pool(&decoder.head.norm, &hidden.squeeze_dim(0), &texts);
    vectors.into_data().iter().collect()
}

/// Returns the pooled rows of each text.
fn texts_of(batch: &Batch) -> Vec<Range<usize>> {
    let of_unit = |unit: &Unit| match &unit.kind {
        UnitKind::Texts(texts) => texts.iter().map(|(end, _)| *end).collect(),
        _ => Vec::new(),
    };
    let ends: Vec<usize> = batch.units.iter().flat_map(of_unit).collect();
    runs(&ends)
}
