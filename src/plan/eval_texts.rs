//! Sets of texts that an embedder is scored on.

use std::collections::BTreeMap;

use super::eval_sets::Sheet;
use crate::data::{Preferences, Rows};
use crate::model::Decoder;
use crate::objective::ranking;
use crate::report::{Event, Reporter};
use crate::terms::Pooling;
use crate::train::vectors_of;

impl Sheet {
    /// Returns how well a model's vectors find what belongs to an anchor, among the texts of all
    /// sets. `what` names the model for the user.
    pub fn rank(
        &self,
        decoder: &Decoder,
        pooling: Pooling,
        what: &str,
        report: Reporter,
    ) -> BTreeMap<&'static str, f64> {
        let rows = Rows::new(&self.data.corpus, self.data.split.validation.clone());
        let rows = rows.reading(Preferences {
            pooling,
            ..Preferences::default()
        });
        let (mut vectors, mut units) = (Vec::new(), Vec::new());
        for batch in rows.batches(self.micro_batch_size, self.packing) {
            vectors.extend(vectors_of(decoder, &batch));
            units.extend(batch.units);
            report(Event::Progress {
                what: format!("scoring {what}"),
                done: units.len() as u64,
                total: self.rows() as u64,
            });
        }
        ranking(&vectors, &units)
    }
}
