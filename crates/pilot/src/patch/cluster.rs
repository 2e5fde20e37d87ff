//! Patches of clusters.

use lateen_api::networking::{ClusterMatch, PatchContext, PatchOperation};
use lateen_envoy::merge::Lists;
use lateen_envoy::type_urls;

use super::edit::{merge_into, merge_socket, merging};
use super::{Patch, Value, decoded};
use crate::Role;
use crate::cluster::INBOUND_PASSTHROUGH;
use crate::encoded::Encoded;
use crate::proto::{self, cluster};
use lateen_api::networking::EnvoyFilterApplyTo as ApplyTo;

/// The parts of a cluster's name.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    inbound: bool,
    port: u32,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Name<'a> {
    /// Takes `outbound|80|v1|host`, `outbound_.80_.v1_.host` or `inbound|80||` apart; other names have no parts.
    fn parse(name: &'a str) -> Self {
        let separator = if name.contains('|') { "|" } else { "_." };
        let mut parts = name.splitn(4, separator);
        let inbound = parts.next().unwrap_or_default() == "inbound" || name == INBOUND_PASSTHROUGH;
        let port = parts.next().and_then(|port| port.parse().ok()).unwrap_or_default();
        let subset = parts.next().unwrap_or_default();
        Self { inbound, port, subset, host: parts.next().unwrap_or_default() }
    }

    fn context(&self, role: Role) -> PatchContext {
        match (role, self.inbound) {
            (Role::Gateway, _) => PatchContext::Gateway,
            (Role::Sidecar | Role::Proxyless, true) => PatchContext::SidecarInbound,
            (Role::Sidecar | Role::Proxyless, false) => PatchContext::SidecarOutbound,
        }
    }
}

pub(super) fn may_touch(patch: &Patch, role: Role, name: &str) -> bool {
    if patch.apply_to() != ApplyTo::Cluster || patch.operation() == PatchOperation::Add {
        return false;
    }
    let parts = Name::parse(name);
    if !patch.is_for(parts.context(role)) {
        return false;
    }
    let condition = patch.condition().and_then(|condition| condition.cluster.as_ref());
    condition.is_none_or(|condition| matches(condition, name, &parts, None))
}

/// Inbound clusters have no host in their names; `hosts` are those of their services, `None` as long as nobody knows.
fn matches(condition: &ClusterMatch, name: &str, parts: &Name<'_>, hosts: Option<&[String]>) -> bool {
    if !condition.name.is_empty() {
        return condition.name == name;
    }
    let service = condition.service.is_empty()
        || condition.service == parts.host
        || (parts.inbound && hosts.is_none_or(|hosts| hosts.contains(&condition.service)));
    service
        && (condition.subset.is_empty() || condition.subset == parts.subset)
        && (condition.port_number == 0 || condition.port_number == parts.port)
}

pub(super) fn patched(plain: &Encoded, patches: &[&Patch]) -> Option<Encoded> {
    let Some(mut message) = decoded::<cluster::Cluster>(plain) else { return Some(plain.clone()) };
    let hosts = hosts(&message);
    for patch in patches {
        let condition = patch.condition().and_then(|condition| condition.cluster.as_ref());
        let fits = condition
            .is_none_or(|condition| matches(condition, &plain.name, &Name::parse(&plain.name), Some(&hosts)));
        if !fits {
            continue;
        }
        if patch.operation() == PatchOperation::Remove {
            return None;
        }
        if let (Some(lists), Value::Cluster(value)) = (merging(patch.operation()), &patch.value) {
            merge(&mut message, value, lists);
            let metadata = message.metadata.get_or_insert_default();
            proto::note_sources(metadata, [patch.source()]);
        }
    }
    Some(Encoded::resource(type_urls::CLUSTER, message.name.as_str(), &message))
}

/// The transport socket is merged by itself: into the one of its name, which may be one of several, else it takes the
/// place of the only one. A socket beside several that endpoints are matched to would count for none of them.
fn merge(message: &mut cluster::Cluster, value: &cluster::Cluster, lists: Lists) {
    let Some(socket) = &value.transport_socket else { return merge_into(message, value, lists) };
    let rest = cluster::Cluster { transport_socket: None, ..value.clone() };
    merge_into(message, &rest, lists);
    if !message.transport_socket_matches.is_empty() {
        let sockets =
            message.transport_socket_matches.iter_mut().filter_map(|one| one.transport_socket.as_mut());
        for present in sockets {
            if merge_socket(present, socket, lists) {
                break;
            }
        }
        return;
    }
    let merged =
        message.transport_socket.as_mut().is_some_and(|present| merge_socket(present, socket, lists));
    if !merged {
        message.transport_socket = Some(socket.clone());
    }
}

/// The hosts of the services that a cluster's metadata names.
fn hosts(message: &cluster::Cluster) -> Vec<String> {
    let istio = message.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get("istio"));
    let fields: serde_json::Map<_, _> = istio.cloned().unwrap_or_default().into();
    let services = fields.get("services").and_then(|services| services.as_array());
    let host = |service: &serde_json::Value| service["host"].as_str().map(str::to_owned);
    services.into_iter().flatten().filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, inbound, port, subset, host) in [
            ("outbound|80|v1|a.b", false, 80, "v1", "a.b"),
            ("outbound_.80_.v1_.a.b", false, 80, "v1", "a.b"),
            ("inbound|80||", true, 80, "", ""),
            ("InboundPassthroughCluster", true, 0, "", ""),
            ("BlackHoleCluster", false, 0, "", ""),
        ] {
            assert_eq!(Name::parse(name), Name { inbound, port, subset, host }, "{name}");
        }
    }
}
