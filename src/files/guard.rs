//! Guard for readers of other crates on damaged files: a panic counts as a fault of the file, not
//! of Rankine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::panics::{last_cause, words_of};

/// Runs a reader and returns its result.
///
/// # Errors
/// The reader panicked; the error is its message. Do not use the reader's state again.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| format!("its reader gives up: {}", panic_words(&*panic)))
}

/// Returns the message of a panic: the last cause of a chain of causes, otherwise the first line.
pub fn panic_words(panic: &(dyn Any + Send)) -> &str {
    last_cause(words_of(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_words() {
        assert_eq!(guarded(|| 2), Ok(2));
        assert_eq!(
            guarded(|| -> u8 { panic!("no {}\nsecond line", "entry") }),
            Err("its reader gives up: no entry".into())
        );
    }
}
