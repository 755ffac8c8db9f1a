//! Lines that the user types, edited with a history on a terminal, plain elsewhere. They may be
//! confidential, so the history is never stored.

use std::cell::Cell;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, Config, Context, Editor, Helper};

use super::{Failure, print};
use crate::files;
use crate::report::Terminal;
use crate::run::Interrupt;

const PROMPT: &str = "> ";

/// Source of lines.
pub(super) enum Lines {
    /// A terminal with line editing.
    Edited(Box<Editor<Watch, MemHistory>>),
    /// A pipe, a file or a terminal without line editing.
    Plain,
}

/// Answer to a prompt.
#[derive(Debug)]
pub(super) enum Typed {
    Line(String),
    /// The end of input.
    End,
    /// Ctrl-C was pressed a second time.
    Left,
}

/// Whether the line being edited holds text. rustyline reports this only to a helper.
#[derive(Debug, Default)]
pub(super) struct Watch(Cell<bool>);

impl Helper for Watch {}
impl Highlighter for Watch {}
impl Validator for Watch {}

impl Completer for Watch {
    type Candidate = String;
}

impl Hinter for Watch {
    type Hint = String;

    fn hint(&self, line: &str, _place: usize, _context: &Context<'_>) -> Option<String> {
        self.0.set(!line.is_empty());
        None
    }
}

impl Lines {
    /// Reads plain lines from stdin, without editing.
    ///
    /// # Errors
    /// The terminal cannot be set up.
    pub fn open() -> Result<Self, Failure> {
        let has_keys = std::env::var_os("TERM").is_some_and(|term| term != "dumb") || cfg!(windows);
        if !std::io::stdin().is_terminal() || !has_keys {
            return Ok(Self::Plain);
        }
        // If answers go to a file, the terminal itself handles the keys.
        let behavior = if std::io::stdout().is_terminal() {
            Behavior::Stdio
        } else {
            Behavior::PreferTerm
        };
        let config = Config::builder().behavior(behavior).build();
        let mut editor = Editor::with_history(config, MemHistory::new()).map_err(failed)?;
        editor.set_helper(Some(Watch::default()));
        Ok(Self::Edited(Box::new(editor)))
    }

    /// Reads the next line that the user types.
    ///
    /// # Errors
    /// Stdin cannot be read.
    pub fn next(&mut self, interrupt: &Interrupt, terminal: &Terminal) -> Result<Typed, Failure> {
        match self {
            Self::Edited(editor) => edited(editor, terminal),
            Self::Plain => plain(interrupt),
        }
    }
}

/// Reads a line with editing. Ctrl-C clears the line; a second one, with nothing typed in between,
/// leaves.
fn edited(editor: &mut Editor<Watch, MemHistory>, terminal: &Terminal) -> Result<Typed, Failure> {
    let mut was_cleared = false;
    loop {
        match editor.readline(PROMPT) {
            Ok(line) => {
                editor.add_history_entry(line.as_str()).map_err(failed)?;
                return Ok(Typed::Line(line));
            }
            Err(ReadlineError::Eof) => return Ok(Typed::End),
            Err(ReadlineError::Interrupted) => {
                let had_text = editor.helper().is_some_and(|watch| watch.0.get());
                if was_cleared && !had_text {
                    return Ok(Typed::Left);
                }
                if !had_text {
                    terminal.say("Ctrl-C again leaves");
                }
                was_cleared = true;
            }
            // The window was resized.
            Err(ReadlineError::Signal(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Reads a plain line. Ctrl-C leaves meanwhile, because the terminal itself reads the keys.
fn plain(interrupt: &Interrupt) -> Result<Typed, Failure> {
    let failed = |cause| files::FileError::new("read", Path::new("stdin"), cause);
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        let mut stdout = std::io::stdout();
        let _ = write!(stdout, "{PROMPT}").and_then(|()| stdout.flush());
    }
    interrupt.set(true);
    let mut line = String::new();
    let read = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(failed)?;
    interrupt.set(false);
    if read == 0 && is_terminal {
        print("")?;
    }
    Ok(if read > 0 {
        Typed::Line(line)
    } else {
        Typed::End
    })
}

fn failed(error: ReadlineError) -> Failure {
    let cause = match error {
        ReadlineError::Io(cause) => cause,
        other => std::io::Error::other(other.to_string()),
    };
    files::FileError::new("read", Path::new("the terminal"), cause).into()
}
