//! `envoy.config.route.v3.RateLimit`: what requests count as.

use std::mem::take;

use lateen_envoy::envoy::config::route::v3 as proto;
use lateen_envoy::envoy::config::route::v3::rate_limit::action::ActionSpecifier;
use lateen_envoy::envoy::config::route::v3::rate_limit::action::meta_data::Source;

use crate::compile::common::{headers, leftover, query};
use crate::compile::values::path;
use crate::error::{Context, Result};
use crate::filters::rate_limits::{Action, RateLimit};

/// Compiles all; one with an action that is not supported is left out and reported.
pub(crate) fn rate_limits(context: &Context<'_>, values: Vec<proto::RateLimit>) -> Result<Vec<RateLimit>> {
    let mut out = Vec::with_capacity(values.len());
    'limits: for (at, mut value) in values.into_iter().enumerate() {
        let context = context.index(at);
        let mut actions = Vec::new();
        for (at, each) in take(&mut value.actions).into_iter().enumerate() {
            let context = context.field("actions").index(at);
            match action(&context, each)? {
                Some(action) => actions.push(action),
                None => {
                    context.warn("this action is not supported; requests do not count for this rate limit");
                    continue 'limits;
                }
            }
        }
        out.push(RateLimit { stage: value.stage.take().unwrap_or(0), actions });
        value.disable_key.clear();
        leftover(&context, &value);
    }
    Ok(out)
}

fn action(context: &Context<'_>, value: proto::rate_limit::Action) -> Result<Option<Action>> {
    let key =
        |key: String, default: &str| -> Box<str> { if key.is_empty() { default.into() } else { key.into() } };
    let lower = |name: String| -> Box<[u8]> { name.to_ascii_lowercase().into_bytes().into() };
    Ok(Some(match value.action_specifier {
        Some(ActionSpecifier::DestinationCluster(_)) => Action::DestinationCluster,
        Some(ActionSpecifier::RequestHeaders(value)) => Action::Header {
            name: lower(value.header_name),
            key: value.descriptor_key.into(),
            skip_if_absent: value.skip_if_absent,
        },
        Some(ActionSpecifier::QueryParameters(value)) => Action::Query {
            name: value.query_parameter_name.into_bytes().into(),
            key: value.descriptor_key.into(),
            skip_if_absent: value.skip_if_absent,
        },
        Some(ActionSpecifier::RemoteAddress(_)) => Action::RemoteAddress,
        Some(ActionSpecifier::MaskedRemoteAddress(value)) => {
            let length = |length: Option<u32>, most: u8| {
                length.and_then(|length| u8::try_from(length).ok()).unwrap_or(most).min(most)
            };
            Action::MaskedRemoteAddress(
                length(value.v4_prefix_mask_len, 32),
                length(value.v6_prefix_mask_len, 128),
            )
        }
        Some(ActionSpecifier::GenericKey(value)) if value.default_value.is_empty() => {
            Action::Literal(key(value.descriptor_key, "generic_key"), value.descriptor_value.into())
        }
        Some(ActionSpecifier::HeaderValueMatch(value)) if value.default_value.is_empty() => {
            Action::HeaderMatch {
                key: key(value.descriptor_key, "header_match"),
                value: value.descriptor_value.into(),
                expect: value.expect_match.unwrap_or(true),
                headers: headers(&context.field("header_value_match.headers"), value.headers)?,
            }
        }
        Some(ActionSpecifier::QueryParameterValueMatch(value)) if value.default_value.is_empty() => {
            let inner = context.field("query_parameter_value_match.query_parameters");
            let mut parameters = Vec::new();
            for (at, parameter) in value.query_parameters.into_iter().enumerate() {
                parameters.push(query(&inner.index(at), parameter)?);
            }
            Action::QueryMatch {
                key: key(value.descriptor_key, "query_match"),
                value: value.descriptor_value.into(),
                expect: value.expect_match.unwrap_or(true),
                parameters,
            }
        }
        Some(ActionSpecifier::Metadata(value)) => {
            let of_route = match value.source() {
                Source::Dynamic => false,
                Source::RouteEntry => true,
                _ => return Ok(None),
            };
            let (filter, path) = path(value.metadata_key.unwrap_or_default());
            Action::Metadata {
                key: value.descriptor_key.into(),
                filter,
                path,
                default: value.default_value.into(),
                skip_if_absent: value.skip_if_absent,
                of_route,
            }
        }
        _ => return Ok(None),
    }))
}
