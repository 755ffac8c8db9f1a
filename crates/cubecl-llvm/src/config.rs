//! What the program that uses the crate decides, once, before it opens a device.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::library::Nvrtc;

/// How kernels are compiled and kept.
#[derive(Debug, Default)]
pub struct Config {
    /// The compiler; without one every kernel is refused.
    pub nvrtc: Option<&'static Nvrtc>,
    /// Folders of the headers that kernels include: `cuda_fp16.h`, `mma.h`, `crt/mma.h`.
    pub include: Vec<PathBuf>,
    /// Where compiled kernels are kept.
    pub kernels: Option<PathBuf>,
    /// Whether devices offer TF32.
    pub allow_tf32: bool,
}

static CONFIG: OnceLock<Config> = OnceLock::new();

/// Sets the configuration of the process and says whether it was the first to do so; later ones change nothing.
pub fn configure(config: Config) -> bool {
    CONFIG.set(config).is_ok()
}

/// The configuration; an empty one where there was none.
pub(crate) fn get() -> &'static Config {
    CONFIG.get_or_init(Config::default)
}
