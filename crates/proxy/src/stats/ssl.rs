//! `ssl.*` of listeners and clusters, and `sds.*` of secrets (Envoy's pages "TLS statistics" and "SDS").

use rustls::SignatureScheme;

use super::groups::prefix;
use super::registry::{Handles, Names};
use super::{Counter, Kind, Stats};

/// The counters of a TLS context.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct SslCounters {
    pub connection_error: Counter,
    pub fail_verify_cert_hash: Counter,
    pub fail_verify_error: Counter,
    pub fail_verify_no_cert: Counter,
    pub fail_verify_san: Counter,
    pub handshake: Counter,
    pub no_certificate: Counter,
    pub ocsp_staple_omitted: Counter,
    pub ocsp_staple_requests: Counter,
    pub ocsp_staple_responses: Counter,
    pub session_reused: Counter,
    /// By the place in [`SUITES`](SslCounters::SUITES).
    pub suites: [Counter; 9],
    /// By the place in [`GROUPS`](SslCounters::GROUPS).
    pub groups: [Counter; 4],
    /// TLS 1.2 and 1.3.
    pub versions: [Counter; 2],
    /// How the other end signed, by the place in [`SIGNATURES`](SslCounters::SIGNATURES).
    pub signatures: [Counter; 10],
    /// Connections without the secrets that they need.
    pub secrets_not_ready: Counter,
    /// How often secrets brought a new configuration.
    pub updated_by_secret: Counter,
}

macro_rules! names {
    ($($name:literal: $kind:ident),* $(,)?) => {
        &[
            ("ssl.connection_error", Kind::Counter), ("ssl.fail_verify_cert_hash", Kind::Counter),
            ("ssl.fail_verify_error", Kind::Counter), ("ssl.fail_verify_no_cert", Kind::Counter),
            ("ssl.fail_verify_san", Kind::Counter), ("ssl.handshake", Kind::Counter),
            ("ssl.no_certificate", Kind::Counter), ("ssl.ocsp_staple_failed", Kind::Counter),
            ("ssl.ocsp_staple_omitted", Kind::Counter), ("ssl.ocsp_staple_requests", Kind::Counter),
            ("ssl.ocsp_staple_responses", Kind::Counter), ("ssl.session_reused", Kind::Counter),
            ("ssl.ciphers.TLS_AES_128_GCM_SHA256", Kind::Lazy), ("ssl.ciphers.TLS_AES_256_GCM_SHA384", Kind::Lazy),
            ("ssl.ciphers.TLS_CHACHA20_POLY1305_SHA256", Kind::Lazy),
            ("ssl.ciphers.ECDHE-ECDSA-AES128-GCM-SHA256", Kind::Lazy),
            ("ssl.ciphers.ECDHE-ECDSA-CHACHA20-POLY1305", Kind::Lazy),
            ("ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256", Kind::Lazy),
            ("ssl.ciphers.ECDHE-RSA-CHACHA20-POLY1305", Kind::Lazy),
            ("ssl.ciphers.ECDHE-ECDSA-AES256-GCM-SHA384", Kind::Lazy),
            ("ssl.ciphers.ECDHE-RSA-AES256-GCM-SHA384", Kind::Lazy),
            ("ssl.curves.X25519", Kind::Lazy), ("ssl.curves.P-256", Kind::Lazy), ("ssl.curves.P-384", Kind::Lazy),
            ("ssl.curves.X25519MLKEM768", Kind::Lazy),
            ("ssl.versions.TLSv1.2", Kind::Lazy), ("ssl.versions.TLSv1.3", Kind::Lazy),
            ("ssl.sigalgs.ecdsa_secp256r1_sha256", Kind::Lazy), ("ssl.sigalgs.ecdsa_secp384r1_sha384", Kind::Lazy),
            ("ssl.sigalgs.ecdsa_secp521r1_sha512", Kind::Lazy), ("ssl.sigalgs.ed25519", Kind::Lazy),
            ("ssl.sigalgs.rsa_pss_rsae_sha256", Kind::Lazy), ("ssl.sigalgs.rsa_pss_rsae_sha384", Kind::Lazy),
            ("ssl.sigalgs.rsa_pss_rsae_sha512", Kind::Lazy), ("ssl.sigalgs.rsa_pkcs1_sha256", Kind::Lazy),
            ("ssl.sigalgs.rsa_pkcs1_sha384", Kind::Lazy), ("ssl.sigalgs.rsa_pkcs1_sha512", Kind::Lazy),
            $(($name, Kind::$kind),)*
        ]
    };
}

const OF_LISTENER: Names = names! {
    "server_ssl_socket_factory.downstream_context_secrets_not_ready": Counter,
    "server_ssl_socket_factory.ssl_context_update_by_sds": Counter,
    "server_ssl_socket_factory.upstream_context_secrets_not_ready": Counter,
};
const OF_CLUSTER: Names = names! {
    "client_ssl_socket_factory.upstream_context_secrets_not_ready": Counter,
    "client_ssl_socket_factory.ssl_context_update_by_sds": Counter,
    "client_ssl_socket_factory.downstream_context_secrets_not_ready": Counter,
};

impl SslCounters {
    /// OpenSSL's names of suites, in the order of the counters.
    pub const SUITES: [&str; 9] = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ];
    /// OpenSSL's names of groups, in the order of the counters.
    pub const GROUPS: [&str; 4] = ["X25519", "P-256", "P-384", "X25519MLKEM768"];

    /// Signature algorithms, in the order of the counters.
    pub const SIGNATURES: [SignatureScheme; 10] = [
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ECDSA_NISTP521_SHA512,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::RSA_PSS_SHA384,
        SignatureScheme::RSA_PSS_SHA512,
        SignatureScheme::RSA_PKCS1_SHA256,
        SignatureScheme::RSA_PKCS1_SHA384,
        SignatureScheme::RSA_PKCS1_SHA512,
    ];

    /// Those of a listener.
    pub fn of_listener(stats: &Stats, name: &str) -> Self {
        static NAMES: Names = OF_LISTENER;
        Self::take(stats.group(&prefix("listener", name), "".into(), NAMES))
    }

    /// Those of a cluster.
    pub fn of_cluster(stats: &Stats, name: &str) -> Self {
        static NAMES: Names = OF_CLUSTER;
        Self::take(stats.group(&prefix("cluster", name), "".into(), NAMES))
    }

    fn take(mut handles: Handles) -> Self {
        // In the order of the names.
        Self {
            connection_error: handles.counter(),
            fail_verify_cert_hash: handles.counter(),
            fail_verify_error: handles.counter(),
            fail_verify_no_cert: handles.counter(),
            fail_verify_san: handles.counter(),
            handshake: handles.counter(),
            no_certificate: handles.counter(),
            ocsp_staple_omitted: {
                // `ocsp_staple_failed` is never counted: what cannot be stapled is left out.
                handles.counter();
                handles.counter()
            },
            ocsp_staple_requests: handles.counter(),
            ocsp_staple_responses: handles.counter(),
            session_reused: handles.counter(),
            suites: std::array::from_fn(|_| handles.counter()),
            groups: std::array::from_fn(|_| handles.counter()),
            versions: std::array::from_fn(|_| handles.counter()),
            signatures: std::array::from_fn(|_| handles.counter()),
            secrets_not_ready: handles.counter(),
            updated_by_secret: handles.counter(),
        }
    }
}

/// `sds.NAME.*`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct SecretStats {
    pub init_fetch_timeout: Counter,
    pub key_rotation_failed: Counter,
    pub update_attempt: Counter,
    pub update_failure: Counter,
    pub update_rejected: Counter,
    pub update_success: Counter,
}

impl SecretStats {
    /// Those of a secret.
    pub fn new(stats: &Stats, name: &str) -> Self {
        static NAMES: Names = &[
            ("init_fetch_timeout", Kind::Counter),
            ("key_rotation_failed", Kind::Counter),
            ("update_attempt", Kind::Counter),
            ("update_failure", Kind::Counter),
            ("update_rejected", Kind::Counter),
            ("update_success", Kind::Counter),
        ];
        let mut handles = stats.group(&prefix("sds", name), "".into(), NAMES);
        Self {
            init_fetch_timeout: handles.counter(),
            key_rotation_failed: handles.counter(),
            update_attempt: handles.counter(),
            update_failure: handles.counter(),
            update_rejected: handles.counter(),
            update_success: handles.counter(),
        }
    }
}
