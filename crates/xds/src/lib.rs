//! The discovery protocol (xDS) and nothing else: state of the world and delta, server and client, subscriptions,
//! versions, nonces, ACK and NACK. It knows no resource kind: types are opaque URLs and bodies are opaque bytes.
//!
//! # Serving
//!
//! A control plane implements [`ResourceSource`] (a stream opens: who is it, may it?) and [`Subscriber`] (what should
//! this client hold, and what of it has just changed?), and mounts an [`AdsServer`] on a tonic router:
//!
//! ```no_run
//! # async fn serve(source: impl lateen_xds::ResourceSource, incoming: tokio_stream::wrappers::TcpListenerStream) {
//! use lateen_xds::{AdsServer, ServerOptions};
//! let server = AdsServer::new(source, ServerOptions {
//!     order: vec!["type.googleapis.com/envoy.config.cluster.v3.Cluster".into() /* endpoints, listeners, routes */],
//!     ..Default::default()
//! });
//! let status = server.streams(); // cheap to clone; status.snapshot() lists every stream for proxy-status
//! tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming).await.ok();
//! # }
//! ```
//!
//! The server keeps, per stream, what the client holds against what it should hold, and sends the difference. There is
//! one task and at most one response of a type under way per stream; changes meanwhile merge, so a slow client costs
//! nobody else, and nothing waits for a timer. A response is put together from shared [`EncodedResource`]s: a push to a
//! thousand clients encodes each body once, and copies it once per client, into the frame. Types are pushed in the
//! order of [`ServerOptions::order`]; what a client must no longer have is taken away only after the later types have
//! been accepted (make before break).
//!
//! # Consuming
//!
//! [`client::start`] keeps one stream to a server, delta unless told otherwise, and hands every response to a
//! [`client::Handler`], which answers with the resources it rejects. See [`client`].
//!
//! # Relaying
//!
//! [`relay::Relay`] forwards ADS streams byte for byte to another channel, adding metadata (a token): an agent offers it
//! on a Unix socket, so that a stock Envoy reaches the control plane. It can add requests of its own to every stream, by which
//! the agent reports something ([`relay::Report`]). [`transport`] makes channels, and token sources
//! that are read again for every stream.

pub mod client;
mod codec;
mod name;
mod path;
pub mod relay;
mod resource;
mod server;
mod source;
pub mod transport;

pub use codec::{RawCodec, RawCoder};
pub use name::resource_name;
pub use path::service_path;
pub use resource::EncodedResource;
pub use server::{
    AdsServer, Protocol, Rejection, ServerOptions, StreamId, StreamStatus, Streams, SyncState, TypeStatus,
};
pub use source::{ChangeSet, Client, Event, Holding, ResourceSource, Subscriber};

/// The gRPC service that all of this speaks.
pub const SERVICE: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
/// Path of the state-of-the-world method.
pub const SOTW_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// Path of the delta method.
pub const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
