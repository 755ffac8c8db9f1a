//! The files by which sentence-transformers loads an embedder.

use std::path::PathBuf;

use serde_json::json;

use super::PlanError;
use super::adapter::Trains;
use super::resolve::Plan;
use crate::data::tokenizer_files::TokenizerFiles;
use crate::objective::Objective;
use crate::terms::Pooling;

impl Plan {
    /// Returns the files by which sentence-transformers loads the product of an embedder: text to
    /// hidden rows, pooling, and vectors of length 1, with the base's tokenizer unless the run has
    /// its own. None with another objective.
    ///
    /// # Errors
    /// A file of the base's tokenizer cannot be read.
    pub(super) fn embedder_files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>, PlanError> {
        let Objective::Contrastive(loss) = self.objective() else {
            return Ok(Vec::new());
        };
        let tokenizer = match (&self.trains, &self.vocabulary) {
            (Trains::Adapter(_), None) => TokenizerFiles::read(&self.base_folder)?.contents(),
            _ => Vec::new(),
        };
        let module = |index: usize, path: &str, kind: &str| {
            json!({
                "idx": index,
                "name": index.to_string(),
                "path": path,
                "type": format!("sentence_transformers.models.{kind}"),
            })
        };
        let modules = json!([
            module(0, "", "Transformer"),
            module(1, "1_Pooling", "Pooling"),
            module(2, "2_Normalize", "Normalize"),
        ]);
        let is = |pooling: Pooling| loss.pooling == pooling;
        let pooling = json!({
            "word_embedding_dimension": self.model.spec.width,
            "pooling_mode_cls_token": is(Pooling::First),
            "pooling_mode_mean_tokens": is(Pooling::Mean),
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
            "pooling_mode_weightedmean_tokens": false,
            "pooling_mode_lasttoken": is(Pooling::Last),
            "include_prompt": true,
        });
        let transformer = json!({
            "max_seq_length": self.limits.sequence_len,
            "do_lower_case": false,
        });
        let model = json!({
            "prompts": {},
            "default_prompt_name": null,
            "similarity_fn_name": "cosine",
        });
        let own = [
            ("modules.json", modules),
            ("1_Pooling/config.json", pooling),
            ("sentence_bert_config.json", transformer),
            ("config_sentence_transformers.json", model),
        ]
        .map(|(name, value)| (PathBuf::from(name), format!("{value:#}\n").into_bytes()));
        Ok([own.to_vec(), tokenizer].concat())
    }
}
