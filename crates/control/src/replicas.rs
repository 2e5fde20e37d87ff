//! What all replicas of the control plane know together.
//!
//! A replica knows only of the proxies that are connected to it. Whoever must speak for all asks the others, on their
//! debug port, how far the objects in question are; nothing is written anywhere for that, and nobody is asked about
//! objects that nobody asks about. Replicas find each other by the EndpointSlices of their Service, and know each other
//! by a key in a Secret that the first of them makes; a question carries a code made with it (HMAC-SHA256 over time and
//! body), so that neither the key nor anything that could be used elsewhere goes over the network.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::{Client as Http, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use lateen_model::{ConfigKind, ConfigReference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::discovery::Discovery;
use crate::distribution::Progress;

/// Where replicas ask each other.
pub(crate) const PATH: &str = "/debug/distribution";
/// What a question is signed with.
const SIGNATURE: &str = "lateen-signature";
const SECRET: &str = "lateen-replicas";
const KEY: &str = "key";
/// The port of the Service that leads to the debug pages, if it has one.
const PORT_NAME: &str = "http-debug";
/// How long the list of replicas is believed.
const FRESH: Duration = Duration::from_secs(5);
/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How far clocks may differ.
const SKEW: u64 = 300;
/// More than any answer has.
const MAX_ANSWER: usize = 64 << 20;

/// All replicas, seen from this one.
pub(crate) struct Replicas {
    client: Client,
    namespace: String,
    services: Vec<String>,
    /// This replica.
    identity: String,
    /// The debug port, where the Service names none.
    port: u16,
    discovery: Discovery,
    http: Http<HttpConnector, Full<Bytes>>,
    known: tokio::sync::Mutex<Known>,
    key: Mutex<Option<Arc<hmac::Key>>>,
}

/// The other replicas.
#[derive(Default)]
struct Known {
    at: Option<Instant>,
    others: Vec<SocketAddr>,
    /// Addresses that turned out to be this replica's.
    own: BTreeSet<SocketAddr>,
    failing: bool,
}

/// What replicas know together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Together {
    /// One for each object in question.
    pub(crate) progress: Vec<Option<Progress>>,
    /// Changes whenever proxies come or go, anywhere.
    pub(crate) membership: Vec<(String, u64)>,
    /// Replicas that do not answer.
    pub(crate) silent: Vec<String>,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    objects: Vec<(String, String, String)>,
}

/// What one replica says.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    replica: String,
    membership: u64,
    progress: Vec<Option<Progress>>,
}

impl Replicas {
    /// The replicas behind the Service of this revision in this namespace.
    pub(crate) fn new(
        client: Client,
        namespace: &str,
        revision: &str,
        identity: &str,
        port: u16,
        discovery: Discovery,
    ) -> Arc<Self> {
        let mut services = vec!["istiod".to_owned()];
        if !revision.is_empty() {
            services.push(format!("istiod-{revision}"));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        Arc::new(Self {
            client,
            namespace: namespace.to_owned(),
            services,
            identity: identity.to_owned(),
            port,
            discovery,
            http: Http::builder(TokioExecutor::new()).build(connector),
            known: tokio::sync::Mutex::default(),
            key: Mutex::default(),
        })
    }

    /// How far these objects are with the proxies of all replicas.
    pub(crate) async fn ask(&self, objects: &[ConfigReference]) -> Together {
        let mut together = Together {
            progress: self.discovery.progress(objects),
            membership: vec![(self.identity.clone(), self.discovery.membership())],
            silent: Vec::new(),
        };
        let others = self.others().await;
        let body = serde_json::to_vec(&Question::new(objects)).unwrap_or_default();
        let answers = join_all(others.into_iter().map(|address| self.question(address, body.clone()))).await;
        for (address, answer) in answers {
            match answer {
                Ok(answer) if answer.replica == self.identity => {
                    self.known.lock().await.own.insert(address);
                }
                Ok(answer) => together.add(answer),
                Err(error) => {
                    tracing::debug!(%address, "a replica does not answer: {error:#}");
                    together.miss(&address.to_string());
                }
            }
        }
        together.membership.sort();
        together
    }

    /// Answers a question of another replica.
    pub(crate) async fn answer(&self, headers: &HeaderMap, body: &[u8]) -> anyhow::Result<String> {
        let key = self.key().await?;
        check(&key, headers, body)?;
        let question: Question = serde_json::from_slice(body)?;
        let objects = question.objects();
        let progress = self.discovery.progress(&objects);
        let membership = self.discovery.membership();
        Ok(serde_json::to_string(&Answer { replica: self.identity.clone(), membership, progress })?)
    }

    async fn question(&self, address: SocketAddr, body: Vec<u8>) -> (SocketAddr, anyhow::Result<Answer>) {
        let answer = async {
            let key = self.key().await?;
            let request = Request::post(format!("http://{address}{PATH}"))
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(SIGNATURE, sign(&key, now(), &body))
                .body(Full::new(Bytes::from(body)))?;
            let response = self.http.request(request).await?;
            let status = response.status();
            let limited = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = limited.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
            anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body).trim());
            serde_json::from_slice(&body).context("it answers something else")
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        (address, answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))))
    }

    /// Where the other replicas are.
    async fn others(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().await;
        if known.at.is_none_or(|at| at.elapsed() >= FRESH) {
            match self.listed().await {
                Ok(others) => {
                    known.failing = false;
                    known.others = others;
                }
                Err(error) => {
                    if !std::mem::replace(&mut known.failing, true) {
                        tracing::warn!("the other replicas cannot be found, the last known count: {error:#}");
                    }
                }
            }
            known.at = Some(Instant::now());
        }
        known.others.iter().filter(|address| !known.own.contains(address)).copied().collect()
    }

    async fn listed(&self) -> kube::Result<Vec<SocketAddr>> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = format!("kubernetes.io/service-name in ({})", self.services.join(","));
        let slices = api.list(&ListParams::default().labels(&selector)).await?;
        let found: BTreeSet<SocketAddr> =
            slices.iter().flat_map(|slice| addresses(slice, self.port)).collect();
        Ok(found.into_iter().collect())
    }

    /// The key that replicas share, made if nobody has.
    async fn key(&self) -> anyhow::Result<Arc<hmac::Key>> {
        if let Some(key) = &*self.key.lock() {
            return Ok(Arc::clone(key));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_secrets = || format!("Secret {}/{SECRET}", self.namespace);
        let secret = match api.get_opt(SECRET).await.with_context(of_secrets)? {
            Some(secret) => secret,
            None => match api.create(&PostParams::default(), &new_secret()?).await {
                // Another replica was quicker.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    api.get(SECRET).await.with_context(of_secrets)?
                }
                made => made.with_context(of_secrets)?,
            },
        };
        let bytes = secret.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
        anyhow::ensure!(bytes.0.len() >= 32, "{} has no key of 32 bytes; delete it", of_secrets());
        let key = Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &bytes.0));
        *self.key.lock() = Some(Arc::clone(&key));
        Ok(key)
    }
}

impl Together {
    fn add(&mut self, answer: Answer) {
        for (ours, theirs) in self.progress.iter_mut().zip(&answer.progress) {
            if let Some(ours) = ours {
                ours.add(&answer.replica, theirs.as_ref());
            }
        }
        self.membership.push((answer.replica, answer.membership));
    }

    fn miss(&mut self, replica: &str) {
        for progress in self.progress.iter_mut().flatten() {
            progress.behind.push(replica.to_owned());
        }
        self.silent.push(replica.to_owned());
    }
}

impl Question {
    fn new(objects: &[ConfigReference]) -> Self {
        let words = |object: &ConfigReference| {
            (object.kind.as_str().to_owned(), object.namespace.to_string(), object.name.clone())
        };
        Self { objects: objects.iter().map(words).collect() }
    }

    fn objects(self) -> Vec<ConfigReference> {
        let reference = |(kind, namespace, name): (String, String, String)| {
            // A replica of another version may know kinds that we do not: such an object is one that we do not have.
            let kind = ConfigKind::parse(&kind);
            let name = if kind.is_some() { name } else { String::new() };
            let kind = kind.unwrap_or(ConfigKind::VirtualService);
            ConfigReference { kind, namespace: namespace.as_str().into(), name }
        };
        self.objects.into_iter().map(reference).collect()
    }
}

/// The debug ports of the ready endpoints of a slice.
fn addresses(slice: &EndpointSlice, default: u16) -> Vec<SocketAddr> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT_NAME));
    let port = named.and_then(|port| u16::try_from(port.port?).ok()).unwrap_or(default);
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    // One of several addresses of an endpoint is enough.
    let first = |addresses: &Vec<String>| addresses.first()?.parse::<IpAddr>().ok();
    ready
        .filter_map(|endpoint| first(&endpoint.addresses))
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

fn new_secret() -> anyhow::Result<Secret> {
    let mut key = vec![0; 32];
    rand::fill(&mut key).map_err(|_| anyhow::anyhow!("there is no randomness"))?;
    let mut secret = Secret { data: Some([(KEY.to_owned(), ByteString(key))].into()), ..Secret::default() };
    secret.metadata.name = Some(SECRET.to_owned());
    Ok(secret)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `SECONDS.CODE`
fn sign(key: &hmac::Key, time: u64, body: &[u8]) -> String {
    let code = hmac::sign(key, &signed(time, body));
    format!("{time}.{}", BASE64_STANDARD.encode(code.as_ref()))
}

fn signed(time: u64, body: &[u8]) -> Vec<u8> {
    [PATH.as_bytes(), &time.to_be_bytes(), body].concat()
}

fn check(key: &hmac::Key, headers: &HeaderMap, body: &[u8]) -> anyhow::Result<()> {
    let text = headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (time, code) = text.split_once('.').context("only replicas of the control plane may ask this")?;
    let time: u64 = time.parse().context("a signature begins with the time")?;
    anyhow::ensure!(time.abs_diff(now()) <= SKEW, "the question is {} seconds off", time.abs_diff(now()));
    let code = BASE64_STANDARD.decode(code).context("the signature is not base64")?;
    let verified = hmac::verify(key, &signed(time, body), &code);
    verified
        .map_err(|_| anyhow::anyhow!("the signature is wrong: replicas of one mesh share Secret {SECRET}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_replicas() {
        let slice = |ports: serde_json::Value, endpoints: serde_json::Value| -> EndpointSlice {
            serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "ports": ports,
                "endpoints": endpoints}))
            .unwrap()
        };
        let ready = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}});
        for (name, ports, endpoints, expected) in [
            (
                "the named port",
                json!([{"name": "http-debug", "port": 9090}]),
                json!([ready]),
                vec!["10.0.0.1:9090"],
            ),
            (
                "no such port",
                json!([{"name": "https-dns", "port": 15012}]),
                json!([ready]),
                vec!["10.0.0.1:8080"],
            ),
            (
                "one that is not ready",
                json!([]),
                json!([ready, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]),
                vec!["10.0.0.1:8080"],
            ),
            ("nothing said", json!([]), json!([{"addresses": ["10.0.0.3"]}]), vec!["10.0.0.3:8080"]),
            ("a name", json!([]), json!([{"addresses": ["replica.example.com"]}]), vec![]),
        ] {
            let found: Vec<String> =
                addresses(&slice(ports, endpoints), 8080).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn only_who_has_the_key_may_ask() {
        let key = |byte: u8| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]);
        let headers =
            |text: String| HeaderMap::from_iter([(SIGNATURE.parse().unwrap(), text.parse().unwrap())]);
        for (name, headers, allowed) in [
            ("signed", headers(sign(&key(1), now(), b"{}")), true),
            ("another key", headers(sign(&key(2), now(), b"{}")), false),
            ("another body", headers(sign(&key(1), now(), b"[]")), false),
            ("long ago", headers(sign(&key(1), now() - 2 * SKEW, b"{}")), false),
            ("not signed", HeaderMap::new(), false),
            ("nonsense", headers("1.x".to_owned()), false),
        ] {
            assert_eq!(check(&key(1), &headers, b"{}").is_ok(), allowed, "{name}");
        }
    }

    #[test]
    fn questions_travel() {
        let reference =
            ConfigReference { kind: ConfigKind::Gateway, namespace: "shop".into(), name: "edge".to_owned() };
        let text = serde_json::to_string(&Question::new(std::slice::from_ref(&reference))).unwrap();
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap().objects(), [reference]);
    }
}
