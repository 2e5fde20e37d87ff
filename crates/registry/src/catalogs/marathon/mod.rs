//! Marathon on Mesos: applications and their tasks, and its stream of events, of which each names the application that
//! is asked for again (Marathon's documentation, "REST API: v2/apps, v2/events").

mod convert;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use http::StatusCode;
use http::header::ACCEPT;
use lateen_api::registries::RegistryConfig;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use self::convert::App;
use super::driver::{News, Source, Told};
use super::http::{Ask, Client, Lines, TokenForm};
use super::service::{CatalogService, Naming};
use crate::{Failure, ObjectKey, Reason};

/// The kinds of events that say that an application is different now.
const EVENTS: [&str; 8] = [
    "api_post_event",
    "app_terminated_event",
    "deployment_success",
    "health_status_changed_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "status_update_event",
    "unhealthy_instance_kill_event",
];

/// Marathon as a source.
pub struct Marathon {
    client: Client,
    naming: Naming,
    interval: Duration,
    /// The stream of events; none while everything has to be fetched.
    events: Option<Events>,
    apps: BTreeMap<String, Option<CatalogService>>,
}

struct Events {
    lines: Lines,
    kind: String,
    fetched: Instant,
}

#[derive(Debug, Deserialize)]
struct Apps {
    apps: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct OneApp {
    app: Value,
}

/// What an event says.
enum Event {
    Apps(BTreeSet<String>),
    All,
}

impl Marathon {
    /// Marathon as the configuration says.
    pub fn new(config: &RegistryConfig) -> Self {
        Self {
            client: Client::new(config, TokenForm::Assignment),
            naming: Naming::new(config, "Marathon", "{service}.marathon.mesos"),
            interval: config.interval.map_or(Duration::from_secs(30), |interval| interval.get()),
            events: None,
            apps: BTreeMap::new(),
        }
    }

    async fn news(&mut self) -> Result<News, Failure> {
        let Some(events) = &mut self.events else {
            // The stream first: what changes while the list is fetched is told by it.
            let lines = self.subscribe().await?;
            let all = self.fetch().await?;
            self.events = Some(Events { lines, kind: String::new(), fetched: Instant::now() });
            return Ok(News::Full(all));
        };
        let next = events.fetched + self.interval;
        let told = tokio::select! {
            told = events.next() => told?,
            () = tokio::time::sleep_until(next) => Event::All,
        };
        match told {
            Event::All => {
                let all = self.fetch().await?;
                if let Some(events) = &mut self.events {
                    events.fetched = Instant::now();
                }
                Ok(News::Full(all))
            }
            Event::Apps(apps) => {
                let mut changed = BTreeSet::new();
                for app in apps {
                    self.fetch_one(&app, &mut changed).await?;
                }
                Ok(News::Some(changed.into_iter().map(|key| (key.clone(), self.told(&key))).collect()))
            }
        }
    }

    async fn subscribe(&self) -> Result<Lines, Failure> {
        let kinds: Vec<String> = EVENTS.iter().map(|kind| format!("event_type={kind}")).collect();
        let ask = Ask::get(format!("/v2/events?{}", kinds.join("&"))).header(ACCEPT, "text/event-stream");
        self.client.lines(&ask).await
    }

    async fn fetch(&mut self) -> Result<BTreeMap<ObjectKey, Told>, Failure> {
        let Apps { apps } = self.client.ask(&Ask::get("/v2/apps?embed=apps.tasks")).await?.good()?.json()?;
        let mut all = BTreeMap::new();
        let mut known = BTreeMap::new();
        for value in apps {
            let id = value["id"].as_str().unwrap_or_default().to_owned();
            match serde_json::from_value::<App>(value) {
                Ok(app) => {
                    known.insert(id, app.service());
                }
                Err(error) => {
                    let service = CatalogService { name: convert::name(&id), ..CatalogService::default() };
                    all.insert(
                        self.naming.key(&service),
                        Err(format!("the application {id} makes no sense: {error}")),
                    );
                }
            }
        }
        self.apps = known;
        for key in self.keys() {
            if let Some(told) = self.told(&key) {
                all.insert(key, told);
            }
        }
        Ok(all)
    }

    async fn fetch_one(&mut self, id: &str, changed: &mut BTreeSet<ObjectKey>) -> Result<(), Failure> {
        let path: Vec<String> = id.trim_matches('/').split('/').map(super::blocking::encoded).collect();
        let answer =
            self.client.ask(&Ask::get(format!("/v2/apps/{}?embed=app.tasks", path.join("/")))).await?;
        let service = if answer.status == StatusCode::NOT_FOUND {
            None
        } else {
            let OneApp { app } = answer.good()?.json()?;
            let app: App = serde_json::from_value(app).map_err(|error| {
                Failure::new(Reason::Malformed, format!("the application {id} makes no sense: {error}"))
            })?;
            app.service()
        };
        let earlier = self.apps.insert(id.to_owned(), service.clone());
        for service in [earlier.flatten(), service].into_iter().flatten() {
            changed.insert(self.naming.key(&service));
        }
        Ok(())
    }

    fn keys(&self) -> BTreeSet<ObjectKey> {
        self.apps.values().flatten().map(|service| self.naming.key(service)).collect()
    }

    fn told(&self, key: &ObjectKey) -> Option<Told> {
        let parts: Vec<&CatalogService> =
            self.apps.values().flatten().filter(|service| self.naming.key(service) == *key).collect();
        if parts.is_empty() { None } else { Some(Ok(self.naming.entry(key, &parts))) }
    }
}

impl Events {
    /// What the next event that matters says. Lines that come together are one event's.
    async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let line = self.lines.next().await?;
            let line = line.ok_or_else(|| Failure::new(Reason::Unavailable, "the stream of events ended"))?;
            if let Some(kind) = line.strip_prefix("event:") {
                self.kind = kind.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data:")
                && EVENTS.contains(&self.kind.as_str())
            {
                return Ok(apps_of(data));
            }
        }
    }
}

/// The applications that an event is about; all if it does not say.
fn apps_of(data: &str) -> Event {
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let places = [&event["appId"], &event["runSpecId"], &event["appDefinition"]["id"]];
    let apps: BTreeSet<String> =
        places.iter().filter_map(|place| place.as_str()).map(str::to_owned).collect();
    if apps.is_empty() { Event::All } else { Event::Apps(apps) }
}

impl Source for Marathon {
    fn provider(&self) -> &'static str {
        "Marathon"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>> {
        async move {
            let news = self.news().await;
            if news.is_err() {
                self.events = None;
            }
            news
        }
        .boxed()
    }
}
