//! Which tokens are trained.

use rankine::terms::{Format, TrainOn};

use crate::common::golden;
use crate::rows::{ALL, STOCK, batch, chats, encoder, open, seen, source, stock, tally};
use crate::support::{Desk, texts};

const THREE: &[(&str, &str)] = &[
    ("user", "one?"),
    ("assistant", "first"),
    ("user", "two?"),
    ("assistant", "second"),
    ("user", "three?"),
    ("assistant", "third"),
];

/// The system turn that this ChatML template adds where a conversation has none.
const BRIEFED: &str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";

/// What a model of each stock template sees of three turns, with the words and the end of every
/// answer trained. The line break that some templates train behind the end is what their marked
/// forms in transformers train too.
fn three_turns(template: &str) -> String {
    let turns = |user: &str, assistant: &str| {
        let turn = |(question, answer): (&str, &str)| {
            user.replace('?', question) + &assistant.replace('?', answer)
        };
        [("one?", "first"), ("two?", "second"), ("three?", "third")]
            .map(turn)
            .concat()
    };
    match template {
        "chatml" => {
            format!(
                "{BRIEFED}{}",
                turns(
                    "<|im_start|>user\n?<|im_end|>\n",
                    "<|im_start|>assistant\n«?<|im_end|>»\n"
                )
            )
        }
        "deepseek" => format!(
            "<｜begin▁of▁sentence｜>{}",
            turns("<｜User｜>?", "<｜Assistant｜>«?<｜end▁of▁sentence｜>»")
        ),
        "gemma" => {
            format!(
                "<bos>{}",
                turns(
                    "<start_of_turn>user\n?<end_of_turn>\n",
                    "<start_of_turn>model\n«?<end_of_turn>\n»"
                )
            )
        }
        "llama3" => {
            let head = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
            let system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul \
                2024\n\n<|eot_id|>";
            let (user, assistant) = (
                head("user") + "?<|eot_id|>",
                head("assistant") + "«?<|eot_id|>»",
            );
            format!(
                "<|begin_of_text|>{}{system}{}",
                head("system"),
                turns(&user, &assistant)
            )
        }
        "mistral_v3" => format!("<s>{}", turns("[INST] ?[/INST]", "« ?</s>»")),
        "phi3" => turns("<|user|>\n?<|end|>\n", "<|assistant|>\n«?<|end|>\n»") + "<|endoftext|>",
        "qwen3" => {
            let turns = turns(
                "<|im_start|>user\n?<|im_end|>\n",
                "<|im_start|>assistant\n«?<|im_end|>\n»",
            );
            turns.replace("«third", "«<think>\n\n</think>\n\nthird")
        }
        other => panic!("no stock template is called {other}"),
    }
}

/// zai-org/GLM-4#803: labels began at the last `<|assistant|>`, and every answer before it was
/// context only.
#[test]
fn only_the_last_assistant_turn_trained() {
    let desk = Desk::new();
    for name in STOCK {
        let (encoder, _) = stock(&desk, name);
        let mut chat = chats(&desk, &[THREE]);
        assert_eq!(
            seen(&desk, &encoder, std::slice::from_ref(&chat)),
            [three_turns(name)],
            "{name}"
        );
        chat.train_on = TrainOn::Last;
        let last = seen(&desk, &encoder, &[chat]).remove(0);
        let first = last.find('«').unwrap();
        assert!(
            last.contains("third") && first > last.find("three?").unwrap(),
            "{name}, where it is asked for: {last}"
        );
    }
}

/// axolotl-ai-cloud/axolotl#2179: an answer was looked for by the tokens of its words alone, which
/// are others in their place, so it was not found (-1) and not trained, or another place with the
/// same words was.
#[test]
fn every_turn_index_minus_one() {
    let desk = Desk::new();
    let echo: &[(&str, &str)] = &[
        ("user", "assistant"),
        ("assistant", "assistant"),
        ("user", "user\nuser"),
        ("assistant", "user\nuser"),
    ];
    let (chatml, _) = stock(&desk, "chatml");
    let turn = |words: &str| {
        format!("<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n«{words}<|im_end|>»\n")
    };
    assert_eq!(
        seen(&desk, &chatml, &[chats(&desk, &[echo])]),
        [BRIEFED.to_owned() + &turn("assistant") + &turn("user\nuser")]
    );

    // Words that the template trims, and a first token that only stands behind this space.
    let padded: &[(&str, &str)] = &[("user", " so? "), ("assistant", "  so \n")];
    let (gemma, _) = stock(&desk, "gemma");
    let expected =
        "<bos><start_of_turn>user\nso?<end_of_turn>\n<start_of_turn>model\n«so<end_of_turn>\n»";
    assert_eq!(seen(&desk, &gemma, &[chats(&desk, &[padded])]), [expected]);
    let (mistral, _) = stock(&desk, "mistral_v3");
    assert_eq!(
        seen(
            &desk,
            &mistral,
            &[chats(&desk, &[&[("user", "so"), ("assistant", "so")]])]
        ),
        ["<s>[INST] so[/INST]« so</s>»"]
    );
}

/// unslothai/unsloth#3198 and #2900: markers that the template does not write masked everything,
/// and the loss was 0.
#[test]
fn all_labels_minus_100() {
    let desk = Desk::new();
    let (chatml, _) = stock(&desk, "chatml");
    let unanswered: &[(&str, &str)] = &[("system", "be brief"), ("user", "so?")];
    let answered: &[(&str, &str)] = &[("user", "so?"), ("assistant", "so")];
    let some = tally(
        open(
            &desk,
            &chatml,
            &[chats(&desk, &[answered, unanswered, answered])],
            ALL,
        )
        .unwrap(),
    );
    assert_eq!(
        (some.rows, some.kept(), some.untrained),
        (3, 2, 1),
        "a row among others is left out and counted"
    );

    let turns = r#"[{"role": "user", "content": "so?"}]"#;
    desk.write_rows("rows.parquet", vec![("messages", texts([turns; 12]))]);
    desk.edit("recipe.yaml", "format: text", "format: chat");
    desk.edit("recipe.yaml", "sequence_len: 64", "sequence_len: 128");
    for limit in ["0.05", "1"] {
        let all = desk.run(&[
            "train",
            "recipe.yaml",
            &format!("training.max_dropped={limit}"),
        ]);
        all.says(
            "no trained token",
            65,
            &["12 of 12 rows have no token to train", "error: "],
        );
    }
    // A source of its own is not hidden by the others, however many rows may be left out.
    desk.write_rows("good.parquet", vec![("text", texts(["so"; 1000]))]);
    let both = desk.read_text("recipe.yaml").replace(
        "datasets:\n",
        "datasets:\n  - {path: good.parquet, format: text}\n",
    );
    desk.write("recipe.yaml", both);
    let one = desk.run(&["train", "recipe.yaml", "training.max_dropped=1"]);
    one.says(
        "a source",
        65,
        &["datasets.1: `rows.parquet` has no token to train in 12 rows"],
    );
    assert!(!desk.path("run/adapter").exists());
}

/// huggingface/trl#1507: prompt and completion in two columns, and the loss was on both.
#[test]
fn the_whole_prompt_trained() {
    let desk = Desk::new();
    let base = encoder(&golden("archs/llama/model"), None);
    let columns = |names: [&'static str; 2], cells: [&str; 2]| {
        names
            .into_iter()
            .zip(cells.map(|cell| texts([cell])))
            .collect()
    };
    let completion = source(
        &desk,
        "a.parquet",
        Format::Completion,
        columns(["prompt", "completion"], ["What is fever?", " Heat."]),
    );
    assert_eq!(
        seen(&desk, &base, std::slice::from_ref(&completion)),
        ["<|begin_of_text|>What is fever?« Heat.<|eot_id|>»"]
    );

    let instruction = source(
        &desk,
        "b.parquet",
        Format::Instruction,
        columns(["instruction", "output"], ["Define fever.", "Heat."]),
    );
    let prompt = "Below is an instruction that describes a task. Write a response that \
        appropriately completes the request.\n\n### Instruction:\nDefine fever.\n\n### Response:";
    assert_eq!(
        seen(&desk, &base, &[instruction]),
        [format!("<|begin_of_text|>{prompt}«Heat.<|eot_id|>»")]
    );

    let mut all = completion;
    all.train_on = TrainOn::All;
    assert_eq!(
        seen(&desk, &base, &[all]),
        ["<|begin_of_text|>«What is fever? Heat.<|eot_id|>»"],
        "unless it is asked for"
    );
}

/// axolotl-ai-cloud/axolotl#3754: Gemma's turns end with `<end_of_turn>`, its eos is `<eos>`, and
/// only the eos was looked for.
#[test]
fn end_of_turn_not_trained() {
    let desk = Desk::new();
    let (gemma, template) = stock(&desk, "gemma");
    assert_eq!(gemma.tokenizer.special().eos.as_deref(), Some("<eos>"));
    assert!(
        !template.contains("<eos>") && !template.contains("eos_token"),
        "its eos is meant to end no turn"
    );
    assert_eq!(
        seen(&desk, &gemma, &[chats(&desk, &[THREE])]),
        [three_turns("gemma")]
    );

    let marks = |end: &str| {
        format!(
            "{{% for m in messages %}}{{{{ m.role }}}}: {{% if m.role == 'assistant' %}}{{% \
            generation %}}{{{{ m.content }}}}{end}{{% endif %}}{{% endfor %}}"
        )
    };
    let turns = r#"[{"role": "user", "content": "so?"}, {"role": "assistant", "content": "so"}]"#;
    desk.write_rows("rows.parquet", vec![("messages", texts([turns; 12]))]);
    desk.edit("recipe.yaml", "format: text", "format: chat");
    for (name, end) in [
        ("open", "{% endgeneration %}<|eot_id|>"),
        ("none", "{% endgeneration %}"),
    ] {
        desk.write("t.jinja", marks(end));
        let ran = desk.run(&["train", "recipe.yaml", "chat_template=t.jinja"]);
        ran.says(name, 65, &["the model would not learn to stop"]);
        assert!(!desk.path("run/adapter").exists());
    }
    desk.write("t.jinja", marks("<|eot_id|>{% endgeneration %}"));
    desk.run(&["train", "recipe.yaml", "chat_template=t.jinja"])
        .says("closed", 0, &[]);
}

/// huggingface/transformers#47325: the end of a span at the first token, or on white space that the
/// tokenizer strips, was taken for one that is missing, and the next message was trained to its
/// end.
#[test]
fn end_of_turn_given_to_the_next_message() {
    let desk = Desk::new();
    let (chatml, _) = stock(&desk, "chatml");
    let turns: &[(&str, &str)] = &[
        ("system", "s"),
        ("user", "q"),
        ("assistant", "a"),
        ("assistant", " b "),
        ("user", "r"),
        ("user", "t"),
    ];
    let turn = |role: &str, words: &str| format!("<|im_start|>{role}\n{words}<|im_end|>\n");
    let answer = |words: &str| format!("<|im_start|>assistant\n«{words}<|im_end|>»\n");
    let expected = [
        turn("system", "s"),
        turn("user", "q"),
        answer("a"),
        answer(" b "),
        turn("user", "r"),
        turn("user", "t"),
    ]
    .concat();
    assert_eq!(seen(&desk, &chatml, &[chats(&desk, &[turns])]), [expected]);

    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ \
        m.content }}<|eot_id|>{% endgeneration %}\
        {% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}";
    let base = encoder(&golden("archs/llama/model"), Some(template));
    let chat = chats(
        &desk,
        &[
            &[("assistant", ""), ("user", "q")],
            &[("assistant", "A"), ("user", "q")],
        ],
    );
    assert_eq!(
        open(&desk, &base, std::slice::from_ref(&chat), ALL)
            .unwrap()
            .len(),
        1,
        "nothing predicts a first token"
    );
    assert_eq!(seen(&desk, &base, &[chat]), ["A«<|eot_id|>»q<|eot_id|>"]);
}

/// huggingface/transformers#23530, huggingface/trl#976: labels equal to the padding token were
/// masked, and eos was that token.
#[test]
fn pad_equal_eos_masks_the_eos() {
    let desk = Desk::new();
    let base = encoder(
        &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoints/rankine-tiny"),
        None,
    );
    let special = base.tokenizer.special();
    assert_eq!(
        (special.pad.as_deref(), &special.eos),
        (Some("<|endoftext|>"), &special.pad)
    );
    let rows = ["so", "so so so so so so so so", "a"];
    let source = source(
        &desk,
        "a.parquet",
        Format::Text,
        vec![("text", texts(rows))],
    );
    let whole = |row: &str| {
        let first = base
            .tokenizer
            .decode(&base.tokenizer.encode(row, true).unwrap().ids[..1], false)
            .unwrap();
        format!("{first}«{}<|endoftext|>»", &row[first.len()..])
    };
    assert_eq!(
        seen(&desk, &base, std::slice::from_ref(&source)),
        rows.map(whole),
        "nothing predicts a row's first token"
    );

    let batch = batch(&open(&desk, &base, &[source], ALL).unwrap());
    let eos = base.tokenizer.eos_id().unwrap().cast_signed();
    assert_eq!(
        batch
            .targets
            .iter()
            .filter(|target| **target == eos)
            .count(),
        rows.len(),
        "one each, and no padding"
    );
    assert!(
        batch.lengths.iter().min() < batch.lengths.iter().max(),
        "the rows are meant to differ in length"
    );
    assert_eq!(
        batch.ids.len(),
        batch.lengths.iter().sum::<usize>(),
        "nothing is padded"
    );
}

/// huggingface/trl#1400: the template wrote a bos, and the tokenizer added one.
#[test]
fn doubled_bos() {
    let desk = Desk::new();
    let base = encoder(&golden("archs/llama/model"), None);
    let chat = chats(&desk, &[THREE]);
    let row = seen(&desk, &base, std::slice::from_ref(&chat)).remove(0);
    assert_eq!(row, three_turns("llama3"));
    let twice = base.tokenizer.encode(&row, true).unwrap().ids;
    assert_eq!(
        twice[..2],
        [base.tokenizer.bos_id().unwrap(); 2],
        "the tokenizer is meant to add one"
    );

    let written_twice = format!(
        "{{{{ bos_token }}}}{}",
        base.tokenizer.chat_template().unwrap()
    );
    let doubled = encoder(&golden("archs/llama/model"), Some(&written_twice));
    let refused = open(&desk, &doubled, &[chat], ALL).unwrap_err();
    assert!(
        refused.contains("the row begins with the bos token twice"),
        "{refused}"
    );
    let text = source(
        &desk,
        "a.parquet",
        Format::Text,
        vec![("text", texts(["<|begin_of_text|>so"]))],
    );
    assert!(
        open(&desk, &base, &[text], ALL)
            .unwrap_err()
            .contains("bos token twice")
    );
}

/// huggingface/transformers#34172, marin-community/marin#7237: without `{% generation %}` the mask
/// of answers is zeros, and no word.
#[test]
fn no_generation_marks_in_the_stock_template() {
    let desk = Desk::new();
    for name in STOCK {
        let (_, template) = stock(&desk, name);
        assert!(
            !template.contains("generation %}") && !template.contains("generation -%}"),
            "{name}"
        );
        // One that no twin equals, as a fine-tuned model ships it.
        let changed = encoder(
            &desk.path(name),
            Some(&format!("{template}{{# changed #}}")),
        );
        let row = seen(&desk, &changed, &[chats(&desk, &[THREE])]).remove(0);
        // Found without marks, the answer ends with its end, and Mistral's space before it may be
        // the template's.
        let of_template = |text: String| text.replace("\n»", "»\n").replace("« ", " «");
        assert_eq!(of_template(row), of_template(three_turns(name)), "{name}");
    }
    let hidden = encoder(
        &desk.path("chatml"),
        Some("{% for m in messages %}{{ m.content | length }}<|im_end|>{% endfor %}"),
    );
    let counted = tally(open(&desk, &hidden, &[chats(&desk, &[THREE])], ALL).unwrap());
    let first = counted.first_broken.unwrap();
    assert!(
        counted.broken == 1
            && first.contains("the chat template does not tell what the assistant says"),
        "{first}"
    );
}
