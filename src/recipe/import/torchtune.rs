//! torchtune. A config names a class or builder for each part in `_component_`; the keys beside it
//! are its arguments. Source: torchtune of 23 April 2026.

use std::collections::BTreeMap;

use super::super::tree::{KeyValue, Node, NodeValue};
use super::datasets::{Located, Part, is_slice, local_file, locate, on_hub};
use super::draft::{Data, Draft, is_off};
use super::hugging_face as hf;
use super::key_outcome::KeyOutcome;
use super::text::{list, number, texts, unquoted};
use super::{Given, Rule, Table};
use crate::fault::yaml_word;

const OTHER_TRAINING: &str = "distillation, rewards and quantization-aware training are not \
    supported";
const SHAPE: &str = "the model's shape is that of the checkpoint's config.json";
const DATA: &str = "this change of the rows is not supported; write the rows as they are to be \
    trained";
const GENERATION: &str = "it is read when text is generated, not when a model is trained";
const PROFILER: &str = "profiling changes no number";
/// The length beyond which a run does not start if rows have no limit.
const UNLIMITED: &str = "8192";

pub(super) const TABLES: &[Table] = &[TOP];

const TOP: Table = &[
    (&["output_dir"], Rule::Same("output_dir")),
    (
        &[
            "model",
            "tokenizer",
            "checkpointer",
            "dataset",
            "dataset_val",
            "optimizer",
            "lr_scheduler",
            "loss",
        ],
        Rule::Within,
    ),
    (&["model._component_"], Rule::Read(model)),
    (&["model.lora_attn_modules"], Rule::Read(targets)),
    (
        &["model.apply_lora_to_mlp", "model.apply_lora_to_output"],
        Rule::Read(more_targets),
    ),
    (&["model.lora_rank"], Rule::Same("adapter.r")),
    (&["model.lora_alpha"], Rule::Same("adapter.alpha")),
    (&["model.lora_dropout"], Rule::Same("adapter.dropout")),
    (&["model.use_dora"], Rule::Same("adapter.use_dora")),
    (&["model.quantize_base"], Rule::Read(quantize_base)),
    (
        &[
            "model.vocab_size",
            "model.num_layers",
            "model.num_heads",
            "model.num_kv_heads",
            "model.embed_dim",
            "model.intermediate_dim",
            "model.max_seq_len",
            "model.norm_eps",
            "model.rope_base",
            "model.tie_word_embeddings",
        ],
        Rule::Dropped(SHAPE),
    ),
    (
        &["model.attn_dropout"],
        Rule::Refused("dropout of attention is not supported"),
    ),
    (
        &[
            "model.decoder_trainable",
            "model.encoder_trainable",
            "model.fusion_trainable",
            "model.image_size",
            "tokenizer.image_size",
            "tokenizer.max_num_tiles",
        ],
        Rule::Refused("images are not supported"),
    ),
    (
        &[
            "tokenizer._component_",
            "tokenizer.path",
            "tokenizer.merges_file",
            "tokenizer.merges_path",
            "tokenizer.vocab_path",
            "tokenizer.special_tokens_path",
        ],
        Rule::Read(tokenizer),
    ),
    (
        &["tokenizer.max_seq_len"],
        Rule::Same("training.sequence_len"),
    ),
    (&["tokenizer.prompt_template"], Rule::Read(prompt_template)),
    (&["tokenizer.truncation_type"], Rule::Read(truncation_type)),
    (&["checkpointer._component_"], Rule::Read(checkpointer)),
    (&["checkpointer.checkpoint_dir"], Rule::Same("base_model")),
    (
        &[
            "checkpointer.checkpoint_files",
            "checkpointer.model_type",
            "checkpointer.safe_serialization",
        ],
        Rule::Dropped("the folder's own index lists its files"),
    ),
    (
        &[
            "checkpointer.output_dir",
            "checkpointer.keep_last_n_checkpoints",
            "checkpointer.should_load_recipe_state",
        ],
        Rule::Dropped(hf::SAVING),
    ),
    (
        &["checkpointer.recipe_checkpoint", "resume_from_checkpoint"],
        Rule::Refused(hf::FOREIGN_RUN),
    ),
    (
        &["checkpointer.adapter_checkpoint"],
        Rule::Refused(
            "an adapter of torchtune's own layout is \
            not read; save it for PEFT and name it in `adapter.init_from`",
        ),
    ),
    // Data.
    (
        &["dataset._component_", "dataset_val._component_"],
        Rule::Read(component),
    ),
    (
        &[
            "dataset.source",
            "dataset_val.source",
            "dataset.data_files",
            "dataset_val.data_files",
        ],
        Rule::Read(source),
    ),
    (
        &[
            "dataset.split",
            "dataset.subset",
            "dataset.partition",
            "dataset.name",
            "dataset_val.split",
            "dataset_val.subset",
            "dataset_val.partition",
            "dataset_val.name",
        ],
        Rule::Read(part),
    ),
    (&["dataset.packed"], Rule::Read(packed)),
    (
        &["dataset_val.packed"],
        Rule::Dropped("how validation rows are laid out changes no number"),
    ),
    (
        &[
            "dataset.column",
            "dataset.conversation_column",
            "dataset_val.column",
            "dataset_val.conversation_column",
        ],
        Rule::Read(column),
    ),
    (
        &["dataset.train_on_input", "dataset_val.train_on_input"],
        Rule::Read(train_on_input),
    ),
    (
        &[
            "dataset.conversation_style",
            "dataset_val.conversation_style",
        ],
        Rule::Read(conversation_style),
    ),
    (
        &["dataset.add_eos", "dataset_val.add_eos"],
        Rule::Read(add_eos),
    ),
    (
        &["dataset.split_across_pack", "dataset_val.split_across_pack"],
        Rule::Read(across),
    ),
    (
        &["dataset.column_map", "dataset_val.column_map"],
        Rule::Read(column_map),
    ),
    (
        &[
            "dataset.new_system_prompt",
            "dataset.filter_fn",
            "dataset.image_tag",
            "dataset.image_dir",
            "dataset_val.new_system_prompt",
            "dataset_val.filter_fn",
        ],
        Rule::Refused(DATA),
    ),
    (
        &["datasets", "dataloader"],
        Rule::Refused(
            "data sets with transforms are not read; list them \
            in `datasets` of the recipe, each with its `weight`",
        ),
    ),
    (
        &["collate_fn"],
        Rule::Dropped("rows are laid end to end; nothing is padded"),
    ),
    (&["shuffle"], Rule::Same("training.shuffle")),
    (&["seed"], Rule::Same("training.seed")),
    (&["batch_size"], Rule::Same("training.micro_batch_size")),
    (&["batch_size_val"], Rule::Dropped(hf::EVALUATING)),
    (&["epochs"], Rule::Read(hf::epochs)),
    (&["max_steps_per_epoch"], Rule::Read(max_steps_per_epoch)),
    (
        &["gradient_accumulation_steps"],
        Rule::Same("training.gradient_accumulation_steps"),
    ),
    (&["clip_grad_norm"], Rule::Read(clip)),
    // Optimizer and schedule.
    (&["optimizer._component_"], Rule::Read(optimizer)),
    (&["optimizer.lr"], Rule::Same("training.learning_rate")),
    (
        &["optimizer.weight_decay"],
        Rule::Same("training.weight_decay"),
    ),
    (&["optimizer.eps"], Rule::Same("training.adam_epsilon")),
    (&["optimizer.betas"], Rule::Read(betas)),
    (
        &[
            "optimizer.fused",
            "optimizer.foreach",
            "optimizer.capturable",
        ],
        Rule::Dropped(hf::KERNELS),
    ),
    (
        &[
            "optimizer.amsgrad",
            "optimizer.maximize",
            "optimizer.momentum",
            "optimizer.nesterov",
            "optimizer.dampening",
        ],
        Rule::Refused("this argument of the optimizer is not supported"),
    ),
    (
        &["optimizer_in_bwd"],
        Rule::Dropped("the same update, made sooner; it saves memory"),
    ),
    (&["lr_scheduler._component_"], Rule::Read(lr_scheduler)),
    (
        &["lr_scheduler.num_warmup_steps"],
        Rule::Same("training.warmup_steps"),
    ),
    (&["lr_scheduler.num_cycles"], Rule::Read(num_cycles)),
    (&["loss._component_"], Rule::Read(loss)),
    (&["loss.num_output_chunks"], Rule::Dropped(hf::KERNELS)),
    (
        &["loss.ignore_index"],
        Rule::Dropped("no token has the label of another"),
    ),
    (
        &["loss.beta"],
        Rule::Read(|draft, given| of_pairs(draft, given, "objective.beta")),
    ),
    (
        &["loss.gamma"],
        Rule::Read(|draft, given| of_pairs(draft, given, "objective.beta")),
    ),
    (
        &["loss.label_smoothing"],
        Rule::Read(|draft, given| of_pairs(draft, given, "objective.label_smoothing")),
    ),
    (&["ref_checkpointer"], Rule::Within),
    (
        &["ref_checkpointer.checkpoint_dir"],
        Rule::Read(ref_checkpointer),
    ),
    (
        &[
            "ref_checkpointer._component_",
            "ref_checkpointer.checkpoint_files",
            "ref_checkpointer.model_type",
            "ref_checkpointer.output_dir",
            "ref_checkpointer.recipe_checkpoint",
            "ref_checkpointer.safe_serialization",
        ],
        Rule::Dropped("the reference's folder is read as it is"),
    ),
    (
        &[
            "loss.epsilon",
            "loss.kl_coeff",
            "loss.value_clip_range",
            "loss.value_coeff",
        ],
        Rule::Refused(OTHER_TRAINING),
    ),
    // Computing.
    (&["device"], Rule::Read(device)),
    (&["dtype"], Rule::Read(dtype)),
    (
        &["enable_activation_checkpointing"],
        Rule::Same("training.gradient_checkpointing"),
    ),
    (
        &[
            "enable_activation_offloading",
            "ac_mode",
            "ac_option",
            "low_cpu_ram",
            "compile",
            "enable_kv_cache",
        ],
        Rule::Dropped("it saves memory or time and changes no number"),
    ),
    (
        &[
            "fsdp",
            "fsdp_cpu_offload",
            "fsdp_reshard_after_forward",
            "fsdp_sharding_strategy",
            "custom_sharded_layers",
            "memory_efficient_fsdp_wrap",
            "tensor_parallel_dim",
            "tensor_parallel_plan",
            "context_parallel_dim",
        ],
        Rule::Dropped(hf::PARALLEL),
    ),
    (
        &["data_parallel_replicate_dim", "data_parallel_shard_dim"],
        Rule::Read(hf::devices),
    ),
    (
        &["run_val_every_n_steps"],
        Rule::Same("evaluation.eval_steps"),
    ),
    (
        &[
            "save_adapter_weights_only",
            "save_every_n_epochs",
            "save_every_n_steps",
            "enable_async_checkpointing",
        ],
        Rule::Dropped(hf::SAVING),
    ),
    (
        &[
            "metric_logger",
            "log_every_n_steps",
            "log_peak_memory_stats",
            "log_level",
            "debug_logging_enabled",
            "debug_num_samples_per_step",
            "name",
        ],
        Rule::Dropped(hf::LOGGING),
    ),
    (&["profiler"], Rule::Dropped(PROFILER)),
    (
        &[
            "quantizer",
            "fake_quant_after_n_steps",
            "teacher_model",
            "teacher_checkpointer",
            "kd_loss",
            "kd_ratio",
            "ref_policy_checkpointer",
            "reward_checkpointer",
            "reward_and_value_model",
            "reward_functions",
            "reward_penalty",
            "value_checkpointer",
            "policy_model",
            "base_model_path",
            "ppo_batch_size",
            "ppo_epochs",
            "forward_batch_size",
            "gamma",
            "lmbda",
            "kl_coeff",
            "whiten_rewards",
            "grpo_samples",
            "min_response_length",
            "penalise_no_eos",
            "num_steps",
            "orchestration",
            "inference",
            "postprocessing",
            "training",
        ],
        Rule::Refused(OTHER_TRAINING),
    ),
    (
        &[
            "temperature",
            "top_k",
            "max_generated_tokens",
            "stop_token_ids",
            "max_new_tokens",
            "prompt",
        ],
        Rule::Dropped(GENERATION),
    ),
];

/// Returns the tree with `${path.to.key}` replaced by the value at that path. Unknown paths are
/// left as they are.
pub(super) fn interpolated(root: &Node) -> Node {
    replaced(root, root)
}

/// Returns every path that `${..}` refers to.
pub(super) fn variables(node: &Node) -> Vec<String> {
    match &node.kind {
        NodeValue::Scalar { text, .. } => {
            let named = text
                .split("${")
                .skip(1)
                .filter_map(|rest| rest.split_once('}'));
            named.map(|(name, _)| name.trim().to_owned()).collect()
        }
        NodeValue::List(nodes) => nodes.iter().flat_map(variables).collect(),
        NodeValue::Map(entries) => entries
            .values()
            .flat_map(|entry| variables(&entry.value))
            .collect(),
        NodeValue::Refused => Vec::new(),
    }
}

fn replaced(node: &Node, root: &Node) -> Node {
    let kind = match &node.kind {
        NodeValue::Scalar { text, plain, .. } if text.contains("${") => {
            let text = filled(text, root);
            NodeValue::Scalar {
                written: text.clone(),
                text,
                plain: *plain,
            }
        }
        NodeValue::List(nodes) => {
            NodeValue::List(nodes.iter().map(|node| replaced(node, root)).collect())
        }
        NodeValue::Map(entries) => {
            let filled = |(key, entry): (&String, &KeyValue)| {
                (
                    key.clone(),
                    KeyValue {
                        place: entry.place.clone(),
                        value: replaced(&entry.value, root),
                    },
                )
            };
            NodeValue::Map(entries.iter().map(filled).collect::<BTreeMap<_, _>>())
        }
        other => other.clone(),
    };
    Node {
        place: node.place.clone(),
        kind,
    }
}

/// Replaces references in a text. A reference may lead to another; a cycle ends after a few rounds
/// and stays as it is.
fn filled(text: &str, root: &Node) -> String {
    let mut text = text.to_owned();
    for _ in 0..8 {
        let Some((before, rest)) = text.split_once("${") else {
            break;
        };
        let Some((name, after)) = rest.split_once('}') else {
            break;
        };
        let Some(value) = value_of(root, name) else {
            break;
        };
        text = format!("{before}{value}{after}");
        if text.len() > 4096 {
            break;
        }
    }
    text
}

fn value_of<'a>(root: &'a Node, path: &str) -> Option<&'a str> {
    let mut node = root;
    for key in path.trim().split('.') {
        let NodeValue::Map(entries) = &node.kind else {
            return None;
        };
        node = &entries.get(key)?.value;
    }
    node.text()
}

/// Returns the last part of a path such as `torchtune.models.x.lora_x_8b`.
fn builder<'a>(draft: &Draft<'a>, part: &str) -> &'a str {
    draft
        .text(&format!("{part}._component_"))
        .map_or("", |path| path.rsplit('.').next().unwrap_or(path))
}

fn is_adapter(draft: &Draft) -> bool {
    let name = builder(draft, "model");
    name.starts_with("lora_") || name.starts_with("qlora_")
}

fn model(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let path = given.node.text().unwrap_or_default();
    let name = builder(draft, "model");
    if !path.starts_with("torchtune.models.") {
        return KeyOutcome::refused("a builder outside of torchtune is not known");
    }
    if [
        "vision",
        "llama4",
        "clip",
        "flamingo",
        "multimodal",
        "fusion",
    ]
    .iter()
    .any(|word| path.contains(word))
    {
        return KeyOutcome::refused("images are not supported");
    }
    if path.contains("classifier") || path.contains("reward") {
        return KeyOutcome::refused("classifiers and rewards are not supported");
    }
    if is_adapter(draft) && path.contains(".phi") {
        return KeyOutcome::refused(
            "torchtune adapts q, k and v one by one; in Hugging Face's layout they are one matrix, \
            and an adapter of it is another",
        );
    }
    let method = if name.starts_with("qlora_") || draft.is_on("model.quantize_base") {
        "qlora"
    } else if name.starts_with("lora_") {
        "lora"
    } else {
        "full"
    };
    draft.set("adapter.method", method)
}

fn quantize_base(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) && builder(draft, "model").starts_with("qlora_") {
        return KeyOutcome::refused("a `qlora` builder quantizes the base");
    }
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        KeyOutcome::Mapped("adapter.method: qlora".into())
    }
}

/// Translates torchtune's module names to those of Hugging Face.
fn module_names(draft: &Draft) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for name in draft
        .at("model.lora_attn_modules")
        .map(texts)
        .unwrap_or_default()
    {
        names.push(match name.as_str() {
            "q_proj" | "k_proj" | "v_proj" => name,
            "output_proj" => "o_proj".to_owned(),
            _ => return Err(format!("`{name}` is no module that is known")),
        });
    }
    if draft.is_on("model.apply_lora_to_mlp") {
        names.extend(["gate_proj", "up_proj", "down_proj"].map(str::to_owned));
    }
    if draft.is_on("model.apply_lora_to_output") {
        names.push("lm_head".to_owned());
    }
    if names.is_empty() {
        Err("no module is named".into())
    } else {
        Ok(names)
    }
}

fn targets(draft: &mut Draft, _: &Given) -> KeyOutcome {
    match module_names(draft) {
        Ok(names) if is_adapter(draft) => draft.set("adapter.target_modules", list(&names)),
        Ok(_) => KeyOutcome::refused("this builder has no adapter"),
        Err(reason) => KeyOutcome::refused(reason),
    }
}

fn more_targets(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    let modules = if given.name == "apply_lora_to_mlp" {
        "gate_proj, up_proj and down_proj"
    } else {
        "lm_head"
    };
    KeyOutcome::Mapped(format!("adapter.target_modules: {modules}"))
}

fn tokenizer(_: &mut Draft, given: &Given) -> KeyOutcome {
    let text = given.node.text().unwrap_or_default();
    if given.name == "_component_"
        && ["vision", "llama4", "multimodal"]
            .iter()
            .any(|word| text.contains(word))
    {
        return KeyOutcome::refused("images are not supported");
    }
    KeyOutcome::dropped("the base's own tokenizer.json is read")
}

fn prompt_template(_: &mut Draft, _: &Given) -> KeyOutcome {
    KeyOutcome::replaced(
        "the base's own template is used; `chat_template` names another, a file or a stock one",
    )
}

fn truncation_type(_: &mut Draft, given: &Given) -> KeyOutcome {
    if given.node.text() == Some("right") {
        KeyOutcome::dropped("the end of a row is cut, as here")
    } else {
        KeyOutcome::refused("the end of a row is cut, never its start")
    }
}

fn checkpointer(_: &mut Draft, given: &Given) -> KeyOutcome {
    let text = given.node.text().unwrap_or_default();
    if text.ends_with("HFCheckpointer") {
        KeyOutcome::dropped("the checkpoint has Hugging Face's layout, as here")
    } else {
        KeyOutcome::refused("a base is read in Hugging Face's layout only")
    }
}

/// The rows that a data set's builder stands for.
struct BuilderRows {
    /// The location of its rows, unless `source` is given.
    source: Option<&'static str>,
    format: &'static str,
    column: Option<(&'static str, &'static str)>,
    trains_all: bool,
    note: Option<&'static str>,
}

const ALPACA: &str = "Its rows become conversations in a column `messages`: Alpaca's prompt of \
    `instruction` and `input` as the user's, `output` as the assistant's.";

fn layout(name: &str) -> Option<BuilderRows> {
    let chat = BuilderRows {
        source: None,
        format: "chat",
        column: None,
        trains_all: false,
        note: None,
    };
    Some(match name {
        "alpaca_dataset" => BuilderRows {
            source: Some("tatsu-lab/alpaca"),
            trains_all: true,
            note: Some(ALPACA),
            ..chat
        },
        "alpaca_cleaned_dataset" => BuilderRows {
            source: Some("yahma/alpaca-cleaned"),
            trains_all: true,
            note: Some(ALPACA),
            ..chat
        },
        "slimorca_dataset" => BuilderRows {
            source: Some("Open-Orca/SlimOrca-Dedup"),
            column: Some(("messages", "conversations")),
            ..chat
        },
        "chat_dataset" => BuilderRows {
            column: Some(("messages", "conversations")),
            ..chat
        },
        "instruct_dataset" => BuilderRows {
            note: Some(
                "Its rows become conversations in a column `messages`: the input as the user's, \
                the output as the assistant's.",
            ),
            ..chat
        },
        "preference_dataset" => BuilderRows {
            format: "preference",
            ..chat
        },
        "hh_rlhf_helpful_dataset" => BuilderRows {
            source: Some("RLHFlow/HH-RLHF-Helpful-standard"),
            format: "preference",
            ..chat
        },
        "stack_exchange_paired_dataset" => BuilderRows {
            source: Some("lvwerra/stack-exchange-paired"),
            format: "preference",
            note: Some(
                "Its rows become lists of messages: `prompt` with the question, `chosen` with \
                `response_j` and `rejected` with `response_k`.",
            ),
            ..chat
        },
        "text_completion_dataset" => BuilderRows {
            format: "text",
            ..chat
        },
        _ => return None,
    })
}

/// Returns the part that holds a key: `dataset` or `dataset_val`.
fn part_of(draft: &Draft, given: &Given) -> &'static str {
    let is_validation = draft
        .root_at("dataset_val")
        .is_some_and(|node| std::ptr::eq(node, given.parent));
    if is_validation {
        "dataset_val"
    } else {
        "dataset"
    }
}

/// Returns where the rows are looked for. If the builder turns them into conversations, the user
/// still has to write those.
fn place(draft: &Draft, part: &str) -> Option<Located> {
    let layout = layout(builder(draft, part))?;
    let source = draft.text(&format!("{part}.source"));
    let files = draft
        .at(&format!("{part}.data_files"))
        .map(texts)
        .unwrap_or_default();
    let path = match (source, &files[..]) {
        (Some("json" | "csv" | "text" | "parquet") | None, [file]) => file.clone(),
        (Some(source), _) => source.to_owned(),
        (None, _) => layout.source?.to_owned(),
    };
    // Rows that become conversations first are written by a person.
    let is_read_as_it_is =
        layout.note.is_none() && draft.at(&format!("{part}.partition")).is_none();
    let of_hub = on_hub(
        &path,
        Part {
            files: &files,
            ..wanted_part(draft, part)
        },
        &draft.folder,
    )
    .or_else(|| local_file(&path))
    .filter(|_| is_read_as_it_is);
    Some(of_hub.unwrap_or_else(|| locate(&path, &draft.folder)))
}

/// Returns the part of a data set that is wanted, without its files.
fn wanted_part<'a>(draft: &Draft<'a>, part: &str) -> Part<'a> {
    let text = |key: &str| draft.text(&format!("{part}.{key}"));
    Part {
        config: text("name").or_else(|| text("subset")),
        split: text("split"),
        revision: None,
        files: &[],
    }
}

fn component(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let part = part_of(draft, given);
    let path = given.node.text().unwrap_or_default();
    let Some(layout) =
        layout(builder(draft, part)).filter(|_| path.starts_with("torchtune.datasets."))
    else {
        return KeyOutcome::refused("this data set is code of torchtune that is not known here");
    };
    match place(draft, part) {
        None => KeyOutcome::refused("it names no `source`"),
        Some(located) => match (located.task, layout.note) {
            (Some(task), _) => KeyOutcome::replaced(format!("`{}`: {task}", located.path)),
            (None, Some(_)) if layout.format == "preference" => KeyOutcome::refused(
                "its rows are conversations to torchtune: write `prompt`, `chosen` and `rejected` \
                as lists of messages and use `preference`",
            ),
            (None, Some(_)) => KeyOutcome::refused(
                "its rows are conversations to torchtune: write them into a \
                column `messages` and use `chat`",
            ),
            (None, None) => KeyOutcome::Mapped(format!("datasets.format: {}", layout.format)),
        },
    }
}

fn source(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match place(draft, part_of(draft, given)) {
        Some(Located { path, task: None }) => KeyOutcome::Mapped(format!("datasets.path: {path}")),
        Some(Located {
            path,
            task: Some(task),
        }) => KeyOutcome::replaced(format!("`{path}`: {task}")),
        None => KeyOutcome::refused("the data set is not known"),
    }
}

fn part(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let said = given.node.text().unwrap_or_default();
    match place(draft, part_of(draft, given)) {
        Some(located) if located.is_of_hub() => match given.name {
            "split" if said == "train" => {
                KeyOutcome::dropped("the split that is read without a word")
            }
            "split" => KeyOutcome::Mapped(format!("datasets.split: {}", yaml_word(said))),
            _ => KeyOutcome::Mapped(format!("datasets.config: {}", yaml_word(said))),
        },
        Some(_) if given.name == "split" && is_slice(said) => {
            KeyOutcome::Mapped(format!("datasets.split: {}", yaml_word(said)))
        }
        Some(Located {
            path,
            task: Some(_),
        }) => KeyOutcome::replaced(format!("put only this part into `{path}`")),
        _ if given.node.text() == Some("train") => KeyOutcome::dropped("a file has one split"),
        _ => KeyOutcome::refused("a part of local files: write those rows to a file of their own"),
    }
}

fn packed(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    if builder(draft, "dataset") == "text_completion_dataset"
        && !draft.at("dataset.split_across_pack").is_some_and(is_off)
    {
        return match draft.set("training.sample_packing", "true") {
            KeyOutcome::Mapped(_) => {
                KeyOutcome::replaced("a text is never split between two packed rows")
            }
            other => other,
        };
    }
    draft.set("training.sample_packing", "true")
}

fn column(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let format = layout(builder(draft, part_of(draft, given))).map(|layout| layout.format);
    let ours = if given.name == "column" {
        "text"
    } else {
        "chat"
    };
    if format == Some(ours) {
        KeyOutcome::Mapped("datasets.columns".into())
    } else {
        KeyOutcome::refused(DATA)
    }
}

fn train_on_input(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let layout = layout(builder(draft, part_of(draft, given)));
    if layout.is_some_and(|layout| layout.format == "preference") {
        return if is_off(given.node) {
            KeyOutcome::dropped("completions are what is compared, as here")
        } else {
            KeyOutcome::refused("the prompt of a pair is not compared")
        };
    }
    KeyOutcome::Mapped(format!(
        "datasets.train_on: {}",
        if is_off(given.node) {
            "assistant"
        } else {
            "all"
        }
    ))
}

fn conversation_style(_: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("sharegpt" | "openai") => KeyOutcome::dropped("both styles are read"),
        _ => KeyOutcome::refused("conversations of ShareGPT and of OpenAI are read"),
    }
}

fn add_eos(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::refused("a text ends with the tokenizer's end token")
    } else {
        KeyOutcome::dropped("a text ends with the tokenizer's end token, as here")
    }
}

fn across(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) || !draft.is_on("dataset.packed") {
        KeyOutcome::dropped("a text is never split")
    } else {
        KeyOutcome::replaced("a text is never split between two packed rows")
    }
}

/// Returns the columns of a data set of pairs whose names are not those of the format.
fn pairs_of_columns(map: &Node) -> Option<Vec<(&'static str, String)>> {
    let NodeValue::Map(entries) = &map.kind else {
        return None;
    };
    let named = entries.iter().map(|(own, entry)| {
        let own = ["chosen", "rejected"]
            .into_iter()
            .find(|known| known == own)?;
        Some((own, entry.value.text()?.to_owned()))
    });
    named.collect()
}

fn column_map(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let is_of_pairs = layout(builder(draft, part_of(draft, given)))
        .is_some_and(|layout| layout.format == "preference" && layout.note.is_none());
    if let Some(columns) = pairs_of_columns(given.node).filter(|_| is_of_pairs) {
        let columns: Vec<String> = columns
            .iter()
            .map(|(own, name)| format!("{own}: {name}"))
            .collect();
        return KeyOutcome::Mapped(format!("datasets.columns: {{{}}}", columns.join(", ")));
    }
    match place(draft, part_of(draft, given)) {
        Some(located) if located.is_open() => {
            KeyOutcome::replaced("rename these columns where the rows become conversations")
        }
        _ => KeyOutcome::refused(DATA),
    }
}

fn max_steps_per_epoch(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft
        .at("epochs")
        .and_then(number)
        .is_some_and(|epochs| epochs > 1.0)
    {
        return KeyOutcome::refused(
            "epochs that end early are not supported; say all steps with `training.max_steps`",
        );
    }
    match draft.same("training.max_steps", given) {
        KeyOutcome::Mapped(_) => KeyOutcome::replaced(
            "`max_steps` goes on into a second epoch where the data have fewer steps; torchtune \
            stops at their end",
        ),
        other => other,
    }
}

fn clip(draft: &mut Draft, given: &Given) -> KeyOutcome {
    draft.same("training.max_grad_norm", given)
}

fn optimizer(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text().unwrap_or_default() {
        "torch.optim.AdamW" | "bitsandbytes.optim.AdamW" | "bitsandbytes.optim.AdamW32bit" => {
            draft.set("training.optimizer", "adamw")
        }
        "bitsandbytes.optim.AdamW8bit" => draft.set("training.optimizer", "adamw_8bit"),
        "bitsandbytes.optim.PagedAdamW" | "bitsandbytes.optim.PagedAdamW32bit" => {
            draft.set("training.optimizer", "paged_adamw_32bit")
        }
        "bitsandbytes.optim.PagedAdamW8bit" => draft.set("training.optimizer", "paged_adamw_8bit"),
        "torchao.optim.AdamW8bit"
        | "torchao.optim.AdamW4bit"
        | "torchao.optim.AdamWFp8"
        | "torchao.prototype.low_bit_optim.AdamW8bit"
        | "torchao.prototype.low_bit_optim.AdamW4bit" => {
            match draft.set("training.optimizer", "adamw") {
                KeyOutcome::Mapped(_) => KeyOutcome::replaced(
                    "the same AdamW with moments in 32 bits, on the device: more memory and no \
                    rounding of the moments",
                ),
                other => other,
            }
        }
        _ => KeyOutcome::refused("this optimizer is not supported"),
    }
}

fn betas(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let NodeValue::List(betas) = &given.node.kind else {
        return KeyOutcome::refused("expected two numbers");
    };
    match &betas
        .iter()
        .map(|beta| unquoted(beta).shown())
        .collect::<Vec<_>>()[..]
    {
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

fn lr_scheduler(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some(
            "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
            | "torchtune.modules.get_cosine_schedule_with_warmup",
        ) => draft.set("training.lr_scheduler", "cosine"),
        _ => KeyOutcome::refused("this schedule is not supported"),
    }
}

fn num_cycles(_: &mut Draft, given: &Given) -> KeyOutcome {
    if number(given.node) == Some(0.5) {
        KeyOutcome::dropped("half a cosine, as here")
    } else {
        KeyOutcome::refused("the rate falls along half a cosine")
    }
}

fn loss(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let name = given
        .node
        .text()
        .and_then(|path| path.rsplit('.').next())
        .unwrap_or_default();
    match name {
        "LinearCrossEntropyLoss" | "CEWithChunkedOutputLoss" | "CrossEntropyLoss" => {
            KeyOutcome::dropped("the mean cross-entropy of the trained tokens of a step, as here")
        }
        "DPOLoss" => draft.set("objective.type", "dpo"),
        "RSOLoss" => {
            draft.set("objective.loss_type", "hinge");
            draft.set("objective.type", "dpo")
        }
        _ => KeyOutcome::refused(hf::LOSS),
    }
}

/// Whether the loss is one of pairs.
fn is_of_pairs(draft: &Draft) -> bool {
    let name = draft.text("loss._component_").unwrap_or_default();
    name.ends_with(".DPOLoss") || name.ends_with(".RSOLoss")
}

/// Maps an argument of a loss of pairs.
fn of_pairs(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if is_of_pairs(draft) {
        draft.same(key, given)
    } else {
        KeyOutcome::refused(OTHER_TRAINING)
    }
}

/// Maps the reference of a recipe that trains every weight.
fn ref_checkpointer(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if !is_of_pairs(draft) {
        return KeyOutcome::dropped("of losses of pairs only");
    }
    if given.node.text() == draft.text("checkpointer.checkpoint_dir") {
        return KeyOutcome::dropped("the model as training starts, as here");
    }
    draft.same("objective.reference", given)
}

fn device(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("cpu") => draft.set("device", "cpu"),
        _ => KeyOutcome::replaced(
            "`device: auto` takes the first GPU that passed the gradient check",
        ),
    }
}

fn dtype(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("fp32") => draft.set("training.model_dtype", "float32"),
        Some("bf16") if is_adapter(draft) => KeyOutcome::replaced(
            "`model_dtype: auto` takes 16 bits where the device computes in \
            them; adapters are kept in 32 bits",
        ),
        Some("bf16") => KeyOutcome::replaced(
            "every weight trains in 32 bits, since an update is smaller than the last bit of 16",
        ),
        _ => KeyOutcome::refused("`bf16` and `fp32` are supported"),
    }
}

/// Adds the defaults that the config does not state, and its datasets.
pub(super) fn finish(draft: &mut Draft) {
    if is_adapter(draft) {
        draft.default(&["model.lora_rank"], "adapter.r", "8");
        draft.default(&["model.lora_alpha"], "adapter.alpha", "16");
    }
    draft.default(&["optimizer.weight_decay"], "training.weight_decay", "0.01");
    draft.default(
        &["lr_scheduler._component_"],
        "training.lr_scheduler",
        "constant",
    );
    draft.default(&["clip_grad_norm"], "training.max_grad_norm", "0");
    if draft.at("tokenizer.max_seq_len").is_none() {
        draft.add(
            "training.sequence_len",
            UNLIMITED,
            "torchtune has no limit here; with `truncation: error` a longer row stops the run \
            before it trains",
        );
        draft.add(
            "training.truncation",
            "error",
            "no row is left out or cut without being told",
        );
    } else {
        draft.add(
            "training.truncation",
            "truncate",
            "torchtune cuts longer rows",
        );
    }
    if let Some(data) = data(draft, "dataset") {
        draft.train = vec![data];
    }
    if let Some(data) = data(draft, "dataset_val") {
        draft.validation = vec![data];
    }
}

fn data(draft: &Draft, part: &str) -> Option<Data> {
    let (layout, located) = (layout(builder(draft, part))?, place(draft, part)?);
    let said = |key: &str| draft.at(&format!("{part}.{key}"));
    let is_sliced = said("split").and_then(Node::text).is_some_and(is_slice);
    let parts: Vec<String> = ["split", "subset", "name", "partition"]
        .iter()
        .filter(|key| **key != "split" || !is_sliced)
        .filter_map(|key| Some(format!("{key} `{}`", said(key)?.shown())))
        .collect();
    let mut data = Data::default();
    if let Some(task) = &located.task {
        let parts = if parts.is_empty() {
            String::new()
        } else {
            format!(" (only {})", parts.join(", "))
        };
        data.notes.push(format!("{task}{parts}."));
        data.notes.extend(layout.note.map(str::to_owned));
    }
    data.lines = located.lines(wanted_part(draft, part));
    data.lines.push(("format", layout.format.to_owned()));
    let named = said("conversation_column")
        .or_else(|| said("column"))
        .and_then(Node::text);
    let column = match (layout.column, named) {
        (_, Some(name)) if layout.format == "text" => Some(("text", name)),
        (Some((ours, _)), Some(name)) => Some((ours, name)),
        (column, _) => column,
    };
    let of_pairs = said("column_map").filter(|_| layout.format == "preference");
    if let Some(columns) = of_pairs.and_then(pairs_of_columns) {
        let named = columns
            .iter()
            .map(|(ours, name)| format!("{ours}: {}", yaml_word(name)));
        let named: Vec<String> = named.collect();
        data.lines
            .push(("columns", format!("{{{}}}", named.join(", "))));
    }
    if let Some((ours, name)) = column.filter(|(ours, name)| ours != name) {
        data.lines
            .push(("columns", format!("{{{ours}: {}}}", yaml_word(name))));
    }
    let trains_all = said("train_on_input").map_or(layout.trains_all, |node| !is_off(node));
    if trains_all && layout.format == "chat" {
        data.lines.push(("train_on", "all".into()));
    }
    Some(data)
}
