#![no_main]

// A panic of another crate that Rankine turns into a fault is not a crash; only panics that leave
// the target count.
libfuzzer_sys::fuzz_target!(
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| rankine_fuzz::gguf(bytes)
);
