//! Estimates how much memory a run needs at its peak, part by part and before anything is loaded.
//! The estimate is a closed form of the sizes of the model, the adapter and the rows of a
//! micro-batch, and of how many blocks are recomputed.
//!
//! The process, the base, the adapters and the optimizer's state are held at all times. Each phase
//! of a run needs memory on top, and the largest phase makes the peak. The memory that an operation
//! keeps and works with is stated next to its forward, in `model` and `nn`.

mod fit;
mod parts;
mod step;
mod trained;

pub use fit::{Hint, fewest_recomputed, longest_that_fits};
pub use parts::{MemoryParts, Phase, StepParts};
pub use trained::Trained;

use self::step::BlockBytes;
use self::trained::OfTable;
use crate::data::Batch;
use crate::device::{self, DeviceClass, FoundDevice, HalfPrecision};
use crate::model::{DecoderSpec, LinearSpec, PIECE_BYTES, Storage};
use crate::nn::footprint::F32;
use crate::quant::QuantFormat;
use crate::terms::{self, Method, ModelDtype};
use crate::train::{Memory, Rule, STACK, head_chunk_rows};

/// The program itself, its threads' stacks, and ends of pages. Measured: 14 to 17 MiB for `bench`
/// with two threads on a model of 60 KB, 18 to 20 MiB on models of 10 MB to 2 GB, and 10 MiB more
/// with the code of wgpu.
const PROCESS_BYTES: u64 = if cfg!(feature = "wgpu") { 29 } else { 19 } << 20;
/// What a GPU's allocator holds beyond what is in use: a share, since its pages have fixed sizes,
/// and the first pages. Measured on a software adapter, whose largest page has 128 MiB: up to 15 %
/// in steps of 90 to 300 MiB, and 44 MiB when next to nothing is in use.
const POOL_SHARE: f64 = 0.15;
const POOL_BYTES: u64 = 44 << 20;
/// Scratch memory of a thread: packed panels of a product, or a tile of attention.
const SCRATCH_BYTES: u64 = 1 << 18;
/// Copies of a tensor that is saved: in the order of its file, as numbers and as bytes.
const SAVED_COPIES: u64 = 3;
/// Copies of a stack of weights for an update made of tensor operations: weights, gradients, states
/// and intermediate values.
const STACK_COPIES: u64 = 10;
/// Pieces of files that are in memory at once while the base is read.
const LOADING_BYTES: u64 = 8 << 20;
/// Other memory of a run: readers of rows, templates, metrics and their threads, and memory that
/// the allocator does not return between batches of different sizes. Measured: 6 MB on a model of
/// 140 KB, 9 to 12 on one of 6 MB with up to a hundred thousand rows, and up to 15 MB of difference
/// between two runs of the same recipe.
const RUN_BYTES: u64 = 20 << 20;
/// The tokenizer's memory per token of its vocabulary: the token in two tables and its merge in a
/// third. Measured: 58 MB for 150 thousand.
const TOKEN_BYTES: u64 = 400;

/// The size of the rows of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MicroBatchRows {
    /// Rows, or packed rows.
    pub count: usize,
    /// Sequences of a row: 2 of pairs, else 1.
    pub sequences: usize,
    /// Tokens of the longest sequence.
    pub length: usize,
    /// Tokens of all rows.
    pub tokens: usize,
    /// Tokens of all rows that carry a loss.
    pub labeled: usize,
}

impl MicroBatchRows {
    /// Returns rows of `length` tokens in which every token except the first carries a loss.
    pub fn dense(count: usize, length: usize) -> Self {
        Self {
            count,
            sequences: 1,
            length,
            tokens: count * length,
            labeled: count * length.saturating_sub(1),
        }
    }

    /// Returns the shape of a batch.
    pub fn of(batch: &Batch) -> Self {
        let length = batch.lengths.iter().copied().max().unwrap_or(0);
        Self {
            count: batch.units.len(),
            sequences: batch.lengths.len().div_ceil(batch.units.len().max(1)),
            length,
            tokens: batch.ids.len(),
            labeled: batch.targets.len(),
        }
    }

    /// Returns the same rows, limited in count and in tokens per row.
    fn within(self, count: usize, length: usize) -> Self {
        let (count, length) = (self.count.min(count), self.length.min(length));
        let tokens = self.tokens.min(count * self.sequences * length);
        Self {
            count,
            length,
            tokens,
            labeled: self.labeled.min(tokens),
            ..self
        }
    }
}

/// The kind of a run's largest tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Largest {
    /// A tensor of a micro-batch.
    Tokens,
    /// All trained weights, in one row.
    Trained,
    /// A matrix of the base, or its logits.
    Base,
}

/// The purpose of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A run, which has a tokenizer and saves the trained weights.
    Run,
    /// A measurement of bare steps.
    Bench,
}

/// The memory that holds a run's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryPlace {
    /// The memory of the process.
    Processor {
        /// Threads that compute.
        threads: usize,
    },
    /// GPU memory. What a process needs beside memory of its own is not counted.
    Gpu {
        /// The best 16-bit dtype that the GPU computes in.
        half: Option<ModelDtype>,
        /// Whether the GPU shares its memory with the CPU, and so with the process.
        is_shared: bool,
    },
}

impl MemoryPlace {
    /// Returns the memory of a device, which is never `auto`.
    pub fn of(device: terms::Device, threads: usize) -> Self {
        match device::halves(device) {
            HalfPrecision::Widened => Self::Processor { threads },
            HalfPrecision::Computed(half) => {
                let shares = |found: FoundDevice| {
                    [DeviceClass::Integrated, DeviceClass::Software].contains(&found.kind)
                };
                Self::Gpu {
                    half,
                    is_shared: device::find(device).is_some_and(shares),
                }
            }
        }
    }
}

/// The parameters of a run's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The model.
    pub spec: DecoderSpec,
    /// How the frozen base is stored; `auto` is f32.
    pub storage: Storage,
    /// What is trained.
    pub trained: Trained,
    /// The optimizer's update rule.
    pub rule: Rule,
    /// The share of an adapter's input features that is dropped.
    pub dropout: f64,
    /// Whether there is noise on embeddings.
    pub noise: bool,
    /// The largest micro-batch.
    pub rows: MicroBatchRows,
    /// Micro-batches per step.
    pub accumulated: usize,
    /// The largest batch that is scored; `None` if nothing is scored.
    pub evaluation: Option<MicroBatchRows>,
    /// The purpose of the steps.
    pub purpose: Purpose,
    /// The memory that holds the tensors.
    pub place: MemoryPlace,
    /// The model that the objective learns from, which trains nothing.
    pub teacher: Option<Box<TeacherLoad>>,
}

/// The model that an objective learns from.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherLoad {
    /// The model, over the rows of the run.
    pub load: Load,
    /// Whether it is gone before the student is loaded, because its tokens are kept.
    pub is_gone: bool,
}

impl Load {
    /// Returns the parts if this many blocks are recomputed.
    pub fn parts(&self, memory: Memory) -> MemoryParts {
        let trainable = self.trainable_parameters();
        let is_run = self.purpose == Purpose::Run;
        let of_run = if is_run {
            RUN_BYTES + TOKEN_BYTES * self.spec.vocabulary as u64
        } else {
            0
        };
        let is_apart = self.is_apart();
        let parts = MemoryParts {
            process_bytes: match self.place {
                MemoryPlace::Processor { threads } => {
                    PROCESS_BYTES + of_run + SCRATCH_BYTES * threads as u64
                }
                MemoryPlace::Gpu {
                    is_shared: true, ..
                } => PROCESS_BYTES + of_run,
                MemoryPlace::Gpu { .. } => 0,
            },
            base_bytes: self.base_bytes(),
            teacher_bytes: self.teacher_beside().map_or(0, Self::base_bytes),
            trained_bytes: trainable * F32 * if self.trained.keeps_initial { 2 } else { 1 },
            moments_bytes: self.states_bytes(),
            // What is read and written passes through the memory of the process.
            loading_bytes: if is_apart { 0 } else { self.loading_bytes() }
                .max(self.read_out_bytes()),
            evaluation_bytes: self.evaluation.map_or(0, |rows| {
                step::evaluation_bytes(self, rows)
                    + step::teacher_bytes(self, rows)
                    + self.unpacked_bytes()
                    + self.averaged_bytes()
            }),
            step: step::highest(self, memory),
            update_bytes: trainable * F32 + self.updated_bytes(),
            saving_bytes: self.averaged_bytes()
                + if is_run && !is_apart {
                    SAVED_COPIES * self.largest_trained() * F32
                } else {
                    0
                },
        };
        let pools_bytes = if self.is_on_gpu() {
            POOL_BYTES + (parts.peak_bytes() as f64 * POOL_SHARE) as u64
        } else {
            0
        };
        MemoryParts {
            process_bytes: parts.process_bytes + pools_bytes,
            ..parts
        }
    }

    /// Returns the model that runs beside the student.
    fn teacher_beside(&self) -> Option<&Self> {
        let teacher = self.teacher.as_deref()?;
        (!teacher.is_gone).then_some(&teacher.load)
    }

    /// Returns what reading out a teacher before training needs beyond what training holds, which
    /// is not there yet.
    fn read_out_bytes(&self) -> u64 {
        let Some(teacher) = self.teacher.as_deref().filter(|teacher| teacher.is_gone) else {
            return 0;
        };
        let rows = self.evaluation.unwrap_or(self.rows);
        let needed = teacher.load.base_bytes() + step::evaluation_bytes(&teacher.load, rows);
        let held = self.base_bytes() + self.trainable_parameters() * F32 + self.states_bytes();
        needed.saturating_sub(held)
    }

    /// Returns the number of trained parameters.
    pub fn trainable_parameters(&self) -> u64 {
        match self.trained.method {
            Method::Full => self.spec.parameters() as u64,
            Method::Lora => {
                self.trained_of_projections().sum::<u64>()
                    + self.trained_of_tables().into_iter().sum::<u64>()
            }
        }
    }

    /// Returns the bytes of the optimizer's state.
    pub fn states_bytes(&self) -> u64 {
        self.trained_shapes()
            .into_iter()
            .map(|(shape, is_table)| self.rule.state_bytes(&shape, is_table))
            .sum()
    }

    /// Returns the same for `AdamW` with 32-bit moments.
    pub fn adamw_bytes(&self) -> u64 {
        2 * self.trainable_parameters() * F32
    }

    /// Returns what an update needs beside the gradients of the step. `AdamW` works in place; all
    /// others work on a stack of weights.
    fn updated_bytes(&self) -> u64 {
        let stack = self
            .largest_trained()
            .max(STACK as u64)
            .min(self.trainable_parameters());
        if self.rule == Rule::AdamW {
            0
        } else {
            STACK_COPIES * stack * F32
        }
    }

    /// Returns the bytes of the weights at which gradients are taken, beside their average.
    fn averaged_bytes(&self) -> u64 {
        if self.rule.averages() {
            self.trainable_parameters() * F32
        } else {
            0
        }
    }

    /// Returns the shapes of the trained weights, and whether each belongs to the embedding or the
    /// head.
    fn trained_shapes(&self) -> Vec<(Vec<usize>, bool)> {
        let spec = &self.spec;
        if self.is_full() {
            let tables = spec.tables();
            return spec
                .tensors()
                .into_iter()
                .map(|(name, shape)| (shape, tables.contains(&name)))
                .collect();
        }
        let of_projection = |(linear, rank): (LinearSpec, &usize)| match *rank {
            0 => Vec::new(),
            rank => {
                let vector = self.trained.vector.map(|_| vec![linear.outputs]);
                [vec![rank, linear.inputs], vec![linear.outputs, rank]]
                    .into_iter()
                    .chain(vector)
                    .collect()
            }
        };
        let of_projections = spec
            .projections()
            .into_iter()
            .zip(&self.trained.ranks)
            .flat_map(of_projection);
        let of_tables = self
            .trained
            .tables
            .iter()
            .flat_map(|of| of.shapes([spec.vocabulary, spec.width]));
        of_projections
            .map(|shape| (shape, false))
            .chain(of_tables.map(|shape| (shape, true)))
            .collect()
    }

    /// Returns the numbers of parameters that an adapter has of the embedding and of the head.
    fn trained_of_tables(&self) -> [u64; 2] {
        self.trained
            .tables
            .map(|of| of.numbers([self.spec.vocabulary, self.spec.width]))
    }

    /// Returns whether gradients go through all blocks, because a part of the embedding is trained.
    fn trains_embedding(&self) -> bool {
        self.is_full() || self.trained.tables[0] != OfTable::Rank(0)
    }

    /// Returns whether the whole head is trained.
    fn trains_head(&self) -> bool {
        self.is_full() || self.trained.tables[1] == OfTable::Whole
    }

    /// Returns the number of weights in the base's tables that are replaced by trained copies.
    fn replaced_tables(&self) -> u64 {
        let table = (self.spec.vocabulary * self.spec.width) as u64;
        let copies = self
            .trained
            .tables
            .iter()
            .filter(|of| **of == OfTable::Whole)
            .count() as u64;
        // One table that is both goes where both are copied only.
        table
            * if self.spec.tied_head {
                copies / 2
            } else {
                copies
            }
    }

    /// Returns the number of trained parameters of each projection, in checkpoint order.
    fn trained_of_projections(&self) -> impl Iterator<Item = u64> {
        let of = |(linear, rank): (LinearSpec, &usize)| match self.trained.method {
            Method::Lora if *rank == 0 => 0,
            Method::Lora => {
                rank * (linear.inputs + linear.outputs)
                    + self.trained.vector.map_or(0, |_| linear.outputs)
            }
            Method::Full => {
                linear.inputs * linear.outputs + if linear.bias { linear.outputs } else { 0 }
            }
        };
        self.spec
            .projections()
            .into_iter()
            .zip(&self.trained.ranks)
            .map(move |pair| of(pair) as u64)
    }

    /// Returns the bytes of the frozen base.
    fn base_bytes(&self) -> u64 {
        let number_bytes = |shape: &[usize]| {
            if shape.len() > 1 {
                self.kept_bytes()
            } else {
                F32
            }
        };
        let bytes = |(_, shape): (String, Vec<usize>)| {
            shape.iter().product::<usize>() as u64 * number_bytes(&shape)
        };
        match self.trained.method {
            Method::Full => 0,
            Method::Lora => {
                let whole: u64 = self.spec.tensors().into_iter().map(bytes).sum();
                whole
                    - self.on_host_bytes()
                    - self.replaced_tables() * self.kept_bytes()
                    - self.saved_by_packing()
            }
        }
    }

    /// Returns the bytes of an embedding that a GPU does not hold.
    fn on_host_bytes(&self) -> u64 {
        let is_on_host = self.storage.offloads_embedding && !self.spec.tied_head && self.is_apart();
        if is_on_host {
            (self.spec.vocabulary * self.spec.width) as u64 * self.kept_bytes()
        } else {
            0
        }
    }

    /// Returns whether tensors are in a memory of their own.
    fn is_apart(&self) -> bool {
        matches!(
            self.place,
            MemoryPlace::Gpu {
                is_shared: false,
                ..
            }
        )
    }

    /// Returns whether the embedding may stay in CPU memory and this saves GPU memory: it must not
    /// be tied to the head or trained whole.
    pub fn may_offload(&self) -> bool {
        let is_free = !self.is_full() && self.trained.tables[0] != OfTable::Whole;
        is_free && !self.spec.tied_head && !self.storage.offloads_embedding && self.is_apart()
    }

    /// Returns the same load with the embedding in CPU memory.
    #[must_use]
    pub fn offloaded(&self) -> Self {
        Self {
            storage: Storage {
                offloads_embedding: true,
                ..self.storage
            },
            ..self.clone()
        }
    }

    /// Returns the same load with the head quantized like the projections. `None` if they are not
    /// quantized, the head already is, it is tied to the embedding, or its own weights are trained.
    pub fn with_quantized_head(&self) -> Option<Self> {
        let is_free = !self.is_full() && self.trained.trains_no_row_of_head();
        let may = self.storage.form.is_some()
            && !self.storage.packs_head
            && !self.spec.tied_head
            && is_free;
        may.then(|| Self {
            storage: Storage {
                packs_head: true,
                ..self.storage
            },
            ..self.clone()
        })
    }

    /// Returns the shapes of quantized matrices, [out, in].
    fn packed_shapes(&self) -> impl Iterator<Item = [usize; 2]> {
        let (is_packed, spec) = (self.storage.form.is_some(), &self.spec);
        let packs_head = self.storage.packs_head && !spec.tied_head;
        let head = packs_head.then_some([spec.vocabulary, spec.width]);
        let projections = spec
            .projections()
            .into_iter()
            .map(|linear| [linear.outputs, linear.inputs]);
        projections.chain(head).filter(move |_| is_packed)
    }

    /// Returns the bytes that quantization saves of all matrices.
    fn saved_by_packing(&self) -> u64 {
        let left_dense = self.storage.left_dense;
        if let Some(stored_bytes) = self.storage.stored_bytes {
            let numbers = self
                .packed_shapes()
                .map(|shape| (shape[0] * shape[1]) as u64);
            let packed = numbers.sum::<u64>().saturating_sub(left_dense);
            return (packed * self.kept_bytes()).saturating_sub(stored_bytes);
        }
        let saved = self.packed_shapes().map(|shape| self.saved_bytes(shape));
        saved.sum::<u64>() - self.saved_bytes([1, left_dense as usize])
    }

    /// Returns the bytes that quantization saves of a matrix. A GPU holds every absmax as f32.
    fn saved_bytes(&self, shape: [usize; 2]) -> u64 {
        let form = self.storage.form.map(|form| match form {
            QuantFormat::FourBit {
                kind, block_size, ..
            } if self.is_on_gpu() => QuantFormat::FourBit {
                kind,
                block_size,
                double_quant: false,
            },
            form => form,
        });
        let dense = (shape[0] * shape[1]) as u64 * self.kept_bytes();
        form.map_or(0, |form| dense.saturating_sub(form.bytes(shape)))
    }

    /// Returns the bytes of a dequantized matrix for a product on a GPU, where only one exists at a
    /// time.
    fn unpacked_bytes(&self) -> u64 {
        if !self.is_on_gpu() {
            return 0;
        }
        // A head in pieces.
        let bytes = |[rows, columns]: [usize; 2]| (rows * columns) as u64 * self.computed_bytes();
        let cut = |shape: [usize; 2]| {
            if shape[0] == self.spec.vocabulary {
                bytes(shape).min(PIECE_BYTES)
            } else {
                bytes(shape)
            }
        };
        self.packed_shapes().map(cut).max().unwrap_or(0)
    }

    /// Returns whether this is full fine-tuning.
    pub fn is_full(&self) -> bool {
        self.trained.method == Method::Full
    }

    fn is_on_gpu(&self) -> bool {
        matches!(self.place, MemoryPlace::Gpu { .. })
    }

    /// Returns the size of the largest tensor in bytes, and its kind. Tables of the vocabulary may
    /// be in pieces.
    pub fn largest_tensor(&self) -> (u64, Largest) {
        let rows = [Some(self.rows), self.evaluation].into_iter().flatten();
        let widest = |rows: MicroBatchRows| {
            BlockBytes::of(self, rows)
                .into_iter()
                .map(|block| block.widest)
                .max()
        };
        let of_tokens = rows.filter_map(widest).max().unwrap_or(0);
        let logits = self.head_chunk_rows(usize::MAX) * self.spec.vocabulary as u64 * F32;
        let matrix = self
            .spec
            .projections()
            .iter()
            .map(|linear| linear.inputs * linear.outputs)
            .max()
            .unwrap_or(0) as u64;
        let whole = self.trainable_parameters() * F32;
        let each = [
            (of_tokens, Largest::Tokens),
            (whole, Largest::Trained),
            ((matrix * self.kept_bytes()).max(logits), Largest::Base),
        ];
        each.into_iter()
            .max_by_key(|(bytes, _)| *bytes)
            .expect("there are three")
    }

    /// Returns the bytes per element of a stored matrix.
    fn kept_bytes(&self) -> u64 {
        match self.storage.dtype {
            ModelDtype::Auto | ModelDtype::Float32 => F32,
            ModelDtype::Bfloat16 | ModelDtype::Float16 => 2,
        }
    }

    /// Returns the bytes per element of an activation.
    fn computed_bytes(&self) -> u64 {
        match self.place {
            MemoryPlace::Processor { .. } => F32,
            MemoryPlace::Gpu { .. } => self.kept_bytes(),
        }
    }

    /// Returns the number of elements of the largest trained tensor.
    fn largest_trained(&self) -> u64 {
        let of = |(linear, rank): (LinearSpec, &usize)| rank * linear.inputs.max(linear.outputs);
        let largest = match self.trained.method {
            Method::Full => self
                .spec
                .tensors()
                .into_iter()
                .map(|(_, shape)| shape.iter().product())
                .max(),
            Method::Lora => self
                .spec
                .projections()
                .into_iter()
                .zip(&self.trained.ranks)
                .map(of)
                .max(),
        };
        let of_tables = self
            .trained
            .tables
            .map(|of| of.largest([self.spec.vocabulary, self.spec.width]));
        of_tables
            .into_iter()
            .fold(largest.unwrap_or(0) as u64, u64::max)
    }

    /// Returns the memory for loading: pieces of a file that are read and transposed, or the
    /// elements of a matrix that is quantized, before the optimizer's state exists.
    fn loading_bytes(&self) -> u64 {
        let numbers = self
            .packed_shapes()
            .map(|[rows, columns]| (rows * columns) as u64 * self.kept_bytes())
            .max()
            .unwrap_or(0);
        let pieces = LOADING_BYTES.min(self.spec.parameters() as u64 * F32);
        // A matrix of which a part is taken out is there as it is read, as it is multiplied, and
        // turned.
        let matrix = || {
            self.spec
                .projections()
                .iter()
                .map(|linear| linear.inputs * linear.outputs)
                .max()
                .unwrap_or(0) as u64
        };
        let taken_apart = if self.trained.keeps_initial {
            3 * matrix() * F32
        } else {
            0
        };
        pieces
            .max(numbers + taken_apart)
            .saturating_sub(self.states_bytes())
    }

    fn head_chunk_rows(&self, labeled: usize) -> u64 {
        labeled.min(head_chunk_rows(self.spec.vocabulary)) as u64
    }
}

#[cfg(test)]
pub(super) mod tests;
