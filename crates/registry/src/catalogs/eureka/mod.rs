//! Eureka: a full fetch, then the changes of the last minutes again and again, until the server's hash of all says that
//! something was missed (Netflix' documentation, "Eureka REST operations").
//!
//! The server answers from a cache, whose entry is dropped when something changes. An entry that is being written at that
//! moment is not: it is kept, without the change, until something else changes or its three minutes are over, and its hash
//! fits to what it tells. So the changes are asked for in both forms, full and compact, which are two entries of that
//! cache; the one that was written later knows whether something was missed.

mod convert;
mod registered;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use http::{HeaderName, StatusCode};
use lateen_api::registries::RegistryConfig;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tracing::{info, warn};

use self::registered::Registered;
use super::driver::{News, Source};
use super::http::{Ask, Client, TokenForm};
use super::service::{CatalogService, Naming};
use crate::{Failure, ObjectKey};

/// How long instances have to register again with a server that was started anew: Eureka's leases last so long.
const LEASE: Duration = Duration::from_secs(90);
/// Where the changes of the last minutes are.
const DELTA: &str = "/apps/delta";
/// Which form of an answer is wanted, `full` or `compact`.
const ACCEPT_FORM: HeaderName = HeaderName::from_static("x-eureka-accept");

/// Eureka as a source.
pub struct Eureka {
    client: Client,
    naming: Naming,
    interval: Duration,
    lease: Duration,
    registered: Registered,
    /// Whether the next fetch is a full one.
    full: bool,
    /// Whether changes were missed when they were asked for last.
    missed: bool,
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
    /// Counts the answers that the server wrote; a number or a text.
    #[serde(rename = "versions__delta")]
    version: Value,
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
            registered: Registered::default(),
            full: true,
            missed: false,
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
        let mut registered = Registered::default();
        registered.apply(&applications);
        if registered.is_empty() && !self.registered.is_empty() && (self.failed || self.empty_since.is_some())
        {
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
        let changed = !self.fetched || self.failed || self.registered != registered;
        self.registered = registered;
        Ok(changed)
    }

    async fn fetch_delta(&mut self) -> Result<bool, Failure> {
        let answer = self.client.ask(&Ask::get(DELTA)).await?;
        // The server may have it turned off.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
            self.full = true;
            return self.fetch().await;
        }
        let Envelope { applications: delta } = answer.good()?.json()?;
        let ask = Ask::get(DELTA).header(ACCEPT_FORM, "compact");
        let Envelope { applications: check } = self.client.ask(&ask).await?.good()?.json()?;
        let mut registered = self.registered.clone();
        registered.apply(&delta);
        if let Some(theirs) = registered.missed(&delta, &check) {
            // Said once: a server that counts in another way would have us say it for ever.
            if !std::mem::replace(&mut self.missed, true) {
                warn!(
                    platform = %self.naming.platform, ours = registered.hash(), theirs,
                    "changes were missed, all is fetched anew"
                );
            }
            self.full = true;
            return self.fetch().await;
        }
        self.missed = false;
        let changed = self.registered != registered;
        self.registered = registered;
        Ok(changed)
    }

    fn services(&self) -> BTreeMap<ObjectKey, super::driver::Told> {
        let mut services: BTreeMap<ObjectKey, CatalogService> = BTreeMap::new();
        for (application, one) in self.registered.all() {
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
}
