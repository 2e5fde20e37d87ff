//! Network filters: what a connection passes, in order, before the filter at the end of its chain serves it.
//!
//! A gate lets a connection pass, perhaps after having set something on it, or refuses it. There are two kinds, by what
//! they need. A `Gate` stands where the connection begins, before TLS: it reads nothing and waits for nobody, and what it
//! counts for as long as the connection lives is in [`Held`], which gives it back. A `LateGate` stands behind the
//! handshake: it sees who the peer is, may wait, and may put itself around the connection. Observers hear of what becomes
//! of a connection. A chain without any costs nothing.

mod direct;
pub mod exchange;
pub mod pump;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use lateen_dataplane::filter_state::TCP_PROXY_CLUSTER;
use lateen_dataplane::format::{LogType, Source};
use lateen_dataplane::network::{ConnectionLimit, FilterStateValue, LocalRateLimit, NetworkGate};
use lateen_dataplane::stream_info::{ResponseFlags, StreamInfo};
use lateen_dataplane::token_bucket::TokenBucket;
use parking_lot::Mutex;

pub use direct::{echo, respond};

use crate::filters::istio;
use crate::listener::ConnectionFacts;
use crate::stats::{ConnectionLimitStats, Counter, RateLimitStats, Shard, Stats};
use crate::stream::Stream;
use crate::worker::Worker;

/// A filter that comes before the end of a chain.
#[derive(Debug)]
enum Gate {
    Rate { bucket: Arc<TokenBucket>, enabled: bool, rate_limited: Counter },
    Limit { config: Arc<ConnectionLimit>, active: Arc<AtomicU64>, stats: ConnectionLimitStats },
    SniCluster,
    Set(Arc<[FilterStateValue]>),
}

/// A filter that comes after the TLS handshake.
#[derive(Debug)]
enum LateGate {
    Set(Arc<[FilterStateValue]>),
    Exchange(Arc<str>),
}

/// All gates of a chain, in order.
#[derive(Debug, Default)]
pub struct Gates {
    first: Box<[Gate]>,
    late: Box<[LateGate]>,
    observers: Box<[Arc<istio::Shared>]>,
}

/// A connection that may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How long it is held before it is closed.
    pub delay: Option<Duration>,
    /// Why, for logs.
    pub flags: ResponseFlags,
    /// Why, for logs.
    pub details: Option<&'static str>,
}

/// What gates count for a connection; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Held(Vec<HeldOne>);

#[derive(Debug)]
struct HeldOne {
    active: Arc<AtomicU64>,
    gauge: Counter,
    shard: Arc<Shard>,
}

impl Drop for HeldOne {
    fn drop(&mut self) {
        self.active.fetch_sub(1, Relaxed);
        self.shard.decrement(self.gauge);
    }
}

/// What filters of one proxy share with each other.
#[derive(Debug, Default)]
pub struct Registry {
    buckets: Mutex<HashMap<BucketKey, std::sync::Weak<TokenBucket>>>,
}

/// The share key, and the numbers of the bucket.
type BucketKey = (Box<str>, u32, u32, Duration);

impl Registry {
    fn bucket(&self, config: &LocalRateLimit) -> Arc<TokenBucket> {
        let make =
            || Arc::new(TokenBucket::new(config.max_tokens, config.tokens_per_fill, config.fill_interval));
        if config.share_key.is_empty() {
            return make();
        }
        let key = (config.share_key.clone(), config.max_tokens, config.tokens_per_fill, config.fill_interval);
        let mut buckets = self.buckets.lock();
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        if let Some(bucket) = buckets.get(&key).and_then(std::sync::Weak::upgrade) {
            return bucket;
        }
        let bucket = make();
        buckets.insert(key, Arc::downgrade(&bucket));
        bucket
    }
}

impl Gates {
    /// The gates of a chain.
    pub fn new(configs: &[NetworkGate], registry: &Registry, stats: &Stats) -> Self {
        let (mut first, mut late, mut observers) = (Vec::new(), Vec::new(), Vec::new());
        for config in configs {
            match config {
                NetworkGate::LocalRateLimit(config) => first.push(Gate::Rate {
                    bucket: registry.bucket(config),
                    enabled: config.enabled,
                    rate_limited: RateLimitStats::new(stats, &config.stat_prefix).rate_limited,
                }),
                NetworkGate::ConnectionLimit(config) => first.push(Gate::Limit {
                    config: Arc::clone(config),
                    active: Arc::default(),
                    stats: ConnectionLimitStats::new(stats, &config.stat_prefix),
                }),
                NetworkGate::SniCluster => first.push(Gate::SniCluster),
                NetworkGate::SetFilterState(values) => first.push(Gate::Set(Arc::clone(values))),
                NetworkGate::SetFilterStateAfterHandshake(values) => {
                    late.push(LateGate::Set(Arc::clone(values)));
                }
                NetworkGate::PeerExchange(protocol) => late.push(LateGate::Exchange(Arc::clone(protocol))),
                NetworkGate::IstioStats(config) => {
                    observers.push(Arc::new(istio::Shared::new(config, stats)));
                }
            }
        }
        Self { first: first.into(), late: late.into(), observers: observers.into() }
    }

    /// Takes a connection through the gates where it begins.
    pub fn enter(&self, worker: &Worker, facts: &mut ConnectionFacts) -> Result<Held, Refused> {
        let mut held = Held::default();
        for gate in &self.first {
            gate.enter(worker, facts, &mut held)?;
        }
        Ok(held)
    }

    /// Whether there are gates behind the handshake.
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Takes a connection through the gates behind its handshake. `input` was read from it already.
    pub async fn pass(
        &self,
        worker: &Worker,
        facts: &mut ConnectionFacts,
        mut stream: Stream,
        input: &mut BytesMut,
    ) -> Result<Stream, Refused> {
        for gate in &self.late {
            match gate {
                LateGate::Set(values) => set(values, worker, facts),
                LateGate::Exchange(protocol) => {
                    let (exchanged, peer) =
                        exchange::downstream(&worker.state, protocol, stream, input).await;
                    stream = exchanged;
                    facts.peer = peer;
                }
            }
        }
        Ok(stream)
    }

    /// Those who hear of what becomes of a connection.
    pub fn observers(&self) -> &[Arc<istio::Shared>] {
        &self.observers
    }
}

/// Sets values of the filter state.
fn set(values: &[FilterStateValue], worker: &Worker, facts: &mut ConnectionFacts) {
    let info = facts.stream_info(worker);
    let hostname = &worker.state.hostname;
    let source = Source { info: &info, request: None, response: None, trailers: None, hostname };
    for value in values {
        let mut text = Vec::new();
        value.value.header_value(&source, &mut text);
        if !(text.is_empty() && value.skip_if_empty) {
            let text = String::from_utf8_lossy(&text).into_owned();
            facts.filter_state.set(Arc::clone(&value.key), text);
        }
    }
}

impl Gate {
    fn enter(&self, worker: &Worker, facts: &mut ConnectionFacts, held: &mut Held) -> Result<(), Refused> {
        match self {
            Self::Rate { bucket, enabled, rate_limited } => {
                if *enabled && !bucket.take(1, worker.state.epoch.elapsed()) {
                    worker.stats.increment(*rate_limited);
                    // The flag is Envoy's, though nothing was retried.
                    return Err(Refused { delay: None, flags: ResponseFlags::RETRY_LIMIT, details: None });
                }
            }
            Self::Limit { config, active, stats } => {
                if !config.enabled {
                    return Ok(());
                }
                let before = active.fetch_add(1, Relaxed);
                worker.stats.increment(stats.active_connections);
                held.0.push(HeldOne {
                    active: Arc::clone(active),
                    gauge: stats.active_connections,
                    shard: Arc::clone(&worker.stats),
                });
                if before >= config.max_connections {
                    worker.stats.increment(stats.limited_connections);
                    held.0.pop();
                    return Err(Refused {
                        delay: config.delay,
                        flags: ResponseFlags::default(),
                        details: None,
                    });
                }
            }
            Self::SniCluster => {
                if let Some(name) = &facts.server_name {
                    facts.filter_state.set(TCP_PROXY_CLUSTER, Arc::clone(name));
                }
            }
            Self::Set(values) => set(values, worker, facts),
        }
        Ok(())
    }
}

impl ConnectionFacts {
    /// What logs say of a connection that has just begun.
    pub fn stream_info(&self, worker: &Worker) -> StreamInfo {
        StreamInfo {
            start_time: worker.now(),
            downstream_local_address: self.local,
            downstream_remote_address: self.remote,
            downstream_direct_address: self.direct,
            server_name: self.server_name.clone(),
            connection: self.info.clone(),
            log_type: LogType::TcpConnectionEnd,
            random: worker.random(),
            ..StreamInfo::default()
        }
    }
}
