//! Pages about what the control plane knows.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Debug;

impl Debug {
    pub(super) fn services(&self) -> Value {
        self.discovery.snapshot().services().map(|service| json!(**service)).collect()
    }

    pub(super) fn endpoints(&self) -> Value {
        self.discovery.snapshot().endpoint_sets().map(|set| json!(**set)).collect()
    }

    /// Endpoints by host and namespace, and by the cluster that told of them.
    pub(super) fn endpoint_shards(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut shards: BTreeMap<String, BTreeMap<String, BTreeMap<String, Vec<Value>>>> = BTreeMap::new();
        for set in snapshot.endpoint_sets() {
            let (host, namespace) = (set.service.hostname.to_string(), set.service.namespace.to_string());
            let of_service = shards.entry(host).or_default().entry(namespace).or_default();
            for endpoint in &set.endpoints {
                of_service.entry(endpoint.cluster.to_string()).or_default().push(json!(**endpoint));
            }
        }
        json!(shards)
    }

    /// Workloads by cluster and namespace.
    pub(super) fn instances(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut found: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
        for workload in snapshot.workloads() {
            let of_cluster = found.entry(workload.key.cluster.to_string()).or_default();
            of_cluster.entry(workload.key.namespace.to_string()).or_default().push(json!(**workload));
        }
        json!(found)
    }

    /// How many objects there are of each kind.
    pub(super) fn resources(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reference in snapshot.configs().references() {
            *counts.entry(reference.kind.as_str()).or_default() += 1;
        }
        counts.insert("Service", snapshot.services().count());
        counts.insert("Endpoints", snapshot.endpoint_sets().map(|set| set.endpoints.len()).sum());
        counts.insert("Workload", snapshot.workloads().count());
        counts.insert("Namespace", snapshot.namespaces().count());
        json!(counts)
    }

    /// The gateways through which other networks are reached.
    pub(super) fn networks(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        json!(**snapshot.networks())
    }
}
