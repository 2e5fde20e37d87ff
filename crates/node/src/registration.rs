//! The Node object with its Lease, and the Service of the cluster's DNS.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use lateen_base::backoff::Backoff;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::status_code;

const LEASES: &str = "kube-node-lease";
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Registers the node and renews its Lease, forever.
pub(crate) async fn keep(client: Client, name: String, address: String, dns: String) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    while let Err(error) = register(&client, &name, &address, &dns).await {
        tracing::debug!(%error, "the node is not registered yet");
        tokio::time::sleep(backoff.next_delay()).await;
    }
    tracing::info!(node = name, "registered");
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let now = Timestamp::now();
        let patch = json!({"spec": {"renewTime": format!("{now:.6}")}});
        let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
        match leases.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if status_code(&error) == Some(404) => {
                let _ = register(&client, &name, &address, &dns).await;
            }
            Err(error) => tracing::debug!(%error, "heartbeat"),
            Ok(_) => {}
        }
    }
}

async fn register(client: &Client, name: &str, address: &str, dns: &str) -> Result<(), kube::Error> {
    let now = Timestamp::now();
    let nodes: Api<Node> = Api::all(client.clone());
    ensure(&nodes, name, node(name)).await?;
    let status = json!({"status": status(name, address, now)});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    for namespace in [LEASES, "kube-system"] {
        ensure(&namespaces, namespace, json!({"metadata": {"name": namespace}})).await?;
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASES);
    let lease = json!({
        "metadata": {"name": name, "namespace": LEASES},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
    });
    ensure(&leases, name, lease).await?;
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    ensure(&services, "kube-dns", dns_service(dns)).await
}

/// Creates an object unless it exists.
async fn ensure<K>(api: &Api<K>, name: &str, object: Value) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    if api.get_opt(name).await?.is_some() {
        return Ok(());
    }
    let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &object).await {
        Err(error) if status_code(&error) != Some(409) => Err(error),
        _ => Ok(()),
    }
}

fn node(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": architecture(),
                "topology.kubernetes.io/region": "local",
                "topology.kubernetes.io/zone": "local",
                "node-role.kubernetes.io/control-plane": "",
            },
        },
        "spec": {"podCIDR": "10.244.0.0/16", "podCIDRs": ["10.244.0.0/16"]},
    })
}

fn status(name: &str, address: &str, now: Timestamp) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let resources =
        json!({"cpu": cpus.to_string(), "memory": format!("{}Ki", memory.unwrap_or("0")), "pods": "500"});
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": reason,
            "lastHeartbeatTime": now.to_string(), "lastTransitionTime": now.to_string()})
    };
    json!({
        "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            condition("Ready", "True", "NodeReady"),
            condition("MemoryPressure", "False", "NotMeasured"),
            condition("DiskPressure", "False", "NotMeasured"),
            condition("PIDPressure", "False", "NotMeasured"),
        ],
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": "",
            // Of this start of the node, not of the machine.
            "bootID": format!("{:032x}", rand::random::<u128>()),
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os_image(),
            "containerRuntimeVersion": format!("lateen://{}", lateen_base::VERSION),
            "kubeletVersion": format!("v{}", lateen_base::VERSION),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        },
    })
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The node answers this address itself; the Service is for those who look the cluster's DNS up.
fn dns_service(address: &str) -> Value {
    json!({
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": address,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
