//! The user's answers, given as flags or typed at a prompt.

use std::io::IsTerminal;

use super::InitArgs;
use crate::cli::Failure;
use crate::fault::{Exit, Fault};
use crate::files;
use crate::report::Terminal;
use crate::terms::{Device, Term};

/// Goal of the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Answer as the data does: an adapter.
    Answers,
    /// Learn the language of a field: a wider adapter, at half the learning rate.
    Language,
    /// Learn everything in the data: train all weights.
    Everything,
}

impl Term for Goal {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("answers", Self::Answers),
        ("language", Self::Language),
        ("everything", Self::Everything),
    ];
}

/// Parses the word of a goal.
pub(super) fn goal(word: &str) -> Result<Goal, String> {
    Goal::parse(word).ok_or_else(|| "expected answers, language or everything".to_owned())
}

/// Answers of the user.
pub(super) struct Answers {
    pub base: String,
    pub data: Vec<String>,
    pub goal: Option<Goal>,
    pub device: Device,
}

impl Answers {
    /// Takes the answers from flags, and asks for the rest if there is a terminal.
    pub fn take(args: &InitArgs, terminal: &Terminal) -> Result<Self, Failure> {
        let asks = std::io::stdin().is_terminal() && terminal.is_terminal();
        let needed = |flag: &str, question: &str| {
            if asks {
                return ask(terminal, question, |answer| {
                    if answer.is_empty() {
                        None
                    } else {
                        Some(answer.to_owned())
                    }
                });
            }
            let fault = Fault::new(format!(
                "`--{flag}` is missing, and there is no terminal to ask at"
            ));
            Err(Failure::new(
                Exit::Usage,
                fault.hint(
                    "give `--base MODEL --data PATH`, and `--goal` and `--device` if you like",
                ),
            ))
        };
        let base = args.base.clone().map_or_else(
            || {
                needed(
                    "base",
                    "Base model (a folder, or a Hub id such as owner/name)?",
                )
            },
            Ok,
        )?;
        let data = if args.data.is_empty() {
            vec![needed(
                "data",
                "Data (a Parquet file, a glob or a folder)?",
            )?]
        } else {
            args.data.clone()
        };
        let goal = match args.goal {
            None if asks => ask(
                terminal,
                "Goal: answers, language or everything (empty: by the data)?",
                |answer| {
                    if answer.is_empty() {
                        Some(None)
                    } else {
                        Goal::parse(answer).map(Some)
                    }
                },
            )?,
            goal => goal,
        };
        let device = match &args.device {
            Some(word) => Device::parse(word).ok_or_else(|| {
                let fault = Fault::new(format!(
                    "`--device {word}`: expected `auto`, `cpu`, `wgpu` or `cuda`, the last two \
                    with an index such as `cuda:0`"
                ));
                Failure::new(
                    Exit::Usage,
                    fault.hint("`rankine doctor` lists the devices"),
                )
            })?,
            None if asks => ask(
                terminal,
                "Device: auto, cpu, wgpu or cuda (empty: auto)?",
                |answer| {
                    if answer.is_empty() {
                        Some(Device::Auto)
                    } else {
                        Device::parse(answer)
                    }
                },
            )?,
            None => Device::Auto,
        };
        Ok(Self {
            base,
            data,
            goal,
            device,
        })
    }
}

/// Asks until the answer is valid. The end of input ends the command.
fn ask<T>(
    terminal: &Terminal,
    question: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, Failure> {
    loop {
        terminal.say(question);
        let mut line = String::new();
        let bytes = std::io::stdin()
            .read_line(&mut line)
            .map_err(|cause| files::FileError::new("read", std::path::Path::new("stdin"), cause))?;
        if bytes == 0 {
            return Err(Failure::new(
                Exit::Usage,
                Fault::new("the input ended before every question was answered")
                    .hint("answer with flags: `rankine init --help`"),
            ));
        }
        if let Some(answer) = read(line.trim()) {
            return Ok(answer);
        }
    }
}
