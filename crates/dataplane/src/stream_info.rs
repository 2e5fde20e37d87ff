//! What is known of a request or connection: the source of log lines, header values and response flags.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::filter_state::FilterState;
use crate::format::LogType;
use crate::metadata::Metadata;

/// Envoy's response flags: which are set, and in which order they were, for so they are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResponseFlags {
    bits: u32,
    /// The numbers of the flags and one more each, the first one lowest. Later ones than [`ORDERED`] are not noted.
    order: u64,
}

/// Bits of a number in the order of flags, and how many there is room for.
const ORDER_BITS: u32 = 5;
const ORDERED: u32 = u64::BITS / ORDER_BITS;

macro_rules! flags {
    ($($name:ident = $bit:expr, $text:literal, $long:literal, $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self { bits: 1 << $bit, order: $bit + 1 };)*
            const TEXTS: &'static [(Self, &'static str, &'static str)] = &[$((Self::$name, $text, $long)),*];
        }
    };
}

flags! {
    FAILED_LOCAL_HEALTH_CHECK = 20, "LH", "FailedLocalHealthCheck", "The proxy was told to fail health checks.";
    NO_HEALTHY_UPSTREAM = 0, "UH", "NoHealthyUpstream", "No healthy host.";
    UPSTREAM_TIMEOUT = 6, "UT", "UpstreamRequestTimeout", "The upstream took too long.";
    LOCAL_RESET = 12, "LR", "LocalReset", "The proxy reset the stream.";
    UPSTREAM_RESET = 7, "UR", "UpstreamRemoteReset", "The upstream reset the stream.";
    UPSTREAM_CONNECTION_FAILURE = 1, "UF", "UpstreamConnectionFailure", "Connecting failed.";
    UPSTREAM_TERMINATION = 8, "UC", "UpstreamConnectionTermination", "The upstream closed the connection.";
    UPSTREAM_OVERFLOW = 2, "UO", "UpstreamOverflow", "A circuit breaker refused.";
    NO_ROUTE = 3, "NR", "NoRouteFound", "No route, or no filter chain.";
    DELAY_INJECTED = 10, "DI", "DelayInjected", "A fault delayed the request.";
    FAULT_INJECTED = 11, "FI", "FaultInjected", "A fault ended the request.";
    RATE_LIMITED = 18, "RL", "RateLimited", "A rate limit refused.";
    UNAUTHORIZED = 21, "UAEX", "UnauthorizedExternalService", "An authorization service refused.";
    RATE_LIMIT_SERVICE_ERROR = 22, "RLSE", "RateLimitServiceError", "The rate limit service failed.";
    DOWNSTREAM_TERMINATION = 9, "DC", "DownstreamConnectionTermination", "The client went away.";
    RETRY_LIMIT = 4, "URX", "UpstreamRetryLimitExceeded", "All retries were used.";
    STREAM_IDLE_TIMEOUT = 13, "SI", "StreamIdleTimeout", "The stream was idle for too long.";
    INVALID_HEADERS = 19, "IH", "InvalidEnvoyRequestHeaders", "A strictly checked header was not valid.";
    DOWNSTREAM_PROTOCOL_ERROR = 14, "DPE", "DownstreamProtocolError", "The client broke the protocol.";
    MAX_DURATION = 16, "UMSDR", "UpstreamMaxStreamDurationReached", "The stream lived for too long.";
    DURATION_TIMEOUT = 17, "DT", "DurationTimeout", "The connection lived for too long.";
    UPSTREAM_PROTOCOL_ERROR = 15, "UPE", "UpstreamProtocolError", "The upstream broke the protocol.";
    NO_CLUSTER = 5, "NC", "NoClusterFound", "The cluster does not exist.";
    OVERLOAD = 23, "OM", "OverloadManagerTerminated", "The proxy has too much to do.";
    DNS_FAILURE = 24, "DF", "DnsResolutionFailed", "A name was not resolved.";
    DROP_OVERLOAD = 25, "DO", "DropOverload", "The cluster sheds load.";
    DOWNSTREAM_REMOTE_RESET = 26, "DR", "DownstreamRemoteReset", "The client reset the stream.";
}

impl ResponseFlags {
    /// Adds flags.
    pub fn set(&mut self, flags: Self) {
        for flag in flags.each() {
            if self.bits & 1 << flag == 0 {
                let count = self.bits.count_ones();
                self.bits |= 1 << flag;
                if count < ORDERED {
                    self.order |= u64::from(flag + 1) << (ORDER_BITS * count);
                }
            }
        }
    }

    /// The numbers of the flags that are set, in order.
    fn each(self) -> impl Iterator<Item = u32> {
        let mut left = self;
        std::iter::from_fn(move || {
            let flag = match left.order as u32 & ((1 << ORDER_BITS) - 1) {
                0 if left.bits == 0 => return None,
                0 => left.bits.trailing_zeros(),
                number => number - 1,
            };
            left.order >>= ORDER_BITS;
            left.bits &= !(1 << flag);
            Some(flag)
        })
    }

    /// Whether all of `flags` are set.
    pub fn has(self, flags: Self) -> bool {
        self.bits & flags.bits == flags.bits
    }

    /// Whether none is set.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// As in logs: `URX,UF`, or `-`.
    pub fn write(self, out: &mut Vec<u8>) {
        self.join(|(_, text, _)| text, out);
    }

    /// In whole words: `UpstreamRetryLimitExceeded,UpstreamConnectionFailure`, or `-`.
    pub fn write_long(self, out: &mut Vec<u8>) {
        self.join(|(_, _, long)| long, out);
    }

    fn join(self, text: impl Fn(&(Self, &'static str, &'static str)) -> &'static str, out: &mut Vec<u8>) {
        if self.is_empty() {
            return out.push(b'-');
        }
        let texts =
            self.each().filter_map(|number| Self::TEXTS.iter().find(|(flag, ..)| flag.bits == 1 << number));
        for (index, entry) in texts.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(text(entry).as_bytes());
        }
    }

    /// The flag of a short name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::TEXTS.iter().find(|(_, short, _)| *short == text).map(|(flag, ..)| *flag)
    }

    /// Whether any of `flags` is set.
    pub fn any(self, flags: Self) -> bool {
        self.bits & flags.bits != 0
    }
}

impl PartialEq for ResponseFlags {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}

impl Eq for ResponseFlags {}

impl std::hash::Hash for ResponseFlags {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
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
    /// What is known of the client's connection, the same for all its requests.
    pub connection: Option<Arc<ConnectionInfo>>,
    /// The protocol spoken with the host; none until there is one.
    pub upstream_protocol: Option<Protocol>,
    /// The connection to the host.
    pub upstream_connection_id: Option<u64>,
    /// The name under which the cluster is counted, where it is not its own.
    pub upstream_stat_name: Option<Arc<str>>,
    /// The host's name.
    pub upstream_host_name: Option<Arc<str>>,
    /// TLS with the host.
    pub upstream_tls: Option<Arc<dyn TlsView>>,
    /// The head of the request as it came.
    pub downstream_head: HeadSize,
    /// The head of the upstream's response as it came.
    pub upstream_head: HeadSize,
    /// Further times.
    pub timing: Timing,
    /// Of the cluster.
    pub cluster_metadata: Option<Arc<Metadata>>,
    /// Of the host.
    pub host_metadata: Option<Arc<Metadata>>,
    /// Of the route.
    pub route_metadata: Option<Arc<Metadata>>,
    /// Of the virtual host.
    pub virtual_host_metadata: Option<Arc<Metadata>>,
    /// The virtual cluster's name.
    pub virtual_cluster: Option<Arc<str>>,
    /// The trace, where there is a tracer.
    pub trace_id: Option<Arc<str>>,
    /// The body of an answer of our own.
    pub local_reply_body: bytes::Bytes,
    /// Why a line is written.
    pub log_type: LogType,
    /// A number of its own.
    pub random: u64,
    /// Whether it is a health check.
    pub is_health_check: bool,
    /// Who is at the other side, as Istio's peer metadata say.
    pub peers: Option<Box<crate::istio::Peers>>,
}

/// Bytes of a head on an HTTP/1 connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadSize {
    /// All of it.
    pub bytes: u32,
    /// Its first line.
    pub line: u32,
    /// How many fields there are.
    pub fields: u32,
}

impl HeadSize {
    /// Bytes of the fields as Envoy counts those that it receives: all but the blank behind the colon.
    pub fn fields_bytes(self) -> u64 {
        u64::from(self.bytes.saturating_sub(self.line + 2 + self.fields))
    }
}

/// Times since the begin of a stream, for logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Connecting to the host began.
    pub connect_begin: Option<Duration>,
    /// The connection was there.
    pub connect_end: Option<Duration>,
    /// TLS was ready.
    pub handshake_end: Option<Duration>,
    /// The pool gave a connection.
    pub pool_ready: Option<Duration>,
    /// The first byte to the host.
    pub upstream_send_begin: Option<Duration>,
    /// The last byte to the host.
    pub upstream_send_end: Option<Duration>,
    /// The last byte from the host.
    pub upstream_receive_end: Option<Duration>,
    /// The first byte to the client.
    pub downstream_send_begin: Option<Duration>,
}

/// What is known of a client's connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionInfo {
    /// A number of its own.
    pub id: u64,
    /// Our end, where `downstream_local_address` is an original destination.
    pub direct_local: Option<SocketAddr>,
    /// The filter chain that serves it.
    pub filter_chain: Option<Arc<str>>,
    /// TLS with the client.
    pub tls: Option<Arc<dyn TlsView>>,
    /// How long the handshake took.
    pub handshake: Option<Duration>,
    /// A digest of the client's TLS hello.
    pub ja3: Option<Box<str>>,
    /// Another one.
    pub ja4: Option<Box<str>>,
    /// Which way the listener's connections go.
    pub direction: crate::listener::Direction,
    /// Of the listener.
    pub listener_metadata: Option<Arc<Metadata>>,
    /// Of the filter chain.
    pub filter_chain_metadata: Option<Arc<Metadata>>,
}

/// What logs and statistics ask of a TLS connection. Certificates are taken apart when they are asked for.
pub trait TlsView: std::fmt::Debug + Send + Sync {
    /// `TLSv1.3`.
    fn version(&self) -> &str;
    /// As OpenSSL names it: `TLS_AES_128_GCM_SHA256`.
    fn cipher(&self) -> &str;
    /// Hexadecimal; empty where there is none.
    fn session(&self) -> &str {
        ""
    }
    /// SNI.
    fn server_name(&self) -> Option<&str>;
    /// Whether the other side has shown a certificate that was verified.
    fn has_peer(&self) -> bool;
    /// The first URI of the other side's certificate, or of ours.
    fn uri(&self, peer: bool) -> Option<&str>;
    /// The other side's certificate, or ours.
    fn certificate(&self, peer: bool) -> Option<CertificateInfo>;
}

impl TlsView for TlsInfo {
    fn version(&self) -> &str {
        self.version
    }

    fn cipher(&self) -> &str {
        &self.cipher
    }

    fn session(&self) -> &str {
        &self.session
    }

    fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    fn has_peer(&self) -> bool {
        self.peer.is_some()
    }

    fn uri(&self, peer: bool) -> Option<&str> {
        let certificate = if peer { self.peer.as_ref() } else { self.local.as_ref() };
        certificate?.uris.first().map(|uri| &**uri)
    }

    fn certificate(&self, peer: bool) -> Option<CertificateInfo> {
        if peer { self.peer.as_deref().cloned() } else { self.local.as_deref().cloned() }
    }
}

/// A TLS connection, all of it known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL names it: `TLS_AES_128_GCM_SHA256`.
    pub cipher: Box<str>,
    /// Hexadecimal.
    pub session: Box<str>,
    /// SNI.
    pub server_name: Option<Box<str>>,
    /// What ALPN chose.
    pub application_protocol: Option<Box<str>>,
    /// Our certificate.
    pub local: Option<Arc<CertificateInfo>>,
    /// The other side's.
    pub peer: Option<Arc<CertificateInfo>>,
}

/// A certificate, taken apart once a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateInfo {
    /// RFC 2253.
    pub subject: Box<str>,
    /// RFC 2253.
    pub issuer: Box<str>,
    /// Hexadecimal.
    pub serial: Box<str>,
    /// URIs of the subject's alternative names.
    pub uris: Vec<Box<str>>,
    /// DNS names.
    pub dns_names: Vec<Box<str>>,
    /// IP addresses.
    pub addresses: Vec<Box<str>>,
    /// Mail addresses.
    pub emails: Vec<Box<str>>,
    /// SHA-1 of the certificate, hexadecimal.
    pub sha1: Box<str>,
    /// SHA-256 of the certificate, hexadecimal.
    pub sha256: Box<str>,
    /// Since the Unix epoch.
    pub not_before: Duration,
    /// Since the Unix epoch.
    pub not_after: Duration,
    /// PEM, percent-encoded.
    pub pem: Box<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_in_the_order_of_their_setting() {
        let text = |flags: ResponseFlags| {
            let mut out = Vec::new();
            flags.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let mut flags = ResponseFlags::default();
        assert_eq!(text(flags), "-");
        flags.set(ResponseFlags::RETRY_LIMIT);
        flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        flags.set(ResponseFlags::RETRY_LIMIT);
        assert_eq!(text(flags), "URX,UF");
        let mut other = ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        other.set(ResponseFlags::RETRY_LIMIT);
        assert_eq!(text(other), "UF,URX");
        assert_eq!(flags, other);
        let mut all = ResponseFlags::default();
        for (flag, ..) in ResponseFlags::TEXTS {
            all.set(*flag);
        }
        assert_eq!(text(all).split(',').count(), ResponseFlags::TEXTS.len());
    }
}
