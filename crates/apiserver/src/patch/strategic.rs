//! Strategic merge patch with its directives.
//!
//! `$patch: replace|merge|delete` in an object or list element, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD` and `$retainKeys`, as Kubernetes' design "strategic merge patch" describes them.

use super::types::{ANY, Field, Type};
use crate::status::Status;
use serde_json::{Map, Value, json};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies a patch to an object of a type.
pub(super) fn apply(object: &mut Value, patch: &Value, kind: &'static Type) -> Result<(), Status> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(Status::bad_request("a strategic merge patch must be an object"));
    };
    merge_object(object, patch, kind)
}

fn merge_object(
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    kind: &'static Type,
) -> Result<(), Status> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *object = without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys =
            strings(keys).ok_or_else(|| Status::bad_request("$retainKeys must be a list of strings"))?;
        object.retain(|key, _| keys.contains(&key.as_str()));
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_from(object, field, value)?;
            continue;
        }
        merge_field(object, key, value, kind.field(key))?;
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER) {
            set_order(object, field, order, patch.get(field), kind.field(field))?;
        }
    }
    Ok(())
}

fn merge_field(
    object: &mut Map<String, Value>,
    key: &str,
    patch: &Value,
    field: Field,
) -> Result<(), Status> {
    if patch.is_null() {
        object.shift_remove(key);
        return Ok(());
    }
    match (field, patch) {
        (Field::Keyed(merge_key, element), Value::Array(patch)) => {
            merge_list(list_of(object, key), patch, merge_key, element)
        }
        (Field::KeyedUnion(merge_key, element), Value::Array(patch)) => {
            merge_list(list_of(object, key), patch, merge_key, element)
        }
        (Field::Set, Value::Array(patch)) => {
            let list = list_of(object, key);
            for value in patch {
                if !list.contains(value) {
                    list.push(value.clone());
                }
            }
            Ok(())
        }
        (_, Value::Object(patch)) => {
            let kind = match field {
                Field::Object(kind) | Field::RetainKeys(kind) => kind,
                _ => &ANY,
            };
            if patch.get(DIRECTIVE).is_some_and(|directive| directive == "delete") {
                object.shift_remove(key);
                return Ok(());
            }
            let place = object.entry(key).or_insert_with(|| json!({}));
            if !place.is_object() {
                *place = json!({});
            }
            match place {
                Value::Object(place) => merge_object(place, patch, kind),
                _ => Ok(()),
            }
        }
        (_, value) => {
            object.insert(key.to_owned(), value.clone());
            Ok(())
        }
    }
}

/// Merges a list on a key.
fn merge_list(
    list: &mut Vec<Value>,
    patch: &[Value],
    merge_key: &str,
    element: &'static Type,
) -> Result<(), Status> {
    let replaces = |value: &Value| value.get(DIRECTIVE).is_some_and(|directive| directive == "replace");
    if patch.iter().any(|value| replaces(value) && value.get(merge_key).is_none()) {
        let kept = patch.iter().filter(|value| value.get(DIRECTIVE).is_none());
        *list = kept.map(clean).collect();
        return Ok(());
    }
    for change in patch {
        let Value::Object(fields) = change else {
            return Err(Status::bad_request(format!("a list that merges on {merge_key} holds objects only")));
        };
        let Some(wanted) = fields.get(merge_key) else {
            return Err(Status::bad_request(format!(
                "map: {change} does not contain declared merge key: {merge_key}"
            )));
        };
        let found = list.iter().position(|value| value.get(merge_key) == Some(wanted));
        match (fields.get(DIRECTIVE).and_then(Value::as_str), found) {
            (Some("delete"), _) => list.retain(|value| value.get(merge_key) != Some(wanted)),
            (Some("replace"), Some(index)) => list[index] = Value::Object(without_directives(fields)),
            (None | Some("merge"), Some(index)) => {
                if let Value::Object(place) = &mut list[index] {
                    merge_object(place, fields, element)?;
                }
            }
            (None | Some("merge" | "replace"), None) => list.push(Value::Object(without_directives(fields))),
            (Some(other), _) => return Err(unknown_directive(other)),
        }
    }
    Ok(())
}

fn delete_from(object: &mut Map<String, Value>, field: &str, values: &Value) -> Result<(), Status> {
    let values = values
        .as_array()
        .ok_or_else(|| Status::bad_request(format!("{DELETE_FROM}{field} must be a list")))?;
    if let Some(list) = object.get_mut(field).and_then(Value::as_array_mut) {
        list.retain(|value| !values.contains(value));
    }
    Ok(())
}

/// Sorts a list: what the order names comes in that order; what only the server has keeps its place relative to its
/// neighbours in the server's order.
fn set_order(
    object: &mut Map<String, Value>,
    field: &str,
    order: &Value,
    patch: Option<&Value>,
    kind: Field,
) -> Result<(), Status> {
    let order =
        order.as_array().ok_or_else(|| Status::bad_request(format!("{ORDER}{field} must be a list")))?;
    if patch.is_some_and(Value::is_null) {
        return Ok(());
    }
    let Some(list) = object.get_mut(field).and_then(Value::as_array_mut) else { return Ok(()) };
    let identity = |value: &Value| match kind {
        Field::Keyed(key, _) | Field::KeyedUnion(key, _) => value.get(key).cloned(),
        _ => Some(value.clone()),
    };
    let order: Vec<Option<Value>> = order.iter().map(identity).collect();
    let rank = |value: &Value| {
        let identity = identity(value);
        order.iter().position(|known| *known == identity)
    };
    let mut ordered: Vec<(usize, Value)> = Vec::new();
    let mut others: Vec<(Option<Value>, Value)> = Vec::new();
    let mut before: Option<Value> = None;
    for value in list.drain(..) {
        match rank(&value) {
            Some(rank) => {
                before = identity(&value);
                ordered.push((rank, value));
            }
            None => others.push((before.clone(), value)),
        }
    }
    ordered.sort_by_key(|(rank, _)| *rank);
    let mut result: Vec<Value> = ordered.into_iter().map(|(_, value)| value).collect();
    for (before, value) in others.into_iter().rev() {
        let position = match before {
            None => 0,
            Some(known) => result
                .iter()
                .position(|value| identity(value).as_ref() == Some(&known))
                .map_or(0, |at| at + 1),
        };
        result.insert(position, value);
    }
    *list = result;
    Ok(())
}

fn list_of<'a>(object: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let place = object.entry(key).or_insert_with(|| json!([]));
    if !place.is_array() {
        *place = json!([]);
    }
    match place {
        Value::Array(list) => list,
        _ => unreachable!("made above"),
    }
}

fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// A patch as a new value: without directives and without fields that are to be removed.
fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(key, value)| !key.starts_with('$') && !value.is_null())
        .map(|(key, value)| (key.clone(), clean(value)))
        .collect()
}

fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(list) => list.iter().map(clean).collect(),
        other => other.clone(),
    }
}

fn unknown_directive(name: &str) -> Status {
    Status::bad_request(format!(
        "unknown strategic merge patch directive {name:?}; use replace, merge or delete"
    ))
}
