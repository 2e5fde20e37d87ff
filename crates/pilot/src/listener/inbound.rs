//! What a sidecar accepts: 15006, to which interception redirects all that comes in, with filter chains a port of the
//! application; and the ports that a `Sidecar` object has it listen on itself.
//!
//! A port's chains follow from what is spoken there and from what PeerAuthentication demands. Where both is open, the
//! first bytes tell: TLS with an ALPN of the mesh is ended here, other TLS goes on as it is.

use lateen_api::networking::{CaptureMode, IstioIngressListener, ServerTlsSettings, Sidecar};
use lateen_model::{Config, PortProtocol};

use super::http::{Side, connection_manager, direction, inline};
use super::{
    Common, INBOUND_PORT, detection, http_inspector, mutual, original_destination, tcp_proxy, tls_inspector,
};
use crate::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH, inbound_name};
use crate::inbound::{InboundPort, MutualTls, Undeclared};
use crate::proto::{self, core, kind, listener};
use crate::route;
use crate::shared::Shared;
use crate::world::World;

/// What the listeners of inbound connections are made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Inbound {
    ports: Vec<InboundPort>,
    undeclared: Undeclared,
    sidecar: Option<Shared<Config<Sidecar>>>,
    /// Of the peers that are let in.
    trust_domains: Vec<String>,
    /// Whether an agent serves files as secrets.
    agent: bool,
}

/// How a chain is reached, and what it does.
struct Way {
    transport: &'static str,
    protocols: &'static [&'static str],
    http: bool,
    security: Security,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    /// Bytes are taken as they come.
    Forwarded,
    /// Mutual TLS is ended.
    Mutual,
    /// The TLS that a `Sidecar` describes is ended.
    Own,
}

const TLS: &str = "tls";
const PLAIN: &str = "raw_buffer";
/// What the HTTP inspector finds.
const PLAIN_HTTP: &[&str] = &["http/1.0", "http/1.1", "h2c"];

const fn way(
    transport: &'static str,
    protocols: &'static [&'static str],
    http: bool,
    security: Security,
) -> Way {
    Way { transport, protocols, http, security }
}

/// What is read on a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Http,
    Bytes,
    Unknown,
}

impl Content {
    fn of(protocol: PortProtocol) -> Self {
        match protocol {
            _ if protocol.is_http() => Self::Http,
            PortProtocol::Unknown => Self::Unknown,
            _ => Self::Bytes,
        }
    }
}

fn ways(content: Content, mode: MutualTls) -> &'static [Way] {
    use Security::{Forwarded, Mutual};
    const OPEN_HTTP: &[Way] = &[way("", &[], true, Forwarded)];
    const OPEN_BYTES: &[Way] = &[way("", &[], false, Forwarded)];
    // Nobody looks for TLS here, so everything counts as plain; without saying so Envoy would look.
    const OPEN: &[Way] = &[way(PLAIN, PLAIN_HTTP, true, Forwarded), way(PLAIN, &[], false, Forwarded)];
    // HTTP over any other TLS could not be read: it gets no chain.
    const EITHER_HTTP: &[Way] = &[way(TLS, &mutual::ALL, true, Mutual), way(PLAIN, &[], true, Forwarded)];
    const EITHER_BYTES: &[Way] = &[
        way(TLS, &mutual::ALL, false, Mutual),
        way(TLS, &[], false, Forwarded),
        way(PLAIN, &[], false, Forwarded),
    ];
    const EITHER: &[Way] = &[
        way(TLS, &mutual::HTTP, true, Mutual),
        way(PLAIN, PLAIN_HTTP, true, Forwarded),
        way(TLS, &mutual::BYTES, false, Mutual),
        way(PLAIN, &[], false, Forwarded),
        way(TLS, &[], false, Forwarded),
    ];
    const MUTUAL_HTTP: &[Way] = &[way(TLS, &[], true, Mutual)];
    const MUTUAL_BYTES: &[Way] = &[way(TLS, &[], false, Mutual)];
    const MUTUAL: &[Way] = &[way(TLS, &mutual::HTTP, true, Mutual), way(TLS, &[], false, Mutual)];
    match (mode, content) {
        (MutualTls::Disable, Content::Http) => OPEN_HTTP,
        (MutualTls::Disable, Content::Bytes) => OPEN_BYTES,
        (MutualTls::Disable, Content::Unknown) => OPEN,
        (MutualTls::Permissive, Content::Http) => EITHER_HTTP,
        (MutualTls::Permissive, Content::Bytes) => EITHER_BYTES,
        (MutualTls::Permissive, Content::Unknown) => EITHER,
        (MutualTls::Strict, Content::Http) => MUTUAL_HTTP,
        (MutualTls::Strict, Content::Bytes) => MUTUAL_BYTES,
        (MutualTls::Strict, Content::Unknown) => MUTUAL,
        (MutualTls::Impossible, _) => &[],
    }
}

/// The ways to a port whose `Sidecar` describes TLS of its own.
fn own_ways(content: Content) -> &'static [Way] {
    const HTTP: &[Way] = &[way(TLS, &[], true, Security::Own)];
    const BYTES: &[Way] = &[way(TLS, &[], false, Security::Own)];
    const UNKNOWN: &[Way] = &[
        way(TLS, &["http/1.0", "http/1.1", "h2"], true, Security::Own),
        way(TLS, &[], false, Security::Own),
    ];
    match content {
        Content::Http => HTTP,
        Content::Bytes => BYTES,
        Content::Unknown => UNKNOWN,
    }
}

/// Which inspectors a port needs.
#[derive(Default, Clone, Copy)]
struct Needs {
    tls: bool,
    http: bool,
}

impl Needs {
    fn of(ways: &[Way]) -> Self {
        Self {
            tls: ways.iter().any(|way| way.transport == TLS),
            http: ways.iter().any(|way| way.security == Security::Forwarded && !way.protocols.is_empty()),
        }
    }
}

impl Inbound {
    pub(crate) fn new(world: &World<'_>) -> Self {
        let mesh = world.snapshot.mesh();
        let mut trust_domains = vec![mesh.trust_domain.clone()];
        trust_domains.extend(mesh.trust_domain_aliases.iter().cloned());
        let with_ingress = world.class.inbound.iter().any(|port| port.ingress.is_some());
        Self {
            ports: world.class.inbound.clone(),
            undeclared: world.class.undeclared.clone(),
            sidecar: world.sidecar().filter(|_| with_ingress).map(Shared::of),
            trust_domains,
            agent: world.class.workload_certificates,
        }
    }

    fn ingress(&self, port: &InboundPort) -> Option<&IstioIngressListener> {
        self.sidecar.as_ref()?.spec.ingress.get(port.ingress?)
    }

    /// Whether the port is bound by the proxy itself, for clients that are not intercepted.
    fn is_bound(&self, port: &InboundPort) -> bool {
        self.ingress(port).is_some_and(|listener| listener.capture_mode == CaptureMode::None)
    }

    /// The ports that have listeners of their own, by index.
    pub(crate) fn bound(&self) -> impl Iterator<Item = usize> + '_ {
        let bound = |(_, port): &(usize, &InboundPort)| self.is_bound(port);
        self.ports.iter().enumerate().filter(bound).map(|(index, _)| index)
    }

    /// TLS that the user describes counts only where PeerAuthentication turns the mesh's off (Istio's task "Ingress
    /// Sidecar TLS Termination").
    fn own_tls(&self, port: &InboundPort) -> Option<&ServerTlsSettings> {
        self.ingress(port)?.tls.as_ref().filter(|_| port.mutual_tls == MutualTls::Disable)
    }

    fn ways(&self, port: &InboundPort) -> &'static [Way] {
        let inside = match port.protocol {
            // What is left when this TLS is ended.
            PortProtocol::Https if self.own_tls(port).is_some() => PortProtocol::Http,
            protocol => protocol,
        };
        match self.own_tls(port) {
            Some(_) => own_ways(Content::of(inside)),
            None => ways(Content::of(port.protocol), port.mutual_tls),
        }
    }

    fn bind<'a>(&'a self, port: &InboundPort, common: &Common) -> std::borrow::Cow<'a, str> {
        match self.ingress(port).map(|listener| listener.bind.as_str()) {
            Some(bind) if !bind.is_empty() => bind.into(),
            _ => common.any_ip().to_owned().into(),
        }
    }

    fn needs(&self, port: &InboundPort) -> Needs {
        Needs::of(self.ways(port))
    }

    /// The chains of a declared port.
    fn application(&self, common: &Common, port: &InboundPort) -> Vec<listener::FilterChain> {
        let cluster = inbound_name(port.number);
        let bind = self.bind(port, common);
        let operation = format!("{}:{}/*", port.service, port.service_port);
        let name = format!("{bind}_{}", port.number);
        let chain = |way: &Way| {
            let filter = if way.http {
                http(common, &bind, port.number, &cluster, &operation)
            } else {
                tcp_proxy(common, &cluster, &cluster)
            };
            let mut chain = self.chain(&name, way, filter);
            if way.security == Security::Own {
                let settings = self.own_tls(port);
                chain.transport_socket = settings.map(|settings| mutual::server(settings, self.agent));
            }
            chain.metadata = Some(self.metadata(port));
            chain
        };
        let ways = self.ways(port);
        if ways.is_empty() {
            return vec![refusal(common, &name)];
        }
        ways.iter().map(chain).collect()
    }

    fn chain(&self, name: &str, way: &Way, filter: listener::Filter) -> listener::FilterChain {
        let conditions = listener::FilterChainMatch {
            transport_protocol: way.transport.to_owned(),
            application_protocols: way.protocols.iter().map(|protocol| (*protocol).to_owned()).collect(),
            ..Default::default()
        };
        let socket = || mutual::transport_socket(&self.trust_domains, !way.http);
        listener::FilterChain {
            name: name.to_owned(),
            filter_chain_match: Some(conditions),
            filters: vec![filter],
            transport_socket: (way.security == Security::Mutual).then(socket),
            ..Default::default()
        }
    }

    fn metadata(&self, port: &InboundPort) -> core::Metadata {
        let mut fields = serde_json::json!({
            "services": [{
                "host": port.service.as_str(),
                "name": port.service.split('.').next(),
                "namespace": port.namespace.as_str(),
            }],
        });
        if let Some(sidecar) = self.sidecar.as_ref().filter(|_| port.ingress.is_some()) {
            fields["config"] =
                proto::config_path("sidecar", &sidecar.meta.namespace, &sidecar.meta.name).into();
        }
        proto::istio_metadata(fields)
    }

    /// The chains of ports that nobody declares: of all of them, or of one on which other things are demanded.
    fn passing(&self, common: &Common, mode: MutualTls) -> Vec<listener::FilterChain> {
        let ways = ways(Content::Unknown, mode);
        if ways.is_empty() {
            return vec![refusal(common, "virtualInbound")];
        }
        let chain = |way: &Way| {
            if way.http {
                let filter = http(common, common.any_ip(), 0, INBOUND_PASSTHROUGH, ":0/*");
                self.chain("virtualInbound-catchall-http", way, filter)
            } else {
                let filter = tcp_proxy(common, INBOUND_PASSTHROUGH, INBOUND_PASSTHROUGH);
                self.chain("virtualInbound", way, filter)
            }
        };
        ways.iter().map(chain).collect()
    }
}

fn at_port(port: u16, mut chain: listener::FilterChain) -> listener::FilterChain {
    chain.filter_chain_match.get_or_insert_default().destination_port = Some(u32::from(port));
    chain
}

/// Takes connections to an end.
fn refusal(common: &Common, name: &str) -> listener::FilterChain {
    listener::FilterChain {
        name: name.to_owned(),
        filters: vec![tcp_proxy(common, BLACK_HOLE, BLACK_HOLE)],
        ..Default::default()
    }
}

fn http(common: &Common, address: &str, port: u16, cluster: &str, operation: &str) -> listener::Filter {
    let routes = inline(route::inbound(cluster, &format!("inbound|http|{port}"), operation));
    connection_manager(common, Side::Inbound, format!("inbound_{address}_{port};"), routes)
}

/// The listener of intercepted connections.
pub(super) fn intercepted(common: &Common, key: &Inbound) -> listener::Listener {
    // Not intercepted but called here: forwarding would come back for ever.
    let mut chains = vec![at_port(INBOUND_PORT, refusal(common, "virtualInbound-blackhole"))];
    let mut needs: Vec<(u16, Needs)> = vec![(INBOUND_PORT, Needs::default())];
    for port in key.ports.iter().filter(|port| !key.is_bound(port)) {
        chains.extend(key.application(common, port).into_iter().map(|chain| at_port(port.number, chain)));
        needs.push((port.number, key.needs(port)));
    }
    for (port, mode) in &key.undeclared.ports {
        chains.extend(key.passing(common, *mode).into_iter().map(|chain| at_port(*port, chain)));
        needs.push((*port, Needs::of(ways(Content::Unknown, *mode))));
    }
    let others = key.undeclared.mutual_tls;
    chains.extend(key.passing(common, others));
    let rest = Needs::of(ways(Content::Unknown, others));

    let mut filters = vec![original_destination()];
    let of = |which: fn(&Needs) -> bool| needs.iter().map(move |(port, needs)| (*port, which(needs)));
    filters.extend(inspector(tls_inspector(), rest.tls, of(|needs| needs.tls)));
    filters.extend(inspector(http_inspector(), rest.http, of(|needs| needs.http)));
    let mut message = listener::Listener {
        name: "virtualInbound".to_owned(),
        filter_chains: chains,
        listener_filters: filters,
        ..Default::default()
    };
    common.listen(&mut message, None, INBOUND_PORT);
    detection(&mut message, common);
    direction(&mut message, core::TrafficDirection::Inbound);
    message
}

/// The listener of a port that the proxy binds itself.
pub(super) fn own(common: &Common, key: &Inbound, index: usize) -> listener::Listener {
    let port = &key.ports[index];
    let bind = key.bind(port, common);
    let needs = key.needs(port);
    let mut message = listener::Listener {
        name: format!("{bind}_{}", port.number),
        filter_chains: key.application(common, port),
        metadata: Some(key.metadata(port)),
        ..Default::default()
    };
    message.listener_filters.extend(needs.tls.then(tls_inspector));
    message.listener_filters.extend(needs.http.then(http_inspector));
    let given = key.ingress(port).map(|listener| listener.bind.as_str()).filter(|bind| !bind.is_empty());
    common.listen(&mut message, given, port.number);
    detection(&mut message, common);
    direction(&mut message, core::TrafficDirection::Inbound);
    message
}

/// An inspector that looks at the first bytes only where a chain depends on them: a server that speaks first would be
/// waited for in vain.
fn inspector(
    mut filter: listener::ListenerFilter,
    others: bool,
    ports: impl Iterator<Item = (u16, bool)>,
) -> Option<listener::ListenerFilter> {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    type Predicate = listener::ListenerFilterChainMatchPredicate;
    let mut rules: Vec<Predicate> = ports
        .filter(|(_, needed)| *needed != others)
        .map(|(port, _)| Predicate {
            rule: Some(Rule::DestinationPortRange(kind::Int32Range {
                start: i32::from(port),
                end: i32::from(port) + 1,
            })),
        })
        .collect();
    let any = match rules.len() {
        0 if others => return Some(filter),
        0 => return None,
        1 => rules.pop(),
        _ => Some(Predicate { rule: Some(Rule::OrMatch(MatchSet { rules })) }),
    };
    filter.filter_disabled =
        if others { any } else { any.map(|any| Predicate { rule: Some(Rule::NotMatch(Box::new(any))) }) };
    Some(filter)
}
