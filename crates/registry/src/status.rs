//! How each platform fares: kept as a value, shown as metrics, and logged once a change of state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lateen_model::ClusterId;
use serde::Serialize;
use tracing::{info, warn};

use crate::Kind;

/// Why a platform could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is; decides how soon the next attempt is made.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No connection, or it broke, or the server says that it cannot answer now.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// The credentials are missing, wrong, or not enough (401, 403). Tried again slowly: somebody has to act.
    Denied,
    /// An answer that makes no sense.
    Malformed,
    /// Asked too often; try again after this time.
    Limited(#[serde(skip)] Duration),
    /// Something of our own is missing: a file of a certificate or token.
    Misconfigured,
}

/// How one platform fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Its name, the `cluster` in the keys of its services.
    pub name: ClusterId,
    /// What it is: `Kubernetes`, `Consul`, ...
    pub provider: &'static str,
    /// Whether everything that it tells of was listed once.
    pub synced: bool,
    /// Since when it has answered without failure, in seconds since 1970; none while it does not.
    pub connected_since: Option<u64>,
    /// When it was heard of last, in seconds since 1970.
    pub last_success: Option<u64>,
    /// What went wrong last, and when.
    pub last_error: Option<LastError>,
    /// Whether what is known of it may be out of date: it was listed once, and does not answer now.
    pub stale: bool,
    /// How often asking it failed.
    pub errors: u64,
    /// How many services it told of.
    pub services: usize,
    /// How many endpoints it told of.
    pub endpoints: usize,
}

/// The failure that was last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// In seconds since 1970.
    pub time: u64,
    /// Its kind.
    pub reason: Reason,
    /// What happened.
    pub message: String,
}

/// The state of all platforms. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    platforms: Arc<Mutex<BTreeMap<ClusterId, Entry>>>,
}

#[derive(Debug)]
struct Entry {
    status: PlatformStatus,
    /// Kinds whose last attempt failed.
    failing: BTreeSet<Kind>,
    /// Kinds that were heard of at least once.
    heard: BTreeSet<Kind>,
    kinds: BTreeSet<Kind>,
    /// The failures that were logged since the platform answered last.
    said: BTreeSet<&'static str>,
    errors: BTreeMap<&'static str, u64>,
}

// === impl Failure ===

impl Failure {
    /// A failure of this kind.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Reason {
    /// As the metric's label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Limited(_) => "limited",
            Self::Misconfigured => "misconfigured",
        }
    }
}

// === impl Board ===

impl Board {
    /// A platform is wanted from now on; one of the same name begins anew.
    pub(crate) fn add(&self, name: ClusterId, provider: &'static str, kinds: BTreeSet<Kind>) {
        let status = PlatformStatus {
            name: name.clone(),
            provider,
            synced: false,
            connected_since: None,
            last_success: None,
            last_error: None,
            stale: false,
            errors: 0,
            services: 0,
            endpoints: 0,
        };
        let entry = Entry {
            status,
            failing: BTreeSet::new(),
            heard: BTreeSet::new(),
            kinds,
            said: BTreeSet::new(),
            errors: BTreeMap::new(),
        };
        self.lock().insert(name, entry);
    }

    pub(crate) fn remove(&self, name: &ClusterId) {
        self.lock().remove(name);
    }

    /// The state of all platforms, by name.
    pub(crate) fn statuses(&self) -> Vec<PlatformStatus> {
        self.lock().values().map(|entry| entry.status.clone()).collect()
    }

    /// How often asking a platform failed, by reason.
    pub(crate) fn errors(&self) -> Vec<(ClusterId, &'static str, u64)> {
        let platforms = self.lock();
        let each = platforms.iter().flat_map(|(name, entry)| {
            entry.errors.iter().map(move |(reason, count)| (name.clone(), *reason, *count))
        });
        each.collect()
    }

    pub(crate) fn synced(&self, name: &ClusterId) {
        self.with(name, |entry| {
            entry.status.synced = true;
            entry.status.stale = entry.status.connected_since.is_none();
        });
    }

    pub(crate) fn counted(&self, name: &ClusterId, (services, endpoints): (usize, usize)) {
        self.with(name, |entry| (entry.status.services, entry.status.endpoints) = (services, endpoints));
    }

    /// The platform answered.
    pub(crate) fn succeeded(&self, name: &ClusterId, kind: Kind) {
        self.with(name, |entry| {
            entry.failing.remove(&kind);
            entry.heard.insert(kind);
            let now = now();
            entry.status.last_success = Some(now);
            if entry.failing.is_empty()
                && entry.status.connected_since.is_none()
                && entry.heard.is_superset(&entry.kinds)
            {
                entry.status.connected_since = Some(now);
                entry.status.stale = false;
                entry.said.clear();
                info!(platform = %name, provider = entry.status.provider, "the platform answers");
            }
        });
    }

    /// The platform did not answer as it should. Each kind of failure is logged once until the platform answers.
    pub(crate) fn failed(&self, name: &ClusterId, kind: Kind, failure: &Failure) {
        self.with(name, |entry| {
            entry.failing.insert(kind);
            let (reason, status) = (failure.reason.as_str(), &mut entry.status);
            status.connected_since = None;
            status.stale = status.synced;
            status.errors += 1;
            status.last_error =
                Some(LastError { time: now(), reason: failure.reason, message: failure.message.clone() });
            *entry.errors.entry(reason).or_default() += 1;
            if entry.said.insert(reason) {
                let consequence =
                    if status.synced { "its last known state stands" } else { "nothing is known of it yet" };
                warn!(platform = %name, provider = status.provider, reason, "the platform fails, {consequence}: {failure}");
            }
        });
    }

    fn with(&self, name: &ClusterId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.lock().get_mut(name) {
            change(entry);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ClusterId, Entry>> {
        self.platforms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
