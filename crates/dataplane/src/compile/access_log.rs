//! `AccessLog`: files and standard output, text and JSON, and which requests are logged.

use std::collections::BTreeMap;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::accesslog::v3 as proto;
use lateen_envoy::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::access_loggers::file::v3 as file;
use lateen_envoy::envoy::extensions::access_loggers::stream::v3 as stream;
use lateen_envoy::envoy::r#type::matcher::v3 as matcher;
use lateen_envoy::google::protobuf::{Any, Struct, Value, value::Kind};

use super::checked::unpack;
use super::common::{data_text, header, runtime_fraction, string};
use crate::access_log::{AccessLog, Comparison, LogFilter, LogFormat};
use crate::error::{Context, Result};
use crate::format::{ENVOY_DEFAULT, Format, JsonFormat, LogType};
use crate::stream_info::ResponseFlags;
use crate::value_matcher::{MetadataMatcher, ValueMatcher};

pub(crate) fn access_logs(context: &Context<'_>, logs: Vec<proto::AccessLog>) -> Result<Vec<AccessLog>> {
    let mut out = Vec::new();
    for (at, log) in logs.into_iter().enumerate() {
        let context = context.index(at);
        let filter = match log.filter {
            Some(filter) => Some(log_filter(&context.field("filter"), filter)?),
            None => None,
        };
        let Some(proto::access_log::ConfigType::TypedConfig(any)) = log.config_type else {
            return Err(context.field("typed_config").error("the access log has no typed_config"));
        };
        if let Some((path, format)) = logger(&context.field("typed_config"), &any)? {
            out.push(AccessLog { path: path.into(), format, filter });
        }
    }
    Ok(out)
}

/// Where to and how; none where the kind of log is not supported, which is said.
fn logger(context: &Context<'_>, any: &Any) -> Result<Option<(String, LogFormat)>> {
    Ok(Some(match any.type_url.as_str() {
        file::FileAccessLog::TYPE_URL => {
            let value: file::FileAccessLog = unpack(context, any)?;
            if value.path.is_empty() {
                return Err(context.field("path").error("name the file"));
            }
            (value.path, file_format(context, value.access_log_format)?)
        }
        stream::StdoutAccessLog::TYPE_URL => {
            let value: stream::StdoutAccessLog = unpack(context, any)?;
            let stream::stdout_access_log::AccessLogFormat::LogFormat(format) = value
                .access_log_format
                .unwrap_or(stream::stdout_access_log::AccessLogFormat::LogFormat(Default::default()));
            ("/dev/stdout".to_owned(), log_format(&context.field("log_format"), format)?)
        }
        stream::StderrAccessLog::TYPE_URL => {
            let value: stream::StderrAccessLog = unpack(context, any)?;
            let stream::stderr_access_log::AccessLogFormat::LogFormat(format) = value
                .access_log_format
                .unwrap_or(stream::stderr_access_log::AccessLogFormat::LogFormat(Default::default()));
            ("/dev/stderr".to_owned(), log_format(&context.field("log_format"), format)?)
        }
        other => {
            context.warn(format!(
                "access logs of the type `{other}` are not supported; nothing is logged there"
            ));
            return Ok(None);
        }
    }))
}

fn compiled(context: &Context<'_>, format: &str) -> Result<Format> {
    context.format(format)
}

fn text(context: &Context<'_>, format: &str, omit_empty: bool) -> Result<LogFormat> {
    Ok(LogFormat::Text { format: compiled(context, format)?, omit_empty })
}

fn file_format(
    context: &Context<'_>,
    format: Option<file::file_access_log::AccessLogFormat>,
) -> Result<LogFormat> {
    use file::file_access_log::AccessLogFormat as Proto;
    match format {
        None => text(context, ENVOY_DEFAULT, false),
        Some(Proto::Format(format)) if format.is_empty() => text(context, ENVOY_DEFAULT, false),
        Some(Proto::Format(format)) => text(&context.field("format"), &format, false),
        Some(Proto::LogFormat(format)) => log_format(&context.field("log_format"), format),
        Some(Proto::JsonFormat(fields)) => json(&context.field("json_format"), fields, false),
        Some(Proto::TypedJsonFormat(fields)) => json(&context.field("typed_json_format"), fields, false),
    }
}

pub(super) fn log_format(context: &Context<'_>, format: core::SubstitutionFormatString) -> Result<LogFormat> {
    use core::substitution_format_string::Format as Proto;
    let omit_empty = format.omit_empty_values;
    if !format.formatters.is_empty() {
        context.field("formatters").warn("extensions with operators of their own are not supported");
    }
    match format.format {
        None => text(context, ENVOY_DEFAULT, omit_empty),
        Some(Proto::JsonFormat(fields)) => json(&context.field("json_format"), fields, omit_empty),
        Some(Proto::TextFormatSource(source)) => {
            let context = context.field("text_format_source");
            text(&context, &data_text(&context, source)?, omit_empty)
        }
        Some(Proto::TextFormat(format)) => text(&context.field("text_format"), &format, omit_empty),
    }
}

fn json(context: &Context<'_>, fields: Struct, omit_empty: bool) -> Result<LogFormat> {
    Ok(LogFormat::Json { format: json_object(context, fields)?, omit_empty })
}

fn json_object(context: &Context<'_>, fields: Struct) -> Result<JsonFormat> {
    let mut out = BTreeMap::new();
    for (name, value) in fields.fields {
        let compiled = json_value(&context.field(&name), value)?;
        out.insert(name, compiled);
    }
    Ok(JsonFormat::object(out))
}

fn json_value(context: &Context<'_>, value: Value) -> Result<JsonFormat> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => JsonFormat::Literal("null".into()),
        Some(Kind::BoolValue(flag)) => JsonFormat::Literal(flag.to_string().into()),
        Some(Kind::NumberValue(number)) => JsonFormat::Literal(number.to_string().into()),
        Some(Kind::StringValue(format)) => JsonFormat::text(compiled(context, &format)?),
        Some(Kind::StructValue(fields)) => json_object(context, fields)?,
        Some(Kind::ListValue(list)) => {
            let values = list.values.into_iter().enumerate();
            let values = values.map(|(at, value)| json_value(&context.index(at), value));
            JsonFormat::List(values.collect::<Result<_>>()?)
        }
    })
}

fn comparison(value: Option<proto::ComparisonFilter>) -> (Comparison, u32) {
    let value = value.unwrap_or_default();
    let with = value.value.map_or(0, |value| value.default_value);
    let comparison = match value.op {
        1 => Comparison::AtLeast,
        2 => Comparison::AtMost,
        3 => Comparison::NotEqual,
        _ => Comparison::Equal,
    };
    (comparison, with)
}

pub(super) fn log_filter(context: &Context<'_>, filter: proto::AccessLogFilter) -> Result<LogFilter> {
    let all = |context: &Context<'_>, filters: Vec<proto::AccessLogFilter>| {
        let filters = filters.into_iter().enumerate();
        filters
            .map(|(at, filter)| log_filter(&context.field("filters").index(at), filter))
            .collect::<Result<Vec<_>>>()
    };
    let Some(specifier) = filter.filter_specifier else {
        return Err(context.error("the filter is empty; leave it out to log everything"));
    };
    Ok(match specifier {
        FilterSpecifier::StatusCodeFilter(filter) => {
            let (comparison, with) = comparison(filter.comparison);
            LogFilter::Status(comparison, with)
        }
        FilterSpecifier::DurationFilter(filter) => {
            let (comparison, with) = comparison(filter.comparison);
            LogFilter::Duration(comparison, with)
        }
        FilterSpecifier::NotHealthCheckFilter(_) => LogFilter::NotHealthCheck,
        FilterSpecifier::TraceableFilter(_) => LogFilter::Traceable,
        FilterSpecifier::RuntimeFilter(filter) => {
            let percent = filter.percent_sampled.map(|default| core::RuntimeFractionalPercent {
                default_value: Some(default),
                runtime_key: filter.runtime_key,
            });
            LogFilter::Share(runtime_fraction(percent).unwrap_or(crate::route::Fraction::ALL))
        }
        FilterSpecifier::AndFilter(filter) => {
            LogFilter::And(all(&context.field("and_filter"), filter.filters)?)
        }
        FilterSpecifier::OrFilter(filter) => LogFilter::Or(all(&context.field("or_filter"), filter.filters)?),
        FilterSpecifier::HeaderFilter(filter) => {
            let context = context.field("header_filter.header");
            let matcher = filter.header.ok_or_else(|| context.error("name the header"))?;
            LogFilter::Header(Box::new(header(&context, matcher)?))
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            response_flags(&context.field("response_flag_filter.flags"), filter.flags)?
        }
        FilterSpecifier::GrpcStatusFilter(filter) => LogFilter::GrpcStatus {
            statuses: filter.statuses.into_iter().map(|status| status as u32).collect(),
            exclude: filter.exclude,
        },
        FilterSpecifier::MetadataFilter(filter) => {
            metadata_filter(&context.field("metadata_filter"), filter)?
        }
        FilterSpecifier::LogTypeFilter(filter) => LogFilter::LogType {
            types: filter.types.into_iter().filter_map(log_type).collect(),
            exclude: filter.exclude,
        },
        FilterSpecifier::ExtensionFilter(filter) => {
            return Err(context.field("extension_filter").error(format!(
                "`{}` is not built in (nor is the expression language CEL); use the other filters",
                filter.name
            )));
        }
    })
}

fn response_flags(context: &Context<'_>, flags: Vec<String>) -> Result<LogFilter> {
    if flags.is_empty() {
        return Ok(LogFilter::Flags(None));
    }
    let mut wanted = ResponseFlags::default();
    for (at, flag) in flags.iter().enumerate() {
        match ResponseFlags::parse(flag) {
            Some(flag) => wanted.set(flag),
            None => return Err(context.index(at).error(format!("`{flag}` is no response flag"))),
        }
    }
    Ok(LogFilter::Flags(Some(wanted)))
}

fn log_type(number: i32) -> Option<LogType> {
    use LogType::*;
    [
        NotSet,
        TcpUpstreamConnected,
        TcpPeriodic,
        TcpConnectionEnd,
        DownstreamStart,
        DownstreamPeriodic,
        DownstreamEnd,
        UpstreamPoolReady,
        UpstreamPeriodic,
        UpstreamEnd,
        DownstreamTunnelSuccessfullyEstablished,
    ]
    .into_iter()
    .find(|log_type| log_type.number() == number)
}

fn metadata_filter(context: &Context<'_>, filter: proto::MetadataFilter) -> Result<LogFilter> {
    let context_of_matcher = context.field("matcher");
    let matcher = filter.matcher.ok_or_else(|| context_of_matcher.error("say what to match"))?;
    let if_missing = filter.match_if_key_not_found.unwrap_or(true);
    Ok(LogFilter::Metadata(Box::new(metadata_matcher(&context_of_matcher, matcher)?), if_missing))
}

/// A matcher of metadata.
pub(crate) fn metadata_matcher(
    context: &Context<'_>,
    value: matcher::MetadataMatcher,
) -> Result<MetadataMatcher> {
    let path = value.path.into_iter().map(|segment| match segment.segment {
        Some(matcher::metadata_matcher::path_segment::Segment::Key(key)) => Ok(key.into()),
        None => Err(context.field("path").error("each segment names a key")),
    });
    let inner = value.value.ok_or_else(|| context.field("value").error("say what the value has to be"))?;
    Ok(MetadataMatcher {
        filter: value.filter.into(),
        path: path.collect::<Result<_>>()?,
        value: value_matcher(&context.field("value"), inner)?,
        invert: value.invert,
    })
}

fn value_matcher(context: &Context<'_>, value: matcher::ValueMatcher) -> Result<ValueMatcher> {
    use matcher::double_matcher::MatchPattern as Double;
    use matcher::list_matcher::MatchPattern as List;
    use matcher::value_matcher::MatchPattern as Proto;
    Ok(match value.match_pattern {
        Some(Proto::NullMatch(_)) => ValueMatcher::Null,
        Some(Proto::DoubleMatch(double)) => match double.match_pattern {
            Some(Double::Exact(number)) => ValueMatcher::Number(number),
            Some(Double::Range(range)) => ValueMatcher::Range(range.start, range.end),
            None => return Err(context.field("double_match").error("write exact or range")),
        },
        Some(Proto::StringMatch(matcher)) => {
            ValueMatcher::String(string(&context.field("string_match"), matcher)?)
        }
        Some(Proto::BoolMatch(flag)) => ValueMatcher::Bool(flag),
        Some(Proto::PresentMatch(flag)) => ValueMatcher::Present(flag),
        Some(Proto::ListMatch(list)) => match list.match_pattern {
            Some(List::OneOf(matcher)) => {
                ValueMatcher::OneOf(Box::new(value_matcher(&context.field("list_match.one_of"), *matcher)?))
            }
            None => return Err(context.field("list_match").error("write one_of")),
        },
        Some(Proto::OrMatch(or)) => {
            let matchers = or.value_matchers.into_iter();
            let matchers = matchers.map(|matcher| value_matcher(&context.field("or_match"), matcher));
            ValueMatcher::Any(matchers.collect::<Result<_>>()?)
        }
        None => return Err(context.error("say what the value has to be")),
    })
}
