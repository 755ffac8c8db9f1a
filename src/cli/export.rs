//! `rankine export`: a model, or an adapter alone, as a file that llama.cpp and what is built on it read.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use serde_json::json;

use super::base::{check_adapter, find_base};
use super::{Failure, print};
use crate::export::gguf::{Kind, write_gguf_adapter, write_gguf_model};
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The folder of the model, or of the adapter
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// What to write
    #[arg(long, value_enum)]
    to: Form,
    /// The file, which may not exist yet
    #[arg(long, value_name = "FILE")]
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
    let (from, out, report) = (&args.from, &args.out, |event| terminal.take(&event));
    let written = match args.to {
        Form::Gguf => write_gguf_model(&find_base(Some(from), None)?, out, args.dtype.kind(), &report),
        Form::GgufAdapter => {
            check_adapter(from)?;
            write_gguf_adapter(from, &find_base(args.base.as_deref(), Some(from))?, out, &report)
        }
    };
    terminal.stop();
    let (written, shown) = (written?, out.display());
    if args.json {
        return print(json!({"out": shown.to_string(), "tensors": written.tensors, "bytes": written.bytes}));
    }
    print(format_args!("{shown}  {} tensors, {}", written.tensors, HumanBytes(written.bytes)))
}
