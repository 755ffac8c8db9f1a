//! What a plan's objective asks of rows, and the loss that it starts at.

use super::objective::Reference;
use super::resolve::Plan;
use super::rows::RunData;
use super::teacher::{Teacher, TeacherModel};
use crate::adapter::{LoraConfig, SavedLayer, ScoreConfig};
use crate::data::{Preferences, Scoring};
use crate::objective::Objective;
use crate::terms::{ObjectiveType, Pooling, RowForm};

impl Plan {
    /// Returns the objective.
    pub fn objective(&self) -> &Objective {
        &self.aim.objective
    }

    /// Returns the type of the objective.
    pub fn objective_type(&self) -> ObjectiveType {
        self.aim.kind
    }

    /// Returns the reference of the objective.
    pub fn reference(&self) -> &Reference {
        &self.aim.reference
    }

    /// Returns what a distillation learns from.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.aim.teacher.as_ref()
    }

    /// Returns the model that a distillation learns from.
    pub fn teacher_model(&self) -> Option<&TeacherModel> {
        match self.teacher()? {
            Teacher::Model(model) => Some(model),
            Teacher::Data => None,
        }
    }

    /// Returns how rows of preferences are read.
    pub(super) fn preferences(&self) -> Preferences {
        let of = &self.training;
        Preferences {
            reads_prompts: self.aim.objective.reads_prompts(),
            group: if self.aim.objective.reads_mismatched() {
                of.micro_batch_size * of.gradient_accumulation_steps
            } else {
                0
            },
            pooling: match &self.aim.objective {
                Objective::Contrastive(loss) => loss.pooling,
                _ => Pooling::Mean,
            },
            scoring: self.scoring(),
        }
    }

    /// Returns a note on rows with labels of which one kind is missing or far outweighs the other.
    /// Ethayarajh et al. 2024, arXiv:2402.01306, weigh them so that the weights of all desirable
    /// rows come to between 1 and 4/3 of those of all undesirable ones.
    pub(super) fn note_of_labels(&self, data: &RunData) -> Option<String> {
        let Objective::Kto(kto) = &self.aim.objective else {
            return None;
        };
        let training = &data.datasets.split.training;
        let is_desirable = |index: &&u32| {
            let form = data.datasets.corpus.row(**index as usize).form();
            form == RowForm::Rated { desirable: true }
        };
        let (all, desirable) = (training.len(), training.iter().filter(is_desirable).count());
        let undesirable = all - desirable;
        for (kind, count, other) in [
            ("desirable", desirable, "undesirable"),
            ("undesirable", undesirable, "desirable"),
        ] {
            if all > 0 && count == all {
                return Some(format!(
                    "all {all} training rows are {kind}: `kto` learns from the contrast with \
                    {other} ones; add rows of the other label"
                ));
            }
        }
        let ratio =
            kto.desirable_weight * desirable as f64 / (kto.undesirable_weight * undesirable as f64);
        let (key, weight) = if ratio > 1.0 {
            ("undesirable_weight", kto.undesirable_weight * ratio)
        } else {
            ("desirable_weight", kto.desirable_weight / ratio)
        };
        let is_usual = (1.0..=4.0 / 3.0).contains(&ratio) || !weight.is_finite();
        (!is_usual).then(|| {
            format!(
                "{desirable} desirable and {undesirable} undesirable training rows, with weights \
                {ratio:.2} to 1; from 1 to 1.33 is usual, such as by `objective.{key}: {weight:.2}`"
            )
        })
    }

    /// Returns the score head that is trained, if there is one.
    pub fn score_head(&self) -> Option<&ScoreConfig> {
        match &self.trains {
            super::Trains::Adapter(config) => config.score.as_ref(),
            super::Trains::Everything => None,
        }
    }

    /// Returns notes on where a fresh score head starts: what of it the base has, and what is
    /// drawn.
    pub(super) fn notes_of_scores(&self) -> Vec<String> {
        let Some(score) = self.score_head().filter(|_| self.init_from.is_none()) else {
            return Vec::new();
        };
        let stored = self.model.stored_scores().unwrap_or_default();
        let (module, expected) = (&score.module, [score.labels, self.model.spec.width]);
        let of_map = stored.get(&format!("{module}.weight")).map(|shape| {
            if shape[..] == expected {
                format!(
                    "the base has `{module}` for as many scores: training starts from it, in the \
                    order of its classes"
                )
            } else {
                format!(
                    "the base has `{module}.weight` {shape:?}, the objective needs {expected:?}: \
                    it is left out, and a new one is drawn"
                )
            }
        });
        let has_layer = |layer: &SavedLayer| {
            let all = &layer.tensors;
            all.iter()
                .all(|(name, shape)| stored.get(name) == Some(shape))
        };
        let of_layer = score.layer.as_ref().map(|layer| {
            let names: Vec<String> = layer
                .tensors
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            let names = names.join(", ");
            if has_layer(layer) {
                format!("scores go through {names}: training starts from the base's")
            } else {
                format!(
                    "scores go through {names}, which the base does not have: the layer is drawn, \
                    trained and saved with the adapter"
                )
            }
        });
        of_map.into_iter().chain(of_layer).collect()
    }

    /// Returns how rows are scored, where a score head is read.
    pub fn scoring(&self) -> Option<Scoring> {
        self.aim.objective.labels()?;
        let padding = self.encoder.tokenizer.pad_id();
        Some(Scoring {
            padding: padding.or(self.model.spec.padding),
            pooling: self.model.spec.score_pooling(),
        })
    }

    /// Returns the loss of the first step where the recipe decides it: training starts at the
    /// reference, and nothing else counts.
    pub(super) fn first_loss(&self) -> Option<f64> {
        let starts_at_base = |config: &LoraConfig| {
            self.init_from.is_none() && config.init_lora_weights && !config.is_principal
        };
        let is_same = match (&self.aim.reference, &self.trains) {
            (Reference::Init | Reference::Base, super::Trains::Everything) => true,
            (Reference::Init, super::Trains::Adapter(config)) => {
                config.dropout == 0.0 || starts_at_base(config)
            }
            (Reference::Base, super::Trains::Adapter(config)) => starts_at_base(config),
            (Reference::Folder(_) | Reference::None, _) => false,
        };
        let has_balance = self.model.spec.router_aux_loss_coef > 0.0;
        self.aim
            .objective
            .loss_at_reference()
            .filter(|_| is_same && !has_balance)
    }
}
