//! Adapters onto a decoder, and their numbers back out of it.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Error, LoraConfig, Target};
use crate::files::safetensors::Named;
use crate::model::Decoder;
use crate::nn::lora::{Lora, Vector, initial};
use crate::nn::magnitude::Magnitude;
use crate::nn::projection::Projection;
use crate::terms::AdapterVector;

/// The numbers of adapters by module.
pub type Numbers = BTreeMap<String, Values>;

/// The numbers of one adapter, as PEFT's files have them.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// A [r, in] and B [out, r].
    pub matrices: [Vec<f32>; 2],
    /// [out], where it has one.
    pub vector: Option<Vec<f32>>,
}

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
            Some(values) => stored(target, projection, (config.vector, values), &device),
            None => fresh(target, projection, config, seed, &device),
        });
    }
    Ok(())
}

/// A drawn; B zero, or drawn too.
fn fresh(target: &Target, projection: &Projection, config: &LoraConfig, seed: u64, device: &Device) -> Lora {
    let (inputs, outputs, rank) = (projection.inputs(), projection.outputs(), target.rank);
    let values = |part: &str, shape: [usize; 2]| initial(seed, &format!("{}.{part}", target.module), shape[0], shape[1]);
    let drawn =
        |part: &str, shape: [usize; 2]| Tensor::from_data(TensorData::new(values(part, shape), shape), (device, DType::F32));
    let is_zero = config.init_lora_weights;
    let b = if is_zero { Tensor::zeros([rank, outputs], (device, DType::F32)) } else { drawn("lora_B", [rank, outputs]) };
    // A bias is drawn as B's numbers are.
    let bias = || if is_zero { vec![0.0; outputs] } else { values("lora_B.bias", [rank, outputs])[..outputs].to_vec() };
    let given = config.has(AdapterVector::Bias).then(bias);
    let plain = Lora { a: drawn("lora_A", [inputs, rank]), b, scale: target.scale, vector: None };
    with_vector(plain, projection, config.vector, given.as_deref())
}

/// A and B from PEFT's orientation to ours.
fn stored(target: &Target, projection: &Projection, (kind, values): (Option<AdapterVector>, &Values), device: &Device) -> Lora {
    let (inputs, outputs, rank, [a, b]) = (projection.inputs(), projection.outputs(), target.rank, &values.matrices);
    let [a, b] = [turned(a, rank, inputs, device), turned(b, outputs, rank, device)];
    with_vector(Lora { a, b, scale: target.scale, vector: None }, projection, kind, values.vector.as_deref())
}

/// The adapter with its vector, if there is to be one. Magnitudes that are not given are those at which nothing changes.
fn with_vector(plain: Lora, projection: &Projection, kind: Option<AdapterVector>, given: Option<&[f32]>) -> Lora {
    let given = given.map(|values| Tensor::from_data(TensorData::from(values), (&plain.a.device(), DType::F32)));
    let vector = match kind {
        Some(AdapterVector::Bias) => given.map(Vector::Bias),
        Some(AdapterVector::Magnitude) => Some(Vector::Magnitude(Magnitude::new(&projection.weight, plain.adapter(), given))),
        None => None,
    };
    Lora { vector, ..plain }
}

/// The transpose of [rows, columns].
fn turned(values: &[f32], rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let turned: Vec<f32> = (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect();
    Tensor::from_data(TensorData::new(turned, [columns, rows]), (device, DType::F32))
}

/// Rows of numbers, one for each A, B and vector that is attached and in the decoder's order, as PEFT's tensors:
/// `base_model.model.<module>.lora_A.weight` [r, in], `.lora_B.weight` [out, r], and its vector [out], by name.
pub fn tensors(decoder: &Decoder, numbers: &[Tensor<1>]) -> Vec<Named> {
    let named = decoder.named(numbers).into_iter();
    let mut tensors: Vec<Named> =
        named.map(|(name, shape, values)| (format!("base_model.model.{name}"), shape, values)).collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    tensors
}
