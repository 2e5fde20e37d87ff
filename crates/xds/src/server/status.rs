//! What the server knows of its streams, for status pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use lateen_envoy::envoy::config::core::v3::Node;
use parking_lot::Mutex;

use super::Protocol;
use super::names::NamePool;

/// Tells streams of one server apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One connected client.
#[derive(Debug, Clone)]
pub struct StreamStatus {
    /// The stream.
    pub id: StreamId,
    /// Who it is, as it says.
    pub node: Arc<Node>,
    /// Where it comes from.
    pub remote_address: Option<SocketAddr>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Since when.
    pub connected_at: SystemTime,
    /// By type URL.
    pub types: BTreeMap<Arc<str>, TypeStatus>,
}

/// How far a client is with one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// Whether it wants all resources.
    pub wildcard: bool,
    /// How many it wants by name.
    pub names: usize,
    /// How many it holds, by what was sent.
    pub held: usize,
    /// The last response.
    pub sent_version: Arc<str>,
    /// Its nonce; empty where none was sent.
    pub sent_nonce: Arc<str>,
    /// When it was sent.
    pub sent_at: Option<SystemTime>,
    /// The last response that was accepted.
    pub acked_version: Arc<str>,
    /// Its nonce; empty where none was accepted.
    pub acked_nonce: Arc<str>,
    /// When the client said so.
    pub acked_at: Option<SystemTime>,
    /// The last response that was rejected, until a later one is accepted.
    pub rejection: Option<Rejection>,
}

/// A response that a client rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The response's nonce.
    pub nonce: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
    /// The names in it.
    pub names: Vec<Arc<str>>,
    /// The client's reasons.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

/// One word for [`TypeStatus`], as `proxy-status` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// It accepted all that was sent.
    Synced,
    /// The answer to the last response is due.
    Stale,
    /// It rejected the last response.
    Rejected,
    /// Nothing had to be sent.
    NotSent,
}

impl TypeStatus {
    /// See [`SyncState`].
    pub fn state(&self) -> SyncState {
        if self.sent_nonce.is_empty() {
            SyncState::NotSent
        } else if self.rejection.as_ref().is_some_and(|rejection| rejection.nonce == self.sent_nonce) {
            SyncState::Rejected
        } else if self.acked_nonce == self.sent_nonce {
            SyncState::Synced
        } else {
            SyncState::Stale
        }
    }
}

/// All streams of a server. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    streams: Mutex<BTreeMap<StreamId, Arc<Entry>>>,
    names: Arc<NamePool>,
}

#[derive(Debug)]
struct Entry {
    node: Arc<Node>,
    remote_address: Option<SocketAddr>,
    protocol: Protocol,
    connected_at: SystemTime,
    types: SharedTypes,
}

/// Written by the stream's task, read by status pages.
pub(super) type SharedTypes = Arc<Mutex<BTreeMap<Arc<str>, TypeStatus>>>;

impl Streams {
    /// The state of all streams at this moment.
    pub fn snapshot(&self) -> Vec<StreamStatus> {
        let entries: Vec<_> =
            self.inner.streams.lock().iter().map(|(id, entry)| (*id, entry.clone())).collect();
        entries
            .into_iter()
            .map(|(id, entry)| StreamStatus {
                id,
                node: entry.node.clone(),
                remote_address: entry.remote_address,
                protocol: entry.protocol,
                connected_at: entry.connected_at,
                types: entry.types.lock().clone(),
            })
            .collect()
    }

    /// How many streams there are.
    pub fn len(&self) -> usize {
        self.inner.streams.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn register(
        &self,
        node: Arc<Node>,
        remote_address: Option<SocketAddr>,
        protocol: Protocol,
    ) -> Registration {
        let id = StreamId(self.inner.next.fetch_add(1, Ordering::Relaxed));
        let types = SharedTypes::default();
        let entry =
            Entry { node, remote_address, protocol, connected_at: SystemTime::now(), types: types.clone() };
        self.inner.streams.lock().insert(id, Arc::new(entry));
        Registration { id, types, names: Arc::clone(&self.inner.names), streams: self.clone() }
    }
}

/// Lists a stream for as long as it lives.
pub(super) struct Registration {
    pub(super) id: StreamId,
    pub(super) types: SharedTypes,
    /// The names that all clients want.
    pub(super) names: Arc<NamePool>,
    streams: Streams,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.streams.inner.streams.lock().remove(&self.id);
    }
}
