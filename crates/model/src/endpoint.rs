//! Endpoints: what stands behind a service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::{ClusterId, Hostname, Kept, Locality, NetworkId, ServiceKey, WorkloadKey};

/// The address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Address {
    /// IP addresses of one workload: one, or one of each family.
    Ip(Vec<IpAddr>),
    /// A name that the proxy resolves.
    Name(Hostname),
    /// The path of a Unix socket.
    Unix(String),
}

/// Whether an endpoint may be given requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Health {
    /// Yes.
    #[default]
    Healthy,
    /// Not now.
    Unhealthy,
    /// Shutting down: no new requests; those under way may end.
    Draining,
}

/// One endpoint of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// The number of each port, by the *service port's* name.
    pub ports: Kept<BTreeMap<String, u16>>,
    /// The workload's labels; subsets select by them.
    pub labels: Kept<BTreeMap<String, String>>,
    /// Where it runs.
    pub locality: Kept<Locality>,
    /// The network that its address belongs to.
    pub network: NetworkId,
    /// The cluster that it runs in.
    pub cluster: ClusterId,
    /// Whether it may be used.
    pub health: Health,
    /// Share of the load relative to its fellows; 0 counts as 1.
    pub weight: u32,
    /// The workload's service account, empty if unknown.
    pub service_account: String,
    /// The workload, where the platform knows it.
    pub workload: Option<Arc<WorkloadKey>>,
    /// The node it runs on, empty if unknown.
    pub node: String,
    /// Its own name within a headless service (`spec.hostname` of a Pod), empty if it has none.
    pub host_name: String,
}

impl Endpoint {
    /// A healthy endpoint of which nothing but the address is known.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            ports: Kept::default(),
            labels: Kept::default(),
            locality: Kept::default(),
            network: NetworkId::default(),
            cluster: ClusterId::default(),
            health: Health::Healthy,
            weight: 1,
            service_account: String::new(),
            workload: None,
            node: String::new(),
            host_name: String::new(),
        }
    }
}

/// All endpoints of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    /// The service.
    pub service: ServiceKey,
    /// Its endpoints, in an order that does not depend on arrival (the edit sorts them).
    pub endpoints: Vec<Arc<Endpoint>>,
}
