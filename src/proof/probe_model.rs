//! The small model that a device is proven on: it has every mechanism of a family, in small sizes.
//!
//! The errors of a kernel depend on what it specializes on and on its edges. So the width of a
//! head, the heads of a group and the remainder of a size after whole vectors are the family's own,
//! while every size leaves the last tile and the last workgroup partly empty.

use crate::adapter::{LoraConfig, attach};
use crate::data::{Batch, TokenRow};
use crate::keyed_random::{mix, unit};
use crate::model::{
    ConvolutionSpec, Decoder, DecoderSpec, GatedSpec, GroupedSpec, KeyValues, LatentSpec,
    LayerSpec, MixerSpec, MlpSpec, NormPlacement, QueryKeyNorm, RecurrentSpec, SharedExpertSpec,
    Storage,
};
use crate::nn::attention::Span;
use crate::nn::experts::RouterSpec;
use crate::nn::rope::{RopeScaling, RopeSpec};
use crate::nn::weight::{Group, Weight};
use crate::ops::RecurrenceForm;
use crate::terms::{Method, ModelDtype};
use crate::train::LossScale;
use burn::tensor::{DType, Device};

/// Blocks. Where adapters train, the lowest block's input gets no gradient, so two borders need
/// three blocks.
const LAYERS: usize = 3;
/// The most numbers of a vector. A size that it divides is read by vectors, as the family's own is.
const VECTOR: usize = 8;
/// Width of the stream, 17 vectors: two tiles of 64 and a remainder.
const WIDTH: usize = 17 * VECTOR;
/// Width of the feed-forward, 41 vectors: five tiles of 64 and a remainder.
const INNER: usize = 41 * VECTOR;
/// Size of the vocabulary, 129 vectors: four workgroups of 256 and a remainder.
const VOCABULARY: usize = 129 * VECTOR;
/// The most heads of a group, so that a model with one key head for all stays small.
const GROUP: usize = 8;
/// Length of a sliding window, shorter than the longer documents, so that it slides.
const WINDOW: usize = 29;
const RANK: usize = 12;
/// The most experts.
const EXPERTS: usize = 4;
/// The largest rank of latent attention's narrow rows, five vectors.
const RANK_OF_ROWS: usize = 5 * VECTOR;
/// Tokens of the documents of each micro-batch. The first is longer than a workgroup; the second is
/// shorter, so that buffers of the first that are used again are longer than what is put into them.
const DOCUMENTS: [&[usize]; 2] = [&[37, 150, 113], &[61, 9, 70]];
const SEED: u64 = 20;
/// The factor that brings drawn rows of the embedding near 1.
const BARE_STREAM: f64 = 50.0;

/// A small model and which of its weights train.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeModel {
    /// The decoder's spec.
    pub spec: DecoderSpec,
    /// The format in which its matrices are kept.
    pub storage: Storage,
    /// The training method.
    pub trained: Method,
}

impl ProbeModel {
    /// Makes the small model of a family; `auto` matrices are f32.
    pub fn of(spec: &DecoderSpec, storage: impl Into<Storage>, trained: Method) -> Self {
        let asked: Storage = storage.into();
        let dtype = if asked.dtype == ModelDtype::Auto {
            ModelDtype::Float32
        } else {
            asked.dtype
        };
        let storage = Storage { dtype, ..asked };
        let kinds = kinds(spec);
        let layers = kinds
            .iter()
            .cycle()
            .take(kinds.len().max(LAYERS))
            .cloned()
            .collect();
        let (vocabulary, width) = (
            VOCABULARY + spec.vocabulary % VECTOR,
            WIDTH + spec.width % VECTOR,
        );
        // Where no norm stands before a layer, a trained stream is not as small as drawn numbers
        // make it: float16 would not hold gradients.
        let is_bare = spec
            .layers
            .iter()
            .any(|layer| layer.norms == NormPlacement::Post);
        let embed_scale = if is_bare {
            spec.embed_scale * BARE_STREAM
        } else {
            spec.embed_scale
        };
        let padding = spec.padding.and(Some(0));
        let context = if spec.learns_positions {
            DOCUMENTS
                .iter()
                .copied()
                .flatten()
                .copied()
                .max()
                .unwrap_or(0)
        } else {
            spec.context
        };
        Self {
            spec: DecoderSpec {
                vocabulary,
                width,
                layers,
                embed_scale,
                context,
                padding,
                ..spec.clone()
            },
            storage,
            trained,
        }
    }

    /// Makes a model with the mechanisms of all families together, for a proof that does not depend
    /// on one model.
    pub fn of_all_mechanisms(storage: impl Into<Storage>, trained: Method) -> Self {
        let rope = RopeSpec::new(64, 1e4, RopeScaling::Default);
        let plain = GroupedSpec::new([6, 2, 64], rope);
        let mixer = GroupedSpec {
            qkv_bias: true,
            ..plain.clone()
        };
        let sliding = GroupedSpec {
            qk_norm: QueryKeyNorm::Heads,
            span: Span::Sliding { window: WINDOW },
            ..plain
        };
        let layers = [mixer, sliding]
            .map(|mixer| LayerSpec::new(mixer, GatedSpec::new(INNER)))
            .to_vec();
        let spec = DecoderSpec::new(VOCABULARY, WIDTH, layers);
        Self::of(&spec, storage, trained)
    }

    /// Returns the factor of gradients on the device and on the CPU. A fault that shows in float16
    /// only must not hide.
    pub(super) fn loss_scale(&self) -> f64 {
        let computed = if self.storage.dtype == ModelDtype::Float16 {
            DType::F16
        } else {
            DType::F32
        };
        LossScale::factor(LossScale::of(computed, None))
    }

    /// Makes the model on a device with numbers drawn from a fixed seed. Both matrices of every
    /// adapter are drawn, and norms are not all 1.
    pub(super) fn draw(&self, device: &Device) -> Decoder {
        let mut decoder = self
            .spec
            .draw(SEED, self.storage, device)
            .expect("numbers that are drawn are all there");
        decoder.train_everything();
        decoder.visit(&mut |_, name, weight| vary(name, weight, self.spec.norm_offset));
        if self.trained == Method::Lora {
            let config = LoraConfig {
                init_lora_weights: false,
                ..LoraConfig::all_linear(RANK, 2.0 * RANK as f64)
            };
            attach(&mut decoder, &config, SEED, None).expect("every projection gets one");
        }
        decoder
    }

    /// Returns the micro-batches of a step. Each step has other tokens in the same places, so that
    /// a buffer of the step before has the right shape.
    pub(super) fn batches(&self, step: u64) -> Vec<Batch> {
        let row = |key: u64, length: usize| {
            let draw = |place: usize| mix(mix(SEED ^ key) ^ place as u64);
            let ids = (0..length)
                .map(|place| (mix(draw(place) ^ step) % self.spec.vocabulary as u64) as u32)
                .collect();
            // Some tokens, as of an answer, in stretches and alone.
            let trained = (0..length)
                .map(|place| place > length / 3 && !draw(place).is_multiple_of(3))
                .collect();
            (key, TokenRow { ids, trained })
        };
        let mut keys = 0..;
        let batch = |lengths: &&[usize]| {
            Batch::new(
                lengths
                    .iter()
                    .zip(&mut keys)
                    .map(|(length, key)| row(key, *length)),
            )
        };
        DOCUMENTS.iter().map(batch).collect()
    }
}

/// Returns the distinct layers of a model, small. One that uses the keys and values of a lower
/// layer stands above a layer of that one's kind.
fn kinds(spec: &DecoderSpec) -> Vec<LayerSpec> {
    let (mut kinds, mut places): (Vec<LayerSpec>, Vec<usize>) = (Vec::new(), Vec::new());
    for layer in &spec.layers {
        let mut layer = tiny_layer(layer);
        let source = layer.mixer.source().and_then(|source| places.get(source));
        if let (Some(source), Some(grouped)) = (source, layer.mixer.grouped_mut()) {
            grouped.key_values = KeyValues::OfLayer(*source);
        }
        let place = kinds.iter().position(|kind| *kind == layer);
        places.push(place.unwrap_or(kinds.len()));
        if place.is_none() {
            kinds.push(layer);
        }
    }
    kinds
}

fn tiny_layer(layer: &LayerSpec) -> LayerSpec {
    let mut mlp = layer.mlp.clone();
    let inner = INNER + mlp.inner() % VECTOR;
    *mlp.inner_mut() = inner;
    if let MlpSpec::GatedAndExperts(both) = &mut mlp {
        both.gated.inner = INNER + both.gated.inner % VECTOR;
    }
    if let Some(experts) = mlp.experts_mut() {
        // Which experts are chosen is a matter of rounding where two are close, so that all are:
        // the choice itself is made on the host.
        let count = experts.router.experts.min(EXPERTS);
        experts.router = RouterSpec {
            experts: count,
            chosen: count,
            groups: None,
            ..experts.router.clone()
        };
        experts.shared = experts.shared.map(|shared| SharedExpertSpec {
            inner: INNER + shared.inner % VECTOR,
            ..shared
        });
    }
    let mixer = match layer.mixer.clone() {
        MixerSpec::Grouped(grouped) => MixerSpec::Grouped(tiny_grouped(grouped)),
        MixerSpec::Latent(latent) => MixerSpec::Latent(LatentSpec {
            heads: latent.heads.min(2),
            query_rank: latent
                .query_rank
                .map(|rank| rank.min(RANK_OF_ROWS) + rank % VECTOR),
            kv_rank: latent.kv_rank.min(RANK_OF_ROWS) + latent.kv_rank % VECTOR,
            ..latent
        }),
        MixerSpec::Convolution(convolution) => MixerSpec::Convolution(ConvolutionSpec {
            channels: WIDTH + convolution.channels % VECTOR,
            ..convolution
        }),
        MixerSpec::Recurrent(recurrent) => {
            let form = recurrent.form;
            let key_heads = form.key_heads.min(2);
            let value_heads = key_heads * (form.value_heads / form.key_heads).min(GROUP);
            MixerSpec::Recurrent(RecurrentSpec {
                form: RecurrenceForm {
                    key_heads,
                    value_heads,
                    ..form
                },
                ..recurrent
            })
        }
    };
    LayerSpec {
        mixer,
        mlp,
        ..layer.clone()
    }
}

fn tiny_grouped(mixer: GroupedSpec) -> GroupedSpec {
    let kv_heads = mixer.kv_heads.min(2);
    let heads = kv_heads * (mixer.heads / mixer.kv_heads).min(GROUP);
    let span = match mixer.span {
        Span::Full | Span::Document => mixer.span,
        Span::Around { reach } => Span::Around {
            reach: reach.min(WINDOW),
        },
        Span::Sliding { window } => Span::Sliding {
            window: window.min(WINDOW),
        },
    };
    GroupedSpec {
        heads,
        kv_heads,
        span,
        ..mixer
    }
}

/// Sets factors of norms between 0.5 and 1.5 and biases between -0.5 and 0.5: with ones and small
/// numbers a kernel that leaves them out comes close.
fn vary(name: &str, weight: Weight, norm_offset: f64) {
    if weight.group() != Group::Vector {
        return;
    }
    let key = name
        .bytes()
        .fold(SEED, |key, byte| mix(key ^ u64::from(byte)));
    let lowest = if name.ends_with(".weight") {
        0.5 - norm_offset
    } else {
        -0.5
    };
    let length = weight.shape().into_iter().product::<usize>();
    let values: Vec<f32> = (0..length)
        .map(|place| (lowest + unit(key.wrapping_add(place as u64))) as f32)
        .collect();
    let numbers = weight.from_file(&values);
    weight.put(numbers);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Returns the families of tests/golden, by the names of their folders.
    fn families() -> Vec<(String, DecoderSpec)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs");
        let folders = root
            .read_dir()
            .expect("the golden files")
            .map(|entry| entry.expect("an entry").path());
        let read = |folder: std::path::PathBuf| {
            let spec = DecoderSpec::read(&folder.join("model/config.json")).ok()?;
            Some((folder.display().to_string(), spec))
        };
        folders.filter_map(read).collect()
    }

    fn one() -> DecoderSpec {
        families()
            .into_iter()
            .find(|(name, _)| name.ends_with("llama"))
            .expect("it is there")
            .1
    }

    #[test]
    fn it_keeps_the_mechanisms_of_a_family() {
        assert!(families().len() >= 43, "{}", families().len());
        for (name, spec) in families() {
            let tiny = ProbeModel::of(&spec, ModelDtype::Auto, Method::Lora).spec;
            assert_eq!(tiny.tied_head, spec.tied_head, "{name}");
            for layer in &spec.layers {
                let kept = |other: &LayerSpec| {
                    let ((Some(one), Some(of_other)), (Some(gate), Some(other_gate))) = (
                        (layer.mixer.grouped(), other.mixer.grouped()),
                        (layer.mlp.gated(), other.mlp.gated()),
                    ) else {
                        // Of the others the kind, and what is no size.
                        let kinds = |layer: &LayerSpec| {
                            let experts = layer.mlp.experts();
                            let router = experts.map(|experts| {
                                (
                                    experts.form,
                                    experts.router.score,
                                    experts.router.normalizes,
                                )
                            });
                            (
                                std::mem::discriminant(&layer.mixer),
                                std::mem::discriminant(&layer.mlp),
                                router,
                                layer.norms,
                            )
                        };
                        return kinds(layer) == kinds(other);
                    };
                    let groups = [one, of_other].map(|mixer| mixer.heads / mixer.kv_heads);
                    let flags = [one, of_other].map(|mixer| {
                        (
                            mixer.qkv,
                            mixer.qkv_bias,
                            mixer.output_bias,
                            mixer.qk_norm,
                            mixer.head_dim,
                        )
                    });
                    let around = [(layer, gate), (other, other_gate)].map(|(layer, gate)| {
                        (
                            layer.norms,
                            layer.residual_scale,
                            gate.activation,
                            gate.gate_up,
                        )
                    });
                    let other = of_other;
                    let scores = [one, other].map(|mixer| (mixer.score_scale, mixer.softcap));
                    let slides = [one, other].map(|mixer| mixer.span.is_window());
                    let same = groups[0] == groups[1]
                        && flags[0] == flags[1]
                        && slides[0] == slides[1]
                        && one.rope == other.rope;
                    same && around[0] == around[1] && scores[0] == scores[1]
                };
                assert!(tiny.layers.iter().any(kept), "{name}: {layer:?}");
            }
        }
    }

    #[test]
    fn its_size_does_not_follow_that_of_the_model() {
        let mut spec = one();
        let small = ProbeModel::of(&spec, ModelDtype::Auto, Method::Lora);
        (spec.vocabulary, spec.width) = (spec.vocabulary + 16 * VECTOR, spec.width + 512 * VECTOR);
        spec.layers = spec.layers.iter().cycle().take(80).cloned().collect();
        spec.layers
            .iter_mut()
            .for_each(|layer| *layer.mlp.inner_mut() += 1024);
        assert_eq!(
            ProbeModel::of(&spec, ModelDtype::Float32, Method::Lora),
            small,
            "no other proof is needed"
        );
        spec.layers
            .iter_mut()
            .for_each(|layer| layer.mixer.grouped_mut().expect("grouped").softcap = Some(50.0));
        assert_ne!(
            ProbeModel::of(&spec, ModelDtype::Float32, Method::Lora),
            small
        );
    }

    #[test]
    fn both_steps_have_the_same_shapes_and_other_tokens() {
        let tiny = ProbeModel::of(&one(), ModelDtype::Auto, Method::Lora);
        let [first, second] = [1, 2].map(|step| tiny.batches(step));
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(
                (&one.lengths, &one.positions),
                (&other.lengths, &other.positions)
            );
            assert_ne!(one.ids, other.ids);
            assert!(
                one.trained_tokens() > one.tokens() / 4 && one.trained_tokens() < one.tokens() / 2,
                "{one:?}"
            );
        }
    }
}
