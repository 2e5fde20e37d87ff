//! Pages about what the control plane knows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use lateen_base::admin::{self, Reply};
use lateen_galley::kind_schema;
use lateen_model::{ConfigKind, ConfigReference, Meta};
use lateen_pilot::ProxyNode;
use serde_json::{Map, Value, json};

use super::{Debug, Query};

impl Debug {
    pub(super) fn services(&self) -> Value {
        self.discovery.snapshot().services().map(|service| json!(**service)).collect()
    }

    /// One entry a port of a service; with `brief` a line an endpoint.
    pub(super) fn endpoints(&self, query: &Query<'_>) -> Reply {
        let snapshot = self.discovery.snapshot();
        let mut entries: Vec<Value> = Vec::new();
        let mut lines = String::new();
        for service in snapshot.services() {
            let set = snapshot.endpoints(&service.key);
            for port in &service.ports {
                let name = format!("{}:{}", service.key.hostname, port.name);
                let endpoints = set.into_iter().flat_map(|set| &set.endpoints);
                let with_port = endpoints.filter(|endpoint| endpoint.ports.contains_key(&port.name));
                let found: Vec<&std::sync::Arc<lateen_model::Endpoint>> = with_port.collect();
                for endpoint in &found {
                    let port = endpoint.ports.get(&port.name).copied().unwrap_or_default();
                    // Writing into a string does not fail.
                    let _ = writeln!(
                        lines,
                        "{name} {}:{port} {} {}",
                        address(&endpoint.address),
                        json!(endpoint.labels),
                        endpoint.service_account
                    );
                }
                entries.push(json!({"svc": name, "ep": found}));
            }
        }
        match query.has("brief") {
            true => admin::text(StatusCode::OK, lines),
            false => admin::json(json!(entries).to_string()),
        }
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

    /// What each connected proxy serves, by its id.
    pub(super) fn instances(&self) -> Value {
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        for stream in self.streams.snapshot() {
            let Ok(node) = ProxyNode::from_proto(&stream.node) else { continue };
            let name = format!("{}.{}", node.name, node.namespace);
            if let Some(held) = self.discovery.held_by(&name) {
                found.insert(node.id, json!(held.class.inbound));
            }
        }
        json!(found)
    }

    /// Workloads by cluster and namespace.
    pub(super) fn workloads(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut found: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
        for workload in snapshot.workloads() {
            let of_cluster = found.entry(workload.key.cluster.to_string()).or_default();
            of_cluster.entry(workload.key.namespace.to_string()).or_default().push(json!(**workload));
        }
        json!(found)
    }

    /// All configuration objects, as Kubernetes shows them.
    pub(super) fn configs(&self) -> Value {
        self.objects(|_| true).into_iter().map(|(_, object)| object).collect()
    }

    fn objects(&self, wanted: impl Fn(&ConfigReference) -> bool) -> Vec<(ConfigReference, Value)> {
        let snapshot = self.discovery.snapshot();
        let mut references = snapshot.configs().references();
        references.retain(wanted);
        references.sort();
        let object = |reference: ConfigReference| {
            let config = snapshot.configs().get(&reference)?;
            let meta = snapshot.configs().meta(&reference)?;
            let mut value = json!(config);
            let spec = value[reference.kind.as_str()]["spec"].take();
            Some((reference.clone(), kubernetes(&reference, meta, spec)))
        };
        references.into_iter().filter_map(object).collect()
    }

    fn by_namespace(&self, kinds: &[ConfigKind]) -> BTreeMap<String, Vec<Value>> {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (reference, object) in self.objects(|reference| kinds.contains(&reference.kind)) {
            found.entry(reference.namespace.to_string()).or_default().push(object);
        }
        found
    }

    pub(super) fn authorization(&self) -> Value {
        json!({"authorization_policies": self.policies()})
    }

    fn policies(&self) -> Value {
        json!({
            "namespace_to_policies": self.by_namespace(&[ConfigKind::AuthorizationPolicy]),
            "root_namespace": self.root_namespace,
        })
    }

    pub(super) fn telemetry(&self) -> Value {
        json!({"telemetries": {
            "namespace_to_telemetries": self.by_namespace(&[ConfigKind::Telemetry]),
            "root_namespace": self.root_namespace,
        }})
    }

    pub(super) fn push_context(&self) -> Value {
        json!({"AuthorizationPolicies": self.policies(), "NetworkGateways": self.networks()})
    }

    /// The kinds that are followed, with how many objects there are.
    pub(super) fn resources(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        let mut counts: BTreeMap<ConfigKind, usize> = ConfigKind::ALL.iter().map(|kind| (*kind, 0)).collect();
        for reference in snapshot.configs().references() {
            *counts.entry(reference.kind).or_default() += 1;
        }
        let mut all: Vec<Value> = Vec::new();
        for (kind, count) in counts {
            let schema = kind_schema(kind.as_str());
            let (group, version) = schema
                .map(|schema| (schema.group, schema.versions.first().copied().unwrap_or("v1")))
                .unwrap_or(("networking.k8s.io", "v1"));
            all.push(json!({"group": group, "version": version, "kind": kind.as_str(), "count": count}));
        }
        let platform = [
            ("Service", snapshot.service_count()),
            ("Endpoints", snapshot.endpoint_sets().map(|set| set.endpoints.len()).sum()),
            ("Workload", snapshot.workloads().count()),
            ("Namespace", snapshot.namespaces().count()),
        ];
        all.extend(
            platform.map(|(kind, count)| json!({"group": "", "version": "v1", "kind": kind, "count": count})),
        );
        all.into()
    }

    /// The gateways through which other networks are reached.
    pub(super) fn networks(&self) -> Value {
        let snapshot = self.discovery.snapshot();
        json!(**snapshot.networks())
    }

    /// How each platform fares; `id` and `syncStatus` as istiod has them.
    pub(super) fn clusters(&self) -> Value {
        let of_platform = |status: lateen_registry::PlatformStatus| {
            let word = match (status.synced, status.stale) {
                (true, false) => "synced",
                (true, true) => "stale",
                (false, _) => "syncing",
            };
            let mut entry = json!(status);
            entry["id"] = json!(status.name);
            entry["syncStatus"] = json!(word);
            entry
        };
        self.platforms.statuses().into_iter().map(of_platform).collect()
    }

    /// Objects that could not be read, and settings without effect.
    pub(super) fn problems(&self) -> Value {
        let entry = |problem: lateen_registry::Problem| {
            json!({
                "kind": format!("{:?}", problem.kind),
                "namespace": problem.key.namespace.to_string(),
                "name": problem.key.name,
                "message": problem.message,
            })
        };
        let without_effect = crate::settings::unhandled(self.discovery.snapshot().mesh());
        let setting = |field: String| {
            json!({
                "kind": "Mesh",
                "message": format!("{field}: has no effect in this version of Lateen"),
            })
        };
        let unreadable = self.platforms.problems().into_iter().map(entry);
        unreadable.chain(without_effect.into_iter().map(setting)).collect()
    }

    /// How much is kept.
    pub(super) fn sizes(&self) -> Value {
        let (classes, groups) = self.discovery.sizes();
        json!({"classes": classes, "groups": groups, "connections": self.streams.snapshot().len()})
    }
}

fn address(address: &lateen_model::Address) -> String {
    match address {
        lateen_model::Address::Ip(all) => all.first().map(ToString::to_string).unwrap_or_default(),
        other => format!("{other:?}"),
    }
}

fn kubernetes(reference: &ConfigReference, meta: &Meta, spec: Value) -> Value {
    let schema = kind_schema(reference.kind.as_str());
    let version =
        schema.map(|schema| format!("{}/{}", schema.group, schema.versions.first().copied().unwrap_or("v1")));
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(meta.name));
    metadata.insert("namespace".to_owned(), json!(meta.namespace.to_string()));
    metadata.insert("generation".to_owned(), json!(meta.generation));
    if let Ok(created) = Timestamp::from_second(meta.created) {
        metadata.insert("creationTimestamp".to_owned(), json!(created.to_string()));
    }
    for (key, value) in [("labels", &meta.labels), ("annotations", &meta.annotations)] {
        if !value.is_empty() {
            metadata.insert(key.to_owned(), json!(value));
        }
    }
    json!({
        "apiVersion": version.unwrap_or_else(|| "networking.k8s.io/v1".to_owned()),
        "kind": reference.kind.as_str(),
        "metadata": metadata,
        "spec": spec,
    })
}
