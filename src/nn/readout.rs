//! The end of a network, which turns hidden rows into a few numbers for each target: log p of a
//! token, or scores. An objective judges these numbers, and its slopes go back through the readout.

use burn::tensor::Tensor;

use super::head::{Head, HeadGradients, HeadPass};
use super::norm::Norm;
use super::score_head::{ScoreGradients, ScoreHead};
use crate::terms::{Readings, Slopes};

/// A readout of a network's hidden rows.
#[derive(Debug, Clone, Copy)]
pub enum Readout<'a> {
    /// Log p of the targets.
    Tokens(&'a Head),
    /// Scores, after the final norm, of each hidden row or of each text; the numbers are the ends
    /// of texts among the rows.
    Scores(&'a Norm, &'a ScoreHead, &'a [usize]),
}

/// Gradients of a sum of readings, each times its slope.
#[derive(Debug, Clone)]
pub enum ReadoutGradients {
    /// Of log p of tokens.
    Tokens(HeadGradients),
    /// Of scores.
    Scores(ScoreGradients),
}

impl Readout<'_> {
    /// Returns the readings of hidden rows before the final norm.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked, one target per row.
    pub fn read(self, hidden: &Tensor<2>, targets: &[i32], pass: HeadPass) -> Readings {
        match self {
            Self::Tokens(head) => head.read(hidden, targets, pass),
            Self::Scores(norm, scores, pooled) => scores.read(norm, hidden, pooled),
        }
    }

    /// Returns the gradients of the sum of all readings, each times its slope, and the readings.
    ///
    /// # Shapes
    /// `hidden` [rows, width], untracked, one target per row and a slope per reading.
    pub fn backward(
        self,
        hidden: &Tensor<2>,
        targets: &[i32],
        slopes: &Slopes,
        pass: HeadPass,
    ) -> (Readings, ReadoutGradients) {
        match self {
            Self::Tokens(head) => {
                let (readings, gradients) = head.backward(hidden, targets, slopes, pass);
                (readings, ReadoutGradients::Tokens(gradients))
            }
            Self::Scores(norm, scores, pooled) => (
                scores.read(norm, hidden, pooled),
                ReadoutGradients::Scores(scores.backward(norm, hidden, pooled, slopes, pass.scale)),
            ),
        }
    }

    /// Returns the gradients alone, where readings are known.
    ///
    /// # Shapes
    /// As for [`Readout::backward`].
    pub fn gradients(
        self,
        hidden: &Tensor<2>,
        targets: &[i32],
        slopes: &Slopes,
        pass: HeadPass,
    ) -> ReadoutGradients {
        match self {
            Self::Tokens(_) => self.backward(hidden, targets, slopes, pass).1,
            Self::Scores(norm, scores, pooled) => {
                ReadoutGradients::Scores(scores.backward(norm, hidden, pooled, slopes, pass.scale))
            }
        }
    }
}
