//! The recent changes of a resource, from which watches read at their own pace.
//!
//! The writer appends once and wakes once; it neither knows the watches nor waits for them. A watch that falls behind
//! the kept changes is told so ([`Behind`]), which a client sees as 410 Gone.

use super::{Stored, names};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// Changes kept for a resource, unless they are large.
const KEPT_EVENTS: usize = 8192;
/// Bytes of encoded objects kept for a resource.
const KEPT_BYTES: usize = 16 << 20;
/// Changes kept however large they are.
const KEPT_AT_LEAST: usize = 64;

/// How a change looks to a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// The object is new (or newly selected).
    Added,
    /// The object changed.
    Modified,
    /// The object is gone (or no longer selected).
    Deleted,
}

impl EventType {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// One durable change.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub event_type: EventType,
    /// The object's table, as `group/plural`.
    pub table: Arc<str>,
    /// The object after the change; for a deletion its last state, with the revision of the deletion.
    pub object: Arc<Stored>,
    /// The object before the change.
    pub previous: Option<Arc<Stored>>,
    lines: Mutex<SmallVec<[(EventType, String, Bytes); 1]>>,
}

impl Event {
    pub(super) fn new(
        event_type: EventType,
        table: Arc<str>,
        object: Arc<Stored>,
        previous: Option<Arc<Stored>>,
    ) -> Event {
        Event { event_type, table, object, previous, lines: Mutex::default() }
    }

    /// The revision of the change.
    pub fn revision(&self) -> u64 {
        self.object.revision
    }

    /// The line, where it has been made.
    pub fn known_line(&self, event_type: EventType, api_version: &str) -> Option<Bytes> {
        let lines = self.lines.lock();
        let mut known =
            lines.iter().filter(|(known, version, _)| *known == event_type && version == api_version);
        known.next().map(|(_, _, line)| line.clone())
    }

    /// Keeps a line that was made elsewhere, for other watches.
    pub fn keep_line(&self, event_type: EventType, api_version: &str, line: &Bytes) {
        self.lines.lock().push((event_type, api_version.to_owned(), line.clone()));
    }

    /// The line of a watch's stream; made once for all watches that see the change in the same way.
    pub fn line(&self, event_type: EventType, api_version: &str) -> Bytes {
        let mut lines = self.lines.lock();
        if let Some((_, _, line)) =
            lines.iter().find(|(known, version, _)| *known == event_type && version == api_version)
        {
            return line.clone();
        }
        let line = line(event_type, &self.object, api_version);
        lines.push((event_type, api_version.to_owned(), line.clone()));
        line
    }
}

/// The line of a watch's stream for an object.
pub fn line(event_type: EventType, object: &Stored, api_version: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(object.encoded().len() + 48);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event_type.name().as_bytes());
    out.put_slice(b"\",\"object\":");
    object.write_as(api_version, &mut out);
    out.put_slice(b"}\n");
    out.freeze()
}

/// A reader came too late: changes it has not seen are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Behind {
    /// The revision up to which the reader has seen changes.
    pub asked: u64,
    /// The revision from which on changes are known.
    pub oldest: u64,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Changes up to this revision are not kept (any more).
    oldest: u64,
    limit: usize,
    /// The same changes by namespace, so that a watch of one namespace is neither woken by others nor outrun by them.
    namespaces: HashMap<Arc<str>, Part>,
    /// What `oldest` is of a namespace of which nothing has been forgotten.
    beginning: u64,
}

/// The changes in one namespace.
#[derive(Debug)]
struct Part {
    events: VecDeque<Arc<Event>>,
    oldest: u64,
    newest: watch::Sender<u64>,
}

impl Ring {
    fn part(&mut self, namespace: &str) -> &mut Part {
        if !self.namespaces.contains_key(namespace) {
            let part = Part {
                events: VecDeque::new(),
                oldest: self.beginning,
                newest: watch::channel(self.beginning).0,
            };
            self.namespaces.insert(namespace.into(), part);
        }
        // Just made where it was missing.
        self.namespaces.get_mut(namespace).unwrap_or_else(|| unreachable!("inserted above"))
    }

    /// Forgets the oldest change.
    fn forget_one(&mut self) {
        let Some(event) = self.events.pop_front() else { return };
        self.bytes -= event.object.encoded().len();
        self.oldest = event.revision();
        if let Some(part) = self.namespaces.get_mut(names(&event.object.value).0)
            && part.events.front().is_some_and(|first| first.revision() == event.revision())
        {
            part.events.pop_front();
            part.oldest = event.revision();
        }
    }

    /// The changes of a namespace or of all, and from which revision on they are known.
    fn changes(&self, namespace: Option<&str>) -> (Option<&VecDeque<Arc<Event>>>, u64) {
        match namespace {
            None => (Some(&self.events), self.oldest),
            Some(namespace) => match self.namespaces.get(namespace) {
                Some(part) => (Some(&part.events), part.oldest),
                None => (None, self.beginning),
            },
        }
    }
}

/// The recent changes of one resource (or of all).
#[derive(Debug)]
pub struct Log {
    ring: RwLock<Ring>,
    /// The revision up to which the ring is complete.
    newest: watch::Sender<u64>,
}

impl Log {
    /// A log that knows nothing of changes up to `oldest`.
    pub(super) fn new(oldest: u64) -> Log {
        Log::with_limit(oldest, KEPT_EVENTS)
    }

    pub(super) fn with_limit(oldest: u64, limit: usize) -> Log {
        let (events, namespaces) = (VecDeque::new(), HashMap::new());
        let ring = Ring { events, bytes: 0, oldest, limit, namespaces, beginning: oldest };
        Log { ring: RwLock::new(ring), newest: watch::channel(oldest).0 }
    }

    /// Appends changes, which must be durable and in order, and forgets old ones.
    pub(super) fn append(&self, events: impl IntoIterator<Item = Arc<Event>>) {
        let mut ring = self.ring.write();
        let mut touched: HashMap<Arc<str>, (watch::Sender<u64>, u64)> = HashMap::new();
        for event in events {
            ring.bytes += event.object.encoded().len();
            let namespace = names(&event.object.value).0;
            if !namespace.is_empty() {
                let part = ring.part(namespace);
                part.events.push_back(event.clone());
                match touched.get_mut(namespace) {
                    Some((_, revision)) => *revision = event.revision(),
                    None => drop(touched.insert(namespace.into(), (part.newest.clone(), event.revision()))),
                }
            }
            ring.events.push_back(event);
        }
        while ring.events.len() > ring.limit || (ring.bytes > KEPT_BYTES && ring.events.len() > KEPT_AT_LEAST)
        {
            ring.forget_one();
        }
        let newest = ring.events.back().map_or(ring.oldest, |event| event.revision());
        drop(ring);
        self.newest.send_replace(newest);
        for (sender, revision) in touched.into_values() {
            sender.send_replace(revision);
        }
    }

    /// Forgets all changes, as if they had been compacted.
    pub(super) fn forget(&self) {
        let mut ring = self.ring.write();
        if let Some(event) = ring.events.back() {
            ring.oldest = event.revision();
        }
        ring.events.clear();
        ring.bytes = 0;
        ring.beginning = ring.oldest;
        let oldest = ring.oldest;
        for part in ring.namespaces.values_mut() {
            part.events.clear();
            part.oldest = oldest;
        }
    }

    /// Changes after `revision`, in one namespace or in all, at most `limit`.
    pub fn after(
        &self,
        namespace: Option<&str>,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Event>>, Behind> {
        let ring = self.ring.read();
        let (events, oldest) = ring.changes(namespace);
        if revision < oldest {
            return Err(Behind { asked: revision, oldest });
        }
        let Some(events) = events else { return Ok(Vec::new()) };
        let start = events.partition_point(|event| event.revision() <= revision);
        Ok(events.range(start..).take(limit).cloned().collect())
    }

    /// Wakes a reader at every append that concerns it.
    fn subscribe(&self, namespace: Option<&str>) -> watch::Receiver<u64> {
        match namespace {
            None => self.newest.subscribe(),
            Some(namespace) => self.ring.write().part(namespace).newest.subscribe(),
        }
    }
}

/// A reader of a resource's recent changes.
#[derive(Debug)]
pub struct Reader {
    log: Arc<Log>,
    wake: watch::Receiver<u64>,
    position: u64,
    namespace: Option<Arc<str>>,
}

impl Reader {
    /// A reader that has seen everything up to `revision`, of one namespace or of all.
    pub(super) fn new(log: Arc<Log>, namespace: Option<&str>, revision: u64) -> Result<Reader, Behind> {
        log.after(namespace, revision, 0)?;
        let mut wake = log.subscribe(namespace);
        wake.mark_changed();
        Ok(Reader { log, wake, position: revision, namespace: namespace.map(Arc::from) })
    }

    /// The revision up to which changes have been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether no change waits to be read.
    pub(super) fn is_caught_up(&self) -> bool {
        self.log.after(self.namespace.as_deref(), self.position, 1).is_ok_and(|events| events.is_empty())
    }

    /// Whether changes that have not been read are forgotten already.
    pub fn is_behind(&self) -> bool {
        self.log.after(self.namespace.as_deref(), self.position, 0).is_err()
    }

    /// Waits for changes and returns the next ones, in order. Cancelling the wait loses nothing.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Arc<Event>>, Behind> {
        loop {
            self.wake.borrow_and_update();
            let events = self.log.after(self.namespace.as_deref(), self.position, limit)?;
            if let Some(last) = events.last() {
                self.position = last.revision();
                return Ok(events);
            }
            if self.wake.changed().await.is_err() {
                // The store is gone; nothing will ever come.
                std::future::pending::<()>().await;
            }
        }
    }
}
