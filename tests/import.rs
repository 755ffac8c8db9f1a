//! Configs of other trainers, the recipe's schema, completions, and the first recipe that `init`
//! writes: by the binary, as a person uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary in the package's folder, with caches elsewhere.
fn run(arguments: &[&str]) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    command
        .current_dir(root())
        .env("RANKINE_CACHE", cache.path())
        .env("HF_HOME", cache.path());
    command
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .stdin(std::process::Stdio::null());
    command.args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and stderr.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

/// Configs that use the keys of each tool's published examples: mapped, dropped, replaced and
/// refused.
const SAMPLES: [(&str, &str, [u64; 4]); 5] = [
    ("axolotl.yaml", "axolotl", [30, 33, 6, 0]),
    ("llama-factory.yaml", "llama-factory", [18, 16, 5, 0]),
    ("torchtune.yaml", "torchtune", [22, 26, 4, 0]),
    ("mlx-lm.yaml", "mlx-lm", [24, 10, 1, 0]),
    ("peft-run", "peft-run", [19, 44, 1, 0]),
];

#[test]
fn every_sample_comes_to_a_recipe_that_check_reads() {
    let folder = tempfile::tempdir().unwrap();
    for (name, tool, counts) in SAMPLES {
        let out = text(folder.path().join(format!("{tool}.yaml")));
        let config = format!("tests/import/{name}");
        let report: Value =
            serde_json::from_str(&stdout(&["import", &config, "--out", &out, "--json"])).unwrap();
        assert_eq!(report["tool"], tool);
        let found =
            ["mapped", "dropped", "replaced", "refused"].map(|fate| report[fate].as_u64().unwrap());
        assert_eq!(found, counts, "{name}");
        // What is left for `check` to say is that data and base are not here, never that the recipe
        // has a fault of form.
        let (_, said) = refused(&["check", &out]);
        for line in said.lines().filter(|line| line.starts_with("error: ")) {
            assert!(
                line.contains("does not exist") || line.contains("no data file at"),
                "{name}: {line}"
            );
        }
    }
}

#[test]
fn a_refused_key_writes_nothing_and_partial_writes_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let config = text(folder.path().join("x.yml"));
    let good = fs::read_to_string(root().join("tests/import/axolotl.yaml")).unwrap();
    fs::write(&config, format!("{good}rl: grpo\nunheard_of: 3\n")).unwrap();
    let out = text(folder.path().join("recipe.yaml"));
    let (code, said) = refused(&["import", &config, "--out", &out]);
    assert_eq!(code, 65, "{said}");
    assert!(!Path::new(&out).exists());
    for part in [
        "rl: `grpo`: `dpo`, `ipo`, `orpo`",
        "unheard_of: `3`: Axolotl has no such key",
        "2 keys are refused",
        "--partial",
        ":85:1: ",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let report = stdout(&["import", &config, "--out", &out, "--partial"]);
    assert!(report.contains("2 refused"), "{report}");
    let recipe = fs::read_to_string(&out).unwrap();
    assert!(
        recipe.contains("# - rl: grpo: ") && recipe.contains("# - unheard_of: 3: "),
        "{recipe}"
    );
    let (code, said) = refused(&["import", &config, "--out", &out, "--partial"]);
    assert!(code == 73 && said.contains("exists"), "{code} {said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), recipe);
}

#[test]
fn a_config_that_is_none_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        text(path)
    };
    let cases = [
        (
            write("a.yaml", "foo: 1\n"),
            65,
            "name the tool with `--from`",
        ),
        (write("b.yaml", "- a\n"), 65, "expected keys with values"),
        (
            write("c.yaml", "base_model: &x y\nadapter: *x\n"),
            65,
            "anchor `&x` is not read",
        ),
        (write("d.yaml", "base_model: [\n"), 65, "not YAML"),
        (write("e.yaml", ""), 65, "found nothing"),
        (text(folder.path().join("none.yaml")), 66, "does not exist"),
        (
            text(folder.path().to_owned()),
            65,
            "has no adapter_config.json",
        ),
        (
            text(root().join("recipes/quickstart.yaml")),
            65,
            "a recipe of Rankine already",
        ),
    ];
    for (path, code, part) in cases {
        let (found, said) = refused(&["import", &path]);
        assert!(
            found == code && said.contains(part),
            "{path}: {found} {said}"
        );
    }
    let (code, said) = refused(&["import", "x.yaml", "--from", "trl"]);
    assert!(
        code == 2 && said.contains("axolotl, llama-factory"),
        "{code} {said}"
    );
}

/// Data as configs name them are read as they are, and what was imported passes `check`.
#[test]
fn data_of_a_config_are_named_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(folder.path().join(name));
    let turns = [("user", "q"), ("assistant", "a")]
        .map(|(role, content)| serde_json::json!({"role": role, "content": content}));
    let row = serde_json::json!({ "messages": turns });
    fs::create_dir(folder.path().join("data")).unwrap();
    for name in ["law.jsonl", "data/train.jsonl", "data/valid.jsonl"] {
        fs::write(at(name), format!("{row}\n{row}\n")).unwrap();
    }
    let base = text(root().join("checkpoints/rankine-tiny"));
    let (law, data) = (at("law.jsonl"), at("data"));
    let axolotl = format!(
        "base_model: {base}\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n\
        learning_rate: 2e-4\nsequence_len: 64\nmicro_batch_size: 1\nnum_epochs: 1\n"
    );
    let plain = format!("{axolotl}datasets:\n  - path: {law}\n    type: chat_template\n");
    let loader = format!(
        "{axolotl}datasets:\n  - path: json\n    data_files: {law}\n    type: chat_template\n"
    );
    let mlx = format!(
        "model: {base}\ntrain: true\ndata: {data}\nlora_parameters: {{rank: 4, scale: 2.0}}\n\
        num_layers: 2\niters: 10\n"
    );
    for (tool, config, named) in [
        ("axolotl", plain, &law),
        ("axolotl", loader, &law),
        ("mlx-lm", mlx, &at("data/train.jsonl")),
    ] {
        let (path, out) = (at("config.yml"), at("recipe.yaml"));
        fs::write(&path, &config).unwrap();
        let _ = fs::remove_file(&out);
        let printed = stdout(&["import", &path, "--from", tool, "--out", &out, "--json"]);
        let report: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(report["refused"], 0, "{tool}: {report:#}");
        let recipe = fs::read_to_string(&out).unwrap();
        assert!(recipe.contains(named.as_str()), "{tool}: {recipe}");
        let checked = run(&["check", &out]);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(0), "{tool}: {recipe}{said}");
    }
}

/// The file that recipes point their editors to. After a key was added:
/// `rankine schema > schema/recipe.json`.
#[test]
fn the_schema_is_the_file_that_recipes_name() {
    let printed = stdout(&["schema"]);
    let file = fs::read_to_string(root().join("schema/recipe.json")).unwrap();
    assert!(
        printed == file,
        "write it anew: `rankine schema > schema/recipe.json`"
    );
    for recipe in fs::read_dir(root().join("recipes")).unwrap() {
        let path = recipe.unwrap().path();
        let recipe = fs::read_to_string(&path).unwrap();
        assert!(
            recipe.contains("# yaml-language-server: $schema=../schema/recipe.json"),
            "{}",
            path.display()
        );
    }
}

/// `key -> default` of a schema.
fn defaults(schema: &Value, prefix: &str, found: &mut Vec<(String, Value)>) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{key}");
        if let Some(default) = value.get("default") {
            found.push((path.clone(), default.clone()));
        }
        defaults(value, &format!("{path}."), found);
    }
}

/// A recipe that says nothing gets the values that the schema promises.
#[test]
fn defaults_are_those_of_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let path = text(folder.path().join("x.yaml"));
    fs::write(
        &path,
        "base_model: checkpoints/rankine-tiny\ndatasets: \
        [{path: datasets/medical-glossary.parquet, format: chat}]\ndevice: cpu\n",
    )
    .unwrap();
    let plan: Value = serde_json::from_str(&stdout(&["plan", &path, "--json"])).unwrap();
    let settings = plan["settings"].as_array().unwrap();
    let schema: Value = serde_json::from_str(&stdout(&["schema"])).unwrap();
    let mut promised = Vec::new();
    defaults(&schema, "", &mut promised);
    let mut compared = 0;
    for (key, default) in promised {
        let Some(setting) = settings
            .iter()
            .find(|setting| setting["key"] == key.as_str() && setting["origin"] == "default")
        else {
            continue;
        };
        let (found, default) = (&setting["value"], &default);
        let is_equal = found == default
            || found
                .as_f64()
                .is_some_and(|found| Some(found) == default.as_f64());
        assert!(
            is_equal,
            "{key}: the schema says {default}, the plan {found}"
        );
        compared += 1;
    }
    assert!(compared >= 35, "{compared} defaults are compared");
}

#[test]
fn every_shell_has_its_completions_and_every_verb_its_page() {
    for (shell, part) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef rankine"),
        ("fish", "complete -c rankine"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let script = stdout(&["completions", shell]);
        assert!(
            script.contains(part) && script.contains("gradcheck"),
            "{shell}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let pages = text(folder.path().join("man"));
    stdout(&["completions", "man", "--out", &pages]);
    for verb in ["", "-train", "-import", "-init", "-doctor"] {
        let page = fs::read_to_string(format!("{pages}/rankine{verb}.1")).unwrap();
        assert!(
            page.starts_with(".ie") && page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{verb}: {page}"
        );
    }
    assert!(!Path::new(&format!("{pages}/rankine-bench.1")).exists());
    assert!(stdout(&["completions", "man"]).contains(".TH rankine 1"));
}

/// Questions and answers are turns of a chat where the base has a template, else plain text.
#[test]
fn init_reads_a_table_as_the_base_can() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (
        text(folder.path().join("qa.csv")),
        text(folder.path().join("recipe.yaml")),
    );
    let rows: String = (0..8)
        .map(|row| format!("what is {row}?,it is {row}\n"))
        .collect();
    fs::write(&data, format!("question,answer\n{rows}")).unwrap();
    let (tiny, plain) = (
        root().join("checkpoints/rankine-tiny"),
        folder.path().join("plain"),
    );
    fs::create_dir(&plain).unwrap();
    for file in fs::read_dir(&tiny).unwrap().map(Result::unwrap) {
        if file.path().is_file() && file.file_name() != "chat_template.jinja" {
            fs::copy(file.path(), plain.join(file.file_name())).unwrap();
        }
    }
    let config = plain.join("tokenizer_config.json");
    let mut keys: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    keys.as_object_mut().unwrap().remove("chat_template");
    fs::write(&config, keys.to_string()).unwrap();
    for (base, format) in [(tiny, "format: chat"), (plain, "format: completion")] {
        let base = &text(base);
        let _ = fs::remove_file(&out);
        stdout(&["init", "--base", base, "--data", &data, "--out", &out]);
        let recipe = fs::read_to_string(&out).unwrap();
        assert!(recipe.contains(format), "{base}: {recipe}");
        assert!(recipe.contains("prompt: question"), "{base}: {recipe}");
        stdout(&["check", &out]);
    }
}

#[test]
fn init_writes_a_recipe_that_passes_check_and_fits() {
    let folder = tempfile::tempdir().unwrap();
    for (data, format, goal) in [
        (
            "datasets/medical-glossary.parquet",
            "format: chat",
            "method: lora",
        ),
        (
            "datasets/general-definitions.parquet",
            "format: text",
            "r: 32",
        ),
    ] {
        let out = text(folder.path().join(format!(
            "{}.yaml",
            Path::new(data).file_stem().unwrap().display()
        )));
        let said = stdout(&[
            "init",
            "--base",
            "checkpoints/rankine-tiny",
            "--data",
            data,
            "--device",
            "cpu",
            "--out",
            &out,
        ]);
        assert!(said.contains(&out), "{said}");
        let recipe = fs::read_to_string(&out).unwrap();
        for part in [
            format,
            goal,
            "device: cpu",
            "sequence_len: ",
            "    # ",
            "val_set_size: 0.05",
        ] {
            assert!(recipe.contains(part), "{part}: {recipe}");
        }
        assert!(stdout(&["check", &out]).contains("no faults"));
        let plan: Value = serde_json::from_str(&stdout(&["plan", &out, "--json"])).unwrap();
        assert_eq!(plan["memory"]["fits"], true);
        let (code, _) = refused(&[
            "init",
            "--base",
            "checkpoints/rankine-tiny",
            "--data",
            data,
            "--out",
            &out,
        ]);
        assert_eq!(code, 73);
    }
}

#[test]
fn init_says_what_it_misses() {
    let folder = tempfile::tempdir().unwrap();
    let out = text(folder.path().join("x.yaml"));
    for (arguments, code, part) in [
        (vec!["init", "--out", &out], 2, "`--base` is missing"),
        (
            vec!["init", "--base", "checkpoints/rankine-tiny", "--out", &out],
            2,
            "`--data` is missing",
        ),
        (
            vec![
                "init",
                "--base",
                "checkpoints/rankine-tiny",
                "--data",
                "nowhere.parquet",
                "--out",
                &out,
            ],
            65,
            "nowhere.parquet",
        ),
        (
            vec![
                "init",
                "--base",
                "nobody",
                "--data",
                "datasets/general-definitions.parquet",
                "--out",
                &out,
            ],
            65,
            "nobody",
        ),
        (
            vec![
                "init",
                "--base",
                "checkpoints/rankine-tiny",
                "--data",
                "datasets/general-definitions.parquet",
                "--device",
                "gpu",
                "--out",
                &out,
            ],
            2,
            "`--device gpu`",
        ),
        (
            vec![
                "init",
                "--base",
                "checkpoints/rankine-tiny",
                "--data",
                "datasets/general-definitions.parquet",
                "--goal",
                "fame",
                "--out",
                &out,
            ],
            2,
            "answers, language or everything",
        ),
    ] {
        let (found, said) = refused(&arguments);
        assert!(
            found == code && said.contains(part),
            "{arguments:?}: {found} {said}"
        );
        assert!(!Path::new(&out).exists());
    }
    // A base of the Hub that is not here: the recipe says so, and needs no network.
    let data = "datasets/general-definitions.parquet";
    let output = run(&["init", "--base", "some/base", "--data", data, "--out", &out]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("not in the cache"));
}
