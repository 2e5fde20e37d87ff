//! Whether `lateen.registries` of MeshConfig, or the flags that say the same, make sense.

use std::collections::BTreeMap;

use lateen_api::registries::{RegistryConfig, RegistryProvider};

use crate::Verdict;

/// Judges the platforms; `path` is where their list stands, such as `lateen.registries`.
pub fn validate_registries(registries: &[RegistryConfig], path: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for (index, registry) in registries.iter().enumerate() {
        let path = format!("{path}[{index}]");
        validate(registry, &path, &mut verdict);
        let name = registry.platform_name();
        if let Some(earlier) = names.insert(name, path.clone()) {
            verdict.error(
                format!("{path}.name"),
                format!("the name {name:?} is that of {earlier} too"),
                "give each platform a name of its own",
            );
        }
    }
    verdict
}

fn validate(registry: &RegistryConfig, path: &str, verdict: &mut Verdict) {
    if registry.provider == RegistryProvider::Unspecified {
        verdict.error(
            format!("{path}.provider"),
            "no provider",
            "set one of CONSUL, EUREKA, NOMAD, MARATHON, CLOUD_FOUNDRY, FILES",
        );
        return;
    }
    if registry.addresses.is_empty() {
        verdict.error(format!("{path}.addresses"), "no address", "name at least one server, or the folder");
    }
    for (index, address) in registry.addresses.iter().enumerate() {
        let path = format!("{path}.addresses[{index}]");
        if registry.provider == RegistryProvider::Files {
            if !address.starts_with('/') {
                verdict.error(path, format!("{address:?} is no absolute path"), "begin it with a slash");
            }
        } else if !is_url(address) {
            verdict.error(
                path,
                format!("{address:?} is no URL of a server"),
                "write http://HOST:PORT or https://HOST:PORT, without user and query",
            );
        }
    }
    if registry.service_port > 65535 {
        let message = format!("{} is no port", registry.service_port);
        verdict.error(format!("{path}.servicePort"), message, "a port is between 1 and 65535");
    }
    if !registry.hostname.is_empty() && !registry.hostname.contains("{service}") {
        verdict.error(
            format!("{path}.hostname"),
            "all services would have the same host name",
            "use {service} in it, as in {service}.service.consul",
        );
    }
    for (text, field) in [(&registry.hostname, "hostname"), (&registry.namespace, "namespace")] {
        let rest = ["{service}", "{namespace}", "{datacenter}"]
            .iter()
            .fold(text.clone(), |text, known| text.replace(known, "x"));
        if rest.contains(['{', '}']) {
            verdict.error(
                format!("{path}.{field}"),
                format!("{text:?} has an unknown placeholder"),
                "the placeholders are {service}, {namespace} and {datacenter}",
            );
        }
    }
    for (duration, field) in [(registry.interval, "interval"), (registry.timeout, "timeout")] {
        if duration.is_some_and(|duration| duration.is_zero()) {
            verdict.error(
                format!("{path}.{field}"),
                "no time at all",
                "give it at least 1s, or leave it out",
            );
        }
    }
    validate_secrets(registry, path, verdict);
    validate_others(registry, path, verdict);
}

fn validate_secrets(registry: &RegistryConfig, path: &str, verdict: &mut Verdict) {
    if let Some(tls) = &registry.tls
        && tls.client_certificate.is_empty() != tls.private_key.is_empty()
    {
        verdict.error(
            format!("{path}.tls"),
            "clientCertificate and privateKey belong together",
            "set both, or none",
        );
    }
    let credentials = registry.credentials.as_ref();
    if let Some(credentials) = credentials
        && credentials.user.is_empty() != credentials.password_file.is_empty()
    {
        verdict.error(
            format!("{path}.credentials"),
            "user and passwordFile belong together",
            "set both, or none",
        );
    }
    if registry.provider == RegistryProvider::CloudFoundry
        && credentials.is_none_or(|credentials| credentials.user.is_empty())
    {
        verdict.error(
            format!("{path}.credentials.user"),
            "Cloud Foundry answers nobody without a token",
            "set user to the id of a UAA client, and passwordFile to the file with its secret",
        );
    }
    let secret = credentials.is_some();
    let plain =
        registry.addresses.iter().any(|address| address.starts_with("http://") && !is_loopback(address));
    if secret && plain {
        verdict.warn(
            format!("{path}.addresses"),
            "credentials are sent without TLS",
            "use https:// where the server offers it",
        );
    }
}

/// Fields that the provider does not know.
fn validate_others(registry: &RegistryConfig, path: &str, verdict: &mut Verdict) {
    use RegistryProvider::{Consul, Files, Nomad};
    let fields: [(&str, bool, &[RegistryProvider]); 7] = [
        ("datacenters", !registry.datacenters.is_empty(), &[Consul]),
        ("namespaces", !registry.namespaces.is_empty(), &[Consul, Nomad]),
        ("partition", !registry.partition.is_empty(), &[Consul]),
        ("consistency", registry.consistency != Default::default(), &[Consul, Nomad]),
        ("taggedAddress", !registry.tagged_address.is_empty(), &[Consul]),
        ("onlyPassing", registry.only_passing, &[Consul]),
        ("connections", registry.connections != 0, &[Consul, Nomad]),
    ];
    for (field, set, providers) in fields {
        if set && !providers.contains(&registry.provider) {
            let names: Vec<&str> = providers.iter().map(|provider| provider.as_str()).collect();
            verdict.warn(
                format!("{path}.{field}"),
                format!("has no effect for {}", registry.provider.as_str()),
                format!("it is for {}", names.join(" and ")),
            );
        }
    }
    let network = registry.tls.is_some() || registry.credentials.is_some();
    if registry.provider == Files && network {
        verdict.warn(path, "tls and credentials have no effect for files", "leave them out");
    }
}

fn is_url(address: &str) -> bool {
    let rest = address.strip_prefix("http://").or_else(|| address.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty() && !host.starts_with(':') && !rest.contains(['@', '?', '#', ' '])
    })
}

fn is_loopback(address: &str) -> bool {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    ["127.", "localhost", "[::1]"].iter().any(|host| rest.starts_with(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(registries: serde_json::Value) -> Verdict {
        let registries: Vec<RegistryConfig> = serde_json::from_value(registries).unwrap();
        validate_registries(&registries, "lateen.registries")
    }

    #[test]
    fn errors_name_the_path() {
        let consul = serde_json::json!({"provider": "CONSUL", "addresses": ["http://127.0.0.1:8500"]});
        let with = |field: &str, value: serde_json::Value| {
            let mut registry = consul.clone();
            registry[field] = value;
            serde_json::json!([registry])
        };
        for (name, registries, path) in [
            ("provider", serde_json::json!([{}]), "[0].provider"),
            ("address", with("addresses", serde_json::json!([])), "[0].addresses"),
            ("no URL", with("addresses", serde_json::json!(["consul:8500"])), "[0].addresses[0]"),
            ("user in URL", with("addresses", serde_json::json!(["http://a@b:1"])), "[0].addresses[0]"),
            ("port", with("servicePort", 70000.into()), "[0].servicePort"),
            ("host name", with("hostname", "reviews".into()), "[0].hostname"),
            ("placeholder", with("hostname", "{service}.{dc}".into()), "[0].hostname"),
            ("time", with("timeout", "0s".into()), "[0].timeout"),
            ("half a certificate", with("tls", serde_json::json!({"privateKey": "/k"})), "[0].tls"),
            ("half a user", with("credentials", serde_json::json!({"user": "u"})), "[0].credentials"),
            ("same name", serde_json::json!([consul, consul]), "[1].name"),
            (
                "no token",
                serde_json::json!([{"provider": "CLOUD_FOUNDRY", "addresses": ["https://api.example.com"]}]),
                "[0].credentials.user",
            ),
            (
                "folder",
                serde_json::json!([{"provider": "FILES", "addresses": ["services"]}]),
                "[0].addresses[0]",
            ),
        ] {
            let verdict = verdict(registries);
            let paths: Vec<&str> = verdict.errors.iter().map(|error| error.path.as_str()).collect();
            assert_eq!(paths, [format!("lateen.registries{path}")], "{name}");
        }
        assert!(verdict(serde_json::json!([consul])).is_valid());
    }

    #[test]
    fn warnings_name_what_has_no_effect() {
        let registries = serde_json::json!([{"provider": "EUREKA", "addresses": ["http://eureka:8761/eureka"],
            "datacenters": ["dc1"], "credentials": {"user": "u", "passwordFile": "/p"}}]);
        let verdict = verdict(registries);
        let paths: Vec<&str> = verdict.warnings.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["lateen.registries[0].addresses", "lateen.registries[0].datacenters"]);
        assert!(verdict.is_valid());
    }
}
