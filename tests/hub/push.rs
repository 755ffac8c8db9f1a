//! An adapter to a repository: what is sent where, with which fields, as `huggingface_hub` sends
//! it, and what never is.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::repository::*;
use super::server::{Answer, Request, Server};
use super::support::*;

const TOKEN: &str = "hf_canaryQ7xv2mPzR4";
const WEIGHTS: &str = "adapter_model.safetensors";

/// How a Hub takes an adapter; files of a name that ends with .safetensors are large ones.
fn taking(uploads: &str, request: &Request) -> Answer {
    match request.path.as_str() {
        "/api/repos/create" => Answer::ok(json!({"url": "x"}).to_string()),
        "/api/models/me/adapter/preupload/main" => {
            let body = request.json();
            let mode = |name: &str| {
                if name.ends_with(".safetensors") {
                    "lfs"
                } else {
                    "regular"
                }
            };
            let file = |file: &Value| {
                json!({
                    "path": file["path"],
                    "uploadMode": mode(file["path"].as_str().unwrap()),
                    "shouldIgnore": false,
                    "oid": null,
                })
            };
            let named = body["files"].as_array().unwrap();
            let files: Vec<_> = named.iter().map(file).collect();
            Answer::ok(json!({"files": files}).to_string())
        }
        "/me/adapter.git/info/lfs/objects/batch" => {
            let object = &request.json()["objects"][0];
            let upload = json!({
                "href": format!("{uploads}/store?X-Signature=s"),
                "header": {"X-Of-The-Store": "1"},
            });
            let verify = json!({"href": format!("{uploads}/verify")});
            let actions = json!({"upload": upload, "verify": verify});
            let object = json!({
                "oid": object["oid"],
                "size": object["size"],
                "actions": actions,
            });
            Answer::ok(json!({"transfer": "basic", "objects": [object]}).to_string())
        }
        "/api/models/me/adapter/commit/main" => {
            Answer::ok(json!({"commitUrl": "x", "commitOid": COMMIT}).to_string())
        }
        _ if request.method == "PUT" || request.path == "/verify" => Answer::ok(""),
        _ => Answer::new(404, ""),
    }
}

/// A Hub and the store that it sends large files to.
fn servers(
    otherwise: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> (Server, Server) {
    let store = Server::start(|request| taking("", request));
    let address = store.address.clone();
    let hub = Server::start(move |request| {
        otherwise(request).unwrap_or_else(|| taking(&address, request))
    });
    (hub, store)
}

fn trained() -> Desk {
    let desk = Desk::new();
    desk.write("base/LICENSE", "what one may do with it");
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk
}

fn push(desk: &Desk, server: &Server, arguments: &[&str]) -> Ran {
    let network = [
        ("HF_HUB_OFFLINE", "0"),
        ("HF_ENDPOINT", &*server.address),
        ("HF_TOKEN", TOKEN),
    ];
    let ran = desk.run_with(&[&["push"], arguments].concat(), &network);
    assert!(!format!("{ran:?}").contains(TOKEN), "{ran:?}");
    ran
}

#[test]
fn an_adapter_goes_up_in_one_commit() {
    let desk = trained();
    let (server, store) = servers(|_| None);
    let ran = push(
        &desk,
        &server,
        &["run", "me/adapter", "--message", "first", "--json"],
    );
    ran.says("push", 0, &[]);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    let weights = desk.read(&format!("run/adapter/{WEIGHTS}"));
    assert_eq!(
        (&result["commit"], &result["uploaded_bytes"]),
        (&COMMIT.into(), &weights.len().into())
    );
    assert_eq!(result["url"], format!("{}/me/adapter", server.address));

    let requests = server.requests();
    let paths: Vec<_> = requests
        .iter()
        .map(|request| request.path.as_str())
        .collect();
    let api = "/api/models/me/adapter";
    assert_eq!(
        paths,
        [
            "/api/repos/create",
            &format!("{api}/preupload/main"),
            "/me/adapter.git/info/lfs/objects/batch",
            &format!("{api}/commit/main")
        ]
    );
    assert!(
        requests
            .iter()
            .all(|request| request.header("authorization") == format!("Bearer {TOKEN}"))
    );
    assert_eq!(
        requests[0].json(),
        json!({"type": "model", "name": "adapter", "organization": "me"})
    );
    let files = requests[1].json()["files"].clone();
    let names: Vec<_> = files
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "adapter_config.json",
            "README.md",
            "rankine.lock",
            "LICENSE",
            WEIGHTS
        ]
    );
    assert_eq!(files[4]["size"], weights.len());
    let (oid, size) = (sha256(&weights), weights.len());
    let batch = json!({
        "operation": "upload",
        "transfers": ["basic"],
        "objects": [{"oid": oid, "size": size}],
        "hash_algo": "sha256",
        "ref": {"name": "main"},
    });
    assert_eq!(requests[2].json(), batch);
    assert_eq!(
        (
            requests[2].header("accept"),
            requests[2].header("content-type")
        ),
        (
            "application/vnd.git-lfs+json",
            "application/vnd.git-lfs+json"
        )
    );
    assert_eq!(requests[3].header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = requests[3]
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        json!({"key": "header", "value": {"summary": "first", "description": ""}})
    );
    assert_eq!(
        lines[5],
        json!({
            "key": "lfsFile",
            "value": {"path": WEIGHTS, "algo": "sha256", "oid": oid, "size": size},
        })
    );
    let content = |line: &Value| {
        use base64::Engine as _;
        assert_eq!(
            (&line["key"], &line["value"]["encoding"]),
            (&"file".into(), &"base64".into())
        );
        base64::engine::general_purpose::STANDARD
            .decode(line["value"]["content"].as_str().unwrap())
            .unwrap()
    };
    assert_eq!(
        content(&lines[1]),
        desk.read("run/adapter/adapter_config.json")
    );
    assert_eq!(content(&lines[2]), desk.read("run/README.md"));
    assert_eq!(content(&lines[4]), b"what one may do with it");

    // The store gets the bytes and the headers that it asked for, and no token.
    let stored = store.requests();
    assert_eq!(
        (stored[0].method.as_str(), stored[0].path.as_str()),
        ("PUT", "/store?X-Signature=s")
    );
    assert_eq!(
        (
            stored[0].header("x-of-the-store"),
            stored[0].header("content-length")
        ),
        ("1", &*size.to_string())
    );
    assert!(stored[0].body == weights);
    assert_eq!(
        (stored[1].path.as_str(), stored[1].json()),
        ("/verify", json!({"oid": oid, "size": size}))
    );
    assert!(
        stored
            .iter()
            .all(|request| !request.headers.values().any(|value| value.contains(TOKEN)))
    );

    // The lock tells what the run depends on and not where this machine has it.
    let lock = String::from_utf8(content(&lines[3])).unwrap();
    assert!(
        lock.contains("seed: 42") && lock.contains("blake3") && lock.contains("model.safetensors"),
        "{lock}"
    );
    let here = desk.path("").canonicalize().unwrap().display().to_string();
    assert!(
        !lock.contains(&here) && !lock.contains("working_directory"),
        "{lock}"
    );
}

#[test]
fn what_is_there_already_is_not_sent_again() {
    let desk = trained();
    let there = |request: &Request| {
        request.path.ends_with("/batch").then(|| {
            let object = &request.json()["objects"][0];
            Answer::ok(
                json!({"objects": [{"oid": object["oid"], "size": object["size"]}]}).to_string(),
            )
        })
    };
    let (server, store) = servers(move |request| {
        (request.path == "/api/repos/create")
            .then(|| Answer::new(409, ""))
            .or_else(|| there(request))
    });
    let ran = push(&desk, &server, &["run/adapter", "me/adapter"]);
    ran.says(
        "an existing repository",
        0,
        &["note: `run/adapter` has no README.md: the repository gets no card"],
    );
    assert!(
        store.requests().is_empty()
            && server
                .requests()
                .last()
                .unwrap()
                .path
                .ends_with("/commit/main")
    );

    // Every file as it is: no commit.
    let (config, weights) = (
        desk.read("run/adapter/adapter_config.json"),
        desk.read(&format!("run/adapter/{WEIGHTS}")),
    );
    desk.remove("run/recipe.lock.yaml");
    let (server, _store) = servers(move |request| {
        let files = json!({"files": [
            {
                "path": "adapter_config.json",
                "uploadMode": "regular",
                "shouldIgnore": false,
                "oid": git_hash(&config),
            },
            {"path": WEIGHTS, "uploadMode": "lfs", "shouldIgnore": false, "oid": sha256(&weights)},
        ]});
        request
            .path
            .contains("/preupload/")
            .then(|| Answer::ok(files.to_string()))
    });
    let ran = push(&desk, &server, &["run/adapter", "me/adapter"]);
    ran.says("nothing new", 0, &[]);
    assert!(ran.stdout.starts_with("nothing to do"), "{}", ran.stdout);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_store_that_fails_is_tried_again_and_a_commit_is_not() {
    let desk = trained();
    let count = Mutex::new(0);
    let failing = Server::start(move |request| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count < 3 {
            Answer::new(500, "").header("Retry-After", 0)
        } else {
            taking("", request)
        }
    });
    let address = failing.address.clone();
    let hub = Server::start(move |request| taking(&address, request));
    push(&desk, &hub, &["run", "me/adapter"]).says(
        "a store that fails twice",
        0,
        &["answered 500; trying again"],
    );
    assert!(
        failing.requests()[2].body == desk.read(&format!("run/adapter/{WEIGHTS}")),
        "from its first byte"
    );

    let (server, _store) = servers(|request| {
        request
            .path
            .contains("/commit/")
            .then(|| Answer::new(503, "").header("Retry-After", 0))
    });
    push(&desk, &server, &["run", "me/adapter"]).says(
        "a commit that may have been made",
        69,
        &["answered 503"],
    );
    assert_eq!(
        server
            .requests()
            .iter()
            .filter(|request| request.path.contains("/commit/"))
            .count(),
        1
    );
}

#[test]
fn a_private_repository_is_private_before_anything_is_sent() {
    let desk = trained();
    let about = |is_private: bool| {
        move |request: &Request| {
            (request.method == "GET")
                .then(|| Answer::ok(json!({"private": is_private}).to_string()))
        }
    };
    let (server, _store) = servers(about(true));
    push(&desk, &server, &["run", "me/adapter", "--private"]).says("private", 0, &[]);
    assert_eq!(server.requests()[0].json()["private"], true);
    let (server, store) = servers(about(false));
    let ran = push(&desk, &server, &["run", "me/adapter", "--private"]);
    ran.says(
        "others can see it",
        69,
        &[
            "is a repository that others can see, and `--private` was asked for; nothing was \
            uploaded",
        ],
    );
    assert!(
        store.requests().is_empty()
            && server.take() == ["POST /api/repos/create", "GET /api/models/me/adapter"]
    );
}

#[test]
fn who_may_not_push_is_told() {
    let desk = trained();
    let (server, _store) = servers(|_| Some(Answer::new(401, "")));
    let said = [
        "`me/adapter@main`: the hub",
        "answered 401, a token was sent",
        "hint: set HF_TOKEN to a token that may write there",
    ];
    push(&desk, &server, &["run", "me/adapter"]).says("401", 69, &said);
    // A token for this repository alone cannot make one, and need not.
    let (server, _store) = servers(|request| match request.path.as_str() {
        "/api/repos/create" => Some(Answer::new(403, "")),
        "/api/models/me/adapter" => Some(Answer::ok("{}")),
        _ => None,
    });
    push(&desk, &server, &["run", "me/adapter"]).says("a token for one repository", 0, &[]);
    let (server, _store) = servers(|request| {
        request
            .path
            .contains("/preupload/")
            .then(|| Answer::new(404, "").header("X-Error-Code", "RevisionNotFound"))
    });
    push(&desk, &server, &["run", "me/adapter", "--revision", "dev"]).says(
        "no branch",
        69,
        &["has no revision `dev`"],
    );

    let before = server.requests().len();
    let network = [("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", &*server.address)];
    desk.run_with(&["push", "run", "me/adapter"], &network)
        .says(
            "no token",
            69,
            &["there is no token of the Hub", "HF_TOKEN"],
        );
    let offline = [("HF_TOKEN", TOKEN), ("HF_ENDPOINT", &*server.address)];
    desk.run_with(&["push", "run", "me/adapter"], &offline)
        .says(
            "offline",
            69,
            &["a push needs the network, which HF_HUB_OFFLINE"],
        );
    assert_eq!(server.requests().len(), before);
}

#[test]
fn what_is_no_adapter_or_tells_of_this_machine_is_not_uploaded() {
    let desk = trained();
    let (server, _store) = servers(|_| None);
    let push = |arguments: &[&str]| push(&desk, &server, arguments);
    push(&["none", "me/adapter"]).says("nothing", 66, &["`none` does not exist"]);
    push(&["base", "me/adapter"]).says("a base", 65, &["`base` holds no adapter"]);
    push(&["run", "adapter"]).says("no owner", 2, &["expected `owner/name`"]);
    push(&["run", "me/adapter@main"]).says("a revision", 2, &["a branch with `--revision`"]);
    push(&["run", "../x"]).says("no id", 65, &["is no id of the Hub"]);
    desk.edit(
        "run/adapter/adapter_config.json",
        "\"base\",",
        "\"/home/anna/models/base\",",
    );
    push(&["run", "me/adapter"]).says(
        "a place in the config",
        65,
        &["adapter_config.json` names `/home/anna/models/base`, a place on this machine"],
    );
    desk.edit(
        "run/adapter/adapter_config.json",
        "\"/home/anna/models/base\",",
        "\"base\",",
    );
    let card = desk.read_text("run/README.md");
    desk.write(
        "run/README.md",
        format!("{card}\n- `/data/patients/notes.parquet`\n"),
    );
    push(&["run", "me/adapter"]).says(
        "a place in the card",
        65,
        &["README.md` names `/data/patients/notes.parquet`"],
    );
    desk.write("run/README.md", card);
    desk.cut(&format!("run/adapter/{WEIGHTS}"), 0.5);
    push(&["run", "me/adapter"]).says(
        "a damaged adapter",
        65,
        &["is not a whole safetensors file"],
    );
    assert!(server.requests().is_empty());
}

/// What becomes of an answer.
type Change = fn(&mut Value);

#[test]
fn an_answer_that_makes_no_sense_is_refused() {
    let desk = trained();
    let of_file = |change: Change| {
        move |request: &Request| {
            request.path.contains("/preupload/").then(|| {
                let mut answer: Value = serde_json::from_slice(&taking("", request).body).unwrap();
                change(&mut answer);
                Answer::ok(answer.to_string())
            })
        }
    };
    let cases: [(Change, &str); 4] = [
        (
            |answer| answer["files"] = json!([]),
            "it does not say how `adapter_config.json` is to be sent",
        ),
        (
            |answer| answer["files"][0]["uploadMode"] = json!("xet"),
            "it wants `adapter_config.json` to be sent as `xet`",
        ),
        (
            |answer| answer["files"][0]["shouldIgnore"] = json!(true),
            ".gitignore leaves `adapter_config.json` out",
        ),
        (|answer| *answer = json!("x"), "it does not say how"),
    ];
    for (change, part) in cases {
        let (server, _store) = servers(of_file(change));
        push(&desk, &server, &["run", "me/adapter"]).says(part, 69, &[part]);
    }
    let actions = [
        (
            json!({"upload": {"href": "file:///etc/passwd"}}),
            "it gives `file:///etc/passwd`, which is no address",
        ),
        (
            json!({"upload": {"href": "ftp://127.0.0.1/x"}}),
            "which is no http or https address",
        ),
        (json!({"upload": {}}), "it gives no address"),
        (
            json!({"upload": {"href": "http://127.0.0.1/x", "header": {"chunk_size": "5"}}}),
            "it wants that in parts",
        ),
    ];
    for (actions, part) in actions {
        let (server, _store) = servers(move |request| {
            request.path.ends_with("/batch").then(|| {
                let object = &request.json()["objects"][0];
                let object = json!({
                    "oid": object["oid"],
                    "size": object["size"],
                    "actions": actions,
                });
                Answer::ok(json!({"objects": [object]}).to_string())
            })
        });
        push(&desk, &server, &["run", "me/adapter"]).says(part, 69, &[part]);
    }
    let (server, _store) =
        servers(|request| request.path.contains("/commit/").then(|| Answer::ok("{}")));
    push(&desk, &server, &["run", "me/adapter"]).says(
        "no commit",
        69,
        &["it made a commit and names none"],
    );
}
