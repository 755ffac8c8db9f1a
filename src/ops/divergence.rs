//! The divergence of a chunk of logits from a teacher's and, in place of the logits, the gradient
//! of a mix of it with cross-entropy. Like [`super::cross_entropy`] it is the head that is
//! differentiated, so there is no tape.

use std::sync::Arc;

use burn::backend::Flex;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use super::exp::exp;
use super::lanes::{LANES, largest, padded, total};
use super::numbers::write;
use super::simd::vectorised;
use super::{cross_entropy, cross_entropy_losses};
use crate::device;
use crate::objective::{Distill, Sparse};
use crate::terms::TopTokens;

/// Numbers that are summed in f32 before they are added to a sum in f64.
const RUN: usize = 4096;
/// The logarithm of a probability of 0: 0 times it is 0.
const IMPOSSIBLE: f32 = -1e30;
/// The largest logarithm of a ratio of probabilities that counts where they are mixed: e to it is
/// finite, and what is left out is less than what f32 resolves.
const RATIO: f32 = 80.0;

/// Rows of logits, compared with a teacher.
#[derive(Debug)]
pub struct Compared {
    /// Cross-entropy of each row's target, nats.
    pub losses: Vec<f32>,
    /// Divergence of each row, nats.
    pub divergences: Vec<f32>,
    /// Gradient of the sum of the mix of both over all rows, [rows, vocabulary].
    pub gradient: Tensor<2>,
}

/// Compares logits with a teacher's. Where their vocabularies differ, distributions are those over
/// the ids that both have; cross-entropy is over the student's.
///
/// # Shapes
/// `student` [rows, vocabulary], untracked, f32, one target per row; `teacher` [rows, other
/// vocabulary], on the same device.
pub fn divergence(
    student: Tensor<2>,
    teacher: Tensor<2>,
    targets: Arc<[u32]>,
    of: &Distill,
) -> Compared {
    if !device::is_cpu(&student.device()) {
        return composed(student, teacher, targets, of);
    }
    let [rows, vocabulary] = student.dims();
    let [_, others] = teacher.dims();
    let [mut student, mut teacher] = [student, teacher].map(on_cpu);
    let each = write(&mut student)
        .par_chunks_exact_mut(vocabulary)
        .zip(write(&mut teacher).par_chunks_exact_mut(others))
        .zip(&*targets);
    let readings: Vec<[f32; 2]> = each
        .map(|((student, teacher), target)| whole_row(student, teacher, *target as usize, of))
        .collect();
    debug_assert_eq!(readings.len(), rows);
    compared(readings, Tensor::from_primitive::<Flex>(student))
}

/// Compares logits with a teacher's most likely tokens.
///
/// # Shapes
/// `student` [rows, vocabulary], untracked, f32, one target and as many tokens per row.
///
/// # Panics
/// An id is not below the vocabulary.
pub fn divergence_from_top(
    student: Tensor<2>,
    top: &TopTokens,
    targets: Arc<[u32]>,
    of: &Distill,
) -> Compared {
    if !device::is_cpu(&student.device()) {
        return composed_top(student, top, targets, of);
    }
    let [_, vocabulary] = student.dims();
    let mut student = on_cpu(student);
    let each = write(&mut student)
        .par_chunks_exact_mut(vocabulary)
        .zip(top.ids.par_chunks_exact(top.each))
        .zip(top.log_p.par_chunks_exact(top.each))
        .zip(&*targets);
    let readings = each
        .map(|(((student, ids), log_q), target)| {
            sparse_row(student, (ids, log_q), *target as usize, of)
        })
        .collect();
    compared(readings, Tensor::from_primitive::<Flex>(student))
}

fn on_cpu(tensor: Tensor<2>) -> burn::backend::tensor::FloatTensor<Flex> {
    tensor
        .try_into_primitive::<Flex>()
        .expect("the device is the processor")
}

fn compared(readings: Vec<[f32; 2]>, gradient: Tensor<2>) -> Compared {
    let (losses, divergences) = readings
        .into_iter()
        .map(|[one, other]| (one, other))
        .unzip();
    Compared {
        losses,
        divergences,
        gradient,
    }
}

/// A row's softmax: the largest logit, the factor of logits, and the sum of exponentials relative
/// to the largest.
#[derive(Debug, Clone, Copy)]
struct Softmax {
    most: f32,
    factor: f32,
    sum: f64,
}

impl Softmax {
    fn of(row: &[f32], factor: f32) -> Self {
        let most = most_of(row);
        Self {
            most,
            factor,
            sum: sum_of_exponentials(row, most, factor),
        }
    }

    /// Returns the logarithm of a logit's probability.
    fn log_p(self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.most)) * f64::from(self.factor) - self.sum.ln()
    }
}

/// Returns the cross-entropy and the divergence of a row, and replaces the row by the gradient of
/// their mix. What was in the teacher's row is lost.
fn whole_row(student: &mut [f32], teacher: &mut [f32], target: usize, of: &Distill) -> [f32; 2] {
    let both = student.len().min(teacher.len());
    let factor = (1.0 / of.temperature) as f32;
    let alone = Softmax::of(student, 1.0);
    let of_p = if both == student.len() && is_one(factor) {
        alone
    } else {
        Softmax::of(&student[..both], factor)
    };
    let of_q = Softmax::of(&teacher[..both], factor);
    let loss = -alone.log_p(student[target]);
    let beta = of.beta as f32;
    let [divergence, slopes] =
        differentiate(&student[..both], &mut teacher[..both], of_p, of_q, beta);
    let [of_entropy, of_divergence] = of.weights();
    let by_logit = of_divergence / of.temperature;
    let (below, above) = student.split_at_mut(both);
    let entropy = (of_entropy / alone.sum) as f32;
    let by_p = (-by_logit * slopes / of_p.sum) as f32;
    mixed(
        below,
        &teacher[..both],
        [by_logit as f32, by_p, entropy],
        of_p,
        alone,
    );
    for logit in above {
        *logit = if of_entropy > 0.0 {
            entropy * (*logit - alone.most).exp()
        } else {
            0.0
        };
    }
    student[target] -= of_entropy as f32;
    [loss as f32, divergence as f32]
}

/// Does the same with a teacher's known tokens: their ids and log-probabilities.
fn sparse_row(
    student: &mut [f32],
    (ids, log_q): (&[u32], &[f32]),
    target: usize,
    of: &Distill,
) -> [f32; 2] {
    let factor = (1.0 / of.temperature) as f32;
    let alone = Softmax::of(student, 1.0);
    let of_p = if is_one(factor) {
        alone
    } else {
        Softmax::of(student, factor)
    };
    let loss = -alone.log_p(student[target]);
    let log_p: Vec<f64> = ids
        .iter()
        .map(|id| of_p.log_p(student[*id as usize]))
        .collect();
    let Sparse {
        divergence,
        known,
        others,
    } = of.sparse(log_q, &log_p);
    let [of_entropy, of_divergence] = of.weights();
    let at = |id: &u32| alone.log_p(student[*id as usize]).exp() * of_entropy;
    let gradients = ids.iter().zip(known);
    let gradients: Vec<f32> = gradients
        .map(|(id, known)| (at(id) + of_divergence * known) as f32)
        .collect();
    let by_p = (of_divergence * others / of_p.sum) as f32;
    softmaxes(
        student,
        [by_p, (of_entropy / alone.sum) as f32],
        of_p,
        alone,
    );
    for (id, gradient) in ids.iter().zip(gradients) {
        student[*id as usize] = gradient;
    }
    student[target] -= of_entropy as f32;
    [loss as f32, divergence as f32]
}

fn is_one(factor: f32) -> bool {
    factor.to_bits() == 1_f32.to_bits()
}

vectorised! {
    fn most_of<'a, A>(row: &'a [f32]) -> f32 {
        largest(row)
    }

    /// Returns Σ e^((z - most) factor).
    fn sum_of_exponentials<'a, A>(row: &'a [f32], most: f32, factor: f32) -> f64 {
        let mut sum = 0.0;
        let mut powers = [0.0; RUN];
        for run in row.chunks(RUN) {
            let powers = &mut powers[..run.len()];
            for (power, z) in powers.iter_mut().zip(run) {
                *power = exp::<A>((*z - most) * factor);
            }
            sum += f64::from(sum_of(powers));
        }
        sum
    }

    /// Returns the divergence, and the sum of its derivatives by each log p, which take the place
    /// of the teacher's logits.
    fn differentiate<'a, A>(
        student: &'a [f32],
        teacher: &'a mut [f32],
        of_p: Softmax,
        of_q: Softmax,
        beta: f32,
    ) -> [f64; 2] {
        let (log_sum_p, log_sum_q) = (of_p.sum.ln() as f32, of_q.sum.ln() as f32);
        let (by_p, by_q) = ((1.0 / of_p.sum) as f32, (1.0 / of_q.sum) as f32);
        let (mut divergence, mut slopes) = (0.0, 0.0);
        let mut values = [0.0; RUN];
        for (student, teacher) in student.chunks(RUN).zip(teacher.chunks_mut(RUN)) {
            let values = &mut values[..student.len()];
            for ((value, z), t) in values.iter_mut().zip(student).zip(&mut *teacher) {
                let (scaled_z, scaled_t) =
                    ((*z - of_p.most) * of_p.factor, (*t - of_q.most) * of_q.factor);
                let (p, q) = (exp::<A>(scaled_z) * by_p, exp::<A>(scaled_t) * by_q);
                let log_p = possible(scaled_z - log_sum_p);
                let log_q = possible(scaled_t - log_sum_q);
                if beta <= 0.0 {
                    *value = q * (log_q - log_p);
                    *t = -q;
                } else if beta >= 1.0 {
                    *value = p * (log_p - log_q);
                    *t = *value;
                } else {
                    let ratio = within(log_q - log_p);
                    let of_mean = A::multiply_add(beta, exp::<A>(ratio), 1.0 - beta).ln();
                    *t = -(1.0 - beta) * p * of_mean;
                    *value = A::multiply_add(beta * q, ratio - of_mean, *t);
                }
            }
            divergence += f64::from(sum_of(values));
            slopes += f64::from(sum_of(teacher));
        }
        [divergence, slopes]
    }

    /// Replaces each logit by factor · slope + `by_p` e^(p's exponent) + entropy e^(exponent).
    fn mixed<'a, A>(
        row: &'a mut [f32],
        slopes: &'a [f32],
        factors: [f32; 3],
        of_p: Softmax,
        alone: Softmax,
    ) {
        let [factor, by_p, entropy] = factors;
        for (z, slope) in row.iter_mut().zip(slopes) {
            let p = exp::<A>((*z - of_p.most) * of_p.factor);
            let of_entropy = exp::<A>(*z - alone.most);
            *z = A::multiply_add(
                entropy,
                of_entropy,
                A::multiply_add(by_p, p, factor * *slope),
            );
        }
    }

    /// Replaces each logit by the sum of two softmaxes, each times its factor.
    fn softmaxes<'a, A>(row: &'a mut [f32], factors: [f32; 2], of_p: Softmax, alone: Softmax) {
        let [by_p, entropy] = factors;
        for z in row {
            let p = exp::<A>((*z - of_p.most) * of_p.factor);
            *z = A::multiply_add(entropy, exp::<A>(*z - alone.most), by_p * p);
        }
    }
}

/// Returns Σ x.
#[inline(always)]
fn sum_of(values: &[f32]) -> f32 {
    let (values, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for values in values {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(padded(rest, 0.0)) {
        *sum += value;
    }
    total(sums)
}

/// Returns a logarithm of which 0 times it is 0. NaN stays NaN.
#[inline(always)]
fn possible(log_p: f32) -> f32 {
    if log_p < IMPOSSIBLE {
        IMPOSSIBLE
    } else {
        log_p
    }
}

/// Returns the logarithm of a ratio within what counts. NaN stays NaN.
#[inline(always)]
fn within(ratio: f32) -> f32 {
    ratio.clamp(-RATIO, RATIO)
}

/// Computes [`divergence`] with a backend's own operations.
fn composed(student: Tensor<2>, teacher: Tensor<2>, targets: Arc<[u32]>, of: &Distill) -> Compared {
    let [rows, vocabulary] = student.dims();
    let both = vocabulary.min(teacher.dims()[1]);
    let log = |logits: Tensor<2>| {
        let logits = logits.slice([0..rows, 0..both]).div_scalar(of.temperature);
        log_softmax(logits, 1)
    };
    let (losses, entropy) = entropy(student.clone(), targets, of);
    let (log_p, log_q) = (log(student), log(teacher));
    let (p, beta) = (log_p.clone().exp(), of.beta);
    // [rows, ids of both], [rows, 1]
    let (gradient, divergences) = if beta <= 0.0 {
        let q = log_q.clone().exp();
        let divergences = (q.clone() * (log_q - log_p)).sum_dim(1);
        (p - q, divergences)
    } else if beta >= 1.0 {
        let ratio = log_p - log_q;
        let divergences = (p.clone() * ratio.clone()).sum_dim(1);
        (p * (ratio - divergences.clone()), divergences)
    } else {
        let ratio = (log_q.clone() - log_p).clamp(-RATIO, RATIO);
        let of_mean = ratio
            .clone()
            .exp()
            .mul_scalar(beta)
            .add_scalar(1.0 - beta)
            .log();
        let from_mean = (p.clone() * of_mean.clone().neg()).sum_dim(1);
        let of_teacher = (log_q.exp() * (ratio - of_mean.clone())).sum_dim(1);
        let divergences = of_teacher.mul_scalar(beta) + from_mean.clone().mul_scalar(1.0 - beta);
        let gradient = (p * (of_mean + from_mean)).mul_scalar(beta - 1.0);
        (gradient, divergences)
    };
    let [_, of_divergence] = of.weights();
    let gradient = gradient.mul_scalar(of_divergence / of.temperature);
    let gradient = if both < vocabulary {
        let rest = Tensor::zeros([rows, vocabulary - both], &gradient.device());
        Tensor::cat(vec![gradient, rest], 1)
    } else {
        gradient
    };
    Compared {
        losses,
        divergences: numbers(divergences.squeeze_dim(1)),
        gradient: with_entropy(gradient, entropy),
    }
}

/// Computes [`divergence_from_top`] with a backend's own operations. What is known of each row is
/// compared on the host.
fn composed_top(
    student: Tensor<2>,
    top: &TopTokens,
    targets: Arc<[u32]>,
    of: &Distill,
) -> Compared {
    let ([rows, _], device) = (student.dims(), student.device());
    let (losses, entropy) = entropy(student.clone(), targets, of);
    let log_p = log_softmax(student.div_scalar(of.temperature), 1);
    let ids: Vec<i32> = top.ids.iter().map(|id| id.cast_signed()).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, top.each]), &device);
    let known = numbers(log_p.clone().gather(1, ids.clone()).flatten(0, 1));
    let [_, weight] = of.weights();
    let (mut divergences, mut at_known, mut by_p) = (
        Vec::with_capacity(rows),
        Vec::with_capacity(known.len()),
        Vec::new(),
    );
    for (log_q, log_p) in top.log_p.chunks(top.each).zip(known.chunks(top.each)) {
        let log_p: Vec<f64> = log_p.iter().copied().map(f64::from).collect();
        let row = of.sparse(log_q, &log_p);
        divergences.push(row.divergence as f32);
        by_p.push((weight * row.others) as f32);
        let more = row.known.iter().zip(&log_p);
        at_known.extend(
            more.map(|(known, log_p)| (weight * (known - row.others * log_p.exp())) as f32),
        );
    }
    let floats = |values: Vec<f32>, shape: [usize; 2]| on(values, shape, &device);
    let gradient = log_p.exp() * floats(by_p, [rows, 1]);
    let gradient = gradient.scatter(
        1,
        ids,
        floats(at_known, [rows, top.each]),
        burn::tensor::IndexingUpdateOp::Add,
    );
    Compared {
        losses,
        divergences,
        gradient: with_entropy(gradient, entropy),
    }
}

fn on(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn numbers(values: Tensor<1>) -> Vec<f32> {
    values.into_data().iter::<f32>().collect()
}

/// Returns the cross-entropy of each row, and its share of the gradient where it has one.
fn entropy(student: Tensor<2>, targets: Arc<[u32]>, of: &Distill) -> (Vec<f32>, Option<Tensor<2>>) {
    let [weight, _] = of.weights();
    if weight > 0.0 {
        let (losses, gradient) = cross_entropy(student, targets);
        return (numbers(losses), Some(gradient.mul_scalar(weight)));
    }
    (numbers(cross_entropy_losses(student, targets)), None)
}

fn with_entropy(gradient: Tensor<2>, entropy: Option<Tensor<2>>) -> Tensor<2> {
    match entropy {
        Some(entropy) => gradient + entropy,
        None => gradient,
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::at_every_level;
    use super::*;
    use crate::terms::MissingMass;

    fn numbers_of(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|index| 6.0 * (step * index as f32).sin())
            .collect()
    }

    fn distill(beta: f64, temperature: f64, ce_alpha: f64) -> Distill {
        Distill {
            beta,
            temperature,
            t_squared: ce_alpha > 0.0,
            ce_alpha,
            missing_mass: MissingMass::Tail,
        }
    }

    const ALL: [(f64, f64, f64); 7] = [
        (0.0, 1.0, 0.0),
        (0.0, 2.0, 0.5),
        (1.0, 1.0, 0.0),
        (1.0, 1.5, 0.3),
        (0.5, 1.0, 0.0),
        (0.1, 2.0, 0.0),
        (0.8, 0.7, 0.25),
    ];

    fn log_softmax_of(row: &[f32], temperature: f64) -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|z| f64::from(*z) / temperature).collect();
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|z| (z - most).exp()).sum();
        row.iter().map(|z| z - most - sum.ln()).collect()
    }

    /// Cross-entropy, divergence and the gradient of their mix in f64.
    fn exact(
        student: &[f32],
        teacher: &[f32],
        target: usize,
        of: &Distill,
    ) -> (f64, f64, Vec<f64>) {
        let both = student.len().min(teacher.len());
        let alone = log_softmax_of(student, 1.0);
        let p = log_softmax_of(&student[..both], of.temperature);
        let q = log_softmax_of(&teacher[..both], of.temperature);
        let mut slopes = Vec::new();
        let divergence = of.divergence(&q, &p, &mut slopes);
        let all: f64 = slopes.iter().sum();
        let [of_entropy, of_divergence] = of.weights();
        let gradient = (0..student.len()).map(|place| {
            let onehot = f64::from(u8::from(place == target));
            let of_teacher = if place < both {
                (slopes[place] - p[place].exp() * all) / of.temperature
            } else {
                0.0
            };
            of_entropy * (alone[place].exp() - onehot) + of_divergence * of_teacher
        });
        (-alone[target], divergence, gradient.collect())
    }

    fn assert_close(ours: (&[f32; 2], &[f32]), exact: &(f64, f64, Vec<f64>), what: &str) {
        let ([loss, divergence], gradient) = ours;
        for (ours, exact) in [(loss, exact.0), (divergence, exact.1)] {
            assert!(
                (f64::from(*ours) - exact).abs() < 3e-6 * (1.0 + exact.abs()),
                "{what}: {ours}, expected {exact}"
            );
        }
        let off = gradient.iter().zip(&exact.2);
        let off = off.map(|(ours, exact)| (f64::from(*ours) - exact).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off < 2e-6, "{what}: gradients differ by {off}");
    }

    #[test]
    fn every_level_is_the_closed_form() {
        for (vocabulary, others) in [(1, 1), (17, 17), (17, 20), (40, 33), (9001, 9001)] {
            let (student, teacher) = (numbers_of(vocabulary, 0.37), numbers_of(others, 0.73));
            let target = vocabulary / 2;
            for (beta, temperature, ce_alpha) in ALL {
                let of = distill(beta, temperature, ce_alpha);
                let expected = exact(&student, &teacher, target, &of);
                for (readings, gradient) in at_every_level(|| {
                    let (mut student, mut teacher) = (student.clone(), teacher.clone());
                    let readings = whole_row(&mut student, &mut teacher, target, &of);
                    (readings, student)
                }) {
                    let what = format!("{vocabulary}, {others}, {beta}");
                    assert_close((&readings, &gradient), &expected, &what);
                }
            }
        }
    }

    /// The most likely tokens of a row.
    fn top(teacher: &[f32], each: usize, temperature: f64) -> TopTokens {
        let log_q = log_softmax_of(teacher, temperature);
        let mut order: Vec<usize> = (0..teacher.len()).collect();
        order.sort_by(|one, other| log_q[*other].total_cmp(&log_q[*one]));
        order.truncate(each);
        TopTokens {
            each,
            ids: order.iter().map(|id| *id as u32).collect(),
            log_p: order.iter().map(|id| log_q[*id] as f32).collect(),
        }
    }

    #[test]
    fn some_tokens_of_a_teacher_are_the_closed_form() {
        let (student, teacher) = (numbers_of(50, 0.37), numbers_of(50, 0.73));
        for (beta, temperature, ce_alpha) in ALL {
            for missing_mass in [MissingMass::Tail, MissingMass::Renorm] {
                let of = Distill {
                    missing_mass,
                    ..distill(beta, temperature, ce_alpha)
                };
                let TopTokens { ids, log_p, .. } = top(&teacher, 8, temperature);
                let p = log_softmax_of(&student, temperature);
                let alone = log_softmax_of(&student, 1.0);
                let known: Vec<f64> = ids.iter().map(|id| p[*id as usize]).collect();
                let row = of.sparse(&log_p, &known);
                let [of_entropy, of_divergence] = of.weights();
                let gradient = (0..50).map(|place| {
                    let at = ids.iter().position(|id| *id as usize == place);
                    let of_teacher = at.map_or(row.others * p[place].exp(), |at| row.known[at]);
                    let onehot = f64::from(u8::from(place == 3));
                    of_entropy * (alone[place].exp() - onehot) + of_divergence * of_teacher
                });
                let expected = (-alone[3], row.divergence, gradient.collect());
                for (readings, gradient) in at_every_level(|| {
                    let mut student = student.clone();
                    let readings = sparse_row(&mut student, (&ids, &log_p), 3, &of);
                    (readings, student)
                }) {
                    let what = format!("{beta}, {missing_mass}");
                    assert_close((&readings, &gradient), &expected, &what);
                }
            }
        }
    }

    #[test]
    fn the_operations_of_a_backend_give_the_same() {
        let (rows, vocabulary, others) = (5, 303, 300);
        let targets: Arc<[u32]> = (0..rows as u32).map(|row| row * 31).collect();
        let device = Device::flex();
        let tensor =
            |step: f32, width: usize| on(numbers_of(rows * width, step), [rows, width], &device);
        let check = |ours: Compared, other: Compared, what: &str| {
            let all = |of: &Compared| {
                let gradient = of.gradient.clone().into_data();
                let gradient: Vec<f32> = gradient.iter::<f32>().collect();
                [of.losses.clone(), of.divergences.clone(), gradient]
            };
            for (ours, other) in all(&ours).iter().zip(all(&other)) {
                assert_eq!(ours.len(), other.len(), "{what}");
                let off = ours.iter().zip(other);
                let off = off.map(|(one, other)| (one - other).abs() / (1.0 + other.abs()));
                assert!(off.fold(0.0, f32::max) < 5e-6, "{what}");
            }
        };
        for (beta, temperature, ce_alpha) in ALL {
            let of = distill(beta, temperature, ce_alpha);
            let (student, teacher) = (tensor(0.37, vocabulary), tensor(0.73, others));
            check(
                divergence(student.clone(), teacher.clone(), targets.clone(), &of),
                composed(student.clone(), teacher, targets.clone(), &of),
                &format!("{beta}"),
            );
            let rows_of_top = (0..rows).map(|row| {
                let row = numbers_of(rows * others, 0.73)[row * others..][..others].to_vec();
                top(&row, 8, temperature)
            });
            let mut all = TopTokens {
                each: 8,
                ..TopTokens::default()
            };
            for row in rows_of_top {
                all.ids.extend(row.ids);
                all.log_p.extend(row.log_p);
            }
            check(
                divergence_from_top(student.clone(), &all, targets.clone(), &of),
                composed_top(student, &all, targets.clone(), &of),
                &format!("top, {beta}"),
            );
        }
    }

    #[test]
    fn tokens_may_be_impossible_but_a_nan_shows() {
        for (beta, temperature, ce_alpha) in ALL {
            let of = distill(beta, temperature, ce_alpha);
            let mut student = [1.0, f32::NEG_INFINITY, 2.0];
            let readings = whole_row(&mut student, &mut [0.5, f32::NEG_INFINITY, 1.0], 0, &of);
            assert!(
                readings
                    .iter()
                    .chain(&student)
                    .all(|number| number.is_finite())
            );
            let mut broken = [1.0, f32::NAN, 2.0];
            let [loss, divergence] = whole_row(&mut broken, &mut [0.5, 0.0, 1.0], 0, &of);
            assert!(loss.is_nan() && divergence.is_nan());
            let [_, divergence] =
                whole_row(&mut [1.0, 2.0, 0.0], &mut [0.5, f32::NAN, 1.0], 0, &of);
            assert!(divergence.is_nan());
        }
    }
}
