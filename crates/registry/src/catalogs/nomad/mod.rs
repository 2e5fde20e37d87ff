//! Nomad: its native services by blocking queries (Nomad's documentation, "HTTP API: Services, Blocking Queries").
//!
//! Nomad takes services away whose allocations end or fail, so all that are listed may be used. Its event stream is not
//! used: it tells of whole evaluations and can lose events when a server is slow, while blocking queries cannot.

use std::collections::BTreeSet;

use lateen_api::registries::{RegistryConfig, RegistryConsistency};
use lateen_model::Locality;
use serde::Deserialize;

use super::blocking::{Blocking, Directory, encoded};
use super::http::{Answer, Ask, Client, TokenForm};
use super::service::{CatalogService, Instance, InstancePort, Naming, labels_of_tags};
use crate::{Failure, ObjectKey};

/// Nomad as the configuration says.
pub fn source(config: &RegistryConfig) -> Blocking<Nomad> {
    let naming = Naming::new(config, "Nomad", "{service}.nomad");
    let client = Client::new(config, TokenForm::Header("x-nomad-token"));
    Blocking::new(Nomad::new(config), client, naming, config)
}

/// What Nomad is asked.
#[derive(Debug)]
pub struct Nomad {
    /// The namespace of each list; `*` is all.
    namespaces: Vec<String>,
    query: &'static str,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct NamespaceServices {
    namespace: String,
    services: Vec<ServiceStub>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceStub {
    service_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Registration {
    datacenter: String,
    address: String,
    port: u16,
    tags: Option<Vec<String>>,
    #[serde(rename = "JobID")]
    job_id: String,
    #[serde(rename = "AllocID")]
    allocation_id: String,
}

impl Nomad {
    fn new(config: &RegistryConfig) -> Self {
        let namespaces =
            if config.namespaces.is_empty() { vec!["*".to_owned()] } else { config.namespaces.clone() };
        let query = match config.consistency {
            RegistryConsistency::Stale => "&stale",
            RegistryConsistency::Default | RegistryConsistency::Consistent => "",
        };
        Self { namespaces, query }
    }
}

impl Directory for Nomad {
    fn provider(&self) -> &'static str {
        "Nomad"
    }

    fn lists(&self) -> usize {
        self.namespaces.len()
    }

    fn index_header(&self) -> &'static str {
        "x-nomad-index"
    }

    fn ask_list(&self, list: usize) -> Ask {
        let namespace = self.namespaces.get(list).map(String::as_str).unwrap_or("*");
        Ask::get(format!("/v1/services?namespace={}{}", encoded(namespace), self.query))
    }

    fn read_list(&self, _list: usize, answer: &Answer) -> Result<BTreeSet<ObjectKey>, Failure> {
        // An empty list is null.
        let namespaces: Option<Vec<NamespaceServices>> = answer.json()?;
        let keys = namespaces.into_iter().flatten().flat_map(|one| {
            let NamespaceServices { namespace, services } = one;
            services.into_iter().map(move |stub| ObjectKey::new(&namespace, stub.service_name))
        });
        Ok(keys.collect())
    }

    fn ask_service(&self, _list: usize, service: &ObjectKey) -> Ask {
        let (name, namespace) = (encoded(&service.name), encoded(&service.namespace));
        Ask::get(format!("/v1/service/{name}?namespace={namespace}{}", self.query))
    }

    fn read_service(
        &self,
        _list: usize,
        service: &ObjectKey,
        answer: &Answer,
    ) -> Result<CatalogService, String> {
        let registrations: Option<Vec<Registration>> = answer.parse()?;
        Ok(CatalogService {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            instances: registrations.into_iter().flatten().map(instance).collect(),
            ..CatalogService::default()
        })
    }
}

fn instance(registration: Registration) -> Instance {
    let mut labels = labels_of_tags(registration.tags.iter().flatten());
    labels.entry("nomad-job".to_owned()).or_insert(registration.job_id);
    labels.entry("nomad-allocation".to_owned()).or_insert(registration.allocation_id);
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let port = InstancePort {
        name: label("port-name"),
        number: registration.port,
        protocol: label("protocol"),
        service_port: label("service-port").parse().unwrap_or_default(),
    };
    Instance {
        addresses: vec![registration.address],
        ports: if port.number == 0 { Vec::new() } else { vec![port] },
        locality: Locality { region: registration.datacenter, ..Locality::default() },
        network: label("network"),
        service_account: label("service-account"),
        labels,
        ..Instance::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration() {
        let made = instance(
            serde_json::from_value(serde_json::json!({
                "ID": "_nomad-task-1", "ServiceName": "reviews", "Namespace": "default", "NodeID": "n", "Datacenter": "dc1",
                "JobID": "shop", "AllocID": "a1", "Tags": ["version=v1", "protocol=http", "service-port=80"],
                "Address": "10.0.0.1", "Port": 23411, "CreateIndex": 1, "ModifyIndex": 2
            }))
            .unwrap(),
        );
        assert_eq!(made.addresses, ["10.0.0.1"]);
        assert_eq!(made.locality.region, "dc1");
        assert_eq!((made.labels["version"].as_str(), made.labels["nomad-job"].as_str()), ("v1", "shop"));
        let port = &made.ports[0];
        assert_eq!((port.number, port.service_port, port.protocol.as_str()), (23411, 80, "http"));
        let bare = instance(
            serde_json::from_value(serde_json::json!({"Address": "10.0.0.1", "Tags": null})).unwrap(),
        );
        assert!(bare.ports.is_empty());
    }
}
