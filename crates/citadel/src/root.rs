//! The self-signed root: made once, kept in a folder, used to issue the control plane's own certificates.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};

/// How long the root lives (Istio's default for its self-signed root).
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a certificate of the control plane lives; each start of a process issues new ones.
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Certificates begin a little in the past, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);

/// What can go wrong with the root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files are there but are no usable certificate and key.
    #[error(
        "{}: not a usable root certificate and key ({reason}); restore both files, or remove both for a new root (every \
         kubeconfig and proxy must then fetch it anew)", path.display()
    )]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A certificate could not be made.
    #[error("cannot issue a certificate for {subject}: {source}")]
    Issue {
        /// Whose.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// A certificate chain and its key, both in PEM.
#[derive(Debug, Clone)]
pub struct KeyPairPem {
    /// The chain, leaf first.
    pub certificate: String,
    /// The key, PKCS #8.
    pub key: String,
}

/// The self-signed root of a mesh.
#[derive(Debug)]
pub struct SelfSignedRoot {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl SelfSignedRoot {
    /// Reads `root-cert.pem` and `root-key.pem` from `folder`, or makes them where neither is there.
    pub fn load_or_create(folder: &Path) -> Result<Self, RootError> {
        let (certificate, key) = (folder.join("root-cert.pem"), folder.join("root-key.pem"));
        if !certificate.exists() && !key.exists() {
            let pair = Self::generate()?;
            // The key first: a certificate without its key would be taken for a damaged root at the next start.
            for (path, contents, mode) in [(&key, &pair.key, 0o600), (&certificate, &pair.certificate, 0o644)]
            {
                lateen_base::paths::write_atomically(path, contents.as_bytes(), mode)
                    .map_err(|source| RootError::File { path: path.clone(), source })?;
            }
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| RootError::File { path: path.clone(), source })
        };
        let (certificate_pem, key_pem) = (read(&certificate)?, read(&key)?);
        let unusable = |error: rcgen::Error| RootError::Unusable {
            path: certificate.clone(),
            reason: error.to_string(),
        };
        let key = KeyPair::from_pem(&key_pem).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(unusable)?;
        Ok(Self { certificate: certificate_pem, issuer })
    }

    fn generate() -> Result<KeyPairPem, RootError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
        params.distinguished_name.push(DnType::CommonName, "Lateen root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, ROOT_LIFETIME);
        let issue = || -> Result<KeyPairPem, rcgen::Error> {
            let key = KeyPair::generate()?;
            Ok(KeyPairPem { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
        };
        issue().map_err(|source| RootError::Issue { subject: "the root itself".to_owned(), source })
    }

    /// The root's certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// When it ends, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()).ok()?;
        Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
    }

    /// A certificate with which a server of the control plane shows itself under `names` and `addresses`.
    pub fn issue_server(&self, names: &[&str], addresses: &[IpAddr]) -> Result<KeyPairPem, RootError> {
        let subject = names.first().copied().unwrap_or("a server");
        let names = names.iter().map(|name| Ok(SanType::DnsName((*name).try_into()?)));
        let sans: Result<Vec<SanType>, rcgen::Error> =
            names.chain(addresses.iter().map(|address| Ok(SanType::IpAddress(*address)))).collect();
        self.issue(subject, &[], sans, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client certificate for the API server: `user` is the common name, `groups` are organizations
    /// (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates>).
    pub fn issue_client(&self, user: &str, groups: &[&str]) -> Result<KeyPairPem, RootError> {
        self.issue(user, groups, Ok(Vec::new()), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        subject: &str,
        organizations: &[&str],
        sans: Result<Vec<SanType>, rcgen::Error>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<KeyPairPem, RootError> {
        let issue = || -> Result<KeyPairPem, rcgen::Error> {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            for organization in organizations {
                params.distinguished_name.push(DnType::OrganizationName, *organization);
            }
            params.distinguished_name.push(DnType::CommonName, subject);
            params.subject_alt_names = sans?;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            params.use_authority_key_identifier_extension = true;
            validity(&mut params, LEAF_LIFETIME);
            let key = KeyPair::generate()?;
            Ok(KeyPairPem {
                certificate: params.signed_by(&key, &self.issuer)?.pem(),
                key: key.serialize_pem(),
            })
        };
        issue().map_err(|source| RootError::Issue { subject: subject.to_owned(), source })
    }
}

fn validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = std::time::SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + lifetime).into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    #[test]
    fn the_root_is_made_once_and_its_leaves_verify() {
        let folder = tempfile::tempdir().unwrap();
        let root = SelfSignedRoot::load_or_create(folder.path()).unwrap();
        let again = SelfSignedRoot::load_or_create(folder.path()).unwrap();
        assert_eq!(root.certificate(), again.certificate());

        let server =
            again.issue_server(&["istiod.istio-system.svc"], &["127.0.0.1".parse().unwrap()]).unwrap();
        let client = root.issue_client("admin", &["system:masters"]).unwrap();
        let (_, root_pem) = parse_x509_pem(root.certificate().as_bytes()).unwrap();
        let root_certificate = root_pem.parse_x509().unwrap();
        assert!(root_certificate.is_ca());
        for (leaf, subject) in
            [(&server, "CN=istiod.istio-system.svc"), (&client, "O=system:masters, CN=admin")]
        {
            let (_, pem) = parse_x509_pem(leaf.certificate.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            assert_eq!(certificate.subject().to_string(), subject);
            assert_eq!(certificate.issuer(), root_certificate.subject());
            assert!(certificate.validity().is_valid() && !certificate.is_ca());
            certificate.verify_signature(Some(root_certificate.public_key())).unwrap();
        }
    }

    #[test]
    fn keys_are_private_and_damage_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        SelfSignedRoot::load_or_create(folder.path()).unwrap();
        let key = folder.path().join("root-key.pem");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&key, "not a key").unwrap();
        let error = SelfSignedRoot::load_or_create(folder.path()).unwrap_err().to_string();
        assert!(error.contains("root-cert.pem") && error.contains("remove both"), "{error}");
    }
}
