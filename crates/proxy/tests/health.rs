//! Who is there: active health checks, and names that are resolved by a name server of the test's own.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Running, cluster, listener};
use tokio::net::{TcpListener, UdpSocket};

/// A server that says its name; `/health` and gRPC's check answer what it is told to.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    serving: Arc<AtomicU8>,
    checks: Arc<AtomicU64>,
}

async fn server_at(name: &'static str, address: SocketAddr) -> Server {
    let listener = TcpListener::bind(address).await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        status: Arc::new(AtomicU16::new(200)),
        serving: Arc::new(AtomicU8::new(1)),
        checks: Arc::default(),
    };
    let (status, serving, checks) =
        (Arc::clone(&server.status), Arc::clone(&server.serving), Arc::clone(&server.checks));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (status, serving, checks) = (Arc::clone(&status), Arc::clone(&serving), Arc::clone(&checks));
            tokio::spawn(async move {
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (status, serving) = (status.load(Relaxed), serving.load(Relaxed));
                        let path = request.uri().path().to_owned();
                        if path != "/" {
                            checks.fetch_add(1, Relaxed);
                        }
                        async move {
                            let text = Bytes::from_static(name.as_bytes());
                            let mut response = Response::new(Full::new(text).boxed());
                            if path == "/health" {
                                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                            } else if path == "/grpc.health.v1.Health/Check" {
                                let mut trailers = HeaderMap::new();
                                trailers.insert("grpc-status", "0".parse().unwrap());
                                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]);
                                let trailers = std::future::ready(Some(Ok(trailers)));
                                response = Response::new(Full::new(message).with_trailers(trailers).boxed());
                            }
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    server
}

async fn server(name: &'static str) -> Server {
    server_at(name, ([127, 0, 0, 1], 0).into()).await
}

fn start(addresses: &[SocketAddr], extra: Value) -> Running {
    let mut config = cluster("c", addresses);
    for (name, value) in extra.as_object().unwrap() {
        config[name] = value.clone();
    }
    Running::start(listener(json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"}}])), json!([config]))
}

fn check(kind: Value) -> Value {
    let mut check = json!({"timeout": "5s", "interval": "0.05s", "no_traffic_interval": "0.05s",
        "healthy_threshold": 1, "unhealthy_threshold": 1});
    for (name, value) in kind.as_object().unwrap() {
        check[name] = value.clone();
    }
    json!({"health_checks": [check], "common_lb_config": {"healthy_panic_threshold": {"value": 0}}})
}

/// The servers that answer, once these are all.
async fn answering(proxy: &Running, expect: &[&str]) {
    let expect: BTreeSet<String> = expect.iter().map(|name| (*name).to_owned()).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut seen = BTreeSet::new();
    while seen != expect {
        assert!(Instant::now() < deadline, "{seen:?} in place of {expect:?}");
        seen.clear();
        for _ in 0..8 {
            seen.insert(proxy.get("/", &[]).await.body);
        }
    }
}

#[tokio::test]
async fn traffic_follows_health_over_http() {
    let (one, two) = (server("one").await, server("two").await);
    let log = std::env::temp_dir().join(format!("health-{}.log", one.address.port()));
    let proxy = start(
        &[one.address, two.address],
        check(json!({"http_health_check": {"path": "/health"}, "event_log_path": log.to_str().unwrap()})),
    );
    answering(&proxy, &["one", "two"]).await;
    two.status.store(503, Relaxed);
    answering(&proxy, &["one"]).await;
    let stat = |name: &str| proxy.handle().stat(&format!("cluster.c.{name}"));
    assert_eq!((stat("membership_healthy"), stat("membership_total")), (Some(1), Some(2)));
    assert!(stat("health_check.failure") >= Some(1) && stat("health_check.success") >= Some(2));
    two.status.store(200, Relaxed);
    answering(&proxy, &["one", "two"]).await;
    assert!(stat("health_check.attempt") >= stat("health_check.success"));
    one.status.store(500, Relaxed);
    two.status.store(500, Relaxed);
    answering(&proxy, &["no healthy upstream"]).await;
    drop(proxy);
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["add_healthy_event"]["first_check"] == true), "{text}");
    assert!(events.iter().any(|event| event["eject_unhealthy_event"]["failure_type"] == "ACTIVE"), "{text}");
    assert!(
        events.iter().all(|event| event["cluster_name"] == "c" && event["health_checker_type"] == "HTTP")
    );
}

#[tokio::test]
async fn other_kinds_of_checks() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = free.local_addr().unwrap();
    drop(free);
    let (one, two) = (server("one").await, server("two").await);
    let proxy = start(&[one.address, dead], check(json!({"tcp_health_check": {}})));
    answering(&proxy, &["one"]).await;
    assert_eq!(proxy.handle().stat("cluster.c.membership_healthy"), Some(1));
    let mut grpc = check(json!({"grpc_health_check": {"service_name": "s"}}));
    grpc["outlier_detection"] = json!({});
    let proxy = start(&[one.address, two.address], grpc);
    answering(&proxy, &["one", "two"]).await;
    one.serving.store(2, Relaxed);
    answering(&proxy, &["two"]).await;
    one.serving.store(1, Relaxed);
    answering(&proxy, &["one", "two"]).await;
}

#[tokio::test]
async fn an_endpoint_has_its_own_port_for_checks() {
    let (one, ill) = (server("one").await, server("ill").await);
    ill.status.store(503, Relaxed);
    let endpoint = |checked: SocketAddr| {
        json!({"endpoint": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": one.address.port()}},
            "health_check_config": {"port_value": checked.port()}}})
    };
    for (checked, expect) in [(&one, "one"), (&ill, "no healthy upstream")] {
        let mut extra = check(json!({"http_health_check": {"path": "/health"}}));
        extra["load_assignment"] =
            json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [endpoint(checked.address)]}]});
        let proxy = start(&[], extra);
        answering(&proxy, &[expect]).await;
        assert!(checked.checks.load(Relaxed) > 0);
    }
}

/// A name server: what it answers may be changed. None fails.
struct NameServer {
    address: SocketAddr,
    answers: Arc<Mutex<Option<Vec<[u8; 4]>>>>,
    asked: Arc<AtomicU64>,
}

async fn name_server(lifetime: u32) -> NameServer {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let answers: Arc<Mutex<Option<Vec<[u8; 4]>>>> = Arc::default();
    let asked: Arc<AtomicU64> = Arc::default();
    let (served, counted) = (Arc::clone(&answers), Arc::clone(&asked));
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
            answer.add_queries(query.queries.iter().cloned());
            let question = &query.queries[0];
            match &*served.lock() {
                None => answer.metadata.response_code = ResponseCode::ServFail,
                Some(addresses) if question.query_type() == RecordType::A => {
                    assert_eq!(question.name().to_string(), "shop.test.");
                    counted.fetch_add(1, Relaxed);
                    for address in addresses {
                        let data = RData::A(A::from(std::net::Ipv4Addr::from(*address)));
                        answer.add_answer(Record::from_rdata(question.name().clone(), lifetime, data));
                    }
                }
                Some(_) => {}
            }
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    NameServer { address, answers, asked }
}

fn named(kind: &str, port: u16, server: &NameServer, extra: Value) -> Value {
    let resolver = json!({"socket_address": {"address": "127.0.0.1", "port_value": server.address.port()}});
    let mut config = json!({"type": kind, "dns_refresh_rate": "0.05s", "dns_lookup_family": "V4_PREFERRED",
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [resolver]}},
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {
            "address": {"socket_address": {"address": "shop.test", "port_value": port}}}}]}]}});
    for (name, value) in extra.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

#[tokio::test]
async fn names_are_resolved_again_and_again() {
    let one = server("one").await;
    let port = one.address.port();
    // The same port on another address of this machine.
    let _two = server_at("two", SocketAddr::from(([127, 0, 0, 2], port))).await;
    let names = name_server(60).await;
    *names.answers.lock() = Some(vec![[127, 0, 0, 1]]);
    let proxy = start(&[], named("STRICT_DNS", port, &names, json!({})));
    proxy.handle().ready().await;
    answering(&proxy, &["one"]).await;
    *names.answers.lock() = Some(vec![[127, 0, 0, 1], [127, 0, 0, 2]]);
    answering(&proxy, &["one", "two"]).await;
    let stat = |name: &str| proxy.handle().stat(&format!("cluster.c.{name}"));
    assert_eq!(stat("membership_total"), Some(2));
    // A server that fails is no reason to forget.
    *names.answers.lock() = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    while stat("update_failure") < Some(2) {
        assert!(Instant::now() < deadline, "no failure is counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answering(&proxy, &["one", "two"]).await;
    *names.answers.lock() = Some(vec![[127, 0, 0, 2]]);
    answering(&proxy, &["two"]).await;
    *names.answers.lock() = Some(Vec::new());
    answering(&proxy, &["no healthy upstream"]).await;
}

#[tokio::test]
async fn one_address_at_a_time_and_lifetimes() {
    let one = server("one").await;
    let port = one.address.port();
    let names = name_server(3600).await;
    *names.answers.lock() = Some(vec![[127, 0, 0, 1], [127, 0, 0, 9]]);
    let proxy = start(&[], named("LOGICAL_DNS", port, &names, json!({"respect_dns_ttl": true})));
    proxy.handle().ready().await;
    answering(&proxy, &["one"]).await;
    assert_eq!(proxy.handle().stat("cluster.c.membership_total"), Some(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(names.asked.load(Relaxed), 1, "its answer is true for an hour");
}
