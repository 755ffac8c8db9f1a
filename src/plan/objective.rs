//! The section `objective`, filled: the loss to minimize, and the reference that it compares with.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::base::Base;
use super::embedding::contrastive;
use super::filled::Filled;
use super::teacher::{Teacher, teacher};
use crate::data::LabelReading;
use crate::fault::Fault;
use crate::objective::{
    Classify, Cpo, Distill, Dpo, Kto, NextToken, Objective, Orpo, Reward, Simpo,
};
use crate::recipe::{self, Recipe, Said};
use crate::terms::{
    CpoLoss, DpoLoss, FDivergence, KtoLoss, MissingMass, ObjectiveType, ProblemType, SftLoss, Term,
};
use crate::train::RunFolder;

/// The model whose log-probabilities a loss compares with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The model as training starts.
    Init,
    /// The base without an adapter.
    Base,
    /// An adapter on the base, or a model with the same vocabulary.
    Folder(PathBuf),
    /// None: its log-probabilities count as 0.
    None,
}

/// The objective of a run.
#[derive(Debug)]
pub(super) struct Aim {
    pub kind: ObjectiveType,
    pub objective: Objective,
    pub reference: Reference,
    /// The factor of the loss of each dataset's rows; empty if none has one.
    pub loss_weights: Vec<f32>,
    /// What a distillation learns from.
    pub teacher: Option<Teacher>,
}

/// Fills the keys that the type of objective has.
pub(super) fn objective(
    recipe: &Recipe,
    base: Option<&Base>,
    sequence_len: usize,
    labels: Option<&LabelReading>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Aim {
    let said = &recipe.objective;
    let kind = said.type_or_default();
    if kind == ObjectiveType::Sft {
        filled.optional("objective.type", said.kind.as_ref(), |kind| {
            json!(kind.word())
        });
        return Aim {
            kind,
            objective: Objective::NextToken(sft(said, filled)),
            reference: Reference::None,
            loss_weights: loss_weights(&recipe.datasets, filled),
            teacher: None,
        };
    }
    filled.word("objective.type", said.kind.as_ref(), kind);
    let objective = match kind {
        ObjectiveType::Dpo => Objective::Dpo(dpo(said, filled)),
        ObjectiveType::Cpo => {
            let loss_type = loss_type(said, CpoLoss::Sigmoid, filled);
            Objective::Cpo(Cpo {
                loss_type,
                beta: number("beta", said.beta.as_ref(), 0.1, filled),
                label_smoothing: if loss_type == CpoLoss::Sigmoid {
                    smoothing(said, filled)
                } else {
                    0.0
                },
                cpo_alpha: number("cpo_alpha", said.cpo_alpha.as_ref(), 1.0, filled),
            })
        }
        ObjectiveType::Simpo => Objective::Simpo(Simpo {
            beta: number("beta", said.beta.as_ref(), 2.0, filled),
            gamma: number("simpo_gamma", said.simpo_gamma.as_ref(), 0.5, filled),
            label_smoothing: smoothing(said, filled),
            cpo_alpha: number("cpo_alpha", said.cpo_alpha.as_ref(), 0.0, filled),
            alpha: number("alpha", said.alpha.as_ref(), 0.0, filled),
        }),
        ObjectiveType::Orpo => Objective::Orpo(Orpo {
            beta: number("beta", said.beta.as_ref(), 0.1, filled),
        }),
        ObjectiveType::Kto => Objective::Kto(Kto {
            loss_type: loss_type(said, KtoLoss::Kto, filled),
            beta: number("beta", said.beta.as_ref(), 0.1, filled),
            desirable_weight: number(
                "desirable_weight",
                said.desirable_weight.as_ref(),
                1.0,
                filled,
            ),
            undesirable_weight: number(
                "undesirable_weight",
                said.undesirable_weight.as_ref(),
                1.0,
                filled,
            ),
        }),
        ObjectiveType::Sft => Objective::NextToken(NextToken::PLAIN),
        ObjectiveType::Distill => Objective::Distill(distill(said, filled)),
        ObjectiveType::Embedding => Objective::Contrastive(contrastive(said, filled)),
        ObjectiveType::Reward => Objective::Reward(Reward {
            center_rewards_coefficient: number(
                "center_rewards_coefficient",
                said.center_rewards_coefficient.as_ref(),
                0.0,
                filled,
            ),
        }),
        ObjectiveType::Classification => {
            Objective::Classify(classify(said, labels, filled, faults))
        }
    };
    let reference = if objective.has_reference() {
        reference(said.reference.as_ref(), filled, faults)
    } else {
        Reference::None
    };
    let teacher = if objective.distill().is_some() {
        teacher(said, base, sequence_len, filled, faults)
    } else {
        None
    };
    Aim {
        kind,
        objective,
        reference,
        loss_weights: Vec::new(),
        teacher,
    }
}

/// Fills the keys of supervised fine-tuning that are said: a recipe without them has cross-entropy
/// and nothing else.
fn sft(said: &recipe::Objective, filled: &mut Filled) -> NextToken {
    let mut number = |key: &str, said: Option<&Said<f64>>| {
        let key = format!("objective.{key}");
        filled.optional(&key, said, |number| json!(number))
    };
    let (label_smoothing, neftune_noise_alpha) = (
        number("label_smoothing", said.label_smoothing.as_ref()),
        number("neftune_noise_alpha", said.neftune_noise_alpha.as_ref()),
    );
    let loss_type = match &said.loss_type {
        Some(_) => loss_type(said, SftLoss::Nll, filled),
        None => SftLoss::Nll,
    };
    NextToken {
        loss_type,
        label_smoothing: label_smoothing.unwrap_or(0.0),
        neftune_noise_alpha: neftune_noise_alpha.unwrap_or(0.0),
    }
}

/// Fills the factors of losses that datasets have.
fn loss_weights(datasets: &[recipe::Dataset], filled: &mut Filled) -> Vec<f32> {
    let weights = datasets.iter().enumerate().map(|(index, dataset)| {
        let key = format!("datasets.{index}.loss_weight");
        filled.optional(&key, dataset.loss_weight.as_ref(), |weight| json!(weight))
    });
    let weights: Vec<Option<f64>> = weights.collect();
    if weights.iter().all(Option::is_none) {
        return Vec::new();
    }
    let weights = weights.into_iter();
    weights.map(|weight| weight.unwrap_or(1.0) as f32).collect()
}

fn dpo(said: &recipe::Objective, filled: &mut Filled) -> Dpo {
    let loss_type = loss_type(said, DpoLoss::Sigmoid, filled);
    let (default_tau, default_alpha) = (0.05, 0.5);
    let divergence = match &said.f_divergence_type {
        Some(word) => filled.word(
            "objective.f_divergence_type",
            Some(word),
            FDivergence::ReverseKl,
        ),
        None => FDivergence::ReverseKl,
    };
    Dpo {
        loss_type,
        beta: number("beta", said.beta.as_ref(), 0.1, filled),
        label_smoothing: if loss_type.is_smoothed() {
            smoothing(said, filled)
        } else {
            0.0
        },
        divergence,
        alpha: if divergence == FDivergence::AlphaDivergence {
            let said = said.f_alpha_divergence_coef.as_ref();
            number("f_alpha_divergence_coef", said, default_alpha, filled)
        } else {
            default_alpha
        },
        discopop_tau: if loss_type == DpoLoss::Discopop {
            number(
                "discopop_tau",
                said.discopop_tau.as_ref(),
                default_tau,
                filled,
            )
        } else {
            default_tau
        },
        sft_weight: number("sft_weight", said.sft_weight.as_ref(), 0.0, filled),
    }
}

fn distill(said: &recipe::Objective, filled: &mut Filled) -> Distill {
    Distill {
        beta: number("beta", said.beta.as_ref(), 0.0, filled),
        temperature: number("temperature", said.temperature.as_ref(), 1.0, filled),
        t_squared: filled.plain("objective.t_squared", said.t_squared.as_ref(), false),
        ce_alpha: number("ce_alpha", said.ce_alpha.as_ref(), 0.0, filled),
        missing_mass: filled.word(
            "objective.missing_mass",
            said.missing_mass.as_ref(),
            MissingMass::Tail,
        ),
    }
}

/// Fills a classification. Labels that cannot be read have a fault already.
fn classify(
    said: &recipe::Objective,
    labels: Option<&LabelReading>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Classify {
    let weights = said.class_weights.as_ref();
    let class_weights = filled
        .optional("objective.class_weights", weights, |weights| json!(weights))
        .unwrap_or_default();
    let Some(LabelReading::Classes(classes)) = labels else {
        return Classify {
            problem: ProblemType::SingleLabel,
            labels: 1,
            class_weights,
        };
    };
    if let Some(said) = weights {
        let found = class_weights.len();
        let problem = classes.problem;
        let fault = match problem {
            ProblemType::Regression => Some(format!(
                "objective.class_weights does not go with `problem_type: {problem}`, which has no \
                classes"
            )),
            _ if found != classes.labels => Some(format!(
                "objective.class_weights has {found} weights, expected one for each of {} classes",
                classes.labels
            )),
            _ => None,
        };
        let fault = fault.map(|message| Fault::new(message).at(&said.place));
        faults.extend(fault.map(|fault| {
            fault.hint("give a weight for each of `objective.labels`, or remove `class_weights`")
        }));
    }
    Classify {
        problem: classes.problem,
        labels: classes.labels,
        class_weights,
    }
}

fn number(key: &str, said: Option<&Said<f64>>, default: f64, filled: &mut Filled) -> f64 {
    filled.plain(&format!("objective.{key}"), said, default)
}

fn smoothing(said: &recipe::Objective, filled: &mut Filled) -> f64 {
    number(
        "label_smoothing",
        said.label_smoothing.as_ref(),
        0.0,
        filled,
    )
}

/// Fills the loss. A word of another type has a fault already.
fn loss_type<T: Term>(said: &recipe::Objective, default: T, filled: &mut Filled) -> T {
    let said = said.loss_type.as_ref().and_then(|said| {
        Some(Said {
            value: T::parse(&said.value)?,
            place: said.place.clone(),
        })
    });
    filled.word("objective.loss_type", said.as_ref(), default)
}

fn reference(
    said: Option<&Said<String>>,
    filled: &mut Filled,
    faults: &mut Vec<Fault>,
) -> Reference {
    let word = filled.plain("objective.reference", said, "init".to_owned());
    match word.as_str() {
        "init" => Reference::Init,
        "base" => Reference::Base,
        "none" => Reference::None,
        path => {
            let folder = Path::new(path);
            let is_model = |folder: &Path| folder.join("config.json").is_file();
            let is_found = RunFolder::adapter_in(folder).is_some()
                || is_model(folder)
                || is_model(&folder.join(RunFolder::MODEL));
            if !is_found {
                let fault = Fault::new(format!(
                    "objective.reference: `{path}` is neither `init`, `base`, `none`, nor the \
                    folder of an adapter or a model"
                ))
                .hint("name a folder with `adapter_config.json` or `config.json`");
                faults.push(match said {
                    Some(said) => fault.at(&said.place),
                    None => fault,
                });
            }
            Reference::Folder(folder.to_owned())
        }
    }
}
