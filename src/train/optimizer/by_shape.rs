//! Optimizers that update weights of one shape together: as rows [weights, n] in the order of their
//! files, so that 8-bit blocks and factors of rows and columns are those of other programs.
//!
//! An update is computed twice: once only to check that all results are finite, then to be kept. So
//! only one stack is there twice, and either every weight is updated or none.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::super::gradients::Sum;
use super::super::layout::WeightGroups;
use super::config::{OptimizerConfig, Rule, StateKind};
use super::rules::{Rates, Updated, adamw, averaged, lion, schedule_free};
use crate::model::Decoder;
use crate::nn::weight::{Group, Weight};
use crate::ops::Codes;
use crate::quant::DynamicMap;

/// Numbers that are updated together; a larger weight is updated alone.
pub const STACK: usize = 1 << 22;

/// An optimizer that updates weights of one shape together.
#[derive(Debug)]
pub struct ByShape {
    config: OptimizerConfig,
    pub(super) updates: u64,
    pub(super) slots: Vec<Slot>,
    pub(super) stacks: Vec<Stack>,
    average: Option<Average>,
    /// The weights at which gradients are taken, each in memory order, while the decoder has their
    /// average.
    pub(super) resting: Option<Vec<Tensor<1>>>,
}

/// The state of a schedule-free optimizer's average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// The highest learning rate so far.
    pub lr_max: f64,
    /// The sum of the weights of all updates.
    pub weight_sum: f64,
}

/// A weight that trains.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    group: Group,
    /// The shape in the file.
    pub shape: Vec<usize>,
    /// Whether memory has the weight transposed.
    is_turned: bool,
    kind: StateKind,
    /// Range of the weight in the row of gradients.
    place: Range<usize>,
}

/// Weights of one shape.
#[derive(Debug)]
pub(super) struct Stack {
    /// Indices in the decoder's order.
    pub members: Vec<usize>,
    pub states: Vec<State>,
}

/// One state of the weights in a stack.
#[allow(clippy::large_enum_variant, reason = "one a state of a stack")]
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Numbers, [weights, m].
    Numbers(Tensor<2>),
    Codes(Codes),
}

impl State {
    fn numbers(&self) -> Tensor<2> {
        match self {
            Self::Numbers(numbers) => numbers.clone(),
            Self::Codes(codes) => codes.unpack(),
        }
    }
}

impl Slot {
    fn new(name: &str, weight: &Weight, is_table: impl Fn(&str) -> bool, rule: Rule) -> Self {
        let shape = weight.shape();
        Self {
            group: weight.group(),
            is_turned: matches!(weight, Weight::Turned(_) | Weight::LoraB(_)),
            kind: rule.kind(&shape, is_table(name)),
            shape,
            place: 0..0,
        }
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Turns rows in memory order into the order of files.
    pub fn to_file(&self, rows: Tensor<2>) -> Tensor<2> {
        match (&self.shape[..], self.is_turned) {
            ([outputs, inputs], true) => {
                let count = rows.dims()[0];
                rows.reshape([count, *inputs, *outputs])
                    .swap_dims(1, 2)
                    .reshape([count, inputs * outputs])
            }
            _ => rows,
        }
    }

    /// The inverse of [`Slot::to_file`].
    pub fn to_memory(&self, rows: Tensor<2>) -> Tensor<2> {
        match (&self.shape[..], self.is_turned) {
            ([outputs, inputs], true) => {
                let count = rows.dims()[0];
                rows.reshape([count, *outputs, *inputs])
                    .swap_dims(1, 2)
                    .reshape([count, inputs * outputs])
            }
            _ => rows,
        }
    }

    /// Returns the names of the states with their shapes, and the map of those in codes.
    pub fn states(&self, rule: Rule) -> Vec<(&'static str, Vec<usize>, Option<DynamicMap>)> {
        let whole = |name, map| (name, self.shape.clone(), map);
        match self.kind {
            StateKind::Adam => vec![whole("first_moment.", None), whole("second_moment.", None)],
            StateKind::Adam8bit => {
                vec![
                    whole("first_moment.", Some(DynamicMap::Signed)),
                    whole("second_moment.", Some(DynamicMap::Unsigned)),
                ]
            }
            StateKind::Lion | StateKind::Muon => vec![whole("momentum.", None)],
            StateKind::Lion8bit => vec![whole("momentum.", Some(DynamicMap::Signed))],
            StateKind::ScheduleFree => {
                vec![whole("fast_sequence.", None), whole("second_moment.", None)]
            }
            StateKind::Adafactor => {
                let mut states = match self.shape[..] {
                    [rows, columns] => vec![
                        ("row_squares.", vec![rows], None),
                        ("column_squares.", vec![columns], None),
                    ],
                    _ => vec![whole("second_moment.", None)],
                };
                if matches!(rule, Rule::Adafactor(adafactor) if adafactor.beta1.is_some()) {
                    states.push(whole("momentum.", None));
                }
                states
            }
        }
    }
}

impl ByShape {
    /// Makes the optimizer before the first update.
    pub fn new(config: OptimizerConfig, decoder: &Decoder) -> Self {
        let tables = decoder.spec.tables();
        let is_table = |name: &str| {
            tables
                .iter()
                .map(|table| module(table))
                .any(|table| name == table || name.starts_with(&format!("{table}.")))
        };
        let slots = decoder.weights(|name, weight| Slot::new(name, &weight, is_table, config.rule));
        let layout = WeightGroups::of(decoder);
        let slots = slots.into_iter().enumerate().map(|(index, slot)| Slot {
            place: layout.place(index),
            ..slot
        });
        // What a schedule-free optimizer starts as are the weights themselves.
        let weights = if config.rule.averages() {
            decoder.numbers()
        } else {
            Vec::new()
        };
        Self::of_slots(config, slots.collect()).started(&weights, &decoder.device())
    }

    /// Makes an optimizer for weights of no model: matrices and vectors in the order of their
    /// files, all of which have weight decay.
    pub fn of_weights(
        config: OptimizerConfig,
        shapes: &[Vec<usize>],
        weights: &[Tensor<1>],
        device: &Device,
    ) -> Self {
        let mut end = 0;
        let slots = shapes.iter().map(|shape| {
            let start = end;
            end += shape.iter().product::<usize>();
            let kind = config.rule.kind(shape, false);
            Slot {
                group: Group::Matrix,
                shape: shape.clone(),
                is_turned: false,
                kind,
                place: start..end,
            }
        });
        Self::of_slots(config, slots.collect()).started(weights, device)
    }

    fn started(mut self, weights: &[Tensor<1>], device: &Device) -> Self {
        for stack in &mut self.stacks {
            let slot = &self.slots[stack.members[0]];
            stack.states = start(slot, &stack.members, weights, self.config.rule, device);
        }
        self
    }

    /// Makes an optimizer without states.
    fn of_slots(config: OptimizerConfig, slots: Vec<Slot>) -> Self {
        let mut alike: BTreeMap<(StateKind, Group, Vec<usize>, bool), Vec<usize>> = BTreeMap::new();
        for (index, slot) in slots.iter().enumerate() {
            alike
                .entry((slot.kind, slot.group, slot.shape.clone(), slot.is_turned))
                .or_default()
                .push(index);
        }
        let stacks = alike.into_values().flat_map(|members| {
            let together = (STACK / slots[members[0]].count().max(1)).max(1);
            members
                .chunks(together)
                .map(<[usize]>::to_vec)
                .collect::<Vec<_>>()
        });
        let stacks = stacks
            .map(|members| Stack {
                members,
                states: Vec::new(),
            })
            .collect();
        let average = config.rule.averages().then_some(Average {
            lr_max: 0.0,
            weight_sum: 0.0,
        });
        Self {
            config,
            updates: 0,
            slots,
            stacks,
            average,
            resting: None,
        }
    }

    /// Sets the counts of a resumed run. A schedule-free optimizer was saved at rest, at
    /// `training_point`.
    pub(super) fn at(
        self,
        updates: u64,
        average: Option<Average>,
        training_point: Option<Vec<Tensor<1>>>,
    ) -> Self {
        Self {
            updates,
            average: average.or(self.average),
            resting: training_point,
            ..self
        }
    }

    /// Returns the number of updates made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Returns the state of a schedule-free optimizer's average.
    pub fn average(&self) -> Option<Average> {
        self.average
    }

    pub(super) fn rule(&self) -> Rule {
        self.config.rule
    }

    /// Returns the learning rate of the next update, given the schedule's.
    pub fn learning_rate(&self, scheduled: f64) -> f64 {
        match self.config.rule {
            Rule::Adafactor(adafactor) => adafactor.learning_rate(scheduled, self.updates + 1),
            _ => scheduled,
        }
    }

    /// Updates the weights, see [`super::Optimizer::update`].
    pub(super) fn update(
        &mut self,
        decoder: &mut Decoder,
        gradients: Sum,
        learning_rate: f64,
    ) -> bool {
        self.go_on(decoder);
        let mut weights = decoder.take();
        let updated =
            self.update_numbers(&mut weights, &gradients.row, gradients.scale, learning_rate);
        decoder.put(weights);
        updated
    }

    /// Updates weights, each in memory order, by the row of their gradients times `scale`. Returns
    /// `false` if nothing was changed, because a result would not be finite.
    #[must_use]
    pub fn update_numbers(
        &mut self,
        weights: &mut [Tensor<1>],
        row: &Tensor<1>,
        scale: f64,
        learning_rate: f64,
    ) -> bool {
        let next = self.average.map(|average| average.after(learning_rate));
        let step = Step {
            row,
            scale,
            learning_rate,
            share: next.map_or(0.0, |(_, share)| share),
        };
        let marks: Vec<Tensor<2>> = self
            .stacks
            .iter()
            .flat_map(|stack| self.marks(stack, weights, step))
            .collect();
        let is_finite = marks.is_empty()
            || Tensor::cat(marks, 0)
                .into_data()
                .iter::<f32>()
                .all(f32::is_finite);
        if is_finite {
            (0..self.stacks.len()).for_each(|index| self.update_stack(index, weights, step));
            self.updates += 1;
            self.average = next.map(|(average, _)| average);
        }
        is_finite
    }

    /// Returns numbers that are finite only if all results of a stack's update are.
    fn marks(&self, stack: &Stack, weights: &[Tensor<1>], step: Step) -> Vec<Tensor<2>> {
        let slot = &self.slots[stack.members[0]];
        let (weights, gradients) = (self.rows(stack, weights), self.gradients(stack, step));
        let (weights, states) = match (self.config.rule, slot.kind) {
            // A polynomial of a matrix of norm 1 is finite whatever the matrix.
            (Rule::Muon(muon), StateKind::Muon) => (
                weights,
                vec![muon.next_momentum(gradients, stack.states[0].numbers())],
            ),
            _ => self.updated(stack, weights, gradients, step),
        };
        states
            .into_iter()
            .chain([weights])
            .map(|rows| rows.abs().sum_dim(1).sum_dim(0))
            .collect()
    }

    fn update_stack(&mut self, index: usize, weights: &mut [Tensor<1>], step: Step) {
        let stack = &self.stacks[index];
        let slot = &self.slots[stack.members[0]];
        let (rows, states) = self.updated(
            stack,
            self.rows(stack, weights),
            self.gradients(stack, step),
            step,
        );
        let maps = slot
            .states(self.config.rule)
            .into_iter()
            .map(|(_, _, map)| map);
        let states = states
            .into_iter()
            .zip(maps)
            .map(|(numbers, map)| match map {
                Some(map) => State::Codes(Codes::pack(numbers, map)),
                None => State::Numbers(numbers),
            });
        let states = states.collect();
        for (row, numbers) in split(slot.to_memory(rows)).into_iter().enumerate() {
            weights[stack.members[row]] = numbers;
        }
        self.stacks[index].states = states;
    }

    /// Returns rows and states after an update.
    fn updated(
        &self,
        stack: &Stack,
        weights: Tensor<2>,
        gradients: Tensor<2>,
        step: Step,
    ) -> Updated {
        let (slot, config) = (&self.slots[stack.members[0]], self.config.adamw);
        let [learning_rate, weight_decay] = config.rates(slot.group, step.learning_rate);
        let rates = Rates {
            learning_rate,
            weight_decay,
            update: self.updates + 1,
        };
        let mut states = stack.states.iter().map(State::numbers);
        let mut state = || states.next().expect("as many as its kind has");
        match (self.config.rule, slot.kind) {
            (Rule::Adafactor(adafactor), _) => {
                adafactor.update(weights, gradients, states.collect(), &slot.shape, rates)
            }
            (Rule::Muon(muon), StateKind::Muon) => {
                let shape = [slot.shape[0], slot.shape[1]];
                muon.update(weights, gradients, state(), shape, rates)
            }
            (_, StateKind::Lion | StateKind::Lion8bit) => {
                lion(weights, gradients, state(), config, rates)
            }
            (_, StateKind::ScheduleFree) => schedule_free(
                weights,
                gradients,
                [state(), state()],
                config,
                rates,
                step.share,
            ),
            _ => adamw(weights, gradients, [state(), state()], config, rates),
        }
    }

    /// Returns the members of a stack, [weights, n], given numbers in memory order for each weight
    /// of the decoder.
    fn rows(&self, stack: &Stack, numbers: &[Tensor<1>]) -> Tensor<2> {
        let slot = &self.slots[stack.members[0]];
        let rows = stack
            .members
            .iter()
            .map(|member| numbers[*member].clone().reshape([1, slot.count()]));
        slot.to_file(Tensor::cat(rows.collect(), 0))
    }

    fn gradients(&self, stack: &Stack, step: Step) -> Tensor<2> {
        let slot = &self.slots[stack.members[0]];
        let of = |member: &usize| {
            step.row
                .clone()
                .slice([self.slots[*member].place.clone()])
                .reshape([1, slot.count()])
        };
        slot.to_file(Tensor::cat(stack.members.iter().map(of).collect(), 0))
            .mul_scalar(step.scale)
    }

    /// Returns the weights to score and save, where gradients are taken at `weights`, each in
    /// memory order.
    pub fn averaged(&self, weights: &[Tensor<1>]) -> Vec<Tensor<1>> {
        let mut average = weights.to_vec();
        for stack in self.stacks.iter().filter(|_| self.config.rule.averages()) {
            let slot = &self.slots[stack.members[0]];
            let rows = averaged(
                self.rows(stack, weights),
                stack.states[0].numbers(),
                self.config.adamw.beta1,
            );
            for (row, numbers) in split(slot.to_memory(rows)).into_iter().enumerate() {
                average[stack.members[row]] = numbers;
            }
        }
        average
    }

    /// Switches to the averaged weights, see [`super::Optimizer::rest`].
    pub(super) fn rest(&mut self, decoder: &mut Decoder) {
        if self.config.rule.averages() && self.resting.is_none() {
            let weights = decoder.take();
            decoder.put(self.averaged(&weights));
            self.resting = Some(weights);
        }
    }

    /// Switches to the training weights, see [`super::Optimizer::go_on`].
    pub(super) fn go_on(&mut self, decoder: &mut Decoder) {
        if let Some(weights) = self.resting.take() {
            decoder.put(weights);
        }
    }
}

/// Values that all stacks share in an update.
#[derive(Clone, Copy)]
struct Step<'a> {
    row: &'a Tensor<1>,
    scale: f64,
    learning_rate: f64,
    /// The weight of the new fast sequence in the average.
    share: f64,
}

impl Average {
    /// Returns the average after an update at this rate, with the weight of that update in it.
    fn after(self, learning_rate: f64) -> (Self, f64) {
        let lr_max = self.lr_max.max(learning_rate);
        let weight_sum = self.weight_sum + lr_max * lr_max;
        let share = if weight_sum > 0.0 {
            lr_max * lr_max / weight_sum
        } else {
            0.0
        };
        (Self { lr_max, weight_sum }, share)
    }
}

/// Returns the states of a stack before the first update: zeros, and a fast sequence that equals
/// the weights.
fn start(
    slot: &Slot,
    members: &[usize],
    weights: &[Tensor<1>],
    rule: Rule,
    device: &Device,
) -> Vec<State> {
    let state = |(index, (_, shape, map)): (usize, (&str, Vec<usize>, Option<DynamicMap>))| {
        let zeros = || {
            Tensor::<2>::zeros(
                [members.len(), shape.iter().product()],
                (device, DType::F32),
            )
        };
        match map {
            Some(map) => State::Codes(Codes::pack(zeros(), map)),
            None if slot.kind == StateKind::ScheduleFree && index == 0 => {
                let rows = members
                    .iter()
                    .map(|member| weights[*member].clone().reshape([1, slot.count()]));
                State::Numbers(slot.to_file(Tensor::cat(rows.collect(), 0)))
            }
            None => State::Numbers(zeros()),
        }
    };
    slot.states(rule)
        .into_iter()
        .enumerate()
        .map(state)
        .collect()
}

/// Splits rows.
fn split(rows: Tensor<2>) -> Vec<Tensor<1>> {
    let [count, length] = rows.dims();
    (0..count)
        .map(|row| rows.clone().narrow(0, row, 1).reshape([length]))
        .collect()
}

/// Returns the module of a weight.
fn module(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}
