//! Sending a request upstream: cluster, host, tries, until there is the head of an answer.
//!
//! A request is sent again in two cases. The route's retry policy asks for it, and nothing has been sent to the client
//! yet. Or a kept connection turned out to be closed by its peer before anything of the request was sent. What may have
//! reached an application is sent again only where the configuration asks for that.
//!
//! [`forward`] chooses the cluster and lets `head` change the request's head; `tries` chooses hosts and decides about
//! other tries, each of which is an `attempt`; `upload` sends the body and keeps it for the next; `mirror` sends copies.

mod active;
mod attempt;
mod controls;
mod failure;
mod head;
mod mirror;
mod redirect;
mod selection;
mod tries;
mod upload;
mod virtual_cluster;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::route::{Forward, Found, RouteTable};
use lateen_dataplane::stream_info::ResponseFlags;

use self::active::ActiveRequest;
pub(crate) use self::controls::stream_limit;
pub(crate) use self::failure::broken_off;
use self::head::prepare_head;
pub use self::mirror::MirroredBody;
use self::mirror::mirror;
use self::selection::Selection;
use self::tries::{Tally, Tries};
use crate::filters::Buffered;
use crate::message::{BodyReader, BodyWriter};
use crate::respond::Responder;
use crate::router::{Exchange, LocalReply};
use crate::stats::ClusterStats;
use crate::upstream::UpstreamResponse;

/// An answer whose head is there.
pub struct Forwarded {
    /// The head.
    pub head: ResponseHead,
    /// The body.
    pub body: BodyReader,
    /// Where the rest of the request goes.
    pub writer: Option<BodyWriter>,
    /// Held until both messages are complete.
    pub response: UpstreamResponse,
    /// When the whole answer must be there.
    pub deadline: Option<Instant>,
    /// The whole request's body, where it may be needed once more.
    pub replay: Option<Buffered>,
    /// From the end of the request to the head of the answer; none where the request had not ended.
    pub service_time: Option<Duration>,
    /// How it is counted, where that is not known before it is clear who gets it.
    tally: Option<Tally>,
    _active: ActiveRequest,
}

/// Why there is no answer of an upstream.
pub enum Failure {
    /// We answer.
    Reply(LocalReply),
    /// Nobody is there to be answered.
    ClientGone,
}

impl Forwarded {
    /// The client gets this answer.
    pub(crate) fn goes_to_client(&mut self, exchange: &Exchange) {
        if let Some(tally) = self.tally.take() {
            tally.count(exchange, self);
        }
    }

    /// The counters of the cluster that answered.
    pub(crate) fn cluster_stats(&self) -> ClusterStats {
        self._active.cluster_stats()
    }

    /// The answer is complete; a request that is not leaves its connection unusable.
    pub fn request_ended_early(&self, body: &BodyReader) {
        if body.is_done() && self.writer.is_none() {
            self.response.request_sent();
        }
    }
}

/// Refuses a request whose headers for the router are not valid, where that is asked for.
fn check_strictly(exchange: &mut Exchange) -> Result<(), Failure> {
    for header in &exchange.runtime.filters.router.strict_headers {
        let Some(value) = exchange.head.headers.get(header.name()) else { continue };
        if !header.accepts(value) {
            let value = String::from_utf8_lossy(value);
            let text = format!("invalid header '{}' with value '{value}'", header.name());
            let reply = LocalReply::new(400, text, header.details());
            exchange.info.flags.set(ResponseFlags::INVALID_HEADERS);
            return Err(Failure::Reply(reply));
        }
    }
    Ok(())
}

/// Sends a request upstream.
pub async fn forward(
    exchange: &mut Exchange,
    found: &Found,
    table: Option<&RouteTable>,
    action: &Forward,
    body: &mut BodyReader,
    responder: &mut Responder,
) -> Result<Box<Forwarded>, Failure> {
    let worker = Rc::clone(&exchange.worker);
    let name = found.cluster(&exchange.head);
    let cluster = name.as_ref().and_then(|name| worker.state.clusters.load().get(name).cloned());
    let Some(cluster) = cluster else {
        worker.stats.increment(exchange.runtime.stats.no_cluster);
        exchange.info.flags.set(ResponseFlags::NO_CLUSTER);
        return Err(Failure::Reply(LocalReply::new(action.cluster_not_found, "", "cluster_not_found")));
    };
    exchange.info.upstream_cluster = name;
    exchange.info.upstream_stat_name = Some(Arc::clone(&cluster.config.stat_name));
    exchange.info.cluster_metadata.clone_from(&cluster.config.metadata);
    if !found.virtual_host.virtual_clusters.is_empty() {
        exchange.note_virtual_cluster(found);
    }
    check_strictly(exchange)?;
    prepare_head(exchange, found, table, action);
    let active = ActiveRequest::new(&worker, &cluster, action.priority);
    let selection = Selection::new(exchange, found, action, &cluster);
    let mut tries = Tries::new(cluster, selection, active, exchange, found, action, body.is_done());
    if !action.mirrors.is_empty() && exchange.upgrade.is_none() {
        mirror(exchange, action, body, tries.timeouts.whole);
    }
    let mut forwarded = tries.run(exchange, body, responder).await?;
    tries.selection.set_cookies(&mut forwarded);
    if action.internal_redirects.is_some() && tries.recording.complete && tries.recording.replayable() {
        forwarded.replay = Some(Buffered {
            chunks: tries.recording.chunks.drain(..).collect(),
            trailers: tries.recording.trailers.take(),
        });
    }
    Ok(forwarded)
}
