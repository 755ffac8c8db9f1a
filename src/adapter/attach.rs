//! Adapters onto a decoder, and their numbers back out of it.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Error, LoraConfig, Target};
use crate::files::safetensors::Named;
use crate::model::Decoder;
use crate::nn::lora::{Lora, initial};
use crate::nn::projection::Projection;

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
    Ok(())
}

/// A drawn; B zero, or drawn too.
fn fresh(target: &Target, projection: &Projection, b_is_zero: bool, seed: u64, device: &Device) -> Lora {
    let (inputs, outputs, rank) = (projection.inputs(), projection.outputs(), target.rank);
    let drawn = |part: &str, shape: [usize; 2]| {
        let values = initial(seed, &format!("{}.{part}", target.module), shape[0], shape[1]);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    };
    let b = if b_is_zero { Tensor::zeros([rank, outputs], (device, DType::F32)) } else { drawn("lora_B", [rank, outputs]) };
    Lora { a: drawn("lora_A", [inputs, rank]), b, scale: target.scale }
}

/// Matrices [in, r] and [r, out] for every adapter that is attached, in the decoder's order: what [`tensors`] named, read back.
///
/// # Errors
/// An adapter has no numbers.
pub fn matrices(decoder: &Decoder, numbers: &Numbers) -> Result<Vec<[Tensor<2>; 2]>, Error> {
    let of = |(module, lora): (&str, &Lora)| {
        let [a, b] = numbers.get(module)?;
        let ([inputs, rank], [_, outputs], device) = (lora.a.dims(), lora.b.dims(), lora.a.device());
        Some([turned(a, rank, inputs, &device), turned(b, outputs, rank, &device)])
    };
    decoder.adapters().map(|adapter| of(adapter).ok_or_else(|| Error::NoNumbers { module: adapter.0.to_owned() })).collect()
}

/// A and B from PEFT's orientation to ours.
fn stored(target: &Target, projection: &Projection, [a, b]: &[Vec<f32>; 2], device: &Device) -> Lora {
    let (inputs, outputs, rank) = (projection.inputs(), projection.outputs(), target.rank);
    Lora { a: turned(a, rank, inputs, device), b: turned(b, outputs, rank, device), scale: target.scale }
}

/// The transpose of [rows, columns].
fn turned(values: &[f32], rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let turned: Vec<f32> = (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect();
    Tensor::from_data(TensorData::new(turned, [columns, rows]), (device, DType::F32))
}

/// Named matrices of every adapter in PEFT's orientation: `base_model.model.<module>.lora_A.weight` [r, in] and
/// `.lora_B.weight` [out, r]. `pick` takes the two matrices [in, r] and [r, out] of the adapter with that index.
pub fn tensors(decoder: &Decoder, pick: impl Fn(usize, &Lora) -> [Tensor<2>; 2]) -> Vec<Named> {
    let named = |(index, (module, lora)): (usize, (&str, &Lora))| {
        let [a, b] = pick(index, lora);
        [("lora_A", a), ("lora_B", b)].map(|(part, matrix)| {
            let matrix = matrix.transpose();
            let shape = matrix.dims().to_vec();
            (format!("base_model.model.{module}.{part}.weight"), shape, matrix.into_data().iter().collect())
        })
    };
    let mut tensors: Vec<Named> = decoder.adapters().enumerate().flat_map(named).collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    tensors
}
