//! Training on a GPU, against transformers, PEFT and the CPU: on the first adapter of wgpu, a
//! software one included, or with `RANKINE_TEST_DEVICE=cuda` on the first of CUDA. Without one
//! nothing is run and each test says so.

#![cfg(any(feature = "wgpu", feature = "cuda"))]

mod common;
mod support;

use std::path::Path;

use burn::tensor::Device;
use common::*;
use rankine::adapter::{LoraConfig, attach, tensors};
use rankine::data::{Batch, TokenRow};
use rankine::device;
use rankine::files::safetensors::Archive;
use rankine::model::{DecoderSpec, Folder, Storage};
use rankine::quant::{BlockSize, FourBitType, QuantFormat};
use rankine::terms::ModelDtype;
use rankine::train::{
    AdamW, AdamWConfig, Gradients, Memory, RateCourse, Schedule, StepConfig, forward_backward,
};

const COSINE: RateCourse = RateCourse::Cosine {
    num_cycles: 0.5,
    min: 0.0,
};
use serde_json::Value;
use support::Desk;

const LOGITS: f32 = 1e-3;
const STEP_LOSS: f64 = 1e-3;
/// Of layers that hand on float16.
const HALF_STEP_LOSS: f64 = 1e-2;
/// Of a tensor's norm.
const GRADIENT: f32 = 1e-3;

/// The GPU, opened.
fn adapter() -> Option<Device> {
    tested_gpu().map(|found| device::open(found.device).unwrap())
}

/// |ours - theirs| / |theirs|.
fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(ours.len(), theirs.len());
    norm(&mut ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs))
        / norm(&mut theirs.iter().copied())
}

fn check_family(family: &str, device: &Device, memory: Memory, head_chunk_rows: usize) {
    let folder = golden(&format!("archs/{family}"));
    check(
        family,
        &folder.join("model"),
        ModelDtype::Float32.into(),
        &folder,
        device,
        memory,
        head_chunk_rows,
    );
}

fn check(
    family: &str,
    model: &Path,
    storage: Storage,
    folder: &Path,
    device: &Device,
    memory: Memory,
    head_chunk_rows: usize,
) {
    let (archive, info) = (
        Archive::open(&folder.join("golden.safetensors")).unwrap(),
        json(&folder.join("golden.json")),
    );
    let mut decoder = Folder::open(model)
        .unwrap()
        .load(storage, device, &|_| {})
        .unwrap();
    let first = rows(&archive, "", None);
    let base = logits_difference(
        &decoder,
        &first,
        &archive.read_f32("logits").unwrap().unwrap(),
    );
    attach_peft(&mut decoder, &folder.join("adapter"));
    let logits = logits_difference(
        &decoder,
        &first,
        &archive.read_f32("lora.logits").unwrap().unwrap(),
    );
    assert!(
        base <= LOGITS && logits <= LOGITS,
        "{family}: logits of the base differ by {base}, of the adapter by {logits}"
    );

    let step = StepConfig {
        memory,
        head_chunk_rows,
        dropout: 0.0,
    };
    let mut gradients = Gradients::default();
    let loss = forward_backward(&decoder, &batch(first), step, [0, 0], &mut gradients);
    let gradients = gradients.scaled(1.0 / loss.trained_tokens as f64);
    let of_each = tensors(&decoder, &gradients.all())
        .into_iter()
        .map(|(key, _, ours)| {
            let difference = relative(
                &ours,
                &archive
                    .read_f32(&format!("lora.grad.{key}"))
                    .unwrap()
                    .unwrap(),
            );
            assert!(
                difference <= GRADIENT,
                "{family}: gradient of {key} differs by {difference} of its norm"
            );
            difference
        });
    let gradient = largest(of_each);

    let log = info["train"].as_array().unwrap();
    let adamw = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        loraplus_lr_ratio: 1.0,
    };
    let schedule = Schedule {
        peak: 1e-3,
        course: COSINE,
        warmup_steps: 3,
        total_steps: log.len() as u64,
    };
    let mut optimizer = AdamW::new(adamw, &decoder);
    let mut curve: f64 = 0.0;
    for (taken, entry) in log.iter().enumerate() {
        let mut gradients = Gradients::default();
        let batch = batch(rows(&archive, "train.", Some(taken % 4)));
        let loss = forward_backward(&decoder, &batch, step, [0, 0], &mut gradients);
        let mean = 1.0 / loss.trained_tokens as f64;
        let gradients = gradients.scaled(mean);
        let norm = gradients.norm();
        let difference = (loss.sum * mean - entry["loss"].as_f64().unwrap()).abs();
        assert!(
            difference <= STEP_LOSS,
            "{family}, step {taken}: loss differs by {difference}"
        );
        assert!(
            optimizer.update(
                &mut decoder,
                gradients.clipped(norm, 1.0),
                schedule.lr_at(taken as u64)
            ),
            "step {taken}"
        );
        curve = curve.max(difference);
    }
    println!(
        "{family}, {memory:?}: logits {base:.1e} and {logits:.1e}, gradients {gradient:.1e}, {} \
        steps {curve:.1e}",
        log.len()
    );
}

#[test]
fn adapters_train_as_in_peft() {
    let Some(device) = adapter() else { return };
    for family in tested_families() {
        check_family(family, &device, Memory::KEEP, 256);
    }
    check_family("llama", &device, Memory::RECOMPUTE, 3);
}

/// NF4 as bitsandbytes packs it, with an embedding that stays on the host.
#[test]
fn adapters_train_on_packed_bases_as_in_peft() {
    let Some(device) = adapter() else { return };
    let model = golden("archs/llama/model");
    for (name, double_quant) in [("llama_nf4", false), ("llama_nf4_double", true)] {
        let form = QuantFormat::FourBit {
            kind: FourBitType::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        };
        let storage = Storage {
            form: Some(form),
            offloads_embedding: true,
            ..ModelDtype::Float32.into()
        };
        check(
            name,
            &model,
            storage,
            &golden(&format!("quant/{name}")),
            &device,
            Memory::RECOMPUTE,
            3,
        );
    }
}

/// The lines of a run's metrics that have a loss.
fn losses(text: &str) -> Vec<f64> {
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

fn furthest(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f64::max)
}

#[test]
fn the_quickstart_begins_as_on_the_cpu() {
    let Some(found) = tested_gpu() else { return };
    let desk = Desk::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let at = |name: &str| root.join(name).display().to_string();
    let recipe = at("recipes/quickstart.yaml");
    let run = |device: &str, dtype: &str| {
        let said = [
            format!("training.model_dtype={dtype}"),
            format!("base_model={}", at("checkpoints/rankine-tiny")),
            format!(
                "datasets.0.path={}",
                at("datasets/medical-glossary.parquet")
            ),
            format!("device={device}"),
            format!("output_dir={device}-{dtype}"),
        ];
        let short = [
            "training.max_steps=4",
            "training.micro_batch_size=4",
            "evaluation.prompts=",
            "evaluation.val_set_size=0",
        ];
        let said = said
            .iter()
            .map(String::as_str)
            .chain(short)
            .collect::<Vec<_>>();
        desk.run(&[&["train", &recipe], &said[..]].concat())
            .says(device, 0, &[]);
        losses(&desk.read_text(&format!("{device}-{dtype}/metrics.jsonl")))
    };
    let gpu = tested_backend();
    let (cpu, wide) = (run("cpu", "float32"), run(&gpu, "float32"));
    let difference = furthest(&cpu, &wide);
    println!("losses on the CPU {cpu:?}, on the GPU {wide:?}, {difference:.1e} apart");
    assert!(cpu.len() == 4 && difference <= STEP_LOSS);
    let lock = desk.read_text(&format!("{gpu}-float32/recipe.lock.yaml"));
    assert!(
        lock.contains(&format!("\ndevice: {gpu}:0\n"))
            && lock.contains("\ngpu: ")
            && lock.contains("model_dtype: float32"),
        "{lock}"
    );

    if !found.takes(ModelDtype::Float16) {
        println!("not in float16: the adapter has none");
        return;
    }
    let halves = run(&gpu, "float16");
    let difference = furthest(&cpu, &halves);
    println!("losses in float16 {halves:?}, {difference:.1e} apart");
    assert!(halves.len() == 4 && difference <= HALF_STEP_LOSS);
    let state: Value = serde_json::from_str(
        &desk.read_text(&format!("{gpu}-float16/checkpoints/step-4/state.json")),
    )
    .unwrap();
    assert_eq!(
        state["loss_scale"],
        serde_json::json!({"exponent": 8, "steps": 4})
    );
}

/// An embedding that the adapter does not take as one tensor, and a head of its own. On adapters
/// that take it, nothing is in pieces.
#[test]
fn a_vocabulary_beyond_the_largest_tensor_is_trained_in_pieces() {
    let Some(device) = adapter() else { return };
    let spec = DecoderSpec::read(&golden("archs/llama/model/config.json")).unwrap();
    let spec = DecoderSpec {
        vocabulary: 150_011,
        width: 256,
        tied_head: false,
        ..spec
    };
    println!(
        "{} bytes, of {:?}",
        spec.vocabulary * spec.width * 4,
        device::largest_tensor_bytes(&device)
    );
    let row = |key: u64| {
        let ids = (0..9)
            .map(|place| ((key * 9 + place) * 7919 % spec.vocabulary as u64) as u32)
            .collect();
        (
            key,
            TokenRow {
                ids,
                trained: vec![true; 9],
            },
        )
    };
    let batch = Batch::new((0..3).map(row));
    let of = |device: &Device| {
        let mut decoder = spec.draw(3, ModelDtype::Float32, device).unwrap();
        attach(
            &mut decoder,
            &LoraConfig {
                init_lora_weights: false,
                ..LoraConfig::all_linear(4, 8.0)
            },
            3,
            None,
        )
        .unwrap();
        let step = StepConfig {
            memory: Memory::KEEP,
            head_chunk_rows: 16,
            dropout: 0.0,
        };
        let mut gradients = Gradients::default();
        let loss = forward_backward(&decoder, &batch, step, [0, 0], &mut gradients);
        let all = gradients
            .all()
            .into_iter()
            .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>());
        (loss.sum, all.collect::<Vec<f32>>())
    };
    let ((ours, gradients), (expected, exact)) = (of(&device), of(&Device::flex()));
    let difference = relative(&gradients, &exact);
    println!("loss {ours} and {expected}, gradients {difference:.1e} apart");
    assert!(
        (ours / expected - 1.0).abs() < 1e-5 && difference < GRADIENT,
        "{ours}, {expected}, {difference}"
    );
}

#[test]
fn a_run_goes_on_where_it_stopped() {
    let Some(_) = tested_gpu() else { return };
    let (desk, gpu) = (Desk::new(), tested_backend());
    let dropout = "adapter.dropout=0.1";
    let saves = [
        "output.save_steps=2",
        "output.save_total_limit=9",
        "training.max_steps=6",
    ];
    let device = format!("device={gpu}");
    let train = [&["train", "recipe.yaml", &device, dropout], &saves[..]].concat();
    desk.run(&train).says(
        "the run left alone",
        0,
        &[&format!("note: training on `{gpu}:0` is proven: ")],
    );
    let whole = losses(&desk.read_text("run/metrics.jsonl"));
    let adapter = desk.read("run/adapter/adapter_model.safetensors");
    // As if it had been killed after the third step.
    for gone in [
        "run/adapter",
        "run/checkpoints/step-4",
        "run/checkpoints/step-6",
    ] {
        let _ = std::fs::remove_dir_all(desk.path(gone));
    }
    desk.remove("run/README.md");
    desk.run(&["resume", "run"])
        .says("the run that goes on", 0, &["going on after step 2"]);
    let difference = furthest(&whole, &losses(&desk.read_text("run/metrics.jsonl")));
    let is_same = adapter == desk.read("run/adapter/adapter_model.safetensors");
    println!(
        "losses {difference:.1e} apart, the adapter is {}",
        if is_same { "the same" } else { "another" }
    );
    assert!(difference <= 1e-6, "{difference}");
}
