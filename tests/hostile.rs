//! Folders, data and recipes that are made to do harm: whatever they ask for, the command ends soon
//! with words and the exit code of a fault of its input, in less than a GiB of memory, and writes
//! nothing outside of the run's and the cache's folders.

#![cfg(unix)]
#![allow(clippy::type_complexity, reason = "tables of cases")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use nix::sys::stat::Mode;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use serde_json::{Value, json};
use support::*;

const WEIGHTS: &str = "base/model.safetensors";
const TOKENIZER: &str = "base/tokenizer.json";
const TOKENIZER_CONFIG: &str = "base/tokenizer_config.json";
const MOST_MEMORY_KIB: u64 = 1 << 20;
const MOST_TIME: Duration = Duration::from_mins(3);
const MOST_WORDS: usize = 256 << 10;

/// What is hostile, how, and parts of what is said.
type Case<'a> = (&'a str, &'a dyn Fn(&Desk), &'a [&'a str]);

/// Every file outside of the folders of run and cache, with its size and date.
fn outside(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() && name != "run" && name != "cache" {
            found.extend(
                outside(&path)
                    .into_iter()
                    .map(|(inner, about)| (format!("{name}/{inner}"), about)),
            );
        } else if !about.is_dir() {
            found.insert(
                name,
                format!("{} bytes of {:?}", about.len(), about.modified().unwrap()),
            );
        }
    }
    found
}

/// Runs a command and watches the memory that it has had at most, in KiB. What the system says
/// afterwards would count this process too, whose image the command has until it starts.
fn watched(mut command: Command) -> (Output, u64) {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let waiting = thread::spawn(|| child.wait_with_output().unwrap());
    let mut most = 0;
    while !waiting.is_finished() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = line
            .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(most)
            .max(most);
        thread::sleep(Duration::from_millis(2));
    }
    (waiting.join().unwrap(), most)
}

/// Runs a command on a hostile desk and holds what holds for all of them.
#[track_caller]
fn run(desk: &Desk, what: &str, arguments: &[&str]) -> Ran {
    let home = desk.path("home");
    fs::create_dir_all(&home).unwrap();
    let (before, started) = (outside(&desk.path("")), Instant::now());
    let mut command = desk.command(arguments);
    command
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("XDG_CACHE_HOME", &home);
    let (output, memory_kib) = watched(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran = Ran {
        exit: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    println!(
        "{what}: {:.1} s, {} MiB",
        started.elapsed().as_secs_f64(),
        memory_kib >> 10
    );
    assert_eq!(
        outside(&desk.path("")),
        before,
        "{what}: something is written outside"
    );
    assert!(memory_kib < MOST_MEMORY_KIB, "{what}: {memory_kib} KiB");
    assert!(
        started.elapsed() < MOST_TIME,
        "{what}: {:?}",
        started.elapsed()
    );
    assert!(
        !ran.stderr.contains('\u{1b}') && ran.stderr.len() < MOST_WORDS,
        "{what}: {} bytes",
        ran.stderr.len()
    );
    ran
}

/// Each on a desk of its own; whatever is refused leaves no adapter.
fn refused(cases: &[Case]) {
    for (what, make, parts) in cases {
        let desk = Desk::new();
        make(&desk);
        run(&desk, what, &["train", "recipe.yaml"]).says(what, 65, parts);
        assert!(!desk.path("run/adapter").exists(), "{what}");
    }
}

#[test]
fn names_that_climb_out_of_the_folder_are_refused() {
    const SAID: &[&str] = &[
        "`weight_map` names",
        "expected a safetensors file of this folder",
    ];
    let index = |name: Value| {
        move |desk: &Desk| {
            fs::copy(desk.path(WEIGHTS), desk.path("outside.safetensors")).unwrap();
            fs::rename(desk.path(WEIGHTS), desk.path("base/a.safetensors")).unwrap();
            desk.write(
                "base/model.safetensors.index.json",
                json!({"weight_map": {"x": name}}).to_string(),
            );
        }
    };
    refused(&[
        (
            "the folder above",
            &index(json!("../outside.safetensors")),
            SAID,
        ),
        (
            "through another folder",
            &index(json!("x/../../outside.safetensors")),
            SAID,
        ),
        (
            "an absolute path",
            &index(json!("/etc/x.safetensors")),
            SAID,
        ),
        ("a drive", &index(json!("C:x.safetensors")), SAID),
        ("a drive's root", &index(json!("C:\\x.safetensors")), SAID),
        (
            "backslashes",
            &index(json!("..\\outside.safetensors")),
            SAID,
        ),
        ("a share", &index(json!("\\\\host\\x.safetensors")), SAID),
        (
            "a stream",
            &index(json!("a.safetensors:x.safetensors")),
            SAID,
        ),
        ("NUL", &index(json!("a\0.safetensors")), SAID),
        ("nothing", &index(json!("")), SAID),
        ("no name", &index(json!(["a.safetensors"])), SAID),
        (
            "a pickle by name",
            &index(json!("pytorch_model-00001.bin")),
            SAID,
        ),
        (
            "a terminal's command",
            &index(json!("\u{1b}[2J\u{202e}.safetensors")),
            &["1 of 1 shards are missing: `\\u{1b}[2J"],
        ),
        (
            "a name of a megabyte",
            &index(json!("x".repeat(1 << 20))),
            &["`weight_map` names `xxx"],
        ),
        (
            "tensors that lead nowhere",
            &|desk| {
                desk.remove(WEIGHTS);
                let map: serde_json::Map<_, _> = (0..200_000)
                    .map(|n| (n.to_string(), format!("{n}.safetensors").into()))
                    .collect();
                desk.write(
                    "base/model.safetensors.index.json",
                    json!({"weight_map": map}).to_string(),
                );
            },
            &["200000 of 200000 shards are missing: ", "and 199970 more"],
        ),
        (
            "an index without end",
            &|desk| {
                desk.remove(WEIGHTS);
                desk.write("base/model.safetensors.index.json", "[".repeat(1 << 20));
            },
            &["not valid JSON: recursion limit exceeded"],
        ),
    ]);
}

#[test]
fn links_of_a_hub_cache_are_followed() {
    let desk = Desk::new();
    fs::create_dir(desk.path("blobs")).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        fs::rename(desk.path("base").join(name), desk.path("blobs").join(name)).unwrap();
        symlink(format!("../blobs/{name}"), desk.path("base").join(name)).unwrap();
    }
    run(&desk, "links", &["train", "recipe.yaml"]).says("links", 0, &[]);
}

#[test]
fn what_is_not_a_file_is_never_read() {
    let pipe = |name: &'static str| {
        move |desk: &Desk| {
            desk.remove(name);
            nix::unistd::mkfifo(&desk.path(name), Mode::S_IRWXU).unwrap();
        }
    };
    let zeros = |name: &'static str| {
        move |desk: &Desk| {
            desk.remove(name);
            symlink("/dev/zero", desk.path(name)).unwrap();
        }
    };
    refused(&[
        (
            "a pipe for a config",
            &pipe("base/config.json"),
            &["cannot open `base/config.json`: it is not a file"],
        ),
        (
            "a pipe for weights",
            &pipe(WEIGHTS),
            &["cannot open `base/model.safetensors`: it is not a file"],
        ),
        (
            "a pipe for a tokenizer",
            &pipe(TOKENIZER),
            &["cannot open `base/tokenizer.json`: it is not a file"],
        ),
        (
            "a pipe for rows",
            &pipe("rows.parquet"),
            &["no data file at `rows.parquet`"],
        ),
        (
            "zeros for a config",
            &zeros("base/config.json"),
            &["it is not a file"],
        ),
        ("zeros for weights", &zeros(WEIGHTS), &["it is not a file"]),
        (
            "zeros for a tokenizer's config",
            &zeros(TOKENIZER_CONFIG),
            &["it is not a file"],
        ),
        (
            "a link to itself",
            &|desk| {
                desk.remove(TOKENIZER);
                symlink("tokenizer.json", desk.path(TOKENIZER)).unwrap();
            },
            &["cannot read `base/tokenizer.json`"],
        ),
    ]);
}

/// A safetensors file of a header and some bytes of data; `length` is what it says that the header
/// has.
fn archive(header: &str, length: Option<u64>, data: usize) -> Vec<u8> {
    [
        &length.unwrap_or(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &vec![0; data],
    ]
    .concat()
}

#[test]
fn headers_that_lie_are_refused() {
    const SAID: &str = "`base/model.safetensors` is not a whole safetensors file";
    let header = |header: String, data: usize| {
        move |desk: &Desk| desk.write(WEIGHTS, archive(&header, None, data))
    };
    let length =
        |length: u64| move |desk: &Desk| desk.write(WEIGHTS, archive("{}", Some(length), 0));
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |shape: &str, from: u64, to: u64| format!(r#"{{"a":{}}}"#, tensor(shape, from, to));
    let two = |name: &str, from: u64| {
        format!(
            r#"{{"a":{},"{name}":{}}}"#,
            tensor("[2]", 0, 8),
            tensor("[2]", from, from + 8)
        )
    };
    let many = |count: usize, entry: &dyn Fn(usize) -> String| {
        (0..count).map(entry).collect::<Vec<_>>().join(",")
    };
    refused(&[
        (
            "a length of 2^63",
            &length(1 << 63),
            &[SAID, "its header claims 9223372036854775808 bytes"],
        ),
        ("the largest length", &length(u64::MAX), &[SAID]),
        ("longer than the file", &length(1000), &[SAID]),
        (
            "99 MB of header",
            &header(format!("{{{}}}", " ".repeat(99_000_000)), 0),
            &[SAID, "at most 8388608 are read"],
        ),
        ("tensors that overlap", &header(two("b", 4), 12), &[SAID]),
        ("the same name twice", &header(two("a", 8), 16), &[SAID]),
        (
            "beyond the file",
            &header(one("[2000000000]", 0, 8_000_000_000), 8),
            &[SAID],
        ),
        ("backwards", &header(one("[2]", 8, 0), 8), &[SAID]),
        (
            "a product that overflows",
            &header(one("[4294967296,4294967296]", 0, 0), 0),
            &[SAID],
        ),
        (
            "data of another length",
            &header(one("[2]", 0, 4), 4),
            &[SAID],
        ),
        (
            "nested",
            &header(format!("{{\"a\":{}", "[".repeat(4_000_000)), 0),
            &[SAID, "recursion limit"],
        ),
        (
            "a million dimensions",
            &header(one(&format!("[{}1]", "1,".repeat(4_000_000)), 0, 4), 4),
            &[
                "tensor `a` of shape [1, 1, 1, ",
                "are not those of the model",
            ],
        ),
        (
            "tensors without number",
            &header(
                format!(
                    "{{{}}}",
                    many(140_000, &|n| format!("\"{n}\":{}", tensor("[0]", 0, 0)))
                ),
                0,
            ),
            &[
                "tensor `0` of shape [0]",
                "more",
                "are not those of the model",
            ],
        ),
        (
            "notes without number",
            &header(
                format!(
                    "{{\"__metadata__\":{{{}}}}}",
                    many(700_000, &|n| format!("\"{n}\":\"\""))
                ),
                0,
            ),
            &["tensor `model.embed_tokens.weight` is missing"],
        ),
        (
            "many shards of many tensors",
            &|desk| {
                desk.remove(WEIGHTS);
                let name = |shard: usize| format!("{shard}.safetensors");
                let map: serde_json::Map<_, _> = (0..4)
                    .map(|shard| (shard.to_string(), name(shard).into()))
                    .collect();
                desk.write(
                    "base/model.safetensors.index.json",
                    json!({"weight_map": map}).to_string(),
                );
                for shard in 0..4 {
                    let entries = many(100_000, &|n| {
                        format!("\"{shard}.{n}\":{}", tensor("[0]", 0, 0))
                    });
                    desk.write(
                        &format!("base/{}", name(shard)),
                        archive(&format!("{{{entries}}}"), None, 0),
                    );
                }
            },
            &["with this file the base has 300000 tensors, expected at most 250000"],
        ),
        (
            "a name that commands a terminal",
            &header(
                format!("{{\"\\u001b]0;x\\u0007\":{}}}", tensor("[1]", 0, 4)),
                4,
            ),
            &["tensor `\\u{1b}]0;x\\u{7}` of shape [1] is not part of the model"],
        ),
    ]);
}

#[test]
fn pickles_are_never_opened() {
    const SAID: &[&str] = &[
        "`base/model.safetensors` is a pickle, not a safetensors file",
        "hint: convert the weights",
    ];
    let weights =
        |bytes: &'static [u8]| move |desk: &Desk| desk.write(WEIGHTS, [bytes, &[0; 64]].concat());
    let named = |name: &'static str| {
        move |desk: &Desk| fs::rename(desk.path(WEIGHTS), desk.path("base").join(name)).unwrap()
    };
    refused(&[
        (
            "torch's zip archive",
            &weights(b"PK\x03\x04\0\0\x08\x08\0\0"),
            SAID,
        ),
        (
            "protocol 2",
            &weights(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P"),
            SAID,
        ),
        (
            "protocol 4",
            &weights(b"\x80\x04\x95\x10\0\0\0\0\0\0\0"),
            SAID,
        ),
        (
            "protocol 5",
            &weights(b"\x80\x05\x95\x10\0\0\0\0\0\0\0"),
            SAID,
        ),
        (
            "pytorch_model.bin",
            &named("pytorch_model.bin"),
            &["only `pytorch_model.bin`", "pickle files can run code"],
        ),
        ("model.pt", &named("model.pt"), &["only `model.pt`"]),
        ("model.pth", &named("model.pth"), &["only `model.pth`"]),
        ("model.ckpt", &named("model.ckpt"), &["only `model.ckpt`"]),
    ]);
}

#[test]
fn an_adapter_to_go_on_from_is_not_trusted_either() {
    const CONFIG: &str = "old/adapter_config.json";
    const NUMBERS: &str = "old/adapter_model.safetensors";
    let cases: &[Case] = &[
        (
            "a pickle by its bytes",
            &|desk| desk.write(NUMBERS, b"PK\x03\x04 and so on"),
            &["is a pickle, not a safetensors file"],
        ),
        (
            "a pickle by name",
            &|desk| fs::rename(desk.path(NUMBERS), desk.path("old/adapter_model.bin")).unwrap(),
            &["only `adapter_model.bin`"],
        ),
        (
            "a path to code",
            &|desk| {
                desk.edit(
                    CONFIG,
                    "\"corda_config\": null",
                    "\"corda_config\": {\"cache_file\": \"/etc/passwd\"}",
                );
                desk.edit(
                    CONFIG,
                    "\"init_lora_weights\": true",
                    "\"init_lora_weights\": \"corda\"",
                );
            },
            &["`init_lora_weights` is `\"corda\"`"],
        ),
        (
            "a key that is a path",
            &|desk| {
                desk.edit(
                    CONFIG,
                    "\"corda_config\": null",
                    "\"weights_path\": \"../../x.bin\"",
                );
            },
            &["`weights_path` is `\"../../x.bin\"`"],
        ),
        (
            "nested",
            &|desk| desk.write(CONFIG, "{\"a\":".repeat(100_000)),
            &["not valid JSON: recursion limit"],
        ),
        (
            "larger than any",
            &|desk| desk.write(CONFIG, " ".repeat(17 << 20)),
            &["cannot read `old/adapter_config.json`: it is larger than 16 MiB"],
        ),
        (
            "a rank beyond all memory",
            &|desk| desk.edit(CONFIG, "\"r\": 4", "\"r\": 18446744073709551615"),
            &["adapter"],
        ),
        (
            "an expression beyond all memory",
            &|desk| {
                desk.edit(
                    CONFIG,
                    "\"rank_pattern\": {}",
                    "\"rank_pattern\": {\"((a{1000}){1000}){1000}\": 4}",
                );
            },
            &["is not a valid regular expression"],
        ),
    ];
    for (what, make, parts) in cases {
        let desk = Desk::new();
        desk.run(&["train", "recipe.yaml"])
            .says("an adapter", 0, &[]);
        fs::rename(desk.path("run/adapter"), desk.path("old")).unwrap();
        desk.edit("recipe.yaml", "r: 4", "init_from: old");
        make(&desk);
        run(&desk, what, &["train", "recipe.yaml", "--overwrite"]).says(what, 65, parts);
    }
}

/// Changes the tokenizer's JSON.
fn tokenizer(change: impl Fn(&mut Value)) -> impl Fn(&Desk) {
    move |desk| {
        let mut json = serde_json::from_slice(&desk.read(TOKENIZER)).unwrap();
        change(&mut json);
        desk.write(TOKENIZER, json.to_string());
    }
}

#[test]
fn a_tokenizer_cannot_ask_for_more_than_there_is() {
    const SAID: &str = "`base/tokenizer.json` is not a tokenizer: it asks for";
    let doubling = |key: &'static str, list: &'static str| {
        tokenizer(move |json| {
            let step = json!({"type": "Replace", "pattern": {"String": "e"}, "content": "ee"});
            json[key] = json!({"type": "Sequence", list: vec![step; 40]});
        })
    };
    let pieces = |count: usize| {
        tokenizer(move |json| {
            let own = vec![json!({"Sequence": {"id": "A", "type_id": 0}}); count];
            let pair = json!([
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ]);
            json["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": own,
                "pair": pair,
                "special_tokens": {},
            });
        })
    };
    let expression = |pattern: String| {
        tokenizer(move |json| {
            json["pre_tokenizer"] = json!({
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": false,
            });
        })
    };
    refused(&[
        (
            "65 MiB",
            &|desk| {
                File::create(desk.path(TOKENIZER))
                    .unwrap()
                    .set_len(65 << 20)
                    .unwrap();
            },
            &["cannot read `base/tokenizer.json`: it is larger than 64 MiB"],
        ),
        (
            "nested",
            &|desk| desk.write(TOKENIZER, format!("{{\"model\":{}", "[".repeat(1_000_000))),
            &["is not a tokenizer"],
        ),
        (
            "values without number",
            &|desk| {
                desk.write(
                    TOKENIZER,
                    format!("{{\"x\":[{}0]}}", "0,".repeat(4_000_000)),
                );
            },
            &[SAID, "values, expected at most 3500000"],
        ),
        (
            "long added tokens",
            &tokenizer(|json| {
                json["added_tokens"] = (0..9)
                    .map(|n| json!({"content": n.to_string().repeat(1 << 20)}))
                    .collect();
            }),
            &[SAID, "bytes of added tokens"],
        ),
        (
            "a text that doubles",
            &doubling("normalizer", "normalizers"),
            &[SAID, "times the length of a text"],
        ),
        (
            "words that double",
            &doubling("decoder", "decoders"),
            &[SAID, "times the length of a text"],
        ),
        (
            "a text many times over",
            &pieces(1000),
            &[SAID, "pieces around a text"],
        ),
        (
            "an expression of a megabyte",
            &expression("a|".repeat(1 << 19)),
            &[SAID, "bytes of patterns"],
        ),
        (
            "a nested expression",
            &expression("(".repeat(50_000) + &")".repeat(50_000)),
            &["is not a tokenizer: Oniguruma error"],
        ),
        (
            "an expression that backtracks",
            &expression("(.+)+\\1{3}zzz|.".into()),
            &["a text of 23 bytes cannot be tokenized"],
        ),
        (
            "a config beyond any",
            &|desk| desk.write(TOKENIZER_CONFIG, " ".repeat(17 << 20)),
            &["cannot read `base/tokenizer_config.json`: it is larger than 16 MiB"],
        ),
        (
            "a template that is no text",
            &|desk| desk.write(TOKENIZER_CONFIG, json!({"chat_template": 5}).to_string()),
            &["`chat_template` in `base/tokenizer_config.json` is"],
        ),
    ]);
    let desk = Desk::new();
    tokenizer(|json| {
        json["model"]["x"] = json!(vec![0; 3_400_000]);
        json["padding"] = json!({
            "strategy": {"Fixed": 1_000_000_000_000_u64},
            "direction": "Right",
            "pad_to_multiple_of": null,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        });
    })(&desk);
    let what = "as many values as are read, and padding without end, which is not used";
    run(&desk, what, &["train", "recipe.yaml"]).says(what, 0, &[]);
}

#[test]
fn a_config_runs_no_code_and_fills_no_memory() {
    let config = |from: &'static str, to: String| {
        move |desk: &Desk| desk.edit("base/config.json", from, &to)
    };
    refused(&[
        (
            "larger than any",
            &|desk| desk.write("base/config.json", " ".repeat(17 << 20)),
            &["it is larger than 16 MiB"],
        ),
        (
            "as large as may be",
            &|desk| desk.write("base/config.json", format!("[{}0]", "0,".repeat(8_000_000))),
            &["expected a JSON object"],
        ),
        (
            "a value of a megabyte",
            &config("\"llama\"", format!("\"{}\"", "x".repeat(1 << 20))),
            &["`model_type` is `xxx"],
        ),
        (
            "layers without number",
            &config(
                r#""num_hidden_layers": 2"#,
                r#""num_hidden_layers": 10000"#.into(),
            ),
            &["is missing", "more"],
        ),
        (
            "the widest model",
            &config(r#""hidden_size": 32"#, r#""hidden_size": 16777216"#.into()),
            &["has shape [304, 32], expected [304, 16777216]"],
        ),
    ]);
    let desk = Desk::new();
    let auto_map = r#""auto_map": {"AutoModelForCausalLM": "modeling_x.Model"}, "use_cache": true"#;
    desk.edit("base/config.json", "\"use_cache\": true", auto_map);
    desk.write("base/modeling_x.py", "open('owned', 'w')");
    run(&desk, "code of its own", &["train", "recipe.yaml"]).says("code of its own", 0, &[]);
}

/// A desk whose rows are conversations, with a template of its own.
fn chat_desk(desk: &Desk, template: &str) {
    desk.edit("recipe.yaml", "format: text", "format: chat");
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nchat_template: t.jinja",
    );
    let turns = concat!(
        r#"[{"role": "user", "content": "what is fever"}, "#,
        r#"{"role": "assistant", "content": "a high temperature"}]"#
    );
    desk.write_rows("rows.parquet", vec![("messages", texts(vec![turns; 20]))]);
    desk.write("t.jinja", template);
}

#[test]
fn a_template_is_tried_where_it_can_do_no_harm() {
    let doubling = "{% set s = namespace(s='x') %}{% for i in range(60) %}\
        {% set s.s = s.s ~ s.s %}{% endfor %}";
    let folded = format!(
        "{{{{ '' if true else {} }}}}",
        vec!["'x' * 100000000"; 50].join(" ~ ")
    );
    let terms = format!("{{{{ {} }}}}", vec!["a"; 200_000].join("~"));
    let at_a_row = format!("{{% if 'fever' in messages[0].content %}}{doubling}{{% endif %}}");
    let memory: &[&str] =
        &["recipe.yaml:11:16: the chat template takes more than 512 MiB of memory"];
    let stack: &[&str] = &["recipe.yaml:11:16: the chat template takes more than 1 MiB of stack"];
    let big = "{% set s = 'x' * 100000000 %}";
    let many = "{% set a = ['x' * 8] * 100000000 %}";
    let cases: &[(&str, &str, &[&str])] = &[
        ("a string that doubles", doubling, memory),
        ("a sum that doubles", &doubling.replace('~', "+"), memory),
        (
            "a list that doubles",
            &doubling
                .replace("'x'", "[1]")
                .replace("s.s ~ s.s", "(s.s + s.s) | list"),
            memory,
        ),
        (
            "a string that doubles with each turn",
            &doubling.replace("i in range(60)", "m in messages"),
            memory,
        ),
        ("a constant that is folded", &folded, memory),
        (
            "replace",
            "{% set s = 'x' * 1000000 %}{% set t = s.replace('x', s) %}",
            memory,
        ),
        (
            "join",
            &format!("{big}{{% set t = [s, s, s, s, s, s, s, s] | join(s) %}}"),
            memory,
        ),
        (
            "Python's join",
            &format!("{big}{{% set t = s.join([s, s, s, s, s, s]) %}}"),
            memory,
        ),
        ("format", "{{ '%999999999d' | format(1) | length }}", memory),
        (
            "Python's format",
            "{{ '{:>9223372036854775807}'.format(1) | length }}",
            memory,
        ),
        (
            "a precision",
            "{{ '{:.4000000000f}'.format(1.5) | length }}",
            memory,
        ),
        (
            "a tuple",
            "{% set a = (1,) * 100000000 %}{{ a | length }}",
            memory,
        ),
        (
            "list",
            &format!("{many}{{{{ a | list | length }}}}"),
            memory,
        ),
        (
            "sort",
            &format!("{many}{{{{ a | sort | length }}}}"),
            memory,
        ),
        (
            "tojson",
            &format!("{many}{{{{ a | tojson | length }}}}"),
            memory,
        ),
        (
            "batch",
            "{{ [1] | batch(1000000000, 0) | list | length }}",
            memory,
        ),
        (
            "slice",
            "{{ [1] | slice(1000000000, 0) | list | length }}",
            memory,
        ),
        (
            "split",
            "{% set a = 'a ' * 50000000 %}{{ a.split() | length }}",
            memory,
        ),
        (
            "a block",
            &format!(
                "{{% set s %}}{}{{% endset %}}",
                "{{ 'x' * 100000000 }}".repeat(9)
            ),
            memory,
        ),
        (
            "a value without bottom",
            "{% set s = namespace(s=[]) %}{% for i in range(9999) %}{% for j in range(50) %}\
            {% set s.s = [s.s] %}{% endfor %}{% endfor %}",
            stack,
        ),
        ("terms without end", &terms, stack),
        (
            "steps that take long",
            &format!("{big}{{% for i in range(9999) %}}{{% set t = s ~ i %}}{{% endfor %}}"),
            &["the chat template takes more than 10 s"],
        ),
        (
            "only at a row",
            &at_a_row,
            &[
                "`rows.parquet`, row group 0, row 0, column `messages`: the chat template takes \
                more than 512 MiB of memory",
            ],
        ),
        (
            "what is said in raising",
            "{{ raise_exception('x' * 90000000) }}",
            &["refuses the conversation: x"],
        ),
        (
            "two megabytes",
            &" ".repeat(2 << 20),
            &["cannot read `t.jinja`: it is larger than 1 MiB"],
        ),
        (
            "calls itself",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            &["the chat template fails at line 1"],
        ),
        (
            "reads a file",
            "{% include '/etc/passwd' %}",
            &["the chat template fails at line 1"],
        ),
        (
            "reads the environment",
            "{{ self.__class__ }}{{ environ.HF_TOKEN }}",
            &["the chat template fails at line 1"],
        ),
    ];
    for (what, template, parts) in cases {
        refused(&[(what, &|desk| chat_desk(desk, template), parts)]);
    }
}

#[test]
fn a_bases_own_template_is_tried_too() {
    let desk = Desk::new();
    chat_desk(&desk, "");
    desk.edit("recipe.yaml", "\nchat_template: t.jinja", "");
    let bomb = "{{ ('x' * 100000000) ~ ('x' * 100000000) ~ ('x' * 100000000) ~ ('x' * 100000000) \
        }}";
    desk.write("base/chat_template.jinja", bomb);
    for verb in ["check", "plan", "train"] {
        run(&desk, verb, &[verb, "recipe.yaml"]).says(
            verb,
            65,
            &["recipe.yaml:1:13: the chat template takes more than 512 MiB"],
        );
    }
}

#[test]
fn recipes_are_no_bombs() {
    let recipe = |text: String| move |desk: &Desk| desk.write("recipe.yaml", text.clone());
    let laughs: String = (1..20)
        .map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1))
        .collect();
    let keys: String = (0..20_000).map(|n| format!("k{n}: 1\n")).collect();
    refused(&[
        (
            "laughs",
            &recipe(format!("a0: &a0 [x]\n{laughs}{RECIPE}")),
            &["recipe.yaml:1:5: anchor `&a0` is not allowed"],
        ),
        (
            "lists in lists",
            &recipe(format!("{RECIPE}x: {}", "[".repeat(100_000))),
            &["recipe.yaml:11:"],
        ),
        (
            "maps in maps",
            &recipe(format!("{RECIPE}x: {}", "{a: ".repeat(50_000))),
            &["recipe.yaml:11:"],
        ),
        (
            "keys without number",
            &recipe(format!("{RECIPE}{keys}")),
            &["unknown key `k0`"],
        ),
        (
            "a value of 250 KB",
            &recipe(format!("{RECIPE}device: {}", "x".repeat(250_000))),
            &["device: expected"],
        ),
        (
            "a tag",
            &recipe(format!("!!python/object/apply:os.system [ls]\n{RECIPE}")),
            &["recipe.yaml:1:1"],
        ),
        (
            "more steps than there are numbers",
            &recipe(RECIPE.replace("max_steps: 2", "max_steps: 99999999999999999999999")),
            &["training.max_steps: expected a whole number"],
        ),
        (
            "a number beyond all",
            &recipe(RECIPE.replace("r: 4", "alpha: 1e99999")),
            &["adapter.alpha: expected a number"],
        ),
    ]);
    let desk = Desk::new();
    let (deep, long) = (
        format!("{}a=1", "a.".repeat(20_000)),
        format!("device={}", "x".repeat(100_000)),
    );
    for (what, typed) in [("a deep override", &deep), ("a long override", &long)] {
        run(&desk, what, &["train", "recipe.yaml", typed]).says(what, 65, &["override `"]);
    }
}

/// Writes one column that holds a text of so many MiB in every row, all in one page.
fn write_column(desk: &Desk, mebibytes: usize, rows: usize, properties: WriterPropertiesBuilder) {
    let batch =
        RecordBatch::try_from_iter([("text", texts(["x".repeat(mebibytes << 20)]))]).unwrap();
    let properties = properties.set_compression(Compression::ZSTD(ZstdLevel::default()));
    let properties = properties
        .set_data_page_size_limit(1 << 30)
        .set_dictionary_page_size_limit(1 << 30)
        .build();
    let file = File::create(desk.path("rows.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    (0..rows).for_each(|_| writer.write(&batch).unwrap());
    writer.close().unwrap();
    assert!(desk.read("rows.parquet").len() < 100_000);
}

/// The desk's rows under a footer that claims more of them.
fn claim_rows(desk: &Desk, rows: i64) {
    let path = desk.path("rows.parquet");
    let footer = ParquetMetaDataReader::new()
        .parse_and_finish(&File::open(&path).unwrap())
        .unwrap();
    let mut builder = footer.into_builder();
    let groups = builder
        .take_row_groups()
        .into_iter()
        .map(|group| group.into_builder().set_num_rows(rows).build().unwrap());
    let footer = builder.set_row_groups(groups.collect()).build();
    let mut bytes = desk.read("rows.parquet");
    ParquetMetaDataWriter::new(&mut bytes, &footer)
        .finish()
        .unwrap();
    desk.write("rows.parquet", bytes);
}

#[test]
fn rows_do_not_unpack_to_more_than_there_is() {
    let plain = || WriterProperties::builder().set_dictionary_enabled(false);
    refused(&[
        (
            "a page of 300 MiB in a few kilobytes",
            &|desk| write_column(desk, 3, 100, plain()),
            &[
                "row 0: the rows from here on cannot be read: its pages unpack to",
                "expected at most 268435456",
            ],
        ),
        (
            "a dictionary whose entry is in every row",
            &|desk| write_column(desk, 5, 600, WriterProperties::builder()),
            &["a text of 5242880 bytes, expected at most 4194304"],
        ),
        (
            "a million million rows",
            &|desk| claim_rows(desk, 1_000_000_000_000),
            &["its footer claims 1000000000000 rows"],
        ),
        (
            "fewer rows than none",
            &|desk| claim_rows(desk, -1),
            &["its footer claims -1 rows"],
        ),
        (
            "the most rows",
            &|desk| claim_rows(desk, i64::MAX),
            &["`rows.parquet` is not a whole Parquet file"],
        ),
        (
            "a footer without end",
            &|desk| {
                // Version 1, then a schema that claims as many elements as there are numbers.
                let footer = [
                    0x15, 0x02, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 0, 0,
                ];
                desk.write(
                    "rows.parquet",
                    [b"PAR1", &footer[..], &12_u32.to_le_bytes(), b"PAR1"].concat(),
                );
            },
            &["`rows.parquet` is not a whole Parquet file"],
        ),
    ]);
}
