//! The gRPC service, described by hand: two methods, and a codec of its own for responses.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Status, Streaming};

use super::status::Streams;
use super::stream::{self, DiscoveryMessage, Head};
use super::{Response, ServerOptions};
use crate::codec::ServerCodec;
use crate::path::protocol_of;
use crate::source::ResourceSource;
use crate::{Protocol, SERVICE};

/// Serves the aggregated discovery service from a source; a service for tonic's router. Clones share everything.
pub struct AdsServer<S> {
    source: Arc<S>,
    options: Arc<ServerOptions>,
    streams: Streams,
}

impl<S: ResourceSource> AdsServer<S> {
    /// A server of what the source says.
    pub fn new(source: S, options: ServerOptions) -> Self {
        Self { source: Arc::new(source), options: Arc::new(options), streams: Streams::default() }
    }

    /// The connected clients, now and later.
    pub fn streams(&self) -> Streams {
        self.streams.clone()
    }
}

impl<S> Clone for AdsServer<S> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), options: self.options.clone(), streams: self.streams.clone() }
    }
}

impl<S> NamedService for AdsServer<S> {
    const NAME: &'static str = SERVICE;
}

impl<S, B> tower::Service<http::Request<B>> for AdsServer<S>
where
    S: ResourceSource,
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
        let server = self.clone();
        Box::pin(async move {
            Ok(match protocol_of(request.uri().path()) {
                Some(Protocol::Delta) => server.stream::<DeltaDiscoveryRequest, B>(request).await,
                Some(Protocol::Sotw) => server.stream::<DiscoveryRequest, B>(request).await,
                None => {
                    let path = request.uri().path();
                    Status::unimplemented(format!("{path} is not served here")).into_http()
                }
            })
        })
    }
}

impl<S: ResourceSource> AdsServer<S> {
    async fn stream<R, B>(self, request: http::Request<B>) -> http::Response<Body>
    where
        R: DiscoveryMessage,
        B: HttpBody + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        Grpc::new(ServerCodec::<R>::default())
            // A client that resumes lists all it holds.
            .max_decoding_message_size(usize::MAX)
            .streaming(Method(self), request)
            .await
    }
}

struct Method<S>(AdsServer<S>);

impl<S: ResourceSource, R: DiscoveryMessage> StreamingService<R> for Method<S> {
    type Response = Response;
    type ResponseStream = ReceiverStream<Result<Response, Status>>;
    type Future = std::future::Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<R>>) -> Self::Future {
        let remote_address = request.remote_addr();
        let (metadata, extensions, inbound) = request.into_parts();
        let head = Head { metadata, extensions, remote_address };
        // One response waits for the connection; the next is built when it has gone.
        let (outbound, responses) = mpsc::channel(1);
        let AdsServer { source, options, streams } = self.0.clone();
        tokio::spawn(stream::run(source, options, streams, head, inbound, outbound));
        std::future::ready(Ok(tonic::Response::new(ReceiverStream::new(responses))))
    }
}
