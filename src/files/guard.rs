//! Readers of other crates over damaged files: where one panics, that is a fault of the file and
//! not of Rankine.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::panics::{last_cause, words_of};

/// What a reader makes of its file.
///
/// # Errors
/// The reader panicked; its words. What it was reading with is not to be used again.
pub fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| format!("its reader gives up: {}", panic_words(&*panic)))
}

/// What a panic says: its last cause, where it tells a chain of them, else its first line.
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
            Err("its reader \
        gives up: no entry"
                .into())
        );
    }
}
