//! Times the making of all resources of one class, from a snapshot in memory: over the shapes of Istio's own benchmark.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use lateen_model::{
    Address, ChangeSet, ConfigKind, ConfigObject, Edit, Endpoint, EndpointSet, Meta, ObjectRef, PortProtocol,
    Resolution, Service, ServiceKey, ServicePort, Snapshot, TargetPort, service_entry,
};
use lateen_pilot::{Engine, ProxyNode};
use serde_json::{Value, json};

use crate::report::Report;

/// How long each shape is repeated.
const TIME: Duration = Duration::from_secs(1);

type Make = Box<dyn Fn(&mut Edit) -> anyhow::Result<()>>;

/// Prints a table: a row a shape.
pub fn run(only: &str, document: Option<&Path>) -> anyhow::Result<()> {
    let mut report = Report::default();
    report.line("\n## The generators alone\n");
    report.line("All resources of one class of proxies from a snapshot in memory, on one thread; the best of a second.\n");
    report.line("| shape | time | resources | bytes |");
    report.line("|---|---|---|---|");
    for (name, gateway, make) in shapes() {
        if !name.contains(only) {
            continue;
        }
        let mut edit = Snapshot::default().edit();
        make(&mut edit)?;
        let (snapshot, _) = edit.finish();
        let node = node(gateway)?;
        let (mut best, begun) = (Duration::MAX, Instant::now());
        let mut made = (0, 0);
        while best == Duration::MAX || begun.elapsed() < TIME {
            let mut engine = Engine::new();
            engine.apply(Arc::clone(&snapshot), &ChangeSet::full());
            let started = Instant::now();
            let class = engine.proxy_class(&node);
            best = best.min(started.elapsed());
            let view = engine.view(&class);
            let all = || [CLUSTER, ENDPOINT, LISTENER, ROUTE].into_iter().flat_map(|kind| view.list(kind));
            made = (all().count(), all().map(|one| one.bytes.len()).sum::<usize>());
        }
        report.line(&format!("| {name} | {:.2} ms | {} | {} |", best.as_secs_f64() * 1e3, made.0, made.1));
    }
    if let Some(document) = document {
        report.append(document)?;
    }
    Ok(())
}

fn shapes() -> Vec<(String, bool, Make)> {
    let mut shapes: Vec<(String, bool, Make)> = vec![
        ("1,000 gateways".into(), true, Box::new(|edit| gateways(edit, 1000))),
        (
            "one gateway, 1,000 VirtualServices of 6 prefixes".into(),
            true,
            Box::new(|edit| {
                gateways(edit, 1)?;
                rules(edit, 1000, 6, true)
            }),
        ),
        (
            "100 VirtualServices".into(),
            false,
            Box::new(|edit| {
                services(edit, 100, 1);
                rules(edit, 100, 1, false)
            }),
        ),
        (
            "100 ServiceEntries x 1,000 WorkloadEntries".into(),
            false,
            Box::new(|edit| entries(edit, 100, 1000)),
        ),
    ];
    for (endpoints, count) in [(1, 100), (10, 10), (100, 10), (1000, 1)] {
        let make: Make = Box::new(move |edit| {
            services(edit, count, endpoints);
            Ok(())
        });
        shapes.push((format!("{endpoints} endpoints/{count} services"), false, make));
    }
    shapes
}

fn put(edit: &mut Edit, kind: ConfigKind, name: String, spec: Value) -> anyhow::Result<ConfigObject> {
    let meta = Meta { namespace: "default".into(), name, ..Meta::default() };
    let object = ConfigObject::from_json(kind, meta, spec).context("a shape is not well-formed")?;
    edit.put_config(object.clone());
    Ok(object)
}

fn gateways(edit: &mut Edit, count: usize) -> anyhow::Result<()> {
    for index in 0..count {
        let host = if count == 1 { "*".to_owned() } else { format!("host-{index}.example.com") };
        let spec = json!({
            "selector": {"istio": "gateway"},
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": [host]}],
        });
        put(edit, ConfigKind::Gateway, format!("gateway-{index}"), spec)?;
        if count > 1 {
            let route = json!([{"destination": {"host": "service-0", "port": {"number": 80}}}]);
            let spec = json!({
                "hosts": [host], "gateways": [format!("gateway-{index}")], "http": [{"route": route}],
            });
            put(edit, ConfigKind::VirtualService, format!("rule-{index}"), spec)?;
        }
    }
    Ok(())
}

fn rules(edit: &mut Edit, count: usize, prefixes: usize, of_gateway: bool) -> anyhow::Result<()> {
    for index in 0..count {
        let destination = |prefix: usize| json!([{"destination": {"host": format!("service-{index}"), "subset": format!("v{prefix}")}}]);
        let http: Vec<Value> = (0..prefixes)
            .map(|prefix| {
                json!({"match": [{"uri": {"prefix": format!("/path-{prefix}")}}], "route": destination(prefix)})
            })
            .collect();
        let (host, gateways) = match of_gateway {
            true => (format!("host-{index}.example.com"), json!(["gateway-0"])),
            false => (format!("service-{index}"), json!([])),
        };
        let spec = json!({"hosts": [host], "gateways": gateways, "http": http});
        put(edit, ConfigKind::VirtualService, format!("rule-{index}"), spec)?;
    }
    Ok(())
}

fn entries(edit: &mut Edit, services: usize, workloads: usize) -> anyhow::Result<()> {
    for index in 0..services {
        let endpoints: Vec<Value> = (0..workloads)
            .map(|number| json!({"address": format!("10.{index}.{}.{}", number >> 8, number & 255)}))
            .collect();
        let spec = json!({
            "hosts": [format!("entry-{index}.example.com")], "resolution": "STATIC", "location": "MESH_INTERNAL",
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "endpoints": endpoints,
        });
        let object = put(edit, ConfigKind::ServiceEntry, format!("entry-{index}"), spec)?;
        if let ConfigObject::ServiceEntry(config) = object {
            for (service, set) in service_entry(&config, &"Kubernetes".into(), &[]) {
                edit.put_service(service);
                edit.put_endpoints(set);
            }
        }
    }
    Ok(())
}

fn services(edit: &mut Edit, count: usize, endpoints: usize) {
    for index in 0..count {
        let name = format!("service-{index}");
        let key = ServiceKey {
            hostname: format!("{name}.default.svc.cluster.local").into(),
            namespace: "default".into(),
            cluster: "Kubernetes".into(),
        };
        let port = ServicePort {
            name: "http".into(),
            number: 80,
            protocol: PortProtocol::Http,
            target: TargetPort::Number(8080),
        };
        edit.put_service(Service {
            ports: vec![port],
            resolution: Resolution::ClientSide,
            source: ObjectRef { kind: "Service".into(), namespace: "default".into(), name },
            ..Service::new(key.clone())
        });
        let set = (0..endpoints).map(|number| Arc::new(endpoint(index, number))).collect();
        edit.put_endpoints(EndpointSet { service: key, endpoints: set });
    }
}

fn endpoint(service: usize, number: usize) -> Endpoint {
    let address = std::net::Ipv4Addr::new(10, service as u8, (number >> 8) as u8, number as u8);
    Endpoint { ports: [("http".into(), 8080)].into(), ..Endpoint::new(Address::Ip(vec![address.into()])) }
}

fn node(gateway: bool) -> anyhow::Result<ProxyNode> {
    let kind = if gateway { "router" } else { "sidecar" };
    let metadata = json!({"CLUSTER_ID": "Kubernetes", "LABELS": {"istio": "gateway", "app": "client"}});
    let metadata = metadata.as_object().context("metadata")?;
    Ok(ProxyNode::parse(&format!("{kind}~10.250.0.1~client.default~default.svc.cluster.local"), metadata)?)
}
