//! Checks that prompt frames match: those of the rows, of the base's chat template, and of the
//! sample prompts.

use super::resolve::Plan;
use crate::data::{DataSource, any_rendered};
use crate::infer::{Frame, listed_formats};
use crate::terms::{Format, Term};

fn is_rendered(source: &DataSource) -> bool {
    any_rendered(&source.files, source.format, &source.columns)
}

impl Plan {
    /// Returns the formats of the training rows.
    pub fn trained_formats(&self) -> Vec<Format> {
        let format = |source: &DataSource| {
            if is_rendered(source) {
                Format::Chat
            } else {
                source.format
            }
        };
        self.sources.iter().map(format).collect()
    }

    /// Returns notes on rows that are trained in a frame other than the base's, and on prompts in a
    /// frame other than that of the rows.
    pub(super) fn notes_of_frames(&self) -> Vec<String> {
        let framed = [
            Format::Completion,
            Format::Instruction,
            Format::Preference,
            Format::Unpaired,
        ];
        let of_rows = framed
            .into_iter()
            .filter_map(|format| self.beside_template(format));
        of_rows.chain(self.prompts_elsewhere()).collect()
    }

    fn beside_template(&self, format: Format) -> Option<String> {
        let is_asked_in_template =
            self.encoder.tokenizer.chat_template().is_some() || self.chat_template.is_some();
        let named = self.sources.iter().enumerate().filter(|(_, source)| {
            is_asked_in_template && source.format == format && !is_rendered(source)
        });
        let named: Vec<String> = named
            .map(|(index, _)| format!("datasets.{index}"))
            .collect();
        let frame = if format == Format::Instruction {
            "in Alpaca's frame"
        } else {
            "without a frame"
        };
        let (word, option) = (format.word(), Frame::of(format).option());
        let instead = if format.is_of_preferences() {
            "give lists of messages in place of texts"
        } else {
            "train it as `format: chat`"
        };
        let told = || {
            format!(
                "{}: rows of `{word}` are trained {frame}, not in the base's chat template: ask \
                for what they teach with `rankine generate {option}`, or {instead}",
                named.join(", ")
            )
        };
        (!named.is_empty()).then(told)
    }

    fn prompts_elsewhere(&self) -> Option<String> {
        let frame = self.prompts.first()?.frame;
        let others: Vec<Format> = self
            .trained_formats()
            .into_iter()
            .filter(|format| Frame::of(*format) != frame)
            .collect();
        let asked = match frame {
            Frame::Text => "as bare texts",
            Frame::Instruction => "in Alpaca's frame",
            Frame::Chat => "in the chat template",
        };
        let told = || {
            format!(
                "`evaluation.prompts` are asked {asked}, rows of {} are trained in another frame",
                listed_formats(&others)
            )
        };
        (!others.is_empty()).then(told)
    }
}
