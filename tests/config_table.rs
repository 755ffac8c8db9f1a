//! Every key of every family's config.json, removed, null and changed to other values: what is
//! computed is what transformers computes with the same weights, or it is refused by name.
//! tests/golden/configs has what transformers does, and `make_configs.py` beside it how it was
//! asked.
//!
//! Of a case that transformers refuses and that is computed here, the key has to be one that says
//! nothing about a decoder (`PASSED_OVER`), or its number a whole one (`WITH_POINT`).

mod common;

use std::collections::BTreeMap;
use std::fs;

use burn::tensor::Device;
use common::{committed, json, loss_and_mark};
use rankine::fault::Explain;
use rankine::model::{DecoderSpec, Folder, ModelError};
use rankine::terms::ModelDtype;
use serde_json::{Map, Value, json};

/// Largest differences of the loss and of the sum of all logits: both sides compute in f32.
const TOLERANCE: [f64; 2] = [2e-5, 2e-4];
/// Keys of generation, of saving and of other models: a value that transformers does not like there
/// changes nothing here.
const PASSED_OVER: [&str; 24] = [
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eod_token_id",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    // Of layers that a model without any does not have.
    "mamba_chunk_size",
    "mamba_d_conv",
    "mamba_d_head",
    "mamba_d_state",
    "mamba_expand",
    "mamba_n_groups",
    "mamba_n_heads",
    "num_mtp_layers",
    "output_hidden_states",
    // A default that the vocabulary of a tiny model has not: torch refuses it, and it says nothing
    // but which row gets no gradient.
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Keys whose numbers transformers 5 takes with a point only.
const WITH_POINT: [&str; 13] = [
    "attention_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "routed_scaling_factor",
    "swiglu_alpha",
    "swiglu_limit",
    "router_aux_loss_coef",
    "router_jitter_noise",
];

/// [loss, mark] of a folder's decoder.
fn computed(folder: &Folder) -> Result<[f64; 2], String> {
    let decoder = folder
        .load(ModelDtype::Auto, &Device::flex(), &|_| {})
        .map_err(|error| in_full(&error))?;
    Ok(loss_and_mark(&decoder))
}

fn in_full(error: &ModelError) -> String {
    error
        .faults()
        .into_iter()
        .map(|fault| fault.message)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What became of a case.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    /// Both compute the same, which the change did not move.
    Same,
    /// Both compute the same, and other than without the change.
    Moved,
    /// Neither computes.
    RefusedByBoth,
    /// transformers computes, and here it is refused by name.
    RefusedHere,
    /// transformers does not like the value of a key that says nothing about a decoder.
    PassedOver,
}

/// A family's folder of which config.json changes, and what was computed with decoders that were
/// met.
struct Bench {
    folder: tempfile::TempDir,
    known: Vec<(DecoderSpec, Result<[f64; 2], String>)>,
}

impl Bench {
    fn new(family: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(committed(&format!("archs/{family}/model")))
            .unwrap()
            .map(Result::unwrap)
        {
            if file.file_name().to_string_lossy().contains("safetensors") {
                fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
            }
        }
        Self {
            folder,
            known: Vec::new(),
        }
    }

    fn compute(&mut self, config: &Value) -> Result<[f64; 2], String> {
        fs::write(self.folder.path().join("config.json"), config.to_string()).unwrap();
        let folder = Folder::open(self.folder.path()).map_err(|error| in_full(&error))?;
        if let Some((_, known)) = self.known.iter().find(|(spec, _)| *spec == folder.spec) {
            return known.clone();
        }
        let result = computed(&folder);
        self.known.push((folder.spec, result.clone()));
        result
    }
}

fn changed(config: &Value, change: &Map<String, Value>) -> Value {
    let mut config = config.clone();
    let values = config.as_object_mut().unwrap();
    for key in change
        .get("-")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        values.remove(key.as_str().unwrap());
    }
    values.extend(
        change
            .iter()
            .filter(|(key, _)| *key != "-")
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    config
}

/// Keys that a change is about, those of sections in it too.
fn keys(change: &Map<String, Value>) -> Vec<String> {
    let removed = change
        .get("-")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    let set = change
        .iter()
        .filter(|(key, _)| *key != "-")
        .flat_map(|(key, value)| {
            let inner = value
                .as_object()
                .into_iter()
                .flatten()
                .flat_map(|(key, value)| {
                    let inner = value
                        .as_object()
                        .into_iter()
                        .flatten()
                        .map(|(key, _)| key.clone());
                    inner.chain([key.clone()]).collect::<Vec<_>>()
                });
            inner.chain([key.clone()]).collect::<Vec<_>>()
        });
    removed.chain(set).collect()
}

fn is_near(ours: [f64; 2], theirs: [f64; 2]) -> bool {
    ours.into_iter()
        .zip(theirs)
        .zip(TOLERANCE)
        .all(|((ours, theirs), bound)| (ours - theirs).abs() <= bound)
}

/// Whether one of the numbers that may have a point was given without: transformers 5 refuses 1 for
/// 1.0, and 4 did not.
fn is_whole(change: &Map<String, Value>) -> bool {
    let mut values = change.iter();
    let (Some((key, value)), None) = (values.next(), values.next()) else {
        return false;
    };
    WITH_POINT.contains(&key.as_str()) && value.is_u64()
}

/// Where transformers 5.23 ends in an exception of Python and what is meant is plain: Mixtral and
/// Ministral do not fill a `head_dim` that is null before a stretched rotation asks for it, and
/// Phi-3 fills no trained length for `su`, its older word for `longrope`.
fn is_crash(family: &str, change: &Map<String, Value>) -> bool {
    let is_su =
        || family.starts_with("phi3") && change.values().any(|section| section["type"] == "su");
    let is_rotation = || {
        change
            .keys()
            .all(|key| key.contains("rope_") || key.ends_with("max_position_embeddings"))
    };
    (family == "mixtral" && is_rotation())
        // A balance of experts that it does not have.
        || family == "granite4" && change.get("output_router_logits") == Some(&json!(true))
        || change.get("model_type") == Some(&json!("ministral"))
        || is_su()
}

fn judge(
    family: &str,
    change: &Map<String, Value>,
    ours: Result<[f64; 2], String>,
    theirs: Option<[f64; 2]>,
    base: [f64; 2],
) -> Result<Outcome, String> {
    match (ours, theirs) {
        (Ok(ours), Some(theirs)) if is_near(ours, theirs) => Ok(if is_near(theirs, base) {
            Outcome::Same
        } else {
            Outcome::Moved
        }),
        (Ok(ours), Some(theirs)) => Err(format!(
            "silent: {ours:?}, transformers {theirs:?}, unchanged {base:?}"
        )),
        (Ok(ours), None) => {
            let is_idle = keys(change)
                .iter()
                .all(|key| PASSED_OVER.contains(&key.as_str()))
                && is_near(ours, base);
            if is_idle || is_whole(change) || is_crash(family, change) {
                Ok(Outcome::PassedOver)
            } else {
                Err(format!("computed {ours:?}, transformers refuses"))
            }
        }
        (Err(_), None) => Ok(Outcome::RefusedByBoth),
        (Err(said), Some(_)) => {
            let names = |word: &str| {
                keys(change)
                    .iter()
                    .any(|key| said.contains(&format!("{word}{key}`")))
            };
            // Of another family any of its keys may be why.
            let is_named =
                names("`") || said.contains("tensor `") || change.contains_key("model_type");
            let says = ["known", "expected", "is missing", "has the key"]
                .iter()
                .any(|word| said.contains(word));
            if is_named && says {
                Ok(Outcome::RefusedHere)
            } else {
                Err(format!("refused without its name: {said}"))
            }
        }
    }
}

fn numbers(value: &Value) -> Option<[f64; 2]> {
    let pair = value.as_array()?;
    Some([pair[0].as_f64()?, pair[1].as_f64()?])
}

/// Holds all cases of a family; its line of the table counts them by what became of them.
fn hold(family: &str) {
    let made = json(&committed("configs/cases.json"));
    let folder = committed(&format!("archs/{family}"));
    let configs: BTreeMap<&str, Value> = [
        ("v5", json(&folder.join("model/config.json"))),
        ("v4", json(&folder.join("config_v4.json"))),
    ]
    .into();
    let cases = made[family].as_array().unwrap();
    let (mut bench, mut counts, mut faults) = (
        Bench::new(family),
        BTreeMap::<Outcome, usize>::new(),
        Vec::new(),
    );
    let base = numbers(&cases[0][1]).expect("the unchanged config is computed");
    for case in cases {
        let case_of = &made["changes"][case[0].as_u64().unwrap() as usize];
        let (version, change) = (
            case_of[0].as_str().unwrap(),
            case_of[1].as_object().unwrap(),
        );
        let theirs = if case[1] == json!("=") {
            Some(base)
        } else {
            numbers(&case[1])
        };
        let ours = bench.compute(&changed(&configs[version], change));
        match judge(family, change, ours, theirs, base) {
            Ok(outcome) => *counts.entry(outcome).or_default() += 1,
            Err(said) => faults.push(format!("{case_of}: {said}")),
        }
    }
    let of = |outcome| counts.get(&outcome).copied().unwrap_or(0);
    let line = format!(
        "{family}: {} cases, equal {} ({} of them other than unchanged), refused {} (here alone \
        {}), passed over {}",
        cases.len(),
        of(Outcome::Same) + of(Outcome::Moved),
        of(Outcome::Moved),
        of(Outcome::RefusedByBoth) + of(Outcome::RefusedHere),
        of(Outcome::RefusedHere),
        of(Outcome::PassedOver)
    );
    println!("{line}");
    assert!(
        faults.is_empty(),
        "{line}, {} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
    let table = fs::read_to_string(committed("configs/table.txt")).unwrap();
    assert!(
        table.lines().any(|known| known == line),
        "tests/golden/configs/table.txt has another line than\n{line}"
    );
}

macro_rules! families {
    ($($family:ident)*) => {
        $(
            #[test]
            fn $family() {
                hold(stringify!($family));
            }
        )*
    };
}

families! {
    llama mistral qwen2 qwen3 gemma gemma2 gemma3_text granite olmo2 smollm3 phi3 phi3_longrope
    mixtral qwen3_moe deepseek_v2 deepseek_v3 falcon_7b falcon_new gpt_oss ministral3 olmo3
    granite4 exaone4 cohere2 glm4 seed_oss hunyuan_v1_dense ernie4_5 nanochat qwen2_moe
    granitemoe
    gemma4_dense gemma4_moe gemma4_small
}
