//! Trial of templates from outside in a separate process with limited memory, stack and time. Fuel
//! bounds the steps of a template, but nothing bounds the allocation of one step: strings double,
//! and minijinja folds `'x' * 100000000` as it compiles.
//!
//! The process is this program with a hidden subcommand. It reports nothing: it ends normally,
//! whatever the template makes of the conversation, or a limit ends it.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::single::Single;
use super::{Conversation, TemplateError};
use crate::data::tokenizer::special::SpecialTokens;

/// Subcommand of the program that carries out a request.
pub const VERB: &str = "try-template";
/// Maximum processor time of a trial: a whole recipe's worth of rows renders faster. Processor time
/// does not depend on how busy the machine is.
pub const TIME: Duration = Duration::from_secs(10);
/// Maximum wall-clock time of a trial. Where processes have no limit of their own, it equals the
/// processor time.
const PATIENCE: Duration = if cfg!(unix) {
    Duration::from_mins(10)
} else {
    TIME
};
/// Maximum address space of a trial besides the conversation and the program. A rendering of 64
/// MiB, the maximum, fits.
const MEMORY_MIB: u64 = 512;
/// Stack of a trial, half of a worker thread's.
const STACK_MIB: usize = 1;
/// Interval at which the end of a trial is polled.
const PAUSE: Duration = Duration::from_millis(2);
/// Number of turns in the conversation that every template is tried with, and of words in each:
/// growth with either shows.
const TURNS: usize = 64;
const WORDS: usize = 200;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program that has [`VERB`]. Until then, for example if the library is called from
/// another program, templates are not tried.
pub fn try_in(program: PathBuf) {
    // The first one stands: there is one program.
    let _ = PROGRAM.set(program);
}

/// Returns the bytes of address space that the trial of a request may have.
pub fn memory_bytes(request: &str) -> u64 {
    // Parsed, a conversation is several times its text.
    (MEMORY_MIB << 20) + 16 * request.len() as u64
}

/// Carries out a request. The process must have been limited before.
///
/// # Errors
/// The text is not a request.
pub fn carry_out(request: &str) -> io::Result<()> {
    let Request {
        source,
        special,
        started,
        conversation,
    } = Request::parse(request)?;
    let render = move || {
        let Ok(template) = Single::compiled(&source, &special, started) else {
            return;
        };
        for prompt in [false, true] {
            let _ = template.text(&conversation, prompt);
        }
    };
    let trial = thread::Builder::new()
        .stack_size(STACK_MIB << 20)
        .spawn(render)?;
    trial
        .join()
        .map_err(|_| io::Error::other("the trial panicked"))
}

/// Tries a template with a conversation.
///
/// # Errors
/// The trial exceeded a limit, or could not be run.
pub(super) fn attempt(
    source: &str,
    special: &SpecialTokens,
    started: Timestamp,
    conversation: Conversation,
) -> Result<(), TemplateError> {
    let Some(program) = PROGRAM.get() else {
        return Ok(());
    };
    let request = Request {
        source: source.to_owned(),
        special: special.clone(),
        started,
        conversation,
    }
    .text();
    let failed = |cause: io::Error| TemplateError::Untried {
        cause: cause.to_string(),
    };
    let mut child = start(program, &request).map_err(failed)?;
    match wait(&mut child).map_err(failed)? {
        None if cfg!(unix) => Err(failed(io::Error::other(format!(
            "it was given less than {} s of processor time in {} s",
            TIME.as_secs(),
            PATIENCE.as_secs()
        )))),
        None => Err(out_of_time()),
        Some(status) if status.success() => Ok(()),
        Some(status) if has_used_its_time(status) => Err(out_of_time()),
        Some(status) => Err(reason(&mut child, status)),
    }
}

fn start(program: &PathBuf, request: &str) -> io::Result<Child> {
    let mut command = Command::new(program);
    let piped = command
        .arg(VERB)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = piped.spawn()?;
    let mut input = child.stdin.take().expect("it was asked for");
    // One that died says so by its status.
    let _ = input.write_all(request.as_bytes());
    Ok(child)
}

/// Waits for the process and returns its exit status; `None` if it had to be killed.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn out_of_time() -> TemplateError {
    TemplateError::Unbounded {
        limit: format!("{} s of processor time", TIME.as_secs()),
    }
}

/// Whether the system ended a process with SIGXCPU at its limit of processor time: signal(7).
#[cfg(unix)]
fn has_used_its_time(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(nix::sys::signal::Signal::SIGXCPU as i32)
}

#[cfg(not(unix))]
fn has_used_its_time(_: ExitStatus) -> bool {
    false
}

/// Returns the limit that ended the process, from the message of Rust's runtime.
fn reason(child: &mut Child, status: ExitStatus) -> TemplateError {
    let mut said = String::new();
    let mut errors = child.stderr.take().expect("it was asked for");
    let _ = errors.read_to_string(&mut said);
    let limit = if said.contains("overflowed its stack") {
        format!("{STACK_MIB} MiB of stack")
    } else if said.contains("memory allocation of") {
        format!("{MEMORY_MIB} MiB of memory")
    } else {
        return TemplateError::Untried {
            cause: status.to_string(),
        };
    };
    TemplateError::Unbounded { limit }
}

/// Returns a conversation longer than most: a template that grows with turns or text exceeds a
/// limit with it.
pub(super) fn made_up() -> Conversation {
    let role = |turn: usize| {
        if turn.is_multiple_of(2) {
            "user"
        } else {
            "assistant"
        }
    };
    let content = |turn: usize| format!("{turn} {}", "word ".repeat(WORDS));
    let turn = |turn: usize| json!({"role": role(turn), "content": content(turn)});
    Conversation {
        messages: (0..TURNS).map(turn).collect(),
        ..Conversation::default()
    }
}

/// Request for a trial: JSON, one part per line. Parts that come from a row are not nested deeper
/// here than in the row.
struct Request {
    source: String,
    special: SpecialTokens,
    started: Timestamp,
    conversation: Conversation,
}

impl Request {
    fn text(self) -> String {
        let Conversation {
            messages,
            tools,
            variables,
        } = self.conversation;
        let parts = [
            json!(self.source),
            json!(self.special),
            json!(self.started.to_string()),
            Value::Array(messages),
            json!(tools),
            Value::Object(variables),
        ];
        parts.map(|part| part.to_string()).join("\n")
    }

    fn parse(text: &str) -> io::Result<Self> {
        let mut lines = text.lines();
        let mut part = || lines.next().unwrap_or_default();
        let (source, special) = (serde_json::from_str(part())?, serde_json::from_str(part())?);
        let started: String = serde_json::from_str(part())?;
        let [messages, tools, variables] = [part(), part(), part()];
        let conversation = Conversation {
            messages: serde_json::from_str(messages)?,
            tools: serde_json::from_str(tools)?,
            variables: serde_json::from_str(variables)?,
        };
        Ok(Self {
            source,
            special,
            started: started.parse().map_err(io::Error::other)?,
            conversation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let deep = (0..120).fold(json!(1), |value, _| json!([value]));
        let variables = [("thinking".to_owned(), deep)].into_iter().collect();
        let conversation = Conversation {
            tools: Some(vec![json!({"name": "a\nb"})]),
            variables,
            ..made_up()
        };
        let special = SpecialTokens {
            bos: Some("<s>".to_owned()),
            all: vec!["<s>".to_owned()],
            ..SpecialTokens::default()
        };
        let started = "2025-01-01T00:00:00.5Z".parse().expect("a time");
        let request = Request {
            source: "{{ a }}\n".to_owned(),
            special,
            started,
            conversation,
        };
        let Request {
            source,
            special,
            started,
            conversation,
        } = &request;
        let expected = (
            source.clone(),
            special.clone(),
            *started,
            conversation.clone(),
        );
        let read = Request::parse(&request.text()).expect("a request");
        assert_eq!(
            (read.source, read.special, read.started, read.conversation),
            expected
        );
        assert!(Request::parse("{}").is_err());
    }

    #[test]
    fn a_request_is_carried_out_whatever_comes_of_it() {
        for source in ["{{ messages }}", "{% if %}", "{{ raise_exception('no') }}"] {
            let (special, started) = (SpecialTokens::default(), Timestamp::UNIX_EPOCH);
            let request = Request {
                source: source.to_owned(),
                special,
                started,
                conversation: made_up(),
            };
            carry_out(&request.text()).expect("carried out");
        }
    }
}
