//! What a connection manager does to the heads of requests and responses, before and after routing.
//!
//! Source of the rules: Envoy's page "HTTP header manipulation" and `HttpConnectionManager`'s fields.

use std::net::{IpAddr, SocketAddr};

use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::listener::{
    EscapedSlashes, ForwardClientCert, HttpConnectionManager, ServerHeader, StripPort,
};
use lateen_dataplane::route::without_port;

use crate::worker::Worker;

/// Headers by which proxies of ours speak to each other; at the edge nobody else may send them.
const INTERNAL_HEADERS: [&str; 17] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
];

/// What became of a request's path.
pub enum PathOutcome {
    /// Go on.
    Continue,
    /// 400.
    Invalid,
    /// 307 to the path as it is now.
    Redirect,
}

/// Makes a client's head trustworthy, and finds the client's address.
pub fn prepare(
    worker: &Worker,
    manager: &HttpConnectionManager,
    head: &mut RequestHead,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    listener_is_tls: bool,
) -> Option<SocketAddr> {
    strip_port(manager.strip_port, head, local);
    let headers = &mut head.headers;
    if headers.get("te").is_some_and(|value| !value.eq_ignore_ascii_case(b"trailers")) {
        headers.remove("te");
    }
    let connection_scheme = if listener_is_tls { "https" } else { "http" };
    let mut remote = peer;
    if manager.use_remote_address {
        for name in INTERNAL_HEADERS {
            headers.remove(name);
        }
        headers.remove("x-envoy-internal");
        if manager.trusted_hops > 0 {
            remote = forwarded_for(headers, manager.trusted_hops - 1).or(remote);
        }
        if let Some(peer) = peer.filter(|_| !manager.skip_forwarded_for_append) {
            append_list(headers, "x-forwarded-for", &peer.ip().to_string());
        }
        if manager.trusted_hops == 0 || !headers.contains("x-forwarded-proto") {
            headers.set("x-forwarded-proto", connection_scheme);
        }
        if let Some(remote) = remote {
            headers.set("x-envoy-external-address", remote.ip().to_string());
        }
    } else {
        remote = forwarded_for(headers, manager.trusted_hops).or(remote);
        if !headers.contains("x-forwarded-proto") {
            headers.append("x-forwarded-proto", connection_scheme);
        }
    }
    head.scheme = match head.headers.get("x-forwarded-proto") {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => Scheme::Http,
    };
    if manager.forward_client_cert == ForwardClientCert::Sanitize {
        head.headers.remove("x-forwarded-client-cert");
    }
    if let Some(via) = &manager.via {
        append_list(&mut head.headers, "via", via);
    }
    request_id(worker, manager, &mut head.headers);
    remote
}

fn strip_port(mode: StripPort, head: &mut RequestHead, local: Option<SocketAddr>) {
    if mode == StripPort::Never {
        return;
    }
    let authority = head.authority();
    let host = without_port(authority);
    let port =
        authority.get(host.len() + 1..).and_then(|port| std::str::from_utf8(port).ok()?.parse::<u16>().ok());
    if port.is_some() && (mode == StripPort::Any || port == local.map(|local| local.port())) {
        let host = host.to_vec();
        head.set_authority(host);
    }
}

fn request_id(worker: &Worker, manager: &HttpConnectionManager, headers: &mut Headers) {
    let foreign = manager.use_remote_address && !manager.preserve_external_request_id;
    if !manager.generate_request_id || (headers.contains("x-request-id") && !foreign) {
        return;
    }
    let bytes = (u128::from(worker.random()) << 64) | u128::from(worker.random());
    let id = uuid::Builder::from_random_bytes(bytes.to_ne_bytes()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    headers.set("x-request-id", id.hyphenated().encode_lower(&mut text));
}

/// The address that is `hops` before the last one.
fn forwarded_for(headers: &Headers, hops: u32) -> Option<SocketAddr> {
    let list = headers.get_str("x-forwarded-for")?;
    let address: IpAddr = list.rsplit(',').nth(hops as usize)?.trim().parse().ok()?;
    Some(SocketAddr::new(address, 0))
}

fn append_list(headers: &mut Headers, name: &str, value: &str) {
    match headers.get_str(name) {
        Some(list) => {
            let list = format!("{list},{value}");
            headers.set(name, list);
        }
        None => headers.append(name, value),
    }
}

/// Normalises the path as configured (RFC 3986, 6.2.2).
pub fn normalize(manager: &HttpConnectionManager, head: &mut RequestHead) -> PathOutcome {
    if head.path().is_empty() || head.path() == b"*" {
        return PathOutcome::Continue;
    }
    let mut outcome = PathOutcome::Continue;
    let (bare, query) = lateen_dataplane::head::split_query(head.path());
    let mut path = bare.to_vec();
    let query = query.map(<[u8]>::to_vec);
    if manager.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(&path) {
        match manager.escaped_slashes {
            EscapedSlashes::Reject => return PathOutcome::Invalid,
            EscapedSlashes::Redirect => outcome = PathOutcome::Redirect,
            _ => {}
        }
        path = unescape_slashes(&path);
    }
    if manager.normalize_path {
        match resolve_dots(&path) {
            Some(resolved) => path = resolved,
            None => return PathOutcome::Invalid,
        }
    }
    if manager.merge_slashes {
        path.dedup_by(|next, previous| *next == b'/' && *previous == b'/');
    }
    if path != lateen_dataplane::head::split_query(head.path()).0 {
        if let Some(query) = query {
            path.push(b'?');
            path.extend_from_slice(&query);
        }
        head.set_path(path);
    }
    outcome
}

fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(3).any(|part| part.eq_ignore_ascii_case(b"%2f") || part.eq_ignore_ascii_case(b"%5c"))
}

fn unescape_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        match path.get(at..at + 3) {
            Some(part) if part.eq_ignore_ascii_case(b"%2f") => {
                out.push(b'/');
                at += 3;
            }
            Some(part) if part.eq_ignore_ascii_case(b"%5c") => {
                out.push(b'\\');
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

/// Resolves `.` and `..` and turns backslashes; none where the path would leave its root.
fn resolve_dots(path: &[u8]) -> Option<Vec<u8>> {
    let decoded = unreserved(path);
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = decoded.split(|byte| matches!(byte, b'/' | b'\\')).skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." if last => segments.push(b""),
            b"." => {}
            b".." => {
                segments.pop()?;
                if last {
                    segments.push(b"");
                }
            }
            other => segments.push(other),
        }
    }
    Some([b"/", &segments.join(&b'/')[..]].concat())
}

/// Decodes escapes of characters that need none.
fn unreserved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escaped = path
            .get(at + 1..at + 3)
            .filter(|_| path[at] == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match escaped {
            Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

/// Finishes a response's head for the client.
pub fn finish_response(
    worker: &Worker,
    manager: &HttpConnectionManager,
    head: &mut ResponseHead,
    request: &RequestHead,
) {
    match manager.server_header {
        ServerHeader::Overwrite => head.headers.set("server", manager.server_name.as_bytes()),
        ServerHeader::AppendIfAbsent if !head.headers.contains("server") => {
            head.headers.append("server", manager.server_name.as_bytes());
        }
        _ => {}
    }
    if !head.headers.contains("date") {
        worker.with_date(|date| head.headers.append("date", date));
    }
    if manager.request_id_in_response
        && let Some(id) = request.headers.get("x-request-id")
    {
        head.headers.set("x-request-id", id);
    }
    if let Some(via) = &manager.via {
        append_list(&mut head.headers, "via", via);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_resolved() {
        for (path, expect) in [
            ("/a/b", Some("/a/b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/a\\b", Some("/a/b")),
            ("/../a", None),
            ("//a", Some("//a")),
            ("/%41%2f", Some("/A%2f")),
        ] {
            let resolved = resolve_dots(path.as_bytes()).map(|path| String::from_utf8(path).unwrap());
            assert_eq!(resolved.as_deref(), expect, "{path}");
        }
    }

    #[test]
    fn the_trusted_hop_counts_from_the_end() {
        let headers: Headers = [("x-forwarded-for", "1.1.1.1, 2.2.2.2,3.3.3.3")].into_iter().collect();
        for (hops, expect) in [(0, "3.3.3.3"), (1, "2.2.2.2"), (2, "1.1.1.1")] {
            assert_eq!(
                forwarded_for(&headers, hops).map(|address| address.ip().to_string()).as_deref(),
                Some(expect)
            );
        }
        assert_eq!(forwarded_for(&headers, 3), None);
    }
}
