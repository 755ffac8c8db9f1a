//! Models of Ollama's and LM Studio's stores, made up here: found by their names, trained, and
//! refused where a store contradicts itself.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rankine::export::gguf::{GgmlType, write_gguf_model};
use rankine::fault::{Exit, Explain};
use rankine::hub::stores::{StoreError, StoreFolders, StoredModel, find_in, is_stored_name};
use serde_json::{Value, json};
use support::Desk;
use tempfile::TempDir;

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// A store in a temporary folder.
struct Store {
    folder: TempDir,
}

impl Store {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Writes Ollama's manifest of these layers.
    fn manifest(&self, name: &str, layers: &[Value]) {
        let manifest = json!({"schemaVersion": 2, "layers": layers});
        self.write(&format!("ollama/manifests/{name}"), manifest.to_string());
    }

    /// Writes Ollama's model `name` with a file of five bytes.
    fn model(&self, name: &str) {
        self.manifest(name, &[layer("model", DIGEST, 5)]);
        self.write(&format!("ollama/blobs/sha256-{DIGEST}"), "model");
    }

    fn find(&self, name: &str) -> Result<StoredModel, StoreError> {
        let folders = StoreFolders {
            ollama: vec![self.path("ollama"), self.path("second")],
            lm_studio: vec![self.path("studio")],
        };
        find_in(name, &folders).expect("a name of a store")
    }

    /// Holds that a name is refused with these words and a next step.
    fn refuses(&self, name: &str, said: &str) {
        let error = self.find(name).unwrap_err();
        let message = error
            .to_string()
            .replace(self.path("").to_str().unwrap(), "STORE/");
        assert!(message.contains(said), "{message}, expected {said}");
        assert_ne!(error.exit(), Exit::Internal);
        assert!(error.hint().is_some(), "{message}");
    }
}

fn layer(kind: &str, digest: &str, size: u64) -> Value {
    json!({
        "mediaType": format!("application/vnd.ollama.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": size,
    })
}

#[test]
fn names_of_stores_have_a_prefix() {
    for name in ["ollama:llama3.2:1b", "lmstudio:a/b"] {
        assert!(is_stored_name(name));
    }
    for name in ["llama3.2:1b", "a/b", "base", "/ollama:x", "Ollama:x"] {
        assert!(!is_stored_name(name), "{name}");
        assert!(find_in(name, &StoreFolders::default()).is_none(), "{name}");
    }
}

#[test]
fn models_of_ollama_are_found_by_their_names() {
    let store = Store::new();
    store.model("registry.ollama.ai/library/tiny/1b");
    store.model("registry.ollama.ai/library/tiny/latest");
    store.model("registry.ollama.ai/me/mine/latest");
    store.model("hf.co/org/Tiny-GGUF/Q4_K_M");
    for name in [
        "ollama:tiny",
        "ollama:tiny:1b",
        "ollama:library/tiny:1b",
        "ollama:registry.ollama.ai/library/tiny:1b",
        "ollama:me/mine",
        "ollama:hf.co/org/Tiny-GGUF:Q4_K_M",
    ] {
        let found = store.find(name).unwrap();
        assert_eq!(found.name, name);
        assert_eq!(
            found.path,
            store.path(&format!("ollama/blobs/sha256-{DIGEST}"))
        );
        assert_eq!(found.digest, Some(format!("sha256:{DIGEST}")));
        assert!(found.notes.is_empty(), "{:?}", found.notes);
    }
}

#[test]
fn what_ollama_has_beside_a_model_is_said() {
    let store = Store::new();
    store.model("registry.ollama.ai/library/tiny/latest");
    let beside = ["template", "system", "params", "license", "projector"];
    let mut layers: Vec<Value> = beside.map(|kind| layer(kind, OTHER, 1)).into();
    layers.push(layer("model", DIGEST, 5));
    store.manifest("registry.ollama.ai/library/tiny/latest", &layers);
    let notes = store.find("ollama:tiny").unwrap().notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].starts_with(
            "`ollama:tiny`: Ollama's template, system message and parameters are not read"
        ),
        "{notes:?}"
    );
    assert!(notes[1].contains("projector"), "{notes:?}");
}

#[test]
fn a_store_of_ollama_that_contradicts_itself_is_refused() {
    let store = Store::new();
    store.refuses(
        "ollama:tiny",
        "Ollama has no models here; looked in `STORE/ollama`",
    );
    store.model("registry.ollama.ai/library/tiny/1b");
    store.refuses(
        "ollama:tiny",
        "`ollama:tiny` is not in `STORE/ollama`; it has `tiny:1b`",
    );
    store.refuses("ollama:other:1b", "it has `tiny:1b`");
    for name in [
        "ollama:",
        "ollama:../../etc",
        "ollama:a/../b",
        "ollama:a b",
        "ollama:a/b/c/d",
    ] {
        store.refuses(name, "is not a name of a model");
    }
    let tiny = "registry.ollama.ai/library/tiny/1b";
    let refuses = |layers: &[Value], said: &str| {
        store.manifest(tiny, layers);
        store.refuses("ollama:tiny:1b", said);
    };
    refuses(&[], "has 0 layers of a model, expected one");
    let twice = [layer("model", DIGEST, 5), layer("model", OTHER, 5)];
    refuses(&twice, "has 2 layers of a model, expected one");
    let adapted = [layer("model", DIGEST, 5), layer("adapter", OTHER, 5)];
    refuses(&adapted, "is a model with an adapter, expected one without");
    refuses(
        &[layer("tensor", DIGEST, 5)],
        "is kept tensor by tensor, expected a GGUF file",
    );
    refuses(&[layer("model", OTHER, 5)], "does not exist");
    refuses(
        &[layer("model", DIGEST, 6)],
        "has 5 bytes, its manifest says 6",
    );
    for digest in ["../../../etc/passwd", "", &DIGEST[1..], "/etc/passwd"] {
        refuses(
            &[layer("model", digest, 5)],
            "expected `sha256:` and 64 digits",
        );
    }
    store.write(&format!("ollama/manifests/{tiny}"), "not JSON");
    store.refuses("ollama:tiny:1b", "is no list of layers");
    store.write(&format!("ollama/manifests/{tiny}"), "{\"layers\": 1}");
    store.refuses("ollama:tiny:1b", "is no list of layers");
    let large = format!("{{\"layers\": [], \"x\": \"{}\"}}", "x".repeat(1 << 20));
    store.write(&format!("ollama/manifests/{tiny}"), large);
    store.refuses("ollama:tiny:1b", "it is larger than 1 MiB");
    let huge = json!({"mediaType": "application/vnd.ollama.image.model", "size": -1});
    refuses(&[huge], "is no list of layers");
}

#[test]
fn a_name_that_two_stores_of_ollama_have_differently_is_refused() {
    let store = Store::new();
    store.model("registry.ollama.ai/library/tiny/latest");
    let second = json!({"layers": [layer("model", OTHER, 5)]});
    let path = "second/manifests/registry.ollama.ai/library/tiny/latest";
    store.write(path, second.to_string());
    store.write(&format!("second/blobs/sha256-{OTHER}"), "other");
    store.refuses("ollama:tiny", "stands for 2 files, expected one");
    let same = json!({"layers": [layer("model", DIGEST, 5)]});
    store.write(path, same.to_string());
    store.write(&format!("second/blobs/sha256-{DIGEST}"), "model");
    assert!(store.find("ollama:tiny").is_ok(), "one model at two places");
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_are_refused() {
    use std::os::unix::fs::symlink;

    let store = Store::new();
    store.manifest(
        "registry.ollama.ai/library/tiny/latest",
        &[layer("model", DIGEST, 5)],
    );
    let blob = store.path(&format!("ollama/blobs/sha256-{DIGEST}"));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    symlink(&blob, &blob).unwrap();
    store.refuses("ollama:tiny", &format!("sha256-{DIGEST}"));
    fs::remove_file(&blob).unwrap();
    symlink("gone", &blob).unwrap();
    store.refuses(
        "ollama:tiny",
        "it is a link to `gone`, which does not exist",
    );
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    store.refuses("ollama:tiny", "it is not a file");
    let manifest = store.path("ollama/manifests/registry.ollama.ai/library/ring/latest");
    fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    symlink(&manifest, &manifest).unwrap();
    store.refuses("ollama:ring", "ring/latest");
    store.write("studio/a/b/model.gguf", "x");
    symlink(store.path("studio/a"), store.path("studio/a/b/up")).unwrap();
    let found = store.find("lmstudio:a/b").unwrap();
    assert_eq!(found.path, store.path("studio/a/b/model.gguf"));
}

#[test]
fn models_of_lm_studio_are_found_by_their_folders() {
    let store = Store::new();
    store.write("studio/org/Tiny-GGUF/Tiny-Q4_K_M.gguf", "x");
    store.write("studio/org/Tiny-GGUF/README.md", "x");
    let one = store.find("lmstudio:org/Tiny-GGUF").unwrap();
    assert_eq!(
        one.path,
        store.path("studio/org/Tiny-GGUF/Tiny-Q4_K_M.gguf")
    );
    assert_eq!((one.digest, one.notes), (None, Vec::new()));
    store.write("studio/org/Tiny-GGUF/mmproj-Tiny.gguf", "x");
    let notes = store.find("lmstudio:org/Tiny-GGUF").unwrap().notes;
    assert!(notes[0].contains("projector"), "{notes:?}");
    for part in 1..=2 {
        store.write(&format!("studio/org/Split/a-{part:05}-of-00002.gguf"), "x");
    }
    let split = store.find("lmstudio:org/Split").unwrap();
    assert_eq!(
        split.path,
        store.path("studio/org/Split/a-00001-of-00002.gguf")
    );
    store.write("studio/org/Tiny-GGUF/Tiny-Q8_0.gguf", "x");
    store.refuses(
        "lmstudio:org/Tiny-GGUF",
        "stands for 2 files, expected one: `Tiny-Q4_K_M.gguf`, `Tiny-Q8_0.gguf`",
    );
    let named = store.find("lmstudio:org/Tiny-GGUF/Tiny-Q8_0.gguf").unwrap();
    assert_eq!(
        named.path,
        store.path("studio/org/Tiny-GGUF/Tiny-Q8_0.gguf")
    );
}

#[test]
fn a_model_that_lm_studio_does_not_have_is_refused() {
    let store = Store::new();
    store.refuses(
        "lmstudio:a/b",
        "LM Studio has no models here; looked in `STORE/studio`",
    );
    store.write("studio/org/tiny/model.safetensors", "x");
    store.write("studio/org/none/README.md", "x");
    store.refuses("lmstudio:org/other", "it has `org/none`, `org/tiny`");
    store.refuses(
        "lmstudio:org/tiny",
        "holds no GGUF file: its weights are those of MLX",
    );
    store.refuses(
        "lmstudio:org/none",
        "`lmstudio:org/none` holds no GGUF file",
    );
    store.write("studio/org/half/a-00001-of-00002.gguf", "x");
    store.refuses("lmstudio:org/half", "a-00002-of-00002.gguf` is missing");
    for name in [
        "lmstudio:",
        "lmstudio:org",
        "lmstudio:../../etc",
        "lmstudio:org/../x",
    ] {
        store.refuses(name, "is not a name of a model");
    }
}

/// The folder of a store may be a link itself.
#[cfg(unix)]
#[test]
fn one_folder_under_two_names_is_one() {
    let store = Store::new();
    store.write("studio/org/tiny/a.gguf", "x");
    std::os::unix::fs::symlink("studio", store.path("linked")).unwrap();
    let folders = StoreFolders {
        ollama: Vec::new(),
        lm_studio: vec![store.path("studio"), store.path("linked")],
    };
    let found = find_in("lmstudio:org/tiny", &folders).unwrap().unwrap();
    assert!(found.path.ends_with(Path::new("org/tiny/a.gguf")));
}

/// Lock and card have the name and the digest.
#[test]
fn a_model_of_a_store_is_trained() {
    let desk = Desk::new();
    let blob = format!("ollama/blobs/sha256-{DIGEST}");
    fs::create_dir_all(desk.path("ollama/blobs")).unwrap();
    let interrupt = AtomicBool::new(false);
    let (base, path) = (desk.path("base"), desk.path(&blob));
    let written = write_gguf_model(&base, &path, GgmlType::F16, &interrupt, &|_| {}).unwrap();
    let layers = [
        layer("template", OTHER, 1),
        layer("model", DIGEST, written.bytes),
    ];
    let manifest = json!({"schemaVersion": 2, "layers": layers});
    let tags = desk.path("ollama/manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&tags).unwrap();
    fs::write(tags.join("1b"), manifest.to_string()).unwrap();
    let store = desk.path("ollama");
    let store = [("OLLAMA_MODELS", store.to_str().unwrap())];
    let run = |arguments: &[&str]| {
        let ran = desk.run_with(arguments, &store);
        assert_eq!(ran.exit, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["inspect", "ollama:tiny:1b"]);
    desk.edit(
        "recipe.yaml",
        "base_model: base",
        "base_model: ollama:tiny:1b",
    );
    let checked = run(&["check", "recipe.yaml"]);
    let said = [&checked.stdout[..], &checked.stderr].concat();
    assert!(
        said.contains("`ollama:tiny:1b`: Ollama's template is not read"),
        "{said}"
    );
    run(&["train", "recipe.yaml"]);
    for name in ["run/recipe.lock.yaml", "run/README.md"] {
        let text = desk.read_text(name);
        assert!(text.contains("ollama:tiny:1b"), "{name}: {text}");
        assert!(text.contains(&format!("sha256:{DIGEST}")), "{name}: {text}");
    }
    run(&[
        "generate",
        "--adapter",
        "run",
        "--prompt",
        "the term",
        "--max-tokens",
        "2",
    ]);
    let before = fs::read(desk.path(&blob)).unwrap().len() as u64;
    assert_eq!(before, written.bytes, "the store is only read");
    desk.edit("recipe.yaml", "ollama:tiny:1b", "ollama:tiny:7b");
    let refused = desk.run_with(&["check", "recipe.yaml"], &store);
    assert_eq!(refused.exit, 65, "{refused:?}");
    let said = "is not in `DESK/ollama`; it has `tiny:1b`";
    assert!([refused.stdout, refused.stderr].concat().contains(said));
}
