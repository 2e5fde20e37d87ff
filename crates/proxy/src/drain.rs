//! How the end of connections comes: asked for with more and more answers, then to those that are idle, then by force.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::sync::watch;

use crate::stats::{Counter, SharedShard};

/// How long the end may take, and how it is spread (`--drain-time-s`, `--drain-strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPolicy {
    /// After this, connections end by force.
    pub time: Duration,
    /// Whether the chance of an answer to be the last of its connection grows over that time; else each is the last.
    pub gradual: bool,
}

impl Default for DrainPolicy {
    /// Envoy's.
    fn default() -> Self {
        Self { time: Duration::from_secs(600), gradual: true }
    }
}

/// How far the end of a chain's connections has come.
#[derive(Debug)]
pub struct Drain {
    begun: OnceLock<(Instant, DrainPolicy)>,
    closing: watch::Sender<bool>,
    /// Whether the proxy was told to fail health checks, where connections end for that, too.
    failing: Option<Arc<AtomicBool>>,
    /// What counts the connections that end so.
    counter: Option<(SharedShard, Counter)>,
}

impl Drain {
    /// Nothing has begun.
    pub fn new(failing: Option<Arc<AtomicBool>>, counter: Option<(SharedShard, Counter)>) -> Self {
        Self { begun: OnceLock::new(), closing: watch::Sender::new(false), failing, counter }
    }

    /// Connections are asked to end with their answers. What has begun goes on as it did.
    pub fn begin(&self, policy: DrainPolicy) {
        self.begun.get_or_init(|| (Instant::now(), policy));
    }

    /// Whether the end has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.get().is_some()
    }

    /// Idle connections end now, others with their next answer.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Whether a connection is to end with the answer that is being written; asked once an answer, and counted.
    pub fn ends_connection(&self) -> bool {
        let ends = self.decide();
        if let Some((shard, counter)) = self.counter.as_ref().filter(|_| ends) {
            shard.increment(*counter);
        }
        ends
    }

    fn decide(&self) -> bool {
        if self.failing.as_ref().is_some_and(|failing| failing.load(Relaxed)) {
            return true;
        }
        let Some((since, policy)) = self.begun.get() else { return *self.closing.borrow() };
        if !policy.gradual || policy.time.is_zero() || *self.closing.borrow() {
            return true;
        }
        since.elapsed().as_secs_f64() >= policy.time.as_secs_f64() * rand::random::<f64>()
    }

    /// Resolves when idle connections are to end.
    pub async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // The sender lives in `self`.
        let _ = closing.wait_for(|closing| *closing).await;
    }
}

/// The connections of a worker by their descriptors, with what tells when they end.
#[derive(Debug, Default)]
pub struct Connections(HashMap<RawFd, (usize, SocketAddr), foldhash::fast::RandomState>);

impl Connections {
    /// Notes a connection. Only those over TCP can be ended from outside.
    pub fn add(&mut self, socket: RawFd, drain: &Arc<Drain>, peer: SocketAddr) {
        self.0.insert(socket, (Arc::as_ptr(drain) as usize, peer));
    }

    /// Forgets it.
    pub fn remove(&mut self, socket: RawFd) {
        self.0.remove(&socket);
    }

    /// Ends those that drain so, both ways: whoever reads or writes on them learns it at once.
    pub fn end(&self, drain: &Arc<Drain>) {
        let wanted = Arc::as_ptr(drain) as usize;
        for (socket, (_, peer)) in self.0.iter().filter(|(_, (drain, _))| *drain == wanted) {
            shut_down(*socket, *peer);
        }
    }
}

/// A connection may be closed already and its number belong to another one: only the one with this peer is ended.
#[allow(unsafe_code)] // A descriptor by its number; see above.
fn shut_down(socket: RawFd, peer: SocketAddr) {
    // SAFETY: the descriptor is only used for two calls, of which the first fails where it is closed.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let socket = SockRef::from(&socket);
    if socket.peer_addr().ok().and_then(|address| address.as_socket()) == Some(peer) {
        tracing::debug!(%peer, descriptor = socket.as_raw_fd(), "a connection ends with the drain time");
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chance_of_an_end_grows() {
        let drain = Drain::new(None, None);
        assert!(!drain.ends_connection());
        drain.begin(DrainPolicy { time: Duration::from_secs(3600), gradual: true });
        // At the beginning next to none: 100 of 3600 s would be needed for one in 36.
        let ends = (0..1000).filter(|_| drain.ends_connection()).count();
        assert!(ends < 100, "{ends}");
        drain.close();
        assert!(drain.ends_connection());
        for policy in [
            DrainPolicy { time: Duration::from_secs(3600), gradual: false },
            DrainPolicy { time: Duration::ZERO, gradual: true },
        ] {
            let drain = Drain::new(None, None);
            drain.begin(policy);
            assert!(drain.ends_connection(), "{policy:?}");
        }
        let failing = Arc::new(AtomicBool::new(false));
        let drain = Drain::new(Some(Arc::clone(&failing)), None);
        assert!(!drain.ends_connection());
        failing.store(true, Relaxed);
        assert!(drain.ends_connection());
    }
}
