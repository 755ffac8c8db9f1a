//! `rankine teach`: a teacher's answers to prompts, as rows that a student trains on.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::model_args::{ModelArgs, SamplingArgs};
use super::{Failure, print};
use crate::report::Terminal;
use crate::run::{self, Interrupt, TeachOptions};

#[derive(Debug, Args)]
pub(super) struct TeachArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The Parquet file with the prompts: texts to go on from, or lists of messages, of which an
    /// answer at the end is left out
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The column of the prompts
    #[arg(long, value_name = "NAME", default_value = "prompt")]
    column: String,
    /// Ask texts as what a user says, in the chat template
    #[arg(long)]
    chat: bool,
    /// The Parquet file to write: rows of `format: completion`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Most likely tokens of the teacher that are kept for each token of an answer; 0 for answers
    /// alone
    #[arg(
        long,
        value_name = "K",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(..=1 << 20)
    )]
    logprobs: u32,
    /// Temperature of their log-probabilities, that of `objective.temperature`
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = super::model_args::above_zero)]
    logprobs_temperature: f64,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn teach(args: &TeachArgs, terminal: &Terminal) -> Result<(), Failure> {
    let identity = format!("{} {:?}", args.model.hashes()?, args.sampling);
    let teacher = args.model.load(&args.sampling, terminal)?;
    let options = TeachOptions {
        prompts: args.prompts.clone(),
        column: args.column.clone(),
        chat: args.chat,
        out: args.out.clone(),
        top_k: args.logprobs as usize,
        temperature: args.logprobs_temperature,
        seed: args.sampling.seed(),
        identity,
    };
    let interrupt = Interrupt::listen()?;
    let taught = run::teach(teacher, &options, &interrupt, &|event| {
        terminal.take(&event);
    })?;
    let out = args.out.display();
    if args.json {
        return print(json!({
            "out": out.to_string(),
            "prompts": taught.prompts,
            "rows": taught.rows,
            "empty": taught.empty,
            "cut": taught.cut,
            "silent": taught.silent,
            "resumed": taught.resumed,
        }));
    }
    if taught.cut > 0 {
        terminal.say(&format!(
            "note: {} answers did not end within the most tokens and are left out; more with \
            `--max-tokens`",
            taught.cut
        ));
    }
    print(format_args!(
        "{out}: {} rows of {} prompts; left out: {} cut, {} without an answer, {} empty",
        taught.rows, taught.prompts, taught.cut, taught.silent, taught.empty
    ))
}
