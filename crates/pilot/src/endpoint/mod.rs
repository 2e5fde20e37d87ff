//! Endpoints (EDS): what stands behind each cluster, by locality.

mod assignment;
mod networks;

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_api::mesh::DiscoverySelector;
use lateen_api::mesh_parts::{ServiceScope, ServiceScopeConfig};
use lateen_api::networking::{ClientTlsMode, Subset, TrafficPolicy};
use lateen_model::{ClusterId, EndpointSet, Hostname, NetworkId, PortProtocol, Service};

use lateen_envoy::type_urls;

use crate::Role;
use crate::cluster::{discovery, goes_where_it_was_going, outbound_name, passes_on, server_name};
use crate::encoded::{Encoded, Key};
use crate::mutual_tls::Policies;
use crate::policy::policy;
use crate::preference::{Place, Preference};
use crate::proto::cluster::cluster::DiscoveryType;
use crate::proto::endpoint;
use crate::rules;
use crate::shared::Shared;
use crate::world::World;
pub(crate) use networks::{NetworkIndex, Networks};

/// All that a cluster's endpoints are made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) cluster: String,
    selected: Selected,
    set: Option<Shared<EndpointSet>>,
    preference: Option<(Arc<Preference>, Arc<Place>)>,
    networks: Option<(NetworkId, Arc<Networks>)>,
}

/// Which endpoints of a service a cluster has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selected {
    pub(crate) cluster: String,
    /// The service port's name: endpoints know their ports by it.
    pub(crate) port: String,
    /// Labels that they must have (subsets).
    pub(crate) labels: BTreeMap<String, String>,
    /// The cluster that they must be in (`clusterLocal`).
    pub(crate) within: Option<ClusterId>,
    /// The node that they must be on (`internalTrafficPolicy: Local`).
    pub(crate) node: Option<String>,
    /// Whether those that shut down are told of: sessions that stick to them may end there.
    pub(crate) keeps_draining: bool,
    pub(crate) mutual: MutualTls,
    /// Whether only those count that mutual TLS is spoken to.
    pub(crate) only_mutual: bool,
    /// Whether names that the proxy resolves are endpoints too.
    pub(crate) takes_names: bool,
    /// Whether Unix sockets are left out: gRPC's own clients take none.
    pub(crate) without_sockets: bool,
}

/// To which endpoints mutual TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum MutualTls {
    /// As the rule says, to all or to none.
    Ruled(bool),
    /// To those that take it.
    Offered(Arc<Policies>),
}

impl Default for MutualTls {
    fn default() -> Self {
        Self::Offered(Arc::default())
    }
}

impl Key for EndpointKey {
    fn generate(&self) -> Encoded {
        let preference = self.preference.as_ref().map(|(preference, place)| (&**place, &**preference));
        let networks = self.networks.as_ref().map(|(own, networks)| (own, &**networks));
        let message = assignment::assignment(&self.selected, self.set.as_deref(), preference, networks);
        Encoded::resource(type_urls::ENDPOINT, self.cluster.as_str(), &message)
    }
}

/// Whether sessions may stick to endpoints that shut down.
pub(crate) fn keeps_draining(service: &Service) -> bool {
    service.labels.contains_key("istio.io/persistent-session")
        || service.labels.contains_key("istio.io/persistent-session-header")
}

/// The endpoints of one service's clusters, as far as these ask for them.
pub(crate) fn plan_service(world: &World<'_>, service: &Service) -> Vec<EndpointKey> {
    if discovery(service, world.class.role) != DiscoveryType::Eds {
        return Vec::new();
    }
    let found = world.rules.of(service, &world.class.namespace);
    let context = Context::new(world, service);
    let passes_on = !service.external && passes_on(world);
    let mut keys = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp) {
        for subset in std::iter::once(None).chain(rules::subsets(&found).into_iter().map(Some)) {
            let mesh = world.snapshot.mesh();
            let policy = policy(mesh.default_traffic_policy.as_ref(), &found, subset, port.number);
            if goes_where_it_was_going(&policy) {
                continue;
            }
            let name = subset.map_or("", |subset| subset.name.as_str());
            let host = &service.key.hostname;
            keys.push(context.key(outbound_name(port.number, name, host), &port.name, subset, &policy));
            if passes_on {
                let mut key = context.key(server_name(port.number, name, host), &port.name, subset, &policy);
                key.selected.only_mutual = true;
                keys.push(key);
            }
        }
    }
    keys
}

/// What the clusters of one service have in common.
struct Context<'a> {
    world: &'a World<'a>,
    service: &'a Service,
    set: Option<Shared<EndpointSet>>,
    policies: Arc<Policies>,
}

impl<'a> Context<'a> {
    fn new(world: &'a World<'a>, service: &'a Service) -> Self {
        let set = world.snapshot.endpoints(&service.key).map(Shared::of);
        let policies = Arc::new(Policies::new(world.snapshot, &service.key.namespace));
        Self { world, service, set, policies }
    }

    fn key(
        &self,
        cluster: String,
        port: &str,
        subset: Option<&Subset>,
        policy: &TrafficPolicy,
    ) -> EndpointKey {
        let (world, service, class) = (self.world, self.service, self.world.class);
        let place = || class.place.clone().unwrap_or_default();
        let mutual = match policy.tls.as_ref().map(|tls| tls.mode) {
            Some(mode) => MutualTls::Ruled(mode == ClientTlsMode::IstioMutual),
            None => MutualTls::Offered(Arc::clone(&self.policies)),
        };
        let networks = world.networks();
        EndpointKey {
            selected: Selected {
                cluster: cluster.clone(),
                port: port.to_owned(),
                labels: subset.map(|subset| subset.labels.clone()).unwrap_or_default(),
                within: is_cluster_local(world, service).then(|| class.cluster.clone()),
                node: service.node_local.then(|| place().node().to_owned()),
                keeps_draining: keeps_draining(service),
                mutual,
                only_mutual: false,
                takes_names: false,
                without_sockets: class.role == Role::Proxyless,
            },
            cluster,
            set: self.set.clone(),
            preference: Preference::new(world.snapshot.mesh(), policy, service)
                .map(|preference| (Arc::new(preference), place())),
            networks: (!networks.is_empty()).then(|| (class.network.clone(), Arc::clone(networks))),
        }
    }
}

/// Whether clients only see endpoints of their own cluster: what the mesh says of the host (`serviceSettings`; the last
/// that names it counts), else of services like it (`serviceScopeConfigs`), else those of Kubernetes itself.
fn is_cluster_local(world: &World<'_>, service: &Service) -> bool {
    let host = &service.key.hostname;
    let mesh = world.snapshot.mesh();
    let names = |pattern: &String| Hostname::from(pattern.as_str()).covers(host);
    if let Some(said) = mesh.service_settings.iter().rev().find(|one| one.hosts.iter().any(names)) {
        return said.settings.cluster_local;
    }
    let namespace = world.snapshot.namespace(&service.key.namespace);
    let of_namespace = namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default();
    let is_for = |one: &&ServiceScopeConfig| {
        one.namespace_selector.as_ref().is_none_or(|selector| selects(selector, &of_namespace))
            && one.services_selector.as_ref().is_none_or(|selector| selects(selector, &service.labels))
    };
    if let Some(said) = mesh.service_scope_configs.iter().find(is_for) {
        return said.scope == ServiceScope::Local;
    }
    let own = ["kube-system", "kube-public", "kube-node-lease"];
    service.source.kind == "Service"
        && (own.contains(&service.key.namespace.as_str()) || host.starts_with("kubernetes.default.svc."))
}

/// Kubernetes' label selectors; a condition of an unknown kind picks nothing.
fn selects(selector: &DiscoverySelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|one| {
            let value = labels.get(&one.key);
            match one.operator.as_str() {
                "In" => value.is_some_and(|value| one.values.contains(value)),
                "NotIn" => value.is_none_or(|value| !one.values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The endpoints that a cluster carries itself, since the proxy resolves their names.
pub(crate) fn resolved(
    selected: &Selected,
    service: &Service,
    set: Option<&EndpointSet>,
    preference: Option<(&Place, &Preference)>,
) -> endpoint::ClusterLoadAssignment {
    let selected =
        Selected { takes_names: true, keeps_draining: keeps_draining(service), ..selected.clone() };
    assignment::assignment(&selected, set, preference, None)
}
