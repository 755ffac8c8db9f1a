//! The Hub's token is in no file, no line and no error of any verb, however much is said and
//! whatever goes wrong.

#[cfg(feature = "hub")]
#[path = "hub/server.rs"]
mod server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::*;

const CANARY: &str = "hf_canaryQ7xv2mPzR4";
const TOKEN_FILE: &str = "token-of-the-hub";

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Runs a command with the token in every place where the Hub's own tools look for it.
fn run(desk: &Desk, arguments: &[&str]) -> Ran {
    run_with(desk, arguments, &[])
}

fn run_with(desk: &Desk, arguments: &[&str], more: &[(&str, &str)]) -> Ran {
    let file = desk.path(TOKEN_FILE).display().to_string();
    let home = desk.path("home").display().to_string();
    let places = [
        ("HF_TOKEN", CANARY),
        ("HUGGING_FACE_HUB_TOKEN", CANARY),
        ("HF_TOKEN_PATH", &*file),
        ("HF_HOME", &*home),
        ("HOME", &*home),
        ("RUST_BACKTRACE", "full"),
    ];
    let ran = desk.run_with(arguments, &[&places, more].concat());
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!said.contains(CANARY), "{arguments:?}: {said}");
    ran
}

#[test]
fn the_token_of_the_hub_is_never_written_or_said() {
    let desk = Desk::new();
    desk.write(TOKEN_FILE, CANARY);
    fs::create_dir(desk.path("home")).unwrap();
    fs::write(desk.path("home/token"), CANARY).unwrap();
    desk.write(
        "env.jinja",
        "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}{{ environ }}{{ HF_TOKEN }}",
    );
    desk.write("broken.yaml", "base_model: [\nHF_TOKEN: x");
    let template = "chat_template=env.jinja";
    let commands: &[(&[&str], i32)] = &[
        (&["check", "recipe.yaml"], 0),
        (&["check", "recipe.yaml", template], 0),
        (&["plan", "recipe.yaml"], 0),
        (&["preview", "recipe.yaml", "--ledger", "fates.parquet"], 0),
        (&["train", "recipe.yaml", "--json"], 0),
        (&["resume", "run"], 0),
        (&["eval", "run", "--data", "rows.parquet", "--json"], 0),
        (
            &[
                "generate",
                "--adapter",
                "run/adapter",
                "--prompt",
                "the term",
                "--max-tokens",
                "4",
            ],
            0,
        ),
        (
            &[
                "chat",
                "--adapter",
                "run/adapter",
                "--chat-template",
                "env.jinja",
            ],
            0,
        ),
        (&["merge", "--adapter", "run/adapter", "--out", "merged"], 0),
        (
            &["export", "merged", "--to", "gguf", "--out", "model.gguf"],
            0,
        ),
        (
            &[
                "export",
                "run/adapter",
                "--to",
                "gguf-adapter",
                "--out",
                "adapter.gguf",
            ],
            0,
        ),
        (&["report", "run"], 0),
        (&["train", "recipe.yaml"], 73),
        (
            &["merge", "--adapter", "run/adapter", "--out", "merged"],
            73,
        ),
        (
            &["generate", "--base", "owner/gated-model", "--prompt", "x"],
            69,
        ),
        (&["check", "broken.yaml"], 65),
        (&["check", "none.yaml"], 66),
        (&["train", "recipe.yaml", "base_model=none"], 65),
        (
            &["train", "recipe.yaml", "base_model=owner/gated-model"],
            69,
        ),
        (&["pull", "owner/gated-model"], 69),
        (&["push", "run", "owner/adapter"], 69),
        (&["train", "recipe.yaml", "base_model=$HF_TOKEN"], 65),
        (&["train", "recipe.yaml", "HF_TOKEN=HF_TOKEN"], 65),
        (
            &["train", "recipe.yaml", "training.hub_token=$HF_TOKEN"],
            65,
        ),
        (
            &["train", "recipe.yaml", "output_dir=token-of-the-hub/run"],
            74,
        ),
        (&["resume", "none"], 66),
        (&["train", "--token", "HF_TOKEN"], 2),
    ];
    for (arguments, exit) in commands {
        let arguments = [*arguments, &["-vvv"]].concat();
        let ran = run(&desk, &arguments);
        println!("{arguments:?}: {ran:?}");
        assert_eq!(ran.exit, *exit, "{arguments:?}: {ran:?}");
    }
    let holds_it = |path: &PathBuf| {
        fs::read(path)
            .unwrap()
            .windows(CANARY.len())
            .any(|bytes| bytes == CANARY.as_bytes())
    };
    let mut found: Vec<_> = files_below(&desk.path(""))
        .into_iter()
        .filter(holds_it)
        .collect();
    found.sort();
    assert_eq!(found, [desk.path("home/token"), desk.path(TOKEN_FILE)]);
    for part in [
        "run/recipe.lock.yaml",
        "run/metrics.jsonl",
        "run/README.md",
        "run/adapter",
        "fates.parquet",
        "cache",
        "merged",
        "model.gguf",
        "run/report.html",
    ] {
        assert!(desk.path(part).exists(), "{part} was looked through");
    }
}

/// A server that says every header back, in words and in addresses, and takes everything.
#[cfg(feature = "hub")]
#[test]
fn a_server_that_says_the_token_back_does_not_get_it_printed() {
    use server::{Answer, Server};
    let desk = Desk::new();
    desk.write(TOKEN_FILE, "");
    run(&desk, &["train", "recipe.yaml"]).says("train", 0, &[]);
    for status in [200, 400, 401, 403, 404, 429, 500, 302, 307] {
        let server = Server::start(move |request| {
            let said = request.header("authorization").to_owned();
            let words = format!(r#"{{"error": "{said}", "sha": "{said}", "siblings": []}}"#);
            let answer = Answer::new(status, words)
                .header("X-Error-Message", &said)
                .header("Retry-After", 0);
            if status < 400 {
                answer.header("Location", format!("/{}", said.replace(' ', "/")))
            } else {
                answer
            }
        });
        let network = [("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", &*server.address)];
        for arguments in [
            &["pull", "owner/name"][..],
            &["push", "run", "owner/name"],
            &["train", "recipe.yaml", "base_model=owner/name"],
        ] {
            let ran = run_with(&desk, &[arguments, &["-vvv"]].concat(), &network);
            println!("{status} {arguments:?}: {ran:?}");
            assert_eq!(ran.exit, 69, "{status} {arguments:?}: {ran:?}");
        }
        assert!(
            server
                .requests()
                .iter()
                .all(|request| request.header("authorization").ends_with(CANARY))
        );
    }
    let holds_it = |path: &PathBuf| {
        fs::read(path)
            .unwrap()
            .windows(CANARY.len())
            .any(|bytes| bytes == CANARY.as_bytes())
    };
    assert_eq!(
        files_below(&desk.path(""))
            .into_iter()
            .filter(holds_it)
            .collect::<Vec<_>>(),
        Vec::<PathBuf>::new()
    );
}
