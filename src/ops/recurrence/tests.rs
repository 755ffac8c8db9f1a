//! The recurrence against its definition, token by token in f64, and its gradients against finite
//! differences of that.

use burn::tensor::{Device, TensorData};
use rayon::ThreadPoolBuilder;

use super::*;
use crate::ops::backward_from;

/// Operands in f64 and the lengths of documents.
struct Case {
    form: RecurrenceForm,
    documents: Vec<u32>,
    mixed: Vec<f64>,
    gates: Vec<f64>,
    vectors: Vec<f64>,
    state: Vec<f64>,
}

const DELTA: Update = Update::Delta;
const SUM: Update = Update::Sum {
    least: 0.05,
    most: 2.5,
};

fn form(update: Update, sizes: [usize; 4]) -> RecurrenceForm {
    let [key_heads, value_heads, key_dim, value_dim] = sizes;
    RecurrenceForm {
        update,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
    }
}

/// Heads and widths below and above those of registers, heads that share a key, and parts of them.
const SIZES: [[usize; 4]; 4] = [[1, 1, 3, 2], [2, 4, 6, 5], [1, 10, 20, 17], [2, 2, 16, 33]];

/// Documents shorter and longer than a chunk, and of one token.
const DOCUMENTS: [&[u32]; 4] = [&[1], &[3, 1, 2], &[64, 65], &[150, 7, 40]];

fn drawn(count: usize, step: f64) -> Vec<f64> {
    // Rounded to f32, so that the exact result is that of what f32 gets.
    (0..count)
        .map(|index| f64::from((1.3 * (step * index as f64 + 0.7).sin()) as f32))
        .collect()
}

impl Case {
    fn new(form: RecurrenceForm, documents: &[u32]) -> Self {
        let tokens = documents.iter().sum::<u32>() as usize;
        Self {
            form,
            documents: documents.to_vec(),
            mixed: drawn(tokens * form.channels(), 0.37),
            gates: drawn(tokens * form.gates(), 1.1),
            vectors: drawn(form.vectors() * form.value_heads, 0.9),
            state: drawn(form.value_heads * form.key_dim * form.value_dim, 0.53),
        }
    }

    fn tokens(&self) -> usize {
        self.documents.iter().sum::<u32>() as usize
    }

    /// Returns the output and the last states by the definition.
    fn exact(&self) -> (Vec<f64>, Vec<f64>) {
        let form = self.form;
        let (keys, values) = (form.key_dim, form.value_dim);
        let mut output = vec![0.0; self.tokens() * form.values()];
        let mut last = Vec::new();
        let group = form.value_heads / form.key_heads;
        for head in 0..form.value_heads {
            let mut state = self.state[head * keys * values..][..keys * values].to_vec();
            let mut token = 0;
            for (document, length) in self.documents.iter().enumerate() {
                if document > 0 {
                    state.fill(0.0);
                }
                for _ in 0..*length {
                    let mixed = &self.mixed[token * form.channels()..][..form.channels()];
                    let gates = &self.gates[token * form.gates()..][..form.gates()];
                    let [q, k, v] = form.offsets();
                    let row = |first: usize| {
                        let row = mixed[first + head / group * keys..][..keys].to_vec();
                        match form.update {
                            Update::Delta => {
                                let square: f64 = row.iter().map(|x| x * x).sum();
                                row.iter().map(|x| x / (square + 1e-6).sqrt()).collect()
                            }
                            Update::Sum { .. } => row,
                        }
                    };
                    let (mut query, key) = (row(q), row(k));
                    let value = &mixed[v + head * values..][..values];
                    let softplus = |x: f64| (1.0 + x.exp()).ln();
                    let rate = self.vectors[head].exp();
                    let shift = self.vectors[form.value_heads + head];
                    let (decay, write) = match form.update {
                        Update::Delta => {
                            for x in &mut query {
                                *x /= (keys as f64).sqrt();
                            }
                            (
                                -rate * softplus(gates[form.value_heads + head] + shift),
                                1.0 / (1.0 + (-gates[head]).exp()),
                            )
                        }
                        Update::Sum { least, most } => {
                            let step = softplus(gates[head] + shift)
                                .clamp(f64::from(least), f64::from(most));
                            (-rate * step, step)
                        }
                    };
                    for x in &mut state {
                        *x *= decay.exp();
                    }
                    for column in 0..values {
                        let recalled: f64 = (0..keys)
                            .map(|row| key[row] * state[row * values + column])
                            .sum();
                        let erased = if form.update == DELTA { recalled } else { 0.0 };
                        for row in 0..keys {
                            state[row * values + column] +=
                                key[row] * write * (value[column] - erased);
                        }
                        let read: f64 = (0..keys)
                            .map(|row| query[row] * state[row * values + column])
                            .sum();
                        let skip = match form.update {
                            Update::Delta => 0.0,
                            Update::Sum { .. } => {
                                self.vectors[2 * form.value_heads + head] * value[column]
                            }
                        };
                        output[token * form.values() + head * values + column] = read + skip;
                    }
                    token += 1;
                }
            }
            last.extend(state);
        }
        (output, last)
    }

    /// Returns the operands as tensors.
    fn tensors(&self) -> (Tensor<2>, Tensor<2>, Tensor<2>, Tensor<3>) {
        let device = Device::flex();
        let of = |numbers: &[f64], shape: [usize; 2]| {
            let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
            Tensor::<2>::from_data(TensorData::new(numbers, shape), &device)
        };
        let (form, tokens) = (self.form, self.tokens());
        let [heads, keys, values] = [form.value_heads, form.key_dim, form.value_dim];
        (
            of(&self.mixed, [tokens, form.channels()]),
            of(&self.gates, [tokens, form.gates()]),
            of(&self.vectors, [form.vectors(), heads]),
            of(&self.state, [heads * keys, values]).reshape([heads, keys, values]),
        )
    }

    fn run(&self) -> (Tensor<2>, Tensor<3>) {
        let (mixed, gates, vectors, state) = self.tensors();
        let documents = self.documents.clone().into();
        recurrence(mixed, gates, vectors, state, self.form, &documents)
    }

    /// Returns the gradients of the three operands by the tape.
    fn gradients(&self, weight: &[f64]) -> [Vec<f32>; 3] {
        let (mixed, gates, vectors, state) = self.tensors();
        let leaves = [mixed, gates, vectors].map(|leaf| leaf.autodiff().require_grad());
        let [mixed, gates, vectors] = leaves.clone();
        let documents = self.documents.clone().into();
        let (output, _) = recurrence(
            mixed,
            gates,
            vectors,
            state.autodiff(),
            self.form,
            &documents,
        );
        let weight: Vec<f32> = weight.iter().map(|x| *x as f32).collect();
        let weight = TensorData::new(weight, [self.tokens(), self.form.values()]);
        let weight = Tensor::from_data(weight, &Device::flex());
        let gradients = backward_from(output, weight);
        leaves.map(|leaf| flat(leaf.grad(&gradients).expect("tracked")))
    }
}

fn flat<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

fn assert_close(ours: &[f32], exact: &[f64], bound: f64, what: &str) {
    assert_eq!(ours.len(), exact.len(), "{what}");
    let most = exact.iter().fold(1.0f64, |most, x| most.max(x.abs()));
    for (place, (ours, exact)) in ours.iter().zip(exact).enumerate() {
        assert!(
            (f64::from(*ours) - exact).abs() <= bound * most,
            "{what} at {place}: {ours}, expected {exact}"
        );
    }
}

fn cases() -> impl Iterator<Item = Case> {
    [DELTA, SUM].into_iter().flat_map(|update| {
        SIZES.iter().flat_map(move |sizes| {
            DOCUMENTS.map(|documents| Case::new(form(update, *sizes), documents))
        })
    })
}

#[test]
fn it_is_the_definition_for_documents_of_any_length() {
    for case in cases() {
        let (output, state) = case.run();
        let (exact, last) = case.exact();
        let name = format!("{:?} of {:?}", case.form, case.documents);
        assert_close(&flat(output), &exact, 2e-6, &name);
        assert_close(&flat(state), &last, 2e-6, &format!("{name}, state"));
    }
}

type Of = fn(&mut Case) -> &mut Vec<f64>;

#[test]
fn gradients_are_finite_differences_of_the_definition() {
    for (update, sizes) in [DELTA, SUM]
        .into_iter()
        .flat_map(|update| [[1, 1, 3, 2], [2, 4, 4, 3]].map(|sizes| (update, sizes)))
    {
        for documents in [&[3, 1, 2][..], &[66, 20]] {
            let mut case = Case::new(form(update, sizes), documents);
            let weight = drawn(case.tokens() * case.form.values(), 2.3);
            let ours = case.gradients(&weight);
            let operands: [Of; 3] = [
                |case| &mut case.mixed,
                |case| &mut case.gates,
                |case| &mut case.vectors,
            ];
            for (which, of) in operands.into_iter().enumerate() {
                let loss = |case: &Case| -> f64 {
                    let (output, _) = case.exact();
                    output.iter().zip(&weight).map(|(y, w)| y * w).sum()
                };
                let exact: Vec<f64> = (0..of(&mut case).len())
                    .map(|place| {
                        let (step, given) = (1e-6, of(&mut case)[place]);
                        let at = |case: &mut Case, number: f64| {
                            of(case)[place] = number;
                            loss(case)
                        };
                        let slope = (at(&mut case, given + step) - at(&mut case, given - step))
                            / (2.0 * step);
                        of(&mut case)[place] = given;
                        slope
                    })
                    .collect();
                let name = format!("{:?} of {documents:?}, operand {which}", case.form);
                assert_close(&ours[which], &exact, 5e-6, &name);
            }
        }
    }
}

#[test]
fn a_document_goes_on_from_the_state_after_its_beginning() {
    for update in [DELTA, SUM] {
        let form = form(update, [2, 4, 6, 5]);
        let whole = Case::new(form, &[150]);
        let (expected, last) = whole.run();
        let (mixed, gates, vectors, mut state) = whole.tensors();
        let mut outputs = Vec::new();
        for (start, length) in [(0, 1), (1, 70), (71, 79)] {
            let [mixed, gates] = [&mixed, &gates].map(|of| of.clone().narrow(0, start, length));
            let documents = vec![length as u32].into();
            let output;
            (output, state) = recurrence(mixed, gates, vectors.clone(), state, form, &documents);
            outputs.push(output);
        }
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<_>>();
        let ours = flat(Tensor::cat(outputs, 0));
        assert_close(&ours, &wide(flat(expected)), 2e-6, "output");
        assert_close(&flat(state), &wide(flat(last)), 2e-6, "state");
    }
}

#[test]
fn no_number_of_threads_changes_a_bit() {
    for update in [DELTA, SUM] {
        let case = Case::new(form(update, [2, 20, 6, 5]), &[70, 3, 100]);
        let weight = drawn(case.tokens() * case.form.values(), 2.3);
        let run = |threads| {
            let pool = ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| (flat(case.run().0), case.gradients(&weight)))
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn keys_that_are_all_alike_stay_exact() {
    // The matrix of a chunk is then far from 1, and its powers are beyond f32.
    let mut case = Case::new(form(DELTA, [1, 1, 4, 3]), &[130]);
    for token in case.mixed.chunks_exact_mut(case.form.channels()) {
        token[4..8].copy_from_slice(&[0.5, -0.25, 1.0, 0.75]);
    }
    case.gates.chunks_exact_mut(2).for_each(|gates| {
        gates[0] = 8.0;
        gates[1] = -9.0;
    });
    let (exact, _) = case.exact();
    assert_close(&flat(case.run().0), &exact, 2e-6, "output");
}
