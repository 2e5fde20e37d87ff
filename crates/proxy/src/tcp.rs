//! The TCP proxy: bytes both ways, each direction with an end of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lateen_dataplane::format::Source;
use lateen_dataplane::stream_info::{ResponseFlags, StreamInfo};

use crate::listener::ConnectionFacts;
use crate::state::{ActiveListener, ClusterHandle, TcpRuntime};
use crate::stream::{Shared, Stream};
use crate::upstream::{ConnectError, connect};
use crate::worker::Worker;

/// Serves a connection to its end.
pub async fn serve(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<TcpRuntime>,
    stream: Stream,
    input: BytesMut,
    facts: ConnectionFacts,
) {
    let begun = Instant::now();
    let mut info = StreamInfo {
        start_time: worker.now(),
        downstream_local_address: facts.local,
        downstream_remote_address: facts.remote,
        downstream_direct_address: facts.direct,
        server_name: facts.server_name.clone(),
        ..StreamInfo::default()
    };
    worker.stats.increment(runtime.stats.downstream_cx_total);
    proxy(worker, listener, runtime, stream, input, facts.local, &mut info).await;
    info.duration = Some(begun.elapsed());
    worker.stats.add(runtime.stats.downstream_cx_rx_bytes_total, info.bytes_received);
    worker.stats.add(runtime.stats.downstream_cx_tx_bytes_total, info.bytes_sent);
    let source = Source {
        info: &info,
        request: None,
        response: None,
        trailers: None,
        hostname: &worker.state.hostname,
    };
    for sink in runtime.log.iter().chain(&listener.log) {
        sink.log(&source, worker.random());
    }
}

async fn proxy(
    worker: &Rc<Worker>,
    listener: &Arc<ActiveListener>,
    runtime: &Arc<TcpRuntime>,
    stream: Stream,
    input: BytesMut,
    destination: Option<SocketAddr>,
    info: &mut StreamInfo,
) {
    let name = runtime.config.cluster(worker.random());
    info.upstream_cluster = Some(Arc::clone(name));
    let Some(cluster) = worker.state.clusters.load().get(name).cloned() else {
        worker.stats.increment(runtime.stats.downstream_cx_no_route);
        info.flags.set(ResponseFlags::NO_CLUSTER);
        return;
    };
    let Some(upstream) = open(worker, runtime, &cluster, destination, info).await else { return };
    worker.stats.increment(cluster.stats.upstream_cx_active);
    let upstream = Shared::new(upstream, BytesMut::new());
    let downstream = Shared::new(stream, input);
    info.upstream_local_address = upstream.local_address();
    let last_activity = std::cell::Cell::new(Instant::now());
    let both = async {
        tokio::join!(
            copy(&downstream, &upstream, &last_activity),
            copy(&upstream, &downstream, &last_activity),
        )
    };
    tokio::pin!(both);
    let deadline = runtime.config.max_duration.map(|limit| Instant::now() + limit);
    let (received, sent) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    tokio::select! {
        (up, down) = &mut both => {
            received.set(up);
            sent.set(down);
        }
        () = idle(runtime.config.idle_timeout, &last_activity) => {
            worker.stats.increment(runtime.stats.idle_timeout);
        }
        () = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        } => {}
        // Idle connections end with their listener; those with traffic go on until the drain time is over.
        () = async {
            listener.drain.closed().await;
            idle(Some(Duration::from_millis(500)), &last_activity).await;
        } => {}
    }
    info.bytes_received = received.get();
    info.bytes_sent = sent.get();
    worker.stats.decrement(cluster.stats.upstream_cx_active);
    worker.stats.add(cluster.stats.upstream_cx_tx_bytes_total, info.bytes_received);
    worker.stats.add(cluster.stats.upstream_cx_rx_bytes_total, info.bytes_sent);
}

async fn open(
    worker: &Rc<Worker>,
    runtime: &TcpRuntime,
    cluster: &Arc<ClusterHandle>,
    destination: Option<SocketAddr>,
    info: &mut StreamInfo,
) -> Option<Stream> {
    let mut tried = Vec::new();
    for _ in 0..runtime.config.connect_attempts {
        let Some(host) = worker.choose_host(cluster, destination, 3, &tried) else {
            info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
            worker.stats.increment(cluster.stats.upstream_cx_none_healthy);
            return None;
        };
        info.upstream_host = Some(Arc::clone(&host.text));
        info.attempts += 1;
        worker.stats.increment(cluster.stats.upstream_cx_total);
        match connect(cluster, &host).await {
            Ok(stream) => return Some(stream),
            Err(error) => {
                worker.stats.increment(cluster.stats.upstream_cx_connect_fail);
                if matches!(error, ConnectError::Timeout) {
                    worker.stats.increment(cluster.stats.upstream_cx_connect_timeout);
                }
                info.upstream_transport_failure = Some(error.to_string());
                tried.push(host);
            }
        }
    }
    info.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    None
}

/// Copies one direction and passes its end on. Reads go through the thread's large buffer.
async fn copy(from: &Shared, to: &Shared, last_activity: &std::cell::Cell<Instant>) -> u64 {
    let mut bytes = 0;
    loop {
        let chunk: Bytes = from.input().split().freeze();
        if !chunk.is_empty() {
            bytes += chunk.len() as u64;
            if to.write(&chunk).await.is_err() {
                // The other direction may still have something to say, but its reader is gone with the connection.
                return bytes;
            }
        }
        last_activity.set(Instant::now());
        match from.fill().await {
            Ok(1..) => {}
            _ => {
                let _ = to.shutdown().await;
                return bytes;
            }
        }
    }
}

/// Resolves when nothing happened for so long.
async fn idle(limit: Option<Duration>, last_activity: &std::cell::Cell<Instant>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let left = limit.saturating_sub(last_activity.get().elapsed());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}
