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
            Self::Sft => &[
                Format::Text,
                Format::Completion,
                Format::Instruction,
                Format::Chat,
            ],
            Self::Dpo | Self::Orpo | Self::Simpo | Self::Cpo | Self::Reward => {
                &[Format::Preference]
            }
            Self::Kto => &[Format::Unpaired],
            Self::Classification => &[Format::Classification],
        }
    }

    /// Whether a score head takes the place of the vocabulary's.
    pub fn has_score_head(self) -> bool {
        matches!(self, Self::Reward | Self::Classification)
    }

    /// Recipe keys of the section `objective`, with the types that have them.
    pub const KEYS: [(&'static str, &'static [Self]); 16] = [
        ("loss_type", &[Self::Dpo, Self::Cpo, Self::Kto]),
        (
            "beta",
            &[Self::Dpo, Self::Orpo, Self::Simpo, Self::Cpo, Self::Kto],
        ),
        ("label_smoothing", &[Self::Dpo, Self::Simpo, Self::Cpo]),
        ("discopop_tau", &[Self::Dpo]),
        ("sft_weight", &[Self::Dpo]),
        ("cpo_alpha", &[Self::Simpo, Self::Cpo]),
        ("simpo_gamma", &[Self::Simpo]),
        ("alpha", &[Self::Simpo]),
        ("desirable_weight", &[Self::Kto]),
        ("undesirable_weight", &[Self::Kto]),
        ("reference", &[Self::Dpo, Self::Kto]),
        ("margin", &[Self::Reward]),
        ("center_rewards_coefficient", &[Self::Reward]),
        ("problem_type", &[Self::Classification]),
        ("labels", &[Self::Classification]),
        ("class_weights", &[Self::Classification]),
    ];
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
