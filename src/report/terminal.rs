//! Progress on stderr: bars on a terminal, otherwise a plain line every few seconds.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use super::{Evaluation, Event, Sample, Step, Transfer, mebibytes};
use crate::fault::{printable, shown};

const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Steps from which the remaining time is estimated. It adapts soon to longer rows or a busy
/// machine, but not to a single slow step.
const RECENT: usize = 32;

/// Display of progress and messages on stderr.
#[derive(Debug)]
pub struct Terminal {
    is_terminal: bool,
    is_verbose: bool,
    bar: RefCell<Option<ProgressBar>>,
    training: RefCell<Option<Training>>,
    last_line: Cell<Instant>,
}

#[derive(Debug)]
struct Training {
    /// Steps taken before this session.
    first: u64,
    steps: u64,
    /// Start of the first of the recent steps, and the end of each. Evaluation before the first
    /// step is left out.
    recent: VecDeque<Instant>,
}

impl Training {
    /// Records a step that ended now and took this long.
    fn take(&mut self, now: Instant, took: Duration) {
        if self.recent.is_empty() {
            self.recent.push_back(now.checked_sub(took).unwrap_or(now));
        }
        self.recent.push_back(now);
        if self.recent.len() > RECENT + 1 {
            self.recent.pop_front();
        }
    }

    /// Returns the expected time of the steps after this one, at the speed of the recent ones.
    fn left(&self, step: u64) -> Duration {
        let spent = self
            .recent
            .back()
            .zip(self.recent.front())
            .map_or(Duration::ZERO, |(last, first)| *last - *first);
        let each = spent.as_secs_f64() / self.recent.len().saturating_sub(1).max(1) as f64;
        Duration::from_secs_f64(each * self.steps.saturating_sub(step) as f64)
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Terminal {
    /// Returns whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Makes a display on stderr. With `is_verbose`, every step and checkpoint gets a permanent
    /// line.
    pub fn new(is_verbose: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            is_terminal,
            is_verbose,
            bar: RefCell::default(),
            training: RefCell::default(),
            last_line: Cell::new(Instant::now()),
        }
    }

    /// Prints a permanent line.
    pub fn say(&self, line: &str) {
        match self.bar.borrow().as_ref().filter(|_| self.is_terminal) {
            Some(bar) => bar.println(shown(line)),
            None => print_line(line),
        }
    }

    /// Shows that training runs from after the step `first` up to `steps`.
    fn start(&self, first: u64, steps: u64) {
        *self.training.borrow_mut() = Some(Training {
            first,
            steps,
            recent: VecDeque::new(),
        });
        self.replace_bar(steps, "{bar:24} {pos}/{len}  {msg}");
    }

    /// Removes the progress bar.
    pub fn stop(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.training.take();
    }

    /// Shows an event.
    pub fn take(&self, event: &Event) {
        match event {
            Event::Progress { what, done, total } => self.progress(what, *done, *total),
            Event::Transfer(transfer) => self.transfer(transfer),
            Event::Line(line) => self.say(line),
            Event::Started { step, steps } => self.start(*step, *steps),
            Event::Ended => self.stop(),
            Event::Note(note) => self.say(&format!("note: {}", printable(note))),
            Event::Step(step) => self.step(step),
            Event::Evaluated(evaluation) => self.say(&evaluated(evaluation)),
            Event::Sampled(sample) => self.say(&sampled(sample)),
            Event::Saved { path, step } if self.is_verbose => {
                self.say(&format!("step {step} is saved in `{}`", path.display()));
            }
            Event::Saved { .. } => {}
        }
    }

    fn progress(&self, what: &str, done: u64, total: u64) {
        if !self.is_terminal {
            if self.is_time() && done < total {
                print_line(&format!("{what}: {done} of {total}"));
            }
            return;
        }
        if self.training.borrow().is_some() {
            // The bar shows the steps of training.
            if let Some(bar) = self.bar.borrow().as_ref() {
                bar.set_message(format!("{what}: {done} of {total}"));
            }
            return;
        }
        if self.bar.borrow().is_none() {
            self.replace_bar(total, "{bar:24} {pos}/{len}  {msg}");
        }
        if let Some(bar) = self.bar.borrow().as_ref() {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(what.to_owned());
        }
        if done >= total
            && let Some(bar) = self.bar.take()
        {
            bar.finish_and_clear();
        }
    }

    fn transfer(&self, transfer: &Transfer) {
        let (line, is_whole) = (transfer.line(), transfer.done_bytes >= transfer.total_bytes);
        if !self.is_terminal {
            if self.is_time() && !is_whole {
                print_line(&line);
            }
            return;
        }
        if self.bar.borrow().is_none() {
            self.replace_bar(transfer.total_bytes, "{bar:24} {msg}");
        }
        if let Some(bar) = self.bar.borrow().as_ref() {
            bar.set_position(transfer.done_bytes);
            bar.set_message(line);
        }
        if is_whole {
            self.stop();
        }
    }

    fn step(&self, step: &Step) {
        let mut training = self.training.borrow_mut();
        let Some(training) = training.as_mut() else {
            return;
        };
        training.take(
            Instant::now(),
            Duration::from_secs_f64(step.tokens as f64 / step.tokens_per_second),
        );
        let line = describe(step, training.left(step.step));
        if self.is_verbose {
            self.say(&format!("step {}/{}  {line}", step.step, training.steps));
        }
        if let Some(bar) = self.bar.borrow().as_ref().filter(|_| self.is_terminal) {
            bar.set_position(step.step);
            bar.set_message(line);
        } else if !self.is_verbose
            && (step.step == training.first + 1 || self.is_time() || step.step == training.steps)
        {
            print_line(&format!("step {}/{}  {line}", step.step, training.steps));
        }
        if step.skipped {
            self.say(&format!(
                "note: step {} was skipped: its loss or gradients were not finite",
                step.step
            ));
        }
    }

    fn replace_bar(&self, length: u64, template: &str) {
        if self.is_terminal {
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            *self.bar.borrow_mut() = Some(ProgressBar::new(length).with_style(style));
        }
    }

    fn is_time(&self) -> bool {
        let due = self.last_line.get().elapsed() >= PLAIN_EVERY;
        if due {
            self.last_line.set(Instant::now());
        }
        due
    }
}

/// Prints a line on stderr at once, from a thread that has no [`Terminal`].
pub fn say_now(line: &str) {
    print_line(line);
}

/// Prints a line on stderr. If stderr is closed, the run continues; `eprintln!` would panic.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", shown(line));
}

/// Formats a step as a line.
fn describe(step: &Step, left: Duration) -> String {
    let memory = step.device_peak_memory_bytes.or(step.peak_memory_bytes);
    let memory = memory.map_or_else(String::new, |bytes| format!("  {}", mebibytes(bytes)));
    let left = HumanDuration(left);
    format!(
        "loss {:.4}{}  lr {:.2e}  {:.0} tokens/s{memory}  {left} left",
        step.loss,
        of_objective(&step.figures, "", "  "),
        step.learning_rate,
        step.tokens_per_second
    )
}

/// Formats the figures of an objective that tell most.
fn of_objective(figures: &BTreeMap<String, f64>, prefix: &str, between: &str) -> String {
    let shown = [
        ("accuracy", "rewards/accuracies"),
        ("margin", "rewards/margins"),
        ("kl", "kl"),
        ("divergence", "divergence"),
        ("accuracy", "accuracy"),
        ("margin", "margin"),
        ("F1", "f1"),
        ("AUROC", "auroc"),
        ("ECE", "ece"),
        ("MSE", "mse"),
        ("R²", "r2"),
    ];
    let shown = shown.iter().filter_map(|(word, name)| {
        let value = figures.get(&format!("{prefix}{name}"))?;
        Some(format!("{between}{word} {value:.3}"))
    });
    shown.collect()
}

/// Formats an evaluation as a line.
fn evaluated(evaluation: &Evaluation) -> String {
    let part = |name: &str, loss: Option<f64>| {
        loss.map_or_else(String::new, |loss| format!(", {name} {loss:.4}"))
    };
    let perplexity = evaluation.eval_perplexity;
    let perplexity = perplexity.map(|perplexity| format!(", perplexity {perplexity:.2}"));
    format!(
        "evaluation at step {}: loss {:.4}{}{}{}{}",
        evaluation.step,
        evaluation.eval_loss,
        perplexity.unwrap_or_default(),
        of_objective(&evaluation.figures, "eval_", ", "),
        part("content", evaluation.eval_loss_content),
        part("end of turn", evaluation.eval_loss_end_of_turn)
    )
}

/// Formats a prompt with its answer below, both indented.
fn sampled(sample: &Sample) -> String {
    let below = |text: &str| printable(text).replace('\n', "\n    ");
    format!(
        "answer at step {}: {}\n    {}",
        sample.step,
        below(&sample.prompt),
        below(&sample.text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_follows_recent_steps() {
        let started = Instant::now();
        let mut training = Training {
            first: 0,
            steps: 1000,
            recent: VecDeque::new(),
        };
        assert_eq!(training.left(0), Duration::ZERO);
        let second = Duration::from_secs(1);
        training.take(started + 10 * second, 10 * second);
        assert_eq!(
            training.left(1),
            9990 * second,
            "the first step is all that is known"
        );
        // An hour of slow steps, then fast ones.
        (2..100).for_each(|step| training.take(started + 10 * step * second, 10 * second));
        assert_eq!(training.left(100), 9000 * second);
        (1..=40).for_each(|step| training.take(started + (990 + step) * second, second));
        assert_eq!(training.left(140), 860 * second);
    }
}
