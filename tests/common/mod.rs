//! Reading the golden files.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use rankine::adapter::{LoraConfig, attach, peft};
use rankine::data::{Batch, TokenRow};
use rankine::device::{self, FoundDevice};
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::{Decoder, Folder};
use serde_json::Value;

pub const FAMILIES: [&str; 46] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_5",
    "qwen3_5_moe",
    "lfm2",
    "lfm3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "olmo2",
    "smollm3",
    "phi3",
    "phi3_longrope",
    "mixtral",
    "qwen3_moe",
    "deepseek_v2",
    "deepseek_v3",
    "falcon_7b",
    "falcon_new",
    "gpt_oss",
    "ministral3",
    "olmo3",
    "granite4",
    "granite4_h",
    "exaone4",
    "cohere2",
    "glm4",
    "seed_oss",
    "hunyuan_v1_dense",
    "ernie4_5",
    "nanochat",
    "qwen2_moe",
    "olmoe",
    "granitemoe",
    "starcoder2",
    "phi",
    "nemotron",
    "stablelm",
    "gpt_neox",
    "gpt2",
    "gemma4_dense",
    "gemma4_moe",
    "gemma4_small",
];
/// The families that a test on a GPU goes through: all, or those that `RANKINE_TEST_FAMILIES` names
/// with commas between them.
pub fn tested_families() -> Vec<&'static str> {
    let named = std::env::var("RANKINE_TEST_FAMILIES").unwrap_or_default();
    let is_named = |family: &&str| named.is_empty() || named.split(',').any(|name| name == *family);
    let tested: Vec<&str> = FAMILIES.into_iter().filter(is_named).collect();
    assert!(
        !tested.is_empty(),
        "RANKINE_TEST_FAMILIES names none of {FAMILIES:?}: {named}"
    );
    tested
}

/// The backend whose first GPU is tested: `RANKINE_TEST_DEVICE`, `wgpu` or `cuda`; `wgpu` where it
/// is not set.
pub fn tested_backend() -> String {
    std::env::var("RANKINE_TEST_DEVICE").unwrap_or_else(|_| "wgpu".to_owned())
}

/// The GPU that is tested, a software one included. Without one a test says so and is skipped, but
/// where `RANKINE_TEST_DEVICE` asks for it.
pub fn tested_gpu() -> Option<&'static FoundDevice> {
    let backend = tested_backend();
    let found = match backend.as_str() {
        "cuda" => device::cuda_gpus().first(),
        "wgpu" => device::wgpu_adapters().first(),
        other => panic!("RANKINE_TEST_DEVICE is `{other}`, expected `wgpu` or `cuda`"),
    };
    match found {
        Some(found) => println!("on {}", found.describe()),
        None if std::env::var_os("RANKINE_TEST_DEVICE").is_some() => {
            panic!("RANKINE_TEST_DEVICE is `{backend}`, which finds no GPU")
        }
        None => println!("skipped: {backend} finds no GPU"),
    }
    found
}

/// Those of which there are goldens of all weights trained.
pub const FIRST_FAMILIES: [&str; 6] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3_5",
    "granite4_h",
];

/// A file of tests/golden, or of the set of the same layout that `RANKINE_GOLDEN` names.
pub fn golden(path: &str) -> PathBuf {
    let set = std::env::var_os("RANKINE_GOLDEN").map(PathBuf::from);
    set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))
        .join(path)
}

/// A file of tests/golden, whatever `RANKINE_GOLDEN` names: of what has values of these weights
/// only.
pub fn committed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(
        &std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
    .unwrap()
}

pub fn load(folder: &Path) -> Decoder {
    Folder::open(folder)
        .unwrap()
        .load(rankine::terms::ModelDtype::Auto, &Device::flex(), &|_| {})
        .unwrap()
}

/// A base with another config.json beside the same weights.
pub fn load_with_config(folder: &Path, config: &Path) -> Decoder {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    std::fs::copy(config, copy.path().join("config.json")).unwrap();
    load(copy.path())
}

/// A bound on what golden.json has of `quantity`, or five times the noise of the golden itself (its
/// runs in f64 and by another attention) where that is more than a fifth of the bound.
pub fn bound(info: &Value, quantity: &str, usual: f64) -> f64 {
    let runs = info["noise"].as_object();
    let noise = runs
        .into_iter()
        .flat_map(|runs| runs.values())
        .filter_map(|run| run[quantity].as_f64());
    usual.max(5.0 * noise.fold(0.0, f64::max))
}

/// A plain adapter on every projection.
pub fn lora(rank: usize, alpha: f64) -> LoraConfig {
    LoraConfig::all_linear(rank, alpha)
}

/// Attaches a PEFT folder's adapter and returns its config.
pub fn attach_peft(decoder: &mut Decoder, folder: &Path) -> LoraConfig {
    let config = peft::read_config(folder).unwrap();
    let numbers = peft::read_numbers(folder, &config, &decoder.spec.modules()).unwrap();
    attach(decoder, &config, 0, Some(&numbers)).unwrap();
    config
}

/// Adapters of stacked parameters of experts, and of single experts' modules: the family and the
/// variant.
pub const OF_EXPERTS: [(&str, &str); 11] = [
    ("mixtral", "target_parameters"),
    ("qwen3_moe", "target_parameters"),
    ("deepseek_v2", "target_parameters"),
    ("deepseek_v3", "target_parameters"),
    ("gpt_oss", "target_parameters"),
    ("gemma4_moe", "target_parameters"),
    ("granitemoe", "target_parameters"),
    ("mixtral", "per_expert"),
    ("qwen3_moe", "per_expert"),
    ("deepseek_v2", "per_expert"),
    ("deepseek_v3", "per_expert"),
];

/// The folders of a family and of some variants of it: all of them in tests/golden, of another set
/// those that it has.
pub fn variants<'a>(
    of: &'a [(&str, &str)],
) -> impl Iterator<Item = (&'a str, &'a str, PathBuf, PathBuf)> {
    let folders = of.iter().map(|(family, variant)| {
        let folder = golden(&format!("archs/{family}"));
        (
            *family,
            *variant,
            folder.clone(),
            folder.join("variants").join(variant),
        )
    });
    folders.filter(|(_, _, _, case)| case.exists() || std::env::var_os("RANKINE_GOLDEN").is_none())
}

/// Adapters of the embedding and the head, and of what comes from the embedding: the family and the
/// variant.
pub const TABLES: [(&str, &str); 13] = [
    ("llama", "modules_to_save"),
    ("llama", "embedding_lora"),
    ("llama", "trainable_tokens"),
    ("llama", "trainable_tokens_of_both"),
    // Their head is their embedding.
    ("qwen2", "modules_to_save"),
    ("qwen2", "embedding_lora"),
    ("qwen2", "trainable_tokens"),
    ("qwen2", "trainable_tokens_of_the_head"),
    // The same with rows that are scaled and logits that are capped.
    ("gemma2", "modules_to_save"),
    ("gemma2", "embedding_lora"),
    ("gemma2", "trainable_tokens"),
    // The layers' own inputs come from the embedding.
    ("gemma4_small", "all_linear"),
    ("gemma4_small", "trainable_tokens"),
];

/// The rows of `input_ids`, `attention_mask` and `labels` under a prefix: [rows, length] each, or
/// the slice `index` of them.
pub fn rows(archive: &Archive, prefix: &str, index: Option<usize>) -> Vec<TokenRow> {
    let read = |key: &str| {
        let bytes = archive.bytes(&format!("{prefix}{key}")).unwrap();
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|value| i64::from_le_bytes(*value))
            .collect::<Vec<_>>()
    };
    let shape = archive
        .shape(&format!("{prefix}input_ids"))
        .unwrap()
        .to_vec();
    let (count, length) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let (ids, mask, labels) = (read("input_ids"), read("attention_mask"), read("labels"));
    let start = index.unwrap_or(0) * count * length;
    let row = |row: usize| {
        let range = start + row * length..start + (row + 1) * length;
        let places = range.filter(|place| mask[*place] == 1);
        TokenRow {
            ids: places
                .clone()
                .map(|place| u32::try_from(ids[place]).unwrap())
                .collect(),
            trained: places.map(|place| labels[place] != -100).collect(),
        }
    };
    (0..count).map(row).collect()
}

pub fn batch(rows: Vec<TokenRow>) -> Batch {
    Batch::new(
        rows.into_iter()
            .enumerate()
            .map(|(index, row)| (index as u64, row)),
    )
}

pub fn ids(batch: &Batch) -> Tensor<2, Int> {
    Tensor::from_data(
        TensorData::new(batch.ids.clone(), [1, batch.ids.len()]),
        &Device::flex(),
    )
}

/// Logits of every token of a batch, [tokens, vocabulary].
pub fn logits(decoder: &Decoder, batch: &Batch) -> Vec<f32> {
    let ids = Tensor::from_data(
        TensorData::new(batch.ids.clone(), [1, batch.ids.len()]),
        &decoder.device(),
    );
    decoder
        .logits(ids, &batch.lengths)
        .into_data()
        .iter()
        .collect()
}

/// Tokens of the two rows of [`loss_and_mark`].
const ROWS: [usize; 2] = [24, 9];

/// What `tests/golden/make_configs.py` records of a decoder: the mean loss of the next token over
/// two rows, and the sum of all logits times cos(1 + 0.37 k), k their running number, by the number
/// of tokens.
pub fn loss_and_mark(decoder: &Decoder) -> [f64; 2] {
    let vocabulary = decoder.spec.vocabulary;
    let (mut loss, mut mark, mut k) = (0.0, 0.0, 0.0);
    for (row, length) in ROWS.into_iter().enumerate() {
        let ids: Vec<u32> = (0..length)
            .map(|i| ((7 + 31 * i + 13 * i * i + row) % vocabulary) as u32)
            .collect();
        let logits = logits(
            decoder,
            &batch(vec![TokenRow {
                ids: ids.clone(),
                trained: vec![true; length],
            }]),
        );
        for (place, logits) in logits.chunks(vocabulary).enumerate() {
            let logits: Vec<f64> = logits.iter().map(|z| f64::from(*z)).collect();
            if let Some(next) = ids.get(place + 1) {
                let top = logits.iter().fold(f64::NEG_INFINITY, |top, z| top.max(*z));
                loss += top + logits.iter().map(|z| (z - top).exp()).sum::<f64>().ln()
                    - logits[*next as usize];
            }
            for z in logits {
                mark += z * (0.37_f64.mul_add(k, 1.0)).cos();
                k += 1.0;
            }
        }
    }
    let tokens: usize = ROWS.iter().sum();
    [loss / (tokens - ROWS.len()) as f64, mark / tokens as f64]
}

/// Largest difference between logits and a golden tensor [rows, length, vocabulary], whose rows are
/// padded on the right.
pub fn logits_difference(decoder: &Decoder, rows: &[TokenRow], golden: &[f32]) -> f32 {
    let (ours, theirs) = (
        logits(decoder, &batch(rows.to_vec())),
        real_tokens(rows, golden, decoder.spec.vocabulary),
    );
    difference(&ours, &theirs)
}

/// What a golden tensor [rows, length, width], whose rows are padded on the right, has for the
/// tokens of the rows.
pub fn real_tokens(rows: &[TokenRow], golden: &[f32], width: usize) -> Vec<f32> {
    let padded = golden.chunks(golden.len() / rows.len());
    rows.iter()
        .zip(padded)
        .flat_map(|(row, golden)| &golden[..row.ids.len() * width])
        .copied()
        .collect()
}

pub fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    largest(
        left.iter()
            .zip(right)
            .map(|(left, right)| (left - right).abs()),
    )
}

/// The largest value; NaN if one is, which no bound then holds for.
pub fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest: f32, value| {
        if largest.is_nan() || value.is_nan() {
            f32::NAN
        } else {
            largest.max(value)
        }
    })
}

/// A family's folder of model and adapter, or one of which llama.cpp knows the pattern of layers:
/// with more of them where some do not rotate, with experts in all of them.
pub fn exportable(case: &Path, family: &str) -> (PathBuf, Option<tempfile::TempDir>) {
    if !["smollm3", "qwen3_moe"].contains(&family) {
        return (case.to_owned(), None);
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, adapter) = (folder.path().join("model"), folder.path().join("adapter"));
    for (from, to) in [
        (case.join("model"), &model),
        (case.join("adapter"), &adapter),
    ] {
        fs::create_dir(to).unwrap();
        for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let mut config = json(&model.join("config.json"));
    if family == "smollm3" {
        config["num_hidden_layers"] = 5.into();
        config["no_rope_layers"] = vec![1, 1, 1, 0, 1].into();
        config["layer_types"] = vec!["full_attention"; 5].into();
        for path in [
            model.join("model.safetensors"),
            adapter.join("adapter_model.safetensors"),
        ] {
            retold(&path, |name| {
                let layers = (2..5).map(|layer| {
                    (
                        format!("model.layers.{}.", layer % 2),
                        format!("model.layers.{layer}."),
                    )
                });
                let more = layers
                    .filter(|(from, _)| name.contains(from))
                    .map(|(from, to)| name.replace(&from, &to));
                [name.to_owned()].into_iter().chain(more).collect()
            });
        }
    } else {
        config["mlp_only_layers"] = Value::Array(Vec::new());
        retold(&model.join("model.safetensors"), |name| {
            match name.strip_prefix("model.layers.1.mlp.") {
                Some(rest) => vec![name.to_owned(), format!("model.layers.0.mlp.{rest}")],
                None if name.starts_with("model.layers.0.mlp.") => Vec::new(),
                None => vec![name.to_owned()],
            }
        });
    }
    fs::write(model.join("config.json"), config.to_string()).unwrap();
    (folder.path().to_owned(), Some(folder))
}

/// Writes a file anew, each tensor under these names.
pub fn retold(path: &Path, names: impl Fn(&str) -> Vec<String>) {
    let archive = Archive::open(path).unwrap();
    let told = |(name, shape): (String, Vec<usize>)| {
        let numbers = archive.read_f32(&name).unwrap().unwrap();
        names(&name)
            .into_iter()
            .map(|to| (to, shape.clone(), numbers.clone()))
            .collect::<Vec<_>>()
    };
    let tensors: Vec<Named> = archive.shapes().into_iter().flat_map(told).collect();
    drop(archive);
    write_f32(path, &tensors, &[("format", "pt".to_owned())]).unwrap();
}
