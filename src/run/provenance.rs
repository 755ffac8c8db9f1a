//! Where a run's rows come from, for its lock and for cards: counts for each data set, and the
//! license information of each file.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::lock::Lock;
use crate::data::{self, DataFile, DataSource, Terms};
use crate::plan::{MemoryPlan, Origin, Plan, RunData, Setting};
use crate::terms::Term;
use crate::train;

impl Lock {
    /// Records the rows of this plan, and the values that `auto` was resolved to: how many blocks
    /// are recomputed, the device, the dtype of the base with the form of its files if they are
    /// quantized, where its embedding is, and the peak that `memory` plans. Free memory and proven
    /// devices may be different when the run continues.
    pub fn describe(
        &mut self,
        plan: &Plan,
        data: &RunData,
        chosen: train::Memory,
        memory: &MemoryPlan,
    ) {
        let storage = memory.storage();
        self.0.insert(
            "planned_memory_bytes".to_owned(),
            json!(memory.parts.peak_bytes()),
        );
        self.0.insert("data".to_owned(), provenance(plan, data));
        self.record_cache(data.cache_entries());
        self.0["recipe"]["training"]["gradient_checkpointing"] = json!(chosen.recomputed);
        self.0["recipe"]["training"]["model_dtype"] = json!(storage.dtype.word());
        if let Some(form) = storage.form {
            self.set_packing(form, storage.packs_head);
        }
        if let Some(offload) = self.0["recipe"]["adapter"].get_mut("offload_embedding") {
            *offload = json!(storage.offloads_embedding);
        }
        self.0["recipe"]["device"] = json!(plan.device.to_string());
    }
}

/// Returns the counts and licenses of each data set.
fn provenance(plan: &Plan, data: &RunData) -> Value {
    let sources = plan.sources.iter().chain(&plan.validation_sources);
    let each = sources.zip(&data.ledger().sources).enumerate();
    let shares = data.shares();
    let set = |(index, (source, tally)): (usize, (&DataSource, &data::RowCounts))| {
        let (key, path) = plan.source_name(index);
        let file = |file: &DataFile| {
            let file = file.path();
            let terms = terms(plan, &key, Path::new(&path), file);
            json!({
                "path": file.display().to_string(),
                "license": terms.license,
                "said_in": terms.said_in,
                "notices": terms.notices,
            })
        };
        let share = shares.iter().find(|share| share.dataset == key);
        let mut set = json!({
            "dataset": key,
            "rows": tally.rows,
            "trained": tally.train,
            "validation": tally.validation,
            "not_selected": tally.not_selected,
            "left_out": tally.dropped(),
            "too_long": tally.too_long,
            "no_trained_token": tally.untrained,
            "equal_halves": tally.equal_halves,
            "broken": tally.broken,
            "exact_duplicates": tally.exact_duplicates,
            "near_duplicates": tally.near_duplicates,
            "near_held_out": tally.near_held_out,
            "truncated": tally.truncated,
            "duplicates": tally.duplicates,
            "tokens": tally.tokens,
            "trained_tokens": tally.trained_tokens,
            "files": source.files.iter().map(file).collect::<Vec<_>>(),
        });
        if let (Some(share), Some(set)) = (share, set.as_object_mut()) {
            set.insert("weight".to_owned(), json!(share.weight));
            set.insert("draws_per_epoch".to_owned(), json!(share.drawn));
            set.insert("repeated_per_epoch".to_owned(), json!(share.repeated));
        }
        set
    };
    each.map(set).collect()
}

/// Returns the license terms of a data file. For a Hub file these are the terms of its
/// repository, which a converted copy does not carry itplan.
fn terms(plan: &Plan, key: &str, path: &Path, file: &Path) -> Terms {
    let Some(snapshot) = plan.hub_data.get(key) else {
        return data::terms(file, path);
    };
    let (found, cards) = (data::terms(file, &snapshot.folder), snapshot.card_folder());
    if found == Terms::default() {
        data::terms(&cards.join("README.md"), &cards)
    } else {
        found
    }
}

/// Returns the values that were given, with their places. All others are defaults or follow from
/// these.
pub(super) fn set_by(settings: &[Setting]) -> Value {
    let said = settings
        .iter()
        .filter(|setting| matches!(setting.origin, Origin::Said(_)));
    Value::Object(
        said.map(|setting| (setting.key.clone(), json!(setting.origin.to_string())))
            .collect::<Map<_, _>>(),
    )
}
