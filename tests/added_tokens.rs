//! Tokens that only the files beside tokenizer.json name: ids as transformers' `AutoTokenizer`
//! gives them (`tests/golden/added_tokens/make.py`), and what is told or refused.

mod common;
mod support;

use std::fs;
use std::path::Path;

use common::{golden, json as read};
use rankine::data::tokenize::Tokenizer;
use serde_json::{Map, Value, json};
use support::Desk;

/// A folder with the goldens' tokenizer changed, and files beside it.
fn folder(cases: &Value, case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tokenizer = cases["tokenizer"].clone();
    let put = |into: &mut Value, from: &Value| {
        from.as_object()
            .into_iter()
            .flatten()
            .for_each(|(key, value)| into[key] = value.clone());
    };
    put(&mut tokenizer, &case["tokenizer"]);
    put(&mut tokenizer["model"], &case["model"]);
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in case["files"].as_object().into_iter().flatten() {
        fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

#[test]
fn every_text_has_the_ids_that_transformers_gives_it() {
    let cases = read(&golden("added_tokens/cases.json"));
    let list = cases["cases"].as_array().unwrap();
    assert!(list.len() >= 40, "{}", list.len());
    for case in list {
        let (name, expected) = (case["name"].as_str().unwrap(), &case["expected"]);
        let folder = folder(&cases, case);
        let tokenizer =
            Tokenizer::open(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            tokenizer.vocab_size(),
            usize::try_from(expected["size"].as_u64().unwrap()).unwrap(),
            "{name}"
        );
        for (index, text) in cases["texts"].as_array().unwrap().iter().enumerate() {
            let text = text.as_str().unwrap();
            let ids = |adds: bool| json!(tokenizer.encode(text, adds).unwrap().ids);
            assert_eq!(ids(false), expected["ids"][index], "{name}: {text}");
            assert_eq!(
                ids(true),
                expected["with_special"][index],
                "{name}: {text}, with special tokens"
            );
            assert_eq!(
                json!(tokenizer.ids(text, true).unwrap()),
                expected["with_special"][index],
                "{name}: {text}"
            );
            let decoded = tokenizer
                .decode(&tokenizer.encode(text, true).unwrap().ids, true)
                .unwrap();
            assert_eq!(
                json!(decoded),
                expected["decoded"][index],
                "{name}: {text}, decoded"
            );
        }
        let special = tokenizer.special();
        for (key, ours) in [
            ("bos", &special.bos),
            ("eos", &special.eos),
            ("pad", &special.pad),
            ("unk", &special.unk),
        ] {
            let [token, id] = [0, 1].map(|index| expected["named"][key][index].clone());
            // Python's empty token is none.
            let token = if token == "" { Value::Null } else { token };
            assert_eq!(
                (
                    json!(ours),
                    json!(ours.as_deref().and_then(|word| tokenizer.token_to_id(word)))
                ),
                (token, id),
                "{name}: {key}"
            );
        }
    }
}

/// A folder of the goldens' tokenizer, changed at the root and in its model, with these files.
fn own(change: &Value, model: &Value, files: &Value) -> tempfile::TempDir {
    let cases = read(&golden("added_tokens/cases.json"));
    folder(
        &cases,
        &json!({"tokenizer": change, "model": model, "files": files}),
    )
}

#[test]
fn an_id_of_another_token_is_refused() {
    let cases = [
        (
            json!({"added_tokens.json": {"<x>": 1}}),
            "added_tokens.json` gives `<x>` the id 1, which is that of `</s>`",
        ),
        (
            json!({"added_tokens.json": {"<|im_end|>": 2}}),
            "added_tokens.json` gives `<|im_end|>` the id 2, which is that of `<|im_start|>`",
        ),
        (
            json!({
                "tokenizer_config.json": {
                    "added_tokens_decoder": {"5": {"content": "<x>", "special": true}},
                },
            }),
            "tokenizer_config.json` gives `<x>` the id 5, which is that of `b`",
        ),
    ];
    for (files, said) in cases {
        let error = Tokenizer::open(own(&json!({}), &json!({}), &files).path()).unwrap_err();
        assert!(error.to_string().ends_with(said), "{error}");
    }
    for (files, said) in [
        (
            json!({"added_tokens.json": {"<x>": "a"}}),
            "`<x>` in `DIR/added_tokens.json` is `\"a\"`, expected a token id",
        ),
        (
            json!({"tokenizer_config.json": {"extra_special_tokens": "<x>"}}),
            "`extra_special_tokens` in `DIR/tokenizer_config.json` is `\"<x>\"`, expected a list \
            of tokens, or an object of named ones",
        ),
        (
            json!({"tokenizer_config.json": {"extra_special_tokens": [7]}}),
            "is `7`, expected a token",
        ),
        (
            json!({"tokenizer_config.json": {"pad_token": 7}}),
            "`pad_token` in `DIR/tokenizer_config.json` is `7`, expected a token",
        ),
        (
            json!({"special_tokens_map.json": {"eos_token": ["a"]}}),
            "`eos_token` in `DIR/special_tokens_map.json` is `[\"a\"]`, expected a token",
        ),
        (
            json!({"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "<x>"}}}}),
            "`added_tokens_decoder.x` in `DIR/tokenizer_config.json`",
        ),
        (
            json!({"tokenizer_config.json": {"added_tokens_decoder": []}}),
            "expected an object of tokens by their ids",
        ),
    ] {
        let dir = own(&json!({}), &json!({}), &files);
        let error = Tokenizer::open(dir.path())
            .unwrap_err()
            .to_string()
            .replace(&*dir.path().to_string_lossy(), "DIR");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn what_is_added_or_left_out_is_told() {
    let files = json!({
        "tokenizer_config.json": {
            "extra_special_tokens": ["<|im_start|>"],
            "pad_token": "<pad>",
        },
        "added_tokens.json": {"<x>": 75},
    });
    let tokenizer = Tokenizer::open(own(&json!({}), &json!({}), &files).path()).unwrap();
    let said = [
        "added_tokens.json gives `<x>` the id 75, it is read as 70, as transformers does: its \
        added tokens are not in the order of their ids",
        "tokens that only the files beside tokenizer.json name are added, as transformers does: \
        `<x>` (70), `<|im_start|>` (2)",
        "tokens that only the files beside tokenizer.json name have no row in the embedding, which \
        has 71: `<pad>` (71); a text with one of them is refused",
    ];
    assert_eq!(tokenizer.notes(71), said);
    assert!(
        Tokenizer::open(own(&json!({}), &json!({}), &json!({})).path())
            .unwrap()
            .notes(70)
            .is_empty()
    );
}

/// transformers leaves merges out by chance, each time others (measured: four ways in five calls).
#[test]
fn dropout_of_merges_is_off_and_told() {
    let ids = |model: &Value| {
        let tokenizer = Tokenizer::open(own(&json!({}), model, &json!({})).path()).unwrap();
        let ids: Vec<_> = (0..20)
            .map(|_| tokenizer.encode("ab cd ab cd ab", true).unwrap().ids)
            .collect();
        assert!(ids.iter().all(|one| *one == ids[0]), "{ids:?}");
        (ids[0].clone(), tokenizer.notes(100), tokenizer.hash())
    };
    let plain = ids(&json!({}));
    for share in [0.1, 0.5, 1.0] {
        let (with_dropout, notes, hash) = ids(&json!({"dropout": share}));
        assert_eq!(with_dropout, plain.0);
        assert_eq!(
            notes,
            [format!(
                "tokenizer.json asks for a BPE dropout of {share}, which is off here: with it a \
                text would have other tokens each time"
            )]
        );
        assert_ne!(
            hash, plain.2,
            "what was tokenized by chance before is not taken from a cache"
        );
    }
    assert!(ids(&json!({"dropout": 0.0})).1.is_empty());
}

/// A desk whose base is rankine-tiny without two markers among its added tokens; they stay in the
/// vocabulary.
fn tiny(config: impl FnOnce(&mut Map<String, Value>)) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    fs::create_dir(desk.path("base")).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    for file in fs::read_dir(tiny).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), desk.path("base").join(file.file_name())).unwrap();
    }
    let mut tokenizer: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer.json")).unwrap();
    tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .truncate(1);
    desk.write("base/tokenizer.json", tokenizer.to_string());
    let mut values: Map<String, Value> =
        serde_json::from_str(&desk.read_text("base/tokenizer_config.json")).unwrap();
    config(&mut values);
    desk.write(
        "base/tokenizer_config.json",
        Value::Object(values).to_string(),
    );
    desk
}

const MARKED: &str = "<|im_start|>user\nhi<|im_end|>\n";

#[test]
fn markers_of_a_conversation_are_tokens() {
    let desk = tiny(|_| {});
    desk.write_rows(
        "rows.parquet",
        vec![("text", support::texts(vec![MARKED; 6]))],
    );
    let tokenizer = Tokenizer::open(&desk.path("base")).unwrap();
    // As transformers 5.23 has them.
    assert_eq!(
        (
            tokenizer.encode(MARKED, true).unwrap().ids,
            tokenizer.eos_id()
        ),
        (vec![1, 294, 263, 201, 74, 75, 2, 201], Some(0))
    );
    let ran = desk.run(&["preview", "recipe.yaml", "--row", "0"]);
    ran.says("preview", 0, &[]);
    assert!(ran.stdout.contains("9 tokens"), "{}", ran.stdout);
    let noted = "note: tokens that only the files beside tokenizer.json name are added, as \
        transformers does: `<|im_start|>` (1), `<|im_end|>` (2)";
    desk.run(&["train", "recipe.yaml"])
        .says("train", 0, &[noted]);
    // The GGUF has them as control tokens.
    desk.run(&["export", "base", "--to", "gguf", "--out", "base.gguf"])
        .says("export", 0, &[]);
    desk.run(&["export", "base", "--to", "ollama", "--out", "ollama"])
        .says("ollama", 0, &[]);
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    desk.run(&[
        "export",
        &whole.to_string_lossy(),
        "--to",
        "gguf",
        "--out",
        "whole.gguf",
    ])
    .says("the whole base", 0, &[]);
    let without_name = |path: &str| desk.read(path).len();
    assert_eq!(
        without_name("base.gguf").abs_diff(without_name("whole.gguf")) % 32,
        0
    );
}

#[test]
fn a_token_without_a_row_is_told_and_refused_where_it_is_met() {
    let desk = tiny(|config| {
        config["extra_special_tokens"]
            .as_array_mut()
            .unwrap()
            .push(json!("<aside>"));
    });
    let noted = "note: tokens that only the files beside tokenizer.json name have no row in the \
        embedding, which has 4096: `<aside>` (4096)";
    desk.run(&["train", "recipe.yaml"])
        .says("no row has it", 0, &[noted]);
    desk.write_rows(
        "rows.parquet",
        vec![("text", support::texts(vec!["a <aside> b"; 6]))],
    );
    desk.run(&["train", "recipe.yaml", "output_dir=other"])
        .says(
            "a row has it",
            65,
            &["the tokenizer made token id 4096, the base's embedding has ids below 4096"],
        );
    let ran = desk.run(&[
        "generate",
        "--base",
        "base",
        "--prompt",
        "a <aside> b",
        "--max-tokens",
        "1",
    ]);
    ran.says("a prompt has it", 65, &["4096"]);
    desk.run(&["export", "base", "--to", "gguf", "--out", "x.gguf"])
        .says(
            "a GGUF",
            65,
            &["token `<aside>` has no row in the embedding, which has 4096"],
        );
}
