//! The largest micro-batches of a run. The order of its rows follows from the seed alone, so they
//! are known before the first step.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::memory::MicroBatchRows;
use super::rows::RunData;
use crate::data::{self, Packing, Visit};
use crate::train::{self, StepSampler};

/// The most rows that are looked at. A run that trains more is assumed to have its longest rows
/// together with those with most labels.
const MOST_LOOKED_AT: u64 = 1 << 20;

impl RunData {
    /// Returns a shape with as many tokens as the trained micro-batch with most tokens, and as many
    /// labels as the one with most labels.
    pub(super) fn largest_trained(&self, config: &train::TrainConfig) -> Option<MicroBatchRows> {
        let (rows, steps) = (self.training(), config.schedule.total_steps);
        let mut course = StepSampler::new(config, &rows);
        if (steps as f64 / course.steps_of(0) as f64 * rows.per_epoch() as f64)
            > MOST_LOOKED_AT as f64
        {
            return bound(&rows, config.micro_batch_size, config.packing);
        }
        let (mut largest, mut epoch, mut place) = (None, 0, 0);
        for _ in 0..steps {
            let of_step = course.after(epoch, place);
            (epoch, place) = (of_step.epoch, of_step.places.end as u64);
            let batches = of_step.micro_batches.iter().map(|draws| {
                let places: Vec<u32> = draws.iter().map(|draw| draw.place).collect();
                counted(&rows, &places, config.micro_batch_size, config.packing)
            });
            largest = largest.into_iter().chain(batches).reduce(both);
        }
        largest
    }

    /// Returns the same for batches that are scored, which come in order.
    pub(super) fn largest_scored(&self, size: usize, packing: Packing) -> Option<MicroBatchRows> {
        let of = |rows: &data::Rows| {
            let packs = rows.packs(packing, Visit::InOrder);
            let ends = (0..packs.len())
                .step_by(size)
                .map(|first| first..packs.len().min(first + size));
            ends.map(|range| counted(rows, packs.rows(range), size, packing))
                .reduce(both)
        };
        let data = self.rows();
        // A reference, and completions of other rows, are scored for the rows that train too.
        let training = Some(&data.training).filter(|_| self.scores_training());
        data.validation
            .iter()
            .chain(training)
            .filter_map(of)
            .reduce(both)
    }
}

/// Returns the shape of a micro-batch of the rows at these places.
fn counted(rows: &data::Rows, places: &[u32], size: usize, packing: Packing) -> MicroBatchRows {
    let (mut length, mut tokens, mut labeled) = (0, 0, 0);
    for place in places {
        let (of_row, labels) = rows.counts(*place);
        (tokens, labeled) = (tokens + of_row, labeled + labels);
        length = length.max(rows.longest(*place));
    }
    // Rows that share a pack become shorter or fewer together.
    let length = if let Packing::BestFit { tokens: room } = packing {
        room.min(tokens)
    } else {
        length
    };
    MicroBatchRows {
        count: places.len().min(size),
        sequences: rows.sequences(),
        length,
        tokens,
        labeled,
    }
}

/// Returns the element-wise maximum of two shapes.
fn both(one: MicroBatchRows, other: MicroBatchRows) -> MicroBatchRows {
    MicroBatchRows {
        count: one.count.max(other.count),
        sequences: one.sequences.max(other.sequences),
        length: one.length.max(other.length),
        tokens: one.tokens.max(other.tokens),
        labeled: one.labeled.max(other.labeled),
    }
}

/// Returns an upper bound for any order of rows: the longest rows together with the rows with most
/// labels, or full packs in which every token is a label.
fn bound(rows: &data::Rows, size: usize, packing: Packing) -> Option<MicroBatchRows> {
    if let Packing::BestFit { tokens: room } = packing {
        return Some(MicroBatchRows {
            count: size,
            sequences: 1,
            length: room,
            tokens: size * room,
            labeled: size * room,
        });
    }
    let places = 0..u32::try_from(rows.len()).unwrap_or(u32::MAX);
    // The `size` largest of each.
    let (mut lengths, mut labeled) = (BinaryHeap::new(), BinaryHeap::new());
    for (length, labels) in places.map(|place| rows.counts(place)) {
        for (largest, count) in [(&mut lengths, length), (&mut labeled, labels)] {
            largest.push(Reverse(count));
            if largest.len() > size {
                largest.pop();
            }
        }
    }
    let most = |largest: &BinaryHeap<Reverse<usize>>| largest.iter().map(|count| count.0).max();
    let sum = |largest: &BinaryHeap<Reverse<usize>>| largest.iter().map(|count| count.0).sum();
    let (length, labels) = (most(&lengths)?, most(&labeled)?);
    if rows.mixture().is_some() {
        // A row may stand in a batch several times.
        return Some(MicroBatchRows {
            count: size,
            sequences: rows.sequences(),
            length: length.div_ceil(rows.sequences()),
            tokens: size * length,
            labeled: size * labels,
        });
    }
    Some(MicroBatchRows {
        count: lengths.len(),
        sequences: rows.sequences(),
        length: length.div_ceil(rows.sequences()),
        tokens: sum(&lengths),
        labeled: sum(&labeled),
    })
}
