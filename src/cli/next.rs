//! Suggested commands after a run.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Failure, print};
use crate::fault::shell_word;
use crate::plan::{Origin, Plan, Trains};
use crate::terms::Format;
use crate::train::RunFolder;

/// Prints what to do with the result: use it, see how the run went, export it. After a recipe, also
/// how to continue training from the adapter.
pub(super) fn print_next(plan: &Plan, again: Option<&str>) -> Result<(), Failure> {
    let at = |name: &str| shell_word(&plan.output_dir.join(name).display().to_string());
    let (run, is_whole) = (
        shell_word(&plan.output_dir.display().to_string()),
        plan.trains == Trains::Everything,
    );
    let subject = if is_whole {
        format!("--base {}", at(RunFolder::MODEL))
    } else {
        format!("--adapter {run}")
    };
    let mut lines: Vec<String> = asked(plan)
        .into_iter()
        .map(|verb| verb.replacen("MODEL", &subject, 1))
        .collect();
    let (form, end) = if has_template(plan) {
        ("ollama", "-ollama")
    } else {
        ("gguf", ".gguf")
    };
    let out = shell_word(&beside(plan, end).display().to_string());
    lines.push(format!("rankine report {run}"));
    if plan.scoring().is_some() {
        lines[0] = format!("rankine classify {run} FILE --out FILE.parquet");
    } else if !plan.trained_formats().contains(&Format::Retrieval) {
        lines.push(format!("rankine export {run} --to {form} --out {out}"));
    }
    for (index, line) in lines.iter().enumerate() {
        print(format_args!(
            "{}{line}",
            if index == 0 { "next: " } else { "      " }
        ))?;
    }
    let Some(again) = again.filter(|_| !is_whole) else {
        return Ok(());
    };
    print("another round from this adapter:")?;
    let init_from = shell_word(&format!(
        "adapter.init_from={}",
        plan.output_dir.join(RunFolder::ADAPTER).display()
    ));
    let output_dir = shell_word(&format!("output_dir={}", beside(plan, "-2").display()));
    print(format_args!(
        "      {again}{} {init_from} {output_dir}",
        without_shape(plan)
    ))
}

/// Returns the commands that prompt in the frame of the run's rows. After training on plain text
/// with a chat model, both generation and chat are suggested.
fn asked(plan: &Plan) -> Vec<&'static str> {
    let formats = plan.trained_formats();
    match () {
        () if formats.contains(&Format::Retrieval) => {
            vec!["rankine embed FILE MODEL --out FILE.parquet"]
        }
        () if formats.contains(&Format::Chat) => vec!["rankine chat MODEL"],
        () if formats.contains(&Format::Instruction) => {
            vec!["rankine generate MODEL --instruction TEXT"]
        }
        () if has_template(plan) && formats.contains(&Format::Text) => {
            vec!["rankine generate MODEL --prompt TEXT", "rankine chat MODEL"]
        }
        () => vec!["rankine generate MODEL --prompt TEXT"],
    }
}

fn has_template(plan: &Plan) -> bool {
    plan.chat_template.is_some() || plan.encoder.tokenizer.chat_template().is_some()
}

/// Returns a path beside the run's folder, with a suffix.
fn beside(plan: &Plan, end: &str) -> PathBuf {
    let mut name = plan.output_dir.file_name().unwrap_or_default().to_owned();
    name.push(end);
    plan.output_dir.with_file_name(name)
}

/// Returns overrides that clear the adapter keys of the recipe that `init_from` determines.
fn without_shape(plan: &Plan) -> String {
    let is_kept =
        |key: &str| ["adapter.method", "adapter.dropout", "adapter.init_from"].contains(&key);
    let said = plan
        .settings
        .iter()
        .filter(|setting| matches!(setting.origin, Origin::Said(_)) && !is_kept(&setting.key));
    let of_adapter =
        said.filter_map(|setting| setting.key.strip_prefix("adapter.")?.split('.').next());
    of_adapter
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|key| format!(" adapter.{key}="))
        .collect()
}
