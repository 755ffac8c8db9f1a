//! `rankine import`: converts another trainer's config to a recipe, with a report that gives every
//! key one of four outcomes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::fault::{Exit, Fault, shell_word};
use crate::files::write_atomic;
use crate::recipe::import::{Imported, Tool, import as read};
use crate::report::Terminal;
use crate::terms::Term;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A config, or the folder of a finished run of PEFT
    config: PathBuf,
    /// Whose config it is: axolotl, llama-factory, torchtune, mlx-lm or peft-run; its keys tell it
    /// otherwise
    #[arg(long, value_name = "TOOL", value_parser = tool)]
    from: Option<Tool>,
    /// Where the recipe goes, a new file; otherwise it is printed
    #[arg(long, value_name = "RECIPE")]
    out: Option<PathBuf>,
    /// Write the rest where keys are refused; each of them becomes a comment
    #[arg(long)]
    partial: bool,
    /// Print the outcomes, and the recipe unless it has a file, as one JSON object
    #[arg(long)]
    json: bool,
}

fn tool(word: &str) -> Result<Tool, String> {
    let words: Vec<&str> = Tool::WORDS.iter().map(|(word, _)| *word).collect();
    Tool::parse(word).ok_or_else(|| format!("expected one of {}", words.join(", ")))
}

pub(super) fn import(args: &ImportArgs) -> Result<(), Failure> {
    let imported = read(&args.config, args.from)?;
    let mut refused = imported.refused();
    if !refused.is_empty() && !args.partial {
        let count = if refused.len() == 1 {
            "1 key is".to_owned()
        } else {
            format!("{} keys are", refused.len())
        };
        let fault = Fault::new(format!("{count} refused, and no recipe is written"))
            .at(args.config.display());
        refused
            .push(fault.hint("`--partial` writes the rest, with a comment for each refused key"));
        if args.json {
            print(object(&imported, false))?;
        }
        return Err(Failure {
            exit: Exit::Input,
            faults: refused,
        });
    }
    if let Some(out) = &args.out {
        if out.exists() {
            let fault = Fault::new(format!("`{}` exists", out.display()));
            return Err(Failure::new(
                Exit::Exists,
                fault.hint("choose another `--out`, or remove it"),
            ));
        }
        write_atomic(out, imported.recipe.as_bytes())?;
    }
    tell(args, &imported)
}

/// Prints the report: on stdout if the recipe goes to a file, otherwise on stderr.
fn tell(args: &ImportArgs, imported: &Imported) -> Result<(), Failure> {
    let terminal = Terminal::default();
    if args.json {
        return print(object(imported, args.out.is_none()));
    }
    let lines = report(imported);
    let Some(out) = &args.out else {
        for line in &lines {
            terminal.say(line);
        }
        return print(imported.recipe.trim_end());
    };
    for line in lines {
        print(line)?;
    }
    print(format_args!("recipe      {}", out.display()))?;
    terminal.say(&format!(
        "next: read the comments in it, then `rankine check {}`",
        shell_word(&out.display().to_string())
    ));
    Ok(())
}

fn report(imported: &Imported) -> Vec<String> {
    let wide = imported
        .keys
        .iter()
        .map(|key| key.key.chars().count())
        .max()
        .unwrap_or(0)
        .min(48);
    let key = |key: &crate::recipe::import::ImportedKey| {
        format!(
            "{:<8}  {:<wide$}  {}",
            key.outcome.word(),
            key.key,
            key.outcome.words()
        )
    };
    let added = imported
        .added
        .iter()
        .map(|(key, value, why)| format!("{:<8}  {:<wide$}  {value} ({why})", "added", key));
    let [mapped, dropped, replaced, refused] = imported.counts();
    let counts = format!(
        "{}: {} keys: {mapped} mapped, {dropped} dropped, {replaced} replaced, {refused} refused; \
        {} added",
        imported.tool.name(),
        imported.keys.len(),
        imported.added.len()
    );
    imported
        .keys
        .iter()
        .map(key)
        .chain(added)
        .chain([counts])
        .collect()
}

fn object(imported: &Imported, with_recipe: bool) -> Value {
    let key = |key: &crate::recipe::import::ImportedKey| {
        json!({
            "key": key.key,
            "value": key.value,
            "place": key.place.to_string(),
            "fate": key.outcome.word(),
            "words": key.outcome.words(),
        })
    };
    let [mapped, dropped, replaced, refused] = imported.counts();
    let added = |(key, value, why): &(String, String, String)| {
        json!({
            "key": key,
            "value": value,
            "why": why,
        })
    };
    json!({
        "tool": imported.tool.word(),
        "mapped": mapped,
        "dropped": dropped,
        "replaced": replaced,
        "refused": refused,
        "keys": imported.keys.iter().map(key).collect::<Vec<_>>(),
        "added": imported.added.iter().map(added).collect::<Vec<_>>(),
        "recipe": with_recipe.then_some(&imported.recipe),
    })
}
