//! What is in a certificate, as logs, headers and dumps show it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::tls::TlsError;

/// What is in a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// The subject as RFC 2253 writes it, the last part first.
    pub subject: String,
    /// The issuer, likewise.
    pub issuer: String,
    /// Hexadecimal, lower case, without leading zeros of a byte.
    pub serial: String,
    /// URI names (SPIFFE identities among them).
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<IpAddr>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// Other names: object identifier, value as text.
    pub others: Vec<(String, String)>,
    /// Begin of the validity, seconds since the epoch.
    pub not_before: i64,
    /// End of the validity, seconds since the epoch.
    pub not_after: i64,
    /// The last CommonName of the subject.
    pub common_name: Option<String>,
}

/// Reads a certificate.
pub fn details(der: &[u8]) -> Result<Details, TlsError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| TlsError::Pem { what: "the certificate", reason: error.to_string() })?;
    let mut details = Details {
        subject: rfc2253(certificate.subject()),
        issuer: rfc2253(certificate.issuer()),
        serial: hex(trimmed(certificate.raw_serial())),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        common_name: certificate
            .subject()
            .iter_common_name()
            .last()
            .and_then(|name| name.as_str().ok().map(str::to_owned)),
        ..Details::default()
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => details.dns.push((*name).to_owned()),
            GeneralName::URI(uri) => details.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) => details.emails.push((*mail).to_owned()),
            GeneralName::IPAddress(bytes) => details.ips.extend(ip_address(bytes)),
            GeneralName::OtherName(oid, value) => {
                details.others.push((oid.to_id_string(), other_name(value)));
            }
            _ => {}
        }
    }
    Ok(details)
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// The text of an other name: `[0] EXPLICIT` around a string.
fn other_name(value: &[u8]) -> String {
    let inner = |bytes: &[u8]| -> Option<Vec<u8>> {
        let (_, length_bytes) = bytes.split_at_checked(1)?;
        let (length, rest) = length_bytes.split_at_checked(1)?;
        (length[0] < 0x80).then(|| rest.get(..usize::from(length[0])).map(<[u8]>::to_vec)).flatten()
    };
    let mut text = inner(value).unwrap_or_else(|| value.to_vec());
    if let Some(nested) = inner(&text).filter(|nested| nested.len() + 2 == text.len()) {
        text = nested;
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn trimmed(mut serial: &[u8]) -> &[u8] {
    while serial.len() > 1 && serial[0] == 0 {
        serial = &serial[1..];
    }
    serial
}

/// A distinguished name as RFC 2253 writes it.
fn rfc2253(name: &X509Name<'_>) -> String {
    let sets: Vec<_> = name.iter_rdn().collect();
    let text = |set: &x509_parser::x509::RelativeDistinguishedName<'_>| {
        let parts: Vec<String> = set.iter().map(attribute).collect();
        parts.join("+")
    };
    sets.iter().rev().map(|set| text(set)).collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = match &*oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        other => other,
    };
    let value =
        attribute.as_str().map(str::to_owned).unwrap_or_else(|_| format!("#{}", hex(attribute.as_slice())));
    format!("{short}={}", escaped(&value))
}

/// RFC 2253, 2.4.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, character) in value.chars().enumerate() {
        let special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (at == 0 && matches!(character, ' ' | '#'))
            || (at == last && character == ' ');
        if special {
            out.push('\\');
        }
        if character.is_control() || !character.is_ascii() {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("\\{byte:02X}"));
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// SHA-1 of bytes: a fingerprint that logs may ask for, never used to decide anything.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut out = [0; 20];
    out.copy_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes).as_ref());
    out
}

/// SHA-256 of the public key as the certificate holds it (RFC 7469, 2.4).
pub fn public_key_sha256(der: &[u8]) -> Result<[u8; 32], TlsError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| TlsError::Pem { what: "the certificate", reason: error.to_string() })?;
    Ok(sha256(certificate.public_key().raw))
}

/// A certificate as PEM, with its final line end.
pub fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 60);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into(), "10.0.0.1".into()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme, Inc");
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        params.serial_number = Some(vec![0x0a, 0xbc].into());
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let details = details(certificate.der()).unwrap();
        assert_eq!(details.subject, "CN=leaf,O=Acme\\, Inc");
        assert_eq!(details.issuer, details.subject);
        assert_eq!(details.serial, "0abc");
        assert_eq!(details.dns, ["a.example"]);
        assert_eq!(details.ips, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(details.uris, ["spiffe://td/ns/a/sa/b"]);
        assert_eq!(details.common_name.as_deref(), Some("leaf"));
        assert_eq!(pem(certificate.der()).trim(), certificate.pem().replace("\r\n", "\n").trim());
    }

    #[test]
    fn escapes_of_names() {
        for (value, expect) in [
            ("plain", "plain"),
            ("a,b+c", "a\\,b\\+c"),
            ("#first", "\\#first"),
            (" blank ", "\\ blank\\ "),
            ("é", "\\C3\\A9"),
        ] {
            assert_eq!(escaped(value), expect, "{value}");
        }
    }
}
