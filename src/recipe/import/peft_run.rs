//! The folder of a finished run of transformers and PEFT. TRL and Unsloth are scripts, so their
//! configs are the files that a run leaves: `adapter_config.json`, `training_args.json` and
//! `trainer_state.json`. None of them names the data.

use std::path::Path;

use super::draft::{Data, Draft, is_off};
use super::hugging_face as hf;
use super::key_outcome::KeyOutcome;
use super::text::{list, texts};
use super::{Given, ImportError, Imported, Rule, Table, Tool, read};
use crate::fault::{Fault, yaml_word};
use crate::recipe::RecipeError;

/// The file that every adapter folder has.
pub(super) const CONFIG: &str = "adapter_config.json";
/// A file that a run may leave.
const ARGUMENTS: &str = "training_args.json";
const STATE: &str = "trainer_state.json";

const ADAPTER: &str = "this kind of adapter is not supported";

pub(super) const TABLES: &[Table] = &[TOP];
const FURTHER: [(&str, &[Table]); 2] =
    [(ARGUMENTS, &[OF_TRAINERS, hf::TABLE]), (STATE, &[OF_STATE])];

const TOP: Table = &[
    (&["base_model_name_or_path"], Rule::Read(base_model)),
    (&["revision"], Rule::Dropped("it stands in `base_model`")),
    (&["peft_type"], Rule::Read(peft_type)),
    (&["task_type"], Rule::Read(task_type)),
    (&["r"], Rule::Same("adapter.r")),
    (&["lora_alpha"], Rule::Same("adapter.alpha")),
    (&["lora_dropout"], Rule::Same("adapter.dropout")),
    (&["target_modules"], Rule::Read(targets)),
    (
        &["target_parameters"],
        Rule::Read(|draft, given| filled(draft, given, "adapter.target_parameters")),
    ),
    (
        &["modules_to_save"],
        Rule::Read(|draft, given| filled(draft, given, "adapter.modules_to_save")),
    ),
    (
        &["layers_to_transform"],
        Rule::Same("adapter.layers_to_transform"),
    ),
    (
        &["rank_pattern"],
        Rule::Read(|draft, given| filled(draft, given, "adapter.rank_pattern")),
    ),
    (
        &["alpha_pattern"],
        Rule::Read(|draft, given| filled(draft, given, "adapter.alpha_pattern")),
    ),
    (
        &["trainable_token_indices"],
        Rule::Read(|draft, given| filled(draft, given, "adapter.trainable_token_indices")),
    ),
    (&["use_dora"], Rule::Same("adapter.use_dora")),
    (&["use_rslora"], Rule::Same("adapter.use_rslora")),
    (&["lora_bias"], Rule::Same("adapter.lora_bias")),
    (
        &["init_lora_weights"],
        Rule::Same("adapter.init_lora_weights"),
    ),
    (
        &[
            "bias",
            "fan_in_fan_out",
            "layer_replication",
            "layers_pattern",
            "exclude_modules",
            "alora_invocation_tokens",
            "arrow_config",
            "corda_config",
            "eva_config",
            "loftq_config",
            "lora_ga_config",
            "kasa_config",
            "monteclora_config",
            "velora_config",
            "use_bdlora",
            "use_qalora",
            "ensure_weight_tying",
        ],
        Rule::Refused(ADAPTER),
    ),
    (
        &["megatron_config"],
        Rule::Refused("training by Megatron is not supported"),
    ),
    (
        &[
            "megatron_core",
            "qalora_group_size",
            "inference_mode",
            "auto_mapping",
            "peft_version",
        ],
        Rule::Dropped("it changes nothing of this adapter"),
    ),
];

/// Arguments that trainers add to those of transformers.
const OF_TRAINERS: Table = &[
    (
        &[
            "model_name_or_path",
            "model_init_kwargs",
            "chat_template_path",
            "dataset_text_field",
            "dataset_kwargs",
            "dataset_num_proc",
            "pad_token",
            "pad_to_multiple_of",
            "padding_free",
            "dataset_batch_size",
        ],
        Rule::Dropped("how the script loaded base and rows"),
    ),
    (
        &["max_length", "max_seq_length"],
        Rule::Same("training.sequence_len"),
    ),
    (&["packing"], Rule::Same("training.sample_packing")),
    (
        &["packing_strategy", "eval_packing"],
        Rule::Dropped("rows that share a sequence see themselves only"),
    ),
    (
        &["completion_only_loss", "assistant_only_loss"],
        Rule::Dropped("`train_on` says what is trained"),
    ),
    (&["loss_type"], Rule::Read(loss_type)),
    (
        &["eos_token"],
        Rule::Refused("this change of the training is not supported"),
    ),
];

/// `trainer_state.json`, the result of a run. It tells steps and rows if the arguments are missing.
const OF_STATE: Table = &[
    (
        &["max_steps"],
        Rule::Read(|draft, given| {
            unless_said(draft, given, "training.num_epochs", "training.max_steps")
        }),
    ),
    (
        &["train_batch_size"],
        Rule::Read(|draft, given| {
            unless_said(
                draft,
                given,
                "training.micro_batch_size",
                "training.micro_batch_size",
            )
        }),
    ),
    (
        &[
            "best_metric",
            "best_global_step",
            "best_model_checkpoint",
            "epoch",
            "global_step",
            "is_hyper_param_search",
            "is_local_process_zero",
            "is_world_process_zero",
            "log_history",
            "num_input_tokens_seen",
            "stateful_callbacks",
            "total_flos",
            "trial_name",
            "trial_params",
            "num_train_epochs",
            "eval_steps",
            "save_steps",
            "logging_steps",
        ],
        Rule::Dropped("what the run came to, not how it was made"),
    ),
];

fn unless_said(draft: &mut Draft, given: &Given, said: &str, key: &str) -> KeyOutcome {
    if draft.has(said) {
        KeyOutcome::dropped("the arguments of the run say it")
    } else {
        draft.same(key, given)
    }
}

/// Imports the folder, or its `adapter_config.json`.
pub(super) fn import(path: &Path) -> Result<Imported, ImportError> {
    let config = if path.is_dir() {
        path.join(CONFIG)
    } else {
        path.to_owned()
    };
    let root = read(&config).map_err(|error| match error {
        ImportError::Recipe(RecipeError::Missing { .. }) if path.is_dir() => ImportError::Faults {
            faults: vec![
                Fault::new(format!("`{}` has no {CONFIG}", path.display()))
                    .hint("name a config file, or the folder of an adapter"),
            ],
        },
        other => other,
    })?;
    let folder = config.parent().map(Path::to_owned).unwrap_or_default();
    let is_there = |(name, _): &(&str, &[Table])| folder.join(name).is_file();
    let further: Vec<_> = FURTHER.into_iter().filter(is_there).collect();
    let trees = further
        .iter()
        .map(|(name, _)| read(&folder.join(name)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut draft = Draft::new(Tool::PeftRun, &config, &root);
    draft.walk(TABLES);
    for ((name, tables), tree) in further.iter().zip(&trees) {
        draft.walk_file(tree, name, tables);
    }
    finish(&mut draft);
    Ok(draft.into_imported())
}

/// Maps TRL's loss of supervised fine-tuning.
fn loss_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("nll") => KeyOutcome::dropped("cross-entropy, as here"),
        Some("dft") => draft.set("objective.loss_type", "dft"),
        _ => KeyOutcome::refused(
            "of runs on preferences the arguments are not read: write `objective` by hand",
        ),
    }
}

fn base_model(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let Some(base) = given.node.text() else {
        return KeyOutcome::refused("expected a folder or a Hub id");
    };
    let whole = draft
        .text("revision")
        .map_or_else(|| base.to_owned(), |revision| format!("{base}@{revision}"));
    draft.set("base_model", yaml_word(&whole))
}

fn peft_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if given.node.text() == Some("LORA") {
        draft.set("adapter.method", "lora")
    } else {
        KeyOutcome::refused(ADAPTER)
    }
}

fn task_type(_: &mut Draft, given: &Given) -> KeyOutcome {
    if given.node.text() == Some("CAUSAL_LM") {
        KeyOutcome::dropped("the next token is predicted, as here")
    } else {
        KeyOutcome::refused("only causal language models train")
    }
}

fn targets(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if given.node.is_empty() {
        return KeyOutcome::dropped("empty: not set");
    }
    let is_list = matches!(given.node.kind, super::super::tree::NodeValue::List(_));
    if is_list {
        draft.set("adapter.target_modules", list(&texts(given.node)))
    } else {
        draft.same("adapter.target_modules", given)
    }
}

fn filled(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("empty: not set")
    } else {
        draft.same(key, given)
    }
}

/// Leaves the data to the user, since no file names them.
pub(super) fn finish(draft: &mut Draft) {
    let note = "A finished run does not say its data: name them here.";
    draft.train = vec![Data {
        notes: vec![note.into()],
        lines: vec![("path", "data.parquet".into()), ("format", "chat".into())],
    }];
}
