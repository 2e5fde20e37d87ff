//! What is known of a TLS connection: for logs, headers and statistics.

use std::sync::{Arc, OnceLock};

use lateen_identity::certificate::{Details, details};
use lateen_identity::keys::Identity;
use rustls::pki_types::CertificateDer;
use rustls::{CommonState, ProtocolVersion};

use super::parameters::suite_name;

/// A TLS connection after its handshake. Certificates are taken apart when somebody asks.
#[derive(Debug)]
pub struct TlsInfo {
    /// `TLSv1.3`
    pub version: &'static str,
    /// OpenSSL's name.
    pub cipher: &'static str,
    /// What both ends agreed on.
    pub protocol: Option<Box<[u8]>>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
    /// Whether the other end's certificate was verified.
    pub peer_verified: bool,
    local: Option<Arc<Identity>>,
    peer: Vec<CertificateDer<'static>>,
    peer_details: OnceLock<Option<Box<Details>>>,
}

impl TlsInfo {
    pub(super) fn new(
        connection: &CommonState,
        server_name: Option<Arc<str>>,
        local: Option<Arc<Identity>>,
        verifies: bool,
    ) -> Self {
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        let peer: Vec<_> = connection.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            cipher: suite.map_or("unknown", suite_name),
            protocol: connection.alpn_protocol().map(Into::into),
            server_name,
            peer_verified: verifies && !peer.is_empty(),
            local,
            peer,
            peer_details: OnceLock::new(),
        }
    }

    /// Whether HTTP/2 was agreed on; none where nothing was.
    pub fn http2(&self) -> Option<bool> {
        self.protocol.as_deref().map(|protocol| protocol == b"h2")
    }

    /// The other end's certificates, leaf first.
    pub fn peer_chain(&self) -> &[CertificateDer<'static>] {
        &self.peer
    }

    /// What is in the other end's certificate.
    pub fn peer(&self) -> Option<&Details> {
        let read = || details(self.peer.first()?).ok().map(Box::new);
        self.peer_details.get_or_init(read).as_deref()
    }

    /// What is in ours.
    pub fn local(&self) -> Option<&Details> {
        self.local.as_ref().map(|identity| &identity.details)
    }
}
