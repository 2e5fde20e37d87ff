//! Platforms, the one writer, the readers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use lateen_api::registries::RegistryConfig;
use lateen_base::readiness::Pending;
use lateen_model::{ChangeSet, ClusterId, Snapshot};
use prometheus_client::collector::Collector;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::catalogs;
use crate::catalogs::driver::Pace;
use crate::catalogs::wanted::{Step, Wanted};
use crate::metrics::PlatformMetrics;
use crate::publish::Publisher;
use crate::status::{Board, Failure, PlatformStatus};
use crate::{Change, Kind, Problem, Store, StoreOptions, Subscription};

/// Something that knows services: Kubernetes, Consul, ...
pub trait Platform: Send + 'static {
    /// Its name, unique in the mesh: the `cluster` in the keys of all it tells of.
    fn name(&self) -> ClusterId;

    /// What it is, for people: `Kubernetes`, `Consul`, ...
    fn provider(&self) -> &'static str;

    /// What it tells of; the first snapshot waits for a [`Change::Replace`] of each.
    fn kinds(&self) -> Vec<Kind>;

    /// Watches until the sink closes. What it knows stands while it cannot be asked; see [`Sink::failed`].
    fn run(self: Box<Self>, sink: Sink) -> BoxFuture<'static, ()>;
}

/// What a registry must be told.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// For the store.
    pub store: StoreOptions,
    /// How long the first snapshot waits for platforms other than the mesh's own cluster, which is waited for without
    /// an end since it has the configuration.
    pub patience: Duration,
    /// Platforms that are always wanted, besides those of MeshConfig (`lateen.registries`), which come and go with it.
    pub registries: Vec<RegistryConfig>,
    /// How soon platforms that fail are asked again.
    pub pace: Pace,
}

/// Where a platform sends its changes, and says how it fares.
#[derive(Debug, Clone)]
pub struct Sink {
    platform: ClusterId,
    run: u64,
    letters: mpsc::Sender<Letter>,
    board: Board,
}

/// Nobody wants the platform's changes anymore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry is closed")]
pub struct Closed;

/// Adds and removes platforms while the registry runs, and says how they fare. Clones are the same.
#[derive(Debug, Clone)]
pub struct Platforms {
    letters: mpsc::Sender<Letter>,
    board: Board,
}

/// The running registry. Dropping it ends the watches.
#[derive(Debug)]
pub struct Registry {
    publisher: Arc<Publisher>,
    problems: Arc<Mutex<Problems>>,
    board: Board,
    letters: mpsc::Sender<Letter>,
    _writer: JoinSet<()>,
}

/// What the writer is told.
enum Letter {
    /// By a platform, in one of its runs.
    Change {
        platform: ClusterId,
        run: u64,
        change: Change,
    },
    Add(Box<dyn Platform>),
    Remove(ClusterId),
}

type Problems = BTreeMap<ClusterId, Vec<Problem>>;

impl std::fmt::Debug for Letter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Change { platform, change, .. } => write!(formatter, "{platform}: {change:?}"),
            Self::Add(platform) => write!(formatter, "add {}", platform.name()),
            Self::Remove(platform) => write!(formatter, "remove {platform}"),
        }
    }
}

impl From<StoreOptions> for RegistryOptions {
    fn from(store: StoreOptions) -> Self {
        Self { store, patience: Duration::from_secs(30), registries: Vec::new(), pace: Pace::default() }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        StoreOptions::default().into()
    }
}

// === impl Sink ===

impl Sink {
    /// Sends a change.
    pub async fn send(&self, change: Change) -> Result<(), Closed> {
        let letter = Letter::Change { platform: self.platform.clone(), run: self.run, change };
        self.letters.send(letter).await.map_err(|_| Closed)
    }

    /// Waits until nobody wants changes anymore.
    pub async fn closed(&self) {
        self.letters.closed().await;
    }

    /// Whose sink it is.
    pub fn platform(&self) -> &ClusterId {
        &self.platform
    }

    /// The platform answered, at least as to this kind.
    pub fn succeeded(&self, kind: Kind) {
        self.board.succeeded(&self.platform, kind);
    }

    /// The platform could not be asked for this kind. It counts as failing until it [succeeded](Self::succeeded) in
    /// all that failed; the log says so once, not for every attempt.
    pub fn failed(&self, kind: Kind, failure: &Failure) {
        self.board.failed(&self.platform, kind, failure);
    }
}

// === impl Platforms ===

impl Platforms {
    /// Adds a platform, instead of one of the same name if there is one: what that one told of stays until the new
    /// one has listed its own.
    pub async fn add(&self, platform: Box<dyn Platform>) -> Result<(), Closed> {
        self.letters.send(Letter::Add(platform)).await.map_err(|_| Closed)
    }

    /// How each platform fares, by name.
    pub fn statuses(&self) -> Vec<PlatformStatus> {
        self.board.statuses()
    }

    /// Removes a platform and all it told of.
    pub async fn remove(&self, name: &ClusterId) -> Result<(), Closed> {
        self.letters.send(Letter::Remove(name.clone())).await.map_err(|_| Closed)
    }
}

// === impl Registry ===

impl Registry {
    /// Starts watching. `pending` is done when the first snapshot is out.
    pub fn start(
        options: impl Into<RegistryOptions>,
        platforms: Vec<Box<dyn Platform>>,
        pending: Option<Pending>,
    ) -> Self {
        let options = options.into();
        let (letters, inbox) = mpsc::channel(1024);
        let (publisher, board) = (Arc::new(Publisher::default()), Board::default());
        let problems = Arc::new(Mutex::new(Problems::new()));
        let mut writer = Writer {
            home: options.store.cluster.clone(),
            store: Store::new(options.store),
            patience: options.patience,
            waiting: BTreeMap::new(),
            pending,
            published: false,
            publisher: Arc::clone(&publisher),
            problems: Arc::clone(&problems),
            board: board.clone(),
            letters: letters.downgrade(),
            runs: BTreeMap::new(),
            started: 0,
            tasks: JoinSet::new(),
            wanted: Wanted::new(options.pace),
        };
        let configured =
            options.registries.iter().filter_map(|config| catalogs::platform(config, options.pace));
        for platform in platforms.into_iter().chain(configured) {
            writer.add(platform);
        }
        let mut task = JoinSet::new();
        task.spawn(writer.run(inbox));
        Self { publisher, problems, board, letters, _writer: task }
    }

    /// A new reader.
    pub fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    /// The latest snapshot; none before everything has been listed.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.publisher.latest()
    }

    /// Objects that are there but cannot be read.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect()
    }

    /// How each platform fares, by name.
    pub fn statuses(&self) -> Vec<PlatformStatus> {
        self.board.statuses()
    }

    /// The metrics of all platforms, `lateen_registry_*`; to be registered with those of the process.
    pub fn metrics(&self) -> Box<dyn Collector> {
        Box::new(PlatformMetrics(self.board.clone()))
    }

    /// The way to add and remove platforms, and to ask how they fare.
    pub fn platforms(&self) -> Platforms {
        Platforms { letters: self.letters.clone(), board: self.board.clone() }
    }
}

/// What a platform has not listed yet.
struct Waiting {
    kinds: BTreeSet<Kind>,
    /// When the first snapshot waits no longer for it.
    until: Option<Instant>,
    /// Whether that time has passed.
    given_up: bool,
}

struct Writer {
    home: ClusterId,
    store: Store,
    patience: Duration,
    waiting: BTreeMap<ClusterId, Waiting>,
    pending: Option<Pending>,
    published: bool,
    publisher: Arc<Publisher>,
    problems: Arc<Mutex<Problems>>,
    board: Board,
    // Weak, so that the writer ends when the registry and all platforms have.
    letters: mpsc::WeakSender<Letter>,
    runs: BTreeMap<ClusterId, (u64, AbortHandle)>,
    started: u64,
    tasks: JoinSet<()>,
    wanted: Wanted,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Letter>) {
        let mut batch = Vec::new();
        loop {
            let deadline = self.deadline();
            // What is waiting already is applied together; nothing is waited for.
            let count = tokio::select! {
                count = inbox.recv_many(&mut batch, 1024) => count,
                () = until(deadline) => {
                    self.give_up(Instant::now());
                    self.publish(&Default::default());
                    continue;
                }
            };
            if count == 0 {
                return;
            }
            let mut touched = BTreeSet::new();
            let changes: Vec<_> = batch.drain(..).filter_map(|letter| self.open(letter)).collect();
            for (platform, change) in &changes {
                self.note(platform, change);
                touched.insert(platform.clone());
            }
            let mut changes = self.store.apply_from(changes);
            if changes.mesh {
                changes.merge(self.follow_mesh());
            }
            for platform in touched {
                self.board.counted(&platform, self.store.counts(&platform));
            }
            self.publish(&changes);
        }
    }

    /// The change that a letter brings, if it is of a platform's present run.
    fn open(&mut self, letter: Letter) -> Option<(ClusterId, Change)> {
        match letter {
            Letter::Change { platform, run, change } => {
                let present = self.runs.get(&platform).is_some_and(|(present, _)| *present == run);
                present.then_some((platform, change))
            }
            Letter::Add(platform) => {
                self.add(platform);
                None
            }
            Letter::Remove(name) => self.remove(name),
        }
    }

    /// Adds and removes platforms as MeshConfig says now.
    fn follow_mesh(&mut self) -> ChangeSet {
        let mesh = Arc::clone(self.store.snapshot().mesh());
        let steps = self.wanted.steps(&mesh.lateen.registries, |name| self.runs.contains_key(name));
        let mut gone = Vec::new();
        for step in steps {
            match step {
                Step::Add(platform) => self.add(platform),
                Step::Remove(name) => gone.extend(self.remove(name)),
            }
        }
        for (platform, change) in &gone {
            self.note(platform, change);
        }
        self.store.apply_from(gone)
    }

    /// Ends a platform's run; what it told of goes with the change that is returned.
    fn remove(&mut self, name: ClusterId) -> Option<(ClusterId, Change)> {
        let (_, task) = self.runs.remove(&name)?;
        task.abort();
        self.waiting.remove(&name);
        self.board.remove(&name);
        info!(platform = %name, "the platform is removed");
        Some((name, Change::Forget))
    }

    fn add(&mut self, platform: Box<dyn Platform>) {
        let Some(letters) = self.letters.upgrade() else { return };
        let (name, provider) = (platform.name(), platform.provider());
        let kinds: BTreeSet<Kind> = platform.kinds().into_iter().collect();
        self.board.add(name.clone(), provider, kinds.clone());
        let until = (name != self.home).then(|| Instant::now() + self.patience);
        self.waiting.insert(name.clone(), Waiting { kinds, until, given_up: false });
        self.started += 1;
        let sink = Sink { platform: name.clone(), run: self.started, letters, board: self.board.clone() };
        let task = self.tasks.spawn(platform.run(sink));
        if let Some((_, earlier)) = self.runs.insert(name, (self.started, task)) {
            earlier.abort();
        }
    }

    /// When the first snapshot waits no longer for the platform that it waits for longest.
    fn deadline(&self) -> Option<Instant> {
        if self.published {
            return None;
        }
        self.waiting.values().filter(|waiting| !waiting.given_up).filter_map(|waiting| waiting.until).min()
    }

    fn give_up(&mut self, now: Instant) {
        for (platform, waiting) in &mut self.waiting {
            if !waiting.given_up && waiting.until.is_some_and(|until| until <= now) {
                waiting.given_up = true;
                warn!(
                    platform = %platform, patience = ?self.patience,
                    "the platform was not listed in time, the mesh starts without it"
                );
            }
        }
    }

    fn publish(&mut self, changes: &ChangeSet) {
        if !self.published && self.waiting.values().any(|waiting| !waiting.given_up) {
            debug!(waiting = ?self.waiting.keys(), "not everything is listed yet");
            return;
        }
        if !self.published || !changes.is_empty() {
            self.publisher.publish(self.store.snapshot(), changes);
        }
        if !self.published {
            self.published = true;
            info!(services = self.store.snapshot().services().count(), "the first snapshot is complete");
            self.pending.take();
        }
    }

    fn note(&mut self, platform: &ClusterId, change: &Change) {
        let mut all = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let problems = all.entry(platform.clone()).or_default();
        match change {
            Change::Replace { kind, keep, .. } => {
                problems.retain(|problem| problem.kind != *kind || keep.contains(&problem.key));
                if let Some(waiting) = self.waiting.get_mut(platform) {
                    waiting.kinds.remove(kind);
                    if waiting.kinds.is_empty() {
                        self.waiting.remove(platform);
                        self.board.synced(platform);
                    }
                }
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
                    platform = %platform, kind = ?problem.kind, namespace = problem.key.namespace,
                    name = problem.key.name,
                    "an object cannot be read, the last good one stays: {}", problem.message
                );
                problems.retain(|earlier| earlier.kind != problem.kind || earlier.key != problem.key);
                problems.push(problem.clone());
            }
            Change::Forget => {
                all.remove(platform);
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
