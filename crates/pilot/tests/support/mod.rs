//! Snapshots from YAML, for tests: a plain stand-in for what the registry makes of a cluster's objects.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use lateen_envoy::envoy::config::cluster::v3::Cluster;
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::Listener;
use lateen_envoy::envoy::config::route::v3::RouteConfiguration;
use lateen_envoy::{Any, TypeUrl, from_any};
use lateen_model::{
    Address, ChangeSet, ConfigKind, ConfigObject, ConfigReference, Edit, Endpoint, EndpointSet, MeshConfig,
    Meta, ObjectRef, PortProtocol, Resolution, Service, ServiceKey, ServicePort, Snapshot, TargetPort,
    Visibility, Workload, WorkloadKey, WorkloadKind, service_entry,
};
use lateen_pilot::{Class, Engine, ProxyNode};
use prost::Message;
use serde_json::Value;

pub const CLUSTER: &str = "Kubernetes";

/// An engine over the objects of some YAML.
pub struct World {
    pub engine: Engine,
    next_address: u8,
    age: i64,
}

impl World {
    pub fn new(documents: &[&str]) -> Self {
        let mut world = Self { engine: Engine::new(), next_address: 1, age: 0 };
        world.edit(|edit| {
            edit.set_mesh(MeshConfig { access_log_file: "/dev/stdout".into(), ..Default::default() })
        });
        for document in documents {
            world.apply(document);
        }
        world
    }

    pub fn edit(
        &mut self,
        change: impl FnOnce(&mut Edit),
    ) -> (Arc<Snapshot>, ChangeSet, lateen_pilot::Applied) {
        let mut edit = self.engine.snapshot().edit();
        change(&mut edit);
        let (snapshot, changes) = edit.finish();
        let applied = self.engine.apply(Arc::clone(&snapshot), &changes);
        (snapshot, changes, applied)
    }

    /// Applies all documents at once.
    pub fn apply(&mut self, yaml: &str) -> lateen_pilot::Applied {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        let mut edit = self.engine.snapshot().edit();
        for document in documents.iter().filter(|document| document.is_object()) {
            self.age += 1;
            self.object(&mut edit, document);
        }
        let (snapshot, changes) = edit.finish();
        // Endpoints follow from workloads and selectors.
        let mut edit = snapshot.edit();
        let services: Vec<Arc<Service>> = snapshot.services().cloned().collect();
        for service in services.iter().filter(|service| service.selector.is_some()) {
            edit.put_endpoints(endpoints(&snapshot, service));
        }
        let (snapshot, more) = edit.finish();
        let mut all = changes;
        all.merge(more);
        self.engine.apply(snapshot, &all)
    }

    fn object(&mut self, edit: &mut Edit, object: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = match text(&object["metadata"]["namespace"]) {
            empty if empty.is_empty() => "default".to_owned(),
            named => named,
        };
        let name = text(&object["metadata"]["name"]);
        match object["kind"].as_str().unwrap_or_default() {
            "Service" => edit.put_service(service(object, &namespace, &name, self.age)),
            "Deployment" => {
                let template = &object["spec"]["template"];
                let address = format!("10.244.0.{}", self.next_address);
                self.next_address += 1;
                let key = WorkloadKey {
                    cluster: CLUSTER.into(),
                    namespace: namespace.as_str().into(),
                    kind: WorkloadKind::Pod,
                    name: format!("{name}-1"),
                };
                edit.put_workload(Workload {
                    addresses: vec![address.parse().unwrap()],
                    labels: strings(&template["metadata"]["labels"]).into(),
                    service_account: "default".into(),
                    owner: name,
                    ..Workload::new(key)
                });
            }
            kind => {
                let Some(kind) = ConfigKind::parse(kind) else { return };
                let annotations = strings(&object["metadata"]["annotations"]);
                let namespace: lateen_model::Namespace = namespace.as_str().into();
                // An object that changes is as old as before.
                let reference = ConfigReference { kind, namespace: namespace.clone(), name: name.clone() };
                let present = edit.current().configs().meta(&reference);
                let created = present.map_or(self.age, |meta| meta.created);
                let meta = Meta { namespace, name, annotations, created, ..Meta::default() };
                let made = ConfigObject::from_json(kind, meta, object["spec"].clone());
                let made = made.unwrap_or_else(|error| panic!("{error}: {object}"));
                if let ConfigObject::ServiceEntry(entry) = &made {
                    for (service, set) in service_entry(entry, &CLUSTER.into(), &[]) {
                        edit.put_service(service);
                        edit.put_endpoints(set);
                    }
                }
                edit.put_config(made);
            }
        }
    }

    /// A sidecar of the workload that a Deployment made.
    pub fn sidecar(&mut self, deployment: &str) -> Arc<Class> {
        self.proxy("sidecar", deployment, serde_json::json!({"CLUSTER_ID": CLUSTER}))
    }

    /// The same, with more metadata.
    pub fn sidecar_with(&mut self, deployment: &str, mut metadata: Value) -> Arc<Class> {
        metadata["CLUSTER_ID"] = CLUSTER.into();
        self.proxy("sidecar", deployment, metadata)
    }

    /// The same, that marks its sockets.
    pub fn marking_sidecar(&mut self, deployment: &str) -> Arc<Class> {
        let metadata = serde_json::json!({"CLUSTER_ID": CLUSTER, "LATEEN_SOCKET_MARK": "1337"});
        self.proxy("sidecar", deployment, metadata)
    }

    /// A sidecar whose agent answers DNS.
    pub fn naming_sidecar(&mut self, deployment: &str) -> Arc<Class> {
        self.proxy("sidecar", deployment, serde_json::json!({"CLUSTER_ID": CLUSTER, "DNS_CAPTURE": "true"}))
    }

    /// A gateway of the workload that a Deployment made.
    pub fn gateway(&mut self, deployment: &str) -> Arc<Class> {
        self.proxy("router", deployment, serde_json::json!({"CLUSTER_ID": CLUSTER}))
    }

    fn proxy(&mut self, kind: &str, deployment: &str, metadata: Value) -> Arc<Class> {
        let snapshot = Arc::clone(self.engine.snapshot());
        let workload =
            snapshot.workloads().find(|workload| workload.owner == deployment).expect("a workload");
        let (address, key) = (workload.addresses[0], &workload.key);
        let id =
            format!("{kind}~{address}~{}.{}~{}.svc.cluster.local", key.name, key.namespace, key.namespace);
        self.engine.proxy_class(&ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap())
    }

    pub fn all<M: Message + TypeUrl + Default>(&self, class: &Class) -> Vec<M> {
        self.engine
            .view(class)
            .list(M::TYPE_URL)
            .map(|resource| from_any(&Any::decode(resource.bytes.clone()).unwrap()).unwrap())
            .collect()
    }

    pub fn clusters(&self, class: &Class) -> Vec<Cluster> {
        self.all(class)
    }

    pub fn cluster(&self, class: &Class, name: &str) -> Cluster {
        self.clusters(class)
            .into_iter()
            .find(|cluster| cluster.name == name)
            .unwrap_or_else(|| panic!("{name}"))
    }

    pub fn listeners(&self, class: &Class) -> Vec<Listener> {
        self.all(class)
    }

    pub fn routes(&self, class: &Class) -> Vec<RouteConfiguration> {
        self.all(class)
    }

    pub fn route(&self, class: &Class, name: &str) -> RouteConfiguration {
        self.routes(class).into_iter().find(|route| route.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// `address:port` of every endpoint of a cluster.
    pub fn endpoints(&self, class: &Class, cluster: &str) -> Vec<String> {
        use lateen_envoy::envoy::config::core::v3::{address, socket_address::PortSpecifier};
        use lateen_envoy::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
        let all: Vec<ClusterLoadAssignment> = self.all(class);
        let assignment = all.into_iter().find(|assignment| assignment.cluster_name == cluster);
        let assignment = assignment.unwrap_or_else(|| panic!("no endpoints of {cluster}"));
        let endpoints = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
        endpoints
            .filter_map(|endpoint| match endpoint.host_identifier? {
                HostIdentifier::Endpoint(endpoint) => match endpoint.address?.address? {
                    address::Address::SocketAddress(socket) => match socket.port_specifier? {
                        PortSpecifier::PortValue(port) => Some(format!("{}:{port}", socket.address)),
                        PortSpecifier::NamedPort(_) => None,
                    },
                    _ => None,
                },
                HostIdentifier::EndpointName(_) => None,
            })
            .collect()
    }
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn service(object: &Value, namespace: &str, name: &str, age: i64) -> Service {
    let ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let headless = object["spec"]["clusterIP"] == "None";
    let address =
        object["spec"]["clusterIP"].as_str().map_or_else(|| format!("10.96.1.{age}"), str::to_owned);
    let key = ServiceKey {
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        namespace: namespace.into(),
        cluster: CLUSTER.into(),
    };
    Service {
        ports: ports
            .map(|port| {
                let number = port["port"].as_u64().unwrap() as u16;
                let name = port["name"].as_str().unwrap_or_default();
                ServicePort {
                    name: name.to_owned(),
                    number,
                    protocol: PortProtocol::declared(
                        port["protocol"].as_str().unwrap_or("TCP"),
                        port["appProtocol"].as_str(),
                        name,
                    ),
                    target: match &port["targetPort"] {
                        Value::String(name) => TargetPort::Name(name.clone()),
                        Value::Number(target) => TargetPort::Number(target.as_u64().unwrap() as u16),
                        _ => TargetPort::Number(number),
                    },
                }
            })
            .collect(),
        addresses: if headless { Vec::new() } else { vec![address.parse().unwrap()] },
        resolution: if headless { Resolution::Passthrough } else { Resolution::ClientSide },
        export_to: object["metadata"]["annotations"]["networking.istio.io/exportTo"]
            .as_str()
            .map(|entries| entries.split(',').map(Visibility::parse).collect())
            .unwrap_or_default(),
        selector: object["spec"]["selector"].is_object().then(|| strings(&object["spec"]["selector"])),
        created: age,
        source: ObjectRef { kind: "Service".into(), namespace: namespace.into(), name: name.into() },
        ..Service::new(key)
    }
}

fn endpoints(snapshot: &Snapshot, service: &Service) -> EndpointSet {
    let selected =
        snapshot.workloads().filter(|workload| service.selects(&workload.key.namespace, &workload.labels));
    let endpoints = selected.map(|workload| {
        let ports = service.ports.iter().filter_map(|port| match &port.target {
            TargetPort::Number(number) => Some((port.name.clone(), *number)),
            TargetPort::Name(name) => Some((port.name.clone(), *workload.ports.get(name)?)),
        });
        Arc::new(Endpoint {
            ports: ports.collect(),
            labels: workload.labels.clone(),
            cluster: CLUSTER.into(),
            service_account: workload.service_account.clone(),
            workload: Some(Arc::new(workload.key.clone())),
            ..Endpoint::new(Address::Ip(workload.addresses.clone()))
        })
    });
    EndpointSet { service: service.key.clone(), endpoints: endpoints.collect() }
}
