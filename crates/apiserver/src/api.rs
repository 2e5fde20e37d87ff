//! What all requests share.

use crate::builtin::allocate::Allocator;
use crate::seam::{KindInfo, SchemaSide};
use crate::status::{Cause, CauseReason, Status};
use crate::store::{Snapshot, Store, StoreError};
use crate::token::Tokens;
use lateen_base::drain;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the pages of a list can be turned.
const PAGES_KEPT: Duration = Duration::from_secs(300);
/// Lists whose pages can be turned at once.
const PAGED_LISTS: usize = 64;

/// Queues of writes to contended objects.
const LANES: usize = 64;
/// How long a write waits in such a queue.
const TURN: Duration = Duration::from_secs(2);

/// The server behind its listeners.
pub struct Api {
    /// The objects.
    pub store: Store,
    /// The kinds and their schemas.
    pub schema: Arc<dyn SchemaSide>,
    /// ServiceAccount tokens.
    pub tokens: Tokens,
    /// Cluster IPs and node ports.
    pub allocator: Allocator,
    /// Groups whose members may do everything.
    pub admin_groups: Vec<String>,
    /// The node's socket, for logs.
    pub node_socket: Option<PathBuf>,
    /// Ends watches when the server shuts down.
    pub drain: drain::Watch,
    /// What every namespace's `kube-root-ca.crt` holds.
    pub root_certificates: String,
    pages: Pages,
    lanes: Vec<tokio::sync::Mutex<()>>,
}

impl Api {
    /// Puts the parts together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        store: Store,
        schema: Arc<dyn SchemaSide>,
        tokens: Tokens,
        allocator: Allocator,
        admin_groups: Vec<String>,
        node_socket: Option<PathBuf>,
        root_certificates: String,
        drain: drain::Watch,
    ) -> Api {
        let pages = Pages::default();
        let lanes = std::iter::repeat_with(tokio::sync::Mutex::default).take(LANES).collect();
        Api {
            store,
            schema,
            tokens,
            allocator,
            admin_groups,
            node_socket,
            drain,
            root_certificates,
            pages,
            lanes,
        }
    }

    /// Waits for the turn of a write that has lost against others several times, so that of many writes to one object
    /// none loses for ever. `None` after a while: the turn is a help, not a condition.
    pub async fn turn(&self, namespace: &str, name: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (namespace, name).hash(&mut hasher);
        let lane = self.lanes.get(usize::try_from(hasher.finish() % LANES as u64).ok()?)?;
        tokio::time::timeout(TURN, lane.lock()).await.ok()
    }

    /// The snapshots that further pages of lists are read from.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }
}

/// Snapshots kept so that a list read page by page is one list. A snapshot costs only what has changed since.
#[derive(Default)]
pub struct Pages {
    snapshots: Mutex<VecDeque<(Instant, Arc<Snapshot>)>>,
}

impl Pages {
    /// Keeps a snapshot for a while.
    pub fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut snapshots = self.snapshots.lock();
        snapshots.retain(|(since, kept)| since.elapsed() < PAGES_KEPT && kept.revision != snapshot.revision);
        if snapshots.len() >= PAGED_LISTS {
            snapshots.pop_front();
        }
        snapshots.push_back((Instant::now(), snapshot.clone()));
    }

    /// The snapshot at a revision, where it is kept.
    pub fn find(&self, revision: u64) -> Option<Arc<Snapshot>> {
        let snapshots = self.snapshots.lock();
        snapshots
            .iter()
            .find(|(_, snapshot)| snapshot.revision == revision)
            .map(|(_, snapshot)| snapshot.clone())
    }
}

/// A store's refusal as a status about an object.
pub fn refused(error: StoreError, kind: &KindInfo, name: &str) -> Status {
    match error {
        StoreError::Exists => Status::already_exists(&kind.group, &kind.plural, name),
        StoreError::Missing => Status::not_found(&kind.group, &kind.plural, name),
        StoreError::Changed => Status::conflict(&kind.group, &kind.plural, name, StoreError::Changed),
        StoreError::Full(_) => Status::insufficient_storage(error.to_string()),
        StoreError::Failed(_) => Status::internal(error),
        StoreError::Closed => Status::unavailable("the server is shutting down"),
    }
}

/// 403 for a write into a namespace that is being removed.
pub fn namespace_terminating(kind: &KindInfo, name: &str, namespace: &str) -> Status {
    let message =
        format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(&kind.group, &kind.plural, name, &message);
    status.details.causes = vec![Cause::new(
        CauseReason::Forbidden,
        "metadata.namespace",
        format!("namespace {namespace} is being terminated"),
    )];
    status
}
