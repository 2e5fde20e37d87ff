//! A disk of memory whose faults are arranged, and the store held against them.
//!
//! It tells bytes that are durable from those that only the kernel has: a power cut keeps of the latter what chance
//! wants, sector by sector; a failed sync loses them, though they can still be read.

use super::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

const SECTOR: usize = 512;

/// What goes wrong, from a certain operation on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// There is no room, until there is.
    Full,
    /// One write fails.
    Write,
    /// One sync fails, and what was not durable never will be.
    Sync,
    /// The new file cannot be put in place of the old one.
    Rename,
    /// The power is cut.
    Power,
}

const FAULTS: [Fault; 5] = [Fault::Full, Fault::Write, Fault::Sync, Fault::Rename, Fault::Power];

#[derive(Debug, Default, Clone)]
struct Bytes {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// What the kernel has not written yet: where, and what; a new length where there are no bytes.
    waiting: Vec<(usize, Option<Vec<u8>>)>,
}

impl Bytes {
    fn put(target: &mut Vec<u8>, at: usize, data: Option<&[u8]>) {
        match data {
            None => target.resize(at, 0),
            Some(data) => {
                let end = at + data.len();
                if target.len() < end {
                    target.resize(end, 0);
                }
                target[at..end].copy_from_slice(data);
            }
        }
    }

    /// What a power cut leaves.
    fn cut(&mut self, chance: &mut StdRng) {
        for (at, data) in std::mem::take(&mut self.waiting) {
            match data {
                None if chance.random() => Bytes::put(&mut self.durable, at, None),
                None => {}
                Some(data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if chance.random() {
                            Bytes::put(&mut self.durable, at + index * SECTOR, Some(sector));
                        }
                    }
                }
            }
        }
        self.cached = self.durable.clone();
    }
}

#[derive(Debug)]
struct State {
    /// The file, and the one beside it.
    files: [Bytes; 2],
    /// Operations until the fault.
    fault: Option<(u32, Fault)>,
    /// The power was cut so often; what was opened before is dead.
    boot: u32,
    chance: StdRng,
    /// Files were put in place so often.
    promoted: u32,
}

/// A machine with a disk.
#[derive(Debug, Clone)]
pub(crate) struct Machine(Arc<Mutex<State>>);

impl Machine {
    /// Whose chance follows from a seed.
    pub(crate) fn new(seed: u64) -> Machine {
        let chance = StdRng::seed_from_u64(seed);
        let files = [Bytes::default(), Bytes::default()];
        Machine(Arc::new(Mutex::new(State { files, fault: None, boot: 0, chance, promoted: 0 })))
    }

    /// Its disk.
    pub(crate) fn medium(&self) -> Box<dyn Medium> {
        let boot = self.0.lock().unwrap().boot;
        Box::new(Disk { machine: self.clone(), boot })
    }

    fn arrange(&self, fault: Option<(u32, Fault)>) {
        self.0.lock().unwrap().fault = fault;
    }

    /// Ends all that runs, and starts again with what was durable.
    fn restart(&self) {
        let mut guard = self.0.lock().unwrap();
        let State { files, chance, boot, fault, .. } = &mut *guard;
        *boot += 1;
        *fault = None;
        files.iter_mut().for_each(|file| file.cut(chance));
    }
}

/// What the operation is, where a fault depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Write,
    Sync,
    Rename,
}

impl State {
    /// Counts an operation, and says whether it fails.
    fn meets(&mut self, boot: u32, operation: Operation) -> io::Result<()> {
        if boot != self.boot {
            return Err(io::Error::other("the machine was started anew"));
        }
        let Some((left, fault)) = self.fault else { return Ok(()) };
        if left > 0 {
            self.fault = Some((left - 1, fault));
            return Ok(());
        }
        let once = |state: &mut State, error: io::Error| {
            state.fault = None;
            Err(error)
        };
        match (fault, operation) {
            (Fault::Full, _) => Err(io::Error::new(io::ErrorKind::StorageFull, "No space left on device")),
            (Fault::Power, _) => Err(io::Error::other("no power")),
            (Fault::Write, Operation::Write) => once(self, io::Error::other("the write failed")),
            (Fault::Sync, Operation::Sync) => once(self, io::Error::other("the sync failed")),
            (Fault::Rename, Operation::Rename) => once(self, io::Error::other("the rename failed")),
            // A rename only follows a sync that failed.
            (Fault::Rename, Operation::Sync) => {
                self.fault = Some((0, Fault::Rename));
                Err(io::Error::other("the sync failed"))
            }
            _ => Ok(()),
        }
    }
}

struct Disk {
    machine: Machine,
    boot: u32,
}

impl Disk {
    fn file(&self, beside: bool) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
        let mut state = self.machine.0.lock().unwrap();
        if state.boot != self.boot {
            return Err(redb::StorageError::Io(io::Error::other("the machine was started anew")).into());
        }
        if beside {
            state.files[1] = Bytes::default();
        }
        let (machine, boot) = (self.machine.clone(), self.boot);
        let promoted = state.promoted;
        Ok(Box::new(Open { machine, boot, beside, promoted }))
    }
}

impl Medium for Disk {
    fn current(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
        self.file(false)
    }

    fn fresh(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
        self.file(true)
    }

    fn promote(&self) -> io::Result<()> {
        let mut state = self.machine.0.lock().unwrap();
        state.meets(self.boot, Operation::Rename)?;
        state.files.swap(0, 1);
        state.files[1] = Bytes::default();
        state.promoted += 1;
        Ok(())
    }
}

/// An open file, which keeps its bytes when it gets another name.
#[derive(Debug)]
struct Open {
    machine: Machine,
    boot: u32,
    beside: bool,
    promoted: u32,
}

impl Open {
    fn with<T>(&self, act: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.machine.0.lock().unwrap();
        if state.boot != self.boot {
            return Err(io::Error::other("the machine was started anew"));
        }
        let at = usize::from(self.beside && state.promoted == self.promoted);
        act(&mut state, at)
    }
}

impl StorageBackend for Open {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, at| Ok(state.files[at].cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|state, at| {
            let offset = offset as usize;
            let found = state.files[at].cached.get(offset..offset + out.len());
            out.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, at| {
            state.meets(self.boot, Operation::Write)?;
            Bytes::put(&mut state.files[at].cached, len as usize, None);
            state.files[at].waiting.push((len as usize, None));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, at| {
            let result = state.meets(self.boot, Operation::Sync);
            let waiting = std::mem::take(&mut state.files[at].waiting);
            if result.is_ok() {
                for (offset, data) in waiting {
                    Bytes::put(&mut state.files[at].durable, offset, data.as_deref());
                }
            }
            result
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|state, at| {
            state.meets(self.boot, Operation::Write)?;
            Bytes::put(&mut state.files[at].cached, offset as usize, Some(data));
            state.files[at].waiting.push((offset as usize, Some(data.to_vec())));
            Ok(())
        })
    }
}

fn table() -> Arc<str> {
    table_name(Resource::new("", "configmaps"))
}

fn write(store: &Store, name: &str, value: Option<u64>) -> Write {
    let expect =
        store.read(&table(), "", name).map_or(Expect::Absent, |found| Expect::Revision(found.revision));
    // More than a page, so that there is something to tear.
    let data = "x".repeat(3000);
    let object = value.map(|value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
        "data": {"value": value, "more": data}})
    });
    Write { table: table(), namespace: String::new(), name: name.to_owned(), object, expect }
}

type Model = BTreeMap<String, u64>;

fn held(store: &Store) -> Model {
    let snapshot = store.snapshot();
    let list = snapshot.list(&table(), None, None);
    list.map(|(key, stored)| (key.name.to_string(), stored.value["data"]["value"].as_u64().unwrap()))
        .collect()
}

/// One life of a store, full of faults.
struct Life {
    machine: Machine,
    store: Store,
    chance: StdRng,
    /// What was acknowledged.
    model: Model,
    /// States that writes would have made which were refused since: a crash may bring one of them to light.
    refused: Vec<Model>,
    revision: u64,
    seen: Vec<&'static str>,
}

impl Life {
    async fn step(&mut self, count: u64) {
        let name = format!("m{}", self.chance.random_range(0..6));
        let exists = self.model.contains_key(&name);
        let value = (!exists || self.chance.random_range(0..4) > 0).then_some(count);
        let written = self.store.write(write(&self.store, &name, value)).await;
        let mut wanted = self.model.clone();
        match value {
            Some(value) => drop(wanted.insert(name, value)),
            None => drop(wanted.remove(&name)),
        }
        match written {
            Ok(stored) => {
                assert!(stored.revision > self.revision, "revisions grow");
                self.revision = stored.revision;
                self.model = wanted;
                self.refused.clear();
                self.seen.push("acknowledged");
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full(_) | StoreError::Failed(_)), "{error}");
                self.refused.push(wanted);
                self.seen.push(if matches!(error, StoreError::Full(_)) { "full" } else { "failed" });
            }
        }
        assert_eq!(held(&self.store), self.model, "what is seen is what was acknowledged");
    }

    fn crash(&mut self) {
        self.machine.restart();
        self.store = Store::open(self.machine.medium()).expect("the store opens after a power cut");
        let found = held(&self.store);
        assert!(
            found == self.model || self.refused.contains(&found),
            "{found:?} is neither {:?} nor one of {:?}",
            self.model,
            self.refused
        );
        self.model = found;
        self.refused.clear();
        assert!(self.store.snapshot().revision >= self.revision, "revisions are never given twice");
        self.seen.push("restarted");
    }
}

#[tokio::test]
async fn whatever_fails_whenever_nothing_acknowledged_is_lost_and_nothing_refused_comes_back() {
    let mut seen = HashMap::new();
    for seed in 0..40 {
        let machine = Machine::new(seed);
        let store = Store::open(machine.medium()).unwrap();
        let chance = StdRng::seed_from_u64(seed ^ 0xfau64);
        let (model, refused) = (Model::new(), Vec::new());
        let mut life = Life { machine, store, chance, model, refused, revision: 0, seen: Vec::new() };
        for count in 0..40 {
            match life.chance.random_range(0..10) {
                0..4 => {
                    let fault = FAULTS[life.chance.random_range(0..FAULTS.len())];
                    let after = life.chance.random_range(0..14);
                    life.machine.arrange(Some((after, fault)));
                    life.seen.push("fault");
                }
                4..6 => life.machine.arrange(None),
                6 => life.crash(),
                _ => {}
            }
            life.step(count).await;
        }
        // When nothing fails any more, writes succeed.
        life.machine.arrange(None);
        let before = life.seen.iter().filter(|what| **what == "acknowledged").count();
        life.step(1000).await;
        assert_eq!(
            life.seen.iter().filter(|what| **what == "acknowledged").count(),
            before + 1,
            "seed {seed}"
        );
        life.crash();
        for what in life.seen {
            *seen.entry(what).or_insert(0) += 1;
        }
        *seen.entry("written anew").or_insert(0) += life.machine.0.lock().unwrap().promoted;
    }
    // All of it has happened.
    for what in ["acknowledged", "full", "failed", "restarted", "written anew"] {
        assert!(seen.get(what).is_some_and(|count| *count >= 10), "{what}: {seen:?}");
    }
}

#[tokio::test]
async fn a_sync_that_failed_is_no_acknowledgement_whatever_the_file_seems_to_hold() {
    // At each operation of a commit.
    for after in 0..8 {
        let machine = Machine::new(7);
        let store = Store::open(machine.medium()).unwrap();
        store.write(write(&store, "a", Some(1))).await.unwrap();
        machine.arrange(Some((after, Fault::Sync)));
        let written = store.write(write(&store, "b", Some(2))).await;
        let acknowledged = written.is_ok();
        machine.arrange(None);
        store.write(write(&store, "c", Some(3))).await.unwrap();
        drop(store);
        machine.restart();
        let found = held(&Store::open(machine.medium()).unwrap());
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let expect: &[&str] = if acknowledged { &["a", "b", "c"] } else { &["a", "c"] };
        assert_eq!(names, expect, "after {after}");
    }
}
