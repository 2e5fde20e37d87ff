//! Reading certificates, keys and lists of trusted and revoked ones.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use lateen_dataplane::matcher::StringPattern;
use lateen_dataplane::tls::{CertificateSource, DataSource, SanKind, SanMatcher, ValidationSource};
use lateen_identity::keys::Identity;
use lateen_identity::verify;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::TlsError;

/// Bytes from where they are.
pub(super) fn read(what: &'static str, source: &DataSource) -> Result<Vec<u8>, TlsError> {
    let failed = |reason: String| TlsError::Pem { what, reason };
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File(path) => {
            std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))
        }
        DataSource::Environment(name) => std::env::var_os(name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(|| failed(format!("the variable {name} is not set"))),
    }
}

/// The files that sources name.
pub(super) fn files<'a>(sources: impl Iterator<Item = &'a DataSource>) -> Vec<PathBuf> {
    sources
        .filter_map(|source| match source {
            DataSource::File(path) => Some(path.clone()),
            _ => None,
        })
        .collect()
}

/// A certificate with its key.
pub(super) fn identity(
    source: &CertificateSource,
    provider: &CryptoProvider,
) -> Result<Arc<Identity>, TlsError> {
    let staple = source.staple.as_ref().map(|staple| read("ocsp_staple", staple)).transpose()?;
    let chain = read("certificate_chain", &source.chain)?;
    let key = read("private_key", &source.key)?;
    Ok(Arc::new(Identity::from_pem(&chain, &key, staple, provider)?))
}

/// What is asked of the other end. `from_connection`: the server's name counts, too.
pub(super) fn validation(
    source: &ValidationSource,
    from_connection: bool,
) -> Result<verify::Validation, TlsError> {
    let mut trusted = None;
    let mut revoked = Vec::new();
    if let Some(source) = &source.trusted {
        let pem = read("trusted_ca", source)?;
        trusted = Some(certificates("trusted_ca", &pem)?);
        // Lists may stand beside the certificates.
        revoked.extend(CertificateRevocationListDer::pem_slice_iter(&pem).flatten());
    }
    if source.system_roots {
        trusted.get_or_insert_default().extend(system_roots());
    }
    let mut domains = HashMap::new();
    for (name, bundle) in &source.trust_domains {
        let pem = read("trust_bundle", bundle)?;
        domains.insert(name.to_string(), certificates("trust_bundle", &pem)?);
    }
    if let Some(source) = &source.revoked {
        let pem = read("crl", source)?;
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
        let lists = lists.map_err(|error| TlsError::Pem { what: "crl", reason: error.to_string() })?;
        if lists.is_empty() {
            return Err(TlsError::Pem { what: "crl", reason: "holds no X509 CRL section".to_owned() });
        }
        revoked.extend(lists);
    }
    Ok(verify::Validation {
        trusted,
        trust_domains: (!domains.is_empty()).then_some(domains),
        revoked,
        revoked_leaf_only: source.revoked_leaf_only,
        max_depth: source.max_depth,
        // The name that was sent takes the place of the others.
        names: if from_connection { Vec::new() } else { source.names.iter().map(name).collect() },
        public_keys: source.public_keys.clone(),
        certificates: source.certificates.clone(),
        accept_untrusted: source.accept_untrusted,
        allow_expired: source.allow_expired,
        hide_authorities: source.hide_authorities,
        name_from_connection: from_connection,
    })
}

/// All certificates of a PEM text; none is an error.
pub(super) fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(TlsError::Pem { what, reason: "holds no CERTIFICATE section".to_owned() })
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Pem { what, reason: error.to_string() }),
    }
}

/// Where systems keep the authorities they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn system_roots() -> Vec<CertificateDer<'static>> {
    let pem = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok());
    pem.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem).flatten()).collect()
}

fn name(matcher: &SanMatcher) -> verify::SanMatcher {
    let kind = match &matcher.kind {
        SanKind::Dns => verify::SanKind::Dns,
        SanKind::Uri => verify::SanKind::Uri,
        SanKind::Ip => verify::SanKind::Ip,
        SanKind::Email => verify::SanKind::Email,
        SanKind::Other(oid) => verify::SanKind::Other(oid.to_string()),
    };
    let rule = match &matcher.matcher.pattern {
        StringPattern::Exact(text) if !matcher.matcher.ignore_case => {
            verify::SanRule::Exact(String::from_utf8_lossy(text).into_owned())
        }
        _ => {
            let matcher = matcher.matcher.clone();
            verify::SanRule::Matches(Box::new(move |name| matcher.matches(name.as_bytes())))
        }
    };
    verify::SanMatcher { kind, rule }
}
