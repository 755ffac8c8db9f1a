//! What a person meets every day: prompts in the frame of the rows that were trained, keys and
//! Ctrl-C, one unit of memory, a stop that leaves nothing in the way, and a report that can be
//! passed on.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::*;

fn tiny() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("checkpoints/rankine-tiny")
        .display()
        .to_string()
}

/// A desk with the repository's base that chats, and rows of these formats' columns.
fn tiny_desk(format: &str) -> Desk {
    let desk = Desk::new();
    desk.edit(
        "recipe.yaml",
        "base_model: base",
        &format!("base_model: \"{}\"", tiny()),
    );
    desk.edit("recipe.yaml", "format: text", &format!("format: {format}"));
    desk.edit(
        "recipe.yaml",
        "sequence_len: 64",
        "sequence_len: 256\n  learning_rate: 1e-2",
    );
    let turns = json!([
        {"role": "user", "content": "what is fever"},
        {"role": "assistant", "content": "a high temperature"},
    ]);
    let columns = match format {
        "chat" => vec![("messages", texts(vec![turns.to_string(); 12]))],
        "completion" => {
            vec![
                ("prompt", texts(vec!["what is fever"; 12])),
                ("completion", texts(vec![" a high temperature"; 12])),
            ]
        }
        _ => vec![
            ("instruction", texts(vec!["what is fever"; 12])),
            ("output", texts(vec!["a high temperature"; 12])),
        ],
    };
    desk.write_rows("rows.parquet", columns);
    desk
}

fn lines(desk: &Desk, file: &str) -> Vec<Value> {
    desk.read_text(file)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What `generate` says and notes, greedily.
fn said(desk: &Desk, arguments: &[&str]) -> (String, String) {
    let ran = desk.run(
        &[
            &[
                "generate",
                "--json",
                "--max-tokens",
                "64",
                "--adapter",
                "run",
            ],
            arguments,
        ]
        .concat(),
    );
    ran.says("generate", 0, &[]);
    let object: Value = serde_json::from_str(&ran.stdout).unwrap();
    (object["text"].as_str().unwrap().to_owned(), ran.stderr)
}

const FRAME: &str = "Below is an instruction that describes a task. Write a response that \
    appropriately completes the request.\n\n### Instruction:\n";

#[test]
fn instructions_are_asked_in_the_frame_in_which_they_were_trained() {
    let desk = tiny_desk("instruction");
    let note = "datasets.0: rows of `instruction` are trained in Alpaca's frame, not in the base's \
        chat template";
    let prompts = "evaluation.prompts=[what is fever]";
    for verb in ["check", "plan"] {
        desk.run(&[verb, "recipe.yaml", prompts]).says(
            verb,
            0,
            &[&format!("note: {note}"), "`rankine generate --instruction`"],
        );
    }
    let ran = desk.run(&["train", "recipe.yaml", prompts]);
    ran.says("train", 0, &[note]);
    assert!(
        ran.stdout
            .contains("next: rankine generate --adapter run --instruction TEXT\n"),
        "{}",
        ran.stdout
    );
    let sampled = lines(&desk, "run/samples.jsonl").pop().unwrap()["text"]
        .as_str()
        .unwrap()
        .to_owned();

    let (text, notes) = said(&desk, &["--instruction", "what is fever"]);
    assert_eq!(
        (text.as_str(), notes.contains("trained on")),
        (sampled.as_str(), false),
        "{notes}"
    );
    let by_hand = format!("{FRAME}what is fever\n\n### Response:");
    let (framed, notes) = said(&desk, &["--prompt", &by_hand]);
    assert_eq!(
        (framed, notes.contains("trained on")),
        (sampled, false),
        "{notes}"
    );
    assert_eq!(
        said(&desk, &["--instruction", "what is fever", "--input", ""]).0,
        text,
        "an empty input is none, as in a row"
    );
    let (with_input, _) = said(
        &desk,
        &["--instruction", "what is fever", "--input", "of a child"],
    );
    let by_hand = "Below is an instruction that describes a task, paired with an input that \
    provides further context. Write a response that appropriately completes the request.\n\n### \
    Instruction:\nwhat is fever\n\n### Input:\nof a child\n\n### Response:";
    assert_eq!(with_input, said(&desk, &["--prompt", by_hand]).0);

    let mismatch = "note: trained on `instruction`, asked in a chat template; ask as it was \
        trained with `rankine generate --instruction TEXT`";
    assert!(
        said(&desk, &["--chat", "what is fever"])
            .1
            .contains(mismatch)
    );
    desk.write(
        "messages.json",
        r#"[{"role": "user", "content": "what is fever"}]"#,
    );
    assert!(
        said(&desk, &["--messages", "messages.json"])
            .1
            .contains(mismatch)
    );
    assert!(
        said(&desk, &["--prompt", "fever"])
            .1
            .contains("note: trained on `instruction`, asked as a bare text")
    );
    desk.run(&["chat", "--adapter", "run/checkpoints/step-2"])
        .says("chat", 0, &[mismatch]);
    desk.run(&[
        "generate",
        "--adapter",
        "run",
        "--chat",
        "x",
        "--input",
        "y",
    ])
    .says("an input alone", 2, &["--input"]);
    desk.run(&[
        "generate",
        "--adapter",
        "run",
        "--chat",
        "x",
        "--instruction",
        "y",
    ])
    .says("both", 2, &[]);

    let card = desk.read_text("run/README.md");
    let usage = &card[card.find("## How to load it").unwrap()..];
    for part in [
        FRAME,
        "Rows of `instruction` were trained in Alpaca's frame",
        "### Input:\nINPUT\n",
    ] {
        assert!(usage.contains(part), "{part} is not in {usage}");
    }
    let ran = desk.run(&["export", "run", "--to", "gguf", "--out", "of-run/"]);
    ran.says(
        "gguf",
        0,
        &[
            "note: the chat template goes along",
            "was trained on `instruction`",
        ],
    );
    assert!(desk.read_text("of-run/README.md").contains(FRAME));
}

#[test]
fn each_other_frame_is_told_too() {
    let desk = tiny_desk("completion");
    let ran = desk.run(&["train", "recipe.yaml", "evaluation.prompts=[what is fever]"]);
    let notes = [
        "datasets.0: rows of `completion` are trained without a frame",
        "`rankine generate --prompt`",
    ];
    ran.says("completions", 0, &notes);
    assert!(
        ran.stdout
            .contains("next: rankine generate --adapter run --prompt TEXT\n"),
        "{}",
        ran.stdout
    );
    assert!(
        said(&desk, &["--chat", "fever"])
            .1
            .contains("note: trained on `completion`, asked in a chat template")
    );
    assert!(
        !said(&desk, &["--prompt", "what is fever"])
            .1
            .contains("trained on")
    );
    assert!(
        desk.read_text("run/README.md")
            .contains("Rows of `completion` were trained without a chat template")
    );

    let desk = tiny_desk("chat");
    let ran = desk.run(&["train", "recipe.yaml"]);
    ran.says("conversations", 0, &[]);
    assert!(
        !ran.stderr.contains("frame") && ran.stdout.contains("next: rankine chat --adapter run\n"),
        "{ran:?}"
    );
    assert!(
        said(&desk, &["--instruction", "fever"])
            .1
            .contains("note: trained on `chat`, asked in Alpaca's frame")
    );
    assert!(!said(&desk, &["--chat", "fever"]).1.contains("trained on"));

    // Prompts are asked as conversations where some of the rows are.
    desk.write_rows(
        "more.parquet",
        vec![
            ("instruction", texts(["i"; 6])),
            ("output", texts(["o"; 6])),
        ],
    );
    desk.edit(
        "recipe.yaml",
        "adapter:",
        "  - path: more.parquet\n    format: instruction\nadapter:",
    );
    let notes = [
        "note: datasets.1: rows of `instruction`",
        "`evaluation.prompts` are asked in the chat template, rows of `instruction` are trained in \
        another frame",
    ];
    desk.run(&["check", "recipe.yaml", "evaluation.prompts=[x]"])
        .says("both", 0, &notes);
}

#[test]
fn what_comes_next_names_commands_that_run() {
    let desk = Desk::new();
    let ran = desk.run(&[
        "train",
        "recipe.yaml",
        "training.max_steps=1",
        "output_dir=a",
        "output_dir=my run",
    ]);
    ran.says("train", 0, &[]);
    let next = ran.stdout.split_once("next: ").unwrap().1;
    for command in [
        "rankine chat --adapter 'my run'",
        "rankine report 'my run'",
        "rankine export 'my run' --to ollama --out 'my run-ollama'",
    ] {
        assert!(next.contains(command), "{next}");
    }
    assert!(
        next.ends_with(
            "another round from this adapter:\n      rankine train recipe.yaml \
    training.max_steps=1 adapter.r= 'adapter.init_from=my run/adapter' 'output_dir=my run-2'\n"
        ),
        "{next}"
    );
    let again = [
        "train",
        "recipe.yaml",
        "training.max_steps=1",
        "adapter.r=",
        "adapter.init_from=my run/adapter",
        "output_dir=my run-2",
    ];
    desk.run(&again).says("another round", 0, &[]);
    assert!(desk.path("my run-2/adapter").exists());
}

#[test]
fn a_run_or_a_checkpoint_is_an_adapter_for_every_verb() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml", "evaluation.val_set_size=3"])
        .says("train", 0, &[]);
    for (index, named) in ["run", "run/checkpoints/step-2", "run/adapter"]
        .into_iter()
        .enumerate()
    {
        let out = |verb: &str| format!("{verb}-{index}");
        for arguments in [
            &[
                "generate",
                "--adapter",
                named,
                "--prompt",
                "the",
                "--max-tokens",
                "2",
            ][..],
            &["chat", "--adapter", named],
            &["merge", "--adapter", named, "--out", &out("merged")],
            &["export", named, "--to", "peft", "--out", &out("peft")],
            &[
                "export",
                "--adapter",
                named,
                "--to",
                "mlx",
                "--out",
                &out("mlx"),
            ],
            &[
                "eval",
                "recipe.yaml",
                "evaluation.val_set_size=3",
                "--adapter",
                named,
            ],
            &["eval", named],
            &["inspect", named],
            &[
                "train",
                "recipe.yaml",
                "training.max_steps=1",
                "adapter.r=",
                &format!("adapter.init_from={named}"),
                &format!("output_dir={}", out("on")),
            ],
        ] {
            desk.run(arguments).says(&arguments.join(" "), 0, &[]);
        }
    }
    let kept = lines(&desk, "run/eval.jsonl");
    let adapters: Vec<&str> = kept
        .iter()
        .map(|line| line["adapter"].as_str().unwrap())
        .collect();
    assert_eq!(
        adapters,
        ["adapter", "checkpoints/step-2/adapter", "adapter"]
    );
    let all = desk.run(&[
        "train",
        "recipe.yaml",
        "adapter.method=full",
        "adapter.r=",
        "training.max_steps=1",
        "output_dir=whole",
    ]);
    all.says("all weights", 0, &[]);
    desk.run(&[
        "generate",
        "--base",
        "whole",
        "--prompt",
        "the",
        "--max-tokens",
        "2",
    ])
    .says("a run as a base", 0, &[]);
    desk.run(&[
        "generate",
        "--base",
        "whole/checkpoints/step-1",
        "--prompt",
        "the",
        "--max-tokens",
        "2",
    ])
    .says("a checkpoint", 0, &[]);
}

#[test]
fn a_system_message_opens_the_conversation() {
    let desk = Desk::new();
    desk.write(
        "all.jinja",
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:",
    );
    let answer = |messages: Value| {
        desk.write("messages.json", messages.to_string());
        let named = [
            "--base",
            "base",
            "--chat-template",
            "all.jinja",
            "--messages",
            "messages.json",
            "--max-tokens",
            "5",
            "--json",
        ];
        let ran = desk.run(&[&["generate"], &named[..]].concat());
        ran.says("generate", 0, &[]);
        let text = serde_json::from_str::<Value>(&ran.stdout).unwrap()["text"]
            .as_str()
            .unwrap()
            .to_owned();
        if text.ends_with('\n') {
            text
        } else {
            text + "\n"
        }
    };
    let system = json!({"role": "system", "content": "be brief"});
    let user = json!({"role": "user", "content": "what is a lien?"});
    let expected = answer(json!([system, user]));
    let options = ["--chat-template", "all.jinja", "--system", "be brief"];
    let ran = desk.chat("what is a lien?\n/reset\nwhat is a lien?\n", &options);
    ran.says(
        "chat",
        0,
        &["answers: greedy (temperature 0), at most 5 tokens an answer"],
    );
    assert_eq!(
        ran.stdout,
        format!("{expected}{expected}"),
        "`/reset` keeps it"
    );
    let drawn = [
        "--chat-template",
        "all.jinja",
        "--temperature",
        "0.7",
        "--top-p",
        "0.9",
        "--top-k",
        "40",
        "--seed",
        "7",
    ];
    desk.chat("", &drawn).says(
        "sampling",
        0,
        &["answers: temperature 0.7, top-p 0.9, top-k 40, seed 7, at most 5 tokens an answer"],
    );

    desk.write(
        "drops.jinja",
        "{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}a:",
    );
    let dropped = "note: the chat template leaves the message of `--system` out";
    desk.chat(
        "",
        &["--chat-template", "drops.jinja", "--system", "be brief"],
    )
    .says("dropped", 0, &[dropped]);
    desk.write(
        "raises.jinja",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}a:",
    );
    desk.chat(
        "",
        &["--chat-template", "raises.jinja", "--system", "be brief"],
    )
    .says("refused", 65, &["no system"]);
}

/// A program on a terminal of its own.
#[cfg(unix)]
mod terminal {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::process::{Child, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use nix::pty::{Winsize, openpty};

    pub struct Screen {
        child: Child,
        keys: File,
        shown: Arc<Mutex<Vec<u8>>>,
        seen: usize,
    }

    impl Screen {
        pub fn open(mut command: std::process::Command) -> Self {
            let size = Winsize {
                ws_row: 24,
                ws_col: 200,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let pair = openpty(Some(&size), None).unwrap();
            let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
            command
                .env("TERM", "xterm")
                .stdin(end(&pair.slave))
                .stdout(end(&pair.slave))
                .stderr(end(&pair.slave));
            let child = command.spawn().unwrap();
            // The command keeps its ends open, and with them the terminal.
            drop(command);
            drop(pair.slave);
            let (keys, mut screen) = (
                File::from(pair.master.try_clone().unwrap()),
                File::from(pair.master),
            );
            let shown = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&shown);
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(count @ 1..) = screen.read(&mut part) {
                    kept.lock().unwrap().extend_from_slice(&part[..count]);
                }
            });
            Self {
                child,
                keys,
                shown,
                seen: 0,
            }
        }

        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
        }

        /// Waits until this comes behind what was waited for before.
        #[track_caller]
        pub fn wait(&mut self, words: &str) {
            let started = Instant::now();
            while started.elapsed() < Duration::from_mins(1) {
                let shown = self.shown.lock().unwrap();
                let found = shown[self.seen..]
                    .windows(words.len())
                    .position(|part| part == words.as_bytes());
                if let Some(place) = found {
                    self.seen += place + words.len();
                    return;
                }
                drop(shown);
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("`{words}` is not shown: {:?}", self.text());
        }

        pub fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).unwrap();
        }

        /// The exit code, and all that was shown.
        pub fn end(mut self) -> (Option<i32>, String) {
            let code = self.child.wait().unwrap().code();
            std::thread::sleep(Duration::from_millis(200));
            (code, self.text())
        }
    }
}

#[cfg(unix)]
#[test]
fn keys_edit_the_line_and_ctrl_c_clears_it_and_then_leaves() {
    const UP: &str = "\x1b[A";
    const DOWN: &str = "\x1b[B";
    const RIGHT: &str = "\x1b[C";
    const LEFT: &str = "\x1b[D";
    const HOME: &str = "\x1b[H";
    const END: &str = "\x1b[F";
    const CTRL_C: &str = "\x03";
    let desk = Desk::new();
    desk.write(
        "short.jinja",
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:",
    );
    let chat = [
        "chat",
        "--base",
        "base",
        "--chat-template",
        "short.jinja",
        "--max-tokens",
        "5",
    ];
    let mut screen = terminal::Screen::open(desk.command(&chat));
    // What is no command is told with the line as it was sent.
    let cases = [
        ("/quix", "/quix"),
        (&format!("{UP}{LEFT}t"), "/quitx"),
        (&format!("{UP}{HOME}{RIGHT}a{END}z"), "/aquitxz"),
        (&format!("{UP}{UP}{UP}{DOWN}!"), "/quitx!"),
    ];
    for (keys, line) in cases {
        screen.wait("> ");
        screen.press(keys);
        screen.press("\r");
        screen.wait(&format!("`{line}` is not known"));
    }
    screen.wait("> ");
    screen.press("forgotten");
    screen.wait("forgotten");
    screen.press(CTRL_C);
    screen.wait("> ");
    screen.press("/new\r");
    screen.wait("`/new` is not known");
    screen.wait("> ");
    screen.press("what is a lien?\r");
    screen.wait("> ");
    screen.press(CTRL_C);
    screen.wait("Ctrl-C again leaves");
    screen.wait("> ");
    screen.press("not yet");
    screen.wait("not yet");
    screen.press(CTRL_C);
    screen.wait("> ");
    screen.press(CTRL_C);
    let (code, shown) = screen.end();
    assert_eq!(code, Some(130), "{shown:?}");
    assert!(
        shown.ends_with('\n'),
        "the shell's prompt begins a line: {shown:?}"
    );
    assert!(!shown.contains("^[["), "{shown:?}");

    let mut screen = terminal::Screen::open(desk.command(&chat));
    screen.wait("> ");
    screen.press("\x04");
    let (code, shown) = screen.end();
    assert_eq!((code, shown.ends_with('\n')), (Some(0), true), "{shown:?}");
    let home: Vec<_> = fs::read_dir(desk.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        home.iter()
            .all(|name| !name.to_string_lossy().contains("history")),
        "{home:?}"
    );
}

/// A run that lasts until it is told to stop, when its metrics have so many lines.
fn long_run(desk: &Desk, lines: usize, overrides: &[&str]) -> Child {
    let arguments = [
        &[
            "train",
            "recipe.yaml",
            "training.max_steps=1000000",
            "output.save_steps=1000000",
        ],
        overrides,
    ]
    .concat();
    let child = desk
        .command(&arguments)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while fs::read_to_string(desk.path("run/metrics.jsonl")).map_or(0, |text| text.lines().count())
        < lines
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn stop(child: Child, signal: Signal) -> (Option<i32>, String) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn a_stop_is_no_error_and_tells_how_to_continue() {
    let desk = Desk::new();
    let child = long_run(&desk, 3, &[]);
    let ran = desk.run(&["inspect", "run"]);
    assert!(
        ran.stdout
            .contains(&format!("running: process {}\n", child.id())),
        "{}",
        ran.stdout
    );
    desk.run(&["report", "run", "--out", "page.html"])
        .says("of a running run", 0, &[]);
    assert!(
        desk.read_text("page.html")
            .contains("The run is going on: its last step so far is ")
    );
    let (code, stderr) = stop(child, Signal::SIGINT);
    assert_eq!(code, Some(75), "{stderr}");
    let step = lines(&desk, "run/metrics.jsonl").pop().unwrap()["step"].clone();
    let told = format!("stopped at step {step}, saved. Continue with `rankine resume run`\n");
    assert!(
        stderr.ends_with(&told) && !stderr.contains("error:"),
        "{stderr}"
    );
    let ran = desk.run(&["inspect", "run", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["state"],
        "stopped"
    );
}

#[test]
fn a_stop_before_the_first_step_leaves_nothing() {
    let desk = Desk::new();
    let prompts: Vec<String> = (0..5000)
        .map(|index| format!("the term {index} means"))
        .collect();
    let recipe = desk.read_text("recipe.yaml");
    desk.write(
        "recipe.yaml",
        format!("{recipe}evaluation:\n  prompts: {}\n", json!(prompts)),
    );
    let long = |folder: &str| {
        let arguments = [
            "train",
            "recipe.yaml",
            &format!("output_dir={folder}"),
            "--overwrite",
        ];
        let child = desk
            .command(&arguments)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !desk.path(folder).join("samples.jsonl").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        child
    };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (code, stderr) = stop(long("new/deep"), signal);
        assert_eq!(code, Some(130), "{stderr}");
        assert!(
            stderr.contains("stopping: no step is taken yet") && !stderr.contains("error:"),
            "{stderr}"
        );
        assert!(
            !desk.path("new").exists(),
            "folders that were made for it go too"
        );
    }
    // A folder that was there stays, with files of others.
    fs::create_dir(desk.path("mine")).unwrap();
    desk.write("mine/notes.txt", "x");
    let _ = stop(long("mine"), Signal::SIGINT);
    let left: Vec<_> = fs::read_dir(desk.path("mine"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes.txt"]);

    // One that was killed leaves its first evaluation, which is in nobody's way.
    let child = long("killed");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).unwrap();
    child.wait_with_output().unwrap();
    assert!(desk.path("killed/metrics.jsonl").exists());
    desk.write(
        "killed/metrics.jsonl",
        "{\"step\":0,\"eval_loss\":6.0,\"eval_perplexity\":403.0}\n",
    );
    desk.write("recipe.yaml", recipe);
    desk.run(&["train", "recipe.yaml", "output_dir=killed"])
        .says("no step was taken", 0, &[]);
    desk.run(&["train", "recipe.yaml", "output_dir=killed"])
        .says("a run", 73, &["`killed` holds a run"]);
    // A run that is refused leaves no folder either.
    desk.run(&[
        "train",
        "recipe.yaml",
        "output_dir=refused/a",
        "training.sequence_len=2",
    ])
    .says("rows", 65, &[]);
    assert!(!desk.path("refused").exists());
}

#[test]
fn check_says_what_memory_refuses_and_memory_has_one_unit() {
    let desk = Desk::new();
    desk.run(&["check", "recipe.yaml", "training.max_memory=1 MB"])
        .says(
            "far too little",
            71,
            &[
                "the run needs ",
                "1.0 MiB (training.max_memory) are allowed",
                "hint: choose a smaller base",
            ],
        );
    // Rows of full length would have no room; those that are there may have.
    let plan = |overrides: &[&str]| -> Value {
        let ran = desk.run(&[&["plan", "recipe.yaml", "--json"], overrides].concat());
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let wide = [
        "training.micro_batch_size=12",
        "training.gradient_checkpointing=true",
        "training.sequence_len=128",
    ];
    let allowed = format!(
        "training.max_memory={}",
        plan(&wide)["memory"]["peak_bytes"]
    );
    let ran = desk.run(&[&["check", "recipe.yaml", &allowed], &wide[..]].concat());
    ran.says(
        "perhaps",
        0,
        &[
            "note: with rows of 128 tokens (`training.sequence_len`) the run needs ",
            "`rankine plan` reads",
        ],
    );
    desk.run(&["check", "recipe.yaml"]).says("enough", 0, &[]);

    let plan = desk.run(&["plan", "recipe.yaml"]);
    let train = desk.run(&["train", "recipe.yaml", "-v"]);
    desk.run(&["report", "run"]).says("report", 0, &[]);
    let page = desk.read_text("run/report.html");
    for (what, text) in [
        ("plan", &plan.stdout),
        ("train", &train.stderr),
        ("report", &page),
    ] {
        assert!(text.contains(" MiB"), "{what}: {text}");
        assert!(
            ![" MB", " GB", " kB"].iter().any(|unit| text.contains(unit)),
            "{what}: {text}"
        );
    }
    // The progress has the digits of the plan.
    assert!(
        train
            .stderr
            .lines()
            .any(|line| line.starts_with("step 2/2") && line.contains(" MiB  ")),
        "{}",
        train.stderr
    );
}

#[test]
fn a_report_can_be_passed_on() {
    let desk = Desk::new();
    let at = |key: &str, name: &str| {
        format!(
            "{key}={}",
            desk.path(name)
                .canonicalize()
                .unwrap_or(desk.path(name))
                .display()
        )
    };
    let (base, rows, run) = (
        at("base_model", "base"),
        at("datasets.0.path", "rows.parquet"),
        at("output_dir", "run"),
    );
    let steps = [
        "training.max_steps=6",
        "evaluation.val_set_size=3",
        "evaluation.eval_steps=3",
        "output.save_steps=3",
    ];
    desk.run(&[&["train", "recipe.yaml", &base, &rows, &run], &steps[..]].concat())
        .says("train", 0, &[]);
    let folder = desk
        .path("run")
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    desk.run(&["eval", &folder]).says("eval", 0, &[]);
    desk.write_rows(
        "other.parquet",
        vec![("text", texts(["the term 99 means so", "so so"]))],
    );
    let other = desk
        .path("other.parquet")
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    desk.run(&["eval", &folder, "--data", &other])
        .says("eval of a file", 0, &[]);
    let kept = desk.read_text("run/eval.jsonl");
    let scores = lines(&desk, "run/eval.jsonl");
    assert_eq!(scores.len(), 2);
    assert_eq!(
        (&scores[0]["adapter"], &scores[0]["base_name"]),
        (&json!("adapter"), &Value::Null)
    );
    let hash = rankine::files::hash_file(&desk.path("run/adapter/adapter_model.safetensors"))
        .unwrap()
        .to_string();
    assert_eq!(scores[0]["adapter_blake3"], hash);

    // Back to step 3, and on from there.
    fs::remove_file(desk.path("run/README.md")).unwrap();
    fs::remove_dir_all(desk.path("run/checkpoints/step-6")).unwrap();
    desk.run(&["resume", &folder])
        .says("resume", 0, &["going on after step 3"]);
    let ran = desk.run(&["report", &folder]);
    ran.says("report", 0, &[]);
    let page = desk.read_text("run/report.html").replace("<wbr/>", "");
    let place = desk.path("").canonicalize().unwrap().display().to_string();
    let home = std::env::var("HOME").unwrap_or_default();
    for (what, text) in [("the page", &page), ("the scores", &kept)] {
        assert!(!text.contains(&place), "{what}: {text}");
        assert!(home.len() < 2 || !text.contains(&home), "{what}: {text}");
    }
    let losses = ["base", "adapter"]
        .map(|of| format!("{:.4}", scores[1]["sets"][0][of]["loss"].as_f64().unwrap()));
    let lock: Value = serde_yaml::from_str(&desk.read_text("run/recipe.lock.yaml")).unwrap();
    assert!(lock["planned_memory_bytes"].as_u64().unwrap() > 0);
    let parts = [
        "Peak memory, planned</th>",
        "Peak memory, measured</th>",
        "<h3>Peak memory of the session</h3>",
        "A dotted upright line is where a run was resumed",
        "<title>resumed after step 3</title>",
        "<h2>Scores</h2>",
        &losses.join(" → "),
        "LoRA of rank 4 on base, trained on rows.parquet (text)",
        "rankine train recipe.yaml base_model=base datasets.0.path=rows.parquet output_dir=run",
        "data: rows.parquet",
        ">eval.jsonl</th>",
    ];
    for part in parts {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        desk.read_text("run/report.html")
            .matches("class=\"resumed color0\"")
            .count()
            >= 5
    );

    // Runs of one name are told apart by what is above them alone.
    copy_folder(&desk.path("run"), &desk.path("second/run"));
    copy_folder(&desk.path("run"), &desk.path("first/run"));
    desk.run(&["report", "first/run", "second/run", "--out", "both.html"])
        .says("both", 0, &[]);
    let page = desk.read_text("both.html");
    assert!(
        page.contains("first/run: LoRA")
            && page.contains("second/run: LoRA")
            && !page.contains(&place)
    );
}
