//! A folder with ServiceEntries and WorkloadEntries in YAML, for services that nothing else tells of.
//!
//! What an error does: a file that cannot be read, or says what makes no sense, is reported with the line, and its last
//! good state stands. A file that was emptied counts as being written until it has been empty for a while.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use kube::api::DynamicObject;
use lateen_api::registries::RegistryConfig;
use lateen_galley::{documents, validate_kind};
use lateen_model::{ClusterId, ConfigKind, ConfigObject};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Deserialize;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::driver::{News, Source, Told};
use crate::kubernetes::convert;
use crate::{Failure, Item, ObjectKey, Reason};

mod select;

/// A folder as a source.
pub struct Files {
    platform: ClusterId,
    namespace: String,
    folder: PathBuf,
    interval: Duration,
    files: BTreeMap<PathBuf, File>,
    /// Tells that something in the folder is different; none while everything has to be read.
    events: Option<Receiver>,
}

#[derive(Debug, Default)]
struct File {
    text: String,
    objects: Vec<ConfigObject>,
    problem: Option<String>,
    emptied: Option<Instant>,
}

/// How long a file that was emptied counts as being written.
const WRITING: Duration = Duration::from_secs(2);

impl Files {
    /// The folder that the configuration names.
    pub fn new(config: &RegistryConfig) -> Self {
        Self {
            platform: config.platform_name().into(),
            namespace: if config.namespace.is_empty() { "files".into() } else { config.namespace.clone() },
            folder: config.addresses.first().map(PathBuf::from).unwrap_or_default(),
            interval: config.interval.map_or(Duration::from_secs(30), |interval| interval.get()),
            files: BTreeMap::new(),
            events: None,
        }
    }

    async fn news(&mut self) -> Result<News, Failure> {
        let Some(events) = &self.events else {
            // The watch first: what changes while files are read is told by it.
            let events = watch(&self.folder).map_err(|error| {
                Failure::new(Reason::Unavailable, format!("{}: {error}", self.folder.display()))
            })?;
            self.events = Some(events);
            self.read()?;
            return Ok(News::Full(self.told()));
        };
        // Some file systems tell of nothing, so the folder is read from time to time anyway.
        let emptied = self.files.values().any(|file| file.emptied.is_some());
        let pause = if emptied { WRITING } else { self.interval };
        let _ = tokio::time::timeout(pause, changed(events)).await;
        self.read()?;
        Ok(News::Full(self.told()))
    }

    /// Reads the files that are different.
    fn read(&mut self) -> Result<(), Failure> {
        let folder = self.folder.clone();
        let failure = |error: std::io::Error| {
            Failure::new(Reason::Unavailable, format!("{}: {error}", folder.display()))
        };
        let mut found = Vec::new();
        for one in std::fs::read_dir(&self.folder).map_err(failure)? {
            let path = one.map_err(failure)?.path();
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let kind = path.extension().and_then(|end| end.to_str());
            if !hidden && matches!(kind, Some("yaml" | "yml" | "json")) && path.is_file() {
                found.push(path);
            }
        }
        self.files.retain(|path, _| found.contains(path));
        for path in found {
            let file = self.files.entry(path.clone()).or_default();
            match std::fs::read_to_string(&path) {
                Ok(text) => file.take(text, &self.namespace),
                // It went between the two looks.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => file.problem = Some(error.to_string()),
            }
        }
        Ok(())
    }

    /// What all files tell; a file that cannot be read is a problem under its own name.
    fn told(&self) -> BTreeMap<ObjectKey, Told> {
        let objects: Vec<&ConfigObject> = self.files.values().flat_map(|file| &file.objects).collect();
        let mut told: BTreeMap<ObjectKey, Told> = BTreeMap::new();
        for entry in select::services(&objects, &self.platform) {
            let key =
                ObjectKey::new(entry.service.key.namespace.as_str(), entry.service.key.hostname.as_str());
            told.entry(key).or_insert(Ok(entry));
        }
        for (path, file) in &self.files {
            if let Some(problem) = &file.problem {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                told.insert(ObjectKey::new("", name), Err(problem.clone()));
            }
        }
        told
    }
}

impl File {
    fn take(&mut self, text: String, namespace: &str) {
        if text.trim().is_empty() && !self.objects.is_empty() {
            let since = *self.emptied.get_or_insert_with(Instant::now);
            if since.elapsed() < WRITING {
                return;
            }
        }
        self.emptied = None;
        if text == self.text && self.problem.is_none() {
            return;
        }
        match objects(&text, namespace) {
            Ok(objects) => (self.objects, self.problem) = (objects, None),
            Err(problem) => self.problem = Some(problem),
        }
        self.text = text;
    }
}

/// The objects in a text of YAML documents; else the line and what is wrong there.
fn objects(text: &str, namespace: &str) -> Result<Vec<ConfigObject>, String> {
    let documents = documents(text).map_err(|error| format!("line {}: {error}", error.line))?;
    let mut objects = Vec::new();
    for document in documents {
        let place = |path: &str, message: &str| format!("line {}: {message}", document.line(path));
        let kind = document.value["kind"].as_str().unwrap_or_default();
        let kind = ConfigKind::parse(kind)
            .filter(|kind| matches!(kind, ConfigKind::ServiceEntry | ConfigKind::WorkloadEntry))
            .ok_or_else(|| {
                place("kind", &format!("kind: {kind:?} is not one of ServiceEntry, WorkloadEntry"))
            })?;
        // Nobody has judged it before, as the API server does with objects of a cluster.
        if let Some(problem) = validate_kind(kind.as_str(), &document.value).errors.first() {
            return Err(place(&problem.path, &problem.to_string()));
        }
        let mut value = document.value.clone();
        if value["metadata"]["namespace"].is_null() {
            value["metadata"]["namespace"] = namespace.into();
        }
        let object =
            DynamicObject::deserialize(value).map_err(|error| place("metadata", &error.to_string()))?;
        let made = convert::config(kind, object, "").map_err(|message| place("spec", &message))?;
        if let Some(Item::Config(object)) = made {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The events of a folder: a descriptor that can be read when something has happened.
fn watch(folder: &Path) -> std::io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(folder, events)?;
    // What the runtime reads from a pipe it reads from this, too.
    Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)
}

/// Waits until something has happened; what it was does not matter.
async fn changed(events: &Receiver) {
    if events.readable().await.is_err() {
        return std::future::pending().await;
    }
    while matches!(events.try_read(&mut [0; 4096]), Ok(1..)) {}
}

impl Source for Files {
    fn provider(&self) -> &'static str {
        "files"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>> {
        async move {
            let news = self.news().await;
            if news.is_err() {
                self.events = None;
            }
            news
        }
        .boxed()
    }
}
