//! The durable store: objects by group, resource, namespace and name under one revision that only grows.
//!
//! One writer thread takes all writes that wait, commits them with one fsync, then publishes a new snapshot, wakes the
//! watches and acknowledges, in that order: nobody ever sees, or is told of, a change that a crash could undo. Readers
//! work on immutable snapshots and wait for nobody.

mod disk;
mod events;
mod object;
mod writer;

pub use disk::{File, Medium};
pub use events::{Behind, Event, EventType, Reader, line};
pub use object::Stored;

use crate::seam::{Objects, Resource};
use arc_swap::ArcSwap;
use events::Log;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::HashMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::oneshot;

/// The log of all resources together.
const ALL: &str = "*";

/// Why a write did not take place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The object exists (and was not to).
    #[error("the object exists already")]
    Exists,
    /// The object does not exist.
    #[error("the object does not exist")]
    Missing,
    /// The object has another revision than the write expects.
    #[error("the object has been modified; please apply your changes to the latest version and try again")]
    Changed,
    /// The disk is full. Nothing of the write was kept; everything acknowledged before is.
    #[error("no room left for the store: {0}; free some space, then try again")]
    Full(String),
    /// The file cannot be written or read.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// What must hold for a write to take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The object does not exist.
    Absent,
    /// The object exists, with this revision.
    Revision(u64),
}

/// One write.
#[derive(Debug)]
pub struct Write {
    /// `group/plural`, see [`table_name`].
    pub table: Arc<str>,
    /// Namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The new object, whose `metadata.resourceVersion` the writer fills in; `None` removes it.
    pub object: Option<Value>,
    /// The condition.
    pub expect: Expect,
}

/// The key of an object in its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

type Table = imbl::OrdMap<Key, Arc<Stored>>;

/// All objects at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The revision.
    pub revision: u64,
    tables: imbl::HashMap<Arc<str>, Table>,
}

impl Snapshot {
    /// One object.
    pub fn get(&self, table: &str, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.tables.get(table)?.get(&Key::new(namespace, name))
    }

    /// The objects of a table in the order of their keys, of one namespace or of all, from behind `after` on.
    pub fn list<'a>(
        &'a self,
        table: &str,
        namespace: Option<&'a str>,
        after: Option<Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> + 'a {
        let start = match (after, namespace) {
            (Some(key), _) => Bound::Excluded(key),
            (None, Some(namespace)) => Bound::Included(Key::new(namespace, "")),
            (None, None) => Bound::Unbounded,
        };
        self.tables
            .get(table)
            .into_iter()
            .flat_map(move |objects| objects.range((start.clone(), Bound::Unbounded)))
            .take_while(move |(key, _)| namespace.is_none_or(|namespace| *key.namespace == *namespace))
    }

    /// The tables that hold objects.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tables.iter().filter(|(_, objects)| !objects.is_empty()).map(|(name, _)| name)
    }

    fn apply(&mut self, event: &Event) {
        let (namespace, name) = names(&event.object.value);
        let key = Key::new(namespace, name);
        let table = self.tables.entry(event.table.clone()).or_default();
        match event.event_type {
            EventType::Deleted => table.remove(&key),
            _ => table.insert(key, event.object.clone()),
        };
        self.revision = event.revision();
    }
}

/// Called in order for every durable change, before it is acknowledged.
pub type Observer = Box<dyn Fn(&Event) + Send + Sync>;

struct Shared {
    snapshot: ArcSwap<Snapshot>,
    logs: RwLock<HashMap<Arc<str>, Arc<Log>>>,
    /// The last revision of each resource when the file was opened: what a watch may resume from.
    opened_at: HashMap<String, u64>,
    /// The revision up to which all logs are complete.
    settled: AtomicU64,
    observer: OnceLock<Observer>,
}

impl Shared {
    fn log(&self, table: &str) -> Arc<Log> {
        if let Some(log) = self.logs.read().get(table) {
            return log.clone();
        }
        let oldest = self.opened_at.get(table).copied().unwrap_or(0);
        self.logs.write().entry(table.into()).or_insert_with(|| Arc::new(Log::new(oldest))).clone()
    }
}

/// The store; cloning shares it. The file is closed when the last clone goes.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    writer: writer::Handle,
}

impl Store {
    /// Opens the store and reads all of it.
    pub fn open(medium: Box<dyn Medium>) -> Result<Store, StoreError> {
        let disk = disk::Disk::open(medium)?;
        let contents = disk.load()?;
        let mut snapshot = Snapshot { revision: contents.revision, ..Snapshot::default() };
        for (key, encoded) in contents.objects {
            let (table, namespace, name) = split_key(&key)?;
            let value: Value = serde_json::from_slice(&encoded).map_err(|error| {
                StoreError::Failed(format!("object {key:?} of the store is damaged: {error}"))
            })?;
            let revision = revision_of(&value);
            let key = Key::new(namespace, name);
            snapshot
                .tables
                .entry(table.into())
                .or_default()
                .insert(key, Arc::new(Stored::new(value, revision)));
        }
        let mut opened_at: HashMap<String, u64> = contents.tables.into_iter().collect();
        opened_at.insert(ALL.to_owned(), contents.revision);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            logs: RwLock::default(),
            opened_at,
            settled: AtomicU64::new(contents.revision),
            observer: OnceLock::new(),
        });
        let writer = writer::start(disk, shared.clone())?;
        Ok(Store { shared, writer })
    }

    /// The newest durable state.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// A resource as it was at a revision, made by taking back the changes since then; `None` where they are no longer
    /// kept.
    pub fn snapshot_at(&self, table: &str, revision: u64) -> Option<Arc<Snapshot>> {
        let current = self.snapshot();
        if revision > current.revision {
            return None;
        }
        // The logs follow a moment behind the snapshot.
        while self.shared.settled.load(Ordering::Acquire) < current.revision {
            std::thread::yield_now();
        }
        let events = self.shared.log(table).after(None, revision, usize::MAX).ok()?;
        let mut objects = current.tables.get(table).cloned().unwrap_or_default();
        for event in events.iter().rev().filter(|event| event.revision() <= current.revision) {
            let (namespace, name) = names(&event.object.value);
            let key = Key::new(namespace, name);
            match &event.previous {
                Some(previous) => objects.insert(key, previous.clone()),
                None => objects.remove(&key),
            };
        }
        let tables = imbl::HashMap::unit(Arc::from(table), objects);
        Some(Arc::new(Snapshot { revision, tables }))
    }

    /// One object of the newest durable state.
    pub fn read(&self, table: &str, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.shared.snapshot.load().get(table, namespace, name).cloned()
    }

    /// Writes, and returns the object as stored (for a removal, its last state with the revision of the removal)
    /// when that is durable.
    pub async fn write(&self, write: Write) -> Result<Arc<Stored>, StoreError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(writer::Job::Write(write, answer))?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// A reader of a resource's changes after `revision`.
    pub fn changes(&self, table: &str, revision: u64) -> Result<Reader, Behind> {
        Reader::new(self.shared.log(table), None, revision)
    }

    /// A reader of a resource's changes in one namespace, or in all.
    pub fn changes_in(&self, table: &str, namespace: Option<&str>, revision: u64) -> Result<Reader, Behind> {
        Reader::new(self.shared.log(table), namespace, revision)
    }

    /// A reader of all changes after `revision`.
    pub fn all_changes(&self, revision: u64) -> Result<Reader, Behind> {
        self.changes(ALL, revision)
    }

    /// The revision up to which a reader has seen everything; `None` while changes wait for it.
    pub fn quiet_since(&self, reader: &Reader) -> Option<u64> {
        let settled = self.shared.settled.load(Ordering::Acquire);
        reader.is_caught_up().then(|| settled.max(reader.position()))
    }

    /// Forgets the changes so far: watches from before must list again.
    pub fn compact(&self) {
        for log in self.shared.logs.read().values() {
            log.forget();
        }
    }

    /// Reading access that does not keep the store open.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::new(Glance(Arc::downgrade(&self.shared)))
    }

    /// Sets who is told of every change before its acknowledgement. May be called once.
    pub fn observe(&self, observer: Observer) {
        let _ = self.shared.observer.set(observer);
    }

    /// A value that the server keeps for itself.
    pub async fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(writer::Job::Setting(key.to_owned(), answer))?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Keeps a value of the server's own; durable when this returns.
    pub async fn set_setting(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let (answer, result) = oneshot::channel();
        self.writer.send(writer::Job::SetSetting(key.to_owned(), value, answer))?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

/// Reading access that does not keep the store open, for what the store itself holds (its observer).
struct Glance(Weak<Shared>);

impl Objects for Glance {
    fn get(&self, resource: Resource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let snapshot = self.0.upgrade()?.snapshot.load_full();
        snapshot.get(&table_name(resource), namespace, name).map(|stored| stored.value.clone())
    }

    fn list(&self, resource: Resource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(shared) = self.0.upgrade() else { return Vec::new() };
        let snapshot = shared.snapshot.load_full();
        snapshot
            .list(&table_name(resource), namespace, None)
            .map(|(_, stored)| stored.value.clone())
            .collect()
    }
}

impl Objects for Store {
    fn get(&self, resource: Resource<'_>, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.read(&table_name(resource), namespace, name).map(|stored| stored.value.clone())
    }

    fn list(&self, resource: Resource<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let snapshot = self.snapshot();
        snapshot
            .list(&table_name(resource), namespace, None)
            .map(|(_, stored)| stored.value.clone())
            .collect()
    }
}

/// `group/plural`, the name of a resource's table.
pub fn table_name(resource: Resource<'_>) -> Arc<str> {
    format!("{}/{}", resource.group, resource.plural).into()
}

/// The group and plural of a table's name.
pub fn resource_of(table: &str) -> Resource<'_> {
    let (group, plural) = table.split_once('/').unwrap_or(("", table));
    Resource { group, plural }
}

/// Namespace and name of an object.
pub fn names(value: &Value) -> (&str, &str) {
    let field = |name: &str| value["metadata"][name].as_str().unwrap_or_default();
    (field("namespace"), field("name"))
}

/// The revision in `metadata.resourceVersion`.
pub fn revision_of(value: &Value) -> u64 {
    value["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn key_of(table: &str, namespace: &str, name: &str) -> String {
    format!("{table}\0{namespace}\0{name}")
}

fn split_key(key: &str) -> Result<(&str, &str, &str), StoreError> {
    let mut parts = key.splitn(3, '\0');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(table), Some(namespace), Some(name)) => Ok((table, namespace, name)),
        _ => Err(StoreError::Failed(format!("the store holds an unreadable key {key:?}"))),
    }
}

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod tests;
