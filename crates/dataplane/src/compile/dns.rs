//! How a cluster resolves names: `dns_*`, `typed_dns_resolver_config`.

use std::mem::take;
use std::net::SocketAddr;
use std::time::Duration;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::clusters::dns::v3::DnsCluster;
use lateen_envoy::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;

use super::checked::unpack;
use super::common::{duration, leftover, socket_address};
use crate::cluster::{Dns, LookupFamily};
use crate::error::{Context, Result};

/// From the cluster's own fields.
pub(crate) fn dns(context: &Context<'_>, value: &mut proto::Cluster) -> Result<Dns> {
    let mut out = Dns::default();
    let time = |name: &str, value| duration(&context.field(name), value);
    out.refresh = time("dns_refresh_rate", value.dns_refresh_rate.take())?.unwrap_or(out.refresh);
    out.jitter = time("dns_jitter", value.dns_jitter.take())?.unwrap_or_default();
    if let Some(rate) = value.dns_failure_refresh_rate.take() {
        out.failure_refresh = failure(context, rate.base_interval, rate.max_interval)?;
    }
    out.respect_ttl = take(&mut value.respect_dns_ttl);
    out.family = family(take(&mut value.dns_lookup_family));
    out.tcp = take(&mut value.use_tcp_for_dns_lookups);
    let mut resolvers = take(&mut value.dns_resolvers);
    if let Some(config) = value.dns_resolution_config.take() {
        resolvers = config.resolvers;
        out.tcp |= config.dns_resolver_options.is_some_and(|options| options.use_tcp_for_dns_lookups);
    }
    out.resolvers = addresses(&context.field("dns_resolvers"), resolvers)?.into();
    typed(context, value.typed_dns_resolver_config.take(), &mut out)?;
    Ok(out)
}

/// From a cluster of the type `envoy.cluster.dns`.
pub(crate) fn dns_cluster(context: &Context<'_>, mut value: DnsCluster) -> Result<(Dns, bool)> {
    let mut out = Dns::default();
    let time = |name: &str, value| duration(&context.field(name), value);
    out.refresh = time("dns_refresh_rate", value.dns_refresh_rate.take())?.unwrap_or(out.refresh);
    out.jitter = time("dns_jitter", value.dns_jitter.take())?.unwrap_or_default();
    if let Some(rate) = value.dns_failure_refresh_rate.take() {
        out.failure_refresh = failure(context, rate.base_interval, rate.max_interval)?;
    }
    out.respect_ttl = take(&mut value.respect_dns_ttl);
    out.family = family(take(&mut value.dns_lookup_family).saturating_sub(1).max(0));
    typed(context, value.typed_dns_resolver_config.take(), &mut out)?;
    let logical = take(&mut value.all_addresses_in_single_endpoint);
    leftover(context, &value);
    Ok((out, logical))
}

fn failure(
    context: &Context<'_>,
    base: Option<lateen_envoy::google::protobuf::Duration>,
    longest: Option<lateen_envoy::google::protobuf::Duration>,
) -> Result<Option<(Duration, Duration)>> {
    let context = context.field("dns_failure_refresh_rate");
    let Some(base) = duration(&context.field("base_interval"), base)? else {
        return Err(context.field("base_interval").error("say how long to wait after a failure"));
    };
    let longest = duration(&context.field("max_interval"), longest)?.unwrap_or(base * 10);
    if longest < base {
        return Err(context.field("max_interval").error("this is below base_interval"));
    }
    Ok(Some((base, longest)))
}

fn family(number: i32) -> LookupFamily {
    match number {
        1 => LookupFamily::V4,
        2 => LookupFamily::V6,
        3 => LookupFamily::V4Preferred,
        4 => LookupFamily::All,
        _ => LookupFamily::Automatic,
    }
}

fn addresses(context: &Context<'_>, values: Vec<core::Address>) -> Result<Vec<SocketAddr>> {
    let mut out = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let context = context.index(at);
        match value.address {
            Some(core::address::Address::SocketAddress(socket)) => {
                out.push(socket_address(&context.field("socket_address"), &socket)?);
            }
            _ => return Err(context.error("a resolver has a socket_address")),
        }
    }
    Ok(out)
}

fn typed(context: &Context<'_>, value: Option<core::TypedExtensionConfig>, out: &mut Dns) -> Result<()> {
    let context = context.field("typed_dns_resolver_config");
    let Some(any) = value.and_then(|value| value.typed_config) else { return Ok(()) };
    if any.type_url == CaresDnsResolverConfig::TYPE_URL {
        let mut config: CaresDnsResolverConfig = unpack(&context, &any)?;
        let resolvers = addresses(&context.field("resolvers"), take(&mut config.resolvers))?;
        if take(&mut config.use_resolvers_as_fallback) {
            context
                .field("use_resolvers_as_fallback")
                .warn("the system's resolver is asked, and nobody else");
        } else {
            out.resolvers = resolvers.into();
        }
        if let Some(options) = config.dns_resolver_options.take() {
            out.tcp = options.use_tcp_for_dns_lookups;
        }
        leftover(&context, &config);
    } else if !any.type_url.ends_with("GetAddrInfoDnsResolverConfig") {
        context.warn(format!(
            "resolvers of the type `{}` are not supported; the system's is asked",
            any.type_url
        ));
    }
    Ok(())
}
