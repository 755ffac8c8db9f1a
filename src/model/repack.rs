//! Rewrites a base's files of weights in another form: packed as bitsandbytes packs them, or
//! unpacked. Names, shards and all other tensors stay the same.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;
use half::f16;
use safetensors::Dtype;
use serde_json::Value;

use super::gguf::GgufWeights;
use super::layout::{Slice, WeightOrder};
use super::load::Folder;
use super::opened::Opened;
use super::spec::DecoderSpec;
use super::weights::Weights;
use super::{ModelError, mxfp4, prequantized};
use crate::files::Float;
use crate::files::safetensors::Described;
use crate::quant::{QuantFormat, Quantized};

/// The form in which weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Projections are packed.
    Packed {
        /// The format.
        form: QuantFormat,
        /// Whether an untied head is packed too.
        packs_head: bool,
    },
    /// Plain numbers: of this type, or of the embedding's.
    Dense(Option<Float>),
}

/// The weights of a base while they are rewritten.
#[derive(Debug)]
pub struct Repacking {
    weights: Opened,
    target: Target,
    is_tied: bool,
    /// The type of numbers before packing.
    float: Float,
    files: Vec<(PathBuf, Vec<Described>)>,
    /// Tensors to make, with the weight [out, in] of which each is a part.
    made: BTreeMap<String, (String, [usize; 2])>,
    /// Stacks [count, in, out] to make of their parts.
    stacks: BTreeMap<String, [usize; 3]>,
    /// The weight that was made last. A file has the large parts of all weights before the small
    /// ones, so that each weight is made twice, and only one is in memory.
    last: Mutex<Option<(String, Quantized)>>,
}

impl Repacking {
    /// Opens the files of weights.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn open(folder: &Folder, target: Target) -> Result<Self, ModelError> {
        let spec = &folder.stored_spec();
        if spec.weight_order == WeightOrder::InOut {
            return Err(ModelError::Config {
                path: folder.path.clone(),
                message: "its linear weights are [in, out], known are quantized files of [out, in]"
                    .to_owned(),
                hint: Some("quantize when the base is loaded, `method: qlora`".to_owned()),
            });
        }
        if let Target::Packed {
            form: form @ QuantFormat::Blocks(_),
            ..
        } = target
        {
            return Err(ModelError::Config {
                path: folder.path.clone(),
                message: format!("it cannot be written in {form}, which is a format of GGUF files"),
                hint: Some("export it as GGUF".to_owned()),
            });
        }
        let weights = match Opened::open(&folder.path, spec)? {
            Opened::Shards(weights) => weights,
            Opened::Gguf(weights) => return Self::of_gguf(folder, weights, target),
        };
        let float = match target {
            Target::Dense(Some(float)) => float,
            _ => weights.stored(&spec.names.embedding())?.float,
        };
        let mut files: Vec<_> = weights
            .shards()
            .iter()
            .map(|shard| (shard.path().to_owned(), Vec::new()))
            .collect();
        let (mut made, mut stacks) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in spec.tensors() {
            if weights.is_mxfp4(&name) {
                let [codes, _] = mxfp4::parts(&name);
                files[weights.place(&codes)]
                    .1
                    .push((name.clone(), dtype(float), shape.clone()));
                stacks.insert(name, shape.try_into().expect("what is in parts is a stack"));
                continue;
            }
            let tensors = &mut files[weights.place(&name)].1;
            let Some(matrix) = changes(&weights, spec, target, &name, &shape) else {
                tensors.push((
                    weights.stored_name(&name).to_owned(),
                    dtype(weights.stored(&name)?.float),
                    shape,
                ));
                continue;
            };
            let parts = match target {
                Target::Packed { form, .. } => prequantized::described(&name, matrix, form),
                Target::Dense(_) => vec![(name.clone(), dtype(float), shape)],
            };
            made.extend(
                parts
                    .iter()
                    .map(|(part, ..)| (part.clone(), (name.clone(), matrix))),
            );
            tensors.extend(parts);
        }
        Ok(Self {
            weights: Opened::Shards(weights),
            target,
            is_tied: spec.tied_head,
            float,
            files,
            made,
            stacks,
            last: Mutex::default(),
        })
    }

    /// Opens a GGUF file, whose tensors become one safetensors file.
    fn of_gguf(folder: &Folder, weights: GgufWeights, target: Target) -> Result<Self, ModelError> {
        let float = match target {
            Target::Dense(float) => float.unwrap_or(weights.unpacked()),
            Target::Packed { .. } => {
                return Err(ModelError::Config {
                    path: super::user_path(&folder.path),
                    message: "it is a GGUF file, expected a folder of safetensors files".to_owned(),
                    hint: Some(
                        "quantize when the base is loaded, `method: qlora`, or name the model \
                        that the file was made of"
                            .to_owned(),
                    ),
                });
            }
        };
        let spec = folder.stored_spec();
        let described = |(name, shape): (String, Vec<usize>)| (name, dtype(float), shape);
        let tensors = spec.tensors().into_iter().map(described).collect();
        Ok(Self {
            weights: Opened::Gguf(weights),
            target,
            is_tied: spec.tied_head,
            float,
            files: vec![(folder.path.join("model.safetensors"), tensors)],
            made: BTreeMap::new(),
            stacks: BTreeMap::new(),
            last: Mutex::default(),
        })
    }

    /// Returns the sum of the bytes of the old files.
    pub fn old_bytes(&self) -> u64 {
        let size = |path: &Path| path.metadata().map_or(0, |file| file.len());
        match &self.weights {
            Opened::Shards(_) => self.files.iter().map(|(path, _)| size(path)).sum(),
            Opened::Gguf(weights) => weights.paths().map(size).sum(),
        }
    }

    /// Returns the entry of config.json for packed weights.
    pub fn config(&self) -> Option<Value> {
        match self.target {
            Target::Packed { form, packs_head } => Some(prequantized::config(
                form,
                packs_head && !self.is_tied,
                self.float,
            )),
            Target::Dense(_) => None,
        }
    }

    /// Returns the new files, each with its tensors, by the paths of the old ones.
    pub fn files(&self) -> &[(PathBuf, Vec<Described>)] {
        &self.files
    }

    /// Returns the bytes of a tensor of a new file.
    ///
    /// # Errors
    /// A weight has numbers that cannot be packed.
    ///
    /// # Panics
    /// There is no such tensor.
    pub fn bytes(&self, tensor: &str) -> Result<Cow<'_, [u8]>, ModelError> {
        let weights = match &self.weights {
            Opened::Shards(weights) => weights,
            Opened::Gguf(weights) => return self.of_blocks(weights, tensor).map(Cow::Owned),
        };
        if let Some(shape) = self.stacks.get(tensor) {
            return Ok(Cow::Owned(self.stack(tensor, *shape)?));
        }
        let Some((name, shape)) = self.made.get(tensor) else {
            return Ok(Cow::Borrowed(
                weights
                    .stored_bytes(tensor)
                    .expect("its name was taken from the files"),
            ));
        };
        if let Target::Packed { form, .. } = self.target
            && let Some(constant) = prequantized::constant(tensor, form)
        {
            return Ok(Cow::Owned(constant));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(last, _)| last != name) {
            *last = None;
            *last = Some((name.clone(), self.packed(name, *shape)?));
        }
        let (_, weight) = last.as_ref().expect("it was made");
        Ok(Cow::Owned(match self.target {
            Target::Packed { .. } => prequantized::bytes(tensor, name, weight, self.float),
            Target::Dense(_) => {
                let numbers = weight.unpack();
                let mut bytes = vec![0; numbers.len() * self.float.bytes()];
                self.float.encode(&numbers, &mut bytes);
                bytes
            }
        }))
    }
}

impl Repacking {
    /// Returns the numbers of a tensor of a GGUF file.
    fn of_blocks(&self, weights: &GgufWeights, tensor: &str) -> Result<Vec<u8>, ModelError> {
        let numbers = weights.numbers(tensor);
        let is_beyond = |number: &f32| f16::from_f32(*number).is_infinite();
        if self.float == Float::F16 && numbers.iter().any(is_beyond) {
            return Err(ModelError::BeyondFloat16 {
                name: tensor.to_owned(),
            });
        }
        let mut bytes = vec![0; numbers.len() * self.float.bytes()];
        self.float.encode(&numbers, &mut bytes);
        Ok(bytes)
    }

    /// Returns the numbers of a stack, one matrix after the other.
    fn stack(
        &self,
        tensor: &str,
        [count, inputs, outputs]: [usize; 3],
    ) -> Result<Vec<u8>, ModelError> {
        let matrix_bytes = inputs * outputs * self.float.bytes();
        let mut bytes = vec![0; count * matrix_bytes];
        for (index, bytes) in bytes.chunks_mut(matrix_bytes.max(1)).enumerate() {
            let slice = Slice {
                tensor: tensor.to_owned(),
                index,
                count,
                is_turned: true,
            };
            let numbers: Vec<f32> = self
                .weights
                .source()
                .slice(&slice, [inputs, outputs], DType::F32)?
                .iter()
                .collect();
            self.float.encode(&numbers, bytes);
        }
        Ok(bytes)
    }

    /// Returns a packed weight; `None` where it is not packed.
    ///
    /// # Errors
    /// It has numbers that cannot be packed.
    pub fn weight(&self, name: &str) -> Result<Option<Quantized>, ModelError> {
        self.made
            .get(name)
            .map(|(_, shape)| self.packed(name, *shape))
            .transpose()
    }

    /// Packs a weight; a weight that is packed in the files stays as it is there.
    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<Quantized, ModelError> {
        let form = if let Target::Packed { form, .. } = self.target {
            form
        } else {
            QuantFormat::QLORA
        };
        self.weights.source().packed(name, shape, form)
    }
}

/// Returns the shape of a matrix whose form changes.
fn changes(
    weights: &Weights,
    spec: &DecoderSpec,
    target: Target,
    name: &str,
    shape: &[usize],
) -> Option<[usize; 2]> {
    let shape: [usize; 2] = shape.try_into().ok()?;
    let changes = match target {
        Target::Packed { packs_head, .. } => {
            let is_linear = spec
                .projections()
                .iter()
                .any(|linear| linear.is_whole() && linear.weight() == name);
            is_linear || (name == spec.names.head() && packs_head)
        }
        Target::Dense(_) => weights.parts(name, shape).is_some(),
    };
    changes.then_some(shape)
}

fn dtype(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::Bf16 => Dtype::BF16,
    }
}
