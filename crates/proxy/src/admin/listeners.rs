//! `/listeners`, `/drain_listeners`.

use http::StatusCode;
use lateen_base::admin::{Reply, text};
use serde_json::{Value, json};

use super::clusters::address_json;
use super::{Query, Served, pretty};

impl Served {
    pub(super) fn listeners(&self, query: &Query) -> Reply {
        let listeners = self.state.listeners.load();
        let mut handles: Vec<_> = listeners.by_name.values().collect();
        handles.sort_by(|a, b| a.name.cmp(&b.name));
        if query.get("format").is_some_and(|format| format == "json") {
            let list: Vec<Value> = handles
                .into_iter()
                .map(|handle| {
                    let mut addresses = addresses(handle);
                    let first = if addresses.is_empty() { Value::Null } else { addresses.remove(0).1 };
                    let mut status = json!({"name": *handle.name, "local_address": first});
                    if !addresses.is_empty() {
                        let more: Vec<Value> = addresses.into_iter().map(|(_, address)| address).collect();
                        status["additional_local_addresses"] = more.into();
                    }
                    status
                })
                .collect();
            return pretty(&json!({"listener_statuses": list}));
        }
        let lines = handles.into_iter().flat_map(|handle| {
            addresses(handle).into_iter().map(move |(address, _)| format!("{}::{address}\n", handle.name))
        });
        text(StatusCode::OK, lines.collect::<String>())
    }

    pub(super) fn drain_listeners(&self, query: &Query) -> Reply {
        let inbound_only = query.contains_key("inboundonly");
        let manager = self.admin.manager.lock();
        if query.contains_key("skip_exit") {
            manager.drain_connections(inbound_only);
        } else if query.contains_key("graceful") {
            manager.drain_gracefully(inbound_only);
        } else {
            manager.drain_listeners(inbound_only);
        }
        text(StatusCode::OK, "OK\n")
    }
}

/// Where a listener really is: text and JSON of each address.
fn addresses(handle: &crate::state::ListenerHandle) -> Vec<(String, Value)> {
    use lateen_dataplane::listener::Address;
    let mut bound = handle.bound.iter();
    let configured = &handle.active.load().config.addresses;
    configured
        .iter()
        .map(|address| {
            let real = match (address, bound.next()) {
                (Address::Socket(_), Some(real)) => Address::Socket(*real),
                _ => address.clone(),
            };
            (real.to_string(), address_json(&real))
        })
        .collect()
}
