//! Where a run computes. Selection of backends lives here.

use burn::tensor::Device;

use crate::fault::{Exit, Explain};
use crate::terms;

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This build has no such backend.
    #[error("device `{asked}` is not in this build, which has {known}")]
    NotBuilt {
        /// As the recipe says.
        asked: terms::Device,
        /// What there is.
        known: &'static str,
    },
    /// Training there has not been proven.
    #[error("training on `{asked}` is not proven yet")]
    NotProven {
        /// As the recipe says.
        asked: terms::Device,
    },
}

impl Explain for Error {
    fn exit(&self) -> Exit {
        Exit::Unavailable
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotBuilt { .. } => "use `device: cpu`, or build with `--features wgpu` or `--features cuda`".into(),
            Self::NotProven { .. } => "use `device: cpu`, or pass `--force` and check what comes out".into(),
        })
    }
}

const KNOWN: &str = match (cfg!(feature = "wgpu"), cfg!(feature = "cuda")) {
    (false, false) => "`cpu`",
    (true, false) => "`cpu`, `wgpu`",
    (false, true) => "`cpu`, `cuda`",
    (true, true) => "`cpu`, `wgpu`, `cuda`",
};

/// What `auto` stands for: the CPU, the one device on which training is proven.
pub fn resolve(choice: terms::Device) -> terms::Device {
    if choice == terms::Device::Auto { terms::Device::Cpu } else { choice }
}

/// Checks that a device is in this build and may be trained on.
///
/// # Errors
/// It is neither.
pub fn check(choice: terms::Device, force: bool) -> Result<(), Error> {
    let built = match choice {
        terms::Device::Auto | terms::Device::Cpu => return Ok(()),
        terms::Device::Wgpu(_) => cfg!(feature = "wgpu"),
        terms::Device::Cuda(_) => cfg!(feature = "cuda"),
    };
    match (built, force) {
        (false, _) => Err(Error::NotBuilt { asked: choice, known: KNOWN }),
        (true, false) => Err(Error::NotProven { asked: choice }),
        (true, true) => Ok(()),
    }
}

/// Opens a device.
///
/// # Errors
/// See [`check`].
pub fn open(choice: terms::Device, force: bool) -> Result<Device, Error> {
    check(choice, force)?;
    match choice {
        #[cfg(feature = "wgpu")]
        terms::Device::Wgpu(0) => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "wgpu")]
        terms::Device::Wgpu(index) => Ok(Device::wgpu(burn::tensor::DeviceKind::DiscreteGpu(index))),
        #[cfg(feature = "cuda")]
        terms::Device::Cuda(index) => Ok(Device::cuda(index)),
        _ => Ok(Device::flex()),
    }
}

/// Threads that the CPU backend computes with: `asked`, or one a core for 0. To be called before anything is computed, by the thread that
/// is going to compute: it is one of them, so that no operation waits for another thread to wake. While it waits outside the pool, no other
/// thread may use the pool: where it has but one thread, both would wait for ever.
pub fn set_threads(asked: usize) -> usize {
    // A second call finds the pool made; what it has is what counts.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(asked).use_current_thread().build_global();
    rayon::current_num_threads()
}

/// Extensions of this processor that change the order in which products are summed.
pub fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found = [("", false)];
    found.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect()
}

/// Floating-point operations a second of an f32 product of two square matrices on this device: the best of a few.
pub fn product_flops_per_second(device: &Device, width: usize) -> f64 {
    let x = burn::tensor::Tensor::<2>::ones([width, width], device);
    let seconds = (0..4).map(|_| {
        let started = std::time::Instant::now();
        let _ = x.clone().matmul(x.clone()).slice([0..1, 0..1]).into_data();
        started.elapsed().as_secs_f64()
    });
    2.0 * (width * width * width) as f64 / seconds.fold(f64::INFINITY, f64::min)
}
