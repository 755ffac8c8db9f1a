//! `rankine try-template`, hidden: compiles and renders a template from stdin, in a process with
//! limits on memory and time that writes no file. The way in which the process ends is the answer.

use std::io::Read;
use std::path::Path;

use super::Failure;
use crate::data::template::sandbox;
use crate::files;

pub(super) fn try_template() -> Result<(), Failure> {
    let failed = |cause| files::FileError::new("read", Path::new("stdin"), cause);
    let mut request = String::new();
    std::io::stdin()
        .read_to_string(&mut request)
        .map_err(failed)?;
    confine(sandbox::memory_bytes(&request)).map_err(failed)?;
    Ok(sandbox::carry_out(&request).map_err(failed)?)
}

/// Limits this process. At its CPU time limit it gets SIGXCPU, which its parent recognizes, and a
/// second later SIGKILL.
#[cfg(unix)]
fn confine(memory_bytes: u64) -> std::io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    let seconds = sandbox::TIME.as_secs();
    setrlimit(Resource::RLIMIT_CPU, seconds, seconds + 1)?;
    let mut limits = vec![(Resource::RLIMIT_CORE, 0), (Resource::RLIMIT_FSIZE, 0)];
    // On other systems, the address space of a fresh process is already larger.
    if cfg!(target_os = "linux") {
        limits.push((Resource::RLIMIT_AS, memory_bytes + address_space_bytes()));
    }
    for (resource, most) in limits {
        setrlimit(resource, most, most)?;
    }
    Ok(())
}

/// Returns the current address space of the process. Most of it is the program, which is larger
/// with GPU support. Source: proc(5), `VmSize`.
#[cfg(unix)]
fn address_space_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmSize:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) << 10
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as where there are limits")]
fn confine(_memory_bytes: u64) -> std::io::Result<()> {
    Ok(())
}
