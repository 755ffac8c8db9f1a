//! The status of every row, by data set, as recorded in the lock.

use serde_json::Value;

use super::html::Html;
use super::{RunRecord, said, table, with_groups};

/// Counts of a set in the lock, with their names for the user.
const COUNTS: [(&str, &str); 16] = [
    ("rows", "rows read"),
    ("not_selected", "not selected by `split` or `max_rows`"),
    ("trained", "trained on"),
    ("validation", "held out to validate"),
    ("too_long", "left out, too long"),
    ("no_trained_token", "left out, without a trained token"),
    ("broken", "left out, broken"),
    ("exact_duplicates", "left out, equal to an earlier one"),
    (
        "near_duplicates",
        "left out, nearly the same as an earlier one",
    ),
    (
        "near_held_out",
        "left out, nearly the same as one that is only scored",
    ),
    ("draws_per_epoch", "drawn an epoch"),
    ("repeated_per_epoch", "drawn again within an epoch"),
    ("truncated", "kept, with the tail cut off"),
    ("duplicates", "kept, equal to an earlier one"),
    ("tokens", "tokens of kept rows"),
    ("trained_tokens", "tokens that carry a loss"),
];

/// Writes the ledger; nothing if no lock has one.
pub(super) fn ledger(html: &mut Html, runs: &[RunRecord]) {
    let rows = table::rows(runs, counts);
    if rows.is_empty() {
        return;
    }
    html.element("section", &[], |section| {
        section.words("h2", &[], "Data");
        section.words(
            "p",
            &[("class", "note")],
            "What became of every row that was read.",
        );
        table::plain(section, runs, &rows);
    });
}

fn counts(run: &RunRecord) -> Vec<(String, String)> {
    let sets = run
        .lock
        .get("data")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let of_set = |set: &Value| {
        let name = said(&set["dataset"]);
        let of = |(key, words): &(&str, &str)| Some((format!("{name}: {words}"), set.get(key)?));
        let shown = |count: &Value| {
            if count.is_u64() {
                with_groups(&count.to_string())
            } else {
                said(count)
            }
        };
        COUNTS
            .iter()
            .filter_map(of)
            .map(|(name, count)| (name, shown(count)))
            .collect::<Vec<_>>()
    };
    sets.flat_map(of_set).collect()
}
