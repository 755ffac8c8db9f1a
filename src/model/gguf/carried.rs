//! Layers of llama.cpp that carry a window or a state from token to token in place of attention:
//! `src/models/{lfm2,granite-hybrid,qwen35}.cpp`, `conversion/{lfm2,mamba,qwen}.py`.

use super::change::{Change, Tiled};
use super::differences::Lack;
use super::keys::Pair;
use super::value::Value;
use crate::model::{DecoderSpec, LayerSpec, MixerSpec, RecurrentSpec};
use crate::ops::Update;

/// What layers without attention carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// There are no such layers.
    None,
    /// The window of a short convolution.
    Convolution,
    /// A state of Mamba 2.
    Sum,
    /// A state of the gated delta rule.
    Delta,
}

/// The last names of modules or tensors, and GGUF's names.
type Renamed = &'static [(&'static str, &'static str)];

impl Carried {
    /// Returns what a decoder's layers carry.
    pub fn of(spec: &DecoderSpec) -> Self {
        let of = |layer: &LayerSpec| match &layer.mixer {
            MixerSpec::Convolution(_) => Some(Self::Convolution),
            MixerSpec::Recurrent(recurrent) => Some(match recurrent.form.update {
                Update::Sum { .. } => Self::Sum,
                Update::Delta => Self::Delta,
            }),
            MixerSpec::Grouped(_) | MixerSpec::Latent(_) => None,
        };
        spec.layers.iter().find_map(of).unwrap_or(Self::None)
    }

    /// Returns it in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "attention in every layer",
            Self::Convolution => "layers of short convolutions",
            Self::Sum => "layers of Mamba 2",
            Self::Delta => "layers of the gated delta rule",
        }
    }

    /// Returns the names of a layer's projections.
    pub fn projections(self) -> Renamed {
        match self {
            Self::None => &[],
            Self::Convolution => &[
                ("in_proj", "shortconv.in_proj"),
                ("out_proj", "shortconv.out_proj"),
            ],
            Self::Sum => &[("in_proj", "ssm_in"), ("out_proj", "ssm_out")],
            Self::Delta => &[
                ("in_proj_qkv", "attn_qkv"),
                ("in_proj_z", "attn_gate"),
                ("in_proj_b", "ssm_beta"),
                ("in_proj_a", "ssm_alpha"),
                ("out_proj", "ssm_out"),
            ],
        }
    }

    /// Returns the names of a layer's other tensors.
    fn others(self) -> Renamed {
        match self {
            Self::None => &[],
            Self::Convolution => &[("conv.weight", "shortconv.conv.weight")],
            Self::Sum | Self::Delta => &[
                ("conv1d.weight", "ssm_conv1d.weight"),
                ("conv1d.bias", "ssm_conv1d.bias"),
                ("A_log", "ssm_a"),
                ("D", "ssm_d"),
                ("dt_bias", "ssm_dt.bias"),
                ("norm.weight", "ssm_norm.weight"),
            ],
        }
    }

    /// Whether llama.cpp tells the layers that carry by their number of key heads, 0.
    pub fn is_told_by_heads(self) -> bool {
        matches!(self, Self::Convolution | Self::Sum)
    }

    /// Returns the differences of a decoder's carrying layers from llama.cpp's.
    pub fn lacks(self, spec: &DecoderSpec) -> Vec<Lack> {
        if Self::of(spec) != self {
            return vec![Lack::new(Self::of(spec).name(), self.name())];
        }
        let Some(first) = spec.layers.iter().find(|layer| layer.mixer.carries()) else {
            return Vec::new();
        };
        let attends = spec.layers.iter().any(|layer| !layer.mixer.carries());
        let mut judged = vec![(!attends, "no attention in any layer", "attention in some")];
        match &first.mixer {
            MixerSpec::Convolution(convolution) => judged.extend([
                (convolution.bias, "biases around convolutions", "none there"),
                (
                    convolution.channels != spec.width || convolution.taps < 2,
                    "convolutions of this shape",
                    "one channel per feature of the stream, over two tokens or more",
                ),
            ]),
            MixerSpec::Recurrent(recurrent) => {
                judged.push((recurrent.bias, "biases around states", "none there"));
                let form = recurrent.form;
                if let Update::Sum { least, most } = form.update {
                    judged.extend([
                        (
                            least > 0.0 || most < f32::INFINITY,
                            "limits of the steps of states",
                            "none",
                        ),
                        (
                            form.values() != 2 * spec.width,
                            "values of this width",
                            "values twice as wide as the stream",
                        ),
                    ]);
                } else {
                    judged.extend([
                        (
                            form.key_dim != form.value_dim,
                            "keys and values of several widths in a state",
                            "one width",
                        ),
                        (
                            period(spec).is_none(),
                            "attention in these layers",
                            "attention in every nth layer",
                        ),
                    ]);
                }
            }
            MixerSpec::Grouped(_) | MixerSpec::Latent(_) => {}
        }
        judged
            .into_iter()
            .filter(|(lacks, ..)| *lacks)
            .map(|(_, has, takes)| Lack::new(has, takes))
            .collect()
    }

    /// Returns the hyperparameters of the layers that carry.
    pub fn keys(spec: &DecoderSpec) -> Vec<Pair> {
        let size = |size: usize| Value::U32(size as u32);
        let carries = |layer: &&LayerSpec| layer.mixer.carries();
        let recurrent = match spec.layers.iter().find(carries).map(|layer| &layer.mixer) {
            Some(MixerSpec::Convolution(convolution)) => {
                return vec![("shortconv.l_cache", size(convolution.taps))];
            }
            Some(MixerSpec::Recurrent(recurrent)) => recurrent,
            _ => return Vec::new(),
        };
        let form = recurrent.form;
        let mut pairs = vec![
            ("ssm.conv_kernel", size(recurrent.taps)),
            ("ssm.inner_size", size(form.values())),
            ("ssm.state_size", size(form.key_dim)),
            ("ssm.time_step_rank", size(form.value_heads)),
            ("ssm.group_count", size(form.key_heads)),
        ];
        let rope = spec.layers.iter().find_map(|layer| layer.mixer.rope());
        match form.update {
            Update::Sum { .. } => {
                pairs.push(("rope.scaling.finetuned", Value::Bool(rope.is_some())));
            }
            Update::Delta => {
                // The pairs take turns in three positions, which are one of text.
                let turning = rope.map_or(0, |rope| rope.head_dim / 2);
                let of = |turn: usize| (turning + 2 - turn) / 3;
                let sections = Value::sizes([of(0), of(1), of(2), 0]);
                pairs.push(("rope.dimension_sections", sections));
                let every = period(spec).map(|period| ("full_attention_interval", size(period)));
                pairs.extend(every);
            }
        }
        pairs
    }
}

/// Returns n where every nth layer has attention and no other.
fn period(spec: &DecoderSpec) -> Option<usize> {
    let attends = |index: usize| !spec.layers[index].mixer.carries();
    let layers = spec.layers.len();
    let period = (0..layers).find(|index| attends(*index))? + 1;
    (0..layers)
        .all(|index| attends(index) == (index + 1).is_multiple_of(period))
        .then_some(period)
}

/// The place of a tensor that is neither a linear map nor a norm of the stream.
#[derive(Debug, PartialEq)]
pub(crate) struct PlacedTensor {
    /// Its name in a GGUF file.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// The change of its numbers.
    pub change: Change,
}

impl PlacedTensor {
    /// Returns the place of a tensor of this shape; `None` where it is none of a layer that
    /// carries, or a projection.
    pub fn of(name: &str, shape: &[usize], spec: &DecoderSpec) -> Option<Self> {
        let (layer, rest) = name
            .strip_prefix(spec.names.stem)?
            .strip_prefix(spec.names.layers)?
            .strip_prefix('.')?
            .split_once('.')?;
        let mixer = &spec.layers.get(layer.parse::<usize>().ok()?)?.mixer;
        let end = rest
            .strip_prefix(mixer.carrying_module()?)?
            .strip_prefix('.')?;
        let mut known = Carried::of(spec).others().iter();
        let (_, gguf) = known.find(|(known, _)| *known == end)?;
        let sum = mixer
            .recurrent()
            .map(|recurrent| recurrent.form)
            .filter(|form| form.update != Update::Delta);
        let shape = match (end, shape, sum) {
            // A convolution of each channel by itself.
            (_, [channels, 1, taps], _) => vec![*channels, *taps],
            ("A_log" | "D", [heads], Some(_)) => vec![*heads, 1],
            ("norm.weight", [values], Some(form)) => {
                vec![form.key_heads, values / form.key_heads]
            }
            _ => shape.to_vec(),
        };
        Some(Self {
            name: format!("blk.{layer}.{gguf}"),
            shape,
            change: Change {
                decays: end == "A_log",
                tiled: mixer
                    .recurrent()
                    .and_then(|recurrent| tiled(recurrent, end)),
                ..Change::NONE
            },
        })
    }
}

/// Returns the order of a tensor's rows, or of the columns of a projection back to the stream,
/// where the delta rule has several heads of values for one key: llama.cpp repeats all keys one
/// after the other, and Hugging Face each by itself. `end` is the tensor's name in its module.
pub(crate) fn tiled(recurrent: &RecurrentSpec, end: &str) -> Option<Tiled> {
    let form = recurrent.form;
    if form.update != Update::Delta || form.key_heads == form.value_heads {
        return None;
    }
    let behind_keys = 2 * form.key_heads * form.key_dim;
    let (size, first, across) = match end {
        "in_proj_qkv.weight" | "conv1d.weight" => (form.value_dim, behind_keys, false),
        "in_proj_z.weight" => (form.value_dim, 0, false),
        "in_proj_b.weight" | "in_proj_a.weight" | "A_log" | "dt_bias" => (1, 0, false),
        "out_proj.weight" => (form.value_dim, 0, true),
        _ => return None,
    };
    Some(Tiled {
        keys: form.key_heads,
        each: form.value_heads / form.key_heads,
        size,
        first,
        across,
    })
}
