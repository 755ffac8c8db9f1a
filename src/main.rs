//! Entry point: parses the command line, runs the command, prints errors with hints, and exits.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use rankine::cli::Command;
use rankine::fault::{Exit, Failure, printable};
use rankine::panics;

/// Most faults that are printed. The user corrects some and runs the command again.
const MOST_FAULTS: usize = 200;

fn main() -> ExitCode {
    let command = Command::from_command_line();
    let is_verbose = command.is_verbose();
    std::panic::set_hook(Box::new(panics::hear));
    let ended = catch_unwind(AssertUnwindSafe(|| command.run()));
    let Err(failure) = ended.unwrap_or_else(|panic| Err(Failure::of_panic(&*panic))) else {
        return ExitCode::SUCCESS;
    };
    // A run that the user ended is not an error.
    let label = if matches!(failure.exit, Exit::Signal | Exit::Interrupted) {
        ""
    } else {
        "error: "
    };
    for fault in failure.faults.iter().take(MOST_FAULTS) {
        let hint = fault
            .hint
            .iter()
            .map(|hint| format!("\n  hint: {}", printable(hint)))
            .collect::<String>();
        // If stderr is closed, the exit code still reports the failure.
        let _ = writeln!(std::io::stderr(), "{label}{fault}{hint}");
    }
    if let Some(rest) = failure
        .faults
        .len()
        .checked_sub(MOST_FAULTS)
        .filter(|rest| *rest > 0)
    {
        let _ = writeln!(std::io::stderr(), "error: and {rest} more faults");
    }
    for line in panics::whole_words()
        .filter(|_| is_verbose)
        .iter()
        .flat_map(|words| words.lines())
    {
        let _ = writeln!(std::io::stderr(), "panic: {}", printable(line));
    }
    ExitCode::from(failure.exit as u8)
}
