//! `rankine bench`: what it prints, that the same steps have the same losses, and what is refused.

mod common;
mod support;

use common::golden;
use rankine::files::safetensors::write_f32;
use serde_json::Value;
use support::Desk;

fn bench(desk: &Desk, arguments: &[&str]) -> Value {
    let ran = desk.run(
        &[
            &[
                "bench",
                "--json",
                "--threads",
                "1",
                "--steps",
                "2",
                "--warmup",
                "1",
            ],
            arguments,
        ]
        .concat(),
    );
    ran.says("bench", 0, &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

#[test]
fn the_same_steps_have_the_same_losses_kept_or_recomputed() {
    let desk = Desk::new();
    let config = golden("archs/llama/model/config.json")
        .display()
        .to_string();
    let kept = bench(&desk, &["--config", &config, "--batch", "2", "--seq", "16"]);
    let again = bench(
        &desk,
        &[
            "--config",
            &config,
            "--batch",
            "2",
            "--seq",
            "16",
            "--recompute",
        ],
    );
    assert_eq!(kept["losses"].as_array().unwrap().len(), 3);
    for (kept, again) in kept["losses"]
        .as_array()
        .unwrap()
        .iter()
        .zip(again["losses"].as_array().unwrap())
    {
        assert!(
            (kept.as_f64().unwrap() - again.as_f64().unwrap()).abs() < 1e-5,
            "{kept}, {again}"
        );
    }
    assert!(
        kept["losses"][2].as_f64() < kept["losses"][0].as_f64(),
        "{kept}"
    );
    let numbers = [
        "tokens_per_second",
        "step_seconds_median",
        "flops_per_second",
        "matmul_peak_flops_per_second",
    ];
    for key in numbers.into_iter().chain([
        "peak_memory_bytes",
        "planned_peak_memory_bytes",
        "process_start_to_first_step_seconds",
    ]) {
        assert!(
            kept[key].as_f64().is_some_and(|number| number > 0.0),
            "{key}: {kept}"
        );
    }
}

#[test]
fn a_model_an_adapter_and_tokens_are_taken_as_they_are() {
    let desk = Desk::new();
    let family = golden("archs/llama");
    let (model, adapter) = (
        family.join("model").display().to_string(),
        family.join("adapter").display().to_string(),
    );
    let result = bench(
        &desk,
        &["--model", &model, "--init-from", &adapter, "--seq", "8"],
    );
    let other = bench(&desk, &["--model", &model, "--seq", "8"]);
    assert_ne!(
        result["losses"][0], other["losses"][0],
        "the adapter counts"
    );
}

#[test]
fn rows_of_a_file_are_the_rows_of_every_step() {
    let desk = Desk::new();
    let config = golden("archs/llama/model/config.json")
        .display()
        .to_string();
    let ids: Vec<u8> = (1..=24_i64).flat_map(i64::to_le_bytes).collect();
    let view =
        safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![3, 8], &ids).unwrap();
    safetensors::serialize_to_file(
        [("input_ids", view)],
        None,
        &desk.path("tokens.safetensors"),
    )
    .unwrap();
    let result = bench(
        &desk,
        &["--config", &config, "--tokens", "tokens.safetensors"],
    );
    assert_eq!([&result["batch"], &result["seq"]], [3, 8], "{result}");
    let drawn = bench(&desk, &["--config", &config, "--batch", "3", "--seq", "8"]);
    assert_ne!(result["losses"][0], drawn["losses"][0]);
    desk.run(&[
        "bench",
        "--config",
        &config,
        "--tokens",
        "tokens.safetensors",
        "--seq",
        "8",
    ])
    .says("both", 2, &["--seq"]);
}

/// What a GPU is measured for is not asked of the CPU.
#[test]
fn kernels_and_product_routines_are_those_of_a_gpu() {
    let desk = Desk::new();
    let config = golden("archs/llama/model/config.json")
        .display()
        .to_string();
    desk.run(&["bench", "--config", &config, "--kernels"]).says(
        "no kernels",
        2,
        &["--kernels: device `cpu` launches no kernels"],
    );
    let refused: [(&[&str], i32, &str); 4] = [
        (
            &["--device", "cpu"],
            65,
            "--device: `cpu` has no product routines to compare, expected a GPU",
        ),
        (
            &["--device", "auto"],
            65,
            "--device: `auto` has no product routines to compare, expected a GPU",
        ),
        (
            &["--shapes", "2x3"],
            2,
            "expected rows, inner width and columns",
        ),
        (
            &["--shapes", "2x3x0"],
            2,
            "expected rows, inner width and columns",
        ),
    ];
    for (arguments, exit, part) in refused {
        desk.run(&[&["bench-products"], arguments].concat())
            .says(part, exit, &[part]);
    }
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let desk = Desk::new();
    let config = golden("archs/llama/model/config.json")
        .display()
        .to_string();
    write_f32(
        &desk.path("tokens.safetensors"),
        &[("input_ids".to_owned(), vec![4], vec![1.0; 4])],
        &[],
    )
    .unwrap();
    write_f32(
        &desk.path("halves.safetensors"),
        &[("input_ids".to_owned(), vec![1, 4], vec![1.0; 4])],
        &[],
    )
    .unwrap();
    let refused: [(&[&str], i32, &str); 6] = [
        (&[], 2, "--config"),
        (&["--config", "none.json"], 74, "none.json"),
        (&["--config", &config, "--batch", "0"], 2, "--batch"),
        (
            &["--config", &config, "--device", "abacus"],
            2,
            "expected `auto`, `cpu`",
        ),
        (
            &["--config", &config, "--tokens", "tokens.safetensors"],
            65,
            "`input_ids` has shape [4], expected rows of two tokens",
        ),
        (
            &["--config", &config, "--tokens", "halves.safetensors"],
            65,
            "`input_ids` has 16 bytes for 1 rows of 4",
        ),
    ];
    for (arguments, exit, part) in refused {
        desk.run(&[&["bench"], arguments].concat())
            .says(part, exit, &[part]);
    }
}
