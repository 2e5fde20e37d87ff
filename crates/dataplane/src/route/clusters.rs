//! The clusters that a route table names.

use std::sync::Arc;

use super::{Action, ClusterSpecifier, Mirror, Route, RouteTable};

impl RouteTable {
    /// The first cluster that is named and not known, and the path of the field that names it. Routes of trees are not
    /// looked at, as in Envoy.
    pub fn unknown_cluster(&self, is_known: &dyn Fn(&str) -> bool) -> Option<(String, Arc<str>)> {
        let hosts = self.virtual_hosts.iter().enumerate();
        hosts
            .flat_map(|(host, virtual_host)| {
                virtual_host.routes.iter().enumerate().map(move |(at, route)| (host, at, route))
            })
            .find_map(|(host, at, route)| {
                let (field, name) = unknown_of_route(route, is_known)?;
                Some((format!("virtual_hosts[{host}].routes[{at}].route.{field}"), name))
            })
    }
}

fn unknown_of_route(route: &Route, is_known: &dyn Fn(&str) -> bool) -> Option<(String, Arc<str>)> {
    let Action::Forward(forward) = &route.action else { return None };
    let unknown = |name: &Arc<str>| !name.is_empty() && !is_known(name);
    match &forward.cluster {
        ClusterSpecifier::Named(name) if unknown(name) => {
            return Some(("cluster".to_owned(), Arc::clone(name)));
        }
        ClusterSpecifier::Weighted { clusters, .. } => {
            if let Some((at, one)) = clusters.iter().enumerate().find(|(_, one)| unknown(&one.name)) {
                return Some((format!("weighted_clusters.clusters[{at}].name"), Arc::clone(&one.name)));
            }
        }
        _ => {}
    }
    let wrong = |(_, mirror): &(usize, &Mirror)| unknown(&mirror.cluster);
    let (at, mirror) = forward.mirrors.iter().enumerate().find(wrong)?;
    Some((format!("request_mirror_policies[{at}].cluster"), Arc::clone(&mirror.cluster)))
}
