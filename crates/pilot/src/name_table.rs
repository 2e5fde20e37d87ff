//! The DNS name table (`istio.networking.nds.v1.NameTable`): what an agent answers names from.
//!
//! Every service is a part of its own: a small table with the addresses of the service, and for a headless one also with
//! the names of its Pods (Kubernetes' "DNS for Services and Pods"). Agents get all parts in one resource, as Istio's
//! expect it; tables merge by concatenating their encodings, so nothing is encoded anew but the part that changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_envoy::istio::networking::nds::v1::{NameTable, name_table::NameInfo};
use lateen_envoy::{Any, TypeUrl};
use lateen_model::{
    Address, AddressRange, ClusterId, Endpoint, EndpointSet, Health, NetworkId, Resolution, Service,
};
use prost::Message;

use crate::encoded::{Encoded, Key};
use crate::shared::Shared;
use crate::world::World;

/// The type's URL.
pub const NAME_TABLE: &str = <NameTable as TypeUrl>::TYPE_URL;

/// The name of the only resource; Istio's has none.
const WHOLE: &str = "";

/// All that a service's names are made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NameKey {
    service: Shared<Service>,
    /// Whose virtual addresses count.
    cluster: ClusterId,
    /// Which endpoints can be reached by their own addresses.
    network: NetworkId,
    /// Of a headless service.
    endpoints: Option<Shared<EndpointSet>>,
}

/// The names of a service as a class sees it; nothing for what has no address.
pub(crate) fn plan_service(world: &World<'_>, service: &Arc<Service>) -> Option<NameKey> {
    let headless = is_headless(service);
    let endpoints = world.snapshot.endpoints(&service.key).filter(|_| headless);
    let cluster = &world.class.cluster;
    let has_addresses = addresses(service, cluster).next().is_some();
    if !has_addresses && endpoints.is_none_or(|set| set.endpoints.is_empty()) {
        return None;
    }
    Some(NameKey {
        service: Shared::of(service),
        cluster: cluster.clone(),
        network: world.class.network.clone(),
        endpoints: endpoints.map(Shared::of),
    })
}

/// Puts the table together.
pub(crate) fn assemble<'a>(parts: impl IntoIterator<Item = &'a Arc<Encoded>>) -> Encoded {
    let mut bytes = Vec::new();
    for part in parts {
        // What we encoded ourselves can be read.
        if let Ok(any) = Any::decode(part.bytes.clone()) {
            bytes.extend_from_slice(&any.value);
        }
    }
    Encoded::resource_bytes(NAME_TABLE, WHOLE, &bytes)
}

impl Key for NameKey {
    fn generate(&self) -> Encoded {
        let table = NameTable { table: self.table(), ..NameTable::default() };
        Encoded::resource(NAME_TABLE, self.service.hostname().as_str(), &table)
    }
}

impl NameKey {
    fn table(&self) -> BTreeMap<String, NameInfo> {
        let service = &*self.service;
        let mut table = BTreeMap::new();
        let mut ips: Vec<String> = addresses(service, &self.cluster).map(|ip| ip.to_string()).collect();
        for endpoint in self.endpoints.iter().flat_map(|set| &set.endpoints) {
            let Some(own) = self.usable(endpoint) else { continue };
            if !endpoint.host_name.is_empty() {
                self.pod(endpoint, &own, &mut table);
            }
            ips.extend(own);
        }
        if !ips.is_empty() {
            let mut info = self.info(ips, service.short_name().to_owned());
            if info.shortname.is_empty() {
                info.namespace = String::new();
            }
            table.insert(service.hostname().to_string(), info);
        }
        table
    }

    /// The addresses of an endpoint that clients can reach, and may be told of.
    fn usable(&self, endpoint: &Endpoint) -> Option<Vec<String>> {
        let Address::Ip(ips) = &endpoint.address else { return None };
        let healthy = endpoint.health == Health::Healthy || self.service.publish_not_ready;
        // An unknown network is everybody's.
        let same_network = endpoint.network == self.network
            || endpoint.network.as_str().is_empty()
            || self.network.as_str().is_empty();
        (healthy && same_network).then(|| ips.iter().map(ToString::to_string).collect())
    }

    /// `mysql-0.mysql.default.svc.cluster.local`. Two clusters may have a Pod of the same name: the client's counts.
    fn pod(&self, endpoint: &Endpoint, ips: &[String], table: &mut BTreeMap<String, NameInfo>) {
        let service = &*self.service;
        let name = format!("{}.{}", endpoint.host_name, service.hostname());
        if endpoint.cluster == self.cluster || !table.contains_key(&name) {
            let short = format!("{}.{}", endpoint.host_name, service.short_name());
            table.insert(name, self.info(ips.to_vec(), short));
        }
    }

    fn info(&self, ips: Vec<String>, shortname: String) -> NameInfo {
        NameInfo {
            ips,
            registry: if self.service.source.kind == "Service" { "Kubernetes" } else { "External" }.into(),
            shortname,
            namespace: self.service.key.namespace.to_string(),
            ..NameInfo::default()
        }
    }
}

/// The single virtual addresses, else those that the mesh gave. What passes through to where the client wanted to go
/// cannot be given an address of our own.
fn addresses<'a>(service: &'a Service, cluster: &ClusterId) -> impl Iterator<Item = IpAddr> + use<'a> {
    let own = service.addresses_in(cluster);
    let given = match own.is_empty() && service.resolution != Resolution::Passthrough {
        true => service.auto_addresses.as_slice(),
        false => &[],
    };
    own.iter().filter_map(AddressRange::single).chain(given.iter().copied())
}

fn is_headless(service: &Service) -> bool {
    service.is_headless() && service.addresses.is_empty() && !service.ports.is_empty()
}
