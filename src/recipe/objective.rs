//! The section `objective`: the loss that training minimizes.

use std::ops::Bound;

use super::adapter::names;
use super::place::{Location, Said};
use super::section::{ABOVE_ZERO, Section, Value};
use super::shape::Shape;
use crate::terms::{CpoLoss, DpoLoss, KtoLoss, MarginSource, ObjectiveType, ProblemType, Term};

/// The objective and its own keys, under TRL's names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objective {
    /// The objective.
    pub kind: Option<Said<ObjectiveType>>,
    /// The variant of the loss.
    pub loss_type: Option<Said<String>>,
    /// The factor of log-ratios or log-probabilities.
    pub beta: Option<Said<f64>>,
    /// The assumed share of pairs whose labels are swapped.
    pub label_smoothing: Option<Said<f64>>,
    /// The temperature of DPO's `discopop`.
    pub discopop_tau: Option<Said<f64>>,
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
            kind: section.word("type", &["embedding", "distill"]),
            loss_type: section
                .shaped("loss_type", Shape::Words(all_loss_types()))
                .and_then(Value::text),
            beta: section.number("beta", ABOVE_ZERO),
            label_smoothing: section.number("label_smoothing", 0.0..0.5),
            discopop_tau: section.number("discopop_tau", ABOVE_ZERO),
            sft_weight: section.number("sft_weight", weight.clone()),
            cpo_alpha: section.number("cpo_alpha", weight.clone()),
            simpo_gamma: section.number("simpo_gamma", weight.clone()),
            alpha: section.number("alpha", (Bound::Included(-10.0), Bound::Included(10.0))),
            desirable_weight: section.number("desirable_weight", weight.clone()),
            undesirable_weight: section.number("undesirable_weight", weight.clone()),
            reference: section.text("reference"),
            margin: section.word("margin", &[]),
            center_rewards_coefficient: section.number("center_rewards_coefficient", weight),
            problem_type: section.word("problem_type", &[]),
            labels: section
                .shaped("labels", Shape::filled_list(Shape::Text))
                .and_then(names),
            class_weights: section
                .shaped("class_weights", Shape::filled_list(weight_shape()))
                .and_then(weights),
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
            "discopop_tau" => place(self.discopop_tau.as_ref()),
            "sft_weight" => place(self.sft_weight.as_ref()),
            "cpo_alpha" => place(self.cpo_alpha.as_ref()),
            "simpo_gamma" => place(self.simpo_gamma.as_ref()),
            "alpha" => place(self.alpha.as_ref()),
            "desirable_weight" => place(self.desirable_weight.as_ref()),
            "undesirable_weight" => place(self.undesirable_weight.as_ref()),
            "reference" => place(self.reference.as_ref()),
            "margin" => place(self.margin.as_ref()),
            "center_rewards_coefficient" => place(self.center_rewards_coefficient.as_ref()),
            "problem_type" => place(self.problem_type.as_ref()),
            "labels" => place(self.labels.as_ref()),
            "class_weights" => place(self.class_weights.as_ref()),
            _ => None,
        }
    }
}

fn weight_shape() -> Shape {
    Shape::number(&ABOVE_ZERO)
}

fn weights(value: Value) -> Option<Said<Vec<f64>>> {
    let place = value.node.place.clone();
    let weights = value.list()?.into_iter();
    let weights = weights.filter_map(|weight| Some(weight.number(ABOVE_ZERO)?.value));
    Some(Said {
        value: weights.collect(),
        place,
    })
}

/// Returns the words of `loss_type` that a type of objective has.
pub(super) fn loss_types(of: ObjectiveType) -> Vec<&'static str> {
    fn words<T: Term>() -> Vec<&'static str> {
        T::WORDS.iter().map(|(word, _)| *word).collect()
    }
    match of {
        ObjectiveType::Dpo => words::<DpoLoss>(),
        ObjectiveType::Cpo => words::<CpoLoss>(),
        ObjectiveType::Kto => words::<KtoLoss>(),
        ObjectiveType::Sft
        | ObjectiveType::Orpo
        | ObjectiveType::Simpo
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
