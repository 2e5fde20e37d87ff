//! `envoy.filters.http.local_ratelimit`: token buckets that all workers share.

use std::rc::Rc;
use std::sync::Arc;

use lateen_dataplane::filters::rate_limits::{Descriptor, DescriptorSource, RateLimit};
use lateen_dataplane::filters::{Buckets, FilterOverride, HostLimits, LocalRateLimit as Config};
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::route::Action;
use lateen_dataplane::stream_info::ResponseFlags;
use lateen_dataplane::token_bucket::TokenBucket;

use super::{HttpFilter, Step};
use crate::router::{Exchange, LocalReply};
use crate::stats::HttpRateLimitStats as Stats;

/// A limit at work on a request.
pub struct LocalRateLimit {
    config: Arc<Config>,
    /// The bucket that decided, where clients are told.
    bucket: Option<Arc<TokenBucket>>,
    refused: bool,
}

impl LocalRateLimit {
    pub(super) fn start(config: &Arc<Config>, route: Option<&FilterOverride>) -> Option<Self> {
        let config = match route {
            Some(FilterOverride::LocalRateLimit(config)) => config,
            _ => config,
        };
        if config.enabled.numerator == 0 {
            return None;
        }
        Some(Self { config: Arc::clone(config), bucket: None, refused: false })
    }

    fn descriptors(&self, exchange: &Exchange) -> Vec<Descriptor> {
        let config = &self.config;
        if config.descriptors.is_empty() {
            return Vec::new();
        }
        let found = exchange.found.as_ref();
        let cluster = found.and_then(|found| found.cluster(&exchange.head));
        let source = DescriptorSource {
            head: &exchange.head,
            remote: exchange.info.downstream_remote_address,
            cluster: cluster.as_deref(),
            metadata: &exchange.info.metadata,
            route_metadata: found.map(|found| &*found.route.metadata),
        };
        let mut out = Vec::new();
        let mut add = |limits: &[RateLimit], any_stage: bool| {
            let wanted = limits.iter().filter(|limit| any_stage || limit.stage == config.stage);
            out.extend(wanted.filter_map(|limit| limit.descriptor(&source)));
        };
        if !config.rate_limits.is_empty() {
            add(&config.rate_limits, true);
            return out;
        }
        let Some(found) = found else { return out };
        let of_route: &[RateLimit] = match &found.route.action {
            Action::Forward(forward) => &forward.rate_limits,
            _ => &[],
        };
        add(of_route, false);
        let with_host = match config.host_limits {
            HostLimits::Ignore => false,
            HostLimits::Include => true,
            HostLimits::Override => of_route.is_empty(),
        };
        if with_host {
            add(&found.virtual_host.rate_limits, false);
        }
        out
    }
}

/// The buckets of a connection, made with its first request.
fn of_connection(exchange: &Exchange, config: &Arc<Config>) -> Rc<Buckets> {
    let key = Arc::as_ptr(config) as usize;
    let mut kept = exchange.connection.kept.borrow_mut();
    let there = kept.iter().find(|(other, _)| *other == key).map(|(_, kept)| Rc::clone(kept));
    // The configuration is kept, too, so that no other one gets its address.
    type Kept = (Arc<Config>, Rc<Buckets>);
    if let Some(Ok(kept)) = there.map(Rc::downcast::<Kept>) {
        return Rc::clone(&kept.1);
    }
    let buckets = Rc::new(Buckets::new(config.bucket.as_ref(), &config.descriptors));
    let entry: Kept = (Arc::clone(config), Rc::clone(&buckets));
    kept.push((key, Rc::new(entry)));
    buckets
}

impl HttpFilter for LocalRateLimit {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        let config = Arc::clone(&self.config);
        if !config.enabled.contains(exchange.worker.random()) {
            return Step::Continue;
        }
        let worker = Rc::clone(&exchange.worker);
        let Some(stats) = config.slot.get_or_init(|| Stats::new(&worker.state.stats, &config.stat_prefix))
        else {
            return Step::Continue;
        };
        worker.stats.increment(stats.enabled);
        let descriptors = self.descriptors(exchange);
        let now = worker.state.epoch.elapsed();
        let verdict = if config.per_connection {
            config.decide(&of_connection(exchange, &config), &descriptors, now)
        } else {
            config.decide(&config.buckets, &descriptors, now)
        };
        if config.headers || config.retry_after {
            self.bucket = verdict.bucket;
        }
        if verdict.allowed {
            worker.stats.increment(stats.ok);
            return Step::Continue;
        }
        worker.stats.increment(stats.rate_limited);
        if !config.enforced.contains(worker.random()) {
            for value in &config.request_add {
                value.add_to_request(&mut exchange.head, &exchange.info, &worker.state.hostname);
            }
            return Step::Continue;
        }
        worker.stats.increment(stats.enforced);
        exchange.info.flags.set(ResponseFlags::RATE_LIMITED);
        self.refused = true;
        let mut reply = LocalReply::new(config.status, "local_rate_limited", "local_rate_limited");
        if config.resource_exhausted {
            reply.grpc_status = Some(8);
        }
        Step::Reply(reply)
    }

    fn response_head(&mut self, exchange: &mut Exchange, head: &mut ResponseHead) -> Step {
        let state = &exchange.worker.state;
        if let Some(bucket) = &self.bucket {
            let now = state.epoch.elapsed();
            let reset = bucket.next_token(now).as_secs_f64().ceil() as u64;
            if self.config.headers {
                head.headers.set("x-ratelimit-limit", bucket.capacity().to_string());
                head.headers.set("x-ratelimit-remaining", bucket.remaining(now).to_string());
                head.headers.set("x-ratelimit-reset", reset.to_string());
            }
            if self.config.retry_after && self.refused && self.config.status == 429 {
                head.headers.set("retry-after", reset.to_string());
            }
        }
        if self.refused {
            for value in &self.config.response_add {
                value.add_to_response(head, &exchange.head, &exchange.info, &state.hostname);
            }
        }
        Step::Continue
    }
}
