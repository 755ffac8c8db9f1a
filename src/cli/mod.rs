//! The command line, with one file per command. Only this module writes to stdout.

mod bench;
mod bench_products;
mod cache;
mod chat;
mod check;
mod completions;
mod consumers;
mod convert;
mod doctor;
mod eval;
mod eval_table;
mod export;
mod generate;
mod gradcheck;
mod import;
mod init;
mod inspect;
mod leaving;
mod memory_table;
mod merge;
mod model_args;
mod next;
mod plan;
mod preview;
mod pull;
mod push;
mod quantize;
mod report;
mod result;
mod resume;
mod row_text;
mod schema;
mod train;
mod try_template;
mod typed;
mod warmup;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::data::template::sandbox;
use crate::fault::{Failure, show_data, shown};
use crate::plan::{Fetched, Plan, Resolved};
use crate::recipe::Recipe;
use crate::report::{Terminal, grouped};
use crate::run::{self, hub};
use crate::{files, recipe};

/// Fine-tunes open-weight language models with low-rank adapters.
#[derive(Debug, Parser)]
#[command(name = "rankine", version, arg_required_else_help = true)]
pub struct Command {
    /// A line for every step and every checkpoint, on a terminal too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Finds every fault of a recipe and of what it names, without reading weights, or rows where
    /// there is no validation file
    Check(check::CheckArgs),
    /// Shows what a recipe will do: every value and its origin, rows, tokens, steps, memory; or
    /// what of a model fits where
    Plan(plan::PlanArgs),
    /// Shows rows as tokens, what of them is trained, and what becomes of every row
    Preview(preview::PreviewArgs),
    /// Converts JSON, JSONL, CSV, TSV, texts or other Parquet to a Parquet file that a recipe reads
    Convert(convert::ConvertArgs),
    /// Trains what a recipe describes: an adapter, or every weight of the base
    Train(train::TrainArgs),
    /// Goes on with a run that was stopped, from its latest checkpoint
    Resume(resume::ResumeArgs),
    /// Shows a run, or several side by side, as one page of HTML
    Report(report::ReportArgs),
    /// Merges adapters into their base, tensor by tensor, and writes a new model folder
    Merge(merge::MergeArgs),
    /// Packs a model's weights in 4 or 8 bits, as bitsandbytes does, so that it loads faster
    Quantize(quantize::QuantizeArgs),
    /// Answers turn after turn, in a conversation that is typed
    Chat(chat::ChatArgs),
    /// Scores the base before and after training on rows that were not trained on
    Eval(eval::EvalArgs),
    /// Tells what a model, an adapter, a run or a dataset is, without loading weights
    Inspect(inspect::InspectArgs),
    /// Goes on from a text or answers in a conversation, with or without an adapter
    Generate(generate::GenerateArgs),
    /// Fetches a model or a data set from the Hub into the cache that Python uses too, and prints
    /// its folder
    Pull(pull::PullArgs),
    /// Uploads an adapter with its card to the Hub
    Push(push::PushArgs),
    /// Writes a model or an adapter for PEFT, llama.cpp, Ollama or mlx-lm
    Export(export::ExportArgs),
    /// Lists the devices of this machine with their drivers, memory and limits, what is missing,
    /// and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Lists what is kept of data files outside of run folders, or removes it
    Cache(cache::CacheArgs),
    /// Takes a step of a recipe ahead of its run, so that caches are filled and the run begins at
    /// once
    Warmup(warmup::WarmupArgs),
    /// Write a first recipe for a base and data, one that fits into memory
    Init(init::InitArgs),
    /// Turn a config of Axolotl, LLaMA-Factory, torchtune or mlx-lm, or a finished run of PEFT,
    /// into a recipe
    Import(import::ImportArgs),
    /// Print the recipe's JSON Schema, with which an editor completes and checks recipes
    Schema,
    /// Print a shell's completions, or the pages of the manual
    Completions(completions::CompletionsArgs),
    /// Measures training steps
    #[command(hide = true)]
    Bench(bench::BenchArgs),
    /// Measures the product routines of a GPU side by side
    #[command(hide = true)]
    BenchProducts(bench_products::BenchProductsArgs),
    /// Tries a chat template, for the program itself
    #[command(name = sandbox::VERB, hide = true)]
    TryTemplate,
}

/// A recipe and what is changed in it.
#[derive(Debug, Args)]
struct RecipeArgs {
    /// The recipe, a YAML file
    recipe: PathBuf,
    /// Values to change, such as training.learning_rate=1e-4 or datasets.0.path=my.parquet
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Use a device on which training is not proven
    #[arg(long)]
    force: bool,
}

impl RecipeArgs {
    fn read(&self) -> Result<Recipe, Failure> {
        Ok(recipe::read(&self.recipe, &self.overrides)?)
    }

    /// Resolves the recipe with what is in the cache.
    fn resolve(&self) -> Result<Resolved, Failure> {
        let terminal = Terminal::default();
        run::resolve(self.read()?, Fetched::default(), &|event| {
            terminal.take(&event);
        })
    }

    /// Makes the plan, for commands that need the base.
    fn plan(&self) -> Result<Plan, Failure> {
        run::with_base(self.resolve()?)
    }
}

impl Command {
    /// Returns whether `-v` was given.
    pub fn is_verbose(&self) -> bool {
        self.verbose > 0
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Any failure, with its exit code.
    pub fn run(self) -> Result<(), Failure> {
        let started = Instant::now();
        // On other systems, a program that is replaced while it runs cannot be found, and an
        // untested template is refused.
        let program = if cfg!(target_os = "linux") {
            Ok("/proc/self/exe".into())
        } else {
            std::env::current_exe()
        };
        sandbox::try_in(program.unwrap_or_default());
        show_data(self.is_verbose());
        let terminal = Terminal::new(self.verbose > 0);
        match self.verb {
            Verb::Check(args) => check::check(&args),
            Verb::Plan(args) => plan::plan(&args),
            Verb::Preview(args) => preview::preview(&args, &terminal),
            Verb::Convert(args) => convert::convert(&args, &terminal),
            Verb::Train(args) => train::train(&args, &terminal),
            Verb::Resume(args) => resume::resume(&args, &terminal),
            Verb::Report(args) => report::report(&args, &terminal),
            Verb::Merge(args) => merge::merge(&args, &terminal),
            Verb::Quantize(args) => quantize::quantize(&args, &terminal),
            Verb::Chat(args) => chat::chat(&args, &terminal),
            Verb::Eval(args) => eval::eval(&args, &terminal),
            Verb::Inspect(args) => inspect::inspect(&args),
            Verb::Generate(args) => generate::generate(&args, &terminal),
            Verb::Export(args) => export::export(&args, &terminal),
            Verb::Pull(args) => pull::pull(&args, &terminal),
            Verb::Push(args) => push::push(&args, &terminal),
            Verb::Doctor(args) => doctor::doctor(&args),
            Verb::Cache(args) => cache::cache(&args, &terminal),
            Verb::Warmup(args) => warmup::warmup(&args, &terminal),
            Verb::Init(args) => init::init(&args, &terminal),
            Verb::Import(args) => import::import(&args),
            Verb::Schema => schema::schema(),
            Verb::Completions(args) => completions::completions(&args),
            Verb::Bench(args) => bench::bench(&args, started),
            Verb::BenchProducts(args) => bench_products::bench_products(&args),
            Verb::TryTemplate => try_template::try_template(),
        }
    }
}

/// Prints a line of the result on stdout. A closed pipe is not an error.
fn print(line: impl std::fmt::Display) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{}", shown(&line.to_string())) {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(files::FileError::new("write", Path::new("stdout"), cause).into())
        }
        _ => Ok(()),
    }
}
