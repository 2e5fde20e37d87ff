//! The `proxy-status` field (RFC 9209) of answers for which something went wrong here
//! (`HttpConnectionManager.proxy_status_config`).

use crate::format::write_details;
use crate::stream_info::{ResponseFlags, StreamInfo};

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Who tells it.
    pub name: ProxyName,
    /// Whether response code details are told.
    pub details: bool,
    /// Whether why the connection ended is told, too.
    pub termination: bool,
    /// Whether response flags are told, too.
    pub flags: bool,
    /// Whether the status becomes the one that RFC 9209 recommends.
    pub recommended_status: bool,
}

/// The name of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyName {
    /// The one in the `server` field.
    Server,
    /// The node's id.
    Node,
    /// This one.
    Literal(Box<str>),
}

/// A proxy error type of RFC 9209, and the status recommended for it.
type Kind = (&'static str, u16);

/// The error that a flag stands for; the first that is set counts.
const KINDS: [(ResponseFlags, Kind); 19] = [
    (ResponseFlags::FAILED_LOCAL_HEALTH_CHECK, ("destination_unavailable", 503)),
    (ResponseFlags::NO_HEALTHY_UPSTREAM, ("destination_unavailable", 503)),
    (ResponseFlags::UPSTREAM_TIMEOUT, ("http_response_timeout", 504)),
    (ResponseFlags::LOCAL_RESET, ("connection_timeout", 504)),
    (ResponseFlags::UPSTREAM_RESET, ("connection_terminated", 502)),
    (ResponseFlags::UPSTREAM_CONNECTION_FAILURE, ("connection_refused", 502)),
    (ResponseFlags::UPSTREAM_TERMINATION, ("connection_terminated", 502)),
    (ResponseFlags::UPSTREAM_OVERFLOW, ("connection_limit_reached", 503)),
    (ResponseFlags::NO_ROUTE, ("destination_not_found", 500)),
    (ResponseFlags::RATE_LIMITED, ("connection_limit_reached", 503)),
    (ResponseFlags::RATE_LIMIT_SERVICE_ERROR, ("connection_limit_reached", 503)),
    (ResponseFlags::RETRY_LIMIT, ("destination_unavailable", 503)),
    (ResponseFlags::STREAM_IDLE_TIMEOUT, ("http_response_timeout", 504)),
    (ResponseFlags::INVALID_HEADERS, ("http_request_error", 400)),
    (ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, ("http_request_error", 400)),
    (ResponseFlags::MAX_DURATION, ("http_response_timeout", 504)),
    (ResponseFlags::UPSTREAM_PROTOCOL_ERROR, ("http_protocol_error", 502)),
    (ResponseFlags::NO_CLUSTER, ("destination_unavailable", 503)),
    (ResponseFlags::DNS_FAILURE, ("dns_error", 502)),
];

impl ProxyStatus {
    /// The value of the field, and the status that is recommended; none where nothing went wrong. `server` and `node`
    /// are what the proxy may be known by.
    pub fn field(&self, info: &StreamInfo, server: &str, node: &str) -> Option<(Vec<u8>, u16)> {
        let (_, (kind, status)) = KINDS.iter().find(|(flag, _)| info.flags.has(*flag))?;
        let name = match &self.name {
            ProxyName::Server => server,
            ProxyName::Node => node,
            ProxyName::Literal(name) => name,
        };
        let mut out = format!("{name}; error={kind}").into_bytes();
        let mut details = Vec::new();
        if self.details && write_details(info, true, &mut details).is_some() {
            out.extend_from_slice(b"; details=\"");
            escape(&details, &mut out);
            if let Some(termination) = info.connection_termination_details.filter(|_| self.termination) {
                out.extend_from_slice(b"; ");
                escape(termination.as_bytes(), &mut out);
            }
            if self.flags {
                out.extend_from_slice(b"; ");
                info.flags.write(&mut out);
            }
            out.push(b'"');
        }
        Some((out, *status))
    }
}

fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        let all = ProxyStatus {
            name: ProxyName::Server,
            details: true,
            termination: true,
            flags: true,
            recommended_status: false,
        };
        let mut info = StreamInfo::default();
        assert_eq!(all.field(&info, "envoy", "n"), None);
        info.flags.set(ResponseFlags::NO_ROUTE);
        info.response_code_details = Some("route_not_found");
        let literal = ProxyName::Literal("mine".into());
        for (name, status, expect) in [
            ("all", all.clone(), "envoy; error=destination_not_found; details=\"route_not_found; NR\""),
            (
                "without flags",
                ProxyStatus { flags: false, name: ProxyName::Node, ..all.clone() },
                "n; error=destination_not_found; details=\"route_not_found\"",
            ),
            (
                "without details",
                ProxyStatus { details: false, name: literal, ..all.clone() },
                "mine; error=destination_not_found",
            ),
        ] {
            let (field, recommended) = status.field(&info, "envoy", "n").unwrap();
            assert_eq!((std::str::from_utf8(&field).unwrap(), recommended), (expect, 500), "{name}");
        }
    }
}
