//! TLS as configured: what Envoy's `DownstreamTlsContext` and `UpstreamTlsContext` say, without the material itself.
//!
//! Certificates may be in files or come by discovery, so what is here only names them; the proxy reads them and makes
//! the TLS library's configurations of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::matcher::StringMatcher;

/// Where bytes are (`envoy.config.core.v3.DataSource`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// Here.
    Inline(Bytes),
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
}

/// A version of the protocol. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// `TlsCertificate`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateSource {
    /// PEM, leaf first.
    pub chain: DataSource,
    /// PEM.
    pub key: DataSource,
    /// An OCSP response, DER.
    pub staple: Option<DataSource>,
    /// Where files are watched, if they are.
    pub watched: Option<PathBuf>,
}

/// Where a secret comes from (`SdsSecretConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretReference {
    /// Its name.
    pub name: Arc<str>,
    /// By which way.
    pub source: SecretSource,
    /// How long it is waited for before what needs it begins without; none is without end.
    pub initial_fetch_timeout: Option<Duration>,
}

/// The way by which a secret comes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// `static_resources.secrets`.
    Static,
    /// The stream of all discovery.
    Ads,
    /// A discovery service of its own, reached through this cluster.
    Service {
        /// The cluster.
        cluster: Arc<str>,
        /// Whether the incremental protocol is spoken.
        delta: bool,
    },
    /// A file that holds a discovery response.
    Path(PathBuf),
}

/// What names of certificates are compared with (`SubjectAltNameMatcher`).
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// The kind of names.
    pub kind: SanKind,
    /// The name.
    pub matcher: StringMatcher,
}

/// A kind of alternative names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SanKind {
    /// DNS names.
    Dns,
    /// URIs.
    Uri,
    /// IP addresses.
    Ip,
    /// Mail addresses.
    Email,
    /// Other names, by object identifier.
    Other(Box<str>),
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default)]
pub struct ValidationSource {
    /// PEM; a chain has to lead to one of these.
    pub trusted: Option<DataSource>,
    /// The system's authorities are trusted.
    pub system_roots: bool,
    /// PEM by SPIFFE trust domain, in place of `trusted`.
    pub trust_domains: Vec<(Box<str>, DataSource)>,
    /// Where files are watched, if they are.
    pub watched: Option<PathBuf>,
    /// One has to match.
    pub names: Vec<SanMatcher>,
    /// SHA-256 of public keys.
    pub public_keys: Vec<[u8; 32]>,
    /// SHA-256 of certificates.
    pub certificates: Vec<[u8; 32]>,
    /// PEM.
    pub revoked: Option<DataSource>,
    /// Only leaves are looked up there.
    pub revoked_leaf_only: bool,
    /// Intermediate certificates, at most.
    pub max_depth: Option<u32>,
    /// Whatever is shown is taken.
    pub accept_untrusted: bool,
    /// The time does not count.
    pub allow_expired: bool,
    /// Clients are not told which authorities are trusted.
    pub hide_authorities: bool,
}

/// Where certificates come from.
#[derive(Debug, Clone)]
pub enum Certificates {
    /// They are named here.
    Inline(Vec<CertificateSource>),
    /// By discovery.
    Discovered(Vec<SecretReference>),
}

/// What is asked of the other end, and where that comes from.
#[derive(Debug, Clone, Default)]
pub struct ValidationConfig {
    /// What is said here.
    pub context: Option<ValidationSource>,
    /// A secret that is merged over it.
    pub secret: Option<SecretReference>,
}

/// What both ends have in common (`CommonTlsContext`).
#[derive(Debug, Clone)]
pub struct CommonTls {
    /// The oldest version.
    pub min_version: TlsVersion,
    /// The newest version.
    pub max_version: TlsVersion,
    /// OpenSSL's names of suites of TLS 1.2; none is the default.
    pub ciphers: Vec<Box<str>>,
    /// OpenSSL's names of groups; none is the default.
    pub groups: Vec<Box<str>>,
    /// ALPN.
    pub protocols: Vec<Box<[u8]>>,
    /// Our own certificates.
    pub certificates: Certificates,
    /// The other end's.
    pub validation: ValidationConfig,
}

impl CommonTls {
    /// All secrets by discovery.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretReference> {
        let certificates: &[SecretReference] = match &self.certificates {
            Certificates::Discovered(references) => references,
            Certificates::Inline(_) => &[],
        };
        certificates.iter().chain(&self.validation.secret)
    }
}

/// How sessions are resumed without state (`session_ticket_keys_type`).
#[derive(Debug, Clone)]
pub enum TicketKeys {
    /// With keys that nobody else knows.
    Own,
    /// With these, of 80 bytes each.
    Configured(Vec<DataSource>),
    /// With those of a secret.
    Discovered(SecretReference),
    /// Not at all.
    Disabled,
}

/// A compiled `DownstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    /// What both ends have.
    pub common: CommonTls,
    /// Clients need a certificate.
    pub require_client_certificate: bool,
    /// Resumption by tickets.
    pub tickets: TicketKeys,
    /// Whether sessions are kept for resumption by their identifiers.
    pub stateful_resumption: bool,
    /// How long a session may be resumed.
    pub session_timeout: Duration,
    /// Whether the client's order of suites counts.
    pub prefer_client_ciphers: bool,
    /// A name to compare contexts by: the message as it came.
    pub source: Bytes,
}

impl DownstreamTls {
    /// All secrets by discovery.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretReference> {
        let tickets = match &self.tickets {
            TicketKeys::Discovered(reference) => Some(reference),
            _ => None,
        };
        self.common.secrets().chain(tickets)
    }
}

/// A compiled `UpstreamTlsContext`.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    /// What both ends have.
    pub common: CommonTls,
    /// What the server is called.
    pub server_name: Option<Box<str>>,
    /// The host's name takes its place, where it has one.
    pub host_as_server_name: bool,
    /// The server's certificate has to have the name that was sent.
    pub verify_server_name: bool,
    /// Sessions that are kept for resumption.
    pub max_sessions: usize,
    /// A name to compare contexts by: the message as it came.
    pub source: Bytes,
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// What is between the bytes of a client and the filters.
#[derive(Debug, Clone)]
pub enum DownstreamTransport {
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Arc<DownstreamTls>),
}

/// What is between the bytes of a host and the filters.
#[derive(Debug, Clone, PartialEq)]
pub enum UpstreamTransport {
    /// Nothing.
    Plain,
    /// TLS.
    Tls(Arc<UpstreamTls>),
    /// A PROXY protocol header, then another.
    ProxyProtocol {
        /// 1 or 2.
        version: u8,
        /// What follows the header.
        inner: Arc<UpstreamTransport>,
    },
}

impl UpstreamTransport {
    /// The TLS in it.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match self {
            Self::Plain => None,
            Self::Tls(tls) => Some(tls),
            Self::ProxyProtocol { inner, .. } => inner.tls(),
        }
    }
}

/// A compiled `Secret`.
#[derive(Debug, Clone)]
pub enum Secret {
    /// A certificate.
    Certificate(CertificateSource),
    /// What is asked of others.
    Validation(ValidationSource),
    /// Keys of session tickets.
    TicketKeys(Vec<DataSource>),
    /// For filters.
    Generic,
}

impl ValidationSource {
    /// This with what a secret says over it, as protobuf merges messages
    /// (`CombinedCertificateValidationContext`).
    pub fn merged(&self, over: &ValidationSource) -> ValidationSource {
        let mut out = self.clone();
        out.trusted = over.trusted.clone().or(out.trusted);
        out.system_roots |= over.system_roots;
        if !over.trust_domains.is_empty() {
            out.trust_domains.clone_from(&over.trust_domains);
        }
        out.watched = over.watched.clone().or(out.watched);
        out.names.extend(over.names.iter().cloned());
        out.public_keys.extend(&over.public_keys);
        out.certificates.extend(&over.certificates);
        out.revoked = over.revoked.clone().or(out.revoked);
        out.revoked_leaf_only |= over.revoked_leaf_only;
        out.max_depth = over.max_depth.or(out.max_depth);
        out.accept_untrusted |= over.accept_untrusted;
        out.allow_expired |= over.allow_expired;
        out.hide_authorities |= over.hide_authorities;
        out
    }
}
