//! Names and shapes of a decoder's tensors in a checkpoint.

mod linear;
mod names;
mod recurrent;

use std::collections::BTreeSet;

pub use linear::{LinearKind, LinearSpec, Role, Slice, WeightOrder};
pub use names::{Names, PER_LAYER_PROJECTION};
pub(super) use recurrent::{CONVOLUTION, LONE_CONVOLUTION};

use super::spec::{
    DecoderSpec, EmbeddingNorm, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec, LatentSpec,
    LayerSpec, MixerSpec, MlpSpec, Modules, OutputGate,
};

/// The module of a layer's experts, whose parameters can have adapters.
pub const EXPERTS: &str = "mlp.experts";
/// The parameters of stacked experts.
pub const EXPERT_STACKS: [&str; 2] = ["gate_up_proj", "down_proj"];
/// The number by which a layer's output is multiplied.
pub(super) const SCALAR: &str = "layer_scalar";
/// The two maps of a layer's own input, and the norm of what it adds.
const PER_LAYER: [&str; 2] = ["per_layer_input_gate", "per_layer_projection"];
pub(super) const PER_LAYER_NORM: &str = "post_per_layer_input_norm";
/// The norms of a gated feed-forward beside experts: after it, before the experts, after them.
pub(super) const BESIDE_EXPERTS: [&str; 3] = [
    "post_feedforward_layernorm_1",
    "pre_feedforward_layernorm_2",
    "post_feedforward_layernorm_2",
];

impl ExpertsSpec {
    /// Returns the name of the router's module within a layer.
    pub(super) fn router_name(&self) -> String {
        match self.form {
            ExpertForm::Apart { module, .. } => format!("{module}.gate"),
            ExpertForm::Stacked { .. } => "mlp.router".to_owned(),
            ExpertForm::Rows(names) => names.router.to_owned(),
        }
    }

    /// Returns the names of a router's scales within a layer: of its input, and of the experts'
    /// weights.
    pub(super) fn router_scales(&self) -> Option<[String; 2]> {
        let name = self.router_name();
        let module = self.router.is_scaled().then(|| module_above(&name))?;
        Some(["scale", "per_expert_scale"].map(|scale| format!("{module}.{scale}")))
    }

    /// Returns the number of linear maps of an expert: gate and up are one where they are stacked.
    pub fn maps(&self) -> usize {
        match self.form {
            ExpertForm::Apart { .. } => 3,
            ExpertForm::Stacked { .. } | ExpertForm::Rows(_) => 2,
        }
    }

    /// Returns the number of linear maps of all experts and of the shared one.
    pub fn all_maps(&self) -> usize {
        self.maps() * self.router.experts + self.shared_maps()
    }

    /// Returns the number of linear maps of the shared expert.
    pub fn shared_maps(&self) -> usize {
        self.shared
            .map_or(0, |shared| 3 + usize::from(shared.gate.is_some()))
    }
}

/// Returns the module that contains a module.
pub(super) fn module_above(module: &str) -> &str {
    module.rsplit_once('.').map_or("", |(above, _)| above)
}

/// Returns the module of a weight.
pub(super) fn module_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

impl DecoderSpec {
    /// Returns the modules that can have an adapter: the embedding, the linear maps of the blocks
    /// in checkpoint order, the head.
    pub fn modules(&self) -> Vec<LinearSpec> {
        let (embedding, head, of_head) = (
            self.names.embedding(),
            self.names.head(),
            if self.tied_head {
                Role::TiedHead
            } else {
                Role::Head
            },
        );
        let table = |weight: &str, shape, role| LinearSpec {
            role,
            ..LinearSpec::new(module_of(weight).to_owned(), shape, false)
        };
        let embedding = table(&embedding, [self.vocabulary, self.width], Role::Embedding);
        let head = LinearSpec {
            bias: self.head_bias,
            ..table(&head, [self.width, self.vocabulary], of_head)
        };
        [vec![embedding], self.projections(), vec![head]].concat()
    }

    /// Returns the linear maps of the blocks in checkpoint order, then the one that gives the
    /// layers' own inputs.
    pub fn projections(&self) -> Vec<LinearSpec> {
        (0..self.layers.len())
            .flat_map(|index| self.layer_projections(index))
            .chain(self.per_layer_projection())
            .collect()
    }

    /// Returns the linear map from the embedded tokens to the inputs of all layers.
    pub(super) fn per_layer_projection(&self) -> Option<LinearSpec> {
        let shape = [self.width, self.layers.len() * self.per_layer_width()?];
        Some(LinearSpec::new(
            self.names.per_layer_projection(),
            shape,
            false,
        ))
    }

    /// Returns the tensors of tables with one row per token of the vocabulary, the head among them
    /// even where it is tied.
    pub fn tables(&self) -> Vec<String> {
        [self.names.embedding(), self.names.head()]
            .into_iter()
            .chain(
                self.per_layer_width()
                    .map(|_| self.names.per_layer_embedding()),
            )
            .collect()
    }

    /// Returns the linear maps of a layer: attention, then the feed-forward, then those of its own
    /// input.
    pub fn layer_projections(&self, index: usize) -> Vec<LinearSpec> {
        let LayerSpec {
            mixer,
            mlp,
            per_layer_input,
            ..
        } = &self.layers[index];
        let mut linears = match mixer {
            MixerSpec::Grouped(grouped) => self.grouped(index, grouped),
            MixerSpec::Latent(latent) => self.latent(index, latent),
            MixerSpec::Recurrent(recurrent) => self.recurrent(index, recurrent),
            MixerSpec::Convolution(convolution) => self.convolution(index, convolution),
        };
        match mlp {
            MlpSpec::Gated(gated) => linears.extend(self.gated(index, gated)),
            MlpSpec::Plain(plain) => {
                let shapes = [[self.width, plain.inner], [plain.inner, self.width]];
                linears.extend(
                    self.names
                        .plain_mlp
                        .into_iter()
                        .zip(shapes)
                        .map(|(name, shape)| self.linear(index, name, shape, plain.bias)),
                );
            }
            MlpSpec::Experts(experts) => linears.extend(self.experts(index, experts)),
            MlpSpec::GatedAndExperts(both) => {
                linears.extend(self.gated(index, &both.gated));
                linears.extend(self.experts(index, &both.experts));
            }
        }
        if let Some(input) = per_layer_input {
            let shapes = [[self.width, input.width], [input.width, self.width]];
            linears.extend(
                PER_LAYER
                    .into_iter()
                    .zip(shapes)
                    .map(|(name, shape)| self.linear(index, name, shape, false)),
            );
        }
        linears
    }

    /// Returns gate, up and down of a gated feed-forward.
    fn gated(&self, index: usize, gated: &GatedSpec) -> Vec<LinearSpec> {
        let mut linears = match gated.gate_up {
            Modules::Separate => self.gate_up(index, self.names.gate_up, gated).to_vec(),
            _ => vec![self.linear(
                index,
                self.names.fused_gate_up,
                [self.width, 2 * gated.inner],
                gated.bias,
            )],
        };
        let shape = [gated.inner, self.width];
        linears.push(self.linear(index, self.names.mlp_output, shape, gated.bias));
        linears
    }

    fn linear(&self, index: usize, name: &str, shape: [usize; 2], bias: bool) -> LinearSpec {
        LinearSpec {
            order: self.weight_order,
            ..LinearSpec::new(self.names.in_layer(index, name), shape, bias)
        }
    }

    fn gate_up(&self, index: usize, names: [&str; 2], gated: &GatedSpec) -> [LinearSpec; 2] {
        names.map(|name| self.linear(index, name, [self.width, gated.inner], gated.bias))
    }

    fn grouped(&self, index: usize, spec: &GroupedSpec) -> Vec<LinearSpec> {
        let (q, [queries, keys, values]) = (spec.heads * spec.head_dim, spec.qkv_widths());
        let of = |name: &str, shape, bias| {
            self.linear(
                index,
                &format!("{}.{name}", self.names.attention),
                shape,
                bias,
            )
        };
        let mut linears: Vec<_> = match spec.qkv {
            Modules::Separate => self
                .names
                .qkv
                .into_iter()
                .zip([queries, keys, values])
                .take(spec.input_maps())
                .map(|(name, outputs)| of(name, [self.width, outputs], spec.qkv_bias))
                .collect(),
            _ => vec![of(
                self.names.fused_qkv,
                [self.width, queries + keys + values],
                spec.qkv_bias,
            )],
        };
        if let OutputGate::Heads(gate) = spec.gate {
            linears.push(of(gate, [self.width, spec.heads], false));
        }
        linears.push(of(
            self.names.attention_output,
            [q, self.width],
            spec.output_bias,
        ));
        linears
    }

    /// Returns the maps of latent attention: queries, with or without a narrow row; the narrow row
    /// of keys and values; the projection of it; the output.
    fn latent(&self, index: usize, spec: &LatentSpec) -> Vec<LinearSpec> {
        let LatentSpec {
            heads,
            kv_rank,
            plain_dim,
            rope_dim,
            value_dim,
            bias,
            ..
        } = *spec;
        let of = |name: &str, shape, bias| {
            self.linear(
                index,
                &format!("{}.{name}", self.names.attention),
                shape,
                bias,
            )
        };
        let queries = heads * spec.head_dim();
        let mut linears = match spec.query_rank {
            None => vec![of("q_proj", [self.width, queries], false)],
            Some(rank) => vec![
                of("q_a_proj", [self.width, rank], bias),
                of("q_b_proj", [rank, queries], false),
            ],
        };
        linears.push(of(
            "kv_a_proj_with_mqa",
            [self.width, kv_rank + rope_dim],
            bias,
        ));
        linears.push(of(
            "kv_b_proj",
            [kv_rank, heads * (plain_dim + value_dim)],
            false,
        ));
        linears.push(of(
            self.names.attention_output,
            [heads * value_dim, self.width],
            bias,
        ));
        linears
    }

    /// Returns gate, up and down of one expert after the other, then of the shared one, whose
    /// weight comes first.
    fn experts(&self, index: usize, spec: &ExpertsSpec) -> Vec<LinearSpec> {
        let (width, inner, count) = (self.width, spec.expert.inner, spec.router.experts);
        let of_expert = |expert: usize| match spec.form {
            ExpertForm::Apart { module, parts } => {
                let shapes = [[width, inner], [width, inner], [inner, width]];
                let of = |(part, shape): (&str, [usize; 2])| LinearSpec {
                    kind: LinearKind::Expert,
                    ..self.linear(
                        index,
                        &format!("{module}.experts.{expert}.{part}"),
                        shape,
                        spec.expert.bias,
                    )
                };
                parts.into_iter().zip(shapes).map(of).collect::<Vec<_>>()
            }
            ExpertForm::Stacked { .. } => {
                let of = |(part, shape): (&str, [usize; 2])| {
                    let tensor = self.names.in_layer(index, &format!("{EXPERTS}.{part}"));
                    let kind = LinearKind::Stacked(Slice {
                        tensor,
                        index: expert,
                        count,
                        is_turned: true,
                    });
                    LinearSpec {
                        kind,
                        ..self.linear(
                            index,
                            &format!("{EXPERTS}.{part}.{expert}"),
                            shape,
                            spec.expert.bias,
                        )
                    }
                };
                EXPERT_STACKS
                    .into_iter()
                    .zip([[width, 2 * inner], [inner, width]])
                    .map(of)
                    .collect()
            }
            ExpertForm::Rows(names) => {
                let of = |((part, tensor), shape): ((&str, &str), [usize; 2])| {
                    let kind = LinearKind::Stacked(Slice {
                        tensor: self.names.in_layer(index, tensor),
                        index: expert,
                        count,
                        is_turned: false,
                    });
                    let name = format!("{}.{part}.{expert}", names.module);
                    LinearSpec {
                        kind,
                        ..self.linear(index, &name, shape, false)
                    }
                };
                EXPERT_STACKS
                    .into_iter()
                    .zip(names.tensors)
                    .zip([[width, 2 * inner], [inner, width]])
                    .map(of)
                    .collect()
            }
        };
        let shared = spec.shared.iter().flat_map(|shared| {
            let of = |(part, shape)| {
                let name = format!("{}.{part}", shared.module);
                self.linear(index, &name, shape, spec.expert.bias)
            };
            let gate = shared
                .gate
                .map(|gate| self.linear(index, gate, [width, 1], false));
            let maps = [
                ("gate_proj", [width, shared.inner]),
                ("up_proj", [width, shared.inner]),
                ("down_proj", [shared.inner, width]),
            ];
            gate.into_iter().chain(maps.map(of))
        });
        (0..count).flat_map(of_expert).chain(shared).collect()
    }

    /// Returns every tensor of the checkpoint with its shape. Linear weights are in the order of
    /// the family; stacked ones are [count, in, out] or [count, out, in].
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![(self.names.embedding(), vec![self.vocabulary, self.width])];
        if self.learns_positions {
            tensors.push((self.names.positions(), vec![self.positions(), self.width]));
        }
        if self.token_types > 0 {
            let shape = vec![self.token_types, self.width];
            tensors.push((self.names.token_types(), shape));
        }
        if self.embedding_norm == EmbeddingNorm::OfSum {
            tensors.extend(self.norm(&self.names.embedding_norm(), self.width));
        }
        tensors.extend(self.norm(&self.final_norm(), self.width));
        if !self.tied_head {
            tensors.push((self.names.head(), vec![self.vocabulary, self.width]));
        }
        if self.head_bias {
            tensors.push((format!("{}.bias", self.names.head), vec![self.vocabulary]));
        }
        if let Some(width) = self.per_layer_width() {
            let (all, norm) = (self.layers.len() * width, self.names.per_layer_norm());
            tensors.push((self.names.per_layer_embedding(), vec![self.vocabulary, all]));
            tensors.push((format!("{norm}.weight"), vec![width]));
        }
        for linear in self.projections() {
            match &linear.kind {
                LinearKind::Module | LinearKind::Expert => {
                    tensors.push((linear.weight(), linear.weight_shape().to_vec()));
                    if linear.bias {
                        tensors.push((format!("{}.bias", linear.name), vec![linear.outputs]));
                    }
                }
                LinearKind::Stacked(Slice {
                    tensor,
                    index: 0,
                    count,
                    ..
                }) => {
                    let [rows, columns] = linear.weight_shape();
                    tensors.push((tensor.clone(), vec![*count, rows, columns]));
                    if linear.bias {
                        tensors.push((format!("{tensor}_bias"), vec![*count, linear.outputs]));
                    }
                }
                LinearKind::Stacked(_) => {}
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let names = self.names.of_norms(layer.norms).into_iter().flatten();
            tensors.extend(
                names.flat_map(|norm| self.norm(&self.names.in_layer(index, norm), self.width)),
            );
            tensors.extend(self.small(index, layer));
        }
        tensors
    }

    /// Returns the tensors of a norm of the stream.
    fn norm(
        &self,
        module: &str,
        width: usize,
    ) -> impl Iterator<Item = (String, Vec<usize>)> + use<> {
        let parts = [
            ("weight", self.norm.has_weight()),
            ("bias", self.norm.has_bias()),
        ];
        let module = module.to_owned();
        parts
            .into_iter()
            .filter(|(_, is_there)| *is_there)
            .map(move |(part, _)| (format!("{module}.{part}"), vec![width]))
    }

    /// Returns the tensors of a layer that are neither linear maps nor norms around attention and
    /// feed-forward: inner norms, sinks, the router and the layer's own factor.
    fn small(&self, index: usize, layer: &LayerSpec) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let has_weight = self.norm.has_weight();
        let mut norm = |name: String, width| {
            tensors.extend(has_weight.then(|| (format!("{name}.weight"), vec![width])));
        };
        match &layer.mixer {
            MixerSpec::Grouped(grouped) => {
                for (name, width) in self
                    .names
                    .query_key_norms(index)
                    .into_iter()
                    .zip(grouped.norm_widths())
                {
                    if let Some(width) = width {
                        norm(name.clone(), width);
                    }
                }
                if grouped.sinks {
                    tensors.push((self.names.sinks(index), vec![grouped.heads]));
                }
            }
            MixerSpec::Latent(latent) => {
                let [of_query, of_key] = self.names.latent_norms(index);
                latent
                    .query_rank
                    .into_iter()
                    .for_each(|rank| norm(of_query.clone(), rank));
                norm(of_key, latent.kv_rank);
            }
            MixerSpec::Recurrent(recurrent) => {
                tensors.extend(self.recurrent_tensors(index, recurrent));
            }
            MixerSpec::Convolution(convolution) => {
                tensors.extend(self.convolution_tensors(index, convolution));
            }
        }
        let beside_experts: &[&str] = match &layer.mlp {
            MlpSpec::GatedAndExperts(_) => &BESIDE_EXPERTS,
            _ => &[],
        };
        let of_input = layer.per_layer_input.map(|_| PER_LAYER_NORM);
        let of_stream = beside_experts.iter().copied().chain(of_input);
        tensors.extend(
            of_stream.flat_map(|name| self.norm(&self.names.in_layer(index, name), self.width)),
        );
        if layer.has_scalar {
            tensors.push((self.names.in_layer(index, SCALAR), vec![1]));
        }
        if let Some(experts) = layer.mlp.experts() {
            let (router, count) = (
                self.names.in_layer(index, &experts.router_name()),
                experts.router.experts,
            );
            tensors.push((format!("{router}.weight"), vec![count, self.width]));
            let vectors = [
                ("bias", experts.router.bias),
                (CORRECTION, experts.router.is_corrected()),
            ];
            tensors.extend(
                vectors
                    .iter()
                    .filter(|(_, is_there)| *is_there)
                    .map(|(end, _)| (format!("{router}.{end}"), vec![count])),
            );
            let scales = experts.router_scales().into_iter().flatten();
            tensors.extend(
                scales
                    .zip([self.width, count])
                    .map(|(scale, width)| (self.names.in_layer(index, &scale), vec![width])),
            );
        }
        tensors
    }

    /// Describes the first tensor that only one of two models has, with a name for each model;
    /// `None` where all names and shapes are the same.
    pub fn mismatch(&self, name: &str, other: &Self, other_name: &str) -> Option<String> {
        let only = |left: &Self, right: &Self| {
            let known: BTreeSet<_> = right.tensors().into_iter().collect();
            left.tensors()
                .into_iter()
                .find(|tensor| !known.contains(tensor))
        };
        let said = |(tensor, shape): (String, Vec<usize>), has: &str, lacks: &str| {
            format!("{has} has tensor `{tensor}` of shape {shape:?}, {lacks} has not")
        };
        let of_other = || only(other, self).map(|tensor| said(tensor, other_name, name));
        only(self, other)
            .map(|tensor| said(tensor, name, other_name))
            .or_else(of_other)
    }

    /// Returns the parameters of the linear maps that one token passes; of experts only the chosen
    /// ones count.
    pub fn computed_parameters(&self) -> usize {
        let of_layer = |(index, layer): (usize, &LayerSpec)| {
            let (mut every, mut routed) = (0, 0);
            for linear in self.layer_projections(index) {
                *(if linear.kind == LinearKind::Module {
                    &mut every
                } else {
                    &mut routed
                }) += linear.inputs * linear.outputs;
            }
            let share = layer.mlp.experts().map_or(0, |experts| {
                routed / experts.router.experts * experts.router.chosen
            });
            every + share
        };
        let of_inputs = self
            .per_layer_projection()
            .map_or(0, |linear| linear.inputs * linear.outputs);
        self.layers.iter().enumerate().map(of_layer).sum::<usize>() + of_inputs
    }

    /// Returns the number of parameters of the base. The factor of a layer is none: it is a buffer.
    pub fn parameters(&self) -> usize {
        self.tensors()
            .iter()
            .filter(|(name, _)| !name.ends_with(SCALAR))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }
}

/// Last name of the correction that a router adds to scores for choosing.
pub(super) const CORRECTION: &str = "e_score_correction_bias";
