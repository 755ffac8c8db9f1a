//! `rankine pull`: downloads a model or a dataset of the Hub into the cache, and prints its folder.

use std::time::Instant;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::leaving::Leaving;
use super::{Failure, print};
use crate::fault::{Exit, Fault, printable};
use crate::hub::{DatasetPath, DatasetRequest, Environment, Pulled, PulledDataset, RepoId};
use crate::report::Terminal;

#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  rankine pull owner/model
  rankine pull --dataset owner/name --config medical
  rankine pull --dataset 'owner/name@main/data/train-*.parquet'

A data set is fetched as Parquet: its own Parquet files, or else those of the copy that the Hub \
    makes of public sets (`refs/convert/parquet`). In a recipe it is \
    `path: hf://datasets/owner/name`.")]
pub(super) struct PullArgs {
    /// owner/name, or owner/name@revision; the revision is a branch, a tag or a commit. Of a data
    /// set, /GLOB behind it names files
    id: String,
    /// Fetch a data set; `hf://datasets/owner/name` is one without this option
    #[arg(long)]
    dataset: bool,
    /// Of a data set: the configuration, where there are several
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Of a data set: a split; may be repeated. Without it, all splits of the configuration
    #[arg(long, value_name = "NAME")]
    split: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn pull(args: &PullArgs, terminal: &Terminal) -> Result<(), Failure> {
    let is_dataset = args.dataset || DatasetPath::is_one(&args.id);
    if is_dataset {
        return pull_dataset(args, terminal);
    }
    if args.config.is_some() || !args.split.is_empty() {
        let fault =
            Fault::new("--config and --split are of data sets, and no data set is asked for");
        return Err(Failure::new(Exit::Usage, fault.hint("add `--dataset`")));
    }
    let started = Instant::now();
    let id = RepoId::parse(&args.id).map_err(crate::hub::HubError::from)?;
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

fn pull_dataset(args: &PullArgs, terminal: &Terminal) -> Result<(), Failure> {
    let started = Instant::now();
    let path = if DatasetPath::is_one(&args.id) {
        DatasetPath::parse(&args.id)
    } else {
        DatasetPath::parse_id(&args.id)
    };
    let path = path.map_err(crate::hub::HubError::from)?;
    if let (Some(files), true) = (&path.files, args.config.is_some() || !args.split.is_empty()) {
        let fault = Fault::new(format!(
            "--config and --split do not go with `{files}`, which names files"
        ));
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("leave out the one or the other"),
        ));
    }
    let splits = Some(args.split.clone()).filter(|splits| !splits.is_empty());
    let request = DatasetRequest {
        path,
        config: args.config.clone(),
        splits,
    };
    let leaving = Leaving::listen()?;
    let pulled = crate::hub::pull_dataset(&Environment::read(), &request, &|event| {
        terminal.take(&event);
    });
    terminal.stop();
    let pulled = pulled?;
    drop(leaving);
    for note in pulled.snapshot.notes() {
        terminal.say(&format!("note: {note}"));
    }
    if args.json {
        let mut object = dataset_object(&pulled);
        object["seconds"] = json!(started.elapsed().as_secs_f64());
        return print(object);
    }
    print_files(&pulled.files)?;
    let (snapshot, files, whole) = (
        &pulled.snapshot,
        pulled.files.len(),
        pulled.files.iter().map(|(_, bytes)| bytes).sum(),
    );
    let (whole, new) = (HumanBytes(whole), HumanBytes(pulled.downloaded_bytes));
    let config = snapshot.config.as_ref().map_or_else(String::new, |config| {
        format!("configuration `{}`, ", printable(config))
    });
    let splits: Vec<&str> = snapshot
        .splits
        .iter()
        .map(|split| split.name.as_str())
        .collect();
    let commit = snapshot.pinned();
    print(format_args!(
        "{files} files, {whole}, {new} downloaded; {config}{}; commit {}",
        printable(&splits.join(", ")),
        commit.revision()
    ))?;
    print(snapshot.folder.display())
}

fn dataset_object(pulled: &PulledDataset) -> Value {
    let mut object = pulled.snapshot.to_value();
    object["folder"] = json!(pulled.snapshot.folder.display().to_string());
    object["files"] = listed(&pulled.files);
    object["bytes"] = json!(pulled.files.iter().map(|(_, bytes)| bytes).sum::<u64>());
    object["downloaded_bytes"] = json!(pulled.downloaded_bytes);
    object
}

fn listed(files: &[(String, u64)]) -> Value {
    files
        .iter()
        .map(|(name, bytes)| json!({"name": name, "bytes": bytes}))
        .collect()
}

fn object(pulled: &Pulled) -> Value {
    let Pulled {
        snapshot,
        files,
        downloaded_bytes,
        skipped,
    } = pulled;
    json!({
        "id": snapshot.id.repository(),
        "revision": snapshot.id.revision(),
        "commit": snapshot.commit.as_str(),
        "folder": snapshot.folder.display().to_string(),
        "files": listed(files),
        "bytes": files.iter().map(|(_, bytes)| bytes).sum::<u64>(),
        "downloaded_bytes": downloaded_bytes,
        "skipped_files": skipped,
    })
}

fn print_files(files: &[(String, u64)]) -> Result<(), Failure> {
    let width = files
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    files.iter().try_for_each(|(name, bytes)| {
        print(format_args!(
            "{:<width$}  {}",
            printable(name),
            HumanBytes(*bytes)
        ))
    })
}

fn print_lines(pulled: &Pulled) -> Result<(), Failure> {
    print_files(&pulled.files)?;
    let (files, bytes) = (
        pulled.files.len(),
        pulled.files.iter().map(|(_, bytes)| bytes).sum(),
    );
    let skipped = if pulled.skipped > 0 {
        format!(", {} of no use here left there", pulled.skipped)
    } else {
        String::new()
    };
    let (whole, new) = (HumanBytes(bytes), HumanBytes(pulled.downloaded_bytes));
    print(format_args!(
        "{files} files, {whole}, {new} downloaded{skipped}; commit {}",
        pulled.snapshot.commit
    ))?;
    print(pulled.snapshot.folder.display())
}
