//! Numbers of 16 bits, and what a device does with them.

use burn::tensor::{DType, Device};

use super::list::{Found, Kind};
use crate::terms::{ModelDtype, Term};

/// What becomes of matrices that are kept in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halves {
    /// The CPU widens them on their way into a product.
    Widened,
    /// A GPU computes in them, best in this type; `None`: it computes in 32 bits only.
    Computed(Option<ModelDtype>),
}

/// The types in which a GPU may compute, the better first: bfloat16 has the range of 32 bits.
const TYPES: [(ModelDtype, DType); 2] = [(ModelDtype::Bfloat16, DType::BF16), (ModelDtype::Float16, DType::F16)];

/// What an open device does.
pub fn halves(device: &Device) -> Halves {
    if *device == Device::flex() {
        return Halves::Widened;
    }
    Halves::Computed(TYPES.into_iter().find(|(_, dtype)| device.supports_dtype(*dtype)).map(|(half, _)| half))
}

impl Found {
    /// What it does, before it is opened.
    pub fn halves(&self) -> Halves {
        match self.kind {
            Kind::Processor => Halves::Widened,
            _ => Halves::Computed(TYPES.into_iter().find(|(half, _)| self.computes_in(*half)).map(|(half, _)| half)),
        }
    }

    /// Whether a model in such numbers can be trained there.
    pub fn takes(&self, dtype: ModelDtype) -> bool {
        match self.kind {
            Kind::Processor => dtype != ModelDtype::Float16,
            _ => dtype == ModelDtype::Auto || self.computes_in(dtype),
        }
    }

    /// The words of all such numbers.
    pub fn dtypes_taken(&self) -> Vec<&'static str> {
        let taken = ModelDtype::WORDS.iter().filter(|(_, dtype)| self.takes(*dtype));
        taken.map(|(word, _)| *word).collect()
    }

    fn computes_in(&self, dtype: ModelDtype) -> bool {
        self.dtypes.contains(&dtype.word())
    }
}
