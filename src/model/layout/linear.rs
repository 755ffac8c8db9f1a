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
    /// What it is to the checkpoint.
    pub kind: LinearKind,
    /// What it does with its weight.
    pub role: Role,
}

/// What a module does with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It projects within a block.
    Projection,
    /// It looks up rows: inputs are the tokens of the vocabulary.
    Embedding,
    /// It gives logits: outputs are the tokens of the vocabulary.
    Head,
    /// The same with the embedding's weight.
    TiedHead,
}

/// What a linear map is to its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinearKind {
    /// A module: a weight [out, in], and a bias where it has one.
    Module,
    /// A module of one of the experts of a layer.
    Expert,
    /// One of a stack.
    Stacked(Slice),
}

/// One matrix [in, out] of a tensor [count, in, out].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The tensor; behind its name `_bias` is that of the biases, [count, out].
    pub tensor: String,
    /// Which.
    pub index: usize,
    /// How many there are.
    pub count: usize,
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
        }
    }

    /// Rows and columns of its weight in a checkpoint.
    pub fn weight_shape(&self) -> [usize; 2] {
        if self.is_turned() {
            [self.inputs, self.outputs]
        } else {
            [self.outputs, self.inputs]
        }
    }

    /// Whether its weight is [in, out] in a checkpoint.
    pub fn is_turned(&self) -> bool {
        self.role == Role::Embedding || !self.is_whole()
    }

    /// Whether it is the embedding or the head.
    pub fn is_table(&self) -> bool {
        self.role != Role::Projection
    }

    /// The tensor of its weight.
    pub fn weight(&self) -> String {
        match &self.kind {
            LinearKind::Module | LinearKind::Expert => format!("{}.weight", self.name),
            LinearKind::Stacked(slice) => slice.tensor.clone(),
        }
    }

    /// Whether its weight is a tensor of its own, [out, in].
    pub fn is_whole(&self) -> bool {
        !matches!(self.kind, LinearKind::Stacked(_))
    }
}
