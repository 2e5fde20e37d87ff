//! What sidecars are told of listeners and tables, rule by rule.

#![allow(clippy::unwrap_used)]

mod support;

use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::listener::v3::{FilterChain, Listener, filter};
use lateen_envoy::envoy::config::route::v3::{VirtualHost, route::Action, route_action::ClusterSpecifier};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use lateen_envoy::from_any;
use lateen_model::ChangeSet;
use support::World;

const SHOP: &str = r#"
kind: Deployment
metadata: {name: client}
spec: {template: {metadata: {labels: {app: client}}}}
---
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: database}
spec: {clusterIP: 10.96.0.2, selector: {app: database}, ports: [{name: tcp, port: 3306}]}
---
kind: Deployment
metadata: {name: database}
spec: {template: {metadata: {labels: {app: database}}}}
"#;

/// A chain in one line: what it takes, and where that goes.
fn line(chain: &FilterChain) -> String {
    let mut parts = Vec::new();
    if let Some(conditions) = &chain.filter_chain_match {
        parts.extend(conditions.server_names.iter().map(|name| format!("sni={name}")));
        let range = |range: &lateen_envoy::envoy::config::core::v3::CidrRange| {
            format!("{}/{}", range.address_prefix, range.prefix_len.unwrap_or(0))
        };
        parts.extend(conditions.prefix_ranges.iter().map(|one| format!("to={}", range(one))));
        parts.extend(conditions.source_prefix_ranges.iter().map(|one| format!("from={}", range(one))));
        parts.extend(conditions.destination_port.map(|port| format!("port={port}")));
        if !conditions.transport_protocol.is_empty() {
            parts.push(conditions.transport_protocol.clone());
        }
        if !conditions.application_protocols.is_empty() {
            parts.push(conditions.application_protocols.join("|"));
        }
    }
    parts.extend(chain.transport_socket.is_some().then(|| "ended".to_owned()));
    format!("{} -> {}", parts.join(" "), target(chain))
}

fn target(chain: &FilterChain) -> String {
    let Some(filter::ConfigType::TypedConfig(config)) = &chain.filters[0].config_type else { panic!() };
    if config.type_url == HttpConnectionManager::TYPE_URL {
        let manager: HttpConnectionManager = from_any(config).unwrap();
        return match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => format!("routes {}", rds.route_config_name),
            Some(RouteSpecifier::RouteConfig(table)) => format!("routes of {}", table.name),
            _ => panic!(),
        };
    }
    let proxy: TcpProxy = from_any(config).unwrap();
    match proxy.cluster_specifier.unwrap() {
        tcp_proxy::ClusterSpecifier::Cluster(cluster) => cluster,
        tcp_proxy::ClusterSpecifier::WeightedClusters(weighted) => {
            let parts = weighted.clusters.iter().map(|one| format!("{} {}%", one.name, one.weight));
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

fn lines(listener: &Listener) -> Vec<String> {
    let chains = listener.filter_chains.iter().map(line);
    let last = listener.default_filter_chain.iter().map(|chain| format!("else {}", line(chain)));
    chains.chain(last).collect()
}

/// The listeners of a client beside the shop and more objects, by name.
fn told(more: &str) -> std::collections::BTreeMap<String, Listener> {
    let mut world = World::new(&[SHOP, more]);
    let class = world.sidecar("client");
    world.listeners(&class).into_iter().map(|listener| (listener.name.clone(), listener)).collect()
}

fn hosts(more: &str, table: &str) -> Vec<VirtualHost> {
    let mut world = World::new(&[SHOP, more]);
    let class = world.sidecar("client");
    world.route(&class, table).virtual_hosts
}

#[test]
fn connections_are_told_apart() {
    let table: Vec<(&str, &str, &str, Vec<&str>)> = vec![
        ("an address", "", "10.96.0.2_3306", vec![" -> outbound|3306||database.default.svc.cluster.local"]),
        (
            "weights",
            "kind: VirtualService\nmetadata: {name: d}\nspec: {hosts: [database], tcp: [{route: [{destination: {host: database, subset: a}, weight: 30}, {destination: {host: web}, weight: 70}]}]}",
            "10.96.0.2_3306",
            vec![
                " -> outbound|3306|a|database.default.svc.cluster.local 30%, outbound|80||web.default.svc.cluster.local 70%",
            ],
        ),
        (
            "conditions on who calls",
            "kind: VirtualService\nmetadata: {name: d}\nspec: {hosts: [database], tcp: [{match: [{sourceLabels: {app: other}}, {port: 1}, {gateways: [edge]}], route: [{destination: {host: web}}]}]}",
            "10.96.0.2_3306",
            vec![" -> outbound|3306||database.default.svc.cluster.local"],
        ),
        (
            "subnets",
            "kind: VirtualService\nmetadata: {name: d}\nspec: {hosts: [database], tcp: [{match: [{destinationSubnets: [10.0.0.0/8], sourceSubnet: 10.1.0.0/16}], route: [{destination: {host: web}}]}]}",
            "10.96.0.2_3306",
            vec![
                "to=10.0.0.0/8 from=10.1.0.0/16 -> outbound|80||web.default.svc.cluster.local",
                "else  -> outbound|3306||database.default.svc.cluster.local",
            ],
        ),
        (
            "no address, by name",
            "kind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.com, '*.b.com'], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}",
            "0.0.0.0_443",
            vec![
                "sni=*.b.com -> outbound|443||*.b.com",
                "sni=a.com -> outbound|443||a.com",
                "else  -> PassthroughCluster",
            ],
        ),
        (
            "names of a rule",
            "kind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}\n---\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a.com], tls: [{match: [{port: 443, sniHosts: [a.com]}], route: [{destination: {host: web}}]}]}",
            "0.0.0.0_443",
            vec!["sni=a.com -> outbound|80||web.default.svc.cluster.local", "else  -> PassthroughCluster"],
        ),
        (
            "ranges, and what a later service would take too",
            "kind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.com], addresses: [10.1.0.0/16], resolution: NONE, ports: [{number: 7, name: tcp, protocol: TCP}]}\n---\nkind: ServiceEntry\nmetadata: {name: f}\nspec: {hosts: [b.com], addresses: [10.1.0.0/16, 10.2.0.0/16], resolution: NONE, ports: [{number: 7, name: tcp, protocol: TCP}]}",
            "0.0.0.0_7",
            vec![
                "to=10.1.0.0/16 -> outbound|7||a.com",
                "to=10.2.0.0/16 -> outbound|7||b.com",
                "else  -> PassthroughCluster",
            ],
        ),
        (
            "bytes beside HTTP: the oldest takes the rest",
            "kind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [a.com], resolution: NONE, ports: [{number: 80, name: tcp, protocol: TCP}]}\n---\nkind: ServiceEntry\nmetadata: {name: f}\nspec: {hosts: [b.com], resolution: NONE, ports: [{number: 80, name: tcp, protocol: TCP}]}",
            "0.0.0.0_80",
            vec!["raw_buffer http/1.1|h2c -> routes 80", "else  -> outbound|80||a.com"],
        ),
        (
            "not declared",
            "kind: Service\nmetadata: {name: odd}\nspec: {clusterIP: 10.96.0.9, selector: {app: odd}, ports: [{port: 9}]}",
            "10.96.0.9_9",
            vec![
                "raw_buffer http/1.1|h2c -> routes odd.default.svc.cluster.local:9",
                "else  -> outbound|9||odd.default.svc.cluster.local",
            ],
        ),
        (
            "headless",
            "kind: Service\nmetadata: {name: all}\nspec: {clusterIP: None, selector: {app: database}, ports: [{name: tcp, port: 5}]}",
            "10.244.0.2_5",
            vec![" -> outbound|5||all.default.svc.cluster.local"],
        ),
        (
            "a proxy of the user's for unknown destinations",
            "kind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{hosts: ['*/*']}], outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: web, port: {number: 80}}}}",
            "0.0.0.0_80",
            vec![
                "raw_buffer http/1.1|h2c -> routes 80",
                "else  -> outbound|80||web.default.svc.cluster.local",
            ],
        ),
        (
            "bound",
            "kind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{port: {number: 3306, protocol: TCP, name: t}, captureMode: NONE, hosts: ['./database.default.svc.cluster.local']}]}",
            "127.0.0.1_3306",
            vec![" -> outbound|3306||database.default.svc.cluster.local"],
        ),
        (
            "a socket",
            "kind: Sidecar\nmetadata: {name: s}\nspec: {egress: [{port: {number: 80, protocol: HTTP, name: h}, bind: 'unix:///run/x', hosts: ['./*']}]}",
            "/run/x",
            vec![" -> routes /run/x"],
        ),
    ];
    for (name, more, listener, expected) in table {
        let listeners = told(more);
        let found = listeners.get(listener).unwrap_or_else(|| panic!("{name}: only {:?}", listeners.keys()));
        assert_eq!(lines(found), expected, "{name}");
    }
}

#[test]
fn what_peers_must_do_decides_the_inbound_chains() {
    let mutual = "istio|istio-peer-exchange|istio-http/1.0|istio-http/1.1|istio-h2";
    let table: Vec<(&str, &str, Vec<String>)> = vec![
        (
            "either",
            "kind: Namespace",
            vec![
                format!("port=3306 tls {mutual} ended -> inbound|3306||"),
                "port=3306 tls -> inbound|3306||".to_owned(),
                "port=3306 raw_buffer -> inbound|3306||".to_owned(),
            ],
        ),
        (
            "mutual TLS",
            "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}",
            vec!["port=3306 tls ended -> inbound|3306||".to_owned()],
        ),
        (
            "plain text",
            "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {app: database}}, portLevelMtls: {3306: {mode: DISABLE}}}",
            vec!["port=3306 -> inbound|3306||".to_owned()],
        ),
        (
            "TLS of the user's",
            "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: DISABLE}}\n---\nkind: Sidecar\nmetadata: {name: s}\nspec: {ingress: [{port: {number: 3306, protocol: HTTPS, name: h}, defaultEndpoint: '127.0.0.1:8080', tls: {mode: SIMPLE, serverCertificate: c, privateKey: k}}]}",
            vec!["port=3306 tls ended -> routes of inbound|3306||".to_owned()],
        ),
    ];
    for (name, more, expected) in table {
        let mut world = World::new(&[SHOP, more]);
        let class = world.sidecar("database");
        let listener = world.listeners(&class).into_iter().find(|one| one.name == "virtualInbound").unwrap();
        let seen: Vec<String> =
            lines(&listener).into_iter().filter(|line| line.starts_with("port=3306")).collect();
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn a_proxy_without_certificates_speaks_no_mutual_tls_and_refuses_where_it_is_demanded() {
    let strict = "kind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICT}}";
    for (name, more, expected) in [
        ("either", "kind: Namespace", "port=3306 -> inbound|3306||"),
        ("mutual TLS", strict, "port=3306 -> BlackHoleCluster"),
    ] {
        let mut world = World::new(&[SHOP, more]);
        let class =
            world.sidecar_with("database", serde_json::json!({"LATEEN_WORKLOAD_CERTIFICATES": "false"}));
        let listener = world.listeners(&class).into_iter().find(|one| one.name == "virtualInbound").unwrap();
        assert!(listener.filter_chains.iter().all(|chain| chain.transport_socket.is_none()), "{name}");
        assert!(lines(&listener).iter().any(|line| line == expected), "{name}: {:?}", lines(&listener));
    }
}

#[test]
fn both_families_are_served() {
    let mut world = World::new(&[SHOP]);
    let class = world.sidecar_with("client", serde_json::json!({"INSTANCE_IPS": "10.244.0.1,fd00::1"}));
    for listener in world.listeners(&class) {
        let both = !listener.additional_addresses.is_empty();
        let any = listener.name.starts_with("0.0.0.0") || listener.name.starts_with("virtual");
        assert_eq!(both, any, "{}", listener.name);
    }
}

/// The clusters of a host's routes.
fn clusters(host: &VirtualHost) -> Vec<String> {
    let cluster = |action: &Option<Action>| match action {
        Some(Action::Route(route)) => match &route.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => cluster.clone(),
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    };
    host.routes.iter().map(|route| cluster(&route.action)).collect()
}

#[test]
fn delegates_are_merged_into_their_root() {
    let rules = r#"
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [web]
  http:
  - {match: [{uri: {prefix: /a}}], name: r, timeout: 3s, delegate: {name: leaf, namespace: team}}
  - {match: [{uri: {prefix: /gone}}], delegate: {name: gone}}
  - route: [{destination: {host: web}}]
---
kind: VirtualService
metadata: {name: leaf, namespace: team}
spec:
  http:
  - {match: [{uri: {prefix: /a/b}}], route: [{destination: {host: api}}]}
  - {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: never}}]}
"#;
    let hosts = hosts(rules, "80");
    let web = hosts.iter().find(|host| host.name == "web.default.svc.cluster.local:80").unwrap();
    assert_eq!(
        clusters(web),
        ["outbound|80||api.team.svc.cluster.local", "outbound|80||web.default.svc.cluster.local"]
    );
    let Some(Action::Route(first)) = &web.routes[0].action else { panic!() };
    assert_eq!((web.routes[0].name.as_str(), first.timeout.as_ref().unwrap().seconds), ("r", 3));
}

#[test]
fn domains() {
    let more = r#"
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, selector: {app: pods}, ports: [{name: http, port: 80}]}
---
kind: ServiceEntry
metadata: {name: e}
spec: {hosts: ["*.example.com"], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
---
kind: VirtualService
metadata: {name: unknown}
spec: {hosts: [nobody.example.org], http: [{route: [{destination: {host: web}}]}]}
"#;
    let hosts = hosts(more, "80");
    for (host, domain) in [
        ("web.default.svc.cluster.local:80", "web.default.svc"),
        ("web.default.svc.cluster.local:80", "web:80"),
        ("web.default.svc.cluster.local:80", "10.96.0.1"),
        ("pods.default.svc.cluster.local:80", "*.pods.default"),
        ("*.example.com:80", "*.example.com"),
        ("nobody.example.org:80", "nobody.example.org"),
        ("allow_any", "*"),
    ] {
        let found = hosts.iter().find(|known| known.name == host).unwrap_or_else(|| panic!("{host}"));
        assert!(found.domains.iter().any(|known| known == domain), "{host}: {:?}", found.domains);
    }
}

#[test]
fn requests_are_hashed_as_the_rule_says() {
    let rule = "kind: DestinationRule\nmetadata: {name: d}\nspec: {host: web, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}";
    let hosts = hosts(rule, "80");
    let web = hosts.iter().find(|host| host.name == "web.default.svc.cluster.local:80").unwrap();
    let Some(Action::Route(action)) = &web.routes[0].action else { panic!() };
    assert_eq!(action.hash_policy.len(), 1);
}

#[test]
fn equal_inputs_plan_equal_keys() {
    let mut world = World::new(&[
        SHOP,
        "kind: VirtualService\nmetadata: {name: root}\nspec: {hosts: [web], http: [{delegate: {name: leaf}}]}\n---\nkind: VirtualService\nmetadata: {name: leaf}\nspec: {http: [{route: [{destination: {host: web}}]}]}",
    ]);
    let _class = world.sidecar("client");
    let snapshot = std::sync::Arc::clone(world.engine.snapshot());
    let applied = world.engine.apply(snapshot, &ChangeSet::full());
    assert!(applied.classes.is_empty(), "{:?}", applied.classes);
}
