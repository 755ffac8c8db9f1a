//! LLaMA-Factory. Keys: `src/llamafactory/hparams/` of 18 August 2026 and transformers'
//! `TrainingArguments`. `dataset` names entries of `dataset_info.json`, so that file is a part of
//! the config.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::tree::NodeValue;
use super::datasets::{Located, Part, is_slice, local_file, locate, on_hub};
use super::draft::{Data, Draft, is_off};
use super::hugging_face as hf;
use super::key_outcome::KeyOutcome;
use super::text::{list, number, pairs, texts, unquoted, whole};
use super::{Given, Rule, Table, tokens};
use crate::fault::yaml_word;
use crate::files::{JSON_BYTES, read_text_up_to};

const REWARDS: &str = "rewards and reinforcement learning are not supported";
const IMAGES: &str = "images, video and audio are not supported";
const OPTIMIZER: &str = "this optimizer is not supported";
const LOSS: &str = "another loss than the mean cross-entropy of the trained tokens is not \
    supported";
const FREEZE: &str = "a choice of the weights that train is not supported: an adapter or every \
    weight";
const MEGATRON: &str = "training by Megatron is not supported";
const KT: &str = "experts of KTransformers' own (other weights, added ones) are not supported";
const SERVING: &str = "it is read when the model is used or exported, not when it is trained";
const WEIGHTS: &str = "this change of the base's weights is not supported";
const SPLIT: &str = "special tokens in a text are found as tokens, unless tokenizer_config.json \
    says otherwise";
const DESCRIBED: &str = "new tokens that begin as what their descriptions say are not supported: \
    name the token to begin as, with `from` in `tokens.add`";
const NEWER: &str = "the newer form of LLaMA-Factory's configs (`v1`) is not read";

pub(super) const TABLES: &[Table] = &[TOP, hf::TABLE];

const TOP: Table = &[
    (&["model_name_or_path"], Rule::Read(base_model)),
    (
        &["model_revision"],
        Rule::Dropped("it stands in `base_model`"),
    ),
    (&["adapter_name_or_path"], Rule::Read(adapter)),
    (
        &["create_new_adapter"],
        Rule::Refused("an adapter on top of a merged one is not supported; merge it first"),
    ),
    (
        &[
            "cache_dir",
            "adapter_folder",
            "use_fast_tokenizer",
            "low_cpu_mem_usage",
            "hf_hub_token",
            "ms_hub_token",
            "om_hub_token",
            "print_param_status",
            "trust_remote_code",
            "offload_folder",
            "init_special_tokens",
            "model_max_length",
        ],
        Rule::Dropped("Rankine reads config.json and tokenizer.json, and runs no code of a model"),
    ),
    (&["stage"], Rule::Read(stage)),
    (&["finetuning_type"], Rule::Read(finetuning_type)),
    // The adapter.
    (
        &["lora_rank"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.r")),
    ),
    (
        &["lora_alpha"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.alpha")),
    ),
    (
        &["lora_dropout"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.dropout")),
    ),
    (&["lora_target"], Rule::Read(target)),
    (&["additional_target"], Rule::Read(additional_target)),
    (
        &["use_rslora"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.use_rslora")),
    ),
    (
        &["use_dora"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.use_dora")),
    ),
    (
        &["loraplus_lr_ratio"],
        Rule::Read(|draft, given| in_adapter(draft, given, "training.loraplus_lr_ratio")),
    ),
    (
        &["loraplus_lr_embedding"],
        Rule::Dropped("of adapters of the embedding only, and `lora_target: all` has none"),
    ),
    (&["pissa_init"], Rule::Read(pissa)),
    (&["pissa_iter"], Rule::Read(pissa_iter)),
    (
        &["pissa_convert"],
        Rule::Dropped("a PiSSA adapter is always saved as a plain one"),
    ),
    (
        &["module_dropout", "oft_rank", "oft_block_size", "oft_target"],
        Rule::Refused("OFT is not supported; LoRA and QLoRA are"),
    ),
    (&["quantization_bit"], Rule::Read(quantization_bit)),
    (&["quantization_method"], Rule::Read(quantization_method)),
    (&["quantization_type"], Rule::Read(quantization_type)),
    (&["double_quantization"], Rule::Read(double_quantization)),
    (&["quantization_device_map"], Rule::Dropped(hf::PARALLEL)),
    (
        &[
            "freeze_trainable_layers",
            "freeze_trainable_modules",
            "freeze_extra_modules",
            "use_llama_pro",
        ],
        Rule::Refused(FREEZE),
    ),
    // Data.
    (&["template"], Rule::Read(template)),
    (&["dataset", "eval_dataset"], Rule::Read(dataset)),
    (&["dataset_dir"], Rule::Read(dataset_dir)),
    (&["cutoff_len"], Rule::Read(cutoff_len)),
    (&["train_on_prompt"], Rule::Read(train_on_prompt)),
    (&["mask_history"], Rule::Read(mask_history)),
    (&["max_samples"], Rule::Read(max_samples)),
    (&["val_size"], Rule::Read(val_size)),
    (&["packing"], Rule::Read(packing)),
    (&["neat_packing"], Rule::Read(neat_packing)),
    (&["mix_strategy"], Rule::Read(mix_strategy)),
    (&["interleave_probs"], Rule::Read(interleave_probs)),
    (&["streaming", "buffer_size"], Rule::Read(streaming)),
    (
        &["tool_format"],
        Rule::Refused("the template of the base writes tools"),
    ),
    (
        &["default_system"],
        Rule::SameIfKnown(
            "datasets.system",
            "a system message for rows without one is not supported; write it into the rows",
        ),
    ),
    (
        &["enable_thinking", "preserve_thinking"],
        Rule::Read(thinking),
    ),
    (&["media_dir"], Rule::Dropped("no images are read")),
    (
        &[
            "overwrite_cache",
            "preprocessing_batch_size",
            "preprocessing_num_workers",
            "data_shared_file_system",
            "tokenized_path",
        ],
        Rule::Dropped("tokens are cached by content; nothing has to be said"),
    ),
    (
        &["eval_num_beams", "eval_on_each_dataset", "compute_accuracy"],
        Rule::Dropped(hf::EVALUATING),
    ),
    (
        &["ignore_pad_token_for_loss", "block_diag_attn"],
        Rule::Dropped("nothing is padded, and each row sees itself only"),
    ),
    (&["disable_shuffling"], Rule::Read(disable_shuffling)),
    (
        &["early_stopping_steps"],
        Rule::Same("evaluation.early_stopping_patience"),
    ),
    // Computing.
    (&["flash_attn"], Rule::Read(attention)),
    (
        &["disable_gradient_checkpointing"],
        Rule::Read(no_checkpointing),
    ),
    (&["pure_bf16"], Rule::Read(hf::bf16)),
    (
        &[
            "compute_dtype",
            "infer_dtype",
            "upcast_layernorm",
            "upcast_lmhead_output",
        ],
        Rule::Dropped("norms, the head and what trains are in 32 bits"),
    ),
    (
        &[
            "use_unsloth",
            "use_unsloth_gc",
            "enable_liger_kernel",
            "use_reentrant_gc",
            "use_v1_kernels",
            "device_map",
        ],
        Rule::Dropped(hf::KERNELS),
    ),
    (
        &["moe_aux_loss_coef"],
        Rule::Same("training.router_aux_loss_coef"),
    ),
    (
        &["resize_vocab"],
        Rule::Dropped("embedding and head get rows for new tokens by themselves"),
    ),
    (
        &["add_tokens", "add_special_tokens"],
        Rule::Read(tokens::of_llama_factory),
    ),
    (&["new_special_tokens_config"], Rule::Refused(DESCRIBED)),
    (&["split_special_tokens"], Rule::Refused(SPLIT)),
    (
        &[
            "rope_scaling",
            "shift_attn",
            "mixture_of_depths",
            "train_from_scratch",
        ],
        Rule::Refused(WEIGHTS),
    ),
    (
        &["fp8", "fp8_backend", "fp8_enable_fsdp_float8_all_gather"],
        Rule::Refused("computing in 8 bits is not supported"),
    ),
    (
        &[
            "use_galore",
            "galore_target",
            "galore_rank",
            "galore_update_interval",
            "galore_scale",
            "galore_proj_type",
            "galore_layerwise",
            "use_apollo",
            "apollo_target",
            "apollo_rank",
            "apollo_update_interval",
            "apollo_scale",
            "apollo_proj",
            "apollo_proj_type",
            "apollo_scale_type",
            "apollo_layerwise",
            "apollo_scale_front",
            "use_badam",
            "badam_mode",
            "badam_start_block",
            "badam_switch_mode",
            "badam_switch_interval",
            "badam_update_ratio",
            "badam_mask_mode",
            "badam_verbose",
            "use_adam_mini",
        ],
        Rule::Refused(OPTIMIZER),
    ),
    (&["use_muon"], Rule::Read(muon)),
    (&["use_dft_loss"], Rule::Read(dft)),
    (
        &["use_asft_loss", "asft_alpha", "use_eaft_loss", "eaft_alpha"],
        Rule::Refused(LOSS),
    ),
    (
        &[
            "ppo_buffer_size",
            "ppo_epochs",
            "ppo_score_norm",
            "ppo_target",
            "ppo_whiten_rewards",
            "reward_model",
            "reward_model_adapters",
            "reward_model_quantization_bit",
            "reward_model_type",
        ],
        Rule::Refused(REWARDS),
    ),
    (&["pref_loss"], Rule::Read(pref_loss)),
    (
        &["pref_beta"],
        Rule::Read(|draft, given| of_preferences(draft, given, "objective.beta")),
    ),
    (
        &["dpo_label_smoothing"],
        Rule::Read(|draft, given| of_preferences(draft, given, "objective.label_smoothing")),
    ),
    (
        &["simpo_gamma"],
        Rule::Read(|draft, given| of_preferences(draft, given, "objective.simpo_gamma")),
    ),
    (
        &["kto_chosen_weight"],
        Rule::Read(|draft, given| of_preferences(draft, given, "objective.desirable_weight")),
    ),
    (
        &["kto_rejected_weight"],
        Rule::Read(|draft, given| of_preferences(draft, given, "objective.undesirable_weight")),
    ),
    (&["pref_ftx"], Rule::Read(pref_ftx)),
    (
        &["pref_bco_weight", "ld_alpha"],
        Rule::Refused("this change of the loss of pairs is not supported"),
    ),
    (&["ref_model"], Rule::Read(ref_model)),
    (
        &["ref_model_adapters", "ref_model_quantization_bit"],
        Rule::Refused(
            "a reference of several parts is not supported: merge it, and name the folder in \
            `objective.reference`",
        ),
    ),
    (&["use_kt"], Rule::Read(use_kt)),
    (&["kt_config"], Rule::Read(kt_config)),
    (
        &["kt_cpu_activation"],
        Rule::Dropped("it saves memory and changes no number"),
    ),
    (
        &[
            "kt_weight_path",
            "kt_non_expert_weight_path",
            "kt_expert_checkpoint_path",
            "kt_use_lora_experts",
            "kt_lora_expert_num",
            "kt_lora_expert_intermediate_size",
        ],
        Rule::Refused(KT),
    ),
    (
        &[
            "use_mca",
            "use_megatron_bridge",
            "megatron_bridge_args",
            "use_hyper_parallel",
            "hyper_parallel_args",
            "tensor_model_parallel_size",
            "pipeline_model_parallel_size",
            "expert_model_parallel_size",
            "virtual_pipeline_model_parallel_size",
            "sequence_parallel",
            "recompute_granularity",
            "recompute_method",
            "recompute_num_layers",
            "account_for_embedding_in_pipeline_split",
            "account_for_loss_in_pipeline_split",
            "bias_activation_fusion",
            "apply_rope_fusion",
            "masked_softmax_fusion",
            "cross_entropy_loss_fusion",
            "moe_grouped_gemm",
            "moe_token_dispatcher_type",
            "calculate_per_token_loss",
            "use_distributed_optimizer",
            "overlap_param_gather",
            "overlap_grad_reduce",
            "use_packed_sequences",
            "mixed_precision",
            "megatron_pretrained_checkpoint",
            "export_hf_on_finish",
            "extra_config",
        ],
        Rule::Refused(MEGATRON),
    ),
    (
        &["hyper_parallel_cp_size", "context_parallel_size"],
        Rule::Dropped(hf::PARALLEL),
    ),
    (
        &[
            "freeze_vision_tower",
            "freeze_multi_modal_projector",
            "freeze_language_model",
            "image_max_pixels",
            "image_min_pixels",
            "image_do_pan_and_scan",
            "crop_to_patches",
            "video_max_pixels",
            "video_min_pixels",
            "video_fps",
            "video_maxlen",
            "use_audio_in_video",
            "audio_sampling_rate",
        ],
        Rule::Refused(IMAGES),
    ),
    (&["ray_num_workers"], Rule::Read(hf::devices)),
    (
        &[
            "ray_init_kwargs",
            "master_addr",
            "master_port",
            "fsdp_transformer_layer_cls_to_wrap",
        ],
        Rule::Dropped(hf::PARALLEL),
    ),
    (
        &[
            "plot_loss",
            "include_effective_tokens_per_second",
            "use_swanlab",
            "swanlab_project",
            "swanlab_workspace",
            "swanlab_run_name",
            "swanlab_mode",
            "swanlab_api_key",
            "swanlab_logdir",
            "swanlab_lark_webhook_url",
            "swanlab_lark_secret",
            "enable_torch_profiler",
            "profiler_output_dir",
            "profiler_wait_steps",
            "profiler_warmup_steps",
            "profiler_active_steps",
            "profiler_repeat",
            "profiler_record_shapes",
            "profiler_profile_memory",
            "profiler_with_stack",
            "profile_modules",
        ],
        Rule::Dropped(hf::LOGGING),
    ),
    (
        &[
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "num_beams",
            "max_length",
            "max_new_tokens",
            "repetition_penalty",
            "length_penalty",
            "skip_special_tokens",
            "infer_backend",
            "use_kv_cache",
            "export_dir",
            "export_size",
            "export_device",
            "export_quantization_bit",
            "export_quantization_dataset",
            "export_quantization_nsamples",
            "export_quantization_maxlen",
            "export_legacy_format",
            "export_hub_model_id",
            "vllm_maxlen",
            "vllm_gpu_util",
            "vllm_enforce_eager",
            "vllm_max_lora_rank",
            "vllm_config",
            "sglang_maxlen",
            "sglang_mem_fraction",
            "sglang_tp_size",
            "sglang_config",
            "sglang_lora_backend",
            "task",
            "task_dir",
            "batch_size",
            "lang",
            "n_shot",
            "save_dir",
            "download_mode",
        ],
        Rule::Dropped(SERVING),
    ),
    (
        &[
            "model",
            "model_class",
            "dist_config",
            "train_dataset",
            "kernel_config",
            "sample_backend",
            "peft_config",
            "quant_config",
            "batching_strategy",
        ],
        Rule::Refused(NEWER),
    ),
];

fn base_model(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let Some(base) = given.node.text() else {
        return KeyOutcome::refused("expected a folder or a Hub id");
    };
    let revision = draft
        .text("model_revision")
        .filter(|revision| *revision != "main");
    let whole = revision.map_or_else(|| base.to_owned(), |revision| format!("{base}@{revision}"));
    draft.set("base_model", yaml_word(&whole))
}

fn is_full(draft: &Draft) -> bool {
    draft.text("finetuning_type") == Some("full")
}

fn has_adapter(draft: &Draft) -> bool {
    draft.at("adapter_name_or_path").is_some()
}

fn adapter(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match &texts(given.node)[..] {
        _ if is_full(draft) => KeyOutcome::refused("every weight trains; merge the adapter first"),
        [one] => draft.set("adapter.init_from", yaml_word(one)),
        _ => KeyOutcome::refused("several adapters: merge all except the last into the base first"),
    }
}

/// Returns the recipe's format of rows where the stage trains on preferences.
fn preference_format(draft: &Draft) -> Option<&'static str> {
    match draft.text("stage")? {
        "dpo" => Some("preference"),
        "kto" => Some("unpaired"),
        _ => None,
    }
}

/// Returns the loss of pairs of the stage `dpo`.
fn loss_of_pairs<'a>(draft: &Draft<'a>) -> &'a str {
    draft.text("pref_loss").unwrap_or("sigmoid")
}

/// Maps a key that is read by the stages `dpo` and `kto`.
fn of_preferences(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    let is_read = match (given.name, draft.text("stage")) {
        ("pref_beta", Some("dpo" | "kto"))
        | ("kto_chosen_weight" | "kto_rejected_weight", Some("kto")) => true,
        ("dpo_label_smoothing", Some("dpo")) => {
            !["orpo", "simpo"].contains(&loss_of_pairs(draft)) && !is_off(given.node)
        }
        ("simpo_gamma", Some("dpo")) => loss_of_pairs(draft) == "simpo",
        _ => false,
    };
    if is_read {
        draft.same(key, given)
    } else {
        KeyOutcome::dropped("this stage and loss do not read it")
    }
}

fn pref_loss(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.text("stage") != Some("dpo") {
        return KeyOutcome::dropped("of `stage: dpo` only");
    }
    match given.node.text() {
        Some("sigmoid") => draft.set("objective.loss_type", "sigmoid"),
        Some("hinge") => draft.set("objective.loss_type", "hinge"),
        Some("ipo") => draft.set("objective.loss_type", "ipo"),
        Some("simpo") => KeyOutcome::Mapped("objective.type: simpo".into()),
        Some("orpo") => KeyOutcome::replaced(
            "`objective.type: orpo`: the cross-entropy is a mean over the tokens of prompt and \
            chosen answer, as in the paper and in TRL; LLaMA-Factory leaves the prompt out",
        ),
        _ => KeyOutcome::refused(
            "this loss of pairs is not supported; `sigmoid`, `hinge`, `ipo`, `orpo` and `simpo` are",
        ),
    }
}

/// Maps the cross-entropy that is mixed in.
fn pref_ftx(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    let key = match (draft.text("stage"), loss_of_pairs(draft)) {
        (Some("dpo"), "simpo") => "objective.cpo_alpha",
        (Some("dpo"), "orpo") => {
            return KeyOutcome::refused("`orpo` has its cross-entropy already");
        }
        (Some("dpo"), _) => "objective.sft_weight",
        (Some("kto"), _) => {
            return KeyOutcome::refused("`kto` with cross-entropy is not supported");
        }
        _ => return KeyOutcome::dropped("of preference data only"),
    };
    match draft.same(key, given) {
        KeyOutcome::Mapped(line) => KeyOutcome::replaced(format!(
            "{line}; the cross-entropy is a mean over the tokens of a step's chosen answers, and \
            not of each answer's mean"
        )),
        other => other,
    }
}

/// Maps the reference: a folder or a Hub id.
fn ref_model(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let has_reference =
        preference_format(draft).is_some() && !["orpo", "simpo"].contains(&loss_of_pairs(draft));
    let Some(path) = given.node.text().filter(|_| has_reference) else {
        return KeyOutcome::dropped("this stage and loss have no reference");
    };
    if Path::new(path).is_dir() || path.starts_with(['.', '/']) {
        return draft.set("objective.reference", yaml_word(path));
    }
    KeyOutcome::refused(
        "a reference of the Hub is not fetched: pull it with `rankine pull`, and name its folder in \
        `objective.reference`",
    )
}

fn dft(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    draft.set("objective.loss_type", "dft")
}

fn stage(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("dpo") => match loss_of_pairs(draft) {
            word @ ("orpo" | "simpo") => draft.set("objective.type", word),
            _ => draft.set("objective.type", "dpo"),
        },
        Some("kto") => draft.set("objective.type", "kto"),
        Some("sft") => KeyOutcome::Mapped("datasets.format: chat".into()),
        Some("pt") => KeyOutcome::Mapped("datasets.format: text".into()),
        _ => KeyOutcome::refused(REWARDS),
    }
}

fn finetuning_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("full") => draft.set("adapter.method", "full"),
        Some("lora") => {
            let method = if draft.at("quantization_bit").and_then(number) == Some(4.0) {
                "qlora"
            } else {
                "lora"
            };
            draft.set("adapter.method", method)
        }
        Some("freeze") => KeyOutcome::refused(FREEZE),
        _ => KeyOutcome::refused("this way to train is not supported; `lora` and `full` are"),
    }
}

/// Maps a key of the adapter, which comes from `adapter_name_or_path` if that is set.
fn in_adapter(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if is_full(draft) {
        return KeyOutcome::dropped("every weight trains, and nothing reads it");
    }
    let is_shape = key.starts_with("adapter.") && key != "adapter.dropout";
    if has_adapter(draft) && is_shape {
        KeyOutcome::dropped("the adapter in `adapter_name_or_path` says it")
    } else {
        draft.same(key, given)
    }
}

fn target(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) || has_adapter(draft) {
        in_adapter(draft, given, "adapter.target_modules")
    } else {
        hf::targets(draft, given)
    }
}

fn additional_target(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) || has_adapter(draft) {
        return in_adapter(draft, given, "adapter.modules_to_save");
    }
    draft.set("adapter.modules_to_save", list(&texts(given.node)))
}

fn pissa(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    match draft.set("adapter.init_lora_weights", "pissa") {
        KeyOutcome::Mapped(_) if draft.at("pissa_iter").and_then(number) != Some(-1.0) => {
            KeyOutcome::replaced(
                "the singular vectors are computed exactly, in place of a few \
                iterations from random ones",
            )
        }
        other => other,
    }
}

fn pissa_iter(draft: &mut Draft, _: &Given) -> KeyOutcome {
    if !draft.is_on("pissa_init") {
        return KeyOutcome::dropped("without `pissa_init` nothing reads it");
    }
    KeyOutcome::replaced("the singular vectors are computed exactly")
}

fn quantization_bit(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) {
        return KeyOutcome::refused("a quantized base trains with an adapter only");
    }
    match number(given.node) {
        Some(4.0) => KeyOutcome::Mapped("adapter.method: qlora".into()),
        Some(8.0) => draft.set("adapter.quantization", "int8"),
        _ => KeyOutcome::refused("4 and 8 bits are supported"),
    }
}

fn quantization_method(_: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("bnb" | "bitsandbytes") => KeyOutcome::dropped("the layout of bitsandbytes, as here"),
        _ => KeyOutcome::refused("this quantization is not supported; that of bitsandbytes is"),
    }
}

fn quantization_type(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let is_four = draft.at("quantization_bit").and_then(number) == Some(4.0);
    if is_four {
        draft.same("adapter.quantization", given)
    } else {
        KeyOutcome::dropped("of 4 bits only")
    }
}

fn double_quantization(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let is_four = draft.at("quantization_bit").and_then(number) == Some(4.0);
    if is_four {
        draft.same("adapter.double_quant", given)
    } else {
        KeyOutcome::dropped("of 4 bits only")
    }
}

/// Maps `template`: a template by name is code of `LLaMA-Factory`.
fn template(draft: &mut Draft, _: &Given) -> KeyOutcome {
    if draft.text("stage") == Some("pt") {
        return KeyOutcome::dropped("plain text is rendered by no template");
    }
    KeyOutcome::replaced(
        "the base's own template is used; `chat_template` names another, a file or a stock one, \
        and `rankine preview` shows what it makes of rows",
    )
}

fn cutoff_len(draft: &mut Draft, given: &Given) -> KeyOutcome {
    draft.same("training.sequence_len", given)
}

fn train_on_prompt(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let _ = draft;
    if is_off(given.node) {
        KeyOutcome::dropped("off: the answers are trained")
    } else {
        KeyOutcome::Mapped("datasets.train_on: all".into())
    }
}

fn mask_history(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off: every answer is trained")
    } else {
        KeyOutcome::Mapped("datasets.train_on: last".into())
    }
}

/// Maps `max_samples`: the first rows of each data set, as here.
fn max_samples(_: &mut Draft, given: &Given) -> KeyOutcome {
    match whole(given.node).filter(|rows| *rows > 0) {
        Some(rows) => KeyOutcome::Mapped(format!("datasets.max_rows: {rows}")),
        None => KeyOutcome::refused("expected a whole number of rows"),
    }
}

fn val_size(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match number(given.node) {
        Some(0.0) => draft.set("evaluation.val_set_size", "0"),
        Some(share) if share > 0.0 && share < 1.0 => draft.same("evaluation.val_set_size", given),
        Some(rows) if rows >= 1.0 => {
            draft.set("evaluation.val_set_size", format!("{}", rows.trunc()))
        }
        _ => KeyOutcome::refused("expected a share below 1 or a number of rows"),
    }
}

fn packing(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match unquoted(given.node).flag() {
        Some(false) => KeyOutcome::dropped("off"),
        _ if draft.is_on("neat_packing") => draft.set("training.sample_packing", "true"),
        _ => KeyOutcome::refused(
            "rows that share a sequence see each other; `neat_packing: true` \
            keeps them apart, as Rankine does",
        ),
    }
}

fn neat_packing(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        draft.set("training.sample_packing", "true")
    }
}

/// Maps `mix_strategy`: `interleave_under` ends with the first data set that was read whole,
/// `interleave_over` with the last.
fn mix_strategy(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let end = match given.node.text() {
        Some("concat") => return KeyOutcome::dropped("all rows of all data sets, as here"),
        Some("interleave_once") => {
            return KeyOutcome::replaced("each row of all data sets once an epoch, shuffled");
        }
        Some("interleave_under") => "first_exhausted",
        Some("interleave_over") => "all_exhausted",
        _ => {
            return KeyOutcome::refused(
                "expected `concat`, `interleave_under`, `interleave_over` or `interleave_once`",
            );
        }
    };
    if names(draft, "dataset").len() < 2 {
        return KeyOutcome::dropped("of several data sets only");
    }
    match draft.set("training.stopping_strategy", end) {
        KeyOutcome::Mapped(line) => KeyOutcome::replaced(format!(
            "{line}; the shares are the same, and are kept to in each epoch, not drawn at random"
        )),
        other => other,
    }
}

fn interleave_probs(draft: &mut Draft, _: &Given) -> KeyOutcome {
    let sets = names(draft, "dataset").len();
    if !is_interleaved(draft) || sets < 2 {
        return KeyOutcome::dropped(
            "of `mix_strategy: interleave_under` and `interleave_over` with several data sets only",
        );
    }
    match weights(draft) {
        Some(weights) if weights.len() == sets => {
            KeyOutcome::Mapped(format!("datasets.weight: {}", weights.join(", ")))
        }
        _ => KeyOutcome::refused(format!("expected {sets} numbers above 0, one a data set")),
    }
}

/// Returns whether data sets are drawn by weight.
fn is_interleaved(draft: &Draft) -> bool {
    matches!(
        draft.text("mix_strategy"),
        Some("interleave_under" | "interleave_over")
    ) && names(draft, "dataset").len() > 1
}

/// Returns the values of `interleave_probs` if they are numbers above 0.
fn weights(draft: &Draft) -> Option<Vec<String>> {
    let written = match &draft.at("interleave_probs")?.kind {
        NodeValue::List(nodes) => nodes
            .iter()
            .map(|node| Some(unquoted(node).number()?.to_string()))
            .collect::<Option<Vec<_>>>()?,
        _ => names(draft, "interleave_probs"),
    };
    written
        .iter()
        .all(|weight| weight.parse::<f64>().is_ok_and(|weight| weight > 0.0))
        .then_some(written)
}

fn streaming(draft: &mut Draft, _: &Given) -> KeyOutcome {
    if draft.is_on("streaming") {
        KeyOutcome::refused("data that are streamed are not supported")
    } else {
        KeyOutcome::dropped("of streamed data only")
    }
}

fn thinking(_: &mut Draft, given: &Given) -> KeyOutcome {
    let is_default = unquoted(given.node).flag() == Some(given.name == "enable_thinking");
    if is_default {
        KeyOutcome::dropped("its default")
    } else {
        KeyOutcome::refused(
            "LLaMA-Factory takes reasoning out of the answers by it; take it out of the data, and \
            where the base's template has such a variable, set it in `chat_template_kwargs`",
        )
    }
}

fn disable_shuffling(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        draft.set("training.shuffle", "false")
    }
}

fn attention(_: &mut Draft, _: &Given) -> KeyOutcome {
    KeyOutcome::replaced("attention is exact whatever computes it; Rankine has kernels of its own")
}

/// Maps `use_kt`: `KTransformers` computes routed experts on the CPU.
fn use_kt(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    KeyOutcome::replaced(
        "experts are kept and computed with the rest of the model, in the numbers of the \
        checkpoint: all of it has to fit into memory",
    )
}

/// Maps the settings of `KTransformers`. Experts in 8 or 4 bits have other values.
fn kt_config(_: &mut Draft, given: &Given) -> KeyOutcome {
    let NodeValue::Map(entries) = &given.node.kind else {
        return KeyOutcome::refused("expected keys with values");
    };
    let said = |key: &str| {
        entries
            .get(key)
            .and_then(|entry| entry.value.text())
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    if ["kt_expert_weight_format", "kt_backend"]
        .iter()
        .any(|key| said(key).contains("int"))
    {
        return KeyOutcome::refused("experts in integers of KTransformers are not supported");
    }
    KeyOutcome::dropped(hf::KERNELS)
}

/// Maps `use_muon`: `LLaMA-Factory`'s own Muon.
fn muon(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    match draft.set("training.optimizer", "muon") {
        KeyOutcome::Mapped(_) => KeyOutcome::replaced(hf::MUON),
        other => other,
    }
}

fn no_checkpointing(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let value = if is_off(given.node) { "true" } else { "false" };
    draft.set("training.gradient_checkpointing", value)
}

/// Returns `dataset_dir`, or its default.
fn data_dir<'a>(draft: &Draft<'a>) -> &'a str {
    draft
        .text("dataset_dir")
        .filter(|dir| !dir.starts_with("REMOTE:"))
        .unwrap_or("data")
        .trim_end_matches('/')
}

/// Returns the path of `dataset_info.json`: in `dataset_dir`, relative to the config's folder or
/// one above it.
fn info_path(draft: &Draft) -> Option<PathBuf> {
    let dir = data_dir(draft);
    let absolute = std::path::absolute(&draft.folder).unwrap_or_else(|_| draft.folder.clone());
    let here = Path::new(".").join(dir).join(INFO);
    let above = absolute
        .ancestors()
        .map(|folder| folder.join(dir).join(INFO));
    std::iter::once(here)
        .chain(above)
        .find(|path| path.is_file())
}

const INFO: &str = "dataset_info.json";

fn info(draft: &Draft) -> Result<(PathBuf, Value), String> {
    let dir = draft.text("dataset_dir").unwrap_or("data");
    let missing = || {
        format!(
            "`{dir}/{INFO}` says what it is, and is in no folder from that of the \
            config upward; put it there"
        )
    };
    let path = info_path(draft).ok_or_else(missing)?;
    let text = read_text_up_to(&path, JSON_BYTES).map_err(|error| error.to_string())?;
    let value =
        serde_json::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))?;
    Ok((path, value))
}

/// An entry of `dataset_info.json`.
struct DatasetInfo {
    located: Located,
    /// Lines of the recipe that name the data set and its part.
    part: Vec<(&'static str, String)>,
    columns: Vec<(&'static str, String)>,
    /// Role words of the data.
    roles: BTreeMap<String, String>,
    notes: Vec<String>,
}

/// Reads names of data sets with commas between them.
fn names(draft: &Draft, key: &str) -> Vec<String> {
    draft.at(key).map(texts).unwrap_or_default()
}

/// Reads an entry; a key that is not known is refused by name.
fn entry(draft: &Draft, name: &str) -> Result<DatasetInfo, String> {
    const PART: [&str; 4] = ["split", "subset", "folder", "num_samples"];
    const READ: [&str; 11] = [
        "hf_hub_url",
        "ms_hub_url",
        "om_hub_url",
        "file_name",
        "formatting",
        "columns",
        "tags",
        "split",
        "subset",
        "folder",
        "num_samples",
    ];
    let (path, info) = info(draft)?;
    let Some(entry) = info.get(name).and_then(Value::as_object) else {
        return Err(format!("`{name}` is not in `{}`", path.display()));
    };
    if let Some(key) = entry
        .keys()
        .find(|key| !READ.contains(&key.as_str()) && key.as_str() != "ranking")
    {
        return Err(format!(
            "`{name}` has the key `{key}`, which is not supported"
        ));
    }
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let said = text("hf_hub_url")
        .or_else(|| text("ms_hub_url"))
        .or_else(|| text("om_hub_url"));
    let located = match (said, text("file_name")) {
        (Some(id), _) => locate(id, &draft.folder),
        (None, Some(file)) => locate(&format!("{}/{file}", data_dir(draft)), &draft.folder),
        (None, None) => return Err(format!("`{name}` has neither a Hub id nor a file")),
    };
    let new = |located| DatasetInfo {
        located,
        part: Vec::new(),
        columns: Vec::new(),
        roles: BTreeMap::new(),
        notes: Vec::new(),
    };
    // A data set of the Hub is named as such where its rows need not be written anew.
    let part = Part {
        config: text("subset"),
        split: text("split"),
        ..Part::default()
    };
    let is_whole = !["folder", "num_samples"]
        .iter()
        .any(|key| entry.contains_key(*key));
    let of_hub = || text("hf_hub_url").and_then(|id| on_hub(id, part, &draft.folder));
    let file = text("file_name").filter(|_| said.is_none());
    let local = || local_file(&format!("{}/{}", data_dir(draft), file?));
    if let Some(located) = of_hub().or_else(local).filter(|_| is_whole) {
        let mut found = DatasetInfo {
            part: located.lines(part),
            ..new(located)
        };
        if layout(draft, name, entry, &mut found).is_ok() {
            return Ok(found);
        }
    }
    let mut found = new(located);
    let slice = text("split").filter(|split| is_slice(split));
    found.part = found.located.lines(Part {
        split: slice,
        ..Part::default()
    });
    let parts: Vec<String> = PART
        .iter()
        .filter(|key| **key != "split" || slice.is_none())
        .filter_map(|key| Some(format!("{key} {}", entry.get(*key)?)))
        .collect();
    if !parts.is_empty() && !found.located.is_open() {
        return Err(format!(
            "`{name}` is a part of a file: write those rows to a file of their own"
        ));
    }
    if !parts.is_empty() {
        found.notes.push(format!("Only {}.", parts.join(", ")));
    }
    layout(draft, name, entry, &mut found)?;
    Ok(found)
}

/// Reads the layout of rows. Rows of `alpaca` have to become conversations, since `LLaMA-Factory`
/// renders them by the template; those of `sharegpt` are conversations.
fn layout(
    draft: &Draft,
    name: &str,
    entry: &serde_json::Map<String, Value>,
    found: &mut DatasetInfo,
) -> Result<(), String> {
    let column = |key: &str| {
        entry
            .get("columns")
            .and_then(|columns| columns.get(key))
            .and_then(Value::as_str)
    };
    if let Some(media) = ["images", "videos", "audios"]
        .into_iter()
        .find(|key| column(key).is_some())
    {
        return Err(format!("`{name}` has {media}: {IMAGES}"));
    }
    if let Some(format) = preference_format(draft) {
        return preference_layout(name, format, entry, found);
    }
    let is_ranked = entry.get("ranking").and_then(Value::as_bool) == Some(true);
    if is_ranked || column("kto_tag").is_some() {
        return Err(format!(
            "`{name}` has preferences, which the stages `dpo` and `kto` read"
        ));
    }
    let is_text = draft.text("stage") == Some("pt");
    let formatting = entry
        .get("formatting")
        .and_then(Value::as_str)
        .unwrap_or("alpaca");
    match formatting {
        "alpaca" if is_text => found
            .columns
            .push(("text", column("prompt").unwrap_or("instruction").to_owned())),
        "alpaca" if found.located.is_open() => {
            let [prompt, query, response] = [
                ("prompt", "instruction"),
                ("query", "input"),
                ("response", "output"),
            ]
            .map(|(key, usual)| column(key).unwrap_or(usual));
            let system = column("system").map_or_else(String::new, |column| {
                format!(", and `{column}` as the system message")
            });
            let history = column("history").map_or_else(String::new, |column| {
                format!(", and the turns of `{column}` before them")
            });
            found.notes.push(format!(
                "Its rows become conversations in a column `messages`: `{prompt}`, a line break \
                and `{query}` as the user's, `{response}` as the assistant's{system}{history}."
            ));
        }
        "alpaca" => {
            return Err(format!(
                "`{name}` is Parquet of Alpaca's columns, which LLaMA-Factory renders as \
                conversations: write a column `messages`"
            ));
        }
        "sharegpt" | "openai" if !is_text => {
            let usual = if formatting == "openai" {
                "messages"
            } else {
                "conversations"
            };
            found
                .columns
                .push(("messages", column("messages").unwrap_or(usual).to_owned()));
            for key in ["tools", "system"] {
                found
                    .columns
                    .extend(column(key).map(|column| (key, column.to_owned())));
            }
            tags(name, entry, found)?;
        }
        _ => {
            return Err(format!(
                "`{name}`: the layout `{formatting}` is not supported here"
            ));
        }
    }
    Ok(())
}

/// Reads the layout of rows of preferences. Those of `sharegpt` are conversations with a column for
/// each completion, or whole conversations with a label; those of `alpaca` are texts that the
/// template renders, which have to become messages.
fn preference_layout(
    name: &str,
    format: &str,
    entry: &serde_json::Map<String, Value>,
    found: &mut DatasetInfo,
) -> Result<(), String> {
    let columns = entry.get("columns");
    let column = |key: &str| columns.and_then(|columns| columns.get(key)?.as_str());
    let is_ranked = entry.get("ranking").and_then(Value::as_bool) == Some(true);
    let label = column("kto_tag");
    if format == "preference" && !is_ranked {
        return Err(format!(
            "`{name}` has no pairs (`ranking: true`), which the stage `dpo` reads"
        ));
    }
    if format == "unpaired" && label.is_none() {
        return Err(format!(
            "`{name}` has no labels (`kto_tag`), which the stage `kto` reads"
        ));
    }
    let formatting = entry
        .get("formatting")
        .and_then(Value::as_str)
        .unwrap_or("alpaca");
    let usual = match formatting {
        "openai" => "messages",
        "sharegpt" => "conversations",
        "alpaca" => {
            let task = match format {
                "preference" => {
                    "its texts become lists of messages: `prompt`, `chosen` and `rejected`"
                }
                _ => "its texts become lists of messages, `prompt` and `completion`, with `label`",
            };
            if found.located.is_open() {
                found.notes.push(format!(
                    "LLaMA-Factory renders texts by a template: {task}."
                ));
                return Ok(());
            }
            return Err(format!(
                "`{name}` has texts, which LLaMA-Factory renders by a template; {task}"
            ));
        }
        other => {
            return Err(format!(
                "`{name}`: the layout `{other}` is not supported here"
            ));
        }
    };
    let messages = column("messages").unwrap_or(usual).to_owned();
    match label {
        Some(label) if format == "unpaired" => {
            found.columns.push(("completion", messages));
            found.columns.push(("label", label.to_owned()));
        }
        _ => {
            found.columns.push(("prompt", messages));
            for key in ["chosen", "rejected"] {
                found
                    .columns
                    .push((key, column(key).unwrap_or(key).to_owned()));
            }
        }
    }
    if let Some(system) = column("system") {
        return Err(format!(
            "`{name}` has system messages in `{system}`: write them into the conversations"
        ));
    }
    found
        .columns
        .extend(column("tools").map(|column| ("tools", column.to_owned())));
    tags(name, entry, found)
}

/// Reads the names within messages. Role words go into the recipe; other names have to match those
/// of the data.
fn tags(
    name: &str,
    entry: &serde_json::Map<String, Value>,
    found: &mut DatasetInfo,
) -> Result<(), String> {
    const KEYS: [(&str, [&str; 2]); 2] = [
        ("role_tag", ["role", "from"]),
        ("content_tag", ["content", "value"]),
    ];
    const ROLES: [(&str, &str, &[&str]); 4] = [
        ("user_tag", "user", &["user", "human"]),
        ("assistant_tag", "assistant", &["assistant", "gpt"]),
        ("system_tag", "system", &["system"]),
        ("observation_tag", "tool", &["tool"]),
    ];
    let Some(tags) = entry.get("tags").and_then(Value::as_object) else {
        return Ok(());
    };
    for (tag, value) in tags {
        let value = value.as_str().unwrap_or_default();
        if let Some((_, role, read)) = ROLES.iter().find(|(known, ..)| known == tag) {
            if !read.contains(&value)
                && found
                    .roles
                    .insert(value.to_owned(), (*role).to_owned())
                    .is_some()
            {
                return Err(format!("`{name}`: `{value}` is the word for two roles"));
            }
        } else if let Some((_, read)) = KEYS.iter().find(|(known, _)| known == tag) {
            if read.contains(&value) {
                continue;
            }
            if !found.located.is_open() {
                return Err(format!(
                    "`{name}` says `{tag}: {value}`; rename it to `{}` in the data",
                    read[0]
                ));
            }
            found.notes.push(format!(
                "Rename `{value}` to `{}` within its messages.",
                read[0]
            ));
        } else if tag == "function_tag" {
            // Its default is said in most entries, and few data sets have such turns. Where one
            // has, the role is not known, and `check` says so.
            if value != "function_call" {
                let task = format!(
                    "turns of `{value}` are calls of tools: write them as \
                    `tool_calls` of an assistant's turn"
                );
                if !found.located.is_open() {
                    return Err(format!("`{name}`: {task}"));
                }
                found.notes.push(format!("Its {task}."));
            }
        } else {
            return Err(format!(
                "`{name}` has the tag `{tag}`, which is not supported"
            ));
        }
    }
    Ok(())
}

fn dataset(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let names = names(draft, given.name);
    let read: Vec<_> = names.iter().map(|name| entry(draft, name)).collect();
    let reasons: Vec<&str> = read
        .iter()
        .filter_map(|entry| entry.as_ref().err())
        .map(String::as_str)
        .collect();
    if !reasons.is_empty() || names.is_empty() {
        return KeyOutcome::refused(if names.is_empty() {
            "expected names of `dataset_info.json`".to_owned()
        } else {
            reasons.join("; ")
        });
    }
    if read
        .iter()
        .flatten()
        .any(|entry| entry.located.is_open() || !entry.notes.is_empty())
    {
        let paths: Vec<String> = read
            .iter()
            .flatten()
            .map(|entry| format!("`{}`", entry.located.path))
            .collect();
        return KeyOutcome::replaced(format!(
            "{}: the data are looked for there as Parquet; the recipe says what has to be put \
            there",
            paths.join(", ")
        ));
    }
    KeyOutcome::Mapped(format!("datasets: {}", names.join(", ")))
}

fn dataset_dir(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if given
        .node
        .text()
        .is_some_and(|dir| dir.starts_with("REMOTE:"))
        && info_path(draft).is_none()
    {
        return KeyOutcome::refused(format!(
            "a `{INFO}` of the Hub is not fetched; put it beside the config, in `data/`"
        ));
    }
    KeyOutcome::dropped(format!("where `{INFO}` was found"))
}

/// Adds the defaults that the config does not state, and its datasets.
pub(super) fn finish(draft: &mut Draft) {
    draft.default(&["finetuning_type"], "adapter.method", "lora");
    let is_adapter = !is_full(draft) && !has_adapter(draft);
    if is_adapter {
        draft.default(&["lora_rank"], "adapter.r", "8");
        draft.default(&["lora_target"], "adapter.target_modules", "all-linear");
    }
    for (told_by, key, value) in [
        (&["cutoff_len"][..], "training.sequence_len", "2048"),
        (
            &["per_device_train_batch_size"],
            "training.micro_batch_size",
            "8",
        ),
        (
            &["num_train_epochs", "max_steps"],
            "training.num_epochs",
            "3",
        ),
        (&["learning_rate"], "training.learning_rate", "5e-5"),
        (&["lr_scheduler_type"], "training.lr_scheduler", "linear"),
    ] {
        draft.default(told_by, key, value);
    }
    preferences_by_default(draft);
    draft.add(
        "training.truncation",
        "truncate",
        "LLaMA-Factory cuts longer rows, prompt and answer by their shares; Rankine cuts the end",
    );
    if draft.text("stage") == Some("pt")
        && draft
            .at("packing")
            .is_none_or(|node| unquoted(node).flag() != Some(false))
    {
        draft.refuse(
            "stage",
            "rows of `pt` are joined and see each other; with `packing: false` \
            each is a row of its own",
        );
    }
    for key in ["dataset", "eval_dataset"] {
        let entries: Option<Vec<DatasetInfo>> = names(draft, key)
            .iter()
            .map(|name| entry(draft, name).ok())
            .collect();
        let data = entries
            .unwrap_or_default()
            .into_iter()
            .map(|entry| data(draft, entry))
            .collect();
        if key == "dataset" {
            draft.train = data;
        } else {
            draft.validation = data;
        }
    }
    if is_interleaved(draft) {
        // Without numbers each data set has the same share.
        let weights = weights(draft).unwrap_or_else(|| vec!["1".to_owned(); draft.train.len()]);
        for (data, weight) in draft.train.iter_mut().zip(weights) {
            data.lines.push(("weight", weight));
        }
    }
}

/// Adds what stages of preferences have by default and a recipe has not.
fn preferences_by_default(draft: &mut Draft) {
    let loss = loss_of_pairs(draft);
    match (preference_format(draft), loss) {
        (Some("preference"), "simpo") => draft.default(&["pref_beta"], "objective.beta", "0.1"),
        (Some("preference"), "orpo") | (None, _) => {}
        (Some(_), _)
            if has_adapter(draft) && !is_full(draft) && draft.at("ref_model").is_none() =>
        {
            draft.add(
                "objective.reference",
                "base",
                "LLaMA-Factory's reference is the base without the adapter; `init` compares with \
                the adapter that training starts from",
            );
        }
        _ => {}
    }
}

fn data(draft: &Draft, entry: DatasetInfo) -> Data {
    let is_text = draft.text("stage") == Some("pt");
    let of_preferences = preference_format(draft);
    let limit = draft
        .at("max_samples")
        .and_then(whole)
        .filter(|rows| *rows > 0);
    let task = entry.located.task.iter().map(|task| format!("{task}."));
    let mut data = Data {
        notes: task.chain(entry.notes).collect(),
        lines: entry.part,
    };
    data.lines
        .extend(limit.map(|rows| ("max_rows", rows.to_string())));
    let plain = if is_text { "text" } else { "chat" };
    data.lines
        .push(("format", of_preferences.unwrap_or(plain).into()));
    let columns: Vec<String> = entry
        .columns
        .iter()
        .filter(|(ours, name)| ours != name)
        .map(|(ours, name)| format!("{ours}: {}", yaml_word(name)))
        .collect();
    if !columns.is_empty() {
        data.lines
            .push(("columns", format!("{{{}}}", columns.join(", "))));
    }
    if !entry.roles.is_empty() {
        data.lines.push(("roles", pairs(&entry.roles)));
    }
    let train_on = if draft.is_on("train_on_prompt") {
        Some("all")
    } else {
        draft.is_on("mask_history").then_some("last")
    };
    if let Some(word) = train_on.filter(|_| !is_text && of_preferences.is_none()) {
        data.lines.push(("train_on", word.into()));
    }
    data
}
