//! The tensors of an adapter within an open file, and their numbers.

use std::sync::{Arc, Mutex, PoisonError};

use crate::adapter::experts::{Routed, Stack, b_of};
use crate::adapter::tables::TableTarget;
use crate::adapter::{AdapterError, Target};
use crate::files::safetensors::Archive;

/// The contents of a file; names and shapes are checked.
#[derive(Debug, Default)]
pub struct Contents {
    /// Matrices A and B.
    pub pairs: Vec<AdapterTensors>,
    /// Tables, and rows of them.
    pub tables: Vec<StoredTable>,
    /// Module of embedding or head, and the key of the base's table that PEFT saved with it.
    pub bases: Vec<(String, String)>,
    /// The score head.
    pub score: Option<ScoreTensors>,
}

/// The keys of a score head within an open file.
#[derive(Debug)]
pub struct ScoreTensors {
    /// The module.
    pub module: String,
    /// Names and keys of the tensors of the layer before it.
    pub layer: Vec<(String, String)>,
    /// The key of its weight, [labels, width].
    pub weight: String,
    /// The key of its bias, [labels].
    pub bias: Option<String>,
}

impl ScoreTensors {
    /// Returns the names of all its tensors, and their keys.
    pub fn tensors(&self) -> Vec<(String, String)> {
        let part = |part: &str, key: &String| (format!("{}.{part}", self.module), key.clone());
        let bias = self.bias.as_ref().map(|key| part("bias", key));
        let of_map = [part("weight", &self.weight)].into_iter().chain(bias);
        self.layer.iter().cloned().chain(of_map).collect()
    }
}

/// A table, or rows of it, within an open file.
#[derive(Debug)]
pub struct StoredTable {
    /// The table, and which part of it.
    pub target: TableTarget,
    /// The key.
    pub key: String,
}

/// An adapter's A [r, in] and B [out, r] within an open file; names and shapes are checked.
#[derive(Debug)]
pub struct AdapterTensors {
    /// The adapter.
    pub target: Target,
    pub(super) keys: [String; 2],
    /// Name and key of its vector, where it has one.
    pub(super) vector: Option<(String, String)>,
    /// Its part of a matrix of all experts.
    pub(super) slice: Option<(Arc<Stack>, Routed)>,
}

/// The joint B of all experts that was read last, by its key: each expert asks for its part of it.
pub type LastB = Mutex<Option<(String, Vec<f32>)>>;

impl AdapterTensors {
    /// Reads the numbers of A and B.
    ///
    /// # Errors
    /// Their type is not f32, f16 or bf16.
    pub fn read(&self, archive: &Archive, last: &LastB) -> Result<[Vec<f32>; 2], AdapterError> {
        if let Some((stack, Routed { expert, place, .. })) = &self.slice {
            let ([of_a, of_b], rank) = (&self.keys, self.target.rank);
            let a = archive
                .read_rows_f32(of_a, expert * rank..(expert + 1) * rank)?
                .unwrap_or_default();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.as_ref().is_none_or(|(key, _)| key != of_b) {
                *last = Some((of_b.clone(), archive.read_f32(of_b)?.unwrap_or_default()));
            }
            let (_, all) = last.as_ref().expect("it was read");
            return Ok([a, b_of(all, stack, rank, *expert, *place)]);
        }
        let [a, b] = self.keys.each_ref().map(|key| archive.read_f32(key));
        Ok([a?.unwrap_or_default(), b?.unwrap_or_default()])
    }

    /// Reads the numbers of its vector [out], where it has one.
    ///
    /// # Errors
    /// Their type is not f32, f16 or bf16.
    pub fn read_vector(&self, archive: &Archive) -> Result<Option<Vec<f32>>, AdapterError> {
        let Some((_, key)) = &self.vector else {
            return Ok(None);
        };
        Ok(Some(archive.read_f32(key)?.unwrap_or_default()))
    }
}
