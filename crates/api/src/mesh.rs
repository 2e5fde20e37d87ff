//! The mesh's own configuration: `MeshConfig`, and in it the proxies' defaults.
//!
//! It lives in the ConfigMap `istio` of the root namespace, key `mesh`, as YAML. Fields that are not modelled yet are
//! kept in `rest`, so that they can be reported and are not lost.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::mesh_parts::{
    AuthenticationPolicy, CertificateAuthority, CertificateData, CollectorAddress, ConfigSource,
    DnsCertificate, IngressControllerMode, PrivateKeyProvider, ProxyHeaders, ReadinessProbe, RemoteService,
    ServiceScopeConfig, TlsConfig, TraceTags, TracingServiceName,
};
use crate::networking::{
    HttpRetry, LocalityLoadBalancerSetting, OutboundTrafficPolicyMode, TcpKeepalive, TrafficPolicy,
};
use crate::networks::ServiceSettings;
use crate::providers::{DefaultProviders, ExtensionProvider};
use crate::{Double, Duration, JsonObject};

/// Settings of the whole mesh, with Istio's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Port for outbound traffic.
    pub proxy_listen_port: u32,
    /// Port for inbound traffic.
    pub proxy_inbound_listen_port: u32,
    /// Port of an explicit HTTP proxy; 0 is none.
    pub proxy_http_port: u32,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Keep-alive of sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How long to wait for the first bytes of an unknown protocol; 0 waits forever.
    pub protocol_detection_timeout: Duration,
    /// How often names are resolved again.
    pub dns_refresh_rate: Duration,
    /// Ingress class that the mesh serves.
    pub ingress_class: String,
    /// Service of the ingress gateway.
    pub ingress_service: String,
    /// Label `istio` of the ingress gateway.
    pub ingress_selector: String,
    /// File of the access log; empty turns it off.
    pub access_log_file: String,
    /// Format of the access log; empty is Istio's.
    pub access_log_format: String,
    /// Text or JSON.
    pub access_log_encoding: AccessLogEncoding,
    /// Whether connections that no listener takes are not logged.
    pub disable_envoy_listener_log: bool,
    /// Whether sidecars without a `Sidecar` that names the services they call are sent what they really call, when they
    /// call it for the first time, rather than all of the mesh. Lateen's own; docs/on-demand.md.
    pub on_demand_discovery: bool,
    /// What happens to destinations that nobody knows.
    pub outbound_traffic_policy: MeshOutboundTrafficPolicy,
    /// What happens to inbound traffic for ports that nobody declares.
    pub inbound_traffic_policy: MeshInboundTrafficPolicy,
    /// Whether HTTP/1.1 between proxies becomes HTTP/2.
    pub h2_upgrade_policy: MeshH2UpgradePolicy,
    /// How paths are normalized.
    pub path_normalization: ProxyPathNormalization,
    /// Retries of routes that say nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_http_retry_policy: Option<HttpRetry>,
    /// Policy of destinations that no DestinationRule names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_traffic_policy: Option<TrafficPolicy>,
    /// Whether clients choose mutual TLS by themselves.
    pub enable_auto_mtls: bool,
    /// Whether traces are reported.
    pub enable_tracing: bool,
    /// Whether the agent merges the application's metrics with the proxy's.
    pub enable_prometheus_merge: bool,
    /// Namespace whose objects are for the whole mesh.
    pub root_namespace: String,
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// Trust domains that are as good as the mesh's.
    pub trust_domain_aliases: Vec<String>,
    /// Who sees services that do not say.
    pub default_service_export_to: Vec<String>,
    /// Who sees VirtualServices that do not say.
    pub default_virtual_service_export_to: Vec<String>,
    /// Who sees DestinationRules that do not say.
    pub default_destination_rule_export_to: Vec<String>,
    /// Namespaces that the mesh knows; all by default.
    pub discovery_selectors: Vec<DiscoverySelector>,
    /// Settings of some services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_settings: Vec<ServiceSettings>,
    /// Preference for near endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalityLoadBalancerSetting>,
    /// Name pattern of inbound clusters in statistics.
    pub inbound_cluster_stat_name: String,
    /// Name pattern of outbound clusters in statistics.
    pub outbound_cluster_stat_name: String,
    /// Defaults of the proxies.
    pub default_config: ProxyConfig,
    /// Which Ingresses the mesh serves.
    pub ingress_controller_mode: IngressControllerMode,
    /// Whether logs go to the proxies' access log service as well.
    pub enable_envoy_access_log_service: bool,
    /// Where configuration comes from besides the cluster.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub config_sources: Vec<ConfigSource>,
    /// Roots that the mesh trusts besides its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certificates: Vec<CertificateData>,
    /// Certificates for the control plane's own use; deprecated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<DnsCertificate>,
    /// A certificate authority outside of the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertificateAuthority>,
    /// Whether clients check servers' names where DestinationRules do not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify_certificate_at_client: Option<bool>,
    /// Where traces, logs and questions of authorization may go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extension_providers: Vec<ExtensionProvider>,
    /// Where they go unless a Telemetry says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_providers: Option<DefaultProviders>,
    /// TLS between proxies.
    #[serde(rename = "meshMTLS", skip_serializing_if = "Option::is_none")]
    pub mesh_mtls: Option<TlsConfig>,
    /// All other TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_defaults: Option<TlsConfig>,
    /// Which services are for one cluster and which for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_scope_configs: Vec<ServiceScopeConfig>,
    /// Who sees ServiceEntries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_entry_visibility: Option<JsonObject>,
    /// Preference for the own zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_aware_lb_setting: Option<crate::networking::ZoneAwareLoadBalancerSetting>,
    /// How long an idle tunnel is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hbone_idle_timeout: Option<Duration>,
    /// What is Lateen's own.
    #[serde(skip_serializing_if = "crate::is_default")]
    pub lateen: crate::registries::LateenConfig,
    /// Fields that are not modelled, kept as they were.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// Namespaces by labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DiscoverySelector {
    /// Labels that a namespace must have.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions on labels.
    pub match_expressions: Vec<MatchExpression>,
}

/// A condition on a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MatchExpression {
    /// Label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values for `In` and `NotIn`.
    pub values: Vec<String>,
}

/// Defaults of the proxies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Folder of the generated bootstrap.
    pub config_path: String,
    /// Program of the proxy.
    pub binary_path: String,
    /// Name of the service that the proxy stands for.
    pub service_cluster: String,
    /// How long old listeners drain.
    pub drain_duration: Duration,
    /// How long the proxy drains before it ends.
    pub termination_drain_duration: Duration,
    /// Address of the control plane.
    pub discovery_address: String,
    /// Port of the proxy's admin page.
    pub proxy_admin_port: u32,
    /// Port of the agent's status.
    pub status_port: u32,
    /// Number of worker threads; 0 is one a core, unset follows the CPU limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// How traffic gets to the proxy.
    pub interception_mode: InterceptionMode,
    /// Whether the application starts only once the proxy is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_application_until_proxy_starts: Option<bool>,
    /// Variables and metadata of the proxy.
    pub proxy_metadata: BTreeMap<String, String>,
    /// Runtime values of the bootstrap.
    pub runtime_values: BTreeMap<String, String>,
    /// Id of the mesh.
    pub mesh_id: String,
    /// What stands before a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_topology: Option<GatewayTopology>,
    /// Which statistics are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_stats_matcher: Option<ProxyStatsMatcher>,
    /// More tags of statistics.
    pub extra_stat_tags: Vec<String>,
    /// Where and how traces are reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfig>,
    /// Image of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<crate::networking::ProxyImage>,
    /// What traces call a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing_service_name: Option<TracingServiceName>,
    /// Where logs go by gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_access_log_service: Option<RemoteService>,
    /// Where metrics go by gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_metrics_service: Option<RemoteService>,
    /// Where metrics go by gRPC; deprecated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub envoy_metrics_service_address: String,
    /// Where metrics go as datagrams.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub statsd_udp_address: String,
    /// Where traces go; deprecated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zipkin_address: String,
    /// How proxies speak to the control plane; deprecated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_auth_policy: Option<AuthenticationPolicy>,
    /// A bootstrap of one's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub custom_config_file: String,
    /// A template of the bootstrap.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub proxy_bootstrap_template_path: String,
    /// Longest name of a statistic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stat_name_length: Option<i32>,
    /// How the proxy's readiness is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<ReadinessProbe>,
    /// Hardware that computes with private keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_provider: Option<PrivateKeyProvider>,
    /// Headers that the proxy adds and keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_headers: Option<ProxyHeaders>,
    /// Roots that the proxy trusts besides the mesh's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certificates_pem: Vec<String>,
    /// Whether statistics are compressed when they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats_compression: Option<bool>,
    /// Settings of connections for the middle or the edge of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_settings: Option<JsonObject>,
    /// How often logs are written out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_flush_interval: Option<Duration>,
    /// How much of a log may wait.
    #[serde(rename = "fileFlushMinSizeKb", skip_serializing_if = "Option::is_none")]
    pub file_flush_min_size_kb: Option<u32>,
    /// Zone of the proxy; deprecated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub availability_zone: String,
    /// Fields that are not modelled, kept as they were.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// What stands before a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTopology {
    /// How many proxies before it are trusted.
    pub num_trusted_proxies: u32,
    /// What happens to the client-certificate header.
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// Whether the PROXY protocol is expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<Map<String, Value>>,
}

/// Which statistics are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatsMatcher {
    /// By prefix.
    pub inclusion_prefixes: Vec<String>,
    /// By suffix.
    pub inclusion_suffixes: Vec<String>,
    /// By regular expression.
    pub inclusion_regexps: Vec<String>,
}

/// Where and how traces are reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TracingConfig {
    /// Share of requests in percent, 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Double>,
    /// Longest path in a tag, 256 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_path_tag_length: Option<u32>,
    /// Traces to Zipkin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zipkin: Option<CollectorAddress>,
    /// Traces to Lightstep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lightstep: Option<CollectorAddress>,
    /// Traces to Datadog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datadog: Option<CollectorAddress>,
    /// Traces to Stackdriver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stackdriver: Option<JsonObject>,
    /// Traces to OpenCensus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_census_agent: Option<JsonObject>,
    /// Tags of traces.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_tags: TraceTags,
    /// How to speak to the collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_settings: Option<crate::networking::ClientTlsSettings>,
    /// Whether Istio's own tags are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_istio_tags: Option<bool>,
    /// Fields that are not modelled, kept as they were.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// What happens to destinations that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshOutboundTrafficPolicy {
    /// Whether they are let through; yes by default.
    pub mode: MeshOutboundMode,
}

/// What happens to inbound traffic for ports that nobody declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshInboundTrafficPolicy {
    /// Where it goes.
    pub mode: MeshInboundMode,
}

/// How paths are normalized.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyPathNormalization {
    /// How much.
    pub normalization: PathNormalization,
}

enumeration! {
    /// Form of the access log.
    pub enum AccessLogEncoding { #[default] Text, Json }

    /// Whether unknown destinations are refused, let through, or resolved by name.
    pub enum MeshOutboundMode { RegistryOnly, #[default] AllowAny, AllowAnyDynamicDns }

    /// Where undeclared inbound traffic goes: to the Pod's address or to its loopback.
    pub enum MeshInboundMode { #[default] Passthrough, Localhost }

    /// Whether HTTP/1.1 between proxies becomes HTTP/2.
    pub enum MeshH2UpgradePolicy { #[default] DoNotUpgrade, Upgrade }

    /// How much paths are normalized.
    pub enum PathNormalization { #[default] Default, None, Base, MergeSlashes, DecodeAndMergeSlashes }

    /// How traffic gets to the proxy.
    pub enum InterceptionMode { #[default] Redirect, Tproxy, None }

    /// What happens to the client-certificate header.
    pub enum ForwardClientCertDetails {
        #[default]
        Undefined,
        Sanitize,
        ForwardOnly,
        AppendForward,
        SanitizeSet,
        AlwaysForwardOnly,
    }
}

// === impl MeshConfig ===

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            proxy_http_port: 0,
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: None,
            protocol_detection_timeout: Duration::default(),
            dns_refresh_rate: Duration::from_secs(60),
            ingress_class: "istio".to_owned(),
            ingress_service: "istio-ingressgateway".to_owned(),
            ingress_selector: "ingressgateway".to_owned(),
            access_log_file: String::new(),
            access_log_format: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            disable_envoy_listener_log: false,
            on_demand_discovery: false,
            outbound_traffic_policy: MeshOutboundTrafficPolicy::default(),
            inbound_traffic_policy: MeshInboundTrafficPolicy::default(),
            h2_upgrade_policy: MeshH2UpgradePolicy::DoNotUpgrade,
            path_normalization: ProxyPathNormalization::default(),
            default_http_retry_policy: Some(HttpRetry { attempts: 2, ..HttpRetry::default() }),
            default_traffic_policy: None,
            enable_auto_mtls: true,
            enable_tracing: true,
            enable_prometheus_merge: true,
            root_namespace: "istio-system".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            default_service_export_to: vec!["*".to_owned()],
            default_virtual_service_export_to: vec!["*".to_owned()],
            default_destination_rule_export_to: vec!["*".to_owned()],
            discovery_selectors: Vec::new(),
            service_settings: Vec::new(),
            locality_lb_setting: Some(LocalityLoadBalancerSetting {
                enabled: Some(true),
                ..LocalityLoadBalancerSetting::default()
            }),
            inbound_cluster_stat_name: String::new(),
            outbound_cluster_stat_name: String::new(),
            default_config: ProxyConfig::default(),
            ingress_controller_mode: IngressControllerMode::Strict,
            enable_envoy_access_log_service: false,
            config_sources: Vec::new(),
            ca_certificates: Vec::new(),
            certificates: Vec::new(),
            ca: None,
            verify_certificate_at_client: None,
            extension_providers: Vec::new(),
            default_providers: None,
            mesh_mtls: None,
            tls_defaults: None,
            service_scope_configs: Vec::new(),
            service_entry_visibility: None,
            zone_aware_lb_setting: None,
            hbone_idle_timeout: None,
            lateen: Default::default(),
            rest: BTreeMap::new(),
        }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            config_path: "./etc/istio/proxy".to_owned(),
            binary_path: "/usr/local/bin/envoy".to_owned(),
            service_cluster: "istio-proxy".to_owned(),
            drain_duration: Duration::from_secs(45),
            termination_drain_duration: Duration::from_secs(5),
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            proxy_admin_port: 15000,
            status_port: 15020,
            concurrency: None,
            interception_mode: InterceptionMode::Redirect,
            hold_application_until_proxy_starts: None,
            proxy_metadata: BTreeMap::new(),
            runtime_values: BTreeMap::new(),
            mesh_id: String::new(),
            gateway_topology: None,
            proxy_stats_matcher: None,
            extra_stat_tags: Vec::new(),
            tracing: None,
            image: None,
            tracing_service_name: None,
            envoy_access_log_service: None,
            envoy_metrics_service: None,
            envoy_metrics_service_address: String::new(),
            statsd_udp_address: String::new(),
            zipkin_address: String::new(),
            control_plane_auth_policy: None,
            custom_config_file: String::new(),
            proxy_bootstrap_template_path: String::new(),
            stat_name_length: None,
            readiness_probe: None,
            private_key_provider: None,
            proxy_headers: None,
            ca_certificates_pem: Vec::new(),
            stats_compression: None,
            connection_settings: None,
            file_flush_interval: None,
            file_flush_min_size_kb: None,
            availability_zone: String::new(),
            rest: BTreeMap::new(),
        }
    }
}

impl Default for MeshOutboundTrafficPolicy {
    fn default() -> Self {
        Self { mode: MeshOutboundMode::AllowAny }
    }
}

impl From<OutboundTrafficPolicyMode> for MeshOutboundMode {
    fn from(mode: OutboundTrafficPolicyMode) -> Self {
        match mode {
            OutboundTrafficPolicyMode::RegistryOnly => Self::RegistryOnly,
            OutboundTrafficPolicyMode::AllowAny => Self::AllowAny,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_document_is_the_default() {
        assert_eq!(serde_json::from_str::<MeshConfig>("{}").unwrap(), MeshConfig::default());
        let text = serde_json::to_string(&MeshConfig::default()).unwrap();
        assert_eq!(serde_json::from_str::<MeshConfig>(&text).unwrap(), MeshConfig::default());
    }

    #[test]
    fn unmodelled_fields_are_kept() {
        let json = r#"{"accessLogFile":"/dev/stdout","someDay":[{"name":"x"}],"defaultConfig":{"concurrency":2,"another":{}}}"#;
        let mesh = serde_json::from_str::<MeshConfig>(json).unwrap();
        assert_eq!(mesh.access_log_file, "/dev/stdout");
        assert_eq!(mesh.default_config.concurrency, Some(2));
        assert_eq!(mesh.default_config.status_port, 15020);
        assert!(mesh.rest.contains_key("someDay"));
        assert!(mesh.default_config.rest.contains_key("another"));
    }
}
