//! Imports go only downward: a module may import any lower level and its own folder; levels 1 and 4 do not import siblings.

use std::fs;
use std::path::{Path, PathBuf};

const LEVELS: [&[&str]; 8] = [
    &["draws", "fault", "files", "device", "ops", "quant", "report", "terms"],
    &["nn", "recipe", "hub", "data"],
    &["model"],
    &["adapter"],
    &["train", "infer", "export"],
    &["proof"],
    &["plan"],
    &["cli"],
];

fn level(module: &str) -> usize {
    LEVELS
        .iter()
        .position(|level| level.contains(&module))
        .unwrap_or_else(|| panic!("`{module}` has no level: name it in tests/layers.rs"))
}

/// Every file below src, with the module it belongs to and its text.
fn sources() -> Vec<(PathBuf, String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|end| end == "rs") {
                found.push(entry);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let module = |path: &Path| {
        let first = path.strip_prefix(&root).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    found.into_iter().map(|path| (path.clone(), module(&path), fs::read_to_string(&path).unwrap())).collect()
}

/// Modules named after `crate::`, those in braces included.
fn imported(text: &str) -> Vec<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let after = text.split("crate::").skip(1);
    let names = after.flat_map(|rest| match rest.strip_prefix('{') {
        Some(list) => outer_items(list).iter().map(|item| word(item)).collect(),
        None => vec![word(rest)],
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Items of a brace that is open, without what nested braces hold.
fn outer_items(list: &str) -> Vec<String> {
    let (mut depth, mut items) = (1, vec![String::new()]);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => items.push(String::new()),
            c if depth == 1 => items.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    items
}

#[test]
fn imports_are_read_with_their_braces() {
    let text =
        "use crate::{data::{self, Rows}, plan::Plan, model};\nuse crate::fault::{Exit, Fault};\nfn f() -> crate::nn::Head {}";
    assert_eq!(imported(text), ["data", "plan", "model", "fault", "nn"]);
}

#[test]
fn imports_go_only_downward() {
    let mut wrong = Vec::new();
    for (path, module, text) in sources().into_iter().filter(|(_, module, _)| !["lib", "main"].contains(&module.as_str())) {
        for target in imported(&text).into_iter().filter(|target| *target != module) {
            let (from, to) = (level(&module), level(&target));
            let is_sibling = from == to && from != 0;
            if to > from || is_sibling {
                wrong.push(format!("{}: `{module}` (level {from}) imports `{target}` (level {to})", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where a word may stand.
fn stands_only_in(word: &str, places: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let outside = |path: &Path| !places.iter().any(|place| path.starts_with(root.join(place)));
    let wrong: Vec<_> =
        sources().into_iter().filter(|(path, _, text)| text.contains(word) && outside(path)).map(|(path, ..)| path).collect();
    assert!(wrong.is_empty(), "`{word}` stands in {wrong:?}, expected only in {places:?}");
}

#[test]
fn each_kind_of_line_has_its_room() {
    // The result goes to stdout from one place, progress to stderr from one sink.
    stands_only_in("stdout()", &["cli"]);
    stands_only_in("println!(", &["ops/cube/tests.rs"]); // A test that has no device says so.
    stands_only_in("stderr()", &["report/terminal.rs", "main.rs"]);
    // A backend is named where operations are made and where a device is opened.
    stands_only_in("burn::backend", &["ops", "device"]);
    stands_only_in(
        "burn::tensor",
        &["ops", "device", "nn", "model", "adapter", "train", "proof", "plan/build.rs", "cli/gradcheck.rs", "cli/train.rs"],
    );
    // Kernels have a place of their own.
    stands_only_in("cubecl", &["ops/cube", "device"]);
    stands_only_in("unsafe {", &["files/mmap.rs", "ops/simd.rs", "ops/gemm"]);
}

/// A file without the module of its tests, which name the folders of what they are given.
fn without_tests(text: &str) -> &str {
    text.rsplit_once("#[cfg(test)]").map_or(text, |(code, _)| code)
}

/// Families are told apart in one place, comments included. What consumers call architectures and templates is written where they are told
/// of, and stock templates are files with names.
#[test]
fn no_family_is_named_outside_of_its_file() {
    const FAMILIES: [&str; 14] = [
        "llama", "gemma", "mistral", "mixtral", "qwen", "phi3", "phi-3", "olmo", "smollm", "granite", "deepseek", "falcon",
        "gpt_oss", "gpt-oss",
    ];
    const PROGRAMS: [&str; 3] = ["llama.cpp", "llamacpp", "ollama"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let elsewhere = |path: &Path| {
        let rooms = ["model/families", "export", "data/template/twins.rs", "quant/tests.rs", "train/sweep.rs"];
        !rooms.iter().any(|room| path.starts_with(root.join(room)))
    };
    let mut places = Vec::new();
    for (path, _, text) in sources().into_iter().filter(|(path, ..)| elsewhere(path)) {
        for (index, line) in without_tests(&text).lines().enumerate() {
            let line = PROGRAMS.iter().fold(line.to_lowercase(), |line, program| line.replace(program, ""));
            let named = FAMILIES.iter().find(|family| line.contains(**family));
            places.extend(named.map(|family| format!("{}:{}: {family}", path.display(), index + 1)));
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}
