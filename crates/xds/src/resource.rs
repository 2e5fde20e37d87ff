//! A resource as the server handles it: encoded once, shared by all streams.

use std::sync::Arc;

use bytes::Bytes;
use lateen_envoy::{TypeUrl, to_any};
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

/// An encoded resource. Equal bodies have equal versions, in every process and after every restart; that is what lets
/// a client resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedResource {
    name: Arc<str>,
    version: Arc<str>,
    any: Bytes,
}

impl EncodedResource {
    /// From a body that is encoded already: `any` holds an encoded `google.protobuf.Any`, and `version` changes exactly
    /// when `any` does.
    pub fn new(name: impl Into<Arc<str>>, version: impl Into<Arc<str>>, any: Bytes) -> Self {
        Self { name: name.into(), version: version.into(), any }
    }

    /// Encodes a message; the version is a hash of the bytes.
    pub fn pack<M: Message + TypeUrl>(name: impl Into<Arc<str>>, message: &M) -> Self {
        Self::from_any(name, to_any(message).encode_to_vec().into())
    }

    /// From an encoded `google.protobuf.Any`; the version is a hash of the bytes.
    pub fn from_any(name: impl Into<Arc<str>>, any: Bytes) -> Self {
        let version = format!("{:032x}", xxh3_128(&any));
        Self::new(name, version, any)
    }

    /// The name that clients subscribe to.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The version.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The encoded `google.protobuf.Any`.
    pub fn any(&self) -> &Bytes {
        &self.any
    }
}
