//! Resources as they came, kept encoded: as messages in memory they take ten times the room, and nobody but dumps and
//! comparisons looks at them.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::prost::Message;

/// A message in the wire format. Equal messages are equal bytes.
pub struct Encoded<M> {
    bytes: Box<[u8]>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Encoded<M> {
    /// Encodes it.
    pub fn new(message: &M) -> Self {
        Self { bytes: message.encode_to_vec().into(), message: PhantomData }
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
