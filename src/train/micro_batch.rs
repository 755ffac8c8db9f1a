//! Loss and gradients of one micro-batch, block by block. Where the base is frozen a step needs the gradient of activations and of the
//! adapters only.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use super::balance::Balance;
use super::gradients::Gradients;
use super::observe::{Border, Observer};
use crate::data::Batch;
use crate::draws::mix;
use crate::model::{Block, Decoder, Frame};
use crate::nn::experts::Load;
use crate::nn::head::{Scored, Wanted};
use crate::ops::backward_from;
use crate::terms::Method;

/// What is held between forward and backward: of the lowest blocks their inputs, from which their forward is computed again in
/// backward, and of all others their tapes.
///
/// The lowest, because backward comes to them last: a tape that is made again lives beside the tapes below it, so that above kept ones
/// it would be held on top of the peak, and below them it takes the place of tapes that are gone by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Blocks that are computed again, counted from the bottom of the model.
    pub recomputed: usize,
}

impl Memory {
    /// Every block's tape.
    pub const KEEP: Self = Self { recomputed: 0 };
    /// Every block's input.
    pub const RECOMPUTE: Self = Self { recomputed: usize::MAX };
}

/// How a micro-batch is computed. But for dropout it changes cost and memory, never the result beyond rounding.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    /// What is held between forward and backward.
    pub memory: Memory,
    /// Rows of logits that exist at a time.
    pub head_chunk_rows: usize,
    /// Share of an adapter's input features that is dropped.
    pub dropout: f64,
}

/// Logits that exist at a time, at most.
const LOGITS: usize = 1 << 24;

/// Rows of logits that exist at a time for a vocabulary.
pub fn head_chunk_rows(vocabulary: usize) -> usize {
    (LOGITS / vocabulary).clamp(16, 4096)
}

/// What a micro-batch cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss {
    /// Sum of -log p over trained tokens, nats.
    pub sum: f64,
    /// Trained tokens.
    pub trained_tokens: u64,
}

/// Adds a micro-batch's gradients to `gradients` and returns its loss. A loss that is not finite adds nothing.
///
/// `stream` is the seed and epoch of the dropout masks.
pub fn forward_backward(
    decoder: &Decoder,
    batch: &Batch,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
) -> Loss {
    observed(decoder, batch, config, stream, gradients, &mut ())
}

/// [`forward_backward`] while somebody looks on.
pub(super) fn observed(
    decoder: &Decoder,
    batch: &Batch,
    config: StepConfig,
    stream: [u64; 2],
    gradients: &mut Gradients,
    observer: &mut impl Observer,
) -> Loss {
    if batch.targets.is_empty() {
        gradients.sum(decoder);
        return Loss::default();
    }
    let dropout = (config.dropout > 0.0).then(|| (config.dropout, token_keys(batch, stream)));
    let mut balance = Balance::of(&decoder.spec);
    let frame = match balance {
        Some(_) => decoder.frame_with_load(&batch.lengths, &batch.positions, dropout),
        None => decoder.frame_for(&batch.lengths, &batch.positions, dropout),
    };
    let (trained, to_embedding) = (decoder.trained, decoder.trains_embedding());
    let lowest = if to_embedding { 0 } else { decoder.blocks.iter().position(has_adapter).unwrap_or(decoder.blocks.len()) };
    // Below the lowest adapter nothing needs a gradient.
    let goes_on = |index: usize| to_embedding || index > lowest;

    let ids = ids(decoder, batch);
    let mut x = decoder.embed(ids.clone()); // [1, tokens, width]
    let mut kept = Vec::with_capacity(decoder.blocks.len());
    for (index, block) in decoder.blocks.iter().enumerate() {
        let saved = if index < lowest {
            None
        } else if index < config.memory.recomputed {
            Some(Saved::Input(x.clone()))
        } else {
            Some(Saved::Tape(Box::new(Tape::record(block.tracked(trained), x.clone(), &frame, goes_on(index)))))
        };
        let load;
        (x, load) = match &saved {
            Some(Saved::Tape(tape)) => (tape.output.clone().inner(), tape.load.clone()),
            _ => block.forward_with_load(x, &frame),
        };
        if let (Some(balance), Some(load)) = (&mut balance, &load) {
            balance.add(load);
        }
        x = observer.border(Border::Output(index), x);
        kept.extend(saved);
    }

    let shape = x.shape(); // [1, labelled, width]
    let wanted = if trained == Method::Full { Wanted::InputAndWeights } else { Wanted::Input };
    let mask = frame.head_mask(decoder.blocks.len());
    let scaled = (gradients.loss_scale(), mask.as_ref());
    let Scored { losses, gradient, norm, table } =
        decoder.head.score(x.squeeze_dim(0), &batch.targets, config.head_chunk_rows, wanted, scaled);
    let trained_tokens = batch.trained_tokens();
    // The mean over tokens is taken behind the last micro-batch, so that what is added to it counts once a token.
    let balance = balance.map(|balance| balance.scaled(trained_tokens as f64));
    let of_experts = balance.as_ref().map_or(0.0, Balance::loss);
    let loss = Loss { sum: ordered_sum(&losses) + of_experts, trained_tokens };
    let of_load = balance.map(|balance| balance.gradient(gradients.loss_scale()));
    if !loss.sum.is_finite() {
        drop(kept);
        sweep(decoder);
        return loss;
    }

    let mut gradient: Option<Tensor<3>> = Some(gradient.expect("asked for").reshape(shape));
    let sum = gradients.sum(decoder);
    let mut end = sum.layout.weights();
    if !table.is_empty() {
        // A head that shares its table has the first place of all.
        end -= if decoder.shares_tables() { 0 } else { table.len() };
        let first = if decoder.shares_tables() { 0 } else { end };
        sum.add(first, observer.weights(first, table.into_iter().map(|of_table| of_table.reshape([-1])).collect()));
    }
    if !norm.is_empty() {
        end -= norm.len();
        sum.add(end, observer.weights(end, norm));
    }
    for (index, saved) in kept.into_iter().enumerate().rev() {
        let index = lowest + index;
        let tape = match saved {
            Saved::Tape(tape) => *tape,
            Saved::Input(x) => Tape::record(decoder.blocks[index].tracked(trained), x, &frame, goes_on(index)),
        };
        // Handed over, so that backward may work in its place.
        let of_output = observer.border(Border::Gradient(index), gradient.take().expect("the block above goes on"));
        let (of_block, of_input) = tape.backward(trained, of_output, of_load.as_deref());
        end -= of_block.len();
        sum.add(end, observer.weights(end, of_block));
        gradient = of_input;
    }
    if to_embedding {
        let of_input = gradient.expect("where the embedding trains, it goes on to there");
        sum.add(0, observer.weights(0, decoder.embedding_gradients(ids, of_input)));
    }
    loss
}

/// Losses of a batch's trained tokens without a tape and without dropout, in the order of its targets.
pub fn score(decoder: &Decoder, batch: &Batch, head_chunk_rows: usize) -> Vec<f32> {
    if batch.targets.is_empty() {
        return Vec::new();
    }
    decoder.head.score(hidden_of(decoder, batch), &batch.targets, head_chunk_rows, Wanted::Nothing, (1.0, None)).losses
}

/// The hidden rows from which a batch's trained tokens are foretold, before the final norm, [trained tokens, width].
pub(super) fn hidden_of(decoder: &Decoder, batch: &Batch) -> Tensor<2> {
    decoder.hidden(ids(decoder, batch), &decoder.frame_for(&batch.lengths, &batch.positions, None)).squeeze_dim(0)
}

/// What a block left behind for its backward.
#[allow(clippy::large_enum_variant, reason = "a tensor is a handle, and there is one a block")]
enum Saved {
    Tape(Box<Tape>),
    Input(Tensor<3>),
}

/// A block's own tape, from a leaf copy of its input to its output.
struct Tape {
    input: Tensor<3>,
    block: Block,
    output: Tensor<3>,
    /// What came to its experts.
    load: Option<Load>,
}

impl Tape {
    /// `block` is tracked; its input stays a constant where the gradient ends.
    fn record(block: Block, x: Tensor<3>, frame: &Frame, wants_input_gradient: bool) -> Self {
        let input = if wants_input_gradient { x.autodiff().require_grad() } else { x };
        let (output, load) = block.forward_with_load(input.clone(), frame);
        Self { input, block, output, load }
    }

    /// Gradients of the block's weights that train and of its input, given that of its output, and of the probabilities of its experts.
    fn backward(mut self, trained: Method, gradient: Tensor<3>, of_load: Option<&[f32]>) -> (Vec<Tensor<1>>, Option<Tensor<3>>) {
        let (mut gradients, mut of_weights) = match (self.load, of_load) {
            (Some(load), Some(of_load)) => {
                let of_load = Tensor::from_data(TensorData::from(of_load), &load.probabilities.device());
                let surrogate = (self.output * gradient.autodiff()).sum() + (load.probabilities * of_load).sum();
                (surrogate.backward(), Vec::new())
            }
            _ => (backward_from(self.output, gradient), Vec::new()),
        };
        self.block.visit(trained, &mut |_, weight| {
            of_weights.push(weight.gradient(&mut gradients).expect("what trains is a leaf of this tape"));
        });
        (of_weights, self.input.grad_remove(&mut gradients))
    }
}

fn has_adapter(block: &Block) -> bool {
    block.projections().any(|projection| projection.lora.is_some())
}

/// Tapes that were dropped are swept by the next backward only.
fn sweep(decoder: &Decoder) {
    let leaf = Tensor::<1>::zeros([1], &decoder.device()).autodiff().require_grad();
    leaf.sum().backward();
}

/// [1, tokens].
fn ids(decoder: &Decoder, batch: &Batch) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(batch.ids.clone(), [1, batch.ids.len()]), &decoder.device())
}

/// One key a token: a hash of seed, epoch, row and place in the row, wherever that stands in the batch.
fn token_keys(batch: &Batch, [seed, epoch]: [u64; 2]) -> Arc<[u64]> {
    let key = |row: u64, place: usize| mix(mix(mix(mix(seed) ^ epoch) ^ row) ^ place as u64);
    let rows = batch.rows.iter().zip(&batch.lengths);
    rows.flat_map(|(row, length)| (0..*length).map(move |place| key(*row, place))).collect()
}

/// Sums that decide anything are added in order and in f64.
fn ordered_sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::adapter::{LoraConfig, attach};
    use crate::data::TokenRow;
    use crate::draws::mix;
    use crate::model::Folder;
    use crate::ops::in_tiles;
    use crate::terms::ModelDtype;

    /// The loss of documents that end within, at the end of and behind a tile, and the gradients of every weight of an adapter whose B is
    /// not zero.
    fn step(family: &Path, tile: usize, head_chunk_rows: usize, memory: Memory) -> (f64, Vec<f32>) {
        let folder = Folder::open(&family.join("model")).expect("a base");
        let mut decoder = folder.load(ModelDtype::Auto, &Device::flex(), &|_| {}).expect("loaded");
        let config = LoraConfig { init_lora_weights: false, ..LoraConfig::all_linear(3, 6.0) };
        attach(&mut decoder, &config, 7, None).expect("attached");
        let vocabulary = decoder.spec.vocabulary as u64;
        let row = |length: u64| {
            let ids = (0..length).map(|place| (mix(length << 32 | place) % vocabulary) as u32).collect();
            (length, TokenRow { ids, trained: (0..length).map(|place| place % 3 > 0).collect() })
        };
        let batch = Batch::new([3, 4, 5, 17, 70, 2].map(row));
        let mut gradients = Gradients::default();
        let config = StepConfig { memory, head_chunk_rows, dropout: 0.1 };
        let loss = in_tiles(tile, || forward_backward(&decoder, &batch, config, [1, 2], &mut gradients));
        let numbers = gradients.all().into_iter().flat_map(|row| row.into_data().iter::<f32>().collect::<Vec<_>>());
        (loss.sum, numbers.collect())
    }

    #[test]
    fn whole_models_do_not_depend_on_tiles_and_chunks() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs");
        let families: Vec<_> = root.read_dir().expect("the golden files").map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(families.len(), 19);
        for path in &families {
            let (family, (loss, gradients)) = (path.display(), step(path, 64, 1000, Memory::KEEP));
            let largest = gradients.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!(loss.is_finite() && largest > 1e-3, "{family}: {loss}, {largest}");
            for (tile, chunk, memory) in
                [(4, 3, Memory::KEEP), (4, 3, Memory::RECOMPUTE), (64, 3, Memory::KEEP), (16, 1000, Memory::KEEP)]
            {
                let (other, others) = step(path, tile, chunk, memory);
                assert!((other / loss - 1.0).abs() < 1e-6, "{family}, tile {tile}, chunk {chunk}: loss {other}, not {loss}");
                let furthest = gradients.iter().zip(&others).fold(0.0_f32, |most, (one, other)| most.max((one - other).abs()));
                assert!(furthest < 2e-6 * largest, "{family}, tile {tile}, chunk {chunk}: {furthest} of {largest}");
            }
        }
    }
}
