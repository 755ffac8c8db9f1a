//! A file of weights written anew with what adapters add: tensor after tensor in the order of the old one, a few rows in memory at
//! a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use rayon::prelude::*;

use super::Error;
use super::tally::{Tally, not_finite};
use crate::adapter::merge::{Delta, Source};
use crate::files::safetensors::{Archive, Entry};
use crate::files::{Float, Hash, NewFile, OldFile};
use crate::model::LinearSpec;

/// Numbers that are computed at a time, as far as rows allow.
const BLOCK_NUMBERS: usize = 1 << 18;
/// Pieces that wait to be written.
const PIECES_AHEAD: usize = 8;
/// Numbers of a piece where no row matters.
const PIECE_NUMBERS: usize = 1 << 12;

/// What is done to every file of a base.
pub(super) struct Rewriting<'a> {
    pub adapters: &'a [Source],
    /// Projections by the names of their weights.
    pub linears: BTreeMap<String, LinearSpec>,
    /// The type of all numbers; `None`: as they are.
    pub float: Option<Float>,
    /// Raised from outside: it ends with [`Error::Interrupted`].
    pub interrupt: &'a AtomicBool,
}

impl Rewriting<'_> {
    /// The header of the new file.
    pub fn header(&self, old: &Archive) -> Result<Vec<u8>, Error> {
        Ok(self.float.map_or_else(|| Ok(old.header().to_vec()), |float| old.header_in(float))?)
    }

    /// Bytes of the new file's tensors.
    pub fn tensor_bytes(&self, old: &Archive) -> Result<u64, Error> {
        let of = |entry: &Entry| (entry.numbers() * self.float.unwrap_or(entry.float).bytes()) as u64;
        Ok(old.entries()?.iter().map(of).sum())
    }

    /// Writes the new file; `written` is told of every piece's bytes. Returns the hash of the old one, as it was read.
    pub fn write(&self, old: &Archive, path: &Path, tally: &mut Tally, mut written: impl FnMut(usize)) -> Result<Hash, Error> {
        let mut to = NewFile::create(path)?;
        // Reading and computing are ahead of writing, which takes as long.
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        let (hash, added) = thread::scope(|scope| {
            let computing = scope.spawn(|| self.compute(old, sender));
            for piece in pieces {
                to.write(&piece)?;
                written(piece.len());
            }
            computing.join().expect("what it panics with is not caught")
        })?;
        to.finish()?;
        tally.add(&added);
        Ok(hash)
    }

    /// Sends the new file, piece by piece, until nobody takes them.
    fn compute(&self, old: &Archive, pieces: SyncSender<Vec<u8>>) -> Result<(Hash, Tally), Error> {
        let (mut from, mut tally) = (OldFile::open(old.path())?, Tally::default());
        from.next(old.header().len())?;
        let mut is_taken = pieces.send(self.header(old)?).is_ok();
        for entry in old.entries()? {
            tally.add(&self.tensor(&entry, &mut from, |piece| is_taken &= pieces.send(piece).is_ok())?);
            if !is_taken {
                break;
            }
        }
        Ok((from.hash(), tally))
    }

    fn tensor(&self, entry: &Entry, from: &mut OldFile, mut send: impl FnMut(Vec<u8>)) -> Result<Tally, Error> {
        let linear = self.linears.get(&entry.name);
        let delta = linear.map(|linear| Delta::of(self.adapters, linear)).transpose()?.flatten();
        let change = Change { delta: delta.as_ref(), from: entry.float, to: self.float.unwrap_or(entry.float) };
        let mut tally = Tally { tensors: 1, merged_tensors: u64::from(delta.is_some()), ..Tally::default() };
        let width = delta.as_ref().map_or(PIECE_NUMBERS, |delta| delta.inputs);
        let step = (BLOCK_NUMBERS / width).max(1) * width;
        for start in (0..entry.numbers()).step_by(step) {
            if self.interrupt.load(Relaxed) {
                return Err(Error::Interrupted);
            }
            let old = from.next(step.min(entry.numbers() - start) * entry.float.bytes())?;
            let (piece, block) = change.block(start / width, width, old);
            if block.not_finite > 0 {
                return Err(Error::NotFinite { tensor: entry.name.clone(), float: change.to });
            }
            send(piece);
            tally.add(&block);
        }
        Ok(tally)
    }
}

/// What is done to the numbers of a tensor.
#[derive(Clone, Copy)]
struct Change<'a> {
    delta: Option<&'a Delta>,
    from: Float,
    to: Float,
}

/// What a thread needs for a row.
struct Row {
    old: Vec<f32>,
    delta: Vec<f32>,
    sum: Vec<f32>,
    stored: Vec<f32>,
}

impl Change<'_> {
    /// Rows of `width` numbers from the row `first` on.
    fn block(&self, first: usize, width: usize, old: &[u8]) -> (Vec<u8>, Tally) {
        if self.delta.is_none() && self.from == self.to {
            return (old.to_vec(), Tally::default());
        }
        let mut new = vec![0; old.len() / self.from.bytes() * self.to.bytes()];
        let rows = old.par_chunks(width * self.from.bytes()).zip(new.par_chunks_mut(width * self.to.bytes())).enumerate();
        let empty = || Row { old: vec![0.0; width], delta: vec![0.0; width], sum: vec![0.0; width], stored: vec![0.0; width] };
        let tallies = rows.map_init(empty, |row, (index, (old, new))| self.row(first + index, row, old, new));
        // Collected first, so that they are added up in the same order every time.
        let tallies: Vec<Tally> = tallies.collect();
        let mut total = Tally::default();
        for tally in &tallies {
            total.add(tally);
        }
        (new, total)
    }

    fn row(&self, index: usize, row: &mut Row, old: &[u8], new: &mut [u8]) -> Tally {
        let numbers = new.len() / self.to.bytes();
        let (before, sum, stored) = (&mut row.old[..numbers], &mut row.sum[..numbers], &mut row.stored[..numbers]);
        self.from.decode(old, before);
        sum.copy_from_slice(before);
        if let Some(delta) = self.delta {
            delta.row(index, &mut row.delta);
            for (sum, delta) in sum.iter_mut().zip(&row.delta) {
                // -0 + 0 is 0, which is not the byte that was there.
                *sum = if *delta == 0.0 { *sum } else { *sum + delta };
            }
        }
        self.to.encode(sum, new);
        self.to.decode(new, stored);
        match self.delta {
            Some(_) => Tally::of(before, sum, stored),
            None => Tally { not_finite: not_finite(stored), ..Tally::default() },
        }
    }
}
