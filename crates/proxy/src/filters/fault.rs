//! `envoy.filters.http.fault`: delays, aborts and slow responses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lateen_dataplane::filters::{Fault as Config, FaultStatus, FilterOverride};
use lateen_dataplane::head::{Headers, ResponseHead};
use lateen_dataplane::stream_info::ResponseFlags;
use lateen_dataplane::token_bucket::TokenBucket;

use super::{BodyFilter, BodyStep, HttpFilter, Step};
use crate::message::BodyEvent;
use crate::router::{Exchange, LocalReply};
use crate::stats::{Counter, FaultClusterStats, FaultStats, Stats};

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    /// Faults at work; counted over all workers, for the limit.
    active: AtomicU32,
    stats: FaultStats,
}

impl Shared {
    pub(super) fn new(config: &Arc<Config>, stats: &Stats, prefix: &str) -> Self {
        Self { config: Arc::clone(config), active: AtomicU32::new(0), stats: FaultStats::new(stats, prefix) }
    }
}

/// A fault for one request.
pub struct Fault {
    shared: Arc<Shared>,
    config: Arc<Config>,
    /// Whether the delay is over, or there is none.
    delayed: bool,
    /// Whether it counts as active.
    active: bool,
    /// KiB a second.
    rate: Option<u64>,
}

impl Fault {
    pub(super) fn start(shared: &Arc<Shared>, route: Option<&FilterOverride>) -> Option<Self> {
        let config = match route {
            Some(FilterOverride::Fault(fault)) => fault,
            _ => &shared.config,
        };
        if config.is_empty() {
            return None;
        }
        Some(Self {
            shared: Arc::clone(shared),
            config: Arc::clone(config),
            delayed: false,
            active: false,
            rate: None,
        })
    }

    /// Counts the fault, if another one may be at work.
    fn activate(&mut self, exchange: &Exchange) -> bool {
        if self.active {
            return true;
        }
        if let Some(limit) = self.config.max_active
            && self.shared.active.fetch_add(1, Relaxed) >= limit
        {
            self.shared.active.fetch_sub(1, Relaxed);
            exchange.worker.stats.increment(self.shared.stats.faults_overflow);
            return false;
        }
        exchange.worker.stats.increment(self.shared.stats.active_faults);
        self.active = true;
        true
    }

    /// Counts a fault, also for the cluster that the client says it is of.
    fn count(&self, exchange: &Exchange, delay: bool) {
        let shard = &exchange.worker.stats;
        let counter = |stats: (Counter, Counter)| shard.increment(if delay { stats.0 } else { stats.1 });
        counter((self.shared.stats.delays_injected, self.shared.stats.aborts_injected));
        let cluster = exchange.head.headers.get_str("x-envoy-downstream-service-cluster");
        if let Some(cluster) = cluster.filter(|name| self.config.cluster_stats && !name.is_empty()) {
            // Who asks is known only now; faults are rare enough to look the name up.
            let prefix = &exchange.runtime.config.stat_prefix;
            let suffix = format!("fault.{cluster}.");
            let stats = FaultClusterStats::within(&exchange.worker.state.stats, prefix, suffix);
            counter((stats.delays_injected, stats.aborts_injected));
        }
    }

    fn abort(&mut self, exchange: &mut Exchange) -> Step {
        let Some(status) = self.config.abort_for(&exchange.head, exchange.worker.random()) else {
            return Step::Continue;
        };
        if !self.activate(exchange) {
            return Step::Continue;
        }
        self.count(exchange, false);
        exchange.info.flags.set(ResponseFlags::FAULT_INJECTED);
        let (http, grpc) = match status {
            FaultStatus::Http(status) => (status, None),
            // To those who do not speak gRPC it says nothing, as in Envoy.
            FaultStatus::Grpc(grpc) => (200, Some(grpc)),
        };
        let text = self.config.abort_body.as_deref().unwrap_or("fault filter abort").to_owned();
        let mut reply = LocalReply::new(http, text, "fault_filter_abort");
        reply.grpc_status = grpc;
        Step::Reply(reply)
    }
}

impl HttpFilter for Fault {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        if !self.delayed {
            self.delayed = true;
            let cluster = match self.config.upstream_cluster {
                Some(_) => exchange.found.as_ref().and_then(|found| found.cluster(&exchange.head)),
                None => None,
            };
            if !self.config.applies(&exchange.head, cluster.as_deref()) {
                return Step::Continue;
            }
            if let Some(rate) = self.config.rate_for(&exchange.head, exchange.worker.random())
                && self.activate(exchange)
            {
                exchange.worker.stats.increment(self.shared.stats.response_rl_injected);
                self.rate = Some(rate);
            }
            // Delay and abort are drawn independently.
            if let Some(delay) = self.config.delay_for(&exchange.head, exchange.worker.random())
                && self.activate(exchange)
            {
                self.count(exchange, true);
                exchange.info.flags.set(ResponseFlags::DELAY_INJECTED);
                return Step::Wait(Box::pin(tokio::time::sleep(delay)));
            }
        }
        self.abort(exchange)
    }

    fn response_body(
        &mut self,
        _exchange: &mut Exchange,
        _head: &ResponseHead,
    ) -> Option<Box<dyn BodyFilter>> {
        self.rate.map(|rate| Box::new(Slow::new(rate)) as Box<dyn BodyFilter>)
    }

    fn complete(&mut self, exchange: &mut Exchange, _response: Option<&(ResponseHead, Option<Headers>)>) {
        if self.active {
            exchange.worker.stats.decrement(self.shared.stats.active_faults);
        }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if self.active && self.config.max_active.is_some() {
            self.shared.active.fetch_sub(1, Relaxed);
        }
    }
}

/// Between two fills of the bucket.
const INTERVAL: Duration = Duration::from_millis(50);

/// Lets a body through at a rate.
struct Slow {
    bucket: TokenBucket,
    begun: Instant,
    waiting: VecDeque<BodyEvent>,
}

impl Slow {
    fn new(rate: u64) -> Self {
        // What comes in one interval is also what may go at once, as in Envoy.
        let fill = u32::try_from((rate * 1024 / 20).max(1)).unwrap_or(u32::MAX);
        Self {
            bucket: TokenBucket::new(fill, fill, INTERVAL),
            begun: Instant::now(),
            waiting: VecDeque::new(),
        }
    }

    fn pass(&mut self, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        while let Some(event) = self.waiting.pop_front() {
            let BodyEvent::Data(mut chunk) = event else {
                out.push_back(event);
                continue;
            };
            let most = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let count = self.bucket.take_up_to(most, self.begun.elapsed()) as usize;
            if count > 0 {
                out.push_back(BodyEvent::Data(chunk.split_to(count)));
            }
            if !chunk.is_empty() {
                self.waiting.push_front(BodyEvent::Data(chunk));
                return BodyStep::Wait(Box::pin(tokio::time::sleep(INTERVAL)));
            }
        }
        BodyStep::Continue
    }
}

impl BodyFilter for Slow {
    fn event(&mut self, event: BodyEvent, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        let empty = matches!(&event, BodyEvent::Data(chunk) if Bytes::is_empty(chunk));
        if !empty {
            self.waiting.push_back(event);
        }
        self.pass(out)
    }

    fn resume(&mut self, out: &mut VecDeque<BodyEvent>) -> BodyStep {
        self.pass(out)
    }
}
