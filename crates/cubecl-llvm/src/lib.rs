//! CUDA kernels without LLVM, in the place of cubecl's LLVM backend.
//!
//! cubecl-cuda 0.11 links the whole of LLVM, which its build script downloads, even where NVRTC compiles the kernels. A
//! `[patch.crates-io]` puts this crate in its place: it has the types that cubecl-cuda asks for, and compiles a kernel through cubecl's
//! CUDA C++ and NVRTC, which is loaded at run time. Nothing of NVIDIA's is needed to build it.
//!
//! Three things differ from cubecl's own C++ backend:
//! - NVRTC makes machine code of the card (CUBIN) in place of PTX, so that a toolkit newer than the driver works: a driver loads no PTX
//!   of a newer toolkit, but machine code of the same major version
//!   (<https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html>).
//! - A device offers no TF32 unless [`Config::allow_tf32`]: a product of float32 is one.
//! - Compiled kernels are kept as plain files in a folder, where one is given.

mod compiler;
mod config;
mod kernels;
mod library;

pub use compiler::{LlvmTarget, NvptxModule, PlironArtifact, PlironCompiler, PlironOptions};
pub use config::{Config, configure};
pub use library::{LoadError, Nvrtc, Version, driver_version};

/// Where cubecl-cuda looks for the version of PTX.
pub mod nvptx {
    pub mod ptx_version {
        //! A version of PTX, which machine code has not.

        /// Never made: the kernels are no PTX.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// None, whatever the driver.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl std::fmt::Display for PtxVersion {
            fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match *self {}
            }
        }
    }
}

/// Where cubecl-cuda looks for what a device may offer.
pub mod shared {
    pub mod lowered_features {
        //! What a device offers, less what must not be used.

        use cubecl_core::ir::{DeviceProperties, ElemType, FloatKind};

        /// The target of the kernels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's GPUs.
            Nvptx,
        }

        /// Takes TF32 from what a device offers, unless the configuration allows it: where a device has it, cubek rounds the operands of
        /// float32 products to its ten bits of mantissa and nothing says so.
        pub fn restrict_features(properties: &mut DeviceProperties, _target: GpuTarget) {
            if crate::config::get().allow_tf32 {
                return;
            }
            let tf32 = ElemType::Float(FloatKind::TF32);
            properties.features.types.elem.remove(&tf32);
            properties.features.matmul.cmma.retain(|product| product.a_type != tf32 && product.b_type != tf32);
            properties.features.matmul.mma.retain(|product| product.a_type != tf32 && product.b_type != tf32);
        }
    }
}
