//! Rows as examples: the columns and conversations of each format, encoded as token ids with the
//! positions that are trained.

pub mod asked;
pub mod classes;
pub mod conversation_error;
pub mod cut;
pub mod encode;
pub mod error;
pub mod format;
pub mod label_scan;
mod labeled;
mod labels;
mod preference;
mod retrieval;
mod roles;
pub mod token_row;
pub mod told;
pub mod turns;
pub mod unlabeled;
pub mod unread;
