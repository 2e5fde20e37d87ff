//! The certificates of a run, and rustls configurations made of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use crate::case::{ClientTls, UpstreamTls};

/// Name of each certificate, DNS names, URI, and which authority signed it.
const CERTIFICATES: &[(&str, &[&str], &str, &str)] = &[
    ("server", &["test", "*.example.com", "localhost"], "spiffe://mesh/ns/test/sa/server", "ca"),
    ("other", &["other.test"], "spiffe://mesh/ns/test/sa/other", "ca"),
    ("client", &["client.test"], "spiffe://mesh/ns/test/sa/client", "ca"),
    ("stranger", &["stranger.test"], "spiffe://mesh/ns/test/sa/stranger", "strange_ca"),
];

/// A folder with `ca.pem`, `strange_ca.pem`, and `NAME.pem`, `NAME.key` of every certificate.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them all.
    pub fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        for authority in ["ca", "strange_ca"] {
            let mut parameters = CertificateParams::new(Vec::new())?;
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(DnType::CommonName, authority);
            let key = KeyPair::generate()?;
            std::fs::write(folder.join(format!("{authority}.pem")), parameters.self_signed(&key)?.pem())?;
            let issuer = Issuer::new(parameters, key);
            for (name, dns, uri, _) in CERTIFICATES.iter().filter(|row| row.3 == authority) {
                leaf(folder, name, dns, uri, &issuer)?;
            }
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn chain(&self, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let file = self.folder.join(format!("{name}.pem"));
        let certificate =
            CertificateDer::from_pem_file(&file).with_context(|| format!("{}", file.display()))?;
        Ok((vec![certificate], PrivateKeyDer::from_pem_file(self.folder.join(format!("{name}.key")))?))
    }

    /// The server's side.
    pub fn server(&self, tls: &UpstreamTls) -> Result<Arc<rustls::ServerConfig>> {
        let (chain, key) = self.chain(tls.certificate.as_deref().unwrap_or("server"))?;
        let builder = rustls::ServerConfig::builder();
        let builder = if tls.client_certificate {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.folder.join("ca.pem"))?)?;
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build()?)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        Ok(Arc::new(config))
    }

    /// The client's side. The server's certificate is looked at, not judged.
    pub fn client(&self, tls: &ClientTls) -> Result<Arc<rustls::ClientConfig>> {
        let versions: &[&rustls::SupportedProtocolVersion] = match tls.version.as_deref() {
            Some("1.2") => &[&rustls::version::TLS12],
            Some("1.3") => &[&rustls::version::TLS13],
            _ => rustls::ALL_VERSIONS,
        };
        let builder = rustls::ClientConfig::builder_with_protocol_versions(versions)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match &tls.certificate {
            Some(name) => {
                let (chain, key) = self.chain(name)?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        config.enable_sni = tls.sni.is_some();
        Ok(Arc::new(config))
    }
}

fn leaf(folder: &Path, name: &str, dns: &[&str], uri: &str, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    let mut parameters =
        CertificateParams::new(dns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    parameters.subject_alt_names.push(SanType::URI(uri.try_into()?));
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "mesh");
    parameters.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate()?;
    std::fs::write(folder.join(format!("{name}.pem")), parameters.signed_by(&key, issuer)?.pem())?;
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}

/// Takes every certificate: which one came is part of what is compared.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
