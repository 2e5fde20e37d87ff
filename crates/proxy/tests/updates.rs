//! Configuration that changes under load loses no request.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use lateen_envoy::json::from_json;
use serde_json::{Value, json};
use support::{Answer, Running, assignment, cluster, listener, listener_with, upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Clients that keep their connections, as long as the proxy lets them, until told to stop. Gives requests and
/// failures.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    failures: Arc<parking_lot::Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            requests: Arc::default(),
            failures: Arc::default(),
            tasks: Vec::new(),
        };
        for _ in 0..clients {
            let (stop, requests, failures) =
                (load.stop.clone(), load.requests.clone(), load.failures.clone());
            load.tasks.push(tokio::spawn(async move {
                let mut stream: Option<TcpStream> = None;
                while !stop.load(Relaxed) {
                    match one(&mut stream, address).await {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => failures.lock().push(format!("{answer:?}")),
                        Err(error) => failures.lock().push(error.to_string()),
                    }
                    requests.fetch_add(1, Relaxed);
                }
            }));
        }
        load
    }

    async fn at_least(&self, more: u64) {
        let until = self.requests.load(Relaxed) + more;
        while self.requests.load(Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        assert!(self.failures.lock().is_empty(), "{:?}", self.failures.lock());
    }
}

async fn one(kept: &mut Option<TcpStream>, address: SocketAddr) -> std::io::Result<Answer> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut buffer = Vec::new();
    loop {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&buffer).into_owned();
        let answer = Answer::parse(&text);
        let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
        if text.contains("\r\n\r\n") && length == Some(answer.body.len()) {
            if answer.header("connection") != Some("close") {
                *kept = Some(stream);
            }
            return Ok(answer);
        }
    }
}

fn routes_to(cluster: &str, extra: usize) -> Value {
    json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster},
        "response_headers_to_add": [{"header": {"key": "x-version", "value": extra.to_string()}}]}])
}

/// Applies in the main thread's place: the manager starts tasks, so it wants a runtime.
fn apply(
    proxy: &Running,
    run: impl FnOnce(&mut lateen_proxy::manager::Manager) -> Result<(), lateen_proxy::manager::ApplyError>,
) {
    run(&mut proxy.handle().manager().lock()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_resource_changes_under_load() {
    let servers = [upstream("one").await, upstream("two").await, upstream("three").await];
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let eds = |name: &str, connect: &str| json!({"name": name, "type": "EDS", "connect_timeout": connect, "eds_cluster_config": {"eds_config": {"ads": {}}}});
    let rds = json!({"rds": {"route_config_name": "discovered", "config_source": {"ads": {}}}});
    let proxy = Running::start(listener(routes_to("static", 0)), json!([cluster("static", &addresses[..1])]));
    apply(&proxy, |manager| manager.apply_assignment(from_json(&assignment("found", &addresses)).unwrap()));
    apply(&proxy, |manager| manager.apply_cluster(from_json(&eds("found", "1s")).unwrap()));
    let table = |version| json!({"name": "discovered", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes_to("found", version)}]});
    apply(&proxy, |manager| manager.apply_routes(from_json(&table(0)).unwrap()));
    let load = Load::start(proxy.address, 4);
    load.at_least(50).await;
    for round in 0..30usize {
        // Hosts leave and come back; the cluster's own settings, the routes and the listener change.
        let hosts: Vec<SocketAddr> =
            addresses.iter().enumerate().filter(|(at, _)| *at != round % 3).map(|(_, a)| *a).collect();
        apply(&proxy, |manager| manager.apply_assignment(from_json(&assignment("found", &hosts)).unwrap()));
        apply(&proxy, |manager| {
            manager.apply_cluster(from_json(&eds("found", &format!("{}s", 1 + round % 3))).unwrap())
        });
        apply(&proxy, |manager| manager.apply_routes(from_json(&table(round)).unwrap()));
        let next =
            if round % 2 == 0 { listener_with(rds.clone()) } else { listener(routes_to("static", round)) };
        apply(&proxy, |manager| manager.apply_listener(from_json(&next).unwrap()));
        load.at_least(40).await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_complete_does_not_serve_and_what_is_wrong_changes_nothing() {
    let server = upstream("one").await;
    let proxy = Running::start(listener(routes_to("c", 0)), json!([cluster("c", &[server.address])]));
    // A listener whose routes are missing waits; the old one serves.
    let rds = listener_with(json!({"rds": {"route_config_name": "later", "config_source": {"ads": {}}}}));
    apply(&proxy, |manager| manager.apply_listener(from_json(&rds).unwrap()));
    assert_eq!(proxy.get("/", &[]).await.header("x-version"), Some("0"));
    let table = json!({"name": "later", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes_to("c", 7)}]});
    apply(&proxy, |manager| manager.apply_routes(from_json(&table).unwrap()));
    assert_eq!(proxy.get("/", &[]).await.header("x-version"), Some("7"));
    let wrong = json!({"name": "later", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [
        {"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "c"}}]}]});
    let error =
        proxy.handle().manager().lock().apply_routes(from_json(&wrong).unwrap()).unwrap_err().to_string();
    assert!(
        error.starts_with("RouteConfiguration later: virtual_hosts[0].routes[0].match.safe_regex: "),
        "{error}"
    );
    assert_eq!(proxy.get("/", &[]).await.header("x-version"), Some("7"));
}
