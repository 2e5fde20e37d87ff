//! What is fetched when it is called for the first time: who waits for it, and the way to the manager, which asks.
//!
//! However many wait for the same, it is asked for once. An answer that there is no such thing is an answer, too: whoever
//! waits goes on and finds out.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lateen_envoy::envoy::config::core::v3::ConfigSource;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// What can be called for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Thing {
    /// A virtual host, by the name of the resource: `TABLE/HOST`.
    VirtualHost(Arc<str>),
    /// A cluster, by its name.
    Cluster(Arc<str>),
}

impl Thing {
    /// The virtual host of a table for an authority, as Envoy names it: "Virtual Host Resource Naming Convention".
    pub fn virtual_host(table: &str, authority: &[u8]) -> Self {
        let host = String::from_utf8_lossy(authority).to_ascii_lowercase();
        Self::VirtualHost(format!("{table}/{host}").into())
    }
}

/// Something is called for and not there.
#[derive(Debug)]
pub struct Call {
    /// What.
    pub thing: Thing,
    /// Whom it is to be asked of.
    pub source: Arc<ConfigSource>,
}

/// Those who wait.
#[derive(Debug, Default)]
pub struct OnDemand {
    calls: OnceLock<UnboundedSender<Call>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    waiting: HashMap<Thing, Vec<oneshot::Sender<()>>>,
    /// What was asked for and does not exist; the control plane says when that changes.
    missing: HashSet<Thing>,
}

impl OnDemand {
    /// Makes the way to the manager: `make` is called once, and starts whoever receives.
    pub(crate) fn open(&self, make: impl FnOnce() -> UnboundedSender<Call>) {
        self.calls.get_or_init(make);
    }

    /// Whether anybody may call.
    pub(crate) fn is_open(&self) -> bool {
        self.calls.get().is_some()
    }

    /// Calls for something, and waits until there is an answer or for so long. Whether it is there then has to be looked
    /// up.
    pub async fn wait(&self, thing: Thing, source: &Arc<ConfigSource>, limit: Duration) {
        let answer = self.call(thing, source);
        let _ = tokio::time::timeout(limit, answer).await;
    }

    /// Calls for something that nobody waits for now.
    pub fn hint(&self, thing: Thing, source: &Arc<ConfigSource>) {
        drop(self.call(thing, source));
    }

    fn call(&self, thing: Thing, source: &Arc<ConfigSource>) -> oneshot::Receiver<()> {
        let (sender, answer) = oneshot::channel();
        let mut known = self.known.lock();
        if known.missing.contains(&thing) {
            // Without a sender there is nothing to wait for.
            return answer;
        }
        let others = known.waiting.entry(thing.clone()).or_default();
        // Those who gave up do not count: the manager is to look again.
        others.retain(|other| !other.is_closed());
        let first = others.is_empty();
        others.push(sender);
        drop(known);
        if first && let Some(calls) = self.calls.get() {
            let _ = calls.send(Call { thing, source: Arc::clone(source) });
        }
        answer
    }

    /// There is an answer: it came, or (`missing`) there is no such thing, which counts until there is another answer.
    pub(crate) fn answered(&self, thing: &Thing, missing: bool) {
        let mut known = self.known.lock();
        if missing {
            known.missing.insert(thing.clone());
        } else {
            known.missing.remove(thing);
        }
        let waiting = known.waiting.remove(thing);
        drop(known);
        for one in waiting.into_iter().flatten() {
            // Whoever gave up meanwhile needs none.
            let _ = one.send(());
        }
    }

    /// What is missing in a table is asked for again: it is another table, or nobody says when it comes.
    pub(crate) fn forget_table(&self, table: &str) {
        let of_table = |name: &str| name.strip_prefix(table).is_some_and(|rest| rest.starts_with('/'));
        let stays = |thing: &Thing| !matches!(thing, Thing::VirtualHost(name) if of_table(name));
        self.known.lock().missing.retain(stays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_wait_and_one_asks() {
        let on_demand = OnDemand::default();
        let (sender, mut calls) = tokio::sync::mpsc::unbounded_channel();
        on_demand.open(|| sender);
        let (thing, source) = (Thing::virtual_host("80", b"Shop:80"), Arc::default());
        let (one, two) = (on_demand.call(thing.clone(), &source), on_demand.call(thing.clone(), &source));
        assert_eq!(calls.recv().await.unwrap().thing, Thing::VirtualHost("80/shop:80".into()));
        assert!(calls.try_recv().is_err(), "it was asked for twice");
        on_demand.answered(&thing, false);
        one.await.unwrap();
        two.await.unwrap();
        drop(on_demand.call(thing.clone(), &source));
        assert!(calls.try_recv().is_ok(), "after an answer it is asked for again");
        drop(on_demand.call(thing.clone(), &source));
        assert!(calls.try_recv().is_ok(), "who gave up keeps nobody from asking");
        on_demand.answered(&thing, true);
        on_demand.wait(thing.clone(), &source, Duration::MAX).await;
        assert!(calls.try_recv().is_err(), "what is known to be missing is not asked for");
        on_demand.forget_table("8");
        drop(on_demand.call(thing.clone(), &source));
        assert!(calls.try_recv().is_err(), "that was another table");
        on_demand.forget_table("80");
        drop(on_demand.call(thing, &source));
        assert!(calls.try_recv().is_ok(), "its table is forgotten");
    }
}
