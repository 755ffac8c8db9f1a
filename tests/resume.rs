//! A run may end at any moment: what was killed or stopped goes on to the same adapter, metrics and
//! samples, byte for byte, as the run that was left alone. The last tests take something out of a
//! checkpoint and show that these comparisons would tell.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rankine::files::safetensors::{Archive, write_f32};
use rankine::files::write_manifest;
use rankine::keyed_random::mix;
use serde_json::Value;
use support::*;

/// A run with everything that a resume could lose: dropout, an order for each epoch, accumulation,
/// a warm-up, a best adapter that is not the last, and patience.
const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter:
  r: 4
  dropout: 0.1
training:
  sequence_len: 64
  num_epochs: 6
  micro_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 2e-2
  warmup_steps: 3
evaluation:
  val_set_size: 6
  eval_steps: 3
  early_stopping_patience: 100
  prompts: [the term 3 means, so]
output:
  save_steps: 4
  save_total_limit: 1000
";

/// What differs from run to run: it is measured with a clock.
const MEASURED: [&str; 2] = ["tokens_per_second", "peak_memory_bytes"];

fn desk(rows: usize) -> Desk {
    let desk = Desk::new();
    let texts: Vec<String> = (1..=rows)
        .map(|row| format!("term {row} means {}", "so ".repeat(row % 9 + 1)))
        .collect();
    desk.write_rows("rows.parquet", vec![("text", support::texts(texts))]);
    desk.write("recipe.yaml", RECIPE);
    desk
}

/// Everything of a run that must not depend on how often it was stopped.
#[derive(Debug, PartialEq)]
struct Outcome {
    adapter: Vec<u8>,
    last: Vec<u8>,
    metrics: Vec<Value>,
    samples: String,
}

fn outcome(desk: &Desk, run: &str) -> Outcome {
    let metrics = desk.read_text(&format!("{run}/metrics.jsonl"));
    let metrics = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in MEASURED {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    });
    let last = checkpoints(desk, run)
        .pop()
        .expect("a checkpoint at the end");
    Outcome {
        adapter: desk.read(&format!("{run}/adapter/adapter_model.safetensors")),
        metrics: metrics.collect(),
        samples: desk.read_text(&format!("{run}/samples.jsonl")),
        last: desk.read(&format!(
            "{run}/checkpoints/step-{last}/adapter/adapter_model.safetensors"
        )),
    }
}

/// Steps of the checkpoints, ascending.
fn checkpoints(desk: &Desk, run: &str) -> Vec<u64> {
    let entries = fs::read_dir(desk.path(run).join("checkpoints"))
        .into_iter()
        .flatten()
        .map(Result::unwrap);
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("step-")?
                .parse()
                .ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

/// The run that is left alone.
fn reference(desk: &Desk, overrides: &[&str]) -> Outcome {
    desk.run(&[&["train", "recipe.yaml", "output_dir=alone"], overrides].concat())
        .says("the run left alone", 0, &[]);
    outcome(desk, "alone")
}

fn start(desk: &Desk, arguments: &[&str]) -> Child {
    desk.command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// When to end a run: as soon as its metrics have so many lines, and a little later.
struct Moment {
    lines: usize,
    later: Duration,
}

/// Ends a run with the signal again and again, each time at a moment, and lets it finish at last.
/// The number of endings.
fn interrupted(
    desk: &Desk,
    run: &str,
    overrides: &[&str],
    signal: Signal,
    moments: &[Moment],
) -> usize {
    let output = format!("output_dir={run}");
    let lines = || {
        fs::read(desk.path(run).join("metrics.jsonl"))
            .map_or(0, |metrics| metrics.split(|byte| *byte == b'\n').count())
    };
    let mut endings = 0;
    for moment in moments.iter().map(Some).chain(std::iter::repeat(None)) {
        let is_begun = desk.path(run).join("recipe.lock.yaml").exists();
        let train = [&["train", "recipe.yaml", &output], overrides].concat();
        let mut child = if is_begun {
            start(desk, &["resume", run])
        } else {
            start(desk, &train)
        };
        let Some(moment) = moment else {
            let status = child.wait().unwrap();
            assert!(status.success(), "{status}");
            return endings;
        };
        while child.try_wait().unwrap().is_none() && lines() <= moment.lines {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(moment.later);
        let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        let status = child.wait().unwrap();
        assert!(
            matches!(status.code(), None | Some(0 | 75 | 130)),
            "{status}"
        );
        endings += usize::from(status.code() != Some(0));
    }
    unreachable!("the last run is waited for");
}

/// `count` moments of a run whose metrics come to `lines`.
fn moments(seed: u64, count: usize, lines: usize) -> Vec<Moment> {
    let draw = |key: u64| rankine::keyed_random::unit(mix(seed) ^ key);
    let moment = |index| Moment {
        lines: (draw(2 * index) * lines as f64) as usize,
        later: Duration::from_millis(40).mul_f64(draw(2 * index + 1)),
    };
    (0..count as u64).map(moment).collect()
}

/// How many runs are killed, here and in a thorough run:
/// `RANKINE_KILLS=50 cargo test --release --test resume`.
fn runs(few: usize) -> usize {
    std::env::var("RANKINE_KILLS").ok().map_or(few, |kills| {
        kills.parse().expect("RANKINE_KILLS is a number")
    })
}

#[test]
fn killed_at_random_moments_it_comes_to_the_same_adapter() {
    let desk = desk(90);
    let alone = reference(&desk, &[]);
    let mut endings = 0;
    for index in 0..runs(4) {
        let run = format!("killed-{index}");
        endings += interrupted(
            &desk,
            &run,
            &[],
            Signal::SIGKILL,
            &moments(index as u64, 3, alone.metrics.len()),
        );
        assert_eq!(outcome(&desk, &run), alone, "{run}");
    }
    println!("{endings} kills in {} runs", runs(4));
}

#[test]
fn stopped_at_random_moments_it_comes_to_the_same_adapter() {
    let desk = desk(90);
    let alone = reference(&desk, &[]);
    let mut endings = 0;
    for (index, signal) in
        (0..runs(2)).flat_map(|index| [(index, Signal::SIGTERM), (index, Signal::SIGINT)])
    {
        let run = format!("stopped-{index}-{signal}");
        endings += interrupted(
            &desk,
            &run,
            &[],
            signal,
            &moments(100 + index as u64, 3, alone.metrics.len()),
        );
        assert_eq!(outcome(&desk, &run), alone, "{run}");
    }
    println!("{endings} signals in {} runs", 2 * runs(2));
}

/// The run as it was when it had just saved this step.
fn back_to(desk: &Desk, from: &str, to: &str, step: u64) {
    copy_folder(&desk.path(from), &desk.path(to));
    fs::remove_file(desk.path(to).join("README.md")).unwrap();
    for later in checkpoints(desk, to)
        .into_iter()
        .filter(|later| *later > step)
    {
        fs::remove_dir_all(desk.path(to).join(format!("checkpoints/step-{later}"))).unwrap();
    }
}

#[test]
fn every_step_can_be_gone_on_from() {
    let desk = desk(26);
    let alone = reference(&desk, &["output.save_steps=1"]);
    let steps = checkpoints(&desk, "alone");
    assert_eq!(
        steps,
        (1..=30).collect::<Vec<_>>(),
        "5 steps an epoch, 6 epochs, the last of each with fewer rows"
    );
    for step in steps {
        back_to(&desk, "alone", "again", step);
        desk.run(&["resume", "again"]).says(
            "a resume",
            0,
            &[&format!("going on after step {step}")],
        );
        assert_eq!(outcome(&desk, "again"), alone, "from step {step}");
        fs::remove_dir_all(desk.path("again")).unwrap();
    }
}

/// Packs differ from epoch to epoch, and so does their number: a place within an epoch has to lead
/// to the same rows.
#[test]
fn every_step_over_packs_can_be_gone_on_from() {
    let desk = desk(80);
    let overrides = [
        "training.sample_packing=true",
        "training.num_epochs=4",
        "output.save_steps=1",
    ];
    let alone = reference(&desk, &overrides);
    let last = checkpoints(&desk, "alone").pop().unwrap();
    assert!(last > 16, "several steps an epoch: {last}");
    for step in (1..last).step_by(2) {
        back_to(&desk, "alone", "again", step);
        desk.run(&["resume", "again"]).says(
            "a resume",
            0,
            &[&format!("going on after step {step}")],
        );
        assert_eq!(outcome(&desk, "again"), alone, "from step {step}");
        fs::remove_dir_all(desk.path("again")).unwrap();
    }
    let endings = interrupted(
        &desk,
        "killed",
        &overrides,
        Signal::SIGKILL,
        &moments(11, 3, alone.metrics.len()),
    );
    assert_eq!(outcome(&desk, "killed"), alone, "{endings} kills");
}

/// What an epoch draws follows from the weights and from what the epochs before drew, which no
/// checkpoint has.
#[test]
fn every_step_over_a_mixture_can_be_gone_on_from() {
    let desk = desk(40);
    let more: Vec<String> = (1..=9)
        .map(|row| format!("rule {row} says {}", "no ".repeat(row % 5 + 1)))
        .collect();
    desk.write_rows("more.parquet", vec![("text", texts(more))]);
    desk.edit(
        "recipe.yaml",
        "    format: text\n",
        "    format: text\n    weight: 1\n  - path: more.parquet\n    format: text\n    weight: \
        2.5\n",
    );
    for packing in [
        "training.sample_packing=false",
        "training.sample_packing=true",
    ] {
        let overrides = [packing, "training.num_epochs=4", "output.save_steps=1"];
        let alone = reference(&desk, &overrides);
        for step in checkpoints(&desk, "alone")
            .into_iter()
            .rev()
            .skip(1)
            .step_by(7)
        {
            back_to(&desk, "alone", "again", step);
            desk.run(&["resume", "again"]).says(
                "a resume",
                0,
                &[&format!("going on after step {step}")],
            );
            assert_eq!(
                outcome(&desk, "again"),
                alone,
                "{packing}, from step {step}"
            );
            fs::remove_dir_all(desk.path("again")).unwrap();
        }
        let endings = interrupted(
            &desk,
            "killed",
            &overrides,
            Signal::SIGKILL,
            &moments(19, 3, alone.metrics.len()),
        );
        assert_eq!(
            outcome(&desk, "killed"),
            alone,
            "{packing}, {endings} kills"
        );
        fs::remove_dir_all(desk.path("alone")).unwrap();
        fs::remove_dir_all(desk.path("killed")).unwrap();
    }
}

/// The base is packed anew at each start, to the same bytes.
#[test]
fn every_step_on_a_packed_base_can_be_gone_on_from() {
    let desk = desk(40);
    let overrides = [
        "adapter.method=qlora",
        "training.sample_packing=true",
        "training.num_epochs=4",
        "output.save_steps=1",
    ];
    let alone = reference(&desk, &overrides);
    for step in checkpoints(&desk, "alone")
        .into_iter()
        .rev()
        .skip(1)
        .step_by(2)
    {
        back_to(&desk, "alone", "again", step);
        desk.run(&["resume", "again"]).says(
            "a resume",
            0,
            &[&format!("going on after step {step}")],
        );
        assert_eq!(outcome(&desk, "again"), alone, "from step {step}");
        fs::remove_dir_all(desk.path("again")).unwrap();
    }
    let endings = interrupted(
        &desk,
        "killed",
        &overrides,
        Signal::SIGKILL,
        &moments(13, 3, alone.metrics.len()),
    );
    assert_eq!(outcome(&desk, "killed"), alone, "{endings} kills");
}

/// Vectors beside the matrices, and their moments, are a part of a checkpoint; and of an adapter
/// that started as a part of the base what it started as, which is taken out of the base again.
#[test]
fn every_step_of_other_adapters_can_be_gone_on_from() {
    let (dora, bias, pissa) = (
        "adapter.use_dora=true",
        "adapter.lora_bias=true",
        "adapter.init_lora_weights=pissa",
    );
    for (kind, method) in [
        (dora, "lora"),
        (dora, "qlora"),
        (bias, "qlora"),
        (pissa, "lora"),
        (pissa, "qlora"),
    ] {
        let desk = desk(40);
        let method = format!("adapter.method={method}");
        let overrides = [
            kind,
            &method,
            "training.sample_packing=true",
            "training.num_epochs=4",
            "output.save_steps=1",
        ];
        let alone = reference(&desk, &overrides);
        for step in checkpoints(&desk, "alone")
            .into_iter()
            .rev()
            .skip(1)
            .step_by(3)
        {
            back_to(&desk, "alone", "again", step);
            desk.run(&["resume", "again"]).says(
                "a resume",
                0,
                &[&format!("going on after step {step}")],
            );
            assert_eq!(
                outcome(&desk, "again"),
                alone,
                "{overrides:?}, from step {step}"
            );
            fs::remove_dir_all(desk.path("again")).unwrap();
        }
        let endings = interrupted(
            &desk,
            "killed",
            &overrides,
            Signal::SIGKILL,
            &moments(17, 2, alone.metrics.len()),
        );
        assert_eq!(
            outcome(&desk, "killed"),
            alone,
            "{overrides:?}, {endings} kills"
        );
    }
}

#[test]
fn an_adapter_of_millions_of_parameters_comes_to_the_same() {
    let desk = desk(30);
    let overrides = [
        "adapter.r=6144",
        "training.max_steps=6",
        "training.num_epochs=",
        "output.save_steps=2",
    ];
    let alone = reference(&desk, &overrides);
    assert!(
        alone.adapter.len() > 4 * 5_000_000,
        "{} bytes",
        alone.adapter.len()
    );
    let endings = interrupted(
        &desk,
        "killed",
        &overrides,
        Signal::SIGKILL,
        &moments(7, 4, alone.metrics.len()),
    );
    assert_eq!(outcome(&desk, "killed"), alone);
    println!("{endings} kills of a run");
}

/// Changes a checkpoint so that its manifest still holds.
fn tamper(checkpoint: &Path, change: impl FnOnce(&Path)) {
    change(checkpoint);
    fs::remove_file(checkpoint.join("manifest.json")).unwrap();
    write_manifest(checkpoint).unwrap();
}

fn set(checkpoint: &Path, values: &[(&str, Value)]) {
    let path = checkpoint.join("state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in values {
        assert_ne!(&state[*key], value, "`{key}` would not change");
        state[*key] = value.clone();
    }
    fs::write(path, state.to_string()).unwrap();
}

#[test]
fn whatever_is_left_out_of_a_checkpoint_is_missed() {
    let desk = desk(26);
    // The rate is far too high, so that the best adapter is an early one.
    let overrides = [
        "training.learning_rate=0.3",
        "training.lr_scheduler=constant",
        "output.save_steps=1",
        "evaluation.eval_steps=1",
    ];
    let overrides = [&overrides[..], &["evaluation.early_stopping_patience=2"]].concat();
    let alone = reference(&desk, &overrides);
    let state = |step: u64| -> Value {
        serde_json::from_str(&desk.read_text(&format!("alone/checkpoints/step-{step}/state.json")))
            .unwrap()
    };
    let last = checkpoints(&desk, "alone").pop().unwrap();
    assert!(last < 30, "patience ends it");
    let step = (last - 2).max(state(last)["best_step"].as_u64().unwrap() + 1);
    assert!(
        step < last && state(step)["evaluations_without_improvement"].as_u64() > Some(0),
        "patience counts at step {step}"
    );

    let resumed = |what: &str, change: &dyn Fn(&Path)| {
        back_to(&desk, "alone", "again", step);
        tamper(
            &desk.path("again").join(format!("checkpoints/step-{step}")),
            change,
        );
        desk.run(&["resume", "again"]).says(what, 0, &[]);
        let outcome = outcome(&desk, "again");
        fs::remove_dir_all(desk.path("again")).unwrap();
        outcome
    };
    assert_eq!(resumed("nothing is left out", &|_| ()), alone);
    let without_optimizer = resumed("the optimizer's moments", &|checkpoint| {
        let path = checkpoint.join("optimizer.safetensors");
        let archive = Archive::open(&path).unwrap();
        let zeros = archive
            .shapes()
            .into_iter()
            .map(|(name, shape)| (name, shape.clone(), vec![0.0; shape.iter().product()]));
        write_f32(&path, &zeros.collect::<Vec<_>>(), &[]).unwrap();
    });
    assert_ne!(without_optimizer, alone, "the optimizer's moments");
    let without: [(&str, &[(&str, Value)]); 5] = [
        ("the optimizer's updates", &[("updates", 0.into())]),
        ("the place in the epoch", &[("place", 0.into())]),
        ("the epoch", &[("epoch", 77.into())]),
        (
            "the best loss",
            &[("eval_loss_best", Value::Null), ("best_step", Value::Null)],
        ),
        (
            "the patience",
            &[("evaluations_without_improvement", 0.into())],
        ),
    ];
    for (what, values) in without {
        assert_ne!(
            resumed(what, &|checkpoint| set(checkpoint, values)),
            alone,
            "{what}"
        );
    }
}

#[test]
fn the_newest_checkpoint_that_is_whole_counts() {
    let desk = desk(26);
    let alone = reference(&desk, &[]);
    back_to(&desk, "alone", "again", 16);
    for (step, file) in [
        (16, "optimizer.safetensors"),
        (15, "adapter/adapter_model.safetensors"),
        (12, "manifest.json"),
    ] {
        let path = desk
            .path("again")
            .join(format!("checkpoints/step-{step}"))
            .join(file);
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).unwrap();
    }
    desk.write("again/checkpoints/.rankine-tmp-dead", "half");
    fs::write(
        desk.path("again/adapter/adapter_model.safetensors"),
        "damaged",
    )
    .unwrap();
    let ran = desk.run(&["resume", "again"]);
    ran.says(
        "damaged checkpoints",
        0,
        &[
            "`again/checkpoints/step-16` is passed over: `optimizer.safetensors` is not what was \
            written",
        ],
    );
    assert!(
        ran.stderr.contains("going on after step 9"),
        "{}",
        ran.stderr
    );
    assert_eq!(outcome(&desk, "again"), alone);
    assert!(
        !desk.path("again/checkpoints/.rankine-tmp-dead").exists(),
        "what a dead process left is collected"
    );
}

#[test]
fn a_run_goes_on_from_its_lock_alone_and_from_anywhere() {
    let desk = desk(26);
    let alone = reference(&desk, &[]);
    // No checkpoint at all: from the start.
    back_to(&desk, "alone", "again", 0);
    desk.remove("recipe.yaml");
    desk.run(&["resume", "again"])
        .says("without a checkpoint", 0, &["starting from step 0"]);
    assert_eq!(outcome(&desk, "again"), alone);
    // Moved, and from another working directory; where it was started another process has a run of
    // that name.
    back_to(&desk, "alone", "moved/long", 8);
    desk.write("recipe.yaml", RECIPE);
    let (mut other, _) = long_run(&desk);
    let resume = |run: &str, folder: &str| {
        let ran = desk
            .command(&["resume", run])
            .current_dir(desk.path(folder))
            .output()
            .unwrap();
        (ran.status.success(), String::from_utf8(ran.stderr).unwrap())
    };
    let (is_done, stderr) = resume("long", "moved");
    assert!(
        is_done && stderr.contains("going on after step 8"),
        "{stderr}"
    );
    assert_eq!(outcome(&desk, "moved/long"), alone);
    assert!(
        other.try_wait().unwrap().is_none() && desk.path("long/.rankine-lock").exists(),
        "the other run is let be"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    // A damaged lock: the checkpoint has a copy.
    back_to(&desk, "alone", "moved/again", 8);
    desk.write("moved/again/recipe.lock.yaml", "damaged");
    let (is_done, stderr) = resume(".", "moved/again");
    assert!(is_done && stderr.contains("its copy"), "{stderr}");
    assert_eq!(outcome(&desk, "moved/again"), alone);
}

#[test]
fn what_is_there_is_not_lost_to_a_mistake() {
    let desk = desk(26);
    let alone = reference(&desk, &[]);
    let step = desk.run(&["resume", "alone/checkpoints/step-8"]);
    step.says(
        "a checkpoint",
        65,
        &[
            "`alone/checkpoints/step-8` is a checkpoint, expected the folder of a run",
            "DESK/alone`",
        ],
    );
    desk.run(&["resume", "recipe.yaml"])
        .says("a file", 65, &["`recipe.yaml` is a file"]);

    // What others leave in a folder makes it no worse; a checkpoint under another name is not that
    // step.
    back_to(&desk, "alone", "again", 16);
    for step in checkpoints(&desk, "again") {
        desk.write(&format!("again/checkpoints/step-{step}/.DS_Store"), "");
    }
    copy_folder(
        &desk.path("again/checkpoints/step-8"),
        &desk.path("again/checkpoints/step-20"),
    );
    let ran = desk.run(&["resume", "again"]);
    ran.says(
        "files of others",
        0,
        &[
            "step-20` is passed over: its state.json is of step 8",
            "going on after step 16",
        ],
    );
    assert_eq!(outcome(&desk, "again"), alone);

    // A finished run without its checkpoints is finished.
    fs::remove_dir_all(desk.path("again/checkpoints")).unwrap();
    desk.run(&["resume", "again"])
        .says("no checkpoints", 0, &[]);
    assert_eq!(
        desk.read("again/adapter/adapter_model.safetensors"),
        alone.adapter
    );

    // Checkpoints of which none is whole are not the same as none.
    back_to(&desk, "alone", "broken", 4);
    for step in checkpoints(&desk, "broken") {
        desk.remove(&format!("broken/checkpoints/step-{step}/state.json"));
    }
    let metrics = desk.read("broken/metrics.jsonl");
    desk.run(&["resume", "broken"]).says(
        "none whole",
        65,
        &[
            "all 2 checkpoints in `broken` are incomplete or corrupted",
            "--force",
        ],
    );
    assert_eq!(desk.read("broken/metrics.jsonl"), metrics);
    desk.run(&["resume", "broken", "--force"])
        .says("forced", 0, &["starting from step 0"]);
    assert_eq!(outcome(&desk, "broken").adapter, alone.adapter);
}

#[test]
fn a_lock_that_was_edited_is_told_and_refused() {
    let desk = desk(26);
    reference(&desk, &[]);
    back_to(&desk, "alone", "again", 8);
    desk.edit("again/recipe.lock.yaml", "dropout: 0.1", "dropout: 0.9");
    let change = "recipe: `adapter.dropout` is 0.9, the run went on with 0.1 up to its checkpoint";
    desk.run(&["resume", "again"])
        .says("an edited lock", 65, &[change]);
    desk.run(&["resume", "again", "--force"])
        .says("forced", 0, &[change]);
    let lock: Value = serde_yaml::from_str(&desk.read_text("again/recipe.lock.yaml")).unwrap();
    assert_eq!(lock["resumed"][0]["forced"][0], change);
}

#[test]
fn a_run_stopped_in_its_last_evaluation_has_the_same_result() {
    let desk = desk(26);
    let alone = reference(&desk, &[]);
    back_to(&desk, "alone", "again", 30);
    tamper(&desk.path("again/checkpoints/step-30"), |checkpoint| {
        let before: Value =
            serde_json::from_str(&desk.read_text("alone/checkpoints/step-27/state.json")).unwrap();
        let keys = ["eval_loss_best", "best_step"];
        let kept: Vec<(&str, Value)> = keys
            .into_iter()
            .map(|key| (key, before[key].clone()))
            .collect();
        let lines = desk.read_text("alone/metrics.jsonl");
        let last = lines.trim_end().rsplit('\n').next().unwrap().len() + 1;
        let samples = desk.read_text("alone/samples.jsonl");
        let answers: usize = samples
            .lines()
            .rev()
            .take(2)
            .map(|line| line.len() + 1)
            .sum();
        set(
            checkpoint,
            &[
                ("evaluation_due", true.into()),
                ("metrics_bytes", (lines.len() - last).into()),
            ],
        );
        set(
            checkpoint,
            &[("samples_bytes", (samples.len() - answers).into())],
        );
        set(checkpoint, &kept);
    });
    let result = |arguments: &[&str]| -> Value {
        serde_json::from_str(&desk.run(arguments).stdout).unwrap()
    };
    let first = result(&["resume", "again", "--json"]);
    assert_eq!(
        (&first["steps"], &first["best_step"]),
        (&30.into(), &30.into())
    );
    assert_eq!(result(&["resume", "again", "--json"]), first);
    assert_eq!(outcome(&desk, "again"), alone);
    let state: Value =
        serde_json::from_str(&desk.read_text("again/checkpoints/step-30/state.json")).unwrap();
    assert_eq!(
        (&state["evaluation_due"], &state["best_step"]),
        (&false.into(), &30.into()),
        "it is saved again"
    );
}

#[test]
fn a_finished_run_says_so() {
    let desk = desk(26);
    reference(&desk, &[]);
    let ran = desk.run(&["resume", "alone"]);
    ran.says("a finished run", 0, &[]);
    assert!(
        ran.stdout
            .contains("`alone` is finished at step 30: there is nothing to go on with"),
        "{}",
        ran.stdout
    );
    let object: Value =
        serde_json::from_str(&desk.run(&["resume", "alone", "--json"]).stdout).unwrap();
    assert_eq!(object["steps"], 30);
    desk.run(&["resume", "nowhere"])
        .says("no folder", 66, &["run `nowhere` does not exist"]);
    desk.run(&["resume", "base"])
        .says("no run", 65, &["`base` holds no run"]);
}

#[test]
fn changed_inputs_are_named_refused_and_written_down() {
    let desk = desk(26);
    reference(&desk, &[]);
    let rows: Vec<String> = (0..40).map(|row| format!("another row {row}")).collect();
    for (file, kind) in [
        ("rows.parquet", "data"),
        ("base/tokenizer_config.json", "tokenizer or config"),
        ("base/model.safetensors", "base"),
    ] {
        let before = desk.read(file);
        match kind {
            "data" => desk.write_rows(file, vec![("text", support::texts(rows.clone()))]),
            "base" => flip_last_byte(&desk, file),
            _ => desk.write(file, desk.read_text(file) + "\n"),
        }
        back_to(&desk, "alone", "again", 8);
        let said = format!("{kind}: `DESK/{file}` has changed since the run started");
        let expected = format!(
            "{kind}: `{}` has changed since the run started",
            desk.path(file).canonicalize().unwrap().display()
        );
        desk.run(&["resume", "again"])
            .says(file, 65, &[&said, "--force"]);
        desk.run(&["resume", "again", "--force"])
            .says(file, 0, &[&said]);
        let lock: Value = serde_yaml::from_str(&desk.read_text("again/recipe.lock.yaml")).unwrap();
        assert_eq!(
            (
                &lock["resumed"][0]["step"],
                &lock["resumed"][0]["forced"][0]
            ),
            (&8.into(), &Value::from(expected))
        );
        fs::remove_dir_all(desk.path("again")).unwrap();
        desk.write(file, before);
    }
    desk.edit(
        "alone/recipe.lock.yaml",
        "rankine: \"0.1.0\"",
        "rankine: \"0.0.9\"",
    );
    back_to(&desk, "alone", "again", 8);
    desk.run(&["resume", "again"]).says(
        "another version",
        0,
        &["note: the version of rankine is 0.1.0, the run started with 0.0.9"],
    );
}

fn flip_last_byte(desk: &Desk, file: &str) {
    let mut content = desk.read(file);
    *content.last_mut().unwrap() ^= 1;
    desk.write(file, content);
}

/// A run that lasts until it is told to stop.
fn long_run(desk: &Desk) -> (Child, PathBuf) {
    let endless = [
        "training.num_epochs=100000",
        "evaluation.early_stopping_patience=0",
    ];
    let child = start(
        desk,
        &[
            &[
                "train",
                "recipe.yaml",
                "output_dir=long",
                "output.save_total_limit=2",
            ],
            &endless[..],
        ]
        .concat(),
    );
    let checkpoints = desk.path("long/checkpoints");
    while !checkpoints.join("step-4").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (child, checkpoints)
}

#[test]
fn one_process_a_run_folder() {
    let desk = desk(26);
    let (mut child, _) = long_run(&desk);
    let held = format!("`long` is in use by process {}", child.id());
    desk.run(&["resume", "long"])
        .says("a second process", 73, &[&held]);
    desk.run(&["train", "recipe.yaml", "output_dir=long", "--overwrite"])
        .says("a second process", 73, &[&held]);
    desk.remove("long/.rankine-lock");
    desk.run(&["resume", "long"]).says(
        "its file was removed by hand",
        73,
        &["`long` is in use by another process"],
    );
    assert!(child.try_wait().unwrap().is_none(), "the first goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    desk.run(&["train", "recipe.yaml", "output_dir=long"]).says(
        "a dead process holds nothing",
        73,
        &["`long` holds a run"],
    );
}

#[test]
fn a_signal_saves_the_step_and_tells_how_to_go_on() {
    let desk = desk(26);
    for (signal, times) in [
        (Signal::SIGTERM, 1),
        (Signal::SIGINT, 1),
        (Signal::SIGINT, 2),
    ] {
        let endless = [
            "training.num_epochs=100000",
            "evaluation.early_stopping_patience=0",
        ];
        let arguments = [
            &[
                "train",
                "recipe.yaml",
                "output_dir=long",
                "output.save_steps=1000000",
            ],
            &endless[..],
        ]
        .concat();
        let child = desk
            .command(&arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !desk.path("long/metrics.jsonl").exists()
            || desk.read_text("long/metrics.jsonl").lines().count() < 5
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..times {
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{signal} {times}: {stderr}");
        assert!(stderr.contains("rankine resume long"), "{stderr}");
        if times == 1 {
            let step = checkpoints(&desk, "long").pop().expect("saved");
            let lines = desk.read_text("long/metrics.jsonl");
            let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
            assert_eq!(last["step"], step, "the step that was taken is saved");
        }
        fs::remove_dir_all(desk.path("long")).unwrap();
    }
}

#[test]
fn a_signal_before_the_first_step_ends_at_once() {
    let desk = desk(26);
    let mut child = desk
        .command(&["train", "recipe.yaml", "output_dir=early"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !desk.path("early").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(5));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let code = child.wait().unwrap().code();
    assert!(matches!(code, None | Some(130 | 75)), "{code:?}");
    assert_eq!(code == Some(75), !checkpoints(&desk, "early").is_empty());
}
