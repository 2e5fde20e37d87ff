//! The work queue of level-triggered controllers.
//!
//! A key is worked on by one task at a time; a key that is added meanwhile is worked on again afterwards, once. Errors
//! are retried with a delay that grows per key.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use lateen_base::backoff::Backoff;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// A queue of keys. Clones share it.
#[derive(Debug)]
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<K> {
    state: Mutex<State<K>>,
    added: Notify,
}

#[derive(Debug)]
struct State<K> {
    waiting: VecDeque<K>,
    known: HashSet<K>,
    active: HashSet<K>,
    failures: HashMap<K, Backoff>,
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            waiting: VecDeque::new(),
            known: HashSet::new(),
            active: HashSet::new(),
            failures: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), added: Notify::new() }) }
    }
}

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    /// Adds a key, unless it is waiting already.
    pub fn add(&self, key: K) {
        let mut state = self.shared.state.lock();
        if state.known.insert(key.clone()) {
            state.waiting.push_back(key);
            self.shared.added.notify_one();
        }
    }

    /// Adds a key later.
    pub fn add_after(&self, key: K, delay: Duration) {
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            queue.add(key);
        });
    }

    /// Works on keys, `concurrency` at a time, forever. The handler's answer is a time after which it wants to be asked
    /// again.
    pub async fn run<F, E>(self, concurrency: usize, handler: impl Fn(K) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = Result<Option<Duration>, E>> + Send,
        E: std::fmt::Display + Send,
    {
        let slots = Arc::new(tokio::sync::Semaphore::new(concurrency));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let key = loop {
                let added = self.shared.added.notified();
                match self.take() {
                    Some(key) => break key,
                    None => added.await,
                }
            };
            let (queue, handler) = (self.clone(), handler.clone());
            tokio::spawn(async move {
                let result = handler(key.clone()).await;
                queue.finish(key, result.map_err(|error| error.to_string()));
                drop(slot);
            });
        }
    }

    /// The next key that nobody works on.
    fn take(&self) -> Option<K> {
        let mut state = self.shared.state.lock();
        let position = state.waiting.iter().position(|key| !state.active.contains(key))?;
        let key = state.waiting.remove(position)?;
        state.known.remove(&key);
        state.active.insert(key.clone());
        Some(key)
    }

    fn finish(&self, key: K, result: Result<Option<Duration>, String>) {
        let again = {
            let mut state = self.shared.state.lock();
            state.active.remove(&key);
            match result {
                Ok(again) => {
                    state.failures.remove(&key);
                    again
                }
                Err(error) => {
                    let fresh = || Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
                    let delay = state.failures.entry(key.clone()).or_insert_with(fresh).next_delay();
                    tracing::debug!(?key, error, ?delay, "reconcile again");
                    Some(delay)
                }
            }
        };
        // A key added while it was worked on is free now.
        self.shared.added.notify_one();
        if let Some(delay) = again {
            self.add_after(key, delay);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_during_its_work_is_worked_on_once_more() {
        let queue = Queue::default();
        let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
        let handler = {
            let queue = queue.clone();
            move |key: u32| {
                let (queue, seen) = (queue.clone(), seen.clone());
                async move {
                    let first = seen.send(key).is_ok();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if key < 3 {
                        queue.add(key + 10);
                        queue.add(key + 10);
                    }
                    if first { Ok::<_, String>(None) } else { Err("closed".to_owned()) }
                }
            }
        };
        queue.add(1);
        queue.add(1);
        queue.add(2);
        let worker = tokio::spawn(queue.run(2, handler));
        let mut keys = Vec::new();
        for _ in 0..4 {
            keys.push(log.recv().await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(log.try_recv().is_err());
        keys.sort_unstable();
        assert_eq!(keys, [1, 2, 11, 12]);
        worker.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried() {
        let queue = Queue::default();
        let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
        queue.add("key");
        let worker = tokio::spawn(queue.run(1, move |key| {
            let seen = seen.clone();
            async move {
                let _ = seen.send(key);
                Err::<Option<Duration>, _>("no")
            }
        }));
        for _ in 0..3 {
            assert_eq!(log.recv().await, Some("key"));
        }
        worker.abort();
    }
}
