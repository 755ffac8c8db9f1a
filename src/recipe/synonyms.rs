//! The table of other trainers' words and their equivalents here, from which hints are made. It
//! covers Axolotl, PEFT, transformers' `TrainingArguments`, TRL, Unsloth, `LLaMA-Factory`,
//! torchtune and mlx-lm.

use super::tree::{Node, shorten};

/// The equivalent of another trainer's key.
#[derive(Debug, Clone, Copy)]
enum Here {
    /// A key in a section, with the same meaning.
    Key(&'static str, &'static str),
    /// A line with the same meaning; `..` in it stands for the value that was written.
    Line(&'static str),
    /// No equivalent: the key can be removed, for this reason.
    Nothing(&'static str),
}

use Here::{Key, Line, Nothing};

const LOGS: &str = "a run writes its numbers to `metrics.jsonl` and TensorBoard's files by itself";
const KERNELS: &str = "the fastest kernels of the device are taken by themselves";
const MACHINES: &str = "a run is on one device";
const TOKENIZER: &str = "the base's own tokenizer is used, with its special tokens and those of \
    `tokens`";
const FAMILY: &str = "the base's config.json says what it is, and no code of a model is run";
const WORKERS: &str = "all cores are used, or as many as `threads` says";
const CACHES: &str = "tokens are kept in Rankine's own cache";
const TASK: &str = "Rankine trains language models on what a row holds";
const HUB: &str = "`rankine push RUN OWNER/NAME` uploads an adapter when it is trained";
const TURNS: &str = "`role` with `content` and `from` with `value` are both read";
const ENDS: &str = "the token that ends a turn is trained with the turn";

/// Keys with their equivalents in other trainers. One with a dot applies in that section only.
const KEYS: &[(Here, &[&str])] = &[
    (
        Key("", "base_model"),
        &[
            "model",
            "model_name",
            "model_name_or_path",
            "pretrained_model_name_or_path",
            "base_model_name_or_path",
            "model_path",
            "model_id",
            "base_model_config",
            "base",
            "basemodel",
            "checkpoint_dir",
            "checkpointer",
        ],
    ),
    (
        Line("chat_template: FILE"),
        &["chat_template_jinja", "chat_template_path"],
    ),
    (
        Line("datasets: [{path: FILE.parquet, format: chat}]"),
        &[
            "dataset",
            "train_dataset",
            "train_datasets",
            "data",
            "train_data",
            "train_file",
            "train_files",
            "training_file",
            "dataset_name",
            "dataset_path",
            "data_path",
            "hf_dataset",
            "dataset_dir",
            "data_dir",
            "pretraining_dataset",
            "dataset_id",
        ],
    ),
    (
        Key("", "output_dir"),
        &[
            "output",
            "output_path",
            "save_path",
            "save_dir",
            "adapter_path",
            "out",
            "out_dir",
        ],
    ),
    (
        Line("tokens: {eos: NAME, pad: NAME, bos: NAME, unk: NAME, add: [NAME]}"),
        &["special_tokens"],
    ),
    (Key("tokens", "eos"), &["eos_token"]),
    (Key("tokens", "pad"), &["pad_token"]),
    (Key("tokens", "bos"), &["bos_token"]),
    (Key("tokens", "unk"), &["unk_token"]),
    (
        Key("tokens", "end_of_turn"),
        &["eot_tokens", "eot_token", "stop_words"],
    ),
    (
        Key("tokens", "add"),
        &[
            "add_tokens",
            "new_tokens",
            "add_special_tokens",
            "new_special_tokens",
            "additional_special_tokens",
            "added_tokens_overrides",
        ],
    ),
    (
        Key("", "device"),
        &["device_type", "accelerator", "use_cpu", "device_map"],
    ),
    // Rows.
    (
        Key("datasets", "path"),
        &[
            "datasets.file",
            "datasets.file_name",
            "datasets.data_files",
            "datasets.source",
            "datasets.files",
        ],
    ),
    (
        Key("datasets", "config"),
        &[
            "datasets.name",
            "datasets.subset",
            "datasets.config_name",
            "dataset_config",
            "dataset_config_name",
        ],
    ),
    (
        Key("datasets", "split"),
        &[
            "split",
            "dataset_split",
            "dataset_train_split",
            "train_split",
        ],
    ),
    (
        Key("datasets", "max_rows"),
        &["max_samples", "num_samples", "max_train_samples"],
    ),
    (
        Nothing("it is a part of `path`: `hf://datasets/owner/name@REVISION`"),
        &["datasets.revision", "dataset_revision"],
    ),
    (
        Key("datasets", "format"),
        &[
            "datasets.type",
            "datasets.formatting",
            "datasets.dataset_type",
            "datasets.conversation_style",
            "datasets.template",
            "datasets.prompt_strategy",
        ],
    ),
    (
        Line("columns: {messages: ..}"),
        &[
            "field_messages",
            "messages_column",
            "messages_field",
            "conversation_column",
            "chat_feature",
        ],
    ),
    (
        Line("columns: {instruction: ..}"),
        &["field_instruction", "instruction_column"],
    ),
    (
        Line("columns: {input: ..}"),
        &["field_input", "input_column"],
    ),
    (
        Line("columns: {output: ..}"),
        &["field_output", "output_column"],
    ),
    (
        Line("columns: {text: ..}"),
        &[
            "datasets.field",
            "dataset_text_field",
            "text_column",
            "text_field",
            "text_feature",
            "datasets.column",
            "datasets.text",
        ],
    ),
    (
        Line("columns: {prompt: ..}"),
        &["prompt_feature", "prompt_column", "prompt_field"],
    ),
    (
        Line("columns: {completion: ..}"),
        &[
            "completion_feature",
            "completion_column",
            "response_column",
            "answer_column",
        ],
    ),
    (
        Line("columns: {tools: ..}"),
        &["field_tools", "tools_column"],
    ),
    (
        Nothing(TURNS),
        &[
            "message_property_mappings",
            "message_field_role",
            "message_field_content",
            "role_tag",
            "content_tag",
            "tags",
            "datasets.roles",
        ],
    ),
    (
        Key("datasets", "weight"),
        &[
            "sampling_weight",
            "probability",
            "proportion",
            "mixing_weight",
        ],
    ),
    (
        Line("training.deduplicate: exact"),
        &["dataset_exact_deduplication", "dedup"],
    ),
    (
        Line("datasets: [{path: FILE.parquet, format: chat, weight: 1}]"),
        &["interleave_probs", "mix_strategy"],
    ),
    (
        Nothing("data are Parquet files"),
        &["ds_type", "file_format", "datasets.data_format"],
    ),
    (
        Nothing("every file is read; a glob in `path` or a slice in `split` takes some"),
        &["datasets.shards"],
    ),
    (
        Line("train_on: assistant"),
        &[
            "roles_to_train",
            "completion_only_loss",
            "assistant_only_loss",
            "train_on_responses_only",
            "mask_prompt",
            "response_template",
        ],
    ),
    (
        Line("train_on: all"),
        &[
            "train_on_inputs",
            "train_on_input",
            "train_on_prompt",
            "train_on_source",
        ],
    ),
    (Line("train_on: last"), &["mask_history"]),
    (Nothing(ENDS), &["train_on_eos", "train_on_eot"]),
    (
        Key("datasets", "loss_weight"),
        &["loss_scale", "dataset_loss_weight"],
    ),
    // The objective.
    (
        Key("objective", "label_smoothing"),
        &["label_smoothing_factor"],
    ),
    (
        Key("objective", "neftune_noise_alpha"),
        &["neftune_alpha", "noisy_embedding_alpha"],
    ),
    (
        Line("objective: {type: sft, loss_type: dft}"),
        &["use_dft_loss"],
    ),
    // The adapter.
    (
        Key("adapter", "r"),
        &["lora_r", "lora_rank", "rank", "lora_dim", "peft_lora_r"],
    ),
    (Key("adapter", "alpha"), &["lora_alpha", "peft_lora_alpha"]),
    (
        Line("adapter.alpha: ALPHA, which is the scale times r"),
        &["scale", "lora_scale"],
    ),
    (Key("adapter", "dropout"), &["lora_dropout"]),
    (
        Key("adapter", "target_modules"),
        &[
            "lora_target_modules",
            "lora_target",
            "lora_modules",
            "lora_attn_modules",
            "adapter.keys",
            "lora_parameters.keys",
            "target_module",
        ],
    ),
    (
        Line("adapter.target_modules: all-linear"),
        &[
            "lora_target_linear",
            "apply_lora_to_mlp",
            "target_all_linear",
        ],
    ),
    (
        Key("adapter", "modules_to_save"),
        &["lora_modules_to_save", "additional_target"],
    ),
    (
        Line("adapter.target_modules: LIST, with `lm_head` in it"),
        &["apply_lora_to_output"],
    ),
    (Key("adapter", "use_rslora"), &["peft_use_rslora", "rslora"]),
    (
        Key("adapter", "use_dora"),
        &["peft_use_dora", "dora", "lora_use_dora"],
    ),
    (
        Key("adapter", "layers_to_transform"),
        &["peft_layers_to_transform", "lora_layers"],
    ),
    (
        Key("adapter", "trainable_token_indices"),
        &["peft_trainable_token_indices"],
    ),
    (
        Key("adapter", "target_parameters"),
        &["lora_target_parameters"],
    ),
    (
        Key("adapter", "init_lora_weights"),
        &["peft_init_lora_weights"],
    ),
    (Line("adapter.init_lora_weights: pissa"), &["pissa_init"]),
    (
        Key("adapter", "init_from"),
        &[
            "lora_model_dir",
            "adapter_name_or_path",
            "resume_adapter_file",
            "peft_model_id",
            "adapter_checkpoint",
            "load_adapter",
        ],
    ),
    (
        Key("adapter", "method"),
        &[
            "finetuning_type",
            "fine_tune_type",
            "peft_type",
            "train_type",
            "sft_type",
            "adapter_type",
            "adapter.type",
            "adapter.name",
            "tuner_type",
        ],
    ),
    (
        Key("", "adapter"),
        &[
            "lora_parameters",
            "lora_config",
            "peft_config",
            "lora",
            "peft",
            "lora_kwargs",
        ],
    ),
    (
        Line("adapter.method: qlora"),
        &[
            "load_in_4bit",
            "use_4bit",
            "quantize_base",
            "qlora",
            "quantization_bit",
        ],
    ),
    (
        Line("adapter.quantization: int8"),
        &["load_in_8bit", "use_8bit"],
    ),
    (
        Key("adapter", "quantization"),
        &[
            "bnb_4bit_quant_type",
            "quant_method",
            "quantization_config",
            "quantization_method",
            "bnb_config",
            "quantization_type",
            "quantize",
        ],
    ),
    (
        Key("adapter", "double_quant"),
        &[
            "bnb_4bit_use_double_quant",
            "double_quantization",
            "use_double_quant",
            "use_nested_quant",
        ],
    ),
    (
        Nothing("its weights are frozen, and the adapter has one bias, `adapter.lora_bias`"),
        &["adapter.bias", "lora_bias_type"],
    ),
    // Steps.
    (
        Key("training", "micro_batch_size"),
        &[
            "batch_size",
            "per_device_train_batch_size",
            "train_batch_size",
            "per_device_batch_size",
            "per_gpu_train_batch_size",
            "train_micro_batch_size_per_gpu",
            "mbs",
            "bs",
            "minibatch_size",
            "mini_batch_size",
        ],
    ),
    (
        Line(
            "training.micro_batch_size: ROWS, and beside it `gradient_accumulation_steps`; it is \
            the product of the two",
        ),
        &[
            "global_batch_size",
            "total_batch_size",
            "effective_batch_size",
        ],
    ),
    (
        Key("training", "gradient_accumulation_steps"),
        &[
            "grad_accumulation_steps",
            "gradient_accumulation",
            "grad_accum",
            "grad_accum_steps",
            "accumulate_grad_batches",
            "gradient_accumulation_step",
            "accumulation_steps",
        ],
    ),
    (
        Key("training", "num_epochs"),
        &[
            "num_train_epochs",
            "epochs",
            "epoch",
            "n_epochs",
            "num_epoch",
            "max_epochs",
            "train_epochs",
        ],
    ),
    (
        Key("training", "max_steps"),
        &[
            "iters",
            "max_train_steps",
            "steps",
            "num_train_steps",
            "num_steps",
            "total_steps",
            "train_steps",
            "max_iters",
            "max_steps_per_epoch",
            "training_steps",
        ],
    ),
    (
        Key("training", "sequence_len"),
        &[
            "max_seq_length",
            "max_length",
            "max_seq_len",
            "cutoff_len",
            "model_max_length",
            "context_length",
            "seq_len",
            "seq_length",
            "sequence_length",
            "max_sequence_length",
            "max_len",
            "training.block_size",
            "max_tokens",
            "n_ctx",
        ],
    ),
    (
        Key("training", "sample_packing"),
        &[
            "packing",
            "packed",
            "pack",
            "multipack",
            "pack_sequences",
            "neat_packing",
            "pack_dataset",
        ],
    ),
    (
        Key("training", "truncation"),
        &[
            "truncation_mode",
            "excess_length_strategy",
            "truncation_strategy",
            "overlong_strategy",
            "truncate",
        ],
    ),
    (
        Key("training", "learning_rate"),
        &[
            "lr",
            "learning_rate_init",
            "max_lr",
            "peak_lr",
            "base_lr",
            "optimizer.lr",
        ],
    ),
    (
        Key("training", "loraplus_lr_ratio"),
        &["loraplus_ratio", "lora_plus_ratio", "lora_plus_lr_ratio"],
    ),
    (
        Key("training", "optimizer"),
        &["optim", "optimizer_type", "optimizer_name", "optim_type"],
    ),
    (
        Key("training", "lr_scheduler"),
        &[
            "lr_scheduler_type",
            "lr_schedule",
            "scheduler",
            "scheduler_type",
            "lr_scheduler_name",
            "lr_decay_style",
            "schedule",
            "learning_rate_scheduler",
        ],
    ),
    (
        Key("training", "min_lr_rate"),
        &["cosine_min_lr_ratio", "min_lr_ratio"],
    ),
    (
        Key("training", "warmup_steps"),
        &[
            "warmup",
            "num_warmup_steps",
            "lr_warmup_steps",
            "warmup_iters",
        ],
    ),
    (
        Key("training", "warmup_ratio"),
        &[
            "warmup_proportion",
            "lr_warmup_ratio",
            "warmup_fraction",
            "lr_warmup_fraction",
        ],
    ),
    (Key("training", "weight_decay"), &["wd", "decay", "lambda"]),
    (
        Key("training", "max_grad_norm"),
        &[
            "clip_grad_norm",
            "gradient_clipping",
            "max_gradient_norm",
            "grad_clip",
            "gradient_clip_val",
            "clip_grad",
            "max_norm",
            "clip_gradients",
            "grad_norm_clip",
        ],
    ),
    (
        Key("training", "adam_beta1"),
        &["beta1", "adam_beta_1", "betas", "adam_betas"],
    ),
    (Key("training", "adam_beta2"), &["beta2", "adam_beta_2"]),
    (
        Key("training", "adam_epsilon"),
        &["eps", "epsilon", "adam_eps"],
    ),
    (
        Key("training", "gradient_checkpointing"),
        &[
            "grad_checkpoint",
            "enable_activation_checkpointing",
            "activation_checkpointing",
            "use_gradient_checkpointing",
            "grad_checkpointing",
            "gradient_checkpoint",
            "recompute",
        ],
    ),
    (
        Line("training.model_dtype: bfloat16"),
        &["bf16", "pure_bf16", "bfloat16"],
    ),
    (
        Line("training.model_dtype: float16"),
        &["fp16", "float16", "half"],
    ),
    (
        Key("training", "model_dtype"),
        &[
            "dtype",
            "torch_dtype",
            "compute_dtype",
            "mixed_precision",
            "precision",
            "bnb_4bit_compute_dtype",
            "infer_dtype",
            "model_precision",
        ],
    ),
    (Key("training", "allow_tf32"), &["tf32"]),
    (
        Key("training", "seed"),
        &[
            "data_seed",
            "random_state",
            "random_seed",
            "model_seed",
            "rng_seed",
        ],
    ),
    // Evaluation and checkpoints.
    (
        Key("evaluation", "val_set_size"),
        &[
            "test_size",
            "val_size",
            "validation_split",
            "eval_split",
            "validation_ratio",
            "split_dataset_ratio",
            "val_split",
            "eval_size",
        ],
    ),
    (
        Line("evaluation.datasets: [{path: FILE.parquet, format: chat}]"),
        &[
            "eval_dataset",
            "eval_datasets",
            "test_datasets",
            "validation_file",
            "val_dataset",
            "dataset_val",
            "eval_file",
            "val_data",
            "validation_dataset",
            "val_files",
        ],
    ),
    (
        Key("evaluation", "eval_steps"),
        &[
            "eval_every",
            "eval_interval",
            "eval_frequency",
            "steps_per_eval",
            "run_val_every_n_steps",
            "eval_freq",
        ],
    ),
    (
        Key("evaluation", "early_stopping_patience"),
        &["early_stopping", "patience", "early_stop"],
    ),
    (
        Key("output", "save_steps"),
        &[
            "save_every",
            "save_interval",
            "checkpointing_steps",
            "save_frequency",
            "save_freq",
            "checkpoint_every",
        ],
    ),
    (
        Key("output", "save_total_limit"),
        &[
            "save_limit",
            "keep_last_n_checkpoints",
            "max_checkpoints",
            "keep_checkpoints",
        ],
    ),
    (
        Nothing("`rankine resume RUN` goes on with a run that was stopped"),
        &[
            "resume_from_checkpoint",
            "auto_resume_from_checkpoints",
            "resume",
        ],
    ),
    (
        Nothing("`rankine train RECIPE --overwrite` removes the run that was there"),
        &["overwrite_output_dir", "overwrite"],
    ),
    // The same in another form.
    (
        Nothing(
            "the base's own chat template is used; another one is a file, `chat_template: FILE`",
        ),
        &["template", "prompt_template"],
    ),
    (
        Line("adapter.layers_to_transform: LIST, the numbers of the layers, from 0"),
        &["num_layers", "num_lora_layers"],
    ),
    (
        Line("output.save_steps: STEPS, with 0 for the ends of epochs"),
        &["saves_per_epoch", "save_strategy"],
    ),
    (
        Line("evaluation.eval_steps: STEPS, with 0 for the ends of epochs"),
        &[
            "evals_per_epoch",
            "eval_strategy",
            "evaluation_strategy",
            "do_eval",
        ],
    ),
    (
        Line("evaluation.val_set_size: SHARE, below 1"),
        &["validation_split_percentage"],
    ),
    (
        Nothing(TASK),
        &[
            "rl",
            "stage",
            "do_train",
            "task_type",
            "train",
            "do_predict",
            "inference_mode",
            "task",
        ],
    ),
    // What needs no word.
    (
        Nothing(LOGS),
        &[
            "logging_steps",
            "logging_dir",
            "logging_strategy",
            "logging_first_step",
            "report_to",
            "wandb_project",
            "wandb_entity",
            "wandb_watch",
            "wandb_name",
            "wandb_run_id",
            "wandb_log_model",
            "use_wandb",
            "use_tensorboard",
            "run_name",
            "plot_loss",
            "log_every_n_steps",
            "log_peak_memory_stats",
            "log_level",
            "metric_logger",
            "steps_per_report",
            "project_name",
            "mlflow_tracking_uri",
            "mlflow_experiment_name",
            "swanlab_project",
            "debug",
            "profiler",
            "disable_tqdm",
            "include_tokens_per_second",
        ],
    ),
    (
        Nothing(KERNELS),
        &[
            "flash_attention",
            "flash_attn",
            "use_flash_attention",
            "use_flash_attention_2",
            "attn_implementation",
            "sdp_attention",
            "xformers_attention",
            "eager_attention",
            "sample_packing_attn_implementation",
            "liger_rope",
            "liger_rms_norm",
            "liger_glu_activation",
            "liger_swiglu",
            "liger_layer_norm",
            "liger_fused_linear_cross_entropy",
            "use_liger_kernel",
            "enable_liger_kernel",
            "plugins",
            "unsloth",
            "use_unsloth",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "torch_compile",
            "compile",
            "cut_cross_entropy",
            "use_cache",
            "gradient_checkpointing_kwargs",
            "fused",
            "optimizer_in_bwd",
            "enable_activation_offloading",
        ],
    ),
    (
        Nothing(MACHINES),
        &[
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "fsdp_version",
            "ddp_timeout",
            "ddp_find_unused_parameters",
            "local_rank",
            "num_processes",
            "num_machines",
            "tensor_parallel_size",
            "context_parallel_size",
            "sequence_parallel_degree",
            "dist_config",
            "ddp",
        ],
    ),
    (
        Nothing(TOKENIZER),
        &[
            "tokenizer",
            "tokenizer_type",
            "tokenizer_config",
            "tokenizer_name",
            "use_fast_tokenizer",
            "processor_type",
            "padding_side",
        ],
    ),
    (
        Nothing(FAMILY),
        &[
            "model_type",
            "trust_remote_code",
            "strict",
            "model_class",
            "_component_",
            "fan_in_fan_out",
        ],
    ),
    (
        Nothing(WORKERS),
        &[
            "dataset_processes",
            "dataset_num_proc",
            "preprocessing_num_workers",
            "dataloader_num_workers",
            "num_workers",
            "dataloader_pin_memory",
            "dataloader_prefetch_factor",
            "num_proc",
        ],
    ),
    (
        Nothing(CACHES),
        &[
            "dataset_prepared_path",
            "overwrite_cache",
            "cache_dir",
            "tokenized_path",
            "skip_prepare_dataset",
            "dataset_kwargs",
            "remove_unused_columns",
            "streaming",
        ],
    ),
    (
        Nothing("rows have no padding"),
        &[
            "pad_to_sequence_len",
            "pad_to_multiple_of",
            "group_by_length",
            "eval_sample_packing",
            "padding",
        ],
    ),
    (
        Nothing(HUB),
        &[
            "push_to_hub",
            "hub_model_id",
            "hub_strategy",
            "hub_token",
            "hub_private_repo",
            "hf_use_auth_token",
        ],
    ),
    (
        Nothing("validation computes as many rows at once as training"),
        &[
            "per_device_eval_batch_size",
            "eval_batch_size",
            "batch_size_val",
            "val_batches",
        ],
    ),
];

/// Values of other trainers, by the recipe's key, each with its hint.
const VALUES: &[(&str, &[&str], &str)] = &[
    (
        "adapter",
        &["lora", "peft"],
        "write `adapter: {method: lora}`",
    ),
    ("adapter", &["qlora"], "write `adapter: {method: qlora}`"),
    (
        "adapter",
        &["dora"],
        "write `adapter: {method: lora, use_dora: true}`",
    ),
    (
        "adapter",
        &["full", "fft", "full_finetune"],
        "write `adapter: {method: full}`",
    ),
    (
        "adapter.method",
        &["dora"],
        "set `method: lora` and `use_dora: true`",
    ),
    (
        "adapter.method",
        &["peft", "lora+", "rslora", "pissa"],
        "set `method: lora`; its variants have keys of their own",
    ),
    (
        "adapter.method",
        &["fft", "full_finetune", "full-finetune", "none"],
        "set `method: full`, which trains every weight",
    ),
    (
        "adapter.quantization",
        &[
            "4bit",
            "4-bit",
            "4",
            "int4",
            "bnb",
            "bitsandbytes",
            "bnb_4bit",
            "true",
        ],
        "set `quantization: nf4`",
    ),
    (
        "adapter.quantization",
        &["8bit", "8-bit", "8", "llm.int8"],
        "set `quantization: int8`",
    ),
    (
        "adapter.target_modules",
        &[
            "all",
            "all_linear",
            "all linear",
            "linear",
            "alllinear",
            "*",
        ],
        "write `target_modules: all-linear`",
    ),
    (
        "format",
        &[
            "alpaca",
            "instruct",
            "instructions",
            "alpaca_w_system",
            "oasst",
            "gpteacher",
        ],
        "set `format: instruction`, which reads Alpaca's columns",
    ),
    (
        "format",
        &[
            "sharegpt",
            "share_gpt",
            "chatml",
            "chat_template",
            "messages",
            "conversation",
            "conversations",
            "conversational",
            "openai",
            "oai",
            "multi_turn",
            "dialog",
        ],
        "set `format: chat`, which reads ShareGPT's turns too",
    ),
    (
        "format",
        &[
            "prompt_completion",
            "prompt-completion",
            "prompt_response",
            "qa",
            "question_answer",
            "input_output",
            "completions",
            "alpaca_chat.load_qa",
        ],
        "set `format: completion`, and name other columns such as `columns: \
        {prompt: question, completion: answer}`",
    ),
    (
        "format",
        &[
            "pretrain",
            "pretraining",
            "raw",
            "plain",
            "plaintext",
            "txt",
            "corpus",
            "lm",
        ],
        "set `format: text`",
    ),
    (
        "format",
        &["json", "jsonl", "csv", "tsv", "parquet", "arrow"],
        "`format` is the shape of a row, such as `chat`; data are Parquet files, which `rankine \
        convert FILE --out FILE.parquet` makes",
    ),
    (
        "train_on",
        &["true", "inputs", "everything", "full"],
        "set `train_on: all`",
    ),
    (
        "train_on",
        &[
            "false",
            "completion",
            "completions",
            "response",
            "responses",
            "output",
            "outputs",
            "gpt",
            "assistants",
            "[assistant]",
        ],
        "set `train_on: assistant`",
    ),
    (
        "train_on",
        &["last_turn", "last_assistant", "final"],
        "set `train_on: last`",
    ),
    (
        "training.optimizer",
        &[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_hf",
            "adamw_fused",
            "adamw_apex_fused",
            "torch.optim.adamw",
            "adam_w",
            "adamw_torch_xla",
            "paged_adamw",
        ],
        "set `optimizer: adamw`",
    ),
    (
        "training.lr_scheduler",
        &["constant_with_warmup"],
        "set `lr_scheduler: constant`, and `warmup_ratio` or `warmup_steps`",
    ),
    (
        "training.lr_scheduler",
        &["linear_with_warmup", "linear_schedule"],
        "set `lr_scheduler: linear`, and `warmup_ratio` or `warmup_steps`",
    ),
    (
        "training.lr_scheduler",
        &["cosine_decay", "cosine_annealing", "cosine_with_warmup"],
        "set `lr_scheduler: cosine`",
    ),
    (
        "training.model_dtype",
        &[
            "bf16",
            "torch.bfloat16",
            "bf16-true",
            "bf16-mixed",
            "brainfloat16",
        ],
        "set `model_dtype: bfloat16`",
    ),
    (
        "training.model_dtype",
        &["fp16", "torch.float16", "half", "f16"],
        "set `model_dtype: float16`",
    ),
    (
        "training.model_dtype",
        &["fp32", "torch.float32", "float", "f32", "no"],
        "set `model_dtype: float32`",
    ),
    (
        "training.gradient_checkpointing",
        &["unsloth", "full", "selective"],
        "set `gradient_checkpointing: auto`, or `true` for every block",
    ),
    (
        "training.truncation",
        &["true", "keep_start", "right", "longest_first", "cut"],
        "set `truncation: truncate`",
    ),
    (
        "training.truncation",
        &["false", "skip", "filter", "remove"],
        "set `truncation: drop`",
    ),
    (
        "device",
        &["gpu", "nvidia"],
        "set `device: cuda`, or `wgpu` for a GPU of another maker",
    ),
    (
        "device",
        &[
            "mps", "metal", "vulkan", "rocm", "hip", "amd", "xpu", "directml", "dx12",
        ],
        "set `device: wgpu`",
    ),
];

/// The scope of another trainer's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// This section only.
    Section,
    /// Any section.
    Anywhere,
}

/// Returns the hint for a key that the schema does not have; `section` is its section, without
/// element numbers.
pub(super) fn of_key(section: &str, key: &str, value: &Node, scope: Scope) -> Option<String> {
    let typed = key.to_lowercase().replace('-', "_");
    let name = if section.is_empty() {
        typed.clone()
    } else {
        format!("{section}.{typed}")
    };
    let is_meant = |theirs: &str| {
        let is_within = || {
            name == theirs
                || name
                    .strip_suffix(theirs)
                    .is_some_and(|above| above.ends_with('.'))
        };
        if theirs.contains('.') {
            is_within()
        } else {
            typed == theirs
        }
    };
    let is_here =
        |theirs: &&str| theirs.contains('.') == (scope == Scope::Section) && is_meant(theirs);
    // Axolotl has one of these for each family.
    if typed.starts_with("is_") && typed.ends_with("_derived_model") {
        return Some(format!("remove it: {FAMILY}"));
    }
    let (here, _) = KEYS.iter().find(|(_, theirs)| theirs.iter().any(is_here))?;
    Some(match *here {
        Key(..) | Line(_) if value.is_blank() => "remove it: it says nothing".to_owned(),
        Line(_) if value.text() == Some("auto") => {
            "remove it: the best is chosen without a word".to_owned()
        }
        Line("train_on: assistant") if value.flag() == Some(false) => {
            "write `train_on: all`".to_owned()
        }
        Line("adapter.method: qlora") if value.whole() == Some(8) => {
            "write `adapter.quantization: int8`".to_owned()
        }
        // What is off is off here as well.
        Line(_) if value.is_neutral() => "remove it: nothing of the kind is done unless a recipe \
            says so"
            .to_owned(),
        Key(home, key) if home == last(section) => format!("did you mean `{key}`?"),
        Key("", key) => format!("did you mean `{key}`? It belongs at the top of the recipe"),
        Key(home, key) => format!("did you mean `{key}`? It belongs in `{home}`"),
        Line(line) => in_words(&filled(line, value)),
        Nothing(TASK) if !value.is_neutral() && is_other_task(value) => {
            format!(
                "`{}` is not built: supervised training on a row's tokens is",
                shorten(value.text().unwrap_or_default())
            )
        }
        Nothing(reason) => format!("remove it: {reason}"),
    })
}

/// Returns the hint for a value that the schema does not have; `name` is its key in the recipe,
/// such as `datasets.0.format`.
pub(super) fn of_value(name: &str, written: &str) -> Option<String> {
    let typed = written.to_lowercase();
    let is_of = |key: &str| {
        name == key
            || name
                .strip_suffix(key)
                .is_some_and(|above| above.ends_with('.') && !key.contains('.'))
    };
    // `format: chat_template.argilla` is a variant of the first.
    let is_meant = |theirs: &[&str]| {
        theirs.contains(&typed.as_str())
            || theirs.contains(&typed.split(['.', ':']).next().unwrap_or_default())
    };
    VALUES
        .iter()
        .find(|(key, theirs, _)| is_of(key) && is_meant(theirs))
        .map(|(.., hint)| (*hint).to_owned())
}

/// Returns the format's name of a column that another trainer calls `theirs`.
pub(super) fn of_column<'a>(columns: &[&'a str], theirs: &str) -> Option<&'a str> {
    const COLUMNS: [(&str, &[&str]); 8] = [
        (
            "messages",
            &[
                "conversations",
                "conversation",
                "field_messages",
                "chat",
                "turns",
            ],
        ),
        ("tools", &["functions", "field_tools"]),
        (
            "prompt",
            &["question", "query", "instruction", "input", "source"],
        ),
        (
            "completion",
            &["response", "answer", "output", "target", "chosen"],
        ),
        (
            "instruction",
            &["prompt", "question", "task", "field_instruction"],
        ),
        ("input", &["query", "context", "field_input"]),
        (
            "output",
            &["response", "answer", "completion", "target", "field_output"],
        ),
        ("text", &["content", "document", "body", "field", "prompt"]),
    ];
    let (own, _) = COLUMNS
        .iter()
        .find(|(own, others)| columns.contains(own) && others.contains(&theirs))?;
    columns.iter().find(|column| *column == own).copied()
}

/// Returns the hint for a line. What follows its first comma is advice and not part of the line.
fn in_words(line: &str) -> String {
    match line
        .split_once(", ")
        .filter(|(_, rest)| !rest.contains(['}', ']']))
    {
        Some((line, rest)) => format!("write `{line}`, {rest}"),
        None => format!("write `{line}`"),
    }
}

/// Returns whether a task is other than causal language modeling on a row's tokens.
fn is_other_task(value: &Node) -> bool {
    const OTHERS: [&str; 12] = [
        "dpo", "ipo", "kto", "orpo", "simpo", "grpo", "gdpo", "ebft", "ppo", "rm", "reward",
        "seq_cls",
    ];
    value
        .text()
        .is_some_and(|text| OTHERS.contains(&text.to_lowercase().as_str()))
}

fn last(section: &str) -> &str {
    section.rsplit('.').next().unwrap_or_default()
}

/// Returns the line with the written value filled in, if that is a name.
fn filled(line: &str, value: &Node) -> String {
    match value.text().filter(|text| {
        text.chars()
            .all(|c| c.is_alphanumeric() || "_-".contains(c))
    }) {
        Some(text) => line.replace("..", text),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_word_of_another_trainer_stands_for_two_things() {
        let mut seen = BTreeSet::new();
        for theirs in KEYS.iter().flat_map(|(_, theirs)| *theirs) {
            assert!(seen.insert(*theirs), "`{theirs}` is there twice");
            assert_eq!(
                *theirs,
                theirs.to_lowercase(),
                "keys are compared in small letters"
            );
        }
        let mut seen = BTreeSet::new();
        for (key, theirs) in VALUES
            .iter()
            .flat_map(|(key, theirs, _)| theirs.iter().map(move |theirs| (*key, *theirs)))
        {
            assert!(
                seen.insert((key, theirs)),
                "`{key}: {theirs}` is there twice"
            );
        }
    }
}
