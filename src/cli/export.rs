//! `rankine export`: writes a model or an adapter as the files that another program reads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::consumers::ConsumerArgs;
use super::merge::{LEFTOVER, interrupt};
use super::{Failure, print};
use crate::adapter::peft;
use crate::data::template::Sources;
use crate::export::card::CardSubject;
use crate::export::consumers::{self, Features, findings, model_findings};
use crate::export::gguf::{
    self, GgmlType, Written, architecture_name, write_gguf_adapter, write_gguf_model,
};
use crate::export::merge::{Tally, check_tables};
use crate::export::ollama::{self, Proof, prove_with, write_ollama};
use crate::export::{write_folder, write_mlx, write_peft};
use crate::fault::{Exit, Fault};
use crate::files::{self, remove_leftovers, write_all, write_atomic};
use crate::model::Folder;
use crate::report::{Reporter, Terminal};
use crate::run::{Artifact, Made, base_with, folder_above, report_notes};

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The folder of a model, a run, a checkpoint or an adapter, or a Hub id that was pulled
    #[arg(
        value_name = "DIR",
        required_unless_present = "adapter",
        conflicts_with = "adapter"
    )]
    from: Option<PathBuf>,
    /// The same, by name
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    to: ExportForm,
    /// The file or folder, which may not exist yet; a GGUF file with a `/` at the end of this is
    /// laid into a folder, with a card and the base's licenses
    #[arg(long, value_name = "PATH|FOLDER/")]
    out: PathBuf,
    /// The type of a model's matrices (f16); an adapter's stay in f32
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// The folder of an adapter's base, in place of the one that it names
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The chat template that it was trained with; without it the run's, or the base's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// A Go template for Ollama, in place of those that are known; it is compared with the chat
    /// template
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    #[command(flatten)]
    consumers: ConsumerArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportForm {
    /// An adapter as a folder in PEFT's format
    Peft,
    /// A model as one GGUF file; an adapter is merged first
    Gguf,
    /// An adapter as a GGUF file of its own, for `--lora` beside its base
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
enum Dtype {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Dtype {
    fn kind(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::Bf16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }
}

/// Name of the GGUF file in a folder.
const MODEL_FILE: &str = "model.gguf";
const ADAPTER_FILE: &str = "adapter.gguf";

pub(super) fn export(args: &ExportArgs, terminal: &Terminal) -> Result<(), Failure> {
    let from = args
        .from
        .as_ref()
        .or(args.adapter.as_ref())
        .expect("one of the two is required");
    check_options(args)?;
    let shipped = Artifact::find(from)?;
    check_model_options(args, &shipped)?;
    judge(args, &shipped, terminal)?;
    remove_leftovers(&[folder_above(&args.out)], LEFTOVER)?;
    let (base, report) = (shipped.base(args.base.as_deref())?, |event| {
        terminal.take(&event);
    });
    if let Artifact::Adapter(adapter) = &shipped {
        let modules = base_with(&base, Some(adapter))?.spec.modules();
        report_notes(adapter, &modules, &report)?;
        // These files hold only matrices, so anything else that the adapter changes would be lost.
        if matches!(args.to, ExportForm::GgufAdapter | ExportForm::Mlx) {
            check_tables(&base, adapter)?;
        }
    }
    // Without an adapter, a model's folder has its own templates.
    let has_template = args.to.is_model()
        || (args.to == ExportForm::Peft && matches!(shipped, Artifact::Adapter(_)));
    let sources = if has_template {
        shipped.template(&base, args.chat_template.as_deref())?
    } else {
        None
    };
    let template = sources.as_ref().map(Sources::default_with_variables);
    let proof = prove(args, &shipped, (&base, template.as_deref()), terminal)?;
    let elsewhere = || shipped.elsewhere_trained();
    if let Some(note) = args.to.is_model().then(elsewhere).flatten() {
        terminal.say(&format!("note: {note}"));
    }
    let interrupt = interrupt(&args.out)?;
    let made = args.to.is_model().then(|| {
        let file = (args.out.as_path(), args.kind());
        shipped.model(&base, template.as_deref(), file, &interrupt, &report)
    });
    let export = Export {
        args,
        made: made.transpose()?,
        shipped,
        base,
        sources,
        proof,
        interrupt: &interrupt,
        report: &report,
    };
    let written = export.write();
    terminal.stop();
    export.print(written?)
}

/// Compares the template for Ollama with the model's own.
fn prove(
    args: &ExportArgs,
    shipped: &Artifact,
    (base, template): (&Path, Option<&str>),
    terminal: &Terminal,
) -> Result<Option<Proof>, Failure> {
    if args.to != ExportForm::Ollama {
        return Ok(None);
    }
    let tokenizer = shipped.tokenizer(base)?;
    let proof = prove_with(&tokenizer, (base, template), args.template.as_deref())?;
    for note in &proof.notes {
        terminal.say(&format!("note: {note}"));
    }
    Ok(Some(proof))
}

/// An export whose parts are read.
struct Export<'a> {
    args: &'a ExportArgs,
    shipped: Artifact,
    base: PathBuf,
    /// The chat template, if the form has one.
    sources: Option<Sources>,
    /// The comparison of Ollama's template with it.
    proof: Option<Proof>,
    /// The model, if the form needs one.
    made: Option<Made>,
    interrupt: &'a AtomicBool,
    report: Reporter<'a>,
}

impl Export<'_> {
    /// Writes the file or the folder.
    fn write(&self) -> Result<Written, Failure> {
        let Self { args, base, .. } = self;
        let is_folder = args.out.as_os_str().as_encoded_bytes().ends_with(b"/");
        match args.to {
            ExportForm::Gguf if !is_folder => self.write_model(&args.out),
            ExportForm::GgufAdapter if !is_folder => self.write_gguf_adapter(&args.out),
            _ => {
                let card = self
                    .shipped
                    .card(base, args.subject(), self.proof.as_ref())?;
                write_folder(&args.out, base, card, |folder| {
                    let written = self.fill(folder)?;
                    if self.interrupt.load(Relaxed) {
                        Err(gguf::GgufError::Stopped.into())
                    } else {
                        Ok(written)
                    }
                })
            }
        }
    }

    /// Writes the files of a folder, except its card and licenses.
    fn fill(&self, folder: &Path) -> Result<Written, Failure> {
        let Self { args, shipped, .. } = self;
        match args.to {
            ExportForm::Peft | ExportForm::Mlx => {
                if args.to == ExportForm::Peft {
                    write_all(folder, &shipped.own_tokenizer(&self.base)?)?;
                }
                for (name, source) in self.sources.iter().flat_map(Sources::files) {
                    write_template(&folder.join(name), &source)?;
                }
                write_adapter(args, shipped.adapter()?, &self.base, folder)
            }
            ExportForm::GgufAdapter => self.write_gguf_adapter(&folder.join(ADAPTER_FILE)),
            ExportForm::Gguf => self.write_model(&folder.join(MODEL_FILE)),
            ExportForm::Ollama => {
                let proof = self.proof.as_ref().expect("proven for this form");
                let (model, kind) = (self.model(), args.kind());
                Ok(write_ollama(
                    model,
                    proof,
                    folder,
                    kind,
                    self.interrupt,
                    self.report,
                )?)
            }
        }
    }

    /// Returns the folder of the model.
    fn model(&self) -> &Path {
        let made = self.made.as_ref();
        &made.expect("made where a model is wanted").folder
    }

    fn write_model(&self, path: &Path) -> Result<Written, Failure> {
        let (kind, report) = (self.args.kind(), self.report);
        let written = write_gguf_model(self.model(), path, kind, self.interrupt, report);
        Ok(written?)
    }

    fn write_gguf_adapter(&self, path: &Path) -> Result<Written, Failure> {
        let (adapter, report) = (self.shipped.adapter()?, self.report);
        let written = write_gguf_adapter(adapter, &self.base, path, self.interrupt, report);
        Ok(written?)
    }

    fn print(&self, written: Written) -> Result<(), Failure> {
        let tally = self.made.as_ref().and_then(|made| made.tally.as_ref());
        print_result(self.args, written, self.proof.as_ref(), tally)
    }
}

impl ExportForm {
    /// Returns whether a whole model is written.
    fn is_model(self) -> bool {
        matches!(self, Self::Gguf | Self::Ollama)
    }
}

impl ExportArgs {
    fn kind(&self) -> GgmlType {
        self.dtype.unwrap_or(Dtype::F16).kind()
    }

    /// Returns what the card of the folder describes.
    fn subject(&self) -> CardSubject {
        match self.to {
            ExportForm::Peft => CardSubject::Adapter,
            ExportForm::Mlx => CardSubject::Mlx,
            ExportForm::Gguf => CardSubject::Gguf {
                file: MODEL_FILE.to_owned(),
                is_quantized: self.dtype == Some(Dtype::Q8_0),
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
fn check_options(args: &ExportArgs) -> Result<(), Failure> {
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
fn check_model_options(args: &ExportArgs, shipped: &Artifact) -> Result<(), Failure> {
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
fn judge(args: &ExportArgs, shipped: &Artifact, terminal: &Terminal) -> Result<(), Failure> {
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

/// Writes an adapter in the format of PEFT or mlx-lm.
fn write_adapter(
    args: &ExportArgs,
    adapter: &Path,
    base: &Path,
    folder: &Path,
) -> Result<Written, Failure> {
    let modules = base_with(base, Some(adapter))?.spec.modules();
    let named = peft::read_base(adapter)?.map_or_else(|| base.to_owned(), PathBuf::from);
    let pinned = peft::read_hub_base(adapter)?
        .filter(|id| args.to == ExportForm::Peft && id.pinned().is_some());
    let name = match pinned {
        Some(id) => id.to_string(),
        None if named.is_absolute() => name_of(&named),
        None => named.display().to_string(),
    };
    let write = if args.to == ExportForm::Mlx {
        write_mlx
    } else {
        write_peft
    };
    Ok(write(adapter, &name, &modules, folder)?)
}

/// Writes a chat template, so that programs that load the adapter render conversations as its
/// training did.
fn write_template(path: &Path, source: &str) -> Result<(), Failure> {
    let folder = path.parent().expect("a file in a folder");
    std::fs::create_dir_all(folder)
        .map_err(|cause| files::FileError::new("create", folder, cause))?;
    Ok(write_atomic(path, source.as_bytes())?)
}

/// Returns the last part of a path, after links in its parents are resolved.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn print_result(
    args: &ExportArgs,
    written: Written,
    proof: Option<&Proof>,
    tally: Option<&Tally>,
) -> Result<(), Failure> {
    let shown = args.out.display().to_string();
    if args.json {
        let mut object = json!({"out": shown, "tensors": written.tensors, "bytes": written.bytes});
        if let (Some(tally), Value::Object(object)) = (tally, &mut object) {
            object.insert("rounding".to_owned(), json!(tally.rounding_in(args.kind())));
        }
        if let (Some(proof), Value::Object(object)) = (proof, &mut object) {
            object.insert("template".to_owned(), json!(proof.name));
            object.insert("conversations".to_owned(), json!(proof.conversations));
            object.insert("stops".to_owned(), json!(proof.stops));
        }
        return print(object);
    }
    print(format_args!(
        "{shown}  {} tensors, {}",
        written.tensors,
        HumanBytes(written.bytes)
    ))?;
    match proof {
        None => Ok(()),
        Some(Proof {
            name,
            conversations,
            stops,
            ..
        }) => print(format_args!(
            "template  {name}, equal to the chat template in {conversations} \
            conversations\nstops     {}",
            stops.join("  ")
        )),
    }
}
