//! Options of `generate` and `chat`: the model with its adapter and the sampling; and text that is
//! streamed to stdout.

use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, print};
use crate::fault::{Exit, Fault, printable};
use crate::files;
use crate::infer::Sampling;
use crate::report::Terminal;
use crate::run::{LoadedModel, ModelChoice, find_adapter, find_base, model_hashes};

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// The folder of the base, or a Hub id that was pulled; without it the one that the adapter was
    /// trained on
    #[arg(long, value_name = "DIR", required_unless_present = "adapter")]
    base: Option<PathBuf>,
    /// An adapter in PEFT's format: its folder, that of a run or a checkpoint, or a Hub id that was
    /// pulled
    #[arg(long, value_name = "DIR|ID")]
    adapter: Option<PathBuf>,
    /// A chat template: a file, or the name of one of the base's or of a stock template; without it
    /// the one that the adapter's run was trained with, or the base's
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
}

impl ModelArgs {
    /// Returns the hashes of the files that the model is made of.
    pub fn hashes(&self) -> Result<String, Failure> {
        let adapter = self.adapter.as_deref().map(find_adapter).transpose()?;
        let base = find_base(self.base.as_deref(), adapter.as_deref())?;
        let mut all = model_hashes(&base)?;
        if let Some(adapter) = adapter {
            all = format!("{all}, {}", model_hashes(&adapter)?);
        }
        if let Some(template) = self.chat_template.as_deref() {
            // A name is that of a stock template.
            let hash = template.is_file().then(|| files::hash_file(template));
            let hash = hash.transpose()?.map(|hash| hash.to_string());
            all = format!("{all}, {}", hash.unwrap_or(template.display().to_string()));
        }
        Ok(all)
    }

    /// Loads the model. Everything else is checked first.
    pub fn load(
        &self,
        sampling: &SamplingArgs,
        terminal: &Terminal,
    ) -> Result<LoadedModel, Failure> {
        let choice = ModelChoice {
            base: self.base.clone(),
            adapter: self.adapter.clone(),
            chat_template: self.chat_template.clone(),
        };
        let max_tokens = sampling.max_tokens as usize;
        LoadedModel::open(&choice, sampling.sampling()?, max_tokens, &|event| {
            terminal.take(&event);
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Most tokens of an answer
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_tokens: u32,
    /// Sampling temperature; 0 is greedy decoding
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = from_zero)]
    temperature: f64,
    /// Sample only from the most likely tokens whose probabilities add up to P (nucleus sampling)
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f64>,
    /// Sample only from the K most likely tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Divides the logits of tokens that are there already; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = above_zero)]
    repetition_penalty: f64,
    /// Seed of the draws [default: 42]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

fn number(text: &str, is_valid: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && is_valid(*number))
        .ok_or_else(|| format!("expected {expected}"))
}

fn from_zero(text: &str) -> Result<f64, String> {
    number(text, |number| number >= 0.0, "a number from 0")
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0, "a number above 0")
}

fn share(text: &str) -> Result<f64, String> {
    number(
        text,
        |number| number > 0.0 && number <= 1.0,
        "a number above 0, at most 1",
    )
}

impl SamplingArgs {
    /// Returns the seed of the draws.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(42)
    }

    /// Returns the sampling rule. An option that would be ignored is refused.
    fn sampling(&self) -> Result<Sampling, Failure> {
        let of_draws = [
            ("--top-p", self.top_p.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        if let Some((name, _)) = of_draws
            .into_iter()
            .find(|(_, is_said)| *is_said && self.temperature == 0.0)
        {
            let fault = Fault::new(format!(
                "{name}: nothing is drawn, because `--temperature` is 0"
            ));
            return Err(Failure::new(
                Exit::Usage,
                fault.hint("give a `--temperature` above 0, such as 0.7"),
            ));
        }
        Ok(Sampling {
            temperature: self.temperature,
            top_k: self.top_k.map_or(0, |kept| kept as usize),
            top_p: self.top_p.unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty,
            seed: self.seed(),
        })
    }
}

/// Prints text on stdout at once; on a terminal, control characters are escaped. If the reader has
/// closed the pipe, generation ends.
pub(super) fn show(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut stdout = std::io::stdout();
    let text = if stdout.is_terminal() {
        printable(text)
    } else {
        text.to_owned()
    };
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(cause) if cause.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(cause) => Err(files::FileError::new("write", Path::new("stdout"), cause).into()),
    }
}

/// Ends the line of an answer.
pub(super) fn end_line(text: &str) -> Result<(), Failure> {
    if text.ends_with('\n') {
        Ok(())
    } else {
        print("")
    }
}
