//! The admin listener, with Envoy's paths.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::{Method, Request, StatusCode};
use lateen_base::admin::{Handler, Reply, json, serve, text};
use lateen_base::drain;
use lateen_envoy::TypeUrl;
use lateen_envoy::envoy::config::bootstrap::v3::Bootstrap;
use lateen_envoy::envoy::config::core::v3 as core;
use lateen_envoy::json::to_json_redacted;
use lateen_envoy::prost::Message;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::manager::SharedManager;
use crate::sources::Encoded;

/// What the admin listener shows.
#[derive(Debug)]
pub struct Admin {
    /// The configuration.
    pub manager: SharedManager,
    /// Whether the first configuration serves.
    pub ready: watch::Receiver<bool>,
    /// Told when the process is to end.
    pub quit: Arc<tokio::sync::Notify>,
    /// For the dump.
    pub bootstrap: Bootstrap,
    /// When the proxy started.
    pub started: Instant,
}

/// Listens; gives back where.
pub async fn start(address: &core::Address, admin: Admin) -> std::io::Result<SocketAddr> {
    let address = match &address.address {
        Some(core::address::Address::SocketAddress(socket)) => {
            let port = match socket.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            let host = socket.address.clone();
            let port = u16::try_from(port).map_err(std::io::Error::other)?;
            (host, port)
        }
        _ => return Err(std::io::Error::other("admin.address: write a socket_address")),
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let admin = Arc::new(admin);
    let handler: Handler = Arc::new(move |request| {
        let admin = Arc::clone(&admin);
        Box::pin(async move { admin.answer(&request) })
    });
    let (trigger, watch) = drain::channel();
    tokio::spawn(async move {
        // Held for as long as the listener is: it ends with its runtime.
        let _trigger = trigger;
        if let Err(error) = serve(listener, handler, watch).await {
            tracing::error!(%error, "the admin listener ended");
        }
    });
    Ok(bound)
}

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Reply {
        let query: HashMap<&str, &str> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        let changes = ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/healthcheck/ok"];
        let path = request.uri().path();
        if changes.contains(&path) {
            // A GET changes nothing, and a page of another site can do nothing here.
            if request.method() != Method::POST {
                return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed: use POST\n");
            }
            if request.headers().contains_key("origin") || request.headers().contains_key("sec-fetch-site") {
                return text(StatusCode::FORBIDDEN, "requests of web pages are refused\n");
            }
        }
        match path {
            "/ready" => self.ready(),
            "/server_info" => json(self.server_info().to_string()),
            "/stats" if query.get("format") == Some(&"prometheus") => self.prometheus(),
            "/stats" => self.stats(&query),
            "/stats/prometheus" => self.prometheus(),
            "/clusters" => self.clusters(&query),
            "/listeners" => self.listeners(&query),
            "/config_dump" => json(format!("{:#}", self.config_dump(query.contains_key("include_eds")))),
            "/warnings" => {
                let lines: Vec<String> =
                    self.manager.lock().warnings.iter().map(|warning| format!("{warning}\n")).collect();
                text(StatusCode::OK, lines.concat())
            }
            "/quitquitquit" => {
                self.quit.notify_one();
                text(StatusCode::OK, "OK\n")
            }
            "/drain_listeners" => {
                self.manager.lock().drain();
                text(StatusCode::OK, "OK\n")
            }
            "/" => text(
                StatusCode::OK,
                "/clusters\n/config_dump\n/drain_listeners (POST)\n/listeners\n/quitquitquit (POST)\n/ready\n/server_info\n/stats\n/stats/prometheus\n/warnings\n",
            ),
            _ => text(StatusCode::NOT_FOUND, "invalid path. admin commands are:\n  see /\n"),
        }
    }

    fn state_name(&self) -> &'static str {
        if self.manager.lock().state().draining.load(Relaxed) {
            "DRAINING"
        } else if *self.ready.borrow() {
            "LIVE"
        } else {
            "PRE_INITIALIZING"
        }
    }

    fn ready(&self) -> Reply {
        let state = self.state_name();
        let status = if state == "LIVE" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, format!("{state}\n"))
    }

    fn server_info(&self) -> Value {
        let seconds = self.started.elapsed().as_secs();
        json!({
            "version": format!("lateen/{}", lateen_base::VERSION),
            "state": self.state_name(),
            "uptime_current_epoch": format!("{seconds}s"),
            "uptime_all_epochs": format!("{seconds}s"),
            "node": self.bootstrap.node.as_ref().map(to_json_redacted),
        })
    }

    fn stats(&self, query: &HashMap<&str, &str>) -> Reply {
        let filter = query.get("filter").copied().unwrap_or_default();
        let Ok(filter) = regex::Regex::new(filter) else {
            return text(StatusCode::BAD_REQUEST, "Invalid re2 regex");
        };
        let stats = self.manager.lock().state().stats.clone();
        let used_only = query.contains_key("usedonly");
        let mut samples = stats.samples();
        samples.retain(|sample| filter.is_match(&sample.name) && (sample.used || !used_only));
        text(StatusCode::OK, crate::stats::text::text(&samples, Default::default(), &stats.config()))
    }

    fn prometheus(&self) -> Reply {
        let state = Arc::clone(self.manager.lock().state());
        text(StatusCode::OK, state.stats.prometheus())
    }

    fn clusters(&self, query: &HashMap<&str, &str>) -> Reply {
        let state = Arc::clone(self.manager.lock().state());
        let clusters = state.clusters.load();
        let mut names: Vec<_> = clusters.keys().cloned().collect();
        names.sort();
        let mut out = String::new();
        let mut list = Vec::new();
        for name in names {
            let Some(cluster) = clusters.get(&name) else { continue };
            let hosts = cluster.hosts.load();
            let mut statuses = Vec::new();
            for (priority, members) in hosts.priorities.iter().enumerate() {
                for member in members {
                    let healthy = member.health == lateen_dataplane::cluster::Health::Healthy;
                    let flags = member.host.flags().text();
                    let text = &member.host.text;
                    let active = member.host.active.load(Relaxed);
                    out.push_str(&format!(
                        "{name}::{text}::rq_active::{active}\n{name}::{text}::health_flags::{flags}\n\
                         {name}::{text}::weight::{}\n{name}::{text}::priority::{priority}\n",
                        member.weight
                    ));
                    let health = if healthy { "HEALTHY" } else { "UNHEALTHY" };
                    statuses.push(json!({
                        "address": host_json(&member.host.address),
                        "health_status": {"eds_health_status": health},
                        "weight": member.weight, "hostname": member.host.hostname, "priority": priority,
                        "locality": {"region": member.locality.region, "zone": member.locality.zone, "sub_zone": member.locality.sub_zone},
                    }));
                }
            }
            let limits = &cluster.config.breakers.default;
            out.push_str(&format!(
                "{name}::default_priority::max_connections::{}\n{name}::default_priority::max_requests::{}\n{name}::added_via_api::true\n",
                limits.connections, limits.requests
            ));
            list.push(json!({"name": *name, "added_via_api": true, "host_statuses": statuses}));
        }
        if query.get("format") == Some(&"json") {
            return json(format!("{:#}", json!({"cluster_statuses": list})));
        }
        text(StatusCode::OK, out)
    }

    fn listeners(&self, query: &HashMap<&str, &str>) -> Reply {
        let state = Arc::clone(self.manager.lock().state());
        let listeners = state.listeners.load();
        let mut lines: Vec<(String, String)> = listeners
            .by_name
            .values()
            .map(|handle| {
                let configured = handle.active.load().config.addresses[0].to_string();
                let bound = handle.bound.first().map_or(configured, ToString::to_string);
                (handle.name.to_string(), bound)
            })
            .collect();
        lines.sort();
        if query.get("format") == Some(&"json") {
            let list: Vec<Value> = lines
                .into_iter()
                .map(|(name, address)| json!({"name": name, "local_address": address}))
                .collect();
            return json(format!("{:#}", json!({"listener_statuses": list})));
        }
        text(
            StatusCode::OK,
            lines.into_iter().map(|(name, address)| format!("{name}::{address}\n")).collect::<String>(),
        )
    }

    fn config_dump(&self, endpoints: bool) -> Value {
        const PREFIX: &str = "type.googleapis.com/envoy.admin.v3.";
        fn typed<M: TypeUrl + Message + Default>(source: &Encoded<M>) -> Value {
            let mut value = to_json_redacted(&source.decode());
            value["@type"] = M::TYPE_URL.into();
            value
        }
        let manager = self.manager.lock();
        let sources = &manager.sources;
        let clusters: Vec<Value> =
            sources.clusters.values().map(|cluster| json!({"cluster": typed(cluster)})).collect();
        let listeners: Vec<Value> = sources
            .listeners
            .iter()
            .map(|(name, listener)| json!({"name": name, "active_state": {"listener": typed(listener)}}))
            .collect();
        let routes: Vec<Value> =
            sources.routes.values().map(|route| json!({"route_config": typed(route)})).collect();
        let mut configs = vec![
            json!({"@type": format!("{PREFIX}BootstrapConfigDump"), "bootstrap": to_json_redacted(&self.bootstrap)}),
            json!({"@type": format!("{PREFIX}ClustersConfigDump"), "dynamic_active_clusters": clusters}),
            json!({"@type": format!("{PREFIX}ListenersConfigDump"), "dynamic_listeners": listeners}),
            json!({"@type": format!("{PREFIX}RoutesConfigDump"), "dynamic_route_configs": routes}),
        ];
        if endpoints {
            let list: Vec<Value> = sources
                .endpoints
                .values()
                .map(|endpoints| json!({"endpoint_config": typed(endpoints)}))
                .collect();
            configs.push(
                json!({"@type": format!("{PREFIX}EndpointsConfigDump"), "dynamic_endpoint_configs": list}),
            );
        }
        json!({"configs": configs})
    }
}

fn host_json(address: &lateen_dataplane::listener::Address) -> Value {
    use lateen_dataplane::listener::Address;
    match address {
        Address::Socket(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        Address::Pipe(path) => json!({"pipe": {"path": path}}),
        other => json!(other.to_string()),
    }
}
