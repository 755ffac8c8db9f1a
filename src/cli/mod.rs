//! The command line, with one file per command. Only this module writes to stdout.

mod bench;
mod bench_products;
mod cache;
mod chat;
mod check;
mod classify;
mod completions;
mod consumers;
mod convert;
mod doctor;
mod embed;
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
mod teach;
mod train;
mod try_template;
mod typed;
mod warmup;
mod words;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Keep a line per step and checkpoint, and show text of the data in messages
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    verb: Verb,
}

/// Groups of verbs in the help.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Prepare",
        &[
            "init", "import", "convert", "check", "plan", "preview", "warmup", "doctor",
        ],
    ),
    ("Train", &["teach", "train", "resume", "report"]),
    (
        "Use",
        &["generate", "chat", "classify", "embed", "eval", "inspect"],
    ),
    ("Ship", &["merge", "quantize", "export", "pull", "push"]),
    ("Other", &["cache", "schema", "completions"]),
];

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write a first recipe for a base and data, one that fits into memory
    ///
    /// Asks for what is not given, looks at the data and at the memory of the device, and writes a
    /// commented recipe.
    #[command(
        after_long_help = "Example:\n  rankine init --base checkpoints/rankine-tiny --data \
        datasets/medical-glossary.parquet"
    )]
    Init(init::InitArgs),
    /// Turn a config of Axolotl, LLaMA-Factory, torchtune or mlx-lm, or a finished run of PEFT,
    /// into a recipe
    ///
    /// Says of every key what it became: a key of the recipe, a default, or a reason why it cannot
    /// be kept.
    #[command(
        after_long_help = "Example:\n  rankine import config.yml --from axolotl --out recipe.yaml"
    )]
    Import(import::ImportArgs),
    /// Convert JSON, JSONL, CSV, TSV, texts or other Parquet to Parquet that a recipe reads
    ///
    /// Decides the type of each column by all rows. Every row is kept, or named with its line and
    /// the reason. Memory stays flat for files of any size.
    #[command(
        after_long_help = "Example:\n  rankine convert faq.csv --out faq.parquet --format chat \
        --columns prompt=question,completion=answer"
    )]
    Convert(convert::ConvertArgs),
    /// Validate a recipe, its model and its data files
    ///
    /// Prints every fault with its file, line and column, and refuses what no memory is enough for.
    /// Weights are not read beyond their headers, and rows only to compare validation files with
    /// the training rows or to find duplicates.
    #[command(after_long_help = "Example:\n  rankine check recipes/quickstart.yaml")]
    Check(check::CheckArgs),
    /// Show every value of a recipe, its steps, memory and time
    ///
    /// Shows the origin of each value, the model and its trainable parameters, rows and tokens, and
    /// the peak memory by its parts. With `--fits` it shows what of a model fits into common memory
    /// sizes.
    #[command(after_long_help = "Example:\n  rankine plan recipes/quickstart.yaml \
        training.micro_batch_size=4")]
    Plan(plan::PlanArgs),
    /// Show rows as tokens and which of them are trained
    ///
    /// Marks the tokens that carry a loss, and counts the status of every row for each dataset.
    #[command(after_long_help = "Example:\n  rankine preview recipes/quickstart.yaml")]
    Preview(preview::PreviewArgs),
    /// Fill caches and compile kernels ahead of a run
    ///
    /// Takes two steps and keeps nothing of them. Afterwards the rows are tokenized, the base is in
    /// the page cache and a GPU has its kernels, so that the run begins at once.
    #[command(after_long_help = "Example:\n  rankine warmup recipes/quickstart.yaml")]
    Warmup(warmup::WarmupArgs),
    /// Show devices, drivers and memory, and what is missing
    ///
    /// Lists every device with its limits, which one `auto` takes and why, and what to install for
    /// others. With `--gradcheck` it compares the gradients of a device with those of the CPU.
    #[command(after_long_help = "Example:\n  rankine doctor --device cuda --gradcheck")]
    Doctor(doctor::DoctorArgs),
    /// Write a teacher's answers to prompts, with its most likely tokens, as rows to train on
    ///
    /// Writes Parquet rows of `format: completion`. A student trains on the answers alone, or with
    /// `objective: {type: distill, teacher: data}` on the distributions too. What is interrupted
    /// continues with the same command, to the same bytes.
    #[command(
        after_long_help = "Example:\n  rankine teach --base checkpoints/rankine-tiny \
        --prompts prompts.parquet --out answers.parquet"
    )]
    Teach(teach::TeachArgs),
    /// Train an adapter, or every weight of a model, from a recipe
    ///
    /// Writes the adapter or model, checkpoints, metrics, a lock with everything that the run
    /// depends on, and a card into `output_dir`. Ctrl-C stops the run after its step, with a
    /// checkpoint.
    #[command(after_long_help = "Example:\n  rankine train recipes/quickstart.yaml \
        training.learning_rate=1e-4")]
    Train(train::TrainArgs),
    /// Resume an interrupted run from its latest checkpoint
    ///
    /// Needs the folder of the run alone: its lock has the recipe. The result is the same, byte for
    /// byte, as without the interruption. Inputs that have changed are refused, unless `--force` is
    /// given.
    #[command(after_long_help = "Example:\n  rankine resume checkpoints/quickstart")]
    Resume(resume::ResumeArgs),
    /// Show a run, or several side by side, as one page of HTML
    ///
    /// Shows losses, scores, answers to prompts, the recipe and the rows. The page has no scripts
    /// from elsewhere and no paths of this machine.
    #[command(
        after_long_help = "Example:\n  rankine report checkpoints/quickstart --out quickstart.html"
    )]
    Report(report::ReportArgs),
    /// Generate text from a prompt or a conversation
    ///
    /// Streams the answer of a base, with or without an adapter, to stdout. A conversation is
    /// rendered by the chat template that the adapter was trained with.
    #[command(
        after_long_help = "Example:\n  rankine generate --adapter checkpoints/quickstart --prompt \
        'anaemia: ' --max-tokens 40"
    )]
    Generate(generate::GenerateArgs),
    /// Chat with a model on the terminal
    ///
    /// Reads one message a line. `/reset` begins anew, `/exit` leaves, and Ctrl-C ends an answer.
    #[command(after_long_help = "Example:\n  rankine chat --adapter checkpoints/quickstart")]
    Chat(chat::ChatArgs),
    /// Score texts with an adapter that classifies them, or with a reward model
    ///
    /// Reads rows without labels, and writes the class, the probabilities and the scores of each
    /// into a Parquet file, in the order of the rows.
    #[command(
        after_long_help = "Example:\n  rankine classify checkpoints/classify-glossary \
        datasets/glossary-fields.parquet --out classes.parquet"
    )]
    Classify(classify::ClassifyArgs),
    /// Score a base before and after training
    ///
    /// Reports loss and perplexity for each set of rows that was not trained on, and with
    /// `--forgetting` on general text too.
    #[command(after_long_help = "Example:\n  rankine eval checkpoints/quickstart")]
    Eval(eval::EvalArgs),
    /// Turn texts into vectors, as Parquet
    ///
    /// Pools the hidden rows of an encoder or of a language model, with or without an adapter, to
    /// one vector of length 1 for each text, as sentence-transformers does.
    #[command(
        after_long_help = "Example:\n  rankine embed datasets/medical-glossary.parquet --column \
        definition --adapter checkpoints/embed-glossary --out vectors.parquet"
    )]
    Embed(embed::EmbedArgs),
    /// Describe a model, an adapter, a run or a dataset
    ///
    /// Reads headers and configs, no weights: parameters and modules of a model, norms of an
    /// adapter, the progress of a run, columns and rows of a dataset.
    #[command(after_long_help = "Example:\n  rankine inspect checkpoints/quickstart")]
    Inspect(inspect::InspectArgs),
    /// Merge adapters into their base, as a new model folder
    ///
    /// Adds each adapter to the weights, tensor by tensor. An adapter that was trained on a
    /// quantized base is merged in two ways, and the merge that is closest to the trained model is
    /// kept.
    #[command(
        after_long_help = "Example:\n  rankine merge --adapter checkpoints/quickstart --out merged"
    )]
    Merge(merge::MergeArgs),
    /// Quantize a model to 4 or 8 bits, in the format of bitsandbytes
    ///
    /// Writes a model folder that transformers reads, and that a recipe takes as its base and loads
    /// faster.
    #[command(
        after_long_help = "Example:\n  rankine quantize checkpoints/rankine-tiny --out \
        rankine-tiny-nf4"
    )]
    Quantize(quantize::QuantizeArgs),
    /// Export a model or an adapter for PEFT, llama.cpp, Ollama or mlx-lm
    ///
    /// Merges the adapter first where the format needs a model. With `--for` it refuses what the
    /// serving program would reject.
    #[command(
        after_long_help = "Example:\n  rankine export checkpoints/quickstart --to gguf --out \
        quickstart.gguf"
    )]
    Export(export::ExportArgs),
    /// Download a model or a dataset from the Hub
    ///
    /// Downloads into the cache that Python uses too, and prints the folder. What is interrupted
    /// continues from where it was.
    Pull(pull::PullArgs),
    /// Upload an adapter with its card to the Hub
    ///
    /// Uploads the files of the adapter, its card and the lock of its run in one commit. Paths of
    /// this machine are removed.
    #[command(
        after_long_help = "Example:\n  rankine push checkpoints/quickstart owner/name --private"
    )]
    Push(push::PushArgs),
    /// List or remove what is kept of data files outside of run folders
    ///
    /// Tokenized rows hold the content of the data. Compiled kernels and results of GPU self-checks
    /// hold nothing of it and stay.
    #[command(after_long_help = "Example:\n  rankine cache purge --run checkpoints/quickstart")]
    Cache(cache::CacheArgs),
    /// Print the recipe's JSON Schema, with which an editor completes and checks recipes
    #[command(after_long_help = "Example:\n  rankine schema > recipe.schema.json")]
    Schema,
    /// Print a shell's completions, or the pages of the manual
    #[command(after_long_help = "Example:\n  rankine completions bash > \
        ~/.local/share/bash-completion/completions/rankine")]
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
    /// Train even if the GPU self-check failed
    #[arg(long, display_order = 900)]
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
    /// Parses the command line. Help, and a mistake in it, end the process.
    pub fn from_command_line() -> Self {
        let command = Self::command();
        let template = grouped_help(&command);
        let matches = command.help_template(template).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

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
            Verb::Teach(args) => teach::teach(&args, &terminal),
            Verb::Train(args) => train::train(&args, &terminal),
            Verb::Resume(args) => resume::resume(&args, &terminal),
            Verb::Report(args) => report::report(&args, &terminal),
            Verb::Merge(args) => merge::merge(&args, &terminal),
            Verb::Quantize(args) => quantize::quantize(&args, &terminal),
            Verb::Chat(args) => chat::chat(&args, &terminal),
            Verb::Classify(args) => classify::classify(&args, &terminal),
            Verb::Eval(args) => eval::eval(&args, &terminal),
            Verb::Embed(args) => embed::embed(&args, &terminal),
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

/// Returns the template of the program's help, with its verbs in groups.
fn grouped_help(command: &clap::Command) -> String {
    let (heading, literal) = (
        *command.get_styles().get_header(),
        *command.get_styles().get_literal(),
    );
    let verbs = GROUPS.iter().flat_map(|(_, verbs)| *verbs);
    let width = verbs.map(|verb| verb.len()).max().unwrap_or(0);
    let line = |verb: &&str| {
        let about = command
            .find_subcommand(verb)
            .and_then(|verb| verb.get_about())
            .cloned()
            .unwrap_or_default();
        format!("  {literal}{verb:<width$}{literal:#}  {about}\n")
    };
    let groups = GROUPS.map(|(name, verbs)| {
        let lines: String = verbs.iter().map(line).collect();
        format!("{heading}{name}:{heading:#}\n{lines}\n")
    });
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}{heading}Options:{heading:#}\n\
        {{options}}\n\n`rankine help VERB` tells what a verb does, with an example",
        groups.concat()
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_in_one_group_and_has_a_line_a_paragraph_and_an_example() {
        let command = Command::command();
        let mut in_groups: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, verbs)| *verbs)
            .copied()
            .collect();
        let mut visible: Vec<&str> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(|verb| verb.get_name())
            .collect();
        in_groups.sort_unstable();
        visible.sort_unstable();
        assert_eq!(in_groups, visible);
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let name = verb.get_name();
            let about = verb
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                !about.is_empty() && !about.contains('\n'),
                "{name}: {about}"
            );
            let example = verb.get_after_long_help().map(ToString::to_string);
            let example = example.unwrap_or_default();
            assert!(
                example.contains(&format!("rankine {name}")),
                "{name}: {example}"
            );
        }
        let help = grouped_help(&command);
        assert!(help.contains("Ship:"), "{help}");
    }
}
