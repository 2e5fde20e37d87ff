//! Resources in the form they are sent, made once for all streams.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

/// One resource, ready to send; or a part of one (a virtual host).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The resource's name.
    pub name: Arc<str>,
    /// A hash of the bytes: equal resources have equal versions, on every replica and after every restart.
    pub version: Arc<str>,
    /// An encoded `google.protobuf.Any` for a resource; the message alone for a part.
    pub bytes: Bytes,
}

/// Field numbers of `google.protobuf.Any`, as tags of length-delimited fields.
const ANY_TYPE_URL: u8 = (1 << 3) | 2;
const ANY_VALUE: u8 = (2 << 3) | 2;

impl Encoded {
    /// Encodes a part.
    pub(crate) fn part(name: impl Into<Arc<str>>, message: &impl prost::Message) -> Self {
        Self::new(name.into(), message.encode_to_vec())
    }

    /// Encodes a resource.
    pub(crate) fn resource(type_url: &str, name: impl Into<Arc<str>>, message: &impl prost::Message) -> Self {
        Self::resource_bytes(type_url, name, &message.encode_to_vec())
    }

    /// Takes a resource whose message is encoded already.
    pub(crate) fn resource_bytes(type_url: &str, name: impl Into<Arc<str>>, message: &[u8]) -> Self {
        let mut any = Vec::with_capacity(type_url.len() + message.len() + 12);
        for (tag, content) in [(ANY_TYPE_URL, type_url.as_bytes()), (ANY_VALUE, message)] {
            any.push(tag);
            prost::encoding::encode_varint(content.len() as u64, &mut any);
            any.extend_from_slice(content);
        }
        Self::new(name.into(), any)
    }

    fn new(name: Arc<str>, bytes: Vec<u8>) -> Self {
        Self { name, version: format!("{:032x}", xxh3_128(&bytes)).into(), bytes: bytes.into() }
    }
}

/// What is all a resource is made from.
pub(crate) trait Key: Hash + Eq + Clone {
    /// Makes the resource. Nothing but `self` may be read.
    fn generate(&self) -> Encoded;
}

impl<K: Key> Key for Arc<K> {
    fn generate(&self) -> Encoded {
        (**self).generate()
    }
}

/// Resources by key. Entries that no class holds any more go when they have become the greater part.
#[derive(Debug)]
pub(crate) struct Cache<K> {
    entries: HashMap<K, Arc<Encoded>>,
    sweep_at: usize,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sweep_at: 1024 }
    }
}

impl<K: Key> Cache<K> {
    /// The resource of this key, generated if it is new.
    pub(crate) fn get(&mut self, key: &K) -> Arc<Encoded> {
        if let Some(encoded) = self.entries.get(key) {
            return Arc::clone(encoded);
        }
        let encoded = Arc::new(key.generate());
        self.entries.insert(key.clone(), Arc::clone(&encoded));
        encoded
    }

    /// The resource of this key, and the key as it is kept: equal ones are kept once.
    pub(crate) fn get_kept(&mut self, key: &K) -> (K, Arc<Encoded>) {
        if let Some((kept, encoded)) = self.entries.get_key_value(key) {
            return (kept.clone(), Arc::clone(encoded));
        }
        (key.clone(), self.get(key))
    }

    /// Forgets what nobody holds, if there is much of it.
    pub(crate) fn sweep(&mut self) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, encoded| Arc::strong_count(encoded) > 1);
            // Keys hold what they were made from, so what is left over is kept small.
            self.sweep_at = self.entries.len() + (self.entries.len() / 8).max(1024);
        }
    }
}
