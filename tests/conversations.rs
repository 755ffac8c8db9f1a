//! Conversations as data sets write them: what the model is shown of each, what of it is trained,
//! and what is said of the rest. The expected texts are what `apply_chat_template` of transformers
//! 5.23 gives for the same values.

mod support;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Int64Array, ListArray, MapBuilder, StringArray,
    StringBuilder, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use serde_json::{Value, json};
use support::*;

/// Prints what is said, and nothing of calls.
const PLAIN: &str = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ \
    m.content }}<|eot_id|>{% endfor %}\
    {% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}";
/// Prints calls with their arguments as JSON.
const CALLS: &str = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ \
    m.content }}\
    {% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments | tojson \
    }}</call>{% endfor %}<|eot_id|>\
    {% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\
    {% endif %}";

/// A desk with a template, some columns and a recipe of a format, with more keys of the dataset.
fn desk(format: &str, more: &str, template: &str, columns: Vec<(&str, ArrayRef)>) -> Desk {
    let desk = Desk::new();
    desk.edit(
        "recipe.yaml",
        "format: text\n",
        &format!("format: {format}\n{more}"),
    );
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nchat_template: t.jinja",
    );
    desk.edit(
        "recipe.yaml",
        "sequence_len: 64",
        "sequence_len: 600\n  max_dropped: 1.0",
    );
    desk.write("t.jinja", template);
    desk.write_rows("rows.parquet", columns);
    desk
}

/// A desk with conversations as JSON text.
fn chat(more: &str, template: &str, rows: &[Value]) -> Desk {
    desk(
        "chat",
        more,
        template,
        vec![("messages", texts(rows.iter().map(Value::to_string)))],
    )
}

fn preview(desk: &Desk) -> Ran {
    desk.run(&["preview", "recipe.yaml", "-n", "9"])
}

/// A row of a preview as its text, what is trained of it in brackets.
#[track_caller]
fn row(ran: &Ran, row: usize) -> String {
    let start = ran
        .stdout
        .find(&format!("\nrow {row} ("))
        .unwrap_or_else(|| panic!("row {row} in {ran:?}"));
    let block = ran.stdout[start + 1..].split("\n\n").next().unwrap();
    let shown = block
        .split_once('\n')
        .unwrap_or_else(|| panic!("row {row}: {block}\n{}", ran.stderr))
        .1;
    shown.replace("\n  ", "").trim_start().replace('¦', "")
}

/// Holds that a row is broken and why.
#[track_caller]
fn is_broken(desk: &Desk, row: usize, reason: &str) {
    let ran = desk.run(&["preview", "recipe.yaml", "--row", &row.to_string()]);
    assert!(
        ran.stdout.contains("left out, broken: row group 0") && ran.stdout.contains(reason),
        "`{reason}` is not in {ran:?}"
    );
}

fn turn(role: &str, said: &str) -> String {
    format!("<|start_header_id|>{role}<|end_header_id|>{said}<|eot_id|>")
}

/// An answer that is trained.
fn answer(said: &str) -> String {
    format!("<|start_header_id|>assistant<|end_header_id|>⟦{said}<|eot_id|>⟧")
}

fn statute(arguments: &Value) -> Value {
    json!({"type": "function", "function": {"name": "statute", "arguments": arguments}})
}

/// A question, a call, what the tool says, and the answer.
fn with_call(call_turn: Value) -> Value {
    json!([
        {"role": "user", "content": "Which act?"},
        call_turn,
        {"role": "tool", "content": "Sherman"},
        {"role": "assistant", "content": "The Sherman Act."},
    ])
}

fn answered_with(call: &str) -> String {
    turn("user", "Which act?")
        + &answer(call)
        + &turn("tool", "Sherman")
        + &answer("The Sherman Act.")
}

fn tort() -> Value {
    json!([{"role": "user", "content": "Define tort."}, {"role": "assistant", "content": "A civil \
        wrong."}])
}

fn tort_text() -> String {
    turn("user", "Define tort.") + &answer("A civil wrong.")
}

#[test]
fn null_content_beside_calls_is_no_word() {
    let call = json!([statute(&json!({"year": 1890}))]);
    let rows = [
        with_call(json!({"role": "assistant", "content": null, "tool_calls": call})),
        with_call(json!({"role": "assistant", "tool_calls": call})),
    ];
    let ran = preview(&chat("", CALLS, &rows));
    for index in 0..2 {
        assert_eq!(
            row(&ran, index),
            answered_with(r#"<call>statute {"year": 1890}</call>"#)
        );
    }
    let defined = "{% for m in messages %}{{ m.role \
    }}:{% if m.content is defined %}d{% endif %}{% if 'content' in m %}i{% endif %};{% endfor %}";
    let ran = preview(&chat("    train_on: all\n", defined, &rows));
    assert_eq!(
        row(&ran, 0),
        "⟦user:di;assistant:;tool:di;assistant:di;⟧".replacen("⟦u", "u⟦", 1)
    );
}

#[test]
fn null_keys_of_json_text_are_no_keys() {
    let named = PLAIN.replace(
        "{{ m.content }}",
        "{% if 'name' in m %}({{ m.name \
    }}){% endif %}{% if 'tool_calls' in m %}[{{ m.tool_calls | length }}]{% endif %}{{ m.content \
    }}",
    );
    let rows = [json!([
        {"role": "user", "content": "Define tort.", "name": null, "tool_calls": null},
        {"role": "assistant", "content": "A civil wrong.", "name": null, "tool_calls": null},
    ])];
    assert_eq!(row(&preview(&chat("", &named, &rows)), 0), tort_text());
}

#[test]
fn empty_lists_and_empty_reasoning_are_none() {
    let thinking = CALLS.replace(
        "assistant<|end_header_id|>{% endif %}",
        "assistant<|end_header_id|><think>{% endif %}",
    );
    for (key, value) in [
        ("tool_calls", json!([])),
        ("reasoning_content", json!("")),
        ("tool_calls", json!("")),
    ] {
        let mut turns = tort();
        for turn in turns.as_array_mut().unwrap() {
            turn[key] = value.clone();
        }
        let ran = preview(&chat("", &thinking, &[turns]));
        ran.says(key, 0, &[]);
        assert_eq!(row(&ran, 0), tort_text(), "{key} {value}");
    }
}

#[test]
fn arguments_as_json_text_are_what_the_model_will_meet() {
    let with_arguments = |arguments: Value| {
        let calls = [statute(&arguments)];
        with_call(json!({"role": "assistant", "content": "", "tool_calls": calls}))
    };
    let turns = with_arguments(json!("{\"year\": 1890}"));
    let ran = preview(&chat("", CALLS, std::slice::from_ref(&turns)));
    assert_eq!(
        row(&ran, 0),
        answered_with(r#"<call>statute {"year": 1890}</call>"#)
    );
    // A template that takes a text gets the text of the data, to the space.
    let takes_text = CALLS.replace(
        "c.function.arguments | tojson",
        "c.function.arguments if c.function.arguments is string else c.function.arguments | tojson",
    );
    let tight = with_arguments(json!("{\"year\":1890}"));
    let ran = preview(&chat("", &takes_text, &[tight, turns]));
    assert_eq!(
        row(&ran, 0),
        answered_with(r#"<call>statute {"year":1890}</call>"#)
    );
    assert_eq!(
        row(&ran, 1),
        answered_with(r#"<call>statute {"year": 1890}</call>"#)
    );
    let joins = CALLS.replace(
        "{{ c.function.name }} {{ c.function.arguments | tojson }}",
        "{{ c.function.name + ' ' + c.function.arguments }}",
    );
    let object = with_arguments(json!({"year": 1890}));
    assert_eq!(
        row(&preview(&chat("", &joins, &[object])), 0),
        answered_with(r#"<call>statute {"year": 1890}</call>"#)
    );
}

fn list_of(items: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let item = Arc::new(Field::new("item", items.data_type().clone(), true));
    Arc::new(ListArray::new(
        item,
        OffsetBuffer::from_lengths(lengths.iter().copied()),
        items,
        None,
    ))
}

fn object_of(fields: Vec<(&str, ArrayRef)>) -> StructArray {
    let field = |(name, values): (&str, ArrayRef)| {
        (
            Arc::new(Field::new(name, values.data_type().clone(), true)),
            values,
        )
    };
    StructArray::from(fields.into_iter().map(field).collect::<Vec<_>>())
}

fn words(words: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(words.to_vec()))
}

#[test]
fn tool_calls_as_json_texts_are_parsed() {
    let call =
        r#"{"type": "function", "function": {"name": "statute", "arguments": {"year": 1890}}}"#;
    let calls: ArrayRef = list_of(words(&[call]), &[0, 1, 0, 0]);
    let fields = vec![
        ("role", words(&["user", "assistant", "tool", "assistant"])),
        (
            "content",
            words(&["Which act?", "", "Sherman", "The Sherman Act."]),
        ),
        ("tool_calls", calls),
    ];
    let turns = list_of(Arc::new(object_of(fields)), &[4]);
    let whole = CALLS.replace(
        "{{ c.function.name }} {{ c.function.arguments | tojson }}",
        "{{ c | tojson }}",
    );
    let ran = preview(&desk("chat", "", &whole, vec![("messages", turns)]));
    assert_eq!(row(&ran, 0), answered_with(&format!("<call>{call}</call>")));
}

#[test]
fn every_way_to_keep_a_conversation_reads_the_same() {
    let fields = || {
        vec![
            ("role", words(&["user", "assistant"])),
            ("content", words(&["Define tort.", "A civil wrong."])),
        ]
    };
    let json: Vec<String> = tort()
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let texts = words(&json.iter().map(String::as_str).collect::<Vec<_>>());
    let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for turn in tort().as_array().unwrap() {
        for (key, value) in turn.as_object().unwrap() {
            maps.keys().append_value(key);
            maps.values().append_value(value.as_str().unwrap());
        }
        maps.append(true).unwrap();
    }
    let by_key = object_of(
        fields()
            .into_iter()
            .map(|(name, values)| (name, list_of(values, &[2])))
            .collect(),
    );
    let forms: Vec<(&str, ArrayRef)> = vec![
        (
            "a list of objects",
            list_of(Arc::new(object_of(fields())), &[2]),
        ),
        ("a list of JSON texts", list_of(texts, &[2])),
        ("a list of maps", list_of(Arc::new(maps.finish()), &[2])),
        ("an object of lists", Arc::new(by_key)),
        ("JSON text", words(&[&tort().to_string()])),
    ];
    for (form, column) in forms {
        let ran = preview(&desk("chat", "", PLAIN, vec![("messages", column)]));
        ran.says(form, 0, &[]);
        assert_eq!(row(&ran, 0), tort_text(), "{form}");
    }
}

#[test]
fn content_parts_of_text_are_joined_and_others_refused() {
    let parts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect::<Value>()
    };
    let picture = json!([
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "x"}},
    ]);
    let rows = [
        json!([
            {"role": "user", "content": parts(&["Define ", "tort."])},
            {"role": "assistant", "content": parts(&["A civil wrong."])},
        ]),
        json!([{"role": "user", "content": picture}, {"role": "assistant", "content": "A cat."}]),
        json!([{"role": "user", "content": "How many?"}, {"role": "assistant", "content": 5}]),
    ];
    let desk = chat("", PLAIN, &rows);
    assert_eq!(row(&preview(&desk), 0), tort_text());
    let said = "row 1, column `messages`: message 0 has a content part {\"type\":\"image_url\"}, \
        expected parts of type `text`";
    is_broken(&desk, 1, said);
    is_broken(
        &desk,
        2,
        "row 2, column `messages`: message 1 has content 5, expected text",
    );
    let by_part = PLAIN.replace(
        "{{ m.content }}",
        "{% for p in m.content %}{{ p.text }}{% endfor %}",
    );
    assert_eq!(
        row(&preview(&chat("", &by_part, &rows[..1])), 0),
        tort_text(),
        "a template that takes parts gets parts"
    );
}

#[test]
fn turns_of_weight_0_are_context() {
    let turns = |off: Value, on: Value| {
        let mut turns = json!([
            {"role": "user", "content": "Define tort."}, {"role": "assistant", "content": "A \
                crime."},
            {"role": "user", "content": "No."}, {"role": "assistant", "content": "A civil wrong."},
        ]);
        for (turn, more) in [(1, off), (3, on)] {
            turns[turn]
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
        }
        turns
    };
    let rows = [
        turns(json!({"weight": 0}), json!({"weight": 1})),
        turns(json!({"train": false}), json!({"train": true})),
        turns(json!({"loss": 0.0}), json!({})),
        turns(json!({"weight": 0.5}), json!({})),
    ];
    let expected = turn("user", "Define tort.")
        + &turn("assistant", "A crime.")
        + &turn("user", "No.")
        + &answer("A civil wrong.");
    let desk = chat("", PLAIN, &rows);
    let ran = preview(&desk);
    for index in 0..3 {
        assert_eq!(row(&ran, index), expected);
    }
    is_broken(
        &desk,
        3,
        "message 1 has `weight` 0.5, expected 0, 1, true or false",
    );
    assert!(
        !ran.stderr.contains("does not print"),
        "what is acted on is no unread key: {}",
        ran.stderr
    );
    let all = row(&preview(&chat("    train_on: all\n", PLAIN, &rows[..1])), 0);
    assert!(
        all.contains("assistant<|end_header_id|>⟧A crime.<|eot_id|>⟦")
            && all.ends_with("A civil wrong.<|eot_id|>⟧"),
        "{all}"
    );
    let last = row(
        &preview(&chat("    train_on: last\n", PLAIN, &rows[..1])),
        0,
    );
    assert_eq!(last, expected);
}

#[test]
fn a_fault_in_tools_is_told_of_tools_and_one_object_is_a_list() {
    let tool = r#"{"type": "function", "function": {"name": "f"}}"#;
    let printed = format!("{{{{ tools | tojson }}}}{PLAIN}");
    let turns = [tort(), tort(), tort()].map(|turns| turns.to_string());
    let columns = vec![
        ("messages", texts(turns)),
        ("tools", texts([tool, "5", "[1]"])),
    ];
    let desk = desk("chat", "", &printed, columns);
    assert_eq!(row(&preview(&desk), 0), format!("[{tool}]{}", tort_text()));
    is_broken(
        &desk,
        1,
        "row 1, column `tools`: expected a list in JSON: it is `5`",
    );
    is_broken(
        &desk,
        2,
        "row 2, column `tools`: tool 0 is 1, expected an object",
    );
}

#[test]
fn tools_and_keys_that_the_template_does_not_print_are_counted() {
    let tool = r#"[{"type": "function", "function": {"name": "f"}}]"#;
    let mut named = tort();
    named[0]["name"] = json!("Ada");
    named[1]["id"] = json!(7);
    let columns = vec![
        ("messages", texts([tort().to_string(), named.to_string()])),
        ("tools", texts([tool, ""])),
    ];
    let desk = desk("chat", "", PLAIN, columns);
    for run in ["made", "from the cache"] {
        let said = [
            "`rows.parquet`: in 1 of 2 rows `tools` appear nowhere in their text: the chat \
            template does not print them",
            "`rows.parquet`: keys of turns that the chat template does not print: `id` (1 of 2 \
            rows), `name` (1 of 2 rows)",
        ];
        preview(&desk).says(run, 0, &said);
    }
    desk.write(
        "t.jinja",
        format!(
            "{{{{ tools | tojson }}}}{}",
            PLAIN.replace("m.content", "(m.name or '') + m.content")
        ),
    );
    let ran = preview(&desk);
    assert!(
        ran.stderr.contains("does not print: `id` (1 of 2 rows)")
            && !ran.stderr.contains("appear nowhere"),
        "{}",
        ran.stderr
    );
}

#[test]
fn columns_that_are_not_read_are_named() {
    let columns = vec![
        ("messages", texts([tort().to_string()])),
        ("source", texts(["x"])),
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
    ];
    let desk = desk("chat", "", PLAIN, columns);
    let said = "datasets.0: columns of `rows.parquet` that format `chat` does not read: `source`, \
        `id`";
    for verb in ["check", "preview"] {
        desk.run(&[verb, "recipe.yaml"]).says(verb, 0, &[said]);
    }
}

#[test]
fn roles_of_other_data_sets_are_proposed_and_mapped() {
    let turns = json!([{"from": "User", "value": "Define tort."}, {"from": "bot", "value": "A \
        civil wrong."}]);
    let ran = preview(&chat("", PLAIN, std::slice::from_ref(&turns)));
    let said = "column `messages`: message 0 has role \"User\", expected one of system, developer, \
        user, assistant, tool, ipython, human, gpt; if that is meant, add `roles: \
        {User: user, bot: assistant}` to the dataset";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);
    let mapped = chat("    roles: {User: user, bot: assistant}\n", PLAIN, &[turns]);
    assert_eq!(row(&preview(&mapped), 0), tort_text());
    let ran = desk(
        "text",
        "    roles: {bot: assistant}\n",
        PLAIN,
        vec![("text", texts(["x"]))],
    )
    .run(&["check", "recipe.yaml"]);
    ran.says(
        "roles of a text",
        65,
        &["roles: format `text` has no roles", "hint: remove `roles`"],
    );
}

#[test]
fn alpaca_with_system_and_history_has_both_in_its_prompt() {
    let pair = list_of(words(&["Hello", "Good day."]), &[2]);
    let columns = vec![
        ("instruction", texts(["Define tort."])),
        ("output", texts(["A civil wrong."])),
        ("system", texts(["Answer as a judge."])),
        ("history", list_of(pair, &[1])),
    ];
    let ran = preview(&desk("instruction", "", PLAIN, columns));
    let expected = "<|begin_of_text|>Answer as a judge.␊␊### Instruction:␊Hello␊␊### Response:Good \
        day.<|eot_id|>␊␊### Instruction:␊Define tort.␊␊### Response:⟦A civil wrong.<|eot_id|>⟧";
    assert_eq!(row(&ran, 0), expected);
    let columns = vec![
        ("instruction", texts(["q"])),
        ("output", texts(["a"])),
        ("history", texts([r#"["q"]"#])),
    ];
    let ran = preview(&desk("instruction", "", PLAIN, columns));
    assert!(
        ran.stdout
            .contains("column `history`: entry 0 of the history is \"q\""),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_system_column_goes_with_its_conversation() {
    let own = json!([
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]);
    let columns = vec![
        ("messages", texts([tort().to_string(), own.to_string()])),
        (
            "system",
            texts(["Answer as a judge.", "Answer as a judge."]),
        ),
    ];
    let ran = preview(&desk("chat", "", PLAIN, columns));
    assert_eq!(
        row(&ran, 0),
        turn("system", "Answer as a judge.") + &tort_text()
    );
    assert_eq!(
        row(&ran, 1),
        turn("system", "Be short.") + &turn("user", "q") + &answer("a")
    );
    ran.says(
        "a system message of its own",
        0,
        &["in 1 of 2 rows column `system` is not used"],
    );
}

#[test]
fn a_prompt_and_a_completion_may_be_conversations() {
    let turns = |roles: &[&str], contents: &[&str]| {
        list_of(
            Arc::new(object_of(vec![
                ("role", words(roles)),
                ("content", words(contents)),
            ])),
            &[roles.len()],
        )
    };
    let prompt = turns(
        &["user", "assistant", "user"],
        &["Hello", "Good day.", "Define tort."],
    );
    let columns = vec![
        ("prompt", prompt),
        ("completion", turns(&["assistant"], &["A civil wrong."])),
    ];
    let desk_of = |more: &str| desk("completion", more, PLAIN, columns.clone());
    let expected = turn("user", "Hello") + &turn("assistant", "Good day.") + &tort_text();
    assert_eq!(row(&preview(&desk_of("")), 0), expected);
    assert_eq!(row(&preview(&desk_of("    train_on: last\n")), 0), expected);
    let all = row(&preview(&desk_of("    train_on: all\n")), 0);
    assert!(!all.contains("⟧<") && all.contains("Good day."), "{all}");
    let mixed = vec![
        ("prompt", texts(["q"])),
        ("completion", turns(&["assistant"], &["a"])),
    ];
    let ran = preview(&desk("completion", "", PLAIN, mixed));
    let said = "column `completion`: it is a list of messages and the prompt is text, expected \
        text in both or a list of messages in both";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);
}

#[test]
fn numbers_and_dates_read_as_python_prints_them_and_keys_keep_their_order() {
    let arguments = object_of(vec![
        (
            "z",
            Arc::new(Int64Array::from(vec![9_007_199_254_740_993])) as ArrayRef,
        ),
        ("day", Arc::new(Date32Array::from(vec![19_753]))),
        ("a", Arc::new(BooleanArray::from(vec![true]))),
        ("none", Arc::new(Int64Array::from(vec![None::<i64>]))),
    ]);
    let function = object_of(vec![
        ("name", words(&["statute"])),
        ("arguments", Arc::new(arguments)),
    ]);
    let calls = list_of(
        Arc::new(object_of(vec![(
            "function",
            Arc::new(function) as ArrayRef,
        )])),
        &[1],
    );
    let turns = list_of(
        Arc::new(object_of(vec![
            ("role", words(&["assistant"])),
            ("tool_calls", calls),
        ])),
        &[1],
    );
    let ran = preview(&desk("chat", "", CALLS, vec![("messages", turns)]));
    assert_eq!(
        row(&ran, 0),
        answer(r#"<call>statute {"z": 9007199254740993, "day": "2024-01-31", "a": true}</call>"#)
    );
    let long = concat!(
        r#"[{"role": "assistant", "tool_calls": "#,
        r#"[{"function": {"name": "f", "arguments": {"n": 99999999999999999999}}}]}]"#
    );
    let ran = preview(&desk("chat", "", CALLS, vec![("messages", texts([long]))]));
    let said = "the whole number 99999999999999999999 does not fit in 64 bits, write it as text";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);
    let order = json!([{"content": "q", "role": "user", "b": 1, "a": 1e22}]).to_string();
    let ran = preview(&desk(
        "chat",
        "    train_on: all\n",
        "<|eot_id|>{% for m in messages %}{{ m | tojson }}{% endfor %}",
        vec![("messages", texts([order]))],
    ));
    assert_eq!(
        row(&ran, 0),
        r#"<|eot_id|>⟦{"content": "q", "role": "user", "b": 1, "a": 1e+22}⟧"#
    );
}

#[test]
fn messages_in_completion_are_rendered_by_the_template_of_the_base() {
    let table = || {
        vec![(
            "messages",
            texts([
                json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
                    .to_string(),
            ]),
        )]
    };
    let chat = desk("chat", "", PLAIN, table());
    let lists = |role: &str, said: &str| {
        list_of(
            Arc::new(object_of(vec![
                ("role", words(&[role])),
                ("content", words(&[said])),
            ])),
            &[1],
        )
    };
    let pairs = desk(
        "completion",
        "",
        PLAIN,
        vec![
            ("prompt", lists("user", "q")),
            ("completion", lists("assistant", "a")),
        ],
    );
    for desk in [&chat, &pairs] {
        desk.edit("recipe.yaml", "chat_template: t.jinja", "");
        desk.write("base/chat_template.jinja", PLAIN);
    }
    let (of_chat, of_pairs) = (preview(&chat), preview(&pairs));
    assert_eq!(row(&of_pairs, 0), row(&of_chat, 0));
    assert!(!of_pairs.stderr.contains("without a frame"), "{of_pairs:?}");
}

/// Blanks around an answer that the template takes away change nothing in what is trained.
#[test]
fn a_template_that_trims_answers_trains_the_same_of_each() {
    let template = PLAIN.replace("{{ m.content }}", "{{ m.content | trim }}");
    let said = ["abc", " abc", "abc\n", "\n abc  "];
    let rows = said.map(
        |said| json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]),
    );
    let ran = preview(&chat("", &template, &rows));
    for (index, said) in rows.iter().enumerate() {
        assert_eq!(
            row(&ran, index),
            turn("user", "q") + &answer("abc"),
            "{said}"
        );
    }
}
