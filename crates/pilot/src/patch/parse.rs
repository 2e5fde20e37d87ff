//! Patches as users write them, read into messages.

use std::sync::Arc;

use lateen_api::networking::{
    EnvoyConfigObjectPatch, EnvoyFilter, EnvoyFilterApplyTo as ApplyTo, FilterClass, PatchContext,
    PatchOperation,
};
use lateen_envoy::json::{JsonError, from_json};
use lateen_envoy::{TypeUrl, prost};
use lateen_model::Config;

use super::Patch;
use crate::proto::{cluster, core, ext, listener, route};
use ext::filters::network::http_connection_manager::v3::HttpFilter;

/// What a patch puts in or merges.
#[derive(Debug, PartialEq)]
pub(crate) enum Value {
    /// Nothing: it removes.
    None,
    Listener(Box<listener::Listener>),
    FilterChain(Box<listener::FilterChain>),
    ListenerFilter(Box<listener::ListenerFilter>),
    NetworkFilter(Box<listener::Filter>),
    HttpFilter(Box<HttpFilter>),
    RouteConfiguration(Box<route::RouteConfiguration>),
    VirtualHost(Box<route::VirtualHost>),
    Route(Box<route::Route>),
    Cluster(Box<cluster::Cluster>),
    Extension(Box<core::TypedExtensionConfig>),
}

/// The patches of an object, each in its place. What cannot be read is `None`: it changes nothing, and nothing else
/// suffers from it.
pub(super) fn patches(config: &Config<EnvoyFilter>) -> Vec<Option<Arc<Patch>>> {
    let read = |spec: &EnvoyConfigObjectPatch| {
        let value = value(spec).ok()?;
        Some(Arc::new(Patch { filter: config.key(), spec: spec.clone(), value }))
    };
    config.spec.config_patches.iter().map(read).collect()
}

/// What of an EnvoyFilter has no effect, as paths below `spec` with the reason.
pub(crate) fn problems(spec: &EnvoyFilter) -> Vec<String> {
    let mut found = Vec::new();
    for (index, patch) in spec.config_patches.iter().enumerate() {
        let path = format!("spec.configPatches[{index}]");
        match patch.apply_to {
            ApplyTo::Bootstrap => found.push(format!("{path}.applyTo (BOOTSTRAP: the whole patch)")),
            ApplyTo::Invalid => found.push(format!("{path}.applyTo (not set: the whole patch)")),
            _ => match value(patch) {
                Err(error) if error.path.is_empty() => {
                    found.push(format!("{path}.patch.value ({})", error.reason));
                }
                Err(error) => found.push(format!("{path}.patch.value.{} ({})", error.path, error.reason)),
                Ok(_) => {}
            },
        }
        let context = patch.r#match.as_ref().map(|condition| condition.context).unwrap_or_default();
        if context == PatchContext::Waypoint {
            found.push(format!("{path}.match.context (WAYPOINT: the whole patch)"));
        }
        let listener = patch.r#match.as_ref().and_then(|condition| condition.listener.as_ref());
        if listener.is_some_and(|listener| !listener.port_name.is_empty()) {
            found.push(format!("{path}.match.listener.portName"));
        }
        if patch.patch.as_ref().is_some_and(|patch| patch.filter_class != FilterClass::Unspecified) {
            found.push(format!("{path}.patch.filterClass"));
        }
    }
    found
}

fn value(spec: &EnvoyConfigObjectPatch) -> Result<Value, JsonError> {
    let patch = spec.patch.clone().unwrap_or_default();
    let error = |reason: &str| JsonError { path: String::new(), reason: reason.to_owned() };
    match patch.operation {
        PatchOperation::Remove => return Ok(Value::None),
        PatchOperation::Invalid => return Err(error("no operation")),
        _ => {}
    }
    let Some(json) = patch.value else { return Err(error("no value")) };
    let json = serde_json::Value::Object(json.0);
    Ok(match spec.apply_to {
        ApplyTo::Listener => Value::Listener(read(&json)?),
        ApplyTo::FilterChain => Value::FilterChain(read(&json)?),
        ApplyTo::ListenerFilter => Value::ListenerFilter(read(&json)?),
        ApplyTo::NetworkFilter => Value::NetworkFilter(read(&json)?),
        ApplyTo::HttpFilter => Value::HttpFilter(read(&json)?),
        ApplyTo::RouteConfiguration => Value::RouteConfiguration(read(&json)?),
        ApplyTo::VirtualHost => Value::VirtualHost(read(&json)?),
        ApplyTo::HttpRoute => Value::Route(read(&json)?),
        ApplyTo::Cluster => Value::Cluster(read(&json)?),
        ApplyTo::ExtensionConfig => Value::Extension(read(&json)?),
        ApplyTo::Bootstrap | ApplyTo::Invalid => return Err(error("nothing that is generated here")),
    })
}

fn read<M: prost::Message + TypeUrl + Default>(json: &serde_json::Value) -> Result<Box<M>, JsonError> {
    from_json(json).map(Box::new)
}
