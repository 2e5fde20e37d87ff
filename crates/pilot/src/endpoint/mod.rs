//! Endpoints (EDS): what stands behind each cluster, by locality.

use std::collections::BTreeMap;

use lateen_api::networking::DestinationRule;
use lateen_model::{Address, Config, Endpoint, EndpointSet, Health, Locality, Resolution, Service};

use lateen_envoy::type_urls;

use crate::cluster::outbound_name;
use crate::encoded::{Encoded, Key};
use crate::proto::{core, endpoint};
use crate::rules;
use crate::shared::Shared;
use crate::world::World;

/// All that a cluster's endpoints are made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) cluster: String,
    /// The service port's name: endpoints know their ports by it.
    pub(crate) port: String,
    /// The subset's name and the rules that define it.
    pub(crate) subset: Option<(String, Vec<Shared<Config<DestinationRule>>>)>,
    pub(crate) set: Option<Shared<EndpointSet>>,
}

impl Key for EndpointKey {
    fn generate(&self) -> Encoded {
        let labels = self.subset.as_ref().and_then(|(name, rules)| {
            rules::subsets(rules).into_iter().find(|subset| subset.name == *name).map(|subset| &subset.labels)
        });
        let message = assignment(&self.cluster, &self.port, labels, self.set.as_deref());
        Encoded::resource(type_urls::ENDPOINT, self.cluster.as_str(), &message)
    }
}

/// The endpoints of one service's clusters, as far as these ask for them.
pub(crate) fn plan_service(world: &World<'_>, service: &Service) -> Vec<EndpointKey> {
    if !matches!(service.resolution, Resolution::ClientSide | Resolution::Static) {
        return Vec::new();
    }
    let found = world.rules.of(service, &world.class.namespace);
    let set = world.snapshot.endpoints(&service.key).map(Shared::of);
    let mut keys = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol != lateen_model::PortProtocol::Udp) {
        let subsets =
            rules::subsets(&found).into_iter().map(|subset| Some((subset.name.clone(), found.clone())));
        for subset in std::iter::once(None).chain(subsets) {
            let name = subset.as_ref().map_or("", |(name, _)| name);
            keys.push(EndpointKey {
                cluster: outbound_name(port.number, name, &service.key.hostname),
                port: port.name.clone(),
                subset,
                set: set.clone(),
            });
        }
    }
    keys
}

/// The endpoints of `set` that have the port and the labels. Those that shut down or are unhealthy are left out:
/// proxies finish what is under way to an endpoint that goes, and an assignment full of endpoints that may not be used
/// would set off Envoy's panic mode.
pub(crate) fn assignment(
    cluster: &str,
    port: &str,
    labels: Option<&BTreeMap<String, String>>,
    set: Option<&EndpointSet>,
) -> endpoint::ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<endpoint::LbEndpoint>> = BTreeMap::new();
    for candidate in set.into_iter().flat_map(|set| &set.endpoints) {
        let selected = labels
            .is_none_or(|labels| labels.iter().all(|(key, value)| candidate.labels.get(key) == Some(value)));
        if !selected || candidate.health != Health::Healthy {
            continue;
        }
        if let Some(message) = lb_endpoint(candidate, port) {
            localities.entry(&candidate.locality).or_default().push(message);
        }
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities
            .into_iter()
            .map(|(locality, endpoints)| of_locality(locality, endpoints))
            .collect(),
        ..Default::default()
    }
}

fn of_locality(locality: &Locality, endpoints: Vec<endpoint::LbEndpoint>) -> endpoint::LocalityLbEndpoints {
    let weight = endpoints.iter().map(|endpoint| endpoint.load_balancing_weight.unwrap_or(1)).sum();
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.subzone.clone(),
        }),
        lb_endpoints: endpoints,
        load_balancing_weight: Some(weight),
        ..Default::default()
    }
}

fn lb_endpoint(candidate: &Endpoint, port: &str) -> Option<endpoint::LbEndpoint> {
    let socket = |address: &str| {
        let port = *candidate.ports.get(port)?;
        Some(crate::proto::address(address, port))
    };
    let (address, additional) = match &candidate.address {
        Address::Ip(ips) => {
            let mut ips = ips.iter().map(|ip| socket(&ip.to_string()));
            let first = ips.next()??;
            (first, ips.flatten().collect())
        }
        Address::Name(host) => (socket(host)?, Vec::new()),
        Address::Unix(path) => {
            let pipe = core::Pipe { path: path.clone(), ..Default::default() };
            (core::Address { address: Some(core::address::Address::Pipe(pipe)) }, Vec::new())
        }
    };
    let additional = additional
        .into_iter()
        .map(|address| endpoint::endpoint::AdditionalAddress { address: Some(address) });
    Some(endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            additional_addresses: additional.collect(),
            ..Default::default()
        })),
        load_balancing_weight: Some(candidate.weight.max(1)),
        ..Default::default()
    })
}
