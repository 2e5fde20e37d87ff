//! `x-forwarded-client-cert`: what upstreams learn of a client's certificate.
//!
//! Source: `HttpConnectionManager.forward_client_cert_details` and Envoy's page "HTTP header manipulation".

use lateen_dataplane::head::Headers;
use lateen_dataplane::listener::{ClientCertDetails, ForwardClientCert};
use lateen_identity::certificate::{hex, pem, sha256};

use crate::tls::TlsInfo;

const NAME: &str = "x-forwarded-client-cert";

/// Removes, keeps, sets or extends the header.
pub fn forward(
    mode: ForwardClientCert,
    details: ClientCertDetails,
    headers: &mut Headers,
    tls: Option<&TlsInfo>,
) {
    let tls = match (mode, tls.filter(|tls| !tls.peer_chain().is_empty())) {
        (ForwardClientCert::AlwaysForwardOnly, _) => return,
        // Without a certificate nobody vouches for what the header says.
        (ForwardClientCert::Sanitize, _) | (_, None) => {
            headers.remove(NAME);
            return;
        }
        (ForwardClientCert::ForwardOnly, _) => return,
        (_, Some(tls)) => tls,
    };
    let element = element(details, tls);
    match headers.get(NAME) {
        Some(before) if mode == ForwardClientCert::AppendForward => {
            let list = [before, b",", element.as_bytes()].concat();
            headers.set(NAME, list);
        }
        _ => headers.set(NAME, element),
    }
}

/// What is said of the certificate of this connection.
fn element(details: ClientCertDetails, tls: &TlsInfo) -> String {
    let mut parts: Vec<String> = Vec::new();
    let local = tls.local().map_or(&[][..], |local| &local.uris[..]);
    parts.extend(local.iter().map(|uri| format!("By={uri}")));
    if let Some(leaf) = tls.peer_chain().first() {
        parts.push(format!("Hash={}", hex(&sha256(leaf))));
        if details.cert {
            parts.push(format!("Cert=\"{}\"", encoded(&pem(leaf))));
        }
    }
    if details.chain {
        let chain: String = tls.peer_chain().iter().map(|certificate| encoded(&pem(certificate))).collect();
        parts.push(format!("Chain=\"{chain}\""));
    }
    let peer = tls.peer();
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.map_or("", |peer| &peer.subject)));
    }
    if details.uri {
        match peer.map(|peer| &peer.uris[..]) {
            None | Some([]) => parts.push("URI=".to_owned()),
            Some(uris) => parts.extend(uris.iter().map(|uri| format!("URI={uri}"))),
        }
    }
    if details.dns {
        parts.extend(peer.iter().flat_map(|peer| &peer.dns).map(|name| format!("DNS={name}")));
    }
    parts.join(";")
}

/// Escapes what separates elements of the header.
fn encoded(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() + pem.len() / 8);
    for character in pem.chars() {
        match character {
            '\n' => out.push_str("%0A"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_certificate() {
        for (name, mode, expect) in [
            ("sanitize", ForwardClientCert::Sanitize, None),
            ("forward only", ForwardClientCert::ForwardOnly, None),
            ("append", ForwardClientCert::AppendForward, None),
            ("set", ForwardClientCert::SanitizeSet, None),
            ("always", ForwardClientCert::AlwaysForwardOnly, Some(&b"By=x"[..])),
        ] {
            let mut headers: Headers = [(NAME, "By=x")].into_iter().collect();
            forward(mode, ClientCertDetails::default(), &mut headers, None);
            assert_eq!(headers.get(NAME), expect, "{name}");
        }
    }

    #[test]
    fn separators_are_escaped() {
        assert_eq!(encoded("-----BEGIN A-----\nab+/=\n"), "-----BEGIN%20A-----%0Aab%2B%2F%3D%0A");
    }
}
