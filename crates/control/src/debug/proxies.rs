//! Pages about proxies: who is connected, what they have, what they should have.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use lateen_base::admin::{self, Reply};
use lateen_envoy::json::{Redaction, any_to_json};
use lateen_envoy::prost::Message;
use lateen_envoy::{Any, type_urls};
use lateen_model::{ConfigKind, ConfigReference};
use lateen_pilot::ProxyNode;
use lateen_xds::{StreamStatus, SyncState, TypeStatus};
use serde_json::{Value, json};

use super::{Debug, Query};
use crate::discovery::Held;
use crate::metrics::short_type;

/// The types that `syncz` has fields of their own for, and how these begin.
const FLAT: [(&str, &str); 5] = [
    (type_urls::CLUSTER, "cluster"),
    (type_urls::LISTENER, "listener"),
    (type_urls::ROUTE, "route"),
    (type_urls::ENDPOINT, "endpoint"),
    (type_urls::EXTENSION_CONFIG, "extensionconfig"),
];

impl Debug {
    /// One entry a proxy: how far it is with each type.
    pub(super) fn syncz(&self) -> Value {
        self.streams.snapshot().iter().map(|stream| self.sync_of(stream)).collect()
    }

    fn sync_of(&self, stream: &StreamStatus) -> Value {
        let node = ProxyNode::from_proto(&stream.node).ok();
        let types: BTreeMap<&str, Value> = stream
            .types
            .iter()
            .map(|(type_url, status)| {
                let mut entry = json!({
                    "status": word(status),
                    "sent": &*status.sent_nonce,
                    "acked": &*status.acked_nonce,
                });
                if let Some(rejection) = &status.rejection {
                    entry["error"] = json!(rejection.message);
                }
                (short_type(type_url), entry)
            })
            .collect();
        let mut entry = json!({
            "proxy": name(stream, node.as_ref()),
            "cluster_id": node.as_ref().map(|node| node.cluster.to_string()).unwrap_or_default(),
            "proxy_type": stream.node.id.split('~').next(),
            "version": node.as_ref().map(|node| node.version.clone()).unwrap_or_default(),
            "istio_version": node.as_ref().map(|node| node.version.clone()).unwrap_or_default(),
            "istiod": self.identifier,
            "types": types,
        });
        // In istiod's form too, which its tools read.
        for (type_url, word) in FLAT {
            let Some(status) = stream.types.get(type_url) else { continue };
            for (suffix, nonce) in [("sent", &status.sent_nonce), ("acked", &status.acked_nonce)] {
                if !nonce.is_empty() {
                    entry[format!("{word}_{suffix}")] = json!(&**nonce);
                }
            }
        }
        entry
    }

    /// One entry a stream, with its subscriptions; of one proxy with `?proxyID=`.
    pub(super) fn adsz(&self, query: &Query<'_>) -> Reply {
        let wanted = query.get("proxyID");
        let mut clients: Vec<Value> = Vec::new();
        for stream in self.streams.snapshot().iter().filter(|stream| is_of(stream, wanted)) {
            let watches: BTreeMap<&str, &_> =
                stream.types.iter().map(|(type_url, status)| (&**type_url, &status.names)).collect();
            let details: BTreeMap<&str, Value> = stream
                .types
                .iter()
                .map(|(type_url, status)| (short_type(type_url), details(status)))
                .collect();
            let mut entry = connection(stream);
            let metadata = stream.node.metadata.clone().map(serde_json::Map::from).unwrap_or_default();
            entry["labels"] = metadata.get("LABELS").cloned().unwrap_or_else(|| json!({}));
            entry["metadata"] = json!(metadata);
            entry["watches"] = json!(watches);
            entry["types"] = json!(details);
            clients.push(entry);
        }
        if clients.is_empty() && !wanted.is_empty() {
            return unknown(wanted);
        }
        admin::json(json!({"totalClients": clients.len(), "clients": clients}).to_string())
    }

    /// One entry a stream.
    pub(super) fn connections(&self) -> Value {
        let clients: Vec<Value> = self.streams.snapshot().iter().map(connection).collect();
        json!({"totalClients": clients.len(), "clients": clients})
    }

    /// What a proxy should hold; endpoints with `include_eds=true` or where nothing is said, the types in
    /// `types=LDS,RDS` alone where some are named.
    pub(super) fn config_dump(&self, query: &Query<'_>) -> Reply {
        let types: Vec<String> = query
            .get("types")
            .split(',')
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_uppercase)
            .collect();
        let known = DUMPED.map(|(short, _)| short);
        if let Some(wrong) = types.iter().find(|word| !known.contains(&word.as_str())) {
            let text = format!("{wrong:?} is none of {}\n", known.join(", "));
            return admin::text(StatusCode::BAD_REQUEST, text);
        }
        let endpoints = query.get("include_eds") != "false";
        self.of_proxy(query, |held| config_dump(held, &types, endpoints))
    }

    /// A page about one proxy, `?proxyID=POD.NAMESPACE`.
    pub(super) fn of_proxy(&self, query: &Query<'_>, page: impl Fn(&Held) -> Value) -> Reply {
        let proxy = query.get("proxyID");
        if proxy.is_empty() {
            return admin::text(StatusCode::BAD_REQUEST, "say which proxy: ?proxyID=POD.NAMESPACE\n");
        }
        match self.discovery.held_by(proxy) {
            Some(held) => admin::json(page(&held).to_string()),
            None => unknown(proxy),
        }
    }

    /// Ends the streams of a proxy, `?proxyID=POD.NAMESPACE`.
    pub(super) fn force_disconnect(&self, query: &Query<'_>) -> Reply {
        let proxy = query.get("proxyID");
        match self.discovery.disconnect(proxy) {
            0 => unknown(proxy),
            streams => admin::text(StatusCode::OK, format!("streams ended: {streams}\n")),
        }
    }

    /// How far an object has come: `?kind=VirtualService&namespace=NAMESPACE&name=NAME`, or
    /// `?resource=VirtualService/NAMESPACE/NAME`.
    pub(super) async fn distribution(&self, query: &Query<'_>) -> Reply {
        let mut parts = query.get("resource").splitn(3, '/');
        let mut part = |key: &str| match query.has("resource") {
            true => parts.next().unwrap_or_default().to_owned(),
            false => query.get(key).to_owned(),
        };
        let (kind, namespace, name) = (part("kind"), part("namespace"), part("name"));
        let Some(kind) = ConfigKind::parse(&kind) else {
            let kinds: Vec<&str> = ConfigKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let text = format!("kind must be one of {}\n", kinds.join(", "));
            return admin::text(StatusCode::BAD_REQUEST, text);
        };
        let objects = [ConfigReference { kind, namespace: namespace.as_str().into(), name }];
        let mut progress = match query.get("local") == "true" {
            true => self.discovery.progress(&objects),
            false => self.replicas.ask(&objects).await.progress,
        };
        match progress.pop().flatten() {
            Some(progress) => admin::json(json!(progress).to_string()),
            None => admin::text(StatusCode::NOT_FOUND, "this control plane knows no such object\n"),
        }
    }
}

/// The types of a dump, and how their parts are called in it.
const DUMPED: [(&str, &str); 5] =
    [("CDS", "Clusters"), ("LDS", "Listeners"), ("RDS", "Routes"), ("EDS", "Endpoints"), ("ECDS", "Ecds")];

fn is_of(stream: &StreamStatus, wanted: &str) -> bool {
    wanted.is_empty() || name(stream, ProxyNode::from_proto(&stream.node).ok().as_ref()) == wanted
}

fn details(status: &TypeStatus) -> Value {
    json!({
        "wildcard": status.wildcard,
        "held": status.held,
        "sentVersion": &*status.sent_version,
        "ackedVersion": &*status.acked_version,
        "sentAt": status.sent_at.map(time),
        "ackedAt": status.acked_at.map(time),
        "status": word(status),
    })
}

fn unknown(proxy: &str) -> Reply {
    admin::text(
        StatusCode::NOT_FOUND,
        format!("no proxy {proxy:?} is connected here; /debug/connections lists those that are\n"),
    )
}

fn name(stream: &StreamStatus, node: Option<&ProxyNode>) -> String {
    node.map_or_else(|| stream.node.id.clone(), |node| format!("{}.{}", node.name, node.namespace))
}

fn word(status: &TypeStatus) -> &'static str {
    match status.state() {
        SyncState::Synced => "SYNCED",
        SyncState::Stale => "STALE",
        SyncState::Rejected => "ERROR",
        SyncState::NotSent => "NOT SENT",
    }
}

/// As Go writes times (RFC 3339).
fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

fn connection(stream: &StreamStatus) -> Value {
    let node = ProxyNode::from_proto(&stream.node).ok();
    json!({
        "connectionId": format!("{}-{}", stream.node.id, stream.id.0),
        "proxy": name(stream, node.as_ref()),
        "node": stream.node.id,
        "address": stream.remote_address.map(|address| address.to_string()),
        "connectedAt": time(stream.connected_at),
        "protocol": format!("{:?}", stream.protocol).to_lowercase(),
    })
}

/// What a proxy should hold of a type, as JSON, in the order of names.
fn resources(held: &Held, type_url: &str) -> Vec<Value> {
    let encoded = held.view.list(type_url);
    let any = encoded.filter_map(|encoded| Some((Any::decode(encoded.bytes.clone()).ok()?, encoded)));
    any.map(|(any, encoded)| {
        json!({"version_info": &*encoded.version, "resource": any_to_json(&any, Redaction::Sensitive)})
    })
    .collect()
}

/// In the form of Envoy's `/config_dump` (`envoy.admin.v3.ConfigDump`): all `types`, or those that are named.
fn config_dump(held: &Held, types: &[String], endpoints: bool) -> Value {
    let wrapped = |type_url: &str, key: &str| -> Vec<Value> {
        resources(held, type_url)
            .into_iter()
            .map(|mut resource| json!({"version_info": resource["version_info"], key: resource["resource"].take()}))
            .collect()
    };
    let wanted = |short: &str| match types {
        [] => short != "EDS" || endpoints,
        named => named.iter().any(|word| word == short),
    };
    let dumped = DUMPED.into_iter().filter(|(short, _)| wanted(short)).map(|(short, word)| {
        let kind = format!("type.googleapis.com/envoy.admin.v3.{word}ConfigDump");
        match short {
            "CDS" => json!({"@type": kind, "dynamic_active_clusters": wrapped(type_urls::CLUSTER, "cluster")}),
            "LDS" => {
                let listeners: Vec<Value> = wrapped(type_urls::LISTENER, "listener")
                    .into_iter()
                    .map(|state| json!({"name": state["listener"]["name"], "active_state": state}))
                    .collect();
                json!({"@type": kind, "dynamic_listeners": listeners})
            }
            "RDS" => json!({"@type": kind, "dynamic_route_configs": wrapped(type_urls::ROUTE, "route_config")}),
            "EDS" => {
                json!({"@type": kind, "dynamic_endpoint_configs": wrapped(type_urls::ENDPOINT, "endpoint_config")})
            }
            _ => json!({"@type": kind, "ecds_filters": wrapped(type_urls::EXTENSION_CONFIG, "ecds_filter")}),
        }
    });
    json!({"configs": dumped.collect::<Vec<_>>()})
}

/// Endpoints alone.
pub(super) fn endpoints(held: &Held) -> Value {
    resources(held, type_urls::ENDPOINT).into()
}

/// Filters that come by themselves.
pub(super) fn extensions(held: &Held) -> Value {
    resources(held, type_urls::EXTENSION_CONFIG).into()
}

/// The table of names.
pub(super) fn name_table(held: &Held) -> Value {
    resources(held, type_urls::NAME_TABLE).into()
}

/// The class.
pub(super) fn class(held: &Held) -> Value {
    json!(*held.class)
}
