//! The decoder: embedding, blocks, head.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use super::block::Block;
use super::flow::Context;
use super::frame::{Frame, LastRows};
use super::layout::module_of;
use super::per_layer::PerLayerInputs;
use super::spec::{DecoderSpec, EmbeddingNorm};
use super::stored_scores::StoredScores;
use crate::files::safetensors::Named;
use crate::nn::attention::Span;
use crate::nn::head::Head;
use crate::nn::lora::Lora;
use crate::nn::norm::Norm;
use crate::nn::projection::Projection;
use crate::nn::readout::Readout;
use crate::nn::rope::{RopeSpec, RopeTables};
use crate::nn::score_head::ScoreHead;
use crate::nn::table::EmbeddingTable;
use crate::nn::trainable_table::{TrainableTable, Use};
use crate::nn::weight::Weight;

/// A causal language model and, where attached, its adapters. All tensors are untracked.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// The spec of the model.
    pub spec: DecoderSpec,
    /// The padding token. Looking it up gives no gradient to what trains of the embedding.
    pub(super) padding: Option<u32>,
    /// The type of numbers passed from layer to layer: f32 on the CPU, the type of the matrices on
    /// a GPU.
    pub computed: DType,
    /// The embedding, [vocabulary, width].
    pub embedding: EmbeddingTable,
    /// The norm of looked-up rows, or of their sum; see the spec.
    pub(super) embedding_norm: Option<Norm>,
    /// The rows of token types, of which one is added to every token, [types, width].
    pub(super) token_types: Option<Tensor<2>>,
    /// Learned rows that are added by position, [context, width].
    pub(super) positions: Option<Tensor<2>>,
    pub(super) trains_positions: bool,
    /// What gives blocks their own inputs of each token, where they have such.
    pub(super) per_layer: Option<Box<PerLayerInputs>>,
    /// The blocks, bottom first.
    pub blocks: Vec<Block>,
    /// Final norm and vocabulary projection.
    pub head: Head,
    /// The head that is read in place of the vocabulary's, where an adapter brings one.
    pub scores: Option<ScoreHead>,
    /// What the checkpoint has of heads that score.
    pub(super) stored_scores: StoredScores,
    pub(super) ropes: Vec<RopeSpec>,
    pub(super) spans: Vec<Span>,
}

/// The place of a weight in the network; the order is that of a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The table for looking up tokens, and what gives blocks their own inputs.
    Embedding,
    /// The block at an index, counted from the bottom.
    Segment(usize),
    /// Final norm and head.
    Readout,
}

impl Decoder {
    /// Returns the device of the tensors.
    pub fn device(&self) -> Device {
        self.head.norm.weight.device()
    }

    /// Returns what turns hidden rows into readings. Where the mean of the rows of a text is
    /// scored, `pooled` are the ends of texts among them.
    pub fn readout<'a>(&'a self, pooled: &'a [usize]) -> Readout<'a> {
        match &self.scores {
            Some(scores) => Readout::Scores(&self.head.norm, scores, pooled),
            None => Readout::Tokens(&self.head),
        }
    }

    /// Whether tokens of a second type have a row of their own.
    pub fn has_second_type(&self) -> bool {
        self.spec.token_types > 1
    }

    /// Returns what the checkpoint has of heads that score.
    pub fn stored_scores(&self) -> &StoredScores {
        &self.stored_scores
    }

    /// Whether embedding, head and the table of the layers' own inputs are one tensor each.
    pub fn has_whole_tables(&self) -> bool {
        let of_inputs = self.per_layer.as_deref().map(|input| &input.table);
        [&self.embedding, &self.head.table]
            .into_iter()
            .chain(of_inputs)
            .all(|table| table.whole().is_some())
    }

    /// Makes what all blocks share for documents of these lengths, laid end to end in one row;
    /// `dropout` has one key per token. A token sees its own document only, and its position counts
    /// from the start of that document.
    pub fn frame(&self, documents: &[usize], dropout: Option<(f64, Arc<[u64]>)>) -> Frame {
        let (mut places, mut all_seen) = (Vec::new(), vec![Vec::new(); self.spans.len()]);
        for length in documents {
            for (span, seen) in self.spans.iter().zip(&mut all_seen) {
                seen.extend(span.seen_keys(0..*length, *length, places.len()));
            }
            places.extend(0..*length as u32);
        }
        let longest = documents.iter().copied().max().unwrap_or(0);
        Frame {
            ropes: self.rope_tables(0..longest, longest),
            documents: documents.iter().map(|length| *length as u32).collect(),
            positions: places.into(),
            first_position: 0,
            seen: all_seen.into_iter().map(Arc::from).collect(),
            dropout,
            noise: None,
            types: None,
            last_rows: None,
        }
    }

    /// Makes a [`Decoder::frame`] where the last block gives only the tokens at these places,
    /// ascending and at least one. The other tokens only cost their keys and values there.
    pub fn frame_for(
        &self,
        documents: &[usize],
        places: &[i32],
        dropout: Option<(f64, Arc<[u64]>)>,
    ) -> Frame {
        let keys = dropout
            .iter()
            .flat_map(|(_, keys)| places.iter().map(|place| keys[*place as usize]))
            .collect();
        let places = Tensor::from_data(TensorData::from(places), &self.device());
        let last_rows = self.blocks.len().checked_sub(1).map(|block| LastRows {
            block,
            places,
            keys,
            at_end: false,
        });
        Frame {
            last_rows,
            ..self.frame(documents, dropout)
        }
    }

    /// Makes a [`Decoder::frame_for`] whose last block tells the load of its experts, over all
    /// tokens.
    pub fn frame_with_load(
        &self,
        documents: &[usize],
        places: &[i32],
        dropout: Option<(f64, Arc<[u64]>)>,
    ) -> Frame {
        let frame = self.frame_for(documents, places, dropout);
        Frame {
            last_rows: frame.last_rows.map(|rows| LastRows {
                at_end: true,
                ..rows
            }),
            ..frame
        }
    }

    /// Makes what all blocks share for the tokens at some positions of a document of `length`
    /// tokens, whose keys begin with the first that one of them sees.
    pub(super) fn frame_of(&self, positions: Range<usize>, length: usize) -> Frame {
        Frame {
            ropes: self.rope_tables(positions.clone(), length),
            documents: [positions.len() as u32].into(),
            positions: (0..positions.len() as u32).collect(),
            first_position: positions.start,
            seen: self
                .spans
                .iter()
                .map(|span| span.seen_keys(positions.clone(), length, 0).collect())
                .collect(),
            dropout: None,
            noise: None,
            types: None,
            last_rows: None,
        }
    }

    fn rope_tables(&self, positions: Range<usize>, length: usize) -> Vec<RopeTables> {
        self.ropes
            .iter()
            .map(|rope| rope.tables_of(positions.clone(), length, &self.device()))
            .collect()
    }

    /// Looks up, scales and normalizes rows of the embedding, and adds those of learned positions.
    ///
    /// # Shapes
    /// `ids` [1, tokens], of the frame, result [1, tokens, width].
    pub fn embed(&self, ids: Tensor<2, Int>, frame: &Frame) -> Tensor<3> {
        let [batch, sequence] = ids.dims();
        let rows = self.rows(ids.reshape([batch * sequence]), frame); // [tokens, width]
        let rows = match (&self.embedding_norm, self.spec.embedding_norm) {
            (Some(norm), EmbeddingNorm::Bare) => norm.forward(rows),
            _ => rows,
        };
        let rows = self.with_places(rows, frame);
        let rows = match (&self.embedding_norm, self.spec.embedding_norm) {
            (Some(norm), EmbeddingNorm::OfSum) => norm.forward(rows),
            _ => rows,
        };
        rows.reshape([batch, sequence, self.spec.width])
    }

    /// Adds the rows of positions and of token types, [tokens, width].
    fn with_places(&self, rows: Tensor<2>, frame: &Frame) -> Tensor<2> {
        let rows = match (&self.token_types, &frame.types) {
            (Some(table), Some(types)) => {
                rows + table.clone().select(0, types.clone()).cast(self.computed)
            }
            (Some(table), None) => rows + table.clone().slice(0..1).cast(self.computed),
            (None, _) => rows,
        };
        match &self.positions {
            Some(positions) => {
                rows + positions
                    .clone()
                    .select(0, self.positions_of(frame))
                    .cast(self.computed)
            }
            None => rows,
        }
    }

    /// Returns the row of each token's position in the table of positions, [tokens].
    fn positions_of(&self, frame: &Frame) -> Tensor<1, Int> {
        let first = (self.spec.first_position + frame.first_position) as u32;
        let positions: Vec<i32> = frame
            .positions
            .iter()
            .map(|position| (first + position).cast_signed())
            .collect();
        Tensor::from_data(TensorData::from(&positions[..]), &self.device())
    }

    /// Returns rows of the embedding with the frame's noise, scaled, before their norm, [n, width],
    /// of ids [n].
    fn rows(&self, ids: Tensor<1, Int>, frame: &Frame) -> Tensor<2> {
        let rows = self.embedding.select(ids).cast(self.computed);
        let rows = match &frame.noise {
            Some(noise) => rows + noise.clone().cast(self.computed),
            None => rows,
        };
        let scale = self.spec.embed_scale;
        if scale.to_bits() == 1_f64.to_bits() {
            rows
        } else {
            rows.mul_scalar(scale)
        }
    }

    /// Returns the input of the lowest block, and what stands beside it.
    ///
    /// # Shapes
    /// `ids` [1, tokens], result [1, tokens, width].
    pub fn enter(&self, ids: Tensor<2, Int>, frame: &Frame) -> (Tensor<3>, Context) {
        let stream = self.embed(ids.clone(), frame);
        let inputs = |per_layer: &PerLayerInputs| {
            per_layer.forward(ids, stream.clone(), frame.per_layer_mask().as_ref())
        };
        let inputs = self.per_layer.as_deref().map(inputs);
        (stream, Context::of(inputs))
    }

    /// Returns the hidden rows before the final norm that the frame asks for, without a tape,
    /// [batch, rows, width].
    pub fn hidden(&self, ids: Tensor<2, Int>, frame: &Frame) -> Tensor<3> {
        let (stream, mut context) = self.enter(ids, frame);
        self.blocks.iter().fold(stream, |x, block| {
            let output = block.forward(context.input(block, x), frame);
            context.keep(block, output).0
        })
    }

    /// Returns the logits of every token of documents of these lengths, [tokens, vocabulary]. They
    /// are large: use this for tests and short inputs.
    pub fn logits(&self, ids: Tensor<2, Int>, documents: &[usize]) -> Tensor<2> {
        let hidden = self.hidden(ids, &self.frame(documents, None)); // [1, tokens, width]
        self.head.logits(hidden.squeeze_dim(0))
    }

    /// Marks every weight as trained; packed weights never are.
    ///
    /// # Panics
    /// The embedding is in pieces or packed.
    pub fn train_everything(&mut self) {
        assert!(
            self.embedding.whole().is_some(),
            "a table that trains is whole"
        );
        self.set_trains(true);
        // The token of padding is as any other: it may be the one that ends a turn.
        self.padding = None;
        self.embedding.own = Some(TrainableTable::Whole);
        self.head.table.own = self.head.table.whole().map(|_| {
            if self.spec.tied_head {
                TrainableTable::Tied
            } else {
                TrainableTable::Whole
            }
        });
    }

    /// Marks every weight of the base as frozen.
    pub fn freeze(&mut self) {
        self.set_trains(false);
        self.padding = self.spec.padding;
        (self.embedding.own, self.head.table.own) = (None, None);
    }

    fn set_trains(&mut self, trains: bool) {
        self.blocks
            .iter_mut()
            .for_each(|block| block.set_trains(trains));
        if let Some(per_layer) = &mut self.per_layer {
            per_layer.set_trains(trains);
        }
        self.head.norm.trains = trains;
        self.head.trains_bias = trains;
        self.trains_positions = trains;
    }

    /// Visits the weights that train, with places and names, in an order that never changes: that
    /// of [`Place`], with the final norm first within the readout.
    pub fn visit(&mut self, visit: &mut dyn FnMut(Place, &str, Weight)) {
        let (embedding, final_norm) = (self.spec.names.embedding(), self.spec.final_norm());
        let module = module_of(&embedding);
        self.embedding
            .visit(module, Use::Embedding, &mut |name, weight| {
                visit(Place::Embedding, name, weight);
            });
        if let Some(positions) = self.positions.as_mut().filter(|_| self.trains_positions) {
            let name = self.spec.names.positions();
            visit(Place::Embedding, &name, Weight::Matrix(positions));
        }
        if let Some(per_layer) = &mut self.per_layer {
            per_layer.visit(&mut |name, weight| visit(Place::Embedding, name, weight));
        }
        for (index, block) in self.blocks.iter_mut().enumerate() {
            block.visit(&mut |name, weight| visit(Place::Segment(index), name, weight));
        }
        self.head.norm.visit(&final_norm, &mut |name, weight| {
            visit(Place::Readout, name, weight);
        });
        match (&mut self.head.table.own, &self.embedding.own) {
            (Some(TrainableTable::Shared(of_head)), Some(TrainableTable::Rows(rows))) => {
                of_head.clone_from(rows);
            }
            (Some(TrainableTable::Tied), _) => {
                self.head.table = self.embedding.clone();
                self.head.table.own = Some(TrainableTable::Tied);
            }
            _ => {}
        }
        let module = self.spec.names.head;
        self.head
            .table
            .visit(module, Use::Head, &mut |name, weight| {
                visit(Place::Readout, name, weight);
            });
        if let Some(bias) = self.head.bias.as_mut().filter(|_| self.head.trains_bias) {
            let name = format!("{module}.bias");
            visit(Place::Readout, &name, Weight::Vector(bias));
        }
        if let Some(scores) = &mut self.scores {
            scores.visit(&mut |name, weight| visit(Place::Readout, name, weight));
        }
    }

    /// Whether any part of the embedding trains, so that gradients go through all blocks.
    pub fn trains_embedding(&self) -> bool {
        self.embedding.own.is_some()
    }

    /// Whether anything trains of what gives blocks their own inputs, so that gradients go back
    /// into those of all blocks.
    pub fn trains_per_layer(&self) -> bool {
        self.per_layer
            .as_deref()
            .is_some_and(PerLayerInputs::trains)
    }

    /// Whether the trained part of the head is that of the embedding.
    pub fn shares_tables(&self) -> bool {
        matches!(
            self.head.table.own,
            Some(TrainableTable::Tied | TrainableTable::Shared(_))
        )
    }

    /// Returns the gradients of what trains of the embedding and of what gives blocks their own
    /// inputs, each in memory order and in the order of a visit. They are given those of the input
    /// of the lowest block and of the blocks' own inputs, where anything depends on them.
    ///
    /// # Shapes
    /// `ids` [1, tokens], `of_stream` [1, tokens, width], `of_inputs` [1, tokens, layers, width of
    /// an input].
    pub fn entry_gradients(
        &self,
        ids: &Tensor<2, Int>,
        of_stream: Option<Tensor<3>>,
        of_inputs: Option<Tensor<4>>,
        frame: &Frame,
    ) -> Vec<Tensor<1>> {
        let trains = self.trains_embedding();
        let (of_own, through) = match (&self.per_layer, of_inputs) {
            (Some(per_layer), Some(of_inputs)) => per_layer.backward(
                ids.clone(),
                self.embed(ids.clone(), frame),
                of_inputs,
                frame.per_layer_mask().as_ref(),
                self.padding,
                trains,
            ),
            _ => (Vec::new(), None),
        };
        let of_tokens = match (of_stream, through) {
            (Some(of_stream), Some(through)) => Some(of_stream + through),
            (of_stream, through) => of_stream.or(through),
        };
        let of_embedding = of_tokens
            .filter(|_| trains)
            .map(|of_tokens| self.embedding_gradients(ids.clone(), of_tokens, frame));
        of_embedding.into_iter().flatten().chain(of_own).collect()
    }

    /// Returns the gradients of what trains of the embedding and of positions, each in memory
    /// order, given that of the embedded tokens.
    ///
    /// # Shapes
    /// `ids` [1, tokens], of the frame, `of_tokens` [1, tokens, width].
    fn embedding_gradients(
        &self,
        ids: Tensor<2, Int>,
        of_tokens: Tensor<3>,
        frame: &Frame,
    ) -> Vec<Tensor<1>> {
        let [batch, sequence, width] = of_tokens.dims();
        let tokens = batch * sequence;
        let (ids, of_tokens) = (ids.reshape([tokens]), of_tokens.reshape([tokens, width]));
        let of_positions =
            self.positions
                .as_ref()
                .filter(|_| self.trains_positions)
                .map(|positions| {
                    let of_rows = of_tokens.clone().cast(DType::F32);
                    Tensor::<2>::zeros(positions.dims(), (&of_rows.device(), DType::F32))
                        .select_assign(0, self.positions_of(frame), of_rows, IndexingUpdateOp::Add)
                });
        let of_rows = match (&self.embedding_norm, self.spec.embedding_norm) {
            (Some(norm), EmbeddingNorm::Bare) => {
                norm.backward(self.rows(ids.clone(), frame), of_tokens)
            }
            (Some(norm), _) => norm.backward(
                self.with_places(self.rows(ids.clone(), frame), frame),
                of_tokens,
            ),
            _ => of_tokens,
        };
        let of_rows = of_rows.cast(DType::F32).mul_scalar(self.spec.embed_scale);
        let gradients = self.embedding.of_rows(ids, of_rows, self.padding);
        gradients
            .into_iter()
            .chain(of_positions)
            .map(|gradient| gradient.reshape([-1]))
            .collect()
    }

    /// Returns `of` of each weight that trains, in the order of [`Decoder::visit`].
    pub fn weights<T>(&self, mut of: impl FnMut(&str, Weight) -> T) -> Vec<T> {
        let mut all = Vec::new();
        // Tensors are handles, and the copy is thrown away.
        self.clone()
            .visit(&mut |_, name, weight| all.push(of(name, weight)));
        all
    }

    /// Turns rows of numbers, one for each weight that trains, into tensors of a file: with the
    /// weight's name and in the file's order.
    pub fn named(&self, numbers: &[Tensor<1>]) -> Vec<Named> {
        self.named_lazily(numbers)
            .into_iter()
            .map(|(name, shape, numbers)| (name, shape, numbers()))
            .collect()
    }

    /// Does the same as [`Decoder::named`], but reorders the numbers only when they are asked for.
    pub fn named_lazily(
        &self,
        numbers: &[Tensor<1>],
    ) -> Vec<Named<impl FnOnce() -> Vec<f32> + use<>>> {
        let mut numbers = numbers.iter();
        self.weights(|name, weight| {
            let numbers = numbers.next().expect("one a weight").clone();
            (name.to_owned(), weight.shape(), weight.to_file(numbers))
        })
    }

    /// Returns the numbers of the weights that train, each in memory order.
    pub fn numbers(&self) -> Vec<Tensor<1>> {
        self.weights(|_, weight| weight.numbers())
    }

    /// Takes the numbers of the weights that train out of their places, so that nothing else holds
    /// them; [`Decoder::put`] must follow.
    pub fn take(&mut self) -> Vec<Tensor<1>> {
        let mut all = Vec::new();
        self.visit(&mut |_, _, weight| all.push(weight.take()));
        all
    }

    /// Puts numbers, each in memory order, into the places of the weights that train.
    pub fn put(&mut self, numbers: Vec<Tensor<1>>) {
        let mut numbers = numbers.into_iter();
        self.visit(&mut |_, _, weight| weight.put(numbers.next().expect("one a weight")));
    }

    /// Returns the number of parameters that train.
    pub fn trainable_parameters(&self) -> usize {
        self.weights(|_, weight| weight.shape().into_iter().product::<usize>())
            .into_iter()
            .sum()
    }

    /// Returns the count of initial numbers that adapters keep.
    pub fn initial_numbers(&self) -> usize {
        let initial = self
            .adapters()
            .filter_map(|(_, lora)| lora.initial.as_ref());
        initial
            .flat_map(|initial| initial.iter())
            .map(|matrix| matrix.shape().num_elements())
            .sum()
    }

    /// Returns the decoder for use while nothing trains: what depends on adapters alone is computed
    /// once, not with every batch or token.
    #[must_use]
    pub fn settled(&self) -> Self {
        let mut settled = self.clone();
        settled
            .projections_mut()
            .for_each(|projection| projection.settle(self.computed));
        settled
    }

    /// Returns all projections in the order of [`DecoderSpec::projections`].
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        let of_inputs = self.per_layer.iter().map(|input| &input.projection);
        self.blocks
            .iter()
            .flat_map(Block::projections)
            .chain(of_inputs)
    }

    /// Returns all projections in the order of [`DecoderSpec::projections`].
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        let of_inputs = self.per_layer.iter_mut().map(|input| &mut input.projection);
        self.blocks
            .iter_mut()
            .flat_map(Block::projections_mut)
            .chain(of_inputs)
    }

    /// Returns the attached adapters with their modules' names, in checkpoint order.
    pub fn adapters(&self) -> impl Iterator<Item = (&str, &Lora)> {
        self.projections()
            .filter_map(|projection| Some((projection.name.as_str(), projection.lora.as_ref()?)))
    }

    /// Returns the attached adapters, in the order of [`Decoder::adapters`].
    pub fn adapters_mut(&mut self) -> impl Iterator<Item = &mut Lora> {
        self.projections_mut()
            .filter_map(|projection| projection.lora.as_mut())
    }
}
