//! Attaches adapters to a decoder, and reads their numbers back.

use std::collections::BTreeSet;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::experts::joined;
use super::numbers::{INITIAL, Numbers};
use super::{AdapterError, LoraConfig, ScoreConfig, Target, table_weights};
use crate::files::safetensors::Named;
use crate::model::{Decoder, LinearSpec, Role};
use crate::nn::lora::{Lora, Portion, Vector, initial, initial_normal};
use crate::nn::magnitude::Magnitude;
use crate::nn::trainable_table::TrainableTable;
use crate::ops::Base;
use crate::terms::AdapterVector;

/// Attaches an adapter to every module that the config chooses: with the numbers given, or with
/// PEFT's initial distribution (A from draws keyed by `seed`, B zero unless the config says
/// otherwise; for the embedding A is zero).
///
/// A score head is attached too, fresh where the numbers have none. Nothing else trains. Adapters
/// that were attached before are removed, except that a table which trained whole keeps its
/// numbers.
///
/// # Errors
/// See [`LoraConfig::resolve`], [`LoraConfig::check_vector`] and [`LoraConfig::table_targets`]; or
/// a table is kept in a way in which it cannot train, or the score head is none of this
/// architecture.
pub fn attach(
    decoder: &mut Decoder,
    config: &LoraConfig,
    seed: u64,
    numbers: Option<&Numbers>,
) -> Result<(), AdapterError> {
    let (modules, device) = (decoder.spec.modules(), decoder.device());
    let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
    let targets = config.resolve(&names)?;
    config.check_vector(&modules)?;
    decoder.freeze();
    let lora = |linear: &LinearSpec| {
        let target = targets.iter().find(|target| target.module == linear.name)?;
        Some(
            match numbers.and_then(|numbers| numbers.get(&target.module)) {
                Some(numbers) => stored(target, linear, numbers, &device),
                None => fresh(target, linear, config.init_lora_weights, seed, &device),
            },
        )
    };
    let projections = modules.iter().filter(|linear| !linear.is_table());
    for (projection, linear) in decoder.projections_mut().zip(projections) {
        debug_assert_eq!(projection.name, linear.name);
        projection.lora = lora(linear).map(|plain| {
            let vector =
                vector(config, seed, numbers, (linear, &projection.weight), &plain).map(Box::new);
            let initial =
                numbers.and_then(|numbers| numbers.get(&format!("{}.{INITIAL}", linear.name)));
            let initial = initial.map(|[a, b]| {
                let [rank, outputs] = plain.b.dims();
                Box::new([
                    turned(a, rank, linear.inputs, &device),
                    turned(b, outputs, rank, &device),
                ])
            });
            Lora {
                vector,
                initial,
                ..plain
            }
        });
    }
    // Maps of one parameter share an A.
    decoder
        .blocks
        .iter_mut()
        .for_each(|block| block.visit(&mut |_, _| {}));
    numbers.map_or(Ok(()), |numbers| {
        table_weights::put_bases(decoder, &modules, numbers)
    })?;
    for linear in modules.iter().filter(|linear| linear.is_table()) {
        let table = if linear.role == Role::Embedding {
            &mut decoder.embedding
        } else {
            &mut decoder.head.table
        };
        table.own = lora(linear).map(TrainableTable::Lora);
    }
    table_weights::attach(decoder, &config.table_targets(&modules)?, numbers)?;
    decoder.scores = config
        .score
        .as_ref()
        .map(|score| score.head(decoder, seed, numbers))
        .transpose()?;
    Ok(())
}

/// Attaches the score head that a model has of its own.
///
/// # Errors
/// It is none of this architecture.
pub fn attach_scores(decoder: &mut Decoder, score: &ScoreConfig) -> Result<(), AdapterError> {
    decoder.scores = Some(score.head(decoder, 0, None)?);
    Ok(())
}

/// Draws A; B is zero, or drawn too. For an embedding the roles are swapped, and draws are from the
/// normal distribution.
fn fresh(
    target: &Target,
    linear: &LinearSpec,
    leaves_base: bool,
    seed: u64,
    device: &Device,
) -> Lora {
    let (inputs, outputs, rank) = (linear.inputs, linear.outputs, target.rank);
    let is_embedding = linear.role == Role::Embedding;
    let matrix = |part: &str, shape: [usize; 2], is_zero: bool| {
        let name = format!("{}.{part}", target.drawn_by(part));
        let values = match (is_zero, is_embedding) {
            (true, _) => return Tensor::zeros(shape, (device, DType::F32)),
            (false, true) => initial_normal(seed, &name, shape[0] * shape[1]),
            (false, false) => initial(seed, &name, shape[0], shape[1]),
        };
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    };
    let a = matrix("lora_A", [inputs, rank], is_embedding && leaves_base);
    let b = matrix("lora_B", [rank, outputs], !is_embedding && leaves_base);
    Lora {
        a,
        b,
        scale: target.scale,
        portion: target.portion,
        vector: None,
        initial: None,
    }
}

/// Makes the vector of an adapter: with the numbers given, or such that nothing changes, or a bias
/// that is drawn as B is.
fn vector(
    config: &LoraConfig,
    seed: u64,
    numbers: Option<&Numbers>,
    (linear, weight): (&LinearSpec, &Base),
    plain: &Lora,
) -> Option<Vector> {
    let (kind, [rank, outputs]) = (config.vector?, plain.b.dims());
    let name = format!("{}.{}", linear.name, kind.name());
    let tensor = |values: &[f32]| {
        Tensor::<1>::from_data(TensorData::from(values), (&plain.a.device(), DType::F32))
    };
    let given = numbers
        .and_then(|numbers| numbers.get(&name))
        .map(|[values, _]| tensor(values));
    Some(match (kind, given) {
        (AdapterVector::Magnitude, given) => {
            Vector::Magnitude(Magnitude::new(weight, plain.adapter(), given))
        }
        (AdapterVector::Bias, Some(given)) => Vector::Bias(given),
        (AdapterVector::Bias, None) if config.init_lora_weights => {
            Vector::Bias(tensor(&vec![0.0; outputs]))
        }
        (AdapterVector::Bias, None) => {
            Vector::Bias(tensor(&initial(seed, &name, rank, outputs)[..outputs]))
        }
    })
}

/// Turns A and B from PEFT's orientation into ours.
fn stored(target: &Target, linear: &LinearSpec, [a, b]: &[Vec<f32>; 2], device: &Device) -> Lora {
    let (inputs, outputs, rank) = (linear.inputs, linear.outputs, target.rank);
    Lora {
        a: turned(a, rank, inputs, device),
        b: turned(b, outputs, rank, device),
        scale: target.scale,
        portion: target.portion,
        vector: None,
        initial: None,
    }
}

/// Returns the transpose of [rows, columns].
fn turned(values: &[f32], rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let turned: Vec<f32> = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect();
    Tensor::from_data(
        TensorData::new(turned, [columns, rows]),
        (device, DType::F32),
    )
}

/// Turns rows of numbers, one for each weight that trains and in the decoder's order, into PEFT's
/// tensors by name: `base_model.model.<module>.lora_A.weight` [r, in], `.lora_B.weight` [out, r],
/// their vectors [out], and those of embedding and head.
pub fn tensors(decoder: &Decoder, numbers: &[Tensor<1>]) -> Vec<Named> {
    let named = decoder.named(numbers).into_iter();
    let stacked: BTreeSet<&str> = decoder
        .adapters()
        .filter(|(_, lora)| lora.portion != Portion::Whole)
        .map(|(module, _)| module)
        .collect();
    let named = joined(named.collect(), |module| stacked.contains(module)).into_iter();
    let mut tensors: Vec<Named> = named
        .map(|(name, shape, values)| (format!("base_model.model.{name}"), shape, values))
        .collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    tensors
}
