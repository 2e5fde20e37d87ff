//! Debug pages (port 8080), metrics and version (port 15014). Paths are istiod's.

mod proxies;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use lateen_base::admin::{self, Handler, Reply};
use lateen_base::readiness::Readiness;
use lateen_xds::Streams;
use serde_json::{Value, json};

use crate::discovery::Discovery;
use crate::metrics::Metrics;

/// What the pages show.
pub(crate) struct Debug {
    pub(crate) discovery: Discovery,
    pub(crate) streams: Streams,
    pub(crate) readiness: Readiness,
    pub(crate) platforms: Platforms,
    pub(crate) identifier: String,
}

/// Asks the registry how its platforms fare.
pub(crate) type Platforms = Box<dyn Fn() -> Value + Send + Sync>;

/// Every page with what it is for; `{}` marks what it must be told.
const PAGES: [(&str, &str); 21] = [
    ("/debug/adsz", "connected proxies, with what they subscribe to and hold"),
    ("/debug/clusterz", "the platforms and clusters that services come from, and how they fare"),
    ("/debug/config_dump?proxyID={}", "all that a proxy should hold, as Envoy's admin page shows it"),
    ("/debug/configz", "configuration objects"),
    ("/debug/connections", "connected proxies, and since when"),
    ("/debug/distribution?kind={}&namespace={}&name={}", "which proxies have acknowledged an object"),
    ("/debug/ecdsz?proxyID={}", "a proxy's filters that come by themselves"),
    ("/debug/edsz?proxyID={}", "a proxy's endpoints"),
    ("/debug/endpointShardz", "endpoints by service and by the cluster they come from"),
    ("/debug/endpointz", "endpoints by service"),
    ("/debug/force_disconnect?proxyID={}", "cut a proxy's stream; it comes again by itself (POST)"),
    ("/debug/instancesz", "workloads by cluster and namespace"),
    ("/debug/list", "this list"),
    ("/debug/mesh", "the mesh's settings"),
    ("/debug/ndsz?proxyID={}", "a proxy's table of names"),
    ("/debug/networkz", "the gateways of other networks"),
    ("/debug/registryz", "services"),
    ("/debug/resourcesz", "how many objects there are of each kind"),
    ("/debug/sidecarz?proxyID={}", "the class of a proxy: all that its configuration depends on"),
    ("/debug/syncz", "how far each proxy is with each type of resource"),
    ("/ready", "whether everything has started"),
];

/// The values of a query.
struct Query<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    fn parse(query: Option<&'a str>) -> Self {
        Self(query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect())
    }

    /// The value; empty where there is none.
    fn get(&self, key: &str) -> &'a str {
        self.0.get(key).copied().unwrap_or_default()
    }
}

/// The pages of port 8080.
pub(crate) fn debug_pages(debug: Arc<Debug>) -> Handler {
    Arc::new(move |request| {
        let debug = Arc::clone(&debug);
        Box::pin(async move {
            let query = Query::parse(request.uri().query());
            let path = request.uri().path();
            let acts = path == "/debug/force_disconnect";
            if acts != (request.method() == Method::POST) || !acts && request.method() != Method::GET {
                let text = if acts { "this acts: POST to it\n" } else { "this page is only read\n" };
                return admin::text(StatusCode::METHOD_NOT_ALLOWED, text);
            }
            debug.page(path, &query)
        })
    })
}

/// The pages of port 15014.
pub(crate) fn monitoring_pages(metrics: Metrics) -> Handler {
    Arc::new(move |request| {
        let metrics = metrics.clone();
        Box::pin(async move {
            match (request.method(), request.uri().path()) {
                (&Method::GET, "/metrics") => admin::text(StatusCode::OK, metrics.render()),
                (&Method::GET, "/version") => {
                    admin::json(json!({"version": lateen_base::VERSION}).to_string())
                }
                _ => admin::text(StatusCode::NOT_FOUND, "not found; /metrics and /version are here\n"),
            }
        })
    })
}

impl Debug {
    fn page(&self, path: &str, query: &Query<'_>) -> Reply {
        let json = |value: Value| admin::json(value.to_string());
        match path {
            "/ready" => ready(&self.readiness),
            "/debug" | "/debug/list" => admin::text(StatusCode::OK, list()),
            "/debug/syncz" => json(self.syncz()),
            "/debug/adsz" => json(self.adsz()),
            "/debug/connections" => json(self.connections()),
            "/debug/config_dump" => self.of_proxy(query, proxies::config_dump),
            "/debug/edsz" => self.of_proxy(query, proxies::endpoints),
            "/debug/ecdsz" => self.of_proxy(query, proxies::extensions),
            "/debug/ndsz" => self.of_proxy(query, proxies::name_table),
            "/debug/sidecarz" => self.of_proxy(query, proxies::class),
            "/debug/force_disconnect" => self.force_disconnect(query),
            "/debug/registryz" => json(self.services()),
            "/debug/endpointz" => json(self.endpoints()),
            "/debug/endpointShardz" => json(self.endpoint_shards()),
            "/debug/instancesz" => json(self.instances()),
            "/debug/configz" => json(json!(self.discovery.snapshot().configs())),
            "/debug/resourcesz" => json(self.resources()),
            "/debug/mesh" => json(json!(**self.discovery.snapshot().mesh())),
            "/debug/networkz" => json(self.networks()),
            "/debug/clusterz" => json((self.platforms)()),
            "/debug/distribution" => self.distribution(query),
            _ => admin::text(StatusCode::NOT_FOUND, "not found; /debug lists the pages\n"),
        }
    }
}

fn list() -> String {
    let width = PAGES.iter().map(|(path, _)| path.len()).max().unwrap_or_default();
    PAGES.iter().map(|(path, purpose)| format!("{path:<width$}  {purpose}\n")).collect()
}

fn ready(readiness: &Readiness) -> Reply {
    let pending = readiness.pending();
    match pending.is_empty() {
        true => admin::text(StatusCode::OK, "ready\n"),
        false => {
            admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join(", ")))
        }
    }
}
