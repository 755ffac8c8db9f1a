//! A training step as a sequence of moments: what is held when the head computes, and during the
//! backward pass of each block.

use super::{F32, Load, MemoryPlace, MicroBatchRows, OfTable, Purpose, StepParts, Trained};
use crate::model::LayerSpec;
use crate::nn::footprint::{RowShape, TrainedMaps};
use crate::terms::{AdapterVector, Method};
use crate::train::Memory;

/// Allocations of this size or more are mapped from the system and returned to it: glibc's largest
/// `M_MMAP_THRESHOLD`, mallopt(3).
const MAPPED_BYTES: u64 = 32 << 20;
/// The divisor for what the allocator holds back between tensors of other sizes, as a part of the
/// residual stream at all blocks. Measured: 0.02 to 0.2, with and without recomputed blocks. If
/// blocks are recomputed, it also holds back a place as wide as gate and up, which are adjacent:
/// the gaps that smaller tensors leave are too small for them. Measured: 17 of 25 MB more if all
/// blocks are recomputed, and nothing if none is.
pub(super) const HELD_BACK: u64 = 8;

/// Bytes of one block for some rows.
pub(super) struct BlockBytes {
    /// Its input and output, [tokens, width].
    input: u64,
    /// What its tape holds in addition to the input.
    saved: u64,
    /// What a forward without a tape needs in addition to the input.
    forward: u64,
    /// What the backward needs in addition to the tape.
    backward: u64,
    /// Its widest tensor.
    pub widest: u64,
}

impl BlockBytes {
    /// Returns the bytes of all blocks of a run.
    pub fn of(load: &Load, rows: MicroBatchRows) -> Vec<Self> {
        let Trained {
            method,
            ranks,
            outputs,
            vector,
            ..
        } = &load.trained;
        let (width, has_magnitudes) = (load.spec.width, *vector == Some(AdapterVector::Magnitude));
        let rows = row_shape(load, rows);
        let mut rest = TrainedMaps {
            ranks,
            outputs,
            has_magnitudes,
            trains: *method == Method::Full,
        };
        let of_layer = |layer: &LayerSpec| {
            let [maps, above] = rest.split_at(layer.maps());
            rest = above;
            Self {
                input: rows.bytes(width as u64),
                saved: layer.saved_bytes(width, rows, maps),
                forward: layer.forward_bytes(width, rows, maps),
                backward: layer.backward_bytes(width, rows, maps),
                widest: layer.widest_bytes(rows),
            }
        };
        load.spec.layers.iter().map(of_layer).collect()
    }
}

/// Returns the parts at the highest moment of a step.
pub(super) fn highest(load: &Load, memory: Memory) -> StepParts {
    let blocks = BlockBytes::of(load, load.rows);
    let of_block = trainable_of_blocks(load);
    let lowest = lowest_with_tape(load, &of_block);
    let recomputes = |index: usize| index < memory.recomputed;
    let kept = |index: usize| match index {
        _ if index < lowest => 0,
        _ if recomputes(index) => blocks[index].input,
        _ => blocks[index].input + blocks[index].saved,
    };

    // One flat row a partial sum of the tree of micro-batches, see `train/tree.rs`; the last is
    // made when a micro-batch comes to its backward.
    let (row_bytes, partial) = (
        load.trainable_parameters() * F32,
        u64::from(load.accumulated.max(1).ilog2()),
    );
    let gradients_bytes = row_bytes * (partial + 1);
    let held_back = held_back_bytes(load, &blocks, memory.recomputed > lowest);
    let beside = beside_stream_bytes(load, load.rows) + noise_bytes(load);
    let mut kept_bytes: u64 = held_back + beside + (0..blocks.len()).map(kept).sum::<u64>();
    let at_head = if load.is_full() {
        gradients_bytes
    } else {
        row_bytes * partial
    };
    let head_bytes = head_bytes(load) + left_of_heads(load, head_bytes(load), kept_bytes);
    let mut moments = vec![StepParts {
        gradients_bytes: at_head,
        kept_bytes,
        head_bytes,
        ..StepParts::default()
    }];
    let [of_embedding, of_head] = load.trained_of_tables().map(|numbers| numbers * F32);
    if of_head > 0 {
        // Its gradients wait for the row that they are added to.
        moments.push(StepParts {
            gradients_bytes,
            kept_bytes,
            block_bytes: of_head,
            ..StepParts::default()
        });
    }
    for (index, block) in blocks.iter().enumerate().skip(lowest).rev() {
        kept_bytes -= kept(index);
        let (tape_bytes, recomputed_bytes) = if recomputes(index) {
            (0, block.saved)
        } else {
            (block.saved, 0)
        };
        moments.push(StepParts {
            gradients_bytes,
            kept_bytes: kept_bytes + block.input + tape_bytes,
            recomputed_bytes,
            // A block's own gradients, before they are added to the row.
            block_bytes: block.backward + of_block[index] * F32,
            head_bytes: 0,
        });
    }
    if of_embedding > 0 {
        let input = 2 * blocks.first().map_or(0, |block| block.input);
        moments.push(StepParts {
            gradients_bytes,
            kept_bytes,
            block_bytes: input + of_embedding,
            ..StepParts::default()
        });
    }
    // A block below the lowest adapter, or one that recomputes, first runs forward without a tape.
    let forward = |index: usize| StepParts {
        kept_bytes: held_back + beside + (0..index).map(kept).sum::<u64>(),
        block_bytes: blocks[index].forward,
        ..StepParts::default()
    };
    moments.extend(
        (0..blocks.len())
            .filter(|index| *index < lowest || recomputes(*index))
            .map(forward),
    );
    if let Some(teacher) = load.teacher_beside() {
        // Its forward runs when the student's is done, and its logits are there beside those of the
        // student.
        let of_teacher = teacher_bytes(load, load.rows);
        let labeled = load.rows.labeled as u64 * load.spec.width as u64 * load.computed_bytes();
        let all = moments[0];
        let chunk = teacher.head_chunk_rows(load.rows.labeled) * teacher.spec.vocabulary as u64;
        let hidden = load.rows.labeled as u64 * teacher.spec.width as u64;
        moments[0].head_bytes += chunk * F32 + hidden * teacher.computed_bytes();
        moments.push(StepParts {
            head_bytes: labeled + of_teacher,
            ..all
        });
    }
    let highest = moments
        .into_iter()
        .max_by_key(|parts| parts.bytes())
        .unwrap_or_default();
    StepParts {
        block_bytes: highest.block_bytes + load.unpacked_bytes(),
        ..highest
    }
}

/// Returns the bytes of the noise on embeddings, which a step keeps in 32 bits.
fn noise_bytes(load: &Load) -> u64 {
    if load.noise {
        load.rows.tokens as u64 * load.spec.width as u64 * F32
    } else {
        0
    }
}

/// Returns the lowest block that the backward pass comes to; `of_block` counts what trains in each.
fn lowest_with_tape(load: &Load, of_block: &[u64]) -> usize {
    if load.trains_embedding() {
        return 0;
    }
    let trains = of_block.iter().position(|numbers| *numbers > 0);
    trains.unwrap_or(of_block.len())
}

/// Returns the bytes that the CPU's allocator holds back between tensors, see [`HELD_BACK`].
fn held_back_bytes(load: &Load, blocks: &[BlockBytes], recomputes: bool) -> u64 {
    let widest = blocks.iter().map(|block| block.widest).max();
    let widest = widest.filter(|_| recomputes).unwrap_or(0);
    match load.place {
        MemoryPlace::Processor { .. } => {
            blocks.iter().map(|block| block.input).sum::<u64>() / HELD_BACK + widest
        }
        MemoryPlace::Gpu { .. } => 0,
    }
}

/// Returns the bytes of what stands beside the stream through a whole step, with as many of
/// gradients: the layers' own inputs, and keys and values that higher layers use.
fn beside_stream_bytes(load: &Load, rows: MicroBatchRows) -> u64 {
    let (spec, rows) = (&load.spec, row_shape(load, rows));
    let inputs = spec
        .per_layer_width()
        .map_or(0, |width| rows.bytes((width * spec.layers.len()) as u64));
    let of_layer = |(index, layer): (usize, &LayerSpec)| {
        if spec.is_source(index) {
            layer.key_value_bytes(rows)
        } else {
            0
        }
    };
    let lent: u64 = spec.layers.iter().enumerate().map(of_layer).sum();
    2 * (inputs + lent)
}

fn row_shape(load: &Load, rows: MicroBatchRows) -> RowShape {
    RowShape {
        tokens: rows.tokens as u64,
        number_bytes: load.computed_bytes(),
        drops: load.dropout > 0.0,
        on_gpu: matches!(load.place, MemoryPlace::Gpu { .. }),
    }
}

/// Returns the number of trained parameters in each block.
fn trainable_of_blocks(load: &Load) -> Vec<u64> {
    let mut each = load.trained_of_projections();
    let norms = if load.trained.method == Method::Full {
        2 * load.spec.width as u64
    } else {
        0
    };
    let of_layer = |layer: &LayerSpec| each.by_ref().take(layer.maps()).sum::<u64>() + norms;
    load.spec.layers.iter().map(of_layer).collect()
}

/// Returns the bytes of the head: the labeled hidden rows and their gradients, and the larger of
/// the logits of a chunk (whose gradient takes their place) and all gradients in one piece.
fn head_bytes(load: &Load) -> u64 {
    let (spec, rows, computed) = (&load.spec, load.rows, load.computed_bytes());
    let (width, chunk, labeled) = (
        spec.width as u64,
        load.head_chunk_rows(rows.labeled),
        rows.labeled as u64,
    );
    // Of the projection's weights the sum of gradients, and what a chunk adds to it.
    let table = (spec.vocabulary * spec.width) as u64;
    let weights = match load.trained.tables[1] {
        _ if load.trains_head() => {
            2 * table * F32 + if computed == F32 { 0 } else { table * computed }
        }
        OfTable::Rank(0) => 0,
        of_head => {
            // What matrices add to the logits is there once beside them; columns of rows take their
            // places.
            let beside = if let OfTable::Rank(_) = of_head {
                chunk * spec.vocabulary as u64
            } else {
                0
            };
            (2 * of_head.numbers([spec.vocabulary, spec.width]) + beside) * F32
        }
    };
    let logits = chunk * (spec.vocabulary as u64 * logit_bytes(load) + 3 * width * computed);
    let hidden = labeled * width * computed;
    hidden + (logits + hidden).max(2 * hidden) + weights
}

/// Returns the bytes of a logit. Its gradient takes its place, and is copied once more in the dtype
/// of activations.
fn logit_bytes(load: &Load) -> u64 {
    let computed = load.computed_bytes();
    F32 + if computed == F32 { 0 } else { computed }
}

/// Returns what remains of the memory of the head of the previous micro-batch. Micro-batches of a
/// run differ in size, so a head may find this memory too small; kept tensors may use it. Larger
/// logits are returned to the system. Measured: 31 of 31 MB, and 0 if more is kept.
fn left_of_heads(load: &Load, head: u64, kept: u64) -> u64 {
    let logits = load.head_chunk_rows(load.rows.labeled) * load.spec.vocabulary as u64;
    let is_left = load.purpose == Purpose::Run && !load.is_on_gpu() && logits * F32 < MAPPED_BYTES;
    if is_left {
        head.saturating_sub(kept)
    } else {
        0
    }
}

/// Returns the bytes for a forward of the model that the objective learns from; 0 without one.
pub(super) fn teacher_bytes(load: &Load, rows: MicroBatchRows) -> u64 {
    load.teacher_beside()
        .map_or(0, |teacher| evaluation_bytes(teacher, rows))
}

/// Returns the bytes for scoring rows without a tape: a block's forward, or the logits of a chunk.
pub(super) fn evaluation_bytes(load: &Load, rows: MicroBatchRows) -> u64 {
    let (width, chunk) = (load.spec.width as u64, load.head_chunk_rows(rows.labeled));
    let computed = load.computed_bytes();
    let head = rows.tokens as u64 * width * computed
        + chunk * (load.spec.vocabulary as u64 * F32 + 3 * width * computed);
    let of_blocks = BlockBytes::of(load, rows)
        .into_iter()
        .map(|block| block.input + block.forward);
    of_blocks.chain([head]).max().unwrap_or(0) + beside_stream_bytes(load, rows) / 2
}
