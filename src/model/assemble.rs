//! Numbers by name to a [`Decoder`]. Linear weights turn from [out, in], as files have them, to [in, out].

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::Error;
use super::block::Block;
use super::decoder::Decoder;
use super::spec::{
    ATTENTION, DecoderSpec, EMBEDDING, FINAL_NORM, HEAD, LAYER_NORMS, LayerSpec, LinearSpec, MLP, QUERY_KEY_NORMS, norm_name,
};
use crate::device;
use crate::nn::head::Head;
use crate::nn::norm::RmsNorm;
use crate::nn::projection::Projection;
use crate::nn::table::Table;
use crate::report::{Event, Reporter};
use crate::terms::{Method, ModelDtype};

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
}

/// Makes the decoder. Its matrices have this dtype, but that the CPU keeps f16 as f32; what is small, norms and biases, is f32.
pub(super) fn assemble(
    source: &dyn Source,
    spec: DecoderSpec,
    dtype: DType,
    device: &Device,
    report: Reporter,
) -> Result<Decoder, Error> {
    let is_cpu = device::is_cpu(device);
    let kept = if is_cpu && dtype == DType::F16 { DType::F32 } else { dtype };
    let computed = if is_cpu { DType::F32 } else { dtype };
    let assembly = Assembly { source, spec: &spec, dtype, kept, device };
    let (mut ropes, mut spans) = (Vec::new(), Vec::new());
    let linears = spec.projections();
    let mut blocks = Vec::with_capacity(spec.layers.len());
    for (index, (layer, linears)) in spec.layers.iter().zip(linears.chunks(ATTENTION.len() + MLP.len())).enumerate() {
        let (rope, span) = (position(&mut ropes, &layer.mixer.rope), position(&mut spans, &layer.mixer.span));
        blocks.push(assembly.block(index, layer, linears, (rope, span))?);
        let (done, total) = (index as u64 + 1, spec.layers.len() as u64);
        report(Event::Progress { what: "loading the base model".to_owned(), done, total });
    }
    let embedding = assembly.table(EMBEDDING)?;
    let table = if spec.tied_head { embedding.clone() } else { assembly.table(HEAD)? };
    let head = Head { norm: assembly.norm(FINAL_NORM, spec.width)?, table };
    Ok(Decoder { trained: Method::Lora, computed, embedding, blocks, head, ropes, spans, spec })
}

struct Assembly<'a> {
    source: &'a dyn Source,
    spec: &'a DecoderSpec,
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
    fn table(&self, name: &str) -> Result<Table, Error> {
        let (vocabulary, width) = (self.spec.vocabulary, self.spec.width);
        let most = device::largest_tensor_bytes(self.device).unwrap_or(u64::MAX) / (width * self.kept.size()) as u64;
        let pieces = (vocabulary as u64).div_ceil(most.max(1)) as usize;
        let piece = |first: usize, end: usize| -> Result<Tensor<2>, Error> {
            Ok(Tensor::from_data(self.source.rows(name, first..end, width, self.dtype)?, (self.device, self.kept)))
        };
        let rows = vocabulary.div_ceil(pieces);
        let each = (0..vocabulary).step_by(rows).map(|first| piece(first, vocabulary.min(first + rows)));
        Ok(Table::of(each.collect::<Result<_, _>>()?))
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, Error> {
        Ok(RmsNorm { weight: self.vector(name, width)?, epsilon: self.spec.norm_epsilon })
    }

    fn projection(&self, linear: &LinearSpec) -> Result<Projection, Error> {
        let LinearSpec { name, inputs, outputs, bias } = linear;
        let weight = self.source.transposed(&format!("{name}.weight"), [*outputs, *inputs], self.dtype)?;
        let weight = Tensor::from_data(weight, (self.device, self.kept));
        let bias = if *bias { Some(self.vector(&format!("{name}.bias"), *outputs)?) } else { None };
        Ok(Projection { name: name.clone(), weight, bias, lora: None })
    }

    fn block(
        &self,
        index: usize,
        layer: &LayerSpec,
        linears: &[LinearSpec],
        (rope, span): (usize, usize),
    ) -> Result<Block, Error> {
        let [attention_norm, mlp_norm] = LAYER_NORMS.map(|name| self.norm(&norm_name(index, name), self.spec.width));
        let [query_norm, key_norm] = QUERY_KEY_NORMS.map(|name| norm_name(index, name));
        let of_head = |name: &str| self.norm(name, layer.mixer.head_dim);
        let query_key_norm = if layer.mixer.qk_norm { Some([of_head(&query_norm)?, of_head(&key_norm)?]) } else { None };
        let linear = |index: usize| self.projection(&linears[index]);
        Ok(Block {
            index,
            spec: layer.mixer.clone(),
            rope,
            span,
            attention_norm: attention_norm?,
            query_key_norm,
            attention: [linear(0)?, linear(1)?, linear(2)?, linear(3)?],
            mlp_norm: mlp_norm?,
            mlp: [linear(4)?, linear(5)?, linear(6)?],
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
