//! `rankine merge`: the merged folder computes what PEFT computes with base and adapter, everything
//! else in it is the base's to the byte, and nothing half stands under its name.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use common::*;
use half::{bf16, f16};
use rankine::adapter::{LoraConfig, Targets, attach, peft};
use rankine::export::merge::{
    Addend, GgufNumbers, MergeError, MergeRequest, Onto, OtherBase, Tally, merge,
};
use rankine::files::Float;
use rankine::files::safetensors::{Archive, Named, write_f32};
use rankine::model::{Decoder, Folder, Storage, shard_paths};
use rankine::quant::QuantFormat;
use rankine::terms::{AdapterVector, ModelDtype, Modules};
use support::Desk;
use tempfile::TempDir;

const LOGITS: f32 = 5e-5;

fn order(base: &Path, adapters: &[(&Path, f64)], out: &Path, float: Option<Float>) -> MergeRequest {
    let addend = |(folder, weight): &(&Path, f64)| Addend {
        folder: folder.to_path_buf(),
        weight: *weight,
        trained_on: None,
    };
    let adapters = adapters.iter().map(addend).collect();
    MergeRequest {
        base: base.to_owned(),
        adapters,
        out: out.to_owned(),
        float,
        other_base: OtherBase::Refuse,
        onto: Onto::Stored,
        counts_q8_0: false,
        keeps_gguf: false,
        gguf: GgufNumbers::Own,
    }
}

/// Merges into a folder of its own.
fn merged(
    base: &Path,
    adapters: &[(&Path, f64)],
    float: Option<Float>,
) -> (TempDir, PathBuf, Tally) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let tally = merge(
        &order(base, adapters, &out, float),
        &AtomicBool::new(false),
        &|_| {},
    )
    .unwrap();
    (folder, out, tally)
}

/// All tensors of a model's folder.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let archives = shard_paths(folder)
        .unwrap()
        .into_iter()
        .map(|path| Archive::open(&path).unwrap());
    let of = |archive: Archive| {
        let names: Vec<String> = archive.shapes().into_keys().collect();
        names
            .into_iter()
            .map(move |name| (name.clone(), archive.read_f32(&name).unwrap().unwrap()))
            .collect::<Vec<_>>()
    };
    archives.flat_map(of).collect()
}

/// W + Σ w s B A in 64 bits.
fn summed(base: &Path, adapters: &[(&Path, f64)]) -> BTreeMap<String, Vec<f64>> {
    let exact = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
    let mut sums: BTreeMap<String, Vec<f64>> = tensors(base)
        .into_iter()
        .map(|(name, values)| (name, exact(values)))
        .collect();
    let linears = Folder::open(base).unwrap().spec.projections();
    let names: Vec<String> = linears.iter().map(|linear| linear.name.clone()).collect();
    for (adapter, weight) in adapters {
        let config = peft::read_config(adapter).unwrap();
        let numbers = peft::read_numbers(adapter, &config, &linears).unwrap();
        for target in config.resolve(&names).unwrap() {
            let ([a, b], sum) = (
                &numbers[&target.module],
                sums.get_mut(&format!("{}.weight", target.module)).unwrap(),
            );
            let inputs = a.len() / target.rank;
            for (index, sum) in sum.iter_mut().enumerate() {
                let (row, column) = (index / inputs, index % inputs);
                let product = |k: usize| {
                    f64::from(b[row * target.rank + k]) * f64::from(a[k * inputs + column])
                };
                *sum += weight * target.scale * (0..target.rank).map(product).sum::<f64>();
            }
        }
    }
    sums
}

/// Largest difference of the logits of a merged folder from a golden tensor.
fn merged_difference(out: &Path, batches: &Path, golden: &Path, key: &str) -> f32 {
    let rows = rows(&Archive::open(batches).unwrap(), "", None);
    logits_difference(
        &load(out),
        &rows,
        &Archive::open(golden)
            .unwrap()
            .read_f32(key)
            .unwrap()
            .unwrap(),
    )
}

fn llama() -> PathBuf {
    golden("archs/llama")
}

#[test]
fn merged_logits_equal_pefts() {
    let llama = llama();
    let families = FAMILIES.iter().map(|family| {
        (
            golden(&format!("archs/{family}")),
            golden(&format!("archs/{family}")),
        )
    });
    let variants = [
        "rslora",
        "patterns",
        "layers_to_transform",
        "regex_targets",
        "all_linear",
    ];
    let variants = variants
        .iter()
        .map(|variant| (llama.clone(), llama.join("variants").join(variant)));
    let experts = common::variants(&OF_EXPERTS).map(|(_, _, model, case)| (model, case));
    for (model, case) in families.chain(variants).chain(experts) {
        let (_folder, out, tally) = merged(
            &model.join("model"),
            &[(&case.join("adapter"), 1.0)],
            Some(Float::F32),
        );
        let key = if case.ends_with("per_expert") {
            "merged.logits"
        } else {
            "lora.logits"
        };
        let difference = merged_difference(
            &out,
            &model.join("golden.safetensors"),
            &case.join("golden.safetensors"),
            key,
        );
        println!(
            "{}: {} tensors merged, logits {difference:.1e}",
            case.display(),
            tally.merged_tensors
        );
        assert!(difference <= LOGITS, "{}: {difference}", case.display());
        assert!(tally.changed > 0 && tally.merged_tensors > 0, "{tally:?}");
    }
}

/// Tables and rows that were trained are in the merged model, and a head that was the embedding is
/// a table of its own where the two were changed apart: axolotl-ai-cloud/axolotl,
/// huggingface/peft#2777.
#[test]
fn trained_tables_are_merged_and_untied() {
    for (family, variant, model, case) in common::variants(&TABLES) {
        let (_folder, out, tally) = merged(
            &model.join("model"),
            &[(&case.join("adapter"), 1.0)],
            Some(Float::F32),
        );
        let difference = merged_difference(
            &out,
            &model.join("golden.safetensors"),
            &case.join("golden.safetensors"),
            "lora.logits",
        );
        println!(
            "{variant} on {family}: {} tensors merged, logits {difference:.1e}",
            tally.merged_tensors
        );
        assert!(difference <= LOGITS, "{variant} on {family}: {difference}");

        let (old, new) = (
            json(&model.join("model/config.json")),
            json(&out.join("config.json")),
        );
        let (was_tied, is_tied) = (
            old["tie_word_embeddings"] == true,
            new["tie_word_embeddings"] == true,
        );
        assert_eq!(
            is_tied,
            was_tied && matches!(variant, "trainable_tokens" | "all_linear"),
            "{variant} on {family}"
        );
        let [before, after] = [&model.join("model"), &out].map(|folder| tensors(folder));
        assert_eq!(
            after.contains_key("lm_head.weight"),
            !is_tied,
            "{variant} on {family}"
        );
        let index = out.join("model.safetensors.index.json");
        if index.exists() {
            let index = json(&index);
            let numbers: usize = after.values().map(Vec::len).sum();
            let mut listed: Vec<&String> =
                index["weight_map"].as_object().unwrap().keys().collect();
            listed.sort();
            assert_eq!(
                listed,
                after.keys().collect::<Vec<_>>(),
                "{variant} on {family}"
            );
            assert_eq!(
                index["metadata"],
                serde_json::json!({"total_parameters": numbers, "total_size": 4 * numbers})
            );
        }
        // What was trained whole is there to the bit, and other rows than those that were trained
        // are the base's.
        let adapter = Archive::open(&case.join("adapter/adapter_model.safetensors")).unwrap();
        for module in ["lm_head", "model.embed_tokens"] {
            let saved = adapter
                .read_f32(&format!("base_model.model.{module}.weight"))
                .unwrap();
            assert!(
                saved.is_none_or(|saved| saved == after[&format!("{module}.weight")]),
                "{variant} on {family}: {module}"
            );
        }
        if variant == "trainable_tokens" {
            let width = Folder::open(&out).unwrap().spec.width;
            let rows = |tensors: &BTreeMap<String, Vec<f32>>| {
                tensors["model.embed_tokens.weight"]
                    .chunks(width)
                    .map(<[f32]>::to_vec)
                    .collect::<Vec<_>>()
            };
            let changed = rows(&before)
                .iter()
                .zip(rows(&after))
                .filter(|(old, new)| *old != new)
                .count();
            let trained = json(&case.join("adapter/adapter_config.json"));
            let trained = trained["trainable_token_indices"].as_array().unwrap().len();
            assert_eq!(changed, trained, "{variant} on {family}");
        }
    }
}

/// A part of the way to a trained table; and no two adapters that replace one.
#[test]
fn a_table_counts_by_its_weight_and_for_one_adapter_only() {
    let llama = llama();
    let whole = llama.join("variants/modules_to_save/adapter");
    let (_folder, out, _) = merged(&llama.join("model"), &[(&whole, 0.25)], None);
    let saved = Archive::open(&whole.join("adapter_model.safetensors")).unwrap();
    let (saved, old) = (
        saved
            .read_f32("base_model.model.lm_head.weight")
            .unwrap()
            .unwrap(),
        tensors(&llama.join("model")),
    );
    let expected: Vec<f32> = old["lm_head.weight"]
        .iter()
        .zip(saved)
        .map(|(old, new)| old + 0.25 * (new - old))
        .collect();
    assert!(difference(&tensors(&out)["lm_head.weight"], &expected) <= 1e-6);
    for other in ["embedding_lora", "trainable_tokens", "modules_to_save"] {
        let other = llama.join("variants").join(other).join("adapter");
        let out = tempfile::tempdir().unwrap();
        let order = order(
            &llama.join("model"),
            &[(&whole, 1.0), (&other, 1.0)],
            &out.path().join("merged"),
            None,
        );
        let error = merge(&order, &AtomicBool::new(false), &|_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("two adapters change `"), "{error}");
    }
}

/// PEFT saves the base's table below matrices of the embedding unless it is told not to, and loads
/// it in place of the base's.
#[test]
fn a_table_below_matrices_takes_the_place_of_the_bases_as_in_peft() {
    let (llama, folder) = (llama(), tempfile::tempdir().unwrap());
    let adapter = llama.join("variants/embedding_lora/adapter");
    let archive = Archive::open(&adapter.join("adapter_model.safetensors")).unwrap();
    let base = tensors(&llama.join("model"));
    let spec = Folder::open(&llama.join("model")).unwrap().spec;
    let base_shape = vec![spec.vocabulary, spec.width];
    fs::copy(
        adapter.join("adapter_config.json"),
        folder.path().join("adapter_config.json"),
    )
    .unwrap();
    let write = |change: f32| {
        let mut all: Vec<Named> = archive
            .shapes()
            .into_iter()
            .map(|(name, shape)| {
                (
                    name.clone(),
                    shape,
                    archive.read_f32(&name).unwrap().unwrap(),
                )
            })
            .collect();
        for module in ["lm_head", "model.embed_tokens"] {
            let mut numbers = base[&format!("{module}.weight")].clone();
            numbers[5] += change;
            all.push((
                format!("base_model.model.{module}.base_layer.weight"),
                base_shape.clone(),
                numbers,
            ));
        }
        write_f32(&folder.path().join("adapter_model.safetensors"), &all, &[]).unwrap();
    };
    write(0.0);
    let (_one, with, _) = merged(&llama.join("model"), &[(folder.path(), 1.0)], None);
    let (_other, without, _) = merged(&llama.join("model"), &[(&adapter, 1.0)], None);
    assert_eq!(tensors(&with), tensors(&without));
    attach_peft(&mut load(&llama.join("model")), folder.path());
    write(0.5);
    let (_third, other, _) = merged(&llama.join("model"), &[(folder.path(), 1.0)], None);
    let (found, before) = (tensors(&other), tensors(&without));
    for (name, numbers) in &before {
        let mut expected = numbers.clone();
        if ["lm_head.weight", "model.embed_tokens.weight"].contains(&name.as_str()) {
            expected[5] = found[name][5];
            assert!(
                (found[name][5] - numbers[5] - 0.5).abs() < 1e-6,
                "{name}: {} and {}",
                found[name][5],
                numbers[5]
            );
        }
        assert!(common::difference(&found[name], &expected) < 1e-6, "{name}");
    }
    let rows = common::rows(
        &Archive::open(&llama.join("golden.safetensors")).unwrap(),
        "",
        None,
    );
    let logits = |decoder: &Decoder| common::logits(decoder, &common::batch(rows.clone()));
    let mut attached = load(&llama.join("model"));
    attach_peft(&mut attached, folder.path());
    assert!(common::difference(&logits(&attached), &logits(&load(&other))) < 1e-5);
    // Beside another one nobody knows which base is meant.
    let out = tempfile::tempdir().unwrap();
    let order = order(
        &llama.join("model"),
        &[(folder.path(), 1.0), (&llama.join("adapter"), 1.0)],
        &out.path().join("merged"),
        None,
    );
    let error = merge(&order, &AtomicBool::new(false), &|_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("that is not this base's"), "{error}");
}

/// `DoRA` merges to what PEFT merges it to, and to what the unmerged adapter computes.
#[test]
fn magnitudes_are_merged_as_in_peft() {
    let (llama, case) = (llama(), llama().join("variants/dora"));
    let (_folder, out, tally) = merged(&llama.join("model"), &[(&case.join("adapter"), 1.0)], None);
    for key in ["merged.logits", "lora.logits"] {
        let difference = merged_difference(
            &out,
            &llama.join("golden.safetensors"),
            &case.join("golden.safetensors"),
            key,
        );
        println!("DoRA, {key}: {difference:.1e}");
        assert!(difference <= LOGITS, "{key}: {difference}");
    }
    let pairs = Archive::open(&case.join("adapter/adapter_model.safetensors"))
        .unwrap()
        .shapes()
        .len() as u64
        / 3;
    assert_eq!(
        (
            tally.merged_tensors,
            tally.rounding().map(|share| share < 1e-6)
        ),
        (pairs, Some(true)),
        "{tally:?}"
    );
    // Two of them, or a share of one, are no sum that somebody trained.
    let plain = llama.join("adapter");
    for adapters in [
        &[(&*case.join("adapter"), 0.5)][..],
        &[(&plain, 1.0), (&case.join("adapter"), 1.0)],
    ] {
        let out = tempfile::tempdir().unwrap();
        let order = order(
            &llama.join("model"),
            adapters,
            &out.path().join("merged"),
            None,
        );
        let error = merge(&order, &AtomicBool::new(false), &|_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("it is DoRA, whose magnitudes go with the base and itself alone"),
            "{error}"
        );
        assert!(matches!(error, MergeError::Adapter(_)) && !order.out.exists());
    }
}

/// On what remains of a packed base, magnitudes scale that: the merged model is the decoder on the
/// packed base.
#[test]
fn magnitudes_are_merged_onto_what_remains_of_a_packed_base() {
    let (llama, case) = (llama(), llama().join("variants/dora"));
    let folder = tempfile::tempdir().unwrap();
    let onto = Onto::Unpacked {
        form: QuantFormat::QLORA,
        packs_head: false,
    };
    let order = MergeRequest {
        onto,
        ..order(
            &llama.join("model"),
            &[(&case.join("adapter"), 1.0)],
            &folder.path().join("merged"),
            None,
        )
    };
    merge(&order, &AtomicBool::new(false), &|_| {}).unwrap();
    let storage = Storage {
        form: Some(QuantFormat::QLORA),
        ..ModelDtype::Auto.into()
    };
    let mut packed = Folder::open(&llama.join("model"))
        .unwrap()
        .load(storage, &Device::flex(), &|_| {})
        .unwrap();
    attach_peft(&mut packed, &case.join("adapter"));
    let batch = batch(rows(
        &Archive::open(&llama.join("golden.safetensors")).unwrap(),
        "",
        None,
    ));
    let difference = difference(&logits(&load(&order.out), &batch), &logits(&packed, &batch));
    println!("DoRA on NF4: {difference:.1e}");
    assert!(difference <= LOGITS, "{difference}");
}

/// A bias of an adapter goes into that of the base; where there is none PEFT refuses, and so do we.
#[test]
fn biases_are_merged_where_the_base_has_some() {
    let (qwen2, llama) = (golden("archs/qwen2/model"), llama());
    let mut decoder = load(&qwen2);
    let targets = Targets {
        modules: Modules::Names(["q_proj", "k_proj", "v_proj"].map(str::to_owned).to_vec()),
        ..Targets::all_linear()
    };
    let config = LoraConfig {
        targets,
        vector: Some(AdapterVector::Bias),
        init_lora_weights: false,
        ..lora(3, 6.0)
    };
    attach(&mut decoder, &config, 5, None).unwrap();
    let adapter = tempfile::tempdir().unwrap();
    peft::write(adapter.path(), &decoder, &config, "base").unwrap();
    let (_folder, out, tally) = merged(&qwen2, &[(adapter.path(), 1.0)], None);
    let layers = decoder.spec.layers.len() as u64;
    assert_eq!(tally.merged_tensors, layers * 6, "weights and biases");
    let batch = batch(rows(
        &Archive::open(&golden("archs/qwen2/golden.safetensors")).unwrap(),
        "",
        None,
    ));
    let difference = difference(&logits(&load(&out), &batch), &logits(&decoder, &batch));
    assert!(difference <= LOGITS, "{difference}");

    let (out, adapter) = (
        tempfile::tempdir().unwrap(),
        llama.join("variants/lora_bias/adapter"),
    );
    let order = order(
        &llama.join("model"),
        &[(&adapter, 1.0)],
        &out.path().join("merged"),
        None,
    );
    let error = merge(&order, &AtomicBool::new(false), &|_| {})
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it has a bias for `model.layers.0.self_attn.")
            && error.contains("`, where the base has none to add it to"),
        "{error}"
    );
    assert!(!order.out.exists());
}

#[test]
fn halves_are_the_nearest_to_the_sums() {
    let (bf16_case, mistral) = (llama().join("variants/bf16"), golden("archs/mistral"));
    let rounded = |float, sum: f64| match float {
        Float::Bf16 => bf16::from_f32(sum as f32).to_f32(),
        _ => f16::from_f32(sum as f32).to_f32(),
    };
    for (case, float, most_lost) in [
        (&bf16_case, Float::Bf16, 1e-2),
        (&mistral, Float::F16, 1e-3),
    ] {
        let (base, adapter) = (case.join("model"), case.join("adapter"));
        let (_folder, out, tally) = merged(&base, &[(&adapter, 1.0)], None);
        let (sums, stored) = (summed(&base, &[(&adapter, 1.0)]), tensors(&out));
        let mut elsewhere = 0;
        for (name, sums) in &sums {
            for (sum, stored) in sums.iter().zip(&stored[name]) {
                // A sum in 32 bits may lie on the other side of a tie.
                let error = 1e-8 + 1e-7 * sum.abs();
                let [below, above] = [sum - error, sum + error].map(|sum| rounded(float, sum));
                assert!(
                    (below..=above).contains(stored),
                    "{name}: {sum} as {stored}"
                );
                elsewhere += u32::from(rounded(float, *sum) != *stored);
            }
        }
        let numbers: usize = sums.values().map(Vec::len).sum();
        println!(
            "{}: {elsewhere} of {numbers} beside a tie, rounding {:?}",
            case.display(),
            tally.rounding()
        );
        assert!(tally.rounding().unwrap() < most_lost, "{tally:?}");
    }
    let (_folder, out, _) = merged(
        &bf16_case.join("model"),
        &[(&bf16_case.join("adapter"), 1.0)],
        None,
    );
    let batches = llama().join("golden.safetensors");
    let difference = merged_difference(
        &out,
        &batches,
        &bf16_case.join("golden.safetensors"),
        "merged.logits",
    );
    println!(
        "bf16: merged logits differ by {difference:.1e} from those that PEFT computes in bf16"
    );
    assert!(difference <= 1e-1, "{difference}");
}

#[test]
fn several_adapters_are_added_up_by_their_weights() {
    let (llama, out) = (llama(), tempfile::tempdir().unwrap());
    let folders = [
        "adapter",
        "variants/rslora/adapter",
        "variants/patterns/adapter",
    ]
    .map(|name| llama.join(name));
    let adapters = [
        (&*folders[0], 0.5),
        (&*folders[1], -1.25),
        (&*folders[2], 1.0),
    ];
    let (_folder, merged_at, _) = merged(&llama.join("model"), &adapters, None);
    for (name, sums) in summed(&llama.join("model"), &adapters) {
        let ours = &tensors(&merged_at)[&name];
        let difference = largest(
            sums.iter()
                .zip(ours)
                .map(|(sum, ours)| (*sum as f32 - ours).abs()),
        );
        assert!(difference <= 1e-6, "{name}: {difference}");
    }
    // One after the other comes to the same but for the last bits.
    let mut base = llama.join("model");
    for (index, adapter) in adapters.iter().enumerate() {
        let next = out.path().join(index.to_string());
        merge(
            &order(&base, &[*adapter], &next, None),
            &AtomicBool::new(false),
            &|_| {},
        )
        .unwrap();
        base = next;
    }
    for (name, ours) in tensors(&merged_at) {
        assert!(difference(&ours, &tensors(&base)[&name]) <= 1e-6, "{name}");
    }
}

/// A PEFT folder on every projection of a base; B is `b` everywhere.
fn flat_adapter(base: &Path, folder: &Path, rank: usize, b: f32) {
    let mut decoder = load(base);
    let config = lora(rank, 2.0 * rank as f64);
    attach(&mut decoder, &LoraConfig { ..config.clone() }, 7, None).unwrap();
    for lora in decoder.adapters_mut() {
        lora.b = lora.b.clone() * 0.0 + b;
    }
    fs::create_dir_all(folder).unwrap();
    peft::write(folder, &decoder, &config, "base").unwrap();
}

#[test]
fn an_adapter_of_zeros_leaves_every_byte() {
    for family in FAMILIES {
        let base = tempfile::tempdir().unwrap();
        let model = golden(&format!("archs/{family}/model"));
        for file in fs::read_dir(&model).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), base.path().join(file.file_name())).unwrap();
        }
        // A negative zero stays one.
        for path in shard_paths(base.path()).unwrap() {
            let start = Archive::open(&path).unwrap().header().len();
            let mut bytes = fs::read(&path).unwrap();
            for number in bytes[start..].chunks_exact_mut(4).step_by(97) {
                number.copy_from_slice(&[0, 0x80, 0, 0x80]);
            }
            fs::write(&path, bytes).unwrap();
        }
        let adapter = base.path().join("adapter");
        flat_adapter(base.path(), &adapter, 3, 0.0);
        let (_folder, out, tally) = merged(base.path(), &[(&adapter, 1.0)], None);
        assert_eq!((tally.changed, tally.rounding()), (0, None), "{family}");
        for file in fs::read_dir(&model)
            .unwrap()
            .map(|file| file.unwrap().file_name())
        {
            assert!(
                fs::read(base.path().join(&file)).unwrap() == fs::read(out.join(&file)).unwrap(),
                "{family}: {file:?}"
            );
        }
    }
}

#[test]
fn a_sharded_base_keeps_its_shards_and_index() {
    let (llama, split) = (llama(), tempfile::tempdir().unwrap());
    let archive = Archive::open(&llama.join("model/model.safetensors")).unwrap();
    let all: Vec<Named> = archive
        .shapes()
        .into_iter()
        .map(|(name, shape)| {
            (
                name.clone(),
                shape,
                archive.read_f32(&name).unwrap().unwrap(),
            )
        })
        .collect();
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut index = serde_json::Map::new();
    for (name, part) in names.iter().zip(all.chunks(all.len().div_ceil(2))) {
        write_f32(&split.path().join(name), part, &[("format", "pt".into())]).unwrap();
        index.extend(
            part.iter()
                .map(|(tensor, ..)| (tensor.clone(), (*name).into())),
        );
    }
    let index = serde_json::json!({"metadata": {"total_size": 7}, "weight_map": index});
    fs::write(
        split.path().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    fs::copy(
        llama.join("model/config.json"),
        split.path().join("config.json"),
    )
    .unwrap();
    fs::write(split.path().join("LICENSE.txt"), "the license").unwrap();
    fs::write(split.path().join("README.md"), "the base's card").unwrap();
    fs::write(split.path().join("pytorch_model.bin"), "a pickle").unwrap();

    let adapter = llama.join("adapter");
    let (_one, single, _) = merged(&llama.join("model"), &[(&adapter, 1.0)], None);
    let (_two, sharded, _) = merged(split.path(), &[(&adapter, 1.0)], None);
    assert_eq!(tensors(&single), tensors(&sharded));
    for name in names {
        let header = |folder: &Path| Archive::open(&folder.join(name)).unwrap().header().to_vec();
        assert_eq!(header(&sharded), header(split.path()), "{name}");
    }
    for name in ["model.safetensors.index.json", "config.json", "LICENSE.txt"] {
        assert_eq!(
            fs::read(sharded.join(name)).unwrap(),
            fs::read(split.path().join(name)).unwrap(),
            "{name}"
        );
    }
    assert!(!sharded.join("pytorch_model.bin").exists());
    assert!(
        fs::read_to_string(sharded.join("README.md"))
            .unwrap()
            .contains("with merged LoRA adapters")
    );

    let (_three, halved, tally) = merged(split.path(), &[(&adapter, 1.0)], Some(Float::Bf16));
    assert_eq!(json(&halved.join("config.json"))["dtype"], "bfloat16");
    let size = all
        .iter()
        .map(|(_, _, values)| 2 * values.len() as u64)
        .sum::<u64>();
    assert_eq!(
        json(&halved.join("model.safetensors.index.json"))["metadata"]["total_size"],
        size
    );
    let on_disk = |name: &str| fs::metadata(halved.join(name)).unwrap().len();
    assert_eq!(
        tally.bytes,
        names.iter().map(|name| on_disk(name)).sum::<u64>()
    );
    for (name, values) in tensors(&halved) {
        let rounded = tensors(&single)[&name]
            .iter()
            .map(|value| bf16::from_f32(*value).to_f32())
            .collect::<Vec<_>>();
        assert_eq!(values, rounded, "{name}");
    }
}

#[test]
fn a_sum_that_its_type_cannot_hold_is_refused() {
    let (mistral, folder) = (golden("archs/mistral/model"), tempfile::tempdir().unwrap());
    let (adapter, out) = (folder.path().join("adapter"), folder.path().join("out"));
    flat_adapter(&mistral, &adapter, 3, 1e6);
    let refused = |weight: f64, float| {
        merge(
            &order(&mistral, &[(&adapter, weight)], &out, float),
            &AtomicBool::new(false),
            &|_| {},
        )
    };
    let error = refused(1.0, None).expect_err("beyond f16");
    assert!(
        matches!(
            &error,
            MergeError::NotFinite { tensor, float: Float::F16 }
                if tensor.starts_with("model.layers.")
        ),
        "{error}"
    );
    refused(1.0, Some(Float::Bf16)).expect("bf16 goes as far as f32");
    fs::remove_dir_all(&out).unwrap();
    assert!(matches!(
        refused(1e300, Some(Float::F32)),
        Err(MergeError::NotFinite { .. })
    ));
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["adapter"], "nothing half is left");
}

/// A desk whose recipe has been trained.
fn trained() -> Desk {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk
}

#[test]
fn a_run_is_merged_into_the_base_that_it_names() {
    let desk = trained();
    let ran = desk.run(&[
        "merge",
        "--adapter",
        "run/adapter",
        "--out",
        "new/merged",
        "--json",
    ]);
    ran.says("merge", 0, &[]);
    let result: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&result["base"], &result["merged_tensors"]),
        (&"DESK/base".into(), &14.into()),
        "{result}"
    );
    assert!(
        result["adapters"][0]["trained_on"]
            .as_str()
            .unwrap()
            .ends_with("run/recipe.lock.yaml"),
        "{result}"
    );
    assert!(!ran.stderr.contains("note:"), "{}", ran.stderr);
    let [merged, base] = ["new/merged", "base"].map(|name| desk.path(name));
    let mut decoder = load(&base);
    attach_peft(&mut decoder, &desk.path("run/adapter"));
    let batch = batch(vec![rankine::data::TokenRow {
        ids: (1..40).collect(),
        trained: vec![true; 39],
    }]);
    assert!(difference(&logits(&decoder, &batch), &logits(&load(&merged), &batch)) <= LOGITS);

    let words = ["merge", "--adapter", "run/adapter", "--out", "new/merged"];
    desk.run(&words).says(
        "an output that is there",
        73,
        &["`new/merged` exists", "hint: choose another `--out`"],
    );
    // From elsewhere, and from a copy of the adapter that has lost its run.
    fs::create_dir(desk.path("elsewhere")).unwrap();
    let words = ["merge", "--adapter", "../run/adapter", "--out", "merged"];
    let there = desk
        .command(&words)
        .current_dir(desk.path("elsewhere"))
        .output()
        .unwrap();
    assert!(there.status.success(), "{there:?}");
    fs::rename(desk.path("run/adapter"), desk.path("alone")).unwrap();
    desk.run(&["merge", "--adapter", "alone", "--out", "again"])
        .says("a copy", 0, &["note: no lock of a run lies above `alone`"]);
    for name in ["elsewhere/merged", "again"].map(|name| format!("{name}/model.safetensors")) {
        assert!(
            desk.read(&name) == desk.read("new/merged/model.safetensors"),
            "{name}"
        );
    }
}

#[test]
fn another_base_is_refused_unless_forced() {
    let desk = trained();
    let words = ["merge", "--adapter", "run/adapter", "--out", "merged"];
    let mut weights = desk.read("base/model.safetensors");
    *weights.last_mut().unwrap() ^= 1;
    desk.write("base/model.safetensors", &weights);
    let ran = desk.run(&words);
    ran.says(
        "other weights",
        65,
        &[
            "`DESK/base/model.safetensors` is not what adapter `run/adapter` was trained on",
            "--force",
        ],
    );
    let ran = desk.run(&[&words[..], &["--force"]].concat());
    ran.says(
        "forced",
        0,
        &[
            "note: `DESK/base/model.safetensors` is not what",
            "; going on because of `--force`",
        ],
    );
    fs::remove_dir_all(desk.path("merged")).unwrap();

    *weights.last_mut().unwrap() ^= 1;
    desk.write("base/model.safetensors", &weights);
    desk.edit(
        "base/config.json",
        "\"rms_norm_eps\": 1e-05",
        "\"rms_norm_eps\": 1e-06",
    );
    desk.run(&words).says(
        "other config",
        65,
        &["`DESK/base/config.json` is not what adapter"],
    );
    desk.edit(
        "base/config.json",
        "\"rms_norm_eps\": 1e-06",
        "\"rms_norm_eps\": 1e-05",
    );
    fs::rename(
        desk.path("base/model.safetensors"),
        desk.path("base/m.safetensors"),
    )
    .unwrap();
    let index: serde_json::Map<_, _> = Archive::open(&desk.path("base/m.safetensors"))
        .unwrap()
        .shapes()
        .into_keys()
        .map(|name| (name, serde_json::json!("m.safetensors")))
        .collect();
    desk.write(
        "base/model.safetensors.index.json",
        serde_json::json!({ "weight_map": index }).to_string(),
    );
    desk.run(&words).says(
        "other files",
        65,
        &[
            "the weights of `DESK/base` are `m.safetensors`",
            "was trained on `model.safetensors`",
        ],
    );
    assert!(!desk.path("merged").exists());
    let other = golden("archs/qwen3/model").display().to_string();
    desk.run(&[&words[..], &["--base", &other, "--force"]].concat())
        .says(
            "other shapes",
            65,
            &["has shape", "was trained on another base"],
        );
}

#[test]
fn what_is_wrong_with_the_words_is_told() {
    let desk = Desk::new();
    let adapter = llama().join("adapter");
    fs::create_dir(desk.path("adapter")).unwrap();
    for path in peft::files(&adapter) {
        fs::copy(&path, desk.path("adapter").join(path.file_name().unwrap())).unwrap();
    }
    let merge = |words: &[&str]| desk.run(&[&["merge", "--out", "merged"], words].concat());
    merge(&["--adapter", "none"]).says("no adapter", 66, &["adapter `none` does not exist"]);
    merge(&["--adapter", "adapter", "--base", "none"]).says(
        "no base",
        66,
        &["base `none` does not exist"],
    );
    merge(&["--adapter", "adapter"]).says(
        "base of its config",
        65,
        &[
            "the adapter in `adapter` was trained on `../model`, which is no folder here",
            "--base",
        ],
    );
    merge(&["--adapter", "adapter=half", "--base", "base"]).says(
        "weight",
        2,
        &["its weight is not a number", "adapter=0.5"],
    );
    merge(&["--adapter", "adapter=inf", "--base", "base"]).says(
        "infinite",
        2,
        &["its weight is not a number"],
    );
    merge(&["--adapter", "adapter", "--base", "base", "--dtype", "int8"]).says(
        "type",
        2,
        &["keep, f32, bf16, f16"],
    );
    merge(&[]).says("nothing", 2, &["--adapter"]);
    merge(&["--adapter", "adapter=0", "--base", "base"]).says(
        "0 times",
        0,
        &["note: the adapters add nothing"],
    );
    fs::remove_dir_all(desk.path("merged")).unwrap();
    desk.edit(
        "adapter/adapter_config.json",
        "\"use_dora\": false",
        "\"use_dora\": true",
    );
    merge(&["--adapter", "adapter", "--base", "base"]).says(
        "DoRA",
        65,
        &["lora_magnitude_vector` is missing"],
    );
    desk.edit(
        "adapter/adapter_config.json",
        "\"use_dora\": true",
        "\"use_dora\": false",
    );
    desk.cut("base/model.safetensors", 0.9);
    merge(&["--adapter", "adapter", "--base", "base"]).says(
        "cut base",
        65,
        &["is not a whole safetensors file"],
    );
    assert!(!desk.path("merged").exists());
}

/// A base of zeros that takes no room on the disk: a Llama of this width in bf16, with an adapter.
#[cfg(unix)]
fn large(desk: &Desk, width: usize, layers: usize) -> u64 {
    let config = serde_json::json!({
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_attention_heads": 16,
        "num_hidden_layers": layers,
        "vocab_size": 8192,
        "dtype": "bfloat16",
        "tie_word_embeddings": true,
    });
    fs::create_dir(desk.path("large")).unwrap();
    desk.write("large/config.json", config.to_string());
    let spec = Folder::open(&desk.path("large")).unwrap().spec;
    let (mut header, mut start) = (serde_json::Map::new(), 0);
    for (name, shape) in spec.tensors() {
        let end = start + 2 * shape.iter().product::<usize>();
        header.insert(
            name,
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}),
        );
        start = end;
    }
    let header = serde_json::to_string(&header).unwrap();
    desk.write(
        "large/model.safetensors",
        [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat(),
    );
    let file = fs::OpenOptions::new()
        .write(true)
        .open(desk.path("large/model.safetensors"))
        .unwrap();
    file.set_len((8 + header.len() + start) as u64).unwrap();

    let mut numbers = Vec::new();
    for linear in spec.projections() {
        let key = |part: &str| format!("base_model.model.{}.lora_{part}.weight", linear.name);
        numbers.push((
            key("A"),
            vec![8, linear.inputs],
            vec![0.25; 8 * linear.inputs],
        ));
        numbers.push((
            key("B"),
            vec![linear.outputs, 8],
            vec![0.5; 8 * linear.outputs],
        ));
    }
    fs::create_dir(desk.path("adapter")).unwrap();
    write_f32(
        &desk.path("adapter/adapter_model.safetensors"),
        &numbers,
        &[],
    )
    .unwrap();
    let modules = serde_json::json!([
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj"
    ]);
    let config = serde_json::json!({
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 8,
        "target_modules": modules,
    });
    desk.write("adapter/adapter_config.json", config.to_string());
    start as u64
}

#[test]
#[cfg(unix)]
fn a_merge_takes_little_memory_and_leaves_nothing_when_it_is_stopped() {
    use std::time::{Duration, Instant};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    let desk = Desk::new();
    let bytes = large(&desk, 2048, 6);
    let words = [
        "merge",
        "--adapter",
        "adapter",
        "--base",
        "large",
        "--out",
        "merged",
        "--json",
    ];
    let result: serde_json::Value = serde_json::from_str(&desk.run(&words).stdout).unwrap();
    let peak = result["peak_memory_bytes"].as_u64().unwrap();
    println!(
        "{bytes} bytes of weights, peak {peak}, {} s",
        result["seconds"]
    );
    assert!(bytes > 500 << 20 && peak < 128 << 20, "{result}");
    assert_eq!(
        tensors_of(&desk.path("merged"), "model.layers.5.mlp.up_proj.weight"),
        vec![1.0; 2048 * 3 * 2048]
    );
    fs::remove_dir_all(desk.path("merged")).unwrap();

    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut child = desk
            .command(&words)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while temporary(&desk).is_none() && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let exit = child.wait().unwrap();
        assert!(
            !desk.path("merged").exists(),
            "{signal}: a merge that was stopped is not there"
        );
        if signal == Signal::SIGKILL {
            fs::remove_dir_all(temporary(&desk).expect("nobody was left to remove it")).unwrap();
        } else {
            assert_eq!(
                (exit.code(), temporary(&desk)),
                (Some(130), None),
                "{signal}"
            );
        }
    }
}

#[cfg(unix)]
fn tensors_of(folder: &Path, name: &str) -> Vec<f32> {
    Archive::open(&folder.join("model.safetensors"))
        .unwrap()
        .read_f32(name)
        .unwrap()
        .unwrap()
}

/// The folder under its temporary name.
#[cfg(unix)]
fn temporary(desk: &Desk) -> Option<PathBuf> {
    let entries = fs::read_dir(desk.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(".rankine-tmp-")
    })
}
