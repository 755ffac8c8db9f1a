//! How kernels are compiled and kept.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets what cubecl would otherwise read from the environment and from a `cubecl.toml` in the
/// current folder or one above it, so that a file that lies there by chance changes no run.
pub(super) fn configure() {
    // Where it is set already it is this one.
    CubeClRuntimeConfig::try_set(CubeClRuntimeConfig::default());
}

/// Hands NVIDIA's compiler to cubecl, before the first CUDA device is opened. The compiled kernels
/// are kept for the next start; wgpu's are kept by its drivers.
///
/// # Errors
/// A part of CUDA is missing or does not fit.
#[cfg(feature = "cuda")]
pub(super) fn configure_cuda() -> Result<(), super::ToolkitFault> {
    let found = super::toolkit::Toolkit::find()?;
    let cache = crate::files::cache_folder();
    // Where it cannot be made nothing is kept.
    let _ = crate::files::private_cache_folder(&cache);
    let kernels = Some(cache.join("kernels"));
    // A second device of CUDA takes the compiler of the first.
    cubecl_llvm::configure(cubecl_llvm::Config {
        nvrtc: Some(&found.nvrtc),
        include: found.include.clone(),
        kernels,
        allow_tf32: super::is_tf32_allowed(),
    });
    Ok(())
}
