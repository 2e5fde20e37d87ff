//! What a traffic policy says of a cluster.

use lateen_api::networking::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings,
    LoadBalancerSettings, OutlierDetection, SimpleLoadBalancer,
};
use lateen_envoy::TypeUrl;
use lateen_model::PortProtocol;

use crate::proto::{self, cluster, core, endpoint, ext, kind, to_any};

type Options = ext::upstreams::http::v3::HttpProtocolOptions;
type Upstream = ext::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;

/// A limit that the user left open: Istio's is none at all.
const UNLIMITED: u32 = u32::MAX;

/// Circuit breakers from a connection pool's settings.
pub(super) fn circuit_breakers(pool: Option<&ConnectionPoolSettings>) -> cluster::CircuitBreakers {
    let limit = |value: i32| if value > 0 { value as u32 } else { UNLIMITED };
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    cluster::CircuitBreakers {
        thresholds: vec![cluster::circuit_breakers::Thresholds {
            max_connections: Some(limit(tcp.map_or(0, |tcp| tcp.max_connections))),
            max_pending_requests: Some(limit(http.map_or(0, |http| http.http1_max_pending_requests))),
            max_requests: Some(limit(http.map_or(0, |http| http.http2_max_requests))),
            max_retries: Some(limit(http.map_or(0, |http| http.max_retries))),
            track_remaining: true,
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub(super) fn connection_pool(message: &mut cluster::Cluster, pool: Option<&ConnectionPoolSettings>) {
    message.circuit_breakers = Some(circuit_breakers(pool));
    let Some(keepalive) = pool.and_then(|pool| pool.tcp.as_ref()).and_then(|tcp| tcp.tcp_keepalive.as_ref())
    else {
        return;
    };
    let seconds = |value: Option<lateen_api::Duration>| value.map(|value| value.get().as_secs() as u32);
    message.upstream_connection_options = Some(cluster::UpstreamConnectionOptions {
        tcp_keepalive: Some(core::TcpKeepalive {
            keepalive_probes: (keepalive.probes > 0).then_some(keepalive.probes),
            keepalive_time: seconds(keepalive.time),
            keepalive_interval: seconds(keepalive.interval),
        }),
        ..Default::default()
    });
}

pub(super) fn load_balancer(message: &mut cluster::Cluster, settings: Option<&LoadBalancerSettings>) {
    use cluster::cluster::LbPolicy;
    message.common_lb_config.get_or_insert_default();
    let simple = settings.and_then(|settings| settings.simple).unwrap_or_default();
    let policy = match simple {
        SimpleLoadBalancer::RoundRobin => LbPolicy::RoundRobin,
        SimpleLoadBalancer::Random => LbPolicy::Random,
        SimpleLoadBalancer::Unspecified
        | SimpleLoadBalancer::LeastConn
        | SimpleLoadBalancer::LeastRequest
        | SimpleLoadBalancer::Passthrough => LbPolicy::LeastRequest,
    };
    message.lb_policy = policy as i32;
    let warmup =
        settings.and_then(|settings| settings.warmup_duration_secs).filter(|duration| !duration.is_zero());
    if let Some(window) = warmup {
        let slow_start = Some(cluster::cluster::SlowStartConfig {
            slow_start_window: Some(proto::duration(window.get())),
            ..Default::default()
        });
        message.lb_config =
            match policy {
                LbPolicy::RoundRobin => Some(cluster::cluster::LbConfig::RoundRobinLbConfig(
                    cluster::cluster::RoundRobinLbConfig { slow_start_config: slow_start },
                )),
                LbPolicy::LeastRequest => Some(cluster::cluster::LbConfig::LeastRequestLbConfig(
                    cluster::cluster::LeastRequestLbConfig {
                        slow_start_config: slow_start,
                        ..Default::default()
                    },
                )),
                _ => None,
            };
    }
}

pub(super) fn outlier_detection(message: &mut cluster::Cluster, settings: Option<&OutlierDetection>) {
    let Some(settings) = settings else { return };
    let duration = |value: Option<lateen_api::Duration>| value.map(|value| proto::duration(value.get()));
    let mut outlier = cluster::OutlierDetection {
        interval: duration(settings.interval),
        base_ejection_time: duration(settings.base_ejection_time),
        // Success rate is no part of Istio's API, and would eject by surprise.
        enforcing_success_rate: Some(0),
        split_external_local_origin_errors: settings.split_external_local_origin_errors,
        ..Default::default()
    };
    if let Some(errors) = settings.consecutive_5xx_errors {
        outlier.consecutive_5xx = Some(errors);
        outlier.enforcing_consecutive_5xx = Some(if errors > 0 { 100 } else { 0 });
    }
    if let Some(errors) = settings.consecutive_gateway_errors {
        outlier.consecutive_gateway_failure = Some(errors);
        outlier.enforcing_consecutive_gateway_failure = Some(if errors > 0 { 100 } else { 0 });
    }
    if settings.split_external_local_origin_errors
        && let Some(errors) = settings.consecutive_local_origin_failures
    {
        outlier.consecutive_local_origin_failure = Some(errors);
        outlier.enforcing_consecutive_local_origin_failure = Some(if errors > 0 { 100 } else { 0 });
    }
    if settings.max_ejection_percent > 0 {
        outlier.max_ejection_percent = Some(settings.max_ejection_percent as u32);
    }
    message.outlier_detection = Some(outlier);
    // Ejection and panic are at odds; Istio turns panic off unless the user asks for it.
    let panic_threshold = Some(kind::Percent { value: f64::from(settings.min_health_percent.max(0)) });
    message.common_lb_config.get_or_insert_default().healthy_panic_threshold = panic_threshold;
}

/// The HTTP version of connections to the cluster, and the limits that go with it.
pub(super) fn protocol(
    message: &mut cluster::Cluster,
    protocol: PortProtocol,
    pool: Option<&ConnectionPoolSettings>,
) {
    use ext::upstreams::http::v3::http_protocol_options::{
        ExplicitHttpConfig, UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
    };
    let http = pool.and_then(|pool| pool.http.as_ref());
    let use_client_protocol = http.is_some_and(|http| http.use_client_protocol);
    let upgrade = http.is_some_and(|http| http.h2_upgrade_policy == H2UpgradePolicy::Upgrade);
    let http2 = core::Http2ProtocolOptions {
        max_concurrent_streams: http
            .map(|http| http.max_concurrent_streams as u32)
            .filter(|streams| *streams > 0),
        ..Default::default()
    };
    let upstream = if protocol.is_unknown() || (protocol.is_http() && use_client_protocol) {
        Upstream::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2),
            ..Default::default()
        })
    } else if protocol.is_http2() || (protocol.is_http() && upgrade) {
        Upstream::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
        })
    } else if http.is_some_and(|http| http.idle_timeout.is_some() || http.max_requests_per_connection > 0) {
        Upstream::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
        })
    } else {
        return;
    };
    set_options(
        message,
        Options {
            common_http_protocol_options: http.and_then(common_options),
            upstream_protocol_options: Some(upstream),
            ..Default::default()
        },
    );
}

/// The version that the client spoke.
pub(super) fn downstream_protocol(message: &mut cluster::Cluster) {
    protocol(message, PortProtocol::Unknown, None);
}

fn common_options(http: &HttpSettings) -> Option<core::HttpProtocolOptions> {
    let idle_timeout = http.idle_timeout.map(|timeout| proto::duration(timeout.get()));
    let requests = (http.max_requests_per_connection > 0).then_some(http.max_requests_per_connection as u32);
    (idle_timeout.is_some() || requests.is_some()).then(|| core::HttpProtocolOptions {
        idle_timeout,
        max_requests_per_connection: requests,
        ..Default::default()
    })
}

fn set_options(message: &mut cluster::Cluster, options: Options) {
    // The key is the message's own name.
    let name = Options::TYPE_URL.trim_start_matches("type.googleapis.com/").to_owned();
    message.typed_extension_protocol_options.insert(name, to_any(&options));
}

/// TLS towards the service, started by the proxy, by the names and files of the rule. `ISTIO_MUTUAL` needs workload
/// certificates, which nobody issues yet.
pub(super) fn tls(
    message: &mut cluster::Cluster,
    settings: Option<&ClientTlsSettings>,
    protocol: PortProtocol,
) {
    use ext::transport_sockets::tls::v3 as tls;
    let Some(settings) = settings else { return };
    if !matches!(settings.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
        return;
    }
    let file = |path: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    };
    let mut common = tls::CommonTlsContext::default();
    if protocol.is_http2() {
        common.alpn_protocols.push("h2".to_owned());
    }
    if !settings.ca_certificates.is_empty() {
        common.validation_context_type =
            Some(tls::common_tls_context::ValidationContextType::ValidationContext(
                tls::CertificateValidationContext {
                    trusted_ca: Some(file(&settings.ca_certificates)),
                    match_typed_subject_alt_names: settings
                        .subject_alt_names
                        .iter()
                        .map(|name| subject(name))
                        .collect(),
                    ..Default::default()
                },
            ));
    }
    if settings.mode == ClientTlsMode::Mutual && !settings.client_certificate.is_empty() {
        common.tls_certificates.push(tls::TlsCertificate {
            certificate_chain: Some(file(&settings.client_certificate)),
            private_key: Some(file(&settings.private_key)),
            ..Default::default()
        });
    }
    message.transport_socket = Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(to_any(
            &tls::UpstreamTlsContext {
                common_tls_context: Some(common),
                sni: settings.sni.clone(),
                ..Default::default()
            },
        ))),
    });
}

fn subject(name: &str) -> ext::transport_sockets::tls::v3::SubjectAltNameMatcher {
    use ext::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
    let san_type = if name.contains("://") { SanType::Uri } else { SanType::Dns };
    ext::transport_sockets::tls::v3::SubjectAltNameMatcher {
        san_type: san_type as i32,
        matcher: Some(proto::matcher::StringMatcher {
            match_pattern: Some(proto::matcher::string_matcher::MatchPattern::Exact(name.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `LOGICAL_DNS` takes exactly one endpoint.
pub(super) fn keep_one_endpoint(assignment: &mut endpoint::ClusterLoadAssignment) {
    assignment.endpoints.truncate(1);
    if let Some(locality) = assignment.endpoints.first_mut() {
        locality.lb_endpoints.truncate(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_limits_are_unlimited() {
        let thresholds = &circuit_breakers(None).thresholds[0];
        assert_eq!((thresholds.max_connections, thresholds.max_retries), (Some(UNLIMITED), Some(UNLIMITED)));
    }
}
