//! One decoder block.

use burn::tensor::Tensor;

use super::block_io::{BlockInput, BlockOutput};
use super::frame::{BlockPlace, Frame, LastRows, Site};
use super::layout::Names;
use super::mixer::Mixer;
use super::mlp::Mlp;
use super::past::Past;
use super::per_layer::PerLayer;
use super::spec::{LayerSpec, MixerSpec, NormPlacement};
use crate::nn::experts::Load;
use crate::nn::footprint::{ProjectionGroup, RowShape, TrainedMaps};
use crate::nn::norm::Norm;
use crate::nn::projection::Projection;
use crate::nn::weight::Weight;

/// x + s norm(attention(norm(x))), then x + s norm(mlp(norm(x))). A family has some of the norms,
/// and most have s = 1. In some the norm is that of the sum. In a parallel block the feed-forward
/// does not see what attention added. Some add for each token what an input of its own gives, and
/// multiply the sum by a number.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) spec: LayerSpec,
    pub(super) names: Names,
    pub(super) place: BlockPlace,
    /// The norms before attention, after it, before the feed-forward, and after it.
    pub(super) norms: [Option<Norm>; 4],
    pub(super) mixer: Mixer,
    pub(super) mlp: Mlp,
    pub(super) per_layer: Option<Box<PerLayer>>,
    /// The factor of the output.
    pub(super) scalar: Option<f32>,
}

impl Block {
    /// Computes the block.
    ///
    /// # Shapes
    /// The stream is [1, tokens, width], and so is the result; the last block gives only the rows
    /// that the frame asks for.
    pub fn forward(&self, input: impl Into<BlockInput>, frame: &Frame) -> BlockOutput {
        self.advance(input.into(), frame, None)
    }

    /// Returns the index of the block, counted from the bottom.
    pub fn index(&self) -> usize {
        self.place.layer
    }

    /// Returns the index of the lower block whose keys and values this one uses.
    pub fn source(&self) -> Option<usize> {
        self.spec.mixer.source()
    }

    /// Computes the block for tokens that follow on those in `past`, and adds their keys and values
    /// to it.
    pub(super) fn advance(
        &self,
        input: BlockInput,
        frame: &Frame,
        past: Option<&mut Past>,
    ) -> BlockOutput {
        let BlockInput {
            stream: x,
            mut per_layer,
            key_values: lent,
        } = input;
        let [before_attention, after_attention, before_mlp, after_mlp] =
            self.norms.each_ref().map(Option::as_ref);
        let is_parallel = self.spec.norms.is_parallel();
        let seen = normed(before_attention, x.clone());
        let (mut mixed, key_values) = self.mixer.mix(seen.clone(), lent, self.place, frame, past);
        // What the feed-forward sees where it does not wait for attention.
        let mut beside = is_parallel.then(|| {
            if before_mlp.is_some() {
                x.clone()
            } else {
                seen
            }
        });
        let (mut x, wanted) = (x, frame.last_rows_of(self.place.layer));
        let at = |of: Tensor<3>, rows: &LastRows| of.select(1, rows.places.clone());
        if let Some(rows) = wanted.filter(|rows| !rows.at_end) {
            (x, mixed, beside) = (
                at(x, rows),
                at(mixed, rows),
                beside.map(|beside| at(beside, rows)),
            );
            per_layer = per_layer.map(|input| at(input, rows));
        }
        let mask = |site| frame.mask(self.place.layer, site);
        let of_output = mask(Site::AttentionOutput);
        let x = self.add(x, after_attention, |onto| {
            let output = self.mixer.output();
            (
                match onto {
                    Some(onto) => output.forward_onto(onto, mixed, of_output.as_ref()),
                    None => output.forward(mixed, of_output.as_ref()),
                },
                None,
            )
        });
        let (x, _) = x;
        let inner = normed(before_mlp, beside.unwrap_or_else(|| x.clone()));
        let masks = [mask(Site::MlpInput), mask(Site::MlpOutput)];
        let (x, load) = match &self.mlp {
            Mlp::GatedAndExperts(both) => {
                let of_experts = [mask(Site::ExpertInput), mask(Site::ExpertOutput)];
                let (y, load) = both.forward(inner, x.clone(), [masks, of_experts]);
                let sum = |onto: Option<Tensor<3>>| match onto {
                    Some(onto) => (onto + y, None),
                    None => (y, None),
                };
                (self.add(x, after_mlp, sum).0, Some(load))
            }
            mlp => self.add(x, after_mlp, |onto| {
                mlp.forward(inner, onto, masks.each_ref().map(Option::as_ref))
            }),
        };
        let x = match (&self.per_layer, per_layer) {
            (Some(maps), Some(input)) => {
                let masks = [mask(Site::PerLayerInput), mask(Site::PerLayerOutput)];
                x.clone() + maps.forward(x, input, masks.each_ref().map(Option::as_ref))
            }
            _ => x,
        };
        let x = match self.scalar {
            Some(scalar) => x.mul_scalar(scalar),
            None => x,
        };
        BlockOutput {
            stream: match wanted.filter(|rows| rows.at_end) {
                Some(rows) => at(x, rows),
                None => x,
            },
            load,
            key_values,
        }
    }

    /// Adds the output of attention or feed-forward to the residual stream, normalized and scaled
    /// where the family does so.
    fn add(
        &self,
        onto: Tensor<3>,
        norm: Option<&Norm>,
        give: impl FnOnce(Option<Tensor<3>>) -> (Tensor<3>, Option<Load>),
    ) -> (Tensor<3>, Option<Load>) {
        let scale = self.spec.residual_scale;
        let is_plain = scale.to_bits() == 1_f64.to_bits();
        let is_of_sums = self.spec.norms.is_of_sums();
        if is_plain && (norm.is_none() || is_of_sums) {
            let (sum, load) = give(Some(onto));
            return (normed(norm, sum), load);
        }
        let (y, load) = give(None);
        let y = normed(norm, y);
        (onto + if is_plain { y } else { y.mul_scalar(scale) }, load)
    }

    /// Returns the block with every weight that trains as a leaf of a new tape; frozen weights stay
    /// constants.
    #[must_use]
    pub fn tracked(&self) -> Self {
        let mut block = self.clone();
        block.visit(&mut |_, weight| weight.track());
        block
    }

    /// Visits the weights that train, with their names.
    pub fn visit(&mut self, visit: &mut dyn FnMut(&str, Weight)) {
        self.mixer
            .projections_mut()
            .into_iter()
            .for_each(|projection| projection.visit(visit));
        self.mixer.visit_own(visit);
        self.mlp.visit(visit);
        if let Some(per_layer) = &mut self.per_layer {
            per_layer.visit(visit);
        }
        self.norms_mut()
            .for_each(|(name, norm)| norm.visit(&name, visit));
    }

    /// Whether any weight of the block trains.
    pub fn trains(&self) -> bool {
        self.projections()
            .any(|projection| projection.trains || projection.lora.is_some())
    }

    /// Marks whether its own weights train.
    pub(super) fn set_trains(&mut self, trains: bool) {
        self.mixer
            .projections_mut()
            .into_iter()
            .for_each(|projection| projection.trains = trains);
        self.mixer.set_own_trains(trains);
        self.mlp.set_trains(trains);
        if let Some(per_layer) = &mut self.per_layer {
            per_layer.set_trains(trains);
        }
        self.norms_mut().for_each(|(_, norm)| norm.trains = trains);
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = (String, &mut Norm)> {
        let (layer, names) = (self.place.layer, &self.names);
        let of_stream = names
            .of_norms(self.spec.norms)
            .map(|name| name.map(|name| names.in_layer(layer, name)));
        let of_heads = match &self.spec.mixer {
            MixerSpec::Grouped(_) => names.query_key_norms(layer),
            MixerSpec::Latent(_) => names.latent_norms(layer),
            MixerSpec::Convolution(_) => [String::new(), String::new()],
            MixerSpec::Recurrent(recurrent) => ["norm", ""]
                .map(|norm| names.in_layer(layer, &format!("{}.{norm}", recurrent.module))),
        };
        let of_stream = of_stream
            .into_iter()
            .zip(self.norms.iter_mut().map(Option::as_mut));
        let of_heads = of_heads.into_iter().map(Some).zip(self.mixer.norms_mut());
        of_stream
            .chain(of_heads)
            .filter_map(|(name, norm)| Some((name?, norm?)))
    }

    /// Returns the projections in checkpoint order.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.mixer
            .projections()
            .into_iter()
            .chain(self.mlp.projections())
            .chain(self.per_layer.iter().flat_map(|input| &input.maps))
    }

    /// Returns the projections in checkpoint order.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = &mut Projection> {
        self.mixer
            .projections_mut()
            .into_iter()
            .chain(self.mlp.projections_mut())
            .chain(self.per_layer.iter_mut().flat_map(|input| &mut input.maps))
    }
}

impl LayerSpec {
    /// Returns the bytes that a block's tape holds for its backward in addition to its input, which
    /// the first norm keeps. Sums onto the stream keep nothing.
    pub fn saved_bytes(&self, width: usize, rows: RowShape, maps: TrainedMaps) -> u64 {
        let [_, of_input] = self.split_input(maps);
        let groups = self.groups(width, rows, maps);
        let [of_mixer, _] = groups.map(|groups| {
            groups
                .map(|group| group.saved_bytes(rows))
                .into_iter()
                .sum::<u64>()
        });
        let after_norms = match self.norms {
            NormPlacement::PreAndPost | NormPlacement::Post | NormPlacement::Sum => 2,
            NormPlacement::FirstSum => 1,
            _ => 0,
        };
        let scaled: u64 = groups
            .as_flattened()
            .iter()
            .map(|group| group.scaled_bytes(rows))
            .sum();
        of_mixer
            + self.mixer.saved_bytes(rows)
            + rows.bytes(after_norms * width as u64)
            + scaled
            + self.mlp_saved_bytes(width, rows, groups[1])
            + self.input_saved_bytes(width as u64, rows, of_input)
    }

    /// Returns the peak bytes of a forward without a tape, in addition to the input: a norm of it,
    /// and attention or the feed-forward. Outputs that magnitudes scale count twice.
    pub fn forward_bytes(&self, width: usize, rows: RowShape, maps: TrainedMaps) -> u64 {
        let width = width as u64;
        let most = self
            .mlp
            .computed_bytes(width, rows)
            .max(self.mixer.computed_bytes(rows));
        rows.bytes(width) + most + self.most_scaled_bytes(width as usize, rows, maps)
    }

    /// Returns the peak bytes of a backward in addition to the tape.
    ///
    /// While the tape is whole there are the block's output, what was added to it, its gradient,
    /// and the tiles of attention's result, which the allocator has not given back. The gradient of
    /// the gated unit takes the place of its result, except for what dropout makes of it. When
    /// backward reaches attention, the feed-forward is gone from the tape, and there are the
    /// gradients of x and of attention's result, those of queries, keys and values in tiles, and
    /// one of them as a whole.
    pub fn backward_bytes(&self, width: usize, rows: RowShape, maps: TrainedMaps) -> u64 {
        let (stream, [_, of_mlp]) = (rows.bytes(width as u64), self.groups(width, rows, maps));
        let whole =
            3 * stream + self.mixer.query_bytes(rows) + self.mlp.beside_bytes(width as u64, rows);
        let dropped = if rows.drops {
            stream + self.mlp.gate_up_bytes(rows)
        } else {
            0
        };
        // Of what is scaled: its gradient, that of what it was before, and both sides' product,
        // which becomes that of the magnitudes.
        let scaled = 3 * self.most_scaled_bytes(width, rows, maps);
        let attention = stream + self.mixer.computed_bytes(rows) + self.mixer.scratch_bytes(rows);
        whole
            .max(dropped + scaled)
            .max(attention.saturating_sub(self.mlp_saved_bytes(width, rows, of_mlp)))
    }

    /// Returns the bytes of its keys and values.
    pub fn key_value_bytes(&self, rows: RowShape) -> u64 {
        self.mixer.key_value_bytes(rows)
    }

    /// Returns the bytes of the widest of the block's tensors.
    pub fn widest_bytes(&self, rows: RowShape) -> u64 {
        self.mlp.gate_up_bytes(rows)
    }

    /// Returns the bytes of x after attention, which the second norm keeps, and of what the
    /// feed-forward and its projections keep.
    fn mlp_saved_bytes(&self, width: usize, rows: RowShape, groups: [ProjectionGroup; 2]) -> u64 {
        let of_projections: u64 = groups.iter().map(|group| group.saved_bytes(rows)).sum();
        rows.bytes(width as u64) + of_projections + self.mlp.saved_bytes(width as u64, rows)
    }

    /// Splits off the maps of the layer's own input.
    fn split_input<'a>(&self, maps: TrainedMaps<'a>) -> [TrainedMaps<'a>; 2] {
        maps.split_at(self.mixer_maps() + self.mlp_maps())
    }

    /// Returns the bytes that the layer's own input and its factor keep.
    fn input_saved_bytes(&self, width: u64, rows: RowShape, maps: TrainedMaps) -> u64 {
        self.per_layer_input
            .map_or(0, |input| input.saved_bytes(width, rows, maps))
    }

    /// Returns the most bytes of outputs that magnitudes scale at once.
    fn most_scaled_bytes(&self, width: usize, rows: RowShape, maps: TrainedMaps) -> u64 {
        let groups = self.groups(width, rows, maps);
        groups
            .as_flattened()
            .iter()
            .map(|group| group.scaled_bytes(rows))
            .max()
            .unwrap_or(0)
    }

    /// Returns the projections of attention and of the feed-forward, grouped by input.
    fn groups(&self, width: usize, rows: RowShape, maps: TrainedMaps) -> [[ProjectionGroup; 2]; 2] {
        let [maps, _] = self.split_input(maps);
        let [of_mixer, of_mlp] = maps.split_at(self.mixer_maps());
        [
            self.mixer.groups(width as u64, rows, of_mixer),
            self.mlp.groups(width as u64, of_mlp),
        ]
    }
}

fn normed(norm: Option<&Norm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
