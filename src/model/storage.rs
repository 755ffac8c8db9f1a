//! The storage format of a base's weights in memory.

use crate::quant::QuantFormat;
use crate::terms::ModelDtype;

/// The storage format of a base's weights. Norms and biases are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// The type of matrices that are not packed and, on a GPU, of numbers passed from layer to
    /// layer.
    pub dtype: ModelDtype,
    /// The format of packed projections, or of most of their numbers where a file has several;
    /// `None`: they are not packed.
    pub form: Option<QuantFormat>,
    /// Bytes of all packed matrices as the base's files have them, of whatever formats; `None`:
    /// all of them have `form`.
    pub stored_bytes: Option<u64>,
    /// Count of numbers in projections that are not packed, because the base's files have only the
    /// others packed (`llm_int8_skip_modules` of bitsandbytes).
    pub left_dense: u64,
    /// Whether an untied head is packed like the projections.
    pub packs_head: bool,
    /// Whether an untied embedding stays in the processor's memory.
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
            stored_bytes: None,
            left_dense: 0,
            packs_head: false,
            offloads_embedding: false,
        }
    }
}
