use lateen_envoy::type_urls::CLUSTER;
use lateen_model::{
    Address, ConfigKind, ConfigObject, ConfigReference, Endpoint, EndpointSet, Health, Meta, Service,
    ServiceKey,
};
use serde_json::json;

use super::*;

fn object(kind: ConfigKind, name: &str, spec: serde_json::Value) -> ConfigObject {
    let meta = Meta { namespace: "shop".into(), name: name.to_owned(), ..Meta::default() };
    ConfigObject::from_json(kind, meta, spec).unwrap()
}

fn reference(kind: ConfigKind, name: &str) -> ConfigReference {
    ConfigReference { kind, namespace: "shop".into(), name: name.to_owned() }
}

fn virtual_service(name: &str, host: &str) -> ConfigObject {
    let route = json!([{"route": [{"destination": {"host": host}}]}]);
    object(ConfigKind::VirtualService, name, json!({"hosts": [host], "http": route}))
}

fn service(host: &str) -> Service {
    let key = ServiceKey { hostname: host.into(), namespace: "shop".into(), cluster: "Kubernetes".into() };
    Service::new(key)
}

/// No platform at all.
struct Nothing;

impl Platforms for Nothing {
    fn statuses(&self) -> Vec<lateen_registry::PlatformStatus> {
        Vec::new()
    }

    fn problems(&self) -> Vec<lateen_registry::Problem> {
        Vec::new()
    }
}

/// What one event does to one line.
#[test]
fn each_moves_for_its_reason() {
    let empty = Arc::new(Snapshot::default());
    let with = |edit: &dyn Fn(&mut lateen_model::Edit)| {
        let mut next = empty.edit();
        edit(&mut next);
        next.finish().0
    };
    let one_rule = with(&|edit| edit.put_config(virtual_service("a", "a.shop.svc.cluster.local")));
    let one_service = with(&|edit| edit.put_service(service("a.shop.svc.cluster.local")));
    let rule =
        ChangeSet { configs: [reference(ConfigKind::VirtualService, "a")].into(), ..ChangeSet::default() };
    let key = service("a.shop.svc.cluster.local").key;
    let of_service = ChangeSet { services: [key.clone()].into(), ..ChangeSet::default() };
    let of_endpoints = ChangeSet { endpoints: [key].into(), ..ChangeSet::default() };
    type Do<'a> = Box<dyn Fn(&Metrics) + 'a>;
    let rows: Vec<(&str, Do<'_>)> = vec![
        ("pilot_xds{version=\"1.31\"} 1", Box::new(|metrics| metrics.connected("1.31", true))),
        ("pilot_push_triggers{type=\"proxyrequest\"} 1", Box::new(|metrics| metrics.connected("1.31", true))),
        ("pilot_push_triggers{type=\"proxy\"} 2", Box::new(|metrics| metrics.reclassified(2))),
        (
            "pilot_push_triggers{type=\"config\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &one_rule, &rule)),
        ),
        (
            "pilot_inbound_updates{type=\"config\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &one_rule, &rule)),
        ),
        (
            "pilot_k8s_cfg_events{type=\"VirtualService\",event=\"add\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &one_rule, &rule)),
        ),
        (
            "pilot_k8s_cfg_events{type=\"VirtualService\",event=\"update\"} 1",
            Box::new(|metrics| metrics.arrived(&one_rule, &one_rule, &rule)),
        ),
        (
            "pilot_k8s_cfg_events{type=\"VirtualService\",event=\"delete\"} 1",
            Box::new(|metrics| metrics.arrived(&one_rule, &empty, &rule)),
        ),
        (
            "pilot_inbound_updates{type=\"svc\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &one_service, &of_service)),
        ),
        (
            "pilot_inbound_updates{type=\"svcdelete\"} 1",
            Box::new(|metrics| metrics.arrived(&one_service, &empty, &of_service)),
        ),
        (
            "pilot_k8s_reg_events{type=\"Services\",event=\"add\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &one_service, &of_service)),
        ),
        (
            "pilot_inbound_updates{type=\"eds\"} 1",
            Box::new(|metrics| metrics.arrived(&one_service, &one_service, &of_endpoints)),
        ),
        (
            "pilot_push_triggers{type=\"endpoint\"} 1",
            Box::new(|metrics| metrics.arrived(&one_service, &one_service, &of_endpoints)),
        ),
        (
            "pilot_push_triggers{type=\"global\"} 1",
            Box::new(|metrics| metrics.arrived(&empty, &empty, &ChangeSet::full())),
        ),
        ("pilot_xds_pushes{type=\"cds\"} 1", Box::new(|metrics| metrics.sent(CLUSTER, 2000))),
        (
            "pilot_xds_config_size_bytes_count{type=\"cds\"} 1",
            Box::new(|metrics| metrics.sent(CLUSTER, 2000)),
        ),
        (
            "pilot_xds_push_time_count{type=\"cds\"} 1",
            Box::new(|metrics| metrics.push_time(CLUSTER, Duration::from_millis(3))),
        ),
        ("pilot_total_xds_rejects{type=\"CDS\"} 1", Box::new(|metrics| metrics.rejected(CLUSTER))),
        (
            "pilot_pushcontext_init_seconds_count 1",
            Box::new(|metrics| metrics.applied(Duration::from_millis(3))),
        ),
        ("pilot_proxy_queue_time_count 1", Box::new(|metrics| metrics.queued(Duration::from_millis(3)))),
        (
            "pilot_proxy_convergence_time_count 1",
            Box::new(|metrics| metrics.converged(Duration::from_millis(3))),
        ),
        (
            "galley_validation_failed{group=\"g\",version=\"v1\",resource=\"r\",reason=\"invalid_resource\"} 1",
            Box::new(|metrics| metrics.validated("g", "v1", "r", true)),
        ),
        (
            "galley_validation_passed{group=\"g\",version=\"v1\",resource=\"r\"} 1",
            Box::new(|metrics| metrics.validated("g", "v1", "r", false)),
        ),
        ("galley_validation_http_error{status=\"400\"} 1", Box::new(|metrics| metrics.webhook_error(400))),
        ("sidecar_injection_requests_total 1", Box::new(|metrics| _ = metrics.injections.requests.inc())),
        ("sidecar_injection_success_total 1", Box::new(|metrics| _ = metrics.injections.successes.inc())),
        ("auto_registration_success_total 1", Box::new(|metrics| _ = metrics.registrations.successes.inc())),
        ("controller_sync_errors_total 1", Box::new(|metrics| _ = metrics.sync_errors.inc())),
        (
            "citadel_server_root_cert_expiry_timestamp 2000000000",
            Box::new(|metrics| metrics.root_certificate(2_000_000_000)),
        ),
    ];
    for (line, event) in rows {
        let metrics = Metrics::new();
        let has = |metrics: &Metrics| metrics.render(&empty, &Nothing).lines().any(|written| written == line);
        assert!(!has(&metrics), "{line} is there before anything happened");
        event(&metrics);
        assert!(has(&metrics), "{line} is not in\n{}", metrics.render(&empty, &Nothing));
    }
}

/// What the configuration says.
#[test]
fn what_is_known_is_shown() {
    let entry = |name: &str| {
        object(
            ConfigKind::ServiceEntry,
            name,
            json!({"hosts": ["api.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}),
        )
    };
    type Change = fn(&mut lateen_model::Edit);
    let rows: [(&str, Change); 6] = [
        ("pilot_services 1", |edit| edit.put_service(service("a.shop.svc.cluster.local"))),
        ("pilot_eds_no_instances 1", |edit| edit.put_service(service("a.shop.svc.cluster.local"))),
        ("pilot_virt_services 1", |edit| edit.put_config(virtual_service("a", "a"))),
        ("pilot_vservice_dup_domain 1", |edit| {
            edit.put_config(virtual_service("a", "a"));
            edit.put_config(virtual_service("b", "a.shop.svc.cluster.local"));
        }),
        ("pilot_destrule_subsets 2", |edit| {
            let spec = json!({"host": "a", "subsets": [{"name": "v1"}, {"name": "v2"}]});
            edit.put_config(object(ConfigKind::DestinationRule, "a", spec));
        }),
        ("pilot_endpoint_not_ready 1", |edit| {
            let service = service("a.shop.svc.cluster.local");
            let mut endpoint = Endpoint::new(Address::Ip(vec!["10.0.0.1".parse().unwrap()]));
            endpoint.health = Health::Unhealthy;
            let key = service.key.clone();
            edit.put_service(service);
            edit.put_endpoints(EndpointSet { service: key, endpoints: vec![Arc::new(endpoint)] });
        }),
    ];
    for (line, change) in rows {
        let metrics = Metrics::new();
        let has =
            |snapshot: &Snapshot| metrics.render(snapshot, &Nothing).lines().any(|written| written == line);
        assert!(!has(&Snapshot::default()), "{line} of an empty mesh");
        let mut edit = Snapshot::default().edit();
        change(&mut edit);
        let (snapshot, _) = edit.finish();
        assert!(has(&snapshot), "{line} is not in\n{}", metrics.render(&snapshot, &Nothing));
    }
    let metrics = Metrics::new();
    let mut edit = Snapshot::default().edit();
    edit.put_config(entry("a"));
    edit.put_config(entry("b"));
    let (snapshot, _) = edit.finish();
    let text = metrics.render(&snapshot, &Nothing);
    for line in ["pilot_duplicate_envoy_clusters 1", "pilot_no_ip 0", "endpoint_no_pod 0"] {
        assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
    }
    for name in ["istio_build{component=\"pilot\"", "process_cpu_seconds_total ", "pilot_info{"] {
        assert!(text.lines().any(|written| written.starts_with(name)), "{name} is not in\n{text}");
    }
}
