//! Workloads: what runs, with or without a proxy of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::{ClusterId, Locality, Namespace, NetworkId};

/// What tells one workload from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct WorkloadKey {
    /// The cluster it runs in.
    pub cluster: ClusterId,
    /// Its namespace.
    pub namespace: Namespace,
    /// The Pod's name.
    pub name: String,
}

/// A Pod, or another thing that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Its identity.
    pub key: WorkloadKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The service account it runs as.
    pub service_account: String,
    /// The locality of its node.
    pub locality: Locality,
    /// Its network.
    pub network: NetworkId,
    /// The name of the controller that made it (`reviews-v1`), its own name where there is none.
    pub owner: String,
    /// Named ports of its containers; a service's `targetPort` may name one.
    pub ports: BTreeMap<String, u16>,
}
