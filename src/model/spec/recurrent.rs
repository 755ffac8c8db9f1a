//! The specs of mixers that carry something from token to token.

use crate::ops::{RecurrenceForm, Update};

/// A state per head that each token changes and reads, behind a short convolution and before a
/// gated norm.
#[derive(Debug, Clone, PartialEq)]
pub struct RecurrentSpec {
    /// The name of its module in a layer.
    pub module: &'static str,
    /// The shape and the update of the states.
    pub form: RecurrenceForm,
    /// Tokens that the convolution sees, the current one included.
    pub taps: usize,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the projections have a bias.
    pub bias: bool,
}

impl RecurrentSpec {
    /// Returns the names and outputs of the projections from the stream: of queries, keys and
    /// values, of the output's gate, and of the gates; or one of all of them, the output's gate
    /// first.
    pub fn inputs(&self) -> Vec<(&'static str, usize)> {
        let (form, heads) = (self.form, self.form.value_heads);
        match form.update {
            Update::Delta => vec![
                ("in_proj_qkv", form.channels()),
                ("in_proj_z", form.values()),
                ("in_proj_b", heads),
                ("in_proj_a", heads),
            ],
            Update::Sum { .. } => vec![("in_proj", form.values() + form.channels() + form.gates())],
        }
    }

    /// Returns the width of the gated norm's weight: that of a head, or of all values.
    pub fn norm_width(&self) -> usize {
        match self.form.update {
            Update::Delta => self.form.value_dim,
            Update::Sum { .. } => self.form.values(),
        }
    }

    /// Returns the names of the vectors, each with one number per head.
    pub fn vectors(&self) -> &'static [&'static str] {
        match self.form.update {
            Update::Delta => &["A_log", "dt_bias"],
            Update::Sum { .. } => &["A_log", "dt_bias", "D"],
        }
    }
}

/// A convolution of each channel by itself between two gates: y = C ∘ conv(B ∘ x), with B, C and x
/// projected from the stream side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvolutionSpec {
    /// The name of its module in a layer.
    pub module: &'static str,
    /// Number of channels.
    pub channels: usize,
    /// Tokens that the convolution sees, the current one included.
    pub taps: usize,
    /// Whether convolution and projections have a bias.
    pub bias: bool,
}
