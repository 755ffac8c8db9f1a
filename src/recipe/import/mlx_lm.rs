//! mlx-lm. Keys: `CONFIG_DEFAULTS` in `mlx_lm/lora.py` of 22 August 2026, which also says what a
//! config leaves out.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::super::tree::{Node, NodeValue};
use super::datasets::{Located, Part, locate, on_hub};
use super::draft::{Data, Draft, is_off};
use super::hugging_face as hf;
use super::key_outcome::KeyOutcome;
use super::text::{list, number, texts, whole};
use super::{Given, Rule, Table};
use crate::fault::yaml_word;
use crate::files::{JSON_BYTES, read_text_up_to};

/// Bytes of a first row that are looked at.
const MOST_OF_A_ROW: u64 = 1 << 22;
/// The dataset of a config without one.
const DEFAULT_DATA: &str = "mlx-community/WikiSQL";
const OPTIMIZER: &str = "an argument of the optimizer that is not supported";

pub(super) const TABLES: &[Table] = &[TOP];

const TOP: Table = &[
    (&["model"], Rule::Same("base_model")),
    (&["train"], Rule::Dropped("`rankine train` trains")),
    (&["fine_tune_type"], Rule::Read(fine_tune_type)),
    (&["optimizer"], Rule::Read(optimizer)),
    (&["optimizer_config"], Rule::Within),
    (&["optimizer_config.adamw"], Rule::Within),
    (&["optimizer_config.adamw.betas"], Rule::Read(betas)),
    (
        &["optimizer_config.adamw.eps"],
        Rule::Read(|draft, given| of_adamw(draft, given, "training.adam_epsilon")),
    ),
    (
        &["optimizer_config.adamw.weight_decay"],
        Rule::Read(|draft, given| of_adamw(draft, given, "training.weight_decay")),
    ),
    (
        &["optimizer_config.adamw.bias_correction"],
        Rule::Read(bias_correction),
    ),
    (
        &[
            "optimizer_config.adam",
            "optimizer_config.muon",
            "optimizer_config.sgd",
            "optimizer_config.adafactor",
        ],
        Rule::Refused(OPTIMIZER),
    ),
    (&["data"], Rule::Read(data_path)),
    (&["hf_dataset"], Rule::Read(hf_dataset)),
    (&["seed"], Rule::Same("training.seed")),
    (&["num_layers"], Rule::Read(num_layers)),
    (&["batch_size"], Rule::Same("training.micro_batch_size")),
    (&["iters"], Rule::Read(iters)),
    (&["grad_accumulation_steps"], Rule::Read(accumulation)),
    (&["learning_rate"], Rule::Read(learning_rate)),
    (&["max_seq_length"], Rule::Same("training.sequence_len")),
    (
        &["grad_checkpoint"],
        Rule::Same("training.gradient_checkpointing"),
    ),
    (&["lora_parameters"], Rule::Within),
    (
        &["lora_parameters.rank"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.r")),
    ),
    (&["lora_parameters.scale"], Rule::Read(scale)),
    (
        &["lora_parameters.alpha"],
        Rule::Refused("mlx-lm reads `scale`, the factor itself; alpha is scale times rank"),
    ),
    (
        &["lora_parameters.dropout"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.dropout")),
    ),
    (&["lora_parameters.keys"], Rule::Read(keys)),
    (&["lr_schedule"], Rule::Within),
    (&["lr_schedule.name"], Rule::Read(schedule)),
    (&["lr_schedule.warmup"], Rule::Same("training.warmup_steps")),
    (
        &["lr_schedule.warmup_init"],
        Rule::Refused("the warm-up starts at 0"),
    ),
    (&["lr_schedule.arguments"], Rule::Read(arguments)),
    (&["mask_prompt"], Rule::Read(mask_prompt)),
    (&["steps_per_eval"], Rule::Read(steps_per_eval)),
    (&["save_every"], Rule::Read(hf::save_steps)),
    (
        &["val_batches", "test", "test_batches"],
        Rule::Dropped(hf::EVALUATING),
    ),
    (&["adapter_path"], Rule::Same("output_dir")),
    (
        &["resume_adapter_file"],
        Rule::Refused("an adapter of mlx-lm's own layout is not read; start afresh"),
    ),
    (
        &["steps_per_report", "report_to", "project_name"],
        Rule::Dropped(hf::LOGGING),
    ),
    (
        &[
            "config",
            "clear_cache_threshold",
            "trust_remote_code",
            "prompt_feature",
            "completion_feature",
            "text_feature",
            "chat_feature",
        ],
        Rule::Dropped(hf::RUNNING),
    ),
];

fn fine_tune_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some(word @ ("lora" | "full")) => draft.set("adapter.method", word),
        Some("dora") => {
            draft.set("adapter.method", "lora");
            draft.set("adapter.use_dora", "true")
        }
        _ => KeyOutcome::refused("`lora`, `dora` and `full` are supported"),
    }
}

fn is_full(draft: &Draft) -> bool {
    draft.text("fine_tune_type") == Some("full")
}

fn in_adapter(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if is_full(draft) {
        KeyOutcome::dropped("every weight trains, and nothing reads it")
    } else {
        draft.same(key, given)
    }
}

/// Maps the optimizer. mlx's Adam and AdamW do not correct bias by default.
fn optimizer(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some(word @ ("adam" | "adamw")) => match draft.set("training.optimizer", "adamw") {
            KeyOutcome::Mapped(_)
                if !draft.is_on(&format!("optimizer_config.{word}.bias_correction")) =>
            {
                KeyOutcome::replaced(
                    "AdamW with bias correction, which mlx-lm leaves out unless it is told: the \
                    first steps are smaller",
                )
            }
            other => other,
        },
        _ => KeyOutcome::refused("this optimizer is not supported"),
    }
}

fn of_adamw(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if draft.text("optimizer") == Some("adamw") {
        draft.same(key, given)
    } else {
        KeyOutcome::dropped("of `optimizer: adamw` only")
    }
}

fn betas(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.text("optimizer") != Some("adamw") {
        return KeyOutcome::dropped("of `optimizer: adamw` only");
    }
    match &texts(given.node)[..] {
        [one, two] => {
            draft.set("training.adam_beta1", one.clone());
            draft.set("training.adam_beta2", two.clone());
            KeyOutcome::Mapped(format!(
                "training.adam_beta1: {one}, training.adam_beta2: {two}"
            ))
        }
        _ => KeyOutcome::refused("expected two numbers"),
    }
}

fn bias_correction(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::replaced("the bias of the moments is corrected")
    } else {
        KeyOutcome::dropped("the bias of the moments is corrected, as here")
    }
}

/// Maps data sets of the Hub with their splits and columns.
fn hf_dataset(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match hub_sets(given.node) {
        Ok(sets)
            if sets
                .iter()
                .any(|set| set.data(set.splits[0], "all", &draft.folder).is_none()) =>
        {
            KeyOutcome::refused("a `path` is no id of a data set, or a split is none that is read")
        }
        Ok(sets) => KeyOutcome::Mapped(format!(
            "datasets: {}",
            sets.iter()
                .map(|set| set.path)
                .collect::<Vec<_>>()
                .join(", ")
        )),
        Err(reason) => KeyOutcome::refused(reason),
    }
}

/// An element of `hf_dataset`.
struct HubSet<'a> {
    path: &'a str,
    config: Option<&'a str>,
    revision: Option<&'a str>,
    /// Splits to train on and to validate on; mlx-lm's defaults if none are given.
    splits: [&'a str; 2],
    format: &'static str,
    columns: Vec<(&'static str, &'a str)>,
}

fn hub_sets(node: &Node) -> Result<Vec<HubSet<'_>>, String> {
    match &node.kind {
        NodeValue::List(nodes) if !nodes.is_empty() => nodes.iter().map(hub_set).collect(),
        _ => Ok(vec![hub_set(node)?]),
    }
}

fn hub_set(node: &Node) -> Result<HubSet<'_>, String> {
    const READ: [&str; 9] = [
        "path",
        "config",
        "train_split",
        "valid_split",
        "test_split",
        "prompt_feature",
        "completion_feature",
        "chat_feature",
        "text_feature",
    ];
    let NodeValue::Map(entries) = &node.kind else {
        return Err("expected keys with values".into());
    };
    if let Some(key) = entries.keys().find(|key| !READ.contains(&key.as_str())) {
        return Err(format!("`{key}` of a data set is not supported"));
    }
    let text = |key: &str| entries.get(key).and_then(|entry| entry.value.text());
    let mut of_config = BTreeMap::new();
    match entries.get("config").map(|entry| &entry.value.kind) {
        Some(NodeValue::Map(inner)) => {
            of_config.extend(
                inner
                    .iter()
                    .filter_map(|(key, entry)| Some((key.as_str(), entry.value.text()?))),
            );
        }
        None => {}
        Some(_) => return Err("`config` of a data set: expected keys with values".into()),
    }
    if let Some(key) = of_config
        .keys()
        .find(|key| !["name", "revision"].contains(key))
    {
        return Err(format!("`config.{key}` of a data set is not supported"));
    }
    let named = |key: &str| text(&format!("{key}_feature"));
    let is_pair = named("prompt").is_some() || named("completion").is_some();
    let (format, columns) = match (named("chat"), named("text")) {
        _ if is_pair => (
            "chat",
            vec![
                ("prompt", named("prompt").unwrap_or("prompt")),
                ("completion", named("completion").unwrap_or("completion")),
            ],
        ),
        (Some(messages), _) => ("chat", vec![("messages", messages)]),
        (None, Some(text)) => ("text", vec![("text", text)]),
        (None, None) => {
            return Err(
                "no `prompt_feature`, `completion_feature`, `chat_feature` or `text_feature` says \
                what the rows are"
                    .into(),
            );
        }
    };
    Ok(HubSet {
        path: text("path").ok_or("a data set has no `path`")?,
        config: of_config.get("name").copied(),
        revision: of_config.get("revision").copied(),
        splits: [
            text("train_split").unwrap_or("train[:80%]"),
            text("valid_split").unwrap_or("train[-10%:]"),
        ],
        format,
        columns,
    })
}

impl HubSet<'_> {
    /// Returns the recipe's dataset for one of the splits.
    fn data(&self, split: &str, train_on: &str, folder: &Path) -> Option<Data> {
        let part = Part {
            config: self.config,
            split: Some(split),
            revision: self.revision,
            files: &[],
        };
        let mut lines = on_hub(self.path, part, folder)?.lines(part);
        lines.push(("format", self.format.into()));
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(ours, name)| format!("{ours}: {}", yaml_word(name)))
            .collect();
        lines.push(("columns", format!("{{{}}}", columns.join(", "))));
        if self.format == "chat" {
            lines.push(("train_on", train_on.into()));
        }
        Some(Data {
            notes: Vec::new(),
            lines,
        })
    }
}

/// Maps a folder of `train.jsonl`, `valid.jsonl` and `test.jsonl`, or a Hub id. Only the files tell
/// the format of their rows.
fn data_path(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.at("hf_dataset").is_some() {
        return KeyOutcome::dropped("`hf_dataset` says it");
    }
    if given
        .node
        .text()
        .is_some_and(|path| on_hub(path, Part::default(), &draft.folder).is_some())
    {
        return KeyOutcome::replaced(
            "the recipe reads its splits `train` and `valid`; `format` is `chat` for rows of \
            `messages`, `completion` for `prompt` and `completion`, `text` for `text`",
        );
    }
    let folder = given.node.text().unwrap_or_default();
    match rows_of(&draft.folder.join(folder).join("train.jsonl")) {
        Some((format, _)) => KeyOutcome::Mapped(format!(
            "datasets.path: {folder}/train.jsonl, datasets.format: {format}"
        )),
        None => KeyOutcome::replaced(
            "its `train.jsonl` and `valid.jsonl` are named; `format` is `chat` for rows of \
            `messages` or of `prompt` and `completion`, `text` for `text`",
        ),
    }
}

/// Returns the format of a file's first row and its columns, as mlx-lm reads them
/// (`mlx_lm/tuner/datasets.py`); `None` where the file is not there.
fn rows_of(path: &Path) -> Option<(&'static str, Option<&'static str>)> {
    let mut line = String::new();
    let file = std::fs::File::open(path).ok()?;
    BufReader::new(file.take(MOST_OF_A_ROW))
        .read_line(&mut line)
        .ok()?;
    let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).ok()?;
    let has = |name: &str| row.contains_key(name);
    match () {
        () if has("messages") => Some(("chat", None)),
        () if has("prompt") && has("completion") => {
            Some(("chat", Some("{prompt: prompt, completion: completion}")))
        }
        () if has("text") => Some(("text", None)),
        () => None,
    }
}

/// Maps the number of last layers. Which ones these are depends on the base's `config.json`.
fn num_layers(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) {
        return if number(given.node).is_some_and(|layers| layers <= 0.0) {
            KeyOutcome::dropped("all layers")
        } else {
            KeyOutcome::refused("`full` trains every layer, not the last ones")
        };
    }
    match number(given.node) {
        Some(layers) if layers <= 0.0 => KeyOutcome::dropped("all layers"),
        Some(layers) => match last_layers(draft, layers as u64) {
            Ok(layers) => draft.set("adapter.layers_to_transform", layers),
            Err(reason) => KeyOutcome::refused(reason),
        },
        None => KeyOutcome::refused("expected a number of layers"),
    }
}

fn last_layers(draft: &Draft, wanted: u64) -> Result<String, String> {
    let base = draft.text("model").unwrap_or_default();
    let path = [draft.folder.join(base), base.into()]
        .into_iter()
        .map(|folder: std::path::PathBuf| folder.join("config.json"))
        .find(|path| path.is_file());
    let unknown = || {
        format!(
            "the last {wanted} layers: which they are depends on the base, and `{base}` is not \
            here; put its folder there, or say `num_layers: -1`"
        )
    };
    let text = read_text_up_to(&path.ok_or_else(unknown)?, JSON_BYTES)
        .map_err(|error| error.to_string())?;
    let config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let all = config["num_hidden_layers"]
        .as_u64()
        .ok_or("the base's config.json has no `num_hidden_layers`")?;
    if wanted >= all {
        return Ok(format!(
            "[{}]",
            (0..all.min(65_536))
                .map(|layer| layer.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    Ok(format!(
        "[{}]",
        (all - wanted..all)
            .map(|layer| layer.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    ))
}

/// Returns the micro-batches of an update.
fn micro_batches(draft: &Draft) -> u64 {
    draft
        .at("grad_accumulation_steps")
        .and_then(whole)
        .unwrap_or(1)
        .max(1)
}

/// Maps the number of micro-batches. There is one update per `grad_accumulation_steps` of them.
fn iters(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let micro = micro_batches(draft);
    match whole(given.node) {
        Some(iters) if iters >= micro => {
            draft.set("training.max_steps", (iters / micro).to_string())
        }
        _ => KeyOutcome::refused("expected at least as many as `grad_accumulation_steps`"),
    }
}

fn accumulation(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match draft.same("training.gradient_accumulation_steps", given) {
        KeyOutcome::Mapped(_) if number(given.node).is_some_and(|steps| steps > 1.0) => {
            KeyOutcome::replaced(
                "a step's loss is the mean over its trained tokens; mlx-lm takes \
                the mean of its micro-batches' means",
            )
        }
        other => other,
    }
}

/// Maps the learning rate. A schedule has its own.
fn learning_rate(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.at("lr_schedule.arguments").is_some() {
        KeyOutcome::dropped("`lr_schedule` says it")
    } else {
        draft.same("training.learning_rate", given)
    }
}

/// Maps `scale`, which is alpha / r.
fn scale(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) {
        return KeyOutcome::dropped("every weight trains, and nothing reads it");
    }
    let rank = draft.at("lora_parameters.rank").map_or(Some(8), whole);
    match (number(given.node), rank) {
        (Some(scale), Some(rank)) => draft.set("adapter.alpha", format!("{}", scale * rank as f64)),
        _ => KeyOutcome::refused("expected a number"),
    }
}

/// Maps module names within a block, such as `self_attn.q_proj`.
fn keys(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) {
        KeyOutcome::dropped("every weight trains, and nothing reads it")
    } else {
        draft.set("adapter.target_modules", list(&texts(given.node)))
    }
}

fn schedule(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("cosine_decay") => {
            let has_floor = floor(draft).is_some_and(|floor| floor > 0.0);
            draft.set(
                "training.lr_scheduler",
                if has_floor {
                    "cosine_with_min_lr"
                } else {
                    "cosine"
                },
            )
        }
        Some("linear_schedule") => draft.set("training.lr_scheduler", "linear"),
        _ => KeyOutcome::refused("this schedule is not supported; `cosine_decay` is"),
    }
}

/// Returns the lowest rate as a share of the peak.
fn floor(draft: &Draft) -> Option<f64> {
    let NodeValue::List(arguments) = &draft.at("lr_schedule.arguments")?.kind else {
        return None;
    };
    Some(number(arguments.get(2)?)? / number(arguments.first()?)?)
}

/// Maps the arguments of a schedule: `[rate, steps, lowest rate]` of `cosine_decay`, or
/// `[rate, lowest rate, steps]` of `linear_schedule`.
fn arguments(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let NodeValue::List(given) = &given.node.kind else {
        return KeyOutcome::refused("expected a list of numbers");
    };
    let numbers: Vec<f64> = given.iter().filter_map(number).collect();
    let (peak, steps, lowest) = match (draft.text("lr_schedule.name"), &numbers[..]) {
        (Some("cosine_decay"), [peak, steps]) => (*peak, *steps, 0.0),
        (Some("cosine_decay"), [peak, steps, lowest])
        | (Some("linear_schedule"), [peak, lowest, steps]) => (*peak, *steps, *lowest),
        _ => return KeyOutcome::refused("these arguments are not known"),
    };
    if numbers.len() != given.len() {
        return KeyOutcome::refused("expected a list of numbers");
    }
    let micro = micro_batches(draft);
    let warmup = draft
        .at("lr_schedule.warmup")
        .and_then(number)
        .unwrap_or(0.0);
    let total = draft.at("iters").and_then(number).unwrap_or(1000.0) / micro as f64;
    if (steps + warmup - total).abs() > warmup.max(0.5) {
        return KeyOutcome::refused(format!(
            "a schedule of {steps} steps for a run of {total}: Rankine's ends with the run"
        ));
    }
    if draft.text("lr_schedule.name") == Some("linear_schedule") && lowest > 0.0 {
        return KeyOutcome::refused("a linear schedule falls to 0");
    }
    let rate = draft.set("training.learning_rate", format!("{peak}"));
    if lowest > 0.0 {
        draft.set("training.min_lr_rate", format!("{}", lowest / peak));
    }
    rate
}

fn mask_prompt(_: &mut Draft, given: &Given) -> KeyOutcome {
    KeyOutcome::Mapped(format!(
        "datasets.train_on: {}",
        if is_off(given.node) { "all" } else { "last" }
    ))
}

fn steps_per_eval(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let micro = micro_batches(draft);
    match whole(given.node) {
        Some(steps) if steps >= micro => {
            draft.set("evaluation.eval_steps", (steps / micro).to_string())
        }
        _ => KeyOutcome::dropped("when it is evaluated changes no weight"),
    }
}

/// Adds the defaults of `CONFIG_DEFAULTS` that the config does not state, and the data.
pub(super) fn finish(draft: &mut Draft) {
    for (told_by, key, value) in [
        (&["model"][..], "base_model", "Qwen/Qwen3-0.6b"),
        (&["seed"], "training.seed", "0"),
        (&["batch_size"], "training.micro_batch_size", "4"),
        (&["iters"], "training.max_steps", "1000"),
        (
            &["learning_rate", "lr_schedule.arguments"],
            "training.learning_rate",
            "1e-5",
        ),
        (&["max_seq_length"], "training.sequence_len", "2048"),
        (&["lr_schedule.name"], "training.lr_scheduler", "constant"),
        (
            &["grad_checkpoint"],
            "training.gradient_checkpointing",
            "false",
        ),
        (&["steps_per_eval"], "evaluation.eval_steps", "200"),
        (&["adapter_path"], "output_dir", "adapters"),
    ] {
        draft.default(told_by, key, value);
    }
    draft.add("training.max_grad_norm", "0", "mlx-lm clips no gradient");
    draft.add("training.truncation", "truncate", "mlx-lm cuts longer rows");
    if draft.text("optimizer") == Some("adamw") {
        draft.default(
            &["optimizer_config.adamw.weight_decay"],
            "training.weight_decay",
            "0.01",
        );
    }
    draft.default(&["fine_tune_type"], "adapter.method", "lora");
    if !is_full(draft) {
        adapter_defaults(draft);
    }
    let train_on = if draft.is_on("mask_prompt") {
        "last"
    } else {
        "all"
    };
    let path = draft.text("data").unwrap_or(DEFAULT_DATA);
    let [train, validation] = if let Some(Ok(sets)) = draft.at("hf_dataset").map(hub_sets) {
        [0, 1].map(|split| {
            sets.iter()
                .filter_map(|set| set.data(set.splits[split], train_on, &draft.folder))
                .collect()
        })
    } else if on_hub(path, Part::default(), &draft.folder).is_some() {
        ["train", "valid"].map(|split| {
            data_of_hub(path, split, train_on, &draft.folder)
                .into_iter()
                .collect()
        })
    } else {
        data_of_folder(path, train_on, &draft.folder).map(|data| vec![data])
    };
    (draft.train, draft.validation) = (train, validation);
}

/// Adds what mlx-lm fills in for an adapter.
fn adapter_defaults(draft: &mut Draft) {
    let rank = draft
        .at("lora_parameters.rank")
        .map_or(Some(8), whole)
        .unwrap_or(8);
    draft.default(&["lora_parameters.rank"], "adapter.r", "8");
    draft.default(
        &["lora_parameters.scale"],
        "adapter.alpha",
        &(20 * rank).to_string(),
    );
    draft.default(
        &["lora_parameters.keys"],
        "adapter.target_modules",
        "all-linear",
    );
    if draft.at("num_layers").is_none() {
        match last_layers(draft, 16) {
            Ok(layers) => {
                draft.add(
                    "adapter.layers_to_transform",
                    layers,
                    "mlx-lm adapts the last 16 layers unless it is told",
                );
            }
            Err(reason) => draft.refuse_whole("num_layers", &reason),
        }
    }
}

/// Returns a split of a dataset of the Hub; `None` if `path` is none.
fn data_of_hub(path: &str, split: &str, train_on: &str, folder: &Path) -> Option<Data> {
    let part = Part {
        split: Some(split),
        ..Part::default()
    };
    let mut lines = on_hub(path, part, folder)?.lines(part);
    lines.extend([("format", "chat".into()), ("train_on", train_on.into())]);
    Some(Data {
        notes: vec!["Say what its rows are in `format`.".into()],
        lines,
    })
}

/// Returns the training and validation rows of a folder, `train.jsonl` and `valid.jsonl`.
fn data_of_folder(path: &str, train_on: &str, folder: &Path) -> [Data; 2] {
    // A word alone is a folder to mlx-lm first.
    let located = if path.contains('/') {
        locate(path, folder)
    } else {
        Located {
            path: yaml_word(path),
            task: None,
        }
    };
    let named = located.path.trim_matches('"').trim_end_matches('/');
    let layout = rows_of(&folder.join(named).join("train.jsonl"));
    ["train", "valid"].map(|file| {
        let path = yaml_word(&format!("{named}/{file}.jsonl"));
        let task = located.task.iter().map(|task| format!("{task}."));
        let unknown = layout
            .is_none()
            .then(|| "Say what its rows are in `format`.".into());
        let (format, columns) = layout.unwrap_or(("chat", None));
        let columns = columns.map(|columns| ("columns", columns.to_owned()));
        let lines = [("path", path), ("format", format.into())];
        Data {
            notes: task.chain(unknown).collect(),
            lines: lines
                .into_iter()
                .chain(columns)
                .chain([("train_on", train_on.into())])
                .collect(),
        }
    })
}
