//! `rankine quantize`, and bases that are packed: bytes as transformers and bitsandbytes write
//! them, the same numbers as packing at the start of a run, and a run of its own.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use common::{golden, json};
use rankine::adapter::{LoraConfig, attach};
use rankine::data::TokenRow;
use rankine::files::safetensors::{Archive, Named, data_bytes, write_f32, write_lazily};
use rankine::model::{Folder, Storage};
use rankine::quant::{BlockSize, FourBitType, QuantFormat};
use rankine::terms::ModelDtype;
use rankine::train::{Gradients, Memory, StepConfig, forward_backward};
use serde_json::{Value, json};
use support::Desk;

const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// Type, shape and bytes of tensors, by name.
type Tensors = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a file.
fn tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of = |(name, view): (String, safetensors::tensor::TensorView)| {
        (
            name,
            (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
        )
    };
    file.tensors().into_iter().map(of).collect()
}

#[test]
fn the_folder_is_that_of_transformers() {
    let desk = Desk::new();
    desk.run(&["quantize", "base", "--out", "packed"])
        .says("quantize", 0, &[]);
    let theirs = tensors(&golden("quant/llama_nf4_double/model/model.safetensors"));
    let ours = tensors(&desk.path("packed/model.safetensors"));
    assert!(ours.keys().eq(theirs.keys()));
    for (name, (dtype, shape, bytes)) in &ours {
        let (of_theirs, shape_of_theirs, bytes_of_theirs) = &theirs[name];
        if name.ends_with(STATE) {
            let [ours, theirs]: [Value; 2] =
                [bytes, bytes_of_theirs].map(|state| serde_json::from_slice(state).unwrap());
            let offset = |state: &Value| state["nested_offset"].as_f64().unwrap() as f32;
            assert!(
                offset(&ours).to_bits().abs_diff(offset(&theirs).to_bits()) <= 2,
                "{name}"
            );
            let rest = |state: &Value| {
                let mut state = state.clone();
                state["nested_offset"] = Value::Null;
                state
            };
            assert_eq!(rest(&ours), rest(&theirs), "{name}");
            continue;
        }
        assert_eq!((dtype, shape), (of_theirs, shape_of_theirs), "{name}");
        // A mean that is another in its last place may move what is packed around it.
        assert!(
            bytes == bytes_of_theirs || name.contains("nested_absmax"),
            "{name}"
        );
    }
    let [ours, theirs] = [desk.path("packed"), golden("quant/llama_nf4_double/model")]
        .map(|folder| json(&folder.join("config.json")));
    assert_eq!(ours["quantization_config"], theirs["quantization_config"]);
}

/// Every form, of one file and of shards: what is written is what packing at the start of a run
/// makes.
#[test]
fn a_packed_folder_loads_to_what_its_model_is_packed_to() {
    let four_bit = |kind, block_size, double_quant| QuantFormat::FourBit {
        kind,
        block_size: BlockSize::new(block_size).unwrap(),
        double_quant,
    };
    let cases = [
        ("llama", vec![], four_bit(FourBitType::Nf4, 64, true), false),
        (
            "llama",
            vec!["--double-quant", "false", "--quantize-head"],
            four_bit(FourBitType::Nf4, 64, false),
            true,
        ),
        (
            "mistral",
            vec!["--quantization", "fp4", "--block-size", "128"],
            four_bit(FourBitType::Fp4, 128, true),
            false,
        ),
        (
            "qwen2",
            vec!["--quantization", "int8"],
            QuantFormat::Int8,
            false,
        ),
        (
            "qwen3",
            vec!["--quantization", "nf4", "--block-size", "32"],
            four_bit(FourBitType::Nf4, 32, true),
            false,
        ),
    ];
    for (family, options, form, packs_head) in cases {
        let desk = Desk::new();
        let base = golden(&format!("archs/{family}/model"));
        let arguments = [
            &["quantize", base.to_str().unwrap(), "--out", "packed"],
            &options[..],
        ]
        .concat();
        desk.run(&arguments).says(family, 0, &[]);
        let storage = Storage {
            form: Some(form),
            packs_head,
            ..ModelDtype::Auto.into()
        };
        let packed = Folder::open(&desk.path("packed")).unwrap();
        assert_eq!(packed.stored_form().unwrap(), Some(form), "{family}");
        let rows = common::rows(
            &Archive::open(&golden(&format!("archs/{family}/golden.safetensors"))).unwrap(),
            "",
            None,
        );
        let logits = |folder: &Folder, storage: Storage| {
            let decoder = folder.load(storage, &Device::flex(), &|_| {}).unwrap();
            common::logits(&decoder, &common::batch(rows.clone()))
        };
        let at_start = logits(&Folder::open(&base).unwrap(), storage);
        let of_folder = logits(&packed, ModelDtype::Auto.into());
        assert!(at_start == of_folder, "{family}, {form}");
        assert!(
            at_start != logits(&Folder::open(&base).unwrap(), ModelDtype::Auto.into()),
            "{family}: packing takes something"
        );
    }
}

/// Packed projections and head compute, forward and backward, what a dense model of the numbers
/// that are left computes: to the bit, since the order of sums is the same. An embedding on the
/// host changes nothing on the CPU.
#[test]
fn what_is_packed_computes_as_the_numbers_that_are_left() {
    let (base, dense) = (golden("archs/llama/model"), tempfile::tempdir().unwrap());
    fs::copy(base.join("config.json"), dense.path().join("config.json")).unwrap();
    for form in [QuantFormat::QLORA, QuantFormat::Int8] {
        let archive = Archive::open(&base.join("model.safetensors")).unwrap();
        let left = |(name, shape): (String, Vec<usize>)| {
            let numbers = archive.read_f32(&name).unwrap().unwrap();
            let is_packed = name.contains("proj") || name.starts_with("lm_head");
            let matrix = <[usize; 2]>::try_from(&shape[..])
                .ok()
                .filter(|_| is_packed);
            let halves = || {
                numbers
                    .iter()
                    .map(|number| half::f16::from_f32(*number))
                    .collect::<Vec<_>>()
            };
            let numbers = match (matrix, form) {
                (None, _) => numbers,
                (Some(matrix), QuantFormat::Int8) => form.pack(matrix, &halves()).unwrap().unpack(),
                (Some(matrix), _) => form.pack(matrix, &numbers).unwrap().unpack(),
            };
            (name, shape, numbers)
        };
        let tensors: Vec<Named> = archive.shapes().into_iter().map(left).collect();
        write_f32(&dense.path().join("model.safetensors"), &tensors, &[]).unwrap();
        let storage = Storage {
            form: Some(form),
            packs_head: true,
            offloads_embedding: true,
            ..ModelDtype::Auto.into()
        };
        let of = |folder: &Path, storage: Storage| {
            let mut decoder = Folder::open(folder)
                .unwrap()
                .load(storage, &Device::flex(), &|_| {})
                .unwrap();
            attach(
                &mut decoder,
                &LoraConfig {
                    init_lora_weights: false,
                    ..common::lora(4, 8.0)
                },
                7,
                None,
            )
            .unwrap();
            let row = |seed: u32| TokenRow {
                ids: (0..20).map(|place| (seed + place * 37) % 304).collect(),
                trained: vec![true; 20],
            };
            let batch = common::batch(vec![row(3), row(50)]);
            let mut gradients = Gradients::default();
            let config = StepConfig {
                memory: Memory::RECOMPUTE,
                head_chunk_rows: 16,
                dropout: 0.0,
            };
            let loss = forward_backward(&decoder, &batch, config, [1, 0], &mut gradients).sum;
            let gradients: Vec<f32> = gradients
                .all()
                .iter()
                .flat_map(|tensor| tensor.to_data().iter::<f32>().collect::<Vec<_>>())
                .collect();
            (common::logits(&decoder, &batch), loss, gradients)
        };
        assert!(
            of(&base, storage) == of(dense.path(), ModelDtype::Float32.into()),
            "{form}"
        );
    }
}

#[test]
fn a_run_on_a_packed_folder_is_the_run_that_packs_its_base() {
    let desk = Desk::new();
    desk.run(&["quantize", "base", "--out", "packed"])
        .says("quantize", 0, &[]);
    desk.run(&["train", "recipe.yaml", "adapter.method=qlora"])
        .says("packs", 0, &["nf4 in blocks of 64, double quantization"]);
    let packed = [
        "train",
        "recipe.yaml",
        "base_model=packed",
        "output_dir=other",
    ];
    desk.run(&packed)
        .says("packed", 0, &["nf4 in blocks of 64, double quantization"]);
    let adapter = |run: &str| desk.read(&format!("{run}/adapter/adapter_model.safetensors"));
    assert!(adapter("run") == adapter("other"));
    let plan = desk
        .run(&["plan", "recipe.yaml", "base_model=packed"])
        .stdout;
    assert!(
        plan.contains("adapter.quantization") && plan.contains("nf4  (as the base is stored)"),
        "{plan}"
    );

    let other = "the base is stored in nf4 in blocks of 64, double quantization";
    for (key, asked) in [
        ("quantization=fp4", "fp4"),
        ("quantization=none", "none"),
        ("block_size=128", "blocks of 128"),
    ] {
        let ran = desk.run(&[
            "check",
            "recipe.yaml",
            "base_model=packed",
            &format!("adapter.{key}"),
        ]);
        ran.says(key, 65, &[other, asked, "hint: remove the key"]);
    }
    desk.run(&[
        "check",
        "recipe.yaml",
        "base_model=packed",
        "adapter.method=full",
        "adapter.r=",
    ])
    .says(
        "full",
        65,
        &["stored in nf4 in blocks of 64, double quantization"],
    );
}

#[test]
fn what_cannot_be_packed_is_refused_and_leaves_nothing() {
    let desk = Desk::new();
    let quantize = |arguments: &[&str]| desk.run(&[&["quantize"], arguments].concat());
    quantize(&["nowhere", "--out", "x"]).says("no model", 66, &["base `nowhere` does not exist"]);
    quantize(&["base", "--out", "recipe.yaml"]).says(
        "there already",
        73,
        &["`recipe.yaml` exists"],
    );
    quantize(&["base", "--out", "x", "--block-size", "100"]).says(
        "block size",
        2,
        &["expected a power of 2 from 32 to 4096"],
    );
    quantize(&[
        "base",
        "--out",
        "x",
        "--quantization",
        "int8",
        "--double-quant",
        "true",
    ])
    .says("int8", 2, &["`int8` has rows"]);
    quantize(&["base", "--out", "x", "--quantization", "nf3"]).says(
        "nf3",
        2,
        &["expected `nf4`, `fp4` or `int8`"],
    );
    let tied = golden("archs/qwen2/model");
    let tied = tied.to_str().unwrap();
    quantize(&[tied, "--out", "x", "--quantize-head"]).says(
        "tied",
        65,
        &["one table for its embedding and its head"],
    );
    for key in ["quantize_head", "offload_embedding"] {
        let set = format!("adapter.{key}=true");
        let ran = desk.run(&[
            "check",
            "recipe.yaml",
            &format!("base_model={tied}"),
            "adapter.method=qlora",
            &set,
        ]);
        ran.says(
            key,
            65,
            &[&format!(
                "adapter.{key}: the base has one table for its embedding and its head"
            )],
        );
    }
    quantize(&["base", "--out", "packed"]).says("quantize", 0, &[]);
    quantize(&["packed", "--out", "x"]).says(
        "packed already",
        65,
        &["the weights of `packed` are packed already"],
    );

    desk.run(&["export", "packed", "--to", "gguf", "--out", "x.gguf"])
        .says("GGUF", 65, &["are packed by bitsandbytes"]);

    // A number that is none leaves nothing of its block.
    let mut content = desk.read("base/model.safetensors");
    let archive = Archive::open(&desk.path("base/model.safetensors")).unwrap();
    let place = archive.bytes("model.layers.0.mlp.up_proj.weight").unwrap()[..4].to_vec();
    let start = content
        .windows(4)
        .position(|window| window == place)
        .unwrap();
    content[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    desk.write("base/model.safetensors", content);
    let words = [
        "tensor `model.layers.0.mlp.up_proj.weight` cannot be quantized: number 0 of the \
        weight is NaN",
    ];
    quantize(&["base", "--out", "x"]).says("NaN", 65, &words);
    desk.run(&["train", "recipe.yaml", "adapter.method=qlora"])
        .says("NaN in a run", 65, &words);
    assert!(!desk.path("x").exists());
    let left = fs::read_dir(desk.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(
        left.into_iter().all(|name| !name.contains("-tmp-")),
        "a temporary folder is left"
    );
}

/// Packed weights with one thing wrong, each said with the tensor's name.
#[test]
fn packed_weights_that_do_not_fit_are_refused() {
    type Case = (&'static str, Box<dyn Fn(&mut Tensors)>);
    const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";
    let set = |tensors: &mut Tensors, key: &str, value: Value| {
        let (_, shape, bytes) = tensors.get_mut(&format!("{WEIGHT}{STATE}")).unwrap();
        let mut state: Value = serde_json::from_slice(bytes).unwrap();
        state[key] = value;
        *bytes = state.to_string().into_bytes();
        *shape = vec![bytes.len()];
    };
    let part = |end: &str| format!("{WEIGHT}.{end}");
    let shorter = |tensors: &mut Tensors, name: String| {
        let (dtype, shape, bytes) = tensors.get_mut(&name).unwrap();
        shape[0] -= 1;
        bytes.truncate(data_bytes(*dtype, shape));
    };
    let cases: Vec<Case> = vec![
        (
            "the block size is 100, expected a power of 2",
            Box::new(move |tensors| set(tensors, "blocksize", json!(100))),
        ),
        (
            "its `quant_type` is `\"fp4\"`, expected `\"nf4\"`",
            Box::new(move |tensors| set(tensors, "quant_type", json!("fp4"))),
        ),
        (
            "its `shape` is `[32,48]`, expected `[48,32]`",
            Box::new(move |tensors| set(tensors, "shape", json!([32, 48]))),
        ),
        (
            "its `nested_blocksize` is `64`, expected `256`",
            Box::new(move |tensors| set(tensors, "nested_blocksize", json!(64))),
        ),
        (
            "it has no `nested_offset`",
            Box::new(move |tensors| set(tensors, "nested_offset", Value::Null)),
        ),
        (
            "absmax` is missing",
            Box::new(move |tensors| drop(tensors.remove(&part("absmax")))),
        ),
        (
            "its codes, absmax and nested absmax have",
            Box::new(move |tensors| shorter(tensors, WEIGHT.to_owned())),
        ),
        (
            "its codes, absmax and nested absmax have",
            Box::new(move |tensors| shorter(tensors, part("absmax"))),
        ),
        (
            "its `quant_map` is not the code that is known",
            Box::new(move |tensors| tensors.get_mut(&part("quant_map")).unwrap().2[3] ^= 1),
        ),
    ];
    for (words, change) in cases {
        refused(
            &*change,
            &[&format!("tensor `{WEIGHT}`"), words, ": 1 faults"],
        );
    }
}

/// What is packed in another way than the rest, and codes that have lost what they mean.
#[test]
fn what_is_packed_otherwise_than_the_rest_is_refused() {
    let (first, last) = (
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    );
    let desk = Desk::new();
    desk.run(&[
        "quantize",
        "base",
        "--double-quant",
        "false",
        "--out",
        "plain",
    ])
    .says("quantize", 0, &[]);
    let plain = tensors(&desk.path("plain/model.safetensors"));
    let put = |tensors: &mut Tensors, name: &str| {
        let own = |part: &String| part == name || part.starts_with(&format!("{name}."));
        tensors.retain(|part, _| !own(part));
        tensors.extend(
            plain
                .iter()
                .filter(|(part, _)| own(part))
                .map(|(part, tensor)| (part.clone(), tensor.clone())),
        );
    };
    let words = format!("tensor `{last}` is not as the first packed projection is, which is ");
    refused(&|tensors| put(tensors, last), &[&words]);
    let other = "tensor `model.layers.0.self_attn.k_proj.weight` is not as the first packed \
        projection is";
    refused(&|tensors| put(tensors, first), &[other]);
    let bare =
        |tensors: &mut Tensors| tensors.retain(|part, _| !part.starts_with(&format!("{last}.")));
    refused(
        &bare,
        &[
            &format!("tensor `{last}` has shape [768, 1], expected [48, 32]"),
            "has dtype U8, expected F32",
        ],
    );
}

/// The tensors of a base in NF4, of which some projections are numbers of 16 bits: what
/// `llm_int8_skip_modules` makes, as in Unsloth's dynamic folders. And the numbers that all of its
/// projections stand for.
fn packed_in_part(skipped: &[&str]) -> (Tensors, Vec<Named>) {
    let mut part = tensors(&golden("quant/llama_nf4_double/model/model.safetensors"));
    let base = Archive::open(&golden("archs/llama/model/model.safetensors")).unwrap();
    let is_skipped =
        |name: &str| name.contains("proj") && skipped.iter().any(|skipped| name.contains(skipped));
    part.retain(|name, _| !is_skipped(name));
    let mut numbers = Vec::new();
    for (name, shape) in base.shapes() {
        let of_base = base.read_f32(&name).unwrap().unwrap();
        let matrix = <[usize; 2]>::try_from(&shape[..])
            .ok()
            .filter(|_| name.contains("proj"));
        let left = match matrix {
            Some(_) if is_skipped(&name) => {
                let halves: Vec<half::bf16> = of_base
                    .iter()
                    .map(|number| half::bf16::from_f32(*number))
                    .collect();
                let bytes = halves
                    .iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect();
                part.insert(
                    name.clone(),
                    (safetensors::Dtype::BF16, shape.clone(), bytes),
                );
                halves.iter().map(|number| number.to_f32()).collect()
            }
            Some(matrix) => QuantFormat::QLORA.pack(matrix, &of_base).unwrap().unpack(),
            None => of_base,
        };
        numbers.push((name, shape, left));
    }
    (part, numbers)
}

fn write_tensors(path: &Path, all: &Tensors) {
    let described = all
        .iter()
        .map(|(name, (dtype, shape, _))| (name.clone(), *dtype, shape.clone()))
        .collect();
    write_lazily::<rankine::files::safetensors::SafetensorsError>(path, described, &[], |name| {
        Ok(all[name].2.clone().into())
    })
    .unwrap();
}

#[test]
fn a_folder_that_is_packed_in_part_computes_as_the_numbers_that_are_left() {
    let config = golden("quant/llama_nf4_double/model/config.json");
    let rows = common::rows(
        &Archive::open(&golden("archs/llama/golden.safetensors")).unwrap(),
        "",
        None,
    );
    let logits = |folder: &Path| {
        let decoder = common::load(folder);
        common::logits(&decoder, &common::batch(rows.clone()))
    };
    let kinds: [&[&str]; 7] = [
        &["layers.0.self_attn.q_proj"],
        &["layers.1.mlp.up_proj"],
        &["layers.0.mlp", "layers.1.self_attn"],
        &["self_attn"],
        &["layers.0."],
        &["down_proj"],
        &["self_attn", "layers.0.mlp", "gate_proj", "up_proj"],
    ];
    let of_whole = logits(&golden("quant/llama_nf4_double/model"));
    for skipped in kinds {
        let (part, numbers) = packed_in_part(skipped);
        let [folder, dense] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut said = json(&config);
        said["quantization_config"]["llm_int8_skip_modules"] = json!(skipped);
        fs::write(folder.path().join("config.json"), said.to_string()).unwrap();
        write_tensors(&folder.path().join("model.safetensors"), &part);
        fs::copy(
            golden("archs/llama/model/config.json"),
            dense.path().join("config.json"),
        )
        .unwrap();
        write_f32(&dense.path().join("model.safetensors"), &numbers, &[]).unwrap();
        // The mean of the absmax is another in its last place in their file.
        let found = logits(folder.path());
        let [left, whole] =
            [&logits(dense.path()), &of_whole].map(|other| common::difference(&found, other));
        println!("{skipped:?}: {left:e} from the numbers that are left, {whole:e} from all packed");
        assert!(left < 2e-6 && whole > 1e-3, "{skipped:?}: {left}, {whole}");

        let kept = Folder::open(folder.path()).unwrap();
        assert_eq!(
            kept.stored_form().unwrap(),
            Some(QuantFormat::QLORA),
            "{skipped:?}"
        );
        let storage = kept
            .kept_in(ModelDtype::Auto, rankine::device::HalfPrecision::Widened)
            .unwrap();
        let left = numbers.iter().filter(|(name, ..)| {
            name.contains("proj") && skipped.iter().any(|part| name.contains(part))
        });
        assert_eq!(
            storage.left_dense,
            left.map(|(_, _, numbers)| numbers.len() as u64)
                .sum::<u64>(),
            "{skipped:?}"
        );
    }
}

#[test]
fn a_base_that_is_packed_in_part_trains_and_its_adapter_is_merged() {
    let desk = Desk::new();
    let (part, _) = packed_in_part(&["layers.0.mlp"]);
    write_tensors(&desk.path("base/model.safetensors"), &part);
    fs::copy(
        golden("quant/llama_nf4_double/model/config.json"),
        desk.path("base/config.json"),
    )
    .unwrap();
    let parts = |desk: &Desk| {
        let ran = desk.run(&["plan", "recipe.yaml", "--json"]);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["memory"]["parts"]["base_bytes"]
            .as_u64()
            .unwrap()
    };
    let in_part = parts(&desk);
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&[
        "merge",
        "--adapter",
        "run",
        "--out",
        "merged",
        "--uncompared",
    ])
    .says("merge", 0, &["not compared with it"]);
    desk.run(&[
        "generate",
        "--base",
        "merged",
        "--prompt",
        "the term",
        "--max-tokens",
        "3",
    ])
    .says("generate", 0, &[]);
    // The plan counts what is not packed in full: three projections of 48 x 32 in f32 in place of a
    // bit more than half a byte a number.
    fs::copy(
        golden("quant/llama_nf4_double/model/model.safetensors"),
        desk.path("base/model.safetensors"),
    )
    .unwrap();
    let difference = in_part - parts(&desk);
    let expected = 3 * 48 * 32 * 4 - QuantFormat::QLORA.bytes([1, 3 * 48 * 32]);
    assert_eq!(difference, expected);
}

/// A base in NF4 with this change is refused with these words.
fn refused(change: &dyn Fn(&mut Tensors), words: &[&str]) {
    let desk = Desk::new();
    let folder = golden("quant/llama_nf4_double/model");
    let mut all = tensors(&folder.join("model.safetensors"));
    change(&mut all);
    fs::copy(folder.join("config.json"), desk.path("base/config.json")).unwrap();
    write_tensors(&desk.path("base/model.safetensors"), &all);
    desk.run(&["train", "recipe.yaml"])
        .says("refused", 65, words);
}
