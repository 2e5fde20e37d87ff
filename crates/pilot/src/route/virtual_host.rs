//! One virtual host: domains, and the rules of the VirtualServices that are for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::networking::{
    Destination, HttpMatchRequest, HttpRetry, HttpRoute, LoadBalancerSettings, VirtualService,
};
use lateen_model::{Config, Hostname, Namespace};

use super::{action, matching, passthrough_action};
use crate::cluster::outbound_name;
use crate::encoded::{Encoded, Key};
use crate::proto::{self, core, route};
use crate::rules::full_host;
use crate::shared::Shared;
use crate::world::World;

/// Annotation of a VirtualService that another API's object became: by whose rules its paths match.
const ROUTE_SEMANTICS: &str = "internal.istio.io/route-semantics";

/// What happens to requests that no rule takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Fallback {
    /// To this cluster.
    Cluster(String),
    /// To where they were going.
    Passthrough,
    /// To the service that the `Sidecar` names for unknown destinations.
    Proxy(String),
    /// 502: the mesh's policy forbids unknown destinations.
    Refuse,
    /// 404, by having no route.
    NotFound,
}

/// Who asks, as far as rules may depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) namespace: Namespace,
    pub(crate) labels: BTreeMap<String, String>,
    /// `mesh`, or the gateways (`namespace/name`) that the host belongs to.
    pub(crate) gateways: Vec<String>,
    /// The port that clients call.
    pub(crate) port: u16,
    /// Retries of routes that say nothing.
    pub(crate) retries: Option<HttpRetry>,
    /// Whether it is gRPC itself that reads the routes.
    pub(crate) proxyless: bool,
}

/// All that a virtual host is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct VirtualHostKey {
    pub(crate) name: String,
    pub(crate) domains: Vec<String>,
    pub(crate) rules: Vec<Shared<Config<VirtualService>>>,
    /// For each destination of the rules that has a single port: that port.
    pub(crate) sole_ports: BTreeMap<Hostname, u16>,
    /// What is hashed to choose an endpoint, by cluster.
    pub(crate) hashes: BTreeMap<String, LoadBalancerSettings>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) fallback: Fallback,
    pub(crate) require_tls: bool,
    /// The object of the service that requests go to without a rule, as `Kind/namespace/name`.
    pub(crate) service: Option<String>,
}

impl Key for VirtualHostKey {
    fn generate(&self) -> Encoded {
        let mut routes = Vec::new();
        // Of several objects for one host, what takes everything comes after what is more particular.
        let mut last = None;
        for config in &self.rules {
            let all = self.rule(config, &mut routes);
            last = last.or(all);
        }
        routes.extend(last);
        if self.rules.is_empty() {
            routes.extend(self.fallback());
        }
        let mut message = route::VirtualHost {
            name: self.name.clone(),
            domains: self.domains.clone(),
            routes,
            include_request_attempt_count: true,
            metadata: self.metadata(),
            require_tls: if self.require_tls {
                route::virtual_host::TlsRequirementType::All as i32
            } else {
                0
            },
            ..Default::default()
        };
        if self.scope.proxyless {
            crate::proxyless::adapt_host(&mut message);
        }
        Encoded::part(self.name.as_str(), &message)
    }
}

impl Scope {
    /// Whether a rule has any route for who asks here.
    pub(crate) fn has_routes(&self, config: &Config<VirtualService>) -> bool {
        let any = |http: &HttpRoute| {
            http.r#match.is_empty() || http.r#match.iter().any(|request| self.applies(config, request))
        };
        config.spec.http.iter().any(any)
    }

    /// Whether a condition can hold for who asks here; what is decided by it is left out of the route.
    fn applies(&self, config: &Config<VirtualService>, request: &HttpMatchRequest) -> bool {
        let named = |name: &String| self.gateways.contains(&gateway_name(name, &config.meta.namespace));
        (request.gateways.is_empty() || request.gateways.iter().any(named))
            && (request.port == 0 || request.port == u32::from(self.port))
            && (request.source_namespace.is_empty() || self.namespace == *request.source_namespace)
            && request.source_labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

impl VirtualHostKey {
    /// A host with at most one rule, and all that its routes depend on.
    pub(crate) fn new<'a>(
        world: &World<'_>,
        name: String,
        domains: Vec<String>,
        rules: impl IntoIterator<Item = &'a Arc<Config<VirtualService>>>,
        scope: &Arc<Scope>,
        fallback: Fallback,
    ) -> Self {
        let rules: Vec<Shared<Config<VirtualService>>> = rules.into_iter().map(Shared::of).collect();
        let mut key = Self {
            name,
            domains,
            sole_ports: BTreeMap::new(),
            hashes: BTreeMap::new(),
            rules,
            scope: Arc::clone(scope),
            fallback,
            require_tls: false,
            service: None,
        };
        key.resolve(world);
        key
    }

    /// Looks up what the routes need to know of their destinations.
    pub(crate) fn resolve(&mut self, world: &World<'_>) {
        let hosts = self.rules.iter().flat_map(|rule| destinations(rule));
        let sole = |host: Hostname| match &world.service(&host)?.ports[..] {
            [only] => Some((host, only.number)),
            _ => None,
        };
        self.sole_ports = hosts.filter_map(sole).collect();
        let mut hashes = BTreeMap::new();
        let mut note = |host: &Hostname, subset: &str, port: u16| {
            if let Some(hash) = super::hash::asked(world, host, subset, port) {
                hashes.insert(outbound_name(port, subset, host), hash);
            }
        };
        for config in &self.rules {
            let namespace = &config.meta.namespace;
            for route in config.spec.http.iter().flat_map(|http| &http.route) {
                let destination = &route.destination;
                let host = full_host(&destination.host, namespace);
                note(&host, &destination.subset, self.port_of(destination, &host));
            }
        }
        if let (Fallback::Cluster(_), Some((host, _))) = (&self.fallback, self.name.rsplit_once(':')) {
            let host = Hostname::from(host);
            note(&host, "", self.scope.port);
            self.service = world.service(&host).map(|service| proto::named(&service.source));
        }
        self.hashes = hashes;
    }

    /// Names all objects that the host comes from.
    fn metadata(&self) -> Option<core::Metadata> {
        let mut metadata = match self.rules.first() {
            Some(config) => config_metadata(config),
            None => core::Metadata::default(),
        };
        for config in self.rules.iter().skip(1) {
            proto::note_sources(&mut metadata, sources(config));
        }
        let gateways = self.scope.gateways.iter().filter(|name| name.contains('/'));
        proto::note_sources(&mut metadata, gateways.map(|name| format!("Gateway/{name}")));
        proto::note_sources(&mut metadata, self.service.clone().filter(|_| self.rules.is_empty()));
        (metadata != core::Metadata::default()).then_some(metadata)
    }

    /// Adds the routes of one object, but for the one that takes every request: that is returned.
    fn rule(&self, config: &Config<VirtualService>, routes: &mut Vec<route::Route>) -> Option<route::Route> {
        for http in &config.spec.http {
            if http.r#match.is_empty() {
                return self.route(config, http, None);
            }
            for request in http.r#match.iter().filter(|request| self.scope.applies(config, request)) {
                if matching::takes_all(request) {
                    return self.route(config, http, Some(request));
                }
                routes.extend(self.route(config, http, Some(request)));
            }
        }
        None
    }

    fn route(
        &self,
        config: &Config<VirtualService>,
        http: &HttpRoute,
        request: Option<&HttpMatchRequest>,
    ) -> Option<route::Route> {
        let name = match request {
            Some(request) if !request.name.is_empty() => format!("{}.{}", http.name, request.name),
            _ => http.name.clone(),
        };
        let namespace = &config.meta.namespace;
        let mut message = route::Route {
            name,
            r#match: Some(request.map_or_else(matching::everything, matching::request)),
            metadata: Some(config_metadata(config)),
            stat_prefix: request.map(|request| request.stat_prefix.clone()).unwrap_or_default(),
            ..Default::default()
        };
        let semantics = config.meta.annotations.get(ROUTE_SEMANTICS).map(String::as_str);
        if semantics.is_some() {
            message.r#match.iter_mut().for_each(matching::by_segments);
        }
        let cluster = |destination: &Destination| self.cluster(destination, namespace);
        let path = request.and_then(|request| request.uri.as_ref());
        message.action = Some(if let Some(redirect) = &http.redirect {
            route::route::Action::Redirect(action::redirect(redirect, self.scope.port))
        } else if let Some(response) = &http.direct_response {
            route::route::Action::DirectResponse(action::direct_response(response))
        } else if http.route.is_empty() {
            // A delegate that is not there: no route rather than a wrong one.
            return None;
        } else {
            route::route::Action::Route(action::forward(
                http,
                path,
                self.scope.retries.as_ref(),
                &cluster,
                &self.hashes,
                &mut message,
            ))
        });
        action::filters(http, &mut message);
        if let (Some("gateway"), Some(route::route::Action::Route(action))) = (semantics, &mut message.action)
        {
            // A backend that is not there is an error of the server (Gateway API, "HTTPRouteRule.backendRefs").
            action.cluster_not_found_response_code =
                route::route_action::ClusterNotFoundResponseCode::InternalServerError as i32;
        }
        let target = match &message.action {
            Some(route::route::Action::Route(_)) => {
                http.route.first().map(|route| cluster(&route.destination))
            }
            _ => None,
        };
        if target.is_some() {
            let operation = format!("{}/*", self.name);
            message.decorator = Some(route::Decorator { operation, ..Default::default() });
        }
        Some(message)
    }

    /// The cluster that a destination means: its port, else the only port of its service, else the port called.
    fn cluster(&self, destination: &Destination, namespace: &Namespace) -> String {
        let host = full_host(&destination.host, namespace);
        outbound_name(self.port_of(destination, &host), &destination.subset, &host)
    }

    fn port_of(&self, destination: &Destination, host: &Hostname) -> u16 {
        match &destination.port {
            Some(port) => port.number as u16,
            None => self.sole_ports.get(host).copied().unwrap_or(self.scope.port),
        }
    }

    fn fallback(&self) -> Option<route::Route> {
        let (name, action) = match &self.fallback {
            Fallback::Cluster(cluster) => {
                let mut forward = action::to_cluster(cluster.clone());
                forward.retry_policy = action::retries(None, self.scope.retries.as_ref());
                forward.hash_policy.extend(crate::cluster::hash_policy(self.hashes.get(cluster)));
                ("default", route::route::Action::Route(forward))
            }
            Fallback::Passthrough => ("allow_any", route::route::Action::Route(passthrough_action())),
            Fallback::Proxy(cluster) => {
                ("allow_any", route::route::Action::Route(action::to_cluster(cluster.clone())))
            }
            Fallback::Refuse => (
                "block_all",
                route::route::Action::DirectResponse(route::DirectResponseAction {
                    status: 502,
                    ..Default::default()
                }),
            ),
            Fallback::NotFound => return None,
        };
        let operation = format!("{}/*", self.name);
        Some(route::Route {
            name: name.to_owned(),
            r#match: Some(matching::everything()),
            decorator: Some(route::Decorator { operation, ..Default::default() }),
            action: Some(action),
            ..Default::default()
        })
    }
}

/// Names the object that something comes from.
fn config_metadata(config: &Config<VirtualService>) -> core::Metadata {
    let path = proto::config_path("virtual-service", &config.meta.namespace, &config.meta.name);
    let mut metadata = proto::istio_metadata(serde_json::json!({"config": path}));
    proto::note_sources(&mut metadata, sources(config));
    metadata
}

/// The object itself, and those that it was made from.
fn sources(config: &Config<VirtualService>) -> Vec<String> {
    let parents = config.meta.annotations.get("internal.istio.io/parents").map_or("", String::as_str);
    let of_parent = |text: &str| {
        let (kind, rest) = text.split_once('/')?;
        let (name, namespace) = rest.rsplit_once('.')?;
        Some(format!("{kind}/{namespace}/{name}"))
    };
    let own = format!("VirtualService/{}/{}", config.meta.namespace, config.meta.name);
    std::iter::once(own).chain(parents.split(',').filter_map(of_parent)).collect()
}

/// A gateway as a VirtualService names it, in full; `mesh` stays as it is.
pub(crate) fn gateway_name(name: &str, namespace: &Namespace) -> String {
    if name == "mesh" || name.contains('/') { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The hosts that the rules of an object send requests to.
pub(super) fn destinations(config: &Config<VirtualService>) -> impl Iterator<Item = Hostname> + '_ {
    let namespace = &config.meta.namespace;
    config
        .spec
        .http
        .iter()
        .flat_map(|http| {
            let routes = http.route.iter().map(|route| &route.destination);
            routes.chain(&http.mirror).chain(http.mirrors.iter().map(|mirror| &mirror.destination))
        })
        .map(move |destination| full_host(&destination.host, namespace))
}
