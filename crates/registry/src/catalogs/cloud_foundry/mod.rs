//! Cloud Foundry: routes, the applications behind them, and where their instances run (Cloud Controller API v3:
//! "Routes, Destinations, Processes: stats"). It cannot tell of changes, so it is asked again and again, within what its
//! limit of requests allows.

mod convert;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::AUTHORIZATION;
use lateen_api::registries::RegistryConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use self::convert::{AppInfo, Instances, Route, Stat};
use super::blocking::encoded;
use super::driver::{News, Source};
use super::http::{Answer, Ask, Client, TokenForm};
use super::service::Naming;
use crate::{Failure, Reason};

/// Requests for instances that are under way at once.
const AT_ONCE: usize = 8;
/// Tokens are replaced this long before they end.
const EARLY: Duration = Duration::from_secs(60);

/// Cloud Foundry as a source.
pub struct CloudFoundry {
    /// For the Cloud Controller, with tokens.
    controller: Client,
    /// For the UAA, with our id and secret.
    config: RegistryConfig,
    naming: Naming,
    interval: Duration,
    token: Option<Token>,
    asked: bool,
}

struct Token {
    text: String,
    until: Instant,
    /// Whether it is known to have been accepted; one that never was is not worth replacing.
    accepted: bool,
}

#[derive(Debug, Deserialize)]
struct Root {
    links: BTreeMap<String, Option<Link>>,
}

#[derive(Debug, Deserialize)]
struct Link {
    href: String,
}

#[derive(Debug, Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

#[derive(Debug, Deserialize)]
struct Page<T> {
    #[serde(default)]
    pagination: Pagination,
    resources: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
struct Pagination {
    next: Option<Link>,
}

impl CloudFoundry {
    /// Cloud Foundry as the configuration says; the address is that of its API.
    pub fn new(config: &RegistryConfig) -> Self {
        let without = RegistryConfig { credentials: None, ..config.clone() };
        Self {
            controller: Client::new(&without, TokenForm::Header("authorization")),
            config: config.clone(),
            naming: Naming::new(config, "Cloud Foundry", "{service}.apps.internal"),
            interval: config.interval.map_or(Duration::from_secs(10), |interval| interval.get()),
            token: None,
            asked: false,
        }
    }

    async fn news(&mut self) -> Result<News, Failure> {
        if self.asked {
            tokio::time::sleep(self.interval).await;
        }
        self.authorize().await?;
        let mut all = self.all().await;
        let expired = matches!(&all, Err(failure) if failure.reason == Reason::Denied)
            && self.token.take().is_some_and(|token| token.accepted);
        if expired {
            // A token may be revoked before its time; one that was just issued and is refused is another matter.
            self.authorize().await?;
            all = self.all().await;
        }
        let news = all?;
        if let Some(token) = &mut self.token {
            token.accepted = true;
        }
        self.asked = true;
        Ok(news)
    }

    async fn all(&self) -> Result<News, Failure> {
        let routes: Vec<Route> = self.pages("/v3/routes?per_page=5000").await?;
        let apps: Vec<AppInfo> = self.pages("/v3/apps?per_page=5000").await?;
        let processes: BTreeSet<(String, String)> = routes.iter().flat_map(Route::processes).collect();
        let stats = stream::iter(processes).map(|process| async {
            let stats = self.stats(&process).await?;
            Ok::<_, Failure>((process, stats))
        });
        let stats: Instances = stats.buffer_unordered(AT_ONCE).try_collect().await?;
        let apps: BTreeMap<String, AppInfo> = apps.into_iter().map(|app| (app.guid.clone(), app)).collect();
        let services = convert::services(&routes, &apps, &stats);
        let mut told = BTreeMap::new();
        for service in services {
            let key = self.naming.key(&service);
            let entry = self.naming.entry(&key, &[&service]);
            told.insert(key, Ok(entry));
        }
        Ok(News::Full(told))
    }

    async fn stats(&self, (app, process): &(String, String)) -> Result<Vec<Stat>, Failure> {
        let path = format!("/v3/apps/{}/processes/{}/stats", encoded(app), encoded(process));
        let answer = self.get(&path).await?;
        // The application went while we asked.
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        Ok(answer.good()?.json::<Page<Stat>>()?.resources)
    }

    async fn pages<T: DeserializeOwned>(&self, first: &str) -> Result<Vec<T>, Failure> {
        let (mut all, mut path) = (Vec::new(), first.to_owned());
        loop {
            let page: Page<T> = self.get(&path).await?.good()?.json()?;
            all.extend(page.resources);
            let Some(next) = page.pagination.next else { return Ok(all) };
            // The link is a whole URL; we stay with the address that is configured.
            let next = next.href.find("/v3/").map(|start| next.href[start..].to_owned());
            path = match next {
                Some(next) if next != path => next,
                _ => return Err(Failure::new(Reason::Malformed, "the link to the next page leads nowhere")),
            };
        }
    }

    async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let token = self.token.as_ref().map(|token| token.text.as_str()).unwrap_or_default();
        self.controller.ask(&Ask::get(path).header(AUTHORIZATION, &format!("bearer {token}"))).await
    }

    /// Gets a token from the UAA unless there is a good one.
    async fn authorize(&mut self) -> Result<(), Failure> {
        if self.token.as_ref().is_some_and(|token| token.until > Instant::now()) {
            return Ok(());
        }
        let Root { links } = self.controller.ask(&Ask::get("/")).await?.good()?.json()?;
        let link = |name: &str| links.get(name).and_then(|link| link.as_ref()).map(|link| link.href.clone());
        let uaa = link("uaa").or_else(|| link("login")).ok_or_else(|| {
            Failure::new(Reason::Malformed, "the API does not say where its UAA is (links.uaa.href)")
        })?;
        let client = Client::at(vec![uaa], &self.config, TokenForm::Header("authorization"));
        let form = Some("grant_type=client_credentials".to_owned());
        let answer = client.ask(&Ask { path: "/oauth/token".into(), form, ..Ask::default() }).await?;
        let answer: TokenAnswer = answer.good()?.json()?;
        let life = Duration::from_secs(answer.expires_in);
        let until = Instant::now() + life.saturating_sub(EARLY.min(life / 2));
        self.token = Some(Token { text: answer.access_token, until, accepted: false });
        Ok(())
    }
}

impl Source for CloudFoundry {
    fn provider(&self) -> &'static str {
        "Cloud Foundry"
    }

    fn next(&mut self) -> BoxFuture<'_, Result<News, Failure>> {
        async move {
            let news = self.news().await;
            if news.is_err() {
                self.asked = false;
            }
            news
        }
        .boxed()
    }
}
