//! Connections of what was replaced or removed: asked to end over the drain time, ended by force after it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Manager;
use crate::state::{ActiveChain, ActiveListener};
use crate::stats::Counter;
use crate::worker::Command;

/// How often it is looked whether anybody is left.
const LOOK: Duration = Duration::from_secs(1);

impl Manager {
    /// A listener is gone, or a version of it that the next one has nothing in common with.
    pub(super) fn drain_listener(&self, listener: &ActiveListener) {
        let gauge = self.counts.listeners.total_listeners_draining;
        self.drain_chains(listener.chains().cloned().collect(), gauge, 1);
    }

    /// A listener goes on without these.
    pub(super) fn drain_replaced(&self, chains: Vec<Arc<ActiveChain>>) {
        let count = chains.len() as u64;
        if count > 0 {
            let gauge = self.counts.listeners.total_filter_chains_draining;
            self.drain_chains(chains, gauge, count);
        }
    }

    /// The end of all: who drains already ends as well.
    pub(super) fn close_replaced(&self) {
        self.draining.lock().iter().filter_map(Weak::upgrade).for_each(|chain| chain.drain.close());
    }

    fn drain_chains(&self, chains: Vec<Arc<ActiveChain>>, gauge: Counter, count: u64) {
        let policy = self.state.drain;
        {
            let mut draining = self.draining.lock();
            draining.retain(|chain| chain.strong_count() > 0);
            draining.extend(chains.iter().map(Arc::downgrade));
        }
        chains.iter().for_each(|chain| chain.drain.begin(policy));
        let (shard, workers) = (self.counts.shard.clone(), self.workers.clone());
        (0..count).for_each(|_| shard.increment(gauge));
        tokio::spawn(async move {
            let until = Instant::now() + policy.time;
            // What nobody uses any more needs no time to end.
            loop {
                let left = until.saturating_duration_since(Instant::now());
                tokio::time::sleep(left.min(LOOK)).await;
                if left.is_zero() || chains.iter().all(|chain| Arc::strong_count(chain) == 1) {
                    break;
                }
            }
            for chain in chains {
                chain.drain.close();
                for worker in &workers {
                    let _ = worker.send(Command::End(Arc::clone(&chain.drain)));
                }
            }
            (0..count).for_each(|_| shard.decrement(gauge));
        });
    }
}
