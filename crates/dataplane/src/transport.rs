//! Which transport socket a host is spoken to through: by labels in its metadata.

use std::collections::BTreeMap;

use crate::cluster::Endpoint;
use crate::tls::UpstreamTransport;

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
    /// Its name, for statistics and dumps.
    pub name: Box<str>,
    /// How such a host is spoken to.
    pub transport: UpstreamTransport,
}

/// A cluster's transport sockets.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportSelection {
    /// The first that fits counts.
    pub matches: Vec<TransportMatch>,
    /// The socket where none fits.
    pub otherwise: UpstreamTransport,
}

impl TransportSelection {
    /// The place of a host's socket among [`all`](Self::all). The host's labels are tried on the whole list first,
    /// then the locality's (`envoy.config.cluster.v3.Cluster.transport_socket_matches`).
    pub fn index(&self, endpoint: &Endpoint) -> usize {
        if self.matches.is_empty() {
            return 0;
        }
        let first = |labels: &Labels| self.matches.iter().position(|entry| entry.labels.are_among(labels));
        first(&endpoint.labels).or_else(|| first(&endpoint.locality_labels)).map_or(0, |at| at + 1)
    }

    /// The place of the socket of a host about which nothing is known.
    pub fn index_without_labels(&self) -> usize {
        let none = Labels::default();
        self.matches.iter().position(|entry| entry.labels.are_among(&none)).map_or(0, |at| at + 1)
    }

    /// All sockets: first the one where none fits, then those of the list.
    pub fn all(&self) -> impl Iterator<Item = &UpstreamTransport> {
        std::iter::once(&self.otherwise).chain(self.matches.iter().map(|entry| &entry.transport))
    }
}
