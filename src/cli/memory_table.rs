//! `rankine plan --fits`: the longest rows with which the model of a config.json can be trained,
//! for common memory sizes.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Failure, grouped, print};
use crate::adapter::LoraConfig;
use crate::model::{DecoderSpec, Storage};
use crate::plan::memory::{Load, MemoryPlace, MicroBatchRows, Purpose, Trained, longest_that_fits};
use crate::quant::QuantFormat;
use crate::terms::ModelDtype;
use crate::train::Rule;

/// Common memory sizes, GiB of 2³⁰ bytes.
const GIBIBYTES: [u64; 6] = [8, 12, 16, 24, 48, 80];
/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;
/// Forms of the frozen base with their headings, in the memory of the machine or of a GPU.
const BASES: [(&str, ModelDtype, Option<QuantFormat>, MemoryPlace); 5] = [
    ("float32", ModelDtype::Float32, None, PROCESSOR),
    ("bfloat16", ModelDtype::Bfloat16, None, PROCESSOR),
    (
        "qlora",
        ModelDtype::Bfloat16,
        Some(QuantFormat::QLORA),
        PROCESSOR,
    ),
    ("GPU, bfloat16", ModelDtype::Bfloat16, None, GPU),
    (
        "GPU, qlora",
        ModelDtype::Bfloat16,
        Some(QuantFormat::QLORA),
        GPU,
    ),
];
const PROCESSOR: MemoryPlace = MemoryPlace::Processor { threads: THREADS };
const GPU: MemoryPlace = MemoryPlace::Gpu {
    half: Some(ModelDtype::Bfloat16),
    is_shared: false,
};
/// Shortest rows that are useful for an adapter, tokens.
const SHORTEST: usize = 128;
/// Row length for the table of several models, tokens.
const LENGTH: usize = 2048;
/// Rank of the adapter on every projection.
const RANK: usize = 16;
/// Note on what a GPU that is short of memory moves to CPU memory by itself.
const OFFLOADED: &str = ", an embedding that is not the head too in the processor's memory";
/// Threads of the assumed machine; each needs some scratch memory.
const THREADS: usize = 8;

pub(super) fn print_table(config: &Path, json: bool) -> Result<(), Failure> {
    let spec = DecoderSpec::read(config)?;
    let loads = BASES.map(|(_, dtype, form, place)| {
        load(
            &spec,
            Storage {
                form,
                ..dtype.into()
            },
            place,
        )
    });
    let loads = loads.into_iter().collect::<Result<Vec<Load>, Failure>>()?;
    let longest = |gibibytes: u64| {
        let of = |load: &Load| longest_that_fits(load, gibibytes << 30, SHORTEST);
        (gibibytes, loads.iter().map(of).collect::<Vec<_>>())
    };
    let rows = GIBIBYTES.map(longest);
    if json {
        let names = BASES.map(|(name, ..)| name);
        let row = |(gibibytes, longest): &(u64, Vec<Option<usize>>)| {
            let longest: Map<String, Value> = names
                .iter()
                .zip(longest)
                .map(|(name, of)| ((*name).to_owned(), json!(of)))
                .collect();
            json!({"memory_gib": gibibytes, "sequence_len": longest})
        };
        return print(json!({
            "rank": RANK,
            "micro_batch_size": 1,
            "fits": rows.iter().map(row).collect::<Vec<_>>(),
        }));
    }
    print(format_args!(
        "{}, {} parameters",
        spec.describe(),
        grouped(spec.parameters() as u64)
    ))?;
    print(format_args!(
        "longest rows, tokens: rank {RANK} on every projection, one row at a time, every block \
        recomputed, up to {} tokens{}",
        grouped(spec.context as u64),
        if loads.iter().any(|load| load.storage.offloads_embedding) {
            OFFLOADED
        } else {
            ""
        }
    ))?;
    print("")?;
    let line = |first: &str, cells: Vec<String>| {
        let cells: String = cells
            .into_iter()
            .map(|cell| format!("  {cell:>13}"))
            .collect();
        print(format_args!("{first:>8}{cells}"))
    };
    line("memory", BASES.map(|(name, ..)| name.to_owned()).to_vec())?;
    for (gibibytes, longest) in rows {
        let cell = |longest: Option<usize>| {
            longest.map_or_else(|| "-".to_owned(), |tokens| grouped(tokens as u64))
        };
        line(
            &format!("{gibibytes} GiB"),
            longest.into_iter().map(cell).collect(),
        )?;
    }
    Ok(())
}

/// Prints the peak memory of several models, one per line.
pub(super) fn print_needs(configs: &[PathBuf], json: bool) -> Result<(), Failure> {
    let needs = configs
        .iter()
        .map(|config| Need::of(config))
        .collect::<Result<Vec<_>, _>>()?;
    if json {
        let object = |need: &Need| {
            let bytes: Map<String, Value> = BASES
                .iter()
                .zip(&need.bytes)
                .map(|((name, ..), bytes)| ((*name).to_owned(), json!(bytes)))
                .collect();
            json!({"config": need.name, "parameters": need.parameters, "peak_bytes": bytes})
        };
        let models: Vec<Value> = needs.iter().map(object).collect();
        return print(
            json!({"rank": RANK, "micro_batch_size": 1, "sequence_len": LENGTH, "models": models}),
        );
    }
    print(format_args!(
        "peak memory, GiB: rank {RANK} on every projection, one row of {} tokens, every block \
        recomputed{OFFLOADED}",
        grouped(LENGTH as u64)
    ))?;
    print("")?;
    let width = needs.iter().map(|need| need.name.len()).max().unwrap_or(0);
    let line = |name: &str, parameters: &str, cells: Vec<String>| {
        let cells: String = cells
            .into_iter()
            .map(|cell| format!("  {cell:>13}"))
            .collect();
        print(format_args!("{name:<width$}  {parameters:>14}{cells}"))
    };
    line(
        "",
        "parameters",
        BASES.map(|(name, ..)| name.to_owned()).to_vec(),
    )?;
    for need in &needs {
        let cells = need
            .bytes
            .iter()
            .map(|bytes| format!("{:.1}", *bytes as f64 / GIB))
            .collect();
        line(&need.name, &grouped(need.parameters), cells)?;
    }
    Ok(())
}

/// Memory of a model with each of [`BASES`].
struct Need {
    name: String,
    parameters: u64,
    bytes: Vec<u64>,
}

impl Need {
    fn of(config: &Path) -> Result<Self, Failure> {
        let spec = DecoderSpec::read(config)?;
        let bytes =
            |(_, dtype, form, place): (&str, ModelDtype, Option<QuantFormat>, MemoryPlace)| {
                let load = load(
                    &spec,
                    Storage {
                        form,
                        ..dtype.into()
                    },
                    place,
                )?;
                Ok(load
                    .with_rows(MicroBatchRows::dense(1, LENGTH.min(spec.context)))
                    .least_peak_bytes())
            };
        let bytes = BASES
            .into_iter()
            .map(bytes)
            .collect::<Result<_, Failure>>()?;
        let name = config
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            name,
            parameters: spec.parameters() as u64,
            bytes,
        })
    }
}

fn load(spec: &DecoderSpec, storage: Storage, place: MemoryPlace) -> Result<Load, Failure> {
    let config = LoraConfig::all_linear(RANK, 2.0 * RANK as f64);
    let (trained, rows) = (
        Trained::adapter(&config, spec)?,
        MicroBatchRows::dense(1, SHORTEST),
    );
    let spec = spec.clone();
    let load = Load {
        spec,
        storage,
        trained,
        rule: Rule::AdamW,
        dropout: 0.0,
        noise: false,
        rows,
        accumulated: 1,
        evaluation: None,
        purpose: Purpose::Run,
        place,
        teacher: None,
    };
    // A run does the same if the GPU has no room.
    Ok(if load.may_offload() {
        load.offloaded()
    } else {
        load
    })
}
