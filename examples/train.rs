//! Trains the quickstart, stops it, resumes it, scores it and merges it, as the command line does:
//! `cargo run --release --example train`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rankine::fault::Failure;
use rankine::report::{Event, Terminal};
use rankine::run::{self, MergeOptions, ResumeOptions, ScoreOptions, Signals, TrainOptions};

fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let (terminal, signals) = (Terminal::default(), Signals::default());
    let show = |event: Event| {
        let is_third = matches!(&event, Event::Step(step) if step.step == 3);
        signals.interrupt.fetch_or(is_third, Relaxed);
        terminal.take(&event);
    };
    let mut changes = vec!["training.max_steps=6".to_owned()];
    changes.push(format!("output_dir={}", out.display()));
    let recipe = rankine::recipe::read(Path::new("recipes/quickstart.yaml"), &changes)?;
    let plan = run::plan(recipe, &show)?;
    let stopped = run::train(plan, TrainOptions::default(), &signals, &show);
    println!("{:?}", stopped.err().map(|failure| failure.exit));

    let (run, again) = (run::find(&out)?, Signals::default());
    let finished = run::resume(&run, &ResumeOptions::default(), &again, &show)?;
    println!("{}", finished.result);

    let subject = run::Subject::of_run(&run, &ScoreOptions::default(), &show)?;
    println!("{}", run::score(&subject, &show)?.object["total"]);

    let adapter = run::addend_of(run::find_adapter(&run)?, 1.0)?;
    let options = MergeOptions::new(vec![adapter], folder.path().join("merged"));
    let merged = run::merge(options, &AtomicBool::new(false), &show)?;
    println!("{} tensors are merged", merged.tally.merged_tensors);
    Ok(())
}
