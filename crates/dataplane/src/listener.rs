//! Listeners as the proxy serves them: the filter chains and what is at their ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::filter_chain::FilterChains;
use crate::filters::HttpFilter;
use crate::head::Scheme;
use crate::http_protocol::{AddressDetection, Http1Options, Http2Options, InternalAddresses, Underscores};
use crate::listener_filter::{Inspect, ProxyProtocol};
use crate::local_reply::LocalReplies;
use crate::network::{DirectResponse, NetworkGate};
use crate::path::PathOptions;
use crate::proxy_status::ProxyStatus;
use crate::route::{HeaderMutations, RouteTable};
use crate::tls::DownstreamTransport;

pub use crate::access_log::{AccessLog, LogOptions};
pub use crate::compile::{SocketOption, SocketState};
pub use crate::network::TcpProxy;

/// Where a listener or a host is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP address and port.
    Socket(SocketAddr),
    /// A Unix socket.
    Pipe(PathBuf),
    /// A listener of this process, without a socket.
    Internal(Arc<str>),
    /// A name that is yet to be resolved, and a port.
    Name(Arc<str>, u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(formatter),
            Self::Pipe(path) => path.display().fmt(formatter),
            Self::Internal(name) => write!(formatter, "envoy://{name}/"),
            Self::Name(name, port) => write!(formatter, "{name}:{port}"),
        }
    }
}

/// Which way traffic goes through a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// Not said.
    #[default]
    Unspecified,
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// A compiled `envoy.config.listener.v3.Listener`.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens; the first is the one it is known by.
    pub addresses: Vec<Address>,
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// False: it gets its connections from a listener with `hand_off`.
    pub bind_to_port: bool,
    /// Whether connections go to the listener of their original destination, where there is one.
    pub hand_off: bool,
    /// Whether the original destination is asked from the kernel.
    pub original_destination: bool,
    /// Whether the first bytes tell the HTTP version.
    pub inspect_http: Inspect,
    /// Whether the first bytes are searched for a TLS ClientHello.
    pub inspect_tls: Inspect,
    /// Whether a PROXY protocol header comes first.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How long the inspectors wait for bytes; none is unlimited.
    pub inspect_timeout: Option<Duration>,
    /// Whether a connection goes on when that time is over.
    pub continue_on_timeout: bool,
    /// Which chain serves a connection.
    pub chains: FilterChains,
    /// Bytes buffered for a connection.
    pub buffer_limit: usize,
    /// Set on the listening socket.
    pub socket_options: Vec<SocketOption>,
    /// Length of the queue of the kernel.
    pub backlog: u32,
    /// Binds to addresses that are not there, and sees foreign destinations.
    pub transparent: bool,
    /// Binds to addresses that are not there.
    pub freebind: bool,
    /// Whether each worker has a socket of its own, between which the kernel chooses.
    pub reuse_port: bool,
    /// Whether an IPv6 socket takes IPv4, too.
    pub ipv4_compat: bool,
    /// Permissions of a Unix socket; 0 leaves them as they come.
    pub pipe_mode: u32,
    /// Connections whose first bytes may come with the first packet.
    pub fast_open: Option<u32>,
    /// Multipath TCP.
    pub multipath: bool,
    /// Idle time, interval and probes of accepted connections.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// Which way.
    pub direction: Direction,
    /// What is said of it besides.
    pub metadata: Option<Arc<crate::metadata::Metadata>>,
    /// Whether the proxy's limit of connections does not count here.
    pub ignore_global_limit: bool,
    /// For connections as a whole.
    pub access_log: Vec<AccessLog>,
    /// Of all that is not in its chains: versions with the same one differ in nothing else.
    pub digest: Digest,
    /// Whether connections end, too, when the proxy is told to fail health checks (`drain_type`).
    pub drains_when_failing: bool,
}

/// By which messages are compared.
pub type Digest = [u64; 2];

/// One way to serve a connection.
#[derive(Debug)]
pub struct FilterChain {
    /// Of the whole message, its condition included: chains with the same one are the same.
    pub digest: Digest,
    /// Its name.
    pub name: Arc<str>,
    /// What a connection passes first.
    pub gates: Vec<NetworkGate>,
    /// What is between the client and the filters.
    pub transport: DownstreamTransport,
    /// How long the negotiation of that may take.
    pub transport_timeout: Option<Duration>,
    /// What is at its end.
    pub network: NetworkFilter,
    /// What is said of it besides.
    pub metadata: Option<Arc<crate::metadata::Metadata>>,
}

/// The terminal filters of a chain.
#[derive(Debug)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
    /// Everything comes back (`envoy.extensions.filters.network.echo.v3.Echo`).
    Echo,
    /// A text, and the end (`envoy.extensions.filters.network.direct_response.v3.Config`).
    DirectResponse(DirectResponse),
    /// A chain without filters: connections are closed.
    Close,
}

/// How HTTP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// By the first bytes.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// In the listener itself.
    Inline(Arc<RouteTable>),
    /// By name.
    Discovered(Arc<str>),
}

/// What becomes of `%2F` and its like in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Nothing.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// A redirect to the path with them unescaped.
    Redirect,
    /// They are unescaped.
    Forward,
}

/// What the `server` header becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// Ours.
    #[default]
    Overwrite,
    /// Ours, if there is none.
    AppendIfAbsent,
    /// The upstream's.
    PassThrough,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    /// Removed.
    #[default]
    Sanitize,
    /// Left alone, where the client has shown a certificate.
    ForwardOnly,
    /// The client's certificate is added, where it has shown one.
    AppendForward,
    /// Replaced by the client's certificate.
    SanitizeSet,
    /// Left alone in any case.
    AlwaysForwardOnly,
}

/// What of a client's certificate is told besides its digest (`set_current_client_cert_details`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// The subject.
    pub subject: bool,
    /// The certificate.
    pub cert: bool,
    /// All certificates that came.
    pub chain: bool,
    /// DNS names.
    pub dns: bool,
    /// URIs.
    pub uri: bool,
}

/// A compiled `HttpConnectionManager`.
#[derive(Debug)]
pub struct HttpConnectionManager {
    /// Under which its counters are.
    pub stat_prefix: Box<str>,
    /// When lines are written besides at the end of a request.
    pub log_options: LogOptions,
    /// How HTTP is spoken.
    pub codec: Codec,
    /// Where routes come from.
    pub routes: RouteSource,
    /// How long the first version of discovered routes is waited for.
    pub routes_timeout: Duration,
    /// Who is asked for discovered routes.
    pub routes_origin: Option<Box<lateen_envoy::envoy::config::core::v3::ConfigSource>>,
    /// The filters, the router last.
    pub filters: Vec<HttpFilter>,
    /// Where requests are logged.
    pub access_log: Vec<AccessLog>,
    /// `local_reply_config`: how answers of our own look.
    pub local_replies: Option<LocalReplies>,
    /// `proxy_status_config`: what is told of what went wrong.
    pub proxy_status: Option<ProxyStatus>,
    /// Whether we are the edge: the client's address is the connection's.
    pub use_remote_address: bool,
    /// How many proxies before us are ours (`xff_num_trusted_hops`), where `use_remote_address` is set.
    pub trusted_hops: u32,
    /// How the client's address is found where it is not; the first that finds one counts.
    pub detection: Vec<AddressDetection>,
    /// Which addresses are inside.
    pub internal_addresses: InternalAddresses,
    /// Whether `x-forwarded-port` is set.
    pub append_forwarded_port: bool,
    /// `add_user_agent`: requests name this proxy's cluster and node.
    pub add_user_agent: bool,
    /// `scheme_header_transformation`: the scheme that requests get.
    pub scheme: Option<Scheme>,
    /// `early_header_mutation_extensions`: changes before anything looks at a request.
    pub early_mutations: Vec<HeaderMutations>,
    /// Fields with underscores in their names.
    pub underscores: Underscores,
    /// Whether `x-forwarded-for` stays as it is.
    pub skip_forwarded_for_append: bool,
    /// Name in the `via` header.
    pub via: Option<Box<str>>,
    /// What is done to paths.
    pub path: PathOptions,
    /// The `server` header.
    pub server_name: Box<str>,
    /// What is done with it.
    pub server_header: ServerHeader,
    /// Whether `x-request-id` is made where it is missing.
    pub generate_request_id: bool,
    /// Whether a foreign `x-request-id` is kept at the edge.
    pub preserve_external_request_id: bool,
    /// Whether responses carry `x-request-id`.
    pub request_id_in_response: bool,
    /// Client certificates.
    pub forward_client_cert: ForwardClientCert,
    /// What is told of them.
    pub client_cert_details: ClientCertDetails,
    /// Upgrades that are allowed, in lower case.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// A connection without streams.
    pub idle_timeout: Option<Duration>,
    /// A connection at all.
    pub max_connection_duration: Option<Duration>,
    /// A stream without bytes.
    pub stream_idle_timeout: Option<Duration>,
    /// The whole request.
    pub request_timeout: Option<Duration>,
    /// The request's head.
    pub request_headers_timeout: Option<Duration>,
    /// A stream at all.
    pub max_stream_duration: Option<Duration>,
    /// Between the announcement of the end and the end.
    pub drain_timeout: Duration,
    /// Requests on one connection.
    pub max_requests_per_connection: Option<u32>,
    /// Bytes of a request's head.
    pub max_head_bytes: usize,
    /// Fields of a request's head.
    pub max_header_count: usize,
    /// HTTP/1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// `strip_trailing_host_dot`.
    pub strip_trailing_dot: bool,
    /// `proxy_100_continue`: the upstream answers `Expect: 100-continue`, not we.
    pub proxy_continue: bool,
    /// How long a connection that was ended by us is kept for the client to read the last answer.
    pub delayed_close_timeout: Option<Duration>,
    /// Whether a port is removed from the host: none, the listener's own, any.
    pub strip_port: StripPort,
}

/// Which ports are removed from a request's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// None.
    #[default]
    Never,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}
