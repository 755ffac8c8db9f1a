//! How kernels are compiled and kept.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets what cubecl would otherwise read from a `cubecl.toml` of the current folder or one above it, and from the environment: a file that
/// lies there by chance is to change no run. Kernels that NVRTC compiled are kept for the next start; those of wgpu its drivers keep.
pub(super) fn configure() {
    #[allow(unused_mut, reason = "without CUDA nothing is kept")]
    let mut config = CubeClRuntimeConfig::default();
    #[cfg(feature = "cuda")]
    {
        config.compilation.cache = true;
        config.environment.path = cubecl::config::cache::CacheConfig::Directory(crate::files::cache_folder().join("kernels"));
    }
    // Where it is set already it is this one.
    CubeClRuntimeConfig::try_set(config);
}
