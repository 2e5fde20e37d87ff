//! Which namespaces the mesh sees (`discoverySelectors`), and which network a workload belongs to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lateen_api::mesh::{DiscoverySelector, MatchExpression};
use lateen_model::{AddressRange, ClusterId, MeshConfig, MeshNetworks, NamespaceInfo, NetworkId};

/// The label by which Pods, and the root namespace for a whole cluster, name their network.
const NETWORK: &str = "topology.istio.io/network";

/// What the mesh's settings say of namespaces and networks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Places {
    root_namespace: String,
    selectors: Vec<DiscoverySelector>,
    by_cluster: BTreeMap<ClusterId, NetworkId>,
    ranges: Vec<(AddressRange, NetworkId)>,
}

impl Places {
    pub(super) fn new(root_namespace: &str, mesh: &MeshConfig, networks: &MeshNetworks) -> Self {
        let mut by_cluster: BTreeMap<ClusterId, NetworkId> = BTreeMap::new();
        let mut ranges: Vec<(AddressRange, NetworkId)> = Vec::new();
        for (name, network) in &networks.networks {
            for endpoints in &network.endpoints {
                if !endpoints.from_registry.is_empty() {
                    let cluster = endpoints.from_registry.as_str().into();
                    by_cluster.entry(cluster).or_insert_with(|| name.as_str().into());
                }
                if let Ok(range) = endpoints.from_cidr.parse() {
                    ranges.push((range, name.as_str().into()));
                }
            }
        }
        // The narrowest range that has an address counts.
        ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_length()));
        Self {
            root_namespace: root_namespace.to_owned(),
            selectors: mesh.discovery_selectors.clone(),
            by_cluster,
            ranges,
        }
    }

    /// Whether the mesh sees a namespace of a platform. Everything is seen where nothing is selected, the root namespace
    /// always, and so is all of a platform that tells of no namespaces.
    pub(super) fn shows(&self, namespace: &str, namespaces: &BTreeMap<String, NamespaceInfo>) -> bool {
        self.selectors.is_empty()
            || namespace == self.root_namespace
            || namespaces.is_empty()
            || namespaces
                .get(namespace)
                .is_some_and(|info| self.selectors.iter().any(|selector| matches(selector, &info.labels)))
    }

    /// The network of a workload: its own word, its cluster's root namespace's, that of the mesh's networks.
    pub(super) fn network(
        &self,
        own: &NetworkId,
        cluster: &ClusterId,
        namespaces: &BTreeMap<String, NamespaceInfo>,
        address: Option<&IpAddr>,
    ) -> NetworkId {
        if !own.as_str().is_empty() {
            return own.clone();
        }
        if let Some(network) = self.of_namespace(namespaces).or_else(|| self.by_cluster.get(cluster).cloned())
        {
            return network;
        }
        let range =
            address.and_then(|address| self.ranges.iter().find(|(range, _)| range.contains(*address)));
        range.map(|(_, network)| network.clone()).unwrap_or_default()
    }

    /// What a cluster's root namespace says of the network of all its workloads.
    pub(super) fn of_namespace(&self, namespaces: &BTreeMap<String, NamespaceInfo>) -> Option<NetworkId> {
        let label = namespaces.get(&self.root_namespace)?.labels.get(NETWORK)?;
        (!label.is_empty()).then(|| label.as_str().into())
    }
}

/// Kubernetes' rule for label selectors: all parts must hold.
fn matches(selector: &DiscoverySelector, labels: &BTreeMap<String, String>) -> bool {
    let holds = |expression: &MatchExpression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.contains(value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        for (name, selector, expected) in [
            ("label", "matchLabels: {team: a}", true),
            ("other value", "matchLabels: {team: b}", false),
            ("in", "matchExpressions: [{key: team, operator: In, values: [a, b]}]", true),
            ("not in", "matchExpressions: [{key: team, operator: NotIn, values: [a, b]}]", false),
            ("not in, absent", "matchExpressions: [{key: x, operator: NotIn, values: [a]}]", true),
            ("exists", "matchExpressions: [{key: team, operator: Exists}]", true),
            ("does not exist", "matchExpressions: [{key: team, operator: DoesNotExist}]", false),
            ("unknown operator", "matchExpressions: [{key: team, operator: Near}]", false),
            ("all parts", "{matchLabels: {team: a}, matchExpressions: [{key: x, operator: Exists}]}", false),
            ("empty", "{}", true),
        ] {
            let selector: DiscoverySelector = serde_saphyr::from_str(selector).unwrap();
            assert_eq!(matches(&selector, &labels), expected, "{name}");
        }
    }

    #[test]
    fn networks() {
        let networks: MeshNetworks = serde_saphyr::from_str(
            "networks: {n1: {endpoints: [{fromRegistry: c1}]}, n2: {endpoints: [{fromCidr: 10.0.0.0/8}]}, \
             n3: {endpoints: [{fromCidr: 10.1.0.0/16}]}}",
        )
        .unwrap();
        let places = Places::new("istio-system", &MeshConfig::default(), &networks);
        let labelled = NamespaceInfo { labels: [(NETWORK.to_owned(), "n4".to_owned())].into() };
        let labelled = BTreeMap::from([("istio-system".to_owned(), labelled)]);
        let none = BTreeMap::new();
        for (name, own, cluster, namespaces, address, expected) in [
            ("own", "n0", "c1", &labelled, "10.0.0.1", "n0"),
            ("namespace", "", "c1", &labelled, "10.0.0.1", "n4"),
            ("cluster", "", "c1", &none, "10.0.0.1", "n1"),
            ("range", "", "c2", &none, "10.0.0.1", "n2"),
            ("narrower range", "", "c2", &none, "10.1.0.1", "n3"),
            ("none", "", "c2", &none, "192.0.2.1", ""),
        ] {
            let address = address.parse().unwrap();
            let network = places.network(&own.into(), &cluster.into(), namespaces, Some(&address));
            assert_eq!(network.as_str(), expected, "{name}");
        }
    }
}
