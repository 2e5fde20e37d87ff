//! Pools: idle HTTP/1 connections and shared HTTP/2 connections, one set a worker.
//!
//! A pool belongs to a cluster (one version of its configuration) and a host, so that connections made under other
//! settings are never used. When a host leaves its cluster its idle connections end with the next sweep, and those at
//! work when their request ends.

mod account;
mod http1;
mod http2;
mod metered;
mod response;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;
use lateen_dataplane::head::RequestHead;
use lateen_dataplane::stream_info::{HeadSize, Protocol};

use self::account::{Account, CountedAs};
use self::http1::Connection;
use self::http2::Found;
pub use self::http2::{Stream as Http2Stream, StreamGuard};
use super::connect::{ConnectError, Dialing};
use super::limits::{Limited, Place};
use crate::http1::{self as codec1, Framing};
use crate::http2 as codec2;
use crate::message::{BodyWriter, MessageError};
use crate::respond::Interim;
use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::Shared;
use crate::tls::{TlsInfo, Wanted};

/// Cluster, host (by address: both are held by what is stored under the key), whose limits count, and what of the
/// request the connection depends on.
type Key = (usize, usize, RoutePriority, Option<Box<Dialing>>);

type Map<V> = RefCell<HashMap<Key, Rc<V>, foldhash::fast::RandomState>>;

/// A pool's place among those that the cluster may have; none where they are not counted.
struct PoolPlace {
    _held: Option<Box<Place>>,
}

/// The pools of a worker.
#[derive(Default)]
pub struct Pools {
    http1: Map<http1::HostPool>,
    http2: Map<http2::HostPool>,
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pools")
    }
}

/// Why there is nothing to send a request on.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// As many requests wait for a connection as may.
    #[error("overflow")]
    Overflow,
    /// There are as many pools as may be.
    #[error("no pool")]
    NoPool,
}

/// A place to send one request.
pub enum Upstream {
    /// A connection of one's own.
    Http1(Lease),
    /// A stream on a shared connection.
    Http2(Http2Stream),
}

/// An HTTP/1 connection lent for one request. It goes back to its pool when the lease is dropped, if both messages
/// were complete; else it is closed.
pub struct Lease {
    connection: Option<Connection>,
    pool: Rc<http1::HostPool>,
    /// Whether it had carried a request before.
    pub reused: bool,
    sent: Cell<bool>,
    /// Shared with who reads the answer's body.
    received: Rc<Cell<bool>>,
    keep: Cell<bool>,
    head: Cell<HeadSize>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let complete = self.sent.get() && self.received.get();
        connection.account.busy.set(!complete);
        let more = !connection.shared.input().is_empty();
        if complete && self.keep.get() && !more && connection.account.may_go_on() {
            self.pool.give_back(connection);
            return;
        }
        if complete && self.keep.get() && more {
            // What follows an answer is nobody's answer.
            connection.account.protocol_error();
        }
        connection.account.count_bytes(&connection.shared);
        connection.account.by_peer.set(connection.shared.peer_ended());
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
        /// What becomes of the connection.
        tunnel: TunnelKind,
        /// Where interim answers go; nowhere, they are dropped.
        interim: Option<Rc<Interim>>,
        /// The status of the first interim answer; 0 for none.
        interim_status: u16,
    },
    /// On an HTTP/2 stream.
    Http2 {
        /// The head, when it comes.
        response: h2::client::ResponseFuture,
        /// Held until the answer is complete.
        guard: StreamGuard,
        /// The protocol that is asked for by an extended CONNECT (RFC 8441).
        protocol: Option<Box<str>>,
        /// Where interim answers go; nowhere, they are dropped.
        interim: Option<Rc<Interim>>,
        /// The status of the first interim answer; 0 for none.
        interim_status: u16,
    },
}

/// What a request asks to make of its connection.
#[derive(Debug, Clone, Copy)]
pub enum Tunnel<'a> {
    /// Nothing.
    None,
    /// Another protocol, by `Upgrade`.
    Upgrade(&'a str),
    /// A way to somewhere else, by CONNECT.
    Connect,
    /// Only bytes: nothing is said of HTTP to this host. These are the first.
    Raw(&'a [u8]),
}

impl Tunnel<'_> {
    fn kind(self) -> TunnelKind {
        match self {
            Self::None => TunnelKind::None,
            Self::Upgrade(_) => TunnelKind::Upgrade,
            Self::Connect => TunnelKind::Connect,
            Self::Raw(_) => TunnelKind::Raw,
        }
    }

    /// Whether there is nothing.
    pub fn is_none(self) -> bool {
        matches!(self, Self::None)
    }
}

/// [`Tunnel`] without the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// None.
    None,
    /// By `Upgrade`.
    Upgrade,
    /// By CONNECT.
    Connect,
    /// Bytes.
    Raw,
}

/// What a connection is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UseOf {
    /// A request, on any connection.
    Request,
    /// A request, on a connection that had none before.
    FreshRequest,
    /// Bytes that are not HTTP.
    Bytes,
}

impl Pools {
    /// What there is without waiting: a kept connection, or a place on one. Most requests need no more.
    pub fn ready(
        &self,
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        priority: RoutePriority,
        wanted: Wanted,
        dialing: Option<Box<Dialing>>,
    ) -> Result<Upstream, Option<Box<Dialing>>> {
        let key = (Arc::as_ptr(cluster) as usize, Arc::as_ptr(host) as usize, priority, dialing);
        if wanted != Wanted::Http1 {
            let pools = self.http2.borrow();
            let pool = pools.get(&key);
            if let Some(stream) = pool.and_then(|pool| pool.free()) {
                return Ok(Upstream::Http2(stream));
            }
            // Where HTTP/2 may still come of it, that is to be waited for.
            if wanted == Wanted::Http2 || pool.is_some_and(|pool| !pool.only_http1.get()) {
                return Err(key.3);
            }
        }
        let pools = self.http1.borrow();
        let found = pools.get(&key).and_then(|pool| Some((pool, pool.take_idle()?)));
        match found {
            Some((pool, connection)) => {
                connection.account.begin_request();
                Ok(Upstream::Http1(Lease::new(connection, pool, true)))
            }
            None => Err(key.3),
        }
    }

    /// A connection to a host.
    #[allow(clippy::too_many_arguments)]
    pub async fn acquire(
        self: &Rc<Self>,
        stats: &Arc<Shard>,
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        priority: RoutePriority,
        wanted: Wanted,
        dialing: Option<Box<Dialing>>,
        use_of: UseOf,
    ) -> Result<Upstream, AcquireError> {
        let key = (Arc::as_ptr(cluster) as usize, Arc::as_ptr(host) as usize, priority, dialing.clone());
        // Without TLS nobody can be asked, and HTTP/1.1 is spoken.
        let may_choose = || cluster.transports.get(host.transport).is_some_and(|one| one.tls().is_some());
        let mut asked = None;
        if wanted == Wanted::Http2 || (wanted == Wanted::Either && may_choose()) {
            let known = self.http2.borrow().get(&key).cloned();
            let pool = match known {
                Some(pool) => pool,
                None => {
                    let place = self.place(stats, cluster, priority).ok_or(AcquireError::NoPool)?;
                    let pool = Rc::new(http2::HostPool::new(cluster, host, priority, dialing.clone(), place));
                    self.http2.borrow_mut().insert(key.clone(), Rc::clone(&pool));
                    pool
                }
            };
            match pool.acquire(stats, wanted).await? {
                Found::Stream(stream) => return Ok(Upstream::Http2(stream)),
                Found::Http1(made) => asked = Some(made),
                Found::OnlyHttp1 => {}
            }
        }
        let known = self.http1.borrow().get(&key).cloned();
        let pool = match known {
            Some(pool) => pool,
            None => {
                let place = self.place(stats, cluster, priority).ok_or(AcquireError::NoPool)?;
                let pool = Rc::new(http1::HostPool::new(cluster, host, priority, dialing, place));
                self.http1.borrow_mut().insert(key, Rc::clone(&pool));
                pool
            }
        };
        let (connection, reused) = match asked {
            Some(made) => {
                let (stream, account) = *made;
                (Connection { shared: Shared::new(stream, BytesMut::new()), account }, false)
            }
            None => {
                let kind = if use_of == UseOf::Bytes { CountedAs::Undecided } else { CountedAs::Http1 };
                pool.acquire(stats, use_of != UseOf::Request, kind).await?
            }
        };
        connection.account.begin_request();
        Ok(Upstream::Http1(Lease::new(connection, &pool, reused)))
    }

    /// A place for one more pool; where there is none, those that nobody needs make room.
    fn place(
        &self,
        stats: &Arc<Shard>,
        cluster: &Arc<ClusterHandle>,
        priority: RoutePriority,
    ) -> Option<PoolPlace> {
        if !cluster.config.breakers.of(priority).counts_pools() {
            return Some(PoolPlace { _held: None });
        }
        let take = || Place::take(cluster, stats, priority, Limited::Pools);
        let place = take().or_else(|| {
            self.http1
                .borrow_mut()
                .retain(|_, pool| !Arc::ptr_eq(&pool.cluster, cluster) || pool.is_needed());
            self.http2
                .borrow_mut()
                .retain(|_, pool| !Arc::ptr_eq(&pool.cluster, cluster) || pool.is_needed());
            take()
        });
        if place.is_none() {
            stats.increment(cluster.stats.upstream_cx_pool_overflow);
        }
        place.map(|place| PoolPlace { _held: Some(Box::new(place)) })
    }

    /// Ends the idle connections of a cluster that are not wanted any more, for its hosts changed.
    pub fn hosts_changed(&self, cluster: &Arc<ClusterHandle>) {
        let concerned = |of: &Arc<ClusterHandle>| Arc::ptr_eq(of, cluster);
        let http1: Vec<_> =
            self.http1.borrow().values().filter(|pool| concerned(&pool.cluster)).cloned().collect();
        for pool in http1 {
            pool.sweep(pool.host.is_removed());
        }
        let http2: Vec<_> =
            self.http2.borrow().values().filter(|pool| concerned(&pool.cluster)).cloned().collect();
        for pool in http2 {
            pool.sweep(pool.host.is_removed());
        }
    }

    /// Ends connections that were idle for too long, and those of hosts or clusters that are gone.
    pub fn sweep(&self, is_current: impl Fn(&Arc<ClusterHandle>) -> bool) {
        self.http1
            .borrow_mut()
            .retain(|_, pool| pool.sweep(pool.host.is_removed() || !is_current(&pool.cluster)));
        self.http2
            .borrow_mut()
            .retain(|_, pool| pool.sweep(pool.host.is_removed() || !is_current(&pool.cluster)));
    }
}

impl Upstream {
    /// Whether the connection had carried a request before, and may be going away.
    pub fn reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.reused,
            Self::Http2(stream) => stream.reused,
        }
    }

    /// It is given back as it came: nothing was sent on it.
    pub fn not_used(self) {
        match self {
            Self::Http1(lease) => {
                lease.sent.set(true);
                lease.received.set(true);
                lease.keep.set(true);
            }
            Self::Http2(stream) => stream.guard.outcome.not_used(),
        }
    }

    /// What is known of the connection's TLS.
    pub fn tls(&self) -> Option<&Arc<TlsInfo>> {
        match self {
            Self::Http1(lease) => lease.connection.as_ref()?.shared.tls(),
            Self::Http2(stream) => stream.tls(),
        }
    }

    /// What is spoken with the host.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http11,
            Self::Http2(_) => Protocol::Http2,
        }
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

    /// Writes a head. With `end` there is no body, and the [response](UpstreamResponse::flush) sends what was written.
    pub fn send(
        self,
        head: &RequestHead,
        end: bool,
        tunnel: Tunnel<'_>,
    ) -> Result<(Option<BodyWriter>, UpstreamResponse), MessageError> {
        match self {
            Self::Http1(lease) => lease.send(head, end, tunnel),
            Self::Http2(Http2Stream { mut sender, guard, .. }) => {
                let protocol = match tunnel {
                    Tunnel::Upgrade(protocol) => Some(protocol),
                    _ => None,
                };
                let request = codec2::request(head, protocol)?;
                let sent = sender.send_request(request, end);
                let (response, stream) = sent.map_err(|error| guard.outcome.failed(error))?;
                guard.sent.set(end);
                let writer = (!end).then(|| BodyWriter::Http2(codec2::BodyWriter::new(stream, false)));
                let protocol = protocol.map(Into::into);
                let response =
                    UpstreamResponse::Http2 { response, guard, protocol, interim: None, interim_status: 0 };
                Ok((writer, response))
            }
        }
    }
}

impl Lease {
    fn new(connection: Connection, pool: &Rc<http1::HostPool>, reused: bool) -> Self {
        Self {
            connection: Some(connection),
            pool: Rc::clone(pool),
            reused,
            sent: Cell::default(),
            received: Rc::default(),
            keep: Cell::default(),
            head: Cell::default(),
        }
    }

    fn send(
        self,
        head: &RequestHead,
        end: bool,
        tunnel: Tunnel<'_>,
    ) -> Result<(Option<BodyWriter>, UpstreamResponse), MessageError> {
        let Some(connection) = &self.connection else { return Err(MessageError::Closed) };
        let shared = connection.shared.clone();
        let to_head = head.method() == b"HEAD";
        let length = head.headers.get_str("content-length").and_then(|length| length.parse().ok());
        let framing = match length {
            _ if !tunnel.is_none() => Framing::UntilClose,
            _ if end => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let upgrade = match tunnel {
            Tunnel::Upgrade(protocol) => Some(protocol),
            _ => None,
        };
        let options = &connection.account.cluster.config.http1;
        match tunnel {
            Tunnel::Raw(first) => shared.output().extend_from_slice(first),
            _ => {
                let spelling = codec1::Spelling {
                    case: options.header_case,
                    fully_qualified: options.fully_qualified_url,
                };
                codec1::write_request(&mut shared.output(), head, framing, upgrade, spelling);
            }
        }
        let writer = (!end || !tunnel.is_none()).then(|| {
            let mut writer = codec1::BodyWriter::new(shared, framing);
            writer.trailers = options.trailers;
            writer.shuts_down = !tunnel.is_none();
            BodyWriter::Http1(writer)
        });
        let response = UpstreamResponse::Http1 {
            lease: self,
            to_head,
            tunnel: tunnel.kind(),
            interim: None,
            interim_status: 0,
        };
        Ok((writer, response))
    }
}
