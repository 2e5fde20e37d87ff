//! Consul: the catalog, and the health of each service, by blocking queries (Consul's documentation, "HTTP API:
//! Catalog, Health, Blocking Queries").

mod convert;

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;
use lateen_api::registries::{RegistryConfig, RegistryConsistency};
use serde::{Deserialize, Deserializer};

use super::blocking::{Blocking, Directory, encoded};
use super::http::{Answer, Ask, Client, TokenForm};
use super::service::{CatalogService, Naming};
use crate::{Failure, ObjectKey};

/// Consul as the configuration says.
pub fn source(config: &RegistryConfig) -> Blocking<Consul> {
    let naming = Naming::new(config, "Consul", "{service}.service.consul");
    let client = Client::new(config, TokenForm::Header("x-consul-token"));
    Blocking::new(Consul::new(config), client, naming, config)
}

/// What Consul is asked.
#[derive(Debug)]
pub struct Consul {
    /// Datacenter and namespace of each list; empty for the server's own.
    lists: Vec<(String, String)>,
    query: String,
    tagged_address: String,
    only_passing: bool,
}

/// One instance, as `/v1/health/service/NAME` shows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthEntry {
    node: Node,
    service: AgentService,
    #[serde(deserialize_with = "nullable")]
    checks: Vec<Check>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    address: String,
    datacenter: String,
    #[serde(deserialize_with = "nullable")]
    tagged_addresses: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    locality: Place,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AgentService {
    service: String,
    kind: String,
    address: String,
    port: u16,
    #[serde(deserialize_with = "nullable")]
    tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    tagged_addresses: BTreeMap<String, TaggedAddress>,
    #[serde(deserialize_with = "nullable")]
    weights: Weights,
    #[serde(deserialize_with = "nullable")]
    locality: Place,
    /// Several ports of one service, since Consul 1.22.
    #[serde(deserialize_with = "nullable")]
    ports: Vec<NamedPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TaggedAddress {
    address: String,
    port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NamedPort {
    name: String,
    port: u16,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Place {
    region: String,
    zone: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Check {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// Go writes what is empty as null.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(reader)?.unwrap_or_default())
}

impl Consul {
    fn new(config: &RegistryConfig) -> Self {
        let own = |list: &[String]| if list.is_empty() { vec![String::new()] } else { list.to_vec() };
        let (datacenters, namespaces) = (own(&config.datacenters), own(&config.namespaces));
        let lists = datacenters
            .iter()
            .flat_map(|datacenter| namespaces.iter().map(|namespace| (datacenter.clone(), namespace.clone())))
            .collect();
        let mut query = match config.consistency {
            RegistryConsistency::Default => String::new(),
            RegistryConsistency::Consistent => "&consistent".to_owned(),
            RegistryConsistency::Stale => "&stale".to_owned(),
        };
        if !config.partition.is_empty() {
            query.push_str(&format!("&partition={}", encoded(&config.partition)));
        }
        Self {
            lists,
            query,
            tagged_address: config.tagged_address.clone(),
            only_passing: config.only_passing,
        }
    }

    fn ask(&self, list: usize, path: &str) -> Ask {
        let mut query = self.query.clone();
        if let Some((datacenter, namespace)) = self.lists.get(list) {
            for (name, value) in [("dc", datacenter), ("ns", namespace)] {
                if !value.is_empty() {
                    query.push_str(&format!("&{name}={}", encoded(value)));
                }
            }
        }
        let joint = if query.is_empty() { "" } else { "?" };
        Ask::get(format!("{path}{joint}{}", query.trim_start_matches('&')))
            // Without a token file the agent's own token counts.
            .header(HeaderName::from_static("user-agent"), "lateen")
    }
}

impl Directory for Consul {
    fn provider(&self) -> &'static str {
        "Consul"
    }

    fn lists(&self) -> usize {
        self.lists.len()
    }

    fn index_header(&self) -> &'static str {
        "x-consul-index"
    }

    fn ask_list(&self, list: usize) -> Ask {
        self.ask(list, "/v1/catalog/services")
    }

    fn read_list(&self, list: usize, answer: &Answer) -> Result<BTreeSet<ObjectKey>, Failure> {
        let namespace = self.lists.get(list).map(|(_, namespace)| namespace.as_str()).unwrap_or_default();
        let services: BTreeMap<String, Option<Vec<String>>> = answer.json()?;
        Ok(services.into_keys().map(|name| ObjectKey::new(namespace, name)).collect())
    }

    fn ask_service(&self, list: usize, service: &ObjectKey) -> Ask {
        self.ask(list, &format!("/v1/health/service/{}", encoded(&service.name)))
    }

    fn read_service(
        &self,
        list: usize,
        service: &ObjectKey,
        answer: &Answer,
    ) -> Result<CatalogService, String> {
        let entries: Vec<HealthEntry> = answer.parse()?;
        let datacenter = self.lists.get(list).map(|(datacenter, _)| datacenter.clone()).unwrap_or_default();
        Ok(CatalogService {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            datacenter,
            instances: entries.iter().filter_map(|entry| self.instance(entry)).collect(),
            ..CatalogService::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let plain = RegistryConfig::default();
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let enterprise = RegistryConfig {
            namespaces: words(&["shop", "team a"]),
            datacenters: words(&["dc1", "dc2"]),
            partition: "east".into(),
            consistency: RegistryConsistency::Consistent,
            ..RegistryConfig::default()
        };
        let stale = RegistryConfig { consistency: RegistryConsistency::Stale, ..RegistryConfig::default() };
        for (name, config, lists, list, service) in [
            ("plain", &plain, 1, "/v1/catalog/services", "/v1/health/service/a%2Fb"),
            (
                "enterprise",
                &enterprise,
                4,
                "/v1/catalog/services?consistent&partition=east&dc=dc2&ns=team%20a",
                "/v1/health/service/a%2Fb?consistent&partition=east&dc=dc2&ns=team%20a",
            ),
            ("stale", &stale, 1, "/v1/catalog/services?stale", "/v1/health/service/a%2Fb?stale"),
        ] {
            let consul = Consul::new(config);
            assert_eq!(consul.lists(), lists, "{name}");
            assert_eq!(consul.ask_list(lists - 1).path, list, "{name}");
            assert_eq!(consul.ask_service(lists - 1, &ObjectKey::new("", "a/b")).path, service, "{name}");
        }
    }
}
