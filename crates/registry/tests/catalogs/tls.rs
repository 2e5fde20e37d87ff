//! Certificates of the fake and of its only client, by an authority that nobody else knows.

use std::path::Path;
use std::sync::{Arc, Mutex};

use lateen_api::registries::RegistryTls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The name in the server's certificate; its address is not in it.
const NAME: &str = "platform.example.com";

/// TLS of one fake: the files that its client reads, and the server's side.
pub struct Tls {
    folder: tempfile::TempDir,
    acceptor: Mutex<TlsAcceptor>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

struct Leaf {
    certificate: String,
    key: String,
}

impl Tls {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        authority.leaf("mesh").write(folder.path());
        std::fs::write(folder.path().join("ca.pem"), &authority.pem).unwrap();
        let acceptor = Mutex::new(authority.acceptor());
        Self { folder, acceptor }
    }

    /// What the client is told.
    pub fn config(&self) -> RegistryTls {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        RegistryTls {
            ca_certificates: path("ca.pem"),
            client_certificate: path("cert.pem"),
            private_key: path("key.pem"),
            server_name: NAME.into(),
        }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.lock().unwrap().clone()
    }

    /// The server trusts another authority from now on, and has its certificate from it. The client learns of it by what is
    /// returned.
    pub fn replace(&self) -> impl FnOnce() + '_ {
        let authority = Authority::new();
        *self.acceptor.lock().unwrap() = authority.acceptor();
        move || {
            std::fs::write(self.folder.path().join("ca.pem"), &authority.pem).unwrap();
            authority.leaf("mesh").write(self.folder.path());
        }
    }
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }

    /// A server that talks to those alone who have a certificate of the authority.
    fn acceptor(&self) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let own = self.leaf(NAME);
        let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(chain, key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

impl Leaf {
    fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.certificate).unwrap();
        std::fs::write(folder.join("key.pem"), &self.key).unwrap();
    }
}
