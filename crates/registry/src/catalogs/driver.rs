//! Runs a source: asks it for news, tells the mesh what differs, and waits longer and longer while it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use lateen_base::backoff::Backoff;
use lateen_model::ClusterId;

use super::service::Entry;
use crate::registry::{Closed, Platform, Sink};
use crate::{Change, Failure, Item, Kind, ObjectKey, Problem, Reason};

/// What a source found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// All that there is.
    Full(BTreeMap<ObjectKey, Told>),
    /// What changed; `None` is gone.
    Some(Vec<(ObjectKey, Option<Told>)>),
}

/// A service, or why it cannot be read.
pub type Told = Result<Entry, String>;

/// Something that can be asked for services: the one thing that an adapter must write.
pub trait Source: Send + 'static {
    /// What it is, for people.
    fn provider(&self) -> &'static str;

    /// Waits for news, and tells them. The first ones, and those after a failure, must be [`News::Full`]; until then the
    /// last known state stands. It is asked again at once after news, and after a pause after a failure.
    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>>;
}

/// How soon a failing platform is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The first pause after a refusal; somebody has to act.
    pub refused: Duration,
}

/// A source as a platform of the mesh.
pub struct Catalog<S> {
    name: ClusterId,
    source: S,
    pace: Pace,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            refused: Duration::from_secs(60),
        }
    }
}

impl<S: Source> Catalog<S> {
    /// A platform of this name.
    pub fn new(name: impl Into<ClusterId>, source: S, pace: Pace) -> Self {
        Self { name: name.into(), source, pace }
    }
}

impl<S: Source> Platform for Catalog<S> {
    fn name(&self) -> ClusterId {
        self.name.clone()
    }

    fn provider(&self) -> &'static str {
        self.source.provider()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::Service, Kind::Endpoints]
    }

    fn run(self: Box<Self>, sink: Sink) -> BoxFuture<'static, ()> {
        async move {
            let Self { mut source, pace, .. } = *self;
            tokio::select! {
                _ = drive(&mut source, pace, &sink) => {}
                () = sink.closed() => {}
            }
        }
        .boxed()
    }
}

async fn drive(source: &mut impl Source, pace: Pace, sink: &Sink) -> Result<(), Closed> {
    let mut backoff = Backoff::new(pace.first, pace.longest);
    let mut refused = Backoff::new(pace.refused, pace.refused.saturating_mul(5));
    let mut told = Memory::default();
    loop {
        match source.next().await {
            Ok(news) => {
                backoff.reset();
                refused.reset();
                for kind in [Kind::Service, Kind::Endpoints] {
                    sink.succeeded(kind);
                }
                for change in told.changes(news) {
                    sink.send(change).await?;
                }
            }
            Err(failure) => {
                sink.failed(Kind::Service, &failure);
                tokio::time::sleep(match failure.reason {
                    Reason::Denied | Reason::Misconfigured => refused.next_delay(),
                    Reason::Limited(pause) => pause.max(backoff.next_delay()),
                    _ => backoff.next_delay(),
                })
                .await;
            }
        }
    }
}

/// What the mesh was told, so that it is told only what differs.
#[derive(Debug, Default)]
struct Memory {
    full: bool,
    entries: BTreeMap<ObjectKey, Entry>,
    unreadable: BTreeMap<ObjectKey, String>,
}

impl Memory {
    fn changes(&mut self, news: News) -> Vec<Change> {
        match news {
            News::Full(all) if !self.full => {
                self.full = true;
                self.first(all)
            }
            News::Full(mut all) => {
                let known = self.entries.keys().chain(self.unreadable.keys());
                let gone: BTreeSet<ObjectKey> =
                    known.filter(|key| !all.contains_key(*key)).cloned().collect();
                let gone = gone.into_iter().map(|key| (key, None));
                let mut changed: Vec<(ObjectKey, Option<Told>)> = gone.collect();
                all.retain(|key, told| match told {
                    Ok(entry) => self.entries.get(key) != Some(entry) || self.unreadable.contains_key(key),
                    Err(_) => true,
                });
                changed.extend(all.into_iter().map(|(key, told)| (key, Some(told))));
                changed.into_iter().flat_map(|(key, told)| self.one(key, told)).collect()
            }
            News::Some(changed) => changed.into_iter().flat_map(|(key, told)| self.one(key, told)).collect(),
        }
    }

    fn first(&mut self, all: BTreeMap<ObjectKey, Told>) -> Vec<Change> {
        let (mut services, mut endpoints, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for (key, told) in all {
            match told {
                Ok(entry) => {
                    services.push(Item::Service(key.clone(), Box::new(entry.service.clone())));
                    endpoints.push(Item::Endpoints(key.clone(), entry.endpoints.clone()));
                    self.entries.insert(key, entry);
                }
                Err(message) => problems.extend(self.unreadable(key, message)),
            }
        }
        // After another run of the same platform the last good ones of those stand.
        let keep: Vec<ObjectKey> = self.unreadable.keys().cloned().collect();
        problems.push(Change::Replace { kind: Kind::Endpoints, items: endpoints, keep: keep.clone() });
        problems.push(Change::Replace { kind: Kind::Service, items: services, keep });
        problems
    }

    fn one(&mut self, key: ObjectKey, told: Option<Told>) -> Vec<Change> {
        match told {
            Some(Ok(entry)) => {
                let healed = self.unreadable.remove(&key).is_some();
                let old = self.entries.insert(key.clone(), entry.clone());
                let mut changes = Vec::new();
                if healed || old.as_ref().is_none_or(|old| old.endpoints != entry.endpoints) {
                    changes.push(Change::Apply(Item::Endpoints(key.clone(), entry.endpoints)));
                }
                if healed || old.is_none_or(|old| old.service != entry.service) {
                    changes.push(Change::Apply(Item::Service(key, Box::new(entry.service))));
                }
                changes
            }
            Some(Err(message)) => self.unreadable(key, message).into_iter().collect(),
            None => {
                let unreadable = self.unreadable.remove(&key).is_some();
                if self.entries.remove(&key).is_none() && !unreadable {
                    return Vec::new();
                }
                vec![Change::Delete(Kind::Service, key.clone()), Change::Delete(Kind::Endpoints, key)]
            }
        }
    }

    /// Says once what cannot be read.
    fn unreadable(&mut self, key: ObjectKey, message: String) -> Option<Change> {
        if self.unreadable.get(&key) == Some(&message) {
            return None;
        }
        self.unreadable.insert(key.clone(), message.clone());
        Some(Change::Unreadable(Problem { kind: Kind::Service, key, message }))
    }
}
