//! Weights that were packed by bitsandbytes when they were saved, in the format of transformers
//! 4.36 and later.
//!
//! Beside `weight` stand `weight.absmax`, `weight.quant_map`, with double quantization
//! `weight.nested_absmax` and `weight.nested_quant_map`, and the JSON
//! `weight.quant_state.bitsandbytes__nf4`; for int8 `SCB`, the absmax of the rows.
//!
//! Source: `QuantState.as_dict` and `Linear8bitLt._save_to_state_dict` of
//! <https://github.com/bitsandbytes-foundation/bitsandbytes>, `bitsandbytes/functional.py` and
//! `bitsandbytes/nn/modules.py`.

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::files::Float;
use crate::files::safetensors::Described;
use crate::quant::{
    Absmax, BlockSize, DYNAMIC_CODE, FourBitType, Int8, Nested, Packed, QuantFormat, Quantized,
};

/// Last name of the state of 4-bit weights, before the kind.
const STATE: &str = "quant_state.bitsandbytes__";
/// The kinds of 4-bit weights.
const KINDS: [FourBitType; 2] = [FourBitType::Nf4, FourBitType::Fp4];
/// Names of a layer's int8 absmax and of its memory layout; only the layout by rows, 0, is known.
const SCB: &str = "SCB";
const WEIGHT_FORMAT: &str = "weight_format";

/// The parts of a packed weight, found by their names.
pub(super) enum QuantizedParts<'a> {
    FourBit {
        kind: FourBitType,
        block_size: BlockSize,
        codes: &'a [u8],
        absmax: AbsmaxPart<'a>,
    },
    Int8 {
        codes: &'a [u8],
        absmax: &'a [u8],
    },
}

/// The absmax of blocks, as parts.
pub(super) enum AbsmaxPart<'a> {
    Plain(&'a [u8]),
    Nested {
        codes: &'a [u8],
        absmax: &'a [u8],
        offset: f32,
    },
}

/// Bytes of a state in a file, padded with blanks: its length must be known before the weight is
/// packed.
const STATE_BYTES: usize = 256;

impl<'a> QuantizedParts<'a> {
    /// Finds the parts of the weight `name` [out, in]; `None` where it is not packed.
    pub fn find(
        bytes: impl Fn(&str) -> Option<&'a [u8]>,
        name: &str,
        shape: [usize; 2],
    ) -> Option<Result<Self, String>> {
        let numbers = || {
            let numbers = shape[0]
                .checked_mul(shape[1])
                .filter(|numbers| *numbers > 0);
            numbers.ok_or_else(|| format!("config.json gives it the shape {shape:?}"))
        };
        let state = |kind: &FourBitType| {
            bytes(&format!("{name}.{STATE}{}", kind.name())).map(|state| (*kind, state))
        };
        if let Some((kind, state)) = KINDS.iter().find_map(state) {
            return Some(
                numbers().and_then(|numbers| {
                    Self::four_bit(&bytes, name, (shape, numbers), kind, state)
                }),
            );
        }
        let module = name.strip_suffix(".weight")?;
        let absmax = bytes(&format!("{module}.{SCB}"))?;
        let is_in_rows = bytes(&format!("{module}.{WEIGHT_FORMAT}"))
            .is_none_or(|format| format.iter().all(|byte| *byte == 0));
        let (codes, numbers) = match (bytes(name)?, numbers()) {
            (codes, Ok(numbers)) => (codes, numbers),
            (_, Err(fault)) => return Some(Err(fault)),
        };
        Some(if !is_in_rows {
            Err(format!(
                "`{module}.{WEIGHT_FORMAT}` is not that of rows, which is 0"
            ))
        } else if codes.len() != numbers || absmax.len() != shape[0] * size_of::<f32>() {
            Err(format!(
                "it has {} codes and {} bytes of {SCB}, expected those of {shape:?}",
                codes.len(),
                absmax.len()
            ))
        } else {
            Ok(Self::Int8 { codes, absmax })
        })
    }

    fn four_bit(
        bytes: &impl Fn(&str) -> Option<&'a [u8]>,
        name: &str,
        (shape, numbers): ([usize; 2], usize),
        kind: FourBitType,
        state: &[u8],
    ) -> Result<Self, String> {
        let part = |end: &str| {
            bytes(&format!("{name}.{end}")).ok_or_else(|| format!("`{name}.{end}` is missing"))
        };
        let state: Value = serde_json::from_slice(state)
            .map_err(|error| format!("its state is not JSON: {error}"))?;
        let expect = |key: &str, expected: Value| {
            if state[key] == expected {
                Ok(())
            } else {
                Err(format!(
                    "its `{key}` is `{}`, expected `{expected}`",
                    state[key]
                ))
            }
        };
        expect("quant_type", json!(kind.name()))?;
        expect("shape", json!(shape))?;
        let block_size = state["blocksize"]
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(0);
        let block_size = BlockSize::new(block_size).map_err(|error| error.to_string())?;
        same_code(part("quant_map")?, kind.code(), "quant_map")?;
        let codes = bytes(name).unwrap_or_default();
        let blocks = numbers.div_ceil(block_size.numbers());
        let absmax = match bytes(&format!("{name}.nested_absmax")) {
            None => AbsmaxPart::Plain(part("absmax")?),
            Some(nested) => {
                expect("nested_blocksize", json!(Nested::BLOCK))?;
                same_code(part("nested_quant_map")?, &DYNAMIC_CODE, "nested_quant_map")?;
                let offset = state["nested_offset"]
                    .as_f64()
                    .ok_or("it has no `nested_offset`")? as f32;
                AbsmaxPart::Nested {
                    codes: part("absmax")?,
                    absmax: nested,
                    offset,
                }
            }
        };
        let (found, expected) = match &absmax {
            AbsmaxPart::Plain(absmax) => (
                [codes.len(), absmax.len(), 0],
                [numbers.div_ceil(2), 4 * blocks, 0],
            ),
            AbsmaxPart::Nested {
                codes: of_blocks,
                absmax,
                ..
            } => (
                [codes.len(), of_blocks.len(), absmax.len()],
                [
                    numbers.div_ceil(2),
                    blocks,
                    4 * blocks.div_ceil(Nested::BLOCK),
                ],
            ),
        };
        if found != expected {
            return Err(format!(
                "its codes, absmax and nested absmax have {found:?} bytes, expected {expected:?}"
            ));
        }
        Ok(Self::FourBit {
            kind,
            block_size,
            codes,
            absmax,
        })
    }

    /// Returns the format of the weight.
    pub fn form(&self) -> QuantFormat {
        match self {
            Self::FourBit {
                kind,
                block_size,
                absmax,
                ..
            } => {
                let double_quant = matches!(absmax, AbsmaxPart::Nested { .. });
                QuantFormat::FourBit {
                    kind: *kind,
                    block_size: *block_size,
                    double_quant,
                }
            }
            Self::Int8 { .. } => QuantFormat::Int8,
        }
    }

    /// Reads the weight [out, in].
    pub fn read(&self, shape: [usize; 2]) -> Quantized {
        const FITS: &str = "the parts were measured";
        match self {
            Self::FourBit {
                kind,
                block_size,
                codes,
                absmax,
            } => {
                let absmax = match absmax {
                    AbsmaxPart::Plain(absmax) => Absmax::Plain(floats(absmax)),
                    AbsmaxPart::Nested {
                        codes,
                        absmax,
                        offset,
                    } => Absmax::Nested(
                        Nested::new(codes.to_vec(), floats(absmax), *offset).expect(FITS),
                    ),
                };
                Quantized::FourBit(
                    Packed::new(*kind, *block_size, shape, codes.to_vec(), absmax).expect(FITS),
                )
            }
            Self::Int8 { codes, absmax } => {
                let codes = codes.iter().map(|code| code.cast_signed()).collect();
                Quantized::Int8(Int8::new(shape, codes, floats(absmax)).expect(FITS))
            }
        }
    }
}

/// Whether a tensor is a part of a packed weight, by its name.
pub(super) fn is_part(name: &str) -> bool {
    let of_weight = name.rsplit_once(".weight.").map(|(_, part)| part);
    let four_bit = |part: &str| {
        ["absmax", "quant_map", "nested_absmax", "nested_quant_map"].contains(&part)
            || part
                .strip_prefix(STATE)
                .is_some_and(|kind| KINDS.iter().any(|known| known.name() == kind))
    };
    of_weight.is_some_and(four_bit)
        || [SCB, WEIGHT_FORMAT]
            .iter()
            .any(|part| name.rsplit('.').next() == Some(part))
}

/// Returns the parts of a weight `name` [out, in] in a format, as a file has them.
pub(super) fn described(name: &str, shape: [usize; 2], form: QuantFormat) -> Vec<Described> {
    let (numbers, part) = (shape.into_iter().product::<usize>(), |end: &str| {
        format!("{name}.{end}")
    });
    match form {
        QuantFormat::FourBit {
            kind,
            block_size,
            double_quant,
        } => {
            let blocks = numbers.div_ceil(block_size.numbers());
            let mut parts = vec![
                (name.to_owned(), Dtype::U8, vec![numbers.div_ceil(2), 1]),
                (
                    part("absmax"),
                    if double_quant { Dtype::U8 } else { Dtype::F32 },
                    vec![blocks],
                ),
                (part("quant_map"), Dtype::F32, vec![kind.code().len()]),
                (
                    part(&format!("{STATE}{}", kind.name())),
                    Dtype::U8,
                    vec![STATE_BYTES],
                ),
            ];
            if double_quant {
                parts.push((
                    part("nested_absmax"),
                    Dtype::F32,
                    vec![blocks.div_ceil(Nested::BLOCK)],
                ));
                parts.push((
                    part("nested_quant_map"),
                    Dtype::F32,
                    vec![DYNAMIC_CODE.len()],
                ));
            }
            parts
        }
        QuantFormat::Int8 => {
            let module = module_of(name);
            vec![
                (name.to_owned(), Dtype::I8, shape.to_vec()),
                (format!("{module}.{SCB}"), Dtype::F32, vec![shape[0]]),
                (format!("{module}.{WEIGHT_FORMAT}"), Dtype::U8, Vec::new()),
            ]
        }
        QuantFormat::Blocks(_) => unreachable!("{OF_GGUF}"),
    }
}

/// Returns the bytes of a part that is the same for every weight of its format; `None` for the
/// others.
pub(super) fn constant(part: &str, form: QuantFormat) -> Option<Vec<u8>> {
    let bytes = |numbers: &[f32]| {
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    };
    match (form, part.rsplit('.').next()?) {
        (QuantFormat::FourBit { kind, .. }, "quant_map") => Some(bytes(kind.code())),
        (QuantFormat::FourBit { .. }, "nested_quant_map") => Some(bytes(&DYNAMIC_CODE)),
        (QuantFormat::Int8, WEIGHT_FORMAT) => Some(vec![0]),
        _ => None,
    }
}

/// Returns the bytes of one of the other parts of a weight `name`, whose numbers had this type.
pub(super) fn bytes(part: &str, name: &str, weight: &Quantized, float: Float) -> Vec<u8> {
    let bytes = |numbers: &[f32]| {
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    };
    match weight {
        Quantized::FourBit(packed) => {
            match (part.strip_prefix(name).unwrap_or(part), packed.absmax()) {
                ("", _) => packed.codes().to_vec(),
                (".absmax", Absmax::Plain(absmax)) => bytes(absmax),
                (".absmax", Absmax::Nested(nested)) => nested.codes().to_vec(),
                (".nested_absmax", Absmax::Nested(nested)) => bytes(nested.absmax()),
                _ => state(packed, float),
            }
        }
        Quantized::Int8(packed) => match part.strip_prefix(module_of(name)).unwrap_or(part) {
            ".SCB" => bytes(packed.absmax()),
            _ => packed
                .codes()
                .iter()
                .map(|code| code.cast_unsigned())
                .collect(),
        },
        Quantized::Blocks(_) => unreachable!("{OF_GGUF}"),
    }
}

const OF_GGUF: &str = "blocks of ggml are refused before files of bitsandbytes are written";

fn state(packed: &Packed, float: Float) -> Vec<u8> {
    let mut state = json!({
        "quant_type": packed.kind().name(),
        "blocksize": packed.block_size().numbers(),
        "dtype": float.torch_name(),
        "shape": packed.shape(),
    });
    if let Absmax::Nested(nested) = packed.absmax() {
        state["nested_blocksize"] = json!(Nested::BLOCK);
        state["nested_dtype"] = json!("float32");
        state["nested_offset"] = json!(f64::from(nested.offset()));
    }
    let mut state = state.to_string().into_bytes();
    assert!(state.len() <= STATE_BYTES, "a state has a few numbers");
    state.resize(STATE_BYTES, b' ');
    state
}

/// Returns the entry of config.json for weights packed in this format: transformers'
/// `BitsAndBytesConfig`. `computed` is the compute type; a head is packed only if no module is
/// excepted.
pub(super) fn config(form: QuantFormat, packs_head: bool, computed: Float) -> Value {
    let skipped = if packs_head { json!([]) } else { Value::Null };
    let is_int8 = form == QuantFormat::Int8;
    let mut config = json!({
        "_load_in_4bit": !is_int8,
        "_load_in_8bit": is_int8,
        "bnb_4bit_compute_dtype": computed.torch_name(),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": false,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": !is_int8,
        "load_in_8bit": is_int8,
        "quant_method": "bitsandbytes",
    });
    if let QuantFormat::FourBit {
        kind, double_quant, ..
    } = form
    {
        config["bnb_4bit_quant_type"] = json!(kind.name());
        config["bnb_4bit_use_double_quant"] = json!(double_quant);
    }
    config
}

fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

/// Checks that two codes are the same; both zeros of FP4 count as one.
fn same_code(bytes: &[u8], code: &[f32], part: &str) -> Result<(), String> {
    let bits = |numbers: &[f32]| {
        numbers
            .iter()
            .map(|number| (number + 0.0).to_bits())
            .collect::<Vec<_>>()
    };
    if bits(&floats(bytes)) == bits(code) {
        Ok(())
    } else {
        Err(format!("its `{part}` is not the code that is known"))
    }
}
