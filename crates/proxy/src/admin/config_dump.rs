//! `/config_dump`, `/init_dump`.

use http::StatusCode;
use lateen_base::admin::Reply;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3::Secret;
use lateen_envoy::json::to_json_redacted;
use lateen_envoy::prost::Message;
use serde_json::{Map, Value, json};

use super::{Query, Served, plain_error, pretty};
use crate::manager::Manager;
use crate::sources::{Encoded, Origin, Refusal};

const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";

/// One resource on its way into a dump.
struct Entry<'a> {
    name: &'a str,
    value: Value,
    origin: &'a Origin,
    updated: std::time::SystemTime,
    refusal: Option<&'a Refusal>,
    warming: bool,
}

fn typed<M: TypeUrl + Message + Default>(message: &M) -> Value {
    let mut value = json!({"@type": M::TYPE_URL});
    if let (Value::Object(value), Value::Object(fields)) = (&mut value, to_json_redacted(message)) {
        value.extend(fields);
    }
    value
}

/// RFC 3339 with milliseconds.
fn moment(time: std::time::SystemTime) -> String {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    jiff::Timestamp::new(since.as_secs() as i64, since.subsec_millis() as i32 * 1_000_000)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

fn refused(refusal: &Refusal) -> Value {
    json!({
        "details": refusal.reason,
        "version_info": refusal.version,
        "last_update_attempt": moment(refusal.at),
    })
}

impl Entry<'_> {
    /// `{cluster: {...}, version_info, last_updated}`, as clusters, routes and endpoints have it.
    fn plain(self, field: &str) -> Value {
        let mut out = json!({field: self.value, "last_updated": moment(self.updated)});
        if let Origin::Discovered(version) = self.origin {
            if !version.is_empty() {
                out["version_info"] = (**version).into();
            }
            out["client_status"] = if self.refusal.is_some() { "NACKED" } else { "ACKED" }.into();
        }
        if let Some(refusal) = self.refusal {
            out["error_state"] = refused(refusal);
        }
        out
    }

    /// `{name, active_state: {...}}`, as dynamic listeners have it.
    fn with_states(self) -> Value {
        let version = match self.origin {
            Origin::Discovered(version) => version.to_string(),
            Origin::Static => String::new(),
        };
        let state = json!({
            "version_info": version, "listener": self.value, "last_updated": moment(self.updated),
        });
        let mut out = json!({
            "name": self.name,
            "client_status": if self.refusal.is_some() { "NACKED" } else { "ACKED" },
        });
        out[if self.warming { "warming_state" } else { "active_state" }] = state;
        if let Some(refusal) = self.refusal {
            out["error_state"] = refused(refusal);
        }
        out
    }
}

impl Served {
    pub(super) fn config_dump(&self, query: &Query) -> Reply {
        let bad = |message: String| plain_error(StatusCode::BAD_REQUEST, message);
        let names = match query.get("name_regex").filter(|pattern| !pattern.is_empty()) {
            Some(pattern) => match regex::Regex::new(&format!("^(?:{pattern})$")) {
                Ok(regex) => Some(regex),
                Err(error) => {
                    return bad(format!(
                        "INVALID_ARGUMENT: Error while parsing name_regex from {pattern}: {error}\n"
                    ));
                }
            },
            None => None,
        };
        let takes = |name: &str| names.as_ref().is_none_or(|names| names.is_match(name));
        let mut configs = self.dump(query.contains_key("include_eds"), &takes);
        if let Some(resource) = query.get("resource").filter(|resource| !resource.is_empty()) {
            let list = configs.iter_mut().find_map(|config| {
                let kind = config["@type"].as_str()?.to_owned();
                Some((kind, config.get_mut(resource)?.take()))
            });
            let Some((kind, list)) = list else {
                let message = format!("{resource} not found in config dump");
                return plain_error(StatusCode::NOT_FOUND, message);
            };
            let element = element_type(&kind, resource);
            configs = match list {
                Value::Array(list) => list,
                one => vec![one],
            };
            for config in &mut configs {
                let mut with_type = json!({"@type": element});
                if let (Value::Object(with_type), Value::Object(fields)) = (&mut with_type, config.take()) {
                    with_type.extend(fields);
                }
                *config = with_type;
            }
        }
        if let Some(mask) = query.get("mask").filter(|mask| !mask.is_empty()) {
            let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.split('.').collect()).collect();
            for config in &mut configs {
                let before = config.clone();
                *config = masked(&before, &paths);
            }
            // A dump of which nothing is left says nothing.
            if !query.contains_key("resource") {
                configs.retain(|config| config.as_object().is_some_and(|fields| fields.len() > 1));
                if configs.is_empty() {
                    return bad(format!(
                        "FieldMask {mask} could not be successfully applied to any configs."
                    ));
                }
            }
        }
        pretty(&json!({"configs": configs}))
    }

    fn dump(&self, endpoints: bool, takes: &dyn Fn(&str) -> bool) -> Vec<Value> {
        let manager = self.admin.manager.lock();
        let sources = &manager.sources;
        let clusters =
            entries(sources.clusters.iter(), takes, |name| sources.refusal(TYPES[0], name), &|_| false);
        let listeners =
            entries(sources.listeners.iter(), takes, |name| sources.refusal(TYPES[1], name), &|name| {
                manager.is_warming(name)
            });
        let routes =
            entries(sources.routes.iter(), takes, |name| sources.refusal(TYPES[2], name), &|_| false);
        let mut bootstrap = to_json_redacted(&self.admin.bootstrap);
        if let Value::Object(fields) = &mut bootstrap {
            fields.remove("@type");
        }
        let started = std::time::SystemTime::now() - self.admin.started.elapsed();
        let mut configs = vec![
            json!({
                "@type": format!("{PREFIX}BootstrapConfigDump"),
                "bootstrap": bootstrap,
                "last_updated": moment(started),
            }),
            split(clusters, "ClustersConfigDump", "static_clusters", "dynamic_active_clusters", "cluster"),
        ];
        if endpoints {
            let of_clusters = manager.static_endpoints();
            let fixed = of_clusters.iter().filter(|(name, _)| takes(name));
            let fixed: Vec<Value> =
                fixed.map(|(_, assignment)| json!({"endpoint_config": typed(assignment)})).collect();
            let list =
                entries(sources.endpoints.iter(), takes, |name| sources.refusal(TYPES[3], name), &|_| false);
            let list = list.into_iter().map(|entry| entry.plain("endpoint_config"));
            configs.push(without_empty(json!({
                "@type": format!("{PREFIX}EndpointsConfigDump"),
                "static_endpoint_configs": fixed,
                "dynamic_endpoint_configs": list.collect::<Vec<_>>(),
            })));
        }
        let (fixed, dynamic): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(|entry| matches!(entry.origin, Origin::Static));
        let fixed = fixed.into_iter().map(|entry| entry.plain("listener")).collect::<Vec<_>>();
        let dynamic = dynamic.into_iter().map(Entry::with_states).collect::<Vec<_>>();
        configs.push(without_empty(json!({
            "@type": format!("{PREFIX}ListenersConfigDump"),
            "static_listeners": fixed,
            "dynamic_listeners": dynamic,
        })));
        configs.push(json!({"@type": format!("{PREFIX}ScopedRoutesConfigDump")}));
        let mut routes = split(
            routes,
            "RoutesConfigDump",
            "static_route_configs",
            "dynamic_route_configs",
            "route_config",
        );
        let inline = manager.inline_routes();
        let inline: Vec<Value> = inline
            .iter()
            .filter(|(table, _)| takes(&table.name))
            .map(|(table, updated)| json!({"route_config": typed(table), "last_updated": moment(*updated)}))
            .collect();
        if !inline.is_empty() {
            routes["static_route_configs"] = inline.into();
        }
        configs.push(routes);
        configs.push(self.secrets(&manager, takes));
        configs
    }

    /// What is secret in them is left out.
    fn secrets(&self, manager: &Manager, takes: &dyn Fn(&str) -> bool) -> Value {
        let resources = self.admin.bootstrap.static_resources.iter();
        let secrets = resources.flat_map(|resources| &resources.secrets).filter(|secret| takes(&secret.name));
        let list: Vec<Value> =
            secrets.map(|secret| json!({"name": secret.name, "secret": typed(secret)})).collect();
        let active = manager.sources.secrets.iter().filter(|(name, _)| takes(name)).map(|(name, secret)| {
            let mut out = json!({"name": name, "last_updated": moment(secret.updated)});
            if !secret.version.is_empty() {
                out["version_info"] = secret.version.as_str().into();
            }
            let mut shown = json!({"@type": Secret::TYPE_URL});
            if let (Value::Object(shown), Value::Object(fields)) = (&mut shown, &secret.shown) {
                shown.extend(fields.clone());
            }
            out["secret"] = shown;
            out
        });
        let warming = manager.warming_secrets().into_iter().filter(|name| takes(name)).map(|name| {
            json!({"name": name, "version_info": "uninitialized",
                "secret": {"@type": Secret::TYPE_URL, "name": name}})
        });
        without_empty(json!({
            "@type": format!("{PREFIX}SecretsConfigDump"),
            "static_secrets": list,
            "dynamic_active_secrets": active.collect::<Vec<_>>(),
            "dynamic_warming_secrets": warming.collect::<Vec<_>>(),
        }))
    }

    pub(super) fn init_dump(&self, _query: &Query) -> Reply {
        let (clusters, listeners) = self.admin.manager.lock().warming_names();
        let group = |kind: &str, names: Vec<String>| {
            names
                .into_iter()
                .map(|name| json!({"name": format!("{kind} {name}"), "target_names": [name]}))
                .collect()
        };
        let mut all: Vec<Value> = group("init manager Cluster", clusters);
        all.extend::<Vec<Value>>(group("init manager Listener", listeners));
        let out = if all.is_empty() { json!({}) } else { json!({"unready_targets_dumps": all}) };
        pretty(&out)
    }
}

/// Type URLs in the order: clusters, listeners, routes, endpoints.
const TYPES: [&str; 4] = [
    lateen_envoy::envoy::config::cluster::v3::Cluster::TYPE_URL,
    lateen_envoy::envoy::config::listener::v3::Listener::TYPE_URL,
    lateen_envoy::envoy::config::route::v3::RouteConfiguration::TYPE_URL,
    lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment::TYPE_URL,
];

fn entries<'a, M: Message + Default + TypeUrl + 'a>(
    sources: impl Iterator<Item = (&'a String, &'a Encoded<M>)>,
    takes: &dyn Fn(&str) -> bool,
    refusal: impl Fn(&str) -> Option<&'a Refusal>,
    warming: &dyn Fn(&str) -> bool,
) -> Vec<Entry<'a>> {
    sources
        .filter(|(name, _)| takes(name))
        .map(|(name, source)| Entry {
            name,
            value: typed(&source.decode()),
            origin: &source.origin,
            updated: source.updated,
            refusal: refusal(name),
            warming: warming(name),
        })
        .collect()
}

fn split(entries: Vec<Entry<'_>>, kind: &str, fixed: &str, dynamic: &str, field: &str) -> Value {
    let (of_file, discovered): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| matches!(entry.origin, Origin::Static));
    let list =
        |entries: Vec<Entry<'_>>| entries.into_iter().map(|entry| entry.plain(field)).collect::<Vec<_>>();
    without_empty(
        json!({"@type": format!("{PREFIX}{kind}"), fixed: list(of_file), dynamic: list(discovered)}),
    )
}

/// As in protobuf's JSON: empty lists are left out.
fn without_empty(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| field.as_array().is_none_or(|list| !list.is_empty()));
    }
    value
}

/// The type of the elements of a field of a dump.
fn element_type(kind: &str, field: &str) -> String {
    let element = match field {
        "static_clusters" => "StaticCluster",
        "dynamic_active_clusters" | "dynamic_warming_clusters" => "DynamicCluster",
        "static_listeners" => "StaticListener",
        "dynamic_listeners" => "DynamicListener",
        "static_route_configs" => "StaticRouteConfig",
        "dynamic_route_configs" => "DynamicRouteConfig",
        "static_endpoint_configs" => "StaticEndpointConfig",
        "dynamic_endpoint_configs" => "DynamicEndpointConfig",
        "static_secrets" => "StaticSecret",
        "dynamic_active_secrets" | "dynamic_warming_secrets" => "DynamicSecret",
        "bootstrap" => return "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap".to_owned(),
        _ => return kind.to_owned(),
    };
    format!("{kind}.{element}")
}

/// What a field mask leaves of a value (`google.protobuf.FieldMask`). Types always stay.
fn masked(value: &Value, paths: &[Vec<&str>]) -> Value {
    match value {
        Value::Object(fields) => {
            let mut out = Map::new();
            for (name, field) in fields {
                if name == "@type" {
                    out.insert(name.clone(), field.clone());
                    continue;
                }
                let mut deeper = Vec::new();
                let mut whole = false;
                for path in paths.iter().filter(|path| path.first() == Some(&name.as_str())) {
                    match &path[1..] {
                        [] => whole = true,
                        rest => deeper.push(rest.to_vec()),
                    }
                }
                if whole {
                    out.insert(name.clone(), field.clone());
                } else if !deeper.is_empty() {
                    out.insert(name.clone(), masked(field, &deeper));
                }
            }
            Value::Object(out)
        }
        Value::Array(values) => Value::Array(values.iter().map(|value| masked(value, paths)).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_leave_what_they_name() {
        let value = json!({"@type": "t", "a": {"b": 1, "c": 2}, "d": [{"e": 1, "f": 2}], "g": 3});
        for (mask, expect) in [
            ("g", json!({"@type": "t", "g": 3})),
            ("a.b", json!({"@type": "t", "a": {"b": 1}})),
            ("a.b,a", json!({"@type": "t", "a": {"b": 1, "c": 2}})),
            ("d.e,g", json!({"@type": "t", "d": [{"e": 1}], "g": 3})),
            ("nothing", json!({"@type": "t"})),
        ] {
            let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.split('.').collect()).collect();
            assert_eq!(masked(&value, &paths), expect, "{mask}");
        }
    }

    #[test]
    fn moments_have_milliseconds() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_763_634_672_045);
        assert_eq!(moment(time), "2025-11-20T10:31:12.045Z");
    }
}
