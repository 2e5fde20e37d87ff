//! How HTTP is spoken on a connection, with clients and with upstreams: `envoy.config.core.v3`'s protocol options.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// `Http1ProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1Options {
    /// `allow_absolute_url`; requests to a proxy in absolute form are taken apart, else only the path counts.
    pub allow_absolute_url: bool,
    /// `accept_http_10`.
    pub accept_http_10: bool,
    /// `default_host_for_http_10`: the host of HTTP/1.0 requests without one.
    pub default_host: Option<Box<str>>,
    /// `enable_trailers`: trailers are passed on; else they are dropped, whichever side they come from.
    pub trailers: bool,
    /// `header_key_format`.
    pub header_case: HeaderCase,
    /// `override_stream_error_on_invalid_http_message`: a message that is wrong ends its stream and not the connection.
    pub stream_error: Option<bool>,
    /// `allow_chunked_length`: a message that is chunked and has a length too is taken as chunked, its length dropped.
    pub allow_chunked_length: bool,
    /// `send_fully_qualified_url`: upstream the target is the whole URL.
    pub fully_qualified_url: bool,
}

impl Default for Http1Options {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host: None,
            trailers: false,
            header_case: HeaderCase::Lower,
            stream_error: None,
            allow_chunked_length: false,
            fully_qualified_url: false,
        }
    }
}

/// The case of field names that are sent over HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeaderCase {
    /// As HTTP/2 has them.
    #[default]
    Lower,
    /// `Proper-Case-Words`.
    Proper,
    /// As the other side sent them.
    Preserve,
}

/// What the head of a message may cost (`HttpProtocolOptions.max_headers_count`, `max_response_headers_kb`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 60 * 1024, fields: 100 }
    }
}

/// `Http2ProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Options {
    /// Entries of the dynamic table of HPACK, in bytes.
    pub hpack_table_size: Option<u32>,
    /// Streams at a time that the peer may open.
    pub max_concurrent_streams: u32,
    /// Flow control window of a stream.
    pub initial_stream_window: u32,
    /// Flow control window of a connection.
    pub initial_connection_window: u32,
    /// `allow_connect`: extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// A message that is wrong ends its stream and not the connection.
    pub stream_error: Option<bool>,
    /// Pings that ask whether the peer is there.
    pub keepalive: Option<Keepalive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            hpack_table_size: None,
            max_concurrent_streams: 1024,
            initial_stream_window: 1 << 20,
            initial_connection_window: 16 << 20,
            allow_connect: false,
            stream_error: None,
            keepalive: None,
        }
    }
}

/// `KeepaliveSettings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalive {
    /// Between pings; none: only after `idle`.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The share of the interval that is added at random, in percent.
    pub jitter_percent: u32,
    /// A request after such a pause is preceded by a ping.
    pub idle: Option<Duration>,
}

/// What becomes of request fields with underscores in their names, which some applications take for dashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// Nothing.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The field is dropped.
    Drop,
}

/// `HttpConnectionManager.InternalAddressConfig`: which addresses are inside the mesh. None, unless said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InternalAddresses {
    /// Clients on Unix sockets are.
    pub unix_sockets: bool,
    /// Clients of these networks are.
    pub networks: Vec<IpNet>,
}

impl InternalAddresses {
    /// Whether a client's address is inside; one without an address is on a Unix socket.
    pub fn contains(&self, address: Option<IpAddr>) -> bool {
        match address {
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
            None => self.unix_sockets,
        }
    }
}

/// One way to find the client's address where the connection's is not it (`envoy.http.original_ip_detection`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressDetection {
    /// `x-forwarded-for`, from its end.
    ForwardedFor {
        /// Entries that our own proxies wrote.
        hops: u32,
        /// `xff_trusted_cidrs`: entries of these networks are passed over, instead of a fixed number.
        trusted: Vec<IpNet>,
        /// Whether our peer's address is not appended.
        skip_append: bool,
    },
    /// A field that holds the address alone.
    Header {
        /// Its name.
        name: Box<[u8]>,
        /// Whether the address may be an internal one.
        trusted: bool,
        /// The status for requests without it; none serves them.
        reject: Option<u16>,
    },
}
