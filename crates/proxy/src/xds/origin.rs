//! Whom resources are asked of (`envoy.config.core.v3.ConfigSource`).

use std::sync::Arc;

use lateen_envoy::envoy::config::core::v3::api_config_source::ApiType;
use lateen_envoy::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_envoy::envoy::config::core::v3::grpc_service::TargetSpecifier;
use lateen_envoy::envoy::config::core::v3::{ApiConfigSource, ConfigSource};
use lateen_xds::Protocol;

use super::files::{self, File};

/// A service that is asked on streams of its own (`api_config_source`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The cluster through which it is reached.
    pub cluster: Arc<str>,
    /// What is spoken with it.
    pub protocol: Protocol,
}

/// Where something comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// The stream of all discovery.
    #[default]
    Ads,
    /// A file.
    File(File),
    /// A service of its own.
    Service(Service),
    /// Nowhere: what is asked for is not supported, and was reported.
    Nobody,
}

impl Origin {
    /// What a source says. `parent` is where the resource came from that names the source (`self`).
    pub fn new(source: Option<&ConfigSource>, parent: &Origin) -> Self {
        match source.and_then(|source| source.config_source_specifier.as_ref()) {
            None | Some(ConfigSourceSpecifier::Ads(_)) => Self::Ads,
            Some(ConfigSourceSpecifier::Self_(_)) => parent.clone(),
            Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
                service(api).map_or(Self::Nobody, Self::Service)
            }
            Some(_) => files::path(source).map_or(Self::Nobody, Self::File),
        }
    }
}

fn service(api: &ApiConfigSource) -> Option<Service> {
    let protocol = match ApiType::try_from(api.api_type).ok()? {
        ApiType::Grpc => Protocol::Sotw,
        ApiType::DeltaGrpc => Protocol::Delta,
        _ => return None,
    };
    match api.grpc_services.first()?.target_specifier.as_ref()? {
        TargetSpecifier::EnvoyGrpc(grpc) => {
            Some(Service { cluster: grpc.cluster_name.as_str().into(), protocol })
        }
        TargetSpecifier::GoogleGrpc(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_envoy::json::from_json;
    use serde_json::json;

    #[test]
    fn sources() {
        let grpc = json!([{"envoy_grpc": {"cluster_name": "c"}}]);
        let service = |protocol| Origin::Service(Service { cluster: "c".into(), protocol });
        for (name, source, expect) in [
            ("the stream of all", json!({"ads": {}}), Origin::Ads),
            (
                "state of the world",
                json!({"api_config_source": {"api_type": "GRPC", "grpc_services": grpc}}),
                service(Protocol::Sotw),
            ),
            (
                "delta",
                json!({"api_config_source": {"api_type": "DELTA_GRPC", "grpc_services": grpc}}),
                service(Protocol::Delta),
            ),
            (
                "REST",
                json!({"api_config_source": {"api_type": "REST", "refresh_delay": "1s"}}),
                Origin::Nobody,
            ),
            ("that of the parent", json!({"self": {}}), service(Protocol::Delta)),
        ] {
            let source: ConfigSource = from_json(&source).unwrap();
            assert_eq!(Origin::new(Some(&source), &service(Protocol::Delta)), expect, "{name}");
        }
        assert_eq!(Origin::new(None, &Origin::Nobody), Origin::Ads, "nothing said");
        let file: ConfigSource =
            from_json(&json!({"path_config_source": {"path": "/x/y", "watched_directory": {"path": "/z"}}}))
                .unwrap();
        assert!(matches!(Origin::new(Some(&file), &Origin::Ads), Origin::File(_)));
    }
}
