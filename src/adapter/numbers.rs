//! The numbers of an adapter outside of a decoder.

use std::collections::BTreeMap;

/// Last name of A₀ and B₀ among numbers.
pub(super) const INITIAL: &str = "initial";

/// Numbers of A [r, in] and B [out, r] by module, in the layout of PEFT's files. For a table, rows
/// of it, or a vector, only the first entry is used. The initial numbers of adapters that were
/// subtracted from the weight stand under `MODULE.initial`.
pub type Numbers = BTreeMap<String, [Vec<f32>; 2]>;
