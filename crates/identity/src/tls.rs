//! rustls configurations from PEM. aws-lc-rs is the only provider.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What can be wrong with key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM, or not of the kind that is needed.
    #[error("{what}: {reason}")]
    Pem {
        /// What was read.
        what: &'static str,
        /// Why it cannot be used.
        reason: String,
    },
    /// rustls refuses the combination.
    #[error("certificate and key do not make a TLS configuration: {0}")]
    Configuration(#[from] rustls::Error),
    /// The system gives no random numbers.
    #[error("no random numbers")]
    Random,
}

/// Makes aws-lc-rs the process's TLS provider; calling it again changes nothing.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// A server that shows `chain` (leaf first) and speaks one of `protocols` (ALPN).
pub fn server_config(chain: &str, key: &str, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    install_provider();
    let chain = certificates("the certificate chain", chain.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| TlsError::Pem { what: "the private key", reason: error.to_string() })?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client that trusts the certificates in `roots` and nothing else.
pub fn client_config(roots: &str, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    install_provider();
    let mut store = RootCertStore::empty();
    for certificate in certificates("the trusted roots", roots.as_bytes())? {
        store.add(certificate)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// All certificates in a PEM text; none is an error.
pub(crate) fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(TlsError::Pem { what, reason: "holds no CERTIFICATE section".to_owned() })
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Pem { what, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn material_that_cannot_be_used_is_named() {
        let check = |result: Result<(), TlsError>, expect: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expect), "{error} should name {expect}");
        };
        check(client_config("", &[]).map(drop), "the trusted roots: holds no CERTIFICATE section");
        check(server_config("", "", &[]).map(drop), "the certificate chain");
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        check(client_config(broken, &[]).map(drop), "the trusted roots");
    }
}
