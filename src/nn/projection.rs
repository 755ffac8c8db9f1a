//! A linear map with an optional adapter.

use burn::tensor::Tensor;

use super::lora::Lora;
use super::weight::Weight;
use crate::ops::{Mask, matmul};
use crate::terms::Method;

/// y = x W + b + (alpha / r) (drop(x) A) B, arXiv:2106.09685. Where the adapter trains, W and b never change and never get a
/// gradient.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The module's name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// [in, out].
    pub weight: Tensor<2>,
    /// [out].
    pub bias: Option<Tensor<1>>,
    /// The adapter, where one is attached.
    pub lora: Option<Lora>,
}

impl Projection {
    /// # Shapes
    /// `x` [batch, sequence, in], result [batch, sequence, out]; the mask has batch · sequence tokens.
    pub fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        let [batch, sequence, inputs] = x.dims();
        let x: Tensor<2> = x.reshape([batch * sequence, inputs]);
        let mut y = match &self.lora {
            Some(lora) => lora.forward(x, self.weight.clone(), mask),
            None => matmul(x, self.weight.clone()),
        }; // [tokens, out]
        if let Some(bias) = &self.bias {
            y = y + bias.clone().unsqueeze();
        }
        let outputs = self.outputs();
        y.reshape([batch, sequence, outputs])
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, trained: Method, visit: &mut dyn FnMut(&str, Weight)) {
        let Self { name, weight, bias, lora } = self;
        match (trained, lora) {
            (Method::Lora, None) => {}
            (Method::Lora, Some(lora)) => {
                visit(&format!("{name}.lora_A.weight"), Weight::Turned(&mut lora.a));
                visit(&format!("{name}.lora_B.weight"), Weight::LoraB(&mut lora.b));
            }
            (Method::Full, _) => {
                visit(&format!("{name}.weight"), Weight::Turned(weight));
                if let Some(bias) = bias {
                    visit(&format!("{name}.bias"), Weight::Vector(bias));
                }
            }
        }
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[1]
    }
}
