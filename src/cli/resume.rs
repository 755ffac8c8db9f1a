//! `rankine resume`: continues a run from its latest complete checkpoint. The resulting adapter is
//! the same as without the interruption.

use std::path::{Path, PathBuf};

use clap::Args;

use super::next::print_next;
use super::result::print_result;
use super::{Failure, print};
use crate::report::Terminal;
use crate::run::{self, DeviceCheck, ResumeOptions, Signals};

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The folder of the run
    run: PathBuf,
    /// The folder of the base, or a Hub id that was pulled, where it is not beside the run
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// A folder in which the run's data, chat template and starting adapter are found by their
    /// hashes, whatever their names
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Continue although the base, tokenizer, template or data have changed, or on a GPU that failed
    /// its self-check
    #[arg(long)]
    force: bool,
    /// Skip the GPU self-check before the first training on a GPU
    #[arg(long)]
    skip_proof: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn resume(args: &ResumeArgs, terminal: &Terminal) -> Result<(), Failure> {
    let run = run::find(&args.run)?;
    if run::is_finished(&run) {
        return print_finished(&run, args.json);
    }
    let options = ResumeOptions {
        base: args.base.clone(),
        data: args.data.clone(),
        force: args.force,
        device_check: DeviceCheck {
            force: args.force,
            skip: args.skip_proof,
        },
    };
    let signals = Signals::listen(&run)?;
    let finished = run::resume(&run, &options, &signals, &|event| terminal.take(&event))?;
    print_result(&finished.plan.output_dir, &finished.result, args.json)?;
    if args.json {
        return Ok(());
    }
    print_next(&finished.plan, None)
}

fn print_finished(run: &Path, json: bool) -> Result<(), Failure> {
    let result = run::read_result(run)?;
    if !json {
        print(format_args!(
            "`{}` is finished at step {}: there is nothing to go on with",
            run.display(),
            result["steps"]
        ))?;
    }
    print_result(run, &result, json)
}
