//! How the weights of a base are kept in memory.

use crate::quant::QuantFormat;
use crate::terms::ModelDtype;

/// How the weights of a base are kept. Norms and biases are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The numbers of matrices that are not packed, and on a GPU those that go from layer to layer.
    pub dtype: ModelDtype,
    /// How projections are packed; `None`: they are not.
    pub form: Option<QuantFormat>,
    /// Numbers of projections that are not, because the base's files have only the others packed
    /// (`llm_int8_skip_modules` of bitsandbytes).
    pub left_dense: u64,
    /// Whether a head of its own is packed as they are.
    pub packs_head: bool,
    /// Whether an embedding of its own stays in the processor's memory.
    pub offloads_embedding: bool,
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.dtype)?;
        if let Some(form) = self.form {
            let head = if self.packs_head {
                " with the head"
            } else {
                ""
            };
            write!(f, ", packed{head} as {form}")?;
            if self.left_dense > 0 {
                write!(f, " but for {} numbers of projections", self.left_dense)?;
            }
        }
        if self.offloads_embedding {
            f.write_str(", embedding on the host")
        } else {
            Ok(())
        }
    }
}

impl From<ModelDtype> for Storage {
    fn from(dtype: ModelDtype) -> Self {
        Self {
            dtype,
            form: None,
            left_dense: 0,
            packs_head: false,
            offloads_embedding: false,
        }
    }
}
