//! Where a GPU's time goes: every kernel that a piece of work launches, timed by the device's own
//! clock.

use serde::Serialize;

/// All launches of one kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelTime {
    /// Module and name of the kernel.
    pub kernel: String,
    /// Number of launches.
    pub launches: usize,
    /// Time of all launches together, by the device's events.
    pub seconds: f64,
}

/// Runs some work and returns the kernels that it launched, the one that took longest first; none
/// where it runs on the CPU. Events around each launch cost the launching thread time, so the work
/// as a whole is slower than without; the kernels are not.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn kernel_times(work: impl FnOnce()) -> Vec<KernelTime> {
    let watcher = std::sync::Arc::new(watch::Watcher::default());
    let watching = cubecl::logging::LaunchObservation::new(watcher.clone());
    work();
    drop(watching);
    summed(watcher.times())
}

/// Runs the work and returns nothing: this build has no GPU.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn kernel_times(work: impl FnOnce()) -> Vec<KernelTime> {
    work();
    Vec::new()
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
mod watch {
    use std::sync::{Mutex, PoisonError};

    use cubecl::logging::{Duration, LaunchObserver, ProfileDuration, TimingMethod, TimingRequest};

    enum Measured {
        /// Two events in the stream. They are read when the work is over, so that kernels run back
        /// to back.
        Later(ProfileDuration),
        Now(f64),
    }

    /// Keeps the time of each launch.
    #[derive(Default)]
    pub(super) struct Watcher(Mutex<Vec<(&'static str, Measured)>>);

    impl Watcher {
        fn add(&self, kernel: &'static str, measured: Measured) {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((kernel, measured));
        }

        /// Returns kernels and seconds, launch by launch, read from the device. Launches that the
        /// device could not measure are left out.
        pub(super) fn times(&self) -> Vec<(&'static str, f64)> {
            let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            let read = |measured| match measured {
                Measured::Now(seconds) => Some(seconds),
                Measured::Later(profile) => cubecl::future::block_on(profile.resolve())
                    .map(|ticks| ticks.duration().as_secs_f64()),
            };
            all.into_iter()
                .filter_map(|(kernel, measured)| Some((kernel, read(measured)?)))
                .collect()
        }
    }

    impl LaunchObserver for Watcher {
        fn launched(&self, _: &'static str) {}

        fn timing(&self) -> TimingRequest {
            TimingRequest::Deferred
        }

        fn profiled(&self, kernel: &'static str, profile: ProfileDuration) {
            self.add(kernel, Measured::Later(profile));
        }

        fn timed(&self, kernel: &'static str, duration: Duration, _: TimingMethod) {
            self.add(kernel, Measured::Now(duration.as_secs_f64()));
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn summed(times: Vec<(&str, f64)>) -> Vec<KernelTime> {
    let mut kernels = std::collections::BTreeMap::<String, (usize, f64)>::new();
    for (name, seconds) in times {
        let (launches, sum) = kernels.entry(short(name)).or_default();
        *launches += 1;
        *sum += seconds;
    }
    let mut kernels: Vec<KernelTime> = kernels
        .into_iter()
        .map(|(kernel, (launches, seconds))| KernelTime {
            kernel,
            launches,
            seconds,
        })
        .collect();
    kernels.sort_by(|left, right| right.seconds.total_cmp(&left.seconds));
    kernels
}

/// Returns the last two parts of a type's path without its parameters:
/// `rms_norm::output_of::OutputOf`.
#[cfg(any(feature = "wgpu", feature = "cuda", test))]
fn short(name: &str) -> String {
    let path = name.split('<').next().unwrap_or(name);
    let parts: Vec<&str> = path.split("::").collect();
    parts[parts.len().saturating_sub(3)..].join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_of_a_kernel_are_summed_and_the_longest_comes_first() {
        let of = "rankine::ops::cube::gated::output_of::OutputOf<f32>";
        let times = summed(vec![
            (of, 1.0),
            ("a::b::c::d", 4.0),
            (of, 2.0),
            ("alone", 0.5),
        ]);
        let words = |time: &KernelTime| (time.kernel.clone(), time.launches, time.seconds);
        let expected = [
            ("b::c::d", 1, 4.0),
            ("gated::output_of::OutputOf", 2, 3.0),
            ("alone", 1, 0.5),
        ];
        assert_eq!(
            times.iter().map(words).collect::<Vec<_>>(),
            expected.map(|(name, n, s)| (name.to_owned(), n, s))
        );
    }

    #[test]
    fn work_of_the_cpu_launches_nothing() {
        let device = burn::tensor::Device::flex();
        let mut sum = 0.0;
        let times = kernel_times(|| {
            sum = burn::tensor::Tensor::<1>::ones([3], &device)
                .sum()
                .into_scalar::<f32>();
        });
        assert!(times.is_empty() && (sum - 3.0).abs() < 1e-6, "{times:?}");
    }
}
