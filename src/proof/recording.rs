//! What training computes on a device, number by number: two steps of the training loop itself,
//! seen by an observer.
//!
//! A step in which every border is read waits there for the device, which hides what goes wrong
//! between kernels that overlap or share a buffer. So one pass reads what a step leaves only.

use burn::tensor::{Device, Tensor};

use super::probe_model::ProbeModel;
use crate::data::Packing;
use crate::objective::Objective;
use crate::terms::OnNonfinite;
use crate::train::{
    AdamWConfig, At, Border, Memory, Observer, Optimizer, RateCourse, Schedule, StepConfig,
    StepOutcome, TrainConfig, accumulate,
};

/// Stale buffers show in the second step only.
const STEPS: u64 = 2;

/// Numbers with a name that says where in training they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Such as `kept tapes, step 1, micro-batch 2, output of block 0`.
    pub name: String,
    /// In memory order.
    pub values: Vec<f32>,
}

/// A way to train: each takes other paths through the step.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    name: &'static str,
    memory: Memory,
    dropout: f64,
    /// Whether what is inside a step is read while it is taken.
    is_watched: bool,
    pub(super) optimizer: AdamWConfig,
}

pub(super) const PASSES: [Pass; 3] = [
    Pass {
        name: "kept tapes",
        memory: Memory::KEEP,
        dropout: 0.0,
        is_watched: true,
        optimizer: OPTIMIZER,
    },
    Pass {
        name: "recomputed blocks",
        memory: Memory::RECOMPUTE,
        dropout: 0.1,
        is_watched: true,
        optimizer: OPTIMIZER,
    },
    Pass {
        name: "undisturbed",
        memory: Memory { recomputed: 1 },
        dropout: 0.1,
        is_watched: false,
        optimizer: OPTIMIZER,
    },
];

/// A decay that is seen in weights, and updates that are well conditioned. Where ε is far below the
/// gradients, the first one has the size of the learning rate whatever the gradient: the sign of
/// one that is all rounding decides, and attention becomes so steep that 16 bits do not tell what
/// the second step is.
const OPTIMIZER: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 3e-2,
    weight_decay: 1.0,
    loraplus_lr_ratio: 2.0,
};

/// Every site of some passes on a device, in the order of computing. What the steps hand on goes
/// `through` an observer first.
pub(super) fn trace(
    tiny: &ProbeModel,
    device: &Device,
    passes: &[Pass],
    through: &mut impl Observer,
) -> Vec<Site> {
    let mut sites = Vec::new();
    for pass in passes {
        let mut decoder = tiny.draw(device);
        let names = decoder.weights(|name, _| name.to_owned());
        let config = config(pass);
        let loss_scale = tiny.loss_scale();
        let mut optimizer = Optimizer::new(config.optimizer, &decoder);
        for step in 1..=STEPS {
            let name = format!("{}, step {step}", pass.name);
            let watch = if pass.is_watched {
                Watch::All
            } else {
                Watch::Sums
            };
            let mut recorder = Recorder {
                name,
                names: &names,
                micro_batch: 0,
                watch,
                sites: &mut sites,
                through,
            };
            let batches = tiny.batches(step).into_iter();
            let at = At {
                step,
                epoch: 0,
                loss_scale,
            };
            optimizer.go_on(&mut decoder);
            let sums = accumulate(&decoder, batches, &config, at, &mut recorder);
            recorder.record_all("gradient of all micro-batches of", sums.gradients.all());
            recorder.record_outcome(&sums.update(&mut decoder, &mut optimizer, &config, None));
            recorder.record_all("new", decoder.numbers());
        }
    }
    sites
}

/// Numbers that show a fault: a clip that bites, and the optimizer's.
fn config(pass: &Pass) -> TrainConfig {
    TrainConfig {
        micro_batch_size: 1,
        packing: Packing::Off,
        gradient_accumulation_steps: 2,
        schedule: Schedule {
            peak: 1e-2,
            course: RateCourse::Constant,
            warmup_steps: 0,
            total_steps: STEPS,
        },
        optimizer: pass.optimizer.into(),
        max_grad_norm: 0.5,
        objective: Objective::NextToken,
        // A few rows at a time, so that chunks of the head are joined.
        step: StepConfig {
            memory: pass.memory,
            head_chunk_rows: 48,
            dropout: pass.dropout,
        },
        on_nonfinite: OnNonfinite::Abort,
        seed: 1,
        shuffle: false,
        eval_steps: 0,
        early_stopping_patience: 0,
        save_steps: 0,
        save_total_limit: 0,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    All,
    Sums,
}

/// Writes down what a step hands on.
struct Recorder<'a, O> {
    name: String,
    names: &'a [String],
    micro_batch: usize,
    watch: Watch,
    sites: &'a mut Vec<Site>,
    through: &'a mut O,
}

impl<O> Recorder<'_, O> {
    fn record(&mut self, what: String, values: Vec<f32>) {
        self.sites.push(Site {
            name: format!("{}, {what}", self.name),
            values,
        });
    }

    fn record_all(&mut self, what: &str, weights: Vec<Tensor<1>>) {
        for (name, numbers) in self.names.iter().zip(weights) {
            self.sites.push(Site {
                name: format!("{}, {what} `{name}`", self.name),
                values: read(numbers),
            });
        }
    }

    fn record_outcome(&mut self, outcome: &StepOutcome) {
        self.record("loss".to_owned(), vec![outcome.loss as f32]);
        self.record("gradient norm".to_owned(), vec![outcome.grad_norm as f32]);
    }
}

impl<O: Observer> Observer for Recorder<'_, O> {
    fn border(&mut self, border: Border, value: Tensor<3>) -> Tensor<3> {
        let value = self.through.border(border, value);
        self.micro_batch += usize::from(border == Border::Output(0));
        if self.watch == Watch::All {
            let what = match border {
                Border::Output(block) => format!("output of block {block}"),
                Border::Gradient(block) => format!("gradient into block {block}"),
            };
            self.record(
                format!("micro-batch {}, {what}", self.micro_batch),
                read(value.clone()),
            );
        }
        value
    }

    fn weights(&mut self, first: usize, gradients: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        let gradients = self.through.weights(first, gradients);
        if self.watch == Watch::All {
            for (name, gradient) in self.names[first..].iter().zip(&gradients) {
                let name = format!(
                    "{}, micro-batch {}, gradient of `{name}`",
                    self.name, self.micro_batch
                );
                self.sites.push(Site {
                    name,
                    values: read(gradient.clone()),
                });
            }
        }
        gradients
    }
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
