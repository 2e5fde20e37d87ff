//! Eureka against the real server: a small Spring application that `tools/install` builds where Java and Maven are.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use lateen_api::registries::{RegistryConfig, RegistryCredentials, RegistryProvider};
use lateen_model::{Address, Health};
use lateen_registry::catalogs::{driver::Pace, platform};
use lateen_registry::{Registry, RegistryOptions, StoreOptions};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// A Java program starts slowly, and slower still on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

struct Server {
    address: SocketAddr,
    _process: Child,
}

impl Server {
    /// On this port; none where the server was not built.
    fn start(jar: &str, port: u16) -> Self {
        let process = Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-Xmx192m", "-jar", jar])
            .arg(format!("--server.port={port}"))
            .args([
                "--server.address=127.0.0.1",
                "--spring.security.user.name=mesh",
                "--spring.security.user.password=secret",
                "--eureka.client.register-with-eureka=false",
                "--eureka.client.fetch-registry=false",
                "--eureka.server.enable-self-preservation=false",
                "--eureka.server.wait-time-in-ms-when-sync-empty=0",
                "--eureka.server.response-cache-update-interval-ms=200",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { address: ([127, 0, 0, 1], port).into(), _process: process }
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Option<u16> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
        let pair = base64::engine::general_purpose::STANDARD.encode("mesh:secret");
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("authorization", format!("Basic {pair}"))
            .header("content-type", "application/json")
            .body(Full::from(body.map(|body| body.to_string()).unwrap_or_default()))
            .unwrap();
        let response = client.request(request).await.ok()?;
        let status = response.status().as_u16();
        response.into_body().collect().await.ok()?;
        Some(status)
    }

    async fn ready(&self) {
        let wait = async {
            while self.send("GET", "/eureka/apps", None).await != Some(200) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the server starts");
    }

    async fn register(&self, application: &str, address: &str, version: &str) {
        let id = format!("{address}:{application}:9080");
        let instance = json!({"instance": {
            "instanceId": id, "hostName": address, "app": application.to_uppercase(), "ipAddr": address, "status": "UP",
            "port": {"$": 9080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
            "vipAddress": application, "metadata": {"version": version, "zone": "z1"},
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 600}}});
        let path = format!("/eureka/apps/{}", application.to_uppercase());
        assert_eq!(self.send("POST", &path, Some(instance)).await, Some(204));
    }
}

fn endpoints(registry: &Registry, host: &str) -> Vec<String> {
    let Some(snapshot) = registry.snapshot() else { return Vec::new() };
    let Some(service) = snapshot.services().find(|service| service.key.hostname.as_str() == host).cloned()
    else {
        return Vec::new();
    };
    let Some(set) = snapshot.endpoints(&service.key) else { return Vec::new() };
    let show = |one: &lateen_model::Endpoint| {
        let Address::Ip(addresses) = &one.address else { panic!("an address") };
        let health = if one.health == Health::Healthy { "" } else { " not healthy" };
        format!("{}:{} {}{health}", addresses[0], one.ports["http"], one.labels["version"])
    };
    set.endpoints.iter().map(|one| show(one)).collect()
}

async fn until(registry: &Registry, what: &str, holds: impl Fn(&Registry) -> bool) {
    let wait = async {
        while !holds(registry) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(LIMIT, wait).await.is_err() {
        panic!("waited for: {what}\n{:#?}", registry.statuses());
    }
}

#[tokio::test]
async fn the_real_server() {
    let Ok(jar) = std::env::var("EUREKA_JAR") else {
        println!("skipped: EUREKA_JAR names no server; tools/install builds it where Java and Maven are");
        return;
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(&jar, port);
    server.ready().await;
    server.register("reviews", "10.0.0.1", "v1").await;

    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret").unwrap();
    let config = RegistryConfig {
        provider: RegistryProvider::Eureka,
        // The first of the two servers does not exist.
        addresses: vec!["http://127.0.0.1:1/eureka".into(), format!("http://{}/eureka", server.address)],
        interval: Some(lateen_api::Duration::from_millis(200)),
        credentials: Some(RegistryCredentials {
            user: "mesh".into(),
            password_file: password.path().to_str().unwrap().into(),
            ..RegistryCredentials::default()
        }),
        ..RegistryConfig::default()
    };
    let pace = Pace {
        first: Duration::from_millis(50),
        longest: Duration::from_millis(500),
        refused: Duration::from_millis(500),
    };
    let options = RegistryOptions {
        store: StoreOptions { cluster: "eureka".into(), ..StoreOptions::default() },
        ..RegistryOptions::default()
    };
    let registry = Registry::start(options, vec![platform(&config, pace).unwrap()], None);
    until(&registry, "the only instance, which is written without a list", |registry| {
        endpoints(registry, "reviews.eureka") == ["10.0.0.1:9080 v1"]
    })
    .await;

    server.register("reviews", "10.0.0.2", "v2").await;
    server.register("ratings", "10.0.0.3", "v1").await;
    until(&registry, "what the delta adds", |registry| {
        endpoints(registry, "reviews.eureka") == ["10.0.0.1:9080 v1", "10.0.0.2:9080 v2"]
            && endpoints(registry, "ratings.eureka").len() == 1
    })
    .await;

    let path = "/eureka/apps/REVIEWS/10.0.0.2:reviews:9080/status?value=OUT_OF_SERVICE";
    assert_eq!(server.send("PUT", path, None).await, Some(200));
    until(&registry, "an instance out of service", |registry| {
        endpoints(registry, "reviews.eureka") == ["10.0.0.1:9080 v1", "10.0.0.2:9080 v2 not healthy"]
    })
    .await;
    assert_eq!(server.send("DELETE", "/eureka/apps/REVIEWS/10.0.0.1:reviews:9080", None).await, Some(200));
    until(&registry, "what the delta deletes", |registry| endpoints(registry, "reviews.eureka").len() == 1)
        .await;

    drop(server);
    until(&registry, "the server is away", |registry| registry.statuses()[0].stale).await;
    let server = Server::start(&jar, port);
    server.ready().await;
    until(&registry, "it is back, without instances", |registry| !registry.statuses()[0].stale).await;
    assert_eq!(
        endpoints(&registry, "ratings.eureka").len(),
        1,
        "the last known state stands while they register again"
    );
    server.register("reviews", "10.0.0.9", "v1").await;
    until(&registry, "the new state", |registry| {
        endpoints(registry, "reviews.eureka") == ["10.0.0.9:9080 v1"]
            && endpoints(registry, "ratings.eureka").is_empty()
    })
    .await;

    std::fs::write(password.path(), "wrong").unwrap();
    until(&registry, "it is refused", |registry| {
        let error = registry.statuses()[0].last_error.clone();
        error.is_some_and(|error| error.reason == lateen_registry::Reason::Denied)
    })
    .await;
}
