//! `rankine export --to ollama`: the template renders golden conversations as the chat template
//! does, an answer ends, and the Modelfile is read as it was meant. LOG.md has the run in which
//! Go's own `text/template` rendered the same from these templates.

mod common;
mod support;

use std::fs;
use std::path::Path;

use common::golden;
use rankine::export::ollama::{OllamaError, prove};
use serde_json::{Value, json};
use support::Desk;

/// A command of a Modelfile and its value, read as Ollama's parser reads them.
fn read_modelfile(text: &str) -> Vec<(String, String)> {
    let unquote = |value: &str| {
        let value = value.trim();
        let within = |quote: &str| {
            (value.len() >= 2 * quote.len())
                .then(|| {
                    value
                        .strip_prefix(quote)?
                        .strip_suffix(quote)
                        .map(str::to_owned)
                })
                .flatten()
        };
        match () {
            () if value.starts_with("\"\"\"") => within("\"\"\""),
            () if value.starts_with('"') => within("\""),
            () => Some(value.to_owned()),
        }
    };
    let (mut commands, mut lines) = (Vec::new(), text.split_inclusive('\n'));
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line.split_once(' ').unwrap();
        let (name, rest) = match name {
            "PARAMETER" => rest.split_once(' ').unwrap(),
            name => (name, rest),
        };
        // The value ends with the first line at which its quotes are closed.
        let mut value = rest.to_owned();
        while unquote(&value).is_none() {
            value.push_str(lines.next().expect("the value ends"));
        }
        commands.push((name.to_owned(), unquote(&value).unwrap()));
    }
    commands
}

fn values<'a>(commands: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    commands
        .iter()
        .filter(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
        .collect()
}

#[test]
fn every_base_here_has_a_template_that_is_proven() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny");
    let bases = [
        (golden("archs/llama/model"), "Llama 3.1", vec!["<|eot_id|>"]),
        (golden("archs/mistral/model"), "Mistral v3", vec!["</s>"]),
        (
            golden("archs/qwen2/model"),
            "ChatML with a default system message",
            vec!["<|im_end|>"],
        ),
        (golden("archs/qwen3/model"), "ChatML", vec!["<|im_end|>"]),
        (tiny, "ChatML", vec!["<|im_end|>", "<|endoftext|>"]),
    ];
    for (folder, name, stops) in bases {
        let proof = prove(&folder, None, None)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        assert_eq!(
            (proof.name.as_str(), proof.conversations),
            (name, 7),
            "{}",
            folder.display()
        );
        assert_eq!(proof.stops, stops, "{}", folder.display());
        assert!(!proof.template.contains('@'), "{}", proof.template);
    }
}

#[test]
fn the_chat_templates_of_the_field_are_proven() {
    let llama = golden("archs/llama/model");
    let cases = [
        (
            "ChatML",
            "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + \
            '<|eot_id|>' }}\n{% endfor %}",
            None,
        ),
        (
            "Llama 3",
            "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] \
            + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}\
            {% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\
            {{ content }}{% endfor %}{% if add_generation_prompt %}\
            {{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
            Some("Llama 3"),
        ),
        (
            "day",
            "{{ bos_token }}{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content + \
            '<|eot_id|>' }}{% endfor %}",
            None,
        ),
        (
            "no end",
            "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
            None,
        ),
        (
            "no BOS",
            "{% for m in messages %}{{ m.content + '<|eot_id|>' }}{% endfor %}",
            None,
        ),
        ("refusing", "{{ raise_exception('never') }}", None),
    ];
    for (what, source, expected) in cases {
        let found = prove(&llama, Some(source), None).map(|proof| proof.name);
        match (what, found) {
            (_, Ok(name)) => assert_eq!(Some(name.as_str()), expected, "{what}"),
            ("day", Err(OllamaError::TellsTheDay))
            | ("no BOS" | "ChatML", Err(OllamaError::AddedBos { .. }))
            | ("refusing", Err(OllamaError::RefusesAll { .. })) => {}
            ("no end", Err(OllamaError::Different { expected, .. })) => {
                assert!(expected.contains("[user] What is"), "{expected}");
            }
            (what, Err(error)) => panic!("{what}: {error}"),
        }
    }
    // What Mistral's first templates refuse is left out and told.
    let mistral = golden("archs/mistral/model");
    let v1 = "{{ bos_token }}{% for message in messages %}\
        {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
        {{ raise_exception('roles must alternate') }}{% endif %}\
        {% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
        {% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% endif %}\
        {% endfor %}";
    let proof = prove(&mistral, Some(v1), None).unwrap();
    assert_eq!(
        (proof.name.as_str(), proof.conversations),
        ("Mistral v1", 4)
    );
    assert!(
        proof.notes[0].contains("refuses 3 of 7 conversations"),
        "{:?}",
        proof.notes
    );
    // A template of a model without a BOS of its own, and one that writes what the tokenizer does
    // not.
    let qwen = golden("archs/qwen2/model");
    let plain = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + \
        '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";
    assert_eq!(prove(&qwen, Some(plain), None).unwrap().name, "ChatML");
    let trimming = plain.replace("m.content", "m.content | trim");
    assert!(
        prove(&qwen, Some(&trimming), None).unwrap().notes[0]
            .contains("takes blanks around a message away")
    );
    let smol = "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ \
    '<|im_start|>system\nYou are \"SmolLM\" {{ü}}<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + \
    m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}";
    let proof = prove(&qwen, Some(smol), None).unwrap();
    assert_eq!(proof.name, "ChatML with a default system message");
    assert!(
        proof
            .template
            .contains("{{ \"You are \\\"SmolLM\\\" {{\\U000000fc}}\" }}"),
        "{}",
        proof.template
    );
}

/// A tokenizer's folder whose end of a turn is called otherwise.
fn ending_with(end: &str) -> tempfile::TempDir {
    let (model, folder) = (golden("archs/qwen2/model"), tempfile::tempdir().unwrap());
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let text = fs::read_to_string(model.join(file)).unwrap();
        fs::write(folder.path().join(file), text.replace("<|im_end|>", end)).unwrap();
    }
    folder
}

/// What Granite, Gemma and Qwen 3.5 render, in words of our own.
#[test]
fn the_chat_templates_of_newer_families_are_proven() {
    let granite = "{% for m in messages %}<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content \
        }}<|end_of_text|>\n{% endfor %}{% if add_generation_prompt %}\
        <|start_of_role|>assistant<|end_of_role|>{% endif %}";
    let default = "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>\
        Be \"safe\".<|end_of_text|>\n{% endif %}";
    let gemma = "{% for m in messages %}{% if m.role == 'system' %}{% else %}<start_of_turn>{{ \
        'model' if m.role == 'assistant' else m.role }}\n{% if messages[0].role == 'system' and \
        loop.index == 2 %}{{ messages[0].content + '\n\n' }}{% endif %}{{ m.content \
        }}<end_of_turn>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\
        {{ '\n' }}{% endif %}";
    let gemma4 = "{% for m in messages %}<|turn>{{ 'model' if m.role == 'assistant' else m.role \
        }}\n{{ m.content }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\
        {{ '\n' }}{% endif %}";
    let silent = gemma4.replace("{{ '\n' }}", "{{ '\n<|channel>thought\n<channel|>' }}");
    let thinking = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\
        {{ '\n\n' }}{% endif %}";
    for (name, end, source) in [
        ("Granite", "<|end_of_text|>", granite.to_owned()),
        (
            "Granite with a default system message",
            "<|end_of_text|>",
            format!("{default}{granite}"),
        ),
        ("Gemma", "<end_of_turn>", gemma.to_owned()),
        ("Gemma 4", "<turn|>", gemma4.to_owned()),
        ("Gemma 4 without thinking", "<turn|>", silent),
        ("ChatML without thinking", "<|im_end|>", thinking.to_owned()),
    ] {
        let folder = ending_with(end);
        let proof = prove(folder.path(), Some(&source), None)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((proof.name.as_str(), proof.conversations), (name, 7));
        assert_eq!(proof.stops[0], end, "{name}");
    }
}

#[test]
fn a_folder_is_what_ollama_reads() {
    let desk = Desk::new();
    let mut config: Value =
        serde_json::from_str(&desk.read_text("base/generation_config.json")).unwrap();
    config["do_sample"] = json!(true);
    config["temperature"] = json!(0.6);
    desk.write("base/generation_config.json", config.to_string());
    let ran = desk.run(&[
        "export",
        "base",
        "--to",
        "ollama",
        "--out",
        "new/ollama",
        "--for",
        "ollama",
        "--for",
        "lmstudio",
        "--json",
    ]);
    ran.says(
        "a model",
        0,
        &["note: the chat template takes blanks around a message away"],
    );
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (
            &result["out"],
            &result["template"],
            &result["conversations"]
        ),
        (&"new/ollama".into(), &"Llama 3.1".into(), &7.into())
    );
    assert_eq!(result["stops"], json!(["<|eot_id|>"]));

    let mut files: Vec<_> = fs::read_dir(desk.path("new/ollama"))
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["Modelfile", "README.md", "model.gguf"]);
    let commands = read_modelfile(&desk.read_text("new/ollama/Modelfile"));
    assert_eq!(
        (values(&commands, "FROM"), values(&commands, "stop")),
        (vec!["./model.gguf"], vec!["<|eot_id|>"])
    );
    assert_eq!(values(&commands, "temperature"), ["0.6"]);
    // The template that is read is the one that was proven: given back, it is proven again.
    desk.write("read.gotmpl", values(&commands, "TEMPLATE")[0]);
    let proof = prove(&desk.path("base"), None, Some(&desk.path("read.gotmpl"))).unwrap();
    assert_eq!(
        (proof.conversations, proof.template.as_str()),
        (7, values(&commands, "TEMPLATE")[0])
    );
    // The GGUF is the one that `--to gguf` writes, chat template and all.
    desk.run(&["export", "base", "--to", "gguf", "--out", "model.gguf"])
        .says("gguf", 0, &[]);
    assert_eq!(desk.read("new/ollama/model.gguf"), desk.read("model.gguf"));
    let template: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer_config.json")).unwrap();
    let template = template["chat_template"]
        .as_str()
        .unwrap()
        .as_bytes()
        .to_vec();
    assert!(
        desk.read("model.gguf")
            .windows(template.len())
            .any(|window| window == template),
        "the GGUF's own chat template"
    );

    let again = desk.run(&["export", "base", "--to", "ollama", "--out", "new/ollama"]);
    again.says(
        "an output that is there",
        73,
        &["`new/ollama` exists", "hint: choose another `--out`"],
    );
}

#[test]
fn a_run_is_merged_with_the_template_that_it_was_trained_with() {
    let desk = Desk::new();
    let template = "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + \
        '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' \
        }}{% endfor %}{% if add_generation_prompt %}{{ \
        '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
    desk.write("own.jinja", template);
    desk.run(&["train", "recipe.yaml", "chat_template=own.jinja"])
        .says("train", 0, &[]);
    let ran = desk.run(&[
        "export", "run", "--to", "ollama", "--dtype", "f32", "--out", "out",
    ]);
    ran.says("a run", 0, &[]);
    assert!(
        ran.stdout
            .contains("template  Llama 3, equal to the chat template in 7 conversations"),
        "{ran:?}"
    );
    let gguf = desk.read("out/model.gguf");
    assert!(
        gguf.windows(template.len())
            .any(|window| window == template.as_bytes()),
        "the GGUF has the run's template"
    );
    desk.run(&["merge", "--adapter", "run/adapter", "--out", "merged"])
        .says("merge", 0, &[]);
    desk.write("merged/chat_template.jinja", template);
    desk.run(&[
        "export",
        "merged",
        "--to",
        "gguf",
        "--dtype",
        "f32",
        "--out",
        "merged.gguf",
    ])
    .says("gguf", 0, &[]);
    let tail = |bytes: &[u8]| bytes[bytes.len() - 4096..].to_vec();
    assert_eq!(
        tail(&gguf),
        tail(&desk.read("merged.gguf")),
        "the weights of the merged model"
    );
    let left: Vec<_> = fs::read_dir(desk.path("."))
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains("rankine-tmp")),
        "{left:?}"
    );

    desk.run(&["export", "run", "--to", "gguf", "--out", "run.gguf"])
        .says("a run as one file", 0, &[]);
    // Nothing is merged for a template that is not proven.
    desk.write("own.jinja", template.replace("\n\n", "\n"));
    let ran = desk.run(&["export", "run/adapter", "--to", "ollama", "--out", "other"]);
    ran.says(
        "another template",
        65,
        &[
            "otherwise than the chat template: `..",
            "expected `..",
            "--template FILE",
        ],
    );
    desk.run(&[
        "export",
        "run",
        "--to",
        "ollama",
        "--chat-template",
        "none",
        "--out",
        "other",
    ])
    .says("no file", 66, &["`none`"]);
    assert!(!desk.path("other").exists());
}

#[test]
fn a_template_of_ones_own_is_held_to_the_same() {
    let desk = Desk::new();
    let base = desk.path("base");
    let proven = prove(&base, None, None).unwrap().template;
    let export = |source: &str| {
        desk.write("own.gotmpl", source);
        desk.run(&[
            "export",
            "base",
            "--to",
            "ollama",
            "--template",
            "own.gotmpl",
            "--out",
            "out",
        ])
    };
    let cases: [(&str, String, &[&str]); 6] = [
        (
            "a blank too many",
            proven.replace("assistant<|end", "assistant <|end"),
            &[
                "`own.gotmpl` renders a conversation of user otherwise",
                "assistant <|end_header_id|>",
            ],
        ),
        (
            "no end",
            proven.replace("{{ end }}", ""),
            &["own.gotmpl: line", "has no `end`", "hint: known are"],
        ),
        (
            "an unknown function",
            proven.replace("{{ .System }}", "{{ .System | json }}"),
            &["own.gotmpl: line 3: `|` is not known here"],
        ),
        (
            "no messages",
            "{{ .Prompt }}".to_owned(),
            &["own.gotmpl: line 1: it does not use `.Messages`"],
        ),
        (
            "three quotes",
            format!("{proven}{{{{/* \"\"\" */}}}}"),
            &["the template has three quotes in a row, which a Modelfile cannot hold"],
        ),
        (
            "what is not printed",
            format!("{proven}{{{{/* \u{200b} */}}}}"),
            &["the template has the character `\\u{200b}`"],
        ),
    ];
    for (what, source, said) in cases {
        export(&source).says(what, 65, said);
        assert!(!desk.path("out").exists(), "{what}");
    }
    export(&(proven + "\n")).says("a line break at the end of the file", 0, &[]);
    desk.run(&[
        "export",
        "base",
        "--to",
        "gguf",
        "--template",
        "own.gotmpl",
        "--out",
        "x",
    ])
    .says("not for a GGUF", 2, &["only `--to ollama`"]);
    let ran = desk.run(&[
        "export",
        "base",
        "--to",
        "ollama",
        "--template",
        "none",
        "--out",
        "x",
    ]);
    ran.says("no such file", 74, &["`none`"]);
}

/// A desk with rankine-tiny as its base, whose `tokenizer_config.json` gets these values.
fn tiny(change: &Value) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("base")).unwrap();
    fs::create_dir(desk.path("base")).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny"))
        .unwrap()
        .map(Result::unwrap)
    {
        fs::copy(file.path(), desk.path("base").join(file.file_name())).unwrap();
    }
    let mut config: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer_config.json")).unwrap();
    change
        .as_object()
        .unwrap()
        .iter()
        .for_each(|(key, value)| config[key] = value.clone());
    desk.write("base/tokenizer_config.json", config.to_string());
    desk
}

/// SmolLM2-Instruct has `<|im_start|>` for a BOS: every turn begins with it, and no further one
/// stands before the text.
#[test]
fn a_bos_that_begins_every_turn_is_not_put_before_the_template() {
    let desk = tiny(&json!({"bos_token": "<|im_start|>"}));
    let ran = desk.run(&["export", "base", "--to", "ollama", "--out", "out"]);
    ran.says("a BOS that is a marker", 0, &[]);
    assert!(
        ran.stdout
            .contains("template  ChatML, equal to the chat template in 7 conversations"),
        "{ran:?}"
    );
    // Its default system message likewise.
    let template = desk.read_text("base/chat_template.jinja");
    let first = "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ \
    '<|im_start|>system\nBe brief.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' + \
    m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
    '<|im_start|>assistant\n' }}{% endif %}";
    desk.write("base/chat_template.jinja", first);
    let ran = desk.run(&["export", "base", "--to", "ollama", "--out", "default"]);
    ran.says("a default system message", 0, &[]);
    assert!(
        ran.stdout
            .contains("template  ChatML with a default system message"),
        "{ran:?}"
    );
    // A BOS that the template writes before everything is one of its own still.
    desk.write(
        "base/chat_template.jinja",
        format!("{{{{ '<|endoftext|>' }}}}{template}"),
    );
    desk.write(
        "base/tokenizer_config.json",
        desk.read_text("base/tokenizer_config.json").replace(
            "\"bos_token\":\"<|im_start|>\"",
            "\"bos_token\":\"<|endoftext|>\"",
        ),
    );
    let ran = desk.run(&["export", "base", "--to", "ollama", "--out", "own"]);
    ran.says("a BOS before everything", 0, &[]);
    assert!(
        desk.read_text("own/Modelfile")
            .contains("TEMPLATE \"\"\"{{ \"<|endoftext|>\" }}"),
        "{}",
        desk.read_text("own/Modelfile")
    );
}

/// ChatML ends in a line break, which editors put at the end of a file as well.
#[test]
fn the_last_line_break_of_an_own_template_is_tried_both_ways() {
    let desk = tiny(&json!({}));
    let source = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end \
        }}<|im_start|>assistant";
    let cases = [
        ("as the format needs it", "\n", 0),
        ("with another one of the editor", "\n\n", 0),
        ("with that of another system", "\n\r\n", 0),
        ("without", "", 65),
        ("with two too many", "\n\n\n", 65),
    ];
    for (what, end, exit) in cases {
        desk.write("own.gotmpl", format!("{source}{end}"));
        let ran = desk.run(&[
            "export",
            "base",
            "--to",
            "ollama",
            "--template",
            "own.gotmpl",
            "--out",
            "out",
        ]);
        assert_eq!(ran.exit, exit, "{what}: {ran:?}");
        if exit == 0 {
            let template = values(
                &read_modelfile(&desk.read_text("out/Modelfile")),
                "TEMPLATE",
            )[0]
            .to_owned();
            assert_eq!(template, format!("{source}\n"), "{what}");
            fs::remove_dir_all(desk.path("out")).unwrap();
        }
    }
}
