//! Envoy's format strings: access log lines and header values with `%OPERATORS%`, compiled once.
//!
//! Source of the operators: Envoy's "Access logging" page, "Command operators"; where the page is silent, what Envoy
//! 1.40 does.

mod json;
mod operator;
mod parse;
mod time;

pub use json::JsonFormat;
use operator::Operator;
pub(crate) use operator::{grpc_status_number, wire_bytes, write_details};

use crate::head::{Headers, RequestHead, ResponseHead};
use crate::outside::Outside;
use crate::stream_info::StreamInfo;

/// A compiled format string.
#[derive(Debug, Clone, Default)]
pub struct Format {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Literal(Box<[u8]>),
    Operator(Limited),
}

/// An operator, and how many bytes of its value are taken.
#[derive(Debug, Clone)]
struct Limited {
    operator: Operator,
    limit: Option<usize>,
}

impl Limited {
    /// Appends the value; false where there is none.
    fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if self.operator.write(source, out).is_none() {
            out.truncate(start);
            return false;
        }
        if let Some(limit) = self.limit
            && out.len() > start + limit
        {
            // A character is not cut in two.
            let mut end = start + limit;
            while end > start && out[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            out.truncate(end);
        }
        true
    }
}

/// What makes a line be written (`%ACCESS_LOG_TYPE%`, `envoy.data.accesslog.v3.AccessLogType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogType {
    /// Nothing that is known.
    NotSet,
    /// A TCP connection is established upstream.
    TcpUpstreamConnected,
    /// Now and then while a TCP connection lives.
    TcpPeriodic,
    /// The end of a TCP connection.
    TcpConnectionEnd,
    /// A new request.
    DownstreamStart,
    /// Now and then while a request lives.
    DownstreamPeriodic,
    /// The end of a request.
    #[default]
    DownstreamEnd,
    /// The upstream connection of a request is there.
    UpstreamPoolReady,
    /// Now and then, from the upstream's log.
    UpstreamPeriodic,
    /// The end of a request, from the upstream's log.
    UpstreamEnd,
    /// A tunnel is established.
    DownstreamTunnelSuccessfullyEstablished,
}

impl LogType {
    /// As in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::UpstreamPoolReady => "UpstreamPoolReady",
            Self::UpstreamPeriodic => "UpstreamPeriodic",
            Self::UpstreamEnd => "UpstreamEnd",
            Self::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
        }
    }

    /// The number in `envoy.data.accesslog.v3.AccessLogType`.
    pub fn number(self) -> i32 {
        self as i32
    }
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
        parse::format(text)
    }

    /// As [`compile`](Self::compile), with the variables of the environment that the text names.
    pub fn compile_in(text: &str, outside: &dyn Outside) -> Result<Self, String> {
        let mut format = parse::format(text)?;
        for part in &mut format.parts {
            if let Part::Operator(limited) = part
                && let Operator::Environment(name) = &limited.operator
                && let Some(value) = outside.variable(name)
            {
                limited.operator = Operator::Fixed(value.into_bytes().into());
            }
        }
        Ok(format)
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

    /// The operator, where there is nothing else.
    fn as_operator(&self) -> Option<&Limited> {
        match &self.parts[..] {
            [Part::Operator(operator)] => Some(operator),
            _ => None,
        }
    }

    /// Appends the text; what is not known becomes `-`.
    pub fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) {
        self.render(source, out, b"-");
    }

    /// The value of a header: what is not known becomes nothing. So it does in logs with `omit_empty_values`.
    pub fn header_value(&self, source: &Source<'_>, out: &mut Vec<u8>) {
        self.render(source, out, b"");
    }

    fn render(&self, source: &Source<'_>, out: &mut Vec<u8>, missing: &[u8]) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator(operator) => {
                    if !operator.write(source, out) {
                        out.extend_from_slice(missing);
                    }
                }
            }
        }
    }
}

/// Appends a decimal number.
pub fn write_number(out: &mut Vec<u8>, number: u128) {
    let Ok(mut number) = u64::try_from(number) else {
        out.extend_from_slice(number.to_string().as_bytes());
        return;
    };
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
