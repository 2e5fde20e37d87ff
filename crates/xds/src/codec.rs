//! Codecs for tonic: messages, and streams passed through.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

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

/// Passes encoded messages through, unread.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawCodec;

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

/// Both directions of [`RawCodec`].
#[derive(Debug, Clone, Copy)]
pub struct RawCoder;

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
