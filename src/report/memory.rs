//! Peak memory of the process and free memory of the machine.

use std::path::Path;

/// Returns the peak resident memory of this process in bytes; `None` if the system does not report
/// it.
#[cfg(unix)]
pub fn peak_memory_bytes() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.max_rss())
        .ok()
        .map(|units| units * unit)
}

/// Returns the peak resident memory of this process in bytes; `None` if the system does not report
/// it.
#[cfg(not(unix))]
pub fn peak_memory_bytes() -> Option<u64> {
    None
}

/// Formats bytes of memory as `nvidia-smi` does: in MiB of 2^20, or in GiB of 2^30 from 10 GiB on.
pub fn mebibytes(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mebibytes if mebibytes >= 10_239.5 => format!("{:.1} GiB", mebibytes / 1024.0),
        mebibytes if mebibytes >= 9.95 => format!("{mebibytes:.0} MiB"),
        mebibytes => format!("{mebibytes:.1} MiB"),
    }
}

/// Returns the bytes that a new process could use without taking them from another: the available
/// memory of the system, or less if this process's control group has a limit.
///
/// `None` if the system does not report it.
///
/// Sources: proc(5), `MemAvailable`; <https://docs.kernel.org/admin-guide/cgroup-v2.html>,
/// `memory.max`; <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>,
/// `memory.limit_in_bytes`.
pub fn free_memory_bytes() -> Option<u64> {
    let of_system = kib_of(
        &std::fs::read_to_string("/proc/meminfo").ok()?,
        "MemAvailable:",
    )?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_version = |version: &Version| {
        let group = groups.lines().find_map(|line| version.group(line))?;
        let limits = Path::new(group)
            .ancestors()
            .filter_map(|group| version.free_in(&Path::new(version.root).join(group)));
        limits.min()
    };
    VERSIONS
        .iter()
        .filter_map(of_version)
        .chain([of_system])
        .min()
}

/// Files of a version of control groups: limit, usage, and the part of it that is page cache.
#[derive(Debug)]
struct Version {
    root: &'static str,
    /// Controller in the line of /proc/self/cgroup.
    controller: &'static str,
    limit: &'static str,
    used: &'static str,
    of_files: [&'static str; 2],
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        controller: "",
        limit: "memory.max",
        used: "memory.current",
        of_files: ["inactive_file ", "active_file "],
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        of_files: ["total_inactive_file ", "total_active_file "],
    },
];

impl Version {
    /// Returns the group in a line `number:controllers:/group`, if it is of this version's
    /// controller.
    fn group<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (controllers, group) = line.split_once(':')?.1.split_once(":/")?;
        controllers
            .split(',')
            .any(|controller| controller == self.controller)
            .then_some(group)
    }

    /// Returns the bytes that a control group may still use. The page cache counts as free, because
    /// the system gives it back.
    fn free_in(&self, folder: &Path) -> Option<u64> {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let (limit, used) = (number(self.limit)?, number(self.used)?);
        let stat = read("memory.stat").unwrap_or_default();
        let of_line = |key: &str| {
            stat.lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
                .unwrap_or(0)
        };
        Some(
            limit.saturating_sub(used.saturating_sub(self.of_files.into_iter().map(of_line).sum())),
        )
    }
}

/// Returns the bytes in a line `key   123 kB`.
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_limit_less_what_it_cannot_give_back() {
        for version in &VERSIONS {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let free = || version.free_in(folder.path());
            let write = |name: &str, text: &str| {
                std::fs::write(folder.path().join(name), text).expect("written");
            };
            assert_eq!(free(), None, "the root of all groups has no limit");
            write(version.used, "700\n");
            write(version.limit, "max\n");
            assert_eq!(free(), None);
            write(version.limit, "1000\n");
            assert_eq!(free(), Some(300));
            let [inactive, active] = version.of_files;
            write(
                "memory.stat",
                &format!("anon 500\n{inactive}150\n{active}50\n"),
            );
            assert_eq!(free(), Some(500));
            write(version.limit, "400\n");
            assert_eq!(free(), Some(0));
        }
    }

    #[test]
    fn a_version_finds_its_own_line() {
        let [second, first] = &VERSIONS;
        assert_eq!(second.group("0::/user/shell"), Some("user/shell"));
        assert_eq!(first.group("4:cpuset,memory:/user"), Some("user"));
        for (version, line) in [
            (second, "4:memory:/user"),
            (first, "0::/user"),
            (first, "3:cpu:/memory"),
            (first, "memory"),
        ] {
            assert_eq!(version.group(line), None, "{line}");
        }
    }

    #[test]
    fn memory_has_one_unit_from_plan_to_report() {
        let sizes = [
            0,
            900 << 10,
            10 << 20,
            549 << 20,
            10_239 << 20,
            10 << 30,
            80 << 30,
        ]
        .map(mebibytes);
        assert_eq!(
            sizes,
            [
                "0.0 MiB",
                "0.9 MiB",
                "10 MiB",
                "549 MiB",
                "10239 MiB",
                "10.0 GiB",
                "80.0 GiB"
            ]
        );
    }

    #[test]
    fn what_is_free_is_told_on_linux() {
        assert_eq!(
            kib_of("MemTotal:  9 kB\nMemAvailable:   24 kB\n", "MemAvailable:"),
            Some(24 << 10)
        );
        assert_eq!(free_memory_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
