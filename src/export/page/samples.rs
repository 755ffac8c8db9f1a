//! The texts that a run generated: for each prompt the first one, which is the base's, and the
//! last.

use std::io::{self, BufRead};

use serde_json::Value;

use super::axis::with_groups;
use super::html::Html;
use super::{RunRecord, said};

/// The most prompts that are shown for a run.
const MOST_PROMPTS: usize = 50;

/// A text that a run generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The number of steps before it; 0 is the base alone.
    pub step: u64,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub text: String,
}

impl Sample {
    /// Reads `samples.jsonl`: one object per line with `step`, `prompt` and `text`. Other lines are
    /// left out.
    ///
    /// # Errors
    /// The reader fails.
    pub fn read(reader: impl BufRead) -> io::Result<Vec<Self>> {
        let lines = reader.split(b'\n').map(|line| Ok(Self::of(&line?)));
        lines.filter_map(Result::transpose).collect()
    }

    fn of(line: &[u8]) -> Option<Self> {
        let line: Value = serde_json::from_slice(line).ok()?;
        Some(Self {
            step: line.get("step")?.as_u64()?,
            prompt: said(line.get("prompt")?),
            text: said(line.get("text")?),
        })
    }
}

/// Writes the first and the last text for each prompt, if there are any.
pub(super) fn samples(html: &mut Html, runs: &[RunRecord]) {
    if runs.iter().all(|run| run.samples.is_empty()) {
        return;
    }
    html.element("section", &[("class", "samples")], |section| {
        section.words("h2", &[], "What it says");
        for run in runs.iter().filter(|run| !run.samples.is_empty()) {
            if runs.len() > 1 {
                section.words("h3", &[], &run.name);
            }
            of_run(section, &run.samples);
        }
    });
}

fn of_run(html: &mut Html, samples: &[Sample]) {
    let mut pairs: Vec<(&Sample, &Sample)> = Vec::new();
    for sample in samples {
        let known = pairs
            .iter()
            .position(|(first, _)| first.prompt == sample.prompt);
        match known {
            Some(place) => pairs[place].1 = sample,
            None if pairs.len() < MOST_PROMPTS => pairs.push((sample, sample)),
            None => {}
        }
    }
    for (first, last) in pairs {
        html.element("article", &[], |article| {
            article.words("p", &[("class", "prompt")], &first.prompt);
            article.element("div", &[("class", "pair")], |pair| {
                answer(pair, first);
                if first != last {
                    answer(pair, last);
                }
            });
        });
    }
}

fn answer(html: &mut Html, sample: &Sample) {
    let when = if sample.step == 0 {
        "before training".to_owned()
    } else {
        format!("after step {}", with_groups(&sample.step.to_string()))
    };
    html.element("div", &[("class", "answer")], |answer| {
        answer.words("p", &[("class", "when")], &when);
        answer.words("p", &[("class", "text")], &sample.text);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_text_are_shown() {
        let lines = b"{\"step\":0,\"prompt\":\"a\",\"text\":\"one\"}\nno\n\
            {\"step\":5,\"prompt\":\"a\",\"text\":\"two\"}\n{\"step\":1}\n\
            {\"step\":1500,\"prompt\":\"a\",\"text\":\"three\",\"more\":1}\n\
            {\"step\":5,\"prompt\":[\"b\"],\"text\":\"x\"}\n{\"st";
        let samples = Sample::read(&lines[..]).expect("memory can be read");
        assert_eq!(samples.len(), 4);
        let mut html = Html::default();
        of_run(&mut html, &samples);
        let html = html.finish();
        let shown = [
            "before training",
            "one",
            "after step 1,500",
            "three",
            "[&quot;b&quot;]",
        ];
        assert!(
            shown.iter().all(|part| html.contains(part)) && !html.contains("two"),
            "{html}"
        );
    }
}
