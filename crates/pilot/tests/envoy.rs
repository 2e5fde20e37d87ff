//! Stock Envoy reads everything that is generated: resources become a static bootstrap, and `envoy --mode validate`
//! must take it. Needs the binary named by `ENVOY_BIN` and Istio's samples under `LATEEN_CORPORA`; says so without.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
// The crate is pure; this test of it reads files and runs Envoy.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::path::PathBuf;
use std::process::Command;

use lateen_envoy::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::StaticResources};
use lateen_envoy::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use lateen_envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use lateen_envoy::envoy::config::listener::v3::{FilterChain, filter};
use lateen_envoy::envoy::extensions::filters::network::http_connection_manager::v3 as manager;
use lateen_envoy::{TypeUrl, from_any, to_any};
use lateen_pilot::Class;
use manager::http_connection_manager::RouteSpecifier;
use prost::Message;
use support::World;

const EVERYTHING: &str = r#"
kind: VirtualService
metadata: {name: everything}
spec:
  hosts: [ratings, "*.wild.example.com"]
  http:
  - match:
    - {uri: {regex: "/a.*"}, ignoreUriCase: false, headers: {x: {regex: "1+"}, present: {}, z: {prefix: q}}}
    - {uri: {exact: /B}, ignoreUriCase: true, withoutHeaders: {x: {exact: "1"}, w: {}}, queryParams: {q: {exact: "1"}, r: {regex: "2+"}}}
    - {method: {exact: GET}, authority: {prefix: a}, scheme: {exact: http}, name: named}
    name: conditions
    rewrite: {uri: /new, authority: other.example.com}
    route: [{destination: {host: ratings, port: {number: 9080}}, headers: {request: {set: {a: b, host: h}, add: {c: d}, remove: [e]}, response: {set: {f: g}}}}]
    timeout: 1.5s
    retries: {attempts: 3, perTryTimeout: 500ms, retryOn: "5xx,gateway-error,409", backoff: 10ms}
    fault: {abort: {httpStatus: 555, percentage: {value: 0.1}}, delay: {fixedDelay: 1s, percentage: {value: 50}}}
    mirrors: [{destination: {host: details}, percentage: {value: 12.5}}]
    corsPolicy: {allowOrigins: [{exact: "https://a"}, {regex: ".*b"}], allowMethods: [GET], maxAge: 24h, allowCredentials: true}
  - match: [{uri: {prefix: /r1}}]
    redirect: {uri: /x, authority: there, scheme: https, port: 8443, redirectCode: 308}
  - match: [{uri: {prefix: /r2}}]
    directResponse: {status: 418, body: {string: teapot}}
  - match: [{uri: {prefix: /r3}}]
    rewrite: {uriRegexRewrite: {match: "/r3/(.*)", rewrite: '/\1'}}
    retries: {attempts: 0}
    route:
    - {destination: {host: ratings}, weight: 30, headers: {request: {set: {host: q}}}}
    - {destination: {host: details}, weight: 70}
---
kind: DestinationRule
metadata: {name: everything}
spec:
  host: details
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 30s}
    connectionPool:
      tcp: {maxConnections: 10, connectTimeout: 3s, tcpKeepalive: {time: 60s, interval: 10s, probes: 3}}
      http: {http1MaxPendingRequests: 5, maxRequestsPerConnection: 7, idleTimeout: 9s, maxRetries: 2, h2UpgradePolicy: UPGRADE}
    outlierDetection: {consecutive5xxErrors: 3, consecutiveGatewayErrors: 2, interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 50, minHealthPercent: 20}
    portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: PASSTHROUGH}}]
    tls: {mode: SIMPLE, sni: details.example.com}
  subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {outlierDetection: {}}}]
---
kind: ServiceEntry
metadata: {name: static}
spec: {hosts: [static.example.com], addresses: [240.0.0.1], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 3306, name: tcp, protocol: TCP}, {number: 9080, name: http, protocol: HTTP}], endpoints: [{address: 10.9.9.9}]}
---
kind: ServiceEntry
metadata: {name: names}
spec: {hosts: [a.example.com, b.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}, {number: 8443, name: h2, protocol: HTTP2}]}
---
kind: ServiceEntry
metadata: {name: logical}
spec: {hosts: [logical.example.com], resolution: DNS_ROUND_ROBIN, ports: [{number: 81, name: http, protocol: HTTP}]}
---
kind: ServiceEntry
metadata: {name: wild}
spec: {hosts: ["*.wild.example.org"], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]}
---
kind: ServiceEntry
metadata: {name: dynamic}
spec: {hosts: ["*.dynamic.example.org"], resolution: DYNAMIC_DNS, ports: [{number: 8443, name: tls, protocol: TLS}, {number: 8080, name: http, protocol: HTTP}]}
---
kind: DestinationRule
metadata: {name: tunnel}
spec: {host: static.example.com, trafficPolicy: {tunnel: {targetHost: behind.example.com, targetPort: 443}}}
---
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: ratings}, ports: [{name: http, port: 9080}, {name: tcp, port: 5000}]}
---
kind: Service
metadata: {name: undeclared}
spec: {clusterIP: 10.96.77.7, selector: {app: ratings}, ports: [{port: 9080}]}
---
kind: Deployment
metadata: {name: gateway}
spec: {template: {metadata: {labels: {istio: ingressgateway}}}}
"#;

/// Where the binary and the samples are.
fn peers() -> Option<(PathBuf, PathBuf)> {
    let (Some(envoy), Some(corpora)) = (std::env::var_os("ENVOY_BIN"), std::env::var_os("LATEEN_CORPORA"))
    else {
        println!("skipped: ENVOY_BIN and LATEEN_CORPORA must both be set");
        return None;
    };
    Some((envoy.into(), PathBuf::from(corpora).join("samples/bookinfo")))
}

fn read(samples: &std::path::Path, name: &str) -> String {
    std::fs::read_to_string(samples.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One bootstrap that holds all a class is told, with nothing left to discover.
fn bootstrap(world: &World, class: &Class) -> Bootstrap {
    let assignments: Vec<ClusterLoadAssignment> = world.all(class);
    let mut clusters = world.clusters(class);
    for cluster in &mut clusters {
        let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
        if cluster.cluster_discovery_type == Some(eds) {
            let found = assignments.iter().find(|assignment| assignment.cluster_name == cluster.name);
            cluster.load_assignment =
                Some(found.unwrap_or_else(|| panic!("endpoints of {}", cluster.name)).clone());
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
            cluster.eds_cluster_config = None;
        }
    }
    let routes = world.routes(class);
    let mut listeners = world.listeners(class);
    let chains = listeners.iter_mut().flat_map(|listener| {
        listener.filter_chains.iter_mut().chain(listener.default_filter_chain.iter_mut())
    });
    for chain in chains {
        inline_routes(chain, &routes);
    }
    Bootstrap {
        node: Some(Default::default()),
        static_resources: Some(StaticResources { listeners, clusters, ..Default::default() }),
        ..Default::default()
    }
}

fn inline_routes(
    chain: &mut FilterChain,
    routes: &[lateen_envoy::envoy::config::route::v3::RouteConfiguration],
) {
    for filter in &mut chain.filters {
        let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { continue };
        if config.type_url != manager::HttpConnectionManager::TYPE_URL {
            continue;
        }
        let mut message: manager::HttpConnectionManager = from_any(config).unwrap();
        if let Some(RouteSpecifier::Rds(rds)) = &message.route_specifier {
            let found = routes.iter().find(|route| route.name == rds.route_config_name);
            let found = found.unwrap_or_else(|| panic!("route configuration {}", rds.route_config_name));
            message.route_specifier = Some(RouteSpecifier::RouteConfig(found.clone()));
        }
        *config = to_any(&message);
    }
}

fn validate(envoy: &std::path::Path, name: &str, bootstrap: &Bootstrap) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.pb");
    std::fs::write(&file, bootstrap.encode_to_vec()).unwrap();
    let output = Command::new(envoy)
        .args([
            "--mode",
            "validate",
            "--log-level",
            "warning",
            "--service-node",
            "n",
            "--service-cluster",
            "c",
        ])
        .arg("--config-path")
        .arg(&file)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {log}");
}

#[test]
fn envoy_takes_bookinfo_with_every_rule() {
    let Some((envoy, samples)) = peers() else { return };
    let gateway_pod = "kind: Deployment\nmetadata: {name: gateway}\nspec: {template: {metadata: {labels: {istio: ingressgateway}}}}";
    let base = [
        read(&samples, "platform/kube/bookinfo.yaml"),
        read(&samples, "networking/bookinfo-gateway.yaml"),
        read(&samples, "networking/destination-rule-all.yaml"),
        gateway_pod.to_owned(),
    ];
    let mut rules: Vec<PathBuf> = std::fs::read_dir(samples.join("networking"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("virtual-service") || name.starts_with("fault") || name.starts_with("egress")
        })
        .collect();
    rules.sort();
    assert!(rules.len() >= 10, "the samples are incomplete: {rules:?}");
    for rule in rules {
        let name = rule.file_name().unwrap().to_string_lossy().into_owned();
        let mut world = World::new(&base.iter().map(String::as_str).collect::<Vec<_>>());
        world.apply(&std::fs::read_to_string(&rule).unwrap());
        let class = world.sidecar("productpage-v1");
        validate(&envoy, &name, &bootstrap(&world, &class));
    }
    let mut world = World::new(&base.iter().map(String::as_str).collect::<Vec<_>>());
    let class = world.gateway("gateway");
    validate(&envoy, "gateway", &bootstrap(&world, &class));
}

#[test]
fn envoy_takes_every_field() {
    let Some((envoy, samples)) = peers() else { return };
    let shop = read(&samples, "platform/kube/bookinfo.yaml");
    let gateway = read(&samples, "networking/bookinfo-gateway.yaml");
    let mut world = World::new(&[&shop, &gateway, EVERYTHING]);
    for deployment in ["productpage-v1", "ratings-v1"] {
        let class = world.sidecar(deployment);
        validate(&envoy, deployment, &bootstrap(&world, &class));
    }
    let class = world.gateway("gateway");
    validate(&envoy, "gateway", &bootstrap(&world, &class));
}

/// Every field of traffic policies, each on a service of its own.
const POLICIES: &str = include_str!("support/policies.yaml");

#[test]
fn envoy_takes_every_traffic_policy() {
    let Some((envoy, samples)) = peers() else { return };
    let shop = read(&samples, "platform/kube/bookinfo.yaml");
    let mut world = World::new(&[&shop, EVERYTHING, POLICIES]);
    for (name, class) in [("sidecar", world.sidecar("ratings-v1")), ("gateway", world.gateway("gateway"))] {
        let mut bootstrap = bootstrap(&world, &class);
        if let Some(resources) = &mut bootstrap.static_resources {
            // Only clusters are judged here; what the agent serves must have a cluster.
            resources.listeners.clear();
            resources.clusters.push(lateen_envoy::envoy::config::cluster::v3::Cluster {
                name: "sds-grpc".to_owned(),
                connect_timeout: Some(std::time::Duration::from_secs(1).into()),
                ..Default::default()
            });
            let made =
                resources.clusters.iter().map(|cluster| lateen_envoy::json::to_json(cluster).to_string());
            let all: String = made.collect();
            for part in ["MAGLEV", "zone_aware_lb_config", "retry_budget", "error_matcher", "tlsMode-istio"] {
                assert!(all.contains(part), "{name}: {part}");
            }
            // Envoy 1.40 has no stream while it only validates, and falls over secrets that would come on it.
            resources.clusters.retain(|cluster| name == "sidecar" || !cluster.name.contains("credential"));
        }
        validate(&envoy, name, &bootstrap);
    }
}

/// Patches of every part, of the kinds that Istio's users write.
const PATCHES: &str = r#"
kind: EnvoyFilter
metadata: {name: patches}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch: {operation: INSERT_BEFORE, value: {name: lua, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, default_source_code: {inline_string: "function envoy_on_request(handle) end"}}}}
  - applyTo: NETWORK_FILTER
    match: {context: ANY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch: {operation: MERGE, value: {name: envoy.filters.network.http_connection_manager, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, common_http_protocol_options: {idle_timeout: 30s}}}}
  - applyTo: NETWORK_FILTER
    match: {listener: {name: virtualOutbound}}
    patch: {operation: INSERT_FIRST, value: {name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, stat_prefix: limit, max_connections: 1000}}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND}
    patch: {operation: MERGE, value: {dns_lookup_family: V4_ONLY, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}}}}}
  - applyTo: CLUSTER
    patch: {operation: ADD, value: {name: rate_limit_cluster, type: STRICT_DNS, connect_timeout: 10s, lb_policy: ROUND_ROBIN, load_assignment: {cluster_name: rate_limit_cluster, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: ratelimit.default.svc.cluster.local, port_value: 8081}}}}]}]}}}
  - applyTo: VIRTUAL_HOST
    match: {context: GATEWAY}
    patch: {operation: MERGE, value: {rate_limits: [{actions: [{request_headers: {header_name: ":path", descriptor_key: PATH}}]}]}}
  - applyTo: LISTENER
    match: {context: ANY}
    patch: {operation: MERGE, value: {per_connection_buffer_limit_bytes: 32768}}
"#;

#[test]
fn envoy_takes_what_patches_make() {
    let Some((envoy, samples)) = peers() else { return };
    let shop = read(&samples, "platform/kube/bookinfo.yaml");
    let gateway = read(&samples, "networking/bookinfo-gateway.yaml");
    let local = read(&samples, "../ratelimit/local-rate-limit-service.yaml");
    let sample = read(&samples, "policy/productpage_envoy_ratelimit.yaml");
    for (name, filter) in [("many parts", PATCHES), ("local limit", &local), ("global limit", &sample)] {
        let mut world = World::new(&[&shop, &gateway, EVERYTHING, filter]);
        for class in [world.sidecar("productpage-v1"), world.gateway("gateway")] {
            let mut bootstrap = bootstrap(&world, &class);
            if let Some(resources) = &mut bootstrap.static_resources {
                resources.clusters.push(lateen_envoy::envoy::config::cluster::v3::Cluster {
                    name: "sds-grpc".to_owned(),
                    connect_timeout: Some(std::time::Duration::from_secs(1).into()),
                    ..Default::default()
                });
            }
            validate(&envoy, &format!("{name}, {:?}", class.role), &bootstrap);
        }
    }
    let mut world = World::new(&[&shop, &local]);
    let class = world.sidecar("productpage-v1");
    let patched =
        world.listeners(&class).into_iter().find(|listener| listener.name == "virtualInbound").unwrap();
    assert!(lateen_envoy::json::to_json(&patched).to_string().contains("http_local_rate_limiter"));
}
