//! What a sidecar sees: `exportTo`, the mesh's defaults for it, and `Sidecar` objects.
#![allow(clippy::unwrap_used)]

mod support;

use lateen_model::MeshConfig;
use support::World;

/// Two clients in `shop`, and services in three namespaces.
const MESH: &str = "
kind: Deployment
metadata: {name: client, namespace: shop}
spec: {template: {metadata: {labels: {app: client}}}}
---
kind: Deployment
metadata: {name: other, namespace: shop}
spec: {template: {metadata: {labels: {app: other}}}}
---
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
---
kind: Service
metadata: {name: b, namespace: bank}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: c, namespace: bank}
spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: d, namespace: post}
spec: {clusterIP: 10.96.0.4, ports: [{name: http, port: 80}]}
";

/// The services that a client has clusters of, `name` or `name:port` where not all ports are there.
fn seen(world: &mut World, client: &str) -> Vec<String> {
    let class = world.sidecar(client);
    let mut seen: Vec<String> = world
        .clusters(&class)
        .iter()
        .filter_map(|cluster| cluster.name.strip_prefix("outbound|"))
        .map(|name| {
            let parts: Vec<&str> = name.split('|').collect();
            format!("{}:{}{}", parts[2].split('.').next().unwrap(), parts[0], parts[1])
        })
        .collect();
    seen.sort();
    seen
}

#[test]
fn sidecars_narrow_what_is_seen() {
    let all = ["a:80", "a:81", "b:80", "c:80", "d:80"];
    for (name, yaml, expected) in [
        ("no Sidecar", "", &all[..]),
        (
            "own namespace",
            "metadata: {name: x, namespace: shop}\nspec: {egress: [{hosts: ['./*']}]}",
            &all[..2],
        ),
        (
            "another namespace and a host",
            "metadata: {name: x, namespace: shop}\nspec: {egress: [{hosts: ['post/*', '*/b.bank.svc.cluster.local']}]}",
            &["b:80", "d:80"],
        ),
        (
            "a pattern",
            "metadata: {name: x, namespace: shop}\nspec: {egress: [{hosts: ['*/*.bank.svc.cluster.local']}]}",
            &["b:80", "c:80"],
        ),
        ("nothing", "metadata: {name: x, namespace: shop}\nspec: {egress: [{hosts: ['~/*']}]}", &[]),
        (
            "several listeners, one of a port",
            "metadata: {name: x, namespace: shop}\nspec: {egress: [{port: {number: 81, protocol: HTTP, name: http}, hosts: ['*/*']}, {hosts: ['post/*']}]}",
            &["a:81", "d:80"],
        ),
        (
            "the root namespace's",
            "metadata: {name: x, namespace: istio-system}\nspec: {egress: [{hosts: ['./*']}]}",
            &all[..2],
        ),
        (
            "the root namespace's with a selector is for nobody else",
            "metadata: {name: x, namespace: istio-system}\nspec: {workloadSelector: {labels: {app: client}}, egress: [{hosts: ['./*']}]}",
            &all[..],
        ),
        (
            "one that selects others",
            "metadata: {name: x, namespace: shop}\nspec: {workloadSelector: {labels: {app: other}}, egress: [{hosts: ['./*']}]}",
            &all[..],
        ),
    ] {
        let mut world = World::new(&[MESH]);
        if !yaml.is_empty() {
            world.apply(&format!("kind: Sidecar\n{yaml}"));
        }
        assert_eq!(seen(&mut world, "client"), expected, "{name}");
    }
}

#[test]
fn the_sidecar_with_a_selector_comes_first_and_then_the_oldest() {
    let mut world = World::new(&[MESH]);
    let sidecar = |name: &str, selector: &str, host: &str| {
        format!(
            "kind: Sidecar\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{selector}egress: [{{hosts: ['{host}']}}]}}"
        )
    };
    world.apply(&sidecar("all", "", "bank/*"));
    world.apply(&sidecar("newer", "", "*/*"));
    assert_eq!(seen(&mut world, "client"), ["b:80", "c:80"]);
    world.apply(&sidecar("one", "workloadSelector: {labels: {app: client}}, ", "post/*"));
    assert_eq!(seen(&mut world, "client"), ["d:80"]);
    assert_eq!(seen(&mut world, "other"), ["b:80", "c:80"]);
}

#[test]
fn export_to_and_its_defaults() {
    let private = "kind: Service\nmetadata: {name: b, namespace: bank, annotations: {networking.istio.io/exportTo: \".\"}}\nspec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}";
    let mut world = World::new(&[MESH]);
    world.apply(private);
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "c:80", "d:80"]);
    world.apply(&private.replace("\".\"", "\"shop,post\""));
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "b:80", "c:80", "d:80"]);
    world.edit(|edit| {
        edit.set_mesh(MeshConfig { default_service_export_to: vec![".".into()], ..MeshConfig::default() })
    });
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "b:80"]);
}

#[test]
fn destinations_of_imported_rules_can_be_called() {
    let mut world = World::new(&[MESH]);
    world.apply("kind: Sidecar\nmetadata: {name: x, namespace: shop}\nspec: {egress: [{hosts: ['./*']}]}");
    let class = world.sidecar("client");
    let rule = "kind: VirtualService\nmetadata: {name: r, namespace: shop}\nspec: {hosts: [a], http: [{route: [{destination: {host: c.bank.svc.cluster.local}}]}]}";
    let applied = world.apply(rule);
    assert!(!applied.classes.is_empty());
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "c:80"]);
    world.apply(&rule.replace("c.bank", "d.post"));
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "d:80"]);
    // A rule of a namespace that is not imported changes nothing.
    let applied = world.apply(&rule.replace("namespace: shop", "namespace: bank").replace("[a]", "[b]"));
    assert!(applied.classes.is_empty(), "{applied:?}");
    drop(class);
}

#[test]
fn nearer_rules_come_first() {
    let mut world = World::new(&[MESH]);
    let rule = |namespace: &str, export: &str, timeout: &str| {
        format!(
            "kind: VirtualService\nmetadata: {{name: r, namespace: {namespace}}}\nspec: {{hosts: [b.bank.svc.cluster.local], exportTo: ['{export}'], http: [{{timeout: {timeout}, route: [{{destination: {{host: b.bank.svc.cluster.local}}}}]}}]}}"
        )
    };
    let timeout = |world: &mut World| {
        let class = world.sidecar("client");
        let hosts = world.route(&class, "80").virtual_hosts;
        let host = hosts.into_iter().find(|host| host.name.starts_with("b.")).unwrap();
        let action = host.routes.into_iter().next().unwrap().action.unwrap();
        match action {
            lateen_envoy::envoy::config::route::v3::route::Action::Route(route) => {
                route.timeout.unwrap().seconds
            }
            other => panic!("{other:?}"),
        }
    };
    world.apply(&rule("bank", "*", "1s"));
    assert_eq!(timeout(&mut world), 1);
    world.apply(&rule("post", "shop", "2s"));
    assert_eq!(timeout(&mut world), 2);
    world.apply(&rule("shop", ".", "3s"));
    assert_eq!(timeout(&mut world), 3);
}

#[test]
fn kubernetes_names_cannot_be_taken_over() {
    let mut world = World::new(&[MESH]);
    world.apply("kind: ServiceEntry\nmetadata: {name: thief, namespace: shop}\nspec: {hosts: [b.bank.svc.cluster.local], resolution: STATIC, ports: [{number: 99, name: http, protocol: HTTP}]}");
    assert_eq!(seen(&mut world, "client"), ["a:80", "a:81", "b:80", "c:80", "d:80"]);
}

#[test]
fn destination_rules_by_namespace_export_and_workload() {
    let mut world = World::new(&[MESH]);
    let rule = |name: &str, namespace: &str, more: &str, subset: &str| {
        format!(
            "kind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: b.bank.svc.cluster.local, {more}subsets: [{{name: {subset}, labels: {{v: x}}}}]}}"
        )
    };
    let subsets = |world: &mut World, client: &str| -> Vec<String> {
        seen(world, client)
            .into_iter()
            .filter_map(|name| Some(name.strip_prefix("b:80")?.to_owned()))
            .collect()
    };
    world.apply(&rule("root", "istio-system", "", "root"));
    assert_eq!(subsets(&mut world, "client"), ["", "root"]);
    world.apply(&rule("service", "bank", "", "service"));
    world.apply(&rule("more", "bank", "", "more"));
    world.apply(&rule("hidden", "bank", "exportTo: ['.'], ", "hidden"));
    assert_eq!(subsets(&mut world, "client"), ["", "more", "service"]);
    world.apply(&rule("own", "shop", "", "own"));
    assert_eq!(subsets(&mut world, "client"), ["", "own"]);
    world.apply(&rule("one", "shop", "workloadSelector: {matchLabels: {app: client}}, ", "one"));
    assert_eq!(subsets(&mut world, "client"), ["", "one"]);
    assert_eq!(subsets(&mut world, "other"), ["", "own"]);
}
