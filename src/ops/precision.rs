//! The precision of products of float32 operands in a process that allows TF32.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::is_tf32_allowed;

/// Whether products of float32 operands avoid tensor cores, which would round them to TF32.
static IS_EXACT: AtomicBool = AtomicBool::new(false);

/// Runs an operation with products of float32 operands in float32, even if the process allows TF32.
/// It affects the whole process: nothing else may compute meanwhile.
pub fn in_float32<T>(operation: impl FnOnce() -> T) -> T {
    // Where nothing allows TF32 no device has it, and products are computed by the same kernels as
    // in training.
    with(is_tf32_allowed(), operation)
}

/// Runs an operation with products of float32 operands kept off tensor cores, or not.
pub(super) fn with<T>(is_exact: bool, operation: impl FnOnce() -> T) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            IS_EXACT.store(self.0, Ordering::Relaxed);
        }
    }
    let _restored = Restored(IS_EXACT.swap(is_exact, Ordering::Relaxed));
    operation()
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(super) fn is_exact() -> bool {
    IS_EXACT.load(Ordering::Relaxed)
}

#[cfg(all(test, any(feature = "wgpu", feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_the_operation_only_and_a_panic_ends_it_too() {
        assert!(!is_exact() && with(true, is_exact) && !is_exact());
        let panicked =
            std::panic::catch_unwind(|| with(true, || -> () { panic!("a device is lost") }));
        assert!(panicked.is_err() && !is_exact());
        assert!(!in_float32(is_exact), "nothing allows TF32 here");
    }
}
