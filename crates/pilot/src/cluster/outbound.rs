//! Clusters of services: one for each port, and for each subset of each port.

use std::sync::Arc;
use std::time::Duration;

use lateen_api::mesh::MeshConfig;
use lateen_api::networking::{ClientTlsMode, DestinationRule, SimpleLoadBalancer, Subset, TrafficPolicy};
use lateen_model::{Config, EndpointSet, PortProtocol, Resolution, Service, ServicePort};

use super::draft::Draft;
use super::{
    BLACK_HOLE, PASSTHROUGH, balancer, metadata, original_destination, outbound_name, pool, server_name,
    stat_name, tls,
};
use crate::dynamic;
use crate::endpoint;
use crate::policy::policy;
use crate::preference::{Place, Preference};
use crate::proto::{self, cluster};
use crate::shared::Shared;
use crate::{Role, rules};
use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};

/// All that an outbound cluster is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct OutboundKey {
    pub(crate) service: Shared<Service>,
    /// Index of the port.
    pub(crate) port: usize,
    /// Empty for the service as a whole.
    pub(crate) subset: String,
    pub(crate) rules: Vec<Shared<Config<DestinationRule>>>,
    pub(crate) mesh: Shared<MeshConfig>,
    /// Where the cluster carries its endpoints itself.
    pub(crate) endpoints: Option<Shared<EndpointSet>>,
    /// Where the client is, if the cluster carries its endpoints and they are ordered by it.
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) client: Client,
    pub(crate) mutual: Mutual,
    /// The identities of the endpoints, of which one is expected.
    pub(crate) accounts: Arc<[String]>,
    /// Whether these are names that the user wrote (ServiceEntry `subjectAltNames`).
    pub(crate) accounts_are_names: bool,
}

/// What of a client every cluster may depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) role: Role,
    /// Whether it has a certificate of the mesh.
    pub(crate) certificates: bool,
    /// Whether the cluster passes on connections that are encrypted already (`AUTO_PASSTHROUGH`).
    pub(crate) passes_on: bool,
}

/// Whether a cluster speaks mutual TLS by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Mutual {
    /// No.
    #[default]
    No,
    /// To the endpoints whose metadata says that they take it.
    Matching,
    /// To all: the endpoints are not known one by one.
    Always,
}

/// The indices of the ports that have clusters.
pub(crate) fn ports(service: &Service) -> impl Iterator<Item = usize> {
    let with_clusters = |(_, port): &(usize, &ServicePort)| port.protocol != PortProtocol::Udp;
    service.ports.iter().enumerate().filter(with_clusters).map(|(index, _)| index)
}

/// How a client finds the endpoints of a service; only sidecars have an original destination.
pub(crate) fn discovery(service: &Service, role: Role) -> DiscoveryType {
    match service.resolution {
        Resolution::ClientSide | Resolution::Static => DiscoveryType::Eds,
        Resolution::Passthrough if role != Role::Sidecar => DiscoveryType::Eds,
        Resolution::Passthrough => DiscoveryType::OriginalDst,
        Resolution::Dns | Resolution::DynamicDns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
    }
}

/// Whether a rule lets connections go where they were going (`PASSTHROUGH`).
pub(crate) fn goes_where_it_was_going(policy: &TrafficPolicy) -> bool {
    let simple = policy.load_balancer.as_ref().and_then(|balancer| balancer.simple);
    simple == Some(SimpleLoadBalancer::Passthrough)
}

/// Whether a rule says that the mesh's own certificates are to be used.
pub(super) fn asks_for_mesh_tls(key: &OutboundKey) -> bool {
    let subset = rules::subsets(&key.rules).into_iter().find(|subset| subset.name == key.subset);
    let number = key.service.ports[key.port].number;
    let policy = policy(key.mesh.default_traffic_policy.as_ref(), &key.rules, subset, number);
    policy.tls.is_some_and(|tls| tls.mode == ClientTlsMode::IstioMutual)
}

pub(super) fn generate(key: &OutboundKey) -> cluster::Cluster {
    let service = &*key.service;
    let port = &service.ports[key.port];
    let host = &service.key.hostname;
    let subset = rules::subsets(&key.rules).into_iter().find(|subset| subset.name == key.subset);
    let policy = policy(key.mesh.default_traffic_policy.as_ref(), &key.rules, subset, port.number);
    let server_name = server_name(port.number, &key.subset, host);
    let name = match key.client.passes_on {
        true => server_name.clone(),
        false => outbound_name(port.number, &key.subset, host),
    };
    let mut draft = Draft::new(cluster::Cluster {
        alt_stat_name: stat_name(&key.mesh.outbound_cluster_stat_name, service, port, &key.subset, &name),
        metadata: Some(metadata::of_service(key, subset)),
        name,
        ..Default::default()
    });
    let preference = Preference::new(&key.mesh, &policy, service);
    discover(&mut draft, key, port, subset, &policy, preference.as_ref());
    pool::protocol(&mut draft, port.protocol, key.client.role == Role::Sidecar);
    apply(&mut draft, key, port, &policy, preference.as_ref());
    if !key.client.passes_on {
        let selected = key.rules.iter().any(|rule| rule.spec.workload_selector.is_some());
        tls::apply(&mut draft, policy.tls.as_ref(), &tls::Peer { key, server_name, selected });
        tls::proxy_protocol(&mut draft, policy.proxy_protocol.as_ref());
    }
    draft.finish()
}

fn apply(
    draft: &mut Draft,
    key: &OutboundKey,
    port: &ServicePort,
    policy: &TrafficPolicy,
    preference: Option<&Preference>,
) {
    let connections = policy.connection_pool.as_ref();
    if pool::upgrades(&key.mesh, connections, port.protocol) {
        draft.speak_http2();
    }
    pool::apply(draft, &key.mesh, connections);
    pool::retry_budget(draft, policy.retry_budget.as_ref());
    balancer::outlier_detection(draft, policy.outlier_detection.as_ref());
    if draft.message.lb_policy != cluster::cluster::LbPolicy::ClusterProvided as i32 {
        balancer::apply(draft, policy.load_balancer.as_ref());
        balancer::localities(draft, preference);
    }
    if endpoint::keeps_draining(&key.service) {
        use crate::proto::core::{HealthStatus, HealthStatusSet};
        let statuses =
            [HealthStatus::Healthy, HealthStatus::Draining, HealthStatus::Unknown, HealthStatus::Degraded];
        draft.common_lb().override_host_status =
            Some(HealthStatusSet { statuses: statuses.map(|status| status as i32).to_vec() });
    }
}

// The two DNS settings have successors that older proxies do not know.
#[allow(deprecated)]
fn discover(
    draft: &mut Draft,
    key: &OutboundKey,
    port: &ServicePort,
    subset: Option<&Subset>,
    policy: &TrafficPolicy,
    preference: Option<&Preference>,
) {
    use cluster::cluster::{DnsLookupFamily, EdsClusterConfig, LbPolicy};
    let mut found = discovery(&key.service, key.client.role);
    if goes_where_it_was_going(policy) {
        found = DiscoveryType::OriginalDst;
    }
    match found {
        DiscoveryType::Eds => {
            let service_name = draft.message.name.clone();
            draft.message.eds_cluster_config =
                Some(EdsClusterConfig { eds_config: Some(proto::ads()), service_name });
        }
        DiscoveryType::OriginalDst => draft.message.lb_policy = LbPolicy::ClusterProvided as i32,
        _ if dynamic::is_dynamic(&key.service, key.endpoints.as_deref()) => {
            return dynamic::cluster(&mut draft.message, &key.mesh);
        }
        _ => {
            let selected = endpoint::Selected {
                cluster: draft.message.name.clone(),
                port: port.name.clone(),
                labels: subset.map(|subset| subset.labels.clone()).unwrap_or_default(),
                ..endpoint::Selected::default()
            };
            let place = key.place.as_deref().zip(preference);
            let mut assignment = endpoint::resolved(&selected, &key.service, key.endpoints.as_deref(), place);
            if found == DiscoveryType::LogicalDns {
                keep_one_endpoint(&mut assignment);
            }
            // A logical cluster without its one endpoint would be refused; without any it resolves to nothing.
            if assignment.endpoints.is_empty() {
                found = DiscoveryType::Static;
            } else {
                // Names that only have addresses of one family are resolved whichever that is.
                draft.message.dns_lookup_family = DnsLookupFamily::V4Preferred as i32;
                draft.message.dns_refresh_rate = Some(proto::duration(key.mesh.dns_refresh_rate.get()));
                draft.message.respect_dns_ttl = true;
            }
            draft.message.load_assignment = Some(assignment);
        }
    }
    draft.message.cluster_discovery_type = Some(ClusterDiscoveryType::Type(found as i32));
}

/// `LOGICAL_DNS` takes exactly one endpoint.
fn keep_one_endpoint(assignment: &mut proto::endpoint::ClusterLoadAssignment) {
    assignment.endpoints.truncate(1);
    if let Some(locality) = assignment.endpoints.first_mut() {
        locality.lb_endpoints.truncate(1);
    }
}

pub(super) fn passthrough(mesh: &MeshConfig) -> cluster::Cluster {
    let mut draft = original_destination(PASSTHROUGH, mesh);
    draft.speak_as_client();
    idle(&mut draft);
    draft.finish()
}

/// Connections whose destination nobody knows are not kept for long.
pub(super) fn idle(draft: &mut Draft) {
    draft.options().common_http_protocol_options.get_or_insert_default().idle_timeout =
        Some(proto::duration(Duration::from_secs(300)));
}

pub(super) fn black_hole(timeout: Duration) -> cluster::Cluster {
    cluster::Cluster {
        name: BLACK_HOLE.to_owned(),
        alt_stat_name: format!("{BLACK_HOLE};"),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: Some(proto::duration(timeout)),
        ..Default::default()
    }
}
