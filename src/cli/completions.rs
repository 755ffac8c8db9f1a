//! `rankine completions`: shell completions, or the manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::{Command, Failure, print};
use crate::fault::{Exit, Fault};
use crate::files::write_atomic;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell; `man` writes the pages of the manual
    shell: CompletionKind,
    /// Of `man`: the folder that gets a page a verb
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum CompletionKind {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
    Man,
}

impl CompletionKind {
    fn shell(self) -> Option<Shell> {
        match self {
            Self::Bash => Some(Shell::Bash),
            Self::Elvish => Some(Shell::Elvish),
            Self::Fish => Some(Shell::Fish),
            Self::PowerShell => Some(Shell::PowerShell),
            Self::Zsh => Some(Shell::Zsh),
            Self::Man => None,
        }
    }
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut command = Command::command();
    match (args.shell.shell(), &args.out) {
        (Some(shell), None) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "rankine", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
        (Some(_), Some(_)) => {
            let fault = Fault::new("`--out` goes with `man`, which writes several files");
            Err(Failure::new(
                Exit::Usage,
                fault.hint("redirect the script into a file"),
            ))
        }
        (None, None) => print(page(command).trim_end()),
        (None, Some(folder)) => {
            command.build();
            let verbs = command
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
            let mut pages: Vec<(String, clap::Command)> = verbs
                .map(|verb| {
                    let name = format!("rankine-{}", verb.get_name());
                    (name.clone(), verb.clone().name(name.leak() as &'static str))
                })
                .collect();
            pages.push(("rankine".into(), command.clone()));
            for (name, of) in pages {
                write_atomic(&folder.join(format!("{name}.1")), page(of).as_bytes())?;
            }
            print(folder.display())
        }
    }
}

/// Returns a manual page in roff.
fn page(command: clap::Command) -> String {
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = clap_mangen::Man::new(command).render(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}
