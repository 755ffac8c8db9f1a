//! The optimizer's state as tensors of a file. Each tensor has the name of its state followed by
//! that of its weight, in the order of the weight's file. Codes are bytes, with the absmax of their
//! blocks beside them.

use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::Dtype;

use super::super::TrainError;
use super::super::state;
use super::by_shape::{ByShape, State};
use super::{AdamW, Optimizer, OptimizerConfig, Rule};
use crate::files::safetensors::{Archive, Described, write_f32_lazily, write_lazily};
use crate::model::Decoder;
use crate::nn::weight::Weight;
use crate::ops::Codes;
use crate::quant::STATE_BLOCK;

/// Prefixes of `AdamW`'s states.
const MOMENTS: [&str; 2] = ["first_moment.", "second_moment."];
/// Infix for the absmax of a state's blocks, between the names of state and weight.
const ABSMAX: &str = "absmax.";
/// Prefix of the weights at which gradients are taken, where the product is an average.
const TRAINING_POINT: &str = "training_point.";

/// A tensor of the state of an optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Name, type and shape.
    pub described: Described,
    source: StateSource,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum StateSource {
    /// The numbers, or codes, of a state.
    State {
        stack: usize,
        row: usize,
        state: usize,
    },
    Absmax {
        stack: usize,
        row: usize,
        state: usize,
    },
    TrainingPoint(usize),
}

impl Optimizer {
    /// Writes the state. The optimizer must be at rest, see [`Optimizer::rest`].
    pub(in crate::train) fn write(&self, path: &Path, decoder: &Decoder) -> Result<(), TrainError> {
        match self {
            Self::AdamW(adamw) => Ok(write_f32_lazily(path, moments(decoder, adamw), &[])?),
            Self::ByShape(by_shape) => {
                let saved = by_shape.saved(&decoder.weights(|name, _| name.to_owned()));
                let described = saved.iter().map(|saved| saved.described.clone()).collect();
                write_lazily::<TrainError>(path, described, &[], |name| {
                    let found = saved.iter().find(|saved| saved.described.0 == name);
                    Ok(Cow::Owned(
                        by_shape.bytes(found.expect("its name is among these")),
                    ))
                })?;
                Ok(())
            }
        }
    }

    /// Reads the state that was written when the run was at `state`, for a decoder with the weights
    /// that were saved beside it.
    pub(in crate::train) fn read(
        config: OptimizerConfig,
        decoder: &Decoder,
        state: &state::State,
        archive: &Archive,
    ) -> Result<Self, TrainError> {
        if config.rule == Rule::AdamW {
            let [first, second] = MOMENTS.map(|prefix| moments_in(archive, prefix, decoder));
            return Ok(Self::AdamW(AdamW::restore(
                config.adamw,
                decoder,
                state.updates,
                [first?, second?],
            )));
        }
        let names = decoder.weights(|name, _| name.to_owned());
        let mut by_shape = ByShape::new(config, decoder);
        by_shape.read(archive, &names, &decoder.device())?;
        let point = config
            .rule
            .averages()
            .then(|| moments_in(archive, TRAINING_POINT, decoder))
            .transpose()?;
        Ok(Self::ByShape(by_shape.at(
            state.updates,
            state.average,
            point,
        )))
    }
}

impl ByShape {
    /// Returns every tensor of the state; `names` are those of the weights.
    pub fn saved(&self, names: &[String]) -> Vec<Saved> {
        let mut all = Vec::new();
        for (stack, of) in self.stacks.iter().enumerate() {
            for (row, member) in of.members.iter().enumerate() {
                let (slot, name) = (&self.slots[*member], &names[*member]);
                for (state, (prefix, shape, map)) in
                    slot.states(self.rule()).into_iter().enumerate()
                {
                    let dtype = if map.is_some() { Dtype::U8 } else { Dtype::F32 };
                    if map.is_some() {
                        let described = (
                            absmax_name(prefix, name),
                            Dtype::F32,
                            vec![slot.count().div_ceil(STATE_BLOCK)],
                        );
                        all.push(Saved {
                            described,
                            source: StateSource::Absmax { stack, row, state },
                        });
                    }
                    all.push(Saved {
                        described: (format!("{prefix}{name}"), dtype, shape),
                        source: StateSource::State { stack, row, state },
                    });
                }
            }
        }
        let points = self
            .resting
            .iter()
            .flatten()
            .enumerate()
            .map(|(member, _)| Saved {
                described: (
                    format!("{TRAINING_POINT}{}", names[member]),
                    Dtype::F32,
                    self.slots[member].shape.clone(),
                ),
                source: StateSource::TrainingPoint(member),
            });
        all.extend(points);
        all
    }

    /// Returns the bytes of a tensor.
    pub fn bytes(&self, saved: &Saved) -> Vec<u8> {
        let numbers = |numbers: Tensor<2>| {
            numbers
                .into_data()
                .iter::<f32>()
                .flat_map(f32::to_le_bytes)
                .collect()
        };
        match saved.source {
            StateSource::State { stack, row, state } => match &self.stacks[stack].states[state] {
                State::Numbers(rows) => numbers(rows.clone().narrow(0, row, 1)),
                State::Codes(codes) => codes.row(row).0,
            },
            StateSource::Absmax { stack, row, state } => match &self.stacks[stack].states[state] {
                State::Numbers(_) => Vec::new(),
                State::Codes(codes) => codes
                    .row(row)
                    .1
                    .into_iter()
                    .flat_map(f32::to_le_bytes)
                    .collect(),
            },
            StateSource::TrainingPoint(member) => {
                let (slot, resting) = (
                    &self.slots[member],
                    self.resting.as_ref().map(|all| all[member].clone()),
                );
                resting.map_or_else(Vec::new, |row| {
                    numbers(slot.to_file(row.reshape([1, slot.count()])))
                })
            }
        }
    }

    /// Reads the states from a file.
    fn read(
        &mut self,
        archive: &Archive,
        names: &[String],
        device: &Device,
    ) -> Result<(), TrainError> {
        let rule = self.rule();
        for stack in &mut self.stacks {
            let slot = &self.slots[stack.members[0]];
            let members = || stack.members.iter().map(|member| &names[*member]);
            let states = slot
                .states(rule)
                .into_iter()
                .map(|(prefix, shape, map)| match map {
                    None => {
                        let rows = members()
                            .map(|name| numbers_in(archive, &format!("{prefix}{name}"), &shape));
                        let rows = rows.collect::<Result<Vec<_>, TrainError>>()?;
                        let stacked =
                            TensorData::new(rows.concat(), [rows.len(), shape.iter().product()]);
                        Ok(State::Numbers(Tensor::from_data(
                            stacked,
                            (device, DType::F32),
                        )))
                    }
                    Some(map) => {
                        let blocks = [slot.count().div_ceil(STATE_BLOCK)];
                        let rows = members().map(|name| {
                            let codes = codes_in(archive, &format!("{prefix}{name}"), &shape)?;
                            Ok((
                                codes,
                                numbers_in(archive, &absmax_name(prefix, name), &blocks)?,
                            ))
                        });
                        Ok(State::Codes(Codes::from_rows(
                            &rows.collect::<Result<Vec<_>, TrainError>>()?,
                            map,
                            device,
                        )))
                    }
                });
            stack.states = states.collect::<Result<_, TrainError>>()?;
        }
        Ok(())
    }
}

fn absmax_name(prefix: &str, weight: &str) -> String {
    format!("{prefix}{ABSMAX}{weight}")
}

/// Reads a tensor of this shape.
fn numbers_in(archive: &Archive, tensor: &str, shape: &[usize]) -> Result<Vec<f32>, TrainError> {
    let is_right = archive.shape(tensor) == Some(shape);
    let numbers = if is_right {
        archive.read_f32(tensor)?
    } else {
        None
    };
    numbers.ok_or_else(|| missing(archive, tensor, shape))
}

fn codes_in(archive: &Archive, tensor: &str, shape: &[usize]) -> Result<Vec<u8>, TrainError> {
    let count: usize = shape.iter().product();
    let codes = archive
        .bytes(tensor)
        .filter(|bytes| bytes.len() == count && archive.shape(tensor) == Some(shape));
    codes
        .map(<[u8]>::to_vec)
        .ok_or_else(|| missing(archive, tensor, shape))
}

fn missing(archive: &Archive, tensor: &str, expected: &[usize]) -> TrainError {
    let found = archive.shape(tensor).map(<[usize]>::to_vec);
    TrainError::Moments {
        path: archive.path().to_owned(),
        tensor: tensor.to_owned(),
        found,
        expected: expected.to_vec(),
    }
}

/// Returns first and second moments under the names of their weights.
fn moments(
    decoder: &Decoder,
    adamw: &AdamW,
) -> Vec<crate::files::safetensors::Named<impl FnOnce() -> Vec<f32>>> {
    let moments = adamw.moments();
    let named = MOMENTS.iter().zip(&moments).flat_map(|(prefix, numbers)| {
        decoder
            .named_lazily(numbers)
            .into_iter()
            .map(move |(name, shape, values)| (format!("{prefix}{name}"), shape, values))
    });
    named.collect()
}

/// Reads numbers whose names begin with `prefix`, one tensor per weight that trains, in memory
/// order.
fn moments_in(
    archive: &Archive,
    prefix: &str,
    decoder: &Decoder,
) -> Result<Vec<Tensor<1>>, TrainError> {
    let read = |name: &str, weight: Weight| {
        let numbers = numbers_in(archive, &format!("{prefix}{name}"), &weight.shape())?;
        Ok(weight.from_file(&numbers))
    };
    decoder.weights(read).into_iter().collect()
}
