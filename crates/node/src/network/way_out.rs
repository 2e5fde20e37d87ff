//! The way from the node's namespace to the world: by a program that the host has, or none.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The interface that leads out, where there is one.
pub const UPLINK: &str = "outside";

/// How Pods reach what is not in the mesh.
#[derive(Debug)]
pub enum WayOut {
    /// To be started in the host's namespaces, once the node's exist; it ends with them.
    Program(Command),
    /// There is none, for this reason.
    None(&'static str),
}

/// The way out for the namespaces of process `pid`. To be asked, and its program started, in the host's namespaces.
pub fn way_out(pid: u32) -> WayOut {
    choose(pid, |name| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    })
}

fn choose(pid: u32, find: impl Fn(&str) -> Option<PathBuf>) -> WayOut {
    if let Some(pasta) = find("pasta") {
        let mut command = program(&pasta);
        command.args(["--foreground", "--quiet", "--config-net", "--ns-ifname", UPLINK]);
        // Nothing is forwarded inwards: node ports are ours.
        command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]).arg(pid.to_string());
        return WayOut::Program(command);
    }
    if let Some(slirp) = find("slirp4netns") {
        let mut command = program(&slirp);
        command.arg(format!("--userns-path=/proc/{pid}/ns/user"));
        command
            .args(["--configure", "--mtu=65520", "--disable-host-loopback"])
            .arg(pid.to_string())
            .arg(UPLINK);
        return WayOut::Program(command);
    }
    WayOut::None(
        "Pods cannot reach addresses outside the mesh: install passt (pasta) or slirp4netns and start again",
    )
}

fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_used() {
        let check = |installed: &[&str], expected: &str| {
            let way = choose(7, |name| installed.contains(&name).then(|| Path::new("/usr/bin").join(name)));
            let text = match way {
                WayOut::Program(command) => format!("{command:?}").replace('"', ""),
                WayOut::None(reason) => reason.to_owned(),
            };
            assert!(text.starts_with(expected), "{text}");
        };
        check(
            &["slirp4netns"],
            "/usr/bin/slirp4netns --userns-path=/proc/7/ns/user --configure --mtu=65520 --disable-host-loopback 7 outside",
        );
        check(&["slirp4netns", "pasta"], "/usr/bin/pasta --foreground");
        check(&[], "Pods cannot reach addresses outside");
    }
}
