//! The safetensors files of a base: their tensors, types and numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use serde_json::{Map, Value};

use super::assemble::WeightSource;
use super::gguf::gguf_paths;
use super::layout::{LinearSpec, Slice, WeightOrder};
use super::prequantized::QuantizedParts;
use super::spec::{DecoderSpec, LayerSpec};
use super::transpose::{Element, read_straight, read_transposed};
use super::{ModelError, Storage, mxfp4, prequantized};
use crate::device::HalfPrecision;
use crate::files::safetensors::{Archive, TensorBytes};
use crate::files::{Float, JSON_BYTES, is_there, listed, read_text_up_to};
use crate::quant::{QuantFormat, Quantized};
use crate::terms::ModelDtype;

/// The most tensors: more than any model has.
const MAX_TENSORS: usize = 250_000;
/// File extensions of pickle files.
const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// Returns the files of a base's weights: of a described GGUF file those, else
/// [`safetensors_paths`].
///
/// # Errors
/// As of [`safetensors_paths`].
pub fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    match gguf_paths(folder)? {
        Some(paths) => Ok(paths),
        None => safetensors_paths(folder),
    }
}

/// Returns the safetensors files of a base: the single one, or those of the index.
///
/// # Errors
/// There are no such files, the index is not valid, or a file that it names is missing.
pub(super) fn safetensors_paths(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let (single, index) = (
        folder.join("model.safetensors"),
        folder.join("model.safetensors.index.json"),
    );
    // Where both are there, transformers reads the single file.
    if is_there(&single)? {
        return Ok(vec![single]);
    }
    if !is_there(&index)? {
        return Err(no_weights(folder));
    }
    let fault = |message: String| ModelError::Config {
        path: index.clone(),
        message,
        hint: None,
    };
    let content = read_text_up_to(&index, JSON_BYTES)?;
    let content: Value = serde_json::from_str(&content)
        .map_err(|error| fault(format!("not valid JSON: {error}")))?;
    let map = content
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| fault("`weight_map` is missing".to_owned()))?;
    let names = shard_names(map).map_err(&fault)?;
    let mut missing = Vec::new();
    for name in &names {
        if !is_there(&folder.join(name))? {
            missing.push(format!("`{name}`"));
        }
    }
    if missing.is_empty() && !names.is_empty() {
        Ok(names.iter().map(|name| folder.join(name)).collect())
    } else {
        let some = listed(&missing).join(", ");
        Err(fault(format!(
            "{} of {} shards are missing: {some}",
            missing.len(),
            names.len()
        )))
    }
}

/// Returns the files that an index names. A name that could lead out of the index's own folder is
/// refused on every system.
fn shard_names(map: &Map<String, Value>) -> Result<BTreeSet<&str>, String> {
    let is_shard =
        |name: &&str| name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']);
    let refused = |name: &Value| {
        let name = name
            .as_str()
            .map_or_else(|| name.to_string(), str::to_owned);
        format!("`weight_map` names `{name}`, expected a safetensors file of this folder")
    };
    map.values()
        .map(|name| name.as_str().filter(is_shard).ok_or_else(|| refused(name)))
        .collect()
}

fn no_weights(folder: &Path) -> ModelError {
    let names = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    let pickles: Vec<_> = names
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|end| PICKLES.iter().any(|pickle| end == *pickle))
        })
        .map(|name| format!("`{}`", name.display()))
        .collect();
    let found = if pickles.is_empty() {
        String::new()
    } else {
        format!(", only {}", listed(&pickles).join(", "))
    };
    ModelError::NoWeights {
        folder: folder.to_owned(),
        found,
    }
}

/// The tensors that stand in shards, by canonical name.
struct Stored {
    shapes: BTreeMap<String, Vec<usize>>,
    /// The shard of each, and its name there.
    place: BTreeMap<String, (usize, String)>,
    faults: Vec<String>,
}

impl Stored {
    fn of(shards: &[Archive], spec: &DecoderSpec) -> Self {
        let (mut shapes, mut place, mut faults) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (index, shard) in shards.iter().enumerate() {
            for (stored, shape) in shard.shapes() {
                let name = spec.names.canonical(&stored);
                if let Some((first, _)) = place.insert(name.clone(), (index, stored.clone())) {
                    let [first, second] =
                        [first, index].map(|shard: usize| shards[shard].path().display());
                    faults.push(format!(
                        "tensor `{stored}` stands in two shards, `{first}` and `{second}`"
                    ));
                }
                shapes.insert(name, shape);
            }
        }
        Self {
            shapes,
            place,
            faults,
        }
    }
}

/// Returns which tensors a checkpoint may have although nothing reads them. Old checkpoints store
/// the rotation's frequencies, which follow from config.json; a tied head may be stored twice. What
/// is beside a text model in one that does more is not asked for.
fn unread_tensors(spec: &DecoderSpec) -> impl Fn(&str) -> bool {
    let unread = |(index, layer): (usize, &LayerSpec)| {
        layer.mixer.source().map(|_| spec.names.unread_keys(index))
    };
    let unread: BTreeSet<String> = spec
        .layers
        .iter()
        .enumerate()
        .filter_map(unread)
        .flatten()
        .collect();
    let of_scores = spec.score_tensors();
    move |name| {
        let is_stored_twice = spec.tied_head && name == spec.names.head();
        spec.names
            .buffers
            .iter()
            .any(|buffer| name.ends_with(buffer))
            || unread.contains(name)
            || is_stored_twice
            || prequantized::is_part(name)
            || spec.names.leaves_out(name)
            || of_scores.iter().any(|other| other == name)
    }
}

/// Opens every shard. All headers together may not describe more than memory can hold.
fn open_shards(folder: &Path) -> Result<Vec<Archive>, ModelError> {
    let (mut shards, mut tensors) = (Vec::new(), 0);
    for path in safetensors_paths(folder)? {
        let shard = Archive::open(&path)?;
        tensors += shard.tensors();
        if tensors > MAX_TENSORS {
            let message = format!(
                "with this file the base has {tensors} tensors, expected at most {MAX_TENSORS}"
            );
            return Err(ModelError::Config {
                path,
                message,
                hint: None,
            });
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// Open shards, with the shard of each tensor.
#[derive(Debug)]
pub(super) struct Weights {
    shards: Vec<Archive>,
    /// The shard of each tensor and its name there, by the model's name for it.
    place: BTreeMap<String, (usize, String)>,
    /// Linear weights that are [in, out] in the files, unless they are packed.
    in_out: BTreeSet<String>,
    /// Whether any tensor is packed by bitsandbytes.
    has_packed: bool,
}

impl Weights {
    pub(super) fn open(folder: &Path, spec: &DecoderSpec) -> Result<Self, ModelError> {
        let shards = open_shards(folder)?;
        let Stored {
            mut shapes,
            place,
            mut faults,
        } = Stored::of(&shards, spec);
        let in_out = spec
            .projections()
            .iter()
            .filter(|linear| linear.order == WeightOrder::InOut)
            .map(LinearSpec::weight)
            .collect();
        let mut weights = Self {
            shards,
            place,
            in_out,
            has_packed: false,
        };
        let mut packed = BTreeSet::new();
        for (name, shape) in spec.tensors() {
            let parts = <[usize; 2]>::try_from(&shape[..])
                .ok()
                .and_then(|shape| weights.parts(&name, weights.out_in(&name, shape)));
            if let Some(parts) = &parts {
                faults.extend(
                    parts.as_ref().err().map(|fault| {
                        format!("tensor `{name}`, which bitsandbytes packed: {fault}")
                    }),
                );
                packed.insert(name.clone());
            }
            let of_stack = <[usize; 3]>::try_from(&shape[..])
                .ok()
                .filter(|_| weights.is_mxfp4(&name));
            let expected = match of_stack {
                Some(shape) => mxfp4::parts(&name)
                    .into_iter()
                    .zip(mxfp4::shapes(shape))
                    .collect(),
                None => vec![(name, shape)],
            };
            for (name, shape) in expected {
                match shapes.remove(&name) {
                    None => faults.push(format!(
                        "tensor `{name}` is missing, expected shape {shape:?}"
                    )),
                    Some(_) if parts.is_some() => {}
                    Some(other) if other != shape => {
                        faults.push(format!(
                            "tensor `{name}` has shape {other:?}, expected {shape:?}"
                        ));
                    }
                    Some(_) if of_stack.is_some() => drop(packed.insert(name)),
                    Some(_) => {}
                }
            }
        }
        let harmless = unread_tensors(spec);
        let unreadable = weights
            .shards
            .iter()
            .flat_map(Archive::unreadable)
            .map(|(name, dtype)| (spec.names.canonical(&name), dtype));
        for (name, dtype) in
            unreadable.filter(|(name, _)| !packed.contains(name) && !harmless(name))
        {
            faults.push(format!(
                "tensor `{name}` has dtype {dtype:?}, expected F32, F16 or BF16"
            ));
        }
        weights.has_packed = weights.form(spec).is_some();
        faults.extend(weights.half_packed_fault(spec, &packed));
        let extra = shapes.iter().filter(|(name, _)| !harmless(name));
        faults.extend(extra.map(|(name, shape)| {
            format!("tensor `{name}` of shape {shape:?} is not part of the model")
        }));
        faults.extend(weights.tied_head_fault(spec));
        if faults.is_empty() {
            Ok(weights)
        } else {
            Err(ModelError::Tensors {
                folder: folder.to_owned(),
                faults,
            })
        }
    }

    /// Checks that all packed projections have the same format. Some may be unpacked, a head may be
    /// packed, and the embedding never is.
    fn half_packed_fault(&self, spec: &DecoderSpec, packed: &BTreeSet<String>) -> Option<String> {
        let first = self.form(spec);
        let projections = spec.projections().into_iter().filter(LinearSpec::is_whole);
        let projections =
            projections.map(|linear| (linear.weight(), [linear.outputs, linear.inputs]));
        let head = packed
            .contains(&spec.names.head())
            .then(|| (spec.names.head(), [spec.vocabulary, spec.width]));
        let differs = |(name, shape): &(String, [usize; 2])| match self.parts(name, *shape) {
            // What bitsandbytes was told to leave (`llm_int8_skip_modules`) are numbers; of parts
            // that do not fit more was said already.
            None | Some(Err(_)) => false,
            Some(Ok(parts)) => Some(parts.form()) != first,
        };
        let other = projections.chain(head).find(differs).map(|(name, _)| name);
        let embedding = Some(spec.names.embedding()).filter(|embedding| packed.contains(embedding));
        let first = first.map_or_else(|| "not packed".to_owned(), |first| format!("in {first}"));
        other.or(embedding).map(|name| {
            format!("tensor `{name}` is not as the first packed projection is, which is {first}")
        })
    }

    /// Checks that a stored copy of a tied head equals the embedding.
    fn tied_head_fault(&self, spec: &DecoderSpec) -> Option<String> {
        let (head, embedding) = (spec.names.head(), spec.names.embedding());
        let differ = spec.tied_head && self.bytes(&head)? != self.bytes(&embedding)?;
        differ.then(|| {
            format!(
                "tensor `{head}` differs from `{embedding}`, expected equal: config.json ties them"
            )
        })
    }
}

impl Weights {
    pub(super) fn shards(&self) -> &[Archive] {
        &self.shards
    }

    /// Returns the index of a tensor's shard.
    pub(super) fn place(&self, name: &str) -> usize {
        self.place[name].0
    }

    /// Returns a tensor's name in its shard.
    pub(super) fn stored_name(&self, name: &str) -> &str {
        &self.place[name].1
    }

    /// Returns the shape of a linear weight as [out, in], given the one in the files.
    fn out_in(&self, name: &str, shape: [usize; 2]) -> [usize; 2] {
        let [first, second] = shape;
        if self.in_out.contains(name) {
            [second, first]
        } else {
            shape
        }
    }

    /// Reads a weight [rows, columns] in that order, whatever the one in the files.
    fn read<T: Element>(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
    ) -> Result<Vec<T>, ModelError> {
        let (stored, numbers) = (self.stored(name)?, rows.start * columns..rows.end * columns);
        if !self.in_out.contains(name) {
            return Ok(read_straight(&stored, numbers));
        }
        let mut turned = read_transposed::<T>(&stored, columns, stored.len() / columns);
        turned.truncate(numbers.end);
        Ok(turned.split_off(numbers.start))
    }

    pub(super) fn stored(&self, name: &str) -> Result<TensorBytes<'_>, ModelError> {
        let (shard, stored) = &self.place[name];
        Ok(self.shards[*shard]
            .stored(stored)?
            .expect("names were taken from the shards"))
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (shard, stored) = self.place.get(name)?;
        self.shards[*shard].bytes(stored)
    }

    /// Returns a tensor by the name in its file.
    pub(super) fn stored_bytes(&self, stored: &str) -> Option<&[u8]> {
        self.shards.iter().find_map(|shard| shard.bytes(stored))
    }

    /// Whether a stack of matrices is stored as MXFP4.
    pub(super) fn is_mxfp4(&self, name: &str) -> bool {
        !self.place.contains_key(name)
            && mxfp4::parts(name)
                .iter()
                .any(|part| self.place.contains_key(part))
    }

    /// Returns one matrix of a stack, [in, out].
    fn slice_of<T: Element>(&self, slice: &Slice, shape: [usize; 2]) -> Result<Vec<T>, ModelError> {
        let Slice { tensor, index, .. } = slice;
        if self.is_mxfp4(tensor) {
            let parts = mxfp4::parts(tensor).map(|part| {
                self.bytes(&part)
                    .expect("it was checked when the files were opened")
            });
            return Ok(mxfp4::read(parts, *index, shape)
                .into_iter()
                .map(T::nearest)
                .collect());
        }
        let size = shape[0] * shape[1];
        Ok(read_straight(
            &self.stored(tensor)?,
            index * size..(index + 1) * size,
        ))
    }

    /// Returns the parts of a packed weight [out, in]; `None` where it is not packed.
    pub(super) fn parts(
        &self,
        name: &str,
        shape: [usize; 2],
    ) -> Option<Result<QuantizedParts<'_>, String>> {
        QuantizedParts::find(|name| self.bytes(name), name, shape)
    }

    fn form_of(&self, name: &str, linear: &LinearSpec) -> Option<QuantFormat> {
        self.parts(name, [linear.outputs, linear.inputs])?
            .ok()
            .map(|parts| parts.form())
    }

    /// Returns the format of packed projections, which is that of the first one.
    pub(super) fn form(&self, spec: &DecoderSpec) -> Option<QuantFormat> {
        spec.projections()
            .iter()
            .find_map(|linear| self.form_of(&linear.weight(), linear))
    }

    /// Returns the count of numbers in projections that are not packed where others are.
    fn left_dense(&self, spec: &DecoderSpec) -> u64 {
        let is_left = |linear: &&LinearSpec| {
            linear.is_whole() && self.stays_dense(&linear.weight(), [linear.outputs, linear.inputs])
        };
        spec.projections()
            .iter()
            .filter(is_left)
            .map(|linear| (linear.outputs * linear.inputs) as u64)
            .sum()
    }

    /// Returns the storage format of the model.
    pub(super) fn kept_in(
        &self,
        asked: Storage,
        spec: &DecoderSpec,
        halves: HalfPrecision,
    ) -> Result<Storage, ModelError> {
        let stored = self.form(spec);
        let has_packed_head = self
            .parts(&spec.names.head(), [spec.vocabulary, spec.width])
            .is_some();
        Ok(Storage {
            dtype: self.dtype(asked.dtype, spec, halves)?,
            form: stored.or(asked.form),
            stored_bytes: None,
            left_dense: self.left_dense(spec),
            packs_head: (asked.packs_head || has_packed_head) && !spec.tied_head,
            offloads_embedding: asked.offloads_embedding && !spec.tied_head,
        })
    }

    /// Returns the type of matrices that are not packed.
    fn dtype(
        &self,
        asked: ModelDtype,
        spec: &DecoderSpec,
        halves: HalfPrecision,
    ) -> Result<ModelDtype, ModelError> {
        if asked != ModelDtype::Auto {
            return Ok(asked);
        }
        let is_numbers = |(name, shape): &(String, Vec<usize>)| match shape[..] {
            [rows, columns] => self
                .parts(name, self.out_in(name, [rows, columns]))
                .is_none(),
            [_, _, _] => !self.is_mxfp4(name),
            _ => false,
        };
        let of_matrices = spec.tensors().into_iter().filter(is_numbers);
        let floats = of_matrices
            .map(|(name, _)| Ok(self.stored(&name)?.float))
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(match halves {
            HalfPrecision::Widened if floats.iter().all(|float| *float == Float::Bf16) => {
                ModelDtype::Bfloat16
            }
            HalfPrecision::Computed(Some(half)) if !floats.contains(&Float::F32) => half,
            _ => ModelDtype::Float32,
        })
    }
}

/// Checks that no number became infinite in 16 bits.
pub(super) fn finite(name: &str, numbers: Vec<f16>) -> Result<Vec<f16>, ModelError> {
    if numbers.iter().any(|number| number.is_infinite()) {
        Err(ModelError::BeyondFloat16 {
            name: name.to_owned(),
        })
    } else {
        Ok(numbers)
    }
}

impl WeightSource for Weights {
    fn vector(&self, name: &str, _length: usize) -> Result<Vec<f32>, ModelError> {
        let stored = self.stored(name)?;
        Ok(read_straight(&stored, 0..stored.len()))
    }

    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let shape = [rows.len(), columns];
        Ok(match dtype {
            DType::BF16 => TensorData::new(self.read::<bf16>(name, rows, columns)?, shape),
            DType::F16 => {
                TensorData::new(finite(name, self.read::<f16>(name, rows, columns)?)?, shape)
            }
            _ => TensorData::new(self.read::<f32>(name, rows, columns)?, shape),
        })
    }

    fn transposed(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        let stored = self.stored(name)?;
        if self.in_out.contains(name) {
            let (shape, whole) = ([columns, rows], 0..stored.len());
            return Ok(match dtype {
                DType::BF16 => TensorData::new(read_straight::<bf16>(&stored, whole), shape),
                DType::F16 => {
                    TensorData::new(finite(name, read_straight::<f16>(&stored, whole))?, shape)
                }
                _ => TensorData::new(read_straight::<f32>(&stored, whole), shape),
            });
        }
        Ok(match dtype {
            DType::BF16 => TensorData::new(
                read_transposed::<bf16>(&stored, rows, columns),
                [columns, rows],
            ),
            DType::F16 => TensorData::new(
                finite(name, read_transposed::<f16>(&stored, rows, columns))?,
                [columns, rows],
            ),
            _ => TensorData::new(
                read_transposed::<f32>(&stored, rows, columns),
                [columns, rows],
            ),
        })
    }

    fn slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError> {
        Ok(match dtype {
            DType::BF16 => TensorData::new(self.slice_of::<bf16>(slice, shape)?, shape),
            DType::F16 => TensorData::new(
                finite(&slice.tensor, self.slice_of::<f16>(slice, shape)?)?,
                shape,
            ),
            _ => TensorData::new(self.slice_of::<f32>(slice, shape)?, shape),
        })
    }

    fn packed_slice(
        &self,
        _slice: &Slice,
        _shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError> {
        Ok(None)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (shard, stored) = self.place.get(name)?;
        self.shards[*shard].shape(stored).map(<[usize]>::to_vec)
    }

    fn stays_dense(&self, name: &str, shape: [usize; 2]) -> bool {
        self.has_packed && self.parts(name, shape).is_none()
    }

    /// Packs a weight from the numbers in the file, whatever type the others are kept in; int8 from
    /// float16, as in bitsandbytes.
    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        if let Some(parts) = self.parts(name, shape) {
            return Ok(parts
                .expect("it was checked when the files were opened")
                .read(shape));
        }
        let (rows, columns) = (0..shape[0], shape[1]);
        let packed = match (form, self.stored(name)?.float) {
            (QuantFormat::Int8, _) => form.pack(
                shape,
                &finite(name, self.read::<f16>(name, rows, columns)?)?,
            ),
            (_, Float::Bf16) => form.pack(shape, &self.read::<bf16>(name, rows, columns)?),
            (_, Float::F16) => form.pack(shape, &self.read::<f16>(name, rows, columns)?),
            (_, Float::F32) => form.pack(shape, &self.read::<f32>(name, rows, columns)?),
        };
        packed.map_err(|cause| ModelError::Packing {
            name: name.to_owned(),
            cause,
        })
    }
}
