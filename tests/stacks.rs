//! Experts whose weights are stacked in one tensor, in numbers and in MXFP4: they load, train, and
//! adapters of them are merged.

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use common::*;
use half::bf16;
use rankine::adapter::{LoraConfig, Targets, attach, peft};
use rankine::export::merge::{Addend, GgufNumbers, MergeRequest, Onto, OtherBase, merge};
use rankine::files::Float;
use rankine::files::safetensors::Archive;
use rankine::model::Folder;
use rankine::terms::{ModelDtype, Modules};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use support::Desk;

/// E2M1, Open Compute Project, Microscaling Formats v1.0.
const CODE: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Tensors by their names.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn write(folder: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The golden model twice, with the same numbers in its stacks: in MXFP4 and in bfloat16, which
/// holds them.
fn bases(packed: &Path, dense: &Path) {
    let base = golden("archs/gpt_oss/model");
    let archive = Archive::open(&base.join("model.safetensors")).unwrap();
    let (mut in_parts, mut in_numbers) = (Tensors::new(), Tensors::new());
    let bytes = |numbers: &[f32]| {
        numbers
            .iter()
            .flat_map(|number| bf16::from_f32(*number).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    for (name, shape) in archive.shapes() {
        if !name.ends_with("_proj") {
            let stored = bytes(&archive.read_f32(&name).unwrap().unwrap());
            for tensors in [&mut in_parts, &mut in_numbers] {
                tensors.insert(name.clone(), (Dtype::BF16, shape.clone(), stored.clone()));
            }
            continue;
        }
        let [count, inputs, outputs] = shape[..] else {
            panic!("{name}: {shape:?}")
        };
        let blocks = inputs.div_ceil(32);
        let codes: Vec<u8> = (0..count * outputs * blocks * 16)
            .map(|place| (place * 37 % 251) as u8)
            .collect();
        let scales: Vec<u8> = (0..count * outputs * blocks)
            .map(|place| 120 + (place % 4) as u8)
            .collect();
        let mut numbers = Vec::with_capacity(count * inputs * outputs);
        for matrix in 0..count {
            for place in 0..inputs * outputs {
                let (input, row) = (place / outputs, matrix * outputs + place % outputs);
                let byte = codes[(row * blocks + input / 32) * 16 + input % 32 / 2];
                let code = if input % 2 == 0 { byte & 15 } else { byte >> 4 };
                let sign = if code > 7 { -1.0 } else { 1.0 };
                let scale = 2_f32.powi(i32::from(scales[row * blocks + input / 32]) - 127);
                numbers.push(sign * CODE[usize::from(code & 7)] * scale);
            }
        }
        in_numbers.insert(name.clone(), (Dtype::BF16, shape.clone(), bytes(&numbers)));
        in_parts.insert(
            format!("{name}_blocks"),
            (Dtype::U8, vec![count, outputs, blocks, 16], codes),
        );
        in_parts.insert(
            format!("{name}_scales"),
            (Dtype::U8, vec![count, outputs, blocks], scales),
        );
    }
    for (folder, tensors) in [(packed, &in_parts), (dense, &in_numbers)] {
        fs::create_dir_all(folder).unwrap();
        for file in fs::read_dir(&base)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("model.safetensors"))
        {
            fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
        write(folder, tensors);
    }
    let mut config = json(&packed.join("config.json"));
    config["quantization_config"] =
        json!({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]});
    fs::write(packed.join("config.json"), config.to_string()).unwrap();
}

/// Adapters of attention and of all experts' parameters, drawn, none of them zero.
fn config() -> LoraConfig {
    let parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        .map(str::to_owned)
        .to_vec();
    let targets = Targets {
        modules: Modules::Names(vec!["q_proj".to_owned(), "o_proj".to_owned()]),
        ..Targets::all_linear()
    };
    LoraConfig {
        targets,
        target_parameters: parameters,
        init_lora_weights: false,
        ..lora(3, 6.0)
    }
}

#[test]
fn stacks_load_and_adapters_of_them_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    bases(&path("packed"), &path("dense"));
    let batch = batch(rows(
        &Archive::open(&golden("archs/gpt_oss/golden.safetensors")).unwrap(),
        "",
        None,
    ));
    let mut expected = Vec::new();
    for name in ["packed", "dense"] {
        let mut decoder = load(&path(name));
        let plain = logits(&decoder, &batch);
        attach(&mut decoder, &config(), 7, None).unwrap();
        let adapted = logits(&decoder, &batch);
        assert!(difference(&plain, &adapted) > 1e-3, "the adapter counts");
        expected.push((plain, adapted.clone()));

        let (trained, out) = (
            path(&format!("{name}-adapter")),
            path(&format!("{name}-merged")),
        );
        fs::create_dir(&trained).unwrap();
        peft::write(&trained, &decoder, &config(), "base").unwrap();
        let addends = vec![Addend {
            folder: trained,
            weight: 1.0,
            trained_on: None,
        }];
        let (base, float) = (path(name), Some(Float::F32));
        let order = MergeRequest {
            base,
            adapters: addends,
            out: out.clone(),
            float,
            other_base: OtherBase::Refuse,
            onto: Onto::Stored,
            counts_q8_0: false,
            keeps_gguf: false,
            gguf: GgufNumbers::Own,
        };
        let tally = merge(&order, &AtomicBool::new(false), &|_| {}).unwrap();
        assert_eq!(
            tally.merged_tensors,
            2 * (2 + 2),
            "two projections and two stacks a layer"
        );
        let config = json(&out.join("config.json"));
        assert!(config.get("quantization_config").is_none(), "{config}");
        let off = difference(&logits(&load(&out), &batch), &adapted);
        println!("{name}: merged logits {off:.1e}");
        assert!(off <= 5e-5, "{name}: {off}");
    }
    assert!(
        expected[0] == expected[1],
        "MXFP4 becomes the numbers that it stands for"
    );
}

#[test]
fn a_base_in_mxfp4_is_trained_and_merged() {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    bases(&desk.path("base"), &desk.path("dense"));
    for words in [
        &["adapter.target_modules=[q_proj, v_proj]"][..],
        &[
            "adapter.target_modules=[q_proj]",
            "adapter.target_parameters=[mlp.experts.down_proj]",
        ],
    ] {
        let train = [
            &[
                "train",
                "recipe.yaml",
                "--overwrite",
                "training.max_steps=2",
            ][..],
            words,
        ]
        .concat();
        desk.run(&train).says("train", 0, &[]);
        let _ = fs::remove_dir_all(desk.path("merged"));
        desk.run(&["merge", "--adapter", "run/adapter", "--out", "merged"])
            .says("merge", 0, &[]);
        let folder = Folder::open(&desk.path("merged")).unwrap();
        assert!(!folder.is_packed().unwrap());
        folder
            .load(ModelDtype::Auto, &Device::flex(), &|_| {})
            .unwrap();
    }
}
