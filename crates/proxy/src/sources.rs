//! Resources as they came, kept encoded: as messages in memory they take ten times the room, and nobody but dumps and
//! comparisons looks at them.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::prost::Message;

/// Where a resource came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// The bootstrap.
    #[default]
    Static,
    /// Discovery, with this version.
    Discovered(Arc<str>),
}

impl Origin {
    /// Whether it was discovered.
    pub fn is_dynamic(&self) -> bool {
        *self != Self::Static
    }
}

/// Why a newer version of a resource was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong with it.
    pub reason: String,
    /// Its version.
    pub version: String,
    /// When it came.
    pub at: SystemTime,
}

/// A message in the wire format. Equal messages are equal bytes.
pub struct Encoded<M> {
    bytes: Box<[u8]>,
    /// Where it came from.
    pub origin: Origin,
    /// When.
    pub updated: SystemTime,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Encoded<M> {
    /// Encodes it.
    pub fn new(message: &M) -> Self {
        Self {
            bytes: message.encode_to_vec().into(),
            origin: Origin::Static,
            updated: SystemTime::now(),
            message: PhantomData,
        }
    }

    /// As it is kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message.
    pub fn decode(&self) -> M {
        // It was encoded by `new`.
        M::decode(&*self.bytes).unwrap_or_default()
    }
}

impl<M> PartialEq for Encoded<M> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<M> std::fmt::Debug for Encoded<M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes", self.bytes.len())
    }
}

/// A secret that was discovered, for dumps.
#[derive(Debug)]
pub struct DynamicSecret {
    /// Its message in JSON; private keys and passwords are not in it.
    pub shown: serde_json::Value,
    /// Its version.
    pub version: String,
    /// When it came.
    pub updated: SystemTime,
}

/// The resources that serve, for dumps.
#[derive(Debug, Default)]
pub struct Sources {
    /// By name.
    pub clusters: BTreeMap<String, Encoded<Cluster>>,
    /// By name.
    pub listeners: BTreeMap<String, Encoded<Listener>>,
    /// By name.
    pub routes: BTreeMap<String, Encoded<RouteConfiguration>>,
    /// By cluster name.
    pub endpoints: BTreeMap<String, Encoded<ClusterLoadAssignment>>,
    /// Secrets that were discovered, as dumps show them: without what is secret. By name.
    pub secrets: BTreeMap<String, DynamicSecret>,
    /// What was refused last, by kind and name.
    refusals: BTreeMap<(&'static str, String), Refusal>,
}

impl Sources {
    /// Notes that a resource was discovered and taken.
    pub fn discovered(&mut self, kind: &'static str, name: &str, version: &str) {
        fn stamp<M>(sources: &mut BTreeMap<String, Encoded<M>>, name: &str, version: &str) {
            if let Some(source) = sources.get_mut(name) {
                source.origin = Origin::Discovered(version.into());
            }
        }
        self.refusals.remove(&(kind, name.to_owned()));
        match kind {
            Cluster::TYPE_URL => stamp(&mut self.clusters, name, version),
            Listener::TYPE_URL => stamp(&mut self.listeners, name, version),
            RouteConfiguration::TYPE_URL => stamp(&mut self.routes, name, version),
            ClusterLoadAssignment::TYPE_URL => stamp(&mut self.endpoints, name, version),
            _ => {}
        }
    }

    /// Notes that a resource was refused.
    pub fn refused(&mut self, kind: &'static str, name: &str, version: &str, reason: &str) {
        let refusal =
            Refusal { reason: reason.to_owned(), version: version.to_owned(), at: SystemTime::now() };
        self.refusals.insert((kind, name.to_owned()), refusal);
    }

    /// Why the newest version of a resource was refused.
    pub fn refusal(&self, kind: &'static str, name: &str) -> Option<&Refusal> {
        if self.refusals.is_empty() {
            return None;
        }
        self.refusals.get(&(kind, name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_and_compares_by_content() {
        let named = |name: &str| Cluster { name: name.into(), ..Default::default() };
        let encoded = Encoded::new(&named("a"));
        assert_eq!(encoded.decode(), named("a"));
        assert_eq!(encoded, Encoded::new(&named("a")));
        assert_ne!(encoded, Encoded::new(&named("b")));
    }
}
