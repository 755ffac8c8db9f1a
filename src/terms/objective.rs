//! Terms of the section `objective` of a recipe.

use super::{Format, Term};

term! {
    /// Objective of training.
    ObjectiveType {
        /// Cross-entropy of the trained tokens.
        Sft = "sft",
        /// Direct preference optimization.
        Dpo = "dpo",
        /// Odds ratio preference optimization.
        Orpo = "orpo",
        /// Simple preference optimization.
        Simpo = "simpo",
        /// Contrastive preference optimization.
        Cpo = "cpo",
        /// Kahneman-Tversky optimization.
        Kto = "kto",
        /// Distillation from a teacher.
        Distill = "distill",
        /// Vectors of texts.
        Embedding = "embedding",
        /// Reward model of pairs.
        Reward = "reward",
        /// Classes, labels or numbers of texts, or classes of words.
        Classification = "classification",
    }
}

impl ObjectiveType {
    /// Returns the formats of rows that the objective reads.
    pub fn formats(self) -> &'static [Format] {
        match self {
            Self::Sft | Self::Distill => &[
                Format::Text,
                Format::Completion,
                Format::Instruction,
                Format::Chat,
            ],
            Self::Dpo | Self::Orpo | Self::Simpo | Self::Cpo | Self::Reward => {
                &[Format::Preference]
            }
            Self::Kto => &[Format::Unpaired],
            Self::Embedding => &[Format::Retrieval],
            Self::Classification => &[Format::Classification],
        }
    }

    /// Whether a score head takes the place of the vocabulary's.
    pub fn has_score_head(self) -> bool {
        matches!(self, Self::Reward | Self::Classification)
    }

    /// Recipe keys of the section `objective`, with the types that have them.
    pub const KEYS: [(&'static str, &'static [Self]); 31] = [
        ("loss_type", &[Self::Sft, Self::Dpo, Self::Cpo, Self::Kto]),
        (
            "beta",
            &[
                Self::Dpo,
                Self::Orpo,
                Self::Simpo,
                Self::Cpo,
                Self::Kto,
                Self::Distill,
            ],
        ),
        (
            "label_smoothing",
            &[Self::Sft, Self::Dpo, Self::Simpo, Self::Cpo],
        ),
        ("neftune_noise_alpha", &[Self::Sft]),
        ("discopop_tau", &[Self::Dpo]),
        ("f_divergence_type", &[Self::Dpo]),
        ("f_alpha_divergence_coef", &[Self::Dpo]),
        ("sft_weight", &[Self::Dpo]),
        ("cpo_alpha", &[Self::Simpo, Self::Cpo]),
        ("simpo_gamma", &[Self::Simpo]),
        ("alpha", &[Self::Simpo]),
        ("desirable_weight", &[Self::Kto]),
        ("undesirable_weight", &[Self::Kto]),
        ("reference", &[Self::Dpo, Self::Kto]),
        ("teacher", &[Self::Distill]),
        ("teacher_quantization", &[Self::Distill]),
        ("cache_teacher", &[Self::Distill]),
        ("loss_top_k", &[Self::Distill]),
        ("temperature", &[Self::Distill, Self::Embedding]),
        ("t_squared", &[Self::Distill]),
        ("ce_alpha", &[Self::Distill]),
        ("missing_mass", &[Self::Distill]),
        ("pooling", &[Self::Embedding]),
        ("symmetric", &[Self::Embedding]),
        ("matryoshka_dims", &[Self::Embedding]),
        ("matryoshka_weights", &[Self::Embedding]),
        ("margin", &[Self::Reward]),
        ("center_rewards_coefficient", &[Self::Reward]),
        ("problem_type", &[Self::Classification]),
        ("labels", &[Self::Classification]),
        ("class_weights", &[Self::Classification]),
    ];
}

term! {
    /// Loss of a token in supervised fine-tuning, under TRL's names.
    SftLoss {
        /// -log p.
        Nll = "nll",
        /// -log p times p, which has no gradient: dynamic fine-tuning, arXiv:2508.05629.
        Dft = "dft",
    }
}

term! {
    /// Problem of a classification, under transformers' names.
    ProblemType {
        /// One of several classes: cross-entropy.
        SingleLabel = "single_label_classification",
        /// Each of several labels holds or not: binary cross-entropy of each.
        MultiLabel = "multi_label_classification",
        /// One number or several: squared error.
        Regression = "regression",
        /// A class for each word: cross-entropy of each.
        Token = "token_classification",
    }
}

impl ProblemType {
    /// Whether a row belongs to one class, or each of its words does.
    pub fn has_classes(self) -> bool {
        matches!(self, Self::SingleLabel | Self::Token)
    }
}

term! {
    /// Margin by which a chosen reward is to exceed the rejected one.
    MarginSource {
        /// No margin.
        None = "none",
        /// The column `margin`.
        Column = "column",
        /// The column `score_chosen` less `score_rejected`.
        Scores = "scores",
    }
}

term! {
    /// Loss of a pair in direct preference optimization, under TRL's names. Smoothing of `sigmoid`
    /// is conservative DPO.
    DpoLoss {
        /// -log σ of the margin, arXiv:2305.18290.
        Sigmoid = "sigmoid",
        /// The same, unbiased where a known share of labels is swapped, arXiv:2403.00409.
        Robust = "robust",
        /// Hinge of the margin, arXiv:2305.10425.
        Hinge = "hinge",
        /// Squared distance of mean log-ratios from a target, arXiv:2310.12036.
        Ipo = "ipo",
        /// -log σ of the margin of mean log-ratios, arXiv:2411.15124.
        SigmoidNorm = "sigmoid_norm",
        /// Reverse KL divergence from smoothed labels, arXiv:2402.00856.
        ExoPair = "exo_pair",
        /// Noise contrastive alignment, arXiv:2402.05369.
        NcaPair = "nca_pair",
        /// Binary classification of both completions, arXiv:2404.04656, without a reward shift.
        BcoPair = "bco_pair",
        /// Squared distance of log-ratios from hard targets, arXiv:2405.00675.
        SppoHard = "sppo_hard",
        /// Anchored: raises the chosen and lowers the rejected, arXiv:2408.06266.
        ApoZero = "apo_zero",
        /// Anchored: lowers both, the rejected more, arXiv:2408.06266.
        ApoDown = "apo_down",
        /// A discovered mix of logistic and exponential loss, arXiv:2406.08414.
        Discopop = "discopop",
    }
}

impl DpoLoss {
    /// Whether `label_smoothing` acts.
    pub fn is_smoothed(self) -> bool {
        matches!(self, Self::Sigmoid | Self::Robust | Self::ExoPair)
    }
}

impl DpoLoss {
    /// Whether the divergence from the reference is chosen by `f_divergence_type`: the loss is one
    /// of scores of both completions, and not of their log-ratios.
    pub fn has_divergence(self) -> bool {
        matches!(
            self,
            Self::Sigmoid
                | Self::Robust
                | Self::Hinge
                | Self::Ipo
                | Self::SigmoidNorm
                | Self::ExoPair
                | Self::Discopop
        )
    }
}

term! {
    /// Divergence from the reference in direct preference optimization, Wang et al. 2023,
    /// arXiv:2309.16240, under TRL's names. It gives a completion with log-ratio r a score.
    FDivergence {
        /// The score is r.
        ReverseKl = "reverse_kl",
        /// 1 - e⁻ʳ.
        ForwardKl = "forward_kl",
        /// log 2 + log σ(r).
        JsDivergence = "js_divergence",
        /// (e^((a - 1) r) - 1) / (a - 1).
        AlphaDivergence = "alpha_divergence",
    }
}

term! {
    /// Loss of a pair in contrastive preference optimization, under TRL's names.
    CpoLoss {
        /// -log σ of the margin of log-probabilities.
        Sigmoid = "sigmoid",
        /// Hinge of the margin.
        Hinge = "hinge",
        /// Squared distance of mean log-probabilities from a target.
        Ipo = "ipo",
    }
}

term! {
    /// Loss of a completion with a label, under TRL's names.
    KtoLoss {
        /// Against a reference point, arXiv:2402.01306.
        Kto = "kto",
        /// Without a reference point, arXiv:2408.06266.
        ApoZeroUnpaired = "apo_zero_unpaired",
    }
}

term! {
    /// What becomes of a teacher's mass outside of its known tokens.
    MissingMass {
        /// All other tokens are one outcome.
        Tail = "tail",
        /// Teacher and student are renormalized over the known tokens.
        Renorm = "renorm",
        /// The teacher is renormalized, so that the student learns to leave nothing to others.
        TeacherRenorm = "teacher_renorm",
    }
}
