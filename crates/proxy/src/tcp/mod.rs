//! The TCP proxy: chooses a cluster and a host, connects, and moves bytes until one of many ends.

mod account;
mod reports;
mod tunnel;
mod upstream;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lateen_dataplane::filter_state::TCP_PROXY_IDLE_TIMEOUT;
use lateen_dataplane::format::{LogType, Source};
use lateen_dataplane::stream_info::{ResponseFlags, StreamInfo};
use tokio::io::AsyncReadExt;

use self::reports::Reports;
use crate::drain::Drain;
use crate::listener::ConnectionFacts;
use crate::network::Refused;
use crate::network::pump::{Account, End, Failure, Pump, Side};
use crate::state::{ActiveChain, ActiveListener, ClusterHandle, TcpRuntime};
use crate::stream::Stream;
use crate::worker::Worker;

/// What a connection needs from the outside, for as long as it lives.
struct Session<'a> {
    worker: &'a Rc<Worker>,
    listener: &'a Arc<ActiveListener>,
    runtime: &'a Arc<TcpRuntime>,
    facts: &'a ConnectionFacts,
    drain: &'a Drain,
    reports: Option<RefCell<Reports<'a>>>,
    begun: Instant,
}

/// Serves a connection to its end, and gives what is to be said of it.
#[allow(clippy::too_many_arguments)]
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<TcpRuntime>,
    chain: &ActiveChain,
    stream: Stream,
    input: BytesMut,
    facts: &ConnectionFacts,
    mut info: StreamInfo,
) -> StreamInfo {
    let reports = Reports::new(worker, chain.gates.observers(), facts).map(RefCell::new);
    let drain = &chain.drain;
    let session = Session { worker, listener, runtime, facts, drain, reports, begun: Instant::now() };
    worker.stats.increment(runtime.stats.downstream_cx_total);
    if runtime.config.log_start {
        info.log_type = LogType::NotSet;
        session.log(&info);
        info.log_type = LogType::TcpConnectionEnd;
    }
    session.proxy(stream, input, &mut info).await;
    info.duration = Some(session.begun.elapsed());
    if let Some(reports) = &session.reports {
        reports.borrow_mut().last(&mut info);
    }
    session.log(&info);
    info
}

/// Counts and logs a connection that a filter before this one refused.
pub fn refused(worker: &Rc<Worker>, runtime: &TcpRuntime, info: &StreamInfo) {
    worker.stats.increment(runtime.stats.downstream_cx_total);
    log(worker, runtime, info);
}

fn log(worker: &Worker, runtime: &TcpRuntime, info: &StreamInfo) {
    let source =
        Source { info, request: None, response: None, trailers: None, hostname: &worker.state.hostname };
    for sink in &runtime.log {
        sink.log(&source, worker.random());
    }
}

/// Says of a refusal what logs say.
pub fn note_refusal(info: &mut StreamInfo, refused: &Refused) {
    info.flags.set(refused.flags);
    info.connection_termination_details = refused.details;
}

/// The counters of a connection in both directions.
struct Moved<'a, 's> {
    session: &'a Session<'s>,
    cluster: &'a ClusterHandle,
    received: Cell<u64>,
    sent: Cell<u64>,
    last_activity: Cell<Instant>,
}

impl Account for Moved<'_, '_> {
    fn moved(&self, from: Side, bytes: usize) {
        let shard = &self.session.worker.stats;
        let (tcp, cluster, bytes) = (&self.session.runtime.stats, &self.cluster.stats, bytes as u64);
        let (total, downstream, upstream) = match from {
            Side::Downstream => {
                (&self.received, tcp.downstream_cx_rx_bytes_total, cluster.upstream_cx_tx_bytes_total)
            }
            Side::Upstream => {
                (&self.sent, tcp.downstream_cx_tx_bytes_total, cluster.upstream_cx_rx_bytes_total)
            }
        };
        total.set(total.get() + bytes);
        shard.add(downstream, bytes);
        shard.add(upstream, bytes);
        self.last_activity.set(Instant::now());
    }
}

impl Session<'_> {
    fn log(&self, info: &StreamInfo) {
        log(self.worker, self.runtime, info);
    }

    async fn proxy(&self, mut stream: Stream, mut input: BytesMut, info: &mut StreamInfo) {
        let config = &self.runtime.config;
        if config.wait_for_data && input.is_empty() && !self.first_data(&mut stream, &mut input).await {
            return;
        }
        let Some(upstream) = self.open(info).await else {
            // To Envoy these bytes were still in the kernel, which resets a connection that is closed with some.
            if !input.is_empty() {
                stream.reset_when_closed();
            }
            return;
        };
        let upstream::Opened { stream: upstream, cluster, host, account, .. } = upstream;
        if let Some(reports) = &self.reports {
            reports.borrow_mut().upstream = upstream.peer().cloned();
        }
        let moved = Moved {
            session: self,
            cluster: &cluster,
            received: Cell::new(0),
            sent: Cell::new(0),
            last_activity: Cell::new(Instant::now()),
        };
        if !input.is_empty() {
            moved.moved(Side::Downstream, input.len());
            if config.wait_for_data {
                self.worker.stats.increment(self.runtime.stats.early_data_received_count_total);
            }
        }
        if config.log_connected {
            info.log_type = LogType::TcpUpstreamConnected;
            self.log(info);
            info.log_type = LogType::TcpConnectionEnd;
        }
        let mut pump = Pump::new(stream, input, upstream, self.listener.config.buffer_limit);
        let end = tokio::select! {
            biased;
            end = self.run(&mut pump, &moved, info) => end,
            () = cluster.host_failed(&host) => None,
        };
        if let Some(account) = account {
            account.end(match end {
                Some(End::LastBy(side) | End::FailedBy(Failure { side, .. })) => side == Side::Upstream,
                None => false,
            });
        }
        if let Some(end) = end {
            pump.pass_on(end);
            if matches!(end, End::FailedBy(Failure { side: Side::Upstream, reset: true })) {
                info.flags.set(ResponseFlags::UPSTREAM_RESET);
            }
        }
        info.bytes_received = moved.received.get();
        info.bytes_sent = moved.sent.get();
    }

    /// Reads the client's first bytes; false where it says nothing.
    async fn first_data(&self, stream: &mut Stream, input: &mut BytesMut) -> bool {
        tokio::select! {
            read = stream.read_buf(input) => matches!(read, Ok(1..)),
            () = self.duration_over() => false,
            () = self.drain.closed() => false,
        }
    }

    /// Moves bytes until an end. None where we ended it.
    async fn run(
        &self,
        pump: &mut Pump<Stream, Stream>,
        moved: &Moved<'_, '_>,
        info: &mut StreamInfo,
    ) -> Option<End> {
        let stats = &self.runtime.stats;
        let idle_limit = self.idle_timeout();
        let over = self.duration_over();
        let idle = idle(idle_limit, &moved.last_activity);
        let drained = self.drained(&moved.last_activity);
        tokio::pin!(over, idle, drained);
        let log_interval = self.runtime.config.log_interval;
        let mut next_log = log_interval.map(|interval| Instant::now() + interval);
        let mut next_report = self.reports.as_ref().map(|reports| reports.borrow().next());
        loop {
            tokio::select! {
                biased;
                end = pump.run(moved) => return Some(end),
                () = &mut idle => {
                    self.worker.stats.increment(stats.idle_timeout);
                    return None;
                }
                () = &mut over => {
                    self.worker.stats.increment(stats.max_downstream_connection_duration);
                    info.flags.set(ResponseFlags::DURATION_TIMEOUT);
                    return None;
                }
                () = &mut drained => return None,
                () = at(next_report) => {
                    if let Some(reports) = &self.reports {
                        reports.borrow_mut().now(info, moved.received.get(), moved.sent.get());
                        next_report = Some(reports.borrow().next());
                    }
                }
                () = at(next_log) => {
                    next_log = log_interval.map(|interval| Instant::now() + interval);
                    info.bytes_received = moved.received.get();
                    info.bytes_sent = moved.sent.get();
                    info.log_type = LogType::TcpPeriodic;
                    self.log(info);
                    info.log_type = LogType::TcpConnectionEnd;
                }
            }
        }
    }

    /// What the connection's filter state says, or else the configuration.
    fn idle_timeout(&self) -> Option<Duration> {
        match self.facts.filter_state.get(TCP_PROXY_IDLE_TIMEOUT).and_then(|text| text.parse().ok()) {
            Some(millis) => Some(Duration::from_millis(millis)),
            None => self.runtime.config.idle_timeout,
        }
    }

    /// Resolves when the connection has lived for as long as it may.
    async fn duration_over(&self) {
        let config = &self.runtime.config;
        let Some(limit) = config.max_duration else { return std::future::pending().await };
        let jitter = config.max_duration_jitter / 100.0 * (self.worker.random() % 10_000) as f64 / 10_000.0;
        tokio::time::sleep_until((self.begun + limit.mul_f64(1.0 + jitter.max(0.0))).into()).await;
    }

    /// Resolves when the listener ends and nothing was said for a moment; connections with traffic go on until the
    /// drain time is over.
    async fn drained(&self, last_activity: &Cell<Instant>) {
        self.drain.closed().await;
        idle(Some(Duration::from_millis(500)), last_activity).await;
    }
}

/// Resolves then, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves when nothing happened for so long.
async fn idle(limit: Option<Duration>, last_activity: &Cell<Instant>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let left = limit.saturating_sub(last_activity.get().elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}
