//! The frame of a prompt: the text around a user's words, which should match the one in training.

use crate::terms::{Format, Term};

/// The frame of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// No frame: the model continues the text.
    Text,
    /// Alpaca's instruction frame.
    Instruction,
    /// The base's chat template.
    Chat,
}

impl Frame {
    /// Returns the frame in which rows of a format are trained.
    pub fn of(format: Format) -> Self {
        match format {
            Format::Text
            | Format::Completion
            | Format::Preference
            | Format::Unpaired
            | Format::Retrieval
            | Format::Classification => Self::Text,
            Format::Instruction => Self::Instruction,
            Format::Chat => Self::Chat,
        }
    }

    /// The option of `generate` that selects this frame.
    pub fn option(self) -> &'static str {
        match self {
            Self::Text => "--prompt",
            Self::Instruction => "--instruction",
            Self::Chat => "--chat",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Text => "as a bare text",
            Self::Instruction => "in Alpaca's frame",
            Self::Chat => "in a chat template",
        }
    }

    /// Returns a message if the model was trained on rows of these formats and has not learned to
    /// answer in this frame. Returns `None` if nothing is known of its training.
    pub fn mismatch(self, trained: &[Format]) -> Option<String> {
        let first = trained
            .first()
            .filter(|_| trained.iter().all(|format| Self::of(*format) != self))?;
        let option = Self::of(*first).option();
        let (formats, asked) = (listed(trained), self.words());
        Some(format!(
            "trained on {formats}, asked {asked}; ask as it was trained with `rankine \
            generate {option} TEXT`"
        ))
    }
}

/// Lists formats by the recipe's names, each once.
pub fn listed(formats: &[Format]) -> String {
    let words = Format::WORDS
        .iter()
        .filter(|(_, format)| formats.contains(format));
    words
        .map(|(word, _)| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_was_not_trained_is_told_with_the_one_that_was() {
        use Format::{Chat, Completion, Instruction, Text};
        let chat = |trained: &[Format]| Frame::Chat.mismatch(trained);
        let expected = "trained on `instruction`, asked in a chat template; ask as it was trained \
            with `rankine generate --instruction TEXT`";
        assert_eq!(chat(&[Instruction, Instruction]).as_deref(), Some(expected));
        assert!(
            chat(&[Completion, Text])
                .is_some_and(|said| said.starts_with("trained on `text`, `completion`, asked in"))
        );
        assert_eq!(
            [chat(&[]), chat(&[Chat]), chat(&[Instruction, Chat])],
            [None, None, None]
        );
        assert!(
            Frame::Instruction
                .mismatch(&[Chat])
                .is_some_and(|said| said.contains("asked in Alpaca's frame"))
        );
        assert_eq!(Frame::Text.mismatch(&[Completion]), None);
    }
}
