//! Model cards: the `README.md` of an adapter or model for sharing. It names the base and the data
//! with their licenses, the training, its results, and how each program loads it.
//!
//! A card contains nothing about this machine: of every path only the last part is shown, and
//! prompts are left out.

mod base;
mod front;
mod run;
mod usage;
mod words;

pub use base::{Base, HubPlace};
pub use run::{Trained, formats_of, last_hashes};
pub use words::code;

use super::consumers::{Features, portability};
use crate::adapter::LoraConfig;
use crate::files::Hash;
use crate::terms::{AdapterVector, TokenIndices};

/// The name of a card's file.
pub const CARD: &str = "README.md";

/// The subject of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardSubject {
    /// An adapter in PEFT's format, in the card's folder or in `adapter` beside it.
    Adapter,
    /// A model in Hugging Face's layout, in the card's folder or in `model` beside it.
    Model,
    /// A base quantized in the format of bitsandbytes, in the card's folder.
    Packed {
        /// The quantization.
        form: String,
    },
    /// A model as a GGUF file.
    Gguf {
        /// The file name.
        file: String,
        /// Whether its matrices are quantized.
        is_quantized: bool,
    },
    /// An adapter as a GGUF file.
    GgufAdapter {
        /// The file name.
        file: String,
    },
    /// An adapter in mlx-lm's format, in the card's folder.
    Mlx,
    /// A Modelfile and the files that it names, in the card's folder.
    Ollama {
        /// The model's GGUF file.
        file: String,
    },
}

/// The content of a card.
#[derive(Debug, Clone)]
pub struct Card {
    /// The subject.
    pub subject: CardSubject,
    /// The base that it was made from.
    pub base: Base,
    /// Paragraphs of Markdown on how it was made. Names from outside are formatted with [`code`].
    pub about: Vec<String>,
    /// The adapters that it consists of or contains.
    pub parts: Vec<TrainedPart>,
    /// Files with their hashes.
    pub hashes: Vec<(String, Hash)>,
}

/// A trained part: an adapter, or the weights of a full fine-tuning.
#[derive(Debug, Clone, Default)]
pub struct TrainedPart {
    /// Its name, if there are several.
    pub name: Option<String>,
    /// Its weight in a merge, if one was chosen.
    pub weight: Option<f64>,
    /// The adapter's config; `None` after full fine-tuning.
    pub config: Option<LoraConfig>,
    /// The run; `None` if nothing is known of it.
    pub run: Option<Trained>,
    /// Its own tokenizer; `None` if it uses its base's.
    pub tokenizer: Option<OwnTokenizer>,
}

/// A tokenizer that differs from the base's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnTokenizer {
    /// Rows of the embedding and the head, if the base has fewer.
    pub rows: Option<usize>,
}

/// Returns the card as Markdown.
pub fn card(card: &Card) -> String {
    let about = card
        .about
        .iter()
        .map(|paragraph| format!("{paragraph}\n\n"))
        .collect::<String>();
    let parts = card.parts.iter().map(TrainedPart::text).collect::<String>();
    let hashes: String = card
        .all_hashes()
        .iter()
        .map(|(name, hash)| format!("- {}: {}\n", code(name), code(hash)))
        .collect();
    format!(
        "{}\n# {}\n\nWritten by rankine {}.\n\n{about}## Base\n\n{}\nWhat the base's license asks \
        of its copies it asks of this too.\n\n{parts}## How to load it\n\n{}## Hashes\n\nblake3 of \
        the files.\n\n{hashes}",
        front::front(card),
        card.title(),
        env!("CARGO_PKG_VERSION"),
        card.base.lines(),
        usage::usage(card),
    )
}

impl Card {
    fn title(&self) -> String {
        let base = code(&self.base.name);
        let is_merged = self.parts.iter().any(|part| part.config.is_some());
        match &self.subject {
            CardSubject::Adapter | CardSubject::Mlx => format!("LoRA adapter for {base}"),
            CardSubject::GgufAdapter { .. } => format!("LoRA adapter for {base}, as GGUF"),
            CardSubject::Model if is_merged => format!("{base} with merged LoRA adapters"),
            CardSubject::Model => format!("{base}, trained further"),
            CardSubject::Packed { form } => format!("{base} in {form}"),
            CardSubject::Gguf { .. } => format!("{base} as GGUF"),
            CardSubject::Ollama { .. } => format!("{base} for Ollama"),
        }
    }

    /// Returns the card's own hashes, and those of the files that each run read.
    fn all_hashes(&self) -> Vec<(String, String)> {
        let own = self
            .hashes
            .iter()
            .map(|(name, hash)| (name.clone(), hash.to_string()));
        let read = self
            .parts
            .iter()
            .filter_map(|part| part.run.as_ref())
            .flat_map(Trained::hashes_read);
        let mut hashes = Vec::new();
        for pair in own.chain(read) {
            if !hashes.contains(&pair) {
                hashes.push(pair);
            }
        }
        hashes
    }

    /// Returns the ids of the data sets that came from the Hub.
    fn datasets(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .parts
            .iter()
            .filter_map(|part| part.run.as_ref())
            .flat_map(Trained::hub_datasets)
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Returns which programs do not accept it as it is.
    fn portability(&self) -> Vec<String> {
        let configs = self.parts.iter().filter_map(|part| part.config.as_ref());
        configs
            .flat_map(|config| portability(&Features::of(config, None)))
            .collect()
    }
}

/// Describes the parts of embedding and head that are trained beside low-rank matrices. In a merge
/// they replace the base's.
fn tables(config: &LoraConfig) -> String {
    let saved: String = config
        .tables
        .saved
        .iter()
        .map(|name| format!(" {} is trained whole.", code(name)))
        .collect();
    let rows = |of: &str, tokens: &[u32]| {
        format!(" Of {of} the rows of {} tokens are trained.", tokens.len())
    };
    let tokens = match &config.tables.tokens {
        None => String::new(),
        Some(TokenIndices::Embedding(tokens)) => rows("the embedding", tokens),
        Some(TokenIndices::Modules(named)) => named
            .iter()
            .map(|(name, tokens)| rows(&code(name), tokens))
            .collect(),
    };
    saved + &tokens
}

impl TrainedPart {
    fn text(&self) -> String {
        let weight = self
            .weight
            .map_or_else(String::new, |weight| format!(", weight {weight}"));
        let head = self.name.as_ref().map_or_else(String::new, |name| {
            format!("## Adapter {}{weight}\n\n", code(name))
        });
        let config = self.config.as_ref().map_or_else(String::new, |config| {
            let scale = if config.use_rslora {
                "alpha / sqrt(r)"
            } else {
                "alpha / r"
            };
            let (rank, alpha, tables) = (config.rank, config.alpha, tables(config));
            let vector = match config.vector {
                Some(AdapterVector::Magnitude) => {
                    ", with the magnitudes of DoRA (arXiv:2402.09353)"
                }
                Some(AdapterVector::Bias) => ", with biases of B",
                None => "",
            };
            format!(
                "Low-rank adapters (arXiv:2106.09685) of rank {rank}, alpha {alpha}, scaled by \
                {scale}{vector}.{tables}\n\n"
            )
        });
        let level = if self.name.is_some() { "###" } else { "##" };
        let unknown = || {
            "No lock of a run lay above it: what it was trained on is not known here.\n\n"
                .to_owned()
        };
        format!(
            "{head}{config}{}",
            self.run
                .as_ref()
                .map_or_else(unknown, |run| run.text(level))
        )
    }
}
