//! Parts of `MeshConfig` and of its `ProxyConfig` that are settings of their own (`istio.mesh.v1alpha1`).

use std::collections::BTreeMap;

use crate::mesh::DiscoverySelector;
use crate::networking::{ClientTlsSettings, TcpKeepalive};
use crate::{Duration, JsonObject};

message! {
    /// Where configuration comes from besides the cluster.
    pub struct ConfigSource {
        /// `fs:///path`, `xds://host:port` or `k8s://`.
        pub address: String,
        /// How to speak to it.
        pub tls_settings: Option<ClientTlsSettings>,
        /// What is taken from it.
        pub subscribed_resources: Vec<String>,
    }

    /// A root that the mesh trusts besides its own: one of text and address.
    pub struct CertificateData {
        /// The certificates.
        pub pem: String,
        /// Where they are.
        pub spiffe_bundle_url: String,
        /// Signers of Kubernetes that it is for.
        pub cert_signers: Vec<String>,
        /// Trust domains that it is for.
        pub trust_domains: Vec<String>,
    }

    /// A certificate for the control plane's own use; deprecated.
    pub struct DnsCertificate {
        /// Secret that it is put into.
        pub secret_name: String,
        /// Its names.
        pub dns_names: Vec<String>,
    }

    /// A certificate authority outside of the control plane.
    pub struct CertificateAuthority {
        /// Where it is.
        pub address: String,
        /// How to speak to it.
        pub tls_settings: Option<ClientTlsSettings>,
        /// How long an answer may take, 10 s by default.
        pub request_timeout: Option<Duration>,
        /// Whether the control plane asks it, and not the agents.
        pub istiod_side: bool,
    }

    /// What TLS may use.
    pub struct TlsConfig {
        /// The oldest version.
        pub min_protocol_version: MeshTlsProtocol,
        /// Curves of the key exchange.
        pub ecdh_curves: Vec<String>,
        /// Cipher suites.
        pub cipher_suites: Vec<String>,
    }

    /// Whether services are for one cluster or for all.
    pub struct ServiceScopeConfig {
        /// Namespaces whose services it is for.
        pub namespace_selector: Option<DiscoverySelector>,
        /// Services that it is for.
        pub services_selector: Option<DiscoverySelector>,
        /// Who sees them.
        pub scope: ServiceScope,
    }

    /// A service that a proxy reports to.
    pub struct RemoteService {
        /// `host:port`.
        pub address: String,
        /// How to speak to it.
        pub tls_settings: Option<ClientTlsSettings>,
        /// Keep-alive of its sockets.
        pub tcp_keepalive: Option<TcpKeepalive>,
    }

    /// Hardware that computes with private keys: one of the two.
    pub struct PrivateKeyProvider {
        /// Intel's CryptoMB.
        pub cryptomb: Option<KeyAccelerator>,
        /// Intel's QuickAssist.
        pub qat: Option<KeyAccelerator>,
    }

    /// An accelerator of TLS handshakes.
    pub struct KeyAccelerator {
        /// How long it waits to fill a batch.
        pub poll_delay: Option<Duration>,
        /// Whether the proxy does it itself where the hardware cannot.
        pub fallback: Option<bool>,
    }

    /// Headers that a proxy adds and keeps.
    pub struct ProxyHeaders {
        /// What becomes of the client-certificate header.
        pub forwarded_client_cert: crate::mesh::ForwardClientCertDetails,
        /// What of the client's certificate it says.
        pub set_current_client_cert_details: Option<ClientCertDetails>,
        /// `x-request-id`.
        pub request_id: Option<OptionalHeader>,
        /// `server`.
        pub server: Option<OptionalHeader>,
        /// `x-envoy-attempt-count`.
        pub attempt_count: Option<OptionalHeader>,
        /// Envoy's headers for finding faults.
        pub envoy_debug_headers: Option<OptionalHeader>,
        /// Headers by which proxies tell each other who they are.
        pub metadata_exchange_headers: Option<MetadataExchangeHeaders>,
        /// Whether HTTP/1.1 headers keep their capital letters.
        pub preserve_http1_header_case: Option<bool>,
        /// `x-forwarded-host`.
        pub x_forwarded_host: Option<OptionalHeader>,
        /// `x-forwarded-port`.
        pub x_forwarded_port: Option<OptionalHeader>,
    }

    /// What of the client's certificate the header says.
    pub struct ClientCertDetails {
        /// The subject.
        pub subject: Option<bool>,
        /// The certificate.
        pub cert: Option<bool>,
        /// The chain.
        pub chain: Option<bool>,
        /// DNS names.
        pub dns: Option<bool>,
        /// URIs.
        pub uri: Option<bool>,
    }

    /// A header that can be turned off.
    pub struct OptionalHeader {
        /// Whether it is.
        pub disabled: Option<bool>,
        /// Whether it is, for those that are off by default.
        pub enabled: Option<bool>,
        /// Its value.
        pub value: String,
    }

    /// Headers by which proxies tell each other who they are.
    pub struct MetadataExchangeHeaders {
        /// Who sends them.
        pub mode: MetadataExchangeMode,
    }

    /// Where traces go, as proxies themselves are told.
    pub struct CollectorAddress {
        /// `host:port`.
        pub address: String,
        /// What the collector is to be trusted by.
        pub access_token: String,
    }

    /// How a proxy's readiness is asked for.
    pub struct ReadinessProbe {
        /// How long to wait before the first time, in seconds.
        pub initial_delay_seconds: i32,
        /// How long an answer may take, in seconds.
        pub timeout_seconds: i32,
        /// How often to ask, in seconds.
        pub period_seconds: i32,
        /// After how many good answers it is ready.
        pub success_threshold: i32,
        /// After how many bad answers it is not.
        pub failure_threshold: i32,
        /// The request.
        pub http_get: Option<JsonObject>,
        /// A connection.
        pub tcp_socket: Option<JsonObject>,
        /// A program.
        pub exec: Option<JsonObject>,
    }

    /// Tags of traces, as proxies themselves are told.
    pub struct TraceTag {
        /// A fixed value.
        pub literal: Option<JsonObject>,
        /// A variable of the environment.
        pub environment: Option<JsonObject>,
        /// A header.
        pub header: Option<JsonObject>,
    }
}

/// Tags of traces by name.
pub type TraceTags = BTreeMap<String, TraceTag>;

enumeration! {
    /// Which Ingresses the mesh serves.
    pub enum IngressControllerMode { Unspecified, Off, Default, #[default] Strict }

    /// Whether services are for one cluster or for all.
    pub enum ServiceScope { #[default] Local, Global }

    /// Who sends the headers by which proxies tell each other who they are.
    pub enum MetadataExchangeMode { #[default] Undefined, InMesh }

    /// How proxies speak to the control plane; deprecated.
    pub enum AuthenticationPolicy { #[default] None, MutualTls, Inherit }

    /// What traces call a service.
    pub enum TracingServiceName { #[default] AppLabelAndNamespace, CanonicalNameOnly, CanonicalNameAndNamespace }

    /// The oldest version of TLS.
    pub enum MeshTlsProtocol {
        #[default]
        TlsAuto,
        #[serde(rename = "TLSV1_2")]
        TlsV12,
        #[serde(rename = "TLSV1_3")]
        TlsV13,
    }
}
