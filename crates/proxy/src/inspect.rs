//! The inspectors: what the first bytes of a connection say. Pure.

use std::borrow::Cow;

/// Bytes after which the inspectors give up.
pub const MAX: usize = 64 * 1024;

/// The HTTP version found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 by prior knowledge.
    Http2,
}

impl Http {
    /// As in `application_protocols` of filter chains.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2c",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether it is TLS; none where nobody looked.
    pub tls: Option<bool>,
    /// SNI, in lower case.
    pub server_name: Option<String>,
    /// ALPN.
    pub application_protocols: Vec<String>,
    /// HTTP in plain text.
    pub http: Option<Http>,
}

/// The client preface of HTTP/2 (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at the first bytes; none where more are needed.
pub fn inspect(bytes: &[u8], tls: bool, http: bool) -> Option<Found> {
    let mut found = Found::default();
    if tls {
        // A handshake record of any version begins so.
        if bytes[0] == 22 && (bytes.len() < 2 || bytes[1] == 3) {
            let hello = client_hello(bytes)?;
            found.tls = Some(hello.is_some());
            if let Some((name, protocols)) = hello {
                found.server_name = name;
                found.application_protocols = protocols;
                return Some(found);
            }
        } else {
            found.tls = Some(false);
        }
    }
    if http {
        found.http = http_version(bytes)?;
    }
    Some(found)
}

/// Longer methods are none.
const LONGEST_METHOD: usize = 32;

/// What a method is made of (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The HTTP version: outer none for more bytes, inner none for no HTTP.
fn http_version(bytes: &[u8]) -> Option<Option<Http>> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return (common == PREFACE.len()).then_some(Some(Http::Http2));
    }
    // The same is asked of a part and of a whole line, so that more bytes never change what was found.
    let method = bytes.iter().position(|byte| matches!(byte, b' ' | b'\n')).unwrap_or(bytes.len());
    if method > LONGEST_METHOD || !bytes[..method].iter().all(|byte| is_token(*byte)) {
        return Some(None);
    }
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(if line.ends_with(b" HTTP/1.1") {
        Some(Http::Http11)
    } else if line.ends_with(b" HTTP/1.0") {
        Some(Http::Http10)
    } else {
        None
    })
}

type Hello = (Option<String>, Vec<String>);

/// A ClientHello (RFC 8446, 4.1.2): outer none for more bytes, inner none where it is not one.
fn client_hello(bytes: &[u8]) -> Option<Option<Hello>> {
    let hello = hello(bytes)?;
    Some(hello.and_then(|hello| {
        let mut found = (None, Vec::new());
        each_extension(&hello, |kind, value| see(kind, value, &mut found))?;
        Some(found)
    }))
}

/// Whether a ClientHello asks for the state of the server's certificate (`status_request`, RFC 6066, 8): none for more
/// bytes. What is no ClientHello asks for nothing.
pub fn asks_for_status(bytes: &[u8]) -> Option<bool> {
    let mut asks = false;
    if let Some(hello) = hello(bytes)? {
        // The first byte of the value is the type: 1 is OCSP.
        let _ = each_extension(&hello, |kind, value| {
            asks |= kind == 5 && value.first() == Some(&1);
            Some(())
        });
    }
    Some(asks)
}

/// The message of a ClientHello out of its records: outer none for more bytes, inner none where it is not one.
fn hello(bytes: &[u8]) -> Option<Option<Cow<'_, [u8]>>> {
    let mut handshake: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        if rest.len() < 5 {
            return None;
        }
        if rest[0] != 22 {
            return Some(None);
        }
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        let part = rest.get(5..5 + length)?;
        if handshake.is_empty() {
            // As a rule there is one record, and nothing is copied.
            handshake = Cow::Borrowed(part);
        } else {
            handshake.to_mut().extend_from_slice(part);
        }
        rest = &rest[5 + length..];
        if handshake.len() >= 4 {
            let wanted = 4
                + (usize::from(handshake[1]) << 16
                    | usize::from(handshake[2]) << 8
                    | usize::from(handshake[3]));
            if handshake[0] != 1 || wanted > MAX {
                return Some(None);
            }
            if handshake.len() >= wanted {
                return Some(Some(match handshake {
                    Cow::Borrowed(handshake) => Cow::Borrowed(&handshake[4..wanted]),
                    Cow::Owned(handshake) => Cow::Owned(handshake[4..wanted].to_vec()),
                }));
            }
        }
    }
}

/// Shows each extension; none where the message is cut short.
fn each_extension<'a>(hello: &'a [u8], mut see: impl FnMut(u16, &'a [u8]) -> Option<()>) -> Option<()> {
    let mut rest = hello.get(34..)?;
    take(&mut rest, 1)?;
    take(&mut rest, 2)?;
    take(&mut rest, 1)?;
    if rest.is_empty() {
        return Some(());
    }
    let mut list = take(&mut rest, 2)?;
    while list.len() >= 4 {
        let kind = u16::from_be_bytes([list[0], list[1]]);
        list = &list[2..];
        let value = take(&mut list, 2)?;
        see(kind, value)?;
    }
    Some(())
}

/// Notes the names in an extension.
fn see(kind: u16, mut value: &[u8], found: &mut Hello) -> Option<()> {
    match kind {
        0 => {
            let mut names = take(&mut value, 2)?;
            if names.first() == Some(&0) {
                names = &names[1..];
                let name = take(&mut names, 2)?;
                found.0 = std::str::from_utf8(name).ok().map(str::to_ascii_lowercase);
            }
        }
        16 => {
            let mut names = take(&mut value, 2)?;
            while !names.is_empty() {
                found.1.push(String::from_utf8_lossy(take(&mut names, 1)?).into_owned());
            }
        }
        _ => {}
    }
    Some(())
}

/// Takes a vector whose length is written before it in so many bytes.
fn take<'a>(rest: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(length_bytes)?;
    let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    let (value, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_versions() {
        for (name, bytes, expect) in [
            ("1.1", &b"GET / HTTP/1.1\r\nHost: a\r\n"[..], Some(Some(Http::Http11))),
            ("1.0", b"GET / HTTP/1.0\r\n", Some(Some(Http::Http10))),
            ("2", PREFACE, Some(Some(Http::Http2))),
            ("a part of the preface", b"PRI * HT", None),
            ("a part of a line", b"GET /lon", None),
            ("no HTTP", b"\x00\x01\x02", Some(None)),
            ("a line of another protocol", b"EHLO a\r\n", Some(None)),
        ] {
            assert_eq!(http_version(bytes), expect, "{name}");
        }
    }

    #[test]
    fn client_hellos() {
        let vector =
            |width: usize, bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[4 - width..], bytes].concat();
        let extension = |kind: u16, value: &[u8]| [&kind.to_be_bytes()[..], &vector(2, value)].concat();
        let name = vector(2, &[&[0][..], &vector(2, b"A.example")].concat());
        let protocols = vector(2, &[vector(1, b"h2"), vector(1, b"http/1.1")].concat());
        let extensions = vector(2, &[extension(0, &name), extension(16, &protocols)].concat());
        let body =
            [&[3, 3][..], &[7; 32], &vector(1, &[]), &vector(2, &[1, 2]), &vector(1, &[0]), &extensions]
                .concat();
        let record = [&[22, 3, 1][..], &vector(2, &[&[1][..], &vector(3, &body)].concat())].concat();
        let found = inspect(&record, true, true).unwrap();
        assert_eq!(found.server_name.as_deref(), Some("a.example"));
        assert_eq!(
            (found.tls, found.application_protocols),
            (Some(true), vec!["h2".to_owned(), "http/1.1".to_owned()])
        );
        for length in 1..record.len() {
            assert_eq!(inspect(&record[..length], true, true), None, "{length}");
            assert_eq!(asks_for_status(&record[..length]), None, "{length}");
        }
        assert_eq!(asks_for_status(&record), Some(false));
        let status = vector(2, &extension(5, &[1, 0, 0, 0, 0]));
        let body =
            [&[3, 3][..], &[7; 32], &vector(1, &[]), &vector(2, &[1, 2]), &vector(1, &[0]), &status].concat();
        let message = [&[1][..], &vector(3, &body)].concat();
        // In two records.
        let (one, two) = message.split_at(20);
        let records = [&[22, 3, 1][..], &vector(2, one), &[22, 3, 1], &vector(2, two)].concat();
        assert_eq!(asks_for_status(&records), Some(true));
        assert_eq!(asks_for_status(b"GET / HTTP/1.1"), Some(false));
        let plain = inspect(b"GET / HTTP/1.1\r\n", true, true).unwrap();
        assert_eq!((plain.tls, plain.http), (Some(false), Some(Http::Http11)));
    }
}
