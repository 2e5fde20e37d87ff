//! Gateways: how the servers of several objects come together in listeners and routes.

#![allow(clippy::unwrap_used)]

mod support;

use lateen_envoy::envoy::config::listener::v3::{FilterChain, Listener, filter};
use lateen_envoy::envoy::config::route::v3::{self as route, RouteConfiguration};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use lateen_envoy::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use lateen_envoy::envoy::extensions::transport_sockets::tls::v3 as tls;
use lateen_envoy::{TypeUrl, from_any};
use support::World;

const POD: &str = "
kind: Deployment
metadata: {name: gateway, namespace: edge}
spec: {template: {metadata: {labels: {istio: ingressgateway}}}}
";

/// `[names] -> target` for each chain, after `+tls` where TLS ends.
fn chains(listener: &Listener) -> Vec<String> {
    listener.filter_chains.iter().map(chain).collect()
}

fn chain(chain: &FilterChain) -> String {
    let names = chain
        .filter_chain_match
        .as_ref()
        .map(|conditions| conditions.server_names.join(","))
        .unwrap_or_default();
    let ends = if chain.transport_socket.is_some() { "+tls" } else { "" };
    let Some(filter::ConfigType::TypedConfig(config)) = &chain.filters[0].config_type else {
        panic!("a filter")
    };
    let target = if config.type_url == HttpConnectionManager::TYPE_URL {
        match from_any::<HttpConnectionManager>(config).unwrap().route_specifier {
            Some(RouteSpecifier::Rds(rds)) => rds.route_config_name,
            _ => "routes".to_owned(),
        }
    } else {
        match from_any::<TcpProxy>(config).unwrap().cluster_specifier {
            Some(tcp_proxy::ClusterSpecifier::Cluster(cluster)) => cluster,
            Some(tcp_proxy::ClusterSpecifier::WeightedClusters(clusters)) => clusters
                .clusters
                .iter()
                .map(|cluster| format!("{}*{}", cluster.name, cluster.weight))
                .collect::<Vec<_>>()
                .join("+"),
            _ => String::new(),
        }
    };
    format!("[{names}]{ends} -> {target}")
}

fn hosts(routes: &RouteConfiguration) -> Vec<String> {
    routes
        .virtual_hosts
        .iter()
        .map(|host| {
            let clusters: Vec<String> = host
                .routes
                .iter()
                .map(|route| match &route.action {
                    Some(route::route::Action::Route(route::RouteAction {
                        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
                        ..
                    })) => cluster.clone(),
                    other => format!("{other:?}"),
                })
                .collect();
            let tls = if host.require_tls == 0 { "" } else { " tls" };
            format!("{} {}{tls}: {}", host.name, host.domains.join(","), clusters.join(" "))
        })
        .collect()
}

fn check(name: &str, yaml: &str, expected: &[(&str, &[&str])]) {
    let mut world = World::new(&[POD, yaml]);
    let class = world.gateway("gateway");
    let mut seen = Vec::new();
    for listener in world.listeners(&class) {
        seen.push((listener.name.clone(), chains(&listener)));
    }
    for routes in world.routes(&class) {
        seen.push((routes.name.clone(), hosts(&routes)));
    }
    seen.sort();
    let mut expected: Vec<(String, Vec<String>)> = expected
        .iter()
        .map(|(name, parts)| ((*name).to_owned(), parts.iter().map(|part| (*part).to_owned()).collect()))
        .collect();
    expected.sort();
    assert_eq!(seen, expected, "{name}");
}

/// A Gateway object in one line.
fn gateway(name: &str, namespace: &str, servers: &str) -> String {
    format!(
        "---\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}\n"
    )
}

/// A VirtualService in one line.
fn rule(name: &str, namespace: &str, host: &str, gateways: &str, rest: &str) -> String {
    format!(
        "---\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: ['{host}'], gateways: [{gateways}], {rest}}}\n"
    )
}

const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
const TO_A: &str = "http: [{route: [{destination: {host: a, port: {number: 80}}}]}]";

#[test]
fn servers_share_a_port_or_the_oldest_keeps_it() {
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    let tcp_rule = "tcp: [{route: [{destination: {host: a, port: {number: 81}}}]}]";
    check(
        "HTTP before TCP",
        &[gateway("one", "x", HTTP), gateway("two", "x", tcp), rule("r", "x", "*", "two", tcp_rule)].concat(),
        &[("0.0.0.0_80", &["[] -> http.80"]), ("http.80", &["blackhole:80 *: "])],
    );
    check(
        "TCP before HTTP, and TCP before TCP",
        &[
            gateway("one", "x", tcp),
            gateway("two", "x", HTTP),
            gateway("three", "x", tcp),
            rule("r", "x", "*", "one", tcp_rule),
            rule("s", "x", "*", "three", "tcp: [{route: [{destination: {host: b}}]}]"),
        ]
        .concat(),
        &[("0.0.0.0_80", &["[] -> outbound|81||a.x.svc.cluster.local"])],
    );
    check("TCP without a rule listens for nothing", &gateway("one", "x", tcp), &[]);
    check(
        "an address of its own",
        &[
            gateway("one", "x", HTTP),
            gateway("two", "x", "{port: {number: 80, name: tcp, protocol: TCP}, bind: 10.9.9.9, hosts: ['*']}"),
            gateway("three", "x", "{port: {number: 80, name: h, protocol: HTTP}, bind: 10.9.9.8, hosts: ['*']}"),
            rule("r", "x", "*", "two", "tcp: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 2}, {destination: {host: c}}]}]"),
        ]
        .concat(),
        &[
            ("0.0.0.0_80", &["[] -> http.80"]),
            ("10.9.9.9_80", &["[] -> outbound|80||a.x.svc.cluster.local*1+outbound|80||b.x.svc.cluster.local*2"]),
            ("10.9.9.8_80", &["[] -> http.80.10.9.9.8"]),
            ("http.80", &["blackhole:80 *: "]),
            ("http.80.10.9.9.8", &["blackhole:80 *: "]),
        ],
    );
    check(
        "hosts of two objects in one table, the particular route first",
        &[
            gateway("one", "x", HTTP),
            gateway("two", "w", "{port: {number: 80, name: http, protocol: GRPC}, hosts: ['z/*.example.com', './b.example.com']}"),
            rule("r", "x", "a.example.com", "one", TO_A),
            rule("s", "z", "a.example.com", "w/two, mesh", "http: [{match: [{uri: {prefix: /b}, gateways: [w/two]}, {uri: {prefix: /c}, gateways: [mesh]}, {uri: {prefix: /d}, port: 81}], route: [{destination: {host: b}}]}]"),
            rule("t", "z", "b.example.com", "w/two", TO_A),
            rule("u", "q", "c.example.com", "w/two", TO_A),
        ]
        .concat(),
        &[
            ("0.0.0.0_80", &["[] -> http.80"]),
            (
                "http.80",
                &[
                    "a.example.com:80 a.example.com: outbound|80||b.z.svc.cluster.local outbound|80||a.x.svc.cluster.local",
                    "b.example.com:80 b.example.com: outbound|80||a.z.svc.cluster.local",
                ],
            ),
        ],
    );
}

#[test]
fn tls_is_told_by_server_names() {
    let https = |name: &str, hosts: &str| {
        format!(
            "{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{mode: SIMPLE, credentialName: c}}}}"
        )
    };
    check(
        "a chain and a table for each server",
        &[
            gateway("one", "x", &format!("{}, {}", https("a", "a.com, x.com"), https("b", "'*.b.com'"))),
            gateway("two", "w", &https("a", "'z/c.com'")),
            gateway("three", "w", &https("a", "a.com, d.com")),
            rule("r", "x", "*", "one", TO_A),
        ]
        .concat(),
        &[
            (
                "0.0.0.0_443",
                &[
                    "[a.com,x.com]+tls -> https.443.a.one.x",
                    "[*.b.com]+tls -> https.443.b.one.x",
                    "[c.com]+tls -> https.443.a.two.w",
                ],
            ),
            (
                "https.443.a.one.x",
                &[
                    "a.com:443 a.com: outbound|80||a.x.svc.cluster.local",
                    "x.com:443 x.com: outbound|80||a.x.svc.cluster.local",
                ],
            ),
            ("https.443.b.one.x", &["*.b.com:443 *.b.com: outbound|80||a.x.svc.cluster.local"]),
            ("https.443.a.two.w", &["blackhole:443 *: "]),
        ],
    );
    check(
        "no two chains for one name",
        &[gateway("one", "x", &https("a", "./*")), gateway("two", "w", &https("a", "./*"))].concat(),
        &[
            ("0.0.0.0_443", &["[]+tls -> https.443.a.one.x"]),
            ("https.443.a.one.x", &["blackhole:443 *: "]),
            ("https.443.a.two.w", &["blackhole:443 *: "]),
        ],
    );
    let passing =
        "{port: {number: 443, name: p, protocol: TLS}, hosts: ['*.p.com'], tls: {mode: PASSTHROUGH}}";
    let tls_rule = "tls: [{match: [{sniHosts: [a.p.com, b.p.com]}, {sniHosts: [c.p.com], port: 8}], route: [{destination: {host: a}}]}, {match: [{sniHosts: [b.p.com]}, {sniHosts: [d.p.com]}], route: [{destination: {host: b}}]}]";
    check(
        "passed through by the names of rules",
        &[gateway("one", "x", passing), rule("r", "x", "*.p.com", "one", tls_rule)].concat(),
        &[(
            "0.0.0.0_443",
            &[
                "[a.p.com,b.p.com] -> outbound|443||a.x.svc.cluster.local",
                "[d.p.com] -> outbound|443||b.x.svc.cluster.local",
            ],
        )],
    );
    check(
        "TLS that ends in bytes",
        &[
            gateway("one", "x", "{port: {number: 443, name: t, protocol: TLS}, hosts: [t.com], tls: {mode: MUTUAL, credentialName: c}}"),
            rule("r", "x", "t.com", "one", "tcp: [{match: [{port: 80}], route: [{destination: {host: b}}]}, {match: [{port: 443}], route: [{destination: {host: a}}]}]"),
        ]
        .concat(),
        &[("0.0.0.0_443", &["[t.com]+tls -> outbound|443||a.x.svc.cluster.local"])],
    );
}

#[test]
fn ports_are_those_of_the_workload() {
    let service = "---\nkind: Service\nmetadata: {name: ingress, namespace: edge}\nspec: {selector: {istio: ingressgateway}, ports: [{port: 80, targetPort: 8080, name: http}, {port: 443, targetPort: 8443, name: https}]}\n";
    let https = "{port: {number: 443, name: h, protocol: HTTPS}, hosts: [a.com], tls: {mode: SIMPLE, credentialName: c}}";
    check(
        "translated, and named as they are called",
        &[
            service.to_owned(),
            gateway("one", "x", &format!("{HTTP}, {https}")),
            gateway("two", "x", "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}"),
            rule("r", "x", "a.com", "one", TO_A),
        ]
        .concat(),
        &[
            ("0.0.0.0_8080", &["[] -> http.8080"]),
            ("0.0.0.0_8443", &["[a.com]+tls -> https.443.h.one.x"]),
            ("http.8080", &["a.com:80 a.com: outbound|80||a.x.svc.cluster.local"]),
            ("https.443.h.one.x", &["a.com:443 a.com: outbound|80||a.x.svc.cluster.local"]),
        ],
    );
    let named = "---\nkind: Gateway\nmetadata: {name: one, namespace: edge, annotations: {internal.istio.io/gateway-service: 'ingress.edge.svc.cluster.local'}}\nspec: {servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}, {port: {number: 81, name: other, protocol: HTTP}, hosts: ['*']}]}\n";
    check(
        "of the services that the object names, and no others",
        &[service, named].concat(),
        &[("0.0.0.0_8080", &["[] -> http.8080"]), ("http.8080", &["blackhole:80 *: "])],
    );
}

#[test]
fn hosts_are_redirected_to_https() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com, 'x/b.com'], tls: {httpsRedirect: true}}";
    check(
        "with and without rules",
        &[gateway("one", "x", server), rule("r", "x", "a.com", "one", TO_A)].concat(),
        &[
            ("0.0.0.0_80", &["[] -> http.80"]),
            ("http.80", &["a.com:80 a.com tls: outbound|80||a.x.svc.cluster.local", "b.com:80 b.com tls: "]),
        ],
    );
}

#[test]
fn certificates_come_by_name() {
    let server = |tls: &str| {
        gateway(
            "one",
            "x",
            &format!("{{port: {{number: 443, name: h, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}"),
        )
    };
    let check = |name: &str, settings: &str, expected: (&[&str], &str, bool)| {
        let mut world = World::new(&[POD, &server(settings)]);
        let class = world.gateway("gateway");
        let listener = world.listeners(&class).remove(0);
        let socket = listener.filter_chains[0].transport_socket.clone().unwrap();
        let Some(lateen_envoy::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(config)) =
            socket.config_type
        else {
            panic!("a transport socket")
        };
        let context: tls::DownstreamTlsContext = from_any(&config).unwrap();
        let common = context.common_tls_context.unwrap();
        let names: Vec<_> =
            common.tls_certificate_sds_secret_configs.iter().map(|secret| secret.name.as_str()).collect();
        let authority = match &common.validation_context_type {
            Some(tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined)) => {
                combined.validation_context_sds_secret_config.as_ref().unwrap().name.as_str()
            }
            _ => "",
        };
        let demands = context.require_client_certificate.unwrap();
        assert_eq!((&names[..], authority, demands), expected, "{name}");
    };
    /// Names of the certificates, name of the authority, whether a client must have a certificate.
    type Expected<'a> = (&'a [&'a str], &'a str, bool);
    let all: [(&str, &str, Expected<'_>); 8] = [
        ("simple", "{mode: SIMPLE, credentialName: c}", (&["kubernetes://c"], "", false)),
        ("mutual", "{mode: MUTUAL, credentialName: c}", (&["kubernetes://c"], "kubernetes://c-cacert", true)),
        (
            "optional",
            "{mode: OPTIONAL_MUTUAL, credentialName: c}",
            (&["kubernetes://c"], "kubernetes://c-cacert", false),
        ),
        (
            "several",
            "{mode: MUTUAL, credentialNames: [a, b]}",
            (&["kubernetes://a", "kubernetes://b"], "kubernetes://a-cacert", true),
        ),
        (
            "authority of its own",
            "{mode: MUTUAL, credentialName: c, caCertCredentialName: ca}",
            (&["kubernetes://c"], "kubernetes://ca-cacert", true),
        ),
        ("the workload's", "{mode: ISTIO_MUTUAL}", (&["default"], "ROOTCA", true)),
        (
            "files",
            "{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c}",
            (&["file-cert:/a~/b"], "file-root:/c", true),
        ),
        (
            "pairs of files",
            "{mode: SIMPLE, tlsCertificates: [{serverCertificate: /a, privateKey: /b}, {serverCertificate: /c, privateKey: /d}]}",
            (&["file-cert:/a~/b", "file-cert:/c~/d"], "", false),
        ),
    ];
    for (name, settings, expected) in all {
        check(name, settings, expected);
    }
}
