//! The PROXY protocol as a client before us speaks it: who the real client is, in front of everything else.
//!
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, with what Envoy makes of doubtful cases. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

/// How a header of version 2 begins (section 2.2).
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIRST: &[u8] = b"PROXY ";
/// The longest line of version 1, its end included (section 2.1).
const LONGEST_LINE: usize = 107;

/// Which version a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    One,
    /// Binary.
    Two,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// The client, and where it connected to; none where the sender speaks for itself or does not know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Further values by type (version 2).
    pub values: Vec<(u8, Bytes)>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// There is no header.
    Absent,
    /// A header, and how many bytes it has.
    Header(Header, usize),
    /// A header that is not one.
    Invalid(Version),
}

/// Looks at the first bytes.
pub fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(SIGNATURE.len());
    if common > 0 && bytes[..common] == SIGNATURE[..common] {
        return if common < SIGNATURE.len() { Parsed::Incomplete } else { parse_two(bytes) };
    }
    let common = bytes.len().min(FIRST.len());
    if bytes[..common] != FIRST[..common] {
        return Parsed::Absent;
    }
    if common < FIRST.len() {
        return Parsed::Incomplete;
    }
    match bytes.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
        Some(end) => match parse_line(&bytes[..end]) {
            Some(addresses) => {
                Parsed::Header(Header { version: Version::One, addresses, values: Vec::new() }, end + 1)
            }
            None => Parsed::Invalid(Version::One),
        },
        None if bytes.len() < LONGEST_LINE => Parsed::Incomplete,
        None => Parsed::Invalid(Version::One),
    }
}

/// `PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r`, without its line feed.
#[allow(clippy::option_option)]
fn parse_line(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line.strip_suffix(b"\r")?).ok()?;
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        // Whatever follows is to be ignored.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let pair = (
        SocketAddr::new(address(source)?, source_port),
        SocketAddr::new(address(destination)?, destination_port),
    );
    Some(Some(pair))
}

/// Digits only: what Rust's parser takes too (`+80`) is refused.
fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_two(bytes: &[u8]) -> Parsed {
    const INVALID: Parsed = Parsed::Invalid(Version::Two);
    let Some([command, family, high, low]) =
        bytes.get(12..16).and_then(|four| <[u8; 4]>::try_from(four).ok())
    else {
        return match bytes.get(12) {
            Some(command) if !matches!(command, 0x20 | 0x21) => INVALID,
            _ => Parsed::Incomplete,
        };
    };
    if !matches!(command, 0x20 | 0x21) {
        return INVALID;
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    let local = command == 0x20;
    let addresses = match (local, family) {
        (true, _) => 0,
        (false, 0x11) => 12,
        (false, 0x21) => 36,
        // Datagrams and Unix sockets are no TCP connections; what is not known is not taken for something else.
        (false, _) => return INVALID,
    };
    if length < addresses {
        return INVALID;
    }
    let Some(body) = bytes.get(16..16 + length) else { return Parsed::Incomplete };
    let (pair, rest) = body.split_at(addresses);
    // A local connection says nothing that counts.
    let values = if local { Some(Vec::new()) } else { parse_values(rest) };
    let Some(values) = values else { return INVALID };
    let header = Header { version: Version::Two, addresses: parse_pair(pair), values };
    Parsed::Header(header, 16 + length)
}

/// Two addresses, then two ports, in the bytes of the network.
fn parse_pair(pair: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, ports) = pair.split_at_checked(pair.len().checked_sub(4)?)?;
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((SocketAddr::new(address(source)?, port(0)), SocketAddr::new(address(destination)?, port(2))))
}

fn parse_values(mut rest: &[u8]) -> Option<Vec<(u8, Bytes)>> {
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(3)?;
        let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
        values.push((head[0], Bytes::copy_from_slice(value)));
        rest = after;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family][..], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn lines() {
        let pair =
            |source: &str, destination: &str| Some((source.parse().unwrap(), destination.parse().unwrap()));
        let good = |addresses| Some(Header { version: Version::One, addresses, values: Vec::new() });
        for (name, line, expect) in [
            ("four", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n", good(pair("1.2.3.4:1000", "5.6.7.8:80"))),
            ("six", "PROXY TCP6 1::2 3::4 65535 80\r\n", good(pair("[1::2]:65535", "[3::4]:80"))),
            ("unknown", "PROXY UNKNOWN\r\n", good(None)),
            ("unknown with more", "PROXY UNKNOWN 1 2 3 4\r\n", good(None)),
            ("no carriage return", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\n", None),
            ("another family", "PROXY TCP5 1.2.3.4 5.6.7.8 1000 80\r\n", None),
            ("the wrong family", "PROXY TCP4 1::2 5.6.7.8 1000 80\r\n", None),
            ("a port too large", "PROXY TCP4 1.2.3.4 5.6.7.8 65536 80\r\n", None),
            ("a sign", "PROXY TCP4 1.2.3.4 5.6.7.8 +1 80\r\n", None),
            ("too few", "PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n", None),
            ("too many", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80 1\r\n", None),
            ("two blanks", "PROXY TCP4  1.2.3.4 5.6.7.8 1000 80\r\n", None),
        ] {
            let expect = match expect {
                Some(header) => Parsed::Header(header, line.len()),
                None => Parsed::Invalid(Version::One),
            };
            assert_eq!(parse(&[line.as_bytes(), b"rest"].concat()), expect, "{name}");
        }
        assert_eq!(parse(&[b'P'; 3]), Parsed::Absent);
        assert_eq!(parse(b"PRO"), Parsed::Incomplete);
        assert_eq!(parse(b"PROXY TCP4 1.2"), Parsed::Incomplete);
        assert_eq!(parse(&[FIRST, &[b'x'; 200]].concat()), Parsed::Invalid(Version::One));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::Absent);
    }

    #[test]
    fn binary_headers() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187];
        let addresses = Some(("1.2.3.4:80".parse().unwrap(), "5.6.7.8:443".parse().unwrap()));
        let with_value = [&four[..], &[0xea, 0, 3], b"abc"].concat();
        let mut six = [0; 36];
        six[15] = 1;
        six[31] = 2;
        let sixes = Some(("[::1]:0".parse().unwrap(), "[::2]:0".parse().unwrap()));
        let value = vec![(0xea, Bytes::from_static(b"abc"))];
        for (name, bytes, expect) in [
            ("four", two(0x21, 0x11, &four), Some((addresses, Vec::new()))),
            ("with a value", two(0x21, 0x11, &with_value), Some((addresses, value))),
            ("six", two(0x21, 0x21, &six), Some((sixes, Vec::new()))),
            ("local", two(0x20, 0, &[]), Some((None, Vec::new()))),
            ("local with addresses", two(0x20, 0x11, &four), Some((None, Vec::new()))),
            ("datagrams", two(0x21, 0x12, &four), None),
            ("a Unix socket", two(0x21, 0x31, &[0; 216]), None),
            ("another version", two(0x11, 0x11, &four), None),
            ("another command", two(0x22, 0x11, &four), None),
            ("too short", two(0x21, 0x11, &four[..11]), None),
            ("a value too long", two(0x21, 0x11, &[&four[..], &[1, 0, 9, 1]].concat()), None),
        ] {
            let expect = match expect {
                Some((addresses, values)) => {
                    Parsed::Header(Header { version: Version::Two, addresses, values }, bytes.len())
                }
                None => Parsed::Invalid(Version::Two),
            };
            assert_eq!(parse(&[&bytes[..], b"rest"].concat()), expect, "{name}");
            if let Parsed::Header(_, length) = expect {
                for cut in 1..length {
                    assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete, "{name} {cut}");
                }
            }
        }
    }
}
