//! Replays what the fuzzer kept, its own seeds and what it found, so that no crash comes back
//! unseen where there is no fuzzer.

use std::fs;
use std::path::Path;

#[path = "../fuzz/bodies.rs"]
mod bodies;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let inputs =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = inputs.map(|input| input.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        // The last one named is the one that fails.
        println!("{}", input.display());
        body(&fs::read(&input).unwrap());
    }
}

#[test]
fn recipes_make_no_panic() {
    replay("recipe", bodies::recipe);
}

#[test]
fn safetensors_and_their_index_make_no_panic() {
    replay("safetensors", bodies::safetensors);
}

#[test]
fn gguf_files_make_no_panic() {
    replay("gguf", bodies::gguf);
}

#[test]
fn adapter_configs_make_no_panic() {
    replay("adapter_config", bodies::adapter_config);
}

#[test]
fn chat_templates_make_no_panic() {
    replay("chat_template", bodies::chat_template);
}

#[test]
fn checkpoint_states_make_no_panic() {
    replay("checkpoint_state", bodies::checkpoint_state);
}

#[test]
fn parquet_rows_make_no_panic() {
    replay("parquet_rows", bodies::parquet_rows);
}
