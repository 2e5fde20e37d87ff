//! Routes attached to services, and the life of what is derived.

use lateen_api::networking::VirtualService;
use lateen_model::{
    Config, ConfigKind, ConfigObject, ConfigReference, Edit, Meta, ObjectRef, PortProtocol, Service,
    ServiceKey, ServicePort, Snapshot, TargetPort,
};
use serde_json::{Value, json};

use super::{Derived, PARENTS, http_routes};

fn service(name: &str, namespace: &str) -> Service {
    let key = ServiceKey {
        hostname: format!("{name}.{namespace}.svc.cluster.local").into(),
        namespace: namespace.into(),
        cluster: "Kubernetes".into(),
    };
    let (protocol, target) = (PortProtocol::Http, TargetPort::Number(80));
    Service {
        ports: vec![ServicePort { name: "http".into(), number: 80, protocol, target }],
        source: ObjectRef { kind: "Service".into(), namespace: namespace.into(), name: name.into() },
        ..Service::new(key)
    }
}

fn put(edit: &mut Edit, kind: ConfigKind, namespace: &str, name: &str, created: i64, spec: Value) {
    let meta = Meta { namespace: namespace.into(), name: name.into(), created, ..Meta::default() };
    edit.put_config(ConfigObject::from_json(kind, meta, spec).unwrap());
}

fn world() -> Edit {
    let mut edit = Snapshot::default().edit();
    for (name, namespace) in [("a", "x"), ("b", "x"), ("c", "y")] {
        edit.put_service(service(name, namespace));
    }
    edit
}

fn to(name: &str) -> Value {
    json!({"name": name, "port": 80})
}

fn parent(name: &str, namespace: &str) -> Value {
    json!({"group": "", "kind": "Service", "name": name, "namespace": namespace})
}

/// The only VirtualService that one rule for service `a.x` becomes.
fn one(rule: Value) -> VirtualService {
    let mut edit = world();
    let spec = json!({"parentRefs": [parent("a", "x")], "rules": [rule]});
    put(&mut edit, ConfigKind::HTTPRoute, "x", "route", 1, spec);
    let mut made = http_routes(edit.current());
    assert_eq!(made.len(), 1);
    (*made.remove(0).spec).clone()
}

/// The first route, as JSON.
fn route(rule: Value) -> Value {
    serde_json::to_value(&one(rule).http[0]).unwrap()
}

#[test]
fn producers_and_consumers() {
    let mut edit = world();
    for (namespace, created) in [("x", 2), ("y", 1), ("z", 3)] {
        let rules = json!([{"backendRefs": [{"group": "networking.istio.io", "kind": "Hostname", "name": "h.com", "port": 8}]}]);
        let spec = json!({"parentRefs": [parent("a", "x"), parent("nothing", "x")], "rules": rules});
        put(&mut edit, ConfigKind::HTTPRoute, namespace, "route", created, spec);
    }
    let seen: Vec<_> = http_routes(edit.current())
        .iter()
        .map(|made: &Config<VirtualService>| {
            (made.meta.namespace.to_string(), made.spec.hosts.join(","), made.spec.export_to.join(","))
        })
        .collect();
    let host = "a.x.svc.cluster.local".to_owned();
    let expected = [("x", ""), ("y", "."), ("z", ".")];
    assert_eq!(
        seen,
        expected.map(|(namespace, export)| (namespace.to_owned(), host.clone(), export.to_owned()))
    );
}

#[test]
fn routes_of_one_host_by_precedence() {
    let mut edit = world();
    let paths = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let rules = |matches: Value, service: &str| json!([{"name": service, "matches": matches, "backendRefs": [to(service)]}]);
    let young = json!([
        paths("RegularExpression", "/regex/long"),
        paths("PathPrefix", "/long/prefix"),
        {"path": {"value": "/p"}, "headers": [{"name": "X", "value": "1"}]},
        {"path": {"value": "/p"}, "method": "GET"},
        paths("Exact", "/e"),
    ]);
    let old = json!([paths("PathPrefix", "/p")]);
    put(
        &mut edit,
        ConfigKind::HTTPRoute,
        "x",
        "young",
        2,
        json!({"parentRefs": [parent("a", "x")], "rules": rules(young, "a")}),
    );
    put(
        &mut edit,
        ConfigKind::HTTPRoute,
        "x",
        "old",
        1,
        json!({"parentRefs": [parent("a", "x")], "rules": rules(old, "b")}),
    );
    let made = http_routes(edit.current()).remove(0);
    let seen: Vec<_> = made
        .spec
        .http
        .iter()
        .map(|route| {
            let request = &route.r#match[0];
            let uri = request.uri.as_ref().unwrap();
            let path = uri.exact.as_ref().or(uri.prefix.as_ref()).or(uri.regex.as_ref()).unwrap();
            (path.as_str(), request.method.is_some(), request.headers.len(), route.name.as_str())
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("/e", false, 0, "a"),
            ("/long/prefix", false, 0, "a"),
            ("/p", true, 0, "a"),
            ("/p", false, 1, "a"),
            ("/p", false, 0, "b"),
            ("/regex/long", false, 0, "a"),
        ]
    );
    assert_eq!(made.meta.annotations[PARENTS], "HTTPRoute/old.x,HTTPRoute/young.x");
}

#[test]
fn filters_and_backends() {
    let destination =
        |name: &str| json!({"host": format!("{name}.x.svc.cluster.local"), "port": {"number": 80}});
    for (name, rule, expected) in [
        (
            "one backend",
            json!({"backendRefs": [to("a")]}),
            json!({"route": [{"destination": destination("a")}]}),
        ),
        (
            "weights",
            json!({"backendRefs": [{"name": "a", "port": 80, "weight": 3}, {"name": "b", "port": 80, "weight": 0}, to("b")]}),
            json!({"route": [
                {"destination": destination("a"), "weight": 3}, {"destination": destination("b"), "weight": 1}]}),
        ),
        ("no backend", json!({}), json!({"directResponse": {"status": 500}})),
        (
            "nothing of that name",
            json!({"backendRefs": [to("n")]}),
            json!({"directResponse": {"status": 500}}),
        ),
        (
            "another namespace",
            json!({"backendRefs": [{"name": "c", "namespace": "y", "port": 80}]}),
            json!({"directResponse": {"status": 500}}),
        ),
        (
            "redirect",
            json!({"filters": [{"type": "RequestRedirect", "requestRedirect": {
                "scheme": "https", "hostname": "h", "statusCode": 301, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n"}}}]}),
            json!({"redirect": {"scheme": "https", "authority": "h", "prefixRewrite": "/n", "redirectCode": 301,
                "derivePort": "FROM_PROTOCOL_DEFAULT"}}),
        ),
        (
            "rewrite of a prefix",
            json!({"matches": [{"path": {"value": "/a/"}}], "backendRefs": [to("a")],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "h", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/n/"}}}]}),
            json!({"match": [{"uri": {"prefix": "/a/"}}], "route": [{"destination": destination("a")}],
                "rewrite": {"uri": "/n", "authority": "h"}}),
        ),
        (
            "rewrite of a prefix to nothing",
            json!({"matches": [{"path": {"value": "/a.b"}}], "backendRefs": [to("a")],
                "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]}),
            json!({"match": [{"uri": {"prefix": "/a.b"}}], "route": [{"destination": destination("a")}],
                "rewrite": {"uriRegexRewrite": {"match": "^/a\\.b/*", "rewrite": "/"}}}),
        ),
        (
            "headers and mirrors",
            json!({"backendRefs": [to("a")], "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "s", "value": "1"}], "remove": ["r"]}},
                {"type": "RequestMirror", "requestMirror": {"backendRef": to("b"), "fraction": {"numerator": 1, "denominator": 8}}}]}),
            json!({"route": [{"destination": destination("a")}],
                "headers": {"request": {"set": {"s": "1"}, "remove": ["r"]}},
                "mirrors": [{"destination": destination("b"), "percentage": {"value": 12.5}}]}),
        ),
        (
            "a filter that is not known",
            json!({"backendRefs": [to("a")], "filters": [{"type": "ExtensionRef", "extensionRef": {"name": "x"}}]}),
            json!({"directResponse": {"status": 500}}),
        ),
        (
            "timeouts and retries",
            json!({"backendRefs": [to("a")], "timeouts": {"request": "10s", "backendRequest": "2s"}, "retry": {"attempts": 3, "codes": [500]}}),
            json!({"route": [{"destination": destination("a")}], "timeout": "10s",
                "retries": {"attempts": 3, "perTryTimeout": "2s", "retryOn": "connect-failure,refused-stream,unavailable,cancelled,500"}}),
        ),
        (
            "one try",
            json!({"backendRefs": [to("a")], "timeouts": {"request": "10s", "backendRequest": "2s"}}),
            json!({"route": [{"destination": destination("a")}], "timeout": "2s"}),
        ),
    ] {
        assert_eq!(route(rule), expected, "{name}");
    }
}

#[test]
fn what_is_derived_comes_and_goes_with_its_source() {
    let (mut edit, mut derived) = (world(), Derived::default());
    let spec = json!({"parentRefs": [parent("a", "x")], "rules": [{"backendRefs": [to("b")]}]});
    put(&mut edit, ConfigKind::HTTPRoute, "x", "route", 1, spec);
    derived.update(&mut edit);
    let (first, changes) = edit.finish();
    assert_eq!(first.configs().virtual_services.len(), 1);
    assert!(changes.touches(ConfigKind::VirtualService));

    let mut edit = first.edit();
    edit.put_service(service("other", "x"));
    derived.update(&mut edit);
    let (second, changes) = edit.finish();
    assert!(!changes.touches(ConfigKind::VirtualService), "nothing is different");

    let mut edit = second.edit();
    edit.remove_service(&service("a", "x").key);
    derived.update(&mut edit);
    let (third, _) = edit.finish();
    assert!(third.configs().virtual_services.is_empty(), "its parent has gone");

    let mut edit = third.edit();
    edit.put_service(service("a", "x"));
    derived.update(&mut edit);
    let (fourth, _) = edit.finish();
    assert_eq!(fourth.configs().virtual_services.len(), 1);

    let mut edit = fourth.edit();
    let reference =
        ConfigReference { kind: ConfigKind::HTTPRoute, namespace: "x".into(), name: "route".into() };
    edit.remove_config(&reference);
    derived.update(&mut edit);
    assert!(edit.finish().0.configs().virtual_services.is_empty());
}
