//! Names of modules by family.

use super::super::spec::NormPlacement;
use super::module_of;

/// The module outside of layers that gives all of them their own inputs.
pub const PER_LAYER_PROJECTION: &str = "per_layer_model_projection";

/// Names of the modules that all families have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Prefix of every module except the head.
    pub stem: &'static str,
    /// The embedding.
    pub embedding: &'static str,
    /// The embedding of positions, where they are learned.
    pub positions: &'static str,
    /// The list of layers.
    pub layers: &'static str,
    /// The final norm.
    pub final_norm: &'static str,
    /// The attention module in a layer.
    pub attention: &'static str,
    /// The embedding of token types, where there is one.
    pub token_types: &'static str,
    /// The norm of the embedding, where it has weights.
    pub embedding_norm: &'static str,
    /// The modules of q, k and v, where each is one.
    pub qkv: [&'static str; 3],
    /// The module of q, k and v, where they are one.
    pub fused_qkv: &'static str,
    /// The output projection.
    pub attention_output: &'static str,
    /// The norms of queries and of keys.
    pub query_key_norms: [&'static str; 2],
    /// The norms of a layer before attention, after it, before the feed-forward and after it, where
    /// they are not called as in most families with the same placement.
    pub norms: Option<[&'static str; 4]>,
    /// The module of gate and up, where they are one.
    pub fused_gate_up: &'static str,
    /// The modules of gate and up, where each is one.
    pub gate_up: [&'static str; 2],
    /// The down projection of a gated feed-forward.
    pub mlp_output: &'static str,
    /// The up and down projections of a feed-forward without a gate.
    pub plain_mlp: [&'static str; 2],
    /// The module of the head.
    pub head: &'static str,
    /// The module that scores tokens in a model that classifies them.
    pub token_scores: &'static str,
    /// Prefixes that another version of transformers gives to the same tensors, with the prefixes
    /// that they stand for.
    pub elsewhere: &'static [(&'static str, &'static str)],
    /// Names of modules within a layer that files have otherwise, with what they stand for.
    pub modules_elsewhere: &'static [(&'static str, &'static str)],
    /// Last names of buffers that files of older versions have and that follow from the config.
    pub buffers: &'static [&'static str],
    /// Prefixes of tensors that are not the decoder's and that transformers passes by.
    pub passes_by: &'static [&'static str],
    /// Whether other models stand beside the decoder, as in a multimodal model.
    pub is_wrapped: bool,
}

impl Names {
    /// Names of most families.
    pub const USUAL: Self = Self {
        stem: "model.",
        embedding: "embed_tokens",
        positions: "embed_positions",
        layers: "layers",
        final_norm: "norm",
        attention: "self_attn",
        token_types: "token_type_embeddings",
        embedding_norm: "embed_norm",
        qkv: ["q_proj", "k_proj", "v_proj"],
        fused_qkv: "qkv_proj",
        attention_output: "o_proj",
        query_key_norms: ["q_norm", "k_norm"],
        norms: None,
        fused_gate_up: "mlp.gate_up_proj",
        gate_up: ["mlp.gate_proj", "mlp.up_proj"],
        mlp_output: "mlp.down_proj",
        plain_mlp: ["mlp.up_proj", "mlp.down_proj"],
        head: "lm_head",
        token_scores: "score",
        elsewhere: &[],
        modules_elsewhere: &[],
        buffers: &["rotary_emb.inv_freq"],
        passes_by: &[],
        is_wrapped: false,
    };

    /// Names of a text decoder inside a multimodal model, in transformers 5.
    pub const WRAPPED: Self = Self {
        stem: "model.language_model.",
        elsewhere: &[
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
        ],
        is_wrapped: true,
        ..Self::USUAL
    };

    /// Names for wrappers that used the decoder's own names before.
    pub const WRAPPED_BARE: Self = Self {
        elsewhere: &[
            ("model.embed_tokens.", "model.language_model.embed_tokens."),
            ("model.layers.", "model.language_model.layers."),
            ("model.norm.", "model.language_model.norm."),
        ],
        ..Self::WRAPPED
    };

    /// Names for wrappers with another prefix.
    pub const WRAPPED_TEXT: Self = Self {
        stem: "model.text_model.",
        elsewhere: &[],
        is_wrapped: true,
        ..Self::USUAL
    };

    /// Returns the model's name for a tensor, given the one in a file.
    pub fn canonical(&self, stored: &str) -> String {
        let renamed =
            |(from, to): &(&str, &str)| Some(format!("{to}{}", stored.strip_prefix(from)?));
        let name = self.elsewhere.iter().find_map(renamed);
        let name = name.unwrap_or_else(|| stored.to_owned());
        self.modules_elsewhere
            .iter()
            .fold(name, |name, (from, to)| name.replace(from, to))
    }

    /// Returns a tensor's name in files that have these other names.
    pub fn stored<'a>(&self, name: &str, others: impl IntoIterator<Item = &'a str>) -> String {
        let others: Vec<&str> = others.into_iter().collect();
        let name = &self
            .modules_elsewhere
            .iter()
            .filter(|(from, _)| others.iter().any(|other| other.contains(from)))
            .fold(name.to_owned(), |name, (from, to)| name.replace(to, from));
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

    /// Returns the tensors of a layer that uses the keys and values of another, as some files have
    /// them: nothing reads them.
    pub(in crate::model) fn unread_keys(&self, layer: usize) -> [String; 4] {
        ["k_proj", "v_proj", "k_norm", "v_norm"]
            .map(|name| self.in_layer(layer, &format!("{}.{name}.weight", self.attention)))
    }

    /// Whether a tensor belongs to something beside the text decoder.
    pub(in crate::model) fn leaves_out(&self, name: &str) -> bool {
        let is_beside =
            self.is_wrapped && !name.starts_with(self.stem) && module_of(name) != self.head;
        is_beside || self.passes_by.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Returns the tensor of the head, which may be the embedding.
    pub fn head(&self) -> String {
        format!("{}.weight", self.head)
    }

    /// Returns the tensor of the embedding.
    pub fn embedding(&self) -> String {
        format!("{}{}.weight", self.stem, self.embedding)
    }

    /// Returns the tensor of the embedding of positions.
    pub fn positions(&self) -> String {
        format!("{}{}.weight", self.stem, self.positions)
    }

    /// Returns the tensor of the embedding of token types.
    pub fn token_types(&self) -> String {
        format!("{}{}.weight", self.stem, self.token_types)
    }

    /// Returns the module of the norm of the embedding.
    pub fn embedding_norm(&self) -> String {
        format!("{}{}", self.stem, self.embedding_norm)
    }

    /// Returns the tensor of the layers' own embeddings, [vocabulary, layers · width].
    pub fn per_layer_embedding(&self) -> String {
        format!("{}{}_per_layer.weight", self.stem, self.embedding)
    }

    /// Returns the map from the embedded tokens to the layers' own inputs.
    pub fn per_layer_projection(&self) -> String {
        format!("{}{PER_LAYER_PROJECTION}", self.stem)
    }

    /// Returns the norm of what that map gives for a layer.
    pub fn per_layer_norm(&self) -> String {
        format!("{}per_layer_projection_norm", self.stem)
    }

    /// Returns the module of the final norm.
    pub fn final_norm(&self) -> String {
        format!("{}{}", self.stem, self.final_norm)
    }

    /// Returns the name of a module or tensor in a layer.
    pub fn in_layer(&self, layer: usize, name: &str) -> String {
        format!("{}{}.{layer}.{name}", self.stem, self.layers)
    }

    /// Returns the names of a layer's norms, see [`NormPlacement::names`].
    pub fn of_norms(&self, placement: NormPlacement) -> [Option<&'static str>; 4] {
        let usual = placement.names();
        match self.norms {
            None => usual,
            Some(own) => std::array::from_fn(|place| usual[place].map(|_| own[place])),
        }
    }

    /// Returns the norms of queries and of keys in a layer.
    pub(in crate::model) fn query_key_norms(&self, layer: usize) -> [String; 2] {
        self.query_key_norms
            .map(|norm| self.in_layer(layer, &format!("{}.{norm}", self.attention)))
    }

    /// Returns the norms of the narrow rows of queries and of keys and values.
    pub(in crate::model) fn latent_norms(&self, layer: usize) -> [String; 2] {
        ["q_a_layernorm", "kv_a_layernorm"]
            .map(|norm| self.in_layer(layer, &format!("{}.{norm}", self.attention)))
    }

    /// Returns the sinks of a layer's heads.
    pub(in crate::model) fn sinks(&self, layer: usize) -> String {
        self.in_layer(layer, &format!("{}.sinks", self.attention))
    }
}
