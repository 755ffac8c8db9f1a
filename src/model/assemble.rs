//! Makes a [`Decoder`] of numbers by name. Linear weights turn from [out, in], as files have them,
//! to [in, out].

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::block::Block;
use super::convolution::Convolution;
use super::decoder::Decoder;
use super::frame::BlockPlace;
use super::layout::{
    BESIDE_EXPERTS, CONVOLUTION, CORRECTION, LONE_CONVOLUTION, LinearKind, LinearSpec,
    PER_LAYER_NORM, SCALAR, Slice, WeightOrder, module_above,
};
use super::mixer::{Grouped, Latent, Mixer, Query};
use super::mlp::{GatedAndExperts, Mlp};
use super::per_layer::{PerLayer, PerLayerInputs};
use super::recurrent::Recurrent;
use super::spec::{
    ConvolutionSpec, DecoderSpec, EmbeddingNorm, ExpertForm, ExpertsSpec, GatedSpec, GroupedSpec,
    LatentSpec, LayerSpec, MixerSpec, MlpSpec, OutputGate, RecurrentSpec,
};
use super::stored_scores::StoredScores;
use super::{ModelError, Storage};
use crate::device;
use crate::nn::conv::Conv;
use crate::nn::experts::{Expert, Experts, Router, RouterScales, SharedExpert, Unit};
use crate::nn::head::Head;
use crate::nn::norm::Norm;
use crate::nn::projection::Projection;
use crate::nn::table::EmbeddingTable;
use crate::ops::{Base, Packed};
use crate::quant::{QuantFormat, Quantized};
use crate::report::{Event, Reporter};
use crate::terms::ModelDtype;

/// The most bytes that a piece of a packed head may take on a GPU as numbers: no more than a
/// projection of a large model.
pub const PIECE_BYTES: u64 = 128 << 20;

/// Returns the type of a matrix's numbers; f32 where nothing is said.
pub(super) fn numbers_of(dtype: ModelDtype) -> DType {
    match dtype {
        ModelDtype::Auto | ModelDtype::Float32 => DType::F32,
        ModelDtype::Bfloat16 => DType::BF16,
        ModelDtype::Float16 => DType::F16,
    }
}

/// A source of a decoder's numbers; names are those of [`DecoderSpec::tensors`], and linear weights
/// are [out, in] whatever their order in the files.
pub(super) trait WeightSource {
    /// Returns the numbers of a vector.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, ModelError>;
    /// Returns some rows of a matrix in the order of a checkpoint, f32, bf16 or f16.
    fn rows(
        &self,
        name: &str,
        rows: Range<usize>,
        columns: usize,
        dtype: DType,
    ) -> Result<TensorData, ModelError>;
    /// Returns a matrix, which a checkpoint has as [rows, columns], as [columns, rows], f32, bf16
    /// or f16.
    fn transposed(
        &self,
        name: &str,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError>;
    /// Returns one matrix [in, out] of a stack, f32, bf16 or f16.
    fn slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
        dtype: DType,
    ) -> Result<TensorData, ModelError>;
    /// Returns the shape of a tensor in the files, if they have it.
    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }
    /// Whether a matrix is not packed where others are.
    fn stays_dense(&self, name: &str, shape: [usize; 2]) -> bool;
    /// Returns a packed matrix [rows, columns].
    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError>;
    /// Returns one matrix [out, in] of a stack as the files have it packed; `None` where they have
    /// numbers.
    fn packed_slice(
        &self,
        slice: &Slice,
        shape: [usize; 2],
    ) -> Result<Option<Quantized>, ModelError>;
}

/// Makes the decoder. Its matrices are kept as `storage` says, except that the CPU keeps f16 as
/// f32.
pub(super) fn assemble(
    source: &dyn WeightSource,
    spec: DecoderSpec,
    storage: Storage,
    device: &Device,
    report: Reporter,
) -> Result<Decoder, ModelError> {
    let (is_cpu, dtype) = (device::is_cpu(device), numbers_of(storage.dtype));
    let kept = if is_cpu && dtype == DType::F16 {
        DType::F32
    } else {
        dtype
    };
    let computed = if is_cpu { DType::F32 } else { dtype };
    let assembly = Assembly {
        source,
        spec: &spec,
        form: storage.form,
        dtype,
        kept,
        device,
    };
    let (mut ropes, mut spans) = (Vec::new(), Vec::new());
    let mut blocks = Vec::with_capacity(spec.layers.len());
    for (index, layer) in spec.layers.iter().enumerate() {
        let rope = layer.mixer.rope().map(|rope| position(&mut ropes, rope));
        let span = position(&mut spans, &layer.mixer.span());
        blocks.push(assembly.block(
            layer,
            BlockPlace {
                layer: index,
                rope,
                span,
                is_source: spec.is_source(index),
            },
        )?);
        let (done, total) = (index as u64 + 1, spec.layers.len() as u64);
        report(Event::Progress {
            what: "loading the base model".to_owned(),
            done,
            total,
        });
    }
    let host = Device::flex();
    let home = if storage.offloads_embedding && !spec.tied_head {
        &host
    } else {
        device
    };
    let embedding = assembly.table(&spec.names.embedding(), spec.width, home)?;
    let table = match storage.form.filter(|_| storage.packs_head) {
        _ if spec.tied_head => embedding.clone(),
        Some(form) => assembly.packed_table(&spec.names.head(), form)?,
        None => assembly.table(&spec.names.head(), spec.width, device)?,
    };
    let (norm, scale, softcap) = (
        assembly.norm(&spec.final_norm(), spec.width)?,
        spec.logit_scale,
        spec.final_softcap,
    );
    let bias = spec
        .head_bias
        .then(|| assembly.vector(&format!("{}.bias", spec.names.head), spec.vocabulary))
        .transpose()?;
    let embedding_norm = match spec.embedding_norm {
        EmbeddingNorm::None => None,
        EmbeddingNorm::Bare => Some(assembly.bare_norm(spec.width, spec.norm_epsilon)),
        EmbeddingNorm::OfSum => Some(assembly.norm(&spec.names.embedding_norm(), spec.width)?),
    };
    let token_types = (spec.token_types > 0)
        .then(|| {
            let (name, types) = (spec.names.token_types(), 0..spec.token_types);
            let rows = source.rows(&name, types, spec.width, DType::F32)?;
            Ok::<_, ModelError>(Tensor::from_data(rows, (device, DType::F32)))
        })
        .transpose()?;
    let positions = spec
        .learns_positions
        .then(|| {
            let (name, rows) = (spec.names.positions(), 0..spec.positions());
            let rows = source.rows(&name, rows, spec.width, dtype)?;
            Ok::<_, ModelError>(Tensor::from_data(rows, (device, kept)))
        })
        .transpose()?;
    let head = Head {
        norm,
        table,
        bias,
        trains_bias: false,
        scale,
        softcap,
    };
    Ok(Decoder {
        padding: spec.padding,
        computed,
        embedding,
        embedding_norm,
        token_types,
        positions,
        trains_positions: false,
        per_layer: assembly.per_layer_inputs()?,
        blocks,
        head,
        scores: None,
        stored_scores: stored_scores(source, &spec)?,
        ropes,
        spans,
        spec,
    })
}

/// Returns the tensors of heads that score, with their shapes, that the files have.
pub(super) fn score_shapes(
    source: &dyn WeightSource,
    spec: &DecoderSpec,
) -> BTreeMap<String, Vec<usize>> {
    let names = spec.score_tensors().into_iter();
    names
        .filter_map(|name| {
            let shape = source.shape(&name)?;
            Some((name, shape))
        })
        .collect()
}

fn stored_scores(
    source: &dyn WeightSource,
    spec: &DecoderSpec,
) -> Result<StoredScores, ModelError> {
    let mut stored = StoredScores::default();
    for (name, shape) in score_shapes(source, spec) {
        let numbers = match shape[..] {
            [length] => source.vector(&name, length)?,
            [rows, columns] => source
                .rows(&name, 0..rows, columns, DType::F32)?
                .iter()
                .collect(),
            _ => continue,
        };
        stored.tensors.insert(name, (shape, numbers));
    }
    Ok(stored)
}

struct Assembly<'a> {
    source: &'a dyn WeightSource,
    spec: &'a DecoderSpec,
    /// Format of packed projections.
    form: Option<QuantFormat>,
    /// The type in which numbers are read.
    dtype: DType,
    /// The type in which numbers are kept.
    kept: DType,
    device: &'a Device,
}

impl Assembly<'_> {
    fn vector(&self, name: &str, length: usize) -> Result<Tensor<1>, ModelError> {
        Ok(Tensor::from_data(
            TensorData::new(self.source.vector(name, length)?, [length]),
            self.device,
        ))
    }

    /// Reads a matrix [vocabulary, width] of that width in as few pieces as the device allows.
    fn table(
        &self,
        name: &str,
        width: usize,
        device: &Device,
    ) -> Result<EmbeddingTable, ModelError> {
        let piece = |rows: Range<usize>| -> Result<Base, ModelError> {
            let rows = self.source.rows(name, rows, width, self.dtype)?;
            Ok(Base::Dense(Tensor::from_data(rows, (device, self.kept))))
        };
        let most = device::largest_tensor_bytes(device).unwrap_or(u64::MAX);
        Ok(EmbeddingTable::of(
            self.pieces(width, most)
                .map(piece)
                .collect::<Result<_, _>>()?,
        ))
    }

    /// Reads a packed matrix [vocabulary, width]. On a GPU one piece at a time is unpacked, which
    /// takes at most [`PIECE_BYTES`].
    fn packed_table(&self, name: &str, form: QuantFormat) -> Result<EmbeddingTable, ModelError> {
        let whole = self
            .source
            .packed(name, [self.spec.vocabulary, self.spec.width], form)?;
        let whole = Packed::new(whole, self.device);
        let most = if device::is_cpu(self.device) {
            u64::MAX
        } else {
            PIECE_BYTES
        };
        Ok(EmbeddingTable::of(
            self.pieces(self.spec.width, most)
                .map(|rows| Base::Packed(whole.rows(rows)))
                .collect(),
        ))
    }

    /// Splits the rows of a table into pieces of at most `most_bytes`; all except the last have as
    /// many rows.
    fn pieces(&self, width: usize, most_bytes: u64) -> impl Iterator<Item = Range<usize>> + use<> {
        let vocabulary = self.spec.vocabulary;
        let most = most_bytes / (width * self.kept.size()) as u64;
        let pieces = (vocabulary as u64).div_ceil(most.max(1)) as usize;
        let rows = vocabulary.div_ceil(pieces);
        (0..vocabulary)
            .step_by(rows)
            .map(move |first| first..vocabulary.min(first + rows))
    }

    /// Reads a norm of the stream.
    fn norm(&self, module: &str, width: usize) -> Result<Norm, ModelError> {
        let kind = self.spec.norm;
        let bias = kind
            .has_bias()
            .then(|| self.vector(&format!("{module}.bias"), width))
            .transpose()?;
        Ok(Norm {
            bias,
            centers: kind.centers(),
            ..self.inner_norm(module, width, self.spec.norm_epsilon)?
        })
    }

    /// Reads an RMS norm.
    fn inner_norm(&self, module: &str, width: usize, epsilon: f64) -> Result<Norm, ModelError> {
        if !self.spec.norm.has_weight() {
            return Ok(self.bare_norm(width, epsilon));
        }
        Ok(Norm {
            weight: self.vector(&format!("{module}.weight"), width)?,
            is_fixed: false,
            offset: self.spec.norm_offset,
            ..self.bare_norm(width, epsilon)
        })
    }

    /// Makes an RMS norm without a weight.
    fn bare_norm(&self, width: usize, epsilon: f64) -> Norm {
        Norm {
            weight: Tensor::ones([width], (self.device, DType::F32)),
            bias: None,
            centers: false,
            is_fixed: true,
            epsilon,
            offset: 0.0,
            trains: false,
        }
    }

    fn projection(&self, linear: &LinearSpec) -> Result<Projection, ModelError> {
        let LinearSpec {
            name,
            inputs,
            outputs,
            bias,
            kind,
            ..
        } = linear;
        let (key, shape) = (linear.weight(), [*outputs, *inputs]);
        let dense =
            |data: TensorData| Base::Dense(Tensor::from_data(data, (self.device, self.kept)));
        let packed =
            |weight: Quantized| Base::Packed(Packed::new(weight, self.device).transposed());
        // Stacks are no modules, so bitsandbytes has nothing of them to pack: they are packed here.
        let form = self.form.filter(|form| {
            let is_left = linear.is_whole() || matches!(form, QuantFormat::Blocks(_));
            !is_left || !self.source.stays_dense(&key, shape)
        });
        let weight = match (kind, form) {
            (LinearKind::Stacked(slice), None) => {
                let data = self
                    .source
                    .slice(slice, linear.weight_shape(), self.dtype)?;
                dense(if slice.is_turned {
                    data
                } else {
                    transposed(&data, shape)
                })
            }
            (LinearKind::Stacked(slice), Some(form)) => {
                packed(self.packed_slice(slice, shape, form)?)
            }
            (_, Some(form)) => packed(self.source.packed(&key, shape, form)?),
            (_, None) => dense(self.source.transposed(&key, shape, self.dtype)?),
        };
        // Those of a stack are one tensor.
        let has_own = *bias && linear.is_whole();
        let bias = has_own
            .then(|| self.vector(&format!("{name}.bias"), *outputs))
            .transpose()?;
        Ok(Projection {
            name: name.clone(),
            weight,
            is_stored_so: linear.order == WeightOrder::InOut,
            bias,
            trains: false,
            lora: None,
        })
    }

    /// Returns one matrix of a stack as [out, in], packed.
    fn packed_slice(
        &self,
        slice: &Slice,
        [outputs, inputs]: [usize; 2],
        form: QuantFormat,
    ) -> Result<Quantized, ModelError> {
        if let Some(stored) = self.source.packed_slice(slice, [outputs, inputs])? {
            return Ok(stored);
        }
        let data = if slice.is_turned {
            let stored = [inputs, outputs];
            transposed(&self.source.slice(slice, stored, DType::F32)?, stored)
        } else {
            self.source.slice(slice, [outputs, inputs], DType::F32)?
        };
        let numbers: Vec<f32> = data.iter().collect();
        form.pack([outputs, inputs], &numbers)
            .map_err(|cause| ModelError::Packing {
                name: slice.tensor.clone(),
                cause,
            })
    }

    fn block(&self, layer: &LayerSpec, place: BlockPlace) -> Result<Block, ModelError> {
        let (names, index) = (&self.spec.names, place.layer);
        let [before_attention, after_attention, before_mlp, after_mlp] =
            names.of_norms(layer.norms).map(|name| {
                name.map(|name| self.norm(&names.in_layer(index, name), self.spec.width))
                    .transpose()
            });
        let linears = self.spec.layer_projections(index);
        let projections = linears
            .iter()
            .map(|linear| self.projection(linear))
            .collect::<Result<Vec<_>, _>>()?;
        let mut projections = projections.into_iter();
        let mixer = match &layer.mixer {
            MixerSpec::Grouped(spec) => {
                Mixer::Grouped(self.grouped(index, spec, &mut projections)?)
            }
            MixerSpec::Latent(spec) => {
                Mixer::Latent(Box::new(self.latent(index, spec, &mut projections)?))
            }
            MixerSpec::Convolution(spec) => {
                Mixer::Convolution(Box::new(self.convolution(index, spec, &mut projections)?))
            }
            MixerSpec::Recurrent(spec) => {
                Mixer::Recurrent(Box::new(self.recurrent(index, spec, &mut projections)?))
            }
        };
        let mlp = match &layer.mlp {
            MlpSpec::Gated(spec) => gated(spec, &mut projections),
            MlpSpec::Plain(spec) => Mlp::Plain {
                activation: spec.activation,
                maps: Box::new([next(&mut projections), next(&mut projections)]),
            },
            MlpSpec::Experts(spec) => {
                Mlp::Experts(Box::new(self.experts(index, spec, &mut projections)?))
            }
            MlpSpec::GatedAndExperts(both) => {
                let norm_names = BESIDE_EXPERTS.map(|name| names.in_layer(index, name));
                let [after_gated, before_experts, after_experts] = &norm_names;
                let norm = |name: &str| self.norm(name, self.spec.width);
                Mlp::GatedAndExperts(Box::new(GatedAndExperts {
                    gated: gated(&both.gated, &mut projections),
                    experts: self.experts(index, &both.experts, &mut projections)?,
                    norms: [
                        norm(after_gated)?,
                        norm(before_experts)?,
                        norm(after_experts)?,
                    ],
                    norm_names,
                }))
            }
        };
        let per_layer = layer
            .per_layer_input
            .map(|spec| {
                let norm_name = names.in_layer(index, PER_LAYER_NORM);
                Ok::<_, ModelError>(Box::new(PerLayer {
                    spec,
                    maps: [next(&mut projections), next(&mut projections)],
                    norm: self.norm(&norm_name, self.spec.width)?,
                    norm_name,
                }))
            })
            .transpose()?;
        let scalar = layer
            .has_scalar
            .then(|| self.source.vector(&names.in_layer(index, SCALAR), 1))
            .transpose()?;
        Ok(Block {
            spec: layer.clone(),
            names: names.clone(),
            place,
            norms: [before_attention?, after_attention?, before_mlp?, after_mlp?],
            mixer,
            mlp,
            per_layer,
            scalar: scalar.and_then(|numbers| numbers.first().copied()),
        })
    }

    /// Reads what gives layers their own inputs.
    fn per_layer_inputs(&self) -> Result<Option<Box<PerLayerInputs>>, ModelError> {
        let (spec, names) = (self.spec, &self.spec.names);
        let (Some(width), Some(linear)) = (spec.per_layer_width(), spec.per_layer_projection())
        else {
            return Ok(None);
        };
        let (table_name, norm_name) = (names.per_layer_embedding(), names.per_layer_norm());
        Ok(Some(Box::new(PerLayerInputs {
            table: self.table(&table_name, linear.outputs, self.device)?,
            table_name,
            projection: self.projection(&linear)?,
            norm: self.norm(&norm_name, width)?,
            norm_name,
            width,
        })))
    }

    fn grouped(
        &self,
        index: usize,
        spec: &GroupedSpec,
        from: &mut impl Iterator<Item = Projection>,
    ) -> Result<Grouped, ModelError> {
        let [query, key] = self.spec.names.query_key_norms(index);
        let epsilon = self.spec.norm_epsilon;
        let norm = |name: &str, width: Option<usize>| {
            width
                .map(|width| self.inner_norm(name, width, epsilon))
                .transpose()
        };
        let [of_query, of_key] = spec.norm_widths();
        let value_norm = spec
            .value_norm
            .then(|| self.bare_norm(spec.head_dim, epsilon));
        let sinks = spec
            .sinks
            .then(|| {
                self.source
                    .vector(&self.spec.names.sinks(index), spec.heads)
            })
            .transpose()?;
        Ok(Grouped {
            norms: [norm(&query, of_query)?, norm(&key, of_key)?],
            value_norm,
            sinks: sinks.map(Into::into),
            qkv: from.by_ref().take(spec.input_maps()).collect(),
            gate: matches!(spec.gate, OutputGate::Heads(_)).then(|| next(from)),
            output: next(from),
            spec: spec.clone(),
        })
    }

    fn latent(
        &self,
        index: usize,
        spec: &LatentSpec,
        from: &mut impl Iterator<Item = Projection>,
    ) -> Result<Latent, ModelError> {
        let [of_query, of_key] = self.spec.names.latent_norms(index);
        let query = match spec.query_rank {
            None => Query::Straight(next(from)),
            Some(rank) => {
                let norm = self.inner_norm(&of_query, rank, spec.norm_epsilon)?;
                Query::Narrow {
                    a: next(from),
                    norm,
                    b: next(from),
                }
            }
        };
        let kv_norm = self.inner_norm(&of_key, spec.kv_rank, spec.norm_epsilon)?;
        Ok(Latent {
            query,
            kv_a: next(from),
            kv_norm,
            kv_b: next(from),
            output: next(from),
            spec: spec.clone(),
        })
    }

    fn recurrent(
        &self,
        index: usize,
        spec: &RecurrentSpec,
        from: &mut impl Iterator<Item = Projection>,
    ) -> Result<Recurrent, ModelError> {
        let name = |of: &str| {
            let name = format!("{}.{of}", spec.module);
            self.spec.names.in_layer(index, &name)
        };
        let vector = |of: &&str| Ok((name(of), self.vector(&name(of), spec.form.value_heads)?));
        let vectors = spec.vectors().iter().map(vector);
        let vectors = vectors.collect::<Result<_, ModelError>>()?;
        let norm = self.inner_norm(&name("norm"), spec.norm_width(), self.spec.norm_epsilon)?;
        Ok(Recurrent {
            inputs: from.by_ref().take(spec.inputs().len()).collect(),
            conv: Conv {
                silu: true,
                ..self.conv(
                    name(CONVOLUTION),
                    [spec.form.channels(), spec.taps],
                    spec.conv_bias,
                )?
            },
            vectors,
            // Its weight is itself, whatever those of the stream are.
            norm: Norm {
                offset: 0.0,
                ..norm
            },
            output: next(from),
            spec: spec.clone(),
        })
    }

    fn convolution(
        &self,
        index: usize,
        spec: &ConvolutionSpec,
        from: &mut impl Iterator<Item = Projection>,
    ) -> Result<Convolution, ModelError> {
        let name = format!("{}.{LONE_CONVOLUTION}", spec.module);
        let name = self.spec.names.in_layer(index, &name);
        Ok(Convolution {
            input: next(from),
            conv: self.conv(name, [spec.channels, spec.taps], spec.bias)?,
            output: next(from),
        })
    }

    /// Reads a convolution of single channels.
    fn conv(
        &self,
        name: String,
        [channels, taps]: [usize; 2],
        bias: bool,
    ) -> Result<Conv, ModelError> {
        let kernel = self
            .source
            .rows(&format!("{name}.weight"), 0..channels, taps, DType::F32)?;
        let bias = bias
            .then(|| self.vector(&format!("{name}.bias"), channels))
            .transpose()?;
        Ok(Conv {
            kernel: Tensor::from_data(kernel, (self.device, DType::F32)),
            bias,
            silu: false,
            trains: false,
            name,
        })
    }

    fn experts(
        &self,
        index: usize,
        spec: &ExpertsSpec,
        from: &mut impl Iterator<Item = Projection>,
    ) -> Result<Experts, ModelError> {
        let (count, name) = (
            spec.router.experts,
            self.spec.names.in_layer(index, &spec.router_name()),
        );
        let rows = self.source.rows(
            &format!("{name}.weight"),
            0..count,
            self.spec.width,
            DType::F32,
        )?;
        let vector = |end: &str, is_there: bool| {
            is_there
                .then(|| self.source.vector(&format!("{name}.{end}"), count))
                .transpose()
                .map(Option::unwrap_or_default)
        };
        let (bias, correction) = (
            vector("bias", spec.router.bias)?,
            vector(CORRECTION, spec.router.is_corrected())?,
        );
        let bias = spec
            .router
            .bias
            .then(|| Tensor::from_data(TensorData::new(bias, [count]), self.device));
        let scales = spec.router_scales().map(|[input, experts]| {
            let names = &self.spec.names;
            Ok::<_, ModelError>(RouterScales {
                name: module_above(&name).to_owned(),
                input: self.vector(&names.in_layer(index, &input), self.spec.width)?,
                experts: self.vector(&names.in_layer(index, &experts), count)?,
                epsilon: self.spec.norm_epsilon,
            })
        });
        let router = Router {
            scales: scales.transpose()?,
            weight: Tensor::from_data(rows, (self.device, DType::F32)),
            name,
            bias,
            correction,
            spec: spec.router.clone(),
            trains: false,
        };
        let each = (0..count)
            .map(|_| Expert {
                gate_up: from.by_ref().take(spec.maps() - 1).collect(),
                down: next(from),
            })
            .collect();
        let unit = match spec.form {
            ExpertForm::Apart { .. } | ExpertForm::Rows(_) => {
                Unit::SideBySide(spec.expert.activation)
            }
            ExpertForm::Stacked { alpha, limit } => Unit::InTurns { alpha, limit },
        };
        let of_stack = |part: usize, outputs: usize| -> Result<Tensor<2>, ModelError> {
            let stack = self
                .spec
                .layer_projections(index)
                .into_iter()
                .filter(|linear| !linear.is_whole())
                .nth(part);
            let name = format!("{}_bias", stack.expect("experts are stacked").weight());
            let rows = self.source.rows(&name, 0..count, outputs, DType::F32)?;
            Ok(Tensor::from_data(rows, (self.device, DType::F32)))
        };
        let is_biased = matches!(spec.form, ExpertForm::Stacked { .. }) && spec.expert.bias;
        let biases = is_biased.then(|| {
            Ok::<_, ModelError>([
                of_stack(0, 2 * spec.expert.inner)?,
                of_stack(1, self.spec.width)?,
            ])
        });
        let shared = spec.shared.map(|shared| SharedExpert {
            gate: shared.gate.map(|_| next(from)),
            maps: [next(from), next(from), next(from)],
        });
        Ok(Experts {
            router,
            each,
            biases: biases.transpose()?,
            unit,
            shared,
        })
    }
}

/// The message of expectations: the layout lists as many tensors as a block has.
const LISTED: &str = "the layout lists it";

fn next(projections: &mut impl Iterator<Item = Projection>) -> Projection {
    projections.next().expect(LISTED)
}

/// Takes a gated feed-forward.
fn gated(spec: &GatedSpec, projections: &mut impl Iterator<Item = Projection>) -> Mlp {
    Mlp::Gated {
        spec: spec.clone(),
        gate_up: projections.by_ref().take(spec.maps() - 1).collect(),
        down: next(projections),
    }
}

/// Returns the transpose of a matrix [rows, columns].
fn transposed(matrix: &TensorData, [rows, columns]: [usize; 2]) -> TensorData {
    let (size, stored) = (matrix.dtype().size(), matrix.bytes());
    let bytes: Vec<u8> = (0..columns)
        .flat_map(|column| (0..rows).map(move |row| row * columns + column))
        .flat_map(|place| &stored[place * size..(place + 1) * size])
        .copied()
        .collect();
    TensorData::from_bytes_vec(bytes, [columns, rows], matrix.dtype())
}

/// Returns the index of `item` in `items`; a new item is appended.
fn position<T: PartialEq + Clone>(items: &mut Vec<T>, item: &T) -> usize {
    items
        .iter()
        .position(|other| other == item)
        .unwrap_or_else(|| {
            items.push(item.clone());
            items.len() - 1
        })
}
