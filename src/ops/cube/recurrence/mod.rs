//! The recurrence on a GPU: the tokens of a document pass one after the other through the state of
//! a head, whose columns are in the registers of units.
//!
//! Let S be the state before a token with query q, key k, value v, decay α and strength β, and S' =
//! α S. Then e = v - S'ᵀ k, or v where nothing is erased, u = β e is written, k uᵀ is added to S',
//! and the output is o = Sᵀ q. With the gradient do of the output and D that of the state after the
//! token, du = Dᵀ k, the gradient of v is β du, that of S' is D' = D - k (β du)ᵀ, or D, and
//!
//! dq = S do, dk = D u - S' (β du), dβ = du · e.
//!
//! Given k and u, the columns of S are independent of one another, and so are its rows; the same
//! holds for D given k and β du. Thus forward and two of backward's walks own columns: one makes e
//! again, one finds du. Two other walks own rows: one makes the states again and reads dq and the
//! second part of dk, one makes their gradients again and reads the first part. No sum has two
//! owners.
//!
//! The gradient dg of log α is ⟨D', S'⟩. That of a token is that of the next one, plus q · dq - v ·
//! β du of the token, which needs no states: within a chunk of tokens dg is a sum from its end. The
//! sum over a long document would lose digits, so the walk over the states leaves those between
//! chunks, and the walk over their gradients begins each chunk's sum with the product of both.

mod backward;
mod columns;
mod gates;
mod gather;
mod rows;
#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::product::count;
use super::super::recurrence::{CHUNK, OF_HEAD, RecurrenceForm, Update};
use super::{cubes, element, empty, units, upload};
pub(in crate::ops) use backward::backward;
use columns::Gives;
use gates::BoundsLaunch;

/// Four rows of a state.
type Quad = Vector<f32, Const<4>>;

/// Units of a cube.
const UNITS: usize = 256;

/// The most units that share a column.
const MOST_GROUPS: usize = 16;

/// The places of the factors of query and key in the table of [`OF_HEAD`] numbers per token and
/// head, after α, β, q · k and D. When the walks are done, the first three are those of [`ALONG`].
const QUERY_FACTOR: usize = 4;
const KEY_FACTOR: usize = 5;

/// The places of q · dq - v · β du, dβ and the gradient of D.
const ALONG: usize = 0;
const OF_WRITE: usize = 1;
const OF_SKIP: usize = 2;

/// Sizes that can change between launches without a new compilation.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Lengths {
    documents: u32,
    tokens: u32,
    key_heads: u32,
    value_heads: u32,
    /// Features of a query or key.
    keys: u32,
    /// Features of a value.
    values: u32,
    /// Features of all queries, keys and values.
    channels: u32,
    /// Place of the first query among these.
    first_query: u32,
    first_key: u32,
    first_value: u32,
}

fn lengths(form: RecurrenceForm, documents: &[u32]) -> LengthsLaunch {
    let [query, key, value] = form.offsets();
    let tokens = documents.iter().sum::<u32>();
    let [
        key_heads,
        value_heads,
        keys,
        values,
        channels,
        query,
        key,
        value,
    ] = [
        form.key_heads,
        form.value_heads,
        form.key_dim,
        form.value_dim,
        form.channels(),
        query,
        key,
        value,
    ]
    .map(|length| length as u32);
    LengthsLaunch::new(
        documents.len() as u32,
        tokens,
        key_heads,
        value_heads,
        keys,
        values,
        channels,
        query,
        key,
        value,
    )
}

/// The compile-time parameters of a walk: a cube has some columns of a state, and each of its units
/// some rows of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct WalkShape {
    /// Number of tokens in shared memory at a time.
    tile: usize,
    /// Number of units that share a column.
    groups: usize,
    /// Number of vectors of rows that a unit has.
    vectors: usize,
    /// Number of columns.
    columns: usize,
    /// Whether a key erases what the state has of it.
    erases: bool,
}

impl WalkShape {
    /// Returns the shape for states of so many rows and columns, with as many tokens at a time as
    /// fit into a cube's memory, each with `per_token` numbers per row.
    fn new(
        [rows, columns]: [usize; 2],
        per_token: usize,
        beside: &CubeTensor,
        update: Update,
    ) -> Self {
        let all = rows.div_ceil(4);
        let vectors = all.div_ceil(MOST_GROUPS).max(all.min(4));
        let groups = all.div_ceil(vectors);
        let most = 1 << (UNITS / groups).ilog2();
        let columns = columns.next_power_of_two().min(most).min(32);
        let room = beside.client.properties().hardware.max_shared_memory_size;
        let fits = |tile: &usize| {
            let of_token = 4 * per_token * groups * vectors + 2 * columns + 4;
            4 * (tile * of_token + 4 * groups * columns) <= room
        };
        Self {
            tile: [16, 8, 4, 2].into_iter().find(fits).unwrap_or(1),
            groups,
            vectors,
            columns,
            erases: update == Update::Delta,
        }
    }

    fn cube(&self) -> CubeDim {
        CubeDim::new_1d((self.groups * self.columns) as u32)
    }

    /// Returns the numbers in which the cubes of a document and head store a state of so many
    /// columns.
    fn stored(&self, columns: usize) -> usize {
        columns.div_ceil(self.columns) * self.columns * self.groups * self.vectors * 4
    }

    /// Returns the cubes for states of so many columns, for each document and head.
    fn cubes(&self, columns: usize, form: RecurrenceForm, documents: &[u32]) -> CubeCount {
        cubes(documents.len() * form.value_heads * columns.div_ceil(self.columns))
    }
}

/// What a unit of a walk works on.
#[derive(CubeType, Clone, Copy)]
struct Place {
    document: usize,
    /// Of values.
    head: usize,
    /// Its column of the state.
    feature: usize,
    /// Its column of the cube.
    column: usize,
    /// Its rows, among those of a column.
    group: usize,
}

/// Returns the place of a unit, for states of so many columns.
#[cube]
fn place(columns: usize, lengths: &Lengths, #[comptime] form: WalkShape) -> Place {
    let blocks = (columns + comptime![form.columns - 1]) / form.columns;
    let heads = lengths.value_heads as usize;
    let column = UNIT_POS as usize % form.columns;
    Place {
        document: CUBE_POS / blocks / heads,
        head: CUBE_POS / blocks % heads,
        feature: CUBE_POS % blocks * form.columns + column,
        column,
        group: UNIT_POS as usize / form.columns,
    }
}

/// Returns the sum of what the units of a column have of it.
#[cube]
fn sum_groups(partial: &Shared<[f32]>, first: usize, #[comptime] form: WalkShape) -> f32 {
    let mut sum = 0.0f32;
    #[unroll]
    for group in 0..form.groups {
        sum += partial[first + group * form.columns];
    }
    sum
}

/// The operands, see [`crate::ops::recurrence`].
pub(in crate::ops) struct Given {
    pub mixed: CubeTensor,
    pub gates: CubeTensor,
    pub vectors: CubeTensor,
    pub state: CubeTensor,
}

impl Given {
    fn contiguous(self) -> Self {
        let [mixed, gates, vectors, state] =
            [self.mixed, self.gates, self.vectors, self.state].map(into_contiguous);
        Self {
            mixed,
            gates,
            vectors,
            state,
        }
    }

    /// Returns the table of numbers per token and head.
    fn table(&self, form: RecurrenceForm, documents: &[u32]) -> CubeTensor {
        let count = self.mixed.shape()[0] * form.value_heads;
        let table = empty(&self.mixed, [count, OF_HEAD], DType::F32);
        let (cubes, cube) = units(&self.mixed, count);
        let args = [&self.mixed, &self.gates, &self.vectors, &table]
            .map(|tensor| tensor.clone().into_buffer_arg());
        let [mixed, gates, vectors, to] = args;
        gates::prepare_heads::launch(
            &self.mixed.client,
            cubes,
            cube,
            mixed,
            gates,
            vectors,
            to,
            lengths(form, documents),
            bounds(form.update),
            form.update == Update::Delta,
            [&self.mixed, &self.gates, &self.vectors].map(element),
        );
        table
    }

    /// Walks over the documents: writes the outputs or the errors, and returns the last states.
    fn walk(
        &self,
        table: &CubeTensor,
        starts: &CubeTensor,
        to: &CubeTensor,
        gives: Gives,
        form: RecurrenceForm,
        documents: &[u32],
    ) -> CubeTensor {
        let last = empty(&self.state, self.state.shape(), self.state.dtype);
        let shape = WalkShape::new([form.key_dim, form.value_dim], 2, &self.mixed, form.update);
        let args = [&self.mixed, table, &self.state, starts, to, &last]
            .map(|tensor| tensor.clone().into_buffer_arg());
        let [mixed, heads, state, starts, output, to_last] = args;
        columns::walk_tokens::launch(
            &self.mixed.client,
            shape.cubes(form.value_dim, form, documents),
            shape.cube(),
            mixed,
            heads,
            state,
            starts,
            output,
            to_last,
            lengths(form, documents),
            gives,
            shape,
            [&self.mixed, &self.state, to].map(element),
        );
        last
    }
}

fn bounds(update: Update) -> BoundsLaunch {
    let [least, most] = match update {
        Update::Delta => [0.0; 2],
        Update::Sum { least, most } => [least, most],
    };
    BoundsLaunch::new(least, most)
}

/// Moves to the device the documents' first tokens and the end of the last one, then the number of
/// borders between chunks before each document and of all.
fn starts(beside: &CubeTensor, documents: &[u32]) -> CubeTensor {
    let (mut tokens, mut borders) = (vec![0], vec![0]);
    let (mut end, mut border) = (0, 0);
    for length in documents {
        end += length;
        border += borders_of(*length) as u32;
        tokens.push(end);
        borders.push(border);
    }
    upload(beside, &[tokens, borders].concat())
}

/// Returns the number of borders between the chunks of a document.
fn borders_of(length: u32) -> usize {
    (length as usize).saturating_sub(1) / CHUNK
}

/// Returns the output and the states after the last document.
pub(in crate::ops) fn forward(
    given: Given,
    form: RecurrenceForm,
    documents: &[u32],
) -> (CubeTensor, CubeTensor) {
    let given = given.contiguous();
    let tokens = given.mixed.shape()[0];
    let output = empty(&given.mixed, [tokens, form.values()], given.mixed.dtype);
    if tokens == 0 {
        return (output, given.state);
    }
    count(tokens * form.multiply_adds());
    let table = given.table(form, documents);
    let starts = starts(&given.mixed, documents);
    let last = given.walk(&table, &starts, &output, Gives::Output, form, documents);
    (output, last)
}
