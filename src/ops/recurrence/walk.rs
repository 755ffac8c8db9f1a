//! The recurrence over documents and heads, and its gradients, on numbers in this process's memory.
//!
//! A document and a few heads that share a key are a piece of work. Its results do not depend on
//! the number of threads, and of its states it keeps those between chunks only while it runs.

use std::ops::Range;

use rayon::prelude::*;

use super::chunk::{CHUNK, OfTiles, Tiles, advance, backward, forward, padded};
use super::form::{Gate, RecurrenceForm, Update, product_of};
use crate::ops::product::count;

/// The most heads in a piece of work.
const PART: usize = 8;

/// The operands of the recurrence.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// Queries, keys and values, [tokens, channels].
    pub mixed: &'a [f32],
    /// Gates, [tokens, gates].
    pub gates: &'a [f32],
    /// Vectors, [vectors, heads].
    pub vectors: &'a [f32],
    /// States before the first document, [heads, features of a key, features of a value].
    pub state: &'a [f32],
    /// Lengths of the documents.
    pub documents: &'a [u32],
    /// The shape.
    pub form: RecurrenceForm,
}

/// The results of forward.
pub(super) struct Mixed {
    /// The output, [tokens, values].
    pub output: Vec<f32>,
    /// States after the last document, as those before the first.
    pub state: Vec<f32>,
}

/// Gradients of the operands.
pub(super) struct Gradients {
    pub mixed: Vec<f32>,
    pub gates: Vec<f32>,
    pub vectors: Vec<f32>,
}

/// Heads of a document that share a key.
struct Part {
    tokens: Range<usize>,
    key_head: usize,
    heads: Range<usize>,
    /// Whether the document goes on from the given state.
    goes_on: bool,
}

/// Gradients of a part, token by token.
struct OfPart {
    query: Vec<f32>,
    key: Vec<f32>,
    /// [tokens, heads, features].
    value: Vec<f32>,
    /// [tokens, heads].
    gate: Vec<Gate>,
    /// Of D, [heads].
    skip: Vec<f32>,
}

impl Given<'_> {
    /// Returns the tokens of each document.
    fn tokens(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let of = |length: &u32| {
            let tokens = start..start + *length as usize;
            start = tokens.end;
            tokens
        };
        self.documents.iter().map(of).collect()
    }

    /// Returns the parts of one document after the other, each of which has as many.
    fn parts(&self) -> Vec<Part> {
        let group = self.form.value_heads / self.form.key_heads;
        let of_document = |(document, tokens): (usize, Range<usize>)| {
            (0..self.form.key_heads).flat_map(move |key_head| {
                let tokens = tokens.clone();
                (0..group).step_by(PART).map(move |first| Part {
                    tokens: tokens.clone(),
                    key_head,
                    heads: key_head * group + first..key_head * group + group.min(first + PART),
                    goes_on: document == 0,
                })
            })
        };
        self.tokens()
            .into_iter()
            .enumerate()
            .flat_map(of_document)
            .collect()
    }

    fn widths(&self) -> [usize; 2] {
        [self.form.key_dim, self.form.value_dim]
    }

    /// Returns the state of a head before a part, with padded rows.
    fn state_before(&self, part: &Part, head: usize) -> Vec<f32> {
        let [key_dim, value_dim] = self.widths();
        let values = padded(value_dim);
        let mut state = vec![0.0; key_dim * values];
        if part.goes_on {
            let given = &self.state[head * key_dim * value_dim..][..key_dim * value_dim];
            for (state, given) in state
                .chunks_exact_mut(values)
                .zip(given.chunks_exact(value_dim))
            {
                state[..value_dim].copy_from_slice(given);
            }
        }
        state
    }

    fn tiles(&self) -> Tiles {
        Tiles::new(self.widths(), self.form.update == Update::Delta)
    }

    /// Fills tiles with a chunk of a head; returns the factors of its queries and keys.
    fn fill(
        &self,
        tiles: &mut Tiles,
        tokens: Range<usize>,
        key_head: usize,
        head: usize,
    ) -> Vec<[f32; 2]> {
        let ([key_dim, value_dim], form) = (self.widths(), self.form);
        let [of_query, of_key, of_value] = form.offsets();
        let (channels, scale) = (form.channels(), form.query_scale());
        tiles.rows = tokens.len();
        let mut sum = 0.0_f64;
        let mut factors = Vec::with_capacity(tokens.len());
        for (row, token) in tokens.enumerate() {
            let mixed = &self.mixed[token * channels..][..channels];
            let query = &mixed[of_query + key_head * key_dim..][..key_dim];
            let key = &mixed[of_key + key_head * key_dim..][..key_dim];
            let lengths = [query, key].map(|of| form.inverse_length(of));
            let to = &mut tiles.query[row * padded(key_dim)..][..key_dim];
            for (to, query) in to.iter_mut().zip(query) {
                *to = query * lengths[0] * scale;
            }
            let to = &mut tiles.key[row * padded(key_dim)..][..key_dim];
            for (to, key) in to.iter_mut().zip(key) {
                *to = key * lengths[1];
            }
            tiles.value[row * padded(value_dim)..][..value_dim]
                .copy_from_slice(&mixed[of_value + head * value_dim..][..value_dim]);
            let gate = form.gate(self.gates_of(token), self.vectors, head);
            sum += f64::from(gate.log_decay);
            (tiles.decay[row], tiles.write[row]) = (sum, gate.write);
            factors.push(lengths);
        }
        factors
    }

    fn gates_of(&self, token: usize) -> &[f32] {
        let gates = self.form.gates();
        &self.gates[token * gates..][..gates]
    }

    /// Returns the chunks of a part.
    fn chunks(part: &Part) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let Range { start, end } = part.tokens;
        (0..(end - start).div_ceil(CHUNK)).map(move |chunk| {
            let first = start + chunk * CHUNK;
            first..end.min(first + CHUNK)
        })
    }

    /// Returns the output of a part, [tokens, heads, features], and its last states.
    fn forward_part(&self, part: &Part) -> Mixed {
        let ([key_dim, value_dim], heads) = (self.widths(), part.heads.len());
        let values = padded(value_dim);
        count(part.tokens.len() * heads * self.form.multiply_adds() / self.form.value_heads);
        let mut output = vec![0.0; part.tokens.len() * heads * value_dim];
        let mut states = Vec::with_capacity(heads * key_dim * value_dim);
        let (mut tiles, mut of_chunk) = (self.tiles(), vec![0.0; CHUNK * values]);
        for (place, head) in part.heads.clone().enumerate() {
            let mut state = self.state_before(part, head);
            for tokens in Self::chunks(part) {
                self.fill(&mut tiles, tokens.clone(), part.key_head, head);
                forward(&mut tiles, &mut state, &mut of_chunk);
                let skip = self.form.skip(self.vectors, head);
                for (row, token) in tokens.enumerate() {
                    let at = ((token - part.tokens.start) * heads + place) * value_dim;
                    let output = &mut output[at..at + value_dim];
                    output.copy_from_slice(&of_chunk[row * values..][..value_dim]);
                    let value = &tiles.value[row * values..][..value_dim];
                    for (output, value) in output.iter_mut().zip(value) {
                        *output += skip.unwrap_or(0.0) * value;
                    }
                }
            }
            states.extend(state.chunks_exact(values).flat_map(|row| &row[..value_dim]));
        }
        Mixed {
            output,
            state: states,
        }
    }

    /// Returns the gradients of a part, given that of the output.
    fn backward_part(&self, part: &Part, gradient: &[f32]) -> OfPart {
        let ([key_dim, value_dim], heads) = (self.widths(), part.heads.len());
        let [keys, values] = self.widths().map(padded);
        let length = part.tokens.len();
        count(
            RecurrenceForm::BACKWARD * length * heads * self.form.multiply_adds()
                / self.form.value_heads,
        );
        let mut of = OfPart {
            query: vec![0.0; length * key_dim],
            key: vec![0.0; length * key_dim],
            value: vec![0.0; length * heads * value_dim],
            gate: Vec::new(),
            skip: vec![0.0; heads],
        };
        let nothing = Gate {
            log_decay: 0.0,
            write: 0.0,
        };
        of.gate.resize(length * heads, nothing);
        let (mut tiles, mut of_tiles) = (self.tiles(), OfTiles::new(self.widths()));
        for (place, head) in part.heads.clone().enumerate() {
            let mut states = vec![self.state_before(part, head)];
            for tokens in Self::chunks(part).take(length.div_ceil(CHUNK).saturating_sub(1)) {
                let mut state = states[states.len() - 1].clone();
                self.fill(&mut tiles, tokens, part.key_head, head);
                advance(&mut tiles, &mut state);
                states.push(state);
            }
            let mut of_state = vec![0.0; key_dim * values];
            for (tokens, state) in Self::chunks(part).rev().zip(states.iter().rev()) {
                let factors = self.fill(&mut tiles, tokens.clone(), part.key_head, head);
                for (row, token) in tokens.clone().enumerate() {
                    let from = token * self.form.values() + head * value_dim;
                    of_tiles.output[row * values..][..value_dim]
                        .copy_from_slice(&gradient[from..from + value_dim]);
                }
                backward(&mut tiles, &mut of_tiles, state, &mut of_state);
                let skip = self.form.skip(self.vectors, head);
                for (row, token) in tokens.enumerate() {
                    let at = token - part.tokens.start;
                    let (row_of_keys, row_of_values) = (row * keys, row * values);
                    let [query, key] = [
                        (&of_tiles.query, &tiles.query, self.form.query_scale()),
                        (&of_tiles.key, &tiles.key, 1.0),
                    ]
                    .map(|(gradient, unit, scale)| {
                        let at = row_of_keys..row_of_keys + key_dim;
                        (&gradient[at.clone()], &unit[at], scale)
                    });
                    let to = at * key_dim..(at + 1) * key_dim;
                    self.add_along(&mut of.query[to.clone()], query, factors[row][0]);
                    self.add_along(&mut of.key[to], key, factors[row][1]);
                    let to = (at * heads + place) * value_dim;
                    of.value[to..to + value_dim]
                        .copy_from_slice(&of_tiles.value[row_of_values..][..value_dim]);
                    if let Some(skip) = skip {
                        let output = &of_tiles.output[row_of_values..][..value_dim];
                        let value = &tiles.value[row_of_values..][..value_dim];
                        for ((to, output), value) in of.value[to..to + value_dim]
                            .iter_mut()
                            .zip(output)
                            .zip(value)
                        {
                            *to += skip * output;
                            of.skip[place] += output * value;
                        }
                    }
                    of.gate[at * heads + place] = Gate {
                        log_decay: of_tiles.decay[row],
                        write: of_tiles.write[row],
                    };
                }
            }
        }
        of
    }

    /// Adds the gradient of a row to `sum`, given that of the row after its normalization: s r (g -
    /// x̂ (x̂ · g)), with the normalized row s x̂.
    fn add_along(
        &self,
        sum: &mut [f32],
        (gradient, unit, scale): (&[f32], &[f32], f32),
        inverse_length: f32,
    ) {
        let along = match self.form.update {
            Update::Delta => product_of(gradient, unit) / (scale * scale),
            Update::Sum { .. } => 0.0,
        };
        for ((sum, gradient), unit) in sum.iter_mut().zip(gradient).zip(unit) {
            *sum += scale * inverse_length * (gradient - unit * along);
        }
    }
}

/// Computes the recurrence.
pub(super) fn mix(given: &Given) -> Mixed {
    let (parts, form) = (given.parts(), given.form);
    let mixed: Vec<Mixed> = parts
        .par_iter()
        .with_max_len(1)
        .map(|part| given.forward_part(part))
        .collect();
    let tokens = given.tokens();
    let count = parts.len() / tokens.len().max(1);
    let mut output = vec![0.0; tokens.last().map_or(0, |last| last.end) * form.values()];
    let mut rest = &mut output[..];
    for (tokens, mixed) in tokens.iter().zip(mixed.chunks(count.max(1))) {
        let (own, after) = rest.split_at_mut(tokens.len() * form.values());
        rest = after;
        own.par_chunks_exact_mut(form.values())
            .with_min_len(16)
            .enumerate()
            .for_each(|(token, output)| {
                let mut output = output;
                for part in mixed {
                    let width = part.output.len() / tokens.len();
                    let (own, after) = output.split_at_mut(width);
                    own.copy_from_slice(&part.output[token * width..][..width]);
                    output = after;
                }
            });
    }
    let last = mixed.len().saturating_sub(count);
    Mixed {
        output,
        state: mixed[last..]
            .iter()
            .flat_map(|part| &part.state)
            .copied()
            .collect(),
    }
}

/// Returns the gradients of [`mix`], given that of its output.
pub(super) fn gradients(given: &Given, gradient: &[f32]) -> Gradients {
    let (parts, form) = (given.parts(), given.form);
    let of_parts: Vec<OfPart> = parts
        .par_iter()
        .with_max_len(1)
        .map(|part| given.backward_part(part, gradient))
        .collect();
    let tokens = given.tokens();
    let count = parts.len() / tokens.len().max(1);
    let all = tokens.last().map_or(0, |last| last.end);
    let mut of = Gradients {
        mixed: vec![0.0; all * form.channels()],
        gates: vec![0.0; all * form.gates()],
        vectors: vec![0.0; form.vectors() * form.value_heads],
    };
    let mut rest = &mut of.mixed[..];
    for ((tokens, parts), of_parts) in tokens
        .iter()
        .zip(parts.chunks(count.max(1)))
        .zip(of_parts.chunks(count.max(1)))
    {
        let (own, after) = rest.split_at_mut(tokens.len() * form.channels());
        rest = after;
        own.par_chunks_exact_mut(form.channels())
            .with_min_len(16)
            .enumerate()
            .for_each(|(token, mixed)| gather(form, parts, of_parts, token, mixed));
        for (part, of_part) in parts.iter().zip(of_parts) {
            of_gates(given, &mut of.gates, &mut of.vectors, part, of_part);
        }
    }
    of
}

/// Adds up the gradients of a token's queries, keys and values.
fn gather(
    form: RecurrenceForm,
    parts: &[Part],
    of_parts: &[OfPart],
    token: usize,
    mixed: &mut [f32],
) {
    let (key_dim, value_dim) = (form.key_dim, form.value_dim);
    let [of_query, of_key, of_value] = form.offsets();
    for (part, of_part) in parts.iter().zip(of_parts) {
        for (first, numbers) in [(of_query, &of_part.query), (of_key, &of_part.key)] {
            let to = &mut mixed[first + part.key_head * key_dim..][..key_dim];
            for (to, number) in to.iter_mut().zip(&numbers[token * key_dim..]) {
                *to += number;
            }
        }
        let width = part.heads.len() * value_dim;
        mixed[of_value + part.heads.start * value_dim..][..width]
            .copy_from_slice(&of_part.value[token * width..][..width]);
    }
}

/// Turns the gradients of a part's gates into those of what they are made of.
fn of_gates(given: &Given, gates: &mut [f32], vectors: &mut [f32], part: &Part, of_part: &OfPart) {
    let form = given.form;
    let heads = part.heads.len();
    for (token, of_gates) in part.tokens.clone().zip(of_part.gate.chunks_exact(heads)) {
        for (head, of_gate) in part.heads.clone().zip(of_gates) {
            let of = form.gate_gradient(given.gates_of(token), given.vectors, head, *of_gate);
            let to = &mut gates[token * form.gates()..][..form.gates()];
            to[form.step_place(head)] = of.step;
            if form.update == Update::Delta {
                to[head] = of.write;
            }
            vectors[head] += of.rate;
            vectors[form.value_heads + head] += of.step;
        }
    }
    if form.vectors() == 3 {
        for (head, of_skip) in part.heads.clone().zip(&of_part.skip) {
            vectors[2 * form.value_heads + head] += of_skip;
        }
    }
}
