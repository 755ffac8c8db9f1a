//! `rankine chat`: a conversation of several turns, read from stdin line by line.

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::generate::note;
use super::model_args::{ModelArgs, SamplingArgs, end_line, show};
use super::typed::{Lines, Typed};
use crate::data::template::Conversation;
use crate::fault::Exit;
use crate::infer::{self, Frame, Prompt};
use crate::model::Cache;
use crate::report::Terminal;
use crate::run::{Interrupt, LoadedModel};

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// A system message, said before the first question; `/reset` keeps it
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
}

/// A line that the user typed.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    Exit,
    Unknown(&'a str),
}

pub(super) fn chat(args: &ChatArgs, terminal: &Terminal) -> Result<(), Failure> {
    let speaker = args.model.load(&args.sampling, terminal)?;
    if speaker.encoder.template.is_none() {
        return Err(infer::InferError::NoTemplate.into());
    }
    speaker.note_mismatch(Frame::Chat, &|event| terminal.take(&event));
    let opening = opening(args.system.as_deref(), &speaker, terminal)?;
    let interrupt = Interrupt::listen()?;
    let mut lines = Lines::open()?;
    terminal.say(&format!("answers: {}", speaker.rule()));
    terminal.say("`/reset` begins anew, `/exit` or the end of input leaves, Ctrl-C ends an answer");
    let mut talk = Talk {
        cache: Cache::new(&speaker.decoder),
        speaker,
        messages: opening.clone(),
    };
    loop {
        let line = match lines.next(&interrupt, terminal)? {
            Typed::Line(line) => line,
            Typed::End => return Ok(()),
            Typed::Left => return Err(Failure::quiet(Exit::Signal)),
        };
        match parse(&line) {
            Line::Nothing => {}
            Line::Say(text) => talk.say(text, &interrupt, terminal)?,
            Line::Reset => talk.messages.clone_from(&opening),
            Line::Exit => return Ok(()),
            Line::Unknown(word) => terminal.say(&format!(
                "`{word}` is not known: there are `/reset` and `/exit`"
            )),
        }
    }
}

fn parse(line: &str) -> Line<'_> {
    match line.trim() {
        "" => Line::Nothing,
        "/reset" => Line::Reset,
        "/exit" => Line::Exit,
        text if text.starts_with('/') && !text.contains(char::is_whitespace) => Line::Unknown(text),
        text => Line::Say(text),
    }
}

/// Returns the messages before the first question. A template that drops or refuses a system
/// message is reported here.
fn opening(
    system: Option<&str>,
    speaker: &LoadedModel,
    terminal: &Terminal,
) -> Result<Vec<Value>, Failure> {
    let Some(system) = system else {
        return Ok(Vec::new());
    };
    let messages = vec![json!({"role": "system", "content": system})];
    let template = speaker
        .encoder
        .template
        .as_ref()
        .ok_or(infer::InferError::NoTemplate)?;
    let asked = messages
        .iter()
        .cloned()
        .chain([json!({"role": "user", "content": "a"})])
        .collect();
    let rendered = template
        .render(
            &Conversation {
                messages: asked,
                ..Conversation::default()
            },
            true,
        )
        .map_err(infer::InferError::from)?;
    if !rendered.contains(system.trim()) {
        terminal.say(
            "note: the chat template leaves the message of `--system` out: the model does not see \
            it",
        );
    }
    Ok(messages)
}

/// A conversation, with the cache of the tokens that the model has read.
struct Talk {
    speaker: LoadedModel,
    cache: Cache,
    messages: Vec<Value>,
}

impl Talk {
    /// Answers a message. A message that cannot be answered is taken back, with a note.
    fn say(
        &mut self,
        text: &str,
        interrupt: &Interrupt,
        terminal: &Terminal,
    ) -> Result<(), Failure> {
        interrupt.set(false);
        self.messages.push(json!({"role": "user", "content": text}));
        let prompt = Prompt::Chat(Conversation {
            messages: self.messages.clone(),
            ..Conversation::default()
        });
        let speaker = &self.speaker;
        let tokens = prompt.tokens(
            &speaker.encoder.tokenizer,
            speaker.encoder.template.as_ref(),
        )?;
        if let Some(context) = speaker
            .decoder
            .spec
            .longest()
            .filter(|context| tokens.len() >= *context)
        {
            self.messages.pop();
            let tokens = tokens.len();
            terminal.say(&format!(
                "with this the conversation has {tokens} tokens, the base was made for {context}: \
                it is taken back, `/reset` begins anew"
            ));
            return Ok(());
        }
        let answer = speaker.answer(&mut self.cache, &tokens, &[], interrupt, show)?;
        end_line(&answer.text)?;
        if let Some(note) = note(answer.generated.stop, speaker) {
            terminal.say(&note);
        }
        self.messages
            .push(json!({"role": "assistant", "content": answer.text}));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_or_something_said() {
        assert_eq!(parse(" \n"), Line::Nothing);
        assert_eq!(parse("/reset\n"), Line::Reset);
        assert_eq!(parse("/exit"), Line::Exit);
        assert_eq!(parse("/quit\n"), Line::Unknown("/quit"));
        assert_eq!(parse("/etc is a folder\n"), Line::Say("/etc is a folder"));
        assert_eq!(parse(" what is a tort? \r\n"), Line::Say("what is a tort?"));
    }
}
