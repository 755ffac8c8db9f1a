use super::*;

/// Blocks and numbers that `tests/golden/make_blocks.py` made.
macro_rules! golden {
    ($name:literal, $part:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/blocks/",
            $name,
            ".",
            $part
        ))
    };
}

macro_rules! goldens {
    ($($format:ident $name:literal),* $(,)?) => {
        [$((
            BlockFormat::$format,
            golden!($name, "blocks").as_slice(),
            golden!($name, "unpacked").as_slice(),
            golden!($name, "quantized").as_slice(),
        )),*]
    };
}

type Golden = (BlockFormat, &'static [u8], &'static [u8], &'static [u8]);

const GOLDENS: [Golden; 13] = goldens![
    Q8_0 "q8_0",
    Q4_0 "q4_0",
    Q4_1 "q4_1",
    Q5_0 "q5_0",
    Q5_1 "q5_1",
    Q2K "q2_k",
    Q3K "q3_k",
    Q4K "q4_k",
    Q5K "q5_k",
    Q6K "q6_k",
    Iq4Nl "iq4_nl",
    Iq4Xs "iq4_xs",
    Mxfp4 "mxfp4",
];

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}

/// Returns the bits of numbers; those of a NaN are of no matter.
fn bits(numbers: &[f32]) -> Vec<Option<u32>> {
    let bits = |number: &f32| (!number.is_nan()).then(|| number.to_bits());
    numbers.iter().map(bits).collect()
}

#[test]
fn formats_have_the_sizes_and_numbers_of_ggml() {
    for format in BlockFormat::ALL {
        assert_eq!(BlockFormat::of_ggml(format.ggml()), Some(format));
    }
    assert_eq!(BlockFormat::of_ggml(0), None);
    let ids: Vec<u32> = BlockFormat::ALL.map(BlockFormat::ggml).to_vec();
    assert_eq!(ids, [8, 2, 3, 6, 7, 10, 11, 12, 13, 14, 20, 23, 39]);
}

#[test]
fn blocks_are_unpacked_as_gguf_py_does() {
    for (format, blocks, unpacked, _) in GOLDENS {
        let expected = floats(unpacked);
        let mut numbers = vec![7.0; expected.len()];
        format.unpack(blocks, &mut numbers);
        assert_eq!(bits(&numbers), bits(&expected), "{format}");
        let rows = [expected.len() / 256, 256];
        let weight = Blocks::new(format, rows, blocks.to_vec()).expect("whole blocks");
        assert_eq!(bits(&weight.unpack()), bits(&expected), "{format}");
        for (start, count) in [(0, 1), (31, 2), (5, 300), (33, 31), (255, 34), (64, 64)] {
            let mut run = vec![7.0; count];
            weight.unpack_range(start, &mut run);
            assert_eq!(bits(&run), bits(&expected[start..][..count]), "{format}");
        }
    }
}

#[test]
fn numbers_are_quantized_as_ggml_does() {
    let numbers = floats(golden!("numbers", "f32"));
    for (format, _, _, expected) in GOLDENS {
        let rows = [numbers.len() / 256, 256];
        let weight = Blocks::pack(format, rows, &numbers).expect("finite");
        let (ours, theirs) = (
            weight.bytes().chunks(format.bytes()),
            expected.chunks(format.bytes()),
        );
        assert_eq!(ours.len(), theirs.len(), "{format}");
        for (block, (ours, theirs)) in ours.zip(theirs).enumerate() {
            assert_eq!(ours, theirs, "block {block} of {format}");
        }
    }
}

#[test]
fn what_has_no_blocks_is_refused() {
    for format in BlockFormat::ALL {
        let refused = Blocks::new(format, [2, 33], vec![0; 100]).expect_err("no whole rows");
        assert_eq!(
            refused,
            QuantError::Rows {
                format,
                columns: 33
            }
        );
        assert!(Blocks::new(format, [1, 256], vec![0; format.bytes() + 1]).is_err());
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut numbers = vec![1.0; 128 * 256];
            numbers[100 * 256 + 3] = wrong;
            numbers[101 * 256] = wrong;
            let refused = Blocks::pack(format, [128, 256], &numbers).expect_err("not finite");
            let index = 100 * 256 + 3;
            assert!(
                matches!(refused, QuantError::NotFinite { index: found, .. } if found == index),
                "{refused}"
            );
        }
        let mut numbers = vec![1.0; 256];
        numbers[40] = 3e38;
        let refused = Blocks::pack(format, [1, 256], &numbers);
        assert_eq!(refused.is_err(), format != BlockFormat::Mxfp4, "{format}");
    }
}

#[test]
fn a_quantized_weight_is_near_and_is_found_again() {
    for format in BlockFormat::ALL {
        let numbers: Vec<f32> = (0..2048).map(|place| (place as f32 * 0.37).sin()).collect();
        let weight = Blocks::pack(format, [4, 512], &numbers).expect("finite");
        let unpacked = weight.unpack();
        let square = |(one, other): (&f32, &f32)| f64::from(one - other).powi(2);
        let squares: f64 = numbers.iter().zip(&unpacked).map(square).sum();
        let error = (squares / 2048.0).sqrt();
        let most = match format {
            BlockFormat::Q8_0 => 0.003,
            BlockFormat::Q6K => 0.015,
            BlockFormat::Q5_0 | BlockFormat::Q5_1 | BlockFormat::Q5K => 0.03,
            BlockFormat::Q3K => 0.12,
            BlockFormat::Q2K => 0.25,
            BlockFormat::Mxfp4 => 0.15,
            _ => 0.07,
        };
        assert!(error < most, "{format}: {error}");
    }
}
