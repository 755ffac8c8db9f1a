//! `rankine export`: GGUF files whose numbers are those of the model's folder, in the order and
//! under the names of llama.cpp. LOG.md has the runs in which llama.cpp computed the goldens'
//! logits from these files, which are held here to the byte.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::*;
use half::{bf16, f16};
use rankine::adapter::peft;
use rankine::export::gguf::{GgmlType, check_model, write_gguf_adapter, write_gguf_model};
use rankine::fault::{Exit, Explain};
use rankine::files::hash_file;
use rankine::files::safetensors::Archive;
use rankine::model::{Folder, shard_paths};
use serde_json::Value;
use support::Desk;

/// Families of which llama.cpp computes models.
const EXPORTED: [&str; 14] = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
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
];

/// A GGUF file, read anew from the format's description.
#[derive(Debug)]
struct Gguf {
    pairs: BTreeMap<String, String>,
    /// Dimensions, the fastest first, and numbers.
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn size(&mut self) -> usize {
        usize::try_from(u64::from_le_bytes(self.take())).unwrap()
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.size();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> String {
        match kind {
            4 | 5 => self.number().to_string(),
            6 => f32::from_le_bytes(self.take()).to_string(),
            7 => (self.take::<1>() == [1]).to_string(),
            8 => self.text(),
            9 => {
                let (of, length) = (self.number(), self.size());
                (0..length)
                    .map(|_| self.value(of))
                    .collect::<Vec<_>>()
                    .join("\n")
            }
            other => panic!("a value of type {other}"),
        }
    }
}

fn numbers(kind: u32, count: usize, bytes: &[u8]) -> Vec<f32> {
    let pairs = || {
        bytes
            .chunks_exact(2)
            .take(count)
            .map(|pair| [pair[0], pair[1]])
    };
    match kind {
        0 => bytes
            .chunks_exact(4)
            .take(count)
            .map(|number| f32::from_le_bytes(number.try_into().unwrap()))
            .collect(),
        1 => pairs()
            .map(|pair| f16::from_le_bytes(pair).to_f32())
            .collect(),
        30 => pairs()
            .map(|pair| bf16::from_le_bytes(pair).to_f32())
            .collect(),
        8 => {
            let block = |block: &[u8]| {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                block[2..]
                    .iter()
                    .map(|byte| scale * f32::from(byte.cast_signed()))
                    .collect::<Vec<_>>()
            };
            bytes
                .chunks_exact(34)
                .take(count / 32)
                .flat_map(block)
                .collect()
        }
        other => panic!("a tensor of type {other}"),
    }
}

fn read(path: &Path) -> Gguf {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader {
        bytes: &bytes,
        at: 0,
    };
    assert_eq!((&reader.take::<4>(), reader.number()), (b"GGUF", 3));
    let (tensors, pairs) = (reader.size(), reader.size());
    let pair = |reader: &mut Reader| {
        let (key, kind) = (reader.text(), reader.number());
        (key, reader.value(kind))
    };
    let pairs = (0..pairs).map(|_| pair(&mut reader)).collect();
    let info = |reader: &mut Reader| {
        let (name, dimensions) = (reader.text(), reader.number());
        let shape: Vec<usize> = (0..dimensions).map(|_| reader.size()).collect();
        (name, shape, reader.number(), reader.size())
    };
    let infos: Vec<_> = (0..tensors).map(|_| info(&mut reader)).collect();
    let data = reader.at.next_multiple_of(32);
    let tensor = |(name, shape, kind, offset): (String, Vec<usize>, u32, usize)| {
        assert_eq!(offset % 32, 0, "{name}");
        let numbers = numbers(kind, shape.iter().product(), &bytes[data + offset..]);
        (name, (shape, numbers))
    };
    Gguf {
        pairs,
        tensors: infos.into_iter().map(tensor).collect(),
    }
}

fn exported(model: &Path, kind: GgmlType) -> (Gguf, rankine::files::Hash) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let written = write_gguf_model(model, &path, kind, &AtomicBool::new(false), &|_| {}).unwrap();
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    (read(&path), hash_file(&path).unwrap())
}

fn weight(model: &Path, name: &str) -> Vec<f32> {
    let mut shards = shard_paths(model)
        .unwrap()
        .into_iter()
        .map(|path| Archive::open(&path).unwrap());
    shards
        .find_map(|shard| shard.read_f32(name).unwrap())
        .unwrap()
}

/// Rows of a head from halves to neighbors, number by number.
fn turned(rows: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let head_dim = rows.len() / heads / width;
    let source = |row: usize| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + place % 2 * (head_dim / 2) + place / 2
    };
    (0..heads * head_dim)
        .flat_map(|row| rows[source(row) * width..(source(row) + 1) * width].to_vec())
        .collect()
}

fn committed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path)
}

/// Keys that llama.cpp's converter leaves to llama.cpp's defaults, which are these, for some
/// families.
const SAID_ALWAYS: [&str; 6] = [
    "feed_forward_length",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

/// `tests/golden/gguf` has what llama.cpp's own converter writes for these folders.
#[test]
fn keys_names_and_shapes_are_those_of_llama_cpps_converter() {
    for family in EXPORTED {
        let golden = json(&committed(&format!("gguf/{family}.json")));
        let (case, _folder) = exportable(&committed(&format!("archs/{family}")), family);
        let (gguf, _) = exported(&case.join("model"), GgmlType::F32);
        let architecture = golden["architecture"].as_str().unwrap();
        assert_eq!(gguf.pairs["general.architecture"], architecture, "{family}");
        let mut theirs = golden["keys"].as_object().unwrap().clone();
        // That of a dense layer, of which there is none.
        theirs.remove("qwen3moe.feed_forward_length");
        for (key, value) in &theirs {
            let value = value.as_f64().map_or_else(
                || value.as_str().unwrap().to_owned(),
                |number| (number as f32).to_string(),
            );
            assert_eq!(
                gguf.pairs
                    .get(key)
                    .unwrap_or_else(|| panic!("{family}: {key}")),
                &value,
                "{family}: {key}"
            );
        }
        let prefix = format!("{architecture}.");
        let own: Vec<&str> = gguf
            .pairs
            .keys()
            .filter(|key| !theirs.contains_key(*key))
            .filter_map(|key| key.strip_prefix(&prefix))
            .collect();
        // llama.cpp takes every sixth layer for one without a window, where these are every second.
        let pattern = if family == "gemma3_text" {
            Some("attention.sliding_window_pattern")
        } else {
            None
        };
        let unknown: Vec<_> = own
            .iter()
            .filter(|key| !SAID_ALWAYS.contains(key) && Some(**key) != pattern)
            .collect();
        assert_eq!(unknown, [""; 0].iter().collect::<Vec<_>>(), "{family}");
        let shapes: BTreeMap<String, Vec<usize>> = gguf
            .tensors
            .iter()
            .map(|(name, (shape, _))| (name.clone(), shape.iter().rev().copied().collect()))
            .collect();
        let theirs: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(golden["tensors"].clone()).unwrap();
        assert_eq!(shapes, theirs, "{family}");
    }
    let (gguf, _) = exported(&committed("archs/gemma3_text/model"), GgmlType::F32);
    assert_eq!(
        gguf.pairs["gemma3.attention.sliding_window_pattern"],
        "true\nfalse"
    );
}

/// The numbers of a tensor of GGUF's in the folder of the model: of experts one after the other.
fn stored_numbers(model: &Path, gguf: &str, config: &Value) -> Vec<f32> {
    let (module, parts) = match config["model_type"].as_str().unwrap() {
        "mixtral" => ("block_sparse_moe", ["w1", "w3", "w2"]),
        _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
    };
    let (layer, name) = gguf
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
        .unwrap_or_default();
    if name == "ffn_gate_inp.weight" {
        return weight(model, &format!("model.layers.{layer}.{module}.gate.weight"));
    }
    let stacks = [
        "ffn_gate_exps.weight",
        "ffn_up_exps.weight",
        "ffn_down_exps.weight",
    ];
    match stacks.iter().position(|stack| *stack == name) {
        Some(index) => {
            let of = |expert| {
                weight(
                    model,
                    &format!(
                        "model.layers.{layer}.{module}.experts.{expert}.{}.weight",
                        parts[index]
                    ),
                )
            };
            (0..config["num_local_experts"].as_u64().unwrap())
                .flat_map(of)
                .collect()
        }
        None => weight(model, &stored_name(gguf, config)),
    }
}

/// A tensor's name in the folder of the model.
fn stored_name(gguf: &str, config: &Value) -> String {
    let has_pre = ["gemma2", "gemma3_text", "olmo2"]
        .iter()
        .all(|family| config["model_type"] != **family);
    let (module, end) = gguf.rsplit_once('.').unwrap();
    let Some((layer, module)) = module
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
    else {
        let outside = match module {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            other => panic!("{other}"),
        };
        return format!("{outside}.{end}");
    };
    let is_fused = config["model_type"] == "phi3";
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" if has_pre => "post_attention_layernorm",
        "ffn_norm" => "pre_feedforward_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if is_fused => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("{other}"),
    };
    format!("model.layers.{layer}.{module}.{end}")
}

/// What llama.cpp has no key for is in the numbers: Gemma's norms of 1 + w, and scores that are not
/// divided by the root of a head's width.
#[test]
fn a_model_has_the_numbers_of_its_folder() {
    for family in EXPORTED {
        let (case, _folder) = exportable(&golden(&format!("archs/{family}")), family);
        let model = case.join("model");
        let (gguf, _) = exported(&model, GgmlType::F32);
        let (spec, config) = (
            Folder::open(&model).unwrap().spec,
            json(&model.join("config.json")),
        );
        let mixer = spec.layers[0].mixer.grouped().unwrap();
        assert_eq!(
            gguf.pairs["tokenizer.ggml.tokens"].split('\n').count(),
            spec.vocabulary,
            "{family}"
        );
        assert_eq!(
            gguf.tensors.contains_key("output.weight"),
            !spec.tied_head,
            "{family}"
        );
        let factors: Vec<&str> = gguf
            .tensors
            .keys()
            .filter(|name| name.starts_with("rope_"))
            .map(String::as_str)
            .collect();
        let expected: &[&str] = match family {
            "llama" => &["rope_freqs.weight"],
            "phi3_longrope" => &["rope_factors_long.weight", "rope_factors_short.weight"],
            _ => &[],
        };
        assert_eq!(factors, expected, "{family}");
        let is_turned = ["llama", "mistral", "granite", "smollm3", "mixtral"].contains(&family);
        let scalar = config["query_pre_attn_scalar"].as_f64();
        for (name, (_, numbers)) in gguf
            .tensors
            .iter()
            .filter(|(name, _)| !name.starts_with("rope_"))
        {
            let mut expected = stored_numbers(&model, name, &config);
            if name.contains("attn_q.") && is_turned {
                expected = turned(
                    &expected,
                    mixer.heads,
                    expected.len() / (mixer.heads * mixer.head_dim),
                );
            }
            if name.contains("attn_k.") && is_turned {
                expected = turned(
                    &expected,
                    mixer.kv_heads,
                    expected.len() / (mixer.kv_heads * mixer.head_dim),
                );
            }
            if name.ends_with("norm.weight") && family.starts_with("gemma") {
                expected = expected.into_iter().map(|number| number + 1.0).collect();
            }
            let scaled = match family {
                "gemma2" => name.contains("attn_q."),
                "gemma3_text" => name.contains("attn_q_norm."),
                _ => false,
            };
            if let Some(scalar) = scalar.filter(|_| scaled) {
                let missing = (mixer.head_dim as f64 / scalar).sqrt();
                expected = expected
                    .into_iter()
                    .map(|number| (f64::from(number) * missing) as f32)
                    .collect();
                assert!(difference(numbers, &expected) <= 1e-6, "{family}: {name}");
            } else {
                assert_eq!(*numbers, expected, "{family}: {name}");
            }
        }
    }
}

/// Whoever changes a byte shows anew, as LOG.md does, that llama.cpp computes right from the file.
#[test]
fn the_files_are_those_from_which_llama_cpp_computed_right() {
    let seen: BTreeMap<&str, &str> = BTreeMap::from([
        (
            "llama",
            "20345ddd0db726d182deedd2994e18c32c1bd59095c4d9aca29eb6f19d165a5a",
        ),
        (
            "mistral",
            "40454fa3a065581465fb60d01285accbec88076d08cab6b52862cd11c4a8b489",
        ),
        (
            "qwen2",
            "f01e79627088b3f46bfe3c05aa137e235adb8f91e314eda9e5d55323957aebbf",
        ),
        (
            "qwen3",
            "20ad7fbabc772a2af275483721a5c57ff3c30e33794d71aa8160a48fffd06372",
        ),
        (
            "gemma",
            "a0046e91d2a84fd6aabaad64cb7578506f04f3a0bc653669794be9750526e88a",
        ),
        (
            "gemma2",
            "731c385ffd853d54ca25d64090224e736f94eda7aa1215f1f4102c34408ea951",
        ),
        (
            "gemma3_text",
            "fdb5459fd8ff67170cfbb2ea011ba8f8567bd6b28b452cd207d22f0d88c44ee4",
        ),
        (
            "granite",
            "9b00b182d75b55011a97ba87f51a4e62952f64e23a46f32becee5f2d11ddee32",
        ),
        (
            "olmo2",
            "afd0d18b70dc9020b1251d72723c49fdcf3ca53dcd28f79fc3a5b386e4fc168b",
        ),
        (
            "smollm3",
            "7aa0645c6fd7ff0510897e99928d5400baf3ebb6eceeafbcafbc5fc8910d1f8f",
        ),
        (
            "phi3",
            "b55ce00545c81613f62f0ed8a91e4185a152d2a8aa3b477d9ff8c4b9233a45e8",
        ),
        (
            "phi3_longrope",
            "cb27fa219d398a3083dbd914ff3db05270f6f723102878ef9f43d056e4dc06cb",
        ),
        (
            "llama adapter",
            "581dc06096448bb64d694034f8cdd4509f452aa3ff9dcf2994fbc5121e080191",
        ),
        (
            "mistral adapter",
            "166dee075879f72202735f7f2c36f7a8f357577b28c45d9182067c4ba1171cea",
        ),
        (
            "qwen2 adapter",
            "e163f5dea075f9aec10ed50e6f5a808e6520a8637e1c2effd43c488e09c000ce",
        ),
        (
            "qwen3 adapter",
            "c68397907a542b16f3bcb2d6f54451bfc929b7e07eb19f551c9793c5ee3a4ae1",
        ),
        (
            "gemma adapter",
            "0aaf7fb093739d6cd99293ba28f936bd7f1a218d3cd6d8f4e4059620a5e9427e",
        ),
        (
            "gemma2 adapter",
            "ecfe1f1abfc15ec35f9e2fa9dbc81906e7a82498cdd178c3fa5dbda6edb6da1a",
        ),
        (
            "gemma3_text adapter",
            "10cfcbe4a76354ee8aabc05e48c9711f4a1fba5529363386ab15f35f17be0aca",
        ),
        (
            "granite adapter",
            "975fe54a70c592a327b93786daac204848aa59314963e5bc657368efad8bd2e1",
        ),
        (
            "olmo2 adapter",
            "8f9585aee160c32de0baf1619c89fb3f47ac50179273d34020b89ad4db25b108",
        ),
        (
            "smollm3 adapter",
            "bb1ffd76645b7b2fe83d3791ab3977d53962dcffe7b7774492c7769bfe7f54af",
        ),
        (
            "phi3 adapter",
            "eb569a1e932ee39e7f8240482b09f6367f6ce35f1c4ba471705b6eb5a33050d3",
        ),
        (
            "phi3_longrope adapter",
            "f566386bd06e2208238b1af25508dc848088e2d6a1b9eb562dc6f0a17faa19d6",
        ),
        (
            "mixtral",
            "f5dbd23d8a8cdc56ba1bce68cedc7a7d3f65e619923c6c259fbb5b7fb1a8f8b0",
        ),
        (
            "qwen3_moe",
            "123ca1bc815ea2f9681406eba0d25b2a26a5809a9c8e9a7180199ac822691381",
        ),
        (
            "mixtral adapter",
            "dc8508c2ed05c132c53b7672a8a0f74a0f7dfa8ad01b15d41fc3f6f88e01e7f2",
        ),
        (
            "qwen3_moe adapter",
            "c5914640684f56226252ea7f9a534942f38731e28dcba038743965568525d432",
        ),
        (
            "mixtral per_expert",
            "9186edf053322cc16a6244ae87f3d85125750b6c8703e390929455c4baa72faa",
        ),
        (
            "mixtral target_parameters",
            "a31e485bc09980f413ea7c453947ba0c090afb051f78f8cd8c85e67ffd7a839c",
        ),
        (
            "llama rslora",
            "eba1f1070a6ee16586a05991cd40803c5bafc48b0c753d195461cf75570b7664",
        ),
        (
            "llama patterns",
            "0ddc2d7adaa72ac9825709b082d9b1d899ae6cb1ca0c7c2694f0f6a0a2a1bb3f",
        ),
    ]);
    let mut found = BTreeMap::new();
    for family in EXPORTED {
        let (case, _folder) = exportable(&committed(&format!("archs/{family}")), family);
        found.insert(
            family.to_owned(),
            exported(&case.join("model"), GgmlType::F32).1.to_string(),
        );
    }
    let variants = [
        ("llama", "rslora", "variants/rslora/adapter"),
        ("llama", "patterns", "variants/patterns/adapter"),
        ("mixtral", "per_expert", "variants/per_expert/adapter"),
        (
            "mixtral",
            "target_parameters",
            "variants/target_parameters/adapter",
        ),
    ];
    for (family, name, adapter) in EXPORTED
        .map(|family| (family, "adapter", "adapter"))
        .into_iter()
        .chain(variants)
    {
        let ((case, _folder), folder) = (
            exportable(&committed(&format!("archs/{family}")), family),
            tempfile::tempdir().unwrap(),
        );
        let path = folder.path().join("adapter.gguf");
        write_gguf_adapter(
            &case.join(adapter),
            &case.join("model"),
            &path,
            &AtomicBool::new(false),
            &|_| {},
        )
        .unwrap();
        found.insert(
            format!("{family} {name}"),
            hash_file(&path).unwrap().to_string(),
        );
    }
    let seen: BTreeMap<String, String> = seen
        .into_iter()
        .map(|(name, hash)| (name.to_owned(), hash.to_owned()))
        .collect();
    assert_eq!(found, seen);
}

#[test]
fn halves_and_blocks_are_near_the_numbers() {
    let model = golden("archs/llama/model");
    let exact = exported(&model, GgmlType::F32).0;
    for (kind, bound) in [
        (GgmlType::F16, 5e-4),
        (GgmlType::Bf16, 4e-3),
        (GgmlType::Q8_0, 5e-3),
    ] {
        let (gguf, _) = exported(&model, kind);
        for (name, (shape, numbers)) in &gguf.tensors {
            let (expected_shape, expected) = &exact.tensors[name];
            assert_eq!(shape, expected_shape);
            let scale = largest(expected.iter().map(|number| number.abs()));
            let off = difference(numbers, expected);
            assert!(off <= bound * scale, "{kind:?} {name}: {off} of {scale}");
            assert!(
                shape.len() > 1 || off == 0.0,
                "{name}: a vector stays in f32"
            );
        }
    }
}

#[test]
fn routers_stay_in_f32() {
    let model = golden("archs/mixtral/model");
    let router = exported(&model, GgmlType::Q8_0).0.tensors["blk.1.ffn_gate_inp.weight"]
        .1
        .clone();
    assert_eq!(
        router,
        weight(&model, "model.layers.1.block_sparse_moe.gate.weight")
    );
}

/// Layers that carry a window or a state are told by keys, and their tensors have llama.cpp's shapes
/// and signs; LOG.md has what it computes of them.
#[test]
fn layers_without_attention_are_those_of_llama_cpp() {
    let model = committed("archs/lfm2/model");
    let gguf = exported(&model, GgmlType::Q8_0).0;
    assert_eq!(gguf.pairs["lfm2.attention.head_count_kv"], "0\n2");
    let (shape, numbers) = &gguf.tensors["blk.0.shortconv.conv.weight"];
    let taps = json(&model.join("config.json"))["conv_L_cache"]
        .as_u64()
        .unwrap();
    assert_eq!(shape[..], [usize::try_from(taps).unwrap(), 32]);
    assert_eq!(*numbers, weight(&model, "model.layers.0.conv.conv.weight"));
    assert!(gguf.tensors.contains_key("token_embd_norm.weight"));

    let model = committed("archs/granite4_h/model");
    let gguf = exported(&model, GgmlType::F32).0;
    for (key, told) in [
        ("attention.head_count_kv", "0\n2"),
        ("ssm.inner_size", "64"),
        ("ssm.time_step_rank", "4"),
        ("rope.scaling.finetuned", "false"),
    ] {
        assert_eq!(gguf.pairs[&format!("granitehybrid.{key}")], told, "{key}");
    }
    let rates = weight(&model, "model.layers.0.mamba.A_log");
    let decays: Vec<f32> = rates.iter().map(|rate| -rate.exp()).collect();
    let (shape, numbers) = &gguf.tensors["blk.0.ssm_a"];
    assert_eq!((&shape[..], numbers), (&[1, 4][..], &decays));

    let refused = check_model(&committed("archs/qwen3_5/model")).unwrap_err();
    let said = "keys and values of several widths in a state";
    assert!(refused.to_string().contains(said), "{refused}");
}

/// Heads of two widths, keys of lower layers and inputs of the layers' own are told by keys.
#[test]
fn uneven_layers_are_those_of_llama_cpp() {
    let model = committed("archs/gemma4_small/model");
    let gguf = exported(&model, GgmlType::F32).0;
    for (key, told) in [
        ("attention.shared_kv_layers", "2"),
        ("attention.key_length", "16"),
        ("attention.key_length_swa", "8"),
        ("embedding_length_per_layer_input", "6"),
        (
            "attention.sliding_window_pattern",
            "true\nfalse\ntrue\nfalse",
        ),
    ] {
        assert_eq!(gguf.pairs[&format!("gemma4.{key}")], told, "{key}");
    }
    let (_, frequencies) = &gguf.tensors["rope_freqs.weight"];
    assert_eq!(frequencies.len(), 8);
    assert!(frequencies.contains(&1.0) && frequencies.contains(&1e30));
    assert!(!gguf.tensors.contains_key("blk.2.attn_k.weight"));
}

/// Gate and up of all experts are the halves of each matrix of one stack.
#[test]
fn stacks_of_gate_and_up_come_apart() {
    let model = committed("archs/granitemoe/model");
    let gguf = exported(&model, GgmlType::F32).0;
    let stack = weight(
        &model,
        "model.layers.1.block_sparse_moe.input_linear.weight",
    );
    let half = stack.len() / 8;
    for (index, name) in ["gate", "up"].into_iter().enumerate() {
        let (shape, numbers) = &gguf.tensors[&format!("blk.1.ffn_{name}_exps.weight")];
        let halves = stack.chunks_exact(half).skip(index).step_by(2);
        let expected: Vec<f32> = halves.flatten().copied().collect();
        assert_eq!(
            (&shape[..], numbers),
            (&[32, 48, 4][..], &expected),
            "{name}"
        );
    }
}

/// A text decoder inside a model that does more is that decoder, whichever names its tensors have.
#[test]
fn a_wrapped_decoder_is_the_decoder() {
    let plain = committed("archs/gemma3_text/model");
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(&plain).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let text_config = json(&plain.join("config.json"));
    let config = serde_json::json!({"model_type": "gemma3", "text_config": text_config});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let expected = exported(&plain, GgmlType::F32).0.tensors;
    for stem in ["language_model.model.", "model.language_model."] {
        fs::copy(
            plain.join("model.safetensors"),
            folder.path().join("model.safetensors"),
        )
        .unwrap();
        retold(&folder.path().join("model.safetensors"), |name| {
            vec![name.replacen("model.", stem, 1)]
        });
        assert_eq!(
            exported(folder.path(), GgmlType::F32).0.tensors,
            expected,
            "{stem}"
        );
    }
}

/// Phi-4-mini turns the first features of each head only.
#[test]
fn a_part_of_each_head_is_turned_where_llama_cpp_can() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(committed("archs/phi3/model"))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let mut config = json(&folder.path().join("config.json"));
    config["rope_parameters"]["partial_rotary_factor"] = 0.5.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let pairs = exported(folder.path(), GgmlType::F32).0.pairs;
    assert_eq!(
        (
            &*pairs["phi3.rope.dimension_count"],
            &*pairs["phi3.attention.key_length"]
        ),
        ("4", "8")
    );
}

#[test]
fn an_adapter_adds_the_same_with_alpha_over_r() {
    let llama = golden("archs/llama");
    let spec = Folder::open(&llama.join("model")).unwrap().spec;
    let names: Vec<String> = spec
        .projections()
        .into_iter()
        .map(|linear| linear.name)
        .collect();
    for variant in [
        "adapter",
        "variants/rslora/adapter",
        "variants/patterns/adapter",
        "variants/layers_to_transform/adapter",
    ] {
        let (adapter, folder) = (llama.join(variant), tempfile::tempdir().unwrap());
        let path = folder.path().join("new/adapter.gguf");
        write_gguf_adapter(
            &adapter,
            &llama.join("model"),
            &path,
            &AtomicBool::new(false),
            &|_| {},
        )
        .unwrap();
        let gguf = read(&path);
        assert_eq!(
            (&*gguf.pairs["general.type"], &*gguf.pairs["adapter.type"]),
            ("adapter", "lora")
        );
        let alpha: f64 = gguf.pairs["adapter.lora.alpha"].parse().unwrap();
        let config = peft::read_config(&adapter).unwrap();
        let numbers = peft::read_numbers(&adapter, &config, &spec.projections()).unwrap();
        let targets = config.resolve(&names).unwrap();
        assert_eq!(gguf.tensors.len(), 2 * targets.len(), "{variant}");
        for target in targets
            .iter()
            .filter(|target| target.module.ends_with("down_proj"))
        {
            let layer = target.module.split('.').nth(2).unwrap();
            let part =
                |end: &str| &gguf.tensors[&format!("blk.{layer}.ffn_down.weight.lora_{end}")];
            let ([a, b], (a_shape, a_there), (b_shape, b_there)) =
                (&numbers[&target.module], part("a"), part("b"));
            assert_eq!(
                (a_shape[1], b_shape[0], a_there),
                (target.rank, target.rank, a),
                "{variant}"
            );
            let there: Vec<f32> = b_there
                .iter()
                .map(|b| (f64::from(*b) * alpha / target.rank as f64) as f32)
                .collect();
            let ours: Vec<f32> = b
                .iter()
                .map(|b| (f64::from(*b) * target.scale) as f32)
                .collect();
            assert!(
                difference(&there, &ours) <= 1e-7,
                "{variant}: {}",
                target.module
            );
        }
    }
}

/// PEFT's two ways to adapt experts, each expert's modules or the parameters of all of them, are
/// one in llama.cpp: A and B of all experts.
#[test]
fn adapters_of_experts_are_stacked() {
    for (family, parts) in [
        ("mixtral", ["w1", "w3", "w2"]),
        ("qwen3_moe", ["gate_proj", "up_proj", "down_proj"]),
    ] {
        let (case, _folder) = exportable(&committed(&format!("archs/{family}")), family);
        let spec = Folder::open(&case.join("model")).unwrap().spec;
        for variant in ["per_expert", "target_parameters"] {
            let adapter = committed(&format!("archs/{family}/variants/{variant}/adapter"));
            let folder = tempfile::tempdir().unwrap();
            let (adapter, path) = (
                for_every_layer(&adapter, family, folder.path()),
                folder.path().join("adapter.gguf"),
            );
            write_gguf_adapter(
                &adapter,
                &case.join("model"),
                &path,
                &AtomicBool::new(false),
                &|_| {},
            )
            .unwrap();
            let gguf = read(&path);
            let alpha: f64 = gguf.pairs["adapter.lora.alpha"].parse().unwrap();
            let config = peft::read_config(&adapter).unwrap();
            let numbers = peft::read_numbers(&adapter, &config, &spec.projections()).unwrap();
            let names: Vec<String> = spec
                .projections()
                .into_iter()
                .map(|linear| linear.name)
                .collect();
            let targets = config.resolve(&names).unwrap();
            let mut seen = 0;
            for target in targets
                .iter()
                .filter(|target| target.module.contains(".experts."))
            {
                let (before, behind) = target.module.split_once(".experts.").unwrap();
                let (layer, (expert, part)) = (
                    before.split('.').nth(2).unwrap(),
                    behind.split_once('.').unwrap(),
                );
                let expert: usize = expert.parse().unwrap();
                let name =
                    ["gate", "up", "down"][parts.iter().position(|known| *known == part).unwrap()];
                let part = |end: &str| {
                    &gguf.tensors[&format!("blk.{layer}.ffn_{name}_exps.weight.lora_{end}")]
                };
                let ([a, b], (a_shape, a_all), (b_shape, b_all)) =
                    (&numbers[&target.module], part("a"), part("b"));
                assert_eq!(
                    (a_shape[1], a_shape[2], b_shape[0], b_shape[2]),
                    (target.rank, 4, target.rank, 4),
                    "{variant}"
                );
                assert_eq!(
                    &a_all[expert * a.len()..][..a.len()],
                    a,
                    "{family} {variant}: {}",
                    target.module
                );
                let scaled = |number: &f32, scale: f64| (f64::from(*number) * scale) as f32;
                let b_here: Vec<f32> = b_all[expert * b.len()..][..b.len()]
                    .iter()
                    .map(|b| scaled(b, alpha / target.rank as f64))
                    .collect();
                let ours: Vec<f32> = b.iter().map(|b| scaled(b, target.scale)).collect();
                assert!(
                    difference(&b_here, &ours) <= 1e-7,
                    "{family} {variant}: {}",
                    target.module
                );
                seen += 1;
            }
            assert!(seen > 0, "{family} {variant}");
        }
    }
}

/// The adapter, of the first layer too where only the second one has experts in the golden.
fn for_every_layer(adapter: &Path, family: &str, folder: &Path) -> PathBuf {
    if family != "qwen3_moe" {
        return adapter.to_owned();
    }
    let copy = folder.join("adapter");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(adapter).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    retold(&copy.join("adapter_model.safetensors"), |name| {
        match name.split_once("layers.1.mlp.") {
            Some((before, behind)) => {
                vec![name.to_owned(), format!("{before}layers.0.mlp.{behind}")]
            }
            None if name.contains("layers.0.mlp.") => Vec::new(),
            None => vec![name.to_owned()],
        }
    });
    copy
}

#[test]
fn what_llama_cpp_would_do_otherwise_is_refused() {
    let desk = Desk::new();
    let export = |words: &[&str]| {
        desk.run(
            &[
                &["export", "base", "--to", "gguf", "--out", "new/model.gguf"],
                words,
            ]
            .concat(),
        )
    };
    export(&["--json"]).says("a model", 0, &[]);
    export(&[]).says(
        "an output that is there",
        73,
        &["`new/model.gguf` exists", "hint: choose another `--out`"],
    );
    desk.remove("new/model.gguf");
    export(&["--dtype", "q4_k"]).says("type", 2, &["f32, f16, bf16, q8_0"]);

    let (config, tokenizer) = (
        desk.read("base/config.json"),
        desk.read("base/tokenizer.json"),
    );
    desk.edit(
        "base/config.json",
        "\"rope_type\": \"llama3\"",
        "\"rope_type\": \"dynamic\"",
    );
    export(&[]).says(
        "rope",
        65,
        &[
            "a RoPE that is `dynamic`",
            "llama.cpp is not known to compute that",
        ],
    );
    desk.write("base/config.json", &config);
    desk.edit("base/tokenizer.json", "\\\\p{N}{1,3}", "\\\\p{N}{1,4}");
    export(&[]).says(
        "other words",
        65,
        &[
            "llama.cpp does not support this tokenizer, `base/tokenizer.json`: its pre_tokenizer \
            is none",
        ],
    );
    desk.write("base/tokenizer.json", &tokenizer);
    desk.edit("base/tokenizer.json", "\\\\p{N}{1,3}", "\\\\p{N}");
    export(&[]).says(
        "other merges",
        65,
        &["`ignore_merges` is true, which it is not in llama.cpp's `qwen2`"],
    );
    desk.write("base/tokenizer.json", &tokenizer);
    desk.cut("base/model.safetensors", 0.5);
    export(&[]).says("cut weights", 65, &["is not a whole safetensors file"]);
    desk.run(&["export", "none", "--to", "gguf", "--out", "x"])
        .says("no model", 66, &["`none` does not exist"]);
    desk.run(&["export", "base", "--to", "gguf-adapter", "--out", "x"])
        .says("no adapter", 65, &["`base` holds no adapter"]);
    assert_eq!(
        fs::read_dir(desk.path("new")).unwrap().count(),
        0,
        "nothing half is left"
    );
}

/// Both sides are named before anything is written: what the model has, and what the nearest of
/// llama.cpp's architectures takes.
#[test]
fn what_no_architecture_of_llama_cpp_computes_is_refused() {
    type Edit = (&'static str, Value);
    let off = Value::Null;
    let cases: [(&str, &[Edit], &str); 14] = [
        (
            "smollm3",
            &[],
            "no rotation in layer 1: llama.cpp is not known to compute that, its `smollm3` takes \
            none in every 4th layer",
        ),
        (
            "gemma2",
            &[("attn_logit_softcapping", off.clone())],
            "scores without a cap: llama.cpp is not known to compute that, its `gemma2` takes a \
            cap of scores",
        ),
        (
            "gemma2",
            &[("final_logit_softcapping", off.clone())],
            "logits without a cap",
        ),
        (
            "gemma2",
            &[("tie_word_embeddings", false.into())],
            "a head of its own: llama.cpp is not known to compute that, its `gemma2` takes the \
            embedding as its head",
        ),
        (
            "gemma",
            &[("attention_bias", true.into())],
            "biases of q, k, v and the output: llama.cpp is not known to compute that, its `gemma` \
            takes no biases",
        ),
        (
            "olmo2",
            &[("tie_word_embeddings", true.into())],
            "the embedding as its head: llama.cpp is not known to compute that, its `olmo2` takes \
            a head of its own",
        ),
        (
            "granite",
            &[("mlp_bias", true.into())],
            "biases in the feed-forward",
        ),
        (
            "qwen3",
            &[("attention_bias", true.into())],
            "its `qwen3` takes no biases",
        ),
        (
            "qwen3_moe",
            &[],
            "experts in some layers only: llama.cpp is not known to compute that, its `qwen3moe` \
            takes experts in every layer",
        ),
        (
            "qwen3_moe",
            &[
                ("mlp_only_layers", Value::Array(Vec::new())),
                ("norm_topk_prob", false.into()),
            ],
            "this router",
        ),
        ("deepseek_v2", &[], "latent attention"),
        ("deepseek_v3", &[], "latent attention"),
        ("falcon_7b", &[], "q, k and v of each key head as one"),
        ("gpt_oss", &[], "attention sinks"),
    ];
    for (family, edits, said) in cases {
        let folder = tempfile::tempdir().unwrap();
        let spec = |name: &str| committed(&format!("archs/{family}/model/{name}"));
        let mut config = json(&spec("config.json"));
        for (key, value) in edits {
            config[key] = value.clone();
        }
        let base = folder.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("config.json"), config.to_string()).unwrap();
        fs::copy(spec("tokenizer.json"), base.join("tokenizer.json")).unwrap();
        let checked = check_model(&base).unwrap_err();
        assert_eq!(checked.exit(), Exit::Input, "{family}");
        assert!(
            checked.to_string().contains(said),
            "{family} {edits:?}: {checked}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let (model, path) = (
        committed("archs/smollm3/model"),
        folder.path().join("new/x.gguf"),
    );
    let adapter = committed("archs/smollm3/adapter");
    assert!(
        write_gguf_model(
            &model,
            &path,
            GgmlType::F32,
            &AtomicBool::new(false),
            &|_| {}
        )
        .is_err()
    );
    assert!(write_gguf_adapter(&adapter, &model, &path, &AtomicBool::new(false), &|_| {}).is_err());
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "not even a folder"
    );
}

/// Gemma's own tokenizer.json cuts at blanks, of which none are left there, and has runs of blanks
/// as tokens; Llama 3's words merged step by step are what `OLMo` 2 and Phi-4 have.
#[test]
fn tokenizers_of_the_families_are_told() {
    let pairs = |family: &str, edit: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(committed(&format!("archs/{family}/model")))
            .unwrap()
            .map(Result::unwrap)
        {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer = json(&path);
        edit(&mut tokenizer);
        fs::write(&path, tokenizer.to_string()).unwrap();
        let mut pairs = exported(folder.path(), GgmlType::F16).0.pairs;
        pairs.remove("general.name");
        pairs
    };
    let plain = pairs("gemma", &|_| {});
    let cuts = serde_json::json!({
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": false,
    });
    assert_eq!(
        plain,
        pairs("gemma", &|tokenizer| tokenizer["pre_tokenizer"] =
            cuts.clone())
    );
    let (model, prefix) = (
        &plain["tokenizer.ggml.model"],
        &plain["tokenizer.ggml.add_space_prefix"],
    );
    assert_eq!((model.as_str(), prefix.as_str()), ("llama", "false"));
    let blanks = |tokenizer: &mut Value| {
        // In the place of the last token, which the last merge makes.
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocabulary.retain(|_, id| *id != 303);
        vocabulary.insert("▁▁".to_owned(), 303.into());
        tokenizer["model"]["merges"].as_array_mut().unwrap().pop();
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        (token["id"], token["content"], token["special"]) = (303.into(), "▁▁".into(), false.into());
        added.push(token);
    };
    let with = pairs("gemma", &blanks);
    assert_eq!(
        with["tokenizer.ggml.tokens"].split('\n').nth(303),
        Some("  ")
    );
    assert_eq!(
        with["tokenizer.ggml.token_type"].split('\n').nth(303),
        Some("4"),
        "user-defined"
    );
    assert_eq!(
        plain["tokenizer.ggml.token_type"].split('\n').nth(303),
        Some("1"),
        "an ordinary one"
    );
    let stepwise = pairs("llama", &|tokenizer| {
        tokenizer["model"]["ignore_merges"] = false.into();
    });
    assert_eq!(stepwise["tokenizer.ggml.pre"], "dbrx");
}

#[test]
fn a_run_of_ours_is_exported_with_its_base() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&[
        "export",
        "run/adapter",
        "--to",
        "gguf-adapter",
        "--out",
        "adapter.gguf",
    ])
    .says("adapter", 0, &[]);
    assert_eq!(read(&desk.path("adapter.gguf")).tensors.len(), 28);
    let mistral = golden("archs/mistral/model").display().to_string();
    let ran = desk.run(&["export", &mistral, "--to", "gguf", "--out", "mistral.gguf"]);
    ran.says(
        "sliding window",
        0,
        &["note: llama.cpp has no sliding window for this model: beyond 5 tokens"],
    );
    let long = golden("archs/phi3_longrope/model").display().to_string();
    let ran = desk.run(&["export", &long, "--to", "gguf", "--out", "long.gguf"]);
    ran.says(
        "two sets of factors",
        0,
        &[
            "beyond 6 tokens",
            "note: llama.cpp turns by this model's long factors",
            "`--ctx-size 8`",
        ],
    );
    let gemma = golden("archs/gemma2/model").display().to_string();
    let ran = desk.run(&["export", &gemma, "--to", "gguf", "--out", "gemma.gguf"]);
    assert!(
        ran.exit == 0 && !ran.stderr.contains("note:"),
        "its windows are computed: {ran:?}"
    );
}

#[test]
fn what_would_be_passed_over_is_refused() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.write("own.jinja", "{{ messages }}");
    let export = |from: &str, to: &str, more: &[&str]| {
        desk.run(&[&["export", from, "--to", to, "--out", "x"], more].concat())
    };
    for to in ["peft", "mlx", "gguf-adapter"] {
        export("run", to, &["--dtype", "q8_0"]).says(
            to,
            2,
            &["--dtype: an adapter's matrices stay as they are"],
        );
        export("run", to, &["--chat-template", "own.jinja"]).says(
            to,
            2,
            &["--chat-template: an adapter's files have none"],
        );
    }
    for to in ["gguf", "ollama"] {
        export("base", to, &["--base", "base"]).says(
            to,
            2,
            &["--base: `base` is a model, which has no base"],
        );
        let said = [
            "--chat-template: `base` is a model, whose template lies in its folder",
            "hint: lay the template as",
        ];
        export("base", to, &["--chat-template", "own.jinja"]).says(to, 2, &said);
    }
    assert!(!desk.path("x").exists());
}

#[test]
fn what_is_at_the_place_of_the_output_stays() {
    let desk = Desk::new();
    desk.write("file", "mine");
    for out in ["file", "file/"] {
        let ran = desk.run(&["export", "base", "--to", "gguf", "--out", out]);
        ran.says(out, 73, &[&format!("`{out}` exists")]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", desk.path("link")).unwrap();
        desk.run(&["export", "base", "--to", "gguf", "--out", "link"])
            .says("a link", 73, &["`link` exists"]);
        assert!(desk.path("link").is_symlink());
    }
    assert_eq!(desk.read_text("file"), "mine");
}

#[test]
fn who_stops_an_export_finds_nothing_left() {
    let (desk, stopped) = (Desk::new(), AtomicBool::new(true));
    let error = write_gguf_model(
        &desk.path("base"),
        &desk.path("new/x.gguf"),
        GgmlType::F16,
        &stopped,
        &|_| {},
    )
    .unwrap_err();
    assert_eq!(
        (error.exit(), error.to_string().as_str()),
        (Exit::Signal, "stopped: nothing was written")
    );
    assert_eq!(fs::read_dir(desk.path("new")).unwrap().count(), 0);
}

/// A signal after the merge, while the GGUF file grows, takes the merged model along.
#[cfg(unix)]
#[test]
fn a_signal_leaves_no_merged_model_behind() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    for delay in (0..12).map(|step| std::time::Duration::from_millis(3 * step)) {
        let signal = if delay.as_millis() % 2 == 0 {
            Signal::SIGINT
        } else {
            Signal::SIGTERM
        };
        let folder = desk.path("new");
        let _ = fs::remove_dir_all(&folder);
        let mut child = desk.command(&["export", "run", "--to", "ollama", "--out", "new/x"]);
        let mut child = child
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !folder.exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(delay);
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let code = child.wait().unwrap().code();
        let left: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        match code {
            Some(0) => assert_eq!(left, ["x"]),
            code => assert!(code == Some(130) && left.is_empty(), "{code:?}, {left:?}"),
        }
    }
}

/// A desk with a base in bfloat16 and a short run on it.
fn trained_on_bf16() -> Desk {
    let desk = Desk::new();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    fs::remove_dir_all(desk.path("base")).unwrap();
    fs::create_dir(desk.path("base")).unwrap();
    for file in fs::read_dir(tiny).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), desk.path("base").join(file.file_name())).unwrap();
    }
    desk.run(&[
        "train",
        "recipe.yaml",
        "training.max_steps=4",
        "training.learning_rate=1e-3",
    ])
    .says("train", 0, &[]);
    desk
}

/// ‖what is missing of the changes of numbers where old and new ones are rounded‖ / ‖the changes‖,
/// over the tensors that changed.
fn lost(old: &Gguf, new: &Gguf, round: impl Fn(&str, &[f32], bool) -> Vec<f32>) -> f64 {
    let (mut added, mut missing) = (0.0, 0.0);
    for (name, (_, new)) in &new.tensors {
        let old = &old.tensors[name].1;
        if old == new {
            continue;
        }
        let (old_rounded, new_rounded) = (round(name, old, false), round(name, new, true));
        for index in 0..new.len() {
            let change = f64::from(new[index]) - f64::from(old[index]);
            added += change * change;
            missing +=
                (change - (f64::from(new_rounded[index]) - f64::from(old_rounded[index]))).powi(2);
        }
    }
    (missing / added).sqrt()
}

/// A merged GGUF was rounded to the base's bfloat16 before it was written, even in 32 bits.
#[test]
fn a_run_is_rounded_once_to_the_type_of_its_file() {
    let desk = trained_on_bf16();
    let merged = desk.run(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--dtype",
        "f32",
        "--out",
        "m",
        "--json",
    ]);
    merged.says("merge in f32", 0, &[]);
    assert!(!merged.stderr.contains("rounding"), "{merged:?}");
    let merged: Value = serde_json::from_str(&merged.stdout).unwrap();
    let export = |from: &str, dtype: &str| {
        let path = format!("{from}-{dtype}.gguf");
        let _ = fs::remove_file(desk.path(&path));
        let ran = desk.run(&[
            "export", from, "--to", "gguf", "--dtype", dtype, "--out", &path, "--json",
        ]);
        ran.says(&path, 0, &[]);
        (
            read(&desk.path(&path)),
            serde_json::from_str::<Value>(&ran.stdout).unwrap(),
            ran.stderr,
        )
    };
    let (base, whole) = (export("base", "f32").0, export("run", "f32").0);
    let is_bf16 = |number: &f32| number.to_bits().trailing_zeros() >= 16;
    let numbers = || whole.tensors.values().flat_map(|(_, numbers)| numbers);
    assert!(
        base.tensors
            .values()
            .flat_map(|(_, numbers)| numbers)
            .all(is_bf16)
    );
    assert!(
        numbers().filter(|number| !is_bf16(number)).count() > numbers().count() / 3,
        "sums in 32 bits"
    );
    for (dtype, name) in [
        ("f32", "float32"),
        ("f16", "float16"),
        ("bf16", "bfloat16"),
        ("q8_0", "Q8_0"),
    ] {
        let (direct, said, stderr) = export("run", dtype);
        let (via, ..) = export("m", dtype);
        assert!(direct.tensors == via.tensors, "{dtype}");
        let of_base = export("base", dtype).0;
        let round = |tensor: &str, _: &[f32], is_new: bool| {
            (if is_new { &direct } else { &of_base }).tensors[tensor]
                .1
                .clone()
        };
        let (expected, found) = (
            lost(&base, &whole, round),
            said["rounding"].as_f64().unwrap(),
        );
        assert!(
            (found - expected).abs() < 1e-3 * expected.max(1e-3),
            "{dtype}: {found}, expected {expected}"
        );
        let by_dtype = &merged["rounding_by_dtype"][dtype];
        assert!(
            dtype == "q8_0" || (by_dtype.as_f64().unwrap() - found).abs() < 1e-9,
            "{dtype}: {by_dtype}, {found}"
        );
        let says = format!("note: {name} rounding ");
        assert_eq!(
            stderr.contains(&says),
            found >= 0.1,
            "{dtype}: {found}, {stderr}"
        );
    }
    let bf16 = 100.0 * merged["rounding_by_dtype"]["bf16"].as_f64().unwrap();
    let half = 100.0 * merged["rounding_by_dtype"]["f16"].as_f64().unwrap();
    assert!(bf16 > 10.0 && half < bf16, "{merged}");
    let said = format!(
        "note: bfloat16 rounding removed {bf16:.0} % of the adapter's change; use `--dtype \
        f32` (or f16: {half:.0} %)"
    );
    desk.run(&["merge", "--adapter", "run/adapter", "--out", "kept"])
        .says("merge by default", 0, &[&said]);
    desk.run(&[
        "export",
        "run",
        "--to",
        "gguf",
        "--dtype",
        "bf16",
        "--out",
        "said.gguf",
    ])
    .says("export", 0, &[&said]);
    let ran = desk.run(&[
        "export", "run", "--to", "ollama", "--dtype", "f32", "--out", "ollama",
    ]);
    ran.says("Ollama's", 0, &[]);
    assert!(read(&desk.path("ollama/model.gguf")).tensors == whole.tensors);
    // Of a base that is stored packed too nothing is rounded on the way.
    desk.run(&["quantize", "base", "--out", "packed"])
        .says("quantize", 0, &[]);
    let packed = |verb: &[&str]| desk.run(&[verb, &["--base", "packed", "--force"]].concat());
    packed(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--dtype",
        "f32",
        "--out",
        "p",
    ])
    .says("merge", 0, &[]);
    desk.run(&[
        "export", "p", "--to", "gguf", "--dtype", "f32", "--out", "p.gguf",
    ])
    .says("export", 0, &[]);
    let unpacked = read(&desk.path("p.gguf"));
    let name = unpacked
        .tensors
        .keys()
        .find(|name| name.ends_with("ffn_down.weight"))
        .unwrap();
    let of_base = unpacked.tensors[name]
        .1
        .iter()
        .filter(|number| is_bf16(number))
        .count();
    assert!(
        of_base < unpacked.tensors[name].1.len() / 4,
        "{of_base} of {}",
        unpacked.tensors[name].1.len()
    );
}
