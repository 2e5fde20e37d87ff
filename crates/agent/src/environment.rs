//! What the agent is told about its workload: the environment that injection wrote, and the Pod's labels from the
//! downward API. Names are those of Istio's agent, so that Istio's own injection works too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

/// A workload, as its environment describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// `POD_NAME`.
    pub pod: String,
    /// `POD_NAMESPACE`.
    pub namespace: String,
    /// `SERVICE_ACCOUNT`.
    pub service_account: String,
    /// `INSTANCE_IP`, and the further ones of `INSTANCE_IPS`.
    pub addresses: Vec<IpAddr>,
    /// The Pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The node metadata that `ISTIO_META_*` variables carry, without the prefix. JSON values stay JSON.
    pub metadata: Map<String, Value>,
    /// `PROXY_CONFIG` (Istio's ProxyConfig, `mesh.v1alpha1`).
    pub config: ProxyConfig,
    /// Which program is the data plane: `LATEEN_PROXY_BINARY` names an Envoy; without it our own proxy runs in process.
    pub envoy: Option<PathBuf>,
    /// `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`: the drain ends with the last connection.
    pub exit_on_zero_active_connections: bool,
    /// `ISTIO_KUBE_APP_PROBERS`: what kubelet's probes were before injection rewrote them.
    pub probes: Option<Value>,
}

/// The fields of ProxyConfig that concern the agent, with Istio's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyConfig {
    /// Host and port of the control plane.
    pub discovery_address: String,
    /// Port of the proxy's admin pages on 127.0.0.1.
    pub proxy_admin_port: u16,
    /// Port of the agent's own status pages.
    pub status_port: u16,
    /// Worker threads; `None` for the number that the CPU limit or the machine says.
    pub concurrency: Option<usize>,
    /// How long the proxy lets connections end after it was told to.
    pub drain_duration: Duration,
    /// How long the agent waits for that before it ends the proxy.
    pub termination_drain_duration: Duration,
    /// The whole of it, for the node's metadata.
    pub raw: Value,
}

/// What is wrong with the environment.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// A variable that must be there is not.
    #[error("the variable {0} is not set; the sidecar injector sets it (is this container injected?)")]
    Missing(&'static str),
    /// A variable has a value that means nothing.
    #[error("{name}={value:?}: {reason}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
}

impl Workload {
    /// Reads `variables`, and the labels in `labels_file` (the downward API's format, one `key="value"` a line; `None`
    /// where there is no such file).
    pub fn from_variables(
        variables: &BTreeMap<String, String>,
        labels_file: Option<&str>,
    ) -> Result<Self, EnvironmentError> {
        let get = |name: &'static str| variables.get(name).filter(|value| !value.is_empty());
        let need = |name: &'static str| get(name).cloned().ok_or(EnvironmentError::Missing(name));
        let config = match get("PROXY_CONFIG") {
            Some(text) => parse_json("PROXY_CONFIG", text)?,
            None => Value::Object(Map::new()),
        };
        Ok(Self {
            pod: need("POD_NAME")?,
            namespace: need("POD_NAMESPACE")?,
            service_account: get("SERVICE_ACCOUNT").cloned().unwrap_or_else(|| "default".to_owned()),
            addresses: addresses(&need("INSTANCE_IP")?, get("INSTANCE_IPS"))?,
            labels: labels_file.map(parse_labels).unwrap_or_default(),
            metadata: metadata(variables),
            config: ProxyConfig::parse(config)?,
            envoy: get("LATEEN_PROXY_BINARY").map(PathBuf::from),
            exit_on_zero_active_connections: get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
                .is_some_and(|v| v == "true"),
            probes: get("ISTIO_KUBE_APP_PROBERS")
                .map(|text| parse_json("ISTIO_KUBE_APP_PROBERS", text))
                .transpose()?,
        })
    }

    /// Reads the process's environment and `/etc/istio/pod/labels`. A machine outside of Kubernetes need not say its name
    /// and address.
    pub fn from_process() -> Result<Self, EnvironmentError> {
        let mut variables: BTreeMap<String, String> = std::env::vars().collect();
        let missing = |name: &str| variables.get(name).is_none_or(String::is_empty);
        let found = [
            ("POD_NAME", missing("POD_NAME").then(host_name).flatten()),
            ("INSTANCE_IP", missing("INSTANCE_IP").then(default_address).flatten()),
        ];
        for (name, value) in found {
            variables.extend(value.map(|value| (name.to_owned(), value)));
        }
        let labels = std::fs::read_to_string(Path::new("/etc/istio/pod/labels")).ok();
        Self::from_variables(&variables, labels.as_deref())
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The address that connections to other machines come from. Nothing is sent.
fn default_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then(|| address.to_string())
}

fn addresses(first: &str, all: Option<&String>) -> Result<Vec<IpAddr>, EnvironmentError> {
    let texts = std::iter::once(first).chain(all.into_iter().flat_map(|all| all.split(',')));
    let mut addresses = Vec::new();
    for text in texts.map(str::trim).filter(|text| !text.is_empty()) {
        let address: IpAddr = text.parse().map_err(|_| EnvironmentError::Invalid {
            name: "INSTANCE_IP",
            value: text.to_owned(),
            reason: "is not an IP address".to_owned(),
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// `ISTIO_META_X` becomes `X`; `ISTIO_METAJSON_X` holds an object whose members are merged in (Istio's convention).
fn metadata(variables: &BTreeMap<String, String>) -> Map<String, Value> {
    let mut metadata = Map::new();
    for (name, value) in variables {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), Value::String(value.clone()));
        } else if name.starts_with("ISTIO_METAJSON_")
            && let Ok(Value::Object(members)) = serde_json::from_str(value)
        {
            metadata.extend(members);
        }
    }
    metadata
}

fn parse_json(name: &'static str, text: &str) -> Result<Value, EnvironmentError> {
    serde_json::from_str(text).map_err(|error| EnvironmentError::Invalid {
        name,
        value: text.to_owned(),
        reason: format!("is not JSON: {error}"),
    })
}

/// The downward API's file of labels: `key="value"` with Go's quoting.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let unquoted =
                serde_json::from_str::<String>(value).unwrap_or_else(|_| value.trim_matches('"').to_owned());
            (key.to_owned(), unquoted)
        })
        .collect()
}

impl ProxyConfig {
    fn parse(raw: Value) -> Result<Self, EnvironmentError> {
        let port = |name: &str, default: u16| match &raw[name] {
            Value::Null => Ok(default),
            value => {
                value.as_u64().and_then(|port| u16::try_from(port).ok()).ok_or_else(|| invalid(name, value))
            }
        };
        let duration = |name: &str, default: Duration| match &raw[name] {
            Value::Null => Ok(default),
            value => value.as_str().and_then(parse_duration).ok_or_else(|| invalid(name, value)),
        };
        Ok(Self {
            discovery_address: raw["discoveryAddress"]
                .as_str()
                .unwrap_or("istiod.istio-system.svc:15012")
                .to_owned(),
            proxy_admin_port: port("proxyAdminPort", 15000)?,
            status_port: port("statusPort", 15020)?,
            concurrency: raw["concurrency"].as_u64().filter(|count| *count > 0).map(|count| count as usize),
            drain_duration: duration("drainDuration", Duration::from_secs(45))?,
            termination_drain_duration: duration("terminationDrainDuration", Duration::from_secs(5))?,
            raw,
        })
    }
}

fn invalid(name: &str, value: &Value) -> EnvironmentError {
    EnvironmentError::Invalid {
        name: "PROXY_CONFIG",
        value: value.to_string(),
        reason: format!("is no value for the field {name}"),
    }
}

/// Go's duration syntax as far as ProxyConfig uses it: a sum of numbers with units, `1m30s`, `1.5s`, `300ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" => 1e-6,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(extra: &[(&str, &str)]) -> BTreeMap<String, String> {
        let base = [("POD_NAME", "reviews-v1-abc"), ("POD_NAMESPACE", "shop"), ("INSTANCE_IP", "10.244.0.7")];
        base.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_workload_is_read_from_what_injection_sets() {
        let variables = variables(&[
            ("SERVICE_ACCOUNT", "bookinfo-reviews"),
            ("INSTANCE_IPS", "10.244.0.7,fd00::7"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_METAJSON_ANNOTATIONS", r#"{"prometheus.io/scrape":"true"}"#),
            (
                "PROXY_CONFIG",
                r#"{"discoveryAddress":"d:15012","concurrency":2,"terminationDrainDuration":"1m30s"}"#,
            ),
        ]);
        let labels = "app=\"reviews\"\nnote=\"a \\\"quoted\\\" word\"\n";
        let workload = Workload::from_variables(&variables, Some(labels)).unwrap();
        assert_eq!(workload.service_account, "bookinfo-reviews");
        assert_eq!(workload.addresses, ["10.244.0.7", "fd00::7"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(workload.labels["app"], "reviews");
        assert_eq!(workload.labels["note"], "a \"quoted\" word");
        assert_eq!(workload.metadata["CLUSTER_ID"], "Kubernetes");
        assert_eq!(workload.metadata["prometheus.io/scrape"], "true");
        assert_eq!(workload.config.discovery_address, "d:15012");
        assert_eq!(workload.config.concurrency, Some(2));
        assert_eq!(workload.config.termination_drain_duration, Duration::from_secs(90));
        assert_eq!(workload.config.proxy_admin_port, 15000);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let check = |variables: BTreeMap<String, String>, expect: &str| {
            let error = Workload::from_variables(&variables, None).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} should name {expect}");
        };
        check(BTreeMap::new(), "POD_NAME");
        check(variables(&[("INSTANCE_IP", "here")]), "INSTANCE_IP=\"here\"");
        check(variables(&[("PROXY_CONFIG", "{")]), "PROXY_CONFIG");
        check(variables(&[("PROXY_CONFIG", r#"{"drainDuration":"soon"}"#)]), "drainDuration");
    }

    #[test]
    fn durations_are_written_as_in_go() {
        let check = |text: &str, expect: Option<f64>| {
            assert_eq!(parse_duration(text), expect.map(Duration::from_secs_f64), "{text}");
        };
        check("45s", Some(45.0));
        check("1m30s", Some(90.0));
        check("1.5s", Some(1.5));
        check("300ms", Some(0.3));
        check("", None);
        check("5", None);
        check("5 parsecs", None);
    }
}
