//! A case's mesh: its objects go the way that objects of a cluster go, up to the resources that its proxy is told.

use std::collections::{BTreeMap, BTreeSet};

use lateen_dataplane::compile::{compile_listener, compile_routes};
use lateen_dataplane::walk::Walk;
use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::route::Action;
use lateen_envoy::envoy::config::route::v3::route_action::ClusterSpecifier;
use lateen_envoy::envoy::config::route::v3::{Route, RouteConfiguration};
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, TypeUrl, from_any};
use lateen_model::ChangeSet;
use lateen_pilot::{Engine, ProxyNode, View};
use lateen_registry::{Change, KubernetesOptions, Store, StoreOptions};
use serde_json::{Value, json};

use crate::report::text;

/// Where a case's proxy is unless the case says so.
pub(super) const ADDRESS: &str = "1.1.1.1";

/// What the proxy of a case is told.
pub(super) struct Told {
    view: View,
    gateway: bool,
}

/// All resources that a proxy is told, but for endpoints.
#[derive(Debug, Clone)]
pub struct Resources {
    /// In the order of names.
    pub clusters: Vec<Cluster>,
    /// In the order of names.
    pub listeners: Vec<Listener>,
    /// In the order of names.
    pub routes: Vec<RouteConfiguration>,
}

impl Told {
    pub(super) fn new(case: &Value) -> Result<Self, String> {
        Self::of(documents(case)?, &case["proxy"])
    }

    pub(super) fn of(documents: Vec<Value>, proxy: &Value) -> Result<Self, String> {
        let mut store = Store::new(StoreOptions::default());
        store.apply(objects(documents)?);
        let mut engine = Engine::new();
        engine.apply(store.snapshot().clone(), &ChangeSet::full());
        let class = engine.proxy_class(&node(proxy)?);
        Ok(Self { view: engine.view(&class), gateway: text(proxy, "type") == "router" })
    }

    pub(super) fn is_gateway(&self) -> bool {
        self.gateway
    }

    /// What the proxy makes of it.
    pub(super) fn walk(&self) -> Result<Walk, String> {
        let mut listeners = Vec::new();
        for message in self.all::<Listener>()? {
            listeners.push(compile_listener(message).map_err(|error| error.to_string())?.value);
        }
        let mut tables = Vec::new();
        for message in self.all::<RouteConfiguration>()? {
            tables.push(compile_routes(message).map_err(|error| error.to_string())?.value);
        }
        Ok(Walk::new(listeners, tables))
    }

    /// The clusters of all routes of a table, by domain.
    pub(super) fn virtual_hosts(&self, table: &str) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
        let tables = self.all::<RouteConfiguration>()?;
        let Some(table) = tables.into_iter().find(|candidate| candidate.name == table) else {
            return Err(format!("there is no table {table}"));
        };
        let mut found = BTreeMap::new();
        for host in table.virtual_hosts {
            let clusters: BTreeSet<String> = host.routes.iter().flat_map(clusters).collect();
            for domain in host.domains {
                found.insert(domain, clusters.clone());
            }
        }
        Ok(found)
    }

    pub(super) fn resources(&self) -> Result<Resources, String> {
        Ok(Resources { clusters: self.all()?, listeners: self.all()?, routes: self.all()? })
    }

    fn all<M: Message + TypeUrl + Default>(&self) -> Result<Vec<M>, String> {
        let read = |bytes| {
            from_any(&Any::decode(bytes).map_err(|error| error.to_string())?)
                .map_err(|error| format!("{error:?}"))
        };
        self.view.list(M::TYPE_URL).map(|encoded| read(encoded.bytes.clone())).collect()
    }
}

fn clusters(route: &Route) -> Vec<String> {
    let Some(Action::Route(action)) = &route.action else { return Vec::new() };
    match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => vec![cluster.clone()],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|cluster| cluster.name.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// The objects of a case.
fn documents(case: &Value) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for field in ["config", "kube"] {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text(case, field)).map_err(|error| error.to_string())?;
        found.extend(documents.into_iter().filter(Value::is_object));
    }
    Ok(found)
}

fn objects(documents: Vec<Value>) -> Result<Vec<Change>, String> {
    let options = KubernetesOptions::default();
    let mut changes = Vec::new();
    for mut object in documents {
        let metadata = &mut object["metadata"];
        if metadata.get("namespace").is_none() {
            metadata["namespace"] = "default".into();
        }
        // Objects without an age are equally old: names decide.
        if metadata.get("creationTimestamp").is_none_or(Value::is_null) {
            metadata["creationTimestamp"] = "1970-01-01T00:00:00Z".into();
        }
        let name = format!("{} {}", text(&object, "kind"), object["metadata"]["name"]);
        let made = lateen_registry::object(object, &options).map_err(|error| format!("{name}: {error}"))?;
        changes.extend(made.map(Change::Apply));
    }
    Ok(changes)
}

fn node(proxy: &Value) -> Result<ProxyNode, String> {
    let namespace = match text(proxy, "namespace") {
        "" => "default",
        namespace => namespace,
    };
    let kind = match text(proxy, "type") {
        "" => "sidecar",
        kind => kind,
    };
    let listed: Vec<&str> = proxy["ips"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let address = match (listed.first(), text(proxy, "ip")) {
        (Some(first), _) => first,
        (None, "") => ADDRESS,
        (None, address) => address,
    };
    let metadata = json!({
        "NAMESPACE": namespace,
        "CLUSTER_ID": "Kubernetes",
        "LABELS": proxy["labels"],
        "INSTANCE_IPS": listed.join(","),
        "METADATA": proxy["metadata"],
        "GENERATOR": text(proxy, "generator"),
    });
    let id = format!("{kind}~{address}~simulated.{namespace}~{namespace}.svc.cluster.local");
    let metadata = metadata.as_object().cloned().unwrap_or_default();
    ProxyNode::parse(&id, &metadata).map_err(|error| error.to_string())
}
