//! `rankine quantize`: quantizes a model as bitsandbytes does, into a folder that transformers and
//! recipes accept as a base.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use clap::{ArgAction, Args};
use indicatif::HumanBytes;
use serde_json::json;

use super::merge::{LEFTOVER, interrupt};
use super::{Failure, print};
use crate::export::card::{Base, Card, CardSubject};
use crate::export::{RepackError, repack, repacked_bytes, write_folder};
use crate::fault::{Exit, Fault};
use crate::files::{check_space, create_folder, remove_leftovers};
use crate::model::{Folder, Target};
use crate::quant::{BlockSize, QuantFormat};
use crate::report::Terminal;
use crate::run::{find_base, folder_above};
use crate::terms::{Quantization, Term};

#[derive(Debug, Args)]
pub(super) struct QuantizeArgs {
    /// The folder of a model, or a Hub id that was pulled
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The folder of the quantized model, which may not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How projections are quantized: `nf4`, `fp4` or `int8`
    #[arg(long, value_name = "FORM", default_value = "nf4", value_parser = parse_form)]
    quantization: Quantization,
    /// Whether the absmax of 4-bit blocks are quantized too (true)
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    double_quant: Option<bool>,
    /// Numbers of a 4-bit block, a power of 2 from 32 to 4096 (64)
    #[arg(long, value_name = "NUMBERS")]
    block_size: Option<usize>,
    /// Also quantize an output head that is not tied to the embedding
    #[arg(long)]
    quantize_head: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_form(word: &str) -> Result<Quantization, String> {
    let is_written =
        |known: &Quantization| !matches!(known, Quantization::None | Quantization::Gguf);
    let known = Quantization::parse(word).filter(is_written);
    known.ok_or_else(|| "expected `nf4`, `fp4` or `int8`".to_owned())
}

pub(super) fn quantize(args: &QuantizeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let form = args.form()?;
    if args.out.symlink_metadata().is_ok() {
        let fault = Fault::new(format!("`{}` exists", args.out.display()));
        return Err(Failure::new(
            Exit::Exists,
            fault.hint("choose another `--out`, or remove it first"),
        ));
    }
    let from = find_base(Some(&args.model), None)?;
    let folder = Folder::open(&from)?;
    if folder.stored_form()?.is_some() {
        return Err(RepackError::Packed { folder: from }.into());
    }
    if args.quantize_head && folder.spec.tied_head {
        let fault = Fault::new(
            "--quantize-head: the model has one table for its embedding and its head, which stays \
            as it is",
        );
        return Err(Failure::new(Exit::Input, fault.hint("leave it out")));
    }
    let target = Target::Packed {
        form,
        packs_head: args.quantize_head,
    };
    let above = folder_above(&args.out);
    create_folder(above)?;
    remove_leftovers(&[above], LEFTOVER)?;
    check_space(above, repacked_bytes(&from, target)?)?;
    let about = format!(
        "Its projections{} are packed as bitsandbytes packs them, {form}; all else is as it was.",
        args.head()
    );
    let subject = CardSubject::Packed {
        form: form.to_string(),
    };
    let card = Card {
        subject,
        base: Base::of(&from),
        about: vec![about],
        parts: Vec::new(),
        hashes: Vec::new(),
    };
    let interrupt = interrupt(&args.out)?;
    let fill = |new: &Path| {
        repack(&from, target, new, &interrupt, &|event| {
            terminal.take(&event);
        })
    };
    let written = write_folder(&args.out, &from, card, |new| {
        let written = fill(new)?;
        // Before the folder gets its name.
        if interrupt.load(Relaxed) {
            Err(RepackError::Stopped)
        } else {
            Ok(written)
        }
    });
    terminal.stop();
    let written = written?;
    let shown = args.out.display().to_string();
    if args.json {
        let object = json!({
            "out": shown,
            "form": form.to_string(),
            "tensors": written.tensors,
            "bytes": written.bytes,
            "bytes_before": written.before,
        });
        return print(object);
    }
    print(format_args!(
        "packed model  {shown} ({}, before {})",
        HumanBytes(written.bytes),
        HumanBytes(written.before)
    ))?;
    print(format_args!("form          {form}{}", args.head()))
}

impl QuantizeArgs {
    fn form(&self) -> Result<QuantFormat, Failure> {
        if self.quantization == Quantization::Int8
            && (self.double_quant.is_some() || self.block_size.is_some())
        {
            let fault = Fault::new(
                "--double-quant and --block-size are of 4-bit blocks, and `int8` has rows",
            );
            return Err(Failure::new(
                Exit::Usage,
                fault.hint("leave them out, or choose `nf4` or `fp4`"),
            ));
        }
        let block_size = self
            .block_size
            .map_or(Ok(BlockSize::DEFAULT), BlockSize::new);
        let block_size = block_size.map_err(|error| {
            Failure::new(Exit::Usage, Fault::new(format!("--block-size: {error}")))
        })?;
        let form = QuantFormat::of(
            self.quantization,
            block_size,
            self.double_quant.unwrap_or(true),
        );
        Ok(form.expect("`none` and `gguf` are not among the words"))
    }

    fn head(&self) -> &'static str {
        if self.quantize_head {
            " and the head"
        } else {
            ""
        }
    }
}
