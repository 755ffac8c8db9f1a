//! A linear map with an optional adapter.

use burn::tensor::{DType, Tensor};

use super::lora::{Lora, Portion};
use super::weight::Weight;
use crate::ops::{Base, Linear, Linears, Mask, adapted};
use crate::terms::Method;

/// y = x W + b + (alpha / r) (drop(x) A) B, arXiv:2106.09685. Where the adapter trains, W and b never change and never get a
/// gradient.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The module's name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// [in, out].
    pub weight: Base,
    /// [out].
    pub bias: Option<Tensor<1>>,
    /// The adapter, where one is attached.
    pub lora: Option<Lora>,
}

impl Projection {
    /// # Shapes
    /// `x` [batch, sequence, in], result [batch, sequence, out]; the mask has batch · sequence tokens.
    pub fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        side_by_side(std::slice::from_ref(self), x, None, mask)
    }

    /// The same onto `onto`, [batch, sequence, out].
    pub fn forward_onto(&self, onto: Tensor<3>, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        side_by_side(std::slice::from_ref(self), x, Some(onto), mask)
    }

    /// It without its bias as an operand of [`crate::ops::adapted`].
    pub fn linear(&self) -> Linear {
        Linear { weight: self.weight.clone(), adapter: self.lora.as_ref().map(Lora::adapter) }
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, trained: Method, visit: &mut dyn FnMut(&str, Weight)) {
        let Self { name, weight, bias, lora } = self;
        match (trained, lora) {
            (Method::Lora, None) => {}
            (Method::Lora, Some(lora)) => {
                if lora.portion != Portion::Behind {
                    visit(&format!("{name}.lora_A.weight"), Weight::Turned(&mut lora.a));
                }
                visit(&format!("{name}.lora_B.weight"), Weight::LoraB(&mut lora.b));
            }
            (Method::Full, _) => {
                // What is packed never trains.
                if let Some(weight) = weight.dense_mut() {
                    visit(&format!("{name}.weight"), Weight::Turned(weight));
                }
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

/// Projections of one input as one product, what they give side by side and all of it onto what is given.
///
/// # Shapes
/// `x` [batch, sequence, in], `onto` and the result [batch, sequence, out of all]; the mask has batch · sequence tokens.
pub fn side_by_side(projections: &[Projection], x: Tensor<3>, onto: Option<Tensor<3>>, mask: Option<&Mask>) -> Tensor<3> {
    let [batch, sequence, inputs] = x.dims();
    let outputs = projections.iter().map(Projection::outputs).sum();
    let maps = projections.iter().map(Projection::linear).collect();
    let linears = Linears { maps, onto: onto.map(|onto| onto.reshape([batch * sequence, outputs])) };
    let mut y = adapted(x.reshape([batch * sequence, inputs]), linears, mask); // [tokens, out of all]
    if projections.iter().any(|projection| projection.bias.is_some()) {
        let device = y.device();
        let bias = |projection: &Projection| {
            projection.bias.clone().unwrap_or_else(|| Tensor::zeros([projection.outputs()], (&device, DType::F32)))
        };
        let biases = projections.iter().map(bias).collect();
        let given = y.dtype();
        y = y + Tensor::cat(biases, 0).cast(given).unsqueeze();
    }
    y.reshape([batch, sequence, outputs])
}
