//! The children of PID 1: ours, whose exit status somebody waits for, and orphans, which are only buried.
//!
//! Orphans of the whole PID namespace become children of PID 1, so `waitpid(-1)` is the only way to bury them, and it
//! takes everybody's status. Hence there is one reaper, and every child of this process is started through it: the lock
//! held over start and registration keeps a status from arriving before its receiver.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Starts children and learns of their ends. Clones share the children.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    waiting: Arc<Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>>,
}

/// A child that runs or has ended.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    ended: oneshot::Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Reaper {
    /// A reaper and the task that reaps; to be called in PID 1, once.
    pub fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let task = reaper.clone();
        tokio::spawn(async move {
            loop {
                task.reap();
                if signals.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Starts `command`. The only way to start a child in this process.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut waiting = self.waiting.lock();
        // A failed `exec` is reaped by the standard library itself: the lock keeps our reaper from being faster.
        let child = command.spawn()?;
        let (sender, ended) = oneshot::channel();
        waiting.insert(child.id() as i32, sender);
        Ok(Child { pid: Pid::from_raw(child.id() as i32), ended, status: None })
    }

    fn reap(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw((code & 0xff) << 8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::from_raw(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            if let Some(receiver) = waiting.remove(&pid.as_raw()) {
                let _ = receiver.send(status);
            }
        }
    }
}

impl Child {
    /// The child's process id in our namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal; one to a child that has ended is ignored.
    pub fn signal(&mut self, signal: Signal) {
        if self.status.is_none()
            && let Ok(status) = self.ended.try_recv()
        {
            self.status = Some(status);
        }
        if self.status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = (&mut self.ended).await.map_err(|_| io::Error::other("the reaper has ended"))?;
        self.status = Some(status);
        Ok(status)
    }
}
