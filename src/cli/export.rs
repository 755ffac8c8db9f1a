//! `rankine export`: writes a model or an adapter as the files that another program reads.

mod options;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use indicatif::HumanBytes;
use serde_json::{Value, json};

pub(super) use self::options::ExportArgs;
use self::options::{
    ADAPTER_FILE, ExportForm, MODEL_FILE, check_model_options, check_options, judge,
};
use super::merge::{LEFTOVER, interrupt};
use super::{Failure, print};
use crate::adapter::peft;
use crate::data::template::Sources;
use crate::export::gguf::{self, Written, write_gguf_adapter, write_gguf_model};
use crate::export::merge::{Tally, check_tables};
use crate::export::ollama::{Proof, prove_with, write_ollama};
use crate::export::{write_folder, write_mlx, write_peft};
use crate::files::{self, remove_leftovers, write_all, write_atomic};
use crate::report::{Reporter, Terminal};
use crate::run::{Artifact, Made, base_with, folder_above, report_notes};

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
