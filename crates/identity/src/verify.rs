//! Whether the other end is whom we want to speak to: what Envoy's `CertificateValidationContext` says, for both ends.
//!
//! Source of the rules: `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext` and Envoy's page "TLS".

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use crate::certificate::{Details, details, public_key_sha256, sha256};
use crate::keys::dns_name_matches;
use crate::tls::TlsError;

/// The kinds of alternative names.
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
    /// Other names with this object identifier.
    Other(String),
}

/// A condition for an alternative name (`SubjectAltNameMatcher`).
pub struct SanMatcher {
    /// Names of this kind are looked at.
    pub kind: SanKind,
    /// The name has to match.
    pub rule: SanRule,
}

/// How a name is compared.
pub enum SanRule {
    /// Equal; of DNS names, a wildcard in the certificate counts.
    Exact(String),
    /// Anything else.
    Matches(Box<dyn Fn(&str) -> bool + Send + Sync>),
}

impl fmt::Debug for SanMatcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SanMatcher({:?})", self.kind)
    }
}

impl SanMatcher {
    fn matches(&self, details: &Details) -> bool {
        let fits = |name: &str| match &self.rule {
            SanRule::Exact(wanted) if self.kind == SanKind::Dns => dns_name_matches(name, wanted),
            SanRule::Exact(wanted) => name == wanted,
            SanRule::Matches(matches) => matches(name),
        };
        match &self.kind {
            SanKind::Dns => details.dns.iter().any(|name| fits(name)),
            SanKind::Uri => details.uris.iter().any(|name| fits(name)),
            SanKind::Ip => details.ips.iter().any(|address| fits(&address.to_string())),
            SanKind::Email => details.emails.iter().any(|name| fits(name)),
            SanKind::Other(oid) => details.others.iter().any(|(other, name)| other == oid && fits(name)),
        }
    }
}

/// What is asked of a certificate. The default asks for nothing.
#[derive(Debug, Default)]
pub struct Validation {
    /// Certificates that are trusted, and through them others. None: no chain is asked for.
    pub trusted: Option<Vec<CertificateDer<'static>>>,
    /// Trusted certificates by SPIFFE trust domain, in place of `trusted`: the certificate needs one SPIFFE identity
    /// of one of these domains (`SPIFFECertValidatorConfig`).
    pub trust_domains: Option<HashMap<String, Vec<CertificateDer<'static>>>>,
    /// Revocation lists. With any, every certificate of a chain needs one that covers it.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Only the leaf is looked up in them.
    pub revoked_leaf_only: bool,
    /// Intermediate certificates in a chain, at most.
    pub max_depth: Option<u32>,
    /// One of these has to match; none asks for nothing.
    pub names: Vec<SanMatcher>,
    /// SHA-256 of public keys; together with `certificates` one has to match.
    pub public_keys: Vec<[u8; 32]>,
    /// SHA-256 of certificates.
    pub certificates: Vec<[u8; 32]>,
    /// Whatever is shown is taken, and only looked at.
    pub accept_untrusted: bool,
    /// The time does not count.
    pub allow_expired: bool,
    /// Clients are not told which authorities are trusted.
    pub hide_authorities: bool,
    /// A server has to be called what we call it (`auto_sni_san_validation`, `auto_san_validation`).
    pub name_from_connection: bool,
}

impl Validation {
    /// Whether anything is asked at all.
    pub fn is_empty(&self) -> bool {
        self.trusted.is_none()
            && self.trust_domains.is_none()
            && !self.asks_leaf()
            && !self.name_from_connection
    }

    /// Whether something is asked of the leaf itself, so that there has to be one.
    fn asks_leaf(&self) -> bool {
        !self.names.is_empty() || !self.public_keys.is_empty() || !self.certificates.is_empty()
    }
}

/// Why a certificate is not accepted; found in the error of a handshake with [`Rejection::of`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No chain to what is trusted, or not valid (now, or at all).
    #[error(
        "verify cert failed: X509_verify_cert: certificate verification error at depth {depth}: {reason}"
    )]
    Chain {
        /// 0 is the leaf.
        depth: u32,
        /// OpenSSL's words.
        reason: &'static str,
    },
    /// The certificate has not the name by which the server was called.
    #[error(
        "verify cert failed: verify SAN list, expected SANs: [{expected}], certificate SANs: [{}]",
        found.join(", ")
    )]
    NameOfConnection {
        /// The name.
        expected: String,
        /// Its names.
        found: Vec<String>,
    },
    /// No alternative name fits.
    #[error("verify cert failed: SAN matcher, certificate SANs are [{}]", found.join(", "))]
    Names {
        /// Its names.
        found: Vec<String>,
    },
    /// Neither the certificate nor its key is one of those that are pinned.
    #[error("verify cert failed: cert hash and spki")]
    Pins,
}

/// What the TLS library has words (and alerts) of its own for, and OpenSSL's words.
static KNOWN: [(CertificateError, &str); 5] = [
    (CertificateError::Expired, "certificate has expired"),
    (CertificateError::NotValidYet, "certificate is not yet valid"),
    (CertificateError::Revoked, "certificate revoked"),
    (CertificateError::UnknownIssuer, "unable to get local issuer certificate"),
    (CertificateError::UnknownIssuer, SELF_SIGNED),
];
const SELF_SIGNED: &str = "self signed certificate";

impl Rejection {
    /// The reason in an error of rustls.
    pub fn of(error: &rustls::Error) -> Option<Rejection> {
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        if let CertificateError::Other(OtherError(inner)) = error {
            return inner.downcast_ref::<Rejection>().cloned();
        }
        let known = KNOWN.iter().find(|(known, _)| known == error);
        let reason = known.map_or("unspecified certificate verification error", |(_, reason)| reason);
        Some(Rejection::Chain { depth: 0, reason })
    }
}

impl From<Rejection> for rustls::Error {
    fn from(rejection: Rejection) -> Self {
        if let Rejection::Chain { reason, .. } = &rejection
            && let Some((known, _)) = KNOWN.iter().find(|(_, known)| known == reason)
        {
            return rustls::Error::InvalidCertificate(known.clone());
        }
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
    }
}

thread_local! {
    static SIGNED: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// The signature that a [`Verifier`] saw last on this thread. The TLS library tells nobody by which algorithm the other
/// end signed; who drives a handshake asks here after each step of it, in which nothing else runs on the thread.
pub fn take_signature_scheme() -> Option<SignatureScheme> {
    SIGNED.take()
}

/// Roots in the form in which chains are built to them.
#[derive(Debug)]
struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    fn new(certificates: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let anchor = |certificate: &CertificateDer<'static>| {
            webpki::anchor_from_trusted_cert(certificate)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| TlsError::Pem { what: "trusted_ca", reason: error.to_string() })
        };
        Ok(Self {
            anchors: certificates.iter().map(anchor).collect::<Result<_, _>>()?,
            certificates: certificates.to_vec(),
        })
    }
}

/// Verifies the other end, whichever it is.
#[derive(Debug)]
pub struct Verifier {
    validation: Validation,
    roots: Option<Roots>,
    domains: Option<HashMap<String, Roots>>,
    revoked: Vec<CertRevocationList<'static>>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    required: bool,
}

impl Verifier {
    /// Takes the trusted certificates apart. `required`: clients need a certificate whatever else is asked.
    pub fn new(validation: Validation, required: bool) -> Result<Arc<Self>, TlsError> {
        let roots = validation.trusted.as_deref().map(Roots::new).transpose()?;
        let domains = match &validation.trust_domains {
            None => None,
            Some(domains) => Some(
                domains
                    .iter()
                    .map(|(name, certificates)| Ok((name.clone(), Roots::new(certificates)?)))
                    .collect::<Result<HashMap<_, _>, TlsError>>()?,
            ),
        };
        let revoked = validation
            .revoked
            .iter()
            .map(|list| {
                OwnedCertRevocationList::from_der(list)
                    .map(CertRevocationList::from)
                    .map_err(|error| TlsError::Pem { what: "crl", reason: error.to_string() })
            })
            .collect::<Result<_, _>>()?;
        let all = roots.iter().chain(domains.iter().flat_map(|domains| domains.values()));
        let hints = match validation.hide_authorities {
            true => Vec::new(),
            false => all
                .flat_map(|roots| &roots.anchors)
                .map(|anchor| DistinguishedName::in_sequence(&anchor.subject))
                .collect(),
        };
        Ok(Arc::new(Self {
            roots,
            domains,
            revoked,
            hints,
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms,
            required,
            validation,
        }))
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
        name: Option<&ServerName<'_>>,
    ) -> Result<(), Rejection> {
        if self.validation.accept_untrusted {
            return Ok(());
        }
        let unreadable = Rejection::Chain { depth: 0, reason: "unspecified certificate verification error" };
        let asks_names = !self.validation.names.is_empty()
            || self.validation.name_from_connection
            || self.domains.is_some();
        let details = match asks_names {
            true => details(leaf).map_err(|_| unreadable.clone())?,
            false => Details::default(),
        };
        let roots = match &self.domains {
            Some(domains) => Some(domain_roots(domains, &details)?),
            None => self.roots.as_ref(),
        };
        if let Some(roots) = roots {
            self.verify_chain(roots, leaf, intermediates, now, usage)?;
        }
        if self.validation.name_from_connection
            && let Some(name) = name.filter(|name| !is_called(&details, name))
        {
            let expected = name.to_str().into_owned();
            return Err(Rejection::NameOfConnection { expected, found: all_names(&details) });
        }
        let names = &self.validation.names;
        if !names.is_empty() && !names.iter().any(|matcher| matcher.matches(&details)) {
            return Err(Rejection::Names { found: all_names(&details) });
        }
        self.verify_pins(leaf).map_err(|()| Rejection::Pins)
    }

    fn verify_pins(&self, leaf: &CertificateDer<'_>) -> Result<(), ()> {
        let (keys, certificates) = (&self.validation.public_keys, &self.validation.certificates);
        if (keys.is_empty() && certificates.is_empty()) || certificates.contains(&sha256(leaf)) {
            return Ok(());
        }
        match !keys.is_empty() && keys.contains(&public_key_sha256(leaf).map_err(|_| ())?) {
            true => Ok(()),
            false => Err(()),
        }
    }

    fn verify_chain(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        mut now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Rejection> {
        let certificate = EndEntityCert::try_from(leaf).map_err(|error| rejection(&error))?;
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        // Each expired certificate of a chain moves the time that is asked for; a chain is short.
        for _ in 0..8 {
            let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
                builder
                    .with_depth(match self.validation.revoked_leaf_only {
                        true => RevocationCheckDepth::EndEntity,
                        false => RevocationCheckDepth::Chain,
                    })
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build()
            });
            let depth = |path: &webpki::VerifiedPath<'_>| match self.validation.max_depth {
                Some(limit) if path.intermediate_certificates().count() > limit as usize => {
                    Err(webpki::Error::MaximumPathDepthExceeded)
                }
                _ => Ok(()),
            };
            let verified = certificate.verify_for_usage(
                self.algorithms.all,
                &roots.anchors,
                intermediates,
                now,
                usage,
                revocation,
                Some(&depth),
            );
            let error = match verified {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                webpki::Error::CertExpired { not_after, .. } if self.validation.allow_expired => {
                    now = *not_after
                }
                webpki::Error::CertNotValidYet { not_before, .. } if self.validation.allow_expired => {
                    now = *not_before;
                }
                // A certificate that is trusted itself needs no other, an authority's neither.
                _ if roots.certificates.iter().any(|trusted| trusted == leaf) => {
                    return match self.validation.allow_expired {
                        true => Ok(()),
                        false => in_time(leaf, now),
                    };
                }
                _ => return Err(rejection(&error)),
            }
        }
        Err(Rejection::Chain { depth: 0, reason: "certificate has expired" })
    }
}

fn in_time(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Rejection> {
    let reason = |reason| Rejection::Chain { depth: 0, reason };
    let details = details(leaf).map_err(|_| reason("unspecified certificate verification error"))?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    match () {
        () if now > details.not_after => Err(reason("certificate has expired")),
        () if now < details.not_before => Err(reason("certificate is not yet valid")),
        () => Ok(()),
    }
}

/// The roots of the one trust domain that a certificate names (SPIFFE X.509-SVID, 2).
fn domain_roots<'a>(domains: &'a HashMap<String, Roots>, details: &Details) -> Result<&'a Roots, Rejection> {
    let none = Rejection::Chain { depth: 0, reason: "no trust bundle for the certificate's trust domain" };
    let [uri] = &details.uris[..] else { return Err(none) };
    let domain = uri.strip_prefix("spiffe://").map(|rest| rest.split('/').next().unwrap_or_default());
    domain.and_then(|domain| domains.get(domain)).ok_or(none)
}

fn is_called(details: &Details, name: &ServerName<'_>) -> bool {
    match name {
        ServerName::DnsName(name) => {
            details.dns.iter().any(|pattern| dns_name_matches(pattern, name.as_ref()))
        }
        ServerName::IpAddress(address) => details.ips.contains(&(*address).into()),
        _ => false,
    }
}

fn all_names(details: &Details) -> Vec<String> {
    let addresses = details.ips.iter().map(ToString::to_string);
    details.dns.iter().chain(&details.uris).cloned().chain(addresses).chain(details.emails.clone()).collect()
}

/// OpenSSL's words for what is wrong with a chain.
fn rejection(error: &webpki::Error) -> Rejection {
    use webpki::Error::{
        CaUsedAsEndEntity, CertExpired, CertNotValidYet, CertRevoked, CrlExpired, EndEntityUsedAsCa,
        InvalidSignatureForPublicKey, MaximumPathDepthExceeded, NameConstraintViolation,
        PathLenConstraintViolated, RequiredEkuNotFoundContext, UnknownIssuer, UnknownRevocationStatus,
    };
    let reason = match error {
        CertExpired { .. } => "certificate has expired",
        CertNotValidYet { .. } => "certificate is not yet valid",
        CertRevoked => "certificate revoked",
        CrlExpired { .. } => "CRL has expired",
        UnknownRevocationStatus => "unable to get certificate CRL",
        UnknownIssuer => "unable to get local issuer certificate",
        CaUsedAsEndEntity => SELF_SIGNED,
        EndEntityUsedAsCa => "invalid CA certificate",
        InvalidSignatureForPublicKey => "certificate signature failure",
        MaximumPathDepthExceeded => "certificate chain too long",
        PathLenConstraintViolated => "path length constraint exceeded",
        NameConstraintViolation => "permitted subtree violation",
        RequiredEkuNotFoundContext(_) => "unsupported certificate purpose",
        _ => "unspecified certificate verification error",
    };
    Rejection::Chain { depth: 0, reason }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::server_auth(), Some(name))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        SIGNED.set(Some(signed.scheme));
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        SIGNED.set(Some(signed.scheme));
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required || (self.validation.asks_leaf() && !self.validation.accept_untrusted)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth(), None)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        SIGNED.set(Some(signed.scheme));
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        SIGNED.set(Some(signed.scheme));
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
