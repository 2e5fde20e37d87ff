//! The store's file: one redb table of objects, one of what else must survive.

use super::StoreError;
use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{BackendError, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Objects by `group/plural NUL namespace NUL name`, as JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// The last revision (key ``), and the last revision of each resource (key `group/plural`).
const REVISIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("revisions");
/// What the server keeps for itself, such as its signing key.
const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");

/// How long the last user of the file is given to close it.
const PATIENCE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);
/// Of the file's memory, what may be kept in ours.
const CACHE: usize = 16 << 20;

/// Where the store keeps its bytes.
pub trait Medium: Send {
    /// The bytes as they are; none the first time.
    fn current(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError>;
    /// A place for new bytes beside them, empty.
    fn fresh(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError>;
    /// Puts the new bytes, which are durable, in place of the present ones: at once or not at all.
    fn promote(&self) -> io::Result<()>;
}

/// A file, which is made where it does not exist.
pub struct File {
    path: PathBuf,
}

impl File {
    /// At this path.
    pub fn new(path: PathBuf) -> Box<File> {
        Box::new(File { path })
    }

    fn beside(&self) -> PathBuf {
        self.path.with_extension("new")
    }

    /// Makes the names in the folder durable.
    fn sync_folder(&self) -> io::Result<()> {
        match self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => std::fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn backend(path: &Path, truncate: bool) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(truncate).open(path);
    Ok(Box::new(FileBackend::new(file.map_err(redb::StorageError::Io)?)?))
}

impl Medium for File {
    fn current(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(redb::StorageError::Io)?;
        }
        let backend = backend(&self.path, false)?;
        // A new file's name must survive a crash as well; what a crash left beside it takes room.
        let _ = std::fs::remove_file(self.beside());
        self.sync_folder().map_err(redb::StorageError::Io)?;
        Ok(backend)
    }

    fn fresh(&self) -> Result<Box<dyn StorageBackend>, redb::DatabaseError> {
        backend(&self.beside(), true)
    }

    fn promote(&self) -> io::Result<()> {
        std::fs::rename(self.beside(), &self.path)?;
        self.sync_folder()
    }
}

/// A backend that remembers whether making bytes durable has ever failed. After that nobody knows which of them are: the
/// kernel reports such a failure once, and counts them as written from then on.
#[derive(Debug)]
struct Watched {
    inner: Box<dyn StorageBackend>,
    lost: Arc<AtomicBool>,
}

type Locked<T> = Result<T, BackendError>;

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data().inspect_err(|_| self.lost.store(true, Ordering::SeqCst))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.inner.query_lock_range(start, end)
    }
}

/// One change of the objects table.
#[derive(Debug)]
pub struct Change {
    /// The object's key.
    pub key: String,
    /// `group/plural`.
    pub table: Arc<str>,
    /// Its new encoding; `None` removes it.
    pub encoded: Option<Bytes>,
    /// Its encoding before.
    pub before: Option<Bytes>,
    /// The revision of the change.
    pub revision: u64,
}

/// The open file.
///
/// What was acknowledged is in memory as well, so a failure loses nothing; but what the file holds after one is not known.
/// A write that failed may be there, and is taken back before anything else is written. If making bytes durable failed,
/// the file is written anew.
pub struct Disk {
    medium: Box<dyn Medium>,
    /// None after a failure: redb wants to be opened again then.
    database: Option<Database>,
    lost: Arc<AtomicBool>,
    /// The file must be written anew.
    doubtful: bool,
    /// What keys held before writes that failed and may be in the file nevertheless.
    unsure: HashMap<String, Option<Bytes>>,
    settings: HashMap<String, Vec<u8>>,
}

/// Everything in the file but the settings.
#[derive(Debug, Default)]
pub struct Contents {
    /// Keys and encodings.
    pub objects: Vec<(String, Bytes)>,
    /// The last revision of each resource.
    pub tables: Vec<(String, u64)>,
    /// The last revision.
    pub revision: u64,
}

impl Disk {
    /// Opens the file.
    pub fn open(medium: Box<dyn Medium>) -> Result<Disk, StoreError> {
        let (database, lost) = open_patiently(&*medium).map_err(|error| failure(error.into()))?;
        let settings = HashMap::new();
        let unsure = HashMap::new();
        let mut disk = Disk { medium, database: Some(database), lost, doubtful: false, unsure, settings };
        disk.transact(&|_| Ok(())).map_err(failure)?;
        disk.settings = disk.read_settings().map_err(failure)?;
        Ok(disk)
    }

    /// Reads everything.
    pub fn load(&self) -> Result<Contents, StoreError> {
        let read = || -> Result<Contents, redb::Error> {
            let transaction = self.database()?.begin_read()?;
            let mut contents = Contents::default();
            for entry in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = entry?;
                contents.objects.push((key.value().to_owned(), Bytes::copy_from_slice(value.value())));
            }
            for entry in transaction.open_table(REVISIONS)?.iter()? {
                let (key, value) = entry?;
                match key.value() {
                    "" => contents.revision = value.value(),
                    table => contents.tables.push((table.to_owned(), value.value())),
                }
            }
            Ok(contents)
        };
        read().map_err(failure)
    }

    fn read_settings(&self) -> Result<HashMap<String, Vec<u8>>, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        let table = transaction.open_table(SETTINGS)?;
        let mut settings = HashMap::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            settings.insert(key.value().to_owned(), value.value().to_vec());
        }
        Ok(settings)
    }

    /// Makes changes durable: when this returns `Ok`, they survive the end of the process and of the machine; when it
    /// returns an error, they do not count, even if the file has them for now. `acknowledged` is what counts.
    pub fn commit(
        &mut self,
        changes: &[Change],
        acknowledged: &dyn Fn() -> Contents,
    ) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let result = self.settle(acknowledged).and_then(|()| self.transact(&|tables| tables.apply(changes)));
        let Err(error) = result else { return Ok(()) };
        for change in changes {
            self.unsure.entry(change.key.clone()).or_insert_with(|| change.before.clone());
        }
        // If there is no room for that now, the next write tries it again.
        if let Err(error) = self.settle(acknowledged) {
            tracing::warn!(%error, "the store cannot be repaired yet; writes fail until it can");
        }
        Err(failure(error))
    }

    /// A value the server keeps for itself.
    pub fn setting(&self, key: &str) -> Option<Vec<u8>> {
        self.settings.get(key).cloned()
    }

    /// Keeps a value of the server's own.
    pub fn set_setting(
        &mut self,
        key: &str,
        value: &[u8],
        acknowledged: &dyn Fn() -> Contents,
    ) -> Result<(), StoreError> {
        let write = |tables: &mut Tables<'_>| {
            tables.settings.insert(key, value)?;
            Ok(())
        };
        self.settle(acknowledged).and_then(|()| self.transact(&write)).map_err(failure)?;
        self.settings.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    /// After a failure: makes the file hold what was acknowledged and nothing else.
    fn settle(&mut self, acknowledged: &dyn Fn() -> Contents) -> Result<(), redb::Error> {
        if self.doubtful {
            self.write_anew(&acknowledged())?;
        } else if self.database.is_none() {
            let lost = Arc::new(AtomicBool::new(false));
            match open(self.medium.current()?, &lost) {
                Ok(database) => (self.database, self.lost) = (Some(database), lost),
                Err(error) => {
                    self.doubtful |= lost.load(Ordering::SeqCst);
                    return Err(error.into());
                }
            }
        }
        if self.unsure.is_empty() {
            return Ok(());
        }
        let unsure = std::mem::take(&mut self.unsure);
        let result = self
            .transact(&|tables| unsure.iter().try_for_each(|(key, before)| tables.set(key, before.as_ref())));
        if result.is_err() {
            self.unsure = unsure;
        }
        result
    }

    /// Writes a new file and puts it in place of the old one.
    fn write_anew(&mut self, contents: &Contents) -> Result<(), redb::Error> {
        self.lost = Arc::new(AtomicBool::new(false));
        self.database = Some(open(self.medium.fresh()?, &self.lost)?);
        let settings = self.settings.clone();
        self.transact(&|tables| {
            for (key, encoded) in &contents.objects {
                tables.objects.insert(key.as_str(), encoded.as_ref())?;
            }
            for (table, revision) in &contents.tables {
                tables.revisions.insert(table.as_str(), revision)?;
            }
            tables.revisions.insert("", contents.revision)?;
            for (key, value) in &settings {
                tables.settings.insert(key.as_str(), value.as_slice())?;
            }
            Ok(())
        })?;
        if let Err(error) = self.medium.promote() {
            self.database = None;
            return Err(error.into());
        }
        tracing::info!(objects = contents.objects.len(), "the store's file was written anew after a failure");
        self.unsure.clear();
        self.doubtful = false;
        Ok(())
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::PreviousIo)
    }

    /// One transaction, durable when this returns `Ok`; after an error the file is closed.
    fn transact(
        &mut self,
        change: &dyn Fn(&mut Tables<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let run = || -> Result<(), redb::Error> {
            let transaction = self.database()?.begin_write()?;
            let mut tables = Tables {
                objects: transaction.open_table(OBJECTS)?,
                revisions: transaction.open_table(REVISIONS)?,
                settings: transaction.open_table(SETTINGS)?,
            };
            change(&mut tables)?;
            drop(tables);
            transaction.commit()?;
            Ok(())
        };
        let result = run();
        if result.is_err() {
            self.database = None;
            // Closing writes as well.
            self.doubtful |= self.lost.load(Ordering::SeqCst);
        }
        result
    }
}

/// The tables of a transaction.
struct Tables<'t> {
    objects: redb::Table<'t, &'static str, &'static [u8]>,
    revisions: redb::Table<'t, &'static str, u64>,
    settings: redb::Table<'t, &'static str, &'static [u8]>,
}

impl Tables<'_> {
    fn set(&mut self, key: &str, encoded: Option<&Bytes>) -> Result<(), redb::Error> {
        match encoded {
            Some(encoded) => drop(self.objects.insert(key, encoded.as_ref())?),
            None => drop(self.objects.remove(key)?),
        }
        Ok(())
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), redb::Error> {
        for change in changes {
            self.set(&change.key, change.encoded.as_ref())?;
            self.revisions.insert(&*change.table, change.revision)?;
            self.revisions.insert("", change.revision)?;
        }
        Ok(())
    }
}

fn open(inner: Box<dyn StorageBackend>, lost: &Arc<AtomicBool>) -> Result<Database, redb::DatabaseError> {
    let backend = Watched { inner, lost: lost.clone() };
    Database::builder().set_cache_size(CACHE).create_with_backend(backend)
}

/// Opens the file; its last user may still be about to close it.
fn open_patiently(medium: &dyn Medium) -> Result<(Database, Arc<AtomicBool>), redb::DatabaseError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lost = Arc::new(AtomicBool::new(false));
        match medium.current().and_then(|backend| open(backend, &lost)) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(RETRY)
            }
            result => return result.map(|database| (database, lost)),
        }
    }
}

fn failure(error: redb::Error) -> StoreError {
    match &error {
        redb::Error::Io(cause)
            if matches!(
                cause.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ) =>
        {
            StoreError::Full(cause.to_string())
        }
        redb::Error::DatabaseAlreadyOpen => StoreError::Failed(
            "the store is in use by another process; end it (`lateen down`) or use another state folder"
                .to_owned(),
        ),
        _ => StoreError::Failed(error.to_string()),
    }
}
