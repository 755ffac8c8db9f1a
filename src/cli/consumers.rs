//! `--for`: what the serving programs accept and reject.

use clap::{Args, ValueEnum};

use super::Failure;
use crate::export::consumers::{Consumer, Finding, Severity, findings, model_findings};
use crate::fault::{Exit, Fault};
use crate::plan::Plan;
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct ConsumerArgs {
    /// Check for this program: what it cannot load is an error, what needs a change a note; may be
    /// given several times
    #[arg(long = "for", value_name = "CONSUMER", value_enum)]
    consumers: Vec<Word>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Vllm,
    #[value(name = "llamacpp")]
    LlamaCpp,
    Ollama,
    #[value(name = "lmstudio")]
    LmStudio,
    Peft,
    Mlx,
}

impl Word {
    fn consumer(self) -> Consumer {
        match self {
            Self::Vllm => Consumer::Vllm,
            Self::LlamaCpp => Consumer::LlamaCpp,
            Self::Ollama => Consumer::Ollama,
            Self::LmStudio => Consumer::LmStudio,
            Self::Peft => Consumer::Peft,
            Self::Mlx => Consumer::Mlx,
        }
    }
}

impl ConsumerArgs {
    /// Returns whether no program was named.
    pub fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// Notes what the programs change, and fails with everything that they reject.
    pub fn judge(
        &self,
        terminal: &Terminal,
        findings: impl Fn(Consumer) -> Vec<Finding>,
    ) -> Result<(), Failure> {
        let (mut faults, mut said) = (Vec::new(), Vec::new());
        for finding in self
            .consumers
            .iter()
            .flat_map(|word| findings(word.consumer()))
        {
            let line = finding.line();
            if said.contains(&line) {
                continue;
            }
            match finding.severity {
                Severity::Changes => terminal.say(&format!("note: {line}")),
                Severity::Rejects if finding.next.is_empty() => {
                    faults.push(Fault::new(finding.words));
                }
                Severity::Rejects => faults.push(Fault::new(finding.words).hint(finding.next)),
            }
            said.push(line);
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Failure {
                exit: Exit::Input,
                faults,
            })
        }
    }

    /// Checks an adapter that is still to be trained. Notes that the plan gives anyway are not
    /// repeated.
    pub fn judge_plan(&self, terminal: &Terminal, plan: &Plan) -> Result<(), Failure> {
        let (facts, notes) = (plan.facts(), plan.notes());
        self.judge(terminal, |consumer| {
            let mut found = findings(consumer, &facts, None);
            let tokenizer = plan.vocabulary.is_some().then_some(&plan.encoder.tokenizer);
            found.extend(model_findings(
                consumer,
                &plan.base_folder,
                (tokenizer, plan.own_template().as_deref()),
            ));
            found.retain(|finding| {
                finding.severity == Severity::Rejects || !notes.contains(&finding.line())
            });
            found
        })
    }
}
