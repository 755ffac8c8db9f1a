//! Numbers of 16 bits, and what a device does with them.

use super::list::{DeviceClass, FoundDevice};
use crate::terms::{Device, ModelDtype, Term};

/// Handling of matrices that are kept in 16 bits by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfPrecision {
    /// The CPU widens them on their way into a product.
    Widened,
    /// A GPU computes in 16 bits, best in this type; `None`: it computes in 32 bits only.
    Computed(Option<ModelDtype>),
}

/// Types in which a GPU may compute, the better one first: bfloat16 has the range of 32 bits.
const TYPES: [ModelDtype; 2] = [ModelDtype::Bfloat16, ModelDtype::Float16];

/// Returns how a device of this machine, named as in a recipe, handles 16 bits. A GPU that is not
/// listed is asked for 32 bits only.
pub fn halves(choice: Device) -> HalfPrecision {
    match (choice, super::find(choice)) {
        (Device::Auto | Device::Cpu, _) => HalfPrecision::Widened,
        (_, found) => found.map_or(HalfPrecision::Computed(None), |found| found.halves()),
    }
}

/// Whether the device is the processor.
pub fn is_cpu(device: &burn::tensor::Device) -> bool {
    *device == burn::tensor::Device::flex()
}

impl FoundDevice {
    /// Returns how the device handles 16 bits, before it is opened.
    pub fn halves(&self) -> HalfPrecision {
        match self.kind {
            DeviceClass::Processor => HalfPrecision::Widened,
            _ => HalfPrecision::Computed(TYPES.into_iter().find(|half| self.computes_in(*half))),
        }
    }

    /// Whether a model in this type can be trained on the device.
    pub fn takes(&self, dtype: ModelDtype) -> bool {
        match self.kind {
            DeviceClass::Processor => dtype != ModelDtype::Float16,
            _ => dtype == ModelDtype::Auto || self.computes_in(dtype),
        }
    }

    /// Returns why this type cannot be used, with the types that can; `None` where it can.
    pub fn refusal(&self, dtype: ModelDtype) -> Option<String> {
        let taken = ModelDtype::WORDS
            .iter()
            .filter(|(_, dtype)| self.takes(*dtype))
            .map(|(word, _)| *word);
        let refusal = || {
            format!(
                "`{dtype}` is not for device `{}`, which takes {}",
                self.device,
                taken.collect::<Vec<_>>().join(", ")
            )
        };
        (!self.takes(dtype)).then(refusal)
    }

    fn computes_in(&self, dtype: ModelDtype) -> bool {
        self.dtypes.contains(&dtype.word())
    }
}

#[cfg(test)]
mod tests {
    use super::super::list::cpu;
    use super::*;

    fn gpu(dtypes: &[&'static str]) -> FoundDevice {
        FoundDevice {
            device: Device::Cuda(0),
            kind: DeviceClass::Discrete,
            dtypes: dtypes.to_vec(),
            ..cpu()
        }
    }

    #[test]
    fn a_gpu_takes_what_it_computes_in_and_the_cpu_what_it_widens() {
        let [ampere, turing, old] = [
            &["float32", "float16", "bfloat16"][..],
            &["float32", "float16"],
            &["float32"],
        ]
        .map(gpu);
        let best = [&ampere, &turing, &old].map(FoundDevice::halves);
        assert_eq!(
            best,
            [Some(ModelDtype::Bfloat16), Some(ModelDtype::Float16), None]
                .map(HalfPrecision::Computed)
        );
        assert_eq!(cpu().halves(), HalfPrecision::Widened);
        assert_eq!(
            (
                turing.refusal(ModelDtype::Float16),
                old.refusal(ModelDtype::Auto)
            ),
            (None, None)
        );
        let said = turing.refusal(ModelDtype::Bfloat16).expect("refused");
        assert_eq!(
            said,
            "`bfloat16` is not for device `cuda:0`, which takes auto, float32, float16"
        );
        assert!(cpu().refusal(ModelDtype::Float16).is_some() && cpu().takes(ModelDtype::Bfloat16));
    }
}
