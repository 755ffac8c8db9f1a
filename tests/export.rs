//! `rankine export`: GGUF files whose numbers are those of the model's folder, in the order and under the names of llama.cpp. LOG.md has
//! the runs in which llama.cpp computed the goldens' logits from these files, which are held here to the byte.

#![allow(clippy::float_cmp, reason = "equality is what is promised")]

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::*;
use half::{bf16, f16};
use rankine::adapter::peft;
use rankine::export::gguf::{Kind, write_gguf_adapter, write_gguf_model};
use rankine::fault::{Exit, Explain};
use rankine::files::hash_file;
use rankine::files::safetensors::Archive;
use rankine::model::{Folder, shard_paths};
use support::Desk;

/// A GGUF file, read anew from the format's description.
#[derive(Debug)]
struct Gguf {
    pairs: BTreeMap<String, String>,
    /// Dimensions, the fastest first, and numbers.
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn size(&mut self) -> usize {
        usize::try_from(u64::from_le_bytes(self.take())).unwrap()
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let length = self.size();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> String {
        match kind {
            4 | 5 => self.number().to_string(),
            6 => f32::from_le_bytes(self.take()).to_string(),
            7 => (self.take::<1>() == [1]).to_string(),
            8 => self.text(),
            9 => {
                let (of, length) = (self.number(), self.size());
                (0..length).map(|_| self.value(of)).collect::<Vec<_>>().join("\n")
            }
            other => panic!("a value of type {other}"),
        }
    }
}

fn numbers(kind: u32, count: usize, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).take(count).map(|pair| [pair[0], pair[1]]);
    match kind {
        0 => bytes.chunks_exact(4).take(count).map(|number| f32::from_le_bytes(number.try_into().unwrap())).collect(),
        1 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        30 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        8 => {
            let block = |block: &[u8]| {
                let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                block[2..].iter().map(|byte| scale * f32::from(byte.cast_signed())).collect::<Vec<_>>()
            };
            bytes.chunks_exact(34).take(count / 32).flat_map(block).collect()
        }
        other => panic!("a tensor of type {other}"),
    }
}

fn read(path: &Path) -> Gguf {
    let bytes = fs::read(path).unwrap();
    let mut reader = Reader { bytes: &bytes, at: 0 };
    assert_eq!((&reader.take::<4>(), reader.number()), (b"GGUF", 3));
    let (tensors, pairs) = (reader.size(), reader.size());
    let pair = |reader: &mut Reader| {
        let (key, kind) = (reader.text(), reader.number());
        (key, reader.value(kind))
    };
    let pairs = (0..pairs).map(|_| pair(&mut reader)).collect();
    let info = |reader: &mut Reader| {
        let (name, dimensions) = (reader.text(), reader.number());
        let shape: Vec<usize> = (0..dimensions).map(|_| reader.size()).collect();
        (name, shape, reader.number(), reader.size())
    };
    let infos: Vec<_> = (0..tensors).map(|_| info(&mut reader)).collect();
    let data = reader.at.next_multiple_of(32);
    let tensor = |(name, shape, kind, offset): (String, Vec<usize>, u32, usize)| {
        assert_eq!(offset % 32, 0, "{name}");
        let numbers = numbers(kind, shape.iter().product(), &bytes[data + offset..]);
        (name, (shape, numbers))
    };
    Gguf { pairs, tensors: infos.into_iter().map(tensor).collect() }
}

fn exported(model: &Path, kind: Kind) -> (Gguf, rankine::files::Hash) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let written = write_gguf_model(model, &path, kind, &AtomicBool::new(false), &|_| {}).unwrap();
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    (read(&path), hash_file(&path).unwrap())
}

fn weight(model: &Path, name: &str) -> Vec<f32> {
    let mut shards = shard_paths(model).unwrap().into_iter().map(|path| Archive::open(&path).unwrap());
    shards.find_map(|shard| shard.read_f32(name).unwrap()).unwrap()
}

/// Rows of a head from halves to neighbours, number by number.
fn turned(rows: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let head_dim = rows.len() / heads / width;
    let source = |row: usize| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + place % 2 * (head_dim / 2) + place / 2
    };
    (0..heads * head_dim).flat_map(|row| rows[source(row) * width..(source(row) + 1) * width].to_vec()).collect()
}

#[test]
fn a_model_has_the_numbers_of_its_folder() {
    for (family, architecture) in [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")] {
        let model = golden(&format!("archs/{family}/model"));
        let (gguf, _) = exported(&model, Kind::F32);
        let spec = Folder::open(&model).unwrap().spec;
        let mixer = spec.layers[0].mixer.grouped().unwrap();
        for (key, value) in [
            ("general.architecture", architecture.to_owned()),
            ("general.type", "model".to_owned()),
            (&format!("{architecture}.block_count"), spec.layers.len().to_string()),
            (&format!("{architecture}.attention.head_count_kv"), mixer.kv_heads.to_string()),
            (&format!("{architecture}.rope.freq_base"), (mixer.rope.as_ref().unwrap().theta as f32).to_string()),
        ] {
            assert_eq!(gguf.pairs[key], value, "{family}: {key}");
        }
        assert_eq!(gguf.pairs["tokenizer.ggml.tokens"].split('\n').count(), spec.vocabulary, "{family}");
        let is_turned = architecture == "llama";
        let query = weight(&model, "model.layers.1.self_attn.q_proj.weight");
        let key = weight(&model, "model.layers.1.self_attn.k_proj.weight");
        let expect = |numbers: &[f32], heads| if is_turned { turned(numbers, heads, spec.width) } else { numbers.to_vec() };
        assert_eq!(gguf.tensors["blk.1.attn_q.weight"].1, expect(&query, mixer.heads), "{family}");
        assert_eq!(gguf.tensors["blk.1.attn_k.weight"].1, expect(&key, mixer.kv_heads), "{family}");
        let (shape, down) = &gguf.tensors["blk.0.ffn_down.weight"];
        assert_eq!((shape[1], down), (spec.width, &weight(&model, "model.layers.0.mlp.down_proj.weight")), "{family}");
        assert_eq!(gguf.tensors.contains_key("output.weight"), !spec.tied_head, "{family}");
        assert_eq!(gguf.tensors.contains_key("rope_freqs.weight"), family == "llama", "{family}");
    }
}

/// Whoever changes a byte shows anew, as LOG.md does, that llama.cpp computes right from the file.
#[test]
fn the_files_are_those_from_which_llama_cpp_computed_right() {
    let seen: BTreeMap<&str, &str> = BTreeMap::from([
        ("llama", "20345ddd0db726d182deedd2994e18c32c1bd59095c4d9aca29eb6f19d165a5a"),
        ("mistral", "40454fa3a065581465fb60d01285accbec88076d08cab6b52862cd11c4a8b489"),
        ("qwen2", "f01e79627088b3f46bfe3c05aa137e235adb8f91e314eda9e5d55323957aebbf"),
        ("qwen3", "20ad7fbabc772a2af275483721a5c57ff3c30e33794d71aa8160a48fffd06372"),
        ("llama adapter", "581dc06096448bb64d694034f8cdd4509f452aa3ff9dcf2994fbc5121e080191"),
        ("mistral adapter", "166dee075879f72202735f7f2c36f7a8f357577b28c45d9182067c4ba1171cea"),
        ("qwen2 adapter", "e163f5dea075f9aec10ed50e6f5a808e6520a8637e1c2effd43c488e09c000ce"),
        ("qwen3 adapter", "c68397907a542b16f3bcb2d6f54451bfc929b7e07eb19f551c9793c5ee3a4ae1"),
        ("llama rslora", "eba1f1070a6ee16586a05991cd40803c5bafc48b0c753d195461cf75570b7664"),
        ("llama patterns", "0ddc2d7adaa72ac9825709b082d9b1d899ae6cb1ca0c7c2694f0f6a0a2a1bb3f"),
    ]);
    let committed = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archs").join(path);
    let mut found = BTreeMap::new();
    for family in FIRST_FAMILIES {
        found.insert(family.to_owned(), exported(&committed(family).join("model"), Kind::F32).1.to_string());
    }
    let variants = [("llama", "rslora", "variants/rslora/adapter"), ("llama", "patterns", "variants/patterns/adapter")];
    for (family, name, adapter) in FIRST_FAMILIES.map(|family| (family, "adapter", "adapter")).into_iter().chain(variants) {
        let (case, folder) = (committed(family), tempfile::tempdir().unwrap());
        let path = folder.path().join("adapter.gguf");
        write_gguf_adapter(&case.join(adapter), &case.join("model"), &path, &AtomicBool::new(false), &|_| {}).unwrap();
        found.insert(format!("{family} {name}"), hash_file(&path).unwrap().to_string());
    }
    let seen: BTreeMap<String, String> = seen.into_iter().map(|(name, hash)| (name.to_owned(), hash.to_owned())).collect();
    assert_eq!(found, seen);
}

#[test]
fn halves_and_blocks_are_near_the_numbers() {
    let model = golden("archs/llama/model");
    let exact = exported(&model, Kind::F32).0;
    for (kind, bound) in [(Kind::F16, 5e-4), (Kind::Bf16, 4e-3), (Kind::Q8_0, 5e-3)] {
        let (gguf, _) = exported(&model, kind);
        for (name, (shape, numbers)) in &gguf.tensors {
            let (expected_shape, expected) = &exact.tensors[name];
            assert_eq!(shape, expected_shape);
            let scale = largest(expected.iter().map(|number| number.abs()));
            let off = difference(numbers, expected);
            assert!(off <= bound * scale, "{kind:?} {name}: {off} of {scale}");
            assert!(shape.len() > 1 || off == 0.0, "{name}: a vector stays in f32");
        }
    }
}

#[test]
fn an_adapter_adds_the_same_with_alpha_over_r() {
    let llama = golden("archs/llama");
    let spec = Folder::open(&llama.join("model")).unwrap().spec;
    let names: Vec<String> = spec.projections().into_iter().map(|linear| linear.name).collect();
    for variant in ["adapter", "variants/rslora/adapter", "variants/patterns/adapter", "variants/layers_to_transform/adapter"] {
        let (adapter, folder) = (llama.join(variant), tempfile::tempdir().unwrap());
        let path = folder.path().join("new/adapter.gguf");
        write_gguf_adapter(&adapter, &llama.join("model"), &path, &AtomicBool::new(false), &|_| {}).unwrap();
        let gguf = read(&path);
        assert_eq!((&*gguf.pairs["general.type"], &*gguf.pairs["adapter.type"]), ("adapter", "lora"));
        let alpha: f64 = gguf.pairs["adapter.lora.alpha"].parse().unwrap();
        let config = peft::read_config(&adapter).unwrap();
        let numbers = peft::read_numbers(&adapter, &config, &spec.projections()).unwrap();
        let targets = config.resolve(&names).unwrap();
        assert_eq!(gguf.tensors.len(), 2 * targets.len(), "{variant}");
        for target in targets.iter().filter(|target| target.module.ends_with("down_proj")) {
            let layer = target.module.split('.').nth(2).unwrap();
            let part = |end: &str| &gguf.tensors[&format!("blk.{layer}.ffn_down.weight.lora_{end}")];
            let ([a, b], (a_shape, a_there), (b_shape, b_there)) = (&numbers[&target.module], part("a"), part("b"));
            assert_eq!((a_shape[1], b_shape[0], a_there), (target.rank, target.rank, a), "{variant}");
            let there: Vec<f32> = b_there.iter().map(|b| (f64::from(*b) * alpha / target.rank as f64) as f32).collect();
            let ours: Vec<f32> = b.iter().map(|b| (f64::from(*b) * target.scale) as f32).collect();
            assert!(difference(&there, &ours) <= 1e-7, "{variant}: {}", target.module);
        }
    }
}

#[test]
fn what_llama_cpp_would_do_otherwise_is_refused() {
    let desk = Desk::new();
    let export = |words: &[&str]| desk.run(&[&["export", "base", "--to", "gguf", "--out", "new/model.gguf"], words].concat());
    export(&["--json"]).says("a model", 0, &[]);
    export(&[]).says("an output that is there", 73, &["`new/model.gguf` exists", "hint: choose another `--out`"]);
    desk.remove("new/model.gguf");
    export(&["--dtype", "q4_k"]).says("type", 2, &["f32, f16, bf16, q8_0"]);

    let (config, tokenizer) = (desk.read("base/config.json"), desk.read("base/tokenizer.json"));
    desk.edit("base/config.json", "\"rope_type\": \"llama3\"", "\"rope_type\": \"dynamic\"");
    export(&[]).says("rope", 65, &["a RoPE that is `dynamic`", "llama.cpp is not known to compute that"]);
    desk.write("base/config.json", &config);
    desk.edit("base/tokenizer.json", "\\\\p{N}{1,3}", "\\\\p{N}{1,4}");
    export(&[]).says(
        "other words",
        65,
        &["the tokenizer of `base/tokenizer.json` cannot be told to llama.cpp: its pre_tokenizer is none"],
    );
    desk.write("base/tokenizer.json", &tokenizer);
    desk.edit("base/tokenizer.json", "\"ignore_merges\": true", "\"ignore_merges\": false");
    export(&[]).says("other merges", 65, &["`ignore_merges` is false"]);
    desk.write("base/tokenizer.json", &tokenizer);
    desk.cut("base/model.safetensors", 0.5);
    export(&[]).says("cut weights", 65, &["is not a whole safetensors file"]);
    desk.run(&["export", "none", "--to", "gguf", "--out", "x"]).says("no model", 66, &["`none` does not exist"]);
    desk.run(&["export", "base", "--to", "gguf-adapter", "--out", "x"]).says("no adapter", 65, &["`base` holds no adapter"]);
    assert_eq!(fs::read_dir(desk.path("new")).unwrap().count(), 0, "nothing half is left");
}

#[test]
fn a_run_of_ours_is_exported_with_its_base() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.run(&["export", "run/adapter", "--to", "gguf-adapter", "--out", "adapter.gguf"]).says("adapter", 0, &[]);
    assert_eq!(read(&desk.path("adapter.gguf")).tensors.len(), 28);
    let mistral = golden("archs/mistral/model").display().to_string();
    let ran = desk.run(&["export", &mistral, "--to", "gguf", "--out", "mistral.gguf"]);
    ran.says("sliding window", 0, &["note: llama.cpp has no sliding window for this model: beyond 5 tokens"]);
}

#[test]
fn what_would_be_passed_over_is_refused() {
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    desk.write("own.jinja", "{{ messages }}");
    let export = |from: &str, to: &str, more: &[&str]| desk.run(&[&["export", from, "--to", to, "--out", "x"], more].concat());
    for to in ["peft", "mlx", "gguf-adapter"] {
        export("run", to, &["--dtype", "q8_0"]).says(to, 2, &["--dtype: an adapter's matrices stay as they are"]);
        export("run", to, &["--chat-template", "own.jinja"]).says(to, 2, &["--chat-template: an adapter's files have none"]);
    }
    for to in ["gguf", "ollama"] {
        export("base", to, &["--base", "base"]).says(to, 2, &["--base: `base` is a model, which has no base"]);
        let said = ["--chat-template: `base` is a model, whose template lies in its folder", "hint: lay the template as"];
        export("base", to, &["--chat-template", "own.jinja"]).says(to, 2, &said);
    }
    assert!(!desk.path("x").exists());
}

#[test]
fn what_is_at_the_place_of_the_output_stays() {
    let desk = Desk::new();
    desk.write("file", "mine");
    for out in ["file", "file/"] {
        let ran = desk.run(&["export", "base", "--to", "gguf", "--out", out]);
        ran.says(out, 73, &[&format!("`{out}` exists")]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", desk.path("link")).unwrap();
        desk.run(&["export", "base", "--to", "gguf", "--out", "link"]).says("a link", 73, &["`link` exists"]);
        assert!(desk.path("link").is_symlink());
    }
    assert_eq!(desk.read_text("file"), "mine");
}

#[test]
fn who_stops_an_export_finds_nothing_left() {
    let (desk, stopped) = (Desk::new(), AtomicBool::new(true));
    let error = write_gguf_model(&desk.path("base"), &desk.path("new/x.gguf"), Kind::F16, &stopped, &|_| {}).unwrap_err();
    assert_eq!((error.exit(), error.to_string().as_str()), (Exit::Signal, "stopped: nothing was written"));
    assert_eq!(fs::read_dir(desk.path("new")).unwrap().count(), 0);
}

/// A signal after the merge, while the GGUF file grows, takes the merged model along.
#[cfg(unix)]
#[test]
fn a_signal_leaves_no_merged_model_behind() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let desk = Desk::new();
    desk.run(&["train", "recipe.yaml"]).says("train", 0, &[]);
    for delay in (0..12).map(|step| std::time::Duration::from_millis(3 * step)) {
        let signal = if delay.as_millis() % 2 == 0 { Signal::SIGINT } else { Signal::SIGTERM };
        let folder = desk.path("new");
        let _ = fs::remove_dir_all(&folder);
        let mut child = desk.command(&["export", "run", "--to", "ollama", "--out", "new/x"]);
        let mut child = child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        while !folder.exists() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(delay);
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let code = child.wait().unwrap().code();
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        match code {
            Some(0) => assert_eq!(left, ["x"]),
            code => assert!(code == Some(130) && left.is_empty(), "{code:?}, {left:?}"),
        }
    }
}
