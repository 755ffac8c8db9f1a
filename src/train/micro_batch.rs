//! Loss and gradients of one micro-batch: forward through the network, readout of its targets,
//! objective, and backward.

use std::ops::{Add, Range};
use std::sync::Arc;

use burn::tensor::Tensor;

use super::balance::Balance;
use super::gradients::Gradients;
use super::noise;
use super::observe::Observer;
use super::walk::{Memory, Walk, frame, ids};
use crate::data::Batch;
use crate::keyed_random::mix;
use crate::model::Decoder;
use crate::nn::head::{HeadGradients, HeadPass, TeacherRows};
use crate::nn::readout::{Readout, ReadoutGradients};
use crate::objective::{Distill, Figures, Judged, NextToken, Objective, StepStatistics};
use crate::ops;
use crate::terms::{Readings, Slopes, TopTokens, Unit, UnitKind};

/// Settings for computing a micro-batch. Except for dropout they change cost and memory, never the
/// result beyond rounding.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    /// The activations that are kept between forward and backward.
    pub memory: Memory,
    /// Number of rows of logits that exist at a time.
    pub head_chunk_rows: usize,
    /// Dropout probability of an adapter's input features.
    pub dropout: f64,
}

/// The most logits that exist at a time.
const LOGITS: usize = 1 << 24;

/// Returns the number of rows of logits that exist at a time for a vocabulary.
pub fn head_chunk_rows(vocabulary: usize) -> usize {
    (LOGITS / vocabulary).clamp(16, 4096)
}

/// What a micro-batch is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Goal<'a> {
    /// The objective.
    pub objective: &'a Objective,
    /// Numbers of the whole step.
    pub step: &'a StepStatistics,
    /// The model that the objective learns from, where rows have no tokens of one.
    pub teacher: Option<&'a Decoder>,
}

impl<'a> Goal<'a> {
    /// Makes a goal without a teacher.
    pub fn of(objective: &'a Objective, step: &'a StepStatistics) -> Self {
        Self {
            objective,
            step,
            teacher: None,
        }
    }

    /// Returns the loss of a batch with these readings.
    pub(super) fn judge(self, readings: &Readings, batch: &Batch) -> Judged {
        self.objective.judge(readings, &batch.units, self.step)
    }

    /// Returns what the targets of a batch are compared with, where the objective has a teacher.
    fn teaching<'b>(self, batch: &'b Batch) -> Option<(TeacherRows<'b>, &'b Distill)>
    where
        'a: 'b,
    {
        let of = self.objective.distill()?;
        let rows = match (&batch.top, self.teacher) {
            (Some(top), _) => TeacherRows::Top(top),
            (None, Some(teacher)) => {
                TeacherRows::Model(&teacher.head, Box::new(hidden_of(teacher, batch)))
            }
            (None, None) => return None,
        };
        Some((rows, of))
    }
}

/// The loss of a micro-batch.
#[derive(Debug, Clone, Default)]
pub struct Loss {
    /// Sum of losses, nats: of -log p over trained tokens.
    pub sum: f64,
    /// The divisor of the sum, to be added up over all micro-batches of a step.
    pub weight: f64,
    /// Trained tokens.
    pub trained_tokens: u64,
    /// Figures of the objective beside the loss.
    pub figures: Figures,
}

impl Add for Loss {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            weight: self.weight + other.weight,
            trained_tokens: self.trained_tokens + other.trained_tokens,
            figures: self.figures.and(other.figures),
        }
    }
}

/// Adds a micro-batch's gradients to `gradients` and returns its loss. A loss that is not finite
/// adds nothing.
///
/// `stream` is the seed and epoch of the dropout masks.
pub fn forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
) -> Loss {
    let step = StepStatistics::default();
    let goal = Goal::of(&Objective::NextToken(NextToken::PLAIN), &step);
    judged_backward(decoder, batch, goal, config, stream, gradients)
}

/// Does the same as [`forward_backward`] for any objective.
pub fn judged_backward(
    decoder: &Decoder,
    batch: &Batch,
    goal: Goal,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
) -> Loss {
    observed(decoder, batch, goal, config, stream, gradients, &mut ())
}

/// Does the same as [`judged_backward`] with an observer.
pub(super) fn observed(
    decoder: &Decoder,
    batch: &Batch,
    goal: Goal,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
    observer: &mut impl Observer,
) -> Loss {
    if batch.targets.is_empty() {
        gradients.push(None);
        return Loss::default();
    }
    let keys = || token_keys(batch, stream);
    let (dropout, alpha) = (config.dropout, goal.objective.noise_alpha());
    let dropout = (dropout > 0.0).then(|| (dropout, keys()));
    let noise = (alpha > 0.0).then(|| noise::drawn(batch, &keys(), decoder.spec.width, alpha));
    let drawn = Drawn { dropout, noise };
    walked(decoder, batch, goal, config, drawn, gradients, observer)
}

/// Does the same as [`judged_backward`] with this noise on the embeddings, [tokens, width], in
/// place of drawn noise and dropout: that of another program can be compared.
pub fn noised_backward(
    decoder: &Decoder,
    batch: &Batch,
    goal: Goal,
    config: StepConfig,
    noise: Vec<f32>,
    gradients: &mut Gradients,
) -> Loss {
    let drawn = Drawn {
        dropout: None,
        noise: Some(noise),
    };
    walked(decoder, batch, goal, config, drawn, gradients, &mut ())
}

/// What is random in a micro-batch.
struct Drawn {
    /// Dropout probability and one key per token.
    dropout: Option<(f64, Arc<[u64]>)>,
    /// Noise on embeddings, [tokens, width].
    noise: Option<Vec<f32>>,
}

/// Runs a batch that has targets forward and backward.
fn walked(
    decoder: &Decoder,
    batch: &Batch,
    goal: Goal,
    config: StepConfig,
    drawn: Drawn,
    gradients: &mut Gradients,
    observer: &mut impl Observer,
) -> Loss {
    let Drawn { dropout, noise } = drawn;
    let (walk, hidden) = Walk::forward(decoder, batch, dropout, noise, config.memory, observer);
    let shape = hidden.shape(); // [1, labeled, width]

    let mask = walk.head_mask();
    let pass = HeadPass {
        chunk_rows: config.head_chunk_rows,
        scale: gradients.loss_scale(),
        mask: mask.as_ref(),
        smoothed_share: goal.objective.smoothed_share(),
    };
    let (readings, read) = read(decoder, hidden.squeeze_dim(0), batch, goal, pass);

    let judged = goal.judge(&readings, batch);
    // What is judged is divided behind the last micro-batch, so that what experts add counts once a
    // token.
    let balance = walk
        .balance()
        .map(|balance| balance.clone().scaled(judged.weight));
    let of_experts = balance.as_ref().map_or(0.0, Balance::loss);
    let loss = Loss {
        sum: judged.loss_sum + of_experts,
        weight: judged.weight,
        trained_tokens: batch.trained_tokens(),
        figures: judged.figures,
    };
    if !loss.sum.is_finite() {
        walk.abandon();
        gradients.push(None);
        return loss;
    }

    let of_readout = match read {
        Read::Gradients(gradients) => gradients,
        Read::AtSlopeOne(gradients) => ReadoutGradients::Tokens(gradients.at(&judged.slopes)),
        Read::Hidden(hidden) => {
            decoder
                .readout(&batch.pooled)
                .gradients(&hidden, &batch.targets, &judged.slopes, pass)
        }
    };
    let of_load = balance.map(|balance| balance.gradient(gradients.loss_scale()));
    let mut sum = gradients.zeros(decoder);
    let of_hidden = sum.add_readout(decoder, of_readout, observer);
    walk.backward(
        of_hidden.reshape(shape),
        of_load.as_deref(),
        &mut sum,
        observer,
    );
    gradients.push(Some(sum));
    loss
}

/// The result of reading, for the backward.
enum Read {
    /// Gradients, where slopes are known ahead.
    Gradients(ReadoutGradients),
    /// Gradients at slope 1, where nothing of the vocabulary's head trains: they are linear in the
    /// slopes.
    AtSlopeOne(HeadGradients),
    /// Hidden rows [labeled, width], which are read once more.
    Hidden(Tensor<2>),
}

/// Reads the targets of a batch. Where slopes are known ahead, or gradients are linear in them, the
/// same pass gives gradients.
fn read(
    decoder: &Decoder,
    hidden: Tensor<2>,
    batch: &Batch,
    goal: Goal,
    pass: HeadPass,
) -> (Readings, Read) {
    if let Some((teacher, of)) = goal.teaching(batch) {
        let beside = (&teacher, of);
        let targets = &batch.targets;
        let (readings, gradients) = decoder
            .head
            .backward_from_teacher(&hidden, targets, beside, pass);
        return (
            readings,
            Read::Gradients(ReadoutGradients::Tokens(gradients)),
        );
    }
    let readout = decoder.readout(&batch.pooled);
    match (goal.objective.slopes_ahead(&batch.units), readout) {
        (Some(slopes), _) => {
            let (readings, gradients) = readout.backward(&hidden, &batch.targets, &slopes, pass);
            (readings, Read::Gradients(gradients))
        }
        (None, Readout::Tokens(head)) if !head.trains() => {
            let slope = Slopes::Same(1.0);
            let (readings, gradients) = head.backward(&hidden, &batch.targets, &slope, pass);
            (readings, Read::AtSlopeOne(gradients))
        }
        (None, _) => (
            readout.read(&hidden, &batch.targets, pass),
            Read::Hidden(hidden),
        ),
    }
}

/// Returns the losses of a batch's trained tokens without a tape and without dropout, in the order
/// of its targets.
pub fn score(decoder: &Decoder, batch: &Batch, head_chunk_rows: usize) -> Vec<f32> {
    let readings = readings_of(decoder, batch, head_chunk_rows);
    readings.values.into_iter().map(|log_p| -log_p).collect()
}

/// Returns what a goal reads of a batch's targets, without a tape and without dropout.
pub(super) fn goal_readings(
    decoder: &Decoder,
    batch: &Batch,
    goal: Goal,
    head_chunk_rows: usize,
) -> Readings {
    let Some((teacher, of)) = goal.teaching(batch).filter(|_| !batch.targets.is_empty()) else {
        return readings_of(decoder, batch, head_chunk_rows);
    };
    let pass = HeadPass {
        chunk_rows: head_chunk_rows,
        scale: 1.0,
        mask: None,
        smoothed_share: 0.0,
    };
    let hidden = hidden_of(decoder, batch);
    decoder
        .head
        .read_beside_teacher(&hidden, &batch.targets, (&teacher, of), pass)
}

/// Returns the readings of a batch's targets without a tape and without dropout: log-probabilities,
/// or scores.
pub fn readings_of(decoder: &Decoder, batch: &Batch, head_chunk_rows: usize) -> Readings {
    if batch.targets.is_empty() {
        return Readings::default();
    }
    let pass = HeadPass {
        chunk_rows: head_chunk_rows,
        scale: 1.0,
        mask: None,
        smoothed_share: 0.0,
    };
    decoder
        .readout(&batch.pooled)
        .read(&hidden_of(decoder, batch), &batch.targets, pass)
}

/// Returns the log-probability of the chosen and of the rejected completion of each unit of a
/// batch, or of its only one and 0, without a tape and without dropout: sums in order and in f64,
/// nats.
pub fn log_p_of_units(decoder: &Decoder, batch: &Batch, head_chunk_rows: usize) -> Vec<[f64; 2]> {
    let readings = readings_of(decoder, batch, head_chunk_rows);
    let sum = |targets: Range<usize>| -> f64 {
        let values = readings.values[targets].iter();
        values.copied().map(f64::from).sum()
    };
    let of_unit = |unit: &Unit| match unit.kind {
        UnitKind::Pair {
            completion,
            rejected,
            ..
        } => [sum(completion..rejected), sum(rejected..unit.targets.end)],
        _ => [sum(unit.targets.clone()), 0.0],
    };
    batch.units.iter().map(of_unit).collect()
}

/// Returns the most likely tokens of each target of a batch, as [`ops::top_tokens`] does, without a
/// tape and without dropout.
pub fn top_tokens(
    decoder: &Decoder,
    batch: &Batch,
    head_chunk_rows: usize,
    (vocabulary, each, temperature): (usize, usize, f64),
) -> TopTokens {
    let mut all = TopTokens {
        each,
        ..TopTokens::default()
    };
    if batch.targets.is_empty() {
        return all;
    }
    let hidden = hidden_of(decoder, batch);
    for first in (0..batch.targets.len()).step_by(head_chunk_rows) {
        let rows = first..batch.targets.len().min(first + head_chunk_rows);
        let logits = decoder.head.logits(hidden.clone().slice(rows));
        let more = ops::top_tokens(logits, vocabulary, each, temperature);
        all.ids.extend(more.ids);
        all.log_p.extend(more.log_p);
    }
    all
}

/// Returns the hidden rows from which a batch's trained tokens are predicted, before the final
/// norm, [trained tokens, width].
pub(super) fn hidden_of(decoder: &Decoder, batch: &Batch) -> Tensor<2> {
    let frame = frame(decoder, batch, None);
    decoder.hidden(ids(decoder, batch), &frame).squeeze_dim(0)
}

/// Returns one key per token: a hash of seed, epoch, row and place in the row, wherever the row
/// stands in the batch.
pub(super) fn token_keys(batch: &Batch, [seed, epoch]: [u64; 2]) -> Arc<[u64]> {
    let key = |row: u64, place: usize| mix(mix(mix(mix(seed) ^ epoch) ^ row) ^ place as u64);
    let rows = batch.rows.iter().zip(&batch.lengths);
    rows.flat_map(|(row, length)| (0..*length).map(move |place| key(*row, place)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::adapter::{LoraConfig, attach};
    use crate::data::TokenRow;
    use crate::keyed_random::mix;
    use crate::model::Folder;
    use crate::ops::in_tiles;
    use crate::terms::ModelDtype;

    const PLAIN: Objective = Objective::NextToken(NextToken::PLAIN);

    /// Makes a family's decoder with an adapter whose B is not zero.
    fn adapted(family: &Path) -> Decoder {
        let folder = Folder::open(&family.join("model")).expect("a base");
        let mut decoder = folder
            .load(ModelDtype::Auto, &Device::flex(), &|_| {})
            .expect("loaded");
        let config = LoraConfig {
            init_lora_weights: false,
            ..LoraConfig::all_linear(3, 6.0)
        };
        attach(&mut decoder, &config, 7, None).expect("attached");
        decoder
    }

    /// Returns the loss of documents that end within, at the end of and after a tile, and the
    /// gradients of every weight that trains.
    fn step(
        decoder: &Decoder,
        objective: &Objective,
        tile: usize,
        head_chunk_rows: usize,
        memory: Memory,
    ) -> (f64, Vec<f32>) {
        let vocabulary = decoder.spec.vocabulary as u64;
        let row = |length: u64| {
            let ids = (0..length)
                .map(|place| (mix(length << 32 | place) % vocabulary) as u32)
                .collect();
            (
                length,
                TokenRow {
                    ids,
                    trained: (0..length).map(|place| place % 3 > 0).collect(),
                },
            )
        };
        // Learned positions end with the context.
        let longest = if decoder.spec.learns_positions {
            decoder.spec.context.min(70)
        } else {
            70
        };
        let batch = Batch::new([3, 4, 5, 17, longest as u64, 2].map(row));
        let mut gradients = Gradients::default();
        let config = StepConfig {
            memory,
            head_chunk_rows,
            dropout: 0.1,
        };
        let loss = in_tiles(tile, || {
            let step = &StepStatistics::default();
            let goal = Goal::of(objective, step);
            judged_backward(decoder, &batch, goal, config, [1, 2], &mut gradients)
        });
        let numbers = gradients
            .all()
            .into_iter()
            .flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>());
        (loss.sum, numbers.collect())
    }

    fn furthest(left: &[f32], right: impl IntoIterator<Item = f32>) -> f32 {
        left.iter()
            .zip(right)
            .fold(0.0, |most, (one, other)| most.max((one - other).abs()))
    }

    #[test]
    fn whole_models_do_not_depend_on_tiles_and_chunks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs");
        let families: Vec<_> = root
            .read_dir()
            .expect("the golden files")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        assert_eq!(families.len(), 46);
        for path in &families {
            let (family, decoder, objective) = (path.display(), adapted(path), PLAIN);
            let (loss, gradients) = step(&decoder, &objective, 64, 1000, Memory::KEEP);
            let largest = gradients
                .iter()
                .fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!(
                loss.is_finite() && largest > 1e-3,
                "{family}: {loss}, {largest}"
            );
            for (tile, chunk, memory) in [
                (4, 3, Memory::KEEP),
                (4, 3, Memory::RECOMPUTE),
                (64, 3, Memory::KEEP),
                (16, 1000, Memory::KEEP),
            ] {
                let (other, others) = step(&decoder, &objective, tile, chunk, memory);
                assert!(
                    (other / loss - 1.0).abs() < 1e-6,
                    "{family}, tile {tile}, chunk {chunk}: loss {other}, not {loss}"
                );
                let furthest = furthest(&gradients, others);
                assert!(
                    furthest < 4e-6 * largest,
                    "{family}, tile {tile}, chunk {chunk}: {furthest} of {largest}"
                );
            }
        }
    }

    /// Slopes that are known only after reading: logits are computed twice, and every row has a
    /// factor of its own. With every weight 1 the result is that of the fused pass; and a loss is
    /// linear in its weights.
    #[test]
    fn slopes_of_each_row_are_those_of_the_fused_pass() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs");
        // With a cap of logits, with a scale of them, and with a head of its own.
        for (family, trains_everything) in [
            ("gemma2", false),
            ("granite", false),
            ("llama", false),
            ("qwen2", true),
            ("gemma2", true),
        ] {
            let mut decoder = adapted(&root.join(family));
            if trains_everything {
                decoder.train_everything();
            }
            let of = |objective: Objective| step(&decoder, &objective, 64, 5, Memory::KEEP);
            let weighted = |weights: [f32; 6]| of(Objective::WeightedRows(weights.to_vec()));
            let (loss, fused) = of(PLAIN);
            let largest = fused
                .iter()
                .fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let (same_loss, same) = weighted([1.0; 6]);
            assert_eq!(same_loss.to_bits(), loss.to_bits(), "{family}");
            let off = furthest(&fused, same);
            assert!(off <= 1e-6 * largest, "{family}: {off} of {largest}");
            let ((one_loss, one), (other_loss, other)) = (
                weighted([0.25, 0.0, 1.0, -2.0, 0.5, 1.0]),
                weighted([0.75, 1.0, 0.0, 3.0, 0.5, 0.0]),
            );
            assert!(
                ((one_loss + other_loss) / loss - 1.0).abs() < 1e-6,
                "{family}: {one_loss} and {other_loss}, not {loss}"
            );
            let off = furthest(
                &fused,
                one.iter().zip(other).map(|(one, other)| one + other),
            );
            assert!(off <= 1e-5 * largest, "{family}: {off} of {largest}");
        }
    }
}
