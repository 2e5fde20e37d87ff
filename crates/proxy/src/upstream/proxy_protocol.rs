//! The header that tells an upstream who its client is (haproxy's "PROXY protocol", versions 1 and 2).

use std::net::{IpAddr, SocketAddr};

/// The 12 bytes with which version 2 begins.
const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/// The header for a client's connection: its end and ours. Without one, or where the two are not of one family, the
/// header says that the connection is our own (`LOCAL`, `UNKNOWN`).
pub fn header(version: u8, client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let client = client.map(|(source, destination)| {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        (plain(source), plain(destination))
    });
    let client = client.filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4());
    if version == 2 { binary(client) } else { text(client).into_bytes() }
}

fn text(client: Option<(SocketAddr, SocketAddr)>) -> String {
    match client {
        None => "PROXY UNKNOWN\r\n".to_owned(),
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    }
}

fn binary(client: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Some((source, destination)) = client else {
        out.extend_from_slice(&[0x20, 0, 0, 0]);
        return out;
    };
    let (family, length) = if source.is_ipv4() { (0x11, 12u16) } else { (0x21, 36) };
    out.extend_from_slice(&[0x21, family]);
    out.extend_from_slice(&length.to_be_bytes());
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let pair =
            |source: &str, destination: &str| Some((source.parse().unwrap(), destination.parse().unwrap()));
        let v4 = pair("10.0.0.1:1000", "10.0.0.2:80");
        let v6 = pair("[2001:db8::1]:1000", "[2001:db8::2]:80");
        let mixed = pair("10.0.0.1:1000", "[2001:db8::2]:80");
        for (name, client, expect) in [
            ("IPv4", v4, "PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n"),
            ("IPv6", v6, "PROXY TCP6 2001:db8::1 2001:db8::2 1000 80\r\n"),
            ("of two families", mixed, "PROXY UNKNOWN\r\n"),
            (
                "mapped",
                pair("[::ffff:10.0.0.1]:1000", "10.0.0.2:80"),
                "PROXY TCP4 10.0.0.1 10.0.0.2 1000 80\r\n",
            ),
            ("our own", None, "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(String::from_utf8(header(1, client)).unwrap(), expect, "{name}");
        }
        let rest = |client| header(2, client)[12..].to_vec();
        assert_eq!(rest(v4), [0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0x03, 0xe8, 0, 80]);
        assert_eq!((rest(v6).len(), rest(v6)[..4].to_vec()), (40, vec![0x21, 0x21, 0, 36]));
        assert_eq!(rest(None), [0x20, 0, 0, 0]);
    }
}
