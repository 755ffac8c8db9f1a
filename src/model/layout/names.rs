//! What families call modules.

/// Names that families give to what they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// What stands before all but the head.
    pub stem: &'static str,
    /// The embedding.
    pub embedding: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The norm behind the last layer.
    pub final_norm: &'static str,
    /// Attention in a layer.
    pub attention: &'static str,
    /// Its module of q, k and v, where they are one.
    pub fused_qkv: &'static str,
    /// Its output.
    pub attention_output: &'static str,
    /// Where another version of transformers puts the same tensors: what a name may begin with, and
    /// what it then means.
    pub elsewhere: &'static [(&'static str, &'static str)],
    /// Whether other models stand beside the decoder.
    pub is_wrapped: bool,
}

impl Names {
    /// Those of most families.
    pub const USUAL: Self = Self {
        stem: "model.",
        embedding: "embed_tokens",
        layers: "layers",
        final_norm: "norm",
        attention: "self_attn",
        fused_qkv: "qkv_proj",
        attention_output: "o_proj",
        elsewhere: &[],
        is_wrapped: false,
    };

    /// Those of a text decoder inside a model that does more, as transformers 5 has them.
    pub const WRAPPED: Self = Self {
        stem: "model.language_model.",
        elsewhere: &[
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
        ],
        is_wrapped: true,
        ..Self::USUAL
    };

    /// Of wrappers that before had the decoder's own names.
    pub const WRAPPED_BARE: Self = Self {
        elsewhere: &[
            ("model.embed_tokens.", "model.language_model.embed_tokens."),
            ("model.layers.", "model.language_model.layers."),
            ("model.norm.", "model.language_model.norm."),
        ],
        ..Self::WRAPPED
    };

    /// Of wrappers that call it otherwise.
    pub const WRAPPED_TEXT: Self = Self {
        stem: "model.text_model.",
        elsewhere: &[],
        is_wrapped: true,
        ..Self::USUAL
    };

    /// The name that the model has for a tensor, given the one in a file.
    pub fn canonical(&self, stored: &str) -> String {
        let renamed =
            |(from, to): &(&str, &str)| Some(format!("{to}{}", stored.strip_prefix(from)?));
        self.elsewhere
            .iter()
            .find_map(renamed)
            .unwrap_or_else(|| stored.to_owned())
    }

    /// The name of a tensor in files that have these others.
    pub fn stored<'a>(&self, name: &str, others: impl IntoIterator<Item = &'a str>) -> String {
        let is_elsewhere = |other: &str| {
            self.elsewhere
                .iter()
                .any(|(from, _)| other.starts_with(from))
        };
        let renamed = |(from, to): &(&str, &str)| Some(format!("{from}{}", name.strip_prefix(to)?));
        let is_so = others.into_iter().any(is_elsewhere);
        is_so
            .then(|| self.elsewhere.iter().find_map(renamed))
            .flatten()
            .unwrap_or_else(|| name.to_owned())
    }

    /// Whether a tensor is of what stands beside a text decoder.
    pub(in crate::model) fn leaves_out(&self, name: &str) -> bool {
        self.is_wrapped && !name.starts_with(self.stem) && !name.starts_with("lm_head.")
    }

    /// The head, which may be the embedding.
    pub const HEAD: &'static str = "lm_head.weight";

    /// The tensor of the embedding.
    pub fn embedding(&self) -> String {
        format!("{}{}.weight", self.stem, self.embedding)
    }

    /// The module of the norm behind the last layer.
    pub fn final_norm(&self) -> String {
        format!("{}{}", self.stem, self.final_norm)
    }

    /// A module, or another thing, in a layer.
    pub fn in_layer(&self, layer: usize, name: &str) -> String {
        format!("{}{}.{layer}.{name}", self.stem, self.layers)
    }

    /// The norms of queries and of keys in a layer.
    pub(in crate::model) fn query_key_norms(&self, layer: usize) -> [String; 2] {
        ["q_norm", "k_norm"].map(|norm| self.in_layer(layer, &format!("{}.{norm}", self.attention)))
    }

    /// The norms of the narrow rows of queries and of keys and values.
    pub(in crate::model) fn latent_norms(&self, layer: usize) -> [String; 2] {
        ["q_a_layernorm", "kv_a_layernorm"]
            .map(|norm| self.in_layer(layer, &format!("{}.{norm}", self.attention)))
    }

    /// The sinks of a layer's heads.
    pub(in crate::model) fn sinks(&self, layer: usize) -> String {
        self.in_layer(layer, &format!("{}.sinks", self.attention))
    }
}
