//! `LocalReplyConfig`, and bodies made of operators.

use std::mem::take;

use bytes::Bytes;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as proto;

use super::access_log::{log_filter, log_format};
use super::common::{data, header_mutations};
use crate::error::{Context, Result};
use crate::local_reply::{BodyFormat, LocalReplies, Mapper};

/// A text or an object with operators, and its type.
pub(super) fn body_format(
    context: &Context<'_>,
    mut value: core::SubstitutionFormatString,
) -> Result<BodyFormat> {
    let kind = take(&mut value.content_type);
    if value.format.is_none() {
        return Err(context.error("write text_format_source or json_format"));
    }
    Ok(BodyFormat {
        format: log_format(context, value)?,
        content_type: (!kind.is_empty()).then(|| kind.into()),
    })
}

/// A body: written in the configuration, in a file, or in a variable.
pub(super) fn body(context: &Context<'_>, source: Option<core::DataSource>) -> Result<Option<Bytes>> {
    source.filter(|source| source.specifier.is_some()).map(|source| data(context, source)).transpose()
}

/// `local_reply_config`.
pub(super) fn local_replies(context: &Context<'_>, value: proto::LocalReplyConfig) -> Result<LocalReplies> {
    let mut mappers = Vec::new();
    for (at, mapper) in value.mappers.into_iter().enumerate() {
        mappers.push(response_mapper(&context.field("mappers").index(at), mapper)?);
    }
    let format = value.body_format.map(|format| body_format(&context.field("body_format"), format));
    Ok(LocalReplies { mappers, format: format.transpose()? })
}

fn response_mapper(context: &Context<'_>, value: proto::ResponseMapper) -> Result<Mapper> {
    let filter = value.filter.ok_or_else(|| context.field("filter").error("say which responses"))?;
    let status = value.status_code.map(|status| {
        u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))
            .ok_or_else(|| context.field("status_code").error(format!("{status} is not a final HTTP status")))
    });
    let format = value.body_format_override;
    let format = format.map(|format| body_format(&context.field("body_format_override"), format));
    Ok(Mapper {
        filter: log_filter(&context.field("filter"), filter)?,
        status: status.transpose()?,
        body: body(&context.field("body"), value.body)?,
        format: format.transpose()?,
        headers: header_mutations(context, Vec::new(), Vec::new(), value.headers_to_add, Vec::new())?,
    })
}
