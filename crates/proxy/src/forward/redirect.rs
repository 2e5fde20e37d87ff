//! Following a redirect in place of the client.

use std::sync::Arc;

use lateen_dataplane::route::{Action, NotFollowed};
use lateen_dataplane::stream_info::Protocol;

use super::Forwarded;
use crate::message::BodyReader;
use crate::router::Exchange;

impl Exchange {
    /// Makes the request that the answer redirects to, if the route says so: the exchange is then as if that one had
    /// come, and the answer is given up.
    pub(crate) fn redirected(&mut self, forwarded: &mut Forwarded, body: &mut BodyReader) -> bool {
        let Some(found) = self.found.clone() else { return false };
        let Action::Forward(action) = &found.route.action else { return false };
        let Some(policy) = action.internal_redirects.as_ref() else { return false };
        let status = forwarded.head.status;
        if !policy.is_for(status) {
            return false;
        }
        // Without the whole request there is nothing to send.
        let Some(replay) = forwarded.replay.take() else { return false };
        let done = u32::try_from(self.redirects.len()).unwrap_or(u32::MAX);
        let stats = self.runtime.stats;
        let (shard, cluster) = (Arc::clone(&self.worker.stats), forwarded.cluster_stats());
        let next = policy.next(&self.head, status, &forwarded.head.headers, done).and_then(|next| {
            let target = self.table.as_ref().and_then(|table| table.find(&next, self.random));
            let target = target.ok_or(NotFollowed::NoRoute)?;
            if !policy.accepts(&target.route.name, &self.redirects, self.head.scheme, next.scheme) {
                return Err(NotFollowed::Predicate);
            }
            Ok((next, target.route.name.clone()))
        });
        let (next, target) = match next {
            Ok(next) => next,
            Err(reason) => {
                shard.increment(cluster.upstream_internal_redirect_failed_total);
                shard.increment(match reason {
                    NotFollowed::BadLocation => stats.passthrough_internal_redirect_bad_location,
                    NotFollowed::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme,
                    NotFollowed::TooMany => stats.passthrough_internal_redirect_too_many_redirects,
                    NotFollowed::NoRoute => stats.passthrough_internal_redirect_no_route,
                    NotFollowed::Predicate => stats.passthrough_internal_redirect_predicate,
                });
                return false;
            }
        };
        shard.increment(cluster.upstream_internal_redirect_succeeded_total);
        self.info.response_code = status;
        self.info.response_code_details = Some("internal_redirect");
        let kept_body = next.method() == self.head.method();
        let head = std::mem::take(&mut forwarded.head);
        self.redirects.push(target);
        // What is logged of the hop is the request that follows from it, as Envoy does.
        self.head = next;
        self.refresh_route();
        self.info.upstream_cluster = self.found.as_ref().and_then(|found| found.cluster(&self.head));
        self.info.upstream_stat_name = None;
        self.end_of_hop(head);
        // The next hop counts as a request of its own.
        shard.increment(stats.downstream_rq_total);
        shard.increment(match self.info.protocol {
            Some(Protocol::Http2) => stats.downstream_rq_http2_total,
            _ => stats.downstream_rq_http1_total,
        });
        *body = if kept_body { replay.into_reader() } else { BodyReader::Done };
        self.info.attempts = 0;
        self.info.upstream_host = None;
        self.info.response_code = 0;
        true
    }
}
