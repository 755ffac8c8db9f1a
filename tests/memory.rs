//! `rankine plan` and what a run may have of memory: the closed form against the process itself,
//! the refusal of what does not fit, and the choice of how many blocks recompute.

mod common;
mod support;

use common::golden;
use serde_json::{Value, json};
use support::Desk;

/// Bytes that the plan may be off beside its share: pages that the allocator holds back and what
/// other versions of libraries take.
const SLACK: f64 = 24.0 * 1024.0 * 1024.0;
const SHARE: f64 = 0.1;

fn plan(desk: &Desk, overrides: &[&str]) -> Value {
    let ran = desk.run(&[&["plan", "recipe.yaml", "--json"], overrides].concat());
    ran.says("plan", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

fn peak(plan: &Value) -> u64 {
    plan["memory"]["peak_bytes"].as_u64().unwrap()
}

/// Checks that they are near; gives both.
#[track_caller]
fn near(what: &str, planned: &Value, measured: &Value) -> [f64; 2] {
    let [planned, measured] = [planned, measured].map(|bytes| bytes.as_f64().unwrap());
    println!(
        "{what}: planned {planned:.0}, measured {measured:.0}, {:+.1} %",
        100.0 * (planned / measured - 1.0)
    );
    assert!(
        (planned - measured).abs() < SHARE * measured + SLACK,
        "{what}"
    );
    [planned, measured]
}

#[test]
#[cfg(target_os = "linux")]
fn the_plan_is_near_what_the_process_needs() {
    let desk = Desk::new();
    let mut config: Value = serde_json::from_str(
        &std::fs::read_to_string(golden("archs/llama/model/config.json")).unwrap(),
    )
    .unwrap();
    let sizes = [
        ("hidden_size", 256),
        ("intermediate_size", 1024),
        ("num_hidden_layers", 4),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 32),
        ("vocab_size", 8192),
    ];
    for (key, size) in sizes {
        config[key] = json!(size);
    }
    desk.write("config.json", config.to_string());
    let shape = ["--batch", "8", "--seq", "256", "--config", "config.json"];
    let [kept, again] = [&[][..], &["--recompute"]].map(|arguments| {
        let fixed = [
            "bench",
            "--json",
            "--threads",
            "2",
            "--steps",
            "1",
            "--warmup",
            "1",
        ];
        let ran = desk.run(&[&fixed[..], &shape, arguments].concat());
        ran.says("bench", 0, &[]);
        let result: Value = serde_json::from_str(&ran.stdout).unwrap();
        near(
            &arguments.join(" "),
            &result["planned_peak_memory_bytes"],
            &result["peak_memory_bytes"],
        )
    });
    let [planned, measured] = [0, 1].map(|which| kept[which] - again[which]);
    println!("what recomputation saves: planned {planned:.0}, measured {measured:.0}");
    assert!(measured > again[1] / 2.0, "activations dominate");
    // What the allocator holds back between recomputed tapes is most of the difference.
    assert!((planned / measured - 1.0).abs() < 0.35);
    let planned = plan(&desk, &[]);
    let ran = desk.run(&["train", "recipe.yaml", "--json"]);
    ran.says("train", 0, &[]);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    near(
        "a run",
        &planned["memory"]["peak_bytes"],
        &result["peak_memory_bytes"],
    );
}

#[test]
fn what_does_not_fit_is_refused_with_a_change_that_does() {
    let desk = Desk::new();
    let all = [
        "training.micro_batch_size=8",
        "training.gradient_checkpointing=true",
    ];
    let (whole, one) = (
        peak(&plan(&desk, &all)),
        peak(&plan(&desk, &["training.micro_batch_size=1", all[1]])),
    );
    assert!(one < whole);
    let allowed = format!("training.max_memory={}", whole - 1);
    let ran = desk.run(&["train", "recipe.yaml", all[0], &allowed]);
    ran.says(
        "too large",
        71,
        &[
            "the run needs ",
            "(training.max_memory) are allowed: ",
            "frozen weights",
            "hint: `",
        ],
    );
    let hint = ran
        .stderr
        .split("hint: `")
        .nth(1)
        .unwrap()
        .split('`')
        .next()
        .unwrap();
    assert!(
        hint.contains("training.micro_batch_size=4 training.gradient_accumulation_steps=2"),
        "{hint}"
    );
    assert!(!desk.path("run/checkpoints").exists());

    let changed: Vec<&str> = [all[0], &allowed]
        .into_iter()
        .chain(hint.split(' '))
        .collect();
    let plan = plan(&desk, &changed);
    assert_eq!(plan["memory"]["fits"], true, "{plan}");
    assert!(peak(&plan) < whole);
    desk.run(&[&["train", "recipe.yaml"], &changed[..]].concat())
        .says("the change", 0, &[]);

    let nothing = desk.run(&[
        "train",
        "recipe.yaml",
        "training.max_memory=1 MB",
        "output_dir=other",
    ]);
    nothing.says(
        "far too large",
        71,
        &[
            "the run needs ",
            "1.0 MiB (training.max_memory)",
            "choose a smaller base",
        ],
    );
    let said = desk.run(&["plan", "recipe.yaml", "training.max_memory=1 MB"]);
    said.says(
        "plan of it",
        0,
        &["note: `rankine train` refuses this recipe"],
    );
    desk.run(&["plan", "recipe.yaml", "training.max_memory=much"])
        .says("no number", 65, &["such as `12 GB`", "found `much`"]);
}

#[test]
fn as_few_blocks_recompute_as_memory_allows_and_the_lock_says_how_many() {
    let desk = Desk::new();
    let size = "training.micro_batch_size=12";
    let count = |overrides: &[&str]| {
        let plan = plan(&desk, &[&[size], overrides].concat());
        (
            plan["memory"]["recomputed_blocks"].as_u64().unwrap(),
            plan["memory"]["blocks"].as_u64().unwrap(),
            peak(&plan),
        )
    };
    let (none, blocks, kept) = count(&["training.gradient_checkpointing=false"]);
    let (all, _, least) = count(&["training.gradient_checkpointing=true"]);
    assert_eq!((none, all), (0, blocks));
    assert!(least < kept, "{least}, {kept}");
    assert_eq!(count(&[&format!("training.max_memory={kept}")]).0, 0);
    let tight = format!("training.max_memory={}", kept - 1);
    let (some, _, peak) = count(&[&tight]);
    assert!(some > 0 && peak < kept, "{some}");
    assert_eq!(count(&["training.gradient_checkpointing=1"]).0, 1);

    desk.run(&["train", "recipe.yaml", size, &tight])
        .says("train", 0, &[]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(
        lock.contains(&format!("gradient_checkpointing: {some}\n")),
        "{lock}"
    );
}

/// On the CPU an embedding has no other place; the lock keeps what `auto` came to, and the run goes
/// on with that.
#[test]
fn the_lock_says_where_the_embedding_is() {
    let desk = Desk::new();
    let planned = plan(&desk, &[]);
    assert_eq!(planned["memory"]["offloads_embedding"], false, "{planned}");
    let settings = planned["settings"].as_array().unwrap();
    let setting = settings
        .iter()
        .find(|setting| setting["key"] == "adapter.offload_embedding")
        .unwrap();
    assert_eq!(
        (&setting["value"], &setting["origin"]),
        (&json!("auto"), &json!("default"))
    );
    desk.run(&["train", "recipe.yaml", "training.max_steps=1"])
        .says("train", 0, &[]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(lock.contains("offload_embedding: false\n"), "{lock}");
}

#[test]
fn a_trial_tells_the_time_and_sizes_tell_what_fits() {
    let desk = Desk::new();
    let ran = desk.run(&["plan", "recipe.yaml", "--trial", "--json"]);
    ran.says("trial", 0, &[]);
    let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(
        plan["trial"]["tokens_per_second"].as_f64().unwrap() > 0.0,
        "{plan}"
    );
    assert!(
        plan["trial"]["seconds_of_all_steps"].as_f64().unwrap() > 0.0,
        "{plan}"
    );
    assert!(!desk.path("run").exists());
    let text = desk.run(&["plan", "recipe.yaml", "--trial"]).stdout;
    for line in [
        "peak memory",
        "recomputed blocks",
        "frozen weights",
        "+ step",
        "trial step",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }

    let fits = desk.run(&["plan", "--fits", "base/config.json"]);
    fits.says("fits", 0, &[]);
    for line in [
        "   8 GiB",
        "  80 GiB",
        "float32",
        "bfloat16",
        "GPU, bfloat16",
    ] {
        assert!(fits.stdout.contains(line), "{}", fits.stdout);
    }
    desk.run(&["plan"]).says("nothing to plan", 2, &[]);
    desk.run(&["plan", "recipe.yaml", "--fits", "base/config.json"])
        .says("both", 2, &[]);
}
