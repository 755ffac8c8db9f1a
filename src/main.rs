//! Parse, run, print errors and hints, exit.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use rankine::cli::{Command, Failure};
use rankine::device;
use rankine::fault::{Exit, Fault, printable};
use rankine::files::panic_words;

/// Faults that are printed; a person corrects some and looks again.
const MOST_FAULTS: usize = 200;

fn main() -> ExitCode {
    let command = Command::parse();
    std::panic::set_hook(Box::new(device::overhear));
    let Err(failure) = catch_unwind(AssertUnwindSafe(|| command.run())).unwrap_or_else(|panic| Err(internal(&*panic))) else {
        return ExitCode::SUCCESS;
    };
    for fault in failure.faults.iter().take(MOST_FAULTS) {
        let hint = fault.hint.iter().map(|hint| format!("\n  hint: {}", printable(hint))).collect::<String>();
        // Where nobody can read it the exit code still tells.
        let _ = writeln!(std::io::stderr(), "error: {fault}{hint}");
    }
    if let Some(rest) = failure.faults.len().checked_sub(MOST_FAULTS).filter(|rest| *rest > 0) {
        let _ = writeln!(std::io::stderr(), "error: and {rest} more faults");
    }
    ExitCode::from(failure.exit as u8)
}

/// A panic is a fault of ours, but where a device ran out of memory: one line, and where to report it.
fn internal(panic: &(dyn std::any::Any + Send)) -> Failure {
    if let Some(said) = device::ran_out() {
        return Failure::ran_out(said);
    }
    let said = panic_words(panic);
    let fault = Fault::new(format!("internal error: {said}")).hint("please report it with the recipe to the project's issues");
    Failure { exit: Exit::Internal, faults: vec![fault] }
}
