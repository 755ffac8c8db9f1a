//! `rankine export`: a model, or an adapter alone, as a file that llama.cpp and what is built on it read.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::json;

use super::base::{check_adapter, find_base, lock_above};
use super::card::run_of;
use super::{Failure, print};
use crate::adapter::peft;
use crate::export::card::{Artefact, Base, Card, Part};
use crate::export::gguf::{Kind, write_gguf_adapter, write_gguf_folder, write_gguf_model};
use crate::plan::Lock;
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The folder of the model, or of the adapter
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    to: Form,
    /// The file, which may not exist yet; with a `/` at its end a folder, with a card and the base's licences beside the file
    #[arg(long, value_name = "FILE|FOLDER/")]
    out: PathBuf,
    /// The type of a model's matrices; an adapter's stay in f32
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    dtype: Dtype,
    /// The folder of an adapter's base, in place of the one that it names
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A model as one GGUF file
    Gguf,
    /// An adapter as a GGUF file of its own, for `--lora` beside its base
    GgufAdapter,
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
    fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::F32,
            Self::F16 => Kind::F16,
            Self::Bf16 => Kind::Bf16,
            Self::Q8_0 => Kind::Q8_0,
        }
    }
}

pub(super) fn export(args: &ExportArgs, terminal: &Terminal) -> Result<(), Failure> {
    let (from, report) = (&args.from, |event| terminal.take(&event));
    let base = match args.to {
        Form::Gguf => find_base(Some(from), None)?,
        Form::GgufAdapter => {
            check_adapter(from)?;
            find_base(args.base.as_deref(), Some(from))?
        }
    };
    let write = |path: &Path| match args.to {
        Form::Gguf => write_gguf_model(&base, path, args.dtype.kind(), &report),
        Form::GgufAdapter => write_gguf_adapter(from, &base, path, &report),
    };
    let out = &args.out;
    let written = if out.as_os_str().as_encoded_bytes().ends_with(b"/") {
        let (file, about) = about(args, &base)?;
        write_gguf_folder(out, file, &base, about, write)
    } else {
        write(out)
    };
    terminal.stop();
    let (written, shown) = (written?, out.display());
    if args.json {
        return print(json!({"out": shown.to_string(), "tensors": written.tensors, "bytes": written.bytes}));
    }
    print(format_args!("{shown}  {} tensors, {}", written.tensors, HumanBytes(written.bytes)))
}

/// The name of the file in its folder, and what its card says before it is written.
fn about(args: &ExportArgs, base: &Path) -> Result<(&'static str, Card), Failure> {
    let (file, artefact, parts) = match args.to {
        Form::Gguf => {
            let is_quantised = args.dtype == Dtype::Q8_0;
            ("model.gguf", Artefact::Gguf { file: "model.gguf".to_owned(), is_quantised }, Vec::new())
        }
        Form::GgufAdapter => {
            let run = lock_above(&args.from).map(|path| run_of(&path, &Lock::read(&path)?)).transpose()?;
            let part = Part { config: Some(peft::read_config(&args.from)?), run, ..Part::default() };
            ("adapter.gguf", Artefact::GgufAdapter { file: "adapter.gguf".to_owned() }, vec![part])
        }
    };
    Ok((file, Card { artefact, base: Base::of(base), about: Vec::new(), parts, hashes: Vec::new() }))
}
