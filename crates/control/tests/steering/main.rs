//! A whole `lateend` with Kubernetes-style objects and Consul at once, a stock Envoy as a gateway of its mesh, and real
//! requests: what rules say of a service holds wherever its instances are. Needs `ENVOY_BIN`; says so without.

// Clippy's leave for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod consul;
mod lateend;
mod names;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::consul::{Consul, instance};
use crate::lateend::{Envoy, Lateend, free_port};
use crate::names::Names;
use crate::web::{Backend, get};

/// For a machine that does ten things at once.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn object(kind: (&str, &str), name: &str, rest: Value) -> Value {
    let mut object =
        json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": name, "namespace": "default"}});
    for (field, value) in rest.as_object().unwrap() {
        match field.as_str() {
            "labels" => object["metadata"]["labels"] = value.clone(),
            _ => object[field] = value.clone(),
        }
    }
    object
}

const NETWORKING: &str = "networking.istio.io/v1";

fn rule(kind: &str, name: &str, spec: Value) -> Value {
    object((NETWORKING, kind), name, json!({"spec": spec}))
}

fn gateway(port: u16) -> Value {
    let server = json!({"port": {"number": port, "name": "http", "protocol": "HTTP"}, "bind": "127.0.0.1", "hosts": ["*"]});
    rule("Gateway", "edge", json!({"selector": {"istio": "edge"}, "servers": [server]}))
}

/// The service as a cluster has it: one Pod of version v1.
fn reviews(pod: SocketAddr) -> [Value; 3] {
    let address = pod.ip().to_string();
    [
        object(
            ("v1", "Service"),
            "reviews",
            json!({"spec": {"selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 9080}]}}),
        ),
        object(
            ("v1", "Pod"),
            "reviews-v1",
            json!({"labels": {"app": "reviews", "version": "v1"},
                "spec": {"nodeName": "n", "containers": [{"name": "reviews", "image": "reviews"}]}}),
        ),
        object(
            ("discovery.k8s.io/v1", "EndpointSlice"),
            "reviews-1",
            json!({"labels": {"kubernetes.io/service-name": "reviews"}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": pod.port()}],
                "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "reviews-v1", "namespace": "default"}}]}),
        ),
    ]
}

/// The rules: shares for the versions, wherever they are.
fn shares(v1: u32, v2: u32) -> [Value; 2] {
    let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
    let share = |version: &str, weight: u32| json!({"destination": {"host": "reviews", "subset": version}, "weight": weight});
    [
        rule(
            "DestinationRule",
            "reviews",
            json!({"host": "reviews", "subsets": [subset("v1"), subset("v2")]}),
        ),
        rule(
            "VirtualService",
            "reviews",
            json!({"hosts": ["reviews.example.com"], "gateways": ["edge"],
                "http": [{"route": [share("v1", v1), share("v2", v2)]}]}),
        ),
    ]
}

/// Who answers how many of some requests.
async fn asked(gateway: SocketAddr, host: &str, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = get(gateway, host, "/").await.unwrap_or_else(|error| error.to_string());
        *answers.entry(answer).or_default() += 1;
    }
    answers
}

fn keys(answers: &BTreeMap<String, usize>) -> Vec<&str> {
    answers.keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_steer_a_service_that_lives_on_two_platforms() {
    let Some(envoy) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) else {
        println!("skipped: ENVOY_BIN is not set");
        return;
    };
    let (pod, instances) = (
        Backend::start("pod v1").await,
        [Backend::start("consul v2").await, Backend::start("moved v2").await],
    );
    let consul = Consul::start().await;
    consul.put("reviews", vec![instance(instances[0].address, "v2")]);
    let flag = format!(
        "consul={},namespace=default,hostname={{service}}.default.svc.cluster.local,interval=2s",
        consul.url()
    );
    let lateend = Lateend::start(&["--registry", &flag]).await;
    let edge = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for one in reviews(pod.address).into_iter().chain(shares(50, 50)).chain([gateway(edge.port())]) {
        lateend.put(one).await;
    }
    lateend
        .put_status(object(
            ("v1", "Pod"),
            "reviews-v1",
            json!({"status": {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        ))
        .await;
    let _envoy = Envoy::gateway(&envoy, &lateend).await;
    let host = "reviews.example.com";
    until("both platforms' instances", async || {
        keys(&asked(edge, host, 20).await) == ["consul v2", "pod v1"]
    })
    .await;
    let answers = asked(edge, host, 200).await;
    assert_eq!(keys(&answers), ["consul v2", "pod v1"]);
    // Each is a coin thrown 200 times: beyond eight standard deviations is no chance.
    assert!(
        answers.values().all(|count| (44..=156).contains(count)),
        "half of the requests each: {answers:?}"
    );

    for one in shares(0, 100) {
        lateend.put(one).await;
    }
    until("only Consul's", async || keys(&asked(edge, host, 20).await) == ["consul v2"]).await;
    consul.put("reviews", vec![instance(instances[1].address, "v2")]);
    until("where it moved", async || keys(&asked(edge, host, 20).await) == ["moved v2"]).await;

    // Consul goes away: what it told stands, and everybody who wants to know hears of it.
    consul.stop();
    until("it is said to be away", async || {
        let page: Value = serde_json::from_str(&lateend.debug("/debug/clusterz").await).unwrap_or_default();
        let mut platforms = page.as_array().into_iter().flatten();
        let consul = platforms.find(|one| one["name"] == "consul");
        consul.is_some_and(|one| {
            one["stale"] == true && one["services"] == 1 && one["lastError"]["reason"] == "unavailable"
        })
    })
    .await;
    let metrics = lateend.metrics().await;
    for (name, value) in [("connected", 0), ("stale", 1), ("services", 1), ("endpoints", 1)] {
        let line = format!("lateen_registry_{name}{{platform=\"consul\",provider=\"Consul\"}} {value}");
        assert!(metrics.contains(&line), "{line} is not in the metrics");
    }
    assert_eq!(keys(&asked(edge, host, 20).await), ["moved v2"], "its last known state stands");
    for one in shares(50, 50) {
        lateend.put(one).await;
    }
    until("rules still steer both", async || keys(&asked(edge, host, 20).await) == ["moved v2", "pod v1"])
        .await;
}

/// An entry whose names the proxy itself resolves, by the test's own server of names.
fn entry(name: &str, resolution: &str, rest: Value) -> [Value; 2] {
    let host = format!("{name}.example.com");
    let mut spec = json!({"hosts": [host], "resolution": resolution, "location": "MESH_EXTERNAL",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]});
    if !rest["port"].is_null() {
        spec["ports"][0]["targetPort"] = rest["port"].clone();
    }
    if !rest["endpoints"].is_null() {
        spec["endpoints"] = rest["endpoints"].clone();
    }
    let route = json!([{"route": [{"destination": {"host": host, "port": {"number": 80}}}]}]);
    [
        rule("ServiceEntry", name, spec),
        rule("VirtualService", name, json!({"hosts": [host], "gateways": ["edge"], "http": route})),
    ]
}

/// Has clusters ask the test's server of names.
fn resolver(names: SocketAddr) -> Value {
    let address = json!({"socket_address": {"address": names.ip().to_string(), "port_value": names.port()}});
    let value = json!({"typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        "resolvers": [address], "dns_resolver_options": {"no_default_search_domain": true}}}});
    let patch = |kind: &str| {
        // Only clusters of names have a resolver.
        json!({"applyTo": "CLUSTER", "match": {"context": "GATEWAY", "cluster": {"service": format!("{kind}.example.com")}},
            "patch": {"operation": "MERGE", "value": value}})
    };
    let patches = json!({"configPatches": [patch("all"), patch("one"), patch("own")]});
    object(("networking.istio.io/v1alpha3", "EnvoyFilter"), "names", json!({"spec": patches}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_all_resolutions_are_reached() {
    let Some(envoy) = std::env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) else {
        println!("skipped: ENVOY_BIN is not set");
        return;
    };
    // The same port on three addresses, which only names tell apart.
    let (two, three, four) = Backend::start_beside("two", "three", "four").await;
    let port = two.address.port();
    let names = Names::start().await;
    let address = |backend: &Backend| match backend.address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("addresses of version 4"),
    };
    names.set("backends.test", &[address(&two), address(&three)]);
    names.set("one.example.com", &[address(&two)]);
    names.set("own.example.com", &[address(&two), address(&four)]);
    let lateend = Lateend::start(&[]).await;
    let edge = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let entries = [
        entry(
            "fixed",
            "STATIC",
            json!({"port": port, "endpoints": [{"address": address(&four).to_string()}]}),
        ),
        entry("all", "DNS", json!({"port": port, "endpoints": [{"address": "backends.test"}]})),
        entry("own", "DNS", json!({"port": port})),
        entry("one", "DNS_ROUND_ROBIN", json!({"port": port})),
    ];
    for one in entries.into_iter().flatten().chain([gateway(edge.port()), resolver(names.address)]) {
        lateend.put(one).await;
    }
    let _envoy = Envoy::gateway(&envoy, &lateend).await;
    for (host, expected) in [
        ("fixed.example.com", vec!["four"]),
        ("all.example.com", vec!["three", "two"]),
        ("own.example.com", vec!["four", "two"]),
        ("one.example.com", vec!["two"]),
    ] {
        until(host, async || keys(&asked(edge, host, 12).await) == expected).await;
    }
    names.set("backends.test", &[address(&three)]);
    names.set("one.example.com", &[address(&four)]);
    for (host, expected) in
        [("all.example.com", "three"), ("one.example.com", "four"), ("fixed.example.com", "four")]
    {
        until(&format!("{host} after its name moved"), async || {
            keys(&asked(edge, host, 12).await) == [expected]
        })
        .await;
    }

    // A machine that registers itself is called by what selects it, and no more when it has gone.
    let machine = Backend::start_on("machine", 5).await;
    let template = json!({"serviceAccount": "edge", "ports": {"http": machine.address.port()}});
    let spec = json!({"metadata": {"labels": {"app": "machine"}}, "template": template});
    let [mut selecting, route] = entry("machines", "STATIC", json!({}));
    selecting["spec"]["workloadSelector"] = json!({"labels": {"app": "machine"}});
    for one in [rule("WorkloadGroup", "machines", spec), selecting, route] {
        lateend.put(one).await;
    }
    let host = "machines.example.com";
    let nobody = ["HTTP/1.1 503 Service Unavailable"];
    until("nobody yet", async || keys(&asked(edge, host, 4).await) == nobody).await;
    let machine = Envoy::of_group(&envoy, &lateend, "machines").await;
    let registered = rule("WorkloadEntry", "machines-127.0.0.5", json!({}));
    until("its entry", async || lateend.has(&registered).await).await;
    until("the machine", async || keys(&asked(edge, host, 4).await) == ["machine"]).await;
    drop(machine);
    until("it has gone", async || keys(&asked(edge, host, 4).await) == nobody).await;
    assert!(!lateend.has(&registered).await);
}
