//! The end of a network that reads whole texts: final norm, and one vector for each text.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::norm::Norm;

/// Returns the mean of the normalized rows of each text, [texts, width] in f32.
///
/// # Shapes
/// `hidden` [rows, width], untracked; `texts` are ranges of its rows in order, none of them empty.
pub fn pool(norm: &Norm, hidden: &Tensor<2>, texts: &[Range<usize>]) -> Tensor<2> {
    let normed = norm.forward(hidden.clone()).cast(DType::F32);
    if texts.len() == normed.dims()[0] {
        return normed;
    }
    let means = texts
        .iter()
        .map(|text| normed.clone().slice(text.clone()).mean_dim(0));
    Tensor::cat(means.collect(), 0)
}

/// Returns the gradient of hidden rows, [rows, width], and those of the norm's vectors where they
/// train, given that of each text's vector.
///
/// # Shapes
/// As for [`pool`]; `d_vectors` [texts, width] in f32.
pub fn pool_backward(
    norm: &Norm,
    hidden: Tensor<2>,
    texts: &[Range<usize>],
    d_vectors: Tensor<2>,
) -> (Tensor<2>, Vec<Tensor<1>>) {
    let device = d_vectors.device();
    let of_rows = texts
        .iter()
        .enumerate()
        .flat_map(|(text, rows)| rows.clone().map(move |_| (text, 1.0 / rows.len() as f32)));
    let (text_of, shares): (Vec<usize>, Vec<f32>) = of_rows.unzip();
    let text_of: Vec<i32> = text_of
        .into_iter()
        .map(|text| (text as u32).cast_signed())
        .collect();
    let text_of = Tensor::<1, Int>::from_data(TensorData::from(&text_of[..]), &device);
    let shares = Tensor::<1>::from_data(TensorData::from(&shares[..]), (&device, DType::F32));
    let d_normed = d_vectors.select(0, text_of) * shares.unsqueeze_dim::<2>(1);
    let d_normed = d_normed.cast(hidden.dtype());
    if norm.trains {
        norm.gradients(hidden, d_normed)
    } else {
        (norm.backward(hidden, d_normed), Vec::new())
    }
}

/// Returns the rows of each text, given where those of each end.
pub fn runs(ends: &[usize]) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(ends.iter().copied())
        .map(|(start, end)| start..end)
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn drawn(shape: [usize; 2], step: f32) -> Tensor<2> {
        let numbers = (0..shape[0] * shape[1])
            .map(|place| (place as f32 * step).sin() + 0.2)
            .collect();
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    #[test]
    fn gradients_are_those_of_the_tape() {
        let (rows, width) = (9, 5);
        let norm = Norm {
            weight: drawn([1, width], 0.9).squeeze_dim(0),
            bias: Some(drawn([1, width], 0.3).squeeze_dim(0)),
            centers: true,
            is_fixed: false,
            epsilon: 1e-5,
            offset: 0.0,
            trains: false,
        };
        for texts in [
            vec![0..4, 4..5, 5..9],
            (0..rows).map(|at| at..at + 1).collect(),
        ] {
            let (hidden, of) = (drawn([rows, width], 0.7), drawn([texts.len(), width], 1.9));
            let leaf = hidden.clone().autodiff().require_grad();
            let tape = (pool(&norm, &leaf, &texts) * of.clone().autodiff())
                .sum()
                .backward();
            let tape = leaf.grad(&tape).expect("tracked");
            let (ours, _) = pool_backward(&norm, hidden.clone(), &texts, of);
            let off = (ours - tape).abs().max().into_data().iter::<f64>().next();
            assert!(off.is_some_and(|off| off < 2e-6), "{off:?}");
        }
    }
}
