//! Listeners for what a workload calls. Only 15001 is a real port; it hands connections to the others by the
//! destination they were intercepted on their way to. What a `Sidecar` has bound (`captureMode: NONE`) is real, too.
//!
//! HTTP services of one port share a listener on any address, and their table of routes; bytes are told apart by
//! address, so each address of a service has a listener of its own. What has no address, or a range of them, is told
//! apart within the shared listener: by range, by server name, and what is left goes to the oldest such service.

mod layer4;
mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lateen_api::networking::CaptureMode;
use lateen_model::{Address, AddressRange, PortProtocol, Service, ServicePort};

use super::{INBOUND_PORT, ListenerKind, OUTBOUND_PORT};
use crate::dynamic;
use crate::route;
use crate::world::{Egress, VisibleRule, World};
use layer4::{Chain, Place};
pub(super) use message::{catch_all, listener};

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Bind {
    /// Any address of the proxy's families.
    Any,
    /// One address.
    Address(IpAddr),
    /// A Unix socket.
    Unix(String),
}

/// How requests are read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Http {
    /// The name of the table.
    pub(super) routes: String,
    /// Whether the first bytes must tell that it is HTTP.
    pub(super) sniffed: bool,
    /// How long names are kept that are resolved when a request comes; `None` where nobody's are.
    pub(super) resolves: Option<Duration>,
}

/// All that one listener is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Outbound {
    pub(super) bind: Bind,
    pub(super) port: u16,
    /// Whether the port is real.
    pub(super) bound: bool,
    pub(super) http: Option<Http>,
    /// No two take the same connection.
    pub(super) chains: Vec<Chain>,
    /// The `Sidecar` that asks for it, as a path.
    pub(super) source: Option<String>,
}

/// The services on one port, as one egress listener sees them; the oldest first.
pub(crate) struct Group<'a> {
    pub(crate) egress: Egress<'a>,
    /// Its VirtualServices, in the order in which they count.
    pub(crate) rules: Rc<[VisibleRule<'a>]>,
    pub(crate) entries: Vec<(&'a Arc<Service>, &'a ServicePort)>,
}

/// What the clients' egress listeners see, by the port that is called.
pub(crate) fn groups<'a>(world: &World<'a>) -> BTreeMap<u16, Vec<Group<'a>>> {
    let mut ports: BTreeMap<u16, Vec<Group<'a>>> = BTreeMap::new();
    for egress in world.egress() {
        let only = explicit_port(&egress);
        let rules: Rc<[VisibleRule<'_>]> = egress.virtual_services().into();
        let mut services: Vec<&Arc<Service>> = egress.services.iter().collect();
        services.sort_by_key(|service| (service.created, &service.key));
        let mut own: BTreeMap<u16, Group<'a>> = BTreeMap::new();
        for service in services.into_iter().filter(|service| !route::is_alias(world, service)) {
            for port in &service.ports {
                let called = only.unwrap_or(port.number);
                if matches!(called, OUTBOUND_PORT | INBOUND_PORT) || port.protocol == PortProtocol::Udp {
                    continue;
                }
                let group = own.entry(called).or_insert_with(|| Group {
                    egress,
                    rules: Rc::clone(&rules),
                    entries: Vec::new(),
                });
                group.entries.push((service, port));
            }
        }
        // A listener that is a proxy for HTTP takes requests for whatever services there are, at its own port.
        if let Some(port) = only.filter(|_| is_http_proxy(&egress)) {
            own.entry(port).or_insert_with(|| Group {
                egress,
                rules: Rc::clone(&rules),
                entries: Vec::new(),
            });
        }
        for (port, group) in own {
            ports.entry(port).or_default().push(group);
        }
    }
    ports
}

/// The port that an egress listener is for; none where it is for all ports that its services have.
pub(crate) fn explicit_port(egress: &Egress<'_>) -> Option<u16> {
    let port = egress.spec?.port.as_ref()?;
    u16::try_from(port.number).ok()
}

/// Whether an egress listener takes requests for any host and port, as HTTP proxies do.
pub(crate) fn is_http_proxy(egress: &Egress<'_>) -> bool {
    let port = egress.spec.and_then(|spec| spec.port.as_ref());
    port.is_some_and(|port| port.protocol.eq_ignore_ascii_case("HTTP_PROXY"))
}

fn is_bound(egress: &Egress<'_>) -> bool {
    egress.spec.is_some_and(|spec| spec.capture_mode == CaptureMode::None)
}

/// Where an egress listener is to be, if the user says so. What is bound and says nothing is for this host only.
pub(crate) fn given_bind(world: &World<'_>, egress: &Egress<'_>) -> Option<Bind> {
    let spec = egress.spec?;
    if let Some(path) = spec.bind.strip_prefix("unix://") {
        return Some(Bind::Unix(path.to_owned()));
    }
    match spec.bind.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Some(Bind::Any),
        Ok(address) => Some(Bind::Address(address)),
        Err(_) if is_bound(egress) => Some(Bind::Address(super::loopback(world.class.families))),
        Err(_) => None,
    }
}

/// Where connections to a port of a service can be told from others.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Binds {
    /// Listeners of their own.
    pub(crate) own: Vec<IpAddr>,
    /// Whether the shared listener takes some, too: for these ranges, or for what nobody else claims.
    pub(crate) shared: Option<Vec<AddressRange>>,
}

/// The addresses that clients use for a port that is not HTTP.
pub(crate) fn binds(world: &World<'_>, service: &Service) -> Binds {
    let families = world.class.families;
    let all: Vec<AddressRange> = service
        .addresses_in(&world.class.cluster)
        .iter()
        .filter(|range| families.has(&range.address()))
        .copied()
        .collect();
    if !all.is_empty() {
        let ranges: Vec<AddressRange> =
            all.iter().filter(|range| range.single().is_none()).copied().collect();
        let own = all.iter().filter_map(AddressRange::single).collect();
        return Binds { own, shared: (!ranges.is_empty()).then_some(ranges) };
    }
    if service.is_headless() {
        // Clients have the endpoints' own addresses.
        let endpoints =
            world.snapshot.endpoints(&service.key).map(|set| &set.endpoints[..]).unwrap_or_default();
        let found = endpoints.iter().filter(|endpoint| endpoint.network == world.class.network);
        let addresses = found.flat_map(|endpoint| match &endpoint.address {
            Address::Ip(addresses) => &addresses[..],
            _ => &[],
        });
        let own: BTreeSet<IpAddr> = addresses.filter(|address| families.has(address)).copied().collect();
        let open = endpoints.is_empty() && service.selector.is_none() && service.source.kind != "Service";
        return Binds { own: own.into_iter().collect(), shared: open.then(Vec::new) };
    }
    // Clients that ask the mesh for names get addresses that tell such services apart.
    let given: Vec<IpAddr> = match world.class.dns_capture {
        true => service.auto_addresses.iter().filter(|address| families.has(address)).copied().collect(),
        false => Vec::new(),
    };
    let shared = given.is_empty().then(Vec::new);
    Binds { own: given, shared }
}

/// The listeners of all ports.
pub(super) fn plan(world: &World<'_>) -> Vec<ListenerKind> {
    let mut kinds: Vec<ListenerKind> = Vec::new();
    for (number, groups) in groups(world) {
        kinds.extend(plan_port(world, number, &groups));
    }
    kinds.extend(http_proxy(world));
    kinds
}

/// The listeners of one port.
pub(super) fn plan_port(world: &World<'_>, number: u16, groups: &[Group<'_>]) -> Vec<ListenerKind> {
    let mut table = Table { world, made: BTreeMap::new(), locked: BTreeSet::new() };
    for group in groups {
        let egress = &group.egress;
        if explicit_port(egress).is_none() {
            // What a listener with a port has claimed is not shared with those that catch the rest.
            table.locked = table.made.keys().cloned().collect();
        }
        if is_http_proxy(egress) {
            let bind = given_bind(world, egress).unwrap_or(Bind::Any);
            table.http(egress, bind, number, false);
            continue;
        }
        for (service, port) in &group.entries {
            table.service(egress, &group.rules, service, port, number);
        }
    }
    table.made.into_values().map(|key| ListenerKind::Outbound(Box::new(key))).collect()
}

/// The listener that `MeshConfig.proxyHttpPort` asks for.
fn http_proxy(world: &World<'_>) -> Option<ListenerKind> {
    let port = u16::try_from(world.snapshot.mesh().proxy_http_port).ok().filter(|port| *port != 0)?;
    Some(ListenerKind::Outbound(Box::new(Outbound {
        bind: Bind::Address(super::loopback(world.class.families)),
        port,
        bound: true,
        http: Some(Http { routes: route::HTTP_PROXY.to_owned(), sniffed: false, resolves: None }),
        chains: Vec::new(),
        source: None,
    })))
}

/// Listeners in the making.
struct Table<'w, 'a> {
    world: &'w World<'a>,
    made: BTreeMap<Bind, Outbound>,
    locked: BTreeSet<Bind>,
}

impl Table<'_, '_> {
    fn entry(&mut self, egress: &Egress<'_>, bind: Bind, port: u16) -> Option<&mut Outbound> {
        if self.locked.contains(&bind) {
            return None;
        }
        let source = self.world.sidecar().filter(|_| explicit_port(egress).is_some());
        let source = source
            .map(|sidecar| crate::proto::config_path("sidecar", &sidecar.meta.namespace, &sidecar.meta.name));
        Some(self.made.entry(bind.clone()).or_insert_with(|| Outbound {
            // A socket has no port.
            port: if matches!(bind, Bind::Unix(_)) { 0 } else { port },
            bound: is_bound(egress) || matches!(bind, Bind::Unix(_)),
            bind,
            http: None,
            chains: Vec::new(),
            source,
        }))
    }

    fn http(&mut self, egress: &Egress<'_>, bind: Bind, port: u16, sniffed: bool) {
        let name = match &bind {
            Bind::Unix(path) => path.clone(),
            _ => port.to_string(),
        };
        if let Some(entry) = self.entry(egress, bind, port) {
            // What is bound for HTTP has no other users.
            let sniffed = sniffed || !entry.bound;
            entry.http.get_or_insert(Http { routes: name, sniffed, resolves: None });
        }
    }

    fn service(
        &mut self,
        egress: &Egress<'_>,
        rules: &[VisibleRule<'_>],
        service: &Arc<Service>,
        port: &ServicePort,
        called: u16,
    ) {
        // An egress listener with a port says itself what is spoken there.
        let declared = egress.spec.and_then(|spec| spec.port.as_ref());
        let protocol = declared.map_or(port.protocol, |port| PortProtocol::parse(&port.protocol));
        let port = &ServicePort { protocol, ..port.clone() };
        let given = given_bind(self.world, egress);
        if protocol.is_http() {
            let bind = given.unwrap_or(Bind::Any);
            self.http(egress, bind.clone(), called, false);
            let resolves = self.resolves(service);
            let made = self.made.get_mut(&bind).and_then(|entry| entry.http.as_mut());
            if let Some(http) = made.filter(|_| resolves) {
                http.resolves = Some(self.world.snapshot.mesh().dns_refresh_rate.get());
            }
            return;
        }
        let (own, shared) = match given {
            Some(bind) => (vec![bind], None),
            None => {
                let binds = binds(self.world, service);
                (binds.own.into_iter().map(Bind::Address).collect(), binds.shared)
            }
        };
        let place =
            |destinations: Vec<AddressRange>, by_name| Place { service, port, called, destinations, by_name };
        for bind in own {
            if protocol.is_unknown() {
                self.sniffed(egress, bind.clone(), called, route::sniffed_name(service, called));
            }
            self.bytes(egress, bind, called, layer4::chains(self.world, rules, &place(Vec::new(), false)));
        }
        if let Some(destinations) = shared {
            if protocol.is_unknown() {
                self.http(egress, Bind::Any, called, true);
            }
            let chains = layer4::chains(self.world, rules, &place(destinations, true));
            self.bytes(egress, Bind::Any, called, chains);
        }
    }

    /// Whether the proxy is to resolve the hosts of requests for a service.
    fn resolves(&self, service: &Service) -> bool {
        let endpoints = self.world.snapshot.endpoints(&service.key);
        dynamic::is_dynamic(service, endpoints.map(|set| &**set))
    }

    /// HTTP that may come on a port of one service.
    fn sniffed(&mut self, egress: &Egress<'_>, bind: Bind, port: u16, routes: String) {
        if let Some(entry) = self.entry(egress, bind, port) {
            entry.http.get_or_insert(Http { routes, sniffed: true, resolves: None });
        }
    }

    fn bytes(&mut self, egress: &Egress<'_>, bind: Bind, port: u16, chains: Vec<Chain>) {
        let Some(entry) = self.entry(egress, bind, port) else { return };
        for chain in chains {
            let left = entry.chains.iter().try_fold(chain, |left, older| left.beside(older));
            entry.chains.extend(left);
        }
    }
}
