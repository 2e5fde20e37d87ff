//! Eureka: a full fetch, then the changes of the last minutes again and again, until the server's hash of all says that
//! something was missed (Netflix' documentation, "Eureka REST operations").

mod convert;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use http::StatusCode;
use lateen_api::registries::RegistryConfig;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tracing::{info, warn};

use super::driver::{News, Source};
use super::http::{Ask, Client, TokenForm};
use super::service::{CatalogService, Naming};
use crate::{Failure, ObjectKey};

/// How long instances have to register again with a server that was started anew: Eureka's leases last so long.
const LEASE: Duration = Duration::from_secs(90);

/// Eureka as a source.
pub struct Eureka {
    client: Client,
    naming: Naming,
    interval: Duration,
    lease: Duration,
    /// By application and instance.
    instances: BTreeMap<(String, String), InstanceInfo>,
    /// Whether the next fetch is a full one.
    full: bool,
    /// Whether anything was fetched since the start.
    fetched: bool,
    /// Since when a server that failed before has had nothing to tell.
    empty_since: Option<Instant>,
    failed: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Envelope {
    applications: Applications,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Applications {
    #[serde(rename = "apps__hashcode")]
    hash: String,
    #[serde(deserialize_with = "one_or_many")]
    application: Vec<Application>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Application {
    name: String,
    #[serde(deserialize_with = "one_or_many")]
    instance: Vec<InstanceInfo>,
}

/// One instance, as Eureka writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceInfo {
    instance_id: String,
    host_name: String,
    ip_addr: String,
    status: String,
    port: PortInfo,
    secure_port: PortInfo,
    vip_address: Option<String>,
    secure_vip_address: Option<String>,
    metadata: Option<BTreeMap<String, Value>>,
    data_center_info: DataCenter,
    action_type: Option<String>,
}

/// `{"$": 8080, "@enabled": "true"}`, the JSON of what was XML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct PortInfo {
    #[serde(rename = "$")]
    number: Value,
    #[serde(rename = "@enabled")]
    enabled: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct DataCenter {
    metadata: Option<BTreeMap<String, Value>>,
}

/// A list of one element is written as that element.
fn one_or_many<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    reader: D,
) -> Result<Vec<T>, D::Error> {
    let value = Value::deserialize(reader)?;
    let many = match value {
        Value::Null => Vec::new(),
        Value::Array(many) => many,
        one => vec![one],
    };
    many.into_iter().map(|one| serde_json::from_value(one).map_err(serde::de::Error::custom)).collect()
}

impl Eureka {
    /// Eureka as the configuration says. Addresses include the path, such as `http://HOST:8761/eureka`.
    pub fn new(config: &RegistryConfig) -> Self {
        Self {
            client: Client::new(config, TokenForm::Header("authorization")),
            naming: Naming::new(config, "Eureka", "{service}.eureka"),
            interval: config.interval.map_or(Duration::from_secs(30), |interval| interval.get()),
            lease: LEASE,
            instances: BTreeMap::new(),
            full: true,
            fetched: false,
            empty_since: None,
            failed: false,
        }
    }

    async fn news(&mut self) -> Result<News, Failure> {
        if self.fetched && !self.failed {
            tokio::time::sleep(self.interval).await;
        }
        let changed = if self.full { self.fetch().await? } else { self.fetch_delta().await? };
        self.failed = false;
        self.fetched = true;
        // Even without changes it is news that the server answers.
        Ok(if changed { News::Full(self.services()) } else { News::Some(Vec::new()) })
    }

    /// All applications. A server that was started anew knows nobody before they register again: as long as their leases
    /// would have lasted, the last known state stands.
    async fn fetch(&mut self) -> Result<bool, Failure> {
        let answer = self.client.ask(&Ask::get("/apps")).await?.good()?;
        let Envelope { applications } = answer.json()?;
        let mut instances = BTreeMap::new();
        for application in applications.application {
            for one in application.instance {
                instances.insert((application.name.clone(), one.instance_id.clone()), one);
            }
        }
        if instances.is_empty() && !self.instances.is_empty() && (self.failed || self.empty_since.is_some()) {
            let since = *self.empty_since.get_or_insert_with(|| {
                info!(platform = %self.naming.platform, "the server came back without instances, which may register again");
                Instant::now()
            });
            if since.elapsed() < self.lease {
                return Ok(false);
            }
        }
        self.empty_since = None;
        self.full = false;
        let changed = !self.fetched || self.failed || self.instances != instances;
        self.instances = instances;
        Ok(changed)
    }

    async fn fetch_delta(&mut self) -> Result<bool, Failure> {
        let answer = self.client.ask(&Ask::get("/apps/delta")).await?;
        // The server may have it turned off.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
            self.full = true;
            return self.fetch().await;
        }
        let Envelope { applications } = answer.good()?.json()?;
        let before = self.instances.clone();
        for application in applications.application {
            for one in application.instance {
                let key = (application.name.clone(), one.instance_id.clone());
                match one.action_type.as_deref() {
                    Some("DELETED") => {
                        self.instances.remove(&key);
                    }
                    _ => {
                        self.instances.insert(key, one);
                    }
                }
            }
        }
        if self.hash() != applications.hash {
            warn!(
                platform = %self.naming.platform, ours = self.hash(), theirs = applications.hash,
                "changes were missed, all is fetched anew"
            );
            self.instances = before;
            self.full = true;
            return self.fetch().await;
        }
        Ok(self.instances != before)
    }

    /// How many instances have which status, as the server counts: `DOWN_1_UP_12_`.
    fn hash(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for one in self.instances.values() {
            *counts.entry(&one.status).or_default() += 1;
        }
        counts.into_iter().map(|(status, count)| format!("{status}_{count}_")).collect()
    }

    fn services(&self) -> BTreeMap<ObjectKey, super::driver::Told> {
        let mut services: BTreeMap<ObjectKey, CatalogService> = BTreeMap::new();
        for ((application, _), one) in &self.instances {
            for name in one.service_names(application) {
                let service = CatalogService { name, ..CatalogService::default() };
                let place = services.entry(self.naming.key(&service)).or_insert(service);
                place.instances.push(one.instance());
            }
        }
        let told = |(key, service): (ObjectKey, CatalogService)| {
            let entry = self.naming.entry(&key, &[&service]);
            (key, Ok(entry))
        };
        services.into_iter().map(told).collect()
    }
}

impl Source for Eureka {
    fn provider(&self) -> &'static str {
        "Eureka"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>> {
        async move {
            let news = self.news().await;
            if news.is_err() {
                self.failed = true;
                // Changes may have been missed meanwhile.
                self.full = true;
            }
            news
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_of_one_is_that_one() {
        let instance = json!({"instanceId": "a1", "status": "UP", "port": {"$": 80, "@enabled": "true"}});
        let many = json!({"applications": {"apps__hashcode": "UP_1_",
            "application": [{"name": "A", "instance": [instance]}]}});
        let one = json!({"applications": {"apps__hashcode": "UP_1_", "application": {"name": "A", "instance": instance}}});
        let none = json!({"applications": {"versions__delta": "1", "apps__hashcode": ""}});
        for (name, value, expected) in [("many", many, 1), ("one", one, 1), ("none", none, 0)] {
            let read: Envelope = serde_json::from_value(value).unwrap();
            let count: usize = read.applications.application.iter().map(|app| app.instance.len()).sum();
            assert_eq!(count, expected, "{name}");
        }
    }

    #[test]
    fn the_hash_counts_statuses_in_their_order() {
        let mut eureka = Eureka::new(&RegistryConfig::default());
        for (id, status) in [("1", "UP"), ("2", "DOWN"), ("3", "UP")] {
            let one = InstanceInfo { status: status.into(), ..InstanceInfo::default() };
            eureka.instances.insert(("A".into(), id.into()), one);
        }
        assert_eq!(eureka.hash(), "DOWN_1_UP_2_");
    }
}
