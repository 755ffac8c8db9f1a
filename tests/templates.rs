//! Chat templates as transformers uses them: which of a model's templates renders a row, how jinja2
//! reads it, with which variables, and where an answer ends.

mod common;
mod support;

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::golden;
use rankine::data::template::{ChatTemplate, Conversation, TemplateError};
use rankine::data::tokenize::SpecialTokens;
use serde_json::{Value, json};
use support::*;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content \
    }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn tort() -> Value {
    json!([{"role": "user", "content": "Define tort."}, {"role": "assistant", "content": "A civil \
        wrong."}])
}

fn tort_and_lien() -> Value {
    json!([
        {"role": "user", "content": "Define tort."}, {"role": "assistant", "content": "A civil \
            wrong."},
        {"role": "user", "content": "And lien?"}, {"role": "assistant", "content": "A claim."},
    ])
}

/// A desk with a copy of the repository's base that chats, and conversations.
fn desk(conversations: &[Value]) -> Desk {
    let desk = Desk::new();
    std::fs::remove_dir_all(desk.path("base")).unwrap();
    copy_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny"),
        &desk.path("base"),
    );
    desk.edit("recipe.yaml", "format: text", "format: chat");
    desk.edit(
        "recipe.yaml",
        "max_steps: 2",
        "max_steps: 1\n  max_dropped: 1.0",
    );
    desk.edit("recipe.yaml", "sequence_len: 64", "sequence_len: 256");
    desk.write_rows(
        "rows.parquet",
        vec![(
            "messages",
            texts(conversations.iter().map(Value::to_string)),
        )],
    );
    desk
}

/// The same with a template of the recipe's.
fn desk_with(template: &str, conversations: &[Value]) -> Desk {
    let desk = desk(conversations);
    desk.write("t.jinja", template);
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nchat_template: t.jinja",
    );
    desk
}

/// The base's templates in `tokenizer_config.json`, in place of its own.
fn name_templates(desk: &Desk, templates: &Value) {
    desk.remove("base/chat_template.jinja");
    let mut config: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer_config.json")).unwrap();
    config["chat_template"] = templates.clone();
    desk.write("base/tokenizer_config.json", config.to_string());
}

/// A row as `preview` shows it, on one line and without bars between its tokens.
#[track_caller]
fn row(ran: &Ran, number: usize) -> String {
    let head = format!("row {number} (");
    let lines = ran
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(1)
        .take_while(|line| !line.is_empty());
    lines
        .map(|line| line.strip_prefix("  ").unwrap())
        .collect::<String>()
        .replace('¦', "")
}

#[track_caller]
fn previewed(desk: &Desk, overrides: &[&str]) -> String {
    let ran = desk.run(&[&["preview", "recipe.yaml", "--row", "0"], overrides].concat());
    ran.says("preview", 0, &[]);
    row(&ran, 0)
}

#[test]
fn every_special_token_that_ends_an_answer_is_trained() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content \
        }}{% if m.role == 'assistant' %}<|im_start|>{% endif %}\
        <|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let shown = previewed(&desk_with(source, &[tort_and_lien()]), &[]);
    assert!(
        shown.contains("⟦A civil wrong.<|im_start|><|im_end|>⟧<|im_start|>user"),
        "{shown}"
    );
    assert!(
        shown.ends_with("⟦A claim.<|im_start|><|im_end|>⟧"),
        "{shown}"
    );
}

/// The second of the two is known to nobody: it is an end because nothing follows on it at the end
/// of the conversation.
#[test]
fn an_end_that_only_the_template_knows_is_trained() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content \
        }}<|im_end|>{% if m.role == 'assistant' %}<|done|>{% endif %}\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    for ends in ["<|im_end|><|done|>", "<|done|>"] {
        let desk = desk_with(
            &source.replace(
                "<|im_end|>{% if",
                &format!("{}{{% if", ends.strip_suffix("<|done|>").unwrap()),
            ),
            &[tort_and_lien()],
        );
        desk.edit(
            "base/tokenizer_config.json",
            "\"<|im_end|>\"",
            "\"<|im_end|>\", \"<|done|>\"",
        );
        let ran = desk.run(&["preview", "recipe.yaml", "--row", "0"]);
        let shown = row(&ran, 0);
        assert!(
            shown.contains(&format!("⟦A civil wrong.{ends}⟧<|im_start|>user")),
            "{ran:?}"
        );
        assert!(shown.ends_with(&format!("⟦A claim.{ends}⟧")), "{shown}");
    }
}

#[test]
fn the_token_that_begins_the_next_turn_is_never_trained() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content \
        }}{% if loop.last or m.role == 'user' %}<|im_end|>{% endif %}\
        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let marked = source.replace(
        "{{ m.content }}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
    );
    for source in [source, &marked] {
        let ran =
            desk_with(source, &[tort_and_lien()]).run(&["preview", "recipe.yaml", "--row", "0"]);
        ran.says(
            "an answer without an end",
            65,
            &[
                "1 of 1 rows are broken",
                "the model would not learn to stop",
            ],
        );
        assert!(ran.stdout.contains("left out, broken: "), "{}", ran.stdout);
    }
    // GLM-4 writes nothing behind an answer, and its generation_config.json has the token that
    // follows among its ends.
    let desk = desk_with(source, &[tort_and_lien()]);
    desk.write(
        "base/generation_config.json",
        json!({"eos_token_id": [0, 1, 2]}).to_string(),
    );
    let shown = previewed(&desk, &[]);
    assert!(
        shown.contains("⟦A civil wrong.<|im_start|>⟧user"),
        "{shown}"
    );
}

#[test]
fn a_namespace_of_outside_is_assigned_to_in_a_generation_block() {
    let source = "{% set ns = namespace(open=false) %}{% for m in messages %}<|im_start|>{{ m.role \
        }}\n{% if m.role == 'assistant' %}{% generation %}{% set ns.open = true %}{{ m.content \
        }}<|im_end|>{% endgeneration %}{% else %}{{ m.content \
        }}<|im_end|>{% endif %}\n{% endfor %}{% if ns.open %}said{% endif %}";
    let shown = previewed(&desk_with(source, &[tort()]), &[]);
    assert!(shown.ends_with("⟦A civil wrong.<|im_end|>⟧said"), "{shown}");
}

const TOOL_USE: &str = "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson \
    }}<|im_end|>\n{% endif %}{% for m in messages %}\
    <|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ \
    c.function.name }} {{ c.function.arguments | tojson }}\
    </call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}\
    <|im_start|>assistant\n{% endif %}";

/// A desk with one conversation that has tools and one that has none.
fn tools_desk() -> Desk {
    let desk = desk(&[]);
    let call =
        json!([{"type": "function", "function": {"name": "statute", "arguments": {"year": 1890}}}]);
    let messages = json!([
        {"role": "user", "content": "Which act?"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": "Sherman"},
        {"role": "assistant", "content": "The Sherman Act."},
    ]);
    let parameters = json!({"type": "object", "properties": {}});
    let tools = json!([
        {"type": "function", "function": {"name": "statute", "parameters": parameters}},
    ]);
    let (messages, tools) = (
        [messages.to_string(), tort().to_string()],
        [tools.to_string(), String::new()],
    );
    desk.write_rows(
        "rows.parquet",
        vec![("messages", texts(messages)), ("tools", texts(tools))],
    );
    desk.edit(
        "recipe.yaml",
        "format: chat",
        "format: chat\n    train_on: all",
    );
    desk
}

#[test]
fn a_conversation_with_tools_is_rendered_by_the_template_that_is_named_so() {
    let in_config = tools_desk();
    let list = json!([
        {"name": "default", "template": CHATML},
        {"name": "tool_use", "template": TOOL_USE},
    ]);
    name_templates(&in_config, &list);
    let in_folder = tools_desk();
    in_folder.write("base/chat_template.jinja", CHATML);
    std::fs::create_dir(in_folder.path("base/additional_chat_templates")).unwrap();
    in_folder.write("base/additional_chat_templates/tool_use.jinja", TOOL_USE);
    in_folder.write("base/additional_chat_templates/notes.txt", "no template");
    for desk in [in_config, in_folder] {
        let ran = desk.run(&["preview", "recipe.yaml", "-n", "2"]);
        ran.says("tools", 0, &[]);
        let (with, without) = (row(&ran, 0), row(&ran, 1));
        assert!(
            with.replace('⟦', "")
                .starts_with("<|im_start|>system␊Tools: [{\"type\""),
            "{with}"
        );
        assert!(
            with.contains("<call>statute {\"year\": 1890}</call><|im_end|>"),
            "{with}"
        );
        assert!(
            !without.contains("system") && without.contains("A civil wrong.<|im_end|>"),
            "{without}"
        );
        // A name in the recipe is for every conversation, and the tokens of another template are
        // not taken from the cache.
        let named = desk.run(&[
            "preview",
            "recipe.yaml",
            "--row",
            "0",
            "chat_template=default",
        ]);
        assert!(!row(&named, 0).contains("<call>"), "{}", named.stdout);
        let named = desk.run(&[
            "preview",
            "recipe.yaml",
            "--row",
            "0",
            "chat_template=tool_use",
        ]);
        assert_eq!(row(&named, 0), with);
    }
}

#[test]
fn named_templates_without_a_default_are_told_by_their_names() {
    let desk = tools_desk();
    name_templates(
        &desk,
        &json!([{"name": "rag", "template": CHATML}, {"name": "tool_use", "template": TOOL_USE}]),
    );
    let said = "the base has chat templates named `rag`, `tool_use`, none named `default`";
    let ran = desk.run(&["preview", "recipe.yaml"]);
    ran.says("no default", 65, &[said, "chat_template: rag"]);
    assert!(!ran.stderr.contains("the base has none"), "{}", ran.stderr);
    desk.run(&["preview", "recipe.yaml", "chat_template=tool_use"])
        .says("one of them", 0, &[]);
    let unknown = desk.run(&["preview", "recipe.yaml", "chat_template=tools"]);
    unknown.says(
        "another",
        65,
        &[
            "chat_template: `tools` does not exist, expected a file, or one of `rag`, `tool_use`, \
            `chatml`",
        ],
    );
    name_templates_wrongly(&desk);
}

fn name_templates_wrongly(desk: &Desk) {
    let mut config: Value =
        serde_json::from_str(&desk.read_text("base/tokenizer_config.json")).unwrap();
    config["chat_template"] = json!([{"name": "default"}]);
    desk.write("base/tokenizer_config.json", config.to_string());
    desk.run(&["preview", "recipe.yaml"]).says(
        "no template in it",
        65,
        &["a template or a list of named templates"],
    );
}

#[test]
fn a_stock_template_is_named_where_the_base_has_its_tokens() {
    let desk = desk(&[tort()]);
    let shown = previewed(&desk, &["chat_template=qwen3"]);
    assert!(
        shown.contains("<|im_start|>user␊Define tort.<|im_end|>")
            && shown.contains("A civil wrong.<|im_end|>"),
        "{shown}"
    );
    let ran = desk.run(&["preview", "recipe.yaml", "chat_template=llama3"]);
    ran.says(
        "foreign tokens",
        65,
        &[
            "the stock template `llama3` writes `<|start_header_id|>`, `<|end_header_id|>`, \
            `<|eot_id|>`",
        ],
    );
}

#[test]
fn line_breaks_of_a_template_are_lf() {
    for end in ["\r\n", "\r"] {
        let source = CHATML.replace('\n', end);
        let shown = previewed(&desk_with(&source, &[tort()]), &["datasets.0.train_on=all"])
            .replace(['⟦', '⟧'], "");
        assert_eq!(
            shown,
            "<|im_start|>user␊Define tort.<|im_end|>␊<|im_start|>assistant␊A civil \
            wrong.<|im_end|>␊",
            "{end:?}"
        );
    }
}

/// Twenty processes that do nothing else, beside a trial that is last in line.
#[test]
#[cfg(unix)]
fn a_template_is_tried_however_busy_the_machine_is() {
    let desk = desk_with(CHATML, &[tort()]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for _ in 0..2 {
            let mut command = std::process::Command::new("nice");
            let inner = desk.command(&["preview", "recipe.yaml"]);
            command
                .args(["-n", "15"])
                .arg(inner.get_program())
                .args(inner.get_args())
                .current_dir(desk.path("."));
            let environment = inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            command
                .envs(environment)
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        is_over.store(true, Relaxed);
    });
}

const THINKS: &str = "{% for m in messages %}<|im_start|>{{ m.role \
    }}\n{% if m.role == 'assistant' and thinks %}hm {% endif %}{{ m.content \
    }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

#[test]
fn variables_of_the_recipe_reach_the_template_and_those_of_a_row_win() {
    let desk = desk_with(THINKS, &[]);
    let columns = vec![
        (
            "messages",
            texts([tort().to_string(), tort().to_string(), tort().to_string()]),
        ),
        (
            "chat_template_kwargs",
            texts(["", "{\"thinks\": true}", "{\"thinks\": false}"]),
        ),
    ];
    desk.write_rows("rows.parquet", columns);
    for (overrides, expected) in [
        (&[][..], [false, true, false]),
        (
            &["chat_template_kwargs.thinks=true"][..],
            [true, true, false],
        ),
        (
            &["chat_template_kwargs.thinks=no"][..],
            [false, true, false],
        ),
    ] {
        let ran = desk.run(&[&["preview", "recipe.yaml", "-n", "3"], overrides].concat());
        ran.says("variables", 0, &[]);
        assert_eq!(
            [0, 1, 2].map(|number| row(&ran, number).contains("hm A civil")),
            expected,
            "{overrides:?} {}",
            ran.stdout
        );
    }
    let ran = desk.run(&["preview", "recipe.yaml", "chat_template_kwargs.think=true"]);
    ran.says(
        "a variable that is not read",
        0,
        &["chat_template_kwargs.think: the chat template does not read it"],
    );
    let ran = desk.run(&["preview", "recipe.yaml", "chat_template_kwargs.tools=[]"]);
    ran.says(
        "a part of the conversation",
        65,
        &["chat_template_kwargs: `tools` is set for each conversation"],
    );
    let rows = |variables: &str| {
        desk.write_rows(
            "rows.parquet",
            vec![
                ("messages", texts([tort().to_string()])),
                ("chat_template_kwargs", texts([variables])),
            ],
        );
        desk.run(&["preview", "recipe.yaml", "--row", "0"])
    };
    for (variables, said) in [
        ("[1]", "expected an object in JSON"),
        ("{\"messages\": 1}", "`messages` is no variable"),
    ] {
        let ran = rows(variables);
        assert!(ran.stdout.contains(said), "{ran:?}");
    }
}

/// The run says which template and variables it was trained with; what is asked of it later is
/// rendered with them.
#[test]
fn what_a_run_was_trained_with_goes_with_its_adapter() {
    let desk = desk_with(THINKS, &[tort()]);
    let recipe = desk.read_text("recipe.yaml").replace(
        "chat_template: t.jinja",
        "chat_template_kwargs: {thinks: true}",
    );
    desk.write("recipe.yaml", recipe);
    desk.write(
        "base/chat_template.jinja",
        THINKS.replace(
            "{% if add_generation_prompt %}<|im_start|>assistant\n",
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinks %}hm {% endif %}",
        ),
    );
    desk.run(&[
        "train",
        "recipe.yaml",
        "evaluation.prompts=[Define tort.]",
        "evaluation.val_set_size=0",
    ])
    .says("train", 0, &[]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    assert!(lock.contains("thinks"), "{lock}");
    let export = ["export", "run", "--to", "peft", "--out", "shipped"];
    desk.run(&export).says("export", 0, &[]);
    let shipped = desk.read_text("shipped/chat_template.jinja");
    assert!(
        shipped.starts_with(
            "{% if thinks is not defined %}{% set thinks = true %}{% endif %}\n{% for m in"
        ),
        "{shipped}"
    );
    let said = |arguments: &[&str]| {
        let ran = desk.run(
            &[
                &[
                    "generate",
                    "--json",
                    "--max-tokens",
                    "8",
                    "--chat",
                    "Define tort.",
                ],
                arguments,
            ]
            .concat(),
        );
        ran.says("generate", 0, &[]);
        let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
        [
            answer["text"].clone(),
            answer["tokens"].clone(),
            answer["prompt_tokens"].clone(),
        ]
    };
    let (of_run, of_file) = (
        said(&["--adapter", "run"]),
        said(&[
            "--adapter",
            "run",
            "--chat-template",
            "shipped/chat_template.jinja",
        ]),
    );
    assert_eq!(of_run, of_file, "the file renders as the run does");
}

#[test]
fn a_row_that_a_template_does_not_mark_is_left_out_and_counted() {
    // Thinking changes what is rendered of a turn, so that neither sentinels nor prefixes hold for
    // it.
    let source = "{% for m in messages %}<|im_start|>{{ m.role \
        }}\n{% if 'secret' in m.content %}-{% else %}{{ m.content }}{% endif %}<|im_end|>\n\
        {% endfor %}";
    let secret = json!([
        {"role": "user", "content": "Define tort."},
        {"role": "assistant", "content": "a secret"},
    ]);
    let desk = desk_with(source, &[tort(), secret]);
    let ran = desk.run(&["preview", "recipe.yaml", "--row", "1"]);
    ran.says(
        "one of two",
        0,
        &[
            "1 of 2 rows are broken and left out; the first: ",
            "does not tell what the assistant says",
        ],
    );
    assert!(
        ran.stdout.contains("left out, broken: ") && ran.stdout.contains("put `{% generation %}`"),
        "{}",
        ran.stdout
    );
    let ran = desk.run(&["preview", "recipe.yaml", "training.max_dropped=0.1"]);
    ran.says(
        "more than may be left out",
        65,
        &[
            "1 of 2 rows are left out",
            "more than `training.max_dropped`, 0.1",
        ],
    );
}

/// What came of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Equal,
    /// The text is equal, and the spans are but for a line break behind an end, which no model has
    /// to write.
    EqualButBreaks,
    /// The text is equal, and a span begins behind the prompt for its answer, where the marked form
    /// of the template begins with it.
    EqualButPrompts,
    /// The text is equal, and nothing tells what is trained: the row would be left out.
    Refused,
    UnequalSpans,
    Unequal,
}

fn judged(file: &Value, case: &Value) -> (Outcome, String) {
    let special = SpecialTokens {
        bos: case["special"]["bos"].as_str().map(str::to_owned),
        eos: case["special"]["eos"].as_str().map(str::to_owned),
        all: case["special"]["all"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect(),
        ..SpecialTokens::default()
    };
    let at = |table: &str, key: &str| {
        &file[table][usize::try_from(case[key].as_u64().unwrap()).unwrap()]
    };
    let given = at("conversations", "conversation");
    let conversation = Conversation {
        messages: given["messages"].as_array().unwrap().clone(),
        tools: given["tools"].as_array().cloned(),
        ..Conversation::default()
    };
    let source = at("sources", "source").as_str().unwrap();
    let started = "2025-01-01T00:00:00Z".parse().unwrap();
    let template = ChatTemplate::new(source, &special, started);
    let text = template
        .as_ref()
        .map_err(Clone::clone)
        .and_then(|template| template.render(&conversation, false));
    match (&text, case["text"].as_str()) {
        (Err(_), None) => return (Outcome::Equal, String::new()),
        (Ok(text), Some(expected)) if text == expected => {}
        (found, expected) => {
            return (
                Outcome::Unequal,
                format!(
                    "{}\n    {}",
                    first_difference(found, expected),
                    case["raises"]
                ),
            );
        }
    }
    let Some(spans) = case["spans"].as_array() else {
        return (Outcome::Equal, String::new());
    };
    let place = |place: &Value| usize::try_from(place.as_u64().unwrap()).unwrap();
    let expected: Vec<_> = spans
        .iter()
        .map(|span| place(&span[0])..place(&span[1]))
        .collect();
    let template = template.unwrap();
    let rendered = match template.render_with_spans(&conversation, false) {
        Ok(rendered) => rendered,
        Err(error) => return (Outcome::Refused, error.to_string()),
    };
    let prompts: Vec<usize> = (0..conversation.messages.len())
        .filter_map(|turn| {
            let before = Conversation {
                messages: conversation.messages[..turn].to_vec(),
                ..conversation.clone()
            };
            let prompt = template.render(&before, true).ok()?;
            rendered.text.starts_with(&prompt).then_some(prompt.len())
        })
        .collect();
    // Marks that touch are one span.
    let [found, expected] = [joined(&rendered.assistant), joined(&expected)];
    let trimmed = |spans: &[Span]| {
        let end = |span: &Span| span.start + rendered.text[span.clone()].trim_end().len();
        spans
            .iter()
            .map(|span| span.start..end(span))
            .collect::<Vec<_>>()
    };
    let said = |spans: &[Span]| {
        spans
            .iter()
            .map(|span| rendered.text[span.clone()].to_owned())
            .collect::<Vec<_>>()
    };
    let [found_short, expected_short] = [trimmed(&found), trimmed(&expected)];
    let pairs = || found_short.iter().zip(&expected_short);
    let begins = |(found, expected): (&Span, &Span)| {
        found.start == expected.start
            || (expected.start < found.start && prompts.contains(&found.start))
    };
    match () {
        () if found == expected => (Outcome::Equal, String::new()),
        () if found_short == expected_short => (Outcome::EqualButBreaks, String::new()),
        () if found.len() == expected.len()
            && pairs().all(|(a, b)| a.end == b.end && begins((a, b))) =>
        {
            (Outcome::EqualButPrompts, String::new())
        }
        () => (
            Outcome::UnequalSpans,
            format!("{:?}\n    expected {:?}", said(&found), said(&expected)),
        ),
    }
}

type Span = std::ops::Range<usize>;

fn joined(spans: &[Span]) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.end == span.start => last.end = span.end,
            _ => joined.push(span.clone()),
        }
    }
    joined
}

fn first_difference(found: &Result<String, TemplateError>, expected: Option<&str>) -> String {
    let (Ok(found), Some(expected)) = (found, expected) else {
        return format!("{found:?}, expected {expected:?}");
    };
    let same = found
        .bytes()
        .zip(expected.bytes())
        .take_while(|(left, right)| left == right)
        .count();
    let around = |text: &str| {
        text[text.floor_char_boundary(same.saturating_sub(40))..]
            .chars()
            .take(100)
            .collect::<String>()
    };
    format!("{:?}\n    expected {:?}", around(found), around(expected))
}

/// Every case of a file of `make_shapes.py`, with what is not equal.
fn judge(file: &Value) -> Vec<(String, Outcome, String)> {
    let name = |case: &Value| {
        format!(
            "{}, {}",
            case["template"].as_str().unwrap(),
            case["shape"].as_str().unwrap()
        )
    };
    let judged = |case: &Value| {
        let (outcome, reason) = judged(file, case);
        (name(case), outcome, reason)
    };
    file["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(judged)
        .collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Of the sample in the tree, what is otherwise: what wraps words and what is drawn by chance is
/// refused, a float in a printed list has Rust's exponent, and `%r` is no format.
const KNOWN: [&str; 5] = ["112", "150", "173", "185", "197"];

#[test]
fn our_own_templates_render_as_transformers_renders_them() {
    let found = judge(&read(&golden("shapes.json")));
    assert!(found.len() > 200, "{}", found.len());
    let unequal: Vec<_> = found
        .iter()
        .filter(|(_, outcome, _)| *outcome != Outcome::Equal)
        .collect();
    for (name, outcome, reason) in &unequal {
        println!("{outcome:?}: {name}\n    {reason}");
    }
    let names: Vec<&str> = unequal
        .iter()
        .map(|(name, ..)| name.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, KNOWN);
}

/// The templates of other projects are not in the tree: `RANKINE_SHAPES` names a file that
/// `tests/golden/make_shapes.py` made of them.
#[test]
fn templates_of_the_hub_render_as_transformers_renders_them() {
    let Ok(path) = std::env::var("RANKINE_SHAPES") else {
        println!("skipped: RANKINE_SHAPES names no file of tests/golden/make_shapes.py");
        return;
    };
    let found = judge(&read(Path::new(&path)));
    for kind in [
        Outcome::Equal,
        Outcome::EqualButBreaks,
        Outcome::EqualButPrompts,
        Outcome::Refused,
        Outcome::UnequalSpans,
        Outcome::Unequal,
    ] {
        let of_kind: Vec<_> = found
            .iter()
            .filter(|(_, outcome, _)| *outcome == kind)
            .collect();
        println!("== {kind:?}: {}", of_kind.len());
        for (name, _, reason) in of_kind.iter().filter(|(.., reason)| !reason.is_empty()) {
            println!("  {name}\n    {reason}");
        }
    }
    // Where the template itself has no marks, trl's marked form of it may begin an answer elsewhere
    // or go on behind its end.
    let is_marked = |name: &str| {
        name.split(',')
            .next()
            .is_some_and(|template| template.ends_with("_training"))
    };
    let wrong = |(name, outcome, _): &&(String, Outcome, String)| {
        *outcome == Outcome::Unequal || (*outcome != Outcome::Equal && is_marked(name))
    };
    let wrong: Vec<_> = found.iter().filter(wrong).map(|(name, ..)| name).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
