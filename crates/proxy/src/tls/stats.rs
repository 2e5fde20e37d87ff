//! What is counted of handshakes.

use std::io;

use lateen_identity::verify::Rejection;
use rustls::{HandshakeKind, SignatureScheme};

use super::TlsInfo;
use super::parameters::group_name;
use crate::stats::{CertificateStats, Shard, SharedShard, SslCounters, Stats, prefix};

/// The counters of a context (Envoy's page "TLS statistics").
#[derive(Debug, Clone)]
pub struct SslStats {
    counters: SslCounters,
    stats: Stats,
    /// `listener.NAME` or `cluster.NAME`.
    scope: Box<str>,
}

/// What was seen of a handshake besides what the TLS library tells at its end.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    /// How the other end signed.
    pub(super) signature: Option<SignatureScheme>,
}

impl SslStats {
    /// Those of a listener.
    pub fn of_listener(stats: &Stats, name: &str) -> Self {
        let scope = prefix("listener", name);
        Self::new(SslCounters::of_listener(stats, name), stats, &scope)
    }

    /// Those of a cluster.
    pub fn of_cluster(stats: &Stats, name: &str) -> Self {
        let scope = prefix("cluster", name);
        Self::new(SslCounters::of_cluster(stats, name), stats, &scope)
    }

    fn new(counters: SslCounters, stats: &Stats, scope: &str) -> Self {
        Self { counters, stats: stats.clone(), scope: scope.trim_end_matches('.').into() }
    }

    /// A handshake came to its end.
    pub(super) fn completed(
        &self,
        shard: &Shard,
        info: &TlsInfo,
        connection: &rustls::CommonState,
        seen: Seen,
    ) {
        let counters = &self.counters;
        shard.increment(counters.handshake);
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if resumed {
            shard.increment(counters.session_reused);
        }
        if info.peer_chain().is_empty() {
            shard.increment(counters.no_certificate);
        }
        if let Some(place) = SslCounters::SUITES.iter().position(|name| *name == info.cipher) {
            shard.increment(counters.suites[place]);
        }
        shard.increment(counters.versions[usize::from(info.version == "TLSv1.3")]);
        if let Some(group) = connection.negotiated_key_exchange_group() {
            let name = group_name(group.name());
            if let Some(place) = SslCounters::GROUPS.iter().position(|known| *known == name) {
                shard.increment(counters.groups[place]);
            }
        }
        if let Some(place) = SslCounters::SIGNATURES.iter().position(|known| Some(*known) == seen.signature) {
            shard.increment(counters.signatures[place]);
        }
    }

    /// A handshake failed.
    pub(super) fn failed(&self, shard: &Shard, error: &io::Error) {
        let counters = &self.counters;
        // What failed below TLS is no error of it.
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return;
        };
        shard.increment(match (Rejection::of(error), error) {
            (Some(Rejection::Chain { .. }), _) => counters.fail_verify_error,
            (Some(Rejection::Names { .. } | Rejection::NameOfConnection { .. }), _) => {
                counters.fail_verify_san
            }
            (Some(Rejection::Pins), _) => counters.fail_verify_cert_hash,
            (None, rustls::Error::NoCertificatesPresented) => counters.fail_verify_no_cert,
            _ => counters.connection_error,
        });
    }

    /// What came was not TLS at all.
    pub(super) fn nonsense(&self, shard: &Shard) {
        shard.increment(self.counters.connection_error);
    }

    /// A client wants to be told the state of our certificate, and is told it or not.
    pub(super) fn status_asked(&self, shard: &Shard, told: bool) {
        let counters = &self.counters;
        shard.increment(counters.ocsp_staple_requests);
        shard.increment(if told { counters.ocsp_staple_responses } else { counters.ocsp_staple_omitted });
    }

    /// There is no configuration yet.
    pub(super) fn not_ready(&self, shard: &Shard) {
        shard.increment(self.counters.secrets_not_ready);
    }

    /// A secret brought a new configuration.
    pub(super) fn updated(&self, shard: &SharedShard) {
        shard.increment(self.counters.updated_by_secret);
    }

    /// When a certificate of this name ends.
    pub(super) fn expires(&self, shard: &SharedShard, name: &str, at: i64) {
        let suffix = format!("ssl.certificate.{name}.");
        let gauge = CertificateStats::within(&self.stats, &self.scope, suffix).expiration_unix_time_seconds;
        shard.set(gauge, u64::try_from(at).unwrap_or(0));
    }
}
