//! The processor: its threads, its extensions and its name.

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
