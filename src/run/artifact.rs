//! An adapter, alone or in a run or checkpoint, or a model's folder, and what an export needs of
//! it.
//! An adapter is merged if the target needs a model.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::base::{
    base_of_run, find_adapter, find_base, lock_above, lock_of_model, no_folder, own_tokenizer,
    template_sources, trained_formats,
};
use super::card::run_of;
use super::lock::Lock;
use super::merge::{addend_of, folder_above, packed_lock};
use crate::adapter::{self, peft};
use crate::data::template::Sources;
use crate::data::tokenize::Tokenizer;
use crate::data::tokenizer_files::TokenizerFiles;
use crate::export::card::{Base, Card, CardSubject, TrainedPart, code};
use crate::export::gguf::GgmlType;
use crate::export::merge::{
    GgufNumbers, MergeRequest, Onto, OtherBase, Tally, check_no_score, merge,
};
use crate::export::ollama::Proof;
use crate::fault::{Exit, Failure, Fault};
use crate::files::{self, Float, temporary_folder_in, write_atomic};
use crate::hub::stores::is_stored_name;
use crate::infer::{Frame, listed_formats};
use crate::model::{CHAT_TEMPLATE, Folder, base_folder, is_base};
use crate::plan::hub_id;
use crate::report::{Event, Reporter};
use crate::train::RunFolder;

/// A trained adapter or model, by its folder.
#[derive(Debug)]
pub enum Artifact {
    /// A model in Hugging Face's format.
    Model(PathBuf),
    /// An adapter in PEFT's format.
    Adapter(PathBuf),
}

/// Folder of a model, which may be temporary.
#[derive(Debug)]
pub struct Made {
    /// The path.
    pub folder: PathBuf,
    /// Statistics of the merge, if an adapter was merged.
    pub tally: Option<Tally>,
    _temporary: Option<TempDir>,
}

impl Artifact {
    /// Finds the model or adapter in a folder.
    pub fn find(folder: &Path) -> Result<Self, Failure> {
        let model_of_run = folder.join(RunFolder::MODEL);
        if let Some(adapter) = RunFolder::adapter_in(folder) {
            return Ok(Self::Adapter(adapter));
        }
        match () {
            () if !folder.is_dir()
                && (is_base(folder)
                    || folder
                        .to_str()
                        .is_some_and(|name| is_stored_name(name) || hub_id(name).is_some())) =>
            {
                Self::find(&find_base(Some(folder), None)?)
            }
            () if !folder.is_dir() => {
                let hint = "give the folder of a model, a run, a checkpoint or an adapter, or a \
                    Hub id that was pulled";
                Err(no_folder("", folder, "a folder or a Hub id", hint))
            }
            () if peft::is_of_mlx(folder) => Err(adapter::AdapterError::OfMlx {
                folder: folder.display().to_string(),
            }
            .into()),
            () if model_of_run.is_dir() => Ok(Self::Model(model_of_run)),
            () => Ok(Self::Model(folder.to_owned())),
        }
    }

    /// Returns the folder of the adapter.
    pub fn adapter(&self) -> Result<&Path, Failure> {
        match self {
            Self::Adapter(folder) => Ok(folder),
            Self::Model(folder) => find_adapter(folder).map(|_| folder.as_path()),
        }
    }

    /// Returns the folder of the base, or of the model itself.
    pub fn base(&self, named: Option<&Path>) -> Result<PathBuf, Failure> {
        match self {
            Self::Adapter(adapter) => find_base(named, Some(adapter)),
            Self::Model(folder) => Ok(folder.clone()),
        }
    }

    /// Returns a note for whoever serves the export, if its training rows were not in the chat
    /// template that is exported.
    pub fn elsewhere_trained(&self) -> Option<String> {
        let (Self::Model(folder) | Self::Adapter(folder)) = self;
        let formats = trained_formats(folder);
        Frame::Chat.mismatch(&formats)?;
        let formats = listed_formats(&formats);
        Some(format!(
            "the chat template goes along, in which programs ask; what is in here was trained on \
            {formats}: put the frame of those rows around what you ask"
        ))
    }

    /// Returns the template of its training conversations, if it differs from the base's own.
    pub fn template(&self, base: &Path, named: Option<&Path>) -> Result<Option<Sources>, Failure> {
        let adapter = match self {
            Self::Adapter(adapter) => Some(adapter.as_path()),
            Self::Model(_) => None,
        };
        let (sources, is_own) = template_sources(named, adapter, &self.tokenizer(base)?)?;
        Ok(sources.filter(|_| is_own))
    }

    /// Returns the tokenizer of its training.
    pub fn tokenizer(&self, base: &Path) -> Result<Tokenizer, Failure> {
        let adapter = if let Self::Adapter(adapter) = self {
            Some(adapter.as_path())
        } else {
            None
        };
        Ok(Tokenizer::open_with(base, adapter)?)
    }

    /// Returns the tokenizer files that come with an adapter.
    pub fn own_tokenizer(&self, base: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failure> {
        let Self::Adapter(adapter) = self else {
            return Ok(Vec::new());
        };
        Ok(TokenizerFiles::beside(adapter, base)?
            .map(|files| files.contents())
            .unwrap_or_default())
    }

    /// Returns the card of the exported folder. With a proof, the card also says how the template
    /// was compared with the model's own.
    pub fn card(
        &self,
        base: &Path,
        subject: CardSubject,
        proof: Option<&Proof>,
    ) -> Result<Card, Failure> {
        let run = |lock: Option<PathBuf>| {
            lock.map(|path| run_of(&path, &Lock::read(&path)?))
                .transpose()
        };
        let (parts, base) = match self {
            Self::Adapter(adapter) => {
                let (config, run) = (Some(peft::read_config(adapter)?), run(lock_above(adapter))?);
                let tokenizer = own_tokenizer(base, adapter)?;
                (
                    vec![TrainedPart {
                        config,
                        run,
                        tokenizer,
                        ..TrainedPart::default()
                    }],
                    base.to_owned(),
                )
            }
            Self::Model(model) => match run(lock_of_model(model))? {
                Some(run) => {
                    let part = TrainedPart {
                        run: Some(run),
                        ..TrainedPart::default()
                    };
                    (
                        vec![part],
                        base_of_run(model)
                            .and_then(|base| base_folder(&base).ok())
                            .unwrap_or_else(|| base.to_owned()),
                    )
                }
                None => (Vec::new(), base.to_owned()),
            },
        };
        let proven = proof.map(
            |Proof {
                 name,
                 conversations,
                 stops,
                 ..
             }| {
                let stops = stops
                    .iter()
                    .map(|stop| code(stop))
                    .collect::<Vec<_>>()
                    .join(", ");
                format!(
                    "The template of the Modelfile ({name}) renders {conversations} conversations \
                    as the chat template does, byte for byte; an answer ends at {stops}."
                )
            },
        );
        Ok(Card {
            subject,
            base: Base::of(&base),
            about: proven.into_iter().collect(),
            parts,
            hashes: Vec::new(),
        })
    }

    /// Returns the model for a file of this type, with this chat template if there is one.
    ///
    /// An adapter is merged in 32 bits, so that only the file's type rounds. The merged folder lies
    /// beside `out` and is removed when the returned value is dropped.
    pub fn model(
        &self,
        base: &Path,
        template: Option<&str>,
        (out, kind): (&Path, GgmlType),
        interrupt: &AtomicBool,
        report: Reporter,
    ) -> Result<Made, Failure> {
        let Self::Adapter(adapter) = self else {
            refuse_scorer(base)?;
            return Ok(Made {
                folder: base.to_owned(),
                tally: None,
                _temporary: None,
            });
        };
        check_no_score(adapter)?;
        let above = folder_above(out);
        files::create_folder(above)?;
        let temporary = temporary_folder_in(above)
            .map_err(|cause| files::FileError::new("create a folder in", above, cause))?;
        let folder = temporary.path().join("model");
        let request = MergeRequest {
            base: base.to_owned(),
            adapters: vec![addend_of(adapter.clone(), 1.0)?],
            out: folder.clone(),
            float: Some(Float::F32),
            other_base: OtherBase::Refuse,
            onto: Onto::Stored,
            counts_q8_0: kind == GgmlType::Q8_0,
            keeps_gguf: false,
            gguf: GgufNumbers::Own,
        };
        if packed_lock(&request.adapters[0]).is_some() {
            report(Event::Note(
                "the adapter was trained on a packed base; `rankine merge` compares merges with \
                what was trained, this one is not compared"
                    .to_owned(),
            ));
        }
        let merged = merge(&request, interrupt, report);
        report(Event::Ended);
        let tally = merged?;
        let note = if tally.added_nothing() {
            Some("the adapter adds nothing".to_owned())
        } else {
            tally.rounding_note(kind)
        };
        if let Some(note) = note {
            report(Event::Note(note));
        }
        if let Some(template) = template {
            write_atomic(&folder.join(CHAT_TEMPLATE), template.as_bytes())?;
        }
        Ok(Made {
            folder,
            tally: Some(tally),
            _temporary: Some(temporary),
        })
    }
}

/// Refuses a model with a score head, for a format of language models.
fn refuse_scorer(model: &Path) -> Result<(), Failure> {
    if !Folder::open(model)?.has_scoring_class() {
        return Ok(());
    }
    let fault = Fault::new(format!(
        "the model in `{}` has a score head, which this format has no place for",
        model.display()
    ));
    let hint = "score texts with `rankine classify`, or load the model in transformers";
    Err(Failure::new(Exit::Input, fault.hint(hint)))
}
