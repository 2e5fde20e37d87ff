//! Throw-away authorities and the certificates they sign.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// A root certificate and its key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// An authority of this common name.
    pub fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its root certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// For these names: addresses, URIs (what has `://`), and DNS names. The first is the common name.
    pub fn leaf(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |_| {})
    }

    /// As [`Authority::leaf`], out of date for years.
    pub fn expired(&self, names: &[&str]) -> Leaf {
        self.leaf_with(names, |parameters| parameters.not_after = date_time_ymd(2020, 1, 1))
    }

    /// As Kubernetes reads a client's certificate: a user (common name) and his groups (organizations).
    pub fn user(&self, name: &str, groups: &[&str]) -> Leaf {
        self.leaf_with(&[], |parameters| {
            parameters.distinguished_name.push(DnType::CommonName, name);
            for group in groups {
                parameters.distinguished_name.push(DnType::OrganizationName, *group);
            }
        })
    }

    /// As [`Authority::leaf`], with a last change of what is signed.
    pub fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        if let Some(name) = names.first() {
            parameters.distinguished_name.push(DnType::CommonName, *name);
        }
        for name in names {
            parameters.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().unwrap()),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        change(&mut parameters);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        Leaf { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Leaf {
    /// The certificate, DER.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }

    /// The private key, DER.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    /// Certificate and key in one text, as some clients want them.
    pub fn identity(&self) -> String {
        format!("{}{}", self.chain, self.key)
    }

    /// A server that shows this certificate and asks for none.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![self.der()], self.private_key()).unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_belong_to_their_certificates_and_names_to_their_kinds() {
        let authority = Authority::new("ca");
        assert!(authority.pem().contains("CERTIFICATE"));
        let names = ["shop.example", "127.0.0.1", "spiffe://mesh/ns/a/sa/b"];
        for leaf in [authority.leaf(&names), authority.expired(&names), authority.user("admin", &["a", "b"])]
        {
            // rustls refuses a key that is not the certificate's.
            leaf.server();
            assert!(leaf.identity().contains("PRIVATE KEY"));
        }
        let seen = std::cell::Cell::new(0);
        authority.leaf_with(&names, |parameters| {
            let kinds = parameters.subject_alt_names.iter().map(|name| match name {
                SanType::DnsName(_) => 1,
                SanType::IpAddress(_) => 10,
                SanType::URI(_) => 100,
                _ => 1000,
            });
            seen.set(kinds.sum());
        });
        assert_eq!(seen.get(), 111);
    }
}
