//! llama.cpp's mixes of types: which tensors of a file have more bits than most
//! (`llama_tensor_get_type_impl` and `tensor_type_fallback` of `llama-quant.cpp`, without an
//! importance matrix).

use super::container::Info;
use super::{GgmlType, TensorType};
use crate::model::DecoderSpec;
use crate::quant::BlockFormat;

/// Names that llama.cpp does not quantize, wherever they stand in the name of a tensor.
const KEPT: [&str; 6] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
];
/// The number of experts of which llama.cpp keeps attention in more bits, that of Mixtral.
const EXPERTS: usize = 8;
/// The number of layers of Llama's model with 70 billion parameters.
const LAYERS_OF_70B: usize = 80;

/// What the rules ask of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MixedModel {
    pub layers: usize,
    /// Routed experts of a layer; 0: none.
    pub experts: usize,
    /// Whether eight heads share keys and values in 80 layers, as in Llama's 70B.
    pub is_70b: bool,
}

/// What a tensor is by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Category {
    Output,
    Embedding,
    /// Values, alone or with queries and keys.
    Values,
    Keys,
    AttentionOutput,
    Down,
    Other,
}

impl MixedModel {
    pub fn of(spec: &DecoderSpec, architecture: &str) -> Self {
        let experts = spec.layers.iter().filter_map(|layer| layer.mlp.experts());
        let shares = spec
            .layers
            .iter()
            .filter(|layer| !layer.mixer.carries())
            .any(|layer| {
                let [heads, groups, _] = layer.mixer.heads();
                heads != groups
            });
        Self {
            layers: spec.layers.len(),
            experts: experts
                .map(|experts| experts.router.experts)
                .max()
                .unwrap_or(0),
            is_70b: architecture == "llama" && spec.layers.len() == LAYERS_OF_70B && shares,
        }
    }
}

impl Category {
    fn of(name: &str) -> Self {
        let has = |part: &str| name.contains(part);
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::Embedding,
            _ if ["attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight"]
                .into_iter()
                .any(has) =>
            {
                Self::Values
            }
            _ if has("attn_k.weight") => Self::Keys,
            _ if has("attn_output.weight") => Self::AttentionOutput,
            _ if has("ffn_down") => Self::Down,
            _ => Self::Other,
        }
    }
}

/// Returns the types of a file's tensors in a mix; `None` for those that it leaves as they are, and
/// for all of a file that is no mix.
pub(super) fn mixed(
    kind: GgmlType,
    model: &MixedModel,
    tensors: &[&Info],
) -> Vec<Option<TensorType>> {
    let mut types = vec![None; tensors.len()];
    let most = match kind {
        GgmlType::Q4_0 => BlockFormat::Q4_0,
        GgmlType::Q4KM => BlockFormat::Q4K,
        GgmlType::Q5KM => BlockFormat::Q5K,
        GgmlType::Q6K => BlockFormat::Q6K,
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 | GgmlType::Q8_0 => return types,
    };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|index| (layer(&tensors[*index].name), &tensors[*index].name));
    let count = |wanted| {
        let categories = tensors.iter().map(|tensor| Category::of(&tensor.name));
        categories.filter(|category| *category == wanted).count()
    };
    let mix = Mix {
        most,
        adds_bits: matches!(kind, GgmlType::Q4KM | GgmlType::Q5KM),
        is_tied: count(Category::Output) == 0,
        values: count(Category::Values),
        model: *model,
    };
    let (mut values, mut downs) = (0, 0);
    for index in order {
        let tensor = tensors[index];
        if !is_quantized(&tensor.name, &tensor.shape) {
            continue;
        }
        let category = Category::of(&tensor.name);
        let place = match category {
            Category::Values => values,
            Category::Down if model.experts > 1 => layer(&tensor.name).unwrap_or_default(),
            _ => downs,
        };
        let width = tensor.shape.last().copied().unwrap_or(1);
        types[index] = Some(fitting(mix.format(category, place, width), width));
        values += usize::from(category == Category::Values);
        downs += usize::from(category == Category::Down);
    }
    types
}

/// The rules for one file.
struct Mix {
    /// The format of most tensors.
    most: BlockFormat,
    /// Whether values and down projections of some layers have more bits.
    adds_bits: bool,
    /// Whether the head is the embedding.
    is_tied: bool,
    /// Tensors of values.
    values: usize,
    model: MixedModel,
}

impl Mix {
    /// Returns the format of a tensor whose rows have `width` numbers, the `place`th of its
    /// category.
    fn format(&self, category: Category, place: usize, width: usize) -> BlockFormat {
        let has_many = self.model.experts == EXPERTS;
        match category {
            Category::Embedding if !self.is_tied => self.most,
            Category::Output | Category::Embedding => {
                if width.is_multiple_of(self.most.numbers()) {
                    BlockFormat::Q6K
                } else {
                    BlockFormat::Q8_0
                }
            }
            Category::Values | Category::Keys if has_many => BlockFormat::Q8_0,
            Category::Values => {
                if self.adds_bits && has_more_bits(place, self.values) {
                    BlockFormat::Q6K
                } else if self.model.is_70b && self.most == BlockFormat::Q4K {
                    BlockFormat::Q5K
                } else {
                    self.most
                }
            }
            Category::AttentionOutput if has_many && self.most == BlockFormat::Q4K => {
                BlockFormat::Q5K
            }
            Category::Down if self.adds_bits && has_more_bits(place, self.model.layers) => {
                BlockFormat::Q6K
            }
            _ => self.most,
        }
    }
}

/// Whether the `place`th of `count` tensors has more bits: those of the first and the last eighth,
/// and every third between.
fn has_more_bits(place: usize, count: usize) -> bool {
    let eighth = count / 8;
    place < eighth || place >= 7 * count / 8 || (place - eighth) % 3 == 2
}

/// Returns a format in whose blocks rows of this width can be divided, or f16.
fn fitting(format: BlockFormat, width: usize) -> TensorType {
    let fits = |format: &BlockFormat| width.is_multiple_of(format.numbers());
    let smaller = match format {
        BlockFormat::Q4K => BlockFormat::Q5_0,
        BlockFormat::Q5K => BlockFormat::Q5_1,
        BlockFormat::Q6K => BlockFormat::Q8_0,
        same => same,
    };
    let found = [format, smaller].into_iter().find(fits);
    found.map_or(TensorType::F16, TensorType::Blocks)
}

fn is_quantized(name: &str, shape: &[usize]) -> bool {
    let is_kept = KEPT.into_iter().any(|part| name.contains(part));
    shape.len() > 1 && name.ends_with("weight") && !is_kept
}

/// Returns the layer of a tensor; none comes before the first.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors of a Llama with these widths.
    fn llama(layers: usize, [width, inner]: [usize; 2], is_tied: bool) -> Vec<Info> {
        let tensor = |name: String, shape: Vec<usize>| Info {
            name,
            shape,
            kind: TensorType::F16,
        };
        let mut tensors = vec![
            tensor("token_embd.weight".to_owned(), vec![512, width]),
            tensor("output_norm.weight".to_owned(), vec![width]),
        ];
        if !is_tied {
            tensors.push(tensor("output.weight".to_owned(), vec![512, width]));
        }
        for layer in 0..layers {
            for (part, shape) in [
                ("attn_norm", vec![width]),
                ("attn_q", vec![width, width]),
                ("attn_k", vec![width, width]),
                ("attn_v", vec![width, width]),
                ("attn_output", vec![width, width]),
                ("ffn_norm", vec![width]),
                ("ffn_gate", vec![inner, width]),
                ("ffn_up", vec![inner, width]),
                ("ffn_down", vec![width, inner]),
            ] {
                tensors.push(tensor(format!("blk.{layer}.{part}.weight"), shape));
            }
        }
        tensors
    }

    const MODEL: MixedModel = MixedModel {
        layers: 16,
        experts: 0,
        is_70b: false,
    };

    /// Types by name, without the layer where all have the same.
    fn types(kind: GgmlType, model: MixedModel, tensors: &[Info]) -> Vec<(String, &'static str)> {
        let infos: Vec<&Info> = tensors.iter().collect();
        let types = mixed(kind, &model, &infos);
        let named = tensors.iter().zip(types);
        named
            .map(|(tensor, kind)| (tensor.name.clone(), kind.map_or("-", TensorType::name)))
            .collect()
    }

    fn named(types: &[(String, &'static str)], name: &str) -> &'static str {
        types
            .iter()
            .find(|(known, _)| known == name)
            .expect("a tensor")
            .1
    }

    fn layers_with(types: &[(String, &'static str)], part: &str, kind: &str) -> Vec<usize> {
        let of_part = types
            .iter()
            .filter(|(name, found)| name.contains(part) && *found == kind);
        of_part.filter_map(|(name, _)| layer(name)).collect()
    }

    /// As `llama-quantize` prints them for Llama 3.2 1B, of 16 layers with a tied head.
    #[test]
    fn a_mix_has_more_bits_in_the_first_and_last_layers() {
        let llama = llama(16, [256, 512], true);
        let types = types(GgmlType::Q4KM, MODEL, &llama);
        let with_more = [0, 1, 4, 7, 10, 13, 14, 15];
        for part in ["attn_v", "ffn_down"] {
            assert_eq!(layers_with(&types, part, "Q6_K"), with_more, "{part}");
            assert_eq!(layers_with(&types, part, "Q4_K").len(), 8, "{part}");
        }
        for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
            assert_eq!(layers_with(&types, part, "Q4_K").len(), 16, "{part}");
        }
        assert_eq!(named(&types, "token_embd.weight"), "Q6_K");
        assert_eq!(layers_with(&types, "_norm", "-").len(), 32);
        assert_eq!(named(&types, "output_norm.weight"), "-");
    }

    #[test]
    fn a_head_of_its_own_has_the_bits_and_the_embedding_does_not() {
        let llama = llama(16, [256, 512], false);
        for (kind, most) in [
            (GgmlType::Q4_0, "Q4_0"),
            (GgmlType::Q4KM, "Q4_K"),
            (GgmlType::Q5KM, "Q5_K"),
            (GgmlType::Q6K, "Q6_K"),
        ] {
            let types = types(kind, MODEL, &llama);
            assert_eq!(named(&types, "output.weight"), "Q6_K", "{kind:?}");
            assert_eq!(named(&types, "token_embd.weight"), most, "{kind:?}");
            assert_eq!(named(&types, "blk.3.attn_q.weight"), most, "{kind:?}");
        }
        let types = types(GgmlType::Q4_0, MODEL, &llama);
        assert_eq!(layers_with(&types, "ffn_down", "Q4_0").len(), 16);
    }

    /// Rows that are no multiple of 256 wide, as those of `SmolLM2` 135M, 576 and 1536.
    #[test]
    fn rows_of_other_widths_fall_back_to_smaller_blocks() {
        let model = MixedModel {
            layers: 30,
            ..MODEL
        };
        let smollm = llama(30, [576, 1536], true);
        let types = types(GgmlType::Q4KM, model, &smollm);
        assert_eq!(named(&types, "token_embd.weight"), "Q8_0");
        assert_eq!(layers_with(&types, "attn_q", "Q5_0").len(), 30);
        assert_eq!(named(&types, "blk.0.attn_v.weight"), "Q8_0");
        assert_eq!(named(&types, "blk.3.attn_v.weight"), "Q5_0");
        assert_eq!(named(&types, "blk.0.ffn_down.weight"), "Q6_K");
        assert_eq!(named(&types, "blk.3.ffn_down.weight"), "Q4_K");
        let of = |kind| self::types(kind, model, &smollm);
        assert_eq!(named(&of(GgmlType::Q5KM), "blk.3.attn_q.weight"), "Q5_1");
        assert_eq!(named(&of(GgmlType::Q6K), "blk.3.attn_q.weight"), "Q8_0");
        assert_eq!(named(&of(GgmlType::Q4_0), "blk.3.attn_q.weight"), "Q4_0");
        let odd = llama(2, [48, 80], false);
        assert!(
            self::types(GgmlType::Q4KM, MixedModel { layers: 2, ..MODEL }, &odd)
                .iter()
                .all(|(_, kind)| ["F16", "-"].contains(kind)),
            "48 and 80 are no multiples of 32"
        );
    }

    #[test]
    fn eight_experts_and_80_layers_have_their_own_rules() {
        let experts = MixedModel {
            experts: EXPERTS,
            ..MODEL
        };
        let mixtral = llama(16, [256, 512], false);
        let of_experts = types(GgmlType::Q4KM, experts, &mixtral);
        for (part, kind) in [
            ("attn_v", "Q8_0"),
            ("attn_k", "Q8_0"),
            ("attn_output", "Q5_K"),
        ] {
            assert_eq!(layers_with(&of_experts, part, kind).len(), 16, "{part}");
        }
        let large = MixedModel {
            layers: LAYERS_OF_70B,
            is_70b: true,
            ..MODEL
        };
        let types = types(
            GgmlType::Q4KM,
            large,
            &llama(LAYERS_OF_70B, [256, 512], false),
        );
        assert_eq!(layers_with(&types, "attn_v", "Q4_K").len(), 0);
        assert_eq!(layers_with(&types, "attn_v", "Q6_K").len(), 40);
        assert_eq!(layers_with(&types, "ffn_down", "Q4_K").len(), 40);
    }

    #[test]
    fn a_file_of_one_type_is_no_mix() {
        for kind in [GgmlType::F32, GgmlType::F16, GgmlType::Bf16, GgmlType::Q8_0] {
            let types = types(kind, MODEL, &llama(2, [256, 512], true));
            assert!(types.iter().all(|(_, found)| *found == "-"), "{kind:?}");
        }
    }
}
