//! Merges adapters into a GGUF base: the result is a GGUF file again. Tensors that an adapter
//! changes are quantized anew, in their own format or another; all others, and the metadata, stay
//! byte for byte.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;

use super::change::{between, plus};
use super::request::MergeRequest;
use super::tally::{Tally, lost};
use super::{MergeError, SMALL_FILES_BYTES, card, existing, name_of, open_adapters, resized};
use crate::adapter::merge::{Delta, MergeSource, Replacement};
use crate::export::card::CARD;
use crate::export::gguf::{TensorType, tensor_entry};
use crate::files::float::{Bf16, F16, Number};
use crate::files::gguf::{Gguf, GgufTensor, is_gguf_name};
use crate::files::{Hash, NewFile, check_space, hash_file, write_atomic, write_folder_atomic};
use crate::model::gguf::{Architecture, FileRows, architecture_of, file_rows};
use crate::model::{DecoderSpec, LinearSpec, Role};
use crate::quant::BlockFormat;
use crate::report::{Event, Reporter};

/// Name of a merged file that is no part of several.
const FILE: &str = "model.gguf";
/// The numbers in memory at a time, rounded to whole rows.
const BLOCK_NUMBERS: usize = 1 << 20;
/// The numbers that a thread takes at a time, rounded to whole rows.
const SHARE_NUMBERS: usize = 1 << 15;
const Q8_0: TensorType = TensorType::Blocks(BlockFormat::Q8_0);
/// The bytes that are copied at a time.
const PIECE_BYTES: usize = 4 << 20;

/// The type of the tensors that adapters change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufNumbers {
    /// As in the base, tensor by tensor.
    Own,
    /// 32 bits.
    F32,
    /// 16 bits (f16).
    F16,
    /// The upper half of an f32 (bfloat16).
    Bf16,
    /// 8-bit integers in blocks of 32; rows of other widths are f16.
    Q8_0,
}

/// Rows of a tensor that a module of an adapter changes.
struct Part<'a> {
    linear: &'a LinearSpec,
    is_bias: bool,
    place: FileRows,
}

/// What adapters do to the rows of a part.
struct Added<'a> {
    part: &'a Part<'a>,
    delta: Option<Delta>,
    rows: Option<Replacement>,
}

/// A tensor of a file.
struct Tensor<'a> {
    name: &'a str,
    old: &'a GgufTensor,
    /// Its type in the old file; `None` where it is copied.
    from: Option<TensorType>,
    to: Option<TensorType>,
    parts: &'a [Part<'a>],
}

/// Writes the merged model to `order.out`.
///
/// # Errors
/// As for [`merge`](super::merge).
pub(super) fn merge(
    order: &MergeRequest,
    paths: &[PathBuf],
    interrupt: &AtomicBool,
    report: Reporter,
) -> Result<Tally, MergeError> {
    let folder = resized(&order.base, &order.adapters)?;
    if folder.is_resized() {
        return Err(unwritable(
            "the adapters add token rows, which the metadata of the file do not have",
        ));
    }
    folder.check_weights()?;
    order.check_files(paths, report)?;
    let linears = folder.spec.modules();
    let adapters = open_adapters(order, &linears)?;
    refuse(&adapters)?;
    let files = Gguf::open_all(&paths[0])?;
    let parts = parts(&adapters, &linears, architecture_of(&files)?, &folder.spec)?;
    let merging = Merging {
        adapters: &adapters,
        interrupt,
        total_bytes: files.iter().map(Gguf::size_bytes).sum(),
        report,
    };
    let layouts = files
        .iter()
        .map(|file| Layout::of(file, &parts, order.gguf))
        .collect::<Result<Vec<_>, _>>()?;
    let mut tally = Tally {
        bytes: layouts.iter().map(|layout| layout.bytes as u64).sum(),
        ..Tally::default()
    };
    check_space(existing(&order.out), tally.bytes + SMALL_FILES_BYTES)?;
    write_folder_atomic(&order.out, |new| {
        let mut hashes: Vec<(String, Hash)> = Vec::new();
        for (index, layout) in layouts.iter().enumerate() {
            let hash = hash_file(layout.file.path())?;
            order.check(layout.file.path(), hash, report)?;
            hashes.push((name_of(layout.file.path()), hash));
            let path = new.join(file_name(index, layouts.len()));
            merging.write(layout, &path, &mut tally)?;
        }
        let card = card::card(order, &order.base, &tally, &hashes)?;
        Ok::<_, MergeError>(write_atomic(&new.join(CARD), card.as_bytes())?)
    })?;
    Ok(tally)
}

/// Returns the name of a file of several, as `gguf-split` names them.
fn file_name(index: usize, count: usize) -> String {
    match count {
        1 => FILE.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.gguf", index + 1),
    }
}

/// Returns the GGUF file of a merged model, or the first of several; `None` if it has none.
pub fn gguf_file(merged: &Path) -> Option<PathBuf> {
    let whole = merged.join(FILE);
    if whole.is_file() {
        return Some(whole);
    }
    let entries = std::fs::read_dir(merged).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| is_gguf_name(path)).min()
}

fn unwritable(reason: &str) -> MergeError {
    MergeError::NoGguf {
        reason: reason.to_owned(),
    }
}

/// Refuses adapters whose change has no place in the file.
fn refuse(adapters: &[MergeSource]) -> Result<(), MergeError> {
    for adapter in adapters {
        if adapter.unties {
            return Err(unwritable(
                "an adapter makes a tied head a table of its own, which the file does not have",
            ));
        }
        if adapter.has_bases() {
            return Err(unwritable(
                "an adapter brings tables of the base, which are not compared with blocks",
            ));
        }
    }
    Ok(())
}

/// Returns the rows that the adapters change, by the tensor in which they stand.
fn parts<'a>(
    adapters: &[MergeSource],
    linears: &'a [LinearSpec],
    architecture: &Architecture,
    spec: &DecoderSpec,
) -> Result<BTreeMap<String, Vec<Part<'a>>>, MergeError> {
    let mut parts: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for linear in linears
        .iter()
        .filter(|linear| linear.role != Role::TiedHead)
    {
        let changes =
            Delta::of(adapters, linear)?.is_some() || Replacement::of(adapters, linear)?.is_some();
        let changes_bias = Delta::of_bias(adapters, linear)?.is_some();
        let [rows, columns] = linear.weight_shape();
        for (is_bias, end, shape) in [
            (false, "weight", [rows, columns]),
            (true, "bias", [linear.outputs, 1]),
        ] {
            if !(if is_bias { changes_bias } else { changes }) {
                continue;
            }
            let places = file_rows((&linear.name, end), shape, architecture, spec);
            let places = places.filter(|_| !linear.is_turned()).ok_or_else(|| {
                let name = &linear.name;
                unwritable(&format!(
                    "`{name}` has no place in the file for what is added"
                ))
            })?;
            for place in places {
                let part = Part {
                    linear,
                    is_bias,
                    place,
                };
                parts
                    .entry(part.place.tensor.clone())
                    .or_default()
                    .push(part);
            }
        }
    }
    Ok(parts)
}

/// The new file for an old one.
struct Layout<'a> {
    file: &'a Gguf,
    header: Vec<u8>,
    /// The tensors in the order of their data, each with its place after the header.
    tensors: Vec<(usize, Tensor<'a>)>,
    /// Its size.
    bytes: usize,
}

impl<'a> Layout<'a> {
    fn of(
        file: &'a Gguf,
        parts: &'a BTreeMap<String, Vec<Part<'a>>>,
        numbers: GgufNumbers,
    ) -> Result<Self, MergeError> {
        let mut tensors = file
            .tensors()
            .iter()
            .map(|(name, old)| Tensor::of(name, old, parts.get(name), numbers))
            .collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by_key(|tensor| file.offset(tensor.old));
        if tensors.iter().all(|tensor| tensor.from == tensor.to) {
            let placed = tensors
                .into_iter()
                .map(|tensor| (file.offset(tensor.old), tensor));
            return Ok(Self {
                file,
                header: file.header().to_vec(),
                tensors: placed.collect(),
                bytes: file.size_bytes() as usize,
            });
        }
        let (alignment, mut header, mut offset) = (file.alignment()?, file.metadata().to_vec(), 0);
        let mut placed = Vec::new();
        for tensor in tensors {
            let kind = tensor.to.or(TensorType::of_ggml(tensor.old.kind.id()));
            let kind = kind.expect("what is read has a type");
            tensor_entry(&mut header, tensor.name, &tensor.old.shape, kind, offset);
            let start = offset;
            offset = (offset + tensor.bytes()).next_multiple_of(alignment);
            placed.push((start, tensor));
        }
        header.resize(header.len().next_multiple_of(alignment), 0);
        Ok(Self {
            file,
            bytes: header.len() + offset,
            header,
            tensors: placed,
        })
    }
}

impl<'a> Tensor<'a> {
    fn of(
        name: &'a str,
        old: &'a GgufTensor,
        parts: Option<&'a Vec<Part<'a>>>,
        numbers: GgufNumbers,
    ) -> Result<Self, MergeError> {
        let unchanged = Self {
            name,
            old,
            from: None,
            to: None,
            parts: &[],
        };
        let Some(parts) = parts else {
            return Ok(unchanged);
        };
        let own = TensorType::of_ggml(old.kind.id()).ok_or_else(|| {
            let kind = old.kind.name();
            unwritable(&format!(
                "tensor `{name}` is in {kind}, which is not written"
            ))
        })?;
        let to = match numbers {
            // Vectors stay in the type of computation.
            _ if old.shape.len() < 2 => own,
            GgufNumbers::Own => own,
            GgufNumbers::F32 => TensorType::F32,
            GgufNumbers::Bf16 => TensorType::BF16,
            GgufNumbers::Q8_0 if Q8_0.fits(old.width()) => Q8_0,
            GgufNumbers::F16 | GgufNumbers::Q8_0 => TensorType::F16,
        };
        Ok(Self {
            from: Some(own),
            to: Some(to),
            parts,
            ..unchanged
        })
    }

    /// Returns the size of the new tensor.
    fn bytes(&self) -> usize {
        let numbers = self.old.rows() * self.old.width();
        self.to.map_or(self.old.len(), |to| to.bytes(numbers))
    }
}

/// A merge into open files.
struct Merging<'a> {
    adapters: &'a [MergeSource],
    interrupt: &'a AtomicBool,
    total_bytes: u64,
    report: Reporter<'a>,
}

impl Merging<'_> {
    /// Writes a new file.
    fn write(&self, layout: &Layout, path: &Path, tally: &mut Tally) -> Result<(), MergeError> {
        let mut to = NewFile::create(path)?;
        to.write(&layout.header)?;
        let mut place = 0;
        for (start, tensor) in &layout.tensors {
            to.write(&vec![0; start - place])?;
            tally.tensors += 1;
            match tensor.from.zip(tensor.to) {
                None => self.copy(layout.file, tensor, &mut to)?,
                Some(types) => {
                    let numbers = self.merge(layout.file, (tensor, types), &mut to)?;
                    tally.merged_tensors += 1;
                    tally.add(&numbers);
                }
            }
            place = start + tensor.bytes();
            (self.report)(Event::Progress {
                what: "merging (MiB)".to_owned(),
                done: (layout.header.len() + place) as u64 >> 20,
                total: self.total_bytes >> 20,
            });
        }
        to.write(&vec![0; layout.bytes - layout.header.len() - place])?;
        Ok(to.finish()?)
    }

    fn copy(&self, file: &Gguf, tensor: &Tensor, to: &mut NewFile) -> Result<(), MergeError> {
        let bytes = file.row_bytes(tensor.old, 0..tensor.old.rows());
        for piece in bytes.chunks(PIECE_BYTES) {
            self.check_interrupt()?;
            to.write(piece)?;
        }
        Ok(())
    }

    fn check_interrupt(&self) -> Result<(), MergeError> {
        if self.interrupt.load(Relaxed) {
            Err(MergeError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Writes a tensor with what the adapters add.
    fn merge(
        &self,
        file: &Gguf,
        (tensor, (from, kind)): (&Tensor, (TensorType, TensorType)),
        to: &mut NewFile,
    ) -> Result<Tally, MergeError> {
        let added = |part| Added::of(self.adapters, part);
        let added = tensor
            .parts
            .iter()
            .map(added)
            .collect::<Result<Vec<_>, _>>()?;
        let (rows, width) = (tensor.old.rows(), tensor.old.width());
        let step = (BLOCK_NUMBERS / width.max(1)).max(1);
        let mut tally = Tally::default();
        for first in (0..rows).step_by(step) {
            self.check_interrupt()?;
            let range = first..rows.min(first + step);
            let stored = file.row_bytes(tensor.old, range.clone());
            let mut old = vec![0.0; range.len() * width];
            from.decode(stored, &mut old);
            let sums = sums(&added, range, &old, width);
            let mut new = kind.encode(&sums).ok_or_else(|| MergeError::NotHeld {
                tensor: tensor.name.to_owned(),
                kind: kind.name(),
            })?;
            if from == kind {
                keep_same_rows(&mut new, stored, (&old, &sums), width);
            }
            // What the type does to the old numbers anyway is no loss of the change.
            let rounded = (from != kind).then(|| kind.nearest(&old));
            let rounded = rounded.as_deref().unwrap_or(&old);
            tally.add(&counted([&old, &sums, rounded], &new, kind));
            to.write(&new)?;
        }
        match kind.float() {
            Some(float) => tally.count_stored(float),
            None => tally.in_blocks += tally.numbers,
        }
        Ok(tally)
    }
}

impl<'a> Added<'a> {
    fn of(adapters: &[MergeSource], part: &'a Part<'a>) -> Result<Self, MergeError> {
        let (delta, rows) = if part.is_bias {
            (Delta::of_bias(adapters, part.linear)?, None)
        } else {
            (
                Delta::of(adapters, part.linear)?,
                Replacement::of(adapters, part.linear)?,
            )
        };
        Ok(Self { part, delta, rows })
    }

    /// Writes the new numbers of the `index`th row of the part over the old ones.
    fn apply(&self, index: usize, row: &mut [f32]) {
        let place = &self.part.place;
        if self.part.is_bias {
            let Some(delta) = &self.delta else { return };
            let [mut bias, mut spare] = [vec![0.0; delta.inputs], vec![0.0; delta.inputs]];
            delta.pair(0, 0, [&mut bias, &mut spare]);
            let numbers = row.iter_mut().zip(&place.rows);
            numbers.for_each(|(number, place)| *number = plus(*number, bias[*place]));
            return;
        }
        let own = place.rows[index];
        if let Some((rows, new)) = self
            .rows
            .as_ref()
            .and_then(|rows| Some((rows, rows.row(own)?)))
        {
            let numbers = row.iter_mut().zip(new);
            numbers.for_each(|(old, new)| *old = between(*old, *new, rows.weight));
            return;
        }
        let Some(delta) = &self.delta else { return };
        let [mut sum, mut spare] = [vec![0.0; row.len()], vec![0.0; row.len()]];
        delta.pair(own, 0, [&mut sum, &mut spare]);
        if let Some(columns) = &place.columns {
            let moved: Vec<f32> = columns.iter().map(|column| sum[*column]).collect();
            sum = moved;
        }
        let numbers = row.iter_mut().zip(&sum);
        numbers.for_each(|(number, added)| *number = plus(*number, *added));
        let norm = || {
            let squares = row.iter().map(|number| f64::from(*number).powi(2));
            squares.sum::<f64>().sqrt()
        };
        if let Some(factor) = delta.factor(own, norm) {
            for number in row {
                *number *= factor;
            }
        }
    }
}

/// Returns rows with what is added to them; those without stay.
fn sums(added: &[Added], rows: Range<usize>, old: &[f32], width: usize) -> Vec<f32> {
    let mut sums = old.to_vec();
    let each = (SHARE_NUMBERS / width.max(1)).max(1);
    let first = rows.start;
    sums.par_chunks_mut(each * width.max(1))
        .enumerate()
        .for_each(|(share, numbers)| {
            for (index, row) in numbers.chunks_mut(width.max(1)).enumerate() {
                let row_of_file = first + share * each + index;
                for added in added {
                    let place = &added.part.place;
                    // A bias is one row.
                    let count = if added.part.is_bias {
                        1
                    } else {
                        place.rows.len()
                    };
                    if let Some(index) = row_of_file
                        .checked_sub(place.first)
                        .filter(|index| *index < count)
                    {
                        added.apply(index, row);
                    }
                }
            }
        });
    sums
}

/// Puts back the bytes of rows to which nothing was added.
fn keep_same_rows(new: &mut [u8], stored: &[u8], (old, sums): (&[f32], &[f32]), width: usize) {
    let row_bytes = new.len() / (old.len() / width.max(1)).max(1);
    let rows = new.chunks_mut(row_bytes).zip(stored.chunks(row_bytes));
    let numbers = old.chunks(width).zip(sums.chunks(width));
    for ((new, stored), (old, sums)) in rows.zip(numbers) {
        if old
            .iter()
            .zip(sums)
            .all(|(old, sum)| old.to_bits() == sum.to_bits())
        {
            new.copy_from_slice(stored);
        }
    }
}

/// Counts what became of numbers that were `old` and should have become `sums`; `rounded` are the
/// old ones in the new type.
#[allow(
    clippy::float_cmp,
    reason = "a number that was stored as another one is what is counted"
)]
fn counted([old, sums, rounded]: [&[f32]; 3], new: &[u8], kind: TensorType) -> Tally {
    let mut stored = vec![0.0; old.len()];
    kind.decode(new, &mut stored);
    let mut tally = Tally {
        numbers: old.len() as u64,
        ..Tally::default()
    };
    let square = |number: f32| f64::from(number) * f64::from(number);
    let all = old.iter().zip(sums).zip(rounded.iter().zip(&stored));
    for ((old, sum), (rounded, stored)) in all {
        tally.changed += u64::from(old != stored);
        tally.added += square(sum - old);
        tally.lost += square(lost(*old, *sum, *rounded, *stored));
        let [half, brain] = [F16::nearest as fn(f32) -> f32, Bf16::nearest]
            .map(|nearest| lost(*old, *sum, nearest(*old), nearest(*sum)));
        tally.lost_in_f16 += square(half);
        tally.lost_in_bf16 += square(brain);
    }
    tally
}
