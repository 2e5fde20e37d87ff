//! `envoy.filters.http.cors`: answers preflights, and lets pages of allowed origins read responses.

use std::sync::Arc;

use lateen_dataplane::filters::{Cors as Policy, FilterOverride};
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::route::Action;

use super::{HttpFilter, Step};
use crate::router::{Exchange, LocalReply};
use crate::stats::CorsStats;

/// A policy at work.
pub struct Cors {
    policy: Arc<Policy>,
    stats: CorsStats,
    /// Set where the origin is allowed.
    origin: Option<Box<[u8]>>,
}

impl Cors {
    pub(super) fn start(
        stats: CorsStats,
        route: Option<&FilterOverride>,
        exchange: &Exchange,
    ) -> Option<Self> {
        let Some(FilterOverride::Cors(policy)) = route else { return None };
        exchange.head.headers.get("origin").filter(|origin| !origin.is_empty())?;
        // Envoy asks the route entry for the policy, and redirects and direct responses have none.
        exchange.found.as_ref().filter(|found| matches!(found.route.action, Action::Forward(_)))?;
        Some(Self { policy: Arc::clone(policy), stats, origin: None })
    }

    fn preflight(&self, exchange: &Exchange) -> Step {
        let response = self.policy.preflight_response(self.origin.as_deref(), &exchange.head);
        let mut reply = LocalReply::new(response.status, "", "cors_response");
        reply.headers = response.headers;
        Step::Reply(reply)
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
                return self.preflight(exchange);
            }
            return Step::Continue;
        }
        exchange.worker.stats.increment(self.stats.origin_valid);
        if !enabled {
            return Step::Continue;
        }
        let origin: Box<[u8]> = origin.into();
        if preflight {
            self.origin = Some(origin);
            return self.preflight(exchange);
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
