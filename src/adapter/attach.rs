//! Adapters onto a decoder, and their numbers back out of it.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::experts::joined;
use super::{Error, LoraConfig, Target};
use crate::files::safetensors::Named;
use crate::model::Decoder;
use crate::nn::lora::{Lora, Part, initial};
use crate::nn::projection::Projection;
use crate::terms::Method;

/// The numbers of A [r, in] and B [out, r] by module, as PEFT's files have them.
pub type Numbers = BTreeMap<String, [Vec<f32>; 2]>;

/// Attaches an adapter to every projection that the config chooses: with the numbers given, or with PEFT's initial
/// distribution (A from draws keyed by `seed`, B zero unless the config says otherwise). Whatever was attached before is taken off.
///
/// # Errors
/// See [`LoraConfig::resolve`].
pub fn attach(decoder: &mut Decoder, config: &LoraConfig, seed: u64, numbers: Option<&Numbers>) -> Result<(), Error> {
    let names: Vec<String> = decoder.projections().map(|projection| projection.name.clone()).collect();
    let targets = config.resolve(&names)?;
    let device = decoder.device();
    for projection in decoder.projections_mut() {
        let target = targets.iter().find(|target| target.module == projection.name);
        projection.lora = target.map(|target| match numbers.and_then(|numbers| numbers.get(&target.module)) {
            Some(numbers) => stored(target, projection, numbers, &device),
            None => fresh(target, projection, config.init_lora_weights, seed, &device),
        });
    }
    // Maps of one parameter share an A.
    decoder.blocks.iter_mut().for_each(|block| block.visit(Method::Lora, &mut |_, _| {}));
    Ok(())
}

/// A drawn; B zero, or drawn too.
fn fresh(target: &Target, projection: &Projection, b_is_zero: bool, seed: u64, device: &Device) -> Lora {
    let (inputs, outputs, rank) = (projection.inputs(), projection.outputs(), target.rank);
    let drawn = |part: &str, shape: [usize; 2]| {
        let values = initial(seed, &format!("{}.{part}", target.drawn_by(part)), shape[0], shape[1]);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    };
    let b = if b_is_zero { Tensor::zeros([rank, outputs], (device, DType::F32)) } else { drawn("lora_B", [rank, outputs]) };
    Lora { a: drawn("lora_A", [inputs, rank]), b, scale: target.scale, part: target.part }
}

/// A and B from PEFT's orientation to ours.
fn stored(target: &Target, projection: &Projection, [a, b]: &[Vec<f32>; 2], device: &Device) -> Lora {
    let (inputs, outputs, rank) = (projection.inputs(), projection.outputs(), target.rank);
    Lora { a: turned(a, rank, inputs, device), b: turned(b, outputs, rank, device), scale: target.scale, part: target.part }
}

/// The transpose of [rows, columns].
fn turned(values: &[f32], rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let turned: Vec<f32> = (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect();
    Tensor::from_data(TensorData::new(turned, [columns, rows]), (device, DType::F32))
}

/// Rows of numbers, one for each A and B that is attached and in the decoder's order, as PEFT's tensors:
/// `base_model.model.<module>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r], by name.
pub fn tensors(decoder: &Decoder, numbers: &[Tensor<1>]) -> Vec<Named> {
    let named = decoder.named(numbers).into_iter();
    let stacked: BTreeSet<&str> =
        decoder.adapters().filter(|(_, lora)| lora.part != Part::Whole).map(|(module, _)| module).collect();
    let named = joined(named.collect(), |module| stacked.contains(module)).into_iter();
    let mut tensors: Vec<Named> =
        named.map(|(name, shape, values)| (format!("base_model.model.{name}"), shape, values)).collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    tensors
}
