//! Nodes and Namespaces.

use k8s_openapi::api::core::v1;
use lateen_model::{Locality, NamespaceInfo};

use super::Converted;
use crate::{Item, NodeInfo};

/// A Node: its place, and how it is reached from outside.
pub fn node(object: v1::Node) -> Converted {
    let labels = object.metadata.labels.unwrap_or_default();
    let label = |names: &[&str]| names.iter().find_map(|name| labels.get(*name)).cloned().unwrap_or_default();
    let locality = Locality {
        region: label(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
        zone: label(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
        subzone: label(&["topology.istio.io/subzone"]),
    };
    let addresses = object.status.and_then(|status| status.addresses).unwrap_or_default();
    let addresses = addresses
        .into_iter()
        .filter(|address| address.type_ == "ExternalIP" && !address.address.is_empty())
        .map(|address| address.address)
        .collect();
    let name = object.metadata.name.unwrap_or_default();
    Ok(Some(Item::Node(name, NodeInfo { locality: locality.into(), labels, addresses })))
}

/// A Namespace.
pub fn namespace(object: v1::Namespace) -> Converted {
    let info = NamespaceInfo { labels: object.metadata.labels.unwrap_or_default() };
    Ok(Some(Item::Namespace(object.metadata.name.unwrap_or_default(), info)))
}
