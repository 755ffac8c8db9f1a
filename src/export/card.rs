//! The README of a run's folder: what was trained on what, and how to load it.

/// What a card says.
#[derive(Debug, Clone)]
pub struct Card {
    /// The base as the adapter names it.
    pub base: String,
    /// The base in words.
    pub model: String,
    /// Data files.
    pub files: Vec<String>,
    /// Rank, alpha and targets in words.
    pub adapter: String,
    /// Parameters that were trained.
    pub trainable_parameters: usize,
    /// Rows that were trained on.
    pub rows: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens seen, padding excluded.
    pub tokens: u64,
    /// Validation loss before the first step and at the best one, nats a token.
    pub eval_loss: Option<(f64, f64)>,
    /// The step whose adapter is in `adapter/`.
    pub best_step: u64,
}

/// The card as Markdown.
pub fn card(card: &Card) -> String {
    let Card { base, model, adapter, trainable_parameters, rows, steps, tokens, best_step, .. } = card;
    let files: String = card.files.iter().map(|file| format!("- `{file}`\n")).collect();
    let validation = card.eval_loss.map_or_else(String::new, |(first, best)| {
        format!("Loss on held-out rows: {first:.4} before training, {best:.4} with this adapter (nats per trained token).\n")
    });
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"# LoRA adapter for `{base}`

Trained with rankine {version}; `recipe.lock.yaml` says on exactly what, `metrics.jsonl` how it went.

- Base: `{base}` ({model})
- Adapter: {adapter}, {trainable_parameters} trained parameters
- Data: {rows} rows, {steps} optimizer steps, {tokens} tokens; `adapter/` is that of step {best_step}
{files}
{validation}
To load it with PEFT, where `BASE` is the folder or Hub id of the base:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "adapter")
```
"#
    )
}
