//! The JSON form of messages (<https://protobuf.dev/programming-guides/json/>), as in Envoy's bootstrap, in
//! EnvoyFilter patches and in `config_dump`.
//!
//! Reading accepts field names in both spellings, refuses unknown fields, resolves nested `Any` by `@type`, and names
//! the path of whatever it refuses. Writing uses the names of the proto files, as Envoy's admin pages do.

mod path;
mod read;
mod well_known;
mod write;

use prost::Message;
use serde_json::Value;

use crate::schema;
use crate::{Any, TypeUrl};

/// What is wrong in a JSON document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct JsonError {
    /// For instance `static_resources.listeners[0].address`; empty for the document as a whole.
    pub path: String,
    /// One sentence about it.
    pub reason: String,
}

/// Whether this crate has the message of a type URL or full name.
pub fn is_known(type_url: &str) -> bool {
    schema::Message::named(type_url).is_some()
}

/// Reads a message.
pub fn from_json<M: Message + TypeUrl + Default>(json: &Value) -> Result<M, JsonError> {
    let bytes = read::encode(own_type::<M>(), json)?;
    M::decode(bytes).map_err(|error| JsonError { path: String::new(), reason: error.to_string() })
}

/// Reads a JSON object with an `@type` into an `Any`. Equal documents give equal bytes.
pub fn any_from_json(json: &Value) -> Result<Any, JsonError> {
    read::any(json)
}

/// Writes a message with the field names of its proto file. An `Any` of a type that this crate does not know becomes
/// `{"@type": ..., "value": base64}`.
pub fn to_json<M: Message + TypeUrl>(message: &M) -> Value {
    write::message(own_type::<M>(), &message.encode_to_vec(), Redaction::Nothing)
}

/// Like [`to_json`], with what the protocol marks as sensitive (private keys, passwords, tokens) replaced by
/// `[redacted]`, in nested `Any`s too. For everything that a person or a tool gets to see.
pub fn to_json_redacted<M: Message + TypeUrl>(message: &M) -> Value {
    write::message(own_type::<M>(), &message.encode_to_vec(), Redaction::Sensitive)
}

/// Writes an `Any` as an object with `@type`.
pub fn any_to_json(any: &Any, redaction: Redaction) -> Value {
    write::any(&any.type_url, &any.value, redaction)
}

/// Whether sensitive fields are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redaction {
    /// Everything is written.
    Nothing,
    /// Fields annotated `udpa.annotations.sensitive` are replaced by `[redacted]`.
    Sensitive,
}

fn own_type<M: TypeUrl>() -> schema::Message {
    schema::Message::named(M::TYPE_URL).expect("every generated message is in the schema")
}

#[cfg(test)]
mod tests;
