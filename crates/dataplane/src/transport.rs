//! Which transport socket a host is spoken to through: by labels in its metadata.
//!
//! There is no TLS to upstreams yet. So what is to be known of a socket is whether it is plain text; a host that a
//! cluster reaches through any other is not used at all, for what was to be encrypted must not be sent in the clear.

use std::collections::BTreeMap;

use crate::cluster::Endpoint;

/// A value in metadata, as far as labels are compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Label {
    /// `istio`
    Text(Box<str>),
    /// `true`
    Flag(bool),
    /// `1`
    Number(f64),
}

/// Labels of a host, or those that a match asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels(pub BTreeMap<Box<str>, Label>);

impl Labels {
    /// Whether all of these are among those.
    fn are_among(&self, labels: &Labels) -> bool {
        self.0.iter().all(|(name, value)| labels.0.get(name) == Some(value))
    }
}

/// An entry of `transport_socket_matches`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// What a host must have. Nothing fits all.
    pub labels: Labels,
    /// Whether the socket is plain text.
    pub plain: bool,
}

/// A cluster's transport sockets.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportSelection {
    /// The first that fits counts.
    pub matches: Vec<TransportMatch>,
    /// Whether the socket is plain text where none fits.
    pub otherwise_plain: bool,
}

impl TransportSelection {
    /// Whether this host is spoken to in plain text. The host's labels are tried on the whole list first, then the
    /// locality's (`envoy.config.cluster.v3.Cluster.transport_socket_matches`).
    pub fn is_plain(&self, endpoint: &Endpoint) -> bool {
        self.plain_for(&endpoint.labels, &endpoint.locality_labels)
    }

    /// Whether a host about which nothing is known is spoken to in plain text.
    pub fn is_plain_without_labels(&self) -> bool {
        self.plain_for(&Labels::default(), &Labels::default())
    }

    fn plain_for(&self, own: &Labels, locality: &Labels) -> bool {
        let first = |labels: &Labels| self.matches.iter().find(|entry| entry.labels.are_among(labels));
        first(own).or_else(|| first(locality)).map_or(self.otherwise_plain, |entry| entry.plain)
    }
}
