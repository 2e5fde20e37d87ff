//! Probes go through the agent: the kubelet's own connections would be redirected to the proxy, which asks for mutual
//! TLS where the mesh does.

use serde_json::{Map, Value, json};

use super::{PROXY, array};

/// The agent's port.
const AGENT_PORT: u16 = 15020;

/// Points the application's probes at the agent, and gives the originals by path, in the agent's form
/// (`ISTIO_KUBE_APP_PROBERS`); `None` where there are none.
pub(super) fn rewrite(pod: &mut Value) -> Option<String> {
    let mut originals = Map::new();
    for container in
        array(&mut pod["spec"]["containers"]).iter_mut().filter(|container| container["name"] != PROXY)
    {
        let name = container["name"].as_str().unwrap_or_default().to_owned();
        let ports = container["ports"].clone();
        for (field, page) in
            [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")]
        {
            let Some(probe) = container.get_mut(field).and_then(Value::as_object_mut) else { continue };
            let Some(original) = original(probe, &ports) else { continue };
            let path = format!("/app-health/{name}/{page}");
            for action in ["httpGet", "tcpSocket", "grpc"] {
                probe.remove(action);
            }
            probe.insert("httpGet".to_owned(), json!({"path": path, "port": AGENT_PORT, "scheme": "HTTP"}));
            originals.insert(path, original);
        }
    }
    (!originals.is_empty()).then(|| Value::Object(originals).to_string())
}

/// What the agent must do; `None` for probes that run in the container.
fn original(probe: &Map<String, Value>, ports: &Value) -> Option<Value> {
    let kind = ["httpGet", "tcpSocket", "grpc"].into_iter().find(|kind| probe.contains_key(*kind))?;
    let mut action = probe[kind].clone();
    if action["port"].is_string() {
        let named = ports.as_array()?.iter().find(|port| port["name"] == action["port"])?;
        action["port"] = named["containerPort"].clone();
    }
    let mut original = Map::new();
    original.insert(kind.to_owned(), action);
    if let Some(timeout) = probe.get("timeoutSeconds") {
        original.insert("timeoutSeconds".to_owned(), timeout.clone());
    }
    Some(Value::Object(original))
}
