//! `envoy.filters.http.cors`: answers preflights, and lets pages of allowed origins read responses.

use std::sync::Arc;

use lateen_dataplane::filters::{Cors as Policy, FilterOverride};
use lateen_dataplane::head::ResponseHead;

use super::{HttpFilter, Step};
use crate::router::{Exchange, LocalReply};
use crate::stats::{Counter, Kind, Scope, Stats as AllStats};

/// `http.PREFIX.cors.*`.
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    origin_valid: Counter,
    origin_invalid: Counter,
}

impl Stats {
    pub(super) fn new(stats: &AllStats, prefix: &str) -> Self {
        let scope = Scope { family: "http", label: "envoy_http_conn_manager_prefix", name: prefix };
        Self {
            origin_valid: stats.define(scope, "cors.origin_valid", Kind::Counter),
            origin_invalid: stats.define(scope, "cors.origin_invalid", Kind::Counter),
        }
    }
}

/// A policy at work.
pub struct Cors {
    policy: Arc<Policy>,
    stats: Stats,
    /// Set where the origin is allowed.
    origin: Option<Box<[u8]>>,
}

impl Cors {
    pub(super) fn start(stats: Stats, route: Option<&FilterOverride>, exchange: &Exchange) -> Option<Self> {
        let Some(FilterOverride::Cors(policy)) = route else { return None };
        exchange.head.headers.get("origin").filter(|origin| !origin.is_empty())?;
        Some(Self { policy: Arc::clone(policy), stats, origin: None })
    }
}

impl HttpFilter for Cors {
    fn request_head(&mut self, exchange: &mut Exchange) -> Step {
        let enabled = self.policy.is_enabled(exchange.random);
        let shadow = self.policy.is_shadow(exchange.random);
        let Some(origin) = exchange.head.headers.get("origin").filter(|_| enabled || shadow) else {
            return Step::Continue;
        };
        let preflight = Policy::is_preflight(&exchange.head);
        if !self.policy.allows(origin) {
            exchange.worker.stats.increment(self.stats.origin_invalid);
            if enabled && preflight && self.policy.forward_not_matching_preflights == Some(false) {
                return Step::Reply(LocalReply::new(200, "", "cors_response"));
            }
            return Step::Continue;
        }
        exchange.worker.stats.increment(self.stats.origin_valid);
        if !enabled {
            return Step::Continue;
        }
        let origin: Box<[u8]> = origin.into();
        if preflight {
            let response = self.policy.preflight_response(&origin, &exchange.head);
            let mut reply = LocalReply::new(response.status, "", "cors_response");
            reply.headers = response.headers;
            self.origin = Some(origin);
            return Step::Reply(reply);
        }
        self.origin = Some(origin);
        Step::Continue
    }

    fn response_head(&mut self, _exchange: &mut Exchange, head: &mut ResponseHead) -> Step {
        if let Some(origin) = &self.origin {
            self.policy.decorate(origin, head);
        }
        Step::Continue
    }
}
