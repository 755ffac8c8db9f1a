//! `rankine push`: uploads an adapter with its card to a repository of the Hub, in one commit.
//! Paths of this machine are not uploaded.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::Args;
use indicatif::HumanBytes;
use regex::Regex;
use serde_json::{Value, json};

use super::{Failure, print};
use crate::adapter::{LABELS, peft};
use crate::data::tokenizer_files::{NAMES, named_template_files};
use crate::fault::{Exit, Fault, shell_word};
use crate::files::license::notice_paths;
use crate::files::{JSON_BYTES, read_text_up_to};
use crate::hub::{Content, Environment, HubError, Pushed, RepoId, Shipment, Visibility};
use crate::model::CHAT_TEMPLATE;
use crate::report::Terminal;
use crate::run::{Lock, SHARED_LOCK, find_adapter, is_finished, lock_above};
use crate::train::{Checkpoint, RunFolder};

/// An absolute path of two or more parts in a text, on any system.
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    let path =
        r"(?:^|[\s`'\x22(=,\[{<>])((?:~?/|[A-Za-z]:[\\/]|\\\\)[\w.+-]+[/\\][^\s`'\x22)\]>]+)";
    Regex::new(path).expect("the pattern is valid")
});

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// The folder of a run, a checkpoint or an adapter, or the Hub id of one that was pulled
    #[arg(value_name = "RUN|ADAPTER")]
    subject: PathBuf,
    /// The repository, owner/name; it is made if it is not there
    id: String,
    /// Make the repository private, and refuse one that others can see
    #[arg(long)]
    private: bool,
    /// The branch, which has to be there unless it is the main one
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    revision: String,
    /// Title of the commit
    #[arg(long, value_name = "TEXT", default_value = "LoRA adapter")]
    message: String,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn push(args: &PushArgs, terminal: &Terminal) -> Result<(), Failure> {
    let id = id(args)?;
    let parts = UploadParts::find(&args.subject)?;
    for note in parts.notes() {
        terminal.say(&format!("note: {note}"));
    }
    let visibility = if args.private {
        Visibility::Private
    } else {
        Visibility::AsOwner
    };
    let shipment = Shipment {
        id,
        files: parts.files()?,
        message: args.message.clone(),
        visibility,
    };
    let pushed = crate::hub::push(&Environment::read(), &shipment, &|event| {
        terminal.take(&event);
    });
    terminal.stop();
    let pushed = pushed?;
    if args.json {
        print(object(&pushed))
    } else {
        print_lines(&pushed)
    }
}

fn id(args: &PushArgs) -> Result<RepoId, Failure> {
    let id = RepoId::parse(&args.id).map_err(HubError::from)?;
    if id.owner_and_name().is_none() || args.id.contains('@') {
        let fault = Fault::new(format!(
            "`{}` is no repository to push to, expected `owner/name`",
            args.id
        ));
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("name your account before the `/`, and a branch with `--revision`"),
        ));
    }
    Ok(id.at(&args.revision).map_err(HubError::from)?)
}

/// Parts of an upload.
struct UploadParts {
    adapter: PathBuf,
    run: Option<PathBuf>,
    card: Option<PathBuf>,
    lock: Option<PathBuf>,
}

impl UploadParts {
    /// Finds the adapter of a run with the run's files, or an adapter with the files beside it.
    fn find(subject: &Path) -> Result<Self, Failure> {
        let is_there = |path: PathBuf| Some(path).filter(|path| path.is_file());
        let of_run = subject.join(RunFolder::ADAPTER);
        let is_run = peft::files(&of_run)[0].exists() && !peft::files(subject)[0].exists();
        let card = is_there(subject.join(RunFolder::CARD));
        if is_run {
            let lock = is_there(subject.join(RunFolder::LOCK));
            return Ok(Self {
                adapter: of_run,
                run: Some(subject.to_owned()),
                card,
                lock,
            });
        }
        let adapter = find_adapter(subject)?;
        let lock = lock_above(&adapter);
        let card = card.or_else(|| is_there(adapter.join(RunFolder::CARD)));
        Ok(Self {
            adapter,
            run: None,
            card,
            lock,
        })
    }

    fn notes(&self) -> Vec<String> {
        let checkpoint = self.run.as_ref().filter(|run| Checkpoint::is_one(run));
        let checkpoint = checkpoint.map(|path| {
            format!(
                "`{}` is a checkpoint: its adapter is uploaded as it was then",
                path.display()
            )
        });
        let unfinished = self
            .run
            .as_ref()
            .filter(|run| !is_finished(run) && !Checkpoint::is_one(run));
        let unfinished = unfinished.map(|run| {
            format!(
                "run `{}` is not finished: its best adapter so far is uploaded",
                run.display()
            )
        });
        let beside = self.run.as_ref().unwrap_or(&self.adapter).display();
        let card = format!(
            "`{beside}` has no {}: the repository gets no card",
            RunFolder::CARD
        );
        checkpoint
            .into_iter()
            .chain(unfinished)
            .chain(self.card.is_none().then_some(card))
            .collect()
    }

    /// Reads and checks the small files, and opens the weights.
    fn files(&self) -> Result<Vec<(String, Content)>, Failure> {
        peft::read_config(&self.adapter)?;
        peft::open(&self.adapter)?;
        let [config, weights] = peft::files(&self.adapter);
        let mut files = vec![small(&config)?];
        if let Some(card) = &self.card {
            files.push(small(card)?);
        }
        if let Some(lock) = &self.lock {
            files.push((
                SHARED_LOCK.to_owned(),
                Content::Bytes(Lock::read(lock)?.portable_text().into_bytes()),
            ));
        }
        let labels = self.adapter.join(LABELS);
        if labels.exists() {
            files.push(small(&labels)?);
        }
        files.extend(tokenizer_files(&self.adapter)?);
        let beside = self.card.iter().filter_map(|card| card.parent());
        files.extend(
            beside
                .flat_map(notice_paths)
                .map(|path| (name(&path), Content::File(path))),
        );
        files.push((name(&weights), Content::File(weights)));
        Ok(files)
    }
}

/// Returns the tokenizer files that come with an adapter, including its templates.
fn tokenizer_files(adapter: &Path) -> Result<Vec<(String, Content)>, Failure> {
    let tokenizer = adapter.join(NAMES[0]);
    if !tokenizer.is_file() {
        return Ok(Vec::new());
    }
    let configs = NAMES[1..]
        .iter()
        .map(|name| adapter.join(name))
        .filter(|path| path.is_file());
    let mut files = configs
        .map(|path| small(&path))
        .collect::<Result<Vec<_>, _>>()?;
    let template = Some(adapter.join(CHAT_TEMPLATE)).filter(|path| path.is_file());
    files.extend(
        [tokenizer]
            .into_iter()
            .chain(template)
            .map(|path| (name(&path), Content::File(path))),
    );
    for path in named_template_files(adapter)? {
        let folder = path.parent().map(name).unwrap_or_default();
        files.push((format!("{folder}/{}", name(&path)), Content::File(path)));
    }
    Ok(files)
}

/// Returns a small file unchanged, or refuses it if it contains paths of this machine.
fn small(path: &Path) -> Result<(String, Content), Failure> {
    let text = read_text_up_to(path, JSON_BYTES)?;
    if let Some(place) = place_in(&text) {
        let fault = Fault::new(format!(
            "`{}` names `{place}`, a place on this machine",
            path.display()
        ));
        let hint = format!(
            "edit it, or train with relative paths; `grep -n {} {}` finds it",
            shell_word(place),
            path.display()
        );
        return Err(Failure::new(Exit::Input, fault.hint(hint)));
    }
    Ok((name(path), Content::Bytes(text.into_bytes())))
}

fn place_in(text: &str) -> Option<&str> {
    Some(PLACE.captures(text)?.get(1)?.as_str())
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn object(pushed: &Pushed) -> Value {
    let files = pushed
        .files
        .iter()
        .map(|(name, bytes)| json!({"name": name, "bytes": bytes}));
    json!({
        "url": pushed.url,
        "commit": pushed.commit.as_ref().map(|commit| commit.as_str()),
        "files": files.collect::<Vec<_>>(),
        "uploaded_bytes": pushed.uploaded_bytes,
    })
}

fn print_lines(pushed: &Pushed) -> Result<(), Failure> {
    let width = pushed
        .files
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0);
    for (name, bytes) in &pushed.files {
        print(format_args!("{name:<width$}  {}", HumanBytes(*bytes)))?;
    }
    match &pushed.commit {
        Some(commit) => print(format_args!(
            "commit {commit}, {} of large files sent",
            HumanBytes(pushed.uploaded_bytes)
        ))?,
        None => print("nothing to do: every file is there as it is")?,
    }
    print(&pushed.url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_this_machine_is_seen() {
        for (text, place) in [
            ("- `/home/anna/rows.parquet`", "/home/anna/rows.parquet"),
            ("{\"base\": \"/srv/models/base\"}", "/srv/models/base"),
            ("path=C:\\data\\x.parquet", "C:\\data\\x.parquet"),
            ("~/models/base", "~/models/base"),
            ("`/mnt/My Files/x.parquet`", "/mnt/My"),
        ] {
            assert_eq!(place_in(text), Some(place), "{text}");
        }
        for text in [
            "https://huggingface.co/owner/name",
            "data/rows.parquet",
            "and/or",
            "alpha / r and q/k",
            "owner/name",
            "1/2",
            "</a>",
        ] {
            assert_eq!(place_in(text), None, "{text}");
        }
    }
}
