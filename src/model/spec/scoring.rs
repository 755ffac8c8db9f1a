//! What classes of transformers put on an encoder to score texts and words.

use crate::nn::score_layer::ScoreActivation;
use crate::terms::Pooling;

/// The heads of an encoder for texts and for words.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoringSpec {
    /// The hidden rows at which a text is scored.
    pub pooling: Pooling,
    /// The head of texts.
    pub texts: ScoreSpec,
    /// The head of words.
    pub words: ScoreSpec,
}

impl ScoringSpec {
    /// Returns the head of words, or of texts.
    pub fn head(&self, is_of_words: bool) -> &ScoreSpec {
        if is_of_words {
            &self.words
        } else {
            &self.texts
        }
    }
}

/// A head that scores hidden rows.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreSpec {
    /// The module of the map to scores.
    pub module: &'static str,
    /// What rows go through first.
    pub layer: Option<ScoreLayerSpec>,
}

/// A layer between hidden rows and scores, as wide as the model: see
/// [`crate::nn::score_layer::ScoreLayer`].
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreLayerSpec {
    /// The module of its map.
    pub dense: &'static str,
    /// Whether the map has a bias.
    pub has_bias: bool,
    /// What follows the map.
    pub activation: ScoreActivation,
    /// The module of the norm behind it, and whether that has a bias.
    pub norm: Option<(&'static str, bool)>,
    /// The module that holds the layer.
    pub module: &'static str,
    /// Whether that module holds the map to scores too, so that it is new with it and trains.
    pub is_of_head: bool,
}

impl ScoreLayerSpec {
    /// Returns the tensors with their shapes in a model of this width.
    pub fn tensors(&self, width: usize) -> Vec<(String, Vec<usize>)> {
        let bias = |module: &str| (format!("{module}.bias"), vec![width]);
        let mut tensors = vec![(format!("{}.weight", self.dense), vec![width, width])];
        tensors.extend(self.has_bias.then(|| bias(self.dense)));
        if let Some((norm, has_bias)) = self.norm {
            tensors.push((format!("{norm}.weight"), vec![width]));
            tensors.extend(has_bias.then(|| bias(norm)));
        }
        tensors
    }
}
