//! What is counted of handshakes.

use std::io;

use lateen_identity::verify::Rejection;
use rustls::HandshakeKind;

use super::TlsInfo;
use super::parameters::group_name;
use crate::stats::{Shard, SharedShard, SslCounters, Stats};

/// The counters of a context (Envoy's page "TLS statistics").
#[derive(Debug, Clone, Copy)]
pub struct SslStats(SslCounters);

impl SslStats {
    /// Those of a listener.
    pub fn of_listener(stats: &Stats, name: &str) -> Self {
        Self(SslCounters::of_listener(stats, name))
    }

    /// Those of a cluster.
    pub fn of_cluster(stats: &Stats, name: &str) -> Self {
        Self(SslCounters::of_cluster(stats, name))
    }

    /// A handshake came to its end.
    pub(super) fn completed(&self, shard: &Shard, info: &TlsInfo, connection: &rustls::CommonState) {
        let counters = &self.0;
        shard.increment(counters.handshake);
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
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
    }

    /// A handshake failed.
    pub(super) fn failed(&self, shard: &Shard, error: &io::Error) {
        let counters = &self.0;
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            shard.increment(counters.connection_error);
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

    /// There is no configuration yet.
    pub(super) fn not_ready(&self, shard: &Shard) {
        shard.increment(self.0.secrets_not_ready);
    }

    /// A secret brought a new configuration.
    pub(super) fn updated(&self, shard: &SharedShard) {
        shard.increment(self.0.updated_by_secret);
    }
}
