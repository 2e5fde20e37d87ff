//! Names, ports, addresses: the small syntax that all kinds share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lateen_api::Duration;
use regex::Regex;

use crate::Verdict;
use crate::check::join;

/// RFC 1123 label: what one part of a DNS name may be.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.iter().all(|byte| inner(*byte))
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// A whole name, without wildcard; a trailing dot is fine. No top level domain is a number.
pub(crate) fn is_fqdn(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 255 && text.split('.').all(is_dns_label) && last.parse::<u64>().is_err()
}

/// A name whose first part may be, or begin with, a wildcard.
pub(crate) fn is_wildcard_domain(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let (first, rest) = text.split_once('.').unwrap_or((text, ""));
    let first = match first.strip_prefix('*') {
        Some("") => return is_fqdn(rest),
        Some(rest) => rest.strip_prefix('-').unwrap_or(rest),
        None => first,
    };
    is_dns_label(first) && (rest.is_empty() || is_fqdn(rest))
}

/// An address or a range.
pub(crate) fn is_subnet(text: &str) -> bool {
    text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok()
}

/// Checks a host that may be a wildcard name.
pub(crate) fn wildcard_host(path: &str, host: &str, verdict: &mut Verdict) {
    if host.is_empty() {
        verdict.error(path, "is empty", "write a host name such as reviews or *.example.com");
    } else if !is_wildcard_domain(host) {
        verdict.error(
            path,
            format!("{host:?} is not a host name"),
            "write a name such as reviews or *.example.com",
        );
    }
}

/// Checks a host without wildcard.
pub(crate) fn exact_host(path: &str, host: &str, verdict: &mut Verdict) {
    if host.is_empty() {
        verdict.error(path, "is empty", "write a host name such as reviews");
    } else if !is_fqdn(host) {
        verdict.error(
            path,
            format!("{host:?} is not a host name"),
            "write a name such as reviews or api.example.com",
        );
    }
}

/// Checks a port number.
pub(crate) fn port(path: &str, number: u32, verdict: &mut Verdict) {
    if !(1..=65535).contains(&number) {
        verdict.error(path, format!("{number} is not a port"), "write a number from 1 to 65535");
    }
}

/// Whether an expression has something like `a++`, which Rust's engine takes and RE2 refuses.
fn repeats_a_repetition(text: &str) -> bool {
    let (mut escaped, mut in_class, mut repeated) = (false, false, false);
    for c in text.chars() {
        if escaped {
            (escaped, repeated) = (false, false);
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' if !in_class => in_class = true,
            ']' if in_class => in_class = false,
            '*' | '+' if !in_class && repeated => return true,
            '*' | '+' if !in_class => {
                repeated = true;
                continue;
            }
            // One `?` after a repetition makes it lazy.
            _ => {}
        }
        repeated = false;
    }
    false
}

/// Checks an RE2 expression. Rust's syntax differs in nothing that RE2 users write, but refuses what RE2 refuses:
/// look-around and back-references.
pub(crate) fn regular_expression(path: &str, text: &str, verdict: &mut Verdict) {
    // Envoy's own bound on the length of a pattern in the API server's messages.
    if text.len() > 1024 {
        verdict.error(path, "the regular expression is longer than 1024 bytes", "");
    } else if repeats_a_repetition(text) {
        verdict.error(
            path,
            format!("{text:?} repeats a repetition"),
            "RE2 wants a group around the inner one",
        );
    } else if let Err(error) = Regex::new(text) {
        let reason = error.to_string();
        let last = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        verdict.error(
            path,
            format!("{text:?} is not a regular expression: {last}"),
            "RE2 syntax is expected",
        );
    }
}

/// Checks a duration of at least a millisecond, in whole ones.
pub(crate) fn positive(path: &str, duration: Option<Duration>, verdict: &mut Verdict) {
    let Some(duration) = duration else { return };
    let nanoseconds = duration.get().as_nanos();
    if nanoseconds < 1_000_000 {
        verdict.error(path, format!("{duration} is too short"), "at least 1ms");
    } else if !nanoseconds.is_multiple_of(1_000_000) {
        verdict.error(path, format!("{duration} is finer than a millisecond"), "write whole milliseconds");
    }
}

/// Whether a header is the authority, by one of its two names.
pub(crate) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// Checks a header that a route changes. Pseudo headers and Host are not for changing, except that a request may be
/// given another authority.
pub(crate) fn writable_header(path: &str, name: &str, may_be_authority: bool, verdict: &mut Verdict) {
    if name.is_empty() {
        verdict.error(path, "a header name is empty", "");
    } else if is_authority(name) && may_be_authority {
    } else if name.starts_with(':') {
        verdict.error(path, format!("{name} cannot be changed"), "use rewrite for path and authority");
    } else if name.eq_ignore_ascii_case("host") {
        verdict.error(path, "the host header cannot be changed", "use rewrite.authority");
    } else if name.chars().any(char::is_control) {
        verdict.error(path, format!("{name:?} is not a header name"), "letters, digits and hyphens");
    }
}

/// Checks the name of a header that is asked for: letters, digits, hyphens and underscores.
pub(crate) fn plain_header_name(path: &str, name: &str, verdict: &mut Verdict) {
    if name.is_empty() {
        verdict.error(path, "a header name is empty", "");
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        verdict.error(
            path,
            format!("{name:?} is not a header name"),
            "letters, digits, hyphens and underscores",
        );
    }
}

/// Checks what stands after `unix://`: an absolute path of a file, or `@` and a name.
pub(crate) fn unix_socket(path: &str, socket: &str, verdict: &mut Verdict) {
    let absolute = socket.starts_with('/') && !socket.ends_with('/');
    if !absolute && !socket.starts_with('@') {
        verdict.error(
            path,
            format!("{socket:?} is no socket"),
            "write an absolute path of a file, or @ and a name",
        );
    }
}

/// Checks the name of a port.
pub(crate) fn port_name(path: &str, name: &str, verdict: &mut Verdict) {
    if !is_dns_label(name) {
        verdict.error(path, format!("{name:?} is not a port name"), "letters, digits and hyphens");
    }
}

/// Checks labels that select: keys are given, and nothing is a wildcard. What no label can be selects nothing.
pub(crate) fn selector_labels(path: &str, labels: &BTreeMap<String, String>, verdict: &mut Verdict) {
    for (key, value) in labels {
        if key.is_empty() {
            verdict.error(path, "has an empty key", "name the label");
        } else if key.contains('*') || value.contains('*') {
            verdict.error(join(path, key), "has a wildcard", "write the whole label");
        }
    }
    let mut syntax = Verdict::default();
    self::labels(path, labels, &mut syntax);
    if verdict.is_valid() {
        syntax.errors.into_iter().for_each(|one| verdict.warn(one.path, one.message, one.remedy));
    }
}

/// Whether a wildcard stands for a part of a label, which matches nothing.
pub(crate) fn is_partial_wildcard(host: &str) -> bool {
    host.contains('*') && host != "*" && !host.starts_with("*.")
}

/// Checks labels; wildcards are errors in those that select.
pub(crate) fn labels(path: &str, labels: &BTreeMap<String, String>, verdict: &mut Verdict) {
    let part = |text: &str| {
        let bytes = text.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= 63
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
            && bytes[0].is_ascii_alphanumeric()
            && bytes[bytes.len() - 1].is_ascii_alphanumeric()
    };
    for (key, value) in labels {
        let place = join(path, key);
        let name_fits = match key.split_once('/') {
            Some((prefix, name)) => is_fqdn(prefix) && part(name),
            None => part(key),
        };
        if !name_fits {
            verdict.error(
                &place,
                format!("{key:?} is not a label key"),
                "letters, digits, - _ . with an optional prefix/",
            );
        }
        if !value.is_empty() && !part(value) {
            verdict.error(
                &place,
                format!("{value:?} is not a label value"),
                "at most 63 letters, digits, - _ .",
            );
        }
    }
}

/// Says so where a selector has no labels, and thus selects all.
pub(crate) fn empty_selector(
    path: &str,
    labels: &BTreeMap<String, String>,
    what: &str,
    verdict: &mut Verdict,
) {
    if labels.is_empty() {
        let message = format!(
            "{what}workload selector specified without labels, will be applied to all services in namespace"
        );
        verdict.warn(path, message, "add labels, or leave the selector out");
    }
}

/// Whether a name of a header is a claim of a token, as `@request.auth.claims.group`.
pub(crate) fn is_claim(name: &str) -> bool {
    const PREFIX: &str = "@request.auth.claims";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
        && name[PREFIX.len()..].starts_with(['.', '['])
}

/// Checks `exportTo` of an object of `namespace`. Only services can be exported to nobody (`~`).
pub(crate) fn export_to(
    path: &str,
    entries: &[String],
    namespace: &str,
    is_service: bool,
    verdict: &mut Verdict,
) {
    if !namespace.is_empty()
        && entries.iter().any(|entry| entry == ".")
        && entries.iter().any(|entry| entry == namespace)
    {
        verdict.error(path, format!(". and {namespace} are the same namespace"), "leave one of them");
    }
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("{path}[{index}]");
        match entry.as_str() {
            "*" | "." => {}
            "~" if !is_service => {
                verdict.error(place, "~ (nobody) is only for services", "write *, . or a namespace");
            }
            "~" if entries.len() == 1 => {}
            "~" => verdict.error(place, "~ (nobody) cannot be combined with other namespaces", ""),
            name if is_dns_label(name) => {}
            name => verdict.error(place, format!("{name:?} is not a namespace"), "write *, . or a namespace"),
        }
        if entries[..index].contains(entry) {
            verdict.error(format!("{path}[{index}]"), format!("{entry:?} is listed twice"), "");
        }
    }
    if entries.len() > 1 && entries.iter().any(|entry| entry == "*") {
        verdict.error(path, "* (everybody) makes the other entries pointless", "leave only *");
    }
}

/// Protocols that ports may name.
pub(crate) const PROTOCOLS: &[&str] = &[
    "HTTP",
    "HTTPS",
    "GRPC",
    "GRPC-WEB",
    "HTTP2",
    "HTTP_PROXY",
    "MONGO",
    "TCP",
    "TLS",
    "UDP",
    "REDIS",
    "MYSQL",
    "HBONE",
    "DOUBLE-HBONE",
];

/// Checks a protocol's name.
pub(crate) fn protocol(path: &str, name: &str, verdict: &mut Verdict) {
    if !PROTOCOLS.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        verdict.error(
            path,
            format!("{name:?} is not a protocol"),
            "use HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS or MYSQL",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (name, host, valid) in [
            ("short", "reviews", true),
            ("whole", "a.b.example.com", true),
            ("wildcard", "*.example.com", true),
            ("wildcard prefix", "*-a.example.com", true),
            ("all", "*", true),
            ("wildcard inside", "a.*.com", false),
            ("underscore", "a_b", false),
            ("empty part", "a..b", false),
            ("hyphen at the end", "a-.b", false),
            ("port", "a:80", false),
            ("number at the end", "a.b.1", false),
            ("partial wildcard", "*a.example.com", true),
        ] {
            assert_eq!(is_wildcard_domain(host), valid, "{name}");
        }
    }
}
