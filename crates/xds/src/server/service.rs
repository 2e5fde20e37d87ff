//! The gRPC service, described by hand: two methods, and framing of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use lateen_envoy::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

use super::ServerOptions;
use super::framing::{Requests, Responses};
use super::status::Streams;
use super::stream::{self, DiscoveryMessage, Head};
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
    B::Data: Send,
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
                Some(Protocol::Delta) => server.stream::<DeltaDiscoveryRequest, B>(request),
                Some(Protocol::Sotw) => server.stream::<DiscoveryRequest, B>(request),
                None => {
                    let path = request.uri().path();
                    Status::unimplemented(format!("{path} is not served here")).into_http()
                }
            })
        })
    }
}

impl<S: ResourceSource> AdsServer<S> {
    fn stream<R, B>(self, request: http::Request<B>) -> http::Response<Body>
    where
        R: DiscoveryMessage,
        B: HttpBody + Send + 'static,
        B::Data: Send,
        B::Error: Into<StdError> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let remote_address = remote_address(&parts.extensions);
        let metadata = MetadataMap::from_headers(parts.headers);
        let head = Head { metadata, extensions: parts.extensions, remote_address };
        // One response waits for the connection; the next is built when it has gone.
        let (outbound, responses) = mpsc::channel(1);
        let Self { source, options, streams } = self;
        let inbound = Requests::<R, B>::new(body);
        let run = stream::run(source, options, streams, head, inbound, outbound);
        let mut response = http::Response::new(Body::new(Responses::new(responses, run)));
        let content_type = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        response
    }
}

/// The peer's address, as the transport below noted it.
fn remote_address(extensions: &http::Extensions) -> Option<SocketAddr> {
    let plain = extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    let secure = || extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.get_ref().remote_addr();
    plain.or_else(secure)
}
