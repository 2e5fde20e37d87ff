//! Gateway: what a proxy at the edge listens to.

use std::collections::BTreeMap;

use crate::meta::{resource, versions};

message! {
    /// Describes the ports that a proxy at the edge of the mesh opens, and for which hosts.
    pub struct Gateway {
        /// Ports and hosts.
        pub servers: Vec<Server>,
        /// Labels of the proxies' Pods.
        pub selector: BTreeMap<String, String>,
    }

    /// A port, its hosts and its TLS.
    #[schemars(extend("required" = ["port", "hosts"]))]
    pub struct Server {
        /// Port to listen on.
        pub port: Port,
        /// Address or Unix socket to bind to; all addresses by default.
        pub bind: String,
        /// Hosts, as `host` or `namespace/host`, possibly with a wildcard.
        pub hosts: Vec<String>,
        /// TLS of the server.
        pub tls: Option<ServerTlsSettings>,
        /// Address behind the proxy where traffic goes that no rule takes. Not used.
        pub default_endpoint: String,
        /// Name, unique in the mesh.
        pub name: String,
    }

    /// A port of a gateway.
    #[schemars(extend("required" = ["number", "protocol", "name"]))]
    pub struct Port {
        /// Number.
        pub number: u32,
        /// Protocol: HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP or TLS.
        pub protocol: String,
        /// Name, unique in the gateway.
        pub name: String,
        /// Port of the endpoints. Only ServiceEntry uses it.
        pub target_port: u32,
    }

    /// TLS of a server.
    #[schemars(extend("x-kubernetes-validations" = [
        {
            "rule": "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
            "message": "set either credentialNames or tlsCertificates, not both",
        },
        {
            "rule": "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
            "message": "set either credentialName or credentialNames, not both",
        },
        {
            "rule": "(has(self.credentialName) ? 1 : 0) + (has(self.tlsCertificates) ? 1 : 0) <= 1",
            "message": "set either credentialName or tlsCertificates, not both",
        },
    ]))]
    pub struct ServerTlsSettings {
        /// Answers HTTP with a redirect to HTTPS.
        pub https_redirect: bool,
        /// How connections are secured.
        pub mode: ServerTlsMode,
        /// File of the server's certificate.
        pub server_certificate: String,
        /// File of the server's key.
        pub private_key: String,
        /// File of the certificates that are trusted.
        pub ca_certificates: String,
        /// File of revoked certificates.
        pub ca_crl: String,
        /// Secret that holds key and certificates.
        pub credential_name: String,
        /// Secrets that hold keys and certificates, one a key type.
        #[schemars(length(min = 1, max = 2))]
        pub credential_names: Vec<String>,
        /// Secret or ConfigMap that holds the certificates that are trusted.
        pub ca_cert_credential_name: String,
        /// Files of keys and certificates, one a key type.
        #[schemars(length(min = 1, max = 2))]
        pub tls_certificates: Vec<TlsCertificate>,
        /// Names of which a client's certificate must have one.
        pub subject_alt_names: Vec<String>,
        /// Base64 SHA-256 hashes of the public keys that clients may have.
        pub verify_certificate_spki: Vec<String>,
        /// Hex SHA-256 hashes of the certificates that clients may have.
        pub verify_certificate_hash: Vec<String>,
        /// Oldest version of TLS.
        pub min_protocol_version: TlsProtocol,
        /// Newest version of TLS.
        pub max_protocol_version: TlsProtocol,
        /// Cipher suites, as OpenSSL names them.
        pub cipher_suites: Vec<String>,
        /// Curves for the key exchange.
        pub ecdh_curves: Vec<String>,
        /// Does not check client certificates. Not used.
        #[schemars(extend("nullable" = true))]
        pub insecure_skip_verify: Option<bool>,
    }

    /// Files of a key and its certificate.
    pub struct TlsCertificate {
        /// File of the certificate.
        pub server_certificate: String,
        /// File of the key.
        pub private_key: String,
        /// File of the certificates that are trusted.
        pub ca_certificates: String,
    }
}

enumeration! {
    /// How a server secures connections: passed through by SNI, server's certificate, both certificates, both where the
    /// client has one, or the mesh's identities.
    pub enum ServerTlsMode { #[default] Passthrough, Simple, Mutual, AutoPassthrough, IstioMutual, OptionalMutual }
}

enumeration! {
    /// A version of TLS; TLS_AUTO leaves it to the proxy.
    pub enum TlsProtocol {
        #[default]
        TlsAuto,
        #[serde(rename = "TLSV1_0")]
        TlsV1_0,
        #[serde(rename = "TLSV1_1")]
        TlsV1_1,
        #[serde(rename = "TLSV1_2")]
        TlsV1_2,
        #[serde(rename = "TLSV1_3")]
        TlsV1_3,
    }
}

resource!(
    Gateway, "networking.istio.io", versions!("v1", "v1beta1", "v1alpha3"), "gateways", "gateway",
    short: ["gw"], category: "networking-istio-io", spec_required: false,
    columns: []
);
