use bytes::Bytes;
use prost::Message;
use serde_json::{Value, json};

use super::*;
use crate::envoy::config::bootstrap::v3::Bootstrap;
use crate::envoy::config::cluster::v3::{Cluster, cluster};
use crate::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::envoy::extensions::transport_sockets::tls::v3::Secret;
use crate::google::protobuf;
use crate::{from_any, to_any, udpa};

const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn bootstrap() -> Value {
    json!({
        "node": {"id": "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "cluster": "a", "metadata": {
            "LABELS": {"app": "a"}, "numbers": [1, 2.5, null, true]
        }},
        "static_resources": {
            "listeners": [{
                "name": "inbound",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15006}},
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": HCM,
                        "stat_prefix": "inbound",
                        "route_config": {"name": "r", "virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{
                                "match": {"prefix": "/"},
                                "route": {"cluster": "a", "timeout": "1.500s"},
                                "typed_per_filter_config": {
                                    "envoy.filters.http.lua": {
                                        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                                        "type_url": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute",
                                        "value": {"disabled": true}
                                    },
                                    "another": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "3s"}
                                }
                            }]
                        }]},
                        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
                        "use_remote_address": false
                    }
                }]}]
            }],
            "clusters": [{
                "name": "a",
                "type": "STRICT_DNS",
                "connect_timeout": "1s",
                "circuit_breakers": {"thresholds": [{"max_connections": 0}]},
                "upstream_bind_config": {"socket_options": [
                    {"level": "1", "name": "36", "int_value": "1337"}
                ]}
            }]
        }
    })
}

#[test]
fn a_bootstrap_with_nested_any_goes_there_and_back() {
    let message: Bootstrap = from_json(&bootstrap()).unwrap();
    assert_eq!(to_json(&message), bootstrap());

    let resources = message.static_resources.unwrap();
    assert_eq!(
        resources.clusters[0].cluster_discovery_type,
        Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::StrictDns.into()))
    );
    assert_eq!(
        resources.clusters[0].circuit_breakers.as_ref().unwrap().thresholds[0].max_connections,
        Some(0),
        "a wrapper that holds zero is set"
    );
    let Some(crate::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) =
        &resources.listeners[0].filter_chains[0].filters[0].config_type
    else {
        panic!("no typed_config")
    };
    let manager: HttpConnectionManager = from_any(any).unwrap();
    assert_eq!(manager.stat_prefix, "inbound");
    assert_eq!(manager.use_remote_address, Some(false));
}

#[test]
fn both_spellings_of_a_name_are_read() {
    let snake: Cluster = from_json(&json!({"connect_timeout": "0.250s", "lb_policy": "MAGLEV"})).unwrap();
    let camel: Cluster = from_json(&json!({"connectTimeout": "0.250s", "lbPolicy": "MAGLEV"})).unwrap();
    assert_eq!(snake, camel);
    assert_eq!(snake.connect_timeout, Some(protobuf::Duration { seconds: 0, nanos: 250_000_000 }));
}

#[test]
fn errors_name_the_path() {
    for (name, json, path, reason) in [
        (
            "unknown field",
            json!({"static_resorces": {}}),
            "static_resorces",
            "did you mean static_resources?",
        ),
        (
            "unknown field in a list",
            json!({"static_resources": {"clusters": [{"name": "a"}, {"nam": "b"}]}}),
            "static_resources.clusters[1].nam",
            "did you mean name?",
        ),
        (
            "wrong type",
            json!({"static_resources": {"clusters": [{"name": 5}]}}),
            "static_resources.clusters[0].name",
            "expected a string but found the number 5",
        ),
        (
            "enumeration",
            json!({"static_resources": {"clusters": [{"type": "EDDS"}]}}),
            "static_resources.clusters[0].type",
            "\"EDDS\" is none of STATIC, STRICT_DNS",
        ),
        (
            "duration",
            json!({"static_resources": {"clusters": [{"connect_timeout": "soon"}]}}),
            "static_resources.clusters[0].connect_timeout",
            "",
        ),
        (
            "range",
            json!({"admin": {"address": {"socket_address": {"port_value": -1}}}}),
            "admin.address.socket_address.port_value",
            "-1 does not fit",
        ),
        (
            "one of",
            json!({"admin": {"address": {"socket_address": {"port_value": 1, "named_port": "a"}}}}),
            "admin.address.socket_address.named_port",
            "cannot be set together with port_value",
        ),
        ("twice", json!({"static_resources": {}, "staticResources": {}}), "staticResources", "set twice"),
        (
            "inside an Any",
            json!({"bootstrap_extensions": [{"typed_config": {"@type": HCM, "stat_prefixx": "a"}}]}),
            "bootstrap_extensions[0].typed_config.stat_prefixx",
            "did you mean stat_prefix?",
        ),
        (
            "unknown type",
            json!({"bootstrap_extensions": [{"typed_config": {"@type": "type.googleapis.com/a.B"}}]}),
            "bootstrap_extensions[0].typed_config.@type",
            "unknown message type \"a.B\"",
        ),
        (
            "no type",
            json!({"bootstrap_extensions": [{"typed_config": {"a": 1}}]}),
            "bootstrap_extensions[0].typed_config",
            "lacks \"@type\"",
        ),
        (
            "map key",
            json!({"node": {"dynamic_parameters": {"a/b": {"params": {"c": 1}}}}}),
            "node.dynamic_parameters[\"a/b\"].params[\"c\"]",
            "expected a string",
        ),
        ("root", json!([]), "", "expected an object"),
    ] {
        let error = from_json::<Bootstrap>(&json).expect_err(name);
        assert_eq!(error.path, path, "{name}: {error}");
        assert!(error.reason.contains(reason), "{name}: {error}");
    }
}

#[test]
fn reading_agrees_with_encoding_the_typed_message() {
    // Every wire type: what the reader writes must be what prost writes for the message read from it.
    let json = json!({
        "name": "a",
        "per_connection_buffer_limit_bytes": 7,
        "metadata": {"filter_metadata": {"z": {"a": 1}, "b": {}}},
        "lb_subset_config": {"subset_selectors": [{"keys": ["b", "a"]}], "locality_weight_aware": true},
        "ring_hash_lb_config": {"minimum_ring_size": "18446744073709551615"},
        "common_lb_config": {"healthy_panic_threshold": {"value": 12.5}},
        "upstream_bind_config": {"socket_options": [{"level": "-1", "buf_value": "AAEC"}]},
        "dns_lookup_family": "AUTO",
    });
    let bytes = read::encode(own_type::<Cluster>(), &json).unwrap();
    let typed = Cluster::decode(bytes.clone()).unwrap();
    assert_eq!(bytes, typed.encode_to_vec());
    assert_eq!(to_json(&typed)["ring_hash_lb_config"], json["ring_hash_lb_config"]);
    assert_eq!(to_json(&typed)["upstream_bind_config"], json["upstream_bind_config"]);
}

#[test]
fn equal_documents_give_equal_bytes() {
    let any = |order: &mut dyn Iterator<Item = u32>| {
        let labels: serde_json::Map<String, Value> =
            order.map(|number| (format!("k{number}"), number.into())).collect();
        any_from_json(&json!({
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "value": labels,
        }))
        .unwrap()
    };
    let forward = any(&mut (0..50));
    assert_eq!(forward, any(&mut (0..50).rev()));
    assert_eq!(from_any::<udpa::r#type::v1::TypedStruct>(&forward).unwrap().value.unwrap().fields.len(), 50);
}

#[test]
fn an_any_of_an_unknown_type_is_written_as_base64_and_read_again() {
    let any = Any { type_url: "type.googleapis.com/a.B".into(), value: Bytes::from_static(&[1, 2, 255]) };
    let json = any_to_json(&any, Redaction::Nothing);
    assert_eq!(json, json!({"@type": "type.googleapis.com/a.B", "value": "AQL/"}));
    assert_eq!(any_from_json(&json).unwrap(), any);
}

#[test]
fn sensitive_fields_are_hidden_where_asked_for() {
    let secret: Secret = from_json(&json!({
        "name": "default",
        "tls_certificate": {
            "certificate_chain": {"inline_string": "public"},
            "private_key": {"inline_string": "private"},
        }
    }))
    .unwrap();
    let redacted = json!({
        "name": "default",
        "tls_certificate": {
            "certificate_chain": {"inline_string": "public"},
            "private_key": {"inline_string": "[redacted]"},
        }
    });
    assert_eq!(to_json(&secret)["tls_certificate"]["private_key"]["inline_string"], "private");
    assert_eq!(to_json_redacted(&secret), redacted);
    let nested = any_to_json(&to_any(&secret), Redaction::Sensitive);
    assert_eq!(nested["tls_certificate"], redacted["tls_certificate"]);
}

#[test]
fn istios_own_messages_are_known() {
    for name in [
        "istio.v1.auth.IstioCertificateRequest",
        "istio.networking.nds.v1.NameTable",
        "stats.PluginConfig",
        "xds.type.v3.TypedStruct",
        "envoy.admin.v3.ConfigDump",
        "envoy.service.status.v3.ClientConfig",
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    ] {
        assert!(is_known(name), "{name}");
    }
}
