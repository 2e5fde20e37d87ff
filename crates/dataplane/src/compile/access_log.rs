//! `AccessLog`: files and standard output, text and JSON.

use lateen_envoy::envoy::config::accesslog::v3 as proto;
use lateen_envoy::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::access_loggers::file::v3 as file;
use lateen_envoy::envoy::extensions::access_loggers::stream::v3 as stream;
use lateen_envoy::google::protobuf::{Struct, value::Kind};
use lateen_envoy::{TypeUrl, from_any};

use super::common::{header, percent};
use crate::error::{Context, Result};
use crate::format::{ENVOY_DEFAULT, Format};
use crate::listener::{AccessLog, Comparison, LogFilter, LogFormat};

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
        let inner = context.field("typed_config");
        let (path, format) = if any.type_url == file::FileAccessLog::TYPE_URL {
            let value: file::FileAccessLog = from_any(&any).map_err(|error| inner.error(error))?;
            (value.path, file_format(&inner, value.access_log_format)?)
        } else if any.type_url == stream::StdoutAccessLog::TYPE_URL {
            let value: stream::StdoutAccessLog = from_any(&any).map_err(|error| inner.error(error))?;
            let stream::stdout_access_log::AccessLogFormat::LogFormat(format) = match value.access_log_format
            {
                Some(format) => format,
                None => stream::stdout_access_log::AccessLogFormat::LogFormat(Default::default()),
            };
            ("/dev/stdout".to_owned(), log_format(&inner.field("log_format"), format)?)
        } else {
            inner.warn(format!(
                "access logs of the type `{}` are not supported; nothing is logged there",
                any.type_url
            ));
            continue;
        };
        out.push(AccessLog { path: path.into(), format, filter });
    }
    Ok(out)
}

fn text(context: &Context<'_>, format: &str) -> Result<LogFormat> {
    Ok(LogFormat::Text(Format::compile(format).map_err(|error| context.error(error))?))
}

fn file_format(
    context: &Context<'_>,
    format: Option<file::file_access_log::AccessLogFormat>,
) -> Result<LogFormat> {
    use file::file_access_log::AccessLogFormat as Proto;
    #[allow(deprecated)]
    match format {
        None => text(context, ENVOY_DEFAULT),
        Some(Proto::Format(format)) => text(&context.field("format"), &format),
        Some(Proto::LogFormat(format)) => log_format(&context.field("log_format"), format),
        Some(Proto::JsonFormat(fields) | Proto::TypedJsonFormat(fields)) => {
            json(&context.field("json_format"), fields)
        }
    }
}

fn log_format(context: &Context<'_>, format: core::SubstitutionFormatString) -> Result<LogFormat> {
    use core::substitution_format_string::Format as Proto;
    match format.format {
        None => text(context, ENVOY_DEFAULT),
        Some(Proto::JsonFormat(fields)) => json(&context.field("json_format"), fields),
        Some(Proto::TextFormatSource(source)) => match source.specifier {
            Some(core::data_source::Specifier::InlineString(format)) => {
                text(&context.field("text_format_source"), &format)
            }
            _ => Err(context.field("text_format_source").error("only inline_string is supported")),
        },
        #[allow(deprecated)]
        Some(Proto::TextFormat(format)) => text(&context.field("text_format"), &format),
    }
}

fn json(context: &Context<'_>, fields: Struct) -> Result<LogFormat> {
    let mut out = Vec::new();
    for (key, value) in fields.fields {
        match value.kind {
            Some(Kind::StringValue(format)) => {
                let format = Format::compile(&format).map_err(|error| context.field(&key).error(error))?;
                out.push((key.into(), format));
            }
            _ => context.field(&key).warn("only strings are supported as values; this one is left out"),
        }
    }
    Ok(LogFormat::Json(out))
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

fn log_filter(context: &Context<'_>, filter: proto::AccessLogFilter) -> Result<LogFilter> {
    let all = |filters: Vec<proto::AccessLogFilter>| {
        filters.into_iter().map(|filter| log_filter(context, filter)).collect::<Result<Vec<_>>>()
    };
    Ok(match filter.filter_specifier {
        Some(FilterSpecifier::StatusCodeFilter(filter)) => {
            let (comparison, with) = comparison(filter.comparison);
            LogFilter::Status(comparison, with)
        }
        Some(FilterSpecifier::DurationFilter(filter)) => {
            let (comparison, with) = comparison(filter.comparison);
            LogFilter::Duration(comparison, with)
        }
        Some(FilterSpecifier::NotHealthCheckFilter(_)) => LogFilter::And(Vec::new()),
        Some(FilterSpecifier::RuntimeFilter(filter)) => {
            LogFilter::Share(filter.percent_sampled.as_ref().map_or(crate::route::Fraction::ALL, percent))
        }
        Some(FilterSpecifier::AndFilter(filter)) => LogFilter::And(all(filter.filters)?),
        Some(FilterSpecifier::OrFilter(filter)) => LogFilter::Or(all(filter.filters)?),
        Some(FilterSpecifier::HeaderFilter(filter)) => {
            let matcher =
                filter.header.ok_or_else(|| context.field("header_filter").error("name the header"))?;
            LogFilter::Header(Box::new(header(&context.field("header_filter.header"), matcher)?))
        }
        Some(FilterSpecifier::ResponseFlagFilter(filter)) => {
            LogFilter::Flags(filter.flags.into_iter().map(Into::into).collect())
        }
        _ => return Err(context.error("this kind of access log filter is not supported")),
    })
}
