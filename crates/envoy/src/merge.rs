//! Merging messages by the schema, as patches of generated configuration do (Istio's reference, "EnvoyFilter.Patch").
//!
//! Fields of the patch win. Messages are merged field by field, lists grow at their end (or are replaced), entries of
//! maps are replaced by their keys, and of a oneof what the patch sets stays alone. Durations, timestamps and wrappers
//! are single values: they are replaced as a whole, so a patch can set them to zero.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::schema::{Field, Kind, Message};
use crate::wire::{self, MAX_DEPTH, Raw, Set};
use crate::{Any, TypeUrl};

/// What becomes of a list that both sides set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lists {
    /// The patch's items follow those that are there.
    Append,
    /// The patch's items take the place of those that are there.
    Replace,
}

/// Why messages were not merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// This crate does not have the message.
    #[error("unknown message type {0:?}")]
    Unknown(String),
    /// The bytes of one of them are no message of the type.
    #[error("the value of a {0} cannot be decoded")]
    Malformed(String),
}

/// Merges a patch into a message.
pub fn merge<M: prost::Message + TypeUrl + Default>(
    base: &mut M,
    patch: &M,
    lists: Lists,
) -> Result<(), MergeError> {
    let merged = encoded(M::TYPE_URL, &base.encode_to_vec(), &patch.encode_to_vec(), lists)?;
    *base = M::decode(Bytes::from(merged)).map_err(|_| MergeError::Malformed(M::TYPE_URL.to_owned()))?;
    Ok(())
}

/// Merges what lies in a patch's `Any` into what lies in another; the type stays that of the base, as in Istio.
pub fn merge_any(base: &Any, patch: &Any, lists: Lists) -> Result<Any, MergeError> {
    let value = encoded(&base.type_url, &base.value, &patch.value, lists)?;
    Ok(Any { type_url: base.type_url.clone(), value: value.into() })
}

fn encoded(type_url: &str, base: &[u8], patch: &[u8], lists: Lists) -> Result<Vec<u8>, MergeError> {
    let message = Message::named(type_url).ok_or_else(|| MergeError::Unknown(type_url.to_owned()))?;
    messages(message, base, patch, lists, 0)
}

fn messages(
    message: Message,
    base: &[u8],
    patch: &[u8],
    lists: Lists,
    depth: u32,
) -> Result<Vec<u8>, MergeError> {
    let malformed = || MergeError::Malformed(message.full_name().to_owned());
    if depth > MAX_DEPTH {
        return Err(malformed());
    }
    let decode = |bytes| wire::decode(message, bytes).map_err(|_| malformed());
    let mut merged: BTreeMap<u32, Set<'_>> =
        decode(base)?.into_iter().map(|set| (set.field.number(), set)).collect();
    for mut set in decode(patch)? {
        let number = set.field.number();
        if let Some(oneof) = set.field.oneof() {
            merged.retain(|other, entry| *other == number || entry.field.oneof() != Some(oneof));
        }
        if let Some(present) = merged.remove(&number) {
            set.values = values(set.field, present.values, set.values, lists, depth)?;
        }
        merged.insert(number, set);
    }
    let mut buffer = Vec::with_capacity(base.len() + patch.len());
    for set in merged.values() {
        write(set, &mut buffer);
    }
    Ok(buffer)
}

/// The values of one field that both sides set.
fn values<'a>(
    field: Field,
    mut base: Vec<Raw<'a>>,
    patch: Vec<Raw<'a>>,
    lists: Lists,
    depth: u32,
) -> Result<Vec<Raw<'a>>, MergeError> {
    if field.is_repeated() {
        // Of equal keys of a map the last one counts for every reader.
        if lists == Lists::Append || field.is_map() {
            base.extend(patch);
            return Ok(base);
        }
        return Ok(patch);
    }
    let Kind::Message(message) = field.kind() else { return Ok(patch) };
    if is_single_value(message.full_name()) {
        return Ok(patch);
    }
    let (Some(Raw::Bytes(below)), Some(Raw::Bytes(above))) = (base.first(), patch.first()) else {
        return Ok(patch);
    };
    Ok(vec![Raw::Bytes(messages(message, below, above, lists, depth + 1)?.into())])
}

/// Messages that stand for one value. An `Any` is one too: its parts mean nothing without each other.
fn is_single_value(full_name: &str) -> bool {
    full_name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(name, "Any" | "Duration" | "Timestamp") || (name.ends_with("Value") && name != "ListValue")
    })
}

fn write(set: &Set<'_>, buffer: &mut Vec<u8>) {
    let (number, kind) = (set.field.number(), set.field.kind());
    if set.field.is_packed() {
        let mut packed = Vec::new();
        set.values.iter().for_each(|value| raw(value, &mut packed));
        encode_key(number, WireType::LengthDelimited, buffer);
        encode_varint(packed.len() as u64, buffer);
        buffer.extend(packed);
        return;
    }
    for value in &set.values {
        encode_key(number, wire::wire_type(kind), buffer);
        raw(value, buffer);
    }
}

fn raw(value: &Raw<'_>, buffer: &mut Vec<u8>) {
    match value {
        Raw::Varint(number) => encode_varint(*number, buffer),
        Raw::Fixed64(number) => buffer.extend(number.to_le_bytes()),
        Raw::Fixed32(number) => buffer.extend(number.to_le_bytes()),
        Raw::Bytes(bytes) => {
            encode_varint(bytes.len() as u64, buffer);
            buffer.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::route::v3::Route;
    use crate::json::{any_from_json, any_to_json, from_json, to_json};

    #[test]
    fn clusters() {
        for (name, lists, base, patch, expected) in [
            ("scalars", Lists::Append, json!({"name": "a"}), json!({"name": "b"}), json!({"name": "b"})),
            (
                "zero is not set without presence",
                Lists::Append,
                json!({"lb_policy": "RANDOM"}),
                json!({"lb_policy": "ROUND_ROBIN"}),
                json!({"lb_policy": "RANDOM"}),
            ),
            (
                "durations are one value",
                Lists::Append,
                json!({"connect_timeout": "10.5s"}),
                json!({"connect_timeout": "3s"}),
                json!({"connect_timeout": "3s"}),
            ),
            (
                "wrappers can become zero",
                Lists::Append,
                json!({"outlier_detection": {"consecutive_5xx": 5, "interval": "1s"}}),
                json!({"outlier_detection": {"consecutive_5xx": 0}}),
                json!({"outlier_detection": {"consecutive_5xx": 0, "interval": "1s"}}),
            ),
            (
                "lists grow",
                Lists::Append,
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 1}]}}),
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 2}]}}),
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 1}, {"max_requests": 2}]}}),
            ),
            (
                "lists are replaced",
                Lists::Replace,
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 1}]}}),
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 2}]}}),
                json!({"circuit_breakers": {"thresholds": [{"max_requests": 2}]}}),
            ),
            (
                "the other of a oneof goes",
                Lists::Append,
                json!({"type": "EDS"}),
                json!({"cluster_type": {"name": "x"}}),
                json!({"cluster_type": {"name": "x"}}),
            ),
            (
                "maps by key",
                Lists::Replace,
                json!({"metadata": {"filter_metadata": {"istio": {"a": "1"}, "other": {}}}}),
                json!({"metadata": {"filter_metadata": {"istio": {"b": "2"}}}}),
                json!({"metadata": {"filter_metadata": {"istio": {"b": "2"}, "other": {}}}}),
            ),
        ] {
            let mut message: Cluster = from_json(&base).unwrap();
            merge(&mut message, &from_json(&patch).unwrap(), lists).unwrap();
            assert_eq!(to_json(&message), expected, "{name}");
        }
    }

    #[test]
    fn of_one_message_in_a_oneof_the_fields_are_merged() {
        let mut route: Route = from_json(
            &json!({"route": {"cluster": "a", "timeout": "1s", "retry_policy": {"num_retries": 2}}}),
        )
        .unwrap();
        merge(&mut route, &from_json(&json!({"route": {"timeout": "0s"}})).unwrap(), Lists::Append).unwrap();
        let expected =
            json!({"route": {"cluster": "a", "timeout": "0s", "retry_policy": {"num_retries": 2}}});
        assert_eq!(to_json(&route), expected);
    }

    #[test]
    fn what_lies_in_an_any() {
        let any = |value| any_from_json(&value).unwrap();
        const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
        let base = any(json!({"@type": ROUTER, "dynamic_stats": true, "strict_check_headers": ["a"]}));
        let patch = any(json!({"@type": ROUTER, "dynamic_stats": false, "start_child_span": true}));
        let merged = merge_any(&base, &patch, Lists::Append).unwrap();
        let expected = json!({"@type": ROUTER, "dynamic_stats": false, "start_child_span": true, "strict_check_headers": ["a"]});
        assert_eq!(any_to_json(&merged, crate::json::Redaction::Nothing), expected);
        let unknown = Any { type_url: "x/a.B".to_owned(), ..Any::default() };
        assert_eq!(merge_any(&unknown, &patch, Lists::Append), Err(MergeError::Unknown("x/a.B".to_owned())));
    }

    #[test]
    fn packed_lists_stay_packed() {
        let mut policy: crate::envoy::config::route::v3::RetryPolicy =
            from_json(&json!({"retriable_status_codes": [500, 501]})).unwrap();
        let patch = from_json(&json!({"retriable_status_codes": [502]})).unwrap();
        merge(&mut policy, &patch, Lists::Append).unwrap();
        assert_eq!(policy.retriable_status_codes, [500, 501, 502]);
    }
}
