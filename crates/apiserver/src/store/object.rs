//! One stored object: its value, and its encoding, which all readers share.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A version of an object as it was written. Its encoding is made once, by the writer; lists and watches of every
/// client share the bytes.
#[derive(Debug)]
pub struct Stored {
    /// The object, in its storage version.
    pub value: Arc<Value>,
    /// The revision of the write, equal to `metadata.resourceVersion`.
    pub revision: u64,
    encoded: Bytes,
    /// Where the encoding goes on after the value of `apiVersion`.
    rest: usize,
}

impl Stored {
    /// Encodes an object, with `apiVersion` and `kind` in front.
    pub fn new(value: Value, revision: u64) -> Stored {
        let value = in_front(value);
        let encoded = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
        let rest = rest_of(&value);
        Stored { value: Arc::new(value), revision, encoded, rest }
    }

    /// The encoding in the storage version.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The encoding in a version: shared bytes where it is the storage version.
    pub fn encoded_as(&self, api_version: &str) -> Bytes {
        if self.api_version() == api_version {
            return self.encoded.clone();
        }
        let mut out = BytesMut::with_capacity(self.encoded.len() + api_version.len());
        self.write_as(api_version, &mut out);
        out.freeze()
    }

    /// Appends the encoding in a version.
    pub fn write_as(&self, api_version: &str, out: &mut BytesMut) {
        if self.rest == 0 || self.api_version() == api_version {
            out.put_slice(&self.encoded);
            return;
        }
        out.put_slice(b"{\"apiVersion\":\"");
        out.put_slice(api_version.as_bytes());
        out.put_u8(b'"');
        out.put_slice(&self.encoded[self.rest..]);
    }

    /// The value in a version.
    pub fn value_as(&self, api_version: &str) -> Arc<Value> {
        if self.api_version() == api_version {
            return self.value.clone();
        }
        let mut value = (*self.value).clone();
        value["apiVersion"] = api_version.into();
        Arc::new(value)
    }

    fn api_version(&self) -> &str {
        self.value.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }
}

/// Moves `apiVersion` and `kind` to the front.
fn in_front(value: Value) -> Value {
    let Value::Object(mut map) = value else { return value };
    let mut front = Map::with_capacity(map.len());
    for key in ["apiVersion", "kind"] {
        if let Some(field) = map.shift_remove(key) {
            front.insert(key.to_owned(), field);
        }
    }
    front.extend(map);
    Value::Object(front)
}

/// The length of `{"apiVersion":"..."`; 0 where the object has none (or one that needs escapes, which no served
/// version does).
fn rest_of(value: &Value) -> usize {
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if !version.contains(['"', '\\']) => "{\"apiVersion\":\"".len() + version.len() + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_encoding_follows_the_version() {
        let stored =
            Stored::new(json!({"metadata": {"name": "a"}, "kind": "K", "apiVersion": "g/v1", "spec": 1}), 7);
        let check = |version: &str, expect: &str| assert_eq!(stored.encoded_as(version), expect.as_bytes());
        check("g/v1", r#"{"apiVersion":"g/v1","kind":"K","metadata":{"name":"a"},"spec":1}"#);
        check("g/v1beta1", r#"{"apiVersion":"g/v1beta1","kind":"K","metadata":{"name":"a"},"spec":1}"#);
        assert_eq!(stored.value_as("g/v2")["apiVersion"], "g/v2");
    }
}
