//! README.md and the pages in docs/ against the code: links, verbs and options, recipe keys, exit
//! codes, environment variables, fields of `--json`, and every command that can run here.
//!
//! `RANKINE_WRITE_PAGES=1 cargo test --release --test pages` writes the help texts anew.

#![cfg(unix)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use regex::Regex;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// Most lines of the README.
const README_LINES: usize = 200;
/// Most words of the README's median paragraph.
const README_MEDIAN: usize = 15;
/// Most words of a paragraph or a cell of a table on any page.
const PARAGRAPH: usize = 80;
const CELL: usize = 40;

/// What a command may need that a test does not have. A page says it in the line above the command:
/// `*Needs: a network.*`
const NEEDS: [&str; 10] = [
    "a network",
    "a GPU",
    "a browser",
    "Rust",
    "a C++ compiler",
    "nightly Rust",
    "Python",
    "llama.cpp",
    "Ollama",
    "a base of your own",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

struct Page {
    /// Its path from the package's folder.
    name: String,
    text: String,
}

impl Page {
    fn read(path: &Path) -> Self {
        Self {
            name: path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            text: fs::read_to_string(path).unwrap(),
        }
    }

    fn folder(&self) -> PathBuf {
        root().join(&self.name).parent().unwrap().to_owned()
    }

    /// Lines outside of code blocks.
    fn prose(&self) -> Vec<&str> {
        let mut is_code = false;
        let mut lines = Vec::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                lines.push(line);
            }
        }
        lines
    }

    /// The lines below a heading, up to the next one of its level or above.
    fn section(&self, heading: &str) -> Option<String> {
        let level = |line: &str| line.chars().take_while(|c| *c == '#').count();
        let mut lines = self.text.lines().skip_while(|line| *line != heading);
        let first = level(lines.next()?);
        let is_inside = |line: &&str| !(1..=first).contains(&level(line));
        Some(lines.take_while(is_inside).collect::<Vec<_>>().join("\n"))
    }

    /// Anchors of its headings, as GitHub and mdBook make them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen = BTreeMap::<String, usize>::new();
        let headings = self
            .prose()
            .into_iter()
            .filter(|line| line.trim_start_matches('#').starts_with(' ') && line.starts_with('#'));
        headings
            .map(|line| {
                let kept = line.trim_start_matches('#').trim().to_lowercase();
                let kept = kept.chars().filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || "-_".contains(c) => Some(c),
                    _ => None,
                });
                let slug: String = kept.collect();
                let count = seen.entry(slug.clone()).or_default();
                *count += 1;
                match *count {
                    1 => slug,
                    count => format!("{slug}-{}", count - 1),
                }
            })
            .collect()
    }
}

/// README.md, CONTRIBUTING.md and every page of docs/.
fn pages() -> Vec<Page> {
    let loose = ["README.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    loose
        .into_iter()
        .chain(files_below(&root().join("docs"), ".md"))
        .map(|path| Page::read(&path))
        .collect()
}

fn page(name: &str) -> Page {
    Page::read(&root().join(name))
}

/// Cells of the rows of all tables in a text, heads and rules left out.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--") || line.starts_with("|:-");
    let is_head = |index: usize| lines.get(index + 1).is_some_and(|next| is_rule(next));
    (0..lines.len())
        .filter(|index| lines[*index].starts_with('|'))
        .filter(|index| !is_rule(lines[*index]) && !is_head(*index))
        .map(|index| {
            let line = lines[index].replace("\\|", "\u{1}");
            let cells = line.trim().trim_matches('|').split('|');
            cells
                .map(|cell| cell.trim().replace('\u{1}', "|"))
                .collect()
        })
        .collect()
}

/// Words in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn links(page: &Page) -> Vec<String> {
    let code = Regex::new("`[^`]*`").unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let text = page.prose().join("\n");
    let plain = code.replace_all(&text, "``").into_owned();
    link.captures_iter(&plain)
        .map(|found| found[1].to_owned())
        .collect()
}

#[test]
fn every_link_and_anchor_is_there() {
    let mut faults = Vec::new();
    for page in pages() {
        for target in links(&page) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() {
                root().join(&page.name)
            } else {
                page.folder().join(path)
            };
            let Ok(file) = file.canonicalize() else {
                faults.push(format!("{}: {target}: no such file", page.name));
                continue;
            };
            if anchor.is_empty() {
                continue;
            }
            let there = Page {
                name: String::new(),
                text: fs::read_to_string(&file).unwrap_or_default(),
            };
            if !there.anchors().contains(anchor) {
                faults.push(format!("{}: {target}: no such heading", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_page_is_in_the_summary_and_leads_on() {
    let summary = page("docs/SUMMARY.md");
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    let mut there = BTreeSet::new();
    for page in pages() {
        let Some(name) = page.name.strip_prefix("docs/") else {
            continue;
        };
        if name == "SUMMARY.md" {
            continue;
        }
        there.insert(name.to_owned());
        assert!(
            !links(&page).is_empty(),
            "{name} links to no other page: what is read next?"
        );
        let first = page.text.lines().next().unwrap_or_default();
        assert!(first.starts_with("# "), "{name} begins with `{first}`");
    }
    assert_eq!(listed, there, "docs/SUMMARY.md and the pages in docs/");
    let book = fs::read_to_string(root().join("book.toml")).unwrap();
    assert!(book.contains("src = \"docs\""), "{book}");
}

/// Paragraphs of a page, as numbers of words: prose, items of lists, no tables and no code.
fn paragraphs(page: &Page) -> Vec<(usize, String)> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let prose = page.prose();
    for line in prose.into_iter().chain([""]) {
        let number = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let is_item = line.starts_with("- ") || number.starts_with(". ");
        let is_other = line.is_empty() || line.starts_with(['|', '#', '<']);
        if (is_item || is_other) && !current.is_empty() {
            found.push((current.split_whitespace().count(), current.clone()));
            current.clear();
        }
        if !is_other {
            current.push_str(line);
            current.push(' ');
        }
    }
    found
}

#[test]
fn the_readme_is_short_and_paragraphs_are_too() {
    let readme = page("README.md");
    let lines = readme.text.lines().count();
    let mut words: Vec<usize> = paragraphs(&readme)
        .into_iter()
        .map(|(words, _)| words)
        .collect();
    words.sort_unstable();
    let median = words[words.len() / 2];
    println!(
        "README.md: {lines} lines, {} bytes, median paragraph {median} words",
        readme.text.len()
    );
    assert!(lines <= README_LINES, "README.md has {lines} lines");
    assert!(median <= README_MEDIAN, "README.md: median {median} words");
    let mut faults = Vec::new();
    for page in pages() {
        for (words, text) in paragraphs(&page) {
            if words > PARAGRAPH {
                faults.push(format!("{}: {words} words: {text}", page.name));
            }
        }
        for cell in rows(&page.prose().join("\n")).into_iter().flatten() {
            let words = cell.split_whitespace().count();
            if words > CELL || cell.ends_with('.') && !cell.ends_with("..") {
                faults.push(format!("{}: cell of {words} words: {cell}", page.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn rankine(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rankine"))
        .args(arguments)
        .env_remove("CLICOLOR_FORCE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Names of verbs in a help text: words at the beginning of lines that are indented by two.
fn verbs(help: &str) -> Vec<String> {
    let verb = Regex::new(r"(?m)^  ([a-z]+) {2,}\S").unwrap();
    verb.captures_iter(help)
        .map(|found| found[1].to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// The block of a page that holds a help text, replaced where `RANKINE_WRITE_PAGES` asks for it.
fn hold_help(name: &str, heading: &str, help: &str) -> Result<(), String> {
    let path = root().join(name);
    let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    let block = format!("{heading}\n\n```text\n{}\n```\n", lines.join("\n"));
    if text.contains(&block) {
        return Ok(());
    }
    if std::env::var_os("RANKINE_WRITE_PAGES").is_none() {
        return Err(format!(
            "{name}: `{heading}` is not what the program says; RANKINE_WRITE_PAGES=1 writes it"
        ));
    }
    let (before, rest) = text
        .split_once(&format!("{heading}\n"))
        .ok_or_else(|| format!("{name} has no heading `{heading}`"))?;
    let after = match rest.find("\n```\n") {
        Some(end) if rest.trim_start().starts_with("```text") => &rest[end + 5..],
        _ => rest,
    };
    fs::write(&path, format!("{before}{block}{after}")).unwrap();
    Ok(())
}

#[test]
fn every_verb_has_a_page_with_its_help() {
    let top = rankine(&["--help"]);
    let mut faults = Vec::new();
    faults.extend(hold_help("docs/cli/README.md", "## Help", &top).err());
    let names = verbs(&top);
    assert!(names.len() > 20, "{names:?}");
    for verb in &names {
        let help = rankine(&[verb, "--help"]);
        let name = format!("docs/cli/{verb}.md");
        faults.extend(hold_help(&name, "## Help", &help).err());
        let inner = help.split("Commands:").nth(1).unwrap_or_default();
        for inner in verbs(inner.split("Options:").next().unwrap_or_default()) {
            let help = rankine(&[verb, &inner, "--help"]);
            let heading = format!("## Help of {inner}");
            faults.extend(hold_help(&name, &heading, &help).err());
        }
    }
    let expected: BTreeSet<String> = names
        .iter()
        .map(|verb| format!("docs/cli/{verb}.md"))
        .chain(["docs/cli/README.md".to_owned()])
        .collect();
    let there: BTreeSet<String> = files_below(&root().join("docs/cli"), ".md")
        .iter()
        .map(|path| Page::read(path).name)
        .collect();
    assert_eq!(there, expected, "pages of verbs");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Keys of a recipe by their paths, with their defaults where the schema has one.
fn recipe_keys() -> BTreeMap<String, Option<Value>> {
    fn walk(schema: &Value, path: &str, found: &mut BTreeMap<String, Option<Value>>) {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            found.insert(path.clone(), inner.get("default").cloned());
            walk(inner, &path, found);
            if path == "datasets" {
                walk(&inner["items"], &path, found);
            }
        }
    }
    let text = fs::read_to_string(root().join("schema/recipe.json")).unwrap();
    let mut found = BTreeMap::new();
    walk(&serde_json::from_str(&text).unwrap(), "", &mut found);
    found
}

#[test]
fn every_key_of_a_recipe_is_on_its_page_with_its_default() {
    let page = page("docs/recipe.md");
    let mut told = BTreeMap::new();
    let mut faults = Vec::new();
    let headings = page.text.lines().filter(|line| line.starts_with("## "));
    for heading in headings {
        let section = match quoted(heading).first() {
            Some(name) => format!("{name}."),
            None if heading == "## Top level" => String::new(),
            None => continue,
        };
        for row in rows(&page.section(heading).unwrap()) {
            let keys = quoted(&row[0]);
            for key in &keys {
                let default = (keys.len() == 1).then(|| row[1].clone());
                if told.insert(format!("{section}{key}"), default).is_some() {
                    faults.push(format!("`{section}{key}` is there twice"));
                }
            }
        }
    }
    let keys = recipe_keys();
    for (key, default) in &keys {
        let Some(cell) = told.get(key) else {
            let is_section = keys
                .keys()
                .any(|other| other.starts_with(&format!("{key}.")));
            let has_heading = page.text.contains(&format!("\n## `{key}`\n"));
            if !is_section || !has_heading {
                faults.push(format!("`{key}` is not on the page"));
            }
            continue;
        };
        if let (Some(default), Some(cell)) = (default, cell) {
            let first = cell.split([';', ',']).next().unwrap_or_default();
            let first = first.trim().trim_matches('`');
            let is_equal = match default {
                Value::String(text) => text == first,
                Value::Number(number) => first.parse::<f64>().ok() == number.as_f64(),
                other => first.parse::<Value>().is_ok_and(|said| said == *other),
            };
            if !is_equal {
                faults.push(format!(
                    "`{key}`: default {default}, the page says `{cell}`"
                ));
            }
        }
    }
    for key in told.keys().filter(|key| !keys.contains_key(*key)) {
        faults.push(format!("`{key}` is no key of a recipe"));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn exit_codes_are_those_of_the_code() {
    let source = fs::read_to_string(root().join("src/fault.rs")).unwrap();
    let body = source.split("pub enum Exit {").nth(1).unwrap();
    let code = Regex::new(r"= ([0-9]+),").unwrap();
    let body = body.split('}').next().unwrap();
    let mut expected: BTreeSet<String> = code
        .captures_iter(body)
        .map(|found| found[1].to_owned())
        .collect();
    expected.insert("0".to_owned());
    let told: BTreeSet<String> = rows(&page("docs/exit-codes.md").text)
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(told, expected);
}

/// The sources of the program without its unit tests, one text.
fn sources() -> String {
    files_below(&root().join("src"), ".rs")
        .into_iter()
        .filter(|path| !path.to_string_lossy().ends_with("tests.rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .map(|text| {
            text.split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn environment_variables_are_those_that_are_read() {
    /// Variables that libraries read.
    const OF_LIBRARIES: [&str; 6] = [
        "ALL_PROXY",
        "CLICOLOR_FORCE",
        "HTTPS_PROXY",
        "NO_COLOR",
        "NO_PROXY",
        "SSL_CERT_FILE",
    ];
    let name = Regex::new(
        "\"((?:RANKINE|HF|HUGGING|OLLAMA|TRANSFORMERS|XDG|SOURCE|LOCALAPPDATA|CUDA_PATH|CUDA_HOME|CUDA_VISIBLE|NVIDIA)[A-Z_]*)\"",
    )
    .unwrap();
    let read: BTreeSet<String> = name
        .captures_iter(&sources())
        .map(|found| found[1].to_owned())
        .collect();
    let mut told = BTreeSet::new();
    for row in rows(&page("docs/environment.md").text) {
        told.extend(quoted(&row[0]));
    }
    for name in OF_LIBRARIES {
        assert!(told.remove(name), "docs/environment.md has no `{name}`");
    }
    assert_eq!(told, read);
}

/// Headings of messages begin in small letters or with a backtick, and `..` stands for what varies.
#[test]
fn messages_of_the_page_on_troubleshooting_are_said_by_the_program() {
    let joined = Regex::new(r"\\\n\s*").unwrap();
    let sources = sources();
    let sources = joined.replace_all(&sources, "");
    let page = page("docs/troubleshooting.md");
    let headings = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let messages: Vec<&str> = headings
        .filter(|heading| !heading.starts_with(char::is_uppercase))
        .collect();
    assert!(messages.len() > 20, "{messages:?}");
    for message in messages {
        for part in message.split("..") {
            let part = part.trim();
            assert!(sources.contains(part), "`{part}` of `{message}`");
        }
    }
}

/// A folder as a checkout is, but with a smaller base and fewer rows, for the commands of a page.
struct Workshop {
    folder: tempfile::TempDir,
}

/// Runs the program with fewer steps where it trains, and keeps what `--json` prints.
const PROGRAM: &str = r#"#!/usr/bin/env bash
set -o pipefail
short=()
case "$1" in train | warmup) short=(training.max_steps=2 training.micro_batch_size=2 evaluation.val_set_size=2 evaluation.prompts=) ;; esac
case " $* " in
    *" --json "*) "$PAGES_BINARY" "$@" "${short[@]}" | tee -a "$PAGES_JSON" ;;
    *) exec "$PAGES_BINARY" "$@" "${short[@]}" ;;
esac
"#;
/// Rows that are kept of each dataset.
const ROWS: usize = 40;
/// Width and inner width of the smaller base.
const WIDTH: usize = 64;

/// Writes the shipped base with one narrow layer of drawn weights.
fn write_base(to: &Path) {
    fs::create_dir_all(to).unwrap();
    let shipped = root().join("checkpoints/rankine-tiny");
    for file in fs::read_dir(&shipped).unwrap().map(Result::unwrap) {
        if file.file_name() != "model.safetensors" {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    let config = fs::read_to_string(shipped.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("hidden_size", WIDTH),
        ("intermediate_size", WIDTH),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("num_hidden_layers", 1),
    ] {
        config[key] = value.into();
    }
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let vocabulary = config["vocab_size"].as_u64().unwrap() as usize;
    let layer = "model.layers.0";
    let shapes = [
        ("model.embed_tokens".to_owned(), vec![vocabulary, WIDTH]),
        ("model.norm".to_owned(), vec![WIDTH]),
        (format!("{layer}.input_layernorm"), vec![WIDTH]),
        (format!("{layer}.post_attention_layernorm"), vec![WIDTH]),
        (format!("{layer}.self_attn.q_proj"), vec![WIDTH, WIDTH]),
        (format!("{layer}.self_attn.k_proj"), vec![32, WIDTH]),
        (format!("{layer}.self_attn.v_proj"), vec![32, WIDTH]),
        (format!("{layer}.self_attn.o_proj"), vec![WIDTH, WIDTH]),
        (format!("{layer}.mlp.gate_proj"), vec![WIDTH, WIDTH]),
        (format!("{layer}.mlp.up_proj"), vec![WIDTH, WIDTH]),
        (format!("{layer}.mlp.down_proj"), vec![WIDTH, WIDTH]),
    ];
    let mut state = 1_u64;
    let mut draw = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let bytes = (0..shape.iter().product())
                .flat_map(|_| half::bf16::from_f32(0.3 * draw()).to_le_bytes())
                .collect();
            (format!("{name}.weight"), shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, &to.join("model.safetensors")).unwrap();
}

/// Writes the first rows of the shipped datasets.
fn write_datasets(to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(root().join("datasets")).unwrap() {
        let (path, name) = (file.as_ref().unwrap().path(), file.unwrap().file_name());
        if path.extension().is_none_or(|end| end != "parquet") {
            fs::copy(&path, to.join(name)).unwrap();
            continue;
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap())
            .unwrap()
            .with_limit(ROWS)
            .with_batch_size(ROWS)
            .build()
            .unwrap();
        let batch = reader.into_iter().next().unwrap().unwrap();
        let file = File::create(to.join(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("bin")).unwrap();
        for name in ["recipes", "benches"] {
            support::copy_folder(&root().join(name), &at(name));
        }
        write_base(&at("checkpoints/rankine-tiny"));
        write_datasets(&at("datasets"));
        fs::write(at("bin/rankine"), PROGRAM).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(at("bin/rankine"), mode).unwrap();
        Self { folder }
    }

    /// Another one with the same files.
    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        support::copy_folder(self.folder.path(), folder.path());
        Self { folder }
    }

    fn bash(&self, script: &str, cache: &Path) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.folder.path().join("bin");
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("PAGES_BINARY", env!("CARGO_BIN_EXE_rankine"))
            .env("PAGES_JSON", self.folder.path().join("json"))
            .env("RANKINE_CACHE", cache)
            .env("HF_HOME", cache.join("hub"))
            .env("HF_HUB_OFFLINE", "1")
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// Objects that `--json` has printed.
    fn objects(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("json")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Whole recipes of a page: blocks of `yaml` that begin with a base.
fn recipes(page: &Page) -> Vec<&str> {
    let blocks = page.text.split("```yaml\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .filter(|block| block.starts_with("base_model:"))
        .collect()
}

/// Blocks of commands of a page: those that can run here, and the needs of the others.
fn commands(page: &Page) -> (Vec<String>, Vec<String>) {
    let (mut run, mut needs) = (Vec::new(), Vec::new());
    let mut last = "";
    let mut block: Option<(String, String)> = None;
    for line in page.text.lines() {
        match &mut block {
            Some((code, need)) if line == "```" => {
                if need.is_empty() {
                    run.push(std::mem::take(code));
                } else {
                    needs.push(std::mem::take(need));
                }
                block = None;
            }
            Some((code, _)) => {
                code.push_str(line);
                code.push('\n');
            }
            None if line == "```sh" => {
                let need = last
                    .strip_prefix("*Needs: ")
                    .and_then(|rest| rest.strip_suffix(".*"));
                block = Some((String::new(), need.unwrap_or_default().to_owned()));
            }
            None => {}
        }
        if !line.is_empty() {
            last = line;
        }
    }
    (run, needs)
}

#[test]
fn what_a_command_needs_is_said_in_known_words() {
    for page in pages() {
        assert!(
            !page
                .text
                .lines()
                .any(|line| line.starts_with("    rankine ")),
            "{}: commands stand in blocks of `sh`",
            page.name
        );
        for need in commands(&page).1 {
            for part in need.split(", ") {
                assert!(NEEDS.contains(&part), "{}: `{part}`", page.name);
            }
        }
    }
}

/// Paths of the keys of a value, without what lies below a documented `NAME.*`.
fn paths(value: &Value, at: &str, free: &BTreeSet<String>, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                found.insert(path.clone());
                if !free.contains(&path) {
                    paths(value, &path, free, found);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                paths(item, &format!("{at}[]"), free, found);
            }
        }
        _ => {}
    }
}

/// Holds the fields of what a page's commands have printed to the page's tables below `## JSON`.
fn hold_fields(page: &Page, objects: &[Value], sources: &str) -> Vec<String> {
    let Some(section) = page.section("## JSON") else {
        let is_json = !objects.is_empty();
        return Vec::from_iter(is_json.then(|| format!("{}: no section `## JSON`", page.name)));
    };
    let told: BTreeSet<String> = rows(&section)
        .iter()
        .flat_map(|row| quoted(&row[0]))
        .collect();
    let free: BTreeSet<String> = told
        .iter()
        .filter_map(|name| name.strip_suffix(".*"))
        .map(str::to_owned)
        .collect();
    let mut printed = BTreeSet::new();
    for object in objects {
        paths(object, "", &free, &mut printed);
    }
    let is_told = |path: &String| told.contains(path) || free.contains(path);
    let silent = printed
        .iter()
        .filter(|path| !is_told(path))
        .map(|path| format!("{}: `{path}` is printed and not documented", page.name));
    let in_source = |name: &str| {
        let leaf = name.trim_end_matches(".*").rsplit('.').next().unwrap();
        let leaf = leaf.trim_end_matches("[]");
        sources.contains(&format!("\"{leaf}\"")) || sources.contains(&format!("pub {leaf}: "))
    };
    let unknown = told
        .iter()
        .filter(|name| !printed.contains(name.trim_end_matches(".*")) && !in_source(name))
        .map(|name| format!("{}: no field `{name}` in the sources", page.name));
    silent.chain(unknown).collect()
}

#[test]
fn every_command_runs_or_says_what_it_needs_and_json_has_the_documented_fields() {
    let cache = tempfile::tempdir().unwrap();
    let bare = Workshop::new();
    let trained = bare.copy();
    let made = trained.bash("rankine train recipes/quickstart.yaml", cache.path());
    assert!(made.status.success(), "{made:?}");
    let sources = sources();
    let mut faults = Vec::new();
    let mut ran = 0;
    for page in pages() {
        let (mut blocks, _) = commands(&page);
        for recipe in recipes(&page) {
            blocks.push(format!(
                "cat > of-page.yaml <<'EOT'\n{recipe}EOT\nrankine check of-page.yaml\n"
            ));
        }
        if blocks.is_empty() {
            continue;
        }
        let trains = blocks.iter().any(|block| {
            block
                .lines()
                .any(|line| line == "rankine train recipes/quickstart.yaml")
        });
        let workshop = if trains { bare.copy() } else { trained.copy() };
        for block in blocks {
            let started = std::time::Instant::now();
            let output = workshop.bash(&block, cache.path());
            ran += 1;
            println!(
                "{} ({:.1} s)\n{block}{}{}",
                page.name,
                started.elapsed().as_secs_f64(),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            if !output.status.success() {
                faults.push(format!(
                    "{}: {:?} of\n{block}{}",
                    page.name,
                    output.status.code(),
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
        faults.extend(hold_fields(&page, &workshop.objects(), &sources));
    }
    println!("{ran} blocks of commands ran");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
