//! HTTP/1 connections to one host, and the requests that wait for one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;
use tokio::sync::oneshot;

use super::account::{Account, CountedAs, Owner, Waiting};
use super::{AcquireError, PoolPlace};
use crate::state::ClusterHandle;
use crate::stats::Shard;
use crate::stream::Shared;
use crate::tls::Wanted;
use crate::upstream::{ConnectError, Dialing};

/// A connection and its account.
pub(super) struct Connection {
    pub(super) shared: Shared,
    pub(super) account: Account,
}

impl Connection {
    /// Whether an idle connection was ended by its peer, or the peer said something that nobody asked for.
    pub(super) fn is_stale(&self) -> bool {
        if !self.shared.is_stale() {
            return false;
        }
        if self.shared.input().is_empty() {
            self.account.by_peer.set(true);
        } else {
            self.account.protocol_error();
        }
        true
    }
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// What a request that waits is given.
enum Turn {
    /// A connection that another request gave back.
    Connection(Box<Connection>),
    /// The chance to make one.
    Make,
    /// The host cannot be reached.
    Failed(ConnectError),
}

/// The connections to one host.
pub(super) struct HostPool {
    pub(super) cluster: Arc<ClusterHandle>,
    pub(super) host: Arc<Host>,
    priority: RoutePriority,
    dialing: Option<Box<Dialing>>,
    /// Held for as long as the pool is.
    _place: PoolPlace,
    idle: RefCell<Vec<Idle>>,
    /// All that live, also those that are being made.
    open: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
}

impl Owner for HostPool {
    fn ended(&self) {
        self.open.set(self.open.get() - 1);
        self.next(|| Turn::Make);
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
            idle: RefCell::default(),
            open: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    /// Gives the next one that waits its turn; false where nobody does.
    fn next(&self, turn: impl Fn() -> Turn) -> bool {
        loop {
            let Some(waiting) = self.waiting.borrow_mut().pop_front() else { return false };
            if waiting.send(turn()).is_ok() {
                return true;
            }
        }
    }

    /// The connection that was used last, if its peer has not closed it.
    pub(super) fn take_idle(&self) -> Option<Connection> {
        loop {
            let Idle { connection, .. } = self.idle.borrow_mut().pop()?;
            if connection.is_stale() {
                continue;
            }
            if !connection.account.is_too_old() {
                return Some(connection);
            }
        }
    }

    /// A connection and whether it had carried a request before.
    pub(super) async fn acquire(
        self: &Rc<Self>,
        stats: &Arc<Shard>,
        fresh: bool,
        kind: CountedAs,
    ) -> Result<(Connection, bool), AcquireError> {
        if !fresh && let Some(connection) = self.take_idle() {
            return Ok((connection, true));
        }
        let waiting =
            Waiting::begin(&self.cluster, &self.host, stats, self.priority).ok_or(AcquireError::Overflow)?;
        loop {
            if let Some(account) = self.open_account(stats, kind) {
                return match account.connect(Wanted::Http1, self.dialing.as_deref()).await {
                    Ok(stream) => {
                        let shared = Shared::new(stream, BytesMut::new());
                        Ok((Connection { shared, account }, false))
                    }
                    Err(error) => {
                        // Those who wait would meet the same; whoever sent them knows better what to do.
                        while self.next(|| Turn::Failed(error.again())) {}
                        drop(account);
                        waiting.failed();
                        Err(error.into())
                    }
                };
            }
            let (sender, turn) = oneshot::channel();
            self.waiting.borrow_mut().push_back(sender);
            match turn.await {
                Ok(Turn::Connection(connection)) if !connection.is_stale() => {
                    return Ok((*connection, true));
                }
                Ok(Turn::Failed(error)) => {
                    waiting.failed();
                    return Err(error.into());
                }
                Ok(Turn::Connection(_) | Turn::Make) | Err(_) => {}
            }
        }
    }

    fn open_account(self: &Rc<Self>, stats: &Arc<Shard>, kind: CountedAs) -> Option<Account> {
        let owner = Rc::downgrade(self) as std::rc::Weak<dyn Owner>;
        let first = self.open.get() == 0;
        let account = Account::open(&self.cluster, &self.host, stats, self.priority, first, kind, owner)?;
        self.open.set(self.open.get() + 1);
        Some(account)
    }

    /// A connection whose request is complete: for the next that waits, or for later.
    pub(super) fn give_back(&self, connection: Connection) {
        connection.account.busy.set(false);
        connection.account.count_bytes(&connection.shared);
        let mut connection = connection;
        loop {
            let Some(waiting) = self.waiting.borrow_mut().pop_front() else { break };
            match waiting.send(Turn::Connection(Box::new(connection))) {
                Ok(()) => return,
                Err(Turn::Connection(back)) => connection = *back,
                Err(_) => return,
            }
        }
        connection.shared.release();
        self.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
    }

    /// Whether it has connections, or requests that wait for one.
    pub(super) fn is_needed(&self) -> bool {
        // Those on which the host chose HTTP/1.1 are counted where it was asked, and rest here.
        self.open.get() > 0 || !self.waiting.borrow().is_empty() || !self.idle.borrow().is_empty()
    }

    /// Ends idle connections whose time is over, or all. Whether the pool is still needed.
    pub(super) fn sweep(&self, all: bool) -> bool {
        let timeout = self.cluster.config.idle_timeout;
        let mut gone = Vec::new();
        self.idle.borrow_mut().retain_mut(|idle| {
            let account = &idle.connection.account;
            let timed_out = timeout.is_some_and(|limit| idle.since.elapsed() >= limit);
            if timed_out {
                account.stats.increment(self.cluster.stats.upstream_cx_idle_timeout);
            }
            let stale = idle.connection.is_stale();
            let keep = !all && !timed_out && !stale && !account.is_unhealthy() && !account.is_too_old();
            if !keep {
                gone.push(idle.connection.shared.clone());
            }
            keep
        });
        // Held until here: whatever the end of a connection sets off finds nothing borrowed.
        drop(gone);
        self.is_needed()
    }
}
