//! What observers on the chain hear of a TCP connection: Istio's metrics.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_dataplane::format::Source;
use lateen_dataplane::istio::Workload;
use lateen_dataplane::stream_info::StreamInfo;

use crate::filters::istio::Shared;
use crate::listener::ConnectionFacts;
use crate::network::exchange::Peer;
use crate::worker::Worker;

/// What was reported so far.
pub(super) struct Reports<'a> {
    worker: &'a Rc<Worker>,
    observers: &'a [Arc<Shared>],
    downstream: Option<&'a Peer>,
    /// The host, where it tells who it is.
    pub(super) upstream: Option<Peer>,
    interval: Duration,
    opened: bool,
    /// Bytes that were reported: received, sent.
    told: (u64, u64),
}

impl<'a> Reports<'a> {
    /// None where nobody listens.
    pub(super) fn new(
        worker: &'a Rc<Worker>,
        observers: &'a [Arc<Shared>],
        facts: &'a ConnectionFacts,
    ) -> Option<Self> {
        let interval = observers.iter().map(|observer| observer.tcp_interval()).min()?;
        let downstream = facts.peer.as_ref();
        let (upstream, told) = (None, (0, 0));
        Some(Self { worker, observers, downstream, upstream, interval, opened: false, told })
    }

    /// When the next report is due. The first one comes soon, so that a connection counts while it lives; not at once,
    /// for it takes a moment until both ends know of each other.
    pub(super) fn next(&self) -> Instant {
        let interval = if self.opened { self.interval } else { self.interval.min(Duration::from_secs(1)) };
        Instant::now() + interval
    }

    /// What there is to report in the middle.
    pub(super) fn now(&mut self, info: &mut StreamInfo, received: u64, sent: u64) {
        self.report(info, received, sent, false);
    }

    /// The connection has ended.
    pub(super) fn last(&mut self, info: &mut StreamInfo) {
        let (received, sent) = (info.bytes_received, info.bytes_sent);
        self.report(info, received, sent, true);
    }

    fn report(&mut self, info: &mut StreamInfo, received: u64, sent: u64, end: bool) {
        let state = &self.worker.state;
        if let Some(peer) = self.downstream.and_then(known) {
            info.peers.get_or_insert_default().downstream = Some(peer);
        }
        if let Some(peer) = self.upstream.as_ref().and_then(known) {
            info.peers.get_or_insert_default().upstream = Some(peer);
        }
        let source =
            Source { info, request: None, response: None, trailers: None, hostname: &state.hostname };
        for observer in self.observers {
            if !self.opened {
                observer.opened(state, &self.worker.stats, &source);
            }
            let more = (received - self.told.0, sent - self.told.1);
            observer.moved(state, &self.worker.stats, &source, more.0, more.1, end);
        }
        self.opened = true;
        self.told = (received, sent);
    }
}

/// The workload of a peer, once it has told it.
fn known(peer: &Peer) -> Option<Arc<Workload>> {
    peer.get().cloned().flatten()
}
