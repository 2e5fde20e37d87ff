//! A container's root as a list of steps, as a pure function of the host's top folders and the container's mounts.
//!
//! The root is a fresh memory file system. The host's programs are bound in, read-only; `/etc` is a folder of links to
//! the host's with our own `resolv.conf`, `hosts` and `hostname`; `/var`, `/run` and `/tmp` are empty. A mount point
//! inside `/opt`, `/home` or `/etc` opens that folder up: its entries are bound (or linked) one by one beside the mount
//! point. Inside the system's own folders a mount point is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::sandbox::protocol::Step;

/// What lies at a path of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file, device or the like.
    File,
    /// A symbolic link and its text.
    Link(PathBuf),
}

/// The host's files, so far as the plan looks at them.
pub trait Host {
    /// What lies at `path` itself, links not followed.
    fn entry(&self, path: &Path) -> Option<Entry>;
    /// The names in a folder.
    fn names(&self, folder: &Path) -> Vec<String>;
}

/// The machine's own files.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl Host for Machine {
    fn entry(&self, path: &Path) -> Option<Entry> {
        let kind = std::fs::symlink_metadata(path).ok()?.file_type();
        Some(match kind {
            _ if kind.is_symlink() => Entry::Link(std::fs::read_link(path).ok()?),
            _ if kind.is_dir() => Entry::Folder,
            _ => Entry::File,
        })
    }

    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// A volume in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether the source is a folder.
    pub folder: bool,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// What a root is made from.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// Files below `/etc` with texts of our own, by name.
    pub etc: BTreeMap<String, String>,
    /// Folders that must be there under their own path: those of programs.
    pub keep: Vec<PathBuf>,
}

/// The system's folders: bound whole.
const SYSTEM: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "dev", "sys"];
/// Bound whole, or opened up where a mount point lies inside.
const OPENED: &[&str] = &["opt", "home"];
/// Fresh folders. `/root` may be passed through by any user, since our programs may lie below it.
const FRESH: &[(&str, u32)] =
    &[("/run", 0o755), ("/tmp", 0o1777), ("/var", 0o755), ("/var/tmp", 0o1777), ("/root", 0o711)];
/// Where the links of `/etc` point.
const HOST_ETC: &str = "/.host/etc";

/// Plans a root. The error names the mount and what to do.
pub fn plan(wanted: &Wanted, host: &impl Host) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    for mount in &wanted.mounts {
        check_target(&mount.target)?;
    }
    for (path, mode) in FRESH {
        steps.push(Step::Folder { path: path.into(), mode: *mode });
    }
    steps.push(Step::Link { path: "/var/run".into(), to: "/run".into() });
    let targets: Vec<PathBuf> = wanted.mounts.iter().map(|mount| resolved(&mount.target)).collect();
    for name in SYSTEM.iter().chain(OPENED) {
        let path = Path::new("/").join(name);
        let writable = *name == "dev";
        let open: BTreeSet<PathBuf> =
            targets.iter().filter(|target| target.starts_with(&path)).cloned().collect();
        let open = if OPENED.contains(name) { open } else { BTreeSet::new() };
        show(&path, !writable, &open, host, &mut steps);
    }
    if host.entry(Path::new("/dev/shm")) == Some(Entry::Folder) {
        steps.push(Step::Memory { path: "/dev/shm".into() });
    }
    steps.push(Step::Processes { path: "/proc".into() });
    etc(wanted, &targets, host, &mut steps);
    // Outer mounts first.
    let mut mounts: Vec<(&Mount, PathBuf)> = wanted.mounts.iter().zip(targets).collect();
    mounts.sort_by_key(|(_, target)| target.components().count());
    for (mount, target) in mounts {
        let Mount { source, folder, read_only, .. } = mount.clone();
        steps.push(Step::Bind { source, target, folder, read_only });
    }
    // Last, so that a volume on `/tmp` does not hide programs below it.
    for folder in &wanted.keep {
        let seen = SYSTEM.iter().chain(OPENED).any(|name| folder.starts_with(Path::new("/").join(name)));
        if !seen {
            let (source, target) = (folder.clone(), folder.clone());
            steps.push(Step::Bind { source, target, folder: true, read_only: true });
        }
    }
    Ok(steps)
}

/// `/var/run` is `/run`.
fn resolved(target: &Path) -> PathBuf {
    match target.strip_prefix("/var/run") {
        Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from("/run"),
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => target.components().collect(),
    }
}

fn check_target(target: &Path) -> Result<(), String> {
    let shown = target.display();
    if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
        return Err(format!("mountPath {shown}: must be an absolute path without .."));
    }
    if target == Path::new("/") {
        return Err("mountPath /: the container's root cannot be replaced".to_owned());
    }
    let first = target.components().nth(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = first.unwrap_or_default();
    let refused = SYSTEM.contains(&first.as_str()) || first == "proc" || first == ".host";
    if refused && target != Path::new("/dev/shm") {
        return Err(format!(
            "mountPath {shown}: /{first} is the host's, bound into the container, and cannot hold mount points. \
             Use a path outside /{}, /proc (for example below /var, /run, /tmp, /etc, /opt or a new folder).",
            SYSTEM.join(", /")
        ));
    }
    Ok(())
}

/// Shows the host's `path`, whole or with room for the mount points in `open`.
fn show(path: &Path, read_only: bool, open: &BTreeSet<PathBuf>, host: &impl Host, steps: &mut Vec<Step>) {
    let inner = open.iter().any(|target| target != path && target.starts_with(path));
    match host.entry(path) {
        None => {}
        Some(Entry::Link(to)) => steps.push(Step::Link { path: path.into(), to }),
        Some(Entry::File) if open.contains(path) => {}
        Some(Entry::File) => {
            steps.push(Step::Bind { source: path.into(), target: path.into(), folder: false, read_only });
        }
        Some(Entry::Folder) if !inner => {
            steps.push(Step::Bind { source: path.into(), target: path.into(), folder: true, read_only });
        }
        Some(Entry::Folder) => {
            steps.push(Step::Folder { path: path.into(), mode: 0o755 });
            for name in host.names(path) {
                show(&path.join(name), read_only, open, host, steps);
            }
        }
    }
}

/// `/etc` as links into the host's, opened up where a mount point lies inside.
fn etc(wanted: &Wanted, targets: &[PathBuf], host: &impl Host, steps: &mut Vec<Step>) {
    let etc = Path::new("/etc");
    steps.push(Step::Bind { source: etc.into(), target: HOST_ETC.into(), folder: true, read_only: true });
    let own: BTreeSet<PathBuf> = wanted.etc.keys().map(|name| etc.join(name)).collect();
    link_folder(etc, &own, targets, host, steps);
    for (name, contents) in &wanted.etc {
        if !targets.contains(&etc.join(name)) {
            steps.push(Step::File { path: etc.join(name), contents: contents.clone() });
        }
    }
}

fn link_folder(
    folder: &Path,
    own: &BTreeSet<PathBuf>,
    targets: &[PathBuf],
    host: &impl Host,
    steps: &mut Vec<Step>,
) {
    steps.push(Step::Folder { path: folder.into(), mode: 0o755 });
    for name in host.names(folder) {
        let path = folder.join(&name);
        if own.contains(&path) || targets.contains(&path) {
            continue;
        }
        let inner = targets.iter().any(|target| target.starts_with(&path));
        match host.entry(&path) {
            Some(Entry::Folder) if inner => link_folder(&path, own, targets, host, steps),
            // A relative link means something else elsewhere, so the link itself is copied.
            Some(Entry::Link(to)) => steps.push(Step::Link { path, to }),
            Some(_) => {
                let rest = path.strip_prefix("/etc").unwrap_or(&path).to_path_buf();
                steps.push(Step::Link { path, to: Path::new(HOST_ETC).join(rest) });
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host of a few paths; those that end with `/` are folders, `a -> b` is a link.
    struct Fake(Vec<&'static str>);

    impl Host for Fake {
        fn entry(&self, path: &Path) -> Option<Entry> {
            let path = path.to_str().unwrap();
            self.0.iter().find_map(|line| match line.split_once(" -> ") {
                Some((from, to)) if from == path => Some(Entry::Link(to.into())),
                None if *line == path => Some(Entry::File),
                None if line.starts_with(&format!("{path}/")) => Some(Entry::Folder),
                _ => None,
            })
        }
        fn names(&self, folder: &Path) -> Vec<String> {
            let prefix = format!("{}/", folder.display());
            let names: BTreeSet<String> = self
                .0
                .iter()
                .filter_map(|line| line.strip_prefix(&prefix))
                .map(|rest| rest.split(" -> ").next().unwrap().split('/').next().unwrap().to_owned())
                .filter(|name| !name.is_empty())
                .collect();
            names.into_iter().collect()
        }
    }

    fn host() -> Fake {
        Fake(vec![
            "/bin -> usr/bin",
            "/usr/bin/sleep",
            "/dev/null",
            "/dev/shm/",
            "/opt/envoy/bin",
            "/opt/tool",
            "/home/anna/x",
            "/etc/passwd",
            "/etc/resolv.conf",
            "/etc/mtab -> ../proc/self/mounts",
            "/etc/ssl/certs/ca.pem",
            "/etc/ssl/openssl.cnf",
        ])
    }

    /// The steps that concern `prefix`, as text.
    fn steps(targets: &[&str], prefix: &str) -> Vec<String> {
        let mount = |target: &&str| Mount {
            source: "/volume".into(),
            target: target.into(),
            folder: true,
            read_only: false,
        };
        let wanted = Wanted {
            mounts: targets.iter().map(mount).collect(),
            etc: BTreeMap::from([("resolv.conf".to_owned(), "nameserver 10.96.0.10\n".to_owned())]),
            keep: vec!["/work/bin".into(), "/usr/lib/lateen".into()],
        };
        let text = |step: &Step| match step {
            Step::Folder { path, .. } => format!("folder {}", path.display()),
            Step::Link { path, to } => format!("link {} {}", path.display(), to.display()),
            Step::File { path, .. } => format!("file {}", path.display()),
            Step::Bind { source, target, read_only, .. } => {
                format!(
                    "bind{} {} {}",
                    if *read_only { " ro" } else { "" },
                    source.display(),
                    target.display()
                )
            }
            Step::Memory { path } => format!("memory {}", path.display()),
            Step::Processes { path } => format!("processes {}", path.display()),
        };
        let all = plan(&wanted, &host()).unwrap();
        all.iter().map(text).filter(|line| line.contains(prefix)).collect()
    }

    #[test]
    fn the_host_is_bound_in() {
        let check = |prefix: &str, expected: &[&str]| assert_eq!(steps(&[], prefix), expected, "{prefix}");
        check("/bin", &["link /bin usr/bin", "bind ro /work/bin /work/bin"]);
        check("/usr", &["bind ro /usr /usr"]);
        check("/dev", &["bind /dev /dev", "memory /dev/shm"]);
        check("/opt", &["bind ro /opt /opt"]);
        check("/proc", &["processes /proc", "link /etc/mtab ../proc/self/mounts"]);
    }

    #[test]
    fn etc_is_a_folder_of_links() {
        assert_eq!(
            steps(&[], "/etc"),
            [
                "bind ro /etc /.host/etc",
                "folder /etc",
                "link /etc/mtab ../proc/self/mounts",
                "link /etc/passwd /.host/etc/passwd",
                "link /etc/ssl /.host/etc/ssl",
                "file /etc/resolv.conf",
            ]
        );
        assert_eq!(
            steps(&["/etc/ssl/certs"], "/etc/ssl"),
            [
                "folder /etc/ssl",
                "link /etc/ssl/openssl.cnf /.host/etc/ssl/openssl.cnf",
                "bind /volume /etc/ssl/certs"
            ]
        );
        assert_eq!(steps(&["/etc/istio/proxy"], "istio"), ["bind /volume /etc/istio/proxy"]);
    }

    #[test]
    fn mount_points_in_opt_open_it_up() {
        assert_eq!(
            steps(&["/opt/ibm/wlp/output"], "/opt"),
            [
                "folder /opt",
                "bind ro /opt/envoy /opt/envoy",
                "bind ro /opt/tool /opt/tool",
                "bind /volume /opt/ibm/wlp/output"
            ]
        );
    }

    #[test]
    fn var_run_is_run_and_outer_mounts_come_first() {
        assert_eq!(
            steps(&["/var/run/secrets/tokens", "/run"], "/volume"),
            ["bind /volume /run", "bind /volume /run/secrets/tokens"]
        );
    }

    #[test]
    fn programs_are_there_whatever_is_mounted_above_them() {
        assert_eq!(steps(&["/work"], "/work"), ["bind /volume /work", "bind ro /work/bin /work/bin"]);
    }

    #[test]
    fn refused_mount_points() {
        for target in ["/usr/share/x", "/dev/x", "/proc/x", "/lib/x", "/", "relative", "/var/../usr"] {
            let mount = Mount { source: "/v".into(), target: target.into(), folder: true, read_only: false };
            let error = plan(&Wanted { mounts: vec![mount], ..Wanted::default() }, &host()).unwrap_err();
            assert!(error.contains("mountPath") && error.contains(target), "{error}");
        }
    }
}
