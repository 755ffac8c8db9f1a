//! Shared parts of `generate` and `chat`: the model with its adapter, the sampling options, and
//! text streamed to stdout.

use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;

use super::base::{
    base_with, find_adapter, find_base, read_adapter, storage_of_run, template_sources,
    trained_formats,
};
use super::gradcheck::is_proven;
use super::interrupt::Interrupt;
use super::{Failure, print};
use crate::adapter::attach;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::Tokenizer;
use crate::fault::{Exit, Fault, printable};
use crate::infer::{Frame, GenerateConfig, Generated, Sampling, TextStream, generate, stops};
use crate::model::{Cache, Decoder};
use crate::plan::leftover_note;
use crate::report::Terminal;
use crate::terms::Format;
use crate::{device, files, terms};

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

#[derive(Debug, Args)]
pub(super) struct SamplingArgs {
    /// Tokens of an answer at most
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    max_tokens: u32,
    /// What logits are divided by; 0: the likeliest token always
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = from_zero)]
    temperature: f64,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f64>,
    /// Draw from so many of the likeliest tokens
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// What logits of tokens that are there already are divided by
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

fn above_zero(text: &str) -> Result<f64, String> {
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
            seed: self.seed.unwrap_or(42),
        })
    }
}

/// A loaded model with its tokenizer and sampling rule.
#[derive(Debug)]
pub(super) struct LoadedModel {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    /// Formats of the rows it was trained on, if known.
    pub trained: Vec<Format>,
    config: GenerateConfig,
}

/// An answer and its text.
#[derive(Debug)]
pub(super) struct Answer {
    pub generated: Generated,
    pub text: String,
}

impl LoadedModel {
    /// Loads the base and attaches the adapter. Everything else is checked first.
    pub fn open(
        model: &ModelArgs,
        sampling: &SamplingArgs,
        terminal: &Terminal,
    ) -> Result<Self, Failure> {
        let sampling_rule = sampling.sampling()?;
        let adapter = model.adapter.as_deref().map(find_adapter).transpose()?;
        let base = find_base(model.base.as_deref(), adapter.as_deref())?;
        let folder = base_with(&base, adapter.as_deref())?;
        let tokenizer = Tokenizer::open_with(&base, adapter.as_deref())?;
        let leftover = folder.leftover_quantization.as_deref().map(leftover_note);
        let notes = leftover
            .into_iter()
            .chain(tokenizer.notes(folder.spec.vocabulary));
        notes.for_each(|note| terminal.say(&format!("note: {note}")));
        let trained = trained_formats(adapter.as_deref().unwrap_or(&base));
        let (sources, _) = template_sources(
            model.chat_template.as_deref(),
            adapter.as_deref(),
            &tokenizer,
        )?;
        let started = crate::plan::now().map_err(|fault| Failure::new(Exit::Input, fault))?;
        let template = sources
            .map(|sources| ChatTemplate::of(&sources, tokenizer.special(), started))
            .transpose()?;
        let storage = adapter
            .as_deref()
            .map_or(terms::ModelDtype::Auto.into(), storage_of_run);
        let adapter = adapter
            .map(|adapter| read_adapter(&adapter, &folder.spec.modules(), terminal))
            .transpose()?;
        device::set_threads(0);
        let chosen = device::choose(terms::Device::Auto, &is_proven).device;
        let (device, storage) = (
            device::open(chosen)?,
            folder.kept_in(storage, device::halves(chosen))?,
        );
        let mut decoder = folder.load(storage, &device, &|event| terminal.take(&event))?;
        if let Some((config, numbers)) = adapter {
            attach(&mut decoder, &config, 0, Some(&numbers))?;
        }
        terminal.stop();
        let stops = stops(&tokenizer, template.as_ref());
        let config = GenerateConfig {
            max_tokens: sampling.max_tokens as usize,
            sampling: sampling_rule,
            stops,
        };
        Ok(Self {
            decoder,
            tokenizer,
            template,
            trained,
            config,
        })
    }

    /// Continues from `prompt`. `show` receives the text as it is generated, after the text of
    /// `context`.
    pub fn answer(
        &self,
        cache: &mut Cache,
        prompt: &[u32],
        context: &[u32],
        interrupt: &Interrupt,
        mut show: impl FnMut(&str) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<Answer, Failure> {
        let (mut stream, mut text, mut failed) = (
            TextStream::after(&self.tokenizer, context),
            String::new(),
            None,
        );
        let mut take = |new: String| {
            let shown = show(&new);
            text.push_str(&new);
            shown
        };
        let mut each = |token| {
            let shown = stream
                .push(token)
                .map_err(Failure::from)
                .and_then(&mut take);
            match shown {
                Ok(ControlFlow::Continue(())) if !interrupt.is_raised() => {
                    ControlFlow::Continue(())
                }
                Ok(_) => ControlFlow::Break(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        };
        let generated = generate(&self.decoder, cache, prompt, &self.config, &mut each)?;
        if let Some(failure) = failed {
            return Err(failure);
        }
        let _ = take(stream.finish()?)?;
        Ok(Answer { generated, text })
    }

    /// Notes a prompt whose frame differs from that of the training rows.
    pub fn note_mismatch(&self, frame: Frame, terminal: &Terminal) {
        if let Some(mismatch) = frame.mismatch(&self.trained) {
            terminal.say(&format!("note: {mismatch}"));
        }
    }

    /// Describes the sampling rule in words.
    pub fn rule(&self) -> String {
        let Sampling {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            seed,
        } = self.config.sampling;
        let is_drawn = temperature > 0.0;
        let words = [
            Some(if is_drawn {
                format!("temperature {temperature}")
            } else {
                "greedy (temperature 0)".to_owned()
            }),
            (is_drawn && top_p < 1.0).then(|| format!("top-p {top_p}")),
            (is_drawn && top_k > 0).then(|| format!("top-k {top_k}")),
            (repetition_penalty.to_bits() != 1_f64.to_bits())
                .then(|| format!("repetition penalty {repetition_penalty}")),
            is_drawn.then(|| format!("seed {seed}")),
            Some(format!(
                "at most {} tokens an answer",
                self.config.max_tokens
            )),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Returns the most tokens of an answer.
    pub fn max_tokens(&self) -> usize {
        self.config.max_tokens
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
