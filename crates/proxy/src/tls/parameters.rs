//! Versions, suites and groups: names of OpenSSL, which Envoy's configuration uses, and those of the TLS library.

use std::sync::Arc;

use lateen_dataplane::tls::{CommonTls, TlsVersion};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion};

use super::TlsError;

/// Suites by OpenSSL's names, as Envoy prefers them (BoringSSL's order on machines with AES instructions).
const SUITES: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES256-GCM-SHA384", aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
];

/// How many of those are of TLS 1.3; these are always spoken.
const TLS13_SUITES: usize = 3;

/// Groups by OpenSSL's names. The first three are Envoy's default.
const GROUPS: [(&str, NamedGroup, &dyn SupportedKxGroup); 4] = [
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768, aws_lc_rs::kx_group::X25519MLKEM768),
    ("X25519", NamedGroup::X25519, aws_lc_rs::kx_group::X25519),
    ("P-256", NamedGroup::secp256r1, aws_lc_rs::kx_group::SECP256R1),
    ("P-384", NamedGroup::secp384r1, aws_lc_rs::kx_group::SECP384R1),
];

/// OpenSSL's name of a suite.
pub(super) fn suite_name(suite: CipherSuite) -> &'static str {
    SUITES.iter().find(|(_, known)| known.suite() == suite).map_or("unknown", |(name, _)| name)
}

/// OpenSSL's name of a group.
pub(super) fn group_name(group: NamedGroup) -> &'static str {
    GROUPS.iter().find(|(_, known, _)| *known == group).map_or("unknown", |(name, ..)| name)
}

/// The versions to speak.
pub(super) fn versions(common: &CommonTls) -> &'static [&'static SupportedProtocolVersion] {
    static NEW: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    static OLD: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    match (common.min_version, common.max_version) {
        (TlsVersion::Tls13, _) => &NEW,
        (_, TlsVersion::Tls12) => &OLD,
        _ => rustls::ALL_VERSIONS,
    }
}

/// The TLS library with the suites and groups that are configured.
pub(super) fn provider(common: &CommonTls) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut suites: Vec<SupportedCipherSuite> =
        SUITES[..TLS13_SUITES].iter().map(|(_, suite)| *suite).collect();
    let configured = common.ciphers.iter().flat_map(|entry| entry.split([':', '|', '[', ']', ' ']));
    let configured: Vec<&str> = configured.filter(|name| !name.is_empty()).collect();
    if configured.is_empty() {
        suites.extend(SUITES[TLS13_SUITES..].iter().map(|(_, suite)| *suite));
    }
    for name in configured {
        match suite(name) {
            Some(suite) if !suites.contains(&suite) => suites.push(suite),
            Some(_) => {}
            None => tracing::warn!(suite = name, "this cipher suite is not supported and left out"),
        }
    }
    if suites.len() == TLS13_SUITES && common.max_version == TlsVersion::Tls12 {
        return Err(unusable("cipher_suites", "none of these is supported"));
    }
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let configured = common.groups.iter().flat_map(|entry| entry.split([':', '|', '[', ']', ' ']));
    for name in configured.filter(|name| !name.is_empty()) {
        match GROUPS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)) {
            Some((.., group)) => groups.push(*group),
            None => tracing::warn!(group = name, "this group is not supported and left out"),
        }
    }
    if groups.is_empty() {
        if !common.groups.is_empty() {
            return Err(unusable("ecdh_curves", "none of these is supported"));
        }
        groups.extend(GROUPS[..3].iter().map(|(.., group)| *group));
    }
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, kx_groups: groups, ..aws_lc_rs::default_provider() }))
}

/// The library with each of its groups alone, in their order, and whether that is for TLS 1.3 only. A group that no
/// version of these can use is left out.
pub(super) fn by_group(
    provider: &CryptoProvider,
    common: &CommonTls,
) -> Vec<(NamedGroup, bool, Arc<CryptoProvider>)> {
    let versions = versions(common);
    let usable = |group: &&&dyn SupportedKxGroup| {
        versions.iter().any(|version| group.usable_for_version(version.version))
    };
    let alone = |group: &&'static dyn SupportedKxGroup| {
        let new_only = !group.usable_for_version(ProtocolVersion::TLSv1_2);
        let provider = CryptoProvider { kx_groups: vec![*group], ..provider.clone() };
        (group.name(), new_only, Arc::new(provider))
    };
    provider.kx_groups.iter().filter(usable).map(alone).collect()
}

fn unusable(what: &'static str, reason: &str) -> TlsError {
    TlsError::Pem { what, reason: reason.to_owned() }
}

/// A suite of TLS 1.2 by the name of OpenSSL or of IANA.
fn suite(name: &str) -> Option<SupportedCipherSuite> {
    let named = |(openssl, suite): &&(&str, SupportedCipherSuite)| {
        *openssl == name || suite.suite().as_str() == Some(name)
    };
    SUITES[TLS13_SUITES..].iter().find(named).map(|(_, suite)| *suite)
}

#[cfg(test)]
mod tests {
    use lateen_dataplane::tls::{Certificates, ValidationConfig};

    use super::*;

    fn common(ciphers: &[&str], groups: &[&str], max_version: TlsVersion) -> CommonTls {
        CommonTls {
            min_version: TlsVersion::Tls12,
            max_version,
            ciphers: ciphers.iter().map(|name| (*name).into()).collect(),
            groups: groups.iter().map(|name| (*name).into()).collect(),
            protocols: Vec::new(),
            certificates: Certificates::Inline(Vec::new()),
            validation: ValidationConfig::default(),
        }
    }

    #[test]
    fn suites_and_groups_by_name() {
        let names = |ciphers: &[&str], groups: &[&str]| {
            let provider = provider(&common(ciphers, groups, TlsVersion::Tls13)).unwrap();
            let suites =
                provider.cipher_suites.iter().map(|suite| suite_name(suite.suite())).skip(TLS13_SUITES);
            let groups = provider.kx_groups.iter().map(|group| group_name(group.name()));
            (suites.collect::<Vec<_>>(), groups.collect::<Vec<_>>())
        };
        assert_eq!(names(&[], &[]).1, ["X25519MLKEM768", "X25519", "P-256"]);
        assert_eq!(names(&[], &[]).0.len(), 6);
        assert_eq!(
            names(&["[ECDHE-RSA-AES128-GCM-SHA256|AES128-SHA]:ECDHE-RSA-AES256-GCM-SHA384"], &["P-384"]),
            (vec!["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"], vec!["P-384"])
        );
        assert!(provider(&common(&["AES128-SHA"], &[], TlsVersion::Tls12)).is_err());
        assert!(provider(&common(&[], &["P-521"], TlsVersion::Tls13)).is_err());
    }
}
