//! The values of operators.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::json::write_string;
use super::time::TimeFormat;
use super::{Source, write_number};
use crate::head::{Headers, RequestHead, ResponseHead, split_query};
use crate::metadata::{Metadata, Value};
use crate::stream_info::{CertificateInfo, StreamInfo, TlsView};

/// A header, and the one that takes its place where it is missing.
pub(super) type HeaderNames = (Box<[u8]>, Option<Box<[u8]>>);

/// What an operator gives in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Number,
    Json,
}

#[derive(Debug, Clone)]
pub(super) enum Operator {
    Request(HeaderNames),
    RequestWithoutQuery(HeaderNames),
    Response(HeaderNames),
    Trailer(HeaderNames),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    /// Whether blanks stay.
    ResponseCodeDetails(bool),
    ConnectionTerminationDetails,
    UpstreamTransportFailure,
    DownstreamTransportFailure,
    Flags,
    FlagsLong,
    Number(Number),
    Duration(Span),
    Host(HostPart),
    UpstreamClusterRaw,
    UpstreamCluster,
    Address(Which, AddressPart),
    ServerName,
    RouteName,
    VirtualHost,
    VirtualCluster,
    FilterChain,
    GrpcStatus(GrpcFormat),
    Hostname,
    Metadata(MetadataOf, Box<str>, Vec<Box<str>>),
    FilterState(Box<str>),
    /// A variable that is not set, or that nobody looked up.
    Environment(Box<str>),
    /// A variable of the environment, looked up when it was compiled.
    Fixed(Box<[u8]>),
    StreamId,
    UniqueId,
    TraceId,
    LocalReplyBody,
    LogType,
    CustomFlags,
    QueryParameter(Box<[u8]>),
    Query,
    Path {
        original: PathFrom,
        query: bool,
    },
    Tls {
        upstream: bool,
        part: TlsPart,
    },
    Certificate {
        upstream: bool,
        peer: bool,
        part: CertificatePart,
    },
    /// Known to Envoy; has no source here.
    Absent,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    BytesReceived,
    BytesSent,
    RequestHeaders,
    ResponseHeaders,
    ResponseTrailers,
    DownstreamWireReceived,
    DownstreamWireSent,
    DownstreamHeaderReceived,
    DownstreamHeaderSent,
    UpstreamWireReceived,
    UpstreamWireSent,
    UpstreamHeaderReceived,
    UpstreamHeaderSent,
    Attempts,
    ConnectionId,
    UpstreamConnectionId,
    Zero,
}

/// A point in the life of a stream (`%COMMON_DURATION%`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    DownstreamReceiveBegin,
    DownstreamReceiveEnd,
    UpstreamConnectBegin,
    UpstreamConnectEnd,
    UpstreamHandshakeEnd,
    UpstreamSendBegin,
    UpstreamSendEnd,
    UpstreamReceiveBegin,
    UpstreamReceiveEnd,
    DownstreamSendBegin,
    DownstreamSendEnd,
    DownstreamHandshakeEnd,
    PoolReady,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Point,
    pub(super) to: Point,
    /// Nanoseconds of a unit.
    pub(super) unit: u128,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HostPart {
    Address,
    AddressWithoutPort,
    Port,
    Name,
    NameWithoutPort,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    UpstreamLocal,
    DownstreamLocal,
    DownstreamDirectLocal,
    DownstreamRemote,
    DownstreamDirect,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum AddressPart {
    Whole,
    WithoutPort,
    /// Cut to a network of so many bits.
    Network(u8),
    Port,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum GrpcFormat {
    Camel,
    Snake,
    Number,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum MetadataOf {
    Dynamic,
    Cluster,
    Host,
    Route,
    VirtualHost,
    Listener,
    FilterChain,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum PathFrom {
    /// As it came, or as it is now.
    OriginalOrPath,
    Original,
    Path,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TlsPart {
    Version,
    Cipher,
    Session,
    ServerName,
    Ja3,
    Ja4,
}

#[derive(Debug, Clone)]
pub(super) enum CertificatePart {
    Subject,
    Issuer,
    Serial,
    Uri,
    Dns,
    Ip,
    Email,
    Pem,
    Sha1,
    Sha256,
    Begin(TimeFormat),
    End(TimeFormat),
}

/// Names of gRPC statuses in the camel case of Envoy's logs, and as constants.
const GRPC_STATUSES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The details of a request for which there was no connection.
const NO_CONNECTION: &str = "upstream_reset_before_response_started{remote_connection_failure}";

impl Operator {
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Number(_)
            | Self::Duration(_)
            | Self::ResponseCode
            | Self::Address(_, AddressPart::Port)
            | Self::Host(HostPart::Port)
            | Self::GrpcStatus(GrpcFormat::Number) => Shape::Number,
            Self::Metadata(..) => Shape::Json,
            _ => Shape::Text,
        }
    }

    /// Writes metadata as JSON.
    pub(super) fn write_json(&self, source: &Source<'_>, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Metadata(of, filter, path) => {
                write_value(metadata_value(source.info, *of, filter, path)?, out);
            }
            other => {
                let mut text = Vec::new();
                other.write(source, &mut text)?;
                write_string(&text, out);
            }
        }
        Some(())
    }

    /// Writes the value; none where there is none.
    pub(super) fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) -> Option<()> {
        let info = source.info;
        let connection = info.connection.as_deref();
        match self {
            Self::Request(names) => out.extend_from_slice(request_field(source.request?, names)?),
            Self::RequestWithoutQuery(names) => {
                out.extend_from_slice(split_query(request_field(source.request?, names)?).0);
            }
            Self::Response(names) => response_field(source.response?, names, out)?,
            Self::Trailer((first, second)) => {
                out.extend_from_slice(either(source.trailers?, first, second.as_deref())?);
            }
            Self::StartTime(format) => format.write(info.start_time, out),
            Self::EmitTime(format) => format.write(info.start_time + info.duration.unwrap_or_default(), out),
            Self::Protocol => out.extend_from_slice(info.protocol?.as_str().as_bytes()),
            Self::UpstreamProtocol => out.extend_from_slice(info.upstream_protocol?.as_str().as_bytes()),
            Self::ResponseCode => write_number(out, u128::from(info.response_code)),
            Self::ResponseCodeDetails(blanks) => write_details(info, *blanks, out)?,
            Self::ConnectionTerminationDetails => {
                out.extend_from_slice(info.connection_termination_details?.as_bytes());
            }
            Self::UpstreamTransportFailure => underscored(info.upstream_transport_failure.as_deref()?, out),
            Self::DownstreamTransportFailure => {
                underscored(info.downstream_transport_failure.as_deref()?, out);
            }
            Self::Flags => info.flags.write(out),
            Self::FlagsLong => info.flags.write_long(out),
            Self::Number(number) => write_number(out, u128::from(number.value(source)?)),
            Self::Duration(span) => span.write(info, out)?,
            Self::Host(part) => host(info, *part, out)?,
            Self::UpstreamClusterRaw => out.extend_from_slice(info.upstream_cluster.as_ref()?.as_bytes()),
            Self::UpstreamCluster => {
                let name = info.upstream_stat_name.as_ref().or(info.upstream_cluster.as_ref());
                out.extend_from_slice(name?.as_bytes());
            }
            Self::Address(which, part) => write_address(which.of(info)?, *part, out),
            Self::ServerName => out.extend_from_slice(info.server_name.as_ref()?.as_bytes()),
            Self::RouteName => out.extend_from_slice(not_empty(info.route_name.as_deref())?.as_bytes()),
            Self::VirtualHost => out.extend_from_slice(info.virtual_host.as_ref()?.as_bytes()),
            Self::VirtualCluster => out.extend_from_slice(info.virtual_cluster.as_ref()?.as_bytes()),
            Self::FilterChain => {
                out.extend_from_slice(not_empty(connection?.filter_chain.as_deref())?.as_bytes());
            }
            Self::GrpcStatus(format) => grpc_status(source, *format, out)?,
            Self::Hostname => out.extend_from_slice(source.hostname.as_bytes()),
            Self::Metadata(of, filter, path) => match metadata_value(info, *of, filter, path)? {
                Value::String(text) => out.extend_from_slice(text.as_bytes()),
                value => write_value(value, out),
            },
            Self::FilterState(name) => out.extend_from_slice(info.filter_state.get(name)?.as_bytes()),
            Self::Fixed(text) => out.extend_from_slice(text),
            Self::Environment(_) => out.push(b'-'),
            Self::StreamId => stream_id(source, out)?,
            Self::UniqueId => uuid(info.random, out),
            Self::TraceId => out.extend_from_slice(info.trace_id.as_ref()?.as_bytes()),
            Self::LocalReplyBody => out.extend_from_slice(&info.local_reply_body),
            Self::LogType => out.extend_from_slice(info.log_type.as_str().as_bytes()),
            // No filter here sets any.
            Self::CustomFlags => {}
            Self::QueryParameter(name) => query_parameter(source.request?.path(), name, out)?,
            Self::Query => {
                let query = split_query(source.request?.path()).1?;
                out.extend_from_slice(query);
            }
            Self::Path { original, query } => path(source.request?, *original, *query, out)?,
            Self::Tls { upstream, part } => tls_part(tls(info, *upstream), *part, info, out)?,
            Self::Certificate { upstream, peer, part } => {
                part.write(&tls(info, *upstream)?.certificate(*peer)?, out)?;
            }
            Self::Absent => return None,
        }
        Some(())
    }
}

/// Writes response code details, with blanks or without.
pub(crate) fn write_details(info: &StreamInfo, blanks: bool, out: &mut Vec<u8>) -> Option<()> {
    let details = info.response_code_details?;
    let bytes =
        |text: &'static str| text.bytes().map(|byte| if byte == b' ' && !blanks { b'_' } else { byte });
    match info.upstream_transport_failure.as_deref().filter(|_| details == NO_CONNECTION) {
        // The transport's reason is a part of it.
        Some(failure) => {
            out.extend(bytes(details.trim_end_matches('}')));
            out.push(b'|');
            underscored(failure, out);
            out.push(b'}');
        }
        None => out.extend(bytes(details)),
    }
    Some(())
}

fn not_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// Blanks would break a log line that is split at them.
fn underscored(text: &str, out: &mut Vec<u8>) {
    out.extend(text.bytes().map(|byte| if byte == b' ' { b'_' } else { byte }));
}

fn request_field<'a>(head: &'a RequestHead, (first, second): &HeaderNames) -> Option<&'a [u8]> {
    head.field(first).or_else(|| head.field(second.as_deref()?))
}

fn response_field(head: &ResponseHead, (first, second): &HeaderNames, out: &mut Vec<u8>) -> Option<()> {
    for name in std::iter::once(first).chain(second) {
        if &name[..] == b":status" {
            write_number(out, u128::from(head.status));
            return Some(());
        }
        if let Some(value) = head.headers.get(name) {
            out.extend_from_slice(value);
            return Some(());
        }
    }
    None
}

fn either<'a>(headers: &'a Headers, first: &[u8], second: Option<&[u8]>) -> Option<&'a [u8]> {
    headers.get(first).or_else(|| headers.get(second?))
}

impl Which {
    fn of(self, info: &StreamInfo) -> Option<SocketAddr> {
        match self {
            Self::UpstreamLocal => info.upstream_local_address,
            Self::DownstreamLocal => info.downstream_local_address,
            Self::DownstreamDirectLocal => info
                .connection
                .as_ref()
                .and_then(|connection| connection.direct_local)
                .or(info.downstream_local_address),
            Self::DownstreamRemote => info.downstream_remote_address,
            Self::DownstreamDirect => info.downstream_direct_address,
        }
    }
}

fn write_address(address: SocketAddr, part: AddressPart, out: &mut Vec<u8>) {
    let _ = match part {
        AddressPart::Whole => write!(out, "{address}"),
        AddressPart::WithoutPort => write!(out, "{}", address.ip()),
        AddressPart::Port => write!(out, "{}", address.port()),
        AddressPart::Network(bits) => {
            let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
            match ipnet::IpNet::new(address.ip(), bits) {
                Ok(network) => write!(out, "{}", network.trunc()),
                Err(_) => write!(out, "{}", address.ip()),
            }
        }
    };
}

fn host(info: &StreamInfo, part: HostPart, out: &mut Vec<u8>) -> Option<()> {
    let address = info.upstream_host.as_ref()?;
    let split = |text: &'_ str| -> (String, Option<String>) {
        match text.parse::<SocketAddr>() {
            Ok(address) => (address.ip().to_string(), Some(address.port().to_string())),
            Err(_) => match text.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (name.to_owned(), Some(port.to_owned()))
                }
                _ => (text.to_owned(), None),
            },
        }
    };
    let name = not_empty(info.upstream_host_name.as_deref());
    match part {
        HostPart::Address => out.extend_from_slice(address.as_bytes()),
        HostPart::AddressWithoutPort => out.extend_from_slice(split(address).0.as_bytes()),
        HostPart::Port => out.extend_from_slice(split(address).1?.as_bytes()),
        HostPart::Name => out.extend_from_slice(name.unwrap_or(address).as_bytes()),
        HostPart::NameWithoutPort => out.extend_from_slice(split(name.unwrap_or(address)).0.as_bytes()),
    }
    Some(())
}

/// Bytes of fields on an HTTP/1 connection: name, colon, blank, value, line end.
fn on_the_wire(headers: &Headers) -> u64 {
    headers.iter().map(|(name, value)| (name.len() + value.len() + 4) as u64).sum()
}

/// How long the reason phrase is (RFC 9110, section 15), for the size of a status line.
fn reason_length(status: u16) -> u64 {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Payload Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    };
    reason.len() as u64
}

/// Bytes of names and values alone.
fn bare(headers: &Headers) -> u64 {
    headers.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

impl Number {
    fn value(self, source: &Source<'_>) -> Option<u64> {
        let info = source.info;
        let request_fields =
            |head: &RequestHead| on_the_wire(&head.headers) + 8 + head.authority().len() as u64;
        let upstream_sent = source.request.filter(|_| info.upstream_protocol.is_some());
        Some(match self {
            Self::BytesReceived => info.bytes_received,
            Self::BytesSent => info.bytes_sent,
            Self::RequestHeaders => source.request.map_or(0, |head| {
                let pseudo = [head.method().len(), head.path().len(), head.authority().len()];
                let names = ":method".len() + ":path".len() + ":authority".len() + ":scheme".len();
                bare(&head.headers)
                    + (pseudo.iter().sum::<usize>() + names + head.scheme.as_str().len()) as u64
            }),
            Self::ResponseHeaders => source.response.map_or(0, |head| bare(&head.headers) + 10),
            Self::ResponseTrailers => source.trailers.map_or(0, bare),
            Self::DownstreamWireReceived => u64::from(info.downstream_head.bytes) + info.bytes_received,
            Self::DownstreamHeaderReceived => info.downstream_head.fields_bytes(),
            // Status line and the empty line at the end come on top of the fields.
            Self::DownstreamWireSent => {
                let head = source
                    .response
                    .map_or(0, |head| on_the_wire(&head.headers) + 15 + reason_length(head.status) + 2);
                head + info.bytes_sent
            }
            Self::DownstreamHeaderSent => source.response.map_or(0, |head| on_the_wire(&head.headers)),
            Self::UpstreamWireSent => {
                let head = upstream_sent.map_or(0, |head| {
                    request_fields(head) + (head.method().len() + head.path().len() + 12 + 2) as u64
                });
                head + info.upstream_protocol.map_or(0, |_| info.bytes_received)
            }
            Self::UpstreamHeaderSent => upstream_sent.map_or(0, request_fields),
            Self::UpstreamWireReceived => {
                let from_upstream = info.response_code_details == Some("via_upstream");
                u64::from(info.upstream_head.bytes) + if from_upstream { info.bytes_sent } else { 0 }
            }
            Self::UpstreamHeaderReceived => info.upstream_head.fields_bytes(),
            Self::Attempts => u64::from(info.attempts),
            Self::ConnectionId => info.connection.as_ref()?.id,
            Self::UpstreamConnectionId => info.upstream_connection_id?,
            Self::Zero => 0,
        })
    }
}

/// Bytes of a request and of its answer on the client's connection, heads included.
pub(crate) fn wire_bytes(source: &Source<'_>) -> (u64, u64) {
    let of = |number: Number| number.value(source).unwrap_or_default();
    (of(Number::DownstreamWireReceived), of(Number::DownstreamWireSent))
}

impl Point {
    fn of(self, info: &StreamInfo) -> Option<Duration> {
        match self {
            Self::DownstreamReceiveBegin => Some(Duration::ZERO),
            Self::DownstreamReceiveEnd => info.request_duration,
            Self::UpstreamConnectBegin => info.timing.connect_begin,
            Self::UpstreamConnectEnd => info.timing.connect_end,
            Self::UpstreamHandshakeEnd => info.timing.handshake_end,
            Self::UpstreamSendBegin => info.timing.upstream_send_begin,
            Self::UpstreamSendEnd => info.timing.upstream_send_end,
            Self::UpstreamReceiveBegin => info.response_duration,
            Self::UpstreamReceiveEnd => {
                info.timing.upstream_receive_end.or(info.response_duration.and(info.duration))
            }
            Self::DownstreamSendBegin => info.timing.downstream_send_begin,
            Self::DownstreamSendEnd => info.duration,
            Self::DownstreamHandshakeEnd => info.connection.as_ref()?.handshake,
            Self::PoolReady => info.timing.pool_ready,
        }
    }
}

impl Span {
    /// Between two points, rounded down to milliseconds.
    pub(super) fn millis(from: Point, to: Point) -> Operator {
        Operator::Duration(Self { from, to, unit: 1_000_000 })
    }

    fn write(self, info: &StreamInfo, out: &mut Vec<u8>) -> Option<()> {
        let (from, to) = (self.from.of(info)?, self.to.of(info)?);
        write_number(out, to.checked_sub(from)?.as_nanos() / self.unit);
        Some(())
    }
}

/// The gRPC status of a request that is gRPC: of the trailers, the headers, or what the HTTP status means
/// ("HTTP to gRPC Status Code Mapping").
pub(crate) fn grpc_status_number(source: &Source<'_>, only_grpc: bool) -> Option<u32> {
    if only_grpc && !source.request.is_some_and(RequestHead::is_grpc) {
        return None;
    }
    let value = source
        .trailers
        .and_then(|trailers| trailers.get("grpc-status"))
        .or_else(|| source.response?.headers.get("grpc-status"));
    if let Some(value) = value {
        return std::str::from_utf8(value).ok()?.trim().parse().ok();
    }
    match source.info.response_code {
        0 => None,
        400 => Some(13),
        401 => Some(16),
        403 => Some(7),
        404 => Some(12),
        429 | 502 | 503 | 504 => Some(14),
        _ => Some(2),
    }
}

fn grpc_status(source: &Source<'_>, format: GrpcFormat, out: &mut Vec<u8>) -> Option<()> {
    let number = grpc_status_number(source, true)?;
    match (GRPC_STATUSES.get(number as usize), format) {
        (Some((camel, _)), GrpcFormat::Camel) => out.extend_from_slice(camel.as_bytes()),
        (Some((_, snake)), GrpcFormat::Snake) => out.extend_from_slice(snake.as_bytes()),
        _ => write_number(out, u128::from(number)),
    }
    Some(())
}

fn metadata_value<'a>(
    info: &'a StreamInfo,
    of: MetadataOf,
    filter: &str,
    path: &'a [Box<str>],
) -> Option<&'a Value> {
    let connection = info.connection.as_deref();
    let metadata: &Metadata = match of {
        MetadataOf::Dynamic => &info.metadata,
        MetadataOf::Cluster => info.cluster_metadata.as_deref()?,
        MetadataOf::Host => info.host_metadata.as_deref()?,
        MetadataOf::Route => info.route_metadata.as_deref()?,
        MetadataOf::VirtualHost => info.virtual_host_metadata.as_deref()?,
        MetadataOf::Listener => connection?.listener_metadata.as_deref()?,
        MetadataOf::FilterChain => connection?.filter_chain_metadata.as_deref()?,
    };
    metadata.get(filter, path.iter().map(|name| &**name))
}

/// Appends a value as JSON, with sorted keys.
fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => write_string(text.as_bytes(), out),
        Value::List(values) => {
            out.push(b'[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_value(value, out);
            }
            out.push(b']');
        }
        Value::Struct(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(name.as_bytes(), out);
                out.push(b':');
                write_value(value, out);
            }
            out.push(b'}');
        }
    }
}

/// A request is known by its request id; a connection has an id of its own.
fn stream_id(source: &Source<'_>, out: &mut Vec<u8>) -> Option<()> {
    match source.request.and_then(|head| head.headers.get("x-request-id")) {
        Some(id) => out.extend_from_slice(id),
        None if source.info.protocol.is_none() => uuid(source.info.random, out),
        None => return None,
    }
    Some(())
}

/// A version 4 UUID (RFC 9562, section 5.4) of a random number, spread over both halves.
fn uuid(random: u64, out: &mut Vec<u8>) {
    // The finalizer of SplitMix64: another number for the second half.
    let mut other = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    other = (other ^ other >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    other = (other ^ other >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    other ^= other >> 31;
    let _ = write!(
        out,
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        random >> 32,
        random >> 16 & 0xffff,
        random & 0xfff,
        0x8000 | other >> 48 & 0x3fff,
        other & 0xffff_ffff_ffff
    );
}

fn query_parameter(path: &[u8], name: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let query = split_query(path).1?;
    let value = query.split(|byte| *byte == b'&').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        (&pair[..at] == name).then(|| pair.get(at + 1..).unwrap_or_default())
    })?;
    percent_decoded(value, out);
    Some(())
}

fn percent_decoded(text: &[u8], out: &mut Vec<u8>) {
    let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16);
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

fn path(head: &RequestHead, from: PathFrom, query: bool, out: &mut Vec<u8>) -> Option<()> {
    let original = head.headers.get("x-envoy-original-path");
    let path = match from {
        PathFrom::OriginalOrPath => original.unwrap_or(head.path()),
        PathFrom::Original => original?,
        PathFrom::Path => head.path(),
    };
    out.extend_from_slice(if query { path } else { split_query(path).0 });
    Some(())
}

fn tls(info: &StreamInfo, upstream: bool) -> Option<&dyn TlsView> {
    if upstream { info.upstream_tls.as_deref() } else { info.connection.as_ref()?.tls.as_deref() }
}

fn tls_part(tls: Option<&dyn TlsView>, part: TlsPart, info: &StreamInfo, out: &mut Vec<u8>) -> Option<()> {
    let text: &str = match part {
        TlsPart::Version => tls?.version(),
        TlsPart::Cipher => tls?.cipher(),
        TlsPart::Session => not_empty(Some(tls?.session()))?,
        TlsPart::ServerName => not_empty(tls?.server_name())?,
        TlsPart::Ja3 => info.connection.as_ref()?.ja3.as_deref()?,
        TlsPart::Ja4 => info.connection.as_ref()?.ja4.as_deref()?,
    };
    out.extend_from_slice(text.as_bytes());
    Some(())
}

impl CertificatePart {
    fn write(&self, certificate: &CertificateInfo, out: &mut Vec<u8>) -> Option<()> {
        let joined = |list: &[Box<str>]| (!list.is_empty()).then(|| list.join(","));
        let text = match self {
            Self::Subject => certificate.subject.to_string(),
            Self::Issuer => certificate.issuer.to_string(),
            Self::Serial => certificate.serial.to_string(),
            Self::Uri => joined(&certificate.uris)?,
            Self::Dns => joined(&certificate.dns_names)?,
            Self::Ip => joined(&certificate.addresses)?,
            Self::Email => joined(&certificate.emails)?,
            Self::Pem => certificate.pem.to_string(),
            Self::Sha1 => certificate.sha1.to_string(),
            Self::Sha256 => certificate.sha256.to_string(),
            Self::Begin(format) => {
                format.write(certificate.not_before, out);
                return Some(());
            }
            Self::End(format) => {
                format.write(certificate.not_after, out);
                return Some(());
            }
        };
        out.extend_from_slice(not_empty(Some(&text))?.as_bytes());
        Some(())
    }
}
