//! The processor: its threads, its extensions, and its speed.

use burn::tensor::{DType, Device, Tensor};

use crate::ops::matmul;
use crate::terms::ModelDtype;

/// Sets the number of threads that the CPU backend computes with: `asked`, or one per core for 0.
///
/// It must be called before anything is computed, by the thread that is going to compute: that
/// thread is one of them, so that no operation waits for another thread to wake. While it waits
/// outside the pool, no other thread may use the pool: in a pool of one thread, both would wait
/// forever.
pub fn set_threads(asked: usize) -> usize {
    // A second call finds the pool made; what it has is what counts.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(asked)
        .use_current_thread()
        .build_global();
    rayon::current_num_threads()
}

/// Returns the extensions of this processor that change the order in which products are summed.
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
    found
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name)
        .collect()
}

/// Returns the name that the processor reports, or its architecture where the system does not tell.
pub(super) fn name() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = told
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    named.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, name)| name.trim().to_owned(),
    )
}

/// Measures floating-point operations per second, the best of a few tries: the product of two
/// square matrices as in a training step, with the base's matrix kept in type `kept`.
pub fn product_flops_per_second(device: &Device, width: usize, kept: ModelDtype) -> f64 {
    let kept = match kept {
        ModelDtype::Auto | ModelDtype::Float32 => DType::F32,
        ModelDtype::Bfloat16 => DType::BF16,
        ModelDtype::Float16 => DType::F16,
    };
    // The CPU widens what is kept on its way into a product.
    let computed = if super::is_cpu(device) {
        DType::F32
    } else {
        kept
    };
    let ones = |dtype| Tensor::<2>::ones([width, width], (device, dtype));
    let (x, weight) = (ones(computed), ones(kept));
    let seconds = (0..4).map(|_| {
        let started = std::time::Instant::now();
        let corner = matmul(x.clone(), weight.clone())
            .slice([0..1, 0..1])
            .into_data();
        // A GPU's data is waited for when a number of it is read.
        let read = corner.iter::<f32>().next();
        assert!(
            read == Some(width as f32),
            "a product of ones is {read:?}, expected {width}"
        );
        started.elapsed().as_secs_f64()
    });
    2.0 * (width * width * width) as f64 / seconds.fold(f64::INFINITY, f64::min)
}
