//! Routes (RDS): a configuration a port, put together from virtual hosts that are made and kept one by one.

mod action;
mod gateway;
mod hash;
mod matching;
mod names;
mod sidecar;
mod swap;
mod virtual_host;

use std::sync::Arc;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use lateen_envoy::type_urls;

use crate::encoded::{Cache, Encoded};
use crate::proto::route;
use crate::world::World;
use crate::{Role, cluster, on_demand};
pub(crate) use virtual_host::{Fallback, Scope, VirtualHostKey};

/// One route configuration, as the keys of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) name: String,
    pub(crate) hosts: Vec<Arc<VirtualHostKey>>,
    /// Whether a port that a request names counts for nothing when hosts are compared.
    pub(crate) ignore_port: bool,
    /// Whether hosts are not part of it but asked for.
    pub(crate) on_demand: bool,
}

impl RouteKey {
    /// A table of these hosts.
    pub(crate) fn new(name: String, hosts: Vec<VirtualHostKey>) -> Self {
        let hosts = hosts.into_iter().map(Arc::new).collect();
        Self { name, hosts, ignore_port: false, on_demand: false }
    }
}

/// The route configurations of a class.
pub(crate) fn plan(world: &World<'_>) -> Vec<RouteKey> {
    match world.class.role {
        Role::Sidecar => sidecar::plan(world),
        Role::Gateway => gateway::plan(world),
        Role::Proxyless => crate::proxyless::plan_routes(world),
    }
}

pub(crate) use action::FAULT;
pub(crate) use names::{Aliases, is_alias};
pub(crate) use sidecar::{HTTP_PROXY, called_names, service_host, sniffed_name};
pub(crate) use swap::Swap;
pub(crate) use virtual_host::gateway_name;

/// Puts a configuration together from its encoded virtual hosts, which are copied and not decoded: in protobuf's
/// encoding, a message followed by more of its fields is a message. Keys of hosts that are known already take the place
/// of their equals.
pub(crate) fn assemble(key: &mut RouteKey, cache: &mut Cache<Arc<VirtualHostKey>>) -> Encoded {
    /// `RouteConfiguration.virtual_hosts`
    const VIRTUAL_HOSTS: u32 = 2;
    let own = key.hosts.iter_mut().filter(|_| !key.on_demand);
    let hosts: Vec<Arc<Encoded>> = own
        .map(|host| {
            let (kept, encoded) = cache.get_kept(host);
            *host = kept;
            encoded
        })
        .collect();
    let frame = route::RouteConfiguration {
        name: key.name.clone(),
        ignore_port_in_host_matching: key.ignore_port,
        vhds: key.on_demand.then(on_demand::virtual_hosts),
        // Clusters come and go on their own; a missing one answers 503 instead of refusing the whole table.
        validate_clusters: Some(false),
        max_direct_response_body_size_bytes: Some(1024 * 1024),
        ..Default::default()
    };
    let size = frame.encoded_len() + hosts.iter().map(|host| host.bytes.len() + 8).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(frame.encode_to_vec());
    for host in &hosts {
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut bytes);
        encode_varint(host.bytes.len() as u64, &mut bytes);
        bytes.extend_from_slice(&host.bytes);
    }
    Encoded::resource_bytes(type_urls::ROUTE, key.name.as_str(), &bytes)
}

/// The table of an application's port: everything to the application.
pub(crate) fn inbound(cluster_name: &str, virtual_host: &str, operation: &str) -> route::RouteConfiguration {
    let mut action = action::to_cluster(cluster_name.to_owned());
    action.retry_policy = None;
    route::RouteConfiguration {
        name: cluster_name.to_owned(),
        validate_clusters: Some(false),
        virtual_hosts: vec![route::VirtualHost {
            name: virtual_host.to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                name: "default".to_owned(),
                r#match: Some(matching::everything()),
                decorator: Some(route::Decorator { operation: operation.to_owned(), ..Default::default() }),
                action: Some(route::route::Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The cluster that a fallback stands for.
pub(crate) fn passthrough_action() -> route::RouteAction {
    let mut action = action::to_cluster(cluster::PASSTHROUGH.to_owned());
    action.retry_policy = None;
    action
}
