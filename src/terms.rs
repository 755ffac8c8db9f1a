//! The field's terms: the words that a recipe may use for a value, each with the type that the rest
//! of the house acts on.

mod readings;

pub use readings::{Readings, Slopes, Unit};

/// A choice with a fixed set of words.
pub trait Term: Sized + Copy + PartialEq + 'static {
    /// Every word with its meaning, in the order in which they are listed to a person; of several
    /// words for one meaning the first is.
    const WORDS: &'static [(&'static str, Self)];

    /// The meaning of a word.
    fn parse(word: &str) -> Option<Self> {
        Self::WORDS
            .iter()
            .find(|(name, _)| *name == word)
            .map(|(_, value)| *value)
    }

    /// The word for this meaning.
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("?", |(name, _)| name)
    }
}

macro_rules! term {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $other:literal)*),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),* }

        impl Term for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant), $(($other, Self::$variant),)*)*];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

term! {
    /// The shape of a dataset's rows.
    Format {
        /// One column of text; every token is trained.
        Text = "text",
        /// A prompt and its completion, tokenized as one string; the completion is trained.
        Completion = "completion",
        /// Alpaca's instruction, input and output.
        Instruction = "instruction",
        /// A conversation, rendered by the base's chat template.
        Chat = "chat",
    }
}

impl Format {
    /// The columns that it reads, by their canonical names.
    pub fn columns(self) -> &'static [&'static str] {
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
        }
    }
}

/// What no variable of a chat template may be called: a conversation has these itself, or they say
/// how it is rendered.
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
        /// Nowhere: in a file without a name, which goes with the process.
        None = "none",
    }
}

term! {
    /// Which tokens of a row carry a loss.
    TrainOn {
        /// What the assistant says, the token that ends its turn included.
        Assistant = "assistant",
        /// Every token.
        All = "all",
        /// The last assistant turn only.
        Last = "last",
    }
}

term! {
    /// What happens to a row longer than the sequence length.
    Truncation {
        /// It is left out and counted.
        Drop = "drop",
        /// Its tail is cut off and it is counted.
        Truncate = "truncate",
        /// It stops the run before training.
        Error = "error",
    }
}

term! {
    /// How many rows an epoch draws from datasets with weights.
    EpochEnd {
        /// As many as the datasets have.
        AllRows = "all_rows",
        /// Until one dataset was drawn whole.
        FirstExhausted = "first_exhausted",
        /// Until each dataset was drawn whole.
        AllExhausted = "all_exhausted",
    }
}

term! {
    /// Which rows are left out because an earlier one is like them.
    Deduplicate {
        /// None.
        None = "none",
        /// Those with the same tokens and labels.
        Exact = "exact",
        /// Near-duplicates too.
        Near = "near",
    }
}

term! {
    /// What happens to rows that train and are near-duplicates of rows that only score.
    NearDuplicates {
        /// They are trained on.
        Keep = "keep",
        /// They are left out and counted.
        Drop = "drop",
        /// They stop the run before training.
        Refuse = "refuse",
    }
}

term! {
    /// The learning rate's course after the warm-up.
    Scheduler {
        /// It stays.
        Constant = "constant" | "constant_with_warmup",
        /// It falls to 0 in a line.
        Linear = "linear",
        /// It falls to 0 along half a cosine.
        Cosine = "cosine",
        /// It falls to a share of its peak along half a cosine.
        CosineWithMinLr = "cosine_with_min_lr",
        /// The same, one step ahead, from a warm-up that need not begin at 0.
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        /// It falls to 0 along half a cosine again and again.
        CosineWithRestarts = "cosine_with_restarts",
        /// It falls along a polynomial.
        Polynomial = "polynomial",
        /// It falls as one over the root of the steps.
        InverseSqrt = "inverse_sqrt",
        /// It stays, and falls at the end.
        WarmupStableDecay = "warmup_stable_decay",
    }
}

impl Scheduler {
    /// Keys of a recipe that only some have, with those that do.
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
    /// How a stage of a schedule goes from one rate to another.
    Curve {
        /// In a line.
        Linear = "linear",
        /// Along a cosine.
        Cosine = "cosine",
        /// Along one minus a root.
        OneMinusSqrt = "1-sqrt",
    }
}

term! {
    /// How Muon's learning rate follows from the shape of a matrix, as torch has it.
    AdjustLr {
        /// Times what makes an update as large as one of `AdamW` mostly is, so that one learning
        /// rate does for both: arXiv:2502.16982.
        MatchRmsAdamW = "match_rms_adamw",
        /// Times the root of rows over columns, 1 at least.
        Original = "original",
    }
}

term! {
    /// What a loss or gradient that is not finite leads to; it never reaches the weights.
    OnNonfinite {
        /// The run ends.
        Abort = "abort",
        /// The step is left out and counted.
        Skip = "skip",
    }
}

term! {
    /// What a recipe calls its way of training.
    Technique {
        /// Low-rank adapters on a frozen base, Hu et al. 2021, arXiv:2106.09685.
        Lora = "lora",
        /// The same on a base of 4 bits a weight, Dettmers et al. 2023, arXiv:2305.14314.
        Qlora = "qlora",
        /// Every weight of the base.
        Full = "full",
    }
}

term! {
    /// What is trained.
    Method {
        /// Low-rank adapters on a frozen base.
        Lora = "lora",
        /// Every weight of the base.
        Full = "full",
    }
}

/// How a fresh adapter starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// B is zero, and the base as it is: `true`.
    Zero,
    /// B is drawn as A is: `false`.
    Drawn,
    /// A and B are the principal part of the weight, `PiSSA`, Meng et al. 2024, arXiv:2404.02948:
    /// `pissa`.
    Principal,
}

/// The vector that an adapter may have beside its matrices; as in PEFT it has one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterVector {
    /// A bias of B, PEFT's `lora_bias`.
    Bias,
    /// The magnitude of each output, PEFT's `use_dora`: Liu et al. 2024, arXiv:2402.09353.
    Magnitude,
}

impl AdapterVector {
    /// The key that turns it on, in a recipe and in PEFT's config.
    pub fn key(self) -> &'static str {
        match self {
            Self::Bias => "lora_bias",
            Self::Magnitude => "use_dora",
        }
    }

    /// What its name in a file ends with.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bias => "lora_B.bias",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }
}

term! {
    /// How the projections of a frozen base are packed.
    Quantization {
        /// They are not.
        None = "none",
        /// NF4, 4 bits a number: quantiles of the normal distribution, arXiv:2305.14314.
        Nf4 = "nf4",
        /// FP4, 4 bits a number: a sign, two bits of exponent and one of fraction.
        Fp4 = "fp4",
        /// 8 bits a number, by rows, Dettmers et al. 2022, arXiv:2208.07339.
        Int8 = "int8",
    }
}

term! {
    /// Whether the embedding stays in the processor's memory.
    Offload {
        /// Where a GPU has no room for it.
        Auto = "auto",
        /// It does.
        Always = "true",
        /// It does not.
        Never = "false",
    }
}

term! {
    /// The rule that turns gradients into updates, by the names that transformers has for it.
    Optimizer {
        /// Adam with decoupled weight decay, Loshchilov and Hutter 2017, arXiv:1711.05101.
        AdamW = "adamw" | "adamw_torch" | "adamw_torch_fused",
        /// Its moments in 8 bits, Dettmers et al. 2021, arXiv:2110.02861.
        AdamW8bit = "adamw_8bit" | "adamw_bnb_8bit",
        /// `adamw`: nothing is moved between memories.
        PagedAdamW = "paged_adamw_32bit" | "paged_adamw",
        /// `adamw_8bit`: nothing is moved between memories.
        PagedAdamW8bit = "paged_adamw_8bit",
        /// Adafactor, Shazeer and Stern 2018, arXiv:1804.04235.
        Adafactor = "adafactor",
        /// Lion, Chen et al. 2023, arXiv:2302.06675.
        Lion = "lion" | "lion_32bit",
        /// Its momentum in 8 bits.
        Lion8bit = "lion_8bit",
        /// `lion`: nothing is moved between memories.
        PagedLion = "paged_lion_32bit" | "paged_lion",
        /// `lion_8bit`: nothing is moved between memories.
        PagedLion8bit = "paged_lion_8bit",
        /// Muon for the matrices of blocks, Jordan et al. 2024; `adamw` for all else.
        Muon = "muon",
        /// Schedule-free `AdamW`, Defazio et al. 2024, arXiv:2405.15682.
        ScheduleFree = "schedule_free_adamw",
    }
}

impl Optimizer {
    /// The optimizer itself, where this is one whose state would be moved between memories.
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

    /// Keys of a recipe that only some have, with those that do, by their resident names.
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
    /// The numbers that the matrices of a frozen base are kept in, and on a GPU those that go from
    /// layer to layer. Adapters, their gradients, the optimizer, statistics of norms and the loss
    /// are 32-bit floats; so is everything that the CPU computes.
    ModelDtype {
        /// On the CPU as the checkpoint has them where that is bfloat16, so that no number changes.
        /// On a GPU what it computes with in 16 bits, bfloat16 rather than float16, where the
        /// checkpoint has no wider numbers. 32-bit floats elsewhere.
        Auto = "auto",
        /// 32-bit floats.
        Float32 = "float32",
        /// The upper half of 32-bit floats, rounded.
        Bfloat16 = "bfloat16",
        /// IEEE 754 in 16 bits: nothing above 65504, and gradients are scaled. For GPUs without
        /// bfloat16.
        Float16 = "float16",
    }
}

/// Which blocks run again in backward instead of keeping their activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checkpointing {
    /// As few as memory allows.
    Auto,
    /// Every block.
    All,
    /// No block.
    None,
    /// So many, counted from the bottom of the model: what `auto` came to in the lock of a run.
    Lowest(usize),
}

/// The largest rank of an adapter. It is wider than any model, and its matrices are still counted
/// without overflow.
pub const MAX_RANK: u64 = 65_536;

/// Where tensors live and are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The CPU, the one device on which training is proven.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU through wgpu, by its index.
    Wgpu(usize),
    /// An NVIDIA GPU, by its index.
    Cuda(usize),
}

impl Device {
    /// The meaning of `auto`, `cpu`, `wgpu`, `wgpu:1`, `cuda` or `cuda:0`; a GPU without an index
    /// is the first.
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

/// How many training rows are held out for validation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Holdout {
    /// A share of all rows, below 1.
    Share(f64),
    /// So many rows.
    Rows(usize),
}

impl Holdout {
    /// Whether no row is held out.
    pub fn is_none(self) -> bool {
        matches!(self, Self::Rows(0) | Self::Share(0.0))
    }
}

/// A choice of a model's modules, as PEFT's `target_modules` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Modules {
    /// Every linear layer but the head.
    AllLinear,
    /// Modules whose name is, or ends with a dot and, one of these.
    Names(Vec<String>),
    /// Modules whose whole name matches this regular expression.
    Regex(String),
}

/// Tokens whose rows train, as PEFT's `trainable_token_indices` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenIndices {
    /// In the embedding, and in a head that is the same table.
    Embedding(Vec<u32>),
    /// By module, embedding or head.
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
