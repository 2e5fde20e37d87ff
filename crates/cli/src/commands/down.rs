//! `lateen down`: ends the mesh of this machine.

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use std::time::Duration;

use crate::ExitStatus;
use crate::arguments::DownArguments;
use crate::printer::Printer;
use crate::standalone::{self, lock::Lock};

/// How long an orderly stop may take; longer than `up` itself allows its node.
const DEADLINE: Duration = Duration::from_secs(30);

/// Stops the mesh and waits until nothing of it is left.
pub(crate) async fn down(arguments: &DownArguments, printer: &mut Printer) -> anyhow::Result<ExitStatus> {
    let state = standalone::state_dir(&arguments.state)?;
    let Some(pid) = Lock::holder(&state)? else {
        printer.progress(&format!("no mesh runs in {}", state.root().display()));
        return Ok(ExitStatus::Success);
    };
    printer.progress(&format!("stopping the mesh (process {pid})"));
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
    let waiting = state.clone();
    let free = tokio::task::spawn_blocking(move || Lock::wait_until_free(&waiting));
    match tokio::time::timeout(DEADLINE, free).await {
        Ok(result) => result??,
        Err(_) => {
            printer.warning(&format!("process {pid} did not stop in {} s; ending it", DEADLINE.as_secs()));
            // Everything it started dies with it.
            kill(pid, Signal::SIGKILL)?;
            let waiting = state.clone();
            tokio::task::spawn_blocking(move || Lock::wait_until_free(&waiting)).await??;
        }
    }
    printer.progress("stopped; the objects stay for the next start");
    Ok(ExitStatus::Success)
}
