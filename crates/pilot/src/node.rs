//! A proxy as it introduces itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_envoy::envoy::config::core::v3::Node;
use lateen_model::{ClusterId, Locality, Namespace, NetworkId};
use serde_json::{Map, Value};

use crate::Role;

/// What a proxy says of itself: id `sidecar~10.0.0.1~pod.ns~ns.svc.cluster.local` and Istio's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyNode {
    /// The whole id.
    pub id: String,
    /// Sidecar or gateway.
    pub role: Role,
    /// Its addresses: the one of the id, then `INSTANCE_IPS`.
    pub addresses: Vec<IpAddr>,
    /// The Pod's name.
    pub name: String,
    /// The Pod's namespace.
    pub namespace: Namespace,
    /// The Pod's labels, as they were when it started (`LABELS`).
    pub labels: BTreeMap<String, String>,
    /// `CLUSTER_ID`
    pub cluster: ClusterId,
    /// `NETWORK`
    pub network: NetworkId,
    /// `SERVICE_ACCOUNT`
    pub service_account: String,
    /// `ISTIO_VERSION`
    pub version: String,
    /// `LATEEN_SOCKET_MARK`: whether the proxy marks its own connections, by which interception knows them where uid
    /// 1337 does not exist. Marking takes a capability, so a proxy that need not must not be told to.
    pub marks_sockets: bool,
    /// `LATEEN_WORKLOAD_CERTIFICATES`: whether its agent has a certificate for it (SDS names `default` and `ROOTCA`).
    /// Without one there is no mutual TLS on either side. Istio's agents always have one and say nothing.
    pub workload_certificates: bool,
    /// `DNS_CAPTURE`: whether its agent answers the workload's DNS questions, and so gets the name table.
    pub dns_capture: bool,
    /// `LATEEN_ON_DEMAND`: whether it can fetch virtual hosts and clusters when they are called for the first time. That
    /// takes the incremental protocol.
    pub on_demand: bool,
    /// All of its metadata that is text; EnvoyFilters may ask for any.
    pub metadata: BTreeMap<String, String>,
    /// `NODE_NAME`: the node it runs on.
    pub node: String,
    /// `UNPRIVILEGED_POD`: whether ports below 1024 are out of its reach.
    pub unprivileged: bool,
    /// `HTTP10`: whether it accepts HTTP/1.0.
    pub http10: bool,
    /// Where it runs.
    pub locality: Locality,
}

/// Why a node's introduction was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id has another form.
    #[error(
        "node id {0:?} is not of the form TYPE~IP~POD.NAMESPACE~DOMAIN; is the proxy's bootstrap Istio's?"
    )]
    Id(String),
    /// The type of proxy is unknown.
    #[error("node id {0:?} is of a type that is served by nobody here; sidecar and router are")]
    Type(String),
}

impl ProxyNode {
    /// Reads the message that opens a stream.
    pub fn from_proto(node: &Node) -> Result<Self, NodeError> {
        let metadata: Map<String, Value> = node.metadata.clone().map(Into::into).unwrap_or_default();
        let mut parsed = Self::parse(&node.id, &metadata)?;
        if let Some(locality) = &node.locality {
            parsed.locality = Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                subzone: locality.sub_zone.clone(),
            };
        }
        Ok(parsed)
    }

    /// Reads an id and metadata.
    pub fn parse(id: &str, metadata: &Map<String, Value>) -> Result<Self, NodeError> {
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, ip, workload, _domain] = parts[..] else { return Err(NodeError::Id(id.to_owned())) };
        let role = match kind {
            // gRPC introduces itself as the sidecar that it does without.
            "sidecar" if metadata.get("GENERATOR").is_some_and(|name| name == "grpc") => Role::Proxyless,
            "sidecar" => Role::Sidecar,
            "router" => Role::Gateway,
            _ => return Err(NodeError::Type(id.to_owned())),
        };
        let Some((name, namespace)) = workload.rsplit_once('.') else {
            return Err(NodeError::Id(id.to_owned()));
        };
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut addresses: Vec<IpAddr> = ip.parse().into_iter().collect();
        for address in text("INSTANCE_IPS").split(',').filter_map(|address| address.trim().parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let stated_namespace = text("NAMESPACE");
        let labels = metadata.get("LABELS").and_then(Value::as_object).map(|labels| {
            labels
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect::<BTreeMap<_, _>>()
        });
        Ok(Self {
            id: id.to_owned(),
            role,
            addresses,
            name: name.to_owned(),
            namespace: if stated_namespace.is_empty() { namespace } else { &stated_namespace }.into(),
            labels: labels.unwrap_or_default(),
            cluster: text("CLUSTER_ID").into(),
            network: text("NETWORK").into(),
            service_account: text("SERVICE_ACCOUNT"),
            version: text("ISTIO_VERSION"),
            marks_sockets: metadata.contains_key("LATEEN_SOCKET_MARK"),
            workload_certificates: text("LATEEN_WORKLOAD_CERTIFICATES") != "false",
            dns_capture: text("DNS_CAPTURE") == "true",
            on_demand: text("LATEEN_ON_DEMAND") == "true",
            node: text("NODE_NAME"),
            metadata: metadata
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            unprivileged: text("UNPRIVILEGED_POD") == "true",
            http10: text("HTTP10") == "1",
            locality: Locality::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let metadata = serde_json::json!({"LABELS": {"app": "a"}, "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": "10.0.0.1,fd00::1"});
        let metadata = metadata.as_object().unwrap();
        let node =
            ProxyNode::parse("sidecar~10.0.0.1~a-1.b.default~default.svc.cluster.local", metadata).unwrap();
        assert_eq!(
            (node.name.as_str(), node.namespace.as_str(), node.role),
            ("a-1.b", "default", Role::Sidecar)
        );
        assert_eq!(node.addresses.len(), 2);
        assert_eq!(node.labels["app"], "a");
        for (name, id) in [
            ("too short", "sidecar~1~2"),
            ("no namespace", "sidecar~1.1.1.1~pod~d"),
            ("other", "ztunnel~1.1.1.1~a.b~c"),
        ] {
            assert!(ProxyNode::parse(id, metadata).is_err(), "{name}");
        }
    }
}
