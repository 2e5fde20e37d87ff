//! The node's end of a sandbox.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::protocol::{Exit, Process, Report, Request, Root};
use super::wire;
use crate::reaper::Reaper;

/// A Pod's namespaces, alive. Dropping it ends every process in them.
#[derive(Debug)]
pub struct Sandbox {
    pid: Pid,
    channel: Arc<AsyncFd<OwnedFd>>,
    processes: Arc<Mutex<HashMap<u64, Waiters>>>,
    next_token: AtomicU64,
    gone: watch::Receiver<bool>,
}

/// A process in a sandbox.
#[derive(Debug)]
pub struct Started {
    /// Names it in [`Sandbox::signal`].
    pub token: u64,
    /// Resolves when it and its descendants have ended; an error means that the sandbox went away.
    pub exit: oneshot::Receiver<Exit>,
}

#[derive(Debug)]
struct Waiters {
    started: Option<oneshot::Sender<Result<i32, String>>>,
    exited: Option<oneshot::Sender<Exit>>,
}

impl Sandbox {
    /// Makes the namespaces. `hostname` is the Pod's.
    pub async fn create(reaper: &Reaper, hostname: &str) -> io::Result<Self> {
        let (own, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        nix::fcntl::fcntl(&own, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        let number = theirs.as_raw_fd();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["node", "--stage", "sandbox", "--sandbox-fd", &number.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        keep(&mut command, number);
        let _intermediate = reaper.spawn(&mut command)?;
        drop(theirs);

        let channel = Arc::new(watched(own)?);
        let pid = match receive(&channel).await? {
            Some(Report::Born { pid }) => Pid::from_raw(pid),
            Some(Report::Broken { error }) => return Err(io::Error::other(error)),
            other => return Err(io::Error::other(format!("the sandbox did not start ({other:?})"))),
        };
        send(&channel, &Request::Prepare { hostname: hostname.to_owned() }, Vec::new()).await?;
        match receive(&channel).await? {
            Some(Report::Prepared) => {}
            Some(Report::Broken { error }) => return Err(io::Error::other(error)),
            other => return Err(io::Error::other(format!("the sandbox ended early ({other:?})"))),
        }
        let processes = Arc::new(Mutex::new(HashMap::new()));
        let (over, gone) = watch::channel(false);
        tokio::spawn(listen(Arc::clone(&channel), Arc::clone(&processes), over));
        Ok(Self { pid, channel, processes, next_token: AtomicU64::new(1), gone })
    }

    /// The sandbox's process id in the node's namespace; `/proc/PID/ns/net` is the Pod's network.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Starts a process whose standard output and error are the given descriptors.
    pub async fn start(
        &self,
        process: Process,
        root: Root,
        output: OwnedFd,
        errors: OwnedFd,
    ) -> io::Result<Started> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (started, has_started) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        let waiters = Waiters { started: Some(started), exited: Some(exited) };
        self.processes.lock().insert(token, waiters);
        if let Err(error) =
            send(&self.channel, &Request::Start { token, process, root }, vec![output, errors]).await
        {
            self.processes.lock().remove(&token);
            return Err(error);
        }
        match has_started.await {
            Ok(Ok(_)) => Ok(Started { token, exit }),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::other("the sandbox has ended")),
        }
    }

    /// Signals the process, or with `everything` all of its container.
    pub async fn signal(&self, token: u64, signal: Signal, everything: bool) -> io::Result<()> {
        send(&self.channel, &Request::Signal { token, signal: signal as i32, everything }, Vec::new()).await
    }

    /// Resolves when the sandbox has ended, by itself or by [`Self::kill`].
    pub async fn gone(&self) {
        let mut gone = self.gone.clone();
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Ends the sandbox and every process in it.
    pub fn kill(&self) {
        // The id cannot be another process's while the channel is open: the zombie's id stays taken until the reaper,
        // and the channel reports the end.
        if !*self.gone.borrow() {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Registers the channel with the runtime.
#[allow(unsafe_code)] // The runtime must be told that the descriptor stays open.
fn watched(channel: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor until it is dropped, with the `AsyncFd` that now owns it.
    Ok(unsafe { AsyncFd::register(channel) }?)
}

/// Lets one descriptor through to the child.
#[allow(unsafe_code)] // `pre_exec`: the closure only calls fcntl.
fn keep(command: &mut Command, descriptor: std::os::fd::RawFd) {
    // SAFETY: fcntl is async-signal-safe.
    unsafe { command.pre_exec(move || lateen_base::descriptors::keep_open(descriptor)) };
}

async fn listen(
    channel: Arc<AsyncFd<OwnedFd>>,
    processes: Arc<Mutex<HashMap<u64, Waiters>>>,
    over: watch::Sender<bool>,
) {
    while let Ok(Some(report)) = receive(&channel).await {
        let mut processes = processes.lock();
        match report {
            Report::Started { token, pid } => {
                if let Some(sender) = processes.get_mut(&token).and_then(|waiters| waiters.started.take()) {
                    let _ = sender.send(Ok(pid));
                }
            }
            Report::Failed { token, error } => {
                if let Some(sender) = processes.remove(&token).and_then(|waiters| waiters.started) {
                    let _ = sender.send(Err(error));
                }
            }
            Report::Exited { token, exit } => {
                if let Some(sender) = processes.remove(&token).and_then(|waiters| waiters.exited) {
                    let _ = sender.send(exit);
                }
            }
            Report::Born { .. } | Report::Prepared | Report::Broken { .. } => {}
        }
    }
    over.send_replace(true);
    // Whoever waits learns that no answer will come.
    processes.lock().clear();
}

async fn receive(channel: &AsyncFd<OwnedFd>) -> io::Result<Option<Report>> {
    loop {
        let mut ready = channel.readable().await?;
        match ready.try_io(|channel| wire::receive_report(channel.as_fd())) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Ok(result) => return result,
            Err(_) => {}
        }
    }
}

async fn send(channel: &AsyncFd<OwnedFd>, request: &Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let packed = wire::pack(request, descriptors)?;
    loop {
        let mut ready = channel.writable().await?;
        let sent =
            ready.try_io(|channel| wire::send_request(channel.as_fd(), &packed).map_err(io::Error::from));
        if let Ok(result) = sent {
            return result;
        }
    }
}
