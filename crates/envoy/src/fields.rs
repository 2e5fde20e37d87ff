//! Which fields of a message are set: what lets a consumer say "this field is set but not handled" with its path
//! instead of ignoring it.

use prost::Message;

use crate::schema::{Kind, Message as MessageType};
use crate::wire::{self, MAX_DEPTH, Malformed};
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
    if let Some(known) = MessageType::named(M::TYPE_URL) {
        // We have just encoded it, so it is well-formed. What is not, in an `Any`, has no fields to be listed.
        let _ = walk(known, &message.encode_to_vec(), "", 0, visit);
    }
}

fn walk(
    message: MessageType,
    bytes: &[u8],
    prefix: &str,
    depth: u32,
    visit: &mut dyn FnMut(SetField) -> Descend,
) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    if message.full_name() == "google.protobuf.Any" {
        let any = Any::decode(bytes).map_err(|_| Malformed)?;
        return match MessageType::named(&any.type_url) {
            Some(inner) => walk(inner, &any.value, prefix, depth + 1, visit),
            None => Ok(()),
        };
    }
    // Durations, wrappers, structs and the like are values, not configuration with fields of their own.
    if message.full_name().starts_with("google.protobuf.") {
        return Ok(());
    }
    for set in wire::decode(message, bytes)? {
        let field = set.field;
        let path =
            if prefix.is_empty() { field.name().to_owned() } else { format!("{prefix}.{}", field.name()) };
        let report = SetField {
            path: path.clone(),
            message: message.full_name().to_owned(),
            name: field.name().to_owned(),
        };
        let Kind::Message(inner) = field.kind() else {
            visit(report);
            continue;
        };
        if visit(report) == Descend::Skip {
            continue;
        }
        if field.is_map() {
            for entry in wire::map(field, &set.values)? {
                let Kind::Message(inner) = entry.value_kind else { break };
                let key = match entry.key_kind {
                    Kind::String => format!("{:?}", entry.key_text()?),
                    _ => entry.key_text()?,
                };
                // Of a malformed `Any` in one place the others should not suffer.
                let _ = walk(inner, entry.value.bytes()?, &format!("{path}[{key}]"), depth + 1, visit);
            }
        } else if field.is_repeated() {
            for (index, item) in set.values.iter().enumerate() {
                let _ = walk(inner, item.bytes()?, &format!("{path}[{index}]"), depth + 1, visit);
            }
        } else if let Some(value) = set.values.first() {
            let _ = walk(inner, value.bytes()?, &path, depth + 1, visit);
        }
    }
    Ok(())
}

/// A field that a message's type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldType {
    /// Its name in the proto file.
    pub name: &'static str,
    /// What one value is: of a list an item, of a map an entry.
    pub kind: FieldKind,
    /// Whether it is a list.
    pub repeated: bool,
    /// Whether it is a map.
    pub map: bool,
    /// Fields with the same number exclude each other.
    pub oneof: Option<u16>,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    /// True or false.
    Bool,
    /// A number of any kind.
    Number,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// One of these names, as declared.
    Enum(Vec<&'static str>),
    /// A message, by its full name.
    Message(&'static str),
}

/// The fields of a type, by type URL or full name, in the order of their numbers; none where the type is not known.
pub fn field_types(type_url: &str) -> Option<Vec<FieldType>> {
    let describe = |field: crate::schema::Field| FieldType {
        name: field.name(),
        kind: match field.kind() {
            Kind::Bool => FieldKind::Bool,
            Kind::String => FieldKind::Text,
            Kind::Bytes => FieldKind::Bytes,
            Kind::Enum(of) => FieldKind::Enum(of.values().map(|(name, _)| name).collect()),
            Kind::Message(of) => FieldKind::Message(of.full_name()),
            _ => FieldKind::Number,
        },
        repeated: field.is_repeated() && !field.is_map(),
        map: field.is_map(),
        oneof: field.oneof(),
    };
    Some(MessageType::named(type_url)?.fields().map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::config::listener::v3::Listener;
    use crate::json;

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
