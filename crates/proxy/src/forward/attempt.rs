//! One try: the exchange with one host, until the head of its answer is there.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lateen_dataplane::cluster::{Host, UpstreamProtocol};
use lateen_dataplane::head::ResponseHead;
use lateen_dataplane::outlier::Report;
use lateen_dataplane::route::RetryStatus;
use lateen_dataplane::stream_info::{Protocol, TlsView};

use super::Forwarded;
use super::active::ActiveRequest;
use super::failure::{TryError, mark_begun, reset};
use super::tries::Tries;
use super::upload::{UploadError, upload};
use crate::message::{BodyReader, BodyWriter, MessageError};
use crate::respond::{Interim, Responder};
use crate::router::Exchange;
use crate::tls::Wanted;
use crate::upstream::{AcquireError, Dialing, Upstream, UpstreamResponse, UseOf};

/// An answer's head, and where its body comes from.
type Answer = (ResponseHead, BodyReader);

/// What all waiting of a try has to know.
#[derive(Clone, Copy)]
struct Waiting {
    /// The connection had served another request before.
    reused: bool,
    /// How long the answer to a complete request may take.
    per_try: Option<Duration>,
    /// How long nothing may come.
    idle: Option<Duration>,
}

/// What is asked of a connection that is not there yet.
struct Plan {
    wanted: Wanted,
    dialing: Option<Box<Dialing>>,
    /// What for.
    use_of: UseOf,
}

impl Tries {
    /// One try.
    pub(super) async fn attempt(
        &mut self,
        exchange: &mut Exchange,
        host: &Arc<Host>,
        body: &mut BodyReader,
        responder: &mut Responder,
        fresh: bool,
    ) -> Result<Box<Forwarded>, TryError> {
        let acquired = match self.ready(exchange, host, fresh) {
            Ok(upstream) => Ok(upstream),
            // Boxed: a request that finds a connection need not make room for making one.
            Err(plan) => Box::pin(self.acquire(exchange, host, body, responder, plan)).await,
        };
        let upstream = match acquired {
            Ok(upstream) => upstream,
            Err(error) => {
                // A host that was never asked is not the request's host.
                if !matches!(error, TryError::Connect(_)) && exchange.info.attempts == 1 {
                    exchange.info.upstream_host = None;
                }
                return Err(error);
            }
        };
        if !self.active.as_mut().is_some_and(|active| active.attach(host)) {
            upstream.not_used();
            return Err(TryError::Overflow);
        }
        self.cluster.report(host, Report::Connected);
        exchange.count_virtual(|shard, stats| shard.increment(stats.upstream_rq_total));
        let waiting = Waiting {
            reused: upstream.reused(),
            per_try: self.timeouts.per_try,
            idle: self.timeouts.per_try_idle,
        };
        exchange.info.upstream_local_address = upstream.local_address();
        exchange.info.upstream_protocol = Some(upstream.protocol());
        exchange.info.upstream_tls = upstream.tls().map(|tls| Arc::clone(tls) as Arc<dyn TlsView>);
        let sent_at = exchange.begun.elapsed();
        exchange.info.timing.pool_ready = Some(sent_at);
        exchange.info.timing.upstream_send_begin = Some(sent_at);
        let end = body.is_done() && self.recording.chunks.is_empty() && self.recording.trailers.is_none();
        exchange.info.timing.upstream_send_end = end.then_some(sent_at);
        let sent = upstream.send(&exchange.head, end, exchange.tunnel());
        let (mut writer, mut response) = sent.map_err(|error| reset(&error, false, waiting.reused))?;
        if writer.is_none() {
            response.flush().await.map_err(|error| reset(&error, false, waiting.reused))?;
        }
        response.relay_interim(exchange.interim.clone());
        let tunnel = exchange.upgrade.is_some();
        let answer = match &mut writer {
            Some(writer) if !tunnel => {
                // Boxed: a request without a body need not make room for it.
                Box::pin(self.upload_and_wait(exchange, body, writer, &mut response, responder, waiting))
                    .await
            }
            writer => {
                // What is sent through a tunnel follows the answer.
                if let Some(writer) = writer {
                    writer.flush().await.map_err(|error| reset(&error, true, waiting.reused))?;
                }
                let head = pin!(response.head());
                let done = body.is_done() && !tunnel;
                self.wait(head, responder, exchange.interim.as_deref(), done, waiting).await
            }
        };
        if let Some(status) = response.interim_status() {
            self.interim_came(exchange, status);
        }
        // An answer that came before the connection broke is an answer.
        let (head, response_body) =
            answer.map_err(|error| if response.has_begun() { mark_begun(error) } else { error })?;
        if self.recording.complete {
            response.request_sent();
            if !tunnel {
                writer = None;
            }
        }
        let now = Instant::now();
        exchange.info.response_duration = Some(now - exchange.begun);
        exchange.info.upstream_head = response.head_size();
        let Some(active) = self.active.take() else { return Err(TryError::ClientFailed) };
        // Should this answer lead to another try, that one counts as the same request.
        if self.retries.as_ref().is_some_and(|retries| retries.wants(RetryStatus::Response(&head))) {
            self.active = Some(ActiveRequest::new(&exchange.worker, &self.cluster, self.selection.priority));
        }
        Ok(Box::new(Forwarded {
            head,
            body: response_body,
            writer,
            response,
            deadline: self.deadline,
            replay: None,
            tally: None,
            service_time: self.complete_at.map(|complete| now.saturating_duration_since(complete)),
            _active: active,
        }))
    }

    /// A connection to the host, or a stream on one, where there is one; else what is to be asked of a new one.
    fn ready(&self, exchange: &Exchange, host: &Arc<Host>, fresh: bool) -> Result<Upstream, Plan> {
        let wanted = match self.cluster.config.protocol {
            _ if exchange.terminate.is_some() => Wanted::Http1,
            UpstreamProtocol::Http1 => Wanted::Http1,
            UpstreamProtocol::Http2 => Wanted::Http2,
            UpstreamProtocol::AsDownstream if exchange.info.protocol == Some(Protocol::Http2) => {
                Wanted::Http2
            }
            UpstreamProtocol::AsDownstream => Wanted::Http1,
            UpstreamProtocol::Auto => Wanted::Either,
        };
        let client = exchange.connection.remote.zip(exchange.connection.local);
        let dialing = Dialing::new(&self.cluster, host, &exchange.head, client);
        let use_of = match fresh {
            _ if exchange.terminate.is_some() => UseOf::Bytes,
            true => UseOf::FreshRequest,
            false => UseOf::Request,
        };
        if use_of != UseOf::Request {
            return Err(Plan { wanted, dialing, use_of });
        }
        let pools = &exchange.worker.pools;
        let ready = pools.ready(&self.cluster, host, self.selection.priority, wanted, dialing);
        ready.map_err(|dialing| Plan { wanted, dialing, use_of })
    }

    /// Makes a connection to the host, or waits for one.
    async fn acquire(
        &self,
        exchange: &Exchange,
        host: &Arc<Host>,
        body: &BodyReader,
        responder: &mut Responder,
        plan: Plan,
    ) -> Result<Upstream, TryError> {
        let worker = &exchange.worker;
        let upstream = tokio::select! {
            biased;
            upstream = worker.pools.acquire(
                &worker.stats, &self.cluster, host, self.selection.priority, plan.wanted, plan.dialing, plan.use_of,
            ) => upstream,
            () = responder.client_gone(body.is_done()) => {
                worker.stats.increment(self.cluster.stats.upstream_rq_cancelled);
                return Err(TryError::ClientGone);
            }
            () = until(self.deadline) => {
                worker.stats.increment(self.cluster.stats.upstream_rq_cancelled);
                return Err(TryError::Timeout);
            }
        };
        upstream.map_err(|error| match error {
            AcquireError::Connect(error) => TryError::Connect(error),
            AcquireError::Overflow => TryError::Overflow,
            AcquireError::NoPool => TryError::NoPool,
        })
    }

    /// Sends the body. The time for the answer begins with its end.
    async fn upload_and_wait(
        &mut self,
        exchange: &mut Exchange,
        body: &mut BodyReader,
        writer: &mut BodyWriter,
        response: &mut UpstreamResponse,
        responder: &mut Responder,
        waiting: Waiting,
    ) -> Result<Answer, TryError> {
        let mut head = pin!(response.head());
        let interim = exchange.interim.clone();
        let received = &mut exchange.info.bytes_received;
        {
            let mut upload = pin!(upload(&mut self.recording, body, writer, received));
            tokio::select! {
                biased;
                // An early answer: the rest of the request is sent meanwhile.
                head = &mut head => return head.map_err(|error| reset(&error, true, waiting.reused)),
                () = responder.relay_interim(interim.as_deref()) => {}
                uploaded = &mut upload => uploaded.map_err(|error| match error {
                    UploadError::Client => TryError::ClientFailed,
                    UploadError::Upstream(error) => reset(&error, true, waiting.reused),
                })?,
            }
        }
        exchange.info.request_duration = Some(exchange.begun.elapsed());
        exchange.info.timing.upstream_send_end = exchange.info.request_duration;
        self.request_complete();
        self.wait(head, responder, interim.as_deref(), true, waiting).await
    }

    /// Waits for the head of the answer to a complete request.
    async fn wait(
        &self,
        mut head: Pin<&mut impl Future<Output = Result<Answer, MessageError>>>,
        responder: &mut Responder,
        interim: Option<&Interim>,
        request_done: bool,
        waiting: Waiting,
    ) -> Result<Answer, TryError> {
        let after = |time: Option<Duration>| time.map(|time| Instant::now() + time);
        let limits = [
            (self.deadline, TryError::Timeout),
            (after(waiting.per_try), TryError::PerTryTimeout),
            (after(waiting.idle), TryError::PerTryIdle),
        ];
        let first = limits.into_iter().filter_map(|(at, error)| Some((at?, error))).min_by_key(|(at, _)| *at);
        let (at, late) = first.unzip();
        tokio::select! {
            biased;
            head = &mut head => head.map_err(|error| reset(&error, true, waiting.reused)),
            () = responder.relay_until_gone(interim, request_done) => Err(TryError::ClientGone),
            () = until(at) => Err(late.unwrap_or(TryError::Timeout)),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
