//! Compares cubek's routines for one product: which of them is the fastest on a card, and whether
//! all agree.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Cube;
use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::multi_level::Strategy;
use cubek::matmul::routine::BlueprintStrategy;
use cubek::std::InputBinding;

use super::element;
use crate::files::panic_words;

/// The result of a routine.
#[derive(Debug, Clone, PartialEq)]
pub struct Routine {
    /// The name in cubek.
    pub name: &'static str,
    /// The times, or why the device does not take the routine.
    pub outcome: Result<Timed, String>,
}

/// A routine that the device takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// Seconds of each launch after the first, by the device's events.
    pub seconds: Vec<f64>,
    /// Deviation from the result of the first routine, relative to its norm.
    pub difference: f64,
}

/// Returns the strategies, from no tensor cores to those of each generation: loads and products in
/// turn, then overlapped, by asynchronous copies (from 8.0 on), by tensor maps (from 9.0 on).
fn strategies() -> [(&'static str, Strategy); 7] {
    [
        (
            "SimpleUnit",
            Strategy::SimpleUnit(BlueprintStrategy::default()),
        ),
        (
            "DoubleUnit",
            Strategy::DoubleUnit(BlueprintStrategy::default()),
        ),
        (
            "SimpleCyclicCmma",
            Strategy::SimpleCyclicCmma(BlueprintStrategy::default()),
        ),
        (
            "DoubleCyclicCmma",
            Strategy::DoubleCyclicCmma(BlueprintStrategy::default()),
        ),
        (
            "DoubleCyclicMma",
            Strategy::DoubleCyclicMma(BlueprintStrategy::default()),
        ),
        (
            "SimpleAsyncCyclicMma",
            Strategy::SimpleAsyncCyclicMma(BlueprintStrategy::default()),
        ),
        (
            "SimpleTmaMma",
            Strategy::SimpleTmaMma(BlueprintStrategy::default()),
        ),
    ]
}

/// Runs each routine for a product, launched once for compilation and then `launches` times.
///
/// # Shapes
/// `lhs` [m, k], `rhs` [k, n]; both of one type, on a GPU.
pub fn product_routines(
    lhs: &Tensor<2>,
    rhs: &Tensor<2>,
    given: DType,
    launches: usize,
) -> Vec<Routine> {
    let mut expected: Option<Vec<f32>> = None;
    let mut of = |(name, strategy): (&'static str, Strategy)| {
        let run = || time(&strategy, primitive(lhs), primitive(rhs), given, launches);
        let words = |panic: Box<dyn std::any::Any + Send>| panic_words(&*panic).to_owned();
        let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(words).flatten();
        let outcome = outcome.map(|(seconds, numbers)| {
            let difference = expected
                .as_ref()
                .map_or(0.0, |expected| relative(&numbers, expected));
            expected.get_or_insert(numbers);
            Timed {
                seconds,
                difference,
            }
        });
        Routine { name, outcome }
    };
    strategies().into_iter().map(&mut of).collect()
}

fn primitive(tensor: &Tensor<2>) -> CubeTensor {
    tensor
        .clone()
        .try_into_primitive::<Cube>()
        .expect("a tensor of a GPU")
}

fn time(
    strategy: &Strategy,
    lhs: CubeTensor,
    rhs: CubeTensor,
    given: DType,
    launches: usize,
) -> Result<(Vec<f64>, Vec<f32>), String> {
    let output = init_matmul_output(&lhs, &rhs, given);
    launch(strategy, &lhs, &rhs, &output)?;
    let numbers = Tensor::<2>::from_primitive::<Cube>(output.clone())
        .into_data()
        .iter::<f32>()
        .collect();
    let client = output.client.clone();
    let timed = |_| {
        let [lhs, rhs, output] = [&lhs, &rhs, &output].map(Clone::clone);
        let strategy = strategy.clone();
        let (done, profile) = client
            .profile(move || launch(&strategy, &lhs, &rhs, &output), "product")
            .map_err(|error| format!("{error:?}"))?;
        done?;
        let ticks =
            cubecl::future::block_on(profile.resolve()).ok_or("the device measured nothing")?;
        Ok(ticks.duration().as_secs_f64())
    };
    let seconds = (0..launches)
        .map(timed)
        .collect::<Result<Vec<f64>, String>>()?;
    Ok((seconds, numbers))
}

fn launch(
    strategy: &Strategy,
    lhs: &CubeTensor,
    rhs: &CubeTensor,
    output: &CubeTensor,
) -> Result<(), String> {
    let [of_lhs, of_rhs, of_output] = [lhs, rhs, output].map(element);
    let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: of_lhs,
        rhs: of_rhs,
        out: of_output,
    });
    let [lhs, rhs] = [(lhs, of_lhs), (rhs, of_rhs)]
        .map(|(side, of)| InputBinding::new(side.clone().binding(), of));
    let to = output.clone().binding();
    let launched = cubek::matmul::launch::launch_ref(
        &strategy.clone().into(),
        &output.client,
        lhs,
        rhs,
        to,
        &mut elements,
    );
    launched.map_err(|error| {
        error
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    })
}

/// Returns |ours - expected| / |expected|.
fn relative(ours: &[f32], expected: &[f32]) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f64>| {
        numbers.map(|number| number * number).sum::<f64>().sqrt()
    };
    let difference = norm(
        &mut ours
            .iter()
            .zip(expected)
            .map(|(ours, expected)| f64::from(ours - expected)),
    );
    difference / norm(&mut expected.iter().map(|number| f64::from(*number)))
}
