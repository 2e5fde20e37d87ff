use std::cell::RefCell;

use lateen_envoy::json::from_json;
use serde_json::{Value, json};

use super::*;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

fn socket(kind: &str, mut value: Value) -> core::TransportSocket {
    value["@type"] = format!("{TLS}.{kind}").into();
    from_json(&json!({"name": "envoy.transport_sockets.tls", "typed_config": value})).unwrap()
}

fn down(value: Value) -> Result<Arc<DownstreamTls>> {
    let warnings = RefCell::new(Vec::new());
    match downstream_transport(
        &Context::new("Listener l", &warnings),
        Some(socket("DownstreamTlsContext", value)),
    )? {
        DownstreamTransport::Tls(tls) => Ok(tls),
        DownstreamTransport::Plain => panic!("TLS became plain text"),
    }
}

fn up(value: Value) -> Result<Arc<UpstreamTls>> {
    let warnings = RefCell::new(Vec::new());
    match upstream_transport(
        &Context::new("Cluster c", &warnings),
        Some(socket("UpstreamTlsContext", value)),
    )? {
        UpstreamTransport::Tls(tls) => Ok(tls),
        other => panic!("TLS became {other:?}"),
    }
}

fn certificate_json() -> Value {
    json!({"certificate_chain": {"filename": "/a"}, "private_key": {"inline_string": "k"}})
}

#[test]
fn defaults_are_envoys() {
    let server = down(json!({"common_tls_context": {"tls_certificates": [certificate_json()]}})).unwrap();
    assert_eq!(
        (server.common.min_version, server.common.max_version),
        (TlsVersion::Tls12, TlsVersion::Tls13)
    );
    assert!(!server.require_client_certificate && server.stateful_resumption);
    assert!(matches!(server.tickets, TicketKeys::Own));
    assert_eq!(server.session_timeout, Duration::from_secs(7200));
    let client = up(json!({"sni": "a"})).unwrap();
    assert_eq!(
        (client.common.min_version, client.common.max_version),
        (TlsVersion::Tls12, TlsVersion::Tls12)
    );
    assert_eq!((client.max_sessions, client.server_name.as_deref()), (1, Some("a")));
    assert!(client.common.validation.context.is_none() && client.common.validation.secret.is_none());
}

#[test]
fn what_cannot_be_obeyed_is_refused_by_path() {
    let with = |value: Value| {
        let mut common = json!({"tls_certificates": [certificate_json()]});
        for (key, value) in value.as_object().unwrap() {
            common[key] = value.clone();
        }
        json!({"common_tls_context": common})
    };
    let validation = |value: Value| with(json!({"validation_context": value}));
    const ROOT: &str = "typed_config.common_tls_context";
    for (name, value, path) in [
        ("no certificate", json!({}), ""),
        (
            "version 1.1",
            with(json!({"tls_params": {"tls_maximum_protocol_version": "TLSv1_1"}})),
            ".tls_params.tls_maximum_protocol_version",
        ),
        (
            "no version left",
            with(
                json!({"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_2"}}),
            ),
            ".tls_params.tls_minimum_protocol_version",
        ),
        (
            "no key",
            json!({"common_tls_context": {"tls_certificates": [{"certificate_chain": {"filename": "/a"}}]}}),
            ".tls_certificates[0].private_key",
        ),
        (
            "a password",
            json!({"common_tls_context": {"tls_certificates": [{"password": {"filename": "/a"}}]}}),
            ".tls_certificates[0].password",
        ),
        ("empty ALPN", with(json!({"alpn_protocols": ["h2", ""]})), ".alpn_protocols[1]"),
        (
            "a wrong digest",
            validation(json!({"verify_certificate_hash": ["zz"]})),
            ".validation_context.verify_certificate_hash[0]",
        ),
        (
            "a wrong pin",
            validation(json!({"verify_certificate_spki": ["AAAA"]})),
            ".validation_context.verify_certificate_spki[0]",
        ),
        (
            "no kind of name",
            validation(json!({"match_typed_subject_alt_names": [{"matcher": {"exact": "a"}}]})),
            ".validation_context.match_typed_subject_alt_names[0].san_type",
        ),
        (
            "a secret without a name",
            json!({"common_tls_context": {"tls_certificate_sds_secret_configs": [{}]}}),
            ".tls_certificate_sds_secret_configs[0].name",
        ),
    ] {
        assert_eq!(down(value).unwrap_err().path, format!("{ROOT}{path}"), "{name}");
    }
    let warnings = RefCell::new(Vec::new());
    let other = json!({"name": "starttls", "typed_config": {"@type": format!("{TLS}.Secret")}});
    let refused = upstream_transport(&Context::new("Cluster c", &warnings), Some(from_json(&other).unwrap()));
    assert_eq!(
        refused.unwrap_err().path,
        "typed_config",
        "never plain text where something else was asked for"
    );
}

#[test]
fn validation_and_pins() {
    let client = up(json!({"common_tls_context": {"combined_validation_context": {
        "default_validation_context": {
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"prefix": "spiffe://td/"}},
                {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}}],
            "verify_certificate_hash": ["DF:6F:F7:2F:E9:11:65:21:26:8F:6F:2D:D4:96:6F:51:DF:47:98:83:FE:70:37:B3:9F:75:91:6A:C3:04:9D:1A"],
            "verify_certificate_spki": ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="],
            "allow_expired_certificate": true, "trust_chain_verification": "ACCEPT_UNTRUSTED"},
        "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}, "initial_fetch_timeout": "0s"}}}}}))
    .unwrap();
    let context = client.common.validation.context.as_ref().unwrap();
    assert_eq!(
        context.names.iter().map(|name| name.kind.clone()).collect::<Vec<_>>(),
        [SanKind::Uri, SanKind::Ip]
    );
    assert!(context.names[0].matcher.matches(b"spiffe://td/x"));
    assert_eq!(context.certificates[0][..3], [0xdf, 0x6f, 0xf7]);
    assert_eq!(context.public_keys[0], std::array::from_fn(|at| at as u8));
    assert!(context.allow_expired && context.accept_untrusted);
    let secret = client.common.validation.secret.as_ref().unwrap();
    assert_eq!(
        (&*secret.name, &secret.source, secret.initial_fetch_timeout),
        ("ROOTCA", &SecretSource::Ads, None)
    );
    let trusted =
        ValidationSource { trusted: Some(DataSource::File("/ca".into())), ..ValidationSource::default() };
    let merged = context.merged(&trusted);
    assert!(merged.trusted == trusted.trusted && merged.names.len() == 2);
}

#[test]
fn ways_of_secrets() {
    let source = |config: Value| {
        let reference = json!({"name": "s", "sds_config": config});
        let client =
            up(json!({"common_tls_context": {"tls_certificate_sds_secret_configs": [reference]}})).unwrap();
        client.common.secrets().next().unwrap().source.clone()
    };
    assert_eq!(source(json!({"ads": {}})), SecretSource::Ads);
    assert_eq!(
        source(json!({"path_config_source": {"path": "/s.yaml"}})),
        SecretSource::Path("/s.yaml".into())
    );
    assert_eq!(
        source(
            json!({"api_config_source": {"api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}})
        ),
        SecretSource::Service { cluster: "sds-grpc".into(), delta: false }
    );
}

#[test]
fn proxy_protocol_around_another_socket() {
    let warnings = RefCell::new(Vec::new());
    let value = json!({"name": "p", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "config": {"version": "V2"},
        "transport_socket": {"name": "t", "typed_config": {"@type": format!("{TLS}.UpstreamTlsContext"), "sni": "a"}}}});
    let transport =
        upstream_transport(&Context::new("Cluster c", &warnings), Some(from_json(&value).unwrap())).unwrap();
    assert!(matches!(transport, UpstreamTransport::ProxyProtocol { version: 2, .. }));
    assert_eq!(transport.tls().unwrap().server_name.as_deref(), Some("a"));
    assert!(warnings.borrow().is_empty());
}
