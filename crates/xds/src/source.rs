//! The seam between the protocol and whoever decides what a client gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use lateen_envoy::envoy::config::core::v3::Node;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::EncodedResource;

/// Who opened a stream.
#[derive(Debug)]
pub struct Client {
    /// The node of the first request.
    pub node: Node,
    /// The request's metadata, e.g. `authorization`.
    pub metadata: MetadataMap,
    /// What the transport and interceptors in front of the server found out: tonic's connection information (for TLS
    /// with the peer's certificates), or an identity that an interceptor authenticated.
    pub extensions: http::Extensions,
    /// The peer's address, where there is one.
    pub remote_address: Option<SocketAddr>,
}

/// Decides who may have a stream, and makes what answers it.
pub trait ResourceSource: Send + Sync + 'static {
    /// Called once per stream, with its first request. Authenticate here: an error ends the stream with that status
    /// (`Unauthenticated`, `PermissionDenied`, or `Unavailable` while not ready yet; clients come again).
    fn connect(&self, client: Client) -> impl Future<Output = Result<Box<dyn Subscriber>, Status>> + Send;
}

/// What a client holds that was sent all of a snapshot; kept by the server in place of a list of its own, so it should be
/// shared by all clients of which the same is true.
pub trait Holding: Send + Sync + 'static {
    /// The version of a resource of the snapshot.
    fn version(&self, type_url: &str, name: &str) -> Option<Arc<str>>;

    /// The names of all resources of a type.
    fn names(&self, type_url: &str) -> Vec<Arc<str>>;

    /// How many resources of a type there are.
    fn count(&self, type_url: &str) -> usize;
}

/// What one client should hold. One per stream, used by that stream's task only.
///
/// The answers of [`list`](Self::list), [`get`](Self::get) and [`version`](Self::version) change only inside
/// [`changed`](Self::changed): it adopts a new snapshot, and everything the server asks until the next call is answered
/// from that one, so that one push is consistent over all types.
pub trait Subscriber: Send + 'static {
    /// Waits until something that concerns this client differs from the snapshot adopted last, adopts the newest one,
    /// and says what may have changed. `None` ends the stream in good order (the client reconnects elsewhere). It is
    /// called again and again, and dropped while waiting whenever the client sends something: it must lose nothing then
    /// (`tokio::sync::watch` does not).
    fn changed(&mut self) -> BoxFuture<'_, Option<ChangeSet>>;

    /// All resources of a type that a client gets which subscribes to everything (`*`). Cheap: shared pointers.
    fn list(&mut self, type_url: &str) -> Vec<Arc<EncodedResource>>;

    /// The resource of that name; `None` where there is none, or none for this client.
    fn get(&mut self, type_url: &str, name: &str) -> Option<Arc<EncodedResource>>;

    /// The snapshot in use, to be kept as what the client holds; `None` where it cannot be kept. Then the server keeps a
    /// list of names and versions for each client.
    fn holding(&self) -> Option<Arc<dyn Holding>> {
        None
    }

    /// A word for the snapshot in use; delta responses carry it as `system_version_info`, status pages show it.
    fn version(&self) -> Arc<str> {
        Arc::from("")
    }

    /// Names of resources of *other* types that the client will wait for again once it applies the changed `resource`,
    /// as `(type URL, name)`; they are sent again even if they are as before. Envoy warms a changed cluster anew and
    /// waits for its endpoints: answer with its endpoints' name.
    fn dependents(&self, type_url: &str, resource: &EncodedResource) -> Vec<(Arc<str>, Arc<str>)> {
        let _ = (type_url, resource);
        Vec::new()
    }

    /// Something the client said.
    fn event(&mut self, event: Event<'_>) {
        let _ = event;
    }
}

/// What may have changed between two snapshots, for one client. Naming too much costs a comparison and sends nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeSet {
    pub(crate) types: BTreeMap<Arc<str>, Names>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Names {
    All,
    Some(BTreeSet<Arc<str>>),
}

impl ChangeSet {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// These resources of a type were added, changed or removed.
    pub fn add_names(&mut self, type_url: impl Into<Arc<str>>, names: impl IntoIterator<Item = Arc<str>>) {
        let entry = self.types.entry(type_url.into()).or_insert_with(|| Names::Some(BTreeSet::new()));
        if let Names::Some(set) = entry {
            set.extend(names);
        }
    }

    /// Any resource of this type may differ.
    pub fn add_type(&mut self, type_url: impl Into<Arc<str>>) {
        self.types.insert(type_url.into(), Names::All);
    }

    /// Takes in what changed besides.
    pub fn merge(&mut self, other: &ChangeSet) {
        for (type_url, names) in &other.types {
            match names {
                Names::All => self.add_type(Arc::clone(type_url)),
                Names::Some(names) => self.add_names(Arc::clone(type_url), names.iter().cloned()),
            }
        }
    }

    /// Leaves out what of a type need not be looked at.
    pub fn retain(&mut self, type_url: &str, keep: impl Fn(&str) -> bool) {
        let Some(Names::Some(names)) = self.types.get_mut(type_url) else { return };
        names.retain(|name| keep(name));
        if names.is_empty() {
            self.types.remove(type_url);
        }
    }

    /// Puts other names in the place of those of a type: `expand` gives them for each.
    pub fn replace(&mut self, type_url: &str, expand: impl Fn(&str) -> Vec<Arc<str>>) {
        if let Some(Names::Some(names)) = self.types.get_mut(type_url) {
            *names = names.iter().flat_map(|name| expand(name)).collect();
            if names.is_empty() {
                self.types.remove(type_url);
            }
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }
}

/// What a client said on its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// It subscribed or unsubscribed.
    Subscribed {
        /// The type.
        type_url: &'a str,
        /// Names it now wants by name. For what only an explicit subscription brings (on-demand discovery, secrets).
        added: &'a [Arc<str>],
        /// Names it no longer wants by name.
        removed: &'a [Arc<str>],
        /// Whether it wants everything.
        wildcard: bool,
    },
    /// It accepted the last response of the type.
    Accepted {
        /// The type.
        type_url: &'a str,
        /// The response's nonce.
        nonce: &'a str,
        /// The response's version.
        version: &'a str,
    },
    /// It reported something: a request of a type of [`ServerOptions::reports`](crate::ServerOptions).
    Reported {
        /// The type.
        type_url: &'a str,
        /// What is wrong; nothing where all is well.
        error: Option<&'a str>,
    },
    /// A response is on its way.
    Sent {
        /// The type.
        type_url: &'a str,
        /// The size of its resources.
        bytes: usize,
    },
    /// It was sent and has answered all that there is to send of the state adopted last: nothing is due or under way.
    Settled,
    /// It rejected the last response of the type, at least in part.
    Rejected {
        /// The type.
        type_url: &'a str,
        /// The response's nonce.
        nonce: &'a str,
        /// The names in the rejected response.
        names: &'a [Arc<str>],
        /// The client's reasons.
        message: &'a str,
    },
}
