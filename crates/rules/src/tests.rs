use lateen_envoy::json::from_json;
use prost::Message as _;
use serde_json::{Value, json};

use super::check;

fn path<M: prost::Message + lateen_envoy::TypeUrl + Default>(value: Value) -> Option<String> {
    let message: M = from_json(&value).unwrap();
    check(&message).err().map(|violation| violation.path)
}

#[test]
fn each_kind_of_rule() {
    use lateen_envoy::envoy::config::cluster::v3::Cluster;
    for (name, value, expect) in [
        ("nothing wrong", json!({"name": "c"}), None),
        ("empty name", json!({}), Some("name")),
        ("duration of zero", json!({"name": "c", "connect_timeout": "0s"}), Some("connect_timeout")),
        ("duration", json!({"name": "c", "connect_timeout": "0.001s"}), None),
        (
            "wrapped number",
            json!({"name": "c", "per_connection_buffer_limit_bytes": 0, "common_lb_config": {"healthy_panic_threshold": {"value": 101}}}),
            Some("common_lb_config.healthy_panic_threshold.value"),
        ),
        (
            "inside a list",
            json!({"name": "c", "load_assignment": {"cluster_name": "c", "endpoints": [{}, {"lb_endpoints": [{"load_balancing_weight": 0}]}]}}),
            Some("load_assignment.endpoints[1].lb_endpoints[0].load_balancing_weight"),
        ),
        (
            "required message",
            json!({"name": "c", "health_checks": [{"tcp_health_check": {}, "timeout": "1s", "interval": "1s", "healthy_threshold": 1}]}),
            Some("health_checks[0].unhealthy_threshold"),
        ),
        (
            "required oneof",
            json!({"name": "c", "health_checks": [{"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}]}),
            Some("health_checks[0]"),
        ),
        (
            "value of a map",
            json!({"name": "c", "lb_subset_config": {"locality_weight_aware": true, "subset_selectors": [{"single_host_per_subset": true, "fallback_policy": 9}]}}),
            Some("lb_subset_config.subset_selectors[0].fallback_policy"),
        ),
    ] {
        assert_eq!(path::<Cluster>(value).as_deref(), expect, "{name}");
    }
}

#[test]
fn headers_and_lists_of_routes() {
    use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
    let table = |host: Value| json!({"virtual_hosts": [host]});
    for (name, value, expect) in [
        ("nothing wrong", table(json!({"name": "v", "domains": ["*"]})), None),
        ("no domain", table(json!({"name": "v"})), Some("virtual_hosts[0].domains")),
        (
            "empty domain",
            table(json!({"name": "v", "domains": ["a\nb"]})),
            Some("virtual_hosts[0].domains[0]"),
        ),
        (
            "no action",
            table(json!({"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}}]})),
            Some("virtual_hosts[0].routes[0]"),
        ),
        (
            "header name",
            table(json!({"name": "v", "domains": ["*"], "request_headers_to_remove": ["a\nb"]})),
            Some("virtual_hosts[0].request_headers_to_remove[0]"),
        ),
        (
            "status",
            table(
                json!({"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 99}}]}),
            ),
            Some("virtual_hosts[0].routes[0].direct_response.status"),
        ),
    ] {
        assert_eq!(path::<RouteConfiguration>(value).as_deref(), expect, "{name}");
    }
}

#[test]
fn numbers_are_within_their_range() {
    use lateen_envoy::envoy::config::core::v3::{SocketAddress, socket_address::PortSpecifier};
    let address = |port| SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    assert_eq!(check(&address(65_535)), Ok(()));
    let broken = check(&address(65_536)).unwrap_err();
    assert_eq!(broken.path, "port_value");
    assert!(broken.message.contains("at most 65535"), "{broken:?}");
    // What is no message breaks no rule here: the decoder says that.
    assert_eq!(super::check_bytes("x/envoy.config.core.v3.SocketAddress", b"\xff"), Ok(()));
    assert_eq!(super::check_bytes("x/no.such.Message", &address(0).encode_to_vec()), Ok(()));
}

#[test]
fn two_bounds_may_exclude_what_lies_between_them() {
    use lateen_envoy::envoy::config::core::v3::QuicKeepAliveSettings;
    let interval = |text: &str| path::<QuicKeepAliveSettings>(json!({"initial_interval": text}));
    assert_eq!(interval("0s"), None);
    assert_eq!(interval("0.0001s").as_deref(), Some("initial_interval"));
    assert_eq!(interval("0.002s"), None);
}
