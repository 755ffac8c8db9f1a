//! `rankine bench`: speed and memory of training steps over dense rows, on random weights or on a
//! base. It prints every loss, for comparison with another program.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::words::{parse_device, parse_dtype, parse_quantization};
use super::{Failure, grouped, print};
use crate::adapter::{LoraConfig, attach, peft};
use crate::data::{Batch, TokenRow};
use crate::device;
use crate::fault::{Exit, Fault};
use crate::files::safetensors::Archive;
use crate::keyed_random::mix;
use crate::model::{Decoder, DecoderSpec, Folder, Storage};
use crate::plan::memory::{Load, MemoryPlace, MicroBatchRows, Purpose, Trained};
use crate::quant::{BlockSize, QuantFormat};
use crate::report::peak_memory_bytes;
use crate::run::is_proven;
use crate::terms;
use crate::train::{
    AdamW, AdamWConfig, Gradients, LossScale, Memory, Rule, StepConfig, forward_backward,
    head_chunk_rows,
};

/// Constants of the optimizer, the same as in the script of the other program.
const ADAMW: AdamWConfig = AdamWConfig {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.01,
    loraplus_lr_ratio: 1.0,
};
const LEARNING_RATE: f64 = 2e-4;
const MAX_GRAD_NORM: f64 = 1.0;
const SEED: u64 = 42;
#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(super) struct BenchArgs {
    /// A model's config.json; the weights are drawn
    #[arg(
        long,
        value_name = "CONFIG.json",
        conflicts_with = "model",
        required_unless_present = "model"
    )]
    config: Option<PathBuf>,
    /// The folder of a model
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The folder of an adapter to start from, in place of a fresh one
    #[arg(long, value_name = "DIR", requires = "model")]
    init_from: Option<PathBuf>,
    /// A safetensors file whose `input_ids` [batch, seq], 64-bit integers, are the tokens of every
    /// step
    #[arg(long, value_name = "FILE", conflicts_with_all = ["batch", "seq"])]
    tokens: Option<PathBuf>,
    /// Rows of a step
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Tokens of a row
    #[arg(
        long,
        default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(2..=1_048_576)
    )]
    seq: u32,
    /// Rank of the adapter, which is on every projection
    #[arg(
        long,
        default_value_t = 16,
        value_parser = clap::value_parser!(u64).range(1..=terms::MAX_RANK)
    )]
    rank: u64,
    /// Threads of the CPU; 0: one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Where to compute
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    device: terms::Device,
    /// How the weights of the base are kept: `auto`, `float32`, `bfloat16` or, on a GPU, `float16`
    #[arg(long, default_value = "auto", value_parser = parse_dtype)]
    model_dtype: terms::ModelDtype,
    /// How projections are packed: `none`, `nf4`, `fp4` or `int8`
    #[arg(long, default_value = "none", value_parser = parse_quantization)]
    quantization: terms::Quantization,
    /// Quantize the absmax of blocks too
    #[arg(long)]
    double_quant: bool,
    /// Pack a head of its own too
    #[arg(long)]
    quantize_head: bool,
    /// Keep an embedding of its own in the processor's memory
    #[arg(long)]
    offload_embedding: bool,
    /// Compute every block again in backward, in place of keeping its activations
    #[arg(long)]
    recompute: bool,
    /// Steps that are measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Steps before them
    #[arg(long, default_value_t = 2)]
    warmup: u32,
    /// Width of the product that tells how fast the device can be
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    product_width: u32,
    /// Take one more step and tell how long each kernel of the GPU took in it
    #[arg(long)]
    kernels: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn bench(args: &BenchArgs, started: Instant) -> Result<(), Failure> {
    let threads = device::set_threads(args.threads);
    let chosen = device::choose(args.device, &is_proven).device;
    if args.kernels && chosen == terms::Device::Cpu {
        let fault =
            Fault::new("--kernels: device `cpu` launches no kernels, expected a GPU".to_owned());
        return Err(Failure::new(
            Exit::Usage,
            fault.hint("give a GPU with `--device`, or leave `--kernels` out"),
        ));
    }
    let storage = storage(args, chosen)?;
    let mut decoder = decoder(args, chosen, storage)?;
    let batch = batch(args, &decoder.spec)?;
    let memory = if args.recompute {
        Memory::RECOMPUTE
    } else {
        Memory::KEEP
    };
    let config = StepConfig {
        memory,
        head_chunk_rows: head_chunk_rows(decoder.spec.vocabulary),
        dropout: 0.0,
    };
    let (mut optimizer, mut measured) = (AdamW::new(ADAMW, &decoder), Measured::default());
    for _ in 0..args.warmup + args.steps {
        let began = Instant::now();
        let loss = step(&mut decoder, &mut optimizer, &batch, config);
        measured.seconds.push(began.elapsed().as_secs_f64());
        measured.losses.push(loss);
        measured
            .first_step_seconds
            .get_or_insert(started.elapsed().as_secs_f64());
    }
    measured.seconds.drain(..args.warmup as usize);
    measured.seconds.sort_by(f64::total_cmp);
    let peak_memory_bytes = peak_memory_bytes();
    let planned = planned(
        args,
        storage,
        &decoder.spec,
        MicroBatchRows::of(&batch),
        MemoryPlace::of(chosen, threads),
    )?
    .parts(memory);
    let seconds = measured.seconds[measured.seconds.len() / 2];
    let flops = flops_a_token(&decoder.spec, batch.lengths[0]) * batch.tokens() as f64;
    let kernels = args.kernels.then(|| {
        device::kernel_times(|| {
            step(&mut decoder, &mut optimizer, &batch, config);
        })
    });
    let mut result = json!({
        "tokens_per_second": batch.tokens() as f64 / seconds,
        "step_seconds_median": seconds,
        "step_seconds_min": measured.seconds[0],
        "flops_per_second": flops / seconds,
        "matmul_peak_flops_per_second": crate::ops::product_flops_per_second(
            &decoder.device(),
            args.product_width as usize,
            storage.dtype,
        ),
        "peak_memory_bytes": peak_memory_bytes,
        "device_peak_memory_bytes": device::peak_memory_bytes(&decoder.device()),
        "planned_peak_memory_bytes": planned.peak_bytes(),
        "weights_bytes": planned.base_bytes,
        "process_start_to_first_step_seconds": measured.first_step_seconds,
        "losses": measured.losses,
        "parameters": decoder.spec.parameters(),
        "trainable_parameters": decoder.trainable_parameters(),
        "batch": batch.lengths.len(),
        "seq": batch.lengths[0],
        "threads": threads,
    });
    if let Some(kernels) = kernels {
        result["kernels"] = json!(kernels);
    }
    if args.json {
        print(result)
    } else {
        print_lines(&result)
    }
}

#[derive(Debug, Default)]
struct Measured {
    seconds: Vec<f64>,
    losses: Vec<f64>,
    first_step_seconds: Option<f64>,
}

/// Takes one optimizer step and returns the mean loss before it.
fn step(decoder: &mut Decoder, optimizer: &mut AdamW, batch: &Batch, config: StepConfig) -> f64 {
    let mut gradients = Gradients::of(LossScale::factor(LossScale::of(decoder.computed, None)));
    let loss = forward_backward(decoder, batch, config, [SEED, 0], &mut gradients);
    let mean = 1.0 / loss.trained_tokens as f64;
    let gradients = gradients.scaled(mean);
    let norm = gradients.norm();
    // Weights that are not finite are skipped; the loss shows it.
    let _ = optimizer.update(
        decoder,
        gradients.clipped(norm, MAX_GRAD_NORM),
        LEARNING_RATE,
    );
    loss.sum * mean
}

/// Returns how the base is stored on this device.
fn storage(args: &BenchArgs, chosen: terms::Device) -> Result<Storage, Failure> {
    if let Some(refusal) = device::find(chosen).and_then(|found| found.refusal(args.model_dtype)) {
        let fault = Fault::new(format!("--model-dtype: {refusal}"));
        return Err(Failure::new(
            Exit::Input,
            fault.hint("leave it out, or choose another device"),
        ));
    }
    let form = QuantFormat::of(args.quantization, BlockSize::DEFAULT, args.double_quant);
    let (packs_head, offloads_embedding) = (args.quantize_head, args.offload_embedding);
    let asked = Storage {
        dtype: args.model_dtype,
        form,
        stored_bytes: None,
        left_dense: 0,
        packs_head,
        offloads_embedding,
    };
    let kept_in = |folder: &PathBuf| Folder::open(folder)?.kept_in(asked, device::halves(chosen));
    Ok(args.model.as_ref().map_or(Ok(asked), kept_in)?)
}

fn decoder(args: &BenchArgs, chosen: terms::Device, storage: Storage) -> Result<Decoder, Failure> {
    let device = device::open(chosen)?;
    let mut decoder = match (&args.model, &args.config) {
        (Some(folder), _) => Folder::open(folder)?.load(storage, &device, &|_| {})?,
        (None, Some(config)) => DecoderSpec::read(config)?.draw(SEED, storage, &device)?,
        (None, None) => unreachable!("clap asks for one of the two"),
    };
    let Some(folder) = &args.init_from else {
        attach(&mut decoder, &fresh(args.rank), SEED, None)?;
        return Ok(decoder);
    };
    let config = peft::read_config_on(folder, &decoder.spec.modules())?;
    let numbers = peft::read_numbers(folder, &config, &decoder.spec.modules())?;
    attach(&mut decoder, &config, SEED, Some(&numbers))?;
    Ok(decoder)
}

fn fresh(rank: u64) -> LoraConfig {
    LoraConfig::all_linear(rank as usize, 2.0 * rank as f64)
}

/// Returns the inputs of the memory plan for these steps.
fn planned(
    args: &BenchArgs,
    storage: Storage,
    spec: &DecoderSpec,
    rows: MicroBatchRows,
    place: MemoryPlace,
) -> Result<Load, Failure> {
    let config = args.init_from.as_ref().map_or_else(
        || Ok(fresh(args.rank)),
        |folder| peft::read_config_on(folder, &spec.modules()),
    )?;
    let (spec, trained) = (spec.clone(), Trained::adapter(&config, spec)?);
    let purpose = Purpose::Bench;
    Ok(Load {
        spec,
        storage,
        trained,
        rule: Rule::AdamW,
        dropout: 0.0,
        noise: false,
        rows,
        accumulated: 1,
        evaluation: None,
        purpose,
        place,
        teacher: None,
    })
}

/// Makes dense rows in which every token except the first is trained.
fn batch(args: &BenchArgs, spec: &DecoderSpec) -> Result<Batch, Failure> {
    let rows = if let Some(path) = &args.tokens {
        read_tokens(path, spec.vocabulary)?
    } else {
        let token = |index: u64| (mix(SEED ^ index) % spec.vocabulary as u64) as u32;
        let row = |row: u32| {
            (0..args.seq)
                .map(|place| token(u64::from(row) << 32 | u64::from(place)))
                .collect()
        };
        (0..args.batch).map(row).collect::<Vec<Vec<u32>>>()
    };
    let row = |(index, ids): (usize, Vec<u32>)| {
        (
            index as u64,
            TokenRow {
                trained: vec![true; ids.len()],
                ids,
            },
        )
    };
    Ok(Batch::new(rows.into_iter().enumerate().map(row)))
}

fn read_tokens(path: &Path, vocabulary: usize) -> Result<Vec<Vec<u32>>, Failure> {
    let refused = |message: String| {
        let fault = Fault::new(format!("`{}`: {message}", path.display()));
        Failure::new(
            Exit::Input,
            fault.hint("give a safetensors file with `input_ids` [batch, seq] of 64-bit integers"),
        )
    };
    let archive = Archive::open(path)?;
    let (bytes, shape) = (
        archive.bytes("input_ids").unwrap_or_default(),
        archive.shape("input_ids").unwrap_or_default(),
    );
    let (rows, length) = match shape {
        [rows, length] if *rows > 0 && *length > 1 => (rows, length),
        _ => {
            return Err(refused(format!(
                "`input_ids` has shape {shape:?}, expected rows of two tokens or more"
            )));
        }
    };
    let (numbers, _) = bytes.as_chunks();
    if numbers.len() != rows * length {
        return Err(refused(format!(
            "`input_ids` has {} bytes for {rows} rows of {length}",
            bytes.len()
        )));
    }
    let id = |bytes: &[u8; 8]| {
        let id = i64::from_le_bytes(*bytes);
        let known = usize::try_from(id).is_ok_and(|id| id < vocabulary);
        if known {
            Ok(id as u32)
        } else {
            Err(refused(format!(
                "token {id}, the vocabulary has {vocabulary}"
            )))
        }
    };
    let ids = numbers.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
    Ok(ids.chunks(*length).map(<[u32]>::to_vec).collect())
}

/// Returns the floating-point operations per token with a frozen base: 4 per parameter that the
/// token uses, and causal attention over half of all pairs, or the recurrence, forward and
/// backward.
fn flops_a_token(spec: &DecoderSpec, length: usize) -> f64 {
    let mixing: f64 = spec
        .layers
        .iter()
        .map(|layer| layer.mixer.flops(length as f64)[0])
        .sum();
    4.0 * (spec.computed_parameters() + spec.vocabulary * spec.width) as f64 + 3.0 * mixing
}

fn print_lines(result: &Value) -> Result<(), Failure> {
    let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    print(format_args!(
        "tokens a second        {:.1}",
        number("tokens_per_second")
    ))?;
    print(format_args!(
        "step                   {:.4} s (median), {:.4} s (least)",
        number("step_seconds_median"),
        number("step_seconds_min")
    ))?;
    let (reached, peak) = (
        number("flops_per_second"),
        number("matmul_peak_flops_per_second"),
    );
    let share = 100.0 * reached / peak;
    print(format_args!(
        "speed                  {:.1} GFLOP/s, {share:.0} % of the {:.1} of a product",
        reached / 1e9,
        peak / 1e9
    ))?;
    let bytes = |key: &str| grouped(result[key].as_u64().unwrap_or(0));
    print(format_args!(
        "peak memory            {} bytes, {} planned",
        bytes("peak_memory_bytes"),
        bytes("planned_peak_memory_bytes")
    ))?;
    print(format_args!(
        "start to first step    {:.2} s",
        number("process_start_to_first_step_seconds")
    ))?;
    print(format_args!("losses                 {}", result["losses"]))?;
    for kernel in result["kernels"].as_array().into_iter().flatten() {
        let (seconds, launches) = (
            kernel["seconds"].as_f64().unwrap_or(f64::NAN),
            &kernel["launches"],
        );
        print(format_args!(
            "kernel                 {seconds:.6} s, {launches} launches, {}",
            kernel["kernel"]
        ))?;
    }
    Ok(())
}
