//! What a person is told who brings words, files and folders of another house: the column, the key,
//! the verb or the folder that was meant. And what is told of validation rows that were trained on.

#![allow(clippy::too_many_lines, reason = "tables of cases")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use serde_json::{Value, json};
use support::{Desk, Ran, texts};

/// The base of the first steps, which has a chat template.
fn base_with_template() -> String {
    format!(
        "base_model={}/checkpoints/rankine-tiny",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// One conversation, as a list of objects with these two keys.
fn conversation(who: &str, what: &str, turns: &[(&str, &str)]) -> ArrayRef {
    let column = |of: fn(&(&str, &str)) -> String| -> ArrayRef {
        Arc::new(
            turns
                .iter()
                .map(|turn| Some(of(turn)))
                .collect::<StringArray>(),
        )
    };
    let field = |name: &str| Arc::new(Field::new(name, DataType::Utf8, true));
    let columns = vec![
        (field(who), column(|turn| turn.0.to_owned())),
        (field(what), column(|turn| turn.1.to_owned())),
    ];
    let turns_of_all = StructArray::from(columns);
    let item = Arc::new(Field::new("element", turns_of_all_type(who, what), true));
    Arc::new(ListArray::new(
        item,
        OffsetBuffer::from_lengths([turns.len()]),
        Arc::new(turns_of_all),
        None,
    ))
}

fn turns_of_all_type(who: &str, what: &str) -> DataType {
    DataType::Struct(
        [who, what]
            .map(|name| Field::new(name, DataType::Utf8, true))
            .to_vec()
            .into(),
    )
}

fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[cfg(unix)]
fn link(desk: &Desk, to: &str, name: &str) {
    std::os::unix::fs::symlink(to, desk.path(name)).unwrap();
}

#[test]
fn a_folder_that_a_glob_matches_is_read() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("out/terms.parquet/_temporary/0")).unwrap();
    let turns = r#"[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]"#;
    desk.write_rows(
        "out/terms.parquet/part-00000-1.c000.snappy.parquet",
        vec![("messages", texts([turns]))],
    );
    desk.write("out/terms.parquet/_SUCCESS", "");
    desk.write("out/terms.parquet/._SUCCESS.crc", "crc");
    desk.write(
        "out/terms.parquet/.part-00000-1.c000.snappy.parquet.crc",
        "crc",
    );
    desk.write(
        "out/terms.parquet/_temporary/0/part-9.parquet",
        "half a part",
    );
    for path in [
        "out/*.parquet",
        "out",
        "out/terms.parquet",
        "out/terms.parquet/",
        "out/**/*.parquet",
        "*/terms.parquet",
    ] {
        let dataset = format!("datasets: [{{path: \"{path}\", format: chat, train_on: all}}]\n");
        desk.write(
            "spark.yaml",
            format!(
                "base_model: base\n{dataset}adapter: {{r: 2}}\ntraining: {{max_steps: 1, \
                max_dropped: 1.0}}\n"
            ),
        );
        let ran = desk.run(&["plan", "spark.yaml", &base_with_template(), "--json"]);
        ran.says(path, 0, &[]);
        assert_eq!(
            json_of(&ran)["training_rows"],
            1,
            "{path}: a row is counted once"
        );
        desk.run(&["check", "spark.yaml", &base_with_template()])
            .says(path, 0, &[]);
    }
    let ran = desk.run(&["inspect", "out/*.parquet", "--json"]);
    ran.says("inspect", 0, &[]);
    assert_eq!(
        (
            json_of(&ran)["rows"].as_u64(),
            json_of(&ran)["format"].as_str()
        ),
        (Some(1), Some("chat"))
    );
}

#[test]
fn the_column_that_was_meant_is_named() {
    let desk = Desk::new();
    let glossary = vec![
        ("term", texts(["tort"])),
        ("definition", texts(["a wrong, at some length"])),
        ("field", texts(["law"])),
    ];
    desk.write_rows("terms.parquet", glossary);
    desk.write_rows(
        "qa.parquet",
        vec![
            ("question", texts(["q"])),
            ("answer", texts(["a"])),
            ("section", texts(["law"])),
        ],
    );
    let cases = [
        (
            "terms",
            "instruction",
            "{instruction: terms, output: definition}",
            "hint: did you mean `term`?",
        ),
        (
            "terms",
            "instruction",
            "{instruction: Term, output: definition}",
            "hint: did you mean `term`?",
        ),
        (
            "terms",
            "instruction",
            "{instruction: term, output: defintion}",
            "hint: did you mean `definition`?",
        ),
        (
            "terms",
            "instruction",
            "{instruction: word, output: definition}",
            "`columns: {instruction: .., output: definition}`",
        ),
        (
            "terms",
            "completion",
            "{prompt: term, completion: meaning}",
            "`columns: {prompt: term, completion: ..}`",
        ),
        (
            "qa",
            "completion",
            "{}",
            "`columns: {prompt: question, completion: answer}`",
        ),
        (
            "qa",
            "completion",
            "{completion: answer}",
            "`columns: {prompt: question, completion: answer}`",
        ),
        (
            "qa",
            "instruction",
            "{}",
            "`columns: {instruction: question, output: answer}`",
        ),
        (
            "qa",
            "chat",
            "{}",
            "`format: completion` with `columns: {prompt: question, completion: answer}`",
        ),
    ];
    for (file, format, columns, hint) in cases {
        let dataset =
            format!("datasets: [{{path: {file}.parquet, format: {format}, columns: {columns}}}]\n");
        desk.write("columns.yaml", format!("base_model: base\n{dataset}"));
        let what = format!("{format}, {columns}");
        desk.run(&["check", "columns.yaml", &base_with_template()])
            .says(&what, 65, &["has no column `", hint]);
    }
}

#[test]
fn a_dataset_is_known_by_its_shape_and_takes_names_of_columns() {
    let desk = Desk::new();
    let base = format!("{}/checkpoints/rankine-tiny", env!("CARGO_MANIFEST_DIR"));
    let turns = [
        ("human", "What is a tort?"),
        ("gpt", "A wrong that is not a breach of contract."),
    ];
    desk.write_rows(
        "sharegpt.parquet",
        vec![("conversations", conversation("from", "value", &turns))],
    );
    desk.write_rows(
        "dialogue.parquet",
        vec![(
            "talk",
            conversation("role", "content", &[("user", "q"), ("assistant", "a")]),
        )],
    );
    let text = r#"[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]"#;
    desk.write_rows(
        "text.parquet",
        vec![("id", texts(["1"])), ("log", texts([text]))],
    );
    desk.write_rows(
        "qa.parquet",
        vec![
            ("question", texts(["q", "r"])),
            ("answer", texts(["a", "b"])),
        ],
    );
    desk.write_rows(
        "odd.parquet",
        vec![("this", texts(["q"])), ("that", texts(["a"]))],
    );
    for (file, line, columns) in [
        (
            "sharegpt.parquet",
            "chat, with `columns: {messages: conversations}`",
            json!({"messages": "conversations"}),
        ),
        (
            "dialogue.parquet",
            "chat, with `columns: {messages: talk}`",
            json!({"messages": "talk"}),
        ),
        (
            "text.parquet",
            "chat, with `columns: {messages: log}`",
            json!({"messages": "log"}),
        ),
        (
            "qa.parquet",
            "completion, with `columns: {prompt: question, completion: answer}`",
            json!({"prompt": "question", "completion": "answer"}),
        ),
    ] {
        let ran = desk.run(&["inspect", file, "--base", &base]);
        ran.says(file, 0, &[]);
        assert!(ran.stdout.contains(line), "no `{line}` in\n{}", ran.stdout);
        let ran = desk.run(&["inspect", file, "--base", &base, "--json"]);
        assert_eq!(json_of(&ran)["format_columns"], columns);
        assert!(
            json_of(&ran)["token_lengths"]["tokens"]
                .as_u64()
                .is_some_and(|tokens| tokens > 0),
            "{ran:?}"
        );
    }
    let asked = [
        "inspect",
        "qa.parquet",
        "--format",
        "completion",
        "--base",
        &base,
    ];
    let ran = desk.run(&asked);
    ran.says(
        "no columns",
        65,
        &[
            "has no column `prompt`",
            "`--columns prompt=question,completion=answer`",
        ],
    );
    assert!(
        !ran.stderr.contains("columns: {"),
        "a recipe's line is of no use here: {}",
        ran.stderr
    );
    let with = |columns: &'static str| [&asked[..], &["--columns", columns]].concat();
    let ran = desk.run(&[&with("prompt=question,completion=answer")[..], &["--json"]].concat());
    ran.says("columns", 0, &[]);
    assert_eq!(json_of(&ran)["token_lengths"]["rows"], 2);
    desk.run(&with("prompt=questions")).says(
        "a typo",
        65,
        &["did you mean `question`?", "--columns prompt=question"],
    );
    desk.run(&with("text=question")).says(
        "of another format",
        2,
        &["format `completion` has no column `text`"],
    );
    desk.run(&with("question"))
        .says("no pair", 2, &["such as `prompt=question`"]);
    desk.run(&[
        "inspect",
        "qa.parquet",
        "--columns",
        "instruction=question,output=answer",
    ])
    .says("named", 0, &[]);
    let ran = desk.run(&["inspect", "odd.parquet"]);
    ran.says("odd", 0, &[]);
    assert!(
        ran.stdout
            .contains("none that its columns look like: give `--format` and `--columns`"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_file_of_another_kind_is_told_with_the_way_to_parquet() {
    let desk = Desk::new();
    let line = concat!(
        r#"{"messages": [{"role": "user", "content": "q"}, "#,
        r#"{"role": "assistant", "content": "a"}]}"#
    );
    desk.write("law.jsonl", format!("{line}\n{line}\n"));
    desk.write("law.json", format!("[{line}]"));
    desk.write(
        "law.csv",
        "word,field,definition\nAbactor,law,One who steals\n",
    );
    desk.write("law.tsv", "word\tfield\nAbactor\tlaw\n");
    desk.write("named.parquet", format!("{line}\n{line}\n"));
    desk.write("law.txt", "a line of a text\nand another one\n");
    desk.write("law.feather", b"ARROW1\0\0rest");
    for (file, kind, hint) in [
        (
            "named.parquet",
            "JSON Lines",
            "`rankine convert named.parquet --out named.converted.parquet`",
        ),
        ("law.feather", "an Arrow (Feather) file", "Parquet"),
    ] {
        let said = format!("`{file}` is {kind}, expected a Parquet file");
        for verb in ["check", "plan", "train"] {
            let ran = desk.run(&[verb, "recipe.yaml", &format!("datasets.0.path={file}")]);
            ran.says(&format!("{verb} {file}"), 65, &[&said, hint]);
            assert!(!ran.stderr.contains("Corrupt footer"), "{}", ran.stderr);
        }
        desk.run(&["inspect", file])
            .says(&format!("inspect {file}"), 65, &[&said, hint]);
    }
    for (file, hint) in [
        ("law.jsonl", "its columns are those of `format: chat`"),
        ("law.json", "its columns are those of `format: chat`"),
        ("law.csv", "say which column holds it"),
        ("law.tsv", "say which column holds it"),
    ] {
        for verb in ["check", "plan", "train"] {
            let ran = desk.run(&[verb, "recipe.yaml", &format!("datasets.0.path={file}")]);
            ran.says(
                &format!("{verb} {file}"),
                65,
                &[&format!("`{file}`"), "`text`", hint],
            );
        }
        desk.run(&["inspect", file])
            .says(&format!("inspect {file}"), 0, &["converted to Parquet"]);
    }
    let ran = desk.run(&["check", "recipe.yaml", "datasets.0.path=law.txt"]);
    ran.says(
        "a text",
        65,
        &[
            "`law.txt` is text, expected a Parquet file",
            "rankine convert law.txt --out law.parquet",
        ],
    );
    // A folder that holds no other files.
    fs::create_dir(desk.path("raw")).unwrap();
    desk.write("raw/law.csv", "word,field\nAbactor,law\n");
    for path in ["raw/*.parquet", "raw/law.parquet"] {
        let ran = desk.run(&["check", "recipe.yaml", &format!("datasets.0.path={path}")]);
        ran.says(path, 65, &["raw/law.csv`, which is CSV: `rankine convert "]);
    }
    // What begins as a Parquet file and does not end as one is broken, whatever its name.
    fs::rename(desk.path("rows.parquet"), desk.path("rows.jsonl")).unwrap();
    desk.run(&["check", "recipe.yaml", "datasets.0.path=rows.jsonl"])
        .says("another name", 0, &[]);
    desk.run(&["inspect", "rows.jsonl"])
        .says("another name", 0, &[]);
    desk.cut("rows.jsonl", 0.5);
    let ran = desk.run(&["check", "recipe.yaml", "datasets.0.path=rows.jsonl"]);
    ran.says(
        "cut",
        65,
        &[
            "is not a whole Parquet file",
            "hint: download or copy it again",
        ],
    );
    assert!(!ran.stderr.contains("convert"), "{}", ran.stderr);
}

#[test]
fn a_recipe_of_another_trainer_is_told_line_by_line() {
    const AXOLOTL: &str = "base_model: smollm2
adapter: lora
lora_r: 16
lora_alpha: 32
lora_dropout: 0.05
lora_target_linear: true
load_in_4bit: true
sequence_len: 2048
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 1
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
val_set_size: 0.05
wandb_project:
bf16: auto
datasets:
  - path: data.jsonl
    type: chat_template
    field_messages: messages
output_dir: ./out
";
    let desk = Desk::new();
    desk.write("axolotl.yaml", AXOLOTL);
    let ran = desk.run(&["check", "axolotl.yaml"]);
    ran.says("Axolotl", 65, &[]);
    // Each fault with the hint below it.
    let hint = |fault: &str| {
        let mut lines = ran.stderr.lines().skip_while(|line| !line.contains(fault));
        lines
            .next()
            .unwrap_or_else(|| panic!("no `{fault}` in\n{}", ran.stderr));
        lines
            .next()
            .filter(|line| line.contains("hint: "))
            .unwrap_or_else(|| panic!("no hint for `{fault}`\n{}", ran.stderr))
    };
    for (fault, expected) in [
        (
            "adapter: expected keys with values, found `lora`",
            "`adapter: {method: lora}`",
        ),
        ("unknown key `lora_r`", "`r`? It belongs in `adapter`"),
        (
            "unknown key `lora_alpha`",
            "`alpha`? It belongs in `adapter`",
        ),
        (
            "unknown key `lora_dropout`",
            "`dropout`? It belongs in `adapter`",
        ),
        (
            "unknown key `lora_target_linear`",
            "`adapter.target_modules: all-linear`",
        ),
        ("unknown key `load_in_4bit`", "`adapter.method: qlora`"),
        ("unknown key `sequence_len`", "belongs in `training`"),
        ("unknown key `val_set_size`", "belongs in `evaluation`"),
        ("unknown key `type` in `datasets.0`", "`format`"),
        (
            "unknown key `field_messages` in `datasets.0`",
            "`columns: {messages: messages}`",
        ),
        ("unknown key `wandb_project`", "remove it"),
        ("unknown key `bf16`", "remove it"),
        ("missing key `format`", "`format: chat`"),
    ] {
        assert!(hint(fault).contains(expected), "{fault}: {}", hint(fault));
    }
    for (over, expected) in [
        ("adapter.rank=8", "did you mean `r`?"),
        ("adapter.lora_rank=8", "did you mean `r`?"),
        ("training.lr=1e-4", "did you mean `learning_rate`?"),
        ("training.batch_size=4", "did you mean `micro_batch_size`?"),
        (
            "training.per_device_train_batch_size=4",
            "did you mean `micro_batch_size`?",
        ),
        ("training.epochs=4", "did you mean `num_epochs`?"),
        ("training.num_train_epochs=4", "did you mean `num_epochs`?"),
        ("training.iters=4", "did you mean `max_steps`?"),
        ("training.max_seq_length=64", "did you mean `sequence_len`?"),
        ("training.cutoff_len=64", "did you mean `sequence_len`?"),
        ("training.block_size=64", "did you mean `sequence_len`?"),
        ("training.clip_grad_norm=1", "did you mean `max_grad_norm`?"),
        ("training.optim=adamw_torch", "did you mean `optimizer`?"),
        (
            "training.lr_scheduler_type=cosine",
            "did you mean `lr_scheduler`?",
        ),
        ("training.fp16=true", "`training.model_dtype: float16`"),
        ("training.packing=true", "did you mean `sample_packing`?"),
        (
            "finetuning_type=lora",
            "did you mean `method`? It belongs in `adapter`",
        ),
        ("lora_parameters.rank=8", "did you mean `adapter`?"),
        (
            "lora_target=all",
            "did you mean `target_modules`? It belongs in `adapter`",
        ),
        ("load_in_8bit=true", "`adapter.quantization: int8`"),
        ("load_in_4bit=false", "remove it"),
        ("quantization_bit=8", "`adapter.quantization: int8`"),
        ("flash_attention=true", "remove it"),
        (
            "save_strategy=steps",
            "`output.save_steps: STEPS`, with 0 for the ends of epochs",
        ),
        ("saves_per_epoch=4", "`output.save_steps: STEPS`"),
        (
            "num_layers=16",
            "`adapter.layers_to_transform: LIST`, the numbers of the layers",
        ),
        (
            "lora_scale=20.0",
            "`adapter.alpha: ALPHA`, which is the scale times r",
        ),
        (
            "global_batch_size=32",
            "`training.micro_batch_size: ROWS`, and beside it `gradient_accumulation_steps`",
        ),
        ("stage=dpo", "`dpo` is not built"),
        ("stage=sft", "remove it"),
        ("template=llama3", "the base's own chat template is used"),
        ("model_name_or_path=x", "did you mean `base_model`?"),
        (
            "eval_strategy=steps",
            "`evaluation.eval_steps: STEPS`, with 0",
        ),
        ("mask_prompt=true", "`train_on: assistant`"),
        ("train_on_inputs=true", "`train_on: all`"),
        ("datasets.0.format=alpaca", "`format: instruction`"),
        ("datasets.0.format=sharegpt", "`format: chat`"),
        ("datasets.0.format=chat_template.argilla", "`format: chat`"),
        (
            "datasets.0.columns={query: text}",
            "the format's name comes first: `text: query`",
        ),
        ("training.model_dtype=bf16", "`model_dtype: bfloat16`"),
        ("training.optimizer=adamw_hf", "`optimizer: adamw`"),
        ("adapter.method=dora", "`use_dora: true`"),
        ("adapter.quantization=4bit", "`quantization: nf4`"),
        ("adapter.target_modules=all", "`target_modules: all-linear`"),
        (
            "adapter.target_modules='q_proj,v_proj'",
            "`[q_proj, v_proj]`",
        ),
        ("device=mps", "`device: wgpu`"),
    ] {
        desk.run(&["check", "recipe.yaml", over])
            .says(over, 65, &[expected]);
    }
}

/// A desk with a run.
fn trained() -> Desk {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml", "output.save_steps=1"])
        .says("train", 0, &[]);
    desk
}

/// Every verb that takes an adapter, with the exit code of one that is taken.
fn verbs(adapter: &str) -> Vec<(Vec<String>, i32)> {
    let out = format!("out-{}", adapter.replace(['/', '.'], "-"));
    let of = |arguments: &[&str]| {
        arguments
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    vec![
        (
            of(&[
                "generate",
                "--adapter",
                adapter,
                "--base",
                "base",
                "--prompt",
                "x",
                "--max-tokens",
                "2",
            ]),
            0,
        ),
        (
            of(&[
                "merge",
                "--adapter",
                adapter,
                "--base",
                "base",
                "--out",
                &format!("{out}-merged"),
            ]),
            0,
        ),
        (
            of(&[
                "export",
                adapter,
                "--to",
                "peft",
                "--out",
                &format!("{out}-peft"),
            ]),
            0,
        ),
        (
            of(&[
                "export",
                "--adapter",
                adapter,
                "--to",
                "mlx",
                "--base",
                "base",
                "--out",
                &format!("{out}-mlx"),
            ]),
            0,
        ),
        (
            of(&[
                "eval",
                "recipe.yaml",
                "--adapter",
                adapter,
                "--data",
                "rows.parquet",
            ]),
            0,
        ),
        (of(&["inspect", adapter]), 0),
        (
            of(&[
                "check",
                "recipe.yaml",
                "adapter.r=",
                &format!("adapter.init_from={adapter}"),
            ]),
            0,
        ),
        // There is no network: what is to be pushed is looked at before.
        (of(&["push", adapter, "me/name"]), 69),
    ]
}

fn run(desk: &Desk, arguments: &[String]) -> Ran {
    desk.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_run_and_a_checkpoint_are_adapters_in_every_verb() {
    let desk = trained();
    for adapter in ["run", "run/adapter", "run/checkpoints/step-1"] {
        for (arguments, exit) in verbs(adapter) {
            run(&desk, &arguments).says(&arguments.join(" "), exit, &[]);
        }
        let mut chat = desk.command(&["chat", "--adapter", adapter]);
        let said = chat.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
}

#[test]
fn what_is_no_adapter_is_called_what_it_is_in_every_verb() {
    let desk = trained();
    desk.run(&["export", "run", "--to", "mlx", "--out", "mlx"])
        .says("mlx", 0, &[]);
    #[cfg(unix)]
    link(&desk, "gone/run", "dangling");
    let cases: &[(&str, &[&str])] = &[
        (
            "mlx",
            &[
                "`mlx` is an adapter of mlx-lm, expected one in PEFT's format",
                "hint: name the run or the PEFT folder",
            ],
        ),
        ("base", &["`base` holds no adapter: it is a model"]),
        (
            "run/adapter/adapter_model.safetensors",
            &["is a file", "name the folder", "`run/adapter`"],
        ),
        #[cfg(unix)]
        (
            "dangling",
            &["`dangling` is a link to `gone/run`, which does not exist"],
        ),
    ];
    for (adapter, parts) in cases {
        for (arguments, _) in verbs(adapter) {
            // A model is exported and looked at as what it is.
            let is_model =
                *adapter == "base" && ["export", "inspect"].contains(&arguments[0].as_str());
            if is_model {
                continue;
            }
            let (ran, what) = (run(&desk, &arguments), arguments.join(" "));
            assert!([65, 66].contains(&ran.exit), "{what}: {ran:?}");
            ran.says(&what, ran.exit, parts);
        }
    }
    // And where a model or a run is wanted.
    let models: &[(&str, &[&str])] = &[
        (
            "run/adapter",
            &[
                "the folder holds an adapter, expected a model",
                "hint: name the adapter with `--adapter run/adapter`",
            ],
        ),
        (
            "run",
            &[
                "the folder holds a run, expected a model",
                "hint: name the run with `--adapter run`",
            ],
        ),
        (
            "mlx",
            &["the folder holds an adapter of mlx-lm, expected a model"],
        ),
        (
            "base/config.json",
            &["is a file", "hint: name the folder that it is in, `base`"],
        ),
        #[cfg(unix)]
        (
            "dangling",
            &[
                "`dangling` is a link to `gone/run`, which does not exist",
                "hint: restore what the link leads to",
            ],
        ),
    ];
    for (base, parts) in models {
        for arguments in [
            vec!["generate", "--base", base, "--prompt", "x"],
            vec!["quantize", base, "--out", "packed"],
            vec![
                "merge",
                "--adapter",
                "run",
                "--base",
                base,
                "--out",
                "merged",
            ],
            vec!["check", "recipe.yaml", &format!("base_model={base}")],
        ] {
            let (ran, what) = (desk.run(&arguments), arguments.join(" "));
            assert!([65, 66].contains(&ran.exit), "{what}: {ran:?}");
            ran.says(&what, ran.exit, parts);
        }
    }
    for verb in ["resume", "report"] {
        desk.run(&[verb, "recipe.yaml"]).says(
            verb,
            65,
            &["`recipe.yaml` is a file, expected the folder of a run"],
        );
        #[cfg(unix)]
        desk.run(&[verb, "dangling"]).says(
            verb,
            66,
            &["run `dangling` is a link to `gone/run`, which does not exist"],
        );
    }
    // A file of an adapter that is a link which leads nowhere, as in a cache of the Hub that lost a
    // blob.
    #[cfg(unix)]
    {
        fs::create_dir(desk.path("lost")).unwrap();
        link(&desk, "../blobs/1", "lost/adapter_config.json");
        for (arguments, _) in verbs("lost") {
            let (ran, what) = (run(&desk, &arguments), arguments.join(" "));
            ran.says(
                &what,
                ran.exit,
                &["lost/adapter_config.json`: it is a link to `../blobs/1`, which does not exist"],
            );
            assert_ne!(ran.exit, 0, "{what}");
        }
    }
    // Data that are a link which leads nowhere, alone and among others.
    #[cfg(unix)]
    {
        link(&desk, "gone.parquet", "link.parquet");
        for path in ["link.parquet", "'*.parquet'", "."] {
            let ran = desk.run(&["check", "recipe.yaml", &format!("datasets.0.path={path}")]);
            ran.says(
                path,
                65,
                &["link.parquet` is a link to `gone.parquet`, which does not exist"],
            );
        }
    }
}

#[test]
fn validation_rows_that_are_trained_on_are_counted() {
    let desk = Desk::new();
    let row = |row: usize| format!("the term {row} means {}", "so ".repeat(row));
    // Rows 2, 5 and 5 again are trained on; of 90 and 91 nobody has heard.
    desk.write_rows(
        "val.parquet",
        vec![(
            "text",
            texts([row(2), "term 90".into(), row(5), "term 91".into(), row(5)]),
        )],
    );
    desk.write_rows("new.parquet", vec![("text", texts(["term 90", "term 91"]))]);
    let with = "evaluation.datasets=[{path: val.parquet, format: text}]";
    let note = "note: evaluation.datasets.0: 3 of 5 rows of `val.parquet` are trained on too";
    for verb in ["check", "plan", "preview", "train"] {
        let ran = desk.run(&[verb, "recipe.yaml", with]);
        ran.says(verb, 0, &[note]);
        assert_eq!(
            ran.stderr.matches("trained on too").count(),
            1,
            "{}",
            ran.stderr
        );
    }
    let ran = desk.run(&["plan", "recipe.yaml", with, "--json"]);
    assert_eq!(json_of(&ran)["validation_rows_trained_on"], 3);
    let clean = "evaluation.datasets=[{path: new.parquet, format: text}]";
    for verb in ["check", "plan"] {
        let ran = desk.run(&[verb, "recipe.yaml", clean]);
        ran.says(verb, 0, &[]);
        assert!(!ran.stderr.contains("trained on too"), "{}", ran.stderr);
    }
    // Where rows are held out, they are not trained on, and what is equal goes together.
    let ran = desk.run(&["plan", "recipe.yaml", "evaluation.val_set_size=4", "--json"]);
    assert_eq!(
        (
            &json_of(&ran)["validation_rows_trained_on"],
            &json_of(&ran)["validation_rows"]
        ),
        (&json!(0), &json!(4))
    );

    let ran = desk.run(&["eval", "run", "--json"]);
    ran.says("eval", 0, &[note]);
    assert_eq!(json_of(&ran)["sets"][0]["rows_trained_on"], 3);
    for (data, trained, rows) in [
        ("rows.parquet", 12, 12),
        ("val.parquet", 3, 5),
        ("new.parquet", 0, 2),
    ] {
        let ran = desk.run(&["eval", "run", "--data", data, "--json"]);
        ran.says(data, 0, &[]);
        let (set, total) = (&json_of(&ran)["sets"][0], &json_of(&ran)["total"]);
        assert_eq!(
            (
                &set["rows_trained_on"],
                &set["rows"],
                &total["rows_trained_on"]
            ),
            (&json!(trained), &json!(rows), &json!(trained))
        );
        let said = format!("--data: {trained} of {rows} rows of `{data}` are trained on too");
        assert_eq!(ran.stderr.contains(&said), trained > 0, "{}", ran.stderr);
    }
    assert!(Path::new(&desk.path("run/metrics.jsonl")).exists());
}
