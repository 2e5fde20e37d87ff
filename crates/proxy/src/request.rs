//! What a connection manager does to the heads of requests and responses, before and after routing.
//!
//! Source of the rules: Envoy's page "HTTP header manipulation" and `HttpConnectionManager`'s fields; the order of the
//! steps is Envoy's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lateen_dataplane::head::{Headers, RequestHead, ResponseHead, Scheme};
use lateen_dataplane::http_protocol::AddressDetection;
use lateen_dataplane::listener::{HttpConnectionManager, ServerHeader, StripPort};
use lateen_dataplane::path::{self, PathOutcome};
use lateen_dataplane::proxy_status::ProxyStatus;
use lateen_dataplane::route::without_port;

use crate::client_cert;
use crate::router::{Exchange, LocalReply};
use crate::worker::Worker;

/// Headers by which proxies of ours speak to each other; nobody from outside may send them.
const INTERNAL_HEADERS: [&str; 14] = [
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
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
];

/// Headers that say who sends a request; nobody may at the edge.
const EDGE_HEADERS: [&str; 3] =
    ["x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node"];

/// Checks a client's head, makes it trustworthy, and finds the client's address. An error is the answer.
pub fn sanitize(exchange: &mut Exchange, is_tls: bool) -> Result<(), LocalReply> {
    let manager = Arc::clone(&exchange.runtime.config);
    let (shard, stats) = (Arc::clone(&exchange.worker.stats), exchange.runtime.stats);
    if exchange.missing_host {
        return Err(LocalReply::new(400, "", "missing_host_header"));
    }
    let target = exchange.head.path();
    if target.first().is_some_and(|first| *first != b'/') {
        shard.increment(stats.downstream_rq_non_relative_path);
        return Err(LocalReply::new(404, "", "absolute_path_rejected"));
    }
    match path::normalize(manager.path, target) {
        PathOutcome::Unchanged => {}
        PathOutcome::Changed(path) => exchange.head.set_path(path),
        // Clients of gRPC follow no redirects.
        PathOutcome::Redirect(location) if !exchange.head.is_grpc() => {
            shard.increment(stats.downstream_rq_redirected_with_normalized_path);
            exchange.head.set_path(&location);
            let mut reply = LocalReply::new(307, "", "path_normalization_failed");
            reply.headers.append("location", location);
            return Err(reply);
        }
        outcome @ (PathOutcome::Redirect(_) | PathOutcome::RejectAs(_) | PathOutcome::Reject) => {
            if let PathOutcome::Redirect(path) | PathOutcome::RejectAs(path) = outcome {
                exchange.head.set_path(path);
            }
            shard.increment(stats.downstream_rq_failed_path_normalization);
            return Err(LocalReply::new(400, "", "path_normalization_failed"));
        }
    }
    normalize_host(&manager, &mut exchange.head, exchange.connection.local);
    let remote = prepare(exchange, &manager, is_tls)?;
    exchange.info.downstream_remote_address = remote;
    Ok(())
}

/// The address of a client, and whether it may say that the client is inside.
type Detected = (Option<SocketAddr>, bool);

fn prepare(
    exchange: &mut Exchange,
    manager: &HttpConnectionManager,
    is_tls: bool,
) -> Result<Option<SocketAddr>, LocalReply> {
    let worker = std::rc::Rc::clone(&exchange.worker);
    let (peer, local) = (exchange.connection.remote, exchange.connection.local);
    for mutation in &manager.early_mutations {
        mutation.apply_to_request(&mut exchange.head, &exchange.info, &worker.state.hostname);
    }
    let head = &mut exchange.head;
    clean(&mut head.headers);
    let protocol = if is_tls { "https" } else { "http" };
    let (remote, trusted) = if manager.use_remote_address {
        edge_address(&worker, manager, &mut head.headers, peer, local, protocol)
    } else {
        match detect(&worker, manager, &mut head.headers, peer) {
            Ok(detected) => detected,
            Err(status) => {
                exchange
                    .worker
                    .stats
                    .increment(exchange.runtime.stats.downstream_rq_rejected_via_ip_detection);
                return Err(LocalReply::new(status, "", "rejected_via_ip_detection"));
            }
        }
    };
    if let Some(scheme) = manager.scheme {
        head.headers.set("x-forwarded-proto", scheme.as_str());
    } else if !head.headers.contains("x-forwarded-proto") {
        head.headers.append("x-forwarded-proto", protocol);
    }
    if manager.scheme.is_some() || !exchange.scheme_given {
        head.scheme = match head.headers.get("x-forwarded-proto") {
            Some(proto) if proto.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(proto) if proto.eq_ignore_ascii_case(b"http") => Scheme::Http,
            _ if is_tls => Scheme::Https,
            _ => Scheme::Http,
        };
    }
    let internal = trusted && manager.internal_addresses.contains(remote.map(|remote| remote.ip()));
    let edge = !internal && manager.use_remote_address;
    let headers = &mut head.headers;
    if internal {
        headers.set("x-envoy-internal", "true");
    } else {
        headers.retain(|name, _| {
            // Few requests have any of them, and those that do share a prefix.
            !name.starts_with(b"x-envoy-")
                || !(INTERNAL_HEADERS.iter().any(|other| other.as_bytes() == name)
                    || edge && EDGE_HEADERS.iter().any(|other| other.as_bytes() == name))
        });
    }
    exchange.internal = internal;
    if manager.add_user_agent {
        let node = &worker.state.node;
        headers.set("x-envoy-downstream-service-cluster", &*node.cluster);
        if headers.get("user-agent").is_none_or(<[u8]>::is_empty) {
            headers.set("user-agent", &*node.cluster);
        }
        if !node.id.is_empty() {
            headers.set("x-envoy-downstream-service-node", &*node.id);
        }
    }
    if let Some(via) = &manager.via {
        append_list(headers, "via", via, ", ");
    }
    if edge && let Some(remote) = remote {
        headers.set("x-envoy-external-address", remote.ip().to_string());
    }
    request_id(&worker, manager, headers, edge);
    let (mode, details) = (manager.forward_client_cert, manager.client_cert_details);
    client_cert::forward(mode, details, headers, exchange.connection.tls.as_deref());
    Ok(remote.or(peer))
}

/// Removes what concerns one connection or could be understood in two ways.
fn clean(headers: &mut Headers) {
    headers.remove("x-envoy-internal");
    if headers.contains("te") {
        // What else a client would take is between it and us.
        let trailers = headers.has_token("te", "trailers");
        headers.remove("te");
        if trailers {
            headers.append("te", "trailers");
        }
    }
    if headers.get_all(b"referer").nth(1).is_some() {
        headers.remove("referer");
    }
}

/// We are the edge: our peer is the client, unless proxies of ours are before us.
fn edge_address(
    worker: &Worker,
    manager: &HttpConnectionManager,
    headers: &mut Headers,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    protocol: &str,
) -> Detected {
    let trusted = !headers.contains("x-forwarded-for");
    let mut remote = None;
    if manager.trusted_hops > 0 {
        remote = last_forwarded(headers, manager.trusted_hops - 1).0;
    }
    if !manager.skip_forwarded_for_append {
        append_forwarded(worker, headers, peer);
    }
    if manager.trusted_hops == 0 || !headers.contains("x-forwarded-proto") {
        headers.set("x-forwarded-proto", protocol);
    }
    if manager.append_forwarded_port
        && (manager.trusted_hops == 0 || !headers.contains("x-forwarded-port"))
        && let Some(local) = local
    {
        headers.set("x-forwarded-port", local.port().to_string());
    }
    (remote.or(peer), trusted)
}

fn append_forwarded(worker: &Worker, headers: &mut Headers, peer: Option<SocketAddr>) {
    let Some(peer) = peer else { return };
    // A peer on this machine is known elsewhere by the machine's address.
    let address = if peer.ip().is_loopback() { worker.state.local_address } else { peer.ip() };
    append_list(headers, "x-forwarded-for", &address.to_string(), ",");
}

/// Somebody before us is the edge and says who the client is. The error is the status of a refusal.
fn detect(
    worker: &Worker,
    manager: &HttpConnectionManager,
    headers: &mut Headers,
    peer: Option<SocketAddr>,
) -> Result<Detected, u16> {
    for detection in &manager.detection {
        let detected = match detection {
            AddressDetection::ForwardedFor { trusted, skip_append, .. } if !trusted.is_empty() => {
                let inside = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
                let found = match peer {
                    Some(peer) if inside(peer.ip()) => (first_foreign(headers, inside), false),
                    _ => (None, false),
                };
                if !skip_append {
                    append_forwarded(worker, headers, peer);
                }
                found
            }
            AddressDetection::ForwardedFor { hops, skip_append, .. } => {
                let found = last_forwarded(headers, *hops);
                if !skip_append {
                    append_forwarded(worker, headers, peer);
                }
                found
            }
            AddressDetection::Header { name, trusted, reject } => {
                let found = headers.get(name).and_then(parse_address);
                if let (None, Some(status)) = (found, reject) {
                    return Err(*status);
                }
                (found, *trusted)
            }
        };
        if detected.0.is_some() {
            return Ok(detected);
        }
    }
    Ok((peer, false))
}

fn parse_address(text: &[u8]) -> Option<SocketAddr> {
    let address: IpAddr = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    Some(SocketAddr::new(address, 0))
}

/// Entries of `x-forwarded-for` from the last, over all its fields.
fn forwarded_entries(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    let mut fields: Vec<&[u8]> = headers.get_all(b"x-forwarded-for").collect();
    fields.reverse();
    fields.into_iter().flat_map(|field| field.rsplit(|byte| *byte == b','))
}

/// The entry that is `hops` before the last one, and whether it is the only one.
fn last_forwarded(headers: &Headers, hops: u32) -> Detected {
    if !headers.contains("x-forwarded-for") {
        return (None, false);
    }
    let found = forwarded_entries(headers).nth(hops as usize).and_then(parse_address);
    (found, forwarded_entries(headers).nth(1).is_none())
}

/// The last entry that is not one of ours.
fn first_foreign(headers: &Headers, inside: impl Fn(IpAddr) -> bool) -> Option<SocketAddr> {
    let mut last = None;
    for entry in forwarded_entries(headers) {
        let address = parse_address(entry)?;
        if !inside(address.ip()) {
            return Some(address);
        }
        last = Some(address);
    }
    last
}

/// Appends to a field that is a list, all fields of that name becoming one.
pub(crate) fn append_list(headers: &mut Headers, name: &str, value: &str, separator: &str) {
    if !headers.contains(name) {
        return headers.append(name, value);
    }
    let mut list: Vec<u8> = Vec::new();
    for part in headers.get_all(name.as_bytes()) {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(part);
    }
    list.extend_from_slice(separator.as_bytes());
    list.extend_from_slice(value.as_bytes());
    headers.set(name, list);
}

fn normalize_host(manager: &HttpConnectionManager, head: &mut RequestHead, local: Option<SocketAddr>) {
    if manager.strip_trailing_dot {
        let authority = head.authority();
        let host = without_port(authority);
        if let Some(bare) = host.strip_suffix(b".") {
            let stripped = [bare, &authority[host.len()..]].concat();
            head.set_authority(stripped);
        }
    }
    if manager.strip_port == StripPort::Never {
        return;
    }
    let authority = head.authority();
    let host = without_port(authority);
    let port =
        authority.get(host.len() + 1..).and_then(|port| std::str::from_utf8(port).ok()?.parse::<u16>().ok());
    if port.is_some() && (manager.strip_port == StripPort::Any || port == local.map(|local| local.port())) {
        let host = host.to_vec();
        head.set_authority(host);
    }
}

fn request_id(worker: &Worker, manager: &HttpConnectionManager, headers: &mut Headers, edge: bool) {
    let foreign = edge && !manager.preserve_external_request_id;
    if !manager.generate_request_id || (headers.contains("x-request-id") && !foreign) {
        return;
    }
    let bytes = (u128::from(worker.random()) << 64) | u128::from(worker.random());
    let id = uuid::Builder::from_random_bytes(bytes.to_ne_bytes()).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    headers.set("x-request-id", id.hyphenated().encode_lower(&mut text));
}

/// Finishes a response's head for the client.
pub fn finish_response(exchange: &Exchange, head: &mut ResponseHead) {
    let (worker, manager, request) = (&exchange.worker, &exchange.runtime.config, &exchange.head);
    if !head.headers.contains("date") {
        worker.with_date(|date| head.headers.append("date", date));
    }
    match manager.server_header {
        ServerHeader::Overwrite => head.headers.set("server", manager.server_name.as_bytes()),
        ServerHeader::AppendIfAbsent if !head.headers.contains("server") => {
            head.headers.append("server", manager.server_name.as_bytes());
        }
        _ => {}
    }
    // A request whose trace somebody inside asked for is to be found again.
    if (manager.request_id_in_response || request.headers.contains("x-envoy-force-trace"))
        && let Some(id) = request.headers.get("x-request-id")
    {
        head.headers.set("x-request-id", id);
    }
    if let Some(via) = &manager.via {
        append_list(&mut head.headers, "via", via, ", ");
    }
    if let Some(status) = &manager.proxy_status {
        tell_status(exchange, status, head);
    }
}

/// Tells in `proxy-status` what went wrong, if anything did.
fn tell_status(exchange: &Exchange, config: &ProxyStatus, head: &mut ResponseHead) {
    let (server, node) = (&exchange.runtime.config.server_name, &exchange.worker.state.node.id);
    let Some((field, recommended)) = config.field(&exchange.info, server, node) else { return };
    append_list(&mut head.headers, "proxy-status", &String::from_utf8_lossy(&field), ", ");
    if config.recommended_status {
        head.status = recommended;
    }
}

/// The address by which others know this machine: the first that is not a loopback one.
pub fn machine_address() -> IpAddr {
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|address| !address.is_loopback())
        .map_or(std::net::Ipv4Addr::LOCALHOST.into(), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trusted_hop_counts_from_the_end() {
        let headers: Headers =
            [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "3.3.3.3")].into_iter().collect();
        for (hops, expect) in [(0, Some("3.3.3.3")), (1, Some("2.2.2.2")), (2, Some("1.1.1.1")), (3, None)] {
            let (address, single) = last_forwarded(&headers, hops);
            let text = address.map(|address| address.ip().to_string());
            assert_eq!((text.as_deref(), single), (expect, false), "{hops}");
        }
        let one: Headers = [("x-forwarded-for", "::1")].into_iter().collect();
        assert_eq!(last_forwarded(&one, 0), (Some("[::1]:0".parse().unwrap()), true));
        for text in ["junk", "1.1.1.1:80", ""] {
            let headers: Headers = [("x-forwarded-for", text)].into_iter().collect();
            assert_eq!(last_forwarded(&headers, 0).0, None, "{text}");
        }
    }

    #[test]
    fn own_networks_are_passed_over() {
        let inside = |address: IpAddr| address.to_string().starts_with("10.");
        for (name, list, expect) in [
            ("one of ours", "1.1.1.1,10.0.0.1", Some("1.1.1.1")),
            ("two of ours", "1.1.1.1, 10.0.0.2, 10.0.0.1", Some("1.1.1.1")),
            ("a liar", "1.1.1.1,2.2.2.2,10.0.0.1", Some("2.2.2.2")),
            ("only ours", "10.0.0.2,10.0.0.1", Some("10.0.0.2")),
            ("no address", "1.1.1.1,what,10.0.0.1", None),
        ] {
            let headers: Headers = [("x-forwarded-for", list)].into_iter().collect();
            let found = first_foreign(&headers, inside).map(|address| address.ip().to_string());
            assert_eq!(found.as_deref(), expect, "{name}");
        }
    }

    #[test]
    fn lists_become_one_field() {
        let mut headers: Headers = [("via", "a"), ("x", "y"), ("via", "b")].into_iter().collect();
        append_list(&mut headers, "via", "c", ", ");
        assert_eq!(headers, [("via", "a,b, c"), ("x", "y")].into_iter().collect());
    }

    #[test]
    fn te_names_trailers_or_nothing() {
        for (value, expect) in [("trailers, gzip", Some("trailers")), ("gzip", None)] {
            let mut headers: Headers = [("te", value)].into_iter().collect();
            clean(&mut headers);
            assert_eq!(headers.get_str("te"), expect);
        }
    }
}
