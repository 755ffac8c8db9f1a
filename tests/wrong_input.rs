//! Whatever is wrong with a recipe, a base, a data file or a command, the user is told what and
//! where, the exit code says whose fault it is, and nothing panics.

#![allow(
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "tables of cases"
)]

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use support::*;

/// A recipe with one thing wrong: what, the words that are replaced, by what, and parts of the
/// message.
type BrokenRecipe = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

const RECIPES: &[BrokenRecipe] = &[
    (
        "unknown key",
        "r: 4",
        "rnak: 4",
        &["recipe.yaml:6:3: unknown key `rnak` in `adapter`"],
    ),
    (
        "key of another section",
        "r: 4",
        "learning_rate: 1e-4",
        &["`learning_rate` belongs in `training`"],
    ),
    (
        "double key",
        "  r: 4\n",
        "  r: 4\n  r: 8\n",
        &["recipe.yaml:7:3: ", "`r`"],
    ),
    (
        "rank 0",
        "r: 4",
        "r: 0",
        &[
            "recipe.yaml:6:6: adapter.r: expected a whole number from 1",
            "found `0`",
        ],
    ),
    (
        "text for a number",
        "r: 4",
        "r: four",
        &["adapter.r: expected a whole number", "found `four`"],
    ),
    (
        "number in quotes",
        "r: 4",
        "r: '4'",
        &["found `'4'`", "remove the quotes"],
    ),
    (
        "dropout of 1",
        "r: 4",
        "dropout: 1",
        &["adapter.dropout: expected a number from 0 to below 1, found `1`"],
    ),
    (
        "negative learning rate",
        "max_steps: 2",
        "learning_rate: -1e-4",
        &["training.learning_rate: expected a number above 0"],
    ),
    (
        "learning rate that is no number",
        "max_steps: 2",
        "learning_rate: .nan",
        &["training.learning_rate: expected a number"],
    ),
    (
        "learning rate beyond f32",
        "max_steps: 2",
        "learning_rate: 1e300",
        &["training.learning_rate: expected a number above 0"],
    ),
    (
        "unknown word",
        "max_steps: 2",
        "lr_scheduler: cosin",
        &["found `cosin`", "did you mean `cosine`?"],
    ),
    (
        "unknown format",
        "format: text",
        "format: alpaca",
        &["datasets.0.format: expected `text`", "found `alpaca`"],
    ),
    (
        "vectors of the head",
        "r: 4",
        "use_dora: true\n  target_modules: [q_proj, lm_head]",
        &[
            "recipe.yaml:6:13: adapter.use_dora does not go with an adapter of `lm_head` yet",
            "leave the module out",
        ],
    ),
    (
        "a part of more directions than there are",
        "r: 4",
        "r: 17\n  init_lora_weights: pissa",
        &[
            "recipe.yaml:7:22: adapter.init_lora_weights: `pissa` of rank 17, and \
            `model.layers.0.self_attn.k_proj` has 16 singular values",
        ],
    ),
    (
        "nested blocks of nothing",
        "r: 4",
        "double_quant: true",
        &[
            "recipe.yaml:6:17: adapter.double_quant goes with `quantization: nf4` and `fp4`, it is \
            `none`",
        ],
    ),
    (
        "blocks of int8",
        "r: 4",
        "quantization: int8\n  block_size: 64",
        &["adapter.block_size goes with `quantization: nf4` and `fp4`, it is `int8`"],
    ),
    (
        "a packed head alone",
        "r: 4",
        "quantize_head: true",
        &["adapter.quantize_head goes with a `quantization`, and there is none"],
    ),
    (
        "no base",
        "base_model: base\n",
        "",
        &[
            "missing key `base_model`",
            "hint: add a line such as `base_model: ",
        ],
    ),
    (
        "no datasets",
        "  - path: rows.parquet\n    format: text\n",
        "",
        &["missing key `datasets`"],
    ),
    (
        "base that is not there",
        "base_model: base",
        "base_model: ./bse",
        &["base_model: `./bse` does not exist", "looked in `DESK"],
    ),
    (
        "data that is not there",
        "rows.parquet",
        "row.parquet",
        &[
            "recipe.yaml:3:11: no data file at `row.parquet`, looked in `DESK`",
            "there are: rows.parquet",
        ],
    ),
    (
        "glob that is none",
        "rows.parquet",
        "'[.parquet'",
        &["recipe.yaml:3:11: `[.parquet` is not a glob"],
    ),
    (
        "open braces",
        "format: text",
        "{format: text",
        &["recipe.yaml:4:"],
    ),
    (
        "column of another format",
        "format: text",
        "format: text\n    columns: {prompt: text}",
        &["format `text` has no column `prompt`"],
    ),
    (
        "template that is not there",
        "output_dir: run",
        "chat_template: x.jinja",
        &["chat_template: `x.jinja` does not exist"],
    ),
    (
        "device that is none",
        "output_dir: run",
        "device: gpu",
        &[
            "device: expected `auto`, `cpu`, `wgpu` or `cuda`",
            "found `gpu`",
        ],
    ),
    (
        "regular expression that is none",
        "r: 4",
        "target_modules: '(q'",
        &["`(q` is not a regular expression"],
    ),
    (
        "targets that match nothing",
        "r: 4",
        "target_modules: [q_proj, c_attn]",
        &[
            "no projection of the model matches `c_attn`",
            "`q_proj`",
            "all-linear",
        ],
    ),
    (
        "pattern that matches part of a name",
        "r: 4",
        "target_modules: q_proj",
        &["no projection of the model matches `q_proj`"],
    ),
    (
        "a norm that is to be saved",
        "r: 4",
        "modules_to_save: [norm]",
        &["adapter.modules_to_save: `norm` is neither the embedding nor the head"],
    ),
    (
        "rank pattern that matches nothing",
        "r: 4",
        "rank_pattern: {w_pack: 8}",
        &["adapter.rank_pattern: no projection of the model matches `w_pack`"],
    ),
    (
        "alpha pattern that matches nothing",
        "r: 4",
        "alpha_pattern: {w_pack: 8}",
        &["adapter.alpha_pattern: no projection of the model matches `w_pack`"],
    ),
    (
        "layers beside an expression",
        "r: 4",
        "layers_to_transform: [1]\n  target_modules: .*q_proj",
        &[
            "recipe.yaml:6:24: adapter.layers_to_transform does not go with the regular expression \
            `.*q_proj`",
        ],
    ),
    (
        "layer that is not there",
        "r: 4",
        "layers_to_transform: [2]",
        &["layer 2 does not exist, the base has layers 0 to 1"],
    ),
    (
        "adapter to go on from that is not there",
        "r: 4",
        "init_from: x",
        &["adapter.init_from: `x` does not exist"],
    ),
    (
        "two warm-ups",
        "max_steps: 2",
        "warmup_steps: 2\n  warmup_ratio: 0.1",
        &["both set the length of the warm-up"],
    ),
    (
        "early stopping without validation",
        "output_dir: run",
        "evaluation: {early_stopping_patience: 2}",
        &["needs validation rows"],
    ),
    (
        "anchor",
        "base_model: base",
        "base_model: &a base",
        &["recipe.yaml:1:13: anchor `&a` is not allowed"],
    ),
    (
        "second document",
        "output_dir: run",
        "---\nr: 2",
        &["a second document starts here"],
    ),
    ("tab", "  r: 4", "\tr: 4", &["recipe.yaml:6:"]),
    (
        "open quote",
        "base_model: base",
        "base_model: 'base",
        &["recipe.yaml:2:1: not YAML"],
    ),
    (
        "open bracket",
        "r: 4",
        "target_modules: [q_proj",
        &["recipe.yaml:"],
    ),
    (
        "list for a section",
        "  r: 4",
        "  - r: 4",
        &["adapter: expected keys with values"],
    ),
];

#[test]
fn every_fault_of_a_recipe_has_its_place() {
    let desk = Desk::new();
    for (what, from, to, parts) in RECIPES {
        desk.write("recipe.yaml", RECIPE);
        desk.edit("recipe.yaml", from, to);
        desk.run(&["check", "recipe.yaml"]).says(what, 65, parts);
    }
}

#[test]
fn a_recipe_that_is_no_yaml_text_is_refused() {
    let desk = Desk::new();
    let deep = format!("base_model: {}", "[".repeat(100_000));
    let large = format!("{RECIPE}#{}", "x".repeat(300 << 10));
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "bad UTF-8",
            b"base_model: caf\xe9\n",
            "recipe.yaml:1:16: not UTF-8: byte 0xe9 at offset 15",
        ),
        ("nothing", b"", "recipe.yaml:1:1: "),
        (
            "a list",
            b"- base_model: base\n",
            "recipe.yaml:1:1: expected keys with values",
        ),
        (
            "a word",
            b"hello",
            "expected keys with values, found `hello`",
        ),
        ("NUL bytes", b"\0\0\0\0", "recipe.yaml:1:1: "),
        ("UTF-16", b"\xff\xfeb\0a\0", "not UTF-8"),
        ("a Parquet file", &desk.read("rows.parquet"), "recipe.yaml:"),
        ("too deep", deep.as_bytes(), "recipe.yaml:1:"),
        (
            "too large",
            large.as_bytes(),
            "the recipe is larger than 256 KiB",
        ),
    ];
    for (what, content, part) in cases {
        desk.write("recipe.yaml", content);
        desk.run(&["check", "recipe.yaml"]).says(what, 65, &[part]);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let desk = Desk::new();
    desk.edit("recipe.yaml", "r: 4", "r: 0\n  alhpa: 8");
    desk.edit("recipe.yaml", "rows.parquet", "none.parquet");
    let ran = desk.run(&["check", "recipe.yaml", "training.max_steps=0", "device"]);
    let parts = [
        "recipe.yaml:6:6: adapter.r",
        "did you mean `alpha`?",
        "override `training.max_steps=0`",
        "expected `key=value`",
    ];
    ran.says("several", 65, &parts);
}

/// A desk with one thing broken on it: what, how, the exit code and parts of the message.
type BrokenDesk<'a> = (&'a str, &'a dyn Fn(&Desk), i32, &'a [&'a str]);

/// Each on a desk of its own, trained; whatever is refused leaves no adapter.
fn refused(cases: &[BrokenDesk]) {
    for (what, break_it, exit, parts) in cases {
        let desk = Desk::new();
        break_it(&desk);
        desk.run(&["train", "recipe.yaml"]).says(what, *exit, parts);
        assert!(!desk.path("run/adapter").exists(), "{what}");
    }
}

#[test]
fn a_broken_config_json_is_refused() {
    let config = |from: &'static str, to: &'static str| {
        move |desk: &Desk| desk.edit("base/config.json", from, to)
    };
    refused(&[
        (
            "no config.json",
            &|desk| desk.remove("base/config.json"),
            65,
            &[
                "base/config.json: there is no such file",
                "hint: name the folder",
            ],
        ),
        (
            "cut off",
            &|desk| desk.cut("base/config.json", 0.5),
            65,
            &["recipe.yaml:1:13: base/config.json: not valid JSON"],
        ),
        (
            "bad UTF-8",
            &|desk| desk.write("base/config.json", b"{\"a\": \"\xff\"}"),
            65,
            &["base/config.json", "UTF-8"],
        ),
        (
            "a list",
            &|desk| desk.write("base/config.json", "[1]"),
            65,
            &["base/config.json: expected a JSON object"],
        ),
        (
            "nested without end",
            &|desk| desk.write("base/config.json", "[".repeat(200_000)),
            65,
            &["base/config.json: not valid JSON"],
        ),
        (
            "unknown family",
            &config(r#""llama","#, r#""gpt_bigcode","#),
            65,
            &[
                "`model_type` is `gpt_bigcode`, known are `bert`, `cohere2`, `deepseek_v2`, `deepseek_v3`, ",
                "`gemma3_text`, `gemma4_text`, ",
                ", `llama`, `ministral`, `ministral3`, `mistral`, `mixtral`, ",
                ", `stablelm`, `starcoder2`",
                "hint: the nearest known by name are `gpt_neox`, `gpt_oss`",
            ],
        ),
        (
            "unknown rotation",
            &config(r#""llama3""#, r#""xpos""#),
            65,
            &["`rope_type` is `xpos`, known are `default`", "`llama3`"],
        ),
        (
            "unknown activation",
            &config(r#""silu""#, r#""relu2""#),
            65,
            &["`hidden_act` is `relu2`, known are `silu`"],
        ),
        (
            "heads that do not divide",
            &config(r#""num_key_value_heads": 2"#, r#""num_key_value_heads": 3"#),
            65,
            &["`num_attention_heads` is 4, not a multiple of `num_key_value_heads`, 3"],
        ),
        (
            "odd heads",
            &config(r#""head_dim": 8"#, r#""head_dim": 7"#),
            65,
            &["`head_dim` is 7, expected an even number"],
        ),
        (
            "no width",
            &config(r#""hidden_size": 32,"#, ""),
            65,
            &[
                "config.json does not set `hidden_size` (default 4096): the defaults of \
                transformers are used",
            ],
        ),
        (
            "negative width",
            &config(r#""hidden_size": 32"#, r#""hidden_size": -32"#),
            65,
            &["`hidden_size` is `-32`, expected a whole number from 1"],
        ),
        (
            "text for a number",
            &config(r#""vocab_size": 304"#, r#""vocab_size": "304""#),
            65,
            &[r#"`vocab_size` is `"304"`, expected a whole number"#],
        ),
        (
            "layers without end",
            &config(
                r#""num_hidden_layers": 2"#,
                r#""num_hidden_layers": 4000000000"#,
            ),
            65,
            &["`num_hidden_layers` is `4000000000`, expected a whole number from 1 to 16777216"],
        ),
        (
            "more layers than can be described",
            &config(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 10001"#),
            65,
            &["`num_hidden_layers` is `10001`, expected at most 10000"],
        ),
        (
            "sizes whose product is no number",
            &config(
                r#""intermediate_size": 48"#,
                r#""intermediate_size": 4000000000"#,
            ),
            65,
            &["intermediate_size"],
        ),
        (
            "another width",
            &config(r#""intermediate_size": 48"#, r#""intermediate_size": 64"#),
            65,
            &[
                "`model.layers.1.mlp.up_proj.weight` has shape [48, 32], expected [64, 32]",
                "6 faults",
            ],
        ),
        (
            "more layers than weights",
            &config(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 3"#),
            65,
            &["tensor `model.layers.2.mlp.up_proj.weight` is missing"],
        ),
        (
            "fewer layers than weights",
            &config(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1"#),
            65,
            &[
                "tensor `model.layers.1.mlp.up_proj.weight` of shape [48, 32] is not part of the \
                model",
            ],
        ),
    ]);
}

#[test]
fn broken_weights_are_refused() {
    const WEIGHTS: &str = "base/model.safetensors";
    let flip = |place: usize| {
        move |desk: &Desk| {
            let mut bytes = desk.read(WEIGHTS);
            bytes[place] ^= 0x5a;
            desk.write(WEIGHTS, bytes);
        }
    };
    let rename = |desk: &Desk, name: &str| {
        let bytes = desk.read(WEIGHTS);
        desk.remove(WEIGHTS);
        desk.write(name, bytes);
    };
    let index = |desk: &Desk, text: &str| {
        rename(desk, "base/model-1.safetensors");
        desk.write("base/model.safetensors.index.json", text);
    };
    refused(&[
        (
            "cut off",
            &|desk| desk.cut(WEIGHTS, 0.7),
            65,
            &[
                "`base/model.safetensors` is not a whole safetensors file",
                "hint: download or copy the file again",
            ],
        ),
        (
            "cut in the header",
            &|desk| desk.cut(WEIGHTS, 0.001),
            65,
            &["not a whole safetensors file"],
        ),
        (
            "empty",
            &|desk| desk.write(WEIGHTS, ""),
            65,
            &["not a whole safetensors file"],
        ),
        (
            "whole numbers",
            &|desk| {
                let mut bytes = desk.read(WEIGHTS);
                let place = bytes.windows(3).position(|word| word == b"F32").unwrap();
                bytes[place] = b'I';
                desk.write(WEIGHTS, bytes);
            },
            65,
            &["has dtype I32, expected F32, F16 or BF16"],
        ),
        (
            "bytes added",
            &|desk| desk.write(WEIGHTS, [desk.read(WEIGHTS), vec![0; 9]].concat()),
            65,
            &["file not fully covered"],
        ),
        (
            "header's length flipped",
            &flip(3),
            65,
            &["not a whole safetensors file"],
        ),
        (
            "header's JSON flipped",
            &flip(20),
            65,
            &["not a whole safetensors file"],
        ),
        (
            "a Git LFS pointer",
            &|desk| {
                desk.write(
                    WEIGHTS,
                    "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                );
            },
            65,
            &["not a whole safetensors file"],
        ),
        (
            "a pickle only",
            &|desk| rename(desk, "base/pytorch_model.bin"),
            65,
            &[
                "only `pytorch_model.bin`",
                "pickle files can run code and are refused",
            ],
        ),
        (
            "none",
            &|desk| desk.remove(WEIGHTS),
            65,
            &["`base` has no model.safetensors and no model.safetensors.index.json"],
        ),
        (
            "a folder of that name",
            &|desk| {
                desk.remove(WEIGHTS);
                std::fs::create_dir(desk.path(WEIGHTS)).unwrap();
            },
            65,
            &["base/model.safetensors"],
        ),
        (
            "index cut off",
            &|desk| index(desk, "{\"weight_map\": {\"a\": "),
            65,
            &["model.safetensors.index.json: not valid JSON"],
        ),
        (
            "index without a map",
            &|desk| index(desk, "{}"),
            65,
            &["`weight_map` is missing"],
        ),
        (
            "index that leads away",
            &|desk| index(desk, r#"{"weight_map": {"a": "../secret.safetensors"}}"#),
            65,
            &["names `../secret.safetensors`, expected a safetensors file of this folder"],
        ),
        (
            "a missing shard",
            &|desk| {
                index(
                    desk,
                    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
                );
            },
            65,
            &["1 of 2 shards are missing: `model-2.safetensors`"],
        ),
    ]);
}

#[test]
fn a_broken_tokenizer_is_refused() {
    const CHAT: &str = "base/tokenizer_config.json";
    const ADDED: &str = concat!(
        r#"{"id": 304, "content": "so ", "single_word": false, "lstrip": false, "#,
        r#""rstrip": false, "normalized": false, "special": false}"#
    );
    refused(&[
        (
            "none",
            &|desk| desk.remove("base/tokenizer.json"),
            65,
            &["`base` holds no `tokenizer.json`"],
        ),
        (
            "cut off",
            &|desk| desk.cut("base/tokenizer.json", 0.9),
            65,
            &["`base/tokenizer.json` is not a tokenizer"],
        ),
        (
            "bad UTF-8",
            &|desk| desk.write("base/tokenizer.json", b"{\"version\": \"\xff\"}"),
            65,
            &["base/tokenizer.json", "UTF-8"],
        ),
        (
            "empty object",
            &|desk| desk.write("base/tokenizer.json", "{}"),
            65,
            &["`base/tokenizer.json` is not a tokenizer"],
        ),
        (
            "config cut off",
            &|desk| desk.cut(CHAT, 0.5),
            65,
            &["base/tokenizer_config.json"],
        ),
        (
            "a number for a token",
            &|desk| {
                desk.edit(
                    CHAT,
                    r#""bos_token": "<|begin_of_text|>""#,
                    r#""bos_token": 7"#,
                );
            },
            65,
            &["`bos_token` in `base/tokenizer_config.json` is `7`, expected a token"],
        ),
        (
            "an embedding that is too small",
            &|desk| {
                desk.edit(
                    "base/tokenizer.json",
                    "\"added_tokens\": [",
                    &format!("\"added_tokens\": [{ADDED},"),
                );
            },
            65,
            &[
                "token id 304, the base's embedding has ids below 304",
                "hint: use the tokenizer that came with the base",
            ],
        ),
        (
            "no eos",
            &|desk| {
                desk.edit(CHAT, r#""eos_token": "<|eot_id|>","#, "");
                desk.remove("base/generation_config.json");
            },
            65,
            &["the tokenizer has no eos token", "hint: set `eos_token`"],
        ),
        (
            "eos beyond the embedding",
            &|desk| {
                desk.edit(CHAT, r#""eos_token": "<|eot_id|>","#, "");
                desk.edit(
                    "base/generation_config.json",
                    r#""eos_token_id": 303"#,
                    r#""eos_token_id": 304"#,
                );
            },
            65,
            &["token id 304, the base's embedding has ids below 304"],
        ),
    ]);
}

#[test]
fn broken_data_is_refused() {
    const ROWS: &str = "rows.parquet";
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let none: [&str; 0] = [];
    let recipe = |desk: &Desk, from: &str, to: &str| desk.edit("recipe.yaml", from, to);
    let bad_text = |desk: &Desk| {
        let mut bytes = desk.read(ROWS);
        let place = bytes
            .windows(11)
            .position(|window| window == b"the term 7 ")
            .unwrap();
        bytes[place] = 0xff;
        desk.write(ROWS, bytes);
    };
    refused(&[
        (
            "cut off",
            &|desk| desk.cut(ROWS, 0.6),
            65,
            &[
                "`rows.parquet` is not a whole Parquet file",
                "hint: download or copy it again",
            ],
        ),
        (
            "empty file",
            &|desk| desk.write(ROWS, ""),
            65,
            &["`rows.parquet` is not a whole Parquet file"],
        ),
        (
            "a CSV",
            &|desk| desk.write(ROWS, "text\nhello\n"),
            65,
            &[
                "`rows.parquet` is text, expected a Parquet file",
                "hint: ",
                "`rankine convert rows.parquet --out ",
            ],
        ),
        (
            "its middle is zeros",
            &|desk| {
                let mut bytes = desk.read(ROWS);
                bytes[4..150].fill(0);
                desk.write(ROWS, bytes);
            },
            65,
            &["rows.parquet"],
        ),
        (
            "its footer is zeros",
            &|desk| {
                let mut bytes = desk.read(ROWS);
                let end = bytes.len() - 8;
                bytes[end - 600..end - 500].fill(0);
                desk.write(ROWS, bytes);
            },
            65,
            &["rows.parquet"],
        ),
        (
            "bad UTF-8 in a text",
            &bad_text,
            65,
            &["`rows.parquet`, row group 0, row 6, column `text`", "utf-8"],
        ),
        (
            "no rows",
            &|desk| desk.write_rows(ROWS, vec![("text", texts(none))]),
            65,
            &["no rows to train on"],
        ),
        (
            "no such column",
            &|desk| {
                desk.write_rows(
                    ROWS,
                    vec![
                        ("term", texts(["a"])),
                        ("definition", texts(["long enough"])),
                    ],
                );
            },
            65,
            &[
                "has no column `text`, it has: term, definition",
                "columns: {text: definition}",
            ],
        ),
        (
            "numbers for text",
            &|desk| desk.write_rows(ROWS, vec![("text", numbers.clone())]),
            65,
            &["column `text` of `rows.parquet` holds numbers, expected text"],
        ),
        (
            "an empty folder",
            &|desk| {
                desk.remove(ROWS);
                std::fs::create_dir(desk.path(ROWS)).unwrap();
            },
            65,
            &["no data file at `rows.parquet`"],
        ),
        (
            "rows with nothing to train",
            &|desk| desk.write_rows(ROWS, vec![("text", texts(["", "", "a b c"]))]),
            65,
            &[
                "2 of 3 rows are left out (0 too long, 2 without a trained token), more than \
                `training.max_dropped`, 0.05",
            ],
        ),
        (
            "all rows too long",
            &|desk| {
                recipe(
                    desk,
                    "sequence_len: 64",
                    "sequence_len: 4\n  max_dropped: 1",
                );
            },
            65,
            &[
                "12 of 12 rows are left out: they are longer than `training.sequence_len`, 4; the \
                longest is",
                "no rows to train on",
            ],
        ),
        (
            "more rows too long than may be",
            &|desk| recipe(desk, "sequence_len: 64", "sequence_len: 30"),
            65,
            &[
                "more than `training.max_dropped`",
                "hint: raise `training.sequence_len`",
            ],
        ),
        (
            "long rows that may not be cut",
            &|desk| {
                recipe(
                    desk,
                    "sequence_len: 64",
                    "sequence_len: 30\n  truncation: error",
                );
            },
            65,
            &["of 12 rows are longer than sequence_len: 30, the longest is"],
        ),
        (
            "validation takes all",
            &|desk| {
                recipe(
                    desk,
                    "output_dir: run",
                    "output_dir: run\nevaluation: {val_set_size: 12}",
                );
            },
            65,
            &["no rows to train on: validation takes 12 of 12 rows"],
        ),
        (
            "messages that are no list",
            &|desk| {
                recipe(desk, "format: text", "format: chat");
                desk.write_rows(ROWS, vec![("messages", texts(["{}"]))]);
            },
            65,
            &["row 0, column `messages`: expected a list in JSON"],
        ),
        (
            "messages cut off",
            &|desk| {
                recipe(desk, "format: text", "format: chat");
                desk.write_rows(ROWS, vec![("messages", texts([r#"[{"role": "user""#]))]);
            },
            65,
            &["expected a list in JSON: EOF"],
        ),
        (
            "a role that is none",
            &|desk| {
                recipe(desk, "format: text", "format: chat");
                desk.write_rows(
                    ROWS,
                    vec![(
                        "messages",
                        texts([r#"[{"role": "robot", "content": "x"}]"#]),
                    )],
                );
            },
            65,
            &["message 0 has role [text of the data: -v shows it], expected one of system"],
        ),
        (
            "BOS in the data",
            &|desk| {
                desk.write_rows(
                    ROWS,
                    vec![("text", texts(["<|begin_of_text|><|begin_of_text|>hello"]))],
                );
            },
            65,
            &["the row begins with the bos token twice"],
        ),
    ]);
}

/// A conversation, and the recipe for it with a template of its own.
fn chat_desk(desk: &Desk, template: &[u8], rows: usize) {
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
    desk.write_rows("rows.parquet", vec![("messages", texts(vec![turns; rows]))]);
    desk.write("t.jinja", template);
}

#[test]
fn a_broken_template_is_refused() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}\
        {% endfor %}{% endfor %}";
    let cases: &[(&str, &[u8], &[&str])] = &[
        (
            "syntax error",
            b"{% if %}",
            &["recipe.yaml:11:16: the chat template is not valid at line 1"],
        ),
        (
            "open block",
            b"a\n{% for m in messages %}",
            &["the chat template is not valid at line 2"],
        ),
        ("bad UTF-8", b"\xff", &["t.jinja", "UTF-8"]),
        (
            "raises",
            b"{{ raise_exception('no system turn') }}",
            &[
                "row 0, column `messages`: the chat template refuses the conversation: no system \
                turn",
            ],
        ),
        (
            "fails",
            b"{{ messages[0].a.b.c }}",
            &["row 0, column `messages`: the chat template fails at line 1"],
        ),
        (
            "calls what is not there",
            b"{{ nothing() }}",
            &["the chat template fails at line 1"],
        ),
        (
            "loops",
            endless.as_bytes(),
            &["row 0, column `messages`: the chat template takes more than 20000000 steps"],
        ),
        (
            "grows",
            b"{% for a in range(9999) %}{{ 'x' * 100000 }}{% endfor %}",
            &["the chat template writes more than"],
        ),
        (
            "calls itself",
            b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            &["the chat template fails at line 1"],
        ),
        (
            "nested without end",
            &[b"{% if a %}".repeat(5000), b"x".to_vec()].concat(),
            &["the chat template is not valid"],
        ),
        (
            "parentheses without end",
            &[b"{{ ".to_vec(), b"(".repeat(50_000)].concat(),
            &["the chat template is not valid"],
        ),
        (
            "includes a file",
            b"{% include 'recipe.yaml' %}",
            &["the chat template fails at line 1"],
        ),
        (
            "leaves the answer out",
            b"{{ messages | length }}",
            &["the chat template does not tell what the assistant says"],
        ),
        (
            "marks nothing",
            b"{% generation %}{% endgeneration %}x",
            &["without a trained token"],
        ),
    ];
    for (what, template, parts) in cases {
        refused(&[(what, &|desk| chat_desk(desk, template, 3), 65, parts)]);
    }
}

#[test]
fn an_endless_template_is_stopped_at_its_first_row() {
    let started = std::time::Instant::now();
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}\
        {% endfor %}{% endfor %}";
    refused(&[(
        "loops in every row",
        &|desk| chat_desk(desk, endless.as_bytes(), 500),
        65,
        &["row 0, column `messages`"],
    )]);
    assert!(
        started.elapsed().as_secs() < 20,
        "{:?} for one row that fails",
        started.elapsed()
    );
}

#[test]
fn a_chat_without_a_template_is_refused_before_anything_is_read() {
    let desk = Desk::new();
    chat_desk(&desk, b"", 1);
    desk.edit("recipe.yaml", "\nchat_template: t.jinja", "");
    desk.edit(
        "base/tokenizer_config.json",
        "\"chat_template\"",
        "\"other\"",
    );
    desk.run(&["check", "recipe.yaml"]).says(
        "no template",
        65,
        &["recipe.yaml:4:13: datasets.0.format: `chat` needs a chat template"],
    );
}

/// A desk with an adapter of its own base in `run/adapter`, and a recipe that goes on from it.
fn desk_with_adapter() -> Desk {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"])
        .says("an adapter to start from", 0, &[]);
    desk.edit("recipe.yaml", "r: 4", "init_from: run/adapter");
    desk.edit("recipe.yaml", "output_dir: run", "output_dir: run-2");
    desk
}

#[test]
fn a_broken_adapter_to_go_on_from_is_refused() {
    const CONFIG: &str = "run/adapter/adapter_config.json";
    const WEIGHTS: &str = "run/adapter/adapter_model.safetensors";
    let edit =
        |from: &'static str, to: &'static str| move |desk: &Desk| desk.edit(CONFIG, from, to);
    let cases: &[(&str, &dyn Fn(&Desk), &[&str])] = &[
        (
            "no config",
            &|desk| desk.remove(CONFIG),
            &["run/adapter/adapter_config.json"],
        ),
        (
            "config cut off",
            &|desk| desk.cut(CONFIG, 0.5),
            &["run/adapter/adapter_config.json: not valid JSON"],
        ),
        (
            "config of bad UTF-8",
            &|desk| desk.write(CONFIG, b"\xff"),
            &["run/adapter/adapter_config.json", "UTF-8"],
        ),
        (
            "rank 0",
            &edit("\"r\": 4", "\"r\": 0"),
            &["`r` is `0`, expected a whole number from 1"],
        ),
        (
            "alpha 0",
            &edit("\"lora_alpha\": 8", "\"lora_alpha\": 0"),
            &["`lora_alpha` is `0`, expected a number above 0"],
        ),
        (
            "another method",
            &edit("\"LORA\"", "\"LOHA\""),
            &["`peft_type` is `\"LOHA\"`, which is not supported yet"],
        ),
        (
            "numbers that go with another base",
            &edit(
                "\"init_lora_weights\": true",
                "\"init_lora_weights\": \"pissa\"",
            ),
            &[
                "`init_lora_weights` is `\"pissa\"`, which is not supported yet",
                "hint: `pissa` takes what A and B begin as out",
            ],
        ),
        (
            "text for a truth value",
            &edit("\"use_rslora\": false", "\"use_rslora\": \"true\""),
            &["`use_rslora` is `\"true\"`"],
        ),
        (
            "a number for names",
            &edit("\"exclude_modules\": null", "\"exclude_modules\": 5"),
            &["`exclude_modules` is `5`, expected names or a regular expression"],
        ),
        (
            "tokens that are no numbers",
            &edit(
                "\"trainable_token_indices\": null",
                "\"trainable_token_indices\": [1.5]",
            ),
            &["`trainable_token_indices` is `[1.5]`, expected whole numbers, alone or by module"],
        ),
        (
            "names that are none",
            &edit("\"modules_to_save\": null", "\"modules_to_save\": [3]"),
            &["`modules_to_save` is `[3]`, expected names"],
        ),
        (
            "a table without its tensor",
            &edit(
                "\"modules_to_save\": null",
                "\"modules_to_save\": [\"lm_head\"]",
            ),
            &["tensor `base_model.model.lm_head.weight` is missing, expected shape [304, 32]"],
        ),
        (
            "tables that are to stay one",
            &edit(
                "\"ensure_weight_tying\": false",
                "\"ensure_weight_tying\": true",
            ),
            &["`ensure_weight_tying` is `true`, which is not supported yet"],
        ),
        (
            "DoRA without magnitudes",
            &edit("\"use_dora\": false", "\"use_dora\": true"),
            &[
                "self_attn.q_proj.lora_magnitude_vector` is missing, expected shape [32]",
                "14 faults",
            ],
        ),
        (
            "two vectors",
            &|desk| {
                edit("\"use_dora\": false", "\"use_dora\": true")(desk);
                edit("\"lora_bias\": false", "\"lora_bias\": true")(desk);
            },
            &["`lora_bias` and `use_dora` are both true, expected one of them"],
        ),
        (
            "targets that are no names",
            &|desk| {
                desk.write(
                    CONFIG,
                    r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": 3}"#,
                );
            },
            &["`target_modules` is `3`, expected names or a regular expression"],
        ),
        (
            "another rank than its tensors",
            &edit("\"r\": 4", "\"r\": 8"),
            &[
                "self_attn.q_proj.lora_A.weight` has shape [4, 32], expected [8, 32]",
                "28 faults",
            ],
        ),
        (
            "weights cut off",
            &|desk| desk.cut(WEIGHTS, 0.9),
            &["not a whole safetensors file"],
        ),
        (
            "no weights",
            &|desk| desk.remove(WEIGHTS),
            &["adapter_model.safetensors"],
        ),
        (
            "a pickle only",
            &|desk| {
                desk.remove(WEIGHTS);
                desk.write("run/adapter/adapter_model.bin", "PK");
            },
            &[
                "only `adapter_model.bin`",
                "pickle files can run code and are refused",
            ],
        ),
        (
            "another base's",
            &|desk| {
                desk.edit(
                    "base/config.json",
                    r#""num_hidden_layers": 2"#,
                    r#""num_hidden_layers": 1"#,
                );
            },
            &["tensor `model.layers.1."],
        ),
        (
            "a rank of one's own beside it",
            &|desk| desk.edit("recipe.yaml", "  init_from", "  r: 8\n  init_from"),
            &["recipe.yaml:6:6: adapter.r", "`init_from`"],
        ),
    ];
    for (what, break_it, parts) in cases {
        let desk = desk_with_adapter();
        break_it(&desk);
        desk.run(&["train", "recipe.yaml"]).says(what, 65, parts);
        assert!(!desk.path("run-2/adapter").exists(), "{what}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let desk = desk_with_adapter();
    let qwen =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/qwen3/model");
    let base = format!("base_model={}", qwen.display());
    desk.run(&["train", "recipe.yaml", &base]).says(
        "qwen3",
        65,
        &[
            "has shape [",
            "hint: the adapter was trained on another base",
        ],
    );
}

#[test]
fn what_is_there_is_never_overwritten_unasked() {
    let desk = Desk::new();
    desk.write("README.md", "mine");
    desk.run(&["train", "recipe.yaml", "output_dir=."]).says(
        "a folder with a README",
        73,
        &["README.md` is there and is not of a run"],
    );
    desk.run(&["train", "recipe.yaml", "output_dir=.", "--overwrite"])
        .says("forced", 73, &["choose another `output_dir`"]);
    assert_eq!(desk.read_text("README.md"), "mine");

    desk.run(&["train", "recipe.yaml", "training.seed=7"])
        .says("first", 0, &[]);
    let lock = desk.read("run/recipe.lock.yaml");
    let again = desk.run(&["train", "recipe.yaml", "training.seed=7"]);
    let commands = [
        "`run` holds a run",
        "`rankine resume run`",
        "`rankine train recipe.yaml training.seed=7 --overwrite`",
    ];
    again.says("second", 73, &commands);
    let own = [
        "train",
        "recipe.yaml",
        "adapter.r=",
        "adapter.init_from=run/adapter",
        "--overwrite",
    ];
    desk.run(&own).says(
        "from the run that it replaces",
        73,
        &["adapter.init_from: `run/adapter` lies in `run`"],
    );
    assert_eq!(desk.read("run/recipe.lock.yaml"), lock);
}

#[test]
fn an_older_run_stays_until_the_new_one_has_its_rows_and_weights() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("first", 0, &[]);
    let adapter = desk.read("run/adapter/adapter_model.safetensors");
    let too_short = [
        "train",
        "recipe.yaml",
        "training.sequence_len=2",
        "--overwrite",
    ];
    desk.run(&too_short)
        .says("no row is short enough", 65, &["are left out"]);
    assert_eq!(desk.read("run/adapter/adapter_model.safetensors"), adapter);
    desk.run(&["train", "recipe.yaml", "training.seed=8", "--overwrite"])
        .says("at last", 0, &[]);
    assert_ne!(desk.read("run/adapter/adapter_model.safetensors"), adapter);
}

#[test]
fn commands_that_cannot_be_carried_out_have_their_exit_codes() {
    let desk = Desk::new();
    desk.write("file", "");
    std::fs::create_dir(desk.path("folder")).unwrap();
    let cases: &[(&str, &[&str], i32, &[&str])] = &[
        (
            "no recipe of that name",
            &["train", "recpe.yaml"],
            66,
            &["recipe `recpe.yaml` does not exist", "hint: "],
        ),
        (
            "a folder for a recipe",
            &["check", "folder"],
            74,
            &["cannot read `folder`"],
        ),
        ("no command", &[], 2, &["Usage: rankine"]),
        (
            "no such command",
            &["trian", "recipe.yaml"],
            2,
            &["unrecognized subcommand 'trian'"],
        ),
        (
            "no such option",
            &["train", "recipe.yaml", "--overwrit"],
            2,
            &["unexpected argument '--overwrit'"],
        ),
        ("no recipe", &["train"], 2, &["required arguments"]),
        (
            "an override without a value",
            &["train", "recipe.yaml", "device"],
            65,
            &["expected `key=value`"],
        ),
        (
            "an override of an unknown key",
            &["train", "recipe.yaml", "adapter.rnk=4"],
            65,
            &["override `adapter.rnk=4`: unknown key `rnk`"],
        ),
        (
            "an override of no element",
            &["train", "recipe.yaml", "datasets.1.path=x"],
            65,
            &["`datasets` has 1 element"],
        ),
        (
            "an override below a value",
            &["train", "recipe.yaml", "device.x=1"],
            65,
            &["override `device.x=1`: device: expected"],
        ),
        (
            "a Hub id",
            &["train", "recipe.yaml", "base_model=Qwen/Qwen2.5-0.5B"],
            69,
            &[
                "`Qwen/Qwen2.5-0.5B` is not in the cache",
                "hint: fetch it with `rankine pull Qwen/Qwen2.5-0.5B`",
            ],
        ),
        (
            "an output folder below a file",
            &["train", "recipe.yaml", "output_dir=file/run"],
            74,
            &["cannot create `file/run`"],
        ),
        (
            "an output folder that is a file",
            &["train", "recipe.yaml", "output_dir=file"],
            74,
            &["cannot create `file`"],
        ),
    ];
    for (what, arguments, exit, parts) in cases {
        desk.run(arguments).says(what, *exit, parts);
    }
}

#[test]
fn an_environment_that_is_off_is_told() {
    let desk = Desk::new();
    desk.write("file", "");
    let cases: &[(&str, (&str, &str), i32, &[&str])] = &[
        (
            "a cache below a file",
            ("RANKINE_CACHE", "file/cache"),
            74,
            &[
                "the token cache cannot be written",
                "hint: set RANKINE_CACHE",
            ],
        ),
        (
            "a date that is none",
            ("SOURCE_DATE_EPOCH", "today"),
            65,
            &["SOURCE_DATE_EPOCH is `today`, expected whole seconds since 1970"],
        ),
        (
            "a date beyond all calendars",
            ("SOURCE_DATE_EPOCH", "99999999999999999"),
            65,
            &["SOURCE_DATE_EPOCH is"],
        ),
    ];
    for (what, variable, exit, parts) in cases {
        desk.run_with(&["train", "recipe.yaml"], &[*variable])
            .says(what, *exit, parts);
    }
}

#[test]
fn a_damaged_token_cache_is_made_again() {
    let desk = Desk::new();
    desk.run(&["plan", "recipe.yaml"]).says("first", 0, &[]);
    let cache = std::fs::read_dir(desk.path("cache/rows"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&cache).unwrap();
    for length in [0, 10, 100, whole.len() - 1] {
        std::fs::write(&cache, &whole[..length]).unwrap();
        desk.run(&["plan", "recipe.yaml"]).says(
            "cut off",
            0,
            &["note: the token cache", "is made again"],
        );
        assert_eq!(std::fs::read(&cache).unwrap(), whole);
    }
}
