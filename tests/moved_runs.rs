//! A run belongs to where it lies: a project that was copied, moved or torn apart goes on with its
//! own files to the same adapter, byte for byte, and only a file that did change is said to have.

mod support;

use std::fs;

use serde_json::Value;
use support::{Desk, Ran, copy_folder, texts};

/// A run that keeps its first checkpoints, with rows that are held out.
const RECIPE: &str = "base_model: base
datasets:
  - path: rows.parquet
    format: text
adapter: {r: 4}
training: {max_steps: 6, micro_batch_size: 2, sequence_len: 64, learning_rate: 1e-2}
evaluation: {val_set_size: 4, eval_steps: 3}
output: {save_steps: 2, save_total_limit: 9}
output_dir: run
device: cpu
threads: 1
";

/// A desk with the project in the folder `proj`.
fn project() -> Desk {
    let desk = Desk::new();
    fs::create_dir(desk.path("proj")).unwrap();
    for name in ["base", "rows.parquet"] {
        fs::rename(desk.path(name), desk.path("proj").join(name)).unwrap();
    }
    desk.write("proj/recipe.yaml", RECIPE);
    desk
}

fn run_in(desk: &Desk, folder: &str, arguments: &[&str]) -> Ran {
    let output = desk
        .command(arguments)
        .current_dir(desk.path(folder))
        .output()
        .unwrap();
    let place = desk.path(".").canonicalize().unwrap();
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*place.to_string_lossy(), "DESK");
    Ran {
        exit: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// Trains in `proj`, and takes the run back to its second step. Returns the adapter that it came
/// to.
fn train(desk: &Desk, overrides: &[&str]) -> Vec<u8> {
    run_in(
        desk,
        "proj",
        &[&["train", "recipe.yaml"], overrides].concat(),
    )
    .says("train", 0, &[]);
    let adapter = adapter(desk, "proj/run");
    back(desk, "proj/run");
    adapter
}

fn back(desk: &Desk, run: &str) {
    let run = desk.path(run);
    fs::remove_dir_all(run.join("adapter")).unwrap();
    for name in ["README.md", "result.json"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    // An evaluation that was the best so far leaves one too.
    for step in [3, 4, 6] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-{step}")));
    }
}

fn adapter(desk: &Desk, run: &str) -> Vec<u8> {
    [
        desk.read(&format!("{run}/adapter/adapter_model.safetensors")),
        desk.read(&format!("{run}/adapter/adapter_config.json")),
    ]
    .concat()
}

fn copy(desk: &Desk, from: &str, to: &str) {
    copy_folder(&desk.path(from), &desk.path(to));
}

fn other_rows(desk: &Desk, name: &str) {
    desk.write_rows(
        name,
        vec![(
            "text",
            texts((0..12).map(|row| format!("quite another row {row}"))),
        )],
    );
}

const MOVED: &str = "note: the run was started in `DESK/proj` and lies elsewhere now: its files \
    are read in `DESK/copy`";

#[test]
fn a_copy_goes_on_from_its_own_files_whatever_became_of_the_original() {
    type Change = fn(&Desk);
    let changes: [(&str, Change); 4] = [
        ("unchanged", |_| {}),
        ("other rows", |desk| {
            desk.write("proj/rows.parquet", [0; 100]);
        }),
        ("another base", |desk| {
            desk.write("proj/base/model.safetensors", [0; 100]);
        }),
        ("gone", |desk| {
            fs::remove_dir_all(desk.path("proj")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let desk = project();
        let expected = train(&desk, &[]);
        copy(&desk, "proj", "copy");
        change(&desk);
        let moved = if what == "gone" {
            "note: `DESK/proj`, where the run was started, is gone: its files are read in \
            `DESK/copy`"
        } else {
            MOVED
        };
        let ran = run_in(&desk, "copy", &["resume", "run"]);
        ran.says(what, 0, &[moved, "going on after step 2"]);
        assert!(
            !ran.stderr.contains("changed") && !ran.stderr.contains("in place of"),
            "{what}: {ran:?}"
        );
        assert_eq!(adapter(&desk, "copy/run"), expected, "{what}");
        // Every verb that reads a run reads the copy's.
        let ran = run_in(&desk, "copy", &["eval", "run", "--json"]);
        ran.says(what, 0, &[moved]);
        assert!(!ran.stderr.contains("changed"), "{what}: {ran:?}");
        let score: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(score["adapter"], "run/adapter", "{what}");
        for verb in [
            &["merge", "--adapter", "run/adapter", "--out", "merged"][..],
            &[
                "generate",
                "--adapter",
                "run/adapter",
                "--prompt",
                "so",
                "--max-tokens",
                "1",
            ],
            &["export", "run", "--to", "gguf", "--out", "run.gguf"],
            &["report", "run"],
        ] {
            run_in(&desk, "copy", verb).says(what, 0, &[]);
        }
    }
}

#[test]
fn from_anywhere_a_run_is_that_of_the_project_around_it() {
    let desk = project();
    let expected = train(&desk, &[]);
    copy(&desk, "proj", "copy");
    desk.write("proj/rows.parquet", [0; 100]);
    fs::create_dir(desk.path("else")).unwrap();
    // A base of the same name where the command is typed is none of the run's.
    fs::create_dir(desk.path("else/base")).unwrap();
    run_in(&desk, "else", &["resume", "../copy/run"]).says("from beside it", 0, &[MOVED]);
    assert_eq!(adapter(&desk, "copy/run"), expected);
    let generate = [
        "generate",
        "--adapter",
        "../copy/run/adapter",
        "--prompt",
        "so",
        "--max-tokens",
        "1",
    ];
    run_in(&desk, "else", &generate).says("generate", 0, &[]);
    let checkpoint = [
        "generate",
        "--adapter",
        "../copy/run/checkpoints/step-2/adapter",
        "--prompt",
        "so",
        "--max-tokens",
        "1",
    ];
    run_in(&desk, "else", &checkpoint).says("generate of a checkpoint", 0, &[]);
    back(&desk, "copy/run");
    run_in(&desk, "copy/run", &["resume", "."]).says("from within it", 0, &[MOVED]);
    assert_eq!(adapter(&desk, "copy/run"), expected);
}

#[test]
fn only_what_has_changed_is_named_and_in_full() {
    let desk = project();
    train(&desk, &[]);
    copy(&desk, "proj", "copy");
    other_rows(&desk, "copy/rows.parquet");
    let changed = "data: `DESK/copy/rows.parquet` has changed since the run started";
    let ran = run_in(&desk, "copy", &["resume", "run"]);
    ran.says(
        "other rows in the copy",
        65,
        &[changed, "`--base DIR` or `--data DIR`"],
    );
    assert_eq!(ran.stderr.matches("has changed").count(), 1, "{ran:?}");
    run_in(
        &desk,
        "copy",
        &["eval", "run", "--adapter", "run/checkpoints/step-2/adapter"],
    )
    .says("eval", 0, &[&format!("note: {changed}")]);
    // With the rows of the original, by name, it is the same run.
    run_in(&desk, "copy", &["resume", "run", "--data", "../proj"]).says(
        "the original's rows",
        0,
        &["note: data: `DESK/proj/rows.parquet` is read in place of `DESK/copy/rows.parquet`"],
    );
    back(&desk, "copy/run");
    // Forced, it trains on the copy's, never on the original's.
    let before = desk.read("proj/rows.parquet");
    run_in(&desk, "copy", &["resume", "run", "--force"]).says(
        "forced",
        0,
        &[changed, "because of `--force`"],
    );
    assert_eq!(desk.read("proj/rows.parquet"), before);
    let lock: Value = serde_yaml::from_str(&desk.read_text("copy/run/recipe.lock.yaml")).unwrap();
    let forced = &lock["resumed"].as_array().unwrap().last().unwrap();
    assert_eq!(
        forced["blake3"]["datasets"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["rows.parquet"]
    );
    desk.write(
        "copy/base/config.json",
        desk.read_text("copy/base/config.json") + "\n",
    );
    run_in(&desk, "copy", &["eval", "run"]).says(
        "eval",
        0,
        &["tokenizer or config: `DESK/copy/base/config.json` has changed"],
    );
}

#[test]
fn a_run_alone_takes_its_files_from_where_it_was_or_from_named_folders() {
    let desk = project();
    let expected = train(&desk, &[]);
    fs::create_dir(desk.path("away")).unwrap();
    copy(&desk, "proj/run", "away/run");
    copy(&desk, "proj/run", "away/other");
    // The project is still there.
    run_in(&desk, "away", &["resume", "run"]).says(
        "the project is there",
        0,
        &["going on after step 2"],
    );
    assert_eq!(adapter(&desk, "away/run"), expected);
    // It is gone, and its parts are elsewhere, under other names.
    fs::rename(desk.path("proj/base"), desk.path("model")).unwrap();
    fs::create_dir_all(desk.path("store/deep")).unwrap();
    fs::rename(
        desk.path("proj/rows.parquet"),
        desk.path("store/deep/renamed.bin"),
    )
    .unwrap();
    fs::remove_dir_all(desk.path("proj")).unwrap();
    let data_is_gone = "data: `DESK/away/rows.parquet` does not exist";
    let with_base = &["resume", "other", "--base", "../model"][..];
    run_in(&desk, "away", with_base).says("no data", 65, &[data_is_gone, "--data DIR"]);
    let with_data = &["resume", "other", "--data", "../store"][..];
    run_in(&desk, "away", with_data).says(
        "no base",
        65,
        &[
            "base: `DESK/away/base` does not exist",
            "hint: name its folder with `--base DIR`",
        ],
    );
    let neither = run_in(&desk, "away", &["resume", "other", "--data", "../model"]);
    neither.says(
        "a folder without them",
        65,
        &["--data: no file in `DESK/away/../model` has the content of one that the run read"],
    );
    run_in(&desk, "away", &["resume", "other", "--data", "../none"]).says(
        "no folder",
        66,
        &["--data: `../none` does not exist"],
    );
    run_in(&desk, "away", &["resume", "other", "--base", "../none"]).says(
        "no folder",
        66,
        &["base `../none` does not exist"],
    );
    let both = [
        "resume", "other", "--base", "../model", "--data", "../store",
    ];
    run_in(&desk, "away", &both).says(
        "both",
        0,
        &["`DESK/store/deep/renamed.bin` is read in place of"],
    );
    assert_eq!(adapter(&desk, "away/other"), expected);
    let ran = run_in(
        &desk,
        "away",
        &["eval", "other", "--base", "../model", "--data", "../store"],
    );
    ran.says("eval", 0, &[]);
    assert!(!ran.stderr.contains("changed"), "{ran:?}");
    run_in(
        &desk,
        "away",
        &[
            "merge",
            "--adapter",
            "other/adapter",
            "--base",
            "../model",
            "--out",
            "merged",
        ],
    )
    .says("merge", 0, &[]);
    // A base that is another one is told.
    desk.write(
        "model/config.json",
        desk.read_text("model/config.json") + "\n",
    );
    back(&desk, "away/other");
    run_in(&desk, "away", &both).says(
        "another base",
        65,
        &["tokenizer or config: `DESK/model/config.json` has changed"],
    );
}

#[test]
fn absolute_paths_below_the_project_move_with_it() {
    let desk = project();
    let [base, rows] = ["base", "rows.parquet"].map(|name| {
        desk.path("proj")
            .canonicalize()
            .unwrap()
            .join(name)
            .display()
            .to_string()
    });
    let [base, rows] = [
        format!("base_model={base}"),
        format!("datasets.0.path={rows}"),
    ];
    let run = format!(
        "output_dir={}",
        desk.path("proj")
            .canonicalize()
            .unwrap()
            .join("run")
            .display()
    );
    let expected = train(&desk, &[&base, &rows, &run]);
    copy(&desk, "proj", "copy");
    desk.write("proj/rows.parquet", [0; 100]);
    desk.write("proj/base/model.safetensors", [0; 100]);
    let ran = run_in(&desk, "copy", &["resume", "run"]);
    ran.says("a copy", 0, &[MOVED]);
    assert!(!ran.stderr.contains("changed"), "{ran:?}");
    assert_eq!(adapter(&desk, "copy/run"), expected);
    let generate = [
        "generate",
        "--adapter",
        "run/adapter",
        "--prompt",
        "so",
        "--max-tokens",
        "1",
    ];
    run_in(&desk, "copy", &generate).says("generate", 0, &[]);
}

#[test]
fn folders_globs_and_several_datasets_keep_their_rows_in_order() {
    let desk = project();
    fs::create_dir_all(desk.path("proj/data/deep")).unwrap();
    let rows = |name: &str, of: usize| {
        desk.write_rows(
            &format!("proj/{name}"),
            vec![(
                "text",
                texts((0..6).map(|row| format!("row {row} of {of} in a file"))),
            )],
        );
    };
    for (index, name) in [
        "data/b.parquet",
        "data/a.parquet",
        "data/deep/c.parquet",
        "valid.parquet",
    ]
    .into_iter()
    .enumerate()
    {
        rows(name, index);
    }
    let recipe = RECIPE.replace(
        "  - path: rows.parquet\n    format: text\n",
        "  - {path: ./data/*.parquet, format: text}\n  - {path: data/deep, format: text}\n  - \
        {path: rows.parquet, format: text}\n",
    );
    let recipe = recipe.replace(
        "val_set_size: 4, eval_steps: 3",
        "eval_steps: 3, datasets: [{path: valid.parquet, format: text}]",
    );
    desk.write("proj/recipe.yaml", recipe);
    let expected = train(&desk, &[]);
    copy(&desk, "proj", "copy");
    copy(&desk, "proj", "torn");
    fs::write(desk.path("proj/data/a.parquet"), "changed").unwrap();
    run_in(&desk, "copy", &["resume", "run"]).says("a copy", 0, &[MOVED]);
    assert_eq!(adapter(&desk, "copy/run"), expected);
    // Renamed so that their order by name is another, in one folder beside others.
    fs::create_dir(desk.path("store")).unwrap();
    for (from, to) in [
        ("data/b", "1"),
        ("data/a", "2"),
        ("data/deep/c", "0"),
        ("rows", "4"),
        ("valid", "3"),
    ] {
        fs::rename(
            desk.path(&format!("torn/{from}.parquet")),
            desk.path(&format!("store/{to}.parquet")),
        )
        .unwrap();
    }
    other_rows(&desk, "store/5.parquet");
    fs::remove_dir_all(desk.path("proj")).unwrap();
    run_in(&desk, "torn", &["resume", "run", "--data", "../store"]).says(
        "renamed",
        0,
        &["going on after step 2"],
    );
    assert_eq!(adapter(&desk, "torn/run"), expected);
    // One of several that is gone is named; the others are there.
    back(&desk, "torn/run");
    fs::remove_file(desk.path("store/2.parquet")).unwrap();
    run_in(&desk, "torn", &["resume", "run", "--data", "../store"]).says(
        "one is gone",
        65,
        &["data: `DESK/torn/data/a.parquet` is not read any more since the run started"],
    );
}

#[test]
fn templates_and_adapters_to_go_on_from_move_too() {
    let desk = project();
    let turns = |row: usize| {
        let answer = r#"{"role": "assistant", "content": "it is"}"#;
        format!(r#"[{{"role": "user", "content": "so {row}"}}, {answer}]"#)
    };
    desk.write_rows(
        "proj/rows.parquet",
        vec![("messages", texts((0..12).map(turns)))],
    );
    let template = "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content \
        }}<|eot_id|>{% endgeneration %}{% endfor %}";
    desk.write("proj/own.jinja", template);
    desk.write(
        "proj/recipe.yaml",
        RECIPE
            .replace("format: text", "format: chat")
            .replace("output_dir", "chat_template: own.jinja\noutput_dir"),
    );
    run_in(&desk, "proj", &["train", "recipe.yaml", "output_dir=first"]).says("first", 0, &[]);
    let expected = train(&desk, &["adapter.init_from=first/adapter", "adapter.r="]);
    copy(&desk, "proj", "copy");
    copy(&desk, "proj/run", "away/run");
    desk.write("proj/own.jinja", "{{ changed }}");
    run_in(&desk, "copy", &["resume", "run"]).says("a copy", 0, &[MOVED]);
    assert_eq!(adapter(&desk, "copy/run"), expected);
    let chat = [
        "generate",
        "--adapter",
        "run/adapter",
        "--chat",
        "so",
        "--max-tokens",
        "1",
    ];
    run_in(&desk, "copy", &chat).says("generate with the copy's template", 0, &[]);
    // By content, from a folder of many things.
    fs::create_dir(desk.path("store")).unwrap();
    copy(&desk, "copy/first/adapter", "store/start");
    fs::copy(desk.path("copy/own.jinja"), desk.path("store/t.jinja")).unwrap();
    fs::copy(desk.path("copy/rows.parquet"), desk.path("store/r.parquet")).unwrap();
    fs::rename(desk.path("proj/base"), desk.path("model")).unwrap();
    fs::remove_dir_all(desk.path("proj")).unwrap();
    run_in(&desk, "away", &["resume", "run"]).says("no template", 65, &["does not exist"]);
    run_in(
        &desk,
        "away",
        &["resume", "run", "--base", "../model", "--data", "../store"],
    )
    .says("by content", 0, &[]);
    assert_eq!(adapter(&desk, "away/run"), expected);
}
