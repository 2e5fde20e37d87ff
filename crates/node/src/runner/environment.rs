//! A container's environment, as a pure function of the Pod and what it refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};

/// What an environment may refer to.
pub trait Sources {
    /// A ConfigMap of the Pod's namespace.
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>>;
    /// A Secret of the Pod's namespace.
    fn secret(&self, name: &str) -> Option<Arc<Secret>>;
    /// The Services of the Pod's namespace.
    fn services(&self) -> Vec<Arc<Service>>;
}

/// Facts about the Pod that its object may not show yet.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    /// The Pod's address.
    pub ip: String,
    /// The node's address.
    pub host_ip: String,
}

/// The environment of `container`: PATH and HOME, the Services, `envFrom`, then `env`, with `$(NAME)` filled in. The
/// error is the message of the waiting reason `CreateContainerConfigError`.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    sources: &impl Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut all = Variables::default();
    all.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    all.set("HOME", "/root");
    all.set("HOSTNAME", &super::hostname(pod));
    services(pod, sources, &mut all);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in env_from(source, sources)? {
            all.set(&format!("{prefix}{key}"), &value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (None, Some(from)) => match value_from(pod, container, facts, from, sources)? {
                Some(value) => value,
                None => continue,
            },
            (value, _) => expand(value.as_deref().unwrap_or_default(), |name| all.get(name)),
        };
        all.set(&variable.name, &value);
    }
    Ok(all.0)
}

/// Fills `$(NAME)` in; `$$(NAME)` stands for itself, and so does a name that is unknown.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        result.push_str(&rest[..position]);
        let tail = &rest[position + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
            rest = tail;
        }
    }
    result.push_str(rest);
    result
}

#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some(entry) => value.clone_into(&mut entry.1),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `NAME_SERVICE_HOST` and the like (Kubernetes' documentation page "Service", environment variables).
fn services(pod: &Pod, sources: &impl Sources, all: &mut Variables) {
    all.set("KUBERNETES_SERVICE_HOST", "10.96.0.1");
    all.set("KUBERNETES_SERVICE_PORT", "443");
    all.set("KUBERNETES_SERVICE_PORT_HTTPS", "443");
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links) == Some(false) {
        return;
    }
    let mut services = sources.services();
    services.sort_by_key(|service| service.metadata.name.clone());
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let Some(first) = spec.ports.iter().flatten().next() else { continue };
        let upper = |text: &str| text.to_uppercase().replace('-', "_");
        let name = upper(service.metadata.name.as_deref().unwrap_or_default());
        all.set(&format!("{name}_SERVICE_HOST"), ip);
        all.set(&format!("{name}_SERVICE_PORT"), &first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(port_name) = &port.name {
                all.set(&format!("{name}_SERVICE_PORT_{}", upper(port_name)), &port.port.to_string());
            }
        }
    }
}

fn env_from(
    source: &k8s_openapi::api::core::v1::EnvFromSource,
    sources: &impl Sources,
) -> Result<BTreeMap<String, String>, String> {
    if let Some(reference) = &source.config_map_ref {
        return match sources.config_map(&reference.name) {
            Some(map) => Ok(map.data.clone().unwrap_or_default()),
            None if reference.optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(format!("configmap \"{}\" not found", reference.name)),
        };
    }
    if let Some(reference) = &source.secret_ref {
        return match sources.secret(&reference.name) {
            Some(secret) => {
                let data = secret.data.iter().flatten();
                Ok(data
                    .map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
                    .collect())
            }
            None if reference.optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(format!("secret \"{}\" not found", reference.name)),
        };
    }
    Ok(BTreeMap::new())
}

/// `None` where an optional source has no value.
fn value_from(
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    from: &k8s_openapi::api::core::v1::EnvVarSource,
    sources: &impl Sources,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return pod_field(pod, facts, &field.field_path).map(Some).ok_or_else(|| {
            format!("fieldRef {}: not a field that a container may ask for", field.field_path)
        });
    }
    if let Some(resource) = &from.resource_field_ref {
        let container = match &resource.container_name {
            Some(name) => {
                find_container(pod, name).ok_or_else(|| format!("container \"{name}\" not found"))?
            }
            None => container,
        };
        let divisor = resource.divisor.as_ref().map(|divisor| divisor.0.as_str());
        return Ok(Some(resource_field(container, &resource.resource, divisor)));
    }
    if let Some(key) = &from.config_map_key_ref {
        let map = sources.config_map(&key.name);
        let value = map.as_ref().and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return found(value, key.optional, || match map {
            Some(_) => format!("couldn't find key {} in ConfigMap {}", key.key, key.name),
            None => format!("configmap \"{}\" not found", key.name),
        });
    }
    if let Some(key) = &from.secret_key_ref {
        let secret = sources.secret(&key.name);
        let value = secret.as_ref().and_then(|secret| secret.data.as_ref()?.get(&key.key).cloned());
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return found(value, key.optional, || match secret {
            Some(_) => format!("couldn't find key {} in Secret {}", key.key, key.name),
            None => format!("secret \"{}\" not found", key.name),
        });
    }
    Ok(None)
}

fn found(
    value: Option<String>,
    optional: Option<bool>,
    missing: impl FnOnce() -> String,
) -> Result<Option<String>, String> {
    match value {
        None if optional != Some(true) => Err(missing()),
        value => Ok(value),
    }
}

/// A field of the downward API.
pub fn pod_field(pod: &Pod, facts: &PodFacts, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, rest)) = path.split_once("['") {
        let key = rest.strip_suffix("']")?;
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return None,
        };
        return Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let account = || {
        let name = spec.and_then(|spec| spec.service_account_name.clone());
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned())
    };
    let lines = |map: Option<&BTreeMap<String, String>>| {
        let line = |(key, value): (&String, &String)| format!("{key}={value:?}");
        map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
    };
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => account(),
        "status.podIP" | "status.podIPs" => facts.ip.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        _ => return None,
    })
}

/// A container of the Pod, of either list.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name)
}

/// A limit or request, in units of the divisor, rounded up. Without a limit it is the machine's.
pub fn resource_field(container: &Container, name: &str, divisor: Option<&str>) -> String {
    let resources = container.resources.as_ref();
    let (kind, resource) = name.split_once('.').unwrap_or(("limits", name));
    let map = match kind {
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => resources.and_then(|resources| resources.limits.as_ref()),
    };
    let amount = map.and_then(|map| map.get(resource)).and_then(|quantity| quantity_value(&quantity.0));
    let amount = amount.or_else(|| match (kind, resource) {
        ("requests", _) => Some(0.0),
        (_, "cpu") => std::thread::available_parallelism().ok().map(|count| count.get() as f64),
        (_, "memory") => machine_memory(),
        _ => None,
    });
    let divisor = divisor.and_then(quantity_value).filter(|divisor| *divisor > 0.0).unwrap_or(1.0);
    // A little less, so that a value that is whole but for rounding is not rounded up.
    format!("{}", (amount.unwrap_or(0.0) / divisor - 1e-9).ceil().max(0.0) as u64)
}

fn machine_memory() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}

/// The value of a Kubernetes quantity.
pub fn quantity_value(text: &str) -> Option<f64> {
    let split =
        text.find(|letter: char| !(letter.is_ascii_digit() || ".+-".contains(letter))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixture;

    impl Sources for Fixture {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            (name == "cm")
                .then(|| Arc::new(serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap()))
        }
        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            (name == "s")
                .then(|| Arc::new(serde_json::from_value(json!({"data": {"k": "aGlkZGVu"}})).unwrap()))
        }
        fn services(&self) -> Vec<Arc<Service>> {
            let service = json!({"metadata": {"name": "my-db"}, "spec": {"clusterIP": "10.96.1.2",
                "ports": [{"name": "sql", "port": 5432}]}});
            vec![Arc::new(serde_json::from_value(service).unwrap())]
        }
    }

    fn get(container: serde_json::Value, name: &str) -> Result<Option<String>, String> {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": []}
        }))
        .unwrap();
        let facts = PodFacts { ip: "10.244.0.5".to_owned(), host_ip: "10.244.0.1".to_owned() };
        let all = environment(&pod, &container, &facts, &Fixture)?;
        Ok(all.into_iter().find(|(key, _)| key == name).map(|(_, value)| value))
    }

    #[test]
    fn values_of_a_variable() {
        let check = |name: &str, env: serde_json::Value, expected: Result<Option<&str>, &str>| {
            let got = get(json!({"name": "c", "env": env}), "X");
            assert_eq!(got.as_ref().map(Option::as_deref).map_err(String::as_str), expected, "{name}");
        };
        let from = |source: serde_json::Value| json!([{"name": "X", "valueFrom": source}]);
        check("plain", json!([{"name": "X", "value": "1"}]), Ok(Some("1")));
        check("empty", json!([{"name": "X"}]), Ok(Some("")));
        check(
            "expansion",
            json!([{"name": "A", "value": "a"}, {"name": "X", "value": "$(A)-$(B)-$$(A)"}]),
            Ok(Some("a-$(B)-$(A)")),
        );
        check(
            "expansion of a service",
            json!([{"name": "X", "value": "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT_SQL)"}]),
            Ok(Some("10.96.1.2:5432")),
        );
        check("field", from(json!({"fieldRef": {"fieldPath": "status.podIP"}})), Ok(Some("10.244.0.5")));
        check("label", from(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})), Ok(Some("web")));
        check(
            "account",
            from(json!({"fieldRef": {"fieldPath": "spec.serviceAccountName"}})),
            Ok(Some("default")),
        );
        check("config map", from(json!({"configMapKeyRef": {"name": "cm", "key": "k"}})), Ok(Some("v")));
        check("secret", from(json!({"secretKeyRef": {"name": "s", "key": "k"}})), Ok(Some("hidden")));
        check(
            "missing map",
            from(json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
            Err("configmap \"no\" not found"),
        );
        check(
            "missing key",
            from(json!({"secretKeyRef": {"name": "s", "key": "no"}})),
            Err("couldn't find key no in Secret s"),
        );
        check(
            "optional",
            from(json!({"configMapKeyRef": {"name": "no", "key": "k", "optional": true}})),
            Ok(None),
        );
        check(
            "bad field",
            from(json!({"fieldRef": {"fieldPath": "spec.secrets"}})),
            Err("fieldRef spec.secrets: not a field that a container may ask for"),
        );
    }

    #[test]
    fn whole_maps() {
        let container = json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
            "env": [{"name": "P_l", "value": "own"}]});
        assert_eq!(get(container.clone(), "P_k").unwrap().as_deref(), Some("v"));
        assert_eq!(get(container, "P_l").unwrap().as_deref(), Some("own"));
        let missing = json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]});
        assert_eq!(get(missing, "X"), Err("secret \"no\" not found".to_owned()));
    }

    #[test]
    fn resources() {
        let check = |name: &str, divisor: Option<&str>, expected: &str| {
            let container = json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"},
                "requests": {"cpu": "100m"}}});
            let container: Container = serde_json::from_value(container).unwrap();
            assert_eq!(resource_field(&container, name, divisor), expected, "{name} {divisor:?}");
        };
        check("limits.cpu", None, "2");
        check("limits.cpu", Some("1m"), "1500");
        check("limits.memory", None, "1073741824");
        check("limits.memory", Some("1Mi"), "1024");
        check("requests.cpu", None, "1");
        check("requests.memory", None, "0");
    }
}
