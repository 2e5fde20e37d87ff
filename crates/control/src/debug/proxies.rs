//! Pages about proxies: who is connected, what they have, what they should have.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
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
        json!({
            "proxy": name(stream, node.as_ref()),
            "cluster_id": node.as_ref().map(|node| node.cluster.to_string()).unwrap_or_default(),
            "proxy_type": stream.node.id.split('~').next(),
            "version": node.as_ref().map(|node| node.version.clone()).unwrap_or_default(),
            "istiod": self.identifier,
            "types": types,
        })
    }

    /// One entry a stream, with its subscriptions.
    pub(super) fn adsz(&self) -> Value {
        let streams = self.streams.snapshot();
        let clients: Vec<Value> = streams
            .iter()
            .map(|stream| {
                let watches: BTreeMap<&str, Value> = stream
                    .types
                    .iter()
                    .map(|(type_url, status)| {
                        let watch = json!({
                            "wildcard": status.wildcard,
                            "names": status.names,
                            "held": status.held,
                            "sentVersion": &*status.sent_version,
                            "ackedVersion": &*status.acked_version,
                            "sentAt": status.sent_at.map(seconds),
                            "ackedAt": status.acked_at.map(seconds),
                            "status": word(status),
                        });
                        (short_type(type_url), watch)
                    })
                    .collect();
                let mut entry = connection(stream);
                entry["watches"] = json!(watches);
                entry
            })
            .collect();
        json!({"totalClients": clients.len(), "clients": clients})
    }

    /// One entry a stream.
    pub(super) fn connections(&self) -> Value {
        self.streams.snapshot().iter().map(connection).collect()
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

    /// How far an object has come: `?kind=VirtualService&namespace=NAMESPACE&name=NAME`.
    pub(super) fn distribution(&self, query: &Query<'_>) -> Reply {
        let Some(kind) = ConfigKind::parse(query.get("kind")) else {
            let kinds: Vec<&str> = ConfigKind::ALL.iter().map(|kind| kind.as_str()).collect();
            let text = format!("kind must be one of {}\n", kinds.join(", "));
            return admin::text(StatusCode::BAD_REQUEST, text);
        };
        let namespace = query.get("namespace").into();
        let reference = ConfigReference { kind, namespace, name: query.get("name").to_owned() };
        match self.discovery.progress(&[reference]).pop().flatten() {
            Some(progress) => admin::json(json!(progress).to_string()),
            None => admin::text(StatusCode::NOT_FOUND, "this control plane knows no such object\n"),
        }
    }
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

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn connection(stream: &StreamStatus) -> Value {
    let node = ProxyNode::from_proto(&stream.node).ok();
    json!({
        "connectionId": stream.id.0,
        "proxy": name(stream, node.as_ref()),
        "node": stream.node.id,
        "address": stream.remote_address.map(|address| address.to_string()),
        "connectedAt": seconds(stream.connected_at),
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

/// In the form of Envoy's `/config_dump` (`envoy.admin.v3.ConfigDump`).
pub(super) fn config_dump(held: &Held) -> Value {
    let wrapped = |type_url: &str, key: &str| -> Vec<Value> {
        resources(held, type_url)
            .into_iter()
            .map(|mut resource| json!({"version_info": resource["version_info"], key: resource["resource"].take()}))
            .collect()
    };
    let listeners: Vec<Value> = wrapped(type_urls::LISTENER, "listener")
        .into_iter()
        .map(|state| json!({"name": state["listener"]["name"], "active_state": state}))
        .collect();
    json!({"configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters": wrapped(type_urls::CLUSTER, "cluster"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "dynamic_listeners": listeners,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": wrapped(type_urls::ROUTE, "route_config"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": wrapped(type_urls::ENDPOINT, "endpoint_config"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump",
            "ecds_filters": wrapped(type_urls::EXTENSION_CONFIG, "ecds_filter"),
        },
    ]})
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
