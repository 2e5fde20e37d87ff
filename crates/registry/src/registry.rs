//! Platforms, the one writer, the readers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use lateen_base::readiness::Pending;
use lateen_model::Snapshot;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::publish::Publisher;
use crate::{Change, Kind, Problem, Store, StoreOptions, Subscription};

/// Where a platform sends its changes.
pub type Sink = mpsc::Sender<Change>;

/// Something that knows services: Kubernetes, and in time others.
pub trait Platform: Send + 'static {
    /// What it tells of; the first snapshot waits for a [`Change::Replace`] of each.
    fn kinds(&self) -> Vec<Kind>;

    /// Watches until the sink closes.
    fn run(self: Box<Self>, sink: Sink) -> BoxFuture<'static, ()>;
}

/// The running registry. Dropping it ends the watches.
#[derive(Debug)]
pub struct Registry {
    publisher: Arc<Publisher>,
    problems: Arc<Mutex<Vec<Problem>>>,
    _tasks: JoinSet<()>,
}

impl Registry {
    /// Starts watching. `pending` is done when the first snapshot is out.
    pub fn start(options: StoreOptions, platforms: Vec<Box<dyn Platform>>, pending: Option<Pending>) -> Self {
        let (sink, changes) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        let mut waiting = BTreeSet::new();
        for platform in platforms {
            waiting.extend(platform.kinds());
            tasks.spawn(platform.run(sink.clone()));
        }
        let publisher = Arc::new(Publisher::default());
        let problems = Arc::new(Mutex::new(Vec::new()));
        let writer = Writer {
            store: Store::new(options),
            waiting,
            pending,
            publisher: Arc::clone(&publisher),
            problems: Arc::clone(&problems),
        };
        tasks.spawn(writer.run(changes));
        Self { publisher, problems, _tasks: tasks }
    }

    /// A new reader.
    pub fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    /// The latest snapshot; none before every kind has been listed.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.publisher.latest()
    }

    /// Objects that are there but cannot be read.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Writer {
    store: Store,
    waiting: BTreeSet<Kind>,
    pending: Option<Pending>,
    publisher: Arc<Publisher>,
    problems: Arc<Mutex<Vec<Problem>>>,
}

impl Writer {
    async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut published = false;
        let mut batch = Vec::new();
        // What is waiting already is applied together; nothing is waited for.
        while changes.recv_many(&mut batch, 1024).await > 0 {
            for change in &batch {
                self.note(change);
            }
            let changes = self.store.apply(batch.drain(..));
            if !self.waiting.is_empty() {
                debug!(waiting = ?self.waiting, "not everything is listed yet");
                continue;
            }
            if !published || !changes.is_empty() {
                self.publisher.publish(self.store.snapshot(), &changes);
            }
            if !published {
                published = true;
                info!(services = self.store.snapshot().services().count(), "the first snapshot is complete");
                self.pending.take();
            }
        }
    }

    fn note(&mut self, change: &Change) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Replace { kind, keep, .. } => {
                self.waiting.remove(kind);
                problems.retain(|problem| problem.kind != *kind || keep.contains(&problem.key));
            }
            Change::Apply(item) => {
                let (kind, key) = (item.kind(), item.key());
                problems.retain(|problem| problem.kind != kind || problem.key != key);
            }
            Change::Delete(kind, key) => {
                problems.retain(|problem| problem.kind != *kind || problem.key != *key)
            }
            Change::Unreadable(problem) => {
                warn!(
                    kind = ?problem.kind, namespace = problem.key.namespace, name = problem.key.name,
                    "an object cannot be read, the last good one stays: {}", problem.message
                );
                problems.retain(|earlier| earlier.kind != problem.kind || earlier.key != problem.key);
                problems.push(problem.clone());
            }
        }
    }
}
