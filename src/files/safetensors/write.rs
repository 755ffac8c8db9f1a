//! Writing of safetensors files, with one tensor in memory at a time.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::super::{FileError, Float, write_pieces_atomic};
use super::SafetensorsError;

/// Numbers that are encoded at a time.
const PIECE: usize = 1 << 18;

/// A tensor to write: name, shape, and its numbers in row-major order or a function that returns
/// them.
pub type Named<N = Vec<f32>> = (String, Vec<usize>, N);

/// Writes f32 tensors as one safetensors file, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_f32(
    path: &Path,
    tensors: &[Named],
    metadata: &[(&str, String)],
) -> Result<(), SafetensorsError> {
    let lazily = tensors
        .iter()
        .map(|(name, shape, numbers)| (name.clone(), shape.clone(), move || numbers));
    write_f32_lazily(path, lazily.collect(), metadata)
}

/// Writes tensors as [`write_f32`] does, but asks for the numbers of each one in turn and drops
/// them before the next.
///
/// # Errors
/// The file cannot be written.
pub fn write_f32_lazily<N: AsRef<[f32]>>(
    path: &Path,
    mut tensors: Vec<Named<impl FnOnce() -> N>>,
    metadata: &[(&str, String)],
) -> Result<(), SafetensorsError> {
    let damaged = |reason: String| SafetensorsError::Damaged {
        path: path.to_owned(),
        reason,
    };
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    let described = tensors
        .iter()
        .map(|(name, shape, _)| (name.clone(), Dtype::F32, shape.clone()));
    let header = header(described, metadata).map_err(damaged)?;
    write_pieces_atomic(path, |file| {
        file.write(&header)?;
        let mut bytes = vec![0; PIECE * Float::F32.bytes()];
        for (name, shape, numbers) in tensors {
            let (numbers, expected) = (numbers(), shape.iter().product::<usize>());
            if numbers.as_ref().len() != expected {
                return Err(damaged(format!(
                    "tensor `{name}` has {} numbers, expected {expected}",
                    numbers.as_ref().len()
                )));
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

/// Name, type and shape of a tensor of any type.
pub type Described = (String, Dtype, Vec<usize>);

/// Writes tensors of any types, atomically. The order is the library's: the widest type first.
/// `bytes` is called for each tensor in turn. Returns the size of the file in bytes.
///
/// # Errors
/// `bytes` fails or returns a length that does not match the shape, or the file cannot be written.
pub fn write_lazily<'a, E: From<SafetensorsError> + From<FileError>>(
    path: &Path,
    mut tensors: Vec<Described>,
    metadata: &[(&str, String)],
    mut bytes: impl FnMut(&str) -> Result<Cow<'a, [u8]>, E>,
) -> Result<u64, E> {
    let damaged = |reason: String| SafetensorsError::Damaged {
        path: path.to_owned(),
        reason,
    };
    tensors.sort_by(|left, right| (Reverse(left.1), &left.0).cmp(&(Reverse(right.1), &right.0)));
    let header = header(tensors.iter().cloned(), metadata).map_err(damaged)?;
    let mut written = header.len() as u64;
    write_pieces_atomic(path, |file| {
        file.write(&header)?;
        for (name, dtype, shape) in &tensors {
            let (content, expected) = (bytes(name)?, data_bytes(*dtype, shape));
            if content.len() != expected {
                return Err(damaged(format!(
                    "tensor `{name}` has {} bytes, expected {expected}",
                    content.len()
                ))
                .into());
            }
            content
                .chunks(PIECE)
                .try_for_each(|piece| file.write(piece))?;
            written += expected as u64;
        }
        Ok::<_, E>(())
    })?;
    Ok(written)
}

/// Returns the size of a tensor in bytes.
pub fn data_bytes(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

/// Returns the library's header for tensors in the order of their data, framed as the library does.
fn header(
    tensors: impl Iterator<Item = Described>,
    metadata: &[(&str, String)],
) -> Result<Vec<u8>, String> {
    let mut start = 0;
    let described = tensors.map(|(name, dtype, shape)| {
        let end = start + data_bytes(dtype, &shape);
        let info = TensorInfo {
            dtype,
            shape,
            data_offsets: (start, end),
        };
        start = end;
        (name, info)
    });
    let described = described.collect();
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
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
        let tensors = [
            ("b", vec![2, 3], vec![1.5; 6]),
            ("a.weight", vec![PIECE + 1], vec![-0.0; PIECE + 1]),
            ("none", vec![0], vec![]),
        ];
        let named = tensors
            .each_ref()
            .map(|(name, shape, numbers)| ((*name).to_owned(), shape.clone(), numbers.clone()));
        write_f32(&path, &named, &[("format", "pt".into())]).expect("written");
        let bytes = tensors.each_ref().map(|(_, _, numbers)| {
            numbers
                .iter()
                .flat_map(|x: &f32| x.to_le_bytes())
                .collect::<Vec<u8>>()
        });
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (
                *name,
                TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as long as its shape"),
            )
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        assert!(
            std::fs::read(&path).expect("read")
                == safetensors::serialize(views, Some(metadata)).expect("serialized")
        );
    }

    #[test]
    fn tensors_of_several_types_lie_as_the_library_lays_them() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let tensors = [
            ("c", Dtype::U8, vec![3]),
            ("b", Dtype::F32, vec![2]),
            ("a", Dtype::BF16, vec![1, 3]),
            ("d", Dtype::F32, vec![1]),
        ];
        let bytes = |dtype, shape: &[usize]| vec![7; data_bytes(dtype, shape)];
        let described = tensors
            .iter()
            .map(|(name, dtype, shape)| ((*name).to_owned(), *dtype, shape.clone()))
            .collect();
        let of = |name: &str| {
            let (_, dtype, shape) = tensors
                .iter()
                .find(|(other, ..)| *other == name)
                .expect("one of them");
            Ok::<_, SafetensorsError>(Cow::Owned(bytes(*dtype, shape)))
        };
        let written =
            write_lazily(&path, described, &[("format", "pt".into())], of).expect("written");
        let data: Vec<_> = tensors
            .iter()
            .map(|(_, dtype, shape)| bytes(*dtype, shape))
            .collect();
        let views = tensors
            .iter()
            .zip(&data)
            .map(|((name, dtype, shape), bytes)| {
                (
                    *name,
                    TensorView::new(*dtype, shape.clone(), bytes).expect("as long as its shape"),
                )
            });
        let expected =
            safetensors::serialize(views, Some([("format".to_owned(), "pt".to_owned())].into()))
                .expect("serialized");
        assert!(
            std::fs::read(&path).expect("read") == expected && written == expected.len() as u64
        );
    }

    #[test]
    fn numbers_that_are_not_those_of_the_shape_leave_no_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        let error = write_f32(&path, &[("a".to_owned(), vec![3], vec![1.0; 2])], &[])
            .expect_err("two of three");
        assert!(
            error
                .to_string()
                .ends_with("tensor `a` has 2 numbers, expected 3"),
            "{error}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
