//! From `%OPERATOR(ARGUMENT):LENGTH%` to what it means.

use super::operator::{
    AddressPart, CertificatePart, GrpcFormat, HeaderNames, HostPart, MetadataOf, Number, Operator, PathFrom,
    Point, Span, TlsPart, Which,
};
use super::time::TimeFormat;
use super::{Format, Limited, Part};

/// An operator taken apart, not yet understood.
struct Command<'a> {
    text: &'a str,
    name: &'a str,
    argument: Option<&'a str>,
    limit: Option<usize>,
}

pub(super) fn format(text: &str) -> Result<Format, String> {
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
        let command = command(&rest[..end])?;
        let limit = command.limit;
        let operator = command.compile()?;
        parts.push(Part::Operator(Limited { operator, limit }));
        rest = &rest[end + 1..];
    }
    literal.extend_from_slice(rest.as_bytes());
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(Format { parts })
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

fn command(text: &str) -> Result<Command<'_>, String> {
    let (name, argument, limit) = match text.find('(') {
        Some(open) => {
            let close = text.rfind(')').ok_or_else(|| format!("%{text}%: a parenthesis is not closed"))?;
            let rest = &text[close + 1..];
            if !rest.is_empty() && !rest.starts_with(':') {
                return Err(format!(
                    "%{text}%: `{rest}` follows the parenthesis; write `:` and a length, or nothing"
                ));
            }
            (&text[..open], Some(&text[open + 1..close]), rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((name, limit)) => (name, None, Some(limit)),
            None => (text, None, None),
        },
    };
    let valid = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if name.is_empty() || !name.bytes().all(valid) {
        return Err(format!("`%{text}%` is not an operator; write `%%` for a percent sign"));
    }
    let limit = match limit {
        Some(limit) => {
            Some(limit.parse().map_err(|_| format!("%{text}%: `{limit}` is not a maximum length in bytes"))?)
        }
        None => None,
    };
    Ok(Command { text, name, argument, limit })
}

impl Command<'_> {
    fn compile(&self) -> Result<Operator, String> {
        if let Some(operator) = self.plain() {
            if self.argument.is_some() || self.limit.is_some() {
                return Err(format!("{} does not take any parameters or length", self.name));
            }
            return Ok(operator);
        }
        match self.with_argument() {
            Some(operator) => operator,
            None if self.name == "CEL" => Err(
                "Not supported field in StreamInfo: CEL (the expression language is not built in; use the operators \
                 of the fields themselves)"
                    .to_owned(),
            ),
            None => Err(format!("Not supported field in StreamInfo: {}", self.name)),
        }
    }

    /// Operators without an argument.
    fn plain(&self) -> Option<Operator> {
        use Number as N;
        use Point as P;
        Some(match self.name {
            "PROTOCOL" => Operator::Protocol,
            "UPSTREAM_PROTOCOL" => Operator::UpstreamProtocol,
            "RESPONSE_CODE" => Operator::ResponseCode,
            "CONNECTION_TERMINATION_DETAILS" => Operator::ConnectionTerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Operator::UpstreamTransportFailure,
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Operator::DownstreamTransportFailure,
            "RESPONSE_FLAGS" => Operator::Flags,
            "RESPONSE_FLAGS_LONG" => Operator::FlagsLong,
            "BYTES_RECEIVED" => Operator::Number(N::BytesReceived),
            "BYTES_SENT" => Operator::Number(N::BytesSent),
            "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => Operator::Number(N::Zero),
            "REQUEST_HEADERS_BYTES" => Operator::Number(N::RequestHeaders),
            "RESPONSE_HEADERS_BYTES" => Operator::Number(N::ResponseHeaders),
            "RESPONSE_TRAILERS_BYTES" => Operator::Number(N::ResponseTrailers),
            "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Operator::Number(N::DownstreamWireReceived),
            "DOWNSTREAM_WIRE_BYTES_SENT" => Operator::Number(N::DownstreamWireSent),
            "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
                Operator::Number(N::DownstreamHeaderReceived)
            }
            "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
                Operator::Number(N::DownstreamHeaderSent)
            }
            "UPSTREAM_WIRE_BYTES_RECEIVED" => Operator::Number(N::UpstreamWireReceived),
            "UPSTREAM_WIRE_BYTES_SENT" => Operator::Number(N::UpstreamWireSent),
            "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
                Operator::Number(N::UpstreamHeaderReceived)
            }
            "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
                Operator::Number(N::UpstreamHeaderSent)
            }
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::Number(N::Attempts),
            "CONNECTION_ID" => Operator::Number(N::ConnectionId),
            "UPSTREAM_CONNECTION_ID" => Operator::Number(N::UpstreamConnectionId),
            "DURATION" => Span::millis(P::DownstreamReceiveBegin, P::DownstreamSendEnd),
            "REQUEST_DURATION" => Span::millis(P::DownstreamReceiveBegin, P::DownstreamReceiveEnd),
            "REQUEST_TX_DURATION" => Span::millis(P::DownstreamReceiveBegin, P::UpstreamSendEnd),
            "RESPONSE_DURATION" => Span::millis(P::DownstreamReceiveBegin, P::UpstreamReceiveBegin),
            "RESPONSE_TX_DURATION" => Span::millis(P::UpstreamReceiveBegin, P::DownstreamSendEnd),
            "DOWNSTREAM_HANDSHAKE_DURATION" => {
                Span::millis(P::DownstreamReceiveBegin, P::DownstreamHandshakeEnd)
            }
            "UPSTREAM_CONNECTION_POOL_READY_DURATION" => {
                Span::millis(P::DownstreamReceiveBegin, P::PoolReady)
            }
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Operator::Host(HostPart::Address),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::Host(HostPart::AddressWithoutPort),
            "UPSTREAM_REMOTE_PORT" => Operator::Host(HostPart::Port),
            "UPSTREAM_HOST_NAME" => Operator::Host(HostPart::Name),
            "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Operator::Host(HostPart::NameWithoutPort),
            "UPSTREAM_CLUSTER" => Operator::UpstreamCluster,
            "UPSTREAM_CLUSTER_RAW" => Operator::UpstreamClusterRaw,
            "ROUTE_NAME" => Operator::RouteName,
            "VIRTUAL_CLUSTER_NAME" => Operator::VirtualCluster,
            // Not Envoy's; kept, since it was here before.
            "VIRTUAL_HOST_NAME" => Operator::VirtualHost,
            "FILTER_CHAIN_NAME" => Operator::FilterChain,
            "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcFormat::Number),
            "HOSTNAME" => Operator::Hostname,
            "STREAM_ID" => Operator::StreamId,
            "UNIQUE_ID" => Operator::UniqueId,
            "TRACE_ID" => Operator::TraceId,
            "LOCAL_REPLY_BODY" => Operator::LocalReplyBody,
            "ACCESS_LOG_TYPE" => Operator::LogType,
            "CUSTOM_FLAGS" => Operator::CustomFlags,
            "QUERY_PARAMS" => Operator::Query,
            "TLS_JA3_FINGERPRINT" => Operator::Tls { upstream: false, part: TlsPart::Ja3 },
            "TLS_JA4_FINGERPRINT" => Operator::Tls { upstream: false, part: TlsPart::Ja4 },
            "UPSTREAM_SERVER_NAME" => Operator::Tls { upstream: true, part: TlsPart::ServerName },
            "SPAN_ID"
            | "ROUNDTRIP_DURATION"
            | "UPSTREAM_HOSTS_ATTEMPTED"
            | "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT"
            | "UPSTREAM_HOST_NAMES_ATTEMPTED"
            | "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT"
            | "UPSTREAM_CONNECTION_IDS_ATTEMPTED"
            | "UPSTREAM_DETECTED_CLOSE_TYPE"
            | "DOWNSTREAM_DETECTED_CLOSE_TYPE"
            | "UPSTREAM_LOCAL_CLOSE_REASON"
            | "DOWNSTREAM_LOCAL_CLOSE_REASON"
            | "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_REMOTE_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_ENDPOINT_ID"
            | "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1"
            | "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256"
            | "DOWNSTREAM_PEER_CHAIN_SERIALS"
            | "DOWNSTREAM_LOCAL_OTHERNAME_SAN"
            | "DOWNSTREAM_PEER_OTHERNAME_SAN" => Operator::Absent,
            name => self.address(name).or_else(|| tls(name))?,
        })
    }

    /// Addresses; those without a port may be cut to a network.
    fn address(&self, name: &str) -> Option<Operator> {
        const NAMES: [(&str, Which); 5] = [
            ("UPSTREAM_LOCAL", Which::UpstreamLocal),
            ("DOWNSTREAM_LOCAL", Which::DownstreamLocal),
            ("DOWNSTREAM_DIRECT_LOCAL", Which::DownstreamDirectLocal),
            ("DOWNSTREAM_REMOTE", Which::DownstreamRemote),
            ("DOWNSTREAM_DIRECT_REMOTE", Which::DownstreamDirect),
        ];
        NAMES.into_iter().find_map(|(beginning, which)| {
            let part = match name.strip_prefix(beginning)? {
                "_ADDRESS" => AddressPart::Whole,
                "_ADDRESS_WITHOUT_PORT" if self.argument.is_none() => AddressPart::WithoutPort,
                "_PORT" => AddressPart::Port,
                _ => return None,
            };
            Some(Operator::Address(which, part))
        })
    }

    /// Operators that take an argument, or may take one.
    fn with_argument(&self) -> Option<Result<Operator, String>> {
        let argument = self.argument.filter(|argument| !argument.is_empty());
        let needed = || argument.ok_or_else(|| format!("{} requires parameters", self.name));
        let header = || needed().map(header_names);
        Some(match self.name {
            "REQ" => header().map(Operator::Request),
            "REQ_WITHOUT_QUERY" => header().map(Operator::RequestWithoutQuery),
            "RESP" => header().map(Operator::Response),
            "TRAILER" => header().map(Operator::Trailer),
            "START_TIME" | "START_TIME_LOCAL" | "EMIT_TIME" | "EMIT_TIME_LOCAL" => self.time(argument),
            "RESPONSE_CODE_DETAILS" => match argument {
                None => Ok(Operator::ResponseCodeDetails(false)),
                Some("ALLOW_WHITESPACES") => Ok(Operator::ResponseCodeDetails(true)),
                Some(other) => Err(format!("%{}%: `{other}` is not known; ALLOW_WHITESPACES is", self.text)),
            },
            "COMMON_DURATION" => needed().and_then(|argument| self.span(argument)),
            "GRPC_STATUS" => match argument {
                None | Some("CAMEL_STRING") => Ok(Operator::GrpcStatus(GrpcFormat::Camel)),
                Some("SNAKE_STRING") => Ok(Operator::GrpcStatus(GrpcFormat::Snake)),
                Some("NUMBER") => Ok(Operator::GrpcStatus(GrpcFormat::Number)),
                Some(_) => {
                    Err("GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER.".to_owned())
                }
            },
            "DYNAMIC_METADATA" => needed().map(|argument| metadata(MetadataOf::Dynamic, argument)),
            "CLUSTER_METADATA" => needed().map(|argument| metadata(MetadataOf::Cluster, argument)),
            "UPSTREAM_METADATA" => needed().map(|argument| metadata(MetadataOf::Host, argument)),
            "METADATA" => needed().and_then(typed_metadata),
            "FILTER_STATE" => needed()
                .map(|argument| Operator::FilterState(argument.split(':').next().unwrap_or_default().into())),
            "UPSTREAM_FILTER_STATE" => needed().map(|_| Operator::Absent),
            "ENVIRONMENT" => needed().map(|name| Operator::Environment(name.into())),
            "QUERY_PARAM" => needed().map(|name| Operator::QueryParameter(name.as_bytes().into())),
            "PATH" => self.path(argument),
            "REQUESTED_SERVER_NAME" => self.server_name(argument),
            "DOWNSTREAM_PEER_CERT_V_START" => {
                Ok(certificate(false, CertificatePart::Begin(peer_time(argument))))
            }
            "DOWNSTREAM_PEER_CERT_V_END" => Ok(certificate(false, CertificatePart::End(peer_time(argument)))),
            "UPSTREAM_PEER_CERT_V_START" => {
                Ok(certificate(true, CertificatePart::Begin(peer_time(argument))))
            }
            "UPSTREAM_PEER_CERT_V_END" => Ok(certificate(true, CertificatePart::End(peer_time(argument)))),
            name => {
                let whole = name.strip_suffix("_WITHOUT_PORT")?;
                let bits = argument?.trim_start_matches('/').parse::<u8>();
                let Operator::Address(which, _) =
                    (Command { argument: None, name: whole, ..*self }).address(whole)?
                else {
                    return None;
                };
                match bits {
                    Ok(bits) => Ok(Operator::Address(which, AddressPart::Network(bits))),
                    Err(_) => Err(format!("%{}%: the argument is the length of a prefix", self.text)),
                }
            }
        })
    }

    fn time(&self, argument: Option<&str>) -> Result<Operator, String> {
        if self.limit.is_some() {
            return Err(format!("{} does not allow length to be specified.", self.name));
        }
        let format = TimeFormat::compile(argument);
        // Local time is UTC here: a proxy in a container has no other.
        Ok(if self.name.starts_with("START") {
            Operator::StartTime(format)
        } else {
            Operator::EmitTime(format)
        })
    }

    fn span(&self, argument: &str) -> Result<Operator, String> {
        let mut parts = argument.split(':');
        let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
            return Err(format!("%{}%: write COMMON_DURATION(START:END:PRECISION)", self.text));
        };
        let unit = match parts.next() {
            None | Some("ms") => 1_000_000,
            Some("us") => 1000,
            Some("ns") => 1,
            Some(other) => return Err(format!("%{}%: `{other}` is none of ms, us and ns", self.text)),
        };
        let point = |name| point(name).ok_or_else(|| format!("%{}%: there is no time `{name}`", self.text));
        Ok(Operator::Duration(Span { from: point(from)?, to: point(to)?, unit }))
    }

    fn path(&self, argument: Option<&str>) -> Result<Operator, String> {
        let mut parts = argument.unwrap_or_default().split(':');
        let query = match parts.next() {
            None | Some("" | "WQ") => true,
            Some("NQ") => false,
            Some(other) => return Err(format!("Invalid PATH option: '{other}', only 'WQ'/'NQ' are allowed")),
        };
        let original = match parts.next() {
            None | Some("" | "ORIG_OR_PATH") => PathFrom::OriginalOrPath,
            Some("ORIG") => PathFrom::Original,
            Some("PATH") => PathFrom::Path,
            Some(other) => {
                return Err(format!(
                    "Invalid PATH option: '{other}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"
                ));
            }
        };
        Ok(Operator::Path { original, query })
    }

    fn server_name(&self, argument: Option<&str>) -> Result<Operator, String> {
        let known = ["SNI_ONLY", "SNI_FIRST", "HOST_ONLY", "HOST_FIRST", "ORIG", "HOST"];
        match argument.into_iter().flat_map(|argument| argument.split(':')).find(|part| !known.contains(part))
        {
            Some(other) => Err(format!("%{}%: `{other}` is not known", self.text)),
            None => match argument.map(|argument| argument.split(':').next().unwrap_or_default()) {
                Some("HOST_ONLY" | "HOST_FIRST") => Ok(Operator::Request((b":authority"[..].into(), None))),
                _ => Ok(Operator::ServerName),
            },
        }
    }
}

fn header_names(argument: &str) -> HeaderNames {
    let lower = argument.to_ascii_lowercase();
    match lower.split_once('?') {
        Some((first, second)) => (first.as_bytes().into(), Some(second.as_bytes().into())),
        None => (lower.as_bytes().into(), None),
    }
}

fn point(name: &str) -> Option<Point> {
    Some(match name {
        "DS_RX_BEG" => Point::DownstreamReceiveBegin,
        "DS_RX_END" => Point::DownstreamReceiveEnd,
        "US_CX_BEG" => Point::UpstreamConnectBegin,
        "US_CX_END" => Point::UpstreamConnectEnd,
        "US_HS_END" => Point::UpstreamHandshakeEnd,
        "US_TX_BEG" => Point::UpstreamSendBegin,
        "US_TX_END" => Point::UpstreamSendEnd,
        "US_RX_BEG" => Point::UpstreamReceiveBegin,
        "US_RX_END" => Point::UpstreamReceiveEnd,
        "DS_TX_BEG" => Point::DownstreamSendBegin,
        "DS_TX_END" => Point::DownstreamSendEnd,
        _ => return None,
    })
}

fn metadata(of: MetadataOf, argument: &str) -> Operator {
    let mut parts = argument.split(':');
    let filter = parts.next().unwrap_or_default().into();
    Operator::Metadata(of, filter, parts.map(Into::into).collect())
}

fn typed_metadata(argument: &str) -> Result<Operator, String> {
    let (kind, rest) = argument.split_once(':').unwrap_or((argument, ""));
    let of = match kind {
        "DYNAMIC" => MetadataOf::Dynamic,
        "CLUSTER" => MetadataOf::Cluster,
        "UPSTREAM_HOST" => MetadataOf::Host,
        "ROUTE" => MetadataOf::Route,
        "VIRTUAL_HOST" => MetadataOf::VirtualHost,
        "LISTENER" => MetadataOf::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataOf::FilterChain,
        other => return Err(format!("{other} is not supported type of metadata")),
    };
    Ok(metadata(of, rest))
}

fn peer_time(argument: Option<&str>) -> TimeFormat {
    TimeFormat::compile(argument)
}

fn certificate(upstream: bool, part: CertificatePart) -> Operator {
    Operator::Certificate { upstream, peer: true, part }
}

/// What is known of TLS, on either side.
fn tls(name: &str) -> Option<Operator> {
    let (upstream, rest) = match name.strip_prefix("UPSTREAM_") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("DOWNSTREAM_")?),
    };
    let part = match rest {
        "TLS_VERSION" => Some(TlsPart::Version),
        "TLS_CIPHER" => Some(TlsPart::Cipher),
        "TLS_SESSION_ID" => Some(TlsPart::Session),
        _ => None,
    };
    if let Some(part) = part {
        return Some(Operator::Tls { upstream, part });
    }
    let (peer, rest) = match rest.strip_prefix("PEER_") {
        Some(rest) => (true, rest),
        None => (false, rest.strip_prefix("LOCAL_")?),
    };
    let part = match rest {
        "URI_SAN" => CertificatePart::Uri,
        "DNS_SAN" => CertificatePart::Dns,
        "IP_SAN" => CertificatePart::Ip,
        "EMAIL_SAN" if !upstream => CertificatePart::Email,
        "SUBJECT" if peer || !upstream => CertificatePart::Subject,
        "ISSUER" if peer => CertificatePart::Issuer,
        "CERT" if peer => CertificatePart::Pem,
        "SERIAL" if peer && !upstream => CertificatePart::Serial,
        "FINGERPRINT_1" if peer && !upstream => CertificatePart::Sha1,
        "FINGERPRINT_256" if peer && !upstream => CertificatePart::Sha256,
        _ => return None,
    };
    Some(Operator::Certificate { upstream, peer, part })
}
