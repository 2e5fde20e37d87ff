//! The mesh's own settings: `MeshConfig` and `MeshNetworks`, from text to values and verdicts.
//!
//! Both are YAML inside of a ConfigMap, so no API server looks at them: unknown fields, wrong types and values that make
//! no sense are found here. Names may be written as protobuf has them (`registry_service_name`) or as its JSON has them.

use std::net::IpAddr;
use std::sync::OnceLock;

use lateen_api::mesh::{MeshConfig, ProxyConfig};
use lateen_api::mesh_parts::{PrivateKeyProvider, TlsConfig};
use lateen_api::networks::{MeshNetworks, Network, NetworkEndpoints};
use lateen_api::providers::ExtensionProvider;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::check::{UnknownFields, check_schema, join};
use crate::structural::schema_of;
use crate::validate::{self, names};
use crate::{Verdict, documents};

/// Reads `MeshConfig`: the value if it could be read at all, and what is to be said of it. Unknown fields are warnings.
pub fn read_mesh_config(text: &str) -> (Option<MeshConfig>, Verdict) {
    let (mesh, mut verdict) = read::<MeshConfig>(text, mesh_schema());
    if let Some(mesh) = &mesh {
        mesh_config(mesh, &mut verdict);
    }
    (mesh, verdict)
}

/// Reads `MeshNetworks`.
pub fn read_mesh_networks(text: &str) -> (Option<MeshNetworks>, Verdict) {
    let (networks, mut verdict) = read::<MeshNetworks>(text, networks_schema());
    for (name, network) in networks.iter().flat_map(|networks| &networks.networks) {
        self::network(&join("networks", name), network, &mut verdict);
    }
    (networks, verdict)
}

/// Judges a `MeshConfig` that is part of another object (`IstioOperator`).
pub fn validate_mesh_config(value: &Value) -> Verdict {
    read_mesh_config(&value.to_string()).1
}

/// Judges the settings of one proxy, as the annotation `proxy.istio.io/config` has them.
pub fn validate_proxy_config_text(text: &str) -> Verdict {
    let (config, mut verdict) = read::<ProxyConfig>(text, &mesh_schema()["properties"]["defaultConfig"]);
    if let Some(config) = &config {
        proxy_config("", config, &mut verdict);
    }
    verdict
}

/// The structural schema of `MeshConfig`.
pub fn mesh_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(schema_of::<MeshConfig>)
}

/// The structural schema of `MeshNetworks`.
pub fn networks_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(schema_of::<MeshNetworks>)
}

fn read<T: DeserializeOwned + JsonSchema + Default>(text: &str, schema: &Value) -> (Option<T>, Verdict) {
    let mut verdict = Verdict::default();
    let mut documents = match documents(text) {
        Ok(documents) => documents,
        Err(error) => {
            verdict.error("", error.to_string(), "write YAML or JSON");
            return (None, verdict);
        }
    };
    if documents.len() > 1 {
        verdict.error("", "there are several documents", "write one");
    }
    let Some(document) = documents.first_mut() else { return (Some(T::default()), verdict) };
    rename(schema, &mut document.value);
    verdict.merge(check_schema(schema, &document.value, "", UnknownFields::Warn));
    if !verdict.is_valid() {
        return (None, verdict);
    }
    match serde_path_to_error::deserialize(&document.value) {
        Ok(value) => (Some(value), verdict),
        Err(error) => {
            verdict.error(error.path().to_string(), error.inner().to_string(), "");
            (None, verdict)
        }
    }
}

/// Gives fields the names that the schema knows, where they have protobuf's.
fn rename(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let properties = &schema["properties"];
            let old: Vec<String> =
                fields.keys().filter(|name| properties.get(*name).is_none()).cloned().collect();
            for name in old {
                let json = camel_case(&name);
                if properties.get(&json).is_some()
                    && !fields.contains_key(&json)
                    && let Some(value) = fields.shift_remove(&name)
                {
                    fields.insert(json, value);
                }
            }
            for (name, value) in fields {
                rename(properties.get(name).unwrap_or(&schema["additionalProperties"]), value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(&schema["items"], item)),
        _ => {}
    }
}

fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        text.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        text.push_str(letters.as_str());
    }
    text
}

fn mesh_config(mesh: &MeshConfig, verdict: &mut Verdict) {
    names::port("proxyListenPort", mesh.proxy_listen_port, verdict);
    names::port("proxyInboundListenPort", mesh.proxy_inbound_listen_port, verdict);
    names::positive("connectTimeout", Some(mesh.connect_timeout), verdict);
    if mesh.connect_timeout.get().as_secs() > 3600 {
        verdict.error("connectTimeout", format!("{} is too long", mesh.connect_timeout), "at most 1h");
    }
    if !mesh.protocol_detection_timeout.is_zero() {
        names::positive("protocolDetectionTimeout", Some(mesh.protocol_detection_timeout), verdict);
    }
    proxy_config("defaultConfig", &mesh.default_config, verdict);
    verdict.merge(crate::validate_registries(&mesh.lateen.registries, "lateen.registries"));
    if let Some(locality) = &mesh.locality_lb_setting {
        validate::destination_rule::locality_setting("localityLbSetting", locality, true, verdict);
    }
    if let Some(policy) = &mesh.default_traffic_policy {
        validate::destination_rule::traffic_policy("defaultTrafficPolicy", policy, verdict);
    }
    if let Some(retries) = &mesh.default_http_retry_policy {
        validate::http_action::http_retry("defaultHttpRetryPolicy", retries, verdict);
    }
    for (index, settings) in mesh.service_settings.iter().enumerate() {
        for (position, host) in settings.hosts.iter().enumerate() {
            names::wildcard_host(&format!("serviceSettings[{index}].hosts[{position}]"), host, verdict);
        }
    }
    trust_domain("trustDomain", &mesh.trust_domain, verdict);
    for (index, alias) in mesh.trust_domain_aliases.iter().enumerate() {
        trust_domain(&format!("trustDomainAliases[{index}]"), alias, verdict);
    }
    if mesh.mesh_mtls.as_ref().is_some_and(|tls| !tls.ecdh_curves.is_empty()) {
        verdict.error("meshMTLS.ecdhCurves", "cannot be chosen between proxies", "leave it out");
    }
    if let Some(tls) = &mesh.tls_defaults {
        curves("tlsDefaults.ecdhCurves", tls, verdict);
    }
    for (name, scopes) in [
        ("defaultServiceExportTo", &mesh.default_service_export_to),
        ("defaultVirtualServiceExportTo", &mesh.default_virtual_service_export_to),
        ("defaultDestinationRuleExportTo", &mesh.default_destination_rule_export_to),
    ] {
        names::export_to(name, scopes, "", true, verdict);
    }
    providers(&mesh.extension_providers, verdict);
}

fn proxy_config(path: &str, config: &ProxyConfig, verdict: &mut Verdict) {
    let at = |field: &str| join(path, field);
    for (field, text) in [
        ("configPath", &config.config_path),
        ("binaryPath", &config.binary_path),
        ("discoveryAddress", &config.discovery_address),
    ] {
        if text.is_empty() {
            verdict.error(at(field), "is empty", "leave it out, or fill it");
        }
    }
    if config.tracing_service_name.is_none() && config.service_cluster.is_empty() {
        verdict.error(at("serviceCluster"), "is empty", "fill it, or set tracingServiceName");
    }
    names::positive(&at("drainDuration"), Some(config.drain_duration), verdict);
    if config.drain_duration.get().subsec_nanos() != 0 {
        verdict.error(
            at("drainDuration"),
            format!("{} is finer than a second", config.drain_duration),
            "write whole seconds",
        );
    }
    let mut addresses = vec![
        (at("discoveryAddress"), &config.discovery_address),
        (at("statsdUdpAddress"), &config.statsd_udp_address),
        (at("envoyMetricsServiceAddress"), &config.envoy_metrics_service_address),
        (at("zipkinAddress"), &config.zipkin_address),
    ];
    for (field, service) in [
        ("envoyMetricsService", &config.envoy_metrics_service),
        ("envoyAccessLogService", &config.envoy_access_log_service),
    ] {
        addresses.extend(service.as_ref().map(|service| (at(&format!("{field}.address")), &service.address)));
    }
    for (field, collector) in config.tracing.iter().flat_map(|tracing| {
        [("zipkin", &tracing.zipkin), ("lightstep", &tracing.lightstep), ("datadog", &tracing.datadog)]
    }) {
        let Some(collector) = collector else { continue };
        let place = at(&format!("tracing.{field}"));
        if collector.address.is_empty() {
            verdict.error(format!("{place}.address"), "is empty", "write host:port");
        }
        if field == "lightstep" && collector.access_token.is_empty() {
            verdict.error(format!("{place}.accessToken"), "is empty", "write the token");
        }
        addresses.push((format!("{place}.address"), &collector.address));
    }
    for (place, address) in addresses.into_iter().filter(|(_, address)| !address.is_empty()) {
        host_and_port(&place, address, verdict);
    }
    if let Some(tls) = config.tracing.as_ref().and_then(|tracing| tracing.tls_settings.as_ref()) {
        validate::destination_rule::client_tls(&at("tracing.tlsSettings"), tls, verdict);
    }
    names::port(&at("proxyAdminPort"), config.proxy_admin_port, verdict);
    names::port(&at("statusPort"), config.status_port, verdict);
    if config.control_plane_auth_policy == Some(lateen_api::mesh_parts::AuthenticationPolicy::Inherit) {
        verdict.error(at("controlPlaneAuthPolicy"), "cannot be INHERIT", "use NONE or MUTUAL_TLS");
    }
    if config.proxy_metadata.contains_key("ISTIO_META_DNS_AUTO_ALLOCATE") {
        verdict.warn(
            at("proxyMetadata.ISTIO_META_DNS_AUTO_ALLOCATE"),
            "is deprecated",
            "the control plane gives addresses to ServiceEntries by itself",
        );
    }
    if let Some(provider) = &config.private_key_provider {
        private_keys(&at("privateKeyProvider"), provider, verdict);
    }
}

fn private_keys(path: &str, provider: &PrivateKeyProvider, verdict: &mut Verdict) {
    if provider.cryptomb.is_some() == provider.qat.is_some() {
        verdict.error(path, "names not just one provider", "set cryptomb or qat");
    }
    for (field, accelerator) in [("cryptomb", &provider.cryptomb), ("qat", &provider.qat)] {
        if accelerator.as_ref().is_some_and(|one| one.poll_delay.is_none_or(|delay| delay.is_zero())) {
            verdict.error(format!("{path}.{field}.pollDelay"), "is missing", "such as 10ms");
        }
    }
}

/// Checks `host:port`; the host may be the node's address, which each proxy fills in.
fn host_and_port(path: &str, text: &str, verdict: &mut Verdict) {
    let text = text.replacen("$(HOST_IP)", "127.0.0.1", 1);
    let Some((host, port)) = text.rsplit_once(':') else {
        verdict.error(path, format!("{text:?} has no port"), "write host:port");
        return;
    };
    match port.parse::<u32>() {
        Ok(port) => names::port(path, port, verdict),
        Err(_) => verdict.error(path, format!("{port:?} is not a port"), "write host:port"),
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if address.parse::<IpAddr>().is_err() {
        names::exact_host(path, host, verdict);
    }
}

fn trust_domain(path: &str, domain: &str, verdict: &mut Verdict) {
    if !names::is_fqdn(domain) {
        verdict.error(path, format!("{domain:?} is not a trust domain"), "such as cluster.local");
    }
}

/// Curves that Envoy's TLS knows.
const CURVES: [&str; 5] = ["P-256", "P-384", "P-521", "X25519", "X25519MLKEM768"];

fn curves(path: &str, tls: &TlsConfig, verdict: &mut Verdict) {
    for (index, curve) in tls.ecdh_curves.iter().enumerate() {
        let place = format!("{path}[{index}]");
        if !CURVES.contains(&curve.as_str()) {
            verdict.warn(place, format!("{curve:?} is not known"), format!("use {}", CURVES.join(", ")));
        } else if tls.ecdh_curves[..index].contains(curve) {
            verdict.warn(place, format!("{curve:?} is listed twice"), "leave one");
        }
    }
}

/// Providers that make no sense are only warnings: they do no harm until somebody uses them.
fn providers(providers: &[ExtensionProvider], verdict: &mut Verdict) {
    for (index, provider) in providers.iter().enumerate() {
        let path = format!("extensionProviders[{index}]");
        let mut found = Verdict::default();
        if provider.name.is_empty() {
            found.error(format!("{path}.name"), "is empty", "name the provider");
        } else if providers[..index].iter().any(|earlier| earlier.name == provider.name) {
            found.error(format!("{path}.name"), format!("{:?} is used twice", provider.name), "rename one");
        }
        let places = service_places(provider);
        let without_service = provider.prometheus.is_some()
            || provider.stackdriver.is_some()
            || provider.envoy_file_access_log.is_some();
        if places.is_empty() && !without_service {
            found.error(&path, "says nothing about where it is", "such as zipkin or envoyExtAuthzHttp");
        }
        for (field, service, port) in places {
            let place = format!("{path}.{field}");
            names::port(&format!("{place}.port"), port, &mut found);
            provider_service(&format!("{place}.service"), service, &mut found);
        }
        if let Some(http) = &provider.envoy_ext_authz_http {
            let place = format!("{path}.envoyExtAuthzHttp");
            status(&format!("{place}.statusOnError"), &http.status_on_error, &mut found);
            if !http.path_prefix.is_empty() && !http.path_prefix.starts_with('/') {
                found.error(format!("{place}.pathPrefix"), "does not begin with /", "");
            }
        }
        if let Some(grpc) = &provider.envoy_ext_authz_grpc {
            status(&format!("{path}.envoyExtAuthzGrpc.statusOnError"), &grpc.status_on_error, &mut found);
        }
        if provider.lightstep.as_ref().is_some_and(|lightstep| lightstep.access_token.is_empty()) {
            found.error(format!("{path}.lightstep.accessToken"), "is empty", "write the token");
        }
        if provider.opentelemetry.as_ref().is_some_and(|one| one.http.is_some() && one.grpc.is_some()) {
            found.error(format!("{path}.opentelemetry"), "grpc and http are set together", "leave one out");
        }
        verdict.warnings.append(&mut found.errors);
    }
}

fn service_places(provider: &ExtensionProvider) -> Vec<(&'static str, &str, u32)> {
    macro_rules! places {
        ($($field:ident: $name:literal),+ $(,)?) => {
            [$(provider.$field.as_ref().map(|one| ($name, one.service.as_str(), one.port))),+]
        };
    }
    let places = places! {
        envoy_ext_authz_http: "envoyExtAuthzHttp", envoy_ext_authz_grpc: "envoyExtAuthzGrpc", zipkin: "zipkin",
        lightstep: "lightstep", datadog: "datadog", opencensus: "opencensus", skywalking: "skywalking",
        opentelemetry: "opentelemetry", envoy_http_als: "envoyHttpAls", envoy_tcp_als: "envoyTcpAls",
        envoy_otel_als: "envoyOtelAls", sds: "sds",
    };
    places.into_iter().flatten().collect()
}

/// Checks a service: a host, or `namespace/host`.
fn provider_service(path: &str, service: &str, verdict: &mut Verdict) {
    let host = match service.split_once('/') {
        Some((namespace, host)) => {
            if !names::is_dns_label(namespace) {
                verdict.error(path, format!("{namespace:?} is not a namespace"), "write namespace/host");
            }
            host
        }
        None => service,
    };
    if host.parse::<IpAddr>().is_err() {
        names::exact_host(path, host, verdict);
    }
}

fn status(path: &str, text: &str, verdict: &mut Verdict) {
    if !text.is_empty() && !text.parse::<u32>().is_ok_and(|status| (100..=599).contains(&status)) {
        verdict.error(path, format!("{text:?} is not a status"), "such as 403");
    }
}

fn network(path: &str, network: &Network, verdict: &mut Verdict) {
    for (index, endpoints) in network.endpoints.iter().enumerate() {
        let path = format!("{path}.endpoints[{index}]");
        let NetworkEndpoints { from_cidr, from_registry } = endpoints;
        match (from_cidr.as_str(), from_registry.as_str()) {
            ("", "") => {
                verdict.error(path, "says nothing about its endpoints", "set fromRegistry or fromCidr")
            }
            (range, "") => {
                if !names::is_subnet(range) {
                    let remedy = "write it like 10.0.0.0/8";
                    verdict.error(format!("{path}.fromCidr"), format!("{range:?} is not a range"), remedy);
                }
            }
            ("", registry) => {
                if !names::is_dns_label(registry) {
                    let message = format!("{registry:?} is not the name of a cluster");
                    verdict.error(format!("{path}.fromRegistry"), message, "letters, digits and hyphens");
                }
            }
            _ => verdict.error(path, "fromCidr and fromRegistry are set together", "make two entries of it"),
        }
    }
    for (index, gateway) in network.gateways.iter().enumerate() {
        let path = format!("{path}.gateways[{index}]");
        match (gateway.registry_service_name.as_str(), gateway.address.as_str()) {
            ("", "") => {
                verdict.error(&path, "says nothing about where it is", "set registryServiceName or address")
            }
            (service, "") => names::exact_host(&format!("{path}.registryServiceName"), service, verdict),
            ("", address) if address.parse::<IpAddr>().is_ok() => {}
            ("", address) => names::exact_host(&format!("{path}.address"), address, verdict),
            _ => verdict.error(&path, "registryServiceName and address are set together", "leave one out"),
        }
        names::port(&format!("{path}.port"), gateway.port, verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Problem;

    fn texts(problems: &[Problem]) -> Vec<String> {
        problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn mesh_configs() {
        let default = serde_json::to_string(&MeshConfig::default()).unwrap();
        let table: &[(&str, &str, &[&str], &[&str])] = &[
            ("nothing", "", &[], &[]),
            ("the default", &default, &[], &[]),
            ("protobuf's names", "access_log_file: /dev/stdout\ndefault_config: {status_port: 1}", &[], &[]),
            (
                "unknown field",
                "acessLogFile: a",
                &[],
                &["acessLogFile: there is no such field; did you mean accessLogFile?"],
            ),
            ("wrong type", "enableTracing: maybe", &["enableTracing: \"maybe\" is not a boolean"], &[]),
            (
                "port",
                "proxyListenPort: 70000",
                &["proxyListenPort: 70000 is not a port; write a number from 1 to 65535"],
                &[],
            ),
            ("time", "connectTimeout: 2h", &["connectTimeout: 7200s is too long; at most 1h"], &[]),
            (
                "address of a proxy",
                "defaultConfig: {discoveryAddress: istiod}",
                &["defaultConfig.discoveryAddress: \"istiod\" has no port; write host:port"],
                &[],
            ),
            (
                "provider",
                "extensionProviders: [{name: a, zipkin: {service: b.c, port: 0}}]",
                &[],
                &["extensionProviders[0].zipkin.port: 0 is not a port; write a number from 1 to 65535"],
            ),
            (
                "curves",
                "meshMTLS: {ecdhCurves: [P-256]}",
                &["meshMTLS.ecdhCurves: cannot be chosen between proxies; leave it out"],
                &[],
            ),
        ];
        for (name, text, errors, warnings) in table {
            let (_, verdict) = read_mesh_config(text);
            assert_eq!(texts(&verdict.errors), *errors, "{name}");
            assert_eq!(texts(&verdict.warnings), *warnings, "{name}");
        }
    }

    #[test]
    fn networks() {
        let text = "
networks:
  one:
    endpoints: [{fromRegistry: Kubernetes}, {fromCidr: 10.0.0.0/8}]
    gateways: [{registry_service_name: a.b.svc.cluster.local, port: 443}]
  two:
    endpoints: [{fromCidr: ten}, {}]
    gateways: [{address: 1.2.3.4}]
";
        let (networks, verdict) = read_mesh_networks(text);
        let networks = networks.unwrap();
        assert_eq!(networks.networks["one"].gateways[0].registry_service_name, "a.b.svc.cluster.local");
        assert_eq!(
            texts(&verdict.errors),
            [
                "networks.two.endpoints[0].fromCidr: \"ten\" is not a range; write it like 10.0.0.0/8",
                "networks.two.endpoints[1]: says nothing about its endpoints; set fromRegistry or fromCidr",
                "networks.two.gateways[0].port: 0 is not a port; write a number from 1 to 65535",
            ]
        );
    }
}
