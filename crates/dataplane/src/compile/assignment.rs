//! `ClusterLoadAssignment`: the hosts of a cluster.

use std::mem::take;
use std::sync::{Arc, LazyLock};

use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::envoy::config::endpoint::v3 as endpoint;

use super::common::{duration, leftover, socket_address};
use super::{metadata, transport};
use crate::balance::HostLabels;
use crate::cluster::{Assignment, Endpoint, HealthFlags, Locality};
use crate::error::{Context, Result};
use crate::health::HealthCheckTarget;
use crate::listener::Address;
use crate::transport::Labels;

/// What most endpoints have, once for all of them.
static NO_PLACE: LazyLock<Arc<Locality>> = LazyLock::new(Arc::default);
static NO_LABELS: LazyLock<Arc<HostLabels>> = LazyLock::new(Arc::default);
static USUAL_CHECK: LazyLock<Arc<HealthCheckTarget>> = LazyLock::new(Arc::default);

/// Compiles a load assignment.
pub(crate) fn load_assignment(
    context: &Context<'_>,
    mut value: endpoint::ClusterLoadAssignment,
) -> Result<Assignment> {
    let mut endpoints = Vec::new();
    for (at, mut locality) in take(&mut value.endpoints).into_iter().enumerate() {
        let context = context.field("endpoints").index(at);
        let place = match locality.locality.take() {
            None => Arc::clone(&NO_PLACE),
            Some(place) => Arc::new(Locality {
                region: place.region.into(),
                zone: place.zone.into(),
                sub_zone: place.sub_zone.into(),
            }),
        };
        let priority = take(&mut locality.priority);
        if priority > 128 {
            return Err(context.field("priority").error(format!("{priority} is above 128")));
        }
        let locality_weight = locality.load_balancing_weight.take();
        let locality_labels = transport::labels_of(locality.metadata.take());
        // It orders localities for policies that do not exist here.
        locality.proximity = None;
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
    let compiled = Assignment {
        name: take(&mut value.cluster_name).into(),
        endpoints,
        overprovisioning,
        weighted_health: take(&mut policy.weighted_priority_health),
        stale_after: duration(
            &context.field("policy.endpoint_stale_after"),
            policy.endpoint_stale_after.take(),
        )?
        .filter(|time| !time.is_zero()),
    };
    leftover(&context.field("policy"), &policy);
    value.named_endpoints.clear();
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
    let discovered = match take(&mut value.health_status) {
        3 => HealthFlags::DRAINING,
        2 | 4 => HealthFlags::FAILED_DISCOVERY,
        5 => HealthFlags::DEGRADED_DISCOVERY,
        _ => HealthFlags::default(),
    };
    let weight = value.load_balancing_weight.take().unwrap_or(1).max(1);
    let balancing_labels =
        metadata::host_labels(value.metadata.as_ref()).map_or_else(|| Arc::clone(&NO_LABELS), Arc::new);
    let metadata = super::common::metadata(value.metadata.clone());
    let labels = transport::labels_of(value.metadata.take());
    let hostname = take(&mut inner.hostname);
    let check = match inner.health_check_config.take() {
        Some(config) => Arc::new(check_target(&context.field("endpoint.health_check_config"), config)?),
        None => Arc::clone(&USUAL_CHECK),
    };
    let additional = take(&mut inner.additional_addresses)
        .into_iter()
        .enumerate()
        .map(|(at, additional)| {
            let context = context.field("endpoint.additional_addresses").index(at);
            match host_address(&context, additional.address.unwrap_or_default())? {
                address @ Address::Socket(_) => Ok(address),
                _ => Err(context.error("an additional address is an IP address with a port")),
            }
        })
        .collect::<Result<Arc<[Address]>>>()?;
    // A name for statistics by host; hosts are shown by their addresses.
    inner.observability_name.clear();
    leftover(&context.field("endpoint"), &inner);
    leftover(context, &value);
    Ok(Some(Endpoint {
        address,
        additional: (!additional.is_empty()).then_some(additional),
        hostname: hostname.into(),
        weight,
        discovered,
        priority: 0,
        locality: Arc::clone(&NO_PLACE),
        locality_weight: None,
        transport: 0,
        labels,
        locality_labels: Labels::default(),
        balancing_labels,
        metadata,
        check,
    }))
}

fn check_target(
    context: &Context<'_>,
    config: endpoint::endpoint::HealthCheckConfig,
) -> Result<HealthCheckTarget> {
    Ok(HealthCheckTarget {
        port: u16::try_from(config.port_value).ok().filter(|port| *port != 0),
        address: config
            .address
            .map(|address| host_address(&context.field("address"), address))
            .transpose()?,
        hostname: config.hostname.into(),
        disabled: config.disable_active_health_check,
    })
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
