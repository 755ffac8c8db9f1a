//! The section `objective`: the loss that training minimizes.

use std::ops::{Bound, RangeInclusive};

use super::adapter::names;
use super::place::{Location, Said};
use super::section::{ABOVE_ZERO, Section, Value};
use super::shape::Shape;
use crate::terms::{
    CpoLoss, DpoLoss, FDivergence, KtoLoss, MarginSource, MissingMass, ObjectiveType, Pooling,
    ProblemType, Quantization, SftLoss, Term,
};

/// The objective and its own keys, under TRL's names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objective {
    /// The objective.
    pub kind: Option<Said<ObjectiveType>>,
    /// The variant of the loss.
    pub loss_type: Option<Said<String>>,
    /// The factor of log-ratios or log-probabilities; in distillation the share of the teacher in the
    /// mean distribution.
    pub beta: Option<Said<f64>>,
    /// The share of a label that all tokens get, or the assumed share of pairs whose labels are
    /// swapped.
    pub label_smoothing: Option<Said<f64>>,
    /// Alpha of the noise on embeddings.
    pub neftune_noise_alpha: Option<Said<f64>>,
    /// The temperature of DPO's `discopop`.
    pub discopop_tau: Option<Said<f64>>,
    /// The divergence of DPO from the reference.
    pub f_divergence_type: Option<Said<FDivergence>>,
    /// The a of `alpha_divergence`.
    pub f_alpha_divergence_coef: Option<Said<f64>>,
    /// The weight of cross-entropy in DPO.
    pub sft_weight: Option<Said<f64>>,
    /// The weight of cross-entropy in CPO and `SimPO`.
    pub cpo_alpha: Option<Said<f64>>,
    /// `SimPO`'s margin of rewards.
    pub simpo_gamma: Option<Said<f64>>,
    /// `AlphaPO`'s exponent.
    pub alpha: Option<Said<f64>>,
    /// The weight of desirable rows in KTO.
    pub desirable_weight: Option<Said<f64>>,
    /// The weight of undesirable rows in KTO.
    pub undesirable_weight: Option<Said<f64>>,
    /// The reference: a word or a folder.
    pub reference: Option<Said<String>>,
    /// What a student learns from: a folder, a Hub id, or the word for the data.
    pub teacher: Option<Said<String>>,
    /// The quantization of a teacher's projections.
    pub teacher_quantization: Option<Said<Quantization>>,
    /// Whether a teacher's most likely tokens are computed once and kept.
    pub cache_teacher: Option<Said<bool>>,
    /// How many of them are kept.
    pub loss_top_k: Option<Said<usize>>,
    /// The divisor of logits in distillation, or of cosines.
    pub temperature: Option<Said<f64>>,
    /// Whether the divergence is multiplied by the square of the temperature.
    pub t_squared: Option<Said<bool>>,
    /// The share of cross-entropy in distillation.
    pub ce_alpha: Option<Said<f64>>,
    /// What becomes of a teacher's mass outside of its known tokens.
    pub missing_mass: Option<Said<MissingMass>>,
    /// How the rows of a text's tokens become its vector.
    pub pooling: Option<Said<Pooling>>,
    /// Whether positives look for their anchors too.
    pub symmetric: Option<Said<bool>>,
    /// Widths to which vectors are cut.
    pub matryoshka_dims: Option<Said<Vec<usize>>>,
    /// Weights of the losses of these widths.
    pub matryoshka_weights: Option<Said<Vec<f64>>>,
    /// The margin of pairs of a reward model.
    pub margin: Option<Said<MarginSource>>,
    /// The weight of squared sums of rewards.
    pub center_rewards_coefficient: Option<Said<f64>>,
    /// The problem of a classification.
    pub problem_type: Option<Said<ProblemType>>,
    /// The names of classes or labels, in order.
    pub labels: Option<Said<Vec<String>>>,
    /// A weight for each class.
    pub class_weights: Option<Said<Vec<f64>>>,
}

impl Objective {
    pub(super) fn take(section: &mut Section) -> Self {
        let weight = 0.0..=1e6;
        Self {
            kind: section.word("type", &["grpo"]),
            loss_type: section
                .shaped("loss_type", Shape::Words(all_loss_types()))
                .and_then(Value::text),
            beta: section.number("beta", weight.clone()),
            label_smoothing: section.number("label_smoothing", 0.0..0.5),
            neftune_noise_alpha: section.number("neftune_noise_alpha", 0.0..=1e3),
            discopop_tau: section.number("discopop_tau", ABOVE_ZERO),
            f_divergence_type: section.word("f_divergence_type", &[]),
            f_alpha_divergence_coef: section.number(
                "f_alpha_divergence_coef",
                (Bound::Excluded(0.0), Bound::Excluded(1.0)),
            ),
            sft_weight: section.number("sft_weight", weight.clone()),
            cpo_alpha: section.number("cpo_alpha", weight.clone()),
            simpo_gamma: section.number("simpo_gamma", weight.clone()),
            alpha: section.number("alpha", (Bound::Included(-10.0), Bound::Included(10.0))),
            desirable_weight: section.number("desirable_weight", weight.clone()),
            undesirable_weight: section.number("undesirable_weight", weight.clone()),
            reference: section.text("reference"),
            teacher: section.text("teacher"),
            teacher_quantization: section.word("teacher_quantization", &[]),
            cache_teacher: section.flag("cache_teacher"),
            loss_top_k: section.whole("loss_top_k", 1..=1 << 20),
            temperature: section.number("temperature", ABOVE_ZERO),
            t_squared: section.flag("t_squared"),
            ce_alpha: section.number("ce_alpha", 0.0..=1.0),
            missing_mass: section.word("missing_mass", &[]),
            pooling: section.word("pooling", &[]),
            symmetric: section.flag("symmetric"),
            matryoshka_dims: section
                .shaped("matryoshka_dims", Shape::filled_list(Shape::whole(&WIDTHS)))
                .and_then(|value| list(value, |value| value.whole(WIDTHS))),
            matryoshka_weights: section
                .shaped(
                    "matryoshka_weights",
                    Shape::filled_list(Shape::number(&ABOVE_ZERO)),
                )
                .and_then(|value| list(value, |value| value.number(ABOVE_ZERO))),
            margin: section.word("margin", &[]),
            center_rewards_coefficient: section.number("center_rewards_coefficient", weight),
            problem_type: section.word("problem_type", &[]),
            labels: section
                .shaped("labels", Shape::filled_list(Shape::Text))
                .and_then(names),
            class_weights: section
                .shaped(
                    "class_weights",
                    Shape::filled_list(Shape::number(&ABOVE_ZERO)),
                )
                .and_then(|value| list(value, |value| value.number(ABOVE_ZERO))),
        }
    }

    /// Returns the type; supervised fine-tuning by default.
    pub fn type_or_default(&self) -> ObjectiveType {
        self.kind
            .as_ref()
            .map_or(ObjectiveType::Sft, |said| said.value)
    }

    /// Returns the place of a key that only some types have.
    pub(super) fn place_of(&self, key: &str) -> Option<&Location> {
        fn place<T>(said: Option<&Said<T>>) -> Option<&Location> {
            said.map(|said| &said.place)
        }
        match key {
            "loss_type" => place(self.loss_type.as_ref()),
            "beta" => place(self.beta.as_ref()),
            "label_smoothing" => place(self.label_smoothing.as_ref()),
            "neftune_noise_alpha" => place(self.neftune_noise_alpha.as_ref()),
            "discopop_tau" => place(self.discopop_tau.as_ref()),
            "f_divergence_type" => place(self.f_divergence_type.as_ref()),
            "f_alpha_divergence_coef" => place(self.f_alpha_divergence_coef.as_ref()),
            "sft_weight" => place(self.sft_weight.as_ref()),
            "cpo_alpha" => place(self.cpo_alpha.as_ref()),
            "simpo_gamma" => place(self.simpo_gamma.as_ref()),
            "alpha" => place(self.alpha.as_ref()),
            "desirable_weight" => place(self.desirable_weight.as_ref()),
            "undesirable_weight" => place(self.undesirable_weight.as_ref()),
            "reference" => place(self.reference.as_ref()),
            "teacher" => place(self.teacher.as_ref()),
            "teacher_quantization" => place(self.teacher_quantization.as_ref()),
            "cache_teacher" => place(self.cache_teacher.as_ref()),
            "loss_top_k" => place(self.loss_top_k.as_ref()),
            "temperature" => place(self.temperature.as_ref()),
            "t_squared" => place(self.t_squared.as_ref()),
            "ce_alpha" => place(self.ce_alpha.as_ref()),
            "missing_mass" => place(self.missing_mass.as_ref()),
            "pooling" => place(self.pooling.as_ref()),
            "symmetric" => place(self.symmetric.as_ref()),
            "matryoshka_dims" => place(self.matryoshka_dims.as_ref()),
            "matryoshka_weights" => place(self.matryoshka_weights.as_ref()),
            "margin" => place(self.margin.as_ref()),
            "center_rewards_coefficient" => place(self.center_rewards_coefficient.as_ref()),
            "problem_type" => place(self.problem_type.as_ref()),
            "labels" => place(self.labels.as_ref()),
            "class_weights" => place(self.class_weights.as_ref()),
            _ => None,
        }
    }
}

/// Widths that a vector may have.
const WIDTHS: RangeInclusive<u64> = 1..=1 << 20;

/// Reads a list whose elements all have one form.
fn list<T>(value: Value, read: impl Fn(Value) -> Option<Said<T>>) -> Option<Said<Vec<T>>> {
    let place = value.node.place.clone();
    let all = value
        .list()?
        .into_iter()
        .map(|value| Some(read(value)?.value));
    Some(Said {
        value: all.collect::<Option<_>>()?,
        place,
    })
}

/// Returns the words of `loss_type` that a type of objective has.
pub(super) fn loss_types(of: ObjectiveType) -> Vec<&'static str> {
    fn words<T: Term>() -> Vec<&'static str> {
        T::WORDS.iter().map(|(word, _)| *word).collect()
    }
    match of {
        ObjectiveType::Sft => words::<SftLoss>(),
        ObjectiveType::Dpo => words::<DpoLoss>(),
        ObjectiveType::Cpo => words::<CpoLoss>(),
        ObjectiveType::Kto => words::<KtoLoss>(),
        ObjectiveType::Orpo
        | ObjectiveType::Simpo
        | ObjectiveType::Distill
        | ObjectiveType::Embedding
        | ObjectiveType::Reward
        | ObjectiveType::Classification => Vec::new(),
    }
}

/// Returns the words of `loss_type` of all types of objectives.
pub(super) fn all_loss_types() -> Vec<&'static str> {
    let mut all: Vec<&str> = Vec::new();
    for (_, kind) in ObjectiveType::WORDS {
        for word in loss_types(*kind) {
            if !all.contains(&word) {
                all.push(word);
            }
        }
    }
    all
}
