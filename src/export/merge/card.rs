//! The README of a merged model: what was added to what, so that it can be made again.

use std::path::Path;

use super::order::{Addend, Order};
use super::{Error, Tally, name_of};
use crate::adapter::peft;
use crate::files::{Hash, hash_file};

/// The card as Markdown; `weights` are the base's files of weights with their hashes.
pub(super) fn card(order: &Order, tally: &Tally, weights: &[(String, Hash)]) -> Result<String, Error> {
    let base = portable(&order.base);
    let adapters = order.adapters.iter().map(line).collect::<Result<String, _>>()?;
    let weights: String = weights.iter().map(|(name, hash)| format!("  - `{name}`: {hash}\n")).collect();
    let Tally { tensors, merged_tensors, changed, .. } = tally;
    let float = order.float.map_or_else(String::new, |float| format!(", all numbers stored as {float}"));
    let rounding = tally.rounding().unwrap_or(0.0) * 100.0;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        r#"# `{base}` with merged LoRA adapters

Written by rankine {version}: each weight W became W + Σ weight · scale · B A, computed in 32-bit floats{float}.
Of {tensors} tensors {merged_tensors} were changed, in {changed} numbers; rounding to their type took {rounding:.2} % of what the adapters add (L2 norms).
The licence of the base holds for this model too.

Hashes are blake3.

- Base `{base}`
{weights}{adapters}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```
"#
    ))
}

fn line(addend: &Addend) -> Result<String, Error> {
    let [config, weights] = peft::files(&addend.folder);
    let (head, config_hash, weights_hash) = (portable(&addend.folder), hash_file(&config)?, hash_file(&weights)?);
    let (config, weights, weight) = (name_of(&config), name_of(&weights), addend.weight);
    Ok(format!("- Adapter `{head}`, weight {weight}\n  - `{config}`: {config_hash}\n  - `{weights}`: {weights_hash}\n"))
}

/// A folder without its place on this machine.
fn portable(folder: &Path) -> String {
    if folder.is_absolute() { name_of(folder) } else { folder.display().to_string() }
}
