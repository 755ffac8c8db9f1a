//! Terms of the field: the words that a recipe may use for a value, each with the type that the
//! rest of the crate uses.

mod readings;

pub use readings::{Readings, RowForm, Slopes, TextEnd, TopTokens, Unit, UnitKind};

/// A choice with a fixed set of words.
pub trait Term: Sized + Copy + PartialEq + 'static {
    /// Every word with its meaning, in the order for lists. The first of several words for one
    /// meaning is the main one.
    const WORDS: &'static [(&'static str, Self)];

    /// Returns the meaning of a word.
    fn parse(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, value)| *value)
    }

    /// Returns the main word for this meaning.
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("?", |(name, _)| name)
    }
}

macro_rules! term {
    (
        $(#[$doc:meta])*
        $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $other:literal)*),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl Term for $name {
            const WORDS: &'static [(&'static str, Self)] =
                &[$(($word, Self::$variant), $(($other, Self::$variant),)*)*];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

mod embedding;
mod objective;

pub use embedding::Pooling;
pub use objective::{
    CpoLoss, DpoLoss, FDivergence, KtoLoss, MarginSource, MissingMass, ObjectiveType, ProblemType,
    SftLoss,
};

term! {
    /// Format of a dataset's rows.
    Format {
        /// One column of text; every token is trained.
        Text = "text",
        /// A prompt and its completion, tokenized as one string; the completion is trained.
        Completion = "completion",
        /// Alpaca's instruction, input and output.
        Instruction = "instruction",
        /// A conversation, rendered by the base's chat template.
        Chat = "chat",
        /// A prompt with a chosen and a rejected completion.
        Preference = "preference",
        /// A prompt and a completion that is desirable or not.
        Unpaired = "unpaired",
        /// A text, one that belongs to it, and texts that do not.
        Retrieval = "retrieval",
        /// A text, or a pair of texts, with its label; or words with a tag each.
        Classification = "classification",
    }
}

impl Format {
    /// Returns the columns that the format reads, by their canonical names.
    pub const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["text"],
            Self::Completion => &["prompt", "completion", "tools", "chat_template_kwargs"],
            Self::Instruction => &["instruction", "input", "output", "system", "history"],
            Self::Chat => &[
                "messages",
                "tools",
                "prompt",
                "completion",
                "system",
                "chat_template_kwargs",
            ],
            Self::Preference => &[
                "prompt",
                "chosen",
                "rejected",
                "tools",
                "chat_template_kwargs",
                "margin",
                "score_chosen",
                "score_rejected",
            ],
            Self::Unpaired => &[
                "prompt",
                "completion",
                "label",
                "tools",
                "chat_template_kwargs",
            ],
            Self::Retrieval => &[
                "anchor",
                "positive",
                "negative",
                "negative_1",
                "negative_2",
                "negative_3",
                "negative_4",
                "negative_5",
                "negative_6",
                "negative_7",
                "negative_8",
            ],
            Self::Classification => &["tokens", "tags", "text", "text_pair", "label"],
        }
    }

    /// The canonical name of a column with the factor of each row's loss, which formats without
    /// preferences read where a recipe names it.
    pub const LOSS_WEIGHT: &'static str = "weight";

    /// Whether rows compare or rate completions.
    pub fn is_of_preferences(self) -> bool {
        matches!(self, Self::Preference | Self::Unpaired)
    }

    /// Whether parts of a row are trained, so that the recipe may say which.
    pub fn has_trained_parts(self) -> bool {
        !self.is_of_preferences() && !matches!(self, Self::Retrieval | Self::Classification)
    }
}

/// Names that a variable of a chat template may not have, because the conversation or the renderer
/// sets them.
pub const NOT_VARIABLES: [&str; 6] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
];

term! {
    /// Where the tokens of a run's data are kept.
    CacheMode {
        /// In the user's cache, which all runs share.
        User = "user",
        /// In the run's folder.
        Run = "run",
        /// In an unnamed file, which is gone when the process ends.
        None = "none",
    }
}

term! {
    /// Which tokens of a row are trained.
    TrainOn {
        /// The assistant's turns, including the token that ends each.
        Assistant = "assistant",
        /// Every token.
        All = "all",
        /// The last assistant turn only.
        Last = "last",
    }
}

term! {
    /// Treatment of a row longer than the sequence length.
    Truncation {
        /// Leave the row out and count it.
        Drop = "drop",
        /// Cut off its end and count it.
        Truncate = "truncate",
        /// Stop the run before training.
        Error = "error",
    }
}

term! {
    /// When an epoch over weighted datasets ends.
    EpochEnd {
        /// After as many rows as the datasets have.
        AllRows = "all_rows",
        /// When the first dataset is exhausted.
        FirstExhausted = "first_exhausted",
        /// When every dataset is exhausted.
        AllExhausted = "all_exhausted",
    }
}

term! {
    /// Which rows are left out as duplicates of an earlier row.
    Deduplicate {
        /// No rows.
        None = "none",
        /// Rows with the same tokens and labels.
        Exact = "exact",
        /// Near-duplicates too.
        Near = "near",
    }
}

term! {
    /// Treatment of training rows that are near-duplicates of validation rows.
    NearDuplicates {
        /// Train on them.
        Keep = "keep",
        /// Leave them out and count them.
        Drop = "drop",
        /// Stop the run before training.
        Refuse = "refuse",
    }
}

term! {
    /// Learning rate schedule after the warm-up.
    Scheduler {
        /// Constant.
        Constant = "constant" | "constant_with_warmup",
        /// Linear decay to 0.
        Linear = "linear",
        /// Decay to 0 along half a cosine.
        Cosine = "cosine",
        /// Decay to a fraction of the peak along half a cosine.
        CosineWithMinLr = "cosine_with_min_lr",
        /// The same, one step ahead, with a warm-up that may start above 0.
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        /// Decay to 0 along half a cosine, repeated.
        CosineWithRestarts = "cosine_with_restarts",
        /// Decay along a polynomial.
        Polynomial = "polynomial",
        /// Decay with the inverse square root of the steps.
        InverseSqrt = "inverse_sqrt",
        /// Constant, with a decay at the end.
        WarmupStableDecay = "warmup_stable_decay",
    }
}

impl Scheduler {
    /// Recipe keys that only some schedulers have, with those schedulers.
    pub const KEYS: [(&'static str, &'static [Self]); 12] = [
        (
            "min_lr_rate",
            &[Self::CosineWithMinLr, Self::CosineWarmupWithMinLr],
        ),
        (
            "min_lr",
            &[Self::CosineWithMinLr, Self::CosineWarmupWithMinLr],
        ),
        ("warmup_lr_rate", &[Self::CosineWarmupWithMinLr]),
        (
            "num_cycles",
            &[
                Self::Cosine,
                Self::CosineWithMinLr,
                Self::CosineWarmupWithMinLr,
                Self::CosineWithRestarts,
                Self::WarmupStableDecay,
            ],
        ),
        ("power", &[Self::Polynomial]),
        ("lr_end", &[Self::Polynomial]),
        ("timescale", &[Self::InverseSqrt]),
        ("num_decay_steps", &[Self::WarmupStableDecay]),
        ("num_stable_steps", &[Self::WarmupStableDecay]),
        ("min_lr_ratio", &[Self::WarmupStableDecay]),
        ("warmup_type", &[Self::WarmupStableDecay]),
        ("decay_type", &[Self::WarmupStableDecay]),
    ];
}

term! {
    /// Curve between two rates in a stage of a schedule.
    Curve {
        /// Linear.
        Linear = "linear",
        /// Along half a cosine.
        Cosine = "cosine",
        /// Along one minus a square root.
        OneMinusSqrt = "1-sqrt",
    }
}

term! {
    /// Scaling of Muon's learning rate by the shape of a matrix, as in torch.
    AdjustLr {
        /// Scales the update to the usual size of one of `AdamW`, so that one learning rate suits
        /// both: arXiv:2502.16982.
        MatchRmsAdamW = "match_rms_adamw",
        /// Scales by the square root of rows over columns, at least 1.
        Original = "original",
    }
}

term! {
    /// Treatment of a loss or gradient that is not finite. It never reaches the weights.
    OnNonfinite {
        /// End the run.
        Abort = "abort",
        /// Skip the step and count it.
        Skip = "skip",
    }
}

term! {
    /// Training technique as a recipe names it.
    Technique {
        /// Low-rank adapters on a frozen base, Hu et al. 2021, arXiv:2106.09685.
        Lora = "lora",
        /// The same on a base in 4 bits per weight, Dettmers et al. 2023, arXiv:2305.14314.
        Qlora = "qlora",
        /// All weights of the base.
        Full = "full",
    }
}

term! {
    /// Which weights are trained.
    Method {
        /// Low-rank adapters on a frozen base.
        Lora = "lora",
        /// All weights of the base.
        Full = "full",
    }
}

/// Initialization of a fresh adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// B is zero, so the model starts as the base: `true`.
    Zero,
    /// B is drawn like A: `false`.
    Drawn,
    /// A and B are the principal components of the weight, `PiSSA`, Meng et al. 2024,
    /// arXiv:2404.02948: `pissa`.
    Principal,
}

/// Vector of an adapter beside its matrices. As in PEFT, an adapter has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterVector {
    /// Bias of B, PEFT's `lora_bias`.
    Bias,
    /// Magnitude of each output, PEFT's `use_dora`: Liu et al. 2024, arXiv:2402.09353.
    Magnitude,
}

impl AdapterVector {
    /// Returns the key that enables the vector, in a recipe and in PEFT's config.
    pub fn key(self) -> &'static str {
        match self {
            Self::Bias => "lora_bias",
            Self::Magnitude => "use_dora",
        }
    }

    /// Returns the end of the vector's name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bias => "lora_B.bias",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }
}

term! {
    /// Quantization of the projections of a frozen base.
    Quantization {
        /// No quantization.
        None = "none",
        /// NF4, 4 bits per number: quantiles of the normal distribution, arXiv:2305.14314.
        Nf4 = "nf4",
        /// FP4, 4 bits per number: sign, two bits of exponent and one of fraction.
        Fp4 = "fp4",
        /// 8 bits per number, by rows, Dettmers et al. 2022, arXiv:2208.07339.
        Int8 = "int8",
        /// The formats of ggml, as the tensors of a GGUF file have them.
        Gguf = "gguf",
    }
}

term! {
    /// Whether the embedding stays in CPU memory.
    Offload {
        /// If the GPU has no room for it.
        Auto = "auto",
        /// Always.
        Always = "true",
        /// Never.
        Never = "false",
    }
}

term! {
    /// Optimizer, under the names that transformers uses.
    Optimizer {
        /// Adam with decoupled weight decay, Loshchilov and Hutter 2017, arXiv:1711.05101.
        AdamW = "adamw" | "adamw_torch" | "adamw_torch_fused",
        /// `AdamW` with moments in 8 bits, Dettmers et al. 2021, arXiv:2110.02861.
        AdamW8bit = "adamw_8bit" | "adamw_bnb_8bit",
        /// Same as `adamw`, without paging.
        PagedAdamW = "paged_adamw_32bit" | "paged_adamw",
        /// Same as `adamw_8bit`, without paging.
        PagedAdamW8bit = "paged_adamw_8bit",
        /// Adafactor, Shazeer and Stern 2018, arXiv:1804.04235.
        Adafactor = "adafactor",
        /// Lion, Chen et al. 2023, arXiv:2302.06675.
        Lion = "lion" | "lion_32bit",
        /// Lion with momentum in 8 bits.
        Lion8bit = "lion_8bit",
        /// Same as `lion`, without paging.
        PagedLion = "paged_lion_32bit" | "paged_lion",
        /// Same as `lion_8bit`, without paging.
        PagedLion8bit = "paged_lion_8bit",
        /// Muon for the matrices of blocks, Jordan et al. 2024; `adamw` for all other weights.
        Muon = "muon",
        /// Schedule-free `AdamW`, Defazio et al. 2024, arXiv:2405.15682.
        ScheduleFree = "schedule_free_adamw",
    }
}

impl Optimizer {
    /// Returns the optimizer without paging.
    #[must_use]
    pub fn resident(self) -> Self {
        match self {
            Self::PagedAdamW => Self::AdamW,
            Self::PagedAdamW8bit => Self::AdamW8bit,
            Self::PagedLion => Self::Lion,
            Self::PagedLion8bit => Self::Lion8bit,
            resident => resident,
        }
    }

    /// Recipe keys that only some optimizers have, with the resident names of those optimizers.
    pub const KEYS: [(&'static str, &'static [Self]); 12] = [
        (
            "adam_beta1",
            &[
                Self::AdamW,
                Self::AdamW8bit,
                Self::Lion,
                Self::Lion8bit,
                Self::Muon,
                Self::ScheduleFree,
            ],
        ),
        (
            "adam_beta2",
            &[
                Self::AdamW,
                Self::AdamW8bit,
                Self::Lion,
                Self::Lion8bit,
                Self::Muon,
                Self::ScheduleFree,
            ],
        ),
        (
            "adam_epsilon",
            &[Self::AdamW, Self::AdamW8bit, Self::Muon, Self::ScheduleFree],
        ),
        ("min_8bit_size", &[Self::AdamW8bit, Self::Lion8bit]),
        ("beta1", &[Self::Adafactor]),
        ("decay_rate", &[Self::Adafactor]),
        ("clip_threshold", &[Self::Adafactor]),
        ("scale_parameter", &[Self::Adafactor]),
        ("relative_step", &[Self::Adafactor]),
        ("warmup_init", &[Self::Adafactor]),
        ("momentum", &[Self::Muon]),
        ("adjust_lr_fn", &[Self::Muon]),
    ];
}

term! {
    /// Number type of the matrices of a frozen base, and on a GPU also of the activations between
    /// layers.
    ///
    /// Adapters, their gradients, the optimizer, norm statistics and the loss are 32-bit floats. So
    /// is everything that the CPU computes.
    ModelDtype {
        /// On the CPU, the checkpoint's type if it is bfloat16, so that no number changes.
        ///
        /// On a GPU, the 16-bit type that it supports, bfloat16 before float16, if the checkpoint
        /// has no wider numbers. Otherwise 32-bit floats.
        Auto = "auto",
        /// 32-bit floats.
        Float32 = "float32",
        /// The upper half of a 32-bit float, rounded.
        Bfloat16 = "bfloat16",
        /// IEEE 754, 16 bits; largest value 65504, and gradients are scaled. For GPUs without
        /// bfloat16.
        Float16 = "float16",
    }
}

/// Gradient checkpointing: which blocks are recomputed in the backward pass instead of keeping
/// their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// As few blocks as memory allows.
    Auto,
    /// Every block.
    All,
    /// No block.
    None,
    /// This many blocks, counted from the bottom of the model. The lock of a run stores the result
    /// of `auto` in this form.
    Lowest(usize),
}

/// Largest rank of an adapter. It is wider than any model, and its matrices can still be counted
/// without overflow.
pub const MAX_RANK: u64 = 65_536;

/// Device on which tensors are stored and computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU, the only device on which training is proven.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through wgpu, by its index.
    Wgpu(usize),
    /// An NVIDIA GPU, by its index.
    Cuda(usize),
}

impl Device {
    /// Parses `auto`, `cpu`, `wgpu`, `wgpu:1`, `cuda` or `cuda:0`. A GPU without an index is the
    /// first one.
    pub fn parse(word: &str) -> Option<Self> {
        let (kind, index) = match word.split_once(':') {
            Some((kind, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (kind, Some(digits.parse().ok()?))
            }
            Some(_) => return None,
            None => (word, None),
        };
        match (kind, index) {
            ("auto", None) => Some(Self::Auto),
            ("cpu", None) => Some(Self::Cpu),
            ("wgpu", index) => Some(Self::Wgpu(index.unwrap_or(0))),
            ("cuda", index) => Some(Self::Cuda(index.unwrap_or(0))),
            _ => None,
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Wgpu(index) => write!(f, "wgpu:{index}"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Training rows that are held out for validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Holdout {
    /// A fraction of all rows, below 1.
    Share(f64),
    /// A number of rows.
    Rows(usize),
}

impl Holdout {
    /// Returns whether no row is held out.
    pub fn is_none(self) -> bool {
        matches!(self, Self::Rows(0) | Self::Share(0.0))
    }
}

/// Selection of a model's modules, as in PEFT's `target_modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modules {
    /// Every linear layer except the head.
    AllLinear,
    /// Modules with one of these names, or whose name ends with a dot and one of these.
    Names(Vec<String>),
    /// Modules whose whole name matches this regular expression.
    Regex(String),
}

/// Tokens whose rows are trained, as in PEFT's `trainable_token_indices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenIndices {
    /// Rows of the embedding, and of a tied head.
    Embedding(Vec<u32>),
    /// Rows by module, embedding or head.
    Modules(Vec<(String, Vec<u32>)>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_words_the_first_is_told() {
        assert_eq!(
            Optimizer::parse("adamw_bnb_8bit"),
            Some(Optimizer::AdamW8bit)
        );
        assert_eq!(Optimizer::AdamW8bit.to_string(), "adamw_8bit");
        for (word, optimizer) in Optimizer::WORDS {
            assert_eq!(
                Optimizer::parse(optimizer.word()),
                Some(*optimizer),
                "{word}"
            );
            assert_eq!(optimizer.resident().resident(), optimizer.resident());
        }
    }

    #[test]
    fn a_device_is_read_back_from_its_word() {
        for device in [Device::Auto, Device::Cpu, Device::Wgpu(1), Device::Cuda(0)] {
            assert_eq!(Device::parse(&device.to_string()), Some(device));
        }
        assert_eq!(Device::parse("cuda"), Some(Device::Cuda(0)));
        for word in [
            "", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "CUDA",
        ] {
            assert_eq!(Device::parse(word), None, "{word}");
        }
    }
}
