//! Numbers by name to a [`Decoder`]. Linear weights turn from [out, in], as files have them, to [in, out].

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::block::Block;
use super::decoder::Decoder;
use super::spec::{DecoderSpec, EMBEDDING, FINAL_NORM, HEAD, LayerSpec, LinearSpec, QUERY_KEY_NORMS, norm_name};
use super::{Error, Storage};
use crate::device;
use crate::nn::head::Head;
use crate::nn::norm::RmsNorm;
use crate::nn::projection::Projection;
use crate::nn::table::Table;
use crate::ops::{Base, Packed};
use crate::quant::{Form, Quantized};
use crate::report::{Event, Reporter};
use crate::terms::{Method, ModelDtype};

/// What a piece of a packed head may take on a GPU as numbers: no more than a projection of a large model.
pub const PIECE_BYTES: u64 = 128 << 20;

/// What the numbers of a matrix are; f32 where nothing is said.
pub(super) fn numbers_of(dtype: ModelDtype) -> DType {
    match dtype {
        ModelDtype::Auto | ModelDtype::Float32 => DType::F32,
        ModelDtype::Bfloat16 => DType::BF16,
        ModelDtype::Float16 => DType::F16,
    }
}

/// Where the numbers of a decoder come from; names and shapes are of [`DecoderSpec::tensors`].
pub(super) trait Source {
    /// Those of a vector.
    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, Error>;
    /// Those of some rows of a matrix in the order of a checkpoint, f32, bf16 or f16.
    fn rows(&self, name: &str, rows: Range<usize>, columns: usize, dtype: DType) -> Result<TensorData, Error>;
    /// Those of a matrix, which a checkpoint has as [rows, columns], as [columns, rows], f32, bf16 or f16.
    fn transposed(&self, name: &str, shape: [usize; 2], dtype: DType) -> Result<TensorData, Error>;
    /// A matrix [rows, columns], packed.
    fn packed(&self, name: &str, shape: [usize; 2], form: Form) -> Result<Quantized, Error>;
}

/// Makes the decoder. Its matrices are kept as this says, but that the CPU keeps f16 as f32.
pub(super) fn assemble(
    source: &dyn Source,
    spec: DecoderSpec,
    storage: Storage,
    device: &Device,
    report: Reporter,
) -> Result<Decoder, Error> {
    let (is_cpu, dtype) = (device::is_cpu(device), numbers_of(storage.dtype));
    let kept = if is_cpu && dtype == DType::F16 { DType::F32 } else { dtype };
    let computed = if is_cpu { DType::F32 } else { dtype };
    let assembly = Assembly { source, spec: &spec, form: storage.form, dtype, kept, device };
    let (mut ropes, mut spans) = (Vec::new(), Vec::new());
    let mut blocks = Vec::with_capacity(spec.layers.len());
    for (index, layer) in spec.layers.iter().enumerate() {
        let rope = layer.mixer.rope.as_ref().map(|rope| position(&mut ropes, rope));
        let span = position(&mut spans, &layer.mixer.span);
        blocks.push(assembly.block(index, layer, (rope, span))?);
        let (done, total) = (index as u64 + 1, spec.layers.len() as u64);
        report(Event::Progress { what: "loading the base model".to_owned(), done, total });
    }
    let host = Device::flex();
    let home = if storage.offloads_embedding && !spec.tied_head { &host } else { device };
    let embedding = assembly.table(EMBEDDING, home)?;
    let table = match storage.form.filter(|_| storage.packs_head) {
        _ if spec.tied_head => embedding.clone(),
        Some(form) => assembly.packed_table(HEAD, form)?,
        None => assembly.table(HEAD, device)?,
    };
    let (norm, scale, softcap) = (assembly.norm(FINAL_NORM, spec.width)?, spec.logit_scale, spec.final_softcap);
    let head = Head { norm, table, scale, softcap };
    Ok(Decoder { trained: Method::Lora, computed, embedding, blocks, head, ropes, spans, spec })
}

struct Assembly<'a> {
    source: &'a dyn Source,
    spec: &'a DecoderSpec,
    /// How projections are packed.
    form: Option<Form>,
    /// As they are read.
    dtype: DType,
    /// As they are kept.
    kept: DType,
    device: &'a Device,
}

impl Assembly<'_> {
    fn vector(&self, name: &str, length: usize) -> Result<Tensor<1>, Error> {
        Ok(Tensor::from_data(TensorData::new(self.source.vector(name, length)?, [length]), self.device))
    }

    /// A matrix [vocabulary, width], in as few pieces as the device takes.
    fn table(&self, name: &str, device: &Device) -> Result<Table, Error> {
        let piece = |rows: Range<usize>| -> Result<Base, Error> {
            let rows = self.source.rows(name, rows, self.spec.width, self.dtype)?;
            Ok(Base::Dense(Tensor::from_data(rows, (device, self.kept))))
        };
        let most = device::largest_tensor_bytes(device).unwrap_or(u64::MAX);
        Ok(Table::of(self.pieces(most).map(piece).collect::<Result<_, _>>()?))
    }

    /// The same packed. On a GPU a piece becomes numbers at a time, which take no more than [`PIECE_BYTES`].
    fn packed_table(&self, name: &str, form: Form) -> Result<Table, Error> {
        let whole = self.source.packed(name, [self.spec.vocabulary, self.spec.width], form)?;
        let whole = Packed::new(whole, self.device);
        let most = if device::is_cpu(self.device) { u64::MAX } else { PIECE_BYTES };
        Ok(Table::of(self.pieces(most).map(|rows| Base::Packed(whole.rows(rows))).collect()))
    }

    /// The rows of a table in pieces of so many bytes at most, but for the last of as many rows.
    fn pieces(&self, most_bytes: u64) -> impl Iterator<Item = Range<usize>> + use<> {
        let (vocabulary, width) = (self.spec.vocabulary, self.spec.width);
        let most = most_bytes / (width * self.kept.size()) as u64;
        let pieces = (vocabulary as u64).div_ceil(most.max(1)) as usize;
        let rows = vocabulary.div_ceil(pieces);
        (0..vocabulary).step_by(rows).map(move |first| first..vocabulary.min(first + rows))
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, Error> {
        let DecoderSpec { norm_epsilon, norm_offset, .. } = self.spec;
        Ok(RmsNorm { weight: self.vector(name, width)?, epsilon: *norm_epsilon, offset: *norm_offset })
    }

    fn projection(&self, linear: &LinearSpec) -> Result<Projection, Error> {
        let LinearSpec { name, inputs, outputs, bias, .. } = linear;
        let (key, shape) = (format!("{name}.weight"), [*outputs, *inputs]);
        let weight = match self.form {
            Some(form) => Base::Packed(Packed::new(self.source.packed(&key, shape, form)?, self.device).transposed()),
            None => Base::Dense(Tensor::from_data(self.source.transposed(&key, shape, self.dtype)?, (self.device, self.kept))),
        };
        let bias = if *bias { Some(self.vector(&format!("{name}.bias"), *outputs)?) } else { None };
        Ok(Projection { name: name.clone(), weight, bias, lora: None })
    }

    fn block(&self, index: usize, layer: &LayerSpec, (rope, span): (Option<usize>, usize)) -> Result<Block, Error> {
        let [before_attention, after_attention, before_mlp, after_mlp] =
            layer.norms.names().map(|name| name.map(|name| self.norm(&norm_name(index, name), self.spec.width)).transpose());
        let [query, key] = QUERY_KEY_NORMS.map(|name| norm_name(index, name));
        let of_heads = |[of_query, of_key]: [usize; 2]| Ok::<_, Error>([self.norm(&query, of_query)?, self.norm(&key, of_key)?]);
        let query_key_norms = layer.mixer.norm_widths().map(of_heads).transpose()?;
        let linears = self.spec.layer_projections(index, layer);
        let projections = linears.iter().map(|linear| self.projection(linear)).collect::<Result<Vec<_>, _>>()?;
        let (mut projections, [of_input, ..]) = (projections.into_iter(), layer.group_sizes());
        let qkv = projections.by_ref().take(of_input).collect();
        let attention_output = projections.next().expect("attention has an output");
        let (mlp_output, gate_up) = (projections.next_back().expect("a feed-forward has an output"), projections.collect());
        Ok(Block {
            index,
            spec: layer.clone(),
            rope,
            span,
            norms: [before_attention?, after_attention?, before_mlp?, after_mlp?],
            query_key_norms,
            qkv,
            attention_output,
            gate_up,
            mlp_output,
        })
    }
}

/// Index of `item` in `items`, appended if it is new.
fn position<T: PartialEq + Clone>(items: &mut Vec<T>, item: &T) -> usize {
    items.iter().position(|other| other == item).unwrap_or_else(|| {
        items.push(item.clone());
        items.len() - 1
    })
}
