//! What a mesh that has ended should not have left behind.

use std::collections::BTreeSet;
use std::path::Path;

/// What can be left behind on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes whose program lies in the folder of the test's own binaries.
    pub processes: BTreeSet<String>,
    /// Mount points, of this process's mount namespace.
    pub mounts: BTreeSet<String>,
    /// Network interfaces, of this process's network namespace.
    pub interfaces: BTreeSet<String>,
    /// Named network namespaces.
    pub namespaces: BTreeSet<String>,
}

impl Leftovers {
    /// Looks. `binaries` is the folder from which the mesh was started; nobody else runs programs from it.
    pub fn look(binaries: &Path) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            processes: processes(binaries),
            mounts: mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect(),
            interfaces: names("/sys/class/net"),
            namespaces: names("/run/netns"),
        }
    }
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes started from `binaries`, as `PID COMMAND`.
pub fn processes(binaries: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.parse::<u32>().ok()?;
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            program.starts_with(binaries).then(|| {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                format!("{name} {}", String::from_utf8_lossy(&command).replace('\0', " "))
            })
        })
        .collect()
}
