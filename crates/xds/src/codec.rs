//! Codecs for tonic: requests as messages, responses put together from shared bytes, and streams passed through.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::server::Response;

/// The usual Protobuf codec, in both directions.
pub(crate) struct MessageCodec<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for MessageCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for MessageCodec<E, D>
where
    E: Message + Send + Sync + 'static,
    D: Message + Default + Send + Sync + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = MessageCoder<E>;
    type Decoder = MessageCoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageCoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageCoder(PhantomData)
    }
}

pub(crate) struct MessageCoder<M>(PhantomData<fn(M) -> M>);

impl<M: Message> Encoder for MessageCoder<M> {
    type Item = M;
    type Error = Status;

    fn encode(&mut self, item: M, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<M: Message + Default> Decoder for MessageCoder<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        // One shared buffer first: the bodies inside the message are slices of it.
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        M::decode(bytes).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// The server's side: requests are decoded, responses written from parts.
pub(crate) struct ServerCodec<D>(PhantomData<fn(D) -> D>);

impl<D> Default for ServerCodec<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default + Send + Sync + 'static> Codec for ServerCodec<D> {
    type Encode = Response;
    type Decode = D;
    type Encoder = ResponseEncoder;
    type Decoder = MessageCoder<D>;

    fn encoder(&mut self) -> ResponseEncoder {
        ResponseEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageCoder(PhantomData)
    }
}

pub(crate) struct ResponseEncoder;

impl Encoder for ResponseEncoder {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, item: Response, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_size_hint());
        item.encode_to(buffer);
        Ok(())
    }
}

impl Response {
    pub(crate) fn encoded_size_hint(&self) -> usize {
        let resources: usize = self
            .resources
            .iter()
            .map(|resource| resource.any().len() + resource.name().len() + resource.version().len() + 32)
            .sum();
        let removed: usize = self.removed.iter().map(|name| name.len() + 8).sum();
        resources
            + removed
            + self.type_url.len()
            + self.version.len()
            + self.nonce.len()
            + 64
            + self.identifier.len()
    }

    /// Writes a `DiscoveryResponse` or `DeltaDiscoveryResponse` (envoy/service/discovery/v3/discovery.proto).
    pub(crate) fn encode_to(&self, buffer: &mut impl BufMut) {
        text(1, &self.version, buffer);
        for resource in &self.resources {
            if self.delta {
                // message Resource { string version = 1; Any resource = 2; string name = 3; }
                let length = text_len(1, resource.version())
                    + field_len(2, resource.any().len())
                    + text_len(3, resource.name());
                encode_key(2, WireType::LengthDelimited, buffer);
                encode_varint(length as u64, buffer);
                text(1, resource.version(), buffer);
                field(2, resource.any(), buffer);
                text(3, resource.name(), buffer);
            } else {
                field(2, resource.any(), buffer);
            }
        }
        text(4, &self.type_url, buffer);
        text(5, &self.nonce, buffer);
        for name in &self.removed {
            field(6, name.as_bytes(), buffer);
        }
        if !self.identifier.is_empty() {
            // message ControlPlane { string identifier = 1; }
            encode_key(if self.delta { 7 } else { 6 }, WireType::LengthDelimited, buffer);
            encode_varint(text_len(1, &self.identifier) as u64, buffer);
            text(1, &self.identifier, buffer);
        }
    }
}

fn text(number: u32, text: &str, buffer: &mut impl BufMut) {
    if !text.is_empty() {
        field(number, text.as_bytes(), buffer);
    }
}

fn field(number: u32, bytes: &[u8], buffer: &mut impl BufMut) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(bytes.len() as u64, buffer);
    buffer.put_slice(bytes);
}

fn text_len(number: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { field_len(number, text.len()) }
}

fn field_len(number: u32, length: usize) -> usize {
    key_len(number) + encoded_len_varint(length as u64) + length
}

/// Passes encoded messages through, unread.
#[derive(Default)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCoder;
    type Decoder = RawCoder;

    fn encoder(&mut self) -> RawCoder {
        RawCoder
    }

    fn decoder(&mut self) -> RawCoder {
        RawCoder
    }
}

pub(crate) struct RawCoder;

impl Encoder for RawCoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lateen_envoy::envoy::config::cluster::v3::Cluster;
    use lateen_envoy::envoy::config::core::v3::ControlPlane;
    use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
    use lateen_envoy::to_any;

    use super::*;
    use crate::EncodedResource;

    fn response(delta: bool) -> (Response, Cluster) {
        let cluster = Cluster { name: "a".into(), ..Default::default() };
        let response = Response {
            delta,
            version: "7".into(),
            nonce: "n".into(),
            type_url: "t".into(),
            resources: vec![Arc::new(EncodedResource::pack("a", &cluster))],
            removed: if delta { vec!["b".into(), "c".into()] } else { Vec::new() },
            identifier: "me".into(),
        };
        (response, cluster)
    }

    #[test]
    fn responses_written_from_parts_decode_as_the_messages_they_are() {
        let control_plane = Some(ControlPlane { identifier: "me".into() });
        let (delta, cluster) = response(true);
        let mut buffer = Vec::new();
        delta.encode_to(&mut buffer);
        assert!(delta.encoded_size_hint() >= buffer.len());
        assert_eq!(
            DeltaDiscoveryResponse::decode(buffer.as_slice()).unwrap(),
            DeltaDiscoveryResponse {
                system_version_info: "7".into(),
                nonce: "n".into(),
                type_url: "t".into(),
                resources: vec![Resource {
                    name: "a".into(),
                    version: delta.resources[0].version().to_string(),
                    resource: Some(to_any(&cluster)),
                    ..Default::default()
                }],
                removed_resources: vec!["b".into(), "c".into()],
                control_plane: control_plane.clone(),
                ..Default::default()
            }
        );
        let (sotw, cluster) = response(false);
        let mut buffer = Vec::new();
        sotw.encode_to(&mut buffer);
        assert_eq!(
            DiscoveryResponse::decode(buffer.as_slice()).unwrap(),
            DiscoveryResponse {
                version_info: "7".into(),
                nonce: "n".into(),
                type_url: "t".into(),
                resources: vec![to_any(&cluster)],
                control_plane,
                ..Default::default()
            }
        );
    }
}
