//! Input of a run to cards: the card of a finished run, and the facts of the run above an
//! adapter.

use std::path::Path;

use serde_json::Value;

use super::lock::Lock;
use super::result;
use crate::export::card::{
    Base, CARD, Card, CardSubject, OwnTokenizer, Trained, TrainedPart, card,
};
use crate::fault::Failure;
use crate::files::license::Notices;
use crate::files::{hash_file, write_atomic};
use crate::plan::{Plan, Trains};
use crate::train::RunFolder;

/// Writes the card of a run, with the licenses of its base beside it. A model's card also lies in
/// its folder. The card is the last file that a run writes.
pub fn write_run_card(
    plan: &Plan,
    lock: &Lock,
    result: &Value,
    base: Base,
    notices: &Notices,
) -> Result<(), Failure> {
    let run = Trained {
        lock: lock.values().clone(),
        result: result.as_object().cloned(),
    };
    let mut hashes = notices.hashes();
    for path in RunFolder::product_files(&plan.output_dir)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name != CARD {
            hashes.push((name, hash_file(&path)?));
        }
    }
    let about = "`recipe.lock.yaml` of the run says on exactly what it was trained, \
        `metrics.jsonl` how that went."
        .to_owned();
    let packed = plan.storage.form.map(|form| {
        if plan.takes_parts_out() {
            format!(
                "What remained of its base was packed in {form} while it was trained. The adapter \
                is for the base in numbers, on which it answers a little differently."
            )
        } else {
            format!(
                "Its base was packed in {form} while it was trained. On a base that is not, it \
                answers a little differently; `rankine merge` measures how much."
            )
        }
    });
    let (subject, config) = match &plan.trains {
        Trains::Adapter(config) => (CardSubject::Adapter, Some(config.saved())),
        Trains::Everything => (CardSubject::Model, None),
    };
    let tokenizer = plan.vocabulary.as_ref().map(|vocabulary| OwnTokenizer {
        rows: vocabulary.grown_to,
    });
    let part = TrainedPart {
        config,
        run: Some(run),
        tokenizer,
        ..TrainedPart::default()
    };
    let text = card(&Card {
        subject,
        base,
        about: [about].into_iter().chain(packed).collect(),
        parts: vec![part],
        hashes,
    });
    notices.write(&plan.output_dir)?;
    if plan.trains == Trains::Everything {
        write_atomic(
            &plan.output_dir.join(RunFolder::MODEL).join(CARD),
            text.as_bytes(),
        )?;
    }
    Ok(write_atomic(&plan.output_dir.join(CARD), text.as_bytes())?)
}

/// Returns the facts of the run or checkpoint with this lock.
pub fn run_of(path: &Path, lock: &Lock) -> Result<Trained, Failure> {
    let run = path.parent().unwrap_or(Path::new("."));
    let over = run.join(RunFolder::RESULT).exists();
    let result = if over { Some(result::read(run)?) } else { None };
    Ok(Trained {
        lock: lock.values().clone(),
        result: result.as_ref().and_then(Value::as_object).cloned(),
    })
}
