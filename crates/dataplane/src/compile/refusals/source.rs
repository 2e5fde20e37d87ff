//! Where configuration comes from (`Config::Utility` of Envoy).

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::core::v3::api_config_source::ApiType;
use lateen_envoy::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use lateen_envoy::envoy::config::core::v3::grpc_service::TargetSpecifier;

use crate::error::{Context, Result};

/// Refuses a source that nobody could ask, and reports what has no effect.
pub(crate) fn config_source(context: &Context<'_>, source: &core::ConfigSource) -> Result<()> {
    if source.resource_api_version == core::ApiVersion::V2 as i32 {
        context.field("resource_api_version").warn("version 2 is gone; resources are of version 3");
    }
    if !source.authorities.is_empty() {
        context.field("authorities").warn("sources are chosen by the field, not by name; this has no effect");
    }
    match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
            api_source(&context.field("api_config_source"), api)
        }
        _ => Ok(()),
    }
}

fn api_source(context: &Context<'_>, api: &core::ApiConfigSource) -> Result<()> {
    if api.transport_api_version == core::ApiVersion::V2 as i32 {
        return Err(context.field("transport_api_version").error("version 2 is gone; write V3"));
    }
    match ApiType::try_from(api.api_type) {
        Ok(ApiType::Grpc | ApiType::DeltaGrpc) => {}
        Ok(ApiType::Rest) => {
            if api.refresh_delay.is_none() {
                return Err(context.field("refresh_delay").error("a REST source needs it"));
            }
            context.warn("REST is not spoken: nothing comes from this source; use GRPC or DELTA_GRPC");
            return Ok(());
        }
        _ => {
            return Err(context
                .field("api_type")
                .error("write GRPC or DELTA_GRPC; for the aggregated stream write ads: {}"));
        }
    }
    match api.grpc_services.as_slice() {
        [] => {
            Err(context.field("grpc_services").error("name the service, as envoy_grpc with a cluster_name"))
        }
        [service] => {
            services(&context.field("grpc_services").index(0), service);
            unheeded(context, api);
            Ok(())
        }
        _ => Err(context.field("grpc_services").error("there can be one service only; remove the others")),
    }
}

fn services(context: &Context<'_>, service: &core::GrpcService) {
    match &service.target_specifier {
        Some(TargetSpecifier::GoogleGrpc(_)) => {
            context
                .field("google_grpc")
                .warn("nothing comes from this source; use envoy_grpc with a cluster");
        }
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
            let context = context.field("envoy_grpc");
            if !grpc.authority.is_empty() {
                context.field("authority").warn("this has no effect");
            }
            if grpc.retry_policy.is_some() {
                context.field("retry_policy").warn("the stream is opened again with a backoff of its own");
            }
            if grpc.max_receive_message_length.is_some() {
                context.field("max_receive_message_length").warn("messages are not limited");
            }
            if grpc.skip_envoy_headers {
                context.field("skip_envoy_headers").warn("no such headers are sent; remove it");
            }
        }
        None => {}
    }
    if service.timeout.is_some() {
        context.field("timeout").warn("a stream has no end; this has no effect");
    }
    if service.retry_policy.is_some() {
        context.field("retry_policy").warn("the stream is opened again with a backoff of its own");
    }
}

fn unheeded(context: &Context<'_>, api: &core::ApiConfigSource) {
    for (name, set) in [
        ("cluster_names", !api.cluster_names.is_empty()),
        ("refresh_delay", api.refresh_delay.is_some()),
        ("request_timeout", api.request_timeout.is_some()),
        ("rate_limit_settings", api.rate_limit_settings.is_some()),
        ("config_validators", !api.config_validators.is_empty()),
    ] {
        if set {
            context.field(name).warn("this has no effect on a stream; remove it");
        }
    }
}
