//! Channels to a discovery server, and metadata for its streams.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

/// Asked for the metadata of each stream before it opens, so that a token that was renewed is used.
pub type MetadataSource = Arc<dyn Fn() -> BoxFuture<'static, Result<MetadataMap, Status>> + Send + Sync>;

/// No metadata.
pub fn no_metadata() -> MetadataSource {
    Arc::new(|| Box::pin(std::future::ready(Ok(MetadataMap::new()))))
}

/// `authorization: Bearer ...` with the token in a file, which is read for every stream.
pub fn bearer_token_file(path: impl Into<PathBuf>) -> MetadataSource {
    let path: Arc<Path> = Arc::from(path.into());
    Arc::new(move || {
        let path = path.clone();
        Box::pin(async move {
            let token = tokio::fs::read_to_string(&path).await.map_err(|error| {
                Status::unauthenticated(format!("the token {} cannot be read: {error}", path.display()))
            })?;
            let value = format!("Bearer {}", token.trim()).parse().map_err(|_| {
                Status::unauthenticated(format!("{} holds no token: it is not plain text", path.display()))
            })?;
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", value);
            Ok(metadata)
        })
    })
}

/// A channel over a Unix socket; connects when first used, and again when it was lost.
pub fn unix_channel(path: impl Into<PathBuf>) -> Channel {
    let path: Arc<Path> = Arc::from(path.into());
    // The address is a formality: the connector knows where to go.
    keep_alive(Endpoint::from_static("http://localhost")).connect_with_connector_lazy(tower::service_fn(
        move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
        },
    ))
}

/// A connection of any kind.
pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// A channel over connections that somebody else makes; connects when first used, and again when it was lost.
pub fn channel_through<F, C>(connect: F) -> Channel
where
    F: Fn() -> C + Send + 'static,
    C: Future<Output = std::io::Result<Box<dyn Io>>> + Send + 'static,
{
    keep_alive(Endpoint::from_static("http://localhost")).connect_with_connector_lazy(tower::service_fn(
        move |_: http::Uri| {
            let connection = connect();
            async move { connection.await.map(TokioIo::new) }
        },
    ))
}

/// Settings that notice a dead peer on an idle stream within half a minute.
pub fn keep_alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        // Full state of a large mesh is megabytes: more room than a request needs.
        .http2_adaptive_window(true)
}

/// A transport error says little; its causes say what failed.
pub(crate) fn full_reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason.push_str(": ");
        reason.push_str(&cause.to_string());
        source = cause.source();
    }
    reason
}
