//! Keys of transformers' `TrainingArguments` (5.23), which LLaMA-Factory and the files of a
//! finished run share, and words that several tools share.

use super::super::tree::{NodeValue, shorten};
use super::draft::{Draft, is_off};
use super::key_outcome::KeyOutcome;
use super::text::{flow, number, texts, unquoted, whole};
use super::{Given, Rule, Table, Tool};
use crate::fault::yaml_word;
use crate::terms::{Optimizer, Scheduler, Term};

pub(super) const LOGGING: &str = "logging changes no number; Rankine writes metrics.jsonl, \
    TensorBoard and a report";
pub(super) const HUB: &str = "nothing is uploaded while a run trains; `rankine push` does it";
pub(super) const KERNELS: &str = "how something is computed, not what; Rankine has kernels of its \
    own";
pub(super) const PARALLEL: &str = "Rankine trains in one process";
pub(super) const WORKERS: &str = "rows are tokenized once and cached; there are no workers";
pub(super) const RUNNING: &str = "it says how the program runs, not what it computes";
pub(super) const EVALUATING: &str = "it says how evaluation runs; Rankine scores every validation \
    row";
pub(super) const SAVING: &str = "it says how checkpoints are written; Rankine's are whole and can \
    be resumed from";
pub(super) const LOSS: &str = "another loss than the mean cross-entropy of the trained tokens is \
    not supported";
pub(super) const BATCH: &str = "Rankine trains on one device; multiply \
    `gradient_accumulation_steps` by the number of GPUs for the same rows in a step";
pub(super) const FOREIGN_RUN: &str =
    "a run of another program cannot be resumed; start from its adapter with `adapter.init_from`";
const PART_OF_ANOTHER: &str = "it is an argument of the key beside it, which Rankine does not have";

pub(super) const TABLE: Table = &[
    (&["output_dir"], Rule::Same("output_dir")),
    (
        &["per_device_train_batch_size"],
        Rule::Same("training.micro_batch_size"),
    ),
    (
        &["gradient_accumulation_steps"],
        Rule::Same("training.gradient_accumulation_steps"),
    ),
    (&["num_train_epochs"], Rule::Read(epochs)),
    (&["max_steps"], Rule::Read(max_steps)),
    (&["learning_rate"], Rule::Same("training.learning_rate")),
    (&["lr_scheduler_type"], Rule::Read(scheduler)),
    (&["lr_scheduler_kwargs"], Rule::Read(scheduler_arguments)),
    (&["warmup_steps"], Rule::Read(warmup_steps)),
    (&["warmup_ratio"], Rule::Read(warmup_ratio)),
    (&["optim"], Rule::Read(optimizer)),
    (
        &["optim_args", "optim_target_modules"],
        Rule::Refused(PART_OF_ANOTHER),
    ),
    (&["weight_decay"], Rule::Same("training.weight_decay")),
    (
        &["adam_beta1", "adam_beta2", "adam_epsilon"],
        Rule::Read(adam),
    ),
    (&["max_grad_norm"], Rule::Same("training.max_grad_norm")),
    (&["label_smoothing_factor"], Rule::Read(smoothing)),
    (&["neftune_noise_alpha"], Rule::Read(noise)),
    (&["bf16"], Rule::Read(bf16)),
    (&["fp16"], Rule::Read(fp16)),
    (&["tf32"], Rule::Read(tf32)),
    (
        &["gradient_checkpointing", "activation_checkpointing"],
        Rule::Read(checkpointing),
    ),
    (
        &[
            "gradient_checkpointing_kwargs",
            "activation_checkpointing_kwargs",
        ],
        Rule::Dropped(KERNELS),
    ),
    (&["seed"], Rule::Same("training.seed")),
    (
        &["data_seed"],
        Rule::Refused("rows are shuffled from `training.seed`; a second seed is not supported"),
    ),
    (
        &["full_determinism"],
        Rule::Dropped("runs repeat to the byte on the same machine without it"),
    ),
    (
        &["eval_strategy", "evaluation_strategy"],
        Rule::Read(eval_strategy),
    ),
    (&["eval_steps"], Rule::Read(eval_steps)),
    (&["save_strategy"], Rule::Dropped(SAVING)),
    (&["save_steps"], Rule::Read(save_steps)),
    (&["save_total_limit"], Rule::Same("output.save_total_limit")),
    (&["load_best_model_at_end"], Rule::Read(best)),
    (
        &["metric_for_best_model", "greater_is_better"],
        Rule::Read(metric),
    ),
    (&["train_sampling_strategy"], Rule::Read(sampling)),
    (&["group_by_length"], Rule::Read(group_by_length)),
    (
        &["auto_find_batch_size"],
        Rule::Refused(
            "a batch that depends on free memory does not repeat; `rankine plan` tells what fits",
        ),
    ),
    (&["resume_from_checkpoint"], Rule::Refused(FOREIGN_RUN)),
    (&["deepspeed", "fsdp"], Rule::Read(several_devices)),
    (
        &[
            "fsdp_config",
            "parallelism_config",
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
            "local_rank",
            "accelerator_config",
            "average_tokens_across_devices",
        ],
        Rule::Dropped(PARALLEL),
    ),
    (
        &["dataloader_drop_last"],
        Rule::Refused("no row is left out at the end of an epoch"),
    ),
    (
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "remove_unused_columns",
            "label_names",
            "length_column_name",
        ],
        Rule::Dropped(WORKERS),
    ),
    (
        &[
            "bf16_full_eval",
            "fp16_full_eval",
            "eval_delay",
            "per_device_eval_batch_size",
            "prediction_loss_only",
            "eval_on_start",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "include_for_metrics",
            "batch_eval_metrics",
        ],
        Rule::Dropped(EVALUATING),
    ),
    (
        &[
            "save_only_model",
            "save_on_each_node",
            "enable_jit_checkpoint",
            "save_safetensors",
            "overwrite_output_dir",
            "ignore_data_skip",
            "restore_callback_states_from_checkpoint",
        ],
        Rule::Dropped(SAVING),
    ),
    (
        &[
            "push_to_hub",
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ],
        Rule::Dropped(HUB),
    ),
    (
        &[
            "logging_strategy",
            "logging_steps",
            "logging_first_step",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "include_num_input_tokens_seen",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "report_to",
            "run_name",
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "logging_dir",
            "debug",
            "skip_memory_metrics",
        ],
        Rule::Dropped(LOGGING),
    ),
    (
        &[
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "use_liger_kernel",
            "liger_kernel_config",
            "use_cache",
            "torch_empty_cache_steps",
            "use_cpu",
        ],
        Rule::Dropped(KERNELS),
    ),
    (&["do_train"], Rule::Dropped("`rankine train` trains")),
    (
        &["do_eval", "do_predict"],
        Rule::Dropped("`rankine eval` and `rankine generate` do it after training"),
    ),
];

/// Maps smoothed labels. Trainers of preferences have a loss of their own and do not read the key.
fn smoothing(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    let is_of_preferences = draft
        .text("stage")
        .is_some_and(|stage| !["sft", "pt"].contains(&stage));
    if is_of_preferences {
        return KeyOutcome::dropped("the loss of preferences does not read it");
    }
    draft.same("objective.label_smoothing", given)
}

/// Maps noise on embeddings, whose size depends on the length of a row.
pub(super) fn noise(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    match draft.same("objective.neftune_noise_alpha", given) {
        KeyOutcome::Mapped(line) => KeyOutcome::replaced(format!(
            "{line}; the noise of a row depends on its own length, and not on that of the padded \
            batch"
        )),
        other => other,
    }
}

/// Maps a number of whole epochs; `3.0` is one.
pub(super) fn epochs(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match whole(given.node) {
        Some(epochs) if epochs > 0 => draft.set("training.num_epochs", epochs.to_string()),
        _ => KeyOutcome::refused(
            "a part of an epoch is not supported; say the steps with `max_steps`",
        ),
    }
}

/// Maps `max_steps`, in which -1 is no limit.
pub(super) fn max_steps(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match number(given.node) {
        Some(steps) if steps <= 0.0 => KeyOutcome::dropped("no limit"),
        _ => draft.same("training.max_steps", given),
    }
}

/// Maps a number of warm-up steps. Below 1 it is a share of all steps, for transformers and Axolotl
/// alike.
pub(super) fn warmup_steps(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_flat(draft) {
        return KeyOutcome::dropped(NO_WARMUP);
    }
    match number(given.node) {
        Some(steps) if steps > 0.0 && steps < 1.0 => {
            draft.set("training.warmup_ratio", format!("{steps}"))
        }
        Some(steps) if steps == 0.0 && draft.at("warmup_ratio").is_some() => {
            KeyOutcome::dropped("0: `warmup_ratio` says the warm-up")
        }
        Some(steps) if steps.fract() == 0.0 && steps >= 0.0 => {
            draft.set("training.warmup_steps", format!("{steps}"))
        }
        _ => KeyOutcome::refused("expected a whole number of steps, or a share below 1"),
    }
}

const NO_WARMUP: &str = "the schedule `constant` has no warm-up in transformers";

pub(super) fn warmup_ratio(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_flat(draft) {
        return KeyOutcome::dropped(NO_WARMUP);
    }
    if draft
        .at("warmup_steps")
        .and_then(number)
        .is_some_and(|steps| steps > 0.0)
    {
        return KeyOutcome::dropped("`warmup_steps` wins");
    }
    draft.same("training.warmup_ratio", given)
}

/// Returns whether the schedule ignores a warm-up, as transformers' `constant` does;
/// `constant_with_warmup` is Rankine's `constant`. Schedule-free AdamW has its own warm-up.
fn is_flat(draft: &Draft) -> bool {
    chosen(draft) != Optimizer::ScheduleFree
        && ["lr_scheduler_type", "lr_scheduler"]
            .iter()
            .any(|key| draft.text(key) == Some("constant"))
}

/// Returns the optimizer that the config names; AdamW if it names none.
fn chosen(draft: &Draft) -> Optimizer {
    let word = ["optim", "optimizer"]
        .iter()
        .find_map(|key| draft.text(key));
    word.and_then(Optimizer::parse)
        .unwrap_or(Optimizer::AdamW)
        .resident()
}

/// Maps schedules by transformers' names.
pub(super) fn scheduler(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text().and_then(Scheduler::parse) {
        Some(scheduler) => draft.set("training.lr_scheduler", scheduler.word()),
        None => KeyOutcome::refused("this schedule is not supported"),
    }
}

/// Maps a schedule's own arguments, which have transformers' names here too.
pub(super) fn scheduler_arguments(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let NodeValue::Map(entries) = &given.node.kind else {
        return KeyOutcome::refused("expected keys with values");
    };
    let known = |name: &str| Scheduler::KEYS.iter().any(|(key, _)| *key == name);
    if let Some(name) = entries.keys().find(|name| !known(name)) {
        return KeyOutcome::refused(format!("no schedule has `{}` here", shorten(name)));
    }
    let mut lines = Vec::new();
    for (name, entry) in entries.iter().filter(|(_, entry)| !entry.value.is_blank()) {
        match draft.set(&format!("training.{name}"), flow(&entry.value)) {
            KeyOutcome::Mapped(line) => lines.push(line),
            other => return other,
        }
    }
    if lines.is_empty() {
        KeyOutcome::dropped("empty: not set")
    } else {
        KeyOutcome::Mapped(lines.join(", "))
    }
}

/// Names of AdamW with other kernels.
const ADAMW: [&str; 3] = ["adamw_hf", "adamw_apex_fused", "adamw_torch_xla"];
/// Names of torchao's AdamW, whose blocks are not those of `adamw_8bit`.
const STORED: [&str; 5] = [
    "adamw_torch_8bit",
    "adamw_torch_4bit",
    "ao_adamw_8bit",
    "ao_adamw_4bit",
    "ao_adamw_fp8",
];
pub(super) const MUON: &str = "Muon for the matrices of blocks with `adjust_lr_fn: \
match_rms_adamw` and a momentum of 0.95, AdamW for all else; its constants are those of the recipe";

/// Maps optimizers by transformers' names.
pub(super) fn optimizer(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let word = given.node.text().unwrap_or_default();
    if ADAMW.contains(&word) {
        return draft.set("training.optimizer", "adamw");
    }
    if STORED.contains(&word) {
        return match draft.set("training.optimizer", "adamw") {
            KeyOutcome::Mapped(_) => KeyOutcome::replaced(
                "the same AdamW with moments in 32 bits: more memory and no \
                rounding of the moments",
            ),
            other => other,
        };
    }
    let Some(optimizer) = Optimizer::parse(word) else {
        return KeyOutcome::refused("this optimizer is not supported");
    };
    let schedule = ["lr_scheduler_type", "lr_scheduler"]
        .iter()
        .find_map(|key| draft.text(key));
    match optimizer.resident() {
        Optimizer::ScheduleFree
            if schedule.and_then(Scheduler::parse) != Some(Scheduler::Constant) =>
        {
            return KeyOutcome::refused(
                "it has no schedule here, and the config has one that is \
                not `constant`, said or by default",
            );
        }
        // transformers gives Lion what it gives Adam.
        Optimizer::Lion | Optimizer::Lion8bit => {
            draft.default(&["adam_beta2"], "training.adam_beta2", "0.999");
        }
        _ => {}
    }
    match draft.set("training.optimizer", optimizer.word()) {
        KeyOutcome::Mapped(_) if optimizer == Optimizer::Muon => KeyOutcome::replaced(MUON),
        other => other,
    }
}

/// Maps a constant of Adam, which not every optimizer reads.
pub(super) fn adam(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let optimizer = chosen(draft);
    if Optimizer::KEYS
        .iter()
        .any(|(key, owners)| *key == given.name && owners.contains(&optimizer))
    {
        draft.same(&format!("training.{}", given.name), given)
    } else {
        KeyOutcome::dropped(format!("`{optimizer}` does not read it"))
    }
}

/// Maps `bf16`: if true, the frozen base is kept in bfloat16. Trained weights are kept in 32 bits.
pub(super) fn bf16(draft: &mut Draft, given: &Given) -> KeyOutcome {
    precision(draft, given, "bfloat16")
}

pub(super) fn fp16(draft: &mut Draft, given: &Given) -> KeyOutcome {
    precision(draft, given, "float16")
}

fn precision(draft: &mut Draft, given: &Given, dtype: &str) -> KeyOutcome {
    let is_auto = given.node.text() == Some("auto");
    if !is_auto && unquoted(given.node).flag() != Some(true) && given.node.text() != Some("full") {
        return KeyOutcome::dropped("off: `model_dtype: auto` decides");
    }
    KeyOutcome::replaced(if is_auto {
        "`model_dtype: auto` takes 16 bits where the device computes in them; what trains is kept \
        in 32 bits"
            .to_owned()
    } else {
        let full = match draft.tool {
            Tool::Axolotl => draft.at("adapter").is_none(),
            Tool::LlamaFactory => draft.text("finetuning_type") == Some("full"),
            Tool::Torchtune | Tool::MlxLm | Tool::PeftRun => false,
        };
        if full {
            "every weight trains in 32 bits, since an update is smaller than the last bit of 16"
                .to_owned()
        } else {
            format!(
                "`model_dtype: auto` takes 16 bits where the device computes in them; \
                `training.model_dtype: {dtype}` insists on it"
            )
        }
    })
}

pub(super) fn tf32(_: &mut Draft, given: &Given) -> KeyOutcome {
    if unquoted(given.node).flag() == Some(false) {
        return KeyOutcome::Mapped("training.allow_tf32: false, the default".into());
    }
    KeyOutcome::replaced(
        "float32 products stay in float32; `training.allow_tf32: true` allows TF32 on NVIDIA GPUs \
        of compute capability 8.0 or later",
    )
}

pub(super) fn checkpointing(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match (unquoted(given.node).flag(), given.node.text()) {
        (Some(on), _) => draft.set("training.gradient_checkpointing", on.to_string()),
        (None, Some(_)) => match draft.set("training.gradient_checkpointing", "true") {
            KeyOutcome::Mapped(_) => KeyOutcome::replaced(
                "every block runs again in backward; nothing is moved off the \
                device. No number changes",
            ),
            other => other,
        },
        _ => KeyOutcome::refused("expected `true` or `false`"),
    }
}

/// Maps `eval_strategy`: `no`, `epoch` or `steps`.
pub(super) fn eval_strategy(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text().unwrap_or_default() {
        "epoch" => draft.set("evaluation.eval_steps", "0"),
        "steps" => KeyOutcome::dropped("`eval_steps` says it"),
        _ => KeyOutcome::dropped("when it is evaluated changes no weight"),
    }
}

/// Maps `eval_steps`: a number of steps, or below 1 a share of all.
pub(super) fn eval_steps(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.text("eval_strategy") == Some("epoch")
        || draft.text("eval_strategy").is_some_and(|word| word == "no")
    {
        return KeyOutcome::dropped("`eval_strategy` says otherwise");
    }
    match number(given.node) {
        Some(steps) if steps >= 1.0 && steps.fract() == 0.0 => {
            draft.set("evaluation.eval_steps", format!("{steps}"))
        }
        Some(0.0) => KeyOutcome::dropped("0: never between epochs"),
        Some(share) if share > 0.0 && share < 1.0 => rarely(
            draft,
            "evaluation runs at the ends of epochs; `evaluation.eval_steps` takes a \
            number of steps",
        ),
        _ => KeyOutcome::refused("expected a number of steps"),
    }
}

/// Returns the outcome of a key that sets how often evaluation happens. It changes numbers only if
/// it can end a run.
pub(super) fn rarely(draft: &Draft, note: &str) -> KeyOutcome {
    let patience = ["early_stopping_patience", "early_stopping_steps"]
        .iter()
        .any(|key| draft.at(key).and_then(number).is_some_and(|n| n > 0.0));
    if patience {
        KeyOutcome::refused(
            "early stopping counts evaluations: say `eval_steps` as a number of steps",
        )
    } else {
        KeyOutcome::replaced(note)
    }
}

pub(super) fn save_steps(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match number(given.node) {
        Some(steps) if steps >= 1.0 && steps.fract() == 0.0 => {
            draft.set("output.save_steps", format!("{steps}"))
        }
        _ => KeyOutcome::dropped(
            "checkpoints are written at the ends of epochs and every five minutes",
        ),
    }
}

fn best(_: &mut Draft, given: &Given) -> KeyOutcome {
    if super::draft::is_off(given.node) {
        return KeyOutcome::dropped("off: the adapter is that of the last step");
    }
    KeyOutcome::replaced(
        "the run's adapter is that of its last step; the best checkpoint is kept beside it",
    )
}

fn metric(_: &mut Draft, given: &Given) -> KeyOutcome {
    let word = given.node.text().unwrap_or_default();
    let is_loss = ["eval_loss", "loss", "false", "False"].contains(&word);
    if is_loss {
        KeyOutcome::dropped("the best is that of the lowest validation loss")
    } else {
        KeyOutcome::refused("the best is judged by the validation loss only")
    }
}

/// Maps the order of rows: `random`, `group_by_length` or `sequential`.
fn sampling(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text().unwrap_or_default() {
        "random" => draft.set("training.shuffle", "true"),
        "sequential" => draft.set("training.shuffle", "false"),
        _ => KeyOutcome::refused("this order of rows is not supported"),
    }
}

pub(super) fn group_by_length(_: &mut Draft, given: &Given) -> KeyOutcome {
    if unquoted(given.node).flag() == Some(false) {
        return KeyOutcome::dropped("off");
    }
    KeyOutcome::replaced(
        "rows are shuffled without regard to their length; nothing is computed \
        for padding either way",
    )
}

/// Maps a setting for several devices.
pub(super) fn several_devices(_: &mut Draft, given: &Given) -> KeyOutcome {
    if super::draft::is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        KeyOutcome::replaced(BATCH)
    }
}

/// Maps the number of devices that share a batch.
pub(super) fn devices(_: &mut Draft, given: &Given) -> KeyOutcome {
    if number(given.node).is_some_and(|devices| devices > 1.0) {
        KeyOutcome::replaced(BATCH)
    } else {
        KeyOutcome::dropped("one device")
    }
}

/// Maps names of modules: `all` and `all-linear`, a list, names with commas, or a regular
/// expression.
pub(super) fn targets(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let names = texts(given.node);
    match &names[..] {
        [one] if one == "all" || one == "all-linear" => {
            draft.set("adapter.target_modules", "all-linear")
        }
        [] => KeyOutcome::refused("expected names of modules"),
        [one]
            if given.node.text().is_some()
                && one.contains(['*', '\\', '[', '(', '^', '$', '|']) =>
        {
            draft.set("adapter.target_modules", yaml_word(one))
        }
        _ => draft.set("adapter.target_modules", super::text::list(&names)),
    }
}
