//! Counters without contention: each worker adds to a shard of its own, and readers sum the shards.
//!
//! Names are resolved when configuration is compiled: the request path holds a [`Counter`], which is an index.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

const CHUNK: usize = 1024;
const CHUNKS: usize = 4096;

/// A counter or gauge: where it is in every shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter(u32);

/// The values of one worker.
pub struct Shard {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Default for Shard {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shard")
    }
}

impl Shard {
    fn cell(&self, counter: Counter) -> &AtomicU64 {
        let index = counter.0 as usize % (CHUNK * CHUNKS);
        let chunk =
            self.chunks[index / CHUNK].get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        &chunk[index % CHUNK]
    }

    /// Adds one.
    pub fn increment(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.cell(counter).fetch_add(amount, Relaxed);
    }

    /// Takes one off a gauge. Shards may go below zero; their sum does not.
    pub fn decrement(&self, counter: Counter) {
        self.cell(counter).fetch_sub(1, Relaxed);
    }
}

/// What kind of number it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// The name of a number, for people and for Prometheus.
#[derive(Debug, Clone)]
struct Definition {
    kind: Kind,
    counter: Counter,
    prometheus: String,
    labels: Vec<(&'static str, String)>,
}

/// All names and shards of a proxy.
#[derive(Debug, Default)]
pub struct Stats {
    definitions: Mutex<BTreeMap<String, Definition>>,
    shards: Mutex<Vec<Arc<Shard>>>,
}

/// The part of a name that varies, and the label it becomes: `cluster.NAME.` with `envoy_cluster_name`.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// `cluster`, `http`, `listener`, `tcp`.
    pub family: &'static str,
    /// The Prometheus label.
    pub label: &'static str,
    /// The value.
    pub name: &'a str,
}

impl Stats {
    /// A shard of one's own.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.shards.lock().push(Arc::clone(&shard));
        shard
    }

    /// The number of that name; made at first use.
    pub fn define(&self, scope: Scope<'_>, name: &str, kind: Kind) -> Counter {
        let full = format!("{}.{}.{name}", scope.family, scope.name);
        let mut definitions = self.definitions.lock();
        let next = Counter(definitions.len() as u32);
        definitions
            .entry(full)
            .or_insert_with(|| Definition {
                kind,
                counter: next,
                prometheus: format!("envoy_{}_{name}", scope.family).replace(['.', '-'], "_"),
                labels: vec![(scope.label, scope.name.to_owned())],
            })
            .counter
    }

    /// The sum over all workers.
    pub fn value(&self, name: &str) -> Option<u64> {
        let counter = self.definitions.lock().get(name)?.counter;
        Some(self.sum(counter))
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.shards.lock().iter().fold(0, |sum, shard| sum.wrapping_add(shard.cell(counter).load(Relaxed)))
    }

    /// `name: value` lines, as Envoy's `/stats`.
    pub fn text(&self, filter: impl Fn(&str) -> bool, used_only: bool) -> String {
        let definitions = self.definitions.lock().clone();
        let mut out = String::new();
        for (name, definition) in definitions {
            let value = self.sum(definition.counter);
            if filter(&name) && !(used_only && value == 0) {
                out.push_str(&format!("{name}: {value}\n"));
            }
        }
        out
    }

    /// Prometheus text.
    pub fn prometheus(&self) -> String {
        let mut families: BTreeMap<String, (Kind, Vec<String>)> = BTreeMap::new();
        for definition in self.definitions.lock().clone().into_values() {
            let labels: Vec<String> = definition
                .labels
                .iter()
                .map(|(label, value)| {
                    format!("{label}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
                })
                .collect();
            let line = format!(
                "{}{{{}}} {}\n",
                definition.prometheus,
                labels.join(","),
                self.sum(definition.counter)
            );
            families.entry(definition.prometheus).or_insert((definition.kind, Vec::new())).1.push(line);
        }
        let mut out = String::new();
        for (name, (kind, lines)) in families {
            let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
            out.push_str(&format!("# TYPE {name} {kind}\n{}", lines.concat()));
        }
        out
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $family:literal, $label:literal { $($field:ident: $kind:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: Counter),* }

        impl $name {
            /// Resolves all names.
            pub fn new(stats: &Stats, name: &str) -> Self {
                let scope = Scope { family: $family, label: $label, name };
                Self { $($field: stats.define(scope, stringify!($field), Kind::$kind)),* }
            }
        }
    };
}

counters! {
    /// `cluster.NAME.*`.
    ClusterStats, "cluster", "envoy_cluster_name" {
        upstream_cx_total: Counter, upstream_cx_active: Gauge, upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter, upstream_cx_overflow: Counter,
        upstream_cx_http1_total: Counter, upstream_cx_http2_total: Counter,
        upstream_cx_rx_bytes_total: Counter, upstream_cx_tx_bytes_total: Counter,
        upstream_rq_total: Counter, upstream_rq_active: Gauge, upstream_rq_completed: Counter,
        upstream_rq_1xx: Counter, upstream_rq_2xx: Counter, upstream_rq_3xx: Counter, upstream_rq_4xx: Counter,
        upstream_rq_5xx: Counter, upstream_rq_timeout: Counter, upstream_rq_per_try_timeout: Counter,
        upstream_rq_retry: Counter, upstream_rq_retry_success: Counter, upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter, upstream_rq_pending_overflow: Counter,
        upstream_rq_rx_reset: Counter, upstream_rq_tx_reset: Counter, upstream_cx_none_healthy: Counter,
        upstream_rq_time_ms_sum: Counter, membership_total: Gauge, membership_change: Counter,
    }
}

counters! {
    /// `http.PREFIX.*`.
    HttpStats, "http", "envoy_http_conn_manager_prefix" {
        downstream_cx_total: Counter, downstream_cx_active: Gauge, downstream_cx_protocol_error: Counter,
        downstream_cx_http1_total: Counter, downstream_cx_http2_total: Counter,
        downstream_rq_total: Counter, downstream_rq_active: Gauge, downstream_rq_completed: Counter,
        downstream_rq_http1_total: Counter, downstream_rq_http2_total: Counter,
        downstream_rq_1xx: Counter, downstream_rq_2xx: Counter, downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter, downstream_rq_5xx: Counter, downstream_rq_timeout: Counter,
        downstream_rq_rx_reset: Counter, no_route: Counter, no_cluster: Counter,
        downstream_cx_idle_timeout: Counter, downstream_rq_idle_timeout: Counter,
    }
}

counters! {
    /// `listener.ADDRESS.*`.
    ListenerStats, "listener", "envoy_listener_address" {
        downstream_cx_total: Counter, downstream_cx_active: Gauge, downstream_cx_destroy: Counter,
        no_filter_chain_match: Counter, downstream_pre_cx_timeout: Counter, downstream_pre_cx_active: Gauge,
        downstream_cx_overflow: Counter, downstream_global_cx_overflow: Counter,
        downstream_listener_filter_error: Counter, downstream_listener_filter_remote_close: Counter,
        downstream_cx_overload_reject: Counter, downstream_cx_transport_socket_connect_timeout: Counter,
    }
}

counters! {
    /// `tcp.PREFIX.*`.
    TcpStats, "tcp", "envoy_tcp_prefix" {
        downstream_cx_total: Counter, downstream_cx_no_route: Counter, idle_timeout: Counter,
        downstream_cx_rx_bytes_total: Counter, downstream_cx_tx_bytes_total: Counter,
        max_downstream_connection_duration: Counter,
    }
}

counters! {
    /// `local_rate_limit.PREFIX.*`, of the network filter.
    RateLimitStats, "local_rate_limit", "envoy_local_network_ratelimit_prefix" {
        rate_limited: Counter,
    }
}

counters! {
    /// `connection_limit.PREFIX.*`.
    ConnectionLimitStats, "connection_limit", "envoy_connection_limit_prefix" {
        active_connections: Gauge, limited_connections: Counter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_summed() {
        let stats = Stats::default();
        let cluster = ClusterStats::new(&stats, "outbound|80||a");
        let (one, two) = (stats.shard(), stats.shard());
        one.increment(cluster.upstream_cx_active);
        two.increment(cluster.upstream_rq_total);
        // The other worker may be the one that takes off.
        two.decrement(cluster.upstream_cx_active);
        one.add(cluster.upstream_rq_total, 2);
        assert_eq!(stats.value("cluster.outbound|80||a.upstream_rq_total"), Some(3));
        assert_eq!(stats.value("cluster.outbound|80||a.upstream_cx_active"), Some(0));
        assert!(
            stats
                .prometheus()
                .contains("envoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||a\"} 3\n")
        );
    }
}
