//! Pools: idle HTTP/1 connections and shared HTTP/2 connections, one set a worker.
//!
//! A pool belongs to a cluster (one version of its configuration) and a host, so that connections made under other
//! settings are never used. When a host leaves its cluster its idle connections end with the next sweep, and those at
//! work when their request ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use lateen_dataplane::circuit::{Entry, RoutePriority};
use lateen_dataplane::cluster::Host;
use lateen_dataplane::head::{RequestHead, ResponseHead};

use super::connect::{ConnectError, Purpose, connect};
use crate::http1::{self, Framing};
use crate::http2;
use crate::message::{BodyReader, BodyWriter, MessageError};
use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::Shared;
use crate::tls::Wanted;

/// Cluster and host, by address: both are held by what is stored under the key.
type Key = (usize, usize);

/// The pools of a worker.
#[derive(Default)]
pub struct Pools {
    http1: RefCell<HashMap<Key, Vec<Idle>, foldhash::fast::RandomState>>,
    http2: RefCell<HashMap<Key, Rc<Http2Host>, foldhash::fast::RandomState>>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pools")
    }
}

/// An HTTP/1 connection and its account.
struct Connection {
    shared: Shared,
    cluster: Arc<ClusterHandle>,
    host: Arc<Host>,
    stats: Arc<Shard>,
    requests: u32,
    made: Instant,
    limited: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stats.decrement(self.cluster.stats.upstream_cx_active);
        if self.limited {
            let limit = self.cluster.config.breakers.default.connections;
            self.cluster.circuit(RoutePriority::Default).connections.leave(limit);
        }
    }
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Http2Host {
    host: Arc<Host>,
    cluster: Arc<ClusterHandle>,
    /// Held while connecting, so that those who come meanwhile wait for the same connection.
    sender: tokio::sync::Mutex<Option<SendRequest<Bytes>>>,
}

/// Why there is nothing to send a request on.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster has as many connections as it may.
    #[error("overflow")]
    Overflow,
}

/// A place to send one request.
pub enum Upstream {
    /// A connection of one's own.
    Http1(Lease),
    /// A stream on a shared connection.
    Http2(SendRequest<Bytes>),
}

/// An HTTP/1 connection lent for one request. It goes back to its pool when the lease is dropped, if both messages
/// were complete; else it is closed.
pub struct Lease {
    connection: Option<Connection>,
    pools: Rc<Pools>,
    /// Whether it had carried a request before.
    pub reused: bool,
    sent: Rc<Cell<bool>>,
    received: Rc<Cell<bool>>,
    keep: Rc<Cell<bool>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let config = &connection.cluster.config;
        let usable = self.sent.get()
            && self.received.get()
            && self.keep.get()
            && !connection.host.is_removed()
            && config.max_requests_per_connection.is_none_or(|limit| connection.requests < limit)
            && config.max_connection_duration.is_none_or(|limit| connection.made.elapsed() < limit);
        if usable {
            self.pools.give_back(connection);
        }
    }
}

/// What is waited for after a request was sent.
pub enum UpstreamResponse {
    /// On an HTTP/1 connection.
    Http1 {
        /// The connection.
        lease: Lease,
        /// Whether the request was a HEAD.
        to_head: bool,
    },
    /// On an HTTP/2 stream.
    Http2(h2::client::ResponseFuture),
}

impl Pools {
    /// A connection to a host.
    pub async fn acquire(
        self: &Rc<Self>,
        stats: &Arc<Shard>,
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        http2: bool,
        fresh: bool,
    ) -> Result<Upstream, AcquireError> {
        let key = (Arc::as_ptr(cluster) as usize, Arc::as_ptr(host) as usize);
        if http2 {
            return self.acquire_http2(stats, cluster, host, key).await.map(Upstream::Http2);
        }
        if !fresh && let Some(connection) = self.take_idle(key) {
            return Ok(Upstream::Http1(self.lease(connection, true)));
        }
        let limits = &cluster.config.breakers.default;
        let gate = &cluster.circuit(RoutePriority::Default).connections;
        let limited = limits.counts_connections();
        if limited && gate.enter(limits.connections) == Entry::Full {
            stats.increment(cluster.stats.upstream_cx_overflow);
            return Err(AcquireError::Overflow);
        }
        let stream = match counted_connect(stats, cluster, host, Wanted::Http1).await {
            Ok(stream) => stream,
            Err(error) => {
                if limited {
                    gate.leave(limits.connections);
                }
                return Err(error.into());
            }
        };
        stats.increment(cluster.stats.upstream_cx_http1_total);
        stats.increment(cluster.stats.upstream_cx_active);
        let connection = Connection {
            shared: Shared::new(stream, BytesMut::new()),
            cluster: Arc::clone(cluster),
            host: Arc::clone(host),
            stats: Arc::clone(stats),
            requests: 0,
            made: Instant::now(),
            limited,
        };
        Ok(Upstream::Http1(self.lease(connection, false)))
    }

    fn lease(self: &Rc<Self>, mut connection: Connection, reused: bool) -> Lease {
        connection.requests += 1;
        Lease {
            connection: Some(connection),
            pools: Rc::clone(self),
            reused,
            sent: Rc::default(),
            received: Rc::default(),
            keep: Rc::default(),
        }
    }

    /// The connection that was used last, if its peer has not closed it.
    fn take_idle(&self, key: Key) -> Option<Connection> {
        let mut pools = self.http1.borrow_mut();
        let idle = pools.get_mut(&key)?;
        while let Some(Idle { connection, .. }) = idle.pop() {
            if !connection.shared.is_stale() {
                return Some(connection);
            }
        }
        pools.remove(&key);
        None
    }

    fn give_back(&self, connection: Connection) {
        connection.shared.release();
        let key = (Arc::as_ptr(&connection.cluster) as usize, Arc::as_ptr(&connection.host) as usize);
        self.http1.borrow_mut().entry(key).or_default().push(Idle { connection, since: Instant::now() });
    }

    async fn acquire_http2(
        self: &Rc<Self>,
        stats: &Arc<Shard>,
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        key: Key,
    ) -> Result<SendRequest<Bytes>, AcquireError> {
        let pool = Rc::clone(self.http2.borrow_mut().entry(key).or_insert_with(|| {
            Rc::new(Http2Host {
                host: Arc::clone(host),
                cluster: Arc::clone(cluster),
                sender: tokio::sync::Mutex::default(),
            })
        }));
        let mut sender = pool.sender.lock().await;
        if let Some(existing) = &*sender {
            // An error says that the connection has ended or will (GOAWAY).
            if let Ok(ready) = existing.clone().ready().await {
                return Ok(ready);
            }
        }
        *sender = None;
        let stream = counted_connect(stats, cluster, host, Wanted::Http2).await?;
        stats.increment(cluster.stats.upstream_cx_http2_total);
        let config = &cluster.config;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(config.initial_stream_window.unwrap_or(1 << 20))
            .initial_connection_window_size(config.initial_connection_window.unwrap_or(16 << 20))
            .max_frame_size(64 * 1024);
        let (made, connection) = builder
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Io(std::io::Error::other(error)))?;
        stats.increment(cluster.stats.upstream_cx_active);
        let (stats, counters) = (Arc::clone(stats), cluster.stats);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
            stats.decrement(counters.upstream_cx_active);
        });
        let ready = made.ready().await.map_err(|error| ConnectError::Io(std::io::Error::other(error)))?;
        *sender = Some(ready.clone());
        Ok(ready)
    }

    /// Ends connections that were idle for too long, and those of hosts or clusters that are gone.
    pub fn sweep(&self, is_current: impl Fn(&Arc<ClusterHandle>) -> bool) {
        self.http1.borrow_mut().retain(|_, idle| {
            idle.retain(|Idle { connection, since }| {
                let config = &connection.cluster.config;
                !connection.host.is_removed()
                    && is_current(&connection.cluster)
                    && config.idle_timeout.is_none_or(|limit| since.elapsed() < limit)
                    && config.max_connection_duration.is_none_or(|limit| connection.made.elapsed() < limit)
                    && !connection.shared.is_stale()
            });
            !idle.is_empty()
        });
        // Without senders the connection ends when its last stream does.
        self.http2.borrow_mut().retain(|_, pool| !pool.host.is_removed() && is_current(&pool.cluster));
    }
}

async fn counted_connect(
    stats: &Arc<Shard>,
    cluster: &Arc<ClusterHandle>,
    host: &Arc<Host>,
    wanted: Wanted,
) -> Result<crate::stream::Stream, ConnectError> {
    stats.increment(cluster.stats.upstream_cx_total);
    let purpose = Purpose { wanted, server_name: None, client: None };
    let connected = connect(stats, cluster, host, purpose).await;
    if let Err(error) = &connected {
        stats.increment(cluster.stats.upstream_cx_connect_fail);
        if matches!(error, ConnectError::Timeout) {
            stats.increment(cluster.stats.upstream_cx_connect_timeout);
        }
    }
    connected
}

impl Upstream {
    /// Whether the connection had carried a request before, and may be going away.
    pub fn reused(&self) -> bool {
        matches!(self, Self::Http1(Lease { reused: true, .. }))
    }

    /// Our end of the connection.
    pub fn local_address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Http1(lease) => {
                lease.connection.as_ref().and_then(|connection| connection.shared.local_address())
            }
            Self::Http2(_) => None,
        }
    }

    /// Sends a head. With `end` there is no body, and everything is sent when this returns.
    pub async fn send(
        self,
        head: &RequestHead,
        end: bool,
        upgrade: Option<&str>,
    ) -> Result<(Option<BodyWriter>, UpstreamResponse), MessageError> {
        match self {
            Self::Http1(lease) => lease.send(head, end, upgrade).await,
            Self::Http2(mut sender) => {
                let request = http2::request(head)?;
                let (response, stream) = sender.send_request(request, end)?;
                let writer = (!end).then(|| BodyWriter::Http2(http2::BodyWriter::new(stream, false)));
                Ok((writer, UpstreamResponse::Http2(response)))
            }
        }
    }
}

impl Lease {
    async fn send(
        self,
        head: &RequestHead,
        end: bool,
        upgrade: Option<&str>,
    ) -> Result<(Option<BodyWriter>, UpstreamResponse), MessageError> {
        let Some(connection) = &self.connection else { return Err(MessageError::Closed) };
        let shared = connection.shared.clone();
        let to_head = head.method() == b"HEAD";
        let length = head.headers.get_str("content-length").and_then(|length| length.parse().ok());
        let framing = match length {
            _ if upgrade.is_some() => Framing::UntilClose,
            _ if end => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        http1::write_request(&mut shared.output(), head, framing, upgrade);
        let writer = if end && upgrade.is_none() {
            shared.flush().await?;
            self.sent.set(true);
            None
        } else {
            Some(BodyWriter::Http1(http1::BodyWriter::new(shared, framing)))
        };
        Ok((writer, UpstreamResponse::Http1 { lease: self, to_head }))
    }
}

impl UpstreamResponse {
    /// Says that the request's body was sent to its end.
    pub fn request_sent(&self) {
        if let Self::Http1 { lease, .. } = self {
            lease.sent.set(true);
        }
    }

    /// The head of the final response (or of a change of protocol), and its body.
    pub async fn head(&mut self) -> Result<(ResponseHead, BodyReader), MessageError> {
        match self {
            Self::Http1 { lease, to_head } => {
                let Some(connection) = &lease.connection else { return Err(MessageError::Closed) };
                let shared = connection.shared.clone();
                let limits = http1::Limits { bytes: 64 * 1024, fields: 256 };
                let mut head = ResponseHead::default();
                loop {
                    let parsed = {
                        let mut input = shared.input();
                        let parsed = http1::parse_response(&input, limits, *to_head, &mut head)
                            .map_err(MessageError::Protocol)?;
                        if let Some(parsed) = &parsed {
                            bytes::Buf::advance(&mut *input, parsed.length);
                        }
                        parsed
                    };
                    match parsed {
                        // An interim answer: the final one follows.
                        Some(_) if (100..200).contains(&head.status) && head.status != 101 => {}
                        Some(_) if head.status == 101 => {
                            let reader = http1::BodyReader::new(shared, Framing::UntilClose, Rc::default());
                            return Ok((head, BodyReader::Http1(reader)));
                        }
                        Some(parsed) => {
                            lease.keep.set(parsed.keep_alive);
                            let received = Rc::clone(&lease.received);
                            let reader = http1::BodyReader::new(shared, parsed.framing, received);
                            let body =
                                if reader.is_done() { BodyReader::Done } else { BodyReader::Http1(reader) };
                            return Ok((head, body));
                        }
                        None => {
                            if shared.fill().await? == 0 {
                                return Err(MessageError::Closed);
                            }
                        }
                    }
                }
            }
            Self::Http2(response) => {
                let (parts, stream) = response.await?.into_parts();
                let body = if stream.is_end_stream() {
                    BodyReader::Done
                } else {
                    BodyReader::Http2(http2::BodyReader::new(stream))
                };
                Ok((http2::response_head(&parts), body))
            }
        }
    }

    /// Whether any byte of an answer came.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Http1 { lease, .. } => {
                lease.connection.as_ref().is_some_and(|connection| !connection.shared.input().is_empty())
            }
            Self::Http2(_) => false,
        }
    }
}
