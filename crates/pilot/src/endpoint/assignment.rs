//! One assignment: the endpoints that count, in the order in which a client prefers them.

use std::collections::BTreeMap;

use lateen_model::{Address, ClusterId, Endpoint, EndpointSet, Health, Locality, NetworkId};
use serde_json::json;

use super::networks::{NetworkGateway, Networks};
use super::{MutualTls, Selected};
use crate::preference::{Group, Member, Place, Preference, place_label};
use crate::proto::{core, endpoint};

/// An endpoint of the assignment: one of the service, or a gateway of another network.
struct Candidate<'a> {
    message: endpoint::LbEndpoint,
    of: Of<'a>,
}

enum Of<'a> {
    Endpoint(&'a Endpoint),
    Gateway(&'a NetworkGateway, &'a NetworkId),
}

impl Member for Candidate<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        match self.of {
            Of::Endpoint(endpoint) => match endpoint.labels.get(name).filter(|value| !value.is_empty()) {
                Some(value) => Some(value),
                None if name == "kubernetes.io/hostname" => Some(&endpoint.node),
                None => place_label(name, &endpoint.locality, &endpoint.cluster, &endpoint.network),
            },
            Of::Gateway(gateway, network) => match name {
                "topology.istio.io/cluster" => Some(&gateway.cluster),
                "topology.istio.io/network" => Some(network),
                _ => None,
            },
        }
    }

    fn weight(&self) -> u32 {
        self.message.load_balancing_weight.unwrap_or(1)
    }
}

/// The endpoints of `set` that count. Those that are ill are left out, and so are those that shut down: proxies finish
/// what is under way to an endpoint that goes, and an assignment full of endpoints that may not be used would set off
/// Envoy's panic mode. Where sessions stick, those that shut down stay as such.
pub(super) fn assignment(
    selected: &Selected,
    set: Option<&EndpointSet>,
    preference: Option<(&Place, &Preference)>,
    networks: Option<(&NetworkId, &Networks)>,
) -> endpoint::ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for one in set.into_iter().flat_map(|set| &set.endpoints).filter(|one| counts(selected, one)) {
        localities.entry(&*one.locality).or_default().push(one);
    }
    let mut groups = Vec::with_capacity(localities.len());
    for (locality, endpoints) in localities {
        let members = match networks {
            Some((own, networks)) => across(selected, &endpoints, own, networks),
            None => endpoints.into_iter().filter_map(|one| direct(selected, one, 1)).collect(),
        };
        if !members.is_empty() {
            let weight = members.iter().fold(0, |sum: u32, member| sum.saturating_add(member.weight()));
            groups.push(Group { locality: locality.clone(), priority: 0, weight, members });
        }
    }
    if let Some((place, preference)) = preference {
        groups = preference.apply(place, groups);
    }
    endpoint::ClusterLoadAssignment {
        cluster_name: selected.cluster.clone(),
        endpoints: groups.into_iter().map(of_group).collect(),
        ..Default::default()
    }
}

fn counts(selected: &Selected, one: &Endpoint) -> bool {
    let healthy = match one.health {
        Health::Healthy => true,
        Health::Draining => selected.keeps_draining,
        Health::Unhealthy => false,
    };
    healthy
        && selected.labels.iter().all(|(key, value)| one.labels.get(key) == Some(value))
        && selected.within.as_ref().is_none_or(|cluster| one.cluster == *cluster)
        && selected.node.as_ref().is_none_or(|node| one.node == *node)
        && (selected.takes_names || !matches!(one.address, Address::Name(_)))
        && !(selected.without_sockets && matches!(one.address, Address::Unix(_)))
}

/// Endpoints of the client's own network, and the gateways of others in place of theirs. A gateway carries the weight of
/// all that it stands for, and only what is encrypted: it routes by the server name.
fn across<'a>(
    selected: &Selected,
    endpoints: &[&'a Endpoint],
    own: &NetworkId,
    networks: &'a Networks,
) -> Vec<Candidate<'a>> {
    let mut members = Vec::new();
    let mut weights: BTreeMap<&NetworkGateway, (u32, &'a NetworkId)> = BTreeMap::new();
    for one in endpoints {
        let gateways = networks.of(&one.network, &one.cluster);
        let reachable = own.is_empty() || one.network.is_empty() || one.network == *own;
        if reachable || gateways.is_empty() {
            members.extend(direct(selected, one, networks.scale));
            continue;
        }
        let Some(port) = one.ports.get(&selected.port) else { continue };
        if !speaks_mutual_tls(selected, one, *port) {
            continue;
        }
        let weight = one.weight.max(1).saturating_mul(networks.scale) / gateways.len() as u32;
        for gateway in gateways {
            let entry = weights.entry(gateway).or_insert((0, &one.network));
            entry.0 = entry.0.saturating_add(weight);
        }
    }
    members.extend(weights.into_iter().map(|(gateway, (weight, network))| Candidate {
        message: through(gateway, weight),
        of: Of::Gateway(gateway, network),
    }));
    members
}

fn through(gateway: &NetworkGateway, weight: u32) -> endpoint::LbEndpoint {
    let mut metadata = mutual_tls_metadata();
    workload_metadata(&mut metadata, &format!(";;;;{}", gateway.cluster));
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(crate::proto::address(&gateway.address, gateway.port)),
            ..Default::default()
        })),
        load_balancing_weight: Some(weight.max(1)),
        metadata: Some(metadata),
        ..Default::default()
    }
}

fn speaks_mutual_tls(selected: &Selected, one: &Endpoint, port: u16) -> bool {
    match &selected.mutual {
        MutualTls::Ruled(spoken) => *spoken,
        MutualTls::Offered(policies) => policies.allow(one, port),
    }
}

fn direct<'a>(selected: &Selected, one: &'a Endpoint, scale: u32) -> Option<Candidate<'a>> {
    let (host, port) = host(selected, one)?;
    let mutual = speaks_mutual_tls(selected, one, port);
    if selected.only_mutual && !mutual {
        return None;
    }
    let mut metadata = if mutual { mutual_tls_metadata() } else { core::Metadata::default() };
    if let Some(text) = workload(one) {
        workload_metadata(&mut metadata, &text);
    }
    let message = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        load_balancing_weight: Some(one.weight.max(1).saturating_mul(scale)),
        health_status: match one.health {
            Health::Draining => core::HealthStatus::Draining as i32,
            _ => 0,
        },
        metadata: (!metadata.filter_metadata.is_empty()).then_some(metadata),
    };
    Some(Candidate { message, of: Of::Endpoint(one) })
}

fn host(selected: &Selected, one: &Endpoint) -> Option<(endpoint::Endpoint, u16)> {
    let port = one.ports.get(&selected.port).copied();
    let mut host = endpoint::Endpoint::default();
    match &one.address {
        Address::Ip(ips) => {
            let mut all =
                ips.iter().map(|ip| crate::proto::address(&ip.to_string(), port.unwrap_or_default()));
            port?;
            host.address = Some(all.next()?);
            host.additional_addresses =
                all.map(|address| endpoint::endpoint::AdditionalAddress { address: Some(address) }).collect();
        }
        Address::Name(name) => host.address = Some(crate::proto::address(name, port?)),
        Address::Unix(path) => {
            let pipe = core::Pipe { path: path.clone(), ..Default::default() };
            host.address = Some(core::Address { address: Some(core::address::Address::Pipe(pipe)) });
            // A path is no name that requests could be rewritten to.
            let name = selected.cluster.rsplit('|').next().unwrap_or_default();
            name.clone_into(&mut host.hostname);
        }
    }
    Some((host, port.unwrap_or_default()))
}

fn mutual_tls_metadata() -> core::Metadata {
    let mut metadata = core::Metadata::default();
    if let serde_json::Value::Object(fields) = json!({"tlsMode": "istio"}) {
        metadata.filter_metadata.insert("envoy.transport_socket_match".to_owned(), fields.into());
    }
    metadata
}

fn workload_metadata(metadata: &mut core::Metadata, text: &str) {
    if let serde_json::Value::Object(fields) = json!({"workload": text}) {
        metadata.filter_metadata.insert("istio".to_owned(), fields.into());
    }
}

/// What telemetry wants to know of a workload, as Istio writes it: name, namespace, canonical service, its revision and
/// the cluster.
fn workload(one: &Endpoint) -> Option<String> {
    let label = |names: &[&str]| {
        let found = names.iter().find_map(|name| one.labels.get(*name)).filter(|value| !value.is_empty());
        found.map(String::as_str)
    };
    let namespace = one.workload.as_ref().map(|key| key.namespace.as_str()).unwrap_or_default();
    let name = one.workload.as_ref().map(|key| owner(&key.name, one)).unwrap_or_default();
    let canonical =
        label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(name);
    if canonical.is_empty() {
        return None;
    }
    let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    // Who reads it assumes `latest` where nothing is said.
    let revision = revision.filter(|revision| *revision != "latest").unwrap_or_default();
    let cluster: &ClusterId = &one.cluster;
    Some(format!("{name};{namespace};{canonical};{revision};{cluster}"))
}

/// The name of what made a Pod, by the labels that controllers give to their Pods.
fn owner<'a>(pod: &'a str, one: &'a Endpoint) -> &'a str {
    if let Some(name) = one.labels.get("service.istio.io/workload-name").filter(|name| !name.is_empty()) {
        return name;
    }
    if let Some(hash) = one.labels.get("pod-template-hash") {
        let made = pod.rsplit_once('-').map_or(pod, |(set, _)| set);
        return made.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-')).unwrap_or(pod);
    }
    if one.labels.contains_key("controller-revision-hash") {
        return pod.rsplit_once('-').map_or(pod, |(set, _)| set);
    }
    let job = ["batch.kubernetes.io/job-name", "job-name"].iter().find_map(|name| one.labels.get(*name));
    job.map_or(pod, String::as_str)
}

fn of_group(group: Group<Candidate<'_>>) -> endpoint::LocalityLbEndpoints {
    endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: group.locality.region,
            zone: group.locality.zone,
            sub_zone: group.locality.subzone,
        }),
        lb_endpoints: group.members.into_iter().map(|member| member.message).collect(),
        load_balancing_weight: Some(group.weight),
        priority: group.priority,
        ..Default::default()
    }
}
