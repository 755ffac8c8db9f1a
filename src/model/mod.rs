//! The decoder, described by data: a family's file turns config.json into a [`DecoderSpec`], and
//! `load` fills a [`Decoder`].

mod assemble;
mod block;
mod block_io;
mod changed;
mod companion_files;
mod config;
mod convolution;
mod decoder;
mod drawn;
mod embedding;
mod families;
mod flow;
mod frame;
pub(crate) mod gguf;
mod kv_cache;
mod layout;
mod load;
mod mixer;
mod mlp;
mod mxfp4;
mod opened;
mod past;
mod per_layer;
mod prequantized;
mod recurrent;
mod repack;
mod resized;
mod save;
mod spec;
mod storage;
mod stored_scores;
mod transpose;
mod weights;

use std::path::PathBuf;

pub use assemble::PIECE_BYTES;
pub use block::Block;
pub use block_io::{BlockInput, BlockOutput, KeyValueRows};
pub use changed::Change;
pub use companion_files::{CHAT_TEMPLATE, CompanionFiles, OwnHead, OwnVocabulary};
pub use decoder::{Decoder, Place};
pub use embedding::Untrained;
pub use flow::Context;
pub use frame::Frame;
pub use gguf::{ArchitectureError, base_folder, base_folder_in, gguf_paths, is_base, user_path};
pub use kv_cache::Cache;
pub use layout::{
    EXPERT_STACKS, EXPERTS, LinearKind, LinearSpec, Names, PER_LAYER_PROJECTION, Role, Slice,
    WeightOrder,
};
pub use load::Folder;
pub use repack::{Repacking, Target};
pub use resized::{NewRow, NewRows};
pub use spec::{
    ConvolutionSpec, DecoderSpec, EmbeddingNorm, ExpertForm, ExpertsSpec, GatedAndExpertsSpec,
    GatedSpec, GroupedSpec, KeyValues, LatentSpec, LayerSpec, MixerSpec, MlpSpec, Modules,
    NormKind, NormPlacement, OutputGate, PerLayerInputSpec, PlainActivation, PlainSpec,
    QueryKeyNorm, RecurrentSpec, ScoreLayerSpec, ScoreSpec, ScoringSpec, SharedExpertSpec,
    StackNames,
};
pub use storage::Storage;
pub use stored_scores::StoredScores;
pub use weights::shard_paths;

use crate::fault::{Exit, Explain, Fault};
use crate::{files, quant};

/// The error of a base model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A safetensors file is damaged or of another type.
    #[error(transparent)]
    Safetensors(#[from] files::safetensors::SafetensorsError),
    /// A GGUF file is damaged, or its metadata are not those of a model that is known.
    #[error(transparent)]
    Gguf(#[from] files::gguf::GgufFileError),
    /// The tokenizer of a GGUF file is not known.
    #[error(transparent)]
    GgufTokenizer(#[from] crate::data::tokenizer::gguf::GgufTokenizerError),
    /// config.json is missing, not JSON, or describes something that is not supported.
    #[error("{}: {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The problem, with both sides of a mismatch.
        message: String,
        /// The next step.
        hint: Option<String>,
    },
    /// Weights are missing, left over or of another shape.
    #[error("the tensors in `{}` are not those of the model that its config.json describes: {} \
        faults", folder.display(), faults.len())]
    Tensors {
        /// The base's folder.
        folder: PathBuf,
        /// One line per tensor.
        faults: Vec<String>,
    },
    /// A weight has numbers that are too large for float16.
    #[error("tensor `{name}` has numbers beyond 65504, the largest of float16")]
    BeyondFloat16 {
        /// The tensor.
        name: String,
    },
    /// A weight cannot be packed.
    #[error("tensor `{name}` cannot be quantized: {cause}")]
    Packing {
        /// The tensor.
        name: String,
        /// The cause.
        cause: quant::QuantError,
    },
    /// The folder has no weights in a supported format.
    #[error(
        "`{}` has no model.safetensors and no model.safetensors.index.json{found}",
        folder.display()
    )]
    NoWeights {
        /// The base's folder.
        folder: PathBuf,
        /// The files that are there instead.
        found: String,
    },
}

impl Explain for ModelError {
    fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::Safetensors(error) => error.exit(),
            Self::Gguf(error) => error.exit(),
            Self::GgufTokenizer(error) => error.exit(),
            _ => Exit::Input,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Safetensors(error) => error.hint(),
            Self::Gguf(error) => error.hint(),
            Self::GgufTokenizer(error) => error.hint(),
            Self::Config { hint, .. } => hint.clone(),
            Self::Tensors { .. } => Some(
                "compare the folder with its origin: a shard may be missing or config.json be \
                another model's"
                    .into(),
            ),
            Self::BeyondFloat16 { .. } => Some(
                "keep the base in `float32`: `model_dtype` of a recipe, `--model-dtype` of a \
                command"
                    .into(),
            ),
            Self::Packing { .. } => Some(
                "its file is damaged, or its training diverged: compare the folder with its origin"
                    .into(),
            ),
            Self::NoWeights { .. } => Some(
                "convert the weights to safetensors; pickle files can run code and are refused"
                    .into(),
            ),
        }
    }

    fn faults(&self) -> Vec<Fault> {
        let head = Fault {
            place: None,
            message: self.to_string(),
            hint: self.hint(),
        };
        match self {
            Self::Tensors { faults, .. } => files::listed(faults)
                .into_iter()
                .map(Fault::new)
                .chain([head])
                .collect(),
            _ => vec![head],
        }
    }
}
