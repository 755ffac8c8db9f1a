#![no_main]

// Panics of other crates that Rankine turns into faults are not crashes: those alone count that
// leave the target.
libfuzzer_sys::fuzz_target!(init: drop(std::panic::take_hook()), |bytes: &[u8]| rankine_fuzz::safetensors(bytes));
