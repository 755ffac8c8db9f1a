//! The options of `rankine export`, and what refuses them before anything is written.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::Failure;
use crate::cli::consumers::ConsumerArgs;
use crate::export::card::CardSubject;
use crate::export::consumers::{self, Features, findings, model_findings};
use crate::export::gguf::{GgmlType, architecture_name};
use crate::export::ollama;
use crate::fault::{Exit, Fault};
use crate::model::Folder;
use crate::report::Terminal;
use crate::run::Artifact;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// The folder of a model, a run, a checkpoint or an adapter, or a Hub id that was pulled
    #[arg(
        value_name = "DIR",
        required_unless_present = "adapter",
        conflicts_with = "adapter"
    )]
    pub(super) from: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "DIR")]
    pub(super) adapter: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    pub(super) to: ExportForm,
    /// The file or folder, which may not exist yet; with a `/` at the end, a GGUF file goes into a
    /// folder with a card and the base's licenses
    #[arg(long, value_name = "PATH|FOLDER/")]
    pub(super) out: PathBuf,
    /// The type of a model's matrices (f16); an adapter's stay in f32
    #[arg(long, value_enum)]
    pub(super) dtype: Option<Dtype>,
    /// The folder of an adapter's base, in place of the one that it names
    #[arg(long, value_name = "DIR")]
    pub(super) base: Option<PathBuf>,
    /// The chat template that it was trained with; without it the run's, or the base's
    #[arg(long, value_name = "FILE")]
    pub(super) chat_template: Option<PathBuf>,
    /// A Go template for Ollama, in place of those that are known; it is compared with the chat
    /// template
    #[arg(long, value_name = "FILE")]
    pub(super) template: Option<PathBuf>,
    #[command(flatten)]
    pub(super) consumers: ConsumerArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportForm {
    /// An adapter as a folder in PEFT's format
    Peft,
    /// A model as one GGUF file; an adapter is merged first
    Gguf,
    /// An adapter as a GGUF file of its own, for `--lora` with a GGUF of its base
    GgufAdapter,
    /// A folder for `ollama create`: a GGUF model and a Modelfile; an adapter is merged first
    Ollama,
    /// An adapter as a folder for mlx-lm
    Mlx,
}

impl ExportForm {
    fn given(self) -> consumers::ShippedForm {
        match self {
            Self::Peft => consumers::ShippedForm::Peft,
            Self::Gguf => consumers::ShippedForm::Gguf,
            Self::GgufAdapter => consumers::ShippedForm::GgufAdapter,
            Self::Ollama => consumers::ShippedForm::Ollama,
            Self::Mlx => consumers::ShippedForm::Mlx,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Dtype {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6K,
    #[value(name = "q5_k_m")]
    Q5KM,
    #[value(name = "q4_k_m")]
    Q4KM,
    #[value(name = "q4_0")]
    Q4_0,
}

impl Dtype {
    fn kind(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::Bf16,
            Self::Q8_0 => GgmlType::Q8_0,
            Self::Q6K => GgmlType::Q6K,
            Self::Q5KM => GgmlType::Q5KM,
            Self::Q4KM => GgmlType::Q4KM,
            Self::Q4_0 => GgmlType::Q4_0,
        }
    }
}

/// Name of the GGUF file in a folder.
pub(super) const MODEL_FILE: &str = "model.gguf";
/// Name of an adapter's.
pub(super) const ADAPTER_FILE: &str = "adapter.gguf";

impl ExportForm {
    /// Returns whether a whole model is written.
    pub fn is_model(self) -> bool {
        matches!(self, Self::Gguf | Self::Ollama)
    }
}

impl ExportArgs {
    pub fn kind(&self) -> GgmlType {
        self.dtype.unwrap_or(Dtype::F16).kind()
    }

    /// Returns what the card of the folder describes.
    pub fn subject(&self) -> CardSubject {
        match self.to {
            ExportForm::Peft => CardSubject::Adapter,
            ExportForm::Mlx => CardSubject::Mlx,
            ExportForm::Gguf => CardSubject::Gguf {
                file: MODEL_FILE.to_owned(),
                is_quantized: self.kind().is_quantized(),
            },
            ExportForm::GgufAdapter => CardSubject::GgufAdapter {
                file: ADAPTER_FILE.to_owned(),
            },
            ExportForm::Ollama => CardSubject::Ollama {
                file: ollama::WEIGHTS.to_owned(),
            },
        }
    }
}

/// Refuses options that would be ignored and an output that exists, before anything is read.
pub(super) fn check_options(args: &ExportArgs) -> Result<(), Failure> {
    if args.template.is_some() && args.to != ExportForm::Ollama {
        let fault = Fault::new("--template: only `--to ollama` has a Go template");
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("name the model's own template with `--chat-template`"),
        ));
    }
    let refused =
        |message: &str, hint: &str| Err(Failure::new(Exit::Usage, Fault::new(message).hint(hint)));
    if args.dtype.is_some() && !args.to.is_model() {
        return refused(
            "--dtype: an adapter's matrices stay as they are",
            "leave it out, or export a model: `--to gguf`",
        );
    }
    if args.chat_template.is_some() && !args.to.is_model() {
        return refused(
            "--chat-template: an adapter's files have none",
            "leave it out, or export a model: `--to gguf`",
        );
    }
    // A file or a dangling link also counts as existing, with or without a trailing `/`.
    if args
        .out
        .components()
        .collect::<PathBuf>()
        .symlink_metadata()
        .is_ok()
    {
        let fault = Fault::new(format!("`{}` exists", args.out.display()));
        return Err(Failure::new(
            Exit::Exists,
            fault.hint("choose another `--out`, or remove it first"),
        ));
    }
    Ok(())
}

/// Refuses options that apply only to an adapter: a model has its base and template in its folder.
pub(super) fn check_model_options(args: &ExportArgs, shipped: &Artifact) -> Result<(), Failure> {
    let Artifact::Model(folder) = shipped else {
        return Ok(());
    };
    let folder = folder.display();
    let (message, hint) = match (&args.base, &args.chat_template) {
        (Some(_), _) => (
            format!("--base: `{folder}` is a model, which has no base"),
            "leave it out, or name an adapter".to_owned(),
        ),
        (None, Some(_)) => {
            let hint = "lay the template as `chat_template.jinja` into a copy of that folder, and \
                export the copy";
            (
                format!(
                    "--chat-template: `{folder}` is a model, whose template lies in its folder"
                ),
                hint.to_owned(),
            )
        }
        (None, None) => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, Fault::new(message).hint(hint)))
}

/// Checks the export against the programs that will read the files.
pub(super) fn judge(
    args: &ExportArgs,
    shipped: &Artifact,
    terminal: &Terminal,
) -> Result<(), Failure> {
    if args.consumers.is_empty() {
        return Ok(());
    }
    let base = shipped.base(args.base.as_deref()).ok();
    let spec = base
        .as_deref()
        .and_then(|base| Folder::open(base).ok())
        .map(|folder| folder.spec);
    let architecture = spec.and_then(|spec| architecture_name(&spec).ok());
    let facts = match shipped {
        Artifact::Adapter(adapter) => Features::read(adapter, architecture)?,
        Artifact::Model(_) => Features::of_model(architecture),
    };
    args.consumers.judge(terminal, |consumer| {
        let mut found = findings(consumer, &facts, Some(args.to.given()));
        // Content of a GGUF file or a Modelfile is checked when it is written.
        if let (ExportForm::Mlx, Some(base)) = (args.to, &base) {
            found.extend(model_findings(consumer, base, (None, None)));
        }
        found
    })
}
