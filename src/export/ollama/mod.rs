//! Writes a folder for `ollama create`: a GGUF model and a Modelfile whose template is proven to
//! render what the model was trained on.

mod conversations;
mod go;
mod modelfile;
mod prove;
mod stock;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

pub use go::GoTemplateError as TemplateError;
pub use modelfile::WEIGHTS;
pub use prove::{Proof, prove, prove_with};

use serde_json::{Map, Value};

use super::gguf::{self, GgmlType, Written, write_gguf_model};
use crate::data::{template, tokenize};
use crate::fault::{Exit, Explain, Fault};
use crate::files::{self, JSON_BYTES, is_there, read_text_up_to, write_atomic};
use crate::report::Reporter;

/// The file name of the Modelfile.
const MODELFILE: &str = "Modelfile";

/// Writes the files for the model of the folder `model` into `folder`.
///
/// # Errors
/// llama.cpp has no architecture for the model, the Modelfile would be read differently, a file
/// cannot be written, or `interrupt` was raised.
pub fn write_ollama(
    model: &Path,
    proof: &Proof,
    folder: &Path,
    kind: GgmlType,
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Written, OllamaError> {
    let modelfile = modelfile::modelfile(&proof.template, &proof.stops, &generation(model)?)?;
    let written = write_gguf_model(model, &folder.join(WEIGHTS), kind, interrupt, report)?;
    write_atomic(&folder.join(MODELFILE), modelfile.as_bytes())?;
    Ok(written)
}

/// Reads `generation_config.json`; empty if it does not exist.
fn generation(model: &Path) -> Result<Map<String, Value>, OllamaError> {
    let path = model.join("generation_config.json");
    if !is_there(&path)? {
        return Ok(Map::new());
    }
    let text = read_text_up_to(&path, JSON_BYTES)?;
    Ok(serde_json::from_str(&text)
        .map_err(|error| files::FileError::new("read", &path, error.into()))?)
}

/// A folder for Ollama that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OllamaError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The model cannot be written as a GGUF file.
    #[error(transparent)]
    Gguf(#[from] gguf::GgufError),
    /// The tokenizer cannot be opened.
    #[error(transparent)]
    Tokenizer(#[from] tokenize::TokenizeError),
    /// The chat template is not valid.
    #[error(transparent)]
    ChatTemplate(#[from] template::TemplateError),
    /// There is no chat template to compare with.
    #[error("`{}` has no chat template: without one Ollama does not know where an answer begins \
        and ends", folder.display())]
    NoTemplate {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The chat template refuses every conversation.
    #[error("the chat template refuses all of {conversations} conversations")]
    RefusesAll {
        /// The number of conversations that were tried.
        conversations: usize,
    },
    /// The chat template prints the current date.
    #[error("the chat template prints the day, which Ollama's templates cannot")]
    TellsTheDay,
    /// The tokenizer puts a bos token before a text, and the chat template does not.
    #[error(
        "Ollama puts `{bos}` before a conversation as the tokenizer does before a text, the \
        chat template writes none"
    )]
    AddedBos {
        /// The bos token.
        bos: String,
    },
    /// A Go template renders a different text.
    #[error(
        "Ollama's template `{name}` renders a conversation of {roles} otherwise than the chat \
        template: `{found}`, expected `{expected}`"
    )]
    Different {
        /// The name of the format, or the file.
        name: String,
        /// The roles of the conversation.
        roles: String,
        /// The text around the first difference.
        found: String,
        /// The chat template's text there.
        expected: String,
    },
    /// A Go template is not valid, or uses something that is not supported.
    #[error("{}: {cause}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// The line and the reason.
        cause: TemplateError,
    },
    /// No text after an assistant message could serve Ollama as a stop.
    #[error(
        "no special token ends what the assistant says, `{follows}` follows: the model would \
        not stop"
    )]
    NoEnd {
        /// The text that follows.
        follows: String,
    },
    /// Ollama would read a different value.
    #[error("the {what} has {found}, which a Modelfile cannot hold")]
    Modelfile {
        /// `template` or `stop`.
        what: &'static str,
        /// The text that cannot be written.
        found: String,
    },
}

impl OllamaError {
    fn inner(&self) -> Option<&dyn Explain> {
        match self {
            Self::File(error) => Some(error),
            Self::Gguf(error) => Some(error),
            Self::Tokenizer(error) => Some(error),
            Self::ChatTemplate(error) => Some(error),
            _ => None,
        }
    }
}

impl Explain for OllamaError {
    fn exit(&self) -> Exit {
        match (self, self.inner()) {
            (_, Some(inner)) => inner.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoTemplate { .. } => "name the Jinja template that it was trained with: \
                `--chat-template FILE`, in a recipe `chat_template`"
                .to_owned(),
            Self::TellsTheDay => {
                "train with a copy of the chat template in which the day is written out, and name \
                it with `chat_template` in the recipe"
                    .to_owned()
            }
            Self::AddedBos { .. } | Self::NoEnd { .. } | Self::RefusesAll { .. } => {
                "train with a chat template that writes its own BOS and the special token that \
                ends a turn"
                    .to_owned()
            }
            Self::Different { .. } => "write a Go template that renders the same and name it: \
                `--template FILE`"
                .to_owned(),
            Self::Template { .. } => {
                "known are `.System`, `.Messages`, `.Role`, `.Content`, variables, `if`, `range`, \
                eq, ne, and, or, not, len and slice"
                    .to_owned()
            }
            Self::Modelfile { .. } => "write such a text as a Go string, as in {{ \"\\u200b\" }}, \
                in a template of your own: `--template FILE`"
                .to_owned(),
            _ => return self.inner()?.hint(),
        })
    }

    fn faults(&self) -> Vec<Fault> {
        let own = || {
            vec![Fault {
                place: None,
                message: self.to_string(),
                hint: self.hint(),
            }]
        };
        self.inner().map_or_else(own, Explain::faults)
    }
}
