//! `rankine report`: the page of a run is whole, says what the run's folder says, holds nothing
//! that could act, and is written over nothing but an older page.

mod support;

use std::fs;

use support::*;

/// A run of six steps with three evaluations.
fn trained(run: &str) -> Desk {
    let desk = Desk::new();
    train(&desk, run, &[]);
    desk
}

fn train(desk: &Desk, run: &str, overrides: &[&str]) {
    let output = format!("output_dir={run}");
    let steps = [
        "training.max_steps=6",
        "evaluation.val_set_size=3",
        "evaluation.eval_steps=3",
    ];
    let ran = desk.run(&[&["train", "recipe.yaml", &output][..], &steps, overrides].concat());
    ran.says("a run", 0, &[]);
}

/// The page of these runs, without the places where keys may be broken.
fn page(desk: &Desk, arguments: &[&str], out: &str) -> String {
    desk.run(&[&["report"], arguments].concat())
        .says("a report", 0, &[]);
    let page = desk.read_text(out);
    assert_whole(&page);
    page.replace("<wbr/>", "")
}

/// Every tag is closed in the order in which it was opened, and nothing is there that could act or
/// be fetched.
#[track_caller]
fn assert_whole(page: &str) {
    let (mut open, mut rest) = (Vec::new(), page);
    while let Some((_, tag)) = rest.split_once('<') {
        let (tag, after) = tag.split_once('>').expect("every `<` has its `>`");
        rest = after;
        assert!(!tag.contains('<'), "`<` in `{tag}`");
        let name = tag.split_whitespace().next().unwrap_or_default();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "what is closed");
        } else if !tag.starts_with('!') && !tag.ends_with('/') {
            open.push(name);
        }
        let names = [
            "script", "iframe", "img", "link", "object", "embed", "a", "form", "base",
        ];
        assert!(!names.contains(&name.trim_end_matches('/')), "`{tag}`");
        assert!(
            tag.split_whitespace()
                .all(|word| !word.starts_with("on") && !word.starts_with("src=")),
            "`{tag}`"
        );
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    assert!(
        !page.contains("url(") && !page.contains("@import"),
        "the page names something to fetch"
    );
}

#[track_caller]
fn holds(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "`{part}` is not in\n{page}");
    }
}

#[test]
fn the_page_of_a_run_tells_what_its_folder_tells() {
    let desk = trained("run");
    let ran = desk.run(&["report", "run"]);
    assert_eq!(
        (ran.exit, ran.stdout.as_str()),
        (0, "report      run/report.html\n"),
        "{ran:?}"
    );
    let page = page(&desk, &["run"], "run/report.html");

    holds(
        &page,
        &[
            "LoRA of rank 4 on base, trained on rows.parquet (text)",
            "Validation loss",
            "at step",
            "Nothing irregular",
        ],
    );
    let plots = [
        "Loss",
        "Validation loss by kind of token",
        "Learning rate",
        "Gradient norm before clipping",
        "Speed",
        "Peak memory of the session",
    ];
    for plot in plots {
        holds(
            &page,
            &[
                &format!("<h3>{plot}</h3>"),
                &format!("<title>{plot} by optimizer step, "),
            ],
        );
    }
    assert_eq!(
        (
            page.matches("class=\"plot\"").count(),
            page.matches("<circle").count()
        ),
        (6, 8),
        "two plots have a dot an evaluation, and one in the legend"
    );
    holds(
        &page,
        &[
            ">training.learning_rate</th><td colspan=\"1\"><code>0.0002</code>",
            ">training.seed</th>",
        ],
    );

    let lock = desk.read_text("run/recipe.lock.yaml");
    let hashes: Vec<&str> = lock
        .split_whitespace()
        .filter(|word| word.len() == 64)
        .collect();
    assert!(hashes.len() >= 5, "{lock}");
    holds(&page, &hashes);
    let adapter = rankine::files::hash_file(&desk.path("run/adapter/adapter_model.safetensors"))
        .unwrap()
        .to_string();
    holds(
        &page,
        &[
            "data: rows.parquet",
            "base: base/model.safetensors",
            "adapter/adapter_model.safetensors",
            &adapter,
        ],
    );
    let ledger = [
        "rows read</th><td>12<",
        "left out, too long</th><td>0<",
        "left out, broken</th><td>0<",
        "tokens that carry a loss</th>",
    ];
    holds(&page, &ledger);
    let losses: Vec<String> = desk
        .read_text("run/metrics.jsonl")
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["eval_loss"].as_f64()
        })
        .map(|loss| format!("{loss:.4}"))
        .collect();
    assert_eq!(losses.len(), 3);
    holds(
        &page,
        &losses.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn the_same_run_gives_the_same_page_and_an_older_page_is_replaced() {
    let desk = trained("run");
    let first = page(&desk, &["run"], "run/report.html");
    desk.write("run/report.html", first.replace("Result", "Older"));
    assert_eq!(page(&desk, &["run"], "run/report.html"), first);
    assert_eq!(
        page(&desk, &["run", "--out", "new/page.html"], "new/page.html"),
        first
    );
}

#[test]
fn files_of_others_stay() {
    let desk = trained("run");
    for content in ["", "mine", "<!DOCTYPE html>\n<html></html>\n"] {
        desk.write("mine.html", content);
        let ran = desk.run(&["report", "run", "--out", "mine.html"]);
        ran.says(
            "another's file",
            73,
            &[
                "`mine.html` is there and is no page of `rankine report`",
                "hint: choose another `--out`",
            ],
        );
        assert_eq!(desk.read_text("mine.html"), content);
    }
    desk.run(&["report", "run", "--out", "base"])
        .says("a folder", 73, &["`base` is there"]);
}

#[test]
fn runs_are_laid_side_by_side_with_what_differs_first() {
    let desk = trained("first");
    train(
        &desk,
        "second",
        &["training.learning_rate=1e-2", "adapter.r=8"],
    );
    desk.run(&["report", "first", "second"]).says(
        "nowhere to go",
        2,
        &["2 runs", "hint: say where it goes: `--out FILE.html`"],
    );
    let page = page(
        &desk,
        &["first", "second", "--out", "both.html"],
        "both.html",
    );
    holds(
        &page,
        &[
            "<h1>2 runs side by side</h1>",
            "first: LoRA of rank 4",
            "second: LoRA of rank 8",
            "first, training",
            "second, validation",
        ],
    );
    let order = [
        "≠ adapter.r<",
        "<code>4</code>",
        "<code>8</code>",
        "≠ training.learning_rate<",
        "The same in all runs",
        ">training.seed<",
    ];
    let recipe = &page[page.find("<h2>Recipe").unwrap()..];
    assert!(
        order
            .map(|part| recipe.find(part).unwrap_or_else(|| panic!("{part}")))
            .is_sorted(),
        "{recipe}"
    );
    assert!(
        !recipe.contains("≠ training.seed") && !recipe.contains("≠ data: rows.parquet"),
        "{recipe}"
    );
}

#[test]
fn what_a_run_says_of_itself_does_not_act() {
    let desk = trained("run");
    let script = "<script>alert(1)</script>";
    desk.edit(
        "run/recipe.lock.yaml",
        "base_model: base\n",
        &format!("base_model: \"{script}\"\n"),
    );
    desk.edit(
        "run/recipe.lock.yaml",
        "format: text\n",
        "format: '\"><img src=x onerror=alert(2)>'\n    \"</style><b onclick='x'>\": &a '&amp;'\n",
    );
    desk.write(
        "run/samples.jsonl",
        format!("{{\"step\":0,\"prompt\":\"{script}\",\"text\":\"</p>\\u001b[2J\\u202e\"}}\n"),
    );
    fs::rename(desk.path("run"), desk.path("a<b>&'\"")).unwrap();
    let page = page(&desk, &["a<b>&'\""], "a<b>&'\"/report.html");
    holds(
        &page,
        &[
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "&lt;img src=x onerror=alert(2)&gt;",
            "&lt;/p&gt;\\u{1b}[2J\\u{202e}",
        ],
    );
    holds(
        &page,
        &[
            "<h1>a&lt;b&gt;&amp;&#39;&quot;</h1>",
            "default-src &#39;none&#39;",
        ],
    );
}

#[test]
fn an_unfinished_run_and_a_torn_line_are_told() {
    let desk = trained("run");
    fs::remove_file(desk.path("run/README.md")).unwrap();
    desk.write(
        "run/metrics.jsonl",
        desk.read_text("run/metrics.jsonl") + "{\"step\":7,\"lo",
    );
    let shown = page(&desk, &["run"], "run/report.html");
    holds(
        &shown,
        &[
            "The run is not finished: its last step is 6",
            "1 line of metrics.jsonl cannot be read and is left out",
        ],
    );
    for nothing in ["", "\n\n", "{\"torn"] {
        desk.write("run/metrics.jsonl", nothing);
        holds(
            &page(&desk, &["run"], "run/report.html"),
            &[
                "No step with a finite loss",
                "no value yet",
                "its last step is 0",
            ],
        );
    }
    fs::remove_file(desk.path("run/metrics.jsonl")).unwrap();
    fs::remove_dir_all(desk.path("run/checkpoints")).unwrap();
    fs::remove_dir_all(desk.path("run/adapter")).unwrap();
    holds(
        &page(&desk, &["run"], "run/report.html"),
        &["No step with a finite loss"],
    );
}

#[test]
fn skipped_steps_resumes_and_forced_changes_are_told() {
    let desk = trained("run");
    let line = "{\"step\":7,\"epoch\":1.5,\"loss\":null,\"learning_rate\":0.1,\"grad_norm\":null,\
        \"tokens\":5,\"trained_tokens\":5,\"tokens_per_second\":9.5,\"skipped\":true}\n";
    desk.write(
        "run/metrics.jsonl",
        desk.read_text("run/metrics.jsonl") + line,
    );
    let resumed = "resumed:\n- step: 3\n  at: \"2026-11-21T10:58:33Z\"\n  forced:\n  - \"data: \
        `rows.parquet` has changed since the run started\"\n";
    desk.write(
        "run/recipe.lock.yaml",
        desk.read_text("run/recipe.lock.yaml") + resumed,
    );
    let page = page(&desk, &["run"], "run/report.html");
    let said = [
        "1 of 7 steps were skipped, because a loss or gradient was not finite: 7",
        "The run was stopped and went on once, after step 3",
        "From step 3 on, by --force: data: `rows.parquet` has changed",
        "step 7: not a finite number",
    ];
    holds(&page, &said);
}

#[test]
fn samples_are_shown_before_and_after() {
    let desk = trained("run");
    let line = |step: u64, text: &str| {
        format!("{{\"step\":{step},\"prompt\":\"What is a writ?\",\"text\":\"{text}\"}}\n")
    };
    desk.write(
        "run/samples.jsonl",
        line(0, "no idea") + &line(3, "half") + &line(6, "an order of a court") + "{torn",
    );
    let page = page(&desk, &["run"], "run/report.html");
    holds(
        &page,
        &[
            "What is a writ?",
            "before training",
            "no idea",
            "after step 6",
            "an order of a court",
        ],
    );
    assert!(!page.contains("half"));
}

#[test]
fn a_damaged_run_has_a_page_that_says_so() {
    let desk = Desk::new();
    train(&desk, "run", &["output.save_steps=3"]);
    desk.write("run/checkpoints/step-6/optimizer.safetensors", "");
    desk.write("run/recipe.lock.yaml", "torn: [");
    let shown = page(&desk, &["run"], "run/report.html");
    holds(
        &shown,
        &[
            "step-6` is passed over",
            "recipe.lock.yaml cannot be read",
            "step-3/recipe.lock.yaml",
            "adapter.r<",
        ],
    );
}

#[test]
fn what_is_no_run_is_refused_as_resume_refuses_it() {
    let desk = Desk::new();
    desk.run(&["report", "nothing"]).says(
        "no folder",
        66,
        &[
            "run `nothing` does not exist",
            "hint: give the folder of a run",
        ],
    );
    desk.run(&["report", "base"])
        .says("no run", 65, &["`base` holds no run"]);
    assert!(!desk.path("base/report.html").exists() && !desk.path("nothing").exists());
    fs::create_dir(desk.path("broken")).unwrap();
    desk.write("broken/recipe.lock.yaml", "a: [");
    desk.run(&["report", "broken"])
        .says("a broken lock", 65, &["is not the lock of a run"]);
    desk.run(&["report"]).says("nothing named", 2, &[]);
}
