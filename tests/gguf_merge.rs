//! Merges into GGUF bases: touched tensors are what a merge of the unpacked numbers comes to,
//! quantized anew; all else stays byte for byte.

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use common::*;
use rankine::export::gguf::{GgmlType, write_gguf_model};
use rankine::export::merge::{
    Addend, GgufNumbers, MergeRequest, Onto, OtherBase, Tally, gguf_file, merge,
};
use rankine::fault::Explain;
use rankine::files::Float;
use rankine::files::gguf::Gguf;
use rankine::model::base_folder_in;
use rankine::quant::BlockFormat;
use support::Desk;

/// Families with rows in another order, fused and halved rows, experts, stacks and states.
const FAMILIES: [&str; 8] = [
    "llama",
    "qwen2",
    "gemma2",
    "phi3",
    "mixtral",
    "granitemoe",
    "granite4_h",
    "lfm2",
];

fn export(model: &Path, file: &Path, kind: GgmlType) {
    let written = write_gguf_model(model, file, kind, &AtomicBool::new(false), &|_| {});
    written.unwrap_or_else(|error| panic!("{:?}", error.faults()));
}

fn request(base: PathBuf, adapter: PathBuf, out: PathBuf) -> MergeRequest {
    MergeRequest {
        base,
        adapters: vec![Addend {
            folder: adapter,
            weight: 1.0,
            trained_on: None,
        }],
        out,
        float: None,
        other_base: OtherBase::Refuse,
        onto: Onto::Stored,
        counts_q8_0: false,
        keeps_gguf: true,
        gguf: GgufNumbers::Own,
    }
}

fn merged(request: &MergeRequest) -> Tally {
    let tally = merge(request, &AtomicBool::new(false), &|_| {});
    tally.unwrap_or_else(|error| panic!("{:?}", error.faults()))
}

fn bytes<'a>(file: &'a Gguf, name: &str) -> &'a [u8] {
    let tensor = file.tensor(name).unwrap();
    file.row_bytes(tensor, 0..tensor.rows())
}

fn numbers(file: &Gguf, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut numbers = vec![0.0; tensor.rows() * tensor.width()];
    match tensor.kind.id() {
        0 => Float::F32.decode(bytes(file, name), &mut numbers),
        1 => Float::F16.decode(bytes(file, name), &mut numbers),
        id => BlockFormat::of_ggml(id)
            .unwrap()
            .unpack(bytes(file, name), &mut numbers),
    }
    numbers
}

fn encoded(numbers: &[f32], kind: u32) -> Vec<u8> {
    if let Some(format) = BlockFormat::of_ggml(kind) {
        let mut bytes = vec![0; numbers.len() / format.numbers() * format.bytes()];
        format.quantize(numbers, &mut bytes).unwrap();
        return bytes;
    }
    let float = [Float::F32, Float::F16][kind as usize];
    let mut bytes = vec![0; numbers.len() * float.bytes()];
    float.encode(numbers, &mut bytes);
    bytes
}

/// A case of the goldens with its model as a GGUF file, which is described.
struct Case {
    folder: tempfile::TempDir,
    adapter: PathBuf,
    file: PathBuf,
    base: PathBuf,
    _case: Option<tempfile::TempDir>,
}

impl Case {
    fn new(family: &str, kind: GgmlType) -> Self {
        let (case, keep) = exportable(&committed(&format!("archs/{family}")), family);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base.gguf");
        export(&case.join("model"), &file, kind);
        let base = base_folder_in(&file, &folder.path().join("cache"))
            .unwrap_or_else(|error| panic!("{family}: {:?}", error.faults()));
        Self {
            folder,
            adapter: case.join("adapter"),
            file,
            base,
            _case: keep,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn request(&self, out: &str) -> MergeRequest {
        request(self.base.clone(), self.adapter.clone(), self.path(out))
    }

    /// The numbers of the merged model in 32 bits, in llama.cpp's order.
    fn dense(&self) -> Gguf {
        let dense = MergeRequest {
            keeps_gguf: false,
            float: Some(Float::F32),
            ..self.request("dense")
        };
        merged(&dense);
        export(&dense.out, &self.path("dense.gguf"), GgmlType::F32);
        Gguf::open(&self.path("dense.gguf")).unwrap()
    }
}

#[test]
fn touched_tensors_are_quantized_anew_and_all_else_stays() {
    for family in FAMILIES {
        for kind in [
            GgmlType::F16,
            GgmlType::Q8_0,
            GgmlType::Q4_0,
            GgmlType::Q4KM,
        ] {
            let case = Case::new(family, kind);
            let request = case.request("merged");
            let tally = merged(&request);
            let path = gguf_file(&request.out).unwrap();
            let (old, new) = (Gguf::open(&case.file).unwrap(), Gguf::open(&path).unwrap());
            assert_eq!(old.header(), new.header(), "{family}");
            assert_eq!(fs::metadata(&path).unwrap().len(), tally.bytes, "{family}");
            let (dense, mut touched) = (case.dense(), 0);
            for (name, tensor) in old.tensors() {
                let (before, expected) = (numbers(&old, name), numbers(&dense, name));
                let mut encoded = encoded(&expected, tensor.kind.id());
                // Rows to which nothing was added keep their bytes.
                let (width, row_bytes) = (tensor.width(), tensor.row_bytes());
                let rows = encoded.chunks_mut(row_bytes).enumerate();
                for (row, bytes) in rows {
                    let range = row * width..(row + 1) * width;
                    if before[range.clone()] == expected[range] {
                        bytes.copy_from_slice(old.row_bytes(tensor, row..row + 1));
                    }
                }
                assert!(bytes(&new, name) == encoded, "{family} {kind:?}: {name}");
                touched += u64::from(before != expected);
            }
            assert_eq!(tally.merged_tensors, touched, "{family} {kind:?}");
            assert!(touched > 0, "{family}");
        }
    }
}

/// Rows of 32 and 48 numbers are no blocks of 256.
#[test]
fn mixes_of_narrow_rows_fall_back_to_smaller_blocks() {
    let case = Case::new("llama", GgmlType::Q5KM);
    let file = Gguf::open(&case.file).unwrap();
    let types = [
        ("token_embd.weight", "Q5_1"),
        ("output.weight", "Q8_0"),
        ("output_norm.weight", "F32"),
        ("blk.0.attn_q.weight", "Q5_1"),
        ("blk.1.attn_v.weight", "Q8_0"),
        ("blk.0.ffn_gate.weight", "Q5_1"),
        ("blk.0.ffn_down.weight", "F16"),
    ];
    for (name, expected) in types {
        assert_eq!(file.tensor(name).unwrap().kind.name(), expected, "{name}");
    }
    assert_eq!(file.size("general.file_type").unwrap(), Some(17));
}

#[test]
fn touched_tensors_get_another_type_where_it_is_asked_for() {
    let case = Case::new("llama", GgmlType::Q4_0);
    let (old, dense) = (Gguf::open(&case.file).unwrap(), case.dense());
    for (numbers_as, names) in [
        (GgufNumbers::F32, ["F32", "F32"]),
        (GgufNumbers::F16, ["F16", "F16"]),
        (GgufNumbers::Bf16, ["BF16", "BF16"]),
        // Rows of down projections are no multiple of 32 wide.
        (GgufNumbers::Q8_0, ["Q8_0", "F16"]),
    ] {
        let request = MergeRequest {
            gguf: numbers_as,
            ..case.request(&format!("{numbers_as:?}"))
        };
        let tally = merged(&request);
        let new = Gguf::open(&gguf_file(&request.out).unwrap()).unwrap();
        assert_eq!(old.metadata(), new.metadata(), "{numbers_as:?}");
        assert_eq!(new.size_bytes(), tally.bytes, "{numbers_as:?}");
        for (name, tensor) in old.tensors() {
            let (before, expected) = (numbers(&old, name), numbers(&dense, name));
            let found = new.tensor(name).unwrap();
            assert_eq!(found.shape, tensor.shape, "{name}");
            if before == expected {
                assert_eq!(found.kind, tensor.kind, "{name}");
                assert!(bytes(&new, name) == bytes(&old, name), "{name}");
            } else if found.kind.name() != "BF16" {
                assert!(
                    names.contains(&found.kind.name()),
                    "{name}: {:?}",
                    found.kind
                );
                let expected = encoded(&expected, found.kind.id());
                assert!(bytes(&new, name) == expected, "{numbers_as:?}: {name}");
            }
        }
    }
}

/// Of a run on a GGUF base the merge is compared with the trained model, and the file is a base
/// itself.
#[test]
fn a_merge_is_judged_by_its_divergence() {
    let desk = Desk::new();
    export(&desk.path("base"), &desk.path("base.gguf"), GgmlType::Q8_0);
    desk.edit("recipe.yaml", "base_model: base", "base_model: base.gguf");
    let trained = desk.run(&["train", "recipe.yaml"]);
    assert_eq!(trained.exit, 0, "{trained:?}");
    let options = ["--adapter", "run", "--data", "rows.parquet"];
    let run = |more: &[&str]| desk.run(&[&["merge"], &options[..], more].concat());
    let made = run(&["--out", "merged", "--json"]);
    assert_eq!(made.exit, 0, "{made:?}");
    let printed: serde_json::Value = serde_json::from_str(&made.stdout).unwrap();
    let kl = printed["comparison"]["merges"][0]["kl"].as_f64().unwrap();
    assert!((0.0..0.05).contains(&kl), "{kl}");
    assert!(desk.path("merged/merge-report.json").exists());
    let card = desk.read_text("merged/README.md");
    assert!(card.contains("base.gguf"), "{card}");
    assert!(card.contains("quantized anew"), "{card}");
    let answer = desk.run(&[
        "generate",
        "--base",
        "merged/model.gguf",
        "--prompt",
        "the term",
        "--max-tokens",
        "4",
    ]);
    assert_eq!(answer.exit, 0, "{answer:?}");
    let refused = run(&["--out", "far", "--max-kl", "0", "--json"]);
    assert_eq!(refused.exit, 76, "{refused:?}");
    assert!(!desk.path("far/model.gguf").exists());
    let q8_0 = desk.run(&[
        "merge",
        "--base",
        "base",
        "--force",
        "--uncompared",
        "--adapter",
        "run",
        "--dtype",
        "q8_0",
        "--out",
        "none",
    ]);
    assert_eq!(q8_0.exit, 65, "{q8_0:?}");
    assert!(q8_0.stderr.contains("has no GGUF file"), "{q8_0:?}");
}
