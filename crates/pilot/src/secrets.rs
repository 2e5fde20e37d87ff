//! Where proxies get keys and certificates (SDS), by the names that Istio's agents and control plane know.

use crate::proto::{self, core, ext, matcher};
use ext::transport_sockets::tls::v3 as tls;

/// The workload's own certificate, from the agent.
pub(crate) const WORKLOAD: &str = "default";
/// The mesh's roots, from the agent.
pub(crate) const ROOTS: &str = "ROOTCA";
/// The agent's cluster in every bootstrap.
const AGENT: &str = "sds-grpc";

/// A secret that the agent serves.
pub(crate) fn from_agent(name: &str) -> tls::SdsSecretConfig {
    use core::api_config_source::ApiType;
    let service = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
            core::grpc_service::EnvoyGrpc { cluster_name: AGENT.to_owned(), ..Default::default() },
        )),
        ..Default::default()
    };
    let source = core::ApiConfigSource {
        api_type: ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![service],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: Some(proto::duration(std::time::Duration::ZERO)),
            resource_api_version: core::ApiVersion::V3 as i32,
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(
                source,
            )),
            ..Default::default()
        }),
    }
}

/// A Secret that the control plane serves (`credentialName`).
pub(crate) fn credential(name: &str) -> tls::SdsSecretConfig {
    if let Some(builtin) = name.strip_prefix("builtin://") {
        return from_agent(if builtin.is_empty() { WORKLOAD } else { ROOTS });
    }
    let name = if name.contains("://") { name.to_owned() } else { format!("kubernetes://{name}") };
    tls::SdsSecretConfig { name, sds_config: Some(proto::ads()) }
}

/// The names of which a certificate must have one. A name with a scheme is a URI; any other may be of any other kind.
pub(crate) fn subjects(names: &[String]) -> Vec<tls::SubjectAltNameMatcher> {
    use tls::subject_alt_name_matcher::SanType;
    let matcher = |name: &String, kind: SanType| tls::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.clone())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut made = Vec::with_capacity(names.len());
    for name in names {
        if name.contains("://") {
            made.push(matcher(name, SanType::Uri));
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            made.push(matcher(name, SanType::IpAddress));
        } else if name.contains('@') {
            made.push(matcher(name, SanType::Email));
        } else {
            made.push(matcher(name, SanType::Dns));
        }
    }
    made
}

/// A TLS socket for connections to others.
pub(crate) fn upstream_socket(context: &tls::UpstreamTlsContext) -> core::TransportSocket {
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(proto::to_any(context))),
    }
}

/// No TLS.
pub(crate) fn plain_socket() -> core::TransportSocket {
    let config = ext::transport_sockets::raw_buffer::v3::RawBuffer::default();
    core::TransportSocket {
        name: "envoy.transport_sockets.raw_buffer".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(proto::to_any(&config))),
    }
}
