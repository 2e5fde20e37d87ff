//! gRPC's framing, by hand (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): a stream keeps no buffer
//! while it is quiet, and a response is written piece by piece as the connection takes it, from the shared bytes of its
//! resources. What a slow client has not yet taken costs a few kilobytes.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::StdError;

use super::Response;
use crate::EncodedResource;

/// A flag and the length.
const HEAD: usize = 5;
/// How much is put together before it is handed on.
const PIECE: usize = 16 * 1024;
/// Bodies from this size on are handed on as they are, not copied.
const LARGE: usize = 4 * 1024;
/// The longest request: a client that resumes lists all it holds.
const MAX_REQUEST: usize = 256 * 1024 * 1024;

/// The requests of a stream.
pub(super) struct Requests<R, B> {
    body: Pin<Box<B>>,
    buffer: BytesMut,
    kind: PhantomData<fn() -> R>,
}

impl<R, B> Requests<R, B>
where
    R: Message + Default,
    B: Body,
    B::Error: Into<StdError>,
{
    pub(super) fn new(body: B) -> Self {
        Self { body: Box::pin(body), buffer: BytesMut::new(), kind: PhantomData }
    }

    /// The next request; `None` where the client has ended its side. Cancelling the wait loses nothing.
    pub(super) async fn message(&mut self) -> Result<Option<R>, Status> {
        loop {
            if let Some(request) = self.buffered()? {
                return Ok(Some(request));
            }
            let next = std::future::poll_fn(|context| self.body.as_mut().poll_frame(context)).await;
            match next {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.put(data);
                    }
                }
                Some(Err(error)) => return Err(Status::from_error(error.into())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a request")),
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<R>, Status> {
        let Some((head, rest)) = self.buffer.split_at_checked(HEAD) else { return Ok(None) };
        if head[0] != 0 {
            return Err(Status::unimplemented("compressed requests are not understood here"));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_REQUEST {
            return Err(Status::resource_exhausted(format!(
                "a request of {length} bytes is too long; {MAX_REQUEST} is the limit"
            )));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let request = R::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.buffer.advance(HEAD + length);
        if self.buffer.is_empty() {
            // A quiet stream keeps no buffer.
            self.buffer = BytesMut::new();
        }
        Ok(Some(request))
    }
}

/// The body of a stream's answer. It is also what drives the stream: a task of its own would be woken for every message
/// only to wake this one.
pub(super) struct Responses {
    /// Until it has ended.
    run: Option<BoxFuture<'static, ()>>,
    source: mpsc::Receiver<Result<Box<Response>, Status>>,
    writer: Option<Writer>,
    ended: bool,
}

impl Responses {
    /// What `run` sends to `source`, for as long as it runs.
    pub(super) fn new(
        source: mpsc::Receiver<Result<Box<Response>, Status>>,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { run: Some(Box::pin(run)), source, writer: None, ended: false }
    }
}

impl Body for Responses {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(writer) = &mut self.writer {
                if let Some(piece) = writer.next() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                self.writer = None;
            }
            if let Some(run) = &mut self.run
                && run.as_mut().poll(context).is_ready()
            {
                self.run = None;
            }
            let status = match ready!(self.source.poll_recv(context)) {
                Some(Ok(response)) => {
                    self.writer = Some(Writer::new(response));
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.ended = true;
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

/// A response on its way: a `DiscoveryResponse` or `DeltaDiscoveryResponse`
/// (envoy/service/discovery/v3/discovery.proto) in pieces.
struct Writer {
    response: Box<Response>,
    /// How many of the parts are written: the head, each resource, the tail.
    written: usize,
    /// A body that goes as it is, after what was put together before it.
    waiting: Option<Bytes>,
    /// What followed that body within the same part.
    after: Vec<u8>,
}

impl Writer {
    fn new(response: Box<Response>) -> Self {
        Self { response, written: 0, waiting: None, after: Vec::new() }
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(body) = self.waiting.take() {
            return Some(body);
        }
        let mut piece = std::mem::take(&mut self.after);
        while piece.len() < PIECE {
            let response = &*self.response;
            let part = self.written;
            if part > response.resources.len() + 1 {
                break;
            }
            self.written += 1;
            if part == 0 {
                response.put_head(&mut piece);
            } else if let Some(resource) = response.resources.get(part - 1) {
                if resource.any().len() >= LARGE {
                    response.put_resource_head(resource, &mut piece);
                    response.put_resource_tail(resource, &mut self.after);
                    self.waiting = Some(resource.any().clone());
                    break;
                }
                piece.reserve(resource.any().len() + resource.name().len() + 64);
                response.put_resource_head(resource, &mut piece);
                piece.put_slice(resource.any());
                response.put_resource_tail(resource, &mut piece);
            } else {
                response.put_tail(&mut piece);
            }
        }
        if piece.is_empty() { self.waiting.take() } else { Some(piece.into()) }
    }
}

impl Response {
    fn message_len(&self) -> usize {
        let resources: usize = self.resources.iter().map(|resource| self.resource_len(resource)).sum();
        let removed: usize = self.removed.iter().map(|name| field_len(6, name.len())).sum();
        let identifier = match self.identifier.len() {
            0 => 0,
            _ => field_len(7, text_len(1, &self.identifier)),
        };
        text_len(1, &self.version)
            + resources
            + text_len(4, &self.type_url)
            + text_len(5, &self.nonce)
            + removed
            + identifier
    }

    /// The length of field 2: `Any`, or `message Resource { string version = 1; Any resource = 2; string name = 3; }`.
    fn resource_len(&self, resource: &EncodedResource) -> usize {
        field_len(2, if self.delta { wrapped_len(resource) } else { resource.any().len() })
    }

    /// The frame's head and what comes before the resources.
    fn put_head(&self, buffer: &mut impl BufMut) {
        buffer.put_u8(0);
        buffer.put_u32(u32::try_from(self.message_len()).unwrap_or(u32::MAX));
        text(1, &self.version, buffer);
    }

    fn put_resource_head(&self, resource: &EncodedResource, buffer: &mut impl BufMut) {
        encode_key(2, WireType::LengthDelimited, buffer);
        if self.delta {
            encode_varint(wrapped_len(resource) as u64, buffer);
            text(1, resource.version(), buffer);
            encode_key(2, WireType::LengthDelimited, buffer);
        }
        encode_varint(resource.any().len() as u64, buffer);
    }

    fn put_resource_tail(&self, resource: &EncodedResource, buffer: &mut impl BufMut) {
        if self.delta {
            text(3, resource.name(), buffer);
        }
    }

    fn put_tail(&self, buffer: &mut impl BufMut) {
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

fn wrapped_len(resource: &EncodedResource) -> usize {
    text_len(1, resource.version()) + field_len(2, resource.any().len()) + text_len(3, resource.name())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};
    use lateen_envoy::envoy::config::cluster::v3::Cluster;
    use lateen_envoy::envoy::config::core::v3::ControlPlane;
    use lateen_envoy::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryResponse, Resource,
    };
    use lateen_envoy::to_any;

    use super::*;

    /// Resources of which one is large enough to go uncopied.
    fn response(delta: bool) -> (Response, Vec<Cluster>) {
        let named = |name: &str, size| Cluster {
            name: name.into(),
            alt_stat_name: "x".repeat(size),
            ..Default::default()
        };
        let clusters = vec![named("a", 1), named("b", PIECE * 2), named("c", LARGE), named("d", 10)];
        let resources =
            clusters.iter().map(|one| Arc::new(EncodedResource::pack(one.name.as_str(), one))).collect();
        let response = Response {
            delta,
            version: "7".into(),
            nonce: "n".into(),
            type_url: "t".into(),
            resources,
            removed: if delta { vec!["b".into(), "c".into()] } else { Vec::new() },
            identifier: "me".into(),
        };
        (response, clusters)
    }

    fn written(response: Response) -> Vec<u8> {
        let mut writer = Writer::new(Box::new(response));
        let mut all = Vec::new();
        while let Some(piece) = writer.next() {
            assert!(!piece.is_empty(), "an empty frame");
            all.extend_from_slice(&piece);
        }
        let length = u32::from_be_bytes([all[1], all[2], all[3], all[4]]) as usize;
        assert_eq!((all[0], length), (0, all.len() - HEAD), "the frame's head");
        all.split_off(HEAD)
    }

    #[test]
    fn responses_written_in_pieces_decode_as_the_messages_they_are() {
        let control_plane = Some(ControlPlane { identifier: "me".into() });
        let (delta, clusters) = response(true);
        let version = |index: usize| delta.resources[index].version().to_string();
        let resources = clusters.iter().enumerate().map(|(index, cluster)| Resource {
            name: cluster.name.clone(),
            version: version(index),
            resource: Some(to_any(cluster)),
            ..Default::default()
        });
        let expected = DeltaDiscoveryResponse {
            system_version_info: "7".into(),
            nonce: "n".into(),
            type_url: "t".into(),
            resources: resources.collect(),
            removed_resources: vec!["b".into(), "c".into()],
            control_plane: control_plane.clone(),
            ..Default::default()
        };
        assert_eq!(DeltaDiscoveryResponse::decode(written(delta).as_slice()).unwrap(), expected);
        let (sotw, clusters) = response(false);
        assert_eq!(
            DiscoveryResponse::decode(written(sotw).as_slice()).unwrap(),
            DiscoveryResponse {
                version_info: "7".into(),
                nonce: "n".into(),
                type_url: "t".into(),
                resources: clusters.iter().map(to_any).collect(),
                control_plane,
                ..Default::default()
            }
        );
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_status() {
        let (sender, receiver) = mpsc::channel(1);
        let run = async move {
            tokio::task::yield_now().await;
            sender.send(Err(Status::permission_denied("no"))).await.unwrap();
        };
        let collected = Responses::new(receiver, run).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "7");
        let (sender, receiver) = mpsc::channel(1);
        let collected = Responses::new(receiver, async move { drop(sender) }).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    }

    #[tokio::test]
    async fn requests_are_read_whatever_the_frames_are() {
        let request =
            |nonce: &str| DeltaDiscoveryRequest { response_nonce: nonce.into(), ..Default::default() };
        let mut bytes = Vec::new();
        for nonce in ["a", "b"] {
            let message = request(nonce).encode_to_vec();
            bytes.push(0);
            bytes.extend((message.len() as u32).to_be_bytes());
            bytes.extend(message);
        }
        for cut in 0..=bytes.len() {
            let pieces = [&bytes[..cut], &bytes[cut..]]
                .map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece))));
            let body = http_body_util::StreamBody::new(futures::stream::iter(pieces));
            let mut requests: Requests<DeltaDiscoveryRequest, _> = Requests::new(body);
            for nonce in ["a", "b"] {
                assert_eq!(requests.message().await.unwrap(), Some(request(nonce)), "cut at {cut}");
            }
            assert_eq!(requests.message().await.unwrap(), None, "cut at {cut}");
            assert_eq!(requests.buffer.capacity(), 0, "nothing is kept");
        }
        for (name, bytes, code) in [
            ("cut short", &bytes[..7], tonic::Code::Internal),
            ("compressed", &[1, 0, 0, 0, 0][..], tonic::Code::Unimplemented),
            ("too long", &[0, 255, 255, 255, 255][..], tonic::Code::ResourceExhausted),
            ("no message", &[0, 0, 0, 0, 1, 255][..], tonic::Code::InvalidArgument),
        ] {
            let body = Full::new(Bytes::copy_from_slice(bytes));
            let mut requests: Requests<DeltaDiscoveryRequest, _> = Requests::new(body);
            assert_eq!(requests.message().await.unwrap_err().code(), code, "{name}");
        }
    }
}
