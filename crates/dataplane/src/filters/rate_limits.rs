//! What a route says a request counts as for rate limits (`envoy.config.route.v3.RateLimit`).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::head::{RequestHead, split_query};
use crate::matcher::{HeaderMatcher, QueryMatcher};
use crate::metadata::Metadata;

/// Entries of a descriptor: keys and values, in order.
pub type Descriptor = Vec<(Box<str>, Box<str>)>;

/// Actions that make one descriptor together.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// Which filters it is for: those of the same stage.
    pub stage: u32,
    /// In order; one without a value makes no descriptor of all.
    pub actions: Vec<Action>,
}

/// Makes one entry.
#[derive(Debug, Clone)]
pub enum Action {
    /// `destination_cluster`: the cluster of the route.
    DestinationCluster,
    /// `request_headers`.
    Header {
        /// The header.
        name: Box<[u8]>,
        /// The entry's key.
        key: Box<str>,
        /// Whether the entry is left out where the header is missing; else there is no descriptor.
        skip_if_absent: bool,
    },
    /// `query_parameters`.
    Query {
        /// The parameter.
        name: Box<[u8]>,
        /// The entry's key.
        key: Box<str>,
        /// As for headers.
        skip_if_absent: bool,
    },
    /// `remote_address`.
    RemoteAddress,
    /// `masked_remote_address`: lengths of prefixes.
    MaskedRemoteAddress(u8, u8),
    /// `generic_key`.
    Literal(Box<str>, Box<str>),
    /// `header_value_match`.
    HeaderMatch {
        /// The entry's key.
        key: Box<str>,
        /// Its value.
        value: Box<str>,
        /// What the outcome has to be.
        expect: bool,
        /// All must match.
        headers: Vec<HeaderMatcher>,
    },
    /// `query_parameter_value_match`.
    QueryMatch {
        /// The entry's key.
        key: Box<str>,
        /// Its value.
        value: Box<str>,
        /// What the outcome has to be.
        expect: bool,
        /// All must match.
        parameters: Vec<QueryMatcher>,
    },
    /// `metadata`, of the stream or of the route.
    Metadata {
        /// The entry's key.
        key: Box<str>,
        /// The filter whose metadata it is.
        filter: Box<str>,
        /// Through structs.
        path: Vec<Box<str>>,
        /// In place of what is missing.
        default: Box<str>,
        /// As for headers.
        skip_if_absent: bool,
        /// Whether it is the route's.
        of_route: bool,
    },
}

/// Where actions find their values.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorSource<'a> {
    /// The request.
    pub head: &'a RequestHead,
    /// The client.
    pub remote: Option<SocketAddr>,
    /// The route's cluster.
    pub cluster: Option<&'a str>,
    /// Of the stream.
    pub metadata: &'a Metadata,
    /// Of the route.
    pub route_metadata: Option<&'a Metadata>,
}

enum Entry {
    Is(Box<str>, Box<str>),
    Skip,
    /// No descriptor.
    Stop,
}

impl RateLimit {
    /// The descriptor of a request; none where an action has no value.
    pub fn descriptor(&self, source: &DescriptorSource<'_>) -> Option<Descriptor> {
        let mut out = Descriptor::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(source) {
                Entry::Is(key, value) => out.push((key, value)),
                Entry::Skip => {}
                Entry::Stop => return None,
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

impl Action {
    fn entry(&self, source: &DescriptorSource<'_>) -> Entry {
        let text = |bytes: &[u8]| -> Box<str> { String::from_utf8_lossy(bytes).into() };
        let found = |key: &str, value: Option<Box<str>>, skip: bool| match value {
            Some(value) => Entry::Is(key.into(), value),
            None if skip => Entry::Skip,
            None => Entry::Stop,
        };
        match self {
            Self::DestinationCluster => found("destination_cluster", source.cluster.map(Into::into), false),
            Self::Header { name, key, skip_if_absent } => {
                found(key, source.head.field(name).map(text), *skip_if_absent)
            }
            Self::Query { name, key, skip_if_absent } => {
                found(key, parameter(source.head.path(), name).map(text), *skip_if_absent)
            }
            Self::RemoteAddress => {
                found("remote_address", source.remote.map(|remote| remote.ip().to_string().into()), false)
            }
            Self::MaskedRemoteAddress(v4, v6) => {
                let masked = source.remote.and_then(|remote| {
                    let length = if matches!(remote.ip(), IpAddr::V4(_)) { *v4 } else { *v6 };
                    IpNet::new(remote.ip(), length).ok().map(|net| net.trunc().to_string().into())
                });
                found("masked_remote_address", masked, false)
            }
            Self::Literal(key, value) => Entry::Is(key.clone(), value.clone()),
            Self::HeaderMatch { key, value, expect, headers } => {
                let matches = headers.iter().all(|matcher| matcher.matches(source.head));
                found(key, (matches == *expect).then(|| value.clone()), false)
            }
            Self::QueryMatch { key, value, expect, parameters } => {
                let matches = parameters.iter().all(|matcher| matcher.matches(source.head.path()));
                found(key, (matches == *expect).then(|| value.clone()), false)
            }
            Self::Metadata { key, filter, path, default, skip_if_absent, of_route } => {
                let metadata = if *of_route { source.route_metadata } else { Some(source.metadata) };
                let value = metadata
                    .and_then(|metadata| metadata.get(filter, path.iter().map(|name| &**name)))
                    .and_then(|value| value.as_str())
                    .filter(|text| !text.is_empty());
                let default = Some(&**default).filter(|default| !default.is_empty());
                found(key, value.or(default).map(Into::into), *skip_if_absent)
            }
        }
    }
}

fn parameter<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    split_query(path).1?.split(|byte| *byte == b'&').find_map(|pair| {
        let (candidate, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        (candidate == name).then_some(value)
    })
}
