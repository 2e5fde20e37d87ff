//! Which filter chain serves a connection.
//!
//! Envoy goes through the criteria in a fixed order (destination port, destination address, server name, transport
//! protocol, application protocols, direct source address, source type, source address, source port) and at each one
//! keeps only the chains with the most specific value that matches. It never goes back: where the most specific
//! destination port leads to no chain, the default chain serves the connection, even if another chain without a port
//! would match. Source: `FilterChainMatch` in listener_components.proto.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::listener::FilterChain;

/// Where connections may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// This machine: the source is a loopback address or equals the destination.
    Local,
    /// Elsewhere.
    External,
}

/// A compiled `FilterChainMatch`.
#[derive(Debug, Clone, Default)]
pub struct FilterChainMatch {
    /// The original destination's port.
    pub destination_port: Option<u16>,
    /// The original destination's address.
    pub destinations: Vec<IpNet>,
    /// SNI: exact or `*.suffix`, in lower case.
    pub server_names: Vec<Box<str>>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: Box<str>,
    /// ALPN, or what the HTTP inspector found.
    pub application_protocols: Vec<Box<str>>,
    /// The peer of the connection.
    pub direct_sources: Vec<IpNet>,
    /// Where from.
    pub source_type: SourceType,
    /// The client.
    pub sources: Vec<IpNet>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

/// What is known of a connection when the chain is chosen.
#[derive(Debug, Clone)]
pub struct ConnectionFacts<'a> {
    /// The original destination where the connection was redirected, else our end.
    pub destination: Option<SocketAddr>,
    /// The client.
    pub source: Option<SocketAddr>,
    /// The peer of the connection.
    pub direct_source: Option<SocketAddr>,
    /// SNI, in lower case.
    pub server_name: Option<&'a str>,
    /// `tls`, `raw_buffer`, or empty where nobody looked.
    pub transport_protocol: &'a str,
    /// ALPN of the ClientHello, or `http/1.0`, `http/1.1`, `h2c` by the HTTP inspector.
    pub application_protocols: &'a [&'a str],
}

/// All chains of a listener.
#[derive(Debug, Default)]
pub struct FilterChains {
    /// With their conditions.
    pub chains: Vec<(FilterChainMatch, Arc<FilterChain>)>,
    /// Where none matches.
    pub default: Option<Arc<FilterChain>>,
}

/// How well a value fits a criterion; none where it does not.
type Score = Option<u32>;

impl FilterChains {
    /// The chain for a connection.
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<FilterChain>> {
        if let ([(condition, chain)], None) = (&self.chains[..], &self.default)
            && condition.is_empty()
        {
            return Some(chain);
        }
        let mut left: SmallVec<[usize; 16]> = (0..self.chains.len()).collect();
        for criterion in CRITERIA {
            let mut best: Score = None;
            let mut kept: SmallVec<[usize; 16]> = SmallVec::new();
            for index in left {
                let score = criterion(&self.chains[index].0, facts);
                match score {
                    Some(_) if score > best => {
                        best = score;
                        kept.clear();
                        kept.push(index);
                    }
                    Some(_) if score == best => kept.push(index),
                    _ => {}
                }
            }
            if kept.is_empty() {
                return self.default.as_ref();
            }
            left = kept;
        }
        left.first().map(|index| &self.chains[*index].1)
    }

    /// All chains, the default last.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().map(|(_, chain)| chain).chain(&self.default)
    }
}

/// Two chains of which the second has a rule that is the same as one of the first, so that Envoy refuses them: nobody
/// could say which serves a connection.
pub fn conflict(chains: &[(FilterChainMatch, Arc<FilterChain>)]) -> Option<(usize, usize)> {
    // Only chains that agree in what each has one of can be in conflict. This keeps thousands of chains by name cheap.
    let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
    for (at, (rule, _)) in chains.iter().enumerate() {
        let names: SmallVec<[&str; 4]> = match &rule.server_names[..] {
            [] => SmallVec::from_slice(&[""]),
            names => names.iter().map(|name| &**name).collect(),
        };
        for name in names {
            let group = groups
                .entry((rule.destination_port, name, &*rule.transport_protocol, rule.source_type as u8))
                .or_default();
            if let Some(first) = group.iter().find(|first| rule.overlaps(&chains[**first].0)) {
                return Some((*first, at));
            }
            group.push(at);
        }
    }
    None
}

impl FilterChainMatch {
    /// Whether the lists of both have something in common, each with each.
    fn overlaps(&self, other: &Self) -> bool {
        fn common<T: PartialEq>(one: &[T], two: &[T]) -> bool {
            (one.is_empty() && two.is_empty()) || one.iter().any(|value| two.contains(value))
        }
        common(&self.destinations, &other.destinations)
            && common(&self.application_protocols, &other.application_protocols)
            && common(&self.direct_sources, &other.direct_sources)
            && common(&self.sources, &other.sources)
            && common(&self.source_ports, &other.source_ports)
    }

    fn is_empty(&self) -> bool {
        self.destination_port.is_none()
            && self.destinations.is_empty()
            && self.server_names.is_empty()
            && self.transport_protocol.is_empty()
            && self.application_protocols.is_empty()
            && self.direct_sources.is_empty()
            && self.source_type == SourceType::Any
            && self.sources.is_empty()
            && self.source_ports.is_empty()
    }
}

/// In Envoy's order.
const CRITERIA: [fn(&FilterChainMatch, &ConnectionFacts<'_>) -> Score; 9] = [
    |chain, facts| match (chain.destination_port, facts.destination) {
        (None, _) => Some(0),
        (Some(port), Some(destination)) => (port == destination.port()).then_some(1),
        (Some(_), None) => None,
    },
    |chain, facts| networks(&chain.destinations, facts.destination),
    |chain, facts| server_name(&chain.server_names, facts.server_name),
    |chain, facts| match &*chain.transport_protocol {
        "" => Some(0),
        protocol => (protocol == facts.transport_protocol).then_some(1),
    },
    |chain, facts| application_protocol(&chain.application_protocols, facts.application_protocols),
    |chain, facts| networks(&chain.direct_sources, facts.direct_source),
    |chain, facts| source_type(chain.source_type, facts),
    |chain, facts| networks(&chain.sources, facts.source),
    |chain, facts| match facts.source {
        _ if chain.source_ports.is_empty() => Some(0),
        Some(source) => chain.source_ports.contains(&source.port()).then_some(1),
        None => None,
    },
];

fn networks(networks: &[IpNet], address: Option<SocketAddr>) -> Score {
    if networks.is_empty() {
        return Some(0);
    }
    let address = address?.ip().to_canonical();
    networks
        .iter()
        .filter(|network| network.contains(&address))
        // A network of length 0 is still more than no condition.
        .map(|network| u32::from(network.prefix_len()) + 1)
        .max()
}

fn server_name(names: &[Box<str>], server_name: Option<&str>) -> Score {
    if names.is_empty() {
        return Some(0);
    }
    let server_name = server_name?;
    names
        .iter()
        .filter_map(|name| match name.strip_prefix('*') {
            None => (**name == *server_name).then_some(u32::MAX),
            Some("") => Some(1),
            Some(suffix) => (server_name.len() > suffix.len() && server_name.ends_with(suffix))
                .then_some(suffix.len() as u32 + 1),
        })
        .max()
}

/// The connection's protocols are tried in order: an earlier one counts more.
fn application_protocol(wanted: &[Box<str>], offered: &[&str]) -> Score {
    if wanted.is_empty() {
        return Some(0);
    }
    let place = offered.iter().position(|protocol| wanted.iter().any(|name| &**name == *protocol))?;
    Some((offered.len() - place) as u32)
}

fn source_type(wanted: SourceType, facts: &ConnectionFacts<'_>) -> Score {
    if wanted == SourceType::Any {
        return Some(0);
    }
    let local = facts.source.is_some_and(|source| {
        is_loopback(source.ip())
            || facts.destination.is_some_and(|destination| destination.ip() == source.ip())
    });
    (local == (wanted == SourceType::Local)).then_some(1)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::NetworkFilter;

    fn chains(conditions: Vec<(&str, FilterChainMatch)>, default: Option<&str>) -> FilterChains {
        let chain = |name: &str| {
            Arc::new(FilterChain {
                digest: [0; 2],
                name: name.into(),
                transport: crate::tls::DownstreamTransport::Plain,
                transport_timeout: None,
                gates: Vec::new(),
                network: NetworkFilter::Close,
                metadata: None,
            })
        };
        FilterChains {
            chains: conditions.into_iter().map(|(name, condition)| (condition, chain(name))).collect(),
            default: default.map(chain),
        }
    }

    #[test]
    fn rules_that_are_the_same_are_found() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<Box<str>>>();
        let rule = |sni: &[&str], ports: &[u16], protocols: &[&str]| FilterChainMatch {
            server_names: names(sni),
            source_ports: ports.to_vec(),
            application_protocols: names(protocols),
            ..Default::default()
        };
        let any = FilterChainMatch::default;
        for (name, rules, expect) in [
            ("two that match all", vec![any(), any()], Some((0, 1))),
            ("one is more special", vec![any(), rule(&["a"], &[], &[])], None),
            (
                "a common name",
                vec![rule(&["a", "b"], &[], &[]), any(), rule(&["c", "b"], &[], &[])],
                Some((0, 2)),
            ),
            ("a common name, other ports", vec![rule(&["a"], &[1], &[]), rule(&["a"], &[2], &[])], None),
            (
                "all in common",
                vec![rule(&["a"], &[1, 2], &["h2"]), rule(&["a"], &[2], &["x", "h2"])],
                Some((0, 1)),
            ),
            ("other protocols", vec![rule(&["a"], &[1, 2], &["h2"]), rule(&["a"], &[2], &["x"])], None),
        ] {
            let rules = rules.into_iter().map(|rule| ("x", rule)).collect();
            assert_eq!(conflict(&chains(rules, None).chains), expect, "{name}");
        }
    }

    #[test]
    fn envoys_order_without_going_back() {
        let port = |port| FilterChainMatch { destination_port: Some(port), ..Default::default() };
        let network = |network: &str| vec![network.parse().unwrap()];
        let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<Box<str>>>();
        let chains = chains(
            vec![
                ("any", FilterChainMatch::default()),
                (
                    "http",
                    FilterChainMatch {
                        application_protocols: names(&["http/1.1", "h2c"]),
                        ..Default::default()
                    },
                ),
                ("9080-tls", FilterChainMatch { transport_protocol: "tls".into(), ..port(9080) }),
                ("9080-http", FilterChainMatch { application_protocols: names(&["http/1.1"]), ..port(9080) }),
                ("wide", FilterChainMatch { destinations: network("10.0.0.0/8"), ..Default::default() }),
                ("narrow", FilterChainMatch { destinations: network("10.1.0.0/16"), ..Default::default() }),
                ("sni", FilterChainMatch { server_names: names(&["*.example.com"]), ..port(443) }),
                ("sni-exact", FilterChainMatch { server_names: names(&["a.example.com"]), ..port(443) }),
                ("local", FilterChainMatch { source_type: SourceType::Local, ..port(7) }),
                ("external", FilterChainMatch { source_type: SourceType::External, ..port(7) }),
            ],
            Some("default"),
        );
        let check =
            |destination: &str, sni: Option<&str>, transport: &str, protocols: &[&str], expect: &str| {
                let facts = ConnectionFacts {
                    destination: destination.parse().ok(),
                    source: "127.0.0.1:5".parse().ok(),
                    direct_source: "127.0.0.1:5".parse().ok(),
                    server_name: sni,
                    transport_protocol: transport,
                    application_protocols: protocols,
                };
                let found = chains.find(&facts).map(|chain| chain.name.to_string());
                assert_eq!(found.as_deref(), Some(expect), "{destination} {sni:?} {transport} {protocols:?}");
            };
        check("9.9.9.9:1", None, "raw_buffer", &[], "any");
        check("9.9.9.9:1", None, "raw_buffer", &["h2c"], "http");
        check("9.9.9.9:9080", None, "raw_buffer", &["http/1.1"], "9080-http");
        check("9.9.9.9:9080", None, "tls", &[], "9080-tls");
        // The port matched, nothing below it does: the chain without conditions is not tried again.
        check("9.9.9.9:9080", None, "raw_buffer", &[], "default");
        check("10.1.2.3:1", None, "raw_buffer", &[], "narrow");
        check("10.2.2.3:1", None, "raw_buffer", &[], "wide");
        check("9.9.9.9:443", Some("a.example.com"), "tls", &[], "sni-exact");
        check("9.9.9.9:443", Some("b.example.com"), "tls", &[], "sni");
        check("9.9.9.9:443", Some("other"), "tls", &[], "default");
        check("9.9.9.9:7", None, "raw_buffer", &[], "local");
    }
}
