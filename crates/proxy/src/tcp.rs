//! The TCP proxy: chooses a cluster and a host, connects, and moves bytes until one of many ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lateen_dataplane::circuit::RoutePriority;
use lateen_dataplane::cluster::Host;
use lateen_dataplane::filter_state::{TCP_PROXY_CLUSTER, TCP_PROXY_IDLE_TIMEOUT};
use lateen_dataplane::format::{LogType, Source};
use lateen_dataplane::outlier::Report;
use lateen_dataplane::stream_info::{ResponseFlags, StreamInfo};
use tokio::io::AsyncReadExt;

use crate::listener::ConnectionFacts;
use crate::network::Refused;
use crate::network::pump::{Account, Pump, Side};
use crate::state::{ActiveListener, ClusterHandle, TcpRuntime};
use crate::stream::Stream;
use crate::tls::Wanted;
use crate::upstream::limits::{Limited, Place};
use crate::upstream::{ConnectError, Dialing, Purpose, connect};
use crate::worker::{Choice, Worker};

/// What a connection needs from the outside, for as long as it lives.
struct Session<'a> {
    worker: &'a Rc<Worker>,
    listener: &'a Arc<ActiveListener>,
    runtime: &'a Arc<TcpRuntime>,
    facts: &'a ConnectionFacts,
    begun: Instant,
}

/// Serves a connection to its end, and gives what is to be said of it.
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<TcpRuntime>,
    stream: Stream,
    input: BytesMut,
    facts: &ConnectionFacts,
    mut info: StreamInfo,
) -> StreamInfo {
    let session = Session { worker, listener, runtime, facts, begun: Instant::now() };
    worker.stats.increment(runtime.stats.downstream_cx_total);
    if runtime.config.log_start {
        info.log_type = LogType::NotSet;
        session.log(&info);
        info.log_type = LogType::TcpConnectionEnd;
    }
    session.proxy(stream, input, &mut info).await;
    info.duration = Some(session.begun.elapsed());
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
struct Moved<'a> {
    session: &'a Session<'a>,
    cluster: &'a ClusterHandle,
    received: Cell<u64>,
    sent: Cell<u64>,
    last_activity: Cell<Instant>,
}

impl Account for Moved<'_> {
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
        let (worker, config) = (self.worker, &self.runtime.config);
        if config.wait_for_data && input.is_empty() && !self.first_data(&mut stream, &mut input).await {
            return;
        }
        let name = match self.facts.filter_state.get(TCP_PROXY_CLUSTER) {
            Some(name) => name,
            None => config.cluster(worker.random()),
        };
        let Some(cluster) = worker.state.clusters.load().get(name).cloned() else {
            worker.stats.increment(self.runtime.stats.downstream_cx_no_route);
            info.flags.set(ResponseFlags::NO_CLUSTER);
            return;
        };
        info.upstream_cluster = Some(Arc::clone(name));
        info.upstream_stat_name = Some(Arc::clone(&cluster.config.stat_name));
        info.cluster_metadata.clone_from(&cluster.config.metadata);
        let (priority, kind) = (RoutePriority::Default, Limited::Connections);
        let Some(_place) = Place::take(&cluster, &worker.stats, priority, kind) else {
            worker.stats.increment(cluster.stats.upstream_cx_overflow);
            info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
            return;
        };
        let Some(upstream) = self.open(&cluster, info).await else { return };
        info.upstream_local_address = upstream.local_address();
        worker.stats.increment(cluster.stats.upstream_cx_active);
        let moved = Moved {
            session: self,
            cluster: &cluster,
            received: Cell::new(0),
            sent: Cell::new(0),
            last_activity: Cell::new(Instant::now()),
        };
        if !input.is_empty() {
            moved.moved(Side::Downstream, input.len());
        }
        if config.log_connected {
            info.log_type = LogType::TcpUpstreamConnected;
            self.log(info);
            info.log_type = LogType::TcpConnectionEnd;
        }
        let mut pump = Pump::new(stream, input, upstream, self.listener.config.buffer_limit);
        self.run(&mut pump, &moved, info).await;
        info.bytes_received = moved.received.get();
        info.bytes_sent = moved.sent.get();
        worker.stats.decrement(cluster.stats.upstream_cx_active);
    }

    /// Reads the client's first bytes; false where it says nothing.
    async fn first_data(&self, stream: &mut Stream, input: &mut BytesMut) -> bool {
        tokio::select! {
            read = stream.read_buf(input) => matches!(read, Ok(1..)),
            () = self.duration_over() => false,
            () = self.listener.drain.closed() => false,
        }
    }

    async fn run(&self, pump: &mut Pump<Stream, Stream>, moved: &Moved<'_>, info: &mut StreamInfo) {
        let stats = &self.runtime.stats;
        let idle_limit = self.idle_timeout();
        let over = self.duration_over();
        let idle = idle(idle_limit, &moved.last_activity);
        let drained = self.drained(&moved.last_activity);
        tokio::pin!(over, idle, drained);
        loop {
            let tick = async {
                match self.runtime.config.log_interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = pump.run(moved) => return,
                () = &mut idle => {
                    self.worker.stats.increment(stats.idle_timeout);
                    return;
                }
                () = &mut over => {
                    self.worker.stats.increment(stats.max_downstream_connection_duration);
                    info.flags.set(ResponseFlags::DURATION_TIMEOUT);
                    return;
                }
                () = &mut drained => return,
                () = tick => {
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
        self.listener.drain.closed().await;
        idle(Some(Duration::from_millis(500)), last_activity).await;
    }

    async fn open(&self, cluster: &Arc<ClusterHandle>, info: &mut StreamInfo) -> Option<Stream> {
        let (worker, config) = (self.worker, &self.runtime.config);
        let mut tried: Vec<Arc<Host>> = Vec::new();
        for attempt in 0..config.connect_attempts {
            if attempt > 0
                && let Some(delay) = backoff(config.backoff, attempt, worker.random())
            {
                tokio::time::sleep(delay).await;
            }
            let Some(host) = worker.choose_host(
                cluster,
                Choice {
                    destination: self.facts.destination(),
                    attempts: 3,
                    avoid: &tried,
                    ..Choice::default()
                },
            ) else {
                info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                worker.stats.increment(cluster.stats.upstream_cx_none_healthy);
                return None;
            };
            info.upstream_host = Some(Arc::clone(&host.text));
            info.attempts += 1;
            worker.stats.increment(cluster.stats.upstream_cx_total);
            let client = self.facts.remote.zip(self.facts.local);
            let dialing = Dialing { server_name: None, client };
            let purpose = Purpose { wanted: Wanted::Any, dialing: Some(&dialing) };
            cluster.had_traffic.store(true, Relaxed);
            host.counters.cx_total.fetch_add(1, Relaxed);
            match connect(&worker.stats, cluster, &host, purpose).await {
                Ok(stream) => {
                    cluster.report(&host, Report::ConnectedFinally);
                    return Some(stream);
                }
                Err(error) => {
                    host.counters.cx_connect_fail.fetch_add(1, Relaxed);
                    cluster.report(
                        &host,
                        match error {
                            ConnectError::Timeout => Report::LocalTimeout,
                            _ => Report::LocalFailure,
                        },
                    );
                    worker.stats.increment(cluster.stats.upstream_cx_connect_fail);
                    if matches!(error, ConnectError::Timeout) {
                        worker.stats.increment(cluster.stats.upstream_cx_connect_timeout);
                    }
                    info.upstream_transport_failure = Some(error.to_string());
                    // As with Envoy, a host that failed stays visible even where another one took its place.
                    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                    tried.push(host);
                }
            }
        }
        info.flags.set(ResponseFlags::RETRY_LIMIT);
        None
    }
}

/// The delay before an attempt: random, below a bound that doubles.
fn backoff(config: Option<(Duration, Duration)>, attempt: u32, random: u64) -> Option<Duration> {
    let (base, max) = config?;
    let bound = base.saturating_mul(1 << (attempt - 1).min(20)).min(max);
    Some(Duration::from_micros(random % (bound.as_micros() as u64).max(1)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_a_delay_doubles_to_its_maximum() {
        let config = Some((Duration::from_millis(10), Duration::from_millis(35)));
        for (attempt, bound) in [(1, 10_000), (2, 20_000), (3, 35_000), (9, 35_000), (60, 35_000)] {
            let delay = backoff(config, attempt, bound - 1).unwrap();
            assert_eq!(delay, Duration::from_micros(bound - 1), "{attempt}");
            assert_eq!(backoff(config, attempt, bound).unwrap(), Duration::ZERO, "{attempt}");
        }
        assert_eq!(backoff(None, 1, 5), None);
    }
}
