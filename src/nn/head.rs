//! The end of a language model: final norm, vocabulary projection and log p of the targets, in
//! chunks of rows, with a backward of its own. The batch's logits never exist as a whole.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};

use super::norm::Norm;
use super::table::EmbeddingTable;
use crate::objective::Distill;
use crate::ops::{
    Compared, Mask, cross_entropy, cross_entropy_losses, divergence, divergence_from_top,
    smoothed_cross_entropy,
};
use crate::terms::{Readings, Slopes, TopTokens};

/// Final norm and vocabulary projection.
#[derive(Debug, Clone)]
pub struct Head {
    /// The norm before the projection.
    pub norm: Norm,
    /// The table [vocabulary, width]; where the family ties them, it is the embedding itself.
    pub table: EmbeddingTable,
    /// The bias of logits, [vocabulary].
    pub bias: Option<Tensor<1>>,
    /// Whether the bias trains.
    pub trains_bias: bool,
    /// The factor of logits.
    pub scale: f64,
    /// The cap c of logits: a scaled logit z becomes c tanh(z / c).
    pub softcap: Option<f64>,
}

/// Settings of a pass over rows.
#[derive(Debug, Clone, Copy)]
pub struct HeadPass<'a> {
    /// Number of rows of logits that exist at a time.
    pub chunk_rows: usize,
    /// The factor of gradients, the loss scale.
    pub scale: f64,
    /// Dropout mask of the input of the table's adapter; as many tokens as rows.
    pub mask: Option<&'a Mask>,
    /// The share e of a label that all tokens of the vocabulary get: what has a slope in
    /// [`Head::backward`] is (1 - e) log p of the target plus e times the mean of log p.
    pub smoothed_share: f64,
}

/// Gradients of a sum of readings, each times its slope.
#[derive(Debug, Clone)]
pub struct HeadGradients {
    /// Gradient of the head's input, [rows, width].
    pub input: Tensor<2>,
    /// Gradients of the final norm's vectors, [width] each, where they train.
    pub norm: Vec<Tensor<1>>,
    /// Gradients of what trains of the table, in its order.
    pub table: Vec<Tensor<2>>,
    /// Gradient of the bias, [vocabulary], where it trains.
    pub bias: Vec<Tensor<1>>,
}

impl HeadGradients {
    /// Returns the gradients at these slopes, given those at slope 1 of a head of which nothing
    /// trains: the gradient of the input is linear in the slope of its row.
    #[must_use]
    pub fn at(self, slopes: &Slopes) -> Self {
        let input = match slopes {
            Slopes::Same(slope) => self.input.mul_scalar(*slope),
            Slopes::Each(slopes) => {
                let dtype = self.input.dtype();
                let factors = Tensor::<1>::from_data(
                    TensorData::from(&slopes[..]),
                    (&self.input.device(), DType::F32),
                );
                let factors = factors.unsqueeze_dim::<2>(1);
                (self.input.cast(DType::F32) * factors).cast(dtype)
            }
        };
        Self { input, ..self }
    }
}

impl Head {
    /// Whether anything of it trains.
    pub fn trains(&self) -> bool {
        self.norm.trains || self.table.own.is_some() || (self.trains_bias && self.bias.is_some())
    }

    /// Returns the logits of every row, [rows, vocabulary] in f32.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.read_out(&self.norm.forward(hidden), None)
    }

    /// Returns the logits of normalized rows, [rows, vocabulary]: products with the table, plus the
    /// bias, scaled and capped.
    fn read_out(&self, normed: &Tensor<2>, mask: Option<&Mask>) -> Tensor<2> {
        let logits = self.table.logits(normed, mask);
        let logits = match &self.bias {
            Some(bias) => logits + bias.clone().unsqueeze(),
            None => logits,
        };
        let logits = if is_one(self.scale) {
            logits
        } else {
            logits.mul_scalar(self.scale)
        };
        match self.softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// Returns the gradient of logits before scale and cap, given the logits and their gradient:
    /// the tangent of tanh is 1 - tanh².
    fn through_cap(&self, capped: Option<Tensor<2>>, gradient: Tensor<2>) -> Tensor<2> {
        let gradient = match (capped, self.softcap) {
            (Some(capped), Some(cap)) => gradient * (1.0 - capped.div_scalar(cap).powi_scalar(2)),
            _ => gradient,
        };
        if is_one(self.scale) {
            gradient
        } else {
            gradient.mul_scalar(self.scale)
        }
    }

    /// Returns log p of the target of each row. Logits and softmax are f32.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked, one target per row.
    pub fn read(&self, hidden: &Tensor<2>, targets: &[i32], pass: HeadPass) -> Readings {
        let mut values = Vec::with_capacity(targets.len());
        for Chunk {
            x, mask, targets, ..
        } in chunks(hidden, targets, pass)
        {
            // [rows of the chunk, vocabulary]
            let logits = self.read_out(&self.norm.forward(x), mask.as_ref());
            extend(&mut values, cross_entropy_losses(logits, targets));
        }
        Readings::of_values(values)
    }

    /// Returns the gradients of the sum of all readings, each times its slope, and the readings
    /// too, because logits are recomputed: where slopes are known ahead this is the only pass.
    ///
    /// For one reading and slope s the gradient of the input is s Norm'(x) (onehot - softmax(z)) W.
    /// With smoothed labels the readings have the means too, and (1 - e) onehot + e / V replaces
    /// onehot.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked, one target and slope per row.
    pub fn backward(
        &self,
        hidden: &Tensor<2>,
        targets: &[i32],
        slopes: &Slopes,
        pass: HeadPass,
    ) -> (Readings, HeadGradients) {
        let mut readings = Readings::of_values(Vec::with_capacity(targets.len()));
        let gradients = self.through(hidden, targets, slopes, pass, |_, logits, targets| {
            let (losses, d_logits) = if pass.smoothed_share > 0.0 {
                let smoothed = smoothed_cross_entropy(logits, targets, pass.smoothed_share);
                let means = smoothed.mean_log_p.into_data();
                readings.means.extend(means.iter::<f32>());
                (smoothed.losses, smoothed.d_logits)
            } else {
                cross_entropy(logits, targets)
            };
            extend(&mut readings.values, losses);
            d_logits
        });
        (readings, gradients)
    }

    /// Returns log p of the target of each row, and its divergence from a teacher.
    ///
    /// # Shapes
    /// As for [`Head::backward_from_teacher`].
    pub fn read_beside_teacher(
        &self,
        hidden: &Tensor<2>,
        targets: &[i32],
        (teacher, of): (&TeacherRows, &Distill),
        pass: HeadPass,
    ) -> Readings {
        let mut readings = Readings::default();
        for Chunk {
            rows,
            x,
            mask,
            targets,
        } in chunks(hidden, targets, pass)
        {
            let logits = self.read_out(&self.norm.forward(x), mask.as_ref());
            teacher.compare(rows, logits, targets, of, &mut readings);
        }
        readings
    }

    /// Returns the gradients of the sum of all losses, which mix each target's cross-entropy with
    /// its divergence from a teacher, and the readings of both.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked, one target per row; the teacher has as many rows.
    pub fn backward_from_teacher(
        &self,
        hidden: &Tensor<2>,
        targets: &[i32],
        (teacher, of): (&TeacherRows, &Distill),
        pass: HeadPass,
    ) -> (Readings, HeadGradients) {
        let mut readings = Readings::default();
        // What is differentiated is the loss, of which readings are the negative.
        let slopes = Slopes::Same(-1.0);
        let gradients = self.through(hidden, targets, &slopes, pass, |rows, logits, targets| {
            teacher.compare(rows, logits, targets, of, &mut readings)
        });
        (readings, gradients)
    }

    /// Returns the gradients of the negative sum of all losses, each times its slope. `loss` takes
    /// the logits of a chunk of rows and returns the gradient of the sum of their losses.
    fn through(
        &self,
        hidden: &Tensor<2>,
        targets: &[i32],
        slopes: &Slopes,
        pass: HeadPass,
        mut loss: impl FnMut(Range<usize>, Tensor<2>, Arc<[u32]>) -> Tensor<2>,
    ) -> HeadGradients {
        let (mut of_inputs, mut of_norm, mut of_table, mut of_bias) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let computed = hidden.dtype();
        for Chunk {
            rows,
            x,
            mask,
            targets,
        } in chunks(hidden, targets, pass)
        {
            let normed = self.norm.forward(x.clone());
            // [rows of the chunk, vocabulary]
            let logits = self.read_out(&normed, mask.as_ref());
            // Without a cap the gradient takes the place of the logits.
            let capped = self.softcap.map(|_| logits.clone());
            let d_logits = loss(rows.clone(), logits, targets);
            let d_logits = sloped(self.through_cap(capped, d_logits), slopes, rows, pass.scale);
            if self.trains_bias && self.bias.is_some() {
                of_bias = added(of_bias, vec![d_logits.clone().sum_dim(0).squeeze_dim(0)]);
            }
            // Scaled before they are rounded.
            let d_logits = d_logits.cast(computed);
            // [rows of the chunk, width]
            let (d_normed, of_chunk) = self.table.backward(&normed, d_logits, mask.as_ref());
            of_table = added(of_table, of_chunk);
            of_inputs.push(if self.norm.trains {
                let (of_input, of_chunk) = self.norm.gradients(x, d_normed);
                of_norm = added(of_norm, of_chunk);
                of_input
            } else {
                self.norm.backward(x, d_normed)
            });
        }
        HeadGradients {
            input: Tensor::cat(of_inputs, 0),
            norm: of_norm,
            table: of_table,
            bias: of_bias,
        }
    }
}

/// What the rows of a pass are compared with.
#[derive(Debug, Clone)]
pub enum TeacherRows<'a> {
    /// The head of a model, and the rows that it reads, [rows, width].
    Model(&'a Head, Box<Tensor<2>>),
    /// The most likely tokens of each row.
    Top(&'a TopTokens),
}

impl TeacherRows<'_> {
    /// Appends the readings of a chunk of rows, and returns the gradient of the sum of their
    /// losses by the student's logits, [rows, vocabulary].
    fn compare(
        &self,
        rows: Range<usize>,
        student: Tensor<2>,
        targets: Arc<[u32]>,
        of: &Distill,
        readings: &mut Readings,
    ) -> Tensor<2> {
        let compared = match self {
            Self::Model(head, hidden) => {
                let teacher = head.logits(hidden.as_ref().clone().slice(rows));
                divergence(student, teacher, targets, of)
            }
            Self::Top(top) => divergence_from_top(student, &top.of_targets(rows), targets, of),
        };
        let Compared {
            losses,
            divergences,
            gradient,
        } = compared;
        readings.values.extend(losses.into_iter().map(|loss| -loss));
        readings.divergences.extend(divergences);
        gradient
    }
}

/// The rows of one chunk of a pass.
struct Chunk {
    rows: Range<usize>,
    /// Hidden rows, [rows, width].
    x: Tensor<2>,
    mask: Option<Mask>,
    targets: Arc<[u32]>,
}

fn chunks<'a>(
    hidden: &'a Tensor<2>,
    targets: &'a [i32],
    pass: HeadPass<'a>,
) -> impl Iterator<Item = Chunk> + 'a {
    targets
        .chunks(pass.chunk_rows)
        .enumerate()
        .map(move |(index, targets)| {
            let rows = index * pass.chunk_rows..index * pass.chunk_rows + targets.len();
            Chunk {
                x: hidden.clone().slice(rows.clone()),
                mask: pass.mask.map(|mask| Mask {
                    tokens: mask.tokens[rows.clone()].into(),
                    ..mask.clone()
                }),
                targets: targets
                    .iter()
                    .map(|target| target.cast_unsigned())
                    .collect(),
                rows,
            }
        })
}

/// Appends log p, given the losses.
fn extend(values: &mut Vec<f32>, losses: Tensor<1>) {
    values.extend(losses.into_data().iter::<f32>().map(|loss| -loss));
}

/// Turns the gradient of losses into that of readings, which are -losses, each times its slope, and
/// all times `scale`; [rows, vocabulary].
fn sloped(d_logits: Tensor<2>, slopes: &Slopes, rows: Range<usize>, scale: f64) -> Tensor<2> {
    match slopes {
        Slopes::Same(slope) => {
            let factor = -f64::from(*slope) * scale;
            if is_one(factor) {
                d_logits
            } else {
                d_logits.mul_scalar(factor)
            }
        }
        Slopes::Each(slopes) => {
            let factors: Vec<f32> = slopes[rows]
                .iter()
                .map(|slope| (-f64::from(*slope) * scale) as f32)
                .collect();
            let factors = Tensor::<1>::from_data(
                TensorData::from(&factors[..]),
                (&d_logits.device(), DType::F32),
            );
            d_logits * factors.unsqueeze_dim::<2>(1)
        }
    }
}

/// Adds a chunk's sums to those before it, of which there may be none yet.
fn added<const D: usize>(sums: Vec<Tensor<D>>, more: Vec<Tensor<D>>) -> Vec<Tensor<D>> {
    if sums.is_empty() {
        more
    } else {
        sums.into_iter()
            .zip(more)
            .map(|(sum, more)| sum + more)
            .collect()
    }
}

fn is_one(factor: f64) -> bool {
    factor.to_bits() == 1_f64.to_bits()
}
