//! An object of any kind that the mesh reads, from its JSON: for files and for simulations, by the functions that
//! watches use.

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use lateen_model::ConfigKind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Converted, KubernetesOptions, convert};

/// What the object becomes; nothing where its kind is none of the mesh's.
pub fn object(value: Value, options: &KubernetesOptions) -> Converted {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text("apiVersion"), text("kind"));
    let cluster = &options.cluster;
    match (group.as_str(), kind.as_str()) {
        ("v1", "Service") => convert::service(read::<v1::Service>(value)?, cluster, &options.domain),
        ("v1", "Pod") => convert::pod(read::<v1::Pod>(value)?, cluster),
        ("v1", "Node") => convert::node(read::<v1::Node>(value)?),
        ("v1", "Namespace") => convert::namespace(read::<v1::Namespace>(value)?),
        ("v1", "ConfigMap") if value["metadata"]["name"] == options.config_map() => {
            convert::mesh(read::<v1::ConfigMap>(value)?)
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => convert::slice(read::<EndpointSlice>(value)?),
        (group, kind) if configures(group, kind) => match ConfigKind::parse(kind) {
            Some(kind) => convert::config(kind, read::<DynamicObject>(value)?, &options.revision),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Whether a kind is one of the mesh's configuration. Names of kinds alone do not tell: `Gateway` is two things.
fn configures(group: &str, kind: &str) -> bool {
    group.contains(".istio.io/")
        || (group == "networking.k8s.io/v1" && matches!(kind, "Ingress" | "IngressClass"))
        || (group.starts_with("gateway.networking.k8s.io/") && kind == "HTTPRoute")
}

fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, String> {
    // Optional for who writes files, mandatory for the types of the API.
    if value["kind"] == "EndpointSlice" && value.get("addressType").is_none() {
        value["addressType"] = "IPv4".into();
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}
