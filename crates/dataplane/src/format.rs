//! Envoy's format strings: access log lines and header values with `%OPERATORS%`, compiled once.
//!
//! Source of the operators: Envoy's "Access logging" page, "Command operators".

use std::io::Write;
use std::net::SocketAddr;

use crate::head::{Headers, RequestHead, ResponseHead, split_query};
use crate::stream_info::StreamInfo;

/// A compiled format string.
#[derive(Debug, Clone, Default)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(Box<[u8]>),
    Operator { operator: Operator, limit: Option<usize> },
}

#[derive(Debug, Clone)]
enum Operator {
    Request(Box<[u8]>, Option<Box<[u8]>>),
    RequestWithoutQuery(Box<[u8]>, Option<Box<[u8]>>),
    Response(Box<[u8]>, Option<Box<[u8]>>),
    Trailer(Box<[u8]>, Option<Box<[u8]>>),
    StartTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailure,
    Flags,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTransmitDuration,
    UpstreamHost,
    UpstreamCluster,
    Address(Which, AddressPart),
    ServerName,
    RouteName,
    VirtualHost,
    Attempts,
    GrpcStatus(bool),
    Hostname,
    /// Known to Envoy; has no source here yet.
    Absent,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
    DownstreamDirect,
}

#[derive(Debug, Clone, Copy)]
enum AddressPart {
    Whole,
    WithoutPort,
    Port,
}

#[derive(Debug, Clone)]
enum TimeFormat {
    /// `2026-11-20T10:11:12.123Z`.
    Rfc3339Millis,
    Strftime(Box<str>),
}

/// Where operators find their values.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What is known of the stream.
    pub info: &'a StreamInfo,
    /// The request.
    pub request: Option<&'a RequestHead>,
    /// The response.
    pub response: Option<&'a ResponseHead>,
    /// The response's trailers.
    pub trailers: Option<&'a Headers>,
    /// The machine's name.
    pub hostname: &'a str,
}

/// The format with which Istio configures its proxies (MeshConfig `accessLogFormat`, the default).
pub const ISTIO_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Envoy's own default, where an access log names no format.
pub const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

impl Format {
    /// Compiles; the error says what is wrong with which operator.
    pub fn compile(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let end = operator_end(rest).ok_or_else(|| {
                format!("the operator `%{rest}` has no closing `%`; write `%%` for a percent sign")
            })?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(parse_operator(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts })
    }

    /// A text without operators.
    pub fn literal(text: impl Into<Box<[u8]>>) -> Self {
        Self { parts: vec![Part::Literal(text.into())] }
    }

    /// The text, where there is no operator in it.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &self.parts[..] {
            [] => Some(b""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text; what is not known becomes `-`.
    pub fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) {
        self.render(source, out, b"-");
    }

    /// The value of a header: what is not known becomes nothing.
    pub fn header_value(&self, source: &Source<'_>, out: &mut Vec<u8>) {
        self.render(source, out, b"");
    }

    fn render(&self, source: &Source<'_>, out: &mut Vec<u8>, missing: &[u8]) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator { operator, limit } => {
                    let start = out.len();
                    if operator.write(source, out).is_none() {
                        out.truncate(start);
                        out.extend_from_slice(missing);
                    }
                    if let Some(limit) = limit {
                        out.truncate(start + limit);
                    }
                }
            }
        }
    }
}

/// The closing percent sign; those inside parentheses (time formats) do not count.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0u32;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// A header and the one that takes its place where it is missing.
type HeaderNames = (Box<[u8]>, Option<Box<[u8]>>);

fn parse_operator(text: &str) -> Result<Part, String> {
    let (name, argument, limit) = match text.find('(') {
        Some(open) => {
            let close = text.rfind(')').ok_or_else(|| format!("%{text}%: a parenthesis is not closed"))?;
            (&text[..open], Some(&text[open + 1..close]), text[close + 1..].strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((name, limit)) => (name, None, Some(limit)),
            None => (text, None, None),
        },
    };
    let limit = match limit {
        Some(limit) => {
            Some(limit.parse().map_err(|_| format!("%{text}%: `{limit}` is not a maximum length in bytes"))?)
        }
        None => None,
    };
    let header = || -> Result<HeaderNames, String> {
        let argument =
            argument.ok_or_else(|| format!("%{text}%: name a header, as in %{name}(USER-AGENT)%"))?;
        let lower = argument.to_ascii_lowercase();
        Ok(match lower.split_once('?') {
            Some((first, second)) => (first.as_bytes().into(), Some(second.as_bytes().into())),
            None => (lower.as_bytes().into(), None),
        })
    };
    use AddressPart::{Port, Whole, WithoutPort};
    use Which::{DownstreamDirect, DownstreamLocal, DownstreamRemote, UpstreamLocal};
    let operator = match name {
        "REQ" => header().map(|(first, second)| Operator::Request(first, second))?,
        "REQ_WITHOUT_QUERY" => {
            header().map(|(first, second)| Operator::RequestWithoutQuery(first, second))?
        }
        "RESP" => header().map(|(first, second)| Operator::Response(first, second))?,
        "TRAILER" => header().map(|(first, second)| Operator::Trailer(first, second))?,
        "START_TIME" => Operator::StartTime(match argument {
            None | Some("") => TimeFormat::Rfc3339Millis,
            Some(format) => TimeFormat::Strftime(format.into()),
        }),
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Operator::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailure,
        "RESPONSE_FLAGS" => Operator::Flags,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "REQUEST_DURATION" => Operator::RequestDuration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "RESPONSE_TX_DURATION" => Operator::ResponseTransmitDuration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => Operator::Address(UpstreamLocal, Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::Address(UpstreamLocal, WithoutPort),
        "UPSTREAM_LOCAL_PORT" => Operator::Address(UpstreamLocal, Port),
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::Address(DownstreamLocal, Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::Address(DownstreamLocal, WithoutPort),
        "DOWNSTREAM_LOCAL_PORT" => Operator::Address(DownstreamLocal, Port),
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::Address(DownstreamRemote, Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::Address(DownstreamRemote, WithoutPort),
        "DOWNSTREAM_REMOTE_PORT" => Operator::Address(DownstreamRemote, Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::Address(DownstreamDirect, Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::Address(DownstreamDirect, WithoutPort),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => Operator::Address(DownstreamDirect, Port),
        "REQUESTED_SERVER_NAME" => Operator::ServerName,
        "ROUTE_NAME" => Operator::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Operator::Absent,
        "VIRTUAL_HOST_NAME" => Operator::VirtualHost,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Attempts,
        "GRPC_STATUS" => Operator::GrpcStatus(matches!(argument, None | Some("" | "CAMEL_STRING"))),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(false),
        "HOSTNAME" => Operator::Hostname,
        "DYNAMIC_METADATA"
        | "CLUSTER_METADATA"
        | "UPSTREAM_METADATA"
        | "METADATA"
        | "FILTER_STATE"
        | "UPSTREAM_FILTER_STATE"
        | "ENVIRONMENT"
        | "TRACE_ID"
        | "STREAM_ID"
        | "CONNECTION_ID"
        | "UPSTREAM_CONNECTION_ID"
        | "FILTER_CHAIN_NAME"
        | "ACCESS_LOG_TYPE"
        | "EMIT_TIME"
        | "UNIQUE_ID"
        | "LOCAL_REPLY_BODY"
        | "PER_REQUEST_STATE"
        | "COMMON_DURATION"
        | "RESPONSE_FLAGS_LONG" => Operator::Absent,
        _ if name.starts_with("DOWNSTREAM_") || name.starts_with("UPSTREAM_") => Operator::Absent,
        _ => return Err(format!("%{text}%: there is no operator `{name}`")),
    };
    Ok(Part::Operator { operator, limit })
}

/// Names of gRPC statuses in the camel case of Envoy's logs.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Operator {
    /// Writes the value; none where there is none.
    fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) -> Option<()> {
        let info = source.info;
        match self {
            Self::Request(first, second) => out.extend_from_slice(request_field(source, first, second)?),
            Self::RequestWithoutQuery(first, second) => {
                out.extend_from_slice(split_query(request_field(source, first, second)?).0);
            }
            Self::Response(first, second) => {
                let head = source.response?;
                if &first[..] == b":status" {
                    let _ = write!(out, "{}", head.status);
                } else {
                    out.extend_from_slice(either(&head.headers, first, second)?);
                }
            }
            Self::Trailer(first, second) => out.extend_from_slice(either(source.trailers?, first, second)?),
            Self::StartTime(format) => write_time(info.start_time, format, out),
            Self::Protocol => out.extend_from_slice(info.protocol?.as_str().as_bytes()),
            Self::ResponseCode => write_number(out, u128::from(info.response_code)),
            Self::ResponseCodeDetails => out.extend_from_slice(info.response_code_details?.as_bytes()),
            Self::ConnectionTerminationDetails => {
                out.extend_from_slice(info.connection_termination_details?.as_bytes());
            }
            Self::UpstreamTransportFailure => {
                // Blanks would break a log line that is split at them.
                out.extend(
                    info.upstream_transport_failure
                        .as_ref()?
                        .bytes()
                        .map(|b| if b == b' ' { b'_' } else { b }),
                );
            }
            Self::Flags => info.flags.write(out),
            Self::BytesReceived => write_number(out, u128::from(info.bytes_received)),
            Self::BytesSent => write_number(out, u128::from(info.bytes_sent)),
            Self::Duration => write_number(out, info.duration?.as_millis()),
            Self::RequestDuration => write_number(out, info.request_duration?.as_millis()),
            Self::ResponseDuration => write_number(out, info.response_duration?.as_millis()),
            Self::ResponseTransmitDuration => {
                write_number(out, info.duration?.saturating_sub(info.response_duration?).as_millis());
            }
            Self::UpstreamHost => out.extend_from_slice(info.upstream_host.as_ref()?.as_bytes()),
            Self::UpstreamCluster => out.extend_from_slice(info.upstream_cluster.as_ref()?.as_bytes()),
            Self::Address(which, part) => write_address(address(info, *which)?, *part, out),
            Self::ServerName => out.extend_from_slice(info.server_name.as_ref()?.as_bytes()),
            Self::RouteName => out.extend_from_slice(not_empty(info.route_name.as_deref())?.as_bytes()),
            Self::VirtualHost => out.extend_from_slice(info.virtual_host.as_ref()?.as_bytes()),
            Self::Attempts => write_number(out, u128::from(info.attempts)),
            Self::GrpcStatus(named) => {
                let value = source
                    .trailers
                    .and_then(|trailers| trailers.get("grpc-status"))
                    .or_else(|| source.response?.headers.get("grpc-status"))?;
                let number: usize = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
                match GRPC_STATUSES.get(number) {
                    Some(text) if *named => out.extend_from_slice(text.as_bytes()),
                    _ => write_number(out, number as u128),
                }
            }
            Self::Hostname => out.extend_from_slice(source.hostname.as_bytes()),
            Self::Absent => return None,
        }
        Some(())
    }
}

fn not_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn request_field<'a>(source: &Source<'a>, first: &[u8], second: &Option<Box<[u8]>>) -> Option<&'a [u8]> {
    let head = source.request?;
    head.field(first).or_else(|| head.field(second.as_deref()?))
}

fn either<'a>(headers: &'a Headers, first: &[u8], second: &Option<Box<[u8]>>) -> Option<&'a [u8]> {
    headers.get(first).or_else(|| headers.get(second.as_deref()?))
}

fn address(info: &StreamInfo, which: Which) -> Option<SocketAddr> {
    match which {
        Which::UpstreamLocal => info.upstream_local_address,
        Which::DownstreamLocal => info.downstream_local_address,
        Which::DownstreamRemote => info.downstream_remote_address,
        Which::DownstreamDirect => info.downstream_direct_address,
    }
}

fn write_address(address: SocketAddr, part: AddressPart, out: &mut Vec<u8>) {
    let _ = match part {
        AddressPart::Whole => write!(out, "{address}"),
        AddressPart::WithoutPort => write!(out, "{}", address.ip()),
        AddressPart::Port => write!(out, "{}", address.port()),
    };
}

/// Appends a decimal number.
pub fn write_number(out: &mut Vec<u8>, number: u128) {
    let _ = write!(out, "{number}");
}

fn write_time(since_epoch: std::time::Duration, format: &TimeFormat, out: &mut Vec<u8>) {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let format = match format {
        TimeFormat::Rfc3339Millis => {
            let millis = since_epoch.subsec_millis();
            let _ =
                write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
            return;
        }
        TimeFormat::Strftime(format) => format,
    };
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            let _ = write!(out, "{character}");
            continue;
        }
        let digits: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
        let _ = match rest.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('F') => write!(out, "{year:04}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('s') => write!(out, "{seconds}"),
            Some('f') => {
                let places = digits.parse::<usize>().unwrap_or(9).clamp(1, 9);
                let nanos = format!("{:09}", since_epoch.subsec_nanos());
                out.write_all(&nanos.as_bytes()[..places])
            }
            Some('z') => write!(out, "+0000"),
            Some('Z') => write!(out, "UTC"),
            Some(other) => write!(out, "%{digits}{other}"),
            None => write!(out, "%"),
        };
    }
}

/// Year, month, day of a day since the epoch (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn render(format: &str) -> String {
        let mut request = RequestHead::new("GET", "reviews", "/a?b");
        request.headers.append("user-agent", "curl");
        let mut response = ResponseHead::new(200);
        response.headers.append("server", "x");
        let info = StreamInfo {
            start_time: Duration::from_millis(1_763_634_672_045),
            protocol: Some(crate::stream_info::Protocol::Http11),
            response_code: 200,
            duration: Some(Duration::from_micros(12_900)),
            upstream_host: Some("10.0.0.1:80".into()),
            downstream_local_address: "10.1.2.3:9080".parse().ok(),
            ..StreamInfo::default()
        };
        let source = Source {
            info: &info,
            request: Some(&request),
            response: Some(&response),
            trailers: None,
            hostname: "pod",
        };
        let mut out = Vec::new();
        Format::compile(format).unwrap().write(&source, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn operators() {
        for (format, expect) in [
            ("plain 100%%", "plain 100%"),
            ("%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%", "GET /a?b HTTP/1.1"),
            ("%REQ(nope)%|%REQ(user-agent):2%", "-|cu"),
            ("%RESPONSE_CODE% %RESPONSE_FLAGS% %DURATION%", "200 - 12"),
            ("%START_TIME%", "2025-11-20T10:31:12.045Z"),
            ("%START_TIME(%Y/%m/%d %H.%3f)%", "2025/11/20 10.045"),
            ("%UPSTREAM_HOST% %DOWNSTREAM_LOCAL_PORT% %RESP(SERVER)% %HOSTNAME%", "10.0.0.1:80 9080 x pod"),
            ("%REQ_WITHOUT_QUERY(:PATH)%", "/a"),
            ("%DYNAMIC_METADATA(a:b)%", "-"),
        ] {
            assert_eq!(render(format), expect, "{format}");
        }
        assert!(Format::compile(ISTIO_DEFAULT).is_ok() && Format::compile(ENVOY_DEFAULT).is_ok());
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for format in ["%NO_SUCH%", "%REQ%", "%REQ(a", "100%", "%REQ(a):x%"] {
            assert!(Format::compile(format).is_err(), "{format}");
        }
    }
}
