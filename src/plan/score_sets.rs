//! Sets of rows that a score head is scored on.

use std::collections::BTreeMap;

use super::eval_sets::Sheet;
use crate::model::Decoder;
use crate::objective::{ClassScores, ClassTable, Figures, Objective, StepStatistics};
use crate::report::{Event, Reporter};
use crate::train::readings_of;

/// How well a score head does on a set of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeadScore {
    /// Mean loss; `None` without rows.
    pub loss: Option<f64>,
    /// Figures of the objective by name, such as `accuracy`.
    pub figures: BTreeMap<String, f64>,
    /// How often each class was taken for each.
    pub confusion: Option<ClassTable>,
}

/// Sums over the rows of a set.
struct Sums {
    loss: f64,
    weight: f64,
    figures: Figures,
    classes: Option<ClassScores>,
}

impl Sums {
    fn of(objective: &Objective) -> Self {
        Self {
            loss: 0.0,
            weight: 0.0,
            figures: Figures::default(),
            classes: ClassScores::of(objective),
        }
    }

    fn score(self) -> HeadScore {
        let mut figures = self.figures.means();
        let of_classes = self.classes.iter().flat_map(ClassScores::figures);
        figures.extend(of_classes.map(|(name, value)| (name.to_owned(), value)));
        HeadScore {
            loss: (self.weight > 0.0).then(|| self.loss / self.weight),
            figures,
            confusion: self.classes.and_then(|classes| classes.table()),
        }
    }
}

impl Sheet {
    /// Scores a model with a score head on each set. `what` names the model for the user.
    pub fn score_head(
        &self,
        decoder: &Decoder,
        objective: &Objective,
        what: &str,
        report: Reporter,
    ) -> Vec<HeadScore> {
        let mut sums: Vec<Sums> = self.sets.iter().map(|_| Sums::of(objective)).collect();
        let (rows, mut done) = (self.validation(), 0);
        for batch in self.batches(&rows) {
            let readings = readings_of(decoder, &batch, self.head_chunk_rows());
            for unit in &batch.units {
                let own = std::slice::from_ref(unit);
                let judged = objective.judge(&readings, own, &StepStatistics::default());
                let sums = &mut sums[self.set_of(batch.row_of(unit.targets.start))];
                sums.loss += judged.loss_sum;
                sums.weight += judged.weight;
                let figures = std::mem::take(&mut sums.figures);
                sums.figures = figures.and(judged.figures);
                if let Some(classes) = &mut sums.classes {
                    classes.add(&readings, own);
                }
            }
            done += batch.units.len() as u64;
            report(Event::Progress {
                what: format!("scoring {what}"),
                done,
                total: self.rows() as u64,
            });
        }
        sums.into_iter().map(Sums::score).collect()
    }
}
