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
use crate::stats::{Counter, Kind, Scope, Stats};

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    config: Arc<Config>,
    /// Faults at work; counted over all workers, for the limit.
    active: AtomicU32,
    delays: Counter,
    aborts: Counter,
    limited: Counter,
    overflow: Counter,
    active_faults: Counter,
}

impl Shared {
    pub(super) fn new(config: &Arc<Config>, stats: &Stats, prefix: &str) -> Self {
        let scope = Scope { family: "http", label: "envoy_http_conn_manager_prefix", name: prefix };
        Self {
            config: Arc::clone(config),
            active: AtomicU32::new(0),
            delays: stats.define(scope, "fault.delays_injected", Kind::Counter),
            aborts: stats.define(scope, "fault.aborts_injected", Kind::Counter),
            limited: stats.define(scope, "fault.response_rl_injected", Kind::Counter),
            overflow: stats.define(scope, "fault.faults_overflow", Kind::Counter),
            active_faults: stats.define(scope, "fault.active_faults", Kind::Gauge),
        }
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
            exchange.worker.stats.increment(self.shared.overflow);
            return false;
        }
        exchange.worker.stats.increment(self.shared.active_faults);
        self.active = true;
        true
    }

    fn count(&self, exchange: &Exchange, counter: Counter, name: &str) {
        exchange.worker.stats.increment(counter);
        if !self.config.cluster_stats {
            return;
        }
        let Some(cluster) = exchange.head.headers.get_str("x-envoy-downstream-service-cluster") else {
            return;
        };
        if cluster.is_empty() {
            return;
        }
        // Who asks is known only now; faults are rare enough to look the name up.
        let prefix = &exchange.runtime.config.stat_prefix;
        let scope = Scope { family: "http", label: "envoy_http_conn_manager_prefix", name: prefix };
        let stats = &exchange.worker.state.stats;
        exchange.worker.stats.increment(stats.define(
            scope,
            &format!("fault.{cluster}.{name}"),
            Kind::Counter,
        ));
    }

    fn abort(&mut self, exchange: &mut Exchange) -> Step {
        let Some(status) = self.config.abort_for(&exchange.head, exchange.worker.random()) else {
            return Step::Continue;
        };
        if !self.activate(exchange) {
            return Step::Continue;
        }
        self.count(exchange, self.shared.aborts, "aborts_injected");
        exchange.info.flags.set(ResponseFlags::FAULT_INJECTED);
        let (http, grpc) = match status {
            FaultStatus::Http(status) => (status, None),
            FaultStatus::Grpc(grpc) => (http_status(grpc), Some(grpc)),
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
                exchange.worker.stats.increment(self.shared.limited);
                self.rate = Some(rate);
            }
            // Delay and abort are drawn independently.
            if let Some(delay) = self.config.delay_for(&exchange.head, exchange.worker.random())
                && self.activate(exchange)
            {
                self.count(exchange, self.shared.delays, "delays_injected");
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
            exchange.worker.stats.decrement(self.shared.active_faults);
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

/// The HTTP status of a gRPC status, for clients that do not speak gRPC (`google.rpc.Code`).
fn http_status(grpc: u32) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
