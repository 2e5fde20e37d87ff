//! A certificate authority, a server and a client, for a few minutes.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};

/// Where they are.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// `ca.crt`, `server.crt`, `server.key`, `client.crt` or `client.key`.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Makes them (ECDSA, P-256).
pub fn write(folder: &Path) -> anyhow::Result<Certificates> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = named("bench authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(folder.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(vec!["bench.local".to_owned()])?;
        // Not the authority's: it would count as issued by itself.
        parameters.distinguished_name = named(name);
        parameters
            .subject_alt_names
            .push(SanType::URI(format!("spiffe://cluster.local/ns/bench/sa/{name}").try_into()?));
        fs::write(folder.join(format!("{name}.crt")), parameters.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(Certificates { folder: folder.to_owned() })
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
