//! The numbers of a CPU tensor as a slice, without a copy where possible.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};

/// Numbers per piece of work of a thread.
pub(super) const PIECE: usize = 1 << 14;

/// Returns the numbers per piece of work of a thread, in whole rows of `width` numbers.
pub(super) fn piece_of_rows(width: usize) -> usize {
    let width = width.max(1);
    width * (PIECE / width).max(1)
}

/// Returns the tensor in row-major order: itself, or a copy of a view in another order.
pub(super) fn row_major(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// Returns the numbers of a tensor that is [`row_major`].
pub(super) fn read(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("activations are f32 on the CPU, and in row-major order here")
}

/// Returns the numbers of a tensor in row-major order, to be overwritten: in place where no other
/// handle holds them, otherwise in a copy.
pub(super) fn write(tensor: &mut FlexTensor) -> &mut [f32] {
    let count = tensor.shape().num_elements();
    if tensor.layout().contiguous_offsets() != Some((0, count))
        || tensor.storage::<f32>().len() != count
    {
        *tensor = tensor.to_contiguous();
    }
    tensor.storage_mut()
}

/// Makes a tensor of these numbers.
pub(super) fn tensor(numbers: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(numbers, shape))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::backend::ops::FloatTensorOps;

    use super::*;

    #[test]
    fn what_others_hold_is_left_alone_and_what_is_alone_is_not_copied() {
        let mut alone = tensor(vec![1.0, 2.0], [2].into());
        let place = read(&alone).as_ptr();
        write(&mut alone)[0] = 3.0;
        assert_eq!(
            (read(&alone), read(&alone).as_ptr()),
            (&[3.0, 2.0][..], place)
        );

        let mut shared = alone.clone();
        write(&mut shared)[0] = 4.0;
        assert_eq!(
            (read(&alone), read(&shared)),
            (&[3.0, 2.0][..], &[4.0, 2.0][..])
        );
    }

    #[test]
    fn views_are_put_in_row_major_order() {
        let whole = tensor(vec![1.0, 2.0, 3.0, 4.0], [2, 2].into());
        let turned = Flex::float_transpose(whole.clone());
        assert_eq!(read(&row_major(turned.clone())), [1.0, 3.0, 2.0, 4.0]);
        let mut turned = turned;
        assert_eq!(write(&mut turned), [1.0, 3.0, 2.0, 4.0]);
        let mut lower = Flex::float_slice(whole.clone(), &[(1..2).into()]);
        assert_eq!(write(&mut lower), [3.0, 4.0]);
        let mut upper = Flex::float_slice(whole, &[(0..1).into()]);
        assert_eq!(write(&mut upper), [1.0, 2.0]);
    }
}
