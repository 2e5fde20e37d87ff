//! What the engine keeps up change by change is what it would make from nothing, and it names exactly what differs.
#![allow(clippy::unwrap_used)]
// The crate is pure; this test of it reads a variable.
#![allow(clippy::disallowed_methods)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lateen_envoy::type_urls::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use lateen_model::ChangeSet;
use lateen_pilot::{Class, Engine, ProxyNode};
use support::{CLUSTER as MESH_CLUSTER, World};

const NAMESPACES: [&str; 3] = ["shop", "bank", "istio-system"];

/// A generator of numbers that are the same in every run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

/// A random object: a new one, or another version of one that is there.
fn object(dice: &mut Dice) -> String {
    let namespace = dice.pick(&NAMESPACES);
    let name = dice.pick(&["a", "b", "c"]);
    let other = format!("{}.{}.svc.cluster.local", dice.pick(&["a", "b", "c"]), dice.pick(&NAMESPACES));
    let export = dice.pick(&["", "exportTo: ['.'], ", "exportTo: [bank], ", "exportTo: ['*'], "]);
    let head = format!("metadata: {{name: {name}, namespace: {namespace}}}");
    match dice.roll(7) {
        0 | 1 => {
            let protocol = dice.pick(&["http", "tcp", "tls", "x"]);
            let port = dice.pick(&["80", "81", "443"]);
            let address = match dice.roll(4) {
                0 => "None".to_owned(),
                _ => format!("10.96.{}.{}", namespace.len(), name.as_bytes()[0]),
            };
            let app = dice.pick(&["a", "b"]);
            format!(
                "kind: Service\n{head}\nspec: {{clusterIP: {address}, selector: {{app: {app}}}, ports: [{{name: {protocol}, port: {port}}}]}}"
            )
        }
        2 => {
            let app = dice.pick(&["a", "b"]);
            format!(
                "kind: Deployment\nmetadata: {{name: pod-{name}, namespace: {namespace}}}\nspec: {{template: {{metadata: {{labels: {{app: {app}, version: v{}}}}}}}}}",
                dice.roll(3)
            )
        }
        3 => {
            let hosts = dice.pick(&[
                "[a]",
                "[b.bank.svc.cluster.local]",
                "['*.svc.cluster.local']",
                "[outside.example.com]",
            ]);
            let labels = dice.pick(&["", "match: [{sourceLabels: {app: a}}], "]);
            format!(
                "kind: VirtualService\n{head}\nspec: {{{export}hosts: {hosts}, http: [{{{labels}timeout: {}s, route: [{{destination: {{host: {other}}}}}]}}]}}",
                1 + dice.roll(9)
            )
        }
        4 => {
            let selector = dice.pick(&["", "", "workloadSelector: {matchLabels: {app: a}}, "]);
            let host = dice.pick(&["a", "b.bank.svc.cluster.local", "'*.svc.cluster.local'"]);
            format!(
                "kind: DestinationRule\n{head}\nspec: {{{export}{selector}host: {host}, subsets: [{{name: v{}, labels: {{version: v1}}}}]}}",
                dice.roll(3)
            )
        }
        5 => {
            let hosts =
                dice.pick(&["['./*']", "['*/*']", "['bank/*', './a.shop.svc.cluster.local']", "['~/*']"]);
            let selector = dice.pick(&["", "workloadSelector: {labels: {app: b}}, "]);
            let policy = dice.pick(&["", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}, "]);
            format!("kind: Sidecar\n{head}\nspec: {{{selector}{policy}egress: [{{hosts: {hosts}}}]}}")
        }
        _ => format!(
            "kind: ServiceEntry\n{head}\nspec: {{{export}hosts: [entry-{name}.example.com], resolution: {}, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{{address: 10.9.0.{}}}]}}",
            dice.pick(&["STATIC", "DNS"]),
            1 + dice.roll(9)
        ),
    }
}

type Versions = BTreeMap<(&'static str, String), String>;

fn versions(engine: &Engine, class: &Class) -> Versions {
    let view = engine.view(class);
    let mut all = Versions::new();
    for kind in [CLUSTER, ENDPOINT, LISTENER, ROUTE] {
        let names: Vec<&str> = view.list(kind).map(|one| &*one.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        all.extend(view.list(kind).map(|one| ((kind, one.name.to_string()), one.version.to_string())));
    }
    all
}

fn nodes() -> Vec<ProxyNode> {
    let mut nodes = Vec::new();
    for namespace in NAMESPACES {
        for (kind, app) in [("sidecar", "a"), ("sidecar", "b"), ("router", "b")] {
            let id = format!("{kind}~10.77.0.1~{app}.{namespace}~{namespace}.svc.cluster.local");
            let metadata = serde_json::json!({"CLUSTER_ID": MESH_CLUSTER, "LABELS": {"app": app}});
            nodes.push(ProxyNode::parse(&id, metadata.as_object().unwrap()).unwrap());
        }
    }
    nodes
}

/// A few in every run of the tests, many when asked for.
fn seeds() -> u64 {
    std::env::var("LATEEN_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Rules change in what they say of requests, for the most part: their tables keep all other hosts.
#[test]
fn a_rule_with_other_routes_takes_the_place_of_itself() {
    let service = |name: &str, port: u16| {
        format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}"
        )
    };
    let rule = |name: &str, hosts: &str, more: &str| {
        format!(
            "kind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: {hosts}, {more}}}"
        )
    };
    let to = |host: &str| format!("http: [{{route: [{{destination: {{host: {host}}}}}]}}]");
    let mut world = World::new(&[&service("a", 80), &service("b", 80), &service("c", 81)]);
    world.apply(&rule("first", "[a]", &to("a")));
    world.apply(&rule("second", "['*.shop.svc.cluster.local']", &to("b")));
    let nodes = nodes();
    let classes: Vec<Arc<Class>> = nodes.iter().map(|node| world.engine.proxy_class(node)).collect();
    for (name, yaml, tables) in [
        ("another destination", rule("first", "[a]", &to("c")), vec!["80"]),
        (
            "another timeout",
            rule("first", "[a]", "http: [{timeout: 3s, route: [{destination: {host: c}}]}]"),
            vec!["80"],
        ),
        ("a pattern's", rule("second", "['*.shop.svc.cluster.local']", &to("a")), vec!["80", "81"]),
        (
            "for some clients only",
            rule(
                "first",
                "[a]",
                "http: [{match: [{sourceNamespace: bank}], route: [{destination: {host: c}}]}]",
            ),
            vec!["80"],
        ),
        ("for all again", rule("first", "[a]", &to("c")), vec!["80"]),
        ("another host", rule("first", "[c]", &to("c")), vec!["80", "81"]),
        ("and back", rule("first", "[a]", &to("b")), vec!["80", "81"]),
        ("the same", rule("first", "[a]", &to("b")), vec![]),
    ] {
        let applied = world.apply(&yaml);
        let named: BTreeSet<(&str, &str)> = applied
            .classes
            .iter()
            .filter(|change| {
                change.class.role == lateen_pilot::Role::Sidecar && *change.class.namespace == *"shop"
            })
            .flat_map(|change| change.changed.iter())
            .flat_map(|(kind, names)| names.iter().map(|name| (*kind, &**name)))
            .collect();
        assert_eq!(named, tables.into_iter().map(|table| (ROUTE, table)).collect(), "{name}");
        let mut fresh = Engine::new();
        fresh.apply(Arc::clone(world.engine.snapshot()), &ChangeSet::full());
        for (node, class) in nodes.iter().zip(&classes) {
            let again = fresh.proxy_class(node);
            assert_eq!(versions(&world.engine, class), versions(&fresh, &again), "{name}: {class:?}");
        }
    }
}

#[test]
fn kept_up_is_as_made_from_nothing() {
    let nodes = nodes();
    for seed in 1..=seeds() {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut world = World::new(&[]);
        let mut classes: Vec<Arc<Class>> = nodes.iter().map(|node| world.engine.proxy_class(node)).collect();
        for step in 0..50 {
            let before: Vec<Versions> = classes.iter().map(|class| versions(&world.engine, class)).collect();
            let yaml = object(&mut dice);
            let applied = world.apply(&yaml);
            for (class, before) in classes.iter().zip(&before) {
                let after = versions(&world.engine, class);
                let named = applied.classes.iter().find(|change| change.class == *class);
                let named: BTreeSet<(&str, String)> = named
                    .iter()
                    .flat_map(|change| change.changed.iter())
                    .flat_map(|(kind, names)| names.iter().map(|name| (*kind, name.to_string())))
                    .collect();
                let keys: BTreeSet<&(&'static str, String)> = before.keys().chain(after.keys()).collect();
                let differs = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
                let differs: BTreeSet<(&str, String)> = differs.cloned().collect();
                assert_eq!(named, differs, "seed {seed}, step {step}: {class:?} after\n{yaml}");
            }
            let mut fresh = Engine::new();
            fresh.apply(Arc::clone(world.engine.snapshot()), &ChangeSet::full());
            for (node, class) in nodes.iter().zip(&mut classes) {
                // Who is not named as concerned has the class that it would be given.
                let again = fresh.proxy_class(node);
                if !applied.reclassify.concerns(world.engine.snapshot(), node) {
                    assert_eq!(*again, **class, "seed {seed}, step {step}: another class after\n{yaml}");
                }
                *class = world.engine.proxy_class(node);
                assert_eq!(**class, *again, "seed {seed}, step {step}");
                let (kept, made) = (versions(&world.engine, class), versions(&fresh, &again));
                assert_eq!(kept, made, "seed {seed}, step {step}: {class:?} after\n{yaml}");
            }
        }
    }
}
