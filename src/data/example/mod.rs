//! Rows as examples: the columns and conversations of each format, encoded as token ids with the
//! positions that are trained.

pub mod asked;
pub mod conversation_error;
pub mod encode;
pub mod error;
pub mod format;
mod labels;
mod preference;
mod retrieval;
mod roles;
pub mod token_row;
pub mod told;
pub mod turns;
pub mod unread;
