//! The sandbox process itself: the Pod's PID 1.
#![allow(unsafe_code)] // `fork` in a process of one thread.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::protocol::{Exit, Report, Request, Root};
use super::{process, wire};

/// Runs stage `sandbox`. Must be called while the process has one thread.
pub(crate) fn run(descriptor: std::os::fd::RawFd) -> ExitCode {
    // The folders above a mount point must let every user of the Pod pass, whatever the node's user prefers.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let channel = match lateen_base::descriptors::inherited(descriptor) {
        Ok(channel) => channel,
        Err(_) => return ExitCode::FAILURE,
    };
    match separate(&channel) {
        Ok(true) => {}
        Ok(false) => return ExitCode::SUCCESS,
        Err(error) => {
            let _ = wire::send_report(channel.as_fd(), &Report::Broken { error: error.to_string() });
            return ExitCode::FAILURE;
        }
    }
    match (Sandbox { channel, processes: HashMap::new() }).serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Leaves the node's namespaces and forks; `true` in the child, which is PID 1 of the new PID namespace.
fn separate(channel: &OwnedFd) -> io::Result<bool> {
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(flags).map_err(|error| io::Error::other(format!("unshare: {error}")))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            wire::send_report(channel.as_fd(), &Report::Born { pid: child.as_raw() })?;
            Ok(false)
        }
        ForkResult::Child => Ok(true),
    }
}

struct Sandbox {
    channel: OwnedFd,
    /// What runs, by token.
    processes: HashMap<u64, Running>,
}

struct Running {
    pid: Pid,
    /// Identity of its mount namespace, which all its descendants share and nobody else (unless it joined).
    mounts: Option<u64>,
    owns_mounts: bool,
}

impl Sandbox {
    fn serve(mut self) -> io::Result<()> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        loop {
            let (requested, child_ended) = {
                let mut watched = [
                    PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
                    PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut watched, PollTimeout::NONE) {
                    Err(Errno::EINTR) => continue,
                    other => other?,
                };
                (watched[0].any() == Some(true), watched[1].any() == Some(true))
            };
            if child_ended {
                while let Ok(Some(_)) = signals.read_signal() {}
                self.reap()?;
            }
            if requested {
                match wire::receive_request(self.channel.as_fd())? {
                    Some((request, descriptors)) => self.handle(request, descriptors)?,
                    // The node let go: the Pod is over.
                    None => return Ok(()),
                }
            }
        }
    }

    fn handle(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let report = match request {
            Request::Prepare { hostname } => Some(match prepare(&hostname) {
                Ok(()) => Report::Prepared,
                Err(error) => Report::Broken { error: error.to_string() },
            }),
            Request::Start { token, process, root } => {
                let started = self.start(token, &process, &root, descriptors);
                Some(match started {
                    Ok(pid) => Report::Started { token, pid: pid.as_raw() },
                    Err(error) => Report::Failed { token, error: error.to_string() },
                })
            }
            Request::Signal { token, signal, everything } => {
                if let (Some(running), Ok(signal)) = (self.processes.get(&token), Signal::try_from(signal)) {
                    let _ = kill(running.pid, signal);
                    if everything {
                        signal_mount_namespace(running, signal);
                    }
                }
                None
            }
        };
        match report {
            Some(report) => wire::send_report(self.channel.as_fd(), &report),
            None => Ok(()),
        }
    }

    fn start(
        &mut self,
        token: u64,
        spec: &super::protocol::Process,
        root: &Root,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Pid> {
        let [output, errors] = <[OwnedFd; 2]>::try_from(descriptors)
            .map_err(|_| io::Error::other("a start needs two descriptors"))?;
        let join = match root {
            Root::New { .. } => None,
            Root::Of { token } => {
                let running = self.processes.get(token);
                Some(running.map(|running| running.pid).ok_or_else(|| io::Error::other("it does not run"))?)
            }
        };
        let pid = process::start(spec, root, join, output, errors)?;
        let owns_mounts = matches!(root, Root::New { .. });
        self.processes.insert(token, Running { pid, mounts: mount_namespace(pid), owns_mounts });
        Ok(pid)
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(_) => continue,
            };
            let Some(token) = self.processes.iter().find(|(_, running)| running.pid == pid).map(|(t, _)| *t)
            else {
                continue;
            };
            if let Some(running) = self.processes.remove(&token)
                && running.owns_mounts
            {
                signal_mount_namespace(&running, Signal::SIGKILL);
            }
            wire::send_report(self.channel.as_fd(), &Report::Exited { token, exit })?;
        }
    }
}

/// Makes the new namespaces fit for containers.
fn prepare(hostname: &str) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
        .map_err(|error| io::Error::other(format!("mount of /proc: {error}")))?;
    nix::unistd::sethostname(hostname)?;
    // Containers of any user may listen on any port, as under Kubernetes' usual runtimes. Absent on odd kernels.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    Ok(())
}

/// The inode that names the mount namespace of `pid`.
fn mount_namespace(pid: Pid) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|metadata| metadata.ino())
}

/// Signals every process in the container's mount namespace, so that no descendant outlives it.
fn signal_mount_namespace(running: &Running, signal: Signal) {
    let Some(mounts) = running.mounts else { return };
    let own = Pid::from_raw(1);
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw)
        else {
            continue;
        };
        if pid != own && pid != running.pid && mount_namespace(pid) == Some(mounts) {
            let _ = kill(pid, signal);
        }
    }
}
