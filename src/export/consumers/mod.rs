//! Checks what serving programs accept and reject of a model or adapter, before training and again
//! on the files.
//!
//! Sources, read in November 2026: vLLM's `peft_helper.py` and `config/lora.py`
//! (<https://github.com/vllm-project/vllm>), llama.cpp's `convert_lora_to_gguf.py` and
//! `llama-adapter.cpp` (<https://github.com/ggml-org/llama.cpp>), Ollama's `convert/convert.go` and
//! `parser/` (<https://github.com/ollama/ollama>), mlx-lm's `tuner/utils.py`
//! (<https://github.com/ml-explore/mlx-lm>), PEFT's `save_and_load.py`
//! (<https://github.com/huggingface/peft>; of rows of tokens in vLLM its issue 36501 and pull
//! request 23540), LM Studio's documentation (<https://lmstudio.ai/docs>).

mod features;
mod model;
mod rules;

pub use features::{Feature, Features, Subject};
pub use model::model_findings;
pub use rules::{findings, portability};

/// A program that serves models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// vLLM.
    Vllm,
    /// llama.cpp.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// LM Studio.
    LmStudio,
    /// PEFT, on transformers.
    Peft,
    /// mlx-lm.
    Mlx,
}

impl Consumer {
    /// All consumers.
    pub const ALL: [Self; 6] = [
        Self::Vllm,
        Self::LlamaCpp,
        Self::Ollama,
        Self::LmStudio,
        Self::Peft,
        Self::Mlx,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::Ollama => "Ollama",
            Self::LmStudio => "LM Studio",
            Self::Peft => "PEFT",
            Self::Mlx => "mlx-lm",
        }
    }
}

/// The form in which a consumer gets a model or adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShippedForm {
    /// A folder in PEFT's format.
    Peft,
    /// An adapter as a GGUF file.
    GgufAdapter,
    /// A model as a GGUF file.
    Gguf,
    /// A Modelfile and a model as a GGUF file.
    Ollama,
    /// A folder in mlx-lm's format.
    Mlx,
}

impl ShippedForm {
    /// Describes the form in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Peft => "an adapter in PEFT's format",
            Self::GgufAdapter => "an adapter as a GGUF file",
            Self::Gguf => "a model as a GGUF file",
            Self::Ollama => "a Modelfile with a GGUF model",
            Self::Mlx => "an adapter in mlx-lm's format",
        }
    }
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The consumer rejects it in any form, or silently computes something else from it.
    Rejects,
    /// The consumer accepts it with an option, in another form, or in some of its releases.
    Changes,
}

/// The cause of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This adapter or model.
    Content,
    /// Its format: any adapter or model in it has the same finding.
    Form,
}

/// A finding: a consumer's problem with a model or adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// Its cause.
    pub cause: Cause,
    /// Both sides, beginning with the consumer's name.
    pub words: String,
    /// What to do next.
    pub next: String,
}

impl Finding {
    fn rejects(words: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            severity: Severity::Rejects,
            cause: Cause::Content,
            words: words.into(),
            next: next.into(),
        }
    }

    fn changes(words: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            severity: Severity::Changes,
            ..Self::rejects(words, next)
        }
    }

    /// Returns the same finding with its form as the cause.
    fn of_form(self) -> Self {
        Self {
            cause: Cause::Form,
            ..self
        }
    }

    /// Returns the finding on one line.
    pub fn line(&self) -> String {
        if self.next.is_empty() {
            self.words.clone()
        } else {
            format!("{}; {}", self.words, self.next)
        }
    }
}
