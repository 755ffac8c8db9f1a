//! `rankine pull`: a model of the Hub into the cache, and its folder on stdout.

use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::hub::Leaving;
use super::{Failure, print};
use crate::fault::printable;
use crate::hub::{Environment, Pulled, RepoId};
use crate::report::Terminal;

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// owner/name, or owner/name@revision; the revision is a branch, a tag or a commit
    id: String,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn pull(args: &PullArgs, terminal: &Terminal) -> Result<(), Failure> {
    let started = Instant::now();
    let id = RepoId::parse(&args.id).map_err(crate::hub::Error::from)?;
    let leaving = Leaving::listen()?;
    let pulled = crate::hub::pull(&Environment::read(), &id, &|event| terminal.take(&event));
    terminal.stop();
    let pulled = pulled?;
    drop(leaving);
    if args.json {
        let mut object = object(&pulled);
        object["seconds"] = json!(started.elapsed().as_secs_f64());
        return print(object);
    }
    print_lines(&pulled)
}

fn object(pulled: &Pulled) -> Value {
    let Pulled { snapshot, files, downloaded_bytes, skipped } = pulled;
    json!({
        "id": snapshot.id.repository(),
        "revision": snapshot.id.revision(),
        "commit": snapshot.commit.as_str(),
        "folder": snapshot.folder.display().to_string(),
        "files": files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
        "bytes": files.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        "downloaded_bytes": downloaded_bytes,
        "skipped_files": skipped,
    })
}

fn print_lines(pulled: &Pulled) -> Result<(), Failure> {
    let width = pulled.files.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, bytes) in &pulled.files {
        print(format_args!("{:<width$}  {}", printable(name), HumanBytes(*bytes)))?;
    }
    let (files, bytes) = (pulled.files.len(), pulled.files.iter().map(|(_, bytes)| bytes).sum());
    let skipped = if pulled.skipped > 0 { format!(", {} of no use here left there", pulled.skipped) } else { String::new() };
    let (whole, new) = (HumanBytes(bytes), HumanBytes(pulled.downloaded_bytes));
    print(format_args!("{files} files, {whole}, {new} downloaded{skipped}; commit {}", pulled.snapshot.commit))?;
    print(pulled.snapshot.folder.display())
}
