//! `rankine warmup`: takes one step of a recipe before its run, so that a first start finds its
//! caches filled: the tokens of its rows in the token cache, the base in the page cache of the
//! system, and the kernels of a GPU in the driver's cache.

use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{Failure, RecipeArgs, print};
use crate::device;
use crate::report::Terminal;
use crate::{run, train};

#[derive(Debug, Args)]
pub(super) struct WarmupArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn warmup(args: &WarmupArgs, terminal: &Terminal) -> Result<(), Failure> {
    let plan = args.recipe.plan()?;
    device::set_threads(plan.threads);
    let data = plan.read_data(&|event| terminal.take(&event))?;
    let (config, memory) = plan.prepare(&data);
    memory.check()?;
    let device = device::open(plan.device)?;
    let mut decoder = plan.load_model(memory.storage(), &device, None, &|event| {
        terminal.take(&event);
    })?;
    let teacher = run::load_teacher(&plan, &|event| terminal.take(&event))?;
    terminal.stop();
    let rows = train::Data {
        teacher: teacher.as_ref(),
        ..data.rows()
    };
    let mut seconds = [0.0; 2];
    for seconds in &mut seconds {
        let started = Instant::now();
        train::first_step(&mut decoder, &rows, &config);
        *seconds = started.elapsed().as_secs_f64();
    }
    let [first, second] = seconds;
    if args.json {
        return print(json!({
            "device": plan.device.to_string(),
            "first_step_seconds": first,
            "second_step_seconds": second,
        }));
    }
    print(format_args!(
        "{}: the first step took {first:.2} s, the second {second:.2} s",
        plan.device_words()
    ))
}
