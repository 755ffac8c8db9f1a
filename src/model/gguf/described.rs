//! A GGUF file as the folder of a model: its config, tokenizer and template are written into the
//! user's cache, from its metadata, and the weights stay where they are.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::super::ModelError;
use super::config::config;
use crate::data::tokenizer::gguf::GgufTokenizer;
use crate::files::gguf::{Gguf, is_gguf_name, split_paths};
use crate::files::{
    FileError, JSON_BYTES, cache_folder, is_there, private_cache_folder, read_text_up_to,
    write_all, write_folder_atomic,
};

/// The file that names the weights of a described folder.
const POINTER: &str = "gguf.json";
/// The key of their paths.
const FILES: &str = "files";
/// Subfolder of the cache.
const CACHE: &str = "gguf";
/// Changes whenever the description of the same file does.
const VERSION: u32 = 1;

/// Whether a path is a folder, or a GGUF file: what a base may be.
pub fn is_base(path: &Path) -> bool {
    path.is_dir() || is_gguf(path)
}

/// Whether a path is a file that is named as a GGUF file is, or begins as one.
fn is_gguf(path: &Path) -> bool {
    path.is_file() && (is_gguf_name(path) || begins_as_gguf(path))
}

fn begins_as_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut first = [0; 4];
    std::fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut first))
        .is_ok_and(|()| first == *b"GGUF")
}

/// Returns the folder that describes the base at a path: of a GGUF file one in the user's cache,
/// and of anything else the path itself.
///
/// # Errors
/// The GGUF file is damaged or of a model that is not known, or the cache cannot be written.
pub fn base_folder(path: &Path) -> Result<PathBuf, ModelError> {
    base_folder_in(path, &cache_folder())
}

/// Does the same as [`base_folder`] with another cache.
///
/// # Errors
/// As of [`base_folder`].
pub fn base_folder_in(path: &Path, root: &Path) -> Result<PathBuf, ModelError> {
    if !is_gguf(path) {
        return Ok(path.to_owned());
    }
    let failed = |cause| ModelError::from(FileError::new("read", path, cause));
    let paths = split_paths(path)?
        .iter()
        .map(|path| std::path::absolute(path).map_err(failed))
        .collect::<Result<Vec<_>, _>>()?;
    let files = Gguf::open_all(path)?;
    let key = key(&files, &paths).map_err(failed)?;
    let folder = root.join(CACHE).join(key);
    if is_there(&folder.join(POINTER))? {
        return Ok(folder);
    }
    let described = described(&files, &paths)?;
    private_cache_folder(root)?;
    let parent = root.join(CACHE);
    std::fs::create_dir_all(&parent).map_err(|cause| FileError::new("create", &parent, cause))?;
    let written = write_folder_atomic(&folder, |new| write_all(new, &described));
    match written {
        // Another process has described it meanwhile.
        Err(_) if is_there(&folder.join(POINTER))? => Ok(folder),
        written => Ok(written.map(|()| folder)?),
    }
}

/// Returns the name of the folder: of the paths, sizes, times and headers of the files.
fn key(files: &[Gguf], paths: &[PathBuf]) -> Result<String, std::io::Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    for (file, path) in files.iter().zip(paths) {
        let (metadata, name) = (path.metadata()?, path.as_os_str().as_encoded_bytes());
        let time = metadata.modified()?.duration_since(UNIX_EPOCH);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(&metadata.len().to_le_bytes());
        hasher.update(&time.map_or(0, |time| time.as_nanos()).to_le_bytes());
        hasher.update(file.header());
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

/// Returns the files of the folder.
fn described(files: &[Gguf], paths: &[PathBuf]) -> Result<Vec<(PathBuf, Vec<u8>)>, ModelError> {
    let tokenizer = GgufTokenizer::of(&files[0])?;
    let files = [
        ("config.json", Value::Object(config(files)?)),
        ("generation_config.json", tokenizer.generation),
        ("tokenizer.json", tokenizer.tokenizer),
        ("tokenizer_config.json", tokenizer.config),
        (POINTER, json!({FILES: paths})),
    ];
    let file = |(name, value): (&str, Value)| {
        let text = serde_json::to_string_pretty(&value).expect("a value of JSON can be written");
        (PathBuf::from(name), text.into_bytes())
    };
    Ok(files.map(file).into())
}

/// Returns the files of a described folder; `None` for other folders.
///
/// # Errors
/// The file that names them cannot be read.
pub fn gguf_paths(folder: &Path) -> Result<Option<Vec<PathBuf>>, ModelError> {
    let pointer = folder.join(POINTER);
    if !is_there(&pointer)? {
        return Ok(None);
    }
    let fault = |message: &str| ModelError::Config {
        path: pointer.clone(),
        message: message.to_owned(),
        hint: Some("remove the folder: it is written anew".to_owned()),
    };
    let value: Value = serde_json::from_str(&read_text_up_to(&pointer, JSON_BYTES)?)
        .map_err(|_| fault("not valid JSON"))?;
    let paths: Option<Vec<PathBuf>> = value[FILES].as_array().and_then(|paths| {
        paths
            .iter()
            .map(|path| path.as_str().map(PathBuf::from))
            .collect()
    });
    paths
        .filter(|paths| !paths.is_empty())
        .map(Some)
        .ok_or_else(|| fault("`files` is no list of paths"))
}

/// Returns the path by which the user knows the base in a folder: the first GGUF file of a
/// described one.
pub fn user_path(folder: &Path) -> PathBuf {
    let paths = gguf_paths(folder).ok().flatten();
    paths
        .and_then(|paths| paths.into_iter().next())
        .unwrap_or_else(|| folder.to_owned())
}
