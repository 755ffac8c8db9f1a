//! A training step as a walk over its moments: what is held when the head computes, and when each block goes backward.

use super::block::{BlockForm, PROJECTIONS};
use super::{F32, Load, Purpose, Rows, StepParts};
use crate::terms::Method;
use crate::train::Memory;

/// What is as large is mapped from the system and given back to it: glibc's largest `M_MMAP_THRESHOLD`, mallopt(3).
const MAPPED_BYTES: u64 = 32 << 20;
/// Of the residual stream at all blocks, the part that the allocator holds back between tensors of other sizes. Measured: 0.02 to 0.2,
/// where blocks recompute and where they do not. Beside it a place as wide as gate and up, which lie side by side: what smaller tensors
/// leave has no room for them. Measured: 17 of 25 MB more where all blocks recompute.
pub(super) const HELD_BACK: u64 = 8;

/// The highest moment of a step.
pub(super) fn highest(load: &Load, memory: Memory) -> StepParts {
    let blocks: Vec<BlockForm> = (0..load.spec.layers.len()).map(|index| BlockForm::new(load, index, load.rows)).collect();
    let of_block = trainable_of_blocks(load);
    let is_full = load.trained.method == Method::Full;
    let lowest = if is_full { 0 } else { of_block.iter().position(|numbers| *numbers > 0).unwrap_or(blocks.len()) };
    let recomputes = |index: usize| index < memory.recomputed;
    let kept = |index: usize| match index {
        _ if index < lowest => 0,
        _ if recomputes(index) => blocks[index].input(),
        _ => blocks[index].input() + blocks[index].kept(),
    };

    // One flat row for all, made when the first micro-batch comes to its backward.
    let gradients = load.trainable_parameters();
    let widest = blocks.iter().map(BlockForm::gate_up).max().unwrap_or(0);
    let held_back = blocks.iter().map(BlockForm::input).sum::<u64>() / HELD_BACK + widest;
    let mut kept_numbers: u64 = held_back + (0..blocks.len()).map(kept).sum::<u64>();
    let at_head = if load.accumulated > 1 || is_full { gradients } else { 0 };
    let head = head(load) + left_of_heads(load, head(load), kept_numbers);
    let mut moments = vec![Numbers { gradients: at_head, kept: kept_numbers, head, ..Numbers::default() }];
    for (index, block) in blocks.iter().enumerate().skip(lowest).rev() {
        kept_numbers -= kept(index);
        let again = if recomputes(index) { block.kept() } else { 0 };
        let kept = kept_numbers + block.input() + if recomputes(index) { 0 } else { block.kept() };
        // A block's own gradients, before they are added to the row.
        let own = of_block[index];
        moments.push(Numbers { gradients, kept, recomputed: again, block: block.backward() + own, head: 0 });
    }
    // A block below the lowest adapter, or one that recomputes, first runs forward without a tape.
    let forward = |index: usize| Numbers {
        kept: held_back + (0..index).map(kept).sum::<u64>(),
        block: blocks[index].forward(),
        ..Numbers::default()
    };
    moments.extend((0..blocks.len()).filter(|index| *index < lowest || recomputes(*index)).map(forward));
    moments.into_iter().map(Numbers::bytes).max_by_key(|parts| parts.bytes()).unwrap_or_default()
}

/// One moment, in numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    gradients: u64,
    kept: u64,
    recomputed: u64,
    block: u64,
    head: u64,
}

impl Numbers {
    fn bytes(self) -> StepParts {
        StepParts {
            gradients_bytes: self.gradients * F32,
            kept_bytes: self.kept * F32,
            recomputed_bytes: self.recomputed * F32,
            block_bytes: self.block * F32,
            head_bytes: self.head * F32,
        }
    }
}

/// Numbers that train in each block.
fn trainable_of_blocks(load: &Load) -> Vec<u64> {
    let each: Vec<u64> = load.trained_of_projections().collect();
    let norms = if load.trained.method == Method::Full { 2 * load.spec.width as u64 } else { 0 };
    each.chunks(PROJECTIONS).map(|block| block.iter().sum::<u64>() + norms).collect()
}

/// The hidden rows that are labelled and their gradients, beside the logits of a chunk, whose gradient takes their place, or beside all
/// gradients in one piece.
fn head(load: &Load) -> u64 {
    let (spec, rows) = (&load.spec, load.rows);
    let (width, chunk, labelled) = (spec.width as u64, load.head_chunk_rows(rows.labelled), rows.labelled as u64);
    // Of the projection's weights the sum of gradients, and what a chunk adds to it.
    let weights = if load.trained.method == Method::Full { 2 * (spec.vocabulary * spec.width) as u64 } else { 0 };
    let logits = chunk * (spec.vocabulary as u64 + 3 * width);
    labelled * width + (logits + labelled * width).max(2 * labelled * width) + weights
}

/// What the head of the micro-batch before leaves of its place. Micro-batches of a run are of different sizes, so that a head finds its place
/// too small; what is kept may lie there. Larger logits are given back to the system. Measured: 31 of 31 MB, and 0 where more is kept.
fn left_of_heads(load: &Load, head: u64, kept: u64) -> u64 {
    let logits = load.head_chunk_rows(load.rows.labelled) * load.spec.vocabulary as u64;
    let is_left = load.purpose == Purpose::Run && logits * F32 < MAPPED_BYTES;
    if is_left { head.saturating_sub(kept) } else { 0 }
}

/// Bytes of scoring rows without a tape: a block's forward, or the logits of a chunk.
pub(super) fn evaluation_bytes(load: &Load, rows: Rows) -> u64 {
    let forward =
        (0..load.spec.layers.len()).map(|index| BlockForm::new(load, index, rows)).map(|block| block.input() + block.forward());
    let (width, chunk) = (load.spec.width as u64, load.head_chunk_rows(rows.labelled));
    let head = rows.tokens as u64 * width + chunk * (load.spec.vocabulary as u64 + 3 * width);
    forward.chain([head]).max().unwrap_or(0) * F32
}
