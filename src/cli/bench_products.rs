//! `rankine bench-products`: cubek's matrix product routines compared on the shapes of a model, to
//! choose one for a card.

use clap::Args;
use serde_json::{Value, json};

use super::words::{parse_device, parse_dtype};
use super::{Failure, print};
use crate::terms;

/// Product shapes of a model with 8 billion parameters at 2048 tokens: attention, both directions
/// of the MLP, and the narrow products of an adapter of rank 16.
const SHAPES: &str = "2048x4096x4096,2048x4096x14336,2048x14336x4096,2048x4096x16,2048x16x4096";

#[derive(Debug, Args)]
pub(super) struct BenchProductsArgs {
    /// GPU that computes the products
    #[arg(long, default_value = "cuda:0", value_parser = parse_device)]
    device: terms::Device,
    /// Numbers of both matrices
    #[arg(long, default_value = "bfloat16", value_parser = parse_dtype)]
    model_dtype: terms::ModelDtype,
    /// Rows, inner width and columns of each product
    #[arg(
        long,
        value_name = "MxKxN,..",
        default_value = SHAPES,
        value_delimiter = ',',
        value_parser = parse_shape
    )]
    shapes: Vec<[usize; 3]>,
    /// Launches that are measured, after one that is not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    launches: u32,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn parse_shape(word: &str) -> Result<[usize; 3], String> {
    let numbers: Vec<usize> = word
        .split('x')
        .map_while(|number| number.parse().ok())
        .filter(|number| *number > 0)
        .collect();
    numbers
        .try_into()
        .map_err(|_| "expected rows, inner width and columns, such as 2048x4096x4096".to_owned())
}

pub(super) fn bench_products(args: &BenchProductsArgs) -> Result<(), Failure> {
    let products = products(args)?;
    if args.json {
        return print(json!({"device": args.device.to_string(), "products": products}));
    }
    products.iter().try_for_each(print_product)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn products(args: &BenchProductsArgs) -> Result<Vec<Value>, Failure> {
    use burn::tensor::{DType, Tensor};

    use crate::device;
    use crate::fault::{Exit, Fault};
    use crate::ops::product_routines;

    let unsupported =
        |message: String, hint: &str| Failure::new(Exit::Input, Fault::new(message).hint(hint));
    if matches!(args.device, terms::Device::Auto | terms::Device::Cpu) {
        let message = format!(
            "--device: `{}` has no product routines to compare, expected a GPU",
            args.device
        );
        return Err(unsupported(message, "`rankine doctor` lists the GPUs"));
    }
    if let Some(refusal) =
        device::find(args.device).and_then(|found| found.refusal(args.model_dtype))
    {
        return Err(unsupported(
            format!("--model-dtype: {refusal}"),
            "choose another type or device",
        ));
    }
    let opened = device::open(args.device)?;
    let dtype = match args.model_dtype {
        terms::ModelDtype::Auto | terms::ModelDtype::Float32 => DType::F32,
        terms::ModelDtype::Bfloat16 => DType::BF16,
        terms::ModelDtype::Float16 => DType::F16,
    };
    let drawn = |rows: usize, columns: usize, seed: u64| {
        let number = |index: u64| {
            (2.0 * crate::keyed_random::unit(crate::keyed_random::mix(
                seed ^ crate::keyed_random::mix(index),
            )) - 1.0) as f32
        };
        let numbers: Vec<f32> = (0..(rows * columns) as u64).map(number).collect();
        let data = burn::tensor::TensorData::new(numbers, [rows, columns]);
        Tensor::<2>::from_data(data, &opened).cast(dtype)
    };
    let product = |&[rows, inner, columns]: &[usize; 3]| {
        let (lhs, rhs) = (drawn(rows, inner, 1), drawn(inner, columns, 2));
        let flops = 2.0 * (rows * inner * columns) as f64;
        let routines = product_routines(&lhs, &rhs, dtype, args.launches as usize);
        let routines = routines.into_iter().map(|routine| match routine.outcome {
            Ok(timed) => {
                let least = timed.seconds.iter().copied().fold(f64::INFINITY, f64::min);
                json!({
                    "routine": routine.name,
                    "seconds": least,
                    "flops_per_second": flops / least,
                    "difference": timed.difference,
                })
            }
            Err(refused) => json!({"routine": routine.name, "refused": refused}),
        });
        json!({
            "shape": [rows, inner, columns],
            "dtype": args.model_dtype.to_string(),
            "routines": routines.collect::<Vec<_>>(),
        })
    };
    Ok(args.shapes.iter().map(product).collect())
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn products(args: &BenchProductsArgs) -> Result<Vec<Value>, Failure> {
    crate::device::check(args.device)?;
    Ok(Vec::new())
}

fn print_product(product: &Value) -> Result<(), Failure> {
    print(format_args!(
        "{} of {}",
        product["shape"],
        product["dtype"].as_str().unwrap_or_default()
    ))?;
    product["routines"]
        .as_array()
        .into_iter()
        .flatten()
        .try_for_each(|routine| {
            let name = routine["routine"].as_str().unwrap_or_default();
            match (
                routine["flops_per_second"].as_f64(),
                routine["difference"].as_f64(),
            ) {
                (Some(rate), Some(difference)) => print(format_args!(
                    "  {name:<22} {:9.1} GFLOP/s, {difference:.1e} apart",
                    rate / 1e9
                )),
                _ => print(format_args!(
                    "  {name:<22} refused: {}",
                    routine["refused"].as_str().unwrap_or_default()
                )),
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_three_numbers() {
        assert_eq!(parse_shape("3x4x5"), Ok([3, 4, 5]));
        for wrong in ["", "3x4", "3x4x5x6", "0x1x1", "axbxc", "3,4,5"] {
            assert!(parse_shape(wrong).is_err(), "{wrong}");
        }
        assert!(SHAPES.split(',').all(|shape| parse_shape(shape).is_ok()));
    }
}
