//! What a process makes of a device that fails: the hook of panics keeps the first cause, whichever
//! thread it came from. Alone in its process, for the hook hears everybody.

use std::panic::catch_unwind;
use std::thread;

use rankine::panics::{Cause, forget, hear, whole_words};

/// As burn and cubecl word a read after a kernel that failed.
fn poisoned(root: &str) -> String {
    format!(
        "Error while reading data: use `try_into_data` instead to catch the error at runtime: The \
        device is poisoned\nCaused by:\n  The bytes were never written (failure #3, still claiming \
        41 buffer(s))\n  skipped `sum_of`: it needed memory 7, which carried the failure\nCaused \
        by:\n  The device is poisoned\nCaused by:\n  {root}\nBacktrace:\nNo backtrace \
        available\nAsked at:\nNo backtrace available"
    )
}

fn status(cause: &Cause) -> Option<u32> {
    if let Cause::Device(fault) = cause {
        fault.status.map(|status| status.number)
    } else {
        None
    }
}

#[test]
fn the_first_fault_of_a_device_is_the_cause_of_what_follows() {
    std::panic::set_hook(Box::new(hear));
    let panicked = |words: &str| catch_unwind(|| panic!("{words}")).unwrap_err();

    let bug = panicked("a bug");
    assert_eq!(Cause::of(&*bug), Cause::Internal("a bug".to_owned()));
    let words = whole_words().unwrap();
    assert!(
        words.contains("device_faults.rs:") && words.ends_with(": a bug"),
        "{words}"
    );

    // A thread of burn's, then the one that waits for it, then what else goes wrong on the way out.
    let words = poisoned("cuLaunchKernel failed with status 700");
    assert!(thread::spawn(move || panic!("{words}")).join().is_err());
    let consequence = panicked("receiving on a closed channel");
    assert_eq!(status(&Cause::of(&*consequence)), Some(700));
    let later = panicked(&poisoned("cuEventRecord failed with status 719"));
    assert_eq!(
        status(&Cause::of(&*later)),
        Some(700),
        "the first is the cause"
    );
    let words = whole_words().unwrap();
    assert!(
        words.contains("skipped `sum_of`") && words.contains("status 700"),
        "{words}"
    );

    // Told and done with: what comes later has a cause of its own.
    forget();
    assert_eq!(
        Cause::of(&*consequence),
        Cause::Internal("receiving on a closed channel".to_owned())
    );

    let long = "é".repeat(1 << 20);
    let cause = Cause::of(&*panicked(&long));
    assert!(
        cause.to_string().len() < 500 && whole_words().unwrap().len() < 17 << 10,
        "words are bounded"
    );
}
