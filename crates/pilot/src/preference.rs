//! Which endpoints a client prefers: by locality, by labels, by shares (Istio's reference, "LocalityLoadBalancerSetting"
//! and "ZoneAwareLoadBalancerSetting").

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use lateen_api::mesh::MeshConfig;
use lateen_api::networking::{
    LocalityDistribute, LocalityFailover, LocalityLoadBalancerSetting, TrafficPolicy,
    ZoneAwareLoadBalancerSetting,
};
use lateen_model::{
    ChangeSet, ConfigKey, ConfigKind, Locality, Service, ServiceKey, Snapshot, TrafficDistribution, Workload,
};
use serde::Serialize;

use crate::ProxyNode;

/// What a client prefers among the endpoints of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Preference {
    distribute: Vec<LocalityDistribute>,
    failover: Vec<LocalityFailover>,
    failover_priority: Vec<String>,
    /// Zone-aware: the least number of endpoints, where it is said.
    zone_aware: Option<Option<u32>>,
    /// Whether farther endpoints take over: only where it is found out that near ones are ill, or where a service asks.
    fails_over: bool,
}

/// Where a client is, as far as what it prefers depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// Where it runs.
    pub locality: Locality,
    /// Those of its labels that some `failoverPriority` asks for.
    pub labels: BTreeMap<String, String>,
}

/// Endpoints of one locality and priority.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group<M> {
    pub(crate) locality: Locality,
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) members: Vec<M>,
}

/// An endpoint, as far as it matters for whether it is preferred.
pub(crate) trait Member {
    /// The value of a label.
    fn label(&self, name: &str) -> Option<&str>;
    /// Its share of the load.
    fn weight(&self) -> u32;
}

impl Preference {
    /// What counts for a cluster: the rule's word, the service's, the mesh's. `None` where it changes nothing.
    pub(crate) fn new(mesh: &MeshConfig, policy: &TrafficPolicy, service: &Service) -> Option<Self> {
        let balancer = policy.load_balancer.as_ref();
        let zones = balancer.and_then(|balancer| balancer.zone_aware_lb_setting.as_ref());
        let rule = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        let ejects = policy.outlier_detection.is_some();
        let of_mesh = mesh.zone_aware_lb_setting.as_ref().filter(|_| rule.is_none());
        if let Some(zones) = zone_aware(zones, of_mesh) {
            return Some(Self {
                failover: zones.failover.clone(),
                failover_priority: zones.failover_priority.clone(),
                zone_aware: Some(zones.min_cluster_size),
                fails_over: true,
                ..Self::default()
            });
        }
        if rule.is_none()
            && let Some(asked) = of_service(service)
        {
            return Some(Self { failover_priority: asked, fails_over: true, ..Self::default() });
        }
        let setting = rule.or(mesh.locality_lb_setting.as_ref())?;
        if setting.enabled == Some(false) {
            return None;
        }
        Self::of_localities(setting, ejects)
    }

    fn of_localities(setting: &LocalityLoadBalancerSetting, ejects: bool) -> Option<Self> {
        if !setting.distribute.is_empty() {
            return Some(Self { distribute: setting.distribute.clone(), ..Self::default() });
        }
        ejects.then(|| Self {
            failover: setting.failover.clone(),
            failover_priority: setting.failover_priority.clone(),
            fails_over: true,
            ..Self::default()
        })
    }

    /// Whether endpoints are chosen by the weights of their localities first.
    pub(crate) fn weighs_localities(&self) -> bool {
        let orders = !self.failover.is_empty() || !self.failover_priority.is_empty();
        self.zone_aware.is_none() && (!self.distribute.is_empty() || (self.fails_over && orders))
    }

    /// Whether Envoy keeps requests in the client's zone, and from how many endpoints on.
    pub(crate) fn zone_aware(&self) -> Option<Option<u32>> {
        self.zone_aware
    }

    /// Sets weights and priorities as a client in this place wants them.
    pub(crate) fn apply<M: Member>(&self, place: &Place, mut groups: Vec<Group<M>>) -> Vec<Group<M>> {
        if !self.distribute.is_empty() {
            return distribute(&self.distribute, &place.locality, groups);
        }
        if !self.fails_over {
            return groups;
        }
        if !self.failover_priority.is_empty() {
            groups = by_labels(&self.failover_priority, &place.labels, groups);
        }
        let regions = self.zone_aware.is_some();
        if self.failover_priority.is_empty() || !self.failover.is_empty() {
            by_distance(&self.failover, &place.locality, regions, &mut groups);
        }
        groups
    }
}

/// What of zone-aware balancing counts, if it is on: a rule that leaves `enabled` open follows the mesh.
fn zone_aware<'a>(
    rule: Option<&'a ZoneAwareLoadBalancerSetting>,
    mesh: Option<&'a ZoneAwareLoadBalancerSetting>,
) -> Option<&'a ZoneAwareLoadBalancerSetting> {
    let is_on = |setting: &ZoneAwareLoadBalancerSetting| setting.enabled == Some(true);
    match rule {
        Some(rule) => rule.enabled.unwrap_or_else(|| mesh.is_none_or(is_on)).then_some(rule),
        None => mesh.filter(|mesh| is_on(mesh)),
    }
}

/// The order that a service asks for by `trafficDistribution`.
fn of_service(service: &Service) -> Option<Vec<String>> {
    let near = ["topology.istio.io/network", REGION, ZONE, "topology.istio.io/subzone"];
    let asked: Vec<&str> = match service.traffic_distribution {
        TrafficDistribution::Any => return None,
        TrafficDistribution::PreferSameZone => near.to_vec(),
        TrafficDistribution::PreferSameNode => near.into_iter().chain([NODE]).collect(),
    };
    Some(asked.into_iter().map(str::to_owned).collect())
}

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The label with a node's name.
const NODE: &str = "kubernetes.io/hostname";

/// Who asks where clients are: as long as nobody does, clients of all zones and nodes share a class.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Rules that prefer by place, and the labels that they ask clients for.
    rules: HashMap<ConfigKey, BTreeSet<String>>,
    by_zone: HashSet<ServiceKey>,
    by_node: HashSet<ServiceKey>,
    mesh: Option<BTreeSet<String>>,
}

impl Asked {
    /// Takes in what changed, and says whether clients may be asked something else now.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, changes: &ChangeSet) -> bool {
        if changes.full || changes.mesh {
            *self = Self { mesh: asked_by_mesh(snapshot.mesh()), ..Self::default() };
            snapshot.configs().destination_rules.keys().for_each(|key| {
                self.put_rule(snapshot, key);
            });
            snapshot.services().for_each(|service| {
                self.put_service(snapshot, &service.key);
            });
            return true;
        }
        let mut differs = false;
        for reference in changes.configs.iter().filter(|one| one.kind == ConfigKind::DestinationRule) {
            let key = ConfigKey { namespace: reference.namespace.clone(), name: reference.name.clone() };
            differs |= self.put_rule(snapshot, &key);
        }
        for key in &changes.services {
            differs |= self.put_service(snapshot, key);
        }
        differs
    }

    fn put_rule(&mut self, snapshot: &Snapshot, key: &ConfigKey) -> bool {
        let old = self.rules.remove(key);
        let Some(rule) = snapshot.configs().destination_rules.get(key) else { return old.is_some() };
        let subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
        let mut labels: Option<BTreeSet<String>> = None;
        for asked in rule.spec.traffic_policy.iter().chain(subsets).filter_map(asked_by) {
            labels.get_or_insert_default().extend(asked);
        }
        let differs = old != labels;
        if let Some(labels) = labels {
            self.rules.insert(key.clone(), labels);
        }
        differs
    }

    fn put_service(&mut self, snapshot: &Snapshot, key: &ServiceKey) -> bool {
        let old = (self.by_zone.remove(key), self.by_node.remove(key));
        let Some(service) = snapshot.service(key) else { return old != (false, false) };
        match service.traffic_distribution {
            TrafficDistribution::Any => {}
            TrafficDistribution::PreferSameZone => {
                self.by_zone.insert(key.clone());
            }
            TrafficDistribution::PreferSameNode => {
                self.by_node.insert(key.clone());
            }
        }
        if service.node_local {
            self.by_node.insert(key.clone());
        }
        old != (self.by_zone.contains(key), self.by_node.contains(key))
    }

    /// What of a client's place is part of its class.
    pub(crate) fn place(&self, node: &ProxyNode, workload: Option<&Workload>) -> Option<Arc<Place>> {
        let matters = self.mesh.is_some()
            || !self.rules.is_empty()
            || !self.by_zone.is_empty()
            || !self.by_node.is_empty();
        if !matters {
            return None;
        }
        let locality = match workload {
            Some(workload) if node.locality.is_empty() => &*workload.locality,
            _ => &node.locality,
        };
        let own = workload.map_or(&node.labels, |workload| &workload.labels);
        let mut labels = BTreeMap::new();
        for name in self.mesh.iter().flatten().chain(self.rules.values().flatten()) {
            let value = match own.get(name).filter(|value| !value.is_empty()) {
                Some(value) => Some(value.as_str()),
                None => place_label(name, locality, &node.cluster, &node.network),
            };
            labels.extend(value.map(|value| (name.clone(), value.to_owned())));
        }
        if !self.by_zone.is_empty() || !self.by_node.is_empty() {
            for name in ["topology.istio.io/network", REGION, ZONE, "topology.istio.io/subzone"] {
                let value = place_label(name, locality, &node.cluster, &node.network);
                labels.extend(value.map(|value| (name.to_owned(), value.to_owned())));
            }
        }
        if !self.by_node.is_empty() && !node.node.is_empty() {
            labels.insert(NODE.to_owned(), node.node.clone());
        }
        Some(Arc::new(Place { locality: locality.clone(), labels }))
    }
}

impl Place {
    /// The name of the node, where some service depends on it.
    pub(crate) fn node(&self) -> &str {
        self.labels.get(NODE).map_or("", String::as_str)
    }
}

fn asked_by_mesh(mesh: &MeshConfig) -> Option<BTreeSet<String>> {
    let mut asked = mesh.default_traffic_policy.as_ref().and_then(asked_by);
    if let Some(setting) = &mesh.locality_lb_setting {
        // The order counts once a rule ejects hosts, and shares always.
        if !setting.distribute.is_empty() || !setting.failover_priority.is_empty() {
            asked.get_or_insert_default().extend(names(&setting.failover_priority));
        }
    }
    if let Some(zones) = &mesh.zone_aware_lb_setting {
        asked.get_or_insert_default().extend(names(&zones.failover_priority));
    }
    asked
}

/// The labels of clients that a policy asks for; `None` where it does not matter where a client is.
fn asked_by(policy: &TrafficPolicy) -> Option<BTreeSet<String>> {
    let ports = policy.port_level_settings.iter().map(|port| (&port.load_balancer, &port.outlier_detection));
    let mut asked: Option<BTreeSet<String>> = None;
    for (balancer, outlier) in ports.chain([(&policy.load_balancer, &policy.outlier_detection)]) {
        if outlier.is_some() {
            asked.get_or_insert_default();
        }
        let Some(balancer) = balancer else { continue };
        if let Some(setting) = &balancer.locality_lb_setting {
            asked.get_or_insert_default().extend(names(&setting.failover_priority));
        }
        if let Some(zones) = &balancer.zone_aware_lb_setting {
            asked.get_or_insert_default().extend(names(&zones.failover_priority));
        }
    }
    asked
}

/// The names of labels of which the client's own value counts.
fn names(labels: &[String]) -> impl Iterator<Item = String> {
    labels.iter().filter(|label| !label.contains('=')).cloned()
}

/// The labels that say where something is, as Istio's registry adds them to every endpoint.
pub(crate) fn place_label<'a>(
    name: &str,
    locality: &'a Locality,
    cluster: &'a str,
    network: &'a str,
) -> Option<&'a str> {
    let value = match name {
        REGION | "failure-domain.beta.kubernetes.io/region" => &locality.region,
        ZONE | "failure-domain.beta.kubernetes.io/zone" => &locality.zone,
        "topology.istio.io/subzone" => &locality.subzone,
        "topology.istio.io/cluster" => cluster,
        "topology.istio.io/network" => network,
        _ => return None,
    };
    (!value.is_empty()).then_some(value)
}

/// Whether a locality is meant by `region/zone/subzone`, of which later parts may be left out or be `*`.
fn is_meant(locality: &Locality, pattern: &str) -> bool {
    let mut parts = pattern.splitn(3, '/');
    let mut part = |value: &str, may_lack: bool| match parts.next() {
        None | Some("") => may_lack,
        Some("*") => true,
        Some(wanted) => wanted == value,
    };
    part(&locality.region, false) && part(&locality.zone, true) && part(&locality.subzone, true)
}

fn distribute<M: Member>(
    settings: &[LocalityDistribute],
    client: &Locality,
    mut groups: Vec<Group<M>>,
) -> Vec<Group<M>> {
    let Some(setting) = settings.iter().find(|setting| is_meant(client, &setting.from)) else {
        return groups;
    };
    // A pattern takes what no narrower one takes.
    let mut shares: Vec<(&String, u32)> =
        setting.to.iter().map(|(pattern, share)| (pattern, *share)).collect();
    shares.sort_by_key(|(pattern, _)| {
        std::cmp::Reverse(pattern.split('/').filter(|part| !part.is_empty() && *part != "*").count())
    });
    let mut kept = Vec::new();
    for (pattern, share) in shares {
        let (mut meant, others): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| is_meant(&group.locality, pattern));
        groups = others;
        let total: u64 = meant.iter().map(|group| u64::from(group.weight.max(1))).sum();
        for group in &mut meant {
            let weighed = u64::from(group.weight.max(1)) * u64::from(share);
            group.weight = weighed.div_ceil(total.max(1)) as u32;
        }
        if share > 0 {
            kept.extend(meant);
        }
    }
    kept.sort_by(|left, right| left.locality.cmp(&right.locality));
    kept
}

/// Priorities by how many of the labels, in their order, an endpoint has in common with the client.
fn by_labels<M: Member>(
    wanted: &[String],
    client: &BTreeMap<String, String>,
    groups: Vec<Group<M>>,
) -> Vec<Group<M>> {
    let wanted: Vec<(&str, &str)> = wanted
        .iter()
        .map(|label| match label.split_once('=') {
            Some((name, value)) => (name, value),
            None => (label.as_str(), client.get(label).map_or("", String::as_str)),
        })
        .collect();
    let mut made = Vec::new();
    for group in groups {
        let mut parts: BTreeMap<u32, Group<M>> = BTreeMap::new();
        for member in group.members {
            let differs =
                wanted.iter().position(|(name, value)| member.label(name).unwrap_or_default() != *value);
            let priority = differs.map_or(0, |index| wanted.len() - index) as u32;
            let part = parts.entry(priority).or_insert_with(|| Group {
                locality: group.locality.clone(),
                priority,
                weight: 0,
                members: Vec::new(),
            });
            part.weight = part.weight.saturating_add(member.weight());
            part.members.push(member);
        }
        made.extend(parts.into_values());
    }
    without_gaps(&mut made);
    made
}

/// Priorities by distance: the same subzone, zone, region, then the region named for failing over, then the rest. With
/// `regions`, all of the client's region is equally near.
fn by_distance<M>(failover: &[LocalityFailover], client: &Locality, regions: bool, groups: &mut [Group<M>]) {
    let target = failover.iter().find(|setting| setting.from == client.region).map(|setting| &setting.to);
    for group in &mut *groups {
        let other = &group.locality;
        let distance = if other.region != client.region {
            match target {
                Some(target) if *target != other.region => 4,
                _ => 3,
            }
        } else if regions {
            0
        } else if other.zone != client.zone {
            2
        } else {
            u32::from(other.subzone != client.subzone)
        };
        group.priority = group.priority * 5 + distance;
    }
    without_gaps(groups);
}

/// Envoy wants priorities from 0 on without gaps.
fn without_gaps<M>(groups: &mut [Group<M>]) {
    let used: BTreeSet<u32> = groups.iter().map(|group| group.priority).collect();
    for group in groups {
        group.priority = used.range(..group.priority).count() as u32;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Its weight and a label `app`.
    impl Member for (u32, &str) {
        fn label(&self, name: &str) -> Option<&str> {
            (name == "app").then_some(self.1)
        }
        fn weight(&self) -> u32 {
            self.0
        }
    }

    fn groups(list: &[&str]) -> Vec<Group<(u32, &'static str)>> {
        let group = |locality: &&str| Group {
            locality: Locality::parse(locality),
            priority: 0,
            weight: 2,
            members: vec![(1, "x"), (1, "y")],
        };
        list.iter().map(group).collect()
    }

    fn made(policy: serde_json::Value, list: &[&str]) -> Option<Vec<String>> {
        let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
        let preference = Preference::new(&MeshConfig::default(), &policy, &service())?;
        let labels = BTreeMap::from([("app".to_owned(), "x".to_owned())]);
        let place = Place { locality: Locality::parse("r1/z1/s1"), labels };
        let text = |group: Group<(u32, &str)>| {
            let Locality { region, zone, subzone } = &group.locality;
            let members: Vec<&str> = group.members.iter().map(|member| member.1).collect();
            format!("{region}/{zone}/{subzone} {} {} {}", group.priority, group.weight, members.concat())
        };
        Some(preference.apply(&place, groups(list)).into_iter().map(text).collect())
    }

    fn service() -> Service {
        let key = ServiceKey { hostname: "a".into(), namespace: "ns".into(), cluster: "c".into() };
        Service::new(key)
    }

    #[test]
    fn preferences() {
        let all = &["r1/z1/s1", "r1/z1/s2", "r1/z2/s1", "r2/z1/s1", "r3/z1/s1"][..];
        let outlier = json!({"interval": "1s"});
        for (name, policy, list, expected) in [
            ("nothing", json!({}), all, None),
            (
                "turned off",
                json!({"outlierDetection": outlier, "loadBalancer": {"localityLbSetting": {"enabled": false}}}),
                all,
                None,
            ),
            (
                "by distance once who is ill is found out",
                json!({"outlierDetection": outlier}),
                all,
                Some(vec![
                    "r1/z1/s1 0 2 xy",
                    "r1/z1/s2 1 2 xy",
                    "r1/z2/s1 2 2 xy",
                    "r2/z1/s1 3 2 xy",
                    "r3/z1/s1 3 2 xy",
                ]),
            ),
            (
                "no gaps",
                json!({"outlierDetection": outlier}),
                &["r1/z2/s1", "r2/z1/s1"][..],
                Some(vec!["r1/z2/s1 0 2 xy", "r2/z1/s1 1 2 xy"]),
            ),
            (
                "a region that takes over",
                json!({"outlierDetection": outlier, "loadBalancer": {"localityLbSetting": {"failover": [{"from": "r1", "to": "r3"}]}}}),
                &["r1/z1/s1", "r2/z1/s1", "r3/z1/s1"][..],
                Some(vec!["r1/z1/s1 0 2 xy", "r2/z1/s1 2 2 xy", "r3/z1/s1 1 2 xy"]),
            ),
            (
                "labels",
                json!({"outlierDetection": outlier, "loadBalancer": {"localityLbSetting": {"failoverPriority": ["app"]}}}),
                &["r1/z1/s1", "r2/z1/s1"][..],
                Some(vec!["r1/z1/s1 0 1 x", "r1/z1/s1 1 1 y", "r2/z1/s1 0 1 x", "r2/z1/s1 1 1 y"]),
            ),
            (
                "labels with values",
                json!({"outlierDetection": outlier, "loadBalancer": {"localityLbSetting": {"failoverPriority": ["app=y"]}}}),
                &["r1/z1/s1"][..],
                Some(vec!["r1/z1/s1 0 1 y", "r1/z1/s1 1 1 x"]),
            ),
            (
                "shares",
                json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r1/*", "to": {"r1/z1/*": 70, "r2/*": 30}}]}}}),
                all,
                Some(vec!["r1/z1/s1 0 35 xy", "r1/z1/s2 0 35 xy", "r2/z1/s1 0 30 xy"]),
            ),
            (
                "shares of others",
                json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r9/*", "to": {"r1/*": 100}}]}}}),
                &["r1/z1/s1"][..],
                Some(vec!["r1/z1/s1 0 2 xy"]),
            ),
            (
                "a narrower share first",
                json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "*", "to": {"*": 20, "r1/z1/s1": 80}}]}}}),
                &["r1/z1/s1", "r2/z1/s1"][..],
                Some(vec!["r1/z1/s1 0 80 xy", "r2/z1/s1 0 20 xy"]),
            ),
            (
                "zones are Envoy's, regions are ours",
                json!({"loadBalancer": {"zoneAwareLbSetting": {"enabled": true}}}),
                all,
                Some(vec![
                    "r1/z1/s1 0 2 xy",
                    "r1/z1/s2 0 2 xy",
                    "r1/z2/s1 0 2 xy",
                    "r2/z1/s1 1 2 xy",
                    "r3/z1/s1 1 2 xy",
                ]),
            ),
        ] {
            let expected = expected.map(|lines| lines.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(made(policy, list), expected, "{name}");
        }
    }
}
