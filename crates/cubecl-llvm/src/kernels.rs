//! Compiled kernels, kept as files: one a kernel, named by a hash of everything that it depends on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cubecl_core::hash::StableHasher;

use crate::config;
use crate::library::Nvrtc;

/// Changes where the files' form does.
const FORM: &str = "rankine kernel 1";

/// A kernel's machine code, from the folder where it is kept or from the compiler.
///
/// # Errors
/// The compiler's log.
pub(crate) fn compiled(nvrtc: &Nvrtc, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let Some(folder) = &config::get().kernels else { return nvrtc.compile(source, options) };
    let key = StableHasher::hash_one(&(FORM, nvrtc.version().to_string(), options, source));
    let file = folder.join(format!("{key:032x}.cubin"));
    if let Some(code) = read(&file) {
        return Ok(code);
    }
    let code = nvrtc.compile(source, options)?;
    // A folder that cannot be written to costs time at the next start, nothing else.
    let _ = write(&file, &code);
    Ok(code)
}

/// The code of a file that is whole: its hash, then the code.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(file).ok()?;
    let (hash, code) = bytes.split_at_checked(16)?;
    let is_whole = !code.is_empty() && hash == StableHasher::hash_one(&code).to_le_bytes();
    is_whole.then(|| bytes.split_off(16))
}

/// Written beside its place and moved there, so that no process reads half of it.
fn write(file: &Path, code: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = file.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    std::fs::create_dir_all(&folder)?;
    let beside = file.with_extension(format!("{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let whole = [&StableHasher::hash_one(&code).to_le_bytes(), code].concat();
    let written = std::fs::write(&beside, whole).and_then(|()| std::fs::rename(&beside, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_damaged_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kernels").join("a.cubin");
        assert_eq!(read(&file), None);
        write(&file, b"machine code").expect("written");
        assert_eq!(read(&file).as_deref(), Some(&b"machine code"[..]));
        assert_eq!(std::fs::read_dir(file.parent().expect("a folder")).expect("read").count(), 1, "nothing is left beside it");
        let mut bytes = std::fs::read(&file).expect("read");
        bytes[20] ^= 1;
        std::fs::write(&file, &bytes).expect("written");
        assert_eq!(read(&file), None);
        std::fs::write(&file, &bytes[..9]).expect("written");
        assert_eq!(read(&file), None);
    }
}
