//! What a run is turned into for others, one function a file.

mod card;
mod ledger;

pub use card::{Card, card};
pub use ledger::{Line, write_ledger};
