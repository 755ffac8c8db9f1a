//! Data sets of the Hub in recipes and in `pull`: which files are fetched, what of them is said,
//! and how a run keeps to them.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::repository::{COMMIT, Files, hash, sibling};
use super::server::{Answer, Request, Server};
use super::support::*;

const ID: &str = "owner/data";
const PATH: &str = "hf://datasets/owner/data";
const CONVERTED: &str = "00112233445566778899aabbccddeeff00112233";
const TRAIN: [&str; 3] = [
    "train",
    "recipe.yaml",
    "datasets.0.path=hf://datasets/owner/data",
];

/// A Parquet file of so many rows of a kind.
fn rows(desk: &Desk, kind: &str, count: usize) -> Vec<u8> {
    let rows =
        (0..count).map(|row| format!("the {kind} {row} means {}", "so ".repeat(row % 5 + 1)));
    desk.write_rows("made.parquet", vec![("text", texts(rows))]);
    let bytes = desk.read("made.parquet");
    desk.remove("made.parquet");
    bytes
}

fn files(list: &[(&str, &[u8])]) -> Files {
    list.iter()
        .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
        .collect()
}

/// Two splits, the first in two files, with a card and files of no use.
fn own(desk: &Desk) -> Files {
    files(&[
        ("README.md", b"---\nlicense: cc-by-4.0\n---\n# Rows\n"),
        ("LICENSE", b"words"),
        ("data/train-00000-of-00002.parquet", &rows(desk, "term", 8)),
        ("data/train-00001-of-00002.parquet", &rows(desk, "word", 4)),
        (
            "data/validation-00000-of-00001.parquet",
            &rows(desk, "held", 3),
        ),
        ("raw/source.zip", b"a zip"),
    ])
}

fn listed(commit: &str, files: &Files) -> Answer {
    let siblings: Vec<Value> = files
        .iter()
        .map(|(name, content)| sibling(name, content))
        .collect();
    Answer::ok(json!({"id": ID, "sha": commit, "siblings": siblings}).to_string())
}

/// What a Hub answers that has this data set, at `commit` and perhaps converted.
fn answer(request: &Request, commit: &str, main: &Files, converted: Option<&Files>) -> Answer {
    let path = request.path.split('?').next().unwrap();
    let of = |commit: &str| path == format!("/api/datasets/{ID}/revision/{commit}");
    match converted {
        _ if of("main") || of(commit) => return listed(commit, main),
        Some(converted) if of("refs%2Fconvert%2Fparquet") || of(CONVERTED) => {
            return listed(CONVERTED, converted);
        }
        _ => {}
    }
    let at = |commit: &str, files: &Files| {
        let name = path
            .strip_prefix(&format!("/datasets/{ID}/resolve/{commit}/"))?
            .replace("%20", " ");
        Some(Answer::content(request, files.get(&name)?))
    };
    let found = at(commit, main).or_else(|| at(CONVERTED, converted?));
    found.unwrap_or_else(|| {
        let code = if path.contains(&format!("datasets/{ID}/revision/")) {
            "RevisionNotFound"
        } else {
            "RepoNotFound"
        };
        Answer::new(404, "").header("X-Error-Code", code)
    })
}

fn hub(main: &Files, converted: Option<&Files>) -> Server {
    hub_at(COMMIT, main, converted)
}

fn hub_at(commit: &str, main: &Files, converted: Option<&Files>) -> Server {
    let (commit, main, converted) = (commit.to_owned(), main.clone(), converted.cloned());
    Server::start(move |request| answer(request, &commit, &main, converted.as_ref()))
}

fn online(desk: &Desk, server: &Server, arguments: &[&str]) -> Ran {
    desk.run_with(
        arguments,
        &[("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", &server.address)],
    )
}

fn repository(desk: &Desk) -> PathBuf {
    desk.path("hub-home/hub/datasets--owner--data")
}

fn lock(desk: &Desk, run: &str) -> Value {
    serde_yaml::from_str(&desk.read_text(&format!("{run}/recipe.lock.yaml"))).unwrap()
}

/// The counts of a line of the ledger that `preview` prints.
fn counts(ran: &Ran, line: &str) -> Vec<String> {
    let found = ran
        .stdout
        .lines()
        .find_map(|row| row.trim().strip_prefix(line))
        .unwrap_or_else(|| panic!("{line}: {}", ran.stdout));
    found.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn pull_fetches_parquet_and_the_card_once_into_the_cache_of_python() {
    let desk = Desk::new();
    let own = own(&desk);
    let server = hub(&own, None);
    let ran = online(&desk, &server, &["pull", "--dataset", ID]);
    ran.says("pull", 0, &[]);
    let folder = format!("DESK/hub-home/hub/datasets--owner--data/snapshots/{COMMIT}");
    assert_eq!(ran.stdout.lines().last(), Some(&*folder));
    assert!(
        ran.stdout.contains("3 files")
            && ran
                .stdout
                .contains("configuration `default`, train, validation"),
        "{}",
        ran.stdout
    );
    let snapshot = repository(&desk).join("snapshots").join(COMMIT);
    for (name, content) in &own {
        let is_wanted = name != "raw/source.zip";
        assert_eq!(snapshot.join(name).exists(), is_wanted, "{name}");
        if is_wanted {
            let up = "../".repeat(name.matches('/').count());
            let blob = PathBuf::from(up)
                .join("../../blobs")
                .join(hash(name, content));
            assert_eq!(snapshot.join(name).read_link().unwrap(), blob, "{name}");
            assert!(fs::read(snapshot.join(name)).unwrap() == *content, "{name}");
        }
    }
    assert_eq!(
        fs::read_to_string(repository(&desk).join("refs/main")).unwrap(),
        COMMIT
    );
    server.take();
    let ran = online(
        &desk,
        &server,
        &[
            "pull",
            "hf://datasets/owner/data",
            "--split",
            "validation",
            "--json",
        ],
    );
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (
            &result["commit"],
            &result["downloaded_bytes"],
            &result["config"]
        ),
        (&COMMIT.into(), &0.into(), &"default".into())
    );
    assert_eq!(
        result["files"][0]["name"],
        "data/validation-00000-of-00001.parquet"
    );
    assert_eq!(server.take().len(), 1, "what is there is not fetched again");
    desk.run(&["pull", "--dataset", ID])
        .says("without network", 0, &[]);
    let ran = desk.run(&["inspect", "hf://datasets/owner/data"]);
    ran.says("inspect", 0, &[]);
    assert!(
        ran.stdout.contains("rows") && ran.stdout.contains("12"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_run_reads_the_rows_of_the_hub_and_its_lock_keeps_commit_and_files() {
    let desk = Desk::new();
    let own = own(&desk);
    let server = hub(&own, None);
    // Nothing but `train` and `pull` fetches.
    let hint = "hint: fetch it with `rankine pull --dataset owner/data --split train`";
    let path = format!("datasets.0.path={PATH}");
    for verb in ["plan", "preview"] {
        online(&desk, &server, &[verb, "recipe.yaml", &path]).says(
            verb,
            69,
            &["`datasets/owner/data` is not in the cache", hint],
        );
    }
    let ran = online(&desk, &server, &["check", "recipe.yaml", &path]);
    ran.says(
        "check",
        0,
        &["note: `rankine pull --dataset owner/data --split train` fetches it"],
    );
    assert!(
        ran.stdout.contains(
            "`datasets/owner/data` is not in the cache, so its columns and rows are unchecked"
        ),
        "{}",
        ran.stdout
    );
    desk.run(&TRAIN).says(
        "offline",
        69,
        &[
            "HF_HUB_OFFLINE switches the network off",
            "rankine pull --dataset owner/data",
        ],
    );
    assert!(server.requests().is_empty());

    online(
        &desk,
        &server,
        &[&TRAIN[..], &["output.save_steps=1"]].concat(),
    )
    .says("train", 0, &[]);
    let fetched = server
        .requests()
        .iter()
        .any(|request| request.path.contains("validation"));
    assert!(!fetched, "a split that no recipe names stays there");
    let lock = lock(&desk, "run");
    let of_hub = &lock["hub_datasets"]["datasets.0"];
    assert_eq!(
        (
            &of_hub["commit"],
            &of_hub["config"],
            &of_hub["converted_commit"]
        ),
        (&COMMIT.into(), &"default".into(), &Value::Null)
    );
    let names = json!([
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet"
    ]);
    assert_eq!(
        of_hub["splits"],
        json!([{"name": "train", "partial": false, "files": names}])
    );
    let hashes = lock["blake3"]["datasets"].as_object().unwrap();
    assert_eq!(hashes.len(), 2);
    for (name, content) in own.iter().filter(|(name, _)| name.contains("train")) {
        let hash = hashes
            .iter()
            .find(|(path, _)| path.ends_with(name.as_str()))
            .unwrap()
            .1;
        assert_eq!(*hash, blake3::hash(content).to_string(), "{name}");
    }
    let card = desk.read_text("run/README.md");
    assert!(
        card.contains("- owner/data") || card.contains("[\"owner/data\"]"),
        "{card}"
    );
    assert!(
        card.contains(COMMIT) && card.contains("cc-by-4.0") && !card.contains("hub-home"),
        "{card}"
    );
    // The same as on a folder with these files.
    fs::create_dir(desk.path("folder")).unwrap();
    for (name, content) in own.iter().filter(|(name, _)| name.contains("train")) {
        desk.write(
            &format!("folder/{}", name.rsplit('/').next().unwrap()),
            content,
        );
    }
    desk.run(&[
        "train",
        "recipe.yaml",
        "datasets.0.path=folder",
        "output_dir=other",
    ])
    .says("a folder", 0, &[]);
    assert!(
        desk.read("run/adapter/adapter_model.safetensors")
            == desk.read("other/adapter/adapter_model.safetensors")
    );
    // Validation rows, and rows that are scored.
    let validation =
        "evaluation.datasets=[{path: 'hf://datasets/owner/data', split: validation, format: text}]";
    online(
        &desk,
        &server,
        &[&TRAIN[..], &[validation, "output_dir=scored"]].concat(),
    )
    .says("validation", 0, &[]);
    assert!(
        desk.run(&["preview", "recipe.yaml", &path, validation])
            .stdout
            .contains("held out for validation")
    );
    desk.run(&["eval", "scored"]).says("eval", 0, &[]);
    let glob = "hf://datasets/owner/data/data/validation-*";
    desk.run(&["eval", "run", "--data", glob])
        .says("eval --data", 0, &[]);
}

#[test]
fn a_run_is_resumed_on_the_commit_of_its_lock() {
    let desk = Desk::new();
    let own = own(&desk);
    online(
        &desk,
        &hub(&own, None),
        &[&TRAIN[..], &["output.save_steps=1"]].concat(),
    )
    .says("train", 0, &[]);
    let adapter = desk.read("run/adapter/adapter_model.safetensors");
    let stop = |desk: &Desk| {
        for part in ["README.md", "result.json"] {
            let _ = fs::remove_file(desk.path(&format!("run/{part}")));
        }
        fs::remove_dir_all(desk.path("run/checkpoints/step-2")).unwrap();
    };
    // The branch has moved on, and the cache lies elsewhere.
    stop(&desk);
    let mut newer = own.clone();
    newer.insert(
        "data/train-00000-of-00002.parquet".into(),
        rows(&desk, "other", 9),
    );
    let later = hub_at(&"f".repeat(40), &newer, None);
    online(&desk, &later, &["pull", "--dataset", ID]).says("pull", 0, &[]);
    fs::rename(desk.path("hub-home"), desk.path("moved")).unwrap();
    let moved = desk.path("moved").display().to_string();
    let environment = [("HF_HOME", &*moved), ("HF_HUB_OFFLINE", "1")];
    desk.run_with(&["resume", "run"], &environment)
        .says("resume", 0, &["going on after step 1"]);
    assert!(desk.read("run/adapter/adapter_model.safetensors") == adapter);
    // A file that the cache has lost is fetched from that commit, and is needed.
    stop(&desk);
    let lost = desk
        .path("moved/hub/datasets--owner--data/snapshots")
        .join(COMMIT)
        .join("data/train-00001-of-00002.parquet");
    fs::remove_file(&lost).unwrap();
    let said = [
        "these files are missing: `data/train-00001-of-00002.parquet`",
        &format!("rankine pull --dataset 'owner/data@{COMMIT}/data/*.parquet'"),
    ];
    let ran = desk.run_with(&["resume", "run"], &environment);
    assert_eq!(ran.exit, 69, "{ran:?}");
    assert!(
        ran.stderr.contains("data/train-00001-of-00002.parquet") && ran.stderr.contains(said[1]),
        "{}",
        ran.stderr
    );
    let server = hub(&own, None);
    desk.run_with(
        &["resume", "run"],
        &[
            ("HF_HOME", &*moved),
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", &*server.address),
        ],
    )
    .says("fetched", 0, &["going on after step 1"]);
    assert!(desk.read("run/adapter/adapter_model.safetensors") == adapter);
    // Other rows under the same commit are other data.
    stop(&desk);
    fs::remove_file(&lost).unwrap();
    fs::write(&lost, rows(&desk, "false", 4)).unwrap();
    desk.run_with(&["resume", "run"], &environment).says(
        "changed",
        65,
        &["has changed since the run started"],
    );
    // Elsewhere they are found by their content.
    fs::create_dir(desk.path("copies")).unwrap();
    for (index, (_, content)) in own
        .iter()
        .filter(|(name, _)| name.contains("train"))
        .enumerate()
    {
        desk.write(&format!("copies/{index}.parquet"), content);
    }
    fs::remove_dir_all(desk.path("moved")).unwrap();
    desk.run_with(&["resume", "run", "--data", "copies"], &environment)
        .says("copies", 0, &["going on after step 1"]);
    assert!(desk.read("run/adapter/adapter_model.safetensors") == adapter);
}

#[test]
fn a_branch_that_moved_is_fetched_anew_and_a_network_that_is_away_is_told() {
    let desk = Desk::new();
    let own = own(&desk);
    online(&desk, &hub(&own, None), &["pull", "--dataset", ID]).says("pull", 0, &[]);
    let away = Server::start(|_| Answer::new(503, ""));
    online(&desk, &away, &TRAIN).says(
        "away",
        0,
        &[&format!("going on with commit {COMMIT} of the cache")],
    );
    assert_eq!(away.requests().len(), 1, "whoever has it does not wait");
    let mut newer = own.clone();
    newer.insert(
        "data/train-00000-of-00002.parquet".into(),
        rows(&desk, "other", 9),
    );
    online(
        &desk,
        &hub_at(&"f".repeat(40), &newer, None),
        &[&TRAIN[..], &["output_dir=newer"]].concat(),
    )
    .says("newer", 0, &[]);
    assert_eq!(
        lock(&desk, "newer")["hub_datasets"]["datasets.0"]["commit"],
        "f".repeat(40)
    );
    let pinned = format!("datasets.0.path={PATH}@{COMMIT}");
    desk.run(&["train", "recipe.yaml", &pinned, "output_dir=pinned"])
        .says("a commit", 0, &[]);
    assert_eq!(
        lock(&desk, "pinned")["hub_datasets"]["datasets.0"]["commit"],
        COMMIT
    );
    assert!(
        desk.read("pinned/adapter/adapter_model.safetensors")
            == desk.read("run/adapter/adapter_model.safetensors")
    );
}

#[test]
fn the_converted_copy_stands_in_and_a_part_of_a_set_is_said_aloud() {
    let desk = Desk::new();
    let main = files(&[
        ("README.md", b"---\nlicense: mit\n---\n# Rows"),
        ("train.jsonl.zst", b"..."),
    ]);
    let converted = files(&[
        (
            "default/partial-train/0000.parquet",
            &rows(&desk, "term", 8),
        ),
        ("default/test/0000.parquet", &rows(&desk, "held", 3)),
    ]);
    let server = hub(&main, Some(&converted));
    let note = "split `train` of `datasets/owner/data` is not whole: the Hub has converted its \
        first 5 GB only (`partial-train`)";
    let copy = format!(
        "its rows are read from the copy that the Hub made (`refs/convert/parquet`, \
        commit {CONVERTED})"
    );
    online(&desk, &server, &["pull", "--dataset", ID]).says("pull", 0, &[note, &copy]);
    assert_eq!(
        fs::read_to_string(repository(&desk).join("refs/refs/convert/parquet")).unwrap(),
        CONVERTED
    );
    for verb in ["check", "plan", "preview", "train"] {
        desk.run(&[verb, "recipe.yaml", TRAIN[2]]).says(
            verb,
            0,
            &[&format!("note: datasets.0: {note}"), &copy],
        );
    }
    let lock = lock(&desk, "run");
    let of_hub = &lock["hub_datasets"]["datasets.0"];
    assert_eq!(
        (&of_hub["commit"], &of_hub["converted_commit"]),
        (&COMMIT.into(), &CONVERTED.into())
    );
    assert_eq!(of_hub["splits"][0]["partial"], true);
    let card = desk.read_text("run/README.md");
    assert!(
        card.contains("split `train` is not whole") && card.contains("mit"),
        "{card}"
    );
    let ran = desk.run(&["check", "recipe.yaml", TRAIN[2], "datasets.0.split=test"]);
    ran.says("a whole split", 0, &[&copy]);
    assert!(!ran.stderr.contains("is not whole"), "{}", ran.stderr);
    // The branch itself may be named, and files of it.
    let branch =
        "datasets.0.path=hf://datasets/owner/data@refs/convert/parquet/default/test/*.parquet";
    desk.run(&["train", "recipe.yaml", branch, "output_dir=branch"])
        .says("the branch", 0, &[]);
}

#[test]
fn what_does_not_go_with_the_repository_is_told_with_both_sides() {
    let desk = Desk::new();
    let readme = b"---\nconfigs:\n- config_name: law\n  data_files: law/*.parquet\n- config_name: \
    medicine\n  default: true\n  data_files:\n  - split: train\n    path: medicine/a.parquet\n  - \
    split: test\n    path: medicine/b.parquet\n---\n";
    let several = files(&[
        ("README.md", readme),
        ("law/a.parquet", &rows(&desk, "law", 5)),
        ("medicine/a.parquet", &rows(&desk, "term", 5)),
        ("medicine/b.parquet", &rows(&desk, "test", 3)),
    ]);
    let server = hub(&several, None);
    let said = [
        "`datasets/owner/data` has several configurations: `law`, `medicine`",
        "hint: name one with `config`; `config: medicine` is the default of the repository",
    ];
    online(&desk, &server, &TRAIN).says("no config", 65, &said);
    online(&desk, &server, &["pull", "--dataset", ID]).says("pull without config", 65, &said);
    let config = "datasets.0.config=medicine";
    online(&desk, &server, &[&TRAIN[..], &[config]].concat()).says("a config", 0, &[]);
    // In the cache now, so that faults have their place in the recipe.
    let check = |words: &[&str]| desk.run(&[&["check", "recipe.yaml", TRAIN[2]], words].concat());
    check(&[]).says(
        "check",
        65,
        &[
            "error: override `datasets.0.path=hf://datasets/owner/data`: datasets.0.config: \
            `datasets/owner/data` has several",
        ],
    );
    check(&["datasets.0.config=art"]).says(
        "other",
        65,
        &[
            "datasets.0.config: `datasets/owner/data` has no configuration `art`, it has: `law`, \
            `medicine`",
        ],
    );
    check(&[config, "datasets.0.split=dev"]).says(
        "split",
        65,
        &[
            "datasets.0.split: `hf://datasets/owner/data` has no split `dev` in configuration \
            `medicine`, it has: `train`, `test`",
        ],
    );
    check(&[config, "datasets.0.split=train[:60]"]).says(
        "slice",
        65,
        &[
            "datasets.0.split: `train[:60]` asks for row 60, split `train` has 5 rows",
            "hint: correct the slice; `max_rows`",
        ],
    );
    check(&[config, "datasets.0.split=train[:6"]).says(
        "no slice",
        65,
        &["datasets.0.split: `train[:6` is no split, expected a split with or without a slice"],
    );
    let glob = "datasets.0.path=hf://datasets/owner/data/art/*.parquet";
    desk.run(&["check", "recipe.yaml", glob]).says(
        "glob",
        65,
        &[
            "no Parquet file of `datasets/owner/data` matches `art/*.parquet`, it has: \
            `law/a.parquet`",
        ],
    );
    let glob = "datasets.0.path=hf://datasets/owner/data/medicine/a.parquet";
    desk.run(&["check", "recipe.yaml", glob, config]).says(
        "both",
        65,
        &[
            "datasets.0.config: `medicine` does not go with",
            "which names its files",
        ],
    );
    desk.run(&["check", "recipe.yaml", glob])
        .says("a file", 0, &[]);
    let local = "datasets.0.path=rows.parquet";
    desk.run(&["check", "recipe.yaml", local, config]).says(
        "local",
        65,
        &["datasets.0.config: `medicine` does not go with `rows.parquet`, which is no data set of \
            the Hub"],
    );
    desk.run(&["check", "recipe.yaml", local, "datasets.0.split=test"])
        .says(
            "local split",
            65,
            &["`test` names splits, which local files have not"],
        );
    desk.run(&["check", "recipe.yaml", "datasets.0.path=hf://models/x/y"])
        .says(
            "no data set",
            65,
            &["`hf://models/x/y` is no id of the Hub: expected `hf://datasets/owner/name`"],
        );
    desk.run(&["check", "recipe.yaml", "datasets.0.path=owner/data"])
        .says(
            "an id",
            65,
            &[
                "no data file at `owner/data`",
                "hint: a data set of the Hub is written `hf://datasets/owner/data`",
            ],
        );
    // No Parquet, and nobody converted it.
    let server = hub(&files(&[("rows.jsonl", b"{}")]), None);
    let said = [
        "`datasets/owner/data` has no Parquet files and no branch `refs/convert/parquet`, it has: \
        `rows.jsonl`",
        "rankine convert",
    ];
    let other = Desk::new();
    online(&other, &server, &TRAIN).says("no Parquet", 65, &said);
    online(&other, &server, &["pull", "--dataset", "owner/data@v2"]).says(
        "no such revision",
        69,
        &["`datasets/owner/data` on the hub", "has no revision `v2`"],
    );
    online(&other, &server, &["pull", "--dataset", "owner/none"]).says(
        "no such set",
        69,
        &["`datasets/owner/none` (revision `main`) is not on the hub"],
    );
    online(&other, &server, &["pull", "owner/data", "--config", "x"]).says(
        "of a model",
        2,
        &["--config and --split are of data sets"],
    );
    // Gated, with the page on which it is asked for.
    let gated = Server::start(|_| Answer::new(401, ""));
    let page = format!(
        "accept the license at {}/datasets/owner/data",
        gated.address
    );
    online(&other, &gated, &TRAIN).says("gated", 69, &["answered 401, no token was sent", &page]);
    let sent = other.run_with(
        &TRAIN,
        &[
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", &gated.address),
            ("HF_TOKEN", "hf_secret"),
        ],
    );
    sent.says("with a token", 69, &["a token was sent"]);
    assert_eq!(
        gated.requests().last().unwrap().header("authorization"),
        "Bearer hf_secret"
    );
    assert!(!sent.stderr.contains("hf_secret"));
}

#[test]
fn a_listing_that_leads_elsewhere_is_refused_whole() {
    let desk = Desk::new();
    for name in [
        "../x.parquet",
        "a/../../x.json",
        "data\\x.parquet",
        "con/x.parquet",
    ] {
        let sibling = json!({"rfilename": name, "size": 1, "blobId": COMMIT});
        let server = Server::start(move |_| {
            Answer::ok(json!({"sha": COMMIT, "siblings": [sibling]}).to_string())
        });
        online(&desk, &server, &["pull", "--dataset", ID]).says(
            name,
            69,
            &["the hub's answer is refused: it names a file"],
        );
    }
    assert!(!repository(&desk).exists());
}

#[test]
fn a_cache_of_pythons_client_is_used_and_its_limits_are_told() {
    let desk = Desk::new();
    let own = own(&desk);
    let snapshot = repository(&desk).join("snapshots").join(COMMIT);
    fs::create_dir_all(snapshot.join("data")).unwrap();
    fs::create_dir_all(repository(&desk).join("refs")).unwrap();
    fs::write(repository(&desk).join("refs/main"), COMMIT).unwrap();
    for (name, content) in own.iter().filter(|(name, _)| name.contains("train")) {
        fs::write(snapshot.join(name), content).unwrap();
    }
    let note = format!(
        "note: datasets.0: the cache does not say what else `datasets/owner/data` \
        holds at commit {COMMIT}"
    );
    desk.run(&TRAIN).says("train", 0, &[&note]);
}

#[test]
fn a_slice_and_max_rows_take_rows_and_the_rest_is_counted() {
    let desk = Desk::new();
    let own = own(&desk);
    online(&desk, &hub(&own, None), &["pull", "--dataset", ID]).says("pull", 0, &[]);
    let of_hub =
        |words: &[&str]| desk.run(&[&["preview", "recipe.yaml", TRAIN[2]], words].concat());
    let local = |words: &[&str]| desk.run(&[&["preview", "recipe.yaml"], words].concat());
    // 12 rows each; of the Hub in two files of 8 and 4.
    for (words, taken) in [
        (&["datasets.0.split=train[:25%]"][..], 3),
        (&["datasets.0.split=train[-2:]"], 2),
        (&["datasets.0.split=train[6:10]"], 4),
        (&["datasets.0.max_rows=9"], 9),
        (
            &["datasets.0.split=train[50%:]", "datasets.0.max_rows=4"],
            4,
        ),
        (&["datasets.0.max_rows=100"], 12),
    ] {
        for ran in [of_hub(words), local(words)] {
            ran.says(&words.join(" "), 0, &[]);
            assert_eq!(counts(&ran, "rows read")[0], "12", "{words:?}");
            assert_eq!(
                counts(&ran, "trained on")[0],
                taken.to_string(),
                "{words:?}"
            );
            assert_eq!(
                counts(&ran, "not selected")[0],
                (12 - taken).to_string(),
                "{words:?}"
            );
        }
    }
    let both = of_hub(&["datasets.0.split=train[:2]+validation[1:]"]);
    assert_eq!(
        (
            counts(&both, "rows read")[0].as_str(),
            counts(&both, "trained on")[0].as_str()
        ),
        ("15", "4")
    );
    // A row that is not taken is shown as such, and has a line in the ledger's file.
    let ran = local(&["datasets.0.split=train[4:]", "--row", "2"]);
    assert!(
        ran.stdout
            .contains("row 2 (row 2 of `rows.parquet`): not selected by `split` or `max_rows`"),
        "{}",
        ran.stdout
    );
    // The share that may be left out is one of the rows that are taken.
    let long = ["datasets.0.split=train[10:]", "training.sequence_len=22"];
    local(&long).says("too long", 65, &["2 of 2 rows are left out (2 too long"]);
    // Rows, tokens and adapter are those of a file that holds these rows alone.
    let twelve: Vec<String> = (1..=12)
        .map(|row| format!("the term {row} means {}", "so ".repeat(row)))
        .collect();
    desk.write_rows("part.parquet", vec![("text", texts(twelve[3..9].to_vec()))]);
    desk.run(&["train", "recipe.yaml", "datasets.0.split=train[3:9]"])
        .says("a slice", 0, &["6 not selected"]);
    desk.run(&[
        "train",
        "recipe.yaml",
        "datasets.0.path=part.parquet",
        "output_dir=part",
    ])
    .says("a file", 0, &[]);
    assert!(
        desk.read("run/adapter/adapter_model.safetensors")
            == desk.read("part/adapter/adapter_model.safetensors")
    );
    let lock = lock(&desk, "run");
    assert_eq!(
        (
            &lock["data"][0]["rows"],
            &lock["data"][0]["not_selected"],
            &lock["data"][0]["trained"]
        ),
        (&12.into(), &6.into(), &6.into())
    );
    assert_eq!(lock["recipe"]["datasets"][0]["split"], "train[3:9]");
    assert!(
        desk.read_text("run/README.md")
            .contains("12 rows read, 6 not selected, 6 trained on")
    );
    desk.run(&["report", "run"]).says("report", 0, &[]);
    assert!(
        desk.read_text("run/report.html")
            .contains("not selected by")
    );
}
