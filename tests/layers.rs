//! Imports go only downward: a module may import any lower level and its own folder, and no module
//! beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LEVELS: [&[&str]; 13] = [
    &["fault", "keyed_random", "panics", "terms"],
    &["files", "objective", "quant"],
    &["recipe", "report"],
    &["data", "device", "hub"],
    &["ops"],
    &["nn"],
    &["model"],
    &["adapter", "infer"],
    &["export", "train"],
    &["proof"],
    &["plan"],
    &["run"],
    &["cli"],
];

/// The floors inside of `data`: its rooms and loose files.
const DATA: [&[&str]; 6] = [
    &["json_text", "visible"],
    &["read", "tokenizer"],
    &["convert", "template"],
    &["example"],
    &["corpus"],
    &["batch"],
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
        for entry in fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
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
        let first = path
            .strip_prefix(&root)
            .unwrap()
            .components()
            .next()
            .unwrap();
        first
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned()
    };
    found
        .into_iter()
        .map(|path| {
            (
                path.clone(),
                module(&path),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

/// Modules named after a prefix such as `crate::`, those in braces included.
fn imported(text: &str, prefix: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let after = text.split(prefix).skip(1);
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
    let text = "use crate::{data::{self, Rows}, plan::Plan, model};\n\
        use crate::fault::{Exit, Fault};\nfn f() -> crate::nn::Head {}";
    assert_eq!(
        imported(text, "crate::"),
        ["data", "plan", "model", "fault", "nn"]
    );
    assert_eq!(
        imported("crate::data::{read::cells, visible}", "crate::data::"),
        ["read", "visible"]
    );
}

#[test]
fn imports_go_only_downward() {
    let mut wrong = Vec::new();
    for (path, module, text) in sources()
        .into_iter()
        .filter(|(_, module, _)| !["lib", "main"].contains(&module.as_str()))
    {
        for target in imported(&text, "crate::")
            .into_iter()
            .filter(|target| *target != module)
        {
            let (from, to) = (level(&module), level(&target));
            if to >= from {
                wrong.push(format!(
                    "{}: `{module}` (level {from}) imports `{target}` (level {to})",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_of_data_import_only_downward() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data");
    let floor = |room: &str| DATA.iter().position(|floor| floor.contains(&room));
    let mut wrong = Vec::new();
    for (path, _, text) in sources() {
        let Ok(inside) = path.strip_prefix(&folder) else {
            continue;
        };
        if inside == Path::new("mod.rs") {
            continue;
        }
        let first = inside.components().next().expect("a name");
        let room = first.as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let from = floor(room).unwrap_or_else(|| panic!("`{room}` has no floor in DATA"));
        // A path that climbs names rooms too; what is no room is a file of the same one.
        let climbs = imported(&text, "super::super::");
        let climbs = climbs.into_iter().filter(|name| floor(name).is_some());
        let named = imported(&text, "crate::data::").into_iter().chain(climbs);
        for target in named.filter(|target| target != room) {
            // What `data` exports is for those outside: inside, each thing is named by its room.
            if floor(&target).is_none_or(|to| to >= from) {
                wrong.push(format!("{}: `{room}` imports `{target}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that import each other, folders' own files aside. None in `adapter`, `data` outside of
/// templates, `model` outside of GGUF files, or `plan`.
const CIRCLES: [&[&str]; 16] = [
    &["data/template/engine", "data/template/python"],
    &["data/template/sandbox", "data/template/single"],
    &["device/adapters", "device/cuda", "device/list"],
    &["hub/client", "hub/retry"],
    &["hub/dataset", "hub/dataset_select"],
    &["hub/push", "hub/upload"],
    &[
        "model/gguf/architecture",
        "model/gguf/carried",
        "model/gguf/change",
        "model/gguf/differences",
        "model/gguf/keys",
        "model/gguf/uneven",
    ],
    &[
        "model/gguf/config",
        "model/gguf/rotation",
        "model/gguf/weights",
    ],
    &[
        "ops/base",
        "ops/cube/gated",
        "ops/cube/packed",
        "ops/cube/padding",
        "ops/gated",
        "ops/product",
    ],
    &["ops/cube/dropout", "ops/dropout"],
    &["ops/cube/rope", "ops/rope"],
    &["ops/cube/squares", "ops/flat"],
    &[
        "recipe/notes",
        "recipe/schema",
        "recipe/section",
        "recipe/synonyms",
        "recipe/tree",
    ],
    &[
        "run/artifact",
        "run/merge",
        "run/merge_check",
        "run/reference",
        "run/resume",
        "run/scores",
        "run/session",
        "run/teacher",
        "run/trained",
    ],
    &["run/lock", "run/provenance"],
    &["train/evaluate", "train/run", "train/samples"],
];

/// Paths of imports, and those written out, one for each name in braces.
fn paths(code: &str) -> Vec<Vec<String>> {
    fn expand(head: &[String], list: &str, found: &mut Vec<Vec<String>>) {
        let mut depth = 0_i32;
        let items = list.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        for item in items {
            let (path, inner) = item.split_once('{').unwrap_or((item, ""));
            let parts = path.split("::").map(|part| {
                let name = part.trim().chars();
                name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect()
            });
            let parts = parts.filter(|part: &String| !part.is_empty());
            let whole: Vec<String> = head.iter().cloned().chain(parts).collect();
            match inner.rsplit_once('}') {
                Some((inner, _)) => expand(&whole, inner, found),
                None => found.push(whole),
            }
        }
    }
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = Vec::new();
    for (start, _) in code.match_indices("use ") {
        let list = code[start + 4..].split(';').next().unwrap_or_default();
        expand(&[], list, &mut found);
    }
    for root in ["crate::", "super::"] {
        for (start, _) in code.match_indices(root) {
            let is_path = |c: &char| c.is_ascii_alphanumeric() || [':', '_'].contains(c);
            let path: String = code[start..].chars().take_while(is_path).collect();
            expand(&[], &path, &mut found);
        }
    }
    found
}

#[test]
fn paths_are_read_with_their_braces() {
    let found: Vec<String> =
        paths("use a::{self, b::{C, d}};\nlet x = super::e::f(g); // crate::h")
            .into_iter()
            .map(|path| path.join("::"))
            .collect();
    assert_eq!(found, ["a::self", "a::b::C", "a::b::d", "super::e::f"]);
}

/// Every file of src but those of a folder itself, by its module, with the files that it imports.
fn imports_of_files() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<(Vec<String>, bool, String)> = sources()
        .into_iter()
        .map(|(path, _, text)| {
            let inside = path.strip_prefix(&root).unwrap().with_extension("");
            let parts = inside.iter().map(|part| part.to_str().unwrap().to_owned());
            let mut module: Vec<String> = parts.collect();
            let is_folder = path.with_extension("").is_dir() || path.ends_with("mod.rs");
            if path.ends_with("mod.rs") {
                module.pop();
            }
            (module, is_folder, text)
        })
        .collect();
    let is_module = |path: &[String]| files.iter().any(|(module, ..)| module == path);
    let is_folder = |path: &[String]| files.iter().any(|(module, is, _)| *is && module == path);
    // The longest start of a path that is a module.
    let module_of = |from: &[String], path: &[String]| {
        let climbs = path.iter().take_while(|part| *part == "super").count();
        let (mut at, rest) = match path.first().map(String::as_str) {
            Some("crate") => (Vec::new(), &path[1..]),
            Some("super") if climbs <= from.len() => {
                (from[..from.len() - climbs].to_vec(), &path[climbs..])
            }
            _ => return None,
        };
        for part in rest {
            at.push(part.clone());
            if !is_module(&at) {
                at.pop();
                break;
            }
        }
        Some(at)
    };
    let leaves = files
        .iter()
        .filter(|(module, is_folder, _)| !is_folder && !module.ends_with(&["tests".to_owned()]));
    leaves
        .map(|(module, _, text)| {
            let targets = paths(without_tests(text))
                .iter()
                .filter_map(|path| module_of(module, path))
                .filter(|target| target != module && !target.is_empty() && !is_folder(target))
                .map(|target| target.join("/"))
                .collect();
            (module.join("/"), targets)
        })
        .collect()
}

#[test]
fn files_that_import_each_other_are_known() {
    let imports = imports_of_files();
    let reached = |from: &str| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(file) = next.pop() {
            for target in imports.get(&file).into_iter().flatten() {
                if reached.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        imports.keys().map(|file| (file, reached(file))).collect();
    let circle = |file: &String| -> Vec<&str> {
        let all = reached.iter();
        let both =
            all.filter(|(other, back)| back.contains(file) && reached[file].contains(**other));
        both.map(|(other, _)| other.as_str()).collect()
    };
    let circles: BTreeSet<Vec<&str>> = imports
        .keys()
        .map(circle)
        .filter(|of| of.len() > 1)
        .collect();
    let known: BTreeSet<Vec<&str>> = CIRCLES.iter().map(|circle| circle.to_vec()).collect();
    let new: Vec<_> = circles.difference(&known).collect();
    assert!(new.is_empty(), "import each other: {new:?}");
    let stale: Vec<_> = known.difference(&circles).collect();
    assert!(stale.is_empty(), "import each other no more: {stale:?}");
}

/// Where a word may stand.
fn stands_only_in(word: &str, places: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let with_word: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|(_, _, text)| text.contains(word))
        .map(|(path, ..)| path)
        .collect();
    let lies_in = |path: &Path, place: &str| path.starts_with(root.join(place));
    let is_outside = |path: &&PathBuf| !places.iter().any(|place| lies_in(path, place));
    let wrong: Vec<_> = with_word.iter().filter(is_outside).collect();
    assert!(
        wrong.is_empty(),
        "`{word}` stands in {wrong:?}, expected only in {places:?}"
    );
    let is_idle = |place: &&&str| !with_word.iter().any(|path| lies_in(path, place));
    let idle: Vec<_> = places.iter().filter(is_idle).collect();
    assert!(idle.is_empty(), "`{word}` is not in {idle:?} any more");
}

#[test]
fn each_kind_of_line_has_its_room() {
    // The result goes to stdout from one place, progress to stderr from one sink.
    stands_only_in("stdout()", &["cli"]);
    // A test that has no device says so.
    let skipping = [
        "ops/cube/tests.rs",
        "ops/cube/padding.rs",
        "ops/cube/recurrence/tests.rs",
    ];
    stands_only_in("println!(", &skipping);
    stands_only_in("stderr()", &["report/terminal.rs", "main.rs"]);
    // A backend is named where operations are made and where a device is opened.
    stands_only_in("burn::backend", &["ops", "device"]);
    stands_only_in(
        "burn::tensor",
        &[
            "ops",
            "device",
            "nn",
            "model",
            "adapter",
            "train",
            "proof",
            "plan/build.rs",
            "cli/bench_products.rs",
            "cli/gradcheck.rs",
        ],
    );
    // Kernels have a place of their own.
    // What its panics say is read in the last.
    stands_only_in("cubecl", &["ops/cube", "device", "panics"]);
    stands_only_in("unsafe {", &["files/mmap.rs", "ops/simd.rs", "ops/gemm"]);
}

/// The functions of a text that are compiled for a device: those behind an attribute `#[cube..]`,
/// to their last brace.
fn kernels(text: &str) -> Vec<&str> {
    let each = text.match_indices("#[cube").filter_map(|(start, _)| {
        let from = &text[start..];
        let (name, end) = (from.find("fn ")?, last_brace(from)?);
        (name < end).then(|| &from[name..end])
    });
    each.collect()
}

/// The place behind the brace that closes the first one.
fn last_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        (c == '}' && depth == 0).then_some(at + 1)
    })
}

#[test]
fn kernels_are_found_whole() {
    let text = "#[cube]\nfn a(x: &[u32]) { if true { x.len() } }\nfn b() { x.len() }\n\
        #[cube(launch)]\n#[allow(x)]\nfn c() {}\n";
    assert_eq!(
        kernels(text),
        ["fn a(x: &[u32]) { if true { x.len() } }", "fn c() {}"]
    );
}

/// On CUDA the length of a buffer is that of its allocation, padded; the real one is a scalar of
/// the launch.
#[test]
fn no_kernel_asks_a_buffer_for_its_length() {
    const LENGTHS: [&str; 4] = [".len()", ".buffer_len()", ".shape(", ".is_empty()"];
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (path, _, text) in sources() {
        for kernel in kernels(&text) {
            count += 1;
            let asks = LENGTHS.iter().filter(|length| kernel.contains(**length));
            let name = kernel.split(['<', '(']).next().unwrap_or_default();
            wrong.extend(
                asks.map(|length| format!("{}: `{name}` takes `{length}`", path.display())),
            );
        }
    }
    assert!(count > 30, "{count} kernels are found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sums whose order nobody fixes on CUDA: burn adds them atomically. What is told of a run must not
/// hang on one of them.
const UNORDERED: [&str; 7] = [
    ".sum()",
    ".mean()",
    "float_sum(",
    "float_mean(",
    ".gather(",
    ".scatter(",
    "float_scatter(",
];

/// Those that decide no bits, with why.
const HARMLESS: [(&str, &str, &str); 8] = [
    (
        "train/walk.rs",
        "leaf.sum().backward();",
        "its value is never read",
    ),
    (
        "nn/experts.rs",
        "let mut weights = scores.clone().gather(1, places.clone());",
        "a token's places differ, so that its gradient adds to each once",
    ),
    (
        "ops/flat.rs",
        "let rest = (whole < count).then(|| squares(whole..count).sum());",
        "the tests' own form of what kernels compute",
    ),
    (
        "ops/cross_entropy.rs",
        "let gradient = B::float_scatter(",
        "the tests' own form of what kernels compute",
    ),
    (
        "ops/cross_entropy.rs",
        "let of_target = logits.clone().gather(1, indices.clone());",
        "it has no tape",
    ),
    (
        "ops/cross_entropy.rs",
        "d_logits: d_logits.sub_scalar(share / vocabulary as f64).scatter(",
        "a row has one target",
    ),
    (
        "ops/divergence.rs",
        "let known = numbers(log_p.clone().gather(1, ids.clone()).flatten(0, 1));",
        "it has no tape",
    ),
    (
        "ops/divergence.rs",
        "let gradient = gradient.scatter(",
        "a target has no token twice",
    ),
];

/// Lines of a text, with chains of calls that go over several in one.
fn joined_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("//"))
    {
        match lines.last_mut() {
            Some(last) if line.starts_with('.') => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// Whether what is summed is an iterator's.
fn is_of_iterator(line: &str) -> bool {
    [
        ".iter()",
        "_iter()",
        ".map(",
        ".take(",
        "columns()",
        "rows()",
    ]
    .iter()
    .any(|word| line.contains(word))
}

#[test]
fn no_number_that_counts_is_summed_atomically() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let has_tensors = |text: &str| {
        ["burn::tensor", "burn::backend"]
            .iter()
            .any(|name| text.contains(name))
    };
    let (mut wrong, mut used) = (Vec::new(), [false; HARMLESS.len()]);
    for (path, _, text) in sources()
        .into_iter()
        .filter(|(path, _, text)| has_tensors(text) && !path.ends_with("tests.rs"))
    {
        for line in joined_lines(without_tests(&text)) {
            if !UNORDERED.iter().any(|sum| line.contains(sum)) || is_of_iterator(&line) {
                continue;
            }
            let is_harmless = |(file, start, _): &(&str, &str, &str)| {
                path == root.join(file) && line.starts_with(start)
            };
            match HARMLESS.iter().position(is_harmless) {
                Some(index) => used[index] = true,
                None => wrong.push(format!("{}: {line}", path.display())),
            }
        }
    }
    let stale: Vec<_> = HARMLESS
        .iter()
        .zip(used)
        .filter(|(_, used)| !used)
        .map(|(entry, _)| entry)
        .collect();
    assert!(
        wrong.is_empty(),
        "sum in a fixed order (`sum_dim`, `sum_of_squares`), or say here why not:\n{}",
        wrong.join("\n")
    );
    assert!(stale.is_empty(), "{stale:?} are in no file any more");
}

/// A file without the module of its tests, which name the folders of what they are given.
fn without_tests(text: &str) -> &str {
    text.rsplit_once("#[cfg(test)]")
        .map_or(text, |(code, _)| code)
}

/// Families are told apart in one place, comments included. What consumers call architectures and
/// templates is written where they are told of, what llama.cpp calls tokenizers where they are read,
/// and stock templates are files with names.
#[test]
fn no_family_is_named_outside_of_its_file() {
    const FAMILIES: [&str; 30] = [
        "bert",
        "roberta",
        "llama",
        "gemma",
        "mistral",
        "ministral",
        "mixtral",
        "qwen",
        "phi3",
        "phi-3",
        "olmo",
        "smollm",
        "granite",
        "deepseek",
        "falcon",
        "gpt_oss",
        "gpt-oss",
        "exaone",
        "cohere",
        "glm4",
        "seed_oss",
        "hunyuan",
        "ernie",
        "nanochat",
        "starcoder",
        "nemotron",
        "stablelm",
        "neox",
        "gpt2",
        "gpt-2",
    ];
    const PROGRAMS: [&str; 5] = [
        "llama.cpp",
        "llamacpp",
        "ollama",
        "llama-factory",
        "sentence_bert_config",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let elsewhere = |path: &Path| {
        let rooms = [
            "model/families",
            "export",
            "data/template/twins.rs",
            "data/tokenizer/gguf",
            "files/gguf/tests.rs",
            "model/gguf",
            "quant/tests.rs",
            "train/crash_points.rs",
            "recipe/import",
        ];
        !rooms.iter().any(|room| path.starts_with(root.join(room)))
    };
    let mut places = Vec::new();
    for (path, _, text) in sources().into_iter().filter(|(path, ..)| elsewhere(path)) {
        for (index, line) in without_tests(&text).lines().enumerate() {
            // The address of a source may name its subject.
            let line = line.split("https://").next().unwrap_or_default();
            let line = PROGRAMS.iter().fold(line.to_lowercase(), |line, program| {
                line.replace(program, "")
            });
            let named = FAMILIES.iter().find(|family| line.contains(**family));
            places
                .extend(named.map(|family| format!("{}:{}: {family}", path.display(), index + 1)));
        }
    }
    assert!(places.is_empty(), "{}", places.join("\n"));
}
