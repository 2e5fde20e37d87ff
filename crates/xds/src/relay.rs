//! Forwards ADS streams byte for byte.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use http::uri::PathAndQuery;
use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use lateen_envoy::google::rpc::Status as RpcStatus;
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::KeyAndValueRef;
use tonic::server::{NamedService, StreamingService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::codec::RawCodec;
use crate::transport::{MetadataSource, full_reason};
use crate::{DELTA_PATH, SERVICE, SOTW_PATH};

/// A service for tonic's router that forwards both kinds of ADS stream to a channel, messages unread. A stream ends
/// with the status that the other side ended it with.
#[derive(Clone)]
pub struct Relay {
    upstream: Channel,
    metadata: MetadataSource,
    reports: Option<watch::Receiver<Option<Report>>>,
}

/// Something that is reported to the server on every stream, beside what the client says: a request of a type that
/// carries no resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The type.
    pub type_url: &'static str,
    /// What is wrong; nothing where all is well.
    pub error: Option<String>,
}

impl Relay {
    /// Forwards to `upstream`; `metadata` is asked once per stream, and its values replace those the client sent.
    pub fn new(upstream: Channel, metadata: MetadataSource) -> Self {
        Self { upstream, metadata, reports: None }
    }

    /// Also reports the latest value of `reports`: on each stream once it is open, and whenever it changes.
    pub fn reporting(self, reports: watch::Receiver<Option<Report>>) -> Self {
        Self { reports: Some(reports), ..self }
    }

    /// Serves on a Unix socket until `shutdown` completes, then lets no stream linger: streams of a discovery service
    /// never end by themselves.
    pub async fn serve_unix(
        self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let server = tonic::transport::Server::builder()
            .http2_adaptive_window(Some(true))
            .add_service(self)
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::select! {
            result = server => result,
            () = shutdown => Ok(()),
        }
    }
}

impl NamedService for Relay {
    const NAME: &'static str = SERVICE;
}

impl<B> tower::Service<http::Request<B>> for Relay
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let relay = self.clone();
        let path = match request.uri().path() {
            DELTA_PATH => DELTA_PATH,
            SOTW_PATH => SOTW_PATH,
            path => {
                let status = Status::unimplemented(format!("{path} is not relayed"));
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(RawCodec).max_decoding_message_size(usize::MAX);
            Ok(grpc.streaming(Forward { relay, path }, request).await)
        })
    }
}

struct Forward {
    relay: Relay,
    path: &'static str,
}

impl StreamingService<Bytes> for Forward {
    type Response = Bytes;
    type ResponseStream = BoxStream<'static, Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(self.relay.clone().forward(request, self.path))
    }
}

impl Relay {
    async fn forward(
        self,
        request: Request<Streaming<Bytes>>,
        path: &'static str,
    ) -> Result<Response<BoxStream<'static, Result<Bytes, Status>>>, Status> {
        let added = (self.metadata)().await?;
        let (mut metadata, _, inbound) = request.into_parts();
        for entry in added.iter() {
            match entry {
                KeyAndValueRef::Ascii(key, value) => {
                    metadata.insert(key, value.clone());
                }
                KeyAndValueRef::Binary(key, value) => {
                    metadata.insert_bin(key, value.clone());
                }
            }
        }
        // A client that breaks off ends the stream to the server too.
        let messages = inbound
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(|message| std::future::ready(message.ok()));
        let messages = with_reports(messages.boxed(), self.reports, path == DELTA_PATH).await;
        let mut outgoing = Request::new(messages);
        *outgoing.metadata_mut() = metadata;

        let mut grpc = tonic::client::Grpc::new(self.upstream).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| unreachable_upstream(&error))?;
        let response =
            grpc.streaming(outgoing, PathAndQuery::from_static(path), RawCodec).await.map_err(|status| {
                // A status with a cause is the transport's; one without came from the server.
                match std::error::Error::source(&status) {
                    Some(cause) => unreachable_upstream(cause),
                    None => status,
                }
            })?;
        Ok(Response::new(response.into_inner().boxed()))
    }
}

/// Puts reports between a client's messages. The client's first one stays the first: it says who the client is.
async fn with_reports(
    mut messages: BoxStream<'static, Bytes>,
    reports: Option<watch::Receiver<Option<Report>>>,
    delta: bool,
) -> BoxStream<'static, Bytes> {
    let Some(reports) = reports else { return messages };
    let Some(first) = messages.next().await else { return messages };
    let reports = stream::unfold((reports, true), move |(mut reports, mut first)| async move {
        loop {
            if !std::mem::take(&mut first) {
                reports.changed().await.ok()?;
            }
            let report = reports.borrow_and_update().clone();
            if let Some(report) = report {
                return Some((Some(report.encode(delta)), (reports, false)));
            }
        }
    });
    // The stream ends with the client's messages, whatever there may be to report.
    let rest = messages.map(Some).chain(stream::once(std::future::ready(None)));
    let both = stream::select(rest, reports).take_while(|message| std::future::ready(message.is_some()));
    let both = both.filter_map(std::future::ready);
    stream::once(std::future::ready(first)).chain(both).boxed()
}

impl Report {
    fn encode(&self, delta: bool) -> Bytes {
        let type_url = self.type_url.to_owned();
        // gRPC's code for INTERNAL, as Istio's agents send it.
        let status =
            |message: &String| RpcStatus { code: 13, message: message.clone(), ..RpcStatus::default() };
        let error_detail = self.error.as_ref().map(status);
        let bytes = match delta {
            true => DeltaDiscoveryRequest { type_url, error_detail, ..Default::default() }.encode_to_vec(),
            false => DiscoveryRequest { type_url, error_detail, ..Default::default() }.encode_to_vec(),
        };
        bytes.into()
    }
}

fn unreachable_upstream(error: &(dyn std::error::Error + 'static)) -> Status {
    Status::unavailable(format!("the control plane cannot be reached: {}", full_reason(error)))
}
