//! The bootstraps: the very same file starts both programs.

use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::scenario::{Down, Load};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

/// One proxy on the way: what it speaks to whom.
#[derive(Debug, Clone, Copy)]
pub struct Hop {
    /// Its port.
    pub port: u16,
    /// The next one's.
    pub next: u16,
    /// TLS from clients.
    pub tls: bool,
    /// ... who must have a certificate.
    pub mutual: bool,
    /// HTTP/2 to the next.
    pub http2_next: bool,
    /// Mutual TLS to the next.
    pub mutual_next: bool,
}

impl Hop {
    /// Of a scenario with one proxy.
    pub fn only(load: &Load, port: u16, next: u16) -> Self {
        Self {
            port,
            next,
            tls: load.down == Down::Tls,
            mutual: false,
            http2_next: load.http2_upstream,
            mutual_next: false,
        }
    }

    /// Of a scenario with two.
    pub fn pair(first: u16, second: u16, upstream: u16) -> [Self; 2] {
        let plain = Self {
            port: first,
            next: second,
            tls: false,
            mutual: false,
            http2_next: false,
            mutual_next: false,
        };
        [
            Self { http2_next: true, mutual_next: true, ..plain },
            Self { port: second, next: upstream, tls: true, mutual: true, ..plain },
        ]
    }
}

/// A static bootstrap.
pub fn bootstrap(load: &Load, hop: &Hop, certificates: &Certificates) -> Value {
    let mut chain = json!({"filters": [if load.tcp { tcp_proxy() } else { manager(load.telemetry) }]});
    if hop.tls {
        chain["transport_socket"] = downstream_tls(hop.mutual, certificates);
    }
    let mut cluster = cluster("up", hop.next);
    if hop.http2_next {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        });
    }
    if hop.mutual_next {
        cluster["transport_socket"] = upstream_tls(certificates);
    }
    whole(hop.port, chain, vec![cluster])
}

/// A bootstrap with many clusters.
pub fn many_clusters(port: u16, next: u16, count: u32) -> Value {
    let name = |number: u32| match number {
        0 => "up".to_owned(),
        _ => format!("outbound|80||service-{number}.default.svc.cluster.local"),
    };
    let clusters = (0..count).map(|number| cluster(&name(number), next)).collect();
    whole(port, json!({"filters": [manager(false)]}), clusters)
}

fn whole(port: u16, chain: Value, clusters: Vec<Value>) -> Value {
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": address(0)},
        "static_resources": {
            "listeners": [{"name": "in", "address": address(port), "filter_chains": [chain]}],
            "clusters": clusters,
        },
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    })
}

fn tcp_proxy() -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "in",
            "cluster": "up",
        },
    })
}

fn manager(telemetry: bool) -> Value {
    let mut filters = Vec::new();
    if telemetry {
        filters.push(istio(
            "istio.metadata_exchange",
            "io.istio.http.peer_metadata.Config",
            json!({
                "downstream_discovery": [{"istio_headers": {}}],
                "downstream_propagation": [{"istio_headers": {}}],
            }),
        ));
        filters.push(istio("istio.stats", "stats.PluginConfig", json!({})));
    }
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{EXTENSIONS}.filters.http.router.v3.Router")},
    }));
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!(
                "{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager"
            ),
            "stat_prefix": "in",
            "route_config": {"name": "local", "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}],
            }]},
            "http_filters": filters,
        },
    })
}

/// A filter as Istio's control plane writes it.
fn istio(name: &str, message: &str, value: Value) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": format!("type.googleapis.com/{message}"),
            "value": value,
        },
    })
}

fn file(certificates: &Certificates, name: &str) -> Value {
    json!({"filename": certificates.file(name)})
}

fn downstream_tls(mutual: bool, certificates: &Certificates) -> Value {
    let mut common = json!({
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [{
            "certificate_chain": file(certificates, "server.crt"),
            "private_key": file(certificates, "server.key"),
        }],
    });
    if mutual {
        common["validation_context"] = json!({"trusted_ca": file(certificates, "ca.crt")});
    }
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": mutual,
            "common_tls_context": common,
        },
    })
}

fn upstream_tls(certificates: &Certificates) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{EXTENSIONS}.transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": "bench.local",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [{
                    "certificate_chain": file(certificates, "client.crt"),
                    "private_key": file(certificates, "client.key"),
                }],
                "validation_context": {
                    "trusted_ca": file(certificates, "ca.crt"),
                    "match_typed_subject_alt_names": [
                        {"san_type": "DNS", "matcher": {"exact": "bench.local"}}
                    ],
                },
            },
        },
    })
}
