//! `rankine chat`: a conversation of several turns, read from stdin line by line.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::generate::note;
use super::interrupt::Interrupt;
use super::speaker::{ModelArgs, SamplingArgs, Speaker, end_line, show};
use super::{Failure, print};
use crate::data::template::Conversation;
use crate::files;
use crate::infer::{self, Prompt};
use crate::model::Cache;
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// What a person typed.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    Exit,
    Unknown(&'a str),
}

pub(super) fn chat(args: &ChatArgs, terminal: &Terminal) -> Result<(), Failure> {
    let speaker = Speaker::open(&args.model, &args.sampling, terminal)?;
    if speaker.template.is_none() {
        return Err(infer::Error::NoTemplate.into());
    }
    let interrupt = Interrupt::listen()?;
    let mut talk = Talk { cache: Cache::new(&speaker.decoder), speaker, messages: Vec::new() };
    terminal.say("`/reset` begins anew, `/exit` or the end of input leaves, Ctrl-C ends an answer");
    while let Some(line) = read_line(&interrupt)? {
        match parse(&line) {
            Line::Nothing => {}
            Line::Say(text) => talk.say(text, &interrupt, terminal)?,
            Line::Reset => talk.messages.clear(),
            Line::Exit => return Ok(()),
            Line::Unknown(word) => terminal.say(&format!("`{word}` is not known: there are `/reset` and `/exit`")),
        }
    }
    Ok(())
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

/// A line of stdin; none at its end. Ctrl-C leaves meanwhile.
fn read_line(interrupt: &Interrupt) -> Result<Option<String>, Failure> {
    let failed = |cause| files::Error::new("read", Path::new("stdin"), cause);
    if std::io::stdin().is_terminal() {
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "> ").and_then(|()| stdout.flush());
    }
    interrupt.set(true);
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    interrupt.set(false);
    if read == 0 && std::io::stdin().is_terminal() {
        print("")?;
    }
    Ok((read > 0).then_some(line))
}

/// A conversation and how far the model has read it.
struct Talk {
    speaker: Speaker,
    cache: Cache,
    messages: Vec<Value>,
}

impl Talk {
    /// Answers. What cannot be answered is taken back and said.
    fn say(&mut self, text: &str, interrupt: &Interrupt, terminal: &Terminal) -> Result<(), Failure> {
        self.messages.push(json!({"role": "user", "content": text}));
        let prompt = Prompt::Chat(Conversation { messages: self.messages.clone(), ..Conversation::default() });
        let speaker = &self.speaker;
        let tokens = prompt.tokens(&speaker.tokenizer, speaker.template.as_ref())?;
        if let Some(context) = speaker.decoder.spec.longest().filter(|context| tokens.len() >= *context) {
            self.messages.pop();
            let tokens = tokens.len();
            terminal.say(&format!("with this the conversation has {tokens} tokens, the base was made for {context}: it is taken back, `/reset` begins anew"));
            return Ok(());
        }
        let answer = speaker.answer(&mut self.cache, &tokens, &[], interrupt, show)?;
        end_line(&answer.text)?;
        if let Some(note) = note(answer.generated.stop, speaker) {
            terminal.say(&note);
        }
        self.messages.push(json!({"role": "assistant", "content": answer.text}));
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
