//! The serving side; see the crate's documentation.

mod framing;
mod held;
mod names;
mod service;
mod session;
mod status;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use lateen_envoy::type_urls;

use crate::EncodedResource;

pub use service::AdsServer;
pub use status::{Rejection, StreamId, StreamStatus, Streams, SyncState, TypeStatus};

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Differences only.
    #[default]
    Delta,
    /// State of the world: for some types every response carries everything.
    Sotw,
}

/// What the protocol must know of the types it carries.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Types that depend on each other, what is referred to before what refers to it. A change is pushed in this order,
    /// removals in the reverse one; types not named here are pushed at any time.
    pub order: Vec<Arc<str>>,
    /// Types of which a state-of-the-world response must list everything, since what it leaves out is removed
    /// (listeners and clusters; for the others a response may carry the changed resources only).
    pub full_state: Vec<Arc<str>>,
    /// Types that carry no resources: their requests report something ([`Event::Reported`](crate::Event)), such as the
    /// health of an application, and are not answered.
    pub reports: Vec<Arc<str>>,
    /// How the server names itself to its clients (`control_plane.identifier`); empty for not at all.
    pub identifier: Arc<str>,
}

impl ServerOptions {
    /// What Envoy expects: clusters, endpoints, listeners, routes, virtual hosts, in this order; full state of clusters and listeners.
    pub fn envoy() -> Self {
        let order = [
            type_urls::CLUSTER,
            type_urls::ENDPOINT,
            type_urls::LISTENER,
            type_urls::ROUTE,
            type_urls::VIRTUAL_HOST,
        ];
        Self {
            order: order.map(Arc::from).to_vec(),
            full_state: [type_urls::CLUSTER, type_urls::LISTENER].map(Arc::from).to_vec(),
            reports: Vec::new(),
            identifier: Arc::from(""),
        }
    }
}

/// A response in parts, ready for the encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) delta: bool,
    pub(crate) type_url: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) nonce: Arc<str>,
    pub(crate) resources: Vec<Arc<EncodedResource>>,
    pub(crate) removed: Vec<Arc<str>>,
    pub(crate) identifier: Arc<str>,
}
