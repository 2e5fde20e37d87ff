//! What a route changes of a request's head before it is sent.

use std::sync::Arc;
use std::time::Duration;

use lateen_dataplane::head::RequestHead;
use lateen_dataplane::route::{Forward, Found, HostRewrite, RouteTable, WeightedCluster};

use crate::router::Exchange;

/// The number of milliseconds that a header says.
pub(super) fn header_millis(head: &RequestHead, name: &str) -> Option<Duration> {
    head.headers.get_str(name)?.trim().parse().ok().map(Duration::from_millis)
}

/// What the route changes of the head.
pub(super) fn prepare_head(
    exchange: &mut Exchange,
    found: &Found,
    table: Option<&RouteTable>,
    action: &Forward,
) {
    let state = Arc::clone(&exchange.worker.state);
    let suppress = exchange.runtime.filters.router.suppress_envoy_headers;
    let entry = found.weighted();
    let levels = [
        entry.map(|entry| &entry.mutations),
        Some(&*found.route.mutations),
        Some(&*found.virtual_host.mutations),
        table.map(|table| &*table.mutations),
    ];
    for mutations in levels.into_iter().flatten().filter(|mutations| !mutations.is_empty()) {
        mutations.apply_to_request(&mut exchange.head, &exchange.info, &state.hostname);
    }
    let head = &mut exchange.head;
    rewrite_path(head, found, action, suppress);
    rewrite_host(head, action, entry);
    if let Some(timeout) = action.timeout.filter(|_| !suppress) {
        head.headers.set("x-envoy-expected-rq-timeout-ms", timeout.as_millis().to_string());
    }
}

fn rewrite_path(head: &mut RequestHead, found: &Found, action: &Forward, suppress: bool) {
    let Some(rewrite) = &action.path else { return };
    let path = rewrite.apply(&found.route.matcher, head.path());
    if path != head.path() {
        let original = head.path().to_vec();
        head.set_path(path);
        if !suppress {
            head.headers.set("x-envoy-original-path", original);
        }
    }
}

/// The automatic rewrite is not here: it needs the host that is chosen.
fn rewrite_host(head: &mut RequestHead, action: &Forward, entry: Option<&WeightedCluster>) {
    let literal = entry.and_then(|entry| entry.host_rewrite.as_deref());
    let host = match (literal, &action.host) {
        (Some(host), _) => Some(host.to_vec()),
        (None, Some(HostRewrite::Literal(host))) => Some(host.to_vec()),
        (None, Some(HostRewrite::Header(name))) => head.field(name).map(<[u8]>::to_vec),
        (None, Some(HostRewrite::PathRegex(regex, text))) => {
            Some(regex.replace_all(head.path_only(), &text[..]).into_owned())
        }
        _ => None,
    };
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        if action.append_forwarded_host {
            let original = head.authority().to_vec();
            head.headers.append("x-forwarded-host", original);
        }
        head.set_authority(host);
    }
}
