//! The launcher: from the host's namespaces into the node's own.
//!
//! It runs before any thread exists. A `clone` makes user, mount, network, PID, IPC and UTS namespace in one step; the
//! parent then writes the child's uid and gid map (only a process outside may map more than one id), and the child
//! replaces itself by stage `init` of the same program. The kernel ends the child when the launcher dies
//! (PR_SET_PDEATHSIG), and everything in the PID namespace with it.
#![allow(unsafe_code)] // clone(2) without a new stack and prctl(2) have no safe wrapper.

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid};

use crate::namespace_settings::remedy;

/// Why the node's namespaces could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The kernel refuses namespaces to this user.
    #[error("this system does not let this user make namespaces ({step}: {source})\n{remedy}")]
    Namespaces {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// Settings to change.
        remedy: String,
    },
    /// Something else went wrong.
    #[error("{step}: {source}")]
    System {
        /// The step that failed.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Starts stage `init` of this program in namespaces of its own and stays with it to the end: signals are forwarded,
/// its exit status becomes ours. Must be called while the process has one thread.
pub fn launch() -> Result<ExitCode, LaunchError> {
    let system = |step| move |source: Errno| LaunchError::System { step, source: source.into() };
    let (release_read, release_write) = nix::unistd::pipe().map_err(system("pipe"))?;
    let (error_read, error_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(system("pipe"))?;
    // Signals are waited for, not handled: none may be lost between here and the wait.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before)).map_err(system("sigprocmask"))?;
    // SAFETY: prctl with constant arguments. Whoever started us is `lateen up`, and without it nothing may stay.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };

    // SAFETY: without CLONE_VM this is a fork; the process has one thread, so the child may do anything.
    let child = unsafe { libc::syscall(libc::SYS_clone, NAMESPACES | libc::SIGCHLD, 0, 0, 0, 0) };
    if child < 0 {
        let source = io::Error::last_os_error();
        return Err(LaunchError::Namespaces { step: "clone", remedy: remedy(), source });
    }
    if child == 0 {
        drop((release_write, error_read));
        let error = become_init(release_read, &before);
        let _ = std::fs::File::from(error_write).write_all(error.to_string().as_bytes());
        // SAFETY: ends the forked child without running the parent's exit handlers.
        unsafe { libc::_exit(1) };
    }
    drop((release_read, error_write));
    let child = Pid::from_raw(child as libc::pid_t);
    if let Err(source) = write_maps(child) {
        let _ = kill(child, Signal::SIGKILL);
        let _ = waitpid(child, None);
        return Err(LaunchError::Namespaces { step: "uid map", remedy: remedy(), source });
    }
    std::fs::File::from(release_write)
        .write_all(b"g")
        .map_err(|source| LaunchError::System { step: "start of init", source })?;
    let mut message = String::new();
    let _ = std::fs::File::from(error_read).read_to_string(&mut message);
    if !message.is_empty() {
        let _ = waitpid(child, None);
        let source = io::Error::other(message);
        return Err(LaunchError::Namespaces { step: "inside the namespaces", remedy: remedy(), source });
    }
    lead_out(child);
    Ok(attend(child, &signals))
}

/// Starts what leads out of the namespaces, where the host has such a program; it ends with the launcher.
fn lead_out(child: Pid) {
    use std::os::unix::process::CommandExt;
    let started = match crate::network::way_out(child.as_raw().unsigned_abs()) {
        crate::network::WayOut::None(reason) => Err(reason.to_owned()),
        crate::network::WayOut::Program(mut command) => {
            // SAFETY: prctl is async-signal-safe.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    Ok(())
                });
            }
            command.spawn().map(drop).map_err(|error| format!("{command:?}: {error}"))
        }
    };
    if let Err(reason) = started {
        crate::report(&format!("note: {reason}"));
    }
}

/// Forwards signals to `child` until it ends.
fn attend(child: Pid, signals: &SigSet) -> ExitCode {
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return ExitCode::from(code as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => return ExitCode::from(128 + signal as u8),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return ExitCode::FAILURE,
            },
            // PID 1 hears of SIGTERM only: one way to end is enough.
            Ok(_) => {
                let _ = kill(child, Signal::SIGTERM);
            }
            Err(_) => {}
        }
    }
}

/// The child's way from `clone` to `exec`. Returns only with an error.
fn become_init(release: OwnedFd, mask: &SigSet) -> io::Error {
    let prepared = (|| -> io::Result<()> {
        // SAFETY: prctl with constant arguments.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let mut byte = [0u8; 1];
        // An end of file means that the launcher gave up (or died before the death signal was set).
        std::fs::File::from(release)
            .read_exact(&mut byte)
            .map_err(|_| io::Error::other("the launcher ended"))?;
        let named = |what: &'static str| move |error: Errno| io::Error::other(format!("{what}: {error}"));
        nix::unistd::setgid(0.into()).map_err(named("setgid"))?;
        nix::unistd::setuid(0.into()).map_err(named("setuid"))?;
        // SAFETY: as above; changing ids has cleared the death signal.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .map_err(named("private mounts"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(named("mount of /proc"))?;
        // The host's sysfs stays where a fresh one (that of the new network namespace) is refused.
        let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), flags | MsFlags::MS_RDONLY, none);
        nix::unistd::sethostname("lateen").map_err(named("sethostname"))?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?;
        Ok(())
    })();
    if let Err(error) = prepared {
        return error;
    }
    match init_arguments() {
        Ok((program, arguments)) => match nix::unistd::execv(&program, &arguments) {
            Ok(never) => match never {},
            Err(error) => io::Error::other(format!("exec of {}: {error}", program.to_string_lossy())),
        },
        Err(error) => error,
    }
}

/// Our own program and arguments, with `--stage init` after the subcommand's words.
fn init_arguments() -> io::Result<(CString, Vec<CString>)> {
    let text = |word: &[u8]| CString::new(word).map_err(io::Error::other);
    let program = text(std::env::current_exe()?.as_os_str().as_bytes())?;
    let words: Vec<OsString> = std::env::args_os().collect();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let mut arguments = Vec::with_capacity(words.len() + 2);
    for (position, word) in words.into_iter().enumerate() {
        if position == end {
            arguments.push(text(b"--stage=init")?);
        }
        arguments.push(text(&word.into_vec())?);
    }
    if end == arguments.len() {
        arguments.push(text(b"--stage=init")?);
    }
    Ok((program, arguments))
}

/// Maps ids into the child's user namespace: all of ours one to one for root, else our own to 0.
fn write_maps(child: Pid) -> io::Result<()> {
    let folder = format!("/proc/{child}");
    if geteuid().is_root() {
        for kind in ["uid_map", "gid_map"] {
            let own = std::fs::read_to_string(format!("/proc/self/{kind}"))?;
            std::fs::write(format!("{folder}/{kind}"), identity_map(&own))?;
        }
        return Ok(());
    }
    std::fs::write(format!("{folder}/setgroups"), "deny")?;
    std::fs::write(format!("{folder}/uid_map"), format!("0 {} 1\n", geteuid()))?;
    std::fs::write(format!("{folder}/gid_map"), format!("0 {} 1\n", getegid()))
}

/// A map of every id that `own` (the text of `/proc/self/uid_map`) knows to itself.
fn identity_map(own: &str) -> String {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (inside, _outside, count) = (fields.next()?, fields.next()?, fields.next()?);
            Some(format!("{inside} {inside} {count}\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_map_keeps_every_known_id() {
        let check = |own: &str, expected: &str| assert_eq!(identity_map(own), expected);
        check("         0          0 4294967295\n", "0 0 4294967295\n");
        check("0 1000 1\n1 100000 65536\n", "0 0 1\n1 1 65536\n");
        check("", "");
    }
}
