//! What logs and statistics see of a TLS connection.

use std::time::Duration;

use lateen_dataplane::stream_info::{CertificateInfo, TlsView};
use lateen_identity::certificate::{Details, hex, pem, sha1, sha256};

use super::TlsInfo;

impl TlsView for TlsInfo {
    fn version(&self) -> &str {
        self.version
    }

    fn cipher(&self) -> &str {
        self.cipher
    }

    fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    fn has_peer(&self) -> bool {
        self.peer_verified
    }

    fn uri(&self, peer: bool) -> Option<&str> {
        let details = if peer { self.peer() } else { self.local() };
        details?.uris.first().map(String::as_str)
    }

    fn certificate(&self, peer: bool) -> Option<CertificateInfo> {
        let mut info = from_details(if peer { self.peer() } else { self.local() }?);
        // Of our own certificate only names are ever shown.
        if let Some(der) = self.peer_chain().first().filter(|_| peer) {
            info.sha1 = hex(&sha1(der)).into();
            info.sha256 = hex(&sha256(der)).into();
            info.pem = encoded(&pem(der)).into();
        }
        Some(info)
    }
}

fn from_details(details: &Details) -> CertificateInfo {
    let list = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
    let moment = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    CertificateInfo {
        subject: details.subject.as_str().into(),
        issuer: details.issuer.as_str().into(),
        serial: details.serial.as_str().into(),
        uris: list(&details.uris),
        dns_names: list(&details.dns),
        addresses: details.ips.iter().map(|address| address.to_string().into()).collect(),
        emails: list(&details.emails),
        not_before: moment(details.not_before),
        not_after: moment(details.not_after),
        ..CertificateInfo::default()
    }
}

/// Percent-encoded, as Envoy writes certificates into lines.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
