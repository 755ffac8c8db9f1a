//! The layout of all weights that train in a flat row, which holds gradients or moments.
//!
//! Weights of one group stand side by side, so that work by groups covers few long ranges.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use crate::model::{Decoder, Place};
use crate::nn::weight::Group;

/// Places in the network, groups, and ranges in the row of all weights that train, in the decoder's
/// order.
#[derive(Debug, Clone)]
pub(super) struct WeightGroups(Vec<(Place, Group, Range<usize>)>);

impl WeightGroups {
    /// Makes the layout of the weights of `decoder` that train.
    pub fn of(decoder: &Decoder) -> Self {
        let mut weights = Vec::new();
        // Tensors are handles, and the copy is thrown away.
        decoder.clone().visit(&mut |place, _, weight| {
            weights.push((
                place,
                weight.group(),
                0..weight.shape().into_iter().product::<usize>(),
            ));
        });
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by_key(|index| weights[*index].1);
        let mut start = 0;
        for index in order {
            let (.., stretch) = &mut weights[index];
            *stretch = start..start + stretch.len();
            start = stretch.end;
        }
        Self(weights)
    }

    /// Returns the index of the first weight at a place of the network or after it.
    pub fn first(&self, place: Place) -> usize {
        self.0.partition_point(|(other, ..)| *other < place)
    }

    /// Returns the range of a weight's numbers.
    pub fn place(&self, index: usize) -> Range<usize> {
        self.0[index].2.clone()
    }

    /// Returns groups and ranges, in the decoder's order.
    pub fn places(&self) -> impl Iterator<Item = (Group, Range<usize>)> {
        self.0
            .iter()
            .map(|(_, group, stretch)| (*group, stretch.clone()))
    }

    /// Returns a row of zeros.
    pub fn zeros(&self, device: &Device) -> Tensor<1> {
        let count: usize = self.0.iter().map(|(.., stretch)| stretch.len()).sum();
        Tensor::zeros([count], (device, DType::F32))
    }

    /// Returns the numbers of each weight, in the decoder's order.
    pub fn split(&self, row: &Tensor<1>) -> Vec<Tensor<1>> {
        self.places()
            .map(|(_, place)| row.clone().slice([place]))
            .collect()
    }

    /// The inverse of [`WeightGroups::split`].
    pub fn join(&self, numbers: Vec<Tensor<1>>, device: &Device) -> Tensor<1> {
        let placed = self.places().zip(numbers);
        placed.fold(self.zeros(device), |row, ((_, place), numbers)| {
            row.slice_assign([place], numbers)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Folder;

    #[test]
    fn places_cover_the_row_by_groups_and_numbers_come_back() {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs/qwen2/model");
        let device = Device::flex();
        let mut decoder = Folder::open(&base)
            .expect("a base")
            .load(crate::terms::ModelDtype::Auto, &device, &|_| {})
            .expect("loaded");
        decoder.train_everything();
        let layout = WeightGroups::of(&decoder);
        let mut places: Vec<_> = layout.places().collect();
        places.sort_by_key(|(_, place)| place.start);
        assert!(places.is_sorted_by_key(|(group, _)| *group), "{places:?}");
        assert!(
            places
                .windows(2)
                .all(|pair| pair[0].1.end == pair[1].1.start),
            "{places:?}"
        );
        assert_eq!(
            (places[0].1.start, places[places.len() - 1].1.end),
            (0, decoder.trainable_parameters())
        );

        let numbers = decoder.numbers();
        let back = layout.split(&layout.join(numbers.clone(), &device));
        for (index, (back, numbers)) in back.into_iter().zip(numbers).enumerate() {
            assert_eq!(layout.place(index).len(), numbers.dims()[0]);
            back.into_data().assert_eq(&numbers.into_data(), true);
        }
    }
}
