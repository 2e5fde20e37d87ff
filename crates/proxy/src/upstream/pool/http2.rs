//! HTTP/2 connections to one host: requests share them up to their limits of streams.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;
use lateen_dataplane::http_protocol::Keepalive;

use super::account::{Account, CountedAs, Owner, Waiting};
use super::metered::Metered;
use super::{AcquireError, PoolPlace};
use crate::http2::{StreamEnd, StreamOutcome, client_builder};
use crate::state::ClusterHandle;
use crate::stats::{Counter, Http2Stats, Shard};
use crate::tls::{TlsInfo, Wanted};
use crate::upstream::{ConnectError, Dialing};

/// A connection with its streams.
struct Connection {
    sender: SendRequest<Bytes>,
    /// It takes no more requests.
    draining: Cell<bool>,
    idle_since: Cell<Instant>,
    account: Rc<Account>,
    tls: Option<Arc<TlsInfo>>,
}

/// The connections to one host.
pub(super) struct HostPool {
    pub(super) cluster: Arc<ClusterHandle>,
    pub(super) host: Arc<Host>,
    priority: RoutePriority,
    dialing: Option<Box<Dialing>>,
    /// Held for as long as the pool is.
    _place: PoolPlace,
    connections: RefCell<Vec<Rc<Connection>>>,
    open: Cell<u32>,
    /// Held while connecting, so that those who come meanwhile share the connection.
    making: tokio::sync::Mutex<()>,
    freed: tokio::sync::Notify,
    /// How often connecting failed, and how the last time: those who waited meanwhile fail alike.
    failed: RefCell<(u64, Option<ConnectError>)>,
    /// The host was asked what it speaks, and it is not HTTP/2 (`AutoHttpConfig`).
    pub(super) only_http1: Cell<bool>,
}

/// What a host has for a request.
pub(super) enum Found {
    /// A place on a connection.
    Stream(Stream),
    /// A connection on which the host chose HTTP/1.1.
    Http1(Box<(crate::stream::Stream, Account)>),
    /// Nothing: it is known to speak HTTP/1.1 alone.
    OnlyHttp1,
}

/// A place for one request.
pub struct Stream {
    /// Takes the request.
    pub(super) sender: SendRequest<Bytes>,
    /// Held until the answer is complete.
    pub(super) guard: StreamGuard,
    /// Whether the connection had carried a request before.
    pub(super) reused: bool,
}

impl Stream {
    /// What is known of the connection's TLS.
    pub(super) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.guard.connection.tls.as_ref()
    }
}

/// A counter of the codec.
type CodecCounter = fn(&Http2Stats) -> Counter;

/// A stream that is under way.
pub struct StreamGuard {
    connection: Rc<Connection>,
    pool: Rc<HostPool>,
    /// How the answer ends.
    pub(super) outcome: StreamOutcome,
    /// Whether the request was sent to its end.
    pub(super) sent: Cell<bool>,
}

impl StreamGuard {
    /// The connection's numbers.
    pub(super) fn account(&self) -> &Account {
        &self.connection.account
    }

    /// Counts how the stream ended.
    fn count(&self) {
        let account = &self.connection.account;
        let (shard, stats) = (&account.stats, account.cluster.stats);
        let (codec, request): (Option<CodecCounter>, Option<Counter>) = match self.outcome.get() {
            StreamEnd::Complete if self.sent.get() => return,
            StreamEnd::NotSeen => return,
            StreamEnd::Reset => (Some(|codec| codec.rx_reset), Some(stats.upstream_rq_rx_reset)),
            StreamEnd::Refused => (Some(|codec| codec.rx_reset), None),
            StreamEnd::Broken => {
                account.busy.set(true);
                (None, Some(stats.upstream_rq_pending_failure_eject))
            }
            // We give it up.
            StreamEnd::Open | StreamEnd::Complete => {
                (Some(|codec| codec.tx_reset), Some(stats.upstream_rq_tx_reset))
            }
        };
        if let (Some(which), Some(codec)) = (codec, &account.cluster.http2_stats) {
            shard.increment(which(codec));
        }
        if let Some(counter) = request {
            shard.increment(counter);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.count();
        let connection = &self.connection;
        let streams = connection.account.streams.get() - 1;
        connection.account.streams.set(streams);
        connection.idle_since.set(Instant::now());
        if connection.draining.get() && streams == 0 {
            self.pool.forget(connection);
        }
        self.pool.freed.notify_one();
    }
}

impl Owner for HostPool {
    fn ended(&self) {
        self.open.set(self.open.get() - 1);
        self.freed.notify_one();
    }
}

impl HostPool {
    pub(super) fn new(
        cluster: &Arc<ClusterHandle>,
        host: &Arc<Host>,
        priority: RoutePriority,
        dialing: Option<Box<Dialing>>,
        place: PoolPlace,
    ) -> Self {
        Self {
            cluster: Arc::clone(cluster),
            host: Arc::clone(host),
            priority,
            dialing,
            _place: place,
            connections: RefCell::default(),
            open: Cell::new(0),
            making: tokio::sync::Mutex::default(),
            freed: tokio::sync::Notify::new(),
            failed: RefCell::default(),
            only_http1: Cell::new(false),
        }
    }

    /// A place for a request, or what there is where the host may choose the protocol (`Wanted::Either`) and has chosen
    /// another.
    pub(super) async fn acquire(
        self: &Rc<Self>,
        stats: &Arc<Shard>,
        wanted: Wanted,
    ) -> Result<Found, AcquireError> {
        if let Some(stream) = self.free() {
            return Ok(Found::Stream(stream));
        }
        if self.only_http1.get() {
            return Ok(Found::OnlyHttp1);
        }
        let waiting =
            Waiting::begin(&self.cluster, &self.host, stats, self.priority).ok_or(AcquireError::Overflow)?;
        loop {
            // Asked for before looking, so that nothing is missed in between.
            let freed = self.freed.notified();
            let failures = self.failed.borrow().0;
            let making = self.making.lock().await;
            if let (count, Some(error)) = &*self.failed.borrow()
                && *count != failures
            {
                waiting.failed();
                return Err(error.again().into());
            }
            if self.only_http1.get() {
                return Ok(Found::OnlyHttp1);
            }
            if let Some(stream) = self.free() {
                return Ok(Found::Stream(stream));
            }
            let owner = Rc::downgrade(self) as std::rc::Weak<dyn Owner>;
            let first = self.open.get() == 0;
            let kind = if wanted == Wanted::Http2 { CountedAs::Http2 } else { CountedAs::Undecided };
            let account = Account::open(&self.cluster, &self.host, stats, self.priority, first, kind, owner);
            if let Some(account) = account {
                self.open.set(self.open.get() + 1);
                let stream = match account.connect(wanted, self.dialing.as_deref()).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        let mut failed = self.failed.borrow_mut();
                        *failed = (failed.0 + 1, Some(error.again()));
                        waiting.failed();
                        return Err(error.into());
                    }
                };
                if wanted == Wanted::Either && stream.tls().and_then(|tls| tls.http2()) != Some(true) {
                    self.only_http1.set(true);
                    stats.increment(self.cluster.stats.upstream_cx_http1_total);
                    return Ok(Found::Http1(Box::new((stream, account))));
                }
                if kind == CountedAs::Undecided {
                    stats.increment(self.cluster.stats.upstream_cx_http2_total);
                }
                self.make(Rc::new(account), stream).await?;
                if let Some(stream) = self.free() {
                    return Ok(Found::Stream(stream));
                }
                // It ended at once, or allows no stream yet.
                drop(making);
                tokio::task::yield_now().await;
                continue;
            }
            drop(making);
            freed.await;
        }
    }

    /// A place on a connection that has one.
    pub(super) fn free(self: &Rc<Self>) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        let mut found = None;
        connections.retain(|connection| {
            let mut sender = connection.sender.clone();
            match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
                // The connection ended, or will (GOAWAY).
                Poll::Ready(Err(error)) => {
                    connection.draining.set(true);
                    connection.account.note(&error);
                }
                Poll::Ready(Ok(())) if found.is_none() && self.has_place(connection) => {
                    found = Some((Rc::clone(connection), sender));
                }
                _ => {}
            }
            !connection.draining.get() || connection.account.streams.get() > 0
        });
        drop(connections);
        let (connection, sender) = found?;
        let reused = connection.account.requests.get() > 0;
        connection.account.streams.set(connection.account.streams.get() + 1);
        connection.account.requests.set(connection.account.requests.get() + 1);
        let config = &self.cluster.config;
        if config.max_requests_per_connection.is_some_and(|limit| connection.account.requests.get() >= limit)
        {
            connection.account.stats.increment(self.cluster.stats.upstream_cx_max_requests);
            connection.draining.set(true);
        }
        let guard = StreamGuard {
            connection,
            pool: Rc::clone(self),
            outcome: StreamOutcome::default(),
            sent: Cell::new(false),
        };
        Some(Stream { sender, guard, reused })
    }

    fn has_place(&self, connection: &Connection) -> bool {
        if connection.draining.get() {
            return false;
        }
        if connection.account.is_too_old() || connection.account.is_unhealthy() {
            connection.draining.set(true);
            return false;
        }
        let own = self.cluster.config.http2.max_concurrent_streams as usize;
        connection.account.streams.get() < own.min(connection.sender.current_max_send_streams())
    }

    async fn make(
        self: &Rc<Self>,
        account: Rc<Account>,
        stream: crate::stream::Stream,
    ) -> Result<(), AcquireError> {
        let tls = stream.tls().cloned();
        let config = &self.cluster.config;
        let stream = Metered { stream, account: Rc::clone(&account) };
        let (sender, mut connection) = client_builder(&config.http2, config.response_limits.bytes)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| ConnectError::Io(std::io::Error::other(error)))?;
        let keepalive = match (&config.http2.keepalive, connection.ping_pong()) {
            (Some(settings), Some(pings)) => Some((settings.clone(), pings)),
            _ => None,
        };
        self.connections.borrow_mut().push(Rc::new(Connection {
            sender,
            draining: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            account: Rc::clone(&account),
            tls,
        }));
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let alive = async {
                match keepalive {
                    Some((settings, pings)) => keep_alive(settings, pings).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                ended = connection => ended,
                // Dropping the connection ends its streams.
                () = alive => {
                    tracing::debug!("an HTTP/2 connection to an upstream answers no pings");
                    if let Some(codec) = &account.cluster.http2_stats {
                        account.stats.increment(codec.keepalive_timeout);
                    }
                    Ok(())
                }
            };
            if let Some(pool) = pool.upgrade() {
                let listed = pool.take(&account);
                if let Some(Poll::Ready(Err(error))) = listed
                    .map(|listed| listed.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop())))
                {
                    account.note(&error);
                }
            }
            account.ended(ended);
            drop(account);
        });
        Ok(())
    }

    /// Takes a connection off the list.
    fn take(&self, account: &Rc<Account>) -> Option<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        let at = connections.iter().position(|other| Rc::ptr_eq(&other.account, account))?;
        Some(connections.remove(at))
    }

    fn forget(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, connection));
    }

    /// Whether it has connections.
    pub(super) fn is_needed(&self) -> bool {
        self.open.get() > 0
    }

    /// Ends connections that have nothing to do and are not wanted, or all such. Whether the pool is still needed.
    pub(super) fn sweep(&self, all: bool) -> bool {
        let timeout = self.cluster.config.idle_timeout;
        let mut gone = Vec::new();
        self.connections.borrow_mut().retain(|connection| {
            let account = &connection.account;
            if all || account.is_unhealthy() || account.is_too_old() {
                connection.draining.set(true);
            }
            let idle = account.streams.get() == 0;
            let timed_out =
                idle && timeout.is_some_and(|limit| connection.idle_since.get().elapsed() >= limit);
            if timed_out {
                account.stats.increment(self.cluster.stats.upstream_cx_idle_timeout);
            }
            // Without senders a connection ends when its last stream does.
            let keep = !(idle && (connection.draining.get() || timed_out));
            if !keep {
                gone.push(Rc::clone(connection));
            }
            keep
        });
        drop(gone);
        self.open.get() > 0 || (self.only_http1.get() && !all)
    }
}

/// Resolves when a ping was not answered in time (`connection_keepalive`).
async fn keep_alive(settings: Keepalive, mut pings: h2::PingPong) {
    let Some(interval) = settings.interval else { return std::future::pending().await };
    loop {
        let jitter = f64::from(settings.jitter_percent) / 100.0 * rand::random::<f64>();
        tokio::time::sleep(interval.mul_f64(1.0 + jitter)).await;
        let timeout = settings.timeout.max(Duration::from_millis(1));
        match tokio::time::timeout(timeout, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}
