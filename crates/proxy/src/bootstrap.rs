//! Reading an Envoy bootstrap: YAML or JSON, to the message, and what of it is ours.

use lateen_dataplane::cluster::{Bind, Locality};
use lateen_dataplane::compile::{Compiled, compile_bind};
use lateen_dataplane::error::Warning;
use lateen_dataplane::stat_tags::StatsConfig;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::fields::{Descend, walk_set_fields};
use lateen_envoy::json::{JsonError, from_json};
use lateen_envoy::prost::Message;

use crate::lenient;
use crate::outside::Process;
use crate::overload;
use crate::refusals;
use crate::runtime::Runtime;
use crate::upstream::zones::Place;

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
    from_json(&parse_merged(text, overlay)?).map_err(message)
}

/// As [`parse`], without the fields that are not known: they are told.
pub fn parse_leniently(
    text: &str,
    overlay: Option<&str>,
) -> Result<(Bootstrap, Vec<Warning>), BootstrapError> {
    let mut value = parse_merged(text, overlay)?;
    let (bootstrap, unknown) = lenient::from_json(&mut value).map_err(message)?;
    let warn = |path| Warning {
        resource: "Bootstrap".to_owned(),
        path,
        message: "this field is not known and has no effect; remove it".to_owned(),
    };
    Ok((bootstrap, unknown.into_iter().map(warn).collect()))
}

/// Reads a bootstrap in the binary form.
pub fn decode(bytes: &[u8], overlay: Option<&str>) -> Result<Bootstrap, BootstrapError> {
    let bootstrap = Bootstrap::decode(bytes)
        .map_err(|error| BootstrapError::Message(format!("not protobuf: {error}")))?;
    let Some(overlay) = overlay else { return Ok(bootstrap) };
    let mut value = lateen_envoy::json::to_json(&bootstrap);
    merge(&mut value, parse_value(overlay)?);
    from_json(&value).map_err(message)
}

fn message(error: JsonError) -> BootstrapError {
    BootstrapError::Message(error.to_string())
}

fn parse_merged(text: &str, overlay: Option<&str>) -> Result<serde_json::Value, BootstrapError> {
    let mut value = parse_value(text)?;
    if let Some(overlay) = overlay {
        merge(&mut value, parse_value(overlay)?);
    }
    Ok(value)
}

/// YAML or JSON.
pub(crate) fn parse_value(text: &str) -> Result<serde_json::Value, BootstrapError> {
    if text.trim().is_empty() {
        return Ok(serde_json::Value::Object(Default::default()));
    }
    // JSON is YAML, but its own parser says better what is wrong.
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| BootstrapError::Syntax(error.to_string()));
    }
    // `n` and `off` are words: only `true` and `false` are booleans, as Envoy's parser has it.
    // A bootstrap is the operator's own file and may be long: its size is no attack. What aliases expand to stays limited.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_nodes: usize::MAX,
            max_events: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
    };
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

/// Where the proxy stands, as far as the bootstrap says it.
pub fn place(bootstrap: &Bootstrap) -> Option<Place> {
    let local = bootstrap.cluster_manager.as_ref().map(|manager| manager.local_cluster_name.as_str());
    let locality = bootstrap.node.as_ref()?.locality.clone()?;
    let locality = Locality {
        region: locality.region.into(),
        zone: locality.zone.into(),
        sub_zone: locality.sub_zone.into(),
    };
    Some(Place::new(locality, local.unwrap_or_default()))
}

/// How upstream sockets are made where a cluster says nothing.
pub fn default_bind(bootstrap: &Bootstrap) -> Result<Bind, BootstrapError> {
    Ok(compiled_bind(bootstrap)?.map_or_else(Bind::default, |compiled| compiled.value))
}

fn compiled_bind(bootstrap: &Bootstrap) -> Result<Option<Compiled<Bind>>, BootstrapError> {
    let config = bootstrap.cluster_manager.as_ref().and_then(|manager| manager.upstream_bind_config.clone());
    Ok(config.map(compile_bind).transpose()?)
}

/// What the admin listener is told besides its address.
pub fn admin_options(bootstrap: &Bootstrap) -> Result<crate::admin::Options, BootstrapError> {
    let Some(admin) = bootstrap.admin.clone() else { return Ok(crate::admin::Options::default()) };
    let (access_log, allow_paths) = lateen_dataplane::compile::compile_admin(admin, &Process)?.value;
    Ok(crate::admin::Options { access_log, allow_paths })
}

/// How statistics are shown.
pub fn stats_config(bootstrap: &Bootstrap) -> Result<Option<StatsConfig>, BootstrapError> {
    let config =
        bootstrap.stats_config.clone().map(lateen_dataplane::compile::compile_stats_config).transpose()?;
    Ok(config.map(|compiled| compiled.value))
}

/// Fields that are set and have no effect. Those of clusters and listeners are told where these are compiled.
pub fn warnings(bootstrap: &Bootstrap) -> Result<Vec<Warning>, BootstrapError> {
    check_names(bootstrap)?;
    let mut warnings = refusals::bootstrap(bootstrap)?;
    warnings.extend(compiled_bind(bootstrap)?.map_or_else(Vec::new, |compiled| compiled.warnings));
    if let Some(config) = bootstrap.stats_config.clone() {
        warnings.extend(lateen_dataplane::compile::compile_stats_config(config)?.warnings);
    }
    if let Some(admin) = bootstrap.admin.clone() {
        warnings.extend(lateen_dataplane::compile::compile_admin(admin, &Process)?.warnings);
    }
    // Resources are left out of the copy: they may be large, and are not looked into.
    let rest = Bootstrap { static_resources: None, ..bootstrap.clone() };
    walk_set_fields(&rest, &mut |field| match field.path.as_str() {
        // Looked into.
        "admin"
        | "cluster_manager"
        | "dynamic_resources"
        | "static_resources"
        | "layered_runtime"
        | "overload_manager"
        | "layered_runtime.layers" => Descend::Into,
        // Obeyed.
        "node"
        | "admin.address"
        | "admin.access_log"
        | "admin.allow_paths"
        | "stats_config"
        | "admin.ignore_global_conn_limit"
        // There is one engine for regular expressions, and it is the default one.
        | "default_regex_engine"
        | "cluster_manager.local_cluster_name"
        | "cluster_manager.upstream_bind_config"
        | "dynamic_resources.ads_config"
        | "dynamic_resources.cds_config"
        | "dynamic_resources.lds_config"
        // Told already.
        | "dynamic_resources.cds_resources_locator"
        | "dynamic_resources.lds_resources_locator" => Descend::Skip,
        path if path.starts_with("layered_runtime.layers[")
            && (path.ends_with("].name") || path.ends_with("].static_layer")) =>
        {
            Descend::Skip
        }
        "overload_manager.resource_monitors" => Descend::Skip,
        _ => {
            warnings.push(Warning {
                resource: "Bootstrap".to_owned(),
                path: field.path,
                message: "this field is not supported and has no effect; remove it".to_owned(),
            });
            Descend::Skip
        }
    });
    warnings.extend(overload::Limits::new(bootstrap, &Runtime::new(bootstrap)).1);
    Ok(warnings)
}

/// Refuses two static clusters of one name: nobody could say which of them is meant.
fn check_names(bootstrap: &Bootstrap) -> Result<(), BootstrapError> {
    let mut seen = std::collections::HashSet::new();
    let clusters = bootstrap.static_resources.iter().flat_map(|resources| &resources.clusters);
    match clusters.enumerate().find(|(_, cluster)| !seen.insert(&cluster.name)) {
        Some((at, cluster)) => Err(BootstrapError::Message(format!(
            "static_resources.clusters[{at}].name: another cluster is called `{}`, too",
            cluster.name
        ))),
        None => Ok(()),
    }
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

    #[test]
    fn unknown_fields_are_refused_or_told() {
        let text = "node: {idd: a, id: b}\nstatic_resources: {clusters: [{name: c, nam: d, lb_policy: RANDOM}]}\nx: 1";
        assert!(parse(text, None).unwrap_err().to_string().contains("no such field"));
        let (bootstrap, unknown) = parse_leniently(text, None).unwrap();
        let mut paths: Vec<&str> = unknown.iter().map(|warning| warning.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["node.idd", "static_resources.clusters[0].nam", "x"]);
        assert_eq!(bootstrap.node.unwrap().id, "b");
        assert_eq!(bootstrap.static_resources.unwrap().clusters[0].lb_policy, 3);
        // What is wrong in another way stays wrong.
        assert!(parse_leniently("node: {id: {}}", None).is_err());
    }

    #[test]
    fn a_name_belongs_to_one_cluster() {
        let check = |names: &str| {
            warnings(&parse(&format!("static_resources: {{clusters: [{names}]}}"), None).unwrap())
        };
        assert!(check("{name: a}, {name: b}").is_ok());
        let error = check("{name: a}, {name: b}, {name: a}").unwrap_err().to_string();
        assert!(error.contains("static_resources.clusters[2].name"), "{error}");
    }

    #[test]
    fn the_binary_form_is_read_too() {
        let bytes = parse("node: {id: n}", None).unwrap().encode_to_vec();
        let node = decode(&bytes, Some("node: {cluster: c}")).unwrap().node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("n", "c"));
        assert!(decode(b"not protobuf", None).is_err());
    }

    #[test]
    fn what_has_no_effect_is_reported() {
        let check = |name: &str, yaml: &str, expect: &[&str]| {
            let warnings = warnings(&parse(yaml, None).unwrap()).unwrap();
            let paths: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
            assert_eq!(paths, expect, "{name}");
            assert!(warnings.iter().all(|warning| warning.resource == "Bootstrap"), "{name}");
        };
        let address = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}";
        check("all obeyed", &format!("node: {{id: n}}\nadmin: {{{address}}}"), &[]);
        let clusters = "static_resources: {clusters: [{name: x}]}";
        let service = "grpc_services: [{envoy_grpc: {cluster_name: x}}]";
        check(
            "discovery",
            &format!(
                "{clusters}\ndynamic_resources: {{ads_config: {{api_type: GRPC, {service}}}, cds_config: {{ads: {{}}}}}}"
            ),
            &[],
        );
        check("resources tell themselves", "static_resources: {clusters: [{name: c}]}", &[]);
        check(
            "runtime",
            "layered_runtime: {layers: [{name: s, static_layer: {a: 1}}, {name: d, disk_layer: {symlink_root: /r}}]}",
            &["layered_runtime.layers[1].disk_layer"],
        );
        check("secrets", "static_resources: {secrets: [{name: s}]}", &[]);
        check("a field of the root", "header_prefix: x-mine", &["header_prefix"]);
        check(
            "below the administration",
            &format!("admin: {{{address}, profile_path: /p}}"),
            &["admin.profile_path"],
        );
        check(
            "below clusters",
            "cluster_manager: {local_cluster_name: c, outlier_detection: {}}",
            &["cluster_manager.outlier_detection"],
        );
        check(
            "of a bind configuration",
            "cluster_manager: {upstream_bind_config: {additional_source_addresses: [{address: 10.0.0.1, port_value: 0}]}}",
            &["cluster_manager.upstream_bind_config.additional_source_addresses"],
        );
    }
}
