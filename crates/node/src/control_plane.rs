//! Keeps `lateend run` running: it may end at any time and is started again.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lateen_base::backoff::Backoff;
use nix::sys::signal::Signal;
use tokio::sync::watch;

use crate::reaper::Reaper;

/// A run that lasted this long makes the next restart immediate.
const STABLE: Duration = Duration::from_secs(10);
/// How long an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How `lateend run` is started.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane {
    /// Arguments after `run`.
    pub(crate) arguments: Vec<OsString>,
    /// Its log.
    pub(crate) log: PathBuf,
    /// The listening socket that it inherits.
    pub(crate) listener: Option<RawFd>,
}

async fn signaled(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

impl ControlPlane {
    /// Runs it until `ending` says true, then ends it in order.
    pub(crate) async fn keep(self, reaper: Reaper, mut ending: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while !*ending.borrow() {
            let begun = Instant::now();
            match self.start(&reaper) {
                Ok(mut child) => {
                    tokio::select! {
                        status = child.wait() => tracing::warn!(?status, "lateend run ended; it is started again"),
                        () = signaled(&mut ending) => {
                            child.signal(Signal::SIGTERM);
                            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                                child.signal(Signal::SIGKILL);
                            }
                            return;
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "lateend run cannot be started"),
            }
            if begun.elapsed() >= STABLE {
                backoff.reset();
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = signaled(&mut ending) => return,
            }
        }
    }

    #[allow(unsafe_code)] // `pre_exec`: the closure only calls fcntl.
    fn start(&self, reaper: &Reaper) -> std::io::Result<crate::reaper::Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(listener) = self.listener {
            // SAFETY: fcntl is async-signal-safe.
            unsafe { command.pre_exec(move || lateen_base::descriptors::keep_open(listener)) };
        }
        reaper.spawn(&mut command)
    }
}
