//! The bootstrap of the proxy: a pure function from the workload to Envoy's bootstrap in JSON
//! (`envoy.config.bootstrap.v3.Bootstrap`). Our proxy and a stock Envoy get the same one.

use serde_json::{Map, Value, json};

use crate::environment::Workload;

/// What a proxy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Serves the workload beside it.
    Sidecar,
    /// A gateway.
    Router,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// The mark on sockets of the proxy, by which interception lets them pass where uid 1337 does not exist.
pub const PROXY_MARK: u32 = 1337;

/// `ROLE~ADDRESS~POD.NAMESPACE~NAMESPACE.svc.DOMAIN`, Istio's node id.
pub fn node_id(workload: &Workload, role: Role, domain: &str) -> String {
    let address = workload.addresses.first().map(ToString::to_string).unwrap_or_default();
    format!("{}~{address}~{}.{}~{domain}", role.name(), workload.pod, workload.namespace)
}

/// The whole bootstrap. `xds_socket` is where the agent serves xDS; `domain` is `NAMESPACE.svc.cluster.local`;
/// `marks_sockets` says that the proxy's own connections must carry [`PROXY_MARK`].
pub fn bootstrap(
    workload: &Workload,
    role: Role,
    domain: &str,
    xds_socket: &str,
    marks_sockets: bool,
) -> Value {
    let mut bootstrap = json!({
        "node": {
            "id": node_id(workload, role, domain),
            "cluster": service_cluster(workload),
            "metadata": node_metadata(workload, role),
        },
        "admin": {
            "address": socket_address("127.0.0.1", workload.config.proxy_admin_port),
        },
        "layered_runtime": {"layers": [
            {"name": "static", "static_layer": {
                // A budget for regular expressions of the size that Istio's users write.
                "re2.max_program_size.error_level": 32768,
                // A fragment in a path is dropped, not refused, as Istio does.
                "envoy.reloadable_features.http_reject_path_with_fragment": false,
            }},
            {"name": "admin", "admin_layer": {}},
        ]},
        "dynamic_resources": {
            "lds_config": ads(),
            "cds_config": ads(),
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {"clusters": [xds_cluster(xds_socket)]},
    });
    if marks_sockets {
        bootstrap["cluster_manager"] = json!({"upstream_bind_config": {"socket_options": [mark_option()]}});
        // The control plane repeats the mark where a cluster has a bind configuration of its own.
        bootstrap["node"]["metadata"]["LATEEN_SOCKET_MARK"] = json!(PROXY_MARK.to_string());
    }
    bootstrap
}

fn ads() -> Value {
    json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"})
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

/// `SO_MARK` before binding, for every upstream socket.
fn mark_option() -> Value {
    json!({
        "description": "marks the proxy's own connections, which interception lets pass",
        "level": 1,
        "name": 36,
        "int_value": PROXY_MARK,
        "state": "STATE_PREBIND",
    })
}

fn xds_cluster(socket: &str) -> Value {
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    json!({
        "name": "xds-grpc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": "xds-grpc",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    })
}

/// Istio's `--service-cluster`: the canonical name of the workload and its namespace.
fn service_cluster(workload: &Workload) -> String {
    let name = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]
        .iter()
        .find_map(|label| workload.labels.get(*label))
        .unwrap_or(&workload.pod);
    format!("{name}.{}", workload.namespace)
}

/// The keys that Istio's proxies send (`NodeMetadata` in Istio's `pkg/model`).
fn node_metadata(workload: &Workload, role: Role) -> Value {
    let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
    let mut metadata: Map<String, Value> = workload.metadata.clone();
    let entries = [
        ("NAME", json!(workload.pod)),
        ("NAMESPACE", json!(workload.namespace)),
        ("SERVICE_ACCOUNT", json!(workload.service_account)),
        ("INSTANCE_IPS", json!(addresses.join(","))),
        ("LABELS", json!(workload.labels)),
        // There is no certificate for the workload yet: nobody may expect mutual TLS of it.
        ("LATEEN_WORKLOAD_CERTIFICATES", json!("false")),
        // Its stream is incremental, so what it calls can be fetched one by one.
        ("LATEEN_ON_DEMAND", json!("true")),
        ("ISTIO_VERSION", json!(lateen_base::VERSION)),
        ("PROXY_CONFIG", workload.config.raw.clone()),
    ];
    for (key, value) in entries {
        metadata.insert(key.to_owned(), value);
    }
    if role == Role::Router {
        // Gateways without privileges cannot bind ports below 1024; the control plane then names target ports.
        metadata.entry("UNPRIVILEGED_POD").or_insert(json!("true"));
    }
    Value::Object(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn workload() -> Workload {
        let variables = [
            ("POD_NAME", "reviews-v1-abc"),
            ("POD_NAMESPACE", "shop"),
            ("INSTANCE_IP", "10.244.0.7"),
            ("SERVICE_ACCOUNT", "bookinfo-reviews"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ];
        let variables: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Workload::from_variables(&variables, Some("app=\"reviews\"\nversion=\"v1\"\n")).unwrap()
    }

    #[test]
    fn the_node_says_who_it_is() {
        let bootstrap = bootstrap(&workload(), Role::Sidecar, "shop.svc.cluster.local", "/x", false);
        let node = &bootstrap["node"];
        assert_eq!(node["id"], "sidecar~10.244.0.7~reviews-v1-abc.shop~shop.svc.cluster.local");
        assert_eq!(node["cluster"], "reviews.shop");
        assert_eq!(node["metadata"]["LABELS"]["version"], "v1");
        assert_eq!(node["metadata"]["CLUSTER_ID"], "Kubernetes");
        assert_eq!(node["metadata"]["SERVICE_ACCOUNT"], "bookinfo-reviews");
    }

    #[test]
    fn sockets_are_marked_where_the_uid_does_not_tell() {
        let with = |marks| bootstrap(&workload(), Role::Sidecar, "shop.svc.cluster.local", "/x", marks);
        let option = &with(true)["cluster_manager"]["upstream_bind_config"]["socket_options"][0];
        assert_eq!((&option["name"], &option["int_value"]), (&json!(36), &json!(1337)));
        assert_eq!(with(true)["node"]["metadata"]["LATEEN_SOCKET_MARK"], "1337");
        assert_eq!(with(false)["cluster_manager"], Value::Null);
    }

    #[test]
    fn envoy_takes_the_bootstrap() {
        let Some(envoy) = std::env::var_os("ENVOY_BIN") else {
            println!("ENVOY_BIN is not set: not compared with Envoy");
            return;
        };
        for (role, marks) in [(Role::Sidecar, true), (Role::Sidecar, false), (Role::Router, false)] {
            let bootstrap = bootstrap(&workload(), role, "shop.svc.cluster.local", "/tmp/XDS", marks);
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("bootstrap.json");
            std::fs::write(&file, bootstrap.to_string()).unwrap();
            let output = std::process::Command::new(&envoy)
                .args(["--mode", "validate", "-c"])
                .arg(&file)
                .output()
                .unwrap();
            assert!(output.status.success(), "{role:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
