//! Access logs: where a line goes, how it looks, and which requests have one.

use std::sync::Arc;
use std::time::Duration;

use crate::format::{Format, JsonFormat, LogType, Source, grpc_status_number};
use crate::matcher::HeaderMatcher;
use crate::route::Fraction;
use crate::stream_info::ResponseFlags;
use crate::value_matcher::MetadataMatcher;

/// Where and how requests are logged.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// The file.
    pub path: Arc<str>,
    /// The line.
    pub format: LogFormat,
    /// Which requests.
    pub filter: Option<LogFilter>,
}

/// The shape of a log line.
#[derive(Debug, Clone)]
pub enum LogFormat {
    /// Text, with its own line end.
    Text {
        /// The text.
        format: Format,
        /// Whether what is not known becomes nothing rather than `-`.
        omit_empty: bool,
    },
    /// An object a line.
    Json {
        /// The object.
        format: JsonFormat,
        /// Whether keys without a value are left out.
        omit_empty: bool,
    },
}

impl LogFormat {
    /// Appends a line.
    pub fn write(&self, source: &Source<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text { format, omit_empty: false } => format.write(source, out),
            Self::Text { format, omit_empty: true } => format.header_value(source, out),
            Self::Json { format, omit_empty } => {
                format.write(source, *omit_empty, out);
                out.push(b'\n');
            }
        }
    }
}

/// When lines are written besides at the end (`HttpConnectionManager.access_log_options`, `TcpProxy.access_log_options`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// A line when a request comes.
    pub on_new_request: bool,
    /// A line each time this has passed.
    pub interval: Option<Duration>,
    /// A line when a tunnel, or the upstream connection of a TCP proxy, is there.
    pub on_established: bool,
}

/// Which requests are logged (`envoy.config.accesslog.v3.AccessLogFilter`).
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// Status compared: `(operator, status)`.
    Status(Comparison, u32),
    /// Milliseconds compared.
    Duration(Comparison, u32),
    /// No health checks.
    NotHealthCheck,
    /// Those that would be traced.
    Traceable,
    /// A share.
    Share(Fraction),
    /// A header.
    Header(Box<HeaderMatcher>),
    /// Any response flag of these; none: any flag at all.
    Flags(Option<ResponseFlags>),
    /// A gRPC status of these, or none of these.
    GrpcStatus {
        /// Numbers.
        statuses: Vec<u32>,
        /// Whether these are the ones that are not logged.
        exclude: bool,
    },
    /// Dynamic metadata.
    Metadata(Box<MetadataMatcher>, bool),
    /// The reason why a line is written is one of these, or none of these.
    LogType {
        /// Reasons.
        types: Vec<LogType>,
        /// Whether these are the ones that are not logged.
        exclude: bool,
    },
    /// All hold.
    And(Vec<LogFilter>),
    /// One holds.
    Or(Vec<LogFilter>),
}

/// How numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Greater or equal.
    AtLeast,
    /// Less or equal.
    AtMost,
    /// Not equal.
    NotEqual,
}

impl Comparison {
    fn holds(self, value: u64, with: u32) -> bool {
        let with = u64::from(with);
        match self {
            Self::Equal => value == with,
            Self::AtLeast => value >= with,
            Self::AtMost => value <= with,
            Self::NotEqual => value != with,
        }
    }
}

/// Whether the request id says that the request is traced: its fourteenth digit is 9, a or b.
fn is_traced(head: &crate::head::RequestHead) -> bool {
    let id = head.headers.get("x-request-id");
    id.is_some_and(|id| id.len() == 36 && matches!(id[14], b'9' | b'a' | b'b'))
}

impl LogFilter {
    /// Whether a request is logged.
    pub fn passes(&self, source: &Source<'_>, random: u64) -> bool {
        let info = source.info;
        match self {
            Self::Status(comparison, with) => comparison.holds(u64::from(info.response_code), *with),
            Self::Duration(comparison, with) => {
                comparison.holds(info.duration.unwrap_or_default().as_millis() as u64, *with)
            }
            Self::NotHealthCheck => !info.is_health_check,
            Self::Traceable => source.request.is_some_and(is_traced),
            Self::Share(fraction) => fraction.contains(random),
            Self::Header(matcher) => source.request.is_some_and(|head| matcher.matches(head)),
            Self::Flags(None) => !info.flags.is_empty(),
            Self::Flags(Some(flags)) => info.flags.any(*flags),
            Self::GrpcStatus { statuses, exclude } => {
                grpc_status_number(source, false).is_some_and(|status| statuses.contains(&status)) != *exclude
            }
            Self::Metadata(matcher, if_missing) => matcher.matches(&info.metadata).unwrap_or(*if_missing),
            Self::LogType { types, exclude } => types.contains(&info.log_type) != *exclude,
            Self::And(filters) => filters.iter().all(|filter| filter.passes(source, random)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(source, random)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::RequestHead;
    use crate::stream_info::StreamInfo;

    #[test]
    fn filters() {
        use Comparison::{AtLeast, AtMost, Equal, NotEqual};
        let mut request = RequestHead::new("GET", "a", "/");
        request.headers.append("content-type", "application/grpc");
        let mut info = StreamInfo { response_code: 503, ..StreamInfo::default() };
        info.duration = Some(Duration::from_millis(30));
        info.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
        let source =
            Source { info: &info, request: Some(&request), response: None, trailers: None, hostname: "" };
        let no = || LogFilter::Status(Equal, 1);
        let yes = || LogFilter::Status(Equal, 503);
        for (name, filter, expect) in [
            ("equal", yes(), true),
            ("at least", LogFilter::Status(AtLeast, 500), true),
            ("at most", LogFilter::Status(AtMost, 500), false),
            ("not equal", LogFilter::Status(NotEqual, 503), false),
            ("slow", LogFilter::Duration(AtLeast, 30), true),
            ("slower", LogFilter::Duration(AtLeast, 31), false),
            ("no health check", LogFilter::NotHealthCheck, true),
            ("not traced", LogFilter::Traceable, false),
            ("share of none", LogFilter::Share(Fraction { numerator: 0, denominator: 100 }), false),
            ("share of all", LogFilter::Share(Fraction::ALL), true),
            ("any flag", LogFilter::Flags(None), true),
            ("this flag", LogFilter::Flags(ResponseFlags::parse("UH")), true),
            ("other flag", LogFilter::Flags(ResponseFlags::parse("UO")), false),
            ("grpc", LogFilter::GrpcStatus { statuses: vec![14], exclude: false }, true),
            ("grpc excluded", LogFilter::GrpcStatus { statuses: vec![14], exclude: true }, false),
            ("type", LogFilter::LogType { types: vec![LogType::DownstreamEnd], exclude: false }, true),
            (
                "type excluded",
                LogFilter::LogType { types: vec![LogType::DownstreamEnd], exclude: true },
                false,
            ),
            ("and", LogFilter::And(vec![yes(), no()]), false),
            ("or", LogFilter::Or(vec![no(), yes()]), true),
        ] {
            assert_eq!(filter.passes(&source, 7), expect, "{name}");
        }
    }
}
