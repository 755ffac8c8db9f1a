//! The card of a merged model. It lists what was added to what, so that the merge can be repeated.

use std::path::Path;

use super::request::{Addend, MergeRequest, Onto};
use super::{MergeError, Tally, name_of};
use crate::adapter::peft;
use crate::export::card::{Base, Card, CardSubject, TrainedPart, card as markdown};
use crate::files::{Hash, hash_file};
use crate::report::grouped;

/// Returns the card as Markdown; `weights` are the base's weight files with their hashes.
pub(super) fn card(
    order: &MergeRequest,
    origin: &Path,
    tally: &Tally,
    weights: &[(String, Hash)],
) -> Result<String, MergeError> {
    let mut hashes: Vec<_> = weights
        .iter()
        .map(|(name, hash)| (format!("base: {name}"), *hash))
        .collect();
    let mut parts = Vec::new();
    for addend in &order.adapters {
        let name = called(&addend.folder);
        for file in peft::files(&addend.folder) {
            hashes.push((format!("{name}: {}", name_of(&file)), hash_file(&file)?));
        }
        parts.push(part(addend, name)?);
    }
    let base = Base::of(origin);
    Ok(markdown(&Card {
        subject: CardSubject::Model,
        base,
        about: vec![about(order, tally)],
        parts,
        hashes,
    }))
}

fn about(order: &MergeRequest, tally: &Tally) -> String {
    let Tally {
        tensors,
        merged_tensors,
        changed,
        ..
    } = tally;
    let float = order.float.map_or_else(String::new, |float| {
        format!(", all numbers stored as {float}")
    });
    let rounding = tally.rounding().unwrap_or(0.0) * 100.0;
    let unpacked = match order.onto {
        Onto::Stored => String::new(),
        Onto::Unpacked { form, .. } => {
            format!(" W is what remains of it in {form}, on which the adapter was trained.")
        }
    };
    let anew = if tally.in_blocks > 0 {
        " Those were quantized anew; all other tensors and the metadata are as they were."
    } else {
        ""
    };
    format!(
        "Each weight W became W + Σ weight · scale · B A, computed in 32-bit \
        floats{float}.{unpacked} Of {tensors} tensors {merged_tensors} were changed, in {} \
        numbers; rounding to their type took {rounding:.2} % of what the adapters add (L2 \
        norms).{anew}",
        grouped(*changed)
    )
}

fn part(addend: &Addend, name: String) -> Result<TrainedPart, MergeError> {
    let config = Some(peft::read_config(&addend.folder)?);
    let run = addend.trained_on.as_ref().map(|known| known.run.clone());
    Ok(TrainedPart {
        name: Some(name),
        weight: Some(addend.weight),
        config,
        run,
        tokenizer: None,
    })
}

/// Returns an adapter's name: that of its folder, or of its run if the folder has the same name in
/// every run.
fn called(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    match (name_of(&whole), whole.parent()) {
        (name, Some(run)) if name == "adapter" && run.file_name().is_some() => name_of(run),
        (name, _) => name,
    }
}
