//! What platforms tell the store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lateen_model::{
    ConfigKind, ConfigObject, Endpoint, Kept, Locality, MeshConfig, MeshNetworks, NamespaceInfo, Service,
    Workload,
};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, empty for what lives in none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What kind of thing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A service of the platform.
    Service,
    /// All endpoints of a service, ready-made.
    Endpoints,
    /// Part of a service's endpoints.
    Slice,
    /// Something that runs.
    Pod,
    /// What it runs on.
    Node,
    /// A namespace.
    Namespace,
    /// An object of the mesh's configuration.
    Config(ConfigKind),
    /// The mesh's settings.
    Mesh,
}

/// A thing, trimmed to what the mesh needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A service.
    Service(ObjectKey, Box<Service>),
    /// All endpoints of the service with the same key, ready-made. A platform gives either these or slices and Pods.
    Endpoints(ObjectKey, Vec<Arc<Endpoint>>),
    /// Part of a service's endpoints.
    Slice(ObjectKey, Slice),
    /// Something that runs.
    Pod(ObjectKey, Box<Pod>),
    /// What it runs on, by name.
    Node(String, NodeInfo),
    /// A namespace.
    Namespace(String, NamespaceInfo),
    /// An object of the mesh's configuration; counts from the mesh's own cluster alone.
    Config(ConfigObject),
    /// The mesh's settings; they count from the mesh's own cluster alone.
    Mesh(Box<MeshConfig>, Box<MeshNetworks>),
}

/// A step in a platform's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Came, or is different.
    Apply(Item),
    /// Went.
    Delete(Kind, ObjectKey),
    /// A complete list: what is neither in it nor kept has gone.
    Replace {
        /// Of what.
        kind: Kind,
        /// All of them.
        items: Vec<Item>,
        /// Those that are there but cannot be read: the last good ones stay.
        keep: Vec<ObjectKey>,
    },
    /// Is there but cannot be read; the last good one stays.
    Unreadable(Problem),
    /// The platform is no longer wanted: everything it told of goes.
    Forget,
}

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// Which one.
    pub key: ObjectKey,
    /// Why.
    pub message: String,
}

/// What workloads run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its place.
    pub locality: Kept<Locality>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses as the outside sees them.
    pub addresses: Vec<String>,
}

/// Something that runs, before its node's locality is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The workload; its locality is filled in from the node unless the Pod says its own.
    pub workload: Workload,
    /// The node it runs on.
    pub node: String,
    /// Whether it may get requests.
    pub ready: bool,
    /// Whether it shuts down.
    pub terminating: bool,
}

/// Part of a service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// The service, of the slice's namespace.
    pub service: String,
    /// Port numbers by the service port's name.
    pub ports: Kept<BTreeMap<String, u16>>,
    /// The endpoints.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its addresses, of one family.
    pub addresses: Vec<IpAddr>,
    /// Whether it is up, unless it shuts down.
    pub ready: bool,
    /// Whether it shuts down.
    pub terminating: bool,
    /// The Pod behind it.
    pub pod: Option<Box<str>>,
    /// The node it runs on.
    pub node: Option<Box<str>>,
    /// Its zone, where the node is unknown.
    pub zone: Option<Box<str>>,
    /// Its own name within a headless service, empty if it has none.
    pub host_name: Box<str>,
}

// === impl ObjectKey ===

impl ObjectKey {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

// === impl Item ===

impl Item {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(..) => Kind::Service,
            Self::Endpoints(..) => Kind::Endpoints,
            Self::Slice(..) => Kind::Slice,
            Self::Pod(..) => Kind::Pod,
            Self::Node(..) => Kind::Node,
            Self::Namespace(..) => Kind::Namespace,
            Self::Config(object) => Kind::Config(object.reference().kind),
            Self::Mesh(..) => Kind::Mesh,
        }
    }

    /// Its key among its kind.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(key, _) | Self::Endpoints(key, _) | Self::Slice(key, _) | Self::Pod(key, _) => {
                key.clone()
            }
            Self::Node(name, _) | Self::Namespace(name, _) => ObjectKey::new("", name),
            Self::Config(object) => {
                let reference = object.reference();
                ObjectKey::new(reference.namespace.as_str(), reference.name)
            }
            Self::Mesh(..) => ObjectKey::new("", "mesh"),
        }
    }
}
