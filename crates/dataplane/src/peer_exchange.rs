//! The messages with which two proxies tell each other who they are, before the bytes of a TCP connection.
//!
//! A magic number and a length of four bytes each, then a `google.protobuf.Any` with a `google.protobuf.Struct`. Source:
//! the metadata exchange filter of Istio's proxy.

use std::collections::BTreeMap;

use lateen_envoy::Any;
use lateen_envoy::google::protobuf;
use lateen_envoy::google::protobuf::value::Kind;
use lateen_envoy::prost::Message;

use crate::istio::{PEER_METADATA, PEER_METADATA_ID, Workload};

/// With which a message begins.
const MAGIC: [u8; 4] = 0x3D23_0467_u32.to_be_bytes();
/// Magic and length.
const HEADER: usize = 8;
/// The longest message that is waited for.
const MAX: usize = 1 << 20;
/// What is in the `Any`.
const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";

/// What we say: who we are, and our node's id.
pub fn message(workload: &Workload, id: &str) -> Vec<u8> {
    let value = |kind| protobuf::Value { kind: Some(kind) };
    let fields = [
        (PEER_METADATA.to_owned(), value(Kind::StructValue(workload.to_struct()))),
        (PEER_METADATA_ID.to_owned(), value(Kind::StringValue(id.to_owned()))),
    ];
    let told =
        protobuf::Struct { fields: fields.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect() };
    let any = Any { type_url: STRUCT.to_owned(), value: told.encode_to_vec().into() };
    let body = any.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(0);
    [&MAGIC[..], &length.to_be_bytes(), &body].concat()
}

/// What a peer begins with.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// More bytes are needed.
    Incomplete,
    /// Something else: the bytes are not ours to take.
    Nothing,
    /// A message of so many bytes, and who it is as far as that was understood.
    Message(usize, Option<Box<Workload>>),
}

/// Reads the first bytes of a peer.
pub fn parse(bytes: &[u8]) -> Told {
    let common = bytes.len().min(MAGIC.len());
    if bytes[..common] != MAGIC[..common] {
        return Told::Nothing;
    }
    let Some(length) = bytes.get(4..HEADER) else { return Told::Incomplete };
    let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    if length > MAX {
        return Told::Nothing;
    }
    match bytes.get(HEADER..HEADER + length) {
        Some(body) => Told::Message(HEADER + length, workload(body).map(Box::new)),
        None => Told::Incomplete,
    }
}

fn workload(body: &[u8]) -> Option<Workload> {
    let any = Any::decode(body).ok().filter(|any| any.type_url == STRUCT)?;
    let mut told = protobuf::Struct::decode(&*any.value).ok()?;
    match told.fields.remove(PEER_METADATA)?.kind? {
        Kind::StructValue(metadata) => Some(Workload::from_metadata(&crate::compile::structure(metadata))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_is_understood_and_other_bytes_are_left_alone() {
        let workload = Workload {
            name: "reviews-v1".into(),
            namespace: "shop".into(),
            canonical_name: "reviews".into(),
            ..Workload::default()
        };
        let bytes = message(&workload, "sidecar~1");
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]), Told::Incomplete, "{length}");
        }
        let more = [&bytes[..], b"GET"].concat();
        assert_eq!(parse(&more), Told::Message(bytes.len(), Some(Box::new(workload))));
        assert_eq!(parse(b"220 hello"), Told::Nothing);
        assert_eq!(parse(&[0x3d, 0x23, 4, 0x67, 0xff, 0xff, 0xff, 0xff]), Told::Nothing);
        // A message that is not understood is taken all the same.
        assert_eq!(parse(&[0x3d, 0x23, 4, 0x67, 0, 0, 0, 1, 9, 9]), Told::Message(9, None));
    }
}
