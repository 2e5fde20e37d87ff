//! What is known of a request or connection: the source of log lines, header values and response flags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::filter_state::FilterState;
use crate::metadata::Metadata;

/// Envoy's response flags, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($name:ident = $bit:expr, $text:literal, $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*
            const TEXTS: &'static [(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

flags! {
    NO_HEALTHY_UPSTREAM = 0, "UH", "No healthy host.";
    UPSTREAM_CONNECTION_FAILURE = 1, "UF", "Connecting failed.";
    UPSTREAM_OVERFLOW = 2, "UO", "A circuit breaker refused.";
    NO_ROUTE = 3, "NR", "No route, or no filter chain.";
    RETRY_LIMIT = 4, "URX", "All retries were used.";
    NO_CLUSTER = 5, "NC", "The cluster does not exist.";
    UPSTREAM_TIMEOUT = 6, "UT", "The upstream took too long.";
    UPSTREAM_RESET = 7, "UR", "The upstream reset the stream.";
    UPSTREAM_TERMINATION = 8, "UC", "The upstream closed the connection.";
    DOWNSTREAM_TERMINATION = 9, "DC", "The client went away.";
    DELAY_INJECTED = 10, "DI", "A fault delayed the request.";
    FAULT_INJECTED = 11, "FI", "A fault ended the request.";
    LOCAL_RESET = 12, "LR", "The proxy reset the stream.";
    STREAM_IDLE_TIMEOUT = 13, "SI", "The stream was idle for too long.";
    DOWNSTREAM_PROTOCOL_ERROR = 14, "DPE", "The client broke the protocol.";
    UPSTREAM_PROTOCOL_ERROR = 15, "UPE", "The upstream broke the protocol.";
    MAX_DURATION = 16, "UMSDR", "The stream lived for too long.";
    DOWNSTREAM_REMOTE_RESET = 24, "DR", "The client reset the stream.";
    DURATION_TIMEOUT = 17, "DT", "The connection lived for too long.";
    RATE_LIMITED = 18, "RL", "A rate limit refused.";
    INVALID_HEADERS = 19, "IH", "A strictly checked header was not valid.";
}

impl ResponseFlags {
    /// Adds flags.
    pub fn set(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As in logs: `UF,URX`, or `-`.
    pub fn write(self, out: &mut Vec<u8>) {
        if self.is_empty() {
            return out.push(b'-');
        }
        let mut first = true;
        for (flag, text) in Self::TEXTS {
            if self.has(*flag) {
                if !first {
                    out.push(b',');
                }
                out.extend_from_slice(text.as_bytes());
                first = false;
            }
        }
    }
}

/// The protocol spoken by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What is known of one request, or of one TCP connection.
#[derive(Debug, Clone, Default)]
pub struct StreamInfo {
    /// When it began, since the Unix epoch.
    pub start_time: Duration,
    /// None for TCP.
    pub protocol: Option<Protocol>,
    /// 0 where there was no response.
    pub response_code: u16,
    /// Why the response is what it is: `via_upstream`, `route_not_found`, ...
    pub response_code_details: Option<&'static str>,
    /// Why the connection ended.
    pub connection_termination_details: Option<&'static str>,
    /// Why the upstream connection failed.
    pub upstream_transport_failure: Option<String>,
    /// Flags.
    pub flags: ResponseFlags,
    /// Why the client's connection failed before its filters saw it.
    pub downstream_transport_failure: Option<String>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Begin to end.
    pub duration: Option<Duration>,
    /// Begin to the last byte of the request.
    pub request_duration: Option<Duration>,
    /// Begin to the first byte of the upstream's response.
    pub response_duration: Option<Duration>,
    /// The chosen host, as text.
    pub upstream_host: Option<Arc<str>>,
    /// The chosen cluster.
    pub upstream_cluster: Option<Arc<str>>,
    /// Our end of the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Our end of the client's connection (the original destination where it was redirected).
    pub downstream_local_address: Option<SocketAddr>,
    /// The client; from `x-forwarded-for` where that is trusted.
    pub downstream_remote_address: Option<SocketAddr>,
    /// The peer of the connection.
    pub downstream_direct_address: Option<SocketAddr>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// The route's name.
    pub route_name: Option<Arc<str>>,
    /// The virtual host's name.
    pub virtual_host: Option<Arc<str>>,
    /// Tries so far.
    pub attempts: u32,
    /// What filters left for each other, by the filter's name.
    pub metadata: Metadata,
    /// What filters of the connection and of the request set.
    pub filter_state: FilterState,
}
