//! Every recipe that is shipped passes `check`, comes to a plan and explains each of its keys.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The base that is shipped.
const BASE: &str = "checkpoints/rankine-tiny";

/// The recipes with their texts, as paths from the package's folder.
fn recipes() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let read = |file: fs::DirEntry| {
        (
            format!("recipes/{}", file.file_name().display()),
            fs::read_to_string(file.path()).unwrap(),
        )
    };
    let mut recipes: Vec<_> = files.map(read).collect();
    recipes.sort();
    recipes
}

/// What the binary prints, run in the package's folder with its token cache elsewhere. `check` and
/// `plan` make no output folder.
fn rankine(arguments: &[&str]) -> String {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankine"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RANKINE_CACHE", cache.path());
    command
        .env("HF_HOME", cache.path())
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE");
    let output = command.args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn there_is_a_recipe_for_each_purpose() {
    let names: Vec<String> = recipes().into_iter().map(|(path, _)| path).collect();
    let expected = [
        "classify-glossary",
        "deepseek-v2-lite",
        "distill-nf4",
        "dpo-glossary",
        "embed-glossary",
        "falcon-7b",
        "gemma-1.1-2b",
        "gemma-2-2b",
        "gemma-3-1b",
        "gemma-4-12b",
        "gemma-4-e2b",
        "gpt-oss-20b",
        "granite-3.3-2b",
        "granite-4.0-micro",
        "kto-glossary",
        "legal-glossary",
        "legal-text",
        "lfm2-1.2b",
        "llama-3.2-1b",
        "medgemma-4b",
        "ministral-3-3b",
        "mistral-7b",
        "mixtral-8x7b",
        "olmo-2-1b",
        "olmo-3-7b",
        "phi-3.5-mini",
        "pretrain-tiny",
        "quickstart",
        "qwen2.5-0.5b",
        "qwen3-30b-a3b",
        "qwen3-8b",
        "qwen3.5-0.8b",
        "qwen3.5-4b",
        "saul-7b",
        "smollm2-135m",
        "smollm3-3b",
    ];
    assert_eq!(names, expected.map(|name| format!("recipes/{name}.yaml")));
}

/// A base that is a Hub id is no path and is not looked up.
#[test]
fn every_recipe_passes_check() {
    for (path, text) in recipes() {
        let said = rankine(&["check", &path]);
        let is_local = text.contains(&format!("\nbase_model: {BASE}\n"));
        assert!(said.starts_with(&format!("{path}: no faults")), "{said}");
        assert_eq!(said.contains("is a Hub id"), !is_local, "{said}");
    }
}

/// With the shipped base in the place of a Hub id: formats, columns and targets are the recipe's
/// own.
#[test]
fn every_recipe_comes_to_a_plan_and_leaves_no_row_without_a_trained_token() {
    for (path, _) in recipes() {
        let said = rankine(&["plan", &path, &format!("base_model={BASE}")]);
        for fact in [
            "trainable parameters",
            ", 0 without a trained token",
            "rows to train on",
            "rows to validate on",
            "steps",
        ] {
            assert!(said.contains(fact), "{path}: no `{fact}` in\n{said}");
        }
    }
}

/// The headings of sections speak for themselves.
#[test]
fn every_key_has_a_comment_directly_above_it() {
    for (path, text) in recipes() {
        let lines: Vec<&str> = text.lines().collect();
        for (above, line) in lines.iter().zip(&lines[1..]) {
            let is_key = line
                .split('#')
                .next()
                .is_some_and(|line| line.contains(':'));
            let is_heading = line.ends_with(':') && !line.starts_with(' ');
            let is_explained = above.trim_start().starts_with('#');
            assert!(
                !is_key || is_heading || is_explained,
                "{path}: no comment above `{line}`"
            );
        }
    }
}
