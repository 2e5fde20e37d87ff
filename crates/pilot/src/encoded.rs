//! Resources in the form they are sent, made once for all streams.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

/// One resource, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The resource's name.
    pub name: String,
    /// A hash of the bytes: equal resources have equal versions, on every replica and after every restart.
    pub version: String,
    /// The encoded message, without the `Any` around it.
    pub bytes: Bytes,
}

impl Encoded {
    /// Encodes a message.
    pub(crate) fn message(name: impl Into<String>, message: &impl prost::Message) -> Self {
        Self::bytes(name, message.encode_to_vec())
    }

    /// Takes a message that is encoded already.
    pub(crate) fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), version: format!("{:032x}", xxh3_128(&bytes)), bytes: bytes.into() }
    }
}

/// What is all a resource is made from.
pub(crate) trait Key: Hash + Eq + Clone {
    /// Makes the resource. Nothing but `self` may be read.
    fn generate(&self) -> Encoded;
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

    /// Forgets what nobody holds, if there is much of it.
    pub(crate) fn sweep(&mut self) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, encoded| Arc::strong_count(encoded) > 1);
            self.sweep_at = (self.entries.len() * 2).max(1024);
        }
    }
}
