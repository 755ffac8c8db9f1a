//! The weights of a model in GGUF files. Projections in blocks stay as they are, row by row; what
//! is looked up or added (tables that are embeddings, norms, biases, routers) becomes numbers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};

use super::super::assemble::WeightSource;
use super::super::layout::{LinearSpec, Slice};
use super::super::transpose::{Element, transposed_numbers};
use super::super::weights::finite;
use super::super::{ModelError, Storage};
use super::architecture::Architecture;
use super::config::{Metadata, architecture_of};
use super::keys::{FREQUENCIES, LONG_FACTORS, SHORT_FACTORS, hyperparameters};
use super::sources::{Finder, Source};
use super::tensor_type::TensorType;
use super::value::Value;
use crate::device::HalfPrecision;
use crate::files::Float;
use crate::files::gguf::{Gguf, GgufTensor};
use crate::model::DecoderSpec;
use crate::quant::{BlockFormat, Blocks, QuantFormat, Quantized};
use crate::terms::ModelDtype;

/// How far a number of the metadata may be from the one that was read, relatively.
const TOLERANCE: f64 = 1e-5;

/// Returns the type that numbers of this tensor get in a file that has no blocks.
pub(super) fn dtype_of_unpacked(tensor: &GgufTensor) -> Float {
    match TensorType::of_ggml(tensor.kind.id()) {
        Some(TensorType::Numbers(float)) => float,
        // Scales of blocks are f16.
        _ => Float::F16,
    }
}

/// Open GGUF files, with the sources of the model's tensors.
#[derive(Debug)]
pub(in crate::model) struct GgufWeights {
    files: Vec<Gguf>,
    sources: BTreeMap<String, Source>,
    /// Whether any projection is in blocks.
    has_blocks: bool,
    /// The type of unpacked numbers.
    unpacked: Float,
}

impl GgufWeights {
    /// Opens the files of the described folder, whose config.json gave the spec.
    pub fn open(folder: &Path, path: &Path, spec: &DecoderSpec) -> Result<Self, ModelError> {
        let files = Gguf::open_all(path)?;
        let metadata = Metadata::of(&files)?;
        let architecture = architecture_of(&files)?;
        let mut faults = differing_keys(&metadata, architecture, spec)?;
        let (mut finder, mut sources) = (Finder::new(&files), BTreeMap::new());
        for (name, shape) in spec.tensors() {
            match finder.source((&name, &shape), architecture, spec) {
                Ok(source) => drop(sources.insert(name, source)),
                Err(fault) => faults.push(fault),
            }
        }
        let is_read = |name: &&str| [FREQUENCIES, LONG_FACTORS, SHORT_FACTORS].contains(name);
        // The head of a model that ties it may stand there too.
        let is_harmless =
            |name: &&str| is_read(name) || (spec.tied_head && *name == "output.weight");
        let unused = finder.unused().filter(|name| !is_harmless(name));
        faults.extend(unused.map(|name| format!("tensor `{name}` is not part of the model")));
        let embedding = metadata.tensor("token_embd.weight");
        let unpacked = embedding.map_or(Float::F32, dtype_of_unpacked);
        if !faults.is_empty() {
            return Err(ModelError::Tensors {
                folder: super::user_path(folder),
                faults,
            });
        }
        let mut weights = Self {
            files,
            sources,
            has_blocks: false,
            unpacked,
        };
        weights.has_blocks = weights.form(spec).is_some();
        Ok(weights)
    }

    /// Returns the paths of the files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Gguf::path)
    }

    /// Returns the type in which numbers are written where nothing is asked for.
    pub fn unpacked(&self) -> Float {
        self.unpacked
    }

    fn source(&self, name: &str) -> &Source {
        &self.sources[name]
    }

    /// Returns the format of most numbers of projections; `None` where none are in blocks.
    pub fn form(&self, spec: &DecoderSpec) -> Option<QuantFormat> {
        let mut counts: Vec<(BlockFormat, u64)> = Vec::new();
        for linear in spec.projections() {
            let Some(format) = self.source(&linear.weight()).blocks_format() else {
                continue;
            };
            let numbers = (linear.outputs * linear.inputs) as u64;
            match counts.iter_mut().find(|(of, _)| *of == format) {
                Some((_, count)) => *count += numbers,
                None => counts.push((format, numbers)),
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(format, _)| QuantFormat::Blocks(format))
    }

    /// Returns the storage format of the model.
    pub fn kept_in(&self, asked: Storage, spec: &DecoderSpec, halves: HalfPrecision) -> Storage {
        let stored = self.form(spec);
        let is_left = |linear: &&LinearSpec| self.blocks_of(linear).is_none();
        let left_dense = spec.projections();
        let left_dense = left_dense.iter().filter(is_left);
        let left_dense = left_dense.map(|linear| (linear.outputs * linear.inputs) as u64);
        let head = self.sources.get(&spec.names.head());
        let has_packed_head = head.is_some_and(|head| head.blocks_format().is_some());
        let packs_head =
            !spec.tied_head && (asked.packs_head || (stored.is_some() && has_packed_head));
        Storage {
            stored_bytes: stored.map(|_| self.stored_bytes(packs_head, spec)),
            dtype: self.dtype(asked.dtype, spec, halves),
            form: stored.or(asked.form),
            left_dense: if stored.is_some() {
                left_dense.sum::<u64>()
            } else {
                0
            },
            packs_head,
            offloads_embedding: asked.offloads_embedding && !spec.tied_head,
        }
    }

    /// Returns the bytes of all matrices that stay in blocks.
    fn stored_bytes(&self, packs_head: bool, spec: &DecoderSpec) -> u64 {
        let head = packs_head.then(|| (spec.names.head(), [spec.vocabulary, spec.width]));
        let projections = spec.projections().into_iter();
        let shaped = projections.map(|linear| (linear.weight(), [linear.outputs, linear.inputs]));
        let bytes = |(name, shape): (String, [usize; 2])| {
            let format = self.source(&name).blocks_format()?;
            Some(QuantFormat::Blocks(format).bytes(shape))
        };
        shaped.chain(head).filter_map(bytes).sum::<u64>()
    }

    fn blocks_of(&self, linear: &LinearSpec) -> Option<BlockFormat> {
        self.source(&linear.weight()).blocks_format()
    }

    /// Returns the type of matrices that are not in blocks. Numbers that were in blocks are exact
    /// in f32 alone.
    fn dtype(&self, asked: ModelDtype, spec: &DecoderSpec, halves: HalfPrecision) -> ModelDtype {
        if asked != ModelDtype::Auto {
            return asked;
        }
        let linears = spec.projections().into_iter().map(|linear| linear.weight());
        let stored: Vec<Option<TensorType>> = linears
            .chain(spec.tables())
            .filter_map(|name| self.sources.get(&name).map(Source::stored))
            .collect();
        let is = |float: Float| {
            move |stored: &Option<TensorType>| *stored == Some(TensorType::Numbers(float))
        };
        match halves {
            HalfPrecision::Widened if stored.iter().all(is(Float::Bf16)) => ModelDtype::Bfloat16,
            HalfPrecision::Computed(Some(half)) if !stored.iter().any(is(Float::F32)) => half,
            _ => ModelDtype::Float32,
        }
    }

    /// Returns all numbers of a tensor, in the model's order.
    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.source(name).all(&self.files)
    }

    fn matrix<T: Element>(&self, name: &str, rows: Range<usize>) -> Vec<T> {
        let numbers = self.source(name).numbers(&self.files, rows);
        numbers.into_iter().map(T::nearest).collect()
    }

    fn data(
        &self,
        name: &str,
        rows: Range<usize>,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        Ok(match dtype {
            DType::BF16 => TensorData::new(self.matrix::<bf16>(name, rows), shape),
            DType::F16 => TensorData::new(finite(name, self.matrix::<f16>(name, rows))?, shape),
            _ => TensorData::new(self.matrix::<f32>(name, rows), shape),
        })
    }

    /// Returns rows of a matrix as blocks of the file, or packed in the format that is asked for.
    fn packed_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        let source = self.source(name);
        let packed = if let Some(format) = source.blocks_format() {
            let bytes = source.blocks(&self.files, format, rows);
            Blocks::new(format, shape, bytes).map(Quantized::Blocks)
        } else if form == QuantFormat::Int8 {
            form.pack(shape, &finite(name, self.matrix::<f16>(name, rows))?)
        } else {
            form.pack(shape, &self.matrix::<f32>(name, rows))
        };
        packed.map_err(|cause| ModelError::Packing {
            name: name.to_owned(),
            cause,
        })
    }
}

impl WeightSource for GgufWeights {
    fn vector(&self, name: &str, _length: usize) -> Result<Vec<f32>, ModelError> {
        Ok(self.numbers(name))
    }

    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let shape = [rows.len(), columns];
        self.data(name, rows, shape, dtype)
    }

    fn transposed(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let numbers = self.source(name).numbers(&self.files, 0..rows);
        let shape = [columns, rows];
        Ok(match dtype {
            DType::BF16 => TensorData::new(transposed_numbers::<bf16>(&numbers, columns), shape),
            DType::F16 => {
                let turned = transposed_numbers::<f16>(&numbers, columns);
                TensorData::new(finite(name, turned)?, shape)
            }
            _ => TensorData::new(transposed_numbers::<f32>(&numbers, columns), shape),
        })
    }

    fn slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let rows = slice.index * shape[0]..(slice.index + 1) * shape[0];
        self.data(&slice.tensor, rows, shape, dtype)
    }

    fn stays_dense(&self, name: &str, _shape: [usize; 2]) -> bool {
        self.has_blocks && self.source(name).blocks_format().is_none()
    }

    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        self.packed_rows(name, 0..shape[0], shape, form)
    }

    fn packed_slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError> {
        let rows = slice.index * shape[0]..(slice.index + 1) * shape[0];
        let format = self.source(&slice.tensor).blocks_format();
        format
            .filter(|_| !slice.is_turned)
            .map(|format| self.packed_rows(&slice.tensor, rows, shape, QuantFormat::Blocks(format)))
            .transpose()
    }
}

/// Returns the keys of the file that say something else of the model than the spec that was made of
/// them: what they would change is not known here.
fn differing_keys(
    metadata: &Metadata,
    architecture: &Architecture,
    spec: &DecoderSpec,
) -> Result<Vec<String>, ModelError> {
    let first = &metadata.files[0];
    let mut faults: Vec<String> = architecture
        .lacks(spec)
        .into_iter()
        .map(|lack| {
            format!(
                "the model has {}, llama.cpp's `{}` takes {}",
                lack.has, architecture.name, lack.takes
            )
        })
        .collect();
    for (key, value) in hyperparameters(architecture, spec) {
        if !first.has(&key) {
            continue;
        }
        let is_near = |found: f64, expected: f64| {
            (found - expected).abs() <= TOLERANCE * expected.abs().max(f64::from(f32::MIN_POSITIVE))
        };
        let is_list = first.has_list(&key);
        let (differs, found, expected) = match &value {
            Value::U32(expected) if !is_list => {
                let found = first.size(&key)?.unwrap_or_default();
                (
                    found != *expected as usize,
                    found.to_string(),
                    expected.to_string(),
                )
            }
            Value::F32(expected) if !is_list => {
                let found = first.number(&key)?.unwrap_or_default();
                let differs = !is_near(found, f64::from(*expected));
                (differs, found.to_string(), expected.to_string())
            }
            Value::Bool(expected) if !is_list => {
                let found = first.flag(&key)?.unwrap_or_default();
                (found != *expected, found.to_string(), expected.to_string())
            }
            Value::Text(expected) if !is_list => {
                let found = first.text(&key)?.unwrap_or_default();
                (found != expected, found.to_owned(), expected.clone())
            }
            // Lists and what they may be in place of were read layer by layer.
            _ => continue,
        };
        if differs {
            faults.push(format!("`{key}` is {found}, expected {expected}"));
        }
    }
    Ok(faults)
}
