//! `Cluster` and `ClusterLoadAssignment` to runtime types.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy,
};
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::endpoint::v3 as endpoint;
use lateen_envoy::envoy::extensions::upstreams::http::v3 as upstream;
use lateen_envoy::{TypeUrl, from_any};

use super::common::{bind, duration, leftover, limit, socket_address};
use super::{load_balancing, transport};
use crate::cluster::{
    Assignment, BalancePolicy, Cluster, Discovery, Endpoint, Health, Limits, Locality, UpstreamProtocol,
};
use crate::error::{Context, Result};
use crate::listener::Address;
use crate::transport::Labels;

/// A cluster, and its hosts where they are in the configuration.
pub(crate) fn cluster(
    context: &Context<'_>,
    mut value: proto::Cluster,
) -> Result<(Cluster, Option<Assignment>)> {
    if value.name.is_empty() {
        return Err(context.field("name").error("name the cluster"));
    }
    let name: Arc<str> = take(&mut value.name).into();
    let discovery = discovery(context, &mut value, &name)?;
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
    let panic_threshold = common_balancing(context, &mut value);
    let transport = transport::selection(context, &mut value, &discovery)?;
    let compiled = Cluster {
        stat_name: if alternative.is_empty() { stat_name(&name).into() } else { alternative.into() },
        name,
        discovery,
        policy: policy(context, &mut value)?,
        connect_timeout: duration(&context.field("connect_timeout"), value.connect_timeout.take())?
            .unwrap_or(Duration::from_secs(5)),
        protocol: http.protocol,
        limits: limits(context, &mut value),
        idle_timeout: http.idle_timeout,
        max_requests_per_connection: value
            .max_requests_per_connection
            .take()
            .or(http.max_requests_per_connection)
            .filter(|requests| *requests > 0),
        max_connection_duration: http.max_connection_duration,
        bind: match value.upstream_bind_config.take() {
            Some(config) => Some(bind(&context.field("upstream_bind_config"), config)?),
            None => None,
        },
        keepalive: keepalive(context, &mut value),
        panic_threshold,
        dns_refresh: duration(&context.field("dns_refresh_rate"), value.dns_refresh_rate.take())?
            .unwrap_or(Duration::from_secs(5)),
        dns_families: match take(&mut value.dns_lookup_family) {
            1 => (true, false),
            2 => (false, true),
            _ => (true, true),
        },
        max_concurrent_streams: http.max_concurrent_streams,
        initial_stream_window: http.initial_stream_window,
        initial_connection_window: http.initial_connection_window,
        transport,
    };
    // Parsed and kept for later: they change nothing as long as nothing measures health.
    if value.outlier_detection.take().is_some_and(|outlier| outlier != Default::default()) {
        context
            .field("outlier_detection")
            .warn("outlier detection is not supported yet; hosts are not ejected");
    }
    if value.per_connection_buffer_limit_bytes.take().is_some() {
        context
            .field("per_connection_buffer_limit_bytes")
            .warn("buffers have a fixed limit; this one has no effect");
    }
    value.metadata = None;
    // They say what follows from health checks, and those are reported already.
    value.close_connections_on_host_health_failure = false;
    value.ignore_health_on_host_removal = false;
    leftover(context, &value);
    Ok((compiled, assignment))
}

fn stat_name(name: &str) -> String {
    // Envoy replaces the character that separates the parts of its statistics.
    name.replace(':', "_")
}

fn discovery(context: &Context<'_>, value: &mut proto::Cluster, name: &Arc<str>) -> Result<Discovery> {
    let kind = match value.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind)
            .map_err(|_| context.field("type").error(format!("{kind} is not a discovery type")))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(context
                .field("cluster_type")
                .error(format!("clusters of the type `{}` are not supported", custom.name)));
        }
    };
    Ok(match kind {
        DiscoveryType::Static => Discovery::Static,
        DiscoveryType::StrictDns => Discovery::StrictDns,
        DiscoveryType::LogicalDns => Discovery::LogicalDns,
        DiscoveryType::Eds => {
            let config = value.eds_cluster_config.take().unwrap_or_default();
            let service = config.service_name;
            Discovery::Endpoints(if service.is_empty() { Arc::clone(name) } else { service.into() })
        }
        DiscoveryType::OriginalDst => match value.lb_config.take() {
            Some(LbConfig::OriginalDstLbConfig(config)) => Discovery::OriginalDestination {
                use_header: config.use_http_header,
                port: config.upstream_port_override.and_then(|port| u16::try_from(port).ok()),
            },
            _ => Discovery::OriginalDestination { use_header: false, port: None },
        },
    })
}

fn policy(context: &Context<'_>, value: &mut proto::Cluster) -> Result<BalancePolicy> {
    if let Some(policies) = value.load_balancing_policy.take() {
        return load_balancing::policy(&context.field("load_balancing_policy"), policies);
    }
    let number = take(&mut value.lb_policy);
    Ok(match LbPolicy::try_from(number) {
        Ok(LbPolicy::RoundRobin) => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = value.lb_config.take()
                && config.slow_start_config.is_some()
            {
                context
                    .field("round_robin_lb_config.slow_start_config")
                    .warn("slow start is not supported yet");
            }
            BalancePolicy::RoundRobin
        }
        Ok(LbPolicy::LeastRequest) => {
            let choices = match value.lb_config.take() {
                Some(LbConfig::LeastRequestLbConfig(config)) => config.choice_count.unwrap_or(2),
                _ => 2,
            };
            BalancePolicy::LeastRequest { choices }
        }
        Ok(LbPolicy::Random) => BalancePolicy::Random,
        Ok(LbPolicy::ClusterProvided) => BalancePolicy::RoundRobin,
        Ok(other @ (LbPolicy::RingHash | LbPolicy::Maglev)) => {
            context
                .field("lb_policy")
                .warn(format!("{} is not supported yet; hosts are taken at random", other.as_str_name()));
            value.lb_config = None;
            BalancePolicy::Random
        }
        _ => {
            return Err(context
                .field("lb_policy")
                .error(format!("the load balancing policy {number} is not known")));
        }
    })
}

/// The panic threshold, in percent.
fn common_balancing(context: &Context<'_>, value: &mut proto::Cluster) -> u32 {
    use proto::cluster::common_lb_config::LocalityConfigSpecifier;
    let context = context.field("common_lb_config");
    let mut common = value.common_lb_config.take().unwrap_or_default();
    let threshold = common.healthy_panic_threshold.take().map_or(50, |percent| percent.value as u32);
    match common.locality_config_specifier.take() {
        // Weights of localities always count.
        None | Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => {}
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => context
            .field("zone_aware_lb_config")
            .warn("zone-aware balancing is not supported yet; hosts of all zones are chosen alike"),
    }
    leftover(&context, &common);
    threshold
}

fn limits(context: &Context<'_>, value: &mut proto::Cluster) -> Limits {
    let mut limits = Limits::default();
    let mut breakers = value.circuit_breakers.take().unwrap_or_default();
    for (at, mut threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let context = context.field("circuit_breakers.thresholds").index(at);
        if threshold.priority != 0 {
            context
                .field("priority")
                .warn("only the default priority is supported; this threshold has no effect");
            continue;
        }
        // The largest number is how control planes write that there is no limit.
        if threshold.max_pending_requests.is_some_and(|limit| limit != u32::MAX) {
            context
                .field("max_pending_requests")
                .warn("requests that wait are not counted; limit max_connections or max_requests instead");
        }
        limits = Limits {
            connections: threshold.max_connections.take().unwrap_or(limits.connections),
            pending: threshold.max_pending_requests.take().unwrap_or(limits.pending),
            requests: threshold.max_requests.take().unwrap_or(limits.requests),
            retries: threshold.max_retries.take().unwrap_or(limits.retries),
        };
        threshold.track_remaining = false;
        threshold.max_connection_pools = None;
        leftover(&context, &threshold);
    }
    leftover(&context.field("circuit_breakers"), &breakers);
    limits
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
    max_concurrent_streams: Option<u32>,
    initial_stream_window: Option<u32>,
    initial_connection_window: Option<u32>,
}

impl HttpOptions {
    fn http2(&mut self, context: &Context<'_>, mut options: core::Http2ProtocolOptions) {
        self.protocol = UpstreamProtocol::Http2;
        self.max_concurrent_streams = options.max_concurrent_streams.take();
        self.initial_stream_window = options.initial_stream_window_size.take();
        self.initial_connection_window = options.initial_connection_window_size.take();
        leftover(context, &options);
    }

    fn common(&mut self, context: &Context<'_>, mut options: core::HttpProtocolOptions) -> Result<()> {
        self.idle_timeout =
            limit(&context.field("idle_timeout"), options.idle_timeout.take(), self.idle_timeout)?;
        self.max_requests_per_connection = options.max_requests_per_connection.take();
        self.max_connection_duration =
            limit(&context.field("max_connection_duration"), options.max_connection_duration.take(), None)?;
        leftover(context, &options);
        Ok(())
    }
}

fn http_options(context: &Context<'_>, value: &mut proto::Cluster) -> Result<HttpOptions> {
    use upstream::http_protocol_options::UpstreamProtocolOptions;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let mut out = HttpOptions { idle_timeout: Some(Duration::from_secs(3600)), ..HttpOptions::default() };
    if let Some(options) = value.http2_protocol_options.take() {
        out.http2(&context.field("http2_protocol_options"), options);
    }
    value.http_protocol_options = None;
    value.upstream_http_protocol_options = None;
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
        let mut options: upstream::HttpProtocolOptions =
            from_any(&any).map_err(|error| context.error(error))?;
        if let Some(common) = options.common_http_protocol_options.take() {
            out.common(&context.field("common_http_protocol_options"), common)?;
        }
        options.upstream_http_protocol_options = None;
        match options.upstream_protocol_options.take() {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    out.http2(&context.field("explicit_http_config.http2_protocol_options"), http2);
                }
                Some(ProtocolConfig::HttpProtocolOptions(_)) => out.protocol = UpstreamProtocol::Http1,
                _ => return Err(context.field("explicit_http_config").error("HTTP/3 is not supported")),
            },
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                if let Some(http2) = config.http2_protocol_options {
                    out.http2(&context.field("use_downstream_protocol_config.http2_protocol_options"), http2);
                }
                out.protocol = UpstreamProtocol::AsDownstream;
            }
            Some(UpstreamProtocolOptions::AutoConfig(_)) => {
                // ALPN decides, and without TLS there is none: Envoy then speaks HTTP/1.1.
                out.protocol = UpstreamProtocol::Http1;
            }
            None => {}
        }
        leftover(&context, &options);
    }
    Ok(out)
}

/// Compiles a load assignment.
pub(crate) fn load_assignment(
    context: &Context<'_>,
    mut value: endpoint::ClusterLoadAssignment,
) -> Result<Assignment> {
    let mut endpoints = Vec::new();
    for (at, mut locality) in take(&mut value.endpoints).into_iter().enumerate() {
        let context = context.field("endpoints").index(at);
        let place = locality.locality.take().unwrap_or_default();
        let place = Arc::new(Locality {
            region: place.region.into(),
            zone: place.zone.into(),
            sub_zone: place.sub_zone.into(),
        });
        let priority = take(&mut locality.priority);
        if priority > 128 {
            return Err(context.field("priority").error(format!("{priority} is above 128")));
        }
        let locality_weight = locality.load_balancing_weight.take();
        let locality_labels = transport::labels_of(locality.metadata.take());
        for (at, each) in take(&mut locality.lb_endpoints).into_iter().enumerate() {
            let context = context.field("lb_endpoints").index(at);
            if let Some(mut endpoint) = lb_endpoint(&context, each)? {
                endpoint.priority = priority;
                endpoint.locality = Arc::clone(&place);
                // Locality weights count where the cluster's policy asks for them; Istio sends them always.
                endpoint.locality_weight = locality_weight;
                endpoint.locality_labels = locality_labels.clone();
                endpoints.push(endpoint);
            }
        }
        leftover(&context, &locality);
    }
    let mut policy = value.policy.take().unwrap_or_default();
    let overprovisioning = policy.overprovisioning_factor.take().unwrap_or(140);
    leftover(&context.field("policy"), &policy);
    let compiled = Assignment { name: take(&mut value.cluster_name).into(), endpoints, overprovisioning };
    leftover(context, &value);
    Ok(compiled)
}

fn lb_endpoint(context: &Context<'_>, mut value: endpoint::LbEndpoint) -> Result<Option<Endpoint>> {
    use endpoint::lb_endpoint::HostIdentifier;
    let mut inner = match value.host_identifier.take() {
        Some(HostIdentifier::Endpoint(inner)) => inner,
        _ => return Err(context.error("an endpoint needs an `endpoint` with an address")),
    };
    let address = inner
        .address
        .take()
        .ok_or_else(|| context.field("endpoint.address").error("the address is missing"))?;
    let address = host_address(&context.field("endpoint.address"), address)?;
    let health = match take(&mut value.health_status) {
        2..=4 => Health::Unhealthy,
        5 => Health::Degraded,
        _ => Health::Healthy,
    };
    let weight = value.load_balancing_weight.take().unwrap_or(1).max(1);
    let labels = transport::labels_of(value.metadata.take());
    let hostname = take(&mut inner.hostname);
    inner.health_check_config = None;
    leftover(&context.field("endpoint"), &inner);
    leftover(context, &value);
    Ok(Some(Endpoint {
        address,
        hostname: hostname.into(),
        weight,
        health,
        priority: 0,
        locality: Arc::default(),
        locality_weight: None,
        labels,
        locality_labels: Labels::default(),
    }))
}

/// The address of a host; names are allowed.
fn host_address(context: &Context<'_>, value: core::Address) -> Result<Address> {
    use core::address::Address as Proto;
    Ok(match value.address {
        Some(Proto::SocketAddress(socket)) => match socket.address.parse::<std::net::IpAddr>() {
            Ok(_) => Address::Socket(socket_address(&context.field("socket_address"), &socket)?),
            Err(_) => match socket.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(port)) => {
                    let port = u16::try_from(port).map_err(|_| {
                        context.field("socket_address.port_value").error("this is not a port")
                    })?;
                    Address::Name(socket.address.into(), port)
                }
                _ => return Err(context.field("socket_address").error("port_value is missing")),
            },
        },
        Some(Proto::Pipe(pipe)) => Address::Pipe(pipe.path.into()),
        Some(Proto::EnvoyInternalAddress(internal)) => match internal.address_name_specifier {
            Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(name)) => {
                Address::Internal(name.into())
            }
            None => return Err(context.field("envoy_internal_address").error("name the listener")),
        },
        None => return Err(context.error("the address is empty")),
    })
}
