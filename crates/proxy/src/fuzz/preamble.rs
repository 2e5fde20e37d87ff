//! What comes first on a connection: TLS and HTTP as the inspectors see them, the PROXY protocol.

use crate::inspect::{self, Found};
use crate::proxy_protocol::{self, Parsed};

pub(super) const TLS_WORDS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x03\x00\x05",
    b"\x01\x00\x00",
    b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost",
    b"\x00\x10\x00\x0b\x00\x09\x08http/1.1",
    b"\x00\x10\x00\x05\x00\x03\x02h2",
    b"\xff\xff",
    b"\x00\x00",
];

pub(super) const HTTP_WORDS: &[&[u8]] =
    &[b"GET / ", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" ", b"\0"];

pub(super) const PROXY_WORDS: &[&[u8]] = &[
    proxy_protocol::SIGNATURE,
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP6 ::1 ::2 65535 65536\r\n",
    b"PROXY UNKNOWN",
    b"\r\n",
    b"\x21\x11\x00\x0c",
    b"\x21\x21\x00\x24",
    b"\x20\x00\x00\x00",
    b"\xff\xff",
    b"\x01\x00\x02h2",
];

/// An inspector makes up its mind once: more bytes never change what it has found, and it never asks for more than
/// its limit.
fn inspected(bytes: &[u8], tls: bool, http: bool) {
    if bytes.is_empty() {
        return;
    }
    let whole = inspect::inspect(bytes, tls, http);
    let early: Option<Found> =
        (1..bytes.len()).find_map(|length| inspect::inspect(&bytes[..length], tls, http));
    if let Some(early) = early {
        assert_eq!(Some(early), whole, "more bytes changed what was found");
    }
    if let Some(found) = whole {
        assert!(found.tls != Some(true) || found.http.is_none(), "both TLS and plain HTTP");
    }
}

pub(super) fn tls_inspector(bytes: &[u8]) {
    inspected(bytes, true, false);
}

pub(super) fn http_inspector(bytes: &[u8]) {
    inspected(bytes, true, true);
    inspected(bytes, false, true);
}

/// A header ends where it says, and what follows it never changes it.
pub(super) fn proxy_protocol(bytes: &[u8]) {
    let whole = proxy_protocol::parse(bytes);
    for length in 0..bytes.len() {
        match proxy_protocol::parse(&bytes[..length]) {
            Parsed::Incomplete => {}
            early => {
                assert_eq!(early, whole, "more bytes changed the header");
                break;
            }
        }
    }
    if let Parsed::Header(header, length) = whole {
        assert!(length <= bytes.len(), "a header longer than its bytes");
        if let Some((source, destination)) = header.addresses {
            assert_eq!(source.is_ipv4(), destination.is_ipv4(), "addresses of two families");
        }
    }
}
