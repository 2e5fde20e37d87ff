//! The containers and volumes that the mesh adds.

use serde_json::{Value, json};

use super::{INIT, PROXY, Settings, Workload, array, text};

/// What the templates are filled in from.
pub(super) struct Context<'a> {
    /// The Pod as it came.
    pub(super) pod: Value,
    pub(super) settings: &'a Settings,
    pub(super) workload: &'a Workload,
}

impl Context<'_> {
    fn annotation(&self, key: &str) -> Option<&str> {
        text(&self.pod["metadata"]["annotations"][key])
    }

    fn image(&self) -> &str {
        self.annotation("sidecar.istio.io/proxyImage").unwrap_or(&self.settings.image)
    }

    fn traffic(&self, name: &str) -> Option<&str> {
        self.annotation(&format!("traffic.sidecar.istio.io/{name}"))
    }

    /// What the annotations ask for; nothing where they ask for nothing.
    fn resources(&self) -> Value {
        let mut resources = json!({});
        for (annotation, part, resource) in [
            ("proxyCPU", "requests", "cpu"),
            ("proxyMemory", "requests", "memory"),
            ("proxyCPULimit", "limits", "cpu"),
            ("proxyMemoryLimit", "limits", "memory"),
        ] {
            if let Some(amount) = self.annotation(&format!("sidecar.istio.io/{annotation}")) {
                resources[part][resource] = amount.into();
            }
        }
        resources
    }
}

/// The container that redirects the Pod's traffic. It is root for just that.
pub(super) fn init(context: &Context<'_>) -> Value {
    let exclude_inbound = match context.traffic("excludeInboundPorts") {
        Some(more) if !more.is_empty() => format!("15090,15021,15020,{more}"),
        _ => "15090,15021,15020".to_owned(),
    };
    let mut arguments: Vec<String> = [
        ("-p", "15001"),
        ("-z", "15006"),
        ("-u", "1337"),
        ("-m", context.annotation("sidecar.istio.io/interceptionMode").unwrap_or("REDIRECT")),
        ("-i", context.traffic("includeOutboundIPRanges").unwrap_or("*")),
        ("-x", context.traffic("excludeOutboundIPRanges").unwrap_or("")),
        ("-b", context.traffic("includeInboundPorts").unwrap_or("*")),
        ("-d", &exclude_inbound),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
    .collect();
    arguments.insert(0, "istio-iptables".to_owned());
    for (flag, name) in
        [("-q", "includeOutboundPorts"), ("-o", "excludeOutboundPorts"), ("-c", "excludeInterfaces")]
    {
        if let Some(value) = context.traffic(name).filter(|value| !value.is_empty()) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    json!({
        "name": INIT,
        "image": context.image(),
        "args": arguments,
        "resources": context.resources(),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": false,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

/// The native sidecar: started before the application, ended after it.
pub(super) fn sidecar(context: &Context<'_>) -> Value {
    let mut container = proxy(context, "sidecar");
    container["restartPolicy"] = "Always".into();
    container["startupProbe"] = json!({
        "httpGet": {"path": "/healthz/ready", "port": 15021},
        "periodSeconds": 1,
        "timeoutSeconds": 3,
        "failureThreshold": 600,
    });
    // The mark by which the proxy's own connections are known needs NET_RAW where uid 1337 does not exist.
    container["securityContext"] = security_context(json!({"add": ["NET_RAW"], "drop": ["ALL"]}));
    container
}

/// A gateway's only container.
pub(super) fn gateway(context: &Context<'_>) -> Value {
    let mut container = proxy(context, "router");
    container["securityContext"] = security_context(json!({"drop": ["ALL"]}));
    container
}

/// The proxy's user, and no more rights than `capabilities`.
fn security_context(capabilities: Value) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": capabilities,
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": 1337,
        "runAsNonRoot": true,
        "runAsUser": 1337,
    })
}

fn proxy(context: &Context<'_>, role: &str) -> Value {
    json!({
        "name": PROXY,
        "image": context.image(),
        "args": [
            "proxy", role, "--domain", "$(POD_NAMESPACE).svc.cluster.local",
            "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info",
        ],
        "env": environment(context),
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": 15,
            "timeoutSeconds": 3,
            "failureThreshold": 4,
        },
        "resources": context.resources(),
        "volumeMounts": [
            {"mountPath": "/var/run/secrets/workload-spiffe-uds", "name": "workload-socket"},
            {"mountPath": "/var/run/secrets/istio", "name": "istiod-ca-cert"},
            {"mountPath": "/var/lib/istio/data", "name": "istio-data"},
            {"mountPath": "/etc/istio/proxy", "name": "istio-envoy"},
            {"mountPath": "/var/run/secrets/tokens", "name": "istio-token"},
            {"mountPath": "/etc/istio/pod", "name": "istio-podinfo"},
        ],
    })
}

fn environment(context: &Context<'_>) -> Vec<Value> {
    let settings = context.settings;
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let containers = context.pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let application: Vec<&Value> = containers.iter().filter(|container| container["name"] != PROXY).collect();
    let names: Vec<&str> = application.iter().filter_map(|container| text(&container["name"])).collect();
    let ports: Vec<&Value> =
        application.iter().filter_map(|container| container["ports"].as_array()).flatten().collect();
    let own_config = context.annotation("proxy.istio.io/config").filter(|config| !config.trim().is_empty());
    let config = own_config.map_or_else(|| settings.proxy_config.to_string(), str::to_owned);
    let mut environment = vec![
        plain("PILOT_CERT_PROVIDER", "istiod"),
        plain("CA_ADDR", &settings.discovery_address),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("INSTANCE_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        plain("PROXY_CONFIG", &config),
        plain("ISTIO_META_POD_PORTS", &json!(ports).to_string()),
        plain("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        plain("ISTIO_META_CLUSTER_ID", &settings.cluster_id),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        plain(
            "ISTIO_META_INTERCEPTION_MODE",
            context.annotation("sidecar.istio.io/interceptionMode").unwrap_or("REDIRECT"),
        ),
        plain("ISTIO_META_WORKLOAD_NAME", &context.workload.name),
        plain("ISTIO_META_OWNER", &context.workload.owner),
        plain("ISTIO_META_MESH_ID", &settings.mesh_id),
        plain("TRUST_DOMAIN", &settings.trust_domain),
    ];
    if !settings.network.is_empty() {
        environment.push(plain("ISTIO_META_NETWORK", &settings.network));
    }
    if let Some(binary) = &settings.proxy_binary {
        environment.push(plain("LATEEN_PROXY_BINARY", binary));
    }
    environment.extend(settings.extra_environment.iter().map(|(name, value)| plain(name, value)));
    environment
}

/// Adds a variable to a container.
pub(super) fn set_variable(container: &mut Value, name: &str, value: &str) {
    array(&mut container["env"]).push(json!({"name": name, "value": value}));
}

/// The volumes that the proxy's mounts name.
pub(super) fn volumes() -> Vec<Value> {
    vec![
        json!({"name": "workload-socket", "emptyDir": {}}),
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "annotations", "fieldRef": {"fieldPath": "metadata.annotations"}},
        ]}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
        }}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
    ]
}
