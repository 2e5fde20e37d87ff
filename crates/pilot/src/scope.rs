//! What a class of sidecars sees: the services and VirtualServices that are exported to its namespace, narrowed by the
//! `Sidecar` object that is for it (<https://istio.io/latest/docs/reference/config/networking/sidecar/>).
//!
//! A scope is resolved once for all classes with the same inputs, and then kept up key by key.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use lateen_api::networking::{IstioEgressListener, Sidecar};
use lateen_model::{Config, ConfigKey, Hostname, MeshConfig, Namespace, Service, Snapshot, Visibility};

use crate::index::{Index, RuleFacts};
use crate::route::Swap;
use crate::visibility::{Reach, reach};

/// What a scope depends on besides the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ScopeKey {
    /// The clients' namespace.
    pub(crate) namespace: Namespace,
    /// The `Sidecar` that is for them, if any.
    pub(crate) sidecar: Option<ConfigKey>,
}

/// Services by host name: one a host.
pub(crate) type ServiceMap = OrdMap<Hostname, Arc<Service>>;
/// VirtualServices in the order in which they count.
pub(crate) type RuleMap = OrdMap<RuleOrder, Arc<RuleFacts>>;

/// The nearer wins, then the older, then the name decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleOrder(Reach, i64, String, Namespace);

/// What some clients see.
#[derive(Debug)]
pub(crate) struct Scope {
    key: ScopeKey,
    pub(crate) sidecar: Option<Arc<Config<Sidecar>>>,
    pub(crate) services: ServiceMap,
    pub(crate) virtual_services: RuleMap,
    /// One for each egress listener of the `Sidecar`; empty without one, where everything visible counts.
    pub(crate) listeners: Vec<EgressScope>,
    placed: HashMap<ConfigKey, RuleOrder>,
    default_export: Vec<Visibility>,
}

/// What one egress listener of a `Sidecar` sees.
#[derive(Debug)]
pub(crate) struct EgressScope {
    imports: Vec<Import>,
    /// Services are cut down to this port.
    port: Option<u16>,
    pub(crate) services: ServiceMap,
    pub(crate) virtual_services: RuleMap,
    /// Destinations of these VirtualServices, with how many name them: they can be called though nobody imports them.
    wanted: HashMap<Hostname, usize>,
}

/// One entry of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    /// Any, where `None`.
    namespace: Option<Namespace>,
    host: Hostname,
}

/// What a VirtualService's change came to.
#[derive(Debug, Default)]
pub(crate) struct RuleChange {
    /// Whether the scope sees it now or saw it before.
    pub(crate) seen: bool,
    /// Where it sends to or sent to, as far as the scope may have to know.
    pub(crate) destinations: BTreeSet<Hostname>,
    /// Services that came or went because of it.
    pub(crate) services: BTreeSet<Hostname>,
    /// Where nothing but its routes is different.
    pub(crate) swap: Option<Swap>,
}

impl Import {
    /// `namespace/host`; `~` imports nothing.
    fn parse(text: &str, own: &Namespace) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let namespace = match namespace {
            "~" => return None,
            "*" => None,
            "." => Some(own.clone()),
            named => Some(named.into()),
        };
        Some(Self { namespace, host: host.into() })
    }

    fn from(&self, namespace: &Namespace) -> bool {
        self.namespace.as_ref().is_none_or(|named| named == namespace)
    }
}

impl EgressScope {
    fn new(spec: &IstioEgressListener, own: &Namespace) -> Self {
        // A listener that is an HTTP proxy takes requests for any port.
        let port = spec
            .port
            .as_ref()
            .filter(|port| port.number != 0 && !port.protocol.eq_ignore_ascii_case("HTTP_PROXY"));
        Self {
            imports: spec.hosts.iter().filter_map(|host| Import::parse(host, own)).collect(),
            port: port.and_then(|port| u16::try_from(port.number).ok()),
            services: ServiceMap::new(),
            virtual_services: RuleMap::new(),
            wanted: HashMap::new(),
        }
    }

    fn imports_service(&self, service: &Service) -> bool {
        self.imports
            .iter()
            .any(|import| import.from(&service.key.namespace) && import.host.covers(&service.key.hostname))
            && self.has_port(service)
    }

    /// A rule is imported with any of its hosts, a wider or narrower one included.
    fn imports_rule(&self, rule: &RuleFacts) -> bool {
        rule.mesh
            && self
                .imports
                .iter()
                .filter(|import| import.from(&rule.config.meta.namespace))
                .any(|import| rule.hosts.iter().any(|host| import.host.overlaps(host)))
    }

    fn has_port(&self, service: &Service) -> bool {
        self.port.is_none_or(|number| service.port(number).is_some())
    }
}

impl Scope {
    /// Resolves everything.
    pub(crate) fn new(snapshot: &Snapshot, index: &Index, key: ScopeKey) -> Self {
        let sidecar = key.sidecar.as_ref().and_then(|key| snapshot.configs().sidecars.get(key)).cloned();
        let everything = IstioEgressListener { hosts: vec!["*/*".to_owned()], ..Default::default() };
        let listeners = match &sidecar {
            None => Vec::new(),
            Some(config) if config.spec.egress.is_empty() => {
                vec![EgressScope::new(&everything, &key.namespace)]
            }
            Some(config) => {
                config.spec.egress.iter().map(|spec| EgressScope::new(spec, &key.namespace)).collect()
            }
        };
        let defaults = &snapshot.mesh().default_service_export_to;
        let mut scope = Self {
            key,
            sidecar,
            services: ServiceMap::new(),
            virtual_services: RuleMap::new(),
            listeners,
            placed: HashMap::new(),
            default_export: defaults.iter().map(|entry| Visibility::parse(entry)).collect(),
        };
        for key in index.virtual_services.keys() {
            scope.place(snapshot.mesh(), index, key);
        }
        for host in scope.candidates(snapshot) {
            scope.refresh_service(snapshot, &host);
        }
        scope
    }

    /// The namespaces whose objects it may see; `None` where those of any.
    pub(crate) fn sources(&self) -> Option<BTreeSet<&Namespace>> {
        if self.listeners.is_empty() {
            return None;
        }
        let imports = self.listeners.iter().flat_map(|listener| &listener.imports);
        imports.map(|import| import.namespace.as_ref()).collect()
    }

    /// What the scope depends on.
    pub(crate) fn key(&self) -> &ScopeKey {
        &self.key
    }

    /// Whether a VirtualService is seen in it.
    pub(crate) fn is_placed(&self, rule: &ConfigKey) -> bool {
        self.placed.contains_key(rule)
    }

    /// The hosts that VirtualServices it sees send to.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &Hostname> {
        self.listeners.iter().flat_map(|listener| listener.wanted.keys())
    }

    /// Whether a VirtualService that it sees sends to this host.
    pub(crate) fn wants(&self, host: &Hostname) -> bool {
        self.listeners.iter().any(|listener| listener.wanted.contains_key(host))
    }

    /// Hosts that may be visible.
    fn candidates(&self, snapshot: &Snapshot) -> BTreeSet<Hostname> {
        let host = |service: &Arc<Service>| service.key.hostname.clone();
        let mut hosts: BTreeSet<Hostname> = match self.sources() {
            None => snapshot.services().map(host).collect(),
            Some(namespaces) => namespaces
                .into_iter()
                .flat_map(|namespace| snapshot.services_in(namespace))
                .map(host)
                .collect(),
        };
        hosts.extend(self.listeners.iter().flat_map(|listener| listener.wanted.keys()).cloned());
        hosts
    }

    fn sees(&self, service: &Service) -> bool {
        let entries = if service.export_to.is_empty() { &self.default_export } else { &service.export_to };
        Visibility::any(entries, &service.key.namespace, &self.key.namespace)
    }

    /// Which of several definitions of a host counts: Kubernetes' own first, so that nobody takes such a name over;
    /// then the client's namespace's; then the oldest.
    fn best<'a>(&self, found: impl Iterator<Item = &'a Arc<Service>>) -> Option<&'a Arc<Service>> {
        found.min_by_key(|service| {
            let foreign = service.key.namespace != self.key.namespace;
            (service.short_name().is_empty(), foreign, service.created, &service.key)
        })
    }

    /// Looks again at what a host stands for, and says whether that is something else now.
    pub(crate) fn refresh_service(&mut self, snapshot: &Snapshot, host: &Hostname) -> bool {
        let visible: Vec<&Arc<Service>> =
            snapshot.services_named(host).filter(|service| self.sees(service)).collect();
        if self.listeners.is_empty() {
            let next = self.best(visible.into_iter()).cloned();
            return put(&mut self.services, host, next);
        }
        let mut listeners = std::mem::take(&mut self.listeners);
        let mut changed = false;
        let mut whole: Option<&Arc<Service>> = None;
        let mut ports: Vec<u16> = Vec::new();
        for listener in &mut listeners {
            let imported = visible.iter().copied().filter(|service| listener.imports_service(service));
            let found = self.best(imported);
            changed |= put(&mut listener.services, host, found.map(|service| cut(service, listener.port)));
            let Some(found) = found else { continue };
            let first = whole.get_or_insert(found);
            if first.key.namespace == found.key.namespace {
                add_ports(&mut ports, found, listener.port);
            }
        }
        if whole.is_none() {
            for listener in listeners.iter().filter(|listener| listener.wanted.contains_key(host)) {
                let callable = visible.iter().copied().filter(|service| listener.has_port(service));
                let Some(found) = self.best(callable) else { continue };
                let first = whole.get_or_insert(found);
                if first.key == found.key {
                    add_ports(&mut ports, found, listener.port);
                }
            }
        }
        self.listeners = listeners;
        let next = whole.map(|service| with_ports(service, &ports));
        put(&mut self.services, host, next) || changed
    }

    /// Looks again at a VirtualService.
    pub(crate) fn refresh_rule(&mut self, snapshot: &Snapshot, index: &Index, key: &ConfigKey) -> RuleChange {
        let mut change = RuleChange::default();
        let mut hosts = BTreeSet::new();
        let mut before = None;
        if let Some(order) = self.placed.remove(key) {
            change.seen = true;
            before = self.virtual_services.remove(&order).map(|rule| (order.clone(), rule));
            for listener in &mut self.listeners {
                let Some(old) = listener.virtual_services.remove(&order) else { continue };
                for host in &old.destinations {
                    if let Some(count) = listener.wanted.get_mut(host) {
                        *count -= 1;
                        if *count == 0 {
                            listener.wanted.remove(host);
                        }
                    }
                    hosts.insert(host.clone());
                }
            }
        }
        if let Some(rule) = self.place(snapshot.mesh(), index, key) {
            change.seen = true;
            hosts.extend(rule.destinations.iter().cloned());
        }
        if !self.listeners.is_empty() {
            let came_or_went = |host: &&Hostname| self.refresh_service(snapshot, host);
            change.services = hosts.iter().filter(came_or_went).cloned().collect();
            change.destinations = hosts;
        }
        if let (Some((order, old)), Some(present)) = (&before, self.placed.get(key))
            && order == present
            && change.services.is_empty()
        {
            change.swap = self.virtual_services.get(order).and_then(|new| Swap::new(old, new));
        }
        change
    }

    /// Puts a VirtualService where it is seen.
    fn place(&mut self, mesh: &MeshConfig, index: &Index, key: &ConfigKey) -> Option<Arc<RuleFacts>> {
        let rule = index.virtual_services.get(key)?;
        let (spec, meta) = (&rule.config.spec, &rule.config.meta);
        let defaults = &mesh.default_virtual_service_export_to;
        let reach = reach(&spec.export_to, defaults, &meta.namespace, &self.key.namespace)?;
        let order = RuleOrder(reach, meta.created, meta.name.clone(), meta.namespace.clone());
        let mut imported = self.listeners.is_empty();
        for listener in self.listeners.iter_mut().filter(|listener| listener.imports_rule(rule)) {
            imported = true;
            listener.virtual_services.insert(order.clone(), Arc::clone(rule));
            for host in &rule.destinations {
                *listener.wanted.entry(host.clone()).or_default() += 1;
            }
        }
        if !imported {
            return None;
        }
        self.virtual_services.insert(order.clone(), Arc::clone(rule));
        self.placed.insert(key.clone(), order);
        Some(Arc::clone(rule))
    }
}

/// Puts a value, or takes it out. A value that equals the present one leaves that in place: keys compare by pointer.
fn put(map: &mut ServiceMap, host: &Hostname, next: Option<Arc<Service>>) -> bool {
    match (map.get(host), next) {
        (None, None) => false,
        (Some(old), Some(next)) if Arc::ptr_eq(old, &next) || **old == *next => false,
        (_, Some(next)) => {
            map.insert(host.clone(), next);
            true
        }
        (Some(_), None) => {
            map.remove(host);
            true
        }
    }
}

fn add_ports(ports: &mut Vec<u16>, service: &Service, only: Option<u16>) {
    for port in &service.ports {
        if only.is_none_or(|number| port.number == number) && !ports.contains(&port.number) {
            ports.push(port.number);
        }
    }
}

fn cut(service: &Arc<Service>, only: Option<u16>) -> Arc<Service> {
    match only {
        None => Arc::clone(service),
        Some(number) => with_ports(service, &[number]),
    }
}

/// The service with these of its ports.
fn with_ports(service: &Arc<Service>, numbers: &[u16]) -> Arc<Service> {
    if service.ports.iter().all(|port| numbers.contains(&port.number)) {
        return Arc::clone(service);
    }
    let ports = service.ports.iter().filter(|port| numbers.contains(&port.number)).cloned().collect();
    Arc::new(Service { ports, ..(**service).clone() })
}
