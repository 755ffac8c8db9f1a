//! A model that is loaded to answer prompts, with its adapter and the chat template that it was
//! trained with.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::base::{
    base_with, find_adapter, find_base, read_adapter, refuse_encoder, storage_of_run,
    template_sources, trained_formats,
};
use super::interrupt::Interrupt;
use super::self_check::is_proven;
use crate::adapter::attach;
use crate::data::Encoder;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::Tokenizer;
use crate::fault::{Exit, Failure, Fault};
use crate::infer::{Frame, GenerateConfig, Generated, Sampling, TextStream, generate, stops};
use crate::model::{Cache, Decoder};
use crate::plan::leftover_note;
use crate::report::{Event, Reporter};
use crate::terms::Format;
use crate::{device, terms};

/// Model that answers: a base, an adapter on its base, or on another one.
#[derive(Debug, Clone, Default)]
pub struct ModelChoice {
    /// The folder of the base, or a Hub id in the cache; without it that of the adapter.
    pub base: Option<PathBuf>,
    /// The adapter.
    pub adapter: Option<PathBuf>,
    /// The chat template, a file or a name; without it that of the adapter's run, or the base's.
    pub chat_template: Option<PathBuf>,
}

/// A loaded model with its tokenizer and sampling rule.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model with its adapter.
    pub decoder: Decoder,
    /// The tokenizer of its training, and the chat template, if there is one.
    pub encoder: Encoder,
    /// Formats of the rows it was trained on, if known.
    pub trained: Vec<Format>,
    config: GenerateConfig,
}

/// An answer and its text.
#[derive(Debug)]
pub struct Answer {
    /// Its tokens and why it ended.
    pub generated: Generated,
    /// Its text.
    pub text: String,
}

impl LoadedModel {
    /// Loads the base and attaches the adapter. Everything else is checked first.
    ///
    /// # Errors
    /// There is no such model, its parts do not fit each other, or it cannot be loaded.
    pub fn open(
        model: &ModelChoice,
        sampling: Sampling,
        max_tokens: usize,
        report: Reporter,
    ) -> Result<Self, Failure> {
        let adapter = model.adapter.as_deref().map(find_adapter).transpose()?;
        let base = find_base(model.base.as_deref(), adapter.as_deref())?;
        let folder = base_with(&base, adapter.as_deref())?;
        refuse_encoder(&folder, &base)?;
        let tokenizer = Tokenizer::open_with(&base, adapter.as_deref())?;
        let leftover = folder.leftover_quantization.as_deref().map(leftover_note);
        let notes = leftover
            .into_iter()
            .chain(tokenizer.notes(folder.spec.vocabulary));
        notes.for_each(|note| report(Event::Note(note)));
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
            .map(|adapter| read_adapter(&adapter, &folder.spec.modules(), report))
            .transpose()?;
        if let Some((config, _)) = &adapter
            && let Some(score) = &config.score
        {
            let fault = Fault::new(format!(
                "the adapter has a score head, `{}`: it scores texts and answers none",
                score.module
            ));
            return Err(Failure::new(
                Exit::Input,
                fault.hint("score texts with `rankine classify`"),
            ));
        }
        device::set_threads(0);
        let chosen = device::choose(terms::Device::Auto, &is_proven).device;
        let (device, storage) = (
            device::open(chosen)?,
            folder.kept_in(storage, device::halves(chosen))?,
        );
        let mut decoder = folder.load(storage, &device, report)?;
        if let Some((config, numbers)) = adapter {
            attach(&mut decoder, &config, 0, Some(&numbers))?;
        }
        report(Event::Ended);
        let stops = stops(&tokenizer, template.as_ref());
        let config = GenerateConfig {
            max_tokens,
            sampling,
            stops,
        };
        Ok(Self {
            decoder,
            encoder: Encoder {
                tokenizer,
                template,
            },
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
            TextStream::after(&self.encoder.tokenizer, context),
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

    /// Sets the seed of the draws.
    pub fn seed(&mut self, seed: u64) {
        self.config.sampling.seed = seed;
    }

    /// Reports a prompt whose frame differs from that of the training rows.
    pub fn note_mismatch(&self, frame: Frame, report: Reporter) {
        if let Some(mismatch) = frame.mismatch(&self.trained) {
            report(Event::Note(mismatch));
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
