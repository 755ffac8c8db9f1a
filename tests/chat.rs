//! `rankine chat`: turns that are answered as `generate` answers the same conversation, commands,
//! and the end of input; and Ctrl-C while a model speaks.

mod support;

use std::io::Read;
use std::process::Stdio;

use serde_json::{Value, json};
use support::*;

/// A template with short turns: the base's own leaves room for few.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:";

const SHORT: [&str; 2] = ["--chat-template", "short.jinja"];

/// What the desk's base says to a conversation.
fn answer(desk: &Desk, messages: &Value) -> String {
    desk.write("messages.json", messages.to_string());
    desk.write("short.jinja", TEMPLATE);
    let arguments = [
        "--base",
        "base",
        "--chat-template",
        "short.jinja",
        "--messages",
        "messages.json",
        "--max-tokens",
        "5",
        "--json",
    ];
    let ran = desk.run(&[&["generate"], arguments.as_slice()].concat());
    ran.says("generate", 0, &[]);
    serde_json::from_str::<Value>(&ran.stdout).unwrap()["text"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Types lines to `chat`.
fn type_in(desk: &Desk, lines: &str, options: &[&str]) -> Ran {
    desk.write("short.jinja", TEMPLATE);
    desk.chat(lines, options)
}

/// Answers as they stand on stdout, each with the end of its line.
fn shown(answers: &[&str]) -> String {
    answers
        .iter()
        .map(|answer| {
            format!(
                "{}{}",
                answer,
                if answer.ends_with('\n') { "" } else { "\n" }
            )
        })
        .collect()
}

#[test]
fn each_turn_is_answered_with_what_was_said_before() {
    let desk = Desk::new();
    let user = |text: &str| json!({"role": "user", "content": text});
    let first = answer(&desk, &json!([user("what is a tort?")]));
    let history = json!([
        user("what is a tort?"),
        {"role": "assistant", "content": first},
        user("and a lien?"),
    ]);
    let second = answer(&desk, &history);
    let alone = answer(&desk, &json!([user("and a lien?")]));

    let ran = type_in(
        &desk,
        "what is a tort?\n\nand a lien?\n/reset\nand a lien?\n/exit\nnot read\n",
        &SHORT,
    );
    ran.says(
        "chat",
        0,
        &["`/reset` begins anew, `/exit` or the end of input leaves"],
    );
    assert_eq!(ran.stdout, shown(&[&first, &second, &alone]));
    let ran = type_in(&desk, "/quit\nand a lien?", &SHORT);
    ran.says(
        "the end of input",
        0,
        &["`/quit` is not known: there are `/reset` and `/exit`"],
    );
    assert_eq!(ran.stdout, shown(&[&alone]));
}

#[test]
fn a_turn_for_which_there_is_no_room_is_taken_back() {
    let desk = Desk::new();
    let long = "word ".repeat(200);
    let ran = type_in(&desk, &format!("{long}\nand a lien?\n"), &SHORT);
    ran.says(
        "chat",
        0,
        &["tokens, the base was made for 128: it is taken back, `/reset` begins anew"],
    );
    assert_eq!(
        ran.stdout,
        shown(&[&answer(
            &desk,
            &json!([{"role": "user", "content": "and a lien?"}])
        )])
    );
}

#[test]
fn a_base_without_a_template_does_not_chat() {
    let desk = Desk::new();
    desk.write("base/tokenizer_config.json", "{}");
    let hint = "hint: give one with `--chat-template FILE`";
    type_in(&desk, "x\n", &[]).says(
        "chat",
        65,
        &[
            "a conversation needs a chat template, the base has none",
            hint,
        ],
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer_quietly_with_what_was_printed() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let desk = Desk::new();
    // Every layer of this one slides, so it never comes to an end by itself.
    let base =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/mistral/model");
    for json in [false, true] {
        let mut command = desk.command(&[
            "generate",
            "--prompt",
            "the",
            "--max-tokens",
            "100000000",
            "--base",
        ]);
        command.arg(&base).args(json.then_some("--json"));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut stdout, mut text) = (child.stdout.take().unwrap(), vec![0; 1]);
        if json {
            std::thread::sleep(std::time::Duration::from_secs(3));
        } else {
            stdout.read_exact(&mut text).unwrap();
        }
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        stdout.read_to_end(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr)
            ),
            (Some(130), "".into()),
            "json: {json}"
        );
        assert!(text.ends_with(b"\n"), "json: {json}");
        assert!(
            !json || String::from_utf8_lossy(&text).contains(r#""stop":"interrupted""#),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
