//! Which fields of a message are set: what lets a consumer say "this field is set but not handled" with its path
//! instead of ignoring it.

use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};

use crate::json;
use crate::{Any, TypeUrl};

/// A field that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetField {
    /// Where it is, e.g. `filter_chains[0].filters[1].typed_config.stat_prefix`.
    pub path: String,
    /// The full name of the message it belongs to, e.g. `envoy.config.listener.v3.Filter`.
    pub message: String,
    /// The name of the field in that message.
    pub name: String,
}

/// All fields set in a message and in the messages inside it, outer before inner, in the order of field numbers.
/// An `Any` of a known type is looked into; its fields continue the path of the `Any`.
pub fn set_fields<M: Message + TypeUrl>(message: &M) -> Vec<SetField> {
    let mut found = Vec::new();
    walk_set_fields(message, &mut |field| {
        found.push(field);
        Descend::Into
    });
    found
}

/// Whether the walk looks into the field just reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Report what is inside too.
    Into,
    /// Go on beside it: one report for a whole unhandled message is enough.
    Skip,
}

/// Like [`set_fields`], with a visitor that decides what to look into.
pub fn walk_set_fields<M: Message + TypeUrl>(message: &M, visit: &mut dyn FnMut(SetField) -> Descend) {
    let descriptor = json::descriptor(M::TYPE_URL);
    let dynamic = descriptor
        .and_then(|descriptor| DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok());
    if let Some(dynamic) = dynamic {
        walk(&dynamic, "", visit);
    }
}

fn walk(message: &DynamicMessage, prefix: &str, visit: &mut dyn FnMut(SetField) -> Descend) {
    let descriptor = message.descriptor();
    if descriptor.full_name() == "google.protobuf.Any" {
        let inner = message
            .transcode_to::<Any>()
            .ok()
            .and_then(|any| DynamicMessage::decode(json::descriptor(&any.type_url)?, any.value).ok());
        if let Some(inner) = inner {
            walk(&inner, prefix, visit);
        }
        return;
    }
    // Durations, wrappers, structs and the like are values, not configuration with fields of their own.
    if descriptor.full_name().starts_with("google.protobuf.") {
        return;
    }
    for (field, value) in message.fields() {
        let path =
            if prefix.is_empty() { field.name().to_owned() } else { format!("{prefix}.{}", field.name()) };
        let report = SetField {
            path: path.clone(),
            message: descriptor.full_name().to_owned(),
            name: field.name().to_owned(),
        };
        if visit(report) == Descend::Skip {
            continue;
        }
        match value {
            Value::Message(inner) => walk(inner, &path, visit),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        walk(inner, &format!("{path}[{index}]"), visit);
                    }
                }
            }
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_by(|left, right| left.0.cmp(right.0));
                for (key, item) in entries {
                    if let Value::Message(inner) = item {
                        let key = match key {
                            MapKey::String(key) => format!("{key:?}"),
                            other => format!("{other:?}"),
                        };
                        walk(inner, &format!("{path}[{key}]"), visit);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::listener::v3::Listener;

    fn listener() -> Listener {
        json::from_json(&serde_json::json!({
            "name": "l",
            "filter_chains": [{"filters": [{"name": "t", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "s", "cluster": "c", "idle_timeout": "1s",
            }}]}],
        }))
        .unwrap()
    }

    #[test]
    fn set_fields_are_listed_through_any() {
        let paths: Vec<String> = set_fields(&listener()).into_iter().map(|field| field.path).collect();
        assert_eq!(
            paths,
            [
                "name",
                "filter_chains",
                "filter_chains[0].filters",
                "filter_chains[0].filters[0].name",
                "filter_chains[0].filters[0].typed_config",
                "filter_chains[0].filters[0].typed_config.stat_prefix",
                "filter_chains[0].filters[0].typed_config.cluster",
                "filter_chains[0].filters[0].typed_config.idle_timeout",
            ]
        );
    }

    #[test]
    fn a_visitor_can_skip_what_is_inside() {
        let mut seen = Vec::new();
        walk_set_fields(&listener(), &mut |field| {
            seen.push((field.message, field.name.clone()));
            if field.name == "filter_chains" { Descend::Skip } else { Descend::Into }
        });
        let message = "envoy.config.listener.v3.Listener".to_owned();
        assert_eq!(seen, [(message.clone(), "name".to_owned()), (message, "filter_chains".to_owned())]);
    }
}
