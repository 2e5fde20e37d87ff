//! Clusters (`ClusterImplBase`, `StaticClusterImpl`, `LogicalDnsCluster`, `OriginalDstCluster` of Envoy).

use lateen_envoy::envoy::config::cluster::v3 as proto;
use lateen_envoy::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

use super::source::config_source;
use crate::error::{Context, Result};

/// Refuses a cluster whose kind contradicts what else it says.
pub(crate) fn cluster(context: &Context<'_>, value: &proto::Cluster) -> Result<()> {
    let kind = match &value.cluster_discovery_type {
        None => Some(DiscoveryType::Static),
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).ok(),
        Some(ClusterDiscoveryType::ClusterType(_)) => None,
    };
    endpoints(context, value, kind)?;
    let provided = value.lb_policy == LbPolicy::ClusterProvided as i32;
    if kind == Some(DiscoveryType::OriginalDst) {
        if !provided && value.load_balancing_policy.is_none() {
            return Err(context
                .field("lb_policy")
                .error("a cluster of the type ORIGINAL_DST needs CLUSTER_PROVIDED"));
        }
        if value.load_assignment.is_some() {
            return Err(context
                .field("load_assignment")
                .error("a cluster of the type ORIGINAL_DST has no endpoints of its own; remove them"));
        }
    } else if provided && kind.is_some() {
        return Err(context.field("lb_policy").error(
            "this type of cluster provides no balancing; choose another policy, such as ROUND_ROBIN",
        ));
    }
    if kind == Some(DiscoveryType::LogicalDns) {
        let localities = value.load_assignment.iter().flat_map(|assignment| &assignment.endpoints);
        let hosts: Vec<usize> = localities.map(|locality| locality.lb_endpoints.len()).collect();
        if hosts != [1] {
            return Err(context
                .field("load_assignment.endpoints")
                .error("a cluster of the type LOGICAL_DNS has one locality with one endpoint"));
        }
    }
    Ok(())
}

fn endpoints(context: &Context<'_>, value: &proto::Cluster, kind: Option<DiscoveryType>) -> Result<()> {
    let config = value.eds_cluster_config.as_ref();
    if kind != Some(DiscoveryType::Eds) {
        return match config {
            Some(_) => Err(context
                .field("eds_cluster_config")
                .error("only clusters of the type EDS take this; set the type or remove it")),
            None => Ok(()),
        };
    }
    let source = config.and_then(|config| config.eds_config.as_ref()).ok_or_else(|| {
        context
            .field("eds_cluster_config.eds_config")
            .error("say where the endpoints come from, such as ads: {}")
    })?;
    config_source(&context.field("eds_cluster_config.eds_config"), source)
}
