//! Short names for Envoy's message modules, and the few values that are tedious to spell.

pub(crate) use lateen_envoy::envoy::config::accesslog::v3 as accesslog;
pub(crate) use lateen_envoy::envoy::config::cluster::v3 as cluster;
pub(crate) use lateen_envoy::envoy::config::core::v3 as core;
pub(crate) use lateen_envoy::envoy::config::endpoint::v3 as endpoint;
pub(crate) use lateen_envoy::envoy::config::listener::v3 as listener;
pub(crate) use lateen_envoy::envoy::config::route::v3 as route;
pub(crate) use lateen_envoy::envoy::extensions as ext;
pub(crate) use lateen_envoy::envoy::r#type::matcher::v3 as matcher;
pub(crate) use lateen_envoy::envoy::r#type::v3 as kind;
pub(crate) use lateen_envoy::google::protobuf;
pub(crate) use lateen_envoy::to_any;

use std::time::Duration;

/// A duration message.
pub(crate) fn duration(value: Duration) -> protobuf::Duration {
    value.into()
}

/// An address of a TCP port.
pub(crate) fn address(ip: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

/// Where configuration comes from: the stream that it came on.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: Some(duration(Duration::ZERO)),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

/// Metadata under `istio`, as Istio's tools read it. The objects whose paths it has are noted as sources.
pub(crate) fn istio_metadata(fields: serde_json::Value) -> core::Metadata {
    let mut metadata = core::Metadata::default();
    let paths = ["config", "gateway"].map(|field| fields[field].as_str().and_then(of_path));
    if let serde_json::Value::Object(fields) = fields {
        metadata.filter_metadata.insert("istio".to_owned(), fields.into());
    }
    note_sources(&mut metadata, paths.into_iter().flatten());
    metadata
}

/// An object as `Kind/namespace/name`.
pub(crate) fn named(object: &lateen_model::ObjectRef) -> String {
    format!("{}/{}/{}", object.kind, object.namespace, object.name)
}

/// The object of a path as [`config_path`] makes it.
fn of_path(path: &str) -> Option<String> {
    let [name, kind, namespace] = path.rsplit('/').take(3).collect::<Vec<_>>()[..] else { return None };
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    let kind: String = kind.split('-').map(capital).collect();
    Some(format!("{kind}/{namespace}/{name}"))
}

/// Names the configuration objects that a resource comes from, as `Kind/namespace/name`.
pub(crate) fn note_sources(metadata: &mut core::Metadata, sources: impl IntoIterator<Item = String>) {
    let mut more = sources.into_iter().map(serde_json::Value::from).peekable();
    if more.peek().is_none() {
        return;
    }
    let present = metadata.filter_metadata.remove("lateen").unwrap_or_default();
    let mut fields: serde_json::Map<String, serde_json::Value> = present.into();
    match fields.entry("sources").or_insert_with(|| serde_json::Value::Array(Vec::new())) {
        serde_json::Value::Array(list) => more.for_each(|one| {
            if !list.contains(&one) {
                list.push(one);
            }
        }),
        other => *other = more.collect(),
    }
    metadata.filter_metadata.insert("lateen".to_owned(), fields.into());
}

/// A configuration object as Istio's metadata names it; `kind` in lower case with dashes.
pub(crate) fn config_path(kind: &str, namespace: &str, name: &str) -> String {
    let group = if kind.ends_with("authentication") { "security" } else { "networking" };
    format!("/apis/{group}.istio.io/v1/namespaces/{namespace}/{kind}/{name}")
}

/// Percent (0 to 100) in millionths, the finest that Envoy knows.
pub(crate) fn percent(value: f64) -> kind::FractionalPercent {
    kind::FractionalPercent {
        numerator: (value * 10_000.0).round().clamp(0.0, 1_000_000.0) as u32,
        denominator: kind::fractional_percent::DenominatorType::Million as i32,
    }
}
