//! Tensors to a new file, of which one at a time need be in memory.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::super::{Float, write_pieces_atomic};
use super::Error;

/// Numbers that are encoded at a time.
const PIECE: usize = 1 << 18;

/// A tensor to be written: name, shape, and its numbers row by row or what gives them.
pub type Named<N = Vec<f32>> = (String, Vec<usize>, N);

/// Writes f32 tensors as one safetensors file, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_f32(path: &Path, tensors: &[Named], metadata: &[(&str, String)]) -> Result<(), Error> {
    let lazily = tensors.iter().map(|(name, shape, numbers)| (name.clone(), shape.clone(), move || numbers));
    write_f32_lazily(path, lazily.collect(), metadata)
}

/// The same of numbers that are asked for when it is their turn, and dropped before those of the next tensor are.
///
/// # Errors
/// The file cannot be written.
pub fn write_f32_lazily<N: AsRef<[f32]>>(
    path: &Path,
    mut tensors: Vec<Named<impl FnOnce() -> N>>,
    metadata: &[(&str, String)],
) -> Result<(), Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    let header = header(&tensors, metadata).map_err(damaged)?;
    write_pieces_atomic(path, |file| {
        file.write(&header)?;
        let mut bytes = vec![0; PIECE * Float::F32.bytes()];
        for (name, shape, numbers) in tensors {
            let (numbers, expected) = (numbers(), shape.iter().product::<usize>());
            if numbers.as_ref().len() != expected {
                return Err(damaged(format!("tensor `{name}` has {} numbers, expected {expected}", numbers.as_ref().len())));
            }
            for piece in numbers.as_ref().chunks(PIECE) {
                let bytes = &mut bytes[..piece.len() * Float::F32.bytes()];
                Float::F32.encode(piece, bytes);
                file.write(bytes)?;
            }
        }
        Ok(())
    })
}

/// The library's header of the tensors in the order of their data, framed as the library does it.
fn header<N>(tensors: &[Named<N>], metadata: &[(&str, String)]) -> Result<Vec<u8>, String> {
    let mut start = 0;
    let described = tensors.iter().map(|(name, shape, _)| {
        let end = start + shape.iter().product::<usize>() * Float::F32.bytes();
        let info = TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) };
        start = end;
        (name.clone(), info)
    });
    let described = described.collect();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let metadata = Metadata::new(Some(metadata), described).map_err(|error| error.to_string())?;
    let mut text = serde_json::to_string(&metadata).map_err(|error| error.to_string())?;
    text.push_str(&" ".repeat(text.len().next_multiple_of(size_of::<u64>()) - text.len()));
    Ok([&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn a_file_is_byte_for_byte_that_of_the_library() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let tensors =
            [("b", vec![2, 3], vec![1.5; 6]), ("a.weight", vec![PIECE + 1], vec![-0.0; PIECE + 1]), ("none", vec![0], vec![])];
        let named = tensors.each_ref().map(|(name, shape, numbers)| ((*name).to_owned(), shape.clone(), numbers.clone()));
        write_f32(&path, &named, &[("format", "pt".into())]).expect("written");
        let bytes =
            tensors.each_ref().map(|(_, _, numbers)| numbers.iter().flat_map(|x: &f32| x.to_le_bytes()).collect::<Vec<u8>>());
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as long as its shape"))
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        assert!(std::fs::read(&path).expect("read") == safetensors::serialize(views, Some(metadata)).expect("serialized"));
    }

    #[test]
    fn numbers_that_are_not_those_of_the_shape_leave_no_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let error = write_f32(&path, &[("a".to_owned(), vec![3], vec![1.0; 2])], &[]).expect_err("two of three");
        assert!(error.to_string().ends_with("tensor `a` has 2 numbers, expected 3"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
