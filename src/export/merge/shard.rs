//! Rewrites a weight file with the adapters added: tensor by tensor in the order of the old file,
//! with a few rows in memory at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use super::MergeError;
use super::change::Change;
use super::scores::NewScores;
use super::tally::Tally;
use crate::adapter::merge::{Delta, MergeSource, Replacement};
use crate::files::safetensors::{Archive, TensorEntry};
use crate::files::{Float, Hash, NewFile, OldFile};
use crate::model::{LinearSpec, Repacking};
use crate::quant::Quantized;

/// The numbers that are computed at a time, rounded to whole rows.
const BLOCK_NUMBERS: usize = 1 << 19;
/// The width of a row if rows do not matter.
const PIECE_NUMBERS: usize = 1 << 12;
/// The number of blocks that wait to be computed, and of pieces that wait to be written.
const AHEAD: usize = 4;
/// The message for a thread whose panic is not caught.
const PANIC: &str = "what it panics with is not caught";

/// The changes to every file of a base.
pub(super) struct Rewriting<'a> {
    pub adapters: &'a [MergeSource],
    /// Linear maps by the tensors of their weights: one map, or those of a stack.
    pub linears: BTreeMap<String, Vec<LinearSpec>>,
    /// The new head, if a tied head becomes untied.
    pub untied: Option<Untied>,
    /// The type of all numbers; `None` if it stays.
    pub float: Option<Float>,
    /// The score head that takes the place of the vocabulary's.
    pub scores: Option<&'a NewScores>,
    /// The quantization of the base, if adapters are added to what remains after it.
    pub packing: Option<&'a Repacking>,
    /// Whether to measure the loss from rounding to `Q8_0`.
    pub counts_q8_0: bool,
    /// If it is raised, the merge ends with [`MergeError::Interrupted`].
    pub interrupt: &'a AtomicBool,
    /// Computes. The run's own pool may have the writing thread alone, which waits for what is
    /// computed.
    pub pool: rayon::ThreadPool,
}

/// A new head beside the embedding that it was tied to.
pub(super) struct Untied {
    /// The embedding's tensor.
    pub embedding: String,
    /// The head's tensor.
    pub head: String,
}

impl Rewriting<'_> {
    /// Returns the header of the new file.
    pub fn header(&self, old: &Archive) -> Result<Vec<u8>, MergeError> {
        let entries = self.entries(old)?.into_iter().chain(self.head(old)?);
        let mut entries: Vec<TensorEntry> = entries.collect();
        if let Some(scores) = self.scores {
            for entry in &mut entries {
                entry.name = scores.name(&entry.name);
            }
            entries.extend(scores.added_to(old));
        }
        Ok(old.header_for(&entries, self.float)?)
    }

    /// Returns the tensors of the new file. Vocabulary tables may have more rows than in the old
    /// one.
    fn entries(&self, old: &Archive) -> Result<Vec<TensorEntry>, MergeError> {
        Ok(old
            .entries()?
            .into_iter()
            .filter(|entry| !self.leaves_out(entry))
            .map(|entry| self.grown(entry))
            .collect())
    }

    fn leaves_out(&self, entry: &TensorEntry) -> bool {
        self.scores
            .is_some_and(|scores| scores.leaves_out(&entry.name))
    }

    fn grown(&self, mut entry: TensorEntry) -> TensorEntry {
        if let Some(table) = self.maps(&entry).first().filter(|linear| linear.is_table()) {
            entry.shape = table.weight_shape().to_vec();
        }
        entry
    }

    /// Returns the bytes of the new file's tensors.
    pub fn tensor_bytes(&self, old: &Archive) -> Result<u64, MergeError> {
        let of = |entry: &TensorEntry| {
            (entry.numbers() * self.float.unwrap_or(entry.float).bytes()) as u64
        };
        let scores = self.scores.map(|scores| scores.added_to(old));
        Ok(self
            .entries(old)?
            .iter()
            .chain(&self.head(old)?)
            .chain(scores.iter().flatten())
            .map(of)
            .sum())
    }

    /// Returns the head that follows the tensors of a file, if the embedding is in it.
    pub fn head(&self, old: &Archive) -> Result<Option<TensorEntry>, MergeError> {
        let Some(untied) = &self.untied else {
            return Ok(None);
        };
        let embedding = self
            .entries(old)?
            .into_iter()
            .find(|entry| entry.name == untied.embedding);
        Ok(embedding.map(|embedding| TensorEntry {
            name: untied.head.clone(),
            ..embedding
        }))
    }

    /// Writes the new file; `written` gets the bytes of every piece. Returns the hash of the old
    /// file, as it was read.
    pub fn write(
        &self,
        old: &Archive,
        path: &Path,
        tally: &mut Tally,
        mut written: impl FnMut(usize),
    ) -> Result<Hash, MergeError> {
        let mut to = NewFile::create(path)?;
        // Reading and hashing, computing, and writing are threads of their own. What was written
        // goes back to be read into.
        let (block_sender, blocks) = sync_channel(AHEAD);
        let (piece_sender, pieces) = sync_channel(AHEAD);
        let (spare_sender, spares) = channel();
        let (hash, added) = thread::scope(|scope| {
            let reading = scope.spawn(|| self.read(old, spares, block_sender));
            let computing = scope.spawn(|| {
                self.pool
                    .install(|| self.compute(old, blocks, piece_sender))
            });
            for piece in pieces {
                to.write(&piece)?;
                written(piece.len());
                // A reader that has ended needs none.
                let _ = spare_sender.send(piece);
            }
            let (hash, added) = (reading.join(), computing.join());
            Ok::<_, MergeError>((hash.expect(PANIC)?, added.expect(PANIC)?))
        })?;
        to.finish()?;
        tally.add(&added);
        Ok(hash)
    }

    /// Sends the tensors of the old file, block by block, until the receiver closes. Returns the
    /// hash of what was read.
    fn read(
        &self,
        old: &Archive,
        spares: Receiver<Vec<u8>>,
        blocks: SyncSender<Vec<u8>>,
    ) -> Result<Hash, MergeError> {
        let mut from = OldFile::open(old.path())?;
        from.fill(&mut vec![0; old.header().len()])?;
        for entry in old.entries()? {
            for Block { numbers, .. } in self.blocks(&entry) {
                let mut block = spares.try_recv().unwrap_or_default();
                block.resize(numbers.len() * entry.float.bytes(), 0);
                from.fill(&mut block)?;
                if blocks.send(block).is_err() {
                    return Ok(from.hash());
                }
            }
        }
        Ok(from.hash())
    }

    /// Sends the new file, piece by piece, while blocks arrive and pieces are taken.
    fn compute(
        &self,
        old: &Archive,
        blocks: Receiver<Vec<u8>>,
        pieces: SyncSender<Vec<u8>>,
    ) -> Result<Tally, MergeError> {
        let (mut tally, mut spare) = (Tally::default(), Vec::new());
        let mut is_taken = pieces.send(self.header(old)?).is_ok();
        for entry in old.entries()? {
            let next = |_| blocks.recv().ok();
            if self.leaves_out(&entry) {
                self.blocks(&entry).for_each(|_| drop(blocks.recv()));
                continue;
            }
            let stored = entry.numbers();
            let entry = self.grown(entry);
            tally.add(&self.tensor((&entry, stored), next, &mut spare, |piece| {
                is_taken &= pieces.send(piece).is_ok();
            })?);
            if !is_taken {
                return Ok(tally);
            }
        }
        if let (Some(head), Some(untied)) = (self.head(old)?, &self.untied) {
            let (numbers, size) = (
                old.bytes(&untied.embedding).unwrap_or_default(),
                head.float.bytes(),
            );
            let next = |of: Range<usize>| {
                numbers
                    .get(of.start * size..of.end * size)
                    .map(<[u8]>::to_vec)
            };
            let stored = numbers.len() / size;
            tally.add(&self.tensor((&head, stored), next, &mut spare, |piece| {
                is_taken &= pieces.send(piece).is_ok();
            })?);
        }
        for (name, _, numbers) in self.scores.iter().flat_map(|scores| scores.of_file(old)) {
            let float = self.float.unwrap_or(Float::F32);
            if !numbers.iter().all(|number| number.is_finite()) {
                return Err(MergeError::NotFinite {
                    tensor: name.clone(),
                    float,
                });
            }
            let mut piece = vec![0; numbers.len() * float.bytes()];
            float.encode(numbers, &mut piece);
            let _ = pieces.send(piece);
            tally.tensors += 1;
            tally.merged_tensors += 1;
        }
        Ok(tally)
    }

    /// Sends a tensor. `next` has its first `stored` numbers; rows after them replace zeros.
    fn tensor(
        &self,
        (entry, stored): (&TensorEntry, usize),
        mut next: impl FnMut(Range<usize>) -> Option<Vec<u8>>,
        spare: &mut Vec<u8>,
        mut send: impl FnMut(Vec<u8>),
    ) -> Result<Tally, MergeError> {
        let (maps, width, to) = (
            self.maps(entry),
            self.width(entry),
            self.float.unwrap_or(entry.float),
        );
        let name = maps
            .first()
            .map_or_else(|| entry.name.clone(), LinearSpec::weight);
        let packed = self
            .packing
            .map(|packing| packing.weight(&name))
            .transpose()?
            .flatten();
        let from = if packed.is_some() {
            Float::F32
        } else {
            entry.float
        };
        let (mut tally, mut is_merged) = (
            Tally {
                tensors: 1,
                ..Tally::default()
            },
            false,
        );
        let (mut matrix, mut delta, mut rows) = (None, None, None);
        for Block {
            matrix: index,
            row,
            numbers,
        } in self.blocks(entry)
        {
            if self.interrupt.load(Relaxed) {
                return Err(MergeError::Interrupted);
            }
            if matrix != Some(index) {
                (delta, rows) = self.added(entry, maps.get(index))?;
                is_merged |= delta.is_some() || rows.is_some();
                matrix = Some(index);
            }
            // Where none comes the reader has ended, and says why.
            let here = numbers.start.min(stored)..numbers.end.min(stored);
            let piece = if here.is_empty() {
                Some(Vec::new())
            } else {
                next(here)
            };
            let Some(mut piece) = piece else { break };
            piece.resize(numbers.len() * entry.float.bytes(), 0);
            if let Some(packed) = &packed {
                piece = unpacked(packed, numbers.clone());
            }
            let change = Change {
                delta: delta.as_ref(),
                rows: rows.as_ref(),
                width,
                from,
                to,
                counts_q8_0: self.counts_q8_0,
            };
            if !change.is_none() {
                let old = std::mem::replace(&mut piece, std::mem::take(spare));
                let block = change.block(row, &old, &mut piece);
                *spare = old;
                if block.not_finite > 0 {
                    return Err(MergeError::NotFinite {
                        tensor: entry.name.clone(),
                        float: to,
                    });
                }
                tally.add(&block);
            }
            send(piece);
        }
        tally.merged_tensors = u64::from(is_merged);
        tally.count_stored(to);
        Ok(tally)
    }

    /// Returns what is added to a matrix of a tensor, or to a bias, and which of its rows are
    /// replaced.
    fn added(
        &self,
        entry: &TensorEntry,
        linear: Option<&LinearSpec>,
    ) -> Result<(Option<Delta>, Option<Replacement>), MergeError> {
        Ok(match (linear, self.biased(entry)) {
            (Some(linear), _) => (
                Delta::of(self.adapters, linear)?,
                Replacement::of(self.adapters, linear)?,
            ),
            (None, Some(linear)) => (Delta::of_bias(self.adapters, linear)?, None),
            (None, None) => (None, None),
        })
    }

    /// Returns the maps whose weights a tensor holds, in order of rows.
    fn maps(&self, entry: &TensorEntry) -> &[LinearSpec] {
        self.linears.get(&entry.name).map_or(&[], Vec::as_slice)
    }

    /// Returns the numbers per row, if the tensor has rows.
    fn width(&self, entry: &TensorEntry) -> usize {
        let of_bias = || {
            self.biased(entry)
                .map_or(PIECE_NUMBERS, |linear| linear.outputs)
        };
        self.maps(entry)
            .first()
            .map_or_else(of_bias, |linear| linear.weight_shape()[1])
    }

    /// Returns the projection that a bias belongs to.
    fn biased(&self, entry: &TensorEntry) -> Option<&LinearSpec> {
        self.linears
            .get(&format!("{}.weight", entry.name.strip_suffix(".bias")?))?
            .first()
    }

    fn blocks(&self, entry: &TensorEntry) -> impl Iterator<Item = Block> + use<> {
        let (width, matrices) = (self.width(entry), self.maps(entry).len().max(1));
        let (step, size) = (
            (BLOCK_NUMBERS / width).max(1) * width,
            entry.numbers() / matrices,
        );
        (0..matrices).flat_map(move |matrix| {
            let block = move |start: usize| {
                let numbers = matrix * size + start..matrix * size + size.min(start + step);
                Block {
                    matrix,
                    row: start / width,
                    numbers,
                }
            };
            (0..size).step_by(step).map(block)
        })
    }
}

/// Whole rows of one matrix of a tensor.
struct Block {
    /// The index of the matrix.
    matrix: usize,
    /// The first row, counted within the matrix.
    row: usize,
    /// The range of its numbers in the tensor.
    numbers: Range<usize>,
}

/// Returns some numbers of a quantized weight as a file would store them.
fn unpacked(weight: &Quantized, numbers: Range<usize>) -> Vec<u8> {
    let mut unpacked = vec![0.0; numbers.len()];
    weight.unpack_range(numbers.start, &mut unpacked);
    let mut bytes = vec![0; numbers.len() * Float::F32.bytes()];
    Float::F32.encode(&unpacked, &mut bytes);
    bytes
}
