//! The one thread that writes: many writes, one fsync.

use super::disk::{Change, Contents, Disk};
use super::{ALL, Event, EventType, Expect, Shared, StoreError, Stored, Write, key_of};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// Writes in one commit at most, so that the first of a long queue is not kept waiting for the last.
const BATCH: usize = 512;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

pub(super) enum Job {
    Write(Write, Answer<Arc<Stored>>),
    Setting(String, Answer<Option<Vec<u8>>>),
    SetSetting(String, Vec<u8>, Answer<()>),
}

/// The way to the writer; the thread ends when the last handle goes.
#[derive(Clone)]
pub(super) struct Handle {
    jobs: mpsc::Sender<Job>,
}

impl Handle {
    pub(super) fn send(&self, job: Job) -> Result<(), StoreError> {
        self.jobs.send(job).map_err(|_| StoreError::Closed)
    }
}

pub(super) fn start(disk: Disk, shared: Arc<Shared>) -> Result<Handle, StoreError> {
    let (sender, jobs) = mpsc::channel();
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || run(disk, &shared, &jobs))
        .map_err(|error| StoreError::Failed(format!("cannot start the store's thread: {error}")))?;
    Ok(Handle { jobs: sender })
}

fn run(mut disk: Disk, shared: &Shared, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = Batch::new(shared);
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Write(write, answer) => batch.add(write, answer),
                Job::Setting(key, answer) => drop(answer.send(Ok(disk.setting(&key)))),
                Job::SetSetting(key, value, answer) => {
                    let set = disk.set_setting(&key, &value, &|| acknowledged(shared));
                    drop(answer.send(set));
                }
            }
            if batch.changes.len() < BATCH {
                next = jobs.try_recv().ok();
            }
        }
        batch.commit(&mut disk);
    }
}

/// Writes that become durable together. Later ones see the effect of earlier ones.
struct Batch<'a> {
    shared: &'a Shared,
    revision: u64,
    changes: Vec<Change>,
    events: Vec<(Arc<Event>, Answer<Arc<Stored>>)>,
    /// The state of the keys touched so far.
    touched: HashMap<String, Option<Arc<Stored>>>,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared) -> Batch<'a> {
        let revision = shared.snapshot.load().revision;
        Batch { shared, revision, changes: Vec::new(), events: Vec::new(), touched: HashMap::new() }
    }

    fn add(&mut self, write: Write, answer: Answer<Arc<Stored>>) {
        match self.check(write) {
            Ok((key, change, event)) => {
                let after = (event.event_type != EventType::Deleted).then(|| event.object.clone());
                self.touched.insert(key, after);
                self.changes.push(change);
                self.events.push((event, answer));
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn check(&mut self, write: Write) -> Result<(String, Change, Arc<Event>), StoreError> {
        let Write { table, namespace, name, object, expect } = write;
        let key = key_of(&table, &namespace, &name);
        let current = match self.touched.get(&key) {
            Some(state) => state.clone(),
            None => self.shared.snapshot.load().get(&table, &namespace, &name).cloned(),
        };
        match (expect, &current) {
            (Expect::Absent, None) => {}
            (Expect::Absent, Some(_)) => return Err(StoreError::Exists),
            (Expect::Revision(_), None) => return Err(StoreError::Missing),
            (Expect::Revision(revision), Some(stored)) if stored.revision != revision => {
                return Err(StoreError::Changed);
            }
            (Expect::Revision(_), Some(_)) => {}
        }
        let event_type = match (&object, &current) {
            (Some(_), None) => EventType::Added,
            (Some(_), Some(_)) => EventType::Modified,
            (None, Some(_)) => EventType::Deleted,
            (None, None) => return Err(StoreError::Missing),
        };
        let value = match (object, &current) {
            (Some(value), _) => value,
            (None, Some(stored)) => (*stored.value).clone(),
            (None, None) => return Err(StoreError::Missing),
        };
        self.revision += 1;
        let stored = Arc::new(Stored::new(with_revision(value, self.revision), self.revision));
        let encoded = (event_type != EventType::Deleted).then(|| stored.encoded().clone());
        let before = current.as_ref().map(|current| current.encoded().clone());
        let change =
            Change { key: key.clone(), table: table.clone(), encoded, before, revision: self.revision };
        let event = Arc::new(Event::new(event_type, table, stored, current));
        Ok((key, change, event))
    }

    /// Durable first, then visible, then acknowledged.
    fn commit(self, disk: &mut Disk) {
        if self.events.is_empty() {
            return;
        }
        if let Err(error) = disk.commit(&self.changes, &|| acknowledged(self.shared)) {
            tracing::error!(%error, writes = self.events.len(), "writes refused");
            for (_, answer) in self.events {
                let _ = answer.send(Err(error.clone()));
            }
            return;
        }
        let mut snapshot = (*self.shared.snapshot.load_full()).clone();
        for (event, _) in &self.events {
            snapshot.apply(event);
        }
        self.shared.snapshot.store(Arc::new(snapshot));
        if let Some(observer) = self.shared.observer.get() {
            self.events.iter().for_each(|(event, _)| observer(event));
        }
        let mut by_table: HashMap<&Arc<str>, Vec<Arc<Event>>> = HashMap::new();
        for (event, _) in &self.events {
            by_table.entry(&event.table).or_default().push(event.clone());
        }
        for (table, events) in by_table {
            self.shared.log(table).append(events);
        }
        self.shared.log(ALL).append(self.events.iter().map(|(event, _)| event.clone()));
        self.shared.settled.store(self.revision, Ordering::Release);
        for (event, answer) in self.events {
            let _ = answer.send(Ok(event.object.clone()));
        }
    }
}

/// All that counts, for a file that is written anew.
fn acknowledged(shared: &Shared) -> Contents {
    let snapshot = shared.snapshot.load();
    let mut contents = Contents { revision: snapshot.revision, ..Contents::default() };
    for (table, objects) in &snapshot.tables {
        contents.tables.push((table.to_string(), snapshot.revision));
        for (key, stored) in objects {
            contents.objects.push((key_of(table, &key.namespace, &key.name), stored.encoded().clone()));
        }
    }
    contents
}

fn with_revision(mut value: Value, revision: u64) -> Value {
    if let Some(object) = value.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
        }
    }
    value
}
