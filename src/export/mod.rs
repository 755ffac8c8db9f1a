//! What a run is turned into for others, one function a file.

mod card;

pub use card::{Card, card};
