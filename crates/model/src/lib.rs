//! The mesh as plain values: what the control plane knows, after every platform's own shapes have been left behind.
//!
//! A [`Snapshot`] is one immutable state of the whole mesh: services, their endpoints, workloads, namespaces and
//! configuration objects, each behind an `Arc`, so that two snapshots share whatever did not change. It is changed
//! only through an [`Edit`], which compares every value with the one it replaces and so returns, beside the new
//! snapshot, the exact [`ChangeSet`] between the two. Everything derives `PartialEq`: equality is the test, the diff
//! and the answer to "did it change".

mod address_range;
mod changes;
mod config;
mod endpoint;
mod identity;
mod kept;
mod names;
mod service;
mod service_entry;
mod snapshot;
mod workload;

pub use address_range::{AddressRange, AddressRangeError};
pub use changes::ChangeSet;
pub use config::{Config, ConfigKey, ConfigKind, ConfigObject, ConfigReference, Configs, Meta, Reported};
pub use endpoint::{Address, Endpoint, EndpointSet, Health};
pub use identity::{Identity, IdentityError};
pub use kept::{Empty, Kept, Pool};
/// The mesh's settings, as Istio writes them in ConfigMap `istio`.
pub use lateen_api::mesh::MeshConfig;
/// The networks of the mesh, as Istio writes them in the same ConfigMap.
pub use lateen_api::networks::MeshNetworks;
pub use names::{ClusterId, Hostname, Locality, Namespace, NetworkId};
pub use service::{
    ExternalAccess, ObjectRef, PortProtocol, Resolution, Service, ServiceKey, ServicePort, TargetPort,
    TrafficDistribution, Visibility,
};
pub use service_entry::{Selected, service_entry, workload_endpoint};
pub use snapshot::{Edit, NamespaceInfo, Snapshot};
pub use workload::{Workload, WorkloadKey, WorkloadKind};
