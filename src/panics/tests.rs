//! Panic messages as burn 0.22.1, cubecl 0.11.3, cudarc 0.19.10 and wgpu 30 print them.

use super::*;

const READ: &str = "Error while reading data: use `try_into_data` instead to catch the error at \
    runtime: ";

/// Message of a read after a failed kernel: the symptom, the skipped kernels, the root cause.
fn poisoned(root: &str) -> String {
    let skipped: String = (0..16)
        .map(|index| {
            format!("  skipped `sum_of_{index}`: it needed memory 7, which carried the failure\n")
        })
        .collect();
    format!(
        "{READ}The device is poisoned\nCaused by:\n  The bytes were never written (failure #3, \
        still claiming 41 buffer(s))\n{skipped}  (9 older skip record(s) were dropped; the walk \
        may stop before the root)\nCaused by:\n  An IO error happened\nCaused by:\n  The device is \
        poisoned: {root}\nBacktrace:\nNo backtrace available\nAsked at:\nNo backtrace available"
    )
}

fn device(words: &str) -> DeviceFault {
    match Cause::read(words) {
        Cause::Device(fault) => fault,
        other => panic!("{other:?}: {words}"),
    }
}

#[test]
fn a_chain_of_causes_ends_with_the_drivers_status() {
    for (number, name) in [
        (719, "CUDA_ERROR_LAUNCH_FAILED"),
        (700, "CUDA_ERROR_ILLEGAL_ADDRESS"),
        (214, "CUDA_ERROR_ECC_UNCORRECTABLE"),
        (716, "CUDA_ERROR_MISALIGNED_ADDRESS"),
        (999, "CUDA_ERROR_UNKNOWN"),
    ] {
        let fault = device(&poisoned(&format!(
            "memcpy_htod_async failed with status {number}"
        )));
        assert_eq!(
            fault.words,
            format!("The device is poisoned: memcpy_htod_async failed with status {number}")
        );
        let said = fault.to_string();
        assert!(
            said.starts_with(&format!("{name} ({number}), ")) && said.contains("memcpy_htod_async"),
            "{said}"
        );
        assert!(!fault.advice().is_empty());
    }
    assert!(
        device(&poisoned("cuEventRecord failed with status 214"))
            .to_string()
            .contains("the card's memory is faulty")
    );
}

#[test]
fn a_launch_that_is_refused_at_once_tells_its_name() {
    let words = format!(
        "{READ}An error happened during execution\nCaused by:\n  A launch error happened\nCaused \
        by:\n  An unknown error happened during launch\nCaused by:\n  \
        DriverError(CUDA_ERROR_UNKNOWN, \"unknown error\")\nBacktrace\nNo backtrace available"
    );
    let fault = device(&words);
    assert_eq!(
        fault.words,
        "DriverError(CUDA_ERROR_UNKNOWN, \"unknown error\")"
    );
    assert!(
        fault.to_string().contains("fell off the bus") && fault.advice().contains("`Xid`"),
        "{fault}"
    );
    let of_copy = concat!(
        r#"bytes: host access failed: Read("The device is poisoned\nCaused by:\n  "#,
        r#"cuStreamSynchronize failed with status 700\nBacktrace:\nNo backtrace available")"#
    );
    assert_eq!(
        device(of_copy).words,
        "cuStreamSynchronize failed with status 700"
    );
    let of_thread = "called `Result::unwrap()` on an `Err` value: \
        DriverError(CUDA_ERROR_LAUNCH_FAILED, \"<Failure when calling cuGetErrorString()>\")";
    assert_eq!(
        device(of_thread).status.map(|status| status.number),
        Some(719)
    );
}

#[test]
fn a_device_of_wgpu_that_is_lost_has_no_status() {
    let words = format!(
        "{READ}The device is poisoned\nCaused by:\n  The device is poisoned\nCaused by:\n  \
        Unknown: Device is lost\nBacktrace:\nNo backtrace available"
    );
    let fault = device(&words);
    assert_eq!(
        (fault.status, fault.words.as_str()),
        (None, "Unknown: Device is lost")
    );
    assert!(fault.to_string().contains("lost"));
    assert!(matches!(
        Cause::read("wgpu error: Validation Error\n\nCaused by:\n  Parent device is lost"),
        Cause::Device(_)
    ));
    let full = words.replace("Device is lost", "Out of memory");
    assert_eq!(
        Cause::read(&full),
        Cause::OutOfMemory("Unknown: Out of memory".to_owned())
    );
}

#[test]
fn words_for_a_full_memory_are_known() {
    for said in [
        "wgpu error: Out of Memory",
        "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
        "cuMemcpyHtoDAsync failed with status 2",
        "IoError::OutOfMemory { size: 7 }",
        "Not enough memory left.",
        "can't allocate buffer of size: 183107584",
        "out of device memory allocating 183107584 bytes",
        "Can't allocate 64 bytes: every page size the memory tracks still holds live allocations",
    ] {
        for head in [
            "An error happened during execution\nCaused by:\n",
            "An out-of-memory error happened during launch\nCaused by:\n",
        ] {
            let words = format!("{head}  {said}\nBacktrace\nNo backtrace available");
            assert_eq!(Cause::read(&words), Cause::OutOfMemory(said.to_owned()));
        }
    }
}

#[test]
fn a_bug_is_told_by_its_last_cause_and_a_compilers_log_without_the_source() {
    let internal = |words: &str| match Cause::read(words) {
        Cause::Internal(said) => said,
        other => panic!("{other:?}: {words}"),
    };
    assert_eq!(
        internal("index out of bounds: the len is 3 but the index is 7"),
        "index out of bounds: the len is 3 but the index is 7"
    );
    assert_eq!(internal(""), "no message");
    let invalid = format!(
        "{READ}An error happened during execution\nCaused by:\n  A launch error happened\nCaused \
        by:\n  DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")\nBacktrace\nNo \
        backtrace available"
    );
    assert_eq!(
        internal(&invalid),
        "DriverError(CUDA_ERROR_INVALID_VALUE, \"invalid argument\")"
    );
    let source = "#include <mma.h>\nextern \"C\" __global__ void kernel() { float memory = \
        htanh(x); }\n"
        .repeat(400);
    let compiler = format!(
        "{READ}An error happened during execution\nCaused by:\n  A compilation error happened \
        during launch\nCaused by:\n  An error caused the compilation to fail\nCaused by:\n  \
        [Compilation Error] \n    default_program(4): error: identifier \"htanh\" is \
        undefined\n      y = htanh(x);\n    1 error detected in the compilation of \
        \"default_program\".\n[Source]  \n{source}\nBacktrace:\nNo backtrace available"
    );
    let said = internal(&compiler);
    assert!(
        said.starts_with("default_program(4): error: identifier \"htanh\" is undefined; "),
        "{said}"
    );
    assert!(
        said.contains("1 error detected") && !said.contains("#include"),
        "{said}"
    );
    assert!(internal(&"é".repeat(9000)).len() < 500);
}
