//! Every family from its folder through a whole run: on a packed base, in packs, stopped and gone
//! on with.

mod common;
mod support;

use std::fs;

use common::FAMILIES;
use serde_json::Value;
use support::Desk;

/// The mean loss of the first and of the last steps of a run.
fn ends(desk: &Desk) -> [f64; 2] {
    let losses: Vec<f64> = desk
        .read_text("run/metrics.jsonl")
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64())
        .collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    [mean(&losses[..4]), mean(&losses[losses.len() - 4..])]
}

#[test]
fn each_trains_on_a_packed_base_in_packs_and_resumes_to_the_bit() {
    for family in FAMILIES {
        let desk = Desk::new();
        let base = format!(
            "base_model={}",
            common::golden(&format!("archs/{family}/model")).display()
        );
        let settings = [
            "adapter.method=qlora",
            "training.sample_packing=true",
            "training.learning_rate=1e-2",
            "training.max_steps=24",
        ];
        let saves = ["output.save_steps=10", "output.save_total_limit=9"];
        desk.run(&[&["train", "recipe.yaml", &base], &settings[..], &saves].concat())
            .says(family, 0, &[]);
        let [first, last] = ends(&desk);
        assert!(last < first - 0.1, "{family}: {first} to {last}");

        let adapter = || desk.read("run/adapter/adapter_model.safetensors");
        let alone = adapter();
        for gone in [
            "adapter",
            "README.md",
            "result.json",
            "checkpoints/step-24",
            "checkpoints/step-20",
        ] {
            let path = desk.path("run").join(gone);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
        desk.run(&["resume", "run"])
            .says(family, 0, &["going on after step 1"]);
        assert!(adapter() == alone, "{family}");
    }
}
