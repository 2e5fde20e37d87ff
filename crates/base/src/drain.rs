//! The orderly end of a process, as a type.
//!
//! [`channel`] makes a [`Trigger`] and a [`Watch`]. Every task that must finish its work holds a clone of the watch;
//! as long as one lives, [`Trigger::drain`] waits. A task learns of the end from [`Watch::signaled`]. After the
//! deadline the trigger gives up waiting, so that the caller can end the process by force.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Makes a connected pair.
pub fn channel() -> (Trigger, Watch) {
    let (signal, signaled) = watch::channel(false);
    let (alive, all_gone) = mpsc::channel(1);
    (Trigger { signal, all_gone }, Watch { signaled, _alive: alive })
}

/// Starts the drain and waits for its end.
#[derive(Debug)]
pub struct Trigger {
    signal: watch::Sender<bool>,
    all_gone: mpsc::Receiver<()>,
}

/// Held by work that must end before the process does.
#[derive(Debug, Clone)]
pub struct Watch {
    signaled: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every watch was dropped in time.
    Finished,
    /// Some work was still going on at the deadline.
    DeadlineExceeded,
}

impl Trigger {
    /// Tells all watches and waits until they are dropped, at most `deadline`.
    pub async fn drain(mut self, deadline: Duration) -> Outcome {
        self.signal.send_replace(true);
        match tokio::time::timeout(deadline, self.all_gone.recv()).await {
            Ok(_) => Outcome::Finished,
            Err(_) => Outcome::DeadlineExceeded,
        }
    }
}

impl Watch {
    /// Resolves when the drain begins (or the trigger is gone).
    pub async fn signaled(&self) {
        let mut signaled = self.signaled.clone();
        // An error means that the trigger was dropped: nothing will ever drain this work in order, so end now.
        let _ = signaled.wait_for(|draining| *draining).await;
    }

    /// Whether the drain has begun.
    pub fn is_signaled(&self) -> bool {
        *self.signaled.borrow()
    }
}

/// Resolves at SIGTERM or SIGINT and names the one that came.
pub async fn termination_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_watch() {
        let (trigger, watch) = channel();
        let second = watch.clone();
        drop(watch);
        let work = tokio::spawn(async move {
            second.signaled().await;
            assert!(second.is_signaled());
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let begun = tokio::time::Instant::now();
        assert_eq!(trigger.drain(Duration::from_secs(10)).await, Outcome::Finished);
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        work.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline() {
        let (trigger, _watch) = channel();
        assert_eq!(trigger.drain(Duration::from_secs(1)).await, Outcome::DeadlineExceeded);
    }

    #[tokio::test]
    async fn a_lost_trigger_ends_the_work() {
        let (trigger, watch) = channel();
        drop(trigger);
        watch.signaled().await;
    }
}
