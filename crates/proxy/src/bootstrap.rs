//! Reading an Envoy bootstrap: YAML or JSON, to the message, and what of it is ours.

use lateen_dataplane::cluster::Bind;
use lateen_dataplane::compile::compile_bind;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::core::v3 as core;

/// Why a bootstrap is refused.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Neither YAML nor JSON.
    #[error("the bootstrap is neither YAML nor JSON: {0}")]
    Syntax(String),
    /// It does not fit the message.
    #[error("the bootstrap is not valid: {0}")]
    Message(String),
    /// A value of it cannot be used.
    #[error("{0}")]
    Config(#[from] lateen_dataplane::ConfigError),
}

/// Parses a bootstrap; `overlay` (as with `--config-yaml`) is merged over it.
pub fn parse(text: &str, overlay: Option<&str>) -> Result<Bootstrap, BootstrapError> {
    let mut value = parse_value(text)?;
    if let Some(overlay) = overlay {
        merge(&mut value, parse_value(overlay)?);
    }
    lateen_envoy::json::from_json(&value).map_err(|error| BootstrapError::Message(error.to_string()))
}

fn parse_value(text: &str) -> Result<serde_json::Value, BootstrapError> {
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Object(Default::default()));
    }
    // JSON is YAML, but its own parser says better what is wrong.
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| BootstrapError::Syntax(error.to_string()));
    }
    // `n` and `off` are words: only `true` and `false` are booleans, as Envoy's parser has it.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| BootstrapError::Syntax(error.to_string()))
}

fn merge(base: &mut serde_json::Value, overlay: serde_json::Value) {
    use serde_json::Value::{Array, Object};
    match (base, overlay) {
        (Object(base), Object(overlay)) => {
            for (key, value) in overlay {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        // As in protobuf, lists are joined.
        (Array(base), Array(overlay)) => base.extend(overlay),
        (base, overlay) => *base = overlay,
    }
}

/// How upstream sockets are made where a cluster says nothing.
pub fn default_bind(bootstrap: &Bootstrap) -> Result<Bind, BootstrapError> {
    let config = bootstrap.cluster_manager.as_ref().and_then(|manager| manager.upstream_bind_config.clone());
    Ok(match config {
        Some(config) => compile_bind(config)?.value,
        None => Bind::default(),
    })
}

/// The cluster through which ADS is reached, and whether its protocol is the incremental one.
pub fn ads_cluster(bootstrap: &Bootstrap) -> Option<(String, bool)> {
    let config = bootstrap.dynamic_resources.as_ref()?.ads_config.as_ref()?;
    let delta = config.api_type == core::api_config_source::ApiType::DeltaGrpc as i32
        || config.api_type == core::api_config_source::ApiType::AggregatedDeltaGrpc as i32;
    config.grpc_services.iter().find_map(|service| match &service.target_specifier {
        Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) => {
            Some((grpc.cluster_name.clone(), delta))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_json_and_an_overlay() {
        let yaml =
            "node:\n  id: n\nadmin:\n  address:\n    socket_address: {address: 127.0.0.1, port_value: 0}\n";
        let bootstrap = parse(yaml, Some("node: {cluster: b}")).unwrap();
        let node = bootstrap.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("n", "b"));
        assert!(parse("{\"node\": {\"id\": \"a\"}}", None).is_ok());
        let error = parse("node: {idd: a}", None).unwrap_err().to_string();
        assert!(error.contains("idd"), "{error}");
    }
}
