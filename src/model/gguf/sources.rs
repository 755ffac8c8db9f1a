//! Where a decoder's tensors stand in GGUF files, and the way back from llama.cpp's order of rows
//! and from its changes of numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use rayon::prelude::*;

use super::architecture::Architecture;
use super::change::{Change, Tiled};
use super::names::places;
use super::own_place;
use super::tensor_type::TensorType;
use crate::files::gguf::{Gguf, GgufTensor};
use crate::model::DecoderSpec;
use crate::quant::BlockFormat;

/// Numbers below which threads are not worth their start.
const FEW_NUMBERS: usize = 1 << 16;

/// Rows of one tensor of a file.
#[derive(Debug)]
struct Segment {
    file: usize,
    tensor: GgufTensor,
    stored: TensorType,
    rows: Range<usize>,
}

/// The source of a tensor: rows of tensors of the files, one after the other.
#[derive(Debug)]
pub(super) struct Source {
    segments: Vec<Segment>,
    /// Its shape in the model.
    shape: Vec<usize>,
    /// The change that llama.cpp needs, which is undone.
    change: Change,
}

/// The tensors of all files, with those that were asked for.
pub(super) struct Finder<'a> {
    files: &'a [Gguf],
    by_name: BTreeMap<&'a str, usize>,
    used: BTreeSet<String>,
}

impl<'a> Finder<'a> {
    pub fn new(files: &'a [Gguf]) -> Self {
        let of_file = |(index, file): (usize, &'a Gguf)| {
            file.tensors()
                .keys()
                .map(move |name| (name.as_str(), index))
        };
        Self {
            files,
            by_name: files.iter().enumerate().flat_map(of_file).collect(),
            used: BTreeSet::new(),
        }
    }

    /// Returns the names of tensors that nobody asked for.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let names = self.by_name.keys().copied();
        names.filter(|name| !self.used.contains(*name))
    }

    /// Returns rows of a tensor that should have one of these shapes; all rows without a range.
    fn segment(
        &mut self,
        name: &str,
        shapes: &[&[usize]],
        rows: Option<Range<usize>>,
    ) -> Result<Segment, String> {
        let found = self.by_name.get(name).map(|file| {
            let tensor = self.files[*file].tensor(name);
            (*file, tensor.expect("the name is one of the file's"))
        });
        let Some((file, tensor)) = found else {
            return Err(format!(
                "tensor `{name}` is missing, expected shape {:?}",
                shapes[0]
            ));
        };
        self.used.insert(name.to_owned());
        if !shapes.contains(&&tensor.shape[..]) {
            return Err(format!(
                "tensor `{name}` has shape {:?}, expected {:?}",
                tensor.shape, shapes[0]
            ));
        }
        let stored = TensorType::of_ggml(tensor.kind.id()).ok_or_else(|| {
            format!(
                "tensor `{name}` is in {}, which is not read",
                tensor.kind.name()
            )
        })?;
        Ok(Segment {
            file,
            tensor: tensor.clone(),
            stored,
            rows: rows.unwrap_or(0..tensor.rows()),
        })
    }

    /// Finds the source of a tensor of the model.
    ///
    /// # Errors
    /// What is missing or of another shape, in words.
    pub fn source(
        &mut self,
        (name, shape): (&str, &[usize]),
        architecture: &Architecture,
        spec: &DecoderSpec,
    ) -> Result<Source, String> {
        if let Some(own) = own_place(name, shape, spec) {
            // llama.cpp's converter writes the numbers of a layer as one column or as one row.
            let segment = self.segment(&own.name, &[&own.shape[..], shape], None)?;
            return Source::new(vec![segment], shape, own.change);
        }
        let unnamed = || {
            format!(
                "tensor `{name}` has no name in a file of llama.cpp's `{}`",
                architecture.name
            )
        };
        let (module, end) = name.rsplit_once('.').ok_or_else(unnamed)?;
        let places = places(module, architecture, spec).ok_or_else(unnamed)?;
        let change = Change {
            // What has no key is part of the config that was made.
            times: 1.0,
            ..architecture.change(module, end, spec)
        };
        let gguf = |module: &str| format!("{module}.{end}");
        let segments = match &places[..] {
            [only] => match only.expert {
                None => {
                    let row = if let [1, width] = shape {
                        vec![*width]
                    } else {
                        shape.to_vec()
                    };
                    vec![self.segment(&gguf(&only.module), &[shape, &row[..]], None)?]
                }
                Some(expert) => {
                    let experts = spec
                        .layers
                        .iter()
                        .find_map(|layer| layer.mlp.experts())
                        .map_or(0, |experts| experts.router.experts);
                    let stack = [&[experts], shape].concat();
                    let rows: usize = shape[..shape.len() - 1].iter().product();
                    let rows = expert * rows..(expert + 1) * rows;
                    vec![self.segment(&gguf(&only.module), &[&stack[..]], Some(rows))?]
                }
            },
            halves => {
                // The rows of a matrix are divided, or of a stack those of each matrix.
                let count: usize = shape[..shape.len() - 2].iter().product();
                let mut half = shape.to_vec();
                let rows = half.len() - 2;
                half[rows] /= halves.len();
                let rows = half[rows];
                let of = |matrix: usize| halves.iter().map(move |place| (matrix, place));
                (0..count)
                    .flat_map(of)
                    .map(|(matrix, place)| {
                        let rows = matrix * rows..(matrix + 1) * rows;
                        self.segment(&gguf(&place.module), &[&half[..]], Some(rows))
                    })
                    .collect::<Result<_, _>>()?
            }
        };
        Source::new(segments, shape, change)
    }
}

/// Returns the row of the file that is row `row` of `rows` of the model.
pub(super) fn stored_row(change: &Change, rows: usize, row: usize) -> usize {
    if let Some(heads) = change.heads {
        let head_dim = rows / heads;
        let (head, place) = (row / head_dim, row % head_dim);
        let half = head_dim / 2;
        return head * head_dim + 2 * (place % half) + place / half;
    }
    match change.tiled.filter(|tiled| !tiled.across) {
        Some(tiled) => stored_place(tiled, row),
        None => row,
    }
}

/// Returns the place in the file of a row or column of heads of values.
pub(super) fn stored_place(tiled: Tiled, place: usize) -> usize {
    let Some(inside) = place.checked_sub(tiled.first) else {
        return place;
    };
    let (head, rest) = (inside / tiled.size, inside % tiled.size);
    let (key, each) = (head / tiled.each, head % tiled.each);
    tiled.first + (each * tiled.keys + key) * tiled.size + rest
}

impl Source {
    fn new(segments: Vec<Segment>, shape: &[usize], change: Change) -> Result<Self, String> {
        let source = Self {
            segments,
            shape: shape.to_vec(),
            change,
        };
        match change.heads {
            Some(heads) if !shape[0].is_multiple_of(2 * heads) => Err(format!(
                "{} rows do not divide into {heads} heads of pairs",
                shape[0]
            )),
            _ => Ok(source),
        }
    }

    /// Returns the count of numbers of a row; vectors are one row.
    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Returns how its numbers are stored, if all of them are stored so.
    pub fn stored(&self) -> Option<TensorType> {
        let first = self.segments.first()?.stored;
        let is_same = |segment: &Segment| segment.stored == first;
        self.segments.iter().all(is_same).then_some(first)
    }

    /// Returns the format in which the model can keep its rows as blocks.
    pub fn blocks_format(&self) -> Option<BlockFormat> {
        let Some(TensorType::Blocks(format)) = self.stored() else {
            return None;
        };
        let heads_are_blocks = self
            .change
            .tiled
            .filter(|tiled| tiled.across)
            .is_none_or(|tiled| {
                tiled.size.is_multiple_of(format.numbers())
                    && tiled.first.is_multiple_of(format.numbers())
            });
        let is_matrix = self.shape.len() > 1;
        (is_matrix && heads_are_blocks && !self.changes_numbers()).then_some(format)
    }

    fn changes_numbers(&self) -> bool {
        self.change.decays || self.change.plus != 0.0
    }

    /// Returns the bytes of a row of a matrix, in the file's order of columns.
    fn row<'a>(&self, files: &'a [Gguf], row: usize) -> (&'a [u8], TensorType) {
        let mut stored = stored_row(&self.change, self.rows(), row);
        for segment in &self.segments {
            let rows = segment.rows.len();
            if stored < rows {
                let row = segment.rows.start + stored;
                let bytes = files[segment.file].row_bytes(&segment.tensor, row..row + 1);
                return (bytes, segment.stored);
            }
            stored -= rows;
        }
        unreachable!("the rows were counted")
    }

    /// Returns the bytes of blocks of some rows.
    pub fn blocks(&self, files: &[Gguf], format: BlockFormat, rows: Range<usize>) -> Vec<u8> {
        let across = self.change.tiled.filter(|tiled| tiled.across);
        let size = format.bytes();
        let row_bytes = self.width() / format.numbers() * size;
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for row in rows {
            let (stored, _) = self.row(files, row);
            let Some(tiled) = across else {
                bytes.extend_from_slice(stored);
                continue;
            };
            for block in 0..self.width() / format.numbers() {
                let from = stored_place(tiled, block * format.numbers()) / format.numbers();
                bytes.extend_from_slice(&stored[from * size..(from + 1) * size]);
            }
        }
        bytes
    }

    /// Returns the numbers of some rows of a matrix.
    pub fn numbers(&self, files: &[Gguf], rows: Range<usize>) -> Vec<f32> {
        let width = self.width();
        let mut numbers = vec![0.0; rows.len() * width];
        let first = rows.start;
        let read = |(index, numbers): (usize, &mut [f32])| {
            let (bytes, stored) = self.row(files, first + index);
            stored.decode(bytes, numbers);
            if let Some(tiled) = self.change.tiled.filter(|tiled| tiled.across) {
                let own = numbers.to_vec();
                for (column, number) in numbers.iter_mut().enumerate() {
                    *number = own[stored_place(tiled, column)];
                }
            }
        };
        if numbers.len() < FEW_NUMBERS {
            // A caller that reads so little may not have set the number of threads yet.
            numbers.chunks_mut(width.max(1)).enumerate().for_each(read);
        } else {
            numbers
                .par_chunks_mut(width.max(1))
                .enumerate()
                .for_each(read);
        }
        self.restored(numbers)
    }

    /// Returns all numbers of a vector, or of a tensor that the file has in another shape.
    pub fn all(&self, files: &[Gguf]) -> Vec<f32> {
        let is_same_width = |segment: &Segment| segment.tensor.width() == self.width();
        if self.shape.len() > 1 && self.segments.iter().all(is_same_width) {
            return self.numbers(files, 0..self.rows());
        }
        let mut stored = Vec::new();
        for segment in &self.segments {
            let mut numbers = vec![0.0; segment.rows.len() * segment.tensor.width()];
            let bytes = files[segment.file].row_bytes(&segment.tensor, segment.rows.clone());
            segment.stored.decode(bytes, &mut numbers);
            stored.append(&mut numbers);
        }
        let count = stored.len();
        let place = |place: usize| stored[stored_row(&self.change, count, place)];
        self.restored((0..count).map(place).collect())
    }

    /// Undoes the change of numbers.
    fn restored(&self, mut numbers: Vec<f32>) -> Vec<f32> {
        if self.change.decays {
            for rate in &mut numbers {
                *rate = (-*rate).ln();
            }
        }
        if self.change.plus != 0.0 {
            let plus = self.change.plus as f32;
            for number in &mut numbers {
                *number -= plus;
            }
        }
        numbers
    }
}
