//! The mechanisms of a decoder, one per file. Nothing here knows a family or a file format.

pub mod attention;
pub mod conv;
pub mod experts;
pub mod footprint;
pub mod head;
pub mod lora;
pub mod magnitude;
pub mod norm;
pub mod pooler;
pub mod projection;
pub mod readout;
pub mod rope;
pub mod score_head;
pub mod score_layer;
pub mod table;
pub mod trainable_table;
pub mod weight;
