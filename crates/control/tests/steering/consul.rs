//! Consul as far as the catalog and health go, with blocking queries (Consul's documentation, "HTTP API").

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::web;

/// Instances of each service, and how often that has changed.
#[derive(Debug, Clone)]
struct Catalog {
    index: u64,
    services: BTreeMap<String, Vec<Value>>,
}

pub struct Consul {
    address: SocketAddr,
    catalog: Arc<watch::Sender<Catalog>>,
    serving: std::sync::Mutex<JoinSet<()>>,
}

/// An instance as `/v1/health/service/NAME` shows it.
pub fn instance(address: SocketAddr, version: &str) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({
        "Node": {"Node": "n1", "Address": ip, "Datacenter": "dc1", "Meta": null, "TaggedAddresses": null},
        "Service": {"ID": format!("reviews-{port}"), "Service": "reviews", "Tags": ["protocol=http"], "Address": ip,
            "Meta": {"version": version, "service-port": "9080"}, "Port": port, "Weights": {"Passing": 1, "Warning": 1}, "Kind": ""},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}]
    })
}

impl Consul {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let catalog = Arc::new(watch::Sender::new(Catalog { index: 1, services: BTreeMap::new() }));
        let mut serving = JoinSet::new();
        serving.spawn({
            let catalog = Arc::clone(&catalog);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let catalog = catalog.subscribe();
                    connections.spawn(web::answer(stream, move |head| answer(head, catalog)));
                }
            }
        });
        Self { address, catalog, serving: serving.into() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put(&self, service: &str, instances: Vec<Value>) {
        self.catalog.send_modify(|catalog| {
            catalog.index += 1;
            catalog.services.insert(service.to_owned(), instances);
        });
    }

    /// Ends it and all connections.
    pub fn stop(&self) {
        self.serving.lock().unwrap().abort_all();
    }
}

async fn answer(head: String, mut catalog: watch::Receiver<Catalog>) -> Option<(String, String)> {
    let target = head.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    if let Some(index) = value("index").and_then(|index| index.parse::<u64>().ok()) {
        let wait = value("wait").and_then(|wait| wait.strip_suffix("ms")?.parse().ok()).unwrap_or(60_000);
        let later = catalog.wait_for(|catalog| catalog.index > index);
        let _ = tokio::time::timeout(Duration::from_millis(wait), later).await;
    }
    let now = catalog.borrow().clone();
    let body = match path.strip_prefix("/v1/health/service/") {
        Some(name) => json!(now.services.get(name).cloned().unwrap_or_default()),
        None if path == "/v1/catalog/services" => now
            .services
            .keys()
            .map(|name| (name.clone(), json!([])))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        None => return None,
    };
    Some((format!("x-consul-index: {}\r\n", now.index), body.to_string()))
}
