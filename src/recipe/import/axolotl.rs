//! Axolotl. Keys: `src/axolotl/utils/schemas/` and the plugins' `args.py` of 24 July 2026.

use std::collections::{BTreeMap, BTreeSet};

use super::super::tree::{Node, NodeValue};
use super::datasets::{Located, Part, is_slice, local_file, locate, on_hub};
use super::draft::{Data, Draft, is_off};
use super::hugging_face as hf;
use super::key_outcome::KeyOutcome;
use super::text::{flow, list, number, pairs, texts, unquoted, whole};
use super::{Given, Rule, Table, axolotl_preferences as preferences, tokens};
use crate::fault::yaml_word;

const REWARDS: &str = "rewards and reinforcement learning are not supported";
const IMAGES: &str = "images and audio are not supported";
const SERVICE: &str = "it configures a service beside the training";
const CACHING: &str = "tokens are cached by content; nothing has to be said";
const PLUGIN: &str = "this plugin trains in another way, which is not supported";
const ADAPTER: &str = "this change of the adapter is not supported";
const WEIGHTS: &str = "this change of the base's weights is not supported";
const ORDER: &str = "this choice of rows is not supported";
const QAT: &str = "training that imitates a later quantization is not supported";
const RATES: &str = "learning rates by group are not supported";
const SCHEDULE: &str = "this change of the schedule is not supported";
const ROW_TEXT: &str = "a layout of rows that is written in the config is not supported; write the \
    text into a column and use `completion` or `text`";
const RETIRED: &str = "Axolotl does not read it any more";
const ATTENTION: &str = "attention is exact whatever computes it; Rankine has kernels of its own";

pub(super) const TABLES: &[Table] = &[TOP, DATA];

const TOP: Table = &[
    (&["base_model"], Rule::Read(base_model)),
    (
        &["revision_of_model"],
        Rule::Dropped("it stands in `base_model`"),
    ),
    (
        &["base_model_config", "tokenizer_config"],
        Rule::Read(same_base),
    ),
    (&["model_type", "type_of_model"], Rule::Read(model_type)),
    (
        &["tokenizer_legacy"],
        Rule::Dropped("tokenizer.json is read as it is"),
    ),
    (
        &[
            "tokenizer_type",
            "tokenizer_use_fast",
            "tokenizer_save_jinja_files",
            "trust_remote_code",
            "is_falcon_derived_model",
            "is_llama_derived_model",
            "is_mistral_derived_model",
            "is_qwen_derived_model",
            "low_cpu_mem_usage",
            "experimental_skip_move_to_device",
        ],
        Rule::Dropped("Rankine reads config.json and tokenizer.json, and runs no code of a model"),
    ),
    (
        &["cls_model_config"],
        Rule::Dropped("Rankine reads config.json"),
    ),
    (
        &["tokenizer_use_mistral_common"],
        Rule::Refused("tokenizers of mistral-common are not supported, only tokenizer.json"),
    ),
    (
        &[
            "processor_type",
            "processor_kwargs",
            "freeze_mm_modules",
            "image_size",
            "image_resize_algorithm",
            "role_boundaries",
        ],
        Rule::Refused(IMAGES),
    ),
    (
        &[
            "model_quantization_config",
            "model_quantization_config_kwargs",
        ],
        Rule::Read(model_quantization),
    ),
    (
        &["overrides_of_model_config", "model_config"],
        Rule::Read(model_config),
    ),
    (
        &[
            "overrides_of_model_kwargs",
            "model_kwargs",
            "rope_scaling",
            "llama4_linearized_experts",
            "use_onebitllms",
        ],
        Rule::Refused(WEIGHTS),
    ),
    (
        &[
            "reinit_weights",
            "shrink_embeddings",
            "mean_resizing_embeddings",
        ],
        Rule::Refused(WEIGHTS),
    ),
    (
        &["resize_token_embeddings_to_32x", "embeddings_skip_upcast"],
        Rule::Dropped("rows of the embedding that no token reads change no number"),
    ),
    (
        &["unfrozen_parameters"],
        Rule::Refused(
            "a choice of the weights that train is not supported: an adapter or every weight",
        ),
    ),
    (&["output_dir"], Rule::Same("output_dir")),
    (
        &[
            "hub_model_id",
            "hub_strategy",
            "hub_revision",
            "push_dataset_to_hub",
            "hf_use_auth_token",
        ],
        Rule::Dropped(hf::HUB),
    ),
    (
        &[
            "save_safetensors",
            "save_only_model",
            "save_first_step",
            "auto_resume_from_checkpoints",
            "fsdp_final_state_dict_type",
            "dynamic_checkpoint",
        ],
        Rule::Dropped(hf::SAVING),
    ),
    (
        &["strict", "axolotl_config_path", "is_preprocess", "debug"],
        Rule::Dropped(hf::RUNNING),
    ),
    (&["resume_from_checkpoint"], Rule::Refused(hf::FOREIGN_RUN)),
    (
        &[
            "gptq_groupsize",
            "gptq_model_v1",
            "gptq_disable_exllama",
            "full_finetune",
            "sample_packing_seq_len_multiplier",
            "base_model_ignore_patterns",
            "sample_packing_eff_est",
            "total_num_tokens",
            "total_supervised_tokens",
            "eval_table_size",
            "torchdistx_path",
            "capabilities",
            "env_capabilities",
        ],
        Rule::Dropped(RETIRED),
    ),
    (
        &[
            "max_packed_sequence_len",
            "noisy_embedding_alpha",
            "dpo_use_logits_to_keep",
            "dpo_generate_during_eval",
            "s2_attention",
            "flash_attn_rms_norm",
        ],
        Rule::Refused("Axolotl itself refuses it now"),
    ),
    // The adapter.
    (&["adapter"], Rule::Read(adapter)),
    (&["load_in_4bit"], Rule::Read(load_in_4bit)),
    (&["load_in_8bit"], Rule::Read(load_in_8bit)),
    (&["bnb_config_kwargs"], Rule::Within),
    (
        &["bnb_config_kwargs.bnb_4bit_use_double_quant"],
        Rule::Same("adapter.double_quant"),
    ),
    (
        &["bnb_config_kwargs.bnb_4bit_quant_type"],
        Rule::Same("adapter.quantization"),
    ),
    (
        &[
            "bnb_config_kwargs.bnb_4bit_compute_dtype",
            "bnb_config_kwargs.load_in_4bit",
            "bnb_config_kwargs.bnb_4bit_quant_storage",
        ],
        Rule::Dropped(hf::KERNELS),
    ),
    (&["quantize_moe_experts"], Rule::Read(quantized_experts)),
    (
        &["gptq"],
        Rule::Refused("bases that were quantized with GPTQ are not supported"),
    ),
    (&["lora_model_dir"], Rule::Read(lora_model_dir)),
    (
        &["lora_r"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.r")),
    ),
    (
        &["lora_alpha"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.alpha")),
    ),
    (
        &["lora_dropout"],
        Rule::Read(|draft, given| in_adapter(draft, given, "adapter.dropout")),
    ),
    (&["lora_target_modules"], Rule::Read(target_modules)),
    (&["lora_target_linear"], Rule::Read(target_linear)),
    (
        &["lora_target_parameters"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.target_parameters")),
    ),
    (
        &["lora_modules_to_save"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.modules_to_save")),
    ),
    (
        &["lora_rank_pattern"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.rank_pattern")),
    ),
    (
        &["lora_alpha_pattern"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.alpha_pattern")),
    ),
    (
        &["peft_layers_to_transform"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.layers_to_transform")),
    ),
    (
        &["peft_use_dora"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.use_dora")),
    ),
    (
        &["peft_use_rslora"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.use_rslora")),
    ),
    (
        &["peft_init_lora_weights"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.init_lora_weights")),
    ),
    (
        &["peft_trainable_token_indices"],
        Rule::Read(|draft, given| shape(draft, given, "adapter.trainable_token_indices")),
    ),
    (
        &[
            "lora_fan_in_fan_out",
            "peft_layers_pattern",
            "peft_layer_replication",
            "peft_ensure_weight_tying",
            "peft",
            "merge_method",
            "mora",
        ],
        Rule::Refused(ADAPTER),
    ),
    (
        &["peft_autocast_adapter_dtype"],
        Rule::Dropped("adapters are kept in 32 bits"),
    ),
    (
        &["lora_on_cpu", "qlora_sharded_model_loading", "merge_lora"],
        Rule::Dropped(hf::RUNNING),
    ),
    (
        &[
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "lora_embedding_kernel",
        ],
        Rule::Dropped(hf::KERNELS),
    ),
    (
        &["loraplus_lr_ratio"],
        Rule::Read(|draft, given| in_adapter(draft, given, "training.loraplus_lr_ratio")),
    ),
    (&["loraplus_lr_embedding"], Rule::Refused(RATES)),
    (
        &[
            "relora",
            "relora_prune_ratio",
            "relora_prune_method",
            "relora_cpu_offload",
            "lisa_n_layers",
            "lisa_step_interval",
            "lisa_layers_attribute",
        ],
        Rule::Refused("adapters that restart, and layers that take turns, are not supported"),
    ),
    // Batches and steps.
    (
        &["gradient_accumulation_steps"],
        Rule::Same("training.gradient_accumulation_steps"),
    ),
    (
        &["micro_batch_size"],
        Rule::Same("training.micro_batch_size"),
    ),
    (&["batch_size"], Rule::Read(batch_size)),
    (
        &["auto_find_batch_size"],
        Rule::Refused(
            "a batch that depends on free memory does not repeat; `rankine plan` tells what fits",
        ),
    ),
    (&["sequence_len"], Rule::Same("training.sequence_len")),
    (&["sample_packing"], Rule::Same("training.sample_packing")),
    (&["excess_length_strategy"], Rule::Read(excess_length)),
    (
        &["eval_sequence_len"],
        Rule::Refused("validation rows have the length of `sequence_len`"),
    ),
    (&["min_sample_len"], Rule::Read(min_sample_len)),
    (&["max_prompt_len"], Rule::Read(preferences::max_prompt_len)),
    (
        &[
            "eval_sample_packing",
            "sample_packing_group_size",
            "sample_packing_bin_size",
            "sample_packing_sequentially",
            "sample_packing_mp_start_method",
            "pad_to_sequence_len",
            "pad_to_multiple_of",
            "multipack_real_batches",
            "batch_flattening",
        ],
        Rule::Dropped(
            "how rows are laid out and padded: nothing is computed for padding, and each \
            row sees itself only",
        ),
    ),
    (
        &[
            "pretrain_multipack_buffer_size",
            "pretrain_multipack_attn",
            "pretraining_sample_concatenation",
            "streaming_multipack_buffer_size",
        ],
        Rule::Dropped("of streamed data only"),
    ),
    (&["group_by_length"], Rule::Read(hf::group_by_length)),
    (&["curriculum_sampling"], Rule::Read(curriculum)),
    (
        &["shuffle_merged_datasets", "shuffle_before_merging_datasets"],
        Rule::Read(shuffle_merged),
    ),
    (
        &[
            "use_pose",
            "pose_split_on_token_ids",
            "pose_max_context_len",
            "pose_num_chunks",
        ],
        Rule::Refused("positions that are skipped (PoSE) are not supported"),
    ),
    (
        &["pretraining_dataset", "streaming", "preprocess_iterable"],
        Rule::Refused(
            "data that are streamed are not supported; write the rows as Parquet and use `text`",
        ),
    ),
    (&["dataset_exact_deduplication"], Rule::Read(deduplication)),
    (
        &["dataset_shard_num", "dataset_shard_idx"],
        Rule::Refused(ORDER),
    ),
    (
        &[
            "dataset_prepared_path",
            "skip_prepare_dataset",
            "num_dataset_shards_to_save",
            "dataset_processes",
            "dataset_num_proc",
            "dataset_keep_in_memory",
            "dataloader_pin_memory",
            "dataloader_num_workers",
            "dataloader_prefetch_factor",
            "remove_unused_columns",
        ],
        Rule::Dropped(CACHING),
    ),
    (
        &["dataloader_drop_last"],
        Rule::Refused("no row is left out at the end of an epoch"),
    ),
    (&["num_epochs"], Rule::Read(hf::epochs)),
    (&["max_steps"], Rule::Read(hf::max_steps)),
    (&["learning_rate"], Rule::Same("training.learning_rate")),
    (
        &["embedding_lr", "embedding_lr_scale", "lr_groups"],
        Rule::Refused(RATES),
    ),
    (&["weight_decay"], Rule::Same("training.weight_decay")),
    (&["optimizer"], Rule::Read(hf::optimizer)),
    (
        &[
            "optim_args",
            "optim_target_modules",
            "adam_epsilon2",
            "adam_beta3",
            "dion_lr",
            "dion_momentum",
            "dion_rank_fraction",
            "dion_rank_multiple_of",
            "qgalore_rank",
            "qgalore_update_proj_gap",
            "qgalore_scale",
            "qgalore_proj_type",
            "qgalore_proj_quant",
            "qgalore_proj_bits",
            "qgalore_proj_group_size",
            "qgalore_cos_threshold",
            "qgalore_gamma_proj",
            "qgalore_queue_size",
            "grokfast_alpha",
            "grokfast_lamb",
        ],
        Rule::Refused("an argument of an optimizer that is not supported"),
    ),
    (
        &["adam_beta1", "adam_beta2", "adam_epsilon"],
        Rule::Read(hf::adam),
    ),
    (&["max_grad_norm"], Rule::Same("training.max_grad_norm")),
    (&["lr_scheduler"], Rule::Read(lr_scheduler)),
    (
        &["lr_scheduler_kwargs"],
        Rule::Read(hf::scheduler_arguments),
    ),
    (
        &[
            "lr_quadratic_warmup",
            "cosine_constant_lr_ratio",
            "lr_div_factor",
            "jagged_restart_steps",
            "jagged_restart_warmup_steps",
            "jagged_restart_anneal_steps",
        ],
        Rule::Refused(SCHEDULE),
    ),
    (&["cosine_min_lr_ratio"], Rule::Read(min_lr)),
    (&["warmup_steps"], Rule::Read(warmup_steps)),
    (&["warmup_ratio"], Rule::Read(hf::warmup_ratio)),
    (&["seed"], Rule::Same("training.seed")),
    (&["train_on_inputs"], Rule::Read(train_on_inputs)),
    (&["neftune_noise_alpha"], Rule::Read(hf::noise)),
    // Numbers and memory.
    (&["bf16", "bfloat16"], Rule::Read(hf::bf16)),
    (&["fp16", "float16"], Rule::Read(hf::fp16)),
    (
        &["float32", "fp32_norms", "fp32_norm_classes"],
        Rule::Dropped("norms, their statistics and what trains are in 32 bits"),
    ),
    (&["tf32"], Rule::Read(hf::tf32)),
    (
        &["fp8", "fp8_enable_fsdp_float8_all_gather"],
        Rule::Refused("computing in 8 bits is not supported"),
    ),
    (&["gradient_checkpointing"], Rule::Read(hf::checkpointing)),
    (
        &[
            "gradient_checkpointing_kwargs",
            "selective_checkpointing",
            "activation_offloading",
            "layer_offloading",
        ],
        Rule::Dropped("it saves memory and changes no number"),
    ),
    (&["gpu_memory_limit", "max_memory"], Rule::Read(memory)),
    (
        &[
            "xformers_attention",
            "sdp_attention",
            "flex_attention",
            "flash_attention",
            "sage_attention",
            "eager_attention",
            "attn_implementation",
        ],
        Rule::Read(attention),
    ),
    (
        &[
            "flex_attn_compile_kwargs",
            "flash_attn_cross_entropy",
            "flash_attn_fuse_mlp",
            "flash_optimum",
            "gemma4_hybrid_attn_impl",
            "large_head_attention",
            "flash_attn_d512",
            "sdpa_varlen",
            "fused_attn_kernel",
            "experts_implementation",
            "chunked_cross_entropy",
            "chunked_cross_entropy_num_chunks",
            "tiled_mlp",
            "tiled_mlp_num_shards",
            "tiled_mlp_use_original_mlp",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "torch_compile_options",
            "use_kernels",
            "cut_cross_entropy",
            "liger_rope",
            "liger_rms_norm",
            "liger_rms_norm_gated",
            "liger_layer_norm",
            "liger_swiglu",
            "liger_glu_activation",
            "liger_cross_entropy",
            "liger_fused_linear_cross_entropy",
            "expert_backend",
            "moe_grouped_backend",
            "moe_dequant_chunk_size",
            "moe_bnb_fast",
            "use_scattermoe",
            "use_sonicmoe",
            "use_dsv4_kernels",
            "use_glm_dsa_kernels",
            "dsv4_shared_mlp_lora_kernel",
        ],
        Rule::Dropped(hf::KERNELS),
    ),
    (
        &[
            "nonexpert_quantization",
            "dsv4_fp8_nonexpert_mode",
            "dsv4_fp8_lora_kernel",
            "dsv4_bf16_all",
            "dsv4_fp4_grouped_mode",
            "gemma4_fp8_nonexpert",
            "gemma4_nf4_nonexpert",
            "nvfp4_merge_aware",
            "nvfp4_merge_aware_start_step",
        ],
        Rule::Refused("this storage of the base is not supported"),
    ),
    (
        &[
            "liger_use_token_scaling",
            "scaling_softmax",
            "scaling_softmax_factor",
            "scaling_softmax_bias",
            "use_eaft",
            "eaft_alpha",
            "eaft_k",
        ],
        Rule::Refused(hf::LOSS),
    ),
    (
        &[
            "gc_steps",
            "torch_empty_cache_steps",
            "gc_collect_steps",
            "device",
            "device_map",
        ],
        Rule::Dropped(hf::RUNNING),
    ),
    (&["qat"], Rule::Refused(QAT)),
    (
        &["quantization"],
        Rule::Dropped("`axolotl quantize` reads it, training does not"),
    ),
    // Several devices.
    (&["deepspeed", "fsdp"], Rule::Read(hf::several_devices)),
    (
        &[
            "world_size",
            "dp_shard_size",
            "dp_replicate_size",
            "ray_num_workers",
        ],
        Rule::Read(hf::devices),
    ),
    (
        &[
            "accelerator_config",
            "local_rank",
            "ddp",
            "ddp_timeout",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_find_unused_parameters",
            "deepcompile",
            "fsdp_config",
            "fsdp_version",
            "sequence_parallel_degree",
            "context_parallel_size",
            "heads_k_stride",
            "ring_attn_func",
            "tensor_parallel_size",
            "expert_parallel_size",
            "expert_parallel_backend",
            "expert_parallel_num_nvl_bytes",
            "expert_parallel_num_rdma_bytes",
            "expert_parallel_token_capacity",
            "expert_parallel_fallback_on_unsupported",
            "use_ray",
            "ray_run_name",
            "resources_per_worker",
        ],
        Rule::Dropped(hf::PARALLEL),
    ),
    // Evaluation and saving.
    (&["val_set_size"], Rule::Read(val_set_size)),
    (&["eval_steps"], Rule::Read(hf::eval_steps)),
    (&["evals_per_epoch"], Rule::Read(evals_per_epoch)),
    (
        &["eval_strategy", "evaluation_strategy"],
        Rule::Read(hf::eval_strategy),
    ),
    (
        &["saves_per_epoch", "save_strategy"],
        Rule::Dropped(hf::SAVING),
    ),
    (&["save_steps"], Rule::Read(hf::save_steps)),
    (&["save_total_limit"], Rule::Same("output.save_total_limit")),
    (
        &["early_stopping_patience"],
        Rule::Same("evaluation.early_stopping_patience"),
    ),
    (&["load_best_model_at_end"], Rule::Read(best)),
    (
        &[
            "metric_for_best_model",
            "greater_is_better",
            "eval_batch_size",
            "do_causal_lm_eval",
            "eval_causal_lm_metrics",
            "do_bench_eval",
            "bench_dataset",
            "bench_split",
            "eval_max_new_tokens",
            "generate_samples",
            "num_generation_samples",
            "generation_max_new_tokens",
            "generation_temperature",
            "generation_top_p",
            "generation_top_k",
            "generation_prompt_ratio",
            "generation_do_sample",
            "lm_eval_tasks",
            "lm_eval_batch_size",
            "lm_eval_post_train",
            "lm_eval_model",
        ],
        Rule::Dropped(hf::EVALUATING),
    ),
    (
        &["loss_watchdog_threshold", "loss_watchdog_patience"],
        Rule::Read(watchdog),
    ),
    (
        &[
            "logging_steps",
            "use_tensorboard",
            "profiler_steps",
            "profiler_steps_start",
            "include_tokens_per_second",
            "include_tkps",
            "use_wandb",
            "wandb_name",
            "wandb_run_id",
            "wandb_mode",
            "wandb_project",
            "wandb_entity",
            "wandb_watch",
            "wandb_log_model",
            "use_mlflow",
            "mlflow_tracking_uri",
            "mlflow_experiment_name",
            "mlflow_run_name",
            "hf_mlflow_log_artifacts",
            "use_comet",
            "comet_api_key",
            "comet_workspace",
            "comet_project_name",
            "comet_experiment_key",
            "comet_mode",
            "comet_online",
            "comet_experiment_config",
            "use_otel_metrics",
            "otel_metrics_host",
            "otel_metrics_port",
            "use_trackio",
            "trackio_project_name",
            "trackio_run_name",
            "trackio_space_id",
            "use_swanlab",
            "swanlab_project",
            "swanlab_experiment_name",
            "swanlab_description",
            "swanlab_mode",
            "swanlab_workspace",
            "swanlab_api_key",
            "swanlab_log_model",
            "swanlab_web_host",
            "swanlab_api_host",
            "swanlab_lark_webhook_url",
            "swanlab_lark_secret",
            "swanlab_log_completions",
            "swanlab_completion_log_interval",
            "swanlab_completion_max_buffer",
        ],
        Rule::Dropped(hf::LOGGING),
    ),
    (
        &[
            "gradio_title",
            "gradio_share",
            "gradio_server_name",
            "gradio_server_port",
            "gradio_max_new_tokens",
            "gradio_temperature",
            "vllm",
        ],
        Rule::Dropped(SERVICE),
    ),
    // Templates and tokens.
    (&["chat_template"], Rule::Read(chat_template)),
    (&["chat_template_jinja"], Rule::Read(chat_template_jinja)),
    (
        &["chat_template_kwargs"],
        Rule::Same("chat_template_kwargs"),
    ),
    (&["eot_tokens"], Rule::Read(tokens::end_of_turn)),
    (
        &["default_system_message"],
        Rule::SameIfKnown(
            "datasets.system",
            "a system message for rows without one is not supported; write it into the rows",
        ),
    ),
    (&["fix_untrained_tokens"], Rule::Refused(WEIGHTS)),
    (&["special_tokens"], Rule::Within),
    (&["tokens"], Rule::Read(tokens::added)),
    (&["added_tokens_overrides"], Rule::Read(tokens::renamed)),
    (
        &["special_tokens.pad_token"],
        Rule::Dropped("nothing is padded"),
    ),
    (
        &[
            "special_tokens.eos_token",
            "special_tokens.bos_token",
            "special_tokens.unk_token",
        ],
        Rule::Read(tokens::special_token),
    ),
    (
        &["special_tokens.additional_special_tokens"],
        Rule::Read(tokens::added),
    ),
    (&["plugins"], Rule::Read(plugins)),
    // Preferences.
    (&["rl"], Rule::Read(preferences::rl)),
    (&["trl"], Rule::Read(preferences::trl)),
    (&["dpo_loss_type"], Rule::Read(preferences::loss_type)),
    (&["dpo_loss_weights"], Rule::Read(preferences::loss_weights)),
    (
        &["rl_beta", "dpo_beta", "orpo_alpha"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.beta")),
    ),
    (
        &["dpo_label_smoothing"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.label_smoothing")),
    ),
    (
        &["rpo_alpha"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.sft_weight")),
    ),
    (
        &["simpo_gamma"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.simpo_gamma")),
    ),
    (
        &["cpo_alpha"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.cpo_alpha")),
    ),
    (
        &["kto_desirable_weight"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.desirable_weight")),
    ),
    (
        &["kto_undesirable_weight"],
        Rule::Read(|draft, given| preferences::own(draft, given, "objective.undesirable_weight")),
    ),
    (
        &["precompute_ref_log_probs"],
        Rule::Dropped("the reference is always scored once, before training"),
    ),
    (
        &["dpo_use_liger_kernel", "dpo_padding_free"],
        Rule::Dropped(hf::KERNELS),
    ),
    (
        &["dpo_use_weighting", "dpo_norm_loss"],
        Rule::Refused("this change of the loss of pairs is not supported"),
    ),
    // Other ways to train.
    (
        &[
            "ebft",
            "reward_model",
            "process_reward_model",
            "center_rewards_coefficient",
            "nemo_gym_enabled",
            "nemo_gym_dir",
            "nemo_gym_auto_clone",
            "nemo_gym_config_paths",
            "nemo_gym_head_port",
            "nemo_gym_server_timeout",
            "nemo_gym_verify_timeout",
            "nemo_gym_run_timeout",
            "nemo_gym_datasets",
            "nemo_gym_auto_start",
            "nemo_gym_model_name",
            "nemo_gym_multi_turn",
            "nemo_gym_max_turns",
        ],
        Rule::Refused(REWARDS),
    ),
    (
        &["num_labels"],
        Rule::Refused("classifiers are not supported"),
    ),
    (
        &[
            "trainer_cls",
            "diffusion",
            "hatchery",
            "llmcompressor",
            "dense_mixer",
            "spectrum_top_fraction",
            "spectrum_model_name",
            "kd_trainer",
            "kd_ce_alpha",
            "kd_alpha",
            "kd_temperature",
            "kd_beta",
            "kd_normalize_topk",
            "kd_online_server_base_url",
            "kd_online_topk",
            "kd_online_server",
            "kd_online_timeout",
            "kd_temperature_min",
        ],
        Rule::Refused(PLUGIN),
    ),
];

const DATA: Table = &[
    (&["datasets", "test_datasets"], Rule::Within),
    (
        &["datasets[].path", "test_datasets[].path"],
        Rule::Read(path),
    ),
    (
        &["datasets[].type", "test_datasets[].type"],
        Rule::Read(kind),
    ),
    (
        &["datasets[].split", "test_datasets[].split"],
        Rule::Read(part),
    ),
    (
        &[
            "datasets[].name",
            "datasets[].data_files",
            "datasets[].revision",
            "datasets[].shards",
            "datasets[].shards_idx",
            "test_datasets[].name",
            "test_datasets[].data_files",
            "test_datasets[].revision",
            "test_datasets[].shards",
            "test_datasets[].shards_idx",
        ],
        Rule::Read(part),
    ),
    (
        &[
            "datasets[].ds_type",
            "datasets[].preprocess_shards",
            "datasets[].trust_remote_code",
            "test_datasets[].ds_type",
            "test_datasets[].preprocess_shards",
            "test_datasets[].trust_remote_code",
        ],
        Rule::Dropped("how the files are read"),
    ),
    (
        &["datasets[].field", "test_datasets[].field"],
        Rule::Read(|draft, given| column(draft, given, "text")),
    ),
    (
        &[
            "datasets[].field_messages",
            "test_datasets[].field_messages",
        ],
        Rule::Read(|draft, given| column(draft, given, "messages")),
    ),
    (
        &["datasets[].field_chosen", "test_datasets[].field_chosen"],
        Rule::Read(|draft, given| column(draft, given, "chosen")),
    ),
    (
        &[
            "datasets[].field_rejected",
            "test_datasets[].field_rejected",
        ],
        Rule::Read(|draft, given| column(draft, given, "rejected")),
    ),
    (
        &["datasets[].field_tools", "test_datasets[].field_tools"],
        Rule::Read(|draft, given| column(draft, given, "tools")),
    ),
    (
        &[
            "datasets[].message_property_mappings",
            "test_datasets[].message_property_mappings",
        ],
        Rule::Within,
    ),
    (
        &[
            "datasets[].message_property_mappings.role",
            "datasets[].message_field_role",
            "test_datasets[].message_property_mappings.role",
            "test_datasets[].message_field_role",
        ],
        Rule::Read(|draft, given| property(draft, given, ["role", "from"])),
    ),
    (
        &[
            "datasets[].message_property_mappings.content",
            "datasets[].message_field_content",
            "test_datasets[].message_property_mappings.content",
            "test_datasets[].message_field_content",
        ],
        Rule::Read(|draft, given| property(draft, given, ["content", "value"])),
    ),
    (
        &["datasets[].roles", "test_datasets[].roles"],
        Rule::Read(roles),
    ),
    (
        &[
            "datasets[].roles_to_train",
            "test_datasets[].roles_to_train",
        ],
        Rule::Read(roles_to_train),
    ),
    (
        &[
            "datasets[].train_on_eos",
            "datasets[].train_on_eot",
            "test_datasets[].train_on_eos",
            "test_datasets[].train_on_eot",
        ],
        Rule::Read(train_on_end),
    ),
    (
        &["datasets[].chat_template", "test_datasets[].chat_template"],
        Rule::Read(chat_template),
    ),
    (
        &[
            "datasets[].chat_template_jinja",
            "test_datasets[].chat_template_jinja",
        ],
        Rule::Read(chat_template_jinja),
    ),
    (
        &[
            "datasets[].field_thinking",
            "datasets[].template_thinking_key",
            "test_datasets[].field_thinking",
            "test_datasets[].template_thinking_key",
        ],
        Rule::Read(thinking),
    ),
    (
        &[
            "datasets[].drop_system_message",
            "datasets[].split_thinking",
            "datasets[].message_field_training",
            "datasets[].message_field_training_detail",
            "datasets[].input_transform",
            "datasets[].input_format",
            "datasets[].conversation",
            "datasets[].field_human",
            "datasets[].field_model",
            "test_datasets[].drop_system_message",
            "test_datasets[].split_thinking",
            "test_datasets[].message_field_training",
            "test_datasets[].message_field_training_detail",
            "test_datasets[].input_transform",
            "test_datasets[].input_format",
            "test_datasets[].conversation",
            "test_datasets[].field_human",
            "test_datasets[].field_model",
        ],
        Rule::Refused(
            "this change of the rows is not supported; write the rows as they are to be trained",
        ),
    ),
    (
        &[
            "datasets[].logprobs_field",
            "datasets[].temperature",
            "datasets[].step_separator",
            "datasets[].max_completion_length",
            "datasets[].train_on_last_step_only",
            "test_datasets[].logprobs_field",
            "test_datasets[].temperature",
            "test_datasets[].step_separator",
            "test_datasets[].max_completion_length",
            "test_datasets[].train_on_last_step_only",
        ],
        Rule::Refused(REWARDS),
    ),
    (
        &[
            "datasets[].length",
            "datasets[].sequence_length",
            "datasets[].min_input_id",
            "datasets[].max_input_id",
            "datasets[].seed",
            "test_datasets[].length",
            "test_datasets[].sequence_length",
            "test_datasets[].min_input_id",
            "test_datasets[].max_input_id",
            "test_datasets[].seed",
        ],
        Rule::Refused("synthetic rows are not supported"),
    ),
];

fn base_model(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let Some(base) = given.node.text() else {
        return KeyOutcome::refused("expected a folder or a Hub id");
    };
    let whole = draft
        .text("revision_of_model")
        .map_or_else(|| base.to_owned(), |revision| format!("{base}@{revision}"));
    draft.set("base_model", yaml_word(&whole))
}

fn same_base(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if given.node.text() == draft.text("base_model") {
        return KeyOutcome::dropped("the same folder as `base_model`");
    }
    KeyOutcome::refused("config and tokenizer are those of `base_model`; copy them into one folder")
}

fn model_type(_: &mut Draft, given: &Given) -> KeyOutcome {
    let class = given.node.text().unwrap_or_default();
    if class.contains("Classification") {
        return KeyOutcome::refused("classifiers are not supported");
    }
    if class.contains("ConditionalGeneration") || class.contains("ImageText") {
        return KeyOutcome::refused(IMAGES);
    }
    KeyOutcome::dropped("config.json names the model")
}

/// Maps `model_quantization_config`: gpt-oss has MXFP4 weights that are dequantized on loading, as
/// here.
fn model_quantization(_: &mut Draft, given: &Given) -> KeyOutcome {
    let says = given.node.shown();
    if says == "Mxfp4Config" || says == "{dequantize: true}" {
        KeyOutcome::dropped("MXFP4 becomes numbers when it is loaded")
    } else {
        KeyOutcome::refused(WEIGHTS)
    }
}

/// Changes to `config.json`. Only those that add the routers' outputs to a step's results are
/// known.
fn model_config(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let NodeValue::Map(entries) = &given.node.kind else {
        return KeyOutcome::refused(WEIGHTS);
    };
    match entries
        .get("output_router_logits")
        .and_then(|entry| entry.value.flag())
    {
        Some(true) if entries.len() == 1 => KeyOutcome::refused(
            "the load-balancing loss needs its weight: set \
            `training.router_aux_loss_coef` to that of config.json",
        ),
        Some(false) if entries.len() == 1 => draft.set("training.router_aux_loss_coef", "0"),
        _ => KeyOutcome::refused(WEIGHTS),
    }
}

fn is_full(draft: &Draft) -> bool {
    draft.at("adapter").is_none()
}

fn adapter(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let targets = ["lora_target_modules", "lora_model_dir"]
        .iter()
        .any(|key| draft.at(key).is_some_and(|node| !node.is_empty()))
        || draft.is_on("lora_target_linear");
    match given.node.text() {
        Some("lora" | "qlora") if !targets => KeyOutcome::refused(
            "no modules are named, and PEFT's choice depends on the model: say \
            `lora_target_linear: true` or `lora_target_modules`",
        ),
        Some("lora") => draft.set("adapter.method", "lora"),
        Some("qlora") if draft.is_on("load_in_4bit") => draft.set("adapter.method", "qlora"),
        Some("qlora") => KeyOutcome::refused("Axolotl's `qlora` needs `load_in_4bit: true`"),
        _ => KeyOutcome::refused("this adapter is not supported; LoRA and QLoRA are"),
    }
}

fn load_in_4bit(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match (unquoted(given.node).flag(), draft.text("adapter")) {
        (Some(true), Some("qlora")) => {
            KeyOutcome::Mapped("adapter.method: qlora (nf4, double_quant)".into())
        }
        (Some(true), Some("lora")) => {
            draft.add(
                "adapter.double_quant",
                "true",
                "Axolotl quantizes the scales of 4-bit weights too",
            );
            draft.set("adapter.quantization", "nf4")
        }
        (Some(true), _) => KeyOutcome::refused("a base of 4 bits trains with an adapter only"),
        _ => KeyOutcome::dropped("off"),
    }
}

fn load_in_8bit(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match (unquoted(given.node).flag(), draft.text("adapter")) {
        (Some(true), Some("lora")) => draft.set("adapter.quantization", "int8"),
        (Some(true), _) => KeyOutcome::refused("a base of 8 bits goes with `adapter: lora` only"),
        _ => KeyOutcome::dropped("off"),
    }
}

/// Maps `quantize_moe_experts`: Rankine quantizes the experts of a quantized base, stacked ones
/// included.
fn quantized_experts(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("off");
    }
    if draft.is_on("load_in_4bit") || draft.is_on("load_in_8bit") {
        return KeyOutcome::Mapped("experts are quantized with the rest of the base".into());
    }
    KeyOutcome::dropped("nothing is quantized")
}

fn lora_model_dir(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_full(draft) {
        KeyOutcome::dropped("without `adapter` no adapter is read")
    } else {
        draft.same("adapter.init_from", given)
    }
}

/// Maps a key of the adapter. Without `adapter` Axolotl does not read it.
fn in_adapter(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if is_full(draft) {
        KeyOutcome::dropped("without `adapter` every weight trains, and nothing reads it")
    } else {
        draft.same(key, given)
    }
}

/// Maps a key of the adapter that comes from `lora_model_dir` if that is set.
fn shape(draft: &mut Draft, given: &Given, key: &str) -> KeyOutcome {
    if draft.at("lora_model_dir").is_some() && !is_full(draft) {
        return KeyOutcome::dropped("the adapter in `lora_model_dir` says it");
    }
    if given.node.is_empty() {
        KeyOutcome::dropped("empty: not set")
    } else {
        in_adapter(draft, given, key)
    }
}

fn target_modules(draft: &mut Draft, given: &Given) -> KeyOutcome {
    const LINEAR: [&str; 7] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    if is_full(draft) || draft.at("lora_model_dir").is_some() {
        return shape(draft, given, "adapter.target_modules");
    }
    if !draft.is_on("lora_target_linear") {
        return if given.node.is_empty() {
            KeyOutcome::dropped("empty: not set")
        } else {
            hf::targets(draft, given)
        };
    }
    let more: Vec<String> = texts(given.node)
        .into_iter()
        .filter(|name| !LINEAR.contains(&name.as_str()))
        .collect();
    if more.is_empty() {
        return KeyOutcome::dropped("`lora_target_linear` has them");
    }
    KeyOutcome::refused(format!(
        "`lora_target_linear` and {} more: list every name in `lora_target_modules`",
        list(&more)
    ))
}

/// Maps `lora_target_linear`: every linear layer except the head, as `all-linear`.
fn target_linear(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if unquoted(given.node).flag() != Some(true) {
        return KeyOutcome::dropped("off");
    }
    if is_full(draft) || draft.at("lora_model_dir").is_some() {
        return shape(draft, given, "adapter.target_modules");
    }
    draft.set("adapter.target_modules", "all-linear")
}

/// Maps the rows of a step if the accumulation is not given.
fn batch_size(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if draft.at("gradient_accumulation_steps").is_some() {
        return KeyOutcome::dropped("`gradient_accumulation_steps` says it");
    }
    match (
        whole(given.node),
        draft.at("micro_batch_size").and_then(whole),
    ) {
        (Some(rows), Some(micro)) if micro > 0 && rows % micro == 0 => draft.set(
            "training.gradient_accumulation_steps",
            (rows / micro).to_string(),
        ),
        _ => KeyOutcome::refused("expected a multiple of `micro_batch_size`"),
    }
}

fn excess_length(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some(word @ ("drop" | "truncate")) => draft.set("training.truncation", word),
        Some("raise") => draft.set("training.truncation", "error"),
        _ => KeyOutcome::refused("expected `drop`, `truncate` or `raise`"),
    }
}

/// Maps `min_sample_len`: Axolotl leaves out rows with fewer tokens, 2 by default.
fn min_sample_len(_: &mut Draft, given: &Given) -> KeyOutcome {
    if whole(given.node).is_some_and(|tokens| tokens <= 2) {
        KeyOutcome::dropped("rows of one token train nothing")
    } else {
        KeyOutcome::refused("rows are not left out for being short; remove them from the data")
    }
}

fn curriculum(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        draft.set("training.shuffle", "false")
    }
}

fn deduplication(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        draft.set("training.deduplicate", "exact")
    }
}

/// Maps `shuffle_merged_datasets`: the trainer draws a new order for each epoch either way.
fn shuffle_merged(_: &mut Draft, given: &Given) -> KeyOutcome {
    if unquoted(given.node).flag() == Some(false) {
        return KeyOutcome::replaced(
            "each epoch has an order of its own; `training.shuffle: false` \
            keeps the order of the files",
        );
    }
    KeyOutcome::dropped("each epoch has an order of its own")
}

fn lr_scheduler(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let has_floor = draft
        .at("cosine_min_lr_ratio")
        .and_then(number)
        .is_some_and(|floor| floor > 0.0);
    match given.node.text() {
        Some("cosine") if has_floor => draft.set("training.lr_scheduler", "cosine_with_min_lr"),
        _ => hf::scheduler(draft, given),
    }
}

fn min_lr(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        return KeyOutcome::dropped("0: the rate falls to 0");
    }
    if draft
        .text("lr_scheduler")
        .is_some_and(|word| word != "cosine")
    {
        return KeyOutcome::dropped("of `lr_scheduler: cosine` only");
    }
    if draft.at("lr_scheduler").is_none() {
        draft.add(
            "training.lr_scheduler",
            "cosine_with_min_lr",
            "Axolotl's schedule is a cosine unless it is told",
        );
    }
    draft.same("training.min_lr_rate", given)
}

/// Maps `warmup_steps`: Axolotl makes two steps of one.
fn warmup_steps(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if number(given.node) == Some(1.0) {
        return match draft.set("training.warmup_steps", "2") {
            KeyOutcome::Mapped(_) => {
                KeyOutcome::Mapped("training.warmup_steps: 2, as Axolotl makes of 1".into())
            }
            other => other,
        };
    }
    hf::warmup_steps(draft, given)
}

fn train_on_inputs(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if preferences::format(draft).is_some() {
        return KeyOutcome::dropped("completions are what is compared");
    }
    let word = if unquoted(given.node).flag() == Some(true) {
        "all"
    } else {
        "assistant"
    };
    KeyOutcome::Mapped(format!("datasets.train_on: {word}"))
}

fn memory(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match (whole(given.node), given.node.bytes()) {
        (Some(gigabytes), _) => draft.set("training.max_memory", format!("{gigabytes}GiB")),
        (None, Some(_)) => draft.same("training.max_memory", given),
        _ => KeyOutcome::dropped("memory by device: Rankine trains on one"),
    }
}

fn attention(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        KeyOutcome::replaced(ATTENTION)
    }
}

/// Maps `val_set_size`: a share up to 1, a number of rows above.
fn val_set_size(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match number(given.node) {
        Some(0.0) => draft.set("evaluation.val_set_size", "0"),
        Some(share) if share > 0.0 && share < 1.0 => draft.same("evaluation.val_set_size", given),
        Some(rows) if rows > 1.0 && rows.fract() == 0.0 => {
            draft.set("evaluation.val_set_size", format!("{rows}"))
        }
        _ => KeyOutcome::refused("expected a share below 1 or a number of rows above 1"),
    }
}

fn evals_per_epoch(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match number(given.node) {
        Some(0.0) => KeyOutcome::dropped("never: when it is evaluated changes no weight"),
        Some(1.0) => draft.set("evaluation.eval_steps", "0"),
        _ => hf::rarely(
            draft,
            "evaluation runs once an epoch; `evaluation.eval_steps` takes a number of steps",
        ),
    }
}

fn best(_: &mut Draft, given: &Given) -> KeyOutcome {
    if is_off(given.node) {
        KeyOutcome::dropped("off")
    } else {
        KeyOutcome::replaced(
            "the run's adapter is that of its last step; the best checkpoint is kept beside it",
        )
    }
}

fn watchdog(_: &mut Draft, _: &Given) -> KeyOutcome {
    KeyOutcome::replaced("a run ends at a loss that is not finite; a high one does not end it")
}

/// Maps `chat_template`: a template by name is code of Axolotl.
fn chat_template(_: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("tokenizer_default") => KeyOutcome::dropped("the base's own template, as here"),
        Some("jinja") => KeyOutcome::dropped("`chat_template_jinja` says it"),
        _ => KeyOutcome::replaced(
            "the base's own template is used; `chat_template` names another, a file or a stock \
            one, and `rankine preview` shows what it makes of rows",
        ),
    }
}

fn chat_template_jinja(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let text = given.node.text().unwrap_or_default();
    if text.contains(['{', '\n']) {
        return KeyOutcome::refused(
            "a template within the config is not supported: write it to a file and name that",
        );
    }
    draft.set("chat_template", yaml_word(text))
}

/// Maps `plugins`: some only change how something is computed.
fn plugins(_: &mut Draft, given: &Given) -> KeyOutcome {
    const HARMLESS: [&str; 6] = [
        "cut_cross_entropy",
        "liger",
        "kernels",
        "expert_parallel",
        "swanlab",
        "lm_eval",
    ];
    let of = |name: &String| name.split('.').nth(2).unwrap_or_default().to_owned();
    let others: Vec<String> = texts(given.node)
        .into_iter()
        .filter(|name| !HARMLESS.contains(&of(name).as_str()))
        .collect();
    if others.is_empty() {
        KeyOutcome::dropped(hf::KERNELS)
    } else {
        KeyOutcome::refused(format!(
            "{} trains in another way, which is not supported",
            list(&others)
        ))
    }
}

/// Returns the value of another key of the same dataset.
fn beside<'a>(given: &Given<'a>, key: &str) -> Option<&'a Node> {
    let NodeValue::Map(entries) = &given.parent.kind else {
        return None;
    };
    entries
        .get(key)
        .map(|entry| &entry.value)
        .filter(|node| !node.is_blank())
}

fn located(draft: &Draft, dataset: &Node) -> Option<Located> {
    let path = entry(dataset, "path")?.text()?;
    let files = entry(dataset, "data_files").map(texts).unwrap_or_default();
    let is_shard = ["shards", "shards_idx"]
        .iter()
        .any(|key| entry(dataset, key).is_some());
    let is_whole = !is_shard
        && ["name", "revision"]
            .iter()
            .all(|key| entry(dataset, key).is_none());
    let file = loaded_file(dataset).or_else(|| files.is_empty().then(|| path.to_owned()));
    if let Some(local) = file.filter(|_| is_whole).and_then(|file| local_file(&file)) {
        return Some(local);
    }
    let of_hub = on_hub(
        path,
        Part {
            files: &files,
            ..wanted_part(dataset)
        },
        &draft.folder,
    )
    .filter(|_| !is_shard);
    Some(of_hub.unwrap_or_else(|| locate(path, &draft.folder)))
}

/// Returns the file of a dataset whose `path` is a loader of Hugging Face's library.
fn loaded_file(dataset: &Node) -> Option<String> {
    let loader = entry(dataset, "path")?.text()?;
    let files = texts(entry(dataset, "data_files")?);
    let is_loader = matches!(loader, "json" | "csv" | "parquet");
    match &files[..] {
        [file] if is_loader => Some(file.clone()),
        _ => None,
    }
}

/// Returns the value of a dataset's key.
fn entry<'a>(dataset: &'a Node, key: &str) -> Option<&'a Node> {
    let NodeValue::Map(entries) = &dataset.kind else {
        return None;
    };
    entries
        .get(key)
        .map(|entry| &entry.value)
        .filter(|node| !node.is_blank())
}

/// Returns the part of a dataset that is wanted, without its files.
fn wanted_part(dataset: &Node) -> Part<'_> {
    let text = |key: &str| entry(dataset, key).and_then(Node::text);
    Part {
        config: text("name"),
        split: text("split"),
        revision: text("revision"),
        files: &[],
    }
}

fn path(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match located(draft, given.parent) {
        None => KeyOutcome::refused("expected a path or a Hub id"),
        Some(Located { path, task: None }) => KeyOutcome::Mapped(format!("datasets.path: {path}")),
        Some(Located {
            path,
            task: Some(task),
        }) => KeyOutcome::replaced(format!("`{path}`: {task}")),
    }
}

/// Maps a key that selects a part of a dataset: a split, a configuration, or files. If the recipe
/// does not fetch the data, the part belongs to what the user has to put there.
fn part(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let said = given.node.text().unwrap_or_default();
    match located(draft, given.parent) {
        Some(located) if located.is_of_hub() => match given.name {
            "split" if said == "train" => {
                KeyOutcome::dropped("the split that is read without a word")
            }
            "split" => KeyOutcome::Mapped(format!("datasets.split: {}", yaml_word(said))),
            "name" => KeyOutcome::Mapped(format!("datasets.config: {}", yaml_word(said))),
            _ => KeyOutcome::Mapped(format!("datasets.path: {}", located.path)),
        },
        Some(_) if given.name == "split" && is_slice(said) => {
            KeyOutcome::Mapped(format!("datasets.split: {}", yaml_word(said)))
        }
        Some(Located { path, task: None })
            if given.name == "data_files" && loaded_file(given.parent).is_some() =>
        {
            KeyOutcome::Mapped(format!("datasets.path: {path}"))
        }
        Some(Located {
            path,
            task: Some(_),
        }) => KeyOutcome::replaced(format!("put only this part into `{path}`")),
        _ if given.name == "split" && given.node.text() == Some("train") => {
            KeyOutcome::dropped("a file has one split")
        }
        _ => KeyOutcome::refused(
            "a part of local files: write those rows to a file of their own and name it in `path`",
        ),
    }
}

/// Returns the recipe's format for a dataset's `type`.
fn format_of(draft: &Draft, dataset: &Node) -> Result<&'static str, String> {
    let NodeValue::Map(entries) = &dataset.kind else {
        return Err("expected keys with values".into());
    };
    if let Some(format) = preferences::format(draft) {
        return match entries.get("type").map(|entry| &entry.value) {
            Some(node) if matches!(node.kind, NodeValue::Map(_)) => Err(ROW_TEXT.into()),
            kind => preferences::layout(format, kind.and_then(Node::text)).map(|()| format),
        };
    }
    match entries.get("type").map(|entry| &entry.value) {
        Some(node) if matches!(node.kind, NodeValue::Map(_)) => Err(ROW_TEXT.into()),
        Some(node) => match node.text().unwrap_or_default() {
            "alpaca" => Ok("instruction"),
            "completion" => Ok("text"),
            "chat_template" | "chat_template.default" | "sharegpt" => Ok("chat"),
            _ => Err(
                "this layout of rows is not supported; `alpaca`, `completion` and \
                `chat_template` are"
                    .into(),
            ),
        },
        None => Err("the data have no `type`".into()),
    }
}

fn kind(draft: &mut Draft, given: &Given) -> KeyOutcome {
    let format = format_of(draft, given.parent);
    if let Some(note) = preferences::note_of(given.node.text().unwrap_or_default())
        && format.is_ok()
        && preferences::format(draft).is_some()
    {
        return KeyOutcome::replaced(note);
    }
    match format {
        Ok("instruction") => KeyOutcome::replaced(
            "`format: instruction`: Axolotl's prompt ends with a line break after `### Response:`, \
            Rankine's does not",
        ),
        Ok(format) => KeyOutcome::Mapped(format!("datasets.format: {format}")),
        Err(reason) => KeyOutcome::refused(reason),
    }
}

/// Maps the file's name of a column if the format has that column.
fn column(draft: &mut Draft, given: &Given, ours: &str) -> KeyOutcome {
    let ours = match preferences::format(draft) {
        Some(_) if ours == "messages" => "prompt",
        _ => ours,
    };
    let wanted = match ours {
        "text" => "text",
        "prompt" | "chosen" | "rejected" => "preference",
        _ => "chat",
    };
    match format_of(draft, given.parent) {
        Ok(format) if format == wanted => KeyOutcome::Mapped(format!(
            "datasets.columns: {{{ours}: {}}}",
            flow(given.node)
        )),
        Ok(_) => KeyOutcome::dropped("this layout of rows does not read it"),
        Err(_) => KeyOutcome::refused("the layout of the rows is not supported"),
    }
}

/// Maps names within a message: those of `OpenAI` and of `ShareGPT` are both read.
fn property(_: &mut Draft, given: &Given, names: [&str; 2]) -> KeyOutcome {
    match given.node.text() {
        Some(name) if names.contains(&name) => {
            KeyOutcome::dropped("both `role`, `content` and `from`, `value` are read")
        }
        _ => KeyOutcome::refused(format!(
            "messages have `{}` or `{}`; rename it in the data",
            names[0], names[1]
        )),
    }
}

/// Returns the role words of a dataset that are not read by default, each with its role.
fn further_roles(roles: &Node) -> Result<BTreeMap<String, String>, String> {
    const READ: [(&str, &[&str]); 6] = [
        ("user", &["user", "human"]),
        ("assistant", &["assistant", "gpt"]),
        ("system", &["system"]),
        ("developer", &["developer"]),
        ("tool", &["tool"]),
        ("ipython", &["ipython"]),
    ];
    let NodeValue::Map(entries) = &roles.kind else {
        return Err("expected keys with values".into());
    };
    let is_read = |role: &str, word: &str| {
        READ.iter()
            .any(|(ours, words)| *ours == role && words.contains(&word))
    };
    let (mut seen, mut further) = (BTreeSet::new(), BTreeMap::new());
    for (role, entry) in entries {
        for word in texts(&entry.value) {
            if !seen.insert(word.clone()) {
                return Err(format!("`{word}` is the word for two roles"));
            }
            if !is_read(role, &word) {
                further.insert(word, role.clone());
            }
        }
    }
    Ok(further)
}

/// Returns the role words that a recipe's dataset needs if it holds conversations.
fn roles_of(draft: &Draft, dataset: &Node) -> BTreeMap<String, String> {
    let NodeValue::Map(entries) = &dataset.kind else {
        return BTreeMap::new();
    };
    let roles = entries
        .get("roles")
        .map(|entry| &entry.value)
        .filter(|node| !node.is_blank());
    roles
        .filter(|_| format_of(draft, dataset).is_ok_and(has_turns))
        .and_then(|roles| further_roles(roles).ok())
        .unwrap_or_default()
}

/// Whether rows of a format hold conversations.
fn has_turns(format: &str) -> bool {
    ["chat", "preference", "unpaired"].contains(&format)
}

fn roles(draft: &mut Draft, given: &Given) -> KeyOutcome {
    match (format_of(draft, given.parent), further_roles(given.node)) {
        (Err(_), _) => KeyOutcome::refused("the layout of the rows is not supported"),
        (Ok(format), Err(reason)) if has_turns(format) => KeyOutcome::refused(reason),
        (Ok(format), Ok(further)) if has_turns(format) && further.is_empty() => {
            KeyOutcome::dropped("these names are read without it")
        }
        (Ok(format), Ok(further)) if has_turns(format) => {
            KeyOutcome::Mapped(format!("datasets.roles: {}", pairs(&further)))
        }
        (Ok(_), _) => KeyOutcome::dropped("this layout of rows does not read it"),
    }
}

fn roles_to_train(draft: &mut Draft, given: &Given) -> KeyOutcome {
    if preferences::format(draft).is_some() {
        return KeyOutcome::dropped("completions are what is compared");
    }
    let (names, further) = (texts(given.node), roles_of(draft, given.parent));
    let role = |name: &String| further.get(name).cloned().unwrap_or_else(|| name.clone());
    let are_answers = !names.is_empty()
        && names
            .iter()
            .map(role)
            .all(|role| ["assistant", "gpt"].contains(&role.as_str()));
    if are_answers {
        KeyOutcome::Mapped("datasets.train_on: assistant".into())
    } else {
        KeyOutcome::refused("answers of the assistant are trained, or every token")
    }
}

fn train_on_end(_: &mut Draft, given: &Given) -> KeyOutcome {
    match given.node.text() {
        Some("turn") => KeyOutcome::dropped("the end of a trained turn is trained, as here"),
        _ => KeyOutcome::refused("the end of each trained turn is trained, and no other"),
    }
}

fn thinking(_: &mut Draft, given: &Given) -> KeyOutcome {
    let [one, other] = [
        beside(given, "field_thinking"),
        beside(given, "template_thinking_key"),
    ]
    .map(|node| node.and_then(Node::text));
    if one == other {
        KeyOutcome::dropped("what else a message has goes to the template as it is")
    } else {
        KeyOutcome::refused(
            "the reasoning's name in the template is that of the data; rename it there",
        )
    }
}

/// Adds the defaults that the config does not state, and its datasets.
pub(super) fn finish(draft: &mut Draft) {
    preferences::finish(draft);
    if is_full(draft) {
        draft.add(
            "adapter.method",
            "full",
            "without `adapter` Axolotl trains every weight",
        );
    }
    draft.default(
        &["lr_scheduler", "cosine_min_lr_ratio"],
        "training.lr_scheduler",
        "cosine",
    );
    if draft
        .at("warmup_steps")
        .or_else(|| draft.at("warmup_ratio"))
        .is_none()
    {
        draft.add(
            "training.warmup_ratio",
            "0.03",
            "Axolotl's default, there 100 steps at most",
        );
    }
    for key in ["datasets", "test_datasets"] {
        let Some(NodeValue::List(nodes)) = draft.at(key).map(|node| &node.kind) else {
            continue;
        };
        let data: Vec<Data> = nodes.iter().filter_map(|node| data(draft, node)).collect();
        if key == "datasets" {
            draft.train = data;
        } else {
            draft.validation = data;
        }
    }
}

/// Returns a dataset of the recipe; `None` if its key is refused.
fn data(draft: &Draft, dataset: &Node) -> Option<Data> {
    let NodeValue::Map(entries) = &dataset.kind else {
        return None;
    };
    let value = |key: &str| {
        entries
            .get(key)
            .map(|entry| &entry.value)
            .filter(|node| !node.is_blank())
    };
    let (located, format) = (located(draft, dataset)?, format_of(draft, dataset).ok()?);
    let mut data = Data::default();
    let split = value("split").and_then(Node::text).is_some_and(is_slice);
    let parts: Vec<String> = [
        "split",
        "name",
        "data_files",
        "revision",
        "shards",
        "shards_idx",
    ]
    .iter()
    .filter(|key| **key != "split" || !split)
    .filter_map(|key| Some(format!("{key} `{}`", value(key)?.shown())))
    .collect();
    if let Some(task) = &located.task {
        let parts = if parts.is_empty() {
            String::new()
        } else {
            format!(" (only {})", parts.join(", "))
        };
        data.notes.push(format!("{task}{parts}."));
    }
    data.lines = located.lines(wanted_part(dataset));
    data.lines.push(("format", format.to_owned()));
    let columns: &[(&str, &str)] = match format {
        "text" => &[("text", "field")],
        "chat" => &[("messages", "field_messages"), ("tools", "field_tools")],
        "preference" => &[
            ("prompt", "field_messages"),
            ("chosen", "field_chosen"),
            ("rejected", "field_rejected"),
        ],
        _ => &[],
    };
    let mut named: Vec<String> = columns
        .iter()
        .filter_map(|(ours, key)| Some(format!("{ours}: {}", yaml_word(value(key)?.text()?))))
        .collect();
    if value("type").and_then(Node::text) == Some("sharegpt") && value("field_messages").is_none() {
        named.push("messages: conversations".into());
    }
    let kind = value("type").and_then(Node::text).unwrap_or_default();
    let has_messages = format == "preference" && preferences::reads_messages(kind);
    if has_messages && value("field_messages").is_none() {
        named.insert(0, "prompt: messages".into());
    }
    if !named.is_empty() {
        data.lines
            .push(("columns", format!("{{{}}}", named.join(", "))));
    }
    let roles = roles_of(draft, dataset);
    if !roles.is_empty() {
        data.lines.push(("roles", pairs(&roles)));
    }
    let is_compared = preferences::format(draft).is_some();
    if draft.is_on("train_on_inputs") && format != "text" && !is_compared {
        data.lines.push(("train_on", "all".into()));
    }
    Some(data)
}
