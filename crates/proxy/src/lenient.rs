//! Reading JSON that may have fields which are not known, as configuration of a newer Envoy has.

use lateen_envoy::TypeUrl;
use lateen_envoy::json::{JsonError, from_json as strictly};
use lateen_envoy::prost::Message;
use serde_json::Value;

/// More than this is not the message it is taken for.
const MOST: usize = 1000;

/// Reads a message; what is not known is taken out of `value`, and told.
pub fn from_json<M: Message + TypeUrl + Default>(value: &mut Value) -> Result<(M, Vec<String>), JsonError> {
    let mut unknown = Vec::new();
    loop {
        match strictly(value) {
            Ok(message) => return Ok((message, unknown)),
            Err(error) => {
                // The reader names the place; no other error reads like this one.
                if !error.reason.contains("has no such field") || unknown.len() >= MOST {
                    return Err(error);
                }
                if !remove(value, &error.path) {
                    return Err(error);
                }
                unknown.push(error.path);
            }
        }
    }
}

/// Removes the field at a path such as `listeners[0].address.nam`; false where there is none.
fn remove(value: &mut Value, path: &str) -> bool {
    let at = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(at);
    let Value::Object(object) = value else { return false };
    if rest.is_empty() {
        return object.remove(name).is_some();
    }
    let Some(mut inner) = object.get_mut(name) else { return false };
    let mut rest = rest;
    while let Some(open) = rest.strip_prefix('[') {
        let Some((key, after)) = open.split_once(']') else { return false };
        let next = match key.parse::<usize>() {
            Ok(index) => inner.get_mut(index),
            // The key of a map, which is written in quotation marks.
            Err(_) => inner.get_mut(key.trim_matches('"')),
        };
        let Some(next) = next else { return false };
        inner = next;
        rest = after;
    }
    rest.strip_prefix('.').is_some_and(|rest| remove(inner, rest))
}
