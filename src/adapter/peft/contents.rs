//! Matches the tensors of an adapter's file with a model: every tensor has its place, or is
//! reported as a fault.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::keys::{Keys, PREFIX};
use super::stored::{AdapterTensors, Contents, ScoreTensors, StoredTable};
use crate::adapter::experts::{Routed, Stack, stacks};
use crate::adapter::score::{SCORE_COPIES, ScoreConfig};
use crate::adapter::tables::{TablePart, TableTarget};
use crate::adapter::{AdapterError, LoraConfig, Target};
use crate::files::safetensors::Archive;
use crate::model::{LinearSpec, Role};
use crate::nn::lora::Portion;

/// Names of the base's own table in PEFT's files: below matrices, below rows of tokens, beside a
/// trained copy, or bare.
const BASES: [&str; 4] = [
    "base_layer.weight",
    "token_adapter.base_layer.weight",
    "original_module.weight",
    "weight",
];
/// Names of a trained copy, by the way in which it was saved.
const COPIES: [&str; 2] = ["weight", "modules_to_save.weight"];
/// Words in the names of vision and audio modules.
const SENSES: [&str; 6] = [
    "vision",
    "visual",
    "image",
    "audio",
    "multi_modal",
    "mm_projector",
];

const OTHER_BASE: &str = "the adapter was trained on another base, or its files were mixed up";

/// Finds the tensors of an open file without reading their numbers.
///
/// # Errors
/// A tensor is missing, left over or of another shape; all of them are listed.
pub fn contents_in(
    archive: &Archive,
    config: &LoraConfig,
    modules: &[LinearSpec],
) -> Result<Contents, AdapterError> {
    let shapes = archive.shapes();
    let keys = Keys::read(shapes.keys()).on(modules);
    let place = archive.path().display().to_string();
    check_whole(&keys, &shapes, &place)?;
    config.check_vector(modules)?;
    let mut finder = Finder::new(archive, &keys, &shapes);
    let mut contents = Contents {
        pairs: finder.pairs(config, modules)?,
        ..Contents::default()
    };
    for target in config.table_targets(modules)? {
        contents.tables.extend(finder.table(target));
    }
    if let (Some(score), Some(width)) = (&config.score, width_of(modules)) {
        contents.score = Some(finder.score(score, width));
    }
    for linear in modules.iter().filter(|linear| linear.is_table()) {
        let trains = contents.tables.iter().any(|stored| {
            stored.target.module == *linear && stored.target.part == TablePart::Whole
        });
        if let Some(key) = finder.base(linear).filter(|_| !trains) {
            contents.bases.push((linear.name.clone(), key));
        }
    }
    let (faults, hint) = finder.finish();
    if faults.is_empty() {
        Ok(contents)
    } else {
        Err(AdapterError::Tensors {
            place,
            faults,
            hint,
        })
    }
}

/// Refuses the file of several adapters, two tensors with one name, and tensors that were saved
/// without their numbers.
fn check_whole(
    keys: &Keys,
    shapes: &BTreeMap<String, Vec<usize>>,
    place: &str,
) -> Result<(), AdapterError> {
    let refused = |message: String, hint: &str| {
        Err(AdapterError::Mixed {
            place: place.to_owned(),
            message,
            hint: hint.to_owned(),
        })
    };
    if keys.adapters.len() > 1 {
        let names: Vec<String> = keys
            .adapters
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let message = format!(
            "it holds the tensors of {} adapters, {}, expected one",
            names.len(),
            names.join(", ")
        );
        return refused(
            message,
            "save the one that is meant, with PEFT's `save_pretrained(.., selected_adapters=[..])`",
        );
    }
    if let Some([first, second]) = &keys.twice {
        return refused(
            format!("`{first}` and `{second}` are one tensor by their names"),
            "save the adapter anew with PEFT's `save_pretrained`",
        );
    }
    let empty: Vec<_> = shapes
        .iter()
        .filter(|(key, shape)| key.contains(".lora_") && shape.contains(&0))
        .collect();
    if let Some((key, shape)) = empty.first() {
        let message = format!(
            "{} of {} tensors are empty, such as `{key}` of shape {shape:?}: the file was saved \
            under DeepSpeed ZeRO-3 without gathering the weights",
            empty.len(),
            shapes.len()
        );
        return refused(
            message,
            "the numbers are not in this file: save it again with \
            `stage3_gather_16bit_weights_on_model_save: true`, or make the weights of the \
            checkpoint with DeepSpeed's `zero_to_fp32.py`",
        );
    }
    Ok(())
}

/// Takes tensors by their expected names, and keeps what does not fit.
struct Finder<'a> {
    archive: &'a Archive,
    keys: &'a Keys,
    /// Tensors of the file that were not matched yet, with their shapes.
    left: BTreeMap<&'a str, &'a [usize]>,
    faults: Vec<String>,
    /// Rows of a table with another vocabulary, and rows of the base's.
    resized: Option<[usize; 2]>,
    /// Whether a tensor of a layer is missing or has another shape.
    is_layer_off: bool,
}

impl<'a> Finder<'a> {
    fn new(archive: &'a Archive, keys: &'a Keys, shapes: &'a BTreeMap<String, Vec<usize>>) -> Self {
        let left = keys
            .names()
            .filter_map(|name| Some((name.as_str(), shapes.get(keys.key(name)?)?.as_slice())))
            .collect();
        Self {
            archive,
            keys,
            left,
            faults: Vec::new(),
            resized: None,
            is_layer_off: false,
        }
    }

    /// Returns the key of a tensor that must be there.
    fn take(&mut self, name: &str, expected: &[usize]) -> String {
        let key = self
            .keys
            .key(name)
            .cloned()
            .unwrap_or_else(|| format!("{PREFIX}{name}"));
        match self.left.remove(name) {
            Some(shape) if shape == expected => {}
            Some(shape) => {
                self.note_rows(shape, expected, name);
                self.faults.push(format!(
                    "tensor `{key}` has shape {shape:?}, expected {expected:?}"
                ));
            }
            None => {
                self.is_layer_off |= is_of_layer(name);
                self.faults.push(format!(
                    "tensor `{key}` is missing, expected shape {expected:?}"
                ));
            }
        }
        key
    }

    /// Notes whether the tensor is for another vocabulary: A of an embedding and B of a head have
    /// its length too.
    fn note_rows(&mut self, shape: &[usize], expected: &[usize], name: &str) {
        if is_of_layer(name) {
            self.is_layer_off = true;
        } else if let ([theirs, width], [ours, expected_width]) = (shape, expected) {
            let pair = match (theirs == ours, width == expected_width) {
                (false, true) => Some([*theirs, *ours]),
                (true, false) => Some([*width, *expected_width]),
                _ => None,
            };
            self.resized = self.resized.or(pair);
        }
    }

    /// Finds A and B of every module, and their vectors.
    fn pairs(
        &mut self,
        config: &LoraConfig,
        modules: &[LinearSpec],
    ) -> Result<Vec<AdapterTensors>, AdapterError> {
        let names: Vec<String> = modules.iter().map(|linear| linear.name.clone()).collect();
        let targets = config.resolve(&names)?;
        let linear_of: BTreeMap<&str, &LinearSpec> = modules
            .iter()
            .map(|linear| (linear.name.as_str(), linear))
            .collect();
        let linears = targets
            .iter()
            .filter_map(|target| Some((target, *linear_of.get(target.module.as_str())?)));
        let stacks: BTreeMap<String, Arc<Stack>> = stacks(linears)
            .into_iter()
            .map(|(parameter, stack)| (parameter, Arc::new(stack)))
            .collect();
        let (mut pairs, mut of_stacks) = (Vec::new(), BTreeMap::new());
        for target in targets {
            let Some(linear) = linear_of.get(target.module.as_str()) else {
                continue;
            };
            pairs.push(self.pair(config, target, linear, &stacks, &mut of_stacks));
        }
        Ok(pairs)
    }

    fn pair(
        &mut self,
        config: &LoraConfig,
        target: Target,
        linear: &LinearSpec,
        stacks: &BTreeMap<String, Arc<Stack>>,
        of_stacks: &mut BTreeMap<String, [String; 2]>,
    ) -> AdapterTensors {
        let routed = Routed::of(&target.module).filter(|_| target.portion != Portion::Whole);
        let slice = routed.map(|routed| (stacks[&routed.parameter].clone(), routed));
        let (module, count, outputs) = match &slice {
            Some((stack, _)) => (&stack.key, stack.count, stack.outputs.iter().sum()),
            None => (&target.module, 1, linear.outputs),
        };
        let both = |finder: &mut Self| {
            let [a, b] = parts(linear.role).map(|part| format!("{module}.{part}"));
            [
                finder.take(&a, &[target.rank * count, linear.inputs]),
                finder.take(&b, &[outputs, target.rank * count]),
            ]
        };
        // Of all experts it is one.
        let keys = match &slice {
            Some((stack, _)) => of_stacks
                .entry(stack.key.clone())
                .or_insert_with(|| both(self))
                .clone(),
            None => both(self),
        };
        let vector = config.vector.map(|vector| {
            let name = format!("{module}.{}", vector.name());
            let key = self.take(&name, &[outputs]);
            (name, key)
        });
        AdapterTensors {
            target,
            keys,
            vector,
            slice,
        }
    }

    /// Finds a table that trains whole, or rows of it. PEFT saves it by its module's name, and also
    /// below `modules_to_save` where all of an embedding is saved.
    fn table(&mut self, target: TableTarget) -> Option<StoredTable> {
        let shape = target.shape();
        let (module, name) = (target.module.name.clone(), target.tensor());
        let Some(shape) = shape else {
            // The rows are the embedding's, and stand here again where all of a head is saved.
            let end = &name[module.len()..];
            let of_embedding = self
                .keys
                .names()
                .find(|other| **other != name && other.ends_with(end));
            if let Some(key) = of_embedding
                .and_then(|other| self.keys.key(other))
                .filter(|_| self.left.contains_key(name.as_str()))
            {
                self.same(&key.clone(), &name);
            }
            return None;
        };
        if target.part != TablePart::Whole {
            return Some(StoredTable {
                key: self.take(&name, &shape),
                target,
            });
        }
        let copies = COPIES.map(|end| format!("{module}.{end}"));
        let is_there = |finder: &Self, name: &String| finder.left.contains_key(name.as_str());
        let there: Vec<&String> = copies.iter().filter(|name| is_there(self, name)).collect();
        let key = self.take(there.first().copied().unwrap_or(&name), &shape);
        for second in there.iter().skip(1) {
            self.same(&key, second);
        }
        Some(StoredTable { target, key })
    }

    /// Finds the weight of a score head, and its bias where it has one. Some files hold an
    /// untrained copy too, which is ignored.
    fn score(&mut self, score: &ScoreConfig, width: usize) -> ScoreTensors {
        let module = &score.module;
        let mut key = |part: &str, shape: &[usize]| {
            self.left
                .remove(format!("{module}.original_module.{part}").as_str());
            let copies = SCORE_COPIES.map(|copy| format!("{module}.{copy}{part}"));
            let there: Vec<&String> = copies
                .iter()
                .filter(|name| self.left.contains_key(name.as_str()))
                .collect();
            let key = self.take(there.first().copied().unwrap_or(&copies[0]), shape);
            for second in there.iter().skip(1) {
                self.same(&key, second);
            }
            key
        };
        let (weight, bias) = (
            key("weight", &[score.labels, width]),
            score.has_bias.then(|| key("bias", &[score.labels])),
        );
        let of_layer = score.layer.iter().flat_map(|layer| &layer.tensors);
        let of_layer = of_layer.map(|(name, shape)| (name.clone(), self.take(name, shape)));
        ScoreTensors {
            module: module.clone(),
            layer: of_layer.collect(),
            weight,
            bias,
        }
    }

    /// Takes a second copy of a tensor, which must equal the first.
    fn same(&mut self, key: &str, name: &str) {
        self.left.remove(name);
        let Some(other) = self.keys.key(name) else {
            return;
        };
        if self.archive.bytes(key) != self.archive.bytes(other) {
            self.faults.push(format!(
                "tensors `{key}` and `{other}` are to be one and differ"
            ));
        }
    }

    /// Finds the base's own table, where the file has it.
    fn base(&mut self, linear: &LinearSpec) -> Option<String> {
        let mut found: Option<String> = None;
        for name in BASES.map(|end| format!("{}.{end}", linear.name)) {
            match &found {
                None if self.left.contains_key(name.as_str()) => {
                    found = Some(self.take(&name, &linear.weight_shape()));
                }
                Some(key) if self.left.contains_key(name.as_str()) => {
                    let key = key.clone();
                    self.same(&key, &name);
                }
                _ => {}
            }
        }
        found
    }

    /// Returns all faults, and the next step.
    fn finish(mut self) -> (Vec<String>, String) {
        let left = |(name, shape): (&&str, &&[usize])| {
            let key = self.keys.key(name).map_or(*name, String::as_str);
            format!("tensor `{key}` of shape {shape:?} belongs to no adapter of the config")
        };
        self.faults.extend(self.left.iter().map(left));
        let hint = self.hint();
        (self.faults, hint)
    }

    fn hint(&self) -> String {
        let has = |words: &[&str]| {
            self.left
                .keys()
                .any(|name| words.iter().any(|word| name.contains(word)))
        };
        if let Some([theirs, ours]) = self.resized.filter(|_| !self.is_layer_off) {
            return format!(
                "the adapter was trained with a vocabulary of {theirs} rows, this base has {ours}: \
                resize the base in the same way (`model.resize_token_embeddings({theirs})` and \
                `save_pretrained` in transformers) and give it with `--base`"
            );
        }
        if has(&SENSES) {
            return "the adapter changes parts that see or hear too, and only the language model is \
                built here: train it on the language model alone".to_owned();
        }
        if self
            .left
            .keys()
            .any(|name| name.rsplit('.').next() == Some("bias"))
        {
            return "it has biases of the base that were trained with it (`bias` in \
                adapter_config.json), which is not supported yet"
                .to_owned();
        }
        OTHER_BASE.to_owned()
    }
}

/// Returns the width of a model with these modules.
fn width_of(modules: &[LinearSpec]) -> Option<usize> {
    let embedding = modules
        .iter()
        .find(|linear| linear.role == Role::Embedding)?;
    Some(embedding.weight_shape()[1])
}

fn is_of_layer(name: &str) -> bool {
    name.split('.').any(|part| part.parse::<usize>().is_ok())
}

/// Returns PEFT's names for A and B of a module.
fn parts(role: Role) -> [&'static str; 2] {
    match role {
        Role::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        Role::Projection | Role::Head | Role::TiedHead => ["lora_A.weight", "lora_B.weight"],
    }
}
