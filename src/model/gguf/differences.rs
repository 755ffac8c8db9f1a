//! Describes how an architecture of llama.cpp would compute something other than a decoder does.

use super::architecture::{
    Architecture, Biases, Caps, Experts, Feed, Head, Heads, Pairs, Resting, Rotations, Scales,
    Scores, Stretch, Turned, Windows,
};
use super::carried::Carried;
use super::uneven;
use crate::model::{
    DecoderSpec, EmbeddingNorm, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, KeyValues,
    LayerSpec, MixerSpec, MlpSpec, Modules, NormKind, NormPlacement, OutputGate, PlainActivation,
    QueryKeyNorm,
};
use crate::nn::attention::Span;
use crate::nn::experts::{RouterScore, RouterSpec};
use crate::nn::rope::{self, RopeScaling, RopeSpec};
use crate::ops::{Activation, Rotation};

/// One difference between a model and an architecture.
#[derive(Clone)]
pub(crate) struct Lack {
    /// The model's side.
    pub has: String,
    /// The architecture's side.
    pub takes: String,
}

/// Returns the differences whose condition holds.
fn found<const N: usize>(judged: [(bool, &str, &str); N]) -> Vec<Lack> {
    judged
        .into_iter()
        .filter(|(lacks, ..)| *lacks)
        .map(|(_, has, takes)| lack(has, takes))
        .collect()
}

impl Lack {
    pub fn new(has: impl Into<String>, takes: impl Into<String>) -> Self {
        Self {
            has: has.into(),
            takes: takes.into(),
        }
    }
}

fn lack(has: impl Into<String>, takes: impl Into<String>) -> Lack {
    Lack::new(has, takes)
}

/// Returns the first layer that has attention; where none has, the first one.
pub(crate) fn attending(spec: &DecoderSpec) -> &LayerSpec {
    let attends = |layer: &&LayerSpec| !layer.mixer.carries();
    spec.layers.iter().find(attends).unwrap_or(&spec.layers[0])
}

/// Returns whether two factors are equal in f32.
pub(crate) fn are_one(left: f64, right: f64) -> bool {
    (left / right - 1.0).abs() < 1e-7
}

impl Architecture {
    /// Returns every feature of a decoder, which has at least one layer, that this architecture
    /// does not compute.
    pub fn lacks(&self, spec: &DecoderSpec) -> Vec<Lack> {
        let (layers, first) = (&spec.layers, attending(spec));
        let of_kinds = [self.lacks_of_kinds(spec), self.carried.lacks(spec)].concat();
        let Some(mixer) = first.mixer.grouped() else {
            return of_kinds;
        };
        let carrying = layers.iter().find(|layer| layer.mixer.carries());
        let several = !self.is_uneven
            && !layers.iter().all(|layer| {
                alike(first, layer) && carrying.is_none_or(|carrying| alike(carrying, layer))
            });
        let of_layers = found([(
            several,
            "layers that differ in more than rotation and window",
            "layers of one kind",
        )]);
        let of_caps = self.lacks_of_caps(mixer.softcap.is_some(), spec.final_softcap.is_some());
        let of_layer = self.lacks_of_layer(mixer, first);
        [
            of_kinds,
            if self.is_uneven {
                uneven::lacks(spec)
            } else {
                Vec::new()
            },
            of_layers,
            of_layer,
            self.lacks_of_stream(spec, mixer),
            of_caps,
            self.lacks_of_places(spec),
        ]
        .concat()
    }

    /// Returns in how many ways a layer differs in kind, apart from sizes and factors. It measures
    /// which of two architectures is nearer.
    pub fn strangeness(&self, spec: &DecoderSpec) -> usize {
        let first = attending(spec);
        let Some(mixer) = first.mixer.grouped() else {
            return 0;
        };
        let fused = gated(first).map_or(self.gate_up, |mlp| mlp.gate_up);
        let modules = mixer.qkv == self.qkv && fused == self.gate_up;
        let experts = spec
            .layers
            .iter()
            .any(|layer| layer.mlp.experts().is_some())
            == (self.experts != Experts::None);
        let same = [
            spec.norm == self.norm,
            first.norms == self.norms,
            mixer.qk_norm == self.qk_norm,
            modules,
            feed(first) == self.feed,
            experts,
            Carried::of(spec) == self.carried,
        ];
        same.into_iter().filter(|is_same| !is_same).count()
    }

    /// Returns the differences in features that some or all of these architectures lack.
    fn lacks_of_kinds(&self, spec: &DecoderSpec) -> Vec<Lack> {
        let any = |holds: fn(&LayerSpec) -> bool| spec.layers.iter().any(holds);
        let (routed, dense) = (
            any(|layer| layer.mlp.experts().is_some()),
            any(|layer| layer.mlp.experts().is_none()),
        );
        let takes = self.experts != Experts::None;
        let grows = any(|layer| layer.mixer.rope().is_some_and(grows_queries));
        let usual = spec
            .layers
            .iter()
            .filter_map(|layer| layer.mlp.experts())
            .all(|experts| self.routes(experts));
        found([
            (
                any(|layer| matches!(layer.mixer, MixerSpec::Latent(_))),
                "latent attention",
                "heads with keys and values of their own",
            ),
            (
                gated_heads(spec) && self.gate() != OutputGate::Features,
                "a gate of attention's result",
                "none",
            ),
            (
                !gated_heads(spec) && self.gate() == OutputGate::Features,
                "no gate of attention's result",
                "one per feature",
            ),
            (
                any(|layer| {
                    let mixer = layer.mixer.grouped();
                    mixer.is_some_and(|mixer| matches!(mixer.gate, OutputGate::Heads(_)))
                }),
                "a gate of each head's result",
                "none",
            ),
            (
                any(|layer| layer.mixer.grouped().is_some_and(|mixer| mixer.sinks)),
                "attention sinks",
                "none",
            ),
            (
                spec.norm != self.norm,
                normalized(spec.norm),
                normalized(self.norm),
            ),
            (
                !self.is_uneven && any(|layer| layer.mixer.source().is_some()),
                "layers that use keys and values of lower ones",
                "keys and values of their own",
            ),
            (
                !self.is_uneven
                    && any(|layer| layer.mixer.grouped().is_some_and(|mixer| mixer.value_norm)),
                "normalized values",
                "values as they are projected",
            ),
            (
                !self.is_uneven
                    && any(|layer| {
                        let grouped = layer.mixer.grouped();
                        grouped.is_some_and(|mixer| mixer.key_values == KeyValues::KeysAsValues)
                    }),
                "keys that are values too",
                "values with a projection of their own",
            ),
            (
                !self.is_uneven && any(|layer| layer.per_layer_input.is_some()),
                "inputs of the layers' own",
                "none",
            ),
            (
                !self.is_uneven && any(|layer| layer.has_scalar),
                "a factor for the output of each layer",
                "none",
            ),
            (
                any(|layer| matches!(layer.mlp, MlpSpec::GatedAndExperts(_))),
                "experts beside a feed-forward",
                "one of both",
            ),
            (
                spec.is_encoder(),
                "attention to later tokens",
                "attention to earlier ones",
            ),
            (
                spec.learns_positions,
                "learned positions",
                "positions by rotation",
            ),
            (
                spec.embedding_norm != EmbeddingNorm::None,
                "a norm of the embedding",
                "none there",
            ),
            (
                spec.head_bias && !self.head_bias,
                "a bias of the head",
                "none there",
            ),
            (
                self.head_bias && !spec.head_bias,
                "no bias of the head",
                "one there",
            ),
            (
                self.pairs == Pairs::Halves
                    && any(|layer| layer.mixer.rope().is_some_and(is_of_neighbors)),
                "a rotation of neighboring features",
                "one of halves",
            ),
            (
                any(|layer| layer.mixer.rope().is_some_and(is_backward)),
                "a rotation backwards",
                "one forward",
            ),
            (
                grows && !self.grows_queries,
                "queries that grow with their position",
                "queries that do not",
            ),
            (
                !grows && self.grows_queries,
                "queries that do not grow with their position",
                "queries that do",
            ),
            (
                routed && !takes,
                "experts",
                "one feed-forward for all tokens",
            ),
            (
                dense && takes && routed,
                "experts in some layers only",
                "experts in every layer",
            ),
            (
                !routed && takes,
                "one feed-forward for all tokens",
                "experts",
            ),
            (
                takes && !usual,
                "this router, or these experts for every token",
                self.routing(),
            ),
        ])
    }

    /// Returns the gate of attention's result.
    fn gate(&self) -> OutputGate {
        if self.carried == Carried::Delta {
            OutputGate::Features
        } else {
            OutputGate::None
        }
    }

    /// Whether the router and the shared expert are those of the architecture.
    fn routes(&self, experts: &ExpertsSpec) -> bool {
        let Experts::Every {
            normalizes, shared, ..
        } = self.experts
        else {
            return false;
        };
        is_usual(experts, normalizes)
            && experts.shared.is_some() == shared
            && experts.shared.is_none_or(|shared| shared.gate.is_some())
    }

    fn routing(&self) -> &'static str {
        match self.experts {
            Experts::Every {
                normalizes: false,
                shared: true,
                ..
            } => "a softmax over all experts, and a shared one weighted by a sigmoid",
            Experts::Every {
                normalizes: false, ..
            } => "a softmax over all experts, and no others",
            _ => "a softmax over the chosen experts, and no others",
        }
    }

    fn lacks_of_layer(&self, mixer: &GroupedSpec, layer: &LayerSpec) -> Vec<Lack> {
        let (norms, gated) = (layer.norms, gated(layer));
        let mlp_bias = match &layer.mlp {
            MlpSpec::Plain(plain) => plain.bias,
            _ => gated.is_some_and(|gated| gated.bias),
        };
        // Where gate and up are one module and need not be, they are divided.
        let fused = gated.map_or(self.gate_up, |gated| gated.gate_up);
        let divides = self.gate_up == Modules::Separate;
        let biases = match self.biases {
            Biases::None => !mixer.qkv_bias && !mixer.output_bias,
            Biases::Inputs => mixer.qkv_bias && !mixer.output_bias,
            Biases::InputsOrNone => !mixer.output_bias,
            Biases::All => mixer.qkv_bias == mixer.output_bias,
        };
        found([
            (norms != self.norms, place(norms), place(self.norms)),
            (
                mixer.qk_norm != self.qk_norm,
                normed(mixer.qk_norm),
                normed(self.qk_norm),
            ),
            (!biases, biased(mixer), biases_taken(self.biases)),
            (
                mlp_bias && !self.mlp_biases,
                "biases in the feed-forward",
                "none there",
            ),
            (
                !mlp_bias && self.mlp_biases,
                "no biases in the feed-forward",
                "biases there",
            ),
            (mixer.qkv != self.qkv, divided(mixer.qkv), divided(self.qkv)),
            (
                fused != self.gate_up && !divides,
                "gate and up as modules of their own",
                "gate and up as one",
            ),
            (
                feed(layer) != self.feed,
                activated(feed(layer)),
                activated(self.feed),
            ),
        ])
    }

    fn lacks_of_stream(&self, spec: &DecoderSpec, mixer: &GroupedSpec) -> Vec<Lack> {
        let embed = if self.scales == Scales::Root {
            (spec.width as f64).sqrt()
        } else {
            1.0
        };
        let factors = [
            spec.embed_scale / embed,
            spec.logit_scale,
            spec.layers[0].residual_scale,
        ];
        let is_told = match self.scales {
            Scales::Keys => [true; 3],
            Scales::Logits => [false, true, false],
            Scales::None | Scales::Root => [false; 3],
        };
        let scaled = factors
            .iter()
            .zip(is_told)
            .any(|(factor, is_told)| !is_told && !are_one(*factor, 1.0));
        let scored = matches!(self.scores, Scores::Root | Scores::One)
            && !are_one(mixer.score_scale, self.score_scale(spec));
        let [count, kv_heads, head_dim] = attending(spec).mixer.heads();
        let (is_wide, all_wide) = (
            count * head_dim == spec.width,
            kv_heads * head_dim == spec.width,
        );
        let fits = match self.heads {
            Heads::Any => true,
            Heads::AsWide => is_wide,
            Heads::AllAsWide => is_wide && all_wide,
        };
        let head = (self.head == Head::Tied && !spec.tied_head)
            || (self.head == Head::Own && spec.tied_head);
        let heads = |is_tied: bool| {
            if is_tied {
                "the embedding as its head"
            } else {
                "a head of its own"
            }
        };
        let taken = if self.scales == Scales::Root {
            "an embedding by the root of its width"
        } else {
            "none"
        };
        found([
            (
                scaled,
                "these factors of embedding, stream or logits",
                taken,
            ),
            (
                scored,
                "this factor of scores",
                if self.scores == Scores::One {
                    "none"
                } else {
                    "the root of a head's width"
                },
            ),
            (head, heads(spec.tied_head), heads(!spec.tied_head)),
            (
                !fits,
                "heads of this width or number",
                if self.heads == Heads::AllAsWide {
                    "query and key heads that are as wide as the stream together"
                } else {
                    "query heads that are as wide as the stream together"
                },
            ),
        ])
    }

    fn lacks_of_caps(&self, of_scores: bool, of_logits: bool) -> Vec<Lack> {
        let (always, never) = (self.caps == Caps::Both, self.caps == Caps::None);
        found([
            (of_scores && !always, "a cap of scores", "none"),
            (
                !of_scores && always,
                "scores without a cap",
                "a cap of scores",
            ),
            (of_logits && never, "a cap of logits", "none"),
            (
                !of_logits && always,
                "logits without a cap",
                "a cap of logits",
            ),
        ])
    }

    /// Returns the differences in rotations and windows, which go by layer.
    fn lacks_of_places(&self, spec: &DecoderSpec) -> Vec<Lack> {
        let mut lacks: Vec<Lack> = self.lacks_of_rests(spec).into_iter().collect();
        let turning = |slides: bool| {
            let of = move |layer: &&LayerSpec| !slides || layer.mixer.span().is_window();
            spec.layers
                .iter()
                .filter(of)
                .filter_map(|layer| layer.mixer.rope())
        };
        let stretched = turning(false).find(|rope| !self.stretches(rope));
        lacks.extend(stretched.map(|rope| {
            let kinds: Vec<_> = self
                .stretches
                .iter()
                .map(|stretch| format!("`{}`", stretch.name()))
                .collect();
            lack(
                format!("a RoPE that is `{}`", kind(&rope.scaling)),
                format!("`default`, {}", kinds.join(", ")),
            )
        }));
        let windows: Vec<usize> = spec.layers.iter().filter_map(window).collect();
        let one = |ropes: Vec<&RopeSpec>| ropes.windows(2).all(|pair| pair[0] == pair[1]);
        let full = spec
            .layers
            .iter()
            .filter(|layer| !layer.mixer.span().is_window())
            .filter_map(|layer| layer.mixer.rope());
        let (rotations, sizes) = match self.windows {
            Windows::But {
                rotations: Rotations::Two,
                ..
            } => {
                let plain = turning(true).all(|rope| rope.scaling == RopeScaling::Default);
                (
                    one(turning(true).collect()) && one(full.collect()) && plain,
                    windows.windows(2).all(|pair| pair[0] == pair[1]),
                )
            }
            Windows::But {
                rotations: Rotations::Unstretched,
                ..
            } => {
                let base = |rope: &RopeSpec| (rope.theta, rope.head_dim);
                let bases: Vec<_> = turning(false).map(base).collect();
                let plain = turning(true).all(|rope| rope.scaling == RopeScaling::Default);
                (
                    plain && one(full.collect()) && bases.windows(2).all(|pair| pair[0] == pair[1]),
                    windows.windows(2).all(|pair| pair[0] == pair[1]),
                )
            }
            Windows::But { .. } => (
                one(turning(false).collect()),
                windows.windows(2).all(|pair| pair[0] == pair[1]),
            ),
            Windows::InModelsOf { layers, period } => {
                let slides = |index: usize| {
                    spec.layers.len() == layers && !(index + 1).is_multiple_of(period)
                };
                let places = spec.layers.iter().enumerate();
                let is_so = places
                    .into_iter()
                    .all(|(index, layer)| window(layer).is_some() == slides(index));
                lacks.extend(found([(
                    !is_so,
                    "windows in these layers",
                    "windows in models of 64 layers only, in three of four",
                )]));
                (
                    one(turning(false).collect()),
                    windows.windows(2).all(|pair| pair[0] == pair[1]),
                )
            }
            Windows::Ignored => (one(turning(false).collect()), true),
        };
        let in_part = |layer: &LayerSpec| {
            let rope = layer.mixer.rope();
            rope.is_some_and(|rope| rope.head_dim != layer.mixer.heads()[2])
        };
        let partly = self.turned == Turned::All && spec.layers.iter().any(in_part);
        let odd = turning(false).any(|rope| !rope.head_dim.is_multiple_of(2));
        lacks.extend(found([
            (odd, "a rotation of an odd number of features", "pairs"),
            (
                partly,
                "a rotation of a part of each head",
                "one of all its features",
            ),
            (
                !rotations,
                "several rotations",
                "one, or one for layers with a window and one for the others",
            ),
            (!sizes, "windows of several sizes", "one size"),
        ]));
        lacks
    }

    fn lacks_of_rests(&self, spec: &DecoderSpec) -> Option<Lack> {
        let slides = spec.layers.iter().any(|layer| window(layer).is_some());
        let rests = |index: usize| match self.resting {
            Resting::None => false,
            Resting::Every(period) => (index + 1).is_multiple_of(period),
            Resting::Full => slides && window(&spec.layers[index]).is_none(),
            Resting::AllOrNone => attending(spec).mixer.rope().is_none(),
        };
        let attends = |(_, layer): &(usize, &LayerSpec)| !layer.mixer.carries();
        let layers = || spec.layers.iter().enumerate().filter(attends);
        let takes = || match self.resting {
            Resting::None => "a rotation in every layer".to_owned(),
            Resting::Every(n) => format!("none in every {n}th layer"),
            Resting::Full => "one in layers with a window, where some have one".to_owned(),
            Resting::AllOrNone => "one in all layers or in none".to_owned(),
        };
        let (index, layer) =
            layers().find(|(index, layer)| layer.mixer.rope().is_some() == rests(*index))?;
        let is = if layer.mixer.rope().is_some() {
            "a"
        } else {
            "no"
        };
        Some(lack(format!("{is} rotation in layer {index}"), takes()))
    }

    fn stretches(&self, rope: &RopeSpec) -> bool {
        let known = self
            .stretches
            .iter()
            .any(|stretch| stretch.name() == kind(&rope.scaling));
        // llama.cpp rounds the bounds of the ramp.
        let truncates = !matches!(
            rope.scaling,
            RopeScaling::Yarn {
                truncate: false,
                ..
            }
        );
        rope.scaling == RopeScaling::Default || (known && truncates)
    }
}

impl Stretch {
    /// Returns the name in `config.json`.
    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Ramp => "llama3",
            Self::LongRope => "longrope",
            Self::Yarn => "yarn",
            Self::Proportional => "proportional",
        }
    }
}

/// Returns the name of a rotation in `config.json`.
fn kind(scaling: &RopeScaling) -> &'static str {
    match scaling {
        RopeScaling::Default => "default",
        RopeScaling::Linear { .. } => "linear",
        RopeScaling::Dynamic { .. } => "dynamic",
        RopeScaling::Ramp { .. } => "llama3",
        RopeScaling::Yarn { .. } => "yarn",
        RopeScaling::LongRope { .. } => "longrope",
        RopeScaling::Proportional { .. } => "proportional",
    }
}

/// Returns the gated feed-forward of a layer, or that of an expert.
fn gated(layer: &LayerSpec) -> Option<&GatedSpec> {
    layer
        .mlp
        .gated()
        .or(layer.mlp.experts().map(|experts| &experts.expert))
}

/// Returns whether two layers are alike, except for rotation, window, and having experts.
fn alike(left: &LayerSpec, right: &LayerSpec) -> bool {
    let rotated = |layer: &LayerSpec| {
        layer.mixer.grouped().map(|mixer| GroupedSpec {
            rope: None,
            span: Span::Full,
            ..mixer.clone()
        })
    };
    // One that carries and one that attends are compared by what both have.
    let mixers = if left.mixer.carries() || right.mixer.carries() {
        left.mixer.carries() != right.mixer.carries() || left.mixer == right.mixer
    } else {
        rotated(left) == rotated(right)
    };
    let same_kind = left.mlp.experts().is_some() == right.mlp.experts().is_some();
    mixers
        && left.norms == right.norms
        && are_one(left.residual_scale, right.residual_scale)
        && (!same_kind || left.mlp == right.mlp)
}

/// Returns the kind of the feed-forward of a layer, or of an expert.
fn feed(layer: &LayerSpec) -> Feed {
    match (&layer.mlp, gated(layer)) {
        (MlpSpec::Plain(plain), _) => Feed::Plain(plain.activation),
        (_, gated) => Feed::Gated(gated.map_or(Activation::Silu, |gated| gated.activation)),
    }
}

/// Returns whether experts are weighed by nothing but a softmax, over the chosen ones where
/// `normalized`.
fn is_usual(experts: &ExpertsSpec, normalized: bool) -> bool {
    let RouterSpec {
        score,
        groups,
        normalizes,
        scale,
        bias,
        ..
    } = &experts.router;
    let score = match score {
        RouterScore::Softmax => *normalizes == normalized,
        RouterScore::SoftmaxOfChosen => normalized,
        RouterScore::ScaledSoftmax | RouterScore::Sigmoid => false,
    };
    let plain = !matches!(experts.form, ExpertForm::Stacked { .. });
    score && plain && groups.is_none() && are_one(*scale, 1.0) && !bias
}

/// Whether the result of attention has a gate per feature.
fn gated_heads(spec: &DecoderSpec) -> bool {
    let gate = |layer: &LayerSpec| layer.mixer.grouped().map(|mixer| mixer.gate);
    spec.layers
        .iter()
        .any(|layer| gate(layer) == Some(OutputGate::Features))
}

/// Returns how many tokens a layer looks back.
pub(crate) fn window(layer: &LayerSpec) -> Option<usize> {
    match layer.mixer.span() {
        Span::Sliding { window } => Some(window),
        Span::Full | Span::Document | Span::Around { .. } => None,
    }
}

fn is_of_neighbors(spec: &RopeSpec) -> bool {
    spec.pairs == rope::Pairs::Neighbors
}

fn is_backward(rope: &RopeSpec) -> bool {
    rope.direction == Rotation::Back
}

fn grows_queries(rope: &RopeSpec) -> bool {
    rope.query_growth.is_some()
}

fn normalized(norm: NormKind) -> &'static str {
    match norm {
        NormKind::RootMeanSquare => "norms of root mean squares",
        NormKind::Bare => "norms without weights",
        NormKind::Layer => "norms of layers",
        NormKind::LayerWithoutBias => "norms of layers without biases",
    }
}

fn place(norms: NormPlacement) -> &'static str {
    match norms {
        NormPlacement::Pre => "norms of inputs",
        NormPlacement::PreAndPost => "norms of inputs and outputs",
        NormPlacement::PreMlp => "norms of inputs, not of the first",
        NormPlacement::Post => "norms of outputs",
        NormPlacement::Sum | NormPlacement::FirstSum => "norms of sums",
        NormPlacement::Parallel | NormPlacement::ParallelApart => {
            "attention and feed-forward side by side"
        }
    }
}

fn normed(norm: QueryKeyNorm) -> &'static str {
    match norm {
        QueryKeyNorm::None => "no norms of queries and keys",
        QueryKeyNorm::Heads => "norms of each query and key",
        QueryKeyNorm::HeadsAfterRotation => "norms of each rotated query and key",
        QueryKeyNorm::Whole => "norms of all queries and keys together",
    }
}

fn biased(mixer: &GroupedSpec) -> &'static str {
    match (mixer.qkv_bias, mixer.output_bias) {
        (false, false) => "no biases in attention",
        (true, false) => "biases of q, k and v",
        (false, true) => "a bias of the attention's output",
        (true, true) => "biases of q, k, v and the output",
    }
}

fn biases_taken(biases: Biases) -> &'static str {
    match biases {
        Biases::None => "no biases",
        Biases::Inputs => "biases of q, k and v",
        Biases::InputsOrNone => "biases of q, k and v, or none",
        Biases::All => "biases of all or none",
    }
}

fn divided(modules: Modules) -> &'static str {
    match modules {
        Modules::Separate => "q, k and v as modules of their own",
        Modules::Fused => "q, k and v as one module",
        Modules::FusedByGroup => "q, k and v of each key head as one",
    }
}

fn activated(feed: Feed) -> &'static str {
    match feed {
        Feed::Gated(Activation::Silu) => "a gate of SiLU",
        Feed::Gated(Activation::GeluTanh) => "a gate of GELU",
        Feed::Gated(Activation::Gelu) => "a gate of GELU with the error function",
        Feed::Plain(PlainActivation::Gelu) => "GELU by the error function, without a gate",
        Feed::Plain(PlainActivation::GeluTanh) => "GELU by tanh, without a gate",
        Feed::Plain(PlainActivation::SquaredRelu) => "squared ReLU, without a gate",
    }
}
