//! What a person sees of rows and labels before training, and what is refused before training, each
//! with its reason.

mod support;

use support::*;

/// A desk whose rows are conversations and whose recipe has a template of its own.
fn chat_desk(template: &str, conversations: &[&str]) -> Desk {
    let desk = Desk::new();
    desk.edit("recipe.yaml", "format: text", "format: chat");
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nchat_template: t.jinja",
    );
    desk.edit("recipe.yaml", "sequence_len: 64", "sequence_len: 200");
    desk.write_rows(
        "rows.parquet",
        vec![("messages", texts(conversations.to_vec()))],
    );
    desk.write("t.jinja", template);
    desk
}

const TURNS: &str = concat!(
    r#"[{"role": "user", "content": "what is fever"}, "#,
    r#"{"role": "assistant", "content": "a high\ntemperature"}]"#
);

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role \
    }}<|end_header_id|>\n\n\
    {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}\
    {% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}";

#[test]
fn a_conversation_shows_what_is_trained_to_the_character() {
    let desk = chat_desk(TEMPLATE, &[TURNS, TURNS]);
    let ran = desk.run(&["preview", "recipe.yaml"]);
    ran.says("two conversations", 0, &[]);
    insta::assert_snapshot!("conversation", ran.stdout);
    assert!(
        !ran.stdout.contains('\x1b'),
        "no color where there is no terminal"
    );
}

#[test]
fn color_is_for_terminals_and_whoever_asks_and_never_against_no_color() {
    let desk = chat_desk(TEMPLATE, &[TURNS]);
    let run = |environment: &[(&str, &str)]| {
        desk.run_with(&["preview", "recipe.yaml"], environment)
            .stdout
    };
    let plain = run(&[]);
    let color = run(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "")]);
    assert!(
        color.contains("\x1b[32m⟦a") && color.contains("<|eot_id|>⟧\x1b[0m"),
        "{color}"
    );
    assert_eq!(
        color.replace("\x1b[32m", "").replace("\x1b[0m", ""),
        plain,
        "the marks are the same"
    );
    assert_eq!(run(&[("NO_COLOR", "1")]), plain);
}

#[test]
fn no_escape_sequence_of_the_data_reaches_the_terminal() {
    let desk = Desk::new();
    let hostile = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}reversed\r\u{0}";
    desk.write_rows("rows.parquet", vec![("text", texts([hostile, "calm"]))]);
    let ran = desk.run(&["preview", "recipe.yaml", "--row", "0"]);
    ran.says("escape sequences", 0, &[]);
    let is_tame = |text: &str| {
        text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}')
    };
    assert!(is_tame(&ran.stdout) && is_tame(&ran.stderr), "{ran:?}");
    assert!(
        ran.stdout.contains('␛') && ran.stdout.contains("\\u{9b}"),
        "{}",
        ran.stdout
    );

    let raising = "{{ raise_exception(messages[0].content) }}";
    let turn = r#"[{"role": "user", "content": "\u001b[31mred\u001b[2J"}]"#;
    for verb in ["preview", "train"] {
        let ran = chat_desk(raising, &[turn]).run(&[verb, "recipe.yaml"]);
        ran.says(
            "a template that quotes the data",
            65,
            &["refuses the conversation: [text of the data: -v shows it]"],
        );
        assert!(!ran.stderr.contains("red"), "{ran:?}");
        let loud = chat_desk(raising, &[turn]).run(&[verb, "recipe.yaml", "-v"]);
        loud.says(
            "it is shown where that is asked for",
            65,
            &["refuses the conversation: ␛[31mred␛[2J"],
        );
        assert!(is_tame(&ran.stdout) && is_tame(&ran.stderr), "{ran:?}");
        let shown = "row 0 (row 0 of `rows.parquet`): left out, broken: row group 0, row 0, column \
            `messages`: the chat template";
        assert_eq!(
            ran.stdout.contains(shown),
            verb == "preview",
            "{}",
            ran.stdout
        );
    }
}

#[test]
fn any_row_can_be_looked_at_by_its_number_left_out_or_not() {
    let desk = Desk::new();
    let long = "long ".repeat(60);
    desk.write_rows("more.parquet", vec![("text", texts(["", "kept", &long]))]);
    desk.edit(
        "recipe.yaml",
        "    format: text\n",
        "    format: text\n  - path: more.parquet\n    format: text\n",
    );
    desk.edit(
        "recipe.yaml",
        "sequence_len: 64",
        "sequence_len: 100\n  max_dropped: 0.5",
    );
    let run = |row: &str| desk.run(&["preview", "recipe.yaml", "--row", row]);
    for (row, expected) in [
        ("0", "row 0 (row 0 of `rows.parquet`): trained on; "),
        (
            "12",
            "row 12 (row 0 of `more.parquet`): left out, nothing to learn; 0 tokens, 0 trained",
        ),
        ("13", "row 13 (row 1 of `more.parquet`): trained on; "),
        ("14", "left out, longer than `training.sequence_len`, 100"),
    ] {
        let ran = run(row);
        ran.says(row, 0, &[]);
        assert!(ran.stdout.contains(expected), "{}", ran.stdout);
        assert_eq!(
            ran.stdout
                .lines()
                .filter(|line| line.starts_with("row "))
                .count(),
            1,
            "{}",
            ran.stdout
        );
    }
    run("15").says(
        "beyond the last",
        2,
        &["--row 15: there are 15 rows, expected a number from 0 to 14"],
    );
    let cut = desk.run(&[
        "preview",
        "recipe.yaml",
        "--row",
        "14",
        "training.truncation=truncate",
    ]);
    assert!(
        cut.stdout
            .contains("trained on; 100 tokens, 99 trained, cut from "),
        "{}",
        cut.stdout
    );
    let spread = desk.run(&["preview", "recipe.yaml", "-n", "4"]).stdout;
    let shown: Vec<&str> = spread
        .lines()
        .filter(|line| line.starts_with("row "))
        .collect();
    let numbers: Vec<&str> = shown
        .iter()
        .filter_map(|line| line.split(" (").next())
        .collect();
    assert_eq!(
        numbers,
        ["row 0", "row 4", "row 8", "row 13"],
        "what a small source lacks goes to the others"
    );
}

#[test]
fn labels_that_would_teach_the_wrong_thing_are_refused() {
    let answer = |answer: &str| {
        format!(
            "{{% for m in messages %}}{{% if m.role == 'user' %}}{{{{ m.content }}}}<|eot_id|>{{% \
            else %}}{answer}{{% endif %}}{{% endfor %}}"
        )
    };
    let untrained = answer("{% generation %}{{ m.content }}{% endgeneration %}\n<|eot_id|>");
    let endless = answer("{% generation %}{{ m.content }}{% endgeneration %}");
    let marked = "put the token that ends a turn before `{% endgeneration %}`";
    let row = "`rows.parquet`, row group 0, row 0, column `messages`: ";
    for verb in ["preview", "train"] {
        let run = |template: &str| chat_desk(template, &[TURNS]).run(&[verb, "recipe.yaml"]);
        let said = format!(
            "{row}an answer is followed by `<|eot_id|>`, which is not trained: the \
            model would not learn to stop"
        );
        run(&untrained).says("an end of turn that is not trained", 65, &[&said, marked]);
        let said = format!(
            "{row}the last answer has no token that ends its turn: the model would \
            not learn to stop"
        );
        run(&endless).says("an answer without an end", 65, &[&said, marked]);
        let doubled = format!("{{{{ bos_token }}}}{TEMPLATE}");
        run(&doubled).says(
            "two bos",
            65,
            &["the row begins with the bos token twice", "hint: "],
        );
        run("{{ messages | length }}").says(
            "no spans",
            65,
            &["does not tell what the assistant says", "hint: "],
        );
    }
}

#[test]
fn an_answer_is_judged_before_it_is_cut() {
    let cut = [
        "preview",
        "recipe.yaml",
        "training.sequence_len=35",
        "training.truncation=truncate",
    ];
    let ran = chat_desk(TEMPLATE, &[TURNS]).run(&cut);
    ran.says(
        "an end that is cut off",
        0,
        &[
            "1 of 1 rows are cut",
            "no row trains a token that ends a turn",
        ],
    );
    let untrained = TEMPLATE.replace(
        "<|eot_id|>{% endgeneration %}",
        "{% endgeneration %}<|eot_id|>",
    );
    chat_desk(&untrained, &[TURNS]).run(&cut).says(
        "an end that is cut off untrained",
        65,
        &["which is not trained"],
    );
}

#[test]
fn padding_that_is_trained_is_refused() {
    let desk = Desk::new();
    desk.write_rows(
        "rows.parquet",
        vec![(
            "text",
            texts(["fine", "not <|finetune_right_pad_id|> fine"]),
        )],
    );
    let said = [
        "row 1, column `text`: padding token `<|finetune_right_pad_id|>` at position ",
        " has a label; the model would learn to emit padding",
        "hint: take `<|finetune_right_pad_id|>` out of the data",
    ];
    desk.run(&["train", "recipe.yaml"])
        .says("padding", 65, &said);
}

#[test]
fn a_source_that_trains_nothing_is_refused_by_its_name() {
    let desk = Desk::new();
    desk.write_rows("empty.parquet", vec![("text", texts(["", ""]))]);
    desk.edit(
        "recipe.yaml",
        "    format: text\n",
        "    format: text\n  - path: empty.parquet\n    format: text\n",
    );
    let said = "datasets.1: `empty.parquet` has no token to train in 2 rows (0 too long, 2 without \
        a trained token)";
    for verb in ["preview", "train"] {
        desk.run(&[verb, "recipe.yaml", "training.max_dropped=1"])
            .says("a source", 65, &[said, "hint: "]);
    }
    desk.edit(
        "recipe.yaml",
        "  - path: empty.parquet\n    format: text\n",
        "",
    );
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nevaluation:\n  datasets: [{path: empty.parquet, format: text}]",
    );
    let said = "evaluation.datasets.0: `empty.parquet` has no token to train in 2 rows";
    desk.run(&["train", "recipe.yaml", "training.max_dropped=1"])
        .says("a validation set", 65, &[said]);
}

/// Puts zeros in the place of the embedding's rows from `first` on.
fn blank_embeddings(desk: &Desk, first: usize, count: usize) {
    const WIDTH_BYTES: usize = 32 * 4;
    let mut bytes = desk.read("base/model.safetensors");
    let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8
        + header
        + json["model.embed_tokens.weight"]["data_offsets"][0]
            .as_u64()
            .unwrap() as usize;
    bytes[start + first * WIDTH_BYTES..start + (first + count) * WIDTH_BYTES].fill(0);
    desk.write("base/model.safetensors", bytes);
}

#[test]
fn an_end_of_turn_that_the_base_never_learned_is_told() {
    let desk = Desk::new();
    desk.run(&["preview", "recipe.yaml"])
        .says("a base that knows its tokens", 0, &[]);
    // eos, `<|eot_id|>`, is the last of 304.
    blank_embeddings(&desk, 303, 1);
    let said = "token `<|eot_id|>`, id 303, ends turns or documents, and its embedding looks \
        untrained in the base: it is all zeros";
    for verb in ["preview", "train"] {
        desk.run(&[verb, "recipe.yaml"]).says(verb, 0, &[said]);
    }
    for words in [
        "adapter.trainable_token_indices=[303]",
        "adapter.modules_to_save=[embed_tokens]",
    ] {
        let ran = desk.run(&["preview", "recipe.yaml", words]);
        assert!(
            !ran.stderr.contains("looks untrained"),
            "{words} trains it: {}",
            ran.stderr
        );
    }
    desk.run(&[
        "preview",
        "recipe.yaml",
        "adapter.trainable_token_indices=[302]",
    ])
    .says("another row", 0, &[said]);
}
