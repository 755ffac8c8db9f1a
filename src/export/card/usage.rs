//! The usage section of a card: how each program loads the model or adapter, and which programs do
//! not.
//!
//! Sources: PEFT `PeftModel.from_pretrained`; vLLM
//! <https://docs.vllm.ai/en/latest/features/lora.html>; llama.cpp `--lora` and `--model`; Ollama
//! <https://docs.ollama.com/modelfile>; LM Studio `lms import`; mlx-lm `mlx_lm.generate`.

use serde_json::json;

use super::{Card, CardSubject, formats_of};
use crate::adapter::{LABELS, ScoreConfig};
use crate::data::{alpaca, visible};
use crate::fault::shell_word;
use crate::terms::Format;

/// The ranks that vLLM can be configured for (`MaxLoRARanks`).
const VLLM_RANKS: [usize; 9] = [1, 8, 16, 32, 64, 128, 256, 320, 512];

/// Returns the section, program by program.
pub(super) fn usage(card: &Card) -> String {
    if let Some(score) = score_head(card) {
        return scored(card, score);
    }
    let how = match &card.subject {
        CardSubject::Adapter => adapter(card),
        CardSubject::Model => model(),
        CardSubject::Packed { .. } => packed(),
        CardSubject::Gguf { file, .. } => gguf(card, file),
        CardSubject::GgufAdapter { file } => gguf_adapter(card, file),
        CardSubject::Mlx => mlx(card),
        CardSubject::Ollama { file } => ollama(file),
    };
    frames(card) + &how
}

/// Returns the score head of the adapter, if it has one.
fn score_head(card: &Card) -> Option<&ScoreConfig> {
    card.parts
        .iter()
        .find_map(|part| part.config.as_ref()?.score.as_ref())
}

/// Explains how to score texts with an adapter that has a score head.
fn scored(card: &Card, score: &ScoreConfig) -> String {
    let (class, what) = if score.is_of_tokens {
        (
            "AutoModelForTokenClassification",
            "words, each at its first token",
        )
    } else if score.is_of_causal_model() {
        (
            "AutoModelForSequenceClassification",
            "texts, each at its last token that is not padding",
        )
    } else {
        ("AutoModelForSequenceClassification", "whole texts")
    };
    // A base may have a head of its own for another number of scores.
    let fresh = if score.is_of_causal_model() {
        ""
    } else {
        ", ignore_mismatched_sizes=True"
    };
    let base = base_in_python(card);
    let notes: String = card
        .portability()
        .into_iter()
        .map(|note| format!("- {note}\n"))
        .collect();
    let python = [
        "import json".to_owned(),
        "from peft import PeftModel".to_owned(),
        format!("from transformers import {class}, AutoTokenizer"),
        String::new(),
        format!("tokenizer = AutoTokenizer.from_pretrained({base})"),
        format!("labels = json.load(open(\"ADAPTER/{LABELS}\"))"),
        "labels[\"id2label\"] = {int(id): name for id, name in labels[\"id2label\"].items()}"
            .to_owned(),
        format!("base = {class}.from_pretrained({base}, **labels{fresh})"),
        "model = PeftModel.from_pretrained(base, \"ADAPTER\").eval()".to_owned(),
    ];
    [
        legend(card),
        format!(
            "`ADAPTER` stands for the folder with `adapter_config.json`: that of this card, or \
            its `adapter`. It scores {what}, and writes none.\n\n"
        ),
        format!("Not every program takes this adapter as it is:\n\n{notes}\n"),
        block(
            "Rankine",
            ":",
            "sh",
            &["rankine classify ADAPTER FILE --out classes.parquet".to_owned()],
        ),
        block("PEFT, transformers", ":", "python", &python),
    ]
    .concat()
}

/// Explains how to prompt a model that was not trained with the chat template, in programs that use
/// it.
fn frames(card: &Card) -> String {
    let runs = card.parts.iter().filter_map(|part| part.run.as_ref());
    let formats: Vec<Format> = runs.flat_map(|run| formats_of(&run.lock)).collect();
    let of_instructions = || {
        let [alone, with_input] = [None, Some("INPUT")].map(|input| alpaca("INSTRUCTION", input));
        format!(
            "Rows of `instruction` were trained in Alpaca's frame, not in a chat template. Put it \
            around what you ask \
            (`rankine generate --instruction INSTRUCTION` does):\n\n```text\n{alone}\n```\n\nWith \
            an input (`--input INPUT`):\n\n```text\n{with_input}\n```\n\n"
        )
    };
    let of_completions = |format: &Format| {
        format!(
            "Rows of `{format}` were trained without a chat template: give the prompt as it is, as \
            `rankine generate --prompt PROMPT` does.\n\n"
        )
    };
    let instructions = formats.contains(&Format::Instruction).then(of_instructions);
    let completions = [Format::Completion, Format::Preference, Format::Unpaired];
    let completions = completions
        .iter()
        .filter(|format| formats.contains(format))
        .map(of_completions);
    instructions.into_iter().chain(completions).collect()
}

/// Returns a program's paragraph with its commands in `language`.
fn block(program: &str, words: &str, language: &str, lines: &[String]) -> String {
    format!(
        "**{program}**{words}\n\n```{language}\n{}\n```\n\n",
        lines.join("\n")
    )
}

fn no(programs: &str, why: &str) -> String {
    format!("**{programs}**: {why}\n\n")
}

/// Explains the placeholder for the base in the commands.
fn legend(card: &Card) -> String {
    match &card.base.hub {
        Some(_) => String::new(),
        None => "`BASE` stands for the folder or Hub id of the base.\n\n".to_owned(),
    }
}

/// Returns the arguments of `from_pretrained` for the base, at the commit that was used.
fn base_in_python(card: &Card) -> String {
    let revision = card.base.hub.as_ref().map_or_else(String::new, |hub| {
        format!(", revision={}", json!(hub.commit))
    });
    format!("{}{revision}", json!(card.base.in_commands()))
}

fn adapter(card: &Card) -> String {
    let (base, python) = (card.base.in_commands(), base_in_python(card));
    let rank = card
        .parts
        .iter()
        .filter_map(|part| part.config.as_ref())
        .map(|config| config.largest_rank())
        .max()
        .unwrap_or(16);
    let vllm = match VLLM_RANKS.iter().find(|most| **most >= rank) {
        Some(most) => block(
            "vLLM",
            ", which takes ranks up to 16 unless told otherwise:",
            "sh",
            &[format!(
                "vllm serve {base} --enable-lora --max-lora-rank {} --lora-modules tuned=ADAPTER",
                most.max(&16)
            )],
        ),
        None => no(
            "vLLM",
            &format!("takes no adapter of rank {rank}; merge it first, as below."),
        ),
    };
    let notes: String = card
        .portability()
        .into_iter()
        .map(|note| format!("- {note}\n"))
        .collect();
    let notes = if notes.is_empty() {
        notes
    } else {
        format!("Not every program takes this adapter as it is:\n\n{notes}\n")
    };
    [
        legend(card),
        "`ADAPTER` stands for the folder with `adapter_config.json`: that of this card, or \
        `adapter` beside it.\n\n"
            .to_owned(),
        notes,
        block("PEFT, transformers", ":", "python", &in_peft(card, &python)),
        vllm,
        block(
            "llama.cpp",
            ", with a GGUF file of the same base:",
            "sh",
            &[
                "rankine export ADAPTER --base BASE_FOLDER --to gguf-adapter --out adapter.gguf"
                    .to_owned(),
                "llama-server --model base.gguf --lora adapter.gguf".to_owned(),
            ],
        ),
        block(
            "Ollama",
            ", merged into the base:",
            "sh",
            &[
                "rankine export ADAPTER --base BASE_FOLDER --to ollama --out tuned".to_owned(),
                "ollama create tuned -f tuned/Modelfile".to_owned(),
            ],
        ),
        block(
            "LM Studio",
            ", merged into the base:",
            "sh",
            &[
                "rankine export ADAPTER --base BASE_FOLDER --to gguf --out model.gguf".to_owned(),
                "lms import model.gguf".to_owned(),
            ],
        ),
        block(
            "mlx-lm",
            ":",
            "sh",
            &[
                "rankine export ADAPTER --base BASE_FOLDER --to mlx --out mlx".to_owned(),
                format!(
                    "mlx_lm.generate --model {} --adapter-path mlx --prompt \"...\"",
                    card.base.in_commands()
                ),
            ],
        ),
    ]
    .concat()
}

/// Returns the commands for PEFT. An adapter that was trained with more tokens than its base has
/// needs a larger embedding; the values of the new rows are in the adapter.
fn in_peft(card: &Card, base: &str) -> Vec<String> {
    let own = card.parts.iter().find_map(|part| part.tokenizer);
    let tokenizer = if own.is_some() { "\"ADAPTER\"" } else { base };
    let head = [
        "from peft import PeftModel".to_owned(),
        "from transformers import AutoModelForCausalLM, AutoTokenizer".to_owned(),
        String::new(),
        format!("tokenizer = AutoTokenizer.from_pretrained({tokenizer})"),
    ];
    let loaded = format!("AutoModelForCausalLM.from_pretrained({base})");
    let rest = match own.and_then(|own| own.rows) {
        None => vec![format!(
            "model = PeftModel.from_pretrained({loaded}, \"ADAPTER\")"
        )],
        Some(rows) => vec![
            format!("base = {loaded}"),
            format!(
                "base.resize_token_embeddings({rows}, mean_resizing=False)  # the new rows are \
                in the adapter"
            ),
            "model = PeftModel.from_pretrained(base, \"ADAPTER\")".to_owned(),
        ],
    };
    head.into_iter().chain(rest).collect()
}

fn model() -> String {
    [
        "`MODEL` stands for the folder with `config.json`: that of this card, or `model` beside \
        it.\n\n"
            .to_owned(),
        block(
            "transformers",
            ":",
            "python",
            &[
                "from transformers import AutoModelForCausalLM, AutoTokenizer".to_owned(),
                String::new(),
                "model, tokenizer = AutoModelForCausalLM.from_pretrained(\"MODEL\"), \
                AutoTokenizer.from_pretrained(\"MODEL\")"
                    .to_owned(),
            ],
        ),
        block("vLLM", ":", "sh", &["vllm serve MODEL".to_owned()]),
        block(
            "mlx-lm",
            ":",
            "sh",
            &["mlx_lm.generate --model MODEL --prompt \"...\"".to_owned()],
        ),
        block(
            "llama.cpp, LM Studio",
            ", by way of a GGUF file:",
            "sh",
            &[
                "rankine export MODEL --to gguf --out model.gguf".to_owned(),
                "llama-server --model model.gguf".to_owned(),
                "lms import model.gguf".to_owned(),
            ],
        ),
        block(
            "Ollama",
            ":",
            "sh",
            &[
                "rankine export MODEL --to ollama --out tuned".to_owned(),
                "ollama create tuned -f tuned/Modelfile".to_owned(),
            ],
        ),
        no(
            "PEFT",
            "there is nothing to load: what was learned is in the weights.",
        ),
    ]
    .concat()
}

fn packed() -> String {
    [
        "`MODEL` stands for the folder of this card.\n\n".to_owned(),
        block(
            "rankine",
            ", as the base of a recipe:",
            "yaml",
            &["base_model: MODEL".to_owned()],
        ),
        block(
            "transformers, PEFT",
            ", with bitsandbytes installed:",
            "python",
            &[
                "from transformers import AutoModelForCausalLM".to_owned(),
                String::new(),
                "model = AutoModelForCausalLM.from_pretrained(\"MODEL\")".to_owned(),
            ],
        ),
        no(
            "llama.cpp, Ollama, LM Studio, mlx-lm",
            "have forms of their own; convert the model that this was made of.",
        ),
    ]
    .concat()
}

/// Returns a file name as a path for a shell, so that no name can be taken for an option.
fn in_shell(file: &str) -> String {
    shell_word(&format!("./{}", visible(file)))
}

fn gguf(card: &Card, file: &str) -> String {
    let path = in_shell(file);
    [
        legend(card),
        "The chat template is in the file; Ollama knows the common ones and takes others as a \
        `TEMPLATE` in Go's language.\n\n"
            .to_owned(),
        block(
            "llama.cpp",
            ":",
            "sh",
            &[format!("llama-server --model {path}")],
        ),
        block(
            "Ollama",
            ": a Modelfile, then `ollama create tuned -f Modelfile`:",
            "",
            &[format!("FROM ./{}", visible(file))],
        ),
        block("LM Studio", ":", "sh", &[format!("lms import {path}")]),
        block(
            "vLLM",
            ", where reading GGUF is experimental:",
            "sh",
            &[format!(
                "vllm serve {path} --tokenizer {}",
                card.base.in_commands()
            )],
        ),
        block(
            "transformers",
            ", which unpacks it:",
            "python",
            &[
                "from transformers import AutoModelForCausalLM".to_owned(),
                String::new(),
                format!(
                    "model = AutoModelForCausalLM.from_pretrained(\".\", gguf_file={})",
                    json!(visible(file))
                ),
            ],
        ),
        no("PEFT, mlx-lm", "do not read GGUF; take the model's folder."),
    ]
    .concat()
}

fn gguf_adapter(card: &Card, file: &str) -> String {
    [
        legend(card),
        "`base.gguf` stands for a GGUF file of the same base.\n\n".to_owned(),
        block(
            "llama.cpp",
            ":",
            "sh",
            &[format!(
                "llama-server --model base.gguf --lora {}",
                in_shell(file)
            )],
        ),
        block(
            "Ollama",
            ": a Modelfile, then `ollama create tuned -f Modelfile`:",
            "",
            &[
                "FROM ./base.gguf".to_owned(),
                format!("ADAPTER ./{}", visible(file)),
            ],
        ),
        no(
            "LM Studio",
            "takes no adapter; merge it into the base and export that.",
        ),
        no(
            "PEFT, transformers, vLLM, mlx-lm",
            "do not read an adapter in GGUF; take the folder in PEFT's format.",
        ),
    ]
    .concat()
}

fn mlx(card: &Card) -> String {
    let command = format!(
        "mlx_lm.generate --model {} --adapter-path . --prompt \"...\"",
        card.base.in_commands()
    );
    [
        legend(card),
        block("mlx-lm", ":", "sh", &[command]),
        no(
            "PEFT, transformers, vLLM, llama.cpp, Ollama, LM Studio",
            "do not read mlx-lm's format; take the folder in PEFT's.",
        ),
    ]
    .concat()
}

fn ollama(file: &str) -> String {
    [
        block(
            "Ollama",
            ":",
            "sh",
            &[
                "ollama create tuned -f Modelfile".to_owned(),
                "ollama run tuned".to_owned(),
            ],
        ),
        block(
            "llama.cpp",
            ":",
            "sh",
            &[format!("llama-server --model {}", in_shell(file))],
        ),
        block(
            "LM Studio",
            ":",
            "sh",
            &[format!("lms import {}", in_shell(file))],
        ),
        no(
            "PEFT, transformers, vLLM, mlx-lm",
            "take the model's folder, not this one.",
        ),
    ]
    .concat()
}
