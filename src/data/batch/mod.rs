//! What a step reads: rows mixed, packed and laid end to end in batches.

pub mod mixture;
pub mod pack;
pub mod row_batch;
pub mod rows;
pub mod top_rows;
