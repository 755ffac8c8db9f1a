//! `adapter_model.safetensors`: what lies where in it for a model, and its numbers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::WEIGHTS;
use crate::adapter::attach::Numbers;
use crate::adapter::experts::{Routed, Stack, b_of, stacks};
use crate::adapter::tables::TableTarget;
use crate::adapter::{Error, LoraConfig, Target};
use crate::files::safetensors::Archive;
use crate::model::{LinearSpec, Role};
use crate::nn::lora::Portion;

const PICKLE: &str = "adapter_model.bin";

/// Reads `adapter_model.safetensors` for a model with these modules: of a table, or of rows of it, the first of the two alone. Where a table
/// that has matrices came with them, it stands under `MODULE.base_layer`.
///
/// # Errors
/// The file is damaged, or a tensor is missing, left over or of another shape; all of them are listed.
pub fn read_numbers(folder: &Path, config: &LoraConfig, modules: &[LinearSpec]) -> Result<Numbers, Error> {
    let archive = open(folder)?;
    let Contents { pairs, tables, bases } = contents_in(&archive, config, modules)?;
    let one = |key: &str| Ok::<_, Error>([archive.read_f32(key)?.unwrap_or_default(), Vec::new()]);
    let last = LastB::default();
    let vector = |stored: &Stored| stored.vector.as_ref().map(|(name, key)| Ok((name.clone(), one(key)?)));
    let vectors: Vec<_> = pairs.iter().filter_map(vector).collect();
    let pairs = pairs.into_iter().map(|stored| Ok((stored.target.module.clone(), stored.read(&archive, &last)?)));
    let tables = tables.into_iter().map(|stored| Ok((stored.target.module.name.clone(), one(&stored.key)?)));
    let bases = bases.into_iter().map(|(module, key)| Ok((format!("{module}.base_layer"), one(&key)?)));
    pairs.chain(tables).chain(bases).chain(vectors).collect()
}

/// Opens `adapter_model.safetensors`.
///
/// # Errors
/// The file is missing or damaged.
pub fn open(folder: &Path) -> Result<Archive, Error> {
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join(PICKLE).exists() {
        let message = format!("there is no such file, only `{PICKLE}`; pickle files can run code and are refused");
        return Err(Error::Config { place: path.display().to_string(), message });
    }
    Ok(Archive::open(&path)?)
}

/// What a file holds; names and shapes are right.
#[derive(Debug, Default)]
pub struct Contents {
    /// Matrices A and B.
    pub pairs: Vec<Stored>,
    /// Tables, and rows of them.
    pub tables: Vec<StoredTable>,
    /// Modules with matrices, and the keys of the base's tables that PEFT saved below them.
    pub bases: Vec<(String, String)>,
}

/// A table, or rows of it, where they lie in an open file.
#[derive(Debug)]
pub struct StoredTable {
    /// Which.
    pub target: TableTarget,
    /// Its key.
    pub key: String,
}

/// An adapter's A [r, in] and B [out, r] where they lie in an open file; names and shapes are right.
#[derive(Debug)]
pub struct Stored {
    /// The adapter.
    pub target: Target,
    keys: [String; 2],
    /// The name of its vector, where it has one, and the key.
    vector: Option<(String, String)>,
    /// Which part of a matrix of all experts it is.
    slice: Option<(Arc<Stack>, Routed)>,
}

/// The B of all experts that was read last, by its key: each of them asks for its part of it.
pub type LastB = Mutex<Option<(String, Vec<f32>)>>;

impl Stored {
    /// The numbers of A and B.
    ///
    /// # Errors
    /// They are not of f32, f16 or bf16.
    pub fn read(&self, archive: &Archive, last: &LastB) -> Result<[Vec<f32>; 2], Error> {
        if let Some((stack, Routed { expert, place, .. })) = &self.slice {
            let ([of_a, of_b], rank) = (&self.keys, self.target.rank);
            let a = archive.read_rows_f32(of_a, expert * rank..(expert + 1) * rank)?.unwrap_or_default();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_none_or(|(key, _)| key != of_b) {
                *last = Some((of_b.clone(), archive.read_f32(of_b)?.unwrap_or_default()));
            }
            let (_, all) = last.as_ref().expect("it was read");
            return Ok([a, b_of(all, stack, rank, *expert, *place)]);
        }
        let [a, b] = self.keys.each_ref().map(|key| archive.read_f32(key));
        Ok([a?.unwrap_or_default(), b?.unwrap_or_default()])
    }

    /// The numbers of its vector [out], where it has one.
    ///
    /// # Errors
    /// They are not of f32, f16 or bf16.
    pub fn read_vector(&self, archive: &Archive) -> Result<Option<Vec<f32>>, Error> {
        let Some((_, key)) = &self.vector else { return Ok(None) };
        Ok(Some(archive.read_f32(key)?.unwrap_or_default()))
    }
}

/// Finds the matrices of an open file, and reads none of them.
///
/// # Errors
/// A tensor is missing, left over or of another shape; all of them are listed. Or there is more than matrices.
pub fn stored_in(archive: &Archive, config: &LoraConfig, modules: &[LinearSpec]) -> Result<Vec<Stored>, Error> {
    let contents = contents_in(archive, config, modules)?;
    let Some(table) = contents.tables.first() else { return Ok(contents.pairs) };
    let message = format!("tensor `{}` is no low-rank matrix, and nothing else can be written in this format", table.key);
    Err(Error::Config { place: archive.path().display().to_string(), message })
}

/// Finds what an open file has, and reads nothing.
///
/// # Errors
/// A tensor is missing, left over or of another shape; all of them are listed.
pub fn contents_in(archive: &Archive, config: &LoraConfig, modules: &[LinearSpec]) -> Result<Contents, Error> {
    let mut found = archive.shapes();
    let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
    let (mut contents, mut faults) = (Contents::default(), Vec::new());
    config.check_vector(modules)?;
    let mut take = |name: &str, expected: &[usize]| {
        let key = format!("base_model.model.{name}");
        match found.remove(&key) {
            Some(shape) if shape == expected => {}
            Some(shape) => faults.push(format!("tensor `{key}` has shape {shape:?}, expected {expected:?}")),
            None => faults.push(format!("tensor `{key}` is missing, expected shape {expected:?}")),
        }
        key
    };
    let targets = config.resolve(&names)?;
    let linear_of: BTreeMap<&str, &LinearSpec> = modules.iter().map(|linear| (linear.name.as_str(), linear)).collect();
    let linears = targets.iter().filter_map(|target| Some((target, *linear_of.get(target.module.as_str())?)));
    let stacks: BTreeMap<String, Arc<Stack>> =
        stacks(linears).into_iter().map(|(parameter, stack)| (parameter, Arc::new(stack))).collect();
    let mut of_stacks: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for target in targets {
        let Some(linear) = linear_of.get(target.module.as_str()) else { continue };
        let routed = Routed::of(&target.module).filter(|_| target.portion != Portion::Whole);
        let slice = routed.map(|routed| (stacks[&routed.parameter].clone(), routed));
        let (module, count, outputs) = match &slice {
            Some((stack, _)) => (&stack.key, stack.count, stack.outputs.iter().sum()),
            None => (&target.module, 1, linear.outputs),
        };
        let mut pair = || {
            let [a, b] = parts(linear.role).map(|part| format!("{module}.{part}"));
            [take(&a, &[target.rank * count, linear.inputs]), take(&b, &[outputs, target.rank * count])]
        };
        // Of all experts it is one.
        let keys = match &slice {
            Some((stack, _)) => of_stacks.entry(stack.key.clone()).or_insert_with(pair).clone(),
            None => pair(),
        };
        let vector = config.vector.map(|vector| {
            let name = format!("{module}.{}", vector.name());
            let key = take(&name, &[outputs]);
            (name, key)
        });
        contents.pairs.push(Stored { target, keys, vector, slice });
    }
    for target in config.table_targets(modules)? {
        if let Some(shape) = target.shape() {
            contents.tables.push(StoredTable { key: take(&target.tensor(), &shape), target });
        }
    }
    for linear in modules.iter().filter(|linear| linear.is_table()) {
        let key = format!("base_model.model.{}.base_layer.weight", linear.name);
        let has_matrices = contents.pairs.iter().any(|stored| stored.target.module == linear.name);
        if has_matrices && found.get(&key).is_some_and(|shape| *shape == linear.weight_shape()) {
            found.remove(&key);
            contents.bases.push((linear.name.clone(), key));
        }
    }
    faults.extend(
        found.iter().map(|(key, shape)| format!("tensor `{key}` of shape {shape:?} belongs to no adapter of the config")),
    );
    if faults.is_empty() { Ok(contents) } else { Err(Error::Tensors { place: archive.path().display().to_string(), faults }) }
}

/// What PEFT calls A and B of a module.
fn parts(role: Role) -> [&'static str; 2] {
    match role {
        Role::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        Role::Projection | Role::Head | Role::TiedHead => ["lora_A.weight", "lora_B.weight"],
    }
}
