//! Being ready: a process is once every task it names has said so.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// The open tasks of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Readiness {
    pending: Arc<watch::Sender<BTreeSet<String>>>,
}

/// One task that readiness waits for; dropping it says "done".
#[derive(Debug)]
pub struct Pending {
    name: String,
    pending: Arc<watch::Sender<BTreeSet<String>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { pending: Arc::new(watch::Sender::new(BTreeSet::new())) }
    }
}

impl Readiness {
    /// Names a task that must be done before the process is ready.
    pub fn register(&self, name: &str) -> Pending {
        self.pending.send_modify(|tasks| {
            tasks.insert(name.to_owned());
        });
        Pending { name: name.to_owned(), pending: Arc::clone(&self.pending) }
    }

    /// The tasks that are still open, by name.
    pub fn pending(&self) -> Vec<String> {
        self.pending.borrow().iter().cloned().collect()
    }

    /// Resolves once nothing is open.
    pub async fn ready(&self) {
        let mut tasks = self.pending.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = tasks.wait_for(BTreeSet::is_empty).await;
    }
}

impl Pending {
    /// Says that the task is done.
    pub fn done(self) {}
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.pending.send_modify(|tasks| {
            tasks.remove(&self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_all_tasks_are_done() {
        let readiness = Readiness::default();
        let configuration = readiness.register("configuration");
        let listeners = readiness.register("listeners");
        configuration.done();
        assert_eq!(readiness.pending(), ["listeners"]);
        listeners.done();
        readiness.ready().await;
    }
}
