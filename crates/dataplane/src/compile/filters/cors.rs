//! `envoy.extensions.filters.http.cors.v3.CorsPolicy`.

use std::mem::take;

use lateen_envoy::envoy::extensions::filters::http::cors::v3 as proto;

use crate::compile::common::{leftover, runtime_fraction, string};
use crate::error::{Context, Result};
use crate::filters::Cors;

pub(super) fn cors(context: &Context<'_>, mut value: proto::CorsPolicy) -> Result<Cors> {
    let text = |text: String| -> Option<Box<str>> { (!text.is_empty()).then(|| text.into()) };
    let mut origins = Vec::new();
    for (at, matcher) in take(&mut value.allow_origin_string_match).into_iter().enumerate() {
        origins.push(string(&context.field("allow_origin_string_match").index(at), matcher)?);
    }
    let compiled = Cors {
        origins,
        methods: text(take(&mut value.allow_methods)),
        headers: text(take(&mut value.allow_headers)),
        expose: text(take(&mut value.expose_headers)),
        max_age: text(take(&mut value.max_age)),
        credentials: value.allow_credentials.take(),
        private_network: value.allow_private_network_access.take(),
        forward_not_matching_preflights: value.forward_not_matching_preflights.take(),
        enabled: runtime_fraction(value.filter_enabled.take()),
        shadow: runtime_fraction(value.shadow_enabled.take()),
    };
    leftover(context, &value);
    Ok(compiled)
}
