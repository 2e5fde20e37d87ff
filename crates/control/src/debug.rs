//! Debug pages (port 8080), metrics and version (port 15014). Paths are istiod's.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, StatusCode};
use lateen_base::admin::{self, Handler};
use lateen_base::readiness::Readiness;
use lateen_model::{ConfigKind, ConfigReference};
use lateen_pilot::ProxyNode;
use lateen_xds::{StreamStatus, Streams, SyncState};
use serde_json::{Value, json};

use crate::discovery::Discovery;
use crate::metrics::{Metrics, short_type};

/// What the pages show.
pub(crate) struct Debug {
    pub(crate) discovery: Discovery,
    pub(crate) streams: Streams,
    pub(crate) readiness: Readiness,
    pub(crate) identifier: String,
}

/// The pages of port 8080.
pub(crate) fn debug_pages(debug: Arc<Debug>) -> Handler {
    Arc::new(move |request| {
        let debug = Arc::clone(&debug);
        Box::pin(async move {
            if request.method() != Method::GET {
                return admin::text(StatusCode::METHOD_NOT_ALLOWED, "these pages are only read\n");
            }
            match request.uri().path() {
                "/ready" => ready(&debug.readiness),
                "/debug/syncz" => admin::json(debug.syncz().to_string()),
                "/debug/registryz" => admin::json(debug.services().to_string()),
                "/debug/endpointz" => admin::json(debug.endpoints().to_string()),
                "/debug/distribution" => debug.distribution(request.uri().query().unwrap_or_default()),
                "/debug/configz" => admin::json(json!(debug.discovery.snapshot().configs()).to_string()),
                "/debug" | "/debug/list" => admin::text(
                    StatusCode::OK,
                    "/debug/configz\n/debug/distribution?kind=KIND&namespace=NAMESPACE&name=NAME\n/debug/endpointz\n/debug/registryz\n/debug/syncz\n/ready\n",
                ),
                _ => admin::text(StatusCode::NOT_FOUND, "not found; /debug lists the pages\n"),
            }
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

fn ready(readiness: &Readiness) -> admin::Reply {
    let pending = readiness.pending();
    match pending.is_empty() {
        true => admin::text(StatusCode::OK, "ready\n"),
        false => {
            admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join(", ")))
        }
    }
}

impl Debug {
    /// How far an object has come: `?kind=VirtualService&namespace=NAMESPACE&name=NAME`.
    fn distribution(&self, query: &str) -> admin::Reply {
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let value = |key: &str| query.get(key).copied().unwrap_or_default();
        let Some(kind) = ConfigKind::parse(value("kind")) else {
            let kinds: Vec<&str> = ConfigKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let text = format!("kind must be one of {}\n", kinds.join(", "));
            return admin::text(StatusCode::BAD_REQUEST, text);
        };
        let reference =
            ConfigReference { kind, namespace: value("namespace").into(), name: value("name").to_owned() };
        match self.discovery.progress(&[reference]).pop().flatten() {
            Some(progress) => admin::json(json!(progress).to_string()),
            None => admin::text(StatusCode::NOT_FOUND, "this control plane knows no such object\n"),
        }
    }

    /// One entry a proxy: how far it is with each type.
    fn syncz(&self) -> Value {
        self.streams.snapshot().iter().map(|stream| self.sync_of(stream)).collect()
    }

    fn sync_of(&self, stream: &StreamStatus) -> Value {
        let node = ProxyNode::from_proto(&stream.node).ok();
        let types: BTreeMap<&str, Value> = stream
            .types
            .iter()
            .map(|(type_url, status)| {
                let word = match status.state() {
                    SyncState::Synced => "SYNCED",
                    SyncState::Stale => "STALE",
                    SyncState::Rejected => "ERROR",
                    SyncState::NotSent => "NOT SENT",
                };
                let mut entry =
                    json!({"status": word, "sent": &*status.sent_nonce, "acked": &*status.acked_nonce});
                if let Some(rejection) = &status.rejection {
                    entry["error"] = json!(rejection.message);
                }
                (short_type(type_url), entry)
            })
            .collect();
        json!({
            "proxy": node.as_ref().map_or_else(|| stream.node.id.clone(), |node| format!("{}.{}", node.name, node.namespace)),
            "cluster_id": node.as_ref().map(|node| node.cluster.to_string()).unwrap_or_default(),
            "proxy_type": stream.node.id.split('~').next(),
            "version": node.as_ref().map(|node| node.version.clone()).unwrap_or_default(),
            "istiod": self.identifier,
            "types": types,
        })
    }

    fn services(&self) -> Value {
        self.discovery.snapshot().services().map(|service| json!(**service)).collect()
    }

    fn endpoints(&self) -> Value {
        self.discovery.snapshot().endpoint_sets().map(|set| json!(**set)).collect()
    }
}
