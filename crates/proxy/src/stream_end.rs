//! A client's stream from its begin to its account: how it ends where it does not end with an answer in time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lateen_dataplane::format::LogType;
use lateen_dataplane::head::{Headers, ResponseHead};
use lateen_dataplane::stream_info::{Protocol, ResponseFlags};

use crate::clock::{Expiry, StreamClock};
use crate::message::BodyReader;
use crate::respond::Responder;
use crate::router::{Exchange, LocalReply};

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamEnd {
    /// With an answer.
    #[default]
    Answered,
    /// We reset it, for the answer had begun and did not come to its end.
    Broken,
    /// The client reset it.
    Reset,
    /// The client ended the connection.
    Gone,
}

/// What was sent: head and trailers.
pub type Sent = Option<(ResponseHead, Option<Headers>)>;

impl Exchange {
    /// Serves the request. The responder says afterwards what the connection may still be used for. `watch` resolves
    /// when the stream of that clock has ended before its time.
    pub async fn serve(
        &mut self,
        mut body: BodyReader,
        responder: &mut Responder,
        clock: &StreamClock,
        watch: impl Future<Output = Expiry>,
    ) -> StreamEnd {
        if body.is_done() {
            self.info.request_duration = Some(Duration::ZERO);
        }
        self.begin();
        if self.runtime.config.log_options.on_new_request {
            self.log_as(LogType::DownstreamStart, None);
        }
        self.clock = Some(clock.clone());
        let outcome = {
            let run = pin!(self.run(&mut body, responder));
            let watch = pin!(watch);
            tokio::select! {
                biased;
                response = run => Ok(response),
                expiry = watch => Err(expiry),
            }
        };
        let response = match outcome {
            Ok(response) => response,
            // Boxed: most streams end in time, and need not make room for it.
            Err(expiry) => Box::pin(self.expire(expiry, responder)).await,
        };
        if !body.is_done() {
            responder.close();
        }
        self.finish(response, Some(responder));
        self.end
    }

    /// Answers what is no request.
    pub async fn refuse(&mut self, reply: LocalReply, responder: &mut Responder) {
        self.begin();
        self.flags_at_end = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        let response = self.reply(reply, responder).await;
        self.info.local_reply_body = Default::default();
        self.finish(response, Some(responder));
    }

    /// The head did not come in time.
    pub async fn late(&mut self, expiry: Expiry, responder: &mut Responder) {
        self.begin();
        let response = self.expire(expiry, responder).await;
        self.finish(response, Some(responder));
    }

    /// The client went before its head was complete.
    pub fn gone(&mut self) {
        self.begin();
        self.left(StreamEnd::Gone);
        self.finish(None, None);
    }

    /// The stream was reset, for its head is not acceptable.
    pub fn refused(&mut self, details: &'static str) {
        self.begin();
        self.left(StreamEnd::Reset);
        self.info.response_code_details = Some(details);
        self.finish(None, None);
    }

    /// Notes that the client does not wait any longer.
    pub(crate) fn left(&mut self, end: StreamEnd) {
        let (flag, details) = match end {
            StreamEnd::Reset => (ResponseFlags::DOWNSTREAM_REMOTE_RESET, "http2.remote_reset"),
            _ => (ResponseFlags::DOWNSTREAM_TERMINATION, "downstream_remote_disconnect"),
        };
        self.end = end;
        self.info.flags.set(flag);
        self.info.response_code_details = Some(details);
    }

    /// Counts an answer whose head is about to be sent.
    pub(crate) fn count_answer(&self, status: u16) {
        let (shard, stats, listener) = (&self.worker.stats, &self.runtime.stats, &self.runtime.listener);
        shard.increment(stats.downstream_rq_completed);
        shard.increment(crate::stats::class!(stats, downstream_rq, status));
        shard.increment(listener.downstream_rq_completed);
        shard.increment(crate::stats::class!(listener, downstream_rq, status));
    }

    /// Counts interim answers, and how the stream ended.
    fn count_end(&self, responder: Option<&Responder>) {
        let (shard, stats, listener) = (&self.worker.stats, &self.runtime.stats, &self.runtime.listener);
        if let Some(progress) = responder.map(Responder::state) {
            if progress.interim > 0 {
                let count = u64::from(progress.interim);
                shard.add(stats.downstream_rq_completed, count);
                shard.add(stats.downstream_rq_1xx, count);
                shard.add(listener.downstream_rq_completed, count);
                shard.add(listener.downstream_rq_1xx, count);
            }
            if progress.early {
                shard.increment(stats.downstream_rq_response_before_rq_complete);
            }
        }
        if self.end == StreamEnd::Broken {
            shard.increment(stats.downstream_rq_tx_reset);
        }
        if self.end != StreamEnd::Answered || !responder.is_some_and(Responder::request_complete) {
            shard.increment(stats.downstream_rq_rx_reset);
        }
    }

    fn begin(&self) {
        let (shard, stats) = (&self.worker.stats, self.runtime.stats);
        shard.increment(stats.downstream_rq_total);
        shard.increment(stats.downstream_rq_active);
    }

    fn finish(&mut self, response: Sent, responder: Option<&Responder>) {
        let (shard, stats) = (Arc::clone(&self.worker.stats), self.runtime.stats);
        let duration = self.begun.elapsed();
        self.info.duration = Some(duration);
        self.info.flags.set(self.flags_at_end);
        shard.decrement(stats.downstream_rq_active);
        shard.record(stats.downstream_rq_time, duration.as_millis() as u64);
        self.count_end(responder);
        self.count_moved();
        if !self.filters.is_empty() {
            self.filters_complete(response.as_ref());
        }
        self.log(response.as_ref());
    }

    /// The client broke the rules in the middle of its request.
    pub(crate) fn codec_error(&mut self) -> LocalReply {
        self.worker.stats.increment(self.runtime.stats.downstream_cx_protocol_error);
        self.flags_at_end = ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR;
        let details = match self.info.protocol {
            Some(Protocol::Http2) => "http2.violation.of.messaging.rule",
            _ => "http1.codec_error",
        };
        LocalReply::new(400, "Bad Request", details)
    }

    /// Ends a stream whose time is over, or whose client has failed: with an answer where that can still be sent.
    async fn expire(&mut self, expiry: Expiry, responder: &mut Responder) -> Sent {
        let (shard, stats) = (Arc::clone(&self.worker.stats), self.runtime.stats);
        // Whether the client is waited for, or somebody behind us.
        let status = if responder.request_complete() { 504 } else { 408 };
        let reply = match expiry {
            Expiry::Disconnect => {
                self.left(StreamEnd::Gone);
                None
            }
            Expiry::Reset => {
                self.left(StreamEnd::Reset);
                None
            }
            Expiry::CodecError => Some(self.codec_error()),
            Expiry::Idle => {
                shard.increment(stats.downstream_rq_idle_timeout);
                self.info.flags.set(ResponseFlags::STREAM_IDLE_TIMEOUT);
                Some(LocalReply::new(status, "stream timeout", "stream_idle_timeout"))
            }
            Expiry::Headers => {
                shard.increment(stats.downstream_rq_header_timeout);
                Some(LocalReply::new(408, "request header timeout", "request_header_timeout"))
            }
            Expiry::Request => {
                shard.increment(stats.downstream_rq_timeout);
                Some(LocalReply::new(408, "request timeout", "request_overall_timeout"))
            }
            Expiry::Duration => {
                shard.increment(stats.downstream_rq_max_duration_reached);
                let mut reply =
                    LocalReply::new(status, "downstream duration timeout", "max_duration_timeout");
                // DEADLINE_EXCEEDED
                reply.grpc_status = Some(4);
                Some(reply)
            }
        };
        match reply {
            Some(reply) if !responder.started() => self.reply(reply, responder).await,
            other => {
                if let Some(reply) = other {
                    self.info.response_code_details = Some(reply.details);
                    self.end = StreamEnd::Broken;
                }
                responder.broken();
                self.sent.take()
            }
        }
    }
}
