//! Compiled kernels, kept as files: one a kernel, named by a hash of everything that it depends on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use cubecl_core::hash::StableHasher;

use crate::config;
use crate::library::Nvrtc;

/// Changes where the files' form does.
const FORM: &str = "rankine kernel 2";

/// A kernel's machine code, from the folder where it is kept or from the compiler.
///
/// # Errors
/// The compiler's log.
pub(crate) fn compiled(nvrtc: &Nvrtc, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
    let Some(folder) = &config::get().kernels else { return nvrtc.compile(source, options) };
    let key = StableHasher::hash_one(&(FORM, nvrtc.version().to_string(), options, by_first_place(source)));
    let file = folder.join(format!("{key:032x}.cubin"));
    if let Some(code) = read(&file) {
        return Ok(code);
    }
    let code = nvrtc.compile(source, options)?;
    // A folder that cannot be written to costs time at the next start, nothing else.
    let _ = write(&file, &code);
    Ok(code)
}

/// A source with its values (`v12`, `name_v12`) numbered by their first places: cubecl numbers them anew in each process, so that the same
/// kernel would have another key at each start. Sources that are equal after it differ in names alone. `.v4` is no value but a width in PTX.
fn by_first_place(source: &str) -> String {
    let in_a_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut numbers = HashMap::new();
    let (mut rest, mut before, mut out) = (source, b' ', String::with_capacity(source.len()));
    while let Some(at) = rest.find('v') {
        let digits = rest[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let end = at + 1 + digits;
        let before_it = if at == 0 { before } else { rest.as_bytes()[at - 1] };
        let begins = !before_it.is_ascii_alphanumeric() && before_it != b'.';
        let ends = !rest.as_bytes().get(end).copied().is_some_and(in_a_name);
        out.push_str(&rest[..=at]);
        if digits > 0 && begins && ends {
            let next = numbers.len();
            out.push_str(&numbers.entry(&rest[at + 1..end]).or_insert(next).to_string());
        } else {
            out.push_str(&rest[at + 1..end]);
        }
        before = rest.as_bytes()[end - 1];
        rest = &rest[end..];
    }
    out + rest
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
    fn a_kernel_is_the_same_whatever_its_values_are_called() {
        let source = |a: u8, b: u8, width: u8| {
            format!("float const v{a} = s_v{b}[1]; vv1 v{a}x dv{a} asm(\"ld.v{width}.f32\"); v{b} += v{a}; v")
        };
        assert_eq!(by_first_place(&source(7, 31, 4)), "float const v0 = s_v1[1]; vv1 v7x dv7 asm(\"ld.v4.f32\"); v1 += v0; v");
        assert_eq!(by_first_place(&source(31, 7, 4)).replace("v31x dv31", "v7x dv7"), by_first_place(&source(7, 31, 4)));
        assert_ne!(by_first_place(&source(7, 31, 4)), by_first_place(&source(7, 31, 2)));
        assert_ne!(by_first_place("v1 = v2 + v2"), by_first_place("v1 = v2 + v1"));
    }

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
