//! How much memory the process has needed, and how much there is.

use std::path::Path;

/// Highest resident memory of this process so far, bytes; `None` where the system does not tell.
#[cfg(unix)]
pub fn peak_memory_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.max_rss()).ok().map(|units| units * unit)
}

/// Highest resident memory of this process so far, bytes; `None` where the system does not tell.
#[cfg(not(unix))]
pub fn peak_memory_bytes() -> Option<u64> {
    None
}

/// Bytes that a new process could have without taking them from another: what the system says is available, or less where this process's
/// control group is limited. `None` where the system does not tell.
///
/// Sources: proc(5), `MemAvailable`; <https://docs.kernel.org/admin-guide/cgroup-v2.html>, `memory.max`.
pub fn free_memory_bytes() -> Option<u64> {
    let of_system = kib_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let limits = Path::new(group).ancestors().filter_map(|group| free_in_group(&Path::new("/sys/fs/cgroup").join(group)));
    limits.chain([of_system]).min()
}

/// What a control group may still take; pages of files are given back when something else needs them.
fn free_in_group(folder: &Path) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let (limit, used) = (number("memory.max")?, number("memory.current")?);
    let stat = read("memory.stat").unwrap_or_default();
    let of_files = |key: &str| stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(of_files("inactive_file ") + of_files("active_file "))))
}

/// The bytes of a line `key   123 kB`.
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_limit_less_what_it_cannot_give_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        assert_eq!(free_in_group(folder.path()), None, "the root of all groups has no limit");
        write("memory.current", "700\n");
        write("memory.max", "max\n");
        assert_eq!(free_in_group(folder.path()), None);
        write("memory.max", "1000\n");
        assert_eq!(free_in_group(folder.path()), Some(300));
        write("memory.stat", "anon 500\ninactive_file 150\nactive_file 50\n");
        assert_eq!(free_in_group(folder.path()), Some(500));
        write("memory.max", "400\n");
        assert_eq!(free_in_group(folder.path()), Some(0));
    }

    #[test]
    fn what_is_free_is_told_on_linux() {
        assert_eq!(kib_of("MemTotal:  9 kB\nMemAvailable:   24 kB\n", "MemAvailable:"), Some(24 << 10));
        assert_eq!(free_memory_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
