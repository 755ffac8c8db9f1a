//! The numbers that training computes on a device: two steps of the training loop itself, recorded
//! by an observer.
//!
//! A step in which every border is read waits there for the device, which hides faults between
//! kernels that overlap or share a buffer. So one pass reads only the results of a step.

use burn::tensor::{Device, Tensor};

use super::probe_model::ProbeModel;
use crate::data::Packing;
use crate::objective::{NextToken, Objective, StepStatistics};
use crate::terms::OnNonfinite;
use crate::train::{
    AdamWConfig, At, Border, Memory, Observer, Optimizer, RateCourse, Schedule, StepConfig,
    StepOutcome, TrainConfig, accumulate,
};

/// Steps of a pass: stale buffers show in the second step only.
const STEPS: u64 = 2;

/// Numbers with a name that tells their place in training.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// The name, such as `kept tapes, step 1, micro-batch 2, output of block 0`.
    pub name: String,
    /// The numbers in memory order.
    pub values: Vec<f32>,
}

/// A way to train, which takes its own path through the step.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    name: &'static str,
    memory: Memory,
    dropout: f64,
    /// Whether intermediate results are read during the step.
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

/// A decay that shows in the weights, and updates that are well conditioned. Where ε is far below
/// the gradients, the first update has the size of the learning rate whatever the gradient. The
/// sign of a gradient that is all rounding then decides, and attention becomes so steep that 16
/// bits do not determine the second step.
const OPTIMIZER: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 3e-2,
    weight_decay: 1.0,
    loraplus_lr_ratio: 2.0,
};

/// Returns every site of some passes on a device, in the order of computing. What the steps pass on
/// goes `through` an observer first.
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
                statistics: StepStatistics::default(),
                teacher: None,
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

/// Returns settings that expose a fault: a clip that takes effect, and the optimizer's.
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
        objective: Objective::NextToken(NextToken::PLAIN),
        first_loss: None,
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

/// Records what a step passes on.
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
