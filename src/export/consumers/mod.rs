//! What programs that serve a model take of it and what they reject, said before training and again
//! of the files.
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

/// A program that serves a model.
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
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Vllm,
        Self::LlamaCpp,
        Self::Ollama,
        Self::LmStudio,
        Self::Peft,
        Self::Mlx,
    ];

    /// As it calls itself.
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

/// What a consumer is given.
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
    /// In words.
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

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The consumer takes it in no way, or computes something else from it without a word.
    Rejects,
    /// It takes it with an option, in another form, or in some of its releases.
    Changes,
}

/// What a finding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// This adapter or model.
    Content,
    /// Its format, which any adapter or model has.
    Form,
}

/// What a consumer does with something that it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// What it comes from.
    pub cause: Cause,
    /// Both sides, the consumer's name first.
    pub words: String,
    /// The next step.
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

    /// One that any adapter or model would have.
    fn of_form(self) -> Self {
        Self {
            cause: Cause::Form,
            ..self
        }
    }

    /// As one line.
    pub fn line(&self) -> String {
        if self.next.is_empty() {
            self.words.clone()
        } else {
            format!("{}; {}", self.words, self.next)
        }
    }
}
