//! What stays on the disk, and what is said: tokens of the data are where the recipe wants them and
//! go when they are told to, and no message quotes a cell unless `-v` asks for it.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rankine::data::tokenize::Tokenizer;
use rankine::files;
use serde_json::Value;
use support::*;

/// What nobody may find: a sentence that no message and no other file of a desk has.
const SECRET: &str = "Quentin Abernathy has tertiary syphilis";
/// Parts of it that would tell it too.
const PARTS: [&str; 3] = ["Quentin", "Abernathy", "syphilis"];

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
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

fn holds(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|bytes| bytes == part)
}

fn tells(content: &[u8]) -> bool {
    PARTS.iter().any(|part| holds(content, part.as_bytes()))
}

/// The tokens of a sentence within a longer text, as a cache might hold them: in 32 and in 16 bits,
/// little-endian.
fn token_runs(desk: &Desk, text: &str) -> [Vec<u8>; 2] {
    let ids = Tokenizer::open(&desk.path("base"))
        .unwrap()
        .ids(text, false)
        .unwrap();
    let inner = &ids[2..ids.len() - 2];
    assert!(
        inner.len() >= 8,
        "too few tokens to be found by chance: {}",
        inner.len()
    );
    let wide = inner.iter().flat_map(|id| id.to_le_bytes()).collect();
    let narrow = inner
        .iter()
        .flat_map(|id| u16::try_from(*id).unwrap().to_le_bytes())
        .collect();
    [wide, narrow]
}

fn entries(desk: &Desk, folder: &str) -> Vec<String> {
    let names = files_below(&desk.path(folder))
        .into_iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".tokens")).collect();
    names.sort();
    names
}

fn write_secret(desk: &Desk, name: &str, rows: usize) {
    let rows: Vec<String> = (0..rows)
        .map(|row| format!("the note {row} says {SECRET} since {row}"))
        .collect();
    desk.write_rows(name, vec![("text", texts(rows))]);
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// A desk whose rows may be longer.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.edit("recipe.yaml", "sequence_len: 64", "sequence_len: 200");
    desk
}

#[test]
fn after_a_purge_of_the_run_nothing_outside_of_it_holds_its_text() {
    let desk = desk();
    write_secret(&desk, "rows.parquet", 12);
    write_secret(&desk, "validation.parquet", 3);
    write_secret(&desk, "other.parquet", 4);
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nevaluation:\n  datasets: [{path: validation.parquet, format: text}]",
    );
    for folder in ["home", "tmp"] {
        fs::create_dir(desk.path(folder)).unwrap();
    }
    let (home, tmp) = (
        desk.path("home").display().to_string(),
        desk.path("tmp").display().to_string(),
    );
    // The user's own cache, below the home folder.
    let places = [
        ("RANKINE_CACHE", ""),
        ("HOME", &*home),
        ("TMPDIR", &*tmp),
        ("HF_HOME", &*home),
    ];
    let run = |arguments: &[&str]| desk.run_with(arguments, &places);
    let runs = token_runs(&desk, SECRET);
    let outside = || {
        let inputs =
            ["rows.parquet", "validation.parquet", "other.parquet"].map(|name| desk.path(name));
        let files = files_below(&desk.path(""))
            .into_iter()
            .filter(|path| !inputs.contains(path) && !path.starts_with(desk.path("run")));
        let is_told = |path: &PathBuf| {
            let content = fs::read(path).unwrap();
            tells(&content) || runs.iter().any(|run| holds(&content, run))
        };
        files.filter(is_told).collect::<Vec<_>>()
    };
    run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    run(&["eval", "run"]).says("eval", 0, &[]);
    run(&["eval", "run", "--data", "other.parquet"]).says("eval of other rows", 0, &[]);
    let kept = outside();
    assert_eq!(
        kept.len(),
        3,
        "the search finds what there is to find: {kept:?}"
    );
    assert!(
        kept.iter()
            .all(|path| path.starts_with(desk.path("home/.cache/rankine/rows"))),
        "{kept:?}"
    );

    let dry = run(&["cache", "purge", "--run", "run", "--dry-run"]);
    dry.says("dry run", 0, &[]);
    assert!(dry.stdout.contains("would remove 3 files"), "{dry:?}");
    assert_eq!(outside(), kept, "a dry run removes nothing");
    let purged = run(&["cache", "purge", "--run", "run"]);
    purged.says("purge", 0, &[]);
    assert!(purged.stdout.contains("removed 3 files"), "{purged:?}");
    assert_eq!(outside(), Vec::<PathBuf>::new());
    // The run goes on all the same.
    run(&["eval", "run"]).says("eval again", 0, &[]);
    assert_eq!(outside().len(), 2);
}

#[test]
fn tokens_are_kept_where_the_recipe_wants_them_and_train_the_same() {
    let desk = desk();
    write_secret(&desk, "rows.parquet", 12);
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nevaluation: {val_set_size: 3}",
    );
    let runs = token_runs(&desk, SECRET);
    let with_tokens = || {
        let all = files_below(&desk.path("")).into_iter();
        all.filter(|path| runs.iter().any(|run| holds(&fs::read(path).unwrap(), run)))
            .collect::<Vec<_>>()
    };
    fs::create_dir(desk.path("tmp")).unwrap();
    let tmp = desk.path("tmp").display().to_string();
    let run = |arguments: &[&str]| desk.run_with(arguments, &[("TMPDIR", &*tmp)]);

    run(&["preview", "recipe.yaml", "cache=run"]).says("nothing to keep it in yet", 0, &[]);
    run(&["plan", "recipe.yaml", "cache=none"]).says("plan", 0, &[]);
    assert_eq!(with_tokens(), Vec::<PathBuf>::new());
    assert!(
        !desk.path("run").exists() && !desk.path("cache").exists(),
        "who only looks makes no folder"
    );

    run(&["train", "recipe.yaml", "cache=none", "output_dir=nowhere"]).says("none", 0, &[]);
    run(&["eval", "nowhere"]).says("eval of none", 0, &[]);
    run(&["eval", "nowhere", "--data", "rows.parquet"]).says("eval of other rows", 0, &[]);
    let sets = "evaluation.datasets=[{path: rows.parquet, format: text}]";
    for verb in ["check", "plan"] {
        run(&[
            verb,
            "recipe.yaml",
            "cache=none",
            "evaluation.val_set_size=0",
            sets,
        ])
        .says(verb, 0, &["trained on too"]);
    }
    assert_eq!(with_tokens(), Vec::<PathBuf>::new());
    assert!(!desk.path("cache").exists() && !desk.path("nowhere/cache").exists());

    run(&["train", "recipe.yaml", "cache=run"]).says("run", 0, &[]);
    let kept = with_tokens();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with(desk.path("run/cache")), "{kept:?}");
    let written = kept[0].metadata().unwrap().created().ok();
    run(&["eval", "run"]).says("eval of run", 0, &[]);
    run(&["preview", "recipe.yaml", "cache=run"]).says("preview of run", 0, &[]);
    assert_eq!(with_tokens(), kept);
    assert_eq!(
        kept[0].metadata().unwrap().created().ok(),
        written,
        "it was read, not written"
    );
    assert!(!desk.path("cache").exists());

    run(&["train", "recipe.yaml", "output_dir=shared"]).says("user", 0, &[]);
    let adapter = |of: &str| desk.read(&format!("{of}/adapter/adapter_model.safetensors"));
    assert!(adapter("shared") == adapter("run") && adapter("run") == adapter("nowhere"));

    // A run that is started over keeps no tokens of the old one.
    write_secret(&desk, "rows.parquet", 13);
    run(&["train", "recipe.yaml", "cache=run", "--overwrite"]).says("over", 0, &[]);
    let over = entries(&desk, "run/cache");
    assert_eq!(over.len(), 1);
    assert!(!kept[0].ends_with(&over[0]), "{over:?}");
    run(&["train", "recipe.yaml", "cache=none", "--overwrite"]).says("over without", 0, &[]);
    assert!(!desk.path("run/cache").exists());
    run(&["check", "recipe.yaml", "cache=here"]).says(
        "no such place",
        65,
        &["cache: expected `user`, `run` or `none`"],
    );
}

#[test]
fn a_purge_takes_exactly_what_fits() {
    let desk = desk();
    write_secret(&desk, "a.parquet", 6);
    write_secret(&desk, "b.parquet", 7);
    let plan = |name: &str| {
        desk.run(&["plan", "recipe.yaml", &format!("datasets.0.path={name}")])
            .says(name, 0, &[]);
    };
    plan("a.parquet");
    let of_a = entries(&desk, "cache");
    plan("b.parquet");
    let both = entries(&desk, "cache");
    assert_eq!((of_a.len(), both.len()), (1, 2));
    assert!(
        both.iter().all(|name| name.len() == 64 + ".tokens".len()),
        "names are hashes: {both:?}"
    );

    let listed = desk.run(&["cache", "list"]);
    assert!(
        !listed.stdout.contains("parquet") && listed.stdout.contains("2 entries"),
        "{listed:?}"
    );
    fs::create_dir(desk.path("elsewhere")).unwrap();
    fs::rename(
        desk.path("a.parquet"),
        desk.path("elsewhere/renamed.parquet"),
    )
    .unwrap();
    let listed = json(&desk.run(&[
        "cache",
        "list",
        "--json",
        "--data",
        "elsewhere/renamed.parquet",
    ]));
    let of = |name: &str| {
        listed["entries"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["entry"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of(&of_a[0])["data_file"], "elsewhere/renamed.parquet");
    let other = both.iter().find(|name| **name != of_a[0]).unwrap();
    assert_eq!(
        (&of(other)["data_file"], &of(other)["kind"]),
        (&Value::Null, &Value::from("tokens"))
    );
    let hash = of(other)["data_blake3"].as_str().unwrap().to_owned();

    desk.run(&["cache", "purge", "--data", "a.parquet"]).says(
        "gone",
        66,
        &["`a.parquet` is no file", "hint: ", "`--data HASH`"],
    );
    let purged = json(&desk.run(&[
        "cache",
        "purge",
        "--json",
        "--data",
        "elsewhere/renamed.parquet",
    ]));
    assert_eq!(
        (
            &purged["removed"][0]["entry"],
            purged["removed"].as_array().unwrap().len()
        ),
        (&Value::from(&*of_a[0]), 1)
    );
    assert_eq!(entries(&desk, "cache"), [&**other]);

    let age = |days: u64| {
        let path = desk.path("cache/rows").join(other);
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(
            std::time::SystemTime::now() - std::time::Duration::from_hours(24 * days),
        )
        .unwrap();
    };
    age(5);
    for filter in [["--older", "6"], ["--data", "elsewhere/renamed.parquet"]] {
        let purged = desk.run(&[&["cache", "purge"], filter.as_slice()].concat());
        assert!(purged.stdout.contains("removed 0 files"), "{purged:?}");
    }
    plan("b.parquet");
    let purged = desk.run(&["cache", "purge", "--older", "4"]);
    assert!(
        purged.stdout.contains("removed 0 files"),
        "a plan used it: {purged:?}"
    );
    age(5);
    desk.run(&["cache", "purge", "--older", "4", "--data", &hash[..16]])
        .says("by its hash", 0, &[]);
    assert!(entries(&desk, "cache").is_empty());
    desk.run(&["cache", "purge"])
        .says("nothing is there", 0, &[]);

    // Everything but what holds nothing of the data.
    plan("b.parquet");
    for room in ["kernels/x", "proofs"] {
        fs::create_dir_all(desk.path("cache").join(room)).unwrap();
        fs::write(desk.path("cache").join(room).join("kept"), "k").unwrap();
    }
    let all = desk.run(&["cache", "purge"]);
    all.says("everything", 0, &[]);
    assert!(
        all.stdout.contains("compiled GPU kernels") && all.stdout.contains("self-checks"),
        "{all:?}"
    );
    assert_eq!(
        files_below(&desk.path("cache")).len(),
        2,
        "{:?}",
        files_below(&desk.path("cache"))
    );
}

#[test]
fn what_a_living_process_uses_is_left_and_said() {
    let desk = desk();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    let names = entries(&desk, "cache");
    let lease = files::hold(&desk.path("cache/rows"), &names[0]).unwrap();
    let process = std::process::id().to_string();
    let left = desk.run(&["cache", "purge"]);
    left.says(
        "in use",
        73,
        &["1 entry, ", "not removed", &process, "hint: "],
    );
    assert_eq!(entries(&desk, "cache"), names);
    desk.run_with(
        &["plan", "recipe.yaml", "datasets.0.columns.text=text"],
        &[("RANKINE_CACHE_LIMIT", "1")],
    )
    .says("limit", 0, &[]);
    assert_eq!(entries(&desk, "cache"), names, "the limit leaves it too");
    drop(lease);
    desk.run(&["cache", "purge"]).says("free", 0, &[]);
    assert!(files_below(&desk.path("cache")).is_empty());
}

#[test]
fn above_the_limit_the_oldest_go_and_it_is_said() {
    let desk = desk();
    for (name, rows) in [("a.parquet", 10), ("b.parquet", 11), ("c.parquet", 12)] {
        write_secret(&desk, name, rows);
    }
    let plan = |name: &str, limit: &str| {
        desk.run_with(
            &["plan", "recipe.yaml", &format!("datasets.0.path={name}")],
            &[("RANKINE_CACHE_LIMIT", limit)],
        )
    };
    plan("a.parquet", "1 GB").says("first", 0, &[]);
    let of_a = entries(&desk, "cache");
    let size = files_below(&desk.path("cache"))[0]
        .metadata()
        .unwrap()
        .len();
    let limit = (size * 5 / 2).to_string();
    std::thread::sleep(std::time::Duration::from_millis(20));
    plan("b.parquet", &limit).says("second", 0, &[]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    let third = plan("c.parquet", &limit);
    third.says(
        "third",
        0,
        &["above its limit", "RANKINE_CACHE_LIMIT", "so 1 entry, "],
    );
    let left = entries(&desk, "cache");
    assert!(left.len() == 2 && !left.contains(&of_a[0]), "{left:?}");
    for wrong in ["plenty", "-1", "5 GBs"] {
        let parts = [
            "RANKINE_CACHE_LIMIT is",
            "expected a number of bytes, such as `5GB`",
            "hint: ",
        ];
        plan("a.parquet", wrong).says(wrong, 65, &parts);
    }
}

#[test]
fn what_older_versions_kept_is_removed_and_said() {
    let desk = desk();
    fs::create_dir(desk.path("cache")).unwrap();
    let old = [b"RKTOKEN\x02".as_slice(), SECRET.as_bytes()].concat();
    desk.write("cache/patients-0123.tokens", &old);
    desk.write("cache/letters.txt", SECRET);
    desk.run(&["plan", "recipe.yaml"]).says(
        "plan",
        0,
        &["token cache: 1 entry of an older version of Rankine removed"],
    );
    assert!(!desk.path("cache/patients-0123.tokens").exists());
    desk.write("cache/patients-0123.tokens", &old);
    desk.run(&["cache", "purge"]).says("purge", 0, &[]);
    let left = files_below(&desk.path("cache"));
    assert_eq!(
        left,
        [desk.path("cache/letters.txt")],
        "files of others are left"
    );
}

#[cfg(unix)]
#[test]
fn only_the_user_can_read_the_cache() {
    use std::os::unix::fs::PermissionsExt;
    let desk = desk();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&["train", "recipe.yaml", "cache=run", "output_dir=own"])
        .says("train", 0, &[]);
    for folder in ["cache", "cache/rows", "own/cache"] {
        assert_eq!(mode(&desk.path(folder)), 0o700, "{folder}");
    }
    for file in files_below(&desk.path("cache/rows"))
        .into_iter()
        .chain(files_below(&desk.path("own/cache")))
    {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    // A folder that somebody named keeps its rights, what is made in it is private.
    let shared = desk.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755)).unwrap();
    let named = shared.display().to_string();
    desk.run_with(&["plan", "recipe.yaml"], &[("RANKINE_CACHE", &named)])
        .says("plan", 0, &[]);
    assert_eq!((mode(&shared), mode(&shared.join("rows"))), (0o755, 0o700));
}

#[cfg(unix)]
#[test]
fn a_build_that_is_killed_leaves_nothing() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let desk = desk();
    let rows: Vec<String> = (0..40_000)
        .map(|row| format!("{row} {}", SECRET.repeat(8)))
        .collect();
    desk.write_rows("rows.parquet", vec![("text", texts(rows))]);
    let mut seen = 0;
    for (mode, signal) in [
        ("user", Signal::SIGKILL),
        ("user", Signal::SIGINT),
        ("run", Signal::SIGTERM),
        ("none", Signal::SIGKILL),
    ] {
        let mut child = desk.command(&[
            "train",
            "recipe.yaml",
            "training.sequence_len=1000",
            &format!("cache={mode}"),
        ]);
        let mut child = child
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let (folder, started) = (
            if mode == "run" {
                "run/cache"
            } else {
                "cache/rows"
            },
            std::time::Instant::now(),
        );
        while mode != "none" && !desk.path(folder).is_dir() && started.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        std::thread::sleep(std::time::Duration::from_millis(if mode == "none" {
            300
        } else {
            30
        }));
        let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        let status = child.wait().unwrap();
        let left: Vec<PathBuf> = [desk.path("cache"), desk.path("run")]
            .iter()
            .flat_map(|folder| files_below(folder))
            .collect();
        let is_of_claim = |path: &PathBuf| path.ends_with(".rankine-lock");
        let left: Vec<PathBuf> = left.into_iter().filter(|path| !is_of_claim(path)).collect();
        println!("{mode} {signal}: {status:?}, {left:?}");
        if left.is_empty() {
            seen += 1;
        } else {
            assert!(
                entries(&desk, folder).len() == 1,
                "it was over before the signal, or something is left: {left:?}"
            );
        }
        for folder in ["cache", "run"] {
            let _ = fs::remove_dir_all(desk.path(folder));
        }
    }
    assert!(seen >= 2, "{seen} were ended while they wrote");
}

/// A desk of conversations: good ones among which one is broken.
fn chat_desk(template: &str, broken: &str) -> Desk {
    let desk = Desk::new();
    desk.edit("recipe.yaml", "format: text", "format: chat");
    desk.edit(
        "recipe.yaml",
        "output_dir: run",
        "output_dir: run\nchat_template: t.jinja\nevaluation: {val_set_size: 1}",
    );
    desk.edit(
        "recipe.yaml",
        "sequence_len: 64",
        "sequence_len: 300\n  max_dropped: 0.9",
    );
    let good = |term: &str| {
        let question = format!(r#"{{"role": "user", "content": "what is {term}"}}"#);
        let answer = format!(r#"{{"role": "assistant", "content": "a kind of {term}"}}"#);
        format!("[{question}, {answer}]")
    };
    let rows = [
        good("fever"),
        good("tort"),
        broken.to_owned(),
        good("lien"),
        good("gout"),
    ];
    desk.write_rows("rows.parquet", vec![("messages", texts(rows))]);
    desk.write("t.jinja", template);
    desk
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role \
    }}<|end_header_id|>\n\n\
    {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|eot_id|>{% endgeneration %}\
    {% else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}";

/// Runs a verb over a desk and finds the sentence nowhere: not in what is said, and not in the
/// run's folder but where samples are.
#[track_caller]
fn says_nothing(desk: &Desk, what: &str, arguments: &[&str]) -> Ran {
    let ran = desk.run(arguments);
    assert!(ran.exit == 0 || ran.exit == 65, "{what}: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
    let said = if arguments[0] == "preview" {
        ran.stderr.clone()
    } else {
        format!("{}{}", ran.stdout, ran.stderr)
    };
    assert!(
        !tells(said.as_bytes()),
        "{what}: {arguments:?} quotes the row: {said}"
    );
    for path in files_below(&desk.path("run")) {
        assert!(
            !tells(&fs::read(&path).unwrap()),
            "{what}: {arguments:?}: {} holds the sentence",
            path.display()
        );
    }
    ran
}

#[test]
fn no_message_quotes_a_broken_row() {
    let turn =
        |role: &str, content: &str| format!(r#"{{"role": "{role}", "content": "{content}"}}"#);
    let asked = format!("[{}, {}]", turn("user", SECRET), turn("assistant", "yes"));
    let raising = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ raise_exception(messages[0].content) \
        }}}}{{% endif %}}",
        PARTS[1]
    );
    let partly = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ raise_exception('roles must alternate, not ' ~ \
        messages[0].content) }}}}{{% endif %}}",
        PARTS[1]
    );
    let failing = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ strftime_now('%!' ~ messages[0].content) \
        }}}}{{% endif %}}",
        PARTS[1]
    );
    let adding = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ messages[0].content + 1 }}}}{{% endif %}}",
        PARTS[1]
    );
    let converting = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ messages[0].content | int }}}}{{% endif %}}",
        PARTS[1]
    );
    let calling = format!(
        "{{% if '{}' in messages[0].content %}}{{{{ messages[0].content() }}}}{{% endif %}}",
        PARTS[1]
    );
    // Each with whether it quotes the row when it is asked to.
    let cases: [(&str, &str, String, bool); 19] = [
        ("no JSON", "", SECRET.to_owned(), false),
        (
            "JSON that is cut off",
            "",
            format!("[{}", turn("user", SECRET)),
            false,
        ),
        ("a JSON text", "", format!("\"{SECRET}\""), true),
        ("an object", "", format!(r#"{{"note": "{SECRET}"}}"#), true),
        ("a list of texts", "", format!(r#"["{SECRET}"]"#), true),
        (
            "a role that is a sentence",
            "",
            format!("[{}]", turn(SECRET, "x")),
            true,
        ),
        (
            "a role that is an object",
            "",
            format!(r#"[{{"role": {{"{SECRET}": "{SECRET}"}}, "content": "x"}}]"#),
            true,
        ),
        (
            "no role",
            "",
            format!(r#"[{{"content": "{SECRET}"}}]"#),
            false,
        ),
        (
            "no content",
            "",
            format!(r#"[{{"role": "user", "note": "{SECRET}"}}]"#),
            false,
        ),
        (
            "calls that are a text",
            "",
            format!(r#"[{{"role": "assistant", "tool_calls": "{SECRET}"}}]"#),
            false,
        ),
        (
            "calls that are a list of texts",
            "",
            format!(r#"[{{"role": "assistant", "tool_calls": ["{SECRET}"]}}]"#),
            true,
        ),
        (
            "a part that is no text",
            "",
            format!(r#"[{{"role": "user", "content": [{{"image": "{SECRET}"}}]}}]"#),
            true,
        ),
        (
            "a weight that is a text",
            "",
            format!(r#"[{{"role": "user", "content": "x", "weight": "{SECRET}"}}]"#),
            true,
        ),
        (
            "a template that raises the row",
            &raising,
            asked.clone(),
            true,
        ),
        (
            "a template that raises it behind its own words",
            &partly,
            asked.clone(),
            true,
        ),
        (
            "a template that fails on it",
            &failing,
            asked.clone(),
            false,
        ),
        (
            "a template that adds a number to it",
            &adding,
            asked.clone(),
            false,
        ),
        (
            "a template that makes a number of it",
            &converting,
            asked.clone(),
            false,
        ),
        ("a template that calls it", &calling, asked, false),
    ];
    for (what, before, row, quotes) in cases {
        let desk = chat_desk(&format!("{before}{TEMPLATE}"), &row);
        let trained = says_nothing(&desk, what, &["train", "recipe.yaml"]);
        let is_left_out = trained
            .stderr
            .contains("1 of 5 rows are broken and left out");
        assert!(
            is_left_out || what.contains("number of it"),
            "{what}: {trained:?}"
        );
        if what.contains("its own words") {
            assert!(
                trained.stderr.contains("roles must alternate, not ["),
                "{what}: {}",
                trained.stderr
            );
        }
        says_nothing(&desk, what, &["plan", "recipe.yaml"]);
        says_nothing(
            &desk,
            what,
            &["preview", "recipe.yaml", "--ledger", "ledger.parquet"],
        );
        assert!(!tells(&desk.read("ledger.parquet")), "{what}");
        says_nothing(&desk, what, &["eval", "run", "--json"]);
        says_nothing(&desk, what, &["check", "recipe.yaml"]);
        let refused = says_nothing(
            &desk,
            what,
            &["plan", "recipe.yaml", "training.max_dropped=0"],
        );
        assert!(
            refused.exit == 65 || what.contains("number of it"),
            "{what}: {refused:?}"
        );
        let loud = desk.run(&["plan", "recipe.yaml", "-v"]);
        assert!(
            !quotes || loud.stderr.contains(SECRET),
            "{what}: -v shows it: {loud:?}"
        );
    }
}

#[test]
fn no_message_quotes_a_row_that_stops_a_run() {
    let cases: [(&str, String, &str); 4] = [
        (
            "two bos",
            format!("<|begin_of_text|><|begin_of_text|>{SECRET}"),
            "bos",
        ),
        ("too long", SECRET.repeat(9), "longer"),
        ("empty", String::new(), ""),
        (
            "hidden characters",
            format!("{SECRET}\u{0}\u{202e}{SECRET}"),
            "",
        ),
    ];
    for (what, row, part) in cases {
        let desk = Desk::new();
        desk.write_rows(
            "rows.parquet",
            vec![("text", texts([row.as_str(), "the term means so", &row]))],
        );
        for verb in ["train", "plan", "preview"] {
            let ran = says_nothing(&desk, what, &[verb, "recipe.yaml"]);
            assert!(ran.stderr.contains(part), "{what}: {ran:?}");
        }
    }
    // A text that is not UTF-8, and a file that is cut within it.
    let desk = Desk::new();
    write_secret(&desk, "rows.parquet", 12);
    let mut bytes = desk.read("rows.parquet");
    let at = bytes
        .windows(SECRET.len())
        .position(|window| window == SECRET.as_bytes())
        .expect("it is not compressed");
    bytes[at] = 0xff;
    desk.write("rows.parquet", &bytes);
    says_nothing(
        &desk,
        "not UTF-8",
        &["train", "recipe.yaml", "training.max_dropped=0.9"],
    );
    desk.cut("rows.parquet", 0.5);
    says_nothing(&desk, "cut", &["train", "recipe.yaml"]);
}

#[test]
fn a_conversion_quotes_no_row_and_leaves_its_output_alone() {
    let desk = desk();
    for folder in ["home", "tmp"] {
        fs::create_dir(desk.path(folder)).unwrap();
    }
    let (home, tmp) = (
        desk.path("home").display().to_string(),
        desk.path("tmp").display().to_string(),
    );
    let places = [("HOME", &*home), ("TMPDIR", &*tmp)];
    let good = |row: usize| format!("{{\"text\": \"the note {row} says {SECRET} since {row}\"}}\n");
    let broken: [(&str, String); 9] = [
        ("a list of words", format!("[\"{SECRET}\"]\n")),
        (
            "a key that is there twice",
            format!("{{\"text\": {{\"{SECRET}\": 1, \"{SECRET}\": 2}}}}\n"),
        ),
        (
            "an object",
            format!("{{\"text\": {{\"note\": \"{SECRET}\"}}}}\n"),
        ),
        ("a list", format!("{{\"text\": [\"{SECRET}\"]}}\n")),
        ("no JSON", format!("{SECRET}\n")),
        ("no quotes", format!("{{\"text\": {SECRET}}}\n")),
        (
            "a long number",
            "{\"text\": \"x\", \"n\": 5550123456789012345678901}\n".to_owned(),
        ),
        ("cut", format!("{{\"text\": \"{SECRET}\n")),
        ("Python", format!("{{'text': '{SECRET}'}}\n")),
    ];
    let quotes = |ran: &Ran| {
        tells(ran.stdout.as_bytes())
            || tells(ran.stderr.as_bytes())
            || ran.stderr.contains("5550123")
    };
    for (what, row) in broken {
        desk.write(
            "rows.jsonl",
            format!("{}{}{row}{}", good(0), good(1), good(2)),
        );
        let ran = desk.run_with(&["convert", "rows.jsonl", "--out", "x.parquet"], &places);
        ran.says(what, 65, &["rows.jsonl:3"]);
        assert!(!quotes(&ran), "{what}: {ran:?}");
        let arguments = [
            "convert",
            "rows.jsonl",
            "--out",
            "x.parquet",
            "--max-dropped",
            "1",
            "--json",
        ];
        let ran = desk.run_with(&arguments, &places);
        ran.says(what, 0, &[]);
        assert!(!quotes(&ran), "{what}: {ran:?}");
        for folder in ["cache", "home", "tmp", "run"] {
            assert!(
                files_below(&desk.path(folder)).is_empty(),
                "{what}: {folder}"
            );
        }
        desk.remove("x.parquet");
    }
    // What a run on it keeps goes as what one on any other file does.
    desk.write("rows.jsonl", (0..12).map(good).collect::<String>());
    desk.run_with(
        &[
            "convert",
            "rows.jsonl",
            "--out",
            "rows.parquet",
            "--overwrite",
        ],
        &places,
    )
    .says("converted", 0, &[]);
    desk.run_with(&["train", "recipe.yaml"], &places)
        .says("trained", 0, &[]);
    desk.run_with(&["cache", "purge", "--run", "run"], &places)
        .says("purged", 0, &[]);
    let runs = token_runs(&desk, SECRET);
    for path in ["cache", "home", "tmp"]
        .iter()
        .flat_map(|folder| files_below(&desk.path(folder)))
    {
        let content = fs::read(&path).unwrap();
        assert!(
            !tells(&content) && !runs.iter().any(|run| holds(&content, run)),
            "{}",
            path.display()
        );
    }
}
