//! Backward of the recurrence: its walks, and what gathers their results.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::super::product::count;
use super::super::super::recurrence::{RecurrenceForm, Update};
use super::super::{cubes, element, empty, sharing, units};
use super::columns::{self, Gives};
use super::{Given, UNITS, WalkShape, borders_of, bounds, gates, gather, lengths, rows, starts};

/// The operands, the gradient of the output and what all kernels need of them.
struct Walks<'a> {
    given: Given,
    gradient: CubeTensor,
    table: CubeTensor,
    starts: CubeTensor,
    form: RecurrenceForm,
    documents: &'a [u32],
}

/// Returns the gradients of `mixed`, `gates` and `vectors`, given that of the output.
pub(in crate::ops) fn backward(
    given: Given,
    gradient: CubeTensor,
    form: RecurrenceForm,
    documents: &[u32],
) -> [CubeTensor; 3] {
    let (given, gradient) = (given.contiguous(), into_contiguous(gradient));
    let tokens = given.mixed.shape()[0];
    if tokens == 0 {
        return [given.mixed, given.gates, given.vectors]
            .map(|of| Cube::float_zeros(of.shape(), &of.device, of.dtype.into()));
    }
    count(RecurrenceForm::BACKWARD * tokens * form.multiply_adds());
    let walks = Walks {
        table: given.table(form, documents),
        starts: starts(&given.mixed, documents),
        given,
        gradient,
        form,
        documents,
    };
    let writes = walks.writes();
    let pairs = walks.pairs(&writes);
    let of_mixed = walks.assembled(writes, &pairs);
    let [of_gates, of_vectors] = walks.gates(pairs);
    [of_mixed, of_gates, of_vectors]
}

impl Walks<'_> {
    fn erases(&self) -> bool {
        self.form.update == Update::Delta
    }

    /// Returns the number of heads of all tokens.
    fn heads(&self) -> usize {
        self.given.mixed.shape()[0] * self.form.value_heads
    }

    /// Returns e, where it is not v, and du after it.
    fn writes(&self) -> CubeTensor {
        let Self {
            given,
            table,
            starts,
            form,
            documents,
            ..
        } = self;
        let shape = [1 + usize::from(self.erases()), self.heads(), form.value_dim];
        let writes = empty(&given.mixed, shape, DType::F32);
        if self.erases() {
            given.walk(table, starts, &writes, Gives::Errors, *form, documents);
        }
        let shape = WalkShape::new([form.key_dim, form.value_dim], 2, &given.mixed, form.update);
        let [mixed, table, by, starts, to] = [&given.mixed, table, &self.gradient, starts, &writes]
            .map(|tensor| tensor.clone().into_buffer_arg());
        columns::walk_back::launch(
            &given.mixed.client,
            shape.cubes(form.value_dim, *form, documents),
            shape.cube(),
            mixed,
            table,
            by,
            starts,
            to,
            lengths(*form, documents),
            shape,
            element(&given.mixed),
        );
        writes
    }

    /// Returns dq and dk, [tokens, heads, features] each, and, at borders between chunks, the
    /// products of states and their gradients, and the states.
    fn pairs(&self, writes: &CubeTensor) -> CubeTensor {
        let (given, form, documents) = (&self.given, self.form, self.documents);
        let shape = WalkShape::new([form.value_dim, form.key_dim], 3, &given.mixed, form.update);
        let borders: usize = documents.iter().map(|length| borders_of(*length)).sum();
        let of_borders = borders * form.value_heads * (form.key_dim + shape.stored(form.key_dim));
        let pairs = empty(
            &given.mixed,
            [2 * self.heads() * form.key_dim + of_borders],
            DType::F32,
        );
        let args = || {
            [
                &given.mixed,
                &self.table,
                &self.gradient,
                writes,
                &self.starts,
                &pairs,
            ]
            .map(|tensor| tensor.clone().into_buffer_arg())
        };
        let [mixed, table, by, from, starts, to] = args();
        rows::read_states::launch(
            &given.mixed.client,
            shape.cubes(form.key_dim, form, documents),
            shape.cube(),
            mixed,
            table,
            by,
            from,
            given.state.clone().into_buffer_arg(),
            starts,
            to,
            lengths(form, documents),
            shape,
            [&given.mixed, &given.state].map(element),
        );
        let [mixed, table, by, from, starts, to] = args();
        rows::read_gradients::launch(
            &given.mixed.client,
            shape.cubes(form.key_dim, form, documents),
            shape.cube(),
            mixed,
            table,
            by,
            from,
            starts,
            to,
            lengths(form, documents),
            shape,
            element(&given.mixed),
        );
        pairs
    }

    /// Returns the gradient of queries, keys and values, and leaves the gates' in the table.
    fn assembled(&self, writes: CubeTensor, pairs: &CubeTensor) -> CubeTensor {
        let (given, form, documents) = (&self.given, self.form, self.documents);
        let of_mixed = empty(&given.mixed, given.mixed.shape(), given.mixed.dtype);
        let args = || {
            [&given.mixed, &self.table, pairs, &of_mixed]
                .map(|tensor| tensor.clone().into_buffer_arg())
        };
        let units = sharing(form.value_dim.max(form.key_dim));
        let [mixed, table, of_pairs, to] = args();
        gather::gather_values::launch(
            &given.mixed.client,
            cubes(self.heads()),
            CubeDim::new_1d(units),
            mixed,
            table,
            self.gradient.clone().into_buffer_arg(),
            writes.into_buffer_arg(),
            of_pairs,
            to,
            lengths(form, documents),
            units as usize,
            self.erases(),
            element(&given.mixed),
        );
        let units = sharing(form.key_dim);
        let [mixed, table, of_pairs, to] = args();
        gather::gather_keys::launch(
            &given.mixed.client,
            cubes(given.mixed.shape()[0] * form.key_heads),
            CubeDim::new_1d(units),
            mixed,
            table,
            of_pairs,
            to,
            lengths(form, documents),
            units as usize,
            self.erases(),
            element(&given.mixed),
        );
        of_mixed
    }

    /// Returns the gradients of gates and vectors.
    fn gates(self, pairs: CubeTensor) -> [CubeTensor; 2] {
        let erases = self.erases();
        let Given {
            mixed,
            gates,
            vectors,
            ..
        } = self.given;
        let (form, documents) = (self.form, self.documents);
        let [of_gates, of_vectors] = [&gates, &vectors].map(|of| empty(of, of.shape(), of.dtype));
        let of_documents = empty(
            &mixed,
            [documents.len(), form.vectors(), form.value_heads],
            DType::F32,
        );
        let (client, elements) = (mixed.client.clone(), [&gates, &vectors].map(element));
        let args = [
            gates,
            vectors,
            self.table,
            self.starts,
            pairs,
            of_gates.clone(),
            of_documents.clone(),
        ]
        .map(CubeTensor::into_buffer_arg);
        let [gates, vectors, table, starts, pairs, to, to_documents] = args;
        gates::scan_gates::launch(
            &client,
            cubes(documents.len() * form.value_heads),
            CubeDim::new_1d(UNITS as u32),
            gates,
            vectors,
            table,
            starts,
            pairs,
            to,
            to_documents,
            lengths(form, documents),
            bounds(form.update),
            UNITS,
            erases,
            elements,
        );
        let numbers = form.vectors() * form.value_heads;
        let (cubes, cube) = units(&mixed, numbers);
        let [from, to] = [of_documents, of_vectors.clone()].map(CubeTensor::into_buffer_arg);
        gates::sum_documents::launch(
            &client,
            cubes,
            cube,
            from,
            to,
            documents.len() as u32,
            numbers as u32,
            elements[1],
        );
        [of_gates, of_vectors]
    }
}
