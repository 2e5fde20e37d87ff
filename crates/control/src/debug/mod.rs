//! Debug pages (ports 8080 and 15014), metrics and version (15014). Paths and forms are istiod's where it has them.

mod access;
mod proxies;
mod serve;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use http::StatusCode;
use lateen_base::admin::{self, Reply};
use lateen_base::readiness::Readiness;
use lateen_registry::{PlatformStatus, Problem};
use lateen_xds::Streams;
use serde_json::{Value, json};

pub(crate) use self::serve::{debug_pages, monitoring_pages, serve};
use crate::callers::Callers;
use crate::discovery::Discovery;
use crate::replicas::Replicas;

/// What the pages show.
pub(crate) struct Debug {
    pub(crate) discovery: Discovery,
    pub(crate) streams: Streams,
    pub(crate) readiness: Readiness,
    pub(crate) platforms: Box<dyn Platforms>,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) callers: Callers,
    pub(crate) root_namespace: String,
    pub(crate) identifier: String,
    /// What injection goes by.
    pub(crate) injection: Value,
}

/// How the platforms fare.
pub(crate) trait Platforms: Send + Sync {
    fn statuses(&self) -> Vec<PlatformStatus>;
    fn problems(&self) -> Vec<Problem>;
}

/// Every page with what it is for; `{}` marks what it must be told.
const PAGES: [(&str, &str); 29] = [
    ("/debug/adsz", "connected proxies, with what they subscribe to and hold"),
    ("/debug/authorizationz", "authorization policies by namespace"),
    ("/debug/cachez?sizes=true", "how much is kept for how many classes of proxies"),
    ("/debug/clusterz", "the platforms and clusters that services come from, and how they fare"),
    (
        "/debug/config_distribution?resource={KIND/NAMESPACE/NAME}",
        "which proxies have acknowledged an object",
    ),
    ("/debug/config_dump?proxyID={}", "all that a proxy should hold, as Envoy's admin page shows it"),
    ("/debug/configz", "configuration objects"),
    ("/debug/connections", "connected proxies, and since when"),
    (
        "/debug/distribution?kind={}&namespace={}&name={}",
        "the same, of all replicas; local=true: of this one",
    ),
    ("/debug/ecdsz?proxyID={}", "a proxy's filters that come by themselves"),
    ("/debug/edsz?proxyID={}", "a proxy's endpoints"),
    ("/debug/endpointShardz", "endpoints by service and by the cluster they come from"),
    ("/debug/endpointz", "endpoints by service and port"),
    ("/debug/force_disconnect?proxyID={}", "cut a proxy's stream; it comes again by itself (POST)"),
    ("/debug/inject", "what injection goes by"),
    ("/debug/instancesz", "what each connected proxy serves"),
    ("/debug/list", "the names of these pages"),
    ("/debug/mesh", "the mesh's settings"),
    ("/debug/ndsz?proxyID={}", "a proxy's table of names"),
    ("/debug/networkz", "the gateways of other networks"),
    ("/debug/problemz", "objects that could not be read, and settings without effect"),
    ("/debug/push_status", "conflicts in the configuration, by metric"),
    ("/debug/pushcontext", "authorization policies and the gateways of networks"),
    ("/debug/registryz", "services"),
    ("/debug/resourcesz", "the kinds that are followed, and how many objects there are"),
    ("/debug/sidecarz?proxyID={}", "the class of a proxy: all that its configuration depends on"),
    ("/debug/syncz", "how far each proxy is with each type of resource"),
    ("/debug/telemetryz", "telemetry settings by namespace"),
    ("/debug/workloadz", "workloads by cluster and namespace"),
];

/// The values of a query.
struct Query<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Query<'a> {
    fn parse(query: Option<&'a str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    /// The value; empty where there is none.
    fn get(&self, key: &str) -> &'a str {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }
}

impl Debug {
    async fn page(&self, path: &str, query: &Query<'_>) -> Reply {
        let json = |value: Value| admin::json(value.to_string());
        match path {
            "/debug" | "/debug/" => index(),
            "/debug/list" => json(list()),
            "/debug/syncz" => json(self.syncz()),
            "/debug/adsz" => self.adsz(query),
            "/debug/connections" => json(self.connections()),
            "/debug/config_dump" => self.config_dump(query),
            "/debug/edsz" => self.of_proxy(query, proxies::endpoints),
            "/debug/ecdsz" => self.of_proxy(query, proxies::extensions),
            "/debug/ndsz" => self.of_proxy(query, proxies::name_table),
            "/debug/sidecarz" => self.of_proxy(query, proxies::class),
            "/debug/force_disconnect" => self.force_disconnect(query),
            "/debug/registryz" => json(self.services()),
            "/debug/endpointz" => self.endpoints(query),
            "/debug/endpointShardz" => json(self.endpoint_shards()),
            "/debug/instancesz" => json(self.instances()),
            "/debug/workloadz" => json(self.workloads()),
            "/debug/configz" => json(self.configs()),
            "/debug/resourcesz" => json(self.resources()),
            "/debug/authorizationz" => json(self.authorization()),
            "/debug/telemetryz" => json(self.telemetry()),
            "/debug/pushcontext" => json(self.push_context()),
            "/debug/push_status" => json(self.discovery.conflicts()),
            "/debug/cachez" => json(self.sizes()),
            "/debug/inject" => json(json!({"config": self.injection.to_string()})),
            "/debug/mesh" => json(json!(**self.discovery.snapshot().mesh())),
            "/debug/networkz" => json(self.networks()),
            "/debug/clusterz" => json(self.clusters()),
            "/debug/problemz" => json(self.problems()),
            "/debug/distribution" | "/debug/config_distribution" => self.distribution(query).await,
            _ => admin::text(StatusCode::NOT_FOUND, "not found; /debug lists the pages\n"),
        }
    }
}

/// The pages for a browser.
fn index() -> Reply {
    let mut text = String::from(
        "<!DOCTYPE html>\n<html><head><title>Lateen: debug pages</title></head><body>\n\
         <p>Append <code>?pretty</code> for readable JSON.</p>\n<table>\n",
    );
    for (path, purpose) in PAGES {
        // Writing into a string does not fail.
        let _ = match path.contains('{') {
            true => writeln!(text, "<tr><td>{path}</td><td>{purpose}</td></tr>"),
            false => writeln!(text, "<tr><td><a href=\"{path}\">{path}</a></td><td>{purpose}</td></tr>"),
        };
    }
    text.push_str("</table>\n</body></html>\n");
    let mut reply = admin::text(StatusCode::OK, text);
    let html = http::HeaderValue::from_static("text/html; charset=UTF-8");
    reply.headers_mut().insert(http::header::CONTENT_TYPE, html);
    reply
}

/// The names of the pages without what they must be told.
fn list() -> Value {
    let names = PAGES.iter().filter_map(|(path, _)| path.strip_prefix("/debug/"));
    names.map(|name| name.split('?').next().unwrap_or(name)).filter(|name| *name != "list").collect()
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
