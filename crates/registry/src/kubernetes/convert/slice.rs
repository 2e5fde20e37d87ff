//! EndpointSlices.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{Converted, key, number};
use crate::{Item, Slice, SliceEndpoint};

/// The service that a slice belongs to.
const SERVICE: &str = "kubernetes.io/service-name";
/// On slices that a multi-cluster controller imported: they belong to another kind of service.
const IMPORTED: &str = "multicluster.kubernetes.io/service-name";

/// An EndpointSlice; one that belongs to no service is none of ours.
pub fn slice(object: EndpointSlice) -> Converted {
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get(SERVICE)).cloned() else { return Ok(None) };
    if labels.is_some_and(|labels| labels.contains_key(IMPORTED)) {
        return Ok(None);
    }
    let ports = object
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| Some((port.name.unwrap_or_default(), number(port.port?))))
        .collect();
    // Names (`addressType: FQDN`) are no addresses and fall out here.
    let endpoints = object
        .endpoints
        .into_iter()
        .flatten()
        .map(endpoint)
        .filter(|endpoint| !endpoint.addresses.is_empty())
        .collect();
    Ok(Some(Item::Slice(key(&object.metadata), Slice { service, ports, endpoints })))
}

fn endpoint(endpoint: Endpoint) -> SliceEndpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    SliceEndpoint {
        addresses: endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        // Unknown means ready (Kubernetes' API reference, EndpointConditions).
        ready: conditions.ready.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        pod: endpoint
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name)
            .map(Into::into),
        node: endpoint.node_name.map(Into::into),
        zone: endpoint.zone.map(Into::into),
        host_name: endpoint.hostname.unwrap_or_default().into(),
    }
}
