//! Services as catalogs know them, a name with instances, and what they become in the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lateen_api::registries::RegistryConfig;
use lateen_model::{
    Address, ClusterId, Endpoint, Health, Hostname, Locality, ObjectRef, PortProtocol, Resolution, Service,
    ServiceKey, ServicePort, TargetPort,
};

use crate::ObjectKey;

/// A service of a catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogService {
    /// Its name in the catalog; `{service}` of the host name's template.
    pub name: String,
    /// Its namespace in the catalog, empty where there are none.
    pub namespace: String,
    /// Its datacenter in the catalog, empty where there are none.
    pub datacenter: String,
    /// Its host name, where the catalog itself has one. It counts unless the configuration has a template.
    pub host: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What stands behind it.
    pub instances: Vec<Instance>,
}

/// One instance of a service of a catalog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// Where it is: IP addresses of one host, or a name.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<InstancePort>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub locality: Locality,
    /// The network of its addresses, empty for that of the configuration.
    pub network: String,
    /// Whether it may get requests.
    pub health: Health,
    /// Its share of the load; 0 counts as 1.
    pub weight: u32,
    /// Its service account.
    pub service_account: String,
}

/// A port of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstancePort {
    /// Its name, the same for all instances; the protocol's if not given.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// The protocol, empty if the catalog does not tell.
    pub protocol: String,
    /// The port by which clients call it, 0 if the catalog does not tell.
    pub service_port: u16,
}

/// A service of the mesh, as a platform tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The service.
    pub service: Service,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// How services of a catalog are named in the mesh.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The platform.
    pub platform: ClusterId,
    /// What the platform is, for messages.
    pub provider: &'static str,
    namespace: String,
    template: Option<String>,
    default_template: &'static str,
    service_port: u16,
    network: String,
    region: String,
}

impl Naming {
    /// As the configuration says; `default_template` is the provider's own form of host names.
    pub fn new(config: &RegistryConfig, provider: &'static str, default_template: &'static str) -> Self {
        let own = |text: &str, default: &str| match text {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        Self {
            platform: config.platform_name().into(),
            provider,
            namespace: own(&config.namespace, config.provider.as_str()),
            template: Some(config.hostname.clone()).filter(|template| !template.is_empty()),
            default_template,
            service_port: u16::try_from(config.service_port).ok().filter(|port| *port != 0).unwrap_or(80),
            network: config.network.clone(),
            region: config.region.clone(),
        }
    }

    /// The key of a service: the mesh's namespace, and the host name.
    pub fn key(&self, service: &CatalogService) -> ObjectKey {
        let fill = |template: &str| {
            template
                .replace("{service}", &service.name)
                .replace("{namespace}", &service.namespace)
                .replace("{datacenter}", &service.datacenter)
        };
        let host = match &self.template {
            Some(template) => fill(template),
            None if !service.host.is_empty() => service.host.clone(),
            None => fill(self.default_template),
        };
        ObjectKey::new(fill(&self.namespace), host.to_ascii_lowercase())
    }

    /// The service of the mesh. Several parts, as of several datacenters, become one.
    pub fn entry(&self, key: &ObjectKey, parts: &[&CatalogService]) -> Entry {
        let instances: Vec<&Instance> = parts.iter().flat_map(|part| &part.instances).collect();
        let ports = self.ports(&instances);
        let labels = parts.iter().flat_map(|part| part.labels.clone()).collect();
        // A proxy that must resolve one name resolves them all: addresses are names of themselves.
        let names = instances.iter().any(|instance| instance.ips().is_empty());
        let resolution = if names { Resolution::Dns } else { Resolution::ClientSide };
        let service_key = ServiceKey {
            hostname: Hostname::from(key.name.as_str()),
            namespace: key.namespace.as_str().into(),
            cluster: self.platform.clone(),
        };
        let source = ObjectRef {
            kind: format!("{} service", self.provider),
            namespace: parts.first().map(|part| part.namespace.clone()).unwrap_or_default(),
            name: parts.first().map(|part| part.name.clone()).unwrap_or_default(),
        };
        let service = Service { ports, resolution, labels, source, ..Service::new(service_key) };
        let endpoints = instances.into_iter().filter_map(|instance| self.endpoint(instance)).map(Arc::new);
        Entry { endpoints: endpoints.collect(), service }
    }

    /// A port of the service for each name that instances give their ports. Clients call it by the number that the
    /// catalog tells, or that all instances have, or that is configured.
    fn ports(&self, instances: &[&Instance]) -> Vec<ServicePort> {
        let mut by_name: BTreeMap<&str, Vec<&InstancePort>> = BTreeMap::new();
        for port in instances.iter().flat_map(|instance| &instance.ports) {
            by_name.entry(port.port_name()).or_default().push(port);
        }
        let mut taken = BTreeSet::new();
        let mut made = Vec::new();
        for (name, ports) in by_name {
            let told = ports.iter().map(|port| port.service_port).filter(|port| *port != 0).min();
            let numbers: BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
            let lowest = numbers.first().copied().unwrap_or_default();
            let agreed = Some(lowest).filter(|_| numbers.len() == 1);
            let protocol = ports.iter().map(|port| port.protocol.as_str()).find(|word| !word.is_empty());
            let protocol = PortProtocol::declared("TCP", protocol, name);
            let usual = if protocol.is_tls() { 443 } else { self.service_port };
            let candidates = [told, agreed, Some(usual), Some(lowest)];
            let Some(number) = candidates.into_iter().flatten().find(|number| taken.insert(*number)) else {
                continue;
            };
            made.push(ServicePort {
                name: name.to_owned(),
                number,
                protocol,
                target: TargetPort::Number(lowest),
            });
        }
        made
    }

    fn endpoint(&self, instance: &Instance) -> Option<Endpoint> {
        let ips = instance.ips();
        let address = match (ips.is_empty(), instance.addresses.first()) {
            (false, _) => Address::Ip(ips),
            (true, Some(name)) if !name.is_empty() => Address::Name(name.as_str().into()),
            (true, _) => return None,
        };
        let mut locality = instance.locality.clone();
        if locality.region.is_empty() {
            locality.region = self.region.clone();
        }
        let network = if instance.network.is_empty() { &self.network } else { &instance.network };
        Some(Endpoint {
            ports: instance.ports.iter().map(|port| (port.port_name().to_owned(), port.number)).collect(),
            labels: instance.labels.clone().into(),
            locality: locality.into(),
            network: network.as_str().into(),
            cluster: self.platform.clone(),
            health: instance.health,
            weight: instance.weight.max(1),
            service_account: instance.service_account.clone(),
            ..Endpoint::new(address)
        })
    }
}

impl Instance {
    fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(|address| address.parse().ok()).collect()
    }
}

impl InstancePort {
    fn port_name(&self) -> &str {
        if self.name.is_empty() { &self.protocol } else { &self.name }
    }
}

/// Labels from tags: `key=value` and `key|value` are what they say, any other tag is a label with the value `true`.
pub fn labels_of_tags<'a>(tags: impl IntoIterator<Item = &'a String>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for tag in tags {
        let (key, value) = tag.split_once(['=', '|']).unwrap_or((tag, "true"));
        if !key.is_empty() {
            labels.insert(key.to_owned(), value.to_owned());
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use lateen_api::registries::RegistryProvider;

    fn naming() -> Naming {
        let config = RegistryConfig {
            provider: RegistryProvider::Consul,
            region: "east".into(),
            ..RegistryConfig::default()
        };
        Naming::new(&config, "Consul", "{service}.service.consul")
    }

    fn instance(address: &str, number: u16, service_port: u16) -> Instance {
        let port = InstancePort { name: String::new(), number, protocol: "http".into(), service_port };
        Instance { addresses: vec![address.into()], ports: vec![port], ..Instance::default() }
    }

    #[test]
    fn the_port_that_clients_call() {
        for (name, instances, expected) in [
            ("agreed", vec![instance("10.0.0.1", 9080, 0), instance("10.0.0.2", 9080, 0)], 9080),
            ("different", vec![instance("10.0.0.1", 20001, 0), instance("10.0.0.2", 20002, 0)], 80),
            ("told", vec![instance("10.0.0.1", 20001, 8000), instance("10.0.0.2", 20002, 8000)], 8000),
        ] {
            let service = CatalogService { name: "a".into(), instances, ..CatalogService::default() };
            let entry = naming().entry(&naming().key(&service), &[&service]);
            assert_eq!(entry.service.ports.len(), 1, "{name}");
            assert_eq!(entry.service.ports[0].number, expected, "{name}");
            assert_eq!(entry.service.ports[0].protocol, PortProtocol::Http, "{name}");
            assert_eq!(entry.service.resolution, Resolution::ClientSide, "{name}");
            assert_eq!(entry.endpoints[0].ports["http"], service.instances[0].ports[0].number, "{name}");
        }
    }

    #[test]
    fn one_name_makes_proxies_resolve() {
        let instances =
            vec![instance("10.0.0.1", 80, 0), instance("host.example.com", 80, 0), instance("", 80, 0)];
        let service = CatalogService { name: "a".into(), instances, ..CatalogService::default() };
        let entry = naming().entry(&naming().key(&service), &[&service]);
        assert_eq!(entry.service.resolution, Resolution::Dns);
        assert_eq!(entry.endpoints.len(), 2, "an instance without any address is none");
        assert_eq!(entry.endpoints[1].address, Address::Name("host.example.com".into()));
        assert_eq!(entry.endpoints[0].locality.region, "east");
    }

    #[test]
    fn names() {
        let service = CatalogService {
            name: "Reviews".into(),
            namespace: "team".into(),
            host: "reviews.apps.internal".into(),
            ..CatalogService::default()
        };
        for (name, namespace, hostname, expected) in [
            ("defaults", "", "", "consul reviews.apps.internal"),
            ("template", "", "{service}.{namespace}.mesh", "consul reviews.team.mesh"),
            ("namespace", "from-{namespace}", "", "from-team reviews.apps.internal"),
        ] {
            let config = RegistryConfig {
                provider: RegistryProvider::Consul,
                namespace: namespace.into(),
                hostname: hostname.into(),
                ..RegistryConfig::default()
            };
            let key = Naming::new(&config, "Consul", "{service}.service.consul").key(&service);
            assert_eq!(format!("{} {}", key.namespace, key.name), expected, "{name}");
        }
    }

    #[test]
    fn tags() {
        let tags = ["version=v1", "team|a=b", "canary", ""].map(str::to_owned);
        let labels = labels_of_tags(&tags);
        let expected = [("canary", "true"), ("team", "a=b"), ("version", "v1")];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}
