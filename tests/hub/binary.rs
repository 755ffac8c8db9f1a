//! The verbs on a base of the Hub: fetched by `pull` and `train` alone, found in the cache by all
//! others, and without any network where that is switched off.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::repository::*;
use super::server::{Answer, Request, Server};
use super::support::*;

const TRAIN: [&str; 3] = ["train", "recipe.yaml", "base_model=owner/name"];

/// Runs a command with the network that a server is.
fn online(desk: &Desk, server: &Server, arguments: &[&str]) -> Ran {
    desk.run_with(
        arguments,
        &[("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", &server.address)],
    )
}

fn snapshot(desk: &Desk) -> std::path::PathBuf {
    desk.path("hub-home/hub/models--owner--name/snapshots")
        .join(COMMIT)
}

/// A desk with the base in its cache.
fn pulled() -> Desk {
    let desk = Desk::new();
    online(&desk, &hub(&llama()), &["pull", ID]).says("pull", 0, &[]);
    desk
}

#[test]
fn pull_prints_the_folder_last() {
    let desk = Desk::new();
    let server = hub(&llama());
    let ran = online(&desk, &server, &["pull", ID]);
    ran.says("pull", 0, &[]);
    let folder = format!("DESK/hub-home/hub/models--owner--name/snapshots/{COMMIT}");
    assert_eq!(ran.stdout.lines().last(), Some(&*folder));
    assert!(
        ran.stdout.contains("model.safetensors")
            && ran.stdout.contains("2 of no use here left there"),
        "{}",
        ran.stdout
    );
    let ran = online(&desk, &server, &["pull", "owner/name@main", "--json"]);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (
            &result["commit"],
            &result["downloaded_bytes"],
            &result["skipped_files"]
        ),
        (&COMMIT.into(), &0.into(), &2.into())
    );
    assert_eq!(result["folder"], folder);
    let ran = desk.run(&["pull", ID]);
    ran.says("pull without network", 0, &[]);
    assert_eq!(ran.stdout.lines().last(), Some(&*folder));
}

#[test]
fn what_is_wrong_with_a_pull_is_told() {
    let desk = Desk::new();
    let server = hub(&llama());
    online(&desk, &server, &["pull", "a/b/c"]).says(
        "no id",
        65,
        &["`a/b/c` is no id of the Hub: it has more than one `/`"],
    );
    online(&desk, &server, &["pull", "../x"]).says("no id", 65, &["is no id of the Hub"]);
    online(&desk, &server, &["pull", "owner/name@a b"]).says(
        "no revision",
        65,
        &["its revision is no branch"],
    );
    online(&desk, &server, &["pull", "owner/other"]).says(
        "no model",
        69,
        &["`owner/other` (revision `main`) is not on the hub"],
    );
    online(&desk, &server, &["pull", "owner/name@v9"]).says(
        "no revision",
        69,
        &["has no revision `v9`"],
    );
    let said = [
        "`owner/name` is not in the cache `DESK/hub-home/hub`",
        "HF_HUB_OFFLINE switches the network off",
        "rankine pull owner/name",
    ];
    desk.run(&["pull", ID]).says("offline", 69, &said);
    assert!(!desk.path("hub-home").exists());
    desk.write("file", "");
    let ran = desk.run_with(
        &["pull", ID],
        &[
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", &server.address),
            ("HF_HOME", "file"),
        ],
    );
    ran.says("a file for a cache", 74, &["cannot create"]);
}

#[test]
fn a_run_on_a_model_of_the_hub_says_which_commit_it_was() {
    let desk = Desk::new();
    let server = hub(&llama());
    online(&desk, &server, &TRAIN).says("train", 0, &[]);
    let lock = desk.read_text("run/recipe.lock.yaml");
    let lock: Value = serde_json::to_value(
        serde_yaml::from_str::<serde_json::Map<String, Value>>(&lock).unwrap(),
    )
    .unwrap();
    let expected = serde_json::json!({"id": ID, "revision": "main", "commit": COMMIT});
    assert_eq!(
        (&lock["hub"], &lock["recipe"]["base_model"]),
        (&expected, &ID.into())
    );
    let config: Value =
        serde_json::from_slice(&desk.read("run/adapter/adapter_config.json")).unwrap();
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&ID.into(), &COMMIT.into())
    );
    let card = desk.read_text("run/README.md");
    assert!(
        card.contains("`owner/name`") && !card.contains("hub-home"),
        "{card}"
    );
    // The same as on a folder with these files.
    desk.run(&["train", "recipe.yaml", "output_dir=other"])
        .says("train on the folder", 0, &[]);
    assert!(
        desk.read("run/adapter/adapter_model.safetensors")
            == desk.read("other/adapter/adapter_model.safetensors")
    );
}

#[test]
fn without_network_every_verb_works_on_a_cached_model() {
    let desk = pulled();
    let id = "base_model=owner/name";
    let commands: &[&[&str]] = &[
        &["check", "recipe.yaml", id],
        &["plan", "recipe.yaml", id],
        &["preview", "recipe.yaml", id],
        &TRAIN,
        &["resume", "run"],
        &["eval", "run", "--data", "rows.parquet"],
        &[
            "generate",
            "--adapter",
            "run/adapter",
            "--prompt",
            "x",
            "--max-tokens",
            "2",
        ],
        &[
            "generate",
            "--base",
            ID,
            "--prompt",
            "x",
            "--max-tokens",
            "2",
        ],
        &["merge", "--adapter", "run/adapter", "--out", "merged"],
        &[
            "merge",
            "--adapter",
            "run/adapter",
            "--base",
            "owner/name@main",
            "--out",
            "again",
        ],
        &[
            "export",
            "run/adapter",
            "--to",
            "gguf-adapter",
            "--out",
            "adapter.gguf",
        ],
    ];
    for arguments in commands {
        desk.run(arguments).says(&arguments.join(" "), 0, &[]);
    }
    // An adapter that lost its run finds its base by id and commit.
    fs::rename(desk.path("run/adapter"), desk.path("alone")).unwrap();
    fs::write(
        desk.path("hub-home/hub/models--owner--name/refs/main"),
        "f".repeat(40),
    )
    .unwrap();
    desk.run(&["merge", "--adapter", "alone", "--out", "third"])
        .says("a copy", 0, &["note: no lock of a run"]);
    for name in ["again", "third"] {
        assert!(
            desk.read("merged/model.safetensors")
                == desk.read(&format!("{name}/model.safetensors")),
            "{name}"
        );
    }
    desk.run(&["generate", "--base", ID, "--prompt", "x"]).says(
        "another main",
        69,
        &["that revision was never fetched"],
    );
}

#[test]
fn what_is_not_in_the_cache_is_told_by_every_verb() {
    let desk = Desk::new();
    let server = hub(&llama());
    let id = "base_model=owner/name";
    let ran = online(&desk, &server, &["check", "recipe.yaml", id]);
    ran.says("check", 0, &["note: `rankine pull owner/name` fetches it"]);
    assert!(
        ran.stdout
            .contains("no faults; `owner/name` is a Hub id and not in the cache"),
        "{}",
        ran.stdout
    );
    let hint = "hint: fetch it with `rankine pull owner/name`";
    for arguments in [
        &["plan", "recipe.yaml", id][..],
        &["preview", "recipe.yaml", id],
        &["eval", "recipe.yaml", id],
    ] {
        online(&desk, &server, arguments).says(
            arguments[0],
            69,
            &["`owner/name` is not in the cache", hint],
        );
    }
    for arguments in [
        &["generate", "--base", ID, "--prompt", "x"][..],
        &["export", ID, "--to", "gguf", "--out", "x.gguf"],
    ] {
        online(&desk, &server, arguments).says(
            arguments[0],
            69,
            &["`owner/name` is not in the cache", hint],
        );
    }
    desk.run(&TRAIN).says(
        "train",
        69,
        &[
            "HF_HUB_OFFLINE switches the network off",
            "hint: fetch it with `rankine pull owner/name` where",
        ],
    );
    online(
        &desk,
        &server,
        &["generate", "--base", "none", "--prompt", "x"],
    )
    .says("a word", 66, &["base `none` does not exist"]);
    let ran = online(
        &desk,
        &server,
        &["train", "recipe.yaml", "base_model=base/none"],
    );
    ran.says(
        "a mistyped folder",
        65,
        &["base_model: `base/none` does not exist, expected a folder or a Hub id"],
    );
    let ran = online(
        &desk,
        &server,
        &[
            "train",
            "recipe.yaml",
            id,
            "adapter.r=0",
            "training.micro_batch_size=0",
        ],
    );
    ran.says(
        "a recipe with faults",
        65,
        &["adapter.r", "training.micro_batch_size"],
    );
    assert!(
        server.requests().is_empty(),
        "only a `train` without faults and `pull` use the network: {:?}",
        server.requests()
    );
}

#[test]
fn a_run_goes_on_with_the_cached_commit_when_the_network_is_away() {
    let desk = pulled();
    let server = Server::start(|_| Answer::new(503, ""));
    let said = format!(
        "note: `{}/api/models/owner/name/revision/main` answered 503; going on with commit \
        {COMMIT} of the cache",
        server.address
    );
    online(&desk, &server, &TRAIN).says("train", 0, &[&said]);
    assert_eq!(server.requests().len(), 1, "whoever has it does not wait");
    let pinned = format!("base_model=owner/name@{COMMIT}");
    online(
        &desk,
        &server,
        &["train", "recipe.yaml", &pinned, "output_dir=pinned"],
    )
    .says("a commit", 0, &[]);
    assert_eq!(server.requests().len(), 1, "a commit does not change");
    // Who is told no has no right to go on with what was fetched before.
    let server = Server::start(|_| Answer::new(403, ""));
    online(
        &desk,
        &server,
        &[
            "train",
            "recipe.yaml",
            "base_model=owner/name",
            "output_dir=x",
        ],
    )
    .says("403", 69, &["answered 403"]);
}

#[test]
fn a_run_is_resumed_on_the_commit_of_its_lock_wherever_the_cache_lies() {
    let desk = pulled();
    desk.run(&[&TRAIN[..], &["output.save_steps=1"]].concat())
        .says("train", 0, &[]);
    let adapter = desk.read("run/adapter/adapter_model.safetensors");
    for part in ["README.md", "result.json"] {
        desk.remove(&format!("run/{part}"));
    }
    fs::remove_dir_all(desk.path("run/checkpoints/step-2")).unwrap();
    fs::write(
        desk.path("hub-home/hub/models--owner--name/refs/main"),
        "f".repeat(40),
    )
    .unwrap();
    fs::rename(desk.path("hub-home"), desk.path("moved")).unwrap();
    let moved = desk.path("moved").display().to_string();
    let server = hub(&llama());
    let ran = desk.run_with(
        &["resume", "run"],
        &[
            ("HF_HOME", &moved),
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", &server.address),
        ],
    );
    ran.says("resume", 0, &["going on after step 1"]);
    assert!(server.requests().is_empty());
    assert!(desk.read("run/adapter/adapter_model.safetensors") == adapter);
    assert!(desk.read_text("run/recipe.lock.yaml").contains(COMMIT));
}

#[cfg(unix)]
#[test]
fn a_pull_that_is_stopped_goes_on_with_the_next() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let (files, desk) = (llama(), Desk::new());
        let is_weights = |request: &Request| request.path.ends_with("model.safetensors");
        let slow = hub_but(&files.clone(), move |request| {
            let stall = Some(Duration::from_secs(20));
            is_weights(request).then(|| Answer {
                stall,
                ..Answer::content(request, &files["model.safetensors"]).cut(3000)
            })
        });
        let mut command = desk.command(&["pull", ID]);
        let command = command
            .env("HF_HUB_OFFLINE", "0")
            .env("HF_ENDPOINT", &slow.address)
            .stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        let blobs = desk.path("hub-home/hub/models--owner--name/blobs");
        let incomplete = blobs.join(format!(
            "{}.incomplete",
            sha256(&llama()["model.safetensors"])
        ));
        while incomplete.metadata().map_or(0, |found| found.len()) < 3000 {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        if signal != Signal::SIGKILL {
            assert_eq!(output.status.code(), Some(130), "{signal}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains(
                    "stopped: what was downloaded stays, and the same command goes on from there"
                ),
                "{said}"
            );
        }
        let server = hub(&llama());
        online(&desk, &server, &["pull", ID]).says("the next", 0, &[]);
        assert_eq!(
            server
                .requests()
                .iter()
                .find(|request| is_weights(request))
                .unwrap()
                .start(),
            Some(3000)
        );
        assert!(
            fs::read(snapshot(&desk).join("model.safetensors")).unwrap()
                == llama()["model.safetensors"]
        );
        assert!(!incomplete.exists());
    }
}

#[test]
fn a_closed_pipe_is_no_fault() {
    let desk = pulled();
    let mut child = desk
        .command(&["pull", ID])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(Path::new(&snapshot(&desk)).is_dir());
}

#[test]
fn a_folder_that_came_to_be_called_like_the_owner_takes_nothing_from_a_run() {
    let desk = pulled();
    let words = [
        "output_dir=owner/run",
        "output.save_steps=1",
        "evaluation.val_set_size=2",
    ];
    desk.run(&[&TRAIN[..], &words].concat())
        .says("train", 0, &[]);
    let adapter = desk.read("owner/run/adapter/adapter_model.safetensors");
    desk.remove("owner/run/README.md");
    fs::remove_dir_all(desk.path("owner/run/checkpoints/step-2")).unwrap();
    desk.run(&["resume", "owner/run"])
        .says("a folder `owner`", 0, &["going on after step 1"]);
    assert!(desk.read("owner/run/adapter/adapter_model.safetensors") == adapter);
    let said = [
        "`owner/name` does not exist",
        "hint: correct the path; a Hub id is written `owner/name@main` where a folder `owner` is",
    ];
    desk.run(&["check", "recipe.yaml", "base_model=owner/name"])
        .says("a recipe", 65, &said);
    desk.run(&["check", "recipe.yaml", "base_model=owner/name@main"])
        .says("with a revision", 0, &[]);
    fs::create_dir(desk.path("owner/name")).unwrap();
    for arguments in [
        &["eval", "owner/run"][..],
        &["merge", "--adapter", "owner/run/adapter", "--out", "merged"],
    ] {
        desk.run(arguments).says("a folder `owner/name`", 0, &[]);
    }
    // Another base in the lock is another base, whatever was pinned.
    fs::remove_dir_all(desk.path("owner/run/checkpoints/step-2")).unwrap();
    desk.remove("owner/run/README.md");
    desk.edit(
        "owner/run/recipe.lock.yaml",
        "base_model: owner/name",
        "base_model: base",
    );
    desk.run(&["resume", "owner/run"]).says(
        "an edited lock",
        65,
        &["recipe: `base_model` is base"],
    );
}

#[test]
fn what_the_cache_has_lost_of_the_base_of_a_run_is_told_as_such() {
    let desk = pulled();
    desk.run(&TRAIN).says("train", 0, &[]);
    fs::remove_file(snapshot(&desk).join("model.safetensors")).unwrap();
    let said = [
        "these files are missing: model.safetensors",
        &format!("rankine pull owner/name@{COMMIT}"),
    ];
    for arguments in [
        &["generate", "--adapter", "run/adapter", "--prompt", "x"][..],
        &["merge", "--adapter", "run/adapter", "--out", "x"],
        &["export", "run", "--to", "gguf", "--out", "x"],
    ] {
        desk.run(arguments).says(arguments[0], 69, &said);
    }
    // A run knows where its base lay, when the cache is looked for elsewhere.
    online(&desk, &hub(&llama()), &["pull", ID]).says("pull", 0, &[]);
    let elsewhere = [("HF_HUB_CACHE", "/nowhere")];
    desk.run_with(&["export", "run", "--to", "gguf", "--out", "x"], &elsewhere)
        .says("another cache", 0, &[]);
}

#[test]
fn an_adapter_of_the_hub_is_exported_and_keeps_the_commit_of_its_base() {
    let desk = pulled();
    desk.run(&TRAIN).says("train", 0, &[]);
    let revision = |folder: &str| {
        let config: Value =
            serde_json::from_slice(&desk.read(&format!("{folder}/adapter_config.json"))).unwrap();
        (
            config["base_model_name_or_path"].clone(),
            config["revision"].clone(),
        )
    };
    desk.run(&["export", "run", "--to", "peft", "--out", "peft"])
        .says("a run", 0, &[]);
    assert_eq!(revision("peft"), (ID.into(), COMMIT.into()));
    // A repository with an adapter, as Python's client lays it.
    let other = desk.path("hub-home/hub/models--me--adapter");
    fs::create_dir_all(other.join("refs")).unwrap();
    fs::write(other.join("refs/main"), COMMIT).unwrap();
    fs::create_dir_all(other.join("snapshots")).unwrap();
    fs::rename(desk.path("peft"), other.join("snapshots").join(COMMIT)).unwrap();
    for form in ["peft", "mlx", "gguf-adapter", "gguf", "ollama"] {
        desk.run(&["export", "me/adapter", "--to", form, "--out", form])
            .says(form, 0, &[]);
    }
    assert_eq!(revision("peft"), (ID.into(), COMMIT.into()));
    desk.run(&["export", ID, "--to", "gguf", "--out", "base.gguf"])
        .says("the base", 0, &[]);
    assert!(
        desk.read("base.gguf")
            .windows(ID.len())
            .any(|part| part == ID.as_bytes()),
        "it is called by its id"
    );
    assert!(
        desk.read_text("mlx/adapter_config.json")
            .contains("\"model\": \"owner/name\"")
    );
}

#[test]
fn an_adapter_of_the_hub_is_one_in_every_verb_and_is_pulled_as_one() {
    let desk = pulled();
    desk.run(&TRAIN).says("train", 0, &[]);
    let adapter: Files = ["adapter_config.json", "adapter_model.safetensors"]
        .map(|name| (name.to_owned(), desk.read(&format!("run/adapter/{name}"))))
        .into();
    let other = desk.path("hub-home/hub/models--owner--name");
    let server = hub(&adapter);
    // The repository has the name of the test's Hub; the base stays under another one.
    fs::rename(&other, desk.path("hub-home/hub/models--the--base")).unwrap();
    let ran = online(&desk, &server, &["pull", ID]);
    ran.says("pull an adapter", 0, &[]);
    fs::rename(&other, desk.path("hub-home/hub/models--me--adapter")).unwrap();
    fs::rename(desk.path("hub-home/hub/models--the--base"), &other).unwrap();
    let id = "me/adapter";
    let commands: &[&[&str]] = &[
        &[
            "generate",
            "--adapter",
            id,
            "--prompt",
            "x",
            "--max-tokens",
            "2",
        ],
        &["merge", "--adapter", id, "--out", "merged"],
        &["export", id, "--to", "peft", "--out", "peft"],
        &["export", "--adapter", id, "--to", "gguf", "--out", "x.gguf"],
        &[
            "eval",
            "recipe.yaml",
            "base_model=owner/name",
            "--adapter",
            id,
            "--data",
            "rows.parquet",
        ],
        &["eval", "run", "--adapter", id, "--data", "rows.parquet"],
        &["inspect", id],
        &[
            "check",
            "recipe.yaml",
            "base_model=owner/name",
            "adapter.r=",
            "adapter.init_from=me/adapter",
        ],
        &[
            "train",
            "recipe.yaml",
            "base_model=owner/name",
            "adapter.r=",
            "adapter.init_from=me/adapter",
            "output_dir=second",
        ],
        &["resume", "second"],
    ];
    for arguments in commands {
        desk.run(arguments).says(&arguments.join(" "), 0, &[]);
    }
    assert!(
        desk.run(&["inspect", id]).stdout.starts_with("adapter"),
        "it is looked at as an adapter"
    );
    let chat = desk
        .command(&["chat", "--adapter", id])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(chat.status.success(), "{chat:?}");
    // Without network it gets as far as the network.
    desk.run(&["push", id, "me/other"])
        .says("push", 69, &["HF_HUB_OFFLINE"]);
    // One that is in no cache is told with the way to it.
    for arguments in [
        &["generate", "--adapter", "me/none", "--prompt", "x"][..],
        &["merge", "--adapter", "me/none", "--out", "m"],
        &["export", "me/none", "--to", "peft", "--out", "p"],
        &["inspect", "me/none"],
        &["eval", "run", "--adapter", "me/none"],
        &[
            "check",
            "recipe.yaml",
            "base_model=owner/name",
            "adapter.r=",
            "adapter.init_from=me/none",
        ],
    ] {
        let ran = desk.run(arguments);
        assert!([65, 69].contains(&ran.exit), "{ran:?}");
        ran.says(&arguments.join(" "), ran.exit, &["rankine pull me/none"]);
    }
}
