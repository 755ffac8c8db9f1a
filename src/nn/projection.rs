//! A linear map with an optional adapter.

use burn::tensor::{DType, Tensor};

use super::footprint::{F32, ProjectionGroup, RowShape};
use super::lora::{Lora, Vector};
use super::weight::Weight;
use crate::ops::{Adapter, Base, Linear, Linears, Mask, adapted, dropout};

/// A linear map with an optional adapter: y = x W + b + (alpha / r) (drop(x) A) B,
/// arXiv:2106.09685. Where the adapter trains, W and b never change and never get a gradient.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The module's name in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Weight, [in, out].
    pub weight: Base,
    /// Whether the file has the weight as it is here, not as [out, in].
    pub is_stored_so: bool,
    /// Bias, [out].
    pub bias: Option<Tensor<1>>,
    /// Whether weight and bias train; the adapter then does not.
    pub trains: bool,
    /// The adapter, where one is attached.
    pub lora: Option<Lora>,
}

impl Projection {
    /// Computes y.
    ///
    /// # Shapes
    /// `x` [batch, sequence, in], result [batch, sequence, out]; the mask has batch · sequence
    /// tokens.
    pub fn forward(&self, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        side_by_side(std::slice::from_ref(self), x, None, mask)
    }

    /// Computes y and adds it to `onto`, [batch, sequence, out].
    pub fn forward_onto(&self, onto: Tensor<3>, x: Tensor<3>, mask: Option<&Mask>) -> Tensor<3> {
        side_by_side(std::slice::from_ref(self), x, Some(onto), mask)
    }

    /// Returns the map without its bias as an operand of [`crate::ops::adapted`], which has no
    /// vectors.
    pub fn linear(&self) -> Linear {
        Linear {
            weight: self.weight.clone(),
            adapter: self.adapter(),
        }
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        let Self {
            name,
            weight,
            is_stored_so,
            bias,
            trains,
            lora,
        } = self;
        if *trains {
            // What is packed never trains.
            if let Some(weight) = weight.dense_mut() {
                let weight = if *is_stored_so {
                    Weight::Matrix(weight)
                } else {
                    Weight::Turned(weight)
                };
                visit(&format!("{name}.weight"), weight);
            }
            if let Some(bias) = bias {
                visit(&format!("{name}.bias"), Weight::Vector(bias));
            }
        } else if let Some(lora) = lora {
            lora.visit(name, visit);
        }
    }

    fn adapter(&self) -> Option<Adapter> {
        self.lora.as_ref().map(Lora::adapter)
    }

    /// Returns the sum of the biases of the map and of its adapter.
    fn whole_bias(&self) -> Option<Tensor<1>> {
        match (self.bias.clone(), self.lora.as_ref().and_then(Lora::bias)) {
            (Some(bias), Some(more)) => Some(bias + more),
            (bias, more) => bias.or(more),
        }
    }

    /// Computes once what depends on its adapter alone, which no longer trains.
    pub fn settle(&mut self, computed: DType) {
        let Self { weight, lora, .. } = self;
        let Some(lora) = lora else { return };
        let adapter = lora.adapter();
        if let Some(Vector::Magnitude(magnitude)) = lora.vector.as_deref_mut() {
            magnitude.settle(weight, adapter, computed);
        }
    }

    /// Returns the width of the input.
    pub fn inputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Returns the width of the output.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[1]
    }
}

/// Applies projections that share an input as one product, their outputs side by side, and adds the
/// result to what is given.
///
/// # Shapes
/// `x` [batch, sequence, in], `onto` and the result [batch, sequence, out of all]; the mask has
/// batch · sequence tokens.
pub fn side_by_side(
    projections: &[Projection],
    x: Tensor<3>,
    onto: Option<Tensor<3>>,
    mask: Option<&Mask>,
) -> Tensor<3> {
    let [batch, sequence, inputs] = x.dims();
    let outputs = projections.iter().map(Projection::outputs).sum();
    let (x, onto) = (
        x.reshape([batch * sequence, inputs]),
        onto.map(|onto| onto.reshape([batch * sequence, outputs])),
    );
    let mut y = match factors(projections, x.dtype()) {
        None => adapted(x, linears(projections, Projection::adapter, onto), mask),
        Some(factors) => {
            let y = decomposed(projections, x, factors, mask);
            match onto {
                Some(onto) => onto + y,
                None => y,
            }
        }
    }; // [tokens, out of all]
    let biases: Vec<_> = projections.iter().map(Projection::whole_bias).collect();
    if biases.iter().any(Option::is_some) {
        y = y.clone() + of_all(projections, biases, 0.0).cast(y.dtype()).unsqueeze();
    }
    y.reshape([batch, sequence, outputs])
}

impl ProjectionGroup {
    /// Returns both groups together: inputs of which no gradient is taken are not counted.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let inputs = |group: Self| {
            if group.takes_gradient() {
                group.inputs
            } else {
                0
            }
        };
        Self {
            inputs: inputs(self) + inputs(other),
            ranks: self.ranks + other.ranks,
            scaled: self.scaled + other.scaled,
            trains: self.trains || other.trains,
        }
    }

    fn takes_gradient(self) -> bool {
        self.trains || self.ranks > 0
    }

    /// Returns the bytes that [`side_by_side`] keeps for its backward: the input where a gradient
    /// of weights is taken, and x A of each adapter.
    pub fn saved_bytes(self, rows: RowShape) -> u64 {
        rows.bytes(
            self.ranks
                + if self.takes_gradient() {
                    self.inputs
                } else {
                    0
                },
        )
    }

    /// Returns the bytes of the outputs that magnitudes scale, in f32.
    pub fn scaled_bytes(self, rows: RowShape) -> u64 {
        rows.tokens * self.scaled * F32
    }
}

/// Computes `DoRA`'s c (x' W + s x' A B) + (x - x') W of each map, where x' is x after dropout and
/// c the factor of each output. PEFT applies dropout to what the magnitude scales, not to what that
/// is added to.
///
/// # Shapes
/// `x` [tokens, in], `factors` [out of all], result [tokens, out of all].
fn decomposed(
    projections: &[Projection],
    x: Tensor<2>,
    factors: Tensor<1>,
    mask: Option<&Mask>,
) -> Tensor<2> {
    let given = x.dtype();
    // In f32: a factor is so close to 1 that 16 bits would make it one.
    let scaled = |x: Tensor<2>| {
        let y = adapted(x, linears(projections, Projection::adapter, None), None);
        (y.cast(DType::F32) * factors.clone().unsqueeze()).cast(given)
    };
    match mask {
        None => scaled(x),
        Some(mask) => {
            let kept = dropout(x.clone(), mask);
            adapted(
                x - kept.clone(),
                linears(projections, |_| None, Some(scaled(kept))),
                None,
            )
        }
    }
}

/// Returns the factor of each output, [out of all]; `None` where no map has magnitudes.
fn factors(projections: &[Projection], computed: DType) -> Option<Tensor<1>> {
    let of = |projection: &Projection| {
        let lora = projection.lora.as_ref()?;
        Some(
            lora.magnitude()?
                .factors(&projection.weight, lora.adapter(), computed),
        )
    };
    let factors: Vec<_> = projections.iter().map(of).collect();
    factors
        .iter()
        .any(Option::is_some)
        .then(|| of_all(projections, factors, 1.0))
}

/// Joins the vectors of all maps; `missing` stands in where a map has none.
fn of_all(projections: &[Projection], vectors: Vec<Option<Tensor<1>>>, missing: f64) -> Tensor<1> {
    let device = vectors
        .iter()
        .flatten()
        .next()
        .expect("there is one")
        .device();
    let fill = |(projection, vector): (&Projection, Option<Tensor<1>>)| {
        vector
            .unwrap_or_else(|| Tensor::full([projection.outputs()], missing, (&device, DType::F32)))
    };
    Tensor::cat(projections.iter().zip(vectors).map(fill).collect(), 0)
}

fn linears(
    projections: &[Projection],
    adapter: fn(&Projection) -> Option<Adapter>,
    onto: Option<Tensor<2>>,
) -> Linears {
    let map = |projection: &Projection| Linear {
        weight: projection.weight.clone(),
        adapter: adapter(projection),
    };
    Linears {
        maps: projections.iter().map(map).collect(),
        onto,
    }
}
