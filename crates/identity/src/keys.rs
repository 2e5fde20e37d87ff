//! Certificates with their keys, and the choice among several.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::certificate::{Details, details};
use crate::tls::{TlsError, certificates};

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Identity {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// What is in the leaf.
    pub details: Details,
}

impl Identity {
    /// From PEM: the chain, leaf first, and the leaf's key.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        staple: Option<Vec<u8>>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let chain = certificates("the certificate chain", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Pem { what: "the private key", reason: error.to_string() })?;
        let mut certified = CertifiedKey::from_der(chain, key, provider)?;
        certified.ocsp = staple;
        let details = details(certified.end_entity_cert()?)?;
        Ok(Self { key: Arc::new(certified), details })
    }

    /// The leaf, DER.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }

    fn is_ecdsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::ECDSA
    }

    /// Whether it is for this name: 2 exactly, 1 by a wildcard. A certificate without DNS names counts with its
    /// common name.
    fn fits(&self, name: &str) -> u8 {
        let fallback = self.details.common_name.as_slice();
        let names = if self.details.dns.is_empty() { fallback } else { &self.details.dns[..] };
        let rank = |pattern: &String| {
            if pattern.eq_ignore_ascii_case(name) { 2 } else { u8::from(dns_name_matches(pattern, name)) }
        };
        names.iter().map(rank).max().unwrap_or(0)
    }
}

/// Whether a DNS name is one of those that a certificate's name covers: the same, or below `*.` by one label
/// (RFC 6125, 6.4.3).
pub fn dns_name_matches(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.") else { return false };
    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
}

/// A server's certificates, chosen by SNI and by what the client can verify
/// (Envoy's "Certificate selection": exact name, then wildcard, then the first certificate).
#[derive(Debug)]
pub struct ServerIdentities {
    identities: Vec<Arc<Identity>>,
}

impl ServerIdentities {
    /// In the order of the configuration.
    pub fn new(identities: Vec<Arc<Identity>>) -> Self {
        Self { identities }
    }

    /// The certificate for a client.
    pub fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<Identity>> {
        let first = self.identities.first()?;
        if self.identities.len() == 1 {
            return Some(first);
        }
        let ecdsa = schemes.iter().any(|scheme| {
            matches!(
                scheme,
                SignatureScheme::ECDSA_NISTP256_SHA256
                    | SignatureScheme::ECDSA_NISTP384_SHA384
                    | SignatureScheme::ECDSA_NISTP521_SHA512
            )
        });
        let usable = |identity: &&Arc<Identity>| ecdsa || !identity.is_ecdsa();
        let best = |wanted: &dyn Fn(&Identity) -> bool| {
            let mut fitting = self.identities.iter().filter(|identity| wanted(identity)).filter(usable);
            let found = fitting.next()?;
            // With a client that can, the shorter signature.
            if ecdsa && !found.is_ecdsa() {
                fitting.find(|identity| identity.is_ecdsa()).or(Some(found))
            } else {
                Some(found)
            }
        };
        if let Some(name) = name {
            for rank in [2, 1] {
                if let Some(found) = best(&|identity| identity.fits(name) == rank) {
                    return Some(found);
                }
            }
        }
        Some(self.identities.iter().find(usable).unwrap_or(first))
    }
}

impl ResolvesServerCert for ServerIdentities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.choose(hello.server_name(), hello.signature_schemes())?.key))
    }
}

/// A client's certificates: the first that the server can verify.
#[derive(Debug)]
pub struct ClientIdentities {
    identities: Vec<Arc<Identity>>,
}

impl ClientIdentities {
    /// In the order of the configuration.
    pub fn new(identities: Vec<Arc<Identity>>) -> Self {
        Self { identities }
    }
}

impl rustls::client::ResolvesClientCert for ClientIdentities {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |identity: &&Arc<Identity>| identity.key.key.choose_scheme(schemes).is_some();
        self.identities.iter().find(usable).map(|identity| Arc::clone(&identity.key))
    }

    fn has_certs(&self) -> bool {
        !self.identities.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Arc<Identity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let (chain, key) = (certificate.pem(), key.serialize_pem());
        Arc::new(Identity::from_pem(chain.as_bytes(), key.as_bytes(), None, &provider).unwrap())
    }

    #[test]
    fn the_name_chooses_then_what_the_client_can_verify() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let ed25519 = &rcgen::PKCS_ED25519;
        let all = vec![
            identity(&["first.example"], p256),
            identity(&["*.example"], p256),
            identity(&["a.example"], p256),
            identity(&["a.example"], ed25519),
        ];
        let choose = |name: Option<&str>, schemes: &[SignatureScheme]| {
            let identities = ServerIdentities::new(all.clone());
            let chosen = Arc::clone(identities.choose(name, schemes).unwrap());
            all.iter().position(|identity| Arc::ptr_eq(identity, &chosen)).unwrap()
        };
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let other = [SignatureScheme::ED25519];
        for (name, sni, schemes, expect) in [
            ("exact before wildcard", Some("a.example"), &ecdsa[..], 2),
            ("wildcard", Some("b.example"), &ecdsa, 1),
            ("case does not count", Some("A.EXAMPLE"), &ecdsa, 2),
            ("a wildcard covers one label", Some("b.c.example"), &ecdsa, 0),
            ("no name", None, &ecdsa, 0),
            ("unknown name", Some("x.test"), &ecdsa, 0),
            ("a client without ECDSA", Some("a.example"), &other, 3),
        ] {
            assert_eq!(choose(sni, schemes), expect, "{name}");
        }
    }

    #[test]
    fn a_key_that_is_not_the_certificates_is_refused() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        let foreign = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(
            Identity::from_pem(certificate.pem().as_bytes(), foreign.as_bytes(), None, &provider).is_err()
        );
    }
}
