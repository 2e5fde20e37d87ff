//! Workloads: what runs, with or without a proxy of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::{ClusterId, Kept, Locality, Namespace, NetworkId};

/// What tells one workload from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct WorkloadKey {
    /// The cluster it runs in.
    pub cluster: ClusterId,
    /// Its namespace.
    pub namespace: Namespace,
    /// What it is: a Pod and a WorkloadEntry may have the same name.
    pub kind: WorkloadKind,
    /// The object's name.
    pub name: String,
}

/// What a workload is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum WorkloadKind {
    /// A Pod, or what another platform runs.
    #[default]
    Pod,
    /// A WorkloadEntry.
    WorkloadEntry,
}

/// A Pod, or another thing that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Its identity.
    pub key: WorkloadKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Kept<BTreeMap<String, String>>,
    /// Its annotations.
    pub annotations: Kept<BTreeMap<String, String>>,
    /// The service account it runs as.
    pub service_account: String,
    /// The locality of its node.
    pub locality: Kept<Locality>,
    /// Its network.
    pub network: NetworkId,
    /// The name of the controller that made it (`reviews-v1`), its own name where there is none.
    pub owner: String,
    /// The kind of that controller (`Deployment`), that of the workload itself where there is none.
    pub owner_kind: String,
    /// Whether it shares its node's network, whose address it has then.
    pub host_network: bool,
    /// The node it runs on, empty if unknown.
    pub node: String,
    /// Named ports of its containers; a service's `targetPort` may name one.
    pub ports: Kept<BTreeMap<String, u16>>,
}

impl Workload {
    /// A workload of which nothing but the name is known.
    pub fn new(key: WorkloadKey) -> Self {
        Self {
            owner: key.name.clone(),
            owner_kind: format!("{:?}", key.kind),
            key,
            addresses: Vec::new(),
            labels: Kept::default(),
            annotations: Kept::default(),
            service_account: String::new(),
            locality: Kept::default(),
            network: NetworkId::default(),
            host_network: false,
            node: String::new(),
            ports: Kept::default(),
        }
    }
}
