//! The store's file: one redb table of objects, one of what else must survive.

use super::StoreError;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::io;
use std::path::PathBuf;
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

/// Opens the database; used again after an I/O error, since redb refuses to go on after one.
pub type Opener = Box<dyn Fn() -> Result<Database, redb::DatabaseError> + Send>;

/// The opener of a file, which is made where it does not exist.
pub fn file_opener(path: PathBuf) -> Opener {
    Box::new(move || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(redb::StorageError::Io)?;
        }
        let database = Database::builder().set_cache_size(16 << 20).create(&path)?;
        // A new file's name must survive a crash as well.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(redb::StorageError::Io)?;
        }
        Ok(database)
    })
}

/// One change of the objects table.
#[derive(Debug)]
pub struct Change {
    /// The object's key.
    pub key: String,
    /// `group/plural`.
    pub table: std::sync::Arc<str>,
    /// Its new encoding; `None` removes it.
    pub encoded: Option<bytes::Bytes>,
    /// The revision of the change.
    pub revision: u64,
}

/// The open file.
pub struct Disk {
    opener: Opener,
    database: Option<Database>,
}

/// Everything in the file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Keys and encodings.
    pub objects: Vec<(String, Vec<u8>)>,
    /// The last revision of each resource.
    pub tables: Vec<(String, u64)>,
    /// The last revision.
    pub revision: u64,
}

impl Disk {
    /// Opens the file.
    pub fn open(opener: Opener) -> Result<Disk, StoreError> {
        let database = open_patiently(&opener).map_err(|error| failure(error.into()))?;
        let transaction = database.begin_write().map_err(|error| failure(error.into()))?;
        let create = || -> Result<(), redb::Error> {
            transaction.open_table(OBJECTS)?;
            transaction.open_table(REVISIONS)?;
            transaction.open_table(SETTINGS)?;
            Ok(())
        };
        create().map_err(failure)?;
        transaction.commit().map_err(|error| failure(error.into()))?;
        Ok(Disk { opener, database: Some(database) })
    }

    /// Reads everything.
    pub fn load(&self) -> Result<Contents, StoreError> {
        let read = || -> Result<Contents, redb::Error> {
            let transaction = self.database()?.begin_read()?;
            let mut contents = Contents::default();
            for entry in transaction.open_table(OBJECTS)?.iter()? {
                let (key, value) = entry?;
                contents.objects.push((key.value().to_owned(), value.value().to_vec()));
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

    /// Makes changes durable: when this returns `Ok`, they survive the end of the process and of the machine.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let Some(last) = changes.last() else { return Ok(()) };
        let result = self.write(|transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut revisions = transaction.open_table(REVISIONS)?;
            for change in changes {
                match &change.encoded {
                    Some(encoded) => objects.insert(change.key.as_str(), encoded.as_ref())?,
                    None => objects.remove(change.key.as_str())?,
                };
                revisions.insert(&*change.table, change.revision)?;
            }
            revisions.insert("", last.revision)?;
            Ok(())
        });
        let Err(error) = result else { return Ok(()) };
        let failed = failure(error);
        // After an I/O error redb wants to be opened again, and only the file knows whether the commit took place.
        self.database = None;
        match self.reopen() {
            Ok(revision) if revision >= last.revision => Ok(()),
            Ok(_) => Err(failed),
            Err(error) => {
                tracing::error!(%error, "the store cannot be opened again after an error; writes fail until it can");
                Err(failed)
            }
        }
    }

    /// A value the server keeps for itself.
    pub fn setting(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let transaction = self.database()?.begin_read()?;
            let table = transaction.open_table(SETTINGS)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(failure)
    }

    /// Keeps a value of the server's own.
    pub fn set_setting(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.open_table(SETTINGS)?.insert(key, value)?;
            Ok(())
        })
        .map_err(failure)
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::PreviousIo)
    }

    fn write(
        &mut self,
        change: impl Fn(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let transaction = self.database()?.begin_write()?;
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    }

    /// Opens the file again and returns the last revision in it.
    fn reopen(&mut self) -> Result<u64, redb::Error> {
        let database = (self.opener)()?;
        let transaction = database.begin_read()?;
        let revision = transaction.open_table(REVISIONS)?.get("")?.map_or(0, |value| value.value());
        drop(transaction);
        self.database = Some(database);
        Ok(revision)
    }
}

/// Opens the file; its last user may still be about to close it.
fn open_patiently(opener: &Opener) -> Result<Database, redb::DatabaseError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match opener() {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(RETRY)
            }
            result => return result,
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
