//! What a plan's objective asks of rows, and the loss that it starts at.

use super::objective::Reference;
use super::resolve::Plan;
use crate::adapter::{LoraConfig, ScoreConfig};
use crate::data::{Preferences, Scoring};
use crate::objective::Objective;
use crate::terms::ObjectiveType;

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
            scoring: self.scoring(),
        }
    }

    /// Returns the score head that is trained, if there is one.
    pub fn score_head(&self) -> Option<&ScoreConfig> {
        match &self.trains {
            super::Trains::Adapter(config) => config.score.as_ref(),
            super::Trains::Everything => None,
        }
    }

    /// Returns how rows are scored, where a score head is read.
    pub fn scoring(&self) -> Option<Scoring> {
        self.aim.objective.labels()?;
        let padding = self.encoder.tokenizer.pad_id();
        Some(Scoring {
            padding: padding.or(self.model.spec.padding),
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
