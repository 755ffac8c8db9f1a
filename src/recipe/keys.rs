//! Default and description of each key, for `rankine schema` and `rankine init`. A test checks the
//! list against the keys that the reader takes.

/// The default and description of a key.
pub(super) struct Words {
    /// Its path, such as `adapter.r`.
    pub key: &'static str,
    /// Its default as JSON; `None` if there is none, or if it follows from other keys.
    pub default: Option<&'static str>,
    /// One sentence.
    pub description: &'static str,
}

/// Returns the default and description of a key.
pub(super) fn of(key: &str) -> Option<&'static Words> {
    KEYS.iter().find(|words| words.key == key)
}

const fn key(key: &'static str, default: &'static str, description: &'static str) -> Words {
    let default = if default.is_empty() {
        None
    } else {
        Some(default)
    };
    Words {
        key,
        default,
        description,
    }
}

/// One row per key, in the order in which a recipe is written. The second column is the default,
/// empty if there is none.
pub(super) const KEYS: &[Words] = &[
    key(
        "base_model",
        "",
        "The base: a folder in Hugging Face's layout, or a Hub id `owner/name`, \
        with or without `@revision`.",
    ),
    key(
        "chat_template",
        "",
        "What renders conversations in place of the base's own template: a \
        file in Jinja, the name of one of the base's templates, or that of a stock one, such as \
        `chatml`.",
    ),
    key(
        "chat_template_kwargs",
        "{}",
        "Variables of the chat template, such as \
        `{enable_thinking: false}`; a column of this name sets them for a row and wins.",
    ),
    key(
        "tokens",
        "",
        "Special tokens by name, and tokens that the base's vocabulary does not have.",
    ),
    key(
        "tokens.bos",
        "",
        "The token that begins a sequence; the base's by default.",
    ),
    key(
        "tokens.eos",
        "",
        "The token that ends a sequence; the base's by default.",
    ),
    key(
        "tokens.pad",
        "",
        "The token that fills a batch; the base's by default.",
    ),
    key(
        "tokens.unk",
        "",
        "The token for what the vocabulary lacks; the base's by default.",
    ),
    key(
        "tokens.end_of_turn",
        "[]",
        "Tokens at which an answer ends, besides `eos`.",
    ),
    key(
        "tokens.add",
        "[]",
        "Tokens that the vocabulary gets: names, or `{token: NAME, from: NAME, special: true}`.",
    ),
    key(
        "tokens.add.token",
        "",
        "The token as it is written in text.",
    ),
    key(
        "tokens.add.from",
        "",
        "A token of the base whose rows the new ones start as; the mean of all rows by default.",
    ),
    key(
        "tokens.add.special",
        "false",
        "Whether the token is left out of decoded text; always so \
        for one that is named elsewhere in `tokens`.",
    ),
    key(
        "device",
        "\"auto\"",
        "Where to compute: `cpu`, `wgpu:1`, `cuda:0`; `auto` is the first \
        GPU that passed the gradient check, else the CPU.",
    ),
    key("threads", "0", "Threads of the CPU; 0 is one a core."),
    key(
        "cache",
        "\"user\"",
        "Where tokens of the data are kept: in the cache that all runs share \
        (`user`), in the run's folder (`run`), nowhere (`none`).",
    ),
    key(
        "output_dir",
        "",
        "The run's folder; `checkpoints/NAME` by default, where NAME is the recipe file's.",
    ),
    key(
        "datasets",
        "",
        "What to train on: a list of data files with their format.",
    ),
    key(
        "datasets.path",
        "",
        "Data file (Parquet; or JSON, JSONL, CSV, TSV), glob, or folder; or a \
        data set of the Hub, `hf://datasets/owner/name`, with or without `@revision` and `/GLOB`.",
    ),
    key(
        "datasets.config",
        "",
        "Of a data set of the Hub: its configuration; the only one by default.",
    ),
    key(
        "datasets.split",
        "",
        "Of a data set of the Hub: its split, `train` by default. With a \
        slice, also of local files: `train[:20%]`, `train[1000:]`.",
    ),
    key(
        "datasets.max_rows",
        "",
        "The most rows that are taken, the first ones; all by default.",
    ),
    key(
        "datasets.format",
        "",
        "`text`: every token trains; `completion`: prompt and completion; \
        `instruction`: Alpaca's columns; `chat`: conversations; `preference`: prompt, chosen and \
        rejected; `unpaired`: prompt, completion and label; `retrieval`: anchor, positive and \
        negatives.",
    ),
    key(
        "datasets.columns",
        "",
        "The format's name of a column: the file's name of it.",
    ),
    key(
        "datasets.roles",
        "{}",
        "A role of the data: the role that the template knows, such as `{bot: assistant}`.",
    ),
    key(
        "datasets.train_on",
        "",
        "`assistant`: answers (the default); `last`: the last answer; \
        `all`: every token (always so for `text`).",
    ),
    key(
        "datasets.system",
        "",
        "System message of conversations that have none.",
    ),
    key(
        "datasets.weight",
        "",
        "Its share of an epoch is this over the sum of all weights; 1 where \
        others have one. Without any weight an epoch has every row once.",
    ),
    key(
        "datasets.loss_weight",
        "",
        "Factor of the loss of its rows, with `objective: {type: sft}`; 1 by default. A column that \
        `columns: {weight: NAME}` names has a factor for each row.",
    ),
    key(
        "objective",
        "",
        "The loss to minimize; its keys belong to its `type`.",
    ),
    key(
        "objective.type",
        "\"sft\"",
        "`sft`: cross-entropy; `dpo`, `orpo`, `simpo`, `cpo`: pairs of `format: preference`; \
        `kto`: completions with labels, of `format: unpaired`; `distill`: the distribution of a \
        teacher; `embedding`: vectors of texts, of `format: retrieval`; `reward`: a score of \
        pairs; `classification`: texts with labels, of `format: classification`.",
    ),
    key(
        "objective.loss_type",
        "",
        "The variant of `sft` (`nll`, the default, or `dft`), `dpo`, `cpo` (both `sigmoid` by \
        default) or `kto` (`kto` by default).",
    ),
    key(
        "objective.beta",
        "",
        "Factor of log-ratios, or of the odds ratio with `orpo`; 0.1 by default, and 2 for \
        `simpo`. With `distill` 0 is forward KL, the default, 1 reverse KL, and between them the \
        teacher's weight in the generalized Jensen-Shannon divergence.",
    ),
    key(
        "objective.label_smoothing",
        "0.0",
        "Share of a label that all tokens of the vocabulary get, with `sft` and `nll`; assumed \
        share of pairs whose labels are swapped, of `dpo` with `sigmoid`, `robust` and `exo_pair`, \
        of `cpo` with `sigmoid`, and of `simpo`. Below 0.5.",
    ),
    key(
        "objective.neftune_noise_alpha",
        "0.0",
        "NEFTune: noise on embeddings in training, uniform within alpha / sqrt(T H) for a row of T \
        tokens and embeddings of H numbers; usually 5 to 15, with `sft`.",
    ),
    key(
        "objective.discopop_tau",
        "0.05",
        "Temperature of `loss_type: discopop`.",
    ),
    key(
        "objective.f_divergence_type",
        "\"reverse_kl\"",
        "Divergence of `dpo` from the reference, with losses of the margin: `reverse_kl`, \
        `forward_kl`, `js_divergence` or `alpha_divergence`.",
    ),
    key(
        "objective.f_alpha_divergence_coef",
        "0.5",
        "The a of `f_divergence_type: alpha_divergence`, between 0 and 1.",
    ),
    key(
        "objective.sft_weight",
        "0.0",
        "Weight of the cross-entropy of chosen completions that `dpo` mixes in.",
    ),
    key(
        "objective.cpo_alpha",
        "",
        "Weight of the cross-entropy of chosen completions; 1 for `cpo` and 0 for `simpo` by \
        default.",
    ),
    key(
        "objective.simpo_gamma",
        "0.5",
        "Margin between the rewards of `simpo`; `beta` does not multiply it.",
    ),
    key(
        "objective.alpha",
        "0.0",
        "AlphaPO: the exponent that shapes the rewards of `simpo`.",
    ),
    key(
        "objective.desirable_weight",
        "1.0",
        "Weight of desirable rows of `kto`.",
    ),
    key(
        "objective.undesirable_weight",
        "1.0",
        "Weight of undesirable rows of `kto`.",
    ),
    key(
        "objective.reference",
        "\"init\"",
        "What `dpo` and `kto` compare with: `init`, the model as training starts; `base`, the base \
        without an adapter; `none`; or the folder of an adapter or a model.",
    ),
    key(
        "objective.teacher",
        "",
        "What `distill` learns from: the folder of a model, a Hub id, or `data`: the most likely \
        tokens that rows bring, as `rankine teach` writes them.",
    ),
    key(
        "objective.teacher_quantization",
        "\"none\"",
        "Packs the teacher's projections: `nf4`, `fp4` or `int8`; `gguf`, which needs no key, is \
        how a GGUF file has them.",
    ),
    key(
        "objective.cache_teacher",
        "false",
        "Computes the teacher's most likely tokens once, before training, and keeps them with the \
        tokenized data: no second model is in memory while a run trains.",
    ),
    key(
        "objective.loss_top_k",
        "64",
        "How many tokens of each distribution `cache_teacher` keeps.",
    ),
    key(
        "objective.temperature",
        "",
        "Divisor of the logits of teacher and student in `distill`, 1 by default, and of cosines in \
        `embedding`, 0.05 by default.",
    ),
    key(
        "objective.t_squared",
        "false",
        "Multiplies the divergence by the square of the temperature, as Hinton et al. do and TRL \
        does not.",
    ),
    key(
        "objective.ce_alpha",
        "0.0",
        "Share of the cross-entropy of the rows' own tokens that `distill` mixes in.",
    ),
    key(
        "objective.missing_mass",
        "\"tail\"",
        "Where only some tokens of a teacher are known: `tail` counts all others as one, `renorm` \
        renormalizes teacher and student over the known ones, `teacher_renorm` only the teacher.",
    ),
    key(
        "objective.pooling",
        "\"mean\"",
        "How the hidden rows of a text's tokens become its vector with `embedding`: `mean`, \
        `lasttoken` or `cls`.",
    ),
    key(
        "objective.symmetric",
        "false",
        "Whether positives of `embedding` look for their anchors too.",
    ),
    key(
        "objective.matryoshka_dims",
        "",
        "Widths to which vectors of `embedding` are cut; the loss is the sum over them.",
    ),
    key(
        "objective.matryoshka_weights",
        "",
        "Weight of the loss of each of these widths; 1 by default.",
    ),
    key(
        "objective.margin",
        "\"none\"",
        "By how much the chosen score of `reward` is to exceed the rejected one: `none`, `column` \
        (the column `margin`) or `scores` (`score_chosen` less `score_rejected`).",
    ),
    key(
        "objective.center_rewards_coefficient",
        "0.0",
        "Weight of the squared sum of both rewards of a pair, which keeps `reward` near 0.",
    ),
    key(
        "objective.problem_type",
        "",
        "The problem of `classification`: `single_label_classification`, \
        `multi_label_classification`, `regression` or `token_classification`; from the labels by \
        default, where they leave only one.",
    ),
    key(
        "objective.labels",
        "",
        "Names of the classes or labels of `classification`, in order; from the data by default.",
    ),
    key(
        "objective.class_weights",
        "",
        "Weight of each class of `classification`, or of each label where it holds; 1 by default.",
    ),
    key(
        "adapter",
        "",
        "Which projections get low-rank matrices, and of what shape.",
    ),
    key(
        "adapter.method",
        "\"lora\"",
        "`lora`: low-rank adapters on a frozen base; `qlora`: the \
        same on a base of 4 bits a weight; `full`: every weight trains.",
    ),
    key(
        "adapter.quantization",
        "",
        "How the base's projections are quantized: `nf4`, `fp4`, \
        `int8` or `none`; `nf4` with `qlora`, else `none` by default. `gguf`, which needs no key, \
        is how a GGUF base has them.",
    ),
    key(
        "adapter.double_quant",
        "",
        "Whether the scales of `nf4` and `fp4` are quantized too, in 8 \
        bits; true with `qlora`, else false by default.",
    ),
    key(
        "adapter.block_size",
        "64",
        "Numbers of `nf4` and `fp4` that share a scale: a power of 2 from 32 to 4096.",
    ),
    key(
        "adapter.quantize_head",
        "false",
        "Whether an output head that is not tied to the embedding is quantized too.",
    ),
    key(
        "adapter.offload_embedding",
        "\"auto\"",
        "Whether an embedding of its own stays in the \
        processor's memory; `auto`: where a GPU has no room for it.",
    ),
    key("adapter.r", "16", "Rank: the inner width of A and B."),
    key(
        "adapter.alpha",
        "",
        "The adapter is scaled by alpha / r; 2 r by default.",
    ),
    key(
        "adapter.dropout",
        "0.0",
        "Share of A's input that training drops.",
    ),
    key(
        "adapter.target_modules",
        "\"all-linear\"",
        "Projections that get an adapter: \
        `all-linear`, a list of names, or a regular expression for whole module names.",
    ),
    key(
        "adapter.target_parameters",
        "[]",
        "Parameters of all experts of a layer that get an \
        adapter, such as `mlp.experts.gate_up_proj`.",
    ),
    key(
        "adapter.use_rslora",
        "false",
        "Scale by alpha / sqrt(r) in place of alpha / r.",
    ),
    key(
        "adapter.use_dora",
        "false",
        "DoRA: a trained magnitude for each output of a module.",
    ),
    key("adapter.lora_bias", "false", "Whether B has a bias."),
    key(
        "adapter.rank_pattern",
        "{}",
        "Regular expression for the end of a module's name: its r.",
    ),
    key(
        "adapter.alpha_pattern",
        "{}",
        "Regular expression for the end of a module's name: its alpha.",
    ),
    key(
        "adapter.layers_to_transform",
        "",
        "A layer or a list of layers that get adapters, from 0; all by default.",
    ),
    key(
        "adapter.init_lora_weights",
        "true",
        "`true`: B starts at 0; `false`: B is drawn as A is; \
        `pissa`: the greatest singular vectors of each weight.",
    ),
    key(
        "adapter.modules_to_save",
        "[]",
        "`embed_tokens`, `lm_head`: trained and saved whole.",
    ),
    key(
        "adapter.trainable_token_indices",
        "",
        "Ids of tokens whose rows of the embedding train, or lists of them by module.",
    ),
    key(
        "adapter.init_from",
        "",
        "Adapter folder to continue from; r, alpha and targets come from \
        there and may not be set with it.",
    ),
    key(
        "training",
        "",
        "How rows become steps and steps become updates.",
    ),
    key("training.sequence_len", "512", "Tokens of the longest row."),
    key(
        "training.sample_packing",
        "false",
        "Whether short rows share a row of `sequence_len` tokens; each sees itself only.",
    ),
    key(
        "training.shuffle",
        "true",
        "Whether each epoch has an order of its own.",
    ),
    key(
        "training.stopping_strategy",
        "\"all_rows\"",
        "Rows that an epoch draws from datasets with \
    weights: as many as they have (`all_rows`), or until one of them (`first_exhausted`) or each \
    (`all_exhausted`) was drawn whole.",
    ),
    key(
        "training.deduplicate",
        "\"none\"",
        "Leaves out rows that are like an earlier one of any \
        dataset: with the same tokens and labels (`exact`), or near-duplicates too (`near`).",
    ),
    key(
        "training.near_threshold",
        "0.6",
        "Rows whose runs of three tokens have at least this \
        Jaccard similarity are near-duplicates.",
    ),
    key(
        "training.truncation",
        "\"drop\"",
        "A longer row is left out (`drop`), cut (`truncate`), or the run does not start (`error`).",
    ),
    key(
        "training.max_dropped",
        "0.05",
        "Share of rows that may be left out before the run refuses to start.",
    ),
    key(
        "training.micro_batch_size",
        "1",
        "Rows computed at once; with `sample_packing` rows of `sequence_len` tokens.",
    ),
    key(
        "training.gradient_accumulation_steps",
        "1",
        "Micro-batches of an optimizer step.",
    ),
    key("training.num_epochs", "1", "Passes over the data."),
    key(
        "training.max_steps",
        "",
        "Optimizer steps; wins over `num_epochs`.",
    ),
    key(
        "training.learning_rate",
        "0.0002",
        "The peak of the learning rate; 1e-5 by default where the objective reads preferences.",
    ),
    key(
        "training.loraplus_lr_ratio",
        "",
        "LoRA+: the learning rate of B as a multiple of A's, usually 16; of adapters only.",
    ),
    key(
        "training.optimizer",
        "\"adamw\"",
        "The update rule; `adamw` has decoupled weight decay. \
        `paged_*` are the same without paging.",
    ),
    key(
        "training.adam_beta1",
        "0.9",
        "Decay of the first moment; of every optimizer except `adafactor`.",
    ),
    key(
        "training.adam_beta2",
        "0.999",
        "Decay of the second moment; of every optimizer except \
        `adafactor`. For Lion 0.99 by default.",
    ),
    key(
        "training.adam_epsilon",
        "1e-8",
        "AdamW's constant in the denominator.",
    ),
    key(
        "training.min_8bit_size",
        "4096",
        "Weights with fewer numbers keep a state of 32 bits; of `adamw_8bit` and `lion_8bit`.",
    ),
    key(
        "training.beta1",
        "",
        "Adafactor's decay of a momentum, below 1; none by default.",
    ),
    key(
        "training.decay_rate",
        "-0.8",
        "Adafactor's decay of mean squares, below 0.",
    ),
    key(
        "training.clip_threshold",
        "1.0",
        "The root mean square that an update of Adafactor may have.",
    ),
    key(
        "training.scale_parameter",
        "false",
        "Whether Adafactor's learning rate is times the weight's root mean square.",
    ),
    key(
        "training.relative_step",
        "false",
        "Whether Adafactor's learning rate follows from the \
        number of updates; `learning_rate`, schedule and warm-up do not go with it.",
    ),
    key(
        "training.warmup_init",
        "false",
        "Whether a relative step begins low.",
    ),
    key(
        "training.momentum",
        "0.95",
        "Muon's decay of the momentum, below 1.",
    ),
    key(
        "training.adjust_lr_fn",
        "\"match_rms_adamw\"",
        "How Muon's learning rate follows from a \
        matrix's shape: as large as AdamW's updates are, or as in the `original`.",
    ),
    key(
        "training.lr_scheduler",
        "\"cosine\"",
        "The learning rate's course after the warm-up; \
        `constant` is the only one of `schedule_free_adamw`.",
    ),
    key(
        "training.min_lr_rate",
        "",
        "Lowest share of the peak, for `cosine_with_min_lr` and \
        `cosine_warmup_with_min_lr`; 0 by default.",
    ),
    key(
        "training.min_lr",
        "",
        "Lowest learning rate, as `min_lr_rate` is its share; not with it.",
    ),
    key(
        "training.warmup_lr_rate",
        "",
        "First learning rate of the warm-up as a share of the peak, \
        for `cosine_warmup_with_min_lr`.",
    ),
    key(
        "training.num_cycles",
        "",
        "Waves of a cosine, 0.5 by default, or how often it falls with \
        `cosine_with_restarts`, 1 by default.",
    ),
    key("training.power", "1.0", "The power of `polynomial`."),
    key(
        "training.lr_end",
        "1e-7",
        "The last learning rate of `polynomial`.",
    ),
    key(
        "training.timescale",
        "",
        "Steps by which `inverse_sqrt` is scaled; the warm-up's, or 10,000, by default.",
    ),
    key(
        "training.num_decay_steps",
        "",
        "Steps of the last stage of `warmup_stable_decay`; a tenth of all by default.",
    ),
    key(
        "training.num_stable_steps",
        "",
        "Steps of the middle stage of `warmup_stable_decay`; the rest by default.",
    ),
    key(
        "training.min_lr_ratio",
        "0.0",
        "The learning rate before the first stage and after the \
        last as a share of the peak, for `warmup_stable_decay`.",
    ),
    key(
        "training.warmup_type",
        "\"linear\"",
        "How the first stage of `warmup_stable_decay` goes.",
    ),
    key(
        "training.decay_type",
        "\"cosine\"",
        "How the last stage of `warmup_stable_decay` goes.",
    ),
    key(
        "training.warmup_ratio",
        "",
        "Share of the steps over which the rate rises from 0; not with `warmup_steps`.",
    ),
    key(
        "training.warmup_steps",
        "",
        "Steps over which the rate rises from 0; none by default.",
    ),
    key("training.weight_decay", "0.0", "Decoupled weight decay."),
    key(
        "training.max_grad_norm",
        "1.0",
        "Gradients are clipped to this global norm; 0: not at all.",
    ),
    key(
        "training.router_aux_loss_coef",
        "",
        "Weight of the load-balancing loss of routed experts; as config.json has it by default.",
    ),
    key(
        "training.base_dropout",
        "",
        "`0`: train without the dropout that the base's config.json \
        sets, which is not implemented.",
    ),
    key(
        "training.gradient_checkpointing",
        "\"auto\"",
        "`true`: every block runs again in \
        backward; `false`: none; a number: so many of the lowest; `auto`: as few as memory allows.",
    ),
    key(
        "training.max_memory",
        "",
        "Bytes, or `12 GB`, `12GiB`: a run that needs more is refused \
        before it loads anything; 0.9 of what is free by default.",
    ),
    key(
        "training.model_dtype",
        "\"auto\"",
        "How the frozen base is kept in memory: `float32`, \
        `bfloat16` or `float16`. `auto` loses nothing on the CPU and picks 16 bits on a GPU.",
    ),
    key(
        "training.allow_tf32",
        "false",
        "Whether products of float32 operands may use TF32, on \
        NVIDIA GPUs of compute capability 8.0 or later.",
    ),
    key(
        "training.on_nonfinite",
        "\"abort\"",
        "A loss or gradient that is not finite ends the run \
        (`abort`), or the step changes nothing and is marked (`skip`).",
    ),
    key(
        "training.seed",
        "42",
        "Seed of initialization, order and dropout.",
    ),
    key(
        "evaluation",
        "",
        "The rows that an adapter is scored on, and when.",
    ),
    key(
        "evaluation.val_set_size",
        "0",
        "Rows held out for validation: a share below 1 or a whole number.",
    ),
    key(
        "evaluation.datasets",
        "[]",
        "Further validation sets, as `datasets`.",
    ),
    key(
        "evaluation.datasets.path",
        "",
        "Data file (Parquet; or JSON, JSONL, CSV, TSV), glob, or \
    folder; or a data set of the Hub, `hf://datasets/owner/name`, with or without `@revision` and \
    `/GLOB`.",
    ),
    key(
        "evaluation.datasets.config",
        "",
        "Of a data set of the Hub: its configuration; the only one by default.",
    ),
    key(
        "evaluation.datasets.split",
        "",
        "Of a data set of the Hub: its split, `train` by default. \
        With a slice, also of local files: `train[:20%]`, `train[1000:]`.",
    ),
    key(
        "evaluation.datasets.max_rows",
        "",
        "The most rows that are taken, the first ones; all by default.",
    ),
    key(
        "evaluation.datasets.format",
        "",
        "`text`, `completion`, `instruction`, `chat`, `preference`, `unpaired`, `retrieval` or \
        `classification`.",
    ),
    key(
        "evaluation.datasets.columns",
        "",
        "The format's name of a column: the file's name of it.",
    ),
    key(
        "evaluation.datasets.roles",
        "{}",
        "A role of the data: the role that the template knows, such as `{bot: assistant}`.",
    ),
    key(
        "evaluation.datasets.train_on",
        "",
        "Which tokens are scored: `assistant` (the default), `last` or `all`.",
    ),
    key(
        "evaluation.datasets.system",
        "",
        "System message of conversations that have none.",
    ),
    key(
        "evaluation.near_duplicates",
        "",
        "Rows that train and are near-duplicates of held-out \
    ones or of these sets are left out (`drop`, the default with `deduplicate: near`), stop the \
    run (`refuse`), or train and are counted (`keep`, the default otherwise).",
    ),
    key(
        "evaluation.eval_steps",
        "0",
        "Steps between evaluations; 0: at the ends of epochs.",
    ),
    key(
        "evaluation.early_stopping_patience",
        "0",
        "Evaluations without a better loss before the run ends; 0: never.",
    ),
    key(
        "evaluation.prompts",
        "[]",
        "Texts that are answered at each evaluation, the one before the first step included.",
    ),
    key(
        "output",
        "",
        "How often the run is saved and how much of it is kept.",
    ),
    key(
        "output.save_steps",
        "0",
        "Steps between checkpoints; 0: at the ends of epochs and every five minutes.",
    ),
    key(
        "output.save_total_limit",
        "2",
        "Checkpoints that are kept; the newest and the best always are.",
    ),
];
