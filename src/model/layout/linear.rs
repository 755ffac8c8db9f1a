//! A linear map of a checkpoint.

/// A linear map of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearSpec {
    /// Its name, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Width of the input.
    pub inputs: usize,
    /// Width of the output.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// The form of the weight in the checkpoint.
    pub kind: LinearKind,
    /// The use of the weight.
    pub role: Role,
    /// The order of the weight of a module.
    pub order: WeightOrder,
}

/// The order of a module's weight in the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightOrder {
    /// [out, in], as of `torch.nn.Linear`.
    OutIn,
    /// [in, out], as of `Conv1D` of transformers.
    InOut,
}

/// The use of a module's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A projection within a block.
    Projection,
    /// A table for looking up rows: inputs are the tokens of the vocabulary.
    Embedding,
    /// A table that gives logits: outputs are the tokens of the vocabulary.
    Head,
    /// A head that uses the embedding's weight.
    TiedHead,
}

/// The form of a linear map in its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinearKind {
    /// A module: a weight [out, in], and a bias where it has one.
    Module,
    /// A module of one of the experts of a layer.
    Expert,
    /// One matrix of a stack.
    Stacked(Slice),
}

/// One matrix of a tensor [count, in, out] or [count, out, in].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Name of the tensor; with `_bias` after it, that of the biases, [count, out].
    pub tensor: String,
    /// Index of the matrix.
    pub index: usize,
    /// Number of matrices.
    pub count: usize,
    /// Whether a matrix is [in, out], not [out, in].
    pub is_turned: bool,
}

impl LinearSpec {
    pub(super) fn new(name: String, [inputs, outputs]: [usize; 2], bias: bool) -> Self {
        Self {
            name,
            inputs,
            outputs,
            bias,
            kind: LinearKind::Module,
            role: Role::Projection,
            order: WeightOrder::OutIn,
        }
    }

    /// Returns the rows and columns of its weight in a checkpoint.
    pub fn weight_shape(&self) -> [usize; 2] {
        if self.is_turned() {
            [self.inputs, self.outputs]
        } else {
            [self.outputs, self.inputs]
        }
    }

    /// Whether its weight is [in, out] in a checkpoint.
    pub fn is_turned(&self) -> bool {
        match &self.kind {
            LinearKind::Stacked(slice) => slice.is_turned,
            LinearKind::Module | LinearKind::Expert => {
                self.role == Role::Embedding || self.order == WeightOrder::InOut
            }
        }
    }

    /// Whether the map is the embedding or the head.
    pub fn is_table(&self) -> bool {
        self.role != Role::Projection
    }

    /// Returns the tensor of its weight.
    pub fn weight(&self) -> String {
        match &self.kind {
            LinearKind::Module | LinearKind::Expert => format!("{}.weight", self.name),
            LinearKind::Stacked(slice) => slice.tensor.clone(),
        }
    }

    /// Whether its weight is a tensor of its own.
    pub fn is_whole(&self) -> bool {
        !matches!(self.kind, LinearKind::Stacked(_))
    }
}
