//! How a try fails, and what the client is told when no other follows.

use lateen_dataplane::route::RetryStatus;
use lateen_dataplane::stream_info::ResponseFlags;

use super::Failure;
use crate::message::MessageError;
use crate::router::{Exchange, LocalReply};
use crate::stats::{ClusterStats, Shard};
use crate::upstream::ConnectError;

/// How the text of an answer without an upstream's begins.
const PREFIX: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

/// The same after other tries.
const RETRIED: &str =
    "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: ";

/// Why a try failed.
pub(super) enum TryError {
    /// There was no connection.
    Connect(ConnectError),
    /// The cluster may have no more connections.
    Overflow,
    /// The cluster may have no more pools of connections.
    NoPool,
    /// The peer refused it before looking at it.
    Refused,
    /// It ended without an answer. `sent`: something of the request was sent.
    Reset { reason: &'static str, flag: ResponseFlags, status: u16, sent: bool, reused: bool },
    /// This try took too long.
    PerTryTimeout,
    /// Nothing came for too long.
    PerTryIdle,
    /// The whole request took too long.
    Timeout,
    /// Nobody waits for the answer.
    ClientGone,
    /// The request itself did not come to its end.
    ClientFailed,
}

impl TryError {
    /// The end of the request: flags, counters, answer.
    pub(super) fn fail(self, exchange: &mut Exchange, retried: bool) -> Failure {
        let flag = match &self {
            Self::ClientGone => return Failure::ClientGone,
            Self::Overflow => return overflow(exchange),
            Self::NoPool => ResponseFlags::NO_HEALTHY_UPSTREAM,
            Self::ClientFailed => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            Self::Connect(_) => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            Self::Refused => ResponseFlags::UPSTREAM_RESET,
            Self::Reset { flag, .. } => *flag,
            Self::PerTryTimeout | Self::PerTryIdle | Self::Timeout => ResponseFlags::UPSTREAM_TIMEOUT,
        };
        exchange.info.flags.set(flag);
        if let Self::Connect(error) = &self
            && !matches!(error, ConnectError::Timeout)
        {
            // The kernel's reason is for the log; the client learns only that there was no connection.
            exchange.info.upstream_transport_failure = Some(error.to_string());
        }
        self.reply(retried).map_or(Failure::ClientGone, Failure::Reply)
    }

    /// Counts the end of a try.
    pub(super) fn count(&self, shard: &Shard, stats: &ClusterStats) {
        let counter = match self {
            Self::PerTryTimeout => stats.upstream_rq_per_try_timeout,
            Self::PerTryIdle => stats.upstream_rq_per_try_idle_timeout,
            Self::Timeout => stats.upstream_rq_timeout,
            _ => return,
        };
        shard.increment(counter);
    }

    /// As the retry policy sees it; none where no other try can help.
    pub(super) fn retry_status(&self) -> Option<RetryStatus<'static>> {
        Some(match self {
            Self::Connect(_) => RetryStatus::ConnectFailure,
            Self::Refused => RetryStatus::RefusedStream,
            Self::Reset { sent: false, .. } => RetryStatus::ResetBeforeRequest,
            Self::Reset { .. } => RetryStatus::Reset,
            Self::PerTryTimeout | Self::PerTryIdle => RetryStatus::PerTryTimeout,
            Self::Overflow | Self::NoPool | Self::Timeout | Self::ClientGone | Self::ClientFailed => {
                return None;
            }
        })
    }

    /// What the client is told.
    fn reply(self, retried: bool) -> Option<LocalReply> {
        let prefix = if retried { RETRIED } else { PREFIX };
        let reset = |status, reason: &str, details| {
            Some(LocalReply::new(status, format!("{prefix}{reason}"), details))
        };
        match self {
            Self::ClientGone => None,
            Self::ClientFailed => Some(LocalReply::new(400, "Bad Request", "http1.codec_error")),
            Self::Overflow => Some(overflow_reply()),
            Self::NoPool => Some(no_host_reply()),
            Self::Connect(ConnectError::Timeout) => {
                reset(503, "connection timeout", "upstream_reset_before_response_started{connection_timeout}")
            }
            // Logs put the transport's reason in.
            Self::Connect(_) => reset(
                503,
                "remote connection failure",
                "upstream_reset_before_response_started{remote_connection_failure}",
            ),
            Self::Refused => reset(
                503,
                "remote refused stream reset",
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
            ),
            Self::Reset { reason, status, .. } => {
                let details = match reason {
                    "connection termination" => {
                        "upstream_reset_before_response_started{connection_termination}"
                    }
                    "protocol error" => "upstream_reset_before_response_started{protocol_error}",
                    _ => "upstream_reset_before_response_started{remote_reset}",
                };
                reset(status, reason, details)
            }
            Self::PerTryTimeout => {
                Some(LocalReply::new(504, "upstream request timeout", "upstream_per_try_timeout"))
            }
            Self::PerTryIdle => {
                Some(LocalReply::new(504, "upstream request timeout", "upstream_per_try_idle_timeout"))
            }
            Self::Timeout => Some(LocalReply::new(504, "upstream request timeout", "response_timeout")),
        }
    }
}

/// The cluster may have no more.
pub(super) fn overflow(exchange: &mut Exchange) -> Failure {
    exchange.info.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
    let mut reply = overflow_reply();
    if exchange.runtime.filters.router.suppress_envoy_headers {
        reply.headers.remove("x-envoy-overloaded");
    }
    Failure::Reply(reply)
}

fn overflow_reply() -> LocalReply {
    let details = "upstream_reset_before_response_started{overflow}";
    let mut reply = LocalReply::new(503, format!("{PREFIX}overflow"), details);
    reply.headers.append("x-envoy-overloaded", "true");
    reply
}

/// There is no host to send to.
pub(super) fn no_host(exchange: &mut Exchange, stats: &ClusterStats) -> Failure {
    exchange.worker.stats.increment(stats.upstream_cx_none_healthy);
    exchange.info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
    Failure::Reply(no_host_reply())
}

fn no_host_reply() -> LocalReply {
    LocalReply::new(503, "no healthy upstream", "no_healthy_upstream")
}

/// What an error of a connection means for a try.
pub(super) fn reset(error: &MessageError, sent: bool, reused: bool) -> TryError {
    match error {
        MessageError::Refused => TryError::Refused,
        MessageError::Closed | MessageError::Io(_) => TryError::Reset {
            reason: "connection termination",
            flag: ResponseFlags::UPSTREAM_TERMINATION,
            status: 503,
            sent,
            reused,
        },
        MessageError::Protocol(_) => TryError::Reset {
            reason: "protocol error",
            flag: ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            status: 502,
            sent: true,
            reused: false,
        },
        MessageError::Reset(_) => TryError::Reset {
            reason: "remote reset",
            flag: ResponseFlags::UPSTREAM_RESET,
            status: 503,
            sent: true,
            reused: false,
        },
    }
}

/// Once a byte of an answer came, the host was at work on the request.
pub(super) fn mark_begun(error: TryError) -> TryError {
    match error {
        TryError::Reset { reason, flag, status, .. } => {
            TryError::Reset { reason, flag, status, sent: true, reused: false }
        }
        other => other,
    }
}

/// What is said of an answer that broke off after its head.
pub(crate) fn broken_off(error: &MessageError) -> (ResponseFlags, &'static str) {
    match error {
        MessageError::Protocol(_) => {
            (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, "upstream_reset_after_response_started{protocol_error}")
        }
        MessageError::Reset(_) => {
            (ResponseFlags::UPSTREAM_RESET, "upstream_reset_after_response_started{remote_reset}")
        }
        MessageError::Refused => (
            ResponseFlags::UPSTREAM_RESET,
            "upstream_reset_after_response_started{remote_refused_stream_reset}",
        ),
        MessageError::Closed | MessageError::Io(_) => (
            ResponseFlags::UPSTREAM_TERMINATION,
            "upstream_reset_after_response_started{connection_termination}",
        ),
    }
}
