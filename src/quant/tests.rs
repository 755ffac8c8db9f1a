//! Tests packing against files that bitsandbytes wrote, and against its rules as written, one
//! number at a time.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;
use safetensors::SafeTensors;
use serde_json::Value;

use super::{
    Absmax, BlockSize, DYNAMIC_CODE, FourBitType, Int8, Nested, Packed, QuantError, dynamic,
};
use crate::keyed_random::{mix, unit};

const BOTH: [FourBitType; 2] = [FourBitType::Nf4, FourBitType::Fp4];

/// Returns the path of a file in tests/golden, or in the folder of the same layout that
/// `RANKINE_GOLDEN` names.
fn golden(path: &str) -> PathBuf {
    let set = std::env::var_os("RANKINE_GOLDEN").map(PathBuf::from);
    set.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))
        .join(path)
}

/// A golden file.
struct Golden(Vec<u8>);

impl Golden {
    fn read(path: &str) -> Self {
        Self(fs::read(golden(path)).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensors()
            .tensor(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .data()
            .to_vec()
    }

    fn shape(&self, name: &str) -> [usize; 2] {
        self.tensors()
            .tensor(name)
            .unwrap()
            .shape()
            .try_into()
            .unwrap()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }

    fn bf16(&self, name: &str) -> Vec<bf16> {
        self.bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|bytes| bf16::from_le_bytes(*bytes))
            .collect()
    }

    fn f16(&self, name: &str) -> Vec<f16> {
        self.bytes(name)
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f16::from_le_bytes(*bytes))
            .collect()
    }

    /// Returns the beginnings of all names with an ending; there is at least one.
    fn cases(&self, ending: &str) -> Vec<String> {
        let names = self
            .tensors()
            .names()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let cases: Vec<_> = names
            .iter()
            .filter_map(|name| name.strip_suffix(ending))
            .map(str::to_owned)
            .collect();
        assert!(!cases.is_empty(), "no tensor ends in {ending}");
        cases
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// Returns [`bits`] with both zeros as one: bitsandbytes has 0 for FP4's code 8 in one of its loops
/// and -0 in the other.
fn bits_without_sign_of_zero(numbers: &[f32]) -> Vec<u32> {
    numbers
        .iter()
        .map(|number| (number + 0.0).to_bits())
        .collect()
}

/// Checks that all parts are equal except the offset, which is within 2 units in the last place;
/// given the same offset all are equal.
fn assert_nested(absmax: &[f32], theirs: &Nested, case: &str) {
    let ours = Nested::of(absmax);
    assert!(
        ours.offset().to_bits().abs_diff(theirs.offset().to_bits()) <= 2,
        "{case}: {} {}",
        ours.offset(),
        theirs.offset()
    );
    assert_eq!(&Nested::around(theirs.offset(), absmax), theirs, "{case}");
}

fn plain(absmax: &Absmax) -> &[f32] {
    match absmax {
        Absmax::Plain(values) => values,
        Absmax::Nested(_) => panic!("it is nested"),
    }
}

#[test]
fn weights_in_4_bits_are_the_bytes_of_bitsandbytes() {
    for kind in BOTH {
        let file = Golden::read(&format!("quant/{}.safetensors", kind.name()));
        for case in file.cases(".weight") {
            let [weight, plain_case, double] =
                ["weight", "plain", "double"].map(|part| format!("{case}.{part}"));
            let (shape, numbers) = (file.shape(&weight), file.f32(&weight));
            let packed = Packed::pack(kind, BlockSize::DEFAULT, shape, &numbers).unwrap();
            let absmax = plain(packed.absmax());
            assert_eq!(
                bits(absmax),
                bits(&file.f32(&format!("{plain_case}.absmax"))),
                "{case}"
            );
            let theirs = nested_golden(&file, &double);
            assert_nested(absmax, &theirs, &case);
            assert_eq!(
                bits(&theirs.values()),
                bits(&file.f32(&format!("{double}.absmax_dequant"))),
                "{case}"
            );
            let nested = Packed::new(
                kind,
                BlockSize::DEFAULT,
                shape,
                packed.codes().to_vec(),
                Absmax::Nested(theirs),
            )
            .unwrap();
            for (packed, case) in [(&packed, plain_case), (&nested, double)] {
                assert_mode(&file, packed, &numbers, &case);
            }
        }
    }
}

fn nested_golden(file: &Golden, case: &str) -> Nested {
    assert_eq!(
        bits(&DYNAMIC_CODE),
        bits(&file.f32(&format!("{case}.nested_code")))
    );
    let offset = file.f32(&format!("{case}.offset"))[0];
    Nested::new(
        file.bytes(&format!("{case}.absmax")),
        file.f32(&format!("{case}.nested_absmax")),
        offset,
    )
    .unwrap()
}

/// Checks the codes of numbers and of their bf16, and the numbers unpacked from both.
fn assert_mode(file: &Golden, packed: &Packed, numbers: &[f32], case: &str) {
    assert_eq!(
        bits(packed.kind().code()),
        bits(&file.f32(&format!("{case}.code")))
    );
    assert!(
        packed.codes() == file.bytes(&format!("{case}.packed")),
        "{case}"
    );
    if !file.has(&format!("{case}.dequant")) {
        return;
    }
    let theirs = file.f32(&format!("{case}.dequant"));
    assert_eq!(
        bits_without_sign_of_zero(&packed.unpack()),
        bits_without_sign_of_zero(&theirs),
        "{case}"
    );
    let low: Vec<bf16> = numbers
        .iter()
        .map(|number| bf16::from_f32(*number))
        .collect();
    let low = Packed::pack(packed.kind(), packed.block_size(), packed.shape(), &low).unwrap();
    assert!(
        low.codes() == file.bytes(&format!("{case}.bf16_packed")),
        "{case}"
    );
    let low = if matches!(packed.absmax(), Absmax::Plain(_)) {
        low
    } else {
        low.nested()
    };
    let back: Vec<bf16> = low.unpack().into_iter().map(bf16::from_f32).collect();
    assert_eq!(back, file.bf16(&format!("{case}.bf16_dequant")), "{case}");
}

#[test]
fn larger_blocks_are_the_bytes_of_bitsandbytes() {
    for kind in BOTH {
        let file = Golden::read(&format!("quant/{}_blocksizes.safetensors", kind.name()));
        for case in file.cases(".packed") {
            let block_size = BlockSize::new(case[1..].parse().unwrap()).unwrap();
            let packed =
                Packed::pack(kind, block_size, file.shape("weight"), &file.f32("weight")).unwrap();
            assert!(
                packed.codes() == file.bytes(&format!("{case}.packed")),
                "{case}"
            );
            assert_eq!(
                bits(plain(packed.absmax())),
                bits(&file.f32(&format!("{case}.absmax"))),
                "{case}"
            );
        }
    }
}

#[test]
fn rows_of_int8_are_the_bytes_of_bitsandbytes() {
    let file = Golden::read("quant/int8.safetensors");
    for case in file.cases(".weight_f16") {
        let weight = format!("{case}.weight_f16");
        let packed = Int8::pack(file.shape(&weight), &file.f16(&weight)).unwrap();
        let theirs: Vec<i8> = file
            .bytes(&format!("{case}.codes"))
            .into_iter()
            .map(u8::cast_signed)
            .collect();
        assert!(packed.codes() == theirs, "{case}");
        assert_eq!(
            bits(packed.absmax()),
            bits(&file.f32(&format!("{case}.row_absmax"))),
            "{case}"
        );
        assert_eq!(
            bits(&packed.unpack()),
            bits(&file.f32(&format!("{case}.dequant"))),
            "{case}"
        );
    }
}

#[test]
fn the_dynamic_code_is_that_of_bitsandbytes_and_so_are_its_blocks() {
    let (file, weights) = (
        Golden::read("quant/int8.safetensors"),
        Golden::read("quant/nf4.safetensors"),
    );
    assert_eq!(bits(&DYNAMIC_CODE), bits(&file.f32("dynamic_code")));
    for case in file.cases(".block_codes") {
        let (codes, absmax) = dynamic::pack(&weights.f32(&format!("{case}.weight")));
        assert!(
            codes == file.bytes(&format!("{case}.block_codes")),
            "{case}"
        );
        assert_eq!(
            bits(&absmax),
            bits(&file.f32(&format!("{case}.block_absmax"))),
            "{case}"
        );
        assert_eq!(
            bits(&dynamic::unpack(&codes, &absmax)),
            bits(&file.f32(&format!("{case}.block_dequant"))),
            "{case}"
        );
    }
}

#[test]
fn a_dynamic_code_is_looked_up_by_steps() {
    // `quantize_blockwise` of the same numbers; the nearest codes are 255, 130, 124, 129 and 127.
    assert_eq!(
        dynamic::pack(&[1.0, 8e-6, -8e-6, 2e-6, 0.0]).0,
        [255, 131, 123, 131, 131]
    );
}

/// `weight.quant_state.bitsandbytes__nf4` is JSON and contains the offset.
#[test]
fn a_checkpoint_of_transformers_is_what_its_base_packs_to() {
    let base = Golden::read("archs/llama/model/model.safetensors");
    let file = Golden::read("quant/llama_nf4_double/model/model.safetensors");
    let states = file.cases(".quant_state.bitsandbytes__nf4");
    for weight in &states {
        let state = file.bytes(&format!("{weight}.quant_state.bitsandbytes__nf4"));
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(
            (&state["blocksize"], &state["nested_blocksize"]),
            (&64.into(), &Nested::BLOCK.into())
        );
        let offset = state["nested_offset"].as_f64().unwrap() as f32;
        let absmax = file.bytes(&format!("{weight}.absmax"));
        let theirs =
            Nested::new(absmax, file.f32(&format!("{weight}.nested_absmax")), offset).unwrap();
        let packed = Packed::pack(
            FourBitType::Nf4,
            BlockSize::DEFAULT,
            base.shape(weight),
            &base.f32(weight),
        )
        .unwrap();
        assert!(packed.codes() == file.bytes(weight), "{weight}");
        assert_nested(plain(packed.absmax()), &theirs, weight);
    }
}

#[test]
fn an_odd_number_shares_its_byte_with_a_zero_and_a_short_block_of_zeros_keeps_its_divisor() {
    // bitsandbytes 0.50.2 on a CPU: `quantize_4bit(torch.zeros(1, 5), blocksize=32, quant_type=..)`
    for (kind, codes) in [(FourBitType::Nf4, [119; 3]), (FourBitType::Fp4, [0; 3])] {
        let packed =
            Packed::pack(kind, BlockSize::new(32).unwrap(), [1, 5], &[0.0_f32; 5]).unwrap();
        assert_eq!(packed.codes(), codes);
        assert_eq!(bits(plain(packed.absmax())), bits(&[1e-38]));
    }
}

#[test]
fn rows_that_cannot_be_scaled_become_zeros() {
    // `int8_vectorwise_quant` of the same numbers.
    let packed = Int8::pack(
        [3, 3],
        &[0.0, 0.0, 0.0, 1e-38, 3e-39, 0.0, 3e38, 1e38, -3e38_f32],
    )
    .unwrap();
    assert_eq!(packed.codes(), [0, 0, 0, 0, 0, 0, 127, 42, -127]);
}

#[test]
fn what_is_not_finite_is_refused_with_its_place() {
    for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut numbers = vec![1.0; 300];
        numbers[201] = number;
        let place = |error| matches!(error, QuantError::NotFinite { index: 201, .. });
        assert!(BOTH.iter().all(|kind| place(
            Packed::pack(*kind, BlockSize::DEFAULT, [3, 100], &numbers).unwrap_err()
        )));
        assert!(place(Int8::pack([3, 100], &numbers).unwrap_err()));
    }
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let size = BlockSize::DEFAULT;
    let packed = |codes, absmax| {
        Packed::new(
            FourBitType::Nf4,
            size,
            [3, 43],
            vec![0; codes],
            Absmax::Plain(vec![1.0; absmax]),
        )
    };
    assert!(packed(65, 3).is_ok());
    let errors = [
        packed(64, 3).err(),
        packed(65, 2).err(),
        Nested::new(vec![0; 257], vec![1.0], 0.0).err(),
    ];
    let errors = errors.map(|error| error.expect("it is refused").to_string());
    let expected = [
        "64 bytes of 4-bit codes, expected 65",
        "2 absmax, expected 3",
        "1 nested absmax, expected 2",
    ];
    assert_eq!(errors, expected.map(|text| format!("there are {text}")));
    assert!(Int8::new([usize::MAX, 2], vec![0; 2], vec![1.0]).is_err());
    assert!(Packed::pack(FourBitType::Nf4, size, [2, 3], &[1.0_f32; 5]).is_err());
    assert!(
        [0, 16, 48, 8192]
            .iter()
            .all(|size| BlockSize::new(*size) == Err(QuantError::BlockSize { found: *size }))
    );
}

#[test]
fn nothing_packs_to_nothing() {
    for shape in [[0, 0], [0, 7], [7, 0]] {
        let packed = Packed::pack::<f32>(FourBitType::Nf4, BlockSize::DEFAULT, shape, &[])
            .unwrap()
            .nested();
        let int8 = Int8::pack::<f32>(shape, &[]).unwrap();
        assert!(
            packed.unpack().is_empty()
                && packed.absmax().values().is_empty()
                && int8.unpack().is_empty()
        );
        packed.unpack_range(0, &mut []);
        int8.unpack_range(0, &mut []);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (shape, numbers) = ([331, 517], numbers(331 * 517, 5, FourBitType::Nf4));
    let of_threads = [1, 2, 5].map(|threads| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let packed = Packed::pack(FourBitType::Nf4, BlockSize::DEFAULT, shape, &numbers)
                .unwrap()
                .nested();
            let int8 = Int8::pack(shape, &numbers).unwrap();
            (bits(&packed.unpack()), bits(&int8.unpack()), packed, int8)
        })
    });
    assert!(of_threads.iter().all(|found| *found == of_threads[0]));
}

/// Returns numbers of many sizes with runs of zeros, the largest of blocks, and numbers halfway
/// between two codes.
fn numbers(count: usize, seed: u64, kind: FourBitType) -> Vec<f32> {
    let number = |index: usize| {
        let key = seed.wrapping_mul(0x1_0000_0001).wrapping_add(index as u64);
        let group = mix(seed ^ (index as u64 / 96));
        let scale = [1.0, 0.02, 1e-30, 3e30, 1e-40][(group % 5) as usize];
        let sign = if mix(!key).is_multiple_of(2) {
            1.0
        } else {
            -1.0
        };
        scale
            * match mix(key) % 8 {
                _ if group.is_multiple_of(11) => 0.0,
                0 => 0.0,
                1 => sign,
                2 => thresholds(kind)[(mix(key ^ 1) % 15) as usize].0,
                _ => sign * unit(key ^ 2) as f32,
            }
    };
    (0..count).map(number).collect()
}

/// Returns the upper end of each code's numbers, with the code, ascending; the last one is
/// unbounded.
fn thresholds(kind: FourBitType) -> Vec<(f32, u8)> {
    let mut ascending: Vec<u8> = (0..16).collect();
    ascending.sort_by(|one, other| {
        kind.code()[usize::from(*one)].total_cmp(&kind.code()[usize::from(*other)])
    });
    let number = |rank: usize| {
        ascending
            .get(rank)
            .map(|code| kind.code()[usize::from(*code)])
    };
    let end = |rank| {
        number(rank + 1).map_or(f32::INFINITY, |next| {
            f32::midpoint(number(rank).expect("16 codes"), next)
        })
    };
    (0..16).map(|rank| (end(rank), ascending[rank])).collect()
}

/// Returns a code for each number and an absmax for each block, one after the other.
fn reference(kind: FourBitType, size: usize, numbers: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (thresholds, mut codes, mut absmax) = (thresholds(kind), Vec::new(), Vec::new());
    for block in numbers.chunks(size) {
        let largest = block
            .iter()
            .fold(0.0_f32, |largest, number| largest.max(number.abs()));
        let divisor = largest.max(1e-38);
        let whole = block.len() == size;
        absmax.push(if whole { largest } else { divisor });
        let scaled = block.iter().map(|number| {
            if whole {
                number * (1.0 / divisor)
            } else {
                number / divisor
            }
        });
        codes.extend(scaled.map(|number| {
            thresholds
                .iter()
                .find(|(end, _)| number <= *end)
                .expect("without end")
                .1
        }));
    }
    (codes, absmax)
}

/// Returns numbers of a checkpoint's type, and the same as f32.
fn in_type(
    name: &str,
    kind: FourBitType,
    size: BlockSize,
    shape: [usize; 2],
    numbers: &[f32],
) -> (Packed, Int8, Vec<f32>) {
    fn pack<T: Copy + Sync + Into<f32>>(
        kind: FourBitType,
        size: BlockSize,
        shape: [usize; 2],
        numbers: &[T],
    ) -> (Packed, Int8, Vec<f32>) {
        let packed = Packed::pack(kind, size, shape, numbers).unwrap();
        (
            packed,
            Int8::pack(shape, numbers).unwrap(),
            numbers.iter().map(|number| (*number).into()).collect(),
        )
    }
    match name {
        "f32" => pack(kind, size, shape, numbers),
        "bf16" => pack(
            kind,
            size,
            shape,
            &numbers
                .iter()
                .map(|number| bf16::from_f32(*number))
                .collect::<Vec<_>>(),
        ),
        _ => {
            let within = |number: &f32| f16::from_f32(number.clamp(-65504.0, 65504.0));
            pack(
                kind,
                size,
                shape,
                &numbers.iter().map(within).collect::<Vec<_>>(),
            )
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_shape_packs_and_unpacks_as_the_reference_does(
        shape in [0usize..30, 0usize..120],
        size in prop::sample::select(vec![32usize, 64, 128, 256, 512, 1024, 2048, 4096]),
        kind in prop::sample::select(BOTH.to_vec()),
        name in prop::sample::select(vec!["f32", "bf16", "f16"]),
        (seed, nested) in (any::<u64>(), any::<bool>()),
        ends in prop::collection::vec([0.0..=1.0f64, 0.0..=1.0f64], 4),
    ) {
        let count = shape[0] * shape[1];
        let block_size = BlockSize::new(size).unwrap();
        let numbers = numbers(count, seed, kind);
        let (packed, int8, given) = in_type(name, kind, block_size, shape, &numbers);
        let (codes, absmax) = reference(kind, size, &given);
        let zero = thresholds(kind)
            .into_iter()
            .find(|(end, _)| 0.0 <= *end)
            .expect("0 has a code")
            .1;
        let bytes: Vec<u8> = codes
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&zero))
            .collect();
        prop_assert_eq!(packed.codes(), &bytes);
        prop_assert_eq!(bits(plain(packed.absmax())), bits(&absmax));

        let packed = if nested { packed.nested() } else { packed };
        let absmax = packed.absmax().values();
        let number =
            |(index, code): (usize, &u8)| kind.code()[usize::from(*code)] * absmax[index / size];
        let of_packed: Vec<f32> = codes.iter().enumerate().map(number).collect();
        let largest = |numbers: &[f32]| {
            numbers
                .iter()
                .fold(0.0_f32, |largest, number| largest.max(number.abs()))
        };
        let of_rows: Vec<f32> = given.chunks(shape[1].max(1)).map(largest).collect();
        let of_int8: Vec<f32> = given
            .iter()
            .enumerate()
            .map(|(index, number)| {
                let absmax = of_rows[index / shape[1]];
                let factor = 1.0 / absmax * 127.0;
                let code = if factor.is_finite() {
                    (number * factor).round_ties_even()
                } else {
                    0.0
                };
                code * absmax * 0.007_874_016
            })
            .collect();
        prop_assert_eq!(bits(&packed.unpack()), bits(&of_packed));
        prop_assert_eq!(
            bits_without_sign_of_zero(&int8.unpack()),
            bits_without_sign_of_zero(&of_int8)
        );
        for ends in ends {
            let mut ends = ends.map(|end| (end * count as f64) as usize);
            ends.sort_unstable();
            let mut range = vec![f32::NAN; ends[1] - ends[0]];
            packed.unpack_range(ends[0], &mut range);
            prop_assert_eq!(bits(&range), bits(&of_packed[ends[0]..ends[1]]));
            int8.unpack_range(ends[0], &mut range);
            prop_assert_eq!(bits(&range), bits(&int8.unpack()[ends[0]..ends[1]]));
        }
    }
}
