//! `Cluster` and `ClusterLoadAssignment` to runtime types.

use std::mem::take;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig};
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::extensions::clusters::dns::v3::DnsCluster;
use lateen_envoy::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use lateen_envoy::envoy::extensions::upstreams::http::v3 as upstream;

use super::assignment::load_assignment;
use super::checked::unpack;
use super::common::{bind, duration, leftover, limit};
use super::http_protocol::{http1_options, http2_options};
use super::{dns, health_check, load_balancing, network, refusals, resilience, transport};
use crate::circuit::CircuitBreakers;
use crate::cluster::{Assignment, AutoServerName, Cluster, Discovery, Dns, UpstreamProtocol};
use crate::error::{Context, Result};
use crate::http_protocol::{HeadLimits, Http1Options, Http2Options};
use crate::listener::Address;

/// What most clusters have, once for all of them.
static USUAL_BREAKERS: LazyLock<Arc<CircuitBreakers>> = LazyLock::new(Arc::default);
static USUAL_RESOLUTION: LazyLock<Arc<Dns>> = LazyLock::new(Arc::default);

fn shared<T: PartialEq>(value: T, usual: &Arc<T>) -> Arc<T> {
    if value == **usual { Arc::clone(usual) } else { Arc::new(value) }
}

/// A cluster, and its hosts where they are in the configuration.
pub(crate) fn cluster(
    context: &Context<'_>,
    mut value: proto::Cluster,
) -> Result<(Cluster, Option<Assignment>)> {
    refusals::cluster(context, &value)?;
    let name: Arc<str> = take(&mut value.name).into();
    let (discovery, resolution) = discovery(context, &mut value, &name)?;
    let assignment = match value.load_assignment.take() {
        Some(assignment) => Some(load_assignment(&context.field("load_assignment"), assignment)?),
        None => None,
    };
    if discovery == Discovery::Static
        && let Some(endpoint) = assignment
            .iter()
            .flat_map(|assignment| &assignment.endpoints)
            .find(|endpoint| matches!(endpoint.address, Address::Name(..)))
    {
        return Err(context.field("load_assignment").error(format!(
            "`{}` is not an IP address; a STATIC cluster takes no names, use STRICT_DNS",
            endpoint.address
        )));
    }
    let http = http_options(context, &mut value)?;
    let alternative = take(&mut value.alt_stat_name);
    let (balancing, hosts) = load_balancing::balancing(context, &mut value)?;
    if discovery == Discovery::LogicalDns
        && assignment.as_ref().is_none_or(|assignment| assignment.endpoints.len() != 1)
    {
        return Err(context
            .field("load_assignment")
            .error("a LOGICAL_DNS cluster has one endpoint in one locality; use STRICT_DNS for more"));
    }
    if balancing.policy.hashes_names() && discovery != Discovery::StrictDns {
        return Err(context
            .field("common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing")
            .error("only hosts of a STRICT_DNS cluster have names that can be hashed"));
    }
    let health_checks = take(&mut value.health_checks)
        .into_iter()
        .enumerate()
        .map(|(at, check)| {
            let context = context.field("health_checks").index(at);
            if at > 0 {
                return Err(context.error("a cluster has one health check at most"));
            }
            health_check::health_check(&context, check).map(Arc::new)
        })
        .collect::<Result<Vec<_>>>()?;
    let transport = transport::selection(context, &mut value)?;
    let compiled = Cluster {
        metadata: super::common::metadata(value.metadata.take()),
        stat_name: if alternative.is_empty() { stat_name(&name).into() } else { alternative.into() },
        name,
        discovery,
        balancing: Arc::new(balancing),
        connect_timeout: duration(&context.field("connect_timeout"), value.connect_timeout.take())?
            .unwrap_or(Duration::from_secs(5)),
        protocol: http.protocol,
        breakers: shared(resilience::breakers(context, &mut value), &USUAL_BREAKERS),
        outlier: resilience::outlier(context, &mut value)?.map(Arc::new),
        health_checks,
        ignore_unchecked_hosts: hosts.ignore_unchecked,
        ignore_health_on_removal: take(&mut value.ignore_health_on_host_removal),
        close_on_health_failure: take(&mut value.close_connections_on_host_health_failure),
        close_on_host_change: hosts.close_on_change,
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: value
            .max_requests_per_connection
            .take()
            .or(http.max_requests_per_connection)
            .filter(|requests| *requests > 0),
        max_connection_duration: http.max_connection_duration,
        bind: match value.upstream_bind_config.take() {
            Some(config) => Some(Arc::new(bind(&context.field("upstream_bind_config"), config)?)),
            None => None,
        },
        keepalive: keepalive(context, &mut value),
        dns: shared(resolution, &USUAL_RESOLUTION),
        http1: http.http1,
        http2: http.http2,
        response_limits: http.response_limits,
        auto_server_name: http.auto_server_name,
        transport,
        peer_exchange: network::upstream_filters(&context.field("filters"), take(&mut value.filters))?,
    };
    // Nothing is read from an upstream before the client took what came: there is no buffer that could grow.
    value.per_connection_buffer_limit_bytes = None;
    leftover(context, &value);
    Ok((compiled, assignment))
}

fn stat_name(name: &str) -> String {
    // Envoy replaces the character that separates the parts of its statistics.
    name.replace(':', "_")
}

/// How hosts are found, and names resolved.
fn discovery(context: &Context<'_>, value: &mut proto::Cluster, name: &Arc<str>) -> Result<(Discovery, Dns)> {
    let resolution = dns::dns(context, value)?;
    let cleanup = duration(&context.field("cleanup_interval"), value.cleanup_interval.take())?;
    let kind = match value.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind)
            .map_err(|_| context.field("type").error(format!("{kind} is not a discovery type")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => return custom_discovery(context, custom),
    };
    let discovery = match kind {
        DiscoveryType::Static => Discovery::Static,
        DiscoveryType::StrictDns => Discovery::StrictDns,
        DiscoveryType::LogicalDns => Discovery::LogicalDns,
        DiscoveryType::Eds => {
            let config = value.eds_cluster_config.take().unwrap_or_default();
            let service = config.service_name;
            Discovery::Endpoints(if service.is_empty() { Arc::clone(name) } else { service.into() })
        }
        DiscoveryType::OriginalDst => {
            let cleanup = cleanup.unwrap_or(Duration::from_secs(5));
            match value.lb_config.take() {
                Some(LbConfig::OriginalDstLbConfig(config)) => {
                    if config.metadata_key.is_some() {
                        context
                            .field("original_dst_lb_config.metadata_key")
                            .warn("a destination is not taken from metadata; this has no effect");
                    }
                    let header = if config.http_header_name.is_empty() {
                        "x-envoy-original-dst-host".into()
                    } else {
                        config.http_header_name.to_ascii_lowercase().into()
                    };
                    Discovery::OriginalDestination {
                        header: config.use_http_header.then_some(header),
                        port: config.upstream_port_override.and_then(|port| u16::try_from(port).ok()),
                        cleanup,
                    }
                }
                _ => Discovery::OriginalDestination { header: None, port: None, cleanup },
            }
        }
    };
    Ok((discovery, resolution))
}

fn custom_discovery(
    context: &Context<'_>,
    custom: proto::cluster::CustomClusterType,
) -> Result<(Discovery, Dns)> {
    let context = context.field("cluster_type");
    match custom.typed_config {
        Some(any) if any.type_url == DnsCluster::TYPE_URL => {
            let config: DnsCluster = unpack(&context, &any)?;
            let (resolution, logical) = dns::dns_cluster(&context.field("typed_config"), config)?;
            Ok((if logical { Discovery::LogicalDns } else { Discovery::StrictDns }, resolution))
        }
        _ => Err(context.error(format!("clusters of the type `{}` are not supported", custom.name))),
    }
}

fn keepalive(_context: &Context<'_>, value: &mut proto::Cluster) -> Option<(Duration, Duration, u32)> {
    let keepalive = value.upstream_connection_options.take()?.tcp_keepalive?;
    let seconds = |value: Option<u32>, default: u64| Duration::from_secs(value.map_or(default, u64::from));
    Some((
        seconds(keepalive.keepalive_time, 7200),
        seconds(keepalive.keepalive_interval, 75),
        keepalive.keepalive_probes.unwrap_or(9),
    ))
}

/// What `HttpProtocolOptions` and the older fields of the cluster say.
#[derive(Default)]
struct HttpOptions {
    protocol: UpstreamProtocol,
    idle_timeout: Option<Duration>,
    max_requests_per_connection: Option<u32>,
    max_connection_duration: Option<Duration>,
    http1: Http1Options,
    http2: Http2Options,
    response_limits: HeadLimits,
    auto_server_name: Option<AutoServerName>,
}

impl HttpOptions {
    fn auto_names(&mut self, context: &Context<'_>, mut options: core::UpstreamHttpProtocolOptions) {
        let (name, verify) = (take(&mut options.auto_sni), take(&mut options.auto_san_validation));
        let header = take(&mut options.override_auto_sni_header);
        if name || verify {
            self.auto_server_name = Some(AutoServerName {
                send: name,
                verify,
                header: (!header.is_empty()).then(|| header.to_ascii_lowercase().into_bytes().into()),
            });
        }
        leftover(context, &options);
    }

    fn http1(&mut self, context: &Context<'_>, options: core::Http1ProtocolOptions) -> Result<()> {
        self.http1 = http1_options(context, options)?;
        // What only concerns requests that come in.
        for (name, set) in [
            ("accept_http_10", self.http1.accept_http_10),
            ("default_host_for_http_10", self.http1.default_host.is_some()),
            ("allow_chunked_length", self.http1.allow_chunked_length),
        ] {
            if set {
                context.field(name).warn("this has no effect on connections to upstreams; remove it");
            }
        }
        Ok(())
    }

    fn http2(&mut self, context: &Context<'_>, options: core::Http2ProtocolOptions) -> Result<()> {
        self.protocol = UpstreamProtocol::Http2;
        self.http2 = http2_options(context, options)?;
        if self.http2.keepalive.as_ref().is_some_and(|keepalive| keepalive.idle.is_some()) {
            context
                .field("connection_keepalive.connection_idle_interval")
                .warn("a ping before a request after a pause is not sent; set `interval`");
        }
        Ok(())
    }

    fn common(&mut self, context: &Context<'_>, mut options: core::HttpProtocolOptions) -> Result<()> {
        self.idle_timeout =
            limit(&context.field("idle_timeout"), options.idle_timeout.take(), self.idle_timeout)?;
        self.max_requests_per_connection = options.max_requests_per_connection.take();
        self.max_connection_duration =
            limit(&context.field("max_connection_duration"), options.max_connection_duration.take(), None)?;
        if let Some(fields) = options.max_headers_count.take() {
            self.response_limits.fields = fields as usize;
        }
        if let Some(kilobytes) = options.max_response_headers_kb.take() {
            if kilobytes == 0 || kilobytes > 8192 {
                return Err(context
                    .field("max_response_headers_kb")
                    .error(format!("{kilobytes} is not within 1 and 8192")));
            }
            self.response_limits.bytes = kilobytes as usize * 1024;
        }
        leftover(context, &options);
        Ok(())
    }
}

fn http_options(context: &Context<'_>, value: &mut proto::Cluster) -> Result<HttpOptions> {
    use upstream::http_protocol_options::UpstreamProtocolOptions;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let mut out = HttpOptions { idle_timeout: Some(Duration::from_secs(3600)), ..HttpOptions::default() };
    if let Some(options) = value.http2_protocol_options.take() {
        out.http2(&context.field("http2_protocol_options"), options)?;
    }
    if let Some(options) = value.http_protocol_options.take() {
        out.http1(&context.field("http_protocol_options"), options)?;
    }
    if let Some(upstream) = value.upstream_http_protocol_options.take() {
        out.auto_names(&context.field("upstream_http_protocol_options"), upstream);
    }
    if let Some(options) = value.common_http_protocol_options.take() {
        out.common(&context.field("common_http_protocol_options"), options)?;
    }
    if take(&mut value.protocol_selection) == 1 {
        out.protocol = UpstreamProtocol::AsDownstream;
    }
    for (name, any) in take(&mut value.typed_extension_protocol_options) {
        let context = context.field(&format!("typed_extension_protocol_options[{name}]"));
        if any.type_url != upstream::HttpProtocolOptions::TYPE_URL {
            context
                .warn(format!("options of the type `{}` are not supported and have no effect", any.type_url));
            continue;
        }
        let mut options: upstream::HttpProtocolOptions = unpack(&context, &any)?;
        if let Some(common) = options.common_http_protocol_options.take() {
            out.common(&context.field("common_http_protocol_options"), common)?;
        }
        if let Some(upstream) = options.upstream_http_protocol_options.take() {
            out.auto_names(&context.field("upstream_http_protocol_options"), upstream);
        }
        upstream_filters(&context.field("http_filters"), take(&mut options.http_filters))?;
        match options.upstream_protocol_options.take() {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    out.http2(&context.field("explicit_http_config.http2_protocol_options"), http2)?;
                }
                Some(ProtocolConfig::HttpProtocolOptions(http1)) => {
                    out.http1(&context.field("explicit_http_config.http_protocol_options"), http1)?;
                    out.protocol = UpstreamProtocol::Http1;
                }
                _ => return Err(context.field("explicit_http_config").error("HTTP/3 is not supported")),
            },
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                if let Some(http1) = config.http_protocol_options {
                    out.http1(&context.field("use_downstream_protocol_config.http_protocol_options"), http1)?;
                }
                if let Some(http2) = config.http2_protocol_options {
                    let context = context.field("use_downstream_protocol_config.http2_protocol_options");
                    out.http2(&context, http2)?;
                }
                out.protocol = UpstreamProtocol::AsDownstream;
            }
            Some(UpstreamProtocolOptions::AutoConfig(auto)) => {
                if let Some(http1) = auto.http_protocol_options {
                    out.http1(&context.field("auto_config.http_protocol_options"), http1)?;
                }
                if let Some(http2) = auto.http2_protocol_options {
                    out.http2(&context.field("auto_config.http2_protocol_options"), http2)?;
                }
                out.protocol = UpstreamProtocol::Auto;
            }
            None => {}
        }
        leftover(&context, &options);
    }
    Ok(out)
}

/// `HttpProtocolOptions.http_filters`: the codec alone, which is always there.
fn upstream_filters(context: &Context<'_>, filters: Vec<HttpFilter>) -> Result<()> {
    for (at, filter) in filters.into_iter().enumerate() {
        let context = context.index(at);
        let url = match filter.config_type {
            Some(ConfigType::TypedConfig(any)) => any.type_url,
            _ => String::new(),
        };
        if url == UpstreamCodec::TYPE_URL {
            continue;
        }
        let text = format!("the filter `{}` ({url}) is not supported towards upstreams", filter.name);
        if !filter.is_optional && !filter.disabled {
            // It may be there to protect something.
            return Err(context.error(text));
        }
        context.warn(format!("{text} and left out"));
    }
    Ok(())
}
