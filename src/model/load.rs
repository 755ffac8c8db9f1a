//! A Hugging Face folder to a [`Decoder`]: strict about names and shapes; beside the model a few
//! megabytes are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, TensorData};
use half::{bf16, f16};
use serde_json::{Map, Value};

use super::assemble::{Source, assemble};
use super::config::Config;
use super::decoder::Decoder;
use super::prequantized::Parts;
use super::spec::{DecoderSpec, EMBEDDING, HEAD, LinearSpec};
use super::transpose::{read_straight, read_transposed};
use super::{Error, Storage, families, prequantized};
use crate::device::{self, Halves};
use crate::files::safetensors::{Archive, Stored};
use crate::files::{Float, JSON_BYTES, listed, read_text_up_to};
use crate::quant::{Form, Quantized};
use crate::report::Reporter;
use crate::terms::ModelDtype;

/// More tensors than any model has.
const MAX_TENSORS: usize = 250_000;
/// Ends of the names of pickle files.
const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

/// A base model's folder whose config.json has been read; its weights are not.
#[derive(Debug)]
pub struct Folder {
    pub(super) path: PathBuf,
    /// What the decoder is.
    pub spec: DecoderSpec,
}

impl Folder {
    /// Reads config.json.
    ///
    /// # Errors
    /// The folder or file is missing, or describes a model that is not known.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let spec = families::spec(&Config::open(path)?)?;
        Ok(Self { path: path.to_owned(), spec })
    }

    /// Checks names, shapes and sizes of the weights by the headers of their files.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), or a file is damaged.
    pub fn check_weights(&self) -> Result<(), Error> {
        Weights::open(&self.path, &self.spec).map(drop)
    }

    /// Loads the weights, kept as asked for, where `auto` changes no number: on a GPU it is f32, and [`Folder::kept_in`] tells what a run
    /// takes there. What the folder has packed stays packed.
    ///
    /// # Errors
    /// Tensors are missing, left over or of another shape (all of them are listed), a number does not fit into the dtype, or a file is
    /// damaged.
    pub fn load(&self, storage: impl Into<Storage>, device: &Device, report: Reporter) -> Result<Decoder, Error> {
        let weights = Weights::open(&self.path, &self.spec)?;
        let halves = if device::is_cpu(device) { Halves::Widened } else { Halves::Computed(None) };
        let storage = weights.kept_in(storage.into(), &self.spec, halves)?;
        assemble(&weights, self.spec.clone(), storage, device, report)
    }

    /// The form in which the files have projections packed; `None` where they do not.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn stored_form(&self) -> Result<Option<Form>, Error> {
        Ok(Weights::open(&self.path, &self.spec)?.form(&self.spec))
    }

    /// How [`Folder::load`] keeps weights on a device where this is asked for: never in `auto`, and packed where the folder has them so.
    ///
    /// # Errors
    /// As of [`Folder::check_weights`].
    pub fn kept_in(&self, storage: impl Into<Storage>, halves: Halves) -> Result<Storage, Error> {
        Weights::open(&self.path, &self.spec)?.kept_in(storage.into(), &self.spec, halves)
    }
}

/// The safetensors files of a base: the single one, or those of the index.
///
/// # Errors
/// There are none, the index is not valid, or a file that it names is missing.
pub fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
    // Where both are there, transformers reads the single file.
    if single.exists() {
        return Ok(vec![single]);
    }
    if !index.exists() {
        return Err(no_weights(folder));
    }
    let fault = |message: String| Error::Config { path: index.clone(), message, hint: None };
    let content = read_text_up_to(&index, JSON_BYTES)?;
    let content: Value = serde_json::from_str(&content).map_err(|error| fault(format!("not valid JSON: {error}")))?;
    let map = content.get("weight_map").and_then(Value::as_object).ok_or_else(|| fault("`weight_map` is missing".to_owned()))?;
    let names = shard_names(map).map_err(&fault)?;
    let missing: Vec<_> = names.iter().filter(|name| !folder.join(name).exists()).map(|name| format!("`{name}`")).collect();
    if missing.is_empty() && !names.is_empty() {
        Ok(names.iter().map(|name| folder.join(name)).collect())
    } else {
        let some = listed(&missing).join(", ");
        Err(fault(format!("{} of {} shards are missing: {some}", missing.len(), names.len())))
    }
}

/// The files that an index names; a name that could lead anywhere but into the index's own folder is refused on every system.
fn shard_names(map: &Map<String, Value>) -> Result<BTreeSet<&str>, String> {
    let is_shard = |name: &&str| name.ends_with(".safetensors") && !name.contains(['/', '\\', ':', '\0']);
    let refused = |name: &Value| {
        let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        format!("`weight_map` names `{name}`, expected a safetensors file of this folder")
    };
    map.values().map(|name| name.as_str().filter(is_shard).ok_or_else(|| refused(name))).collect()
}

fn no_weights(folder: &Path) -> Error {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pickles: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|end| PICKLES.iter().any(|pickle| end == *pickle)))
        .map(|name| format!("`{}`", name.display()))
        .collect();
    let found = if pickles.is_empty() { String::new() } else { format!(", only {}", listed(&pickles).join(", ")) };
    Error::NoWeights { folder: folder.to_owned(), found }
}

/// Opens every shard; their headers together may describe no more than memory can take.
fn open_shards(folder: &Path) -> Result<Vec<Archive>, Error> {
    let (mut shards, mut tensors) = (Vec::new(), 0);
    for path in shard_paths(folder)? {
        let shard = Archive::open(&path)?;
        tensors += shard.tensors();
        if tensors > MAX_TENSORS {
            let message = format!("with this file the base has {tensors} tensors, expected at most {MAX_TENSORS}");
            return Err(Error::Config { path, message, hint: None });
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// Open shards and which of them holds a tensor.
#[derive(Debug)]
pub(super) struct Weights {
    shards: Vec<Archive>,
    place: BTreeMap<String, usize>,
}

impl Weights {
    pub(super) fn open(folder: &Path, spec: &DecoderSpec) -> Result<Self, Error> {
        let shards = open_shards(folder)?;
        let (mut found, mut faults) = (BTreeMap::new(), Vec::new());
        for (index, shard) in shards.iter().enumerate() {
            for (name, shape) in shard.shapes() {
                if let Some((first, _)) = found.insert(name.clone(), (index, shape)) {
                    let [first, second] = [first, index].map(|shard: usize| shards[shard].path().display());
                    faults.push(format!("tensor `{name}` stands in two shards, `{first}` and `{second}`"));
                }
            }
        }
        let weights = Self { place: found.iter().map(|(name, (index, _))| (name.clone(), *index)).collect(), shards };
        let mut packed = BTreeSet::new();
        for (name, shape) in spec.tensors() {
            let parts = <[usize; 2]>::try_from(&shape[..]).ok().and_then(|shape| weights.parts(&name, shape));
            if let Some(parts) = &parts {
                faults.extend(parts.as_ref().err().map(|fault| format!("tensor `{name}`, which bitsandbytes packed: {fault}")));
                packed.insert(name.clone());
            }
            match found.remove(&name) {
                None => faults.push(format!("tensor `{name}` is missing, expected shape {shape:?}")),
                Some(_) if parts.is_some() => {}
                Some((_, other)) if other != shape => {
                    faults.push(format!("tensor `{name}` has shape {other:?}, expected {shape:?}"));
                }
                Some(_) => {}
            }
        }
        let unread = weights.shards.iter().flat_map(Archive::unreadable);
        for (name, dtype) in unread.filter(|(name, _)| !packed.contains(name) && !prequantized::is_part(name)) {
            faults.push(format!("tensor `{name}` has dtype {dtype:?}, expected F32, F16 or BF16"));
        }
        faults.extend(weights.half_packed_fault(spec, &packed));
        // Old Llama checkpoints store the rotation's frequencies, which follow from config.json; a tied head may be stored twice.
        let harmless =
            |name: &str| name.ends_with("rotary_emb.inv_freq") || (spec.tied_head && name == HEAD) || prequantized::is_part(name);
        let extra = found.iter().filter(|(name, _)| !harmless(name));
        faults.extend(extra.map(|(name, (_, shape))| format!("tensor `{name}` of shape {shape:?} is not part of the model")));
        faults.extend(weights.tied_head_fault(spec));
        if faults.is_empty() { Ok(weights) } else { Err(Error::Tensors { folder: folder.to_owned(), faults }) }
    }

    /// Projections are packed alike, or none is; so may be a head, and the embedding never is.
    fn half_packed_fault(&self, spec: &DecoderSpec, packed: &BTreeSet<String>) -> Option<String> {
        let first = self.form(spec);
        let name = |linear: &LinearSpec| format!("{}.weight", linear.name);
        let projections = spec.projections().into_iter().map(|linear| (name(&linear), [linear.outputs, linear.inputs]));
        let head = packed.contains(HEAD).then(|| (HEAD.to_owned(), [spec.vocabulary, spec.width]));
        let differs = |(name, shape): &(String, [usize; 2])| match self.parts(name, *shape) {
            None => first.is_some(),
            // Of parts that do not fit more was said already.
            Some(Err(_)) => false,
            Some(Ok(parts)) => Some(parts.form()) != first,
        };
        let other = projections.chain(head).find(differs).map(|(name, _)| name);
        let embedding = packed.contains(EMBEDDING).then(|| EMBEDDING.to_owned());
        let first = first.map_or_else(|| "not packed".to_owned(), |first| format!("in {first}"));
        other.or(embedding).map(|name| format!("tensor `{name}` is not as the first projection is, which is {first}"))
    }

    /// A stored copy of a tied head must be the embedding.
    fn tied_head_fault(&self, spec: &DecoderSpec) -> Option<String> {
        let differ = spec.tied_head && self.bytes(HEAD)? != self.bytes(EMBEDDING)?;
        differ.then(|| format!("tensor `{HEAD}` differs from `{EMBEDDING}`, expected equal: config.json ties them"))
    }
}

impl Weights {
    pub(super) fn shards(&self) -> &[Archive] {
        &self.shards
    }

    /// Which shard has a tensor.
    pub(super) fn place(&self, name: &str) -> usize {
        self.place[name]
    }

    pub(super) fn stored(&self, name: &str) -> Result<Stored<'_>, Error> {
        Ok(self.shards[self.place[name]].stored(name)?.expect("names were taken from the shards"))
    }

    pub(super) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.shards[*self.place.get(name)?].bytes(name)
    }

    /// The parts of a packed weight [out, in]; `None` where it is not packed.
    pub(super) fn parts(&self, name: &str, shape: [usize; 2]) -> Option<Result<Parts<'_>, String>> {
        Parts::find(|name| self.bytes(name), name, shape)
    }

    fn form_of(&self, name: &str, linear: &LinearSpec) -> Option<Form> {
        self.parts(name, [linear.outputs, linear.inputs])?.ok().map(|parts| parts.form())
    }

    /// How the projections are packed, where they are: as the first one is.
    pub(super) fn form(&self, spec: &DecoderSpec) -> Option<Form> {
        let first = spec.projections().into_iter().next()?;
        self.form_of(&format!("{}.weight", first.name), &first)
    }

    /// How a model is kept.
    fn kept_in(&self, asked: Storage, spec: &DecoderSpec, halves: Halves) -> Result<Storage, Error> {
        let stored = self.form(spec);
        let has_packed_head = self.parts(HEAD, [spec.vocabulary, spec.width]).is_some();
        Ok(Storage {
            dtype: self.dtype(asked.dtype, spec, halves)?,
            form: stored.or(asked.form),
            packs_head: (asked.packs_head || has_packed_head) && !spec.tied_head,
            offloads_embedding: asked.offloads_embedding && !spec.tied_head,
        })
    }

    /// The dtype of matrices that are not packed.
    fn dtype(&self, asked: ModelDtype, spec: &DecoderSpec, halves: Halves) -> Result<ModelDtype, Error> {
        if asked != ModelDtype::Auto {
            return Ok(asked);
        }
        let is_numbers = |(name, shape): &(String, Vec<usize>)| match shape[..] {
            [rows, columns] => self.parts(name, [rows, columns]).is_none(),
            _ => false,
        };
        let of_matrices = spec.tensors().into_iter().filter(is_numbers);
        let floats = of_matrices.map(|(name, _)| Ok(self.stored(&name)?.float)).collect::<Result<Vec<_>, Error>>()?;
        Ok(match halves {
            Halves::Widened if floats.iter().all(|float| *float == Float::Bf16) => ModelDtype::Bfloat16,
            Halves::Computed(Some(half)) if !floats.contains(&Float::F32) => half,
            _ => ModelDtype::Float32,
        })
    }
}

/// The numbers, of which none became infinite on its way into 16 bits.
fn finite(name: &str, numbers: Vec<f16>) -> Result<Vec<f16>, Error> {
    if numbers.iter().any(|number| number.is_infinite()) {
        Err(Error::BeyondFloat16 { name: name.to_owned() })
    } else {
        Ok(numbers)
    }
}

impl Source for Weights {
    fn vector(&self, name: &str, _length: usize) -> Result<Vec<f32>, Error> {
        let stored = self.stored(name)?;
        Ok(read_straight(&stored, 0..stored.len()))
    }

    fn rows(&self, name: &str, rows: Range<usize>, columns: usize, dtype: DType) -> Result<TensorData, Error> {
        let (stored, shape) = (self.stored(name)?, [rows.len(), columns]);
        let numbers = rows.start * columns..rows.end * columns;
        Ok(match dtype {
            DType::BF16 => TensorData::new(read_straight::<bf16>(&stored, numbers), shape),
            DType::F16 => TensorData::new(finite(name, read_straight::<f16>(&stored, numbers))?, shape),
            _ => TensorData::new(read_straight::<f32>(&stored, numbers), shape),
        })
    }

    fn transposed(&self, name: &str, [rows, columns]: [usize; 2], dtype: DType) -> Result<TensorData, Error> {
        let stored = self.stored(name)?;
        Ok(match dtype {
            DType::BF16 => TensorData::new(read_transposed::<bf16>(&stored, rows, columns), [columns, rows]),
            DType::F16 => TensorData::new(finite(name, read_transposed::<f16>(&stored, rows, columns))?, [columns, rows]),
            _ => TensorData::new(read_transposed::<f32>(&stored, rows, columns), [columns, rows]),
        })
    }

    /// From the numbers that the file has, whatever the others are kept in; int8 from float16, as bitsandbytes does.
    fn packed(&self, name: &str, shape: [usize; 2], form: Form) -> Result<Quantized, Error> {
        if let Some(parts) = self.parts(name, shape) {
            return Ok(parts.expect("it was checked when the files were opened").read(shape));
        }
        let (stored, whole) = (self.stored(name)?, 0..shape[0] * shape[1]);
        let packed = match (form, stored.float) {
            (Form::Int8, _) => form.pack(shape, &finite(name, read_straight::<f16>(&stored, whole))?),
            (_, Float::Bf16) => form.pack(shape, &read_straight::<bf16>(&stored, whole)),
            (_, Float::F16) => form.pack(shape, &read_straight::<f16>(&stored, whole)),
            (_, Float::F32) => form.pack(shape, &read_straight::<f32>(&stored, whole)),
        };
        packed.map_err(|cause| Error::Packing { name: name.to_owned(), cause })
    }
}
